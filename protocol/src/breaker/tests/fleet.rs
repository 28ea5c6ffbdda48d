//! Two exhaustive searches: the machine alone, and the machine in a controller
//! with three nodes that hold its signed policy.
//!
//! In the second one every policy that was ever published may reach any node at
//! any time and any number of times, or never: that is loss, delay, duplication
//! and reordering in one. Nodes and the controller stop at any time and start
//! again with what is on their disks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::super::BreakerState;
use super::super::machine::{Breaker, Input, Order, Permit, Reason, Transition};
use super::super::rule::{BreakerRule, Confidence, Recovery, Trip};
use super::search::search;
use crate::id::{DeploymentId, FleetId, NodeId};
use crate::key::SigningKey;
use crate::label::Labels;
use crate::policy::{
    Attempt, Gate, Gated, Policy, PolicyError, Scope, SignedPolicy, Standing as Heard,
};
use crate::selector::Subject;
use crate::time::UnixMillis;

/// Everything small, so that a search gets everywhere.
fn rule(probes: u32) -> BreakerRule {
    BreakerRule {
        trip: Trip {
            consecutive: 1,
            count: 0,
            percent: 0,
            min_samples: 1,
            confidence: Confidence::P95,
            window_ms: 20,
        },
        recovery: Recovery {
            cool_down_ms: 1,
            cool_down_ms_max: 2,
            probes,
            successes: probes,
            probe_limit_ms: 2,
        },
    }
}

fn order() -> Order {
    Order {
        by: String::new(),
        why: String::new(),
    }
}

/// A machine, the time, and what is known of it from outside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Alone {
    breaker: Breaker,
    now: u64,
    /// Probes that were let through in the newest round and have not ended.
    running: Vec<u64>,
    /// Permits of the newest round, and how many of them ended well.
    given: u32,
    good: u32,
    moved: Vec<Transition>,
}

#[derive(Clone, Debug)]
enum Act {
    Step(Input),
    Admit,
    End { round: u64, ok: bool },
    Onward,
    Back,
}

fn next_alone(before: &Alone) -> Vec<(Act, Alone)> {
    let mut acts = vec![Act::Admit, Act::Onward, Act::Back];
    acts.extend(
        [
            Input::Sample { ok: true },
            Input::Sample { ok: false },
            Input::ProbeResult { round: 9, ok: true },
            Input::Trip(order()),
            Input::Isolate(order()),
            Input::Reset(order()),
            Input::Tick,
        ]
        .map(Act::Step),
    );
    let rounds: BTreeSet<u64> = before.running.iter().copied().collect();
    for round in rounds {
        acts.extend([true, false].map(|ok| Act::End { round, ok }));
    }
    acts.into_iter()
        .map(|act| {
            let mut after = before.clone();
            after.act(&act);
            (act, after)
        })
        .collect()
}

impl Alone {
    fn act(&mut self, act: &Act) {
        self.moved.clear();
        let now = UnixMillis(self.now);
        let round = self.breaker.standing().round;
        match act {
            Act::Onward => self.now += 1,
            Act::Back => self.now = self.now.saturating_sub(2),
            Act::Admit => {
                if let Some(Permit::Probe { round }) = self.breaker.admit(now) {
                    self.running.push(round);
                    self.given += 1;
                }
            }
            Act::Step(input) => self.moved = self.breaker.step(input.clone(), now),
            Act::End { round: of, ok } => {
                let at = self.running.iter().position(|running| running == of);
                self.running.remove(at.unwrap());
                self.good += u32::from(*ok && *of == round);
                let input = Permit::Probe { round: *of }.result(*ok);
                self.moved = self.breaker.step(input, now);
            }
        }
        if self.breaker.standing().round != round {
            (self.given, self.good) = (0, 0);
        }
    }

