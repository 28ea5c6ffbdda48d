//! The end of a log file, and what is added to it.
//!
//! Reading happens on a blocking thread, so a filesystem that hangs costs its
//! own slot only. **Invariant:** at most [`SCAN_BYTES_MAX`] are read to find
//! the last lines, and at most the output limit is kept; a file that is
//! replaced or truncated while it is followed is followed from its new
//! beginning.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::OutputStream;
use protocol::time::UnixMillis;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Query;
use crate::command::capture::{Capture, Fitted, MARK_BYTES_MAX, fit, mark};
use crate::command::confine::{self, ConfineError, LogRoot};
use crate::command::ending::{Ending, Stopped};
use crate::command::progress::Progress;
use crate::command::task::Context;

/// Bytes searched backwards for the last lines: ten thousand lines of 400
/// bytes. Lines chosen by age are held in memory for a moment, so more would
/// show in the agent's memory.
const SCAN_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One read, in bytes.
const BLOCK_BYTES: usize = 64 * 1024;

/// How often a followed file is looked at.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum ReadFileError {
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no line of {0:?} begins with an RFC 3339 time, so lines cannot be chosen by age")]
    NoTimes(PathBuf),
    #[error("reading {0:?} was given up by its thread")]
    Thread(PathBuf),
}

impl ReadFileError {
    fn ending(&self) -> Ending {
        match self {
            Self::Confine(ConfineError::Missing(_) | ConfineError::Open { .. })
            | Self::Read { .. }
            | Self::Thread(_)
            | Self::NoTimes(_) => Ending::failed(ErrorCode::LogUnavailable, self),
            Self::Confine(
                ConfineError::NotPlain(_)
                | ConfineError::OutsideRoots(_)
                | ConfineError::Link(_)
                | ConfineError::NotRegular(_),
            ) => Ending::refused(ErrorCode::PathForbidden, self),
        }
    }
}

/// A file that an operator names, below one of the roots.
pub(super) async fn read(context: &mut Context, path: &str, query: Query) -> Ending {
    let source = Source {
        reach: Reach::Roots(context.settings.log_roots.clone()),
        path: PathBuf::from(path),
    };
    copy(context, source, query).await
}

/// A file that the node's own configuration names.
pub(super) async fn read_own(context: &mut Context, path: PathBuf, query: Query) -> Ending {
    let source = Source {
        reach: Reach::Configured,
        path,
    };
    copy(context, source, query).await
}

async fn copy(context: &mut Context, source: Source, query: Query) -> Ending {
    let limit = context.bounds.output_bytes_max;
    let end = End {
        deadline: Instant::now() + context.bounds.timeout,
        stop: context.stop.clone(),
    };
    let not_before = query.since.map(|age| context.clocks.wall().before(age));
    let work = source.blocking(move |source| source.tail(query.lines, not_before, limit as u64));
    let (tail, place) = match end.or(work).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return error.ending(),
        Err(stopped) => return Ending::stopped(stopped, Fitted::default()),
    };
    let mut kept = Capture::new(limit);
    kept.push(&tail.text);
    let stopped = if query.follow {
        context.progress.push(OutputStream::Stdout, &tail.text);
        context.progress.flush();
        match follow(&source, place, &end, &mut kept, &mut context.progress).await {
            Ok(stopped) => Some(stopped),
            Err(error) => return error.ending(),
        }
    } else {
        None
    };
    let mut output = fit(kept, Capture::new(0), limit);
    output.cut += tail.cut;
    match stopped {
        Some(stopped) => Ending::stopped(stopped, output),
        None if tail.complete => Ending::succeeded("", output),
        None => Ending::succeeded(
            format!("only the last {SCAN_BYTES_MAX} bytes were searched for lines"),
            output,
        ),
    }
}

/// Shows what is added until the end.
async fn follow(
    source: &Source,
    mut place: Place,
    end: &End,
    kept: &mut Capture,
    progress: &mut Progress,
) -> Result<Stopped, ReadFileError> {
    loop {
        if let Err(stopped) = end.or(tokio::time::sleep(POLL)).await {
            return Ok(stopped);
        }
        let work = source.blocking(move |source| source.added(place));
        let added = match end.or(work).await {
            Ok(added) => added?,
            Err(stopped) => return Ok(stopped),
        };
        place = added.1;
        kept.push(&added.0);
        progress.push(OutputStream::Stdout, &added.0);
        progress.flush();
    }
}

/// What ends a reading early.
struct End {
    deadline: Instant,
    stop: CancellationToken,
}

impl End {
    async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            done = work => Ok(done),
            () = tokio::time::sleep_until(self.deadline) => Err(Stopped::TimedOut),
            () = self.stop.cancelled() => Err(Stopped::Cancelled),
        }
    }
}

/// A file as it is asked for.
#[derive(Debug, Clone)]
struct Source {
    reach: Reach,
    path: PathBuf,
}

/// Who vouches for a path.
#[derive(Debug, Clone)]
enum Reach {
    /// Nobody: it must lie below one of these.
    Roots(Vec<LogRoot>),
    /// The node's own configuration.
    Configured,
}

/// The last lines.
#[derive(Debug)]
struct Tail {
    text: Vec<u8>,
    /// Bytes of those lines that the limit left out.
    cut: u64,
    /// Whether all the lines that were asked for were found, or the file has
    /// no more.
    complete: bool,
}

/// An open file and how far it was read.
#[derive(Debug)]
struct Place {
    file: File,
    at: u64,
}

