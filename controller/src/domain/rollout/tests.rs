//! Given a rollout, when this happens, then that. The stories that users fear are
//! in `tests/scenarios`; here are the rules one by one, and the properties.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use protocol::id::NodeId;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use super::course::{Course, Stop};
use super::event::{
    AfterAbort, Decision, Kind, Outcome, PauseReason, RolloutAborted, RolloutPaused,
    RolloutResumed, WaveApproved, WaveStarted,
};
use super::halt::Evidence;
use super::machine::{BreakerAction, Input, Output, Rollout, Stand};
use super::model::{ROLLOUT, World, small, started};
use super::params::{
    Approve, CommitMode, HaltOn, HaltRule, LateJoiners, OnHalt, Params, SelfApproval, Wave, Within,
};
use super::target::{FailureClass, Left, Report, TargetState, Verdict, Want, Withheld};
use crate::domain::given::{START, node_id};

const MINUTE: Duration = Duration::from_secs(60);

/// A rollout whose decisions are recorded as soon as they are asked for.
struct Given {
    machine: Rollout,
    now: UnixMillis,
    sent: Vec<(NodeId, u32, Want)>,
    decided: Vec<Decision>,
}

impl Given {
    fn new(params: Params, count: u16) -> Self {
        Self::of_kind(Kind::Forward, params, count)
    }

    fn of_kind(kind: Kind, params: Params, count: u16) -> Self {
        let nodes: Vec<u16> = (1..=count).collect();
        let (mut event, plan) = started(&params, &nodes);
        event.kind = kind;
        let rows = plan.rows(START);
        let up = rows.keys().copied().collect();
        let machine = Rollout::resume(Course::new(&event, START), rows, &up, START);
        let mut given = Self {
            machine,
            now: START,
            sent: Vec::new(),
            decided: Vec::new(),
        };
        given.when(Input::Tick);
        given
    }

    fn when(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.machine.step(input, self.now) {
                match output {
                    Output::Record(decision) => {
                        self.machine.course().check(&decision).unwrap();
                        self.decided.push(decision.clone());
                        let at = self.now;
                        inputs.push(Input::Recorded { decision, at });
                    }
                    Output::Save { .. } | Output::Waited(_) => {}
                    Output::Send { node, order, want } => self.sent.push((node, order, want)),
                }
            }
        }
    }

    fn decide(&mut self, decision: Decision) {
        self.machine.course().check(&decision).unwrap();
        let at = self.now;
        self.when(Input::Recorded { decision, at });
    }

    fn step(&self) -> u32 {
        self.machine.course().step
    }

    /// Time passes, and the machine is woken whenever it asks to be.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some((at, _)) = self.machine.wakes_at(self.now).filter(|(at, _)| *at <= end) {
            self.now = at;
            self.when(Input::Tick);
        }
        self.now = end;
        self.when(Input::Tick);
    }

    fn says(&mut self, node: NodeId, report: Report) {
        let order = self.machine.row(node).unwrap().order;
        self.when(Input::Reported {
            node,
            order,
            report,
        });
    }

    /// What was sent since the last look.
    fn told(&mut self, want: Want) -> Vec<NodeId> {
        let told = self.sent.iter().filter(|(_, _, w)| *w == want);
        let nodes = told.map(|(node, _, _)| *node).collect();
        self.sent.clear();
        nodes
    }

    fn state(&self, node: NodeId) -> TargetState {
        self.machine.row(node).unwrap().state
    }

    /// Everyone who is told succeeds, until nothing happens any more in `time`.
    fn all_succeed(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            for node in self.told(Want::Run) {
                self.says(node, Report::Succeeded);
            }
            self.pass(Duration::from_secs(1));
        }
    }
}

fn failed(class: FailureClass) -> Report {
    let left = Left::Restored;
    Report::Failed { class, left }
}

fn fast(waves: Vec<Wave>) -> Params {
    let mut params = Params {
        waves,
        ..Params::default()
    };
    params.rate.base_per_min = 1000;
    params
}

fn count(count: u32) -> Wave {
    Wave {
        count: Some(count),
        ..Wave::default()
    }
}

#[test]
fn nothing_is_told_before_the_wave_is_recorded() {
    let (event, plan) = started(&Params::default(), &[1, 2]);
    let rows = plan.rows(START);
    let up = rows.keys().copied().collect();
    let mut machine = Rollout::resume(Course::new(&event, START), rows, &up, START);
    let outputs = machine.step(Input::Tick, START);
    let wave = WaveStarted {
        rollout: ROLLOUT,
        step: 0,
        wave: 0,
    };
    assert_eq!(outputs, [Output::Record(Decision::WaveStarted(wave))]);
    assert_eq!(machine.step(Input::Tick, START), [], "asked for once");
    let later = START.after(Duration::from_secs(5));
    assert_eq!(
        machine.step(Input::Tick, later),
        outputs,
        "and again when nothing comes"
    );
}

