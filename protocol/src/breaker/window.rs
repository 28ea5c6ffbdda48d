//! How many samples succeeded and failed lately, in fixed memory.
//!
//! A ring of buckets of equal length. The newest bucket takes samples; when time
//! passes its end, the ring turns, and what falls off is forgotten. Counts
//! saturate.
//!
//! When the clock goes backwards, the ring moves back with it: what was counted
//! keeps its age. Time that is ahead by a whole window empties it.

use serde::{Deserialize, Serialize};

use crate::time::UnixMillis;

/// Buckets of a window: the sharpness of its edge is a twentieth of its length.
pub const BUCKETS: usize = 20;

/// Samples that succeeded and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Counts {
    /// Successes.
    pub succeeded: u32,
    /// Failures.
    pub failed: u32,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub fn samples(self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_add(other.succeeded),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

/// The samples of the last while, and the failures since the last success.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// Newest first.
    buckets: [Counts; BUCKETS],
    /// When the newest bucket began.
    began: UnixMillis,
    row: u32,
}

impl Window {
    /// Counts one sample. `length_ms` is the window's length.
    pub fn count(&mut self, ok: bool, length_ms: u64, now: UnixMillis) {
        self.turn(length_ms, now);
        let [newest, ..] = &mut self.buckets;
        if ok {
            newest.succeeded = newest.succeeded.saturating_add(1);
            self.row = 0;
        } else {
            newest.failed = newest.failed.saturating_add(1);
            self.row = self.row.saturating_add(1);
        }
    }

    /// Forgets what is older than the window.
    pub fn turn(&mut self, length_ms: u64, now: UnixMillis) {
        let bucket_ms = (length_ms / BUCKETS as u64).max(1);
        let begins = UnixMillis(now.0 - now.0 % bucket_ms);
        let passed = begins.0.saturating_sub(self.began.0) / bucket_ms;
        match usize::try_from(passed) {
            Ok(passed) if passed < BUCKETS => {
                self.buckets.rotate_right(passed);
                self.buckets.iter_mut().take(passed).for_each(|bucket| {
                    *bucket = Counts::default();
                });
            }
            Ok(_) | Err(_) => self.clear(),
        }
        self.began = begins;
        if self.counts() == Counts::default() {
            self.row = 0;
        }
    }

    /// What the window holds, as of the last turn.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.buckets
            .iter()
            .fold(Counts::default(), |sum, bucket| sum.plus(*bucket))
    }

    /// Failures since the last success; 0 when the window holds no sample.
    #[must_use]
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets = [Counts::default(); BUCKETS];
        self.row = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH_MS: u64 = 20_000;

    fn counts(window: &mut Window, now: u64) -> (u32, u32, u32) {
        window.turn(LENGTH_MS, UnixMillis(now));
        let counts = window.counts();
        (counts.succeeded, counts.failed, window.row())
    }

    #[test]
    fn samples_age_out_one_bucket_at_a_time() {
        let mut window = Window::default();
        window.count(true, LENGTH_MS, UnixMillis(100_000));
        window.count(false, LENGTH_MS, UnixMillis(105_000));
        assert_eq!(counts(&mut window, 119_999), (1, 1, 1));
        assert_eq!(counts(&mut window, 120_000), (0, 1, 1));
        assert_eq!(counts(&mut window, 124_999), (0, 1, 1));
        assert_eq!(counts(&mut window, 125_000), (0, 0, 0));
    }

    #[test]
    fn a_row_ends_with_a_success_or_a_window_without_samples() {
        let mut window = Window::default();
        for at in [0, 15_000, 30_000] {
            window.count(false, LENGTH_MS, UnixMillis(at));
        }
        assert_eq!(window.row(), 3);
        window.count(true, LENGTH_MS, UnixMillis(31_000));
        assert_eq!(window.row(), 0);
        window.count(false, LENGTH_MS, UnixMillis(32_000));
        window.count(false, LENGTH_MS, UnixMillis(60_000));
        assert_eq!(window.row(), 1);
    }

    #[test]
    fn a_clock_that_goes_back_takes_the_window_along() {
        let mut window = Window::default();
        window.count(false, LENGTH_MS, UnixMillis(9_000_000));
        assert_eq!(counts(&mut window, 50_000), (0, 1, 1));
        assert_eq!(counts(&mut window, 69_999), (0, 1, 1));
        assert_eq!(counts(&mut window, 70_000), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn invariant_a_window_never_counts_more_than_it_was_given_and_takes_any_clock(
            samples in prop::collection::vec((any::<bool>(), any::<u64>()), 0..200),
            length_ms in any::<u64>(),
        ) {
            let mut window = Window::default();
            for (given, (ok, now)) in (1..).zip(samples) {
                window.count(ok, length_ms, UnixMillis(now));
                prop_assert!(window.counts().samples() <= given);
                prop_assert!(window.counts().samples() >= 1);
                prop_assert!(window.row() <= given);
            }
        }

        #[test]
        fn invariant_a_window_counts_what_is_younger_than_it_and_nothing_older(
            gaps in prop::collection::vec((any::<bool>(), 0_u64..8_000), 1..60),
        ) {
            let mut window = Window::default();
            let (mut now, mut given) = (0, Vec::new());
            for (ok, gap) in gaps {
                now += gap;
                given.push((ok, now));
                window.count(ok, LENGTH_MS, UnixMillis(now));
                let within = |length: u64| given.iter().filter(|(_, at)| now - at < length).count();
                let found = window.counts().samples() as usize;
                prop_assert!(found >= within(LENGTH_MS - LENGTH_MS / BUCKETS as u64));
                prop_assert!(found <= within(LENGTH_MS));
            }
        }
    }
}
