//! Breakers and the policy at the desk, with nodes that fail as they are told and
//! an engine that decides and records.

use std::collections::BTreeSet;

use protocol::breaker::BreakerState;
use protocol::policy::Policy;

use super::*;
use crate::domain::breaker::definition::{Definition, Group, Signal, Span};
use crate::domain::breaker::manage::{
    DefineBreaker, EndOverride, Hand, MoveBreaker, OverrideBreaker, RaisePolicy,
};
use crate::domain::decide::decide;
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;

const FAILED: Outcome = Outcome::Failed { exit: Some(1) };

pub(super) fn ask(world: &mut World, operation: &Operation) {
    let at = Moment::new(world.now, [1; 32]);
    let decided = decide(&world.fleet, &Caller::System, operation, &at);
    if let Ok(decided) = decided {
        for event in decided.events {
            world.record(event);
        }
    }
}

/// The engine records what the desk asks for.
pub(super) fn engine(world: &mut World) {
    for event in std::mem::take(&mut world.events) {
        let operation = match event {
            DeskEvent::Moved(moved) => Operation::RecordBreaker(*moved),
            DeskEvent::OverrideOver(number) => Operation::EndOverride(EndOverride { number }),
            DeskEvent::PolicyAhead { epoch, .. } => Operation::RaisePolicy(RaisePolicy {
                above: epoch,
                signer: controller_key().public().id(),
            }),
            other @ (DeskEvent::Suspected { .. }
            | DeskEvent::Behind { .. }
            | DeskEvent::Concluded { .. }
            | DeskEvent::Progress { .. }
            | DeskEvent::Ended { .. }
            | DeskEvent::Decided(_)
            | DeskEvent::Gone(_)
            | DeskEvent::DrainOver(_)
            | DeskEvent::Disconnect(_)
            | DeskEvent::Lost { .. }) => {
                world.events.push(other);
                continue;
            }
        };
        ask(world, &operation);
    }
}

/// Three failed commands in a row stop programs everywhere.
fn programs() -> Definition {
    let mut definition = Definition {
        name: "programs".to_owned(),
        watches: BTreeSet::from([Signal::Command]),
        span: Span::Fleet,
        ..Definition::fleet()
    };
    definition.rule.trip.consecutive = 3;
    definition.gated.commands = BTreeSet::from(["run".to_owned()]);
    definition
}

pub(super) fn define(world: &mut World, definition: Definition) {
    let definition = Box::new(definition);
    ask(
        world,
        &Operation::DefineBreaker(DefineBreaker { definition }),
    );
}

pub(super) fn trip(world: &mut World, to: Hand) {
    let asked = MoveBreaker {
        breaker: "fleet".to_owned(),
        group: None,
        to,
        reason: "it smells".to_owned(),
    };
    ask(world, &Operation::MoveBreaker(asked));
}

pub(super) fn run() -> Action {
    Action::Run {
        argv: vec!["true".to_owned()],
    }
}

/// Gives a node a command, which ends like that.
pub(super) fn command(world: &mut World, node: &mut Node, number: u8, outcome: Outcome) {
    let id = world.issue(number, run(), &[node.id]);
    world.wait(1);
    let seq = node.last[Stream::Control.index()] + 1;
    let receipt = node.receipt(seq, id, outcome, world.now);
    world.deliver(vec![receipt]);
}

fn state(world: &World, breaker: &str) -> BreakerState {
    world
        .fleet
        .breakers()
        .get(breaker)
        .unwrap()
        .state(&Group::Fleet)
}

/// The policies that went to all, as a node would read them.
pub(super) fn published(world: &World) -> Vec<Policy> {
    world
        .heard
        .iter()
        .filter_map(|(topic, heard)| {
            if let (Topic::All, Heard::Policy(signed)) = (topic, heard) {
                Some(signed.verify(&[world.controller], FLEET, 0).unwrap())
            } else {
                None
            }
        })
        .collect()
}

