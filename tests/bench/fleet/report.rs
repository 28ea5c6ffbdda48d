//! What was measured, as JSON and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use harness::machine::Spread;
use serde::Serialize;

/// Milliseconds of some waits.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Waits {
    /// How many.
    pub(crate) count: usize,
    /// The median.
    pub(crate) p50_ms: f64,
    /// The 99th percentile.
    pub(crate) p99_ms: f64,
    /// The longest.
    pub(crate) most_ms: f64,
}

impl Waits {
    /// Of these milliseconds.
    pub(crate) fn of(millis: &[f64]) -> Self {
        let spread = Spread::of(millis);
        Self {
            count: millis.len(),
            p50_ms: spread.middle,
            p99_ms: spread.p99,
            most_ms: spread.most,
        }
    }
}

/// Nodes joining.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Joining {
    /// From the first to the last.
    pub(crate) seconds: f64,
    /// A second.
    pub(crate) rate: f64,
    /// Each.
    pub(crate) waits: Waits,
    /// The controller's processor time, percent of a core.
    pub(crate) cpu_percent: f64,
}

/// A quiet interval.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Steady {
    /// Its length.
    pub(crate) seconds: f64,
    /// The controller's processor time, percent of a core.
    pub(crate) cpu_percent: f64,
    /// The load's, percent of a core.
    pub(crate) load_cpu_percent: f64,
    /// A foreign broker's, percent of a core; 0 without one.
    pub(crate) broker_cpu_percent: f64,
    /// A foreign broker's memory, KiB; 0 without one.
    pub(crate) broker_pss_kib: u64,
    /// The controller's memory, KiB.
    pub(crate) pss_kib: u64,
    /// Resident, KiB.
    pub(crate) rss_kib: u64,
    /// Memory above that of a controller without nodes, per node, KiB.
    pub(crate) kib_per_node: f64,
    /// Bytes that the controller wrote to storage, a second.
    pub(crate) written_per_second: f64,
    /// Its open descriptors.
    pub(crate) descriptors: usize,
    /// From handing a frame to the session to its acknowledgement.
    pub(crate) frames: Waits,
    /// Connections that broke.
    pub(crate) broken: u64,
}

/// One command to all.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Ping {
    /// Targets.
    pub(crate) targets: u64,
    /// Those that succeeded, as the controller says.
    pub(crate) succeeded: u64,
    /// From the request to the command at the node.
    pub(crate) delivery: Waits,
    /// From the request to the node's having the acknowledgement of its receipt.
    pub(crate) receipts: Waits,
    /// Until the controller said that all was done.
    pub(crate) done_ms: f64,
}

/// The fleet's breaker tripped by hand.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Trip {
    /// Nodes that came to refuse changes.
    pub(crate) refused: u64,
    /// From the request to the node's first refusal.
    pub(crate) refusals: Waits,
}

/// The controller killed and started again.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Storm {
    /// From the kill to the ready file.
    pub(crate) ready_s: f64,
    /// From the kill until half of the links were proven again.
    pub(crate) half_s: f64,
    /// 99 %.
    pub(crate) most_s: f64,
    /// All; none when some were not within the limit.
    pub(crate) all_s: Option<f64>,
    /// Tries to connect that failed.
    pub(crate) refused: u64,
    /// From handing over to acknowledgement, of the frames of that time.
    pub(crate) frames: Waits,
}

/// What was lost: nothing may be.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Losses {
    /// Frames handed to the sessions.
    pub(crate) frames: u64,
    /// Frames acknowledged.
    pub(crate) frames_acked: u64,
    /// Commands that nodes carried out.
    pub(crate) commands: u64,
    /// Receipts acknowledged.
    pub(crate) receipts_acked: u64,
    /// Entries that nodes still held at the end.
    pub(crate) waiting: usize,
    /// Samples that nodes gave up for lack of space.
    pub(crate) shed_samples: u64,
}

impl Losses {
    /// Whether anything is missing.
    pub(crate) fn any(&self) -> bool {
        self.frames != self.frames_acked
            || self.commands != self.receipts_acked
            || self.waiting != 0
            || self.shed_samples != 0
    }
}

/// What the controller says that it stored, beside what nodes know to be stored:
/// it must never be less.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Stored {
    /// Frames whose acknowledgement nodes had just before.
    pub(crate) frames_acked: u64,
    /// Frames stored.
    pub(crate) frames_stored: f64,
    /// Receipts whose acknowledgement nodes had.
    pub(crate) receipts_acked: u64,
    /// Receipts stored.
    pub(crate) receipts_stored: f64,
    /// Frames refused as malformed.
    pub(crate) refused: f64,
    /// Messages that found the controller's queue full, and were sent again.
    pub(crate) shed: f64,
}

