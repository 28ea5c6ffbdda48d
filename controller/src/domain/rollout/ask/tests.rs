//! What operators write, read and refused.

use super::*;
use crate::domain::rollout::params::{Amount, Approve, HaltOn, Wave};
use crate::domain::rollout::target::FailureClass;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rollout: RolloutAsk,
}

fn check(text: &str) -> Result<Params, Vec<String>> {
    let file: File = toml::from_str(text).map_err(|error| vec![error.to_string()])?;
    file.rollout
        .check(Experts::Absent)
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(check("[rollout]"), Ok(Params::default()));
}

#[test]
fn everything_can_be_given() {
    let params = check(
        r#"
        [rollout]
        silent_deadline = "10m"
        on_halt = "revert"
        on_inconclusive = "continue"
        commit = "barrier"
        deadline = "2h"
        late_joiners = "hold"
        max_targets = 500
        self_approval = "allowed"
        [rollout.rate]
        base = 5
        factor = 2.5
        max = 50
        grow_on = "succeeded"
        grow_every = 3
        [rollout.health]
        initial_delay = "1s"
        min_healthy = "20s"
        healthy_deadline = "4m"
        progress_deadline = "8m"
        [rollout.disruption_budget]
        group_by = ["site"]
        min_available = "50%"
        max_unavailable = "2"
        [[rollout.waves]]
        count = 2
        percent = 5
        soak = "3m"
        rate_per_min = 7
        approve = "human"
        [[rollout.waves]]
        percent = 40
        start_after = "30m"
        [[rollout.halt]]
        on = "failed"
        within = "wave"
        percent = 2.5
        min_samples = 20
        window = "15m"
        [[rollout.halt]]
        on = "metric"
        condition = "disk-full"
        within = "canary"
        count = 1
        [[rollout.halt]]
        on = "went_silent"
        share = 20
        consecutive = 4
        [[rollout.retries]]
        class = "timed_out"
        count = 3
        backoff = "30s"
        "#,
    )
    .unwrap();
    let minute_ms = 60_000;
    assert_eq!(params.waves.len(), 3, "the rest is a wave of its own");
    assert_eq!(
        params.waves[0],
        Wave {
            count: Some(2),
            percent: Some(5),
            soak_ms: 3 * minute_ms,
            rate_per_min: Some(7),
            start_after_ms: 0,
            approve: Approve::Human,
        }
    );
    assert_eq!(params.waves[1].start_after_ms, 30 * minute_ms);
    assert!(params.waves[2].is_rest());
    assert_eq!(params.rate.factor_tenths, 25);
    assert_eq!(params.health.healthy_deadline_ms, 4 * minute_ms);
    assert_eq!(params.budget.available_min, Some(Amount::Percent(50)));
    assert_eq!(params.budget.unavailable_max, Some(Amount::Count(2)));
    assert_eq!(params.halt[0].percent_tenths, Some(25));
    assert_eq!(params.halt[0].window_ms, Some(15 * minute_ms));
    assert_eq!(params.halt[1].on, HaltOn::Metric("disk-full".to_owned()));
    assert_eq!(params.halt[2].consecutive, Some(4));
    assert_eq!(params.retry(FailureClass::TimedOut).unwrap().count, 3);
    assert_eq!(
        (params.on_halt, params.commit, params.late_joiners),
        (OnHalt::Revert, CommitMode::Barrier, LateJoiners::Hold)
    );
    assert_eq!(params.self_approval, SelfApproval::Allowed);
    assert_eq!(
        (params.targets_max, params.deadline_ms),
        (500, 120 * minute_ms)
    );
}

