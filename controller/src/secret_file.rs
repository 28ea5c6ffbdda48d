//! Files with a secret, that only their owner reads: keys that are kept elsewhere than
//! with the controller.
//!
//! **Invariant:** what is read here nobody else could read, as far as the file's mode
//! says, and its content is in no error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Bytes of such a file that are read; keys are far smaller.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a file with a secret cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("{} may be read by others than its owner (mode {mode:o})", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Makes a file that is not there.
///
/// # Errors
/// [`SecretFileError::File`].
pub(crate) fn create(path: &Path, content: &[u8]) -> Result<(), SecretFileError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(|source| SecretFileError::File {
            path: path.to_owned(),
            source,
        })
}

/// Reads a file.
///
/// # Errors
/// [`SecretFileError`].
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |source| SecretFileError::File {
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(SecretFileError::Open { path, mode });
    }
    let mut content = Zeroizing::new(Vec::new());
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content))
        .map_err(failed)?;
    Ok(content)
}