    fn holds(&self) -> Result<(), String> {
        let recovery = &self.breaker.rule().recovery;
        if self.given > recovery.probes {
            return Err(format!("{} probes were let through", self.given));
        }
        for moved in &self.moved {
            let fair = match &moved.reason {
                Reason::Reset(_) => moved.to == BreakerState::Closed,
                Reason::ProbesSucceeded { .. } => {
                    moved.from == BreakerState::HalfOpen && self.good >= recovery.successes
                }
                Reason::Consecutive { .. }
                | Reason::Count { .. }
                | Reason::Share { .. }
                | Reason::Tripped(_)
                | Reason::Isolated(_)
                | Reason::CooledDown { .. }
                | Reason::ProbesFailed { .. }
                | Reason::ProbesSilent { .. } => {
                    moved.to != BreakerState::Closed && moved.from != BreakerState::Isolated
                }
            };
            if !fair {
                return Err(format!("moved unfairly: {moved:?}"));
            }
        }
        let closed = self.breaker.state() == BreakerState::Closed;
        if closed != (self.breaker.admits() == Some(Permit::Ordinary)) {
            return Err("ordinary work passes exactly while it is closed".to_owned());
        }
        Ok(())
    }
}

#[test]
fn every_short_story_of_a_breaker_is_fair() {
    let start = Alone {
        breaker: Breaker::new(rule(2)),
        now: 3,
        running: Vec::new(),
        given: 0,
        good: 0,
        moved: Vec::new(),
    };
    let reached = search(start, 9, next_alone, Alone::holds);
    assert!(reached.states > 10_000 && reached.depth == 9, "{reached:?}");
}

const NODES: usize = 3;

/// Steps of the longest story of the system that is searched: enough for a trip,
/// its news, a round of probes, and their result. Each further step multiplies the
/// states by three.
const DEPTH: usize = 7;

/// One published policy: what its gate says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Issue {
    state: BreakerState,
    round: u64,
    probes: BTreeSet<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Node {
    /// The epoch on its disk.
    held: u64,
    /// The highest epoch that it was ever given, by our own books.
    knew: u64,
    running: Option<Ended>,
}

/// What an operation counts as for the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Ordinary,
    Probe { round: u64 },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct System {
    now: u64,
    breaker: Breaker,
    /// The controller's journal.
    recorded: Vec<Transition>,
    /// Everything published: the first has epoch 1.
    issues: Vec<Issue>,
    nodes: Vec<Node>,
    /// Results that have not reached the controller.
    results: Vec<(Ended, bool)>,
    /// Nodes that began something as a probe, by round.
    probed: BTreeSet<(u64, usize)>,
    orders: u32,
    broken: Option<String>,
}

#[derive(Clone, Debug)]
enum Event {
    Deliver { node: usize, epoch: u64 },
    Forged { node: usize },
    Attempt { node: usize },
    End { node: usize, ok: bool },
    Crash { node: usize },
    Result { index: usize },
    Restart,
    Onward,
    Order(Input),
}

type Verified = Result<Policy, PolicyError>;

/// What is the same in every state: keys, names, and policies signed before.
struct World {
    fleet: FleetId,
    key: SigningKey,
    forger: SigningKey,
    labels: Labels,
    signed: RefCell<BTreeMap<(u64, Issue), SignedPolicy>>,
    /// By epoch, policy, and the epoch that was held.
    verified: RefCell<BTreeMap<(u64, Issue, u64), Verified>>,
}

fn id(node: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(node).unwrap() + 1; 10])
}

impl World {
    fn policy(&self, epoch: u64, issue: &Issue) -> Policy {
        let gate = Gate {
            breaker: "fleet".to_owned(),
            state: issue.state,
            since: UnixMillis(0),
            scope: Scope::Fleet,
            gated: Gated {
                deploy: true,
                ..Gated::default()
            },
            probes: issue.probes.iter().map(|node| id(*node)).collect(),
            reason: String::new(),
        };
        let open = issue.state != BreakerState::Closed;
        Policy {
            fleet: self.fleet,
            epoch,
            issued_at: UnixMillis(0),
            lease_ms: 0,
            gates: open.then_some(gate).into_iter().collect(),
            overrides: Vec::new(),
            rules: Vec::new(),
        }
    }

