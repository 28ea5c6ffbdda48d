//! Defining and removing alert rules, and silencing alerts.

use core::time::Duration;

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::selector::Selector;

use crate::domain::access::caller::Caller;
use crate::domain::alert::SILENCES_COUNT_MAX;
use crate::domain::alert::event::{
    AlertRuleDefined, AlertRuleRemoved, SilenceCreated, SilenceEnded,
};
use crate::domain::alert::rule::AlertRule;
use crate::domain::breaker::definition::Signal;
use crate::domain::breaker::manage::{check_rules, published};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};
use crate::domain::rollout::params::HaltOn;

/// The longest silence. Who needs more does not need the rule.
pub const SILENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a silence's reason.
const REASON_BYTES_MAX: usize = 160;

/// Define an alert rule, or define it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineAlertRule {
    /// What it is to be.
    pub rule: Box<AlertRule>,
}

/// Remove an alert rule that nothing else watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveAlertRule {
    /// Its name.
    pub rule: String,
}

/// Keep alerts of some nodes from being told for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSilence {
    /// The nodes.
    pub nodes: Selector,
    /// The rule; none for every rule.
    pub rule: Option<String>,
    /// For how long.
    pub lifetime: Duration,
    /// Why, in the operator's words.
    pub reason: String,
}

/// End a silence before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSilence {
    /// Its number.
    pub number: u64,
}

/// The nodes of the fleet that a silence is for.
#[must_use]
pub fn silenced(fleet: &Fleet, nodes: &Selector) -> Vec<NodeId> {
    fleet
        .nodes()
        .filter(|node| node.is_active() && nodes.matches(node.subject()))
        .map(|node| node.id)
        .collect()
}

/// The nodes that the end of a silence concerns.
#[must_use]
pub fn unsilenced(fleet: &Fleet, asked: &EndSilence) -> Vec<NodeId> {
    fleet
        .alerts()
        .silences
        .get(&asked.number)
        .map(|silence| silenced(fleet, &silence.nodes))
        .unwrap_or_default()
}

pub(crate) fn define(
    fleet: &Fleet,
    asked: &DefineAlertRule,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    asked.rule.check()?;
    let mut rule = asked.rule.clone();
    rule.expression = AlertRule::expression(&rule.expression)?;
    let known = fleet.alerts().rule(&rule.name);
    if known.is_some_and(|known| known.rule == *rule) {
        return Ok(Vec::new());
    }
    check_rules(fleet.breakers(), &rule.watched())?;
    let defined = Event::AlertRuleDefined(AlertRuleDefined { rule });
    Ok(published(fleet, vec![defined], at))
}

pub(crate) fn remove(
    fleet: &Fleet,
    asked: &RemoveAlertRule,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    fleet.alerts().existing(&asked.rule)?;
    unwatched(fleet, &asked.rule)?;
    let removed = Event::AlertRuleRemoved(AlertRuleRemoved {
        rule: asked.rule.clone(),
    });
    Ok(published(fleet, vec![removed], at))
}

/// A breaker or a rollout that watches a condition would wait for it for ever.
fn unwatched(fleet: &Fleet, rule: &str) -> Result<(), Rejection> {
    let signal = Signal::Condition(rule.to_owned());
    let breaker = fleet
        .breakers()
        .iter()
        .find(|known| known.definition.watches.contains(&signal))
        .map(|known| format!("breaker {}", known.definition.name));
    let halts = |on: &HaltOn| matches!(on, HaltOn::Metric(name) if name == rule);
    let rollout = || {
        let open = fleet.rollouts().open().find(|rollout| {
            let mut criteria = rollout.course.params.halt.iter();
            criteria.any(|it| halts(&it.on))
        });
        open.map(|rollout| format!("rollout {}", rollout.id))
    };
    match breaker.or_else(rollout) {
        None => Ok(()),
        Some(watcher) => Err(Rejection::new(
            ErrorCode::AlertRuleInUse,
            format!("{watcher} watches condition {rule}"),
        )),
    }
}

pub(crate) fn silence(
    fleet: &Fleet,
    caller: &Caller,
    asked: &CreateSilence,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let invalid = |detail: String| Err(Rejection::new(ErrorCode::SilenceInvalid, detail));
    let alerts = fleet.alerts();
    if let Some(rule) = &asked.rule {
        alerts.existing(rule)?;
    }
    let reason = asked.reason.trim();
    if reason.is_empty() {
        return invalid("a reason must be given".to_owned());
    }
    if asked.lifetime.is_zero() || asked.lifetime > SILENCE_MAX {
        return invalid(format!(
            "a silence lasts from 1 s to {} s, not {} s",
            SILENCE_MAX.as_secs(),
            asked.lifetime.as_secs()
        ));
    }
    if alerts.silences(at.now).count() >= SILENCES_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {SILENCES_COUNT_MAX} silences; end some"),
        ));
    }
    Ok(vec![Event::SilenceCreated(SilenceCreated {
        number: alerts.silence_last + 1,
        nodes: asked.nodes.clone(),
        rule: asked.rule.clone(),
        until: at.now.after(asked.lifetime),
        by: fleet.access().name_of(caller),
        reason: cut(reason.to_owned(), REASON_BYTES_MAX),
    })])
}

pub(crate) fn end(fleet: &Fleet, asked: &EndSilence, at: &Moment) -> Result<Vec<Event>, Rejection> {
    let lasts = fleet
        .alerts()
        .silences(at.now)
        .any(|(number, _)| number == asked.number);
    if !lasts {
        return Err(Rejection::new(
            ErrorCode::SilenceNotFound,
            format!("there is no silence {}, or it has ended", asked.number),
        ));
    }
    let number = asked.number;
    Ok(vec![Event::SilenceEnded(SilenceEnded { number })])
}
