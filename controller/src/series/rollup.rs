//! Ten-minute summaries, made while frames come in.
//!
//! A long question (a week of one node) reads these instead of every frame. For
//! each column and ten minutes a gauge keeps how many samples there were, their
//! least, mean and most; a counter keeps its first and last value and how far it
//! grew, so that a restart in between is not taken for growth.
//!
//! A summary is written once its ten minutes are over. Frames that come later
//! than that (backfill) make summaries of their own for the same ten minutes, and
//! a reader merges them: that is what the counts are for.
//!
//! **Invariant:** everything here can be made again from the frames; the open
//! summaries are, at start.

use std::collections::BTreeMap;

use protocol::id::NodeId;
use protocol::telemetry::Label;
use protocol::telemetry::catalogue::{SeriesId, SeriesKind};
use protocol::telemetry::frame::{ColumnKey, Frame};
use serde::{Deserialize, Serialize};

/// How much time one summary covers, in milliseconds.
pub(super) const BUCKET_MS: u64 = 600_000;

/// The version of a summary's bytes, their first byte.
const VERSION: u8 = 1;

/// Frames that end farther ahead of the controller's clock than this are of a
/// node with a wrong clock: they must not move its open summary into the future.
const AHEAD_MS_MAX: u64 = 600_000;

/// What one column did in ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) count: u32,
    pub(super) min: i64,
    pub(super) max: i64,
    /// Sum of the values, for gauges; growth, for counters.
    pub(super) sum: i128,
    /// Milliseconds that the growth covers, for counters.
    pub(super) covered_ms: u64,
    pub(super) first_ms: u64,
    pub(super) first: i64,
    pub(super) last_ms: u64,
    pub(super) last: i64,
}

impl Cell {
    const fn of(at_ms: u64, value: i64) -> Self {
        Self {
            count: 1,
            min: value,
            max: value,
            sum: 0,
            covered_ms: 0,
            first_ms: at_ms,
            first: value,
            last_ms: at_ms,
            last: value,
        }
    }

    fn add(&mut self, kind: SeriesKind, at_ms: u64, value: i64) {
        if kind == SeriesKind::Counter && at_ms > self.last_ms && value >= self.last {
            self.sum += i128::from(value) - i128::from(self.last);
            self.covered_ms += at_ms - self.last_ms;
        }
        self.count = self.count.saturating_add(1);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if at_ms >= self.last_ms {
            (self.last_ms, self.last) = (at_ms, value);
        }
        if at_ms < self.first_ms {
            (self.first_ms, self.first) = (at_ms, value);
        }
    }
}

/// One summary of one node as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored {
    start_ms: u64,
    labels: Vec<String>,
    columns: Vec<StoredColumn>,
}

/// A column in few bytes: moments relative to the start, levels to the least.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StoredColumn {
    series: u16,
    label: u16,
    count: u32,
    kind: StoredKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum StoredKind {
    /// The mean in thousandths of a step, so that a small count keeps its fraction.
    Gauge {
        min: i64,
        mean_above_milli: u64,
        max_above: u64,
    },
    Counter {
        first: i64,
        last_above: i64,
        growth: u64,
        covered_ms: u64,
        first_after_ms: u32,
        last_after_ms: u32,
    },
}

/// A summary as it is read back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) start_ms: u64,
    pub(super) columns: Vec<(ColumnKey, Summed)>,
}

/// What a summary says of one column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Summed {
    Gauge {
        count: u32,
        min: i64,
        mean: f64,
        max: i64,
    },
    Counter {
        count: u32,
        first_ms: u64,
        first: i64,
        last_ms: u64,
        last: i64,
        growth: u64,
        covered_ms: u64,
    },
}

/// A summary that is complete and wants to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Closed {
    pub(super) node: NodeId,
    pub(super) start_ms: u64,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Bucket {
    start_ms: u64,
    columns: BTreeMap<ColumnKey, Cell>,
}

/// The open summaries of the fleet.
#[derive(Debug, Default)]
pub(super) struct Rollups {
    open: BTreeMap<NodeId, Bucket>,
}

impl Rollups {
    /// Takes in a frame, and gives the summaries that this completes.
    pub(super) fn take_in(&mut self, node: NodeId, frame: &Frame, now_ms: u64) -> Vec<Closed> {
        let mut closed = Vec::new();
        let open = self.open.entry(node).or_default();
        let ahead = frame.span.end_ms() > now_ms.saturating_add(AHEAD_MS_MAX);
        let first = frame.span.start_ms / BUCKET_MS;
        let last = frame
            .span
            .end_ms()
            .saturating_sub(1)
            .max(frame.span.start_ms)
            / BUCKET_MS;
        for number in first..=last {
            let start_ms = number * BUCKET_MS;
            if ahead || start_ms < open.start_ms {
                let mut late = Bucket {
                    start_ms,
                    ..Bucket::default()
                };
                late.take_in(frame);
                closed.extend(late.close(node));
                continue;
            }
            if start_ms > open.start_ms {
                closed.extend(std::mem::take(open).close(node));
                open.start_ms = start_ms;
            }
            open.take_in(frame);
        }
        closed
    }

    /// Takes in again, at start, what lies at or after `from_ms`: all before it
    /// is in summaries already written.
    pub(super) fn take_in_again(
        &mut self,
        node: NodeId,
        frame: &Frame,
        from_ms: u64,
        now_ms: u64,
    ) -> Vec<Closed> {
        let open = self.open.entry(node).or_default();
        open.start_ms = open.start_ms.max(from_ms);
        let mut closed = self.take_in(node, frame, now_ms);
        closed.retain(|closed| closed.start_ms >= from_ms);
        closed
    }

