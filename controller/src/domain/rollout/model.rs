//! For tests: a rollout with everything around it that can go wrong, small enough
//! to try every order of events.
//!
//! The world has a journal, an intake, nodes that hold orders as levels, and a
//! controller that can crash between any two of: deciding, recording, committing
//! rows, hearing of a record. After every step the invariants are checked; the
//! search below takes every path up to a depth, the properties in `tests` take
//! long ones by chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::label::Labels;
use protocol::time::UnixMillis;

use super::course::{Course, Stop};
use super::event::{Decision, Kind, Outcome, RolloutResumed, RolloutStarted};
use super::machine::{BreakerAction, Input, Output, Rollout};
use super::params::{Amount, HaltOn, HaltRule, OnHalt, Params, Rate, Wave, Within};
use super::plan::{Candidate, Plan};
use super::target::{FailureClass, Left, Report, TargetRow, TargetState, Want, Withheld};
use crate::domain::given::{START, node_id};

pub(super) const ROLLOUT: RolloutId = RolloutId::from_bytes([3; 10]);

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A node takes its newest order and comes to this end.
    Act(u16, Fate),
    /// What a node has to say arrives.
    Hear(u16),
    /// The same, and the controller crashes before anything is kept.
    HearAndCrash(u16),
    /// What was asked for is recorded, and the machine hears of it.
    Record,
    /// It is recorded, and the controller crashes before it hears of it.
    RecordAndCrash,
    /// It gets lost in a crash.
    Lose,
    /// Time passes until the machine wants to be woken.
    Wake,
    /// The same, and the controller crashes before anything is kept.
    WakeAndCrash,
    /// A node's link goes down, or comes up.
    Down(u16),
    Up(u16),
    /// A breaker trips, names the node that wants it next its probe, or closes.
    Trip,
    HalfOpen,
    Reset,
    /// Someone resumes.
    Resume,
    /// A node is cordoned, or its maintenance window closes.
    Withhold(u16, Withheld),
    /// It is in service again, or a window opens.
    Free(u16),
    /// What a node has is taken away.
    Drain(u16),
}

/// How an order ends on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Succeeds,
    Fails,
    Silent,
}

/// What a node has of the rollout.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The newest order that was sent; it waits here while the link is down.
    inbox: Option<(u32, Want)>,
    /// What it has to say, until it was heard.
    says: VecDeque<(u32, Report)>,
}

/// The world. Public to the tests of this module's parent.
#[derive(Clone)]
pub(super) struct World {
    pub(super) machine: Rollout,
    pub(super) journal: Course,
    pub(super) rows: BTreeMap<NodeId, TargetRow>,
    pub(super) now: UnixMillis,
    nodes: BTreeMap<u16, Node>,
    up: BTreeSet<NodeId>,
    asked: Option<Decision>,
    sent: BTreeSet<(NodeId, u32)>,
    waves: BTreeMap<NodeId, u32>,
    tripped: Option<UnixMillis>,
    withheld: BTreeMap<NodeId, Withheld>,
    waited: Duration,
    /// What passes the breaker while it is half-open.
    probes: BTreeSet<NodeId>,
    on_trip: BreakerAction,
    /// What may still happen.
    crashes: u32,
    faults: u32,
    resumes: u32,
    asides: u32,
}

pub(super) fn started(params: &Params, nodes: &[u16]) -> (RolloutStarted, Plan) {
    let none = Labels::new();
    let candidates: Vec<Candidate<'_>> = nodes
        .iter()
        .map(|n| Candidate {
            node: node_id(*n),
            labels: &none,
            present: true,
        })
        .collect();
    let plan = Plan::new(ROLLOUT.as_bytes(), params, &candidates);
    let event = RolloutStarted {
        rollout: ROLLOUT,
        deployment: DeploymentId::from_bytes([4; 10]),
        revision: 2,
        kind: Kind::Forward,
        params: params.clone(),
        waves: plan.sizes(),
        plan_digest: plan.digest(),
    };
    (event, plan)
}

