//! Whether the controller lives, and whether it can do its work.
//!
//! `/healthz` fails when the main runtime has not moved for [`STALL_MAX`];
//! `/readyz` asks each part that the work depends on. Both are answered on the
//! API's own runtime from values that are at hand: no probe waits in a queue
//! behind the work that it judges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock;

/// The main runtime ticks every second; ten missed ticks are no hiccup.
pub const STALL_MAX: Duration = Duration::from_secs(10);

/// How often the main runtime proves that it moves.
pub const TICK: Duration = Duration::from_secs(1);

/// Asks a part how it is: nothing when well, else what is wrong.
pub type Probe = Box<dyn Fn() -> Result<(), Unwell> + Send + Sync>;

/// What is wrong with a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwell {
    /// The stable code.
    pub code: ErrorCode,
    /// For a person.
    pub detail: String,
}

/// The state of the parts.
pub struct Health {
    probes: Vec<(&'static str, Probe)>,
    started: std::time::Instant,
    ticked_ms: AtomicU64,
}

/// One part's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Part {
    /// Which part.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// The code of what is wrong, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What is wrong, if anything.
    pub detail: String,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether all parts are well.
    pub ready: bool,
    /// The parts.
    pub parts: Vec<Part>,
}

impl Health {
    /// Health by these probes.
    #[must_use]
    pub fn new(probes: Vec<(&'static str, Probe)>) -> Self {
        Self {
            probes,
            started: clock::monotonic(),
            ticked_ms: AtomicU64::new(0),
        }
    }

    /// Says that the main runtime moves.
    pub fn tick(&self) {
        self.ticked_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn elapsed_ms(&self) -> u64 {
        let elapsed = clock::monotonic().saturating_duration_since(self.started);
        protocol::time::millis(elapsed)
    }

    /// Nothing when the main runtime moves, else what is wrong.
    ///
    /// # Errors
    /// How long it has stood still.
    pub fn alive(&self) -> Result<(), String> {
        let ticked = self.ticked_ms.load(Ordering::Relaxed);
        let still = Duration::from_millis(self.elapsed_ms().saturating_sub(ticked));
        if still <= STALL_MAX {
            Ok(())
        } else {
            Err(format!("nothing has moved for {} s", still.as_secs()))
        }
    }

    /// Asks every part.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let alive = self.alive().map_err(|detail| Unwell {
            code: ErrorCode::Internal,
            detail,
        });
        let runtime = ("runtime", alive);
        let parts: Vec<Part> = std::iter::once(runtime)
            .chain(self.probes.iter().map(|(name, probe)| (*name, probe())))
            .map(|(name, state)| {
                let unwell = state.err();
                Part {
                    name: name.to_owned(),
                    ok: unwell.is_none(),
                    code: unwell.as_ref().map(|unwell| unwell.code.text().to_owned()),
                    detail: unwell.map(|unwell| unwell.detail).unwrap_or_default(),
                }
            })
            .collect();
        Readiness {
            ready: parts.iter().all(|part| part.ok),
            parts,
        }
    }

    /// Each part by name, for the metrics.
    #[must_use]
    pub fn gauges(&self) -> Vec<(&'static str, bool)> {
        self.probes
            .iter()
            .map(|(name, probe)| (*name, probe().is_ok()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sick_part_makes_the_whole_not_ready_and_says_why() {
        let health = Health::new(vec![
            ("journal", Box::new(|| Ok(()))),
            (
                "broker",
                Box::new(|| {
                    Err(Unwell {
                        code: ErrorCode::BrokerUnavailable,
                        detail: "listener is gone".to_owned(),
                    })
                }),
            ),
        ]);
        health.tick();
        let readiness = health.readiness();
        assert!(!readiness.ready);
        let sick: Vec<_> = readiness.parts.iter().filter(|part| !part.ok).collect();
        assert_eq!(sick.len(), 1);
        assert_eq!(sick[0].name, "broker");
        assert_eq!(sick[0].code.as_deref(), Some("broker.unavailable"));
        assert_eq!(sick[0].detail, "listener is gone");
        assert!(health.alive().is_ok());
    }
}
