//! Roles, principals, grants and keys.

use protocol::id::{ApiKeyId, PrincipalId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;
use crate::domain::access::grant::GrantId;

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleView {
    /// Name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its own permissions.
    pub permissions: Vec<String>,
    /// Roles whose permissions it has too.
    pub inherits: Vec<String>,
    /// Whether it comes with the program and cannot be changed.
    pub built_in: bool,
}

/// All roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleList {
    /// The roles, by name.
    pub roles: Vec<RoleView>,
}

/// What a role should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// `resource:action`, with `*` on either side.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// Roles to inherit from.
    #[serde(default)]
    pub inherits: Vec<String>,
}

/// A principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrincipalView {
    /// Id, never reused.
    #[schema(value_type = String)]
    pub id: PrincipalId,
    /// Name.
    pub name: String,
    /// `person` or `service`.
    pub kind: String,
    /// Roles, each with the selector that limits it.
    pub grants: Vec<GrantView>,
    /// Keys that work.
    pub live_keys: u32,
    /// When it was made.
    pub created_at: Stamp,
    /// When it was disabled, if it was.
    pub disabled_at: Option<Stamp>,
}

/// All principals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrincipalList {
    /// The principals, by name.
    pub principals: Vec<PrincipalView>,
}

/// A new principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPrincipal {
    /// Name.
    pub name: String,
    /// `person` or `service`.
    #[serde(default)]
    pub kind: Kind,
}

/// Kinds of principal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A person.
    #[default]
    Person,
    /// A service account.
    Service,
}

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantView {
    /// Id.
    #[schema(value_type = String)]
    pub id: GrantId,
    /// Whom it is for.
    #[schema(value_type = String)]
    pub principal: PrincipalId,
    /// Their name.
    pub principal_name: String,
    /// The role given.
    pub role: String,
    /// Selector that limits it; every node without it.
    pub on: Option<String>,
    /// When it was given.
    pub created_at: Stamp,
}

/// All grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantList {
    /// The grants, by principal.
    pub grants: Vec<GrantView>,
}

/// A new grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddGrant {
    /// Id or name of the principal.
    pub principal: String,
    /// The role.
    pub role: String,
    /// Only on nodes that this selector matches.
    #[serde(default)]
    pub on: Option<String>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Serial.
    #[schema(value_type = String)]
    pub id: ApiKeyId,
    /// Whose it is.
    #[schema(value_type = String)]
    pub principal: PrincipalId,
    /// Their name.
    pub principal_name: String,
    /// Permissions that limit it; all of the principal's without it.
    pub scope: Option<Vec<String>>,
    /// `live`, `expired` or `revoked`.
    pub state: String,
    /// What it is for.
    pub note: String,
    /// When it was made.
    pub created_at: Stamp,
    /// Until when it works.
    pub expires_at: Option<Stamp>,
    /// When it was last used, since this controller started.
    pub last_used_at: Option<Stamp>,
    /// The key that replaces it.
    #[schema(value_type = Option<String>)]
    pub rotated_to: Option<ApiKeyId>,
}

/// All keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    /// The keys, newest first.
    pub keys: Vec<KeyView>,
}

/// A new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Id or name of the principal.
    pub principal: String,
    /// Seconds that it works; without an end when absent.
    #[serde(default)]
    pub expires_s: Option<u64>,
    /// Permissions that limit it.
    #[serde(default)]
    pub scope: Option<Vec<String>>,
    /// What it is for.
    #[serde(default)]
    pub note: String,
}

/// How a key is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Seconds that the old key still works.
    pub overlap_s: u64,
}

/// A key as it is made: the only time that its text is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyMade {
    /// The key as listed.
    pub key: KeyView,
    /// The text to authenticate with.
    pub text: String,
}

impl std::fmt::Debug for KeyMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyMade")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What to explain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Explain {
    /// Id or name of the principal.
    pub principal: String,
    /// `resource:action`.
    pub permission: String,
    /// Id or name of a node; about the fleet without it.
    pub node: Option<String>,
}

/// Why a principal may or may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplanationView {
    /// Whether it may.
    pub allowed: bool,
    /// The grant that decides, or what is missing.
    pub reason: String,
    /// Every grant of the principal, and what it contributes.
    pub grants: Vec<ConsideredView>,
}

/// One grant that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsideredView {
    /// The grant.
    #[schema(value_type = String)]
    pub grant: GrantId,
    /// Its role.
    pub role: String,
    /// From the role to the one that holds the permission.
    pub path: Vec<String>,
    /// The permission that covers the one asked for.
    pub permission: Option<String>,
    /// Selector that limits the grant.
    pub on: Option<String>,
    /// `allows`, `other_permission`, `other_nodes` or `not_fleet_wide`.
    pub outcome: String,
}

/// Who the key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// The principal.
    pub principal: PrincipalView,
    /// The key.
    pub key: KeyView,
}