/// A canary, the rest; one node at a time; any failure of a whole wave halts.
pub(super) fn small(on_halt: OnHalt) -> Params {
    Params {
        waves: vec![
            Wave {
                count: Some(1),
                soak_ms: 60_000,
                ..Wave::default()
            },
            Wave::default(),
        ],
        rate: Rate {
            base_per_min: 60,
            ..Rate::default()
        },
        budget: super::params::Budget {
            unavailable_max: Some(Amount::Count(1)),
            ..super::params::Budget::default()
        },
        halt: vec![HaltRule {
            within: Within::Wave,
            share_percent: Some(50),
            ..HaltRule::on(HaltOn::Any)
        }],
        silent_deadline_ms: 120_000,
        deadline_ms: 7_200_000,
        on_halt,
        ..Params::default()
    }
}

impl World {
    pub(super) fn new(params: &Params, nodes: &[u16]) -> Self {
        let (event, plan) = started(params, nodes);
        let journal = Course::new(&event, START);
        let rows = plan.rows(START);
        let up: BTreeSet<NodeId> = rows.keys().copied().collect();
        let machine = Rollout::resume(journal.clone(), rows.clone(), &up, START);
        let mut world = Self {
            machine,
            waves: rows.iter().map(|(node, row)| (*node, row.wave)).collect(),
            journal,
            rows,
            now: START,
            nodes: nodes.iter().map(|n| (*n, Node::default())).collect(),
            up,
            asked: None,
            sent: BTreeSet::new(),
            tripped: None,
            withheld: BTreeMap::new(),
            waited: Duration::ZERO,
            asides: 0,
            probes: BTreeSet::new(),
            on_trip: BreakerAction::Halt,
            crashes: 1,
            faults: 2,
            resumes: 1,
        };
        world.step(Input::Tick);
        world
    }

    pub(super) fn allowing(mut self, crashes: u32, faults: u32, resumes: u32) -> Self {
        (self.crashes, self.faults, self.resumes) = (crashes, faults, resumes);
        self
    }

    /// So often nodes may be withheld or drained.
    pub(super) fn setting_aside(mut self, asides: u32) -> Self {
        self.asides = asides;
        self
    }

    /// A breaker that holds the rollout and does not halt it.
    fn held(mut self) -> Self {
        self.on_trip = BreakerAction::Hold;
        self
    }

    /// The node that the rollout would change next.
    fn next_wanted(&self) -> Option<NodeId> {
        self.rows
            .iter()
            .filter(|(_, row)| row.state == TargetState::Pending)
            .min_by_key(|(_, row)| (row.wave, row.rank))
            .map(|(node, _)| *node)
    }

