//! The next decision: to halt, to begin a wave, to pause, to commit, to end.

use std::time::Duration;

use protocol::time::UnixMillis;

use super::undo::Ending;
use super::{ASK_AGAIN, BreakerAction, Rollout};
use crate::domain::audit::merkle;
use crate::domain::digest::Digest;
use crate::domain::rollout::course::Stop;
use crate::domain::rollout::event::{
    Counts, Decision, Kind, Outcome, PauseReason, RolloutCommitted, RolloutFinished, RolloutHalted,
    RolloutPaused, WaveStarted,
};
use crate::domain::rollout::halt::{Evidence, judge};
use crate::domain::rollout::params::{CommitMode, OnHalt, OnInconclusive};
use crate::domain::rollout::target::TargetState;

/// Where the wave that runs stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Nodes are still to be told, or have not ended.
    Busy,
    /// It is watched until then.
    Soaking {
        /// When it has soaked.
        until: UnixMillis,
    },
    /// Nodes are outside of their maintenance windows, which are waited for.
    Closed,
    /// Nodes that are away are waited for.
    Awaiting {
        /// Until then.
        until: UnixMillis,
    },
    /// It proves nothing.
    Inconclusive(PauseReason),
    /// The next one may begin.
    Done,
}

impl Rollout {
    /// Asks for the next decision, unless that was asked for a moment ago.
    pub(super) fn steer(&mut self, now: UnixMillis) {
        if self.course.finished.is_some() {
            return;
        }
        let Some(decision) = self.next_decision(now) else {
            // What was asked for has lost its reason. Its answer may still come, so
            // a stop holds until it should have been there.
            if self
                .asked
                .as_ref()
                .is_some_and(|(_, at)| now >= at.after(ASK_AGAIN))
            {
                self.asked = None;
            }
            return;
        };
        let waiting = self.asked.as_ref().is_some_and(|(asked, at)| {
            core::mem::discriminant(asked) == core::mem::discriminant(&decision)
                && now < at.after(ASK_AGAIN)
        });
        if !waiting {
            let decision = self.completed(decision);
            self.asked = Some((decision.clone(), now));
            self.records.push(decision);
        }
    }

    fn next_decision(&self, now: UnixMillis) -> Option<Decision> {
        let ending = self.ending();
        if ending == Ending::Open && now >= self.deadline(now) && self.course.committed_at.is_none()
        {
            return Some(self.halted(Evidence::Deadline, OnHalt::Keep));
        }
        if self.course.stop.is_some() {
            let outcome = self.outcome();
            return self.is_undone(now).then(|| self.finished(outcome));
        }
        if self.course.committed_at.is_some() {
            let total = self.tally.total();
            let open = total.of(TargetState::Committing) + total.of(TargetState::Healthy);
            return (open == 0).then(|| self.finished(Outcome::Completed));
        }
        if let Some(evidence) = self.evidence(now) {
            return Some(self.halted(evidence, self.course.params.on_halt));
        }
        match self.stand(now) {
            Stand::Busy | Stand::Closed | Stand::Soaking { .. } | Stand::Awaiting { .. } => None,
            Stand::Inconclusive(why) => Some(Decision::Paused(RolloutPaused {
                rollout: self.course.rollout,
                step: self.course.step,
                why,
            })),
            Stand::Done => self.onward(now),
        }
    }

    /// What comes after a wave that is done.
    fn onward(&self, now: UnixMillis) -> Option<Decision> {
        let wave = self.course.next_wave();
        if wave < self.course.wave_count {
            let may_start =
                self.course.gate().is_none() && !self.is_held(wave) && now >= self.start_of(wave);
            return may_start.then_some(Decision::WaveStarted(WaveStarted {
                rollout: self.course.rollout,
                step: self.course.step,
                wave,
            }));
        }
        if self.course.params.commit == CommitMode::Barrier {
            return Some(Decision::Committed(RolloutCommitted {
                rollout: self.course.rollout,
                step: self.course.step,
            }));
        }
        Some(self.finished(Outcome::Completed))
    }

    fn evidence(&self, now: UnixMillis) -> Option<Evidence> {
        let tripped = self
            .breakers
            .iter()
            .find(|(_, hold)| hold.action == BreakerAction::Halt && !self.course.is_known(hold.at));
        if let Some((breaker, _)) = tripped
            && self.course.kind == Kind::Forward
        {
            let breaker = breaker.clone();
            return Some(Evidence::Breaker { breaker });
        }
        let (wave, _) = self.course.wave?;
        judge(&self.course.params.halt, &self.tally, wave, now)
    }

