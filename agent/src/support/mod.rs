//! The support bundle: one archive with what helps to find out what is wrong.
//!
//! **Invariant:** no secret is in it, by construction. Files are gathered from a
//! list, and no file of the identity is on it; the configuration is printed from
//! its checked form, which names the files that hold secrets and never their
//! contents; and every text passes through [`protocol::secret::redact`] besides.
//! The archive itself is for its owner alone (0600), and replaces nothing.
//!
//! What cannot be gathered is said in its place; it fails only when the archive
//! cannot be written ([`SupportError`]).

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::secret::redact;
use protocol::time::UnixMillis;

use crate::chain;
use crate::doctor::{self, Subject};
use crate::exit::Exit;
use crate::status;

/// Log lines taken from the journal.
const JOURNAL_LINES: &str = "5000";

/// Time that journalctl has, in seconds, as coreutils' timeout reads it.
const JOURNAL_SECONDS: &str = "20";

/// Bytes taken from the end of the agent's own log file.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Files listed of one directory, so that a directory gone wild stays short.
const LISTED_MAX: usize = 1000;

const README: &str = "\
Support bundle of a Flotilla agent.

versions.txt  the agent, the kernel, the distribution
config.txt    the checked configuration; secrets are in files that are not here
doctor.txt    what 'flotilla-agent doctor' found
status.json   what the running agent says of itself
files.txt     names, sizes and modes in the state and runtime directories
journal.txt   the agent's last lines in the system's journal
log.txt       the end of the agent's own log file, where it has one

Keys, certificates and stored data are not in here. What looks like a secret in
a text was replaced by [redacted].
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
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Create { .. } | Self::Write { .. } => Exit::CannotCreate,
        }
    }
}

/// Where a bundle goes when nobody says.
#[must_use]
pub fn default_output(now: UnixMillis) -> PathBuf {
    let time: String = now
        .to_string()
        .chars()
        .take_while(|c| *c != '.')
        .filter(|c| *c != ':' && *c != '-')
        .collect();
    PathBuf::from(format!("flotilla-agent-support-{time}.tar.gz"))
}

/// Gathers and writes a bundle. Takes some seconds where something does not
/// answer.
///
/// # Errors
/// [`SupportError`] when the archive cannot be made or written.
pub fn write(subject: &Subject, output: &Path) -> Result<(), SupportError> {
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

fn pack(file: File, subject: &Subject) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in gather(subject) {
        let text = redact(&text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(subject.now.0 / 1000);
        let path = format!("flotilla-agent-support/{name}");
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

fn gather(subject: &Subject) -> Vec<(&'static str, String)> {
    let mut entries = vec![
        ("README.txt", README.to_owned()),
        ("versions.txt", versions()),
        ("config.txt", configuration(subject)),
        ("doctor.txt", doctor_text(subject)),
        ("status.json", status_text(subject)),
        ("files.txt", files(subject)),
        ("journal.txt", journal()),
    ];
    if let Some(log) = own_log(subject) {
        entries.push(("log.txt", log));
    }
    entries
}

fn versions() -> String {
    let name = rustix::system::uname();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    format!(
        "agent {} ({})\nkernel {} {}\nsystem {system}\n",
        crate::program::version(),
        std::env::consts::ARCH,
        name.release().to_string_lossy(),
        name.version().to_string_lossy(),
    )
}

/// Problems of a configuration quote its values, and a value may be a secret in
/// the wrong place: they are not copied.
fn configuration(subject: &Subject) -> String {
    match &subject.config {
        Ok(config) => format!("{config:#?}\n"),
        Err(_) => {
            "the configuration does not load; 'flotilla-agent config check' says why\n".into()
        }
    }
}

fn doctor_text(subject: &Subject) -> String {
    let mut report = doctor::examine(subject);
    if subject.config.is_err() {
        for check in report
            .checks
            .iter_mut()
            .filter(|check| check.name == "config")
        {
            "does not load".clone_into(&mut check.detail);
        }
    }
    report.table()
}

fn status_text(subject: &Subject) -> String {
    match status::fetch(&subject.dirs.socket()) {
        Ok(status) => serde_json::to_string_pretty(&status).unwrap_or_default(),
        Err(error) => chain(&error),
    }
}

/// Names, sizes and modes; never contents.
fn files(subject: &Subject) -> String {
    let dirs = &subject.dirs;
    let mut text = String::new();
    for folder in [&dirs.state, &dirs.identity(), &dirs.runtime] {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{}:", folder.display());
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                let _written = writeln!(text, "  {error}");
                continue;
            }
        };
        let mut lines: Vec<String> = entries
            .filter_map(Result::ok)
            .take(LISTED_MAX)
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                let mode = meta.permissions().mode();
                let name = entry.file_name();
                Some(format!(
                    "  {mode:o} {:>12} {}",
                    meta.len(),
                    name.to_string_lossy()
                ))
            })
            .collect();
        lines.sort();
        let _written = writeln!(text, "{}", lines.join("\n"));
    }
    text
}

fn journal() -> String {
    let asked = Command::new("timeout")
        .args([JOURNAL_SECONDS, "journalctl", "--no-pager", "--quiet"])
        .args(["--output=short-iso", "--utc", "--lines", JOURNAL_LINES])
        .arg("--unit=flotilla-agent.service")
        .stdin(Stdio::null())
        .output();
    match asked {
        Ok(said) if said.stdout.is_empty() => {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            format!("the journal has nothing of the agent\n{why}")
        }
        Ok(said) => String::from_utf8_lossy(&said.stdout).into_owned(),
        Err(error) => format!("the journal cannot be read: {error}\n"),
    }
}

fn own_log(subject: &Subject) -> Option<String> {
    let path = subject.config.as_ref().ok()?.command.own_log.as_ref()?;
    Some(tail(path).unwrap_or_else(|error| format!("cannot read {}: {error}\n", path.display())))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
