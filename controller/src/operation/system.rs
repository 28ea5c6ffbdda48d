//! The controller itself.

use std::collections::BTreeMap;

use protocol::breaker::BreakerState;

use super::rollout::{OPEN_STATES, state_of};
use super::view::system::{StatusView, SupportView};
use super::{Operations, Who};
use crate::broker::PipeCounts;
use crate::clock;
use crate::domain::fleet::Fleet;
use crate::domain::notice::Severity;
use crate::domain::rollout::target::TargetState;
use crate::engine::EngineStats;
use crate::notify::Standing;
use crate::operation::failure::Failure;
use crate::series::SeriesStats;
use crate::telemetry::{CodedMetric, Gauges, PartKind, PartMetric, SinkMetric};
use crate::uplink::Link;
use crate::uplink::desk::DeskStats;

impl Operations {
    /// The controller at a glance.
    ///
    /// # Errors
    /// When it is denied.
    pub fn status(&self, who: &Who) -> Result<StatusView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("controller", "read"), &[])?;
        Ok(self.status_view())
    }

    fn status_view(&self) -> StatusView {
        let fleet = self.engine.fleet();
        let (up, total) =
            fleet
                .nodes()
                .filter(|node| !node.has_left())
                .fold((0, 0), |(up, total), node| {
                    let is_up = self.uplink.presence(node.id).link == Link::Up;
                    (up + u32::from(is_up), total + 1)
                });
        StatusView {
            fleet: fleet.id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.about.started_at.into(),
            incarnation: fleet.incarnation(),
            nodes: total,
            nodes_up: up,
            commands_open: u32::try_from(fleet.commands().open().count()).unwrap_or(u32::MAX),
            journal_sequence: fleet.seq(),
            sinks_failing: self.notify.board.failing_long(clock::now()),
        }
    }

    /// What goes into a support bundle. `parts` and `metrics` come from the face.
    ///
    /// # Errors
    /// When it is denied.
    pub fn support(
        &self,
        who: &Who,
        parts: Vec<String>,
        metrics: String,
    ) -> Result<SupportView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("controller", "support"), &[])?;
        Ok(SupportView {
            status: self.status_view(),
            configuration: self.about.configuration.clone(),
            parts,
            metrics,
            log: self.about.log.lines(),
        })
    }

    /// Whether the caller may scrape the controller's metrics.
    ///
    /// # Errors
    /// When it is denied.
    pub fn may_read_metrics(&self, who: &Who) -> Result<(), Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("controller", "read"), &[])
    }

    /// Rollouts that have not ended, in every state that there is.
    fn rollout_states(&self, fleet: &Fleet) -> Vec<(&'static str, u64)> {
        let mut counts: BTreeMap<&'static str, u64> =
            OPEN_STATES.into_iter().map(|state| (state, 0)).collect();
        for rollout in fleet.rollouts().open() {
            let status = self.uplink.rollout_status(rollout.id).unwrap_or_default();
            let (state, _) = state_of(&rollout.course, &status);
            *counts.entry(state).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// Their targets, in every state that there is.
    fn rollout_target_states(&self, fleet: &Fleet) -> Vec<(&'static str, u64)> {
        let mut counts: BTreeMap<&'static str, u64> = TargetState::ALL
            .into_iter()
            .map(|state| (state.name(), 0))
            .collect();
        for rollout in fleet.rollouts().open() {
            let status = self.uplink.rollout_status(rollout.id).unwrap_or_default();
            for (state, count) in status.waves.iter().flatten() {
                *counts.entry(state).or_default() += u64::from(*count);
            }
        }
        counts.into_iter().collect()
    }

    /// What the metrics show of the parts.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let fleet = self.engine.fleet();
        let active = fleet.nodes().filter(|node| node.is_active()).count() as u64;
        let uplink = self.uplink.stats();
        let alerts = uplink.desk.alerts;
        let (up, heard) = (uplink.nodes_up as u64, uplink.nodes_heard as u64);
        Gauges {
            nodes: vec![
                ("up", up),
                ("down", heard.saturating_sub(up)),
                ("unheard", active.saturating_sub(heard)),
            ],
            commands_open: fleet.commands().open().count() as u64,
            journal_sequence: fleet.seq(),
            breakers_open: fleet.breakers().open_count() as u64,
            breaker_transitions: uplink
                .desk
                .breaker_transitions
                .iter()
                .map(|((from, to), count)| (*from, *to, *count))
                .collect(),
            alerts_firing: Severity::ALL
                .into_iter()
                .map(|severity| {
                    (
                        severity.name(),
                        alerts.firing.get(&severity).copied().unwrap_or_default(),
                    )
                })
                .collect(),
            alert_turns: alerts
                .turns
                .iter()
                .map(|(state, count)| (*state, *count))
                .collect(),
            rollouts: self.rollout_states(&fleet),
            rollout_targets: self.rollout_target_states(&fleet),
            rollouts_ended: uplink
                .desk
                .rollouts_ended
                .iter()
                .map(|(outcome, (count, took))| (*outcome, *count, took.as_secs()))
                .collect(),
            healthy: Vec::new(),
            coded: vec![
                CodedMetric {
                    name: "uplink_refused",
                    help: "Messages from nodes that were not taken, by code",
                    values: uplink.desk.refused,
                },
                CodedMetric {
                    name: "uplink_rejected",
                    help: "Messages to nodes that they did not take, by their code",
                    values: uplink.desk.rejected,
                },
            ],
            sinks: self.sinks(),
            parts: self.parts(),
        }
    }

    /// What sinks count. A sink that was set and has not begun yet is left out.
    fn sinks(&self) -> Vec<SinkMetric> {
        let now = clock::now();
        let standings = self.notify.board.standings();
        let of = |name, help, kind, value: &dyn Fn(&Standing) -> u64| SinkMetric {
            name,
            help,
            kind,
            values: standings
                .iter()
                .map(|(sink, standing)| (sink.clone(), value(standing)))
                .collect(),
        };
        vec![
            of(
                "sink_delivered",
                "Notices that the receiver took",
                PartKind::Counter,
                &|it| it.progress.totals.delivered,
            ),
            of(
                "sink_failed",
                "Notices that the receiver refused for good, or that were given up or lost",
                PartKind::Counter,
                &|it| it.progress.totals.failed + it.progress.totals.lost,
            ),
            of(
                "sink_pending",
                "Notices that wait for the receiver",
                PartKind::Gauge,
                &|it| it.waiting as u64,
            ),
            of(
                "sink_pending_age_seconds",
                "How long the oldest of them has waited",
                PartKind::Gauge,
                &|it| {
                    it.waiting_since
                        .map_or(0, |since| now.since(since).as_secs())
                },
            ),
            of(
                "sink_breaker_open",
                "1 where the breaker before the receiver is not closed",
                PartKind::Gauge,
                &|it| u64::from(it.breaker != BreakerState::Closed),
            ),
        ]
    }

    fn parts(&self) -> Vec<PartMetric> {
        let uplink = self.uplink.stats();
        let mut parts = engine_parts(&self.engine.stats());
        parts.extend(desk_parts(&uplink.desk));
        parts.extend(pipe_parts(&uplink.pipe));
        parts.extend(series_parts(&self.series.stats()));
        parts
    }
}