    /// Where the wave that runs stands.
    #[must_use]
    pub fn stand(&self, now: UnixMillis) -> Stand {
        let Some((wave, wave_at)) = self.course.wave else {
            return Stand::Done;
        };
        let begun = self.tally.through(wave);
        let open = [
            TargetState::Sent,
            TargetState::Working,
            TargetState::Delayed,
        ];
        let busy = open.into_iter().any(|state| begun.of(state) > 0)
            || self.ready.first().is_some_and(|(of, _, _)| *of <= wave);
        if busy {
            return Stand::Busy;
        }
        let quiet_since = [self.tally.last_at(), self.course.resumed_at]
            .into_iter()
            .flatten()
            .fold(wave_at, UnixMillis::max);
        let counts = self.tally.wave(wave);
        let of = counts.members();
        let absent = counts.of(TargetState::Pending);
        let succeeded = counts.of(TargetState::Healthy) + counts.of(TargetState::Succeeded);
        let last = self.course.next_wave() >= self.course.wave_count;
        // One whose nodes are all out of service shows as little as one that is away.
        let aside = counts.of(TargetState::Cordoned) + counts.of(TargetState::Drained);
        let is_empty = of == 0 && aside == 0;
        let away = absent + counts.of(TargetState::Windowed);
        let proves_nothing = !is_empty && (away > of / 2 || succeeded == 0);
        let unproven = proves_nothing && self.course.waived != Some(wave);
        let waits_for_window = if last {
            begun.of(TargetState::Windowed) > 0
        } else {
            unproven && counts.of(TargetState::Windowed) > 0
        };
        if waits_for_window {
            return Stand::Closed;
        }
        let wait_over = quiet_since.after(self.silent_deadline());
        let wanted = if last {
            begun.of(TargetState::Pending) > 0
        } else {
            unproven
        };
        if wanted && (last || of > 0) && now < wait_over {
            return Stand::Awaiting { until: wait_over };
        }
        // Nothing was changed in it, so it says nothing against a revision that an
        // earlier wave has proved; its nodes get it when they are back.
        let proven = begun.of(TargetState::Healthy) + begun.of(TargetState::Succeeded) > 0;
        let passed_over = absent == of && proven;
        let pauses = self.course.params.on_inconclusive == OnInconclusive::Pause;
        if wanted && !last && pauses && !passed_over {
            return Stand::Inconclusive(PauseReason::Inconclusive {
                wave,
                absent,
                succeeded,
                of,
            });
        }
        let soak_ms = self
            .course
            .params
            .waves
            .get(wave as usize)
            .map_or(0, |wave| wave.soak_ms);
        let until = quiet_since.after(Duration::from_millis(soak_ms));
        if now < until {
            return Stand::Soaking { until };
        }
        Stand::Done
    }

    /// When the rollout's time is over. It does not run while everything that is left
    /// waits for maintenance windows.
    fn deadline(&self, now: UnixMillis) -> UnixMillis {
        let deadline = Duration::from_millis(self.course.params.deadline_ms);
        let waits = self.waits_since.map(|since| now.since(since));
        self.course
            .started_at
            .after(deadline)
            .after(self.waited)
            .after(waits.unwrap_or_default())
    }

    /// Whether everything that is left waits for maintenance windows.
    pub(super) fn waits_for_window(&self, now: UnixMillis) -> bool {
        let is_running = self.course.is_running() && self.course.committed_at.is_none();
        is_running && self.stand(now) == Stand::Closed
    }

    fn silent_deadline(&self) -> Duration {
        Duration::from_millis(self.course.params.silent_deadline_ms)
    }

    fn start_of(&self, wave: u32) -> UnixMillis {
        let waves = &self.course.params.waves;
        let after_ms = waves
            .get(wave as usize)
            .map_or(0, |wave| wave.start_after_ms);
        self.course
            .started_at
            .after(Duration::from_millis(after_ms))
    }

    fn halted(&self, evidence: Evidence, then: OnHalt) -> Decision {
        Decision::Halted(RolloutHalted {
            rollout: self.course.rollout,
            step: self.course.step,
            evidence,
            then,
        })
    }

