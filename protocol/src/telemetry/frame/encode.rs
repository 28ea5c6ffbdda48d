//! Frame → bytes.

use thiserror::Error;

use super::super::limit::{
    FRAME_BODY_BYTES_MAX, FRAME_BYTES_MAX, FRAME_COLUMNS_MAX, FRAME_LABELS_MAX, FRAME_SLOTS_MAX,
    FRAME_VALUES_MAX, INTERVAL_MS_MAX, INTERVAL_MS_MIN,
};
use super::bits::{bit_width, put_bitmap, put_packed, put_varint, varint_len, zigzag};
use super::{
    CODING_CONSTANT, CODING_DELTA, CODING_DELTA2, CODING_PACKED, CODING_PACKED2, Column,
    FORM_STORED, FORM_ZSTD, Frame, OWN_BITMAP,
};

/// zstd's level. On recorded frames of 15 minutes it gives 3,548 bytes, level 19
/// 3,512, and its context is the smaller: 0.3 MB while it works, none between.
const ZSTD_LEVEL: i32 = 3;

/// Bodies below this are not tried with zstd: of recorded frames of 1 to 8
/// minutes (410 to 2,000 bytes) packed bits won all but one in seventy. So an
/// agent that sends frames of a minute never touches zstd's memory.
const ZSTD_BODY_BYTES_MIN: usize = 2_048;

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// The shortest form, for the wire and for storage.
    Shortest,
    /// No compression: for the partial frame that is written again after every
    /// sample and soon thrown away.
    Quick,
}

/// Why a frame could not be encoded. Only a frame beyond the limits fails.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EncodeFrameError {
    /// A part of the frame is beyond its limit.
    #[error("frame has {count} {what}, at most {limit} fit")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// Columns are not in order, a key is there twice, or a column's length is
    /// not the frame's: the frame was put together by hand and wrongly.
    #[error(
        "column {series} {label:?} is out of order, doubled, empty or not of the frame's length"
    )]
    Malformed {
        /// The column's series number.
        series: u16,
        /// The column's label.
        label: String,
    },
    /// The interval is outside its range.
    #[error("interval of {interval_ms} ms is outside its range")]
    Interval {
        /// The interval asked for.
        interval_ms: u32,
    },
    /// zstd failed, which is a bug or lack of memory.
    #[error("cannot compress the frame: {reason}")]
    Compress {
        /// zstd's words.
        reason: String,
    },
}

/// Encodes a frame.
///
/// # Errors
/// When the frame is beyond the limits of [`crate::telemetry::limit`], or not
/// well formed (made otherwise than by [`Frame::from_samples`] or a decoder).
pub fn encode(frame: &Frame, effort: Effort) -> Result<Vec<u8>, EncodeFrameError> {
    check(frame)?;
    let stored = body(frame, Codings::Any);
    within(
        "bytes before compression",
        stored.len(),
        FRAME_BODY_BYTES_MAX,
    )?;
    let mut out = Vec::with_capacity(stored.len() + 1);
    if effort == Effort::Shortest && stored.len() >= ZSTD_BODY_BYTES_MIN {
        let varints = body(frame, Codings::Varint);
        if varints.len() <= FRAME_BODY_BYTES_MAX {
            out.push(FORM_ZSTD);
            put_varint(&mut out, varints.len() as u64);
            let compressed = zstd::bulk::compress(&varints, ZSTD_LEVEL).map_err(|error| {
                EncodeFrameError::Compress {
                    reason: error.to_string(),
                }
            })?;
            out.extend_from_slice(&compressed);
        }
    }
    if out.is_empty() || out.len() > stored.len() {
        out.clear();
        out.push(FORM_STORED);
        out.extend_from_slice(&stored);
    }
    within("bytes", out.len(), FRAME_BYTES_MAX)?;
    Ok(out)
}

const fn within(what: &'static str, count: usize, limit: usize) -> Result<(), EncodeFrameError> {
    if count > limit {
        return Err(EncodeFrameError::TooLarge { what, count, limit });
    }
    Ok(())
}

fn check(frame: &Frame) -> Result<(), EncodeFrameError> {
    let slots = usize::from(frame.span.slots);
    within("slots", slots, FRAME_SLOTS_MAX)?;
    within("columns", frame.columns.len(), FRAME_COLUMNS_MAX)?;
    within("values", frame.columns.len() * slots, FRAME_VALUES_MAX)?;
    let interval_ms = frame.span.interval_ms;
    if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&interval_ms) {
        return Err(EncodeFrameError::Interval { interval_ms });
    }
    let mut before: Option<&Column> = None;
    let mut labels = 0;
    for column in &frame.columns {
        let ascends = before.is_none_or(|before| before.key < column.key);
        let filled = column.values.iter().any(Option::is_some);
        if !ascends || !filled || column.values.len() != slots {
            return Err(EncodeFrameError::Malformed {
                series: column.key.series.0,
                label: column.key.label.to_string(),
            });
        }
        if before.is_none_or(|before| before.key.label != column.key.label) {
            labels += 1;
        }
        before = Some(column);
    }
    within("labels", labels, FRAME_LABELS_MAX)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Codings {
    Varint,
    Any,
}

