//! Nodes that are out of service, or outside of their maintenance windows, as the
//! desk carries it out.
//!
//! Tells rollouts which of their targets are told nothing for now, and takes the
//! workloads of drained nodes away: each deployment by an order of its own, at the
//! pace of what waits for its turn and within the disruption budget of the rollout
//! that governs it. A drained node counts as unavailable there until it is put into
//! service again, so draining several nodes at once stops at the budget by itself.
//!
//! **Invariants.** Only starts are held back: a change that is under way ends before
//! it is drained, and what stops, goes back or goes away passes. A drain that cannot
//! end says so: what it waits for is shown, and where no budget will ever let it
//! through it ends as forbidden.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::command::Command;
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::time::UnixMillis;

use super::{Desk, DeskEvent};
use crate::domain::command::Hours;
use crate::domain::fleet::cordon::{DrainOutcome, EndDrain};
use crate::domain::fleet::node::Node;
use crate::domain::rollout::budget::Group;
use crate::domain::rollout::event::Kind;
use crate::domain::rollout::machine::Input;
use crate::domain::rollout::target::{TargetState, Withheld};
use crate::domain::window::Work;
use crate::uplink::board::DrainStatus;
use crate::uplink::desk::rollouts::Running;
use crate::uplink::intake::StoredWant;
use crate::uplink::sink::FrameSink;

/// How often the end of a drain is asked for until the journal has it.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Targets of a rollout that are looked at for the window that opens first.
const WAITS_COUNT_MAX: usize = 1000;

/// The desk's memory of nodes that are drained. Rebuilt from the fleet's state.
#[derive(Debug, Default)]
pub(super) struct Service {
    draining: BTreeSet<NodeId>,
    /// When the end of a drain was asked for last.
    asked: BTreeMap<NodeId, UnixMillis>,
    shown: BTreeMap<NodeId, DrainStatus>,
    is_new: bool,
    /// When a maintenance window opens or shuts next.
    edge_at: Option<UnixMillis>,
}

/// What stands against taking a deployment from a node.
enum Hindrance {
    /// It passes.
    ForNow(String),
    /// It does not.
    ForEver,
}

impl Service {
    /// What drained nodes still have, when that has changed since the last call.
    pub(super) fn take_shown(&mut self) -> Option<BTreeMap<NodeId, DrainStatus>> {
        std::mem::take(&mut self.is_new).then(|| self.shown.clone())
    }

    fn show(&mut self, shown: BTreeMap<NodeId, DrainStatus>) {
        if self.shown != shown {
            self.shown = shown;
            self.is_new = true;
        }
    }
}

impl<S: FrameSink> Desk<S> {
    /// Takes up what the fleet says of nodes, before any rollout is stepped.
    pub(super) fn load_service(&mut self, now: UnixMillis) {
        let draining = self.fleet.nodes().filter(|node| {
            let cordon = node.cordon.as_ref().filter(|_| node.is_active());
            cordon.is_some_and(|cordon| cordon.draining().is_some())
        });
        self.service.draining = draining.map(|node| node.id).collect();
        let rollouts: Vec<RolloutId> = self.deployments.running.keys().copied().collect();
        for id in rollouts {
            self.withhold_all(id, now);
        }
        self.service.edge_at = self.fleet.windows().next_edge(now);
    }

    /// Maintenance windows changed: everyone is looked at anew.
    pub(super) fn windows_changed(&mut self) {
        self.service.edge_at = Some(UnixMillis(0));
    }

    /// Looks anew at what waits for maintenance windows when one opens or shuts.
    pub(super) fn look_at_windows(&mut self, now: UnixMillis) {
        if self.service.edge_at.is_none_or(|at| at > now) {
            return;
        }
        self.service.edge_at = self.fleet.windows().next_edge(now);
        let rollouts: Vec<RolloutId> = self.deployments.running.keys().copied().collect();
        for id in rollouts {
            self.withhold_all(id, now);
            self.deployments.changed.insert(id);
            self.step(id, Input::Tick, now);
        }
        for (node, seat) in &self.seats {
            if seat.link.is_up(now) {
                self.dispatch.online(*node);
            }
        }
    }

