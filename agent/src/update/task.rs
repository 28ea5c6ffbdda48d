//! Drives the newest order of an update in the running version: look, decide, carry
//! out, tell, and again. It also lets this version prove itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::Cause;
use protocol::deployment::observed::{ChangeOutcome, DeploymentState, Phase as Shown};
use protocol::key::PublicKey;
use protocol::policy::{Attempt, Refusal};
use protocol::release::{Archive, Release, ReleaseError, Update};
use protocol::state::{StateItem, StateValue};
use protocol::stream::Stream;
use protocol::time::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::launcher::Launched;
use super::layout::LayoutError;
use super::prepare::Preparation;
use crate::deploy::fetch::Fetcher;
use crate::deploy::task::States;
use crate::deploy::{Clocks, Core};
use crate::domain::backoff::Backoff;
use crate::domain::deployment::catch_up::CatchUp;
use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::record::{Failure, Record, Stage};
use crate::domain::gate::Admit;
use crate::domain::time::Tick;
use crate::domain::update::course::{Next, Order, Seen, Wait, next};
use crate::domain::update::record::{Phase, UpdateRecord};
use crate::node::NodeStatus;
use crate::node::task::{CoreGone, Trusted};
use crate::program;
use crate::store::Deployments;

/// While something is under way it is looked at so often; its deadlines are minutes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Otherwise a newer order wakes it.
const REST: Duration = Duration::from_secs(60);

/// Pauses between two tries of what passes.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What the task needs.
pub struct Context<F, C> {
    /// The core.
    pub core: C,
    /// How versions come to lie here.
    pub preparation: Preparation<F>,
    /// How this process was started.
    pub launched: Launched,
    /// Whether the node's configuration allows updates.
    pub enabled: bool,
    /// What is kept of each deployment.
    pub deployments: watch::Receiver<Arc<Deployments>>,
    /// How the node is.
    pub node: watch::Receiver<Arc<NodeStatus>>,
    /// Release keys of the trust set when the agent started, and newer sets.
    pub keys: Vec<PublicKey>,
    /// Newer trust sets.
    pub trusted: watch::Receiver<Option<Arc<Trusted>>>,
    /// The states, for the status.
    pub states: watch::Sender<Arc<States>>,
    /// Asked right before an update begins, and not for one that goes back.
    pub admit: Admit,
    /// The clocks.
    pub clocks: Clocks,
    /// Fixes the jitter.
    pub seed: u64,
    /// Ends the agent in order.
    pub end: CancellationToken,
    /// Says that another version is to be started then.
    pub relaunch: Arc<AtomicBool>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// What is remembered between two rounds, all of which a restart may lose.
struct Memory {
    under: Under,
    up_since: Option<Tick>,
    told: Option<DeploymentState>,
}

/// What is remembered of one order.
struct Under {
    generation: u64,
    ready: bool,
    tries: u32,
    /// Since when it waits for commands, and for the controller.
    waits_since: Option<Tick>,
    stuck_since: Option<Tick>,
    retry: Backoff,
    retry_at: Tick,
    trouble: Option<(ErrorCode, String)>,
    note: String,
}

/// The newest order, with its release as the node's keys know it.
struct Ordered<'a> {
    record: &'a Record,
    update: &'a Update,
    release: Result<Release, ReleaseError>,
}

/// What follows a round.
enum Then {
    /// Another one at once.
    Again,
    /// One when something changed, or after that time.
    Pause(Duration),
    /// None: the agent ends, and another version is started.
    End,
}

