//! The frame that is being built.
//!
//! Owns the samples since the last frame was sealed. Samples lie on a grid that
//! every node shares (whole multiples of the interval since the epoch), and a
//! frame covers a window of that grid; so frames of all nodes end together, and
//! coarser tiers line up.
//!
//! **Invariant:** pure; the moment of a sample is an argument. A frame covers
//! exactly the moments from its first sample to its last: what lies between and
//! was not measured is a gap in it, what lies outside is a gap between frames.
//!
//! A spool that was just started does not keep its first samples for a whole
//! window, since somebody may be waiting for them: the first goes at once, and so
//! does what doubles the samples that went before, until a window is reached.
//!
//! When the clock is set back, the open frame is sealed and the next begins at
//! the earlier moment: overlapping frames are for the controller to put in order.

use std::time::Duration;

use protocol::telemetry::catalogue;
use protocol::telemetry::frame::{Frame, Span};
use protocol::telemetry::limit::{INTERVAL_MS_MAX, INTERVAL_MS_MIN};
use protocol::telemetry::{SampleSet, Tier};

/// Slots that one frame may cover. With the most columns that a frame may have
/// it stays within [`protocol::telemetry::limit::FRAME_VALUES_MAX`].
const SLOTS_MAX: u64 = 256;

/// Samples in one frame, so that even badly compressible ones (two bytes each)
/// stay below [`protocol::telemetry::limit::FRAME_BYTES_MAX`]. A plain host
/// reaches it after an hour and a half at 10 s.
const SAMPLES_MAX: usize = 30_000;

/// Assembles frames.
#[derive(Debug)]
pub struct Spool {
    interval_ms: u64,
    window_slots: u64,
    open: Vec<(u64, SampleSet)>,
    samples: usize,
    /// Moments that went out since the start, while frames still grow.
    growing: Option<u64>,
}

impl Spool {
    /// A spool whose first frames are short, and leave early.
    pub fn starting(interval: Duration, window: Duration) -> Self {
        Self {
            growing: Some(0),
            ..Self::new(interval, window)
        }
    }

    /// A spool for samples every `interval`, in frames of `window`.
    pub fn new(interval: Duration, window: Duration) -> Self {
        let bounds = u64::from(INTERVAL_MS_MIN)..=u64::from(INTERVAL_MS_MAX);
        let interval_ms = protocol::time::millis(interval).clamp(*bounds.start(), *bounds.end());
        let window_slots = (protocol::time::millis(window) / interval_ms).clamp(1, SLOTS_MAX);
        Self {
            interval_ms,
            window_slots,
            open: Vec::new(),
            samples: 0,
            growing: None,
        }
    }

    /// The first moment of the grid after `now_ms`: when to sample next.
    pub const fn next_moment(&self, now_ms: u64) -> u64 {
        (now_ms / self.interval_ms)
            .saturating_add(1)
            .saturating_mul(self.interval_ms)
    }

    /// The moment of the grid that is nearest to `at_ms`.
    pub const fn nearest_moment(&self, at_ms: u64) -> u64 {
        at_ms.saturating_add(self.interval_ms / 2) / self.interval_ms * self.interval_ms
    }

    /// Takes the samples of a moment, and gives the frames that are complete:
    /// the one before, when this moment is beyond it, and the one that this
    /// moment completes.
    pub fn add(&mut self, at_ms: u64, samples: SampleSet) -> Vec<Frame> {
        let slot = self.nearest_moment(at_ms) / self.interval_ms;
        let mut sealed = Vec::new();
        let belongs = self
            .open
            .last()
            .is_none_or(|(last, _)| slot > *last && self.window(slot) == self.window(*last));
        if !belongs || self.samples + samples.len() > SAMPLES_MAX {
            sealed.extend(self.seal());
        }
        self.samples += samples.len();
        self.open.push((slot, samples));
        let full = self.window(slot.saturating_add(1)) != self.window(slot);
        let early = self
            .growing
            .is_some_and(|sent| self.moments() >= sent.max(1));
        if full || early {
            sealed.extend(self.seal());
        }
        sealed
    }

    /// Closes the open frame early, for a stop or a change of configuration;
    /// `None` when nothing is open.
    pub fn seal(&mut self) -> Option<Frame> {
        let sent = self.growing.map(|sent| sent + self.moments());
        self.growing = sent.filter(|sent| *sent < self.window_slots);
        let open = std::mem::take(&mut self.open);
        self.samples = 0;
        let (first, _) = open.first()?;
        let (last, _) = open.last()?;
        let span = Span {
            tier: self.tier(),
            start_ms: first.saturating_mul(self.interval_ms),
            interval_ms: u32::try_from(self.interval_ms).unwrap_or(INTERVAL_MS_MAX),
            slots: u16::try_from(last - first + 1).unwrap_or(u16::MAX),
        };
        let moments = open
            .iter()
            .map(|(slot, samples)| (usize::try_from(slot - first).unwrap_or(usize::MAX), samples));
        Some(Frame::from_samples(catalogue::VERSION, span, moments))
    }

    /// One moment as a frame of its own, for what is kept until the seal.
    pub fn moment(&self, at_ms: u64, tier: Tier, samples: &SampleSet) -> Frame {
        let span = Span {
            tier,
            start_ms: self.nearest_moment(at_ms),
            interval_ms: u32::try_from(self.interval_ms).unwrap_or(INTERVAL_MS_MAX),
            slots: 1,
        };
        Frame::from_samples(catalogue::VERSION, span, [(0, samples)])
    }

    /// How finely these samples lie: the class of their interval.
    pub fn tier(&self) -> Tier {
        Tier::ALL
            .into_iter()
            .rev()
            .find(|tier| protocol::time::millis(tier.interval()) <= self.interval_ms)
            .unwrap_or(Tier::Live)
    }

