//! What the container engine says there is, as far as a deployment needs it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::deployment::spec::Restart;
use protocol::id::{DeploymentId, NodeId};
use protocol::time::UnixMillis;

/// The label that says which node's agent made a container, network or volume.
pub const LABEL_NODE: &str = "flotilla.node";
/// The label with the deployment's id.
pub const LABEL_DEPLOYMENT: &str = "flotilla.deployment";
/// The label with the revision that a container was made for.
pub const LABEL_REVISION: &str = "flotilla.revision";
/// The label with the service's name.
pub const LABEL_SERVICE: &str = "flotilla.service";
/// The label with the digest of all that a container was made from.
pub const LABEL_SPEC_HASH: &str = "flotilla.spec-hash";

/// Whose a container is. One without an owner is foreign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The service.
    pub service: String,
    /// The revision for which it was made.
    pub revision: u32,
    /// The digest of what it was made from.
    pub hash: String,
}

impl Owner {
    /// Reads the labels; none unless all of them are there and name this node.
    #[must_use]
    pub fn read(node: NodeId, label: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if label(LABEL_NODE)? != node.to_string() {
            return None;
        }
        Some(Self {
            deployment: label(LABEL_DEPLOYMENT)?.parse().ok()?,
            service: label(LABEL_SERVICE)?,
            revision: label(LABEL_REVISION)?.parse().ok()?,
            hash: label(LABEL_SPEC_HASH)?,
        })
    }

    /// The labels that [`Owner::read`] reads.
    #[must_use]
    pub fn labels(&self, node: NodeId) -> BTreeMap<String, String> {
        [
            (LABEL_NODE, node.to_string()),
            (LABEL_DEPLOYMENT, self.deployment.to_string()),
            (LABEL_SERVICE, self.service.clone()),
            (LABEL_REVISION, self.revision.to_string()),
            (LABEL_SPEC_HASH, self.hash.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    /// It was made and never started.
    Created,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// The engine is about to start it again.
    Restarting,
    /// It ended.
    Exited,
    /// The engine is removing it, or could not.
    Dead,
}

/// What a health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Nothing yet.
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

/// What can be changed by hand on a container that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Bytes of memory; 0 is no limit.
    pub memory_bytes: u64,
    /// Bytes of memory that are kept for it.
    pub memory_reservation_bytes: u64,
    /// Billionths of a processor; 0 is no limit.
    pub nano_cpus: u64,
    /// Processes; 0 is no limit.
    pub pids: u64,
    /// When it is started again.
    pub restart: Restart,
    /// The networks that it is connected to.
    pub networks: BTreeSet<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// Whose it is; none when it is foreign.
    pub owner: Option<Owner>,
    /// What it does.
    pub run: Run,
    /// What its health check says; none without one.
    pub health: Option<Health>,
    /// The exit code of its last end.
    pub exit_code: Option<i32>,
    /// Whether the kernel ended it for lack of memory.
    pub oom_killed: bool,
    /// What went wrong when it was started last; empty when nothing did.
    pub error: String,
    /// How often the engine started it again.
    pub restarts: u32,
    /// When it was started last.
    pub started_at: Option<UnixMillis>,
    /// The image's digest, where the engine knows one.
    pub image_digest: Option<String>,
    /// What can be changed by hand.
    pub settings: Settings,
    /// The last lines that it wrote, when it is not well.
    pub log_tail: Vec<String>,
}

impl Container {
    /// Whether it was ever started.
    #[must_use]
    pub fn was_started(&self) -> bool {
        self.run != Run::Created && self.started_at.is_some()
    }

    /// Whether it runs, or the engine makes it run.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.run, Run::Running | Run::Restarting | Run::Paused)
    }

    /// Whether it may be looked at for its last lines.
    #[must_use]
    pub fn is_unwell(&self) -> bool {
        self.run == Run::Restarting
            || self.health == Some(Health::Unhealthy)
            || self.run == Run::Exited && self.exit_code != Some(0)
    }
}

/// A copy of a config or secret on the node's disk, as it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileCopy {
    /// The content's digest.
    pub digest: String,
    /// Mode bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

impl FileCopy {
    /// The name of the copy's file.
    #[must_use]
    pub fn file_name(&self) -> String {
        let (user, group) = self.owner;
        format!("{}-{:o}-{user}-{group}", self.digest, self.mode)
    }
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The containers.
    pub containers: Vec<Container>,
    /// The images that are there, of those that were asked for, by handle.
    pub images: BTreeSet<String>,
    /// The deployment's networks, and those asked for, by name.
    pub networks: BTreeMap<String, bool>,
    /// The volumes that are there, of those that were asked for, by name.
    pub volumes: BTreeSet<String>,
    /// The copies of files on disk.
    pub files: BTreeSet<FileCopy>,
}
