//! Watches what nodes report, and says when a breaker moves.
//!
//! A pure machine over machines: it keeps one [`Breaker`] for each group of each
//! breaker, turns what nodes say into samples, and hands out moves to be recorded.
//! A move counts once its record is there: until then it is asked again, and nobody
//! is told.
//!
//! **Invariants.** Where a breaker stands is what the records say: whatever was
//! asked and is contradicted by a record is dropped. A half-open breaker counts
//! the answers of the nodes that were named probes, and no other's: one of each, or,
//! where there are fewer nodes than probes, no more than make up for that.
//!
//! What was counted and is not in a record is lost with the process: a breaker that
//! is closed starts again with an empty window.
//!
//! An open breaker whose cool-down has passed becomes half-open when there is a
//! node to try on. One that commands cannot close waits for a rollout that wants a
//! node changed, and names that node: otherwise its probes would be nodes on which
//! nothing happens, and those on which something would are refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Breaker, Input, Permit, Transition};
use protocol::command::{Action, Outcome};
use protocol::condition::Crossing;
use protocol::deployment::observed::{
    ChangeOutcome, DeploymentResult, DeploymentState, Phase, WorkloadState,
};
use protocol::id::{DeploymentId, NodeId};
use protocol::selector::Selector;
use protocol::time::UnixMillis;

use crate::domain::breaker::definition::{Definition, Group, Signal, is_gated};
use crate::domain::breaker::manage::{RecordBreaker, check_move};
use crate::domain::breaker::{Breakers, Known};
use crate::domain::digest::Digest;
use crate::domain::fleet::Fleet;

/// A node that is not heard any more within this time after a change went silent
/// by it; one that still is has outlived the change.
pub const SILENCE_AFTER_CHANGE: Duration = Duration::from_secs(600);

/// A move that was asked and is not recorded is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Groups of one breaker that are watched at once, each in a few hundred bytes. In
/// a span with more of them, the closed one that was sampled longest ago is
/// forgotten with what it counted.
const GROUPS_WATCHED_MAX: usize = 1024;

/// What is watched. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Watchman {
    watched: BTreeMap<String, Watched>,
    /// Nodes that were changed, and when: they must not go silent now.
    changed: BTreeMap<NodeId, UnixMillis>,
    /// What is wrong with deployments on nodes, as it was said last.
    ills: BTreeMap<(DeploymentId, NodeId), Ills>,
}

/// Where nodes stand when probes are to be named.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Nodes whose link is up.
    pub up: &'a BTreeSet<NodeId>,
    /// Nodes that open rollouts would change, with the deployment, the next ones
    /// first.
    pub wanted: &'a [(NodeId, DeploymentId)],
}

#[derive(Clone, Debug)]
struct Watched {
    definition: Definition,
    groups: BTreeMap<Group, Track>,
}

/// One group of one breaker.
#[derive(Clone, Debug)]
struct Track {
    machine: Breaker,
    /// The last move that was recorded.
    recorded: Option<Transition>,
    /// Moves that are not recorded yet, oldest first.
    asked: VecDeque<RecordBreaker>,
    asked_at: Option<UnixMillis>,
    /// The nodes that may try, as recorded.
    probes: BTreeSet<NodeId>,
    /// How often each has answered in this round.
    answered: BTreeMap<NodeId, u32>,
    sampled_at: UnixMillis,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ills {
    unhealthy: bool,
    crash_loop: bool,
}

impl Watchman {
    /// Takes up what is recorded of breakers.
    pub fn follow(&mut self, breakers: &Breakers) {
        self.watched.retain(|name, _| breakers.get(name).is_some());
        for known in breakers.iter() {
            let name = known.definition.name.clone();
            self.watched
                .entry(name)
                .or_insert_with(|| Watched {
                    definition: known.definition.clone(),
                    groups: BTreeMap::new(),
                })
                .follow(known);
        }
    }

    /// A node was given something that changes it.
    pub fn changed(&mut self, node: NodeId, now: UnixMillis) {
        self.changed.insert(node, now);
    }

    /// A node's link is not proven any more.
    pub fn went_down(&mut self, fleet: &Fleet, node: NodeId, now: UnixMillis) {
        if self.changed.remove(&node).is_some() {
            self.sample(fleet, node, &Signal::Silence, None, false, now);
        }
    }

