//! The pipe between the controller and its nodes: an embedded MQTT broker, or
//! any MQTT 5 broker by configuration.
//!
//! **Invariant:** nothing here is relied on for correctness. A pipe may lose,
//! repeat, delay and reorder; what must not be lost is kept at both ends until
//! the other end's signed acknowledgement. So every queue here may shed, and
//! says when it does.
//!
//! Fails by losing messages (counted) or by being down ([`PipeState`]); it never
//! takes the controller with it.

pub mod embedded;
pub mod external;

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use protocol::id::NodeId;
use protocol::topic::Topic;
use tokio::sync::mpsc;

/// Publishes that wait for the uplink. One is at most 128 KiB and usually one or
/// two, so a full queue is some megabytes. When it is full, the embedded broker
/// stops reading from the sender's connection for `DELIVERY_WAIT_MAX` and then
/// sheds the message; an external broker's client stops reading.
pub const DELIVERIES_MAX: usize = 2048;

/// The longest that a received publish waits for room. Shorter than a heartbeat,
/// so a node whose message was shed repairs it with its next one, and short
/// enough that one blocked session can still be closed in time.
pub(crate) const DELIVERY_WAIT_MAX: std::time::Duration = std::time::Duration::from_millis(500);

/// A message from the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: Topic,
    /// A sealed envelope.
    pub payload: Vec<u8>,
}

/// A message that a pipe received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The topic it was published to; always below some node's `up`.
    pub topic: Topic,
    /// The payload, not yet opened.
    pub payload: Vec<u8>,
    /// The node whose certificate the sender's connection was made with, where
    /// the broker tells.
    pub sender: Option<NodeId>,
}

/// Whether messages can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeState {
    /// They can.
    Up,
    /// The broker is unreachable: publishes are shed.
    Down,
}

/// A publish that the pipe did not take. It was shed: the session repairs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker is not connected.
    #[error("the broker is not connected")]
    Down,
    /// The pipe was shut down.
    #[error("the pipe is closed")]
    Closed,
}

/// The sending half of a pipe.
pub trait Pipe: Send + Sync + 'static {
    /// Publishes with QoS 1, not retained. Waits for room in the pipe's queue,
    /// never for the network.
    ///
    /// # Errors
    /// When the pipe is down or closed; the message is lost.
    fn publish(&self, outgoing: Outgoing) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Closes a node's live connections at once, where the broker can. An
    /// external broker cannot: there the node's envelopes are refused.
    fn disconnect(&self, node: NodeId);

    /// Whether messages can pass.
    fn state(&self) -> PipeState;

    /// What passed and what was shed since the start.
    fn counts(&self) -> PipeCounts;
}

/// What passed a pipe since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeCounts {
    /// Publishes handed to the uplink.
    pub delivered: u64,
    /// Publishes that found the uplink's queue full for too long, and were shed.
    pub shed: u64,
    /// Publishes and subscriptions that the access rules refused.
    pub refused: u64,
    /// Connections from nodes that are open.
    pub connections: u64,
}

/// Counters behind [`PipeCounts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) delivered: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) connections: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> PipeCounts {
        PipeCounts {
            delivered: self.delivered.load(Ordering::Relaxed),
            shed: self.shed.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}

/// The receiving half of a pipe.
#[derive(Debug)]
pub struct Deliveries(mpsc::Receiver<Delivery>);

impl Deliveries {
    pub(crate) fn channel() -> (mpsc::Sender<Delivery>, Self) {
        let (sender, receiver) = mpsc::channel(DELIVERIES_MAX);
        (sender, Self(receiver))
    }

    /// The next received publish; none when the pipe is closed. Cancelling it
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.0.recv().await
    }

    /// Appends up to `limit` received publishes to `into`, waiting for the first
    /// one. Returns how many; zero when the pipe is closed. Cancelling it loses
    /// nothing.
    pub async fn next_many(&mut self, into: &mut Vec<Delivery>, limit: usize) -> usize {
        self.0.recv_many(into, limit).await
    }
}

/// Decides at the door whether a node may connect.
pub trait Gate: Send + Sync + 'static {
    /// Whether the node is known and not revoked, now.
    fn admits(&self, node: NodeId) -> bool;
}
