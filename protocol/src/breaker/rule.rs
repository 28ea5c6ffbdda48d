//! On what terms a breaker trips and recovers. Times are milliseconds.
//!
//! **Invariant:** the machine is total for any rule, also for one that was never
//! checked; [`BreakerRule::check`] refuses those that could never do what they
//! seem to say.

use serde::{Deserialize, Serialize};

use crate::ErrorCode;

/// The longest time in a rule: a window, a cool-down, a limit. Thirty days.
pub const TIME_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// The shortest window: below a second every clock's step would empty it.
pub const WINDOW_MS_MIN: u64 = 1_000;

/// The largest `min_samples`: more samples than a large fleet has in a window would
/// switch the share off silently.
pub const SAMPLES_MIN_MAX: u64 = 1_000_000;

/// Probes of one round. More would be a rollout, not a probe.
pub const PROBES_COUNT_MAX: u32 = 1_000;

/// When a breaker trips, and how it recovers.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerRule {
    /// When it trips.
    pub trip: Trip,
    /// How it recovers.
    pub recovery: Recovery,
}

/// The conditions that trip a breaker; any one is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trip {
    /// Failures with no success between them; 0 disables.
    pub consecutive: u32,
    /// Failures within the window; 0 disables.
    pub count: u32,
    /// Percent of the window's samples that failed; 0 disables.
    pub percent: u8,
    /// Samples that the window must hold before its share is judged.
    pub min_samples: u32,
    /// How sure the share must be.
    pub confidence: Confidence,
    /// The window's length.
    pub window_ms: u64,
}

impl Default for Trip {
    /// Three in a row, or a fifth of at least ten within ten minutes.
    fn default() -> Self {
        Self {
            consecutive: 3,
            count: 0,
            percent: 20,
            min_samples: 10,
            confidence: Confidence::P95,
            window_ms: 10 * 60 * 1000,
        }
    }
}

/// How sure a share of failures must be before it counts: one-sided.
/// Append-only: postcard numbers the variants.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The share itself is compared.
    Plain,
    /// 80 %.
    P80,
    /// 90 %.
    P90,
    /// 95 %.
    #[default]
    P95,
    /// 99 %.
    P99,
}

impl Confidence {
    /// Standard deviations of the normal distribution that leave the rest above
    /// (its quantile).
    #[must_use]
    pub fn z(self) -> f64 {
        match self {
            Self::Plain => 0.0,
            Self::P80 => 0.841_621,
            Self::P90 => 1.281_552,
            Self::P95 => 1.644_854,
            Self::P99 => 2.326_348,
        }
    }

    /// Percent; none for the share itself.
    #[must_use]
    pub fn percent(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::P80 => Some(80),
            Self::P90 => Some(90),
            Self::P95 => Some(95),
            Self::P99 => Some(99),
        }
    }
}

/// How a breaker recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// How long it is open before probes may try; 0 is until someone resets it.
    pub cool_down_ms: u64,
    /// What the cool-down grows to; it doubles with each round that fails.
    pub cool_down_ms_max: u64,
    /// Probes that may try in one round.
    pub probes: u32,
    /// How many of them must succeed for it to close.
    pub successes: u32,
    /// By when, after the first probe began, they must have; 0 is no limit.
    pub probe_limit_ms: u64,
}

impl Default for Recovery {
    /// Two probes of two, five minutes after, with ten minutes for them.
    fn default() -> Self {
        Self {
            cool_down_ms: 5 * 60 * 1000,
            cool_down_ms_max: 60 * 60 * 1000,
            probes: 2,
            successes: 2,
            probe_limit_ms: 10 * 60 * 1000,
        }
    }
}

impl Recovery {
    /// The cool-down after so many rounds of probes that failed; 0 is until
    /// someone resets it.
    #[must_use]
    pub fn wait_ms(&self, strikes: u32) -> u64 {
        let factor = 1_u64.checked_shl(strikes).unwrap_or(u64::MAX);
        let most = self.cool_down_ms_max.max(self.cool_down_ms);
        self.cool_down_ms.saturating_mul(factor).min(most)
    }

    /// How many probes may fail before a round cannot succeed any more.
    #[must_use]
    pub fn failures_allowed(&self) -> u32 {
        self.probes.saturating_sub(self.successes)
    }
}

/// A rule that could never do what it seems to say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}; {allowed}")]
pub struct RuleError {
    /// The field, as a path: `trip.percent`.
    pub field: &'static str,
    /// Its value.
    pub found: u64,
    /// What it may be.
    pub allowed: String,
}

