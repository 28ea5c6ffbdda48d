//! Updates of real agents by a real controller: a good release, broken ones, a fleet
//! on three versions, and releases that must not be installed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use agent::update::unpack::unpack;
use harness::agent::Agent;
use harness::cli::Cli;
use harness::clock;
use harness::controller::{Controller, Plan};
use harness::debian::packages;
use harness::proxy::{Proxy, Weather};
use harness::release::Maker;
use harness::wait;
use protocol::release::{ARCHIVE_BYTES_MAX, PROGRAM};
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet;

const WITHIN: Duration = Duration::from_secs(120);

/// Confirms after a second, and gives up after a minute.
const QUICK: &str = "[rollout.health]\nmin_healthy = \"1s\"\nhealthy_deadline = \"30s\"\n";

struct World {
    controller: Controller,
    cli: Cli,
    maker: Maker,
    params: TempDir,
}

impl World {
    fn new() -> World {
        let controller = Plan::nodes(0).start();
        let cli = controller.cli();
        let maker = Maker::new();
        cli.ok(&["release", "key", "add", &maker.public()]);
        let params = TempDir::new().unwrap();
        fs::write(params.path().join("rollout.toml"), QUICK).unwrap();
        World {
            controller,
            cli,
            maker,
            params,
        }
    }

    fn agent(&self, name: &str) -> Agent {
        let mut agent = Agent::new(name).joined(&fleet::token(&self.cli));
        agent.start();
        fleet::await_up(&self.cli, name);
        agent
    }

    fn add(&self, version: &str, fault: &str) {
        let folder = self.maker.release(version, fault);
        self.cli
            .ok(&["release", "add", &folder.display().to_string()]);
    }

    /// Rolls a version out, and gives how the rollout ended.
    fn update(&self, version: &str, on: &str) -> Value {
        let id = self.begin(version, on);
        self.ended(&id)
    }

    /// Rolls a version out, and gives the rollout's id.
    fn begin(&self, version: &str, on: &str) -> String {
        let params = self.params.path().join("rollout.toml");
        let params = params.display().to_string();
        let applied = self.cli.json(&[
            "update",
            "apply",
            version,
            "--on",
            on,
            "--rollout",
            &params,
            "--wave",
            "rest",
            "--on-halt",
            "keep",
            "--yes",
        ]);
        applied["rollout"]["id"].as_str().unwrap().to_owned()
    }

    fn ended(&self, id: &str) -> Value {
        wait::until("the rollout has ended", WITHIN, || {
            let shown = self.cli.json(&["rollout", "show", id]);
            (shown["done"] == true).then_some(shown)
        })
    }

    /// What a rollout knows of its only target.
    fn target(&self, rollout: &Value) -> Value {
        let id = rollout["id"].as_str().unwrap();
        let targets = self.cli.json(&["rollout", "show", id, "--targets"]);
        targets[0].clone()
    }

    fn status(&self, name: &str) -> Value {
        let status = self.cli.json(&["deploy", "status", "agent"]);
        let nodes = status["nodes"].as_array().unwrap();
        let found = nodes.iter().find(|node| node["name"] == name);
        found.cloned().unwrap_or_default()
    }

    #[track_caller]
    fn await_version(&self, name: &str, version: &str) {
        wait::until_true(&format!("{name} runs {version}"), WITHIN, || {
            let nodes = fleet::nodes(&self.cli);
            let found = nodes.iter().find(|node| node["name"] == name);
            found.is_some_and(|node| node["agent_version"] == version && node["link"] == "up")
        });
    }
}

#[test]
fn an_update_is_fetched_tried_and_confirmed_and_gone_back_from() {
    let world = World::new();
    let mut agent = world.agent("web-1");
    world.add("0.2.0", "");
    let listed = world.cli.json(&["release", "list"]);
    assert_eq!(listed["releases"][0]["state"], "ready", "{listed}");
    let ended = world.update("0.2.0", "*");
    assert_eq!(ended["state"], "completed", "{ended}");
    world.await_version("web-1", "0.2.0");
    let status = world.status("web-1");
    assert_eq!(status["phase"], "running", "{status}");
    // A kill of everything is a start like any other.
    agent.kill();
    agent.start();
    world.await_version("web-1", "0.2.0");
    let listed = world.cli.json(&["release", "list"]);
    assert_eq!(listed["releases"][0]["nodes"], 1, "{listed}");

    // Another version, and back by a rollback to the one that is kept.
    world.add("0.3.0", "");
    let ended = world.update("0.3.0", "*");
    assert_eq!(ended["state"], "completed", "{ended}");
    world.await_version("web-1", "0.3.0");
    world.cli.ok(&[
        "deploy", "rollback", "agent", "--wave", "rest", "--yes", "--wait",
    ]);
    world.await_version("web-1", "0.2.0");
    agent.stop();
}

