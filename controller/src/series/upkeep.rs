//! The store's own work: sealing, retention, remote write.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Series;
use super::error::told;
use super::remote::Forwarder;

/// Pause between two rounds. A segment is sealed up to this late, a summary of a
/// silent node written up to this late.
const ROUND_EVERY: Duration = Duration::from_secs(15);

/// The task behind [`Series`].
#[derive(Debug)]
pub struct Upkeep {
    series: Series,
    forwarder: Option<Forwarder>,
}

impl Upkeep {
    pub(super) const fn new(series: Series, forwarder: Option<Forwarder>) -> Self {
        Self { series, forwarder }
    }

    /// Runs until told to stop; then writes what waits.
    ///
    /// # Errors
    /// Never: a fault of the disk is logged, shown in [`Series::health`] by the
    /// batches that it fails, and tried again at the next round.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let Self { series, forwarder } = self;
        let forward = async {
            match forwarder {
                Some(forwarder) => forwarder.run(&stop).await,
                None => stop.cancelled().await,
            }
        };
        tokio::join!(forward, tend(&series, &stop));
        Ok(())
    }
}

async fn tend(series: &Series, stop: &CancellationToken) {
    let mut failing = false;
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(ROUND_EVERY) => false,
        };
        let worker = series.clone();
        let round = tokio::task::spawn_blocking(move || worker.tend(crate::clock::now())).await;
        match round {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !failing => {
                failing = true;
                tracing::error!(
                    error = told(&error),
                    "the store of metrics cannot be tended"
                );
            }
            Ok(Err(_)) => {}
            Err(error) => tracing::error!(%error, "a round over the store of metrics did not end"),
        }
        if stopping {
            return;
        }
    }
}
