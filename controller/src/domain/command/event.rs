//! What happened to fleet commands.
//!
//! A command to ten thousand nodes is a few records: the resolved targets stand
//! in a table of the journal, written with the event that names their digest,
//! and receipts stay with the uplink, which answers for them by a Merkle root.

use protocol::command::Action;
use protocol::id::CommandId;
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::command::{Counts, Hours};
use crate::domain::digest::Digest;

/// A command was issued to some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandIssued {
    /// Its id.
    pub command: CommandId,
    /// The selector that was given; none when nodes were named.
    pub selector: Option<Selector>,
    /// What to do. Arguments are kept as they were given.
    pub action: Action,
    /// When it is too late to start.
    pub start_by: UnixMillis,
    /// How long it may run once started, in milliseconds.
    pub run_timeout_ms: u64,
    /// Bytes of output that a receipt may carry.
    pub output_bytes_max: u32,
    /// Nodes that may run it at once; none for all.
    pub concurrency_max: Option<u32>,
    /// Nodes that may be given it in a minute; none for no limit.
    pub rate_per_min: Option<u32>,
    /// How many nodes it goes to.
    pub target_count: u32,
    /// The digest of their ids.
    pub targets_digest: Digest,
    /// Nodes that the selector matches and that were left out, because their
    /// identity is in doubt.
    pub withheld: u32,
    /// Whether it waits for maintenance windows.
    #[serde(default, skip_serializing_if = "Hours::is_default")]
    pub hours: Hours,
}

/// Someone asked to cancel a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCancelRequested {
    /// Which.
    pub command: CommandId,
}

/// Every target of a command has its final state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandConcluded {
    /// Which.
    pub command: CommandId,
    /// How many ended how.
    pub counts: Counts,
    /// The Merkle root over the final states and receipts, by node id.
    pub merkle_root: Digest,
}
