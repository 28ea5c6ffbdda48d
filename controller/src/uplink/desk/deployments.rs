//! What nodes are to have of deployments, and bringing it to them.
//!
//! Owns, for each node, its generation and the newest order for each deployment.
//! Orders are levels: what a rollout, a removal or a change of labels wants of a
//! node replaces what was wanted before, makes a generation of its own, and is
//! given to the node's session now, or whenever it says hello with a lower one.
//!
//! **Invariants.** A node's generation only rises, and no two orders have the same
//! one; a node that has obeyed a higher one than is known here, because this
//! controller was restored, is brought above it. What a session is given, it is
//! given in the order of generations. Nodes that come back behind get what they
//! miss at a bounded rate, whatever made all of them come back at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Want};
use protocol::deployment::observed::{ChangeOutcome, DeploymentResult, DeploymentState, Phase};
use protocol::down::DownBody;
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::release::Update;
use protocol::time::{UnixMillis, millis};

use super::removals::Removal;
use super::rollouts::Running;
use super::{Desk, Seen};
use crate::domain::rollout::target::TargetState;
use crate::domain::session::{Order, RunOrder};
use crate::uplink::intake::{IntakeError, StoredDesired, StoredResult, StoredRollout, StoredWant};
use crate::uplink::sink::FrameSink;

/// Nodes a second that get what they are behind with, or what no rollout brings
/// them. A thousand nodes that come back converge within twenty seconds, and what
/// they fetch then does not come all at once.
const RELEASES_PER_S: u64 = 50;

/// How often what no message tells is looked for: links that went down, removals
/// that have come to their end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The desk's memory of deployments. Rebuilt from the intake.
#[derive(Debug, Default)]
pub(super) struct Deployments {
    /// Rollouts that are carried out, or serve those who come late.
    pub(super) running: BTreeMap<RolloutId, Running>,
    wants: BTreeMap<NodeId, Wants>,
    /// Nodes whose link is up, as the rollouts were told.
    pub(super) up: BTreeSet<NodeId>,
    /// Nodes that came back behind, in the order of their hello.
    behind: VecDeque<NodeId>,
    /// Nodes whose order for a deployment is not what it should be, and which no
    /// rollout brings.
    pub(super) astray: BTreeSet<(DeploymentId, NodeId)>,
    pub(super) bucket: Bucket,
    looked_at: UnixMillis,
    /// When it was asked to forget a deployment last.
    pub(super) forget_asked: BTreeMap<DeploymentId, UnixMillis>,
    /// Removals that go through their waves.
    pub(super) removing: BTreeMap<DeploymentId, Removal>,
    /// Rollouts whose status is to be shown anew.
    pub(super) changed: BTreeSet<RolloutId>,
}

/// What one node is to have.
#[derive(Debug, Default)]
struct Wants {
    generation: u64,
    items: BTreeMap<DeploymentId, StoredDesired>,
}

/// A token bucket of one second's worth.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    permits_milli: u64,
    at: UnixMillis,
}

impl Bucket {
    pub(super) fn take(&mut self, now: UnixMillis) -> bool {
        let earned = millis(now.since(self.at)).min(1000) * RELEASES_PER_S;
        if earned > 0 {
            self.permits_milli = (self.permits_milli + earned).min(RELEASES_PER_S * 1000);
            self.at = now;
        }
        let may = self.permits_milli >= 1000;
        if may {
            self.permits_milli -= 1000;
        }
        may
    }
}

impl Deployments {
    /// The newest order of a node for a deployment.
    pub(super) fn item(&self, deployment: DeploymentId, node: NodeId) -> Option<&StoredDesired> {
        self.wants.get(&node)?.items.get(&deployment)
    }

