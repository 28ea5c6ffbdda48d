//! Who may connect to the embedded broker: the nodes that belong to the fleet.

use std::sync::Arc;

use protocol::id::NodeId;
use tokio::sync::watch;

use crate::broker::Gate;
use crate::domain::fleet::Fleet;

/// The door, by the newest state of the fleet.
pub struct FleetGate {
    fleet: watch::Receiver<Arc<Fleet>>,
}

impl FleetGate {
    /// A door that follows the fleet.
    #[must_use]
    pub fn new(fleet: watch::Receiver<Arc<Fleet>>) -> Self {
        Self { fleet }
    }
}

impl Gate for FleetGate {
    fn admits(&self, node: NodeId) -> bool {
        self.fleet
            .borrow()
            .node(node)
            .is_some_and(|node| node.is_active())
    }
}
