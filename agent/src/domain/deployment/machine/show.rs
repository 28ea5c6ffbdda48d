//! What a machine shows of its deployment: phase, code, words, and the containers
//! as the engine described them.
//!
//! **Invariant:** a workload's state is what was observed. One that is not there is
//! `pending`, `fetching` or `missing`, never anything that runs.

use protocol::ErrorCode;
use protocol::deployment::desired::Target;
use protocol::deployment::limit::{LOG_TAIL_LINE_BYTES_MAX, LOG_TAIL_LINES_MAX};
use protocol::deployment::observed::{
    ChangeOutcome, DeploymentState, Phase, Workload, WorkloadState,
};
use protocol::time::UnixMillis;

use super::{CRASHES_MAX, LOOK_LATER, Machine, REPAIRS_MAX, Shown};
use crate::domain::deployment::goal::Goal;
use crate::domain::deployment::observed::{Container, Health, Observed, Run};
use crate::domain::deployment::plan::{End, Plan, Step, choose, end_of};
use crate::domain::deployment::record::{Failure, Record, Stage};
use crate::domain::time::Moment;

/// Bytes of log lines that a state carries: with all else it fits an envelope.
const LOG_BYTES_MAX: usize = 32 * 1024;

/// Bytes of a detail.
const DETAIL_BYTES_MAX: usize = 2048;

impl Machine {
    pub(super) fn show_change(&mut self, planned: &Plan, now: Moment, target: &Target) {
        let fetches = planned.steps.iter().any(Step::is_fetch);
        let (code, trouble) = self.trouble_text();
        let verifying = planned.steps.is_empty() && planned.waits.is_empty();
        if self.course.verified {
            self.show(
                Phase::Verifying,
                code,
                joined(&["healthy; the old one goes", &trouble]),
            );
        } else if fetches {
            let note = self.note.clone();
            self.show(Phase::Fetching, code, joined(&[&note, &trouble]));
        } else if verifying {
            let since = self
                .healthy
                .as_ref()
                .map(|(since, _)| now.tick.since(*since));
            let text = match since {
                Some(since) => format!(
                    "healthy for {} s of {} s",
                    since.as_secs(),
                    target.health.min_healthy_ms / 1000
                ),
                None => "not healthy yet".to_owned(),
            };
            self.show(Phase::Verifying, code, joined(&[&text, &trouble]));
        } else {
            let waits: Vec<String> = planned
                .waits
                .iter()
                .map(|(service, wait)| format!("{service} {wait}"))
                .collect();
            self.show(
                Phase::Starting,
                code,
                joined(&[&waits.join(", "), &trouble]),
            );
        }
    }

    pub(super) fn show_frozen(
        &mut self,
        record: &Record,
        failure: Option<&Failure>,
        observed: &Observed,
        now: Moment,
    ) {
        self.workloads = observed
            .containers
            .iter()
            .filter_map(|container| workload(container, now.wall))
            .collect();
        self.wakes_at = now.tick.after(LOOK_LATER);
        let shown = shown_of(record, failure);
        self.show(shown.phase, shown.code, shown.detail);
    }

    pub(super) fn show_kept(
        &mut self,
        record: &Record,
        goal: Option<&Goal<'_>>,
        observed: &Observed,
        planned: &Plan,
        now: Moment,
    ) {
        let problem = goal.and_then(|goal| self.problem(goal, observed, planned, now));
        let failure = match &record.stage {
            Stage::Settled(_, failure) => failure.as_ref(),
            Stage::New | Stage::Changing | Stage::AwaitingCommit | Stage::Reverting(_) => None,
        };
        let mut shown = shown_of(record, failure);
        if let Some((code, detail)) = problem {
            if shown.phase == Phase::Running {
                shown.phase = Phase::Degraded;
                shown.code = Some(code.text().to_owned());
            }
            shown.detail = joined(&[&shown.detail, &detail]);
        }
        for (service, what) in &self.tolerated {
            let text = format!("the engine sets {what} of {service} by itself");
            shown.detail = joined(&[&shown.detail, &text]);
        }
        self.show(shown.phase, shown.code, shown.detail);
    }

