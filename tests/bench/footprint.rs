//! What an idle agent costs: memory (PSS), processor time and bytes written to
//! storage of the real program with all collectors, joined to a local controller,
//! beside Debian's prometheus-node-exporter (scraped every ten seconds) and
//! collectd where they are installed.
//!
//! ```text
//! cargo build --release && cargo build --profile dist -p flotilla-agent
//! cargo run --release -p system-tests --bin bench-footprint -- --minutes 60 \
//!     --agent release=target/release/flotilla-agent --agent dist=target/dist/flotilla-agent
//! ```
//!
//! All programs run at the same time, so that they see the same machine. What is
//! on `/dev/shm` stands for the tmpfs that an agent has under systemd.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use harness::agent::Agent;
use harness::controller::{Controller, Plan};
use harness::machine::{self, Spread};
use harness::process::Process;
use harness::{clock, programs, servers, wait};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

/// Between two looks at the memory, and between two scrapes.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a program takes to start is no part of being idle.
const SETTLING: Duration = Duration::from_secs(60);

const CONNECT_LIMIT: Duration = Duration::from_secs(60);

const DAY: f64 = 24.0 * 3600.0;

const MEMORY_BUDGET_KIB: f64 = 6.0 * 1024.0;
const CPU_BUDGET_PERCENT: f64 = 0.1;
const SIZE_BUDGET_MB: f64 = 8.0;
const FLASH_BUDGET_MB: f64 = 0.5;

/// Measures idle agents.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-footprint")]
struct Arguments {
    /// How long to measure.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// An agent to run, as NAME=PATH; the one that was built beside this program
    /// when none is given.
    #[arg(long = "agent", value_name = "NAME=PATH")]
    agents: Vec<String>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = TempDir::new()?;
    let controller = Plan::nodes(0).start();
    let builds = builds(&arguments)?;
    let runtimes = builds
        .iter()
        .map(|_| runtime())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let agents = join_all(builds, &runtimes, &controller)?;

    let mut watched = Vec::new();
    for (name, program, mut agent) in agents {
        let id = agent.process().id();
        watched.push(Watched::new(&name, id, &program, Some(agent)));
    }
    let exporter = node_exporter(folder.path());
    if let Some((process, program, _)) = &exporter {
        watched.push(Watched::new("node-exporter", process.id(), program, None));
    }
    let collectd = collectd(folder.path());
    if let Some((process, program)) = &collectd {
        watched.push(Watched::new("collectd", process.id(), program, None));
    }
    clock::pass(SETTLING);
    for one in &mut watched {
        one.begin()?;
    }
    let end = clock::now() + Duration::from_secs(arguments.minutes * 60);
    while clock::now() < end {
        clock::pass(INTERVAL);
        if let Some((_, _, url)) = &exporter {
            let _scraped = Command::new("curl")
                .args(["-s", "-o", "/dev/null", url])
                .status();
        }
        for one in &mut watched {
            one.look()?;
        }
    }
    let report = Report {
        machine: machine::describe(),
        minutes: arguments.minutes,
        programs: watched
            .iter()
            .map(Watched::figures)
            .collect::<anyhow::Result<_>>()?,
    };
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&report)?)
            .with_context(|| file.display().to_string())?;
    }
    print(&report.markdown());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}

/// Names and paths of the agents to run.
fn builds(arguments: &Arguments) -> anyhow::Result<Vec<(String, PathBuf)>> {
    if arguments.agents.is_empty() {
        let name = "flotilla-agent".to_owned();
        return Ok(vec![(name, programs::flotilla_agent())]);
    }
    let mut builds = Vec::new();
    for agent in &arguments.agents {
        let (name, path) = agent.split_once('=').context("--agent wants NAME=PATH")?;
        builds.push((format!("flotilla-agent, {name}"), PathBuf::from(path)));
    }
    Ok(builds)
}

/// Joins and starts the agents, and waits until each is connected.
fn join_all(
    builds: Vec<(String, PathBuf)>,
    runtimes: &[TempDir],
    controller: &Controller,
) -> anyhow::Result<Vec<(String, PathBuf, Agent)>> {
    let uses = builds.len().to_string();
    let made = controller
        .cli()
        .json(&["token", "create", "--uses", &uses, "--expires", "1h"]);
    let token = made["text"].as_str().context("the token's text")?;
    let mut agents = Vec::new();
    for ((name, program), runtime) in builds.into_iter().zip(runtimes) {
        let number = agents.len();
        let agent = Agent::new(&format!("idle-{number}"))
            .with_program(&program)
            .with_runtime(runtime.path());
        let mut agent = agent.joined(token);
        agent.start();
        let connected = wait::within(CONNECT_LIMIT, || is_up(&agent).then_some(()));
        if connected.is_none() {
            bail!(
                "{name} is not connected after {CONNECT_LIMIT:?}\n{}",
                agent.process().tail()
            );
        }
        agents.push((name, program, agent));
    }
    Ok(agents)
}

/// A runtime folder on a tmpfs where there is one.
fn runtime() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        TempDir::new_in(memory)
    } else {
        TempDir::new()
    };
    made.context("a runtime folder")
}

fn status(agent: &Agent) -> Option<Value> {
    let answer = agent.ask(&["status", "--output", "json"]);
    serde_json::from_str(&answer.out).ok()
}

fn is_up(agent: &Agent) -> bool {
    status(agent).is_some_and(|status| status["link"]["state"] == "up")
}

/// Bytes that an agent wrote to its store, as it counts them itself.
fn own_count(agent: &Agent) -> Option<f64> {
    status(agent)?["budgets"]["flash_bytes"].as_f64()
}

