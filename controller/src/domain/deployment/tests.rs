//! Given nodes, when deployments are applied, rolled back and removed, and their
//! rollouts steered, then.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

use std::collections::BTreeSet;

use protocol::id::{DeploymentId, RolloutId};

use super::apply::{ForgetDeployment, RemoveDeployment, RollBackDeployment, touched};
use super::event::ApplyCause;
use super::steer::{AbortRollout, ApproveRollout, PauseRollout, ResumeRollout};
use super::{Deployment, REVISIONS_COUNT_MAX};
use crate::domain::access::caller::Caller;
use crate::domain::alert::manage::RemoveAlertRule;
use crate::domain::command::issue::EmptyAim;
use crate::domain::decide::TargetsOf;
use crate::domain::event::Event;
use crate::domain::fleet::manage::{RelabelNode, RevokeNode, SuspectIdentity};
use crate::domain::fleet::node::Doubt;
use crate::domain::given::story::{define_rule, disk_full, started};
use crate::domain::given::{
    World, apply, decide_next, finished, how, node_id, parsed, principal_of,
};
use crate::domain::operation::Operation;
use crate::domain::rollout::event::{AfterAbort, Kind, Outcome, RolloutStarted};
use crate::domain::rollout::params::{Approve, HaltOn, HaltRule, Params, SelfApproval, Wave};

fn fleet() -> World {
    let mut world = World::new();
    world.node(1, "l1", "site=lyon,role=web");
    world.node(2, "l2", "site=lyon,role=db");
    world.node(3, "p1", "site=paris,role=web");
    world
}

/// Applies as an administrator, and gives the rollout.
fn applied(world: &mut World, base: u32, selector: &str, image: &str) -> RolloutId {
    let asked = Operation::ApplyDeployment(apply("web", base, selector, image));
    started(&world.done(world.admin, asked))
}

fn ends(world: &mut World, rollout: RolloutId, outcome: Outcome) {
    let asked = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, outcome)
    });
    world.done(Caller::System, asked);
}

fn web(world: &World) -> &Deployment {
    world.fleet.deployments().named("web").unwrap()
}

fn rollback(world: &World, base: u32, to: Option<u32>) -> Operation {
    Operation::RollBackDeployment(RollBackDeployment {
        deployment: web(world).id,
        base,
        to,
        how: how(Params::default()),
    })
}

fn start_of(events: &[Event]) -> &RolloutStarted {
    events
        .iter()
        .find_map(|event| match event {
            Event::RolloutStarted(started) => Some(started),
            _ => None,
        })
        .unwrap()
}

#[test]
fn applying_makes_a_revision_and_a_rollout_to_the_nodes_that_match() {
    let mut world = fleet();
    let admin = world.admin;
    let asked = apply("web", 0, "site=lyon", "nginx:1");
    let decided = world.ask(admin, Operation::ApplyDeployment(asked)).unwrap();
    let start = start_of(&decided.events);
    assert_eq!((start.revision, start.kind), (1, Kind::Forward));
    assert_eq!(start.waves, [1, 1]);
    let targets = decided.targets.clone().unwrap();
    assert_eq!(targets.of, TargetsOf::Rollout(start.rollout));
    let nodes: BTreeSet<_> = targets.nodes.into_iter().collect();
    assert_eq!(nodes, BTreeSet::from([node_id(1), node_id(2)]));

    let deployment = web(&world);
    assert_eq!(deployment.number, 1);
    assert_eq!(deployment.rollout, Some(start.rollout));
    assert_eq!((deployment.settled, deployment.newest_number()), (None, 1));
    ends(&mut world, start.rollout, Outcome::Completed);
    assert_eq!((web(&world).settled, web(&world).rollout), (Some(1), None));
}

#[test]
fn of_two_who_apply_at_once_one_wins_and_the_other_is_told() {
    let mut world = fleet();
    let ann = world.person("ann", "deployer", None);
    let bob = world.person("bob", "deployer", None);
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    ends(&mut world, rollout, Outcome::Completed);
    let by = |image| Operation::ApplyDeployment(apply("web", 1, "*", image));
    world.done(ann, by("nginx:2"));
    assert_eq!(world.refused(bob, by("nginx:3")), "deployment.conflict");
    assert_eq!(web(&world).newest_number(), 2);
    // Who looks again still waits for the rollout.
    let again = Operation::ApplyDeployment(apply("web", 2, "*", "nginx:3"));
    assert_eq!(world.refused(bob, again), "deployment.conflict");
    // And nobody makes what is there, or changes what is not.
    let new = Operation::ApplyDeployment(apply("web", 0, "*", "nginx:3"));
    assert_eq!(world.refused(bob, new), "deployment.conflict");
    let absent = Operation::ApplyDeployment(apply("shop", 4, "*", "nginx:3"));
    assert_eq!(world.refused(bob, absent), "deployment.conflict");
}

