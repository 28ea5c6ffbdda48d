//! A node whose clock is a year off, by libfaketime: it joins, connects, is
//! flagged, and what it measures is filed under the controller's time.

use std::time::Duration;

use harness::agent::Agent;
use harness::controller::Plan;
use harness::{servers, wait};

use crate::fleet;

fn in_another_year(offset: &str, name: &str) {
    let Some(faketime) = servers::program("faketime") else {
        return;
    };
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new(name);
    // Only the wall clock is wrong: the monotonic one counts as on any host.
    agent.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    agent.set("DONT_FAKE_MONOTONIC", "1");
    agent.wrap(&[&faketime.to_string_lossy(), "-f", offset]);
    let mut agent = agent.joined(&fleet::token(&cli));
    agent.start();
    fleet::await_up(&cli, name);

    let id = fleet::issue(&cli, &["run", name, "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    wait::until_true("the clock is flagged", Duration::from_secs(60), || {
        fleet::node(&cli, name).is_some_and(|node| node.to_string().contains("node.clock_off"))
    });
    wait::until_true("values of now", Duration::from_secs(120), || {
        cli.ask(&["metrics", name]).out.contains("mem")
    });
}

#[test]
fn a_node_a_year_ahead_obeys_and_is_flagged() {
    in_another_year("+365d", "ahead");
}

#[test]
fn a_node_a_year_behind_obeys_and_is_flagged() {
    in_another_year("-365d", "behind");
}
