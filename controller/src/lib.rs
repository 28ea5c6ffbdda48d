//! The controller of a Flotilla fleet, and the operator's command line.

pub mod broker;
pub mod clock;
pub mod config;
pub mod domain;
pub mod effect;
pub mod engine;
pub mod exit;
pub mod journal;
pub mod pki;
pub mod series;
pub mod supervisor;
pub mod support;
pub mod telemetry;
pub mod uplink;
