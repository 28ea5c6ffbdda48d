//! The breaker on a real node: what it knows to be stopped it refuses without a
//! link, over a kill, and whatever the broker's owner sends; and goes on once the
//! breaker is reset.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::domain::time::Tick;
use agent::store::spool::MemorySpool;
use agent::store::{Limits, RedbDisk, Store};
use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::Plan;
use harness::proxy::{Proxy, Weather};
use harness::rogue::{self, Papers, Rogue};
use harness::wait;
use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::spec::{Image, Service, Spec};
use protocol::envelope::{Seal, peek};
use protocol::id::{DeploymentId, NodeId, StoreId};
use protocol::key::SigningKey;
use protocol::message::Kind;
use protocol::policy::Policy;
use protocol::session::BootId;
use protocol::state::Lifecycle;
use protocol::topic::Topic;
use serde_json::Value;

use crate::broker::{pki, with_mosquitto};
use crate::fleet;
use crate::kill::Marks;

/// A policy reaches a connected node, and a word of the broker's owner is counted,
/// well within this.
const TOLD: Duration = Duration::from_secs(20);

/// The breaker of these tests: of the whole fleet, by hand alone.
const DEFINE: [&str; 9] = [
    "breaker", "define", "brake", "--watch", "command", "--gate", "run", "--gate", "deploy",
];

/// The words of the agent's status for a breaker that is open.
fn stops(agent: &Agent) -> Vec<Value> {
    let status = agent.status();
    status["gate"]["stops"].as_array().unwrap().clone()
}

/// Commands that the node has taken and not answered.
fn open_count(agent: &Agent) -> usize {
    let status = agent.status();
    let commands = status["commands"].as_array().unwrap().iter();
    commands.filter(|one| one["outcome"] == "running").count()
}

fn epoch(agent: &Agent) -> u64 {
    agent.status()["trust"]["policy_epoch"].as_u64().unwrap()
}

/// The epoch that the controller published last.
fn published(cli: &Cli) -> u64 {
    let list = cli.json(&["breaker", "list"]);
    list["policy_epoch"].as_u64().unwrap()
}

fn trip(cli: &Cli, agent: &Agent) {
    cli.ok(&["breaker", "trip", "brake", "--reason", "odd latency"]);
    wait::until_true("the node obeys", TOLD, || !stops(agent).is_empty());
    assert_eq!(epoch(agent), published(cli));
}

/// Puts an order on the disk of a node that is off, as a kill leaves it between the
/// commit that takes an order and its judgement.
fn order_on_disk(agent: &Agent, deployment: DeploymentId) {
    let now = rogue::now();
    let started = |clean| Lifecycle::Started {
        boot: BootId([0; 16]),
        at: now,
        agent_version: String::new(),
        clean,
    };
    let (mut store, recovered) = Store::open(
        Box::new(RedbDisk::file(&agent.state().join("agent.redb"))),
        Box::new(MemorySpool::default()),
        Limits::default(),
        StoreId::from_bytes([5; 10]),
        started,
        now,
    )
    .unwrap();
    assert!(recovered.interrupted.is_empty(), "it answered before");
    let service = Service {
        image: Image {
            reference: "web:1".to_owned(),
            ..Image::default()
        },
        ..Service::default()
    };
    let target = Target {
        revision: 1,
        spec: Spec {
            services: [("web".to_owned(), service)].into(),
            ..Spec::default()
        },
        rollout: None,
        cause: Cause::Change,
        health: HealthRule::default(),
        on_failure: OnFailure::Revert,
        commit: Commit::WhenHealthy,
    };
    let order = Desired {
        deployment,
        number: 1,
        name: "web".to_owned(),
        generation: store.generation_kept() + 1,
        at: now,
        want: Want::Run(Box::new(target)),
    };
    store.take_desired(order, now);
    store.settle(true, now, Tick::default());
    assert!(store.is_written());
}

/// A script that lasts until a file is there.
fn until_told(folder: &Path) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (script, told) = (folder.join("last"), folder.join("told"));
    let text = format!(
        "#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.1; done\n",
        told.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script, told)
}

