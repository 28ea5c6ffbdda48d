//! The only source of time and ids for a decision.
//!
//! The shell reads its clock and its random source once per batch and hands
//! both in, so that a decision can be made again with the same outcome.

use protocol::id::{ID_BYTES, Id};
use protocol::time::UnixMillis;

use crate::domain::digest::Digest;

/// When a decision is made, and the seed of the ids that it may give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The controller's time.
    pub now: UnixMillis,
    /// Ids of this moment.
    pub ids: IdSeed,
}

/// 256 random bits from which ids are derived. Two moments must never share
/// one: ids are random and never reused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdSeed([u8; 32]);

impl Moment {
    /// A moment at `now` with ids from 32 fresh random bytes.
    #[must_use]
    pub fn new(now: UnixMillis, seed: [u8; 32]) -> Self {
        Self {
            now,
            ids: IdSeed(seed),
        }
    }

    /// The same point in time with ids of its own, for the `index`th request of
    /// a batch.
    #[must_use]
    pub fn nth(&self, index: usize) -> Self {
        let seed = Digest::of(
            "flotilla moment",
            &[&self.ids.0, &(index as u64).to_be_bytes()],
        );
        Self {
            now: self.now,
            ids: IdSeed(seed.0),
        }
    }
}

impl IdSeed {
    /// The `index`th id of this seed.
    #[must_use]
    pub fn id<K>(&self, index: u32) -> Id<K> {
        let digest = Digest::of("flotilla id", &[&self.0, &index.to_be_bytes()]);
        let mut bytes = [0; ID_BYTES];
        bytes.copy_from_slice(&digest.0[..ID_BYTES]);
        Id::from_bytes(bytes)
    }
}

impl core::fmt::Debug for IdSeed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("IdSeed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::NodeId;

    #[test]
    fn ids_repeat_for_a_seed_and_differ_otherwise() {
        let moment = Moment::new(UnixMillis(1), [1; 32]);
        let first: NodeId = moment.ids.id(0);
        assert_eq!(first, moment.ids.id(0));
        assert_ne!(first, moment.ids.id(1));
        assert_ne!(first, moment.nth(0).ids.id(0));
        assert_ne!(
            moment.nth(0).ids.id::<protocol::id::Node>(0),
            moment.nth(1).ids.id(0)
        );
    }
}
