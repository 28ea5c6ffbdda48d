//! The only clock of the tests: deadlines of real processes need real time.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the tests' owner of the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the tests' owner of the clock"
)]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Lets time pass. For polling with a deadline and for letting a load run; never
/// as a guess that something will have happened.
#[expect(
    clippy::disallowed_methods,
    reason = "polling needs a pause between two looks"
)]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}
