//! Alerts at the desk: what nodes say becomes durable once, is told, and trips
//! breakers.

use protocol::breaker::BreakerState;
use protocol::condition::Crossing;

use super::*;
use crate::domain::alert::machine::Phase;
use crate::domain::alert::manage::RemoveAlertRule;
use crate::domain::breaker::definition::{Definition, Group, Signal};
use crate::domain::breaker::manage::{DefineBreaker, RecordBreaker};
use crate::domain::decide::decide;
use crate::domain::given::story::{define_rule, disk_full};
use crate::domain::moment::Moment;
use crate::domain::notice::{Notice, NoticeKind, NoticeState};
use crate::domain::operation::Operation;

fn ask(world: &mut World, operation: &Operation) {
    let at = Moment::new(world.now, [1; 32]);
    let decided = decide(&world.fleet, &Caller::System, operation, &at).unwrap();
    for event in decided.events {
        world.record(event);
    }
}

/// A fleet with a rule and one node.
fn watched() -> (World, Node) {
    let mut world = World::new();
    ask(&mut world, &define_rule(disk_full()));
    let mut node = world.join(1);
    world.connect(&mut node);
    (world, node)
}

fn crossing(node: &mut Node, label: &str, holds: bool, now: UnixMillis) -> Delivery {
    let seq = node.last[Stream::Control.index()] + 1;
    let body = message::encode(&Crossing {
        rule: "disk".to_owned(),
        epoch: 1,
        holds,
        label: label.to_owned(),
        value: "93.0%".to_owned(),
        at: now,
    });
    let entry = Entry {
        seq,
        kind: EntryKind::CONDITION,
        version: Crossing::VERSION,
        body,
    };
    node.upload(Stream::Control, seq - 1, vec![entry], now)
}

fn say(world: &mut World, node: &mut Node, holds: bool) {
    let said = crossing(node, "/", holds, world.now);
    world.deliver(vec![said]);
}

/// What is durable: phases, and turns.
fn durable(world: &World) -> (Vec<Phase>, usize) {
    let alerts = world.desk.intake.alerts().unwrap();
    let phases = alerts.into_iter().map(|(_, alert)| alert.phase);
    let turns = world.desk.intake.alert_turns().unwrap().len();
    (phases.collect(), turns)
}

fn notices(world: &World) -> Vec<Notice> {
    let notices = world.desk.intake.notices(0, 100).unwrap();
    notices.into_iter().map(|(_, notice)| notice).collect()
}

fn told(world: &World) -> Vec<NoticeState> {
    notices(world)
        .into_iter()
        .filter(|notice| notice.kind == NoticeKind::Alert)
        .map(|notice| notice.state)
        .collect()
}

#[test]
fn a_crossing_is_durable_and_told_before_it_is_acknowledged_and_counts_once() {
    let (mut world, mut node) = watched();
    let said = crossing(&mut node, "/", true, world.now);
    world.deliver(vec![said.clone()]);
    assert_eq!(world.acked(&node, Stream::Control), Some(1));
    assert_eq!(durable(&world), (vec![Phase::Firing], 1));
    assert_eq!(told(&world), [NoticeState::Raised]);
    // The same entry again, as after a lost acknowledgement.
    let mut again = node.clone();
    again.last[Stream::Control.index()] = 0;
    let said = crossing(&mut again, "/", true, world.now);
    world.deliver(vec![said]);
    assert_eq!(durable(&world), (vec![Phase::Firing], 1));
    world.restart();
    assert_eq!(world.desk.stats().alerts.firing.values().sum::<u64>(), 1);
    world.connect(&mut node);
    say(&mut world, &mut node, false);
    assert_eq!(told(&world), [NoticeState::Raised, NoticeState::Resolved]);
    assert_eq!(durable(&world), (vec![Phase::Clear], 2));
}

#[test]
fn a_disk_that_is_full_loses_no_crossing_and_counts_none_twice() {
    let (mut world, mut node) = watched();
    world.disk.full.store(true, Ordering::Relaxed);
    let said = crossing(&mut node, "/", true, world.now);
    world.deliver(vec![said.clone()]);
    assert_eq!(world.acked(&node, Stream::Control), None);
    // While it is full, and in the very batch in which it is well again.
    let mut again = node.clone();
    again.last[Stream::Control.index()] = 0;
    let said = crossing(&mut again, "/", true, world.now);
    world.deliver(vec![said]);
    world.disk.full.store(false, Ordering::Relaxed);
    again.last[Stream::Control.index()] = 0;
    let said = crossing(&mut again, "/", true, world.now);
    world.deliver(vec![said]);
    if world.acked(&again, Stream::Control) != Some(1) {
        again.last[Stream::Control.index()] = 0;
        let said = crossing(&mut again, "/", true, world.now);
        world.deliver(vec![said]);
    }
    assert_eq!(durable(&world), (vec![Phase::Firing], 1));
    assert_eq!(told(&world), [NoticeState::Raised]);
}

