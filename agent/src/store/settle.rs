//! The store's commits: what goes to the disk, when, and what becomes of it when
//! the disk does not take it.
//!
//! **Invariant:** entries of the streams on disk get their numbers in the commit
//! that writes them, so what fails leaves no number used. Receipts and the ledger
//! are kept and written again later; a command whose entry could not be written is
//! refused; a spill is planned anew.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::Command;
use protocol::stream::Stream;
use protocol::time::UnixMillis;

use super::disk::{Change, DiskError};
use super::{BLOCK, Pending, SPILL_AGE, Settled, Store};
use crate::domain::ledger::{self, Room, Verdict};
use crate::domain::time::Tick;

/// Acknowledged entries are taken off the disk together with the next commit that
/// is needed anyway, and at the latest after this.
const LAZY_MAX: Duration = Duration::from_secs(3600);

/// Or when there are this many of them, so that a drained backlog gives its space
/// back.
const LAZY_COUNT_MAX: usize = 512;

/// A disk that failed is tried again after this.
const RETRY_EVERY: Duration = Duration::from_secs(5);

impl Store {
    /// Makes durable what must be, and does what is due: spilling, shedding,
    /// trying a disk again that failed. `link_up` says whether frames flow;
    /// `controller` is controller time.
    pub fn settle(&mut self, link_up: bool, controller: UnixMillis, now: Tick) -> Settled {
        let mut settled = Settled::default();
        if let Some((_, at)) = self.failing {
            let again = now.since(at) >= RETRY_EVERY;
            let loaded = again.then(|| self.disk.load());
            if let Some(Err(error)) = &loaded {
                self.fail(error, now);
            }
            if !matches!(loaded, Some(Ok(_))) {
                self.refuse_opening(controller);
                self.shed_memory();
                return settled;
            }
            self.urgent = true;
        }
        if self.spill_is_due(link_up, now) {
            self.plan_spill();
        }
        if self.is_due(now) {
            let on_disk = self.outbox.line(Stream::Backfill).bytes();
            self.forget(controller);
            match self.write() {
                Ok(()) => {
                    settled.wrote = true;
                    settled.deployments = std::mem::take(&mut self.deployments_moved);
                    settled.healed = self.failing.take().is_some();
                    for (command, entry) in std::mem::take(&mut self.opening) {
                        self.ledger.insert(command.id, entry);
                        settled.started.push(command);
                    }
                    if let Err(error) = self.shed_disk(on_disk) {
                        self.fail(&error, now);
                        settled.failed = Some(error);
                    }
                }
                Err(error) => {
                    self.fail(&error, now);
                    self.refuse_opening(controller);
                    settled.failed = Some(error);
                }
            }
        }
        self.shed_memory();
        settled
    }

    /// When [`Store::settle`] has something to do by itself.
    #[must_use]
    pub fn wakes_at(&self, link_up: bool) -> Option<(Tick, &'static str)> {
        if let Some((_, at)) = self.failing {
            return Some((at.after(RETRY_EVERY), "try the disk again"));
        }
        let lazy = self
            .lazy_since
            .map(|since| (since.after(LAZY_MAX), "clear what was acknowledged"));
        let spill = self
            .oldest_unsent()
            .filter(|_| !link_up)
            .map(|at| (at.after(SPILL_AGE), "spill frames"));
        lazy.into_iter().chain(spill).min_by_key(|(at, _)| *at)
    }

    fn is_due(&self, now: Tick) -> bool {
        let lazy = self
            .lazy_since
            .is_some_and(|since| now.since(since) >= LAZY_MAX);
        self.urgent || lazy || self.staged.len() >= LAZY_COUNT_MAX || !self.opening.is_empty()
    }

    /// The agent stops: writes everything, so that the next start is a clean one.
    ///
    /// # Errors
    /// [`DiskError`] when the disk cannot be written.
    pub fn close(&mut self) -> Result<(), DiskError> {
        self.meta.clean = true;
        self.write()
    }

    pub(super) fn fail(&mut self, error: &DiskError, now: Tick) {
        self.failing = Some((error.code(), now));
    }

