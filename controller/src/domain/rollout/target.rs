//! Where one node stands in a rollout: the row that the intake keeps.
//!
//! Rows are stored with postcard, which is positional: enums are append-only and
//! a changed row is a new format of the table.
//!
//! **Invariant:** [`TargetRow::order`] grows by one with every order that the
//! node is given, and only what it reports of the newest order counts.

use protocol::ErrorCode;
use protocol::deployment::observed::{ChangeOutcome, DeploymentResult, DeploymentState, Phase};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// One node of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRow {
    /// Its wave, from 0.
    pub wave: u32,
    /// Its place in the order of sending.
    pub rank: u32,
    /// The group in which the budget counts it.
    pub group: String,
    /// Where it stands.
    pub state: TargetState,
    /// Since when.
    pub since: UnixMillis,
    /// Orders that it was given.
    pub order: u32,
    /// What the newest one wants; none before the first.
    pub want: Option<Want>,
    /// When it was last told to run a revision or to go back at the rollout's pace.
    pub paced_at: Option<UnixMillis>,
    /// When it was last heard of its newest order.
    pub heard_at: UnixMillis,
    /// What is known of the change on it, and since when.
    pub verdict: Option<(UnixMillis, Verdict)>,
    /// Why the last try did not succeed.
    pub class: Option<FailureClass>,
    /// Repetitions that were used, by class.
    pub retried: Vec<(FailureClass, u32)>,
    /// When it is tried again, while it is [`TargetState::Delayed`].
    pub retry_at: Option<UnixMillis>,
    /// Whether it says that something is not well, after it had succeeded.
    pub degraded: bool,
    /// Halt criteria on conditions that began to hold here, a bit for each.
    pub crossed: u32,
}

/// Where a target stands. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// It was told nothing yet.
    Pending,
    /// It failed or was refused by a breaker, and is tried again.
    Delayed,
    /// It was told, and has not said anything of it.
    Sent,
    /// It works on it.
    Working,
    /// It is healthy and keeps the revision before until the commit.
    Healthy,
    /// It was told to commit.
    Committing,
    /// It has the revision.
    Succeeded,
    /// It failed, and went back to the revision before by itself.
    Reverted,
    /// It failed, and has not gone back.
    Failed,
    /// It did not begin.
    Refused,
    /// It said nothing in time: what it has is not known.
    Silent,
    /// It was told in mid-change to go back.
    Recalling,
    /// It was told to go back after it had succeeded.
    Reverting,
    /// It went back because it was told to.
    Recalled,
    /// It came late and waits for the rollout to complete.
    Held,
    /// It left the fleet, or no longer matches.
    Skipped,
    /// Its node is cordoned: it is told nothing, and nobody waits for it.
    Cordoned,
    /// Its node is outside of its maintenance windows, and is told when one opens.
    Windowed,
    /// Its node was drained: what it had was taken away.
    Drained,
}

/// Why a target is told nothing although it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Its node is out of service.
    Cordoned,
    /// Its node is outside of its maintenance windows.
    Windowed,
}

/// What an order wants of a node. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// Run the rollout's revision.
    Run,
    /// Go back to the revision before, now: the change is in progress.
    Recall,
    /// Give up the revision before.
    Commit,
    /// Go back to the revision before: the change had succeeded.
    Revert,
}

/// What is known of the change on a node. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is well.
    Good,
    /// It failed.
    Failed,
    /// It took too long.
    TimedOut,
    /// The node did not begin.
    Rejected,
    /// Health checks fail.
    Unhealthy,
    /// The node is not heard any more.
    WentSilent,
}

/// Why a try did not succeed. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// A workload could not be started, or ended.
    Failed,
    /// An image or a file could not be fetched.
    Fetch,
    /// It was not healthy, or made no progress, in time.
    TimedOut,
    /// Health checks failed.
    Unhealthy,
    /// The node's own policy does not allow it.
    Refused,
    /// A breaker or the lease did not allow it at that time: this says nothing of
    /// the revision.
    Gated,
}

/// What a node says of its newest order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It works on it.
    Working,
    /// It is healthy and waits for the commit.
    AwaitingCommit,
    /// What was wanted runs.
    Succeeded,
    /// It failed.
    Failed {
        /// Why.
        class: FailureClass,
        /// What the node has.
        left: Left,
    },
    /// What was wanted ran, and is not well.
    Degraded,
}

