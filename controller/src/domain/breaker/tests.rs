//! Given a fleet, when breakers are asked for, then what happens and what nodes
//! are told.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Input, Reason, Transition};
use protocol::command::{Action, ServiceVerb};
use protocol::deployment::limit::NAME_BYTES_MAX;
use protocol::id::{DeploymentId, NodeId};
use protocol::key::KeyId;
use protocol::policy::{Attempt, LEASE_MS_DEFAULT, Policy, Scope, Standing};

use super::definition::{Definition, Group, PROBES_MAX, Signal, Span};
use super::manage::{
    DefineBreaker, EPOCH_LEAP_MAX, EndOverride, Hand, MoveBreaker, OverrideBreaker, RaisePolicy,
    RecordBreaker, RemoveBreaker, SetLease,
};
use super::{BREAKERS_COUNT_MAX, GROUPS_OPEN_MAX, OVERRIDES_COUNT_MAX};
use crate::domain::access::caller::Caller;
use crate::domain::deployment::apply::RollBackDeployment;
use crate::domain::deployment::steer::{ApproveRollout, PauseRollout, ResumeRollout};
use crate::domain::event::Event;
use crate::domain::fleet::trust::RaiseIncarnation;
use crate::domain::given::story::{self, by_site, started, told};
use crate::domain::given::{
    FLEET, HOUR, World, apply, decide_next, finished, how, node_id, order, run,
};
use crate::domain::operation::Operation;
use crate::domain::rollout::event::Outcome;
use crate::domain::rollout::params::{Approve, Params, SelfApproval};

fn define(definition: Definition) -> Operation {
    Operation::DefineBreaker(DefineBreaker {
        definition: Box::new(definition),
    })
}

fn by_hand(breaker: &str, group: Option<&str>, to: Hand) -> Operation {
    Operation::MoveBreaker(MoveBreaker {
        breaker: breaker.to_owned(),
        group: group.map(str::to_owned),
        to,
        reason: "it smells".to_owned(),
    })
}

fn pass(breaker: &str, nodes: &str) -> Operation {
    Operation::OverrideBreaker(OverrideBreaker {
        breaker: breaker.to_owned(),
        nodes: nodes.parse().unwrap(),
        lifetime: HOUR,
        reason: "the fix itself".to_owned(),
    })
}

/// What the machine of a group says to these inputs, an hour after each other.
fn moves(world: &World, breaker: &str, group: &Group, inputs: &[Input]) -> Vec<Transition> {
    let mut machine = world.fleet.breakers().get(breaker).unwrap().machine(group);
    let mut at = world.now;
    let mut moved = Vec::new();
    for input in inputs {
        moved.extend(machine.step(input.clone(), at));
        at = at.after(HOUR);
    }
    moved
}

fn recorded(group: Group, transition: Transition, probes: &[NodeId]) -> Operation {
    Operation::RecordBreaker(RecordBreaker {
        breaker: "site".to_owned(),
        group,
        transition,
        probes: probes.iter().copied().collect(),
    })
}

fn policy(world: &World) -> Policy {
    world.fleet.breakers().policy(FLEET)
}

fn epoch(world: &World) -> u64 {
    world.fleet.breakers().published().epoch
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::name).collect()
}

/// A fleet with the breaker of each site, and a node in Lyon and one in Paris.
fn sites() -> World {
    let mut world = World::new();
    world.node(1, "edge-1", "site=lyon");
    world.node(2, "edge-2", "site=paris");
    world.done(world.admin, define(by_site()));
    world
}

#[test]
fn a_fleet_has_a_breaker_from_the_start_and_its_policy_says_nothing_yet() {
    let world = World::new();
    let breakers = world.fleet.breakers();
    assert_eq!(breakers.iter().len(), 1);
    let known = breakers.get("fleet").unwrap();
    assert_eq!(known.definition.check(), Ok(()));
    assert_eq!(known.state(&Group::Fleet), BreakerState::Closed);
    assert_eq!(epoch(&world), 0);
    assert_eq!(policy(&world).gates, []);
}

