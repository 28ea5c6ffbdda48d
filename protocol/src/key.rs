//! Ed25519 keys (RFC 8032) that sign what crosses the wire.
//!
//! TLS keys are others: these stay valid while certificates come and go. The
//! bytes of a new key are drawn by whoever owns it; here they are only used.

use core::fmt;
use core::str::FromStr;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A signing key. `Debug` shows the public half only.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// A key file that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 key in PKCS#8: {reason}")]
pub struct ParseKeyError {
    reason: String,
}

impl SigningKey {
    /// Reads a key in PKCS#8 v1 or v2 (RFC 5958), DER.
    ///
    /// # Errors
    /// When the bytes are not such a key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, ParseKeyError> {
        let pair =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|error| ParseKeyError {
                reason: error.to_string(),
            })?;
        Ok(Self::from_pair(pair))
    }

    /// Makes a key from a secret seed of 32 random bytes.
    ///
    /// # Errors
    /// Never for a seed of this length; the signature follows the library's.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, ParseKeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| ParseKeyError {
            reason: error.to_string(),
        })?;
        Ok(Self::from_pair(pair))
    }

    fn from_pair(pair: Ed25519KeyPair) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(pair.public_key().as_ref());
        Self {
            pair,
            public: PublicKey(bytes),
        }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs the bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }

    /// Signs bytes as what `domain` names, so that the signature is one over nothing
    /// else.
    #[must_use]
    pub fn sign_as(&self, domain: &[u8], bytes: &[u8]) -> Vec<u8> {
        self.sign(&[domain, bytes].concat()).to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

/// The public half of a signing key. Text form: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// The first eight bytes of the SHA-256 of a public key: enough to tell which of
/// a sender's keys signed, never a proof of anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

impl PublicKey {
    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = digest(&SHA256, &self.0);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_ref()[..8]);
        KeyId(bytes)
    }

    /// Whether the signature is this key's over the bytes.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(bytes, signature)
            .is_ok()
    }

    /// Whether the signature is this key's over bytes as what `domain` names; see
    /// [`SigningKey::sign_as`].
    #[must_use]
    pub fn verifies_as(&self, domain: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
        signature.len() == SIGNATURE_BYTES && self.verifies(&[domain, bytes].concat(), signature)
    }
}

/// Whether one of `keys` signed bytes as what `domain` names: the one with that id.
#[must_use]
pub fn is_signed_by(
    keys: &[PublicKey],
    id: KeyId,
    domain: &[u8],
    bytes: &[u8],
    signature: &[u8],
) -> bool {
    keys.iter()
        .any(|key| key.id() == id && key.verifies_as(domain, bytes, signature))
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseKeyError {
            reason: "a public key is 64 lowercase hexadecimal digits".to_owned(),
        };
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| refuse())?;
        bytes.try_into().map(Self).map_err(|_| refuse())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_bytes_and_key_alone() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let other = SigningKey::from_seed(&[8; 32]).unwrap();
        let signature = key.sign(b"hello");
        assert!(key.public().verifies(b"hello", &signature));
        assert!(!key.public().verifies(b"hellp", &signature));
        assert!(!other.public().verifies(b"hello", &signature));
        assert!(!key.public().verifies(b"hello", &signature[..63]));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        assert_eq!(
            format!("{key:?}"),
            format!("SigningKey({})", key.public().id())
        );
    }

    #[test]
    fn the_text_form_reads_back() {
        let public = SigningKey::from_seed(&[1; 32]).unwrap().public();
        assert_eq!(public.to_string().parse::<PublicKey>().unwrap(), public);
        assert!("zz".parse::<PublicKey>().is_err());
    }
}
