//! What the agent depends on besides its controller's messages, each behind a breaker:
//! the container engine, registries, the controller's HTTPS.
//!
//! All who use a dependency share its breaker, so a registry that is dead is asked
//! by one deployment now and then, not by all of them at their own pace. The machine
//! is the fleet's own ([`protocol::breaker`]); its rule here is quick, since whoever
//! waits is a node.
//!
//! **Invariant:** a breaker holds back what would be tried again anyway, and never
//! decides that something failed for good. An answer that says no is an answer: only
//! silence and broken connections count as failures.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Breaker, Input, Permit, Standing};
use protocol::breaker::rule::{BreakerRule, Confidence, Recovery, Trip};
use protocol::time::UnixMillis;

/// Dependencies that are told apart; a node pulls from a handful of registries. Those
/// beyond it have no breaker.
const COUNT_MAX: usize = 16;

/// Five failures in a row, or ten within ten minutes; then one try after five seconds,
/// and after twice as long each time that it fails, up to a minute.
const RULE: BreakerRule = BreakerRule {
    trip: Trip {
        consecutive: 5,
        count: 10,
        percent: 0,
        min_samples: 0,
        confidence: Confidence::Plain,
        window_ms: 10 * 60 * 1000,
    },
    recovery: Recovery {
        cool_down_ms: 5_000,
        cool_down_ms_max: 60_000,
        probes: 1,
        successes: 1,
        // A pull may take long; one that was broken off with its deployment tells
        // nothing, and must not hold the breaker for ever.
        probe_limit_ms: 60_000,
    },
};

/// Something that the agent depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// The container engine.
    Engine,
    /// The controller's HTTPS.
    Controller,
    /// A registry, as it stands in references.
    Registry(String),
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine => f.write_str("engine"),
            Self::Controller => f.write_str("controller"),
            Self::Registry(name) => write!(f, "registry {name}"),
        }
    }
}

/// A dependency's breaker does not let pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{dependency} failed too often and is left alone for a while: {reason}")]
pub struct LeftAlone {
    dependency: Dependency,
    reason: String,
}

/// The breakers. Clones share them.
#[derive(Clone)]
pub struct Dependencies {
    breakers: Arc<Mutex<BTreeMap<Dependency, Breaker>>>,
    now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

impl Dependencies {
    /// No failures yet. `now` reads any one clock.
    #[must_use]
    pub fn new(now: Arc<dyn Fn() -> UnixMillis + Send + Sync>) -> Self {
        Self {
            breakers: Arc::default(),
            now,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Dependency, Breaker>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to use a dependency once. Tell how it went by [`Dependencies::done`].
    ///
    /// # Errors
    /// [`LeftAlone`]: it is not to be used now.
    pub fn admit(&self, dependency: &Dependency) -> Result<Permit, LeftAlone> {
        let now = (self.now)();
        let mut breakers = self.lock();
        if breakers.len() >= COUNT_MAX && !breakers.contains_key(dependency) {
            return Ok(Permit::Ordinary);
        }
        let breaker = breakers
            .entry(dependency.clone())
            .or_insert_with(|| Breaker::new(RULE));
        told(dependency, &breaker.step(Input::Tick, now));
        breaker.admit(now).ok_or_else(|| LeftAlone {
            dependency: dependency.clone(),
            reason: reason(breaker.standing()),
        })
    }

    /// A use that was admitted went well, or not.
    pub fn done(&self, dependency: &Dependency, permit: Permit, ok: bool) {
        let now = (self.now)();
        if let Some(breaker) = self.lock().get_mut(dependency) {
            told(dependency, &breaker.step(permit.result(ok), now));
        }
    }

    /// Where each of them stands.
    #[must_use]
    pub fn standings(&self) -> Vec<(Dependency, Standing)> {
        self.lock()
            .iter()
            .map(|(dependency, breaker)| (dependency.clone(), breaker.standing().clone()))
            .collect()
    }
}

fn told(dependency: &Dependency, moved: &[protocol::breaker::machine::Transition]) {
    for transition in moved {
        let (from, to) = (transition.from.name(), transition.to.name());
        tracing::info!(%dependency, from, to, reason = %transition.reason, "a breaker moved");
    }
}

/// Why a breaker stands where it does, for a person.
#[must_use]
pub fn reason(standing: &Standing) -> String {
    standing
        .reason
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

/// A state as a number, for metrics.
#[must_use]
pub fn level(state: BreakerState) -> i64 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open | BreakerState::Isolated => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn dependencies() -> (Dependencies, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let read = Arc::clone(&now);
        let dependencies =
            Dependencies::new(Arc::new(move || UnixMillis(read.load(Ordering::Relaxed))));
        (dependencies, now)
    }

    fn used(dependencies: &Dependencies, dependency: &Dependency, ok: bool) -> bool {
        match dependencies.admit(dependency) {
            Ok(permit) => {
                dependencies.done(dependency, permit, ok);
                true
            }
            Err(LeftAlone { .. }) => false,
        }
    }

    #[test]
    fn the_rule_is_one_that_can_do_what_it_says() {
        assert_eq!(RULE.check(), Ok(()));
    }

    #[test]
    fn a_registry_that_is_dead_is_left_alone_and_no_other_is() {
        let (dependencies, now) = dependencies();
        let dead = Dependency::Registry("dead.example".to_owned());
        let other = Dependency::Registry("docker.io".to_owned());
        for _ in 0..5 {
            assert!(used(&dependencies, &dead, false));
        }
        let error = dependencies.admit(&dead).unwrap_err().to_string();
        assert!(error.contains("registry dead.example"), "{error}");
        assert!(error.contains("5 failures in a row"), "{error}");
        assert!(used(&dependencies, &other, true));
        now.fetch_add(5_000, Ordering::Relaxed);
        let probe = dependencies.admit(&dead).unwrap();
        assert!(!used(&dependencies, &dead, true), "one probe at a time");
        dependencies.done(&dead, probe, true);
        assert!(used(&dependencies, &dead, true));
    }

    #[test]
    fn a_probe_that_never_ends_does_not_hold_the_breaker() {
        let (dependencies, now) = dependencies();
        for _ in 0..5 {
            assert!(used(&dependencies, &Dependency::Engine, false));
        }
        now.fetch_add(5_000, Ordering::Relaxed);
        assert!(dependencies.admit(&Dependency::Engine).is_ok());
        now.fetch_add(60_000, Ordering::Relaxed);
        assert!(dependencies.admit(&Dependency::Engine).is_err());
        now.fetch_add(10_000, Ordering::Relaxed);
        assert!(used(&dependencies, &Dependency::Engine, true));
        let (_, standing) = dependencies.standings().remove(0);
        assert_eq!(level(standing.state), 0);
    }

    #[test]
    fn registries_beyond_the_bound_have_no_breaker() {
        let (dependencies, _) = dependencies();
        for n in 0..40 {
            let registry = Dependency::Registry(n.to_string());
            for _ in 0..9 {
                used(&dependencies, &registry, false);
            }
        }
        assert_eq!(dependencies.standings().len(), COUNT_MAX);
        assert!(used(
            &dependencies,
            &Dependency::Registry("39".to_owned()),
            true
        ));
    }
}