    /// The newest orders of a node, by deployment.
    pub(super) fn items_of(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (DeploymentId, &StoredDesired)> {
        let items = self.wants.get(&node).map(|wants| &wants.items);
        items.into_iter().flatten().map(|(id, item)| (*id, item))
    }

    /// The nodes that have an order for a deployment.
    pub(super) fn nodes_of(&self, deployment: DeploymentId) -> Vec<NodeId> {
        self.wants
            .iter()
            .filter(|(_, wants)| wants.items.contains_key(&deployment))
            .map(|(node, _)| *node)
            .collect()
    }
}

impl<S: FrameSink> Desk<S> {
    /// Reads orders and rollouts from the store.
    pub(super) fn load_deployments(&mut self, now: UnixMillis) -> Result<(), IntakeError> {
        let mut deployments = Deployments::default();
        for (node, generation) in self.intake.generations()? {
            deployments.wants.entry(node).or_default().generation = generation;
        }
        for ((deployment, node), item) in self.intake.desired()? {
            let wants = deployments.wants.entry(node).or_default();
            wants.generation = wants.generation.max(item.generation);
            wants.items.insert(deployment, item);
        }
        deployments.up = self
            .seats
            .iter()
            .filter(|(_, seat)| seat.link.is_up(now))
            .map(|(node, _)| *node)
            .collect();
        deployments.looked_at = now;
        self.deployments = deployments;
        self.load_rollouts(now)?;
        self.load_service(now);
        let fleet = Arc::clone(&self.fleet);
        for known in fleet.deployments().iter() {
            if known.removal.is_some() {
                self.begin_removal(known.id);
            } else {
                self.review(known.id);
            }
        }
        for (node, seat) in &mut self.seats {
            if seat.queued {
                self.deployments.behind.push_back(*node);
            }
        }
        Ok(())
    }

    /// Gives a node a new order for a deployment.
    pub(super) fn want(
        &mut self,
        deployment: DeploymentId,
        node: NodeId,
        want: StoredWant,
        order: u32,
        now: UnixMillis,
    ) {
        let known = self.fleet.deployments().get(deployment);
        let held = self.deployments.item(deployment, node);
        let (number, name) = match (known, held) {
            (Some(known), _) => (known.number, known.name.clone()),
            (None, Some(held)) => (held.number, held.name.clone()),
            // It was forgotten while its node was away, and the node has none of it.
            (None, None) => return,
        };
        let wants = self.deployments.wants.entry(node).or_default();
        wants.generation += 1;
        let item = StoredDesired {
            generation: wants.generation,
            at: now,
            number,
            name,
            want,
            order,
        };
        self.work.batch.generations.insert(node, wants.generation);
        wants.items.insert(deployment, item.clone());
        self.work
            .batch
            .desired
            .insert((deployment, node), Some(item));
        self.carry_desired(node, now);
    }

    /// Takes up a session: what it misses, and what rollouts make of its link.
    pub(super) fn greet_deployments(&mut self, node: NodeId, held: u64, now: UnixMillis) {
        let newest = self
            .deployments
            .wants
            .get(&node)
            .map_or(0, |wants| wants.generation);
        if held > newest {
            self.overtake(node, held, now);
        }
        let behind = self
            .deployments
            .wants
            .get(&node)
            .is_some_and(|wants| wants.items.values().any(|item| item.generation > held));
        if behind && let Some(seat) = self.seats.get_mut(&node) {
            seat.queued = true;
            self.deployments.behind.push_back(node);
        }
        if self.deployments.up.insert(node) {
            self.link_changed(node, true, now);
        }
    }

    /// The node has obeyed a higher generation than is known here: everything that
    /// it is to have gets a new one.
    fn overtake(&mut self, node: NodeId, held: u64, now: UnixMillis) {
        tracing::warn!(%node, held, "a node has obeyed orders that are not known here");
        let wants = self.deployments.wants.entry(node).or_default();
        wants.generation = held;
        let mut order: Vec<(u64, DeploymentId)> = wants
            .items
            .iter()
            .map(|(deployment, item)| (item.generation, *deployment))
            .collect();
        order.sort_unstable();
        for (_, deployment) in order {
            wants.generation += 1;
            if let Some(item) = wants.items.get_mut(&deployment) {
                item.generation = wants.generation;
                item.at = now;
                self.work
                    .batch
                    .desired
                    .insert((deployment, node), Some(item.clone()));
            }
        }
        self.work.batch.generations.insert(node, wants.generation);
    }

    /// Gives a session the orders above what it was given, in their order, as far
    /// as its window has room.
    pub(super) fn carry_desired(&mut self, node: NodeId, now: UnixMillis) {
        let Some(seat) = self.seats.get(&node) else {
            return;
        };
        if seat.queued || !seat.link.has_room() || !self.may_change(node) {
            return;
        }
        let given = seat.given;
        let Some(wants) = self.deployments.wants.get(&node) else {
            return;
        };
        if wants.generation <= given {
            return;
        }
        let mut due: Vec<(DeploymentId, StoredDesired)> = wants
            .items
            .iter()
            .filter(|(_, item)| item.generation > given)
            .map(|(deployment, item)| (*deployment, item.clone()))
            .collect();
        due.sort_unstable_by_key(|(_, item)| item.generation);
        for (deployment, item) in due {
            let generation = item.generation;
            if item.want.is_forward() {
                self.work.seen.push((node, Seen::Changed));
            }
            // A revision that is kept no more cannot be sent; a newer order comes.
            let ordered = match self.order_of(deployment, item) {
                Some(order) => self.order(node, order, now),
                None => true,
            };
            if !ordered {
                return;
            }
            if let Some(seat) = self.seats.get_mut(&node) {
                seat.given = generation;
            }
        }
    }

