//! Which refusals are recorded one by one, and which are only counted.
//!
//! A refusal costs a durable write, so whoever can cause them can wear out the
//! disk. Anonymous ones are therefore counted and written as one summary a
//! minute. A known caller's are recorded one by one up to a rate, and counted
//! beyond it. The counts of the running minute are lost in a crash: at most one
//! minute of summaries.
//!
//! **Invariant:** memory and journal grow with the number of known callers and
//! with minutes, never with requests.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::time::UnixMillis;

use crate::domain::access::caller::Caller;
use crate::domain::audit::event::DenialsCounted;

/// Refusals of one caller that are recorded one by one within a window. An
/// operator who tries things stays below it, a program in a loop does not.
pub const RECORDED_PER_WINDOW_MAX: u32 = 20;

/// How long counts are gathered before a summary is written.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Callers that are told apart within a window; more share one count.
pub const CALLERS_MAX: usize = 1_024;

/// The refusals of the running window.
#[derive(Debug, Default)]
pub struct DenialGate {
    from: Option<UnixMillis>,
    callers: BTreeMap<Caller, Window>,
    others: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Window {
    recorded: u32,
    counted: u64,
}

/// What becomes of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is recorded.
    Record,
    /// It is counted, and part of the next summary.
    Count,
}

impl DenialGate {
    /// Takes note of a refusal to `caller` at `now`.
    pub fn admit(&mut self, caller: &Caller, now: UnixMillis) -> Keep {
        self.from.get_or_insert(now);
        if !self.callers.contains_key(caller) && self.callers.len() >= CALLERS_MAX {
            self.others += 1;
            return Keep::Count;
        }
        let window = self.callers.entry(*caller).or_default();
        if *caller != Caller::Anonymous && window.recorded < RECORDED_PER_WINDOW_MAX {
            window.recorded += 1;
            Keep::Record
        } else {
            window.counted += 1;
            Keep::Count
        }
    }

    /// Takes note of a refusal that cannot be recorded one by one after all.
    pub fn count(&mut self, caller: &Caller, now: UnixMillis) {
        self.from.get_or_insert(now);
        match self.callers.get_mut(caller) {
            Some(window) => window.counted += 1,
            None => self.others += 1,
        }
    }

    /// When the running window ends; none when nothing was refused in it.
    #[must_use]
    pub fn due_at(&self) -> Option<UnixMillis> {
        self.from.map(|from| from.after(WINDOW))
    }

    /// The summaries of a window that has ended by `now`; starts a new one. A
    /// clock that was set back ends the window too, so that counts never wait
    /// for a time that is years away.
    pub fn due(&mut self, now: UnixMillis) -> Vec<DenialsCounted> {
        match self.from {
            Some(from) if now >= from.after(WINDOW) || now < from => self.flush(now),
            Some(_) | None => Vec::new(),
        }
    }

    /// The summaries of the running window, ended or not.
    pub fn flush(&mut self, now: UnixMillis) -> Vec<DenialsCounted> {
        let gate = std::mem::take(self);
        let from = gate.from.unwrap_or(now);
        let known = gate
            .callers
            .into_iter()
            .map(|(caller, window)| (Some(caller), window.counted));
        known
            .chain([(None, gate.others)])
            .filter(|(_, count)| *count > 0)
            .map(|(caller, count)| DenialsCounted {
                caller,
                from,
                until: now,
                count,
            })
            .collect()
    }

    /// Puts summaries back whose write failed, so that they are counted in the
    /// next ones.
    pub fn restore(&mut self, summaries: &[DenialsCounted]) {
        for summary in summaries {
            let from = self
                .from
                .map_or(summary.from, |from| from.min(summary.from));
            self.from = Some(from);
            match summary.caller {
                Some(caller) => {
                    let window = self.callers.entry(caller).or_default();
                    window.counted = window.counted.saturating_add(summary.count);
                    window.recorded = RECORDED_PER_WINDOW_MAX;
                }
                None => self.others = self.others.saturating_add(summary.count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::id::NodeId;

    fn node(n: u32) -> Caller {
        let mut bytes = [0; 10];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Caller::Node(NodeId::from_bytes(bytes))
    }

    const START: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn a_million_anonymous_refusals_are_one_summary() {
        let mut gate = DenialGate::default();
        for _ in 0..1_000_000 {
            assert_eq!(gate.admit(&Caller::Anonymous, START), Keep::Count);
        }
        assert_eq!(gate.due(START), []);
        let end = START.after(WINDOW);
        assert_eq!(
            gate.due(end),
            [DenialsCounted {
                caller: Some(Caller::Anonymous),
                from: START,
                until: end,
                count: 1_000_000,
            }]
        );
        assert_eq!(gate.due(end.after(WINDOW)), []);
    }

    #[test]
    fn a_caller_is_recorded_up_to_the_rate_and_counted_beyond() {
        let mut gate = DenialGate::default();
        let kept = (0..RECORDED_PER_WINDOW_MAX + 5)
            .filter(|_| gate.admit(&node(1), START) == Keep::Record)
            .count();
        assert_eq!(kept, RECORDED_PER_WINDOW_MAX as usize);
        assert_eq!(gate.admit(&node(2), START), Keep::Record);
        let summaries = gate.due(START.after(WINDOW));
        assert_eq!(summaries.len(), 1);
        assert_eq!(
            (summaries[0].caller, summaries[0].count),
            (Some(node(1)), 5)
        );
        assert_eq!(gate.admit(&node(1), START), Keep::Record);
    }

    #[test]
    fn callers_beyond_the_bound_share_one_count() {
        let mut gate = DenialGate::default();
        for n in 0..1_000_000 {
            gate.admit(&node(n), START);
        }
        assert!(gate.callers.len() <= CALLERS_MAX);
        let summaries = gate.flush(START);
        assert_eq!(summaries.len(), 1);
        assert_eq!(summaries[0].caller, None);
        assert_eq!(summaries[0].count, 1_000_000 - CALLERS_MAX as u64);
    }

    #[test]
    fn summaries_that_were_not_written_are_counted_again() {
        let mut gate = DenialGate::default();
        gate.admit(&Caller::Anonymous, START);
        let end = START.after(WINDOW);
        let lost = gate.due(end);
        gate.admit(&Caller::Anonymous, end);
        gate.restore(&lost);
        let again = gate.due(end);
        assert_eq!((again[0].from, again[0].count), (START, 2));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_the_window() {
        let mut gate = DenialGate::default();
        gate.admit(&Caller::Anonymous, START);
        assert_eq!(gate.due(UnixMillis(1)).len(), 1);
    }
}
