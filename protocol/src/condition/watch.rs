//! Watches one condition: samples go in, crossings come out.
//!
//! Each label has a track of its own. A condition begins to hold once every
//! reading for as long as its `for` was true; it ceases to once every reading for
//! as long, and at least [`CLEAR_READINGS`] of them, was false. So a value that
//! plays around its threshold is one crossing, not hundreds.
//!
//! A pause between readings that is longer than `gap` proves nothing: the time
//! before it does not count, in either direction. A label that has no reading for
//! longer than that (a filesystem that is not mounted any more) counts as false,
//! so that nothing holds for ever by what is gone. Going backwards, the clock makes
//! a gap.
//!
//! **Invariant:** for each label crossings alternate, beginning with one that
//! holds.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::expression::{Expression, Test};
use super::reading::{Baseline, Reading};
use crate::telemetry::{Label, SampleSet};
use crate::time::UnixMillis;

/// Labels that one condition tracks: as many as a node reports of one kind.
/// Others are not watched until one of these is clear.
pub const LABELS_MAX: usize = crate::telemetry::limit::CONTAINERS_MAX;

/// False readings in a row that a condition needs at least to be clear.
pub const CLEAR_READINGS: u32 = 3;

/// A condition and what is known of it.
#[derive(Clone, Debug)]
pub struct Watch {
    expression: Expression,
    gap: Duration,
    baseline: Baseline,
    /// Labels of which something is known; all others are clear.
    tracks: BTreeMap<Label, Track>,
}

/// A condition begins or ceases to hold for a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The label; empty where the value has none.
    pub label: String,
    /// Whether it holds from here on.
    pub holds: bool,
    /// The value that decided, with its unit.
    pub value: String,
}

/// What is known of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Track {
    phase: Phase,
    /// When it was read last.
    read_at: UnixMillis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// True since then, and not for long enough.
    Rising { since: UnixMillis },
    /// It holds.
    Holding,
    /// It holds, and is false since then, so many times.
    Falling { since: UnixMillis, readings: u32 },
}

impl Watch {
    /// Watches an expression. `gap` is the longest time between two readings that
    /// still joins them: a few sampling intervals.
    #[must_use]
    pub fn new(expression: Expression, gap: Duration) -> Self {
        Self {
            expression,
            gap,
            baseline: Baseline::default(),
            tracks: BTreeMap::new(),
        }
    }

    /// The expression.
    #[must_use]
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// The labels for which it holds: what must be kept to go on after a restart.
    pub fn holding(&self) -> impl Iterator<Item = &Label> {
        self.tracks
            .iter()
            .filter(|(_, track)| track.phase.holds())
            .map(|(label, _)| label)
    }

    /// Goes on as if it held for this label, without saying so: after a restart.
    pub fn resume(&mut self, label: Label, at: UnixMillis) {
        if self.tracks.len() < LABELS_MAX {
            let phase = Phase::Holding;
            self.tracks.insert(label, Track { phase, read_at: at });
        }
    }

    /// Takes everything that was measured at one moment, on whichever clock, as
    /// long as it is always the same. What turned, by label.
    pub fn step(&mut self, samples: &SampleSet, at: UnixMillis) -> Vec<Turn> {
        let steady = at >= self.baseline.at && at.since(self.baseline.at) <= self.gap;
        let readings = self
            .expression
            .read(samples, at, self.gap, &mut self.baseline);
        let labels: BTreeSet<Label> = self.tracks.keys().chain(readings.keys()).cloned().collect();
        labels
            .into_iter()
            .filter_map(|label| {
                let reading = readings.get(&label).copied();
                self.track(label, reading, steady, at)
            })
            .collect()
    }

    /// `steady` is whether the last step was not longer ago than a gap.
    fn track(
        &mut self,
        label: Label,
        reading: Option<Reading>,
        steady: bool,
        at: UnixMillis,
    ) -> Option<Turn> {
        let known = self.tracks.get(&label).copied();
        let joined =
            known.is_some_and(|track| at >= track.read_at && at.since(track.read_at) <= self.gap);
        let (holds, value) = match reading {
            Some(Reading::Known(value)) => self.judge(value),
            Some(Reading::Unknown) | None if joined => return None,
            Some(Reading::Unknown) | None => (false, "no reading".to_owned()),
        };
        let phase = known.map(|track| track.phase);
        let next = if holds {
            self.rise(phase, joined, at)
        } else {
            // What is gone is joined by the steps that found it gone.
            let read = matches!(reading, Some(Reading::Known(_)));
            self.fall(phase, if read { joined } else { steady }, at)
        };
        let before = phase.is_some_and(Phase::holds);
        let after = next.is_some_and(Phase::holds);
        match next {
            Some(phase) if known.is_some() || self.tracks.len() < LABELS_MAX => {
                // What is gone was not read.
                let read_at = match (reading, known) {
                    (Some(Reading::Unknown) | None, Some(track)) => track.read_at.min(at),
                    (Some(Reading::Known(_)), _) | (_, None) => at,
                };
                self.tracks.insert(label.clone(), Track { phase, read_at });
            }
            Some(_) => return None,
            None => {
                self.tracks.remove(&label);
            }
        }
        (before != after).then(|| Turn {
            label: label.as_str().to_owned(),
            holds: after,
            value,
        })
    }

    /// Whether a known value satisfies the test, and how it is shown.
    fn judge(&self, value: f64) -> (bool, String) {
        match &self.expression.test {
            Test::Absent if value == 0.0 => (true, "absent".to_owned()),
            Test::Absent => (false, "present".to_owned()),
            Test::Compare(compare, threshold) => (
                compare.holds(value, threshold.number),
                threshold.shown(value),
            ),
        }
    }

    fn rise(&self, phase: Option<Phase>, joined: bool, at: UnixMillis) -> Option<Phase> {
        let since = match phase {
            Some(Phase::Holding | Phase::Falling { .. }) => return Some(Phase::Holding),
            Some(Phase::Rising { since }) if joined => since,
            Some(Phase::Rising { .. }) | None => at,
        };
        Some(if at.since(since) >= self.expression.lasting {
            Phase::Holding
        } else {
            Phase::Rising { since }
        })
    }

    fn fall(&self, phase: Option<Phase>, joined: bool, at: UnixMillis) -> Option<Phase> {
        let (since, readings) = match phase? {
            Phase::Rising { .. } => return None,
            Phase::Falling { since, readings } if joined && since <= at => (since, readings + 1),
            Phase::Holding | Phase::Falling { .. } => (at, 1),
        };
        let clear = readings >= CLEAR_READINGS && at.since(since) >= self.expression.lasting;
        (!clear).then_some(Phase::Falling { since, readings })
    }
}

impl Phase {
    fn holds(self) -> bool {
        match self {
            Self::Holding | Self::Falling { .. } => true,
            Self::Rising { .. } => false,
        }
    }
}
