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

mod parts;
mod reader;
#[cfg(test)]
mod tests;

use std::time::Duration;

use protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use self::parts::{read_halt, read_retries, read_waves};
use self::reader::Reader;
use crate::domain::rejection::Rejection;
use crate::domain::rollout::params::{
    CommitMode, LateJoiners, OnHalt, OnInconclusive, Params, SelfApproval, TARGETS_COUNT_MAX,
};

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
