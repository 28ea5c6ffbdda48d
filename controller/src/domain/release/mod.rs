//! Releases of the agent that the controller keeps, and updates to them.
//!
//! A release comes signed from outside; whoever holds the controller cannot make one.
//! An update is a deployment whose revisions name a release in place of a project:
//! [`update`] makes one, and everything else of it is a deployment's.
//!
//! **Invariant:** a version means one manifest for ever. A revoked release is not
//! rolled out any more, and rollouts to it that are open are aborted with its
//! revocation, in one record.

pub mod event;
pub mod update;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::release::{REVOKED_COUNT_MAX, Release, SignedRelease, version};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::NODE_TEXT_BYTES_MAX;
use crate::domain::rejection::{Rejection, cut};
use crate::domain::rollout::event::{AfterAbort, Decision, RolloutAborted};
use event::{ReleaseAdded, ReleaseRemoved, ReleaseRevoked};

/// Releases that are kept; their archives take some ten megabytes each.
pub const RELEASES_COUNT_MAX: usize = 64;

/// The releases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    known: BTreeMap<String, Arc<Known>>,
}

/// A release that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it is.
    pub release: Release,
    /// As it was signed.
    pub signed: SignedRelease,
    /// When it was added.
    pub added_at: UnixMillis,
    /// By whom.
    pub added_by: Caller,
    /// When and why it was revoked.
    pub revoked: Option<(UnixMillis, String)>,
}

/// Keep a release. Its signature was checked by the trust set in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddRelease {
    /// What it is.
    pub release: Box<Release>,
    /// As it was signed.
    pub signed: SignedRelease,
}

/// Never roll a release out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRelease {
    /// Its version.
    pub version: String,
    /// Why.
    pub reason: String,
}

/// Keep a release no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveRelease {
    /// Its version.
    pub version: String,
}

impl Releases {
    /// A release by version.
    #[must_use]
    pub fn get(&self, version: &str) -> Option<&Arc<Known>> {
        self.known.get(version)
    }

    /// A release by version.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, version: &str) -> Result<&Arc<Known>, Rejection> {
        self.known.get(version).ok_or_else(|| {
            Rejection::new(
                ErrorCode::ReleaseNotFound,
                format!("there is no release {version:?}"),
            )
        })
    }

    /// Every release, the newest version first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<&Arc<Known>> {
        let mut all: Vec<_> = self.known.values().collect();
        all.sort_by_key(|known| std::cmp::Reverse(version(&known.release.version).ok()));
        all
    }

    /// Versions that are revoked, the newest ones, as many as an order carries.
    #[must_use]
    pub fn revoked(&self) -> Vec<String> {
        self.newest_first()
            .into_iter()
            .filter(|known| known.revoked.is_some())
            .map(|known| known.release.version.clone())
            .take(REVOKED_COUNT_MAX)
            .collect()
    }

    pub(crate) fn apply(&mut self, record: &Record) {
        if let Event::ReleaseAdded(event) = &record.event {
            let known = Known {
                release: event.release.as_ref().clone(),
                signed: event.signed.clone(),
                added_at: record.at,
                added_by: record.by,
                revoked: None,
            };
            let version = event.release.version.clone();
            self.known.insert(version, Arc::new(known));
        } else if let Event::ReleaseRevoked(event) = &record.event {
            if let Some(known) = self.known.get_mut(&event.version) {
                Arc::make_mut(known).revoked = Some((record.at, event.reason.clone()));
            }
        } else if let Event::ReleaseRemoved(event) = &record.event {
            self.known.remove(&event.version);
        }
    }
}

pub(crate) fn add(fleet: &Fleet, asked: &AddRelease) -> Result<Vec<Event>, Rejection> {
    let releases = fleet.releases();
    let version = &asked.release.version;
    if let Some(known) = releases.get(version) {
        if known.revoked.is_some() {
            return Err(Rejection::new(
                ErrorCode::ReleaseRevoked,
                format!("release {version} was revoked"),
            ));
        }
        if known.signed.bytes == asked.signed.bytes {
            return Ok(Vec::new());
        }
        return Err(Rejection::new(
            ErrorCode::ReleaseConflict,
            format!("there is another release {version}; a version is given once"),
        ));
    }
    if releases.known.len() >= RELEASES_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("there are {RELEASES_COUNT_MAX} releases; remove some"),
        ));
    }
    Ok(vec![Event::ReleaseAdded(ReleaseAdded {
        release: asked.release.clone(),
        signed: asked.signed.clone(),
    })])
}

pub(crate) fn revoke(fleet: &Fleet, asked: &RevokeRelease) -> Result<Vec<Event>, Rejection> {
    let known = fleet.releases().existing(&asked.version)?;
    if known.revoked.is_some() {
        return Ok(Vec::new());
    }
    let reason = cut(asked.reason.clone(), NODE_TEXT_BYTES_MAX);
    let mut events = vec![Event::ReleaseRevoked(ReleaseRevoked {
        version: asked.version.clone(),
        reason: reason.clone(),
    })];
    for rollout in fleet.rollouts().open() {
        let to_it = fleet
            .deployments()
            .get(rollout.deployment)
            .and_then(|known| known.revisions.get(&rollout.revision))
            .is_some_and(|revision| revision.release.as_ref() == Some(&asked.version));
        let decision = Decision::Aborted(RolloutAborted {
            rollout: rollout.id,
            step: rollout.course.step,
            reason: format!("release {} was revoked: {reason}", asked.version),
            then: AfterAbort::Revert,
        });
        // One that is being aborted already goes on with that.
        if to_it && rollout.course.check(&decision).is_ok() {
            events.push(decision.into());
        }
    }
    Ok(events)
}

pub(crate) fn remove(fleet: &Fleet, asked: &RemoveRelease) -> Result<Vec<Event>, Rejection> {
    fleet.releases().existing(&asked.version)?;
    let user = fleet.deployments().iter().find(|known| {
        let mut revisions = known.revisions.values();
        revisions.any(|revision| revision.release.as_ref() == Some(&asked.version))
    });
    if let Some(user) = user {
        return Err(Rejection::new(
            ErrorCode::ReleaseConflict,
            format!(
                "release {} is in a revision of {} that is kept",
                asked.version, user.name
            ),
        ));
    }
    Ok(vec![Event::ReleaseRemoved(ReleaseRemoved {
        version: asked.version.clone(),
    })])
}
