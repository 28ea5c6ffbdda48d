//! What a running agent says of itself to a person at the node.
//!
//! The agent keeps one [`AgentStatus`] up to date; [`Server`] answers each
//! connection on a socket in the runtime directory with it as one JSON
//! document; [`show`] is the other end, behind `flotilla-agent status`.
//!
//! **Invariant:** the socket is for the agent's own user (0600 from its first
//! moment), holds no secret, and a client that does not read cannot hold the
//! agent. An agent that is not running is said to be so, with exit code 69.

mod client;
mod report;
mod server;
mod table;
#[cfg(test)]
mod tests;
mod usage;

pub use client::{FetchStatusError, Output, ParseOutputError, fetch, show};
pub use report::{
    AgentStatus, BreakGlassStatus, BudgetStatus, CertificateStatus, ClockStatus, CommandStatus,
    DependencyStatus, DiskStatus, GateStatus, LeaseStatus, LinkState, LinkStatus, NodeStatus,
    ProblemStatus, ProcessStatus, StopStatus, StreamStatus, TrustStatus, UpdateStatus,
};
pub use server::{BindStatusError, Server};
pub(crate) use table::{bytes, span};
pub(crate) use usage::free_bytes;
