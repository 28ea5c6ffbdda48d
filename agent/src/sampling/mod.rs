//! Measures the host, and makes frames of what it measured.
//!
//! Owns the collectors, one file a subject, and the task that runs them on a
//! grid of moments. The kernel's text files are read directly where that is a
//! line or two; procfs reads mounts, whose escapes are tricky; sysinfo knows
//! sensors and what the host is called; bollard lists containers.
//!
//! **Invariant:** what cannot be measured is absent, never zero, and never holds
//! up the rest: a missing file is no error, a failing collector costs its own
//! series, a hanging one is left on its thread.

mod cgroup;
mod container;
mod cpu;
mod disk;
mod facts;
mod filesystem;
mod host;
mod labels;
mod memory;
mod network;
mod own;
mod pressure;
mod process;
mod source;
mod task;
mod temperature;

#[cfg(test)]
mod tests;

pub use host::Host;
pub use task::{Context, run};
