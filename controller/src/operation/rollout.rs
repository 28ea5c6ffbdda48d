//! Rollouts: what can be seen of them, and steering them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use protocol::ErrorCode;
use protocol::id::{NodeId, RolloutId};

use super::command::{node_name, rows};
use super::view::rollout::{
    AbortRollout, ApproveRollout, ListRollouts, PauseRollout, RolloutLine, RolloutList,
    RolloutLogLine, RolloutTargetPage, RolloutTargetView, RolloutView, RolloutWaveView,
};
use super::{Lines, Operations, Who};
use crate::clock;
use crate::domain::access::caller::Caller;
use crate::domain::deployment::rollouts::Rollout;
use crate::domain::deployment::steer;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::domain::rollout::course::{Course, Stop};
use crate::domain::rollout::event::{AfterAbort, Kind};
use crate::domain::rollout::params::Approve;
use crate::domain::rollout::target::{TargetRow, TargetState, Withheld};
use crate::domain::window::Work;
use crate::operation::failure::Failure;
use crate::uplink::{RolloutStatus, UplinkError};

/// How often a rollout that is followed is looked at. It moves by seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Targets in trouble that a line of following shows.
const TROUBLE_COUNT_MAX: usize = 8;

impl Operations {
    /// Rollouts, newest first.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_rollouts(&self, who: &Who, asked: &ListRollouts) -> Result<RolloutList, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("rollout", "read"))?;
        let mut rollouts: Vec<_> = fleet
            .rollouts()
            .iter()
            .filter(|rollout| {
                asked
                    .deployment
                    .as_ref()
                    .is_none_or(|name| *name == rollout.name)
            })
            .collect();
        rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.seq));
        rollouts.truncate(rows(asked.limit, 20));
        let rollouts = rollouts
            .into_iter()
            .map(|rollout| self.rollout_view(&fleet, rollout))
            .collect::<Result<_, _>>()?;
        Ok(RolloutList { rollouts })
    }

    /// One rollout.
    ///
    /// # Errors
    /// When it is denied, or there is no such rollout.
    pub fn show_rollout(&self, who: &Who, rollout: RolloutId) -> Result<RolloutView, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("rollout", "read"))?;
        self.rollout_view(&fleet, fleet.rollouts().existing(rollout)?)
    }

    /// Some targets of a rollout, by node id: those that the caller may see.
    ///
    /// # Errors
    /// When it is denied, or there is no such rollout.
    pub fn list_rollout_targets(
        &self,
        who: &Who,
        rollout: RolloutId,
        after: Option<NodeId>,
        limit: Option<u32>,
    ) -> Result<RolloutTargetPage, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("rollout", "read"))?;
        let known = fleet.rollouts().existing(rollout)?;
        let limit = rows(limit, 100);
        let mut targets = self
            .uplink
            .rollout_targets(rollout, after, limit + 1)
            .map_err(|error| fault(&error))?;
        let more = targets.len() > limit;
        targets.truncate(limit);
        let next = targets.last().map(|(node, _)| *node).filter(|_| more);
        let targets = targets
            .into_iter()
            .filter(|(node, _)| fleet.node(*node).is_some_and(|node| reach.covers(node)))
            .map(|(node, row)| self.target_of(&fleet, known, node, &row))
            .collect::<Result<_, _>>()?;
        Ok(RolloutTargetPage { targets, next })
    }

    /// Starts nothing more until someone resumes.
    ///
    /// # Errors
    /// When it is denied, or the rollout does not run.
    pub async fn pause_rollout(
        &self,
        who: &Who,
        rollout: RolloutId,
        asked: PauseRollout,
    ) -> Result<RolloutView, Failure> {
        let reason = asked.reason;
        let operation = Operation::PauseRollout(steer::PauseRollout { rollout, reason });
        self.steer(who, rollout, operation).await
    }

    /// Goes on after a pause or a halt.
    ///
    /// # Errors
    /// When it is denied, or the rollout waits for nobody.
    pub async fn resume_rollout(
        &self,
        who: &Who,
        rollout: RolloutId,
    ) -> Result<RolloutView, Failure> {
        let operation = Operation::ResumeRollout(steer::ResumeRollout { rollout });
        self.steer(who, rollout, operation).await
    }

    /// Opens the gate before the next wave.
    ///
    /// # Errors
    /// When it is denied, the wave waits for no person, or somebody else must.
    pub async fn approve_rollout(
        &self,
        who: &Who,
        rollout: RolloutId,
        asked: ApproveRollout,
    ) -> Result<RolloutView, Failure> {
        let wave = match asked.wave {
            Some(0) => {
                return Err(Failure::new(
                    ErrorCode::RequestInvalid,
                    "waves are counted from 1",
                ));
            }
            wave => wave.map(|wave| wave - 1),
        };
        let operation = Operation::ApproveRollout(steer::ApproveRollout { rollout, wave });
        self.steer(who, rollout, operation).await
    }

    /// Ends a rollout.
    ///
    /// # Errors
    /// When it is denied, or the rollout is ending already.
    pub async fn abort_rollout(
        &self,
        who: &Who,
        rollout: RolloutId,
        asked: AbortRollout,
    ) -> Result<RolloutView, Failure> {
        let then = if asked.revert {
            AfterAbort::Revert
        } else {
            AfterAbort::Keep
        };
        let operation = Operation::AbortRollout(steer::AbortRollout {
            rollout,
            reason: asked.reason,
            then,
        });
        self.steer(who, rollout, operation).await
    }

    async fn steer(
        &self,
        who: &Who,
        rollout: RolloutId,
        operation: Operation,
    ) -> Result<RolloutView, Failure> {
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        self.rollout_view(&fleet, fleet.rollouts().existing(rollout)?)
    }

    /// Follows a rollout until it has ended: where it stands whenever that changes.
    ///
    /// # Errors
    /// When it is denied, or there is no such rollout.
    pub fn follow_rollout(
        self: Arc<Self>,
        who: &Who,
        rollout: RolloutId,
    ) -> Result<Lines<RolloutLine>, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("rollout", "read"))?;
        fleet.rollouts().existing(rollout)?;
        let following = Following {
            operations: self,
            rollout,
            told: None,
        };
        Ok(Box::pin(unfold(following, async |mut following| {
            let line = following.next().await?;
            Some((line, following))
        })))
    }

    /// Where a rollout stands, with the targets in trouble.
    fn rollout_line(&self, rollout: RolloutId) -> Result<RolloutLine, Failure> {
        let fleet = self.engine.fleet();
        let known = fleet.rollouts().existing(rollout)?;
        let view = self.rollout_view(&fleet, known)?;
        let troubled = TROUBLED.iter().any(|state| {
            view.counts
                .get(state.name())
                .is_some_and(|count| *count > 0)
        });
        let mut trouble = Vec::new();
        if troubled {
            let mut rows: VecDeque<(NodeId, TargetRow)> = self
                .uplink
                .rollout_targets_all(rollout)
                .map_err(|error| fault(&error))?
                .into_iter()
                .filter(|(_, row)| TROUBLED.contains(&row.state))
                .collect();
            rows.make_contiguous()
                .sort_by_key(|(node, row)| (std::cmp::Reverse(row.since), *node));
            rows.truncate(TROUBLE_COUNT_MAX);
            for (node, row) in rows {
                trouble.push(self.target_of(&fleet, known, node, &row)?);
            }
        }
        Ok(RolloutLine {
            rollout: view,
            trouble,
        })
    }

    fn target_of(
        &self,
        fleet: &Fleet,
        rollout: &Rollout,
        node: NodeId,
        row: &TargetRow,
    ) -> Result<RolloutTargetView, Failure> {
        // The class is that of the last order alone; why a change failed is still
        // wanted when the node was told to go back after it.
        let is_bad = row.verdict.is_some_and(|(_, verdict)| verdict.is_bad());
        let failure = if row.class.is_some() || is_bad {
            self.uplink
                .rollout_failure(rollout.id, node)
                .map_err(|error| fault(&error))?
        } else {
            None
        };
        let (code, detail) = failure.map_or((None, String::new()), |stored| {
            (stored.result.code, stored.result.detail)
        });
        let work = fleet.work_of(rollout.deployment);
        let detail = waits_for(fleet, node, row.state, work).unwrap_or(detail);
        Ok(RolloutTargetView {
            node,
            name: node_name(fleet, node),
            wave: row.wave + 1,
            state: row.state.name().to_owned(),
            since: row.since.into(),
            verdict: row.verdict.map(|(_, verdict)| verdict.name().to_owned()),
            code,
            detail,
            retry_at: row.retry_at.map(Into::into),
        })
    }

    pub(super) fn rollout_view(
        &self,
        fleet: &Fleet,
        rollout: &Rollout,
    ) -> Result<RolloutView, Failure> {
        let course = &rollout.course;
        let status = match self.uplink.rollout_status(rollout.id) {
            Some(status) => status,
            None => self.counted(rollout)?,
        };
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for (state, count) in status.waves.iter().flatten() {
            *counts.entry((*state).to_owned()).or_default() += count;
        }
        let (state, reason) = state_of(course, &status);
        let waves = (0..).zip(&rollout.waves).map(|(wave, size)| {
            let begun = course.wave.is_some_and(|(current, _)| wave <= current);
            let current = course.wave.is_some_and(|(current, _)| wave == current);
            RolloutWaveView {
                wave: wave + 1,
                size: *size,
                state: match (begun, current && course.finished.is_none()) {
                    (false, _) => "waiting",
                    (true, true) => "running",
                    (true, false) => "done",
                }
                .to_owned(),
                approve: approve_name(course, wave).to_owned(),
                counts: status
                    .waves
                    .get(wave as usize)
                    .into_iter()
                    .flatten()
                    .map(|(state, count)| ((*state).to_owned(), *count))
                    .collect(),
            }
        });
        let log = rollout.log.iter().map(|logged| RolloutLogLine {
            at: logged.at.into(),
            by: caller_name(fleet, logged.by),
            text: logged.decision.to_string(),
        });
        Ok(RolloutView {
            id: rollout.id,
            deployment: rollout.name.clone(),
            revision: rollout.revision,
            before: rollout.before,
            kind: match course.kind {
                Kind::Forward => "forward",
                Kind::Rollback => "rollback",
            }
            .to_owned(),
            by: caller_name(fleet, rollout.by),
            started_at: course.started_at.into(),
            state: state.to_owned(),
            awaits_person: course.finished.is_none()
                && (course.awaits_a_person() || state == WAITING_FOR_APPROVAL),
            reason,
            done: course.finished.is_some(),
            finished_at: course.finished.as_ref().map(|end| end.at.into()),
            targets: counts.values().sum(),
            counts,
            waves: waves.collect(),
            rate_per_minute: course.is_running().then_some(status.rate_per_min),
            breakers: status.breakers,
            log: log.collect(),
        })
    }

    /// The counts of a rollout that is carried out no more, from the store.
    fn counted(&self, rollout: &Rollout) -> Result<RolloutStatus, Failure> {
        let mut status = RolloutStatus {
            waves: vec![BTreeMap::new(); rollout.waves.len()],
            ..RolloutStatus::default()
        };
        let rows = self
            .uplink
            .rollout_targets_all(rollout.id)
            .map_err(|error| fault(&error))?;
        for (_, row) in rows {
            if let Some(wave) = status.waves.get_mut(row.wave as usize) {
                *wave.entry(row.state.name()).or_default() += 1;
            }
        }
        Ok(status)
    }
}