    /// What a rollout waits for whose nodes are outside of their windows: of the first
    /// ones the window that opens first.
    pub(super) fn first_window(&self, running: &Running, now: UnixMillis) -> String {
        let work = self.fleet.work_of(running.row.deployment);
        let machine = &running.machine;
        let windowed = machine
            .rows()
            .filter(|(_, row)| row.state == TargetState::Windowed);
        let waits = windowed.take(WAITS_COUNT_MAX).filter_map(|(node, _)| {
            let record = self.fleet.node(node)?;
            let windows = self.fleet.windows();
            windows.wait(record.subject(), work, now)
        });
        waits
            .min_by_key(|wait| wait.until)
            .map_or_else(String::new, |wait| wait.to_string())
    }

    /// Whether a command may begin on a node as far as maintenance windows go.
    pub(super) fn is_in_hours(&self, node: &Node, command: &Command, now: UnixMillis) -> bool {
        let known = self.fleet.commands().get(command.id);
        let any = known.is_some_and(|known| known.hours == Hours::Any);
        let work = Work::Command(&command.action);
        any || self
            .fleet
            .windows()
            .wait(node.subject(), work, now)
            .is_none()
    }

    /// Why a rollout may tell a node nothing for now. A node that is cordoned and has
    /// the deployment may still be taken back; one that is drained gets nothing.
    pub(super) fn withheld(
        &self,
        id: RolloutId,
        node: NodeId,
        now: UnixMillis,
    ) -> Option<Withheld> {
        let running = self.deployments.running.get(&id)?;
        let record = self.fleet.node(node)?;
        if record.cordon.is_none() {
            // A rollback passes; what is served after its end begins like any other.
            let course = &running.row.course;
            let forward = course.kind == Kind::Forward || course.is_completed();
            let windows = self.fleet.windows();
            let work = self.fleet.work_of(running.row.deployment);
            let waits = forward && windows.wait(record.subject(), work, now).is_some();
            return waits.then_some(Withheld::Windowed);
        }
        let goes_back = running.row.course.kind == Kind::Rollback && !record.is_drained();
        let has = self
            .deployments
            .item(running.row.deployment, node)
            .is_some_and(|item| item.want.revision().is_some());
        (!(goes_back && has)).then_some(Withheld::Cordoned)
    }

    /// Notes for every target of a rollout whether it may be told.
    pub(super) fn withhold_all(&mut self, id: RolloutId, now: UnixMillis) {
        let Some(running) = self.deployments.running.get(&id) else {
            return;
        };
        let nodes: Vec<NodeId> = running.machine.rows().map(|(node, _)| node).collect();
        let noted: Vec<(NodeId, Option<Withheld>)> = nodes
            .into_iter()
            .map(|node| (node, self.withheld(id, node, now)))
            .collect();
        if let Some(running) = self.deployments.running.get_mut(&id) {
            for (node, by) in noted {
                running.machine.withhold(node, by, now);
            }
        }
    }

    /// Nodes were taken out of service, or put into it: rollouts are told.
    pub(super) fn set_aside(&mut self, nodes: &BTreeSet<NodeId>, now: UnixMillis) {
        for node in nodes {
            for id in self.rollouts_of(*node, |_| true) {
                let by = self.withheld(id, *node, now);
                self.step(id, Input::Withheld { node: *node, by }, now);
            }
        }
    }

    /// Nodes are to be drained.
    pub(super) fn begin_drains(&mut self, nodes: &BTreeSet<NodeId>) {
        self.service.draining.extend(nodes);
    }

