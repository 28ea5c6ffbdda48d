//! The ledger: which commands this node has taken, so that none takes effect
//! twice and each gets exactly one receipt.
//!
//! A command is written here, durably, before anything is done for it, and its
//! receipt closes it in the same transaction that puts the receipt into the
//! outbox. Ids stay past the command's expiry, so a late copy is recognised.
//!
//! **Invariant:** of all copies of a command at most one is judged
//! [`Verdict::Start`], over any number of restarts. A command that is open at
//! start-up is closed as `interrupted` and never run again.

use std::collections::BTreeMap;

use protocol::ErrorCode;
use protocol::command::{Command, Outcome, Receipt};
use protocol::id::CommandId;
use protocol::limits::LEDGER_KEEP;
use protocol::policy::Refusal;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Ids that the ledger holds. One takes about 60 bytes of memory. At one command
/// a minute, each with a day to live, two days are 2,880.
pub const LEDGER_COUNT_MAX: usize = 4096;

/// Commands that are open at the same time; each may need a receipt's room.
pub const OPEN_COUNT_MAX: usize = 64;

/// What is known of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was taken, in controller time.
    pub taken_at: UnixMillis,
    /// When the id may be forgotten, in controller time.
    pub keep_until: UnixMillis,
    /// Where it is.
    pub state: State,
}

/// Where a command is. Append-only: it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Taken; its receipt is owed.
    Open,
    /// Its receipt was given.
    Closed(Outcome),
}

/// Whether there is room for what a command leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Enough,
    /// The reserve for receipts is used up, or the disk is full.
    Full,
}

/// What to do with a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Write the entry, then carry the command out.
    Start(Entry),
    /// It was taken before: nothing more is to be done.
    Duplicate,
    /// It is not carried out: write the entry with this receipt.
    Answer(Entry, Box<Receipt>),
    /// It is not carried out, and there is no room to remember so: send this
    /// receipt, without a promise that it survives a crash.
    AnswerOnly(Box<Receipt>),
}

/// The commands that this node has taken.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<CommandId, Entry>,
    open: usize,
}

fn answer(command: CommandId, outcome: Outcome, code: ErrorCode, now: UnixMillis) -> Receipt {
    Receipt {
        command,
        outcome,
        code: Some(code.text().to_owned()),
        detail: code.info().summary.to_owned(),
        started_at: None,
        ended_at: now,
        stdout: Vec::new(),
        stderr: Vec::new(),
        cut_bytes: 0,
    }
}

impl Ledger {
    /// A ledger with what the store holds.
    #[must_use]
    pub fn restored(entries: BTreeMap<CommandId, Entry>) -> Self {
        let open = entries
            .values()
            .filter(|entry| entry.state == State::Open)
            .count();
        Self { entries, open }
    }

    /// Judges a command that arrived. `now` is controller time.
    #[must_use]
    pub fn judge(&self, command: &Command, now: UnixMillis, room: Room) -> Verdict {
        if self.entries.contains_key(&command.id) {
            return Verdict::Duplicate;
        }
        let entry = |state| Entry {
            taken_at: now,
            keep_until: command.start_by.max(now).after(LEDGER_KEEP),
            state,
        };
        let closed = |outcome, code| {
            let receipt = Box::new(answer(command.id, outcome, code, now));
            if room == Room::Full || self.entries.len() >= LEDGER_COUNT_MAX {
                return Verdict::AnswerOnly(receipt);
            }
            Verdict::Answer(entry(State::Closed(outcome)), receipt)
        };
        if let Err(error) = command.check() {
            let mut verdict = closed(Outcome::Refused, error.code());
            if let Verdict::Answer(_, receipt) | Verdict::AnswerOnly(receipt) = &mut verdict {
                receipt.detail = error.to_string();
            }
            verdict
        } else if now > command.start_by {
            closed(Outcome::Expired, ErrorCode::CommandExpired)
        } else if room == Room::Full || self.entries.len() >= LEDGER_COUNT_MAX {
            closed(Outcome::Refused, ErrorCode::StoreFull)
        } else if self.open >= OPEN_COUNT_MAX {
            closed(Outcome::Refused, ErrorCode::CommandNoSlot)
        } else {
            Verdict::Start(entry(State::Open))
        }
    }

