//! What each input does, case by case.

use super::super::BreakerState::{self, Closed, HalfOpen, Isolated, Open};
use super::super::machine::{Breaker, Input, ORDER_BYTES_MAX, Order, Permit, Reason};
use super::super::rule::{BreakerRule, Confidence, Trip};
use super::{ada, breaker, rule};
use crate::time::UnixMillis;

const OK: Input = Input::Sample { ok: true };
const FAILED: Input = Input::Sample { ok: false };

/// Steps through inputs at their times, and returns the states that were entered
/// with the reasons for it.
fn run(
    breaker: &mut Breaker,
    inputs: impl IntoIterator<Item = (u64, Input)>,
) -> Vec<(BreakerState, String)> {
    inputs
        .into_iter()
        .flat_map(|(at, input)| breaker.step(input, UnixMillis(at)))
        .map(|moved| (moved.to, moved.reason.to_string()))
        .collect()
}

/// What trips a breaker with these conditions, fed failures (`x`) and successes
/// (`.`) a second apart.
#[track_caller]
fn check_trip(trip: Trip, samples: &str, expected: Option<&str>) {
    let mut breaker = Breaker::new(BreakerRule { trip, ..rule() });
    let inputs = samples.chars().zip(0..).map(|(sample, second)| {
        let ok = sample == '.';
        (second * 1000, Input::Sample { ok })
    });
    let moved = run(&mut breaker, inputs);
    let reasons: Vec<&str> = moved.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons.first().copied(), expected, "{samples}");
}

fn none() -> Trip {
    Trip {
        consecutive: 0,
        window_ms: 100_000,
        ..rule().trip
    }
}

#[test]
fn a_row_of_failures_trips() {
    let trip = Trip {
        consecutive: 3,
        ..none()
    };
    check_trip(trip, "xx.xx.", None);
    check_trip(trip, "xx.xxx", Some("3 failures in a row, 3 trip it"));
}

#[test]
fn a_number_of_failures_trips_whatever_succeeds_between_them() {
    let trip = Trip { count: 2, ..none() };
    check_trip(trip, "x.....", None);
    let text = "2 of 7 failed within 100 s, 2 trip it";
    check_trip(trip, "x.....x", Some(text));
}

#[test]
fn a_share_trips_when_it_is_sure() {
    let trip = Trip {
        percent: 50,
        min_samples: 4,
        ..none()
    };
    check_trip(trip, "xxx", None);
    check_trip(trip, ".x.x.x.x", None);
    let text = "4 of 4 failed within 100 s: 95 % sure of at least 59.6 %, 50 % trips it";
    check_trip(trip, "xxxx", Some(text));
    let plain = Trip {
        confidence: Confidence::Plain,
        ..trip
    };
    let text = "2 of 4 failed within 100 s: 50.0 %, 50 % trips it";
    check_trip(plain, ".x.x", Some(text));
}

#[test]
fn one_or_two_failures_are_never_a_sure_half() {
    for confidence in [Confidence::P90, Confidence::P95, Confidence::P99] {
        let trip = Trip {
            percent: 56,
            min_samples: 1,
            confidence,
            ..none()
        };
        check_trip(trip, "xx", None);
        check_trip(
            Trip { count: 1, ..trip },
            "x",
            Some("1 of 1 failed within 100 s, 1 trip it"),
        );
    }
}

#[test]
fn the_first_of_several_conditions_is_named() {
    let all = Trip {
        consecutive: 4,
        count: 4,
        percent: 10,
        min_samples: 4,
        ..none()
    };
    let named = |trip| {
        let mut breaker = Breaker::new(BreakerRule { trip, ..rule() });
        (0..4).for_each(|at| {
            breaker.step(FAILED, UnixMillis(at));
        });
        breaker.standing().reason.as_ref().map(Reason::name)
    };
    assert_eq!(named(all), Some("consecutive"));
    let all = Trip {
        consecutive: 0,
        ..all
    };
    assert_eq!(named(all), Some("count"));
    assert_eq!(named(Trip { count: 0, ..all }), Some("share"));
}

#[test]
fn with_every_condition_at_zero_it_trips_by_hand_alone() {
    check_trip(none(), &"x".repeat(90), None);
    let mut breaker = Breaker::new(BreakerRule {
        trip: none(),
        ..rule()
    });
    let moved = run(&mut breaker, [(0, Input::Trip(ada()))]);
    assert_eq!(moved, [(Open, "tripped by ada: the new kernel".to_owned())]);
}