impl Stored {
    /// Whether the controller stored less than it acknowledged.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a run counts far below 2^53 of anything"
    )]
    pub(crate) fn lacks_any(&self) -> bool {
        self.frames_stored < self.frames_acked as f64
            || self.receipts_stored < self.receipts_acked as f64
            || self.refused > 0.0
    }
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Where it ran.
    pub(crate) machine: String,
    /// How it was started.
    pub(crate) command: String,
    /// Which broker.
    pub(crate) broker: String,
    /// Nodes asked for.
    pub(crate) nodes_asked: usize,
    /// Nodes held.
    pub(crate) nodes: usize,
    /// Why there are fewer, when there are.
    pub(crate) limit: Option<String>,
    /// Seconds between frames.
    pub(crate) frame_s: f64,
    /// Seconds between samples.
    pub(crate) sample_s: f64,
    /// Seconds between heartbeats.
    pub(crate) heartbeat_s: f64,
    /// Bytes of a frame, without envelope.
    pub(crate) frame_bytes: f64,
    /// Bytes of a sampled value, the same way.
    pub(crate) sample_bytes: f64,
    /// The controller's memory before any node joined, KiB.
    pub(crate) empty_pss_kib: u64,
    /// Joining.
    pub(crate) joining: Joining,
    /// Seconds until every link was proven the first time.
    pub(crate) connected_s: f64,
    /// Quiet intervals.
    pub(crate) steady: Vec<Steady>,
    /// Commands to all.
    pub(crate) pings: Vec<Ping>,
    /// Trips of the breaker.
    pub(crate) trips: Vec<Trip>,
    /// Restarts.
    pub(crate) storms: Vec<Storm>,
    /// Losses.
    pub(crate) losses: Losses,
    /// What the controller stored before it was first killed.
    pub(crate) stored: Stored,
    /// The controller's own counters of that time.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// What nodes complained of, by phase.
    pub(crate) problems: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The middle of some figures, and their ends when there are several.
fn spread(figures: impl Iterator<Item = f64>, digits: usize) -> String {
    let figures: Vec<f64> = figures.collect();
    let spread = Spread::of(&figures);
    if figures.len() < 2 {
        return format!("{:.digits$}", spread.middle);
    }
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        spread.middle, spread.least, spread.most
    )
}

impl Report {
    /// The Markdown table.
    pub(crate) fn markdown(&self) -> String {
        let mut rows = Rows::default();
        rows.add("nodes held", self.held());
        rows.add(
            "joins over HTTPS",
            format!(
                "{:.0} a second, {:.1} s for all; p50 {:.0} ms, p99 {:.0} ms; controller {:.0} % of a core",
                self.joining.rate,
                self.joining.seconds,
                self.joining.waits.p50_ms,
                self.joining.waits.p99_ms,
                self.joining.cpu_percent
            ),
        );
        self.steady_rows(&mut rows);
        self.ping_rows(&mut rows);
        self.trip_rows(&mut rows);
        self.storm_rows(&mut rows);
        rows.add("losses", self.lost());
        rows.add(
            "the controller's own count before the restart",
            format!(
                "{:.0} frames and {:.0} receipts stored (nodes knew of {} and {}), {:.0} refused, {:.0} messages shed and sent again",
                self.stored.frames_stored,
                self.stored.receipts_stored,
                self.stored.frames_acked,
                self.stored.receipts_acked,
                self.stored.refused,
                self.stored.shed
            ),
        );
        format!(
            "Machine: {}, shared by load and controller.\nCommand: `{}`\nBroker: {}. Frames of {} s with {} s sampling ({:.0} bytes, {:.2} bytes a value), heartbeats every {} s. Middle of the repeats, and their ends in parentheses.\n\n| measure | result |\n|---|---|\n{}",
            self.machine,
            self.command,
            self.broker,
            self.frame_s,
            self.sample_s,
            self.frame_bytes,
            self.sample_bytes,
            self.heartbeat_s,
            rows.0
        )
    }

    fn held(&self) -> String {
        match &self.limit {
            Some(limit) => format!("{} of {}: {limit}", self.nodes, self.nodes_asked),
            None => format!("{}", self.nodes),
        }
    }

    fn lost(&self) -> String {
        let losses = &self.losses;
        format!(
            "{}: {} of {} frames and {} of {} receipts acknowledged, {} entries left waiting, {} samples shed",
            if losses.any() { "**some**" } else { "none" },
            losses.frames_acked,
            losses.frames,
            losses.receipts_acked,
            losses.commands,
            losses.waiting,
            losses.shed_samples
        )
    }