    /// What is not well of what should run.
    pub(super) fn problem(
        &self,
        goal: &Goal<'_>,
        observed: &Observed,
        planned: &Plan,
        now: Moment,
    ) -> Option<(ErrorCode, String)> {
        if let Some(trouble) = &self.trouble {
            return Some((trouble.code, trouble.detail.clone()));
        }
        let chosen = choose(goal, observed, &self.tolerated());
        let crashing = self
            .repairs
            .iter()
            .find(|(_, one)| one.count >= REPAIRS_MAX && now.tick < one.not_before);
        for (service, wanted) in &goal.services {
            let Some(container) = chosen.get(service) else {
                return Some((ErrorCode::WorkloadStart, format!("{service} is not there")));
            };
            let crashes = self.crashes(container);
            if crashes >= CRASHES_MAX && container.run == Run::Restarting {
                return Some((
                    ErrorCode::WorkloadCrashLoop,
                    format!("{service} was started again {crashes} times"),
                ));
            }
            if container.run == Run::Exited
                && end_of(container, wanted.service.restart) == End::Failed
            {
                return Some((ErrorCode::WorkloadExited, ended_text(service, container)));
            }
            if container.health == Some(Health::Unhealthy) {
                return Some((
                    ErrorCode::WorkloadUnhealthy,
                    format!("the health check of {service} fails"),
                ));
            }
        }
        if let Some((service, repairs)) = crashing {
            return Some((
                ErrorCode::WorkloadCrashLoop,
                format!(
                    "{service} had to be put back {} times in a row",
                    repairs.count
                ),
            ));
        }
        let (service, wait) = planned.waits.iter().next()?;
        Some((ErrorCode::WorkloadStart, format!("{service} {wait}")))
    }

    /// Shows the containers that failed beside those that run, with the lines by
    /// which one sees why.
    pub(super) fn keep_failed(&mut self, failure: &Failure) {
        for failed in &failure.workloads {
            let there = self
                .workloads
                .iter()
                .any(|workload| workload.container == failed.container);
            if !there {
                self.workloads.push(failed.clone());
            }
        }
        bound_tails(&mut self.workloads);
    }

    pub(super) fn trouble_text(&self) -> (Option<String>, String) {
        match &self.trouble {
            Some(trouble) => (Some(trouble.code.text().to_owned()), trouble.detail.clone()),
            None => (None, String::new()),
        }
    }

    /// Describes the containers of both revisions, and what is not there yet.
    pub(super) fn look(
        &mut self,
        goal: &Goal<'_>,
        spare: Option<&Goal<'_>>,
        observed: &Observed,
        planned: &Plan,
        now: Moment,
    ) {
        let chosen = choose(goal, observed, &self.tolerated());
        let mut workloads: Vec<Workload> = observed
            .containers
            .iter()
            .filter_map(|container| {
                let mut workload = workload(container, now.wall)?;
                // What both revisions have alike belongs to the one that is wanted.
                let kept = chosen.get(workload.service.as_str());
                if kept.is_some_and(|kept| kept.id == container.id) {
                    workload.revision = goal.target.revision;
                    if let Some(wait) = planned.waits.get(&workload.service) {
                        workload.detail.clone_from(wait);
                    }
                } else if spare.is_none() && workload.state == WorkloadState::Dead {
                    return None;
                }
                Some(workload)
            })
            .collect();
        for (service, wanted) in &goal.services {
            if chosen.contains_key(service) {
                continue;
            }
            let fetching = planned
                .steps
                .iter()
                .any(|step| matches!(step, Step::FetchImage { service: of, .. } if of == service));
            let was_there = self.shown.phase == Phase::Running;
            let (state, detail) = match (fetching, was_there) {
                (true, _) => (WorkloadState::Fetching, self.note.clone()),
                (false, true) => (WorkloadState::Missing, String::new()),
                (false, false) => (WorkloadState::Pending, String::new()),
            };
            workloads.push(Workload {
                service: (*service).to_owned(),
                revision: goal.target.revision,
                container: None,
                state,
                image_digest: wanted.service.image.digest.clone(),
                restarts: 0,
                exit_code: None,
                oom_killed: false,
                started_at: None,
                observed_at: now.wall,
                detail,
                log_tail: Vec::new(),
            });
        }
        workloads.sort_by(|a, b| (&a.service, a.revision).cmp(&(&b.service, b.revision)));
        bound_tails(&mut workloads);
        self.workloads = workloads;
    }

    pub(super) fn show(&mut self, phase: Phase, code: Option<String>, detail: String) {
        self.shown = Shown {
            phase,
            code,
            detail: clip(&detail),
        };
    }

