//! How finely a frame's samples are spaced.

use std::time::Duration;

/// The resolution class of a frame. Append-only: the number is on the wire.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// One sample a second, on demand and for a limited time.
    Live,
    /// The default: one sample every ten seconds.
    Fine,
    /// One sample a minute, when space or the byte budget is short.
    Minute,
    /// One sample every ten minutes, the last thing kept of an outage.
    TenMinutes,
}

impl Tier {
    /// Every tier, finest first.
    pub const ALL: [Self; 4] = [Self::Live, Self::Fine, Self::Minute, Self::TenMinutes];

    /// The usual spacing of samples. A frame names its own interval, which
    /// configuration may have changed; this is the default.
    pub const fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Live => 1,
            Self::Fine => 10,
            Self::Minute => 60,
            Self::TenMinutes => 600,
        })
    }

    /// The next coarser tier that old frames fall back to; `None` for the last.
    pub const fn coarser(self) -> Option<Self> {
        match self {
            Self::Live => Some(Self::Fine),
            Self::Fine => Some(Self::Minute),
            Self::Minute => Some(Self::TenMinutes),
            Self::TenMinutes => None,
        }
    }

    /// The number on the wire and in file names.
    pub const fn number(self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Fine => 1,
            Self::Minute => 2,
            Self::TenMinutes => 3,
        }
    }

    /// The tier of a wire number; `None` for one that this version does not know.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Live),
            1 => Some(Self::Fine),
            2 => Some(Self::Minute),
            3 => Some(Self::TenMinutes),
            _ => None,
        }
    }
}
