//! Deployments on this node: what is meant to run is made to run.
//!
//! The decisions are those of [`crate::domain::deployment`]; here they are carried
//! out. [`task`] owns everything and drives each deployment by itself, so that a
//! slow registry never holds up the repair of another deployment. [`docker`] is the
//! engine, [`fetch`] gets archives, configs and secrets from the controller,
//! [`files`] keeps them on disk, [`settings`] is what the node allows.
//!
//! **Invariant:** what is not durable is not acted upon: each transition of a
//! record is kept by the core before anything follows from it. Only containers
//! with our labels are touched. Every call has a deadline, and an engine that is
//! away is waited for, whatever was going on.
//!
//! There is no state here that a restart needs. A kill between any two calls leaves
//! a record and containers, from which the next start goes on.

pub mod docker;
mod drive;
pub mod fetch;
pub mod files;
mod hands;
pub mod settings;
pub mod task;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::deployment::spec::{Image, Network, Volume};
use protocol::id::DeploymentId;
use protocol::policy::{Attempt, Refusal};
use protocol::state::StateItem;
use protocol::time::UnixMillis;

use crate::domain::deployment::goal::Goal;
use crate::domain::deployment::machine::StepError;
use crate::domain::deployment::observed::Observed;
use crate::domain::deployment::record::Transition;
use crate::domain::time::Moment;
use crate::node::task::{CoreGone, StoreHandle};

pub use settings::Settings;

/// Whether a change may begin: asked right before, and not for rollbacks,
/// removals and repairs.
pub type Admit = Arc<dyn Fn(Attempt<'_>) -> Result<(), Refusal> + Send + Sync>;

/// Tells how far a step is, for a person. Each note counts as progress.
pub type Note<'a> = &'a (dyn Fn(String) + Send + Sync);

/// What is asked of the engine about one deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Images by handle.
    pub images: BTreeSet<String>,
    /// Networks that are not the deployment's own.
    pub networks: BTreeSet<String>,
    /// Volumes by name.
    pub volumes: BTreeSet<String>,
}

/// A container to be made.
pub struct Make<'a> {
    /// The revision.
    pub goal: &'a Goal<'a>,
    /// The service.
    pub service: &'a str,
    /// The labels that say whose it is.
    pub labels: BTreeMap<String, String>,
    /// Paths of the node, as they really are, by the path in the spec.
    pub binds: BTreeMap<String, PathBuf>,
    /// Copies of configs and secrets by where they are mounted.
    pub files: BTreeMap<String, PathBuf>,
}

/// The container engine, as far as deployments need one.
///
/// Every call ends: with an answer, or with an error that says whether to try
/// again. A call that was cut off may have had its effect or not.
pub trait ContainerRuntime: Send + Sync {
    /// What there is of a deployment.
    fn observe(
        &self,
        deployment: DeploymentId,
        query: &Query,
    ) -> impl Future<Output = Result<Observed, StepError>> + Send;

    /// Pulls an image from its registry.
    fn pull(
        &self,
        image: &Image,
        note: Note<'_>,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Loads an archive and tags the image in it that is meant.
    fn load(
        &self,
        archive: &Path,
        image: &Image,
        note: Note<'_>,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Makes a network.
    fn create_network(
        &self,
        deployment: DeploymentId,
        name: &str,
        network: &Network,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Makes a volume.
    fn create_volume(
        &self,
        deployment: DeploymentId,
        name: &str,
        volume: &Volume,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Makes a container, which does not run yet.
    fn create(&self, make: &Make<'_>) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Starts a container.
    fn start(&self, id: &str) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Lets a paused container go on.
    fn unpause(&self, id: &str) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Stops a container: asks, waits for `grace`, kills.
    fn stop(&self, id: &str, grace: Duration)
    -> impl Future<Output = Result<(), StepError>> + Send;

    /// Stops a container and removes it with its volumes that have no name.
    fn remove(
        &self,
        id: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Removes a network.
    fn remove_network(&self, name: &str) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Calls `wake` whenever something happens to a deployment, until the engine
    /// breaks off.
    fn watch(&self, wake: &(dyn Fn(DeploymentId) + Send + Sync))
    -> impl Future<Output = ()> + Send;
}

/// The node's core, as far as deployments need it.
pub trait Core: Send + Sync {
    /// Keeps what was decided, and waits until it is durable.
    fn keep(&self, transition: Transition) -> impl Future<Output = Result<(), CoreGone>> + Send;

    /// Takes an observed state.
    fn put_state(&self, item: StateItem) -> impl Future<Output = Result<(), CoreGone>> + Send;
}

impl Core for StoreHandle {
    fn keep(&self, transition: Transition) -> impl Future<Output = Result<(), CoreGone>> + Send {
        self.keep_deployment(transition)
    }

    fn put_state(&self, item: StateItem) -> impl Future<Output = Result<(), CoreGone>> + Send {
        StoreHandle::put_state(self, item)
    }
}

/// The clocks.
#[derive(Clone)]
pub struct Clocks {
    /// The node's own.
    pub moment: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Controller time.
    pub controller: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}
