//! Metrics of nodes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::telemetry::catalogue::{CATALOGUE, Series as Entry, SeriesKind};
use protocol::time::millis;
use tokio::sync::broadcast::error::RecvError;

use super::view::Stamp;
use super::view::series::{
    Catalogue, LastValues, PointView, QuerySeries, SeriesAnswer, SeriesLine, SeriesView, TopAnswer,
    TopRow, TopSeries, ValueView,
};
use super::{Lines, Operations, Who};
use crate::clock;
use crate::operation::failure::Failure;
use crate::series::Query;

/// How far back a query goes unless the caller says otherwise.
const QUERY_SPAN: Duration = Duration::from_secs(3600);

/// Points of a query unless the caller says otherwise.
const QUERY_POINTS: u64 = 60;

/// Most points of a query; a year in steps of ten minutes.
const QUERY_POINTS_MAX: u64 = 60_000;

/// How long live values flow before the reader must ask again: a forgotten
/// terminal must not cost a node its bandwidth for ever.
const LIVE_SPAN: Duration = Duration::from_secs(600);

/// Distance of live values.
const LIVE_INTERVAL_MS: u32 = 1000;

impl Operations {
    /// Every series that exists.
    ///
    /// # Errors
    /// When it is denied.
    pub fn catalogue(&self, who: &Who) -> Result<Catalogue, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("metrics", "read"))?;
        let mut series: Vec<_> = CATALOGUE
            .iter()
            .map(|entry| SeriesView {
                name: entry.name.to_owned(),
                unit: entry.unit.symbol().to_owned(),
                kind: kind(entry).to_owned(),
                help: entry.summary.to_owned(),
            })
            .collect();
        series.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Catalogue { series })
    }

    /// A node's last values; counters as a rate per second.
    ///
    /// # Errors
    /// When it is denied, or there is no such node.
    pub fn last_values(&self, who: &Who, node: &str) -> Result<LastValues, Failure> {
        let fleet = self.engine.fleet();
        let node = self.visible_node(who, &fleet, node, ("metrics", "read"))?;
        Ok(self.values(node.id, node.name.clone()))
    }

    fn values(&self, node: NodeId, name: String) -> LastValues {
        let mut values: Vec<_> = self
            .series
            .last(node)
            .into_iter()
            .filter_map(|last| {
                let entry = last.series.series()?;
                let value = match entry.kind {
                    SeriesKind::Gauge => last.value,
                    SeriesKind::Counter => last.rate?,
                };
                Some(ValueView {
                    series: entry.name.to_owned(),
                    of: last.label.as_str().to_owned(),
                    unit: unit(entry),
                    value,
                    at: last.at.into(),
                })
            })
            .collect();
        values.sort_by(|a, b| (&a.series, &a.of).cmp(&(&b.series, &b.of)));
        LastValues { node, name, values }
    }

    /// Nodes with the highest last value, among those that the caller may see.
    ///
    /// # Errors
    /// When it is denied, or there is no such series.
    pub fn top_series(&self, who: &Who, asked: &TopSeries) -> Result<TopAnswer, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("metrics", "read"))?;
        let entry = find_series(&asked.series)?;
        let count = usize::try_from(asked.limit.unwrap_or(10).clamp(1, 1000)).unwrap_or(10);
        let keep = |id| {
            fleet
                .node(id)
                .is_some_and(|node| !node.has_left() && reach.covers(node))
        };
        let rows = self.series.top(entry, count, clock::now(), keep);
        Ok(TopAnswer {
            series: entry.name.to_owned(),
            unit: unit(entry),
            rows: rows
                .into_iter()
                .map(|row| TopRow {
                    node: row.node,
                    name: super::command::node_name(&fleet, row.node),
                    of: row.label.as_str().to_owned(),
                    value: row.value,
                    at: row.at.into(),
                })
                .collect(),
        })
    }

    /// A node's series over time.
    ///
    /// # Errors
    /// When it is denied, there is no such node or series, or too much is asked.
    pub async fn query_series(
        &self,
        who: &Who,
        node: &str,
        asked: &QuerySeries,
    ) -> Result<SeriesAnswer, Failure> {
        let fleet = self.engine.fleet();
        let node = self.visible_node(who, &fleet, node, ("metrics", "read"))?;
        let entry = find_series(&asked.series)?;
        let now = clock::now();
        let Stamp(to) = asked.to.unwrap_or(Stamp(now));
        let Stamp(from) = asked.from.unwrap_or(Stamp(to.before(QUERY_SPAN)));
        let span_ms = millis(to.since(from));
        let step_ms = asked.step_ms.unwrap_or(span_ms / QUERY_POINTS).max(1000);
        if span_ms == 0 || span_ms / step_ms > QUERY_POINTS_MAX {
            return Err(Failure::new(
                ErrorCode::RequestInvalid,
                format!(
                    "{span_ms} ms in steps of {step_ms} ms are not 1 to {QUERY_POINTS_MAX} points"
                ),
            ));
        }
        let query = Query {
            node: node.id,
            series: entry,
            label: None,
            from,
            to,
            step: Duration::from_millis(step_ms),
        };
        let lines = self.series.query(query).await.map_err(|error| {
            Failure::fault(
                error.code(),
                format!("{} cannot be read", entry.name),
                &error,
            )
        })?;
        Ok(SeriesAnswer {
            node: node.id,
            name: node.name.clone(),
            series: entry.name.to_owned(),
            unit: unit(entry),
            step_ms,
            lines: lines
                .into_iter()
                .map(|line| SeriesLine {
                    of: line.label.as_str().to_owned(),
                    points: line
                        .points
                        .into_iter()
                        .map(|point| PointView {
                            at: point.at.into(),
                            value: point.value.map(|value| value.mean),
                        })
                        .collect(),
                })
                .collect(),
        })
    }

    /// A node's values as they are measured.
    ///
    /// # Errors
    /// When it is denied, there is no such node, or its link is down.
    pub fn live_values(
        self: Arc<Self>,
        who: &Who,
        node: &str,
    ) -> Result<Lines<LastValues>, Failure> {
        let fleet = self.engine.fleet();
        let node = self.visible_node(who, &fleet, node, ("metrics", "live"))?;
        let (id, name) = (node.id, node.name.clone());
        let frames = self.series.watch_live();
        let until = clock::now().after(LIVE_SPAN);
        self.uplink
            .live(id, until, LIVE_INTERVAL_MS)
            .map_err(|error| Failure::new(error.code(), error.to_string()))?;
        let watching = Watching {
            operations: self,
            node: id,
        };
        let state = (watching, frames, name);
        let lines = unfold(state, move |(watching, mut frames, name)| async move {
            loop {
                if clock::now() >= until {
                    return None;
                }
                match frames.recv().await {
                    Ok(frame) if frame.node == id => {
                        let values = watching.operations.values(id, name.clone());
                        return Some((values, (watching, frames, name)));
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Box::pin(lines))
    }
}

/// Ends the live mode when its reader goes.
struct Watching {
    operations: Arc<Operations>,
    node: NodeId,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.operations.uplink.end_live(self.node);
    }
}

fn find_series(name: &str) -> Result<&'static Entry, Failure> {
    Entry::by_name(name).ok_or_else(|| {
        Failure::new(
            ErrorCode::SeriesUnknown,
            format!("there is no series {name:?}; `flotilla metrics --list` shows all"),
        )
    })
}

fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        SeriesKind::Gauge => "gauge",
        SeriesKind::Counter => "counter",
    }
}

/// The unit of what is shown: counters are shown as rates.
fn unit(entry: &Entry) -> String {
    match entry.kind {
        SeriesKind::Gauge => entry.unit.symbol().to_owned(),
        SeriesKind::Counter => format!("{}/s", entry.unit.symbol()),
    }
}