#[track_caller]
fn a_broken_release_is_given_up(fault: &str, expected: &str) {
    let world = World::new();
    let agent = world.agent("web-1");
    world.add("0.2.0", fault);
    let ended = world.update("0.2.0", "*");
    assert_eq!(ended["state"], "halted", "{ended}");
    world.await_version("web-1", "0.1.0");
    let target = world.target(&ended);
    assert_eq!(target["code"], "update.reverted", "{target}");
    let detail = target["detail"].as_str().unwrap();
    assert!(detail.contains(expected), "{detail}");
    drop(agent);
}

#[test]
fn a_release_that_crashes_ends_on_the_version_before_and_says_why() {
    a_broken_release_is_given_up("crash", "was started 3 times");
}

#[test]
fn a_release_that_never_confirms_ends_on_the_version_before_and_says_why() {
    a_broken_release_is_given_up("never-confirm", "did not confirm itself within 30 s");
}

#[test]
fn a_release_that_dies_once_it_is_confirmed_ends_on_the_version_before() {
    let world = World::new();
    let agent = world.agent("web-1");
    world.add("0.2.0", "die-after-confirm");
    world.update("0.2.0", "*");
    world.await_version("web-1", "0.1.0");
    wait::until_true("it is told", WITHIN, || {
        let status = world.status("web-1");
        status["code"] == "update.reverted"
            && status["detail"]
                .as_str()
                .is_some_and(|it| it.contains("did not last"))
    });
    drop(agent);
}

/// The release itself is good; the network goes with it. The node does not wait for
/// the controller's word to go back.
#[test]
fn a_release_that_loses_the_network_ends_on_the_version_before() {
    let world = World::new();
    // Long enough on trial to be caught there, and it is over soon.
    let slow = QUICK.replace("1s", "20s").replace("30s", "40s");
    fs::write(world.params.path().join("rollout.toml"), slow).unwrap();
    let mut agent = Agent::new("far").joined(&fleet::token(&world.cli));
    let broker = crate::broker::broker_of(&agent);
    let broker = broker.trim_start_matches("mqtts://").parse();
    let network = Proxy::to(broker.expect("a broker is an address and a port"));
    agent.configure(&format!(
        "[uplink]\nbrokers = [\"mqtts://{}\"]\n",
        network.address()
    ));
    agent.start();
    fleet::await_up(&world.cli, "far");
    world.add("0.2.0", "");
    let rollout = world.begin("0.2.0", "*");
    let at_the_node = |what: &str, version: &str, story: &str| {
        wait::until_true(what, WITHIN, || {
            let shown = agent.ask(&["status", "--output", "json"]);
            let status: Value = serde_json::from_str(&shown.out).unwrap_or_default();
            let said = status["update"]["story"].as_str().unwrap_or_default();
            status["process"]["version"] == version && said.contains(story)
        });
    };
    at_the_node("the new version is on trial", "0.2.0", "is on trial");
    network.set(Weather::Down);
    at_the_node(
        "the old one runs, cut off",
        "0.1.0",
        "since 0.2.0 was given up",
    );
    let shown = world.cli.json(&["rollout", "show", &rollout]);
    assert_ne!(
        shown["done"], true,
        "the controller knows nothing of it: {shown}"
    );

    network.set(Weather::Fair);
    let ended = world.ended(&rollout);
    assert_eq!(ended["state"], "halted", "{ended}");
    world.await_version("far", "0.1.0");
    let target = world.target(&ended);
    assert_eq!(target["code"], "update.reverted", "{target}");
    let detail = target["detail"].as_str().unwrap();
    assert!(
        detail.contains("did not confirm itself within 40 s"),
        "{detail}"
    );
    agent.stop();
}

/// Three versions at once under one controller: all measure and obey.
#[test]
fn a_fleet_on_three_versions_works() {
    let world = World::new();
    let agents = ["one", "two", "three"].map(|name| world.agent(name));
    world.add("0.2.0", "");
    world.add("0.3.0", "");
    let ended = world.update("0.2.0", "name in (two, three)");
    assert_eq!(ended["state"], "completed", "{ended}");
    let ended = world.update("0.3.0", "three");
    assert_eq!(ended["state"], "completed", "{ended}");
    world.await_version("one", "0.1.0");
    world.await_version("two", "0.2.0");
    world.await_version("three", "0.3.0");
    let answered = world.cli.ok(&["ping", "--all"]);
    for name in ["one", "two", "three"] {
        assert!(answered.contains(name), "{answered}");
    }
    drop(agents);
}

