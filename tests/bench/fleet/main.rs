//! A fleet of simulated nodes against a real controller: what it costs, how fast
//! it is, and that it loses nothing.
//!
//! ```text
//! cargo build --release
//! cargo run --release -p system-tests --bin bench-fleet -- --nodes 10000
//! ```
//!
//! Each node runs the agent's own session, ledger and outbox over a TLS connection
//! of its own from one of several loopback addresses; the controller is the real
//! program in a process of its own. Nodes join by the API with one token, send
//! frames of realistic content, answer a ping to all, and find their way back
//! after the controller was killed. Load and controller share the machine, and the
//! report says what each took. Everything is on loopback, bounded in count and
//! time, and what was started is ended by its process id.

mod enrol;
mod mqtt;
mod node;
mod report;
mod samples;
mod server;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use harness::servers::Mosquitto;
use harness::{clock, machine, process, wait};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use node::{Ended, Simulated};
use report::{Joining, Losses, Ping, Report, Steady, Stored, Storm, Trip, Waits, percent};
use server::Server;
use world::{Pace, World};

/// Descriptors that either program needs besides those for nodes.
const DESCRIPTORS_SPARE: usize = 400;

/// Which broker carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Broker {
    /// The controller's own.
    Embedded,
    /// A mosquitto in a process of its own.
    Mosquitto,
}

impl Broker {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Mosquitto => "mosquitto",
        }
    }

    /// Descriptors of one process for one node. On the embedded broker they are
    /// the node's socket and both ends of the connection to the inner broker.
    fn descriptors_a_node(self) -> usize {
        match self {
            Self::Embedded => 3,
            Self::Mosquitto => 1,
        }
    }
}

/// Longest wait for every node to be connected, and to be so again.
const CONNECT_LIMIT: Duration = Duration::from_secs(300);

/// Longest wait for every receipt.
const PING_LIMIT: Duration = Duration::from_secs(120);

/// Longest wait for every node to refuse, and to cease to: some heartbeats.
const TRIP_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for what is under way at the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Measures a controller under a fleet of simulated nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-fleet")]
struct Plan {
    /// Simulated nodes.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Which broker.
    #[arg(long, value_enum, default_value_t = Broker::Embedded)]
    broker: Broker,
    /// Length of each quiet interval.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Quiet intervals, and commands to all.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Times that the fleet's breaker is tripped and reset.
    #[arg(long, default_value_t = 3)]
    trips: usize,
    /// Times that the controller is killed and started again.
    #[arg(long, default_value_t = 1)]
    storms: usize,
    /// Seconds between two frames of a node.
    #[arg(long, default_value_t = 60)]
    frame_seconds: u64,
    /// Seconds between two samples.
    #[arg(long, default_value_t = 10)]
    sample_seconds: u64,
    /// Seconds between two heartbeats of a node.
    #[arg(long, default_value_t = 15)]
    heartbeat_seconds: u64,
    /// Seconds to wait before each measurement.
    #[arg(long, default_value_t = 20)]
    settle_seconds: u64,
    /// First connections a second.
    #[arg(long, default_value_t = 250)]
    connects_per_second: u64,
    /// Where the controller keeps its state; a temporary folder without it.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::parse();
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.spawn(end_on_interrupt());
    let scratch = tempfile::tempdir()?;
    let folder = plan
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let report = Run::new(plan.clone(), &folder, &runtime)?.carry_out()?;
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(file) = &plan.json {
        std::fs::write(file, &json).with_context(|| file.display().to_string())?;
    }
    print(&report.markdown());
    if report.losses.any() || report.stored.lacks_any() {
        anyhow::bail!(
            "something was lost: {:?}, {:?}",
            report.losses,
            report.stored
        );
    }
    Ok(())
}

/// Being stopped must not leave a controller behind.
#[expect(
    clippy::exit,
    reason = "an interrupted benchmark has nothing to report"
)]
async fn end_on_interrupt() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    process::end_all();
    std::process::exit(130);
}

#[expect(clippy::print_stdout, reason = "the report is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}

/// Raises the limit of descriptors as far as it goes; the controller inherits it.
fn raise_descriptors() -> anyhow::Result<usize> {
    let held = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: held.maximum,
        maximum: held.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the descriptor limit")?;
    let most = held.maximum.unwrap_or(u64::MAX);
    Ok(usize::try_from(most).unwrap_or(usize::MAX))
}

/// A run under way.
struct Run<'a> {
    plan: Plan,
    runtime: &'a Runtime,
    server: Server,
    mosquitto: Option<Mosquitto>,
    report: Report,
}

/// The nodes while they run.
struct Fleet {
    world: Arc<World>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Ended>,
    count: usize,
}