fn body(frame: &Frame, codings: Codings) -> Vec<u8> {
    let span = frame.span;
    let mut out = Vec::with_capacity(256);
    put_varint(&mut out, u64::from(frame.catalogue));
    out.push(span.tier.number());
    put_varint(&mut out, span.start_ms);
    put_varint(&mut out, u64::from(span.interval_ms));
    put_varint(&mut out, u64::from(span.slots));
    let measured: Vec<bool> = (0..usize::from(span.slots))
        .map(|slot| {
            frame
                .columns
                .iter()
                .any(|column| matches!(column.values.get(slot), Some(Some(_))))
        })
        .collect();
    if measured.iter().all(|slot| *slot) {
        out.push(0);
    } else {
        out.push(1);
        put_bitmap(&mut out, measured.iter().copied());
    }
    put_keys(&mut out, &frame.columns);
    put_columns(&mut out, &frame.columns, &measured, codings);
    out
}

fn put_keys(out: &mut Vec<u8>, columns: &[Column]) {
    let groups: Vec<&[Column]> = columns
        .chunk_by(|a, b| a.key.label == b.key.label)
        .collect();
    put_varint(out, groups.len() as u64);
    for group in groups {
        let Some(first) = group.first() else { continue };
        let text = first.key.label.as_str();
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
        let runs: Vec<&[Column]> = group
            .chunk_by(|a, b| a.key.series.0.checked_add(1) == Some(b.key.series.0))
            .collect();
        put_varint(out, runs.len() as u64);
        let mut next = 0_u64;
        for run in runs {
            let Some(first) = run.first() else { continue };
            let number = u64::from(first.key.series.0);
            put_varint(out, number - next);
            put_varint(out, run.len() as u64 - 1);
            next = number + run.len() as u64;
        }
    }
}

fn put_columns(out: &mut Vec<u8>, columns: &[Column], measured: &[bool], codings: Codings) {
    let headers_at = out.len();
    out.resize(headers_at + columns.len().div_ceil(2), 0);
    let mut values = Vec::with_capacity(measured.len());
    for (index, column) in columns.iter().enumerate() {
        let cells = || {
            column
                .values
                .iter()
                .zip(measured)
                .filter(|(_, measured)| **measured)
        };
        values.clear();
        values.extend(cells().filter_map(|(value, _)| *value));
        let mut header = 0;
        if values.len() < cells().count() {
            header |= OWN_BITMAP;
            put_bitmap(out, cells().map(|(value, _)| value.is_some()));
        }
        header |= put_values(out, &values, codings);
        if let Some(byte) = out.get_mut(headers_at + index / 2) {
            *byte |= if index % 2 == 0 { header } else { header << 4 };
        }
    }
}

/// Appends the values and says by which coding.
fn put_values(out: &mut Vec<u8>, values: &[i64], codings: Codings) -> u8 {
    let Some((first, _)) = values.split_first() else {
        return CODING_CONSTANT;
    };
    put_varint(out, zigzag(*first));
    if values.iter().all(|value| value == first) {
        return CODING_CONSTANT;
    }
    let deltas = || values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    let first_delta = deltas().next().unwrap_or_default();
    let delta2s = || {
        std::iter::once(first_delta).chain(
            deltas()
                .zip(deltas().skip(1))
                .map(|(before, after)| after.wrapping_sub(before)),
        )
    };
    let varints = |steps: &mut dyn Iterator<Item = i64>| -> usize {
        steps.map(|step| varint_len(zigzag(step))).sum()
    };
    let mut best = (varints(&mut deltas()), CODING_DELTA);
    let mut offer = |bytes: usize, coding: u8| {
        if bytes < best.0 {
            best = (bytes, coding);
        }
    };
    offer(varints(&mut delta2s()), CODING_DELTA2);
    let packing = Packing::of(deltas());
    let packing2 = Packing::of(delta2s().skip(1));
    if codings == Codings::Any {
        offer(packing.bytes(), CODING_PACKED);
        offer(
            varint_len(zigzag(first_delta)) + packing2.bytes(),
            CODING_PACKED2,
        );
    }
    match best.1 {
        CODING_DELTA2 => delta2s().for_each(|step| put_varint(out, zigzag(step))),
        CODING_PACKED => packing.put(out, deltas()),
        CODING_PACKED2 => {
            put_varint(out, zigzag(first_delta));
            packing2.put(out, delta2s().skip(1));
        }
        _ => deltas().for_each(|step| put_varint(out, zigzag(step))),
    }
    best.1
}

/// How a run of steps packs: each as its distance above the least, in `width` bits.
struct Packing {
    least: i64,
    width: u32,
    count: usize,
}

impl Packing {
    fn of(steps: impl Iterator<Item = i64> + Clone) -> Self {
        let least = steps.clone().min().unwrap_or_default();
        let mut count = 0;
        let width = steps
            .inspect(|_| count += 1)
            .map(|step| bit_width(step.wrapping_sub(least).cast_unsigned()))
            .max()
            .unwrap_or_default();
        Self {
            least,
            width,
            count,
        }
    }

    fn bytes(&self) -> usize {
        varint_len(zigzag(self.least)) + 1 + (self.count * self.width as usize).div_ceil(8)
    }

    fn put(&self, out: &mut Vec<u8>, steps: impl Iterator<Item = i64>) {
        put_varint(out, zigzag(self.least));
        out.push(self.width.to_le_bytes()[0]);
        put_packed(
            out,
            steps.map(|step| step.wrapping_sub(self.least).cast_unsigned()),
            self.width,
        );
    }
}
