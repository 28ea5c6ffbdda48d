//! Alerts: what fires, the rules that say what should, and silences.

use std::cmp::Reverse;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::selector::Selector;
use protocol::time::UnixMillis;

use super::rollout::fault;
use super::view::alert::{
    AlertHistory, AlertList, AlertRuleDefinition, AlertRuleList, AlertRuleView, AlertTurn,
    AlertView, CreateSilence, ListAlerts, ReadAlertHistory, SilenceList, SilenceView,
};
use super::{Operations, Who, find_selector};
use crate::clock;
use crate::domain::access::authorize::Reach;
use crate::domain::alert::book::{Key, Turn};
use crate::domain::alert::machine::{Alert, Phase};
use crate::domain::alert::manage;
use crate::domain::alert::rule::AlertRule;
use crate::domain::alert::{Defined, Silence};
use crate::domain::breaker::RULES_BYTES_MAX;
use crate::domain::breaker::definition::Signal;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::notice::Severity;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;
use crate::uplink::Link;

/// Alerts or turns in one answer.
const ANSWER_COUNT_MAX: usize = 1000;

/// Turns in one answer, where the request does not say.
const HISTORY_COUNT_DEFAULT: usize = 100;

impl Operations {
    /// Every alert rule.
    ///
    /// # Errors
    /// When it is denied, or the alerts cannot be read.
    pub fn list_alert_rules(&self, who: &Who) -> Result<AlertRuleList, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("alert", "read"))?;
        let alerts = self.uplink.alerts().map_err(|error| fault(&error))?;
        let rules = fleet.alerts().rules();
        Ok(AlertRuleList {
            rules: rules
                .map(|known| rule_view(&fleet, &reach, known, &alerts))
                .collect(),
            policy_bytes: fleet.breakers().rules_bytes() as u64,
            policy_bytes_max: RULES_BYTES_MAX as u64,
        })
    }

    /// One alert rule.
    ///
    /// # Errors
    /// When it is denied, there is no such rule, or the alerts cannot be read.
    pub fn show_alert_rule(&self, who: &Who, rule: &str) -> Result<AlertRuleView, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("alert", "read"))?;
        let known = fleet.alerts().existing(rule)?;
        let alerts = self.uplink.alerts().map_err(|error| fault(&error))?;
        Ok(rule_view(&fleet, &reach, known, &alerts))
    }

    /// Defines an alert rule, or defines it anew.
    ///
    /// # Errors
    /// When it is denied, a part is wrong, or the policy has no room for it.
    pub async fn define_alert_rule(
        &self,
        who: &Who,
        rule: String,
        asked: AlertRuleDefinition,
    ) -> Result<AlertRuleView, Failure> {
        let operation = Operation::DefineAlertRule(manage::DefineAlertRule {
            rule: Box::new(definition(rule.clone(), &asked)?),
        });
        self.submit(who, operation).await?;
        self.show_alert_rule(who, &rule)
    }

    /// Removes an alert rule that nothing watches. Its alerts are resolved.
    ///
    /// # Errors
    /// When it is denied, or the rule is not there or is watched.
    pub async fn remove_alert_rule(
        &self,
        who: &Who,
        rule: String,
    ) -> Result<AlertRuleView, Failure> {
        let before = self.show_alert_rule(who, &rule);
        let operation = Operation::RemoveAlertRule(manage::RemoveAlertRule { rule });
        self.submit(who, operation).await?;
        before
    }

    /// Alerts on the nodes that the caller may see.
    ///
    /// # Errors
    /// When it is denied, the selector is not well-formed, or the alerts cannot be
    /// read.
    pub fn list_alerts(&self, who: &Who, asked: &ListAlerts) -> Result<AlertList, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("alert", "read"))?;
        let seen = Seen::of(&fleet, &reach, asked.on.as_deref(), asked.rule.as_deref())?;
        let now = clock::now();
        let mut alerts = self.uplink.alerts().map_err(|error| fault(&error))?;
        alerts.retain(|(key, alert)| {
            let shown = asked.all || alert.phase != Phase::Clear;
            shown && seen.covers(key) && fleet.alerts().rule(&key.rule).is_some()
        });
        alerts.sort_by(|(a_key, a), (b_key, b)| {
            let place = |key, alert: &Alert| {
                let clear = alert.phase == Phase::Clear;
                (clear, Reverse(alert.severity), Reverse(alert.since), key)
            };
            place(a_key, a).cmp(&place(b_key, b))
        });
        let more = alerts.len().saturating_sub(ANSWER_COUNT_MAX) as u64;
        alerts.truncate(ANSWER_COUNT_MAX);
        Ok(AlertList {
            alerts: alerts
                .into_iter()
                .map(|(key, alert)| self.alert_view(&fleet, key, alert, now))
                .collect(),
            more,
            shed: self.uplink.stats().desk.alerts.shed,
        })
    }

    fn alert_view(&self, fleet: &Fleet, key: Key, alert: Alert, now: UnixMillis) -> AlertView {
        let silence = fleet
            .node(key.node)
            .and_then(|node| fleet.alerts().silenced_by(&key.rule, node.subject(), now));
        AlertView {
            node_name: node_name(fleet, key.node),
            severity: alert.severity.name().to_owned(),
            state: alert.phase.name().to_owned(),
            since: alert.since.into(),
            value: alert.value,
            changed_at: alert.heard_at.into(),
            changes: alert.words,
            ceased: !alert.holds && alert.phase == Phase::Firing,
            silence,
            stale: self.uplink.presence(key.node).link != Link::Up,
            rule: key.rule,
            node: key.node,
            label: key.label,
        }
    }

    /// How alerts turned on the nodes that the caller may see.
    ///
    /// # Errors
    /// When it is denied, the selector is not well-formed, or the turns cannot be
    /// read.
    pub fn read_alert_history(
        &self,
        who: &Who,
        asked: &ReadAlertHistory,
    ) -> Result<AlertHistory, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("alert", "read"))?;
        let seen = Seen::of(&fleet, &reach, asked.on.as_deref(), asked.rule.as_deref())?;
        let limit = asked.limit.unwrap_or(HISTORY_COUNT_DEFAULT);
        let turns = self.uplink.alert_turns().map_err(|error| fault(&error))?;
        Ok(AlertHistory {
            turns: turns
                .into_iter()
                .filter(|turn| seen.covers(&turn.key))
                .take(limit.min(ANSWER_COUNT_MAX))
                .map(|turn| turn_view(&fleet, turn))
                .collect(),
        })
    }

    /// Silences that have not ended.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_silences(&self, who: &Who) -> Result<SilenceList, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("alert", "read"))?;
        Ok(SilenceList {
            silences: fleet
                .alerts()
                .silences(clock::now())
                .map(|(number, silence)| silence_view(number, silence))
                .collect(),
        })
    }

    /// Keeps alerts of some nodes from being told for a while.
    ///
    /// # Errors
    /// When it is denied, or a value is out of bounds.
    pub async fn create_silence(
        &self,
        who: &Who,
        asked: CreateSilence,
    ) -> Result<SilenceView, Failure> {
        let operation = Operation::CreateSilence(manage::CreateSilence {
            nodes: find_selector(&asked.nodes)?,
            rule: asked.rule,
            lifetime: Duration::from_secs(asked.for_s),
            reason: asked.reason,
        });
        let applied = self.submit(who, operation).await?;
        let made = applied.events.iter().find_map(|event| {
            if let Event::SilenceCreated(made) = event {
                Some(made.number)
            } else {
                None
            }
        });
        self.silence(made.unwrap_or_default())
    }

    /// Ends a silence before its time.
    ///
    /// # Errors
    /// When it is denied, or the silence has ended.
    pub async fn end_silence(&self, who: &Who, number: u64) -> Result<SilenceView, Failure> {
        let before = self.silence(number);
        let operation = Operation::EndSilence(manage::EndSilence { number });
        self.submit(who, operation).await?;
        before
    }

    fn silence(&self, number: u64) -> Result<SilenceView, Failure> {
        let fleet = self.engine.fleet();
        fleet
            .alerts()
            .silences(clock::now())
            .find(|(known, _)| *known == number)
            .map(|(number, silence)| silence_view(number, silence))
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::SilenceNotFound,
                    format!("there is no silence {number}, or it has ended"),
                )
            })
    }
}

