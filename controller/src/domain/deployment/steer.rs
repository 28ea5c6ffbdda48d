//! What people and the controller itself decide about a rollout that was started.

use protocol::ErrorCode;
use protocol::id::RolloutId;

use crate::domain::access::caller::Caller;
use crate::domain::breaker::manage::admit_change;
use crate::domain::deployment::apply::candidates;
use crate::domain::deployment::attempt;
use crate::domain::deployment::rollouts::Rollout;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::NODE_TEXT_BYTES_MAX;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};
use crate::domain::rollout::event::{
    AfterAbort, Decision, Kind, PauseReason, RolloutAborted, RolloutPaused, RolloutResumed,
    WaveApproved,
};

/// Start nothing more until someone resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRollout {
    /// Which.
    pub rollout: RolloutId,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Go on after a pause or a halt. Acknowledges the failures that were seen so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeRollout {
    /// Which.
    pub rollout: RolloutId,
}

/// Open the gate before the next wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApproveRollout {
    /// Which.
    pub rollout: RolloutId,
    /// The wave that the caller means, from 0; none for the next one.
    pub wave: Option<u32>,
}

/// End a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbortRollout {
    /// Which.
    pub rollout: RolloutId,
    /// Why, in the operator's words.
    pub reason: String,
    /// What happens to nodes that succeeded.
    pub then: AfterAbort,
}

/// Record what the controller decided by what nodes report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRollout {
    /// The decision.
    pub decision: Decision,
}

pub(crate) fn pause(fleet: &Fleet, asked: &PauseRollout) -> Result<Vec<Event>, Rejection> {
    let rollout = fleet.rollouts().existing(asked.rollout)?;
    decide(
        rollout,
        Decision::Paused(RolloutPaused {
            rollout: rollout.id,
            step: rollout.course.step,
            why: PauseReason::Asked {
                reason: cut(asked.reason.clone(), NODE_TEXT_BYTES_MAX),
            },
        }),
    )
}

pub(crate) fn resume(
    fleet: &Fleet,
    asked: &ResumeRollout,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let rollout = fleet.rollouts().existing(asked.rollout)?;
    admit(fleet, rollout, at)?;
    decide(
        rollout,
        Decision::Resumed(RolloutResumed {
            rollout: rollout.id,
            step: rollout.course.step,
            acknowledged_at: at.now,
        }),
    )
}

pub(crate) fn approve(
    fleet: &Fleet,
    caller: &Caller,
    asked: &ApproveRollout,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let rollout = fleet.rollouts().existing(asked.rollout)?;
    // By principal: two keys of one person are one person.
    rollout
        .course
        .check_approver(&rollout.by.principal(), &caller.principal())?;
    let next = rollout.course.next_wave();
    if let Some(wave) = asked.wave
        && wave != next
    {
        return Err(Rejection::new(
            ErrorCode::RolloutState,
            format!(
                "wave {} of rollout {} is not the next: that is {}",
                wave.saturating_add(1),
                rollout.id,
                next.saturating_add(1)
            ),
        ));
    }
    admit(fleet, rollout, at)?;
    decide(
        rollout,
        Decision::WaveApproved(WaveApproved {
            rollout: rollout.id,
            step: rollout.course.step,
            wave: next,
        }),
    )
}

pub(crate) fn abort(fleet: &Fleet, asked: &AbortRollout) -> Result<Vec<Event>, Rejection> {
    let rollout = fleet.rollouts().existing(asked.rollout)?;
    decide(
        rollout,
        Decision::Aborted(RolloutAborted {
            rollout: rollout.id,
            step: rollout.course.step,
            reason: cut(asked.reason.clone(), NODE_TEXT_BYTES_MAX),
            then: asked.then,
        }),
    )
}

pub(crate) fn record(fleet: &Fleet, asked: &RecordRollout) -> Result<Vec<Event>, Rejection> {
    let rollout = fleet.rollouts().existing(asked.decision.rollout())?;
    decide(rollout, asked.decision.clone())
}

/// Refuses to let a rollout go on that breakers stop on every node. What goes back
/// always may.
fn admit(fleet: &Fleet, rollout: &Rollout, at: &Moment) -> Result<(), Rejection> {
    let known = fleet.deployments().get(rollout.deployment);
    let revision = known.and_then(|known| known.revisions.get(&rollout.revision));
    match revision {
        Some(revision) if rollout.course.kind == Kind::Forward => {
            let nodes = candidates(fleet, &revision.selector, Kind::Forward);
            let attempt = attempt(rollout.deployment, revision.release.as_ref());
            admit_change(fleet, attempt, nodes, at)
        }
        Some(_) | None => Ok(()),
    }
}

fn decide(rollout: &Rollout, decision: Decision) -> Result<Vec<Event>, Rejection> {
    rollout.course.check(&decision)?;
    Ok(vec![decision.into()])
}
