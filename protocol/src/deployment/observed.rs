//! What a node reports of deployments: the state, and how each change ended.
//!
//! **Invariant:** a workload's state is what the container engine said at a time;
//! nothing is `running` that the engine did not say runs.

use serde::{Deserialize, Serialize};

use super::limit::{
    DRIFT_COUNT_MAX, LOG_TAIL_LINE_BYTES_MAX, LOG_TAIL_LINES_MAX, SERVICES_COUNT_MAX,
};
use crate::id::{DeploymentId, RolloutId};
use crate::limits::{DETAIL_BYTES_MAX, ENTRY_BYTES_MAX};
use crate::message;
use crate::time::UnixMillis;

/// How one deployment is on one node. In the `state` stream: the latest wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentState {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its number in the fleet.
    pub number: u16,
    /// The generation of the order that is worked on or was reached.
    pub generation: u64,
    /// The revision that is wanted; none when it is to be removed.
    pub wanted: Option<u32>,
    /// The revision that runs and is committed; none before the first.
    pub current: Option<u32>,
    /// Where it is.
    pub phase: Phase,
    /// Since when, on the node's clock.
    pub since: UnixMillis,
    /// The error code's text, where something is wrong.
    pub code: Option<String>,
    /// What is going on, for a person.
    pub detail: String,
    /// The containers.
    pub workloads: Vec<Workload>,
    /// What was found changed by hand and put back, newest last.
    pub drift: Vec<String>,
}

/// Where a deployment is on a node. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing was done yet; the detail says what for it waits.
    Waiting,
    /// Images and files are fetched.
    Fetching,
    /// Containers are made and started.
    Starting,
    /// Everything runs; it must stay healthy for a while.
    Verifying,
    /// Healthy, and the revision before is kept until the commit.
    AwaitingCommit,
    /// What is wanted runs.
    Running,
    /// What is wanted runs, and something is not well.
    Degraded,
    /// The change failed; it goes back to the revision before.
    Reverting,
    /// The change failed, and the revision before runs again.
    Reverted,
    /// The change failed, and there is nothing to go back to, or it is to be kept.
    Failed,
    /// The node's policy, or a breaker, does not allow it.
    Refused,
    /// Containers are stopped and removed.
    Removing,
    /// There is nothing left of it but volumes.
    Removed,
}

impl Phase {
    /// The phase's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Starting => "starting",
            Self::Verifying => "verifying",
            Self::AwaitingCommit => "awaiting_commit",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Removing => "removing",
            Self::Removed => "removed",
        }
    }
}

/// One container of a deployment, as the engine describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The service.
    pub service: String,
    /// The revision that it belongs to.
    pub revision: u32,
    /// The container's id, its first 12 characters; none before it was made.
    pub container: Option<String>,
    /// What the engine says.
    pub state: WorkloadState,
    /// The image's digest, where the engine knows one.
    pub image_digest: Option<String>,
    /// How often it was started again.
    pub restarts: u32,
    /// The exit code of its last end.
    pub exit_code: Option<i32>,
    /// Whether the kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// When it was started last, on the node's clock.
    pub started_at: Option<UnixMillis>,
    /// When that was observed, on the node's clock.
    pub observed_at: UnixMillis,
    /// What is going on, for a person: bytes pulled, what it waits for, the
    /// engine's error.
    pub detail: String,
    /// The last lines that it wrote, when it failed.
    pub log_tail: Vec<String>,
}

/// What the engine says of a container. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadState {
    /// There is no container yet; the detail says how far it got.
    Pending,
    /// Its image is fetched.
    Fetching,
    /// It was made and never started.
    Created,
    /// It runs, and its health is not known yet.
    Starting,
    /// It runs; no health check is set.
    Running,
    /// It runs, and its health check passes.
    Healthy,
    /// It runs, and its health check fails.
    Unhealthy,
    /// The engine starts it again.
    Restarting,
    /// It is paused.
    Paused,
    /// It ended with exit code 0.
    Completed,
    /// It ended with another code.
    Exited,
    /// The engine cannot remove it.
    Dead,
    /// It was there and is not any more.
    Missing,
}

impl WorkloadState {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Exited => "exited",
            Self::Dead => "dead",
            Self::Missing => "missing",
        }
    }
}

/// How a change of a deployment ended on a node: exactly one for each generation
/// that was begun, in the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentResult {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The order's generation.
    pub generation: u64,
    /// The revision that was wanted; none for a removal.
    pub revision: Option<u32>,
    /// The rollout that brought it.
    pub rollout: Option<RolloutId>,
    /// How it ended.
    pub outcome: ChangeOutcome,
    /// The error code's text when it did not succeed.
    pub code: Option<String>,
    /// The policy's epoch that was held when it was judged.
    pub policy_epoch: u64,
    /// What happened, for a person.
    pub detail: String,
    /// When, in controller time as the node knows it.
    pub at: UnixMillis,
}

impl DeploymentResult {
    /// The version of a result's body in a stream entry.
    pub const VERSION: u16 = 1;
}

impl DeploymentState {
    /// The first key of deployments' states; a deployment's number is added.
    pub const KEY_FIRST: u16 = 0x4000;

    /// Makes it fit an entry of the stream: holds texts and lists to their bounds,
    /// then gives up what helps least until the rest fits. Log lines go first,
    /// the oldest before the newest, then drift, then the words about workloads;
    /// what each workload is stays.
    pub fn fit(&mut self) {
        self.workloads.truncate(2 * SERVICES_COUNT_MAX);
        cut(&mut self.detail, DETAIL_BYTES_MAX);
        let mut lines = LOG_TAIL_LINES_MAX;
        self.hold_to(lines, DRIFT_COUNT_MAX, DETAIL_BYTES_MAX);
        while lines > 0 && !self.fits() {
            lines /= 2;
            self.hold_to(lines, DRIFT_COUNT_MAX, DETAIL_BYTES_MAX);
        }
        let mut bytes = DETAIL_BYTES_MAX;
        while bytes > 0 && !self.fits() {
            bytes /= 4;
            self.hold_to(0, 0, bytes);
        }
    }

    fn fits(&self) -> bool {
        // What a state item adds around it: a time and two tags.
        const AROUND: usize = 32;
        message::encode(self).len() + AROUND <= ENTRY_BYTES_MAX
    }

    fn hold_to(&mut self, lines: usize, drift: usize, detail_bytes: usize) {
        newest(&mut self.drift, drift);
        self.drift
            .iter_mut()
            .for_each(|line| cut(line, LOG_TAIL_LINE_BYTES_MAX));
        for workload in &mut self.workloads {
            cut(&mut workload.detail, detail_bytes);
            newest(&mut workload.log_tail, lines);
            for line in &mut workload.log_tail {
                cut(line, LOG_TAIL_LINE_BYTES_MAX);
            }
        }
    }
}

fn newest(lines: &mut Vec<String>, most: usize) {
    lines.drain(..lines.len().saturating_sub(most));
}

fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

/// How a change ended. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeOutcome {
    /// What was wanted runs and was healthy for as long as asked.
    Succeeded,
    /// It failed, and the revision before runs again.
    Reverted,
    /// It failed, and there was nothing to go back to, or it was to be kept.
    Failed,
    /// The node did not begin; the code says why.
    Refused,
    /// A later order came before it ended.
    Superseded,
}

impl ChangeOutcome {
    /// The outcome's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Superseded => "superseded",
        }
    }
}
