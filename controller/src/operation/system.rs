//! The controller itself.

use super::view::system::{StatusView, SupportView};
use super::{Operations, Who};
use crate::operation::failure::Failure;
use crate::telemetry::{Gauges, PartKind, PartMetric};
use crate::uplink::Link;

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

    /// What the metrics show of the parts.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let fleet = self.engine.fleet();
        let active = fleet.nodes().filter(|node| node.is_active()).count() as u64;
        let uplink = self.uplink.stats();
        let (up, heard) = (uplink.nodes_up as u64, uplink.nodes_heard as u64);
        Gauges {
            nodes: vec![
                ("up", up),
                ("down", heard.saturating_sub(up)),
                ("unheard", active.saturating_sub(heard)),
            ],
            commands_open: fleet.commands().open().count() as u64,
            journal_sequence: fleet.seq(),
            healthy: Vec::new(),
            parts: self.parts(),
        }
    }

    fn parts(&self) -> Vec<PartMetric> {
        use PartKind::{Counter, Gauge};
        let engine = self.engine.stats();
        let uplink = self.uplink.stats();
        let series = self.series.stats();
        let refused = uplink.desk.refused.values().sum();
        [
            (
                "journal_commits",
                "Transactions of the journal",
                Counter,
                engine.commits,
            ),
            (
                "journal_records",
                "Records written to the journal",
                Counter,
                engine.records,
            ),
            (
                "journal_failures",
                "Transactions of the journal that failed",
                Counter,
                engine.failures,
            ),
            (
                "engine_waiting",
                "Requests that wait for the engine",
                Gauge,
                engine.queued,
            ),
            (
                "engine_busy",
                "Requests refused because too many waited",
                Counter,
                engine.busy,
            ),
            (
                "denials_counted",
                "Denials that were counted instead of recorded",
                Counter,
                engine.denials_counted,
            ),
            (
                "uplink_envelopes",
                "Envelopes taken from nodes",
                Counter,
                uplink.desk.taken,
            ),
            (
                "uplink_entries",
                "Stream entries taken from nodes",
                Counter,
                uplink.desk.entries,
            ),
            (
                "uplink_duplicates",
                "Stream entries that came again",
                Counter,
                uplink.desk.duplicates,
            ),
            (
                "uplink_gaps",
                "Uploads dropped because one before them is missing",
                Counter,
                uplink.desk.gaps,
            ),
            (
                "uplink_quarantined",
                "Stream entries that could not be decoded",
                Counter,
                uplink.desk.quarantined,
            ),
            (
                "uplink_lost",
                "Entries acknowledged before a restore that are not here",
                Counter,
                uplink.desk.lost,
            ),
            (
                "uplink_replayed",
                "Envelopes heard before",
                Counter,
                uplink.desk.replayed,
            ),
            ("uplink_refused", "Messages refused", Counter, refused),
            (
                "uplink_commit_failures",
                "Batches that could not be made durable",
                Counter,
                uplink.desk.commits_failed,
            ),
            (
                "receipts_stored",
                "Receipts taken",
                Counter,
                uplink.desk.receipts,
            ),
            (
                "broker_deliveries",
                "Messages from nodes handed to the uplink",
                Counter,
                uplink.pipe.delivered,
            ),
            (
                "broker_shed",
                "Messages from nodes dropped because the uplink was behind",
                Counter,
                uplink.pipe.shed,
            ),
            (
                "broker_refused",
                "Messages and connections that the broker refused",
                Counter,
                uplink.pipe.refused,
            ),
            (
                "broker_connections",
                "Nodes connected to the broker",
                Gauge,
                uplink.pipe.connections,
            ),
            (
                "frames_stored",
                "Metric frames stored",
                Counter,
                series.frames,
            ),
            (
                "frames_duplicate",
                "Metric frames that came twice",
                Counter,
                series.duplicates,
            ),
            (
                "frames_refused",
                "Metric frames that could not be decoded",
                Counter,
                series.refused,
            ),
            ("samples_stored", "Samples stored", Counter, series.samples),
            (
                "series_failures",
                "Batches of frames that could not be stored",
                Counter,
                series.failed_batches,
            ),
            (
                "series_bytes",
                "Bytes of stored metrics on disk",
                Gauge,
                series.bytes,
            ),
            (
                "series_files",
                "Files of stored metrics",
                Gauge,
                series.files,
            ),
            (
                "remote_write_samples",
                "Samples handed to the remote store",
                Counter,
                series.remote_sent,
            ),
            (
                "remote_write_dropped",
                "Samples dropped on the way to the remote store",
                Counter,
                series.remote_dropped,
            ),
            (
                "remote_write_retries",
                "Requests to the remote store that were tried again",
                Counter,
                series.remote_retries,
            ),
        ]
        .into_iter()
        .map(|(name, help, kind, value)| PartMetric {
            name,
            help,
            kind,
            value,
        })
        .collect()
    }
}