    fn moments(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    const fn window(&self, slot: u64) -> u64 {
        slot / self.window_slots
    }
}

#[cfg(test)]
mod tests {
    //! When frames are sealed and what they cover.

    use protocol::telemetry::catalogue::SeriesId;

    use super::*;

    const MINUTE: u64 = 1_790_000_040_000;

    fn sample(value: i64) -> SampleSet {
        let mut samples = SampleSet::new();
        samples.push(SeriesId::LOAD_1, value);
        samples
    }

    fn spool() -> Spool {
        Spool::new(Duration::from_secs(10), Duration::from_secs(60))
    }

    fn values(frame: &Frame) -> Vec<Option<i64>> {
        frame
            .columns
            .first()
            .map(|column| column.values.clone())
            .unwrap_or_default()
    }

    #[test]
    fn a_frame_is_sealed_by_the_last_sample_of_its_minute() {
        let mut spool = spool();
        for index in 0..5 {
            assert_eq!(spool.add(MINUTE + index * 10_000, sample(1)), []);
        }
        let sealed = spool.add(MINUTE + 50_000, sample(2));
        assert_eq!(sealed.len(), 1);
        assert_eq!(sealed[0].span.start_ms, MINUTE);
        assert_eq!(sealed[0].span.slots, 6);
        assert_eq!(sealed[0].span.tier, Tier::Fine);
        assert_eq!(spool.seal(), None);
    }

    /// How many moments each frame has when `count` samples come one by one, the
    /// first at the beginning of a quarter of an hour.
    fn lengths(mut spool: Spool, count: u64) -> Vec<u16> {
        (6..6 + count)
            .flat_map(|index| spool.add(MINUTE + index * 10_000, sample(1)))
            .map(|frame| frame.span.slots)
            .collect()
    }

    #[test]
    fn the_first_frames_leave_early_and_grow_to_whole_windows() {
        let starting = |window| Spool::starting(Duration::from_secs(10), window);
        // The window's edge comes before the fourth one has doubled.
        let minutes = lengths(starting(Duration::from_secs(60)), 24);
        assert_eq!(minutes, [1, 1, 2, 2, 6, 6, 6]);
        let quarters = lengths(starting(Duration::from_secs(900)), 180);
        assert_eq!(quarters[..7], [1, 1, 2, 4, 8, 16, 32]);
        assert_eq!(lengths(spool(), 24), [6, 6, 6, 6]);
    }

    #[test]
    fn what_was_not_measured_is_a_gap() {
        let mut spool = spool();
        spool.add(MINUTE + 10_000, sample(1));
        let sealed = spool.add(MINUTE + 50_000, sample(2));
        assert_eq!(values(&sealed[0]), [Some(1), None, None, None, Some(2)]);
        assert_eq!(sealed[0].span.start_ms, MINUTE + 10_000);
    }

    #[test]
    fn a_late_sample_seals_the_frame_before_it() {
        let mut spool = spool();
        spool.add(MINUTE, sample(1));
        let sealed = spool.add(MINUTE + 3_600_000, sample(2));
        assert_eq!(sealed.len(), 1);
        assert_eq!(values(&sealed[0]), [Some(1)]);
        assert_eq!(
            spool.seal().map(|frame| frame.span.start_ms),
            Some(MINUTE + 3_600_000)
        );
    }

    #[test]
    fn a_clock_set_back_seals_and_starts_over() {
        let mut spool = spool();
        spool.add(MINUTE + 30_000, sample(1));
        let sealed = spool.add(MINUTE + 10_000, sample(2));
        assert_eq!(sealed.len(), 1);
        assert_eq!(
            spool.seal().map(|frame| frame.span.start_ms),
            Some(MINUTE + 10_000)
        );
    }

    #[test]
    fn a_sample_lies_on_the_nearest_moment() {
        let mut spool = spool();
        spool.add(MINUTE + 9_997, sample(1));
        spool.add(MINUTE + 20_040, sample(2));
        let frame = spool.seal().unwrap();
        assert_eq!(frame.span.start_ms, MINUTE + 10_000);
        assert_eq!(values(&frame), [Some(1), Some(2)]);
        assert_eq!(spool.next_moment(MINUTE), MINUTE + 10_000);
        assert_eq!(spool.next_moment(MINUTE + 9_999), MINUTE + 10_000);
    }

    #[test]
    fn kept_moments_rebuild_the_open_frame() {
        let mut before = spool();
        let mut after = spool();
        for index in 0..3 {
            let kept = before.moment(MINUTE + index * 10_000, Tier::Fine, &sample(7));
            for (slot, samples) in kept.moments() {
                assert_eq!(after.add(kept.span.slot_ms(slot), samples), []);
            }
            before.add(MINUTE + index * 10_000, sample(7));
        }
        assert_eq!(before.seal(), after.seal());
    }

    #[test]
    fn a_host_with_too_many_labels_seals_early() {
        let mut spool = Spool::new(Duration::from_secs(10), Duration::from_secs(900));
        let mut wide = SampleSet::new();
        for id in 0..1_000 {
            wide.push(SeriesId(id), 1);
        }
        let sealed: usize = (0..60)
            .map(|index| spool.add(MINUTE + index * 10_000, wide.clone()).len())
            .sum();
        assert!(sealed >= 1);
    }

    #[test]
    fn extreme_configuration_and_clocks_are_survived() {
        let mut spool = Spool::new(Duration::ZERO, Duration::MAX);
        assert!(spool.next_moment(u64::MAX) > 0);
        spool.add(u64::MAX, sample(1));
        spool.add(0, sample(1));
        assert!(spool.seal().is_some());
    }
}
