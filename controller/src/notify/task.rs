//! Drives the sinks' queues: notices from the intake in, tries out, progress kept.
//!
//! One task owns every queue. Tries run beside it as futures that it holds, so
//! nothing is detached, and one that hangs costs its sink one of its few places
//! and nobody else anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use protocol::time::UnixMillis;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{Board, Courier, Standing, Tried};
use crate::domain::fleet::Fleet;
use crate::domain::notice::Notice;
use crate::domain::notice::delivery::{Outcome, Progress, Queue};
use crate::domain::notice::sink::{Known, Sink};
use crate::uplink::intake::{Batch, Intake, IntakeError};

/// How often progress is written, at most.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How soon what could not be read is read again: a sink that has not begun yet,
/// or a store that is not well.
const AGAIN: Duration = Duration::from_millis(250);

/// The longest sleep: clocks jump.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Notices that are read at once.
const PAGE: usize = 64;

/// What the task works with.
pub struct Parts {
    /// Where notices are.
    pub intake: Intake,
    /// Which sinks there are.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// Makes tries.
    pub courier: Courier,
    /// Shows how they go.
    pub board: Board,
    /// The controller's time.
    pub clock: fn() -> UnixMillis,
}

/// The task. Does nothing until it is run.
pub struct NotifyTask {
    parts: Parts,
    told: watch::Receiver<u64>,
    lanes: BTreeMap<String, Lane>,
    flying: FuturesUnordered<Flight>,
    random: SystemRandom,
    kept_at: UnixMillis,
    /// Something could not be read and is to be read soon.
    again: bool,
}

/// One sink's deliveries while they run.
struct Lane {
    known: Known,
    queue: Queue,
    /// What was written of it last.
    kept: Progress,
}

impl Lane {
    /// Takes the notices up to `last` that the queue has not seen, while it has room.
    async fn fill(
        &mut self,
        intake: &Intake,
        fleet: &Fleet,
        last: u64,
        now: UnixMillis,
    ) -> Result<(), IntakeError> {
        while self.queue.cursor() < last && self.queue.room() > 0 {
            let (after, room) = (self.queue.cursor(), self.queue.room().min(PAGE));
            let intake = intake.clone();
            let page = blocking(move || intake.notices(after, room)).await?;
            if page.is_empty() {
                return Ok(());
            }
            for (seq, notice) in page {
                let wanted = takes(fleet, &self.known.sink, &notice);
                self.queue.take(seq, wanted.then_some(notice), now);
            }
        }
        Ok(())
    }
}

/// A try that is under way.
type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

struct Landed {
    sink: String,
    number: u64,
    seq: u64,
    tried: Tried,
}

