use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use protocol::command::ServiceVerb;

use super::manage::{OpenWindow, RemoveWindow, SetWindow, ShutWindow};
use super::*;
use crate::domain::command::Hours;
use crate::domain::given::{HOUR, World, node_id, order, run};
use crate::domain::operation::Operation;

/// Names a window for some nodes that opens at an hour of UTC for an hour.
fn window(name: &str, nodes: &str, gates: &[&str], hour: u8) -> Definition {
    let gates: BTreeSet<String> = gates.iter().map(|it| (*it).to_owned()).collect();
    Definition {
        name: name.to_owned(),
        nodes: nodes.parse().unwrap(),
        gated: Gated::of(gates),
        schedule: Schedule {
            days: schedule::Days::DAILY,
            from: format!("{hour:02}:00").parse().unwrap(),
            length_s: 3600,
            zone: "UTC".to_owned(),
        },
    }
}

fn set(definition: Definition) -> Operation {
    let definition = Box::new(definition);
    Operation::SetWindow(SetWindow { definition })
}

fn open(name: &str, lifetime: Duration, reason: &str) -> Operation {
    Operation::OpenWindow(OpenWindow {
        window: name.to_owned(),
        lifetime,
        reason: reason.to_owned(),
    })
}

/// A node in Lyon and one in Paris, at 08:00 UTC.
fn fleet() -> World {
    let mut world = World::new();
    world.node(1, "edge-1", "site=lyon");
    world.node(2, "edge-2", "site=paris");
    let day = 24 * 3_600_000;
    world.now = UnixMillis(world.now.0 / day * day + day + 8 * 3_600_000);
    world
}

fn waits(world: &World, n: u16, work: Work<'_>) -> Option<String> {
    let node = world.fleet.node(node_id(n))?;
    let wait = world.fleet.windows().wait(node.subject(), work, world.now);
    wait.map(|wait| wait.window)
}

#[test]
fn only_what_a_window_governs_waits_and_only_where_it_matches() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("w", "site=lyon", &["deploy", "run"], 22)));
    let waiting = Some("w".to_owned());
    let service = |verb| Action::Service {
        unit: "nginx".to_owned(),
        verb,
    };
    assert_eq!(waits(&world, 1, Work::Deploy), waiting);
    assert_eq!(waits(&world, 1, Work::Command(&run())), waiting);
    assert_eq!(waits(&world, 2, Work::Deploy), None);
    assert_eq!(waits(&world, 1, Work::Command(&Action::Ping)), None);
    let restart = service(ServiceVerb::Restart);
    assert_eq!(waits(&world, 1, Work::Command(&restart)), None);
    world.done(admin, set(window("w", "site=lyon", &["service"], 22)));
    assert_eq!(waits(&world, 1, Work::Command(&restart)), waiting);
    for passes in [ServiceVerb::Status, ServiceVerb::Stop] {
        let action = service(passes);
        assert_eq!(waits(&world, 1, Work::Command(&action)), None);
    }
    assert_eq!(waits(&world, 1, Work::Deploy), None);
}

#[test]
fn of_several_windows_any_that_is_open_will_do_and_the_first_is_named() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("late", "*", &["deploy"], 23)));
    world.done(admin, set(window("early", "site=lyon", &["deploy"], 12)));
    assert_eq!(waits(&world, 1, Work::Deploy), Some("early".to_owned()));
    assert_eq!(waits(&world, 2, Work::Deploy), Some("late".to_owned()));
    world.now = world.now.after(4 * HOUR);
    assert_eq!(waits(&world, 1, Work::Deploy), None);
    assert_eq!(waits(&world, 2, Work::Deploy), Some("late".to_owned()));
    let text = {
        let node = world.fleet.node(node_id(2)).unwrap();
        let wait = world
            .fleet
            .windows()
            .wait(node.subject(), Work::Deploy, world.now);
        wait.unwrap().to_string()
    };
    assert_eq!(text, "waits for window late until 23:00 UTC");
}

