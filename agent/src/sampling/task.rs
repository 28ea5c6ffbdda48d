//! The task that samples: when, and where the samples go.
//!
//! Owns the grid of moments, the frame being built, live mode, and the states
//! that say what the host is (facts) and what the agent uses (budgets).
//!
//! Reading `/proc` takes about a millisecond, but a dead disk can hold a call for
//! ever; so it is done on a blocking thread under a deadline. While a reading
//! hangs, its samples are gaps and everything else of the agent goes on.
//!
//! **Invariant:** every sample that was taken is kept in the store's spool before
//! the next is taken, and its frame replaces it there; a kill loses at most the
//! sample that was being taken.

use std::sync::Arc;
use std::time::Duration;

use protocol::state::{Budgets, StateItem, StateValue};
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::frame::{Effort, FRAME_VERSION, Frame, decode, encode};
use protocol::telemetry::{Label, SampleSet, Tier};
use protocol::time::{UnixMillis, millis};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::container::{self, Engine, Seen};
use super::facts;
use super::host::Host;
use crate::clock::Clock;
use crate::config::{Config, Sampling};
use crate::dependency::{self, Dependencies};
use crate::domain::conditions::{Conditions, Holding};
use crate::domain::spool::Spool;
use crate::node::task::{CoreGone, StoreHandle};
use crate::node::{LiveOrder, NodeStatus};
use crate::store::{FrameEntry, StoreStats};

/// How long one reading may take before its sample is given up as a gap.
const READING_MAX: Duration = Duration::from_secs(5);

/// Live samples closer together than this would measure the agent itself.
const LIVE_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Pause between two looks at facts and budgets. They cost no flash; they are
/// sent only when they changed.
const STATE_EVERY: Duration = Duration::from_secs(300);

/// What the sampler works with.
pub struct Context {
    /// The configuration in force.
    pub config: watch::Receiver<Arc<Config>>,
    /// The clocks.
    pub clock: Clock,
    /// Where samples, frames and states go.
    pub store: StoreHandle,
    /// Samples that the last run kept and did not seal into a frame, in order.
    pub kept: Vec<Vec<u8>>,
    /// Conditions that held when the last run ended.
    pub holding: Holding,
    /// Live samples that are wanted.
    pub live: watch::Receiver<Option<LiveOrder>>,
    /// The link, for the agent's own series, and the gate, for the conditions that are
    /// watched.
    pub link: watch::Receiver<Arc<NodeStatus>>,
    /// The breakers of what the agent depends on.
    pub dependencies: Dependencies,
    /// When the node's certificate expires, for the facts.
    pub certificate_expires_at: watch::Receiver<UnixMillis>,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// Samples until told to stop, then hands over the unfinished frame.
///
/// # Errors
/// When the node's core has stopped.
pub async fn run(context: Context) -> Result<(), CoreGone> {
    let (seen, engine) = watch::channel(None);
    let watching = container::watch_engine(
        context.config.clone(),
        seen,
        context.dependencies.clone(),
        context.stop.clone(),
    );
    let sampler = Sampler::new(context, engine);
    let sampling = sampler.run();
    tokio::pin!(sampling);
    tokio::select! {
        ended = &mut sampling => ended,
        // The stop ends it first; the sampler still hands over its frame.
        () = watching => sampling.await,
    }
}

/// The collectors, or the thread that holds them.
enum Probe {
    Idle(Box<Host>),
    Busy(JoinHandle<(Box<Host>, SampleSet)>),
}

/// Why the sampler wakes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Moment {
        grid_ms: Option<u64>,
        live_ms: Option<u64>,
    },
    Changed,
    Stop,
}

struct Sampler {
    context: Context,
    engine: watch::Receiver<Seen>,
    settings: Sampling,
    probe: Option<Probe>,
    spool: Spool,
    last_grid_ms: u64,
    last_live_ms: u64,
    hanging: bool,
    reading_ms: i64,
    states: States,
    conditions: Conditions,
}

#[derive(Default)]
struct States {
    looked_ms: Option<u64>,
    facts: Option<StateValue>,
    budgets: Option<StateValue>,
}

