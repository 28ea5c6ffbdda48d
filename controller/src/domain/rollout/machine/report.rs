//! What nodes say of their orders, and what that makes of them.

use std::time::Duration;

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use super::{Rollout, Target};
use crate::domain::rollout::params::CommitMode;
use crate::domain::rollout::target::{
    FailureClass, Left, Report, TargetRow, TargetState, Verdict, Want,
};

/// The longest wait before a repetition.
const BACKOFF_MS_MAX: u64 = 10 * 60_000;

impl Rollout {
    /// Takes a report in. One of an earlier order says nothing any more.
    pub(super) fn reported(&mut self, node: NodeId, order: u32, report: Report, now: UnixMillis) {
        let Some(target) = self.targets.get(&node) else {
            return;
        };
        let row = &target.row;
        if order == 0 || row.order != order {
            return;
        }
        let open = row.state.is_in_flight() || row.state == TargetState::Silent;
        let Some(want) = row.want else { return };
        match (want, report) {
            (_, Report::Working) if open => self.heard(node, now),
            (Want::Run, report) if open => self.ran(node, report, now),
            (Want::Run | Want::Commit, report) if row.state.has_revision() && !open => {
                self.ran_before(node, report, now);
            }
            // Someone mended it, or it came round.
            (Want::Run, Report::Succeeded) if row.state == TargetState::Failed => {
                self.ran(node, report, now);
            }
            (Want::Commit, Report::Succeeded) if open => {
                self.settle(node, TargetState::Succeeded, Some(Verdict::Good), now);
            }
            (Want::Commit, Report::Failed { class, left }) if open => {
                self.fail(node, class, left, now);
            }
            (Want::Recall | Want::Revert, Report::Succeeded | Report::Degraded) if open => {
                self.settle(node, TargetState::Recalled, None, now);
            }
            (Want::Recall | Want::Revert, Report::Failed { class, .. }) if open => {
                self.fail(node, class, Left::Broken, now);
            }
            (_, Report::AwaitingCommit | Report::Degraded) if open => self.heard(node, now),
            // It is final already, or says what is known.
            (
                _,
                Report::Working
                | Report::AwaitingCommit
                | Report::Succeeded
                | Report::Failed { .. }
                | Report::Degraded,
            ) => {}
        }
    }

    /// It works on its order.
    fn heard(&mut self, node: NodeId, now: UnixMillis) {
        self.change(node, true, |target| {
            let row = &mut target.row;
            row.heard_at = now;
            match row.state {
                TargetState::Sent => enter(row, TargetState::Working, now),
                TargetState::Silent => {
                    let back = match row.want {
                        Some(Want::Recall) => TargetState::Recalling,
                        Some(Want::Revert) => TargetState::Reverting,
                        Some(Want::Commit) => TargetState::Committing,
                        Some(Want::Run) | None => TargetState::Working,
                    };
                    row.verdict = None;
                    enter(row, back, now);
                }
                TargetState::Pending
                | TargetState::Delayed
                | TargetState::Working
                | TargetState::Healthy
                | TargetState::Committing
                | TargetState::Succeeded
                | TargetState::Reverted
                | TargetState::Failed
                | TargetState::Refused
                | TargetState::Recalling
                | TargetState::Reverting
                | TargetState::Recalled
                | TargetState::Held
                | TargetState::Skipped
                | TargetState::Cordoned
                | TargetState::Windowed
                | TargetState::Drained => {}
            }
        });
    }

    /// The end of an order to run the revision, or a step on its way.
    fn ran(&mut self, node: NodeId, report: Report, now: UnixMillis) {
        let barrier =
            self.course.params.commit == CommitMode::Barrier && self.course.finished.is_none();
        match report {
            Report::AwaitingCommit | Report::Succeeded if barrier => {
                self.settle(node, TargetState::Healthy, Some(Verdict::Good), now);
            }
            Report::Succeeded => {
                self.settle(node, TargetState::Succeeded, Some(Verdict::Good), now);
            }
            Report::Working | Report::AwaitingCommit | Report::Degraded => self.heard(node, now),
            Report::Failed { class, left } => {
                if !self.delay(node, class, now) {
                    self.fail(node, class, left, now);
                }
            }
        }
    }

    /// What a node says that had succeeded.
    fn ran_before(&mut self, node: NodeId, report: Report, now: UnixMillis) {
        let degraded = match report {
            Report::Failed { class, left } => return self.fail(node, class, left, now),
            Report::Degraded => true,
            Report::Succeeded | Report::AwaitingCommit => false,
            Report::Working => return,
        };
        let known = self
            .targets
            .get(&node)
            .is_some_and(|target| target.row.degraded == degraded);
        if known {
            return;
        }
        self.change(node, true, |target| {
            target.row.degraded = degraded;
            if degraded {
                // It stays so when the node recovers: it flapped after a change.
                target.row.verdict = Some((now, Verdict::Unhealthy));
            }
        });
    }

    /// Whether the failure is tried again.
    fn delay(&mut self, node: NodeId, class: FailureClass, now: UnixMillis) -> bool {
        let serving = self.course.is_running() || self.course.is_completed();
        let Some(retry) = self.course.params.retry(class).copied() else {
            return false;
        };
        let Some(row) = self.row(node) else {
            return false;
        };
        let used = row.retries(class);
        if !serving || used >= retry.count {
            return false;
        }
        let backoff_ms = retry
            .backoff_ms
            .saturating_mul(1 << used.min(16))
            .min(BACKOFF_MS_MAX);
        let jitter_ms = self.chance(node, row.order, backoff_ms / 4 + 1);
        let retry_at = now.after(Duration::from_millis(backoff_ms + jitter_ms));
        self.change(node, true, |target| {
            let row = &mut target.row;
            row.count_retry(class);
            row.class = Some(class);
            row.retry_at = Some(retry_at);
            row.verdict = None;
            enter(row, TargetState::Delayed, now);
        });
        true
    }

    fn fail(&mut self, node: NodeId, class: FailureClass, left: Left, now: UnixMillis) {
        let state = match left {
            Left::Untouched => TargetState::Refused,
            Left::Restored => TargetState::Reverted,
            Left::Broken => TargetState::Failed,
        };
        let verdict = class.verdict(left);
        self.change(node, true, |target| target.row.class = Some(class));
        self.settle(node, state, Some(verdict), now);
    }

    /// A target's order has come to its end.
    fn settle(
        &mut self,
        node: NodeId,
        state: TargetState,
        verdict: Option<Verdict>,
        now: UnixMillis,
    ) {
        self.change(node, true, |target: &mut Target| {
            let row = &mut target.row;
            row.heard_at = now;
            row.verdict = verdict.map(|verdict| (now, verdict));
            row.degraded = false;
            enter(row, state, now);
        });
    }
}

fn enter(row: &mut TargetRow, state: TargetState, now: UnixMillis) {
    row.state = state;
    row.since = now;
}
