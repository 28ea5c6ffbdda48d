//! Why a principal may or may not: the answer of `flotilla access explain`.
//!
//! Walks the same grants as [`authorize`](super::authorize) and decides by it,
//! so that the explanation cannot disagree with what really happens.

use protocol::id::{ApiKeyId, NodeId, PrincipalId};
use protocol::selector::Selector;
use serde::Serialize;

use crate::domain::access::authorize::{Decision, check_key, granted};
use crate::domain::access::grant::{Grant, GrantId};
use crate::domain::access::permission::Permission;
use crate::domain::access::role::{RoleName, Roles};
use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::Node;

/// What decides a permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The one sentence that says why.
    pub reason: String,
    /// Every grant of the principal, and what it contributes. By grant id.
    pub grants: Vec<Considered>,
}

/// One grant in an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The grant.
    pub grant: GrantId,
    /// The role that it gives.
    pub role: RoleName,
    /// The roles from that one to the role that holds the permission, by
    /// inheritance; empty when none does.
    pub path: Vec<RoleName>,
    /// The permission or pattern that gives what was asked for.
    pub permission: Option<Permission>,
    /// On which nodes the grant holds; none for the whole fleet.
    pub on: Option<Selector>,
    /// What it comes to.
    pub outcome: Outcome,
}

/// What a grant contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It allows what was asked.
    Allows,
    /// Its role does not give the permission.
    OtherPermission,
    /// Its selector does not match the node.
    OtherNodes,
    /// It holds on some nodes, and the question is about the fleet.
    NotFleetWide,
}

/// Explains whether `principal` has `permission` on `node`, or on the fleet as
/// such; with `key`, by that key.
#[must_use]
pub fn explain(
    fleet: &Fleet,
    principal: PrincipalId,
    key: Option<ApiKeyId>,
    permission: &Permission,
    node: Option<NodeId>,
) -> Explanation {
    let access = fleet.access();
    let decision = match key.map(|key| check_key(access, principal, key, permission)) {
        Some(Err(denial)) => Decision::Denied(denial),
        Some(Ok(())) | None => granted(fleet, principal, permission, node.as_slice()),
    };
    let (allowed, reason) = match decision {
        Decision::Allowed { grants } => {
            let named: Vec<String> = grants.iter().map(ToString::to_string).collect();
            (
                true,
                format!("grant {} gives {permission}", named.join(", ")),
            )
        }
        Decision::Denied(denial) => (false, denial.reason),
    };
    let about = match node {
        Some(id) => About::Node(fleet.node(id).map(AsRef::as_ref)),
        None => About::Fleet,
    };
    let grants = access
        .grants_of(principal)
        .map(|grant| consider(access.roles(), grant, permission, about))
        .collect();
    Explanation {
        allowed,
        reason,
        grants,
    }
}

/// What the question is about; a node may be one that does not exist.
#[derive(Clone, Copy)]
enum About<'a> {
    Fleet,
    Node(Option<&'a Node>),
}

fn consider(
    roles: Roles<'_>,
    grant: &Grant,
    permission: &Permission,
    about: About<'_>,
) -> Considered {
    let source = roles
        .permissions(&grant.role)
        .find(|(_, held)| held.covers(permission));
    let limit = grant.on.as_ref().filter(|selector| !selector.is_every());
    let outcome = match (source, limit, about) {
        (None, _, _) => Outcome::OtherPermission,
        (Some(_), None, _) => Outcome::Allows,
        (Some(_), Some(_), About::Fleet) => Outcome::NotFleetWide,
        (Some(_), Some(selector), About::Node(node)) => {
            if node.is_some_and(|node| selector.matches(node.subject())) {
                Outcome::Allows
            } else {
                Outcome::OtherNodes
            }
        }
    };
    Considered {
        grant: grant.id,
        role: grant.role.clone(),
        path: source.map_or_else(Vec::new, |(holder, _)| path(roles, &grant.role, holder)),
        permission: source.map(|(_, held)| held.clone()),
        on: grant.on.clone(),
        outcome,
    }
}

/// The roles from `from` down to `holder`, by inheritance.
fn path(roles: Roles<'_>, from: &RoleName, holder: &RoleName) -> Vec<RoleName> {
    let lineage = roles.lineage(from);
    let mut path = vec![holder.clone()];
    let mut current = holder;
    while let Some(Some(child)) = lineage.get(current) {
        path.push((*child).clone());
        current = child;
    }
    path.reverse();
    path
}
