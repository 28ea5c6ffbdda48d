//! What a simulated host measures: the catalogue's series of a small server with
//! one disk, two interfaces and two filesystems, each with the kind of movement
//! that it has on a real one.
//!
//! Totals stand still, counters grow by a rate that varies, gauges wander around
//! a level. So a frame compresses about as a real one does; the report says what
//! it came to.

use protocol::telemetry::catalogue::{SeriesId, VERSION};
use protocol::telemetry::frame::{Effort, EncodeFrameError, Frame, Span, encode};
use protocol::telemetry::{Label, SampleSet, Tier};

/// How a value moves from one sample to the next.
#[derive(Clone, Copy)]
enum Motion {
    /// Not at all.
    Still,
    /// Up by about this much.
    Grows(i64),
    /// By at most this much either way, and back to where it began.
    Wanders(i64),
}

use Motion::{Grows, Still, Wanders};

type Line = (SeriesId, &'static str, i64, Motion);

/// Series, label, first value, motion.
const LINES: &[Line] = &[
    (SeriesId::CPU_USER, "", 912_345, Grows(61)),
    (SeriesId::CPU_NICE, "", 1_204, Still),
    (SeriesId::CPU_SYSTEM, "", 402_111, Grows(24)),
    (SeriesId::CPU_IDLE, "", 81_000_000, Grows(1890)),
    (SeriesId::CPU_IOWAIT, "", 20_119, Grows(2)),
    (SeriesId::CPU_IRQ, "", 9_411, Grows(1)),
    (SeriesId::CPU_STEAL, "", 311, Still),
    (SeriesId::CPU_COUNT, "", 200, Still),
    (SeriesId::LOAD_1, "", 34, Wanders(6)),
    (SeriesId::LOAD_5, "", 31, Wanders(2)),
    (SeriesId::LOAD_15, "", 29, Wanders(1)),
    (SeriesId::MEM_TOTAL, "", 65_000, Still),
    (SeriesId::MEM_USED, "", 21_400, Wanders(9)),
    (SeriesId::MEM_AVAILABLE, "", 43_600, Wanders(9)),
    (SeriesId::MEM_CACHED, "", 18_000, Wanders(3)),
    (SeriesId::SWAP_TOTAL, "", 16_384, Still),
    (SeriesId::SWAP_USED, "", 12, Still),
    (SeriesId::PSI_CPU_SOME, "", 812_003, Grows(41)),
    (SeriesId::PSI_MEM_SOME, "", 203, Still),
    (SeriesId::PSI_MEM_FULL, "", 190, Still),
    (SeriesId::PSI_IO_SOME, "", 412_992, Grows(12)),
    (SeriesId::PSI_IO_FULL, "", 390_112, Grows(11)),
    (SeriesId::FS_TOTAL, "/", 40_960, Still),
    (SeriesId::FS_USED, "/", 17_211, Wanders(1)),
    (SeriesId::FS_AVAILABLE, "/", 21_600, Wanders(1)),
    (SeriesId::FS_INODES, "/", 2_621_440, Still),
    (SeriesId::FS_INODES_USED, "/", 301_224, Wanders(4)),
    (SeriesId::FS_TOTAL, "/boot", 512, Still),
    (SeriesId::FS_USED, "/boot", 130, Still),
    (SeriesId::FS_AVAILABLE, "/boot", 380, Still),
    (SeriesId::FS_INODES, "/boot", 32_768, Still),
    (SeriesId::FS_INODES_USED, "/boot", 340, Still),
    (SeriesId::DISK_READ_OPS, "vda", 1_220_113, Grows(1)),
    (SeriesId::DISK_READ_BYTES, "vda", 91_223_112, Grows(9)),
    (SeriesId::DISK_READ_TIME, "vda", 612_330, Grows(1)),
    (SeriesId::DISK_WRITE_OPS, "vda", 8_112_904, Grows(63)),
    (SeriesId::DISK_WRITE_BYTES, "vda", 301_229_888, Grows(1600)),
    (SeriesId::DISK_WRITE_TIME, "vda", 7_110_221, Grows(81)),
    (SeriesId::DISK_BUSY, "vda", 5_221_004, Grows(52)),
    (
        SeriesId::NET_RX_BYTES,
        "eth0",
        91_220_331_008,
        Grows(22_300),
    ),
    (SeriesId::NET_RX_PACKETS, "eth0", 110_223_118, Grows(118)),
    (SeriesId::NET_RX_ERRORS, "eth0", 0, Still),
    (SeriesId::NET_RX_DROPS, "eth0", 411, Still),
    (
        SeriesId::NET_TX_BYTES,
        "eth0",
        30_112_004_119,
        Grows(14_800),
    ),
    (SeriesId::NET_TX_PACKETS, "eth0", 92_118_402, Grows(97)),
    (SeriesId::NET_TX_ERRORS, "eth0", 0, Still),
    (SeriesId::NET_TX_DROPS, "eth0", 0, Still),
    (SeriesId::TCP_ESTABLISHED, "", 31, Wanders(2)),
    (SeriesId::TCP_RETRANSMITS, "", 20_114, Grows(1)),
    (SeriesId::TCP_RESETS, "", 3_101, Still),
    (SeriesId::TEMP, "coretemp core 0", 481, Wanders(6)),
    (SeriesId::UPTIME, "", 4_001_223, Grows(10)),
    (SeriesId::PROC_COUNT, "", 143, Wanders(1)),
    (SeriesId::PROC_RUNNING, "", 1, Wanders(1)),
    (SeriesId::PROC_BLOCKED, "", 0, Still),
    (SeriesId::FD_USED, "", 2_272, Wanders(32)),
    (SeriesId::FD_MAX, "", 9_223_372, Still),
    (SeriesId::AGENT_MEM, "", 88, Wanders(1)),
    (SeriesId::AGENT_CPU, "", 4_021, Grows(1)),
    (SeriesId::AGENT_FLASH, "", 1_200, Still),
    (SeriesId::AGENT_OUTBOX, "", 0, Still),
    (SeriesId::AGENT_LINK_SENT, "", 4_100_220, Grows(260)),
    (SeriesId::AGENT_LINK_RECEIVED, "", 1_900_412, Grows(230)),
    (SeriesId::AGENT_LABELS_DROPPED, "", 0, Still),
    (SeriesId::AGENT_SAMPLE_TIME, "", 3, Wanders(1)),
];

/// Values in one sample.
pub(crate) const COLUMNS: usize = LINES.len();

/// One host's measurements.
pub(crate) struct Host {
    values: Vec<i64>,
    chance: u64,
}

impl Host {
    /// A host that differs from others by its seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut host = Self {
            values: Vec::with_capacity(COLUMNS),
            chance: seed,
        };
        for &(_, _, first, motion) in LINES {
            let apart = match motion {
                Still => 0,
                Grows(_) | Wanders(_) => host.draw(first / 4 + 1),
            };
            host.values.push(first + apart);
        }
        host
    }

    /// A number from 0 to below `most` (SplitMix64).
    fn draw(&mut self, most: i64) -> i64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        i64::try_from(mixed >> 1).unwrap_or_default() % most.max(1)
    }

    fn sample(&mut self) -> SampleSet {
        let mut samples = SampleSet::new();
        for (index, &(series, label, first, motion)) in LINES.iter().enumerate() {
            let before = self.values.get(index).copied().unwrap_or(first);
            let value = match motion {
                Still => before,
                Grows(rate) => before + rate / 2 + self.draw(rate + 1),
                Wanders(reach) => {
                    let step = self.draw(2 * reach + 1) - reach;
                    (before + step).clamp(0, 2 * first + reach)
                }
            };
            if let Some(slot) = self.values.get_mut(index) {
                *slot = value;
            }
            samples.push_labelled(series, &Label::fit(label), value);
        }
        samples
    }

    /// Measures `slots` times, `interval_ms` apart, and packs it.
    pub(crate) fn frame(
        &mut self,
        start_ms: u64,
        interval_ms: u32,
        slots: u16,
    ) -> Result<Vec<u8>, EncodeFrameError> {
        let moments: Vec<(usize, SampleSet)> = (0..usize::from(slots))
            .map(|slot| (slot, self.sample()))
            .collect();
        let span = Span {
            tier: Tier::Fine,
            start_ms,
            interval_ms,
            slots,
        };
        let moments = moments.iter().map(|(slot, samples)| (*slot, samples));
        encode(
            &Frame::from_samples(VERSION, span, moments),
            Effort::Shortest,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::telemetry::frame::decode;

    #[test]
    fn a_frame_of_a_minute_holds_every_series_at_a_real_ones_price() {
        let mut host = Host::new(7);
        let mut bytes = 0;
        for minute in 0..20 {
            let frame = host.frame(minute * 60_000, 10_000, 6).unwrap();
            let decoded = decode(&frame).unwrap();
            assert_eq!(decoded.columns.len(), COLUMNS);
            assert_eq!(decoded.sample_count(), 6 * COLUMNS);
            bytes += frame.len();
        }
        let hundredths = bytes * 100 / (20 * 6 * COLUMNS);
        assert!((120..300).contains(&hundredths), "{hundredths} / 100 bytes");
    }
}
