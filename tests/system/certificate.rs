//! Certificates that live for seconds: renewed by themselves, without an outage,
//! and taken up again by a node that slept past the end of its own.

use std::fs;
use std::time::Duration;

use harness::agent::Agent;
use harness::clock;
use harness::controller::Plan;
use harness::wait;

use crate::fleet;

fn certificate(agent: &Agent) -> Vec<u8> {
    fs::read(agent.state().join("identity/node.pem")).unwrap_or_default()
}

#[test]
fn a_node_renews_its_certificate_at_two_thirds_of_its_life() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_PKI_NODE_CERTIFICATE_LIFE", "15s")
        .start();
    let cli = controller.cli();
    let agent = fleet::running_agent(&controller, "brief");
    let first = certificate(&agent);
    for renewal in 1..=2 {
        let before = certificate(&agent);
        wait::until_true(
            &format!("renewal {renewal}"),
            Duration::from_secs(30),
            || certificate(&agent) != before,
        );
    }
    assert_ne!(certificate(&agent), first);
    fleet::await_up(&cli, "brief");
    let id = fleet::issue(&cli, &["run", "brief", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
}

#[test]
fn a_node_that_slept_past_its_certificate_renews_by_its_signing_key() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_PKI_NODE_CERTIFICATE_LIFE", "6s")
        .start();
    let cli = controller.cli();
    let mut agent = Agent::new("sleeper").joined(&fleet::token(&cli));
    let before = certificate(&agent);
    clock::pass(Duration::from_secs(7));
    agent.start();
    fleet::await_up(&cli, "sleeper");
    assert_ne!(certificate(&agent), before);
}

#[test]
fn the_controllers_own_certificate_is_renewed_without_an_outage() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_PKI_SERVER_CERTIFICATE_LIFE", "12s")
        .start();
    let cli = controller.cli();
    let _agent = fleet::running_agent(&controller, "steady");
    let until = clock::now() + Duration::from_secs(25);
    while clock::now() < until {
        assert_eq!(fleet::nodes(&cli).len(), 1, "the API answers all the time");
        clock::pass(Duration::from_millis(500));
    }
    fleet::await_up(&cli, "steady");
    let id = fleet::issue(&cli, &["run", "steady", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
}
