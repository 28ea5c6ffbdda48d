//! What happened to principals, roles, grants and API keys.
//!
//! Stored for ever: see [`crate::domain::fleet::event`] for the rules.

use std::collections::BTreeSet;

use protocol::id::{ApiKeyId, PrincipalId};
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::grant::GrantId;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::permission::Permission;
use crate::domain::access::principal::PrincipalKind;
use crate::domain::access::role::RoleName;

/// A person or service account was made known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalCreated {
    /// Its id.
    pub principal: PrincipalId,
    /// What people call it.
    pub name: String,
    /// A person or a program.
    pub kind: PrincipalKind,
}

/// A principal was disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalDisabled {
    /// Which.
    pub principal: PrincipalId,
}

/// A principal was enabled again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalEnabled {
    /// Which.
    pub principal: PrincipalId,
}

/// A role was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCreated {
    /// Its name.
    pub name: RoleName,
    /// What it is for.
    pub description: String,
    /// What it allows by itself.
    pub permissions: BTreeSet<Permission>,
    /// Roles that it inherits from.
    pub inherits: BTreeSet<RoleName>,
}

/// A role got new contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleUpdated {
    /// Which.
    pub name: RoleName,
    /// What it is for.
    pub description: String,
    /// What it allows by itself from here on.
    pub permissions: BTreeSet<Permission>,
    /// Roles that it inherits from, from here on.
    pub inherits: BTreeSet<RoleName>,
}

/// A role was deleted; nothing uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDeleted {
    /// Which.
    pub name: RoleName,
}

/// A role was given to a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantCreated {
    /// The grant's id.
    pub grant: GrantId,
    /// To whom.
    pub principal: PrincipalId,
    /// What.
    pub role: RoleName,
    /// On which nodes; none for the whole fleet.
    pub on: Option<Selector>,
}

/// A grant was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRevoked {
    /// Which.
    pub grant: GrantId,
    /// Whose it was.
    pub principal: PrincipalId,
}

/// A principal got an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCreated {
    /// Its serial.
    pub key: ApiKeyId,
    /// Whose it is.
    pub principal: PrincipalId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// What it may be used for, at most; none for all that its principal may do.
    pub scope: Option<BTreeSet<Permission>>,
    /// What it is for.
    pub note: String,
    /// From when on it is refused.
    pub expires_at: Option<UnixMillis>,
}

/// An API key got a successor. Both count until the old one ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotated {
    /// The old one.
    pub old: ApiKeyId,
    /// When the old one ends.
    pub old_expires_at: UnixMillis,
    /// The new one's serial. It has the old one's principal, scope and note.
    pub new: ApiKeyId,
    /// The digest of the new one's secret.
    pub secret: SecretDigest,
    /// From when on the new one is refused.
    pub expires_at: Option<UnixMillis>,
}

/// An API key was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevoked {
    /// Which.
    pub key: ApiKeyId,
}

/// Someone on the controller's own host made sure that there is an admin. The
/// events of the principal, its grant and its key follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRecovered {
    /// Who is admin.
    pub principal: PrincipalId,
    /// Its name.
    pub name: String,
}
