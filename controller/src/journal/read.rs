//! Reading: records by range, targets by page, cursors of effects.

use std::sync::Arc;

use protocol::id::{FleetId, ID_BYTES, NodeId};
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use redb::{ReadTransaction, ReadableTable as _};

use crate::domain::audit::chain::{self, Checkpoint};
use crate::domain::audit::record::Record;
use crate::domain::decide::TargetsOf;
use crate::domain::digest::Digest;
use crate::journal::Head;
use crate::journal::error::JournalError;
use crate::journal::shared::Shared;
use crate::journal::tables::{CHECKPOINTS, CURSORS, RECORDS, TARGETS, TARGETS_PER_PAGE};
use crate::rows::Frozen;

/// Records that one read returns at most, whatever is asked: some 400 KB.
pub(super) const READ_RECORDS_MAX: usize = 1_000;

/// Names of cursors that may exist. Each effect has one.
const CURSOR_NAME_BYTES_MAX: usize = 64;

/// A reading end of a journal. Cheap to clone; each read sees what is committed.
#[derive(Clone, Debug)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Its link in the chain.
    pub hash: Digest,
}

impl JournalReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The fleet whose journal it is.
    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.shared.identity.fleet
    }

    /// When the journal was made.
    #[must_use]
    pub fn created_at(&self) -> UnixMillis {
        self.shared.identity.created_at
    }

    /// Whether the file is open; false from a failed write to the next use.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// From here on, checkpoints and exports are signed with `key`.
    pub fn set_key(&self, key: Arc<SigningKey>) {
        self.shared.set_key(key);
    }

    /// Where the chain stands.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn head(&self) -> Result<Head, JournalError> {
        self.shared.read(|transaction| self.head_in(transaction))
    }

    /// The journal as it is now, and where its chain stands there.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn freeze(&self) -> Result<(Frozen, Head), JournalError> {
        let frozen = self.shared.freeze()?;
        let head = self.head_in(frozen.transaction())?;
        Ok((frozen, head))
    }

    pub(super) fn head_in(&self, transaction: &ReadTransaction) -> Result<Head, JournalError> {
        let table = transaction
            .open_table(RECORDS)
            .map_err(JournalError::storage("read its head"))?;
        match table
            .last()
            .map_err(JournalError::storage("read its head"))?
        {
            Some((seq, value)) => head_of(seq.value(), value.value()),
            None => Ok(Head {
                seq: 0,
                hash: self.shared.identity.genesis(),
            }),
        }
    }

    /// Up to `limit` records from number `from` on, in their order; at most
    /// a thousand.
    ///
    /// # Errors
    /// [`JournalError`]; for a record that cannot be read, its number.
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<Stored>, JournalError> {
        self.shared.read(|transaction| {
            raw_records(transaction, from, limit, |seq, value| {
                let (hash, bytes) = split(value)?;
                let record = Record::from_bytes(bytes)
                    .map_err(|source| JournalError::Record { seq, source })?;
                Ok(Stored { record, hash })
            })
        })
    }

    /// Up to `limit` records before number `before`, newest first: for people,
    /// who look at the end of a trail.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn read_back(&self, before: u64, limit: usize) -> Result<Vec<Stored>, JournalError> {
        let limit = limit.min(READ_RECORDS_MAX);
        let from = before.saturating_sub(limit as u64).max(1);
        let count = usize::try_from(before.saturating_sub(from)).unwrap_or(limit);
        let mut records = self.read(from, count)?;
        records.reverse();
        Ok(records)
    }

    /// Gives every record after `head` to `take`, in order, checking that each
    /// follows from the one before. `head` moves along, and says how far `take`
    /// got when something fails.
    ///
    /// # Errors
    /// [`JournalError::Broken`] names the first record that does not follow.
    pub fn replay(
        &self,
        head: &mut Head,
        mut take: impl FnMut(Record),
    ) -> Result<(), JournalError> {
        loop {
            let next = head.seq + 1;
            let piece = self.shared.read(|transaction| {
                raw_records(transaction, next, READ_RECORDS_MAX, |seq, value| {
                    let (hash, bytes) = split(value)?;
                    let record = Record::from_bytes(bytes)
                        .map_err(|source| JournalError::Record { seq, source })?;
                    Ok((seq, hash, bytes.to_vec(), record))
                })
            })?;
            if piece.is_empty() {
                return Ok(());
            }
            for (seq, hash, bytes, record) in piece {
                let follows = seq == head.seq + 1
                    && record.seq == seq
                    && chain::link(&head.hash, &bytes) == hash;
                if !follows {
                    return Err(JournalError::Broken { seq: head.seq + 1 });
                }
                *head = Head { seq, hash };
                take(record);
            }
        }
    }

    /// Where the chain stands before its first record.
    #[must_use]
    pub fn genesis(&self) -> Head {
        Head {
            seq: 0,
            hash: self.shared.identity.genesis(),
        }
    }

    /// Up to `limit` targets of a command or rollout, in their order, after the
    /// first `skip`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn targets(
        &self,
        of: impl Into<TargetsOf>,
        skip: usize,
        limit: usize,
    ) -> Result<Vec<NodeId>, JournalError> {
        let of = of.into();
        self.shared.read(|transaction| {
            let failed = "read targets";
            let table = transaction
                .open_table(TARGETS)
                .map_err(JournalError::storage(failed))?;
            let first = u32::try_from(skip / TARGETS_PER_PAGE).unwrap_or(u32::MAX);
            let pages = table
                .range((of.as_bytes(), first)..=(of.as_bytes(), u32::MAX))
                .map_err(JournalError::storage(failed))?;
            let mut nodes = Vec::new();
            let mut left = skip % TARGETS_PER_PAGE;
            for page in pages {
                let (_, ids) = page.map_err(JournalError::storage(failed))?;
                let (ids, rest) = ids.value().as_chunks::<ID_BYTES>();
                if !rest.is_empty() {
                    return Err(JournalError::Malformed {
                        what: "a page of targets",
                    });
                }
                let wanted = limit - nodes.len();
                let ids = ids.iter().skip(left).take(wanted);
                nodes.extend(ids.map(|id| NodeId::from_bytes(*id)));
                left = 0;
                if nodes.len() == limit {
                    break;
                }
            }
            Ok(nodes)
        })
    }

    /// The last record that the effect of this name has done; 0 before the first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn cursor(&self, name: &str) -> Result<u64, JournalError> {
        self.shared.read(|transaction| {
            let table = transaction
                .open_table(CURSORS)
                .map_err(JournalError::storage("read a cursor"))?;
            let seq = table
                .get(name)
                .map_err(JournalError::storage("read a cursor"))?;
            Ok(seq.map_or(0, |seq| seq.value()))
        })
    }

    /// Remembers, durably, that the effect of this name has done everything up to
    /// record `seq`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn set_cursor(&self, name: &str, seq: u64) -> Result<(), JournalError> {
        if name.len() > CURSOR_NAME_BYTES_MAX {
            return Err(JournalError::Malformed {
                what: "a cursor's name",
            });
        }
        self.shared.write(|transaction| {
            transaction
                .open_table(CURSORS)
                .map_err(JournalError::storage("write a cursor"))?
                .insert(name, seq)
                .map_err(JournalError::storage("write a cursor"))?;
            Ok(())
        })
    }

    /// The newest stored checkpoint.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn last_checkpoint(&self) -> Result<Option<Checkpoint>, JournalError> {
        self.shared.read(|transaction| {
            let table = transaction
                .open_table(CHECKPOINTS)
                .map_err(JournalError::storage("read a checkpoint"))?;
            let last = table
                .last()
                .map_err(JournalError::storage("read a checkpoint"))?;
            last.map(|(_, bytes)| parse_checkpoint(bytes.value()))
                .transpose()
        })
    }
}

