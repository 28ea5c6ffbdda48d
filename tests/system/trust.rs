//! The trust set over rotations of the signing key and the CA: who is there all
//! the time notices nothing, who was away comes back and obeys, and a root key
//! that is elsewhere still has the last word.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::{Controller, Plan, client};
use harness::wait;
use serde_json::Value;

use crate::fleet;

/// Far above the overlap that the tests configure.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(40);

fn plan() -> Plan {
    Plan::nodes(0)
        .with("FLOTILLA_PKI_ROTATION_OVERLAP", "6s")
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
}

fn trust(cli: &Cli) -> Value {
    cli.json(&["trust", "show"])
}

/// The keys or CAs of a duty, by this field.
fn of(trust: &Value, list: &str, duty: &str, field: &str) -> Vec<String> {
    let entries = trust[list].as_array().expect("a list");
    entries
        .iter()
        .filter(|entry| entry["duty"] == duty)
        .map(|entry| entry[field].as_str().expect("a text").to_owned())
        .collect()
}

fn only(trust: &Value, list: &str, duty: &str, field: &str) -> String {
    let found = of(trust, list, duty, field);
    assert_eq!(found.len(), 1, "{list} {duty}: {trust}");
    found.into_iter().next().unwrap()
}

#[track_caller]
fn await_takeover(cli: &Cli) {
    wait::until_true("what was next is in use", TAKEOVER_LIMIT, || {
        let trust = trust(cli);
        of(&trust, "keys", "next", "id").is_empty()
            && of(&trust, "authorities", "next", "fingerprint").is_empty()
    });
}

#[track_caller]
fn obeys(cli: &Cli, name: &str) {
    let id = fleet::issue(cli, &["run", name, "--", "uname"]);
    assert_eq!(fleet::outcome(cli, &id)["state"], "succeeded", "{name}");
}

fn certificate(agent: &Agent) -> Vec<u8> {
    fs::read(agent.state().join("identity/node.pem")).unwrap_or_default()
}

