//! The controller of a Flotilla fleet, and the operator's command line.

pub mod api;
pub mod archive;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod durable;
pub mod effect;
pub mod engine;
pub mod exit;
pub mod fetch;
pub mod host;
pub mod journal;
pub mod operation;
pub mod outbound;
pub mod pki;
pub mod quickstart;
pub mod recover;
pub mod registry;
pub mod series;
pub mod serve;
pub mod supervisor;
pub mod support;
pub mod telemetry;
pub mod uplink;
pub mod vault;
