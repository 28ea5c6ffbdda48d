//! What the value of an expression is in a set of samples.
//!
//! A level needs one set, a rate and a share of time two. A counter that fell (its
//! owner started again) or whose last value is older than a gap has no reading for
//! one set: it is unknown, which is neither true nor false.

use core::time::Duration;
use std::collections::BTreeMap;

use super::expression::{
    CPU_IDLE_MODES, CPU_MODES, Expression, Join, Kind, Source, Test, Threshold, Value, Whole,
};
use super::watch::LABELS_MAX;
use crate::telemetry::catalogue::SeriesId;
use crate::telemetry::{Label, Sample, SampleSet};
use crate::time::UnixMillis;

/// A reading of one label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reading {
    /// In the threshold's unit.
    Known(f64),
    /// The series is there, and there is nothing to compare yet.
    Unknown,
}

/// The counters of the last set, as far as the expression needs them.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    pub(super) at: UnixMillis,
    counters: BTreeMap<(SeriesId, Label), i64>,
}

/// One set of samples with the one before.
struct Pair<'a> {
    samples: &'a SampleSet,
    before: &'a BTreeMap<(SeriesId, Label), i64>,
    /// Seconds between the two; none when they cannot be compared.
    seconds: Option<f64>,
}

impl Expression {
    /// The readings of every label, and whether the value is there at all. Moves
    /// the baseline on to these samples.
    pub(super) fn read(
        &self,
        samples: &SampleSet,
        at: UnixMillis,
        gap: Duration,
        baseline: &mut Baseline,
    ) -> BTreeMap<Label, Reading> {
        let passed = at.since(baseline.at);
        let pair = Pair {
            samples,
            before: &baseline.counters,
            seconds: (at > baseline.at && passed <= gap).then_some(passed.as_secs_f64()),
        };
        let readings = match &self.test {
            Test::Absent => self.value.present(samples),
            Test::Compare(_, threshold) => self.value.read(threshold, &pair),
        };
        let needed = |sample: &&Sample| match (self.value.source, &self.test) {
            (_, Test::Absent) => false,
            (Source::Series(series), Test::Compare(..)) if sample.series == series.id => {
                self.value.means(&sample.label)
            }
            (Source::Series(_) | Source::CpuBusy, Test::Compare(..)) => {
                self.value.source.whole() == Some(Whole::Cpus) && CPU_MODES.contains(&sample.series)
            }
        };
        *baseline = Baseline {
            at,
            counters: samples
                .iter()
                .filter(needed)
                .take(LABELS_MAX + CPU_MODES.len())
                .map(|sample| ((sample.series, sample.label.clone()), sample.value))
                .collect(),
        };
        readings
    }
}

impl Value {
    fn means(&self, label: &Label) -> bool {
        self.label.as_ref().is_none_or(|wanted| wanted == label)
    }

    /// For `absent`: 1 for each label that is there, joined under the label that
    /// the expression names.
    fn present(&self, samples: &SampleSet) -> BTreeMap<Label, Reading> {
        let there = samples.iter().any(|sample| {
            let series = match self.source {
                Source::Series(series) => series.id == sample.series,
                Source::CpuBusy => false,
            };
            series && self.means(&sample.label)
        });
        let label = self.label.clone().unwrap_or(Label::NONE);
        BTreeMap::from([(label, Reading::Known(f64::from(u8::from(there))))])
    }

    fn read(&self, threshold: &Threshold, pair: &Pair<'_>) -> BTreeMap<Label, Reading> {
        let mut readings: BTreeMap<Label, Reading> = match self.source {
            Source::CpuBusy => {
                let there = pair.samples.get(SeriesId::CPU_USER, "").is_some();
                let reading = reading(pair.cpu_busy(), threshold);
                there
                    .then_some((Label::NONE, reading))
                    .into_iter()
                    .collect()
            }
            Source::Series(series) => pair
                .samples
                .iter()
                .filter(|sample| sample.series == series.id && self.means(&sample.label))
                .take(LABELS_MAX)
                .map(|sample| {
                    let value = match threshold.kind {
                        Kind::Level => Some(series.scaled(sample.value)),
                        Kind::Rate => pair.rate(sample),
                        Kind::Share => pair.share(sample, self.source.whole()),
                    };
                    (sample.label.clone(), reading(value, threshold))
                })
                .collect(),
        };
        if let Some(join) = self.join
            && !readings.is_empty()
        {
            readings = BTreeMap::from([(Label::NONE, join.of(&readings))]);
        }
        readings
    }
}

