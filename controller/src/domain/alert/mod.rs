//! Alerts: which conditions someone wants to be told of, and where they hold.
//!
//! Owns the fleet's alert rules and silences, which are recorded, and the pure
//! machines that say of each rule, node and label whether it fires. What nodes
//! report of conditions is no event: it lies in the intake, as receipts do.
//!
//! - [`rule`]: what a rule is. Nodes get its condition by the policy.
//! - [`manage`]: what operators do with rules and silences.
//! - [`machine`]: one rule on one node for one label, with its damping.
//! - [`book`]: all of them, and what is told of them.
//!
//! **Invariant:** whether a node's alert fires follows from the node's last word and
//! from the rules, never from what was told to anybody. So a rule that is changed,
//! removed and defined again, or that means other nodes for a while, can neither
//! lose an alert nor keep one for ever.

pub mod book;
pub mod event;
pub mod machine;
pub mod manage;
pub mod rule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::selector::{Selector, Subject};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::alert::rule::AlertRule;
use crate::domain::audit::record::Record;
use crate::domain::event::Event;
use crate::domain::rejection::Rejection;

/// Silences at the same time. Each is looked at for each alert that may be told.
pub const SILENCES_COUNT_MAX: usize = 64;

/// The alert part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    rules: BTreeMap<String, Arc<Defined>>,
    silences: BTreeMap<u64, Silence>,
    silence_last: u64,
}

/// An alert rule, and since when it is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// What it is.
    pub rule: AlertRule,
    /// When it was defined, or defined anew.
    pub at: UnixMillis,
}

/// Keeps alerts of some nodes from being told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// The nodes.
    pub nodes: Selector,
    /// The rule; none for every rule.
    pub rule: Option<String>,
    /// Since when.
    pub since: UnixMillis,
    /// Until when, that moment excluded.
    pub until: UnixMillis,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

impl Silence {
    /// Whether it covers a rule's alerts on a node at this time.
    #[must_use]
    pub fn covers(&self, rule: &str, node: Subject<'_>, now: UnixMillis) -> bool {
        now < self.until
            && self.rule.as_deref().is_none_or(|only| only == rule)
            && self.nodes.matches(node)
    }
}

impl Alerts {
    /// A rule by name.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Arc<Defined>> {
        self.rules.get(name)
    }

    /// Every rule, by name.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Arc<Defined>> {
        self.rules.values()
    }

    /// A rule by name.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, name: &str) -> Result<&Arc<Defined>, Rejection> {
        self.rules.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Rejection::new(
                ErrorCode::AlertRuleNotFound,
                format!("there is no alert rule {name:?}"),
            )
        })
    }

    /// Silences that have not ended at this time, by number.
    pub fn silences(&self, now: UnixMillis) -> impl Iterator<Item = (u64, &Silence)> {
        self.silences
            .iter()
            .filter(move |(_, silence)| now < silence.until)
            .map(|(number, silence)| (*number, silence))
    }

    /// The silence that keeps a rule's alerts on a node from being told, the one that
    /// lasts longest of several.
    #[must_use]
    pub fn silenced_by(&self, rule: &str, node: Subject<'_>, now: UnixMillis) -> Option<u64> {
        self.silences
            .iter()
            .filter(|(_, silence)| silence.covers(rule, node, now))
            .max_by_key(|(number, silence)| (silence.until, **number))
            .map(|(number, _)| *number)
    }

    /// When the next silence is over, as far as there is one.
    #[must_use]
    pub fn silence_over_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.silences(now).map(|(_, silence)| silence.until).min()
    }

    /// Takes a record into the state. One of something else changes nothing.
    pub(crate) fn apply(&mut self, record: &Record) {
        let at = record.at;
        if let Event::AlertRuleDefined(event) = &record.event {
            let rule = event.rule.as_ref().clone();
            let name = rule.name.clone();
            self.rules.insert(name, Arc::new(Defined { rule, at }));
        } else if let Event::AlertRuleRemoved(event) = &record.event {
            self.rules.remove(&event.rule);
        } else if let Event::SilenceCreated(event) = &record.event {
            self.silence_last = event.number;
            // Whoever makes one clears away those whose time is over.
            self.silences.retain(|_, silence| at < silence.until);
            let silence = Silence {
                nodes: event.nodes.clone(),
                rule: event.rule.clone(),
                since: at,
                until: event.until,
                by: event.by.clone(),
                reason: event.reason.clone(),
            };
            self.silences.insert(event.number, silence);
        } else if let Event::SilenceEnded(event) = &record.event {
            self.silences.remove(&event.number);
        }
    }
}
