//! What holds for any rule, any order of inputs and any clock.

use proptest::prelude::*;

use super::super::BreakerState;
use super::super::machine::{Breaker, Input, Permit, Reason, Transition};
use super::super::rule::{BreakerRule, Confidence, Recovery, Trip};
use super::ada;
use crate::message;
use crate::time::UnixMillis;

/// What a caller does.
#[derive(Clone, Debug)]
enum Act {
    Input(Input),
    Admit,
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => any::<bool>().prop_map(|ok| Act::Input(Input::Sample { ok })),
        6 => (0_u64..6, any::<bool>()).prop_map(|(round, ok)| Act::Input(Input::ProbeResult { round, ok })),
        1 => Just(Act::Input(Input::Trip(ada()))),
        1 => Just(Act::Input(Input::Isolate(ada()))),
        1 => Just(Act::Input(Input::Reset(ada()))),
        4 => Just(Act::Input(Input::Tick)),
        6 => Just(Act::Admit),
    ]
}

fn rules() -> impl Strategy<Value = BreakerRule> {
    let confidence =
        prop::sample::select(vec![Confidence::Plain, Confidence::P80, Confidence::P95]);
    let trip = (
        0_u32..4,
        0_u32..4,
        0_u8..=100,
        0_u32..5,
        confidence,
        0_u64..50,
    );
    let recovery = (0_u64..20, 0_u64..60, 0_u32..4, 0_u32..4, 0_u64..20);
    (trip, recovery).prop_map(|(trip, recovery)| BreakerRule {
        trip: Trip {
            consecutive: trip.0,
            count: trip.1,
            percent: trip.2,
            min_samples: trip.3,
            confidence: trip.4,
            window_ms: trip.5,
        },
        recovery: Recovery {
            cool_down_ms: recovery.0,
            cool_down_ms_max: recovery.1,
            probes: recovery.2,
            successes: recovery.3,
            probe_limit_ms: recovery.4,
        },
    })
}

/// Times that mostly go on a little, sometimes back, and sometimes far.
fn clocks() -> impl Strategy<Value = Vec<i64>> {
    let step = prop_oneof![
        8 => 0_i64..12,
        1 => -200_i64..0,
        1 => prop::sample::select(vec![i64::MAX, i64::MIN, 100_000]),
    ];
    prop::collection::vec(step, 120)
}

/// Everything that a run did: each input's transitions and each permit.
struct Run {
    breaker: Breaker,
    moved: Vec<(Option<Input>, Vec<Transition>)>,
    permits: Vec<Permit>,
}

fn run(rule: BreakerRule, acts: Vec<Act>, clock: &[i64]) -> Run {
    let mut run = Run {
        breaker: Breaker::new(rule),
        moved: Vec::new(),
        permits: Vec::new(),
    };
    let mut now = UnixMillis(1_000);
    for (act, step) in acts.into_iter().zip(clock) {
        now = now.shifted(*step);
        match act {
            Act::Input(input) => {
                let moved = run.breaker.step(input.clone(), now);
                run.moved.push((Some(input), moved));
            }
            Act::Admit => run.permits.extend(run.breaker.admit(now)),
        }
    }
    run
}

proptest! {
    #[test]
    fn invariant_only_enough_probes_or_a_reset_close_it(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        for (input, moved) in run(rule, acts, &clock).moved {
            for transition in moved.iter().filter(|moved| moved.to == BreakerState::Closed) {
                if let Reason::ProbesSucceeded { succeeded, .. } = &transition.reason {
                    prop_assert_eq!(transition.from, BreakerState::HalfOpen);
                    prop_assert!(*succeeded >= rule.recovery.successes.max(1));
                } else {
                    prop_assert!(matches!(transition.reason, Reason::Reset(_)));
                    prop_assert!(matches!(input, Some(Input::Reset(_))));
                }
            }
        }
    }

    #[test]
    fn invariant_isolated_ends_by_a_reset_alone(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        for (_, moved) in run(rule, acts, &clock).moved {
            for transition in moved.iter().filter(|moved| moved.from == BreakerState::Isolated) {
                prop_assert!(matches!(transition.reason, Reason::Reset(_)));
            }
        }
    }

    #[test]
    fn invariant_a_round_never_gives_more_permits_than_probes(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        let run = run(rule, acts, &clock);
        let rounds = 0..=run.breaker.standing().round;
        for round in rounds {
            let given = run.permits.iter().filter(|permit| **permit == Permit::Probe { round }).count();
            prop_assert!(given <= rule.recovery.probes as usize);
        }
    }

    #[test]
    fn invariant_transitions_join_and_replay_to_the_live_standing(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        // A clock that goes back starts a wait again, which no transition records.
        let onward: Vec<i64> = clock.iter().map(|step| (*step).max(0)).collect();
        let run = run(rule, acts, &onward);
        let recorded: Vec<&Transition> = run.moved.iter().flat_map(|(_, moved)| moved).collect();
        let mut state = BreakerState::Closed;
        for transition in &recorded {
            prop_assert_eq!(transition.from, state);
            prop_assert_ne!(transition.to, state);
            state = transition.to;
        }
        let rebuilt = Breaker::replay(rule, recorded);
        prop_assert_eq!(rebuilt.standing(), run.breaker.standing());
    }

    #[test]
    fn invariant_memory_is_bounded_and_a_stored_breaker_is_the_same(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        let breaker = run(rule, acts, &clock).breaker;
        let bytes = message::encode(&breaker);
        prop_assert!(bytes.len() < 512, "{} bytes", bytes.len());
        prop_assert_eq!(message::decode_exactly::<Breaker>(&bytes), Ok(breaker));
    }

    #[test]
    fn invariant_it_moves_at_its_wake_and_not_before(
        rule in rules(), acts in prop::collection::vec(acts(), 120), clock in clocks(),
    ) {
        let breaker = run(rule, acts, &clock).breaker;
        if let Some((at, _)) = breaker.wakes_at() {
            let mut early = breaker.clone();
            let before = UnixMillis(at.0.saturating_sub(1)).max(breaker.standing().since);
            if before < at {
                prop_assert_eq!(early.step(Input::Tick, before), []);
            }
            let mut due = breaker;
            prop_assert_eq!(due.step(Input::Tick, at).len(), 1);
        }
    }
}
