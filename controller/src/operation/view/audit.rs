//! The audit trail.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordView {
    /// Its place in the chain.
    pub sequence: u64,
    /// When.
    pub at: Stamp,
    /// On whose behalf: a principal's name, `host`, `system`, or a node.
    pub caller: String,
    /// What kind of record, such as `node.revoked` or `request.denied`.
    pub kind: String,
    /// What happened, for people: one line of at most 240 characters, with what is
    /// large left out.
    pub summary: String,
    /// The event as it is recorded.
    #[schema(value_type = Object)]
    pub event: serde_json::Value,
    /// The record's hash, in hex.
    pub hash: String,
}

/// Some records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordPage {
    /// The records, oldest first.
    pub records: Vec<RecordView>,
    /// Sequence of the newest record that exists.
    pub head: u64,
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadAudit {
    /// Only records after this sequence; the newest without it.
    pub after: Option<u64>,
    /// Most records, at most 1000.
    pub limit: Option<u32>,
}

/// What verifies the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditKey {
    /// The controller's public keys that are in force, 64 hex digits each.
    pub public_keys: Vec<String>,
    /// The fleet.
    pub fleet: String,
}
