//! What is counted of the targets: how many stand where, and what their results
//! say, by wave and in the order of time.
//!
//! Kept by difference: each change of a row takes the old one out and puts the new
//! one in, so that judging costs the same for ten nodes and for a hundred thousand.
//!
//! **Invariant:** equal to what counting all rows anew would give.

use std::collections::BTreeMap;

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use crate::domain::rollout::params::{HALT_RULES_COUNT_MAX, HaltOn, HaltRule};
use crate::domain::rollout::target::{TargetRow, TargetState, Verdict};

/// The counts of one rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    waves: BTreeMap<u32, WaveTally>,
    /// Results that count, oldest first.
    results: BTreeMap<(UnixMillis, NodeId), Counted>,
    /// Results up to here count no more.
    acknowledged_at: Option<UnixMillis>,
}

/// The counts of one wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaveTally {
    states: [u32; TargetState::COUNT],
    /// Nodes with a result that counts.
    pub samples: u32,
    /// Of these, how many each halt rule counts.
    pub hits: [u32; HALT_RULES_COUNT_MAX],
}

/// A result that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The node's wave.
    pub wave: u32,
    /// The halt rules that count it, a bit for each.
    pub hits: u32,
}

impl WaveTally {
    /// How many stand in a state.
    #[must_use]
    pub fn of(&self, state: TargetState) -> u32 {
        self.states[state.index()]
    }

    /// How many belong to the wave and can be told, now or later.
    #[must_use]
    pub fn members(&self) -> u32 {
        let all: u32 = self.states.iter().sum();
        let aside = [
            TargetState::Skipped,
            TargetState::Held,
            TargetState::Cordoned,
            TargetState::Drained,
        ];
        all - aside.into_iter().map(|state| self.of(state)).sum::<u32>()
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.states.iter_mut().zip(other.states) {
            *sum += count;
        }
        for (sum, count) in self.hits.iter_mut().zip(other.hits) {
            *sum += count;
        }
        self.samples += other.samples;
    }
}

impl Tally {
    /// Counts a row.
    pub(crate) fn put(&mut self, node: NodeId, row: &TargetRow, rules: &[HaltRule]) {
        let counted = self.counted(row, rules);
        let wave = self.waves.entry(row.wave).or_default();
        wave.states[row.state.index()] += 1;
        let Some((at, counted)) = counted else { return };
        wave.samples += 1;
        for (index, sum) in wave.hits.iter_mut().enumerate() {
            *sum += counted.hits >> index & 1;
        }
        self.results.insert((at, node), counted);
    }

    /// Counts a row no more. It must be the same as was put.
    pub(crate) fn take(&mut self, node: NodeId, row: &TargetRow) {
        let counted = row
            .verdict
            .and_then(|(at, _)| self.results.remove(&(at, node)));
        let Some(wave) = self.waves.get_mut(&row.wave) else {
            return;
        };
        wave.states[row.state.index()] -= 1;
        let Some(counted) = counted else { return };
        wave.samples -= 1;
        for (index, sum) in wave.hits.iter_mut().enumerate() {
            *sum -= counted.hits >> index & 1;
        }
    }

    /// Starts anew, with results that are later than `acknowledged_at`.
    pub(crate) fn reset(&mut self, acknowledged_at: Option<UnixMillis>) {
        *self = Self {
            acknowledged_at,
            ..Self::default()
        };
    }

    fn counted(&self, row: &TargetRow, rules: &[HaltRule]) -> Option<(UnixMillis, Counted)> {
        let (at, verdict) = row.verdict?;
        if self.acknowledged_at.is_some_and(|seen| at <= seen) {
            return None;
        }
        let hits = rules
            .iter()
            .take(HALT_RULES_COUNT_MAX)
            .enumerate()
            .filter(|(index, rule)| counts(&rule.on, verdict, row.crossed >> index & 1 == 1))
            .fold(0, |bits, (index, _)| bits | 1 << index);
        Some((
            at,
            Counted {
                wave: row.wave,
                hits,
            },
        ))
    }

    /// The counts of one wave.
    #[must_use]
    pub fn wave(&self, wave: u32) -> WaveTally {
        self.waves.get(&wave).copied().unwrap_or_default()
    }

    /// The counts of every wave up to this one.
    #[must_use]
    pub fn through(&self, wave: u32) -> WaveTally {
        let mut sum = WaveTally::default();
        for (_, tally) in self.waves.range(..=wave) {
            sum.add(tally);
        }
        sum
    }

    /// The counts of all waves.
    #[must_use]
    pub fn total(&self) -> WaveTally {
        self.through(u32::MAX)
    }

    /// The results that count, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = (UnixMillis, Counted)> {
        self.results
            .iter()
            .rev()
            .map(|((at, _), counted)| (*at, *counted))
    }

    /// When the last result came.
    #[must_use]
    pub fn last_at(&self) -> Option<UnixMillis> {
        self.results.last_key_value().map(|((at, _), _)| *at)
    }
}

/// Whether a criterion counts a result.
fn counts(on: &HaltOn, verdict: Verdict, crossed: bool) -> bool {
    match on {
        HaltOn::Any => verdict.is_bad(),
        HaltOn::Failed => verdict == Verdict::Failed,
        HaltOn::TimedOut => verdict == Verdict::TimedOut,
        HaltOn::Rejected => verdict == Verdict::Rejected,
        HaltOn::Unhealthy => verdict == Verdict::Unhealthy,
        HaltOn::WentSilent => verdict == Verdict::WentSilent,
        HaltOn::Metric(_) => crossed,
    }
}