#[test]
fn a_window_is_opened_against_its_schedule_for_a_while_and_with_a_reason() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("w", "*", &["deploy"], 22)));
    assert_eq!(
        world.refused(admin, open("x", HOUR, "fix")),
        "window.not_found"
    );
    assert_eq!(world.refused(admin, open("w", HOUR, " ")), "window.invalid");
    assert_eq!(
        world.refused(admin, open("w", 25 * HOUR, "fix")),
        "window.invalid"
    );
    assert_eq!(
        world.refused(admin, open("w", Duration::ZERO, "fix")),
        "window.invalid"
    );
    world.done(admin, open("w", 2 * HOUR, "fix"));
    assert_eq!(waits(&world, 1, Work::Deploy), None);
    // What it is does not change that somebody opened it.
    world.done(admin, set(window("w", "*", &["deploy"], 23)));
    assert_eq!(waits(&world, 1, Work::Deploy), None);
    let before = world.now;
    world.now = before.after(2 * HOUR);
    assert!(waits(&world, 1, Work::Deploy).is_some());
    world.now = before;
    let shut = Operation::ShutWindow(ShutWindow {
        window: "w".to_owned(),
    });
    world.done(admin, shut.clone());
    assert!(waits(&world, 1, Work::Deploy).is_some());
    assert_eq!(world.done(admin, shut), []);
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let mut world = fleet();
    let admin = world.admin;
    let mut wrong = window("w", "*", &["deploy"], 22);
    wrong.schedule.zone = "Mars/Olympus".to_owned();
    let mut short = window("w", "*", &["deploy"], 22);
    short.schedule.length_s = 1;
    for definition in [
        wrong,
        short,
        window("", "*", &["deploy"], 22),
        window("w", "*", &[], 22),
        window("w", "*", &["ping"], 22),
    ] {
        assert_eq!(world.refused(admin, set(definition)), "window.invalid");
    }
    let good = window("w", "*", &["update"], 22);
    world.done(admin, set(good.clone()));
    assert_eq!(world.done(admin, set(good)), []);
    for n in 1..WINDOWS_COUNT_MAX {
        world.done(admin, set(window(&format!("w{n}"), "*", &["deploy"], 22)));
    }
    let more = set(window("more", "*", &["deploy"], 22));
    assert_eq!(world.refused(admin, more), "limit.reached");
    // One that is there may still be changed.
    world.done(admin, set(window("w", "*", &["update"], 21)));
    let remove = Operation::RemoveWindow(RemoveWindow {
        window: "w".to_owned(),
    });
    world.done(admin, remove.clone());
    assert_eq!(world.refused(admin, remove), "window.not_found");
}

#[test]
fn a_command_that_would_be_too_late_in_its_window_is_refused_at_once() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("w", "site=lyon", &["run"], 10)));
    let issue = |selector: &str, within: Duration| {
        let mut asked = order(selector, run());
        asked.start_within = within;
        Operation::IssueCommand(asked)
    };
    assert_eq!(world.refused(admin, issue("*", HOUR)), "window.closed");
    world.done(admin, issue("*", 3 * HOUR));
    world.done(admin, issue("site=paris", HOUR));
    let mut asked = order("*", Action::Ping);
    asked.start_within = HOUR;
    world.done(admin, Operation::IssueCommand(asked));
}

#[test]
fn a_command_that_does_not_wait_needs_a_permission_of_its_own_on_every_node() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("w", "*", &["run"], 10)));
    let now = |selector: &str| {
        let mut asked = order(selector, run());
        asked.hours = Hours::Any;
        Operation::IssueCommand(asked)
    };
    let events = world.done(admin, now("*"));
    let [Event::CommandIssued(issued)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(issued.hours, Hours::Any);
    let ann = world.person("ann", "operator", None);
    assert_eq!(world.refused(ann, now("*")), "access.denied");
    let mut waits = order("*", run());
    waits.start_within = 3 * HOUR;
    world.done(ann, Operation::IssueCommand(waits));
}

#[test]
fn windows_have_their_permissions() {
    let mut world = fleet();
    let admin = world.admin;
    world.done(admin, set(window("w", "*", &["run"], 10)));
    let ann = world.person("ann", "operator", None);
    for operation in [
        set(window("w", "*", &["run"], 11)),
        open("w", HOUR, "fix"),
        Operation::ShutWindow(ShutWindow {
            window: "w".to_owned(),
        }),
        Operation::RemoveWindow(RemoveWindow {
            window: "w".to_owned(),
        }),
    ] {
        assert_eq!(world.refused(ann, operation), "access.denied");
    }
}

proptest! {
    /// Between two edges the answer to every question stays what it is.
    #[test]
    fn invariant_answers_change_at_edges_alone(
        hours in prop::collection::vec((0..24_u8, any::<bool>(), any::<bool>()), 1..5),
        minutes in 0..3000_u64,
        share in 0..1000_u64,
    ) {
        let mut world = fleet();
        let admin = world.admin;
        for (n, (hour, lyon, deploy)) in hours.iter().enumerate() {
            let nodes = if *lyon { "site=lyon" } else { "*" };
            let gate = if *deploy { "deploy" } else { "run" };
            world.done(admin, set(window(&format!("w{n}"), nodes, &[gate], *hour)));
        }
        world.done(admin, open("w0", HOUR, "fix"));
        world.now = world.now.after(Duration::from_secs(minutes * 60));
        let edge = world.fleet.windows().next_edge(world.now).unwrap();
        prop_assert!(edge > world.now);
        let command = run();
        let answers = |world: &World| {
            [1, 2].map(|n| {
                [Work::Deploy, Work::Command(&command)].map(|work| waits(world, n, work))
            })
        };
        let before = answers(&world);
        world.now = UnixMillis(world.now.0 + (edge.0 - 1 - world.now.0) * share / 1000);
        prop_assert_eq!(answers(&world), before);
    }
}
