//! The agent's decisions, as pure machines.
//!
//! **Invariant:** nothing in here reads a clock, a file, a socket, the
//! environment or a random source, and nothing logs. Time and seeds come in as
//! arguments, so that the same code runs on a node and in the simulation.

pub mod backoff;
pub mod conditions;
pub mod deployment;
pub mod gate;
pub mod ledger;
pub mod outbox;
pub mod session;
pub mod spool;
pub mod stored;
pub mod time;
pub mod update;
