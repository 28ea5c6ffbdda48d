//! Release keys: Ed25519 in PKCS#8, in a file that only its owner reads.

use std::path::{Path, PathBuf};

use protocol::ErrorCode;
use protocol::key::{PublicKey, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

use crate::secret_file::{self, SecretFileError};

/// Why a release key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
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
            Self::File(_) | Self::Invalid { .. } => ErrorCode::ConfigInvalid,
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
    secret_file::create(path, pkcs8.as_ref())?;
    Ok(read(path)?.public())
}

/// Reads a key.
///
/// # Errors
/// [`KeyError`].
pub fn read(path: &Path) -> Result<SigningKey, KeyError> {
    let bytes = secret_file::read(path)?;
    SigningKey::from_pkcs8(&bytes).map_err(|error| KeyError::Invalid {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