#[test]
fn nothing_is_told_between_asking_for_a_halt_and_its_record() {
    let mut params = fast(vec![Wave::default()]);
    params.rate.base_per_min = 10;
    params.halt = vec![HaltRule {
        count: Some(1),
        ..HaltRule::on(HaltOn::Any)
    }];
    let mut given = Given::new(params, 5);
    let node = given.told(Want::Run)[0];
    let report = failed(FailureClass::Failed);
    let order = 1;
    let reported = Input::Reported {
        node,
        order,
        report,
    };
    let outputs = given.machine.step(reported, given.now);
    assert!(matches!(
        outputs[..],
        [Output::Record(Decision::Halted(_)), Output::Save { .. }]
    ));
    // The disk is slow: the rate would allow the next node meanwhile.
    let later = given.now.after(MINUTE);
    let outputs = given.machine.step(Input::Tick, later);
    assert!(
        matches!(outputs[..], [Output::Record(Decision::Halted(_))]),
        "{outputs:?}"
    );
}

#[test]
fn a_wave_soaks_before_the_next_one_begins() {
    let mut params = fast(vec![count(1), Wave::default()]);
    params.waves[0].soak_ms = 60_000;
    let mut given = Given::new(params, 3);
    let canary = given.told(Want::Run);
    assert_eq!(canary.len(), 1);
    given.pass(MINUTE);
    given.says(canary[0], Report::Succeeded);
    given.pass(Duration::from_secs(59));
    assert_eq!(given.told(Want::Run), []);
    given.pass(Duration::from_secs(1));
    assert_eq!(given.told(Want::Run).len(), 2);
}

#[test]
fn gates_open_by_the_right_hand_only() {
    let mut params = fast(vec![count(1), Wave::default()]);
    params.waves[1].approve = Approve::Human;
    let mut given = Given::new(params, 2);
    given.all_succeed(MINUTE);
    assert_eq!(given.machine.course().gate(), Some(Approve::Human));
    let course = given.machine.course().clone();
    let code = |result: Result<(), super::super::rejection::Rejection>| {
        result.unwrap_err().code.text().to_owned()
    };
    assert_eq!(
        code(course.check_approver(&"ann", &"ann")),
        "rollout.self_approval"
    );
    course.check_approver(&"ann", &"bob").unwrap();
    let mut lenient = course.clone();
    lenient.params.self_approval = SelfApproval::Allowed;
    lenient.check_approver(&"ann", &"ann").unwrap();
    let approve = |step, wave| {
        Decision::WaveApproved(WaveApproved {
            rollout: ROLLOUT,
            step,
            wave,
        })
    };
    for (step, wave) in [(course.step, 0), (course.step, 2), (course.step + 1, 1)] {
        assert_eq!(code(course.check(&approve(step, wave))), "rollout.state");
    }
    given.decide(approve(course.step, 1));
    assert_eq!(given.told(Want::Run).len(), 1);
}

#[test]
fn a_wave_waits_for_its_time() {
    let mut params = fast(vec![count(1), Wave::default()]);
    params.waves[1].start_after_ms = 3_600_000;
    let mut given = Given::new(params, 2);
    given.all_succeed(59 * MINUTE);
    assert_eq!(given.told(Want::Run), []);
    given.pass(2 * MINUTE);
    assert_eq!(given.told(Want::Run).len(), 1);
}

#[test]
fn a_halt_recalls_what_is_in_progress_and_nothing_else() {
    let mut given = Given::new(fast(vec![count(3), Wave::default()]), 6);
    let first = given.told(Want::Run);
    given.says(first[0], Report::Succeeded);
    given.says(first[1], failed(FailureClass::Failed));
    assert!(given.machine.course().is_running(), "one of three may fail");
    let [good, _bad, open] = first[..] else {
        panic!()
    };
    given.says(good, failed(FailureClass::Failed));
    assert!(matches!(
        given.machine.course().stop,
        Some(Stop::Halted {
            evidence: Evidence::Results(_),
            ..
        })
    ));
    assert_eq!(given.told(Want::Recall), [open]);
    given.says(open, Report::Succeeded);
    assert_eq!(given.state(open), TargetState::Recalled);
    given.pass(60 * MINUTE);
    assert_eq!(given.told(Want::Run), []);
}

