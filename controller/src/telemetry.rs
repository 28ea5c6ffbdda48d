//! The controller's own metrics; its logs are in [`log`].
//!
//! Owns every metric's name: `fleet_<subject>_<unit>[_total]`. **Invariant:**
//! labels are enums or route templates, never ids, names or addresses, so the
//! number of series is bounded by the program and not by the fleet. Gauges that
//! mirror another part's state are set when they are scraped.

pub mod log;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use protocol::ErrorCode;

/// An error code as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub ErrorCode);

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.text().encode(encoder)
    }
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Template of the route, such as `/api/v1/nodes/{node}`.
    pub route: String,
    /// HTTP status.
    pub status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LinkLabels {
    link: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabels {
    from: &'static str,
    to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabels {
    severity: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    name: &'static str,
}

/// What is read from the other parts at a scrape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Nodes by state of their link.
    pub nodes: Vec<(&'static str, u64)>,
    /// Fleet commands that are not concluded.
    pub commands_open: u64,
    /// Sequence of the newest journal record.
    pub journal_sequence: u64,
    /// Breakers' groups that are not closed.
    pub breakers_open: u64,
    /// Breakers' moves by state left and entered, since the start.
    pub breaker_transitions: Vec<(&'static str, &'static str, u64)>,
    /// Alerts that fire or flap, by severity.
    pub alerts_firing: Vec<(&'static str, u64)>,
    /// Turns of alerts by the state entered, since the start.
    pub alert_turns: Vec<(&'static str, u64)>,
    /// Rollouts that have not ended, by state.
    pub rollouts: Vec<(&'static str, u64)>,
    /// Targets of rollouts that have not ended, by state.
    pub rollout_targets: Vec<(&'static str, u64)>,
    /// Rollouts that ended since the start: how, how many, and the seconds that they
    /// took together.
    pub rollouts_ended: Vec<(&'static str, u64, u64)>,
    /// Whether each thing that readiness depends on is well.
    pub healthy: Vec<(&'static str, bool)>,
    /// What other parts count by error code, of which there is a fixed number.
    pub coded: Vec<CodedMetric>,
    /// What sinks count, of which there is a bounded number.
    pub sinks: Vec<SinkMetric>,
    /// What other parts count. Names are literals, so their number is bounded.
    pub parts: Vec<PartMetric>,
}

/// A metric that another part keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartMetric {
    /// Name without `fleet_` and `_total`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: PartKind,
    /// Its value.
    pub value: u64,
}

/// Counter or gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// Only grows, from 0 at the start.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl PartKind {
    /// The type's name in the exposition, and what its samples' names end with.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Counter => ("counter", "_total"),
            Self::Gauge => ("gauge", ""),
        }
    }
}

impl PartMetric {
    fn write(&self, text: &mut String) -> Result<(), std::fmt::Error> {
        let Self {
            name, help, value, ..
        } = self;
        let (kind, suffix) = self.kind.words();
        write!(
            text,
            "# HELP fleet_{name} {help}.\n# TYPE fleet_{name} {kind}\nfleet_{name}{suffix} {value}\n"
        )
    }
}

/// A counter that another part keeps for each error code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedMetric {
    /// Name without `fleet_` and `_total`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// How often each code occurred; those that did not may be left out.
    pub values: BTreeMap<ErrorCode, u64>,
}

impl CodedMetric {
    fn write(&self, text: &mut String) -> Result<(), std::fmt::Error> {
        let Self { name, help, values } = self;
        write!(
            text,
            "# HELP fleet_{name} {help}.\n# TYPE fleet_{name} counter\n"
        )?;
        for (code, value) in values {
            let code = code.text();
            writeln!(text, "fleet_{name}_total{{code=\"{code}\"}} {value}")?;
        }
        Ok(())
    }
}

/// A metric of each sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkMetric {
    /// Name without `fleet_` and `_total`.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: PartKind,
    /// Its value for each sink, by name.
    pub values: BTreeMap<String, u64>,
}

impl SinkMetric {
    fn write(&self, text: &mut String) -> Result<(), std::fmt::Error> {
        let Self {
            name, help, values, ..
        } = self;
        let (kind, suffix) = self.kind.words();
        write!(
            text,
            "# HELP fleet_{name} {help}.\n# TYPE fleet_{name} {kind}\n"
        )?;
        for (sink, value) in values {
            writeln!(text, "fleet_{name}{suffix}{{sink=\"{sink}\"}} {value}")?;
        }
        Ok(())
    }
}

/// What ends an exposition in the OpenMetrics text format.
const END: &str = "# EOF\n";

/// The registry and its metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    refusals: Family<CodeLabels, Counter>,
    anonymous: Counter,
    nodes: Family<LinkLabels, Gauge>,
    commands_open: Gauge,
    journal: Gauge,
    breakers_open: Gauge,
    breaker_transitions: Family<MoveLabels, Counter>,
    alerts_firing: Family<SeverityLabels, Gauge>,
    alert_turns: Family<StateLabels, Counter>,
    rollouts: Family<StateLabels, Gauge>,
    rollout_targets: Family<StateLabels, Gauge>,
    rollouts_ended: Family<OutcomeLabels, Counter>,
    rollout_durations: Family<OutcomeLabels, Counter>,
    healthy: Family<NameLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every metric at zero.
    #[must_use]
    pub fn new() -> Self {
        let durations: Family<_, _, fn() -> Histogram> = Family::new_with_constructor(|| {
            Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0])
        });
        let metrics = Self {
            registry: Mutex::default(),
            requests: Family::default(),
            durations,
            refusals: Family::default(),
            anonymous: Counter::default(),
            nodes: Family::default(),
            commands_open: Gauge::default(),
            journal: Gauge::default(),
            breakers_open: Gauge::default(),
            breaker_transitions: Family::default(),
            alerts_firing: Family::default(),
            alert_turns: Family::default(),
            rollouts: Family::default(),
            rollout_targets: Family::default(),
            rollouts_ended: Family::default(),
            rollout_durations: Family::default(),
            healthy: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = Registry::with_prefix("fleet");
        registry.register(
            "api_requests",
            "Requests by route and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "api_request_duration",
            "Time until a response's head",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "api_refusals",
            "Answers that were errors, by code",
            self.refusals.clone(),
        );
        registry.register(
            "api_anonymous_denials",
            "Requests without a valid key; counted only, never journalled one by one",
            self.anonymous.clone(),
        );
        registry.register("nodes", "Nodes by state of their link", self.nodes.clone());
        registry.register(
            "commands_open",
            "Fleet commands that are not concluded",
            self.commands_open.clone(),
        );
        registry.register(
            "journal_sequence",
            "Sequence of the newest journal record",
            self.journal.clone(),
        );
        registry.register(
            "breaker_open",
            "Groups of breakers that are not closed",
            self.breakers_open.clone(),
        );
        registry.register(
            "breaker_transitions",
            "Moves of breakers by the state left and the state entered",
            self.breaker_transitions.clone(),
        );
        registry.register(
            "alerts_firing",
            "Alerts that fire or flap, by severity",
            self.alerts_firing.clone(),
        );
        registry.register(
            "alert_turns",
            "Turns of alerts by the state entered",
            self.alert_turns.clone(),
        );
        registry.register(
            "rollouts",
            "Rollouts that have not ended, by state",
            self.rollouts.clone(),
        );
        registry.register(
            "rollout_targets",
            "Targets of rollouts that have not ended, by state",
            self.rollout_targets.clone(),
        );
        registry.register(
            "rollouts_ended",
            "Rollouts that ended since the start, by how",
            self.rollouts_ended.clone(),
        );
        registry.register_with_unit(
            "rollout_duration",
            "What ended rollouts took together, by how they ended",
            Unit::Seconds,
            self.rollout_durations.clone(),
        );
        registry.register(
            "health",
            "1 where a thing that readiness depends on is well",
            self.healthy.clone(),
        );
        *self.lock() = registry;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.durations
            .get_or_create(&RouteLabels {
                route: route.clone(),
            })
            .observe(took.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels { route, status })
            .inc();
    }

    /// Counts an error answer.
    pub fn refusal(&self, code: ErrorCode) {
        self.refusals
            .get_or_create(&CodeLabels { code: Code(code) })
            .inc();
    }

    /// Counts a request without a valid key.
    pub fn anonymous_denial(&self) {
        self.anonymous.inc();
    }

    /// Requests without a valid key so far.
    #[must_use]
    pub fn anonymous_denials(&self) -> u64 {
        self.anonymous.get()
    }

    /// The exposition in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn expose(&self, gauges: &Gauges) -> Result<String, std::fmt::Error> {
        for (link, count) in &gauges.nodes {
            set(&self.nodes.get_or_create(&LinkLabels { link }), *count);
        }
        set(&self.commands_open, gauges.commands_open);
        set(&self.journal, gauges.journal_sequence);
        set(&self.breakers_open, gauges.breakers_open);
        for (from, to, count) in &gauges.breaker_transitions {
            let moves = self
                .breaker_transitions
                .get_or_create(&MoveLabels { from, to });
            raise(&moves, *count);
        }
        for (state, count) in &gauges.rollouts {
            set(&self.rollouts.get_or_create(&StateLabels { state }), *count);
        }
        for (state, count) in &gauges.rollout_targets {
            let targets = self.rollout_targets.get_or_create(&StateLabels { state });
            set(&targets, *count);
        }
        for (outcome, count, seconds) in &gauges.rollouts_ended {
            let labels = OutcomeLabels { outcome };
            raise(&self.rollouts_ended.get_or_create(&labels), *count);
            raise(&self.rollout_durations.get_or_create(&labels), *seconds);
        }
        for (severity, count) in &gauges.alerts_firing {
            let labels = SeverityLabels { severity };
            set(&self.alerts_firing.get_or_create(&labels), *count);
        }
        for (state, count) in &gauges.alert_turns {
            let turns = self.alert_turns.get_or_create(&StateLabels { state });
            turns.inc_by(count.saturating_sub(turns.get()));
        }
        for (name, well) in &gauges.healthy {
            set(
                &self.healthy.get_or_create(&NameLabels { name }),
                u64::from(*well),
            );
        }
        let mut text = String::new();
        encode(&mut text, &self.lock())?;
        text.truncate(text.len() - text.strip_suffix(END).map_or(0, |_| END.len()));
        for coded in &gauges.coded {
            coded.write(&mut text)?;
        }
        for sink in &gauges.sinks {
            sink.write(&mut text)?;
        }
        for part in &gauges.parts {
            part.write(&mut text)?;
        }
        text.push_str(END);
        Ok(text)
    }
}

