//! Making an update: a deployment's revision that is a release.

use protocol::ErrorCode;
use protocol::deployment::desired::HealthRule;
use protocol::deployment::spec::{Spec, is_name};
use protocol::selector::Selector;

use crate::domain::access::caller::Caller;
use crate::domain::decide::Decided;
use crate::domain::deployment::Deployment;
use crate::domain::deployment::apply::{self, How};
use crate::domain::deployment::event::{ApplyCause, DeploymentApplied};
use crate::domain::digest::Digest;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::rejection::Rejection;
use crate::domain::rollout::event::Kind;

/// When an update has succeeded where its rollout does not say: the new version's
/// link is up for half a minute within five; a download may stand still for half an
/// hour.
pub const HEALTH: HealthRule = HealthRule {
    initial_delay_ms: 0,
    min_healthy_ms: 30_000,
    healthy_deadline_ms: 300_000,
    progress_deadline_ms: 1_800_000,
};

/// Give nodes a version of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyUpdate {
    /// The deployment's name.
    pub name: String,
    /// The newest revision that the caller knows; 0 for one that is not there yet.
    pub base: u32,
    /// The nodes that it is for.
    pub selector: Selector,
    /// The version.
    pub version: String,
    /// How it is rolled out.
    pub how: Box<How>,
}

/// The digest by which a revision with a version is known.
#[must_use]
pub fn digest(version: &str) -> Digest {
    Digest::of("flotilla update 1", &[version.as_bytes()])
}

pub(crate) fn apply(
    fleet: &Fleet,
    caller: &Caller,
    asked: &ApplyUpdate,
    at: &Moment,
) -> Result<Decided, Rejection> {
    if !is_name(&asked.name) {
        return Err(apply::no_name(&asked.name));
    }
    usable(fleet, &asked.version, at)?;
    let known = fleet.deployments().named(&asked.name).map(AsRef::as_ref);
    apply::check_base(&asked.name, known, asked.base)?;
    if let Some(known) = known.filter(|known| !known.is_of_updates()) {
        return Err(Rejection::new(
            ErrorCode::DeploymentConflict,
            format!("deployment {} is of projects, not of updates", known.name),
        ));
    }
    check_alone(fleet, known, &asked.selector)?;
    if let Some(known) = known
        && apply::is_as_asked(fleet, known, &asked.selector, digest(&asked.version))
    {
        return Ok(Decided::default());
    }
    let applied = DeploymentApplied {
        deployment: known.map_or_else(|| at.ids.id(0), |known| known.id),
        number: apply::number(fleet, known)?,
        name: asked.name.clone(),
        revision: known.map_or(0, Deployment::newest_number) + 1,
        selector: asked.selector.clone(),
        within: apply::within(fleet, caller)?,
        digest: digest(&asked.version),
        spec: Box::new(Spec::default()),
        cause: ApplyCause::Apply,
    };
    let release = Some(asked.version.clone());
    apply::start(fleet, applied, release, Kind::Forward, &asked.how, at)
}

/// Whether a release may be rolled out now.
pub(crate) fn usable(fleet: &Fleet, version: &str, at: &Moment) -> Result<(), Rejection> {
    let known = fleet.releases().existing(version)?;
    if let Some((_, reason)) = &known.revoked {
        return Err(Rejection::new(
            ErrorCode::ReleaseRevoked,
            format!("release {version} is revoked: {reason}"),
        ));
    }
    if at.now >= known.release.expires_at {
        return Err(Rejection::new(
            ErrorCode::ReleaseExpired,
            format!("release {version} expired at {}", known.release.expires_at),
        ));
    }
    Ok(())
}

/// Two updates of one node would take turns.
fn check_alone(
    fleet: &Fleet,
    known: Option<&Deployment>,
    selector: &Selector,
) -> Result<(), Rejection> {
    for other in fleet.deployments().iter().filter(|it| it.is_of_updates()) {
        if known.is_some_and(|known| known.id == other.id) || other.removal.is_some() {
            continue;
        }
        let both = fleet.nodes().filter(|node| node.is_active()).find(|node| {
            let subject = node.subject();
            selector.matches(subject) && other.newest().is_some_and(|newest| newest.is_for(subject))
        });
        if let Some(node) = both {
            return Err(Rejection::new(
                ErrorCode::DeploymentConflict,
                format!(
                    "node {} gets its version from update {} already; choose other nodes, or change that one",
                    node.name, other.name
                ),
            ));
        }
    }
    Ok(())
}
