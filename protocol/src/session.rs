//! A session: hello, welcome, heartbeats, acknowledgements.
//!
//! On every connect the node says [`Hello`] with a fresh nonce. The controller's
//! [`Welcome`] echoes it, so what the controller says in this session cannot be
//! an old recording. Everything else that goes down carries the nonce; broadcasts
//! are ordered by epoch instead.

use serde::{Deserialize, Serialize};

use crate::id::StoreId;
use crate::label::Labels;
use crate::message::{Kind, Message};
use crate::stream::{Stream, StreamAck};
use crate::time::UnixMillis;

/// 128 random bits that name one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub [u8; 16]);

/// The kernel's id of one boot of a host (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub [u8; 16]);

/// What a node has of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOffer {
    /// The stream.
    pub stream: Stream,
    /// The highest number that the node knows to be acknowledged.
    pub acked: u64,
    /// The highest number that it has given out.
    pub last: u64,
}

/// A node's first word on every connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Names the session.
    pub nonce: Nonce,
    /// The node's store.
    pub store: StoreId,
    /// Counts the node's connects; durable, so a number that was used before
    /// means a cloned identity or a disk that was put back.
    pub connect_counter: u64,
    /// The host's boot.
    pub boot: BootId,
    /// The agent's version (semver).
    pub agent_version: String,
    /// The node's own clock.
    pub now: UnixMillis,
    /// The highest incarnation of the controller that the node has obeyed.
    pub incarnation: u64,
    /// The desired state's generation that it holds.
    pub generation: u64,
    /// The policy's epoch that it holds.
    pub policy_epoch: u64,
    /// The trust set's version that it holds.
    pub trust_version: u64,
    /// Its streams.
    pub streams: Vec<StreamOffer>,
}

impl Message for Hello {
    const KIND: Kind = Kind::HELLO;
    const VERSION: u16 = 1;
}

/// The controller's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The hello's nonce.
    pub nonce: Nonce,
    /// The controller's clock.
    pub now: UnixMillis,
    /// The hello's `sent_at`, so that the node can bound the round trip.
    pub echo: UnixMillis,
    /// The controller's incarnation; raised when it is restored from a backup.
    pub incarnation: u64,
    /// How often the node is to send heartbeats, in milliseconds.
    pub heartbeat_ms: u32,
    /// The node's name.
    pub name: String,
    /// The node's labels.
    pub labels: Labels,
    /// The newest trust set's version.
    pub trust_version: u64,
    /// How far each stream has arrived.
    pub acks: Vec<StreamAck>,
}

impl Message for Welcome {
    const KIND: Kind = Kind::WELCOME;
    const VERSION: u16 = 1;
}

/// What a node says every heartbeat interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The session.
    pub nonce: Nonce,
    /// The highest number such that every down message up to it arrived.
    pub down_seen: u64,
    /// The node's own clock.
    pub now: UnixMillis,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
    /// Entries that wait in the outbox, all streams.
    pub outbox_entries: u32,
}

impl Message for Heartbeat {
    const KIND: Kind = Kind::HEARTBEAT;
    const VERSION: u16 = 1;
}

/// The controller's acknowledgement: of entries, of a heartbeat, or of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// The session.
    pub nonce: Nonce,
    /// The controller's clock.
    pub now: UnixMillis,
    /// `sent_at` of the envelope that is answered, so that the node can bound
    /// the round trip; 0 when the acknowledgement answers none.
    pub echo: UnixMillis,
    /// The highest number of a down message sent in this session, so that a node
    /// notices when the last ones went missing.
    pub down_last: u64,
    /// How far streams have arrived; those that did not move may be left out.
    pub acks: Vec<StreamAck>,
}

impl Message for Acks {
    const KIND: Kind = Kind::ACKS;
    const VERSION: u16 = 1;
}

/// On `all`: the controller has started. Nodes say hello again, with jitter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// The controller's incarnation.
    pub incarnation: u64,
    /// The controller's clock.
    pub now: UnixMillis,
}

impl Message for Announce {
    const KIND: Kind = Kind::ANNOUNCE;
    const VERSION: u16 = 1;
}

/// The answer to a message that cannot be taken: never dropped in silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The kind of the refused message.
    pub kind: u16,
    /// Its version.
    pub version: u16,
    /// Its counter.
    pub counter: u64,
    /// The error code's text; a newer peer may send one that is not known here.
    pub code: String,
    /// What is wrong, for a person.
    pub detail: String,
}

impl Message for Reject {
    const KIND: Kind = Kind::REJECT;
    const VERSION: u16 = 1;
}

/// Samples of live mode: shown to whoever watches, stored by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSamples {
    /// The session.
    pub nonce: Nonce,
    /// A telemetry frame.
    pub frame: Vec<u8>,
}

impl Message for LiveSamples {
    const KIND: Kind = Kind::LIVE_SAMPLES;
    const VERSION: u16 = 1;
}
