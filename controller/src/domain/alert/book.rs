//! Every alert of the fleet, and what is told of them.
//!
//! A pure machine over [`Alert`]s: it keeps what each node said of each condition,
//! judges it by the rules, and hands out what is to be kept, noted and told. The desk
//! makes all of that durable together with the word that led to it.
//!
//! An alert of a node that is not heard stays as the node's last word has it. It is
//! resolved when the node says so, when its rule is gone or means it no more, when the
//! node leaves the fleet, or when the node's store is another: a node that has lost
//! what it had told begins anew, and tells what holds again.
//!
//! **Invariant:** at most [`NODE_COUNT_MAX`] alerts of a node and [`ALERTS_COUNT_MAX`]
//! in all are known. One more is not taken up, and counted: nobody is told of it
//! before the condition begins to hold anew.

use std::collections::{BTreeMap, BTreeSet};

use protocol::condition::Crossing;
use protocol::id::{NodeId, StoreId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::alert::machine::{Alert, Phase, Terms};
use crate::domain::alert::rule::AlertRule;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;
use crate::domain::notice::{Notice, NoticeKind, NoticeState, Severity};
use crate::domain::rejection::cut;

/// Alerts of one node. A node where more go wrong has one problem, not so many.
pub const NODE_COUNT_MAX: usize = 128;

/// Alerts in all: one on each of ten thousand nodes, in a few megabytes. Fewer than
/// the notices that can be raised at once.
pub const ALERTS_COUNT_MAX: usize = 10_000;

/// Bytes of a value: a number with its unit is far shorter.
const VALUE_BYTES_MAX: usize = 64;

/// What names an alert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The node.
    pub node: NodeId,
    /// The rule.
    pub rule: String,
    /// Which of the series' labels; empty where the value has none.
    pub label: String,
}

/// An alert came into another phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Which.
    pub key: Key,
    /// When it became known, in controller time.
    pub at: UnixMillis,
    /// The phase that it left.
    pub from: Phase,
    /// The phase that it entered.
    pub to: Phase,
    /// How bad it is.
    pub severity: Severity,
    /// The value that decided, with its unit.
    pub value: String,
    /// Why.
    pub why: Why,
    /// The silence that kept it from being told, as far as there was one.
    pub silence: Option<u64>,
}

/// Why an alert turned. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The node said so.
    Node,
    /// It turned too often, or came to rest.
    Damping,
    /// The rule is gone.
    RuleRemoved,
    /// The rule does not mean the node.
    NotMeant,
    /// The node left the fleet.
    NodeLeft,
    /// The node has another store than the one that its word is from.
    StoreReplaced,
}

/// What is to be made durable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Alerts as they are; none for those that are not remembered.
    pub alerts: BTreeMap<Key, Option<Alert>>,
    /// What turned.
    pub turns: Vec<Turn>,
    /// What is to be told.
    pub notices: Vec<Notice>,
    /// Alerts that were not taken up.
    pub shed: u64,
}

/// The alerts. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Book {
    alerts: BTreeMap<Key, Alert>,
    /// Those about which time alone may change something.
    waiting: BTreeSet<Key>,
    /// The last record of the fleet by which all of them were judged.
    judged_seq: Option<u64>,
    /// When the next silence is over.
    silence_over_at: Option<UnixMillis>,
    changes: Changes,
}

impl Why {
    /// Its name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Damping => "damping",
            Self::RuleRemoved => "rule_removed",
            Self::NotMeant => "not_meant",
            Self::NodeLeft => "node_left",
            Self::StoreReplaced => "store_replaced",
        }
    }
}

impl Book {
    /// Goes on with what is kept.
    #[must_use]
    pub fn resumed(alerts: impl IntoIterator<Item = (Key, Alert)>) -> Self {
        let alerts: BTreeMap<Key, Alert> = alerts.into_iter().collect();
        let waiting = alerts.iter().filter(|(_, alert)| alert.waits());
        Self {
            waiting: waiting.map(|(key, _)| key.clone()).collect(),
            alerts,
            ..Self::default()
        }
    }

