//! Many nodes with the same trouble, told as one.
//!
//! When a switch dies, thousands of nodes are silent for one reason, and thousands
//! of messages say less than one. So a few nodes are told of one by one, and from
//! the next one on there is a single notice about all of them, which is resolved
//! when the trouble has receded. In between, nothing is said of single nodes that
//! were not told of before.
//!
//! A node that comes and goes is damped by whoever judges it, which sees times.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::NodeId;

use super::Severity;

/// Nodes that are told of one by one at the same time: as many messages as a
/// person reads.
pub const SINGLES_MAX: usize = 10;

/// When no more nodes than this are in trouble, they are told of one by one again.
/// Half of [`SINGLES_MAX`], so that a fleet at the edge does not go to and fro.
pub const SINGLES_AGAIN: usize = SINGLES_MAX / 2;

/// What was told of one kind of trouble. Rebuilt from what is raised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Nodes that were told of, and how bad it was.
    told: BTreeMap<NodeId, Severity>,
    /// How bad it was said to be of all of them together.
    together: Option<Severity>,
}

/// Something to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A node is in trouble, or worse than it was.
    Node(NodeId, Severity),
    /// A node is not any more.
    Over(NodeId),
    /// So many of so many nodes are.
    Many {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// How bad that is.
        severity: Severity,
    },
    /// They are few again.
    Few {
        /// How many.
        count: usize,
    },
}

impl Crowd {
    /// What was raised before a restart.
    #[must_use]
    pub fn resume(told: BTreeMap<NodeId, Severity>, together: Option<Severity>) -> Self {
        Self { told, together }
    }

    /// Whether something was told of a node by itself.
    #[must_use]
    pub fn has_told(&self, node: NodeId) -> bool {
        self.told.contains_key(&node)
    }

    /// Judges everything anew: `bad` are the nodes in trouble of `of` altogether.
    pub fn look(&mut self, bad: &BTreeMap<NodeId, Severity>, of: usize) -> Vec<Told> {
        let mut told = Vec::new();
        let over: BTreeSet<NodeId> = self
            .told
            .keys()
            .filter(|node| !bad.contains_key(node))
            .copied()
            .collect();
        for node in over {
            self.told.remove(&node);
            told.push(Told::Over(node));
        }
        let untold = bad.keys().filter(|node| !self.told.contains_key(node));
        let many = match self.together {
            Some(_) => bad.len() > SINGLES_AGAIN,
            None => self.told.len() + untold.count() > SINGLES_MAX,
        };
        if many {
            let severity = if bad.len() * 2 >= of {
                Severity::Critical
            } else {
                Severity::Warning
            };
            // It is told once more when it gets worse, and never when it gets better.
            if self.together < Some(severity) {
                self.together = Some(severity);
                told.push(Told::Many {
                    count: bad.len(),
                    of,
                    severity,
                });
            }
        } else if self.together.take().is_some() {
            told.push(Told::Few { count: bad.len() });
        }
        for (node, severity) in bad {
            let known = self.told.get(node);
            if known < Some(severity) && (self.together.is_none() || known.is_some()) {
                self.told.insert(*node, *severity);
                told.push(Told::Node(*node, *severity));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests;
