//! How the notices of one sink are delivered: what is tried when, and when it is
//! given up.
//!
//! Owns how far the sink has come in the table of notices, those that it still has
//! to get, and the breaker of its receiver. Whoever drives it gives it notices in
//! their order ([`Queue::take`]), makes the tries that [`Queue::next`] asks for,
//! and tells how each ended ([`Queue::settle`]).
//!
//! Delivery is at least once: what [`Queue::progress`] says is made durable now and
//! then, and what was settled after that is tried again after a crash, under the
//! same id.
//!
//! **Invariants.** A notice is not tried while an earlier one of its key is not
//! settled, so that an end never arrives before its beginning. Each notice is
//! settled at some time: [`GIVE_UP_MS`] after it was taken at the latest.

use std::collections::{BTreeMap, BTreeSet};

use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Breaker, Input, Permit};
use protocol::breaker::rule::{BreakerRule, Confidence, Recovery, Trip};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::Notice;

/// Notices of one sink that were taken from the table and are not settled. When
/// there are as many, the rest waits in the table. Bounds memory to about 600 KiB
/// a sink.
pub const PENDING_MAX: usize = 256;

/// Tries of one sink at the same time: a receiver that takes its time with one
/// does not hold up the others, and is not overrun.
pub const TRIES_AT_ONCE: usize = 4;

/// When a notice is given up, counted from when the sink took it up.
pub const GIVE_UP_MS: u64 = 24 * 60 * 60 * 1000;

/// The first pause between two tries of a notice; it doubles with each,
const PAUSE_MS_MIN: u64 = 5_000;

/// up to here.
const PAUSE_MS_MAX: u64 = 15 * 60 * 1000;

/// Bytes of why a delivery failed, as it is kept.
const REASON_BYTES_MAX: usize = 256;

/// When a receiver is left alone: five failures in a row. Then one try after half
/// a minute, and after twice as long each time that it fails, up to a quarter of
/// an hour.
const RULE: BreakerRule = BreakerRule {
    trip: Trip {
        consecutive: 5,
        count: 0,
        percent: 0,
        min_samples: 0,
        confidence: Confidence::Plain,
        window_ms: 60 * 60 * 1000,
    },
    recovery: Recovery {
        cool_down_ms: 30_000,
        cool_down_ms_max: PAUSE_MS_MAX,
        probes: 1,
        successes: 1,
        // A try ends by its own timeout, and its end is always told.
        probe_limit_ms: 0,
    },
};

/// How far a sink has come, as it is kept. Postcard is positional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The sink's number.
    pub number: u64,
    /// Every notice up to this one is settled, but for those below.
    pub cursor: u64,
    /// Notices that are not settled.
    pub waiting: Vec<Waiting>,
    /// What became of the others.
    pub totals: Totals,
    /// When the receiver took one last.
    pub delivered_at: Option<UnixMillis>,
    /// Since when nothing was taken although it was tried, and why.
    pub failing: Option<Trouble>,
    /// The last notice that was given up, and why.
    pub given_up: Option<Trouble>,
}

/// A notice that is not settled, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its number.
    pub seq: u64,
    /// When it was taken from the table.
    pub taken_at: UnixMillis,
    /// How often it was tried.
    pub tries: u32,
}

/// What became of a sink's notices since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Taken by the receiver.
    pub delivered: u64,
    /// Refused by the receiver for good, or given up.
    pub failed: u64,
    /// Not wanted any more before they were delivered.
    pub expired: u64,
    /// Gone from the table before they could be delivered.
    pub lost: u64,
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Since when, or when.
    pub at: UnixMillis,
    /// Why, for a person.
    pub reason: String,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took the notice.
    Delivered,
    /// The receiver does not take this notice, and never will.
    Refused(String),
    /// The receiver wants to be left alone for a while.
    Later {
        /// Why, for a person.
        reason: String,
        /// For how long; none when it does not say.
        pause_ms: Option<u64>,
    },
    /// There was no answer, or one of a receiver in trouble.
    Failed(String),
}

/// One sink's deliveries.
#[derive(Clone, Debug)]
pub struct Queue {
    progress: Progress,
    pending: BTreeMap<u64, Pending>,
    breaker: Breaker,
    /// Nothing is tried before this.
    held_until: UnixMillis,
}

