//! The key directory: private files, written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::PkiError;
use crate::durable;

/// Bytes of a key file that are read; keys and certificates are far smaller.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The directory, which exists.
pub(super) struct KeyDirectory {
    path: PathBuf,
}

impl KeyDirectory {
    /// Opens the directory, making it with mode 0700.
    pub(super) fn open(path: &Path) -> Result<Self, PkiError> {
        durable::make_private(path).map_err(|source| PkiError::File {
            step: "make",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file's content; none when it does not exist.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, PkiError> {
        let path = self.path_of(name);
        let fault = |source| PkiError::File {
            step: "read",
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut content)
            .map_err(fault)?;
        Ok(Some(content))
    }

    /// A file's content, which must be there.
    pub(super) fn require(&self, name: &str) -> Result<Vec<u8>, PkiError> {
        self.read(name)?.ok_or_else(|| PkiError::Missing {
            path: self.path_of(name),
        })
    }

    /// A file's content as text.
    pub(super) fn require_text(&self, name: &str) -> Result<String, PkiError> {
        String::from_utf8(self.require(name)?).map_err(|_| self.damaged(name, "it is not text"))
    }

    /// Writes a file with mode 0600, durably, replacing an older one in one step.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), PkiError> {
        let path = self.path_of(name);
        durable::replace(&path, content).map_err(|source| PkiError::File {
            step: "write",
            path,
            source,
        })
    }

    /// Removes a file; one that is not there is fine.
    pub(super) fn remove(&self, name: &str) -> Result<(), PkiError> {
        let path = self.path_of(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PkiError::File {
                step: "remove",
                path,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Every file with its content, by name.
    pub(super) fn all(&self) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, PkiError> {
        let fault = |source| PkiError::File {
            step: "list",
            path: self.path.clone(),
            source,
        };
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&self.path).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let is_file = entry.file_type().map_err(fault)?.is_file();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_file
                && !name.ends_with(durable::PARTIAL)
                && let Some(content) = self.read(&name)?
            {
                all.insert(name, Zeroizing::new(content));
            }
        }
        Ok(all)
    }

    pub(super) fn damaged(&self, name: &str, reason: impl ToString) -> PkiError {
        PkiError::Damaged {
            path: self.path_of(name),
            reason: reason.to_string(),
        }
    }
}
