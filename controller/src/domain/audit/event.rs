//! What was asked and not done.

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;

/// A caller was not allowed to do something. Who is in the record around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDenied {
    /// The stable code.
    pub code: ErrorCode,
    /// The permission, and what was missing.
    pub reason: String,
    /// Nodes that no grant covers; the first few.
    pub nodes: Vec<NodeId>,
    /// How many nodes no grant covers.
    pub node_count: u32,
}

/// The rules of the fleet did not allow a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRejected {
    /// The stable code.
    pub code: ErrorCode,
    /// What was asked and why it cannot be.
    pub detail: String,
}

/// Denials and rejections that were counted and not recorded one by one:
/// anonymous ones always, a caller's own beyond a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialsCounted {
    /// Whose; none for callers that are too many to be told apart.
    pub caller: Option<Caller>,
    /// From when.
    pub from: UnixMillis,
    /// Until when.
    pub until: UnixMillis,
    /// How many.
    pub count: u64,
}
