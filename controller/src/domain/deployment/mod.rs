//! Deployments: what should run on the nodes that a selector matches.
//!
//! Owns which deployments there are, their revisions, and which revision nodes
//! have when no rollout is under way (the settled one). How a change from one
//! revision to another goes is a rollout's; what one node was told is the
//! uplink's.
//!
//! **Invariants.** A revision never changes. Names and numbers are unique among
//! the deployments that are known. What is bounded here is refused when full;
//! old revisions are forgotten instead, never one that nodes may still get.

pub mod apply;
pub mod compose;
pub mod content;
pub mod diff;
pub mod event;
pub mod rollouts;
pub mod steer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::deployment::spec::Spec;
use protocol::id::{DeploymentId, RolloutId};
use protocol::policy::Attempt;
use protocol::selector::{Selector, Subject};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::deployment::event::{ApplyCause, DeploymentApplied};
use crate::domain::deployment::rollouts::Rollout;
use crate::domain::digest::Digest;
use crate::domain::rejection::Rejection;
use crate::domain::rollout::event::RolloutStarted;

/// Revisions of one deployment that are kept. Older ones are in the journal.
pub const REVISIONS_COUNT_MAX: usize = 16;

/// Bytes of all specs of all revisions together, in normal form. They are held in
/// memory and in each snapshot: a fleet with a hundred deployments of twenty
/// revisions uses a tenth of it.
pub const SPECS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The deployment part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployments {
    known: BTreeMap<DeploymentId, Arc<Deployment>>,
    names: BTreeMap<String, DeploymentId>,
    numbers: BTreeMap<u16, DeploymentId>,
    /// The number that was given out last. Others are tried first, so that a node
    /// which comes back late does not take a new deployment for an old one.
    number_last: u16,
    specs_bytes: u64,
}

/// What should run on some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its number in the fleet.
    pub number: u16,
    /// Its name, which is in the names of containers.
    pub name: String,
    /// When it was first applied.
    pub created_at: UnixMillis,
    /// Its revisions that are kept, by number; the last one is the newest.
    pub revisions: BTreeMap<u32, Arc<Revision>>,
    /// The revision that nodes have outside of a rollout; none before the first
    /// rollout succeeded.
    pub settled: Option<u32>,
    /// Revisions that a rollout has brought to every node that could be reached.
    pub proven: BTreeSet<u32>,
    /// The rollout that is under way.
    pub rollout: Option<RolloutId>,
    /// Who asked to remove it, and when.
    pub removal: Option<(UnixMillis, Caller)>,
}

/// One state of a deployment. Never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number, from 1.
    pub number: u32,
    /// Who made it.
    pub by: Caller,
    /// When.
    pub at: UnixMillis,
    /// Whether it was new or an earlier one again.
    pub cause: ApplyCause,
    /// The nodes that it is for.
    pub selector: Selector,
    /// The nodes on which whoever applied it may. None is the whole fleet.
    pub within: Vec<Selector>,
    /// What is to run; nothing where the revision is a release.
    pub spec: Arc<Spec>,
    /// The version of the agent that the revision is, where it is one.
    pub release: Option<String>,
    /// The spec's digest.
    pub digest: Digest,
    /// Bytes of the spec in normal form.
    pub bytes: u32,
}

/// The digest by which a spec is known.
#[must_use]
pub fn spec_digest(spec: &Spec) -> Digest {
    Digest::of("flotilla spec 1", &[&spec.encode()])
}

/// What a change to a revision attempts on a node: `release` is the version that the
/// revision is, where it is one.
#[must_use]
pub fn attempt(deployment: DeploymentId, release: Option<&String>) -> Attempt<'static> {
    match release {
        Some(_) => Attempt::Update,
        None => Attempt::Deploy(deployment),
    }
}

impl Revision {
    /// Whether the revision is for a node: it matches, and whoever applied the
    /// revision may change that node.
    #[must_use]
    pub fn is_for(&self, subject: Subject<'_>) -> bool {
        self.selector.matches(subject)
            && (self.within.is_empty() || self.within.iter().any(|part| part.matches(subject)))
    }
}

impl Deployment {
    /// The newest revision; none only for a state that no journal leads to.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Revision>> {
        self.revisions.values().next_back()
    }

    /// Whether its revisions are versions of the agent.
    #[must_use]
    pub fn is_of_updates(&self) -> bool {
        self.newest().is_some_and(|newest| newest.release.is_some())
    }

    /// The newest revision's number; 0 when there is none.
    #[must_use]
    pub fn newest_number(&self) -> u32 {
        self.newest().map_or(0, |revision| revision.number)
    }

    /// The revision that nodes have outside of a rollout.
    #[must_use]
    pub fn settled(&self) -> Option<&Arc<Revision>> {
        self.revisions.get(&self.settled?)
    }

    /// A revision by number.
    ///
    /// # Errors
    /// The rejection that names it when it is not kept.
    pub fn revision(&self, number: u32) -> Result<&Arc<Revision>, Rejection> {
        self.revisions.get(&number).ok_or_else(|| {
            Rejection::new(
                ErrorCode::RevisionNotFound,
                format!(
                    "deployment {} has no revision {number}, or keeps it no more",
                    self.name
                ),
            )
        })
    }
}

