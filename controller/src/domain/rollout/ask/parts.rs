//! The parts of a rollout's parameters, each read into the checked type that it
//! stands for.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::limit::HEALTH_TIME_MAX;
use protocol::label::is_key;
use protocol::time::millis;

use super::reader::Reader;
use super::{
    BudgetAsk, DAY, Experts, HaltAsk, HealthAsk, MINUTE, Problem, RateAsk, RetryAsk, SECOND,
    WaveAsk,
};
use crate::domain::rollout::params::{
    Amount, Approve, GROUP_LABELS_COUNT_MAX, GrowOn, HALT_RULES_COUNT_MAX, HaltOn, HaltRule,
    Params, Rate, Retry, TARGETS_COUNT_MAX, WAVES_COUNT_MAX, Wave, Within,
};
use crate::domain::rollout::target::FailureClass;

pub(super) fn read_waves(r: &mut Reader, asked: &[WaveAsk], experts: Experts) -> Vec<Wave> {
    r.length("waves", asked.len(), 1..=WAVES_COUNT_MAX);
    let mut waves = Vec::new();
    let mut start_after_ms = 0;
    for (index, ask) in asked.iter().enumerate().take(WAVES_COUNT_MAX) {
        let at = format!("waves[{index}]");
        let mut wave = Wave::default();
        r.optional(
            &format!("{at}.count"),
            ask.count,
            1..=TARGETS_COUNT_MAX,
            &mut wave.count,
        );
        r.optional(
            &format!("{at}.percent"),
            ask.percent,
            1..=100,
            &mut wave.percent,
        );
        r.duration(
            &format!("{at}.soak"),
            ask.soak.as_deref(),
            Duration::ZERO..=7 * DAY,
            &mut wave.soak_ms,
        );
        r.optional(
            &format!("{at}.rate_per_min"),
            ask.rate_per_min,
            1..=RATE_PER_MIN_MAX,
            &mut wave.rate_per_min,
        );
        r.duration(
            &format!("{at}.start_after"),
            ask.start_after.as_deref(),
            Duration::ZERO..=30 * DAY,
            &mut wave.start_after_ms,
        );
        let key = format!("{at}.approve");
        r.choice(
            &key,
            ask.approve.as_deref(),
            &[
                ("none", Approve::None),
                ("human", Approve::Human),
                ("consensus", Approve::Consensus),
            ],
            &mut wave.approve,
        );
        if wave.approve == Approve::Consensus && experts == Experts::Absent {
            r.problems.push(Problem {
                path: key,
                what: "no experts are configured, so this gate could never open; use \"human\""
                    .to_owned(),
                code: ErrorCode::ConsensusUnavailable,
            });
        }
        if wave.is_rest() && index + 1 < asked.len() {
            r.problem(
                &at,
                "needs count or percent: only the last wave may take the rest",
            );
        }
        if ask.start_after.is_some() && wave.start_after_ms < start_after_ms {
            r.problem(
                &format!("{at}.start_after"),
                "is counted from the rollout's start and cannot be before that of an earlier wave",
            );
        }
        start_after_ms = start_after_ms.max(wave.start_after_ms);
        waves.push(wave);
    }
    if waves.last().is_some_and(|last| !last.is_rest()) {
        waves.push(Wave {
            soak_ms: waves.last().map_or(0, |last| last.soak_ms),
            ..Wave::default()
        });
    }
    waves
}

/// The highest rate that can be asked for; beyond it no rate means the same.
const RATE_PER_MIN_MAX: u32 = 100_000;

impl RateAsk {
    pub(super) fn read(&self, r: &mut Reader, mut rate: Rate) -> Rate {
        let limits = 1..=RATE_PER_MIN_MAX;
        r.number(
            "rate.base",
            self.base,
            limits.clone(),
            &mut rate.base_per_min,
        );
        r.number("rate.max", self.max, limits, &mut rate.max_per_min);
        if self.max.is_none() {
            rate.max_per_min = rate.max_per_min.max(rate.base_per_min);
        }
        r.tenths("rate.factor", self.factor, 11..=50, &mut rate.factor_tenths);
        r.number(
            "rate.grow_every",
            self.grow_every,
            1..=10_000,
            &mut rate.grow_every,
        );
        r.choice(
            "rate.grow_on",
            self.grow_on.as_deref(),
            &[("succeeded", GrowOn::Succeeded), ("never", GrowOn::Never)],
            &mut rate.grow_on,
        );
        if rate.max_per_min < rate.base_per_min {
            r.problem("rate.max", "is below rate.base");
        }
        rate
    }
}

impl HealthAsk {
    pub(super) fn read(&self, r: &mut Reader, params: &mut Params) {
        let health = &mut params.health;
        let times = [
            (
                "initial_delay",
                &self.initial_delay,
                Duration::ZERO,
                &mut health.initial_delay_ms,
            ),
            (
                "min_healthy",
                &self.min_healthy,
                Duration::ZERO,
                &mut health.min_healthy_ms,
            ),
            (
                "healthy_deadline",
                &self.healthy_deadline,
                SECOND,
                &mut health.healthy_deadline_ms,
            ),
            (
                "progress_deadline",
                &self.progress_deadline,
                SECOND,
                &mut health.progress_deadline_ms,
            ),
        ];
        for (key, text, min, into) in times {
            r.duration(
                &format!("health.{key}"),
                text.as_deref(),
                min..=HEALTH_TIME_MAX,
                into,
            );
        }
        if health.min_healthy_ms >= health.healthy_deadline_ms {
            r.problem(
                "health.min_healthy",
                "must be shorter than health.healthy_deadline, or nothing could ever succeed",
            );
        }
    }
}

