//! The simulated outside: chance from one seed, a network and disks.
//!
//! Nothing here reads a clock or a random source: the same seed makes the same
//! run, down to the byte.

pub mod chance;
pub mod disk;
pub mod net;
