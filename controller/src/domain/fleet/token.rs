//! Join tokens: what lets a machine into the fleet.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{NodeId, TokenId};
use protocol::label::Labels;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::key::SecretDigest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{TokenCreated, TokenRevoked};
use crate::domain::moment::Moment;
use crate::domain::rejection::Rejection;

/// Join tokens that can still be used.
pub const TOKENS_OPEN_MAX: usize = 1_000;

/// Tokens kept, spent ones included; beyond, the oldest spent one is forgotten.
pub const TOKENS_COUNT_MAX: usize = 5_000;

/// The longest life of a token: one that lies in a golden image for a year.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The most nodes that may join by one token.
pub const TOKEN_USES_MAX: u32 = 100_000;

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its serial, which is no secret.
    pub id: TokenId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// Labels of the nodes that join by it.
    pub labels: Labels,
    /// When it was made.
    pub created_at: UnixMillis,
    /// From when on it is refused.
    pub expires_at: UnixMillis,
    /// How many nodes may join by it.
    pub uses_max: u32,
    /// How many did.
    pub uses: u32,
    /// Whether an operator must approve them.
    pub approval: Approval,
    /// The node whose name, labels and duties the joining one takes over.
    pub replaces: Option<NodeId>,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
}

/// Whether an operator must let a joining node in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// The token is enough.
    Automatic,
    /// It waits until an operator approves it.
    Required,
}

/// Make a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// Labels of the nodes that join by it.
    pub labels: Labels,
    /// How long it may be used.
    pub lifetime: Duration,
    /// How many nodes may join by it.
    pub uses_max: u32,
    /// Whether an operator must approve them.
    pub approval: Approval,
    /// The node whose name, labels and duties the joining one takes over. Its
    /// labels come on top of the token's.
    pub replaces: Option<NodeId>,
}

/// Make a join token useless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeToken {
    /// Which.
    pub token: TokenId,
}

impl Token {
    /// Whether a node can join by it at `now`.
    #[must_use]
    pub fn is_open(&self, now: UnixMillis) -> bool {
        self.revoked_at.is_none() && now < self.expires_at && self.uses < self.uses_max
    }

    /// Refuses a token that is spent.
    pub(crate) fn check(&self, now: UnixMillis) -> Result<(), Rejection> {
        let id = self.id;
        if self.revoked_at.is_some() {
            return Err(Rejection::new(
                ErrorCode::TokenRevoked,
                format!("join token {id} was revoked"),
            ));
        }
        if now >= self.expires_at {
            return Err(Rejection::new(
                ErrorCode::TokenExpired,
                format!("join token {id} expired at {}", self.expires_at),
            ));
        }
        if self.uses >= self.uses_max {
            return Err(Rejection::new(
                ErrorCode::TokenExhausted,
                format!("join token {id} was used {} times", self.uses),
            ));
        }
        Ok(())
    }
}

pub(crate) fn create(
    fleet: &Fleet,
    asked: &CreateToken,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    if asked.lifetime.is_zero() || asked.lifetime > TOKEN_LIFETIME_MAX {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "lifetime of a join token is {} s; give 1 to {}",
                asked.lifetime.as_secs(),
                TOKEN_LIFETIME_MAX.as_secs()
            ),
        ));
    }
    if !(1..=TOKEN_USES_MAX).contains(&asked.uses_max) {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "uses of a join token are {}; give 1 to {TOKEN_USES_MAX}",
                asked.uses_max
            ),
        ));
    }
    if let Some(old) = asked.replaces {
        let node = fleet.existing(old)?;
        if node.has_left() {
            return Err(Rejection::new(
                ErrorCode::NodeNotActive,
                format!("node {old} has left the fleet and cannot be replaced"),
            ));
        }
        if asked.uses_max != 1 {
            return Err(Rejection::new(
                ErrorCode::RequestInvalid,
                format!("a join token that replaces node {old} has one use"),
            ));
        }
    }
    if fleet.tokens().filter(|token| token.is_open(at.now)).count() >= TOKENS_OPEN_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {TOKENS_OPEN_MAX} open join tokens; revoke some"),
        ));
    }
    Ok(vec![Event::TokenCreated(TokenCreated {
        token: at.ids.id(0),
        secret: asked.secret,
        labels: asked.labels.clone(),
        expires_at: at.now.after(asked.lifetime),
        uses_max: asked.uses_max,
        approval: asked.approval,
        replaces: asked.replaces,
    })])
}

pub(crate) fn revoke(fleet: &Fleet, asked: &RevokeToken) -> Result<Vec<Event>, Rejection> {
    let token = fleet.token(asked.token).ok_or_else(|| {
        Rejection::new(
            ErrorCode::TokenNotFound,
            format!("there is no join token {}", asked.token),
        )
    })?;
    if token.revoked_at.is_some() {
        return Err(Rejection::new(
            ErrorCode::TokenRevoked,
            format!("join token {} was revoked before", asked.token),
        ));
    }
    Ok(vec![Event::TokenRevoked(TokenRevoked {
        token: asked.token,
    })])
}
