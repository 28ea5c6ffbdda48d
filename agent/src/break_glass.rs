//! The break-glass file: how root at the node lets pass what is gated, for when the
//! controller is dead.
//!
//! ```toml
//! reason = "the controller's host burnt, ticket 4711"
//! expires = 2027-03-01T18:00:00Z
//! ```
//!
//! **Invariant:** the file counts only when nobody but root can have written it: it
//! is a regular file of root's that no group and no other may write, and so is every
//! folder on the way to it. (A folder with the sticky bit, such as `/tmp`, may lie
//! above the file's own.) It lasts at most [`BREAK_GLASS_MAX`] from when it was
//! written, so that it is not forgotten.
//!
//! A file that does not count changes nothing; the agent's log, its status and
//! `flotilla-agent doctor` say why.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::time::{UnixMillis, millis};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::gate::{BREAK_GLASS_MAX, BreakGlass};
use crate::node::task::{CoreGone, StoreHandle};

/// Pause between two looks at the file. Whoever wrote it waits no longer than this,
/// and looking costs one call.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Bytes that are read of the file.
const BYTES_MAX: u64 = 4096;

/// Bytes of a reason; it travels in the control stream.
const REASON_BYTES_MAX: usize = 640;

/// Root.
const OWNER: u32 = 0;

const GROUP_OR_OTHER_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a file that is there does not count.
#[derive(Debug, thiserror::Error)]
pub enum BreakGlassError {
    /// It, or a folder above it, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone else than root can have written it.
    #[error("{} {problem}", path.display())]
    Open {
        /// The file, or a folder above it.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// It does not say what it must.
    #[error("{} {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    reason: String,
    expires: toml::value::Datetime,
}

/// Reads the file; none when there is none.
///
/// # Errors
/// [`BreakGlassError`] when it does not count. One whose time is over is an error
/// too.
pub fn read(path: &Path, now: UnixMillis) -> Result<Option<BreakGlass>, BreakGlassError> {
    read_of(OWNER, path, now)
}

/// As [`read`], for files of `owner`: root, but in tests.
fn read_of(
    owner: u32,
    path: &Path,
    now: UnixMillis,
) -> Result<Option<BreakGlass>, BreakGlassError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(content(path, "names no file"));
    };
    let folder = match folder.canonicalize() {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unread(folder, source)),
    };
    let path = folder.join(name);
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unread(&path, source)),
    }
    for above in folder.ancestors() {
        let meta = above
            .symlink_metadata()
            .map_err(|source| unread(above, source))?;
        let sticky = above != folder && meta.mode() & STICKY != 0;
        check_writers(owner, above, &meta, sticky)?;
    }
    // Whoever could exchange the file now is root. A pipe must not hold the agent.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(&path)
        .map_err(|source| unread(&path, source))?;
    let meta = file.metadata().map_err(|source| unread(&path, source))?;
    if !meta.is_file() {
        return Err(BreakGlassError::Open {
            problem: "is not a regular file".to_owned(),
            path,
        });
    }
    check_writers(owner, &path, &meta, false)?;
    let mut text = String::new();
    file.take(BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| unread(&path, source))?;
    let written = meta.modified().map_or(UnixMillis(0), unix);
    parse(&path, &text, written, now).map(Some)
}

fn unread(path: &Path, source: io::Error) -> BreakGlassError {
    BreakGlassError::Read {
        path: path.to_owned(),
        source,
    }
}

fn content(path: &Path, problem: impl Into<String>) -> BreakGlassError {
    BreakGlassError::Content {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn check_writers(
    owner: u32,
    path: &Path,
    meta: &Metadata,
    sticky: bool,
) -> Result<(), BreakGlassError> {
    let problem = if meta.uid() != owner && meta.uid() != OWNER {
        format!("belongs to user {}, not to root", meta.uid())
    } else if meta.mode() & GROUP_OR_OTHER_WRITE != 0 && !sticky {
        let mode = meta.mode() & 0o7777;
        format!("has mode {mode:o}: others than root may write it")
    } else {
        return Ok(());
    };
    Err(BreakGlassError::Open {
        path: path.to_owned(),
        problem,
    })
}

fn parse(
    path: &Path,
    text: &str,
    written: UnixMillis,
    now: UnixMillis,
) -> Result<BreakGlass, BreakGlassError> {
    let raw: Raw = toml::from_str(text)
        .map_err(|error| content(path, format!("is not understood: {}", error.message())))?;
    let reason = raw.reason.trim();
    if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
        let problem = format!("needs a reason of 1 to {REASON_BYTES_MAX} bytes");
        return Err(content(path, problem));
    }
    let until = humantime::parse_rfc3339(&raw.expires.to_string())
        .map(unix)
        .map_err(|_| {
            let form = "needs an expiry such as 2027-03-01T18:00:00Z";
            content(path, form)
        })?;
    if until <= now {
        return Err(content(path, format!("expired {until}")));
    }
    let longest = written.min(now).after(BREAK_GLASS_MAX);
    if until > longest {
        let problem = format!("expires {until}; at most 24 hours after it was written: {longest}");
        return Err(content(path, problem));
    }
    Ok(BreakGlass {
        reason: reason.to_owned(),
        until,
    })
}

fn unix(at: SystemTime) -> UnixMillis {
    UnixMillis(millis(at.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// What the task needs.
pub struct Context {
    /// The configuration in force, which names the file.
    pub config: watch::Receiver<Arc<Config>>,
    /// Learns what the file says.
    pub core: StoreHandle,
    /// The node's clock.
    pub clock: Clock,
    /// Why a file that is there does not count, for the status.
    pub problem: watch::Sender<Option<String>>,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// Looks at the file until it is stopped.
///
/// # Errors
/// When the core has stopped.
pub async fn run(context: Context) -> Result<(), CoreGone> {
    let mut held = None;
    loop {
        let path = context.config.borrow().gate.break_glass_file.clone();
        let (found, problem) = match read(&path, context.clock.wall()) {
            Ok(found) => (found, None),
            Err(error) => (None, Some(crate::chain(&error))),
        };
        let said = context.problem.send_if_modified(|held| {
            let changed = *held != problem;
            held.clone_from(&problem);
            changed
        });
        if said && let Some(problem) = problem {
            tracing::warn!(problem, "the break-glass file does not count");
        }
        if found != held {
            match &found {
                Some(BreakGlass { reason, until }) => {
                    tracing::warn!(reason, %until, "a break-glass file lets pass what is gated");
                }
                None => tracing::warn!("the break-glass file does not count any more"),
            }
            held.clone_from(&found);
            let told = context.core.break_glass(found).await;
            if told.is_err() && !context.stop.is_cancelled() {
                return Err(CoreGone);
            }
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests;
