//! Varints, zigzag and packed bits: the smallest parts of the codec.

/// Folds a signed value so that small ones of either sign are small.
pub(super) const fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) const fn unzigzag(folded: u64) -> i64 {
    (folded >> 1).cast_signed() ^ (folded & 1).cast_signed().wrapping_neg()
}

/// Appends a LEB128 varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// How many bytes [`put_varint`] writes.
pub(super) const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bits needed for a value.
pub(super) const fn bit_width(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Appends values of a fixed width, lowest bit first, padded to a byte.
pub(super) fn put_packed(out: &mut Vec<u8>, values: impl Iterator<Item = u64>, width: u32) {
    let mut pending: u128 = 0;
    let mut held = 0;
    for value in values {
        pending |= u128::from(value) << held;
        held += width;
        while held >= 8 {
            out.push(pending.to_le_bytes()[0]);
            pending >>= 8;
            held -= 8;
        }
    }
    if held > 0 {
        out.push(pending.to_le_bytes()[0]);
    }
}

/// Appends one bit for each flag, lowest bit first, padded to a byte.
pub(super) fn put_bitmap(out: &mut Vec<u8>, flags: impl Iterator<Item = bool>) {
    put_packed(out, flags.map(u64::from), 1);
}

/// Reads from bytes that came from outside; every read says when they end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// The bytes ended too early, or a varint ran past 64 bits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Ended> {
        let (byte, rest) = self.rest.split_first().ok_or(Ended)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Ended> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Ended)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn varint(&mut self) -> Result<u64, Ended> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(Ended);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Ended)
    }

    pub(super) fn zigzag(&mut self) -> Result<i64, Ended> {
        self.varint().map(unzigzag)
    }

    /// Reads `count` values of `width` bits (at most 64).
    pub(super) fn packed(&mut self, count: usize, width: u32) -> Result<Packed<'a>, Ended> {
        let bits = count.checked_mul(width as usize).ok_or(Ended)?;
        Ok(Packed {
            bytes: self.take(bits.div_ceil(8))?,
            width,
            at: 0,
            left: count,
        })
    }
}

/// Values of a fixed width being unpacked.
#[derive(Debug)]
pub(super) struct Packed<'a> {
    bytes: &'a [u8],
    width: u32,
    at: usize,
    left: usize,
}

impl Iterator for Packed<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let mut value = 0_u64;
        for bit in 0..self.width {
            let index = self.at + bit as usize;
            let byte = self.bytes.get(index / 8).copied().unwrap_or_default();
            value |= u64::from(byte >> (index % 8) & 1) << bit;
        }
        self.at += self.width as usize;
        Some(value)
    }
}
