//! The one place that says whether a caller may do something.
//!
//! A permission on a set of nodes is allowed when every node is covered by some
//! grant that gives the permission, and the key's scope lets it through. A
//! grant without a selector covers the whole fleet; what is about no node at all
//! needs such a grant.

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, NodeId, PrincipalId};
use protocol::selector::Selector;
use serde::{Deserialize, Serialize};

use crate::domain::access::Access;
use crate::domain::access::caller::Caller;
use crate::domain::access::grant::GrantId;
use crate::domain::access::permission::Permission;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;

/// Nodes that a denial names. The count beside them is of all.
pub const DENIED_NODES_MAX: usize = 16;

/// What [`authorize`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, by these grants.
    Allowed {
        /// The grants that were needed, at least one.
        grants: Vec<GrantId>,
    },
    /// No.
    Denied(Denial),
}

/// Why a caller may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// The stable code.
    pub code: ErrorCode,
    /// The permission, and what is missing.
    pub reason: String,
    /// Nodes that no grant covers, at most [`DENIED_NODES_MAX`].
    pub nodes: Vec<NodeId>,
    /// How many nodes no grant covers.
    pub node_count: u32,
}

/// Where in the fleet a caller has a permission.
#[derive(Clone, Debug)]
pub struct Reach<'a> {
    everywhere: Option<GrantId>,
    parts: Vec<(GrantId, &'a Selector)>,
}

/// Whether `caller` has `permission` on every node in `on`; with no node in it,
/// on the fleet as such.
#[must_use]
pub fn authorize(
    fleet: &Fleet,
    caller: &Caller,
    permission: &Permission,
    on: &[NodeId],
) -> Decision {
    match reach(fleet.access(), caller, permission) {
        Ok(reach) => reach.decide(fleet, permission, on),
        Err(denial) => Decision::Denied(denial),
    }
}

/// What the grants of `principal` alone say, whatever key is shown.
pub(crate) fn granted(
    fleet: &Fleet,
    principal: PrincipalId,
    permission: &Permission,
    on: &[NodeId],
) -> Decision {
    match reach_of(fleet.access(), principal, permission) {
        Ok(reach) => reach.decide(fleet, permission, on),
        Err(denial) => Decision::Denied(denial),
    }
}

/// Where `caller` has `permission`; for lists, which show what is covered.
///
/// # Errors
/// The denial when it is nowhere.
pub fn reach<'a>(
    access: &'a Access,
    caller: &Caller,
    permission: &Permission,
) -> Result<Reach<'a>, Denial> {
    let Caller::Principal { id, key } = caller else {
        return Err(Denial::new(
            ErrorCode::AccessDenied,
            format!("{permission} is for principals alone"),
        ));
    };
    check_key(access, *id, *key, permission)?;
    reach_of(access, *id, permission)
}

/// Whether the key is the principal's and its scope lets `permission` through.
///
/// # Errors
/// The denial when not.
pub(crate) fn check_key(
    access: &Access,
    principal: PrincipalId,
    key: ApiKeyId,
    permission: &Permission,
) -> Result<(), Denial> {
    let key = access
        .key(key)
        .filter(|key| key.principal == principal && key.revoked_at.is_none())
        .ok_or_else(|| {
            Denial::new(
                ErrorCode::KeyRevoked,
                format!("API key {key} is not one of principal {principal}'s"),
            )
        })?;
    if !key.allows(permission) {
        return Err(Denial::new(
            ErrorCode::KeyOutOfScope,
            format!("{permission} is outside the scope of API key {}", key.id),
        ));
    }
    Ok(())
}

fn reach_of<'a>(
    access: &'a Access,
    principal: PrincipalId,
    permission: &Permission,
) -> Result<Reach<'a>, Denial> {
    if access
        .principal(principal)
        .is_none_or(|principal| principal.disabled_at.is_some())
    {
        return Err(Denial::new(
            ErrorCode::PrincipalDisabled,
            format!("principal {principal} is disabled or unknown"),
        ));
    }
    let roles = access.roles();
    let mut reach = Reach {
        everywhere: None,
        parts: Vec::new(),
    };
    for grant in access.grants_of(principal) {
        let gives = roles
            .permissions(&grant.role)
            .any(|(_, held)| held.covers(permission));
        match &grant.on {
            _ if !gives => {}
            Some(selector) if !selector.is_every() => reach.parts.push((grant.id, selector)),
            Some(_) | None => {
                reach.everywhere.get_or_insert(grant.id);
            }
        }
    }
    if reach.everywhere.is_none() && reach.parts.is_empty() {
        return Err(Denial::new(
            ErrorCode::AccessDenied,
            format!("no grant gives {permission}"),
        ));
    }
    Ok(reach)
}

impl Reach<'_> {
    /// Whether it is the whole fleet.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.everywhere.is_some()
    }

    /// The selectors of the grants, when it is not the whole fleet; none otherwise.
    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        let limited = self.everywhere.is_none();
        self.parts
            .iter()
            .filter(move |_| limited)
            .map(|(_, selector)| *selector)
    }

    /// Whether the node is in it.
    #[must_use]
    pub fn covers(&self, node: &Node) -> bool {
        self.grant_for(node).is_some()
    }

    fn decide(&self, fleet: &Fleet, permission: &Permission, on: &[NodeId]) -> Decision {
        if let Some(grant) = self.everywhere {
            return Decision::Allowed {
                grants: vec![grant],
            };
        }
        if on.is_empty() {
            return Decision::Denied(Denial::new(
                ErrorCode::AccessDenied,
                format!("{permission} is granted on some nodes alone, and this is about the fleet"),
            ));
        }
        let mut grants = Vec::new();
        let mut missed = Vec::new();
        for &id in on {
            match fleet.node(id).and_then(|node| self.grant_for(node)) {
                Some(grant) if grants.contains(&grant) => {}
                Some(grant) => grants.push(grant),
                None => missed.push(id),
            }
        }
        if missed.is_empty() {
            Decision::Allowed { grants }
        } else {
            Decision::Denied(Denial::on_nodes(permission, missed))
        }
    }

    fn grant_for(&self, node: &Node) -> Option<GrantId> {
        self.everywhere.or_else(|| {
            self.parts
                .iter()
                .find(|(_, selector)| selector.matches(node.subject()))
                .map(|(grant, _)| *grant)
        })
    }
}

impl Denial {
    pub(crate) fn new(code: ErrorCode, reason: String) -> Self {
        Self {
            code,
            reason,
            nodes: Vec::new(),
            node_count: 0,
        }
    }

    pub(crate) fn on_nodes(permission: &Permission, mut nodes: Vec<NodeId>) -> Self {
        let node_count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        nodes.truncate(DENIED_NODES_MAX);
        let named = nodes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let more = node_count as usize - nodes.len();
        let rest = if more == 0 {
            String::new()
        } else {
            format!(" and {more} more")
        };
        Self {
            code: ErrorCode::AccessDenied,
            reason: format!("no grant gives {permission} on {named}{rest}"),
            nodes,
            node_count,
        }
    }
}

#[cfg(test)]
mod tests;