    fn verify(&self, epoch: u64, issue: &Issue, held: u64) -> Verified {
        let mut verified = self.verified.borrow_mut();
        let key = (epoch, issue.clone(), held);
        verified
            .entry(key)
            .or_insert_with(|| {
                let mut signed = self.signed.borrow_mut();
                let signed = signed
                    .entry((epoch, issue.clone()))
                    .or_insert_with(|| self.policy(epoch, issue).sign(&self.key));
                signed.verify(&[self.key.public()], self.fleet, held)
            })
            .clone()
    }

    fn admits(&self, policy: &Policy, node: usize, now: u64) -> bool {
        let name = "node";
        let subject = Subject {
            id: id(node),
            name,
            labels: &self.labels,
        };
        let heard = Heard {
            now: UnixMillis(now),
            heard_at: None,
        };
        let attempt = Attempt::Deploy(DeploymentId::from_bytes([7; 10]));
        policy.admit(subject, attempt, heard).is_ok()
    }

    fn next(&self, before: &System) -> Vec<(Event, System)> {
        let mut events = vec![Event::Restart];
        if before.now < 5 {
            events.push(Event::Onward);
        }
        if before.orders < 2 {
            let orders = [
                Input::Trip(order()),
                Input::Isolate(order()),
                Input::Reset(order()),
            ];
            events.extend(orders.map(Event::Order));
        }
        events.extend((0..before.results.len()).map(|index| Event::Result { index }));
        for (node, held) in before.nodes.iter().enumerate() {
            if held.running.is_some() {
                events.extend([true, false].map(|ok| Event::End { node, ok }));
                events.push(Event::Crash { node });
            } else {
                events.push(Event::Attempt { node });
            }
            events.push(Event::Forged { node });
            let epochs = 1..=before.issues.len() as u64;
            events.extend(epochs.map(|epoch| Event::Deliver { node, epoch }));
        }
        events
            .into_iter()
            .map(|event| {
                let mut after = before.clone();
                self.happen(&mut after, &event);
                // Nodes but the one that is always the probe are alike.
                after.nodes[1..].sort();
                after.results.sort();
                (event, after)
            })
            .collect()
    }

    fn happen(&self, system: &mut System, event: &Event) {
        match event {
            Event::Onward => {
                system.now += 1;
                system.control(Input::Tick);
            }
            Event::Order(input) => {
                system.orders += 1;
                system.control(input.clone());
            }
            Event::Restart => {
                system.breaker = Breaker::replay(*system.breaker.rule(), &system.recorded);
            }
            Event::Result { index } => {
                let (ended, ok) = system.results.remove(*index);
                system.control(match ended {
                    Ended::Ordinary => Input::Sample { ok },
                    Ended::Probe { round } => Input::ProbeResult { round, ok },
                });
            }
            Event::Crash { node } => system.nodes[*node].running = None,
            Event::End { node, ok } => {
                let ended = system.nodes[*node].running.take().unwrap();
                system.results.push((ended, *ok));
            }
            Event::Forged { node } => {
                let forged = Issue {
                    state: BreakerState::Closed,
                    round: 0,
                    probes: BTreeSet::new(),
                };
                let held = system.nodes[*node].held;
                let key = (u64::MAX, forged, held);
                let mut verified = self.verified.borrow_mut();
                let taken = verified
                    .entry(key)
                    .or_insert_with_key(|(epoch, forged, _)| {
                        let signed = self.policy(*epoch, forged).sign(&self.forger);
                        signed.verify(&[self.key.public()], self.fleet, held)
                    });
                if taken.is_ok() {
                    system.broken = Some("a forged policy was taken".to_owned());
                }
            }
            Event::Deliver { node, epoch } => self.deliver(system, *node, *epoch),
            Event::Attempt { node } => self.attempt(system, *node),
        }
    }

    fn deliver(&self, system: &mut System, number: usize, epoch: u64) {
        let issue = &system.issues[usize::try_from(epoch).unwrap() - 1];
        let node = &mut system.nodes[number];
        node.knew = node.knew.max(epoch);
        if let Ok(policy) = self.verify(epoch, issue, node.held) {
            node.held = policy.epoch;
        }
        if node.held < node.knew {
            system.broken = Some(format!("node {number} holds less than it was given"));
        }
    }