#[test]
fn it_cools_down_probes_and_closes() {
    let mut breaker = breaker();
    run(&mut breaker, [(0, FAILED), (10, FAILED)]);
    assert_eq!(breaker.state(), Open);
    assert_eq!(breaker.admits(), None);
    assert_eq!(breaker.standing().tries_at(), Some(UnixMillis(1_010)));
    assert_eq!(
        breaker.wakes_at(),
        Some((UnixMillis(1_010), "the cool-down ends"))
    );
    assert_eq!(run(&mut breaker, [(1_009, Input::Tick)]), []);
    let moved = run(&mut breaker, [(1_010, Input::Tick)]);
    assert_eq!(
        moved,
        [(HalfOpen, "its cool-down of 1 s has passed".to_owned())]
    );
    assert_eq!(breaker.wakes_at(), None, "no probe began");
    let first = breaker.admit(UnixMillis(1_020)).unwrap();
    assert_eq!(first, Permit::Probe { round: 1 });
    assert_eq!(
        breaker.wakes_at(),
        Some((UnixMillis(4_020), "the probes' time is over"))
    );
    let second = breaker.admit(UnixMillis(1_030)).unwrap();
    assert_eq!(breaker.admit(UnixMillis(1_030)), None);
    let moved = run(
        &mut breaker,
        [(1_040, second.result(false)), (1_050, first.result(true))],
    );
    assert_eq!(moved, [(Closed, "1 probes succeeded, 1 failed".to_owned())]);
    assert_eq!(breaker.admits(), Some(Permit::Ordinary));
    assert_eq!(breaker.standing().strikes, 0);
}

#[test]
fn rounds_that_fail_double_the_cool_down() {
    let mut breaker = breaker();
    run(&mut breaker, [(0, Input::Trip(ada()))]);
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(breaker.standing().wait_ms);
        now += breaker.standing().wait_ms;
        run(&mut breaker, [(now, Input::Tick)]);
        for _ in 0..2 {
            let probe = breaker.admit(UnixMillis(now)).unwrap();
            run(&mut breaker, [(now, probe.result(false))]);
        }
        assert_eq!(breaker.state(), Open);
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 4_000]);
    let text = breaker.standing().reason.as_ref().unwrap().to_string();
    assert_eq!(text, "2 probes failed, 0 of 1 needed succeeded");
}

#[test]
fn probes_that_do_not_answer_open_it_again() {
    let mut breaker = breaker();
    run(
        &mut breaker,
        [(0, Input::Trip(ada())), (1_000, Input::Tick)],
    );
    let probe = breaker.admit(UnixMillis(1_500)).unwrap();
    let moved = run(&mut breaker, [(4_500, probe.result(true))]);
    assert_eq!(
        moved,
        [(Open, "0 of 1 needed probes succeeded within 3 s".to_owned())],
        "an answer at the limit is too late"
    );
    assert_eq!(breaker.standing().strikes, 1);
}

#[test]
fn results_of_another_round_and_without_a_permit_do_not_count() {
    let mut breaker = breaker();
    run(
        &mut breaker,
        [(0, Input::Trip(ada())), (1_000, Input::Tick)],
    );
    let stray = Input::ProbeResult { round: 1, ok: true };
    assert_eq!(run(&mut breaker, [(1_000, stray.clone())]), []);
    breaker.admit(UnixMillis(1_000)).unwrap();
    run(&mut breaker, [(4_000, Input::Tick), (6_000, Input::Tick)]);
    assert_eq!((breaker.state(), breaker.standing().round), (HalfOpen, 2));
    breaker.admit(UnixMillis(6_000)).unwrap();
    assert_eq!(run(&mut breaker, [(6_001, stray), (6_001, OK)]), []);
    assert_eq!(breaker.state(), HalfOpen);
}

#[test]
fn isolated_stays_until_a_reset() {
    let mut breaker = breaker();
    run(&mut breaker, [(0, Input::Isolate(ada()))]);
    let inputs = [
        OK,
        FAILED,
        Input::Trip(ada()),
        Input::Isolate(ada()),
        Input::ProbeResult { round: 0, ok: true },
        Input::Tick,
    ];
    let far = inputs.map(|input| (u64::MAX, input));
    assert_eq!(run(&mut breaker, far), []);
    assert_eq!((breaker.state(), breaker.wakes_at()), (Isolated, None));
    let moved = run(&mut breaker, [(u64::MAX, Input::Reset(ada()))]);
    assert_eq!(moved, [(Closed, "reset by ada: the new kernel".to_owned())]);
}