/// The epochs of the policies that a node was given since the last call.
fn given(world: &mut World, node: &Node) -> Vec<u64> {
    let controller = world.controller;
    world
        .told(node)
        .into_iter()
        .filter_map(|heard| {
            if let Heard::Down(Down {
                body: DownBody::Policy(signed),
                ..
            }) = heard
            {
                Some(signed.verify(&[controller], FLEET, 0).unwrap().epoch)
            } else {
                None
            }
        })
        .collect()
}

fn beat(world: &mut World, node: &mut Node, seen: u64) {
    world.wait(1);
    let heartbeat = node.heartbeat(seen, world.now);
    world.deliver(vec![heartbeat]);
}

#[test]
fn a_policy_goes_to_all_at_once_and_to_each_session_at_its_next_heartbeat() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    assert_eq!(given(&mut world, &node), [0; 0]);
    trip(&mut world, Hand::Trip);
    let [policy] = &published(&world)[..] else {
        panic!("it went out once");
    };
    assert_eq!((policy.epoch, policy.gates.len()), (1, 1));
    // The broadcast is lost on this node; its heartbeat brings it, once.
    assert_eq!(given(&mut world, &node), [0; 0]);
    beat(&mut world, &mut node, 0);
    assert_eq!(given(&mut world, &node), [1]);
    beat(&mut world, &mut node, 1);
    assert_eq!(given(&mut world, &node), [0; 0]);
    trip(&mut world, Hand::Reset);
    beat(&mut world, &mut node, 1);
    assert_eq!(given(&mut world, &node), [2]);
}

#[test]
fn a_node_that_comes_back_behind_gets_the_policy_with_its_welcome() {
    let mut world = World::new();
    let mut node = world.join(1);
    trip(&mut world, Hand::Trip);
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    assert_eq!(given(&mut world, &node), [1]);
    node.policy_epoch = 1;
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    assert_eq!(given(&mut world, &node), [0; 0]);
    // After a restart of the controller it is the same policy, to the byte.
    world.restart();
    node.policy_epoch = 0;
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    assert_eq!(given(&mut world, &node), [1]);
}

#[test]
fn a_policy_that_another_key_signs_is_a_new_one_to_everyone() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    trip(&mut world, Hand::Trip);
    beat(&mut world, &mut node, 0);
    assert_eq!(given(&mut world, &node), [1]);
    let next = Arc::new(SigningKey::from_seed(&[98; 32]).unwrap());
    world.heard.clear();
    world.desk.set_key(Arc::clone(&next));
    world.controller = next.public();
    let signer = next.public().id();
    let raise = RaisePolicy { above: 0, signer };
    ask(&mut world, &Operation::RaisePolicy(raise));
    assert_eq!(published(&world).pop().unwrap().epoch, 2);
    beat(&mut world, &mut node, 1);
    assert_eq!(given(&mut world, &node), [2]);
}

#[test]
fn a_node_that_holds_a_policy_of_before_a_restore_is_overtaken() {
    let mut world = World::new();
    let mut node = world.join(1);
    node.policy_epoch = 40;
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    engine(&mut world);
    assert_eq!(world.fleet.breakers().published().epoch, 41);
    beat(&mut world, &mut node, 0);
    assert_eq!(given(&mut world, &node), [41]);
}

#[test]
fn failed_commands_trip_a_breaker_once_it_is_recorded_and_are_asked_again_until_then() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    define(&mut world, programs());
    let before = published(&world).len();
    for number in 1..=3 {
        command(&mut world, &mut node, number, FAILED);
    }
    let asked = |world: &World| {
        world
            .events
            .iter()
            .filter(|event| matches!(event, DeskEvent::Moved(_)))
            .count()
    };
    assert_eq!(asked(&world), 1);
    // Lost on its way: nobody was told anything.
    world.events.clear();
    assert_eq!(state(&world, "programs"), BreakerState::Closed);
    assert_eq!(published(&world).len(), before);
    world.wait(2);
    assert_eq!(asked(&world), 0);
    world.wait(4);
    assert_eq!(asked(&world), 1);
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::Open);
    let policy = published(&world).pop().unwrap();
    assert_eq!(policy.gates[0].reason, "3 failures in a row, 3 trip it");
    world.wait(6);
    assert_eq!(asked(&world), 0);
    let moves = &world.desk.stats().breaker_transitions;
    assert_eq!(moves.get(&("closed", "open")), Some(&1));
}