/// What a failed change leaves on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The node never began, so it has what it had.
    Untouched,
    /// The revision before runs again.
    Restored,
    /// Whatever there was when it failed.
    Broken,
}

impl FailureClass {
    /// Every class, with the name that operators write.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Failed, "failed"),
        (Self::Fetch, "fetch"),
        (Self::TimedOut, "timed_out"),
        (Self::Unhealthy, "unhealthy"),
        (Self::Refused, "refused"),
        (Self::Gated, "gated"),
    ];

    /// The class of an error code's text, as nodes report it.
    #[must_use]
    pub fn of(code: Option<&str>) -> Self {
        let is = |known: ErrorCode| code == Some(known.text());
        if is(ErrorCode::ImageUnavailable)
            || is(ErrorCode::ArchiveNotFound)
            || is(ErrorCode::ArchiveInvalid)
            || is(ErrorCode::FileNotFound)
        {
            Self::Fetch
        } else if is(ErrorCode::DeploymentDeadline) {
            Self::TimedOut
        } else if is(ErrorCode::WorkloadUnhealthy) {
            Self::Unhealthy
        } else if is(ErrorCode::DeploymentForbidden) {
            Self::Refused
        } else if is(ErrorCode::BreakerOpen) || is(ErrorCode::PolicyLease) {
            Self::Gated
        } else {
            Self::Failed
        }
    }

    /// What a target of that class counts as.
    #[must_use]
    pub fn verdict(self, left: Left) -> Verdict {
        if left == Left::Untouched {
            return Verdict::Rejected;
        }
        match self {
            Self::Failed | Self::Fetch => Verdict::Failed,
            Self::TimedOut => Verdict::TimedOut,
            Self::Unhealthy => Verdict::Unhealthy,
            Self::Refused | Self::Gated => Verdict::Rejected,
        }
    }
}

impl Report {
    /// What an entry of the state stream says; none when it says nothing of how
    /// the change goes.
    #[must_use]
    pub fn of_state(state: &DeploymentState) -> Option<Self> {
        match state.phase {
            Phase::Waiting
            | Phase::Fetching
            | Phase::Starting
            | Phase::Verifying
            | Phase::Reverting
            | Phase::Removing => Some(Self::Working),
            Phase::AwaitingCommit => Some(Self::AwaitingCommit),
            Phase::Running | Phase::Removed => Some(Self::Succeeded),
            Phase::Degraded => Some(Self::Degraded),
            // The result, which is never shed, says more.
            Phase::Reverted | Phase::Failed | Phase::Refused => None,
        }
    }

    /// What a result says; none for an order that a later one replaced.
    #[must_use]
    pub fn of_result(result: &DeploymentResult) -> Option<Self> {
        let class = FailureClass::of(result.code.as_deref());
        let failed = |left| Some(Self::Failed { class, left });
        match result.outcome {
            ChangeOutcome::Succeeded => Some(Self::Succeeded),
            ChangeOutcome::Reverted => failed(Left::Restored),
            ChangeOutcome::Failed => failed(Left::Broken),
            ChangeOutcome::Refused => failed(Left::Untouched),
            ChangeOutcome::Superseded => None,
        }
    }
}

impl Verdict {
    /// Whether it counts against the revision.
    #[must_use]
    pub fn is_bad(self) -> bool {
        self != Self::Good
    }

    /// The name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::Unhealthy => "unhealthy",
            Self::WentSilent => "went_silent",
        }
    }
}

