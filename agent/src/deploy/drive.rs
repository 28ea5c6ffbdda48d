//! Drives one deployment: look, decide, keep or carry out, tell, and again.

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::observed::{DeploymentState, Phase};
use protocol::policy::Attempt;
use protocol::state::{StateItem, StateValue};
use protocol::time::millis;
use tokio::sync::{Notify, watch};

use super::fetch::Fetcher;
use super::hands::Hands;
use super::{Clocks, ContainerRuntime, Core};
use crate::domain::deployment::machine::{Class, Machine, StepError};
use crate::domain::deployment::observed::Observed;
use crate::domain::deployment::plan::Step;
use crate::domain::deployment::record::{Record, Stage};
use crate::domain::gate::Admit;
use crate::domain::time::Tick;
use crate::node::task::CoreGone;

/// While the phase stays, states are told at most this often: a pull moves all the
/// time.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What drives have in common.
pub(super) struct Shared<R, F, C> {
    pub(super) hands: Hands<R, F>,
    pub(super) core: C,
    pub(super) clocks: Clocks,
    pub(super) admit: Admit,
    /// Gets each state that is told.
    pub(super) told: Arc<dyn Fn(&DeploymentState) + Send + Sync>,
}

pub(super) struct Drive<R, F, C> {
    shared: Arc<Shared<R, F, C>>,
    records: watch::Receiver<Arc<Record>>,
    nudge: Arc<Notify>,
    machine: Machine,
    told: Option<DeploymentState>,
    told_at: Tick,
    owes: bool,
}