#[test]
fn each_problem_names_its_key_and_what_is_allowed() {
    for (text, expected) in [
        (
            "silent_deadline = \"1s\"",
            "silent_deadline: is \"1s\"; allowed are 1m to 1day",
        ),
        (
            "silent_deadline = \"soon\"",
            "silent_deadline: is \"soon\"; allowed are 1m to 1day",
        ),
        (
            "on_halt = \"go\"",
            "on_halt: is \"go\"; allowed are pause, keep, revert",
        ),
        (
            "max_targets = 0",
            "max_targets: is 0; allowed are 1 to 100000",
        ),
        ("waves = []", "waves: has 0 entries; allowed are 1 to 32"),
        (
            "waves = [{ percent = 101 }]",
            "waves[0].percent: is 101; allowed are 1 to 100",
        ),
        (
            "waves = [{ soak = \"1m\" }, { count = 1 }]",
            "waves[0]: needs count or percent: only the last wave may take the rest",
        ),
        (
            "waves = [{ count = 1, start_after = \"2h\" }, { start_after = \"1h\" }]",
            "waves[1].start_after: is counted from the rollout's start and cannot be before that of an earlier wave",
        ),
        (
            "rate = { factor = 9.0 }",
            "rate.factor: is 9; allowed are 1.1 to 5 with at most one decimal",
        ),
        (
            "rate = { base = 10, max = 5 }",
            "rate.max: is below rate.base",
        ),
        (
            "health = { min_healthy = \"10m\" }",
            "health.min_healthy: must be shorter than health.healthy_deadline, or nothing could ever succeed",
        ),
        (
            "disruption_budget = { max_unavailable = \"0\" }",
            "disruption_budget.max_unavailable: is \"0\"; allowed are 1 to 100000, or 1% to 100%",
        ),
        (
            "disruption_budget = { min_available = \"100%\" }",
            "disruption_budget.min_available: 100% leaves no node that could ever change",
        ),
        (
            "disruption_budget = { group_by = [\"a b\"] }",
            "disruption_budget.group_by[0]: \"a b\" is not a label's key",
        ),
        (
            "halt = [{ on = \"failed\" }]",
            "halt[0]: needs one of count, share, percent and consecutive",
        ),
        (
            "halt = [{ on = \"metric\", count = 1 }]",
            "halt[0].condition: needed when on is \"metric\"",
        ),
        (
            "halt = [{ on = \"failed\", condition = \"x\", count = 1 }]",
            "halt[0].condition: goes with on = \"metric\" only",
        ),
        ("retries = [{ count = 1 }]", "retries[0].class: is needed"),
        (
            "retries = [{ class = \"fetch\" }, { class = \"fetch\" }]",
            "retries[1].class: is given twice",
        ),
    ] {
        let found = check(&format!("[rollout]\n{text}"));
        assert_eq!(found, Err(vec![format!("rollout.{expected}")]), "{text}");
    }
    let unknown = check("[rollout]\nsoak = 3").unwrap_err();
    assert!(unknown[0].contains("unknown field `soak`"), "{unknown:?}");
}

#[test]
fn all_problems_come_at_once() {
    let found = check("[rollout]\non_halt = \"x\"\ncommit = \"y\"\nmax_targets = 0");
    assert_eq!(found.unwrap_err().len(), 3);
    let ask = RolloutAsk {
        max_targets: Some(0),
        ..RolloutAsk::default()
    };
    let rejection = rejection(&ask.check(Experts::Absent).unwrap_err());
    assert_eq!(rejection.code, ErrorCode::RolloutInvalid);
}

#[test]
fn consensus_is_refused_while_there_are_no_experts() {
    let ask = RolloutAsk {
        waves: Some(vec![WaveAsk {
            approve: Some("consensus".to_owned()),
            ..WaveAsk::default()
        }]),
        ..RolloutAsk::default()
    };
    let problems = ask.check(Experts::Absent).unwrap_err();
    assert_eq!(rejection(&problems).code, ErrorCode::ConsensusUnavailable);
    let params = ask.check(Experts::Present).unwrap();
    assert_eq!(params.waves[0].approve, Approve::Consensus);
}