    fn order_of(&self, deployment: DeploymentId, item: StoredDesired) -> Option<Order> {
        let StoredWant::Run {
            revision,
            rollout,
            cause,
            health,
            on_failure,
            commit,
        } = item.want
        else {
            return Some(desired(deployment, item, Want::Remove));
        };
        let known = self.fleet.deployments().get(deployment)?;
        let found = known.revisions.get(&revision)?;
        if let Some(version) = &found.release {
            let update = self.update(version, revision, rollout, cause, health)?;
            return Some(desired(deployment, item, Want::Update(Box::new(update))));
        }
        Some(Order::Run(Box::new(RunOrder {
            deployment,
            number: item.number,
            name: item.name,
            generation: item.generation,
            at: item.at,
            revision,
            spec: Arc::clone(&found.spec),
            rollout,
            cause,
            health,
            on_failure,
            commit,
        })))
    }

    /// The order of a version. One that is not kept any more cannot be sent.
    fn update(
        &self,
        version: &str,
        revision: u32,
        rollout: Option<RolloutId>,
        cause: Cause,
        health: HealthRule,
    ) -> Option<Update> {
        let releases = self.fleet.releases();
        Some(Update {
            revision,
            release: releases.get(version)?.signed.clone(),
            revoked: releases.revoked(),
            rollout,
            cause,
            health,
        })
    }

    /// Whether the node belongs, and its identity is sound.
    fn may_change(&self, node: NodeId) -> bool {
        self.fleet
            .node(node)
            .is_some_and(|record| record.is_active() && record.suspicion.is_none())
    }

    /// How a change of a deployment ended on a node.
    pub(super) fn deployment_result(
        &mut self,
        node: NodeId,
        result: DeploymentResult,
        now: UnixMillis,
    ) {
        let (deployment, generation) = (result.deployment, result.generation);
        let gone = result.outcome == ChangeOutcome::Succeeded && result.revision.is_none();
        // Going back and going away say nothing of whether changes succeed.
        let forward = self
            .deployments
            .item(deployment, node)
            .filter(|item| item.generation == generation)
            .is_some_and(|item| item.want.is_forward());
        if forward {
            let seen = Seen::Result(Box::new(result.clone()));
            self.work.seen.push((node, seen));
        }
        self.report_result(node, &result, now);
        let told = match result.outcome {
            ChangeOutcome::Reverted | ChangeOutcome::Failed | ChangeOutcome::Refused => true,
            ChangeOutcome::Succeeded | ChangeOutcome::Superseded => false,
        };
        // Why a node's change did not succeed stays, whatever it was told after it.
        if let Some(rollout) = result.rollout.filter(|_| told) {
            let stored = StoredResult {
                received_at: now,
                result,
            };
            self.work.batch.results.insert((rollout, node), stored);
        }
        if gone {
            self.is_gone(deployment, node, generation);
        }
    }

    /// How a deployment is on a node.
    pub(super) fn deployment_state(
        &mut self,
        node: NodeId,
        state: &DeploymentState,
        now: UnixMillis,
    ) {
        self.report_state(node, state, now);
        if state.phase == Phase::Removed {
            self.is_gone(state.deployment, node, state.generation);
        }
    }

    /// A node has nothing of a deployment any more. When it was to have none for
    /// good, there is nothing left to say to it.
    fn is_gone(&mut self, deployment: DeploymentId, node: NodeId, generation: u64) {
        let Some(wants) = self.deployments.wants.get_mut(&node) else {
            return;
        };
        let settled = wants.items.get(&deployment).is_some_and(|item| {
            item.generation == generation && item.want == StoredWant::Remove { rollout: None }
        });
        if settled {
            wants.items.remove(&deployment);
            self.work.batch.desired.insert((deployment, node), None);
        }
    }