    /// The state that is reported.
    pub fn state(
        &mut self,
        record: &Record,
        before: Option<&DeploymentState>,
        now: Moment,
    ) -> DeploymentState {
        let mut shown = self.shown.clone();
        let mut ended = false;
        if self.engine_lost
            && let Stage::Settled(outcome, failure) = &record.stage
            && *outcome != ChangeOutcome::Succeeded
        {
            // Why a change ended is known without the engine.
            shown = shown_of(record, failure.as_ref());
            ended = true;
        }
        if self.engine_lost
            && let Some(trouble) = &self.trouble
        {
            if !ended {
                shown.code = Some(trouble.code.text().to_owned());
            }
            shown.detail = clip(&joined(&[&trouble.detail, &shown.detail]));
        }
        if before.is_none_or(|before| before.phase != shown.phase) {
            self.since = now.wall;
        }
        DeploymentState {
            deployment: record.desired.deployment,
            number: record.desired.number,
            generation: record.desired.generation,
            wanted: record.wanted().map(|target| target.revision),
            current: record.committed.as_ref().map(|kept| kept.revision),
            phase: shown.phase,
            since: self.since,
            code: shown.code,
            detail: shown.detail,
            workloads: self.workloads.clone(),
            drift: self.drift.clone(),
        }
    }
}

pub(super) fn shown_of(record: &Record, failure: Option<&Failure>) -> Shown {
    let phase = match &record.stage {
        Stage::New => Phase::Waiting,
        Stage::Changing => Phase::Starting,
        Stage::AwaitingCommit => Phase::AwaitingCommit,
        Stage::Reverting(_) => Phase::Reverting,
        Stage::Settled(ChangeOutcome::Succeeded, _) if record.wanted().is_none() => Phase::Removed,
        Stage::Settled(outcome, _) => match outcome {
            ChangeOutcome::Succeeded => Phase::Running,
            ChangeOutcome::Reverted => Phase::Reverted,
            ChangeOutcome::Failed | ChangeOutcome::Superseded => Phase::Failed,
            ChangeOutcome::Refused => Phase::Refused,
        },
    };
    Shown {
        phase,
        code: failure.map(|failure| failure.code.clone()),
        detail: failure.map_or_else(String::new, |failure| failure.detail.clone()),
    }
}

pub(super) fn ended_text(service: &str, container: &Container) -> String {
    let mut text = match container.exit_code {
        Some(code) => format!("{service} ended with exit code {code}"),
        None => format!("{service} ended"),
    };
    if container.oom_killed {
        text.push_str(", for lack of memory");
    }
    if !container.error.is_empty() {
        text.push_str(": ");
        text.push_str(&container.error);
    }
    text
}

pub(super) fn workload(container: &Container, now: UnixMillis) -> Option<Workload> {
    let owner = container.owner.as_ref()?;
    let state = match (container.run, container.health) {
        (Run::Created, _) => WorkloadState::Created,
        (Run::Running, None) => WorkloadState::Running,
        (Run::Running, Some(Health::Starting)) => WorkloadState::Starting,
        (Run::Running, Some(Health::Healthy)) => WorkloadState::Healthy,
        (Run::Running, Some(Health::Unhealthy)) => WorkloadState::Unhealthy,
        (Run::Paused, _) => WorkloadState::Paused,
        (Run::Restarting, _) => WorkloadState::Restarting,
        (Run::Exited, _) if container.exit_code == Some(0) => WorkloadState::Completed,
        (Run::Exited, _) => WorkloadState::Exited,
        (Run::Dead, _) => WorkloadState::Dead,
    };
    Some(Workload {
        service: owner.service.clone(),
        revision: owner.revision,
        container: Some(container.id.chars().take(12).collect()),
        state,
        image_digest: container.image_digest.clone(),
        restarts: container.restarts,
        exit_code: container.exit_code.filter(|_| container.was_started()),
        oom_killed: container.oom_killed,
        started_at: container.started_at,
        observed_at: now,
        detail: clip(&container.error),
        log_tail: container
            .log_tail
            .iter()
            .rev()
            .take(LOG_TAIL_LINES_MAX)
            .rev()
            .map(|line| clip_to(line, LOG_TAIL_LINE_BYTES_MAX))
            .collect(),
    })
}

/// Keeps the lines of all workloads together within what an envelope carries.
pub(super) fn bound_tails(workloads: &mut [Workload]) {
    let mut left = LOG_BYTES_MAX;
    for workload in workloads {
        let bytes: usize = workload.log_tail.iter().map(String::len).sum();
        if bytes > left {
            workload.log_tail.clear();
        } else {
            left -= bytes;
        }
    }
}

pub(super) fn joined(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    parts.join("; ")
}

pub(super) fn clip(text: &str) -> String {
    clip_to(text, DETAIL_BYTES_MAX)
}

fn clip_to(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
