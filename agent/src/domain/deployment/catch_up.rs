//! When a node begins with what it is late with.
//!
//! An order that is old when it comes is one that the node missed: it was away, or
//! the controller was. Then many nodes are likely to be in the same place, and what
//! they fetch comes from one registry or one controller. Each waits for a time by
//! chance before it begins, so that fetching is spread over [`SPREAD`] whatever made
//! all of them come back at once; the controller's own pace of handing orders out is
//! beside this.
//!
//! **Invariant:** an order waits once, and never longer than [`SPREAD`]. What goes
//! back or goes away does not wait: nodes are sooner well again by it.

use std::time::Duration;

use protocol::deployment::desired::{Cause, Desired, Want};
use protocol::time::UnixMillis;

use crate::domain::backoff::Jitter;
use crate::domain::time::Tick;

/// An order that is older than this when it comes was missed. A node that is there
/// gets its orders within a heartbeat, and a resent one within a few.
pub const LATE: Duration = Duration::from_secs(120);

/// What the beginnings are spread over. A thousand nodes that fetch for ten seconds
/// each are then some 170 at once; longer makes late nodes later.
pub const SPREAD: Duration = Duration::from_secs(60);

/// The wait of one deployment's newest order.
#[derive(Debug)]
pub struct CatchUp {
    jitter: Jitter,
    /// The order's generation, and when it begins.
    begins: Option<(u64, Tick)>,
}

impl CatchUp {
    /// Nothing was ordered yet. The seed fixes the chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            jitter: Jitter::new(seed),
            begins: None,
        }
    }

    /// When the order begins; in the past when it may begin now. `at` is the
    /// controller's time.
    pub fn begins_at(&mut self, desired: &Desired, now: Tick, at: UnixMillis) -> Tick {
        let changes = match &desired.want {
            Want::Run(target) => target.cause == Cause::Change,
            Want::Update(update) => update.cause == Cause::Change,
            Want::Remove => false,
        };
        if !changes {
            return now;
        }
        match self.begins {
            Some((generation, begins)) if generation == desired.generation => begins,
            Some(_) | None => {
                let is_late = at.since(desired.at) > LATE;
                let spread = if is_late { SPREAD } else { Duration::ZERO };
                let begins = now.after(self.jitter.between(Duration::ZERO, spread));
                self.begins = Some((desired.generation, begins));
                begins
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::deployment::desired::{Commit, HealthRule, OnFailure, Target};
    use protocol::deployment::spec::Spec;
    use protocol::id::DeploymentId;

    use super::*;

    const NOW: Tick = Tick(1_000_000);
    const ORDERED: UnixMillis = UnixMillis(50_000_000);

    fn order(generation: u64, cause: Cause) -> Desired {
        Desired {
            deployment: DeploymentId::from_bytes([1; 10]),
            number: 1,
            name: "shop".to_owned(),
            generation,
            at: ORDERED,
            want: Want::Run(Box::new(Target {
                revision: 1,
                spec: Spec::default(),
                rollout: None,
                cause,
                health: HealthRule::default(),
                on_failure: OnFailure::Revert,
                commit: Commit::WhenHealthy,
            })),
        }
    }

    fn late() -> UnixMillis {
        ORDERED.after(LATE).after(Duration::from_millis(1))
    }

    #[test]
    fn an_order_that_comes_in_time_begins_at_once() {
        let mut catch_up = CatchUp::new(7);
        let change = order(1, Cause::Change);
        assert_eq!(catch_up.begins_at(&change, NOW, ORDERED.after(LATE)), NOW);
        // It does not become a late one while the node works on it.
        let later = NOW.after(Duration::from_secs(3600));
        assert_eq!(catch_up.begins_at(&change, later, late()), NOW);
    }

    #[test]
    fn a_late_order_waits_once_and_the_next_one_anew() {
        let mut catch_up = CatchUp::new(7);
        let first = catch_up.begins_at(&order(1, Cause::Change), NOW, late());
        let again = catch_up.begins_at(&order(1, Cause::Change), first, late());
        assert_eq!(first, again);
        let second = catch_up.begins_at(&order(2, Cause::Change), first, late());
        assert!(second >= first && second != again, "{second:?}");
    }

    #[test]
    fn what_goes_back_or_away_does_not_wait() {
        let mut catch_up = CatchUp::new(7);
        let back = order(1, Cause::Rollback);
        assert_eq!(catch_up.begins_at(&back, NOW, late()), NOW);
        let away = Desired {
            want: Want::Remove,
            ..back
        };
        assert_eq!(catch_up.begins_at(&away, NOW, late()), NOW);
    }

    #[test]
    fn a_thousand_nodes_that_are_late_at_once_begin_over_the_whole_spread() {
        let mut seconds = [0_u32; 61];
        for node in 0..1000_u64 {
            let mut catch_up = CatchUp::new(node);
            let begins = catch_up.begins_at(&order(1, Cause::Change), NOW, late());
            let waited = begins.since(NOW);
            assert!(waited <= SPREAD, "{waited:?}");
            seconds[usize::try_from(waited.as_secs()).unwrap()] += 1;
        }
        // 1000 over 60 s are 17 a second; chance makes it a few more.
        assert!(seconds.iter().all(|count| *count < 40), "{seconds:?}");
        assert!(seconds[..60].iter().all(|count| *count > 0), "{seconds:?}");
    }
}