/// Raises a counter to what another part has counted.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_has_the_documented_names() {
        let metrics = Metrics::new();
        metrics.request("/api/v1/nodes", 200, Duration::from_millis(3));
        metrics.refusal(ErrorCode::AccessDenied);
        metrics.anonymous_denial();
        let gauges = Gauges {
            nodes: vec![("up", 3), ("down", 1)],
            commands_open: 2,
            journal_sequence: 77,
            breakers_open: 1,
            breaker_transitions: vec![("closed", "open", 4)],
            alerts_firing: vec![("critical", 2)],
            alert_turns: vec![("firing", 5)],
            rollouts: vec![("running", 2)],
            rollout_targets: vec![("pending", 7)],
            rollouts_ended: vec![("completed", 3, 90)],
            healthy: vec![("journal", true), ("broker", false)],
            coded: vec![CodedMetric {
                name: "uplink_refused",
                help: "Messages that were not taken",
                values: [(ErrorCode::EnvelopeReplayed, 4)].into(),
            }],
            sinks: vec![SinkMetric {
                name: "sink_delivered",
                help: "Notices that the receiver took",
                kind: PartKind::Counter,
                values: [("chat".to_owned(), 5)].into(),
            }],
            parts: vec![PartMetric {
                name: "frames_stored",
                help: "Frames stored",
                kind: PartKind::Counter,
                value: 9,
            }],
        };
        let text = metrics.expose(&gauges).unwrap();
        for line in [
            "fleet_api_requests_total{route=\"/api/v1/nodes\",status=\"200\"} 1",
            "fleet_api_request_duration_seconds_bucket{le=\"0.005\",route=\"/api/v1/nodes\"} 1",
            "fleet_api_refusals_total{code=\"access.denied\"} 1",
            "fleet_api_anonymous_denials_total 1",
            "fleet_nodes{link=\"up\"} 3",
            "fleet_commands_open 2",
            "fleet_journal_sequence 77",
            "fleet_breaker_open 1",
            "fleet_breaker_transitions_total{from=\"closed\",to=\"open\"} 4",
            "fleet_alerts_firing{severity=\"critical\"} 2",
            "fleet_alert_turns_total{state=\"firing\"} 5",
            "fleet_rollouts{state=\"running\"} 2",
            "fleet_rollout_targets{state=\"pending\"} 7",
            "fleet_rollouts_ended_total{outcome=\"completed\"} 3",
            "fleet_rollout_duration_seconds_total{outcome=\"completed\"} 90",
            "fleet_health{name=\"broker\"} 0",
            "fleet_uplink_refused_total{code=\"envelope.replayed\"} 4",
            "fleet_sink_delivered_total{sink=\"chat\"} 5",
            "fleet_frames_stored_total 9",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
