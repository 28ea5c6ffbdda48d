//! Rollouts and their targets.

use std::collections::BTreeMap;

use protocol::id::{NodeId, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Id.
    #[schema(value_type = String)]
    pub id: RolloutId,
    /// The deployment's name.
    pub deployment: String,
    /// The revision that nodes get.
    pub revision: u32,
    /// The revision that nodes go back to; none when they had nothing.
    pub before: Option<u32>,
    /// `forward` or `rollback`.
    pub kind: String,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub started_at: Stamp,
    /// `running`, `waiting_for_approval`, `paused`, `halted`, `aborting`, or how it
    /// ended: `completed`, `halted`, `reverted`, `aborted`, `expired`.
    pub state: String,
    /// Why it stands still or ended so, or what it waits for; empty when it runs.
    pub reason: String,
    /// Whether it has ended.
    pub done: bool,
    /// Whether it stands still until a person resumes, approves or aborts it.
    pub awaits_person: bool,
    /// When it ended.
    pub finished_at: Option<Stamp>,
    /// Number of targets.
    pub targets: u32,
    /// Targets by state.
    pub counts: BTreeMap<String, u32>,
    /// The waves.
    pub waves: Vec<RolloutWaveView>,
    /// Nodes a minute that may be told at the moment.
    pub rate_per_minute: Option<u32>,
    /// Breakers that hold it back.
    pub breakers: Vec<String>,
    /// What was decided, oldest first.
    pub log: Vec<RolloutLogLine>,
}

/// One wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutWaveView {
    /// Which, from 1.
    pub wave: u32,
    /// How many nodes were planned.
    pub size: u32,
    /// `waiting`, `running` or `done`.
    pub state: String,
    /// What must agree before it: `none` or `human`.
    pub approve: String,
    /// Targets by state.
    pub counts: BTreeMap<String, u32>,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutLogLine {
    /// When.
    pub at: Stamp,
    /// By whom.
    pub by: String,
    /// What.
    pub text: String,
}

/// Rollouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutList {
    /// The rollouts, newest first.
    pub rollouts: Vec<RolloutView>,
}

/// Which rollouts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListRollouts {
    /// Only those of this deployment.
    pub deployment: Option<String>,
    /// Most rollouts, at most 1000; 20 without it.
    pub limit: Option<u32>,
}

/// Why a rollout is paused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRollout {
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
}

/// Which gate is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRollout {
    /// The wave that is meant, from 1; the next one without it.
    #[serde(default)]
    pub wave: Option<u32>,
}

/// How a rollout is ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AbortRollout {
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
    /// Whether nodes that succeeded go back, too.
    #[serde(default)]
    pub revert: bool,
}

/// Where a target stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutTargetView {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its wave, from 1.
    pub wave: u32,
    /// Where it stands: `pending`, `waits_for_window`, `cordoned`, `held`, `delayed`, `sent`, `working`, `healthy`,
    /// `committing`, `succeeded`, `recalling`, `reverting`, `recalled`, `reverted`,
    /// `failed`, `refused`, `silent`, `drained`, `skipped`.
    pub state: String,
    /// Since when.
    pub since: Stamp,
    /// What the state counts as: `good`, `failed`, `timed_out`, `rejected`,
    /// `unhealthy`, `went_silent`; none before there is a result.
    pub verdict: Option<String>,
    /// The error code of the last change that did not succeed.
    pub code: Option<String>,
    /// What the node says of it.
    pub detail: String,
    /// When it is tried again.
    pub retry_at: Option<Stamp>,
}

/// Some targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutTargetPage {
    /// The targets, by node id.
    pub targets: Vec<RolloutTargetView>,
    /// Where the next page begins; none at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<NodeId>,
}

/// One line of following a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutLine {
    /// Where the rollout stands.
    pub rollout: RolloutView,
    /// Targets in trouble, newest first; not all when there are many.
    pub trouble: Vec<RolloutTargetView>,
}
