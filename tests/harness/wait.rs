//! Waiting for what another process does, with a deadline and a sentence about
//! what was waited for.

use std::time::Duration;

use crate::clock;

const PAUSE: Duration = Duration::from_millis(50);

/// Looks until there is something, at most for `limit`.
///
/// # Panics
/// When the limit passes; the message names `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    match within(limit, &mut look) {
        Some(found) => found,
        None => panic!("waited {limit:?} in vain for: {what}"),
    }
}

/// Looks until the condition holds, at most for `limit`.
///
/// # Panics
/// When the limit passes; the message names `what`.
#[track_caller]
pub fn until_true(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    until(what, limit, || holds().then_some(()));
}

/// Like [`until`], but an answer where `until` would panic.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if clock::now() >= deadline {
            return None;
        }
        clock::pass(PAUSE);
    }
}

/// Whether something stays as it is for `time`.
pub fn stays(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
    within(time, || (!holds()).then_some(())).is_none()
}
