//! systemd's watchdog, fed by progress.
//!
//! A sign of life goes out only when the core answered and sampling went on: a
//! loop that still turns while its work is stuck is a dead agent. The link plays no
//! part: a controller that is away must not restart its nodes.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::node::task::StoreHandle;

/// A reading that hangs is given up after 5 s, and a commit on a bad card takes
/// long; less than this is no reason for concern.
const SAMPLING_GRACE: Duration = Duration::from_secs(60);

/// Tells systemd something. Without systemd there is nobody to tell.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Feeds the watchdog, where systemd wants that.
pub(super) async fn run(
    config: watch::Receiver<Arc<Config>>,
    core: StoreHandle,
    clock: Clock,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return Ok(());
    };
    let pause = limit / 4;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let sampled_within = config.borrow().sampling.interval * 3 + SAMPLING_GRACE;
        let sampling = clock.since_progress() <= sampled_within;
        let answers = tokio::time::timeout(pause, core.status()).await;
        if sampling && matches!(answers, Ok(Ok(_))) {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(sampling, "no progress, the watchdog is not fed");
        }
    }
}
