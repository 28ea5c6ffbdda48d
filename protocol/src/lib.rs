//! The vocabulary of Flotilla's wire, and nothing else.
//!
//! Agents and the controller share this crate: ids, limits, topics, the signed
//! envelope, the messages of a session, streams and commands, telemetry frames,
//! labels and selectors, error codes.
//!
//! **Invariant:** nothing here reads a clock, a file, a socket or a random
//! source. Time, keys and ids come in as arguments, so that the same code runs
//! on a node, on the controller and in the simulation.
//!
//! A fleet always runs several versions at once. Postcard is not
//! self-describing, so every message kind carries a version in the envelope's
//! header, enums are append-only, and the files in `protocol/golden` are decoded
//! by tests for ever.

pub mod breaker;
pub mod command;
pub mod condition;
pub mod deployment;
pub mod down;
pub mod envelope;
pub mod error_code;
pub mod fetch;
pub mod id;
pub mod join;
pub mod key;
pub mod label;
pub mod limits;
pub mod message;
pub mod policy;
pub mod release;
pub mod replay;
pub mod secret;
pub mod selector;
pub mod session;
pub mod state;
pub mod stream;
pub mod telemetry;
pub mod time;
pub mod topic;
pub mod trust;

pub use error_code::ErrorCode;
