//! What is told of conditions, over policies, restarts and a store without room.

use protocol::condition::Rule;
use protocol::id::{FleetId, NodeId};
use protocol::policy::Policy;
use protocol::telemetry::catalogue::SeriesId;

use super::super::gate::{Named, Silence};
use super::super::time::Tick;
use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn gate(epoch: u64, rules: &[(&str, &str, &str)]) -> Gate {
    let policy = Policy {
        fleet: FleetId::from_bytes([1; 10]),
        epoch,
        issued_at: UnixMillis(1),
        lease_ms: 0,
        gates: Vec::new(),
        overrides: Vec::new(),
        rules: rules
            .iter()
            .map(|(name, nodes, expression)| Rule {
                name: (*name).to_owned(),
                nodes: nodes.parse().unwrap(),
                expression: (*expression).to_owned(),
            })
            .collect(),
    };
    let node = NodeId::from_bytes([2; 10]);
    let none = Silence::default();
    Gate::new(node, Named::default(), Some(policy), none, Tick(0))
}

fn load(hundredths: i64) -> SampleSet {
    let mut samples = SampleSet::new();
    samples.push(SeriesId::LOAD_1, hundredths);
    samples
}

/// Samples of so many moments with this load, from `at` on; what is owed then.
fn feed(conditions: &mut Conditions, gate: &Gate, load_: i64, at: &mut u64, moments: u32) {
    for _ in 0..moments {
        *at += 10_000;
        conditions.step(gate, INTERVAL, &load(load_), UnixMillis(*at));
    }
}

/// What is owed, by rule and whether it holds; taken by the store.
fn tell(conditions: &mut Conditions) -> Vec<(String, bool, u64)> {
    let owed = conditions.owed().map(|(crossings, _)| crossings);
    conditions.told();
    owed.into_iter()
        .flatten()
        .map(|crossing| (crossing.rule, crossing.holds, crossing.epoch))
        .collect()
}

const BUSY: [(&str, &str, &str); 1] = [("busy", "*", "load.1m > 4")];

#[test]
fn a_turn_is_told_once_and_so_is_its_end() {
    let (mut conditions, mut at) = (Conditions::default(), 0);
    let gate = gate(3, &BUSY);
    feed(&mut conditions, &gate, 100, &mut at, 5);
    assert_eq!(tell(&mut conditions), []);
    feed(&mut conditions, &gate, 900, &mut at, 5);
    assert_eq!(tell(&mut conditions), [("busy".to_owned(), true, 3)]);
    feed(&mut conditions, &gate, 900, &mut at, 5);
    assert_eq!(tell(&mut conditions), []);
    feed(&mut conditions, &gate, 100, &mut at, 5);
    assert_eq!(tell(&mut conditions), [("busy".to_owned(), false, 3)]);
}

#[test]
fn what_the_store_had_no_room_for_is_owed_until_it_turns_back() {
    let (mut conditions, mut at) = (Conditions::default(), 0);
    let gate = gate(1, &BUSY);
    feed(&mut conditions, &gate, 900, &mut at, 2);
    assert!(conditions.owed().is_some());
    feed(&mut conditions, &gate, 900, &mut at, 2);
    let (owed, holding) = conditions.owed().unwrap();
    assert_eq!(owed.len(), 1);
    assert_eq!(holding.len(), 1);
    feed(&mut conditions, &gate, 100, &mut at, 5);
    assert_eq!(conditions.owed(), None, "nobody was told that it held");
}

#[test]
fn a_restart_goes_on_where_the_controller_was_told_that_it_was() {
    let (mut conditions, mut at) = (Conditions::default(), 0);
    let gate = gate(1, &BUSY);
    feed(&mut conditions, &gate, 900, &mut at, 2);
    let (_, holding) = conditions.owed().unwrap();

    let mut again = Conditions::resumed(holding.clone());
    feed(&mut again, &gate, 900, &mut at, 5);
    assert_eq!(tell(&mut again), []);
    let mut calm = Conditions::resumed(holding);
    feed(&mut calm, &gate, 100, &mut at, 5);
    assert_eq!(tell(&mut calm), [("busy".to_owned(), false, 1)]);
}

#[test]
fn a_rule_that_is_gone_or_means_others_ceases_to_hold() {
    for rules in [
        &[][..],
        &[("busy", "site=paris", "load.1m > 4")],
        &[("busy", "*", "quantum.flux > 4")],
    ] {
        let (mut conditions, mut at) = (Conditions::default(), 0);
        feed(&mut conditions, &gate(1, &BUSY), 900, &mut at, 2);
        tell(&mut conditions);
        feed(&mut conditions, &gate(2, rules), 900, &mut at, 2);
        assert_eq!(tell(&mut conditions), [("busy".to_owned(), false, 2)]);
    }
}

#[test]
fn a_rule_that_changed_goes_on_from_what_holds() {
    let (mut conditions, mut at) = (Conditions::default(), 0);
    feed(&mut conditions, &gate(1, &BUSY), 900, &mut at, 2);
    tell(&mut conditions);
    let stricter = gate(2, &[("busy", "*", "load.1m > 8")]);
    feed(&mut conditions, &stricter, 900, &mut at, 5);
    assert_eq!(tell(&mut conditions), []);
    feed(&mut conditions, &stricter, 700, &mut at, 5);
    assert_eq!(tell(&mut conditions), [("busy".to_owned(), false, 2)]);
}

#[test]
fn a_policy_that_changes_something_else_does_not_begin_a_watch_anew() {
    let (mut conditions, mut at) = (Conditions::default(), 0);
    let lasting = [("busy", "*", "load.1m > 4 for 1m")];
    for epoch in 1..=8 {
        feed(&mut conditions, &gate(epoch, &lasting), 900, &mut at, 1);
    }
    assert_eq!(tell(&mut conditions), [("busy".to_owned(), true, 7)]);
}

#[test]
fn many_turns_at_once_are_told_in_parts_that_find_room() {
    let names: Vec<String> = (0..20).map(|n| format!("busy-{n}")).collect();
    let rules: Vec<(&str, &str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), "*", "load.1m > 4"))
        .collect();
    let (mut conditions, mut at) = (Conditions::default(), 0);
    let gate = gate(1, &rules);
    feed(&mut conditions, &gate, 900, &mut at, 2);
    let mut told = std::collections::BTreeSet::new();
    for part in [4; 5] {
        let (crossings, holding) = conditions.owed().unwrap();
        assert_eq!(crossings.len(), part);
        told.extend(crossings.into_iter().map(|it| (it.rule, it.label)));
        assert_eq!(holding, told, "what the controller was told, and no more");
        conditions.told();
    }
    assert_eq!(conditions.owed(), None);
}
