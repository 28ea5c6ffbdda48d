//! Taking nodes out of service, and back: cordon, drain, decommission.
//!
//! A cordoned node gets no deployment or revision that it does not have; what runs
//! goes on, and drift repair, commands, rollbacks and removals still reach it. A
//! drain is a cordon by which its workloads are taken away as well; carrying that
//! out is the desk's, which says here how it ended. A decommission is a drain after
//! which the node leaves the fleet.
//!
//! **Invariant:** a drain ends once, and only that of a node that is still drained;
//! a node that was uncordoned meanwhile stays in the fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::command::issue::Aim;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{
    DrainEnded, DrainStarted, NodeRevoked, NodesCordoned, NodesUncordoned,
};
use crate::domain::fleet::node::NODE_TEXT_BYTES_MAX;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};

/// Nodes of one request. One record names them all, and a fleet is taken out of
/// service part by part.
pub const NODES_AT_ONCE_MAX: usize = 1000;

/// The shortest time that a drain may be given.
pub const DRAIN_TIME_MIN: Duration = Duration::from_secs(1);

/// The longest time that a drain may be given: beyond a week nobody waits any more.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a node was taken out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Since when.
    pub since: UnixMillis,
    /// By whom.
    pub by: Caller,
    /// Why, in their words.
    pub reason: String,
    /// The newest drain; none where its workloads stay.
    pub drain: Option<Drain>,
}

/// A node's workloads are taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when.
    pub since: UnixMillis,
    /// Until when that is tried.
    pub until: UnixMillis,
    /// What follows.
    pub then: AfterDrain,
    /// When and how it ended; none while it goes on.
    pub ended: Option<(UnixMillis, DrainOutcome)>,
}

/// What follows once a node has nothing left. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterDrain {
    /// It stays in the fleet, cordoned.
    Stay,
    /// It leaves the fleet.
    Leave,
}

/// How a drain ended. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainOutcome {
    /// Nothing is left on the node.
    Drained,
    /// Its time passed.
    TimedOut,
    /// Budgets of what is left allow no node to be without it.
    Forbidden,
}

/// Take nodes out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CordonNodes {
    /// Which.
    pub nodes: Aim,
    /// Why.
    pub reason: String,
}

/// Put nodes into service again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncordonNodes {
    /// Which.
    pub nodes: Aim,
    /// Why.
    pub reason: String,
}

/// Take the workloads of nodes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainNodes {
    /// Which.
    pub nodes: Aim,
    /// Why.
    pub reason: String,
    /// How long that is tried.
    pub within: Duration,
}

/// Let nodes leave the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecommissionNodes {
    /// Which.
    pub nodes: Aim,
    /// Why.
    pub reason: String,
    /// What comes before.
    pub how: Leaving,
}

/// What comes before a node leaves the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// A drain, that is tried for so long.
    Drained(Duration),
    /// Nothing: what it runs is left to itself.
    AtOnce,
}

/// Record that a drain ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndDrain {
    /// Of which node.
    pub node: NodeId,
    /// How.
    pub how: DrainOutcome,
    /// Deployments that are left on it.
    pub left: u32,
}

impl Cordon {
    /// The drain that goes on.
    #[must_use]
    pub fn draining(&self) -> Option<&Drain> {
        self.drain.as_ref().filter(|drain| drain.ended.is_none())
    }

    /// How far the node is out of service, as it is shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.drain {
            None => "cordoned",
            Some(drain) => match (&drain.ended, drain.then) {
                (None, AfterDrain::Stay) => "draining",
                (None, AfterDrain::Leave) => "decommissioning",
                (Some((_, DrainOutcome::Drained)), _) => "drained",
                (Some((_, DrainOutcome::TimedOut)), _) => "drain_timed_out",
                (Some((_, DrainOutcome::Forbidden)), _) => "drain_forbidden",
            },
        }
    }
}

impl DrainOutcome {
    /// The name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::TimedOut => "timed_out",
            Self::Forbidden => "forbidden",
        }
    }
}

/// The active nodes that are meant.
///
/// # Errors
/// The rejection for a named node that is not active.
pub fn meant(fleet: &Fleet, aim: &Aim) -> Result<BTreeSet<NodeId>, Rejection> {
    match aim {
        Aim::Selector(selector) => Ok(fleet
            .nodes()
            .filter(|node| node.is_active() && selector.matches(node.subject()))
            .map(|node| node.id)
            .collect()),
        Aim::Nodes(ids) => {
            for &id in ids {
                fleet.existing(id)?.require_active()?;
            }
            Ok(ids.clone())
        }
    }
}

/// As [`meant`], refusing none and too many.
fn some(fleet: &Fleet, aim: &Aim) -> Result<BTreeSet<NodeId>, Rejection> {
    let nodes = meant(fleet, aim)?;
    if nodes.is_empty() {
        return Err(Rejection::new(
            ErrorCode::SelectorEmpty,
            "no active node is meant",
        ));
    }
    if nodes.len() > NODES_AT_ONCE_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!(
                "{} nodes are meant; one request takes at most {NODES_AT_ONCE_MAX}",
                nodes.len()
            ),
        ));
    }
    Ok(nodes)
}

