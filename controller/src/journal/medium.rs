//! What the journal lies on: a file, or whatever a test puts in its place.

use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{BackendError, Builder, Database, StorageBackend};

use crate::journal::error::OpenError;

/// Bytes of redb's cache: the tail of the journal and the index pages above it.
/// What is older is read once, by an export.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Files up to this size are checked page by page when they are opened, which
/// reads all of them. Larger ones are checked by their header and chain alone.
const CHECKED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where a journal is kept. Can be opened again after a failure.
#[derive(Clone)]
pub enum Medium {
    /// A file.
    File(PathBuf),
    /// Anything that redb can lie on.
    Backend(OpenBackend),
}

/// Opens a backend; what an earlier one has synced, a later one must show.
pub type OpenBackend = Arc<dyn Fn() -> Box<dyn StorageBackend> + Send + Sync>;

impl Medium {
    pub(super) fn create(&self) -> Result<Database, OpenError> {
        match self {
            Self::File(path) => builder().create(path),
            Self::Backend(open) => builder().create_with_backend(AnyBackend(open())),
        }
        .map_err(|error| OpenError::from_redb("created", error))
    }

    pub(super) fn open(&self) -> Result<Database, OpenError> {
        match self {
            Self::File(path) => {
                let bytes = length(path)?;
                refuse_empty(bytes)?;
                builder()
                    .set_check_integrity_on_open(bytes <= CHECKED_BYTES_MAX)
                    .open(path)
            }
            Self::Backend(open) => {
                let backend = open();
                refuse_empty(
                    backend.len().map_err(|error| {
                        OpenError::from_redb("measured", redb::Error::Io(error))
                    })?,
                )?;
                builder()
                    .set_check_integrity_on_open(true)
                    .create_with_backend(AnyBackend(backend))
            }
        }
        .map_err(|error| OpenError::from_redb("opened", error))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// redb makes an empty database of an empty file, so a journal that was
/// truncated to nothing would look like a new one.
fn refuse_empty(bytes: u64) -> Result<(), OpenError> {
    if bytes == 0 {
        return Err(OpenError::Damaged {
            what: "it is empty".to_owned(),
        });
    }
    Ok(())
}

fn length(path: &Path) -> Result<u64, OpenError> {
    let path = path.to_owned();
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(OpenError::Absent { path })
        }
        Err(source) => Err(OpenError::File {
            step: "look at",
            path,
            source,
        }),
    }
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Backend(_) => f.write_str("Backend"),
        }
    }
}

/// redb takes a backend by its type; this one stands for any. The intake store lies
/// on it as well.
#[derive(Debug)]
pub(crate) struct AnyBackend(pub(crate) Box<dyn StorageBackend>);

impl StorageBackend for AnyBackend {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.0.write(offset, data)
    }

    fn close(&self) -> Result<(), std::io::Error> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
