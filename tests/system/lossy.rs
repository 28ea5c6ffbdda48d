//! A broker that drops what it has taken, while every connection stays: what is
//! missing is sent again within a heartbeat.

use std::time::Duration;

use harness::clock;
use harness::servers::Hearing;
use harness::wait;

use crate::broker::with_mosquitto;
use crate::fleet;

/// How often nodes say that they live, and what they have heard.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// A heartbeat comes up to a tenth late; the rest is for two programs and a broker
/// on a busy machine.
const REPAIRED: Duration = Duration::from_secs(6);

#[test]
fn an_order_that_the_broker_dropped_comes_within_a_heartbeat() {
    let Some((mut controller, mosquitto)) = with_mosquitto() else {
        return;
    };
    controller.stop();
    controller.set("FLOTILLA_SESSION_HEARTBEAT", "3s");
    controller.start();
    let cli = controller.cli();
    let agent = fleet::running_agent(&controller, "deaf");
    let first = fleet::issue(&cli, &["run", "deaf", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &first)["state"], "succeeded");
    let connects = || agent.status()["link"]["connects"].clone();
    let before = connects();

    for round in 0..2 {
        mosquitto.let_nodes_hear(Hearing::Nothing);
        let id = fleet::issue(&cli, &["run", "deaf", "--", "uname"]);
        let state = || {
            let target = fleet::targets(&cli, &id).into_iter().next();
            target
                .map(|target| target["state"].clone())
                .unwrap_or_default()
        };
        wait::until_true("the order is on its way", Duration::from_secs(10), || {
            state() == "sent"
        });
        assert!(
            wait::stays(HEARTBEAT / 3, || state() == "sent"),
            "round {round}: the broker drops it"
        );
        mosquitto.let_nodes_hear(Hearing::Everything);
        let began = clock::now();
        wait::until_true("the order is repaired", REPAIRED, || state() == "succeeded");
        assert!(began.elapsed() <= REPAIRED);
        assert_eq!(connects(), before, "round {round}: on the same connection");
    }
}