/// Why a target is told nothing, where its node or the time is the reason.
pub(super) fn waits_for(
    fleet: &Fleet,
    node: NodeId,
    state: TargetState,
    work: Work<'_>,
) -> Option<String> {
    let record = fleet.node(node)?;
    match state.withheld()? {
        Withheld::Cordoned => {
            let cordon = record.cordon.as_ref()?;
            Some(format!(
                "{}: {}",
                cordon.name().replace('_', " "),
                cordon.reason
            ))
        }
        Withheld::Windowed => {
            let windows = fleet.windows();
            let wait = windows.wait(record.subject(), work, clock::now())?;
            Some(wait.to_string())
        }
    }
}

/// States of targets that someone should look at.
const TROUBLED: [TargetState; 5] = [
    TargetState::Failed,
    TargetState::Reverted,
    TargetState::Refused,
    TargetState::Silent,
    TargetState::Delayed,
];

struct Following {
    operations: Arc<Operations>,
    rollout: RolloutId,
    told: Option<RolloutLine>,
}

impl Following {
    async fn next(&mut self) -> Option<RolloutLine> {
        if self.told.as_ref().is_some_and(|line| line.rollout.done) {
            return None;
        }
        loop {
            match self.operations.rollout_line(self.rollout) {
                Ok(line) if self.told.as_ref() != Some(&line) => {
                    self.told = Some(line.clone());
                    return Some(line);
                }
                Ok(_) => {}
                Err(failure) => {
                    tracing::warn!(%failure, rollout = %self.rollout, "following a rollout failed");
                    return None;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The state of a rollout before a gate that a person opens.
const WAITING_FOR_APPROVAL: &str = "waiting_for_approval";

/// Every state of a rollout that has not ended, as [`state_of`] names them.
pub(super) const OPEN_STATES: [&str; 5] = [
    "running",
    WAITING_FOR_APPROVAL,
    "paused",
    "halted",
    "aborting",
];

/// A rollout's state in a word, and why.
pub(super) fn state_of(course: &Course, status: &RolloutStatus) -> (&'static str, String) {
    if let Some(end) = &course.finished {
        let why = match &course.stop {
            Some(Stop::Halted { evidence, .. }) => evidence.to_string(),
            Some(Stop::Paused(_) | Stop::Aborted { .. }) | None => String::new(),
        };
        return (end.outcome.name(), why);
    }
    match &course.stop {
        Some(Stop::Paused(why)) => ("paused", why.to_string()),
        Some(Stop::Halted { evidence, .. }) => ("halted", evidence.to_string()),
        Some(Stop::Aborted { .. }) => ("aborting", String::new()),
        None if course.gate() == Some(Approve::Human) && status.waits_for.is_empty() => (
            WAITING_FOR_APPROVAL,
            format!("wave {} waits for a person", course.next_wave() + 1),
        ),
        None => ("running", status.waits_for.clone()),
    }
}

fn approve_name(course: &Course, wave: u32) -> &'static str {
    let approve = course.params.waves.get(wave as usize).map(|it| it.approve);
    match approve {
        Some(Approve::Human) => "human",
        Some(Approve::Consensus) => "consensus",
        Some(Approve::None) | None => "none",
    }
}

/// Who asked, as people know them.
pub(super) fn caller_name(fleet: &Fleet, caller: Caller) -> String {
    match caller {
        Caller::Principal { id, .. } => fleet
            .access()
            .principal(id)
            .map_or_else(|| id.to_string(), |principal| principal.name.clone()),
        Caller::Host => "host".to_owned(),
        Caller::Node(node) => node_name(fleet, node),
        Caller::System => "controller".to_owned(),
        Caller::Anonymous => "anonymous".to_owned(),
    }
}

pub(super) fn fault(error: &UplinkError) -> Failure {
    Failure::fault(error.code(), "what nodes said cannot be read", error)
}
