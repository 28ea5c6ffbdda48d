//! Nodes that are cordoned, drained and put back into service, as rollouts and their
//! nodes see it.

use std::collections::BTreeSet;

use protocol::policy::Gated;
use protocol::selector::Selector;

use super::deployments::{Fleetlet, WEB, quick};
use super::*;
use crate::domain::fleet::cordon::{AfterDrain, DrainOutcome};
use crate::domain::fleet::event::{DrainStarted, NodesCordoned, NodesUncordoned};
use crate::domain::rollout::event::Outcome as End;
use crate::domain::rollout::params::{Amount, Budget, Params, Wave};
use crate::domain::rollout::target::TargetState;
use crate::domain::window::Definition;
use crate::domain::window::event::{WindowOpened, WindowSet};
use crate::domain::window::schedule::{Days, Schedule};

const REASON: &str = "new kernel";

fn ids(fleet: &Fleetlet, hosts: &[usize]) -> BTreeSet<NodeId> {
    hosts.iter().map(|it| fleet.hosts[*it].node.id).collect()
}

fn cordon(fleet: &mut Fleetlet, hosts: &[usize]) {
    let (nodes, reason) = (ids(fleet, hosts), REASON.to_owned());
    fleet
        .world
        .record(Event::NodesCordoned(NodesCordoned { nodes, reason }));
}

fn uncordon(fleet: &mut Fleetlet, hosts: &[usize]) {
    let (nodes, reason) = (ids(fleet, hosts), REASON.to_owned());
    fleet
        .world
        .record(Event::NodesUncordoned(NodesUncordoned { nodes, reason }));
}

fn drain(fleet: &mut Fleetlet, hosts: &[usize], seconds: u64, then: AfterDrain) {
    let event = DrainStarted {
        nodes: ids(fleet, hosts),
        reason: REASON.to_owned(),
        until: fleet.world.now.after(Duration::from_secs(seconds)),
        then,
    };
    fleet.world.record(Event::DrainStarted(event));
}

/// How a drain stands: none while it goes on.
fn drain_of(fleet: &Fleetlet, host: usize) -> Option<DrainOutcome> {
    let node = fleet.world.fleet.node(fleet.hosts[host].node.id).unwrap();
    let drain = node.cordon.as_ref().unwrap().drain.as_ref().unwrap();
    drain.ended.map(|(_, how)| how)
}

fn state(fleet: &Fleetlet, rollout: protocol::id::RolloutId, host: usize) -> TargetState {
    let running = &fleet.world.desk.deployments.running[&rollout];
    let row = running.machine.row(fleet.hosts[host].node.id).unwrap();
    row.state
}

fn waits_for(fleet: &Fleetlet, host: usize) -> String {
    let shown = fleet.world.desk.board().drain(fleet.hosts[host].node.id);
    shown
        .and_then(|status| status.left.get("web").cloned())
        .unwrap_or_default()
}

fn one_at_a_time() -> Params {
    Params {
        budget: Budget {
            unavailable_max: Some(Amount::Count(1)),
            ..Budget::default()
        },
        ..quick()
    }
}

#[test]
fn a_cordoned_node_gets_no_revision_and_nobody_waits_for_it() {
    let mut fleet = Fleetlet::new(3);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    assert_eq!(fleet.levels(), [Some(1); 3]);
    cordon(&mut fleet, &[1]);
    let second = fleet.apply(2, "*", quick());
    fleet.play(240);
    assert_eq!(fleet.end_of(second), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(2), Some(1), Some(2)]);
    assert_eq!(state(&fleet, second, 1), TargetState::Cordoned);
    let counts = fleet.world.fleet.rollouts().get(second).unwrap();
    let counts = counts.course.finished.as_ref().unwrap().counts;
    assert_eq!((counts.succeeded, counts.unreached), (2, 1));
    assert_eq!((counts.failed, counts.silent), (0, 0));

    uncordon(&mut fleet, &[1]);
    fleet.play(30);
    assert_eq!(fleet.levels(), [Some(2); 3]);
}

