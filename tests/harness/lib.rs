//! What the system tests and the benchmarks run the real programs with.
//!
//! Starts and ends `flotilla`, `flotilla-agent` and foreign servers as child
//! processes in folders of their own, waits for what they do with deadlines, and
//! stands between them where a fault is wanted. Everything that is started is
//! ended when its value is dropped, by process id; nothing listens on a fixed port
//! or anywhere but loopback.

pub mod agent;
pub mod cli;
pub mod clock;
pub mod controller;
pub mod debian;
pub mod disk;
pub mod engine;
pub mod machine;
pub mod notify;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod receiver;
pub mod relay;
pub mod release;
pub mod rogue;
pub mod servers;
pub mod sim;
pub mod wait;

/// Tells the person who reads the test's output.
#[expect(
    clippy::print_stderr,
    reason = "a test's only way to speak to who runs it"
)]
pub fn say(text: &str) {
    eprintln!("{text}");
}
