//! The controller's support bundle: one archive with what helps to find out
//! what is wrong.
//!
//! **Invariant:** no secret is in it, by construction: keys, stores and journals
//! are listed by name and size and never read, the configuration is printed from
//! its checked form, which names the files that hold secrets and never their
//! contents, and every text passes through [`protocol::secret::redact`] besides.
//! The archive itself is for its owner alone (0600), and replaces nothing.
//!
//! What cannot be gathered is said in its place; it fails only when the archive
//! cannot be written ([`SupportError`]).

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::secret::redact;
use protocol::time::UnixMillis;

use crate::config::Config;
use crate::exit::Exit;

/// Log lines taken from the journal of each unit.
const JOURNAL_LINES: &str = "10000";

/// Time that journalctl has, in seconds, as coreutils' timeout reads it.
const JOURNAL_SECONDS: &str = "30";

/// Files listed in all, so that a directory gone wild stays short.
const LISTED_MAX: usize = 5000;

/// How deep directories are listed below the state directory: series keep a
/// file for each part of time below their own.
const DEPTH_MAX: usize = 4;

/// Bytes kept of one answer of the controller; the newest lines of a text are
/// the last.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

const README: &str = "\
Support bundle of a Flotilla controller.

versions.txt   the controller, the kernel, the distribution
config.txt     the checked configuration; secrets are in files that are not here
disk.txt       room on the state directory's filesystem
files.txt      names, sizes and modes below the state directory
journal.txt    the controller's last lines in the system's journal
answers/*      what the running controller says of itself (health, metrics, ...)

Keys, certificates, the fleet's journal and stored metrics are not in here. What
looks like a secret in a text was replaced by [redacted].
";

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum SupportError {
    /// The archive cannot be made, or is there already.
    #[error("cannot make {path:?}")]
    Create {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SupportError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Create { .. } | Self::Write { .. } => Exit::CannotCreate,
        }
    }
}

/// What a running controller answered, such as its health or its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Name of the file in the bundle: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// The answer, or why there is none.
    pub text: String,
}

/// What a bundle is gathered from.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The controller's configuration; none where only an operator's profile is,
    /// or where it does not load.
    pub config: Option<&'a Config>,
    /// What the running controller answered to whoever asks for the bundle.
    pub answers: &'a [Answer],
    /// The host's clock.
    pub now: UnixMillis,
}

/// Where a bundle goes when nobody says.
pub fn default_output(now: UnixMillis) -> PathBuf {
    let time: String = now
        .to_string()
        .chars()
        .take_while(|c| *c != '.')
        .filter(|c| *c != ':' && *c != '-')
        .collect();
    PathBuf::from(format!("flotilla-support-{time}.tar.gz"))
}

/// Gathers and writes a bundle.
///
/// # Errors
/// [`SupportError`] when the archive cannot be made or written.
pub fn write(subject: &Subject<'_>, output: &Path) -> Result<(), SupportError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(output)
        .map_err(|source| SupportError::Create {
            path: output.to_owned(),
            source,
        })?;
    let written = pack(file, subject);
    if written.is_err() {
        // Half an archive helps nobody. Its own error is the one to tell.
        let _removed = fs::remove_file(output);
    }
    written.map_err(|source| SupportError::Write {
        path: output.to_owned(),
        source,
    })
}

fn pack(file: File, subject: &Subject<'_>) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in gather(subject) {
        let text = redact(&text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(subject.now.0 / 1000);
        archive.append_data(
            &mut header,
            format!("flotilla-support/{name}"),
            text.as_bytes(),
        )?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

fn gather(subject: &Subject<'_>) -> Vec<(String, String)> {
    let mut entries = vec![
        ("README.txt", README.to_owned()),
        ("versions.txt", versions()),
        ("journal.txt", journal()),
    ];
    match subject.config {
        Some(config) => {
            entries.push(("config.txt", format!("{config:#?}\n")));
            entries.push(("disk.txt", disk(&config.state_dir)));
            entries.push(("files.txt", files(&config.state_dir)));
        }
        // Problems of a configuration quote its values, and a value may be a
        // secret in the wrong place: they are not copied.
        None => entries.push((
            "config.txt",
            "no configuration of a controller loads here\n".to_owned(),
        )),
    }
    let own = entries
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text));
    let answers = subject.answers.iter().map(|answer| {
        let name = format!("answers/{}", file_name(&answer.name));
        (name, newest(&answer.text).to_owned())
    });
    own.chain(answers).collect()
}

/// A name that cannot leave its folder in the archive.
fn file_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .take(100)
        .collect();
    let plain = plain.trim_start_matches('.');
    if plain.is_empty() {
        "answer".to_owned()
    } else {
        plain.to_owned()
    }
}

/// The end of a text, from the beginning of a line.
fn newest(text: &str) -> &str {
    let mut start = text.len().saturating_sub(ANSWER_BYTES_MAX);
    if start > 0 {
        let bytes = text.as_bytes().iter().skip(start);
        start += bytes.take_while(|byte| **byte != b'\n').count();
    }
    text.get(start..).unwrap_or_default()
}

fn versions() -> String {
    let name = rustix::system::uname();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    format!(
        "controller {} ({})\nkernel {} {}\nsystem {system}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        name.release().to_string_lossy(),
        name.version().to_string_lossy(),
    )
}

fn disk(folder: &Path) -> String {
    match rustix::fs::statvfs(folder) {
        Ok(stat) => format!(
            "{}: {} of {} bytes free, {} of {} files free\n",
            folder.display(),
            stat.f_bavail.saturating_mul(stat.f_frsize),
            stat.f_blocks.saturating_mul(stat.f_frsize),
            stat.f_favail,
            stat.f_files,
        ),
        Err(error) => format!("{}: {error}\n", folder.display()),
    }
}

/// Names, sizes and modes; never contents.
fn files(folder: &Path) -> String {
    let mut lines = Vec::new();
    list(folder, 0, &mut lines);
    if lines.len() >= LISTED_MAX {
        lines.push(format!("... and more than these {LISTED_MAX}"));
    }
    lines.join("\n") + "\n"
}

fn list(folder: &Path, depth: usize, lines: &mut Vec<String>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            lines.push(format!("{}: {error}", folder.display()));
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths {
        if lines.len() >= LISTED_MAX {
            return;
        }
        // A link is listed as one, never followed.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let mut line = String::new();
        // Writing to a string cannot fail.
        let _written = write!(
            line,
            "{:o} {:>14} {}",
            meta.permissions().mode(),
            meta.len(),
            path.display()
        );
        lines.push(line);
        if meta.is_dir() && depth < DEPTH_MAX {
            list(&path, depth + 1, lines);
        }
    }
}

fn journal() -> String {
    let asked = Command::new("timeout")
        .args([JOURNAL_SECONDS, "journalctl", "--no-pager", "--quiet"])
        .args(["--output=short-iso", "--utc", "--lines", JOURNAL_LINES])
        .arg("--unit=flotilla.service")
        .stdin(Stdio::null())
        .output();
    match asked {
        Ok(said) if said.stdout.is_empty() => {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            format!("the journal has nothing of the controller\n{why}")
        }
        Ok(said) => String::from_utf8_lossy(&said.stdout).into_owned(),
        Err(error) => format!("the journal cannot be read: {error}\n"),
    }
}