#[test]
fn a_definition_that_nodes_would_not_obey_is_refused() {
    let refused = |change: fn(&mut Definition)| {
        let mut definition = by_site();
        change(&mut definition);
        World::new().refused(sites().admin, define(definition))
    };
    for change in [
        (|it| it.name = "Site".to_owned()) as fn(&mut Definition),
        |it| it.rule.trip.percent = 101,
        |it| it.rule.recovery.probes = PROBES_MAX + 1,
        |it| it.gated.commands = BTreeSet::from(["logs".to_owned()]),
        |it| {
            it.gated.deploy = false;
            it.gated.update = false;
            it.gated.commands.clear();
        },
        |it| it.span = Span::Label("name".to_owned()),
        |it| it.span = Span::Label("a b".to_owned()),
        |it| it.span = Span::Deployment,
        |it| {
            it.span = Span::Deployment;
            it.gated.update = false;
            it.gated.commands.clear();
        },
    ] {
        assert_eq!(refused(change), "breaker.invalid");
    }
    let mut of_deployment = by_site();
    of_deployment.span = Span::Deployment;
    of_deployment.gated.update = false;
    of_deployment.gated.commands.clear();
    of_deployment.watches = BTreeSet::from([Signal::Deploy]);
    assert_eq!(of_deployment.check(), Ok(()));
}

#[test]
fn breakers_are_bounded_and_the_same_definition_again_is_nothing() {
    let mut world = sites();
    let admin = world.admin;
    assert_eq!(names(&world.done(admin, define(by_site()))), [""; 0]);
    let known = world.fleet.breakers().iter().len();
    for n in known..BREAKERS_COUNT_MAX {
        let mut definition = by_site();
        definition.name = format!("b{n}");
        world.done(admin, define(definition));
    }
    let mut definition = by_site();
    definition.name = "more".to_owned();
    assert_eq!(world.refused(admin, define(definition)), "limit.reached");
}

#[test]
fn a_trip_by_hand_is_told_to_nodes_under_a_new_number_and_a_reset_takes_it_back() {
    let mut world = sites();
    let admin = world.admin;
    let before = epoch(&world);
    let events = world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    assert_eq!(names(&events), ["breaker.moved", "policy.published"]);
    assert_eq!(epoch(&world), before + 1);
    let told = policy(&world);
    assert_eq!(told.check(), Ok(()));
    let [gate] = &told.gates[..] else {
        panic!("{told:?}");
    };
    assert_eq!(gate.reason, "tripped by root: it smells");
    assert_eq!(gate.scope, Scope::Nodes("site=lyon".parse().unwrap()));
    // Again changes nothing; isolating does, and only a reset ends it.
    let again = world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    assert_eq!(names(&again), [""; 0]);
    world.done(admin, by_hand("site", Some("lyon"), Hand::Isolate));
    world.done(admin, by_hand("site", None, Hand::Trip));
    assert_eq!(policy(&world).gates.len(), 2);
    let events = world.done(admin, by_hand("site", None, Hand::Reset));
    assert_eq!(
        names(&events),
        ["breaker.moved", "breaker.moved", "policy.published"]
    );
    assert_eq!(policy(&world).gates, []);
    let log = &world.fleet.breakers().get("site").unwrap().log;
    assert_eq!(log.len(), 5);
}