impl NotifyTask {
    /// A task of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            told: parts.intake.told(),
            parts,
            lanes: BTreeMap::new(),
            flying: FuturesUnordered::new(),
            random: SystemRandom::new(),
            kept_at: UnixMillis::default(),
            again: false,
        }
    }

    /// Delivers until stopped. What is under way then is tried again after the next
    /// start.
    ///
    /// # Errors
    /// Never: what does not work is tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        while !stop.is_cancelled() {
            self.again = false;
            self.follow_sinks().await;
            self.fill().await;
            self.launch();
            let now = (self.parts.clock)();
            if now.since(self.kept_at) >= KEEP_EVERY || now < self.kept_at {
                self.keep(now).await;
            }
            self.show();
            let sleep = self.sleep(now);
            // Every arm is cancel-safe: watches, and futures that stay where they are.
            tokio::select! {
                () = stop.cancelled() => {}
                Some(landed) = self.flying.next() => self.land(landed),
                Ok(()) = self.parts.fleet.changed() => {}
                Ok(()) = self.told.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.keep((self.parts.clock)()).await;
        Ok(())
    }

    /// Takes up sinks that are new or changed, and lets go of those that are gone.
    async fn follow_sinks(&mut self) {
        let fleet = Arc::clone(&self.parts.fleet.borrow_and_update());
        self.lanes.retain(|name, lane| {
            let known = fleet.sinks().get(name);
            known.is_some_and(|known| known.number == lane.known.number)
        });
        for known in fleet.sinks().iter() {
            let name = &known.sink.name;
            if let Some(lane) = self.lanes.get_mut(name) {
                if lane.known != *known {
                    lane.known = known.clone();
                    lane.queue.try_now();
                }
                continue;
            }
            match begin(self.parts.intake.clone(), known.clone()).await {
                Ok(Some(lane)) => {
                    self.lanes.insert(name.clone(), lane);
                }
                // The desk has not come to its record yet.
                Ok(None) => self.again = true,
                Err(error) => self.trouble(&error),
            }
        }
    }

    /// Gives queues that have room the notices that they have not seen.
    async fn fill(&mut self) {
        self.told.mark_unchanged();
        let intake = self.parts.intake.clone();
        let (first, last) = match blocking(move || intake.notice_span()).await {
            Ok(span) => span,
            Err(error) => return self.trouble(&error),
        };
        let fleet = Arc::clone(&self.parts.fleet.borrow());
        let now = (self.parts.clock)();
        let mut filled = Ok(());
        for lane in self.lanes.values_mut() {
            lane.queue.begins_at(first);
            filled = lane.fill(&self.parts.intake, &fleet, last, now).await;
            if filled.is_err() {
                break;
            }
        }
        if let Err(error) = filled {
            self.trouble(&error);
        }
    }

    /// Starts the tries that are due.
    fn launch(&mut self) {
        let now = (self.parts.clock)();
        let fleet = Arc::clone(&self.parts.fleet.borrow());
        for (name, lane) in &mut self.lanes {
            for (seq, notice) in lane.queue.next(now) {
                let courier = self.parts.courier.clone();
                let (fleet, sink) = (Arc::clone(&fleet), lane.known.sink.clone());
                let (name, number) = (name.clone(), lane.known.number);
                self.flying.push(Box::pin(async move {
                    let tried = courier.deliver(&fleet, &sink, seq, &notice).await;
                    Landed {
                        sink: name,
                        number,
                        seq,
                        tried,
                    }
                }));
            }
        }
    }

    /// A try has ended.
    fn land(&mut self, landed: Landed) {
        let Some(lane) = self.lanes.get_mut(&landed.sink) else {
            return;
        };
        if lane.known.number != landed.number {
            return;
        }
        let (sink, seq) = (landed.sink.as_str(), landed.seq);
        match &landed.tried.outcome {
            Outcome::Delivered => tracing::debug!(sink, seq, "a notice was delivered"),
            Outcome::Refused(reason) => {
                tracing::warn!(sink, seq, reason, "a notice was refused for good");
            }
            Outcome::Later { reason, .. } | Outcome::Failed(reason) => {
                tracing::debug!(sink, seq, reason, "a notice is tried again later");
            }
        }
        let mut chance = [0; 8];
        // Without randomness there is no jitter, and everything else.
        let _drawn = self.random.fill(&mut chance);
        let before = lane.queue.breaker();
        let now = (self.parts.clock)();
        lane.queue.settle(
            landed.seq,
            landed.tried.outcome,
            u64::from_be_bytes(chance),
            now,
        );
        let after = lane.queue.breaker();
        if before != after {
            let (from, to) = (before.name(), after.name());
            tracing::info!(sink, from, to, "a sink's breaker moved");
        }
    }

    /// Writes the progress that has changed.
    async fn keep(&mut self, now: UnixMillis) {
        self.kept_at = now;
        let changed: BTreeMap<String, Progress> = self
            .lanes
            .iter()
            .map(|(name, lane)| (name.clone(), lane.queue.progress(), &lane.kept))
            .filter(|(_, progress, kept)| progress != *kept)
            .map(|(name, progress, _)| (name, progress))
            .collect();
        if changed.is_empty() {
            return;
        }
        let intake = self.parts.intake.clone();
        let batch = Batch {
            sinks: changed.clone(),
            ..Batch::default()
        };
        match blocking(move || intake.commit(&batch)).await {
            Ok(()) => {
                for (name, progress) in changed {
                    if let Some(lane) = self.lanes.get_mut(&name) {
                        lane.kept = progress;
                    }
                }
            }
            Err(error) => self.trouble(&error),
        }
    }

    fn show(&self) {
        let standings = self.lanes.iter().map(|(name, lane)| {
            let (waiting, waiting_since) = lane.queue.waiting();
            let standing = Standing {
                progress: lane.queue.progress(),
                breaker: lane.queue.breaker(),
                waiting,
                waiting_since,
            };
            (name.clone(), standing)
        });
        self.parts.board.show(standings.collect());
    }

    /// How long nothing is to be done, if nothing happens.
    fn sleep(&self, now: UnixMillis) -> Duration {
        let unkept = self
            .lanes
            .values()
            .any(|lane| lane.queue.progress() != lane.kept);
        let keep = unkept.then(|| self.kept_at.after(KEEP_EVERY));
        let wakes = self.lanes.values().filter_map(|lane| lane.queue.wakes_at());
        let next = wakes.chain(keep).min();
        let sleep = next.map_or(SLEEP_MAX, |at| at.since(now)).min(SLEEP_MAX);
        if self.again { sleep.min(AGAIN) } else { sleep }
    }

    fn trouble(&mut self, error: &IntakeError) {
        self.again = true;
        // The desk says it loudly; it writes to the same store.
        tracing::debug!(
            error = error as &dyn std::error::Error,
            "the notices cannot be read or kept now"
        );
    }
}

/// The lane of a sink, from where it was kept.
async fn begin(intake: Intake, known: Known) -> Result<Option<Lane>, IntakeError> {
    let name = known.sink.name.clone();
    let read = move || {
        let Some(progress) = intake.sink(&name)? else {
            return Ok(None);
        };
        let mut notices = BTreeMap::new();
        for waiting in &progress.waiting {
            let notice = intake.notice(waiting.seq)?;
            notices.extend(notice.map(|notice| (waiting.seq, notice)));
        }
        Ok(Some((progress, notices)))
    };
    let found = blocking(read).await?;
    let found = found.filter(|(progress, _)| progress.number == known.number);
    Ok(found.map(|(progress, notices)| Lane {
        known,
        kept: progress.clone(),
        queue: Queue::resume(progress, notices),
    }))
}

/// Whether a sink gets a notice.
fn takes(fleet: &Fleet, sink: &Sink, notice: &Notice) -> bool {
    let node = notice.node.and_then(|node| fleet.node(node));
    sink.takes(notice, node.map(|node| node.subject()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IntakeError> + Send + 'static,
) -> Result<T, IntakeError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        // Only when the runtime ends, or after a panic that the log has.
        Err(_) => Err(IntakeError::Closed),
    }
}
