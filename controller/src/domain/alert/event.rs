//! What happens to alert rules and silences.

use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::alert::rule::AlertRule;

/// An alert rule was defined, or defined anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRuleDefined {
    /// What it is from here on.
    pub rule: Box<AlertRule>,
}

/// An alert rule was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRuleRemoved {
    /// Its name.
    pub rule: String,
}

/// Alerts of some nodes are not told for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceCreated {
    /// The silence's number, from 1; never used again.
    pub number: u64,
    /// The nodes whose alerts are not told.
    pub nodes: Selector,
    /// The rule that it is for; none for every rule.
    pub rule: Option<String>,
    /// Until when.
    pub until: UnixMillis,
    /// Who said so, by name.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
}

/// A silence was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceEnded {
    /// Its number.
    pub number: u64,
}
