//! How a rollout is to go, checked: what [`super::ask`] turns an operator's words
//! into, and what the journal keeps.
//!
//! **Invariant:** there is at least one wave, and the last one takes whoever is
//! left. Times are milliseconds.

use protocol::deployment::desired::HealthRule;
use protocol::label::Labels;
use serde::{Deserialize, Serialize};

use crate::domain::rollout::target::FailureClass;

/// Waves of one rollout.
pub const WAVES_COUNT_MAX: usize = 32;

/// Halt criteria of one rollout; a row keeps a bit for each.
pub const HALT_RULES_COUNT_MAX: usize = 16;

/// Labels by which a budget groups nodes.
pub const GROUP_LABELS_COUNT_MAX: usize = 4;

/// The most targets that a rollout can be limited to.
pub const TARGETS_COUNT_MAX: u32 = 100_000;

/// How a rollout is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// The waves, in order. The last one takes whoever is left.
    pub waves: Vec<Wave>,
    /// How fast nodes are told.
    pub rate: Rate,
    /// When a node counts as healthy, and when as failed.
    pub health: HealthRule,
    /// How many nodes may be unavailable at once.
    pub budget: Budget,
    /// How long a node may say nothing while it changes.
    pub silent_deadline_ms: u64,
    /// When to halt: any of them.
    pub halt: Vec<HaltRule>,
    /// What follows a halt, once what is in progress was recalled.
    pub on_halt: OnHalt,
    /// What to do when a wave proves nothing.
    pub on_inconclusive: OnInconclusive,
    /// When nodes give up the revision before.
    pub commit: CommitMode,
    /// What is tried again on the same node.
    pub retries: Vec<Retry>,
    /// When the rollout ends, whatever has been reached.
    pub deadline_ms: u64,
    /// What nodes get that come to match while it runs.
    pub late_joiners: LateJoiners,
    /// The rollout is refused when more nodes match.
    pub targets_max: u32,
    /// Whether the one who asked may open its gates.
    pub self_approval: SelfApproval,
}

/// One wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// At most so many nodes.
    pub count: Option<u32>,
    /// At most so many percent of all targets, rounded up. With both, the smaller
    /// counts; with neither, whoever is left.
    pub percent: Option<u8>,
    /// How long the wave is watched after its last result.
    pub soak_ms: u64,
    /// Nodes a minute, at most, in this wave.
    pub rate_per_min: Option<u32>,
    /// Not before so long after the rollout's start.
    pub start_after_ms: u64,
    /// What must agree before it starts.
    pub approve: Approve,
}

/// What must agree before a wave starts. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approve {
    /// Nothing.
    #[default]
    None,
    /// A person with the permission to approve.
    Human,
    /// The consensus of experts.
    Consensus,
}

/// How fast nodes are told: `base` a minute, times `factor` for every
/// `grow_every` nodes that succeeded, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Nodes a minute at first.
    pub base_per_min: u32,
    /// The factor, in tenths: 15 is one and a half.
    pub factor_tenths: u32,
    /// Nodes a minute at most.
    pub max_per_min: u32,
    /// Successes between two steps.
    pub grow_every: u32,
    /// What makes it grow.
    pub grow_on: GrowOn,
}

/// What makes the rate grow. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowOn {
    /// Nodes that succeeded.
    #[default]
    Succeeded,
    /// Nothing: the rate stays at its base.
    Never,
}

/// How many nodes may be unavailable at once, in each group. Nodes that are
/// unavailable already count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Nodes with equal values of these labels are a group; with none, all are one.
    pub group_by: Vec<String>,
    /// So many stay available.
    pub available_min: Option<Amount>,
    /// So many may be unavailable.
    pub unavailable_max: Option<Amount>,
}

/// A number of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many percent.
    Percent(u8),
}

/// A criterion by which a rollout halts: everything that it names must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaltRule {
    /// What is counted.
    pub on: HaltOn,
    /// Among which nodes.
    pub within: Within,
    /// At least so many.
    pub count: Option<u32>,
    /// At least so many percent of the nodes planned: certain whatever else comes.
    pub share_percent: Option<u8>,
    /// The lower end of the Wilson interval is above so many tenths of a percent.
    pub percent_tenths: Option<u16>,
    /// Not before so many nodes have a result.
    pub samples_min: Option<u32>,
    /// Only results of so many last milliseconds.
    pub window_ms: Option<u64>,
    /// So many results in a row.
    pub consecutive: Option<u32>,
}

/// What a halt criterion counts. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltOn {
    /// Everything below, conditions apart.
    Any,
    /// The change failed.
    Failed,
    /// It was not healthy, or made no progress, in time.
    TimedOut,
    /// The node did not begin.
    Rejected,
    /// It failed its health checks, during the change or after it.
    Unhealthy,
    /// The node said nothing for as long as the silent deadline.
    WentSilent,
    /// A condition by this name began to hold on a node that has the change.
    Metric(String),
}

/// Among which nodes a halt criterion counts. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// Those of the first wave.
    Canary,
    /// Those of the wave that runs.
    Wave,
    /// All that have a result.
    #[default]
    Rollout,
}

/// What follows a halt. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnHalt {
    /// It waits for someone to resume or abort it.
    #[default]
    Pause,
    /// It ends; nodes that succeeded keep the revision.
    Keep,
    /// Nodes that succeeded go back too, at the rollout's rate and within its
    /// budget; then it ends.
    Revert,
}

