//! Principals: the people and service accounts that issue requests.

use protocol::id::PrincipalId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Principals of a fleet, disabled ones included. They are never deleted,
/// because the audit trail names them.
pub const PRINCIPALS_COUNT_MAX: usize = 10_000;

/// Who may issue requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// What people call it; unique.
    pub name: String,
    /// A person or a program.
    pub kind: PrincipalKind,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was disabled: its keys and grants count for nothing since then.
    pub disabled_at: Option<UnixMillis>,
}

/// What kind of caller a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// A human being.
    Person,
    /// A program.
    Service,
}
