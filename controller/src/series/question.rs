//! From samples to the points of an answer: pure.
//!
//! A gauge's point is the mean, least and most of the samples in its step. A
//! counter's is its growth per second: each pair of neighbouring samples adds its
//! growth to the step in which the later one lies. A pair too far apart is a gap,
//! a pair that falls is a restart, and neither is guessed over. A step without
//! anything is a gap, never a zero.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::id::NodeId;
use protocol::telemetry::Label;
use protocol::telemetry::catalogue::{Series, SeriesKind};
use protocol::telemetry::frame::Frame;
use protocol::time::UnixMillis;

use super::rollup::{BUCKET_MS, Summary, Summed};

/// Points that one answer may have on each line.
pub const POINTS_MAX: u64 = 11_000;

/// Samples of a counter that are farther apart than this many intervals have a
/// gap between them.
const GAP_INTERVALS: u64 = 3;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whose.
    pub node: NodeId,
    /// Which series.
    pub series: &'static Series,
    /// Only this device, interface, …; all of them when absent.
    pub label: Option<String>,
    /// From here on.
    pub from: UnixMillis,
    /// Up to here, not included.
    pub to: UnixMillis,
    /// Time that one point covers.
    pub step: Duration,
}

/// The answer for one label.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which device, interface, …
    pub label: Label,
    /// One for each step of the range.
    pub points: Vec<Point>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When the step begins.
    pub at: UnixMillis,
    /// What was measured in it; none is a gap.
    pub value: Option<Value>,
}

/// What was measured in a step, in the series' unit (per second for counters).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// Gathers frames and summaries in any order, and answers.
#[derive(Debug)]
pub(super) struct Gathering<'a> {
    query: &'a Query,
    step_ms: u64,
    samples: BTreeMap<Label, BTreeMap<u64, Sample>>,
    summed: BTreeMap<Label, BTreeMap<u64, Vec<Summed>>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    value: i64,
    interval_ms: u64,
}

impl<'a> Gathering<'a> {
    pub(super) fn new(query: &'a Query) -> Self {
        Self {
            query,
            step_ms: protocol::time::millis(query.step).max(1),
            samples: BTreeMap::new(),
            summed: BTreeMap::new(),
        }
    }

    /// How far before the range samples are of use: a counter's growth in the
    /// first step begins with the sample before it.
    pub(super) const fn lead_ms() -> u64 {
        2 * BUCKET_MS
    }

    /// Takes the samples from `from_ms` on: those before it came by a summary.
    pub(super) fn frame(&mut self, frame: &Frame, from_ms: u64) {
        let wanted = frame
            .columns
            .iter()
            .filter(|column| column.key.series == self.query.series.id);
        for column in wanted.filter(|column| wants(self.query, &column.key.label)) {
            let line = self.samples.entry(column.key.label.clone()).or_default();
            for (slot, value) in column.values.iter().enumerate() {
                let at_ms = frame.span.slot_ms(slot);
                if let Some(value) = value.filter(|_| at_ms >= from_ms && at_ms < self.query.to.0) {
                    let interval_ms = u64::from(frame.span.interval_ms);
                    // Where a fine and a coarse frame tell of one moment, the finer is right.
                    let sample = line.entry(at_ms).or_insert(Sample { value, interval_ms });
                    if interval_ms < sample.interval_ms {
                        *sample = Sample { value, interval_ms };
                    }
                }
            }
        }
    }

    pub(super) fn summary(&mut self, summary: &Summary) {
        let wanted = summary
            .columns
            .iter()
            .filter(|(key, _)| key.series == self.query.series.id);
        for (key, summed) in wanted.filter(|(key, _)| wants(self.query, &key.label)) {
            let line = self.summed.entry(key.label.clone()).or_default();
            line.entry(summary.start_ms).or_default().push(*summed);
        }
    }

    pub(super) fn answer(self) -> Vec<Line> {
        let labels: std::collections::BTreeSet<&Label> =
            self.samples.keys().chain(self.summed.keys()).collect();
        let mut lines = Vec::with_capacity(labels.len());
        for label in labels {
            let mut steps = Steps::new(self.query, self.step_ms);
            if let Some(samples) = self.samples.get(label) {
                steps.samples(samples);
            }
            if let Some(summed) = self.summed.get(label) {
                steps.summaries(summed);
            }
            let points = steps.points();
            if points.iter().any(|point| point.value.is_some()) {
                lines.push(Line {
                    label: label.clone(),
                    points,
                });
            }
        }
        lines
    }
}

fn wants(query: &Query, label: &Label) -> bool {
    query
        .label
        .as_deref()
        .is_none_or(|wanted| wanted == label.as_str())
}