#[test]
fn what_could_not_be_kept_is_not_counted_twice() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    define(&mut world, programs());
    for number in 1..=2 {
        let id = world.issue(number, run(), &[node.id]);
        world.wait(1);
        let seq = node.last[Stream::Control.index()] + 1;
        let receipt = node.receipt(seq, id, FAILED, world.now);
        world.disk.full.store(true, Ordering::Relaxed);
        world.deliver(vec![receipt]);
        world.disk.full.store(false, Ordering::Relaxed);
        world.wait(1);
        let again = node.receipt(seq, id, FAILED, world.now);
        world.deliver(vec![again]);
    }
    world.wait(2);
    let moved = world
        .events
        .iter()
        .any(|event| matches!(event, DeskEvent::Moved(_)));
    assert!(!moved, "two failures are not three");
}

#[test]
fn a_half_open_breaker_names_its_probes_and_closes_by_them_alone() {
    let mut world = World::new();
    let mut nodes: Vec<Node> = (1..=4).map(|number| world.join(number)).collect();
    for node in &mut nodes {
        world.connect(node);
    }
    define(&mut world, programs());
    for number in 1..=3 {
        command(&mut world, &mut nodes[0], number, FAILED);
    }
    engine(&mut world);
    world.now = world.now.after(Duration::from_secs(601));
    // Nobody is up: there is nobody to try.
    world.wait(2);
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::Open);
    for node in &mut nodes {
        world.connect(node);
    }
    world.wait(2);
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::HalfOpen);
    let probes = published(&world).pop().unwrap().gates[0].probes.clone();
    assert_eq!(probes.len(), 2);
    for (number, node) in (10..).zip(nodes.iter_mut()) {
        // Whoever is no probe says nothing of whether it can close.
        let outcome = if probes.contains(&node.id) {
            Outcome::Succeeded
        } else {
            FAILED
        };
        command(&mut world, node, number, outcome);
    }
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::Closed);
    assert_eq!(published(&world).pop().unwrap().gates, []);
}

#[test]
fn silence_after_a_change_is_a_failure_and_silence_without_one_is_not() {
    let mut world = World::new();
    let mut nodes: Vec<Node> = (1..=2).map(|number| world.join(number)).collect();
    for node in &mut nodes {
        world.connect(node);
    }
    let mut definition = programs();
    definition.watches = BTreeSet::from([Signal::Silence]);
    definition.rule.trip.consecutive = 1;
    define(&mut world, definition);
    // Read only: no change.
    world.issue(1, Action::Ping, &[nodes[0].id]);
    world.wait(61);
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::Closed);
    world.connect(&mut nodes[1]);
    world.issue(2, run(), &[nodes[1].id]);
    world.wait(1);
    world.wait(90);
    engine(&mut world);
    assert_eq!(state(&world, "programs"), BreakerState::Open);
}

#[test]
fn an_override_ends_by_itself_when_its_time_has_passed() {
    let mut world = World::new();
    trip(&mut world, Hand::Isolate);
    let asked = OverrideBreaker {
        breaker: "fleet".to_owned(),
        nodes: "*".parse().unwrap(),
        lifetime: Duration::from_secs(60),
        reason: "the fix itself".to_owned(),
    };
    ask(&mut world, &Operation::OverrideBreaker(asked));
    world.wait(30);
    engine(&mut world);
    assert_eq!(world.fleet.breakers().overrides().count(), 1);
    world.wait(31);
    engine(&mut world);
    assert_eq!(world.fleet.breakers().overrides().count(), 0);
    assert_eq!(published(&world).pop().unwrap().overrides, []);
}
