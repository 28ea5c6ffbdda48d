//! The whole fleet in one thread: the agents' cores and the controller's engine
//! and desk, on simulated disks and a simulated network, under one seed.
//!
//! The code under test is the real one: session, outbox, ledger and store of the
//! agent over redb; engine, journal, intake and dispatch of the controller over
//! redb. Clock, network, disks, executors and the store of frames are the
//! simulation's. A seed prints itself; `FLOTILLA_SEED` runs one again,
//! `FLOTILLA_SEEDS` so many.

#[cfg(test)]
mod controller;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod history;
#[cfg(test)]
mod node;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod world;
