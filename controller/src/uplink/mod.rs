//! Sessions with nodes: what comes up is checked, kept and acknowledged; what
//! goes down is numbered and repaired.
//!
//! [`desk::Desk`] is the synchronous heart; [`task::UplinkTask`] drives it with
//! publishes, with records of the journal, and with the clock; [`Uplink`] is the
//! handle by which the rest of the controller asks. There is one task for all
//! nodes, and no work in the number of nodes for one message.
//!
//! **Invariant:** nothing is acknowledged to a node before it is durable, and
//! nothing that the journal orders is lost on the way to a node: both ends keep
//! what they must not lose until the other end has signed for it.
//!
//! When the store or the series cannot be written, nodes are not answered and
//! keep what they have; when the broker is away, commands wait. Everything goes
//! on by itself when the fault is gone.

pub mod board;
pub mod desk;
pub mod dispatch;
mod gate;
mod handle;
pub mod intake;
pub mod sink;
pub mod task;
#[cfg(test)]
mod tests;
mod wants;

pub use board::{DrainStatus, RolloutStatus};
pub use gate::FleetGate;
pub use handle::{
    Health, Link, News, NewsOf, Presence, State, Target, TargetCounts, Uplink, UplinkError,
    UplinkStats,
};
pub use wants::Ordered;