impl Sampler {
    fn new(context: Context, engine: watch::Receiver<Seen>) -> Self {
        let settings = context.config.borrow().sampling.clone();
        Self {
            engine,
            spool: Spool::starting(settings.interval, settings.frame),
            settings,
            probe: Some(Probe::Idle(Box::default())),
            conditions: Conditions::resumed(context.holding.clone()),
            context,
            last_grid_ms: 0,
            last_live_ms: 0,
            hanging: false,
            reading_ms: 0,
            states: States::default(),
        }
    }

    async fn run(mut self) -> Result<(), CoreGone> {
        self.restore().await?;
        loop {
            match self.next().await {
                Wake::Stop => return self.seal().await,
                Wake::Changed => self.reconfigure().await?,
                Wake::Moment { grid_ms, live_ms } => self.moment(grid_ms, live_ms).await?,
            }
        }
    }

    /// Rebuilds the frame that a crash interrupted, from what was kept of it.
    async fn restore(&mut self) -> Result<(), CoreGone> {
        for bytes in std::mem::take(&mut self.context.kept) {
            match decode(&bytes) {
                Ok(frame) => {
                    for (slot, samples) in frame.moments() {
                        let sealed = self.spool.add(frame.span.slot_ms(slot), samples);
                        self.hand_over(sealed).await?;
                    }
                }
                Err(error) => tracing::warn!(%error, "a kept sample is damaged and given up"),
            }
        }
        Ok(())
    }

    /// Waits for the next moment of either grid. Cancellation-safe: each arm only
    /// waits, and is asked anew each time.
    async fn next(&mut self) -> Wake {
        let now_ms = self.context.clock.controller_now().0;
        let grid_ms = due(self.last_grid_ms, now_ms, millis(self.settings.interval));
        let live_ms = self.live_order(now_ms).map(|order| {
            due(
                self.last_live_ms,
                now_ms,
                millis(order.interval.max(LIVE_INTERVAL_MIN)),
            )
        });
        let wake_ms = live_ms.map_or(grid_ms, |live_ms| live_ms.min(grid_ms));
        let pause = Duration::from_millis(wake_ms.saturating_sub(now_ms));
        tokio::select! {
            () = self.context.stop.cancelled() => Wake::Stop,
            () = tokio::time::sleep(pause) => Wake::Moment {
                grid_ms: (grid_ms == wake_ms).then_some(grid_ms),
                live_ms: live_ms.filter(|live_ms| *live_ms == wake_ms),
            },
            changed = self.context.config.changed() => on_change(changed.is_ok()),
            changed = self.context.live.changed() => on_change(changed.is_ok()),
        }
    }

    fn live_order(&self, now_ms: u64) -> Option<LiveOrder> {
        (*self.context.live.borrow()).filter(|order| order.until.0 > now_ms)
    }

    async fn reconfigure(&mut self) -> Result<(), CoreGone> {
        let settings = self.context.config.borrow_and_update().sampling.clone();
        self.context.live.mark_unchanged();
        if settings == self.settings {
            return Ok(());
        }
        self.seal().await?;
        self.spool = Spool::new(settings.interval, settings.frame);
        self.settings = settings;
        Ok(())
    }

