//! Signals that stop the process.
//!
//! The first SIGTERM or Ctrl-C asks for an ordered stop; the second one ends
//! the process at once, which is safe: start-up is recovery.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::failure::CliFailure;
use crate::exit::Exit;
use crate::supervisor;

/// Listens from its making on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn listen() -> Result<Self, CliFailure> {
        let take = |kind| {
            signal(kind).map_err(|error| {
                CliFailure::because(Exit::Bug, "cannot listen for signals", &error)
            })
        };
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the next signal. Cancel-safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Resolves at the first signal; from then on the next one ends the process.
    pub async fn asked_to_stop(mut self) {
        self.next().await;
        self.leave_at_next();
    }

    /// From here on the next signal ends the process.
    pub fn leave_at_next(mut self) {
        tracing::info!("stopping; once more stops at once");
        // Ends with the process, one way or the other.
        std::mem::drop(supervisor::spawn("second signal", async move {
            self.next().await;
            leave();
        }));
    }
}

#[expect(
    clippy::exit,
    reason = "the second signal means: now, whatever is open"
)]
fn leave() {
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