    /// A change of a deployment ended on a node.
    pub fn result(
        &mut self,
        fleet: &Fleet,
        node: NodeId,
        result: &DeploymentResult,
        now: UnixMillis,
    ) {
        let ok = match result.outcome {
            ChangeOutcome::Succeeded => true,
            ChangeOutcome::Reverted | ChangeOutcome::Failed => false,
            ChangeOutcome::Refused | ChangeOutcome::Superseded => return,
        };
        let deployment = Some(result.deployment);
        self.sample(fleet, node, &Signal::Deploy, deployment, ok, now);
    }

    /// A node said how a deployment is.
    pub fn state(&mut self, fleet: &Fleet, node: NodeId, state: &DeploymentState, now: UnixMillis) {
        let settled = match state.phase {
            Phase::Running | Phase::Degraded => true,
            Phase::Removed => {
                self.ills.remove(&(state.deployment, node));
                return;
            }
            Phase::Waiting
            | Phase::Fetching
            | Phase::Starting
            | Phase::Verifying
            | Phase::AwaitingCommit
            | Phase::Reverting
            | Phase::Reverted
            | Phase::Failed
            | Phase::Refused
            | Phase::Removing => false,
        };
        if !settled {
            return;
        }
        let any = |ill: WorkloadState| state.workloads.iter().any(|it| it.state == ill);
        let said = Ills {
            unhealthy: state.phase == Phase::Degraded || any(WorkloadState::Unhealthy),
            crash_loop: any(WorkloadState::Restarting),
        };
        let before = self.ills.insert((state.deployment, node), said);
        let deployment = Some(state.deployment);
        for (signal, ill, was) in [
            (
                Signal::Unhealthy,
                said.unhealthy,
                before.map(|it| it.unhealthy),
            ),
            (
                Signal::CrashLoop,
                said.crash_loop,
                before.map(|it| it.crash_loop),
            ),
        ] {
            if was != Some(ill) {
                self.sample(fleet, node, &signal, deployment, !ill, now);
            }
        }
    }

    /// A node answered a command.
    pub fn receipt(
        &mut self,
        fleet: &Fleet,
        node: NodeId,
        action: &Action,
        outcome: Outcome,
        now: UnixMillis,
    ) {
        let ok = match outcome {
            Outcome::Succeeded => true,
            Outcome::Failed { .. } | Outcome::TimedOut | Outcome::Interrupted => false,
            Outcome::Refused | Outcome::Expired | Outcome::Cancelled => return,
        };
        if is_gated(action) {
            self.sample(fleet, node, &Signal::Command, None, ok, now);
        }
    }

    /// A condition began or ceased to hold on a node.
    pub fn crossed(&mut self, fleet: &Fleet, node: NodeId, crossing: &Crossing, now: UnixMillis) {
        let signal = Signal::Condition(crossing.rule.clone());
        self.sample(fleet, node, &signal, None, !crossing.holds, now);
    }

    /// A node left the fleet.
    pub fn forget(&mut self, node: NodeId) {
        self.changed.remove(&node);
        self.ills.retain(|(_, of), _| *of != node);
    }

    /// Time has passed.
    pub fn tick(&mut self, fleet: &Fleet, field: Field<'_>, now: UnixMillis) {
        let outlived: Vec<NodeId> = self
            .changed
            .iter()
            .filter(|(_, at)| now.since(**at) >= SILENCE_AFTER_CHANGE)
            .map(|(node, _)| *node)
            .collect();
        for node in outlived {
            self.changed.remove(&node);
            self.sample(fleet, node, &Signal::Silence, None, true, now);
        }
        for watched in self.watched.values_mut() {
            for (group, track) in &mut watched.groups {
                track.tick(&watched.definition, group, fleet, field, now);
            }
        }
    }

    /// Whether a tick may need to know where nodes stand.
    #[must_use]
    pub fn is_due(&self, now: UnixMillis) -> bool {
        self.watched
            .values()
            .flat_map(|watched| watched.groups.values())
            .any(|track| track.machine.state() != BreakerState::Closed && track.is_due(now))
    }

    /// Moves that are to be recorded, each again until it is.
    pub fn asks(&mut self, now: UnixMillis) -> Vec<RecordBreaker> {
        self.watched
            .values_mut()
            .flat_map(|watched| watched.groups.values_mut())
            .filter_map(|track| track.ask(now))
            .collect()
    }

