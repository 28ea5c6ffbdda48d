//! The course of a rollout: the fold over its decisions.
//!
//! The engine asks [`Course::check`] before it records a decision, and both the
//! fleet's state and the machine take recorded ones in by [`Course::apply`].
//!
//! **Invariant:** the same decisions give the same course; `apply` cannot fail.

use protocol::ErrorCode;
use protocol::id::RolloutId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::rejection::Rejection;
use crate::domain::rollout::event::{
    AfterAbort, Counts, Decision, Kind, Outcome, PauseReason, RolloutStarted,
};
use crate::domain::rollout::halt::Evidence;
use crate::domain::rollout::params::{Approve, CommitMode, OnHalt, Params, SelfApproval};

/// What was decided about a rollout so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// The rollout.
    pub rollout: RolloutId,
    /// Whether it moves forward or back.
    pub kind: Kind,
    /// How it is to go.
    pub params: Params,
    /// How many waves it has.
    pub wave_count: u32,
    /// When it was made.
    pub started_at: UnixMillis,
    /// How many decisions were recorded after that.
    pub step: u32,
    /// The wave that began last, and when; none before the first.
    pub wave: Option<(u32, UnixMillis)>,
    /// The wave whose gate was opened last.
    pub approved: Option<u32>,
    /// Results up to here count no more, since someone resumed.
    pub acknowledged_at: Option<UnixMillis>,
    /// When someone resumed last.
    pub resumed_at: Option<UnixMillis>,
    /// The wave that may be left although it proved nothing.
    pub waived: Option<u32>,
    /// Why nothing is started.
    pub stop: Option<Stop>,
    /// When nodes were told to commit.
    pub committed_at: Option<UnixMillis>,
    /// How it ended, and when.
    pub finished: Option<Finished>,
}

/// Why nothing is started. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It paused.
    Paused(PauseReason),
    /// It halted.
    Halted {
        /// On which evidence.
        evidence: Evidence,
        /// What follows.
        then: OnHalt,
    },
    /// It was aborted.
    Aborted {
        /// What happens to nodes that succeeded.
        then: AfterAbort,
    },
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// When.
    pub at: UnixMillis,
    /// How.
    pub outcome: Outcome,
    /// How many targets ended how.
    pub counts: Counts,
}

impl Course {
    /// The course of a rollout that was just made.
    #[must_use]
    pub fn new(event: &RolloutStarted, at: UnixMillis) -> Self {
        Self {
            rollout: event.rollout,
            kind: event.kind,
            params: event.params.clone(),
            wave_count: u32::try_from(event.waves.len()).unwrap_or(u32::MAX),
            started_at: at,
            step: 0,
            wave: None,
            approved: None,
            acknowledged_at: None,
            resumed_at: None,
            waived: None,
            stop: None,
            committed_at: None,
            finished: None,
        }
    }

    /// The wave that would begin next.
    #[must_use]
    pub fn next_wave(&self) -> u32 {
        self.wave.map_or(0, |(wave, _)| wave + 1)
    }

