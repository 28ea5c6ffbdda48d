//! Applying, rolling back, removing and forgetting deployments.
//!
//! **Invariant:** what changes a deployment says which revision it starts from
//! (`base`), and is refused when that is no longer the newest: of two operators
//! who change one deployment at once, one wins and the other is told.

use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::deployment::limit::DEPLOYMENTS_COUNT_MAX;
use protocol::deployment::spec::{Spec, is_name};
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::selector::Selector;

use crate::domain::access::authorize::reach;
use crate::domain::access::caller::Caller;
use crate::domain::access::permission::Permission;
use crate::domain::breaker::manage::admit_change;
use crate::domain::command::issue::EmptyAim;
use crate::domain::decide::{Decided, Targets};
use crate::domain::deployment::event::{
    ApplyCause, DeploymentApplied, DeploymentForgotten, DeploymentRemoved,
};
use crate::domain::deployment::rollouts::ROLLOUTS_OPEN_MAX;
use crate::domain::deployment::{Deployment, Revision, SPECS_BYTES_MAX, attempt, spec_digest};
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;
use crate::domain::moment::Moment;
use crate::domain::rejection::Rejection;
use crate::domain::release::event::UpdateApplied;
use crate::domain::release::update::usable;
use crate::domain::rollout::event::{Kind, RolloutStarted};
use crate::domain::rollout::params::{Approve, HaltOn, Params};
use crate::domain::rollout::plan::{Candidate, Plan};

/// Give a deployment a revision, its first or another one, and roll it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyDeployment {
    /// Its name.
    pub name: String,
    /// The newest revision that the caller knows; 0 for a deployment that is not
    /// there yet.
    pub base: u32,
    /// The nodes that it is for.
    pub selector: Selector,
    /// What is to run.
    pub spec: Box<Spec>,
    /// How it is rolled out.
    pub how: Box<How>,
}

/// Go back to an earlier revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollBackDeployment {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// The newest revision that the caller knows.
    pub base: u32,
    /// The revision to go back to; none for the last one that was proven and
    /// differs from the newest.
    pub to: Option<u32>,
    /// How it is rolled out.
    pub how: Box<How>,
}

/// How a change is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct How {
    /// Waves, rates, criteria.
    pub params: Params,
    /// The nodes whose link is up: a canary that is away proves nothing. Decided
    /// outside, because presence is no part of the fleet's state.
    pub present: BTreeSet<NodeId>,
    /// What to do when no node is meant.
    pub empty: EmptyAim,
}

/// Take a deployment from every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveDeployment {
    /// Which.
    pub deployment: DeploymentId,
    /// The newest revision that the caller knows.
    pub base: u32,
}

/// Forget a removed deployment, which is gone from the nodes that were reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgetDeployment {
    /// Which.
    pub deployment: DeploymentId,
}

/// The nodes that a change of a deployment touches: those that the new revision is
/// for, and those that have, or get, the ones before it.
#[must_use]
pub fn touched(
    fleet: &Fleet,
    deployment: Option<&Deployment>,
    selector: Option<&Selector>,
) -> Vec<NodeId> {
    let revisions: Vec<&Revision> = deployment
        .map(|deployment| {
            let open = deployment.rollout.and_then(|id| fleet.rollouts().get(id));
            let numbers: BTreeSet<u32> = [
                Some(deployment.newest_number()),
                deployment.settled,
                open.and_then(|rollout| rollout.before),
            ]
            .into_iter()
            .flatten()
            .collect();
            numbers
                .iter()
                .filter_map(|number| deployment.revisions.get(number))
                .map(AsRef::as_ref)
                .collect()
        })
        .unwrap_or_default();
    fleet
        .nodes()
        .filter(|node| node.is_active())
        .filter(|node| {
            let subject = node.subject();
            selector.is_some_and(|selector| selector.matches(subject))
                || revisions.iter().any(|revision| revision.is_for(subject))
        })
        .map(|node| node.id)
        .collect()
}

