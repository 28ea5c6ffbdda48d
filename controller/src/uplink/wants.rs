//! Which contents and archives a node may fetch: those that an order to it names.
//!
//! A node that goes back to the revision before needs that one's files again, so
//! the revisions that its deployment goes back to count as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::id::NodeId;
use tokio::sync::watch;

use crate::domain::deployment::{Deployment, Revision};
use crate::domain::fleet::Fleet;
use crate::fetch::Wants;
use crate::uplink::Uplink;

/// What was ordered, for those who hand contents out.
pub struct Ordered {
    fleet: watch::Receiver<Arc<Fleet>>,
    uplink: Uplink,
}

impl Ordered {
    /// What the uplink has ordered of the nodes of this fleet.
    #[must_use]
    pub fn new(fleet: watch::Receiver<Arc<Fleet>>, uplink: Uplink) -> Self {
        Self { fleet, uplink }
    }

    /// Whether an order to the node names something by this test of its revision.
    fn names(&self, node: NodeId, names: impl Fn(&Fleet, &Revision) -> bool) -> bool {
        let fleet = Arc::clone(&self.fleet.borrow());
        fleet.deployments().iter().any(|known| {
            let naming: BTreeSet<u32> = known
                .revisions
                .values()
                .filter(|revision| names(&fleet, revision))
                .map(|revision| revision.number)
                .collect();
            !naming.is_empty() && !naming.is_disjoint(&self.revisions(&fleet, known, node))
        })
    }

    /// The revisions of a deployment that the node was told to run, or may go back
    /// to. What cannot be read is not handed out: the node asks again.
    fn revisions(&self, fleet: &Fleet, known: &Deployment, node: NodeId) -> BTreeSet<u32> {
        let order = self.uplink.desired_on(known.id, node).ok().flatten();
        let Some(order) = order else {
            return BTreeSet::new();
        };
        let before = order
            .want
            .rollout()
            .and_then(|rollout| fleet.rollouts().get(rollout))
            .and_then(|rollout| rollout.before);
        match order.want.revision() {
            Some(revision) => [Some(revision), known.settled, before]
                .into_iter()
                .flatten()
                .collect(),
            None => BTreeSet::new(),
        }
    }
}

impl Wants for Ordered {
    fn file(&self, node: NodeId, digest: &str) -> bool {
        self.names(node, |_, revision| {
            revision
                .spec
                .files
                .values()
                .any(|file| file.digest == digest)
        })
    }

    fn archive(&self, node: NodeId, digest: &str) -> bool {
        self.names(node, |_, revision| {
            let mut images = revision
                .spec
                .services
                .values()
                .map(|service| &service.image);
            images.any(|image| image.archive.as_deref() == Some(digest))
        })
    }

    fn release(&self, node: NodeId, sha256: &str) -> bool {
        self.names(node, |fleet, revision| {
            let version = revision.release.as_deref();
            let known = version.and_then(|version| fleet.releases().get(version));
            known.is_some_and(|known| {
                let mut archives = known.release.archives.iter();
                known.revoked.is_none() && archives.any(|archive| archive.sha256 == sha256)
            })
        })
    }
}
