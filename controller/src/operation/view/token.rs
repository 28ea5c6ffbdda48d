//! Join tokens.

use std::collections::BTreeMap;

use protocol::id::{NodeId, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// What a token should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Labels that its nodes get.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Seconds that it works.
    pub expires_s: u64,
    /// How many nodes may join with it.
    pub uses: u32,
    /// Whether its nodes wait for approval.
    #[serde(default)]
    pub approve: bool,
    /// Id or name of the node whose name, labels and duties its node takes over.
    #[serde(default)]
    pub replaces: Option<String>,
}

/// A token as it is made: the only time that its text is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    /// The token as listed.
    pub token: TokenView,
    /// The text to join with.
    pub text: String,
}

impl std::fmt::Debug for TokenMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenMade")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Serial.
    #[schema(value_type = String)]
    pub id: TokenId,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// `live`, `expired`, `exhausted` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created_at: Stamp,
    /// Until when it works.
    pub expires_at: Stamp,
    /// How many nodes may join with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Whether its nodes wait for approval.
    pub approve: bool,
    /// The node that its node replaces.
    #[schema(value_type = Option<String>)]
    pub replaces: Option<NodeId>,
}

/// A list of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The tokens, newest first.
    pub tokens: Vec<TokenView>,
}
