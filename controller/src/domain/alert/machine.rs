//! One rule on one node for one label: whether it fires, and what is told of it.
//!
//! A node says when a condition begins and when it ceases to hold; that word is kept
//! as it is. From it, and from what the rule says, follows the phase:
//!
//! ```text
//!            it holds                 too many turns
//!   clear ──────────────► firing ──────────────────────► flapping
//!     ▲                     │                               │
//!     └── ceased for as ────┘                               │
//!     │   long as asked                                     │
//!     └──────────── no word for a whole window ─────────────┘ (or firing)
//! ```
//!
//! An alert that has turned [`TURNS_MAX`] times within [`FLAP_WINDOW`] does not turn
//! again: it is flapping. That is told once; then it is quiet until the node has said
//! nothing for a whole window, and rests where the node's last word leaves it.
//! Whatever does not mean the node any more is clear at once.
//!
//! **Invariants.** At most [`TURNS_MAX`] + 2 notices of one alert are made within any
//! [`FLAP_WINDOW`], people's own doing apart. Whatever is told as raised is told as
//! resolved when it is clear, silenced or not; nothing new is raised while it is
//! silenced.

use core::time::Duration;

use protocol::id::StoreId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::notice::{NoticeState, Severity};

/// Turns within [`FLAP_WINDOW`] after which an alert is flapping: three times raised
/// and resolved. More tells people more often what they know.
pub const TURNS_MAX: usize = 6;

/// The time in which turns are counted, and for which a flapping alert must be quiet.
pub const FLAP_WINDOW: Duration = Duration::from_secs(30 * 60);

/// One rule on one node for one label. See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The node's store from which its word came.
    pub store: StoreId,
    /// What the node said last.
    pub holds: bool,
    /// When that word came, in controller time.
    pub heard_at: UnixMillis,
    /// The value that decided, with its unit.
    pub value: String,
    /// Where it stands.
    pub phase: Phase,
    /// Since when, as the node knows controller time.
    pub since: UnixMillis,
    /// How bad it is, as its rule said last.
    pub severity: Severity,
    /// When it turned within the last window.
    pub turns: Vec<UnixMillis>,
    /// How often the node's word changed.
    pub words: u32,
    /// What was told of it.
    pub told: Phase,
}

/// Where an alert stands. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It does not fire.
    #[default]
    Clear,
    /// It fires.
    Firing,
    /// It comes and goes too often to be told each time.
    Flapping,
}

/// What an alert is judged by besides the node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether there is a rule that means the node.
    pub watched: bool,
    /// For how long it must have ceased before it is resolved.
    pub resolve_after: Duration,
    /// Whether it is silenced.
    pub silenced: bool,
}

/// What a step led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// The phase that it left, if it left one.
    pub left: Option<Phase>,
    /// The notice that is to be made.
    pub notice: Option<NoticeState>,
}

impl Phase {
    /// Its name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "clear",
            Self::Firing => "firing",
            Self::Flapping => "flapping",
        }
    }
}

impl Alert {
    /// An alert of which nothing was said.
    #[must_use]
    pub fn new(store: StoreId, severity: Severity, now: UnixMillis) -> Self {
        Self {
            store,
            holds: false,
            heard_at: now,
            value: String::new(),
            phase: Phase::Clear,
            since: now,
            severity,
            turns: Vec::new(),
            words: 0,
            told: Phase::Clear,
        }
    }

    /// The node said whether the condition holds. What it said before changes the
    /// value alone.
    pub fn hear(&mut self, holds: bool, value: String, now: UnixMillis) {
        if self.holds != holds {
            self.holds = holds;
            self.heard_at = now;
            self.words = self.words.saturating_add(1);
        }
        self.value = value;
    }

    /// Judges it. `at` is when what is new happened, `now` when it became known.
    pub fn step(&mut self, terms: Terms, at: UnixMillis, now: UnixMillis) -> Stepped {
        let recent = |turn: &UnixMillis| *turn <= now && now.since(*turn) < FLAP_WINDOW;
        self.turns.retain(recent);
        let left = self.phase;
        self.phase = self.next(terms, now);
        let turns = left != self.phase;
        if turns {
            self.since = at;
        }
        if turns && terms.watched && left != Phase::Flapping {
            if self.turns.len() >= TURNS_MAX {
                self.phase = Phase::Flapping;
                // The quiet that is waited for begins here: the turn may be due to a
                // word of long ago.
                self.heard_at = now;
                self.turns.clear();
            } else {
                self.turns.push(now);
            }
        }
        Stepped {
            left: turns.then_some(left),
            notice: self.tell(terms),
        }
    }

    fn next(&self, terms: Terms, now: UnixMillis) -> Phase {
        if !terms.watched {
            return Phase::Clear;
        }
        let quiet = now.since(self.heard_at);
        match self.phase {
            Phase::Clear if self.holds => Phase::Firing,
            Phase::Firing if !self.holds && quiet >= terms.resolve_after => Phase::Clear,
            Phase::Flapping if quiet >= FLAP_WINDOW && self.holds => Phase::Firing,
            Phase::Flapping if quiet >= FLAP_WINDOW => Phase::Clear,
            Phase::Clear | Phase::Firing | Phase::Flapping => self.phase,
        }
    }

    fn tell(&mut self, terms: Terms) -> Option<NoticeState> {
        let notice = match (self.told, self.phase) {
            (Phase::Clear, Phase::Clear)
            | (Phase::Firing, Phase::Firing)
            | (Phase::Flapping, Phase::Flapping) => return None,
            (_, Phase::Clear) => NoticeState::Resolved,
            _ if terms.silenced => return None,
            (Phase::Clear, Phase::Firing | Phase::Flapping) => NoticeState::Raised,
            (Phase::Firing | Phase::Flapping, Phase::Firing | Phase::Flapping) => NoticeState::Once,
        };
        self.told = self.phase;
        Some(notice)
    }

    /// Whether time alone may change something about it.
    #[must_use]
    pub fn waits(&self) -> bool {
        match self.phase {
            Phase::Clear => !self.holds,
            Phase::Firing => !self.holds,
            Phase::Flapping => true,
        }
    }

    /// Whether nothing of it needs to be remembered.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        !self.holds
            && self.phase == Phase::Clear
            && self.told == Phase::Clear
            && self.turns.is_empty()
    }
}
