//! What the journal records of rollouts.
//!
//! Every decision after the start carries the number of those before it. The
//! engine refuses one whose number is not the next, so a decision that is asked
//! for twice, or by two who do not know of one another, is recorded once.

use core::fmt;

use protocol::id::{DeploymentId, RolloutId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::rollout::halt::Evidence;
use crate::domain::rollout::params::{OnHalt, Params};

/// A rollout was made. Its plan stands in a table, written with this event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStarted {
    /// Its id.
    pub rollout: RolloutId,
    /// The deployment that changes.
    pub deployment: DeploymentId,
    /// The revision that nodes get.
    pub revision: u32,
    /// Whether it moves forward or back.
    pub kind: Kind,
    /// How it is to go.
    pub params: Params,
    /// How many nodes each wave has.
    pub waves: Vec<u32>,
    /// The digest of who is in which wave.
    pub plan_digest: Digest,
}

/// Whether a rollout moves forward or back. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// To a revision that was not proven yet.
    Forward,
    /// To one that nodes had before. Passes breakers; what it began is never
    /// recalled.
    Rollback,
}

/// A wave began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveStarted {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// Which wave, from 0.
    pub wave: u32,
}

/// A person opened the gate before a wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveApproved {
    /// Of which rollout.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// Which wave, from 0.
    pub wave: u32,
}

/// A rollout halted: nothing more is started, what is in progress is recalled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutHalted {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// On which evidence.
    pub evidence: Evidence,
    /// What follows.
    pub then: OnHalt,
}

/// A rollout paused: nothing more is started, what is in progress goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPaused {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// Why.
    pub why: PauseReason,
}

/// Why a rollout paused. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// A person asked for it.
    Asked {
        /// Their words.
        reason: String,
    },
    /// A wave proved nothing.
    Inconclusive {
        /// Which wave, from 0.
        wave: u32,
        /// Nodes of it that are away.
        absent: u32,
        /// Nodes of it that succeeded.
        succeeded: u32,
        /// Nodes of it.
        of: u32,
    },
}

/// A rollout goes on after a halt or a pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutResumed {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// Results up to this point were seen and count no more; what comes after
    /// counts from nothing.
    pub acknowledged_at: UnixMillis,
}

/// A person ended a rollout: what is in progress is recalled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutAborted {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// Their words.
    pub reason: String,
    /// What happens to nodes that succeeded.
    pub then: AfterAbort,
}

/// What happens to nodes that succeeded when a rollout is aborted. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterAbort {
    /// They keep the revision.
    #[default]
    Keep,
    /// They go back.
    Revert,
}

/// All nodes of a rollout with a barrier are told to commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutCommitted {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
}

/// A rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutFinished {
    /// Which.
    pub rollout: RolloutId,
    /// Decisions before this one.
    pub step: u32,
    /// How.
    pub outcome: Outcome,
    /// How many targets ended how.
    pub counts: Counts,
    /// The Merkle root over the targets' rows, by node id, as they then stood.
    pub merkle_root: Digest,
}

/// How a rollout ended. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every wave was gone through.
    Completed,
    /// It halted, and nodes that succeeded keep the revision.
    Halted,
    /// It halted, and nodes that succeeded went back.
    Reverted,
    /// A person aborted it.
    Aborted,
    /// Its deadline passed.
    Expired,
}

/// How many targets ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Have the revision.
    pub succeeded: u32,
    /// Failed, and have not gone back.
    pub failed: u32,
    /// Failed, and went back by themselves.
    pub reverted: u32,
    /// Did not begin.
    pub refused: u32,
    /// Are not heard: what they have is not known.
    pub silent: u32,
    /// Went back because they were told to.
    pub recalled: u32,
    /// Were not told anything, because they were away or because it ended before.
    pub unreached: u32,
    /// Left the fleet, or no longer match.
    pub skipped: u32,
}

impl Counts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.succeeded,
            self.failed,
            self.reverted,
            self.refused,
            self.silent,
            self.recalled,
            self.unreached,
            self.skipped,
        ]
        .into_iter()
        .map(u64::from)
        .sum()
    }
}

/// A decision about a rollout that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// A wave began.
    WaveStarted(WaveStarted),
    /// The gate before a wave was opened.
    WaveApproved(WaveApproved),
    /// It halted.
    Halted(RolloutHalted),
    /// It paused.
    Paused(RolloutPaused),
    /// It goes on.
    Resumed(RolloutResumed),
    /// It was aborted.
    Aborted(RolloutAborted),
    /// Its nodes commit.
    Committed(RolloutCommitted),
    /// It ended.
    Finished(RolloutFinished),
}

impl Decision {
    /// The rollout that it is about.
    #[must_use]
    pub fn rollout(&self) -> RolloutId {
        match self {
            Self::WaveStarted(event) => event.rollout,
            Self::WaveApproved(event) => event.rollout,
            Self::Halted(event) => event.rollout,
            Self::Paused(event) => event.rollout,
            Self::Resumed(event) => event.rollout,
            Self::Aborted(event) => event.rollout,
            Self::Committed(event) => event.rollout,
            Self::Finished(event) => event.rollout,
        }
    }

    /// How many decisions came before it.
    #[must_use]
    pub fn step(&self) -> u32 {
        match self {
            Self::WaveStarted(event) => event.step,
            Self::WaveApproved(event) => event.step,
            Self::Halted(event) => event.step,
            Self::Paused(event) => event.step,
            Self::Resumed(event) => event.step,
            Self::Aborted(event) => event.step,
            Self::Committed(event) => event.step,
            Self::Finished(event) => event.step,
        }
    }
}

impl fmt::Display for Decision {
    /// For a person; waves are counted from 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaveStarted(event) => write!(f, "wave {} started", event.wave + 1),
            Self::WaveApproved(event) => write!(f, "wave {} approved", event.wave + 1),
            Self::Halted(event) => {
                let then = match event.then {
                    OnHalt::Pause => "waits for someone",
                    OnHalt::Keep => "ends",
                    OnHalt::Revert => "goes back",
                };
                write!(f, "halted and {then}: {}", event.evidence)
            }
            Self::Paused(event) => write!(f, "paused: {}", event.why),
            Self::Resumed(_) => f.write_str("resumed"),
            Self::Aborted(event) => write!(f, "aborted: {}", event.reason),
            Self::Committed(_) => f.write_str("every node is told to commit"),
            Self::Finished(event) => write!(f, "{}: {}", event.outcome.name(), event.counts),
        }
    }
}

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { reason } => f.write_str(reason),
            Self::Inconclusive {
                wave,
                absent,
                succeeded,
                of,
            } => write!(
                f,
                "wave {} proves nothing: of {of} nodes {absent} are away and {succeeded} succeeded",
                wave + 1
            ),
        }
    }
}

impl Outcome {
    /// The name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Halted => "halted",
            Self::Reverted => "reverted",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Counts {
    /// What is not zero, in a fixed order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.succeeded, "succeeded"),
            (self.failed, "failed"),
            (self.reverted, "reverted"),
            (self.refused, "refused"),
            (self.silent, "silent"),
            (self.recalled, "recalled"),
            (self.unreached, "unreached"),
            (self.skipped, "skipped"),
        ];
        let told: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        if told.is_empty() {
            return f.write_str("no targets");
        }
        f.write_str(&told.join(", "))
    }
}