fn reading(value: Option<f64>, threshold: &Threshold) -> Reading {
    value
        .map(|value| value / threshold.factor)
        .filter(|value| value.is_finite())
        .map_or(Reading::Unknown, Reading::Known)
}

impl Join {
    /// Unknown as soon as one of them is: a sum without a part would be wrong.
    fn of(self, readings: &BTreeMap<Label, Reading>) -> Reading {
        let mut known = Vec::with_capacity(readings.len());
        for reading in readings.values() {
            match reading {
                Reading::Known(value) => known.push(*value),
                Reading::Unknown => return Reading::Unknown,
            }
        }
        let sum: f64 = known.iter().sum();
        Reading::Known(match self {
            Self::Max => known.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            Self::Min => known.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Sum => sum,
            Self::Avg => sum / f64::from(u32::try_from(known.len()).unwrap_or(u32::MAX)),
        })
    }
}

impl Pair<'_> {
    /// What a counter grew by, in its unit.
    fn growth(&self, series: SeriesId, label: &Label, value: i64) -> Option<f64> {
        let before = self.before.get(&(series, label.clone()))?;
        let growth = value.checked_sub(*before).filter(|growth| *growth >= 0)?;
        Some(series.series()?.scaled(growth))
    }

    fn rate(&self, sample: &Sample) -> Option<f64> {
        let growth = self.growth(sample.series, &sample.label, sample.value)?;
        Some(growth / self.seconds?)
    }

    /// From 0 to 1.
    fn share(&self, sample: &Sample, whole: Option<Whole>) -> Option<f64> {
        let label = sample.label.as_str();
        let level = |series: SeriesId, label: &str| {
            let value = self.samples.get(series, label)?;
            Some(series.series()?.scaled(value))
        };
        let part = sample.series.series()?.scaled(sample.value);
        match whole? {
            Whole::Series(total) => Some(part / level(total, label)?),
            Whole::Node(total) => Some(part / level(total, "")?),
            Whole::Both(one, other) => Some(part / (level(one, label)? + level(other, label)?)),
            Whole::Cpus => {
                let growth = self.growth(sample.series, &sample.label, sample.value)?;
                Some(growth / self.cpu_time()?)
            }
            Whole::Time => self.rate(sample),
        }
    }

    fn mode(&self, series: SeriesId) -> Option<f64> {
        let value = self.samples.get(series, "")?;
        self.growth(series, &Label::NONE, value)
    }

    /// The time that the CPUs could have given. Where idle time is not told (in a
    /// container) it is the CPUs' number by the time that passed.
    fn cpu_time(&self) -> Option<f64> {
        let seconds = self.seconds?;
        if self.samples.get(SeriesId::CPU_IDLE, "").is_some() {
            self.mode(SeriesId::CPU_IDLE)?;
            return Some(
                CPU_MODES
                    .into_iter()
                    .filter_map(|mode| self.mode(mode))
                    .sum(),
            );
        }
        let hundredths = self.samples.get(SeriesId::CPU_COUNT, "")?;
        Some(SeriesId::CPU_COUNT.series()?.scaled(hundredths) * seconds)
    }

    fn cpu_busy(&self) -> Option<f64> {
        self.mode(SeriesId::CPU_USER)?;
        let busy: f64 = CPU_MODES
            .into_iter()
            .filter(|mode| !CPU_IDLE_MODES.contains(mode))
            .filter_map(|mode| self.mode(mode))
            .sum();
        Some(busy / self.cpu_time()?)
    }
}
