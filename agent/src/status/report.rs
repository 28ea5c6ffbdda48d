//! The status document.
//!
//! A client and an agent may be of different versions while one is being
//! replaced: fields are only added, and a missing one reads as its default.

use std::collections::BTreeMap;

use protocol::deployment::observed::DeploymentState;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// What a running agent says of itself. Times are the node's own clock unless a
/// field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// When this was put together.
    pub at: UnixMillis,
    /// The agent's process.
    pub process: ProcessStatus,
    /// How the last update of the agent went; none where none was begun, or where a
    /// package was installed since.
    pub update: Option<UpdateStatus>,
    /// Who the node is.
    pub node: NodeStatus,
    /// The link to the controller.
    pub link: LinkStatus,
    /// What waits to be acknowledged, by stream.
    pub streams: Vec<StreamStatus>,
    /// Samples given up for lack of space since the store was made.
    pub shed_samples: u64,
    /// The last commands, newest first.
    pub commands: Vec<CommandStatus>,
    /// The deployments.
    pub deployments: Vec<DeploymentState>,
    /// What the agent uses.
    pub budgets: BudgetStatus,
    /// The node's certificate; none before it joined.
    pub certificate: Option<CertificateStatus>,
    /// The node's clock against the controller's.
    pub clock: ClockStatus,
    /// What the node believes.
    pub trust: TrustStatus,
    /// What of the fleet's policy stops this node.
    pub gate: GateStatus,
    /// The breakers of what the agent depends on.
    pub dependencies: Vec<DependencyStatus>,
    /// The disk under the store.
    pub disk: DiskStatus,
    /// Messages that the node did not take since the agent started, by the error
    /// code's text.
    pub refused: BTreeMap<String, u64>,
    /// What is wrong, worst first.
    pub problems: Vec<ProblemStatus>,
}

/// The agent's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// The agent's version (semver).
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: UnixMillis,
}

/// The last update of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateStatus {
    /// The new version.
    pub version: String,
    /// The version before.
    pub from_version: String,
    /// Whether the new version is the one that is to run.
    pub selected: bool,
    /// How it went, for a person.
    pub story: String,
}

/// Who the node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its id; none before it joined.
    pub id: Option<String>,
    /// Its fleet's id; none before it joined.
    pub fleet: Option<String>,
    /// Its name, as the controller last said.
    pub name: String,
    /// Its labels, as the controller last said.
    pub labels: BTreeMap<String, String>,
    /// Where its controller is, tried in turn.
    pub controllers: Vec<String>,
}

/// Whether the controller hears the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// It acknowledged something in the last minute.
    Up,
    /// It did not.
    #[default]
    Down,
    /// The node has not joined a fleet.
    NotJoined,
}

/// The link to the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// Whether the controller hears the node.
    pub state: LinkState,
    /// When the controller last answered.
    pub proven_at: Option<UnixMillis>,
    /// The broker that is connected, or that is tried.
    pub broker: Option<String>,
    /// Why there is no connection.
    pub problem: Option<String>,
    /// How often the node has connected since its store was made.
    pub connects: u64,
}

/// What waits in one stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStatus {
    /// Which stream.
    pub stream: String,
    /// Entries that wait.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A command that the node was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandStatus {
    /// Its id.
    pub id: String,
    /// What it does; empty when only its id is kept.
    pub action: String,
    /// `running`, or how it ended.
    pub outcome: String,
    /// The error code's text, when it has one.
    pub code: Option<String>,
    /// What happened, for a person.
    pub detail: String,
    /// When it ended, or started while it runs; controller time.
    pub at: Option<UnixMillis>,
}

/// What the agent uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetStatus {
    /// Memory, proportional set size, in bytes. Read when asked.
    pub memory_bytes: u64,
    /// Processor time since the agent started, in milliseconds. Read when
    /// asked.
    pub cpu_ms: u64,
    /// Bytes written to the store's disk since the agent started.
    pub flash_bytes: u64,
    /// Bytes written to the store's disk since midnight, or since the agent
    /// started where that is later.
    pub flash_bytes_today: u64,
    /// Bytes sent to the broker since the agent started.
    pub sent_bytes: u64,
    /// Bytes received from the broker since the agent started.
    pub received_bytes: u64,
}

/// The node's certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// When it begins to hold.
    pub not_before: UnixMillis,
    /// When it expires.
    pub expires_at: UnixMillis,
}

/// The node's clock against the controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClockStatus {
    /// How far the controller's clock is ahead, in milliseconds; none before it
    /// was proven in this run.
    pub offset_ms: Option<i64>,
    /// How wrong the offset may be, in milliseconds.
    pub error_ms: u64,
}

/// What the node believes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrustStatus {
    /// The trust set's version.
    pub trust_version: u64,
    /// The policy's epoch.
    pub policy_epoch: u64,
    /// The desired state's generation.
    pub generation: u64,
    /// The incarnation of the controller that is obeyed.
    pub incarnation: u64,
}

/// What of the fleet's policy stops this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateStatus {
    /// The breakers that stop something here.
    pub stops: Vec<StopStatus>,
    /// The lease; none where the policy has none.
    pub lease: Option<LeaseStatus>,
    /// The break-glass file in force.
    pub break_glass: Option<BreakGlassStatus>,
    /// Why a break-glass file that is there does not count.
    pub break_glass_problem: Option<String>,
}

/// A breaker that stops something on the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopStatus {
    /// Its name.
    pub breaker: String,
    /// Its state.
    pub state: String,
    /// Since when, in controller time.
    pub since: UnixMillis,
    /// What it stops, for a person.
    pub what: String,
    /// What tripped it.
    pub reason: String,
}

/// For how long gated operations go on without a word from the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseStatus {
    /// When it ends, unless the controller is heard before.
    pub ends_at: UnixMillis,
    /// Its length in seconds.
    pub length_s: u64,
    /// Whether it is over: gated operations are refused.
    pub is_over: bool,
}

/// The breaker of something that the agent depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DependencyStatus {
    /// What is depended on.
    pub name: String,
    /// The breaker's state.
    pub state: String,
    /// Why it is in it; empty before it ever moved.
    pub reason: String,
    /// When it lets one try pass, while it is open.
    pub tries_at: Option<UnixMillis>,
}

/// A break-glass file in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakGlassStatus {
    /// Why, as it says.
    pub reason: String,
    /// Until when.
    pub until: UnixMillis,
}

/// The disk under the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// The error code of the store's last failure; none while it works.
    pub failing: Option<String>,
    /// Bytes free for the agent. Read when asked.
    pub free_bytes: u64,
    /// Bytes of the store's file. Read when asked.
    pub store_bytes: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProblemStatus {
    /// The error code's text.
    pub code: String,
    /// What is wrong, for a person.
    pub detail: String,
}
