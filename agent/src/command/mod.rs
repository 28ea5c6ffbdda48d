//! Carrying out commands on the node.
//!
//! [`run()`] is the subsystem's task. The node's own configuration decides what
//! is allowed ([`Settings`]); the controller's word that a command is
//! authorised comes on top of it, never in its place. The ledger, which makes
//! sure that nothing runs twice, is written by the caller before a command
//! comes here.
//!
//! - `allow`: which argument lists run. Pure.
//! - `confine`: which files are read.
//! - `process`: one child process, from start to certain end.
//! - `offspring`: what it leaves running, and its end.
//! - `capture`, `progress`: what is kept, and what is shown meanwhile.
//! - `run`, `service`, `logs`: the actions.
//! - `executor`: lanes, slots, cancellation, receipts.
//!
//! **Invariant:** one stuck, oversized or malformed command never delays
//! another, and each ends in exactly one receipt.

mod allow;
mod capture;
mod confine;
mod ending;
mod executor;
mod logs;
mod offspring;
mod process;
mod progress;
mod run;
mod service;
mod settings;
mod subsystem;
mod task;
#[cfg(test)]
mod tests;

pub use allow::{AllowedArgv, ParseAllowedArgvError, ParseRunModeError, RunMode};
pub use confine::{LogRoot, ParseLogRootError};
pub use executor::{Clocks, Executor, Load, ReadTime};
pub use service::{ParseUnitPatternError, UnitPattern};
pub use settings::{KILL_GRACE_DEFAULT, SLOTS_DEFAULT, SLOTS_MAX, Settings};
pub use subsystem::{CommandEvent, Context, Order, run};
pub use task::ReloadRequest;
