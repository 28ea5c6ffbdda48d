//! Roles, principals, grants and keys.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, PrincipalId};
use protocol::time::UnixMillis;

use super::view::access::{
    AddGrant, AddPrincipal, ConsideredView, CreateKey, Explain, ExplanationView, GrantList,
    GrantView, KeyList, KeyMade, KeyView, Kind, PrincipalList, PrincipalView, RoleList, RoleView,
    RotateKey, SetRole, Whoami,
};
use super::{Operations, Who, find_node, find_selector, shown_already, unexpected};
use crate::clock;
use crate::domain::access::Access;
use crate::domain::access::explain::{Considered, Outcome, explain};
use crate::domain::access::grant::{Grant, GrantId};
use crate::domain::access::key::{ApiKey, ApiKeyText, SecretDigest};
use crate::domain::access::manage;
use crate::domain::access::permission::Permission;
use crate::domain::access::principal::{Principal, PrincipalKind};
use crate::domain::access::role::{Role, RoleName};
use crate::domain::event::Event;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;

impl Operations {
    /// All roles, by name.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_roles(&self, who: &Who) -> Result<RoleList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("access", "read"), &[])?;
        let roles = fleet.access().roles();
        Ok(RoleList {
            roles: roles.iter().map(|role| role_view(role)).collect(),
        })
    }

    /// Makes or changes a role.
    ///
    /// # Errors
    /// When it is denied, names something unknown, or would make a cycle.
    pub async fn set_role(
        &self,
        who: &Who,
        name: &str,
        asked: SetRole,
    ) -> Result<RoleView, Failure> {
        let name = role_name(name)?;
        let permissions = permissions(&asked.permissions)?;
        let inherits = asked
            .inherits
            .iter()
            .map(|name| role_name(name))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let exists = self.engine.fleet().access().roles().get(&name).is_some();
        let description = asked.description;
        let operation = if exists {
            Operation::UpdateRole(manage::UpdateRole {
                name: name.clone(),
                description,
                permissions,
                inherits,
            })
        } else {
            Operation::CreateRole(manage::CreateRole {
                name: name.clone(),
                description,
                permissions,
                inherits,
            })
        };
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        let role = fleet
            .access()
            .roles()
            .get(&name)
            .map(|role| role_view(role));
        role.ok_or_else(|| no_role(&name))
    }

    /// Removes a role that nobody has.
    ///
    /// # Errors
    /// When it is denied, is built in, or is in use.
    pub async fn remove_role(&self, who: &Who, name: &str) -> Result<RoleView, Failure> {
        let name = role_name(name)?;
        let fleet = self.engine.fleet();
        let role = fleet
            .access()
            .roles()
            .get(&name)
            .map(|role| role_view(role));
        let operation = Operation::DeleteRole(manage::DeleteRole { name: name.clone() });
        self.submit(who, operation).await?;
        role.ok_or_else(|| no_role(&name))
    }

    /// All principals, by name.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_principals(&self, who: &Who) -> Result<PrincipalList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("access", "read"), &[])?;
        let access = fleet.access();
        let now = clock::now();
        let mut principals: Vec<_> = access
            .principals()
            .map(|principal| principal_view(access, principal, now))
            .collect();
        principals.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(PrincipalList { principals })
    }

    /// Adds a person or a service account.
    ///
    /// # Errors
    /// When it is denied or the name is taken.
    pub async fn add_principal(
        &self,
        who: &Who,
        asked: AddPrincipal,
    ) -> Result<PrincipalView, Failure> {
        let operation = Operation::CreatePrincipal(manage::CreatePrincipal {
            name: asked.name,
            kind: match asked.kind {
                Kind::Person => PrincipalKind::Person,
                Kind::Service => PrincipalKind::Service,
            },
        });
        let applied = self.submit(who, operation).await?;
        let id = applied
            .events
            .iter()
            .find_map(|event| {
                if let Event::PrincipalCreated(created) = event {
                    Some(created.principal)
                } else {
                    None
                }
            })
            .ok_or_else(|| unexpected(&applied.events))?;
        self.principal_view(id)
    }

    /// Takes every permission from a principal.
    ///
    /// # Errors
    /// When it is denied, or would leave no administrator.
    pub async fn disable_principal(
        &self,
        who: &Who,
        principal: &str,
    ) -> Result<PrincipalView, Failure> {
        let principal = find_principal(self.engine.fleet().access(), principal)?.id;
        let operation = Operation::DisablePrincipal(manage::DisablePrincipal { principal });
        self.submit(who, operation).await?;
        self.principal_view(principal)
    }

    /// Gives a disabled principal its permissions back.
    ///
    /// # Errors
    /// When it is denied.
    pub async fn enable_principal(
        &self,
        who: &Who,
        principal: &str,
    ) -> Result<PrincipalView, Failure> {
        let principal = find_principal(self.engine.fleet().access(), principal)?.id;
        let operation = Operation::EnablePrincipal(manage::EnablePrincipal { principal });
        self.submit(who, operation).await?;
        self.principal_view(principal)
    }

    fn principal_view(&self, id: PrincipalId) -> Result<PrincipalView, Failure> {
        let fleet = self.engine.fleet();
        let access = fleet.access();
        let principal = find_principal(access, &id.to_string())?;
        Ok(principal_view(access, principal, clock::now()))
    }

    /// All grants, by principal.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_grants(&self, who: &Who) -> Result<GrantList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("access", "read"), &[])?;
        let access = fleet.access();
        let mut grants: Vec<_> = access
            .grants()
            .map(|grant| grant_view(access, grant))
            .collect();
        grants.sort_by(|a, b| {
            (&a.principal_name, &a.role, a.id).cmp(&(&b.principal_name, &b.role, b.id))
        });
        Ok(GrantList { grants })
    }

    /// Grants a role.
    ///
    /// # Errors
    /// When it is denied, gives more than the caller holds, or exists.
    pub async fn add_grant(&self, who: &Who, asked: AddGrant) -> Result<GrantView, Failure> {
        let principal = find_principal(self.engine.fleet().access(), &asked.principal)?.id;
        let on = match &asked.on {
            Some(text) => Some(find_selector(text)?),
            None => None,
        };
        let operation = Operation::CreateGrant(manage::CreateGrant {
            principal,
            role: role_name(&asked.role)?,
            on,
        });
        let applied = self.submit(who, operation).await?;
        let id = applied
            .events
            .iter()
            .find_map(|event| {
                if let Event::GrantCreated(created) = event {
                    Some(created.grant)
                } else {
                    None
                }
            })
            .ok_or_else(|| unexpected(&applied.events))?;
        let fleet = self.engine.fleet();
        let access = fleet.access();
        access
            .grant(id)
            .map(|grant| grant_view(access, grant))
            .ok_or_else(|| no_grant(id))
    }

    /// Takes a grant back.
    ///
    /// # Errors
    /// When it is denied, or would leave no administrator.
    pub async fn remove_grant(&self, who: &Who, grant: GrantId) -> Result<GrantView, Failure> {
        let fleet = self.engine.fleet();
        let access = fleet.access();
        let view = access.grant(grant).map(|grant| grant_view(access, grant));
        let operation = Operation::RevokeGrant(manage::RevokeGrant { grant });
        self.submit(who, operation).await?;
        view.ok_or_else(|| no_grant(grant))
    }

    /// All keys, newest first, without their secrets.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_keys(&self, who: &Who) -> Result<KeyList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("access", "read"), &[])?;
        let access = fleet.access();
        let now = clock::now();
        let mut keys: Vec<_> = access
            .keys()
            .map(|key| self.key_view(access, key, now))
            .collect();
        keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        Ok(KeyList { keys })
    }

    /// Makes a key.
    ///
    /// # Errors
    /// When it is denied, or gives more than the caller holds.
    pub async fn create_key(&self, who: &Who, asked: CreateKey) -> Result<KeyMade, Failure> {
        let principal = find_principal(self.engine.fleet().access(), &asked.principal)?.id;
        let scope = match &asked.scope {
            Some(texts) => Some(permissions(texts)?),
            None => None,
        };
        let secret = self.secret()?;
        let operation = Operation::CreateKey(manage::CreateKey {
            principal,
            secret: SecretDigest::of(&secret),
            scope,
            note: asked.note,
            lifetime: asked.expires_s.map(Duration::from_secs),
        });
        self.made_key(who, operation, secret).await
    }

    /// Replaces a key; the old one works for the overlap.
    ///
    /// # Errors
    /// When it is denied, or the key does not work any more.
    pub async fn rotate_key(
        &self,
        who: &Who,
        key: ApiKeyId,
        asked: RotateKey,
    ) -> Result<KeyMade, Failure> {
        let secret = self.secret()?;
        let operation = Operation::RotateKey(manage::RotateKey {
            key,
            secret: SecretDigest::of(&secret),
            overlap: Duration::from_secs(asked.overlap_s),
            lifetime: None,
        });
        self.made_key(who, operation, secret).await
    }

    async fn made_key(
        &self,
        who: &Who,
        operation: Operation,
        secret: [u8; 32],
    ) -> Result<KeyMade, Failure> {
        let applied = self.submit(who, operation).await?;
        if applied.replayed {
            return Err(shown_already("key"));
        }
        let id = applied
            .events
            .iter()
            .find_map(|event| {
                if let Event::KeyCreated(created) = event {
                    Some(created.key)
                } else if let Event::KeyRotated(rotated) = event {
                    Some(rotated.new)
                } else {
                    None
                }
            })
            .ok_or_else(|| unexpected(&applied.events))?;
        Ok(KeyMade {
            key: self.existing_key(id)?,
            text: ApiKeyText { id, secret }.reveal(),
        })
    }

    /// Makes a key useless.
    ///
    /// # Errors
    /// When it is denied, or would leave no administrator.
    pub async fn revoke_key(&self, who: &Who, key: ApiKeyId) -> Result<KeyView, Failure> {
        let operation = Operation::RevokeKey(manage::RevokeKey { key });
        self.submit(who, operation).await?;
        self.existing_key(key)
    }

    fn existing_key(&self, id: ApiKeyId) -> Result<KeyView, Failure> {
        let fleet = self.engine.fleet();
        let access = fleet.access();
        access
            .key(id)
            .map(|key| self.key_view(access, key, clock::now()))
            .ok_or_else(|| Failure::new(ErrorCode::KeyNotFound, format!("there is no key {id}")))
    }

    fn key_view(&self, access: &Access, key: &ApiKey, now: UnixMillis) -> KeyView {
        let state = if key.revoked_at.is_some() {
            "revoked"
        } else if key.is_live(now) {
            "live"
        } else {
            "expired"
        };
        KeyView {
            id: key.id,
            principal: key.principal,
            principal_name: principal_name(access, key.principal),
            scope: key
                .scope
                .as_ref()
                .map(|scope| scope.iter().map(ToString::to_string).collect()),
            state: state.to_owned(),
            note: key.note.clone(),
            created_at: key.created_at.into(),
            expires_at: key.expires_at.map(Into::into),
            last_used_at: self.engine.last_used(key.id).map(Into::into),
            rotated_to: key.rotated_to,
        }
    }

    /// Which grant decides, and why.
    ///
    /// # Errors
    /// When it is denied, or something named does not exist.
    pub fn explain(&self, who: &Who, asked: &Explain) -> Result<ExplanationView, Failure> {
        let fleet = self.engine.fleet();
        let principal = find_principal(fleet.access(), &asked.principal)?.id;
        if principal != who.principal {
            self.may(who, &fleet, ("access", "read"), &[])?;
        }
        let permission: Permission = asked.permission.parse().map_err(bad_permission)?;
        if !permission.is_known() {
            return Err(Failure::new(
                ErrorCode::PermissionInvalid,
                format!("there is no permission {permission}"),
            ));
        }
        let node = match &asked.node {
            Some(text) => Some(find_node(&fleet, text)?.id),
            None => None,
        };
        let explanation = explain(&fleet, principal, None, &permission, node);
        Ok(ExplanationView {
            allowed: explanation.allowed,
            reason: explanation.reason,
            grants: explanation.grants.iter().map(considered_view).collect(),
        })
    }

    /// Who the key belongs to. Everybody may ask that of themselves.
    ///
    /// # Errors
    /// When the key was removed in this very moment.
    pub fn whoami(&self, who: &Who) -> Result<Whoami, Failure> {
        Ok(Whoami {
            principal: self.principal_view(who.principal)?,
            key: self.existing_key(who.key)?,
        })
    }
}