impl Source {
    /// Works on a blocking thread. Given up, the work goes on there until the
    /// filesystem answers, and its result is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ReadFileError> + Send + 'static,
    ) -> Result<T, ReadFileError> {
        let source = self.clone();
        tokio::task::spawn_blocking(move || work(&source))
            .await
            .unwrap_or_else(|_| Err(ReadFileError::Thread(self.path.clone())))
    }

    fn open(&self) -> Result<File, ConfineError> {
        match &self.reach {
            Reach::Roots(roots) => confine::open(roots, &self.path),
            Reach::Configured => confine::open_named(&self.path),
        }
    }

    fn fail(&self, source: io::Error) -> ReadFileError {
        ReadFileError::Read {
            path: self.path.clone(),
            source,
        }
    }

    fn tail(
        &self,
        lines: u32,
        not_before: Option<UnixMillis>,
        limit: u64,
    ) -> Result<(Tail, Place), ReadFileError> {
        let file = self.open()?;
        let read = || -> io::Result<(Tail, u64)> {
            let end = file.metadata()?.len();
            let start = last_lines(&file, end, lines)?;
            let wanted = end - start;
            let whole = wanted <= limit || not_before.is_some();
            let keep = if whole {
                wanted
            } else {
                limit.saturating_sub(MARK_BYTES_MAX as u64)
            };
            let cut = wanted - keep;
            let mut text = if whole {
                Vec::new()
            } else {
                mark(cut).into_bytes()
            };
            text.extend(read_range(&file, end - keep, end)?);
            let complete = start == 0 || wanted < SCAN_BYTES_MAX;
            let tail = Tail {
                text,
                cut,
                complete,
            };
            Ok((tail, end))
        };
        let (mut tail, at) = read().map_err(|source| self.fail(source))?;
        if let Some(time) = not_before {
            let from = first_since(&tail.text, time)
                .ok_or_else(|| ReadFileError::NoTimes(self.path.clone()))?;
            tail.text.drain(..from);
        }
        Ok((tail, Place { file, at }))
    }

    /// What was added since. A file of the same name that is another one now
    /// is read from its beginning once the old one is read to its end.
    fn added(&self, place: Place) -> Result<(Vec<u8>, Place), ReadFileError> {
        let Place { mut file, mut at } = place;
        let old = file.metadata().map_err(|source| self.fail(source))?;
        if old.len() < at {
            at = 0;
        }
        if old.len() == at {
            match self.open() {
                Ok(newer) => {
                    let new = newer.metadata().map_err(|source| self.fail(source))?;
                    if (new.dev(), new.ino()) != (old.dev(), old.ino()) {
                        file = newer;
                        at = 0;
                    }
                }
                // Between the old file's renaming and the new one's creation.
                Err(ConfineError::Missing(_)) => {}
                // Rotation may also leave the old name in place under a second
                // one for a moment.
                Err(ConfineError::NotRegular(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let end = file.metadata().map_err(|source| self.fail(source))?.len();
        let stop = end.min(at + BLOCK_BYTES as u64);
        let added = read_range(&file, at.min(stop), stop).map_err(|source| self.fail(source))?;
        at += added.len() as u64;
        Ok((added, Place { file, at }))
    }
}

/// Where the last `lines` lines begin.
fn last_lines(file: &File, end: u64, lines: u32) -> io::Result<u64> {
    let floor = end.saturating_sub(SCAN_BYTES_MAX);
    let mut at = end;
    let mut breaks = 0u32;
    while at > floor {
        let from = at.saturating_sub(BLOCK_BYTES as u64).max(floor);
        let block = read_range(file, from, at)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let place = from + index as u64;
            // The break that ends the last line does not begin another.
            if *byte == b'\n' && place + 1 != end {
                breaks += 1;
                if breaks == lines {
                    return Ok(place + 1);
                }
            }
        }
        at = from;
    }
    Ok(floor)
}

fn read_range(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + filled as u64) {
            // Shorter than it was a moment ago.
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Where the first line begins whose time is not before `time`; the end when
/// all are older; none when no line has a time.
fn first_since(text: &[u8], time: UnixMillis) -> Option<usize> {
    let mut any = text.is_empty();
    let mut at = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if let Some(stamp) = stamp(line) {
            any = true;
            if stamp >= time {
                return Some(at);
            }
        }
        at += line.len();
    }
    any.then_some(text.len())
}

/// The RFC 3339 time that a line begins with; without a zone it is UTC.
fn stamp(line: &[u8]) -> Option<UnixMillis> {
    let word = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    let word = std::str::from_utf8(word).ok()?;
    let (seconds, rest) = word.split_at_checked(19)?;
    let base = humantime::parse_rfc3339_weak(&format!("{seconds}Z")).ok()?;
    let base = base.duration_since(std::time::UNIX_EPOCH).ok()?;
    let digits = rest.strip_prefix('.').map_or("", |fraction| {
        let end = fraction
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(fraction.len());
        fraction.get(..end).unwrap_or_default()
    });
    let millis: u64 = format!("{digits:0<3}").get(..3)?.parse().ok()?;
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let local = UnixMillis(protocol::time::millis(base).saturating_add(millis));
    Some(local.shifted(-zone_offset_ms(zone)?))
}

fn zone_offset_ms(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.split_at_checked(1) {
        None | Some(("Z", "")) => return Some(0),
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        Some(_) => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    Some(sign * minutes * 60_000)
}

#[cfg(test)]
mod tests;
