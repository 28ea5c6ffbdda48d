//! What a node keeps of a deployment, and how orders and their ends change it.
//!
//! A record holds the newest order, the revision that is gone back to, and how far
//! the order came. Each step that must survive a crash is a [`Transition`]: the
//! new record and, where the order ended by it, its result; the two are made
//! durable in one commit, so there is exactly one result for every order that was
//! begun.

use protocol::ErrorCode;
use protocol::deployment::desired::{Commit, Desired, OnFailure, Target, Want};
use protocol::deployment::observed::{ChangeOutcome, DeploymentResult, Workload};
use protocol::id::RolloutId;
use protocol::release::Update;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::stored;

/// The layout of a record on disk. Raised when a field changes.
const FORMAT: u8 = 1;

/// What a node keeps of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The newest order.
    pub desired: Desired,
    /// The revision that was healthy and committed last: what is gone back to.
    pub committed: Option<Box<Target>>,
    /// How far the order came.
    pub stage: Stage,
    /// Whether a change that did not succeed may have stopped containers of the
    /// committed revision.
    pub disturbed: bool,
}

/// How far an order came. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing was done for it.
    New,
    /// It is worked on.
    Changing,
    /// It was healthy; the revision before is kept until the commit. Its result
    /// is told.
    AwaitingCommit,
    /// It failed, and what was before is put back.
    Reverting(Failure),
    /// It ended so, and its result is told.
    Settled(ChangeOutcome, Option<Failure>),
}

/// Why a change failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The error code's text.
    pub code: String,
    /// What happened, for a person.
    pub detail: String,
    /// The containers that failed, as they were then.
    pub workloads: Vec<Workload>,
}

impl Failure {
    /// A failure that no container shows.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code: code.text().to_owned(),
            detail: detail.into(),
            workloads: Vec::new(),
        }
    }
}

/// A step of a record that must be durable before anything follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The record from then on.
    pub record: Record,
    /// The result of an order that ended by it.
    pub result: Option<DeploymentResult>,
}

impl Record {
    /// The record of a deployment's first order.
    #[must_use]
    pub fn new(desired: Desired) -> Self {
        Self {
            desired,
            committed: None,
            stage: Stage::New,
            disturbed: false,
        }
    }

    /// A newer order. One that was begun and has not ended is superseded by it.
    #[must_use]
    pub fn take(&self, desired: Desired, at: UnixMillis) -> Transition {
        let begun = matches!(self.stage, Stage::Changing | Stage::Reverting(_));
        let result = begun.then(|| {
            let detail = format!(
                "generation {} came while generation {} was worked on",
                desired.generation, self.desired.generation
            );
            let code = ErrorCode::DeploymentSuperseded.text().to_owned();
            self.result(ChangeOutcome::Superseded, Some(code), detail, at)
        });
        // The commit of what runs and was healthy changes nothing that a policy or a
        // breaker could have a word in.
        let commits = self.stage == Stage::AwaitingCommit
            && match (self.wanted(), &desired.want) {
                (Some(runs), Want::Run(target)) => runs.spec == target.spec,
                (_, Want::Run(_) | Want::Remove | Want::Update(_)) => false,
            };
        let record = Self {
            desired,
            committed: self.committed.clone(),
            stage: if commits { Stage::Changing } else { Stage::New },
            disturbed: self.disturbed || begun,
        };
        Transition { record, result }
    }

    /// The order is begun.
    #[must_use]
    pub fn begin(&self) -> Transition {
        self.to(Stage::Changing, None)
    }

    /// The order is not begun, and will not be.
    #[must_use]
    pub fn refuse(&self, code: ErrorCode, detail: &str, epoch: u64, at: UnixMillis) -> Transition {
        let failure = Failure::new(code, detail);
        let mut transition = self.settle(ChangeOutcome::Refused, Some(failure), at);
        if let Some(result) = &mut transition.result {
            result.policy_epoch = epoch;
        }
        transition
    }

    /// What was wanted was healthy for as long as asked, or is gone where nothing
    /// was wanted.
    #[must_use]
    pub fn succeed(&self, at: UnixMillis) -> Transition {
        let (committed, waits) = match &self.desired.want {
            Want::Run(target) => match target.commit {
                Commit::WhenHealthy => (Some(target.clone()), false),
                Commit::Barrier => (self.committed.clone(), true),
            },
            Want::Remove | Want::Update(_) => (None, false),
        };
        if waits {
            let detail = "healthy; the revision before is kept until the commit".to_owned();
            let result = self.result(ChangeOutcome::Succeeded, None, detail, at);
            return self.to(Stage::AwaitingCommit, Some(result));
        }
        let mut transition = self.settle(ChangeOutcome::Succeeded, None, at);
        transition.record.committed = committed;
        transition.record.disturbed = false;
        transition
    }