#[test]
fn a_node_that_is_cordoned_in_mid_rollout_is_passed_over_also_by_a_new_controller() {
    let mut fleet = Fleetlet::new(3);
    let params = Params {
        waves: vec![Wave::default()],
        ..quick()
    };
    let rollout = fleet.apply(1, "*", params);
    cordon(&mut fleet, &[0, 1, 2]);
    fleet.play(5);
    fleet.world.restart();
    for host in 0..3 {
        fleet.back(host);
    }
    fleet.play(60);
    assert_eq!(fleet.levels(), [None; 3]);
    uncordon(&mut fleet, &[2]);
    fleet.play(60);
    assert_eq!(fleet.levels(), [None, None, Some(1)]);
    assert_eq!(state(&fleet, rollout, 0), TargetState::Cordoned);
}

#[test]
fn a_rollback_reaches_a_cordoned_node_that_has_the_deployment() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.apply(2, "*", quick());
    fleet.play(240);
    cordon(&mut fleet, &[0]);
    fleet.roll_back(3, quick());
    fleet.play(240);
    assert_eq!(fleet.levels(), [Some(3); 2]);
}

#[test]
fn a_rollback_brings_nothing_to_a_node_that_was_drained() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.apply(2, "*", quick());
    fleet.play(240);
    drain(&mut fleet, &[0], 60, AfterDrain::Stay);
    fleet.play(10);
    fleet.roll_back(3, quick());
    fleet.play(240);
    assert_eq!(fleet.levels(), [None, Some(3)]);
}

#[test]
fn a_drained_node_loses_what_it_has_and_gets_it_back_when_it_is_uncordoned() {
    let mut fleet = Fleetlet::new(3);
    let rollout = fleet.apply(1, "*", quick());
    fleet.play(240);
    drain(&mut fleet, &[1], 60, AfterDrain::Stay);
    fleet.play(10);
    assert_eq!(fleet.levels(), [Some(1), None, Some(1)]);
    assert_eq!(drain_of(&fleet, 1), Some(DrainOutcome::Drained));
    assert_eq!(state(&fleet, rollout, 1), TargetState::Drained);
    // It stays so, whatever is rolled out.
    fleet.apply(2, "*", quick());
    fleet.play(240);
    assert_eq!(fleet.levels(), [Some(2), None, Some(2)]);
    uncordon(&mut fleet, &[1]);
    fleet.play(30);
    assert_eq!(fleet.levels(), [Some(2); 3]);
}

#[test]
fn several_drains_at_once_keep_to_the_budget_and_say_what_they_wait_for() {
    let mut fleet = Fleetlet::new(4);
    fleet.apply(1, "*", one_at_a_time());
    fleet.play(600);
    assert_eq!(fleet.levels(), [Some(1); 4]);
    drain(&mut fleet, &[0, 1], 120, AfterDrain::Stay);
    for _ in 0..60 {
        fleet.play(1);
        let without = fleet.levels().iter().filter(|it| it.is_none()).count();
        assert!(without <= 1, "{without} of 4 are without it");
    }
    let gone: Vec<usize> = (0..2).filter(|it| fleet.levels()[*it].is_none()).collect();
    assert_eq!(gone.len(), 1);
    let waiting = 1 - gone[0];
    assert!(
        waits_for(&fleet, waiting).contains("1 of 4 nodes are unavailable"),
        "{}",
        waits_for(&fleet, waiting)
    );
    uncordon(&mut fleet, &gone);
    fleet.play(50);
    assert_eq!(fleet.levels()[waiting], None);
    assert_eq!(fleet.levels()[gone[0]], Some(1));
    assert_eq!(drain_of(&fleet, waiting), Some(DrainOutcome::Drained));
}

