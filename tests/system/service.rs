//! Nodes that are taken out of service on real Docker engines, and commands that
//! wait for a maintenance window, from the operator's command line.

use std::path::Path;
use std::time::Duration;

use harness::cli::Cli;
use harness::clock;
use harness::controller::Plan;
use harness::wait;
use serde_json::Value;

use crate::fleet;
use crate::rollout::{PATIENCE, World, apply, ended};

const LASTS: &str = "while true; do /busybox sleep 1; done";

/// The revision that a node says it runs; none when it has none of it.
fn revision(cli: &Cli, name: &str) -> Option<u64> {
    let page = cli.json(&["deploy", "status", "web"]);
    let nodes = page["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["name"] == name)?;
    (node["phase"] == "running")
        .then(|| node["current"].as_u64())
        .flatten()
}

fn await_revision(cli: &Cli, name: &str, wanted: u64) {
    wait::until_true(&format!("{name} runs {wanted}"), PATIENCE, || {
        revision(cli, name) == Some(wanted)
    });
}

fn is_empty(world: &World, engine: usize) -> bool {
    world.engines[engine]
        .docker(&["ps", "-aq"])
        .trim()
        .is_empty()
}

fn compose(world: &World, tag: &str) -> std::path::PathBuf {
    world.compose(&format!("services:\n  web:\n    image: web:{tag}\n"))
}

fn roll_out(cli: &Cli, file: &Path) -> String {
    let rollout = apply(cli, file, &[]);
    let end = ended(cli, &rollout);
    assert_eq!(end["state"], "completed", "{end}");
    rollout
}

#[test]
fn a_node_is_cordoned_drained_and_decommissioned_with_what_it_runs() {
    let Some(world) = World::start() else {
        return;
    };
    let cli = world.cli();
    world.push("1", LASTS);
    world.push("2", LASTS);
    roll_out(&cli, &compose(&world, "1"));
    for name in ["ship-0", "ship-1"] {
        await_revision(&cli, name, 1);
    }

    // Cordoned, it keeps what it has and gets nothing new, and nobody waits for it.
    let out = cli.ok(&["node", "cordon", "ship-0", "--reason", "disk is failing"]);
    assert!(out.contains("cordoned"), "{out}");
    assert!(cli.ok(&["node", "list"]).contains("up, cordoned"));
    let second = roll_out(&cli, &compose(&world, "2"));
    await_revision(&cli, "ship-1", 2);
    assert_eq!(revision(&cli, "ship-0"), Some(1));
    let targets = cli.json(&["rollout", "show", &second, "--targets"]);
    let targets = targets.as_array().unwrap().iter();
    let held: Vec<&Value> = targets
        .filter(|target| target["state"] == "cordoned")
        .collect();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(held[0]["name"], "ship-0");
    assert_eq!(held[0]["detail"], "cordoned: disk is failing");
    // Operators mend it by commands.
    cli.ok(&["ping", "ship-0"]);
    cli.ok(&["node", "uncordon", "ship-0", "--reason", "disk replaced"]);
    await_revision(&cli, "ship-0", 2);

    // Drained, its containers are gone; the other node's run on.
    let out = cli.ok(&["node", "drain", "--on", "name=ship-0", "--reason", "kernel"]);
    assert!(out.contains("drained"), "{out}");
    assert!(is_empty(&world, 0));
    assert_eq!(revision(&cli, "ship-1"), Some(2));
    cli.ok(&["node", "uncordon", "ship-0", "--reason", "kernel is new"]);
    await_revision(&cli, "ship-0", 2);

    // Decommissioned, it leaves once it is drained, and its name is free.
    let leave = ["node", "decommission", "ship-1", "--reason", "end of lease"];
    let out = cli.ok(&leave);
    assert!(out.contains("decommissioned"), "{out}");
    assert!(is_empty(&world, 1));
    assert!(fleet::node(&cli, "ship-1").is_none());
    assert_eq!(revision(&cli, "ship-0"), Some(2));
    cli.ok(&["node", "rename", "ship-0", "ship-1"]);
    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    for event in [
        "node.cordoned",
        "node.uncordoned",
        "node.drain_started",
        "node.drain_ended",
        "decommissioned: end of lease",
    ] {
        assert!(trail.iter().any(|record| record.contains(event)), "{event}");
    }
}

/// The next full minute of UTC that is at least half a minute away, as a clock shows it.
fn next_minute() -> String {
    let minutes = (clock::unix_millis() / 1000 + 30).div_ceil(60) % (24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[test]
fn a_command_outside_of_its_window_waits_and_runs_when_it_opens() {
    let controller = Plan::nodes(1).start();
    let cli = controller.cli();
    let name = fleet::await_any(&cli);
    let opens = next_minute();
    let window = [
        "window", "set", "soon", "--on", &name, "--gate", "run", "--from", &opens, "--for", "1h",
    ];
    let out = cli.ok(&window);
    assert!(out.contains("Window soon is shut"), "{out}");
    assert!(
        cli.ok(&["window", "next"])
            .contains(&format!("{opens} UTC"))
    );

    // It waits, and says for what.
    let waits = cli.ask(&["run", &name, "--detach", "--output", "json", "--", "uname"]);
    assert_eq!(waits.code, 0, "{waits}");
    let expected = format!("waits for window soon until {opens} UTC");
    assert!(waits.err.contains(&expected), "{waits}");
    let answer: Value = serde_json::from_str(&waits.out).unwrap();
    let id = answer["command"]["id"].as_str().unwrap();
    let target = wait::until("its target is there", Duration::from_secs(10), || {
        fleet::targets(&cli, id).into_iter().next()
    });
    assert_eq!(target["state"], "waiting", "{target}");
    assert_eq!(target["detail"], expected, "{target}");

    // What could never start in time is refused at once; what only reads passes.
    let late = cli.ask(&["run", &name, "--start-by", "1s", "--", "uname"]);
    late.refused_with("window.closed");
    cli.ok(&["ping", &name]);

    // Those who may do not wait.
    assert!(
        cli.ok(&["run", &name, "--now", "--", "uname"])
            .contains("Linux")
    );
    let key = fleet::key_for(&cli, "olga", "operator");
    let olga = fleet::profile_with(&controller, "olga", &key);
    let refused = olga.ask(&["run", &name, "--now", "--", "uname"]);
    refused.refused_with("access.denied");

    // It runs when the window opens, and not before.
    let done = wait::until("it has run", Duration::from_secs(180), || {
        let view = cli.json(&["command", "show", id]);
        (view["command"]["done"] == true).then_some(view)
    });
    assert_eq!(done["targets"][0]["state"], "succeeded", "{done}");
    let started = done["targets"][0]["receipt"]["started_at"]
        .as_str()
        .unwrap();
    let at = started.get(11..16).unwrap_or_default();
    assert!(at >= opens.as_str(), "{started} is before {opens}");
}