#[test]
fn on_halt_decides_what_those_who_succeeded_keep() {
    for (on_halt, outcome, reverts) in [
        (OnHalt::Keep, Outcome::Halted, 0),
        (OnHalt::Revert, Outcome::Reverted, 1),
    ] {
        let mut params = fast(vec![count(3), Wave::default()]);
        params.on_halt = on_halt;
        let mut given = Given::new(params, 6);
        let first = given.told(Want::Run);
        given.says(first[0], Report::Succeeded);
        given.says(first[1], failed(FailureClass::Failed));
        given.says(first[2], failed(FailureClass::Failed));
        let back = given.told(Want::Revert);
        assert_eq!(back.len(), reverts, "{on_halt:?}");
        for node in back {
            given.says(node, Report::Succeeded);
        }
        let end = given.machine.course().finished.clone().unwrap();
        assert_eq!(end.outcome, outcome);
        assert_eq!(end.counts.total(), 6);
    }
}

#[test]
fn going_back_keeps_to_the_rate() {
    let mut params = fast(vec![Wave::default()]);
    params.rate.base_per_min = 10;
    params.rate.max_per_min = 10;
    params.halt = vec![HaltRule {
        count: Some(1),
        ..HaltRule::on(HaltOn::Any)
    }];
    params.on_halt = OnHalt::Revert;
    let mut given = Given::new(params, 5);
    given.all_succeed(Duration::from_secs(23));
    given.pass(Duration::from_secs(1));
    let last = given.told(Want::Run);
    given.says(last[0], failed(FailureClass::Failed));
    let mut back = Vec::new();
    for _ in 0..4 {
        given.pass(Duration::from_secs(6));
        back.push(given.told(Want::Revert).len());
    }
    assert_eq!(back, [1, 1, 1, 1]);
}

#[test]
fn silence_after_a_change_is_a_failure_and_a_word_mends_it() {
    let mut given = Given::new(fast(vec![count(3), Wave::default()]), 6);
    let first = given.told(Want::Run);
    given.when(Input::Down(first[0]));
    given.pass(Duration::from_secs(299));
    assert_eq!(given.state(first[0]), TargetState::Sent);
    given.pass(Duration::from_secs(1));
    assert_eq!(given.state(first[0]), TargetState::Silent);
    let row = given.machine.row(first[0]).unwrap();
    assert_eq!(
        row.verdict.map(|(_, verdict)| verdict),
        Some(Verdict::WentSilent)
    );
    given.when(Input::Up(first[0]));
    given.says(first[0], Report::Succeeded);
    assert_eq!(given.state(first[0]), TargetState::Succeeded);
    // One that had succeeded and is not heard any more counts too.
    given.says(first[1], Report::Succeeded);
    given.when(Input::Down(first[1]));
    given.pass(5 * MINUTE);
    let row = given.machine.row(first[1]).unwrap();
    assert_eq!(row.state, TargetState::Succeeded);
    assert_eq!(
        row.verdict.map(|(_, verdict)| verdict),
        Some(Verdict::WentSilent)
    );
    given.when(Input::Up(first[1]));
    let row = given.machine.row(first[1]).unwrap();
    assert_eq!(row.verdict.map(|(_, verdict)| verdict), Some(Verdict::Good));
}

#[test]
fn a_node_that_is_there_has_the_time_to_make_progress() {
    let mut given = Given::new(fast(vec![Wave::default()]), 1);
    let node = given.told(Want::Run)[0];
    for _ in 0..5 {
        given.pass(14 * MINUTE);
        given.says(node, Report::Working);
        assert_eq!(given.state(node), TargetState::Working);
    }
    given.pass(15 * MINUTE);
    assert_eq!(
        given.state(node),
        TargetState::Recalling,
        "silent, halted, recalled"
    );
}

#[test]
fn nodes_that_are_away_neither_succeed_nor_hold_up_a_wave_for_ever() {
    let mut given = Given::new(fast(vec![count(3), count(1), Wave::default()]), 6);
    let away = given.told(Want::Run)[0];
    given.says(away, Report::Succeeded);
    let waves: BTreeMap<NodeId, u32> = given
        .machine
        .rows()
        .map(|(node, row)| (node, row.wave))
        .collect();
    let second = waves
        .iter()
        .find(|(_, wave)| **wave == 1)
        .map(|(node, _)| *node)
        .unwrap();
    given.when(Input::Down(second));
    for node in waves
        .iter()
        .filter(|(_, wave)| **wave == 0)
        .map(|(node, _)| *node)
    {
        given.says(node, Report::Succeeded);
    }
    assert_eq!(
        given.told(Want::Run),
        [],
        "the second wave has nobody who is there"
    );
    assert!(matches!(
        given.machine.stand(given.now),
        Stand::Awaiting { .. }
    ));
    // Nothing was changed in it: it says nothing against what the first has proved.
    given.pass(5 * MINUTE);
    assert_eq!(given.machine.course().stop, None);
    given.all_succeed(MINUTE);
    given.pass(10 * MINUTE);
    let end = given.machine.course().finished.clone().unwrap();
    assert_eq!(
        (end.outcome, end.counts.succeeded, end.counts.unreached),
        (Outcome::Completed, 5, 1)
    );
    // It comes back after the end, and gets what the fleet has.
    given.sent.clear();
    given.when(Input::Up(second));
    assert_eq!(given.told(Want::Run), [second]);
}

