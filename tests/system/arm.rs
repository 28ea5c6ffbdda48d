//! The agent for 64-bit ARM, run by an emulator against a real controller: it joins,
//! measures, obeys, knows an open breaker, and comes back from SIGKILL.
//!
//! `packaging/arm` builds it, and makes the C library that the emulator wants.
//! What the agent runs for operators is the host's own, since the emulator ends where
//! another program is started.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::Plan;
use harness::servers::{program, skipped};
use harness::wait;
use serde_json::Value;

use crate::fleet;

/// Emulated, unoptimised code takes its time.
const WITHIN: Duration = Duration::from_secs(60);

const EMULATOR: &str = "qemu-aarch64-static";

/// The agent of the target, and a root with the target's C library.
fn emulated() -> Option<(PathBuf, PathBuf)> {
    program(EMULATOR)?;
    let given = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        if path.is_none() {
            skipped(
                "an agent for ARM",
                &format!("{name} is not set (tests/run builds it)"),
            );
        }
        path
    };
    let agent = given("FLOTILLA_TEST_ARM64_AGENT")?;
    let root = given("FLOTILLA_TEST_ARM64_ROOT")?;
    // Only then does what follows say something of the target.
    let elf = std::fs::read(&agent).expect("the agent for ARM was built");
    assert_eq!(elf.get(18..20), Some(&[0xb7, 0][..]), "not for aarch64");
    Some((agent, root))
}

fn stops(agent: &Agent) -> usize {
    let status = agent.status();
    status["gate"]["stops"].as_array().map_or(0, Vec::len)
}

#[track_caller]
fn runs(cli: &Cli) {
    let id = fleet::issue(cli, &["run", "arm", "--", "uname", "-s"]);
    let target: Value = fleet::outcome(cli, &id);
    assert_eq!(target["state"], "succeeded", "{target}");
}

#[test]
fn arm_agent_joins_measures_obeys_and_comes_back_from_a_kill() {
    let Some((program, root)) = emulated() else {
        return;
    };
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("arm").with_program(&program);
    agent.wrap(&[EMULATOR, "-L", &root.to_string_lossy()]);
    let mut agent = agent.joined(&fleet::token(&cli));
    agent.configure("[command]\nrun = \"any\"\n");
    agent.start();
    fleet::await_up(&cli, "arm");

    wait::until_true("it measures", WITHIN, || {
        let metrics = cli.ask(&["metrics", "arm"]).out;
        metrics.contains("mem") && metrics.contains("cpu.user")
    });
    assert!(cli.ok(&["ping", "--all"]).contains("arm"));
    runs(&cli);

    // The policy reaches it, and it holds it over a kill.
    cli.ok(&[
        "breaker", "define", "brake", "--watch", "command", "--gate", "run",
    ]);
    cli.ok(&["breaker", "trip", "brake", "--reason", "odd latency"]);
    wait::until_true("it knows the open breaker", WITHIN, || stops(&agent) == 1);
    agent.kill();
    agent.start();
    wait::until_true("it answers again", WITHIN, || {
        agent.ask(&["status", "--output", "json"]).code == 0
    });
    assert_eq!(stops(&agent), 1);
    fleet::await_up(&cli, "arm");
    cli.ok(&["breaker", "reset", "brake", "--reason", "looked at"]);
    wait::until_true("the breaker is shut", WITHIN, || stops(&agent) == 0);
    runs(&cli);
}
