//! The tables of notices: each under its number, what is raised under which key,
//! and how far each sink has come.
//!
//! Numbers rise and are never used again, also when the table was emptied: sinks
//! remember how far they are by them. When the table is full the oldest notices
//! go, whether every sink has had them or not; a sink that is behind them says so.

use protocol::time::UnixMillis;
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use tokio::sync::watch;

use super::codec::{decode, encode};
use super::{Batch, Intake, IntakeError, META, NOTICES, NOTICES_RAISED, SINKS};
use crate::domain::notice::delivery::Progress;
use crate::domain::notice::{Notice, NoticeKind, NoticeState, Standing};

/// Notices that are kept. At 2 KiB each they are at most 20 MB.
pub const NOTICE_COUNT_MAX: u64 = 10_000;

/// How long a notice is kept.
pub const NOTICE_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Keys that can be raised at once: a node and a half of a large fleet each. What
/// is raised beyond them is told, and its end is not.
pub(super) const RAISED_COUNT_MAX: u64 = 16_384;

/// The number of the last notice.
const META_NOTICE: &str = "notice";

/// The number of the last heartbeat: the only one that is kept.
const META_HEARTBEAT: &str = "heartbeat";

impl Batch {
    /// Adds a notice. It is written when it says something new
    /// ([`Notice::is_news`]), cut to its limits.
    pub fn raise(&mut self, notice: Notice) {
        self.notices.push(notice.bounded());
    }
}