impl<'a> Run<'a> {
    fn new(mut plan: Plan, folder: &std::path::Path, runtime: &'a Runtime) -> anyhow::Result<Self> {
        let asked = plan.nodes;
        let descriptors = raise_descriptors()?;
        let each = plan.broker.descriptors_a_node();
        let room = descriptors.saturating_sub(DESCRIPTORS_SPARE) / each;
        let mut limit = None;
        if room < plan.nodes {
            limit = Some(format!(
                "a process may open {descriptors} descriptors here, and the controller takes {each} a node"
            ));
            plan.nodes = room;
        }
        let settings = [
            ("FLOTILLA_API_ADDRESS_REQUESTS_PER_MINUTE", "1000000".into()),
            ("FLOTILLA_API_KEY_REQUESTS_PER_MINUTE", "1000000".into()),
            ("FLOTILLA_BROKER_CONNECTIONS_MAX", "20000".into()),
            (
                "FLOTILLA_SESSION_HEARTBEAT",
                format!("{}s", plan.heartbeat_seconds),
            ),
            ("FLOTILLA_LOG_FILTER", "warn".into()),
        ];
        let mut server = Server::start(folder, &settings)?;
        let mosquitto = match plan.broker {
            Broker::Embedded => None,
            Broker::Mosquitto => Some(server.move_to_mosquitto()?),
        };
        let command: Vec<String> = std::env::args().skip(1).collect();
        let report = Report {
            machine: machine::describe(),
            command: format!("bench-fleet {}", command.join(" ")),
            broker: plan.broker.name().to_owned(),
            nodes_asked: asked,
            limit,
            frame_s: whole(plan.frame_seconds),
            sample_s: whole(plan.sample_seconds),
            heartbeat_s: whole(plan.heartbeat_seconds),
            ..Report::default()
        };
        Ok(Self {
            plan,
            runtime,
            server,
            mosquitto,
            report,
        })
    }

    fn carry_out(mut self) -> anyhow::Result<Report> {
        self.report.empty_pss_kib = self.server.cost()?.pss_kib;
        let mut fleet = self.assemble()?;
        for _ in 0..self.plan.repeats {
            self.settle();
            let steady = self.steady(&fleet)?;
            say(&format!("quiet: {steady:?}"));
            self.report.steady.push(steady);
        }
        self.note_problems("quiet", &fleet);
        for _ in 0..self.plan.repeats {
            let ping = self.ping(&fleet)?;
            say(&format!("ping: {ping:?}"));
            self.report.pings.push(ping);
            clock::pass(Duration::from_secs(5));
        }
        self.note_problems("commands", &fleet);
        for _ in 0..self.plan.trips {
            let trip = self.trip(&fleet)?;
            say(&format!("trip: {trip:?}"));
            self.report.trips.push(trip);
            clock::pass(Duration::from_secs(5));
        }
        self.note_problems("trips", &fleet);
        self.compare(&fleet)?;
        for _ in 0..self.plan.storms {
            let storm = self.storm(&fleet)?;
            say(&format!("storm: {storm:?}"));
            self.report.storms.push(storm);
            self.note_problems("restart", &fleet);
            self.settle();
        }
        self.report.losses = self.drain(&mut fleet);
        self.note_problems("end", &fleet);
        let counts = fleet.world.tally.counts();
        let frames = ratio(counts.frame_bytes, counts.frames);
        let slots = self.plan.frame_seconds / self.plan.sample_seconds.max(1);
        self.report.frame_bytes = frames;
        let values = whole(slots.max(1)) * count(samples::COLUMNS);
        self.report.sample_bytes = frames / values;
        self.server.kill();
        Ok(self.report)
    }

    fn settle(&self) {
        clock::pass(Duration::from_secs(self.plan.settle_seconds));
    }

    fn note_problems(&mut self, phase: &str, fleet: &Fleet) {
        let problems: BTreeMap<String, u64> = fleet.world.tally.take_problems();
        for (problem, times) in &problems {
            say(&format!("{phase}: {times} times: {problem}"));
        }
        self.report.problems.insert(phase.to_owned(), problems);
    }

    /// Sets the controller's own counters, of its life so far, beside the nodes'.
    fn compare(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let nodes = fleet.world.tally.counts();
        self.report.metrics = self.server.metrics()?.into_iter().collect();
        let metric = |name: &str| self.report.metrics.get(name).copied().unwrap_or_default();
        self.report.stored = Stored {
            frames_acked: nodes.frames_acked,
            frames_stored: metric("fleet_frames_stored_total"),
            receipts_acked: nodes.receipts_acked,
            receipts_stored: metric("fleet_receipts_stored_total"),
            refused: metric("fleet_frames_refused_total"),
            shed: metric("fleet_broker_shed_total"),
        };
        say(&format!("stored: {:?}", self.report.stored));
        Ok(())
    }

