//! Roles: named sets of permissions that inherit from one another.
//!
//! Six come with the program. They are code, not events, so that an upgrade can
//! extend them and nobody can take `admin` away from itself.
//!
//! **Invariant:** inheritance has no cycle and names roles that exist. What would
//! make one is refused by [`Roles::check`]; expansion visits each role once all the
//! same, so a damaged state cannot loop.

use core::fmt;
use core::str::FromStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use protocol::ErrorCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::access::permission::Permission;
use crate::domain::rejection::Rejection;

/// Roles of a fleet, the built-in ones included. Bounds what `authorize` walks.
pub const ROLES_COUNT_MAX: usize = 256;

/// Permissions of one role, and roles that one inherits from.
pub const ROLE_PARTS_MAX: usize = 128;

/// Bytes of a role's name.
pub const ROLE_NAME_BYTES_MAX: usize = 63;

/// A role's name: lowercase letters, digits and `-`, starting with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName(Arc<str>);

/// A text that is not a role's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("role name {text:?} is not 1 to 63 characters of a-z, 0-9 and -, starting with a letter")]
pub struct ParseRoleNameError {
    text: String,
}

/// A set of permissions with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// What it is for, in a sentence.
    pub description: String,
    /// What it allows by itself.
    pub permissions: BTreeSet<Permission>,
    /// Roles whose permissions it has too.
    pub inherits: BTreeSet<RoleName>,
    /// Whether it came with the program and cannot be changed.
    pub built_in: bool,
}

/// The name of the role that may do everything.
#[must_use]
pub fn admin() -> RoleName {
    RoleName("admin".into())
}

static BUILT_IN: LazyLock<BTreeMap<RoleName, Arc<Role>>> = LazyLock::new(built_in);

/// The roles that come with the program.
fn built_in() -> BTreeMap<RoleName, Arc<Role>> {
    const ROLES: [(&str, &str, &[&str], &[&str]); 6] = [
        (
            "viewer",
            "sees everything, changes nothing",
            &["*:read"],
            &[],
        ),
        (
            "operator",
            "runs commands on nodes, keeps their names and labels, stops rollouts, and silences alerts",
            &[
                "alert:silence",
                "breaker:reset",
                "breaker:trip",
                "command:*",
                "metrics:live",
                "node:cordon",
                "node:drain",
                "node:relabel",
                "node:rename",
                "rollout:abort",
                "rollout:pause",
                "sink:test",
            ],
            &["viewer"],
        ),
        (
            "deployer",
            "deploys and keeps services running: no free choice of programs on the host",
            &[
                "breaker:trip",
                "command:cancel",
                "command:logs",
                "command:ping",
                "command:reload",
                "command:service",
                "command:service_status",
                "deployment:*",
                "image:*",
                "release:*",
                "metrics:live",
                "rollout:*",
                "secret:*",
            ],
            &["viewer"],
        ),
        (
            "security",
            "decides which machines and keys belong, and reads the audit trail",
            &[
                "audit:export",
                "breaker:trip",
                "command:ping",
                "key:revoke",
                "node:approve",
                "node:decommission",
                "node:resolve",
                "node:revoke",
                "principal:disable",
                "release:revoke",
                "token:*",
                "trust:rotate",
            ],
            &["viewer"],
        ),
        ("admin", "everything", &["*:*"], &[]),
        (
            "service",
            "automation: looks at the fleet and pings it",
            &[
                "command:ping",
                "command:read",
                "command:service_status",
                "metrics:read",
                "node:read",
            ],
            &[],
        ),
    ];
    let named = |texts: &[&str]| texts.iter().map(|text| RoleName((*text).into())).collect();
    ROLES
        .into_iter()
        .map(|(name, description, permissions, inherits)| {
            let role = Role {
                name: RoleName(name.into()),
                description: description.to_owned(),
                permissions: permissions
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect(),
                inherits: named(inherits),
                built_in: true,
            };
            (role.name.clone(), Arc::new(role))
        })
        .collect()
}

/// All roles of a fleet: the built-in ones, and its own.
#[derive(Clone, Copy, Debug)]
pub struct Roles<'a> {
    custom: &'a BTreeMap<RoleName, Arc<Role>>,
}

impl<'a> Roles<'a> {
    /// The built-in roles and these.
    #[must_use]
    pub fn with(custom: &'a BTreeMap<RoleName, Arc<Role>>) -> Self {
        Self { custom }
    }