#[test]
fn a_hand_needs_its_own_permission_a_reason_and_a_group_that_is_there() {
    let mut world = sites();
    let admin = world.admin;
    let viewer = world.person("vic", "viewer", None);
    let operator = world.person("olga", "operator", None);
    for to in [Hand::Trip, Hand::Isolate, Hand::Reset] {
        assert_eq!(
            world.refused(viewer, by_hand("site", None, to)),
            "access.denied"
        );
        world.done(operator, by_hand("site", None, to));
    }
    assert_eq!(world.refused(operator, pass("site", "*")), "access.denied");
    assert_eq!(world.refused(operator, define(by_site())), "access.denied");
    assert_eq!(
        world.refused(admin, by_hand("none", None, Hand::Trip)),
        "breaker.not_found"
    );
    for group in ["a b", "x,y"] {
        let code = world.refused(admin, by_hand("site", Some(group), Hand::Trip));
        assert_eq!(code, "breaker.invalid", "{group:?}");
    }
    let silent = MoveBreaker {
        breaker: "site".to_owned(),
        group: None,
        to: Hand::Trip,
        reason: " ".to_owned(),
    };
    let code = world.refused(admin, Operation::MoveBreaker(silent));
    assert_eq!(code, "breaker.invalid");
}

#[test]
fn what_is_not_closed_cannot_be_removed_or_change_its_span() {
    let mut world = sites();
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    let remove = || {
        Operation::RemoveBreaker(RemoveBreaker {
            breaker: "site".to_owned(),
        })
    };
    assert_eq!(world.refused(admin, remove()), "breaker.state");
    let mut other = by_site();
    other.span = Span::Fleet;
    assert_eq!(world.refused(admin, define(other)), "breaker.state");
    // Another rule leaves it where it is.
    let mut other = by_site();
    other.rule.trip.consecutive = 7;
    world.done(admin, define(other));
    assert_eq!(policy(&world).gates.len(), 1);
    world.done(admin, by_hand("site", None, Hand::Reset));
    world.done(admin, remove());
    assert!(world.fleet.breakers().get("site").is_none());
}

#[test]
fn what_the_machine_says_counts_if_it_follows_what_is_recorded() {
    let mut world = sites();
    let lyon = Group::Label("lyon".to_owned());
    let story = moves(
        &world,
        "site",
        &lyon,
        &[
            Input::Sample { ok: false },
            Input::Tick,
            Input::ProbeResult { round: 1, ok: true },
        ],
    );
    let [opened, probing] = &story[..] else {
        panic!("{story:?}");
    };
    let system = Caller::System;
    let early = recorded(lyon.clone(), probing.clone(), &[node_id(1)]);
    assert_eq!(world.refused(system, early.clone()), "breaker.state");
    let elsewhere = recorded(Group::Deployment(DeploymentId::NIL), opened.clone(), &[]);
    assert_eq!(world.refused(system, elsewhere), "breaker.invalid");
    let anyone = recorded(lyon.clone(), opened.clone(), &[]);
    assert_eq!(world.refused(world.admin, anyone.clone()), "access.denied");
    world.done(system, anyone.clone());
    // The same again is late.
    assert_eq!(world.refused(system, anyone), "breaker.state");
    let crowd: Vec<NodeId> = (1..4).map(node_id).collect();
    let crowded = recorded(lyon.clone(), probing.clone(), &crowd);
    assert_eq!(world.refused(system, crowded), "breaker.state");
    world.done(system, early);
    let gate = &policy(&world).gates[0];
    assert_eq!(gate.state, BreakerState::HalfOpen);
    assert_eq!(gate.probes, BTreeSet::from([node_id(1)]));
    // Nothing but probes closes it, whatever the desk says.
    let forged = Transition {
        from: BreakerState::HalfOpen,
        to: BreakerState::Closed,
        reason: Reason::CooledDown { wait_ms: 1 },
        ..probing.clone()
    };
    let forged = recorded(lyon.clone(), forged, &[]);
    assert_eq!(world.refused(system, forged), "breaker.state");
    // An isolated one is a person's.
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Isolate));
    let leaving = Transition {
        from: BreakerState::Isolated,
        ..probing.clone()
    };
    let leaving = recorded(lyon, leaving, &[]);
    assert_eq!(world.refused(system, leaving), "breaker.state");
}