#[test]
fn what_is_as_asked_and_everywhere_is_not_rolled_out_again() {
    let mut world = fleet();
    let admin = world.admin;
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    ends(&mut world, rollout, Outcome::Completed);
    let same = Operation::ApplyDeployment(apply("web", 1, "*", "nginx:1"));
    assert_eq!(world.done(admin, same), []);
    let elsewhere = Operation::ApplyDeployment(apply("web", 1, "site=lyon", "nginx:1"));
    let rollout = started(&world.done(admin, elsewhere));
    ends(&mut world, rollout, Outcome::Halted);
    // It halted: the same again is tried again.
    let again = Operation::ApplyDeployment(apply("web", 2, "site=lyon", "nginx:1"));
    assert_eq!(start_of(&world.done(admin, again)).revision, 3);
}

#[test]
fn a_rollback_goes_to_the_last_revision_that_was_proven() {
    let mut world = fleet();
    let admin = world.admin;
    for (base, image, outcome) in [
        (0, "nginx:1", Outcome::Completed),
        (1, "nginx:2", Outcome::Completed),
        (2, "nginx:3", Outcome::Halted),
    ] {
        let rollout = applied(&mut world, base, "*", image);
        ends(&mut world, rollout, outcome);
    }
    assert_eq!(web(&world).settled, Some(2));
    let operation = rollback(&world, 3, None);
    let events = world.done(admin, operation);
    assert_eq!(start_of(&events).kind, Kind::Rollback);
    let deployment = web(&world);
    let newest = deployment.newest().unwrap();
    assert_eq!(
        (newest.number, newest.cause),
        (4, ApplyCause::Rollback { to: 2 })
    );
    assert_eq!(newest.digest, deployment.revisions[&2].digest);
    assert_eq!(
        world
            .fleet
            .rollouts()
            .get(start_of(&events).rollout)
            .unwrap()
            .before,
        Some(2)
    );
    ends(&mut world, start_of(&events).rollout, Outcome::Completed);

    // What was never proven does not pass breakers by being called a rollback.
    let operation = rollback(&world, 4, Some(3));
    let events = world.done(admin, operation);
    assert_eq!(start_of(&events).kind, Kind::Forward);
    ends(&mut world, start_of(&events).rollout, Outcome::Aborted);
    let operation = rollback(&world, 5, Some(77));
    assert_eq!(world.refused(admin, operation), "revision.not_found");
}

#[test]
fn a_rollback_needs_something_to_go_back_to() {
    let mut world = fleet();
    let admin = world.admin;
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    ends(&mut world, rollout, Outcome::Completed);
    let operation = rollback(&world, 1, None);
    assert_eq!(world.refused(admin, operation), "revision.not_found");
    let unknown = Operation::RollBackDeployment(RollBackDeployment {
        deployment: DeploymentId::NIL,
        base: 1,
        to: None,
        how: how(Params::default()),
    });
    assert_eq!(world.refused(admin, unknown), "deployment.not_found");
}

#[test]
fn a_grant_on_some_nodes_must_cover_all_that_are_touched_now_and_later() {
    let mut world = fleet();
    let lyon = world.person("lea", "deployer", Some("site=lyon"));
    let everywhere = Operation::ApplyDeployment(apply("web", 0, "role=web", "nginx:1"));
    assert_eq!(world.refused(lyon, everywhere), "access.denied");
    world.done(
        lyon,
        Operation::ApplyDeployment(apply("web", 0, "site=lyon", "nginx:1")),
    );
    let revision = web(&world).newest().unwrap().clone();
    assert_eq!(revision.within, ["site=lyon".parse().unwrap()]);
    let node = |n| world.fleet.node(node_id(n)).unwrap();
    assert!(revision.is_for(node(1).subject()));
    assert!(!revision.is_for(node(3).subject()));

    // A selector that matches her nodes alone today, and others tomorrow.
    let rollout = web(&world).rollout.unwrap();
    ends(&mut world, rollout, Outcome::Completed);
    let db = Operation::ApplyDeployment(apply("db", 0, "role=db", "postgres:1"));
    world.done(lyon, db);
    let relabel = RelabelNode {
        node: node_id(3),
        set: parsed("role=db"),
        remove: BTreeSet::new(),
    };
    world.done(world.admin, Operation::RelabelNode(relabel));
    let db = world.fleet.deployments().named("db").unwrap();
    let paris = world.fleet.node(node_id(3)).unwrap();
    assert!(db.newest().unwrap().selector.matches(paris.subject()));
    assert!(!db.newest().unwrap().is_for(paris.subject()));

    // The nodes that lose a deployment are touched as well.
    let admin = world.admin;
    let wide = Operation::ApplyDeployment(apply("all", 0, "*", "nginx:1"));
    let rollout = started(&world.done(admin, wide));
    ends(&mut world, rollout, Outcome::Completed);
    let narrow = Operation::ApplyDeployment(apply("all", 1, "site=lyon", "nginx:1"));
    assert_eq!(world.refused(lyon, narrow), "access.denied");
}

