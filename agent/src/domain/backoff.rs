//! Waiting longer after each failure, with jitter.
//!
//! After a controller restart every node reconnects at once; jitter over half of
//! the delay spreads them. The seed comes from the caller, so that a simulated
//! fleet repeats itself exactly.

use core::time::Duration;

use protocol::time::millis;

/// A small pseudo-random sequence (SplitMix64) for jitter alone: it is never a
/// source of ids or keys.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// A sequence that the seed fixes.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration from `least` to `most`, both included, in whole milliseconds.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (millis(least), millis(most));
        let span = most.saturating_sub(least).saturating_add(1);
        Duration::from_millis(least.saturating_add(self.next() % span))
    }

    /// A duration within a tenth of `middle` on either side.
    pub fn around(&mut self, middle: Duration) -> Duration {
        // In whole milliseconds, as `between` draws: a part of one would be cut off
        // and lead below the tenth.
        let tenth = Duration::from_millis(millis(middle) / 10);
        self.between(middle.saturating_sub(tenth), middle.saturating_add(tenth))
    }
}

/// Exponential backoff: the n-th delay lies between half of `first * 2^n` and
/// the whole of it, and never exceeds `most`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// A backoff that has seen no failure.
    #[must_use]
    pub const fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self {
            first,
            most,
            failures: 0,
            jitter: Jitter::new(seed),
        }
    }

    /// Notes a failure and says how long to wait.
    pub fn fail(&mut self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let whole = self.first.saturating_mul(doubled).min(self.most);
        self.jitter.between(whole / 2, whole)
    }

    /// Notes a success: the next failure waits the first delay again.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(60);

    #[test]
    fn delays_double_up_to_the_most() {
        let mut backoff = Backoff::new(FIRST, MOST, 7);
        for whole in [1, 2, 4, 8, 16, 32, 60, 60] {
            let delay = backoff.fail();
            let whole = Duration::from_secs(whole);
            assert!(
                delay >= whole / 2 && delay <= whole,
                "{delay:?} of {whole:?}"
            );
        }
        backoff.succeed();
        assert!(backoff.fail() <= FIRST);
    }

    #[test]
    fn two_seeds_spread() {
        let delays = |seed| {
            let mut backoff = Backoff::new(FIRST, MOST, seed);
            (0..6).map(|_| backoff.fail()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    proptest! {
        #[test]
        fn invariant_a_delay_never_exceeds_the_most(seed: u64, failures in 1_usize..200) {
            let mut backoff = Backoff::new(FIRST, MOST, seed);
            for _ in 0..failures {
                prop_assert!(backoff.fail() <= MOST);
            }
        }

        #[test]
        fn invariant_jitter_stays_within_a_tenth(seed: u64, middle in 10_u64..100_000) {
            let middle = Duration::from_millis(middle);
            let value = Jitter::new(seed).around(middle);
            prop_assert!(value >= middle - middle / 10 && value <= middle + middle / 10);
        }
    }
}
