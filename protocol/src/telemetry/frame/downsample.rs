//! Frames → one frame of a coarser tier.
//!
//! A gauge keeps its mean over each coarse slot, rounded to the nearest step; a
//! counter keeps its last value. The mean, because it conserves what an integral
//! or a longer mean over the period says, where a last value would alias with
//! whatever runs every minute; the last value of a counter, because growth
//! between two slots is then exact. Minimum and maximum are not kept: they
//! would triple the bytes of gauges in the very moment in which space is short.
//! A coarse slot is stamped with the moment at which it begins; one without a
//! value stays a gap, and a mean of a part of the values is still a mean.

use std::collections::BTreeMap;

use thiserror::Error;

use super::super::catalogue::SeriesKind;
use super::super::limit::{FRAME_COLUMNS_MAX, FRAME_LABELS_MAX, FRAME_SLOTS_MAX, FRAME_VALUES_MAX};
use super::super::tier::Tier;
use super::{
    Column, ColumnKey, DecodeFrameError, Effort, EncodeFrameError, Frame, Span, decode, encode,
};

/// Why frames could not become one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DownsampleError {
    /// No frame was given.
    #[error("no frame to downsample")]
    Nothing,
    /// The frames span more coarse slots, or have more columns, than a frame
    /// may hold: the caller must take fewer at a time.
    #[error("frames to downsample have {count} {what}, at most {limit} fit in one")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many may be.
        limit: usize,
    },
}

/// Makes one frame of `tier` out of frames of finer ones, in any order, on the
/// grid of that tier's interval. Where frames overlap, every value counts in a
/// gauge's mean, and a counter keeps the latest.
///
/// # Errors
/// When there is nothing to do, or more than one frame can hold.
pub fn downsample(frames: &[Frame], tier: Tier) -> Result<Frame, DownsampleError> {
    let interval_ms = u32::try_from(tier.interval().as_millis()).unwrap_or(u32::MAX);
    let step = u64::from(interval_ms);
    let floor = |at_ms: u64| at_ms / step * step;
    let start_ms = frames
        .iter()
        .map(|frame| floor(frame.span.start_ms))
        .min()
        .ok_or(DownsampleError::Nothing)?;
    let end_ms = frames
        .iter()
        .map(|frame| {
            frame
                .span
                .end_ms()
                .max(frame.span.start_ms.saturating_add(1))
        })
        .max()
        .ok_or(DownsampleError::Nothing)?;
    let count = (end_ms - start_ms).div_ceil(step);
    let slots = fit("slots", count, FRAME_SLOTS_MAX)?;
    let mut columns: BTreeMap<ColumnKey, Vec<Bucket>> = BTreeMap::new();
    for frame in frames {
        for column in &frame.columns {
            let buckets = columns
                .entry(column.key.clone())
                .or_insert_with(|| vec![Bucket::default(); slots]);
            for (slot, value) in column.values.iter().enumerate() {
                let Some(value) = value else { continue };
                let at_ms = frame.span.slot_ms(slot);
                let index = usize::try_from((at_ms - start_ms) / step).unwrap_or(usize::MAX);
                if let Some(bucket) = buckets.get_mut(index) {
                    bucket.add(at_ms, *value);
                }
            }
        }
    }
    fit("columns", columns.len() as u64, FRAME_COLUMNS_MAX)?;
    fit("values", (columns.len() * slots) as u64, FRAME_VALUES_MAX)?;
    let columns: Vec<Column> = columns
        .into_iter()
        .map(|(key, buckets)| {
            let kind = key
                .series
                .series()
                .map_or(SeriesKind::Counter, |series| series.kind);
            let values = buckets.iter().map(|bucket| bucket.value(kind)).collect();
            Column { key, values }
        })
        .filter(|column| column.values.iter().any(Option::is_some))
        .collect();
    let labels = columns.chunk_by(|a, b| a.key.label == b.key.label).count();
    fit("labels", labels as u64, FRAME_LABELS_MAX)?;
    Ok(Frame {
        catalogue: frames
            .iter()
            .map(|frame| frame.catalogue)
            .max()
            .unwrap_or_default(),
        span: Span {
            tier,
            start_ms,
            interval_ms,
            slots: u16::try_from(slots).unwrap_or(u16::MAX),
        },
        columns,
    })
}

/// Why encoded frames could not become one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RepackError {
    /// One of them is not a frame.
    #[error("cannot decode frame {index} of those to downsample")]
    Decode {
        /// Its place in the slice, from zero.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: DecodeFrameError,
    },
    /// They do not become one.
    #[error("cannot downsample")]
    Downsample(#[source] DownsampleError),
    /// The result could not be encoded.
    #[error("cannot encode the downsampled frame")]
    Encode(#[source] EncodeFrameError),
}

/// [`downsample`] from bytes to bytes, for a store that keeps frames encoded.
///
/// # Errors
/// When one of them is not a frame, or together they are more than one frame
/// can hold; then the caller takes fewer at a time.
pub fn downsample_encoded(frames: &[&[u8]], tier: Tier) -> Result<Vec<u8>, RepackError> {
    let decoded: Vec<Frame> = frames
        .iter()
        .enumerate()
        .map(|(index, bytes)| decode(bytes).map_err(|source| RepackError::Decode { index, source }))
        .collect::<Result<_, _>>()?;
    let coarse = downsample(&decoded, tier).map_err(RepackError::Downsample)?;
    encode(&coarse, Effort::Shortest).map_err(RepackError::Encode)
}

fn fit(what: &'static str, count: u64, limit: usize) -> Result<usize, DownsampleError> {
    match usize::try_from(count) {
        Ok(fits) if fits <= limit => Ok(fits),
        _ => Err(DownsampleError::TooLarge { what, count, limit }),
    }
}

#[derive(Clone, Default)]
struct Bucket {
    sum: i128,
    count: i128,
    last_ms: u64,
    last: i64,
}

impl Bucket {
    const fn add(&mut self, at_ms: u64, value: i64) {
        self.sum += value as i128;
        self.count += 1;
        if at_ms >= self.last_ms {
            self.last_ms = at_ms;
            self.last = value;
        }
    }

    fn value(&self, kind: SeriesKind) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        match kind {
            SeriesKind::Counter => Some(self.last),
            SeriesKind::Gauge => {
                // Half away from zero, in integers, so that every platform agrees.
                let half = if self.sum < 0 {
                    -self.count / 2
                } else {
                    self.count / 2
                };
                i64::try_from((self.sum + half) / self.count).ok()
            }
        }
    }
}