#[derive(Clone, Debug)]
struct Pending {
    notice: Notice,
    taken_at: UnixMillis,
    tries: u32,
    due: UnixMillis,
    permit: Option<Permit>,
}

impl Queue {
    /// The queue that stands where it was kept, with those of the notices that
    /// wait which are still in the table. Each is tried at once.
    #[must_use]
    pub fn resume(mut progress: Progress, mut notices: BTreeMap<u64, Notice>) -> Self {
        let mut pending = BTreeMap::new();
        for waiting in std::mem::take(&mut progress.waiting) {
            match notices.remove(&waiting.seq) {
                Some(notice) => {
                    let row = Pending {
                        notice,
                        taken_at: waiting.taken_at,
                        tries: waiting.tries,
                        due: UnixMillis::default(),
                        permit: None,
                    };
                    pending.insert(waiting.seq, row);
                }
                None => progress.totals.lost += 1,
            }
        }
        Self {
            progress,
            pending,
            breaker: Breaker::new(RULE),
            held_until: UnixMillis::default(),
        }
    }

    /// The number of the last notice that it has seen.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.progress.cursor
    }

    /// How many notices it can take.
    #[must_use]
    pub fn room(&self) -> usize {
        PENDING_MAX.saturating_sub(self.pending.len())
    }

    /// Takes note that the table begins with `first`: what came before is gone.
    pub fn begins_at(&mut self, first: u64) {
        let gone = first.saturating_sub(self.progress.cursor + 1);
        self.progress.totals.lost += gone;
        self.progress.cursor += gone;
    }

    /// Takes the next notice of the table; none when the sink does not get it.
    pub fn take(&mut self, seq: u64, notice: Option<Notice>, now: UnixMillis) {
        self.progress.cursor = self.progress.cursor.max(seq);
        if let Some(notice) = notice {
            let row = Pending {
                notice,
                taken_at: now,
                tries: 0,
                due: now,
                permit: None,
            };
            self.pending.insert(seq, row);
        }
    }

    /// The notices that are to be tried now. Each is in flight until it is settled.
    pub fn next(&mut self, now: UnixMillis) -> Vec<(u64, Notice)> {
        self.drop_late(now);
        self.breaker.step(Input::Tick, now);
        if now < self.held_until {
            return Vec::new();
        }
        let mut flying = self.flying();
        let mut keys = BTreeSet::new();
        let mut out = Vec::new();
        for (seq, row) in &mut self.pending {
            let first_of_key = keys.insert(row.notice.key.clone());
            if !first_of_key || row.permit.is_some() || row.due > now {
                continue;
            }
            if flying == TRIES_AT_ONCE {
                break;
            }
            let Some(permit) = self.breaker.admit(now) else {
                break;
            };
            row.permit = Some(permit);
            flying += 1;
            out.push((*seq, row.notice.clone()));
        }
        out
    }

    /// Drops what nobody wants any more, and gives up what was tried for too long.
    fn drop_late(&mut self, now: UnixMillis) {
        let late: Vec<(u64, bool)> = self
            .pending
            .iter()
            .filter(|(_, row)| row.permit.is_none())
            .filter_map(|(seq, row)| {
                let expired = row.notice.expires_at.is_some_and(|at| at <= now);
                let over = expired || row.gives_up_at() <= now;
                over.then_some((*seq, expired))
            })
            .collect();
        for (seq, expired) in late {
            let Some(row) = self.pending.remove(&seq) else {
                continue;
            };
            if expired {
                self.progress.totals.expired += 1;
            } else {
                let why = self.progress.failing.as_ref();
                let why = why.map_or("it was never tried", |trouble| trouble.reason.as_str());
                let reason = format!("{}: given up after a day: {why}", row.notice.title);
                self.give_up(reason, now);
            }
        }
    }

    fn give_up(&mut self, reason: String, now: UnixMillis) {
        self.progress.totals.failed += 1;
        self.progress.given_up = Some(trouble(reason, now));
    }

    /// A try ended. `chance` is any number, for the jitter of the next one.
    pub fn settle(&mut self, seq: u64, outcome: Outcome, chance: u64, now: UnixMillis) {
        let Some(row) = self.pending.get_mut(&seq) else {
            return;
        };
        let Some(permit) = row.permit.take() else {
            return;
        };
        row.tries = row.tries.saturating_add(1);
        let pause = jittered(pause_ms(row.tries), chance);
        // An answer that says no is an answer: the receiver is there.
        let there = !matches!(outcome, Outcome::Failed(_));
        self.breaker.step(permit.result(there), now);
        let reason = match outcome {
            Outcome::Delivered => {
                self.pending.remove(&seq);
                self.progress.totals.delivered += 1;
                self.progress.delivered_at = Some(now);
                self.progress.failing = None;
                return;
            }
            Outcome::Refused(reason) => {
                let told = format!("{}: {reason}", row.notice.title);
                self.pending.remove(&seq);
                self.give_up(told, now);
                reason
            }
            Outcome::Later {
                reason,
                pause_ms: asked,
            } => {
                let wait = asked.unwrap_or(0).clamp(pause, GIVE_UP_MS);
                row.due = later(now, wait);
                self.held_until = self
                    .held_until
                    .max(later(now, asked.unwrap_or(0).min(wait)));
                reason
            }
            Outcome::Failed(reason) => {
                row.due = later(now, pause);
                reason
            }
        };
        let since = self.progress.failing.as_ref().map_or(now, |it| it.at);
        self.progress.failing = Some(trouble(reason, since));
    }

    /// Everything that waits is tried at once: the sink was changed.
    pub fn try_now(&mut self) {
        self.breaker = Breaker::new(RULE);
        self.held_until = UnixMillis::default();
        for row in self.pending.values_mut() {
            row.due = UnixMillis::default();
            // The breaker that gave it is gone; its end counts in the new one.
            row.permit = row.permit.map(|_| Permit::Ordinary);
        }
    }

    /// When something is to be done that no answer brings about.
    #[must_use]
    pub fn wakes_at(&self) -> Option<UnixMillis> {
        let mut keys = BTreeSet::new();
        let mut wakes = Vec::new();
        let mut due = None;
        for row in self.pending.values() {
            let first_of_key = keys.insert(row.notice.key.as_str());
            if row.permit.is_some() {
                continue;
            }
            wakes.push(row.gives_up_at());
            wakes.extend(row.notice.expires_at);
            if first_of_key && due.is_none_or(|due| row.due < due) {
                due = Some(row.due);
            }
        }
        if let Some(due) = due.filter(|_| self.flying() < TRIES_AT_ONCE) {
            let due = due.max(self.held_until);
            if self.breaker.admits().is_some() {
                wakes.push(due);
            } else if let Some((at, _)) = self.breaker.wakes_at() {
                wakes.push(due.max(at));
            }
        }
        wakes.into_iter().min()
    }

    /// Notices in flight.
    #[must_use]
    pub fn flying(&self) -> usize {
        let flies = |row: &&Pending| row.permit.is_some();
        self.pending.values().filter(flies).count()
    }

    /// The state of the receiver's breaker.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// How many notices wait, and since when the oldest of them does.
    #[must_use]
    pub fn waiting(&self) -> (usize, Option<UnixMillis>) {
        let oldest = self.pending.values().map(|row| row.taken_at).min();
        (self.pending.len(), oldest)
    }

    /// How far it has come. What is in flight counts as not tried.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            waiting: self
                .pending
                .iter()
                .map(|(seq, row)| Waiting {
                    seq: *seq,
                    taken_at: row.taken_at,
                    tries: row.tries,
                })
                .collect(),
            ..self.progress.clone()
        }
    }
}

impl Pending {
    fn gives_up_at(&self) -> UnixMillis {
        later(self.taken_at, GIVE_UP_MS)
    }
}

fn later(at: UnixMillis, ms: u64) -> UnixMillis {
    UnixMillis(at.0.saturating_add(ms))
}

fn trouble(mut reason: String, at: UnixMillis) -> Trouble {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Trouble { at, reason }
}

/// The pause after so many tries.
fn pause_ms(tries: u32) -> u64 {
    let doublings = tries.saturating_sub(1).min(16);
    (PAUSE_MS_MIN << doublings).min(PAUSE_MS_MAX)
}

/// Between half of a pause and the whole of it, so that what failed together does
/// not come back together.
fn jittered(pause_ms: u64, chance: u64) -> u64 {
    pause_ms / 2 + chance % (pause_ms / 2 + 1)
}

#[cfg(test)]
mod tests;
