//! Breakers, overrides, and the policy that nodes obey.

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// Every breaker, and what nodes are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerList {
    /// The breakers, by name, without their histories.
    pub breakers: Vec<BreakerView>,
    /// Overrides that have not ended.
    pub overrides: Vec<OverrideView>,
    /// The epoch of the policy that nodes obey; 0 before the first.
    pub policy_epoch: u64,
    /// When it was published.
    pub published_at: Option<Stamp>,
    /// Seconds without a word from the controller after which nodes refuse what
    /// can be gated.
    pub lease_s: u64,
}

/// For how long nodes go on without a word from the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseView {
    /// Seconds of silence after which nodes refuse what can be gated.
    pub lease_s: u64,
}

/// A breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: BreakerDefinition,
    /// `closed`, `open`, `half_open` or `isolated`: of its groups, the one that
    /// stops most.
    pub state: String,
    /// Its groups that are not closed.
    pub groups: Vec<BreakerGroup>,
    /// Its last moves, newest first; empty in lists.
    pub history: Vec<BreakerMove>,
}

/// What a breaker is. Whatever is left out of a request is as in the breaker that
/// every fleet has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerDefinition {
    /// The nodes whose signals it watches: a selector.
    pub nodes: String,
    /// What it watches: `deploy`, `silence`, `unhealthy`, `crash_loop`, `command`,
    /// `condition:NAME`.
    pub watches: Vec<String>,
    /// What it stops: `deploy`, `update`, `run`, `service`, `reload`.
    pub gates: Vec<String>,
    /// For what it trips: `fleet`, `deployment`, or `label:KEY` for each value of a
    /// label.
    pub span: String,
    /// What becomes of rollouts that it covers: `hold`, `halt` or `revert`.
    pub rollouts: String,
    /// Whether its moves are told to the notification sinks.
    pub notify: bool,
    /// Failures in a row that trip it; 0 is never.
    pub consecutive: u32,
    /// Failures within the window that trip it; 0 is never.
    pub count: u32,
    /// Percent of failures within the window that trip it; 0 is never.
    pub percent: u8,
    /// Samples that the window must hold before percents are judged.
    pub min_samples: u32,
    /// How sure the percents must be: `plain`, `p80`, `p90`, `p95` or `p99`.
    pub confidence: String,
    /// The window in seconds.
    pub window_s: u64,
    /// Seconds until probes may try; 0 is until someone resets it.
    pub cool_down_s: u64,
    /// What that grows to, as it doubles with each round that fails.
    pub cool_down_s_max: u64,
    /// Nodes that may try in one round.
    pub probes: u32,
    /// How many of them must succeed.
    pub successes: u32,
    /// Seconds that they have; 0 is for ever.
    pub probe_limit_s: u64,
}

/// Where a breaker stands for one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerGroup {
    /// A label's value, a deployment's id, or `*` for the whole fleet.
    pub group: String,
    /// `open`, `half_open` or `isolated`.
    pub state: String,
    /// Since when.
    pub since: Stamp,
    /// Why, with the evidence.
    pub reason: String,
    /// When probes may try; none when it waits for a reset, or for them.
    pub tries_at: Option<Stamp>,
    /// The nodes that may try, while it is half-open.
    #[schema(value_type = Vec<String>)]
    pub probes: Vec<NodeId>,
}

/// A move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BreakerMove {
    /// When.
    pub at: Stamp,
    /// Who, by name; `controller` for what nodes reported or time brought.
    pub by: String,
    /// For which group.
    pub group: String,
    /// The state that it left.
    pub from: String,
    /// The state that it entered.
    pub to: String,
    /// Why, with the evidence.
    pub reason: String,
}

/// An override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverrideView {
    /// Its number.
    pub number: u64,
    /// The breaker that is passed.
    pub breaker: String,
    /// The nodes that may: a selector.
    pub nodes: String,
    /// Since when.
    pub since: Stamp,
    /// Until when.
    pub until: Stamp,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Moves a breaker by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBreaker {
    /// A label's value or a deployment's id. None is the whole fleet for a trip, and
    /// everything that is not closed for a reset.
    #[serde(default)]
    pub group: Option<String>,
    /// Why. Kept in the audit trail, and told to nodes.
    pub reason: String,
}

/// Lets some nodes pass a breaker for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideBreaker {
    /// The nodes that may: a selector.
    pub nodes: String,
    /// For how many seconds, at most a day.
    pub for_s: u64,
    /// Why. Kept in the audit trail, and told to nodes.
    pub reason: String,
}
