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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use protocol::id::NodeId;
use protocol::topic::Topic;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Publishes that wait for the uplink. One command to a whole fleet is answered by
/// all of it at once: with 2,048 and 6,533 nodes two thirds of the receipts were
/// shed and came again ten seconds later. When it is full, the embedded broker
/// stops reading from the sender's connection for `DELIVERY_WAIT_MAX` and then
/// sheds the message; an external broker's client stops reading.
pub const DELIVERIES_MAX: usize = 32_768;

/// Bytes of their payloads. A receipt has 300 and a frame 600, so that many fit;
/// a fleet that sends the largest of envelopes fills it with 256.
pub const DELIVERIES_BYTES_MAX: usize = 32 * 1024 * 1024;

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

/// A delivery with the room that it takes in the queue.
struct Waiting {
    delivery: Delivery,
    _room: OwnedSemaphorePermit,
}

/// Where received publishes are put in.
#[derive(Clone)]
pub(crate) struct Intake {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

/// The uplink has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UplinkGone;

impl Intake {
    /// Waits for room. Cancelling it loses the delivery.
    pub(crate) async fn send(&self, delivery: Delivery) -> Result<(), UplinkGone> {
        let bytes = delivery.payload.len().clamp(1, DELIVERIES_BYTES_MAX);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let waiting = Waiting {
            delivery,
            _room: room.map_err(|_| UplinkGone)?,
        };
        self.queue.send(waiting).await.map_err(|_| UplinkGone)
    }
}

/// The receiving half of a pipe.
pub struct Deliveries {
    queue: mpsc::Receiver<Waiting>,
    taken: Vec<Waiting>,
}

impl Deliveries {
    pub(crate) fn channel() -> (Intake, Self) {
        let (sender, queue) = mpsc::channel(DELIVERIES_MAX);
        let intake = Intake {
            queue: sender,
            room: Arc::new(Semaphore::new(DELIVERIES_BYTES_MAX)),
        };
        let taken = Vec::new();
        (intake, Self { queue, taken })
    }

    /// The next received publish; none when the pipe is closed. Cancelling it
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.queue.recv().await.map(|waiting| waiting.delivery)
    }

    /// Appends up to `limit` received publishes to `into`, waiting for the first
    /// one. Returns how many; zero when the pipe is closed. Cancelling it loses
    /// nothing.
    pub async fn next_many(&mut self, into: &mut Vec<Delivery>, limit: usize) -> usize {
        let count = self.queue.recv_many(&mut self.taken, limit).await;
        into.extend(self.taken.drain(..).map(|waiting| waiting.delivery));
        count
    }
}

/// Decides at the door whether a node may connect.
pub trait Gate: Send + Sync + 'static {
    /// Whether the node is known and not revoked, now.
    fn admits(&self, node: NodeId) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn delivery(bytes: usize) -> Delivery {
        Delivery {
            topic: Topic::Session(NodeId::from_bytes([2; 10])),
            payload: vec![0; bytes],
            sender: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_by_its_bytes_and_takes_more_when_emptied() {
        let (intake, mut deliveries) = Deliveries::channel();
        let large = DELIVERIES_BYTES_MAX / 4;
        for _ in 0..4 {
            intake.send(delivery(large)).await.unwrap();
        }
        let full = tokio::time::timeout(Duration::from_secs(5), intake.send(delivery(1))).await;
        assert!(full.is_err());
        let mut taken = Vec::new();
        assert_eq!(deliveries.next_many(&mut taken, 2).await, 2);
        intake.send(delivery(large)).await.unwrap();
        assert_eq!(deliveries.next().await, Some(delivery(large)));
        drop(deliveries);
        assert_eq!(intake.send(delivery(1)).await, Err(UplinkGone));
    }

    #[tokio::test]
    async fn a_whole_fleets_receipts_fit() {
        let (intake, mut deliveries) = Deliveries::channel();
        for _ in 0..20_000 {
            intake.send(delivery(300)).await.unwrap();
        }
        let mut taken = Vec::new();
        while taken.len() < 20_000 {
            deliveries.next_many(&mut taken, 512).await;
        }
    }
}
