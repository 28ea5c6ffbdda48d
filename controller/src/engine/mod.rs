//! The single writer: every change of the fleet goes through here, in order.
//!
//! `authorize → decide → append → apply → reply`. Requests that wait together are
//! decided one after the other on a private copy of the state, written in one
//! durable transaction, and only then published and answered. So a thousand
//! requests cost a few disk writes, and nobody sees what is not on disk.
//!
//! **Invariant:** state changes after the record is durable, never before. A
//! request that is answered with an error changed nothing, except that an
//! `journal.unavailable` may have reached the disk: asking again with the same
//! request id tells.
//!
//! **How it fails:** when the queue is full, [`SubmitError::Busy`]; when the
//! journal cannot be written, [`SubmitError::Unavailable`], until it can.
//!
//! [`writer::Writer`] is the synchronous heart, which the simulation drives by
//! itself; [`task::EngineTask`] runs it; [`Engine`] is the handle.

pub mod state;
pub mod task;
pub mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, RequestId};
use protocol::time::UnixMillis;
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::access::authorize::Denial;
use crate::domain::access::caller::Caller;
use crate::domain::audit::denial::{DenialGate, Keep};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::domain::rejection::Rejection;
use crate::journal::JournalReader;
use crate::journal::error::JournalError;

use self::writer::{Ask, KeyUseLog, Submission};

/// Requests that wait for the writer. A batch takes a few milliseconds, so a full
/// queue is some tens of milliseconds of work; beyond it callers are refused
/// with a code rather than kept waiting.
pub const QUEUE_MAX: usize = 1_024;

/// A handle to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    intake: mpsc::Sender<Waiting>,
    fleet: watch::Receiver<Arc<Fleet>>,
    journal: JournalReader,
    denials: Arc<Mutex<DenialGate>>,
    key_uses: Arc<Mutex<KeyUseLog>>,
    gauges: Arc<Gauges>,
}

/// A request in the queue, and where its answer goes.
#[derive(Debug)]
struct Waiting {
    submission: Submission,
    reply: Option<oneshot::Sender<Result<Applied, SubmitError>>>,
}

/// What a request led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The last record that it made; where nothing was to be done, the head.
    pub seq: u64,
    /// What happened, in order; none where all was as asked already.
    pub events: Vec<Event>,
    /// Whether the request had been made before: this is the first answer, and
    /// whatever the caller drew for this attempt (a secret) was not used.
    pub replayed: bool,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The caller may not.
    #[error("{0}")]
    Denied(Denial),
    /// The rules of the fleet do not allow it.
    #[error("{0}")]
    Rejected(Rejection),
    /// Too many requests wait.
    #[error("the controller has {QUEUE_MAX} requests waiting")]
    Busy,
    /// The journal cannot be written. Nothing was changed.
    #[error("the journal cannot be written")]
    Unavailable(#[source] Arc<JournalError>),
    /// The controller is stopping.
    #[error("the controller is stopping")]
    Stopped,
}

impl SubmitError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Denied(denial) => denial.code,
            Self::Rejected(rejection) => rejection.code,
            Self::Busy => ErrorCode::EngineBusy,
            Self::Unavailable(_) => ErrorCode::JournalUnavailable,
            Self::Stopped => ErrorCode::ControllerStarting,
        }
    }
}

/// Whether the engine can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the last write succeeded.
    pub ok: bool,
    /// What is wrong, for a person; empty when nothing is.
    pub detail: String,
}

/// Counters and gauges since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// The number of the last record.
    pub seq: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Transactions written.
    pub commits: u64,
    /// Records written.
    pub records: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// Requests refused because the queue was full.
    pub busy: u64,
    /// Refusals that were counted and not recorded one by one.
    pub denials_counted: u64,
}

/// What handles and the writer count together.
#[derive(Debug, Default)]
struct Gauges {
    commits: AtomicU64,
    records: AtomicU64,
    failures: AtomicU64,
    busy: AtomicU64,
    denials_counted: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Engine {
    /// Asks for a change and waits until it is durable or refused.
    ///
    /// With `request`, asking again gets the first answer, also after a restart,
    /// as long as the request is among the last ten thousand.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(
        &self,
        caller: Caller,
        request: Option<RequestId>,
        operation: Operation,
    ) -> Result<Applied, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Waiting {
            submission: Submission {
                caller,
                request,
                ask: Ask::Operation(operation),
            },
            reply: Some(reply),
        })?;
        answer.await.map_err(|_| SubmitError::Stopped)?
    }

    /// Takes note of a denial that was decided at the edge: a read without a
    /// permission, a request without a valid key. Never waits. Anonymous ones,
    /// and a caller's beyond a rate, are counted in memory and recorded as one
    /// summary a minute.
    pub fn deny(
        &self,
        caller: Caller,
        request: Option<RequestId>,
        operation: &str,
        denial: Denial,
        now: UnixMillis,
    ) {
        let keep = lock(&self.denials).admit(&caller, now);
        if keep == Keep::Count {
            count(&self.gauges.denials_counted);
            return;
        }
        let queued = self.enqueue(Waiting {
            submission: Submission {
                caller,
                request,
                ask: Ask::Denied {
                    operation: operation.to_owned(),
                    denial,
                },
            },
            reply: None,
        });
        if queued.is_err() {
            lock(&self.denials).count(&caller, now);
            count(&self.gauges.denials_counted);
        }
    }

    /// The fleet as it is on disk.
    #[must_use]
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// The fleet after every commit. Slow watchers skip states, never see them
    /// out of order.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Fleet>> {
        self.fleet.clone()
    }

    /// The records, the targets of commands, and the cursors of effects.
    #[must_use]
    pub fn journal(&self) -> &JournalReader {
        &self.journal
    }

    /// Remembers that an API key was used. Written along with other changes, so
    /// a crash forgets the newest uses.
    pub fn used(&self, key: ApiKeyId, now: UnixMillis) {
        lock(&self.key_uses).note(key, now);
    }

    /// When an API key was last used, in controller time.
    #[must_use]
    pub fn last_used(&self, key: ApiKeyId) -> Option<UnixMillis> {
        lock(&self.key_uses).last(key)
    }

    /// Whether the engine can do its work. Costs a lock.
    #[must_use]
    pub fn health(&self) -> Health {
        if self.intake.is_closed() {
            return Health {
                ok: false,
                detail: "the engine has stopped".to_owned(),
            };
        }
        match lock(&self.gauges.trouble).clone() {
            Some(detail) => Health { ok: false, detail },
            None => Health {
                ok: true,
                detail: String::new(),
            },
        }
    }

    /// What the engine has counted.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let read = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
        EngineStats {
            seq: self.fleet.borrow().seq(),
            queued: (QUEUE_MAX - self.intake.capacity().min(QUEUE_MAX)) as u64,
            commits: read(&self.gauges.commits),
            records: read(&self.gauges.records),
            failures: read(&self.gauges.failures),
            busy: read(&self.gauges.busy),
            denials_counted: read(&self.gauges.denials_counted),
        }
    }

    fn enqueue(&self, waiting: Waiting) -> Result<(), SubmitError> {
        self.intake.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                count(&self.gauges.busy);
                SubmitError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A panic elsewhere leaves these values whole: each is changed by one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