    /// Samples once, for the frame, for live watchers, or for both.
    async fn moment(&mut self, grid_ms: Option<u64>, live_ms: Option<u64>) -> Result<(), CoreGone> {
        let grid_ms = grid_ms.map(|grid_ms| self.actual(grid_ms));
        if let Some(grid_ms) = grid_ms {
            self.last_grid_ms = grid_ms;
        }
        if let Some(live_ms) = live_ms {
            self.last_live_ms = live_ms;
        }
        let read = self.read().await;
        // A hanging reading is the host's fault: a restart by the watchdog would
        // not mend it, and would lose the link as well.
        self.context.clock.note_progress();
        let Some(mut samples) = read else {
            return Ok(());
        };
        let stats = self.context.store.stats().await?;
        self.add_own(&stats, &mut samples);
        if let Some(live_ms) = live_ms {
            let frame = self.spool.moment(live_ms, Tier::Live, &samples);
            if let Some(bytes) = encoded(&frame, Effort::Quick) {
                self.context.store.show_live(bytes);
            }
        }
        if let Some(grid_ms) = grid_ms {
            let tier = self.spool.tier();
            let sealed = self.spool.add(grid_ms, samples.clone());
            // The frame that this sample completes holds it already.
            let is_sealed = sealed
                .iter()
                .any(|frame| frame.span.slot_of(grid_ms).is_some());
            if !sealed.is_empty() {
                self.hand_over(sealed).await?;
            }
            if !is_sealed
                && let Some(bytes) =
                    encoded(&self.spool.moment(grid_ms, tier, &samples), Effort::Quick)
            {
                self.context.store.keep_sample(bytes).await?;
            }
            self.watch_conditions(grid_ms, &samples).await?;
            self.tell_states(grid_ms, &stats).await?;
        }
        Ok(())
    }

    /// The moment that a sample meant for `grid_ms` is really of: a host that was
    /// suspended, or whose clock was set, wakes at another.
    fn actual(&self, grid_ms: u64) -> u64 {
        let now_ms = self.context.clock.controller_now().0;
        if now_ms.abs_diff(grid_ms) > millis(self.settings.interval) {
            self.spool.nearest_moment(now_ms)
        } else {
            grid_ms
        }
    }

    /// Reads the host under the deadline; `None` is a gap.
    async fn read(&mut self) -> Option<SampleSet> {
        let started = self.context.clock.tick();
        let mut busy = match self.probe.take() {
            Some(Probe::Idle(mut host)) => {
                let engine: Option<Arc<Engine>> = self.engine.borrow().clone();
                tokio::task::spawn_blocking(move || {
                    let mut samples = SampleSet::new();
                    host.measure(engine.as_deref(), &mut samples);
                    (host, samples)
                })
            }
            Some(Probe::Busy(busy)) => {
                // What it returns by now is of an earlier moment.
                if !busy.is_finished() {
                    self.probe = Some(Probe::Busy(busy));
                    return None;
                }
                if let Ok((host, _)) = busy.await {
                    self.probe = Some(Probe::Idle(host));
                    self.hanging = false;
                    tracing::info!("the host can be read again");
                }
                return None;
            }
            // The reading before panicked; the collectors start afresh.
            None => {
                self.probe = Some(Probe::Idle(Box::default()));
                return None;
            }
        };
        match tokio::time::timeout(READING_MAX, &mut busy).await {
            Ok(Ok((host, samples))) => {
                self.probe = Some(Probe::Idle(host));
                let spent = self.context.clock.tick().since(started);
                self.reading_ms = i64::try_from(spent.as_millis()).unwrap_or(i64::MAX);
                Some(samples)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a reading of the host ended badly; its sample is lost");
                None
            }
            Err(_) => {
                if !self.hanging {
                    tracing::warn!(
                        seconds = READING_MAX.as_secs(),
                        "reading the host hangs; samples are gaps until it returns"
                    );
                }
                self.hanging = true;
                self.probe = Some(Probe::Busy(busy));
                None
            }
        }
    }

    /// Adds what the agent knows of itself.
    fn add_own(&self, stats: &StoreStats, samples: &mut SampleSet) {
        let waiting: usize = stats.waiting.iter().sum();
        let (sent, received) = {
            let link = self.context.link.borrow();
            (link.sent_bytes, link.received_bytes)
        };
        for (series, value) in [
            (SeriesId::AGENT_FLASH, stats.flash_bytes / 4_096),
            (SeriesId::AGENT_OUTBOX, waiting as u64),
            (SeriesId::AGENT_LINK_SENT, sent),
            (SeriesId::AGENT_LINK_RECEIVED, received),
        ] {
            samples.push_u64(series, &Label::NONE, value);
        }
        samples.push(SeriesId::AGENT_SAMPLE_TIME, self.reading_ms);
        for (dependency, standing) in self.context.dependencies.standings() {
            let label = Label::fit(&dependency.to_string());
            let level = dependency::level(standing.state);
            samples.push_labelled(SeriesId::AGENT_BREAKER, &label, level);
        }
    }