impl Intake {
    /// Notices by their numbers, from the one after `after` on.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn notices(&self, after: u64, limit: usize) -> Result<Vec<(u64, Notice)>, IntakeError> {
        let rows = self.read("notices", |transaction| {
            let table = transaction.open_table(NOTICES)?;
            let mut rows = Vec::new();
            for row in table.range(after.saturating_add(1)..)?.take(limit) {
                let (key, value) = row?;
                rows.push((key.value(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        self.told_of(rows)
    }

    /// The numbers of the oldest notice that is kept and of the last one ever
    /// written. An empty table has an oldest number that is yet to be given.
    ///
    /// # Errors
    /// [`IntakeError::Read`].
    pub fn notice_span(&self) -> Result<(u64, u64), IntakeError> {
        self.read("notices", |transaction| {
            let meta = transaction.open_table(META)?;
            let last = meta.get(META_NOTICE)?.map_or(0, |value| value.value());
            let table = transaction.open_table(NOTICES)?;
            let first = table.first()?.map_or(last + 1, |(key, _)| key.value());
            Ok((first, last))
        })
    }

    /// The newest notices, newest first.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn notices_newest(&self, limit: usize) -> Result<Vec<(u64, Notice)>, IntakeError> {
        let rows = self.read("notices", |transaction| {
            let table = transaction.open_table(NOTICES)?;
            let mut rows = Vec::new();
            for row in table.iter()?.rev().take(limit) {
                let (key, value) = row?;
                rows.push((key.value(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        self.told_of(rows)
    }

    fn told_of(&self, rows: Vec<(u64, Vec<u8>)>) -> Result<Vec<(u64, Notice)>, IntakeError> {
        rows.into_iter()
            .map(|(seq, bytes)| Ok((seq, self.decode("a notice", &bytes)?)))
            .collect()
    }

    /// One notice; none when it is gone.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn notice(&self, seq: u64) -> Result<Option<Notice>, IntakeError> {
        let rows = self.notices(seq.saturating_sub(1), 1)?;
        Ok(rows
            .into_iter()
            .find_map(|(found, notice)| (found == seq).then_some(notice)))
    }

    /// Tells the number of the last notice after each batch that holds some.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<u64> {
        self.notices.subscribe()
    }

    /// How far a sink has come; none before it has begun.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn sink(&self, name: &str) -> Result<Option<Progress>, IntakeError> {
        let bytes = self.read("a sink's progress", |transaction| {
            let table = transaction.open_table(SINKS)?;
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        })?;
        bytes
            .map(|bytes| self.decode("a sink's progress", &bytes))
            .transpose()
    }

    /// What is raised under a key.
    ///
    /// # Errors
    /// [`IntakeError`], also when the row does not decode.
    pub fn raised(&self, key: &str) -> Result<Option<Standing>, IntakeError> {
        let bytes = self.read("what is raised", |transaction| {
            let table = transaction.open_table(NOTICES_RAISED)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })?;
        bytes
            .map(|bytes| self.decode("what is raised", &bytes))
            .transpose()
    }

    /// Every key that begins with `prefix` under which something is raised.
    ///
    /// # Errors
    /// [`IntakeError`], also when a row does not decode.
    pub fn raised_below(&self, prefix: &str) -> Result<Vec<(String, Standing)>, IntakeError> {
        let rows = self.read("what is raised", |transaction| {
            let table = transaction.open_table(NOTICES_RAISED)?;
            let mut rows = Vec::new();
            for row in table.range(prefix..)? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter()
            .map(|(key, bytes)| Ok((key, self.decode("what is raised", &bytes)?)))
            .collect()
    }
}

/// Writes what a batch holds of notices and sinks. Says the number of the last
/// notice when it holds some.
pub(super) fn write(
    transaction: &redb::WriteTransaction,
    batch: &Batch,
) -> Result<Option<u64>, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let last = meta.get(META_NOTICE)?.map_or(0, |value| value.value());
    write_sinks(transaction, batch, last)?;
    let Some(newest) = batch.notices.iter().map(|notice| notice.at).max() else {
        return Ok(None);
    };
    let mut notices = transaction.open_table(NOTICES)?;
    let mut raised = transaction.open_table(NOTICES_RAISED)?;
    let mut seq = last;
    for notice in &batch.notices {
        let key = notice.key.as_str();
        // An unreadable row is as good as none: its end is told once more.
        let standing = raised
            .get(key)?
            .and_then(|value| decode::<Standing>(value.value()).ok());
        if !notice.is_news(standing) {
            continue;
        }
        seq += 1;
        if notice.kind == NoticeKind::Heartbeat {
            // One a minute would push what matters out of the table.
            if let Some(before) = meta.insert(META_HEARTBEAT, seq)? {
                notices.remove(before.value())?;
            }
        }
        let mut told = notice.clone();
        match (notice.state, standing) {
            (NoticeState::Raised, before) => {
                if before.is_some() || raised.len()? < RAISED_COUNT_MAX {
                    let standing = Standing::raised(seq, notice.severity, before);
                    raised.insert(key, encode(&standing).as_slice())?;
                }
            }
            (NoticeState::Resolved, before) => {
                told.severity = before.map_or(notice.severity, |before| before.worst);
                raised.remove(key)?;
            }
            (NoticeState::Once, _) => {}
        }
        notices.insert(seq, encode(&told).as_slice())?;
    }
    meta.insert(META_NOTICE, seq)?;
    let kept_from = UnixMillis(newest.0.saturating_sub(NOTICE_KEPT_MS));
    loop {
        let full = notices.len()? > NOTICE_COUNT_MAX;
        let goes = notices.first()?.is_some_and(|(_, value)| {
            full || decode::<Notice>(value.value()).is_ok_and(|notice| notice.at < kept_from)
        });
        if !goes {
            return Ok(Some(seq));
        }
        notices.pop_first()?;
    }
}

/// A sink begins behind the notice `last`. An unreadable row is as good as none.
fn write_sinks(
    transaction: &redb::WriteTransaction,
    batch: &Batch,
    last: u64,
) -> Result<(), redb::Error> {
    let mut sinks = transaction.open_table(SINKS)?;
    let held = |sinks: &redb::Table<'_, &'static str, &'static [u8]>, name: &str| {
        let row = sinks.get(name)?;
        let row = row.and_then(|value| decode::<Progress>(value.value()).ok());
        Ok::<_, redb::Error>(row.map(|progress| progress.number))
    };
    for (name, number) in &batch.sinks_gone {
        if held(&sinks, name)?.is_some_and(|held| held <= *number) {
            sinks.remove(name.as_str())?;
        }
    }
    for (name, number) in &batch.sinks_begun {
        if held(&sinks, name)?.is_none_or(|held| held < *number) {
            let progress = Progress {
                number: *number,
                cursor: last,
                ..Progress::default()
            };
            sinks.insert(name.as_str(), encode(&progress).as_slice())?;
        }
    }
    for (name, progress) in &batch.sinks {
        if held(&sinks, name)? == Some(progress.number) {
            sinks.insert(name.as_str(), encode(progress).as_slice())?;
        }
    }
    Ok(())
}
