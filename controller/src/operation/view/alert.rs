//! Alert rules, alerts and silences.

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// Every alert rule, and how much room there is for more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertRuleList {
    /// The rules, by name.
    pub rules: Vec<AlertRuleView>,
    /// Bytes that they take of the policy that nodes get.
    pub policy_bytes: u64,
    /// Bytes that they may take.
    pub policy_bytes_max: u64,
}

/// An alert rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertRuleView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: AlertRuleDefinition,
    /// Since when it is that.
    pub since: Stamp,
    /// Alerts of it that fire or flap, on the nodes that the caller may see.
    pub firing: u64,
    /// The breakers that watch its condition.
    pub breakers: Vec<String>,
}

/// What an alert rule is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertRuleDefinition {
    /// The condition: `fs.used > 90% for 5m`.
    pub when: String,
    /// The nodes that watch it: a selector.
    #[serde(default = "every")]
    pub nodes: String,
    /// `info`, `warning` or `critical`.
    #[serde(default = "warning")]
    pub severity: String,
    /// Seconds for which the condition must have ceased before an alert is resolved.
    #[serde(default)]
    pub resolve_after_s: u64,
}

fn every() -> String {
    "*".to_owned()
}

fn warning() -> String {
    "warning".to_owned()
}

/// Which alerts to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ListAlerts {
    /// Alerts on these nodes: a selector. Without it, on all.
    pub on: Option<String>,
    /// Alerts of this rule. Without it, of all.
    pub rule: Option<String>,
    /// Whether those that fired within the last half hour and are clear are listed too.
    pub all: bool,
}

/// Alerts, the worst first, then the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertList {
    /// At most a thousand.
    pub alerts: Vec<AlertView>,
    /// How many more there are.
    pub more: u64,
    /// Alerts that were not taken up since the controller's start, because there were
    /// too many.
    pub shed: u64,
}

/// A rule on one node for one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertView {
    /// The rule.
    pub rule: String,
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// Which of the series' labels: `/var`; empty where the value has none.
    pub label: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `firing`, `flapping` or `clear`.
    pub state: String,
    /// Since when, as the node knows the time.
    pub since: Stamp,
    /// The value that decided, with its unit.
    pub value: String,
    /// When the node's word last changed.
    pub changed_at: Stamp,
    /// How often it did.
    pub changes: u32,
    /// Whether the condition has ceased, and the alert waits to be resolved.
    pub ceased: bool,
    /// The silence that keeps it from being told.
    pub silence: Option<u64>,
    /// Whether the node is not heard, so that this is its last word.
    pub stale: bool,
}

/// Which turns of alerts to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ReadAlertHistory {
    /// On these nodes: a selector. Without it, on all.
    pub on: Option<String>,
    /// Of this rule. Without it, of all.
    pub rule: Option<String>,
    /// At most so many, up to a thousand; without it, a hundred.
    pub limit: Option<usize>,
}

/// How alerts turned, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertHistory {
    /// The turns.
    pub turns: Vec<AlertTurn>,
}

/// An alert came into another state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertTurn {
    /// When it became known.
    pub at: Stamp,
    /// The rule.
    pub rule: String,
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// Which of the series' labels.
    pub label: String,
    /// The state that it left.
    pub from: String,
    /// The state that it entered.
    pub to: String,
    /// How bad it was.
    pub severity: String,
    /// The value that decided, with its unit.
    pub value: String,
    /// `node`, `damping`, `rule_removed`, `not_meant`, `node_left` or
    /// `store_replaced`.
    pub why: String,
    /// The silence that kept it from being told.
    pub silence: Option<u64>,
}

/// Silences that have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SilenceList {
    /// By number.
    pub silences: Vec<SilenceView>,
}

/// A silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SilenceView {
    /// Its number.
    pub number: u64,
    /// The nodes whose alerts are not told: a selector.
    pub nodes: String,
    /// The rule that it is for; none for every rule.
    pub rule: Option<String>,
    /// Since when.
    pub since: Stamp,
    /// Until when.
    pub until: Stamp,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Keeps alerts of some nodes from being told for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSilence {
    /// The nodes: a selector.
    pub nodes: String,
    /// The rule; none for every rule.
    #[serde(default)]
    pub rule: Option<String>,
    /// For how many seconds, at most thirty days.
    pub for_s: u64,
    /// Why. Kept in the audit trail.
    pub reason: String,
}