fn find_principal<'a>(access: &'a Access, text: &str) -> Result<&'a Principal, Failure> {
    let by_id = text
        .parse::<PrincipalId>()
        .ok()
        .and_then(|id| access.principal(id));
    by_id
        .or_else(|| access.principal_named(text))
        .map(AsRef::as_ref)
        .ok_or_else(|| {
            Failure::new(
                ErrorCode::PrincipalNotFound,
                format!("there is no principal {text:?}"),
            )
        })
}

fn principal_name(access: &Access, id: PrincipalId) -> String {
    access
        .principal(id)
        .map_or_else(|| id.to_string(), |principal| principal.name.clone())
}

fn principal_view(access: &Access, principal: &Principal, now: UnixMillis) -> PrincipalView {
    let live_keys = access
        .keys()
        .filter(|key| key.principal == principal.id && key.is_live(now))
        .count();
    PrincipalView {
        id: principal.id,
        name: principal.name.clone(),
        kind: match principal.kind {
            PrincipalKind::Person => "person",
            PrincipalKind::Service => "service",
        }
        .to_owned(),
        grants: access
            .grants_of(principal.id)
            .map(|grant| grant_view(access, grant))
            .collect(),
        live_keys: u32::try_from(live_keys).unwrap_or(u32::MAX),
        created_at: principal.created_at.into(),
        disabled_at: principal.disabled_at.map(Into::into),
    }
}

