//! Someone else's broker: the same controller and agents, by configuration.

use std::path::PathBuf;
use std::time::Duration;

use harness::agent::Agent;
use harness::controller::{Controller, Plan};
use harness::proxy::{Proxy, Weather};
use harness::servers::{Mosquitto, TlsFiles};
use harness::wait;

use crate::fleet;

/// The folder of the fleet's keys, found by its CA.
pub(crate) fn pki(controller: &Controller) -> PathBuf {
    let mut folders = vec![controller.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        if folder.join("ca.key").is_file() {
            return folder;
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
    }
    panic!("no ca.key below {}", controller.folder().display())
}

/// A controller whose nodes and itself meet at a mosquitto. It is started twice:
/// the first start makes the keys that the broker needs.
pub(crate) fn with_mosquitto() -> Option<(Controller, Mosquitto)> {
    let mut controller = Plan::nodes(0).start();
    let pki = pki(&controller);
    let mosquitto = Mosquitto::start(
        &TlsFiles {
            ca: &pki.join("ca.pem"),
            certificate: &pki.join("server.pem"),
            key: &pki.join("server.key"),
        },
        "controller",
    )?;
    controller.stop();
    let address = mosquitto.address();
    controller.set("FLOTILLA_BROKER_MODE", "external");
    controller.set(
        "FLOTILLA_BROKER_EXTERNAL_URL",
        &format!("mqtts://{address}"),
    );
    controller.start();
    Some((controller, mosquitto))
}

/// A lost connection is noticed within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// The status of `/readyz`, and the code that it gives for the broker.
fn readiness(controller: &Controller) -> (u16, Option<String>) {
    let url = format!("{}/readyz", controller.api());
    let answer = controller.http().get(url).send().expect("the API answers");
    let status = answer.status().as_u16();
    let readiness: serde_json::Value = answer.json().expect("readiness is JSON");
    let parts = readiness["parts"].as_array().expect("it has parts");
    let broker = parts.iter().find(|part| part["name"] == "broker");
    let broker = broker.expect("the broker is a part");
    (status, broker["code"].as_str().map(str::to_owned))
}

#[test]
fn a_foreign_broker_carries_commands_and_its_death_loses_nothing() {
    let Some((controller, mut mosquitto)) = with_mosquitto() else {
        return;
    };
    let cli = controller.cli();
    let _agent = fleet::running_agent(&controller, "guest");
    let first = fleet::issue(&cli, &["run", "guest", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &first)["state"], "succeeded");

    mosquitto.kill();
    let meanwhile = fleet::issue(&cli, &["run", "guest", "--", "uname"]);
    wait::until_true("it is said that the broker is away", PATIENCE, || {
        readiness(&controller) == (503, Some("broker.unavailable".to_owned()))
    });
    let asked = cli.ask(&["metrics", "guest", "--live"]);
    asked.refused_with("broker.unavailable");
    mosquitto.run();
    assert_eq!(fleet::outcome(&cli, &meanwhile)["state"], "succeeded");
    assert_eq!(readiness(&controller), (200, None));

    // It cannot cut the node off, so its envelopes are refused.
    cli.ok(&["node", "revoke", "guest"]);
    wait::until_true("the node is down", Duration::from_secs(90), || {
        !fleet::is_up(&cli, "guest")
    });
}

#[test]
fn a_network_that_stalls_and_breaks_is_noticed_and_outlived() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
        .start();
    let cli = controller.cli();
    let agent = Agent::new("far").joined(&fleet::token(&cli));
    let broker = broker_of(&agent);
    let target = broker.trim_start_matches("mqtts://").parse();
    let proxy = Proxy::to(target.expect("a broker is an address and a port"));
    agent.configure(&format!(
        "[uplink]\nbrokers = [\"mqtts://{}\"]\n",
        proxy.address()
    ));
    let mut agent = agent;
    agent.start();
    fleet::await_up(&cli, "far");

    // Silence, with connections that stay open: nothing but time tells.
    proxy.set(Weather::Still);
    let sent = fleet::issue(&cli, &["run", "far", "--", "uname"]);
    wait::until_true("the silence is noticed", Duration::from_secs(100), || {
        !fleet::is_up(&cli, "far")
    });
    proxy.set(Weather::Down);
    proxy.set(Weather::Fair);
    assert_eq!(fleet::outcome(&cli, &sent)["state"], "succeeded");

    // A slow link.
    proxy.delay(Duration::from_millis(150));
    proxy.cut();
    let slow = fleet::issue(&cli, &["run", "far", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &slow)["state"], "succeeded");
    assert!(proxy.passed() > 0);
}

/// The broker's address in an agent's identity.
pub(crate) fn broker_of(agent: &Agent) -> String {
    let text = std::fs::read_to_string(agent.state().join("identity/identity.toml")).unwrap();
    let identity: toml::Table = text.parse().unwrap();
    let brokers = identity["brokers"].as_array().expect("brokers is an array");
    brokers[0].as_str().unwrap().to_owned()
}
