//! What the node obeys besides orders: the policy, its name and labels, and a
//! break-glass file.
//!
//! **Invariant:** nothing follows from them before they are durable. Commands are
//! judged by the newest that was taken, in the step whose commit writes both;
//! everyone else sees the gate as it is on disk.

use protocol::condition::Crossing;
use protocol::policy::{PolicyError, SignedPolicy};
use protocol::state::Lifecycle;
use protocol::time::UnixMillis;

use super::{Action, Node};
use crate::domain::conditions::Holding;
use crate::domain::gate::{self, KeptPolicy, Named};
use crate::domain::time::Moment;

impl Node {
    /// Takes a policy, by whichever way it came.
    pub(super) fn take_policy(&mut self, signed: SignedPolicy, now: Moment) {
        let held = self.gate.epoch();
        let signer = signed.key;
        let keys = &self.identity.trust.controller_keys;
        match KeptPolicy::check(signed, keys, self.identity.fleet, held) {
            Ok((kept, policy)) => {
                self.store.keep_policy(kept, &policy);
                self.gate.take_policy(policy, now.tick);
            }
            // The same policy comes to all, and to each.
            Err(PolicyError::Stale { found, held }) if found == held => {}
            Err(error) => {
                if self.identity.trust.controller_key(signer).is_none() {
                    self.actions.push(Action::FetchTrust);
                }
                self.drop_for(error.code(), now);
                self.problem(error.code(), &error.to_string());
            }
        }
    }

    pub(super) fn take_named(&mut self, named: Named) {
        if self.gate.take_named(&named) {
            self.store.keep_named(&named);
        }
        self.actions.push(Action::Named(named));
    }

    /// Takes crossings, with what holds after them. False when there is no room for
    /// them: they are to be offered again.
    pub fn take_crossings(&mut self, crossings: &[Crossing], holding: &Holding) -> bool {
        self.store.keep_crossings(crossings, holding)
    }

    /// Right before a commit: whatever it would start is judged by the gate, with
    /// what this step brought.
    pub(super) fn judge(&mut self, controller: UnixMillis, now: Moment) {
        if let Some(heard) = self.session.proven_at()
            && heard > self.gate.heard()
            && let Some(at) = self.session.clock().now(heard)
        {
            self.gate.hear(at, heard);
        }
        self.tell_break_glass(now);
        self.store.note_silence(self.gate.silence(now));
        let gate = &self.gate;
        self.store.gate_opening(controller, |command| {
            gate.admit(gate::attempt(&command.action), now)
        });
    }

    fn tell_break_glass(&mut self, now: Moment) {
        let file = self.gate.break_glass(now);
        if file.is_some() == self.glass {
            return;
        }
        self.glass = file.is_some();
        let event = match file {
            Some(file) => Lifecycle::BreakGlass {
                at: now.wall,
                until: file.until,
                reason: file.reason.clone(),
            },
            None => Lifecycle::BreakGlassEnded { at: now.wall },
        };
        self.store.append_lifecycle(&event);
    }

    /// Shows everyone the gate as it is on disk.
    pub(super) fn publish_gate(&mut self) {
        self.session.obeys(self.store.policy_epoch());
        if self.store.is_written() {
            self.gate_kept = self.gate.clone();
        } else {
            self.gate_kept.hears_as(&self.gate);
        }
    }
}
