//! Breakers: the state of one, and the machine that moves it.
//!
//! The controller runs a machine for each breaker of the fleet; an agent runs one
//! for each thing that it depends on (the container engine, a registry, the
//! controller's HTTPS); the controller runs one for each of its own outbound
//! calls. It is the same machine.
//!
//! ## Why three signals
//! A *share* of failures says most when there are many samples, and nothing when
//! there are two: a canary wave of one node can never show a significant share. An
//! *absolute count* and a *row* of failures speak for small numbers, and are wrong
//! for large ones, where one failure in a hundred is a normal day. So each policy
//! has all three and switches off those that do not fit.
//!
//! ## Trip conditions
//! Judged at every failed sample while closed, never at a success and never by the
//! passing of time. Each is disabled by zero; a breaker with all of them at zero
//! trips by hand alone.
//! - `consecutive`: so many failures with no success between them. A row ends with
//!   a success, and when a whole window has passed without a sample.
//! - `count`: so many failures within the window.
//! - `percent`: the share of failures within the window is at least this, once
//!   there are `min_samples`.
//!
//! When several hold at the same sample, the transition names the first of this
//! list: it is the one that a person can check by counting.
//!
//! ## The share's statistic
//! Not the share itself but the lower end of its one-sided Wilson interval is
//! compared (see [`wilson`]): "we are 95 % sure that at least 20 % fail". It is
//! always below the share and rises towards it with the number of samples, so
//! three failures of three do not count as 100 %. [`rule::Confidence::Plain`]
//! compares the share itself.
//!
//! ## The window
//! [`window::BUCKETS`] buckets of equal length, so that memory does not grow with
//! the rate of samples; what is counted spans between 19 and 20 twentieths of the
//! window's length. It is emptied when the breaker trips, closes or is reset: a
//! breaker that closes starts with a clean slate and does not trip again by what
//! it has been punished for.
//!
//! ## Recovery
//! An open breaker lets nothing through until its cool-down has passed, then
//! becomes half-open: as many probes as the rule says may try, whatever else asks
//! is refused. It closes when enough of them succeed. It opens again as soon as so
//! many have failed that this cannot be reached any more, or when the time limit
//! has passed since the first probe began. Each such round doubles the cool-down,
//! up to a maximum. The time limit does not run while no probe has begun: a
//! breaker that nobody needs waits half-open.
//! - `cool_down` zero: it never tries by itself, someone resets it.
//! - `probe_limit` zero: probes may take for ever.
//!
//! **Invariant:** nothing but enough successful probes or an operator's reset
//! closes a breaker. A lost window, a restart and the passing of time do not. An
//! isolated one leaves that state by a reset alone.
//!
//! ## What is recorded
//! A [`machine::Transition`] is a fact that the controller journals. Applying all
//! of them in order leads to the same [`machine::Standing`]. What lies between two
//! transitions is not recorded and may be lost: a rebuilt breaker that is closed
//! has an empty window, and one that is half-open has no probes left to give, so
//! that a restart never lets more of them try than the rule says; it counts the
//! results of those that were given, and opens again at the time limit.
//!
//! ## Clocks
//! Time comes in as an argument and may go backwards: the window moves along with
//! it, and a wait whose start lies in the future starts again, so that nothing
//! waits longer than its own length. A jump ahead cannot be told from sleep, and
//! passes as time: at worst a probe comes early.
//!
//! ## Not covered
//! Samples that come while a breaker is open or half-open are of things that were
//! begun before it tripped, or passed by an override: they are not counted.
//! There is no jitter: callers that share a dependency spread their probes
//! themselves. Which node is a probe is the controller's choice, not the
//! machine's.

pub mod machine;
pub mod rule;
pub mod wilson;
pub mod window;

use serde::{Deserialize, Serialize};

/// The state of a breaker. Append-only: postcard numbers the variants.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// What it guards may happen.
    #[default]
    Closed,
    /// It tripped: what it guards is refused until its cool-down has passed.
    Open,
    /// A few probes may try, to find out whether it can close.
    HalfOpen,
    /// An operator opened it: it stays so until an operator resets it.
    Isolated,
}

impl BreakerState {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Isolated => "isolated",
        }
    }
}

#[cfg(test)]
mod tests;
