//! Alerts with the real programs: a rule is set, a node's series crosses it, someone
//! sees it, a breaker trips, and it is over when the node says so.

use std::fs::File;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::Plan;
use harness::wait;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::fleet;

/// Files that are opened to cross the rule. It lies in the middle, so that what else
/// this host opens meanwhile does not matter.
const FILES: usize = 8_000;

/// Sampling is every second; a condition is clear after three false readings.
const TURNS_WITHIN: Duration = Duration::from_secs(60);

/// Descriptors that the kernel has given out: the series `fd.used`.
fn used() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").expect("the kernel counts files");
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).expect("a number")
}

fn open_many() -> Vec<File> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a process may raise its limit to the most");
    (0..FILES)
        .map(|_| File::open("/dev/null").expect("there is room for some thousand files"))
        .collect()
}

fn alerts(cli: &Cli) -> Vec<Value> {
    let list = cli.json(&["alert", "list"]);
    list["alerts"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_rule_fires_on_a_node_trips_a_breaker_is_silenced_and_is_over_when_the_node_says_so() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("crowded").joined(&fleet::token(&cli));
    agent.configure("[sampling]\ninterval = \"1s\"\nframe = \"2s\"\n[command]\nrun = \"any\"\n");
    agent.start();
    fleet::await_up(&cli, "crowded");

    cli.ask(&["alert", "rule", "set", "files", "--when", "fd.used > 5 GiB"])
        .refused_with("condition.invalid");
    let when = format!("fd.used > {}", used() + FILES / 2);
    let rule = ["alert", "rule", "set", "files", "--when", &when];
    cli.ok(&[&rule[..], &["--severity", "critical"]].concat());
    let breaker = "breaker define crowds --watch condition:files --count 1 --gate run";
    cli.ok(&breaker.split(' ').collect::<Vec<_>>());
    assert_eq!(alerts(&cli), [Value::Null; 0]);
    cli.ok(&["run", "crowded", "--", "true"]);

    let files = open_many();
    wait::until_true("the alert fires", TURNS_WITHIN, || {
        alerts(&cli).iter().any(|alert| {
            (alert["rule"] == "files" && alert["node_name"] == "crowded")
                && (alert["state"] == "firing" && alert["severity"] == "critical")
                && (alert["silence"].is_null() && alert["stale"] == false)
        })
    });
    wait::until_true("the breaker trips", TURNS_WITHIN, || {
        cli.json(&["breaker", "show", "crowds"])["state"] == "open"
    });
    cli.ask(&["run", "crowded", "--", "true"])
        .refused_with("breaker.open");
    let silence = "alert silence create --on crowded --rule files --for 1h --reason known";
    cli.ok(&silence.split(' ').collect::<Vec<_>>());
    assert_eq!(alerts(&cli)[0]["silence"], 1);

    // The agent is killed while it holds, and the condition ceases while it is away:
    // nobody has heard so, and then the agent says it.
    agent.kill();
    drop(files);
    assert_eq!(alerts(&cli)[0]["state"], "firing");
    agent.start();
    wait::until_true("the alert is over", TURNS_WITHIN, || {
        alerts(&cli).is_empty()
    });
    let history = cli.json(&["alert", "history", "--on", "crowded"]);
    let turns: Vec<(&str, &str)> = history["turns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|turn| Some((turn["to"].as_str()?, turn["why"].as_str()?)))
        .collect();
    assert_eq!(turns, [("clear", "node"), ("firing", "node")]);

    cli.ask(&["alert", "rule", "remove", "files"])
        .refused_with("alert.rule_in_use");
    cli.ok(&["breaker", "reset", "crowds", "--reason", "well"]);
    cli.ok(&["breaker", "remove", "crowds"]);
    cli.ok(&["alert", "silence", "end", "1"]);
    cli.ok(&["alert", "rule", "remove", "files"]);
}