    /// A node attempts, by what is on its disk; the books say what it knew.
    fn attempt(&self, system: &mut System, number: usize) {
        let issue = |epoch: u64| {
            let index = usize::try_from(epoch).ok()?.checked_sub(1)?;
            system.issues.get(index)
        };
        let node = &system.nodes[number];
        let policy = issue(node.held).map(|issue| self.verify(node.held, issue, 0).unwrap());
        if policy.is_some_and(|policy| !self.admits(&policy, number, system.now)) {
            return;
        }
        let known = issue(node.knew);
        let state = known.map_or(BreakerState::Closed, |issue| issue.state);
        let probe = known.filter(|issue| issue.probes.contains(&number));
        let round = probe.map(|issue| issue.round);
        let fair = match state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => probe.is_some(),
            BreakerState::Open | BreakerState::Isolated => false,
        };
        if !fair {
            system.broken = Some(format!("node {number} began, and knew it is {state:?}"));
        }
        let as_probe = round.filter(|_| state == BreakerState::HalfOpen);
        system.probed.extend(as_probe.map(|round| (round, number)));
        let ended = as_probe.map_or(Ended::Ordinary, |round| Ended::Probe { round });
        system.nodes[number].running = Some(ended);
    }
}

impl System {
    /// The controller steps its breaker, records what moved, names the probes and
    /// publishes.
    fn control(&mut self, input: Input) {
        let now = UnixMillis(self.now);
        for moved in self.breaker.step(input, now) {
            let mut probes = BTreeSet::new();
            if moved.to == BreakerState::HalfOpen && self.breaker.state() == moved.to {
                let named = (0..NODES).take_while(|_| self.breaker.admit(now).is_some());
                probes.extend(named);
            }
            self.issues.push(Issue {
                state: moved.to,
                round: moved.round,
                probes,
            });
            self.recorded.push(moved);
        }
    }

    fn holds(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let most = self.breaker.rule().recovery.probes as usize;
        for (round, _) in &self.probed {
            let probed = self.probed.iter().filter(|(of, _)| of == round).count();
            if probed > most {
                return Err(format!("{probed} nodes probed in round {round}"));
            }
        }
        if self.breaker.standing()
            != Breaker::replay(*self.breaker.rule(), &self.recorded).standing()
        {
            return Err("the journal says something else".to_owned());
        }
        Ok(())
    }
}

/// Searches what may follow on these events, within so many more.
#[track_caller]
fn check(told: &[Event], depth: usize) {
    let key = |seed| SigningKey::from_seed(&[seed; 32]).unwrap();
    let world = World {
        fleet: FleetId::from_bytes([1; 10]),
        key: key(1),
        forger: key(2),
        labels: Labels::new(),
        signed: RefCell::default(),
        verified: RefCell::default(),
    };
    let start = System {
        now: 0,
        breaker: Breaker::new(rule(1)),
        recorded: Vec::new(),
        issues: Vec::new(),
        nodes: vec![Node::default(); NODES],
        results: Vec::new(),
        probed: BTreeSet::new(),
        orders: 0,
        broken: None,
    };
    let start = told.iter().fold(start, |mut system, event| {
        world.happen(&mut system, event);
        system
    });
    let reached = search(start, depth, |system| world.next(system), System::holds);
    assert!(reached.states > 5_000, "{reached:?}");
    assert_eq!(reached.depth, depth);
}

#[test]
fn no_gated_operation_starts_on_a_node_that_knows_an_open_breaker() {
    check(&[], DEPTH);
}

/// One node probes, one knows that it is open, one knows nothing.
#[test]
fn nor_does_one_while_a_probe_runs() {
    let told = [
        Event::Order(Input::Trip(order())),
        Event::Deliver { node: 0, epoch: 1 },
        Event::Deliver { node: 1, epoch: 1 },
        Event::Onward,
        Event::Deliver { node: 0, epoch: 2 },
        Event::Attempt { node: 0 },
    ];
    check(&told, DEPTH - 1);
}