#[test]
fn a_budget_that_never_allows_it_ends_the_drain_at_once() {
    let mut fleet = Fleetlet::new(2);
    let mut params = quick();
    params.budget.available_min = Some(Amount::Percent(50));
    fleet.apply(1, "*", params);
    fleet.play(600);
    assert_eq!(fleet.levels(), [Some(1); 2]);
    let mut strict = quick();
    strict.budget.available_min = Some(Amount::Percent(100));
    // Nothing changes under it, so it is held as a node is away from the start.
    let second = fleet.apply(2, "*", strict);
    fleet.play(60);
    assert_ne!(fleet.end_of(second), Some(End::Completed));
    drain(&mut fleet, &[0], 86_400, AfterDrain::Stay);
    fleet.play(10);
    assert_eq!(drain_of(&fleet, 0), Some(DrainOutcome::Forbidden));
    assert_eq!(fleet.levels()[0], Some(1));
}

#[test]
fn a_node_that_is_away_is_drained_when_it_is_back_and_until_then_its_time_runs() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.hosts[1].away = true;
    drain(&mut fleet, &[1], 90, AfterDrain::Stay);
    fleet.play(80);
    assert_eq!(waits_for(&fleet, 1), "the node is away");
    assert_eq!(drain_of(&fleet, 1), None);
    fleet.play(20);
    assert_eq!(drain_of(&fleet, 1), Some(DrainOutcome::TimedOut));
    assert_eq!(fleet.levels(), [Some(1); 2]);
    fleet.back(1);
    fleet.play(20);
    assert_eq!(fleet.levels(), [Some(1), None]);
}

#[test]
fn a_decommissioned_node_leaves_once_it_is_drained_and_its_name_is_free() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    let gone = fleet.hosts[1].node.id;
    let name = fleet.world.fleet.node(gone).unwrap().name.clone();
    drain(&mut fleet, &[1], 60, AfterDrain::Leave);
    assert!(fleet.world.fleet.node(gone).unwrap().is_active());
    fleet.play(10);
    assert_eq!(fleet.levels(), [Some(1), None]);
    let record = fleet.world.fleet.node(gone).unwrap();
    assert!(record.has_left(), "{:?}", record.state);
    assert!(fleet.world.fleet.node_named(&name).is_none());
    let cut = DeskEvent::Disconnect(gone);
    assert!(fleet.world.events.contains(&cut));
    let desired = fleet.world.desk.intake.desired_on(WEB, gone).unwrap();
    assert_eq!(desired, None);
}

#[test]
fn a_node_that_is_uncordoned_in_mid_drain_stays_in_the_fleet() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.hosts[1].away = true;
    drain(&mut fleet, &[1], 60, AfterDrain::Leave);
    fleet.play(5);
    uncordon(&mut fleet, &[1]);
    fleet.back(1);
    fleet.play(120);
    let record = fleet.world.fleet.node(fleet.hosts[1].node.id).unwrap();
    assert!(record.is_active());
    assert_eq!(fleet.levels(), [Some(1); 2]);
}

/// A window for every node that is open in the hour from now on, or shut for as long.
fn set_window(fleet: &mut Fleetlet, gate: &str, opens_in: Duration) {
    let opens = fleet.world.now.after(opens_in).0 / 60_000 % (24 * 60);
    let definition = Definition {
        name: "nights".to_owned(),
        nodes: Selector::every(),
        gated: Gated::of([gate.to_owned()].into()),
        schedule: Schedule {
            days: Days::DAILY,
            from: format!("{:02}:{:02}", opens / 60, opens % 60)
                .parse()
                .unwrap(),
            length_s: 3600,
            zone: "UTC".to_owned(),
        },
    };
    let definition = Box::new(definition);
    fleet
        .world
        .record(Event::WindowSet(WindowSet { definition }));
}

fn open_window(fleet: &mut Fleetlet, seconds: u64) {
    let event = WindowOpened {
        window: "nights".to_owned(),
        until: fleet.world.now.after(Duration::from_secs(seconds)),
        reason: "security fix".to_owned(),
    };
    fleet.world.record(Event::WindowOpened(event));
}

