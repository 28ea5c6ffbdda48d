//! What the tables hold. Postcard is positional: a changed row means a new
//! format number and a step that rewrites the table.

use protocol::command::{Command, Outcome, Receipt};
use protocol::deployment::desired::{Cause, Commit, HealthRule, OnFailure};
use protocol::deployment::observed::DeploymentResult;
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::state::{Lifecycle, StateItem};
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::rollout::course::Course;

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

/// What a node is to have of one deployment, as it was last told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDesired {
    /// The node's generation that it made.
    pub generation: u64,
    /// When it was decided.
    pub at: UnixMillis,
    /// The deployment's number.
    pub number: u16,
    /// The deployment's name.
    pub name: String,
    /// What is wanted. The spec is the journal's.
    pub want: StoredWant,
    /// The rollout's number for the order; 0 without a rollout.
    pub order: u32,
}

/// A rollout that is carried out, as far as the desk has heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRollout {
    /// The record of the journal that started it: rollouts' order.
    pub seq: u64,
    /// The deployment that changes.
    pub deployment: DeploymentId,
    /// The revision that nodes get.
    pub revision: u32,
    /// The revision that nodes go back to; none when they had nothing.
    pub before: Option<u32>,
    /// What was decided, up to the desk's cursor.
    pub course: Course,
}

/// What is wanted of a node for one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredWant {
    /// Run a revision.
    Run {
        /// Which.
        revision: u32,
        /// The rollout that brings it.
        rollout: Option<RolloutId>,
        /// Why.
        cause: Cause,
        /// When the change has succeeded or failed.
        health: HealthRule,
        /// What the node does when it fails.
        on_failure: OnFailure,
        /// Whether the revision before may be given up.
        commit: Commit,
    },
    /// Have nothing of it.
    Remove {
        /// The rollout that takes it away.
        rollout: Option<RolloutId>,
    },
}

impl StoredWant {
    /// The revision that is wanted; none for a removal.
    #[must_use]
    pub fn revision(&self) -> Option<u32> {
        match self {
            Self::Run { revision, .. } => Some(*revision),
            Self::Remove { .. } => None,
        }
    }

    /// Whether it changes the node for something that it did not have: what a
    /// breaker watches and stops.
    #[must_use]
    pub fn is_forward(&self) -> bool {
        matches!(
            self,
            Self::Run {
                cause: Cause::Change,
                ..
            }
        )
    }

    /// The rollout that it belongs to.
    #[must_use]
    pub fn rollout(&self) -> Option<RolloutId> {
        match self {
            Self::Run { rollout, .. } | Self::Remove { rollout } => *rollout,
        }
    }
}

/// How a change of a rollout did not succeed on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// When it came, in controller time.
    pub received_at: UnixMillis,
    /// What the node says.
    pub result: DeploymentResult,
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