fn grant_view(access: &Access, grant: &Grant) -> GrantView {
    GrantView {
        id: grant.id,
        principal: grant.principal,
        principal_name: principal_name(access, grant.principal),
        role: grant.role.to_string(),
        on: grant.on.as_ref().map(ToString::to_string),
        created_at: grant.created_at.into(),
    }
}

fn role_view(role: &Role) -> RoleView {
    RoleView {
        name: role.name.to_string(),
        description: role.description.clone(),
        permissions: role.permissions.iter().map(ToString::to_string).collect(),
        inherits: role.inherits.iter().map(ToString::to_string).collect(),
        built_in: role.built_in,
    }
}

fn considered_view(considered: &Considered) -> ConsideredView {
    ConsideredView {
        grant: considered.grant,
        role: considered.role.to_string(),
        path: considered.path.iter().map(ToString::to_string).collect(),
        permission: considered.permission.as_ref().map(ToString::to_string),
        on: considered.on.as_ref().map(ToString::to_string),
        outcome: match considered.outcome {
            Outcome::Allows => "allows",
            Outcome::OtherPermission => "other_permission",
            Outcome::OtherNodes => "other_nodes",
            Outcome::NotFleetWide => "not_fleet_wide",
        }
        .to_owned(),
    }
}

fn role_name(text: &str) -> Result<RoleName, Failure> {
    text.parse()
        .map_err(|error| Failure::new(ErrorCode::RequestInvalid, format!("{error}")))
}

fn permissions(texts: &[String]) -> Result<BTreeSet<Permission>, Failure> {
    texts
        .iter()
        .map(|text| text.parse().map_err(bad_permission))
        .collect()
}

fn bad_permission(error: crate::domain::access::permission::ParsePermissionError) -> Failure {
    Failure::new(ErrorCode::PermissionInvalid, error.to_string())
}

fn no_role(name: &RoleName) -> Failure {
    Failure::new(ErrorCode::RoleNotFound, format!("there is no role {name}"))
}

fn no_grant(id: GrantId) -> Failure {
    Failure::new(ErrorCode::GrantNotFound, format!("there is no grant {id}"))
}
