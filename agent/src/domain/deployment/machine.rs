//! The course of one deployment on a node: from an order to its end, and what is
//! done meanwhile and afterwards.
//!
//! The shell observes, asks [`Machine::decide`], makes the transition durable that
//! comes out or carries the steps out, tells how they ended, and begins again. A
//! transition comes alone: nothing follows from it before it is durable.
//!
//! What the machine remembers beside the record (since when everything is
//! healthy, how long to wait after a failure) is lost in a crash. Then a change is
//! verified anew from the beginning, which is late and never wrong.
//!
//! **Invariant:** a change has succeeded only when every container of the revision
//! was observed up, and healthy where that is checked, for `min_healthy` without a
//! break: a restart in between, seen or not, begins the time anew.
//!
//! While the engine does not answer nothing is decided and the deadlines stand
//! still; what its stop ended is started again and no failure of a workload.

mod repair;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, Target, Want};
use protocol::deployment::observed::{ChangeOutcome, Phase, Workload};
use protocol::time::UnixMillis;

use super::catch_up::CatchUp;
use super::goal::{Goal, stem};
use super::observed::{Container, Health, Observed, Run};
use super::plan::{Aim, End, Hints, Plan, Step, choose, end_of, plan};
use super::record::{Failure, Record, Stage, Transition};
use crate::domain::backoff::Backoff;
use crate::domain::time::{Moment, Tick};
use show::{clip, ended_text, joined, workload};

/// How often is looked while something changes. The engine's events come sooner.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// How often is looked when all is well. The engine's events come sooner; this
/// bounds how long one that was missed goes unseen.
const LOOK_LATER: Duration = Duration::from_secs(60);

/// The engine's restarts within one change after which a workload counts as one
/// that ends again and again.
const CRASHES_MAX: u32 = 3;

/// Pauses between attempts at what may pass by itself.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(120);

/// Attempts at one call that the engine answers with an error of its own.
const ATTEMPTS_MAX: u32 = 4;

/// Repairs of one service in a row after which its workload is one that ends again
/// and again.
const REPAIRS_MAX: u32 = 3;

/// A service that was left alone for as long as this is well again.
const REPAIRS_FORGOTTEN: Duration = Duration::from_secs(600);

/// Notes on drift that a state shows.
const DRIFT_COUNT_MAX: usize = 8;

/// Whether a step that failed may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// By itself, after a while.
    Passing,
    /// Not without a change.
    Final,
    /// The engine does not answer.
    Engine,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepError {
    /// The stable code.
    pub code: ErrorCode,
    /// Whether it may succeed later.
    pub class: Class,
    /// What happened, for a person.
    pub detail: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To be made durable before anything else; there are no steps then.
    pub keep: Option<Transition>,
    /// Whether the transition begins a change that the gate must admit.
    pub gated: bool,
    /// To be carried out in this order, up to the first that fails.
    pub steps: Vec<Step>,
}

/// A look at the node, for the state that is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    phase: Phase,
    code: Option<String>,
    detail: String,
}

/// What is known of a change that runs.
#[derive(Clone, Debug, Default)]
struct Course {
    generation: u64,
    /// When something moved last.
    progress_at: Tick,
    /// What was observed then.
    seen: Vec<(String, Run, u32)>,
    /// When the first container of the change was started.
    started_at: Option<Tick>,
    /// It was healthy for as long as asked: the old one goes.
    verified: bool,
    /// Containers that were started in its course.
    revived: BTreeSet<String>,
    /// Restarts of each container when the change saw it first.
    restarts: BTreeMap<String, u32>,
}

/// One run of a container: its id, its start, and the engine's restarts before.
type Lived = (String, Option<UnixMillis>, u32);

/// Repairs of a service.
#[derive(Clone, Copy, Debug, Default)]
struct Repairs {
    count: u32,
    at: Tick,
    /// What has to be put back again and again is put back later and later.
    not_before: Tick,
}