    /// Whether nothing stands against starting more, gates and breakers apart.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stop.is_none() && self.finished.is_none()
    }

    /// Whether every wave was gone through.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.finished
            .as_ref()
            .is_some_and(|end| end.outcome == Outcome::Completed)
    }

    /// Whether it stopped in a way that a person can end: paused, or halted to wait.
    #[must_use]
    pub fn awaits_a_person(&self) -> bool {
        match &self.stop {
            Some(Stop::Paused(_)) => true,
            Some(Stop::Halted { then, .. }) => *then == OnHalt::Pause,
            Some(Stop::Aborted { .. }) | None => false,
        }
    }

    /// Whether something that happened then was known to whoever started the rollout
    /// or resumed it last.
    #[must_use]
    pub fn is_known(&self, at: UnixMillis) -> bool {
        self.acknowledged_at
            .map_or(self.started_at, |seen| seen.max(self.started_at))
            >= at
    }

    /// What must agree before the next wave starts, where that is still open.
    #[must_use]
    pub fn gate(&self) -> Option<Approve> {
        let next = self.next_wave();
        if next >= self.wave_count || self.approved == Some(next) {
            return None;
        }
        let wave = self.params.waves.get(next as usize)?;
        (wave.approve != Approve::None).then_some(wave.approve)
    }

    /// Whether the one who asked for the rollout may open its gates.
    ///
    /// # Errors
    /// `rollout.self_approval` when somebody else must.
    pub fn check_approver<C: PartialEq>(&self, asked: &C, approver: &C) -> Result<(), Rejection> {
        if self.params.self_approval == SelfApproval::Forbidden && asked == approver {
            return Err(Rejection::new(
                ErrorCode::RolloutSelfApproval,
                format!(
                    "rollout {} was asked for by the same caller; someone else must approve it",
                    self.rollout
                ),
            ));
        }
        Ok(())
    }

    /// Whether a decision can be recorded as it stands.
    ///
    /// # Errors
    /// `rollout.state`, with what stands against it.
    pub fn check(&self, decision: &Decision) -> Result<(), Rejection> {
        if decision.step() != self.step {
            return self.refuse(format!(
                "it is at step {}, not {}: look at it again",
                self.step,
                decision.step()
            ));
        }
        if let Some(end) = &self.finished {
            return self.refuse(format!("it has ended: {}", end.outcome.name()));
        }
        match decision {
            Decision::WaveStarted(event) => {
                self.expect(
                    self.is_running() && self.committed_at.is_none(),
                    "it does not run",
                )?;
                self.expect(
                    event.wave == self.next_wave() && event.wave < self.wave_count,
                    "this wave is not the next",
                )?;
                self.expect(self.gate().is_none(), "the wave's gate is shut")
            }
            Decision::WaveApproved(event) => self.expect(
                event.wave == self.next_wave() && self.gate() == Some(Approve::Human),
                "this wave waits for no person",
            ),
            Decision::Halted(event) => {
                let last_word = event.evidence == Evidence::Deadline;
                self.expect(
                    self.stop.is_none()
                        || last_word
                        || !matches!(self.stop, Some(Stop::Halted { .. } | Stop::Aborted { .. })),
                    "it has stopped already",
                )
            }
            Decision::Paused(_) => self.expect(
                self.is_running() && self.committed_at.is_none(),
                "it does not run, or commits",
            ),
            Decision::Resumed(_) => self.expect(
                self.awaits_a_person(),
                "it neither paused nor halted to wait",
            ),
            Decision::Aborted(_) => self.expect(
                (self.stop.is_none() || self.awaits_a_person()) && self.committed_at.is_none(),
                "it is ending already",
            ),
            Decision::Committed(_) => self.expect(
                self.is_running()
                    && self.params.commit == CommitMode::Barrier
                    && self.committed_at.is_none()
                    && self.next_wave() >= self.wave_count,
                "there is nothing to commit",
            ),
            Decision::Finished(_) => Ok(()),
        }
    }

    fn expect(&self, holds: bool, otherwise: &str) -> Result<(), Rejection> {
        if holds {
            Ok(())
        } else {
            self.refuse(otherwise.to_owned())
        }
    }

    fn refuse(&self, why: String) -> Result<(), Rejection> {
        Err(Rejection::new(
            ErrorCode::RolloutState,
            format!("rollout {}: {why}", self.rollout),
        ))
    }

    /// Takes a recorded decision in. One that is not the next changes nothing: it
    /// was taken in before.
    pub fn apply(&mut self, decision: &Decision, at: UnixMillis) {
        if decision.step() != self.step {
            return;
        }
        self.step += 1;
        match decision {
            Decision::WaveStarted(event) => self.wave = Some((event.wave, at)),
            Decision::WaveApproved(event) => self.approved = Some(event.wave),
            Decision::Halted(event) => {
                self.stop = Some(Stop::Halted {
                    evidence: event.evidence.clone(),
                    then: event.then,
                });
            }
            Decision::Paused(event) => self.stop = Some(Stop::Paused(event.why.clone())),
            Decision::Resumed(event) => {
                if let Some(Stop::Paused(PauseReason::Inconclusive { wave, .. })) = &self.stop {
                    self.waived = Some(*wave);
                }
                self.stop = None;
                self.acknowledged_at = Some(event.acknowledged_at);
                self.resumed_at = Some(at);
            }
            Decision::Aborted(event) => self.stop = Some(Stop::Aborted { then: event.then }),
            Decision::Committed(_) => self.committed_at = Some(at),
            Decision::Finished(event) => {
                self.finished = Some(Finished {
                    at,
                    outcome: event.outcome,
                    counts: event.counts,
                });
            }
        }
    }
}