    fn outcome(&self) -> Outcome {
        match &self.course.stop {
            Some(Stop::Aborted { .. }) => Outcome::Aborted,
            Some(Stop::Halted { evidence, .. }) if *evidence == Evidence::Deadline => {
                Outcome::Expired
            }
            Some(Stop::Halted { .. } | Stop::Paused(_)) | None => match self.ending() {
                Ending::Revert if self.is_back() => Outcome::Reverted,
                Ending::Revert | Ending::Keep | Ending::Open => Outcome::Halted,
            },
        }
    }

    fn finished(&self, outcome: Outcome) -> Decision {
        Decision::Finished(RolloutFinished {
            rollout: self.course.rollout,
            step: self.course.step,
            outcome,
            counts: Counts::default(),
            merkle_root: Digest([0; 32]),
        })
    }

    /// Fills in what takes a look at every row, once it is asked for.
    fn completed(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Finished(event) => Decision::Finished(RolloutFinished {
                counts: self.counts(),
                merkle_root: self.merkle_root(),
                ..event
            }),
            other @ (Decision::WaveStarted(_)
            | Decision::WaveApproved(_)
            | Decision::Halted(_)
            | Decision::Paused(_)
            | Decision::Resumed(_)
            | Decision::Aborted(_)
            | Decision::Committed(_)) => other,
        }
    }

    /// How many targets stand how, in the words of an end.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let total = self.tally.total();
        let of = |states: &[TargetState]| states.iter().map(|state| total.of(*state)).sum();
        Counts {
            succeeded: of(&[TargetState::Succeeded, TargetState::Healthy]),
            failed: of(&[TargetState::Failed, TargetState::Delayed]),
            reverted: of(&[TargetState::Reverted]),
            refused: of(&[TargetState::Refused]),
            silent: of(&[
                TargetState::Silent,
                TargetState::Sent,
                TargetState::Working,
                TargetState::Committing,
                TargetState::Recalling,
                TargetState::Reverting,
            ]),
            recalled: of(&[TargetState::Recalled]),
            unreached: of(&[
                TargetState::Pending,
                TargetState::Held,
                TargetState::Cordoned,
                TargetState::Windowed,
            ]),
            skipped: of(&[TargetState::Skipped, TargetState::Drained]),
        }
    }

    /// The Merkle root over the rows, by node id.
    #[must_use]
    pub fn merkle_root(&self) -> Digest {
        let leaves: Vec<Digest> = self
            .rows()
            .map(|(node, row)| {
                let verdict = row.verdict.map_or("", |(_, verdict)| verdict.name());
                let text = format!(
                    "{node} {} {} {} {verdict}",
                    row.state.name(),
                    row.order,
                    row.since.0
                );
                merkle::leaf(text.as_bytes())
            })
            .collect();
        merkle::root(&leaves)
    }

    /// When the machine must be stepped again at the latest, and why; none when
    /// only nodes and people can move it.
    #[must_use]
    pub fn wakes_at(&self, now: UnixMillis) -> Option<(UnixMillis, &'static str)> {
        let mut times: Vec<(UnixMillis, &'static str)> = Vec::new();
        if let Some((at, _)) = self.due.first() {
            times.push((*at, "a node's silence or delay ends"));
        }
        if let Some((_, at)) = &self.asked {
            times.push((at.after(ASK_AGAIN), "a decision is asked for again"));
        }
        let open = self.open_wave();
        let waits = open.is_some_and(|wave| self.ready.first().is_some_and(|r| r.0 <= wave));
        if waits || (self.ending() == Ending::Revert && self.course.finished.is_none()) {
            let at = self.pace.next_at(self.rate_per_min());
            if at > now {
                times.push((at, "the rate allows the next node"));
            }
        }
        if self.course.finished.is_none() {
            match self.ending() {
                Ending::Open if self.waits_since.is_none() => {
                    times.push((self.deadline(now), "the rollout's deadline"));
                }
                Ending::Revert => times.push((self.given_up_at(), "nothing moves back")),
                Ending::Open | Ending::Keep => {}
            }
            if self.course.is_running() {
                match self.stand(now) {
                    Stand::Soaking { until } => times.push((until, "the wave has soaked")),
                    Stand::Awaiting { until } => times.push((until, "nodes are away")),
                    Stand::Done if self.course.next_wave() < self.course.wave_count => {
                        times.push((self.start_of(self.course.next_wave()), "a wave's time"));
                    }
                    Stand::Busy | Stand::Closed | Stand::Inconclusive(_) | Stand::Done => {}
                }
            }
        }
        times.into_iter().filter(|(at, _)| *at > now).min()
    }
}