#[test]
fn a_canary_whose_nodes_are_all_away_proves_nothing_and_waits_for_a_person() {
    let params = fast(vec![count(1), Wave::default()]);
    let (event, plan) = started(&params, &[1, 2, 3]);
    let canary = plan.waves[0][0].node;
    let rows = plan.rows(START);
    let up = rows
        .keys()
        .copied()
        .filter(|node| *node != canary)
        .collect();
    let mut given = Given::new(params, 3);
    given.machine = Rollout::resume(Course::new(&event, START), rows, &up, START);
    given.sent.clear();
    given.when(Input::Tick);
    given.pass(10 * MINUTE);
    assert_eq!(given.told(Want::Run), []);
    let Some(Stop::Paused(why)) = given.machine.course().stop.clone() else {
        panic!("{:?}", given.machine.course());
    };
    let inconclusive = PauseReason::Inconclusive {
        wave: 0,
        absent: 1,
        succeeded: 0,
        of: 1,
    };
    assert_eq!(why, inconclusive);
    // Someone knows better.
    let resumed = RolloutResumed {
        rollout: ROLLOUT,
        step: given.step(),
        acknowledged_at: given.now,
    };
    given.decide(Decision::Resumed(resumed));
    given.all_succeed(10 * MINUTE);
    let end = given.machine.course().finished.clone().unwrap();
    assert_eq!((end.counts.succeeded, end.counts.unreached), (2, 1));
}

#[test]
fn resuming_acknowledges_only_what_was_seen() {
    let mut params = fast(vec![Wave::default()]);
    params.halt = vec![HaltRule {
        count: Some(2),
        ..HaltRule::on(HaltOn::Failed)
    }];
    let mut given = Given::new(params, 10);
    let told = given.told(Want::Run);
    given.says(told[0], failed(FailureClass::Failed));
    given.says(told[1], failed(FailureClass::Failed));
    let seen = given.now;
    assert!(given.machine.course().awaits_a_person());
    // A third failure comes before the word of who had looked at two.
    given.pass(Duration::from_secs(1));
    given.says(told[2], failed(FailureClass::Failed));
    let recalled = given.machine.tally().total().of(TargetState::Recalling);
    assert!(recalled > 0);
    let resumed = RolloutResumed {
        rollout: ROLLOUT,
        step: given.step(),
        acknowledged_at: seen,
    };
    given.told(Want::Recall);
    for node in &told[3..] {
        given.says(*node, Report::Succeeded);
    }
    given.decide(Decision::Resumed(resumed));
    assert!(given.machine.course().is_running());
    let again = given.told(Want::Run);
    assert_eq!(
        again.len(),
        told.len() - 3,
        "what was recalled had not failed"
    );
    // Recalling a node is no failure, so the third is the first that counts.
    given.says(again[0], failed(FailureClass::Failed));
    assert!(given.machine.course().awaits_a_person());
}

#[test]
fn retries_are_by_class_and_nothing_resets_them() {
    let mut given = Given::new(fast(vec![Wave::default()]), 1);
    let node = given.told(Want::Run)[0];
    for expected in [2, 3] {
        given.says(node, failed(FailureClass::Fetch));
        assert_eq!(given.state(node), TargetState::Delayed);
        given.pass(3 * MINUTE);
        assert_eq!(given.told(Want::Run), [node]);
        assert_eq!(given.machine.row(node).unwrap().order, expected);
        // Leaving and coming back does not help.
        let labels = Labels::new();
        given.when(Input::Joined {
            node,
            labels,
            up: true,
            withheld: None,
        });
    }
    given.says(node, failed(FailureClass::Fetch));
    assert_eq!(given.state(node), TargetState::Reverted);
}

