//! Conditions over series that nodes watch at sampling rate.
//!
//! - [`expression`]: the grammar, `fs.used > 90% for 5m`, and what may be compared
//!   with what.
//! - [`watch`]: the machine that is fed samples and says when a condition begins
//!   and ceases to hold.
//!
//! The controller reads an expression when a rule is made, so that what a node
//! cannot evaluate is refused while someone is there to correct it; nodes read it
//! again. Severity and routing are the controller's and stay there: it finds them
//! by the rule's name.

pub mod expression;
mod parse;
mod reading;
pub mod watch;

use serde::{Deserialize, Serialize};

use crate::selector::Selector;
use crate::time::UnixMillis;

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
    pub at: UnixMillis,
}

impl Crossing {
    /// The version of a crossing's body in a stream entry.
    pub const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests;
