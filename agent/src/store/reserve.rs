//! Space on the disk that is set aside for what the node has promised.
//!
//! A file of nothing, as large as the receipts of all commands that may be open.
//! When the disk is full it is removed, and they fit in its place.
//!
//! **Invariant:** the space is allocated, not only the file's length set, and
//! nothing is written into it: it costs no flash. Where the file system cannot
//! allocate, nothing is set aside, and a receipt waits in memory for space.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::domain::ledger::OPEN_COUNT_MAX;

/// The largest receipt takes 64 KiB of pages; the trees above them, of which a
/// commit writes the changed pages anew, are a few KiB each time.
const BYTES: u64 = OPEN_COUNT_MAX as u64 * 64 * 1024 + 1024 * 1024;

const _: () = assert!(protocol::limits::ENTRY_BYTES_MAX <= 62 * 1024);

pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve beside a store's file.
    pub(super) fn beside(store: &Path) -> Self {
        Self {
            path: store.with_extension("reserve"),
        }
    }

    /// Sets the space aside unless it is; false when the disk has too little.
    pub(super) fn fill(&self) -> bool {
        match self.allocate() {
            Ok(()) => true,
            Err(error) => {
                // What was allocated of it helps nobody.
                self.spend();
                !matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
        }
    }

    fn allocate(&self) -> io::Result<()> {
        let file = self.open()?;
        let held = file.metadata()?;
        if held.len() == BYTES && held.blocks().saturating_mul(512) >= BYTES {
            return Ok(());
        }
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                tracing::debug!(path = %self.path.display(), "space cannot be set aside on this file system");
                Err(Errno::OPNOTSUPP.into())
            }
            allocated => Ok(allocated?),
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
    }

    /// Gives the space back; false when none was set aside.
    pub(super) fn spend(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_allocated_once_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::beside(&folder.path().join("agent.redb"));
        let file = folder.path().join("agent.reserve");
        assert!(!reserve.spend());
        assert!(reserve.fill() && reserve.fill());
        let held = file.metadata().unwrap();
        assert_eq!(held.len(), BYTES);
        assert!(held.blocks() * 512 >= BYTES, "a sparse file holds no space");
        assert!(reserve.spend());
        assert!(!file.exists());
    }
}
