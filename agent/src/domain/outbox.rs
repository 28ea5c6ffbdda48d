//! What waits for the controller: numbers, sizes and worth of the entries of each
//! stream, and what gives way when space is short.
//!
//! The bodies are the store's; this is the index by which it decides.
//!
//! **Invariant:** a number is given out once, in rising order, and a receipt that
//! was not acknowledged is never shed. Of a state only the latest entry a key
//! stays. Frames give way oldest first, to a coarser tier before they go.

use std::collections::BTreeMap;

use protocol::session::StreamOffer;
use protocol::state::StateKey;
use protocol::stream::Stream;
use protocol::telemetry::Tier;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// What an entry is worth. Append-only: it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Worth {
    /// A receipt or a lifecycle event: never shed before its acknowledgement.
    Kept,
    /// The latest state of a key.
    State(StateKey),
    /// A frame.
    Frame(FrameWorth),
}

/// What a frame covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameWorth {
    /// The tier's number, as [`Tier::number`] has it.
    pub tier: u8,
    /// Time of its first sample.
    pub first: UnixMillis,
    /// Time of its last sample.
    pub last: UnixMillis,
    /// Moments that it has samples of.
    pub samples: u32,
}

/// One entry, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Bytes of its body.
    pub bytes: u32,
    /// What it is worth.
    pub worth: Worth,
}

/// What gives way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Make one frame of a coarser tier from these, and put it in their place.
    Coarsen {
        /// Their numbers, oldest first.
        frames: Vec<u64>,
        /// The tier to make.
        tier: Tier,
    },
    /// Give this one up.
    Drop {
        /// Its number.
        frame: u64,
    },
}

/// Frames that one coarser frame is made from: an hour of one-minute frames is
/// decoded at once, some 100 KB.
const COARSEN_COUNT_MAX: usize = 60;

/// Slots that a coarser frame may span; the codec's own limit is a little higher.
const COARSE_SLOTS_MAX: u32 = 900;

/// Acknowledged control entries that stay for a controller that was restored.
pub const CONTROL_KEPT_COUNT_MAX: usize = 256;

/// Bytes of them.
pub const CONTROL_KEPT_BYTES_MAX: u64 = 1024 * 1024;

/// One stream's entries.
#[derive(Clone, Debug, Default)]
pub struct Line {
    items: BTreeMap<u64, Item>,
    bytes: u64,
    acked: u64,
    last: u64,
    /// Numbers up to this one may be given out.
    granted: u64,
}

impl Line {
    /// A stream as the store has it. Numbers go on above `last`.
    #[must_use]
    pub fn restored(items: BTreeMap<u64, Item>, acked: u64, last: u64, granted: u64) -> Self {
        let bytes = items.values().map(|item| u64::from(item.bytes)).sum();
        Self {
            items,
            bytes,
            acked,
            last,
            granted,
        }
    }

