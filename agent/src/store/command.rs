//! Commands as the store sees them: taken into the ledger, and closed with their
//! receipt.
//!
//! **Invariant:** a command is taken only where its receipt is sure to fit, and
//! closed once.

use protocol::command::{Command, Receipt};
use protocol::id::CommandId;
use protocol::message;
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;

use super::disk::Change;
use super::{Store, stored};
use crate::domain::ledger::{self, Room, Verdict};
use crate::domain::outbox::Worth;

impl Store {
    pub(super) fn room(&self) -> Room {
        let owed = self.ledger.open_count() + self.opening.len() + self.pending.len();
        let fits = self
            .outbox
            .has_room_for_receipt(owed, self.limits.control_bytes_max);
        if self.failing.is_none() && fits {
            Room::Enough
        } else {
            Room::Full
        }
    }

    /// Takes a command. When it is to be started, [`super::Settled::started`] says so
    /// after the commit. `now` is controller time.
    pub fn take_command(&mut self, command: Command, now: UnixMillis) {
        if self.opening.iter().any(|(open, _)| open.id == command.id) {
            return;
        }
        match self.ledger.judge(&command, now, self.room()) {
            Verdict::Duplicate => {}
            Verdict::Start(entry) => self.opening.push((command, entry)),
            Verdict::Answer(entry, receipt) => self.answer(entry, &receipt),
            Verdict::AnswerOnly(receipt) => self.answer_only(&receipt),
        }
    }

    /// Takes the cancelling of a command. True when the command is open, and so
    /// the executor's to stop.
    #[must_use]
    pub fn cancel_command(&mut self, command: CommandId, now: UnixMillis) -> bool {
        if self.opening.iter().any(|(open, _)| open.id == command) {
            return true;
        }
        match self.ledger.judge_cancel(command, now, self.room()) {
            Verdict::Start(_) => true,
            Verdict::Duplicate => false,
            Verdict::Answer(entry, receipt) => {
                self.answer(entry, &receipt);
                false
            }
            Verdict::AnswerOnly(receipt) => {
                self.answer_only(&receipt);
                false
            }
        }
    }

    pub(super) fn answer(&mut self, entry: ledger::Entry, receipt: &Receipt) {
        self.ledger.insert(receipt.command, entry);
        self.staged.push(Change::Take(receipt.command, entry));
        self.append_control(
            EntryKind::RECEIPT,
            Receipt::VERSION,
            message::encode(receipt),
        );
    }

    /// A refusal that no disk would take: sent from memory, and gone after a crash.
    pub(super) fn answer_only(&mut self, receipt: &Receipt) {
        let body = message::encode(receipt);
        let Some(seq) = self.outbox.line(Stream::Control).next() else {
            return;
        };
        let stored = stored(Worth::Kept, EntryKind::RECEIPT, Receipt::VERSION, body);
        self.outbox
            .line_mut(Stream::Control)
            .insert(seq, stored.item);
        self.memory.insert((Stream::Control, seq), stored);
    }

    /// Closes a command with its receipt, exactly once: a second receipt is left
    /// out, and so is one of a command that is not open.
    pub fn close_command(&mut self, receipt: &Receipt) {
        if let Some(entry) = self.ledger.close(receipt.command, receipt.outcome) {
            self.answer(entry, receipt);
        }
    }
}
