//! Signals that stop the process.
//!
//! The first SIGTERM or Ctrl-C asks for an ordered stop; the second one ends
//! the process at once, which is safe: start-up is recovery.

use crate::exit::Exit;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGTERM or SIGINT; from then on the second one has its
/// default effect and ends the process.
pub async fn asked_to_stop() {
    let (mut terminate, mut interrupt) = match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot listen for signals");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; once more stops at once");
    std::mem::drop(crate::supervisor::spawn("second signal", async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        leave();
    }));
}

#[expect(
    clippy::exit,
    reason = "the second signal means: now, whatever is open"
)]
fn leave() {
    std::process::exit(i32::from(Exit::Interrupted.code()));
}