/// What to do when a wave proves nothing, because its nodes are away. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// It waits for someone to resume or abort it.
    #[default]
    Pause,
    /// It goes on.
    Continue,
}

/// When nodes give up the revision before. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// Each by itself, once it is healthy.
    #[default]
    PerTarget,
    /// All together, after the last wave.
    Barrier,
}

/// What is tried again on the same node. The count is kept with the target, and
/// nothing resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// For which failures.
    pub class: FailureClass,
    /// How often, after the first try.
    pub count: u32,
    /// How long before the first repetition; twice as long before each further
    /// one, plus up to a quarter by chance.
    pub backoff_ms: u64,
}

/// What nodes get that come to match while the rollout runs. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LateJoiners {
    /// They join the last wave.
    #[default]
    Staged,
    /// They wait until the rollout has completed.
    Hold,
    /// They get the revision as soon as rate and budget allow.
    Immediate,
}

/// Whether the one who asked may open the gates of a rollout. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelfApproval {
    /// They may.
    Allowed,
    /// Somebody else must.
    #[default]
    Forbidden,
}

impl Amount {
    /// How many that is of `total`; percentages are rounded up.
    #[must_use]
    pub fn of(self, total: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => percent_of(percent, total),
        }
    }
}

/// `percent` of `total`, rounded up.
pub(crate) fn percent_of(percent: u8, total: u32) -> u32 {
    let nodes = (u64::from(total) * u64::from(percent)).div_ceil(100);
    u32::try_from(nodes).unwrap_or(u32::MAX)
}

impl Wave {
    /// How many nodes it takes of `total` targets when `left` have no wave yet.
    #[must_use]
    pub fn size(&self, total: u32, left: u32) -> u32 {
        let by_percent = self.percent.map(|percent| percent_of(percent, total));
        [self.count, by_percent]
            .into_iter()
            .flatten()
            .min()
            .map_or(left, |size| size.max(1).min(left))
    }

    /// Whether it takes whoever is left.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        self.count.is_none() && self.percent.is_none()
    }
}

impl Budget {
    /// The name of the group that a node with these labels is in.
    #[must_use]
    pub fn group(&self, labels: &Labels) -> String {
        let values: Vec<&str> = self
            .group_by
            .iter()
            .map(|key| labels.get(key).unwrap_or(""))
            .collect();
        values.join("/")
    }
}

impl HaltRule {
    /// A criterion that counts `on` and names nothing yet.
    #[must_use]
    pub fn on(on: HaltOn) -> Self {
        Self {
            on,
            within: Within::default(),
            count: None,
            share_percent: None,
            percent_tenths: None,
            samples_min: None,
            window_ms: None,
            consecutive: None,
        }
    }

    /// Whether it names anything that could trip it.
    #[must_use]
    pub fn can_trip(&self) -> bool {
        self.count.is_some()
            || self.share_percent.is_some()
            || self.percent_tenths.is_some()
            || self.consecutive.is_some()
    }
}

impl Params {
    /// The retry for a class of failures; none when it is final at once.
    #[must_use]
    pub fn retry(&self, class: FailureClass) -> Option<&Retry> {
        self.retries.iter().find(|retry| retry.class == class)
    }
}

impl Default for Rate {
    /// Ten a minute, half as fast again with every ten that succeeded, up to a
    /// thousand: with a minute to each node about eleven are under way when the
    /// first results come, and 10,000 nodes are told in about twenty minutes.
    fn default() -> Self {
        Self {
            base_per_min: 10,
            factor_tenths: 15,
            max_per_min: 1000,
            grow_every: 10,
            grow_on: GrowOn::Succeeded,
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        let minute_ms = 60_000;
        let wave = |count, percent, soak_ms| Wave {
            count,
            percent,
            soak_ms,
            ..Wave::default()
        };
        Self {
            waves: vec![
                wave(Some(3), Some(10), minute_ms),
                wave(None, Some(10), minute_ms),
                wave(None, Some(30), minute_ms),
                wave(None, None, minute_ms),
            ],
            rate: Rate::default(),
            health: HealthRule::default(),
            budget: Budget::default(),
            silent_deadline_ms: 5 * minute_ms,
            halt: vec![
                HaltRule {
                    within: Within::Wave,
                    share_percent: Some(50),
                    ..HaltRule::on(HaltOn::Any)
                },
                HaltRule {
                    count: Some(2),
                    percent_tenths: Some(18),
                    ..HaltRule::on(HaltOn::Any)
                },
            ],
            on_halt: OnHalt::Pause,
            on_inconclusive: OnInconclusive::Pause,
            commit: CommitMode::PerTarget,
            retries: vec![
                Retry {
                    class: FailureClass::Fetch,
                    count: 2,
                    backoff_ms: minute_ms,
                },
                Retry {
                    class: FailureClass::Gated,
                    count: 10,
                    backoff_ms: minute_ms,
                },
            ],
            deadline_ms: 24 * 60 * minute_ms,
            late_joiners: LateJoiners::Staged,
            targets_max: TARGETS_COUNT_MAX,
            self_approval: SelfApproval::Forbidden,
        }
    }
}
