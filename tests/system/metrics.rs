//! What was measured: live, after an outage, forwarded to a real Prometheus.

use std::io::Read;
use std::time::Duration;

use harness::agent::Agent;
use harness::controller::Plan;
use harness::servers::Prometheus;
use harness::{clock, wait};
use serde_json::Value;

use crate::fleet;

const FAST: &str = "[sampling]\ninterval = \"1s\"\nframe = \"2s\"\n";

/// The points of a series of the last minutes.
fn points(cli: &harness::cli::Cli, name: &str, series: &str) -> Vec<Value> {
    let answer = cli.json(&["metrics", name, series, "--since", "5m", "--step", "1s"]);
    answer["lines"][0]["points"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn measured(points: &[Value]) -> usize {
    points.iter().filter(|p| p["value"].is_number()).count()
}

#[test]
fn an_outage_of_the_controller_leaves_no_gap_and_a_stopped_agent_an_honest_one() {
    let mut controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("diligent").joined(&fleet::token(&cli));
    agent.configure(FAST);
    agent.start();
    fleet::await_up(&cli, "diligent");
    let series = "mem.used";
    wait::until_true("first points", Duration::from_secs(60), || {
        measured(&points(&cli, "diligent", series)) >= 3
    });

    controller.stop();
    clock::pass(Duration::from_secs(8));
    controller.start();
    fleet::await_up(&cli, "diligent");
    wait::until_true("the outage is filled", Duration::from_secs(60), || {
        let points = points(&cli, "diligent", series);
        let first = points.iter().position(|p| p["value"].is_number());
        let last = points.iter().rposition(|p| p["value"].is_number());
        let (Some(first), Some(last)) = (first, last) else {
            return false;
        };
        let between = points.get(first..=last).unwrap_or_default();
        between.len() > 15 && between.len() - measured(between) <= 1
    });

    agent.stop();
    clock::pass(Duration::from_secs(8));
    agent.start();
    fleet::await_up(&cli, "diligent");
    wait::until_true(
        "a gap that is shown as one",
        Duration::from_secs(60),
        || {
            let points = points(&cli, "diligent", series);
            let last = points.iter().rposition(|p| p["value"].is_number());
            let first = points.iter().position(|p| p["value"].is_number());
            let (Some(first), Some(last)) = (first, last) else {
                return false;
            };
            let between = points.get(first..=last).unwrap_or_default();
            between.len() - measured(between) >= 5
        },
    );
}

#[test]
fn a_killed_agent_loses_at_most_one_sample() {
    let controller = Plan::nodes(0).start();
    let cli = controller.cli();
    let mut agent = Agent::new("mortal").joined(&fleet::token(&cli));
    agent.configure("[sampling]\ninterval = \"1s\"\nframe = \"10s\"\n");
    agent.start();
    fleet::await_up(&cli, "mortal");
    clock::pass(Duration::from_secs(5));
    agent.kill();
    agent.start();
    fleet::await_up(&cli, "mortal");
    wait::until_true(
        "the samples before and after, but for one",
        Duration::from_secs(60),
        || {
            let points = points(&cli, "mortal", "mem.used");
            let first = points.iter().position(|p| p["value"].is_number());
            let last = points.iter().rposition(|p| p["value"].is_number());
            let (Some(first), Some(last)) = (first, last) else {
                return false;
            };
            let between = points.get(first..=last).unwrap_or_default();
            // The start of the new process takes up to a second of its own.
            between.len() >= 12 && between.len() - measured(between) <= 2
        },
    );
}

#[test]
fn the_fleet_is_ranked_and_a_node_is_watched_live() {
    let controller = Plan::nodes(2)
        .with("FLOTILLA_AGENT_SAMPLING_INTERVAL", "1s")
        .with("FLOTILLA_AGENT_SAMPLING_FRAME", "2s")
        .start();
    let cli = controller.cli();
    wait::until_true("both nodes are ranked", Duration::from_secs(60), || {
        let top = cli.ask(&["--output", "json", "metrics", "--all", "--top", "mem.used"]);
        serde_json::from_str::<Value>(&top.out)
            .is_ok_and(|top| top["rows"].as_array().is_some_and(|rows| rows.len() == 2))
    });
    let name = fleet::nodes(&cli)[0]["name"].as_str().unwrap().to_owned();
    let mut live = cli.begin(&["metrics", &name, "--live", "--output", "json"]);
    // Read all the while: a full pipe would hold the command up.
    let mut pipe = live.stdout.take().expect("its output is a pipe");
    let reader = std::thread::spawn(move || {
        let mut output = String::new();
        let read = pipe.read_to_string(&mut output);
        read.map(|_| output)
    });
    clock::pass(Duration::from_secs(6));
    harness::process::signal(live.id(), rustix::process::Signal::INT);
    wait::until_true("the live view ends", Duration::from_secs(20), || {
        live.try_wait().is_ok_and(|ended| ended.is_some())
    });
    let output = reader.join().unwrap().unwrap();
    let lines = output.lines().count();
    assert!(lines >= 3, "{output:?}");
}

#[test]
fn a_real_prometheus_takes_what_is_forwarded() {
    let Some(prometheus) = Prometheus::start() else {
        return;
    };
    let controller = Plan::nodes(1)
        .with("FLOTILLA_SERIES_REMOTE_WRITE_URL", &prometheus.write_url())
        .with("FLOTILLA_OUTBOUND_ALLOW", "127.0.0.0/8")
        .with("FLOTILLA_AGENT_SAMPLING_INTERVAL", "1s")
        .with("FLOTILLA_AGENT_SAMPLING_FRAME", "2s")
        .start();
    assert!(!controller.api().is_empty());
    let found = wait::until("series in Prometheus", Duration::from_secs(90), || {
        let found = prometheus.query("{__name__=~\".*mem.*used.*\"}");
        (!found.is_empty()).then_some(found)
    });
    let labels = found[0]["metric"].to_string();
    assert!(labels.contains("node"), "{labels}");
}
