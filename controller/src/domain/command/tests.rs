//! Given nodes, when commands are issued, cancelled and concluded, then.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::command::{Action, ServiceVerb};
use protocol::id::CommandId;

use super::issue::{Aim, CancelCommand, ConcludeCommand, EmptyAim, IssueCommand, targets_digest};
use super::{COMMANDS_OPEN_MAX, COMMANDS_RECENT_MAX, Counts};
use crate::domain::access::caller::Caller;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::manage::{RevokeNode, SuspectIdentity};
use crate::domain::fleet::node::Doubt;
use crate::domain::given::{HOUR, World, node_id, order, run};
use crate::domain::operation::Operation;

fn fleet() -> World {
    let mut world = World::new();
    world.node(1, "l1", "site=lyon,role=web");
    world.node(2, "l2", "site=lyon,role=db");
    world.node(3, "p1", "site=paris,role=web");
    world
}

fn issue(world: &mut World, asked: IssueCommand) -> CommandId {
    let admin = world.admin;
    match &world.done(admin, Operation::IssueCommand(asked))[0] {
        Event::CommandIssued(issued) => issued.command,
        other => panic!("{other:?}"),
    }
}

fn conclude(command: CommandId, succeeded: u32) -> Operation {
    Operation::ConcludeCommand(ConcludeCommand {
        command,
        counts: Counts {
            succeeded,
            ..Counts::default()
        },
        merkle_root: Digest([1; 32]),
    })
}

fn cancel(command: CommandId) -> Operation {
    Operation::CancelCommand(CancelCommand { command })
}

fn nodes(ids: &[u16]) -> Aim {
    Aim::Nodes(ids.iter().map(|n| node_id(*n)).collect())
}

#[test]
fn a_command_goes_to_the_active_nodes_that_match() {
    let mut world = fleet();
    let admin = world.admin;
    let decided = world
        .ask(admin, Operation::IssueCommand(order("site=lyon", run())))
        .unwrap();
    let targets = decided.targets.clone().unwrap();
    assert_eq!(targets.nodes, [node_id(1), node_id(2)]);
    let Event::CommandIssued(issued) = &decided.events[0] else {
        panic!("{decided:?}");
    };
    assert_eq!(issued.target_count, 2);
    assert_eq!(issued.targets_digest, targets_digest(&targets.nodes));
    assert_eq!(issued.start_by, world.now.after(HOUR));
    assert_eq!(issued.run_timeout_ms, 60_000);

    world.done(
        admin,
        Operation::RevokeNode(RevokeNode {
            node: node_id(1),
            reason: String::new(),
        }),
    );
    let decided = world
        .ask(admin, Operation::IssueCommand(order("site=lyon", run())))
        .unwrap();
    assert_eq!(decided.targets.unwrap().nodes, [node_id(2)]);
}

#[test]
fn a_selector_that_matches_nothing_is_a_mistake_unless_allowed() {
    let mut world = fleet();
    let admin = world.admin;
    let nothing = order("site=nice", run());
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(nothing.clone())),
        "selector.matches_nothing"
    );
    let none = IssueCommand {
        on: Aim::Nodes(BTreeSet::new()),
        ..nothing.clone()
    };
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(none)),
        "selector.matches_nothing"
    );
    let allowed = IssueCommand {
        empty: EmptyAim::Allow,
        ..nothing
    };
    let command = issue(&mut world, allowed);
    let conclusion = &world.fleet.commands().get(command).unwrap().conclusion;
    assert_eq!(conclusion.as_ref().unwrap().counts, Counts::default());
}

#[test]
fn a_named_node_must_be_there() {
    let mut world = fleet();
    let admin = world.admin;
    let asked = IssueCommand {
        on: nodes(&[1, 9]),
        ..order("*", run())
    };
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(asked)),
        "node.not_found"
    );
    world.done(
        admin,
        Operation::RevokeNode(RevokeNode {
            node: node_id(1),
            reason: String::new(),
        }),
    );
    let asked = IssueCommand {
        on: nodes(&[1]),
        ..order("*", run())
    };
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(asked)),
        "node.not_active"
    );
}

#[test]
fn who_may_not_look_at_nodes_does_not_learn_which_exist() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(
        admin,
        Operation::CreateRole(crate::domain::access::manage::CreateRole {
            name: "runner".parse().unwrap(),
            description: String::new(),
            permissions: crate::domain::given::permissions(&["command:run"]),
            inherits: BTreeSet::new(),
        }),
    );
    let blind = world.person("ann", "runner", None);
    let asked = IssueCommand {
        on: nodes(&[9]),
        ..order("*", run())
    };
    assert_eq!(
        world.refused(blind, Operation::IssueCommand(asked)),
        "access.denied"
    );
}

#[test]
fn a_suspect_node_gets_no_command_that_changes_anything() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(
        Caller::System,
        Operation::SuspectIdentity(SuspectIdentity {
            node: node_id(1),
            doubt: Doubt::ContentDiffers,
            detail: String::new(),
        }),
    );
    let restart = Action::Service {
        unit: "nginx.service".to_owned(),
        verb: ServiceVerb::Restart,
    };
    for action in [run(), restart, Action::Reload] {
        let command = issue(&mut world, order("site=lyon", action.clone()));
        let issued = world.fleet.commands().get(command).unwrap();
        assert_eq!((issued.target_count, issued.withheld), (1, 1), "{action:?}");
        let named = IssueCommand {
            on: nodes(&[1]),
            ..order("*", action)
        };
        assert_eq!(
            world.refused(admin, Operation::IssueCommand(named)),
            "node.identity_suspect"
        );
    }
    let command = issue(&mut world, order("site=lyon", Action::Ping));
    assert_eq!(world.fleet.commands().get(command).unwrap().target_count, 2);
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(order("name=l1", run()))),
        "selector.matches_nothing"
    );
}

