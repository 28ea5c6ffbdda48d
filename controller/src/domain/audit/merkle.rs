//! Merkle roots over receipts, so that the journal answers for ten thousand
//! final states with one digest.
//!
//! The tree is that of RFC 6962, section 2.1: leaves and inner nodes are hashed
//! for different purposes, and a list is split at the largest power of two below
//! its length, so that no other list has the same root.

use crate::domain::digest::Digest;

/// The digest of a leaf with this content.
#[must_use]
pub fn leaf(content: &[u8]) -> Digest {
    Digest::of("flotilla merkle leaf", &[content])
}

/// The root over leaves in their order.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::of("flotilla merkle empty", &[]),
        [only] => *only,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(split);
            Digest::of("flotilla merkle inner", &[&root(left).0, &root(right).0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shapes_follow_the_rfc() {
        let leaves: Vec<Digest> = (0..5_u8).map(|n| leaf(&[n])).collect();
        let inner = |a: Digest, b: Digest| Digest::of("flotilla merkle inner", &[&a.0, &b.0]);
        assert_eq!(root(&leaves[..1]), leaves[0]);
        assert_eq!(root(&leaves[..2]), inner(leaves[0], leaves[1]));
        assert_eq!(
            root(&leaves[..3]),
            inner(inner(leaves[0], leaves[1]), leaves[2])
        );
        assert_eq!(
            root(&leaves),
            inner(
                inner(inner(leaves[0], leaves[1]), inner(leaves[2], leaves[3])),
                leaves[4]
            )
        );
        assert_ne!(root(&[]), leaf(&[]));
    }

    proptest! {
        #[test]
        fn invariant_a_changed_moved_or_missing_leaf_changes_the_root(
            contents in proptest::collection::vec(any::<u16>(), 2..40),
            at in any::<proptest::sample::Index>(),
        ) {
            let leaves: Vec<Digest> =
                contents.iter().enumerate().map(|(n, c)| leaf(format!("{n} {c}").as_bytes())).collect();
            let whole = root(&leaves);
            let at = at.index(leaves.len());
            let mut changed = leaves.clone();
            changed[at] = leaf(b"other");
            prop_assert_ne!(root(&changed), whole);
            let mut missing = leaves.clone();
            missing.remove(at);
            prop_assert_ne!(root(&missing), whole);
            let mut moved = leaves.clone();
            moved.rotate_left(1);
            prop_assert_ne!(root(&moved), whole);
        }
    }
}