    /// From where on the node's samples are in no summary yet.
    pub(super) fn open_since(&self, node: NodeId) -> Option<u64> {
        self.open.get(&node).map(|open| open.start_ms)
    }

    /// Closes what began longer ago than a node stays silent in the normal course.
    pub(super) fn close_before(&mut self, before_ms: u64) -> Vec<Closed> {
        let mut closed = Vec::new();
        for (node, open) in &mut self.open {
            if !open.columns.is_empty() && open.start_ms.saturating_add(BUCKET_MS) <= before_ms {
                let start_ms = open.start_ms;
                closed.extend(std::mem::take(open).close(*node));
                // What comes for the same ten minutes from here on is late.
                open.start_ms = start_ms + BUCKET_MS;
            }
        }
        closed
    }

    pub(super) fn forget(&mut self, node: NodeId) -> Option<Closed> {
        self.open
            .remove(&node)
            .and_then(|bucket| bucket.close(node))
    }
}

impl Bucket {
    fn take_in(&mut self, frame: &Frame) {
        let end_ms = self.start_ms.saturating_add(BUCKET_MS);
        for column in &frame.columns {
            let kind = kind_of(column.key.series);
            for (slot, value) in column.values.iter().enumerate() {
                let at_ms = frame.span.slot_ms(slot);
                let Some(value) = value.filter(|_| at_ms >= self.start_ms && at_ms < end_ms) else {
                    continue;
                };
                match self.columns.get_mut(&column.key) {
                    Some(cell) => cell.add(kind, at_ms, value),
                    None => {
                        self.columns
                            .insert(column.key.clone(), Cell::of(at_ms, value));
                    }
                }
                if let Some(cell) = self
                    .columns
                    .get_mut(&column.key)
                    .filter(|_| kind == SeriesKind::Gauge)
                {
                    cell.sum += i128::from(value);
                }
            }
        }
    }

    fn close(self, node: NodeId) -> Option<Closed> {
        if self.columns.is_empty() {
            return None;
        }
        let mut labels: Vec<String> = Vec::new();
        let mut columns = Vec::with_capacity(self.columns.len());
        for (key, cell) in &self.columns {
            if labels
                .last()
                .is_none_or(|label| label != key.label.as_str())
            {
                labels.push(key.label.as_str().to_owned());
            }
            columns.push(StoredColumn {
                series: key.series.0,
                label: u16::try_from(labels.len() - 1).unwrap_or(u16::MAX),
                count: cell.count,
                kind: stored(kind_of(key.series), cell, self.start_ms),
            });
        }
        let stored = Stored {
            start_ms: self.start_ms,
            labels,
            columns,
        };
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&protocol::message::encode(&stored));
        Some(Closed {
            node,
            start_ms: self.start_ms,
            bytes,
        })
    }
}

fn kind_of(series: SeriesId) -> SeriesKind {
    series
        .series()
        .map_or(SeriesKind::Gauge, |series| series.kind)
}

fn stored(kind: SeriesKind, cell: &Cell, start_ms: u64) -> StoredKind {
    let after = |at_ms: u64| u32::try_from(at_ms.saturating_sub(start_ms)).unwrap_or(u32::MAX);
    match kind {
        SeriesKind::Gauge => {
            let (min, count) = (i128::from(cell.min), i128::from(cell.count.max(1)));
            let above = |value: i128| u64::try_from(value).unwrap_or(u64::MAX);
            StoredKind::Gauge {
                min: cell.min,
                mean_above_milli: above((cell.sum - min * count).saturating_mul(1_000) / count),
                max_above: above(i128::from(cell.max) - min),
            }
        }
        SeriesKind::Counter => StoredKind::Counter {
            first: cell.first,
            last_above: cell.last.saturating_sub(cell.first),
            growth: u64::try_from(cell.sum).unwrap_or_default(),
            covered_ms: cell.covered_ms,
            first_after_ms: after(cell.first_ms),
            last_after_ms: after(cell.last_ms),
        },
    }
}

/// Reads a stored summary; `None` for damage or a newer version.
#[expect(
    clippy::cast_precision_loss,
    reason = "a mean is shown with a few digits"
)]
pub(super) fn read(bytes: &[u8]) -> Option<Summary> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let stored: Stored = protocol::message::decode_exactly(rest).ok()?;
    let labels: Vec<Label> = stored.labels.iter().map(|text| Label::fit(text)).collect();
    let columns = stored
        .columns
        .into_iter()
        .filter_map(|column| {
            let key = ColumnKey {
                label: labels.get(usize::from(column.label))?.clone(),
                series: SeriesId(column.series),
            };
            let summed = match column.kind {
                StoredKind::Gauge {
                    min,
                    mean_above_milli,
                    max_above,
                } => Summed::Gauge {
                    count: column.count,
                    min,
                    mean: min as f64 + mean_above_milli as f64 / 1_000.0,
                    max: min.saturating_add_unsigned(max_above),
                },
                StoredKind::Counter {
                    first,
                    last_above,
                    growth,
                    covered_ms,
                    first_after_ms,
                    last_after_ms,
                } => Summed::Counter {
                    count: column.count,
                    first_ms: stored.start_ms.saturating_add(u64::from(first_after_ms)),
                    first,
                    last_ms: stored.start_ms.saturating_add(u64::from(last_after_ms)),
                    last: first.saturating_add(last_above),
                    growth,
                    covered_ms,
                },
            };
            Some((key, summed))
        })
        .collect();
    Some(Summary {
        start_ms: stored.start_ms,
        columns,
    })
}