    /// Everything that can happen next.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = vec![Action::Wake];
        let crash = self.crashes > 0;
        if self.asked.is_some() {
            actions.push(Action::Record);
            if crash {
                actions.extend([Action::RecordAndCrash, Action::Lose]);
            }
        }
        if crash {
            actions.push(Action::WakeAndCrash);
        }
        for (n, node) in &self.nodes {
            let up = self.up.contains(&node_id(*n));
            if up && let Some((_, want)) = node.inbox {
                actions.push(Action::Act(*n, Fate::Succeeds));
                if want == Want::Run {
                    actions.push(Action::Act(*n, Fate::Fails));
                }
                if self.faults > 0 {
                    actions.push(Action::Act(*n, Fate::Silent));
                }
            }
            if up && !node.says.is_empty() {
                actions.push(Action::Hear(*n));
                if crash {
                    actions.push(Action::HearAndCrash(*n));
                }
            }
            if up && self.faults > 0 {
                actions.push(Action::Down(*n));
            }
            if !up {
                actions.push(Action::Up(*n));
            }
        }
        for n in self.nodes.keys() {
            let node = node_id(*n);
            if self.withheld.contains_key(&node) {
                actions.push(Action::Free(*n));
            } else if self.asides > 0 {
                actions.push(Action::Withhold(*n, Withheld::Cordoned));
                actions.push(Action::Withhold(*n, Withheld::Windowed));
                let row = &self.rows[&node];
                if row.order > 0 && !row.state.is_in_flight() {
                    actions.push(Action::Drain(*n));
                }
            }
        }
        if self.tripped.is_some() {
            actions.push(Action::Reset);
            let open = self.probes.is_empty();
            if open && self.journal.is_running() && self.next_wanted().is_some() {
                actions.push(Action::HalfOpen);
            } else if !open && self.faults > 0 {
                actions.push(Action::Trip);
            }
        } else if self.faults > 0 {
            actions.push(Action::Trip);
        }
        if self.resumes > 0 && self.journal.awaits_a_person() {
            actions.push(Action::Resume);
        }
        actions
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Act(n, fate) => self.node_acts(n, fate),
            Action::Hear(n) => {
                if let Some(input) = self.said(n) {
                    self.step(input);
                }
            }
            Action::HearAndCrash(n) => {
                let said = self.nodes[&n].says.front().copied();
                if let Some((order, report)) = said {
                    let node = node_id(n);
                    self.step_and_crash(Input::Reported {
                        node,
                        order,
                        report,
                    });
                }
            }
            Action::Record | Action::RecordAndCrash => {
                let Some(decision) = self.asked.take() else {
                    return;
                };
                let taken = self.journal.check(&decision).is_ok();
                let at = self.now;
                if taken {
                    self.journal.apply(&decision, at);
                }
                if action == Action::RecordAndCrash {
                    self.crash();
                } else if taken {
                    self.step(Input::Recorded { decision, at });
                }
            }
            Action::Lose => self.crash(),
            Action::Wake => {
                self.wake();
                self.step(Input::Tick);
            }
            Action::WakeAndCrash => {
                self.wake();
                self.step_and_crash(Input::Tick);
            }
            Action::Down(n) => {
                self.faults -= 1;
                self.up.remove(&node_id(n));
                self.step(Input::Down(node_id(n)));
            }
            Action::Up(n) => {
                self.up.insert(node_id(n));
                self.step(Input::Up(node_id(n)));
            }
            Action::Trip => {
                self.faults -= 1;
                self.tripped = Some(self.now);
                self.probes.clear();
                self.step(self.trip());
            }
            Action::HalfOpen => {
                self.tripped = Some(self.now);
                self.probes.extend(self.next_wanted());
                self.step(self.trip());
            }
            Action::Reset => {
                self.tripped = None;
                self.probes.clear();
                let breaker = "fleet".to_owned();
                self.step(Input::BreakerReset { breaker });
            }
            Action::Withhold(n, by) => {
                self.asides -= 1;
                let node = node_id(n);
                self.withheld.insert(node, by);
                self.step(Input::Withheld { node, by: Some(by) });
            }
            Action::Free(n) => {
                let node = node_id(n);
                self.withheld.remove(&node);
                self.step(Input::Withheld { node, by: None });
            }
            Action::Drain(n) => {
                self.asides -= 1;
                let node = node_id(n);
                self.withheld.insert(node, Withheld::Cordoned);
                self.step(Input::Drained(node));
                self.nodes.insert(n, Node::default());
            }
            Action::Resume => {
                self.resumes -= 1;
                let decision = Decision::Resumed(RolloutResumed {
                    rollout: ROLLOUT,
                    step: self.journal.step,
                    acknowledged_at: self.now,
                });
                self.journal.check(&decision).unwrap();
                self.journal.apply(&decision, self.now);
                let at = self.now;
                self.step(Input::Recorded { decision, at });
            }
        }
        self.check();
    }

    /// Lets everything happen that is owed, and nothing else, until the rollout
    /// has ended. Returns whether it did.
    pub(super) fn runs_to_its_end(&mut self) -> bool {
        for _ in 0..2000 {
            if self.journal.finished.is_some() {
                return true;
            }
            self.act(self.owed().unwrap_or(Action::Wake));
        }
        false
    }

    /// What happens next when all goes well; none when only time is waited for.
    fn owed(&self) -> Option<Action> {
        self.actions().into_iter().find(|action| {
            matches!(
                action,
                Action::Record | Action::Hear(_) | Action::Act(_, Fate::Succeeds) | Action::Free(_)
            )
        })
    }

    fn node_acts(&mut self, n: u16, fate: Fate) {
        let node = self.nodes.get_mut(&n).unwrap();
        let Some((order, want)) = node.inbox.take() else {
            return;
        };
        match fate {
            Fate::Succeeds => {
                node.says.push_back((order, Report::Working));
                node.says.push_back((order, Report::Succeeded));
            }
            Fate::Fails => {
                assert_eq!(want, Want::Run);
                let left = if order % 2 == 0 {
                    Left::Broken
                } else {
                    Left::Restored
                };
                let class = FailureClass::Failed;
                node.says.push_back((order, Report::Failed { class, left }));
            }
            Fate::Silent => self.faults -= 1,
        }
    }

    fn said(&mut self, n: u16) -> Option<Input> {
        let (order, report) = self.nodes.get_mut(&n)?.says.pop_front()?;
        let node = node_id(n);
        Some(Input::Reported {
            node,
            order,
            report,
        })
    }

    fn wake(&mut self) {
        let next = self.machine.wakes_at(self.now).map(|(at, _)| at);
        self.now = next.unwrap_or(self.now.after(Duration::from_secs(1)));
    }

    fn trip(&self) -> Input {
        Input::BreakerTripped {
            breaker: "fleet".to_owned(),
            action: if self.probes.is_empty() {
                self.on_trip
            } else {
                BreakerAction::Hold
            },
            at: self.tripped.unwrap_or(self.now),
            passing: self.probes.clone(),
        }
    }

    fn step_and_crash(&mut self, input: Input) {
        let _lost = self.machine.clone().step(input, self.now);
        self.crash();
    }

    fn crash(&mut self) {
        self.crashes -= 1;
        self.asked = None;
        self.machine = self.resumed();
        for node in self.rows.keys() {
            let by = self.withheld.get(node).copied();
            self.machine.withhold(*node, by, self.now);
        }
        if self.tripped.is_some() {
            self.step(self.trip());
        }
        self.step(Input::Tick);
    }

    fn resumed(&self) -> Rollout {
        Rollout::resume(self.journal.clone(), self.rows.clone(), &self.up, self.now)
            .having_waited(self.waited)
    }

    pub(super) fn step(&mut self, input: Input) {
        let before = self.rows.clone();
        for output in self.machine.step(input, self.now) {
            match output {
                Output::Record(decision) => {
                    self.check_asked(&decision);
                    self.asked = Some(decision);
                }
                Output::Save { node, row } => {
                    self.rows.insert(node, *row);
                }
                Output::Waited(waited) => self.waited = waited,
                Output::Send { node, order, want } => self.send(&before, node, order, want),
            }
        }
    }

    /// A rollout is not whole while a node of it waits for its window. Who is put into
    /// service again after the barrier gets the revision as a late joiner.
    fn check_asked(&self, decision: &Decision) {
        if let Decision::Finished(end) = decision
            && end.outcome == Outcome::Completed
            && self.journal.committed_at.is_none()
        {
            let waits = |row: &TargetRow| row.state == TargetState::Windowed;
            assert!(!self.machine.rows().any(|(_, row)| waits(row)));
        }
    }

    fn send(&mut self, before: &BTreeMap<NodeId, TargetRow>, node: NodeId, order: u32, want: Want) {
        assert!(
            self.sent.insert((node, order)),
            "order {order} of {node} is given twice"
        );
        if want == Want::Run {
            let stopped = self.journal.stop.is_some();
            assert!(!stopped, "a rollout that has stopped starts {node}");
            let withheld = self.withheld.get(&node);
            assert_eq!(withheld, None, "{node} is started though it is withheld");
            assert!(
                self.tripped.is_none() || self.probes.contains(&node),
                "{node} is started against a breaker"
            );
        }
        let begins = matches!(want, Want::Run | Want::Revert);
        let was_well = before.get(&node).is_some_and(|row| !row.is_disrupted());
        if begins && was_well && self.up.contains(&node) {
            let disrupted = u32::try_from(self.disrupted()).unwrap();
            let budget = &self.journal.params.budget;
            let size = u32::try_from(self.rows.len()).unwrap();
            let max = budget.unavailable_max.map_or(u32::MAX, |max| max.of(size));
            assert!(disrupted <= max, "{disrupted} are disrupted, of {max}");
        }
        let number = self.nodes.iter_mut().find(|(n, _)| node_id(**n) == node);
        number.unwrap().1.inbox = Some((order, want));
    }

    fn disrupted(&self) -> usize {
        self.machine
            .rows()
            .filter(|(node, row)| {
                row.state != TargetState::Skipped && (row.is_disrupted() || !self.up.contains(node))
            })
            .count()
    }

    /// What must hold at any time.
    fn check(&self) {
        for (node, row) in self.machine.rows() {
            assert_eq!(
                self.rows.get(&node),
                Some(row),
                "what is kept is what counts"
            );
            assert_eq!(self.waves.get(&node), Some(&row.wave), "waves are frozen");
        }
        assert_eq!(self.machine.course(), &self.journal);
        let resumed = self.resumed();
        assert_eq!(
            resumed.tally(),
            self.machine.tally(),
            "counts are what rows say"
        );
        assert_eq!(resumed.groups(), self.machine.groups());
        assert_eq!(resumed.rate_per_min(), self.machine.rate_per_min());
    }

    /// What tells two worlds apart.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let nodes: Vec<String> = self
            .nodes
            .values()
            .map(|node| format!("{:?} {:?}", node.inbox, node.says))
            .collect();
        format!(
            "{:?} {:?} {:?} {nodes:?} {:?} {:?} {:?} {:?} {:?} {} {} {} {} {}",
            self.probes,
            self.journal,
            self.rows,
            self.up,
            self.asked,
            self.tripped,
            self.withheld,
            self.waited,
            self.now,
            self.asides,
            self.crashes,
            self.faults,
            self.resumes
        )
        .hash(&mut hasher);
        hasher.finish()
    }
}

