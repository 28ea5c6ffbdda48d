//! The controller of a Flotilla fleet, and the operator's command line.

pub mod clock;
pub mod config;
pub mod exit;
pub mod supervisor;
pub mod telemetry;
