//! What may be done: `resource:action`, with a wildcard on either side.
//!
//! The catalogue below is the whole vocabulary. A role that names anything else
//! is refused when it is made, because a misspelt permission would otherwise be
//! a role that silently allows less than it seems to.

use core::fmt;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Every permission that something asks for, without wildcards, sorted.
pub const CATALOGUE: &[(&str, &str)] = &[
    ("access", "read"),
    ("alert", "manage"),
    ("alert", "read"),
    ("alert", "silence"),
    ("audit", "export"),
    ("audit", "read"),
    ("backup", "create"),
    ("breaker", "manage"),
    ("breaker", "override"),
    ("breaker", "read"),
    ("breaker", "reset"),
    ("breaker", "trip"),
    ("command", "cancel"),
    ("command", "logs"),
    ("command", "ping"),
    ("command", "read"),
    ("command", "reload"),
    ("command", "run"),
    ("command", "service"),
    ("command", "service_status"),
    ("controller", "read"),
    ("controller", "support"),
    ("deployment", "apply"),
    ("deployment", "read"),
    ("deployment", "remove"),
    ("grant", "create"),
    ("grant", "revoke"),
    ("image", "push"),
    ("image", "read"),
    ("image", "remove"),
    ("key", "create"),
    ("key", "revoke"),
    ("key", "rotate"),
    ("metrics", "live"),
    ("metrics", "read"),
    ("node", "approve"),
    ("node", "cordon"),
    ("node", "decommission"),
    ("node", "drain"),
    ("node", "read"),
    ("node", "relabel"),
    ("node", "rename"),
    ("node", "replace"),
    ("node", "resolve"),
    ("node", "revoke"),
    ("notice", "read"),
    ("principal", "create"),
    ("principal", "disable"),
    ("principal", "enable"),
    ("release", "add"),
    ("release", "read"),
    ("release", "remove"),
    ("release", "revoke"),
    ("role", "create"),
    ("role", "delete"),
    ("role", "update"),
    ("rollout", "abort"),
    ("rollout", "approve"),
    ("rollout", "pause"),
    ("rollout", "read"),
    ("rollout", "resume"),
    ("secret", "read"),
    ("secret", "remove"),
    ("secret", "set"),
    ("sink", "read"),
    ("sink", "remove"),
    ("sink", "set"),
    ("sink", "test"),
    ("token", "create"),
    ("token", "read"),
    ("token", "revoke"),
    ("trust", "read"),
    ("trust", "rotate"),
    ("window", "bypass"),
    ("window", "manage"),
    ("window", "override"),
    ("window", "read"),
];

/// A permission or a pattern of permissions: either side may be `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission {
    resource: Side,
    action: Side,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Any,
    Only(Box<str>),
}

/// A text that is not a permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("permission {text:?} is not RESOURCE:ACTION of a-z and _, or * on either side")]
pub struct ParsePermissionError {
    text: String,
}

const SIDE_BYTES_MAX: usize = 32;

impl Permission {
    /// The permission `resource:action` of the catalogue; both parts are
    /// constants of this program.
    #[must_use]
    pub fn of(resource: &'static str, action: &'static str) -> Self {
        Self {
            resource: Side::Only(resource.into()),
            action: Side::Only(action.into()),
        }
    }

    /// Everything.
    #[must_use]
    pub fn any() -> Self {
        Self {
            resource: Side::Any,
            action: Side::Any,
        }
    }

    /// Whether whoever holds `self` also holds `other`, which may itself be a
    /// pattern.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.resource.covers(&other.resource) && self.action.covers(&other.action)
    }

    /// Whether the pattern matches anything that exists.
    #[must_use]
    pub fn is_known(&self) -> bool {
        CATALOGUE.iter().any(|(resource, action)| {
            self.resource.matches(resource) && self.action.matches(action)
        })
    }

    /// What holding both patterns at once comes to: the intersection, if any.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Option<Self> {
        Some(Self {
            resource: self.resource.meet(&other.resource)?,
            action: self.action.meet(&other.action)?,
        })
    }
}

impl Side {
    fn covers(&self, other: &Self) -> bool {
        matches!(self, Self::Any) || self == other
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(own) => &**own == text,
        }
    }

    fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, side) | (side, Self::Any) => Some(side.clone()),
            (mine, theirs) => (mine == theirs).then(|| mine.clone()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let well_formed = !text.is_empty()
            && text.len() <= SIDE_BYTES_MAX
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        well_formed.then(|| Self::Only(text.into()))
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Any => "*",
            Self::Only(text) => text,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.resource.as_str(), self.action.as_str())
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Permission {
    type Err = ParsePermissionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (resource, action) = text.split_once(':')?;
            Some(Self {
                resource: Side::parse(resource)?,
                action: Side::parse(action)?,
            })
        };
        parse().ok_or_else(|| ParsePermissionError {
            text: text.chars().take(SIDE_BYTES_MAX * 2 + 1).collect(),
        })
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(text: &str) -> Permission {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_covers_its_side() {
        for (held, asked, covers) in [
            ("command:run", "command:run", true),
            ("command:run", "command:ping", false),
            ("command:*", "command:run", true),
            ("command:*", "node:run", false),
            ("*:read", "audit:read", true),
            ("*:read", "audit:export", false),
            ("*:*", "anything:at_all", true),
            ("*:*", "*:*", true),
            ("command:*", "*:*", false),
            ("*:read", "*:*", false),
            ("command:run", "command:*", false),
            ("command:run", "*:run", false),
        ] {
            assert_eq!(
                permission(held).covers(&permission(asked)),
                covers,
                "{held} over {asked}"
            );
        }
    }

    #[test]
    fn the_meet_of_two_patterns_is_what_both_allow() {
        for (one, other, both) in [
            ("*:read", "node:*", Some("node:read")),
            ("*:*", "node:*", Some("node:*")),
            ("node:read", "node:revoke", None),
            ("node:*", "token:*", None),
        ] {
            assert_eq!(
                permission(one).meet(&permission(other)),
                both.map(permission),
                "{one} and {other}"
            );
        }
    }

    #[test]
    fn a_text_of_another_shape_is_refused() {
        for text in [
            "", ":", "a:", ":a", "a", "a:b:c", "A:b", "a b:c", "**:a", "a:b*",
        ] {
            assert!(text.parse::<Permission>().is_err(), "{text}");
        }
        assert!(
            format!("{}:a", "x".repeat(33))
                .parse::<Permission>()
                .is_err()
        );
    }

    #[test]
    fn a_misspelt_permission_is_not_known() {
        assert!(permission("command:*").is_known());
        assert!(permission("*:read").is_known());
        assert!(!permission("comand:run").is_known());
        assert!(!permission("command:rnu").is_known());
        assert!(!permission("token:run").is_known());
    }

    #[test]
    fn the_catalogue_is_sorted_and_reads_back() {
        assert!(CATALOGUE.is_sorted());
        for (resource, action) in CATALOGUE {
            let made = Permission::of(resource, action);
            assert_eq!(permission(&made.to_string()), made);
        }
    }
}