    fn steady_rows(&self, rows: &mut Rows) {
        let steady = &self.steady;
        if steady.is_empty() {
            return;
        }
        let of = |pick: fn(&Steady) -> f64, digits| spread(steady.iter().map(pick), digits);
        rows.add(
            "controller, processor",
            format!("{} % of a core", of(|s| s.cpu_percent, 1)),
        );
        rows.add(
            "load, processor",
            format!("{} % of a core", of(|s| s.load_cpu_percent, 1)),
        );
        if steady.iter().any(|s| s.broker_pss_kib > 0) {
            rows.add(
                "broker",
                format!(
                    "{} % of a core, {} MiB PSS",
                    of(|s| s.broker_cpu_percent, 1),
                    of(|s| mib(s.broker_pss_kib), 0)
                ),
            );
        }
        rows.add(
            "controller, memory",
            format!(
                "{} MiB PSS ({:.0} MiB without nodes): {} KiB a node",
                of(|s| mib(s.pss_kib), 0),
                mib(self.empty_pss_kib),
                of(|s| s.kib_per_node, 1)
            ),
        );
        rows.add(
            "controller, storage written",
            format!("{} KiB a second", of(|s| s.written_per_second / 1024.0, 0)),
        );
        rows.add(
            "frame, session to acknowledgement",
            format!(
                "p50 {} ms, p99 {} ms, longest {} ms",
                of(|s| s.frames.p50_ms, 1),
                of(|s| s.frames.p99_ms, 1),
                of(|s| s.frames.most_ms, 0)
            ),
        );
    }

    fn ping_rows(&self, rows: &mut Rows) {
        let pings = &self.pings;
        if pings.is_empty() {
            return;
        }
        let of = |pick: fn(&Ping) -> f64| spread(pings.iter().map(pick), 2);
        rows.add(
            "one command to all, request to node",
            format!(
                "p50 {} s, p99 {} s",
                of(|p| p.delivery.p50_ms / 1000.0),
                of(|p| p.delivery.p99_ms / 1000.0)
            ),
        );
        rows.add(
            "one command to all, request to receipt",
            format!(
                "p50 {} s, p99 {} s, last {} s",
                of(|p| p.receipts.p50_ms / 1000.0),
                of(|p| p.receipts.p99_ms / 1000.0),
                of(|p| p.receipts.most_ms / 1000.0)
            ),
        );
        let missing: u64 = pings.iter().map(|p| p.targets - p.succeeded).sum();
        rows.add(
            "its targets",
            format!(
                "{} succeeded, {missing} did not",
                pings.iter().map(|p| p.succeeded).sum::<u64>()
            ),
        );
    }

    fn trip_rows(&self, rows: &mut Rows) {
        let trips = &self.trips;
        if trips.is_empty() {
            return;
        }
        let of = |pick: fn(&Trip) -> f64| spread(trips.iter().map(pick), 0);
        let refused: u64 = trips.iter().map(|trip| trip.refused).sum();
        rows.add(
            "breaker tripped by hand, request to refusal on the node",
            format!(
                "p50 {} ms, p99 {} ms, last {} ms; {refused} of {} refused",
                of(|t| t.refusals.p50_ms),
                of(|t| t.refusals.p99_ms),
                of(|t| t.refusals.most_ms),
                self.nodes * trips.len()
            ),
        );
    }

    fn storm_rows(&self, rows: &mut Rows) {
        let storms = &self.storms;
        if storms.is_empty() {
            return;
        }
        let of = |pick: fn(&Storm) -> f64| spread(storms.iter().map(pick), 1);
        let all = if storms.iter().all(|s| s.all_s.is_some()) {
            format!("{} s", of(|s| s.all_s.unwrap_or_default()))
        } else {
            "not all within the limit".to_owned()
        };
        rows.add(
            "controller killed (-9) and started again",
            format!(
                "ready after {} s; links proven again: half {} s, 99 % {} s, all {all}",
                of(|s| s.ready_s),
                of(|s| s.half_s),
                of(|s| s.most_s)
            ),
        );
    }
}

#[derive(Default)]
struct Rows(String);

impl Rows {
    fn add(&mut self, what: &str, figure: String) {
        let written = writeln!(self.0, "| {what} | {figure} |");
        debug_assert!(written.is_ok(), "a string takes whatever is written");
    }
}

/// KiB in MiB.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes are printed with three digits"
)]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// What part of a core some processor time is, in percent.
pub(crate) fn percent(cpu: Duration, of: Duration) -> f64 {
    cpu.as_secs_f64() / of.as_secs_f64().max(f64::EPSILON) * 100.0
}
