//! The breaker's machine: what it was told and the time go in, transitions come
//! out.
//!
//! Whoever owns one calls [`Breaker::step`] with everything that happens and, at
//! [`Breaker::wakes_at`], with [`Input::Tick`]; before each thing that it guards
//! it asks [`Breaker::admit`], and tells how that ended with the input that the
//! permit makes. `step` moves time first, so no caller has to tick before it.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::BreakerState;
use super::rule::{BreakerRule, Confidence};
use super::wilson;
use super::window::{Counts, Window};
use crate::time::UnixMillis;

/// Bytes of who ordered something, and of why, as they are kept in a reason; what
/// is longer is cut. A reason then fits a receipt's detail with room.
pub const ORDER_BYTES_MAX: usize = 256;

/// One breaker: its rule, where it stands, and what it has counted. May be stored
/// whole; or only its transitions, with what [`super`] says of that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Breaker {
    rule: BreakerRule,
    standing: Standing,
    window: Window,
    round: Round,
}

/// Where a breaker stands: exactly what its transitions say.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// Its state.
    pub state: BreakerState,
    /// Since when.
    pub since: UnixMillis,
    /// Milliseconds after `since` at which probes may try, while it is open; 0 is
    /// when someone resets it.
    pub wait_ms: u64,
    /// The number of the newest round of probes, from 1; never used again.
    pub round: u64,
    /// Rounds of probes that failed since it was closed.
    pub strikes: u32,
    /// Why it is in this state; none before the first transition.
    pub reason: Option<Reason>,
}

impl Standing {
    /// When probes may try; none when it is not open, or waits for a reset.
    #[must_use]
    pub fn tries_at(&self) -> Option<UnixMillis> {
        let waits = self.state == BreakerState::Open && self.wait_ms != 0;
        waits.then(|| UnixMillis(self.since.0.saturating_add(self.wait_ms)))
    }
}

/// The probes of one half-open round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Round {
    permits: u32,
    succeeded: u32,
    failed: u32,
    /// When the first permit was given.
    began: Option<UnixMillis>,
}

/// Someone's order, with the words that go into the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Order {
    /// Who gave it.
    pub by: String,
    /// Why.
    pub why: String,
}

/// What a breaker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Something that it guards, or watches, ended. Counted while it is closed.
    Sample {
        /// Whether it succeeded.
        ok: bool,
    },
    /// A probe ended. Counted in the round that it belongs to.
    ProbeResult {
        /// The round that its permit named.
        round: u64,
        /// Whether it succeeded.
        ok: bool,
    },
    /// Open it, with a cool-down as if it had tripped. Changes nothing in one that
    /// is open or isolated.
    Trip(Order),
    /// Open it until someone resets it.
    Isolate(Order),
    /// Close it and forget what was counted.
    Reset(Order),
    /// Nothing but that time has passed.
    Tick,
}

/// A breaker moved: a fact to be recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Transition {
    /// The state that it left.
    pub from: BreakerState,
    /// The state that it entered.
    pub to: BreakerState,
    /// When.
    pub at: UnixMillis,
    /// Why, with the evidence.
    pub reason: Reason,
    /// Milliseconds until probes may try, when it opened; 0 is until someone
    /// resets it.
    pub wait_ms: u64,
    /// The number of the newest round of probes.
    pub round: u64,
    /// Rounds of probes that failed since it was closed.
    pub strikes: u32,
}

/// Why a breaker moved. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It tripped by failures in a row.
    Consecutive {
        /// How many.
        row: u32,
        /// How many trip it.
        limit: u32,
    },
    /// It tripped by the number of failures in the window.
    Count {
        /// What the window held.
        counts: Counts,
        /// How many failures trip it.
        limit: u32,
        /// The window's length.
        window_ms: u64,
    },
    /// It tripped by the share of failures in the window.
    Share {
        /// What the window held.
        counts: Counts,
        /// The lower bound of the share, in thousandths, rounded down.
        bound_permille: u16,
        /// The percentage that trips it.
        percent: u8,
        /// How sure the bound is.
        confidence: Confidence,
        /// The window's length.
        window_ms: u64,
    },
    /// Someone tripped it.
    Tripped(Order),
    /// Someone isolated it.
    Isolated(Order),
    /// Someone reset it.
    Reset(Order),
    /// It was open for as long as its cool-down.
    CooledDown {
        /// How long that was.
        wait_ms: u64,
    },
    /// Enough probes succeeded.
    ProbesSucceeded {
        /// How many.
        succeeded: u32,
        /// How many failed.
        failed: u32,
    },
    /// So many probes failed that it cannot close any more.
    ProbesFailed {
        /// How many.
        failed: u32,
        /// How many had succeeded.
        succeeded: u32,
        /// How many are needed.
        needed: u32,
    },
    /// The probes did not all answer in time.
    ProbesSilent {
        /// How many succeeded.
        succeeded: u32,
        /// How many are needed.
        needed: u32,
        /// The time that they had.
        limit_ms: u64,
    },
}