/// What a step has gathered: weights are samples for gauges, milliseconds for
/// counters.
#[derive(Debug, Clone, Copy)]
struct Step {
    weight: f64,
    sum: f64,
    min: f64,
    max: f64,
}

struct Steps<'a> {
    query: &'a Query,
    step_ms: u64,
    steps: Vec<Option<Step>>,
}

impl<'a> Steps<'a> {
    fn new(query: &'a Query, step_ms: u64) -> Self {
        let count = query
            .to
            .0
            .saturating_sub(query.from.0)
            .div_ceil(step_ms)
            .min(POINTS_MAX);
        Self {
            query,
            step_ms,
            steps: vec![None; usize::try_from(count).unwrap_or_default()],
        }
    }

    fn add(&mut self, at_ms: u64, weight: f64, mean: f64, min: f64, max: f64) {
        let Some(offset) = at_ms.checked_sub(self.query.from.0) else {
            return;
        };
        let index = usize::try_from(offset / self.step_ms).unwrap_or(usize::MAX);
        let Some(step) = self.steps.get_mut(index) else {
            return;
        };
        let known = step.get_or_insert(Step {
            weight: 0.0,
            sum: 0.0,
            min,
            max,
        });
        known.weight += weight;
        known.sum += weight * mean;
        known.min = known.min.min(min);
        known.max = known.max.max(max);
    }

    fn samples(&mut self, samples: &BTreeMap<u64, Sample>) {
        match self.query.series.kind {
            SeriesKind::Gauge => {
                for (at_ms, sample) in samples {
                    let value = self.query.series.scaled(sample.value);
                    self.add(*at_ms, 1.0, value, value, value);
                }
            }
            SeriesKind::Counter => {
                for ((then_ms, then), (at_ms, sample)) in samples.iter().zip(samples.iter().skip(1))
                {
                    let interval_ms = then.interval_ms.max(sample.interval_ms);
                    self.growth((*then_ms, then.value), (*at_ms, sample.value), interval_ms);
                }
            }
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds and growths are shown with a few digits"
    )]
    fn growth(
        &mut self,
        (then_ms, then): (u64, i64),
        (at_ms, value): (u64, i64),
        interval_ms: u64,
    ) {
        let elapsed_ms = at_ms.saturating_sub(then_ms);
        let growth = value.checked_sub(then).filter(|growth| *growth >= 0);
        let near = elapsed_ms > 0 && elapsed_ms <= interval_ms.saturating_mul(GAP_INTERVALS);
        if let Some(growth) = growth.filter(|_| near) {
            let rate = self.query.series.scaled(growth) * 1_000.0 / elapsed_ms as f64;
            self.add(at_ms, elapsed_ms as f64, rate, rate, rate);
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds and growths are shown with a few digits"
    )]
    fn summaries(&mut self, summaries: &BTreeMap<u64, Vec<Summed>>) {
        let series = self.query.series;
        let mut before: Option<(u64, i64)> = None;
        for (start_ms, parts) in summaries {
            let mut parts = parts.clone();
            parts.sort_by_key(|part| match part {
                Summed::Counter { first_ms, .. } => *first_ms,
                Summed::Gauge { .. } => 0,
            });
            for part in parts {
                match part {
                    Summed::Gauge {
                        count,
                        min,
                        mean,
                        max,
                    } => {
                        self.add(
                            *start_ms,
                            f64::from(count),
                            mean * series.scale,
                            series.scaled(min),
                            series.scaled(max),
                        );
                    }
                    Summed::Counter {
                        count,
                        first_ms,
                        first,
                        last_ms,
                        last,
                        growth,
                        covered_ms,
                    } => {
                        // One sample in ten minutes is of the coarsest tier.
                        let interval_ms = if count == 1 { BUCKET_MS } else { 60_000 };
                        if let Some(before) = before {
                            self.growth(before, (first_ms, first), interval_ms);
                        }
                        if covered_ms > 0 {
                            let rate = growth as f64 * series.scale * 1_000.0 / covered_ms as f64;
                            self.add(*start_ms, covered_ms as f64, rate, rate, rate);
                        }
                        before = Some((last_ms, last));
                    }
                }
            }
        }
    }

    fn points(&self) -> Vec<Point> {
        self.steps
            .iter()
            .enumerate()
            .map(|(index, step)| Point {
                at: UnixMillis(
                    self.query
                        .from
                        .0
                        .saturating_add(index as u64 * self.step_ms),
                ),
                value: step.filter(|step| step.weight > 0.0).map(|step| Value {
                    mean: step.sum / step.weight,
                    min: step.min,
                    max: step.max,
                }),
            })
            .collect()
    }
}
