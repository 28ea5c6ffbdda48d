//! Time on a node: a monotonic tick, the node's own wall clock, and what is known
//! of the controller's clock.
//!
//! Nodes' clocks are wrong, so deadlines are judged in controller time. The
//! controller's answers bound it: an answer stamped `c` to a question asked at
//! tick `s` and received at tick `r` says that at `r` the controller's clock read
//! between `c` and `c + (r - s)`.
//!
//! **Invariant:** [`ControllerClock::now`] never runs behind the last proven time
//! plus the monotonic time that has passed since. A broker that holds messages
//! back can therefore not hold the clock back with them.

use core::time::Duration;

use protocol::time::{UnixMillis, millis};

/// Monotonic milliseconds since an arbitrary start. Runs on while the host is
/// suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick `duration` later; saturates.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One reading of both of the node's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub tick: Tick,
    /// The node's own wall clock, which may be wrong by years.
    pub wall: UnixMillis,
}

/// How far the controller's clock is ahead of the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Controller minus node, in milliseconds.
    pub ms: i64,
    /// The true offset lies within this many milliseconds on either side.
    pub error_ms: u64,
}

/// A quartz crystal drifts by less than this: an old estimate's error grows by
/// one part in this many.
const DRIFT_DIVISOR: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// Middle of the interval, in controller time at `at`.
    middle: UnixMillis,
    /// Half of the interval, in milliseconds.
    error_ms: u64,
    at: Tick,
}

impl Estimate {
    fn middle_at(&self, tick: Tick) -> UnixMillis {
        self.middle.after(tick.since(self.at))
    }

    fn error_at(&self, tick: Tick) -> u64 {
        self.error_ms
            .saturating_add(millis(tick.since(self.at)) / DRIFT_DIVISOR)
    }
}

/// What a node knows of the controller's clock.
#[derive(Clone, Debug, Default)]
pub struct ControllerClock {
    /// The controller's clock read at least this at that tick.
    floor: Option<(UnixMillis, Tick)>,
    estimate: Option<Estimate>,
}

impl ControllerClock {
    /// A clock that starts from the last proven time of an earlier run. How long
    /// ago that was is not known, so it is a floor and nothing more.
    #[must_use]
    pub fn remembered(proven: Option<UnixMillis>, tick: Tick) -> Self {
        Self {
            floor: proven.map(|time| (time, tick)),
            estimate: None,
        }
    }

    /// Takes a controller time that arrived unasked: a floor.
    pub fn raise(&mut self, controller: UnixMillis, received: Tick) {
        if self
            .floor_at(received)
            .is_none_or(|floor| floor < controller)
        {
            self.floor = Some((controller, received));
        }
    }

    /// Takes the controller's time from the answer to a question asked at `sent`.
    pub fn prove(&mut self, sent: Tick, received: Tick, controller: UnixMillis) {
        self.raise(controller, received);
        let half = millis(received.since(sent)).div_ceil(2);
        let fresh = Estimate {
            middle: controller.after(Duration::from_millis(half)),
            error_ms: half,
            at: received,
        };
        let better = self.estimate.is_none_or(|old| {
            let apart = old
                .middle_at(received)
                .offset_from(fresh.middle)
                .unsigned_abs();
            let disjoint = apart > old.error_at(received).saturating_add(half);
            disjoint || half <= old.error_at(received)
        });
        if better {
            self.estimate = Some(fresh);
        }
    }

    /// Whether an answer of the controller has been seen since the start.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.estimate.is_some()
    }

    fn floor_at(&self, tick: Tick) -> Option<UnixMillis> {
        self.floor.map(|(time, at)| time.after(tick.since(at)))
    }

    /// The controller's time as well as it is known; none before anything was
    /// ever proven.
    #[must_use]
    pub fn now(&self, tick: Tick) -> Option<UnixMillis> {
        let estimate = self.estimate.map(|estimate| estimate.middle_at(tick));
        self.floor_at(tick).max(estimate)
    }

    /// How far the controller's clock is from the node's wall clock.
    #[must_use]
    pub fn offset(&self, at: Moment) -> Option<Offset> {
        let estimate = self.estimate?;
        Some(Offset {
            ms: estimate.middle_at(at.tick).offset_from(at.wall),
            error_ms: estimate.error_at(at.tick),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_bounds_the_offset_by_half_the_round_trip() {
        let mut clock = ControllerClock::default();
        clock.prove(Tick(1_000), Tick(1_200), UnixMillis(50_000));
        let at = Moment {
            tick: Tick(1_200),
            wall: UnixMillis(40_000),
        };
        assert_eq!(
            clock.offset(at),
            Some(Offset {
                ms: 10_100,
                error_ms: 100
            })
        );
        assert_eq!(clock.now(Tick(2_200)), Some(UnixMillis(51_100)));
    }

    #[test]
    fn a_slow_answer_does_not_replace_a_quick_one() {
        let mut clock = ControllerClock::default();
        clock.prove(Tick(0), Tick(20), UnixMillis(50_000));
        clock.prove(Tick(100), Tick(9_100), UnixMillis(50_100));
        assert_eq!(clock.now(Tick(9_100)), Some(UnixMillis(59_090)));
    }

    #[test]
    fn a_controller_whose_clock_leapt_ahead_is_followed() {
        let mut clock = ControllerClock::default();
        clock.prove(Tick(0), Tick(20), UnixMillis(50_000));
        clock.prove(Tick(100), Tick(200), UnixMillis(900_000));
        assert_eq!(clock.now(Tick(200)), Some(UnixMillis(900_050)));
    }

    #[test]
    fn an_earlier_run_leaves_a_floor_and_no_offset() {
        let clock = ControllerClock::remembered(Some(UnixMillis(70_000)), Tick(5));
        assert_eq!(clock.now(Tick(10)), Some(UnixMillis(70_005)));
        assert!(!clock.is_proven());
        assert_eq!(clock.offset(Moment::default()), None);
    }

    proptest! {
        #[test]
        fn invariant_time_never_runs_behind_the_last_proven_time_plus_elapsed(
            proofs in proptest::collection::vec((0_u64..5_000, 0_u64..5_000, 0_u64..2_000_000), 1..40)
        ) {
            let mut clock = ControllerClock::default();
            let mut tick = 0;
            let mut floors: Vec<(u64, u64)> = Vec::new();
            for (wait, trip, controller) in proofs {
                let sent = tick + wait;
                tick = sent + trip;
                clock.prove(Tick(sent), Tick(tick), UnixMillis(controller));
                floors.push((controller, tick));
                let now = clock.now(Tick(tick)).unwrap();
                for (time, at) in &floors {
                    prop_assert!(now.0 >= time + (tick - at));
                }
            }
        }
    }
}
