//! The only place in the controller that reads a clock.
//!
//! Everything else takes the time as an argument, which is what lets the
//! simulation run the same code. Wall time is in milliseconds since 1970 UTC.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use protocol::time::UnixMillis;

/// Wall time. A clock set before 1970 reads as 0, which every expiry check
/// treats as 'long ago', never as 'far ahead'.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Monotonic time, for intervals inside this process.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the monotonic clock"
)]
pub fn monotonic() -> Instant {
    Instant::now()
}
