//! The form in which an operator writes a rollout's parameters: the `[rollout]`
//! table of a TOML file, and the same as JSON.
//!
//! ```toml
//! [rollout]
//! silent_deadline = "10m"
//! on_halt = "revert"
//!
//! [[rollout.waves]]
//! count = 1
//! soak = "5m"
//! approve = "human"
//!
//! [[rollout.waves]]
//! percent = 20
//!
//! [[rollout.halt]]
//! on = "failed"
//! percent = 2.5
//! min_samples = 20
//! ```
//!
//! What is left out has the default of [`Params`]; a list that is given replaces
//! the default's. Unknown keys are errors.
//!
//! **Invariant:** every problem is reported at once, each with its key, what is
//! wrong and what is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::limit::HEALTH_TIME_MAX;
use protocol::label::is_key;
use protocol::time::millis;
use serde::{Deserialize, Serialize};

use crate::domain::rejection::Rejection;
use crate::domain::rollout::params::{
    Amount, Approve, CommitMode, GROUP_LABELS_COUNT_MAX, GrowOn, HALT_RULES_COUNT_MAX, HaltOn,
    HaltRule, LateJoiners, OnHalt, OnInconclusive, Params, Rate, Retry, SelfApproval,
    TARGETS_COUNT_MAX, WAVES_COUNT_MAX, Wave, Within,
};
use crate::domain::rollout::target::FailureClass;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// A rollout's parameters as they were written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutAsk {
    /// The waves, in order.
    pub waves: Option<Vec<WaveAsk>>,
    /// How fast nodes are told.
    pub rate: Option<RateAsk>,
    /// When a node counts as healthy, and when as failed.
    pub health: Option<HealthAsk>,
    /// How many nodes may be unavailable at once.
    pub disruption_budget: Option<BudgetAsk>,
    /// How long a node may say nothing while it changes: `5m`.
    pub silent_deadline: Option<String>,
    /// When to halt.
    pub halt: Option<Vec<HaltAsk>>,
    /// `pause`, `keep` or `revert`.
    pub on_halt: Option<String>,
    /// `pause` or `continue`.
    pub on_inconclusive: Option<String>,
    /// `per_target` or `barrier`.
    pub commit: Option<String>,
    /// What is tried again on the same node.
    pub retries: Option<Vec<RetryAsk>>,
    /// When the rollout ends, whatever has been reached: `24h`.
    pub deadline: Option<String>,
    /// `staged`, `hold` or `immediate`.
    pub late_joiners: Option<String>,
    /// The rollout is refused when more nodes match.
    pub max_targets: Option<u64>,
    /// `allowed` or `forbidden`.
    pub self_approval: Option<String>,
}

/// One wave as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WaveAsk {
    /// At most so many nodes.
    pub count: Option<u64>,
    /// At most so many percent of all targets.
    pub percent: Option<u64>,
    /// How long it is watched after its last result.
    pub soak: Option<String>,
    /// Nodes a minute, at most.
    pub rate_per_min: Option<u64>,
    /// Not before so long after the rollout's start.
    pub start_after: Option<String>,
    /// `none`, `human` or `consensus`.
    pub approve: Option<String>,
}

/// The rate as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateAsk {
    /// Nodes a minute at first.
    pub base: Option<u64>,
    /// By how much it grows.
    pub factor: Option<f64>,
    /// Nodes a minute at most.
    pub max: Option<u64>,
    /// `succeeded` or `never`.
    pub grow_on: Option<String>,
    /// After how many.
    pub grow_every: Option<u64>,
}

/// The health rule as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthAsk {
    /// After the start, before anything is judged.
    pub initial_delay: Option<String>,
    /// How long every service must have been well.
    pub min_healthy: Option<String>,
    /// By when that must be reached.
    pub healthy_deadline: Option<String>,
    /// The longest time without any progress.
    pub progress_deadline: Option<String>,
}

/// The disruption budget as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetAsk {
    /// Labels whose values make groups.
    pub group_by: Option<Vec<String>>,
    /// `3` or `80%`.
    pub min_available: Option<String>,
    /// `1` or `20%`.
    pub max_unavailable: Option<String>,
}