impl Deployments {
    /// A deployment by id.
    #[must_use]
    pub fn get(&self, id: DeploymentId) -> Option<&Arc<Deployment>> {
        self.known.get(&id)
    }

    /// A deployment by name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Deployment>> {
        self.known.get(self.names.get(name)?)
    }

    /// Every deployment, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Deployment>> {
        self.known.values()
    }

    /// Every deployment, by name.
    pub fn by_name(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.names.values().filter_map(|id| self.known.get(id))
    }

    /// A deployment by id.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, id: DeploymentId) -> Result<&Arc<Deployment>, Rejection> {
        self.known.get(&id).ok_or_else(|| {
            Rejection::new(
                ErrorCode::DeploymentNotFound,
                format!("there is no deployment {id}"),
            )
        })
    }

    /// The number for the next deployment; none when all are taken.
    pub(crate) fn number_next(&self) -> Option<u16> {
        (1..=u16::MAX)
            .map(|step| self.number_last.wrapping_add(step))
            .find(|number| {
                // Keys of states are 16 bits, and the ones below belong to others.
                usize::from(*number) < NUMBERS && !self.numbers.contains_key(number)
            })
    }

    /// Bytes of all specs that are kept.
    pub(crate) fn specs_bytes(&self) -> u64 {
        self.specs_bytes
    }

    /// A deployment got a revision: a project, or a release.
    pub(crate) fn applied(
        &mut self,
        event: &DeploymentApplied,
        release: Option<String>,
        record: &Record,
    ) {
        let bytes = u32::try_from(event.spec.encode().len()).unwrap_or(u32::MAX);
        let revision = Revision {
            number: event.revision,
            by: record.by,
            at: record.at,
            cause: event.cause,
            selector: event.selector.clone(),
            within: event.within.clone(),
            spec: Arc::new(event.spec.as_ref().clone()),
            release,
            digest: event.digest,
            bytes,
        };
        let deployment = self.known.entry(event.deployment).or_insert_with(|| {
            Arc::new(Deployment {
                id: event.deployment,
                number: event.number,
                name: event.name.clone(),
                created_at: record.at,
                revisions: BTreeMap::new(),
                settled: None,
                proven: BTreeSet::new(),
                rollout: None,
                removal: None,
            })
        });
        self.names.insert(event.name.clone(), event.deployment);
        self.numbers.insert(event.number, event.deployment);
        self.number_last = event.number;
        self.specs_bytes += u64::from(bytes);
        let deployment = Arc::make_mut(deployment);
        deployment
            .revisions
            .insert(event.revision, Arc::new(revision));
        while deployment.revisions.len() > REVISIONS_COUNT_MAX {
            // The one before it is what its rollout goes back to: the settled one.
            let kept = [deployment.settled, Some(event.revision)];
            let oldest = deployment
                .revisions
                .keys()
                .copied()
                .find(|number| !kept.contains(&Some(*number)));
            let Some(forgotten) = oldest.and_then(|number| deployment.revisions.remove(&number))
            else {
                return;
            };
            deployment.proven.remove(&forgotten.number);
            self.specs_bytes = self.specs_bytes.saturating_sub(u64::from(forgotten.bytes));
        }
    }

    /// A rollout of a deployment began. Returns its name and the revision that nodes
    /// go back to.
    pub(crate) fn rollout_started(&mut self, event: &RolloutStarted) -> (String, Option<u32>) {
        let mut found = (String::new(), None);
        self.change(event.deployment, |deployment| {
            deployment.rollout = Some(event.rollout);
            found = (deployment.name.clone(), deployment.settled);
        });
        found
    }

    /// A rollout of a deployment ended.
    pub(crate) fn rollout_ended(&mut self, rollout: &Rollout) {
        self.change(rollout.deployment, |deployment| {
            if deployment.rollout == Some(rollout.id) {
                deployment.rollout = None;
            }
            if rollout.course.is_completed() {
                deployment.settled = Some(rollout.revision);
                deployment.proven.insert(rollout.revision);
            }
        });
    }

    /// Someone asked to remove a deployment.
    pub(crate) fn removed(&mut self, id: DeploymentId, record: &Record) {
        self.change(id, |deployment| {
            deployment.removal = Some((record.at, record.by));
        });
    }

    /// A removed deployment is known no more.
    pub(crate) fn forgotten(&mut self, id: DeploymentId) {
        let Some(deployment) = self.known.remove(&id) else {
            return;
        };
        self.names.remove(&deployment.name);
        self.numbers.remove(&deployment.number);
        let bytes: u64 = deployment
            .revisions
            .values()
            .map(|revision| u64::from(revision.bytes))
            .sum();
        self.specs_bytes = self.specs_bytes.saturating_sub(bytes);
    }

    /// Changes a deployment that is known.
    pub(crate) fn change(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        if let Some(deployment) = self.known.get_mut(&id) {
            change(Arc::make_mut(deployment));
        }
    }
}

/// Numbers that deployments may have: what is left above the first key of their
/// states.
const NUMBERS: usize =
    (u16::MAX - protocol::deployment::observed::DeploymentState::KEY_FIRST) as usize;

#[cfg(test)]
mod tests;
