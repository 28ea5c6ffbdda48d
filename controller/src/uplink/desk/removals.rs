//! Removals as the desk carries them out: a deployment goes from the fleet in
//! waves, as a revision comes to it.
//!
//! The waves are those of a rollout with default parameters, over the nodes that
//! have it. One begins when those of the wave before that are there have removed
//! it, or have had their time: a node that cannot is shown as such, and keeps it on
//! no other. Nothing of this is stored: after a restart the waves are made anew
//! over the nodes that are left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeploymentId, NodeId};
use protocol::time::UnixMillis;

use super::{Desk, DeskEvent};
use crate::domain::deployment::Deployment;
use crate::domain::rollout::params::Params;
use crate::domain::rollout::plan::{Candidate, Plan};
use crate::uplink::sink::FrameSink;

/// How often it is asked again to forget a deployment, and how long a removal
/// waits for nodes at least.
const FORGET_AGAIN: Duration = Duration::from_secs(15);

/// How long a wave holds up the next one: longer than stopping containers takes.
const WAVE_MAX: Duration = Duration::from_secs(300);

/// The waves of one removal.
#[derive(Debug, Default)]
pub(super) struct Removal {
    /// The wave that began last.
    going: Vec<NodeId>,
    begun_at: UnixMillis,
    /// Those that have not begun.
    waves: VecDeque<Vec<NodeId>>,
}

impl<S: FrameSink> Desk<S> {
    /// Plans the removal of a deployment from the nodes that have it.
    pub(super) fn begin_removal(&mut self, deployment: DeploymentId) {
        let fleet = Arc::clone(&self.fleet);
        let nodes = self.deployments.nodes_of(deployment);
        let candidates: Vec<Candidate<'_>> = nodes
            .into_iter()
            .filter_map(|node| fleet.node(node))
            .map(|node| Candidate {
                node: node.id,
                labels: &node.labels,
                present: self.deployments.up.contains(&node.id),
            })
            .collect();
        // A removal is no rollout; its deployment's id orders its nodes as well.
        let plan = Plan::new(deployment.as_bytes(), &Params::default(), &candidates);
        let waves = plan.waves.iter();
        let removal = Removal {
            waves: waves
                .map(|wave| wave.iter().map(|planned| planned.node).collect())
                .collect(),
            ..Removal::default()
        };
        self.deployments.removing.insert(deployment, removal);
    }

    /// Begins the next wave when it may.
    fn advance_removal(&mut self, deployment: DeploymentId, now: UnixMillis) {
        let deployments = &mut self.deployments;
        let Some(removal) = deployments.removing.get(&deployment) else {
            return;
        };
        let waits = removal.going.iter().any(|node| {
            deployments.up.contains(node) && deployments.item(deployment, *node).is_some()
        });
        if waits && now.since(removal.begun_at) < WAVE_MAX {
            return;
        }
        let Some(removal) = deployments.removing.get_mut(&deployment) else {
            return;
        };
        let Some(next) = removal.waves.pop_front() else {
            return;
        };
        removal.going.clone_from(&next);
        removal.begun_at = now;
        for node in next {
            self.review_on(deployment, node);
        }
    }

    /// Moves removals on, and has those forgotten that have come to their end.
    pub(super) fn look_at_removals(&mut self, now: UnixMillis) {
        let removed: Vec<Arc<Deployment>> = self
            .fleet
            .deployments()
            .iter()
            .filter(|known| known.removal.is_some())
            .map(Arc::clone)
            .collect();
        for known in removed {
            let Some((asked_at, _)) = known.removal else {
                continue;
            };
            self.advance_removal(known.id, now);
            let since = self
                .deployments
                .forget_asked
                .get(&known.id)
                .copied()
                .unwrap_or(asked_at);
            if !self.removes(known.id) && now.since(since) >= FORGET_AGAIN {
                self.deployments.forget_asked.insert(known.id, now);
                self.work.events.push(DeskEvent::Gone(known.id));
            }
        }
        let fleet = Arc::clone(&self.fleet);
        let is_known = |id: &DeploymentId| fleet.deployments().get(*id).is_some();
        self.deployments.forget_asked.retain(|id, _| is_known(id));
        self.deployments.removing.retain(|id, _| is_known(id));
    }

    /// Whether nodes that are there, or were not told yet, still have it.
    fn removes(&self, deployment: DeploymentId) -> bool {
        let deployments = &self.deployments;
        let removal = deployments.removing.get(&deployment);
        removal.is_some_and(|removal| !removal.waves.is_empty())
            || deployments.nodes_of(deployment).into_iter().any(|node| {
                deployments.up.contains(&node) || deployments.astray.contains(&(deployment, node))
            })
    }
}
