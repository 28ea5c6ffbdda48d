//! What gives way when space is short: frames, oldest first, to coarser tiers
//! before they go.

use protocol::stream::{EntryKind, Stream};
use protocol::telemetry::Tier;
use protocol::telemetry::frame::{FRAME_VERSION, downsample_encoded};

use super::disk::{DiskError, Stored};
use super::{Pending, Store, slots, stored};
use crate::domain::outbox::{FrameWorth, Shed, Worth};

/// Rounds of shedding in one go; each takes away 59 frames or one.
const SHED_ROUNDS_MAX: usize = 64;

impl Store {
    /// Makes the frames on disk fit: coarser ones in the place of finer ones, then
    /// the oldest away. While the disk is short they may not grow past `before`.
    pub(super) fn shed_disk(&mut self, before: u64) -> Result<(), DiskError> {
        let short = self
            .disk
            .free_bytes()
            .is_some_and(|free| free < self.limits.free_bytes_min);
        let most = if short {
            before.min(self.limits.backfill_bytes_max)
        } else {
            self.limits.backfill_bytes_max
        };
        for _ in 0..SHED_ROUNDS_MAX {
            if self.outbox.line(Stream::Backfill).bytes() <= most {
                break;
            }
            let Some(shed) = self.outbox.line(Stream::Backfill).shed() else {
                break;
            };
            if let Some(coarse) = self.give_way(Stream::Backfill, &shed)? {
                self.pending.push(Pending {
                    stream: Stream::Backfill,
                    stored: coarse,
                    frame: None,
                });
            }
            self.write()?;
        }
        Ok(())
    }

    /// Makes the frames in memory fit.
    pub(super) fn shed_memory(&mut self) {
        let mut shed_some = false;
        for _ in 0..SHED_ROUNDS_MAX {
            let line = self.outbox.line(Stream::Telemetry);
            if line.bytes() <= self.limits.telemetry_bytes_max {
                break;
            }
            let Some(shed) = line.shed() else {
                break;
            };
            shed_some = true;
            let coarse = self.give_way(Stream::Telemetry, &shed).unwrap_or_default();
            let line = self.outbox.line_mut(Stream::Telemetry);
            if let Some(coarse) = coarse
                && let Some(seq) = line.next()
            {
                line.insert(seq, coarse.item);
                self.memory.insert((Stream::Telemetry, seq), coarse);
            }
        }
        if shed_some {
            self.respool();
        }
    }

    /// Takes frames away, and makes the coarser frame that stands for them.
    fn give_way(&mut self, stream: Stream, shed: &Shed) -> Result<Option<Stored>, DiskError> {
        let (seqs, tier) = match shed {
            Shed::Drop { frame } => (vec![*frame], None),
            Shed::Coarsen { frames, tier } => (frames.clone(), Some(*tier)),
        };
        let found = self.read_entries(stream, &seqs)?;
        let coarse = tier.and_then(|tier| coarsen(&found, tier));
        // What does not go into one coarser frame gives way one by one.
        let gone: Vec<u64> = if coarse.is_some() || tier.is_none() {
            seqs
        } else {
            seqs.into_iter().take(1).collect()
        };
        let samples = |stored: &Stored| match stored.item.worth {
            Worth::Frame(frame) => u64::from(frame.samples),
            Worth::Kept | Worth::State(_) => 0,
        };
        let before: u64 = found
            .iter()
            .filter(|(seq, _)| gone.contains(seq))
            .map(|(_, stored)| samples(stored))
            .sum();
        let after = coarse.as_ref().map_or(0, samples);
        self.meta.shed_samples += before.saturating_sub(after);
        for seq in gone {
            self.drop_entry(stream, seq);
        }
        Ok(coarse)
    }
}

fn coarsen(found: &[(u64, Stored)], tier: Tier) -> Option<Stored> {
    let bodies: Vec<&[u8]> = found
        .iter()
        .map(|(_, stored)| stored.body.as_slice())
        .collect();
    let body = downsample_encoded(&bodies, tier).ok()?;
    let frames: Vec<FrameWorth> = found
        .iter()
        .filter_map(|(_, stored)| match stored.item.worth {
            Worth::Frame(frame) => Some(frame),
            Worth::Kept | Worth::State(_) => None,
        })
        .collect();
    let first = frames.iter().map(|frame| frame.first).min()?;
    let last = frames.iter().map(|frame| frame.last).max()?;
    let samples: u32 = frames.iter().map(|frame| frame.samples).sum();
    let worth = Worth::Frame(FrameWorth {
        tier: tier.number(),
        first,
        last,
        samples: samples.min(slots(first, last, tier)),
    });
    Some(stored(worth, EntryKind::FRAME, FRAME_VERSION, body))
}
