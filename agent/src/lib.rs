//! The agent: one small process on each node that measures the host, carries out
//! what the controller orders, and keeps what must not be lost.
//!
//! # Architecture
//!
//! ```text
//!           sampling ──samples, frames, states──►┐
//!                                                ▼
//!  broker ◄─► uplink ◄──envelopes──► node (core: session, ledger, outbox, store)
//!                                                ▲
//!           command ◄──start, cancel── orders ───┘──receipts
//! ```
//!
//! - [`domain`] decides and touches nothing: the link machine, the ledger, the
//!   outbox, backoff, time.
//! - [`store`] is the only owner of redb; [`uplink`] of the MQTT client;
//!   [`enrol`] of the HTTPS client and the identity's files; [`tls`] says whom the
//!   node believes.
//! - [`node`] puts session and store together into one synchronous core. It runs
//!   on a thread of its own, because a commit on an SD card takes long; everything
//!   else shares one thread with an async loop.
//! - [`supervisor`] is the only place where tasks are wired and started. A task
//!   that ends unasked stops the process, and systemd starts it again: start-up is
//!   recovery.
//! - [`sampling`] measures, [`command`] carries out, [`deploy`] makes containers run
//!   that are meant to, [`update`] puts another version of the agent in the place of
//!   this one and comes back from it; [`status`], [`doctor`] and
//!   [`support`] are for a person at the node.
//!
//! **Invariants.** Nothing is acted upon before it is durable; nothing is
//! forgotten before the controller has acknowledged it. Every queue is bounded.
//! A command takes effect at most once. No broker is trusted: both ends sign.

pub mod break_glass;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod dependency;
pub mod deploy;
pub mod doctor;
pub mod domain;
mod durable;
pub mod enrol;
pub mod exit;
pub mod node;
pub mod program;
pub mod sampling;
pub mod status;
pub mod store;
pub mod supervisor;
pub mod support;
pub mod telemetry;
pub mod tls;
pub mod update;
pub mod uplink;

/// An error with its causes, for logs and details.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
