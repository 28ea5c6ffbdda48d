//! The controller itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// The controller at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// The fleet's id.
    pub fleet: String,
    /// Version of the controller.
    pub version: String,
    /// Since when it runs.
    pub started_at: Stamp,
    /// Its incarnation: raised when a backup is restored.
    pub incarnation: u64,
    /// Nodes in the fleet.
    pub nodes: u32,
    /// Nodes whose link is up.
    pub nodes_up: u32,
    /// Fleet commands that are not concluded.
    pub commands_open: u32,
    /// Sequence of the newest journal record.
    pub journal_sequence: u64,
    /// Sinks that have taken no notice for a quarter of an hour, although it was tried.
    pub sinks_failing: Vec<String>,
}

/// What the controller puts into a support bundle: no secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SupportView {
    /// At a glance.
    pub status: StatusView,
    /// The configuration; it never holds secrets, only names of files.
    pub configuration: String,
    /// Whether each part is well.
    pub parts: Vec<String>,
    /// The metrics, as `/metrics` shows them.
    pub metrics: String,
    /// The newest log lines.
    pub log: Vec<String>,
}
