//! What an alert rule is: which condition, on which nodes, and how bad it is.
//!
//! **Invariant:** a rule that passed [`AlertRule::check`] has an expression in its
//! normal form that nodes of this version evaluate.

use core::time::Duration;

use protocol::ErrorCode;
use protocol::condition::Rule;
use protocol::condition::expression::Expression;
use protocol::deployment::spec::is_name;
use protocol::selector::Selector;
use serde::{Deserialize, Serialize};

use crate::domain::notice::Severity;
use crate::domain::rejection::Rejection;

/// The longest that an alert waits before it is resolved. What must stay for longer
/// is better looked at than waited for.
pub const RESOLVE_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// An alert rule as an operator defines it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRule {
    /// Its name, unique in the fleet.
    pub name: String,
    /// The nodes that watch it.
    pub nodes: Selector,
    /// `fs.used > 90% for 5m`, in its normal form.
    pub expression: String,
    /// How bad it is when it fires.
    pub severity: Severity,
    /// Milliseconds for which the condition must have ceased before an alert is
    /// resolved.
    pub resolve_after_ms: u64,
}

impl AlertRule {
    /// Reads an expression, and gives its normal form.
    ///
    /// # Errors
    /// The rejection that says at which character what would have fitted.
    pub fn expression(text: &str) -> Result<String, Rejection> {
        text.parse::<Expression>()
            .map(|expression| expression.to_string())
            .map_err(|error| Rejection::new(error.code(), error.to_string()))
    }

    /// Checks each part.
    ///
    /// # Errors
    /// The rejection that names the first part that is wrong.
    pub fn check(&self) -> Result<(), Rejection> {
        let invalid = |detail: String| Err(Rejection::new(ErrorCode::AlertRuleInvalid, detail));
        if !is_name(&self.name) {
            return invalid(format!(
                "alert rule name {:?} is not lowercase letters, digits, - and _",
                self.name
            ));
        }
        if self.resolve_after() > RESOLVE_AFTER_MAX {
            return invalid(format!(
                "an alert is resolved after at most {} s, not {} s",
                RESOLVE_AFTER_MAX.as_secs(),
                self.resolve_after().as_secs()
            ));
        }
        Self::expression(&self.expression).map(drop)
    }

    /// For how long the condition must have ceased before an alert is resolved.
    #[must_use]
    pub fn resolve_after(&self) -> Duration {
        Duration::from_millis(self.resolve_after_ms)
    }

    /// What nodes are told of it.
    #[must_use]
    pub fn watched(&self) -> Rule {
        Rule {
            name: self.name.clone(),
            nodes: self.nodes.clone(),
            expression: self.expression.clone(),
        }
    }
}