    /// What the node's order for a deployment should be instead of what it is; none
    /// when it is right, or a rollout's business.
    fn correction(&self, deployment: DeploymentId, node: NodeId) -> Option<StoredWant> {
        let item = self.deployments.item(deployment, node)?;
        let known = self.fleet.deployments().get(deployment)?;
        let record = self.fleet.node(node)?;
        let remove = StoredWant::Remove { rollout: None };
        if known.removal.is_some() {
            return (item.want != remove).then_some(remove);
        }
        let StoredWant::Run {
            health, revision, ..
        } = item.want
        else {
            return None;
        };
        let last = self.last_rollout(deployment);
        let is_for = |number: u32| {
            known
                .revisions
                .get(&number)
                .is_some_and(|revision| revision.is_for(record.subject()))
        };
        let numbers = [known.settled, last.map(|(_, row)| row.revision)];
        if !numbers.into_iter().flatten().any(is_for) {
            return Some(remove);
        }
        // A rollout ended before it was whole, and this node went back by itself, or
        // never began: what it has is what it should have.
        let (rollout, row) = last?;
        let ended = row.course.finished.is_some() && !row.course.is_completed();
        let target = self.deployments.running.get(&rollout)?.machine.row(node)?;
        let went_back = matches!(target.state, TargetState::Reverted | TargetState::Refused);
        if !(ended && went_back && item.want.rollout() == Some(rollout) && revision == row.revision)
        {
            return None;
        }
        Some(match row.before {
            Some(before) => StoredWant::Run {
                revision: before,
                rollout: None,
                cause: Cause::Rollback,
                health,
                on_failure: OnFailure::Keep,
                commit: Commit::WhenHealthy,
            },
            None => remove,
        })
    }

    /// The newest rollout of a deployment that is carried out.
    pub(super) fn last_rollout(
        &self,
        deployment: DeploymentId,
    ) -> Option<(RolloutId, &StoredRollout)> {
        self.deployments
            .running
            .iter()
            .filter(|(_, running)| running.row.deployment == deployment)
            .max_by_key(|(_, running)| running.row.seq)
            .map(|(id, running)| (*id, &running.row))
    }

    /// Looks for orders of a deployment that are not what they should be.
    pub(super) fn review(&mut self, deployment: DeploymentId) {
        for node in self.deployments.nodes_of(deployment) {
            self.review_on(deployment, node);
        }
    }

    pub(super) fn review_on(&mut self, deployment: DeploymentId, node: NodeId) {
        if self.correction(deployment, node).is_some() {
            self.deployments.astray.insert((deployment, node));
        }
    }

    /// A node left the fleet: nothing is wanted of it any more.
    pub(super) fn forget_wants(&mut self, node: NodeId) {
        let Some(wants) = self.deployments.wants.get_mut(&node) else {
            return;
        };
        for deployment in std::mem::take(&mut wants.items).into_keys() {
            self.work.batch.desired.insert((deployment, node), None);
        }
    }

    /// Moves deployments on: what is due of rollouts, what waits for its turn.
    pub(super) fn run_deployments(&mut self, now: UnixMillis) {
        if now.since(self.deployments.looked_at) >= LOOK_EVERY {
            self.deployments.looked_at = now;
            self.look_at_links(now);
            self.look_at_removals(now);
            self.look_at_drains(now);
            self.look_at_windows(now);
        }
        self.tick_rollouts(now);
        self.release_behind(now);
    }

    fn release_behind(&mut self, now: UnixMillis) {
        while let Some(node) = self.deployments.behind.front().copied() {
            if !self.deployments.bucket.take(now) {
                return;
            }
            self.deployments.behind.pop_front();
            if let Some(seat) = self.seats.get_mut(&node) {
                seat.queued = false;
            }
            self.carry_desired(node, now);
        }
        while let Some((deployment, node)) = self.deployments.astray.first().copied() {
            let correction = self
                .correction(deployment, node)
                .filter(|_| self.may_change(node));
            if correction.is_some() && !self.deployments.bucket.take(now) {
                return;
            }
            self.deployments.astray.remove(&(deployment, node));
            if let Some(want) = correction {
                self.want(deployment, node, want, 0, now);
            }
        }
    }

    fn look_at_links(&mut self, now: UnixMillis) {
        let mut changed = Vec::new();
        for (node, seat) in &self.seats {
            let is_up = seat.link.is_up(now);
            if is_up != self.deployments.up.contains(node) {
                changed.push((*node, is_up));
            }
        }
        for (node, is_up) in changed {
            if is_up {
                self.deployments.up.insert(node);
            } else {
                self.deployments.up.remove(&node);
                self.work.seen.push((node, Seen::Down));
            }
            self.link_changed(node, is_up, now);
        }
    }
}

/// An order that nothing of is shared among nodes.
fn desired(deployment: DeploymentId, item: StoredDesired, want: Want) -> Order {
    Order::Other(DownBody::Desired(Box::new(Desired {
        deployment,
        number: item.number,
        name: item.name,
        generation: item.generation,
        at: item.at,
        want,
    })))
}
