//! The journal: the controller's only durable truth, and its audit trail.
//!
//! Owns one redb file with the records in their hash chain, signed checkpoints,
//! snapshots of the state, the targets of commands, the cursors of effects and
//! the last uses of API keys. An append is one durable transaction: all of it is
//! on disk when [`Journal::append`] returns, or none of it counts.
//!
//! **Invariant:** records are numbered from 1 without gaps, never changed and
//! never removed; a file that is damaged, truncated or from a newer program is
//! refused with a code and left as it is.
//!
//! **How it fails:** after a failed write (a full disk) the file is closed, and
//! opened again by the next use. Whether the failed transaction counts is then
//! read from the file, which is the only one that knows.

mod append;
pub mod error;
mod export;
pub(crate) mod medium;
mod open;
mod read;
mod shared;
mod snapshot;
mod tables;
pub mod verify;

use std::sync::Arc;

use crate::domain::digest::Digest;

pub use append::Batch;
pub use medium::{Medium, OpenBackend};
pub use read::{JournalReader, Stored};
pub use snapshot::{KeyUses, Snapshot};

use shared::Shared;

/// Where the chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last record's number; 0 when there is none.
    pub seq: u64,
    /// The last record's link; before the first, the one that names the journal.
    pub hash: Digest,
}

/// The writing end of a journal. There is one; readers are many.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    checkpoint_every: u64,
}

/// Records between two signed checkpoints, unless configured otherwise. Signing
/// costs some tens of microseconds; a smaller number names a broken place more
/// narrowly.
pub const CHECKPOINT_EVERY: u64 = 1_024;

impl Journal {
    /// A reading end.
    #[must_use]
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(Arc::clone(&self.shared))
    }

    /// The same journal with a checkpoint after every `records` records; at
    /// least one.
    #[must_use]
    pub fn with_checkpoint_every(mut self, records: u64) -> Self {
        self.checkpoint_every = records.max(1);
        self
    }
}

#[cfg(test)]
pub(crate) mod disk;
#[cfg(test)]
mod tests;