/// The nodes that a revision goes to now. One whose identity is in doubt gets no
/// change until someone has resolved it; one that is cordoned may be taken back, and
/// gets what is new as a late joiner once it is in service again.
pub fn candidates<'a>(
    fleet: &'a Fleet,
    selector: &'a Selector,
    kind: Kind,
) -> impl Iterator<Item = &'a Node> + use<'a> {
    let serves =
        move |node: &Node| node.cordon.is_none() || (kind == Kind::Rollback && !node.is_drained());
    fleet
        .nodes()
        .map(AsRef::as_ref)
        .filter(|node| node.is_active() && node.suspicion.is_none())
        .filter(move |node| serves(node))
        .filter(|node| selector.matches(node.subject()))
}

pub(crate) fn apply(
    fleet: &Fleet,
    caller: &Caller,
    asked: &ApplyDeployment,
    at: &Moment,
) -> Result<Decided, Rejection> {
    if !is_name(&asked.name) {
        return Err(no_name(&asked.name));
    }
    asked
        .spec
        .check()
        .map_err(|error| Rejection::new(error.code(), error.to_string()))?;
    let known = fleet.deployments().named(&asked.name).map(AsRef::as_ref);
    check_base(&asked.name, known, asked.base)?;
    if let Some(known) = known.filter(|known| known.is_of_updates()) {
        return Err(Rejection::new(
            ErrorCode::DeploymentConflict,
            format!("deployment {} is of updates, not of projects", known.name),
        ));
    }
    if let Some(deployment) = known
        && is_as_asked(fleet, deployment, &asked.selector, spec_digest(&asked.spec))
    {
        return Ok(Decided::default());
    }
    let applied = DeploymentApplied {
        deployment: known.map_or_else(|| at.ids.id(0), |known| known.id),
        number: number(fleet, known)?,
        name: asked.name.clone(),
        revision: known.map_or(0, Deployment::newest_number) + 1,
        selector: asked.selector.clone(),
        within: within(fleet, caller)?,
        digest: spec_digest(&asked.spec),
        spec: asked.spec.clone(),
        cause: ApplyCause::Apply,
    };
    start(fleet, applied, None, Kind::Forward, &asked.how, at)
}

pub(crate) fn roll_back(
    fleet: &Fleet,
    caller: &Caller,
    asked: &RollBackDeployment,
    at: &Moment,
) -> Result<Decided, Rejection> {
    let deployment = fleet.deployments().existing(asked.deployment)?;
    check_base(&deployment.name, Some(deployment), asked.base)?;
    let to = match asked.to {
        Some(to) => deployment.revision(to)?,
        None => last_proven(deployment)?,
    };
    let release = to.release.clone();
    if let Some(version) = &release {
        usable(fleet, version, at)?;
    }
    let applied = DeploymentApplied {
        deployment: deployment.id,
        number: deployment.number,
        name: deployment.name.clone(),
        revision: deployment.newest_number() + 1,
        selector: to.selector.clone(),
        within: within(fleet, caller)?,
        spec: Box::new(to.spec.as_ref().clone()),
        digest: to.digest,
        cause: ApplyCause::Rollback { to: to.number },
    };
    // What was never proven does not pass breakers by being called a rollback.
    let kind = if deployment.proven.contains(&to.number) {
        Kind::Rollback
    } else {
        Kind::Forward
    };
    start(fleet, applied, release, kind, &asked.how, at)
}

pub(crate) fn remove(fleet: &Fleet, asked: &RemoveDeployment) -> Result<Vec<Event>, Rejection> {
    let deployment = fleet.deployments().existing(asked.deployment)?;
    if deployment.removal.is_some() {
        return Ok(Vec::new());
    }
    check_base(&deployment.name, Some(deployment), asked.base)?;
    Ok(vec![Event::DeploymentRemoved(DeploymentRemoved {
        deployment: deployment.id,
    })])
}

pub(crate) fn forget(fleet: &Fleet, asked: &ForgetDeployment) -> Result<Vec<Event>, Rejection> {
    let deployment = fleet.deployments().existing(asked.deployment)?;
    if deployment.removal.is_none() {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!("deployment {} is not being removed", deployment.name),
        ));
    }
    Ok(vec![Event::DeploymentForgotten(DeploymentForgotten {
        deployment: deployment.id,
    })])
}

