//! Deployments from the operator's command line to containers on real Docker
//! engines: applied in stages, halted and taken back, over a killed controller,
//! with images that come from the controller itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::{Controller, Plan};
use harness::engine::Engine;
use harness::wait;
use serde_json::Value;

use crate::fleet;

/// A container engine and an agent each take a while on a small machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Flags that make a rollout short: a canary, then the rest.
const QUICK: [&str; 8] = [
    "--wave",
    "1:soak=1s",
    "--wave",
    "rest:soak=1s",
    "--min-healthy",
    "1s",
    "--healthy-deadline",
    "30s",
];

/// Nodes on engines, and a controller.
pub(crate) struct World {
    pub(crate) controller: Controller,
    pub(crate) engines: Vec<Engine>,
    /// They end when the world does.
    pub(crate) agents: Vec<Agent>,
}

impl World {
    /// Two nodes, each with an engine of its own; none when there is no Docker here.
    pub(crate) fn start() -> Option<World> {
        let engines = vec![Engine::start()?, Engine::start()?];
        let sockets: Vec<String> = engines.iter().map(configuration).collect();
        Some(World::with(engines, &sockets))
    }

    /// A node for each agent's configuration.
    pub(crate) fn with(engines: Vec<Engine>, configurations: &[String]) -> World {
        let controller = Plan::nodes(0).start();
        let cli = controller.cli();
        let mut agents = Vec::new();
        for (index, configuration) in configurations.iter().enumerate() {
            let name = format!("ship-{index}");
            let mut agent = Agent::new(&name).joined(&fleet::token(&cli));
            agent.configure(configuration);
            agent.start();
            agents.push(agent);
        }
        for agent in &agents {
            fleet::await_up(&cli, agent.name());
        }
        World {
            controller,
            engines,
            agents,
        }
    }

    pub(crate) fn cli(&self) -> Cli {
        self.controller.cli()
    }

    /// Makes an image, and uploads it as an archive: no node has it.
    pub(crate) fn push(&self, tag: &str, script: &str) {
        let engine = &self.engines[0];
        let name = format!("web:{tag}");
        engine.image(&name, script);
        let archive = self.controller.scratch().join(format!("web-{tag}.tar"));
        let path = archive.display().to_string();
        engine.docker(&["save", "-o", &path, &name]);
        engine.docker(&["rmi", &name]);
        let out = self.cli().ok(&["image", "push", &path]);
        assert!(
            out.contains(&format!("docker.io/library/web:{tag}")),
            "{out}"
        );
    }

    pub(crate) fn compose(&self, text: &str) -> PathBuf {
        let file = self.controller.scratch().join("compose.yaml");
        fs::write(&file, text).unwrap();
        file
    }

    /// What a container of a revision sees, on every engine.
    fn inside(&self, revision: u32, words: &[&str]) -> Vec<Option<String>> {
        let name = format!("flotilla-web-web-{revision}");
        let mut all = vec!["exec", name.as_str()];
        all.extend(words);
        self.engines
            .iter()
            .map(|engine| engine.try_docker(&all))
            .collect()
    }
}

/// The agent's configuration by which it uses an engine.
pub(crate) fn configuration(engine: &Engine) -> String {
    format!("[docker]\nsocket = {:?}\n", engine.socket())
}

pub(crate) fn apply(cli: &Cli, file: &Path, more: &[&str]) -> String {
    let file = file.display().to_string();
    let mut all = vec!["deploy", "apply", "-f", &file, "--name", "web", "--on", "*"];
    all.extend(["--yes"]);
    all.extend(QUICK);
    all.extend(more);
    let answer = cli.json(&all);
    answer["rollout"]["id"].as_str().unwrap().to_owned()
}

/// Waits for a rollout's end, and gives how it ended.
pub(crate) fn ended(cli: &Cli, rollout: &str) -> Value {
    wait::until("the rollout ends", PATIENCE, || {
        let view = cli.json(&["rollout", "show", rollout]);
        (view["done"] == true).then_some(view)
    })
}

pub(crate) fn phases(cli: &Cli) -> Vec<(String, Value)> {
    let page = cli.json(&["deploy", "status", "web"]);
    let nodes = page["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let phase = node["phase"].as_str().unwrap().to_owned();
            (phase, node["current"].clone())
        })
        .collect()
}

