//! Opening the store, on a file or on a medium of the simulation's.

use std::fs;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase as _, StorageBackend};

use super::{FORMAT, IntakeError, META, META_FORMAT, TABLES};
use crate::journal::medium::AnyBackend;
use crate::rows::Loading;

/// Memory for pages. The hot rows of ten thousand nodes are a few megabytes.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Opens the same medium again and again.
pub type OpenBackend = Box<dyn Fn() -> std::io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// Where the store lies.
pub enum Medium {
    /// In a file.
    File(PathBuf),
    /// On something that can be opened.
    Backend(OpenBackend),
}

impl Medium {
    /// What it is, for errors.
    pub(super) fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Backend(_) => "(backend)".to_owned(),
        }
    }

    pub(super) fn open(&self) -> Result<Database, IntakeError> {
        match self {
            Self::File(path) => self.open_file(path),
            Self::Backend(open) => {
                let backend = open().map_err(|error| self.fault(redb::Error::from(error)))?;
                let fresh = backend
                    .len()
                    .map_err(|error| self.fault(redb::StorageError::from(error)))?
                    == 0;
                self.open_backend(AnyBackend(backend), fresh)
            }
        }
    }

    fn open_file(&self, path: &Path) -> Result<Database, IntakeError> {
        if !path.exists() {
            // Made under another name first: a crash in between leaves no file
            // that looks like a store and is none.
            let mut partial = path.as_os_str().to_owned();
            partial.push(".partial");
            let partial = PathBuf::from(partial);
            let io = |error: std::io::Error| self.fault(redb::Error::from(error));
            match fs::remove_file(&partial) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io(error));
                }
                Ok(()) | Err(_) => {}
            }
            drop(self.open_backend(self.file(&partial, true)?, true)?);
            fs::rename(&partial, path).map_err(io)?;
            if let Some(folder) = path.parent() {
                fs::File::open(folder)
                    .and_then(|folder| folder.sync_all())
                    .map_err(io)?;
            }
        }
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(self.damaged("the file is empty"));
        }
        self.open_backend(self.file(path, false)?, false)
    }

    /// A new file with every table, empty.
    pub(super) fn load(&self) -> Result<Loading, IntakeError> {
        let Self::File(path) = self else {
            return Err(self.damaged("rows are loaded into a file"));
        };
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(self.file(path, true)?)
            .map_err(|error| self.fault(error))?;
        Loading::new(database, TABLES)
            .map_err(|error| self.fault(redb::Error::from(std::io::Error::other(error))))
    }

    fn file(&self, path: &Path, create: bool) -> Result<FileBackend, IntakeError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .mode(0o600)
            .open(path)
            .map_err(|error| self.fault(redb::Error::from(error)))?;
        FileBackend::new(file).map_err(|error| self.fault(error))
    }

    fn open_backend(
        &self,
        backend: impl StorageBackend,
        fresh: bool,
    ) -> Result<Database, IntakeError> {
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| self.refuse(error.into()))?;
        if fresh {
            lay_out(&database).map_err(|error| self.fault(error))?;
            return Ok(database);
        }
        let found = (|| -> Result<Option<u64>, redb::Error> {
            let table = database.begin_read()?.open_table(META)?;
            Ok(table.get(META_FORMAT)?.map(|value| value.value()))
        })()
        .map_err(|error| self.refuse(error))?;
        match found {
            Some(FORMAT) => Ok(database),
            // Format 1 is the same without the tables of deployments, format 2
            // without those of notices and alerts.
            Some(1 | 2) => {
                lay_out(&database).map_err(|error| self.fault(error))?;
                Ok(database)
            }
            Some(found) => Err(IntakeError::Newer {
                place: self.place(),
                found,
            }),
            None => Err(self.damaged("it names no format")),
        }
    }

    fn fault(&self, error: impl Into<redb::Error>) -> IntakeError {
        IntakeError::Open {
            place: self.place(),
            source: Box::new(error.into()),
        }
    }

    /// Tells a damaged file from one that cannot be read.
    fn refuse(&self, error: redb::Error) -> IntakeError {
        let damaged = if let redb::Error::Io(io) = &error {
            matches!(
                io.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            )
        } else {
            matches!(
                error,
                redb::Error::Corrupted(_)
                    | redb::Error::TableDoesNotExist(_)
                    | redb::Error::TableTypeMismatch { .. }
            )
        };
        if damaged {
            self.damaged(&error.to_string())
        } else {
            self.fault(error)
        }
    }

    fn damaged(&self, reason: &str) -> IntakeError {
        IntakeError::Damaged {
            place: self.place(),
            reason: reason.to_owned(),
        }
    }
}

/// Makes every table that is not there, so that reading one never finds it missing.
fn lay_out(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in TABLES {
        table.make(&transaction)?;
    }
    transaction.open_table(META)?.insert(META_FORMAT, FORMAT)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
impl super::Intake {
    /// Makes a store as format 2 had it: without the tables that came after.
    pub(crate) fn make_older(path: &Path) {
        let database = Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        for name in [
            "alerts",
            "alert_turns",
            "notices",
            "notices_raised",
            "sinks",
        ] {
            let known = transaction.list_tables().unwrap();
            let table = known
                .into_iter()
                .find(|table| redb::TableHandle::name(table) == name);
            assert!(transaction.delete_table(table.unwrap()).unwrap());
        }
        transaction
            .open_table(META)
            .unwrap()
            .insert(META_FORMAT, 2)
            .unwrap();
        transaction.commit().unwrap();
    }

    /// The format that a file says.
    pub(crate) fn format_in(path: &Path) -> u64 {
        let database = Database::open(path).unwrap();
        let table = database.begin_read().unwrap().open_table(META).unwrap();
        table.get(META_FORMAT).unwrap().unwrap().value()
    }
}
