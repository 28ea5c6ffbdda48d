//! Grants: a role given to a principal, on all nodes or on some.

use protocol::id::{Id, IdKind, PrincipalId};
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::role::RoleName;

/// Grants of one principal. Bounds what `authorize` walks.
pub const GRANTS_PER_PRINCIPAL_MAX: usize = 64;

/// Marks the id of a grant.
#[derive(Debug)]
pub enum GrantKind {}

impl IdKind for GrantKind {
    const NAME: &'static str = "grant";
}

/// Id of a grant.
pub type GrantId = Id<GrantKind>;

/// A role given to a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Who has it.
    pub principal: PrincipalId,
    /// What it gives.
    pub role: RoleName,
    /// On which nodes; none for the whole fleet, what is no node included.
    pub on: Option<Selector>,
    /// When it was given.
    pub created_at: UnixMillis,
}
