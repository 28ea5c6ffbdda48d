//! Releases of the agent, and updates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// A release to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRelease {
    /// The signed manifest, as `flotilla release sign` wrote it; base64.
    pub manifest: String,
}

/// Why a release is not to be rolled out any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeRelease {
    /// Why.
    pub reason: String,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// The version.
    pub version: String,
    /// `ready`, `incomplete` while archives are missing, `expired` or `revoked`.
    pub state: String,
    /// The id of the key that signed it.
    pub key: String,
    /// When it was made.
    pub issued_at: Stamp,
    /// From then on it is not installed.
    pub expires_at: Stamp,
    /// The oldest version that it is installed over.
    pub from_min: String,
    /// The newest version that it is installed over.
    pub from_max: String,
    /// When it was added.
    pub added_at: Stamp,
    /// By whom.
    pub added_by: String,
    /// Why it was revoked.
    pub revoked: Option<String>,
    /// Active nodes whose newest hello named this version.
    pub nodes: u32,
    /// Its archives.
    pub archives: Vec<ReleaseArchiveView>,
}

/// An archive of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseArchiveView {
    /// The target triple.
    pub target: String,
    /// The file's name.
    pub name: String,
    /// The SHA-256 of its bytes.
    pub sha256: String,
    /// Bytes of it.
    pub size_bytes: u64,
    /// Whether it is here.
    pub held: bool,
}

/// Releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseList {
    /// Them, the newest version first.
    pub releases: Vec<ReleaseView>,
}

/// A version of the agent for the nodes that a selector matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyUpdate {
    /// The name that the update goes by among deployments.
    pub name: String,
    /// The version.
    pub version: String,
    /// Which nodes: a selector, or `*` for every node. The revision before decides
    /// without it.
    #[serde(default)]
    pub on: Option<String>,
    /// The newest revision that the caller knows; 0 for an update that is new.
    /// Refused when it is not the newest.
    #[serde(default)]
    pub base: u32,
    /// How it is rolled out: the keys of a `[rollout]` table; safe defaults without.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub rollout: Option<serde_json::Value>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Whether matching no node is fine.
    #[serde(default)]
    pub allow_empty: bool,
}
