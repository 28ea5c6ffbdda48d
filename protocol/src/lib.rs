//! The vocabulary of the wire.
pub mod telemetry;