pub(super) fn parse_checkpoint(bytes: &[u8]) -> Result<Checkpoint, JournalError> {
    serde_json::from_slice(bytes).map_err(|_| JournalError::Malformed {
        what: "a checkpoint",
    })
}

/// Up to `limit` records as they are stored, each turned by `make`.
pub(super) fn raw_records<R>(
    transaction: &ReadTransaction,
    from: u64,
    limit: usize,
    make: impl Fn(u64, &[u8]) -> Result<R, JournalError>,
) -> Result<Vec<R>, JournalError> {
    let failed = "read records";
    let table = transaction
        .open_table(RECORDS)
        .map_err(JournalError::storage(failed))?;
    let range = table.range(from..).map_err(JournalError::storage(failed))?;
    range
        .take(limit.min(READ_RECORDS_MAX))
        .map(|entry| {
            let (seq, value) = entry.map_err(JournalError::storage(failed))?;
            make(seq.value(), value.value())
        })
        .collect()
}

/// The link and the record's bytes in a stored value.
pub(super) fn split(value: &[u8]) -> Result<(Digest, &[u8]), JournalError> {
    value
        .split_first_chunk::<32>()
        .map(|(hash, bytes)| (Digest(*hash), bytes))
        .ok_or(JournalError::Malformed { what: "a record" })
}

pub(super) fn head_of(seq: u64, value: &[u8]) -> Result<Head, JournalError> {
    split(value).map(|(hash, _)| Head { seq, hash })
}
