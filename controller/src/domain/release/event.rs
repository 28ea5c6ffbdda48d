//! What happened to releases, and updates to them.

use protocol::release::{Release, SignedRelease};
use serde::{Deserialize, Serialize};

use crate::domain::deployment::event::DeploymentApplied;

/// A release was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseAdded {
    /// What it is.
    pub release: Box<Release>,
    /// As it was signed, so that the trail can be verified by the release key.
    pub signed: SignedRelease,
}

/// A release is not rolled out any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRevoked {
    /// Its version.
    pub version: String,
    /// Why.
    pub reason: String,
}

/// A release is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRemoved {
    /// Its version.
    pub version: String,
}

/// A deployment got a revision that is a version of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateApplied {
    /// The deployment and its revision, whose project is empty.
    pub applied: DeploymentApplied,
    /// The version.
    pub version: String,
}