    fn sample(
        &mut self,
        fleet: &Fleet,
        node: NodeId,
        signal: &Signal,
        deployment: Option<DeploymentId>,
        ok: bool,
        now: UnixMillis,
    ) {
        let Some(record) = fleet.node(node).filter(|record| record.is_active()) else {
            return;
        };
        for watched in self.watched.values_mut() {
            let definition = &watched.definition;
            let meant =
                definition.watches.contains(signal) && definition.nodes.matches(record.subject());
            let group = definition.group_of(&record.labels, deployment);
            if let Some(group) = group.filter(|_| meant) {
                watched.sample(group, node, ok, now);
            }
        }
    }
}

impl Watched {
    fn follow(&mut self, known: &Known) {
        self.definition = known.definition.clone();
        // One that moved and is recorded no more was forgotten there, closed.
        self.groups.retain(|group, track| {
            known.definition.has(group)
                && (track.recorded.is_none() || known.groups.contains_key(group))
        });
        for (group, cell) in &known.groups {
            let track = self
                .groups
                .entry(group.clone())
                .or_insert_with(|| Track::new(&known.definition));
            track.follow(&cell.moved, &cell.probes);
        }
        // A move that the whole fleet's stop has taken the place of, or that does not
        // fit the definition any more, would be asked for ever.
        let stopped = known.state(&Group::Fleet) != BreakerState::Closed;
        for (group, track) in &mut self.groups {
            track.machine.set_rule(known.definition.rule);
            let closed = known.state(group) == BreakerState::Closed;
            let vain = track
                .asked
                .front()
                .is_some_and(|asked| (stopped && closed) || check_move(known, asked).is_err());
            if vain {
                track.asked.clear();
                track.machine = known.machine(group);
            }
        }
    }

    fn sample(&mut self, group: Group, node: NodeId, ok: bool, now: UnixMillis) {
        let stopped = self
            .groups
            .get(&Group::Fleet)
            .is_some_and(|fleet| fleet.machine.state() != BreakerState::Closed);
        let group = if stopped { Group::Fleet } else { group };
        if !self.groups.contains_key(&group) {
            self.make_room();
        }
        let track = self
            .groups
            .entry(group.clone())
            .or_insert_with(|| Track::new(&self.definition));
        track.sampled_at = now;
        for transition in track.sample(node, ok, now) {
            track.asked.push_back(RecordBreaker {
                breaker: self.definition.name.clone(),
                group: group.clone(),
                transition,
                probes: BTreeSet::new(),
            });
        }
    }

    fn make_room(&mut self) {
        if self.groups.len() < GROUPS_WATCHED_MAX {
            return;
        }
        let idle = self
            .groups
            .iter()
            .filter(|(_, track)| {
                track.machine.state() == BreakerState::Closed && track.recorded.is_none()
            })
            .min_by_key(|(_, track)| track.sampled_at)
            .map(|(group, _)| group.clone());
        if let Some(idle) = idle {
            self.groups.remove(&idle);
        }
    }
}

impl Track {
    fn new(definition: &Definition) -> Self {
        Self {
            machine: Breaker::new(definition.rule),
            recorded: None,
            asked: VecDeque::new(),
            asked_at: None,
            probes: BTreeSet::new(),
            answered: BTreeMap::new(),
            sampled_at: UnixMillis::default(),
        }
    }

    /// Takes up the last move that is recorded.
    fn follow(&mut self, moved: &Transition, probes: &BTreeSet<NodeId>) {
        if self.recorded.as_ref() == Some(moved) {
            return;
        }
        let mine = self
            .asked
            .iter()
            .position(|asked| asked.transition == *moved);
        match mine {
            Some(index) => {
                self.asked.drain(..=index);
            }
            None => {
                self.asked.clear();
                self.machine.apply(moved);
            }
        }
        self.asked_at = None;
        self.recorded = Some(moved.clone());
        self.probes.clone_from(probes);
        self.answered.clear();
    }

    /// Whether it stands where the records say.
    fn is_settled(&self) -> bool {
        self.asked.is_empty()
    }

    fn sample(&mut self, node: NodeId, ok: bool, now: UnixMillis) -> Vec<Transition> {
        let input = match self.machine.state() {
            BreakerState::Closed => Input::Sample { ok },
            BreakerState::HalfOpen
                if self.is_settled() && self.probes.contains(&node) && self.may_answer(node) =>
            {
                *self.answered.entry(node).or_default() += 1;
                let round = self.machine.standing().round;
                self.machine
                    .admit(now)
                    .unwrap_or(Permit::Probe { round })
                    .result(ok)
            }
            BreakerState::HalfOpen | BreakerState::Open | BreakerState::Isolated => {
                return Vec::new();
            }
        };
        self.machine.step(input, now)
    }