    /// Every alert that is known, those that are clear included.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Key, &Alert)> {
        self.alerts.iter()
    }

    /// Alerts that fire or flap, by how bad they are.
    #[must_use]
    pub fn firing(&self) -> BTreeMap<Severity, u64> {
        let mut counts = BTreeMap::new();
        for alert in self.alerts.values() {
            if alert.phase != Phase::Clear {
                *counts.entry(alert.severity).or_default() += 1;
            }
        }
        counts
    }

    /// What is to be made durable since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// A node said that a condition begins or ceases to hold.
    pub fn crossed(
        &mut self,
        fleet: &Fleet,
        node: NodeId,
        store: StoreId,
        crossing: &Crossing,
        now: UnixMillis,
    ) {
        let key = Key {
            node,
            rule: crossing.rule.clone(),
            label: crossing.label.clone(),
        };
        if !self.alerts.contains_key(&key) {
            if !crossing.holds {
                return;
            }
            if !self.has_room(&key) {
                self.changes.shed += 1;
                return;
            }
        }
        let rule = fleet.alerts().rule(&key.rule);
        let severity = rule.map_or(Severity::Warning, |known| known.rule.severity);
        let alert = self
            .alerts
            .entry(key.clone())
            .or_insert_with(|| Alert::new(store, severity, now));
        alert.store = store;
        let value = cut(crossing.value.clone(), VALUE_BYTES_MAX);
        alert.hear(crossing.holds, value, now);
        // A node's clock may be ahead.
        self.judge(fleet, &key, Why::Node, crossing.at.min(now), now);
        self.keep(&key);
    }

    /// A node said hello with this store. What it had told from another one is over.
    pub fn greeted(&mut self, fleet: &Fleet, node: NodeId, store: StoreId, now: UnixMillis) {
        let of_others: Vec<Key> = self
            .of_node(node)
            .filter(|(_, alert)| alert.store != store && alert.holds)
            .map(|(key, _)| key.clone())
            .collect();
        for key in of_others {
            if let Some(alert) = self.alerts.get_mut(&key) {
                let value = std::mem::take(&mut alert.value);
                alert.store = store;
                alert.hear(false, value, now);
            }
            self.judge(fleet, &key, Why::StoreReplaced, now, now);
            self.keep(&key);
        }
    }

    /// Judges what time, rules, silences and nodes' places have changed.
    pub fn look(&mut self, fleet: &Fleet, now: UnixMillis) {
        let silence_over = self.silence_over_at.is_some_and(|at| at <= now);
        let keys: Vec<Key> = if self.judged_seq != Some(fleet.seq()) || silence_over {
            self.judged_seq = Some(fleet.seq());
            self.silence_over_at = fleet.alerts().silence_over_at(now);
            self.alerts.keys().cloned().collect()
        } else {
            self.waiting.iter().cloned().collect()
        };
        for key in keys {
            self.judge(fleet, &key, Why::Node, now, now);
        }
    }

    fn of_node(&self, node: NodeId) -> impl Iterator<Item = (&Key, &Alert)> {
        let first = Key {
            node,
            rule: String::new(),
            label: String::new(),
        };
        self.alerts
            .range(first..)
            .take_while(move |(key, _)| key.node == node)
    }

    /// Whether there is room for one more; makes some from what is only remembered.
    fn has_room(&mut self, key: &Key) -> bool {
        let spare = |(key, alert): (&Key, &Alert)| {
            let is_clear = !alert.holds && alert.phase == Phase::Clear;
            is_clear.then(|| key.clone())
        };
        if self.of_node(key.node).count() >= NODE_COUNT_MAX {
            let Some(spare) = self.of_node(key.node).find_map(spare) else {
                return false;
            };
            self.forget(&spare);
        }
        if self.alerts.len() >= ALERTS_COUNT_MAX {
            // Whatever is clear waits to be forgotten.
            let mut waiting = self.waiting.iter();
            let spare = waiting.find_map(|key| spare((key, self.alerts.get(key)?)));
            let Some(spare) = spare else {
                return false;
            };
            self.forget(&spare);
        }
        true
    }

    /// Makes a node's word durable, whether anything turned by it or not.
    fn keep(&mut self, key: &Key) {
        if let Some(alert) = self.alerts.get(key) {
            let kept = Some(alert.clone());
            self.changes.alerts.insert(key.clone(), kept);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.alerts.remove(key);
        self.waiting.remove(key);
        self.changes.alerts.insert(key.clone(), None);
    }

    /// Judges one alert and notes what follows. `why` is what a turn is due to as far
    /// as it is the node's.
    fn judge(&mut self, fleet: &Fleet, key: &Key, why: Why, at: UnixMillis, now: UnixMillis) {
        let Some(alert) = self.alerts.get_mut(key) else {
            return;
        };
        let before = alert.clone();
        let place = place(fleet, key);
        let (rule, silence) = match &place {
            Ok((node, rule)) => {
                alert.severity = rule.severity;
                let silence = fleet.alerts().silenced_by(&key.rule, node.subject(), now);
                (Some(*rule), silence)
            }
            Err(_) => (None, None),
        };
        let terms = Terms {
            watched: rule.is_some(),
            resolve_after: rule.map(AlertRule::resolve_after).unwrap_or_default(),
            silenced: silence.is_some(),
        };
        let stepped = alert.step(terms, at, now);
        if let Some(from) = stepped.left {
            let damped = from == Phase::Flapping || alert.phase == Phase::Flapping;
            self.changes.turns.push(Turn {
                key: key.clone(),
                at: now,
                from,
                to: alert.phase,
                severity: alert.severity,
                value: alert.value.clone(),
                why: match place {
                    Err(why) => why,
                    Ok(_) if damped => Why::Damping,
                    Ok(_) => why,
                },
                silence,
            });
        }
        // Whoever is told of grave things alone must hear that it has become one.
        let regraded = alert.told != Phase::Clear
            && alert.phase != Phase::Clear
            && alert.severity != before.severity
            && silence.is_none();
        let raised = regraded.then_some(NoticeState::Raised);
        if let Some(state) = stepped.notice.or(raised) {
            let notice = notice(fleet, key, alert, rule, state, now);
            self.changes.notices.push(notice);
        }
        let gone = place.err() == Some(Why::NodeLeft);
        if gone || alert.is_spent() {
            self.forget(key);
            return;
        }
        if alert.waits() {
            self.waiting.insert(key.clone());
        } else {
            self.waiting.remove(key);
        }
        if *alert != before {
            self.keep(key);
        }
    }
}

