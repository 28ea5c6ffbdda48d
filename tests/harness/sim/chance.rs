//! Chance from a seed: SplitMix64 (Steele, Lea and Flood, 2014), small and good
//! enough to choose faults.

use std::time::Duration;

/// A source of chance that a seed determines.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Chance {
        Chance { state: seed }
    }

    /// A source of its own, so that what one part draws does not change another's.
    #[must_use]
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.draw())
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// An index into something of this length, which is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(bound)).unwrap_or(0)
    }

    /// True in so many of a thousand cases.
    pub fn permille(&mut self, permille: u32) -> bool {
        self.below(1000) < u64::from(permille)
    }

    /// A time from `least` to `most`, in whole milliseconds.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let width = ms(most).saturating_sub(ms(least)) + 1;
        Duration::from_millis(ms(least) + self.below(width))
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(drawn) {
                *to = from;
            }
        }
        bytes
    }
}