impl Reason {
    /// The reason's name: a bounded set, for metrics and filters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Consecutive { .. } => "consecutive",
            Self::Count { .. } => "count",
            Self::Share { .. } => "share",
            Self::Tripped(_) => "tripped",
            Self::Isolated(_) => "isolated",
            Self::Reset(_) => "reset",
            Self::CooledDown { .. } => "cooled_down",
            Self::ProbesSucceeded { .. } => "probes_succeeded",
            Self::ProbesFailed { .. } => "probes_failed",
            Self::ProbesSilent { .. } => "probes_silent",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive { row, limit } => {
                write!(f, "{row} failures in a row, {limit} trip it")
            }
            Self::Count {
                counts,
                limit,
                window_ms,
            } => write!(
                f,
                "{} of {} failed within {}, {limit} trip it",
                counts.failed,
                counts.samples(),
                Span(*window_ms)
            ),
            Self::Share {
                counts,
                bound_permille,
                percent,
                confidence,
                window_ms,
            } => {
                write!(
                    f,
                    "{} of {} failed within {}: ",
                    counts.failed,
                    counts.samples(),
                    Span(*window_ms)
                )?;
                let (whole, tenth) = (bound_permille / 10, bound_permille % 10);
                match confidence.percent() {
                    Some(sure) => write!(f, "{sure} % sure of at least {whole}.{tenth} %")?,
                    None => write!(f, "{whole}.{tenth} %")?,
                }
                write!(f, ", {percent} % trips it")
            }
            Self::Tripped(Order { by, why }) => write!(f, "tripped by {by}: {why}"),
            Self::Isolated(Order { by, why }) => write!(f, "isolated by {by}: {why}"),
            Self::Reset(Order { by, why }) => write!(f, "reset by {by}: {why}"),
            Self::CooledDown { wait_ms } => {
                write!(f, "its cool-down of {} has passed", Span(*wait_ms))
            }
            Self::ProbesSucceeded { succeeded, failed } => {
                write!(f, "{succeeded} probes succeeded, {failed} failed")
            }
            Self::ProbesFailed {
                failed,
                succeeded,
                needed,
            } => write!(
                f,
                "{failed} probes failed, {succeeded} of {needed} needed succeeded"
            ),
            Self::ProbesSilent {
                succeeded,
                needed,
                limit_ms,
            } => write!(
                f,
                "{succeeded} of {needed} needed probes succeeded within {}",
                Span(*limit_ms)
            ),
        }
    }
}

/// Milliseconds as a person says them: the largest unit that fits exactly.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "min"),
            (1_000, "s"),
        ];
        match units
            .iter()
            .find(|(ms, _)| self.0 != 0 && self.0.is_multiple_of(*ms))
        {
            Some((ms, name)) => write!(f, "{} {name}", self.0 / ms),
            None => write!(f, "{} ms", self.0),
        }
    }
}

/// Leave to do one thing that a breaker guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The breaker is closed.
    Ordinary,
    /// It is half-open, and this is one of its probes.
    Probe {
        /// The round.
        round: u64,
    },
}

impl Permit {
    /// The input that tells how it ended.
    #[must_use]
    pub fn result(self, ok: bool) -> Input {
        match self {
            Self::Ordinary => Input::Sample { ok },
            Self::Probe { round } => Input::ProbeResult { round, ok },
        }
    }
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(rule: BreakerRule) -> Self {
        Self {
            rule,
            standing: Standing::default(),
            window: Window::default(),
            round: Round::default(),
        }
    }

