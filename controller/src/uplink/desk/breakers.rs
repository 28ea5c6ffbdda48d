//! Breakers as the desk runs them, and the policy that it brings to nodes.
//!
//! What nodes report is told to the [`Watchman`] once it is durable, so that an
//! entry that comes again is not counted twice. The moves that it asks for go to
//! the engine as [`DeskEvent::Moved`]; the record that comes back changes what
//! rollouts and nodes are told.
//!
//! A new policy is published once to all, which is fast, and given to each session
//! as a numbered order at its hello or next heartbeat, which is sure. A node takes
//! whichever comes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::breaker::BreakerState;
use protocol::command::{Action, Outcome};
use protocol::condition::Crossing;
use protocol::deployment::observed::{DeploymentResult, DeploymentState};
use protocol::down::DownBody;
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::key::KeyId;
use protocol::policy::{Attempt, SignedPolicy, Standing};
use protocol::time::UnixMillis;

use super::rollouts::Running;
use super::{Answer, Desk, DeskEvent};
use crate::domain::breaker::Cell;
use crate::domain::breaker::definition::{Group, OnTrip};
use crate::domain::breaker::event::BreakerMoved;
use crate::domain::breaker::watchman::{Field, Watchman, covers_rollout};
use crate::domain::rollout::event::{AfterAbort, Decision, Kind, RolloutAborted};
use crate::domain::rollout::machine::{BreakerAction, Input};
use crate::domain::rollout::target::TargetState;
use crate::domain::session::Order;
use crate::uplink::sink::FrameSink;

/// How often time is told to breakers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often what is still not recorded is asked again: ends of overrides, aborts.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Moves by the states' names, since the start.
pub type Transitions = BTreeMap<(&'static str, &'static str), u64>;

/// What the desk has to do with breakers. Rebuilt from the fleet's state.
#[derive(Debug, Default)]
pub(super) struct Guard {
    watchman: Watchman,
    looked_at: UnixMillis,
    asked_at: UnixMillis,
    /// Rollouts are to be told anew which breakers hold them.
    tell: bool,
    signed: Option<(u64, KeyId, SignedPolicy)>,
}

/// What a breaker wants of a rollout that it covers.
#[derive(Debug)]
struct Hold {
    action: OnTrip,
    at: UnixMillis,
    passing: BTreeSet<NodeId>,
}

/// Something that a node reported, to be told once it is durable.
#[derive(Debug)]
pub(super) enum Seen {
    Changed,
    Down,
    Result(Box<DeploymentResult>),
    State(Box<DeploymentState>),
    Receipt(Action, Outcome),
    Crossed(Crossing),
}

impl<S: FrameSink> Desk<S> {
    /// Takes up what is recorded of breakers.
    pub(super) fn load_breakers(&mut self) {
        self.guard.watchman.follow(self.fleet.breakers());
        self.guard.tell = true;
    }

    /// A breaker moved, and it is recorded.
    pub(super) fn breaker_moved(&mut self, event: &BreakerMoved) {
        let transition = &event.transition;
        let names = (transition.from.name(), transition.to.name());
        *self.stats.breaker_transitions.entry(names).or_default() += 1;
        tracing::info!(
            breaker = event.breaker,
            group = %event.group,
            from = names.0,
            to = names.1,
            reason = %transition.reason,
            "a breaker moved"
        );
        self.load_breakers();
    }

    /// The policy has a new number: everyone is told.
    pub(super) fn publish_policy(&mut self) {
        if let Some(signed) = self.signed_policy() {
            self.work.answers.push(Answer::Policy(signed));
        }
    }

    /// The policy as it was published last, signed; none before the first.
    fn signed_policy(&mut self) -> Option<SignedPolicy> {
        let epoch = self.fleet.breakers().published().epoch;
        if epoch == 0 {
            return None;
        }
        let key = self.key.public().id();
        if let Some((_, _, signed)) = self
            .guard
            .signed
            .as_ref()
            .filter(|(held, by, _)| (*held, *by) == (epoch, key))
        {
            return Some(signed.clone());
        }
        let policy = self.fleet.breakers().policy(self.fleet.id());
        if let Err(error) = policy.check() {
            // The parts are bounded so that this cannot be.
            tracing::error!(epoch, %error, "the policy cannot be published");
            return None;
        }
        let signed = policy.sign(&self.key);
        self.guard.signed = Some((epoch, key, signed.clone()));
        Some(signed)
    }

