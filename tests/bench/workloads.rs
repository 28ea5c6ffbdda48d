//! What an agent costs that manages containers: its memory with twenty of them, and
//! processor and time of a round that changes nothing, and of one that puts a
//! container back, with fifty. With a real Docker engine, a controller and the real
//! program; needs root.
//!
//! ```text
//! cargo build --profile dist -p flotilla-agent
//! cargo run -p system-tests --bin bench-workloads -- --agent target/dist/flotilla-agent
//! ```
//!
//! A round is brought about by an event: a container that has the deployment's labels
//! and is none of the agent's comes and goes. What a round took is in the agent's log
//! at its finest; writing that is in the figures.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::{Controller, Plan};
use harness::engine::Engine;
use harness::machine::{self, Spread};
use harness::{clock, programs, wait};
use tempfile::TempDir;

/// Between two looks at the memory.
const INTERVAL: Duration = Duration::from_secs(5);

/// What starting containers takes is no part of managing them.
const SETTLING: Duration = Duration::from_secs(30);

/// Fifty containers start one after the other.
const LIMIT: Duration = Duration::from_secs(300);

/// Workloads whose memory is measured.
const FEW: usize = 20;

/// Workloads whose rounds are measured.
const MANY: usize = 50;

/// Measures an agent that manages containers.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-workloads")]
struct Arguments {
    /// How long to watch the memory.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// How many rounds that change nothing to bring about.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// How many containers to take away.
    #[arg(long, default_value_t = 20)]
    repairs: usize,
    /// The agent; the one that was built beside this program when none is given.
    #[arg(long)]
    agent: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let program = arguments
        .agent
        .clone()
        .unwrap_or_else(programs::flotilla_agent);
    let Some(engine) = Engine::start() else {
        bail!("there is no Docker engine here");
    };
    engine.image(
        "docker.io/library/web:1",
        "while :; do /busybox sleep 60; done",
    );
    let mut bench = Bench::start(engine, &program)?;
    let mut text = format!(
        "Machine: {}.\n\n| measure | median (least to most) |\n|---|---|\n",
        machine::describe()
    );
    let mut row = |what: &str, spread: Spread, unit: &str| {
        let (least, middle, most) = (spread.least, spread.middle, spread.most);
        let written = writeln!(
            text,
            "| {what} | {middle:.2} ({least:.2} to {most:.2}) {unit} |"
        );
        debug_assert!(written.is_ok(), "a string takes whatever is written");
    };
    let idle = bench.memory(1)?;
    row("memory (PSS) without containers", idle, "MiB");
    bench.deploy(FEW)?;
    let few = bench.memory(arguments.minutes)?;
    row(&format!("memory (PSS) with {FEW} containers"), few, "MiB");
    bench.deploy(MANY)?;
    let many = bench.memory(1)?;
    row(&format!("memory (PSS) with {MANY} containers"), many, "MiB");
    let rounds = bench.rounds(arguments.rounds)?;
    row("round without a change, time", rounds.time, "ms");
    row(
        "round without a change, agent's processor",
        rounds.cpu,
        "ms",
    );
    row(
        "round without a change, engine's processor",
        rounds.engine,
        "ms",
    );
    let repairs = bench.repairs(arguments.repairs)?;
    row(
        "container put back: from its end to its start",
        repairs.time,
        "ms",
    );
    row("container put back, agent's processor", repairs.cpu, "ms");
    row(
        "container put back, engine's processor",
        repairs.engine,
        "ms",
    );
    print(&text);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}

/// An agent on an engine, and its controller.
struct Bench {
    engine: Engine,
    controller: Controller,
    agent: Agent,
    scratch: TempDir,
    /// The node's and the deployment's id, once there is one.
    labels: Vec<String>,
}

/// What something takes, in milliseconds.
struct Cost {
    time: Spread,
    cpu: Spread,
    engine: Spread,
}

/// What was seen of something that was done again and again.
#[derive(Default)]
struct Seen {
    time: Vec<f64>,
    cpu: Vec<f64>,
    engine: Vec<f64>,
}

impl Seen {
    fn cost(&self) -> Cost {
        Cost {
            time: Spread::of(&self.time),
            cpu: Spread::of(&self.cpu),
            engine: Spread::of(&self.engine),
        }
    }
}

impl Bench {
    fn start(engine: Engine, program: &Path) -> anyhow::Result<Bench> {
        let controller = Plan::nodes(0).start();
        let cli = controller.cli();
        let made = cli.json(&["token", "create"]);
        let token = made["text"].as_str().context("the token's text")?;
        let mut agent = Agent::new("busy").with_program(program).joined(token);
        agent.configure(&format!(
            "[docker]\nsocket = {:?}\n[log]\nlevel = \"info,flotilla_agent::deploy::drive=trace\"\n",
            engine.socket()
        ));
        agent.start();
        wait::until_true("the agent is connected", LIMIT, || {
            cli.json(&["node", "list"]).to_string().contains("\"up\"")
        });
        Ok(Bench {
            engine,
            controller,
            agent,
            scratch: TempDir::new()?,
            labels: Vec::new(),
        })
    }

    fn cli(&self) -> Cli {
        self.controller.cli()
    }

