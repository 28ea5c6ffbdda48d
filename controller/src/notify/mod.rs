//! Notices on their way to the sinks.
//!
//! Owns the sinks' queues while the controller runs, the tries, and the board that
//! shows how they go. Which notices there are is the intake's, which sinks there
//! are the journal's, and what is tried when [`crate::domain::notice::delivery`]'s.
//!
//! **Invariants.** Nothing here is waited for: neither by the desk, which only
//! writes notices down, nor by one sink for another. A signing secret is read from
//! the vault for each try and is in no error, log or `Debug`.
//!
//! How far sinks have come is written once a second at most, so a kill -9 delivers
//! what was taken in the last second again, under the same id. When the intake
//! cannot be read or written, deliveries of what is in memory go on.

pub mod task;
#[cfg(test)]
mod tests;
pub mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::breaker::BreakerState;
use protocol::deployment::spec::FileKind;
use protocol::time::UnixMillis;
use reqwest::Url;

use crate::domain::fleet::Fleet;
use crate::domain::notice::delivery::{Outcome, Progress};
use crate::domain::notice::sink::Sink;
use crate::domain::notice::{Notice, NoticeKind, NoticeState, Severity};
use crate::outbound::{Outbound, OutboundError};
use crate::vault::Vault;
use webhook::{Letter, Secret};

/// A sink that has failed for so long is shown with the controller's status.
pub const FAILING_LONG: Duration = Duration::from_secs(15 * 60);

/// How a sink's deliveries go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What is kept of it.
    pub progress: Progress,
    /// The state of the receiver's breaker.
    pub breaker: BreakerState,
    /// Notices that wait.
    pub waiting: usize,
    /// Since when the oldest of them does.
    pub waiting_since: Option<UnixMillis>,
}

/// Shows how sinks' deliveries go, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, Standing>>>);

impl Board {
    /// How every sink's deliveries go. One that has not begun yet is left out.
    #[must_use]
    pub fn standings(&self) -> BTreeMap<String, Standing> {
        self.lock().clone()
    }

    /// The sinks that have failed for long.
    #[must_use]
    pub fn failing_long(&self, now: UnixMillis) -> Vec<String> {
        let long = |standing: &Standing| {
            let failing = standing.progress.failing.as_ref();
            failing.is_some_and(|trouble| now.since(trouble.at) >= FAILING_LONG)
        };
        self.lock()
            .iter()
            .filter(|(_, standing)| long(standing))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn show(&self, standings: BTreeMap<String, Standing>) {
        *self.lock() = standings;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes single tries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Courier {
    outbound: Outbound,
    vault: Vault,
    clock: fn() -> UnixMillis,
}

/// How a try went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The status of the answer; none without one.
    pub status: Option<u16>,
    /// What follows.
    pub outcome: Outcome,
}

impl Courier {
    /// A courier that reaches what this client may reach.
    #[must_use]
    pub fn new(outbound: Outbound, vault: Vault, clock: fn() -> UnixMillis) -> Self {
        Self {
            outbound,
            vault,
            clock,
        }
    }

    /// Whether a URL may be reached, as far as it says where it leads.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub fn check(&self, url: &Url) -> Result<(), OutboundError> {
        self.outbound.check(url)
    }

    /// Tries to deliver a notice once.
    pub async fn deliver(&self, fleet: &Fleet, sink: &Sink, seq: u64, notice: &Notice) -> Tried {
        let failed = |reason: String| Tried {
            status: None,
            outcome: Outcome::Failed(reason),
        };
        let Ok(url) = sink.url.parse::<Url>() else {
            return failed("its URL cannot be read".to_owned());
        };
        let secret = match self.secret(sink.secret.clone()).await {
            Ok(secret) => secret,
            Err(reason) => return failed(reason),
        };
        let node = notice.node.and_then(|node| fleet.node(node));
        let letter = Letter {
            fleet: fleet.id(),
            seq,
            notice,
            node_name: node.map_or("", |node| node.name.as_str()),
        };
        let request = letter.request(url, &secret, (self.clock)());
        let answer = self.outbound.hand_over(request).await;
        Tried {
            status: answer.as_ref().ok().map(|answer| answer.status),
            outcome: webhook::outcome(&answer),
        }
    }

    /// Tries a sink with a notice of its own, which nothing else hears of.
    pub async fn try_sink(&self, fleet: &Fleet, sink: &Sink) -> Tried {
        let at = (self.clock)();
        let key = format!("test/{}", sink.name);
        let notice = Notice::new(at, NoticeKind::Test, Severity::Info, NoticeState::Once, key)
            .saying(&sink.name, format!("this tries sink {}", sink.name));
        self.deliver(fleet, sink, 0, &notice).await
    }

    async fn secret(&self, digest: String) -> Result<Secret, String> {
        let vault = self.vault.clone();
        let read = move || vault.get(FileKind::Secret, &digest);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(Some(plain))) => Ok(Secret::of(plain.bytes())),
            Ok(Ok(None)) => Err("its signing secret is not in the vault".to_owned()),
            Ok(Err(error)) => Err(format!("its signing secret cannot be read: {error}")),
            Err(_) => Err("reading its signing secret broke off".to_owned()),
        }
    }
}
