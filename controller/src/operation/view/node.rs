//! Nodes.

use std::collections::BTreeMap;

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// A node in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Id, never reused.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `pending`, `active`, `suspect`, `revoked` or `replaced`.
    pub state: String,
    /// `up`, `down`, or `never` when it has not been heard of.
    pub link: String,
    /// When it last proved that it is there.
    pub proven_at: Option<Stamp>,
    /// Since when the session stands.
    pub session_since: Option<Stamp>,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// How far its clock is ahead of the controller's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// When it joined.
    pub joined_at: Stamp,
    /// How it was taken out of service, if it was.
    pub cordon: Option<CordonView>,
    /// What it reports to be wrong with itself.
    pub problems: Vec<ProblemView>,
}

/// How a node was taken out of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CordonView {
    /// `cordoned`, `draining`, `decommissioning`, `drained`, `drain_timed_out` or
    /// `drain_forbidden`.
    pub state: String,
    /// Since when it is cordoned.
    pub since: Stamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Until when its workloads are being taken away.
    pub until: Option<Stamp>,
    /// Deployments that are still on it while it is drained, and what taking each
    /// away waits for.
    pub left: BTreeMap<String, String>,
}

/// Something wrong with a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// Stable code.
    pub code: String,
    /// What is wrong.
    pub detail: String,
}

/// A list of nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
}

/// One node with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeDetail {
    /// As in a list.
    pub node: NodeView,
    /// What it is, as it reports.
    pub facts: Option<FactsView>,
    /// What it uses, as it reports.
    pub budgets: Option<BudgetsView>,
    /// Why its identity is suspected, if it is.
    pub suspicion: Option<String>,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FactsView {
    /// When the node reported it, in its own clock.
    pub at: Stamp,
    /// Host name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Architecture.
    pub arch: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// `none`, or the kind of virtual machine or container.
    pub virtualisation: String,
    /// Version of Docker, where there is one.
    pub docker: Option<String>,
    /// When the host was started.
    pub booted_at: Stamp,
    /// When the node's certificate expires.
    pub certificate_expires_at: Stamp,
}

/// What the agent uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetsView {
    /// When the node reported it, in its own clock.
    pub at: Stamp,
    /// Memory of the agent (PSS), in bytes.
    pub memory_bytes: u64,
    /// Bytes written to the device since the agent's start.
    pub flash_bytes: u64,
    /// Bytes sent since the agent's start.
    pub sent_bytes: u64,
    /// Bytes received since the agent's start.
    pub received_bytes: u64,
    /// Entries waiting to be acknowledged.
    pub outbox_entries: u64,
    /// Their size in bytes.
    pub outbox_bytes: u64,
    /// Samples given up because space was short.
    pub shed_samples: u64,
}

/// Which nodes to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListNodes {
    /// Selector such as `site=lyon,role!=db`; all nodes without it.
    pub selector: Option<String>,
}

/// A new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameNode {
    /// The name.
    pub name: String,
}

/// Changes to labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelabelNode {
    /// Labels to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys to remove.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// Why a node is cut off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeNode {
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
}

/// Nodes that are taken out of service, or put into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CordonNodes {
    /// Which nodes: an id, a name or a selector.
    pub nodes: String,
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
}

/// Nodes whose workloads are taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNodes {
    /// Which nodes: an id, a name or a selector.
    pub nodes: String,
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
    /// How long that is tried, in seconds; 900 without it.
    #[serde(default)]
    pub timeout_s: Option<u64>,
}

/// Nodes that leave the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecommissionNodes {
    /// Which nodes: an id, a name or a selector.
    pub nodes: String,
    /// Kept in the audit trail.
    #[serde(default)]
    pub reason: String,
    /// How long draining is tried, in seconds; 900 without it.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// Whether they leave at once, with what they run.
    #[serde(default)]
    pub force: bool,
}

/// Who takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceNode {
    /// Id or name of the node that takes over.
    pub with: String,
}

/// What becomes of a suspected identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveNode {
    /// Trust it (`keep`) or `revoke` it.
    pub decision: Resolution,
}

/// The two ways to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Trust the identity as it is used from here on.
    Keep,
    /// Revoke the identity; the host joins again.
    Revoke,
}