#[test]
fn those_who_only_look_change_nothing() {
    let mut world = fleet();
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    let viewer = world.person("vic", "viewer", None);
    let operator = world.person("ona", "operator", None);
    let asked = Operation::ApplyDeployment(apply("web", 1, "*", "nginx:2"));
    assert_eq!(world.refused(viewer, asked.clone()), "access.denied");
    assert_eq!(world.refused(operator, asked), "access.denied");
    let pause = |reason: &str| {
        Operation::PauseRollout(PauseRollout {
            rollout,
            reason: reason.to_owned(),
        })
    };
    assert_eq!(world.refused(viewer, pause("no")), "access.denied");
    let resume = Operation::ResumeRollout(ResumeRollout { rollout });
    world.done(operator, pause("it burns"));
    assert_eq!(world.refused(operator, resume), "access.denied");
    let remove = Operation::RemoveDeployment(RemoveDeployment {
        deployment: web(&world).id,
        base: 1,
    });
    assert_eq!(world.refused(viewer, remove), "access.denied");
    // Only the controller records what nodes lead to.
    let record = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, Outcome::Completed)
    });
    let admin = world.admin;
    assert_eq!(world.refused(admin, record), "access.denied");
}

#[test]
fn who_asked_for_a_rollout_does_not_open_its_gate() {
    let mut world = fleet();
    let ann = world.person("ann", "deployer", None);
    let bob = world.person("bob", "deployer", None);
    let mut asked = apply("web", 0, "*", "nginx:1");
    asked.how.params.waves = vec![Wave {
        approve: Approve::Human,
        ..Wave::default()
    }];
    let rollout = started(&world.done(ann, Operation::ApplyDeployment(asked.clone())));
    let approve = |wave| Operation::ApproveRollout(ApproveRollout { rollout, wave });
    assert_eq!(world.refused(ann, approve(None)), "rollout.self_approval");
    // Another key of the same person is the same person.
    let (id, _) = principal_of(ann);
    let other_key = world.key(id, None);
    assert_eq!(
        world.refused(other_key, approve(None)),
        "rollout.self_approval"
    );
    assert_eq!(world.refused(bob, approve(Some(1))), "rollout.state");
    world.done(bob, approve(Some(0)));
    assert_eq!(world.refused(bob, approve(None)), "rollout.state");

    ends(&mut world, rollout, Outcome::Aborted);
    asked.base = 1;
    asked.how.params.self_approval = SelfApproval::Allowed;
    let rollout = started(&world.done(ann, Operation::ApplyDeployment(asked)));
    let approve = Operation::ApproveRollout(ApproveRollout {
        rollout,
        wave: None,
    });
    world.done(ann, approve);
}

#[test]
fn a_rollout_is_steered_only_where_its_state_allows() {
    let mut world = fleet();
    let admin = world.admin;
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    let resume = Operation::ResumeRollout(ResumeRollout { rollout });
    assert_eq!(world.refused(admin, resume.clone()), "rollout.state");
    let reason = "x".repeat(1000);
    let pause = Operation::PauseRollout(PauseRollout { rollout, reason });
    world.done(admin, pause.clone());
    assert_eq!(world.refused(admin, pause), "rollout.state");
    world.done(admin, resume);
    let abort = Operation::AbortRollout(AbortRollout {
        rollout,
        reason: "enough".to_owned(),
        then: AfterAbort::Keep,
    });
    world.done(admin, abort.clone());
    assert_eq!(world.refused(admin, abort), "rollout.state");
    ends(&mut world, rollout, Outcome::Aborted);
    let twice = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, Outcome::Aborted)
    });
    assert_eq!(world.refused(Caller::System, twice), "rollout.state");
    let unknown = Operation::ResumeRollout(ResumeRollout {
        rollout: RolloutId::NIL,
    });
    assert_eq!(world.refused(admin, unknown), "rollout.not_found");
}