/// A halt criterion as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HaltAsk {
    /// `any`, `failed`, `timed_out`, `rejected`, `unhealthy`, `went_silent` or
    /// `metric`.
    pub on: Option<String>,
    /// With `metric`: the condition's name.
    pub condition: Option<String>,
    /// `canary`, `wave` or `rollout`.
    pub within: Option<String>,
    /// At least so many.
    pub count: Option<u64>,
    /// At least so many percent of the nodes planned.
    pub share: Option<u64>,
    /// Surely more than so many percent of the results: the lower end of the
    /// Wilson interval is above it.
    pub percent: Option<f64>,
    /// Not before so many results.
    pub min_samples: Option<u64>,
    /// Only results of this last time.
    pub window: Option<String>,
    /// So many in a row.
    pub consecutive: Option<u64>,
}

/// A retry as it was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryAsk {
    /// `failed`, `fetch`, `timed_out`, `unhealthy`, `refused` or `gated`.
    pub class: Option<String>,
    /// How often.
    pub count: Option<u64>,
    /// How long before the first repetition.
    pub backoff: Option<String>,
}

/// Whether there is anyone whose consensus could open a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// Nobody.
    Absent,
    /// Somebody.
    Present,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rollout.{path}: {what}")]
pub struct Problem {
    /// The key, below `rollout`.
    pub path: String,
    /// What is wrong, and what is allowed.
    pub what: String,
    /// The stable code.
    pub code: ErrorCode,
}

/// All problems as one rejection, with the first one's code.
#[must_use]
pub fn rejection(problems: &[Problem]) -> Rejection {
    let code = problems
        .first()
        .map_or(ErrorCode::RolloutInvalid, |problem| problem.code);
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Rejection::new(code, texts.join("; "))
}

impl RolloutAsk {
    /// The parameters, with defaults for what was not given.
    ///
    /// # Errors
    /// Every problem found, in the order of their keys above: `rollout.invalid`,
    /// or `consensus.unavailable` where a gate asks for experts and there are none.
    pub fn check(&self, experts: Experts) -> Result<Params, Vec<Problem>> {
        let mut reader = Reader::default();
        let params = self.read(&mut reader, experts);
        if reader.problems.is_empty() {
            Ok(params)
        } else {
            Err(reader.problems)
        }
    }

    fn read(&self, r: &mut Reader, experts: Experts) -> Params {
        let mut params = Params::default();
        if let Some(waves) = &self.waves {
            params.waves = read_waves(r, waves, experts);
        }
        if let Some(rate) = &self.rate {
            params.rate = rate.read(r, params.rate);
        }
        if let Some(health) = &self.health {
            health.read(r, &mut params);
        }
        if let Some(budget) = &self.disruption_budget {
            budget.read(r, &mut params);
        }
        r.duration(
            "silent_deadline",
            self.silent_deadline.as_deref(),
            MINUTE..=DAY,
            &mut params.silent_deadline_ms,
        );
        if let Some(halt) = &self.halt {
            params.halt = read_halt(r, halt);
        }
        r.choice(
            "on_halt",
            self.on_halt.as_deref(),
            &[
                ("pause", OnHalt::Pause),
                ("keep", OnHalt::Keep),
                ("revert", OnHalt::Revert),
            ],
            &mut params.on_halt,
        );
        r.choice(
            "on_inconclusive",
            self.on_inconclusive.as_deref(),
            &[
                ("pause", OnInconclusive::Pause),
                ("continue", OnInconclusive::Continue),
            ],
            &mut params.on_inconclusive,
        );
        r.choice(
            "commit",
            self.commit.as_deref(),
            &[
                ("per_target", CommitMode::PerTarget),
                ("barrier", CommitMode::Barrier),
            ],
            &mut params.commit,
        );
        if let Some(retries) = &self.retries {
            params.retries = read_retries(r, retries);
        }
        r.duration(
            "deadline",
            self.deadline.as_deref(),
            MINUTE..=30 * DAY,
            &mut params.deadline_ms,
        );
        r.choice(
            "late_joiners",
            self.late_joiners.as_deref(),
            &[
                ("staged", LateJoiners::Staged),
                ("hold", LateJoiners::Hold),
                ("immediate", LateJoiners::Immediate),
            ],
            &mut params.late_joiners,
        );
        r.number(
            "max_targets",
            self.max_targets,
            1..=TARGETS_COUNT_MAX,
            &mut params.targets_max,
        );
        r.choice(
            "self_approval",
            self.self_approval.as_deref(),
            &[
                ("allowed", SelfApproval::Allowed),
                ("forbidden", SelfApproval::Forbidden),
            ],
            &mut params.self_approval,
        );
        params
    }
}

