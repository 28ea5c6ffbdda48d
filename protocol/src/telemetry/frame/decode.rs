//! Bytes → frame, trusting nothing.

use thiserror::Error;

use crate::ErrorCode;

use super::super::catalogue::SeriesId;
use super::super::limit::{
    FRAME_BODY_BYTES_MAX, FRAME_BYTES_MAX, FRAME_COLUMNS_MAX, FRAME_LABELS_MAX, FRAME_SLOTS_MAX,
    FRAME_VALUES_MAX, INTERVAL_MS_MAX, INTERVAL_MS_MIN, LABEL_BYTES_MAX,
};
use super::super::sample::Label;
use super::super::tier::Tier;
use super::bits::{Ended, Reader};
use super::{
    CODING_CONSTANT, CODING_DELTA, CODING_DELTA2, CODING_PACKED, CODING_PACKED2, Column, ColumnKey,
    FORM_STORED, FORM_ZSTD, Frame, OWN_BITMAP, Span,
};

/// Why bytes are not a frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeFrameError {
    /// The first byte names no form of this version: a newer agent made it.
    #[error("frame form {form} is unknown to this version")]
    UnknownForm {
        /// The form's number.
        form: u8,
    },
    /// The tier's number is none of this version.
    #[error("frame tier {tier} is unknown to this version")]
    UnknownTier {
        /// The tier's number.
        tier: u8,
    },
    /// The bytes end before the frame does, or a number runs past 64 bits.
    #[error("frame ends early or a number in it has no end")]
    Truncated,
    /// A count is beyond its limit.
    #[error("frame claims {count} {what}, at most {limit} may be")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many are claimed.
        count: u64,
        /// How many may be.
        limit: usize,
    },
    /// zstd refused the body, or it has another length than claimed.
    #[error("frame's compressed body is damaged")]
    Compressed,
    /// Something in the body cannot be: the words say what.
    #[error("frame is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

impl DecodeFrameError {
    /// The stable code: every damage to a frame is the same to its sender.
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::FrameInvalid
    }
}

impl From<Ended> for DecodeFrameError {
    fn from(Ended: Ended) -> Self {
        Self::Truncated
    }
}

/// Decodes a frame.
///
/// # Errors
/// When the bytes are not a frame of a form that this version knows, or claim
/// more than the limits of [`crate::telemetry::limit`].
pub fn decode(bytes: &[u8]) -> Result<Frame, DecodeFrameError> {
    within("bytes", bytes.len() as u64, FRAME_BYTES_MAX)?;
    let mut reader = Reader::new(bytes);
    match reader.byte()? {
        FORM_STORED => body(reader.rest()),
        FORM_ZSTD => {
            let claimed = within(
                "bytes before compression",
                reader.varint()?,
                FRAME_BODY_BYTES_MAX,
            )?;
            let decompressed = zstd::bulk::decompress(reader.rest(), claimed)
                .map_err(|_| DecodeFrameError::Compressed)?;
            if decompressed.len() != claimed {
                return Err(DecodeFrameError::Compressed);
            }
            body(&decompressed)
        }
        form => Err(DecodeFrameError::UnknownForm { form }),
    }
}

fn within(what: &'static str, count: u64, limit: usize) -> Result<usize, DecodeFrameError> {
    match usize::try_from(count) {
        Ok(fits) if fits <= limit => Ok(fits),
        _ => Err(DecodeFrameError::TooLarge { what, count, limit }),
    }
}

const fn malformed(what: &'static str) -> DecodeFrameError {
    DecodeFrameError::Malformed { what }
}

fn body(bytes: &[u8]) -> Result<Frame, DecodeFrameError> {
    let mut reader = Reader::new(bytes);
    let catalogue = u16::try_from(reader.varint()?).map_err(|_| malformed("catalogue version"))?;
    let tier = reader.byte()?;
    let tier = Tier::from_number(tier).ok_or(DecodeFrameError::UnknownTier { tier })?;
    let start_ms = reader.varint()?;
    let interval_ms = u32::try_from(reader.varint()?).map_err(|_| malformed("interval"))?;
    if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(&interval_ms) {
        return Err(malformed("interval"));
    }
    let slots = within("slots", reader.varint()?, FRAME_SLOTS_MAX)?;
    let span = Span {
        tier,
        start_ms,
        interval_ms,
        slots: u16::try_from(slots).map_err(|_| malformed("slots"))?,
    };
    if start_ms
        .checked_add(u64::from(interval_ms) * slots as u64)
        .is_none()
    {
        return Err(malformed("a start beyond all time"));
    }
    let measured = match reader.byte()? {
        0 => vec![true; slots],
        1 => bitmap(&mut reader, slots)?,
        _ => return Err(malformed("slot bitmap")),
    };
    let keys = keys(&mut reader)?;
    within("values", (keys.len() * slots) as u64, FRAME_VALUES_MAX)?;
    let columns = columns(&mut reader, keys, &measured)?;
    if reader.left() > 0 {
        return Err(malformed("bytes after its end"));
    }
    Ok(Frame {
        catalogue,
        span,
        columns,
    })
}

fn bitmap(reader: &mut Reader<'_>, count: usize) -> Result<Vec<bool>, Ended> {
    Ok(reader.packed(count, 1)?.map(|bit| bit == 1).collect())
}