    /// Enrols the nodes, starts them, and waits until they are connected.
    fn assemble(&mut self) -> anyhow::Result<Fleet> {
        let token = self.server.token(self.plan.nodes)?;
        let before = self.server.cost()?;
        let joined = enrol::enrol(
            self.runtime.handle(),
            &token,
            self.server.ca_file(),
            self.plan.nodes,
        )
        .with_context(|| self.server.tail())?;
        let after = self.server.cost()?;
        self.report.joining = Joining {
            seconds: joined.took.as_secs_f64(),
            rate: count(joined.nodes.len()) / joined.took.as_secs_f64(),
            waits: Waits::of(&joined.latencies),
            cpu_percent: percent(after.cpu.saturating_sub(before.cpu), after.at - before.at),
        };
        say(&format!("joined: {:?}", self.report.joining));
        let first = joined.nodes.first().context("no node joined")?;
        let pace = Pace {
            sample_every: Duration::from_secs(self.plan.sample_seconds.max(1)),
            frame_every: Duration::from_secs(self.plan.frame_seconds.max(1)),
        };
        let world = Arc::new(World::new(first.identity.fleet, pace));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let rate = self.plan.connects_per_second.max(1);
        let nodes = u64::try_from(joined.nodes.len())?;
        let spread = Duration::from_millis(nodes * 1000 / rate);
        let began = clock::now();
        for (seed, enrolled) in (1..).zip(joined.nodes) {
            let node = Simulated::new(enrolled, seed, Arc::clone(&world))?;
            tasks.spawn_on(node.run(spread, stopped.clone()), self.runtime.handle());
        }
        let mut fleet = Fleet {
            world,
            stop,
            tasks,
            count: self.plan.nodes,
        };
        self.connect(&mut fleet, began);
        Ok(fleet)
    }

    fn connect(&mut self, fleet: &mut Fleet, began: Instant) {
        let links = || fleet.world.tally.counts().links;
        let wanted = u64::try_from(fleet.count).unwrap_or(u64::MAX);
        let all = wait::within(CONNECT_LIMIT, || (links() >= wanted).then_some(()));
        self.report.connected_s = began.elapsed().as_secs_f64();
        let held = usize::try_from(links()).unwrap_or(usize::MAX);
        if all.is_none() {
            self.report.limit = Some(format!("the others had no link within {CONNECT_LIMIT:?}"));
        }
        self.report.nodes = held;
        fleet.count = held;
        say(&format!("{held} links after {}", enrol::seconds(began)));
        self.note_problems("connecting", fleet);
    }

    fn steady(&self, fleet: &Fleet) -> anyhow::Result<Steady> {
        let tally = &fleet.world.tally;
        let own = std::process::id();
        let load = || machine::cpu(own).unwrap_or_default();
        let foreign = self.mosquitto.as_ref().and_then(Mosquitto::id);
        let broker = || foreign.and_then(machine::cpu).unwrap_or_default();
        tally.take_latencies();
        let (load_before, broker_before) = (load(), broker());
        let (before, broken) = (self.server.cost()?, tally.counts().broken);
        clock::pass(Duration::from_secs(self.plan.seconds));
        let after = self.server.cost()?;
        let (load_after, broker_after) = (load(), broker());
        let took = after.at - before.at;
        let grown = after.pss_kib.saturating_sub(self.report.empty_pss_kib);
        Ok(Steady {
            seconds: took.as_secs_f64(),
            cpu_percent: percent(after.cpu.saturating_sub(before.cpu), took),
            load_cpu_percent: percent(load_after.saturating_sub(load_before), took),
            broker_cpu_percent: percent(broker_after.saturating_sub(broker_before), took),
            broker_pss_kib: foreign.and_then(machine::pss_kib).unwrap_or_default(),
            pss_kib: after.pss_kib,
            rss_kib: after.rss_kib,
            kib_per_node: whole(grown) / count(fleet.count.max(1)),
            written_per_second: whole(after.written.saturating_sub(before.written))
                / took.as_secs_f64(),
            descriptors: after.descriptors,
            frames: Waits::of(&tally.take_latencies()),
            broken: tally.counts().broken - broken,
        })
    }