#[test]
fn each_action_asks_for_its_own_permission_on_every_target() {
    let mut world = fleet();
    let ann = world.person("ann", "deployer", Some("site=lyon"));
    let ask = |selector, action| Operation::IssueCommand(order(selector, action));
    world.done(ann, ask("site=lyon", Action::Ping));
    world.done(ann, ask("site=lyon", Action::Reload));
    assert_eq!(world.refused(ann, ask("site=lyon", run())), "access.denied");
    assert_eq!(world.refused(ann, ask("*", Action::Ping)), "access.denied");
    let viewer = world.person("ben", "viewer", None);
    assert_eq!(
        world.refused(viewer, ask("*", Action::Ping)),
        "access.denied"
    );
    assert_eq!(
        world.refused(Caller::System, ask("*", Action::Ping)),
        "access.denied"
    );
}

#[test]
fn limits_are_checked_before_anything_is_sent() {
    let mut world = fleet();
    let admin = world.admin;
    type Change = fn(&mut IssueCommand);
    let cases: [Change; 9] = [
        |asked| asked.start_within = Duration::ZERO,
        |asked| asked.start_within = 31 * 24 * HOUR,
        |asked| asked.run_timeout = Duration::ZERO,
        |asked| asked.run_timeout = 25 * HOUR,
        |asked| asked.output_bytes_max = 10_000_000,
        |asked| asked.concurrency_max = Some(0),
        |asked| asked.rate_per_min = Some(0),
        |asked| asked.rate_per_min = Some(1_000_001),
        |asked| asked.action = Action::Run { argv: vec![] },
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let mut asked = order("*", run());
        change(&mut asked);
        assert_eq!(
            world.refused(admin, Operation::IssueCommand(asked)),
            "command.invalid",
            "case {index}"
        );
    }
}

#[test]
fn a_command_is_concluded_once_with_a_state_for_every_target() {
    let mut world = fleet();
    let admin = world.admin;
    let command = issue(&mut world, order("*", run()));
    assert_eq!(world.refused(admin, conclude(command, 3)), "access.denied");
    for wrong in [0, 2, 4] {
        assert_eq!(
            world.refused(Caller::System, conclude(command, wrong)),
            "request.invalid"
        );
    }
    world.done(Caller::System, conclude(command, 3));
    assert_eq!(
        world.refused(Caller::System, conclude(command, 3)),
        "command.finished"
    );
    assert_eq!(world.refused(admin, cancel(command)), "command.finished");
    assert_eq!(
        world.refused(Caller::System, conclude(CommandId::NIL, 0)),
        "command.not_found"
    );
}

#[test]
fn its_issuer_or_a_fleet_wide_permission_cancels_a_command() {
    let mut world = fleet();
    let admin = world.admin;
    let ann = world.person("ann", "operator", Some("site=lyon"));
    let ben = world.person("ben", "operator", Some("site=lyon"));
    let events = world.done(ann, Operation::IssueCommand(order("site=lyon", run())));
    let Event::CommandIssued(issued) = &events[0] else {
        panic!("{events:?}");
    };
    let command = issued.command;
    assert_eq!(world.refused(ben, cancel(command)), "access.denied");
    assert_eq!(
        world.refused(Caller::Anonymous, cancel(command)),
        "access.denied"
    );
    world.done(ann, cancel(command));
    assert_eq!(world.done(admin, cancel(command)), []);
    let (_, by) = world.fleet.commands().get(command).unwrap().cancel.unwrap();
    assert_eq!(by, ann);
}

#[test]
fn open_commands_are_bounded_and_old_ones_forgotten() {
    let mut world = fleet();
    let admin = world.admin;
    let mut first = None;
    for _ in 0..COMMANDS_OPEN_MAX {
        let command = issue(&mut world, order("*", Action::Ping));
        first.get_or_insert(command);
    }
    assert_eq!(
        world.refused(admin, Operation::IssueCommand(order("*", Action::Ping))),
        "limit.reached"
    );
    let open: Vec<CommandId> = world.fleet.commands().open().map(|open| open.id).collect();
    assert_eq!(open.len(), COMMANDS_OPEN_MAX);
    for command in open {
        world.done(Caller::System, conclude(command, 3));
    }
    for _ in 0..COMMANDS_RECENT_MAX {
        let command = issue(&mut world, order("*", Action::Ping));
        world.done(Caller::System, conclude(command, 3));
    }
    assert_eq!(world.fleet.commands().iter().count(), COMMANDS_RECENT_MAX);
    assert!(world.fleet.commands().get(first.unwrap()).is_none());
}

#[test]
fn counts_of_every_kind_add_up() {
    let counts = Counts {
        succeeded: 1,
        failed: 2,
        refused: 4,
        timed_out: 8,
        expired: 16,
        cancelled: 32,
        interrupted: 64,
        unreachable: u32::MAX,
    };
    assert_eq!(counts.total(), 127 + u64::from(u32::MAX));
}
