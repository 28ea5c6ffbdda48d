//! Breakers of the fleet, and the policy by which nodes obey them.
//!
//! Owns which breakers there are, where each stands for each part of the fleet,
//! who may pass in spite of them, the conditions that nodes watch, and the number of
//! the policy. The machine that moves a breaker is [`protocol::breaker::machine`]; the
//! desk runs it on what nodes report, and its transitions come here as facts.
//!
//! **Invariants.** A breaker that is not closed is in the policy: nothing but a
//! recorded transition to closed takes it out, so it can neither be removed nor
//! change its span before. The policy's epoch grows with each change of what the
//! policy says, and only then. What is in the policy always fits one envelope: gates
//! and overrides are bounded so that they take less than half of it, and rules by
//! [`RULES_BYTES_MAX`], so that no rule ever keeps a trip from being published.

pub mod definition;
pub mod event;
pub mod manage;
pub mod watchman;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Breaker, Transition};
use protocol::condition::Rule;
use protocol::id::{FleetId, NodeId};
use protocol::key::KeyId;
use protocol::message;
use protocol::policy::{Gate, LEASE_MS_DEFAULT, Override, POLICY_BYTES_MAX, Policy};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::breaker::definition::{Definition, Group};
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::rejection::{Rejection, cut};

/// Breakers of a fleet.
pub const BREAKERS_COUNT_MAX: usize = 16;

/// Groups that are not closed, over all breakers. A breaker that would open one
/// more opens for the whole fleet, so there are at most as many more gates as
/// breakers. Together they take less than half of a policy.
pub const GROUPS_OPEN_MAX: usize = 64;

/// Closed groups of one breaker that are remembered, so that the numbers of their
/// rounds go on. The one that closed first is forgotten.
const GROUPS_CLOSED_MAX: usize = 64;

/// Bytes of the rules in the policy: the half that gates and overrides leave. Some
/// hundred rules with a selector of their own.
pub const RULES_BYTES_MAX: usize = POLICY_BYTES_MAX / 2;

/// Overrides at the same time. Break-glass is for a few things at once.
pub const OVERRIDES_COUNT_MAX: usize = 8;

/// Moves of one breaker that are remembered here; older ones are in the journal.
const LOG_COUNT_MAX: usize = 64;

/// Bytes of a reason in the policy. The whole of it is in the journal.
const REASON_BYTES_MAX: usize = 160;

/// The breaker part of the fleet's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breakers {
    known: BTreeMap<String, Arc<Known>>,
    overrides: BTreeMap<u64, Granted>,
    override_last: u64,
    /// The conditions that nodes watch, by name: those of the alert rules.
    rules: BTreeMap<String, Rule>,
    published: Published,
    lease_ms: u64,
}

/// A breaker and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// What it is.
    pub definition: Definition,
    /// Where it stands, for each group that ever moved. Others are closed.
    pub groups: BTreeMap<Group, Cell>,
    /// The last moves, oldest first.
    pub log: VecDeque<Logged>,
}

/// Where a breaker stands for one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Its last transition, which says everything.
    pub moved: Transition,
    /// The nodes that may try, while it is half-open.
    pub probes: BTreeSet<NodeId>,
}

/// A move that was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// By whom.
    pub by: Caller,
    /// For which group.
    pub group: Group,
    /// What.
    pub transition: Transition,
    /// The nodes that might try.
    pub probes: BTreeSet<NodeId>,
}

/// An override that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Since when.
    pub since: UnixMillis,
    /// What.
    pub pass: Override,
}

/// The policy that was published last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its epoch; 0 before the first.
    pub epoch: u64,
    /// When.
    pub at: UnixMillis,
    /// The digest of what it says.
    pub digest: Option<Digest>,
    /// The key that signs it; none where that was not recorded.
    pub signer: Option<KeyId>,
}

impl Default for Breakers {
    /// Those of a fleet to which nothing has happened: the one of its own.
    fn default() -> Self {
        let fleet = Known::new(Definition::fleet());
        Self {
            known: BTreeMap::from([(fleet.definition.name.clone(), Arc::new(fleet))]),
            overrides: BTreeMap::new(),
            override_last: 0,
            rules: BTreeMap::new(),
            published: Published::default(),
            lease_ms: LEASE_MS_DEFAULT,
        }
    }
}

impl Cell {
    /// When the breaker tries again by itself, once there is something to try on;
    /// none where only a person or its probes move it.
    #[must_use]
    pub fn tries_at(&self) -> Option<UnixMillis> {
        let waits = self.moved.to == BreakerState::Open && self.moved.wait_ms > 0;
        let wait = Duration::from_millis(self.moved.wait_ms);
        waits.then(|| self.moved.at.after(wait))
    }
}

impl Known {
    fn new(definition: Definition) -> Self {
        Self {
            definition,
            groups: BTreeMap::new(),
            log: VecDeque::new(),
        }
    }

    /// The state for a group.
    #[must_use]
    pub fn state(&self, group: &Group) -> BreakerState {
        self.groups
            .get(group)
            .map_or(BreakerState::Closed, |cell| cell.moved.to)
    }

    /// Groups that are not closed.
    pub fn open(&self) -> impl Iterator<Item = (&Group, &Cell)> {
        self.groups
            .iter()
            .filter(|(_, cell)| cell.moved.to != BreakerState::Closed)
    }

    /// The machine of a group, as its recorded transitions lead to it.
    #[must_use]
    pub fn machine(&self, group: &Group) -> Breaker {
        let last = self.groups.get(group).map(|cell| &cell.moved);
        Breaker::replay(self.definition.rule, last)
    }