#[test]
fn a_trip_by_hand_counts_even_where_time_alone_would_have_moved_it() {
    let mut world = sites();
    let admin = world.admin;
    let lyon = Group::Label("lyon".to_owned());
    let story = moves(
        &world,
        "site",
        &lyon,
        &[Input::Sample { ok: false }, Input::Tick],
    );
    for transition in story {
        world.done(Caller::System, recorded(lyon.clone(), transition, &[]));
    }
    world.now = world.now.after(100 * HOUR);
    let events = world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    let Some(Event::BreakerMoved(moved)) = events.first() else {
        panic!("{events:?}");
    };
    assert_eq!(moved.transition.from, BreakerState::HalfOpen);
    assert_eq!(moved.transition.to, BreakerState::Open);
    assert_eq!(moved.transition.at, world.now);
}

#[test]
fn more_groups_than_the_policy_has_room_for_are_the_whole_fleet() {
    let mut world = sites();
    let system = Caller::System;
    let of = |n: usize| Group::Label(format!("site-{n}"));
    for n in 0..GROUPS_OPEN_MAX {
        let tripped = moves(&world, "site", &of(n), &[Input::Sample { ok: false }]);
        world.done(system, recorded(of(n), tripped[0].clone(), &[]));
    }
    for n in [GROUPS_OPEN_MAX, GROUPS_OPEN_MAX + 1] {
        let tripped = moves(&world, "site", &of(n), &[Input::Sample { ok: false }]);
        world.done(system, recorded(of(n), tripped[0].clone(), &[]));
    }
    let policy = policy(&world);
    assert_eq!(policy.gates.len(), GROUPS_OPEN_MAX + 1);
    assert_eq!(policy.gates[0].scope, Scope::Fleet);
    assert_eq!(policy.check(), Ok(()));
}

#[test]
fn the_largest_policy_fits_an_envelope() {
    let mut world = World::new();
    let admin = world.admin;
    let long = "x".repeat(63);
    for n in 1..BREAKERS_COUNT_MAX {
        let mut definition = by_site();
        definition.name = format!("b{}{n:02}", "x".repeat(NAME_BYTES_MAX - 3));
        definition.span = Span::Label(long.clone());
        definition.rule.recovery.probes = PROBES_MAX;
        definition.gated.commands = ["run", "reload", "service"].map(str::to_owned).into();
        world.done(admin, define(definition.clone()));
        for group in 0..6 {
            let group = Group::Label(format!("{group}{}", "y".repeat(62)));
            let story = moves(
                &world,
                &definition.name,
                &group,
                &[Input::Sample { ok: false }, Input::Tick],
            );
            for transition in story {
                let probing = transition.to == BreakerState::HalfOpen;
                let probes = (1..=8).map(node_id).filter(|_| probing).collect();
                let asked = RecordBreaker {
                    breaker: definition.name.clone(),
                    group: group.clone(),
                    transition,
                    probes,
                };
                world
                    .ask(Caller::System, Operation::RecordBreaker(asked))
                    .ok();
            }
        }
    }
    let name = format!("b{}01", "x".repeat(NAME_BYTES_MAX - 3));
    for _ in 0..OVERRIDES_COUNT_MAX {
        let nodes = format!("site in ({})", vec![long.as_str(); 15].join(","));
        world.done(admin, pass(&name, &nodes));
    }
    assert_eq!(world.refused(admin, pass(&name, "*")), "limit.reached");
    let policy = policy(&world);
    assert!(
        policy.gates.len() >= GROUPS_OPEN_MAX,
        "{}",
        policy.gates.len()
    );
    assert_eq!(policy.check(), Ok(()));
    let bytes = protocol::message::encode(&policy).len();
    assert!(bytes < protocol::policy::POLICY_BYTES_MAX / 2, "{bytes}");
}

