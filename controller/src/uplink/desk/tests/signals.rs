//! What trips a breaker, for what part of the fleet, and what becomes of rollouts
//! then, with nodes that report by the wire.

use std::collections::BTreeSet;

use protocol::breaker::BreakerState;
use protocol::deployment::observed::{DeploymentState, Phase, Workload, WorkloadState};
use protocol::id::DeploymentId;
use protocol::policy::Scope;

use super::breakers::{ask, command, define, engine, published, run, trip};
use super::deployments::{Fleetlet, WEB, quick};
use super::*;
use crate::domain::breaker::definition::{Definition, Group, OnTrip, Signal, Span};
use crate::domain::breaker::manage::{Hand, OverrideBreaker};
use crate::domain::fleet::event::NodeRelabelled;
use crate::domain::operation::Operation;
use crate::domain::rollout::course::Stop;
use crate::domain::rollout::event::{Decision, Outcome as End, RolloutResumed};

const SHOP: DeploymentId = DeploymentId::from_bytes([0xdd; 10]);

/// A breaker that watches one thing and trips on so many failures in a row.
fn watching(signal: Signal, consecutive: u32) -> Definition {
    let mut definition = Definition {
        name: "guard".to_owned(),
        watches: BTreeSet::from([signal]),
        ..Definition::fleet()
    };
    definition.rule.trip.percent = 0;
    definition.rule.trip.consecutive = consecutive;
    definition
}

/// The fleet's own breaker, which tries again after a minute.
fn impatient(rollouts: OnTrip) -> Definition {
    let mut definition = Definition {
        rollouts,
        ..Definition::fleet()
    };
    definition.rule.recovery.cool_down_ms = 60_000;
    definition
}

fn state_of(world: &World, group: &Group) -> BreakerState {
    world.fleet.breakers().get("guard").unwrap().state(group)
}

fn is_open(world: &World) -> bool {
    state_of(world, &Group::Fleet) == BreakerState::Open
}

fn nodes<const N: usize>(world: &mut World) -> [Node; N] {
    core::array::from_fn(|index| {
        let mut node = world.join(u8::try_from(index + 1).unwrap());
        world.connect(&mut node);
        node
    })
}

fn label(world: &mut World, node: NodeId, site: &str) {
    let labels = Labels::from_pairs([("site".to_owned(), site.to_owned())]).unwrap();
    world.record(Event::NodeRelabelled(NodeRelabelled { node, labels }));
}

/// A node says how a deployment and its one container are.
fn says(world: &mut World, node: &mut Node, of: DeploymentId, phase: Phase, ill: WorkloadState) {
    let workload = Workload {
        service: "web".to_owned(),
        revision: 1,
        container: None,
        state: ill,
        image_digest: None,
        restarts: 0,
        exit_code: None,
        oom_killed: false,
        started_at: None,
        observed_at: world.now,
        detail: String::new(),
        log_tail: Vec::new(),
    };
    let state = DeploymentState {
        deployment: of,
        number: 1,
        generation: 1,
        wanted: Some(1),
        current: Some(1),
        phase,
        since: world.now,
        code: None,
        detail: String::new(),
        workloads: vec![workload],
        drift: Vec::new(),
    };
    let item = StateItem {
        at: world.now,
        value: StateValue::Deployment(Box::new(state)),
    };
    let seq = node.last[Stream::State.index()] + 1;
    let entries = vec![entry(seq, EntryKind::STATE, &item)];
    world.wait(1);
    let upload = node.upload(Stream::State, seq - 1, entries, world.now);
    world.deliver(vec![upload]);
    engine(world);
}

#[test]
fn a_deployment_that_comes_to_be_unwell_is_one_failure_however_often_it_is_said() {
    let mut world = World::new();
    let [mut one, mut other] = nodes(&mut world);
    define(&mut world, watching(Signal::Unhealthy, 2));
    for _ in 0..3 {
        says(
            &mut world,
            &mut one,
            WEB,
            Phase::Degraded,
            WorkloadState::Exited,
        );
    }
    assert!(!is_open(&world), "one node said it three times");
    // While it is changed it is the change that is judged.
    says(
        &mut world,
        &mut other,
        WEB,
        Phase::Verifying,
        WorkloadState::Unhealthy,
    );
    assert!(!is_open(&world));
    says(
        &mut world,
        &mut other,
        WEB,
        Phase::Running,
        WorkloadState::Unhealthy,
    );
    assert!(is_open(&world));
    let policy = published(&world).pop().unwrap();
    assert_eq!(policy.gates[0].reason, "2 failures in a row, 2 trip it");
}

