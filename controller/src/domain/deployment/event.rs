//! What happened to deployments.
//!
//! A revision stands in the journal whole, in normal form: what ran in the fleet
//! can be read from the audit trail alone. Contents of configs and secrets are no
//! part of it; the spec names them by digest.

use protocol::deployment::spec::Spec;
use protocol::id::DeploymentId;
use protocol::selector::Selector;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;

/// A deployment got a revision, its first or another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentApplied {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Its number in the fleet, which names its state's key on nodes.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// The revision's number, from 1.
    pub revision: u32,
    /// The nodes that it is for.
    pub selector: Selector,
    /// The nodes on which whoever applied it may: it never gets to others, however
    /// labels change. None of them is the whole fleet.
    pub within: Vec<Selector>,
    /// What is to run.
    pub spec: Box<Spec>,
    /// The spec's digest.
    pub digest: Digest,
    /// Whether it is new or an earlier one again.
    pub cause: ApplyCause,
}

/// Where a revision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyCause {
    /// Someone gave a project.
    Apply,
    /// Someone asked to go back to an earlier revision.
    Rollback {
        /// Which.
        to: u32,
    },
}

/// A deployment is to be taken from every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRemoved {
    /// Which.
    pub deployment: DeploymentId,
}

/// A removed deployment is gone from every node that was reached. Its name and
/// number are free. Nodes that were not reached are still told to remove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentForgotten {
    /// Which.
    pub deployment: DeploymentId,
}