#[test]
fn backoff_has_jitter_that_repeats() {
    let waits = |count: u16| -> Vec<u64> {
        let mut given = Given::new(fast(vec![Wave::default()]), count);
        let told = given.told(Want::Run);
        for node in &told {
            given.says(*node, failed(FailureClass::Fetch));
        }
        let rows = given.machine.rows();
        rows.filter_map(|(_, row)| row.retry_at)
            .map(|at| at.0 - START.0)
            .collect()
    };
    let first = waits(8);
    assert_eq!(first, waits(8));
    assert!(
        first.iter().all(|wait| (60_000..=75_000).contains(wait)),
        "{first:?}"
    );
    assert!(first.iter().any(|wait| *wait != first[0]), "{first:?}");
}

#[test]
fn breakers_hold_or_halt_what_moves_forward_and_let_rollbacks_pass() {
    let trip = |action| Input::BreakerTripped {
        breaker: "fleet".to_owned(),
        action,
        at: START.after(Duration::from_millis(1)),
        passing: BTreeSet::new(),
    };
    let slow = || Params {
        waves: vec![Wave::default()],
        ..Params::default()
    };
    let mut given = Given::new(slow(), 5);
    given.told(Want::Run);
    given.when(trip(BreakerAction::Hold));
    given.pass(MINUTE);
    assert_eq!(given.told(Want::Run), []);
    let breaker = "fleet".to_owned();
    given.when(Input::BreakerReset { breaker });
    assert_eq!(given.told(Want::Run).len(), 1);

    let mut given = Given::new(slow(), 5);
    given.told(Want::Run);
    given.when(trip(BreakerAction::Halt));
    assert_eq!(given.told(Want::Recall).len(), 1);
    let Some(Stop::Halted { evidence, .. }) = &given.machine.course().stop else {
        panic!();
    };
    assert_eq!(evidence.to_string(), "breaker fleet tripped");

    let mut given = Given::of_kind(Kind::Rollback, slow(), 5);
    given.told(Want::Run);
    given.when(trip(BreakerAction::Halt));
    given.pass(MINUTE);
    assert_eq!(given.told(Want::Run).len(), 4);
}

#[test]
fn what_a_rollback_began_is_never_taken_back() {
    let mut given = Given::of_kind(Kind::Rollback, fast(vec![Wave::default()]), 2);
    let told = given.told(Want::Run);
    given.says(told[0], Report::Succeeded);
    let aborted = RolloutAborted {
        rollout: ROLLOUT,
        step: given.step(),
        reason: String::new(),
        then: AfterAbort::Revert,
    };
    given.decide(Decision::Aborted(aborted));
    assert_eq!(given.sent, []);
    given.says(told[1], Report::Succeeded);
    let end = given.machine.course().finished.clone().unwrap();
    assert_eq!((end.outcome, end.counts.succeeded), (Outcome::Aborted, 2));
}

#[test]
fn a_refusal_by_a_breaker_says_nothing_of_the_revision() {
    let mut given = Given::new(fast(vec![Wave::default()]), 1);
    let node = given.told(Want::Run)[0];
    let report = Report::Failed {
        class: FailureClass::Gated,
        left: Left::Untouched,
    };
    given.says(node, report);
    assert_eq!(given.state(node), TargetState::Delayed);
    assert_eq!(given.machine.row(node).unwrap().verdict, None);
    let refused = Report::Failed {
        class: FailureClass::Refused,
        left: Left::Untouched,
    };
    given.pass(2 * MINUTE);
    given.says(node, refused);
    assert_eq!(given.state(node), TargetState::Refused);
}

#[test]
fn late_joiners_are_staged_held_or_served_at_once() {
    for (late, before, after_end) in [
        (LateJoiners::Staged, 0, true),
        (LateJoiners::Hold, 0, true),
        (LateJoiners::Immediate, 1, true),
    ] {
        let mut params = fast(vec![count(1), Wave::default()]);
        params.late_joiners = late;
        params.waves[1].start_after_ms = 600_000;
        let mut given = Given::new(params, 2);
        given.all_succeed(Duration::from_secs(5));
        let node = node_id(50);
        let labels = Labels::new();
        given.when(Input::Joined {
            node,
            labels,
            up: true,
            withheld: None,
        });
        given.pass(Duration::from_secs(1));
        let told = given.told(Want::Run);
        assert_eq!(told.len(), before, "{late:?}");
        for node in told {
            given.says(node, Report::Succeeded);
        }
        given.all_succeed(20 * MINUTE);
        assert!(given.machine.course().is_completed());
        assert_eq!(
            given.state(node) == TargetState::Succeeded,
            after_end,
            "{late:?}"
        );
    }
}

