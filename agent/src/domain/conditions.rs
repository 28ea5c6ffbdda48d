//! The conditions that this node watches, and what of them is still to be told.
//!
//! The gate says which conditions of the policy are meant for this node; samples go
//! in; what turned is owed until the store has taken it. A turn that is turned back
//! before it was told is not told at all.
//!
//! What holds is kept by the store together with each crossing, so a restart goes on
//! where the controller was told that it was. A condition that is not watched any
//! more, since its rule is gone or does not mean this node, ceases to hold: nobody
//! else could say so.
//!
//! **Invariant:** what is told of a rule's label alternates, beginning with one that
//! holds, over restarts too.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::condition::Crossing;
use protocol::condition::watch::Watch;
use protocol::telemetry::{Label, SampleSet};
use protocol::time::UnixMillis;

use super::gate::{Gate, Watched};

/// Which conditions hold, as the controller was told: the rule's name and the label.
pub type Holding = BTreeSet<(String, String)>;

/// Sampling intervals that may pass between two readings that are joined: one may be
/// a gap, and one late.
const GAP_INTERVALS: u32 = 3;

/// Crossings that are offered to the store at once. It keeps room for the largest
/// entry for each, 60 KiB, and half of its control stream may be as small as 512 KiB:
/// of many rules that turn together all at once would never find enough.
const OFFERED_COUNT_MAX: usize = 4;

/// What is watched. See the module's documentation.
#[derive(Debug, Default)]
pub struct Conditions {
    rules: Option<Arc<[Watched]>>,
    interval: Duration,
    epoch: u64,
    watches: BTreeMap<String, Watch>,
    told: Holding,
    owed: BTreeMap<(String, String), Crossing>,
}

impl Conditions {
    /// Goes on with what holds.
    #[must_use]
    pub fn resumed(holding: Holding) -> Self {
        Self {
            told: holding,
            ..Self::default()
        }
    }

    /// Takes one set of samples of `at`, in controller time, with the gate and the
    /// sampling interval of that moment.
    pub fn step(&mut self, gate: &Gate, interval: Duration, samples: &SampleSet, at: UnixMillis) {
        self.follow(gate, interval, at);
        let mut turns = Vec::new();
        for (rule, watch) in &mut self.watches {
            turns.extend(watch.step(samples, at).into_iter().map(|turn| Crossing {
                rule: rule.clone(),
                epoch: self.epoch,
                holds: turn.holds,
                label: turn.label,
                value: turn.value,
                at,
            }));
        }
        for turn in turns {
            self.owe(turn);
        }
    }

    /// Watches what the gate says, and goes on with what holds of it.
    fn follow(&mut self, gate: &Gate, interval: Duration, at: UnixMillis) {
        let same = self
            .rules
            .as_ref()
            .is_some_and(|rules| Arc::ptr_eq(rules, gate.watched()));
        // A node that held a policy always has one, so none means that it is not
        // read yet, or that there was never anything to hold.
        if (same && interval == self.interval) || gate.policy().is_none() {
            return;
        }
        let holding = self.holding();
        let mut before = std::mem::take(&mut self.watches);
        for watched in gate.watched().iter() {
            let Ok(expression) = &watched.expression else {
                continue;
            };
            let kept = before
                .remove(&watched.rule)
                .filter(|watch| watch.expression() == expression && interval == self.interval);
            let watch = kept.unwrap_or_else(|| {
                let mut fresh = Watch::new(expression.clone(), interval * GAP_INTERVALS);
                for (_, label) in holding.iter().filter(|(rule, _)| *rule == watched.rule) {
                    fresh.resume(Label::fit(label), at);
                }
                fresh
            });
            self.watches.insert(watched.rule.clone(), watch);
        }
        self.rules = Some(Arc::clone(gate.watched()));
        self.interval = interval;
        self.epoch = gate.epoch();
        for (rule, label) in holding {
            if !self.watches.contains_key(&rule) {
                self.owe(Crossing {
                    rule,
                    epoch: self.epoch,
                    holds: false,
                    label,
                    value: "not watched".to_owned(),
                    at,
                });
            }
        }
    }

    /// What holds, told or not.
    fn holding(&self) -> Holding {
        after(&self.told, self.owed.iter())
    }

    fn owe(&mut self, crossing: Crossing) {
        let place = (crossing.rule.clone(), crossing.label.clone());
        if self.told.contains(&place) == crossing.holds {
            self.owed.remove(&place);
        } else {
            self.owed.insert(place, crossing);
        }
    }

    /// The next of what is to be told, with what holds once it is; none when nothing
    /// is.
    #[must_use]
    pub fn owed(&self) -> Option<(Vec<Crossing>, Holding)> {
        let next = || self.owed.iter().take(OFFERED_COUNT_MAX);
        let crossings: Vec<Crossing> = next().map(|(_, crossing)| crossing.clone()).collect();
        (!crossings.is_empty()).then(|| (crossings, after(&self.told, next())))
    }

    /// The store has taken what [`Conditions::owed`] gave.
    pub fn told(&mut self) {
        for _ in 0..OFFERED_COUNT_MAX {
            let Some((place, crossing)) = self.owed.pop_first() else {
                return;
            };
            self.told = after(&self.told, [(&place, &crossing)]);
        }
    }
}

/// What holds once these are told.
fn after<'a>(
    told: &Holding,
    crossings: impl IntoIterator<Item = (&'a (String, String), &'a Crossing)>,
) -> Holding {
    let mut holding = told.clone();
    for (place, crossing) in crossings {
        if crossing.holds {
            holding.insert(place.clone());
        } else {
            holding.remove(place);
        }
    }
    holding
}

#[cfg(test)]
mod tests;