/// Which alerts a caller asked for, and may see.
struct Seen<'a> {
    fleet: &'a Fleet,
    reach: &'a Reach<'a>,
    nodes: Option<Selector>,
    rule: Option<&'a str>,
}

impl<'a> Seen<'a> {
    fn of(
        fleet: &'a Fleet,
        reach: &'a Reach<'a>,
        on: Option<&str>,
        rule: Option<&'a str>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            fleet,
            reach,
            nodes: on.map(find_selector).transpose()?,
            rule,
        })
    }

    fn covers(&self, key: &Key) -> bool {
        let Some(node) = self.fleet.node(key.node) else {
            return false;
        };
        let nodes = self.nodes.as_ref();
        self.rule.is_none_or(|rule| rule == key.rule)
            && nodes.is_none_or(|nodes| nodes.matches(node.subject()))
            && self.reach.covers(node)
    }
}

fn node_name(fleet: &Fleet, node: NodeId) -> String {
    fleet
        .node(node)
        .map_or_else(|| node.to_string(), |known| known.name.clone())
}

fn turn_view(fleet: &Fleet, turn: Turn) -> AlertTurn {
    AlertTurn {
        at: turn.at.into(),
        node_name: node_name(fleet, turn.key.node),
        rule: turn.key.rule,
        node: turn.key.node,
        label: turn.key.label,
        from: turn.from.name().to_owned(),
        to: turn.to.name().to_owned(),
        severity: turn.severity.name().to_owned(),
        value: turn.value,
        why: turn.why.name().to_owned(),
        silence: turn.silence,
    }
}

