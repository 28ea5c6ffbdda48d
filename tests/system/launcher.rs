//! The launcher with versions that misbehave: each ends on the version that ran
//! before, with the reason written down, whatever is killed on the way.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agent::domain::update::record::{Phase, UpdateRecord};
use agent::update::layout::Layout;
use harness::agent::Agent;
use harness::process::{children, signal};
use harness::programs;
use harness::wait;
use rustix::process::Signal;

use harness::controller::Plan;

use crate::fleet;

const WITHIN: Duration = Duration::from_secs(60);

const VERSION: &str = "9.9.9";

/// Lays a version with a fault beside the installed one, and begins its trial.
fn begin_trial(agent: &Agent, fault: &str, window: Duration) -> Layout {
    let layout = Layout::below(agent.state());
    let folder = agent.state().join("versions").join(VERSION);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(programs::next_agent(), folder.join("flotilla-agent")).unwrap();
    fs::write(folder.join("VERSION"), VERSION).unwrap();
    if !fault.is_empty() {
        fs::write(folder.join("FAULT"), fault).unwrap();
    }
    let record = UpdateRecord {
        generation: 1,
        version: VERSION.to_owned(),
        to: Some(VERSION.to_owned()),
        from_version: env!("CARGO_PKG_VERSION").to_owned(),
        from: None,
        base: env!("CARGO_PKG_VERSION").to_owned(),
        phase: Phase::Trial,
        starts: 0,
        window_ms: u64::try_from(window.as_millis()).unwrap(),
        steady_ms: 1000,
    };
    layout.keep(&record).unwrap();
    layout.select(&record.to).unwrap();
    layout
}

fn reason(layout: &Layout) -> Option<String> {
    match layout.record().unwrap()?.phase {
        Phase::Reverted { reason, .. } => Some(reason),
        Phase::Trial | Phase::Proven | Phase::Settled | Phase::Abandoned => None,
    }
}

/// Waits until a version answers on the status socket.
#[track_caller]
fn await_running(agent: &Agent, version: &str) {
    wait::until_true(&format!("version {version} runs"), WITHIN, || {
        let answer = agent.ask(&["status", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_str(&answer.out).unwrap_or_default();
        status["process"]["version"] == version && status["link"]["state"] == "up"
    });
}

#[track_caller]
fn falls_back(fault: &str, window: Duration, expected: &str) {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("tried").joined(&fleet::token(&cli));
    agent.set("WATCHDOG_USEC", "4000000");
    let layout = begin_trial(&agent, fault, window);
    agent.start();
    let told = wait::until("it is given up", WITHIN, || reason(&layout));
    assert!(told.contains(expected), "{told}");
    fleet::await_up(&cli, "tried");
    await_running(&agent, env!("CARGO_PKG_VERSION"));
    assert_eq!(layout.selected(), None);
    agent.stop();
}

#[test]
fn a_version_that_crashes_is_started_three_times() {
    falls_back("crash", WITHIN, "was started 3 times");
}

/// systemd does not start again what ends so: the guard must not end so itself.
#[test]
fn a_version_that_calls_the_configuration_wrong_does_not_end_the_launcher() {
    falls_back("exit-78", WITHIN, "exit status: 78");
}

#[test]
fn a_version_that_hangs_is_found_by_the_watchdog() {
    falls_back("hang", WITHIN, "gave no sign of life");
}

#[test]
fn a_version_that_never_becomes_ready_is_ended() {
    falls_back("never-ready", WITHIN, "was not ready");
}

#[test]
fn a_version_that_never_confirms_itself_is_ended_with_its_window() {
    falls_back(
        "never-confirm",
        Duration::from_secs(5),
        "did not confirm itself within 5 s",
    );
}

/// The launcher and the version are killed at any moment; what was counted is counted.
#[test]
fn kills_at_any_moment_end_on_the_version_before() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("killed").joined(&fleet::token(&cli));
    let layout = begin_trial(&agent, "never-confirm", Duration::from_secs(60));
    for round in 0..3_u64 {
        agent.start();
        let id = agent.process().id();
        let pause = Duration::from_millis(137 * round);
        let _moment = wait::within(Duration::from_secs(3), || {
            (!children(id).is_empty()).then_some(())
        });
        let _later = wait::within(pause, || None::<()>);
        for child in children(id) {
            if round % 2 == 0 {
                signal(child, Signal::KILL);
            }
        }
        agent.kill();
    }
    agent.start();
    fleet::await_up(&cli, "killed");
    let told = reason(&layout).unwrap();
    assert!(told.contains("was started 3 times"), "{told}");
    agent.stop();
}

#[test]
fn an_operator_goes_back_by_hand_and_once() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("by-hand").joined(&fleet::token(&cli));
    let layout = begin_trial(&agent, "", WITHIN);
    let record = layout.record().unwrap().unwrap();
    layout.keep(&record.to(Phase::Settled)).unwrap();
    agent.start();
    fleet::await_up(&cli, "by-hand");
    await_running(&agent, VERSION);
    let program: PathBuf = layout.program(VERSION);
    assert!(program.is_file());
    agent.stop();
    let answer = agent.ask(&["rollback"]);
    assert_eq!(answer.code, 0, "{answer}");
    assert!(answer.out.contains("is selected again"), "{answer}");
    let again = agent.ask(&["rollback"]);
    assert_eq!(again.code, 1, "{again}");
    assert!(again.err.contains("update.nothing"), "{again}");
    agent.start();
    fleet::await_up(&cli, "by-hand");
    await_running(&agent, env!("CARGO_PKG_VERSION"));
    agent.stop();
}