    /// What was wanted failed. What was before is put back, if that is asked for.
    #[must_use]
    pub fn fail(&self, failure: Failure, at: UnixMillis) -> Transition {
        let back = match &self.desired.want {
            Want::Run(target) => {
                let same = self
                    .committed
                    .as_ref()
                    .is_some_and(|committed| committed.spec == target.spec);
                target.on_failure == OnFailure::Revert && !same
            }
            Want::Remove | Want::Update(_) => false,
        };
        if back {
            let mut transition = self.to(Stage::Reverting(failure), None);
            transition.record.disturbed = true;
            transition
        } else {
            self.settle(ChangeOutcome::Failed, Some(failure), at)
        }
    }

    /// An update did not come about: the version before runs, as it did.
    #[must_use]
    pub fn gave_up(&self, failure: Failure, at: UnixMillis) -> Transition {
        self.settle(ChangeOutcome::Reverted, Some(failure), at)
    }

    /// The version of the agent that is wanted, where the order is of one.
    #[must_use]
    pub fn update(&self) -> Option<&Update> {
        match &self.desired.want {
            Want::Update(update) => Some(update),
            Want::Run(_) | Want::Remove => None,
        }
    }

    /// What was before is back, or cannot be brought back: then `trouble` says why.
    #[must_use]
    pub fn reverted(&self, trouble: Option<&str>, at: UnixMillis) -> Transition {
        let failure = match &self.stage {
            Stage::Reverting(failure) => Some(failure.clone()),
            Stage::New | Stage::Changing | Stage::AwaitingCommit | Stage::Settled(..) => None,
        };
        let failure = failure.map(|mut failure| {
            if let Some(trouble) = trouble {
                failure.detail = format!(
                    "{}; and the revision before does not run: {trouble}",
                    failure.detail
                );
            }
            failure
        });
        let outcome = if self.committed.is_some() && trouble.is_none() {
            ChangeOutcome::Reverted
        } else {
            ChangeOutcome::Failed
        };
        let mut transition = self.settle(outcome, failure, at);
        transition.record.disturbed = trouble.is_some();
        transition
    }

    /// The revision that is wanted.
    #[must_use]
    pub fn wanted(&self) -> Option<&Target> {
        match &self.desired.want {
            Want::Run(target) => Some(target),
            Want::Remove | Want::Update(_) => None,
        }
    }

    /// The revision that is wanted, of whichever kind, and the rollout that brings it.
    fn asked(&self) -> (Option<u32>, Option<RolloutId>) {
        match &self.desired.want {
            Want::Run(target) => (Some(target.revision), target.rollout),
            Want::Update(update) => (Some(update.revision), update.rollout),
            Want::Remove => (None, None),
        }
    }

    /// A revision that the record knows.
    #[must_use]
    pub fn target(&self, revision: u32) -> Option<&Target> {
        self.wanted()
            .into_iter()
            .chain(self.committed.as_deref())
            .find(|target| target.revision == revision)
    }

    /// Whether there is nothing left to be done or kept for it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.desired.want, Want::Remove)
            && matches!(self.stage, Stage::Settled(ChangeOutcome::Succeeded, _))
    }

    /// Whether the order was begun and its result is not told yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(
            self.stage,
            Stage::New | Stage::Changing | Stage::Reverting(_)
        )
    }

    fn to(&self, stage: Stage, result: Option<DeploymentResult>) -> Transition {
        let record = Self {
            stage,
            ..self.clone()
        };
        Transition { record, result }
    }

    fn settle(
        &self,
        outcome: ChangeOutcome,
        failure: Option<Failure>,
        at: UnixMillis,
    ) -> Transition {
        let (code, detail) = match &failure {
            Some(failure) => (Some(failure.code.clone()), failure.detail.clone()),
            None => (None, String::new()),
        };
        let result = self.result(outcome, code, detail, at);
        self.to(Stage::Settled(outcome, failure), Some(result))
    }

    fn result(
        &self,
        outcome: ChangeOutcome,
        code: Option<String>,
        detail: String,
        at: UnixMillis,
    ) -> DeploymentResult {
        let (revision, rollout) = self.asked();
        DeploymentResult {
            deployment: self.desired.deployment,
            generation: self.desired.generation,
            revision,
            rollout,
            outcome,
            code,
            policy_epoch: 0,
            detail,
            at,
        }
    }

    /// The bytes that are kept on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        stored::encode(FORMAT, self)
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes, as text.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        stored::decode(FORMAT, bytes, "record of a deployment")
    }
}
