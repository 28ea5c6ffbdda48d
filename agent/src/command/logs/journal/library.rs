//! Through libsystemd (sd-journal(3)).
//!
//! Reading happens on a blocking thread, which ends when nobody wants its lines any
//! more: within [`WAIT`] when nothing comes. **Invariant:** as many lines wait as
//! [`WAITING_MAX`], and of an entry's fields as many bytes are read as
//! [`FIELD_BYTES_MAX`].

use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::OutputStream;
use protocol::time::UnixMillis;
use systemd::journal::{Journal, OpenOptions};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::command::capture::{Capture, fit};
use crate::command::ending::{Ending, Stopped};
use crate::command::logs::Query;
use crate::command::progress::TICK;
use crate::command::service::UnitName;
use crate::command::task::Context;

/// How long the library waits for the next entry before it looks whether somebody
/// still wants it.
const WAIT: Duration = Duration::from_millis(500);

/// Lines that wait for whoever takes them.
const WAITING_MAX: usize = 256;

/// Bytes of a field; a message may have more, and is cut there. It is what the library
/// itself begins with.
const FIELD_BYTES_MAX: usize = 64 * 1024;

/// A core dump was taken (systemd's catalogue).
const COREDUMP: &str = "fc2e22bc6ee647b6b90729ab34a250b1";

#[derive(Debug, thiserror::Error)]
enum JournalError {
    #[error("cannot read the journal of {unit}")]
    Read {
        unit: String,
        #[source]
        source: systemd::Error,
    },
    #[error("reading the journal of {0} was given up by its thread")]
    Thread(String),
}

pub(super) async fn read(context: &mut Context, unit: &UnitName, query: Query) -> Ending {
    let limit = context.bounds.output_bytes_max;
    let not_before = query.since.map(|age| context.clocks.wall().before(age));
    let deadline = Instant::now() + context.bounds.timeout;
    let (lines, mut arriving) = mpsc::channel(WAITING_MAX);
    let asked = Asked {
        unit: unit.as_str().to_owned(),
        query,
        not_before,
    };
    let name = asked.unit.clone();
    let reading = tokio::task::spawn_blocking(move || asked.copy(&lines));
    let mut kept = Capture::new(limit);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stopped = loop {
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => break Some(Stopped::TimedOut),
            () = context.stop.cancelled() => break Some(Stopped::Cancelled),
            line = arriving.recv() => match line {
                Some(line) => {
                    if query.follow {
                        context.progress.push(OutputStream::Stdout, &line);
                    }
                    kept.push(&line);
                }
                None => break None,
            },
            _ = tick.tick() => context.progress.flush(),
        }
    };
    let output = fit(kept, Capture::new(0), limit);
    if let Some(end) = stopped {
        return Ending::stopped(end, output);
    }
    let read = reading.await.unwrap_or(Err(JournalError::Thread(name)));
    match read {
        Ok(()) => Ending::succeeded("", output),
        Err(error) => Ending::failed(ErrorCode::LogUnavailable, &error),
    }
}

/// Which lines of which unit.
struct Asked {
    unit: String,
    query: Query,
    not_before: Option<UnixMillis>,
}

impl Asked {
    /// Sends the lines until there are no more, or nobody takes them.
    fn copy(&self, lines: &mpsc::Sender<Vec<u8>>) -> Result<(), JournalError> {
        self.send(lines).map_err(|source| JournalError::Read {
            unit: self.unit.clone(),
            source,
        })
    }

    fn send(&self, lines: &mpsc::Sender<Vec<u8>>) -> Result<(), systemd::Error> {
        let mut journal = self.open()?;
        let mut more = self.go_to_first(&mut journal)?;
        loop {
            while more {
                if lines.blocking_send(line(&mut journal)?).is_err() {
                    return Ok(());
                }
                more = journal.next()? > 0;
            }
            if !self.query.follow || lines.is_closed() {
                return Ok(());
            }
            journal.wait(Some(WAIT))?;
            more = journal.next()? > 0;
        }
    }

    /// What journalctl shows of a unit: what it says, what systemd and other programs
    /// of root say about it, and its core dumps.
    fn open(&self) -> Result<Journal, systemd::Error> {
        let mut journal = OpenOptions::default()
            .system(true)
            .local_only(true)
            .open()?;
        journal.set_data_threshold(FIELD_BYTES_MAX)?;
        let unit = self.unit.as_str();
        journal.match_add("_SYSTEMD_UNIT", unit)?;
        journal.match_or()?;
        journal.match_add("_PID", "1")?;
        journal.match_add("UNIT", unit)?;
        journal.match_or()?;
        journal.match_add("_UID", "0")?;
        journal.match_add("OBJECT_SYSTEMD_UNIT", unit)?;
        journal.match_or()?;
        journal.match_add("MESSAGE_ID", COREDUMP)?;
        journal.match_add("_UID", "0")?;
        journal.match_add("COREDUMP_UNIT", unit)?;
        Ok(journal)
    }

    /// Goes back from the end as far as is asked for; says whether there is an entry.
    fn go_to_first(&self, journal: &mut Journal) -> Result<bool, systemd::Error> {
        journal.seek_tail()?;
        let mut found = false;
        for _ in 0..self.query.lines {
            if journal.previous()? == 0 {
                // Before the first there is none, and the position stays.
                return Ok(found);
            }
            let at = journal.timestamp_usec()? / 1000;
            if self.not_before.is_some_and(|first| at < first.0) {
                return Ok(journal.next()? > 0);
            }
            found = true;
        }
        Ok(found)
    }
}

/// An entry as journalctl prints it: time, host, who, and the message, whose further
/// lines are indented.
fn line(journal: &mut Journal) -> Result<Vec<u8>, systemd::Error> {
    let mut field = |name: &str| -> Result<Option<String>, systemd::Error> {
        let data = journal.get_data(name)?;
        let value = data.as_ref().and_then(|data| data.value());
        Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
    };
    let source = field("_SOURCE_REALTIME_TIMESTAMP")?.and_then(|text| text.parse::<u64>().ok());
    let host = field("_HOSTNAME")?.unwrap_or_default();
    let mut who = field("SYSLOG_IDENTIFIER")?;
    if who.is_none() {
        who = field("_COMM")?;
    }
    let mut process = field("_PID")?;
    if process.is_none() {
        process = field("SYSLOG_PID")?;
    }
    let message = field("MESSAGE")?.unwrap_or_default();
    let at = match source {
        Some(at) => at,
        None => journal.timestamp_usec()?,
    };
    let at = UnixMillis(at / 1000);
    let who = who.unwrap_or_else(|| "unknown".to_owned());
    let process = process.map_or_else(String::new, |process| format!("[{process}]"));
    Ok(shown(&format!("{at} {host} {who}{process}: "), &message))
}

fn shown(head: &str, message: &str) -> Vec<u8> {
    let indent = " ".repeat(head.chars().count());
    let mut text = String::new();
    for (number, part) in message.trim_end().split('\n').enumerate() {
        text.push_str(if number == 0 { head } else { &indent });
        text.push_str(part);
        text.push('\n');
    }
    text.into_bytes()
}