#[test]
fn a_barrier_commits_all_together_or_nobody() {
    let mut params = fast(vec![count(1), Wave::default()]);
    params.commit = CommitMode::Barrier;
    let mut given = Given::new(params.clone(), 3);
    given.all_succeed(MINUTE);
    // `all_succeed` looks at orders to run only; the commits are open.
    assert!(given.machine.course().committed_at.is_some());
    let open: Vec<NodeId> = given.machine.rows().map(|(node, _)| node).collect();
    for node in &open {
        assert_eq!(given.state(*node), TargetState::Committing);
        given.says(*node, Report::Succeeded);
    }
    assert!(given.machine.course().is_completed());

    params.on_halt = OnHalt::Revert;
    let mut given = Given::new(params, 3);
    let canary = given.told(Want::Run)[0];
    given.says(canary, Report::AwaitingCommit);
    let next = given.told(Want::Run);
    given.says(next[0], failed(FailureClass::Unhealthy));
    assert_eq!(given.told(Want::Recall), [next[1]]);
    given.pass(Duration::from_secs(1));
    assert_eq!(given.state(canary), TargetState::Reverting);
}

#[test]
fn a_node_that_becomes_unwell_after_it_succeeded_counts() {
    let mut params = fast(vec![count(1), Wave::default()]);
    params.waves[0].soak_ms = 600_000;
    let mut given = Given::new(params, 2);
    let canary = given.told(Want::Run)[0];
    given.says(canary, Report::Succeeded);
    given.pass(MINUTE);
    given.says(canary, Report::Degraded);
    assert!(given.machine.course().awaits_a_person());
    let shown = given.decided.last().unwrap().to_string();
    assert_eq!(
        shown,
        "halted and waits for someone: 1 bad of 1 results in wave 1 (limit: 50 % of the 1 planned)"
    );
}

#[test]
fn a_condition_on_nodes_with_the_change_halts() {
    let mut params = fast(vec![count(2), Wave::default()]);
    params.waves[0].soak_ms = 600_000;
    params.halt = vec![HaltRule {
        within: Within::Canary,
        count: Some(1),
        ..HaltRule::on(HaltOn::Metric("disk-full".to_owned()))
    }];
    let mut given = Given::new(params, 4);
    let first = given.told(Want::Run);
    let untouched = given
        .machine
        .rows()
        .map(|(node, _)| node)
        .find(|n| !first.contains(n));
    let crossed = |node, condition: &str| Input::Crossed {
        node,
        condition: condition.to_owned(),
    };
    given.says(first[0], Report::Succeeded);
    given.when(crossed(untouched.unwrap(), "disk-full"));
    given.when(crossed(first[0], "other"));
    assert!(given.machine.course().is_running());
    given.when(crossed(first[0], "disk-full"));
    assert!(given.machine.course().awaits_a_person());
}

#[test]
fn windows_and_rows_of_failures_are_judged() {
    let mut params = fast(vec![Wave::default()]);
    params.halt = vec![HaltRule {
        count: Some(2),
        window_ms: Some(60_000),
        ..HaltRule::on(HaltOn::Failed)
    }];
    let mut given = Given::new(params.clone(), 10);
    let told = given.told(Want::Run);
    for node in &told[..4] {
        given.says(*node, failed(FailureClass::Failed));
        given.pass(MINUTE);
        assert!(given.machine.course().is_running());
    }
    given.says(told[4], failed(FailureClass::Failed));
    given.says(told[5], failed(FailureClass::Failed));
    assert!(given.machine.course().awaits_a_person());

    params.halt = vec![HaltRule {
        consecutive: Some(3),
        ..HaltRule::on(HaltOn::Any)
    }];
    let mut given = Given::new(params, 10);
    let told = given.told(Want::Run);
    let mut second = 0;
    for (index, good) in [false, false, true, false, false, false]
        .into_iter()
        .enumerate()
    {
        assert!(given.machine.course().is_running(), "{index}");
        second += 1;
        given.now = START.after(Duration::from_secs(second));
        let report = if good {
            Report::Succeeded
        } else {
            failed(FailureClass::Failed)
        };
        given.says(told[index], report);
    }
    assert!(given.machine.course().awaits_a_person());
}

