//! What the writing end and the readers of a journal have in common: the open
//! file, and how it is closed and opened again.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use protocol::id::FleetId;
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use redb::{Database, ReadTransaction, ReadableDatabase as _, WriteTransaction};

use crate::domain::audit::chain;
use crate::domain::digest::Digest;
use crate::journal::error::JournalError;
use crate::journal::medium::Medium;
use crate::journal::open;
use crate::journal::tables::TABLES;
use crate::rows::Frozen;

/// An open journal, or one that waits to be opened again.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) medium: Medium,
    pub(super) identity: Identity,
    key: RwLock<Arc<SigningKey>>,
    /// None after a failed write, until the next use.
    database: RwLock<Option<Database>>,
}

/// What a journal is, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) fleet: FleetId,
    pub(super) created_at: UnixMillis,
}

impl Identity {
    /// The link before the first record.
    pub(super) fn genesis(&self) -> Digest {
        chain::genesis(self.fleet, self.created_at)
    }
}

impl Shared {
    pub(super) fn new(
        medium: Medium,
        identity: Identity,
        key: Arc<SigningKey>,
        database: Database,
    ) -> Self {
        Self {
            medium,
            identity,
            key: RwLock::new(key),
            database: RwLock::new(Some(database)),
        }
    }

    pub(super) fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_key(&self, key: Arc<SigningKey>) {
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// Runs `read` on what is committed.
    pub(super) fn read<R>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        self.with(|database| read(&begin_read(database)?))
    }

    /// What is committed now, for as long as it is held.
    pub(super) fn freeze(&self) -> Result<Frozen, JournalError> {
        self.with(|database| Ok(Frozen::new(begin_read(database)?, TABLES)))
    }

    /// Runs `write` in a durable transaction: committed when it returns `Ok`,
    /// dropped otherwise. A failure of the store closes the file.
    pub(super) fn write<R>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        let outcome = self.with(|database| {
            let transaction = database
                .begin_write()
                .map_err(JournalError::storage("begin to write"))?;
            let outcome = write(&transaction)?;
            transaction
                .commit()
                .map_err(JournalError::storage("commit"))?;
            Ok(outcome)
        });
        if matches!(outcome, Err(JournalError::Storage { .. })) {
            self.close();
        }
        outcome
    }

    /// Whether the file is open.
    pub(super) fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// redb refuses everything after a failed write, so the file is dropped.
    fn close(&self) {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = None;
    }

    fn lock(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(
        &self,
        run: impl FnOnce(&Database) -> Result<R, JournalError>,
    ) -> Result<R, JournalError> {
        if let Some(database) = self.lock().as_ref() {
            return run(database);
        }
        self.open_again()?;
        match self.lock().as_ref() {
            Some(database) => run(database),
            None => Err(JournalError::Malformed {
                what: "the file that was just opened",
            }),
        }
    }

    fn open_again(&self) -> Result<(), JournalError> {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            let closed = |error| JournalError::Closed(Box::new(error));
            let opened = self.medium.open().map_err(closed)?;
            open::check(&opened, Some(self.identity)).map_err(closed)?;
            *database = Some(opened);
        }
        Ok(())
    }
}

fn begin_read(database: &Database) -> Result<ReadTransaction, JournalError> {
    database
        .begin_read()
        .map_err(JournalError::storage("begin to read"))
}