#[test]
fn an_override_ends_by_time_or_by_hand_and_not_before() {
    let mut world = sites();
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    world.done(admin, pass("site", "name=edge-1"));
    let [given] = &policy(&world).overrides[..] else {
        panic!("it was given");
    };
    assert_eq!(
        (given.by.as_str(), given.reason.as_str()),
        ("root", "the fix itself")
    );
    let end = |number| Operation::EndOverride(EndOverride { number });
    assert_eq!(world.refused(Caller::System, end(1)), "breaker.state");
    world.now = world.now.after(HOUR);
    let events = world.done(Caller::System, end(1));
    assert_eq!(
        names(&events),
        ["breaker.override_ended", "policy.published"]
    );
    assert_eq!(world.refused(admin, end(1)), "breaker.not_found");
    world.done(admin, pass("site", "*"));
    world.done(admin, end(2));
    assert_eq!(policy(&world).overrides, []);
    let mut long = OverrideBreaker {
        breaker: "site".to_owned(),
        nodes: "*".parse().unwrap(),
        lifetime: 25 * HOUR,
        reason: "for ever".to_owned(),
    };
    let code = world.refused(admin, Operation::OverrideBreaker(long.clone()));
    assert_eq!(code, "breaker.invalid");
    long.lifetime = HOUR;
    long.reason = String::new();
    let code = world.refused(admin, Operation::OverrideBreaker(long));
    assert_eq!(code, "breaker.invalid");
}

#[test]
fn an_override_needs_its_permission_on_every_node_that_it_lets_pass() {
    let mut world = sites();
    let admin = world.admin;
    let role = crate::domain::access::manage::CreateRole {
        name: "glass".parse().unwrap(),
        description: String::new(),
        permissions: crate::domain::given::permissions(&["breaker:override"]),
        inherits: BTreeSet::new(),
    };
    world.done(admin, Operation::CreateRole(role));
    let local = world.person("lea", "glass", Some("site=lyon"));
    world.done(local, pass("site", "site=lyon"));
    assert_eq!(world.refused(local, pass("site", "*")), "access.denied");
    assert_eq!(
        world.refused(local, pass("site", "site=nice")),
        "access.denied"
    );
}

#[test]
fn a_command_that_every_node_would_refuse_is_refused_at_once() {
    let mut world = sites();
    let admin = world.admin;
    let issue = |on: &str, action| Operation::IssueCommand(order(on, action));
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    assert_eq!(
        world.refused(admin, issue("site=lyon", run())),
        "breaker.open"
    );
    // Some nodes would take it; reads and stops always pass.
    world.done(admin, issue("*", run()));
    world.done(admin, issue("site=lyon", Action::Ping));
    world.done(admin, issue("site=lyon", Action::Reload));
    let stop = Action::Service {
        unit: "web.service".to_owned(),
        verb: ServiceVerb::Stop,
    };
    world.done(admin, issue("site=lyon", stop));
    world.done(admin, pass("site", "site=lyon"));
    world.done(admin, issue("site=lyon", run()));
}

/// An apply as an administrator, of a name that there is not yet.
fn applying(name: &str, on: &str) -> Operation {
    Operation::ApplyDeployment(apply(name, 0, on, "nginx:1"))
}

/// Why the request is refused, in words.
fn why(world: &mut World, operation: Operation) -> String {
    let refusal = world.ask(world.admin, operation).unwrap_err();
    assert_eq!(refusal.code().text(), "breaker.open");
    refusal.to_string()
}

