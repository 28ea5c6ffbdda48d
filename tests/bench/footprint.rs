//! What an idle agent costs: memory (PSS) and processor time of the real binary
//! with all collectors, connected, beside Debian's prometheus-node-exporter
//! (scraped every ten seconds) and collectd where they are installed.
//!
//! `cargo build --release && cargo run --release -p system-tests --bin footprint -- --minutes 60`

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use harness::agent::Agent;
use harness::controller::Plan;
use harness::machine::{self, Spread};
use harness::process::Process;
use harness::{clock, servers, wait};
use tempfile::TempDir;

/// Between two looks at the memory, and between two scrapes.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a program takes to start is no part of being idle.
const SETTLING: Duration = Duration::from_secs(30);

const MEMORY_BUDGET_KIB: f64 = 6.0 * 1024.0;
const CPU_BUDGET_PERCENT: f64 = 0.1;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let minutes: u64 = match words.as_slice() {
        [] => 60,
        ["--minutes", minutes] => minutes.parse().context("--minutes wants a number")?,
        _ => bail!("usage: footprint [--minutes N]"),
    };
    harness::say(&format!("machine: {}", machine::describe()));
    harness::say(&format!("idle for {minutes} min, sampling every 10 s"));
    let folder = TempDir::new()?;
    let controller = Plan::nodes(0).start();
    let token = token(&controller)?;
    let mut agent = Agent::new("idle").joined(&token);
    agent.start();
    wait::until_true("the agent is connected", Duration::from_secs(60), || {
        controller
            .cli()
            .ask(&["--output", "json", "node", "list"])
            .out
            .contains("\"up\"")
    });

    let mut watched = vec![Watched::new("flotilla-agent", agent.process().id())];
    let exporter = node_exporter(folder.path());
    if let Some((process, _)) = &exporter {
        watched.push(Watched::new("prometheus-node-exporter", process.id()));
    }
    let collectd = collectd(folder.path());
    if let Some(process) = &collectd {
        watched.push(Watched::new("collectd", process.id()));
    }
    clock::pass(SETTLING);
    for one in &mut watched {
        one.begin()?;
    }
    let end = clock::now() + Duration::from_secs(minutes * 60);
    while clock::now() < end {
        clock::pass(INTERVAL);
        if let Some((_, url)) = &exporter {
            let _scraped = Command::new("curl")
                .args(["-s", "-o", "/dev/null", url])
                .status();
        }
        for one in &mut watched {
            one.look()?;
        }
    }
    for one in &watched {
        one.report()?;
    }
    let size = fs::metadata(harness::programs::flotilla_agent())?.len();
    harness::say(&format!(
        "flotilla-agent binary: {:.2} MB",
        bytes(size) / 1e6
    ));
    agent.stop();
    Ok(())
}

/// One process and what it was seen to take.
struct Watched {
    name: &'static str,
    process: u32,
    began: Option<(std::time::Instant, Duration)>,
    pss_kib: Vec<f64>,
}

impl Watched {
    fn new(name: &'static str, process: u32) -> Watched {
        Watched {
            name,
            process,
            began: None,
            pss_kib: Vec::new(),
        }
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let cpu = machine::cpu(self.process).with_context(|| format!("{} ended", self.name))?;
        self.began = Some((clock::now(), cpu));
        self.look()
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let pss = machine::pss_kib(self.process)
            .with_context(|| format!("{} ended, or its memory cannot be read", self.name))?;
        self.pss_kib.push(bytes(pss));
        Ok(())
    }

    fn report(&self) -> anyhow::Result<()> {
        let (since, before) = self.began.context("it was watched")?;
        let cpu = machine::cpu(self.process).with_context(|| format!("{} ended", self.name))?;
        let share = (cpu - before).as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
        let spread = Spread::of(&self.pss_kib);
        harness::say(&format!(
            "{:26} PSS {spread} KiB, last {:.0} KiB, CPU {share:.3} % of a core",
            self.name,
            self.pss_kib.last().copied().unwrap_or_default()
        ));
        if self.name == "flotilla-agent" {
            let verdict = |holds: bool| if holds { "within" } else { "over" };
            harness::say(&format!(
                "{:26} memory {} its budget of 6 MiB, CPU {} its budget of {CPU_BUDGET_PERCENT} %",
                "",
                verdict(spread.most <= MEMORY_BUDGET_KIB),
                verdict(share <= CPU_BUDGET_PERCENT)
            ));
        }
        Ok(())
    }
}

fn token(controller: &harness::controller::Controller) -> anyhow::Result<String> {
    let made = controller.cli().json(&["token", "create"]);
    let text = made["text"].as_str().or_else(|| made["token"].as_str());
    Ok(text.context("the token's text")?.to_owned())
}

fn node_exporter(folder: &Path) -> Option<(Process, String)> {
    let program = servers::program("prometheus-node-exporter")?;
    let address = format!("127.0.0.1:{}", servers::free_port());
    let mut command = Command::new(program);
    command.arg(format!("--web.listen-address={address}"));
    let process = Process::start("node-exporter", &mut command, &folder.join("exporter.log"));
    Some((process, format!("http://{address}/metrics")))
}

fn collectd(folder: &Path) -> Option<Process> {
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
        "csv",
    ];
    let mut text = String::from("Interval 10\n");
    for plugin in plugins {
        text.push_str(&format!("LoadPlugin {plugin}\n"));
    }
    let data = folder.join("csv");
    text.push_str(&format!(
        "<Plugin csv>\n  DataDir \"{}\"\n</Plugin>\n",
        data.display()
    ));
    fs::write(&config, text).ok()?;
    let mut command = Command::new(program);
    command.arg("-f").arg("-C").arg(&config);
    command.arg("-P").arg(folder.join("collectd.pid"));
    Some(Process::start(
        "collectd",
        &mut command,
        &folder.join("collectd.log"),
    ))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sizes are printed with three digits"
)]
fn bytes(count: u64) -> f64 {
    count as f64
}