/// One process and what it was seen to take.
struct Watched {
    name: String,
    process: u32,
    program: PathBuf,
    agent: Option<Agent>,
    began: Option<Began>,
    pss_kib: Vec<f64>,
}

#[derive(Clone, Copy)]
struct Began {
    at: Instant,
    cpu: Duration,
    written: u64,
    own: f64,
}

/// What a program takes.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    /// The program.
    name: String,
    /// Proportional set size, KiB: least, median, most, and at the end.
    pss_kib: [f64; 4],
    /// Percent of a core.
    cpu_percent: f64,
    /// Bytes a day written to storage, as the kernel counts.
    written_per_day: f64,
    /// Bytes a day written to the store, as the agent counts.
    own_written_per_day: Option<f64>,
    /// Bytes of the program's file.
    size: u64,
}

impl Watched {
    fn new(name: &str, process: u32, program: &Path, agent: Option<Agent>) -> Watched {
        Watched {
            name: name.to_owned(),
            process,
            program: program.to_owned(),
            agent,
            began: None,
            pss_kib: Vec::new(),
        }
    }

    fn now(&self) -> anyhow::Result<Began> {
        let gone = || format!("{} ended", self.name);
        Ok(Began {
            at: clock::now(),
            cpu: machine::cpu(self.process).with_context(gone)?,
            written: machine::written_bytes(self.process).with_context(gone)?,
            own: self.agent.as_ref().and_then(own_count).unwrap_or_default(),
        })
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        self.began = Some(self.now()?);
        self.look()
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let pss = machine::pss_kib(self.process)
            .with_context(|| format!("{} ended, or its memory cannot be read", self.name))?;
        self.pss_kib.push(figure(pss));
        Ok(())
    }

    fn figures(&self) -> anyhow::Result<Figures> {
        let before = self.began.context("it was watched")?;
        let after = self.now()?;
        let took = (after.at - before.at).as_secs_f64();
        let spread = Spread::of(&self.pss_kib);
        let last = self.pss_kib.last().copied().unwrap_or_default();
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        let written = figure(after.written.saturating_sub(before.written));
        Ok(Figures {
            name: self.name.clone(),
            pss_kib: [spread.least, spread.middle, spread.most, last],
            cpu_percent: cpu / took * 100.0,
            written_per_day: written / took * DAY,
            own_written_per_day: self
                .agent
                .as_ref()
                .map(|_| (after.own - before.own) / took * DAY),
            size: fs::metadata(&self.program)?.len(),
        })
    }
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: String,
    minutes: u64,
    programs: Vec<Figures>,
}

impl Report {
    fn markdown(&self) -> String {
        let mut text = format!(
            "Machine: {}. Idle for {} min after {} s, sampling (or scraped) every 10 s.\n\n\
             | program | PSS, MiB: median (least to most), last | processor, % of a core | written a day, MB: kernel / own count | file, MB |\n\
             |---|---|---|---|---|\n",
            self.machine,
            self.minutes,
            SETTLING.as_secs()
        );
        for one in &self.programs {
            let [least, middle, most, last] = one.pss_kib.map(|kib| kib / 1024.0);
            let own = one
                .own_written_per_day
                .map_or_else(|| "-".to_owned(), |bytes| format!("{:.2}", bytes / 1e6));
            let row = writeln!(
                text,
                "| {} | {middle:.2} ({least:.2} to {most:.2}), {last:.2} | {:.3} | {:.2} / {own} | {:.2} |",
                one.name,
                one.cpu_percent,
                one.written_per_day / 1e6,
                figure(one.size) / 1e6
            );
            debug_assert!(row.is_ok(), "a string takes whatever is written");
        }
        let budget = writeln!(
            text,
            "| budget of the agent | {:.2} | {CPU_BUDGET_PERCENT} | {FLASH_BUDGET_MB} | {SIZE_BUDGET_MB} |",
            MEMORY_BUDGET_KIB / 1024.0
        );
        debug_assert!(budget.is_ok(), "a string takes whatever is written");
        text
    }
}

fn node_exporter(folder: &Path) -> Option<(Process, PathBuf, String)> {
    let program = servers::program("prometheus-node-exporter")?;
    let address = format!("127.0.0.1:{}", servers::free_port());
    let mut command = Command::new(&program);
    command.arg(format!("--web.listen-address={address}"));
    let process = Process::start("node-exporter", &mut command, &folder.join("exporter.log"));
    Some((process, program, format!("http://{address}/metrics")))
}

fn collectd(folder: &Path) -> Option<(Process, PathBuf)> {
    let program = servers::program("collectd")?;
    let config = folder.join("collectd.conf");
    let plugins = [
        "cpu",
        "load",
        "memory",
        "swap",
        "df",
        "disk",
        "interface",
        "tcpconns",
        "uptime",
        "processes",
        "network",
    ];
    let mut text = String::from("Interval 10\n");
    for plugin in plugins {
        text.push_str(&format!("LoadPlugin {plugin}\n"));
    }
    // Its own way to send what it measures; nobody listens on the discard port.
    text.push_str("<Plugin network>\n  Server \"127.0.0.1\" \"9\"\n</Plugin>\n");
    fs::write(&config, text).ok()?;
    let mut command = Command::new(&program);
    command.arg("-f").arg("-C").arg(&config);
    command.arg("-P").arg(folder.join("collectd.pid"));
    let process = Process::start("collectd", &mut command, &folder.join("collectd.log"));
    Some((process, program))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes are printed with three digits"
)]
fn figure(count: u64) -> f64 {
    count as f64
}