/// Drives updates until it is stopped.
///
/// # Errors
/// When the core has stopped.
pub async fn run<F: Fetcher, C: Core>(mut context: Context<F, C>) -> Result<(), CoreGone> {
    let mut catch_up = CatchUp::new(context.seed);
    let mut memory = Memory {
        under: Under::new(0, context.seed),
        up_since: None,
        told: None,
    };
    let stop = context.stop.clone();
    loop {
        let then = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            then = context.round(&mut memory, &mut catch_up) => match then {
                Ok(then) => then,
                Err(_) if stop.is_cancelled() => return Ok(()),
                Err(gone) => return Err(gone),
            },
        };
        let pause = match then {
            Then::Again => continue,
            Then::Pause(pause) => pause,
            Then::End => {
                context.relaunch.store(true, Ordering::Relaxed);
                context.end.cancel();
                stop.cancelled().await;
                return Ok(());
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = context.deployments.changed() => {
                if changed.is_err() {
                    return if stop.is_cancelled() { Ok(()) } else { Err(CoreGone) };
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The newest order of an update among the records.
fn newest(records: &Deployments) -> Option<&Arc<Record>> {
    records
        .values()
        .filter(|record| record.update().is_some())
        .max_by_key(|record| record.desired.generation)
}

/// An update that is still open and that a newer one has taken the place of.
fn older(records: &Deployments, newest: &Record) -> Option<Arc<Record>> {
    records
        .values()
        .filter(|record| record.update().is_some() && record.is_open())
        .find(|record| record.desired.generation < newest.desired.generation)
        .cloned()
}

impl<F: Fetcher, C: Core> Context<F, C> {
    async fn round(&mut self, memory: &mut Memory, late: &mut CatchUp) -> Result<Then, CoreGone> {
        let records = Arc::clone(&self.deployments.borrow_and_update());
        let now = (self.clocks.moment)();
        let at = (self.clocks.controller)();
        let newest = newest(&records);
        if let Some(older) = newest.and_then(|newest| older(&records, newest)) {
            let detail = "another update was ordered later";
            let refused = older.refuse(ErrorCode::DeploymentSuperseded, detail, 0, at);
            self.core.keep(refused).await?;
            return self.until_changed().await;
        }
        let trial = self.preparation.layout.record().unwrap_or_else(|error| {
            tracing::warn!(error = crate::chain(&error), "the last update is not known");
            None
        });
        memory.follow(newest.map(AsRef::as_ref), self.seed);
        let node = Arc::clone(&self.node.borrow());
        memory.up_since = node.link_up.then(|| memory.up_since.unwrap_or(now.tick));
        let ordered = newest.and_then(|record| self.ordered(record));
        let decided = self.decide(ordered.as_ref(), trial.as_ref(), memory, &node, now.tick);
        if let Some(trial) = &trial
            && let Some(written) = self.prove(&decided, trial)
        {
            return Ok(written.unwrap_or_else(|error| {
                // The disk may be full for a while; the window goes on.
                tracing::warn!(error = crate::chain(&error), "an update goes on later");
                memory.under.trouble = Some((error.code(), crate::chain(&error)));
                Then::Pause(LOOK_EVERY)
            }));
        }
        let Some(ordered) = ordered else {
            return Ok(Then::Pause(pause_of(&decided)));
        };
        let (record, under) = (ordered.record, &mut memory.under);
        let ended = match decided {
            Next::Begin => {
                let begins = late.begins_at(&record.desired, now.tick, at);
                if begins > now.tick {
                    under.note = "waits for its turn".to_owned();
                    self.tell(&ordered, trial.as_ref(), memory, Shown::Waiting)
                        .await?;
                    return Ok(Then::Pause(begins.since(now.tick)));
                }
                match self.gate(&ordered) {
                    Ok(()) => record.begin(),
                    Err(refusal) => {
                        let (code, text) = (refusal.code(), refusal.to_string());
                        record.refuse(code, &text, refusal.epoch(), at)
                    }
                }
            }
            Next::Refuse(code, detail) => record.refuse(code, &detail, 0, at),
            Next::End(outcome, failure) => {
                tracing::info!(
                    generation = record.desired.generation,
                    outcome = outcome.name(),
                    detail = failure.as_ref().map(|failure| failure.detail.as_str()),
                    "an update ended"
                );
                match failure {
                    Some(failure) => record.gave_up(failure, at),
                    None => record.succeed(at),
                }
            }
            Next::Prepare(_) if under.retry_at > now.tick => {
                self.tell(&ordered, trial.as_ref(), memory, Shown::Fetching)
                    .await?;
                return Ok(Then::Pause(LOOK_EVERY));
            }
            Next::Prepare(archive) => return self.prepare(&ordered, &archive, memory).await,
            Next::Swap => return Ok(self.swap(&ordered, under)),
            Next::Wait(ref wait) => {
                let shown = memory.show(wait, ordered.update, now.tick);
                self.tell(&ordered, trial.as_ref(), memory, shown).await?;
                return Ok(Then::Pause(pause_of(&decided)));
            }
            // Without a record of an update there is nothing to prove.
            Next::Confirm | Next::GoBack(_) | Next::Settle => return Ok(Then::Pause(LOOK_EVERY)),
        };
        self.core.keep(ended).await?;
        self.until_changed().await
    }

    fn ordered<'a>(&self, record: &'a Record) -> Option<Ordered<'a>> {
        let update = record.update()?;
        let newer = self.trusted.borrow();
        let keys = newer
            .as_ref()
            .map_or(&self.keys, |newer| &newer.set.release_keys);
        Some(Ordered {
            record,
            update,
            release: update.release.verify(keys),
        })
    }

    fn gate(&self, ordered: &Ordered<'_>) -> Result<(), Refusal> {
        if ordered.update.cause == Cause::Rollback || ordered.runs() {
            return Ok(());
        }
        (self.admit)(Attempt::Update)
    }

    fn decide(
        &self,
        ordered: Option<&Ordered<'_>>,
        trial: Option<&UpdateRecord>,
        memory: &mut Memory,
        node: &NodeStatus,
        now: Tick,
    ) -> Next {
        let wanted = ordered.and_then(|ordered| ordered.release.as_ref().ok());
        let kept = wanted.is_some_and(|wanted| {
            self.is_base(wanted) || self.preparation.layout.has(&wanted.version)
        });
        let under = &mut memory.under;
        let busy = under.ready && node.store.open_commands > 0;
        under.waits_since = busy.then(|| under.waits_since.unwrap_or(now));
        let control = node.store.waiting.get(Stream::Control as usize);
        let seen = Seen {
            running: program::version(),
            target: program::target(),
            able: if self.enabled {
                Ok(())
            } else {
                Err("[update] enabled is false in this node's configuration")
            },
            controller: node.controller_now,
            kept,
            ready: under.ready,
            up: memory.up_since.map(|since| now.since(since)),
            heard: node.link_up && control == Some(&0),
            open_commands: node.store.open_commands,
            waited: under
                .waits_since
                .map_or(Duration::ZERO, |since| now.since(since)),
            tries: under.tries,
        };
        let order = ordered.map(|ordered| Order {
            generation: ordered.record.desired.generation,
            update: ordered.update,
            release: &ordered.release,
            stage: &ordered.record.stage,
        });
        next(order, trial, seen)
    }

    fn is_base(&self, release: &Release) -> bool {
        release.version == self.launched.base
    }

    /// Fetches, unpacks and tests. A newer order breaks it off.
    async fn prepare(
        &mut self,
        ordered: &Ordered<'_>,
        archive: &Archive,
        memory: &mut Memory,
    ) -> Result<Then, CoreGone> {
        let Ok(release) = &ordered.release else {
            return Ok(Then::Again);
        };
        memory.under.note = format!("archive of version {}", release.version);
        self.tell(ordered, None, memory, Shown::Fetching).await?;
        let mut deployments = self.deployments.clone();
        let done = {
            let mut work = Box::pin(self.lay(release, archive));
            loop {
                tokio::select! {
                    done = &mut work => break done,
                    changed = deployments.changed() => {
                        if changed.is_err() {
                            return Err(CoreGone);
                        }
                        let generation = newest(&deployments.borrow_and_update())
                            .map(|newest| newest.desired.generation);
                        if generation != Some(ordered.record.desired.generation) {
                            return Ok(Then::Again);
                        }
                    }
                }
            }
        };
        let under = &mut memory.under;
        let Err(error) = done else {
            under.tries += 1;
            under.ready = true;
            under.stuck_since = None;
            under.trouble = None;
            return Ok(Then::Again);
        };
        if error.class == Class::Passing {
            // The network may be away for long; only its limits end it.
            let now = (self.clocks.moment)().tick;
            under.retry_at = now.after(under.retry.fail());
            if !under.is_over(ordered.update, now) {
                tracing::info!(detail = error.detail, "an update is fetched again");
                under.trouble = Some((error.code, error.detail));
                return Ok(Then::Again);
            }
        }
        let (code, detail) = (error.code, error.detail);
        tracing::warn!(code = code.text(), detail, "an update failed");
        let at = (self.clocks.controller)();
        under.trouble = None;
        let ended = ordered.record.gave_up(Failure::new(code, detail), at);
        self.core.keep(ended).await?;
        self.until_changed().await
    }

    async fn lay(&self, release: &Release, archive: &Archive) -> Result<(), StepError> {
        if self.is_base(release) {
            return Ok(());
        }
        self.preparation.lay(release, archive).await
    }

    /// What was kept comes back as a record.
    async fn until_changed(&mut self) -> Result<Then, CoreGone> {
        match self.deployments.changed().await {
            Ok(()) => Ok(Then::Again),
            Err(_) => Err(CoreGone),
        }
    }

    /// Writes the trial down and selects the version.
    fn swap(&self, ordered: &Ordered<'_>, under: &mut Under) -> Then {
        let Ok(release) = &ordered.release else {
            return Then::Again;
        };
        let running = program::version();
        let trial = UpdateRecord {
            generation: ordered.record.desired.generation,
            to: (!self.is_base(release)).then(|| release.version.clone()),
            version: release.version.clone(),
            from_version: running.to_owned(),
            from: (!self.launched.is_base).then(|| running.to_owned()),
            base: self.launched.base.clone(),
            phase: Phase::Trial,
            starts: 0,
            window_ms: ordered.update.health.healthy_deadline_ms,
            steady_ms: ordered.update.health.min_healthy_ms,
        };
        let layout = &self.preparation.layout;
        match layout.enact(&trial) {
            Ok(()) => {
                tracing::info!(version = trial.version, "another version is started");
                Then::End
            }
            Err(error) => {
                // A trial without its symlink is given up at the next start, too.
                drop(layout.keep(&trial.to(Phase::Abandoned)));
                tracing::warn!(
                    error = crate::chain(&error),
                    "another version is not selected"
                );
                under.ready = false;
                Then::Pause(LOOK_EVERY)
            }
        }
    }

    /// Writes down what is known of this version; none when that is not what is next.
    fn prove(&self, decided: &Next, trial: &UpdateRecord) -> Option<Result<Then, LayoutError>> {
        let layout = &self.preparation.layout;
        let version = &trial.version;
        match decided {
            Next::Confirm => {
                tracing::info!(version, "this version is confirmed");
                let written = layout.keep(&trial.to(Phase::Proven));
                Some(written.map(|()| Then::Pause(LOOK_EVERY)))
            }
            Next::Settle => {
                tracing::info!(version, "this version has lasted");
                let keep = [version.as_str(), trial.from_version.as_str()];
                let written = layout
                    .keep(&trial.to(Phase::Settled))
                    .and_then(|()| layout.prune(&keep));
                Some(written.map(|()| Then::Pause(LOOK_EVERY)))
            }
            Next::GoBack(reason) => {
                let written = layout.enact(&trial.reverted(reason));
                Some(written.map(|()| Then::End))
            }
            Next::Wait(_)
            | Next::Begin
            | Next::Refuse(..)
            | Next::Prepare(_)
            | Next::Swap
            | Next::End(..) => None,
        }
    }

    /// Tells the state when it changed.
    async fn tell(
        &self,
        ordered: &Ordered<'_>,
        trial: Option<&UpdateRecord>,
        memory: &mut Memory,
        shown: Shown,
    ) -> Result<(), CoreGone> {
        let now = (self.clocks.moment)().wall;
        let mut state = ordered.state(trial, &memory.under, shown, now);
        if let Some(told) = &memory.told {
            if told.phase == state.phase && told.generation == state.generation {
                state.since = told.since;
            }
            if *told == state {
                return Ok(());
            }
        }
        memory.told = Some(state.clone());
        self.states.send_modify(|states| {
            Arc::make_mut(states).insert(state.deployment, state.clone());
        });
        let value = StateValue::Deployment(Box::new(state));
        self.core.put_state(StateItem { at: now, value }).await
    }
}

/// How long nothing is done after a decision to do nothing.
fn pause_of(decided: &Next) -> Duration {
    if *decided == Next::Wait(Wait::Done) {
        REST
    } else {
        LOOK_EVERY
    }
}

impl Ordered<'_> {
    /// Whether the version that is wanted is the one that runs.
    fn runs(&self) -> bool {
        let release = self.release.as_ref();
        release.is_ok_and(|release| release.version == program::version())
    }

    /// The state that is shown.
    fn state(
        &self,
        trial: Option<&UpdateRecord>,
        under: &Under,
        shown: Shown,
        now: UnixMillis,
    ) -> DeploymentState {
        let desired = &self.record.desired;
        let (mut code, mut detail) = (None, under.note.clone());
        if let Some((trouble, text)) = &under.trouble {
            code = Some(trouble.text().to_owned());
            detail = format!("{detail}: {text}");
        }
        let mut phase = shown;
        if let Stage::Settled(outcome, failure) = &self.record.stage {
            phase = match outcome {
                ChangeOutcome::Succeeded => Shown::Running,
                ChangeOutcome::Reverted => Shown::Reverted,
                ChangeOutcome::Failed => Shown::Failed,
                ChangeOutcome::Refused | ChangeOutcome::Superseded => Shown::Refused,
            };
            (code, detail) = match failure {
                Some(failure) => (Some(failure.code.clone()), failure.detail.clone()),
                None => (None, format!("version {}", program::version())),
            };
            // It was given up after its result was told.
            if let Some(trial) = trial
                && trial.generation == desired.generation
                && !self.runs()
                && let Phase::Reverted {
                    reason,
                    proven: true,
                } = &trial.phase
            {
                phase = Shown::Reverted;
                code = Some(ErrorCode::UpdateReverted.text().to_owned());
                detail.clone_from(reason);
            }
        }
        DeploymentState {
            deployment: desired.deployment,
            number: desired.number,
            generation: desired.generation,
            wanted: Some(self.update.revision),
            current: self.runs().then_some(self.update.revision),
            phase,
            since: now,
            code,
            detail,
            workloads: Vec::new(),
            drift: Vec::new(),
        }
    }
}

impl Under {
    fn new(generation: u64, seed: u64) -> Self {
        Self {
            generation,
            ready: false,
            tries: 0,
            waits_since: None,
            stuck_since: None,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX, seed),
            retry_at: Tick::default(),
            trouble: None,
            note: String::new(),
        }
    }

    /// Whether an order has waited for as long as it may without any progress.
    fn is_over(&mut self, update: &Update, now: Tick) -> bool {
        let since = *self.stuck_since.get_or_insert(now);
        now.since(since) >= Duration::from_millis(update.health.progress_deadline_ms)
    }
}

impl Memory {
    /// A newer order begins anew.
    fn follow(&mut self, newest: Option<&Record>, seed: u64) {
        let generation = newest.map_or(0, |newest| newest.desired.generation);
        if generation != self.under.generation {
            self.under = Under::new(generation, seed);
        }
    }

    /// Notes what is waited for, and says which phase that is.
    fn show(&mut self, wait: &Wait, update: &Update, now: Tick) -> Shown {
        let (shown, note) = match wait {
            Wait::Time => (
                Shown::Waiting,
                "waits for the controller's time, by which its expiry is judged".to_owned(),
            ),
            Wait::Commands(open) => (Shown::Waiting, format!("waits for {open} commands to end")),
            Wait::Confirmation => {
                let up = self.up_since.map_or(0, |since| now.since(since).as_secs());
                let text = format!(
                    "version {} runs; its link is up for {up} s of {} s",
                    program::version(),
                    update.health.min_healthy_ms / 1000
                );
                (Shown::Verifying, text)
            }
            Wait::Trial => (Shown::Waiting, "waits for another update's end".to_owned()),
            Wait::Probation | Wait::Done => (Shown::Running, String::new()),
        };
        self.under.note = note;
        shown
    }
}
