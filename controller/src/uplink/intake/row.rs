//! What the tables hold. Postcard is positional: a changed row means a new
//! format number and a step that rewrites the table.

use protocol::command::{Command, Outcome, Receipt};
use protocol::id::NodeId;
use protocol::state::{Lifecycle, StateItem};
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// A command that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCommand {
    /// The record of the journal that issued it: commands' order.
    pub seq: u64,
    /// As it goes to nodes.
    pub command: Command,
    /// Nodes that may have it at once; none for all.
    pub concurrency_max: Option<u32>,
    /// Nodes that may be given it in a minute; none for no limit.
    pub rate_per_min: Option<u32>,
    /// How many nodes it goes to.
    pub target_count: u32,
    /// Whether someone asked to cancel it.
    pub cancelled: bool,
    /// Whether the journal has recorded its conclusion.
    pub closed: bool,
}

/// Where one target of a command stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    /// The node was not given it yet.
    Waiting,
    /// The node was given it, or may have been.
    Sent {
        /// When first.
        at: UnixMillis,
    },
    /// It ended.
    Final(FinalState),
}

/// How a target ended. Never changes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalState {
    /// How.
    pub ended: Ended,
    /// When the controller knew, in its own time.
    pub at: UnixMillis,
    /// An error code's text, when there is one.
    pub code: Option<String>,
    /// What happened, for a person.
    pub detail: String,
}

/// The final states of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It did what was asked.
    Succeeded,
    /// It ran and failed.
    Failed {
        /// The exit code, if there is one.
        exit: Option<i32>,
    },
    /// The node did not start it, and says why.
    Refused,
    /// It ran longer than it may.
    TimedOut,
    /// It is proven that it never started: by the node, or because it was never
    /// sent.
    Expired,
    /// It was cancelled.
    Cancelled,
    /// The agent stopped while it ran.
    Interrupted,
    /// The node did not answer: what happened there is not known.
    Unreachable,
}

impl Ended {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Unreachable => "unreachable",
        }
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed { exit } => Self::Failed { exit },
            Outcome::Refused => Self::Refused,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Expired => Self::Expired,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Interrupted => Self::Interrupted,
        }
    }
}

/// A node's receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// When it came, in controller time.
    pub received_at: UnixMillis,
    /// Whether the target had its final state already: the receipt is attached
    /// and changes nothing.
    pub late: bool,
    /// The receipt.
    pub receipt: Receipt,
}

/// The latest state of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredState {
    /// When it came, in controller time.
    pub received_at: UnixMillis,
    /// The state.
    pub item: StateItem,
}

/// An event in an agent's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLifecycle {
    /// When it came, in controller time.
    pub received_at: UnixMillis,
    /// The event.
    pub event: Lifecycle,
}

/// An entry that could not be taken and was acknowledged all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// When it came, in controller time.
    pub received_at: UnixMillis,
    /// From which node.
    pub node: NodeId,
    /// In which stream.
    pub stream: Stream,
    /// Its number there.
    pub seq: u64,
    /// What it says it is.
    pub kind: EntryKind,
    /// In which version.
    pub version: u16,
    /// The error code's text.
    pub code: String,
    /// What is wrong with it.
    pub reason: String,
    /// Its body.
    pub body: Vec<u8>,
}
