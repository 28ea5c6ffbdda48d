//! SIGKILL at any moment, in loops, under load: what was acknowledged is there
//! afterwards, and no command takes effect twice.

use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::clock;
use harness::controller::Plan;
use harness::sim::chance::Chance;
use harness::wait;

use crate::fleet;

/// Commands that append their number to a file on the node, so that each effect
/// can be counted afterwards.
pub(crate) struct Marks {
    pub(crate) file: std::path::PathBuf,
    pub(crate) script: std::path::PathBuf,
}

impl Marks {
    pub(crate) fn below(folder: &Path) -> Marks {
        use std::os::unix::fs::PermissionsExt;
        let file = folder.join("marks");
        let script = folder.join("mark");
        let text = format!("#!/bin/sh\necho \"$1\" >> '{}'\n", file.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Marks { file, script }
    }

    pub(crate) fn count(&self, number: usize) -> usize {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.lines()
            .filter(|line| *line == number.to_string())
            .count()
    }
}

/// An agent that runs anything.
pub(crate) fn willing_agent(cli: &Cli, name: &str) -> Agent {
    let agent = Agent::new(name).joined(&fleet::token(cli));
    agent.configure("[command]\nrun = \"any\"\n");
    agent
}

/// Every command that was accepted ended, with at most one effect: exactly one
/// where it succeeded, none where it never started.
#[track_caller]
fn settle(cli: &Cli, issued: &[String], marks: &Marks) {
    for (number, id) in issued.iter().enumerate() {
        let target = fleet::outcome(cli, id);
        let count = marks.count(number);
        let state = target["state"].as_str().unwrap_or_default().to_owned();
        match state.as_str() {
            "succeeded" => assert_eq!(count, 1, "command {number}: {target}"),
            "expired" | "refused" => assert_eq!(count, 0, "command {number}: {target}"),
            "interrupted" | "failed" | "unreachable" => {
                assert!(
                    count <= 1,
                    "command {number} took effect {count} times: {target}"
                );
            }
            other => panic!("command {number} ended {other}: {target}"),
        }
    }
}

pub(crate) fn issue(cli: &Cli, name: &str, marks: &Marks, number: usize) -> Option<String> {
    let number = number.to_string();
    let script = marks.script.to_string_lossy().into_owned();
    let answer = cli.ask(&[
        "--output", "json", "run", "--detach", name, "--", &script, &number,
    ]);
    if answer.code != 0 {
        return None;
    }
    let issued: serde_json::Value = serde_json::from_str(&answer.out).ok()?;
    issued["command"]["id"].as_str().map(str::to_owned)
}

#[test]
fn an_agent_killed_in_a_loop_under_load_runs_each_command_at_most_once() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let marks = Marks::below(controller.scratch());
    let mut agent = willing_agent(&cli, "victim");
    agent.start();
    fleet::await_up(&cli, "victim");

    let mut chance = Chance::new(seed());
    let mut issued = Vec::new();
    for _ in 0..6 {
        for _ in 0..4 {
            let id = issue(&cli, "victim", &marks, issued.len());
            issued.push(id.expect("the controller takes commands"));
        }
        clock::pass(chance.time(Duration::ZERO, Duration::from_millis(900)));
        agent.kill();
        agent.start();
    }
    settle(&cli, &issued, &marks);
    fleet::await_up(&cli, "victim");
}

#[test]
fn a_controller_killed_in_a_loop_under_load_forgets_nothing_that_it_accepted() {
    let mut controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let marks = Marks::below(controller.scratch());
    let mut agent = willing_agent(&cli, "loyal");
    agent.start();
    fleet::await_up(&cli, "loyal");

    let mut chance = Chance::new(seed() ^ 1);
    let mut issued = Vec::new();
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let first = issued.len();
            let (cli, marks) = (&cli, &marks);
            let load = scope.spawn(move || {
                let numbers = first..first + 4;
                numbers
                    .map(|n| issue(cli, "loyal", marks, n))
                    .collect::<Vec<_>>()
            });
            clock::pass(chance.time(Duration::from_millis(50), Duration::from_millis(1200)));
            controller.kill();
            // What was answered before the kill is accepted; what was not may be.
            let answered = load.join().unwrap();
            issued.extend(answered.into_iter().map(Option::unwrap_or_default));
        });
        controller.start();
    }
    fleet::await_up(&cli, "loyal");
    let accepted: Vec<(usize, &String)> = issued
        .iter()
        .enumerate()
        .filter(|(_, id)| !id.is_empty())
        .collect();
    assert!(!accepted.is_empty(), "no command was ever accepted");
    for (number, id) in accepted {
        let target = fleet::outcome(&cli, id);
        let expected = usize::from(target["state"] == "succeeded");
        assert_eq!(marks.count(number), expected, "command {number}: {target}");
    }
    let trail = controller.scratch().join("trail.flj");
    let trail = trail.to_string_lossy();
    cli.ok(&["audit", "export", "--to", &trail]);
    cli.ok(&["audit", "verify", &trail]);
}

