//! What is measured, and how often.

use std::time::Duration;

use super::raw::Section;

/// The `sampling` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Time between two samples.
    pub interval: Duration,
    /// Time that one frame covers; one sample at least.
    pub frame: Duration,
    /// Whether containers are measured where there is a Docker engine.
    pub containers: bool,
}

pub(super) fn check(section: &mut Section<'_>) -> Sampling {
    Sampling {
        interval: section.duration(
            "interval",
            Duration::from_secs(10),
            Duration::from_secs(1)..=Duration::from_secs(600),
        ),
        frame: section.duration(
            "frame",
            Duration::from_secs(60),
            Duration::from_secs(1)..=Duration::from_secs(900),
        ),
        containers: section.boolean("containers", true),
    }
}