#[test]
fn a_removed_deployment_is_forgotten_and_its_name_is_free() {
    let mut world = fleet();
    let admin = world.admin;
    let rollout = applied(&mut world, 0, "*", "nginx:1");
    let deployment = web(&world).id;
    let remove = |base| Operation::RemoveDeployment(RemoveDeployment { deployment, base });
    assert_eq!(world.refused(admin, remove(1)), "deployment.conflict");
    ends(&mut world, rollout, Outcome::Completed);
    let forget = Operation::ForgetDeployment(ForgetDeployment { deployment });
    assert_eq!(
        world.refused(Caller::System, forget.clone()),
        "request.invalid"
    );
    assert_eq!(world.refused(admin, remove(7)), "deployment.conflict");
    world.done(admin, remove(1));
    assert_eq!(world.done(admin, remove(1)), []);
    let asked = Operation::ApplyDeployment(apply("web", 1, "*", "nginx:2"));
    assert_eq!(world.refused(admin, asked), "deployment.conflict");
    world.done(Caller::System, forget);
    assert_eq!(world.fleet.deployments().specs_bytes(), 0);
    applied(&mut world, 0, "*", "nginx:1");
    // A node that comes back late must not take one for the other.
    assert_eq!(web(&world).number, 2);
    assert_ne!(web(&world).id, deployment);
}

#[test]
fn old_revisions_are_forgotten_but_never_what_nodes_have() {
    let mut world = fleet();
    let rollout = applied(&mut world, 0, "*", "nginx:0");
    ends(&mut world, rollout, Outcome::Completed);
    let count = u32::try_from(REVISIONS_COUNT_MAX).unwrap();
    for base in 1..2 * count {
        let rollout = applied(&mut world, base, "*", &format!("nginx:{base}"));
        ends(&mut world, rollout, Outcome::Aborted);
    }
    let deployment = web(&world);
    assert_eq!(deployment.revisions.len(), REVISIONS_COUNT_MAX);
    assert!(deployment.revisions.contains_key(&1), "the settled one");
    assert!(!deployment.revisions.contains_key(&2));
    assert_eq!(deployment.newest_number(), 2 * count);
    let bytes: u64 = deployment
        .revisions
        .values()
        .map(|revision| u64::from(revision.bytes))
        .sum();
    assert_eq!(world.fleet.deployments().specs_bytes(), bytes);
}

#[test]
fn nodes_that_left_or_are_in_doubt_get_nothing() {
    let mut world = fleet();
    let admin = world.admin;
    let revoke = RevokeNode {
        node: node_id(1),
        reason: String::new(),
    };
    world.done(admin, Operation::RevokeNode(revoke));
    let suspect = SuspectIdentity {
        node: node_id(2),
        doubt: Doubt::CounterReused,
        detail: String::new(),
    };
    world.done(Caller::System, Operation::SuspectIdentity(suspect));
    let lyon = Operation::ApplyDeployment(apply("web", 0, "site=lyon", "nginx:1"));
    assert_eq!(world.refused(admin, lyon), "selector.matches_nothing");
    let mut empty = apply("web", 0, "site=lyon", "nginx:1");
    empty.how.empty = EmptyAim::Allow;
    let events = world.done(admin, Operation::ApplyDeployment(empty));
    assert!(start_of(&events).waves.is_empty());
    // The one in doubt is touched all the same: it gets it once it is resolved.
    assert_eq!(touched(&world.fleet, Some(web(&world)), None), [node_id(2)]);
}

#[test]
fn what_no_node_could_run_is_refused() {
    let mut world = fleet();
    let admin = world.admin;
    let mut asked = apply("Web", 0, "*", "nginx:1");
    assert_eq!(
        world.refused(admin, Operation::ApplyDeployment(asked.clone())),
        "deployment.invalid"
    );
    asked.name = "web".to_owned();
    asked.spec.services.clear();
    assert_eq!(
        world.refused(admin, Operation::ApplyDeployment(asked)),
        "deployment.invalid"
    );
    let mut asked = apply("web", 0, "*", "nginx:1");
    asked.how.params.targets_max = 2;
    assert_eq!(
        world.refused(admin, Operation::ApplyDeployment(asked)),
        "limit.reached"
    );
    let mut asked = apply("web", 0, "*", "nginx:1");
    asked.how.params.waves[0].approve = Approve::Consensus;
    assert_eq!(
        world.refused(admin, Operation::ApplyDeployment(asked)),
        "consensus.unavailable"
    );
}

#[test]
fn a_rollout_halts_by_a_condition_that_nodes_watch_and_that_stays() {
    let mut world = fleet();
    let admin = world.admin;
    let halting = || {
        let mut asked = apply("web", 0, "*", "nginx:1");
        asked.how.params.halt = vec![HaltRule {
            count: Some(1),
            ..HaltRule::on(HaltOn::Metric("disk".to_owned()))
        }];
        Operation::ApplyDeployment(asked)
    };
    assert_eq!(world.refused(admin, halting()), "rollout.invalid");
    world.done(admin, define_rule(disk_full()));
    let rollout = started(&world.done(admin, halting()));
    let remove = || {
        Operation::RemoveAlertRule(RemoveAlertRule {
            rule: "disk".to_owned(),
        })
    };
    assert_eq!(world.refused(admin, remove()), "alert.rule_in_use");
    ends(&mut world, rollout, Outcome::Completed);
    world.done(admin, remove());
}
