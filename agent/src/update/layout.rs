//! The files of updates in the state directory.
//!
//! ```text
//! versions/0.2.0/flotilla-agent    a version that was laid beside the others
//! versions/0.2.0/.archive          the SHA-256 of the archive that it came in
//! versions/current -> 0.2.0        what is selected; without it the launcher's own
//! update/record                    the last update
//! update/incoming/….part           a download
//! ```
//!
//! **Invariant:** a version's folder is whole or not there: it is made under another
//! name, synced, and renamed. The record and the symlink change by a rename.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use protocol::ErrorCode;
use protocol::release::{Archive, PROGRAM, version};

use super::unpack::{UnpackError, unpack};
use crate::domain::update::record::{Slot, UpdateRecord};
use crate::durable;

/// The symlink's name; no version is called so.
const CURRENT: &str = "current";

/// Says which archive a version came in.
const ARCHIVE: &str = ".archive";

/// Bytes that are left free beside what an update takes.
const FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Why files of an update cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The system says no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record is not one that this version understands.
    #[error("{} is damaged: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is not enough room.
    #[error("{} has {free} bytes free, and the update takes {needed}", path.display())]
    Space {
        /// Where.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed, with what is left free.
        needed: u64,
    },
    /// The archive is not what it should be, or the disk does not take it.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

impl LayoutError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { .. } | Self::Record { .. } | Self::Space { .. } => ErrorCode::UpdateFailed,
            Self::Unpack(error) => error.code(),
        }
    }
}

/// The files of updates below a state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    state: PathBuf,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { what, path, source }
}

fn make_private(dir: &Path) -> Result<(), LayoutError> {
    durable::make_private(dir).map_err(failed("make", dir))
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
    durable::replace(dir, name, bytes).map_err(failed("write", &dir.join(name)))
}

fn sync(dir: &Path) -> Result<(), LayoutError> {
    durable::sync(dir).map_err(failed("sync", dir))
}

fn remove(path: &Path) -> Result<(), LayoutError> {
    durable::remove(path).map_err(failed("remove", path))
}

fn remove_tree(path: &Path) -> Result<(), LayoutError> {
    durable::remove_tree(path).map_err(failed("remove", path))
}

