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
use std::mem::size_of;

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

/// What one column did in ten minutes, in 48 bytes: a fleet has half a million of
/// them. Moments are relative to the bucket's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    series: SeriesId,
    label: u16,
    count: u16,
    kind: CellKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CellKind {
    Gauge {
        first: i64,
        /// Of the distances from the first: values near the end of `i64` (a limit
        /// that says 'none') add up without overflowing.
        sum_above: i64,
        min: i64,
        max: i64,
    },
    Counter {
        first: i64,
        last: i64,
        growth: u64,
        covered_ms: u32,
        first_after_ms: u32,
        last_after_ms: u32,
    },
}

const _: () = assert!(size_of::<Cell>() <= 48);

impl CellKind {
    const fn of(kind: SeriesKind, after_ms: u32, value: i64) -> Self {
        match kind {
            SeriesKind::Gauge => Self::Gauge {
                first: value,
                sum_above: 0,
                min: value,
                max: value,
            },
            SeriesKind::Counter => Self::Counter {
                first: value,
                last: value,
                growth: 0,
                covered_ms: 0,
                first_after_ms: after_ms,
                last_after_ms: after_ms,
            },
        }
    }

    fn add(&mut self, after_ms: u32, value: i64) {
        match self {
            Self::Gauge {
                first,
                sum_above,
                min,
                max,
            } => {
                *sum_above = sum_above.saturating_add(value.saturating_sub(*first));
                *min = value.min(*min);
                *max = value.max(*max);
            }
            Self::Counter {
                first,
                last,
                growth,
                covered_ms,
                first_after_ms,
                last_after_ms,
            } => {
                if after_ms > *last_after_ms && value >= *last {
                    *growth = growth.saturating_add(value.abs_diff(*last));
                    *covered_ms += after_ms - *last_after_ms;
                }
                if after_ms >= *last_after_ms {
                    (*last_after_ms, *last) = (after_ms, value);
                }
                if after_ms < *first_after_ms {
                    (*first_after_ms, *first) = (after_ms, value);
                }
            }
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
    labels: Vec<Label>,
    cells: Vec<Cell>,
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
            if !open.cells.is_empty() && open.start_ms.saturating_add(BUCKET_MS) <= before_ms {
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
        for (place, column) in frame.columns.iter().enumerate() {
            let mut known = None;
            for (slot, value) in column.values.iter().enumerate() {
                let after_ms = frame.span.slot_ms(slot).checked_sub(self.start_ms);
                let after_ms = after_ms.filter(|after_ms| *after_ms < BUCKET_MS);
                let (Some(after_ms), Some(value)) = (after_ms.map(saturated), *value) else {
                    continue;
                };
                known = known.or_else(|| self.find(place, &column.key));
                match known.and_then(|index| self.cells.get_mut(index)) {
                    Some(cell) => {
                        cell.count = cell.count.saturating_add(1);
                        cell.kind.add(after_ms, value);
                    }
                    None => {
                        let label = self.label(&column.key.label);
                        self.cells.push(Cell {
                            series: column.key.series,
                            label,
                            count: 1,
                            kind: CellKind::of(kind_of(column.key.series), after_ms, value),
                        });
                    }
                }
            }
        }
    }

    /// The cell of a key. Frames of one node have their columns in the same order
    /// nearly always, so the place in the frame is tried first.
    fn find(&self, place: usize, key: &ColumnKey) -> Option<usize> {
        let is = |cell: &Cell| {
            cell.series == key.series
                && self.labels.get(usize::from(cell.label)) == Some(&key.label)
        };
        if self.cells.get(place).is_some_and(is) {
            return Some(place);
        }
        self.cells.iter().position(is)
    }

    fn label(&mut self, label: &Label) -> u16 {
        let known = self.labels.iter().position(|known| known == label);
        let index = known.unwrap_or_else(|| {
            self.labels.push(label.clone());
            self.labels.len() - 1
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    fn close(self, node: NodeId) -> Option<Closed> {
        if self.cells.is_empty() {
            return None;
        }
        let stored = Stored {
            start_ms: self.start_ms,
            labels: self.labels.iter().map(ToString::to_string).collect(),
            columns: self.cells.iter().map(stored).collect(),
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

fn saturated(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

fn kind_of(series: SeriesId) -> SeriesKind {
    series
        .series()
        .map_or(SeriesKind::Gauge, |series| series.kind)
}

fn stored(cell: &Cell) -> StoredColumn {
    let kind = match cell.kind {
        CellKind::Gauge {
            first,
            sum_above,
            min,
            max,
        } => {
            let count = i128::from(cell.count.max(1));
            let first_above = i128::from(first) - i128::from(min);
            let mean_milli = first_above * 1_000 + i128::from(sum_above) * 1_000 / count;
            StoredKind::Gauge {
                min,
                mean_above_milli: u64::try_from(mean_milli).unwrap_or_default(),
                max_above: max.abs_diff(min),
            }
        }
        CellKind::Counter {
            first,
            last,
            growth,
            covered_ms,
            first_after_ms,
            last_after_ms,
        } => StoredKind::Counter {
            first,
            last_above: last.saturating_sub(first),
            growth,
            covered_ms: u64::from(covered_ms),
            first_after_ms,
            last_after_ms,
        },
    };
    StoredColumn {
        series: cell.series.0,
        label: cell.label,
        count: u32::from(cell.count),
        kind,
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