fn silence_view(number: u64, silence: &Silence) -> SilenceView {
    SilenceView {
        number,
        nodes: silence.nodes.to_string(),
        rule: silence.rule.clone(),
        since: silence.since.into(),
        until: silence.until.into(),
        by: silence.by.clone(),
        reason: silence.reason.clone(),
    }
}

fn rule_view(
    fleet: &Fleet,
    reach: &Reach<'_>,
    known: &Defined,
    alerts: &[(Key, Alert)],
) -> AlertRuleView {
    let rule = &known.rule;
    let signal = Signal::Condition(rule.name.clone());
    let firing = alerts.iter().filter(|(key, alert)| {
        key.rule == rule.name
            && alert.phase != Phase::Clear
            && fleet.node(key.node).is_some_and(|node| reach.covers(node))
    });
    AlertRuleView {
        name: rule.name.clone(),
        definition: AlertRuleDefinition {
            when: rule.expression.clone(),
            nodes: rule.nodes.to_string(),
            severity: rule.severity.name().to_owned(),
            resolve_after_s: rule.resolve_after_ms / 1000,
        },
        since: known.at.into(),
        firing: firing.count() as u64,
        breakers: fleet
            .breakers()
            .iter()
            .filter(|breaker| breaker.definition.watches.contains(&signal))
            .map(|breaker| breaker.definition.name.clone())
            .collect(),
    }
}

fn definition(name: String, asked: &AlertRuleDefinition) -> Result<AlertRule, Failure> {
    let severity = asked
        .severity
        .parse::<Severity>()
        .map_err(|error| Failure::new(ErrorCode::AlertRuleInvalid, format!("severity {error}")))?;
    Ok(AlertRule {
        name,
        nodes: find_selector(&asked.nodes)?,
        expression: asked.when.clone(),
        severity,
        resolve_after_ms: asked.resolve_after_s.saturating_mul(1000),
    })
}
