//! Writing: everything that a batch of decisions leads to, in one transaction.

use protocol::id::ApiKeyId;
use protocol::time::UnixMillis;
use redb::{ReadableTable as _, WriteTransaction};

use crate::domain::audit::chain::{self, Checkpoint};
use crate::domain::audit::record::Record;
use crate::domain::decide::{Targets, TargetsOf};
use crate::domain::event::Event;
use crate::journal::error::JournalError;
use crate::journal::read::head_of;
use crate::journal::snapshot::{self, Snapshot};
use crate::journal::tables::{
    CHECKPOINTS, KEY_USES, RECORDS, SNAPSHOTS, TARGETS, TARGETS_PER_PAGE,
};
use crate::journal::{Head, Journal};

/// What one transaction writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Records, numbered on from the head.
    pub records: &'a [Record],
    /// The targets of what is issued or started in them.
    pub targets: &'a [Targets],
    /// What has targets that are needed no longer.
    pub forgotten: &'a [TargetsOf],
    /// When API keys were last used.
    pub key_uses: &'a [(ApiKeyId, UnixMillis)],
    /// The state after an earlier record.
    pub snapshot: Option<&'a Snapshot>,
}

impl Journal {
    /// Writes a batch, durably, if the journal stands at `expected`.
    ///
    /// # Errors
    /// [`JournalError`]. After a failure of the store it is open whether the
    /// batch counts; [`Journal::head`](crate::journal::JournalReader::head)
    /// tells, once it can be read again.
    pub fn append(&mut self, expected: u64, batch: &Batch<'_>) -> Result<Head, JournalError> {
        self.shared.write(|transaction| {
            let head = write_records(self, transaction, expected, batch.records)?;
            write_targets(transaction, batch.targets, batch.forgotten)?;
            write_key_uses(transaction, batch.key_uses)?;
            if let Some(taken) = batch.snapshot {
                let stored = JournalError::storage("write a snapshot");
                let mut table = transaction.open_table(SNAPSHOTS).map_err(&stored)?;
                snapshot::store(&mut table, taken)?;
            }
            Ok(head)
        })
    }

    /// Signs where the chain stands, durably, unless that was signed before.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn checkpoint(&mut self, now: UnixMillis) -> Result<(), JournalError> {
        let head = self.reader().head()?;
        let last = self.reader().last_checkpoint()?;
        if head.seq == 0 || last.is_some_and(|last| last.seq == head.seq) {
            return Ok(());
        }
        self.shared
            .write(|transaction| sign(self, transaction, head, now))
    }
}

fn write_records(
    journal: &Journal,
    transaction: &WriteTransaction,
    expected: u64,
    records: &[Record],
) -> Result<Head, JournalError> {
    let stored = JournalError::storage("write records");
    let mut table = transaction.open_table(RECORDS).map_err(&stored)?;
    let mut head = match table
        .last()
        .map_err(JournalError::storage("read its head"))?
    {
        Some((seq, value)) => head_of(seq.value(), value.value())?,
        None => Head {
            seq: 0,
            hash: journal.shared.identity.genesis(),
        },
    };
    if head.seq != expected {
        return Err(JournalError::Conflict {
            expected,
            found: head.seq,
        });
    }
    let mut due = Vec::new();
    for record in records {
        if record.seq != head.seq + 1 {
            return Err(JournalError::Conflict {
                expected: record.seq,
                found: head.seq + 1,
            });
        }
        let bytes = record.to_bytes().map_err(|source| JournalError::Encode {
            seq: record.seq,
            source: Box::new(source),
        })?;
        head = Head {
            seq: record.seq,
            hash: chain::link(&head.hash, &bytes),
        };
        let value = [head.hash.0.as_slice(), &bytes].concat();
        table
            .insert(head.seq, value.as_slice())
            .map_err(JournalError::storage("write a record"))?;
        // A trust set may announce the key that follows the one in use, which so
        // vouches for it before it goes.
        let announces = matches!(record.event, Event::TrustPublished(_));
        if announces || head.seq.is_multiple_of(journal.checkpoint_every) {
            due.push((head, record.at));
        }
    }
    for (at_record, now) in due {
        sign(journal, transaction, at_record, now)?;
    }
    Ok(head)
}

fn sign(
    journal: &Journal,
    transaction: &WriteTransaction,
    head: Head,
    now: UnixMillis,
) -> Result<(), JournalError> {
    let signed = Checkpoint::sign(
        &journal.shared.key(),
        journal.shared.identity.fleet,
        head.seq,
        head.hash,
        now,
    );
    let bytes = serde_json::to_vec(&signed).map_err(|source| JournalError::Encode {
        seq: head.seq,
        source: Box::new(source),
    })?;
    transaction
        .open_table(CHECKPOINTS)
        .map_err(JournalError::storage("write a checkpoint"))?
        .insert(head.seq, bytes.as_slice())
        .map_err(JournalError::storage("write a checkpoint"))?;
    Ok(())
}

fn write_targets(
    transaction: &WriteTransaction,
    targets: &[Targets],
    forgotten: &[TargetsOf],
) -> Result<(), JournalError> {
    let mut table = transaction
        .open_table(TARGETS)
        .map_err(JournalError::storage("write targets"))?;
    for Targets { of, nodes } in targets {
        for (page, nodes) in (0..).zip(nodes.chunks(TARGETS_PER_PAGE)) {
            let ids: Vec<u8> = nodes.iter().flat_map(|id| *id.as_bytes()).collect();
            table
                .insert((of.as_bytes(), page), ids.as_slice())
                .map_err(JournalError::storage("write targets"))?;
        }
    }
    for of in forgotten {
        let id = of.as_bytes();
        table
            .retain_in((id, 0)..=(id, u32::MAX), |_, _| false)
            .map_err(JournalError::storage("forget targets"))?;
    }
    Ok(())
}

fn write_key_uses(
    transaction: &WriteTransaction,
    uses: &[(ApiKeyId, UnixMillis)],
) -> Result<(), JournalError> {
    let mut table = transaction
        .open_table(KEY_USES)
        .map_err(JournalError::storage("write the uses of keys"))?;
    for (key, at) in uses {
        table
            .insert(key.as_bytes(), at.0)
            .map_err(JournalError::storage("write the uses of keys"))?;
    }
    Ok(())
}