    /// Tells at once which of the policy's conditions begin or cease to hold.
    async fn watch_conditions(
        &mut self,
        grid_ms: u64,
        samples: &SampleSet,
    ) -> Result<(), CoreGone> {
        let gate = self.context.link.borrow().gate.clone();
        let interval = self.settings.interval;
        self.conditions
            .step(&gate, interval, samples, UnixMillis(grid_ms));
        while let Some((crossings, holding)) = self.conditions.owed() {
            let store = &self.context.store;
            if !store.tell_crossings(crossings, holding).await? {
                break;
            }
            self.conditions.told();
        }
        Ok(())
    }

    /// Sends facts and budgets where they changed.
    async fn tell_states(&mut self, now_ms: u64, stats: &StoreStats) -> Result<(), CoreGone> {
        let due = self.states.looked_ms.is_none_or(|looked_ms| {
            now_ms < looked_ms || now_ms - looked_ms >= millis(STATE_EVERY)
        });
        let Some(Probe::Idle(host)) = self.probe.as_mut().filter(|_| due) else {
            return Ok(());
        };
        self.states.looked_ms = Some(now_ms);
        let engine = self.engine.borrow().clone();
        let expires_at = *self.context.certificate_expires_at.borrow();
        let facts = StateValue::Facts(facts::observe(host, engine.as_deref(), expires_at));
        let memory_bytes = host.memory_bytes().unwrap_or_default();
        let budgets = {
            let link = self.context.link.borrow();
            StateValue::Budgets(Budgets {
                memory_bytes,
                flash_bytes: stats.flash_bytes,
                sent_bytes: link.sent_bytes,
                received_bytes: link.received_bytes,
                outbox_entries: stats.waiting.iter().sum::<usize>() as u64,
                outbox_bytes: stats.bytes.iter().sum(),
                shed_samples: stats.shed_samples,
            })
        };
        let at = self.context.clock.wall();
        if self.states.facts.as_ref() != Some(&facts) {
            self.context
                .store
                .put_state(StateItem {
                    at,
                    value: facts.clone(),
                })
                .await?;
            self.states.facts = Some(facts);
        }
        if self.states.budgets.as_ref() != Some(&budgets) {
            self.context
                .store
                .put_state(StateItem {
                    at,
                    value: budgets.clone(),
                })
                .await?;
            self.states.budgets = Some(budgets);
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<(), CoreGone> {
        let open = self.spool.seal();
        self.hand_over(open.into_iter().collect()).await
    }

    async fn hand_over(&mut self, frames: Vec<Frame>) -> Result<(), CoreGone> {
        for frame in frames {
            let Some(body) = encoded(&frame, Effort::Shortest) else {
                continue;
            };
            let last = usize::from(frame.span.slots.saturating_sub(1));
            let entry = FrameEntry {
                version: FRAME_VERSION,
                tier: frame.span.tier,
                first: UnixMillis(frame.span.start_ms),
                last: UnixMillis(frame.span.slot_ms(last)),
                body,
            };
            self.context.store.append_frame(entry).await?;
        }
        Ok(())
    }
}

/// A closed channel means that its sender stops, and the stop is what comes next.
const fn on_change(open: bool) -> Wake {
    if open { Wake::Changed } else { Wake::Stop }
}

/// The next moment of a grid: after `now_ms`, and not `last_ms` again when the
/// clock reads a little less than it did. A clock that was set back by more
/// starts over.
fn due(last_ms: u64, now_ms: u64, interval_ms: u64) -> u64 {
    let interval_ms = interval_ms.max(1);
    let next = (now_ms / interval_ms + 1) * interval_ms;
    if next == last_ms {
        next + interval_ms
    } else {
        next
    }
}

/// A frame within the limits of the spool always encodes; one that does not is
/// lost alone, and said.
fn encoded(frame: &Frame, effort: Effort) -> Option<Vec<u8>> {
    match encode(frame, effort) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "samples cannot be encoded and are lost");
            None
        }
    }
}

#[cfg(test)]
mod tests;