fn engine_parts(engine: &EngineStats) -> Vec<PartMetric> {
    vec![
        counter(
            "journal_commits",
            "Transactions of the journal",
            engine.commits,
        ),
        counter(
            "journal_records",
            "Records written to the journal",
            engine.records,
        ),
        counter(
            "journal_failures",
            "Transactions of the journal that failed",
            engine.failures,
        ),
        gauge(
            "engine_waiting",
            "Requests that wait for the engine",
            engine.queued,
        ),
        counter(
            "engine_busy",
            "Requests refused because too many waited",
            engine.busy,
        ),
        counter(
            "denials_counted",
            "Denials that were counted instead of recorded",
            engine.denials_counted,
        ),
    ]
}

fn desk_parts(desk: &DeskStats) -> Vec<PartMetric> {
    vec![
        counter("uplink_envelopes", "Envelopes taken from nodes", desk.taken),
        counter(
            "uplink_entries",
            "Stream entries taken from nodes",
            desk.entries,
        ),
        counter(
            "uplink_duplicates",
            "Stream entries that came again",
            desk.duplicates,
        ),
        counter(
            "alerts_shed",
            "Alerts that were not taken up, because there were too many",
            desk.alerts.shed,
        ),
        counter(
            "uplink_quarantined",
            "Stream entries that could not be decoded",
            desk.quarantined,
        ),
        counter(
            "uplink_lost",
            "Entries acknowledged before a restore that are not here",
            desk.lost,
        ),
        counter(
            "uplink_commit_failures",
            "Batches that could not be made durable",
            desk.commits_failed,
        ),
        counter("receipts_stored", "Receipts taken", desk.receipts),
    ]
}

fn pipe_parts(pipe: &PipeCounts) -> Vec<PartMetric> {
    vec![
        counter(
            "broker_deliveries",
            "Messages from nodes handed to the uplink",
            pipe.delivered,
        ),
        counter(
            "broker_shed",
            "Messages from nodes dropped because the uplink was behind",
            pipe.shed,
        ),
        counter(
            "broker_refused",
            "Messages and connections that the broker refused",
            pipe.refused,
        ),
        gauge(
            "broker_connections",
            "Nodes connected to the broker",
            pipe.connections,
        ),
    ]
}

fn series_parts(series: &SeriesStats) -> Vec<PartMetric> {
    vec![
        counter("frames_stored", "Metric frames stored", series.frames),
        counter(
            "frames_duplicate",
            "Metric frames that came twice",
            series.duplicates,
        ),
        counter(
            "frames_refused",
            "Metric frames that could not be decoded",
            series.refused,
        ),
        counter("samples_stored", "Samples stored", series.samples),
        counter(
            "series_failures",
            "Batches of frames that could not be stored",
            series.failed_batches,
        ),
        gauge(
            "series_bytes",
            "Bytes of stored metrics on disk",
            series.bytes,
        ),
        gauge("series_files", "Files of stored metrics", series.files),
        counter(
            "remote_write_samples",
            "Samples handed to the remote store",
            series.remote_sent,
        ),
        counter(
            "remote_write_dropped",
            "Samples dropped on the way to the remote store",
            series.remote_dropped,
        ),
        counter(
            "remote_write_retries",
            "Requests to the remote store that were tried again",
            series.remote_retries,
        ),
    ]
}

fn counter(name: &'static str, help: &'static str, value: u64) -> PartMetric {
    let kind = PartKind::Counter;
    PartMetric {
        name,
        help,
        kind,
        value,
    }
}

fn gauge(name: &'static str, help: &'static str, value: u64) -> PartMetric {
    let kind = PartKind::Gauge;
    PartMetric {
        name,
        help,
        kind,
        value,
    }
}