    /// Has so many containers run.
    fn deploy(&mut self, count: usize) -> anyhow::Result<()> {
        let mut text = "services:\n".to_owned();
        for number in 1..=count {
            let service =
                "image: web:1, network_mode: none, restart: always, stop_grace_period: 1s";
            writeln!(text, "  s{number}: {{{service}}}")?;
        }
        let file = self.scratch.path().join("compose.yaml");
        fs::write(&file, text)?;
        let file = file.display().to_string();
        let base = ["deploy", "apply", "-f", &file, "--name", "web", "--on", "*"];
        let quick = ["--yes", "--wave", "rest:soak=1s", "--min-healthy", "1s"];
        let answer = self.cli().json(&[&base[..], &quick[..]].concat());
        let rollout = answer["rollout"]["id"].as_str().context("a rollout")?;
        wait::until_true("the rollout ends", LIMIT, || {
            self.cli().json(&["rollout", "show", rollout])["done"] == true
        });
        let running = self.engine.docker(&["ps", "-q"]).lines().count();
        if running != count {
            bail!("{running} of {count} containers run");
        }
        self.labels = ["flotilla.node", "flotilla.deployment"]
            .iter()
            .map(|label| {
                let show = format!("{{{{index .Config.Labels {label:?}}}}}");
                let value = self
                    .engine
                    .docker(&["inspect", "-f", &show, "flotilla-web-s1-1"]);
                format!("--label={label}={value}")
            })
            .collect();
        Ok(())
    }

    /// The agent's memory over some minutes, in MiB.
    fn memory(&mut self, minutes: u64) -> anyhow::Result<Spread> {
        clock::pass(SETTLING);
        let process = self.agent.process().id();
        let mut seen = Vec::new();
        let end = clock::now() + Duration::from_secs(minutes * 60);
        while clock::now() < end {
            let kib = machine::pss_kib(process).context("the agent runs")?;
            seen.push(f64::from(u32::try_from(kib)?) / 1024.0);
            clock::pass(INTERVAL);
        }
        Ok(Spread::of(&seen))
    }

    /// Processor time of the agent and of the engine so far, in milliseconds.
    fn spent(&mut self) -> anyhow::Result<(f64, f64)> {
        let of = |process: u32| {
            let cpu = machine::cpu(process).context("it runs")?;
            anyhow::Ok(cpu.as_secs_f64() * 1000.0)
        };
        let engine = self.engine.id().context("the engine runs")?;
        Ok((of(self.agent.process().id())?, of(engine)?))
    }

    /// What the rounds without a step took to look, by the log.
    fn looks(&mut self) -> Vec<f64> {
        let log = self.agent.process().output();
        log.lines()
            .filter(|line| line.contains("a round") && line.contains("steps=0"))
            .filter_map(|line| {
                let (_, rest) = line.split_once("look_ms=")?;
                rest.split_whitespace().next()?.parse().ok()
            })
            .collect()
    }

    /// Brings rounds about that change nothing. The processor's clock ticks every ten
    /// milliseconds, so ten rounds are taken together.
    fn rounds(&mut self, count: usize) -> anyhow::Result<Cost> {
        let mut seen = Seen::default();
        let first = self.looks().len();
        while self.looks().len() < first + count {
            let (cpu, engine) = self.spent()?;
            let before = self.looks().len();
            while self.looks().len() < before + 10 {
                self.nudge()?;
            }
            let rounds = f64::from(u32::try_from(self.looks().len() - before)?);
            let after = self.spent()?;
            seen.cpu.push((after.0 - cpu) / rounds);
            seen.engine.push((after.1 - engine) / rounds);
        }
        seen.time = self.looks().split_off(first);
        Ok(seen.cost())
    }

    /// Has a container come and go that is nobody's, and waits for a round.
    fn nudge(&mut self) -> anyhow::Result<()> {
        let before = self.looks().len();
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        let create = [&["create", "--network=none"], &labels[..], &["web:1"]].concat();
        let made = self.engine.docker(&create);
        self.engine.docker(&["rm", &made]);
        let came = wait::within(LIMIT, || (self.looks().len() > before).then_some(()));
        came.context("no round came")
    }

    /// Takes containers away, each of another service.
    fn repairs(&mut self, count: usize) -> anyhow::Result<Cost> {
        let mut seen = Seen::default();
        for number in 1..=count.min(MANY) {
            // It keeps the name of the revision that it was made for until it is made
            // anew.
            let filter = format!("name=^/flotilla-web-s{number}-");
            let running = ["ps", "-q", "--filter", &filter];
            let id = self.engine.docker(&running);
            let (cpu, engine) = self.spent()?;
            let rounds = self.looks().len();
            self.engine.docker(&["rm", "-f", &id]);
            let began = clock::now();
            wait::until_true("it is put back", LIMIT, || {
                self.engine
                    .try_docker(&running)
                    .is_some_and(|id| !id.is_empty())
            });
            seen.time
                .push((clock::now() - began).as_secs_f64() * 1000.0);
            // Until it has seen that all is well.
            wait::until_true("it is quiet", LIMIT, || self.looks().len() > rounds);
            let after = self.spent()?;
            seen.cpu.push(after.0 - cpu);
            seen.engine.push(after.1 - engine);
        }
        Ok(seen.cost())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Before the engine goes, so that nothing is put back any more.
        self.agent.kill();
    }
}