#[test]
fn people_pause_resume_and_abort() {
    let mut params = fast(vec![Wave::default()]);
    params.rate.base_per_min = 10;
    let mut given = Given::new(params, 3);
    let first = given.told(Want::Run);
    let why = PauseReason::Asked {
        reason: "lunch".to_owned(),
    };
    let paused = RolloutPaused {
        rollout: ROLLOUT,
        step: given.step(),
        why,
    };
    given.decide(Decision::Paused(paused));
    given.pass(MINUTE);
    assert_eq!(given.sent, [], "nothing is started, nothing recalled");
    given.says(first[0], Report::Succeeded);
    let resumed = RolloutResumed {
        rollout: ROLLOUT,
        step: given.step(),
        acknowledged_at: given.now,
    };
    given.decide(Decision::Resumed(resumed));
    let second = given.told(Want::Run);
    assert_eq!(second.len(), 1);
    let aborted = RolloutAborted {
        rollout: ROLLOUT,
        step: given.step(),
        reason: "wrong file".to_owned(),
        then: AfterAbort::Revert,
    };
    given.decide(Decision::Aborted(aborted));
    assert_eq!(given.told(Want::Recall), second);
    given.says(second[0], Report::Succeeded);
    given.pass(MINUTE);
    assert_eq!(given.told(Want::Revert), first);
    given.says(first[0], Report::Succeeded);
    let end = given.machine.course().finished.clone().unwrap();
    assert_eq!(
        (end.outcome, end.counts.recalled, end.counts.unreached),
        (Outcome::Aborted, 2, 1)
    );
}

/// What a rollout's nodes wait for from here on.
fn withhold(given: &mut Given, nodes: &[NodeId], by: Option<Withheld>) {
    for node in nodes {
        given.when(Input::Withheld { node: *node, by });
    }
}

/// A breaker on the node, which is tried again.
const GATED: Report = Report::Failed {
    class: FailureClass::Gated,
    left: Left::Untouched,
};

/// Every target but one, by id.
fn others(given: &Given, one: NodeId) -> Vec<NodeId> {
    let nodes = given.machine.rows().map(|(node, _)| node);
    nodes.filter(|node| *node != one).collect()
}

/// The canary succeeds; returns the others.
fn after_canary(given: &mut Given) -> Vec<NodeId> {
    let canary = given.told(Want::Run)[0];
    given.says(canary, Report::Succeeded);
    others(given, canary)
}

#[test]
fn the_deadline_does_not_run_while_all_that_is_left_waits_for_windows() {
    let params = Params {
        deadline_ms: 3_600_000,
        ..small(OnHalt::Pause)
    };
    let hour = 60 * MINUTE;
    let mut given = Given::new(params.clone(), 3);
    let rest = after_canary(&mut given);
    withhold(&mut given, &rest, Some(Withheld::Windowed));
    given.pass(1000 * hour);
    assert_eq!(given.machine.stand(given.now), Stand::Closed);
    let counts = given.machine.counts();
    assert_eq!((counts.unreached, counts.silent, counts.failed), (2, 0, 0));
    assert!(given.machine.course().is_running());
    withhold(&mut given, &rest, None);
    given.all_succeed(10 * MINUTE);
    assert!(given.machine.course().is_completed());

    // What is under way when the window is open uses the time up.
    let mut given = Given::new(params, 3);
    let rest = after_canary(&mut given);
    withhold(&mut given, &rest, Some(Withheld::Windowed));
    given.pass(5 * hour);
    withhold(&mut given, &rest, None);
    given.pass(2 * hour);
    let end = given.machine.course().finished.as_ref().unwrap();
    assert_eq!(end.outcome, Outcome::Expired);
}

#[test]
fn what_began_in_a_window_is_finished_and_the_rest_waits() {
    let mut given = Given::new(small(OnHalt::Pause), 3);
    let canary = given.told(Want::Run)[0];
    withhold(&mut given, &[canary], Some(Withheld::Windowed));
    assert_eq!(given.state(canary), TargetState::Sent);
    given.says(canary, Report::Succeeded);
    assert_eq!(given.state(canary), TargetState::Succeeded);
    let rest = others(&given, canary);
    withhold(&mut given, &rest[..1], Some(Withheld::Windowed));
    given.pass(10 * MINUTE);
    // The last wave has begun: the node that is in hours gets it, the other waits.
    assert_eq!(given.told(Want::Run), rest[1..]);
    given.says(rest[1], Report::Succeeded);
    given.pass(100 * MINUTE);
    assert_eq!(given.machine.stand(given.now), Stand::Closed);
    assert_eq!(given.state(rest[0]), TargetState::Windowed);
    withhold(&mut given, &rest[..1], None);
    assert_eq!(given.told(Want::Run), rest[..1]);
}