impl TargetState {
    /// Every state, in the order in which they are gone through.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Pending,
        Self::Windowed,
        Self::Cordoned,
        Self::Held,
        Self::Delayed,
        Self::Sent,
        Self::Working,
        Self::Healthy,
        Self::Committing,
        Self::Succeeded,
        Self::Recalling,
        Self::Reverting,
        Self::Recalled,
        Self::Reverted,
        Self::Failed,
        Self::Refused,
        Self::Silent,
        Self::Drained,
        Self::Skipped,
    ];

    /// How many states there are.
    pub const COUNT: usize = 19;

    /// Its place in a table by state.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delayed => "delayed",
            Self::Sent => "sent",
            Self::Working => "working",
            Self::Healthy => "healthy",
            Self::Committing => "committing",
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Recalling => "recalling",
            Self::Reverting => "reverting",
            Self::Recalled => "recalled",
            Self::Held => "held",
            Self::Skipped => "skipped",
            Self::Cordoned => "cordoned",
            Self::Windowed => "waits_for_window",
            Self::Drained => "drained",
        }
    }

    /// Whether an order is open whose end the controller waits for.
    #[must_use]
    pub fn is_in_flight(self) -> bool {
        matches!(
            self,
            Self::Sent | Self::Working | Self::Committing | Self::Recalling | Self::Reverting
        )
    }

    /// Why a target in this state is told nothing.
    #[must_use]
    pub fn withheld(self) -> Option<Withheld> {
        if self == Self::Windowed {
            Some(Withheld::Windowed)
        } else {
            matches!(self, Self::Cordoned | Self::Drained).then_some(Withheld::Cordoned)
        }
    }

    /// Whether the node has the revision and is not in doubt.
    #[must_use]
    pub fn has_revision(self) -> bool {
        matches!(self, Self::Healthy | Self::Committing | Self::Succeeded)
    }
}

impl TargetRow {
    /// A target that was told nothing yet.
    #[must_use]
    pub fn new(wave: u32, rank: u32, group: String, at: UnixMillis) -> Self {
        Self {
            wave,
            rank,
            group,
            state: TargetState::Pending,
            since: at,
            order: 0,
            want: None,
            paced_at: None,
            heard_at: at,
            verdict: None,
            class: None,
            retried: Vec::new(),
            retry_at: None,
            degraded: false,
            crossed: 0,
        }
    }

    /// Repetitions that were used for a class.
    #[must_use]
    pub fn retries(&self, class: FailureClass) -> u32 {
        self.retried
            .iter()
            .find(|(used, _)| *used == class)
            .map_or(0, |(_, count)| *count)
    }

    /// Counts one more repetition for a class.
    pub(crate) fn count_retry(&mut self, class: FailureClass) {
        match self.retried.iter_mut().find(|(used, _)| *used == class) {
            Some((_, count)) => *count += 1,
            None => self.retried.push((class, 1)),
        }
    }

    /// Whether it is unavailable for what the node does or did, presence apart.
    #[must_use]
    pub fn is_disrupted(&self) -> bool {
        self.degraded
            || self.state.is_in_flight() && self.state != TargetState::Committing
            || matches!(
                self.state,
                TargetState::Failed | TargetState::Silent | TargetState::Drained
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_classes() {
        for (code, class) in [
            ("image.unavailable", FailureClass::Fetch),
            ("deployment.deadline", FailureClass::TimedOut),
            ("workload.unhealthy", FailureClass::Unhealthy),
            ("workload.exited", FailureClass::Failed),
            ("deployment.forbidden", FailureClass::Refused),
            ("breaker.open", FailureClass::Gated),
            ("policy.lease_expired", FailureClass::Gated),
            ("what.comes", FailureClass::Failed),
        ] {
            assert_eq!(FailureClass::of(Some(code)), class, "{code}");
        }
        assert_eq!(FailureClass::of(None), FailureClass::Failed);
    }

    #[test]
    fn stored_rows_keep_their_bytes() {
        let mut row = TargetRow::new(2, 7, "lyon".to_owned(), UnixMillis(1000));
        row.state = TargetState::Skipped;
        row.order = 3;
        row.want = Some(Want::Revert);
        row.paced_at = Some(UnixMillis(5));
        row.verdict = Some((UnixMillis(9), Verdict::WentSilent));
        row.class = Some(FailureClass::Gated);
        row.count_retry(FailureClass::Fetch);
        row.retry_at = Some(UnixMillis(11));
        row.degraded = true;
        row.crossed = 4;
        let bytes = postcard::to_stdvec(&row).unwrap();
        let frozen: [u8; 30] = [
            2, 7, 4, b'l', b'y', b'o', b'n', 15, 0xe8, 7, 3, 1, 3, 1, 5, 0xe8, 7, 1, 9, 5, 1, 5, 1,
            1, 1, 1, 11, 1, 4, 0,
        ];
        assert_eq!(bytes, frozen[..29], "a changed row is a new format");
        assert_eq!(postcard::from_bytes::<TargetRow>(&bytes).unwrap(), row);
    }
}
