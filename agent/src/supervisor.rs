//! Starts, names and joins every task of the agent.

use std::future::Future;

use tokio::task::JoinHandle;

/// Starts a task that its caller joins. The one place that calls `tokio::spawn`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts tasks; callers keep the handle"
)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "task starts");
    tokio::spawn(future)
}
