//! Join tokens.

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::TokenId;
use protocol::join::JoinToken;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use super::view::token::{CreateToken, TokenList, TokenMade, TokenView};
use super::{Operations, Who, find_node, shown_already, unexpected};
use crate::clock;
use crate::domain::access::key::SecretDigest;
use crate::domain::event::Event;
use crate::domain::fleet::token as domain;
use crate::domain::fleet::token::{Approval, Token};
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;

impl Operations {
    /// Makes a join token.
    ///
    /// # Errors
    /// When it is denied or a value is out of bounds.
    pub async fn create_token(&self, who: &Who, asked: CreateToken) -> Result<TokenMade, Failure> {
        let replaces = match &asked.replaces {
            Some(node) => Some(find_node(&self.engine.fleet(), node)?.id),
            None => None,
        };
        let labels = Labels::from_pairs(asked.labels)
            .map_err(|error| Failure::new(error.code(), error.to_string()))?;
        let secret = self.secret()?;
        let operation = Operation::CreateToken(domain::CreateToken {
            secret: SecretDigest::of(&secret),
            labels,
            lifetime: Duration::from_secs(asked.expires_s),
            uses_max: asked.uses,
            approval: if asked.approve {
                Approval::Required
            } else {
                Approval::Automatic
            },
            replaces,
        });
        let applied = self.submit(who, operation).await?;
        if applied.replayed {
            return Err(shown_already("token"));
        }
        let id = applied
            .events
            .iter()
            .find_map(|event| {
                if let Event::TokenCreated(created) = event {
                    Some(created.token)
                } else {
                    None
                }
            })
            .ok_or_else(|| unexpected(&applied.events))?;
        let text = JoinToken {
            address: self.about.address.clone(),
            authority: self.about.pki.authority_fingerprint(),
            id,
            secret,
        };
        Ok(TokenMade {
            token: self.token_view(id)?,
            text: text.to_string(),
        })
    }

    /// Join tokens, newest first, without their secrets.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_tokens(&self, who: &Who) -> Result<TokenList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("token", "read"), &[])?;
        let now = clock::now();
        let mut tokens: Vec<_> = fleet.tokens().map(|token| view(token, now)).collect();
        tokens.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        Ok(TokenList { tokens })
    }

    /// Makes a token useless.
    ///
    /// # Errors
    /// When it is denied or there is no such token.
    pub async fn revoke_token(&self, who: &Who, token: TokenId) -> Result<TokenView, Failure> {
        let operation = Operation::RevokeToken(domain::RevokeToken { token });
        self.submit(who, operation).await?;
        self.token_view(token)
    }

    fn token_view(&self, id: TokenId) -> Result<TokenView, Failure> {
        let fleet = self.engine.fleet();
        let token = fleet.token(id).ok_or_else(|| {
            Failure::new(ErrorCode::TokenNotFound, format!("there is no token {id}"))
        })?;
        Ok(view(token, clock::now()))
    }
}

fn view(token: &Arc<Token>, now: UnixMillis) -> TokenView {
    let state = if token.revoked_at.is_some() {
        "revoked"
    } else if token.uses >= token.uses_max {
        "exhausted"
    } else if now >= token.expires_at {
        "expired"
    } else {
        "live"
    };
    TokenView {
        id: token.id,
        labels: super::node::pairs(&token.labels),
        state: state.to_owned(),
        created_at: token.created_at.into(),
        expires_at: token.expires_at.into(),
        uses: token.uses_max,
        used: token.uses,
        approve: token.approval == Approval::Required,
        replaces: token.replaces,
    }
}