fn keys(reader: &mut Reader<'_>) -> Result<Vec<ColumnKey>, DecodeFrameError> {
    let labels = within("labels", reader.varint()?, FRAME_LABELS_MAX)?;
    let mut keys: Vec<ColumnKey> = Vec::new();
    let mut before: Option<Label> = None;
    for _ in 0..labels {
        let length = within("label bytes", reader.varint()?, LABEL_BYTES_MAX)?;
        let text = std::str::from_utf8(reader.take(length)?).map_err(|_| malformed("label"))?;
        let label = Label::from_wire(text).ok_or(malformed("label"))?;
        if before.as_ref().is_some_and(|before| *before >= label) {
            return Err(malformed("order of labels"));
        }
        let runs = within("runs", reader.varint()?, FRAME_COLUMNS_MAX)?;
        if runs == 0 {
            return Err(malformed("a label without a column"));
        }
        let mut next = 0_u64;
        for run in 0..runs {
            let skipped = reader.varint()?;
            // Two runs that touch are one: otherwise the same frame could be
            // written in two ways, and equal content would not be equal bytes.
            if run > 0 && skipped == 0 {
                return Err(malformed("runs that touch"));
            }
            let first = next
                .checked_add(skipped)
                .ok_or(malformed("series number"))?;
            let count = within("columns", reader.varint()?, FRAME_COLUMNS_MAX - 1)? + 1;
            within("columns", (keys.len() + count) as u64, FRAME_COLUMNS_MAX)?;
            for number in (first..).take(count) {
                let number = u16::try_from(number).map_err(|_| malformed("series number"))?;
                keys.push(ColumnKey {
                    label: label.clone(),
                    series: SeriesId(number),
                });
            }
            next = first + count as u64;
        }
        before = Some(label);
    }
    Ok(keys)
}

fn columns(
    reader: &mut Reader<'_>,
    keys: Vec<ColumnKey>,
    measured: &[bool],
) -> Result<Vec<Column>, DecodeFrameError> {
    let headers = reader.take(keys.len().div_ceil(2))?;
    let measured_count = measured.iter().filter(|slot| **slot).count();
    if measured_count == 0 && !keys.is_empty() {
        return Err(malformed("columns without a measured slot"));
    }
    let mut columns = Vec::with_capacity(keys.len());
    for (index, key) in keys.into_iter().enumerate() {
        let pair = headers.get(index / 2).copied().unwrap_or_default();
        let header = if index % 2 == 0 {
            pair & 0x0f
        } else {
            pair >> 4
        };
        let own = if header & OWN_BITMAP == 0 {
            None
        } else {
            Some(bitmap(reader, measured_count)?)
        };
        let count = own.as_ref().map_or(measured_count, |own| {
            own.iter().filter(|present| **present).count()
        });
        if count == 0 {
            return Err(malformed("a column without a value"));
        }
        let mut decoded = values(reader, header & !OWN_BITMAP, count)?.into_iter();
        let mut own = own.into_iter().flatten();
        let cells = measured
            .iter()
            .map(|slot| {
                if *slot && own.next().unwrap_or(true) {
                    decoded.next()
                } else {
                    None
                }
            })
            .collect();
        columns.push(Column { key, values: cells });
    }
    Ok(columns)
}

fn values(reader: &mut Reader<'_>, coding: u8, count: usize) -> Result<Vec<i64>, DecodeFrameError> {
    let first = reader.zigzag()?;
    if coding == CODING_CONSTANT {
        return Ok(vec![first; count]);
    }
    let steps = count - 1;
    if steps == 0 {
        return Err(malformed("a coding that needs two values"));
    }
    let mut values = Vec::with_capacity(count);
    values.push(first);
    match coding {
        CODING_DELTA => {
            let mut value = first;
            for _ in 0..steps {
                value = value.wrapping_add(reader.zigzag()?);
                values.push(value);
            }
        }
        CODING_DELTA2 => {
            let (mut value, mut delta) = (first, 0_i64);
            for _ in 0..steps {
                delta = delta.wrapping_add(reader.zigzag()?);
                value = value.wrapping_add(delta);
                values.push(value);
            }
        }
        CODING_PACKED => {
            let mut value = first;
            for step in packed(reader, steps)? {
                value = value.wrapping_add(step);
                values.push(value);
            }
        }
        CODING_PACKED2 => {
            let mut delta = reader.zigzag()?;
            let mut value = first.wrapping_add(delta);
            values.push(value);
            for step in packed(reader, steps - 1)? {
                delta = delta.wrapping_add(step);
                value = value.wrapping_add(delta);
                values.push(value);
            }
        }
        _ => return Err(malformed("a coding unknown to this version")),
    }
    Ok(values)
}

fn packed<'a>(
    reader: &mut Reader<'a>,
    count: usize,
) -> Result<impl Iterator<Item = i64> + use<'a>, DecodeFrameError> {
    let least = reader.zigzag()?;
    let width = u32::from(reader.byte()?);
    if width > 64 {
        return Err(malformed("width of packed bits"));
    }
    Ok(reader
        .packed(count, width)?
        .map(move |above| least.wrapping_add(above.cast_signed())))
}