fn read_waves(r: &mut Reader, asked: &[WaveAsk], experts: Experts) -> Vec<Wave> {
    r.length("waves", asked.len(), 1..=WAVES_COUNT_MAX);
    let mut waves = Vec::new();
    let mut start_after_ms = 0;
    for (index, ask) in asked.iter().enumerate().take(WAVES_COUNT_MAX) {
        let at = format!("waves[{index}]");
        let mut wave = Wave::default();
        r.optional(
            &format!("{at}.count"),
            ask.count,
            1..=TARGETS_COUNT_MAX,
            &mut wave.count,
        );
        r.optional(
            &format!("{at}.percent"),
            ask.percent,
            1..=100,
            &mut wave.percent,
        );
        r.duration(
            &format!("{at}.soak"),
            ask.soak.as_deref(),
            Duration::ZERO..=7 * DAY,
            &mut wave.soak_ms,
        );
        r.optional(
            &format!("{at}.rate_per_min"),
            ask.rate_per_min,
            1..=RATE_PER_MIN_MAX,
            &mut wave.rate_per_min,
        );
        r.duration(
            &format!("{at}.start_after"),
            ask.start_after.as_deref(),
            Duration::ZERO..=30 * DAY,
            &mut wave.start_after_ms,
        );
        let key = format!("{at}.approve");
        r.choice(
            &key,
            ask.approve.as_deref(),
            &[
                ("none", Approve::None),
                ("human", Approve::Human),
                ("consensus", Approve::Consensus),
            ],
            &mut wave.approve,
        );
        if wave.approve == Approve::Consensus && experts == Experts::Absent {
            r.problems.push(Problem {
                path: key,
                what: "no experts are configured, so this gate could never open; use \"human\""
                    .to_owned(),
                code: ErrorCode::ConsensusUnavailable,
            });
        }
        if wave.is_rest() && index + 1 < asked.len() {
            r.problem(
                &at,
                "needs count or percent: only the last wave may take the rest",
            );
        }
        if ask.start_after.is_some() && wave.start_after_ms < start_after_ms {
            r.problem(
                &format!("{at}.start_after"),
                "is counted from the rollout's start and cannot be before that of an earlier wave",
            );
        }
        start_after_ms = start_after_ms.max(wave.start_after_ms);
        waves.push(wave);
    }
    if waves.last().is_some_and(|last| !last.is_rest()) {
        waves.push(Wave {
            soak_ms: waves.last().map_or(0, |last| last.soak_ms),
            ..Wave::default()
        });
    }
    waves
}

/// The highest rate that can be asked for; beyond it no rate means the same.
const RATE_PER_MIN_MAX: u32 = 100_000;

impl RateAsk {
    fn read(&self, r: &mut Reader, mut rate: Rate) -> Rate {
        let limits = 1..=RATE_PER_MIN_MAX;
        r.number(
            "rate.base",
            self.base,
            limits.clone(),
            &mut rate.base_per_min,
        );
        r.number("rate.max", self.max, limits, &mut rate.max_per_min);
        if self.max.is_none() {
            rate.max_per_min = rate.max_per_min.max(rate.base_per_min);
        }
        r.tenths("rate.factor", self.factor, 11..=50, &mut rate.factor_tenths);
        r.number(
            "rate.grow_every",
            self.grow_every,
            1..=10_000,
            &mut rate.grow_every,
        );
        r.choice(
            "rate.grow_on",
            self.grow_on.as_deref(),
            &[("succeeded", GrowOn::Succeeded), ("never", GrowOn::Never)],
            &mut rate.grow_on,
        );
        if rate.max_per_min < rate.base_per_min {
            r.problem("rate.max", "is below rate.base");
        }
        rate
    }
}