pub(crate) fn no_name(name: &str) -> Rejection {
    Rejection::new(
        ErrorCode::DeploymentInvalid,
        format!(
            "{name:?} is no name of a deployment: 1 to 40 of a-z 0-9 - _ that starts and ends with a letter or digit"
        ),
    )
}

/// Refuses a change that does not start from what there is.
pub(crate) fn check_base(
    name: &str,
    known: Option<&Deployment>,
    base: u32,
) -> Result<(), Rejection> {
    let conflict = |why: String| {
        Err(Rejection::new(
            ErrorCode::DeploymentConflict,
            format!("deployment {name} {why}"),
        ))
    };
    let Some(known) = known else {
        return match base {
            0 => Ok(()),
            _ => conflict(format!("is not there, and revision {base} was expected")),
        };
    };
    if known.newest_number() != base {
        let newest = known.newest_number();
        return if base == 0 {
            conflict(format!("is there already, at revision {newest}"))
        } else {
            conflict(format!("is at revision {newest}, not {base}"))
        };
    }
    if known.removal.is_some() {
        return conflict("is being removed".to_owned());
    }
    match known.rollout {
        Some(rollout) => conflict(format!("has a rollout that has not ended: {rollout}")),
        None => Ok(()),
    }
}

/// Whether the deployment is what is asked for, and has got everywhere.
pub(crate) fn is_as_asked(
    fleet: &Fleet,
    known: &Deployment,
    selector: &Selector,
    digest: Digest,
) -> bool {
    let settled = known.settled == Some(known.newest_number());
    let everyone_succeeded = fleet
        .rollouts()
        .iter()
        .filter(|rollout| rollout.deployment == known.id)
        .max_by_key(|rollout| rollout.seq)
        .and_then(|rollout| rollout.course.finished.as_ref())
        .is_some_and(|end| u64::from(end.counts.succeeded) == end.counts.total());
    settled
        && everyone_succeeded
        && known
            .newest()
            .is_some_and(|newest| newest.selector == *selector && newest.digest == digest)
}

pub(crate) fn number(fleet: &Fleet, known: Option<&Deployment>) -> Result<u16, Rejection> {
    if let Some(known) = known {
        return Ok(known.number);
    }
    let deployments = fleet.deployments();
    if deployments.iter().len() >= DEPLOYMENTS_COUNT_MAX {
        return Err(full(format!(
            "the fleet has {DEPLOYMENTS_COUNT_MAX} deployments; remove some"
        )));
    }
    deployments
        .number_next()
        .ok_or_else(|| full("every number of a deployment is taken".to_owned()))
}

fn full(detail: String) -> Rejection {
    Rejection::new(ErrorCode::LimitReached, detail)
}

/// The nodes on which the caller may apply, as selectors; none for the whole fleet.
pub(crate) fn within(fleet: &Fleet, caller: &Caller) -> Result<Vec<Selector>, Rejection> {
    let permission = Permission::of("deployment", "apply");
    let reach = reach(fleet.access(), caller, &permission)
        .map_err(|denial| Rejection::new(denial.code, denial.reason))?;
    Ok(reach.selectors().cloned().collect())
}

/// The newest proven revision whose content differs from the newest one's.
fn last_proven(deployment: &Deployment) -> Result<&Revision, Rejection> {
    let newest = deployment.newest();
    deployment
        .proven
        .iter()
        .rev()
        .filter_map(|number| deployment.revisions.get(number))
        .find(|proven| {
            newest.is_none_or(|newest| {
                proven.digest != newest.digest || proven.selector != newest.selector
            })
        })
        .map(AsRef::as_ref)
        .ok_or_else(|| {
            Rejection::new(
                ErrorCode::RevisionNotFound,
                format!(
                    "deployment {} has no earlier revision that was rolled out whole; name one",
                    deployment.name
                ),
            )
        })
}