#[test]
fn one_stuck_command_delays_no_other_and_can_be_cancelled() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = willing_agent(&cli, "busy");
    agent.start();
    fleet::await_up(&cli, "busy");
    let stuck = fleet::issue(
        &cli,
        &["run", "busy", "--timeout", "10m", "--", "sleep", "600"],
    );
    let began = clock::now();
    let other = fleet::issue(&cli, &["run", "busy", "--", "uname"]);
    assert_eq!(fleet::outcome(&cli, &other)["state"], "succeeded");
    assert!(began.elapsed() < Duration::from_secs(15));
    let timed = fleet::issue(
        &cli,
        &["run", "busy", "--timeout", "1s", "--", "sleep", "600"],
    );
    assert_eq!(fleet::outcome(&cli, &timed)["state"], "timed_out");
    cli.ok(&["command", "cancel", &stuck]);
    assert_eq!(fleet::outcome(&cli, &stuck)["state"], "cancelled");
}

#[test]
fn a_node_that_is_away_takes_its_commands_when_it_returns_and_not_too_late() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = fleet::running_agent(&controller, "away");
    agent.kill();
    let kept = fleet::issue(&cli, &["run", "away", "--", "uname"]);
    let late = fleet::issue(&cli, &["run", "away", "--start-by", "1s", "--", "uname"]);
    clock::pass(Duration::from_millis(1500));
    agent.start();
    assert_eq!(fleet::outcome(&cli, &kept)["state"], "succeeded");
    let expired = fleet::outcome(&cli, &late);
    assert!(
        expired["state"] == "expired" || expired["state"] == "unreachable",
        "{expired}"
    );
    wait::until_true(
        "the node proves that it never started",
        Duration::from_secs(30),
        || {
            let target = fleet::targets(&cli, &late).into_iter().next();
            target.is_some_and(|t| t["state"] == "expired" || t["receipt"]["outcome"] == "expired")
        },
    );
}

#[test]
fn a_command_that_a_kill_cut_off_is_interrupted_and_not_run_again() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = willing_agent(&cli, "cut");
    agent.start();
    fleet::await_up(&cli, "cut");
    let file = controller.scratch().join("started");
    let id = fleet::issue(
        &cli,
        &["run", "cut", "--", "tee", "-a", &file.to_string_lossy()],
    );
    let long = fleet::issue(&cli, &["run", "cut", "--", "sleep", "300"]);
    assert_eq!(fleet::outcome(&cli, &id)["state"], "succeeded");
    wait::until_true("it runs", Duration::from_secs(20), || {
        !harness::process::children_named(agent.process().id(), "sleep").is_empty()
    });
    agent.kill();
    agent.start();
    let target = fleet::outcome(&cli, &long);
    assert_eq!(target["state"], "interrupted", "{target}");
    assert_eq!(target["receipt"]["code"], "command.interrupted", "{target}");
}

#[test]
fn a_node_that_never_answers_is_unreachable_and_its_outcome_unknown() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
        .start();
    let cli = controller.cli();
    let mut agent = willing_agent(&cli, "gone");
    agent.start();
    fleet::await_up(&cli, "gone");
    let id = fleet::issue(
        &cli,
        &[
            "run",
            "gone",
            "--start-by",
            "3s",
            "--timeout",
            "3s",
            "--",
            "sleep",
            "300",
        ],
    );
    wait::until_true("it runs", Duration::from_secs(20), || {
        !harness::process::children_named(agent.process().id(), "sleep").is_empty()
    });
    agent.kill();
    let target = fleet::outcome(&cli, &id);
    assert_eq!(target["state"], "unreachable", "{target}");
    assert_eq!(target["code"], "command.unreachable", "{target}");
}

/// `FLOTILLA_SEED` reproduces a run.
fn seed() -> u64 {
    let seed = std::env::var("FLOTILLA_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| clock::unix_millis() / 1000);
    harness::say(&format!("FLOTILLA_SEED={seed}"));
    seed
}
