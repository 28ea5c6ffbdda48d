//! Agents that share one engine: each has its own containers, networks and volumes,
//! and leaves the others' alone. And agents that are killed at any step of a change.

use harness::agent::Agent;
use harness::controller::Plan;
use harness::engine::Engine;
use harness::process::signal;
use harness::relay::{Hold, Relay};
use harness::wait;
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet;
use crate::rollout::{PATIENCE, World, apply, configuration, ended, phases};

const COMPOSE: &str = "services:\n  web:\n    image: web:TAG\n    volumes: [kept:/kept]\n    \
                       stop_grace_period: 1s\nvolumes:\n  kept: {}\n";

const STEPWISE: &str = "services:\n  web:\n    image: web:TAG\n    ports: [\"127.0.0.1:8080:80\"]\n    \
                        stop_grace_period: 1s\n";

const STAYS: &str = "while :; do /busybox sleep 1; done";

/// More than an update has.
const STEPS_MAX: usize = 12;

const GOOD: &str = "echo mine >> /kept/log; while :; do /busybox sleep 1; done";

/// So many nodes on one engine, which has two good images and a broken one.
fn sharing(prefixes: &[&str]) -> Option<World> {
    Some(with_images(Engine::start()?, prefixes))
}

fn with_images(engine: Engine, prefixes: &[&str]) -> World {
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
    World::with(vec![engine], &configurations)
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
    let Some(mut world) = sharing(&["red", "blue"]) else {
        return;
    };
    let cli = world.cli();
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
    let log = ["exec", "red-web-web-2", "/busybox", "cat", "/kept/log"];
    let log = world.engines[0].docker(&log);
    assert_eq!(log, "mine\nmine", "a volume for itself, over the update");

    // A broken one goes back on the node that it was tried on.
    let end = roll_out(&world, "3");
    assert_eq!(end["state"], "reverted", "{end}");
    wait::until_true("all run the second", PATIENCE, || {
        containers(&world) == ["blue-web-web-2", "red-web-web-2"]
    });

    // A prefix that changes while the agent runs waits for the next start.
    let other = configuration(&world.engines[0]) + "[deploy]\nname_prefix = \"green\"\n";
    let agent = &mut world.agents[1];
    agent.configure(&other);
    signal(agent.process().id(), Signal::HUP);
    wait::until_true("it is read and said to wait", PATIENCE, || {
        let said = agent.process().output();
        said.contains("deploy.name_prefix change at the next start")
    });

    // What a hand takes from one is put back by one, in the middle of a change too.
    let engine = &world.engines[0];
    let id = |name: &str| engine.try_docker(&["inspect", "-f", "{{.Id}}", name]);
    let (red, blue) = (id("red-web-web-2"), id("blue-web-web-2"));
    engine.docker(&["rm", "-f", "blue-web-web-2"]);
    let back = wait::within(PATIENCE, || {
        let made = id("blue-web-web-2")?;
        (Some(made) != blue).then_some(())
    });
    let log = world.agents[1].process().tail();
    assert!(back.is_some(), "it is not put back\n{log}");
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

#[test]
fn a_podman_takes_what_a_docker_engine_takes() {
    let Some(engine) = Engine::podman() else {
        return;
    };
    let world = with_images(engine, &["flotilla"]);
    for (tag, revision) in [("1", 1), ("2", 2)] {
        let end = roll_out(&world, tag);
        assert_eq!(end["state"], "completed", "{end}");
        wait::until_true("the old one is gone", PATIENCE, || {
            containers(&world) == [format!("flotilla-web-web-{revision}")]
        });
    }
    let engine = &world.engines[0];
    let log = engine.docker(&["exec", "flotilla-web-web-2", "/busybox", "cat", "/kept/log"]);
    assert_eq!(log, "mine\nmine", "the volume stays over the update");
    let end = roll_out(&world, "3");
    assert_eq!(end["state"], "reverted", "{end}");
    assert_eq!(containers(&world), ["flotilla-web-web-2"]);
    engine.docker(&["rm", "-f", "flotilla-web-web-2"]);
    wait::until_true("it is put back", PATIENCE, || {
        containers(&world) == ["flotilla-web-web-2"]
    });
    world.cli().ok(&["deploy", "remove", "web", "--yes"]);
    wait::until_true("it is gone", PATIENCE, || {
        engine.docker(&["ps", "-aq"]).is_empty()
    });
}

#[test]
fn a_newcomer_deploys_to_the_nodes_of_a_quickstart() {
    let Some(engine) = Engine::start() else {
        return;
    };
    engine.image("docker.io/library/web:1", GOOD);
    engine.image("docker.io/library/web:2", "echo no such ship; exit 3");
    let socket = engine.socket().display().to_string();
    let controller = Plan::nodes(5)
        .with("FLOTILLA_AGENT_DOCKER_SOCKET", &socket)
        .start();
    let mut world = World {
        controller,
        engines: vec![engine],
        agents: Vec::new(),
    };
    let cli = world.cli();
    let all: Vec<String> = (1..=5)
        .map(|node| format!("flotilla-node-{node}-web-web-1"))
        .collect();
    let end = roll_out(&world, "1");
    assert_eq!(end["state"], "completed", "{end}");
    assert_eq!(containers(&world), all);

    // A broken one stops at the canary, which goes back by itself.
    let file = world.compose(&COMPOSE.replace("TAG", "2"));
    let broken = apply(&cli, &file, &[]);
    wait::until_true("it halts", PATIENCE, || {
        cli.json(&["rollout", "show", &broken])["state"] == "halted"
    });
    wait::until_true("the canary is back", PATIENCE, || containers(&world) == all);
    cli.ok(&["rollout", "abort", &broken]);

    // A node whose link is cut, and that starts anew, obeys the breaker all the same.
    cli.ok(&["breaker", "trip", "fleet", "--reason", "odd latency"]);
    let place = world.controller.folder().join("nodes/2");
    let mut node = Agent::new("node-2")
        .with_state(&place.join("state"))
        .with_runtime(&place.join("run"));
    let says = |node: &Agent, words: [&str; 2]| {
        let said = node.ask(&["status"]).out;
        words.iter().all(|word| said.contains(word))
    };
    let open = "breaker fleet is OPEN";
    wait::until_true("node 2 has it", PATIENCE, || {
        says(&node, [open, "link        up"])
    });
    let running = world.controller.ready()["nodes"][1]["pid"].as_u64();
    let running = u32::try_from(running.expect("node 2 runs")).unwrap();
    let own = world.controller.process().id();
    signal(own, Signal::STOP);
    signal(running, Signal::KILL);
    node.start();
    wait::until_true("it is still open", PATIENCE, || {
        says(&node, [open, "link        DOWN"])
    });
    assert_eq!(containers(&world), all, "what runs goes on");
    node.kill();
    signal(own, Signal::CONT);
    fleet::await_up(&cli, "node-2");
    cli.ok(&["breaker", "reset", "fleet", "--reason", "it was the switch"]);
    wait::until_true("it is told", PATIENCE, || !says(&node, [open, ""]));

    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    for what in [
        "deployment.applied",
        "rollout.halted",
        "odd latency",
        "it was the switch",
    ] {
        assert!(trail.iter().any(|record| record.contains(what)), "{what}");
    }
}

/// A node whose engine is reached through a relay, with a port that only one
/// revision at a time can have, so that an update has every step that there is.
struct Stepwise {
    world: World,
    relay: Relay,
}

impl Stepwise {
    fn start() -> Option<Stepwise> {
        let engine = Engine::start()?;
        for tag in ["1", "2"] {
            engine.image(&format!("docker.io/library/web:{tag}"), STAYS);
        }
        engine.image("docker.io/library/web:3", "echo no such ship; exit 3");
        let relay = Relay::to(&engine.socket(), &engine.folder().join("relay.sock"));
        let configuration = format!("[docker]\nsocket = {:?}\n", relay.socket());
        let world = World::with(vec![engine], &[configuration]);
        // So many failures in a row are what it is there for.
        world.cli().ok(&["breaker", "remove", "fleet"]);
        let stepwise = Stepwise { world, relay };
        let end = ended(&stepwise.world.cli(), &stepwise.apply("1"));
        assert_eq!(end["state"], "completed", "{end}");
        Some(stepwise)
    }

    fn apply(&self, tag: &str) -> String {
        let file = self.world.compose(&STEPWISE.replace("TAG", tag));
        apply(&self.world.cli(), &file, &["--on-halt", "revert"])
    }

    /// Applies an image while the agent is killed at a step, starts the agent again
    /// and waits for the end. None when the change has fewer steps.
    fn killed_at(&mut self, step: usize, when: Hold, tag: &str) -> Option<Value> {
        self.relay.hold(step, when);
        let rollout = self.apply(tag);
        let cli = self.world.cli();
        let held = wait::until("the step comes, or the end", PATIENCE, || {
            let done = || cli.json(&["rollout", "show", &rollout])["done"] == true;
            let held = self.relay.is_holding();
            (held || done()).then_some(held)
        });
        if held {
            self.world.agents[0].kill();
            self.world.agents[0].start();
        }
        self.relay.let_go();
        let end = ended(&cli, &rollout);
        held.then_some(end)
    }

    /// What the engine has of the deployment, whatever its state.
    fn there(&self) -> String {
        let filter = "label=flotilla.deployment";
        let show = "{{.Image}} {{.State}}";
        self.world.engines[0].docker(&["ps", "-a", "--filter", filter, "--format", show])
    }
}

/// Kills the agent at every step of changes to images that take turns, and gives how
/// many steps there were.
fn kill_at_every_step(
    stepwise: &mut Stepwise,
    tag: impl Fn(usize) -> &'static str,
    check: impl Fn(&Stepwise, &Value, &str),
) -> usize {
    let mut turn = 0;
    for step in 0..STEPS_MAX {
        for when in [Hold::Before, Hold::After] {
            turn += 1;
            let Some(end) = stepwise.killed_at(step, when, tag(turn)) else {
                return step;
            };
            check(stepwise, &end, tag(turn));
        }
    }
    panic!("an update has more than {STEPS_MAX} steps");
}

#[test]
fn an_agent_killed_at_any_step_of_an_update_ends_on_the_new_revision_alone() {
    let Some(mut stepwise) = Stepwise::start() else {
        return;
    };
    let tag = |turn: usize| if turn % 2 == 1 { "2" } else { "1" };
    let steps = kill_at_every_step(&mut stepwise, tag, |stepwise, end, tag| {
        assert_eq!(end["state"], "completed", "{end}");
        assert_eq!(stepwise.there(), format!("web:{tag} running"), "{end}");
    });
    // Make the new one, stop the old one, start the new one, remove the old one.
    assert!(steps >= 4, "{:#?}", stepwise.relay.changing());
}

#[test]
fn an_agent_killed_at_any_step_of_a_broken_update_ends_on_the_old_revision_alone() {
    let Some(mut stepwise) = Stepwise::start() else {
        return;
    };
    let steps = kill_at_every_step(
        &mut stepwise,
        |_| "3",
        |stepwise, end, _| {
            assert_eq!(end["state"], "reverted", "{end}");
            assert_eq!(stepwise.there(), "web:1 running", "{end}");
        },
    );
    // Besides: start the old one again, remove the new one.
    assert!(steps >= 5, "{:#?}", stepwise.relay.changing());
}