impl HealthAsk {
    fn read(&self, r: &mut Reader, params: &mut Params) {
        let health = &mut params.health;
        let times = [
            (
                "initial_delay",
                &self.initial_delay,
                Duration::ZERO,
                &mut health.initial_delay_ms,
            ),
            (
                "min_healthy",
                &self.min_healthy,
                Duration::ZERO,
                &mut health.min_healthy_ms,
            ),
            (
                "healthy_deadline",
                &self.healthy_deadline,
                SECOND,
                &mut health.healthy_deadline_ms,
            ),
            (
                "progress_deadline",
                &self.progress_deadline,
                SECOND,
                &mut health.progress_deadline_ms,
            ),
        ];
        for (key, text, min, into) in times {
            r.duration(
                &format!("health.{key}"),
                text.as_deref(),
                min..=HEALTH_TIME_MAX,
                into,
            );
        }
        if health.min_healthy_ms >= health.healthy_deadline_ms {
            r.problem(
                "health.min_healthy",
                "must be shorter than health.healthy_deadline, or nothing could ever succeed",
            );
        }
    }
}

impl BudgetAsk {
    fn read(&self, r: &mut Reader, params: &mut Params) {
        let budget = &mut params.budget;
        if let Some(labels) = &self.group_by {
            r.length(
                "disruption_budget.group_by",
                labels.len(),
                0..=GROUP_LABELS_COUNT_MAX,
            );
            for (index, label) in labels.iter().enumerate().take(GROUP_LABELS_COUNT_MAX) {
                if !is_key(label) {
                    r.problem(
                        &format!("disruption_budget.group_by[{index}]"),
                        format!("{label:?} is not a label's key"),
                    );
                }
            }
            budget.group_by.clone_from(labels);
        }
        budget.available_min = r.amount(
            "disruption_budget.min_available",
            self.min_available.as_deref(),
            0,
        );
        budget.unavailable_max = r.amount(
            "disruption_budget.max_unavailable",
            self.max_unavailable.as_deref(),
            1,
        );
        if budget.available_min == Some(Amount::Percent(100)) {
            r.problem(
                "disruption_budget.min_available",
                "100% leaves no node that could ever change",
            );
        }
    }
}

fn read_halt(r: &mut Reader, asked: &[HaltAsk]) -> Vec<HaltRule> {
    r.length("halt", asked.len(), 0..=HALT_RULES_COUNT_MAX);
    let rules = asked.iter().enumerate().take(HALT_RULES_COUNT_MAX);
    rules
        .map(|(index, ask)| ask.read(r, &format!("halt[{index}]")))
        .collect()
}

impl HaltAsk {
    fn read(&self, r: &mut Reader, at: &str) -> HaltRule {
        let mut rule = HaltRule::on(HaltOn::Any);
        let metric = HaltOn::Metric(self.condition.clone().unwrap_or_default());
        r.choice(
            &format!("{at}.on"),
            self.on.as_deref(),
            &[
                ("any", HaltOn::Any),
                ("failed", HaltOn::Failed),
                ("timed_out", HaltOn::TimedOut),
                ("rejected", HaltOn::Rejected),
                ("unhealthy", HaltOn::Unhealthy),
                ("went_silent", HaltOn::WentSilent),
                ("metric", metric),
            ],
            &mut rule.on,
        );
        match (&rule.on, &self.condition) {
            (HaltOn::Metric(name), _) if name.is_empty() => {
                r.problem(&format!("{at}.condition"), "needed when on is \"metric\"");
            }
            (HaltOn::Metric(_), _) | (_, None) => {}
            (_, Some(_)) => r.problem(&format!("{at}.condition"), "goes with on = \"metric\" only"),
        }
        r.choice(
            &format!("{at}.within"),
            self.within.as_deref(),
            &[
                ("canary", Within::Canary),
                ("wave", Within::Wave),
                ("rollout", Within::Rollout),
            ],
            &mut rule.within,
        );
        let counts = 1..=TARGETS_COUNT_MAX;
        r.optional(
            &format!("{at}.count"),
            self.count,
            counts.clone(),
            &mut rule.count,
        );
        r.optional(
            &format!("{at}.share"),
            self.share,
            1..=100,
            &mut rule.share_percent,
        );
        r.optional(
            &format!("{at}.min_samples"),
            self.min_samples,
            counts,
            &mut rule.samples_min,
        );
        r.optional(
            &format!("{at}.consecutive"),
            self.consecutive,
            1..=1000,
            &mut rule.consecutive,
        );
        if self.percent.is_some() {
            let mut tenths = 0;
            r.tenths(
                &format!("{at}.percent"),
                self.percent,
                1..=1000,
                &mut tenths,
            );
            rule.percent_tenths = u16::try_from(tenths).ok();
        }
        if self.window.is_some() {
            let mut window_ms = 0;
            r.duration(
                &format!("{at}.window"),
                self.window.as_deref(),
                SECOND..=7 * DAY,
                &mut window_ms,
            );
            rule.window_ms = Some(window_ms);
        }
        if !rule.can_trip() {
            r.problem(at, "needs one of count, share, percent and consecutive");
        }
        rule
    }
}

