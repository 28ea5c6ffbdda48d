//! Conditions over series that nodes watch at sampling rate.

use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// A condition that nodes watch, as it is in the policy.
///
/// The expression travels as text: a node that is too old to understand one says
/// so with a code, and watches the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, unique in the fleet.
    pub name: String,
    /// The nodes that watch it.
    pub nodes: Selector,
    /// `fs.used > 90% for 5m`
    pub expression: String,
}

/// A condition began or ceased to hold on a node: in the control stream, at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// The rule's name.
    pub rule: String,
    /// The policy's epoch that the rule was in.
    pub epoch: u64,
    /// Whether it holds.
    pub holds: bool,
    /// Which of the series' labels, where it has some: `/var`.
    pub label: String,
    /// The value that decided, as text with its unit.
    pub value: String,
    /// When, in controller time as the node knows it.
    pub at: crate::time::UnixMillis,
}

impl Crossing {
    /// The version of a crossing's body in a stream entry.
    pub const VERSION: u16 = 1;
}
