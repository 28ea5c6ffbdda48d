//! Notices from the real controller to a real HTTPS receiver: what a breaker, a
//! rollout and a node do is told, signed, and over a kill -9 in mid-delivery.

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::{Cli, answer};
use harness::controller::{Controller, Plan};
use harness::engine::Engine;
use harness::receiver::{Got, Manner, Receiver};
use harness::servers::program;
use harness::wait;
use serde_json::Value;

use crate::fleet;

/// A notice is on its way at once; the machine may be busy.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// A container engine takes a while on a small machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A controller that may post to the receiver, trusts its CA, and is quick to call
/// a node silent.
fn controller(receiver: &Receiver) -> Controller {
    Plan::service()
        .with("FLOTILLA_OUTBOUND_ALLOW", "127.0.0.0/8,::1")
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
        .with("FLOTILLA_NOTIFY_SILENT_AFTER", "5s")
        .with("SSL_CERT_FILE", &receiver.ca_file().display().to_string())
        .start()
}

/// Makes a sink and gives its secret, which is shown once.
fn set(cli: &Cli, receiver: &Receiver) -> String {
    let made = cli.json(&["sink", "set", "chat", "--url", receiver.url()]);
    let secret = made["secret"].as_str().expect("a new sink has a secret");
    secret.to_owned()
}

fn titled<'g>(got: &'g [Got], title: &str) -> Vec<&'g Got> {
    got.iter()
        .filter(|got| {
            let told = got.body["data"]["title"].as_str().unwrap_or_default();
            told.contains(title)
        })
        .collect()
}

#[track_caller]
fn await_title(receiver: &Receiver, title: &str, limit: Duration) -> Got {
    wait::until(title, limit, || {
        let got = receiver.got();
        titled(&got, title).last().map(|got| (*got).clone())
    })
}

