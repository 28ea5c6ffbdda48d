//! Anti-replay: which counters of a sender were seen.
//!
//! A sliding window as IPsec has it (RFC 4303 section 3.4.3): messages of one
//! connection may overtake each other across topics, so a counter a little below
//! the highest is fresh once. A message that is refused here is not lost: what it
//! carried is sent again in a new envelope with a new counter.

use serde::{Deserialize, Serialize};

/// Counters below the highest that are still accepted once. A node has at most
/// 16 publishes in flight, so 64 is room enough.
pub const REPLAY_WINDOW: u64 = 64;

/// The counters seen of one sender. Counters start at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `i` is set when `highest - i` was seen.
    seen: u64,
}

impl ReplayWindow {
    /// A window that refuses everything up to and including `highest`: for a
    /// receiver that kept only that number over its restart.
    #[must_use]
    pub fn after(highest: u64) -> Self {
        Self {
            highest,
            seen: u64::MAX,
        }
    }

    /// The highest counter seen; 0 before the first.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether the counter is fresh; it is noted as seen when it is.
    #[must_use]
    pub fn admit(&mut self, counter: u64) -> bool {
        if counter == 0 {
            return false;
        }
        if counter > self.highest {
            let step = counter - self.highest;
            self.seen = if step >= REPLAY_WINDOW {
                0
            } else {
                self.seen << step
            };
            self.seen |= 1;
            self.highest = counter;
            return true;
        }
        let behind = self.highest - counter;
        if behind >= REPLAY_WINDOW || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn invariant_no_counter_is_admitted_twice(counters in prop::collection::vec(0_u64..200, 0..400)) {
            let mut window = ReplayWindow::default();
            let mut admitted = BTreeSet::new();
            for counter in counters {
                if window.admit(counter) {
                    prop_assert!(admitted.insert(counter));
                }
            }
        }

        #[test]
        fn invariant_a_counter_close_behind_is_admitted_once(start in 100_u64..1_000_000, behind in 1..REPLAY_WINDOW) {
            let mut window = ReplayWindow::default();
            prop_assert!(window.admit(start));
            prop_assert!(window.admit(start - behind));
            prop_assert!(!window.admit(start - behind));
        }
    }

    #[test]
    fn counters_far_behind_and_those_before_a_restart_are_refused() {
        let mut window = ReplayWindow::default();
        assert!(window.admit(REPLAY_WINDOW + 1));
        assert!(!window.admit(1));
        let mut restarted = ReplayWindow::after(500);
        assert!(!restarted.admit(500));
        assert!(!restarted.admit(480));
        assert!(restarted.admit(501));
    }
}