#[test]
fn what_must_not_be_installed_is_refused() {
    let world = World::new();
    let agent = world.agent("web-1");
    let refused = |arguments: &[&str], code: &str| {
        world.cli.ask(arguments).refused_with(code);
    };
    // Signed by a key that the fleet does not believe.
    let stranger = Maker::new();
    let folder = stranger.release("0.2.0", "");
    let folder = folder.display().to_string();
    refused(&["release", "add", &folder], "release.untrusted");
    // The right signature under another file's name.
    let folder = world.maker.release("0.2.0", "");
    let manifest = folder.join("flotilla-agent-0.2.0.release");
    let renamed = folder.join("flotilla-agent-0.3.0.release");
    fs::copy(&manifest, &renamed).unwrap();
    refused(
        &["release", "add", &renamed.display().to_string()],
        "release.invalid",
    );
    // An archive that was changed after it was signed.
    let archive = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "gz"))
        .unwrap();
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() - 100]).unwrap();
    refused(
        &["release", "add", &manifest.display().to_string()],
        "release.invalid",
    );
    fs::write(&archive, whole).unwrap();
    // Expired before it is added.
    let old = clock::unix_millis() - 500 * 24 * 3600 * 1000;
    let folder = world
        .maker
        .made_at("0.1.9", "", protocol::time::UnixMillis(old));
    refused(
        &["release", "add", &folder.display().to_string()],
        "release.expired",
    );

    world
        .cli
        .ok(&["release", "add", &manifest.display().to_string()]);
    // The version was given to another release.
    let other = Maker::new();
    world.cli.ok(&["release", "key", "add", &other.public()]);
    let folder = other.release("0.2.0", "crash");
    refused(
        &["release", "add", &folder.display().to_string()],
        "release.conflict",
    );
    refused(
        &["update", "apply", "9.0.0", "--on", "*", "--yes"],
        "release.not_found",
    );
    world
        .cli
        .ok(&["release", "revoke", "0.2.0", "--reason", "it eats samples"]);
    refused(
        &["update", "apply", "0.2.0", "--on", "*", "--yes"],
        "release.revoked",
    );
    refused(
        &["release", "add", &manifest.display().to_string()],
        "release.revoked",
    );
    world.await_version("web-1", "0.1.0");
    drop(agent);
}

/// A revocation ends what is on its way: the node in its trial goes back.
#[test]
fn a_revocation_recalls_a_version_that_is_on_trial() {
    let world = World::new();
    let agent = world.agent("web-1");
    world.add("0.2.0", "");
    let slow = world.params.path().join("slow.toml");
    fs::write(
        &slow,
        "[rollout.health]\nmin_healthy = \"10m\"\nhealthy_deadline = \"20m\"\n",
    )
    .unwrap();
    let slow = slow.display().to_string();
    world.cli.ok(&[
        "update",
        "apply",
        "0.2.0",
        "--on",
        "*",
        "--rollout",
        &slow,
        "--yes",
    ]);
    world.await_version("web-1", "0.2.0");
    world
        .cli
        .ok(&["release", "revoke", "0.2.0", "--reason", "it eats samples"]);
    let rollouts = world.cli.json(&["rollout", "list"]);
    let state = &rollouts["rollouts"][0]["state"];
    assert!(state == "aborting" || state == "aborted", "{rollouts}");
    drop(agent);
    drop(world.controller);
}

/// What packaging makes, and what nodes read as if anybody had made it.
#[test]
fn update_archive_of_the_packages_is_unpacked_and_runs() {
    let Some(packages) = packages() else {
        return;
    };
    let archive = fs::read_dir(packages)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("flotilla-agent-") && name.ends_with(".tar.gz")
        })
        .expect("packaging/build makes an archive of the agent");
    let folder = TempDir::new().unwrap();
    let into = folder.path().join("version");
    unpack(&archive, &into, ARCHIVE_BYTES_MAX).unwrap();
    let said = Command::new(into.join(PROGRAM)).arg("--version").output();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    assert_eq!(
        said.trim(),
        concat!("flotilla-agent ", env!("CARGO_PKG_VERSION"))
    );
    for paper in ["LICENSE", "THIRD-PARTY-LICENSES", "sbom.cdx.json"] {
        assert!(
            fs::metadata(into.join(paper)).unwrap().len() > 1000,
            "{paper}"
        );
    }
}