#[test]
fn a_reset_forgets_what_was_counted() {
    let mut breaker = breaker();
    let inputs = [(0, FAILED), (1, Input::Reset(ada())), (2, FAILED)];
    assert_eq!(run(&mut breaker, inputs), []);
    assert_eq!(breaker.state(), Closed);
}

#[test]
fn samples_that_come_while_it_is_not_closed_are_not_counted() {
    let mut breaker = breaker();
    run(&mut breaker, [(0, Input::Trip(ada())), (1, FAILED)]);
    run(&mut breaker, [(2, Input::Reset(ada())), (3, FAILED)]);
    assert_eq!((breaker.state(), breaker.row()), (Closed, 1));
}

#[test]
fn without_a_cool_down_it_waits_for_a_reset() {
    let mut waits = rule();
    waits.recovery.cool_down_ms = 0;
    let mut breaker = Breaker::new(waits);
    let inputs = [(0, Input::Trip(ada())), (u64::MAX, Input::Tick)];
    assert_eq!(run(&mut breaker, inputs).len(), 1);
    assert_eq!((breaker.state(), breaker.wakes_at()), (Open, None));
    assert_eq!(breaker.standing().tries_at(), None);
}

#[test]
fn without_a_limit_probes_may_take_for_ever() {
    let mut patient = rule();
    patient.recovery.probe_limit_ms = 0;
    let mut breaker = Breaker::new(patient);
    run(
        &mut breaker,
        [(0, Input::Trip(ada())), (1_000, Input::Tick)],
    );
    let probe = breaker.admit(UnixMillis(1_000)).unwrap();
    assert_eq!(breaker.wakes_at(), None);
    let moved = run(&mut breaker, [(u64::MAX, probe.result(true))]);
    assert_eq!(moved.len(), 1);
    assert_eq!(breaker.state(), Closed);
}

#[test]
fn a_clock_that_goes_back_makes_nothing_wait_longer_than_its_own_length() {
    let mut breaker = breaker();
    run(
        &mut breaker,
        [(9_000_000, Input::Trip(ada())), (50, Input::Tick)],
    );
    assert_eq!(breaker.standing().tries_at(), Some(UnixMillis(1_050)));
    run(&mut breaker, [(1_050, Input::Tick)]);
    breaker.admit(UnixMillis(8_000_000)).unwrap();
    run(&mut breaker, [(100, Input::Tick)]);
    assert_eq!(
        breaker.wakes_at().map(|(at, _)| at),
        Some(UnixMillis(3_100))
    );
}

#[test]
fn another_rule_keeps_the_state_and_drops_what_another_window_counted() {
    let mut breaker = breaker();
    run(&mut breaker, [(0, FAILED)]);
    let mut wider = rule();
    wider.trip.window_ms *= 2;
    breaker.set_rule(wider);
    assert_eq!(breaker.counts().samples(), 0);
    run(&mut breaker, [(0, Input::Trip(ada()))]);
    wider.recovery.cool_down_ms = 1;
    breaker.set_rule(wider);
    assert_eq!(breaker.standing().tries_at(), Some(UnixMillis(1_000)));
}

#[test]
fn a_rebuilt_half_open_breaker_gives_no_probe_and_still_hears_them() {
    let mut live = breaker();
    let mut recorded = live.step(Input::Trip(ada()), UnixMillis(0));
    recorded.extend(live.step(Input::Tick, UnixMillis(1_000)));
    let probe = live.admit(UnixMillis(1_000)).unwrap();
    let mut rebuilt = Breaker::replay(rule(), &recorded);
    assert_eq!(rebuilt.standing(), live.standing());
    assert_eq!(rebuilt.admit(UnixMillis(1_001)), None);
    assert_eq!(run(&mut rebuilt.clone(), [(4_000, Input::Tick)]).len(), 1);
    run(&mut rebuilt, [(1_500, probe.result(true))]);
    assert_eq!(rebuilt.state(), Closed);
}

#[test]
fn words_of_an_order_are_cut() {
    let mut breaker = breaker();
    let long = Order {
        by: "ä".repeat(ORDER_BYTES_MAX),
        why: "x".repeat(ORDER_BYTES_MAX + 1),
    };
    let moved = breaker.step(Input::Trip(long), UnixMillis(0));
    let Some(Reason::Tripped(Order { by, why })) = moved.first().map(|moved| &moved.reason) else {
        panic!("{moved:?}");
    };
    assert_eq!((by.len(), why.len()), (ORDER_BYTES_MAX, ORDER_BYTES_MAX));
}
