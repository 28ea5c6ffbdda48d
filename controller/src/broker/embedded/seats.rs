//! Who is connected: the identity behind each loopback connection, and the
//! switch that closes it.
//!
//! **Invariant:** a seat is in the table before its node is admitted, so a
//! revocation either refuses the connection or finds it here to close.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::id::NodeId;
use tokio_util::sync::CancellationToken;

use crate::broker::{Counters, Gate};

/// The table of connections.
pub(super) struct Seats {
    gate: Arc<dyn Gate>,
    counters: Arc<Counters>,
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_node: BTreeMap<(NodeId, u64), CancellationToken>,
    by_source: BTreeMap<SocketAddr, NodeId>,
}

/// One connection's place; leaving scope gives it up.
pub(super) struct Seat {
    seats: Arc<Seats>,
    node: NodeId,
    number: u64,
    source: Option<SocketAddr>,
    closed: CancellationToken,
}

impl Seats {
    pub(super) fn new(gate: Arc<dyn Gate>, counters: Arc<Counters>) -> Self {
        Self {
            gate,
            counters,
            next: AtomicU64::new(0),
            table: Mutex::default(),
        }
    }

    /// Takes a seat for a node whose certificate was verified; none when the
    /// node is not admitted.
    pub(super) fn take(self: &Arc<Self>, node: NodeId) -> Option<Seat> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let closed = CancellationToken::new();
        self.lock().by_node.insert((node, number), closed.clone());
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Seat {
            seats: Arc::clone(self),
            node,
            number,
            source: None,
            closed,
        };
        self.gate.admits(node).then_some(seat)
    }

    /// The node behind a loopback connection.
    pub(super) fn node_at(&self, source: SocketAddr) -> Option<NodeId> {
        self.lock().by_source.get(&source).copied()
    }

    /// Whether the node may stay.
    pub(super) fn admits(&self, node: NodeId) -> bool {
        self.gate.admits(node)
    }

    /// Closes every connection of the node.
    pub(super) fn close(&self, node: NodeId) {
        for closed in self
            .lock()
            .by_node
            .range((node, 0)..=(node, u64::MAX))
            .map(|(_, closed)| closed)
        {
            closed.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change is a single insert or remove: a panic leaves it whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Binds the seat to the loopback connection's source address. Must happen
    /// before the first byte is sent over it.
    pub(super) fn bind(&mut self, source: SocketAddr) {
        self.source = Some(source);
        self.seats.lock().by_source.insert(source, self.node);
    }

    /// Done when the node's connections are closed.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.lock();
        table.by_node.remove(&(self.node, self.number));
        if let Some(source) = self.source {
            table.by_source.remove(&source);
        }
        self.seats
            .counters
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}