    /// Whether an answer of a probe counts.
    fn may_answer(&self, node: NodeId) -> bool {
        let named = u32::try_from(self.probes.len()).unwrap_or(u32::MAX).max(1);
        let each = self.machine.rule().recovery.probes.div_ceil(named);
        self.answered.get(&node).copied().unwrap_or(0) < each
    }

    fn is_due(&self, now: UnixMillis) -> bool {
        let lapses = self.machine.wakes_at().is_some_and(|(at, _)| at <= now);
        self.is_settled() && (lapses || self.machine.state() == BreakerState::HalfOpen)
    }

    fn tick(
        &mut self,
        definition: &Definition,
        group: &Group,
        fleet: &Fleet,
        field: Field<'_>,
        now: UnixMillis,
    ) {
        if !self.is_due(now) {
            return;
        }
        let probes = match self.machine.state() {
            BreakerState::Open => {
                let round = self.machine.standing().round;
                let probes = candidates(definition, group, round, fleet, field);
                if probes.is_empty() {
                    return;
                }
                probes
            }
            BreakerState::HalfOpen => {
                // Nobody waits for ever for a probe that is gone: its time runs from
                // here on, and the next round names others.
                if !self.probes.iter().all(|node| field.up.contains(node)) {
                    let _permit = self.machine.admit(now);
                }
                BTreeSet::new()
            }
            BreakerState::Closed | BreakerState::Isolated => return,
        };
        for transition in self.machine.step(Input::Tick, now) {
            self.asked.push_back(RecordBreaker {
                breaker: definition.name.clone(),
                group: group.clone(),
                transition,
                probes: probes.clone(),
            });
        }
    }

    fn ask(&mut self, now: UnixMillis) -> Option<RecordBreaker> {
        let first = self.asked.front()?;
        if self
            .asked_at
            .is_some_and(|at| now >= at && now.since(at) < ASK_AGAIN)
        {
            return None;
        }
        self.asked_at = Some(now);
        Some(first.clone())
    }
}

/// The nodes that may try: those that rollouts would change next, or else, where a
/// command is a try as well, any. Which of these is chance that repeats: another
/// round names others.
fn candidates(
    definition: &Definition,
    group: &Group,
    round: u64,
    fleet: &Fleet,
    field: Field<'_>,
) -> BTreeSet<NodeId> {
    let count = definition.rule.recovery.probes as usize;
    let covered = |node: NodeId, deployment: Option<DeploymentId>| {
        fleet.node(node).is_some_and(|record| {
            let group = match group {
                Group::Fleet => true,
                Group::Label(_) | Group::Deployment(_) => {
                    definition.group_of(&record.labels, deployment).as_ref() == Some(group)
                }
            };
            let sound = record.is_active() && record.suspicion.is_none();
            sound && group && definition.nodes.matches(record.subject())
        })
    };
    let mut chosen = BTreeSet::new();
    let wanted = field
        .wanted
        .iter()
        .filter(|(node, of)| field.up.contains(node) && covered(*node, Some(*of)));
    for (node, _) in wanted {
        if chosen.len() < count {
            chosen.insert(*node);
        }
    }
    if !chosen.is_empty() || definition.gated.commands.is_empty() {
        return chosen;
    }
    let place = |node: &NodeId| {
        let name = definition.name.as_bytes();
        let parts: [&[u8]; 3] = [name, &round.to_be_bytes(), node.as_bytes()];
        Digest::of("flotilla probe", &parts)
    };
    let mut any: Vec<NodeId> = field
        .up
        .iter()
        .copied()
        .filter(|node| covered(*node, None))
        .collect();
    any.sort_by_cached_key(place);
    any.truncate(count);
    any.into_iter().collect()
}

/// Whether a breaker's group covers a rollout of this deployment on these nodes.
#[must_use]
pub fn covers_rollout(
    definition: &Definition,
    group: &Group,
    deployment: DeploymentId,
    on: &Selector,
    fleet: &Fleet,
) -> bool {
    match group {
        _ if !definition.gated.deploy => false,
        Group::Fleet => true,
        Group::Deployment(id) => *id == deployment,
        // A rollout over several groups goes on in those that are closed; its nodes
        // in the others refuse by themselves, and are tried again.
        Group::Label(_) => {
            let mut meant = fleet
                .nodes()
                .filter(|node| node.is_active() && on.matches(node.subject()));
            let all = meant.clone().next().is_some();
            all && meant.all(|node| {
                definition.group_of(&node.labels, Some(deployment)).as_ref() == Some(group)
            })
        }
    }
}