impl Layout {
    /// The files below a state directory.
    #[must_use]
    pub fn below(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
        }
    }

    fn versions(&self) -> PathBuf {
        self.state.join("versions")
    }

    fn folder(&self) -> PathBuf {
        self.state.join("update")
    }

    /// Where the download of an archive is collected. `sha256` is hexadecimal.
    #[must_use]
    pub fn incoming(&self, sha256: &str) -> PathBuf {
        self.folder()
            .join("incoming")
            .join(format!("{sha256}.part"))
    }

    /// The program of a version.
    #[must_use]
    pub fn program(&self, version: &str) -> PathBuf {
        self.versions().join(version).join(PROGRAM)
    }

    /// Whether a version lies here whole, whichever archive it came in.
    #[must_use]
    pub fn has(&self, version: &str) -> bool {
        self.program(version).is_file()
    }

    /// Whether a version lies here and came in that archive.
    #[must_use]
    pub fn came_in(&self, version: &str, archive: &Archive) -> bool {
        let mark = self.versions().join(version).join(ARCHIVE);
        self.has(version) && fs::read_to_string(mark).is_ok_and(|mark| mark == archive.sha256)
    }

    /// The record of the last update.
    ///
    /// # Errors
    /// [`LayoutError`] when it cannot be read.
    pub fn record(&self) -> Result<Option<UpdateRecord>, LayoutError> {
        let path = self.folder().join("record");
        match fs::read(&path) {
            Ok(bytes) => UpdateRecord::decode(&bytes)
                .map(Some)
                .map_err(|reason| LayoutError::Record { path, reason }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Keeps the record.
    ///
    /// # Errors
    /// [`LayoutError`]; the one before is there then.
    pub fn keep(&self, record: &UpdateRecord) -> Result<(), LayoutError> {
        make_private(&self.folder())?;
        replace(&self.folder(), "record", &record.encode())
    }

    /// What is selected.
    #[must_use]
    pub fn selected(&self) -> Slot {
        let link = fs::read_link(self.versions().join(CURRENT)).ok()?;
        let name = link.to_str()?;
        version(name).is_ok().then(|| name.to_owned())
    }

    /// Selects a version that lies here, or the launcher's own.
    ///
    /// # Errors
    /// [`LayoutError`]; what was selected before is then.
    pub fn select(&self, slot: &Slot) -> Result<(), LayoutError> {
        let versions = self.versions();
        make_private(&versions)?;
        let current = versions.join(CURRENT);
        let Some(name) = slot else {
            remove(&current)?;
            return sync(&versions);
        };
        let fresh = versions.join(".current.new");
        remove(&fresh)?;
        symlink(name, &fresh).map_err(failed("make", &fresh))?;
        fs::rename(&fresh, &current).map_err(failed("rename", &current))?;
        sync(&versions)
    }

    /// Keeps a record, and selects what it says.
    ///
    /// # Errors
    /// [`LayoutError`]; the record may be kept then, and a launcher selects by it.
    pub fn enact(&self, record: &UpdateRecord) -> Result<(), LayoutError> {
        self.keep(record)?;
        self.select(record.selected())
    }

    /// Checks that there is room for an archive and what is in it.
    ///
    /// # Errors
    /// [`LayoutError::Space`], or what the system says.
    pub fn check_space(&self, archive: &Archive) -> Result<(), LayoutError> {
        make_private(&self.folder())?;
        let stat = rustix::fs::statvfs(&self.state)
            .map_err(|error| failed("look at", &self.state)(error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let here = fs::metadata(self.incoming(&archive.sha256)).map_or(0, |part| part.len());
        let needed = archive.bytes.saturating_sub(here) + archive.unpacked_bytes + FREE_BYTES_MIN;
        if free >= needed {
            return Ok(());
        }
        Err(LayoutError::Space {
            path: self.state.clone(),
            free,
            needed,
        })
    }

    /// Lays the version in a downloaded archive beside the others, and forgets the
    /// download.
    ///
    /// # Errors
    /// [`LayoutError`]; nothing of it is left then but the download.
    pub fn lay(&self, version: &str, archive: &Archive) -> Result<(), LayoutError> {
        let versions = self.versions();
        make_private(&versions)?;
        let fresh = versions.join(format!(".{version}.new"));
        remove_tree(&fresh)?;
        let incoming = self.incoming(&archive.sha256);
        let laid = unpack(&incoming, &fresh, archive.unpacked_bytes)
            .map_err(LayoutError::from)
            .and_then(|()| replace(&fresh, ARCHIVE, archive.sha256.as_bytes()))
            .and_then(|()| {
                let place = versions.join(version);
                remove_tree(&place)?;
                fs::rename(&fresh, &place).map_err(failed("rename", &place))?;
                sync(&versions)
            });
        if laid.is_err() {
            // What is left is removed before the next try, too.
            drop(remove_tree(&fresh));
        }
        laid?;
        drop(fs::remove_file(&incoming));
        Ok(())
    }

    /// Forgets a download that is not what it should be.
    pub fn forget_incoming(&self, sha256: &str) {
        drop(fs::remove_file(self.incoming(sha256)));
    }

    /// Removes versions but those that are named, and every download.
    ///
    /// # Errors
    /// What the system says; the rest is removed the next time.
    pub fn prune(&self, keep: &[&str]) -> Result<(), LayoutError> {
        remove_tree(&self.folder().join("incoming"))?;
        let versions = self.versions();
        let Ok(entries) = fs::read_dir(&versions) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !keep.contains(&name.as_ref()) {
                remove_tree(&entry.path())?;
            }
        }
        sync(&versions)
    }
}