/// The node and the rule of an alert, as far as the rule means the node.
fn place<'a>(fleet: &'a Fleet, key: &Key) -> Result<(&'a Node, &'a AlertRule), Why> {
    let node = fleet
        .node(key.node)
        .filter(|node| node.is_active())
        .ok_or(Why::NodeLeft)?;
    let known = fleet.alerts().rule(&key.rule).ok_or(Why::RuleRemoved)?;
    if known.rule.nodes.matches(node.subject()) {
        Ok((node.as_ref(), &known.rule))
    } else {
        Err(Why::NotMeant)
    }
}

fn notice(
    fleet: &Fleet,
    key: &Key,
    alert: &Alert,
    rule: Option<&AlertRule>,
    state: NoticeState,
    now: UnixMillis,
) -> Notice {
    let Key {
        node,
        rule: name,
        label,
    } = key;
    let node_name = fleet
        .node(*node)
        .map_or_else(|| node.to_string(), |known| known.name.clone());
    let place = if label.is_empty() {
        node_name.clone()
    } else {
        format!("{node_name} {label}")
    };
    let what = match (state, alert.phase) {
        (NoticeState::Resolved, _) | (_, Phase::Clear) => "is resolved",
        (_, Phase::Flapping) => "is flapping",
        (NoticeState::Once, Phase::Firing) => "fires steadily",
        (NoticeState::Raised, Phase::Firing) => "fires",
    };
    let mut facts = BTreeMap::from([
        ("rule".to_owned(), name.clone()),
        ("node".to_owned(), node_name),
        ("phase".to_owned(), alert.phase.name().to_owned()),
        ("value".to_owned(), alert.value.clone()),
    ]);
    if !label.is_empty() {
        facts.insert("label".to_owned(), label.clone());
    }
    if let Some(rule) = rule {
        facts.insert("expression".to_owned(), rule.expression.clone());
    }
    Notice {
        subject: name.clone(),
        node: Some(*node),
        title: format!("{name} {what} on {place}: {}", alert.value),
        detail: rule.map(|rule| rule.expression.clone()).unwrap_or_default(),
        facts,
        ..Notice::new(
            now,
            NoticeKind::Alert,
            alert.severity,
            state,
            format!("alert/{name}/{node}/{label}"),
        )
    }
}
