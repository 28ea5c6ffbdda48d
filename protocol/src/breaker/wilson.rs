//! The lower end of a share's confidence interval, by Wilson's score.
//!
//! E. B. Wilson, "Probable inference, the law of succession, and statistical
//! inference" (1927). Unlike the normal approximation it behaves at small numbers
//! and near 0 and 1: it never leaves the range from 0 to the share.

/// The lower end of the one-sided interval of `hits` of `samples` at `z` standard
/// deviations; 0 without samples, and the share itself at `z` 0. More hits than
/// samples count as all of them.
#[must_use]
pub fn lower_bound(hits: u32, samples: u32, z: f64) -> f64 {
    if samples == 0 {
        return 0.0;
    }
    let n = f64::from(samples);
    let share = f64::from(hits.min(samples)) / n;
    let z2 = z * z;
    let centre = share + z2 / (2.0 * n);
    let spread = z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // The difference of two equal numbers may round to a little below zero, and
    // at z 0 to a little beside the share.
    ((centre - spread) / (1.0 + z2 / n)).clamp(0.0, share)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(hits: u32, samples: u32, z: f64, expected: f64) {
        let found = lower_bound(hits, samples, z);
        assert!(
            (found - expected).abs() < 5e-4,
            "{hits} of {samples} at {z}: {found}, not {expected}"
        );
    }

    #[test]
    fn known_values() {
        check(0, 10, 1.96, 0.0);
        check(1, 10, 1.96, 0.0179);
        check(5, 10, 1.96, 0.2366);
        check(10, 10, 1.96, 0.7225);
        check(1, 1, 1.96, 0.2065);
        check(2, 2, 1.96, 0.3424);
        check(50, 100, 1.645, 0.4189);
        check(0, 0, 1.96, 0.0);
        check(3, 4, 0.0, 0.75);
    }

    fn counts() -> impl Strategy<Value = (u32, u32)> {
        (1_u32..5_000).prop_flat_map(|samples| (0..=samples, Just(samples)))
    }

    proptest! {
        #[test]
        fn invariant_the_bound_lies_between_zero_and_the_share((hits, samples) in counts(), z in 0.0_f64..4.0) {
            let bound = lower_bound(hits, samples, z);
            prop_assert!(bound >= 0.0);
            prop_assert!(bound <= f64::from(hits) / f64::from(samples));
        }

        #[test]
        fn invariant_more_hits_never_lower_it((hits, samples) in counts(), z in 0.0_f64..4.0) {
            let next = (hits + 1).min(samples);
            prop_assert!(lower_bound(next, samples, z) >= lower_bound(hits, samples, z));
        }

        #[test]
        fn invariant_more_samples_without_a_hit_never_raise_it((hits, samples) in counts(), z in 0.0_f64..4.0) {
            prop_assert!(lower_bound(hits, samples + 1, z) <= lower_bound(hits, samples, z) + 1e-12);
        }

        #[test]
        fn invariant_more_confidence_never_raises_it((hits, samples) in counts(), z in 0.0_f64..3.0, more in 0.0_f64..1.0) {
            prop_assert!(lower_bound(hits, samples, z + more) <= lower_bound(hits, samples, z) + 1e-12);
        }

        #[test]
        fn invariant_at_the_same_share_more_samples_never_lower_it((hits, samples) in counts(), times in 1_u32..50, z in 0.0_f64..4.0) {
            prop_assert!(lower_bound(hits * times, samples * times, z) + 1e-12 >= lower_bound(hits, samples, z));
        }
    }
}
