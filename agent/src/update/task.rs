//! Drives the newest order of an update in the running version: look, decide, carry
//! out, tell, and again. It also lets this version prove itself.

use std::num::NonZeroU64;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, Want};
use protocol::deployment::limit::DRIFT_COUNT_MAX;
use protocol::deployment::observed::{ChangeOutcome, DeploymentState, Phase as Shown};
use protocol::key::PublicKey;
use protocol::policy::Attempt;
use protocol::release::{ARCHIVE_BYTES_MAX, Archive, Release, Update};
use protocol::state::{StateItem, StateValue};
use protocol::stream::Stream;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::launcher::Launched;
use super::layout::{Layout, LayoutError};
use crate::config;
use crate::deploy::fetch::{self, Content, Download, Fetcher};
use crate::deploy::task::States;
use crate::deploy::{Clocks, Core};
use crate::domain::backoff::Backoff;
use crate::domain::deployment::catch_up::CatchUp;
use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::record::{Failure, Record, Stage};
use crate::domain::gate::Admit;
use crate::domain::time::Tick;
use crate::domain::update::course::{Next, Order, Seen, Wait, next};
use crate::domain::update::record::{Phase, Slot, UpdateRecord};
use crate::node::NodeStatus;
use crate::node::task::{CoreGone, Trusted};
use crate::program;
use crate::store::Deployments;

/// While something is under way it is looked at so often; its deadlines are minutes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Otherwise a newer order wakes it.
const REST: Duration = Duration::from_secs(60);

/// A self-test reads a configuration and prints a line.
const SELF_TEST_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of what a self-test says.
const SELF_TEST_BYTES_MAX: usize = 16 * 1024;

/// No part of a download may let itself be waited for longer.
const STALL: Duration = Duration::from_secs(60);

/// Pauses between two tries of what passes.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What a self-test says of its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Its version.
    pub version: String,
    /// Its target triple.
    pub target: String,
    /// The newest layout of the store that it reads and writes.
    pub store_format: u64,
}

