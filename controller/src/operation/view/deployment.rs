//! Deployments, their revisions, and how they are on nodes.

use std::collections::BTreeMap;

use protocol::id::{DeploymentId, NodeId, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;
use super::rollout::RolloutView;

/// A Compose project for the nodes that a selector matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyDeployment {
    /// Name; the project's own `name:` without it.
    #[serde(default)]
    pub name: Option<String>,
    /// Which nodes: a selector, or `*` for every node. The revision before decides
    /// without it.
    #[serde(default)]
    pub on: Option<String>,
    /// The Compose file.
    pub compose: String,
    /// The files that it names (`env_file`, configs, secrets), by the path that it
    /// has for them; base64.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The variables that it uses.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// The newest revision that the caller knows; 0 for a deployment that is new.
    /// Refused when it is not the newest.
    #[serde(default)]
    pub base: u32,
    /// How it is rolled out: the keys of a `[rollout]` table; safe defaults without.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub rollout: Option<serde_json::Value>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether matching no node is fine.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Back to an earlier revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBackDeployment {
    /// The revision; without it the last one that was rolled out whole and differs
    /// from the newest.
    #[serde(default)]
    pub to: Option<u32>,
    /// The newest revision that the caller knows.
    pub base: u32,
    /// How it is rolled out: the keys of a `[rollout]` table.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub rollout: Option<serde_json::Value>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Off every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveDeployment {
    /// The newest revision that the caller knows.
    pub base: u32,
}

/// What a change leads to, or would lead to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApplyAnswer {
    /// The deployment's name.
    pub name: String,
    /// Whether this only says what would happen.
    pub dry_run: bool,
    /// Whether anything changes.
    pub changed: bool,
    /// The revision that nodes get.
    pub revision: u32,
    /// What differs from the revision before.
    pub changes: Vec<ChangeView>,
    /// Who is in which wave.
    pub waves: Vec<WavePlan>,
    /// Nodes that have the deployment and will lose it.
    pub leaving: Vec<String>,
    /// What is worth knowing: images that are not pinned, for one.
    pub notes: Vec<String>,
    /// The rollout that was started.
    pub rollout: Option<RolloutView>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// What differs: `services.web.image`.
    pub path: String,
    /// What it was.
    pub old: Option<String>,
    /// What it is to be. Of a secret only that it changes is said.
    pub new: Option<String>,
    /// All of it on one line.
    pub text: String,
}

/// Who is in a wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WavePlan {
    /// Which, from 1.
    pub wave: u32,
    /// How many nodes.
    pub size: u32,
    /// The first of them, in the order in which they are told.
    pub nodes: Vec<String>,
    /// What must agree before it: `none` or `human`.
    pub approve: String,
    /// How long it is watched, in milliseconds.
    pub soak_ms: u64,
}

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentView {
    /// Id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// Name.
    pub name: String,
    /// Which nodes.
    pub on: String,
    /// Active nodes that it is for now.
    pub nodes: u32,
    /// The newest revision.
    pub revision: u32,
    /// The revision that nodes have outside of a rollout.
    pub settled: Option<u32>,
    /// `settled`, `rolling_out`, `paused`, `halted`, `waiting_for_approval`,
    /// `partial` (the last rollout did not complete) or `removing`.
    pub state: String,
    /// The rollout that is under way.
    #[schema(value_type = Option<String>)]
    pub rollout: Option<RolloutId>,
    /// Who applied the newest revision.
    pub applied_by: String,
    /// When.
    pub applied_at: Stamp,
}

/// Deployments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentList {
    /// The deployments, by name.
    pub deployments: Vec<DeploymentView>,
}

/// A deployment with its newest revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentDetail {
    /// The deployment.
    pub deployment: DeploymentView,
    /// Its newest revision.
    pub revision: RevisionDetail,
}

/// A revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionView {
    /// Its number.
    pub revision: u32,
    /// Who made it.
    pub by: String,
    /// When.
    pub at: Stamp,
    /// `applied`, or `rollback to N`.
    pub cause: String,
    /// Which nodes.
    pub on: String,
    /// Whether a rollout brought it to every node that could be reached.
    pub proven: bool,
    /// Whether it is what nodes have outside of a rollout.
    pub settled: bool,
    /// The version of the agent, where the revision is one.
    pub release: Option<String>,
    /// Its images, by service.
    pub images: BTreeMap<String, String>,
    /// The digest of what is to run.
    pub digest: String,
}

/// Revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionList {
    /// The revisions that are kept, newest first.
    pub revisions: Vec<RevisionView>,
}

/// A revision with what is to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RevisionDetail {
    /// The revision.
    pub revision: RevisionView,
    /// The project in normal form.
    #[schema(value_type = Object)]
    pub spec: serde_json::Value,
}

/// Which nodes' status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListStatus {
    /// Only nodes after this one.
    #[param(value_type = Option<String>)]
    pub after: Option<NodeId>,
    /// Most nodes, at most 1000; 100 without it.
    pub limit: Option<u32>,
}

/// How a deployment is on some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusPage {
    /// The nodes that were told something of it, by id.
    pub nodes: Vec<NodeStatus>,
    /// Where the next page begins; none at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<NodeId>,
    /// What its open rollout waits for; empty when nothing.
    pub waits_for: String,
}

/// How a deployment is on one node: what was ordered, and what the node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `up`, `down` or `never`.
    pub link: String,
    /// The revision that it is to have; none when it is to have nothing.
    pub wanted: Option<u32>,
    /// Since when.
    pub wanted_since: Stamp,
    /// The revision that runs and is committed, as the node says.
    pub current: Option<u32>,
    /// Where it is. `ordered` while the node has said nothing of its newest order.
    pub phase: String,
    /// When the node said so, in controller time; none when it never did.
    pub heard_at: Option<Stamp>,
    /// The error code, where something is wrong.
    pub code: Option<String>,
    /// What is going on.
    pub detail: String,
    /// Why it is not told what it should have: its maintenance window, or that it is
    /// out of service; empty when nothing holds it back.
    pub waits_for: String,
    /// The containers.
    pub workloads: Vec<WorkloadView>,
    /// What was found changed by hand and put back, newest last.
    pub drift: Vec<String>,
}

/// One container, as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// The service.
    pub service: String,
    /// The revision that it belongs to.
    pub revision: u32,
    /// The container's id.
    pub container: Option<String>,
    /// What the engine says.
    pub state: String,
    /// The image's digest.
    pub image_digest: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// The exit code of its last end.
    pub exit_code: Option<i32>,
    /// Whether the kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// When it was started last, on the node's clock.
    pub started_at: Option<Stamp>,
    /// When that was observed, on the node's clock.
    pub observed_at: Stamp,
    /// How far it got, or the engine's error.
    pub detail: String,
    /// The last lines that it wrote, when it failed.
    pub log_tail: Vec<String>,
}
