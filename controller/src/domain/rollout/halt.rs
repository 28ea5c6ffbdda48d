//! When a rollout halts, and on which evidence.
//!
//! Judged after every result, inside a wave. In small numbers a share of what was
//! planned decides; in large ones the lower end of a Wilson interval, computed in
//! whole numbers, so that every machine comes to the same verdict.

use core::fmt;

use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::rollout::params::{HaltOn, HaltRule, Within, percent_of};
use crate::domain::rollout::tally::Tally;

/// How many standard deviations the Wilson interval is wide to each side, in
/// tenths. Three is one chance in 741 a look; looks at one rollout are many and
/// far from independent. Less halts earlier and more often without reason.
const DEVIATIONS_TENTHS: u128 = 30;

/// What made a rollout halt. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// What nodes reported.
    Results(Results),
    /// A breaker tripped that halts rollouts.
    Breaker {
        /// Its name.
        breaker: String,
    },
    /// The rollout's time is over.
    Deadline,
}

/// What nodes reported, and the criterion that it meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The criterion.
    pub rule: HaltRule,
    /// The wave that ran, from 0.
    pub wave: u32,
    /// How many results it counts.
    pub bad: u32,
    /// Of how many.
    pub samples: u32,
    /// Of how many planned.
    pub planned: u32,
    /// The lower end of the Wilson interval, in hundredths of a percent.
    pub lower_hundredths: u32,
}

/// The first criterion that is met; none when the rollout may go on.
#[must_use]
pub fn judge(rules: &[HaltRule], tally: &Tally, wave: u32, now: UnixMillis) -> Option<Evidence> {
    rules
        .iter()
        .enumerate()
        .find_map(|(index, rule)| meets(rule, index, tally, wave, now))
        .map(Evidence::Results)
}

fn meets(
    rule: &HaltRule,
    index: usize,
    tally: &Tally,
    wave: u32,
    now: UnixMillis,
) -> Option<Results> {
    let (scope, planned) = match rule.within {
        Within::Canary => (tally.wave(0), tally.wave(0).members()),
        Within::Wave => (tally.wave(wave), tally.wave(wave).members()),
        Within::Rollout => (tally.total(), tally.total().members()),
    };
    let covers = |of: u32| match rule.within {
        Within::Canary => of == 0,
        Within::Wave => of == wave,
        Within::Rollout => true,
    };
    let mut newest = tally
        .newest_first()
        .filter(|(_, counted)| covers(counted.wave))
        .map(|(at, counted)| (at, counted.hits >> index & 1));
    if let Some(consecutive) = rule.consecutive {
        let row = newest
            .by_ref()
            .take(consecutive as usize)
            .take_while(|(_, hit)| *hit == 1)
            .count();
        if row < consecutive as usize {
            return None;
        }
    }
    let (bad, samples) = match rule.window_ms {
        None => (scope.hits[index], scope.samples),
        Some(window_ms) => tally
            .newest_first()
            .take_while(|(at, _)| at.0.saturating_add(window_ms) > now.0)
            .filter(|(_, counted)| covers(counted.wave))
            .fold((0, 0), |(bad, samples), (_, counted)| {
                (bad + (counted.hits >> index & 1), samples + 1)
            }),
    };
    let lower = wilson_lower(bad, samples);
    let holds = rule.can_trip()
        && bad > 0
        && rule.count.is_none_or(|count| bad >= count)
        && rule
            .share_percent
            .is_none_or(|percent| bad >= percent_of(percent, planned))
        && rule
            .percent_tenths
            .is_none_or(|tenths| lower > u32::from(tenths) * 10)
        && rule.samples_min.is_none_or(|min| samples >= min);
    holds.then(|| Results {
        rule: rule.clone(),
        wave,
        bad,
        samples,
        planned,
        lower_hundredths: lower,
    })
}

/// The lower end of the Wilson score interval for `bad` of `samples`, in
/// hundredths of a percent, rounded down.
#[must_use]
pub fn wilson_lower(bad: u32, samples: u32) -> u32 {
    // With z in tenths, Z = 10z: the bound is
    // (200x + Z² - Z·√(Z² + 400x(n-x)/n)) / (2(100n + Z²)).
    const SCALE: u128 = 1_000_000;
    let z = DEVIATIONS_TENTHS;
    let (x, n) = (u128::from(bad.min(samples)), u128::from(samples));
    if n == 0 {
        return 0;
    }
    let root = (SCALE * SCALE * (z * z * n + 400 * x * (n - x)) / n).isqrt();
    let above = (SCALE * (200 * x + z * z)).saturating_sub(z * root);
    let lower = above * 10_000 / (2 * (100 * n + z * z) * SCALE);
    u32::try_from(lower).unwrap_or(u32::MAX)
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Results(results) => results.fmt(f),
            Self::Breaker { breaker } => write!(f, "breaker {breaker} tripped"),
            Self::Deadline => f.write_str("the rollout's deadline has passed"),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, bad, .. } = self;
        let place = match rule.within {
            Within::Canary => "in the first wave".to_owned(),
            Within::Wave => format!("in wave {}", self.wave + 1),
            Within::Rollout => "so far".to_owned(),
        };
        write!(f, "{bad} {} of {} results {place}", rule.on, self.samples)?;
        if let Some(window_ms) = rule.window_ms {
            write!(f, " in the last {} s", window_ms / 1000)?;
        }
        let mut limits = Vec::new();
        if let Some(count) = rule.count {
            limits.push(format!("at least {count}"));
        }
        if let Some(percent) = rule.share_percent {
            limits.push(format!("{percent} % of the {} planned", self.planned));
        }
        if let Some(tenths) = rule.percent_tenths {
            limits.push(format!(
                "surely above {}.{} %: the lower bound is {}.{:02} %",
                tenths / 10,
                tenths % 10,
                self.lower_hundredths / 100,
                self.lower_hundredths % 100
            ));
        }
        if let Some(consecutive) = rule.consecutive {
            limits.push(format!("{consecutive} in a row"));
        }
        write!(f, " (limit: {})", limits.join(", "))
    }
}

impl fmt::Display for HaltOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("bad"),
            Self::Failed => f.write_str("failed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Rejected => f.write_str("rejected"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::WentSilent => f.write_str("silent"),
            Self::Metric(name) => write!(f, "with {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bound_is_wilsons() {
        // Reference values by the formula in floating point, z = 3.
        for (bad, samples, expected) in [
            (0, 0, 0),
            (0, 50, 0),
            (1, 1, 1000),
            (2, 3, 1147),
            (2, 10, 322),
            (5, 100, 143),
            (50, 1000, 330),
            (1000, 1000, 9910),
        ] {
            let found = wilson_lower(bad, samples);
            assert!(found.abs_diff(expected) <= 1, "{bad} of {samples}: {found}");
        }
    }

    proptest! {
        #[test]
        fn invariant_the_bound_stays_below_the_rate_and_grows_with_failures(
            samples in 1..100_000_u32,
            share in 0..=1000_u32,
        ) {
            let bad = u32::try_from(u64::from(samples) * u64::from(share) / 1000).unwrap();
            let lower = wilson_lower(bad, samples);
            prop_assert!(u64::from(lower) * u64::from(samples) <= u64::from(bad) * 10_000);
            prop_assert!(bad == samples || wilson_lower(bad + 1, samples) >= lower);
        }
    }
}