/// What the task needs.
pub struct Context<F, C> {
    /// The core.
    pub core: C,
    /// Gets archives.
    pub fetcher: F,
    /// The files.
    pub layout: Layout,
    /// How this process was started.
    pub launched: Launched,
    /// What the node's configuration says.
    pub settings: config::Update,
    /// Arguments of a self-test, such as where the configuration is.
    pub self_test: Vec<std::ffi::OsString>,
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
struct Course {
    /// The generation that the rest is about.
    generation: u64,
    ready: bool,
    tries: u32,
    waits_since: Option<Tick>,
    stuck_since: Option<Tick>,
    up_since: Option<Tick>,
    retry: Backoff,
    retry_at: Tick,
    trouble: Option<(ErrorCode, String)>,
    note: String,
    told: Option<DeploymentState>,
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
    let mut course = Course {
        generation: 0,
        ready: false,
        tries: 0,
        waits_since: None,
        stuck_since: None,
        up_since: None,
        retry: Backoff::new(RETRY_FIRST, RETRY_MAX, context.seed),
        retry_at: Tick::default(),
        trouble: None,
        note: String::new(),
        told: None,
    };
    let stop = context.stop.clone();
    loop {
        let then = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            then = context.round(&mut course, &mut catch_up) => match then {
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
                context.stop.cancelled().await;
                return Ok(());
            }
        };
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            changed = context.deployments.changed() => {
                if changed.is_err() {
                    return if context.stop.is_cancelled() { Ok(()) } else { Err(CoreGone) };
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The newest order of an update among the records, and the others.
fn newest(records: &Deployments) -> Option<Arc<Record>> {
    records
        .values()
        .filter(|record| update_of(record).is_some())
        .max_by_key(|record| record.desired.generation)
        .cloned()
}

fn update_of(record: &Record) -> Option<&Update> {
    match &record.desired.want {
        Want::Update(update) => Some(update),
        Want::Run(_) | Want::Remove => None,
    }
}

impl<F: Fetcher, C: Core> Context<F, C> {
    async fn round(&mut self, course: &mut Course, late: &mut CatchUp) -> Result<Then, CoreGone> {
        let records = Arc::clone(&self.deployments.borrow_and_update());
        let now = (self.clocks.moment)();
        let at = (self.clocks.controller)();
        let newest = newest(&records);
        if let Some(older) = self.older(&records, newest.as_deref()) {
            let detail = "another update was ordered later";
            let refused = older.refuse(ErrorCode::DeploymentSuperseded, detail, 0, at);
            self.core.keep(refused).await?;
            return self.until_changed().await;
        }
        let trial = match self.layout.record() {
            Ok(trial) => trial,
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "the last update is not known");
                None
            }
        };
        course.follow(newest.as_deref());
        let node = Arc::clone(&self.node.borrow());
        course.up_since = match course.up_since {
            Some(since) if node.link_up => Some(since),
            Some(_) | None => node.link_up.then_some(now.tick),
        };
        let decided = self.decide(newest.as_deref(), trial.as_ref(), course, &node, now.tick);
        let Some(record) = newest.as_deref() else {
            return self.prove(decided, trial, course);
        };
        match decided {
            Next::Begin => {
                let begins = late.begins_at(&record.desired, now.tick, at);
                if begins > now.tick {
                    course.note = "waits for its turn".to_owned();
                    self.tell(record, trial.as_ref(), course, Shown::Waiting)
                        .await?;
                    return Ok(Then::Pause(begins.since(now.tick)));
                }
                let transition = match self.gate(record) {
                    Ok(()) => record.begin(),
                    Err(refusal) => {
                        let (code, text) = (refusal.code(), refusal.to_string());
                        record.refuse(code, &text, refusal.epoch(), at)
                    }
                };
                self.core.keep(transition).await?;
                self.until_changed().await
            }
            Next::Refuse(code, detail) => {
                self.core.keep(record.refuse(code, &detail, 0, at)).await?;
                self.until_changed().await
            }
            Next::End(outcome, failure) => {
                tracing::info!(
                    generation = record.desired.generation,
                    outcome = outcome.name(),
                    detail = failure.as_ref().map(|failure| failure.detail.as_str()),
                    "an update ended"
                );
                let ended = match failure {
                    Some(failure) => record.gave_up(failure, at),
                    None => record.succeed(at),
                };
                self.core.keep(ended).await?;
                self.until_changed().await
            }
            Next::Prepare(archive) => {
                if course.retry_at > now.tick {
                    self.tell(record, trial.as_ref(), course, Shown::Fetching)
                        .await?;
                    return Ok(Then::Pause(course.retry_at.since(now.tick).min(LOOK_EVERY)));
                }
                self.prepare(record, &archive, course).await
            }
            Next::Swap => Ok(self.swap(record, course)),
            Next::Wait(wait) => {
                let shown = course.show(&wait, record, now.tick);
                self.tell(record, trial.as_ref(), course, shown).await?;
                let rests = wait == Wait::Done;
                Ok(Then::Pause(if rests { REST } else { LOOK_EVERY }))
            }
            decided @ (Next::Confirm | Next::GoBack(_) | Next::Settle) => {
                self.prove(decided, trial, course)
            }
        }
    }

    /// The record of an update that another one has taken the place of.
    fn older(&self, records: &Deployments, newest: Option<&Record>) -> Option<Arc<Record>> {
        records
            .values()
            .filter(|record| update_of(record).is_some() && record.is_open())
            .find(|record| {
                newest.is_some_and(|newest| newest.desired.generation > record.desired.generation)
            })
            .cloned()
    }

    fn gate(&self, record: &Record) -> Result<(), protocol::policy::Refusal> {
        let Some(update) = update_of(record) else {
            return Ok(());
        };
        let stays = update
            .release
            .verify(&self.keys())
            .is_ok_and(|release| release.version == program::version());
        if update.cause == Cause::Rollback || stays {
            return Ok(());
        }
        (self.admit)(Attempt::Update)
    }

    fn keys(&self) -> Vec<PublicKey> {
        let newer = self.trusted.borrow();
        newer
            .as_ref()
            .map_or_else(|| self.keys.clone(), |newer| newer.set.release_keys.clone())
    }

    fn decide(
        &self,
        record: Option<&Record>,
        trial: Option<&UpdateRecord>,
        course: &mut Course,
        node: &NodeStatus,
        now: Tick,
    ) -> Next {
        let keys = self.keys();
        let update = record.and_then(update_of);
        let wanted = update
            .and_then(|update| update.release.verify(&keys).ok())
            .map(|release| release.version);
        let is_base = wanted.as_deref() == Some(self.launched.base.as_str());
        let kept = is_base || wanted.as_deref().is_some_and(|one| self.layout.has(one));
        let busy = node.store.open_commands > 0;
        course.waits_since = match (course.ready && busy, course.waits_since) {
            (true, None) => Some(now),
            (true, since) => since,
            (false, _) => None,
        };
        let control = node.store.waiting.get(Stream::Control as usize);
        let seen = Seen {
            running: program::version(),
            target: program::target(),
            able: if self.settings.enabled {
                Ok(())
            } else {
                Err("[update] enabled is false in this node's configuration")
            },
            controller: node.controller_now,
            keys: &keys,
            kept,
            ready: course.ready,
            up: course.up_since.map(|since| now.since(since)),
            heard: node.link_up && control == Some(&0),
            open_commands: node.store.open_commands,
            waited: course
                .waits_since
                .map_or(Duration::ZERO, |since| now.since(since)),
            tries: course.tries,
        };
        let order = record.zip(update).map(|(record, update)| Order {
            generation: record.desired.generation,
            update,
            stage: &record.stage,
        });
        next(order, trial, seen)
    }

    /// Fetches, unpacks and tests. A newer order breaks it off.
    async fn prepare(
        &mut self,
        record: &Record,
        archive: &Archive,
        course: &mut Course,
    ) -> Result<Then, CoreGone> {
        let keys = self.keys();
        let release = update_of(record).and_then(|update| update.release.verify(&keys).ok());
        let Some(release) = release else {
            return Ok(Then::Again);
        };
        course.note = format!("archive of version {}", release.version);
        self.tell(record, None, course, Shown::Fetching).await?;
        let mut deployments = self.deployments.clone();
        let generation = record.desired.generation;
        let done = {
            let mut work = Box::pin(self.lay(&release, archive));
            loop {
                tokio::select! {
                    done = &mut work => break done,
                    changed = deployments.changed() => {
                        if changed.is_err() {
                            return Err(CoreGone);
                        }
                        let now = newest(&deployments.borrow_and_update());
                        if now.is_none_or(|now| now.desired.generation != generation) {
                            return Ok(Then::Again);
                        }
                    }
                }
            }
        };
        course.tries += 1;
        let at = (self.clocks.controller)();
        match done {
            Ok(()) => {
                course.ready = true;
                course.stuck_since = None;
                course.trouble = None;
                Ok(Then::Again)
            }
            Err(error) if error.class == Class::Passing => {
                // The network may be away for long; only its limits end it.
                course.tries -= 1;
                let now = (self.clocks.moment)();
                course.retry_at = now.tick.after(course.retry.fail());
                tracing::info!(detail = error.detail, "an update is fetched again");
                course.trouble = Some((error.code, error.detail));
                if course.is_over(record, now.tick) {
                    return self.give_up(record, course, at).await;
                }
                Ok(Then::Again)
            }
            Err(error) => {
                course.trouble = Some((error.code, error.detail));
                self.give_up(record, course, at).await
            }
        }
    }

    async fn give_up(
        &mut self,
        record: &Record,
        course: &mut Course,
        at: protocol::time::UnixMillis,
    ) -> Result<Then, CoreGone> {
        let (code, detail) = course
            .trouble
            .take()
            .unwrap_or((ErrorCode::UpdateFailed, String::new()));
        tracing::warn!(code = code.text(), detail, "an update failed");
        let ended = record.gave_up(Failure::new(code, detail), at);
        self.core.keep(ended).await?;
        self.until_changed().await
    }

    /// What was kept comes back as a record.
    async fn until_changed(&mut self) -> Result<Then, CoreGone> {
        match self.deployments.changed().await {
            Ok(()) => Ok(Then::Again),
            Err(_) => Err(CoreGone),
        }
    }

    async fn lay(&self, release: &Release, archive: &Archive) -> Result<(), StepError> {
        if release.version == self.launched.base {
            return Ok(());
        }
        if !self.layout.came_in(&release.version, archive) {
            self.layout
                .check_space(archive)
                .map_err(|error| step(&error))?;
            let content = Content::Release(archive.sha256.clone());
            let download = Download {
                content: &content,
                sha256: &archive.sha256,
                bytes_max: archive.bytes.min(ARCHIVE_BYTES_MAX),
                bytes_per_s_max: self.rate(),
                stall: STALL,
            };
            let path = self.layout.incoming(&archive.sha256);
            fetch::download(&self.fetcher, download, &path, &|_| {}).await?;
            let (layout, version, archive) = (
                self.layout.clone(),
                release.version.clone(),
                archive.clone(),
            );
            let laid = tokio::task::spawn_blocking(move || {
                let laid = layout.lay(&version, &archive);
                if matches!(laid, Err(LayoutError::Unpack(_))) {
                    layout.forget_incoming(&archive.sha256);
                }
                laid
            });
            match laid.await {
                Ok(laid) => laid.map_err(|error| step(&error))?,
                Err(error) => return Err(failure(format!("unpacking broke off: {error}"))),
            }
        }
        self.test(release).await
    }

    fn rate(&self) -> Option<NonZeroU64> {
        self.settings.bytes_per_s_max
    }

    /// Lets the new version say what it is.
    async fn test(&self, release: &Release) -> Result<(), StepError> {
        let output = Command::new(self.layout.program(&release.version))
            .args(&self.self_test)
            .arg("self-test")
            .stdin(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(SELF_TEST_WITHIN, output)
            .await
            .map_err(|_| {
                let seconds = SELF_TEST_WITHIN.as_secs();
                failure(format!("its self-test did not end within {seconds} s"))
            })?
            .map_err(|error| failure(format!("it cannot be started: {error}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(300).collect();
            let status = output.status;
            return Err(failure(format!(
                "its self-test failed with {status}: {said}"
            )));
        }
        let said = output
            .stdout
            .get(..SELF_TEST_BYTES_MAX.min(output.stdout.len()));
        let said: SelfTest = serde_json::from_slice(said.unwrap_or_default())
            .map_err(|error| failure(format!("its self-test says nothing useful: {error}")))?;
        if said.version != release.version || said.target != program::target() {
            return Err(failure(format!(
                "the program says that it is version {} for {}, and the manifest {} for {}",
                said.version,
                said.target,
                release.version,
                program::target()
            )));
        }
        Ok(())
    }

    /// Writes the trial down and selects the version.
    fn swap(&self, record: &Record, course: &mut Course) -> Then {
        let Some((update, release)) = update_of(record).and_then(|update| {
            let release = update.release.verify(&self.keys()).ok()?;
            Some((update, release))
        }) else {
            return Then::Again;
        };
        let slot = |version: &str| (version != self.launched.base).then(|| version.to_owned());
        let trial = UpdateRecord {
            generation: record.desired.generation,
            to: slot(&release.version),
            version: release.version,
            from_version: program::version().to_owned(),
            from: self.own_slot(),
            base: self.launched.base.clone(),
            phase: Phase::Trial,
            starts: 0,
            window_ms: update.health.healthy_deadline_ms,
            steady_ms: update.health.min_healthy_ms,
        };
        let swapped = self
            .layout
            .keep(&trial)
            .and_then(|()| self.layout.select(&trial.to));
        match swapped {
            Ok(()) => {
                tracing::info!(version = trial.version, "another version is started");
                Then::End
            }
            Err(error) => {
                // A trial without its symlink is given up at the next start, too.
                drop(self.layout.keep(&trial.to(Phase::Abandoned)));
                tracing::warn!(
                    error = crate::chain(&error),
                    "another version is not selected"
                );
                course.ready = false;
                Then::Pause(LOOK_EVERY)
            }
        }
    }

    fn own_slot(&self) -> Slot {
        (!self.launched.is_base).then(|| program::version().to_owned())
    }

    /// Writes down what is known of this version.
    fn prove(
        &self,
        decided: Next,
        trial: Option<UpdateRecord>,
        course: &mut Course,
    ) -> Result<Then, CoreGone> {
        let Some(trial) = trial else {
            return Ok(Then::Pause(REST));
        };
        let written = match decided {
            Next::Confirm => {
                tracing::info!(version = trial.version, "this version is confirmed");
                self.layout.keep(&trial.to(Phase::Proven))
            }
            Next::Settle => {
                tracing::info!(version = trial.version, "this version has lasted");
                let keep = [trial.version.as_str(), trial.from_version.as_str()];
                self.layout
                    .keep(&trial.to(Phase::Settled))
                    .and_then(|()| self.layout.prune(&keep))
            }
            Next::GoBack(reason) => {
                let written = self
                    .layout
                    .keep(&trial.reverted(&reason))
                    .and_then(|()| self.layout.select(&trial.from));
                if written.is_ok() {
                    return Ok(Then::End);
                }
                written
            }
            Next::Wait(_)
            | Next::Begin
            | Next::Refuse(..)
            | Next::Prepare(_)
            | Next::Swap
            | Next::End(..) => return Ok(Then::Pause(LOOK_EVERY)),
        };
        if let Err(error) = written {
            // The disk may be full for a while; the window goes on.
            course.trouble = Some((error.code(), crate::chain(&error)));
            tracing::warn!(error = crate::chain(&error), "an update goes on later");
        }
        Ok(Then::Pause(LOOK_EVERY))
    }

    /// Tells the state when it changed.
    async fn tell(
        &self,
        record: &Record,
        trial: Option<&UpdateRecord>,
        course: &mut Course,
        shown: Shown,
    ) -> Result<(), CoreGone> {
        let Some(update) = update_of(record) else {
            return Ok(());
        };
        let wanted = update.release.verify(&self.keys()).ok();
        let runs = wanted.is_some_and(|wanted| wanted.version == program::version());
        let now = (self.clocks.moment)();
        let mut state = DeploymentState {
            deployment: record.desired.deployment,
            number: record.desired.number,
            generation: record.desired.generation,
            wanted: Some(update.revision),
            current: runs.then_some(update.revision),
            phase: shown,
            since: now.wall,
            code: course
                .trouble
                .as_ref()
                .map(|(code, _)| code.text().to_owned()),
            detail: course.note.clone(),
            workloads: Vec::new(),
            drift: Vec::with_capacity(DRIFT_COUNT_MAX.min(1)),
        };
        if let Some((_, trouble)) = &course.trouble {
            state.detail = format!("{}: {trouble}", course.note);
        }
        if let Stage::Settled(outcome, failure) = &record.stage {
            state.phase = match outcome {
                ChangeOutcome::Succeeded => Shown::Running,
                ChangeOutcome::Reverted => Shown::Reverted,
                ChangeOutcome::Failed => Shown::Failed,
                ChangeOutcome::Refused | ChangeOutcome::Superseded => Shown::Refused,
            };
            state.code = failure.as_ref().map(|failure| failure.code.clone());
            state.detail = failure.as_ref().map_or_else(
                || format!("version {}", program::version()),
                |failure| failure.detail.clone(),
            );
            if let Some(Phase::Reverted {
                reason,
                proven: true,
            }) = trial
                .filter(|trial| trial.generation == record.desired.generation && !runs)
                .map(|trial| &trial.phase)
            {
                state.phase = Shown::Reverted;
                state.code = Some(ErrorCode::UpdateReverted.text().to_owned());
                state.detail.clone_from(reason);
            }
        }
        if let Some(told) = &course.told {
            if told.phase == state.phase && told.generation == state.generation {
                state.since = told.since;
            }
            if *told == state {
                return Ok(());
            }
        }
        course.told = Some(state.clone());
        self.states.send_modify(|states| {
            Arc::make_mut(states).insert(state.deployment, state.clone());
        });
        let value = StateValue::Deployment(Box::new(state));
        self.core
            .put_state(StateItem {
                at: now.wall,
                value,
            })
            .await
    }
}

impl Course {
    /// A newer order begins anew.
    fn follow(&mut self, record: Option<&Record>) {
        let generation = record.map_or(0, |record| record.desired.generation);
        if generation != self.generation {
            self.generation = generation;
            self.ready = false;
            self.tries = 0;
            self.waits_since = None;
            self.stuck_since = None;
            self.retry_at = Tick::default();
            self.trouble = None;
            self.note.clear();
        }
    }

    /// Whether an order has waited for as long as it may without any progress.
    fn is_over(&mut self, record: &Record, now: Tick) -> bool {
        let since = *self.stuck_since.get_or_insert(now);
        let most = update_of(record).map_or(0, |update| update.health.progress_deadline_ms);
        now.since(since) >= Duration::from_millis(most)
    }

    fn show(&mut self, wait: &Wait, record: &Record, now: Tick) -> Shown {
        let (shown, note) = match wait {
            Wait::Time => (
                Shown::Waiting,
                "waits for the controller's time, by which its expiry is judged".to_owned(),
            ),
            Wait::Commands(open) => (Shown::Waiting, format!("waits for {open} commands to end")),
            Wait::Confirmation => {
                let up = self.up_since.map_or(0, |since| now.since(since).as_secs());
                let steady = update_of(record).map_or(0, |update| update.health.min_healthy_ms);
                (
                    Shown::Verifying,
                    format!(
                        "version {} runs; its link is up for {up} s of {} s",
                        program::version(),
                        steady / 1000
                    ),
                )
            }
            Wait::Trial => (Shown::Waiting, "waits for another update's end".to_owned()),
            Wait::Probation | Wait::Done => (Shown::Running, String::new()),
        };
        self.note = note;
        shown
    }
}

fn step(error: &LayoutError) -> StepError {
    StepError {
        code: error.code(),
        class: Class::Final,
        detail: crate::chain(error),
    }
}

fn failure(detail: String) -> StepError {
    StepError {
        code: ErrorCode::UpdateFailed,
        class: Class::Final,
        detail,
    }
}