    /// Takes up a session: a policy that it lacks, or one that is not known here.
    pub(super) fn greet_policy(&mut self, node: NodeId, held: u64, now: UnixMillis) {
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        seat.policy = held;
        let epoch = self.fleet.breakers().published().epoch;
        if held > epoch {
            self.work
                .events
                .push(DeskEvent::PolicyAhead { node, epoch: held });
        }
        self.carry_policy(node, now);
    }

    /// Gives a session the policy if it lacks it and has room.
    pub(super) fn carry_policy(&mut self, node: NodeId, now: UnixMillis) {
        let epoch = self.fleet.breakers().published().epoch;
        let lacks = self
            .seats
            .get(&node)
            .is_some_and(|seat| seat.policy < epoch && seat.link.has_room());
        if !lacks {
            return;
        }
        let Some(signed) = self.signed_policy() else {
            return;
        };
        if self.order(node, Order::Other(DownBody::Policy(signed)), now)
            && let Some(seat) = self.seats.get_mut(&node)
        {
            seat.policy = epoch;
        }
    }

    /// Tells the watchman what has become durable, and gathers what it asks for.
    pub(super) fn watch(&mut self, seen: Vec<(NodeId, Seen)>, now: UnixMillis) -> Vec<DeskEvent> {
        let fleet = std::sync::Arc::clone(&self.fleet);
        let watchman = &mut self.guard.watchman;
        for (node, seen) in seen {
            match seen {
                Seen::Changed => watchman.changed(node, now),
                Seen::Down => watchman.went_down(&fleet, node, now),
                Seen::Result(result) => watchman.result(&fleet, node, &result, now),
                Seen::State(state) => watchman.state(&fleet, node, &state, now),
                Seen::Receipt(action, outcome) => {
                    watchman.receipt(&fleet, node, &action, outcome, now);
                }
                Seen::Crossed(crossing) => watchman.crossed(&fleet, node, &crossing, now),
            }
        }
        let mut events = Vec::new();
        if now.since(self.guard.looked_at) >= LOOK_EVERY || now < self.guard.looked_at {
            self.guard.looked_at = now;
            let wanted = if self.guard.watchman.is_due(now) {
                self.wanted_next()
            } else {
                Vec::new()
            };
            let field = Field {
                up: &self.deployments.up,
                wanted: &wanted,
            };
            self.guard.watchman.tick(&fleet, field, now);
            events.extend(self.overdue(now));
        }
        let asks = self.guard.watchman.asks(now);
        events.extend(asks.into_iter().map(|ask| DeskEvent::Moved(Box::new(ask))));
        events
    }

    pub(super) fn unwatch(&mut self, node: NodeId) {
        self.guard.watchman.forget(node);
    }

    /// What must come to pass by time: overrides that end, rollouts that a breaker
    /// aborts.
    fn overdue(&mut self, now: UnixMillis) -> Vec<DeskEvent> {
        if now >= self.guard.asked_at && now.since(self.guard.asked_at) < ASK_AGAIN {
            return Vec::new();
        }
        self.guard.asked_at = now;
        let breakers = self.fleet.breakers();
        let over = breakers
            .overrides()
            .filter(|(_, granted)| granted.pass.until <= now)
            .map(|(number, _)| DeskEvent::OverrideOver(number));
        over.chain(self.aborts(now)).collect()
    }

    /// The nodes that open rollouts would change, the next ones first.
    fn wanted_next(&self) -> Vec<(NodeId, DeploymentId)> {
        let mut wanted = Vec::new();
        for running in self.deployments.running.values() {
            let course = &running.row.course;
            // One that waits for a person would leave its nodes untried.
            if !course.is_running() || course.kind != Kind::Forward {
                continue;
            }
            let begins = course.gate().map_or(u32::MAX, |_| course.next_wave());
            let waiting = |state| matches!(state, TargetState::Pending | TargetState::Delayed);
            let rows = running
                .machine
                .rows()
                .filter(|(_, row)| waiting(row.state) && row.wave < begins);
            wanted.extend(
                rows.map(|(node, row)| ((row.wave, row.rank), node, running.row.deployment)),
            );
        }
        wanted.sort_unstable();
        wanted
            .into_iter()
            .map(|(_, node, deployment)| (node, deployment))
            .collect()
    }