/// Takes every path of up to `depth` events. Returns how many worlds there are.
fn search(world: World, depth: usize) -> usize {
    let mut seen = BTreeSet::from([world.fingerprint()]);
    let mut frontier = vec![world];
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &frontier {
            for action in world.actions() {
                let mut after = world.clone();
                after.act(action);
                if seen.insert(after.fingerprint()) {
                    next.push(after);
                }
            }
        }
        frontier = next;
    }
    // Whatever had happened, each of the last ones comes to an end.
    for world in frontier.iter_mut().step_by(97) {
        assert!(
            world.runs_to_its_end(),
            "{:?} {:?} {:?} {:?}",
            world.journal.stop,
            world.rows,
            world.nodes,
            world.up
        );
    }
    seen.len()
}

#[test]
fn every_order_of_events_with_a_crash_and_two_faults_keeps_the_invariants() {
    let world = World::new(&small(OnHalt::Revert), &[1, 2]);
    let worlds = search(world, 5);
    assert!(worlds > 1000, "{worlds}");
}

/// The same from the middle: the canary went well, and the second wave runs.
#[test]
fn every_order_of_events_in_a_second_wave_keeps_the_invariants() {
    let mut world = World::new(&small(OnHalt::Revert), &[1, 2, 3]).allowing(1, 1, 0);
    while world.journal.wave.is_none_or(|(wave, _)| wave == 0) {
        world.act(world.owed().unwrap_or(Action::Wake));
    }
    let worlds = search(world, 5);
    assert!(worlds > 1000, "{worlds}");
}