#[test]
fn a_deployment_that_is_well_again_is_a_success() {
    let mut world = World::new();
    let [mut one, mut other] = nodes(&mut world);
    define(&mut world, watching(Signal::Unhealthy, 2));
    let ok = WorkloadState::Running;
    says(&mut world, &mut one, WEB, Phase::Degraded, ok);
    says(&mut world, &mut other, WEB, Phase::Running, ok);
    says(&mut world, &mut one, WEB, Phase::Running, ok);
    says(&mut world, &mut one, WEB, Phase::Degraded, ok);
    assert!(!is_open(&world), "between its failures it was well");
    says(
        &mut world,
        &mut other,
        WEB,
        Phase::Degraded,
        WorkloadState::Running,
    );
    assert!(is_open(&world));
}

#[test]
fn containers_that_are_started_again_and_again_are_a_crash_loop_and_ill_ones_are_not() {
    let mut world = World::new();
    let [mut node] = nodes(&mut world);
    define(&mut world, watching(Signal::CrashLoop, 1));
    says(
        &mut world,
        &mut node,
        WEB,
        Phase::Degraded,
        WorkloadState::Unhealthy,
    );
    assert!(!is_open(&world));
    says(
        &mut world,
        &mut node,
        WEB,
        Phase::Degraded,
        WorkloadState::Restarting,
    );
    assert!(is_open(&world));
}

#[test]
fn a_command_fails_by_its_end_alone_and_what_never_ran_says_nothing() {
    for (outcome, counts) in [
        (Outcome::Failed { exit: None }, true),
        (Outcome::TimedOut, true),
        (Outcome::Interrupted, true),
        (Outcome::Succeeded, false),
        (Outcome::Refused, false),
        (Outcome::Expired, false),
        (Outcome::Cancelled, false),
    ] {
        let mut world = World::new();
        let [mut node] = nodes(&mut world);
        define(&mut world, watching(Signal::Command, 1));
        command(&mut world, &mut node, 1, outcome);
        engine(&mut world);
        assert_eq!(is_open(&world), counts, "{outcome:?}");
    }
}

#[test]
fn a_node_that_is_silent_after_a_change_of_a_deployment_is_a_failure() {
    let mut fleet = Fleetlet::new(3);
    define(&mut fleet.world, watching(Signal::Silence, 1));
    fleet.apply(1, "*", quick());
    fleet.play(2);
    let told = fleet.hosts.iter().position(|host| !host.orders.is_empty());
    fleet.hosts[told.unwrap()].away = true;
    fleet.play(75);
    engine(&mut fleet.world);
    assert!(is_open(&fleet.world));
}

#[test]
fn each_value_of_a_label_trips_by_itself_and_nodes_without_it_are_not_watched() {
    let mut world = World::new();
    let [mut a, mut b, mut c, mut bare] = nodes(&mut world);
    label(&mut world, a.id, "lyon");
    label(&mut world, b.id, "lyon");
    label(&mut world, c.id, "paris");
    let span = Span::Label("site".to_owned());
    define(
        &mut world,
        Definition {
            span,
            ..watching(Signal::Command, 2)
        },
    );
    let failed = Outcome::Failed { exit: Some(1) };
    for (number, node) in (1..).zip([&mut a, &mut c, &mut bare]) {
        command(&mut world, node, number, failed);
    }
    command(&mut world, &mut bare, 4, failed);
    engine(&mut world);
    assert_eq!(world.fleet.breakers().open_count(), 0, "one failure each");
    command(&mut world, &mut b, 5, failed);
    engine(&mut world);
    let group = |site: &str| Group::Label(site.to_owned());
    assert_eq!(state_of(&world, &group("lyon")), BreakerState::Open);
    assert_eq!(state_of(&world, &group("paris")), BreakerState::Closed);
    let [gate] = &published(&world).pop().unwrap().gates[..] else {
        panic!("one group is open");
    };
    assert_eq!(gate.scope, Scope::Nodes("site=lyon".parse().unwrap()));
}