#[test]
fn a_rollout_waits_for_the_window_and_says_so_and_begins_when_it_opens() {
    let mut fleet = Fleetlet::new(3);
    set_window(&mut fleet, "deploy", Duration::from_secs(600));
    let rollout = fleet.apply(1, "*", quick());
    fleet.play(60);
    assert_eq!(fleet.levels(), [None; 3]);
    assert_eq!(state(&fleet, rollout, 0), TargetState::Windowed);
    let status = fleet.world.desk.board().rollout(rollout).unwrap();
    assert!(
        status
            .waits_for
            .starts_with("waits for window nights until"),
        "{}",
        status.waits_for
    );
    fleet.world.restart();
    for host in 0..3 {
        fleet.back(host);
    }
    fleet.play(300);
    assert_eq!(fleet.levels(), [None; 3]);
    fleet.play(600);
    assert_eq!(fleet.levels(), [Some(1); 3]);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
}

#[test]
fn a_window_that_is_opened_by_hand_lets_a_rollout_begin() {
    let mut fleet = Fleetlet::new(2);
    set_window(&mut fleet, "deploy", Duration::from_secs(12 * 3600));
    fleet.apply(1, "*", quick());
    fleet.play(30);
    assert_eq!(fleet.levels(), [None; 2]);
    open_window(&mut fleet, 600);
    fleet.play(300);
    assert_eq!(fleet.levels(), [Some(1); 2]);
}

#[test]
fn what_began_in_a_window_goes_on_after_it_and_the_rest_waits_for_the_next() {
    let mut fleet = Fleetlet::new(3);
    set_window(&mut fleet, "deploy", Duration::from_secs(12 * 3600));
    open_window(&mut fleet, 5);
    let rollout = fleet.apply(1, "*", quick());
    for host in &mut fleet.hosts {
        host.away = true;
    }
    fleet.play(10);
    let told = (0..3).filter(|host| state(&fleet, rollout, *host) == TargetState::Sent);
    assert_eq!(told.count(), 1);
    for host in 0..3 {
        fleet.back(host);
    }
    fleet.play(120);
    let having = fleet.levels().iter().filter(|it| it.is_some()).count();
    assert_eq!(having, 1);
}

#[test]
fn rollbacks_and_removals_pass_a_window_that_is_shut() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    set_window(&mut fleet, "deploy", Duration::from_secs(12 * 3600));
    fleet.roll_back(2, quick());
    fleet.play(240);
    assert_eq!(fleet.levels(), [Some(2); 2]);
    drain(&mut fleet, &[0], 60, AfterDrain::Stay);
    fleet.play(10);
    assert_eq!(fleet.levels(), [None, Some(2)]);
    // What it should have again is a start, and waits.
    uncordon(&mut fleet, &[0]);
    fleet.play(60);
    assert_eq!(fleet.levels(), [None, Some(2)]);
    open_window(&mut fleet, 60);
    fleet.play(60);
    assert_eq!(fleet.levels(), [Some(2); 2]);
}

#[test]
fn a_command_outside_of_its_window_waits_and_goes_out_when_it_opens() {
    let mut fleet = Fleetlet::new(1);
    let node = fleet.hosts[0].node.id;
    set_window(&mut fleet, "service", Duration::from_secs(12 * 3600));
    fleet.world.told(&fleet.hosts[0].node);
    let held = fleet.world.issue(1, restart_unit(), &[node]);
    let reads = fleet.world.issue(2, Action::Ping, &[node]);
    let commands = |fleet: &mut Fleetlet| -> Vec<CommandId> {
        let told = fleet.world.told(&fleet.hosts[0].node).into_iter();
        told.filter_map(|heard| {
            let Heard::Down(down) = heard else {
                return None;
            };
            let DownBody::Command(command) = down.body else {
                return None;
            };
            Some(command.id)
        })
        .collect()
    };
    fleet.world.wait(5);
    assert_eq!(commands(&mut fleet), [reads]);
    open_window(&mut fleet, 60);
    fleet.world.wait(1);
    assert_eq!(commands(&mut fleet), [held]);
}