/// The key directory of a quickstart's controller.
fn keys(controller: &Controller) -> PathBuf {
    let below = controller.folder().join("controller/pki");
    if below.is_dir() {
        below
    } else {
        controller.folder().join("pki")
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn who_is_there_follows_both_rotations_and_who_was_away_comes_back() {
    let mut controller = plan().start();
    let cli = controller.cli();
    let steady = fleet::running_agent(&controller, "steady");
    let mut away = fleet::running_agent(&controller, "away");
    away.stop();
    let early_token = fleet::token_with(&cli, &["--uses", "2"]);
    let early_ca = controller.scratch().join("early-ca.pem");
    fs::copy(controller.ca_file(), &early_ca).unwrap();

    let epoch = || cli.json(&["breaker", "list"])["policy_epoch"].as_u64();
    let first_epoch = epoch();
    let before = trust(&cli);
    let first_key = only(&before, "keys", "in_use", "public_key");
    let first_ca = only(&before, "authorities", "in_use", "fingerprint");
    cli.ok(&["trust", "rotate-signing-key"]);
    cli.ok(&["trust", "rotate-ca"]);
    let during = trust(&cli);
    assert_eq!(during["version"], 3, "{during}");
    assert_eq!(only(&during, "keys", "in_use", "public_key"), first_key);
    let next_ca = only(&during, "authorities", "next", "fingerprint");
    assert_eq!(cli.json(&["trust", "rotate-ca"])["changed"], false);
    obeys(&cli, "steady");
    wait::until_true("the node holds the set", TAKEOVER_LIMIT, || {
        trust(&cli)["nodes_current"] == 1
    });

    await_takeover(&cli);
    let after = trust(&cli);
    assert_ne!(only(&after, "keys", "in_use", "public_key"), first_key);
    assert_eq!(
        only(&after, "authorities", "in_use", "fingerprint"),
        next_ca
    );
    assert_eq!(
        only(&after, "authorities", "before", "fingerprint"),
        first_ca
    );
    obeys(&cli, "steady");
    // The policy is signed by the next key, and so is a new one to every node.
    wait::until_true("the node holds the policy", TAKEOVER_LIMIT, || {
        let held = steady.status()["trust"]["policy_epoch"].as_u64();
        epoch() > first_epoch && held == epoch()
    });
    // Who pinned the first CA is led to the next: a token, and an operator's copy.
    let _late = Agent::new("late").joined(&early_token);
    let health = client(&early_ca)
        .get(format!("{}/healthz", controller.api()))
        .send()
        .expect("the first CA leads to the next");
    assert!(health.status().is_success());

    let refused = cli.ask(&["trust", "retire-ca", &next_ca]);
    refused.refused_with("trust.in_use");
    let refused = cli.ask(&["trust", "retire-ca", &first_ca]);
    refused.refused_with("trust.in_use");
    assert!(refused.err.contains("2 active nodes"), "{refused}");
    assert!(refused.err.contains("away") && refused.err.contains("steady"));
    cli.ask(&["trust", "retire-signing-key", "00000000"])
        .refused_with("trust.not_found");
    cli.ok(&["trust", "retire-signing-key", &first_key]);
    assert_eq!(trust(&cli)["keys"].as_array().unwrap().len(), 1);
    obeys(&cli, "steady");
    cli.ask(&["trust", "retire-ca", "00000000"])
        .refused_with("trust.not_found");

    // A crash in between loses nothing of it.
    controller.kill();
    controller.start();
    let cli = controller.cli();
    fleet::await_up(&cli, "steady");
    let old_certificate = certificate(&steady);
    cli.ok(&["trust", "retire-ca", &first_ca, "--force"]);
    wait::until_true("the node has a new certificate", TAKEOVER_LIMIT, || {
        certificate(&steady) != old_certificate
    });
    obeys(&cli, "steady");
    Agent::new("too-late")
        .join(&early_token)
        .refused_with("join.fingerprint");

    // Neither the key that signs nor the CA is in the set that it holds.
    let old_certificate = certificate(&away);
    away.start();
    fleet::await_up(&cli, "away");
    obeys(&cli, "away");
    assert_ne!(certificate(&away), old_certificate);
    wait::until_true("every node has moved", TAKEOVER_LIMIT, || {
        let trust = trust(&cli);
        trust["authorities"][0]["nodes"] == 3 && trust["nodes_behind"] == 0
    });

    verifies_over_rotations(&controller, &cli, &first_key);
}

/// The trail is sound for who knows the first key, the last, or the root's.
fn verifies_over_rotations(controller: &Controller, cli: &Cli, first_key: &str) {
    let trust = trust(cli);
    let file = text(&controller.scratch().join("trail.flj"));
    cli.ok(&["audit", "export", "--to", &file]);
    cli.ok(&["audit", "verify", &file]);
    let root = trust["root"].as_str().expect("a key").to_owned();
    let last = only(&trust, "keys", "in_use", "public_key");
    for key in [first_key, &last, &root] {
        cli.ok(&["audit", "verify", &file, "--key", key]);
    }
    let stranger = "11".repeat(32);
    let refused = cli.ask(&["audit", "verify", &file, "--key", &stranger]);
    assert_eq!(refused.code, 65, "{refused}");
    assert!(refused.err.contains("signature after record"), "{refused}");

    let trail = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = trail.lines().collect();
    let mut removed = lines.clone();
    removed.remove(lines.len() / 2);
    fs::write(&file, removed.join("\n") + "\n").unwrap();
    let refused = cli.ask(&["audit", "verify", &file, "--key", first_key]);
    refused.refused_with("journal.broken");
}

#[test]
fn a_root_key_that_is_elsewhere_signs_there_and_no_other_set_is_taken() {
    let controller = plan().start();
    let cli = controller.cli();
    let _agent = fleet::running_agent(&controller, "steady");
    let keys = keys(&controller);
    let safe = controller.scratch().join("root.key");
    fs::rename(keys.join("root.key"), &safe).unwrap();
    assert_eq!(trust(&cli)["root_here"], false);

    cli.ask(&["trust", "rotate-signing-key"])
        .refused_with("trust.root_offline");
    let request = text(&controller.scratch().join("request.trust"));
    let signed = text(&controller.scratch().join("signed.trust"));
    cli.ok(&["trust", "rotate-signing-key", "--out", &request]);
    assert_eq!(trust(&cli)["version"], 1, "a request changes nothing");
    cli.ask(&["trust", "install", &request])
        .refused_with("no file of the kind");

    // By another fleet's root, and of another fleet by ours.
    let stranger = plan().start();
    let foreign_root = text(&self::keys(&stranger).join("root.key"));
    let sign = |root: &str, request: &str| {
        cli.ok(&[
            "trust",
            "sign",
            "--root-key",
            root,
            request,
            "--to",
            &signed,
        ]);
    };
    sign(&foreign_root, &request);
    cli.ask(&["trust", "install", &signed])
        .refused_with("trust.invalid");
    let foreign = text(&stranger.scratch().join("foreign.trust"));
    stranger
        .cli()
        .ok(&["trust", "rotate-ca", "--out", &foreign]);
    sign(&text(&safe), &foreign);
    cli.ask(&["trust", "install", &signed])
        .refused_with("trust.invalid");

    let key = fleet::key_for(&cli, "victor", "viewer");
    let viewer = fleet::profile_with(&controller, "victor", &key);
    sign(&text(&safe), &request);
    assert_eq!(trust(&viewer)["version"], 1);
    viewer
        .ask(&["trust", "install", &signed])
        .refused_with("access.denied");
    viewer
        .ask(&["trust", "rotate-ca"])
        .refused_with("access.denied");

    cli.ok(&["trust", "install", &signed]);
    cli.ask(&["trust", "install", &signed])
        .refused_with("trust.stale");
    assert_eq!(trust(&cli)["version"], 2);
    await_takeover(&cli);
    obeys(&cli, "steady");
    let published = fleet::trail(&cli)
        .into_iter()
        .filter(|record| record["kind"] == "fleet.trust_published")
        .count();
    assert_eq!(published, 2, "each set is in the trail once");
}