fn read_retries(r: &mut Reader, asked: &[RetryAsk]) -> Vec<Retry> {
    let names = FailureClass::ALL.map(|(class, name)| (name, class));
    let mut retries: Vec<Retry> = Vec::new();
    for (index, ask) in asked.iter().enumerate().take(names.len()) {
        let at = format!("retries[{index}]");
        let mut retry = Retry {
            class: FailureClass::Failed,
            count: 1,
            backoff_ms: millis(MINUTE),
        };
        let key = format!("{at}.class");
        match &ask.class {
            None => r.problem(&key, "is needed"),
            Some(class) => r.choice(&key, Some(class), &names, &mut retry.class),
        }
        r.number(&format!("{at}.count"), ask.count, 0..=10, &mut retry.count);
        r.duration(
            &format!("{at}.backoff"),
            ask.backoff.as_deref(),
            SECOND..=DAY,
            &mut retry.backoff_ms,
        );
        if retries.iter().any(|earlier| earlier.class == retry.class) {
            r.problem(&key, "is given twice");
        }
        retries.push(retry);
    }
    r.length("retries", asked.len(), 0..=names.len());
    retries
}

/// Reads values into their place and notes what is wrong; the place is left as it
/// was then.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    fn problem(&mut self, path: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            path: path.to_owned(),
            what: what.into(),
            code: ErrorCode::RolloutInvalid,
        });
    }

    fn length(&mut self, path: &str, length: usize, range: RangeInclusive<usize>) {
        if !range.contains(&length) {
            let what = format!(
                "has {length} entries; allowed are {} to {}",
                range.start(),
                range.end()
            );
            self.problem(path, what);
        }
    }

    fn number<T>(&mut self, path: &str, value: Option<u64>, range: RangeInclusive<T>, into: &mut T)
    where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let Some(value) = value else { return };
        match T::try_from(value)
            .ok()
            .filter(|number| range.contains(number))
        {
            Some(number) => *into = number,
            None => self.out_of_range(path, value, range.start(), range.end()),
        }
    }

    fn optional<T>(
        &mut self,
        path: &str,
        value: Option<u64>,
        range: RangeInclusive<T>,
        into: &mut Option<T>,
    ) where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let mut number = *range.start();
        self.number(path, value, range, &mut number);
        *into = value.map(|_| number);
    }

    /// A number with one decimal, as tenths.
    fn tenths(
        &mut self,
        path: &str,
        value: Option<f64>,
        range: RangeInclusive<u32>,
        into: &mut u32,
    ) {
        let Some(value) = value else { return };
        let found = range
            .clone()
            .find(|tenths| (f64::from(*tenths) / 10.0 - value).abs() < 1e-9);
        match found {
            Some(tenths) => *into = tenths,
            None => {
                let [low, high] = [range.start(), range.end()].map(|t| f64::from(*t) / 10.0);
                let what =
                    format!("is {value}; allowed are {low} to {high} with at most one decimal");
                self.problem(path, what);
            }
        }
    }

    fn duration(
        &mut self,
        path: &str,
        text: Option<&str>,
        range: RangeInclusive<Duration>,
        into: &mut u64,
    ) {
        let Some(text) = text else { return };
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => *into = millis(duration),
            Ok(_) | Err(_) => {
                let [low, high] =
                    [range.start(), range.end()].map(|d| humantime::format_duration(*d));
                self.out_of_range(path, format!("{text:?}"), low, high);
            }
        }
    }

    fn choice<T: Clone>(
        &mut self,
        path: &str,
        text: Option<&str>,
        known: &[(&str, T)],
        into: &mut T,
    ) {
        let Some(text) = text else { return };
        match known.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => into.clone_from(value),
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                self.problem(
                    path,
                    format!("is {text:?}; allowed are {}", names.join(", ")),
                );
            }
        }
    }

    /// `3` or `20%`.
    fn amount(&mut self, path: &str, text: Option<&str>, min: u32) -> Option<Amount> {
        let text = text?;
        let amount = match text.strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse()
                .ok()
                .filter(|percent| (min..=100).contains(&u32::from(*percent)))
                .map(Amount::Percent),
            None => text
                .trim()
                .parse()
                .ok()
                .filter(|count| (min..=TARGETS_COUNT_MAX).contains(count))
                .map(Amount::Count),
        };
        if amount.is_none() {
            let what =
                format!("is {text:?}; allowed are {min} to {TARGETS_COUNT_MAX}, or {min}% to 100%");
            self.problem(path, what);
        }
        amount
    }

    fn out_of_range(
        &mut self,
        path: &str,
        value: impl Display,
        low: impl Display,
        high: impl Display,
    ) {
        self.problem(path, format!("is {value}; allowed are {low} to {high}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        rollout: RolloutAsk,
    }

    fn check(text: &str) -> Result<Params, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
        file.rollout
            .check(Experts::Absent)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        assert_eq!(check("[rollout]"), Ok(Params::default()));
    }

    #[test]
    fn everything_can_be_given() {
        let params = check(
            r#"
            [rollout]
            silent_deadline = "10m"
            on_halt = "revert"
            on_inconclusive = "continue"
            commit = "barrier"
            deadline = "2h"
            late_joiners = "hold"
            max_targets = 500
            self_approval = "allowed"
            [rollout.rate]
            base = 5
            factor = 2.5
            max = 50
            grow_on = "succeeded"
            grow_every = 3
            [rollout.health]
            initial_delay = "1s"
            min_healthy = "20s"
            healthy_deadline = "4m"
            progress_deadline = "8m"
            [rollout.disruption_budget]
            group_by = ["site"]
            min_available = "50%"
            max_unavailable = "2"
            [[rollout.waves]]
            count = 2
            percent = 5
            soak = "3m"
            rate_per_min = 7
            approve = "human"
            [[rollout.waves]]
            percent = 40
            start_after = "30m"
            [[rollout.halt]]
            on = "failed"
            within = "wave"
            percent = 2.5
            min_samples = 20
            window = "15m"
            [[rollout.halt]]
            on = "metric"
            condition = "disk-full"
            within = "canary"
            count = 1
            [[rollout.halt]]
            on = "went_silent"
            share = 20
            consecutive = 4
            [[rollout.retries]]
            class = "timed_out"
            count = 3
            backoff = "30s"
            "#,
        )
        .unwrap();
        let minute_ms = 60_000;
        assert_eq!(params.waves.len(), 3, "the rest is a wave of its own");
        assert_eq!(
            params.waves[0],
            Wave {
                count: Some(2),
                percent: Some(5),
                soak_ms: 3 * minute_ms,
                rate_per_min: Some(7),
                start_after_ms: 0,
                approve: Approve::Human,
            }
        );
        assert_eq!(params.waves[1].start_after_ms, 30 * minute_ms);
        assert!(params.waves[2].is_rest());
        assert_eq!(params.rate.factor_tenths, 25);
        assert_eq!(params.health.healthy_deadline_ms, 4 * minute_ms);
        assert_eq!(params.budget.available_min, Some(Amount::Percent(50)));
        assert_eq!(params.budget.unavailable_max, Some(Amount::Count(2)));
        assert_eq!(params.halt[0].percent_tenths, Some(25));
        assert_eq!(params.halt[0].window_ms, Some(15 * minute_ms));
        assert_eq!(params.halt[1].on, HaltOn::Metric("disk-full".to_owned()));
        assert_eq!(params.halt[2].consecutive, Some(4));
        assert_eq!(params.retry(FailureClass::TimedOut).unwrap().count, 3);
        assert_eq!(
            (params.on_halt, params.commit, params.late_joiners),
            (OnHalt::Revert, CommitMode::Barrier, LateJoiners::Hold)
        );
        assert_eq!(params.self_approval, SelfApproval::Allowed);
        assert_eq!(
            (params.targets_max, params.deadline_ms),
            (500, 120 * minute_ms)
        );
    }

    #[test]
    fn each_problem_names_its_key_and_what_is_allowed() {
        for (text, expected) in [
            (
                "silent_deadline = \"1s\"",
                "silent_deadline: is \"1s\"; allowed are 1m to 1day",
            ),
            (
                "silent_deadline = \"soon\"",
                "silent_deadline: is \"soon\"; allowed are 1m to 1day",
            ),
            (
                "on_halt = \"go\"",
                "on_halt: is \"go\"; allowed are pause, keep, revert",
            ),
            (
                "max_targets = 0",
                "max_targets: is 0; allowed are 1 to 100000",
            ),
            ("waves = []", "waves: has 0 entries; allowed are 1 to 32"),
            (
                "waves = [{ percent = 101 }]",
                "waves[0].percent: is 101; allowed are 1 to 100",
            ),
            (
                "waves = [{ soak = \"1m\" }, { count = 1 }]",
                "waves[0]: needs count or percent: only the last wave may take the rest",
            ),
            (
                "waves = [{ count = 1, start_after = \"2h\" }, { start_after = \"1h\" }]",
                "waves[1].start_after: is counted from the rollout's start and cannot be before that of an earlier wave",
            ),
            (
                "rate = { factor = 9.0 }",
                "rate.factor: is 9; allowed are 1.1 to 5 with at most one decimal",
            ),
            (
                "rate = { base = 10, max = 5 }",
                "rate.max: is below rate.base",
            ),
            (
                "health = { min_healthy = \"10m\" }",
                "health.min_healthy: must be shorter than health.healthy_deadline, or nothing could ever succeed",
            ),
            (
                "disruption_budget = { max_unavailable = \"0\" }",
                "disruption_budget.max_unavailable: is \"0\"; allowed are 1 to 100000, or 1% to 100%",
            ),
            (
                "disruption_budget = { min_available = \"100%\" }",
                "disruption_budget.min_available: 100% leaves no node that could ever change",
            ),
            (
                "disruption_budget = { group_by = [\"a b\"] }",
                "disruption_budget.group_by[0]: \"a b\" is not a label's key",
            ),
            (
                "halt = [{ on = \"failed\" }]",
                "halt[0]: needs one of count, share, percent and consecutive",
            ),
            (
                "halt = [{ on = \"metric\", count = 1 }]",
                "halt[0].condition: needed when on is \"metric\"",
            ),
            (
                "halt = [{ on = \"failed\", condition = \"x\", count = 1 }]",
                "halt[0].condition: goes with on = \"metric\" only",
            ),
            ("retries = [{ count = 1 }]", "retries[0].class: is needed"),
            (
                "retries = [{ class = \"fetch\" }, { class = \"fetch\" }]",
                "retries[1].class: is given twice",
            ),
        ] {
            let found = check(&format!("[rollout]\n{text}"));
            assert_eq!(found, Err(vec![format!("rollout.{expected}")]), "{text}");
        }
        let unknown = check("[rollout]\nsoak = 3").unwrap_err();
        assert!(unknown[0].contains("unknown field `soak`"), "{unknown:?}");
    }

    #[test]
    fn all_problems_come_at_once() {
        let found = check("[rollout]\non_halt = \"x\"\ncommit = \"y\"\nmax_targets = 0");
        assert_eq!(found.unwrap_err().len(), 3);
        let ask = RolloutAsk {
            max_targets: Some(0),
            ..RolloutAsk::default()
        };
        let rejection = rejection(&ask.check(Experts::Absent).unwrap_err());
        assert_eq!(rejection.code, ErrorCode::RolloutInvalid);
    }

    #[test]
    fn consensus_is_refused_while_there_are_no_experts() {
        let ask = RolloutAsk {
            waves: Some(vec![WaveAsk {
                approve: Some("consensus".to_owned()),
                ..WaveAsk::default()
            }]),
            ..RolloutAsk::default()
        };
        let problems = ask.check(Experts::Absent).unwrap_err();
        assert_eq!(rejection(&problems).code, ErrorCode::ConsensusUnavailable);
        let params = ask.check(Experts::Present).unwrap();
        assert_eq!(params.waves[0].approve, Approve::Consensus);
    }
}
