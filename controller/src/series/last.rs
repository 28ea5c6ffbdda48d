//! The newest value of every series of every node, and its rate where it counts.
//!
//! Answers 'how is the fleet now' without touching a file. Labels are kept once a
//! node, values in 32 bytes each: about 2.5 KB for a node with 60 columns.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::id::NodeId;
use protocol::telemetry::Label;
use protocol::telemetry::catalogue::{Series, SeriesId, SeriesKind};
use protocol::telemetry::frame::{ColumnKey, Frame};
use protocol::time::UnixMillis;

/// Columns remembered for a node. A frame may carry as many; names that change
/// for ever (containers) push out the oldest.
const COLUMNS_MAX: usize = 1_024;

/// Two samples farther apart say nothing of the rate between them.
const RATE_GAP_MAX: Duration = Duration::from_secs(35 * 60);

/// Values older than this are no answer to 'now' when nodes are compared.
const FRESH: Duration = Duration::from_secs(5 * 60);

/// The newest value of one series and label.
#[derive(Debug, Clone, PartialEq)]
pub struct LastValue {
    /// Which series.
    pub series: SeriesId,
    /// Which device, interface, …
    pub label: Label,
    /// The value in the series' unit.
    pub value: f64,
    /// Growth per second over the newest frame, for counters; none before two
    /// samples, and across a restart of the counter.
    pub rate: Option<f64>,
    /// When it was measured, in the controller's time.
    pub at: UnixMillis,
}

/// One line of a comparison of nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct TopRow {
    /// The node.
    pub node: NodeId,
    /// Which device, interface, …
    pub label: Label,
    /// The value in the series' unit; for counters its growth per second.
    pub value: f64,
    /// When it was measured.
    pub at: UnixMillis,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    series: SeriesId,
    label: u16,
    /// Steps per second; NaN is none.
    rate: f32,
    value: i64,
    at_ms: u64,
}

#[derive(Debug, Default)]
struct Node {
    labels: Vec<Label>,
    cells: Vec<Cell>,
}

/// The newest values of the fleet.
#[derive(Debug, Default)]
pub(super) struct Last {
    nodes: BTreeMap<NodeId, Node>,
}

impl Last {
    /// Takes in a frame. Older values than those known change nothing.
    pub(super) fn take_in(&mut self, node: NodeId, frame: &Frame) {
        let known = self.nodes.entry(node).or_default();
        for (place, column) in frame.columns.iter().enumerate() {
            let values = || {
                column
                    .values
                    .iter()
                    .enumerate()
                    .filter_map(|(slot, value)| Some((frame.span.slot_ms(slot), (*value)?)))
            };
            let Some((at_ms, value)) = values().next_back() else {
                continue;
            };
            let earlier = values().rev().nth(1);
            known.put(place, &column.key, (at_ms, value), earlier);
        }
        known.bound();
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub(super) fn of(&self, node: NodeId) -> Vec<LastValue> {
        let Some(known) = self.nodes.get(&node) else {
            return Vec::new();
        };
        let mut values: Vec<LastValue> = known
            .cells
            .iter()
            .filter_map(|cell| {
                let series = cell.series.series();
                Some(LastValue {
                    series: cell.series,
                    label: known.labels.get(usize::from(cell.label))?.clone(),
                    value: series?.scaled(cell.value),
                    rate: rate_of(cell, series?),
                    at: UnixMillis(cell.at_ms),
                })
            })
            .collect();
        values.sort_by(|a, b| (a.series, &a.label).cmp(&(b.series, &b.label)));
        values
    }

    /// The highest values of a series over the nodes that `keep` keeps.
    pub(super) fn top(
        &self,
        series: &Series,
        count: usize,
        now: UnixMillis,
        keep: impl Fn(NodeId) -> bool,
    ) -> Vec<TopRow> {
        let oldest = now.before(FRESH).0;
        let mut rows: Vec<TopRow> = self
            .nodes
            .iter()
            .filter(|(node, _)| keep(**node))
            .flat_map(|(node, known)| {
                known
                    .cells
                    .iter()
                    .filter(|cell| cell.series == series.id && cell.at_ms >= oldest)
                    .filter_map(|cell| {
                        let value = match series.kind {
                            SeriesKind::Gauge => Some(series.scaled(cell.value)),
                            SeriesKind::Counter => rate_of(cell, series),
                        };
                        Some(TopRow {
                            node: *node,
                            label: known.labels.get(usize::from(cell.label))?.clone(),
                            value: value?,
                            at: UnixMillis(cell.at_ms),
                        })
                    })
            })
            .collect();
        rows.sort_by(|a, b| {
            b.value
                .total_cmp(&a.value)
                .then_with(|| (a.node, &a.label).cmp(&(b.node, &b.label)))
        });
        rows.truncate(count);
        rows
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

fn rate_of(cell: &Cell, series: &Series) -> Option<f64> {
    (series.kind == SeriesKind::Counter && cell.rate.is_finite())
        .then(|| f64::from(cell.rate) * series.scale)
}

impl Node {
    /// `place` is where the column stands in its frame: frames of one node have
    /// the same order nearly always, so it is tried first.
    fn put(
        &mut self,
        place: usize,
        key: &ColumnKey,
        (at_ms, value): (u64, i64),
        earlier: Option<(u64, i64)>,
    ) {
        let (series, label) = (key.series, self.label(&key.label));
        let is = |cell: &Cell| cell.series == series && cell.label == label;
        let index = if self.cells.get(place).is_some_and(is) {
            Some(place)
        } else {
            self.cells.iter().position(is)
        };
        let found = index.and_then(|index| self.cells.get_mut(index));
        let before = found.as_ref().map(|cell| (cell.at_ms, cell.value));
        if before.is_some_and(|(known_ms, _)| known_ms > at_ms) {
            return;
        }
        // Within a frame the step just before is the freshest rate; a frame of
        // one sample is measured against the one before it.
        let rate = earlier
            .or(before)
            .and_then(|(then_ms, then)| rate(then_ms, then, at_ms, value));
        let cell = Cell {
            series,
            label,
            rate: rate.unwrap_or(f32::NAN),
            value,
            at_ms,
        };
        match found {
            Some(known) => *known = cell,
            None => self.cells.push(cell),
        }
    }

    fn label(&mut self, label: &Label) -> u16 {
        let index = self
            .labels
            .iter()
            .position(|known| known == label)
            .unwrap_or_else(|| {
                self.labels.push(label.clone());
                self.labels.len() - 1
            });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// Drops the oldest columns beyond the bound, and the labels they alone had.
    fn bound(&mut self) {
        if self.cells.len() <= COLUMNS_MAX {
            return;
        }
        self.cells.sort_by_key(|cell| std::cmp::Reverse(cell.at_ms));
        self.cells.truncate(COLUMNS_MAX);
        let labels = std::mem::take(&mut self.labels);
        let mut cells = std::mem::take(&mut self.cells);
        for cell in &mut cells {
            if let Some(label) = labels.get(usize::from(cell.label)) {
                cell.label = self.label(label);
            }
        }
        self.cells = cells;
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a rate is shown with a few digits; f32 holds seven"
)]
fn rate(then_ms: u64, then: i64, at_ms: u64, value: i64) -> Option<f32> {
    let elapsed_ms = at_ms.checked_sub(then_ms).filter(|elapsed| *elapsed > 0)?;
    let near = elapsed_ms <= protocol::time::millis(RATE_GAP_MAX);
    let growth = value
        .checked_sub(then)
        .filter(|growth| *growth >= 0 && near)?;
    Some((growth as f64 * 1_000.0 / elapsed_ms as f64) as f32)
}