#[test]
fn a_change_that_every_node_would_refuse_is_refused_at_once_with_when_it_tries_again() {
    let mut world = sites();
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    let tripped = world.fleet.breakers().get("site").unwrap();
    let tries_at = tripped.open().next().unwrap().1.tries_at().unwrap();
    let said = why(&mut world, applying("web", "site=lyon"));
    for part in [
        "breaker site is open",
        "it smells",
        &format!("tries again at {tries_at}"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    let command = Operation::IssueCommand(order("site=lyon", run()));
    assert!(why(&mut world, command).contains("tries again at"));
    // Some nodes would take it; an override lets the others pass.
    world.done(admin, applying("some", "*"));
    world.done(admin, pass("site", "site=lyon"));
    world.done(admin, applying("web", "site=lyon"));

    // One that only a person closes says so, whatever time it is.
    world.done(admin, by_hand("site", Some("paris"), Hand::Isolate));
    world.now = world.now.after(HOUR * 48);
    let said = why(&mut world, applying("shop", "site=paris"));
    assert!(said.contains("until someone resets it"), "{said}");
}

#[test]
fn a_breaker_whose_cool_down_has_passed_waits_for_a_change_to_try() {
    let mut world = sites();
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    why(&mut world, applying("web", "site=lyon"));
    world.now = world.now.after(HOUR);
    world.done(admin, applying("web", "site=lyon"));
    // Half-open it has its probes, and others wait again.
    let lyon = Group::Label("lyon".to_owned());
    let half = moves(&world, "site", &lyon, &[Input::Tick]).remove(0);
    assert_eq!(half.to, BreakerState::HalfOpen);
    world.done(
        Caller::System,
        recorded(lyon.clone(), half.clone(), &[node_id(9)]),
    );
    let said = why(&mut world, applying("shop", "site=lyon"));
    assert!(said.contains("its probes are trying"), "{said}");
    let command = Operation::IssueCommand(order("site=lyon", run()));
    why(&mut world, command);
}

#[test]
fn a_rollout_that_every_node_would_refuse_is_neither_resumed_nor_approved() {
    let mut world = sites();
    let admin = world.admin;
    let mut asked = apply("web", 0, "site=lyon", "nginx:1");
    asked.how.params.waves[0].approve = Approve::Human;
    asked.how.params.self_approval = SelfApproval::Allowed;
    let rollout = started(&world.done(admin, Operation::ApplyDeployment(asked)));
    let pause = PauseRollout {
        rollout,
        reason: "a look".to_owned(),
    };
    world.done(admin, by_hand("site", Some("lyon"), Hand::Isolate));
    let approve = || {
        Operation::ApproveRollout(ApproveRollout {
            rollout,
            wave: None,
        })
    };
    let resume = || Operation::ResumeRollout(ResumeRollout { rollout });
    why(&mut world, approve());
    world.done(admin, Operation::PauseRollout(pause));
    why(&mut world, resume());
    world.done(admin, by_hand("site", Some("lyon"), Hand::Reset));
    world.done(admin, resume());
    world.done(admin, approve());
}

#[test]
fn a_rollback_passes_every_breaker() {
    let mut world = sites();
    let admin = world.admin;
    for (base, image) in [(0, "nginx:1"), (1, "nginx:2")] {
        let asked = apply("web", base, "*", image);
        let rollout = started(&world.done(admin, Operation::ApplyDeployment(asked)));
        let end = decide_next(&world.fleet, rollout, |step| {
            finished(rollout, step, Outcome::Completed)
        });
        world.done(Caller::System, end);
    }
    world.done(admin, by_hand("site", None, Hand::Isolate));
    let deployment = world.fleet.deployments().named("web").unwrap().id;
    let back = |to| {
        Operation::RollBackDeployment(RollBackDeployment {
            deployment,
            base: 2,
            to,
            how: how(Params::default()),
        })
    };
    let again = Operation::ApplyDeployment(apply("web", 2, "*", "nginx:3"));
    why(&mut world, again);
    world.done(admin, back(Some(1)));
}

#[test]
fn a_lease_is_set_within_bounds_by_who_may_and_told_to_nodes() {
    let mut world = sites();
    let admin = world.admin;
    let set = |lease| Operation::SetLease(SetLease { lease });
    assert_eq!(policy(&world).lease_ms, LEASE_MS_DEFAULT);
    let operator = world.person("ann", "operator", None);
    assert_eq!(world.refused(operator, set(HOUR)), "access.denied");
    for lease in [Duration::ZERO, HOUR / 7, HOUR * 24 * 31] {
        assert_eq!(world.refused(admin, set(lease)), "breaker.invalid");
    }
    let before = epoch(&world);
    let events = world.done(admin, set(HOUR));
    assert_eq!(names(&events), ["policy.lease_set", "policy.published"]);
    assert_eq!(policy(&world).lease_ms, 3_600_000);
    assert_eq!(epoch(&world), before + 1);
    assert_eq!(world.done(admin, set(HOUR)), []);
}

#[test]
fn a_number_that_a_node_holds_is_overtaken_and_a_wild_one_is_not_believed() {
    let mut world = World::new();
    let system = Caller::System;
    let raise_by = |above, key| {
        let signer = KeyId([key; 8]);
        Operation::RaisePolicy(RaisePolicy { above, signer })
    };
    let raise = |above| raise_by(above, 1);
    world.done(system, raise(0));
    assert_eq!(epoch(&world), 1);
    assert_eq!(names(&world.done(system, raise(0))), [""; 0]);
    world.done(system, raise(41));
    assert_eq!(epoch(&world), 42);
    assert_eq!(names(&world.done(system, raise(42))), [""; 0]);
    // What another key signs is another policy, once.
    world.done(system, raise_by(0, 2));
    assert_eq!(epoch(&world), 43);
    assert_eq!(names(&world.done(system, raise_by(0, 2))), [""; 0]);
    world.done(system, raise(0));
    let wild = raise(45 + EPOCH_LEAP_MAX);
    assert_eq!(world.refused(system, wild), "policy.invalid");
    assert_eq!(world.refused(system, raise(u64::MAX)), "policy.invalid");
    let restored = RaiseIncarnation {
        above: 0,
        reason: "restored".to_owned(),
    };
    let events = world.done(system, Operation::RaiseIncarnation(restored));
    assert_eq!(
        names(&events),
        ["fleet.incarnation_raised", "policy.published"]
    );
    assert!(epoch(&world) > 1_000);
}

/// Whether a node may run a program by the policy.
fn may_run(policy: &Policy, world: &World, node: u16) -> bool {
    let record = world.fleet.node(node_id(node)).unwrap();
    let standing = Standing {
        now: world.now,
        heard_at: Some(world.now),
    };
    policy
        .admit(record.subject(), Attempt::Command("run"), standing)
        .is_ok()
}

#[test]
fn a_breaker_of_each_site_stops_that_site_alone() {
    let mut world = sites();
    let admin = world.admin;
    world.done(admin, by_hand("site", Some("lyon"), Hand::Trip));
    let told = policy(&world);
    assert!(!may_run(&told, &world, 1));
    assert!(may_run(&told, &world, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariant_every_breaker_that_is_not_closed_is_in_a_policy_that_is_sound(
        steps in story::steps(60)
    ) {
        let world = told(&steps);
        let breakers = world.fleet.breakers();
        let policy = breakers.policy(FLEET);
        prop_assert_eq!(policy.gates.len(), breakers.open_count());
        if policy.epoch > 0 {
            prop_assert_eq!(policy.check(), Ok(()));
            prop_assert_eq!(breakers.published().digest, Some(breakers.digest()));
        } else {
            prop_assert_eq!(policy.gates.len(), 0);
        }
    }

    #[test]
    fn invariant_epochs_rise_with_each_change_and_never_go_back(
        steps in story::steps(60)
    ) {
        let world = told(&steps);
        let mut fleet = crate::domain::fleet::Fleet::new(FLEET);
        let mut last = 0;
        for record in &world.records {
            fleet.apply(record);
            if let Event::PolicyPublished(published) = &record.event {
                prop_assert!(published.epoch > last);
                last = published.epoch;
                prop_assert_eq!(fleet.breakers().digest(), published.digest);
            }
        }
    }
}