#[test]
fn a_node_whose_link_is_cut_refuses_over_a_kill_until_the_breaker_is_reset() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
        .start();
    let cli = controller.cli();
    cli.ok(&DEFINE);
    let marks = Marks::below(controller.scratch());
    let (lasting, told) = until_told(controller.scratch());
    let mut agent = Agent::new("islet").joined(&fleet::token(&cli));
    let proxy = Proxy::to(rogue::broker_of(&rogue::identity(agent.state())));
    agent.configure(&format!(
        "[command]\nrun = \"any\"\nslots = 1\n[uplink]\nbrokers = [\"mqtts://{}\"]\n",
        proxy.address()
    ));
    agent.start();
    fleet::await_up(&cli, "islet");

    // One command has the only slot, another waits for it on the node's disk.
    let lasting = lasting.display().to_string();
    let first = fleet::issue(&cli, &["run", "islet", "--", &lasting]);
    let waiting = crate::kill::issue(&cli, "islet", &marks, 1).expect("it is issued");
    wait::until_true("both are on the node", fleet::RECEIPT_LIMIT, || {
        open_count(&agent) == 2
    });
    trip(&cli, &agent);
    let held = epoch(&agent);
    proxy.set(Weather::Down);
    wait::until_true("the node knows that it is alone", fleet::LINK_LIMIT, || {
        !agent.status()["link"]["problem"].is_null()
    });

    // Alone, it gives the slot to nothing that the breaker stops.
    fs::write(&told, "").unwrap();
    wait::until_true("the second is judged", fleet::RECEIPT_LIMIT, || {
        open_count(&agent) == 0
    });
    assert_eq!(marks.count(1), 0);

    // Killed and started alone, it knows the policy before it does anything.
    agent.kill();
    let deployment = DeploymentId::from_bytes([0x77; 10]);
    order_on_disk(&agent, deployment);
    agent.start();
    let refused = wait::until("the order on its disk is judged", TOLD, || {
        let answer = agent.ask(&["status", "--output", "json"]);
        let status: Value = serde_json::from_str(&answer.out).ok()?;
        let all = status["deployments"].as_array()?.clone();
        all.into_iter().find(|one| one["phase"] == "refused")
    });
    assert_eq!(refused["code"], "breaker.open", "{refused}");
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("breaker brake") && detail.contains(&format!("epoch {held}")),
        "{detail}"
    );
    assert_eq!(epoch(&agent), held);
    let stop = stops(&agent).remove(0);
    assert_eq!(
        (&stop["breaker"], &stop["state"]),
        (&"brake".into(), &"open".into())
    );
    assert!(
        stop["reason"].as_str().unwrap().contains("odd latency"),
        "{stop}"
    );
    let said = agent.ask(&["status"]).out;
    assert!(said.contains("breaker brake is OPEN since "), "{said}");
    assert!(said.contains("lease until "), "{said}");

    // With its link it tells what it refused, and by which policy.
    proxy.set(Weather::Fair);
    assert_eq!(fleet::outcome(&cli, &first)["state"], "succeeded");
    let target = fleet::outcome(&cli, &waiting);
    assert_eq!(target["state"], "refused", "{target}");
    assert_eq!(target["receipt"]["code"], "breaker.open", "{target}");
    let detail = target["receipt"]["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("epoch {held}")), "{detail}");
    let asked = cli.ask(&["run", "islet", "--", "true"]);
    asked.refused_with("breaker.open");

    cli.ok(&["breaker", "reset", "brake", "--reason", "it was the switch"]);
    wait::until_true("the node obeys again", TOLD, || stops(&agent).is_empty());
    let after = crate::kill::issue(&cli, "islet", &marks, 2).expect("it is issued");
    assert_eq!(fleet::outcome(&cli, &after)["state"], "succeeded");
    assert_eq!((marks.count(1), marks.count(2)), (0, 1));
}

fn dropped(agent: &Agent, code: ErrorCode) -> u64 {
    agent.status()["refused"][code.text()].as_u64().unwrap_or(0)
}