    /// The next number; none when the block that was reserved is used up.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let next = self.last + 1;
        (next <= self.granted).then_some(next)
    }

    /// Numbers that may still be given out.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.granted.saturating_sub(self.last)
    }

    /// Reserves numbers up to and including this one.
    pub fn grant(&mut self, through: u64) {
        self.granted = self.granted.max(through);
    }

    /// Gives out no number up to and including this one.
    pub fn skip(&mut self, through: u64) {
        self.last = self.last.max(through);
        self.granted = self.granted.max(through);
    }

    /// Adds an entry under a number from [`Line::next`].
    pub fn insert(&mut self, seq: u64, item: Item) {
        self.last = self.last.max(seq);
        self.bytes += u64::from(item.bytes);
        if let Some(old) = self.items.insert(seq, item) {
            self.bytes -= u64::from(old.bytes);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, seq: u64) -> Option<Item> {
        let item = self.items.remove(&seq)?;
        self.bytes -= u64::from(item.bytes);
        Some(item)
    }

    /// Notes an acknowledgement.
    pub fn acknowledge(&mut self, through: u64) {
        self.acked = self.acked.max(through.min(self.last));
    }

    /// Acknowledged entries that may go: all but the newest `count` with at most
    /// `bytes` together.
    #[must_use]
    pub fn released(&self, count: usize, bytes: u64) -> Vec<u64> {
        let mut kept_bytes = 0;
        self.items
            .range(..=self.acked)
            .rev()
            .enumerate()
            .filter(|(place, (_, item))| {
                kept_bytes += u64::from(item.bytes);
                *place >= count || kept_bytes > bytes
            })
            .map(|(_, (seq, _))| *seq)
            .collect()
    }

    /// Entries after a number, in order.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = (u64, &Item)> {
        self.items
            .range(seq.saturating_add(1)..)
            .map(|(seq, item)| (*seq, item))
    }

    /// Numbers of acknowledged entries that are still kept.
    #[must_use]
    pub fn kept(&self) -> Vec<u64> {
        self.items
            .range(..=self.acked)
            .map(|(seq, _)| *seq)
            .collect()
    }

    /// Entries that wait for their acknowledgement.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.items.range(self.acked.saturating_add(1)..).count()
    }

    /// Bytes of all bodies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The highest number that was acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The highest number that was given out.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the older entry with the same state key.
    #[must_use]
    pub fn superseded_by(&self, seq: u64, key: StateKey) -> Option<u64> {
        self.items
            .range(..seq)
            .rev()
            .find(|(_, item)| item.worth == Worth::State(key))
            .map(|(seq, _)| *seq)
    }

    /// The oldest frames of a tier that lie close enough together for one frame of
    /// the coarser tier; fewer than two when there are none.
    fn neighbours(&self, tier: Tier, coarser: Tier) -> Vec<u64> {
        let reach = coarser.interval() * COARSE_SLOTS_MAX;
        let mut group: Vec<u64> = Vec::new();
        let mut from = UnixMillis(0);
        let mut to = UnixMillis(0);
        for (seq, item) in &self.items {
            let Worth::Frame(frame) = item.worth else {
                continue;
            };
            if frame.tier != tier.number() {
                continue;
            }
            let (first, last) = (from.min(frame.first), to.max(frame.last));
            if group.is_empty() || last.since(first) > reach {
                if group.len() > 1 {
                    break;
                }
                group.clear();
                (from, to) = (frame.first, frame.last);
            } else {
                (from, to) = (first, last);
            }
            group.push(*seq);
            if group.len() == COARSEN_COUNT_MAX {
                break;
            }
        }
        group
    }

    /// What gives way so that the line shrinks: the oldest frames of the finest
    /// tier become coarser; when none can, the oldest frame goes. None when there
    /// is no frame.
    #[must_use]
    pub fn shed(&self) -> Option<Shed> {
        for tier in Tier::ALL {
            let Some(coarser) = tier.coarser() else {
                continue;
            };
            let frames = self.neighbours(tier, coarser);
            if frames.len() > 1 {
                return Some(Shed::Coarsen {
                    frames,
                    tier: coarser,
                });
            }
        }
        self.items
            .iter()
            .find(|(_, item)| matches!(item.worth, Worth::Frame(_)))
            .map(|(seq, _)| Shed::Drop { frame: *seq })
    }
}

/// All streams.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    lines: [Line; 4],
}

impl Outbox {
    /// An outbox with these streams, in the order of [`Stream::ALL`].
    #[must_use]
    pub fn restored(lines: [Line; 4]) -> Self {
        Self { lines }
    }

    /// One stream.
    #[must_use]
    pub fn line(&self, stream: Stream) -> &Line {
        &self.lines[stream.index()]
    }

    /// One stream.
    pub fn line_mut(&mut self, stream: Stream) -> &mut Line {
        &mut self.lines[stream.index()]
    }

    /// What hello offers.
    #[must_use]
    pub fn offers(&self) -> [StreamOffer; 4] {
        Stream::ALL.map(|stream| StreamOffer {
            stream,
            acked: self.line(stream).acked(),
            last: self.line(stream).last(),
        })
    }

    /// Entries that wait, all streams.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lines.iter().map(Line::waiting).sum()
    }

    /// Bytes of all bodies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lines.iter().map(Line::bytes).sum()
    }

    /// Whether a command's receipt is sure to fit: `open` commands are owed one
    /// already.
    #[must_use]
    pub fn has_room_for_receipt(&self, open: usize, bytes_max: u64) -> bool {
        let line = self.line(Stream::Control);
        let kept: u64 = line
            .items
            .range(..=line.acked)
            .map(|(_, item)| u64::from(item.bytes))
            .sum();
        let owed = u64::try_from(open + 1).unwrap_or(u64::MAX);
        let most = u64::try_from(protocol::limits::ENTRY_BYTES_MAX).unwrap_or(u64::MAX);
        let waiting = line.bytes - kept;
        waiting.saturating_add(owed.saturating_mul(most)) <= bytes_max
    }
}

#[cfg(test)]
mod tests;
