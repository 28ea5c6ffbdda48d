//! Agents that share one engine: each has its own containers, networks and volumes,
//! and leaves the others' alone.

use harness::engine::Engine;
use harness::wait;
use serde_json::Value;

use crate::rollout::{PATIENCE, World, apply, configuration, ended, phases};

const COMPOSE: &str = "services:\n  web:\n    image: web:TAG\n    volumes: [kept:/kept]\n    \
                       stop_grace_period: 1s\nvolumes:\n  kept: {}\n";

const GOOD: &str = "echo mine >> /kept/log; while :; do /busybox sleep 1; done";

/// So many nodes on one engine, which has two good images and a broken one.
fn sharing(prefixes: &[&str]) -> Option<World> {
    let engine = Engine::start()?;
    engine.image("docker.io/library/web:1", GOOD);
    engine.image("docker.io/library/web:2", GOOD);
    engine.image("docker.io/library/web:3", "echo no such ship; exit 3");
    let configurations: Vec<String> = prefixes
        .iter()
        .map(|prefix| {
            format!(
                "{}[deploy]\nname_prefix = {prefix:?}\n",
                configuration(&engine)
            )
        })
        .collect();
    Some(World::with(vec![engine], &configurations))
}

/// Names of the engine's objects of a kind that an agent made.
fn named(world: &World, list: &[&str], field: &str) -> Vec<String> {
    let mut words = list.to_vec();
    words.extend(["--filter", "label=flotilla.node", "--format", field]);
    let said = world.engines[0].docker(&words);
    let mut names: Vec<String> = said.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn containers(world: &World) -> Vec<String> {
    named(world, &["ps"], "{{.Names}}")
}

fn roll_out(world: &World, tag: &str) -> Value {
    let file = world.compose(&COMPOSE.replace("TAG", tag));
    ended(
        &world.cli(),
        &apply(&world.cli(), &file, &["--on-halt", "revert"]),
    )
}

#[test]
fn agents_on_one_engine_leave_each_other_alone() {
    let Some(world) = sharing(&["red", "blue"]) else {
        return;
    };
    let cli = world.cli();
    let engine = &world.engines[0];
    for (tag, revision) in [("1", 1), ("2", 2)] {
        let end = roll_out(&world, tag);
        assert_eq!(end["state"], "completed", "{end}");
        let expected = [
            format!("blue-web-web-{revision}"),
            format!("red-web-web-{revision}"),
        ];
        wait::until_true("the old ones are gone", PATIENCE, || {
            containers(&world) == expected
        });
    }
    assert_eq!(named(&world, &["network", "ls"], "{{.Name}}").len(), 2);
    let volumes = named(&world, &["volume", "ls"], "{{.Name}}");
    assert_eq!(volumes, ["blue-web-kept", "red-web-kept"]);
    let log = engine.docker(&["exec", "red-web-web-2", "/busybox", "cat", "/kept/log"]);
    assert_eq!(log, "mine\nmine", "a volume for itself, over the update");

    // A broken one goes back on the node that it was tried on.
    let end = roll_out(&world, "3");
    assert_eq!(end["state"], "reverted", "{end}");
    wait::until_true("all run the second", PATIENCE, || {
        containers(&world) == ["blue-web-web-2", "red-web-web-2"]
    });

    // What a hand takes from one is put back by one.
    let id = |name: &str| engine.try_docker(&["inspect", "-f", "{{.Id}}", name]);
    let (red, blue) = (id("red-web-web-2"), id("blue-web-web-2"));
    engine.docker(&["rm", "-f", "blue-web-web-2"]);
    wait::until_true("it is put back", PATIENCE, || {
        id("blue-web-web-2").is_some_and(|made| Some(made) != blue)
    });
    assert_eq!(id("red-web-web-2"), red);

    // Of a deployment that leaves one of them, the other keeps its own.
    cli.ok(&["node", "revoke", "ship-1", "--reason", "sold"]);
    cli.ok(&["deploy", "remove", "web", "--yes"]);
    wait::until_true("the first node's are gone", PATIENCE, || {
        containers(&world) == ["blue-web-web-2"]
    });
}

#[test]
fn an_agent_without_a_prefix_of_its_own_is_refused_what_another_made() {
    let Some(world) = sharing(&["flotilla", "flotilla"]) else {
        return;
    };
    let cli = world.cli();
    let file = world.compose(&COMPOSE.replace("TAG", "1"));
    let rollout = apply(&cli, &file, &["--on-halt", "pause"]);
    wait::until_true("it halts", PATIENCE, || {
        cli.json(&["rollout", "show", &rollout])["state"] == "halted"
    });
    let targets = cli.json(&["rollout", "show", &rollout, "--targets"]);
    let failed: Vec<&Value> = targets
        .as_array()
        .unwrap()
        .iter()
        .filter(|target| target["code"] == "workload.start_failed")
        .collect();
    assert_eq!(failed.len(), 1, "{targets}");
    assert!(failed[0].to_string().contains("name_prefix"), "{targets}");
    // What the first has goes on.
    assert_eq!(containers(&world), ["flotilla-web-web-1"]);
    assert!(phases(&cli).contains(&("running".to_owned(), Value::from(1))));
}
