//! The hash chain over records, and the checkpoints that a key signs.
//!
//! Each link is the digest of the one before and of the record's bytes as they
//! are stored, so a record that was changed, removed or moved breaks every link
//! after it. Whoever can write the file can also compute a new chain, which is
//! why checkpoints are signed and why nodes keep the newest one as witnesses.

use protocol::id::FleetId;
use protocol::key::{KeyId, PublicKey, SigningKey};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;

/// The link before the first record: names the fleet and the journal's birth, so
/// that no two journals share a beginning.
#[must_use]
pub fn genesis(fleet: FleetId, created_at: UnixMillis) -> Digest {
    Digest::of(
        "flotilla journal 1",
        &[fleet.as_bytes(), &created_at.0.to_be_bytes()],
    )
}

/// The link of a record.
#[must_use]
pub fn link(previous: &Digest, record: &[u8]) -> Digest {
    Digest::of("flotilla record 1", &[&previous.0, record])
}

/// A signed statement that the chain stood at `hash` after record `seq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The last record that it covers; 0 for an empty journal.
    pub seq: u64,
    /// That record's link.
    pub hash: Digest,
    /// When it was signed, in controller time.
    pub at: UnixMillis,
    /// Which key signed.
    pub key: KeyId,
    /// The Ed25519 signature (RFC 8032), in hexadecimal.
    pub signature: String,
}

impl Checkpoint {
    /// Signs the state of a chain.
    #[must_use]
    pub fn sign(key: &SigningKey, fleet: FleetId, seq: u64, hash: Digest, at: UnixMillis) -> Self {
        let signature = key.sign(&payload(fleet, seq, &hash, at));
        Self {
            seq,
            hash,
            at,
            key: key.public().id(),
            signature: data_encoding::HEXLOWER.encode(&signature),
        }
    }

    /// Whether `key` signed it for this fleet.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey, fleet: FleetId) -> bool {
        data_encoding::HEXLOWER
            .decode(self.signature.as_bytes())
            .is_ok_and(|signature| {
                key.verifies(&payload(fleet, self.seq, &self.hash, self.at), &signature)
            })
    }
}

/// What a checkpoint's signature is over.
fn payload(fleet: FleetId, seq: u64, hash: &Digest, at: UnixMillis) -> Vec<u8> {
    [
        b"flotilla checkpoint 1\0".as_slice(),
        fleet.as_bytes(),
        &seq.to_be_bytes(),
        &hash.0,
        &at.0.to_be_bytes(),
    ]
    .concat()
}

/// The last line of an export: a signed statement of what the export holds.
///
/// It is not a checkpoint, so that an export cannot be cut at an earlier
/// checkpoint and still end well, and it covers the beginning too, so that
/// nothing can be cut off there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// The first record of the export.
    pub from: u64,
    /// The last record of the export; `from` less one when it is empty.
    pub seq: u64,
    /// The link after the last record.
    pub hash: Digest,
    /// When it was signed, in controller time.
    pub at: UnixMillis,
    /// Which key signed.
    pub key: KeyId,
    /// The Ed25519 signature, in hexadecimal.
    pub signature: String,
}

impl Seal {
    /// Signs what an export of the records from `from` to `seq` holds; `previous`
    /// is the link before the first.
    #[must_use]
    pub fn sign(
        key: &SigningKey,
        fleet: FleetId,
        (from, previous): (u64, Digest),
        (seq, hash): (u64, Digest),
        at: UnixMillis,
    ) -> Self {
        let mut seal = Self {
            from,
            seq,
            hash,
            at,
            key: key.public().id(),
            signature: String::new(),
        };
        seal.signature = data_encoding::HEXLOWER.encode(&key.sign(&seal.payload(fleet, &previous)));
        seal
    }

    /// Whether `key` signed it for this fleet and this link before the first
    /// record.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey, fleet: FleetId, previous: &Digest) -> bool {
        data_encoding::HEXLOWER
            .decode(self.signature.as_bytes())
            .is_ok_and(|signature| key.verifies(&self.payload(fleet, previous), &signature))
    }

    fn payload(&self, fleet: FleetId, previous: &Digest) -> Vec<u8> {
        [
            b"flotilla export 1\0".as_slice(),
            fleet.as_bytes(),
            &self.from.to_be_bytes(),
            &previous.0,
            &self.seq.to_be_bytes(),
            &self.hash.0,
            &self.at.0.to_be_bytes(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: FleetId = FleetId::from_bytes([1; 10]);

    #[test]
    fn a_link_depends_on_what_came_before() {
        let start = genesis(FLEET, UnixMillis(1));
        assert_ne!(start, genesis(FleetId::from_bytes([2; 10]), UnixMillis(1)));
        assert_ne!(start, genesis(FLEET, UnixMillis(2)));
        let ab = link(&link(&start, b"a"), b"b");
        let ba = link(&link(&start, b"b"), b"a");
        assert_ne!(ab, ba);
        assert_ne!(link(&start, b"ab"), ab);
    }

    #[test]
    fn a_checkpoint_holds_for_its_key_fleet_and_contents_alone() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let other = SigningKey::from_seed(&[2; 32]).unwrap().public();
        let signed = Checkpoint::sign(&key, FLEET, 7, Digest([3; 32]), UnixMillis(9));
        assert!(signed.is_signed_by(&key.public(), FLEET));
        assert!(!signed.is_signed_by(&other, FLEET));
        assert!(!signed.is_signed_by(&key.public(), FleetId::from_bytes([2; 10])));
        for changed in [
            Checkpoint {
                seq: 8,
                ..signed.clone()
            },
            Checkpoint {
                hash: Digest([4; 32]),
                ..signed.clone()
            },
            Checkpoint {
                at: UnixMillis(8),
                ..signed.clone()
            },
            Checkpoint {
                signature: "00".repeat(64),
                ..signed.clone()
            },
            Checkpoint {
                signature: "no".to_owned(),
                ..signed.clone()
            },
        ] {
            assert!(!changed.is_signed_by(&key.public(), FLEET), "{changed:?}");
        }
    }
}