    /// Refuses a command that was judged to start and that the gate does not let
    /// pass.
    #[must_use]
    pub fn refuse(
        &self,
        command: &Command,
        refusal: &Refusal,
        now: UnixMillis,
        room: Room,
    ) -> Verdict {
        let mut receipt = Box::new(answer(command.id, Outcome::Refused, refusal.code(), now));
        receipt.detail = refusal.to_string();
        if room == Room::Full || self.entries.len() >= LEDGER_COUNT_MAX {
            return Verdict::AnswerOnly(receipt);
        }
        let entry = Entry {
            taken_at: now,
            keep_until: command.start_by.max(now).after(LEDGER_KEEP),
            state: State::Closed(Outcome::Refused),
        };
        Verdict::Answer(entry, receipt)
    }

    /// Judges the cancelling of a command. One that this node never saw is closed
    /// as cancelled, so that a copy that comes later is a duplicate; one that is
    /// open is the executor's to stop (`Start` says so).
    #[must_use]
    pub fn judge_cancel(&self, command: CommandId, now: UnixMillis, room: Room) -> Verdict {
        match self.entries.get(&command) {
            Some(Entry {
                state: State::Open, ..
            }) => Verdict::Start(Entry {
                taken_at: now,
                keep_until: now,
                state: State::Open,
            }),
            Some(Entry {
                state: State::Closed(_),
                ..
            }) => Verdict::Duplicate,
            None => {
                let receipt = Box::new(answer(
                    command,
                    Outcome::Cancelled,
                    ErrorCode::CommandCancelled,
                    now,
                ));
                if room == Room::Full || self.entries.len() >= LEDGER_COUNT_MAX {
                    return Verdict::AnswerOnly(receipt);
                }
                let entry = Entry {
                    taken_at: now,
                    keep_until: now.after(protocol::limits::START_BY_MAX),
                    state: State::Closed(Outcome::Cancelled),
                };
                Verdict::Answer(entry, receipt)
            }
        }
    }

    /// Notes an entry that is durable.
    pub fn insert(&mut self, command: CommandId, entry: Entry) {
        let was_open = self
            .entries
            .insert(command, entry)
            .is_some_and(|old| old.state == State::Open);
        if was_open {
            self.open -= 1;
        }
        if entry.state == State::Open {
            self.open += 1;
        }
    }

    /// The entry that closes a command with this outcome; none when it is not
    /// open, so that a second receipt is recognised.
    #[must_use]
    pub fn close(&self, command: CommandId, outcome: Outcome) -> Option<Entry> {
        let entry = self.entries.get(&command)?;
        (entry.state == State::Open).then_some(Entry {
            state: State::Closed(outcome),
            ..*entry
        })
    }

    /// Receipts for what was open when the agent stopped without closing it.
    #[must_use]
    pub fn interrupted(&self, now: UnixMillis) -> Vec<Receipt> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.state == State::Open)
            .map(|(command, entry)| Receipt {
                started_at: Some(entry.taken_at),
                detail:
                    "the agent stopped while the command was open; what it had done by then is \
                         not known"
                        .to_owned(),
                ..answer(
                    *command,
                    Outcome::Interrupted,
                    ErrorCode::CommandInterrupted,
                    now.max(entry.taken_at),
                )
            })
            .collect()
    }

    /// Ids that may be forgotten.
    #[must_use]
    pub fn forgettable(&self, now: UnixMillis) -> Vec<CommandId> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.state != State::Open && entry.keep_until < now)
            .map(|(command, _)| *command)
            .collect()
    }

    /// Forgets an id.
    pub fn remove(&mut self, command: CommandId) {
        if self
            .entries
            .remove(&command)
            .is_some_and(|entry| entry.state == State::Open)
        {
            self.open -= 1;
        }
    }

    /// Commands whose receipts are owed.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// Ids held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no id is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The commands taken last, newest first.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<(CommandId, Entry)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(id, entry)| (*id, *entry))
            .collect();
        all.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.taken_at));
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests;
