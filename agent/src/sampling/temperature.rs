//! Temperatures, where the host has sensors: sysinfo knows their places.

use protocol::telemetry::SampleSet;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::LABELS_PER_SET_MAX;
use sysinfo::Components;

use super::labels::Labels;

/// Samples between two looks for new sensors: an hour at 10 s. A driver loaded
/// later is seen by then, and a host without sensors pays nothing between.
const SAMPLES_PER_LOOK: u32 = 360;

pub(super) struct Temperatures {
    components: Option<Components>,
    labels: Labels,
    samples: u32,
}

impl Temperatures {
    pub(super) const fn new() -> Self {
        Self {
            components: None,
            labels: Labels::new(LABELS_PER_SET_MAX),
            samples: 0,
        }
    }

    /// Collects, and says how many sensors were beyond the bound.
    pub(super) fn collect(&mut self, out: &mut SampleSet) -> usize {
        if self.samples.is_multiple_of(SAMPLES_PER_LOOK) {
            self.components = Components::new_with_refreshed_list()
                .ok()
                .filter(|components| !components.is_empty());
        } else if let Some(components) = &mut self.components {
            components.refresh(false);
        }
        self.samples = self.samples.wrapping_add(1);
        let readings: Vec<(&str, i64)> = self
            .components
            .iter()
            .flat_map(|components| components.iter())
            .filter_map(|component| Some((component.label(), tenths(component.temperature()?)?)))
            .collect();
        let names: Vec<&str> = readings.iter().map(|(name, _)| *name).collect();
        let (kept, dropped) = self.labels.of(&names);
        for (label, index) in kept {
            if let Some((_, value)) = readings.get(index) {
                out.push_labelled(SeriesId::TEMP, &label, *value);
            }
        }
        dropped
    }
}

/// Tenths of a degree; `None` for what no thermometer says.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the range is checked before the cast"
)]
fn tenths(celsius: f32) -> Option<i64> {
    (celsius.is_finite() && (-273.2..=2_000.0).contains(&celsius))
        .then(|| (celsius * 10.0).round() as i64)
}
