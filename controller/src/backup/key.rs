//! Backup keys: X25519, in the format of age's key files.
//!
//! The private half stays away from the controller, in a file that `age` reads too;
//! the public half, the recipient, is named in the controller's configuration.

use core::fmt;
use core::str::FromStr;
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use age::x25519;
use zeroize::Zeroizing;

use super::BackupError;
use crate::secret_file;

/// Keys of a file that are tried.
const KEYS_MAX: usize = 16;

/// The public half of a backup key: `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

/// A text that is no recipient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no public backup key; `flotilla backup key create` prints one, which begins with age1"
)]
pub struct ParseRecipientError {
    text: String,
}

impl Recipient {
    pub(super) fn of(&self) -> &dyn age::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = ParseRecipientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| ParseRecipientError {
            // The beginning: someone may have pasted the private half.
            text: text.chars().take(8).collect(),
        })
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes a key in a file that is not there, and returns its public half.
///
/// # Errors
/// [`BackupError::KeyFile`].
pub fn create(path: &Path) -> Result<Recipient, BackupError> {
    let key = x25519::Identity::generate();
    let recipient = Recipient(key.to_public());
    let text = Zeroizing::new(format!(
        "# Flotilla backup key\n# public key: {recipient}\n{}\n",
        key.to_string().expose_secret()
    ));
    secret_file::create(path, text.as_bytes())?;
    Ok(recipient)
}

/// The keys in a file, one a line.
pub(super) fn read(path: &Path) -> Result<Vec<x25519::Identity>, BackupError> {
    let content = secret_file::read(path)?;
    let none = || BackupError::NoKey {
        path: path.to_owned(),
    };
    let keys: Vec<x25519::Identity> = std::str::from_utf8(&content)
        .map_err(|_| none())?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .take(KEYS_MAX)
        .map(|line| line.parse().map_err(|_| none()))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(none());
    }
    Ok(keys)
}