#[test]
fn a_node_that_falls_silent_keeps_its_alerts_and_one_that_leaves_does_not() {
    let (mut world, mut node) = watched();
    say(&mut world, &mut node, true);
    world.wait(24 * 3600);
    assert_eq!(durable(&world), (vec![Phase::Firing], 1));
    world.record(Event::NodeRevoked(NodeRevoked {
        node: node.id,
        reason: "stolen".to_owned(),
    }));
    world.wait(1);
    assert_eq!(durable(&world), (vec![], 2));
    assert_eq!(told(&world), [NoticeState::Raised, NoticeState::Resolved]);
}

#[test]
fn a_node_whose_store_is_lost_begins_anew_at_its_hello() {
    let (mut world, mut node) = watched();
    say(&mut world, &mut node, true);
    node.store = StoreId::from_bytes([77; 10]);
    node.last = [0; 4];
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    world.wait(1);
    assert_eq!(told(&world), [NoticeState::Raised, NoticeState::Resolved]);
}

#[test]
fn a_removed_rule_resolves_what_it_raised() {
    let (mut world, mut node) = watched();
    say(&mut world, &mut node, true);
    let rule = "disk".to_owned();
    ask(
        &mut world,
        &Operation::RemoveAlertRule(RemoveAlertRule { rule }),
    );
    world.wait(1);
    assert_eq!(told(&world), [NoticeState::Raised, NoticeState::Resolved]);
}

#[test]
fn a_breaker_that_watches_a_condition_trips_when_it_holds_on_enough_nodes() {
    let (mut world, mut node) = watched();
    let mut definition = Definition {
        name: "disks".to_owned(),
        watches: [Signal::Condition("disk".to_owned())].into(),
        ..Definition::fleet()
    };
    definition.rule.trip.count = 2;
    ask(
        &mut world,
        &Operation::DefineBreaker(DefineBreaker {
            definition: Box::new(definition),
        }),
    );
    let mut other = world.join(2);
    world.connect(&mut other);
    say(&mut world, &mut node, true);
    let moves = |world: &mut World| -> Vec<RecordBreaker> {
        std::mem::take(&mut world.events)
            .into_iter()
            .filter_map(|event| {
                if let DeskEvent::Moved(moved) = event {
                    Some(*moved)
                } else {
                    None
                }
            })
            .collect()
    };
    world.wait(1);
    assert_eq!(moves(&mut world), [], "one of two");
    say(&mut world, &mut other, true);
    world.wait(1);
    let moved = moves(&mut world);
    let [moved] = &moved[..] else {
        panic!("{moved:?}");
    };
    assert_eq!(moved.transition.to, BreakerState::Open);
    ask(&mut world, &Operation::RecordBreaker(moved.clone()));
    let known = world.fleet.breakers().get("disks").unwrap();
    assert_eq!(known.state(&Group::Fleet), BreakerState::Open);
}

#[test]
fn a_crossing_of_no_sensible_size_is_quarantined() {
    let (mut world, mut node) = watched();
    let long = "x".repeat(65);
    let said = crossing(&mut node, &long, true, world.now);
    world.deliver(vec![said]);
    assert_eq!(world.acked(&node, Stream::Control), Some(1));
    assert_eq!(world.desk.stats().quarantined, 1);
    assert_eq!(durable(&world), (vec![], 0));
}

#[test]
fn the_controller_says_once_a_minute_that_it_lives_and_keeps_the_last_word() {
    let mut world = World::new();
    world.wait(60);
    assert!(notices(&world).is_empty(), "nobody wants to hear it");
    super::notices::set_for(&mut world, 1, BTreeSet::from([NoticeKind::Heartbeat]));
    let mut beats = BTreeSet::new();
    for _ in 0..299 {
        world.wait(1);
        let notices = notices(&world);
        let [beat] = &notices[..] else {
            panic!("{notices:?}");
        };
        assert_eq!(beat.kind, NoticeKind::Heartbeat);
        assert!(world.now.since(beat.at) < super::super::HEARTBEAT_EVERY);
        beats.insert(beat.at);
    }
    assert_eq!(beats.len(), 5);
    // It proves that what nodes say can be kept.
    world.disk.full.store(true, Ordering::Relaxed);
    world.wait(60);
    world.disk.full.store(false, Ordering::Relaxed);
    let last = world.desk.intake.notices(0, 10);
    assert!(last.is_err() || last.unwrap().iter().all(|(_, it)| beats.contains(&it.at)));
}