#[test]
fn each_deployment_trips_by_itself() {
    let mut world = World::new();
    let [mut one, mut other] = nodes(&mut world);
    define(
        &mut world,
        Definition {
            span: Span::Deployment,
            gated: protocol::policy::Gated {
                deploy: true,
                ..Default::default()
            },
            ..watching(Signal::Unhealthy, 2)
        },
    );
    for (node, of) in [(&mut one, WEB), (&mut other, SHOP)] {
        says(&mut world, node, of, Phase::Degraded, WorkloadState::Exited);
    }
    assert_eq!(world.fleet.breakers().open_count(), 0, "one failure each");
    says(
        &mut world,
        &mut other,
        WEB,
        Phase::Degraded,
        WorkloadState::Exited,
    );
    let of = |id| state_of(&world, &Group::Deployment(id));
    assert_eq!(
        (of(WEB), of(SHOP)),
        (BreakerState::Open, BreakerState::Closed)
    );
    let [gate] = &published(&world).pop().unwrap().gates[..] else {
        panic!("one group is open");
    };
    assert_eq!(gate.scope, Scope::Deployment(WEB));
}

#[test]
fn a_breaker_that_reverts_takes_back_what_runs_and_leaves_what_comes_after_it() {
    let mut fleet = Fleetlet::new(6);
    let definition = Definition {
        rollouts: OnTrip::Revert,
        ..Definition::fleet()
    };
    define(&mut fleet.world, definition);
    let first = fleet.apply(1, "*", quick());
    fleet.play(240);
    assert_eq!(fleet.end_of(first), Some(End::Completed));
    let second = fleet.apply(2, "*", quick());
    while fleet.levels().iter().all(|level| *level == Some(1)) {
        fleet.play(1);
    }
    trip(&mut fleet.world, Hand::Trip);
    fleet.play(60);
    assert_eq!(fleet.end_of(second), Some(End::Aborted));
    assert_eq!(fleet.levels(), [Some(1); 6]);
    // Someone who knows of it starts another: it waits, and is not taken back.
    let third = fleet.apply(3, "*", quick());
    fleet.play(60);
    assert_eq!(fleet.end_of(third), None);
    assert_eq!(fleet.levels(), [Some(1); 6]);
    trip(&mut fleet.world, Hand::Reset);
    fleet.play(240);
    assert_eq!(fleet.end_of(third), Some(End::Completed));
}

/// Lets so much time pass, and the engine record what is asked for.
fn play(fleet: &mut Fleetlet, seconds: u64) {
    for _ in 0..seconds {
        fleet.play(1);
        engine(&mut fleet.world);
    }
}

fn resume(fleet: &mut Fleetlet, rollout: protocol::id::RolloutId) {
    let course = &fleet.world.fleet.rollouts().get(rollout).unwrap().course;
    let decision = Decision::Resumed(RolloutResumed {
        rollout,
        step: course.step,
        acknowledged_at: fleet.world.now,
    });
    course.check(&decision).unwrap();
    fleet.world.record(decision.into());
}

#[test]
fn a_breaker_holds_a_rollout_until_it_closes_and_names_its_nodes_as_probes() {
    let mut fleet = Fleetlet::new(4);
    define(&mut fleet.world, impatient(OnTrip::Hold));
    trip(&mut fleet.world, Hand::Trip);
    let rollout = fleet.apply(1, "*", quick());
    play(&mut fleet, 30);
    assert_eq!(fleet.levels(), [None; 4]);
    let status = fleet.world.desk.board().rollout(rollout).unwrap();
    assert_eq!(status.breakers, ["fleet"]);
    // Its cool-down passes: the nodes that the rollout wants next may try.
    play(&mut fleet, 240);
    let known = fleet.world.fleet.breakers().get("fleet").unwrap();
    let canary = known.log.iter().find(|it| !it.probes.is_empty()).unwrap();
    let mut hosts = fleet.hosts.iter();
    let first = hosts.find(|host| canary.probes.contains(&host.node.id));
    assert_eq!(first.unwrap().level.get(&WEB), Some(&Some(1)));
    assert_eq!(known.state(&Group::Fleet), BreakerState::Closed);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
}

