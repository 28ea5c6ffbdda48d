//! Who may do what in the fleet.
//!
//! Owns principals, their API keys, roles and grants, and the one place that
//! authorises: [`authorize`]. Every face of the controller asks it, and so does
//! the engine for each request that changes something.
//!
//! **Invariant:** what is not granted is denied; a disabled principal, a key out
//! of scope and a grant that does not cover every node each deny by themselves;
//! nobody can give what they do not hold ([`manage`]).

pub mod authorize;
pub mod caller;
pub mod event;
pub mod explain;
pub mod grant;
pub mod key;
pub mod manage;
pub mod permission;
pub mod principal;
pub mod role;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, PrincipalId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use caller::Caller;
use grant::{Grant, GrantId};
use key::{ApiKey, SecretDigest};
use principal::Principal;
use role::{Role, RoleName, Roles};

use crate::domain::access::event::{
    GrantCreated, KeyCreated, KeyRotated, PrincipalCreated, RoleCreated, RoleUpdated,
};
use crate::domain::audit::record::Record;
use crate::domain::event::Event;
use crate::domain::rejection::Rejection;

/// Revoked and expired keys of one principal that are remembered, so that their
/// owner can see what became of them.
const DEAD_KEYS_PER_PRINCIPAL_MAX: usize = 32;

/// The access part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    principals: BTreeMap<PrincipalId, Arc<Principal>>,
    names: BTreeMap<String, PrincipalId>,
    /// Roles that the fleet made for itself. The built-in ones are code.
    custom: BTreeMap<RoleName, Arc<Role>>,
    grants: BTreeMap<GrantId, Arc<Grant>>,
    keys: BTreeMap<ApiKeyId, Arc<ApiKey>>,
}

impl Access {
    /// A principal by id.
    #[must_use]
    pub fn principal(&self, id: PrincipalId) -> Option<&Arc<Principal>> {
        self.principals.get(&id)
    }

    /// A principal by name.
    #[must_use]
    pub fn principal_named(&self, name: &str) -> Option<&Arc<Principal>> {
        self.principals.get(self.names.get(name)?)
    }

