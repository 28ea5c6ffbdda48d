//! How fast nodes are told.
//!
//! A rate of *r* a minute is a window in which a tenth of *r*, rounded up, may be
//! told, and which is as long as that takes. Both what was told and when are in
//! the rows, so a controller that starts again keeps to the rate.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use crate::domain::rollout::params::{GrowOn, Rate};

/// When nodes were told, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    told: BTreeSet<(UnixMillis, NodeId)>,
}

/// Nodes a minute when so many have succeeded.
#[must_use]
pub fn rate_after(rate: &Rate, succeeded: u32) -> u32 {
    if rate.grow_on == GrowOn::Never {
        return rate.base_per_min;
    }
    let mut tenths = u64::from(rate.base_per_min) * 10;
    let max = u64::from(rate.max_per_min) * 10;
    for _ in 0..succeeded / rate.grow_every.max(1) {
        let next = tenths * u64::from(rate.factor_tenths) / 10;
        if tenths >= max || next == tenths {
            break;
        }
        tenths = next;
    }
    u32::try_from(tenths.min(max) / 10)
        .unwrap_or(u32::MAX)
        .max(1)
}

/// How many may be told within how many milliseconds.
fn window(per_min: u32) -> (usize, u64) {
    let per_min = per_min.max(1);
    let count = per_min.div_ceil(10);
    (
        count as usize,
        u64::from(count) * 60_000 / u64::from(per_min),
    )
}

impl Pace {
    /// Notes when a node was told.
    pub fn put(&mut self, node: NodeId, at: UnixMillis) {
        self.told.insert((at, node));
    }

    /// Forgets it: it was told again.
    pub(crate) fn take(&mut self, node: NodeId, at: UnixMillis) {
        self.told.remove(&(at, node));
    }

    /// How many more may be told now.
    #[must_use]
    pub fn allows(&self, per_min: u32, now: UnixMillis) -> usize {
        let (count, length_ms) = window(per_min);
        let recent = self
            .told
            .iter()
            .rev()
            .take(count)
            .take_while(|(at, _)| at.0.saturating_add(length_ms) > now.0)
            .count();
        count - recent
    }

    /// When the next may be told; in the past when one may be told now.
    #[must_use]
    pub fn next_at(&self, per_min: u32) -> UnixMillis {
        let (count, length_ms) = window(per_min);
        self.told
            .iter()
            .rev()
            .nth(count - 1)
            .map_or(UnixMillis(0), |(at, _)| {
                at.after(Duration::from_millis(length_ms))
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::given::node_id;

    #[test]
    fn the_rate_grows_with_success_up_to_its_limit() {
        let rate = Rate::default();
        for (succeeded, per_min) in [
            (0, 10),
            (9, 10),
            (10, 15),
            (20, 22),
            (100, 574),
            (150, 1000),
        ] {
            assert_eq!(rate_after(&rate, succeeded), per_min, "after {succeeded}");
        }
        let flat = Rate {
            grow_on: GrowOn::Never,
            ..rate
        };
        assert_eq!(rate_after(&flat, 1000), 10);
    }

    proptest! {
        #[test]
        fn invariant_a_minute_never_has_more_than_the_rate_and_one_window(
            per_min in 1..3000_u32,
            waits in prop::collection::vec(0..20_000_u64, 1..60),
        ) {
            let mut pace = Pace::default();
            let mut told: Vec<u64> = Vec::new();
            let mut now = UnixMillis(1_000_000);
            let mut number = 0_u16;
            for wait in waits {
                now = UnixMillis(now.0 + wait);
                for _ in 0..pace.allows(per_min, now) {
                    pace.put(node_id(number), now);
                    number = number.wrapping_add(1);
                    told.push(now.0);
                }
                prop_assert_eq!(pace.allows(per_min, now), 0);
                prop_assert!(pace.next_at(per_min) > now);
                let in_minute = told.iter().filter(|at| **at + 60_000 > now.0).count();
                let limit = (per_min + per_min.div_ceil(10)) as usize;
                prop_assert!(in_minute <= limit, "{} of {}", in_minute, limit);
            }
        }
    }
}
