//! API keys: the secrets by which principals prove who they are.
//!
//! A key is 256 random bits, shown once and stored as a digest. A plain digest
//! is enough: nobody can guess 256 bits, so there is nothing for a slow password
//! hash to slow down, and a check costs a microsecond on every request.
//!
//! **Invariant:** the secret is in no event, no state and no `Debug`.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use protocol::id::{ApiKeyId, ID_CHARS, PrincipalId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::permission::Permission;
use crate::domain::digest::Digest;

/// Keys of one principal that are neither revoked nor expired.
pub const KEYS_PER_PRINCIPAL_MAX: usize = 32;

/// The longest life of a key.
pub const KEY_LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600 * 5);

/// The longest time for which a rotated key stays valid beside the new one.
pub const KEY_OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a key's note.
pub const KEY_NOTE_BYTES_MAX: usize = 120;

/// Permissions in a key's scope.
pub const KEY_SCOPE_MAX: usize = 64;

/// What an API key's text begins with; lets secret scanners recognise one.
pub const KEY_PREFIX: &str = "flk1_";

/// What is known about an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its serial, which is no secret.
    pub id: ApiKeyId,
    /// Whose it is.
    pub principal: PrincipalId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// What it may be used for, at most; none for all that its principal may do.
    pub scope: Option<BTreeSet<Permission>>,
    /// What it is for, in its owner's words.
    pub note: String,
    /// When it was made.
    pub created_at: UnixMillis,
    /// From when on it is refused.
    pub expires_at: Option<UnixMillis>,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
    /// The key that took its place.
    pub rotated_to: Option<ApiKeyId>,
}

impl ApiKey {
    /// Whether it opens anything at `now`.
    #[must_use]
    pub fn is_live(&self, now: UnixMillis) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether its scope lets `permission` through.
    #[must_use]
    pub fn allows(&self, permission: &Permission) -> bool {
        self.scope
            .as_ref()
            .is_none_or(|scope| scope.iter().any(|held| held.covers(permission)))
    }
}

/// The digest of a secret: of an API key or of a join token.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretDigest(Digest);

impl SecretDigest {
    /// The digest that is stored for a secret.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Self {
        Self(Digest::of("flotilla secret", &[secret]))
    }

    /// Whether both are of one secret, in a time that tells nothing.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.matches(&other.0)
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest")
    }
}

/// An API key as its owner holds it: `flk1_`, the serial, the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyText {
    /// The key's serial.
    pub id: ApiKeyId,
    /// Its secret, 256 random bits.
    pub secret: [u8; 32],
}

/// A text that is not an API key. Does not repeat the text, which may be a
/// secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an API key: one is {KEY_PREFIX} and 68 characters of a-z and 2-7")]
pub struct ParseKeyTextError;

impl ApiKeyText {
    /// The key as it is shown, once.
    #[must_use]
    pub fn reveal(&self) -> String {
        let secret = BASE32_NOPAD.encode(&self.secret).to_ascii_lowercase();
        format!("{KEY_PREFIX}{}{secret}", self.id)
    }
}

impl fmt::Debug for ApiKeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeyText({}…)", self.id)
    }
}

impl FromStr for ApiKeyText {
    type Err = ParseKeyTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_at_checked(ID_CHARS)?;
            if secret.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return None;
            }
            let bytes = BASE32_NOPAD
                .decode(secret.to_ascii_uppercase().as_bytes())
                .ok()?;
            Some(Self {
                id: id.parse().ok()?,
                secret: bytes.try_into().ok()?,
            })
        };
        parse().ok_or(ParseKeyTextError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> ApiKeyText {
        ApiKeyText {
            id: ApiKeyId::from_bytes([3; 10]),
            secret: [0xc5; 32],
        }
    }

    #[test]
    fn a_key_reads_back_from_its_text() {
        let shown = text().reveal();
        assert_eq!(shown.len(), KEY_PREFIX.len() + 16 + 52);
        assert_eq!(shown.parse(), Ok(text()));
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_repeating_it() {
        let shown = text().reveal();
        for bad in [
            String::new(),
            "flk1_".to_owned(),
            shown.to_ascii_uppercase(),
            format!("{shown}a"),
            shown.chars().take(shown.len() - 1).collect(),
            shown.replace("flk1_", "flk2_"),
            format!("flk1_{}", "é".repeat(34)),
        ] {
            let error = bad.parse::<ApiKeyText>().unwrap_err();
            assert!(bad.len() < 8 || !error.to_string().contains(&bad));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:?}", text(), SecretDigest::of(&[7; 32]));
        assert!(!shown.contains(&BASE32_NOPAD.encode(&[0xc5; 32]).to_ascii_lowercase()));
        assert!(!shown.contains("197"), "{shown}");
    }

    #[test]
    fn only_the_same_secret_matches() {
        let digest = SecretDigest::of(&[1; 32]);
        assert!(digest.matches(&SecretDigest::of(&[1; 32])));
        assert!(!digest.matches(&SecretDigest::of(&[2; 32])));
    }
}
