//! Breakers: the state of one, and the machine that moves it.

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
