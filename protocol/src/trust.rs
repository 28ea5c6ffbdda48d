//! The trust set: whom a fleet believes, signed by the fleet's root key.
//!
//! A node pins the root's public key when it joins. Controller keys and CAs may
//! then change: a newer set that the root signed replaces the older one, an older
//! or equal version never does. While keys overlap, both are in the set.

use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::id::FleetId;
use crate::key::{KeyId, PublicKey, SigningKey};
use crate::message;
use crate::time::UnixMillis;

/// Whom the fleet believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSet {
    /// The fleet that it is for.
    pub fleet: FleetId,
    /// Grows with every change.
    pub version: u64,
    /// When it was signed, in controller time.
    pub issued_at: UnixMillis,
    /// Keys that may sign for the controller.
    pub controller_keys: Vec<PublicKey>,
    /// Certificate authorities, in PEM.
    pub authorities: Vec<String>,
    /// Keys that may sign releases.
    pub release_keys: Vec<PublicKey>,
}

/// A trust set as it travels: the bytes that were signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTrust {
    /// The encoded [`TrustSet`].
    pub bytes: Vec<u8>,
    /// The root key's Ed25519 signature over `flotilla trust 1\0` and the bytes.
    pub signature: Vec<u8>,
}

/// A trust set that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The root did not sign it.
    #[error("trust set is not signed by the fleet's root key")]
    BadSignature,
    /// It does not decode.
    #[error("trust set is malformed: {0}")]
    Malformed(String),
    /// It is another fleet's.
    #[error("trust set belongs to fleet {found}, not {expected}")]
    WrongFleet {
        /// The fleet in the set.
        found: FleetId,
        /// Ours.
        expected: FleetId,
    },
    /// It is not newer than the one that is held.
    #[error("trust set version {found} is not newer than {held}")]
    Stale {
        /// The version in the set.
        found: u64,
        /// The version held.
        held: u64,
    },
}

impl TrustError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadSignature | Self::Malformed(_) | Self::WrongFleet { .. } => {
                ErrorCode::TrustInvalid
            }
            Self::Stale { .. } => ErrorCode::TrustStale,
        }
    }
}

/// Keeps a signature over a trust set from being one over anything else.
const DOMAIN: &[u8] = b"flotilla trust 1\0";

impl TrustSet {
    /// Signs the set with the fleet's root key.
    #[must_use]
    pub fn sign(&self, root: &SigningKey) -> SignedTrust {
        let bytes = message::encode(self);
        SignedTrust {
            signature: root.sign_as(DOMAIN, &bytes),
            bytes,
        }
    }

    /// The controller key with that id.
    #[must_use]
    pub fn controller_key(&self, id: KeyId) -> Option<PublicKey> {
        self.controller_keys
            .iter()
            .copied()
            .find(|key| key.id() == id)
    }
}

impl SignedTrust {
    /// Checks the root's signature, the fleet, and that the version is above
    /// `held` (0 when none is held).
    ///
    /// # Errors
    /// [`TrustError`], the first check that fails.
    pub fn verify(
        &self,
        root: &PublicKey,
        fleet: FleetId,
        held: u64,
    ) -> Result<TrustSet, TrustError> {
        if !root.verifies_as(DOMAIN, &self.bytes, &self.signature) {
            return Err(TrustError::BadSignature);
        }
        let set: TrustSet = message::decode_exactly(&self.bytes).map_err(TrustError::Malformed)?;
        if set.fleet != fleet {
            return Err(TrustError::WrongFleet {
                found: set.fleet,
                expected: fleet,
            });
        }
        if set.version <= held {
            return Err(TrustError::Stale {
                found: set.version,
                held,
            });
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([1; 10]);

    fn set() -> TrustSet {
        TrustSet {
            fleet: FLEET,
            version: 3,
            issued_at: UnixMillis(1),
            controller_keys: vec![],
            authorities: vec!["pem".to_owned()],
            release_keys: vec![],
        }
    }

    #[test]
    fn only_a_newer_set_of_our_root_and_fleet_is_believed() {
        let root = SigningKey::from_seed(&[1; 32]).unwrap();
        let signed = set().sign(&root);
        assert_eq!(signed.verify(&root.public(), FLEET, 2), Ok(set()));

        let stale = signed.verify(&root.public(), FLEET, 3).unwrap_err();
        assert_eq!(stale.code(), ErrorCode::TrustStale);

        let other_root = SigningKey::from_seed(&[2; 32]).unwrap().public();
        assert_eq!(
            signed.verify(&other_root, FLEET, 0),
            Err(TrustError::BadSignature)
        );

        let other_fleet = FleetId::from_bytes([9; 10]);
        assert!(matches!(
            signed.verify(&root.public(), other_fleet, 0),
            Err(TrustError::WrongFleet { .. })
        ));

        let mut changed = signed.clone();
        changed.bytes[0] ^= 1;
        assert_eq!(
            changed.verify(&root.public(), FLEET, 0),
            Err(TrustError::BadSignature)
        );
    }

    #[test]
    fn a_signature_over_the_bare_bytes_does_not_pass() {
        let root = SigningKey::from_seed(&[1; 32]).unwrap();
        let mut signed = set().sign(&root);
        signed.signature = root.sign(&signed.bytes).to_vec();
        assert_eq!(
            signed.verify(&root.public(), FLEET, 0),
            Err(TrustError::BadSignature)
        );
    }
}