#[test]
fn every_order_of_events_with_three_nodes_and_a_resume_keeps_the_invariants() {
    let world = World::new(&small(OnHalt::Pause), &[1, 2, 3]).allowing(1, 1, 1);
    let worlds = search(world, 5);
    assert!(worlds > 1000, "{worlds}");
}

/// A breaker that opens and half-opens: nothing begins but on its probe.
#[test]
fn every_order_of_events_under_a_breaker_that_tries_again_keeps_the_invariants() {
    for world in [
        World::new(&small(OnHalt::Pause), &[1, 2, 3]).held(),
        World::new(&small(OnHalt::Pause), &[1, 2, 3]),
    ] {
        let mut world = world.allowing(1, 2, 1);
        world.act(Action::Trip);
        let worlds = search(world, 6);
        assert!(worlds > 1000, "{worlds}");
    }
}

/// What that search relies on: the probe is told, in its turn, and no other.
#[test]
fn a_held_rollout_goes_on_on_the_probe_alone() {
    let mut world = World::new(&small(OnHalt::Pause), &[1, 2, 3]).held();
    world.act(Action::Trip);
    world.act(Action::HalfOpen);
    let probe = *world.probes.first().unwrap();
    while world.nodes.values().all(|node| node.inbox.is_none()) {
        world.act(world.owed().unwrap_or(Action::Wake));
    }
    while let Some(owed) = world.owed() {
        world.act(owed);
    }
    world.act(Action::Wake);
    assert_eq!(world.rows[&probe].state, TargetState::Succeeded);
    assert!(world.sent.iter().all(|(node, _)| *node == probe));
    world.act(Action::Reset);
    assert!(world.runs_to_its_end());
    assert_eq!(world.machine.counts().succeeded, 3);
}

