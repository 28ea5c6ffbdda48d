//! What follows a stop: the recall of what is in progress, and the way back.

use std::time::Duration;

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use super::Rollout;
use crate::domain::rollout::course::Stop;
use crate::domain::rollout::event::{AfterAbort, Kind};
use crate::domain::rollout::params::OnHalt;
use crate::domain::rollout::target::{TargetState, Want};

/// What a stop wants of nodes that succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The rollout has not ended: it waits for a person.
    Open,
    /// They keep the revision.
    Keep,
    /// They go back.
    Revert,
}

impl Rollout {
    pub(super) fn ending(&self) -> Ending {
        let ending = match &self.course.stop {
            None | Some(Stop::Paused(_)) => Ending::Open,
            Some(Stop::Halted { then, .. }) => match then {
                OnHalt::Pause => Ending::Open,
                OnHalt::Keep => Ending::Keep,
                OnHalt::Revert => Ending::Revert,
            },
            Some(Stop::Aborted { then }) => match then {
                AfterAbort::Keep => Ending::Keep,
                AfterAbort::Revert => Ending::Revert,
            },
        };
        // A rollback has nothing better to go back to.
        match (ending, self.course.kind) {
            (Ending::Revert, Kind::Rollback) => Ending::Keep,
            (ending, Kind::Forward | Kind::Rollback) => ending,
        }
    }

    pub(super) fn undo(&mut self, now: UnixMillis) {
        if self.course.finished.is_some() {
            return;
        }
        if !matches!(self.course.stop, Some(Stop::Paused(_))) {
            self.recall(now);
        }
        match self.ending() {
            Ending::Open => {}
            Ending::Keep => self.commit(now),
            Ending::Revert => self.revert(now),
        }
    }

    /// Tells every node that is in mid-change to go back, at once: it is
    /// unavailable already, and sooner well again.
    fn recall(&mut self, now: UnixMillis) {
        if self.course.kind == Kind::Rollback {
            return;
        }
        let total = self.tally.total();
        let begun = [TargetState::Sent, TargetState::Working, TargetState::Silent];
        if begun.into_iter().all(|state| total.of(state) == 0) {
            return;
        }
        let nodes: Vec<NodeId> = self
            .targets
            .iter()
            .filter(|(_, target)| {
                begun.contains(&target.row.state) && target.row.want == Some(Want::Run)
            })
            .map(|(node, _)| *node)
            .collect();
        for node in nodes {
            self.order(node, Want::Recall, TargetState::Recalling, now);
        }
    }

    /// Nodes that are still to go back after they had succeeded, in their order.
    fn to_revert(&self) -> Vec<NodeId> {
        let mut places: Vec<(u32, NodeId)> = self
            .targets
            .iter()
            .filter(|(_, target)| {
                let row = &target.row;
                let has = row.state.has_revision() || row.state == TargetState::Failed;
                has && matches!(row.want, Some(Want::Run | Want::Commit))
            })
            .map(|(node, target)| (target.row.rank, *node))
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, node)| node).collect()
    }

    /// Whether no node has the revision that was taken back.
    pub(super) fn is_back(&self) -> bool {
        self.to_revert().is_empty()
    }

    /// Takes nodes back at the rollout's rate and within its budget.
    fn revert(&mut self, now: UnixMillis) {
        let mut allowed = self.pace.allows(self.rate_per_min(), now);
        if allowed == 0 {
            return;
        }
        for node in self.to_revert() {
            if allowed == 0 {
                return;
            }
            if self.fits_budget(node) {
                self.order(node, Want::Revert, TargetState::Reverting, now);
                allowed -= 1;
            }
        }
    }

    /// When a way back is given up on which nothing moves: nodes that are gone for
    /// good use the budget up, and the others wait for them.
    pub(super) fn given_up_at(&self) -> UnixMillis {
        let moved = self.targets.values();
        let moved = moved.map(|target| target.row.since.max(target.link_at));
        moved
            .max()
            .unwrap_or(self.course.started_at)
            .after(Duration::from_millis(self.course.params.deadline_ms))
    }

    /// Whether everything that a stop wants is done, or cannot be.
    pub(super) fn is_undone(&self, now: UnixMillis) -> bool {
        let total = self.tally.total();
        let in_flight = [
            TargetState::Sent,
            TargetState::Working,
            TargetState::Committing,
            TargetState::Recalling,
            TargetState::Reverting,
        ];
        in_flight.into_iter().all(|state| total.of(state) == 0)
            && match self.ending() {
                Ending::Open => false,
                Ending::Keep => total.of(TargetState::Healthy) == 0,
                Ending::Revert => self.is_back() || now >= self.given_up_at(),
            }
    }
}
