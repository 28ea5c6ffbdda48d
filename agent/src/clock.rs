//! The only place in the agent that reads a clock.
//!
//! The node's wall clock may be wrong by years, and the monotonic clock that is
//! read here runs on while the host is suspended. What is known of the
//! controller's clock is put in by the node's core and read by everyone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::time::{UnixMillis, millis};
use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::{Moment, Offset, Tick};

/// No certificate of a fleet was made before this code was written
/// (2026-11-01T00:00:00Z), so a clock that shows less is wrong.
pub const EARLIEST: UnixMillis = UnixMillis(1_793_491_200_000);

/// `i64::MIN` stands for 'not known'.
const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
struct Shared {
    offset_ms: AtomicI64,
    error_ms: AtomicU64,
    /// The last controller time known, and the tick at which it was.
    floor: AtomicU64,
    floor_at: AtomicU64,
    proven: AtomicU64,
}

/// The node's clocks, and the controller's as far as it is known. Clones are the
/// same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    shared: Arc<Shared>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                offset_ms: AtomicI64::new(UNKNOWN),
                error_ms: AtomicU64::new(0),
                floor: AtomicU64::new(EARLIEST.0),
                floor_at: AtomicU64::new(tick().0),
                proven: AtomicU64::new(0),
            }),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
fn wall() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(millis(since))
}

fn tick() -> Tick {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
    Tick(seconds * 1000 + nanos / 1_000_000)
}

impl Clock {
    /// The node's own wall clock.
    #[must_use]
    pub fn wall(&self) -> UnixMillis {
        wall()
    }

    /// The monotonic clock.
    #[must_use]
    pub fn tick(&self) -> Tick {
        tick()
    }

    /// Both clocks at once.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment {
            tick: tick(),
            wall: wall(),
        }
    }

    /// How far the controller's clock is ahead of the node's; none before it was
    /// proven in this run.
    #[must_use]
    pub fn offset(&self) -> Option<Offset> {
        let ms = self.shared.offset_ms.load(Ordering::Acquire);
        (ms != UNKNOWN).then(|| Offset {
            ms,
            error_ms: self.shared.error_ms.load(Ordering::Acquire),
        })
    }

    /// Controller time as well as it is known: the node's own clock before an
    /// offset was proven.
    #[must_use]
    pub fn controller_now(&self) -> UnixMillis {
        match self.offset() {
            Some(offset) => wall().shifted(offset.ms),
            None => wall(),
        }
    }

    /// A time that has certainly passed: the last controller time that is known,
    /// plus what the monotonic clock says has passed since.
    #[must_use]
    pub fn certainly_past(&self) -> UnixMillis {
        let floor = UnixMillis(self.shared.floor.load(Ordering::Acquire));
        let at = Tick(self.shared.floor_at.load(Ordering::Acquire));
        floor.after(tick().since(at))
    }

    /// Whether the controller's time was proven in this run.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.offset().is_some()
    }

    /// Takes over what the core knows.
    pub fn learn(&self, offset: Option<Offset>, controller: Option<UnixMillis>) {
        if let Some(offset) = offset {
            self.shared
                .error_ms
                .store(offset.error_ms, Ordering::Release);
            self.shared.offset_ms.store(offset.ms, Ordering::Release);
        }
        if let Some(controller) = controller
            && controller > self.certainly_past()
        {
            self.shared.floor_at.store(tick().0, Ordering::Release);
            self.shared.floor.store(controller.0, Ordering::Release);
        }
    }

    /// Notes that something made progress: the watchdog asks how long ago.
    pub fn note_progress(&self) {
        self.shared.proven.store(tick().0, Ordering::Release);
    }

    /// How long ago something made progress.
    #[must_use]
    pub fn since_progress(&self) -> Duration {
        tick().since(Tick(self.shared.proven.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_corrects_the_wall_clock() {
        let clock = Clock::default();
        assert!(!clock.is_proven());
        let year = Duration::from_secs(365 * 24 * 3600);
        let offset = Offset {
            ms: -i64::try_from(year.as_millis()).unwrap(),
            error_ms: 5,
        };
        clock.learn(Some(offset), None);
        let error = clock.wall().before(year).since(clock.controller_now());
        assert!(error < Duration::from_secs(2), "{error:?}");
    }

    #[test]
    fn what_has_certainly_passed_never_falls() {
        let clock = Clock::default();
        assert!(clock.certainly_past() >= EARLIEST);
        let later = EARLIEST.after(Duration::from_secs(1000));
        clock.learn(None, Some(later));
        clock.learn(None, Some(EARLIEST));
        assert!(clock.certainly_past() >= later);
    }
}
