//! A frame: a block of samples, columnar, standing alone.
//!
//! Owns the bytes' layout. A frame names its catalogue version, tier, start,
//! interval and number of slots; a slot is one moment of the grid. What was not
//! measured is absent, not zero: gaps survive the trip.
//!
//! **Layout, form 1 (stored) and 2 (zstd).** One byte of form; form 2 then has
//! the body's length as a varint and the body compressed as one zstd frame,
//! form 1 has the body as it is. The encoder keeps the shorter. The body, where
//! `varint` is LEB128 and `zigzag` a signed value folded into one:
//!
//! ```text
//! varint catalogue version | u8 tier | varint start (ms) | varint interval (ms)
//! varint slots | u8 0 = every slot was measured, 1 = a bitmap of them follows
//! varint labels | per label: varint length, text, varint runs,
//!                 per run: varint series skipped, varint series in the run - 1
//! per column one nibble, low first: bits 0-2 coding, bit 3 = own bitmap follows
//! per column: [bitmap over the measured slots] zigzag first value, then the rest by coding
//! ```
//!
//! Codings: 0 constant (no more bytes); 1 zigzag deltas; 2 zigzag deltas of
//! deltas; 3 and 4 the same packed into a fixed number of bits above a minimum
//! (zigzag minimum, u8 bits, then the bits, lowest first). The encoder takes the
//! shortest for each column: varints where zstd follows, since packed bits hide
//! their repetition from it, and any of the five where nothing follows.
//!
//! **Invariant:** decoding trusts no count. Every count is checked against its
//! limit and against the bytes that are left before anything is allocated for
//! it; a body claims at most [`FRAME_BODY_BYTES_MAX`]; bytes that are left over
//! are an error. The worst a frame can do is to be refused with a code.

mod bits;
mod decode;
mod downsample;
mod encode;

pub use decode::{DecodeFrameError, decode};
pub use downsample::{DownsampleError, RepackError, downsample, downsample_encoded};
pub use encode::{Effort, EncodeFrameError, encode};

use super::catalogue::SeriesId;
use super::limit::{FRAME_BODY_BYTES_MAX, FRAME_SLOTS_MAX};
use super::sample::{Label, SampleSet};
use super::tier::Tier;
use std::collections::BTreeMap;

/// The version of the frame entry's body in a stream. A frame also says its form
/// in its first byte; this one changes only when readers must tell apart what
/// they cannot tell from the bytes.
pub const FRAME_VERSION: u16 = 1;

const FORM_STORED: u8 = 1;
const FORM_ZSTD: u8 = 2;

const CODING_CONSTANT: u8 = 0;
const CODING_DELTA: u8 = 1;
const CODING_DELTA2: u8 = 2;
const CODING_PACKED: u8 = 3;
const CODING_PACKED2: u8 = 4;
const OWN_BITMAP: u8 = 8;

/// A frame's place on the time line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// How finely the samples are spaced, as a class.
    pub tier: Tier,
    /// The moment of slot 0, in Unix milliseconds.
    pub start_ms: u64,
    /// From one slot to the next, in milliseconds.
    pub interval_ms: u32,
    /// How many slots.
    pub slots: u16,
}

impl Span {
    /// The moment of a slot, in Unix milliseconds.
    pub const fn slot_ms(&self, slot: usize) -> u64 {
        self.start_ms
            .saturating_add((slot as u64).saturating_mul(self.interval_ms as u64))
    }

    /// The first moment after the frame, in Unix milliseconds.
    pub const fn end_ms(&self) -> u64 {
        self.slot_ms(self.slots as usize)
    }

    /// The slot that a moment falls on or after; `None` outside the frame.
    pub fn slot_of(&self, at_ms: u64) -> Option<usize> {
        let offset = at_ms.checked_sub(self.start_ms)?;
        let slot = offset / u64::from(self.interval_ms.max(1));
        (slot < u64::from(self.slots)).then(|| usize::try_from(slot).unwrap_or(usize::MAX))
    }
}

/// What identifies a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnKey {
    /// The device, interface, …; none for a series of the whole node.
    pub label: Label,
    /// Which series.
    pub series: SeriesId,
}

/// One series with one label over the frame's slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Which series and label.
    pub key: ColumnKey,
    /// One value a slot, in steps of the series' scale; `None` is a gap. As
    /// many as the frame has slots.
    pub values: Vec<Option<i64>>,
}

/// A block of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The catalogue version that it was made with.
    pub catalogue: u16,
    /// Where it stands in time.
    pub span: Span,
    /// The columns in the order of their keys, each key once.
    pub columns: Vec<Column>,
}

impl Frame {
    /// A frame of these moments: (slot, samples) pairs. A slot outside the span
    /// is left out, and of two values for one slot the later wins.
    pub fn from_samples<'a>(
        catalogue: u16,
        span: Span,
        moments: impl IntoIterator<Item = (usize, &'a SampleSet)>,
    ) -> Self {
        let slots = usize::from(span.slots).min(FRAME_SLOTS_MAX);
        let mut columns: BTreeMap<ColumnKey, Vec<Option<i64>>> = BTreeMap::new();
        for (slot, samples) in moments {
            for sample in samples {
                let key = ColumnKey {
                    label: sample.label.clone(),
                    series: sample.series,
                };
                let values = columns.entry(key).or_insert_with(|| vec![None; slots]);
                if let Some(cell) = values.get_mut(slot) {
                    *cell = Some(sample.value);
                }
            }
        }
        Self {
            catalogue,
            span: Span {
                slots: u16::try_from(slots).unwrap_or(u16::MAX),
                ..span
            },
            columns: columns
                .into_iter()
                .filter(|(_, values)| values.iter().any(Option::is_some))
                .map(|(key, values)| Column { key, values })
                .collect(),
        }
    }

    /// The frame taken apart again: (slot, samples) for every slot that holds
    /// at least one value.
    pub fn moments(&self) -> Vec<(usize, SampleSet)> {
        (0..usize::from(self.span.slots))
            .filter_map(|slot| {
                let mut samples = SampleSet::new();
                for column in &self.columns {
                    if let Some(Some(value)) = column.values.get(slot) {
                        samples.push_labelled(column.key.series, &column.key.label, *value);
                    }
                }
                (!samples.is_empty()).then_some((slot, samples))
            })
            .collect()
    }

    /// How many values are present.
    pub fn sample_count(&self) -> usize {
        self.columns
            .iter()
            .map(|column| column.values.iter().flatten().count())
            .sum()
    }

    /// The newest value of each column with its moment in Unix milliseconds.
    pub fn last_values(&self) -> impl Iterator<Item = (&ColumnKey, u64, i64)> {
        self.columns.iter().filter_map(|column| {
            let slot = column.values.iter().rposition(Option::is_some)?;
            let value = column.values.get(slot).copied().flatten()?;
            Some((&column.key, self.span.slot_ms(slot), value))
        })
    }
}

const _: () = assert!(FRAME_BODY_BYTES_MAX >= 64 * 1_024);

#[cfg(test)]
mod tests;