/// What README says a receiver does, on a request that came.
fn verify_as_readme_does(secret: &str, got: &Got) {
    let Some(python) = program("python3") else {
        return;
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let (_, block) = readme.split_once("```python\n").expect("README verifies");
    let (block, _) = block.split_once("```").unwrap();
    let headers = serde_json::json!({
        "webhook-id": got.id,
        "webhook-timestamp": got.timestamp,
        "webhook-signature": got.signature,
    });
    for (body, expected) in [(&*got.bytes, "True"), (b"{}", "False")] {
        let body = String::from_utf8(body.to_vec()).unwrap();
        let script = format!(
            "{block}\nimport sys, json\n\
             print(verify(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3].encode()))"
        );
        let ran = answer(
            Command::new(&python).args(["-c", &script, secret, &headers.to_string(), &body]),
            "python3",
        );
        assert_eq!(ran.out.trim(), expected, "{ran}");
    }
}

#[test]
fn trips_and_silent_nodes_are_told_and_a_kill_in_mid_delivery_loses_nothing() {
    let receiver = Receiver::start();
    let mut controller = controller(&receiver);
    let cli = controller.cli();
    let secret = set(&cli, &receiver);
    let tried = cli.ok(&["sink", "test", "chat"]);
    assert!(tried.contains("it answered 204"), "{tried}");
    let mut agent = fleet::running_agent(&controller, "ship");

    cli.ok(&["breaker", "trip", "fleet", "--reason", "odd latency"]);
    let trip = await_title(&receiver, "breaker fleet is open", DELIVERED_WITHIN);
    assert_eq!(trip.body["type"], "breaker.raised");
    assert!(
        trip.body["data"]["detail"]
            .as_str()
            .unwrap()
            .contains("odd latency")
    );

    // The receiver holds the next one without a word, and the controller is killed.
    receiver.set(Manner::Hangs);
    cli.ok(&["breaker", "reset", "fleet", "--reason", "well"]);
    let held = await_title(&receiver, "breaker fleet closed", DELIVERED_WITHIN);
    controller.kill();
    receiver.set(Manner::Answers(200));
    controller.start();
    wait::until_true("it comes again", DELIVERED_WITHIN, || {
        titled(&receiver.got(), "breaker fleet closed").len() == 2
    });
    let got = receiver.got();
    let again = titled(&got, "breaker fleet closed")[1];
    assert_eq!((&again.id, &again.bytes), (&held.id, &held.bytes));
    // What was taken in the last second before the kill may come again, as itself.
    let trips = titled(&got, "breaker fleet is open");
    assert!(trips.iter().all(|got| got.id == trip.id), "{trips:?}");

    // A node falls silent and comes back.
    fleet::await_up(&cli, "ship");
    agent.kill();
    let silent = await_title(&receiver, "node ship is silent", DELIVERED_WITHIN);
    assert_eq!(silent.body["data"]["node"]["name"], "ship");
    agent.start();
    let back = await_title(&receiver, "node ship is heard again", DELIVERED_WITHIN);
    assert_eq!(back.body["type"], "node.resolved");
    assert_eq!(back.body["data"]["key"], silent.body["data"]["key"]);

    let got = receiver.got();
    assert!(got.iter().all(|got| got.verifies(&secret)), "{got:?}");
    verify_as_readme_does(&secret, &got[0]);
    let sinks = cli.json(&["sink", "list"]);
    wait::until_true("all is delivered", DELIVERED_WITHIN, || {
        let sinks = cli.json(&["sink", "list"]);
        sinks["sinks"][0]["pending"] == 0 && sinks["sinks"][0]["state"] == "ok"
    });
    let trail: Vec<String> = fleet::trail(&cli).iter().map(Value::to_string).collect();
    let log = controller.process().output();
    let encoded = secret.strip_prefix("whsec_").unwrap();
    for text in trail.iter().chain([&sinks.to_string(), &log]) {
        assert!(
            !text.contains("whsec_") && !text.contains(encoded),
            "{text}"
        );
    }
}

#[test]
fn a_webhook_to_this_host_is_refused_unless_it_is_allowed() {
    let receiver = Receiver::start();
    let controller = Plan::service()
        .with("SSL_CERT_FILE", &receiver.ca_file().display().to_string())
        .start();
    let cli = controller.cli();
    let literal = receiver.url().replace("localhost", "127.0.0.1");
    cli.ask(&["sink", "set", "chat", "--url", &literal])
        .refused_with("address.forbidden");
    // A name says what it is when it is resolved.
    set(&cli, &receiver);
    let tried = cli.ask(&["sink", "test", "chat"]);
    assert_eq!(tried.code, 1, "{tried}");
    assert!(
        tried
            .out
            .contains("not an address that the controller may reach"),
        "{tried}"
    );
    assert!(receiver.got().is_empty());
}

#[test]
fn a_rollout_that_halts_is_told_until_it_ends() {
    let Some(engine) = Engine::start() else {
        return;
    };
    let receiver = Receiver::start();
    let controller = controller(&receiver);
    let cli = controller.cli();
    let secret = set(&cli, &receiver);
    let mut agent = Agent::new("ship").joined(&fleet::token(&cli));
    let socket = engine.socket().display().to_string();
    agent.configure(&format!("[docker]\nsocket = {socket:?}\n"));
    agent.start();
    fleet::await_up(&cli, "ship");
    engine.image("web:1", "echo no such ship; exit 3");
    let archive = controller.scratch().join("web.tar");
    let path = archive.display().to_string();
    engine.docker(&["save", "-o", &path, "web:1"]);
    cli.ok(&["image", "push", &path]);
    let file = controller.scratch().join("compose.yaml");
    fs::write(&file, "services:\n  web:\n    image: web:1\n").unwrap();
    let path = file.display().to_string();
    let wave = ["--wave", "rest:soak=1s:approve"];
    let mut apply = vec!["deploy", "apply", "-f", &path, "--name", "web", "--on", "*"];
    apply.push("--yes");
    apply.extend(wave);
    cli.json(&apply);
    let waits = await_title(&receiver, "waits for the approval of wave 1", PATIENCE);
    assert_eq!(waits.body["type"], "rollout.raised");
    let rollout = waits.body["data"]["facts"]["rollout"].as_str().unwrap();
    let key = fleet::key_for(&cli, "bea", "deployer");
    let bea = fleet::profile_with(&controller, "bea", &key);
    bea.ok(&["rollout", "approve", rollout, "--wave", "1"]);
    let halted = await_title(&receiver, "rollout of web halted", PATIENCE);
    assert_eq!(halted.body["data"]["severity"], "critical");
    cli.ok(&["rollout", "abort", rollout, "--reason", "it is broken"]);
    let ended = await_title(&receiver, "rollout of web aborted:", PATIENCE);
    assert_eq!(ended.body["data"]["kind"], "rollout");
    let over = await_title(&receiver, "waits for nobody any more", PATIENCE);
    assert_eq!(over.body["data"]["key"], halted.body["data"]["key"]);
    assert!(receiver.got().iter().all(|got| got.verifies(&secret)));
}

/// An alert and the dead man's switch, each to the sink that wants it.
#[test]
fn alerts_and_heartbeats_go_to_the_sinks_that_name_them() {
    let receiver = Receiver::start();
    let controller = controller(&receiver);
    let cli = controller.cli();
    set(&cli, &receiver);
    let _agent = fleet::running_agent(&controller, "ship");

    let rule = ["alert", "rule", "set", "ample", "--severity", "critical"];
    let when = ["--when", "mem.available > 1 MiB"];
    cli.ok(&[&rule[..], &when[..]].concat());
    let fired = await_title(&receiver, "ample", PATIENCE);
    assert_eq!(fired.body["type"], "alert.raised");
    assert_eq!(fired.body["data"]["severity"], "critical");
    cli.ok(&["alert", "rule", "remove", "ample"]);
    wait::until_true("it is resolved", DELIVERED_WITHIN, || {
        let got = receiver.got();
        got.iter().any(|got| got.body["type"] == "alert.resolved")
    });

    let alive = "The controller is alive";
    assert!(titled(&receiver.got(), alive).is_empty());
    let names = ["sink", "set", "watchdog", "--kind", "heartbeat", "--url"];
    cli.ok(&[&names[..], &[receiver.url()]].concat());
    let beat = await_title(&receiver, alive, DELIVERED_WITHIN);
    assert_eq!(beat.body["type"], "heartbeat.once");
    assert_eq!(titled(&receiver.got(), alive).len(), 1, "not to both");
}