#[test]
fn a_policy_that_is_old_or_by_another_key_is_not_believed_from_whoever_sends_it() {
    let Some((mut controller, mosquitto)) = with_mosquitto() else {
        return;
    };
    let cli = controller.cli();
    let marks = Marks::below(controller.scratch());
    let mut agent = crate::kill::willing_agent(&cli, "besieged");
    let loaded = rogue::identity(agent.state());
    let fleet_id = loaded.identity.fleet;
    let all = Topic::All.print(fleet_id);
    let session = Topic::Session(loaded.identity.node).print(fleet_id);
    let owner = Rogue::connect(
        mosquitto.address(),
        &Papers::of_controller(&pki(&controller), fleet_id),
        "owner",
        &[all.clone(), session],
    );
    agent.start();
    fleet::await_up(&cli, "besieged");
    cli.ok(&DEFINE);
    trip(&cli, &agent);
    cli.ok(&["breaker", "reset", "brake", "--reason", "for the record"]);
    wait::until_true("the node obeys", TOLD, || stops(&agent).is_empty());
    let said = std::iter::from_fn(|| owner.next()).map(|(_, bytes)| bytes);
    let said: Vec<Vec<u8>> = said
        .filter(|bytes| peek(bytes).is_ok_and(|header| header.kind == Kind::POLICY))
        .collect();
    assert!(said.len() >= 2, "the owner recorded {}", said.len());
    trip(&cli, &agent);
    let held = epoch(&agent);

    // Only what the owner recorded and what it makes itself is left: it sends the
    // word that everything is open again, as it was said, and by keys that it has.
    controller.kill();
    let free = Policy {
        fleet: fleet_id,
        epoch: held + 1_000,
        issued_at: rogue::now(),
        lease_ms: 0,
        gates: Vec::new(),
        overrides: Vec::new(),
        rules: Vec::new(),
    };
    let own = SigningKey::from_seed(&[0x31; 32]).unwrap();
    let by = |sender, key: &SigningKey| {
        let fleet = fleet_id;
        let seal = Seal { fleet, sender, key };
        seal.seal(1 << 60, rogue::now(), &free.sign(key))
    };
    let replayed = said.last().unwrap().clone();
    let mut altered = replayed.clone();
    if let Some(last) = altered.last_mut() {
        *last ^= 1;
    }
    let node = &loaded.identity;
    for restarted in [false, true] {
        if restarted {
            agent.kill();
            while owner.next().is_some() {}
            agent.start();
            wait::until_true("it says hello", TOLD, || {
                std::iter::from_fn(|| owner.next())
                    .any(|(_, bytes)| peek(&bytes).is_ok_and(|header| header.kind == Kind::HELLO))
            });
        }
        for (what, payload, code) in [
            ("an old epoch", replayed.clone(), ErrorCode::PolicyStale),
            (
                "an altered one",
                altered.clone(),
                ErrorCode::EnvelopeBadSignature,
            ),
            (
                "another key",
                by(NodeId::NIL, &own),
                ErrorCode::EnvelopeUnknownKey,
            ),
            (
                "a node's key",
                by(node.node, &node.key),
                ErrorCode::EnvelopeUnknownKey,
            ),
        ] {
            let before = dropped(&agent, code);
            owner.publish(&all, payload);
            wait::until_true(&format!("{what} is counted"), TOLD, || {
                dropped(&agent, code) == before + 1
            });
            assert_eq!(epoch(&agent), held, "after {what}");
            assert_eq!(stops(&agent).len(), 1, "after {what}");
        }
    }

    controller.start();
    fleet::await_up(&cli, "besieged");
    let asked = cli.ask(&["run", "besieged", "--", "true"]);
    asked.refused_with("breaker.open");
    cli.ok(&[
        "breaker",
        "reset",
        "brake",
        "--reason",
        "the broker is ours again",
    ]);
    wait::until_true("the node obeys", TOLD, || stops(&agent).is_empty());
    let after = crate::kill::issue(&cli, "besieged", &marks, 1).expect("it is issued");
    assert_eq!(fleet::outcome(&cli, &after)["state"], "succeeded");
}
