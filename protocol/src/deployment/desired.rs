//! What one node is to have of one deployment.
//!
//! The controller numbers everything that it wants of a node with a generation
//! that grows by one; a node keeps the highest that it has and takes nothing at or
//! below it, so a copy that comes late or is played back never moves it. The
//! generation is in the hello, and the controller sends what is newer, in order.
//!
//! Orders are levels, not edges: a recall, a commit and a rollback are each a new
//! `Desired` that says what should be.

use serde::{Deserialize, Serialize};

use super::limit::HEALTH_TIME_MAX;
use super::spec::{Spec, SpecError};
use crate::id::{DeploymentId, RolloutId};
use crate::release::Update;
use crate::time::{self, UnixMillis};

/// What the controller wants of one node for one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its number in the fleet, which names its state's key.
    pub number: u16,
    /// Its name, which is in the names of containers.
    pub name: String,
    /// The node's generation that this makes.
    pub generation: u64,
    /// When it was decided, in controller time.
    pub at: UnixMillis,
    /// What is wanted.
    pub want: Want,
}

/// What is wanted. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Run this revision.
    Run(Box<Target>),
    /// Stop and remove what it runs; its volumes stay. An agent keeps its version.
    Remove,
    /// Run this version of the agent. A deployment is either of projects or of
    /// versions; of the latter a node obeys the one that was ordered last.
    Update(Box<Update>),
}

/// A revision that a node is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The revision's number, from 1.
    pub revision: u32,
    /// What it is.
    pub spec: Spec,
    /// The rollout that brings it; none for what a repair or a late start brings.
    pub rollout: Option<RolloutId>,
    /// Why the node gets it.
    pub cause: Cause,
    /// When the change has succeeded or failed.
    pub health: HealthRule,
    /// What the node does by itself when the change fails.
    pub on_failure: OnFailure,
    /// Whether the revision before may be given up once this one is healthy.
    pub commit: Commit,
}

/// Why a node gets a revision. Rollbacks pass open breakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It moves forward.
    Change,
    /// It goes back to what it had, or is recalled.
    Rollback,
}

/// When a changed deployment counts as healthy, and when as failed. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRule {
    /// After the start, before anything is judged.
    pub initial_delay_ms: u64,
    /// How long every service must have run, and be healthy where that is
    /// checked, without a break.
    pub min_healthy_ms: u64,
    /// By when, after the start, that must be reached.
    pub healthy_deadline_ms: u64,
    /// The longest time without any progress (pulling counts as progress).
    pub progress_deadline_ms: u64,
}

impl Default for HealthRule {
    /// Nomad's defaults, which operators know.
    fn default() -> Self {
        Self {
            initial_delay_ms: 0,
            min_healthy_ms: 10_000,
            healthy_deadline_ms: 300_000,
            progress_deadline_ms: 600_000,
        }
    }
}

impl HealthRule {
    /// Checks that it can be met: deadlines that are there and bounded, and time
    /// enough before them.
    ///
    /// # Errors
    /// The first time that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let most = time::millis(HEALTH_TIME_MAX);
        for (name, least, ms) in [
            ("initial_delay", 0, self.initial_delay_ms),
            ("min_healthy", 0, self.min_healthy_ms),
            ("healthy_deadline", 1, self.healthy_deadline_ms),
            ("progress_deadline", 1, self.progress_deadline_ms),
        ] {
            if !(least..=most).contains(&ms) {
                return Err(SpecError::new(
                    format!("health.{name}"),
                    format!("is {ms} ms; from {least} to {most}"),
                ));
            }
        }
        if self.initial_delay_ms + self.min_healthy_ms > self.healthy_deadline_ms {
            return Err(SpecError::new(
                "health.min_healthy",
                format!(
                    "is {} ms with an initial_delay of {} ms, longer than the healthy_deadline of {} ms",
                    self.min_healthy_ms, self.initial_delay_ms, self.healthy_deadline_ms
                ),
            ));
        }
        Ok(())
    }
}

/// What a node does when a change fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Goes back to the revision that it had, which is kept until commit.
    #[default]
    Revert,
    /// Leaves what there is, for someone to look at.
    Keep,
}

/// When the revision before is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// As soon as the new one is healthy.
    #[default]
    WhenHealthy,
    /// When a later order of the same revision says [`Commit::WhenHealthy`].
    Barrier,
}
