//! Both programs as services of systemd: ready when they are, alive while they
//! work, stopping when they are told to.

use std::io::Write;
use std::time::Duration;

use harness::agent::Agent;
use harness::controller::Plan;
use harness::notify::Notify;
use harness::process::signal;
use harness::wait;
use rustix::process::Signal;

use crate::api::raw;
use crate::fleet;

/// systemd restarts what has said nothing for this long.
const WATCHDOG: Duration = Duration::from_secs(4);

const SAID_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_controller_is_ready_alive_and_stopping_in_systemds_words() {
    let mut systemd = Notify::new();
    let mut controller = Plan::service()
        .with("NOTIFY_SOCKET", &systemd.path().to_string_lossy())
        .with("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string())
        .prepare();
    controller.begin();
    wait::until_true("it says that it is ready", SAID_WITHIN, || {
        systemd.count("READY=1") == 1
    });
    // It is: the ready file is there, and the API answers at once.
    let ready = controller.scratch().join("ready.json");
    let ready = std::fs::read_to_string(ready).expect("ready means that the file is written");
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let api = ready["api"].as_str().unwrap();
    let ca = std::path::PathBuf::from(ready["ca_file"].as_str().unwrap());
    let answer = harness::controller::client(&ca)
        .get(format!("{api}/readyz"))
        .send()
        .expect("the API listens");
    assert_eq!(answer.status(), 200);

    let alive = systemd.count("WATCHDOG=1");
    wait::until_true("it goes on saying that it lives", WATCHDOG * 2, || {
        systemd.count("WATCHDOG=1") >= alive + 3
    });
    assert_eq!(systemd.count("STOPPING=1"), 0);
    signal(controller.process().id(), Signal::TERM);
    let status = controller.process().ended(Duration::from_secs(30));
    assert!(status.success(), "{status}");
    assert_eq!(systemd.count("STOPPING=1"), 1);
    assert_eq!(systemd.count("READY=1"), 1);
}

/// A request that is half sent holds the end up for some seconds, so what is said
/// at the beginning of the end is heard while the program still runs.
#[test]
fn a_controller_says_that_it_stops_before_it_has_stopped() {
    let mut systemd = Notify::new();
    let mut controller = Plan::service()
        .with("NOTIFY_SOCKET", &systemd.path().to_string_lossy())
        .start();
    let mut half = raw(&controller);
    half.write_all(b"POST /api/v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .and_then(|()| half.flush())
        .unwrap();
    // An answered request on another connection: the first one has arrived.
    assert!(fleet::nodes(&controller.cli()).is_empty());
    signal(controller.process().id(), Signal::TERM);
    wait::until_true("it says that it stops", SAID_WITHIN, || {
        systemd.count("STOPPING=1") == 1
    });
    assert!(controller.process().runs(), "it says so while it runs");
    drop(half);
    let status = controller.process().ended(Duration::from_secs(30));
    assert!(status.success(), "{status}");
}

#[test]
fn an_agent_is_ready_alive_and_stopping_in_systemds_words() {
    let controller = Plan::nodes(0).start();
    let mut systemd = Notify::new();
    let mut agent = Agent::new("served").joined(&fleet::token(&controller.cli()));
    agent.set("NOTIFY_SOCKET", &systemd.path().to_string_lossy());
    agent.set("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
    agent.start();
    wait::until_true("it says that it is ready", SAID_WITHIN, || {
        systemd.count("READY=1") == 1
    });
    // It is: its status answers, and its link comes up without further ado.
    assert_eq!(agent.ask(&["status"]).code, 0);
    fleet::await_up(&controller.cli(), "served");
    wait::until_true("it tells how its link is", SAID_WITHIN, || {
        systemd.count("STATUS=link up") > 0
    });
    let alive = systemd.count("WATCHDOG=1");
    wait::until_true("it goes on saying that it lives", WATCHDOG * 3, || {
        systemd.count("WATCHDOG=1") >= alive + 3
    });
    assert_eq!(systemd.count("STOPPING=1"), 0);
    agent.stop();
    assert_eq!(systemd.count("STOPPING=1"), 1);
    assert_eq!(systemd.count("READY=1"), 1);
}