#[test]
fn a_project_is_rolled_out_a_broken_one_goes_back_and_all_of_it_is_in_the_trail() {
    let Some(world) = World::start() else {
        return;
    };
    let cli = world.cli();
    world.push("1", "while true; do /busybox sleep 1; done");
    world.push("2", "echo no such ship; exit 3");

    let password = world.controller.scratch().join("password.txt");
    fs::write(&password, "hunter2").unwrap();
    let from = password.display().to_string();
    cli.ok(&["secret", "set", "db-password", "--from", &from]);
    let compose = |tag: &str| {
        format!(
            "services:\n  web:\n    image: web:{tag}\n    secrets: [db-password]\nsecrets:\n  db-password:\n    external: true\n"
        )
    };

    // A plan first, which changes nothing.
    let file = world.compose(&compose("1"));
    let path = file.display().to_string();
    let plan = cli.ok(&[
        "deploy",
        "apply",
        "-f",
        &path,
        "--name",
        "web",
        "--on",
        "*",
        "--dry-run",
    ]);
    assert!(plan.contains("2 nodes in 2 waves"), "{plan}");
    assert!(cli.ok(&["deploy", "list"]).contains("No deployments yet"));

    // It gets to every node, by the archive that the controller holds.
    let first = apply(&cli, &file, &[]);
    let end = ended(&cli, &first);
    assert_eq!(end["state"], "completed", "{end}");
    wait::until_true("both run it", PATIENCE, || {
        phases(&cli) == vec![("running".to_owned(), Value::from(1)); 2]
    });
    let secrets = world.inside(1, &["/busybox", "cat", "/run/secrets/db-password"]);
    assert_eq!(secrets, vec![Some("hunter2".to_owned()); 2]);

    // A broken one stops at the canary, and goes back by itself.
    let file = world.compose(&compose("2"));
    let second = apply(&cli, &file, &["--on-halt", "revert"]);
    let end = ended(&cli, &second);
    assert_eq!(end["state"], "reverted", "{end}");
    wait::until_true("both run the first again", PATIENCE, || {
        phases(&cli) == vec![("running".to_owned(), Value::from(1)); 2]
    });
    let targets = cli.json(&["rollout", "show", &second, "--targets"]);
    let told = targets.as_array().unwrap().iter();
    let told: Vec<_> = told.filter(|target| target["state"] != "pending").collect();
    assert_eq!(told.len(), 1, "{targets}");
    assert_eq!(told[0]["code"], "workload.exited", "{targets}");
    assert!(
        world
            .inside(1, &["/busybox", "true"])
            .iter()
            .all(Option::is_some)
    );

    // Watching ends with the rollout, and says by its code that it did not complete.
    let watched = cli.ask(&["rollout", "watch", &second]);
    assert_ne!(watched.code, 0, "{watched}");
    assert!(watched.out.contains("halted"), "{watched}");

    // Removed, it is gone, and its name is free.
    cli.ok(&["deploy", "remove", "web", "--yes"]);
    wait::until_true("it is forgotten", PATIENCE, || {
        cli.ok(&["deploy", "list"]).contains("No deployments yet")
    });
    for engine in &world.engines {
        assert_eq!(engine.docker(&["ps", "-aq"]).trim(), "");
    }
    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    for event in [
        "deployment.applied",
        "rollout.started",
        "rollout.halted",
        "rollout.finished",
        "deployment.removed",
        "content.set",
        "archive.pushed",
    ] {
        assert!(trail.iter().any(|record| record.contains(event)), "{event}");
    }
    assert!(trail.iter().all(|record| !record.contains("hunter2")));
}

#[test]
fn a_controller_killed_in_mid_wave_goes_on() {
    let Some(mut world) = World::start() else {
        return;
    };
    let cli = world.cli();
    world.push("1", "while true; do /busybox sleep 1; done");
    let file = world.compose("services:\n  web:\n    image: web:1\n");
    let first = apply(&cli, &file, &[]);
    wait::until_true("the canary has begun", PATIENCE, || {
        let view = cli.json(&["rollout", "show", &first]);
        view["waves"][0]["state"] == "running"
    });
    world.controller.kill();
    world.controller.start();
    for index in 0..2 {
        fleet::await_up(&cli, &format!("ship-{index}"));
    }
    let end = ended(&cli, &first);
    assert_eq!(end["state"], "completed", "{end}");
}
