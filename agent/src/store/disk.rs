//! What the store asks of a disk: load everything, commit some changes at once,
//! read bodies back.
//!
//! **Invariant:** a commit is durable as a whole when it returns `Ok`, and has
//! changed nothing when it returns an error; what it does is then up to the
//! caller, who may reopen and commit the same changes again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::ErrorCode;
use protocol::id::{CommandId, DeploymentId, StoreId};
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::deployment::record::Record;
use crate::domain::ledger;
use crate::domain::outbox::Item;

/// The few values that are no table. A new field means a new schema version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Made with the store.
    pub store: StoreId,
    /// Numbers up to these may have been given out, per stream.
    pub granted: [u64; 4],
    /// What was acknowledged, per stream; may lag behind.
    pub acked: [u64; 4],
    /// Connect counters up to this one may have been used.
    pub connects: u64,
    /// The highest incarnation of the controller that was obeyed.
    pub incarnation: u64,
    /// The last controller time that was proven; 0 for none. May lag behind.
    pub proven: UnixMillis,
    /// Samples given up for lack of space since the store was made.
    pub shed_samples: u64,
    /// Bytes written to the disk since the store was made. May lag behind.
    pub flash_bytes: u64,
    /// Whether the agent stopped as it was asked to.
    pub clean: bool,
}

impl Meta {
    /// The values of a new store.
    #[must_use]
    pub fn new(store: StoreId) -> Self {
        Self {
            store,
            granted: [0; 4],
            acked: [0; 4],
            connects: 0,
            incarnation: 0,
            proven: UnixMillis(0),
            shed_samples: 0,
            flash_bytes: 0,
            clean: true,
        }
    }
}

/// An entry of a stream, with what the outbox must know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Size and worth.
    pub item: Item,
    /// What the body is.
    pub kind: EntryKind,
    /// The version of that kind.
    pub version: u16,
    /// The encoded body.
    pub body: Vec<u8>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Write the values.
    Meta(Meta),
    /// Write an entry of a stream.
    Put(Stream, u64, Stored),
    /// Take an entry of a stream away.
    Remove(Stream, u64),
    /// Write a ledger entry.
    Take(CommandId, ledger::Entry),
    /// Take a ledger entry away.
    Forget(CommandId),
    /// Write the record of a deployment.
    Deployment(Arc<Record>),
    /// Take the record of a deployment away.
    ForgetDeployment(DeploymentId),
    /// Write the highest generation that was taken.
    Generation(u64),
}

/// All that a disk holds, without the bodies.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The values; none in a new store.
    pub meta: Option<Meta>,
    /// The entries of each stream.
    pub items: [BTreeMap<u64, Item>; 4],
    /// The ledger.
    pub ledger: BTreeMap<CommandId, ledger::Entry>,
    /// The records of deployments.
    pub deployments: BTreeMap<DeploymentId, Arc<Record>>,
    /// The highest generation that was taken; 0 before the first.
    pub generation: u64,
}

/// Why a disk does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No space is left.
    #[error("no space is left for the store {}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not a whole store. It is left as it is.
    #[error("the store {} is damaged: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A newer version of the agent made it. It is left as it is.
    #[error("the store {} has schema {found}, newer than {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// Another process has it open.
    #[error("the store {} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {step} the store {}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the library says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DiskError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::StoreFull,
            Self::Corrupt { .. } => ErrorCode::StoreCorrupt,
            Self::Newer { .. } => ErrorCode::StoreNewer,
            Self::Locked { .. } => ErrorCode::StoreLocked,
            Self::Failed { .. } => ErrorCode::StoreFailed,
        }
    }
}

/// A disk under a store.
pub trait Disk: Send {
    /// Opens it, or opens it again after a failure, and reads everything but the
    /// bodies.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was changed.
    fn load(&mut self) -> Result<Image, DiskError>;

    /// Makes the changes durable, all or none.
    ///
    /// # Errors
    /// [`DiskError`]; [`Disk::load`] must be called before anything else.
    fn commit(&mut self, changes: &[Change]) -> Result<(), DiskError>;

    /// Reads entries; those that are not there are left out.
    ///
    /// # Errors
    /// [`DiskError`]; [`Disk::load`] must be called before anything else.
    fn read(&self, stream: Stream, seqs: &[u64]) -> Result<Vec<(u64, Stored)>, DiskError>;

    /// Bytes written to the medium since the agent started.
    fn written_bytes(&self) -> u64;

    /// Bytes that are free on the medium; none when that is not known.
    fn free_bytes(&self) -> Option<u64>;
}

#[derive(Default)]
struct Contents {
    meta: Option<Meta>,
    entries: BTreeMap<(Stream, u64), Stored>,
    ledger: BTreeMap<CommandId, ledger::Entry>,
    deployments: BTreeMap<DeploymentId, Arc<Record>>,
    generation: u64,
    full: bool,
}

/// A disk in memory, for simulated nodes. Clones share their contents: keep one
/// to give a node its disk back after a simulated crash.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    contents: Arc<Mutex<Contents>>,
}

impl MemoryDisk {
    /// Makes commits fail for lack of space, or work again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn load(&mut self) -> Result<Image, DiskError> {
        let contents = self.lock();
        let mut image = Image {
            meta: contents.meta,
            ledger: contents.ledger.clone(),
            deployments: contents.deployments.clone(),
            generation: contents.generation,
            ..Image::default()
        };
        for ((stream, seq), stored) in &contents.entries {
            image.items[stream.index()].insert(*seq, stored.item);
        }
        Ok(image)
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), DiskError> {
        let mut contents = self.lock();
        if contents.full {
            return Err(DiskError::Full {
                path: PathBuf::from("memory"),
                source: "the simulated disk is full".into(),
            });
        }
        for change in changes {
            match change {
                Change::Meta(meta) => contents.meta = Some(*meta),
                Change::Put(stream, seq, stored) => {
                    contents.entries.insert((*stream, *seq), stored.clone());
                }
                Change::Remove(stream, seq) => {
                    contents.entries.remove(&(*stream, *seq));
                }
                Change::Take(command, entry) => {
                    contents.ledger.insert(*command, *entry);
                }
                Change::Forget(command) => {
                    contents.ledger.remove(command);
                }
                Change::Deployment(record) => {
                    contents
                        .deployments
                        .insert(record.desired.deployment, Arc::clone(record));
                }
                Change::ForgetDeployment(deployment) => {
                    contents.deployments.remove(deployment);
                }
                Change::Generation(generation) => contents.generation = *generation,
            }
        }
        Ok(())
    }

    fn read(&self, stream: Stream, seqs: &[u64]) -> Result<Vec<(u64, Stored)>, DiskError> {
        let contents = self.lock();
        Ok(seqs
            .iter()
            .filter_map(|seq| {
                let stored = contents.entries.get(&(stream, *seq))?;
                Some((*seq, stored.clone()))
            })
            .collect())
    }

    fn written_bytes(&self) -> u64 {
        0
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }
}