fn cordon_of(fleet: &Fleet, node: NodeId) -> Option<&Cordon> {
    fleet.node(node)?.cordon.as_ref()
}

pub(crate) fn cordon(fleet: &Fleet, asked: &CordonNodes) -> Result<Vec<Event>, Rejection> {
    let mut nodes = some(fleet, &asked.nodes)?;
    nodes.retain(|node| cordon_of(fleet, *node).is_none());
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::NodesCordoned(NodesCordoned {
        nodes,
        reason: words(&asked.reason),
    })])
}

pub(crate) fn uncordon(fleet: &Fleet, asked: &UncordonNodes) -> Result<Vec<Event>, Rejection> {
    let mut nodes = some(fleet, &asked.nodes)?;
    nodes.retain(|node| cordon_of(fleet, *node).is_some());
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::NodesUncordoned(NodesUncordoned {
        nodes,
        reason: words(&asked.reason),
    })])
}

pub(crate) fn drain(
    fleet: &Fleet,
    asked: &DrainNodes,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let nodes = some(fleet, &asked.nodes)?;
    start(nodes, &asked.reason, asked.within, AfterDrain::Stay, at)
}

pub(crate) fn decommission(
    fleet: &Fleet,
    asked: &DecommissionNodes,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let nodes = some(fleet, &asked.nodes)?;
    match asked.how {
        Leaving::Drained(within) => start(nodes, &asked.reason, within, AfterDrain::Leave, at),
        Leaving::AtOnce => Ok(nodes
            .into_iter()
            .map(|node| leaves(node, &asked.reason))
            .collect()),
    }
}

fn start(
    nodes: BTreeSet<NodeId>,
    reason: &str,
    within: Duration,
    then: AfterDrain,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    if !(DRAIN_TIME_MIN..=DRAIN_TIME_MAX).contains(&within) {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "a drain is given {} s; give {} to {}",
                within.as_secs(),
                DRAIN_TIME_MIN.as_secs(),
                DRAIN_TIME_MAX.as_secs()
            ),
        ));
    }
    Ok(vec![Event::DrainStarted(DrainStarted {
        nodes,
        reason: words(reason),
        until: at.now.after(within),
        then,
    })])
}

pub(crate) fn end_drain(fleet: &Fleet, asked: &EndDrain) -> Result<Vec<Event>, Rejection> {
    let node = fleet.existing(asked.node)?;
    let cordon = node.cordon.as_ref().filter(|_| node.is_active());
    let Some((cordon, drain)) = cordon.and_then(|cordon| Some((cordon, cordon.draining()?))) else {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!("node {} is not being drained", node.id),
        ));
    };
    let mut events = vec![Event::DrainEnded(DrainEnded {
        node: asked.node,
        how: asked.how,
        left: asked.left,
    })];
    if (asked.how, drain.then) == (DrainOutcome::Drained, AfterDrain::Leave) {
        events.push(leaves(asked.node, &cordon.reason));
    }
    Ok(events)
}

fn leaves(node: NodeId, reason: &str) -> Event {
    Event::NodeRevoked(NodeRevoked {
        node,
        reason: words(&format!("decommissioned: {reason}")),
    })
}

fn words(reason: &str) -> String {
    cut(reason.to_owned(), NODE_TEXT_BYTES_MAX)
}

/// Takes a record about nodes out of service into the state.
pub(crate) fn applied(fleet: &mut Fleet, event: &Event, by: Caller, at: UnixMillis) {
    if let Event::NodesCordoned(event) = event {
        for node in &event.nodes {
            fleet.change_node(*node, |node| {
                node.cordon.get_or_insert_with(|| Cordon {
                    since: at,
                    by,
                    reason: event.reason.clone(),
                    drain: None,
                });
            });
        }
    } else if let Event::NodesUncordoned(event) = event {
        for node in &event.nodes {
            fleet.change_node(*node, |node| node.cordon = None);
        }
    } else if let Event::DrainStarted(event) = event {
        for node in &event.nodes {
            fleet.change_node(*node, |node| {
                let since = node.cordon.as_ref().map_or(at, |cordon| cordon.since);
                node.cordon = Some(Cordon {
                    since,
                    by,
                    reason: event.reason.clone(),
                    drain: Some(Drain {
                        since: at,
                        until: event.until,
                        then: event.then,
                        ended: None,
                    }),
                });
            });
        }
    } else if let Event::DrainEnded(event) = event {
        fleet.change_node(event.node, |node| {
            let drain = node.cordon.as_mut().and_then(|it| it.drain.as_mut());
            if let Some(drain) = drain {
                drain.ended = Some((at, event.how));
            }
        });
    }
}

#[cfg(test)]
mod tests;