#[test]
fn a_rollout_that_was_halted_and_resumed_closes_the_breaker_by_its_probes() {
    let mut fleet = Fleetlet::new(8);
    define(&mut fleet.world, impatient(OnTrip::Halt));
    let rollout = fleet.apply(1, "*", quick());
    play(&mut fleet, 1);
    trip(&mut fleet.world, Hand::Trip);
    play(&mut fleet, 30);
    let course = &fleet.world.fleet.rollouts().get(rollout).unwrap().course;
    assert!(
        matches!(course.stop, Some(Stop::Halted { .. })),
        "{course:?}"
    );
    let before = fleet.levels();
    // Until someone resumes there is nothing to try on.
    play(&mut fleet, 90);
    let state = |fleet: &Fleetlet| {
        let known = fleet.world.fleet.breakers().get("fleet").unwrap();
        known.state(&Group::Fleet)
    };
    assert_eq!(state(&fleet), BreakerState::Open);
    resume(&mut fleet, rollout);
    let mut tried = BTreeSet::new();
    for _ in 0..240 {
        play(&mut fleet, 1);
        let known = fleet.world.fleet.breakers().get("fleet").unwrap();
        let Some((_, cell)) = known.open().next() else {
            break;
        };
        tried.extend(cell.probes.iter().copied());
        for (host, before) in fleet.hosts.iter().zip(&before) {
            let has = host.level.get(&WEB).copied().flatten();
            let probe = tried.contains(&host.node.id);
            assert!(probe || has == *before, "{} is no probe", host.node.id);
        }
    }
    assert_eq!(state(&fleet), BreakerState::Closed);
    play(&mut fleet, 120);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1); 8]);
}

#[test]
fn nodes_with_an_override_are_changed_under_an_open_breaker_and_others_wait() {
    let mut fleet = Fleetlet::new(4);
    let lyon: BTreeSet<NodeId> = fleet.hosts[..2].iter().map(|host| host.node.id).collect();
    for node in &lyon {
        label(&mut fleet.world, *node, "lyon");
    }
    trip(&mut fleet.world, Hand::Isolate);
    let mut params = quick();
    params.waves.drain(..3);
    let rollout = fleet.apply(1, "*", params);
    play(&mut fleet, 15);
    assert_eq!(fleet.levels(), [None; 4]);
    let asked = OverrideBreaker {
        breaker: "fleet".to_owned(),
        nodes: "site=lyon".parse().unwrap(),
        lifetime: Duration::from_secs(90),
        reason: "the fix itself".to_owned(),
    };
    ask(&mut fleet.world, &Operation::OverrideBreaker(asked));
    play(&mut fleet, 60);
    assert_eq!(fleet.levels(), [Some(1), Some(1), None, None]);
    assert_eq!(fleet.end_of(rollout), None);
    // It is over: who is relabelled then gets nothing more.
    play(&mut fleet, 40);
    let third = fleet.hosts[2].node.id;
    label(&mut fleet.world, third, "lyon");
    play(&mut fleet, 15);
    assert_eq!(fleet.levels(), [Some(1), Some(1), None, None]);
    trip(&mut fleet.world, Hand::Reset);
    play(&mut fleet, 90);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
}

#[test]
fn a_breaker_that_gates_commands_stops_them_for_their_kind_alone() {
    let mut definition = watching(Signal::Command, 1);
    definition.gated.commands = BTreeSet::from(["run".to_owned()]);
    let mut world = World::new();
    let [mut node] = nodes(&mut world);
    define(&mut world, definition);
    command(&mut world, &mut node, 1, Outcome::TimedOut);
    engine(&mut world);
    let policy = published(&world).pop().unwrap();
    let stops = |action: &Action| {
        let attempt = protocol::policy::Attempt::Command(action.name());
        policy.gates[0].gated.stops(attempt)
    };
    assert!(stops(&run()));
    assert!(!stops(&restart_unit()));
}
