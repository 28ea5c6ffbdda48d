//! Fleet commands, their targets and receipts.

use std::collections::BTreeMap;

use protocol::id::{CommandId, NodeId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// An order to the nodes that a selector matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCommand {
    /// Which nodes: a selector, or `*` for every node. An id or a name alone
    /// means that node.
    pub nodes: String,
    /// What they should do.
    pub action: ActionView,
    /// Seconds until which a node may start it.
    #[serde(default)]
    pub start_by_s: Option<u64>,
    /// Longest run on a node, in milliseconds.
    #[serde(default)]
    pub run_timeout_ms: Option<u64>,
    /// Most output kept of each node, in bytes.
    #[serde(default)]
    pub output_bytes_max: Option<u32>,
    /// Nodes at work at once.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Nodes started per minute.
    #[serde(default)]
    pub rate_per_minute: Option<u32>,
    /// Whether matching no node is fine.
    #[serde(default)]
    pub allow_empty: bool,
    /// Whether it begins outside of maintenance windows, too.
    #[serde(default)]
    pub now: bool,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ActionView {
    /// Answers.
    Ping {},
    /// Runs a program without a shell.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// Handles a systemd unit.
    Service {
        /// The unit.
        unit: String,
        /// What to do with it.
        verb: VerbView,
    },
    /// Reads a log.
    Logs {
        /// Which log.
        source: SourceView,
        /// Newest lines.
        lines: u32,
        /// Only what is newer, in milliseconds; 0 for no limit.
        #[serde(default)]
        since_ms: u64,
        /// Whether to go on until the run's timeout.
        #[serde(default)]
        follow: bool,
    },
    /// Reads the agent's configuration again.
    Reload {},
}

/// What to do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerbView {
    /// Show its state.
    Status,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Restart it.
    Restart,
}

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceView {
    /// A unit's journal.
    Unit(String),
    /// A file below an allowed root.
    File(String),
    /// A Docker container.
    Container(String),
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandView {
    /// Id.
    #[schema(value_type = String)]
    pub id: CommandId,
    /// What, for people: `run uptime`.
    pub what: String,
    /// Which nodes, as asked.
    pub nodes: String,
    /// Who issued it.
    pub issued_by: String,
    /// When.
    pub issued_at: Stamp,
    /// Until when nodes may start it.
    pub start_by: Stamp,
    /// Number of targets.
    pub targets: u32,
    /// Nodes that match and were left out because their identity is in doubt.
    pub withheld: u32,
    /// Whether it was cancelled.
    pub cancelled: bool,
    /// Whether every target has ended.
    pub done: bool,
    /// Targets by state.
    pub counts: BTreeMap<String, u32>,
    /// Which maintenance windows targets wait for, for people; empty when none does.
    pub waits_for: String,
}

/// Commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandList {
    /// The commands, newest first.
    pub commands: Vec<CommandView>,
}

/// How many commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListCommands {
    /// Most commands, at most 1000; 20 without it.
    pub limit: Option<u32>,
}

/// Where one target stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `waiting`, `sent`, `running`, or a final state: `succeeded`, `failed`,
    /// `refused`, `timed_out`, `expired`, `cancelled`, `interrupted`, `unreachable`.
    pub state: String,
    /// Whether that state is final.
    pub done: bool,
    /// The error code of a final state that has one.
    pub code: Option<String>,
    /// Why the state is what it is, for a person; empty where it says all.
    pub detail: String,
    /// The receipt, once there is one.
    pub receipt: Option<ReceiptView>,
}

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptView {
    /// How it ended on the node.
    pub outcome: String,
    /// Exit code of a program.
    pub exit: Option<i32>,
    /// Stable code of the reason, where there is one.
    pub code: Option<String>,
    /// The reason, for people.
    pub detail: String,
    /// When it started.
    pub started_at: Option<Stamp>,
    /// When it ended.
    pub ended_at: Stamp,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error; bytes that are no UTF-8 are replaced.
    pub stderr: String,
    /// Bytes of output that were cut.
    pub cut_bytes: u64,
    /// Whether it came after the command was concluded.
    pub late: bool,
}

/// Some targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetPage {
    /// The targets, by node id.
    pub targets: Vec<TargetView>,
    /// Where the next page begins; none at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<NodeId>,
}

/// Which targets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTargets {
    /// Only targets after this node.
    #[param(value_type = Option<String>)]
    pub after: Option<NodeId>,
    /// Most targets, at most 1000; 100 without it.
    pub limit: Option<u32>,
}

/// One line of `follow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FollowLine {
    /// Where the command stands.
    Command(CommandView),
    /// A target started, or wrote something.
    Progress(ProgressView),
    /// A target ended.
    Target(TargetView),
    /// Progress was missed because the reader was slow; receipts are whole.
    Missed {
        /// How many messages.
        count: u64,
    },
}

/// Something that a running target wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `started`, `stdout` or `stderr`.
    pub kind: String,
    /// Where the text begins in its stream, in bytes.
    pub offset: u64,
    /// How many bytes it was on the node.
    pub bytes: u64,
    /// What it wrote.
    pub text: String,
}
