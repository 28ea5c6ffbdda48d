//! The walk of a newcomer, from the first command to the verified audit trail.

use std::time::Duration;

use harness::controller::Plan;
use harness::process::signal;
use harness::wait;
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet;

#[test]
fn a_newcomer_walks_from_the_first_command_to_the_verified_trail() {
    let mut controller = Plan::nodes(1).start();
    let cli = controller.cli();

    // A live node.
    let name = fleet::await_any(&cli);
    assert!(cli.ok(&["node", "list"]).contains(&name));

    // It measures, and a newcomer does not wait for a whole frame to see it.
    wait::until_true("first values", Duration::from_secs(20), || {
        cli.ask(&["metrics", &name]).out.contains("mem")
    });
    wait::until_true("rates", Duration::from_secs(20), || {
        cli.ask(&["metrics", &name]).out.contains("cpu.user")
    });

    // It obeys.
    assert!(cli.ok(&["run", "--", "uptime"]).contains("load average"));
    assert!(cli.ok(&["ping", "--all"]).contains(&name));

    // Killed, it comes back with what it had.
    let before = fleet::issue(&cli, &["run", &name, "--", "uname", "-s"]);
    let receipt = fleet::outcome(&cli, &before);
    assert_eq!(receipt["state"], "succeeded", "{receipt}");
    let agent = *controller.agents().first().expect("a local agent runs");
    signal(agent, Signal::KILL);
    wait::until_true(
        "the agent is started again",
        Duration::from_secs(30),
        || controller.agents().first().is_some_and(|now| *now != agent),
    );
    let after = fleet::issue(&cli, &["run", &name, "--", "uname", "-s"]);
    assert_eq!(fleet::outcome(&cli, &after)["state"], "succeeded");
    assert_eq!(fleet::outcome(&cli, &before), receipt);

    // A viewer looks and does not touch.
    let key = fleet::key_for(&cli, "vera", "viewer");
    let viewer = fleet::profile_with(&controller, "vera", &key);
    assert_eq!(fleet::nodes(&viewer).len(), 1);
    let refused = viewer.ask(&["run", &name, "--", "uptime"]);
    refused.refused_with("access.denied");
    assert_eq!(refused.code, 77, "{refused}");
    assert!(refused.err.contains("command:run"), "{refused}");

    // The trail is whole.
    let export = controller.scratch().join("trail.flj");
    let export = export.to_string_lossy();
    cli.ok(&["audit", "export", "--to", &export]);
    cli.ok(&["audit", "verify", &export]);
    assert!(
        fleet::trail(&cli).iter().any(|record| {
            record.to_string().contains("vera") && record.to_string().contains("denied")
        }),
        "the refusal is in the trail"
    );
    controller.stop();
}

#[test]
fn quickstart_resumes_on_its_folder() {
    let mut controller = Plan::nodes(2).start();
    let ids = |nodes: Vec<Value>| {
        let mut ids: Vec<String> = nodes
            .iter()
            .map(|node| node["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let first = ids(fleet::nodes(&controller.cli()));
    let api = controller.api().to_owned();
    controller.stop();
    let answer = controller.cli().ask(&["node", "list"]);
    assert_eq!(answer.code, 69, "{answer}");
    answer.refused_with("peer.unreachable");
    controller.start();
    assert_eq!(
        controller.api(),
        api,
        "the same port, so that profiles work"
    );
    assert_eq!(ids(fleet::nodes(&controller.cli())), first);
    for node in fleet::nodes(&controller.cli()) {
        fleet::await_up(&controller.cli(), node["name"].as_str().unwrap());
    }
}

#[test]
fn a_selector_that_matches_nothing_is_an_error_unless_it_may_be_empty() {
    let controller = Plan::nodes(1).start();
    let cli = controller.cli();
    let refused = cli.ask(&["run", "site=nowhere", "--", "uptime"]);
    refused.refused_with("selector.");
    cli.ok(&["run", "site=nowhere", "--allow-empty", "--", "uptime"]);
}

#[test]
fn what_is_not_there_is_named_with_its_code() {
    let controller = Plan::nodes(1).start();
    let cli = controller.cli();
    let name = fleet::nodes(&cli)[0]["name"].as_str().unwrap().to_owned();
    cli.ask(&["metrics", &name, "no.such.series"])
        .refused_with("series.unknown");
    cli.ask(&["node", "show", "nobody"])
        .refused_with("node.not_found");
    let stranger = harness::agent::Agent::new("stranger").ask(&["run"]);
    stranger.refused_with("identity.missing");
    assert_eq!(stranger.code, 78, "{stranger}");
}