    fn ping(&self, fleet: &Fleet) -> anyhow::Result<Ping> {
        let tally = &fleet.world.tally;
        tally.take_receipts();
        let issued = clock::now();
        let id = self.server.ping_all()?;
        let mut ping = Ping::default();
        wait::within(PING_LIMIT, || {
            let (targets, succeeded, done) = self.server.command(id).ok()?;
            (ping.targets, ping.succeeded) = (targets, succeeded);
            ping.done_ms = issued.elapsed().as_secs_f64() * 1000.0;
            done.then_some(())
        });
        // The last acknowledgements are on their way to the nodes.
        let wanted = fleet.world.tally.counts().commands;
        wait::within(Duration::from_secs(20), || {
            (tally.counts().receipts_acked >= wanted).then_some(())
        });
        let receipts = tally.take_receipts();
        let ours = || receipts.iter().filter(|receipt| receipt.command == id);
        let millis = |at: Instant| at.saturating_duration_since(issued).as_secs_f64() * 1000.0;
        let taken: Vec<f64> = ours().map(|receipt| millis(receipt.taken)).collect();
        let acknowledged: Vec<f64> = ours().map(|receipt| millis(receipt.acknowledged)).collect();
        ping.delivery = Waits::of(&taken);
        ping.receipts = Waits::of(&acknowledged);
        Ok(ping)
    }

    /// Trips the fleet's breaker, waits until every node refuses, and resets it.
    fn trip(&self, fleet: &Fleet) -> anyhow::Result<Trip> {
        let tally = &fleet.world.tally;
        let wanted = u64::try_from(fleet.count)?;
        fleet.world.judge(true);
        tally.take_refusals();
        let tripped = clock::now();
        self.server.move_breaker("trip")?;
        wait::within(TRIP_LIMIT, || (tally.refusing() >= wanted).then_some(()));
        let refusals = tally.take_refusals();
        let millis = |at: &Instant| at.saturating_duration_since(tripped).as_secs_f64() * 1000.0;
        let waits: Vec<f64> = refusals.iter().map(millis).collect();
        self.server.move_breaker("reset")?;
        wait::within(TRIP_LIMIT, || (tally.refusing() == 0).then_some(()));
        fleet.world.judge(false);
        Ok(Trip {
            refused: u64::try_from(refusals.len())?,
            refusals: Waits::of(&waits),
        })
    }

    fn storm(&mut self, fleet: &Fleet) -> anyhow::Result<Storm> {
        let tally = &fleet.world.tally;
        tally.take_ups();
        tally.take_latencies();
        let refused = tally.counts().refused;
        let killed = clock::now();
        self.server.kill();
        self.server.begin()?;
        self.server.ready()?;
        let ready_s = killed.elapsed().as_secs_f64();
        let wanted = u64::try_from(fleet.count)?;
        let mut ups: Vec<Instant> = Vec::new();
        wait::within(CONNECT_LIMIT, || {
            ups.extend(tally.take_ups());
            (ups.len() >= fleet.count && tally.counts().links >= wanted).then_some(())
        });
        ups.sort_unstable();
        let after = |part: usize| {
            let index = (fleet.count * part / 100).saturating_sub(1);
            let up = ups.get(index);
            up.map(|at| at.saturating_duration_since(killed).as_secs_f64())
        };
        Ok(Storm {
            ready_s,
            half_s: after(50).unwrap_or(f64::INFINITY),
            most_s: after(99).unwrap_or(f64::INFINITY),
            all_s: after(100),
            refused: tally.counts().refused - refused,
            frames: Waits::of(&tally.take_latencies()),
        })
    }

    /// Ends the measuring, waits for every acknowledgement, and stops the nodes.
    fn drain(&self, fleet: &mut Fleet) -> Losses {
        let world = &fleet.world;
        world.rest();
        wait::within(DRAIN_LIMIT, || {
            let counts = world.tally.counts();
            let drained =
                counts.frames == counts.frames_acked && counts.commands == counts.receipts_acked;
            drained.then_some(())
        });
        fleet.stop.send_replace(true);
        let tasks = std::mem::take(&mut fleet.tasks);
        let ended = self.runtime.block_on(tasks.join_all());
        let counts = fleet.world.tally.counts();
        Losses {
            frames: counts.frames,
            frames_acked: counts.frames_acked,
            commands: counts.commands,
            receipts_acked: counts.receipts_acked,
            waiting: ended
                .iter()
                .map(|node| node.frames_waiting + node.control_waiting)
                .sum(),
            shed_samples: ended.iter().map(|node| node.shed_samples).sum(),
        }
    }
}

fn say(text: &str) {
    harness::say(text);
}

/// A count as a figure.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are printed with a few digits"
)]
fn whole(count: u64) -> f64 {
    count as f64
}

/// A number of things as a figure.
#[expect(
    clippy::cast_precision_loss,
    reason = "figures are printed with a few digits"
)]
fn count(things: usize) -> f64 {
    things as f64
}

fn ratio(sum: u64, count: u64) -> f64 {
    whole(sum) / whole(count.max(1))
}