impl BudgetAsk {
    pub(super) fn read(&self, r: &mut Reader, params: &mut Params) {
        let budget = &mut params.budget;
        if let Some(labels) = &self.group_by {
            r.length(
                "disruption_budget.group_by",
                labels.len(),
                0..=GROUP_LABELS_COUNT_MAX,
            );
            for (index, label) in labels.iter().enumerate().take(GROUP_LABELS_COUNT_MAX) {
                if !is_key(label) {
                    r.problem(
                        &format!("disruption_budget.group_by[{index}]"),
                        format!("{label:?} is not a label's key"),
                    );
                }
            }
            budget.group_by.clone_from(labels);
        }
        budget.available_min = r.amount(
            "disruption_budget.min_available",
            self.min_available.as_deref(),
            0,
        );
        budget.unavailable_max = r.amount(
            "disruption_budget.max_unavailable",
            self.max_unavailable.as_deref(),
            1,
        );
        if budget.available_min == Some(Amount::Percent(100)) {
            r.problem(
                "disruption_budget.min_available",
                "100% leaves no node that could ever change",
            );
        }
    }
}

pub(super) fn read_halt(r: &mut Reader, asked: &[HaltAsk]) -> Vec<HaltRule> {
    r.length("halt", asked.len(), 0..=HALT_RULES_COUNT_MAX);
    let rules = asked.iter().enumerate().take(HALT_RULES_COUNT_MAX);
    rules
        .map(|(index, ask)| ask.read(r, &format!("halt[{index}]")))
        .collect()
}

impl HaltAsk {
    fn read(&self, r: &mut Reader, at: &str) -> HaltRule {
        let mut rule = HaltRule::on(HaltOn::Any);
        let metric = HaltOn::Metric(self.condition.clone().unwrap_or_default());
        r.choice(
            &format!("{at}.on"),
            self.on.as_deref(),
            &[
                ("any", HaltOn::Any),
                ("failed", HaltOn::Failed),
                ("timed_out", HaltOn::TimedOut),
                ("rejected", HaltOn::Rejected),
                ("unhealthy", HaltOn::Unhealthy),
                ("went_silent", HaltOn::WentSilent),
                ("metric", metric),
            ],
            &mut rule.on,
        );
        match (&rule.on, &self.condition) {
            (HaltOn::Metric(name), _) if name.is_empty() => {
                r.problem(&format!("{at}.condition"), "needed when on is \"metric\"");
            }
            (HaltOn::Metric(_), _) | (_, None) => {}
            (_, Some(_)) => r.problem(&format!("{at}.condition"), "goes with on = \"metric\" only"),
        }
        r.choice(
            &format!("{at}.within"),
            self.within.as_deref(),
            &[
                ("canary", Within::Canary),
                ("wave", Within::Wave),
                ("rollout", Within::Rollout),
            ],
            &mut rule.within,
        );
        let counts = 1..=TARGETS_COUNT_MAX;
        r.optional(
            &format!("{at}.count"),
            self.count,
            counts.clone(),
            &mut rule.count,
        );
        r.optional(
            &format!("{at}.share"),
            self.share,
            1..=100,
            &mut rule.share_percent,
        );
        r.optional(
            &format!("{at}.min_samples"),
            self.min_samples,
            counts,
            &mut rule.samples_min,
        );
        r.optional(
            &format!("{at}.consecutive"),
            self.consecutive,
            1..=1000,
            &mut rule.consecutive,
        );
        if self.percent.is_some() {
            let mut tenths = 0;
            r.tenths(
                &format!("{at}.percent"),
                self.percent,
                1..=1000,
                &mut tenths,
            );
            rule.percent_tenths = u16::try_from(tenths).ok();
        }
        if self.window.is_some() {
            let mut window_ms = 0;
            r.duration(
                &format!("{at}.window"),
                self.window.as_deref(),
                SECOND..=7 * DAY,
                &mut window_ms,
            );
            rule.window_ms = Some(window_ms);
        }
        if !rule.can_trip() {
            r.problem(at, "needs one of count, share, percent and consecutive");
        }
        rule
    }
}

pub(super) fn read_retries(r: &mut Reader, asked: &[RetryAsk]) -> Vec<Retry> {
    let names = FailureClass::ALL.map(|(class, name)| (name, class));
    let mut retries: Vec<Retry> = Vec::new();
    for (index, ask) in asked.iter().enumerate().take(names.len()) {
        let at = format!("retries[{index}]");
        let mut retry = Retry {
            class: FailureClass::Failed,
            count: 1,
            backoff_ms: millis(MINUTE),
        };
        let key = format!("{at}.class");
        match &ask.class {
            None => r.problem(&key, "is needed"),
            Some(class) => r.choice(&key, Some(class), &names, &mut retry.class),
        }
        r.number(&format!("{at}.count"), ask.count, 0..=10, &mut retry.count);
        r.duration(
            &format!("{at}.backoff"),
            ask.backoff.as_deref(),
            SECOND..=DAY,
            &mut retry.backoff_ms,
        );
        if retries.iter().any(|earlier| earlier.class == retry.class) {
            r.problem(&key, "is given twice");
        }
        retries.push(retry);
    }
    r.length("retries", asked.len(), 0..=names.len());
    retries
}