/// A node that is gone for good uses the budget up on the way back.
#[test]
fn a_way_back_that_a_lost_node_blocks_is_given_up() {
    let mut world = World::new(&small(OnHalt::Revert), &[1, 2, 3]).allowing(0, 2, 0);
    while world.journal.wave.is_none_or(|(wave, _)| wave == 0) {
        world.act(world.owed().unwrap_or(Action::Wake));
    }
    let told = |world: &World| {
        let waits = |node: &Node| node.inbox.is_some();
        world
            .nodes
            .iter()
            .find(|(_, node)| waits(node))
            .map(|(n, _)| *n)
    };
    while told(&world).is_none() {
        world.act(Action::Wake);
    }
    world.act(Action::Down(told(&world).unwrap()));
    assert!(world.runs_to_its_end());
    let end = world.journal.finished.unwrap();
    assert_eq!(end.outcome, super::event::Outcome::Halted);
    assert_eq!((end.counts.succeeded, end.counts.silent), (1, 1));
}

#[test]
fn every_order_of_events_with_nodes_set_aside_and_a_crash_keeps_the_invariants() {
    let world = World::new(&small(OnHalt::Pause), &[1, 2])
        .allowing(1, 0, 0)
        .setting_aside(2);
    let worlds = search(world, 5);
    assert!(worlds > 1000, "{worlds}");
}

#[test]
fn every_order_of_events_without_faults_reaches_an_end() {
    let world = World::new(&small(OnHalt::Keep), &[1, 2]).allowing(0, 0, 0);
    let worlds = search(world, 12);
    assert!(worlds > 50, "{worlds}");
}

/// What the search relies on: the machine does stop when it should.
#[test]
fn a_failed_canary_stops_the_small_world() {
    let mut world = World::new(&small(OnHalt::Pause), &[1, 2]);
    world.act(Action::Record);
    let canary = world
        .rows
        .iter()
        .find(|(_, row)| row.state == TargetState::Sent)
        .map(|(node, _)| *node);
    let n = if canary == Some(node_id(1)) { 1 } else { 2 };
    world.act(Action::Act(n, Fate::Fails));
    world.act(Action::Hear(n));
    world.act(Action::Record);
    assert!(matches!(world.journal.stop, Some(Stop::Halted { .. })));
}