    /// A role by name. No custom role can hide a built-in one.
    #[must_use]
    pub fn get(&self, name: &RoleName) -> Option<&'a Arc<Role>> {
        BUILT_IN.get(name).or_else(|| self.custom.get(name))
    }

    /// Every role: the built-in ones first, each by name.
    pub fn iter(&self) -> impl Iterator<Item = &'a Arc<Role>> + use<'a> {
        BUILT_IN.values().chain(self.custom.values())
    }

    /// The role and every role that it inherits from, each with the role by
    /// which it was first reached.
    #[must_use]
    pub fn lineage(&self, name: &RoleName) -> BTreeMap<&'a RoleName, Option<&'a RoleName>> {
        let mut reached = BTreeMap::new();
        let mut waiting = Vec::new();
        if let Some(role) = self.get(name) {
            reached.insert(&role.name, None);
            waiting.push(role);
        }
        while let Some(role) = waiting.pop() {
            for parent in role.inherits.iter().filter_map(|name| self.get(name)) {
                if !reached.contains_key(&parent.name) {
                    reached.insert(&parent.name, Some(&role.name));
                    waiting.push(parent);
                }
            }
        }
        reached
    }

    /// Every permission that the role gives, by itself or by inheritance, with
    /// the role that it comes from.
    pub fn permissions(
        &self,
        name: &RoleName,
    ) -> impl Iterator<Item = (&'a RoleName, &'a Permission)> + use<'a> {
        let roles = *self;
        self.lineage(name)
            .into_keys()
            .filter_map(move |reached| roles.get(reached))
            .flat_map(|role| role.permissions.iter().map(move |held| (&role.name, held)))
    }

    /// Refuses a role that names unknown permissions or roles, or that would
    /// inherit from itself.
    ///
    /// # Errors
    /// The rejection that says which part is wrong.
    pub fn check(&self, role: &Role) -> Result<(), Rejection> {
        if role.permissions.len() > ROLE_PARTS_MAX || role.inherits.len() > ROLE_PARTS_MAX {
            return Err(Rejection::new(
                ErrorCode::LimitReached,
                format!("role {} has more than {ROLE_PARTS_MAX} parts", role.name),
            ));
        }
        if let Some(unknown) = role.permissions.iter().find(|held| !held.is_known()) {
            return Err(Rejection::new(
                ErrorCode::PermissionInvalid,
                format!("role {} names {unknown}, which nothing asks for", role.name),
            ));
        }
        for parent in &role.inherits {
            if *parent == role.name || self.lineage(parent).contains_key(&role.name) {
                return Err(Rejection::new(
                    ErrorCode::RoleCycle,
                    format!("role {} would inherit from itself by {parent}", role.name),
                ));
            }
            if self.get(parent).is_none() {
                return Err(Rejection::new(
                    ErrorCode::RoleNotFound,
                    format!(
                        "role {} inherits from {parent}, which is no role",
                        role.name
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl RoleName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RoleName {
    type Err = ParseRoleNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() <= ROLE_NAME_BYTES_MAX
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(ParseRoleNameError {
                text: text.chars().take(ROLE_NAME_BYTES_MAX + 1).collect(),
            })
        }
    }
}

impl Serialize for RoleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, permissions: &[&str], inherits: &[&str]) -> Role {
        Role {
            name: name.parse().unwrap(),
            description: String::new(),
            permissions: permissions
                .iter()
                .map(|held| held.parse().unwrap())
                .collect(),
            inherits: inherits.iter().map(|name| name.parse().unwrap()).collect(),
            built_in: false,
        }
    }

    fn custom(roles: &[Role]) -> BTreeMap<RoleName, Arc<Role>> {
        roles
            .iter()
            .map(|role| (role.name.clone(), Arc::new(role.clone())))
            .collect()
    }

    #[test]
    fn the_six_roles_are_whole_and_pass_their_own_check() {
        let none = custom(&[]);
        let roles = Roles::with(&none);
        assert_eq!(roles.iter().count(), 6);
        for role in roles.iter() {
            roles.check(role).unwrap();
            assert!(!role.permissions.is_empty());
        }
        // A text that does not parse would have been left out in silence.
        let parts: usize = roles.iter().map(|role| role.permissions.len()).sum();
        assert_eq!(parts, 1 + 10 + 13 + 14 + 1 + 5);
    }

    #[test]
    fn a_cycle_is_refused_at_any_length() {
        let own = custom(&[
            role("a", &[], &["b"]),
            role("b", &[], &["c"]),
            role("c", &[], &["viewer"]),
        ]);
        let roles = Roles::with(&own);
        for (name, parent) in [("c", "a"), ("c", "b"), ("b", "a"), ("c", "c")] {
            let refused = roles.check(&role(name, &[], &[parent])).unwrap_err();
            assert_eq!(refused.code, ErrorCode::RoleCycle, "{name} {parent}");
        }
        roles.check(&role("d", &[], &["a", "b", "c"])).unwrap();
    }

    #[test]
    fn a_role_inherits_through_all_generations() {
        let own = custom(&[
            role("a", &["token:read"], &["b"]),
            role("b", &[], &["operator"]),
        ]);
        let roles = Roles::with(&own);
        let name: RoleName = "a".parse().unwrap();
        let held: BTreeSet<String> = roles
            .permissions(&name)
            .map(|(_, held)| held.to_string())
            .collect();
        for expected in ["token:read", "command:*", "*:read"] {
            assert!(held.contains(expected), "{expected} in {held:?}");
        }
    }

    #[test]
    fn unknown_parts_are_refused_by_name() {
        let none = custom(&[]);
        let roles = Roles::with(&none);
        let refused = roles.check(&role("a", &["command:rnu"], &[])).unwrap_err();
        assert_eq!(refused.code, ErrorCode::PermissionInvalid);
        assert!(refused.detail.contains("command:rnu"), "{refused}");
        let refused = roles.check(&role("a", &[], &["nobody"])).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RoleNotFound);
        assert!(refused.detail.contains("nobody"), "{refused}");
    }

    #[test]
    fn too_many_parts_are_refused() {
        let many = Role {
            inherits: (0..=ROLE_PARTS_MAX)
                .map(|n| format!("r{n}").parse().unwrap())
                .collect(),
            ..role("a", &[], &[])
        };
        let none = custom(&[]);
        let refused = Roles::with(&none).check(&many).unwrap_err();
        assert_eq!(refused.code, ErrorCode::LimitReached);
    }

    #[test]
    fn names_of_another_shape_are_refused() {
        for text in ["", "1a", "-a", "A", "a_b", "a b"] {
            assert!(text.parse::<RoleName>().is_err(), "{text}");
        }
        assert!("a".repeat(64).parse::<RoleName>().is_err());
        assert!("lyon-2".parse::<RoleName>().is_ok());
    }
}
