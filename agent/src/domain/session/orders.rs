//! The orders of one session, put into the order of their numbers.
//!
//! **Invariant:** an order is passed on once, after all that precede it.

use std::collections::BTreeMap;

use protocol::down::DownBody;
use protocol::limits::DOWN_WINDOW_MAX;

/// Orders that wait for their predecessors; any more are dropped, and sent again
/// by the controller. Bounds what a broker that reorders can make a node hold.
pub(super) const EARLY_COUNT_MAX: usize = 32;

/// The orders of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    /// Every number up to this one was passed on.
    pub(super) seen: u64,
    /// Numbers that came before their predecessors.
    early: BTreeMap<u64, DownBody>,
}

impl Orders {
    pub(super) fn take(&mut self, number: u64, body: DownBody) -> Vec<DownBody> {
        let window = u64::try_from(DOWN_WINDOW_MAX).unwrap_or(u64::MAX);
        if number <= self.seen || number > self.seen.saturating_add(window) {
            return Vec::new();
        }
        if number > self.seen + 1 && self.early.len() >= EARLY_COUNT_MAX {
            return Vec::new();
        }
        self.early.insert(number, body);
        let mut ready = Vec::new();
        while let Some(body) = self.early.remove(&(self.seen + 1)) {
            self.seen += 1;
            ready.push(body);
        }
        ready
    }
}
