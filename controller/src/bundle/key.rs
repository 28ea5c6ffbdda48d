//! Release keys: Ed25519 in PKCS#8, in a file that only its owner reads.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::ErrorCode;
use protocol::key::{PublicKey, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

/// Why a release key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
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
    /// It is no key.
    #[error("{} is no release key: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl KeyError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File { .. } | Self::Open { .. } | Self::Invalid { .. } => {
                ErrorCode::ConfigInvalid
            }
            Self::Random => ErrorCode::Internal,
        }
    }
}

/// Makes a key in a file that is not there.
///
/// # Errors
/// [`KeyError`].
pub fn create(path: &Path) -> Result<PublicKey, KeyError> {
    let pkcs8 =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(pkcs8.as_ref())?;
            file.sync_all()
        });
    written.map_err(|source| KeyError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(read(path)?.public())
}

/// Reads a key.
///
/// # Errors
/// [`KeyError`].
pub fn read(path: &Path) -> Result<SigningKey, KeyError> {
    let failed = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(KeyError::Open { path, mode });
    }
    let bytes = zeroize::Zeroizing::new(fs::read(path).map_err(failed)?);
    SigningKey::from_pkcs8(&bytes).map_err(|error| KeyError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