    fn forget(&mut self, controller: UnixMillis) {
        for command in self.ledger.forgettable(controller) {
            self.ledger.remove(command);
            self.staged.push(Change::Forget(command));
        }
    }

    fn refuse_opening(&mut self, controller: UnixMillis) {
        let code = self
            .failing
            .map_or(ErrorCode::StoreFailed, |(code, _)| code);
        for (command, _) in std::mem::take(&mut self.opening) {
            let verdict = self.ledger.judge(&command, controller, Room::Full);
            if let Verdict::AnswerOnly(mut receipt) = verdict {
                receipt.code = Some(code.text().to_owned());
                code.info().summary.clone_into(&mut receipt.detail);
                self.answer_only(&receipt);
            }
        }
    }

    /// Commits everything that waits for the disk.
    pub(super) fn write(&mut self) -> Result<(), DiskError> {
        let mut next = Stream::ALL.map(|stream| self.outbox.line(stream).last());
        let mut numbered = Vec::with_capacity(self.pending.len());
        for pending in &self.pending {
            let last = &mut next[pending.stream.index()];
            *last += 1;
            numbered.push((pending.stream, *last));
        }
        for stream in [Stream::Control, Stream::Backfill] {
            let place = stream.index();
            let left = self.meta.granted[place].saturating_sub(next[place]);
            if left < BLOCK[place] / 2 {
                self.meta.granted[place] = next[place] + BLOCK[place];
            }
        }
        self.meta.flash_bytes = self.flash_before + self.disk.written_bytes();
        let mut changes = vec![Change::Meta(self.meta)];
        let taken = |(command, entry): &(Command, ledger::Entry)| Change::Take(command.id, *entry);
        changes.extend(self.opening.iter().map(taken));
        changes.extend(self.staged.iter().cloned());
        for (pending, (stream, seq)) in self.pending.iter().zip(&numbered) {
            changes.push(Change::Put(*stream, *seq, pending.stored.clone()));
        }
        if let Err(error) = self.disk.commit(&changes) {
            // A spill is planned anew; everything else was promised.
            self.pending.retain(|pending| pending.frame.is_none());
            return Err(error);
        }
        self.commits += 1;
        self.urgent = false;
        self.lazy_since = None;
        self.staged.clear();
        self.connects_granted = self.meta.connects;
        self.generation_kept = self.generation;
        for stream in Stream::ALL {
            let granted = self.meta.granted[stream.index()];
            self.outbox.line_mut(stream).grant(granted);
        }
        let mut spilled = false;
        for (pending, (stream, seq)) in std::mem::take(&mut self.pending).into_iter().zip(numbered)
        {
            self.outbox
                .line_mut(stream)
                .insert(seq, pending.stored.item);
            if let Some(frame) = pending.frame {
                self.drop_entry(Stream::Telemetry, frame);
                spilled = true;
            }
        }
        if spilled {
            self.respool();
        }
        Ok(())
    }

    /// When the oldest frame came in that was never handed out for sending.
    fn oldest_unsent(&self) -> Option<Tick> {
        self.arrived
            .range(self.handed_out.saturating_add(1)..)
            .next()
            .map(|(_, at)| *at)
    }

    fn memory_is_short(&self) -> bool {
        self.outbox.line(Stream::Telemetry).bytes() > self.limits.telemetry_bytes_max / 2
    }

    fn spill_is_due(&self, link_up: bool, now: Tick) -> bool {
        let old = self
            .oldest_unsent()
            .is_some_and(|at| now.since(at) >= SPILL_AGE);
        self.memory_is_short() || (old && !link_up)
    }

    /// Moves frames from memory to the disk: those that were never handed out for
    /// sending, or all when memory is short.
    fn plan_spill(&mut self) {
        let from = if self.memory_is_short() {
            0
        } else {
            self.handed_out
        };
        let line = self.outbox.line(Stream::Telemetry);
        let pending = line.after(from).filter_map(|(seq, _)| {
            let stored = self.memory.get(&(Stream::Telemetry, seq))?.clone();
            Some(Pending {
                stream: Stream::Backfill,
                stored,
                frame: Some(seq),
            })
        });
        let pending: Vec<Pending> = pending.collect();
        self.urgent |= !pending.is_empty();
        self.pending.extend(pending);
    }
}
