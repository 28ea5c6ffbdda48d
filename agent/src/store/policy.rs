//! What the gate needs over a restart: the policy, the node's name and labels, how
//! long the controller is silent, and which conditions hold.
//!
//! **Invariant:** a policy is written in the commit that lets anything follow from
//! it, and never one below the epoch that was written before. The silence goes along
//! with every commit, and gets one of its own when none came for as long as
//! [`gate::keep_every`] says.

use protocol::command::Command;
use protocol::condition::Crossing;
use protocol::message;
use protocol::policy::{Policy, Refusal};
use protocol::stream::EntryKind;
use protocol::time::UnixMillis;

use super::Store;
use super::disk::Change;
use crate::domain::conditions::Holding;
use crate::domain::gate::{self, KeptPolicy, Named, Silence};
use crate::domain::ledger::Verdict;

impl Store {
    /// The epoch of the policy that is durable; 0 without one.
    #[must_use]
    pub fn policy_epoch(&self) -> u64 {
        self.epoch_kept
    }

    /// Keeps a policy of this epoch, unless one that is as new is kept.
    pub fn keep_policy(&mut self, kept: KeptPolicy, policy: &Policy) {
        if policy.epoch <= self.epoch {
            return;
        }
        self.epoch = policy.epoch;
        self.silence_every = gate::keep_every(policy);
        self.staged.push(Change::Policy(Box::new(kept)));
        self.urgent = true;
    }

    /// Keeps the node's name and labels.
    pub fn keep_named(&mut self, named: &Named) {
        self.staged.push(Change::Named(Box::new(named.clone())));
        self.urgent = true;
    }

    /// Notes the silence of the controller, for the next commit.
    pub fn note_silence(&mut self, silence: Silence) {
        self.silence = silence;
    }

    /// Takes crossings, with what holds after them. False when there is no room: a
    /// node that is offline for long keeps the room for the receipts that it may
    /// owe.
    #[must_use]
    pub fn keep_crossings(&mut self, crossings: &[Crossing], holding: &Holding) -> bool {
        let owed = self.ledger.open_count() + self.opening.len() + self.pending.len();
        let fits = self.outbox.has_room_for_receipt(
            owed.saturating_add(crossings.len()),
            self.limits.control_bytes_max / 2,
        );
        if !fits || self.failing.is_some() {
            return false;
        }
        for crossing in crossings {
            self.append_control(
                EntryKind::CONDITION,
                Crossing::VERSION,
                message::encode(crossing),
            );
        }
        self.staged.push(Change::Holding(holding.clone()));
        true
    }

    /// Judges what was taken and not begun by the gate: as late as can be, so that
    /// also a policy that came after a command, and is written together with it,
    /// stops it.
    pub fn gate_opening(
        &mut self,
        now: UnixMillis,
        admit: impl Fn(&Command) -> Result<(), Refusal>,
    ) {
        for (command, entry) in std::mem::take(&mut self.opening) {
            let Err(refusal) = admit(&command) else {
                self.opening.push((command, entry));
                continue;
            };
            match self.ledger.refuse(&command, &refusal, now, self.room()) {
                Verdict::Answer(entry, receipt) => self.answer(entry, &receipt),
                Verdict::AnswerOnly(receipt) => self.answer_only(&receipt),
                Verdict::Start(_) | Verdict::Duplicate => {}
            }
        }
    }
}
