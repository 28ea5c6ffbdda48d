//! The machine: its cases, its properties, an exhaustive search of what it can do,
//! and a search of the system that it is part of.

mod fleet;
mod properties;
mod search;
mod steps;

use super::machine::{Breaker, Order};
use super::rule::{BreakerRule, Confidence, Recovery, Trip};

/// Trips on two failures in a row; two probes, of which one must succeed.
fn rule() -> BreakerRule {
    BreakerRule {
        trip: Trip {
            consecutive: 2,
            count: 0,
            percent: 0,
            min_samples: 1,
            confidence: Confidence::P95,
            window_ms: 20_000,
        },
        recovery: Recovery {
            cool_down_ms: 1_000,
            cool_down_ms_max: 4_000,
            probes: 2,
            successes: 1,
            probe_limit_ms: 3_000,
        },
    }
}

fn ada() -> Order {
    Order {
        by: "ada".to_owned(),
        why: "the new kernel".to_owned(),
    }
}

fn breaker() -> Breaker {
    Breaker::new(rule())
}