    fn moved(&mut self, by: Caller, event: &event::BreakerMoved) {
        let cell = Cell {
            moved: event.transition.clone(),
            probes: event.probes.clone(),
        };
        self.groups.insert(event.group.clone(), cell);
        self.log.push_back(Logged {
            by,
            group: event.group.clone(),
            transition: event.transition.clone(),
            probes: event.probes.clone(),
        });
        while self.log.len() > LOG_COUNT_MAX {
            self.log.pop_front();
        }
        let closed: Vec<(UnixMillis, &Group)> = self
            .groups
            .iter()
            .filter(|(_, cell)| cell.moved.to == BreakerState::Closed)
            .map(|(group, cell)| (cell.moved.at, group))
            .collect();
        if closed.len() > GROUPS_CLOSED_MAX
            && let Some(first) = closed.into_iter().min().map(|(_, group)| group.clone())
        {
            self.groups.remove(&first);
        }
    }
}

impl Breakers {
    /// A breaker by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Known>> {
        self.known.get(name)
    }

    /// Every breaker, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Known>> {
        self.known.values()
    }

    /// Overrides that have not ended, by number.
    pub fn overrides(&self) -> impl Iterator<Item = (u64, &Granted)> {
        self.overrides
            .iter()
            .map(|(number, granted)| (*number, granted))
    }

    /// The policy that was published last.
    #[must_use]
    pub fn published(&self) -> Published {
        self.published
    }

    /// How long nodes go on without a word from the controller.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// A breaker by name.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, name: &str) -> Result<&Arc<Known>, Rejection> {
        self.known.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Rejection::new(
                ErrorCode::BreakerNotFound,
                format!("there is no breaker {name:?}"),
            )
        })
    }

    /// Groups that are not closed, over all breakers.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.known.values().map(|known| known.open().count()).sum()
    }

    /// The policy as it was published last, to be signed. What it says follows from
    /// the records alone, so it can be made again at any time.
    #[must_use]
    pub fn policy(&self, fleet: FleetId) -> Policy {
        Policy {
            fleet,
            epoch: self.published.epoch,
            issued_at: self.published.at,
            lease_ms: self.lease_ms,
            gates: self.gates(|_| true),
            overrides: self
                .overrides
                .values()
                .map(|granted| granted.pass.clone())
                .collect(),
            rules: self.rules.values().cloned().collect(),
        }
    }

    /// What the policy forbids for the groups that are not closed and meant.
    pub(crate) fn gates(&self, meant: impl Fn(&Cell) -> bool) -> Vec<Gate> {
        self.known
            .values()
            .flat_map(|known| known.open().map(move |open| (known, open)))
            .filter(|(_, (_, cell))| meant(cell))
            .filter_map(|(known, (group, cell))| {
                Some(Gate {
                    breaker: known.definition.name.clone(),
                    state: cell.moved.to,
                    since: cell.moved.at,
                    scope: known.definition.scope(group)?,
                    gated: known.definition.gated.clone(),
                    probes: cell.probes.clone(),
                    reason: cut(cell.moved.reason.to_string(), REASON_BYTES_MAX),
                })
            })
            .collect()
    }

    /// Bytes of the rules in the policy.
    #[must_use]
    pub fn rules_bytes(&self) -> usize {
        let sizes = self.rules.values().map(|rule| message::encode(rule).len());
        sizes.sum()
    }

    /// The digest of what the policy says, its number and time apart.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut policy = self.policy(FleetId::NIL);
        policy.epoch = 0;
        policy.issued_at = UnixMillis::default();
        Digest::of("flotilla policy content 1", &[&message::encode(&policy)])
    }

    /// Takes a record into the state. One of something else changes nothing.
    pub(crate) fn apply(&mut self, record: &Record) {
        self.take(&record.event, record.by, record.at);
    }

    fn take(&mut self, event: &Event, by: Caller, at: UnixMillis) {
        if let Event::BreakerDefined(event) = event {
            let definition = event.definition.as_ref().clone();
            match self.known.get_mut(&definition.name) {
                Some(known) => Arc::make_mut(known).definition = definition,
                None => {
                    let name = definition.name.clone();
                    self.known.insert(name, Arc::new(Known::new(definition)));
                }
            }
        } else if let Event::BreakerRemoved(event) = event {
            self.known.remove(&event.breaker);
            self.overrides
                .retain(|_, granted| granted.pass.breaker != event.breaker);
        } else if let Event::LeaseSet(event) = event {
            self.lease_ms = event.lease_s.saturating_mul(1000);
        } else if let Event::BreakerMoved(event) = event {
            if let Some(known) = self.known.get_mut(&event.breaker) {
                Arc::make_mut(known).moved(by, event);
            }
        } else if let Event::BreakerOverridden(event) = event {
            self.override_last = event.number;
            let granted = Granted {
                since: at,
                pass: Override {
                    breaker: event.breaker.clone(),
                    nodes: event.nodes.clone(),
                    until: event.until,
                    by: event.by.clone(),
                    reason: event.reason.clone(),
                },
            };
            self.overrides.insert(event.number, granted);
        } else if let Event::OverrideEnded(event) = event {
            self.overrides.remove(&event.number);
        } else if let Event::AlertRuleDefined(event) = event {
            let rule = event.rule.watched();
            self.rules.insert(rule.name.clone(), rule);
        } else if let Event::AlertRuleRemoved(event) = event {
            self.rules.remove(&event.rule);
        } else if let Event::PolicyPublished(event) = event {
            self.published = Published {
                epoch: event.epoch,
                at,
                digest: Some(event.digest),
                signer: event.signer,
            };
        }
    }
}

#[cfg(test)]
mod tests;