impl<R, F, C> Drive<R, F, C>
where
    R: ContainerRuntime,
    F: Fetcher,
    C: Core,
{
    pub(super) fn new(
        shared: Arc<Shared<R, F, C>>,
        records: watch::Receiver<Arc<Record>>,
        nudge: Arc<Notify>,
        seed: u64,
    ) -> Self {
        let now = (shared.clocks.moment)();
        let machine = Machine::new(&shared.hands.prefix, seed, now);
        Self {
            shared,
            records,
            nudge,
            machine,
            told: None,
            told_at: Tick::default(),
            owes: false,
        }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) -> Result<(), CoreGone> {
        loop {
            let record = Arc::clone(&self.records.borrow_and_update());
            let told = self.told.as_ref();
            if record.is_gone() && told.is_some_and(|told| told.phase == Phase::Removed) {
                if self.records.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let idle = self.round(&record).await?;
            if idle && !self.pause().await {
                return Ok(());
            }
        }
    }

    /// One round. True when there is nothing to be done at once.
    async fn round(&mut self, record: &Record) -> Result<bool, CoreGone> {
        let shared = Arc::clone(&self.shared);
        let now = (shared.clocks.moment)();
        let at = (shared.clocks.controller)();
        // An order is judged whether the engine answers or not.
        let (observed, refusals) = if record.stage == Stage::New {
            let refusals = record
                .wanted()
                .map(|target| shared.hands.refusals(&target.spec))
                .unwrap_or_default();
            (Observed::default(), refusals)
        } else {
            match shared.hands.observe(record).await {
                Ok(observed) => (observed, Vec::new()),
                Err(error) => {
                    self.machine.lost(error, now);
                    self.tell(record).await?;
                    return Ok(true);
                }
            }
        };
        let began = now;
        let now = (shared.clocks.moment)();
        let decision = self.machine.decide(record, &observed, &refusals, now, at);
        tracing::trace!(
            deployment = record.desired.name,
            steps = decision.steps.len(),
            look_ms = millis(now.tick.since(began.tick)),
            "a round"
        );
        if let Some(mut transition) = decision.keep {
            if decision.gated
                && let Err(refusal) = (shared.admit)(Attempt::Deploy(record.desired.deployment))
            {
                let epoch = refusal.epoch();
                transition = record.refuse(refusal.code(), &refusal.to_string(), epoch, at);
            }
            tracing::info!(
                deployment = record.desired.name,
                generation = record.desired.generation,
                outcome = transition
                    .result
                    .as_ref()
                    .map(|result| result.outcome.name()),
                code = transition
                    .result
                    .as_ref()
                    .and_then(|result| result.code.as_deref()),
                "a deployment goes on"
            );
            shared.core.keep(transition).await?;
            // The record that is decided by next is the one that was kept, or what
            // a newer order made of it.
            if self.records.changed().await.is_err() {
                return Err(CoreGone);
            }
            return Ok(false);
        }
        self.tell(record).await?;
        let idle = decision.steps.is_empty();
        for step in &decision.steps {
            if !self.carry_out(record, step).await? {
                break;
            }
        }
        Ok(idle && self.machine.wakes_at() > now.tick)
    }

    /// Carries a step out. False when the rest of the plan is not to be gone on
    /// with: the step failed, or a newer order recalls it.
    async fn carry_out(&mut self, record: &Record, step: &Step) -> Result<bool, CoreGone> {
        let shared = Arc::clone(&self.shared);
        tracing::debug!(deployment = record.desired.name, ?step, "a step");
        let (notes, mut noted) = watch::channel(String::new());
        let note = |text: String| {
            notes.send_replace(text);
        };
        let mut records = self.records.clone();
        let mut work = Box::pin(shared.hands.carry_out(record, step, &note));
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                changed = records.changed(), if step.is_fetch() => {
                    if changed.is_ok() {
                        return Ok(false);
                    }
                }
                moved = noted.changed() => {
                    if moved.is_ok() {
                        let text = noted.borrow_and_update().clone();
                        self.machine.moved(&text, (shared.clocks.moment)());
                        self.tell(record).await?;
                    }
                }
            }
        };
        drop(work);
        let now = (shared.clocks.moment)();
        match done {
            Ok(()) => {
                self.machine.done(step, now);
                Ok(true)
            }
            Err(error) => {
                self.warn(record, step, &error);
                self.machine.failed(error, now);
                Ok(false)
            }
        }
    }

    fn warn(&self, record: &Record, step: &Step, error: &StepError) {
        let (code, detail) = (error.code.text(), error.detail.as_str());
        let deployment = record.desired.name.as_str();
        if error.class == Class::Passing && error.code == ErrorCode::ImageUnavailable {
            tracing::info!(deployment, ?step, code, detail, "a step is tried again");
        } else {
            tracing::warn!(deployment, ?step, code, detail, "a step failed");
        }
    }

    /// Tells the state when it changed.
    async fn tell(&mut self, record: &Record) -> Result<(), CoreGone> {
        let now = (self.shared.clocks.moment)();
        let state = self.machine.state(record, self.told.as_ref(), now);
        if let Some(told) = &self.told {
            let same = is_same(told, &state);
            let early = told.phase == state.phase
                && told.generation == state.generation
                && now.tick.since(self.told_at) < TELL_EVERY;
            self.owes = early && !same;
            if same || early {
                return Ok(());
            }
        }
        self.owes = false;
        (self.shared.told)(&state);
        self.told = Some(state.clone());
        self.told_at = now.tick;
        let item = StateItem {
            at: now.wall,
            value: StateValue::Deployment(Box::new(state)),
        };
        self.shared.core.put_state(item).await
    }

    /// Waits for what is due next. False when nobody gives orders any more.
    async fn pause(&mut self) -> bool {
        let now = (self.shared.clocks.moment)();
        let mut sleep = self.machine.wakes_at().since(now.tick).min(SLEEP_MAX);
        if self.owes {
            sleep = sleep.min(TELL_EVERY);
        }
        tokio::select! {
            changed = self.records.changed() => changed.is_ok(),
            () = self.nudge.notified() => true,
            () = tokio::time::sleep(sleep) => true,
        }
    }
}

/// Whether two states differ in nothing but when they were observed.
fn is_same(a: &DeploymentState, b: &DeploymentState) -> bool {
    let workloads = a.workloads.len() == b.workloads.len()
        && a.workloads.iter().zip(&b.workloads).all(|(a, b)| {
            let mut a = a.clone();
            a.observed_at = b.observed_at;
            a == *b
        });
    let plain = |state: &DeploymentState| DeploymentState {
        workloads: Vec::new(),
        ..state.clone()
    };
    workloads && plain(a) == plain(b)
}