impl RuleError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::BreakerInvalid
    }
}

impl BreakerRule {
    /// Checks every number of the rule against the others.
    ///
    /// # Errors
    /// The first field that is wrong, with what it may be.
    pub fn check(&self) -> Result<(), RuleError> {
        let (trip, recovery) = (&self.trip, &self.recovery);
        let most_percent = match trip.confidence {
            Confidence::Plain => 100,
            // The bound comes near 100 % and never reaches it.
            Confidence::P80 | Confidence::P90 | Confidence::P95 | Confidence::P99 => 99,
        };
        within("trip.percent", trip.percent.into(), 0, most_percent)?;
        let least_samples = u64::from(trip.percent != 0);
        within(
            "trip.min_samples",
            trip.min_samples.into(),
            least_samples,
            SAMPLES_MIN_MAX,
        )?;
        within("trip.window_ms", trip.window_ms, WINDOW_MS_MIN, TIME_MS_MAX)?;
        within(
            "recovery.cool_down_ms",
            recovery.cool_down_ms,
            0,
            TIME_MS_MAX,
        )?;
        within(
            "recovery.cool_down_ms_max",
            recovery.cool_down_ms_max,
            recovery.cool_down_ms,
            TIME_MS_MAX,
        )?;
        within(
            "recovery.probes",
            recovery.probes.into(),
            1,
            PROBES_COUNT_MAX.into(),
        )?;
        within(
            "recovery.successes",
            recovery.successes.into(),
            1,
            recovery.probes.into(),
        )?;
        within(
            "recovery.probe_limit_ms",
            recovery.probe_limit_ms,
            0,
            TIME_MS_MAX,
        )
    }
}

fn within(field: &'static str, found: u64, least: u64, most: u64) -> Result<(), RuleError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(RuleError {
        field,
        found,
        allowed: format!("from {least} to {most}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut BreakerRule), field: Option<&str>) {
        let mut rule = BreakerRule::default();
        change(&mut rule);
        assert_eq!(rule.check().err().map(|error| error.field), field);
    }

    #[test]
    fn a_rule_that_could_never_do_what_it_says_is_refused() {
        check(|_| {}, None);
        check(|rule| rule.trip.percent = 100, Some("trip.percent"));
        check(
            |rule| {
                rule.trip.percent = 100;
                rule.trip.confidence = Confidence::Plain;
            },
            None,
        );
        check(|rule| rule.trip.percent = 0, None);
        check(|rule| rule.trip.min_samples = 0, Some("trip.min_samples"));
        check(|rule| rule.trip.window_ms = 999, Some("trip.window_ms"));
        check(|rule| rule.recovery.cool_down_ms = 0, None);
        check(
            |rule| rule.recovery.cool_down_ms = TIME_MS_MAX + 1,
            Some("recovery.cool_down_ms"),
        );
        check(
            |rule| rule.recovery.cool_down_ms_max = 1,
            Some("recovery.cool_down_ms_max"),
        );
        check(|rule| rule.recovery.probes = 0, Some("recovery.probes"));
        check(
            |rule| rule.recovery.successes = 3,
            Some("recovery.successes"),
        );
        check(
            |rule| rule.recovery.successes = 0,
            Some("recovery.successes"),
        );
        check(
            |rule| rule.recovery.probe_limit_ms = u64::MAX,
            Some("recovery.probe_limit_ms"),
        );
        let error = RuleError {
            field: "trip.percent",
            found: 101,
            allowed: "from 0 to 99".to_owned(),
        };
        assert_eq!(error.to_string(), "trip.percent is 101; from 0 to 99");
        assert_eq!(error.code(), ErrorCode::BreakerInvalid);
    }

    #[test]
    fn the_cool_down_doubles_up_to_its_maximum() {
        let recovery = Recovery {
            cool_down_ms: 100,
            cool_down_ms_max: 700,
            ..Recovery::default()
        };
        let waits: Vec<u64> = (0..5).map(|strikes| recovery.wait_ms(strikes)).collect();
        assert_eq!(waits, [100, 200, 400, 700, 700]);
        assert_eq!(recovery.wait_ms(u32::MAX), 700);
        let never = Recovery {
            cool_down_ms: 0,
            ..recovery
        };
        assert_eq!(never.wait_ms(9), 0);
    }
}
