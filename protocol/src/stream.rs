//! Streams: what a node must get to the controller, in order, until it is
//! acknowledged.
//!
//! Each node has four streams. Every entry has a sequence number per (node,
//! store, stream) that is never reset. The sender's live entries may have gaps:
//! a state was superseded, a frame was shed, a block of numbers was skipped after
//! a power cut. So an [`Upload`] carries consecutive *live* entries and says in
//! `after` which number precedes them; gaps inside it are intended.
//!
//! The receiver keeps one number per stream, `contiguous`. It accepts an upload
//! when `after <= contiguous` and then moves to the last sequence in it; entries
//! at or below `contiguous` are duplicates. Anything else means that an upload
//! went missing: it is dropped whole, and the acknowledgement makes the sender go
//! back (go-back-N, as in RFC 3366 section 2). Acknowledgements are cumulative
//! and are sent only after the entries are durable.

use serde::{Deserialize, Serialize};

use crate::id::StoreId;
use crate::message::{Kind, Message};

/// One of a node's streams, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Receipts and lifecycle events: never shed.
    Control,
    /// Observed state and facts: the latest per key.
    State,
    /// Frames made while the link was up.
    Telemetry,
    /// Frames made while the link was down: coarser tiers when space is short.
    Backfill,
}

impl Stream {
    /// Every stream, in sending order.
    pub const ALL: [Self; 4] = [Self::Control, Self::State, Self::Telemetry, Self::Backfill];

    /// The stream's name, as in its topic.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::State => "state",
            Self::Telemetry => "telemetry",
            Self::Backfill => "backfill",
        }
    }

    /// The stream of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// The stream's place in [`Stream::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::State => 1,
            Self::Telemetry => 2,
            Self::Backfill => 3,
        }
    }
}

/// What an entry's body is. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryKind(pub u16);

impl EntryKind {
    /// [`crate::command::Receipt`]
    pub const RECEIPT: Self = Self(1);
    /// [`crate::state::StateItem`]
    pub const STATE: Self = Self(2);
    /// A telemetry frame.
    pub const FRAME: Self = Self(3);
    /// [`crate::state::Lifecycle`]
    pub const LIFECYCLE: Self = Self(4);
    /// [`crate::deployment::observed::DeploymentResult`]
    pub const DEPLOYMENT_RESULT: Self = Self(5);
    /// [`crate::condition::Crossing`]
    pub const CONDITION: Self = Self(6);
}

/// One entry of a stream.
///
/// The body is decoded by `kind` and `version`; one that cannot be decoded is
/// quarantined by the controller and acknowledged, so that it never sticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number in the stream, from 1.
    pub seq: u64,
    /// What the body is.
    pub kind: EntryKind,
    /// The version of that kind.
    pub version: u16,
    /// The encoded body.
    pub body: Vec<u8>,
}

/// Consecutive live entries of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// The store that the numbers belong to.
    pub store: StoreId,
    /// The stream.
    pub stream: Stream,
    /// The number of the live entry before the first, or the highest that was
    /// acknowledged when there is none.
    pub after: u64,
    /// The entries, by rising number.
    pub entries: Vec<Entry>,
}

impl Message for Upload {
    const KIND: Kind = Kind::UPLOAD;
    const VERSION: u16 = 1;
}

/// How far a stream has arrived, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAck {
    /// The stream.
    pub stream: Stream,
    /// Everything up to this number is durable at the controller, or was
    /// quarantined there.
    pub acked: u64,
    /// Bytes of entries that the node may have in flight on this stream.
    pub credit_bytes: u32,
}