    /// Every principal, by id.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.principals.values()
    }

    /// Every role, the built-in ones included.
    #[must_use]
    pub fn roles(&self) -> Roles<'_> {
        Roles::with(&self.custom)
    }

    /// Every grant, by id.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.values()
    }

    /// A grant by id.
    #[must_use]
    pub fn grant(&self, id: GrantId) -> Option<&Arc<Grant>> {
        self.grants.get(&id)
    }

    /// The grants of one principal.
    pub fn grants_of(&self, principal: PrincipalId) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants
            .values()
            .filter(move |grant| grant.principal == principal)
    }

    /// An API key by serial.
    #[must_use]
    pub fn key(&self, id: ApiKeyId) -> Option<&Arc<ApiKey>> {
        self.keys.get(&id)
    }

    /// Every API key, by serial.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.keys.values()
    }

    /// A caller's name, for a person: a principal's, or what kind of caller it is.
    #[must_use]
    pub fn name_of(&self, caller: &Caller) -> String {
        match caller {
            Caller::Principal { id, .. } => self
                .principals
                .get(id)
                .map_or_else(|| id.to_string(), |principal| principal.name.clone()),
            Caller::Host => "host".to_owned(),
            Caller::Node(node) => node.to_string(),
            Caller::System | Caller::Anonymous => "controller".to_owned(),
        }
    }

    /// Who shows this secret at `now`.
    ///
    /// # Errors
    /// One code for a key that does not exist and for a wrong secret, so that
    /// serials cannot be probed; to whoever knows the secret, the reason why it
    /// does not count.
    pub fn authenticate(
        &self,
        id: ApiKeyId,
        secret: &SecretDigest,
        now: UnixMillis,
    ) -> Result<Caller, Rejection> {
        let key = self
            .keys
            .get(&id)
            .filter(|key| key.secret.matches(secret))
            .ok_or_else(|| {
                Rejection::new(ErrorCode::KeyInvalid, "API key is not one of this fleet")
            })?;
        if key.revoked_at.is_some() {
            return Err(Rejection::new(
                ErrorCode::KeyRevoked,
                format!("API key {id} was revoked"),
            ));
        }
        if !key.is_live(now) {
            return Err(Rejection::new(
                ErrorCode::KeyExpired,
                format!("API key {id} has expired"),
            ));
        }
        let disabled = self
            .principals
            .get(&key.principal)
            .is_none_or(|principal| principal.disabled_at.is_some());
        if disabled {
            return Err(Rejection::new(
                ErrorCode::PrincipalDisabled,
                format!("principal {} is disabled", key.principal),
            ));
        }
        Ok(Caller::Principal {
            id: key.principal,
            key: id,
        })
    }

    /// Takes a record about access into the state; any other changes nothing.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the fleet's own `apply` names every event, and sends here those of access"
    )]
    pub(crate) fn apply(&mut self, record: &Record) {
        let at = record.at;
        match &record.event {
            Event::PrincipalCreated(event) => self.add_principal(event, at),
            Event::PrincipalDisabled(event) => {
                self.change_principal(event.principal, |principal| {
                    principal.disabled_at = Some(at);
                });
            }
            Event::PrincipalEnabled(event) => {
                self.change_principal(event.principal, |principal| principal.disabled_at = None);
            }
            Event::RoleCreated(RoleCreated {
                name,
                description,
                permissions,
                inherits,
            })
            | Event::RoleUpdated(RoleUpdated {
                name,
                description,
                permissions,
                inherits,
            }) => {
                let role = Role {
                    name: name.clone(),
                    description: description.clone(),
                    permissions: permissions.clone(),
                    inherits: inherits.clone(),
                    built_in: false,
                };
                self.custom.insert(name.clone(), Arc::new(role));
            }
            Event::RoleDeleted(event) => {
                self.custom.remove(&event.name);
            }
            Event::GrantCreated(event) => self.add_grant(event, at),
            Event::GrantRevoked(event) => {
                self.grants.remove(&event.grant);
            }
            Event::KeyCreated(event) => self.add_key(event, at),
            Event::KeyRotated(event) => self.rotate(event, at),
            Event::KeyRevoked(event) => {
                if let Some(key) = self.keys.get_mut(&event.key) {
                    Arc::make_mut(key).revoked_at = Some(at);
                }
            }
            _ => {}
        }
    }

    fn add_principal(&mut self, event: &PrincipalCreated, at: UnixMillis) {
        let principal = Principal {
            id: event.principal,
            name: event.name.clone(),
            kind: event.kind,
            created_at: at,
            disabled_at: None,
        };
        self.names.insert(event.name.clone(), event.principal);
        self.principals.insert(event.principal, Arc::new(principal));
    }

    fn add_grant(&mut self, event: &GrantCreated, at: UnixMillis) {
        let grant = Grant {
            id: event.grant,
            principal: event.principal,
            role: event.role.clone(),
            on: event.on.clone(),
            created_at: at,
        };
        self.grants.insert(event.grant, Arc::new(grant));
    }

    fn add_key(&mut self, event: &KeyCreated, at: UnixMillis) {
        let key = ApiKey {
            id: event.key,
            principal: event.principal,
            secret: event.secret,
            scope: event.scope.clone(),
            note: event.note.clone(),
            created_at: at,
            expires_at: event.expires_at,
            revoked_at: None,
            rotated_to: None,
        };
        self.keys.insert(event.key, Arc::new(key));
        self.forget_dead_keys(event.principal, at);
    }

    fn rotate(&mut self, event: &KeyRotated, at: UnixMillis) {
        let Some(old) = self.keys.get_mut(&event.old) else {
            return;
        };
        let old = Arc::make_mut(old);
        old.expires_at = Some(event.old_expires_at);
        old.rotated_to = Some(event.new);
        let new = ApiKey {
            id: event.new,
            secret: event.secret,
            created_at: at,
            expires_at: event.expires_at,
            rotated_to: None,
            ..old.clone()
        };
        let principal = new.principal;
        self.keys.insert(event.new, Arc::new(new));
        self.forget_dead_keys(principal, at);
    }

    fn change_principal(&mut self, id: PrincipalId, change: impl FnOnce(&mut Principal)) {
        if let Some(principal) = self.principals.get_mut(&id) {
            change(Arc::make_mut(principal));
        }
    }

    /// Keeps the keys of a principal within their bound by forgetting the oldest
    /// that open nothing any more; live ones are bounded by themselves.
    fn forget_dead_keys(&mut self, principal: PrincipalId, now: UnixMillis) {
        let mut dead: Vec<(UnixMillis, ApiKeyId)> = self
            .keys
            .values()
            .filter(|key| key.principal == principal && !key.is_live(now))
            .map(|key| (key.created_at, key.id))
            .collect();
        dead.sort_unstable();
        let surplus = dead.len().saturating_sub(DEAD_KEYS_PER_PRINCIPAL_MAX);
        for (_, id) in dead.into_iter().take(surplus) {
            self.keys.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests;
