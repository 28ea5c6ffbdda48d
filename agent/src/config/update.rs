//! Updates of the agent itself.

use std::num::NonZeroU64;

use super::raw::Section;

/// A rate below this takes hours for an archive, one above it is none.
const BYTES_PER_S: std::ops::RangeInclusive<u64> = 1024..=1_000_000_000;

/// The `update` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Whether the controller may order another version of the agent.
    pub enabled: bool,
    /// Bytes a second, on average, at which an archive is downloaded at most.
    pub bytes_per_s_max: Option<NonZeroU64>,
}

pub(super) fn check(section: &mut Section<'_>) -> Update {
    let rate = section.integer("download_bytes_per_s_max", 0, 0..=*BYTES_PER_S.end());
    if rate != 0 && !BYTES_PER_S.contains(&rate) {
        let expected = format!("0 (no limit), or at least {}", BYTES_PER_S.start());
        section.problem("download_bytes_per_s_max", &rate.to_string(), &expected);
    }
    Update {
        enabled: section.boolean("enabled", true),
        bytes_per_s_max: NonZeroU64::new(rate),
    }
}