/// The machine. See the module's documentation.
pub struct Machine {
    /// What the engine's names begin with.
    prefix: String,
    course: Course,
    /// Since when everything is healthy, and which runs of which containers.
    healthy: Option<(Tick, Vec<Lived>)>,
    backoff: Backoff,
    catch_up: CatchUp,
    retry_at: Option<Tick>,
    trouble: Option<StepError>,
    /// The engine did not answer when it was asked last, and what ran before.
    engine_lost: bool,
    up_before: BTreeSet<String>,
    revive: BTreeSet<String>,
    repairs: BTreeMap<String, Repairs>,
    /// Containers that were seen as they were to be made.
    clean: BTreeSet<String>,
    /// Services whose containers the engine makes otherwise, and in what.
    tolerated: BTreeMap<String, String>,
    drift: Vec<String>,
    note: String,
    shown: Shown,
    since: UnixMillis,
    workloads: Vec<Workload>,
    wakes_at: Tick,
}

impl Machine {
    /// A machine that has seen nothing. `prefix` is what the engine's names begin
    /// with; the seed fixes the jitter of its pauses.
    #[must_use]
    pub fn new(prefix: &str, seed: u64, now: Moment) -> Self {
        Self {
            prefix: prefix.to_owned(),
            course: Course {
                progress_at: now.tick,
                ..Course::default()
            },
            healthy: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, seed),
            catch_up: CatchUp::new(seed),
            retry_at: None,
            trouble: None,
            engine_lost: false,
            up_before: BTreeSet::new(),
            revive: BTreeSet::new(),
            repairs: BTreeMap::new(),
            clean: BTreeSet::new(),
            tolerated: BTreeMap::new(),
            drift: Vec::new(),
            note: String::new(),
            shown: Shown {
                phase: Phase::Waiting,
                code: None,
                detail: String::new(),
            },
            since: now.wall,
            workloads: Vec::new(),
            wakes_at: now.tick,
        }
    }

    /// When [`Machine::decide`] is due again.
    #[must_use]
    pub fn wakes_at(&self) -> Tick {
        self.wakes_at
    }

    /// The engine does not answer.
    pub fn lost(&mut self, error: StepError, now: Moment) {
        self.engine_lost = true;
        self.course.progress_at = now.tick;
        self.healthy = None;
        self.fail_step(error, now);
    }

    /// A step was carried out.
    pub fn done(&mut self, step: &Step, now: Moment) {
        self.course.progress_at = now.tick;
        if let Step::Start { id, .. } = step {
            self.revive.remove(id);
            self.course.started_at.get_or_insert(now.tick);
            self.course.revived.insert(id.clone());
        }
        self.note.clear();
        self.trouble = None;
        self.retry_at = None;
        self.backoff.succeed();
    }

    /// A step goes on: `note` says how far it is.
    pub fn moved(&mut self, note: &str, now: Moment) {
        self.course.progress_at = now.tick;
        note.clone_into(&mut self.note);
    }

    /// A step failed.
    pub fn failed(&mut self, error: StepError, now: Moment) {
        if error.class == Class::Engine {
            self.lost(error, now);
        } else {
            self.fail_step(error, now);
        }
    }

    fn fail_step(&mut self, error: StepError, now: Moment) {
        let pause = if error.class == Class::Engine {
            // The engine's answer costs nothing to ask for; what waits is a node.
            self.backoff.fail().min(Duration::from_secs(10))
        } else {
            self.backoff.fail()
        };
        self.retry_at = Some(now.tick.after(pause));
        self.wakes_at = now.tick.after(pause);
        self.trouble = Some(error);
        self.note.clear();
    }

    /// Decides. `refusals` is what the node's configuration has against the order.
    pub fn decide(
        &mut self,
        record: &Record,
        observed: &Observed,
        refusals: &[String],
        now: Moment,
        at: UnixMillis,
    ) -> Decision {
        if record.stage == Stage::New {
            let begins = self.catch_up.begins_at(&record.desired, now.tick, at);
            if now.tick < begins {
                let detail = "late, so it waits for a moment by chance".to_owned();
                self.show(Phase::Waiting, None, detail);
                self.wakes_at = begins;
                return Decision::default();
            }
        } else {
            // An order is judged without a look.
            self.take_up(record, observed, now);
        }
        let mut decision = match &record.stage {
            Stage::New => self.judge(record, refusals, at),
            Stage::Changing => self.change(record, observed, now, at),
            Stage::Reverting(failure) => self.revert(record, failure, observed, now, at),
            Stage::AwaitingCommit | Stage::Settled(..) => self.keep_up(record, observed, now),
        };
        if decision.keep.is_some() {
            decision.steps.clear();
            self.wakes_at = now.tick;
        } else if let Some(retry_at) = self.retry_at.filter(|at| now.tick < *at) {
            decision.steps.clear();
            self.wakes_at = retry_at.min(self.wakes_at);
        } else if !decision.steps.is_empty() {
            self.wakes_at = now.tick;
        }
        decision
    }

    /// Notes what changed since the last look.
    fn take_up(&mut self, record: &Record, observed: &Observed, now: Moment) {
        if self.course.generation != record.desired.generation {
            self.course = Course {
                generation: record.desired.generation,
                progress_at: now.tick,
                ..Course::default()
            };
            self.retry_at = None;
            self.trouble = None;
            self.backoff.succeed();
            self.note.clear();
            self.tolerated.clear();
            self.repairs.clear();
        }
        if std::mem::take(&mut self.engine_lost) {
            self.course.progress_at = now.tick;
            self.course.started_at = self.course.started_at.map(|_| now.tick);
            self.revive = observed
                .containers
                .iter()
                .filter(|c| c.run == Run::Exited && self.up_before.contains(&c.id))
                .map(|c| c.id.clone())
                .collect();
            if self
                .trouble
                .as_ref()
                .is_some_and(|trouble| trouble.class == Class::Engine)
            {
                self.trouble = None;
                self.retry_at = None;
            }
        }
        let seen: Vec<(String, Run, u32)> = observed
            .containers
            .iter()
            .filter(|container| container.owner.is_some())
            .map(|container| (container.id.clone(), container.run, container.restarts))
            .collect();
        if seen != self.course.seen {
            let restarted_alone = seen.len() == self.course.seen.len()
                && seen.iter().zip(&self.course.seen).all(|(a, b)| a.0 == b.0);
            // A container that ends and is started again moves nothing forward.
            if !restarted_alone {
                self.course.progress_at = now.tick;
            }
            self.course.seen = seen;
        }
        for container in &observed.containers {
            self.course
                .restarts
                .entry(container.id.clone())
                .or_insert(container.restarts);
        }
        self.up_before = observed
            .containers
            .iter()
            .filter(|container| container.is_up())
            .map(|container| container.id.clone())
            .collect();
    }

    fn judge(&mut self, record: &Record, refusals: &[String], at: UnixMillis) -> Decision {
        let mut decision = Decision::default();
        let Some(target) = record.wanted() else {
            decision.keep = Some(record.begin());
            return decision;
        };
        self.show(Phase::Waiting, None, String::new());
        decision.keep = Some(if let Err(error) = target.spec.check() {
            record.refuse(error.code(), &error.to_string(), 0, at)
        } else if refusals.is_empty() {
            decision.gated = is_gated(record, target);
            record.begin()
        } else {
            let detail = clip(&refusals.join("; "));
            record.refuse(ErrorCode::DeploymentForbidden, &detail, 0, at)
        });
        decision
    }

    fn change(
        &mut self,
        record: &Record,
        observed: &Observed,
        now: Moment,
        at: UnixMillis,
    ) -> Decision {
        let Some(target) = record.wanted() else {
            return self.remove(record, observed, now, at);
        };
        let stem = self.stem(record);
        let goal = Goal::new(&stem, target);
        let committed = record
            .committed
            .as_deref()
            .map(|kept| Goal::new(&stem, kept));
        let spare = committed.as_ref().filter(|_| !self.course.verified);
        let mut planned = self.plan(Some(&goal), spare, observed, now);
        let changed = planned.changed.clone();
        self.pace(&mut planned, changed, now);
        self.look(&goal, spare, observed, &planned, now);
        self.wakes_at = now.tick.after(LOOK_SOON);
        if let Some(failure) = self.fails(target, &goal, observed, &planned, now) {
            return Decision {
                keep: Some(record.fail(failure, at)),
                ..Decision::default()
            };
        }
        let removes = planned
            .steps
            .iter()
            .any(|step| matches!(step, Step::Remove { .. }));
        let patience = Duration::from_millis(target.health.progress_deadline_ms);
        let stuck = now.tick.since(self.course.progress_at) >= patience;
        if self.course.verified && (!removes || stuck) {
            return Decision {
                keep: Some(record.succeed(at)),
                ..Decision::default()
            };
        }
        let all_started = planned.steps.is_empty() && planned.waits.is_empty();
        if all_started && self.is_verified(target, &goal, observed, now) {
            self.course.verified = true;
            self.wakes_at = now.tick;
        }
        self.show_change(&planned, now, target);
        Decision {
            steps: planned.steps,
            ..Decision::default()
        }
    }

    fn remove(
        &mut self,
        record: &Record,
        observed: &Observed,
        now: Moment,
        at: UnixMillis,
    ) -> Decision {
        let planned = self.plan(None, None, observed, now);
        let (code, trouble) = self.trouble_text();
        self.show(Phase::Removing, code, trouble);
        self.workloads = observed
            .containers
            .iter()
            .filter_map(|container| workload(container, now.wall))
            .collect();
        self.wakes_at = now.tick.after(LOOK_SOON);
        Decision {
            keep: planned.steps.is_empty().then(|| record.succeed(at)),
            steps: planned.steps,
            ..Decision::default()
        }
    }

    fn revert(
        &mut self,
        record: &Record,
        failure: &Failure,
        observed: &Observed,
        now: Moment,
        at: UnixMillis,
    ) -> Decision {
        let stem = self.stem(record);
        let goal = record
            .committed
            .as_deref()
            .map(|kept| Goal::new(&stem, kept));
        if let Some(goal) = &goal {
            self.revive_stopped(goal, observed);
        }
        let mut planned = self.plan(goal.as_ref(), None, observed, now);
        let changed = planned.changed.clone();
        self.pace(&mut planned, changed, now);
        match &goal {
            Some(goal) => self.look(goal, None, observed, &planned, now),
            None => self.workloads.clear(),
        }
        self.keep_failed(failure);
        let (_, trouble) = self.trouble_text();
        let detail = joined(&[&failure.detail, &trouble]);
        self.show(Phase::Reverting, Some(failure.code.clone()), detail);
        self.wakes_at = now.tick.after(LOOK_SOON);
        let back = planned.steps.is_empty() && planned.waits.is_empty();
        let patience = record
            .wanted()
            .map_or(0, |target| target.health.progress_deadline_ms);
        let stuck = now.tick.since(self.course.progress_at) >= Duration::from_millis(patience);
        let keep = if back {
            Some(record.reverted(None, at))
        } else if stuck {
            let text = if trouble.is_empty() {
                "it makes no progress"
            } else {
                &trouble
            };
            Some(record.reverted(Some(text), at))
        } else {
            None
        };
        Decision {
            keep,
            steps: planned.steps,
            ..Decision::default()
        }
    }

    /// What runs is kept as it is meant to be.
    fn keep_up(&mut self, record: &Record, observed: &Observed, now: Moment) -> Decision {
        let stem = self.stem(record);
        let (meant, failure) = match &record.stage {
            Stage::Settled(ChangeOutcome::Succeeded, _) | Stage::AwaitingCommit => {
                (record.wanted(), None)
            }
            Stage::Settled(outcome, failure) => {
                let kept = *outcome == ChangeOutcome::Failed && is_frozen(record);
                if kept {
                    self.show_frozen(record, failure.as_ref(), observed, now);
                    return Decision::default();
                }
                (record.committed.as_deref(), failure.as_ref())
            }
            Stage::New | Stage::Changing | Stage::Reverting(_) => (None, None),
        };
        let goal = meant.map(|target| Goal::new(&stem, target));
        if record.disturbed
            && let Some(goal) = &goal
        {
            self.revive_stopped(goal, observed);
        }
        let mut planned = self.plan(goal.as_ref(), None, observed, now);
        self.repair(&mut planned, now);
        match &goal {
            Some(goal) => self.look(goal, None, observed, &planned, now),
            None => self.workloads.clear(),
        }
        if let Some(failure) = failure {
            self.keep_failed(failure);
        }
        self.show_kept(record, goal.as_ref(), observed, &planned, now);
        let paced = self.repairs.values().any(|one| now.tick < one.not_before);
        let quiet = planned.steps.is_empty() && planned.waits.is_empty() && !paced;
        self.wakes_at = now.tick.after(if quiet { LOOK_LATER } else { LOOK_SOON });
        if quiet {
            self.backoff.succeed();
            self.trouble = None;
        }
        Decision {
            steps: planned.steps,
            ..Decision::default()
        }
    }

    fn stem(&self, record: &Record) -> String {
        stem(&self.prefix, &record.desired.name)
    }

    fn crashes(&self, container: &Container) -> u32 {
        let before = self.course.restarts.get(&container.id).copied();
        container.restarts.saturating_sub(before.unwrap_or(0))
    }

    fn plan(
        &mut self,
        goal: Option<&Goal<'_>>,
        spare: Option<&Goal<'_>>,
        observed: &Observed,
        now: Moment,
    ) -> Plan {
        self.repairs
            .retain(|_, repairs| now.tick.since(repairs.at) < REPAIRS_FORGOTTEN);
        if let Some(goal) = goal {
            self.note_differences(goal, observed);
        }
        let tolerate = self.tolerated();
        let hints = Hints {
            revive: &self.revive,
            tolerate: &tolerate,
        };
        plan(Aim { goal, spare }, observed, hints)
    }

    /// Whether everything has been healthy for as long as asked.
    fn is_verified(
        &mut self,
        target: &Target,
        goal: &Goal<'_>,
        observed: &Observed,
        now: Moment,
    ) -> bool {
        let chosen = choose(goal, observed, &self.tolerated());
        let well = chosen.len() == goal.services.len()
            && chosen.iter().all(|(service, container)| {
                let Some(wanted) = goal.services.get(service) else {
                    return false;
                };
                match container.run {
                    Run::Running => {
                        !matches!(container.health, Some(Health::Starting | Health::Unhealthy))
                    }
                    Run::Exited => end_of(container, wanted.service.restart) == End::Complete,
                    Run::Created | Run::Paused | Run::Restarting | Run::Dead => false,
                }
            });
        let key: Vec<_> = chosen
            .values()
            .map(|container| {
                (
                    container.id.clone(),
                    container.started_at,
                    container.restarts,
                )
            })
            .collect();
        if !well {
            self.healthy = None;
            return false;
        }
        let since = match &self.healthy {
            Some((since, before)) if *before == key => *since,
            Some(_) | None => {
                self.healthy = Some((now.tick, key));
                now.tick
            }
        };
        let delay = Duration::from_millis(target.health.initial_delay_ms);
        let judged = match self.course.started_at {
            Some(started) => now.tick.since(started) >= delay,
            // Nothing had to be started, so there is nothing to wait for.
            None => true,
        };
        let window = Duration::from_millis(target.health.min_healthy_ms);
        judged && now.tick.since(since) >= window
    }

    /// Why the change has failed, when it has.
    fn fails(
        &mut self,
        target: &Target,
        goal: &Goal<'_>,
        observed: &Observed,
        planned: &Plan,
        now: Moment,
    ) -> Option<Failure> {
        if self.course.verified {
            return None;
        }
        if let Some(trouble) = &self.trouble
            && (trouble.class == Class::Final || self.is_tried_out(trouble))
        {
            return Some(self.failure(trouble.code, trouble.detail.clone()));
        }
        if let Some((code, detail)) = self.ended_badly(target, goal, observed, now) {
            return Some(self.failure(code, detail));
        }
        let spoilt = self.repairs.iter().find(|(_, one)| one.count > REPAIRS_MAX);
        if let Some((service, _)) = spoilt {
            let detail = format!("what is made for {service} is set otherwise again and again");
            return Some(self.failure(ErrorCode::WorkloadStart, detail));
        }
        let health = target.health;
        let silent = now.tick.since(self.course.progress_at);
        let verifying = planned.steps.is_empty() && planned.waits.is_empty();
        if !verifying && silent >= Duration::from_millis(health.progress_deadline_ms) {
            let (code, trouble) = self.trouble_text();
            let code = code
                .and_then(|code| ErrorCode::from_text(&code))
                .unwrap_or(ErrorCode::DeploymentDeadline);
            let waits: Vec<String> = planned
                .waits
                .iter()
                .map(|(service, wait)| format!("{service} {wait}"))
                .collect();
            let detail = format!("no progress for {} s", silent.as_secs());
            return Some(self.failure(code, joined(&[&detail, &waits.join(", "), &trouble])));
        }
        let started = self.course.started_at?;
        let late = now.tick.since(started) >= Duration::from_millis(health.healthy_deadline_ms);
        if !late || self.is_verified(target, goal, observed, now) && verifying {
            return None;
        }
        let chosen = choose(goal, observed, &BTreeSet::new());
        let unhealthy: Vec<&str> = chosen
            .iter()
            .filter(|(_, c)| matches!(c.health, Some(Health::Starting | Health::Unhealthy)))
            .map(|(service, _)| *service)
            .collect();
        let seconds = health.healthy_deadline_ms / 1000;
        Some(if unhealthy.is_empty() {
            let detail = format!("not healthy within {seconds} s");
            self.failure(ErrorCode::DeploymentDeadline, detail)
        } else {
            let names = unhealthy.join(", ");
            let detail = format!("the health check of {names} did not pass within {seconds} s");
            self.failure(ErrorCode::WorkloadUnhealthy, detail)
        })
    }

    /// Whether what may pass was tried often enough. A registry may be away for
    /// long, and the deadline for progress bounds it; an engine that answers and
    /// cannot do a thing several times in a row will not do it.
    fn is_tried_out(&self, trouble: &StepError) -> bool {
        trouble.class == Class::Passing
            && trouble.code == ErrorCode::WorkloadStart
            && self.backoff.failures() >= ATTEMPTS_MAX
    }

    /// A container that ended for good, or ends again and again.
    fn ended_badly(
        &self,
        target: &Target,
        goal: &Goal<'_>,
        observed: &Observed,
        now: Moment,
    ) -> Option<(ErrorCode, String)> {
        let delay = Duration::from_millis(target.health.initial_delay_ms);
        if self
            .course
            .started_at
            .is_some_and(|started| now.tick.since(started) < delay)
        {
            return None;
        }
        let chosen = choose(goal, observed, &BTreeSet::new());
        chosen.iter().find_map(|(service, container)| {
            let wanted = goal.services.get(service)?;
            let crashes = self.crashes(container);
            if crashes >= CRASHES_MAX {
                let detail = format!(
                    "{service} was started again {crashes} times; {}",
                    ended_text(service, container)
                );
                return Some((ErrorCode::WorkloadCrashLoop, detail));
            }
            let ended = container.run == Run::Exited
                && !self.revive.contains(&container.id)
                && end_of(container, wanted.service.restart) == End::Failed;
            ended.then(|| (ErrorCode::WorkloadExited, ended_text(service, container)))
        })
    }

    fn failure(&self, code: ErrorCode, detail: String) -> Failure {
        Failure {
            code: code.text().to_owned(),
            detail: clip(&detail),
            workloads: self
                .workloads
                .iter()
                .filter(|workload| !workload.log_tail.is_empty())
                .cloned()
                .collect(),
        }
    }
}

/// Whether a change must be admitted: it moves forward, to something else than
/// what runs already.
fn is_gated(record: &Record, target: &Target) -> bool {
    target.cause == Cause::Change
        && record
            .committed
            .as_ref()
            .is_none_or(|committed| committed.spec != target.spec)
}

/// Whether a failed change is left as it is, for someone to look at.
fn is_frozen(record: &Record) -> bool {
    match &record.desired.want {
        Want::Run(target) => target.on_failure == protocol::deployment::desired::OnFailure::Keep,
        Want::Remove | Want::Update(_) => false,
    }
}
