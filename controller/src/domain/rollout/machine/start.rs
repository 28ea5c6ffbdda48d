//! Giving nodes the revision: who is next, by wave, rate and budget; and the
//! commit at a barrier.

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use super::{Rollout, is_disrupted};
use crate::domain::rollout::pace::rate_after;
use crate::domain::rollout::target::{TargetState, Want};

impl Rollout {
    /// Nodes a minute that may be told at the moment.
    #[must_use]
    pub fn rate_per_min(&self) -> u32 {
        let total = self.tally.total();
        let succeeded = [
            TargetState::Healthy,
            TargetState::Committing,
            TargetState::Succeeded,
        ]
        .into_iter()
        .map(|state| total.of(state))
        .sum();
        let grown = rate_after(&self.course.params.rate, succeeded);
        let wave = self.course.wave.map_or(0, |(wave, _)| wave);
        let limit = self
            .course
            .params
            .waves
            .get(wave as usize)
            .and_then(|wave| wave.rate_per_min);
        limit.map_or(grown, |limit| grown.min(limit))
    }

    /// The highest wave whose nodes may be told; none while nothing may start.
    pub(super) fn open_wave(&self) -> Option<u32> {
        if self.holds().any(|hold| hold.passing.is_empty()) {
            return None;
        }
        if self.course.is_completed() {
            // It serves those who come back or join after its end.
            return Some(u32::MAX);
        }
        let running = self.course.is_running() && self.course.committed_at.is_none();
        self.course.wave.filter(|_| running).map(|(wave, _)| wave)
    }

    /// Tells as many nodes as rate and budget allow.
    pub(super) fn start(&mut self, now: UnixMillis) {
        let Some(wave) = self.open_wave() else { return };
        let mut allowed = self.pace.allows(self.rate_per_min(), now);
        let mut passed: Option<(u32, u32, NodeId)> = None;
        while allowed > 0 {
            let next = match passed {
                None => self.ready.first(),
                Some(last) => self
                    .ready
                    .range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded))
                    .next(),
            };
            let Some(&place) = next.filter(|(of, _, _)| *of <= wave) else {
                return;
            };
            passed = Some(place);
            if self.passes(place.2) && self.fits_budget(place.2) {
                self.order(place.2, Want::Run, TargetState::Sent, now);
                allowed -= 1;
            }
        }
    }

    /// Whether the node may become unavailable, or is so already.
    pub(super) fn fits_budget(&self, node: NodeId) -> bool {
        self.targets.get(&node).is_some_and(|target| {
            is_disrupted(target)
                || self
                    .groups
                    .get(&target.row.group)
                    .admits(&self.course.params.budget)
        })
    }

    /// Tells every healthy node to give up the revision before.
    pub(super) fn commit(&mut self, now: UnixMillis) {
        if self.tally.total().of(TargetState::Healthy) == 0 {
            return;
        }
        let healthy: Vec<NodeId> = self.in_state(TargetState::Healthy).collect();
        for node in healthy {
            self.order(node, Want::Commit, TargetState::Committing, now);
        }
    }
}