#[test]
fn a_first_wave_outside_of_its_windows_holds_the_next_one_back() {
    let mut given = Given::new(small(OnHalt::Pause), 4);
    let canary = given.told(Want::Run)[0];
    given.says(canary, GATED);
    assert_eq!(given.state(canary), TargetState::Delayed);
    withhold(&mut given, &[canary], Some(Withheld::Windowed));
    given.pass(60 * MINUTE);
    assert_eq!(given.state(canary), TargetState::Windowed);
    assert_eq!(given.told(Want::Run), []);
    assert_eq!(given.machine.stand(given.now), Stand::Closed);
    assert_eq!(given.machine.course().wave.map(|(wave, _)| wave), Some(0));
}

#[test]
fn a_wave_whose_nodes_are_all_cordoned_proves_nothing() {
    let mut given = Given::new(small(OnHalt::Pause), 3);
    let canary = given.told(Want::Run)[0];
    given.says(canary, GATED);
    withhold(&mut given, &[canary], Some(Withheld::Cordoned));
    given.pass(60 * MINUTE);
    assert_eq!(given.state(canary), TargetState::Cordoned);
    let stop = given.machine.course().stop.clone();
    let Some(Stop::Paused(PauseReason::Inconclusive { wave, of, .. })) = stop else {
        panic!("{stop:?}");
    };
    assert_eq!((wave, of), (0, 0));
}

#[test]
fn nobody_waits_for_a_cordoned_node_of_the_last_wave() {
    let mut given = Given::new(small(OnHalt::Pause), 3);
    let rest = after_canary(&mut given);
    withhold(&mut given, &rest[..1], Some(Withheld::Cordoned));
    given.all_succeed(10 * MINUTE);
    assert!(given.machine.course().is_completed());
    let counts = given.machine.counts();
    assert_eq!(
        (counts.succeeded, counts.unreached, counts.silent),
        (2, 1, 0)
    );
    // It is served once it is in service again.
    withhold(&mut given, &rest[..1], None);
    given.pass(MINUTE);
    assert_eq!(given.state(rest[0]), TargetState::Sent);
}

#[test]
fn the_deadline_ends_even_what_waits_for_a_person() {
    let mut given = Given::new(fast(vec![count(1), Wave::default()]), 2);
    let canary = given.told(Want::Run)[0];
    given.says(canary, failed(FailureClass::Failed));
    assert!(given.machine.course().awaits_a_person());
    given.pass(Duration::from_secs(24 * 3600));
    let end = given.machine.course().finished.clone().unwrap();
    assert_eq!(end.outcome, Outcome::Expired);
    assert_eq!(end.counts.to_string(), "1 reverted, 1 unreached");
}

#[test]
fn a_rollout_to_nobody_is_over_at_once() {
    let given = Given::new(Params::default(), 0);
    assert!(given.machine.course().is_completed());
}

#[test]
fn who_left_is_waited_for_no_more() {
    let mut given = Given::new(fast(vec![count(1), Wave::default()]), 2);
    let canary = given.told(Want::Run)[0];
    given.when(Input::Left(canary));
    assert_eq!(given.told(Want::Run).len(), 1);
    assert_eq!(given.machine.counts().skipped, 1);
}

#[test]
fn reports_of_earlier_orders_say_nothing() {
    let mut given = Given::new(fast(vec![Wave::default()]), 1);
    let node = given.told(Want::Run)[0];
    given.says(node, failed(FailureClass::Fetch));
    given.pass(2 * MINUTE);
    assert_eq!(given.told(Want::Run), [node]);
    let report = Report::Succeeded;
    given.when(Input::Reported {
        node,
        order: 1,
        report,
    });
    assert_eq!(given.state(node), TargetState::Sent);
    given.when(Input::Reported {
        node,
        order: 2,
        report,
    });
    assert_eq!(given.state(node), TargetState::Succeeded);
}

proptest! {
    /// The world checks after every event: a halted rollout starts nothing more, no
    /// order is given twice, the budget holds, waves are frozen, and what a restart
    /// makes of what is kept equals what runs.
    #[test]
    fn invariant_whatever_happens_the_rules_hold_and_every_rollout_ends(
        on_halt in prop_oneof![Just(OnHalt::Pause), Just(OnHalt::Keep), Just(OnHalt::Revert)],
        barrier in any::<bool>(),
        count in 1..6_u16,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..150),
    ) {
        let mut params = small(on_halt);
        if barrier {
            params.commit = CommitMode::Barrier;
        }
        let nodes: Vec<u16> = (1..=count).collect();
        let mut world = World::new(&params, &nodes).allowing(8, 8, 3).setting_aside(6);
        for pick in picks {
            let actions = world.actions();
            world.act(actions[pick.index(actions.len())]);
        }
        prop_assert!(world.runs_to_its_end(), "{:?}", world.journal);
    }
}
