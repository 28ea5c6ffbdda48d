//! Making a journal, and opening one that is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::id::FleetId;
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _};

use crate::journal::error::OpenError;
use crate::journal::medium::Medium;
use crate::journal::shared::{Identity, Shared};
use crate::journal::tables::{
    FORMAT, META, META_CREATED, META_FLEET, META_FORMAT, RECORDS, TABLES,
};
use crate::journal::{CHECKPOINT_EVERY, Journal};
use crate::rows::Loading;

impl Journal {
    /// Makes an empty journal in a new file; `key` signs its checkpoints.
    ///
    /// The file is made beside its place and moved there whole, so a crash leaves
    /// no half-made journal.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is there is never touched.
    pub fn create(
        path: &Path,
        fleet: FleetId,
        key: Arc<SigningKey>,
        now: UnixMillis,
    ) -> Result<Self, OpenError> {
        let failed = |step, source| OpenError::File {
            step,
            path: path.to_owned(),
            source,
        };
        if path
            .try_exists()
            .map_err(|error| failed("look for", error))?
        {
            return Err(OpenError::Exists {
                path: path.to_owned(),
            });
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        if let Err(error) = std::fs::remove_file(&unfinished)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed("clear the way for", error));
        }
        let identity = Identity {
            fleet,
            created_at: now,
        };
        let database = Medium::File(unfinished.clone()).create()?;
        make_tables(&database, identity)?;
        drop(database);
        std::fs::rename(&unfinished, path).map_err(|error| failed("put in place", error))?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| failed("sync the folder of", error))?;
        }
        Self::open(path, key)
    }

    /// Opens the journal in a file.
    ///
    /// # Errors
    /// [`OpenError`]: absent, locked, newer, damaged.
    pub fn open(path: &Path, key: Arc<SigningKey>) -> Result<Self, OpenError> {
        Self::open_on(Medium::File(path.to_owned()), key)
    }

    /// A new file for the rows of another journal, which then is that one. Not
    /// synced as a name: that is for whoever puts it in place.
    ///
    /// # Errors
    /// [`OpenError`] when it is there or cannot be made.
    pub(crate) fn load(path: &Path) -> Result<Loading, OpenError> {
        if path.exists() {
            return Err(OpenError::Exists {
                path: path.to_owned(),
            });
        }
        let database = Medium::File(path.to_owned()).create()?;
        Loading::new(database, TABLES).map_err(|error| OpenError::File {
            step: "lay out",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })
    }

    /// Makes an empty journal on a medium that holds nothing yet.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn create_on(
        medium: Medium,
        fleet: FleetId,
        key: Arc<SigningKey>,
        now: UnixMillis,
    ) -> Result<Self, OpenError> {
        let database = medium.create()?;
        let identity = Identity {
            fleet,
            created_at: now,
        };
        make_tables(&database, identity)?;
        Ok(Self::with(medium, identity, key, database))
    }

    /// Opens the journal on a medium.
    ///
    /// # Errors
    /// [`OpenError`]: absent, locked, newer, damaged.
    pub fn open_on(medium: Medium, key: Arc<SigningKey>) -> Result<Self, OpenError> {
        let database = medium.open()?;
        let identity = check(&database, None)?;
        Ok(Self::with(medium, identity, key, database))
    }

    fn with(medium: Medium, identity: Identity, key: Arc<SigningKey>, database: Database) -> Self {
        Self {
            shared: Arc::new(Shared::new(medium, identity, key, database)),
            checkpoint_every: CHECKPOINT_EVERY,
        }
    }
}

fn make_tables(database: &Database, identity: Identity) -> Result<(), OpenError> {
    let make = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice())?;
            meta.insert(META_FLEET, identity.fleet.as_bytes().as_slice())?;
            meta.insert(META_CREATED, identity.created_at.0.to_be_bytes().as_slice())?;
        }
        for table in TABLES {
            table.make(&transaction)?;
        }
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| OpenError::from_redb("made", error))
}

/// Checks that a database is a journal of a format that is known, and `expected`
/// if that is given; tells which one it is.
pub(super) fn check(
    database: &Database,
    expected: Option<Identity>,
) -> Result<Identity, OpenError> {
    let unread = |error| OpenError::from_redb("read", error);
    let damaged = |what: &str| OpenError::Damaged {
        what: what.to_owned(),
    };
    let transaction = database
        .begin_read()
        .map_err(|error| unread(redb::Error::from(error)))?;
    let meta = transaction
        .open_table(META)
        .map_err(|_| damaged("it has no table of what it is"))?;
    let format = field::<4>(&meta, META_FORMAT)?;
    let format = u32::from_be_bytes(format);
    if format > FORMAT {
        return Err(OpenError::Newer { found: format });
    }
    let identity = Identity {
        fleet: FleetId::from_bytes(field(&meta, META_FLEET)?),
        created_at: UnixMillis(u64::from_be_bytes(field(&meta, META_CREATED)?)),
    };
    if expected.is_some_and(|expected| expected != identity) {
        return Err(damaged("another journal was put in its place"));
    }
    let records = transaction
        .open_table(RECORDS)
        .map_err(|_| damaged("it has no table of records"))?;
    let count = records
        .len()
        .map_err(|error| unread(redb::Error::from(error)))?;
    let last = records
        .last()
        .map_err(|error| unread(redb::Error::from(error)))?
        .map_or(0, |(seq, _)| seq.value());
    if count != last {
        return Err(OpenError::Damaged {
            what: format!("it has {count} records, and the last is number {last}"),
        });
    }
    Ok(identity)
}

fn field<const N: usize>(
    meta: &redb::ReadOnlyTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<[u8; N], OpenError> {
    let value = meta
        .get(key)
        .map_err(|error| OpenError::from_redb("read", error))?;
    value
        .and_then(|value| value.value().try_into().ok())
        .ok_or_else(|| OpenError::Damaged {
            what: format!("it does not say its {key}"),
        })
}