    /// Tells rollouts which breakers hold them, after a change.
    pub(super) fn tell_rollouts(&mut self, now: UnixMillis) {
        if !std::mem::take(&mut self.guard.tell) {
            return;
        }
        let ids: Vec<RolloutId> = self.deployments.running.keys().copied().collect();
        for id in ids {
            let held = self.holding(id, now);
            // What holds it is shown, also when it does nothing about it.
            self.deployments.changed.insert(id);
            let Some(running) = self.deployments.running.get(&id) else {
                continue;
            };
            let freed: Vec<String> = running
                .machine
                .breakers()
                .filter(|name| !held.contains_key(*name))
                .map(str::to_owned)
                .collect();
            for breaker in freed {
                self.step(id, Input::BreakerReset { breaker }, now);
            }
            for (breaker, hold) in held {
                let action = match hold.action {
                    OnTrip::Hold => BreakerAction::Hold,
                    OnTrip::Halt | OnTrip::Revert => BreakerAction::Halt,
                };
                let input = Input::BreakerTripped {
                    breaker,
                    action,
                    at: hold.at,
                    passing: hold.passing,
                };
                self.step(id, input, now);
            }
        }
    }

    /// A rollout is to be told which breakers hold it.
    pub(super) fn tell_breakers(&mut self) {
        self.guard.tell = true;
    }

    /// The breakers that hold a rollout: those that some of its targets do not pass.
    /// A half-open one holds back all but its probes, and wants nothing gone back.
    fn holding(&self, id: RolloutId, now: UnixMillis) -> BTreeMap<String, Hold> {
        let mut held = BTreeMap::new();
        let Some(running) = self.deployments.running.get(&id) else {
            return held;
        };
        let deployment = running.row.deployment;
        let revision = self
            .fleet
            .deployments()
            .get(deployment)
            .and_then(|known| known.revisions.get(&running.row.revision));
        let Some(revision) = revision else {
            return held;
        };
        for known in self.fleet.breakers().iter() {
            let definition = &known.definition;
            let covering = |group: &Group| {
                let on = &revision.selector;
                covers_rollout(definition, group, deployment, on, &self.fleet)
            };
            let cells: Vec<&Cell> = known
                .open()
                .filter(|(group, _)| covering(group))
                .map(|(_, cell)| cell)
                .collect();
            let Some(at) = cells.iter().map(|cell| cell.moved.at).max() else {
                continue;
            };
            let passing = self.passing(&definition.name, running, now);
            if passing.len() == targets(running).count() {
                continue;
            }
            let tries = cells
                .iter()
                .all(|cell| cell.moved.to == BreakerState::HalfOpen);
            let hold = Hold {
                action: if tries {
                    OnTrip::Hold
                } else {
                    definition.rollouts
                },
                at,
                passing,
            };
            held.insert(definition.name.clone(), hold);
        }
        held
    }

    /// The targets of a rollout that pass a breaker, as the nodes themselves judge.
    fn passing(&self, breaker: &str, running: &Running, now: UnixMillis) -> BTreeSet<NodeId> {
        let mut policy = self.fleet.breakers().policy(self.fleet.id());
        policy.gates.retain(|gate| gate.breaker == breaker);
        let attempt = Attempt::Deploy(running.row.deployment);
        let standing = Standing {
            now,
            heard_at: Some(now),
        };
        targets(running)
            .filter_map(|node| self.fleet.node(node))
            .filter(|node| policy.admit(node.subject(), attempt, standing).is_ok())
            .map(|node| node.id)
            .collect()
    }

    /// Rollouts that a breaker wants gone back, and which do not yet.
    fn aborts(&self, now: UnixMillis) -> Vec<DeskEvent> {
        let mut aborts = Vec::new();
        for (id, running) in &self.deployments.running {
            let course = &running.row.course;
            if course.finished.is_some() || course.kind != Kind::Forward {
                continue;
            }
            let reverting = self
                .holding(*id, now)
                .into_iter()
                .find(|(_, hold)| hold.action == OnTrip::Revert && !course.is_known(hold.at));
            if let Some((breaker, _)) = reverting {
                let decision = Decision::Aborted(RolloutAborted {
                    rollout: *id,
                    step: course.step,
                    reason: format!("breaker {breaker} tripped"),
                    then: AfterAbort::Revert,
                });
                if course.check(&decision).is_ok() {
                    aborts.push(DeskEvent::Decided(Box::new(decision)));
                }
            }
        }
        aborts
    }
}

/// The nodes that take part in a rollout.
fn targets(running: &Running) -> impl Iterator<Item = NodeId> {
    let rows = running.machine.rows();
    rows.filter(|(_, row)| row.state != TargetState::Skipped)
        .map(|(node, _)| node)
}