    /// Moves drains on.
    pub(super) fn look_at_drains(&mut self, now: UnixMillis) {
        let fleet = Arc::clone(&self.fleet);
        let mut shown = BTreeMap::new();
        for node in self.service.draining.clone() {
            let record = fleet.node(node).filter(|record| record.is_active());
            let cordon = record.and_then(|record| record.cordon.as_ref());
            let Some(drain) = cordon.and_then(|cordon| cordon.draining()) else {
                self.service.draining.remove(&node);
                self.service.asked.remove(&node);
                continue;
            };
            let (left, forbidden) = self.drain(node, now);
            let how = if left.is_empty() {
                Some(DrainOutcome::Drained)
            } else if forbidden == left.len() {
                Some(DrainOutcome::Forbidden)
            } else {
                (now >= drain.until).then_some(DrainOutcome::TimedOut)
            };
            if let Some(how) = how {
                let left = u32::try_from(left.len()).unwrap_or(u32::MAX);
                self.ask_end(EndDrain { node, how, left }, now);
            }
            shown.insert(node, DrainStatus { left });
        }
        self.service.show(shown);
    }

    fn ask_end(&mut self, end: EndDrain, now: UnixMillis) {
        let asked = self.service.asked.get(&end.node);
        if asked.is_none_or(|at| now.since(*at) >= ASK_AGAIN) {
            self.service.asked.insert(end.node, now);
            self.work.events.push(DeskEvent::DrainOver(end));
        }
    }

    /// Takes away what may be taken away of a node. Returns the names of what is left
    /// with what each waits for, and how many of them will never go.
    fn drain(&mut self, node: NodeId, now: UnixMillis) -> (BTreeMap<String, String>, usize) {
        let items: Vec<(DeploymentId, String, bool)> = self
            .deployments
            .items_of(node)
            .map(|(deployment, item)| {
                let goes = item.want == StoredWant::Remove { rollout: None };
                (deployment, item.name.clone(), goes)
            })
            .collect();
        let is_up = self.deployments.up.contains(&node);
        let leaving = if is_up {
            "it is being taken away"
        } else {
            "the node is away"
        };
        let mut forbidden = 0;
        let mut left = BTreeMap::new();
        for (deployment, name, goes) in items {
            let hindrance = if goes {
                None
            } else {
                self.hindrance(deployment, node)
            };
            let waits_for = match hindrance {
                Some(Hindrance::ForNow(why)) => why,
                Some(Hindrance::ForEver) => {
                    forbidden += 1;
                    "its disruption budget allows no node to be without it".to_owned()
                }
                None if goes => leaving.to_owned(),
                None if self.deployments.bucket.take(now) => {
                    self.take_away(deployment, node, now);
                    leaving.to_owned()
                }
                None => "its turn".to_owned(),
            };
            left.insert(name, waits_for);
        }
        (left, forbidden)
    }

    /// What stands against taking a deployment from a node now.
    fn hindrance(&self, deployment: DeploymentId, node: NodeId) -> Option<Hindrance> {
        let (row, machine) = self
            .deployments
            .running
            .values()
            .filter(|running| running.row.deployment == deployment)
            .filter_map(|running| {
                let target = running.machine.row(node)?;
                let takes_part = target.state != TargetState::Skipped;
                takes_part.then_some((running.row.seq, target, &running.machine))
            })
            .max_by_key(|(seq, _, _)| *seq)
            .map(|(_, target, machine)| (target, machine))?;
        if row.state.is_in_flight() {
            return Some(Hindrance::ForNow("a change is under way".to_owned()));
        }
        if machine.admits_drain(node) {
            return None;
        }
        let group = machine.groups().get(&row.group);
        let calm = Group {
            disrupted: 0,
            ..group
        };
        if !calm.admits(&machine.course().params.budget) {
            return Some(Hindrance::ForEver);
        }
        Some(Hindrance::ForNow(format!(
            "its disruption budget: {} of {} nodes are unavailable{}{}",
            group.disrupted,
            group.size,
            if row.group.is_empty() { "" } else { " in " },
            row.group
        )))
    }

    fn take_away(&mut self, deployment: DeploymentId, node: NodeId, now: UnixMillis) {
        for id in self.rollouts_of(node, |_| true) {
            let concerned = self
                .deployments
                .running
                .get(&id)
                .is_some_and(|running| running.row.deployment == deployment);
            if concerned {
                self.step(id, Input::Drained(node), now);
            }
        }
        let remove = StoredWant::Remove { rollout: None };
        self.want(deployment, node, remove, 0, now);
    }
}