    /// The breaker that its recorded transitions lead to, in their order.
    #[must_use]
    pub fn replay<'a>(
        rule: BreakerRule,
        transitions: impl IntoIterator<Item = &'a Transition>,
    ) -> Self {
        let mut breaker = Self::new(rule);
        for transition in transitions {
            breaker.apply(transition);
        }
        breaker
    }

    /// Moves as recorded, whatever the state before. A half-open one has no probes
    /// to give, since it is not known how many were given.
    pub fn apply(&mut self, transition: &Transition) {
        let Transition {
            from: _,
            to,
            at,
            reason,
            wait_ms,
            round,
            strikes,
        } = transition;
        self.standing = Standing {
            state: *to,
            since: *at,
            wait_ms: *wait_ms,
            round: *round,
            strikes: *strikes,
            reason: Some(reason.clone()),
        };
        self.window.clear();
        self.round = if *to == BreakerState::HalfOpen {
            Round {
                permits: self.rule.recovery.probes,
                began: Some(*at),
                ..Round::default()
            }
        } else {
            Round::default()
        };
    }

    /// Its rule.
    #[must_use]
    pub fn rule(&self) -> &BreakerRule {
        &self.rule
    }

    /// Changes its rule. It stays in its state, an open one for as long as it was
    /// to; what was counted by another window is forgotten.
    pub fn set_rule(&mut self, rule: BreakerRule) {
        if rule.trip.window_ms != self.rule.trip.window_ms {
            self.window.clear();
        }
        self.rule = rule;
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.standing.state
    }

    /// What its window held at the last step.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.window.counts()
    }

    /// Failures since the last success.
    #[must_use]
    pub fn row(&self) -> u32 {
        self.window.row()
    }

    /// When [`Input::Tick`] would move it, and what for.
    #[must_use]
    pub fn wakes_at(&self) -> Option<(UnixMillis, &'static str)> {
        if let Some(at) = self.standing.tries_at() {
            return Some((at, "the cool-down ends"));
        }
        let limit_ms = self.rule.recovery.probe_limit_ms;
        let began = self.round.began.filter(|_| limit_ms != 0)?;
        let probing = self.state() == BreakerState::HalfOpen;
        probing.then(|| {
            let at = UnixMillis(began.0.saturating_add(limit_ms));
            (at, "the probes' time is over")
        })
    }

    /// What [`Breaker::admit`] would say.
    #[must_use]
    pub fn admits(&self) -> Option<Permit> {
        match self.state() {
            BreakerState::Closed => Some(Permit::Ordinary),
            BreakerState::HalfOpen if self.round.permits < self.rule.recovery.probes => {
                Some(Permit::Probe {
                    round: self.standing.round,
                })
            }
            BreakerState::HalfOpen | BreakerState::Open | BreakerState::Isolated => None,
        }
    }

    /// Leave for one thing that it guards, at `now`; none when it is refused. A
    /// half-open breaker counts it as a probe. It does not move time: step with
    /// [`Input::Tick`] before, where nothing else was told for a while.
    pub fn admit(&mut self, now: UnixMillis) -> Option<Permit> {
        let permit = self.admits();
        if let Some(Permit::Probe { .. }) = permit {
            self.round.permits = self.round.permits.saturating_add(1);
            self.round.began.get_or_insert(now);
        }
        permit
    }

    /// Takes one input at `now`. What it moved, in order.
    pub fn step(&mut self, input: Input, now: UnixMillis) -> Vec<Transition> {
        let mut moved = Vec::new();
        self.follow_clock(now);
        moved.extend(self.lapse(now));
        let next = match input {
            Input::Tick => None,
            Input::Sample { ok } => self.sample(ok, now),
            Input::ProbeResult { round, ok } => self.probe_result(round, ok),
            Input::Trip(order) => self.trip(order),
            Input::Isolate(order) => (self.state() != BreakerState::Isolated)
                .then(|| (BreakerState::Isolated, Reason::Isolated(cut(order)))),
            Input::Reset(order) => {
                self.window.clear();
                (self.state() != BreakerState::Closed)
                    .then(|| (BreakerState::Closed, Reason::Reset(cut(order))))
            }
        };
        moved.extend(next.map(|(to, reason)| self.go(to, reason, now)));
        moved
    }

    /// Starts a wait again whose start lies in the future.
    fn follow_clock(&mut self, now: UnixMillis) {
        self.standing.since = self.standing.since.min(now);
        self.round.began = self.round.began.map(|began| began.min(now));
        self.window.turn(self.rule.trip.window_ms, now);
    }

    /// What the passing of time moves: from open to half-open, and from half-open
    /// back. Never to closed.
    fn lapse(&mut self, now: UnixMillis) -> Option<Transition> {
        let (at, _) = self.wakes_at()?;
        if now < at {
            return None;
        }
        let (to, reason) = if self.state() == BreakerState::Open {
            let wait_ms = self.standing.wait_ms;
            (BreakerState::HalfOpen, Reason::CooledDown { wait_ms })
        } else {
            let reason = Reason::ProbesSilent {
                succeeded: self.round.succeeded,
                needed: self.rule.recovery.successes,
                limit_ms: self.rule.recovery.probe_limit_ms,
            };
            (BreakerState::Open, reason)
        };
        Some(self.go(to, reason, now))
    }

    fn sample(&mut self, ok: bool, now: UnixMillis) -> Option<(BreakerState, Reason)> {
        if self.state() != BreakerState::Closed {
            return None;
        }
        self.window.count(ok, self.rule.trip.window_ms, now);
        if ok {
            return None;
        }
        self.tripped_by().map(|reason| (BreakerState::Open, reason))
    }

    /// The first condition that holds.
    fn tripped_by(&self) -> Option<Reason> {
        let trip = &self.rule.trip;
        let (row, counts) = (self.window.row(), self.window.counts());
        if trip.consecutive != 0 && row >= trip.consecutive {
            let limit = trip.consecutive;
            return Some(Reason::Consecutive { row, limit });
        }
        if trip.count != 0 && counts.failed >= trip.count {
            return Some(Reason::Count {
                counts,
                limit: trip.count,
                window_ms: trip.window_ms,
            });
        }
        if trip.percent == 0 || counts.samples() < trip.min_samples {
            return None;
        }
        let bound = wilson::lower_bound(counts.failed, counts.samples(), trip.confidence.z());
        (bound * 100.0 >= f64::from(trip.percent)).then(|| Reason::Share {
            counts,
            bound_permille: permille(bound),
            percent: trip.percent,
            confidence: trip.confidence,
            window_ms: trip.window_ms,
        })
    }

    fn probe_result(&mut self, round: u64, ok: bool) -> Option<(BreakerState, Reason)> {
        let current = self.state() == BreakerState::HalfOpen && round == self.standing.round;
        let answered = self.round.succeeded.saturating_add(self.round.failed);
        if !current || answered >= self.round.permits {
            return None;
        }
        let Round {
            succeeded, failed, ..
        } = &mut self.round;
        *if ok { succeeded } else { failed } += 1;
        let (succeeded, failed) = (self.round.succeeded, self.round.failed);
        let recovery = &self.rule.recovery;
        if ok && succeeded >= recovery.successes {
            let reason = Reason::ProbesSucceeded { succeeded, failed };
            return Some((BreakerState::Closed, reason));
        }
        (failed > recovery.failures_allowed()).then_some((
            BreakerState::Open,
            Reason::ProbesFailed {
                failed,
                succeeded,
                needed: recovery.successes,
            },
        ))
    }

    fn trip(&self, order: Order) -> Option<(BreakerState, Reason)> {
        match self.state() {
            BreakerState::Closed | BreakerState::HalfOpen => {
                Some((BreakerState::Open, Reason::Tripped(cut(order))))
            }
            BreakerState::Open | BreakerState::Isolated => None,
        }
    }

    fn go(&mut self, to: BreakerState, reason: Reason, now: UnixMillis) -> Transition {
        let from = self.state();
        let strikes = match (from, to) {
            (_, BreakerState::Closed) => 0,
            (BreakerState::HalfOpen, BreakerState::Open) => self.standing.strikes.saturating_add(1),
            (
                BreakerState::Closed
                | BreakerState::Open
                | BreakerState::HalfOpen
                | BreakerState::Isolated,
                BreakerState::Open | BreakerState::HalfOpen | BreakerState::Isolated,
            ) => self.standing.strikes,
        };
        let probing = to == BreakerState::HalfOpen;
        let wait_ms = if to == BreakerState::Open {
            self.rule.recovery.wait_ms(strikes)
        } else {
            0
        };
        let transition = Transition {
            from,
            to,
            at: now,
            reason,
            wait_ms,
            round: self.standing.round.saturating_add(u64::from(probing)),
            strikes,
        };
        self.apply(&transition);
        // Here, unlike in a replay, it is known that no probe was let through yet.
        self.round = Round::default();
        transition
    }
}

/// Thousandths of a share from 0 to 1, rounded down.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share from 0 to 1 gives 0 to 1000"
)]
fn permille(share: f64) -> u16 {
    (share.clamp(0.0, 1.0) * 1000.0) as u16
}

fn cut(order: Order) -> Order {
    let Order { mut by, mut why } = order;
    by.truncate(by.floor_char_boundary(ORDER_BYTES_MAX));
    why.truncate(why.floor_char_boundary(ORDER_BYTES_MAX));
    Order { by, why }
}