/// The revision and its rollout.
pub(crate) fn start(
    fleet: &Fleet,
    applied: DeploymentApplied,
    release: Option<String>,
    kind: Kind,
    how: &How,
    at: &Moment,
) -> Result<Decided, Rejection> {
    check_limits(fleet, &applied, &how.params)?;
    let rollout: RolloutId = at.ids.id(1);
    let plan = plan(fleet, &applied, kind, how)?;
    if kind == Kind::Forward {
        let members = plan.waves.iter().flatten();
        let nodes = members.filter_map(|member| fleet.node(member.node));
        let attempt = attempt(applied.deployment, release.as_ref());
        admit_change(fleet, attempt, nodes.map(AsRef::as_ref), at)?;
    }
    let started = RolloutStarted {
        rollout,
        deployment: applied.deployment,
        revision: applied.revision,
        kind,
        params: how.params.clone(),
        waves: plan.sizes(),
        plan_digest: plan.digest(),
    };
    let nodes = plan.waves.iter().flatten().map(|member| member.node);
    let targets = Targets {
        of: rollout.into(),
        nodes: nodes.collect(),
    };
    Ok(Decided {
        events: vec![
            match release {
                Some(version) => Event::UpdateApplied(UpdateApplied { applied, version }),
                None => Event::DeploymentApplied(applied),
            },
            Event::RolloutStarted(started),
        ],
        targets: Some(targets),
    })
}

/// Who would be in which wave.
///
/// # Errors
/// When no node is meant, or more than the parameters allow.
pub fn plan(
    fleet: &Fleet,
    applied: &DeploymentApplied,
    kind: Kind,
    how: &How,
) -> Result<Plan, Rejection> {
    let selector = &applied.selector;
    let nodes: Vec<Candidate<'_>> = candidates(fleet, selector, kind)
        .map(|node| Candidate {
            node: node.id,
            labels: &node.labels,
            present: how.present.contains(&node.id),
        })
        .collect();
    if nodes.is_empty() && how.empty == EmptyAim::Refuse {
        return Err(Rejection::new(
            ErrorCode::SelectorEmpty,
            format!(
                "selector {selector} matches no active node that is in service and whose identity is sound"
            ),
        ));
    }
    if nodes.len() > how.params.targets_max as usize {
        return Err(full(format!(
            "{} nodes are meant; the rollout is limited to {}",
            nodes.len(),
            how.params.targets_max
        )));
    }
    // Neither the name nor the number changes between a dry run and the change.
    let seed = format!("{}\0{}", applied.name, applied.revision);
    Ok(Plan::new(seed.as_bytes(), &how.params, &nodes))
}

fn check_limits(
    fleet: &Fleet,
    applied: &DeploymentApplied,
    params: &Params,
) -> Result<(), Rejection> {
    let consensus =
        |wave: &crate::domain::rollout::params::Wave| wave.approve == Approve::Consensus;
    if params.waves.iter().any(consensus) {
        return Err(Rejection::new(
            ErrorCode::ConsensusUnavailable,
            "a wave waits for the consensus of experts, and there are none",
        ));
    }
    let unknown = params.halt.iter().find_map(|rule| match &rule.on {
        HaltOn::Metric(name) if fleet.alerts().rule(name).is_none() => Some(name),
        HaltOn::Metric(_)
        | HaltOn::Any
        | HaltOn::Failed
        | HaltOn::TimedOut
        | HaltOn::Rejected
        | HaltOn::Unhealthy
        | HaltOn::WentSilent => None,
    });
    if let Some(name) = unknown {
        return Err(Rejection::new(
            ErrorCode::RolloutInvalid,
            format!("no alert rule is named {name:?}, so nodes watch no such condition"),
        ));
    }
    if fleet.rollouts().open().count() >= ROLLOUTS_OPEN_MAX {
        return Err(full(format!(
            "the fleet has {ROLLOUTS_OPEN_MAX} open rollouts; wait, or abort some"
        )));
    }
    let bytes = applied.spec.encode().len() as u64;
    if fleet.deployments().specs_bytes() + bytes > SPECS_BYTES_MAX {
        return Err(full(format!(
            "all revisions together would have more than {SPECS_BYTES_MAX} bytes; remove deployments"
        )));
    }
    Ok(())
}
