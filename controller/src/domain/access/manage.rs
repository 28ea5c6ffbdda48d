//! Changes to who may do what.
//!
//! **Invariant:** nobody gives what they do not hold. Whoever makes a role, a
//! grant or a key for someone else must hold every permission in it, over the
//! whole fleet or by a grant with the very same selector. And no change leaves a
//! fleet in which nobody can administer access over the whole of it.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, PrincipalId};
use protocol::selector::Selector;
use protocol::time::UnixMillis;

use crate::domain::access::Access;
use crate::domain::access::caller::Caller;
use crate::domain::access::event::{
    AdminRecovered, GrantCreated, GrantRevoked, KeyCreated, KeyRevoked, KeyRotated,
    PrincipalCreated, PrincipalDisabled, PrincipalEnabled, RoleCreated, RoleDeleted, RoleUpdated,
};
use crate::domain::access::grant::{GRANTS_PER_PRINCIPAL_MAX, Grant, GrantId};
use crate::domain::access::key::{
    ApiKey, KEY_LIFETIME_MAX, KEY_NOTE_BYTES_MAX, KEY_OVERLAP_MAX, KEY_SCOPE_MAX,
    KEYS_PER_PRINCIPAL_MAX, SecretDigest,
};
use crate::domain::access::permission::Permission;
use crate::domain::access::principal::{PRINCIPALS_COUNT_MAX, Principal, PrincipalKind};
use crate::domain::access::role::{self, ROLES_COUNT_MAX, Role, RoleName};
use crate::domain::event::Event;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};

/// Bytes of a role's description.
pub const DESCRIPTION_BYTES_MAX: usize = 200;

/// Make a principal known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePrincipal {
    /// What people call it: like a node's name.
    pub name: String,
    /// A person or a program.
    pub kind: PrincipalKind,
}

/// Disable a principal: its keys and grants count for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisablePrincipal {
    /// Which.
    pub principal: PrincipalId,
}

/// Enable a principal again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnablePrincipal {
    /// Which.
    pub principal: PrincipalId,
}

/// Make a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateRole {
    /// Its name.
    pub name: RoleName,
    /// What it is for.
    pub description: String,
    /// What it allows by itself.
    pub permissions: BTreeSet<Permission>,
    /// Roles that it inherits from.
    pub inherits: BTreeSet<RoleName>,
}

/// Give a role other contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRole {
    /// Which.
    pub name: RoleName,
    /// What it is for.
    pub description: String,
    /// What it allows by itself from here on.
    pub permissions: BTreeSet<Permission>,
    /// Roles that it inherits from, from here on.
    pub inherits: BTreeSet<RoleName>,
}

/// Delete a role that nothing uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRole {
    /// Which.
    pub name: RoleName,
}

/// Give a role to a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateGrant {
    /// To whom.
    pub principal: PrincipalId,
    /// What.
    pub role: RoleName,
    /// On which nodes; none for the whole fleet.
    pub on: Option<Selector>,
}

/// Take a grant back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeGrant {
    /// Which.
    pub grant: GrantId,
}

/// Give a principal an API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateKey {
    /// Whose it is.
    pub principal: PrincipalId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// What it may be used for, at most; none for all that its principal may do.
    pub scope: Option<BTreeSet<Permission>>,
    /// What it is for.
    pub note: String,
    /// How long it counts; none for ever.
    pub lifetime: Option<Duration>,
}

/// Give an API key a successor with the same scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateKey {
    /// The old one.
    pub key: ApiKeyId,
    /// The digest of the new one's secret.
    pub secret: SecretDigest,
    /// How long the old one still counts.
    pub overlap: Duration,
    /// How long the new one counts; none for ever.
    pub lifetime: Option<Duration>,
}

/// Make an API key useless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeKey {
    /// Which.
    pub key: ApiKeyId,
}

/// Make sure that there is an admin, from the controller's own host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverAdmin {
    /// The principal's name: one that exists gets the role, a disabled one is
    /// enabled, otherwise it is made.
    pub name: String,
    /// The digest of the new key's secret.
    pub secret: SecretDigest,
    /// How long the key counts; none for ever.
    pub lifetime: Option<Duration>,
}

pub(crate) fn create_principal(
    access: &Access,
    asked: &CreatePrincipal,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    protocol::label::check_name(&asked.name)
        .map_err(|error| Rejection::new(ErrorCode::RequestInvalid, error.to_string()))?;
    if access.principal_named(&asked.name).is_some() {
        return Err(Rejection::new(
            ErrorCode::PrincipalExists,
            format!("there is a principal {}", asked.name),
        ));
    }
    if access.principals().count() >= PRINCIPALS_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {PRINCIPALS_COUNT_MAX} principals"),
        ));
    }
    Ok(vec![Event::PrincipalCreated(PrincipalCreated {
        principal: at.ids.id(0),
        name: asked.name.clone(),
        kind: asked.kind,
    })])
}

pub(crate) fn disable_principal(
    access: &Access,
    asked: &DisablePrincipal,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let principal = existing(access, asked.principal)?;
    if principal.disabled_at.is_some() {
        return Ok(Vec::new());
    }
    keeps_an_admin(access, at.now, |grant, _| {
        grant.principal != asked.principal
    })?;
    Ok(vec![Event::PrincipalDisabled(PrincipalDisabled {
        principal: asked.principal,
    })])
}

pub(crate) fn enable_principal(
    access: &Access,
    asked: &EnablePrincipal,
) -> Result<Vec<Event>, Rejection> {
    if existing(access, asked.principal)?.disabled_at.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::PrincipalEnabled(PrincipalEnabled {
        principal: asked.principal,
    })])
}

pub(crate) fn create_role(
    access: &Access,
    caller: &Caller,
    asked: &CreateRole,
) -> Result<Vec<Event>, Rejection> {
    if access.roles().get(&asked.name).is_some() {
        return Err(Rejection::new(
            ErrorCode::RoleExists,
            format!("there is a role {}", asked.name),
        ));
    }
    if access.roles().iter().count() >= ROLES_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {ROLES_COUNT_MAX} roles"),
        ));
    }
    let role = Role {
        name: asked.name.clone(),
        description: cut(asked.description.clone(), DESCRIPTION_BYTES_MAX),
        permissions: asked.permissions.clone(),
        inherits: asked.inherits.clone(),
        built_in: false,
    };
    access.roles().check(&role)?;
    holds_all(access, caller, &contents(access, &role), None)?;
    Ok(vec![Event::RoleCreated(RoleCreated {
        name: role.name,
        description: role.description,
        permissions: role.permissions,
        inherits: role.inherits,
    })])
}

pub(crate) fn update_role(
    access: &Access,
    caller: &Caller,
    asked: &UpdateRole,
) -> Result<Vec<Event>, Rejection> {
    custom_role(access, &asked.name)?;
    let role = Role {
        name: asked.name.clone(),
        description: cut(asked.description.clone(), DESCRIPTION_BYTES_MAX),
        permissions: asked.permissions.clone(),
        inherits: asked.inherits.clone(),
        built_in: false,
    };
    access.roles().check(&role)?;
    holds_all(access, caller, &contents(access, &role), None)?;
    Ok(vec![Event::RoleUpdated(RoleUpdated {
        name: role.name,
        description: role.description,
        permissions: role.permissions,
        inherits: role.inherits,
    })])
}

pub(crate) fn delete_role(access: &Access, asked: &DeleteRole) -> Result<Vec<Event>, Rejection> {
    custom_role(access, &asked.name)?;
    let granted = access.grants().any(|grant| grant.role == asked.name);
    let inherited = access
        .roles()
        .iter()
        .any(|role| role.inherits.contains(&asked.name));
    if granted || inherited {
        return Err(Rejection::new(
            ErrorCode::RoleInUse,
            format!("role {} is granted or inherited", asked.name),
        ));
    }
    Ok(vec![Event::RoleDeleted(RoleDeleted {
        name: asked.name.clone(),
    })])
}

pub(crate) fn create_grant(
    access: &Access,
    caller: &Caller,
    asked: &CreateGrant,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    existing(access, asked.principal)?;
    let role = access.roles().get(&asked.role).ok_or_else(|| {
        Rejection::new(
            ErrorCode::RoleNotFound,
            format!("there is no role {}", asked.role),
        )
    })?;
    let mine = || access.grants_of(asked.principal);
    if mine().any(|grant| grant.role == asked.role && grant.on == asked.on) {
        return Err(Rejection::new(
            ErrorCode::GrantExists,
            format!(
                "principal {} has role {} there",
                asked.principal, asked.role
            ),
        ));
    }
    if mine().count() >= GRANTS_PER_PRINCIPAL_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!(
                "principal {} has {GRANTS_PER_PRINCIPAL_MAX} grants",
                asked.principal
            ),
        ));
    }
    holds_all(access, caller, &contents(access, role), asked.on.as_ref())?;
    Ok(vec![Event::GrantCreated(GrantCreated {
        grant: at.ids.id(0),
        principal: asked.principal,
        role: asked.role.clone(),
        on: asked.on.clone(),
    })])
}

pub(crate) fn revoke_grant(
    access: &Access,
    asked: &RevokeGrant,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let grant = access.grant(asked.grant).ok_or_else(|| {
        Rejection::new(
            ErrorCode::GrantNotFound,
            format!("there is no grant {}", asked.grant),
        )
    })?;
    keeps_an_admin(access, at.now, |other, _| other.id != asked.grant)?;
    Ok(vec![Event::GrantRevoked(GrantRevoked {
        grant: grant.id,
        principal: grant.principal,
    })])
}

pub(crate) fn create_key(
    access: &Access,
    caller: &Caller,
    asked: &CreateKey,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    existing(access, asked.principal)?;
    if let Some(scope) = &asked.scope {
        if scope.is_empty() || scope.len() > KEY_SCOPE_MAX {
            return Err(Rejection::new(
                ErrorCode::RequestInvalid,
                format!(
                    "scope of a key has {} parts; give 1 to {KEY_SCOPE_MAX}",
                    scope.len()
                ),
            ));
        }
        if let Some(unknown) = scope.iter().find(|held| !held.is_known()) {
            return Err(Rejection::new(
                ErrorCode::PermissionInvalid,
                format!("scope names {unknown}, which nothing asks for"),
            ));
        }
    }
    let expires_at = end_of_life(asked.lifetime, at)?;
    has_room_for_a_key(access, asked.principal, at)?;
    holds_what_the_key_opens(access, caller, asked.principal, asked.scope.as_ref())?;
    Ok(vec![Event::KeyCreated(KeyCreated {
        key: at.ids.id(0),
        principal: asked.principal,
        secret: asked.secret,
        scope: asked.scope.clone(),
        note: cut(asked.note.clone(), KEY_NOTE_BYTES_MAX),
        expires_at,
    })])
}

pub(crate) fn rotate_key(
    access: &Access,
    caller: &Caller,
    asked: &RotateKey,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let old = live_key(access, asked.key, at.now)?;
    if asked.overlap > KEY_OVERLAP_MAX {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "overlap of two keys is {} s; give at most {}",
                asked.overlap.as_secs(),
                KEY_OVERLAP_MAX.as_secs()
            ),
        ));
    }
    if let Some(next) = old.rotated_to {
        return Err(Rejection::new(
            ErrorCode::RequestConflict,
            format!("API key {} was rotated to {next}", old.id),
        ));
    }
    let expires_at = end_of_life(asked.lifetime, at)?;
    has_room_for_a_key(access, old.principal, at)?;
    holds_what_the_key_opens(access, caller, old.principal, old.scope.as_ref())?;
    let overlap_ends = at.now.after(asked.overlap);
    Ok(vec![Event::KeyRotated(KeyRotated {
        old: old.id,
        old_expires_at: old
            .expires_at
            .map_or(overlap_ends, |end| end.min(overlap_ends)),
        new: at.ids.id(0),
        secret: asked.secret,
        expires_at,
    })])
}

pub(crate) fn revoke_key(
    access: &Access,
    asked: &RevokeKey,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let key = access
        .key(asked.key)
        .ok_or_else(|| unknown_key(asked.key))?;
    if key.revoked_at.is_some() {
        return Ok(Vec::new());
    }
    keeps_an_admin(access, at.now, |_, other| other != asked.key)?;
    Ok(vec![Event::KeyRevoked(KeyRevoked { key: asked.key })])
}

pub(crate) fn recover_admin(
    access: &Access,
    asked: &RecoverAdmin,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let expires_at = end_of_life(asked.lifetime, at)?;
    let known = access.principal_named(&asked.name);
    let principal = known.map_or_else(|| at.ids.id(0), |principal| principal.id);
    let mut events = vec![Event::AdminRecovered(AdminRecovered {
        principal,
        name: asked.name.clone(),
    })];
    match known {
        None => {
            let person = CreatePrincipal {
                name: asked.name.clone(),
                kind: PrincipalKind::Person,
            };
            events.extend(create_principal(access, &person, at)?);
        }
        Some(known) if known.disabled_at.is_some() => {
            events.push(Event::PrincipalEnabled(PrincipalEnabled { principal }));
        }
        Some(_) => {}
    }
    let is_admin = access
        .grants_of(principal)
        .any(|grant| grant.role == role::admin() && grant.on.is_none());
    if !is_admin {
        events.push(Event::GrantCreated(GrantCreated {
            grant: at.ids.id(1),
            principal,
            role: role::admin(),
            on: None,
        }));
    }
    events.push(Event::KeyCreated(KeyCreated {
        key: at.ids.id(2),
        principal,
        secret: asked.secret,
        scope: None,
        note: "recovered on the controller's host".to_owned(),
        expires_at,
    }));
    Ok(events)
}

fn existing(access: &Access, id: PrincipalId) -> Result<&Principal, Rejection> {
    access.principal(id).map(AsRef::as_ref).ok_or_else(|| {
        Rejection::new(
            ErrorCode::PrincipalNotFound,
            format!("there is no principal {id}"),
        )
    })
}

fn custom_role(access: &Access, name: &RoleName) -> Result<(), Rejection> {
    match access.roles().get(name) {
        None => Err(Rejection::new(
            ErrorCode::RoleNotFound,
            format!("there is no role {name}"),
        )),
        Some(role) if role.built_in => Err(Rejection::new(
            ErrorCode::RoleBuiltin,
            format!("role {name} comes with the program and cannot be changed"),
        )),
        Some(_) => Ok(()),
    }
}

fn unknown_key(id: ApiKeyId) -> Rejection {
    Rejection::new(ErrorCode::KeyNotFound, format!("there is no API key {id}"))
}

fn live_key(access: &Access, id: ApiKeyId, now: UnixMillis) -> Result<&ApiKey, Rejection> {
    let key = access.key(id).ok_or_else(|| unknown_key(id))?;
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
    Ok(key)
}

fn end_of_life(lifetime: Option<Duration>, at: &Moment) -> Result<Option<UnixMillis>, Rejection> {
    match lifetime {
        Some(lifetime) if lifetime.is_zero() || lifetime > KEY_LIFETIME_MAX => Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "lifetime of a key is {} s; give 1 to {}",
                lifetime.as_secs(),
                KEY_LIFETIME_MAX.as_secs()
            ),
        )),
        lifetime => Ok(lifetime.map(|lifetime| at.now.after(lifetime))),
    }
}

fn has_room_for_a_key(
    access: &Access,
    principal: PrincipalId,
    at: &Moment,
) -> Result<(), Rejection> {
    let live = access
        .keys()
        .filter(|key| key.principal == principal && key.is_live(at.now))
        .count();
    if live >= KEYS_PER_PRINCIPAL_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("principal {principal} has {KEYS_PER_PRINCIPAL_MAX} keys; revoke some"),
        ));
    }
    Ok(())
}

/// Everything that a role gives, its ancestors' permissions included.
fn contents(access: &Access, role: &Role) -> BTreeSet<Permission> {
    let inherited = role
        .inherits
        .iter()
        .flat_map(|parent| access.roles().permissions(parent))
        .map(|(_, held)| held.clone());
    role.permissions.iter().cloned().chain(inherited).collect()
}

/// Refuses to give away what the caller does not hold.
fn holds_all(
    access: &Access,
    caller: &Caller,
    given: &BTreeSet<Permission>,
    on: Option<&Selector>,
) -> Result<(), Rejection> {
    let Caller::Principal { id, key } = caller else {
        return Ok(());
    };
    let key = access.key(*key);
    let holds = |permission: &Permission| {
        key.is_some_and(|key| key.allows(permission))
            && access
                .grants_of(*id)
                .filter(|grant| grant.on.is_none() || grant.on.as_ref() == on)
                .flat_map(|grant| access.roles().permissions(&grant.role))
                .any(|(_, held)| held.covers(permission))
    };
    match given.iter().find(|permission| !holds(permission)) {
        None => Ok(()),
        Some(missing) => Err(Rejection::new(
            ErrorCode::AccessEscalation,
            format!("principal {id} does not hold {missing} there and cannot give it away"),
        )),
    }
}

/// A key for oneself opens nothing new, within the scope of the key that asks. A
/// key for someone else opens all that they may do.
fn holds_what_the_key_opens(
    access: &Access,
    caller: &Caller,
    owner: PrincipalId,
    scope: Option<&BTreeSet<Permission>>,
) -> Result<(), Rejection> {
    let Caller::Principal { id, key } = caller else {
        return Ok(());
    };
    if *id == owner {
        let own_scope = access.key(*key).and_then(|key| key.scope.as_ref());
        let Some(own_scope) = own_scope else {
            return Ok(());
        };
        let widened = match scope {
            None => Some(Permission::any()),
            Some(scope) => scope
                .iter()
                .find(|asked| !own_scope.iter().any(|held| held.covers(asked)))
                .cloned(),
        };
        return match widened {
            None => Ok(()),
            Some(permission) => Err(Rejection::new(
                ErrorCode::AccessEscalation,
                format!("API key {key} has a scope without {permission}"),
            )),
        };
    }
    for grant in access.grants_of(owner) {
        let opened = access
            .roles()
            .permissions(&grant.role)
            .flat_map(|(_, held)| match scope {
                None => vec![held.clone()],
                Some(scope) => scope.iter().filter_map(|part| part.meet(held)).collect(),
            })
            .collect();
        holds_all(access, caller, &opened, grant.on.as_ref())?;
    }
    Ok(())
}

/// Refuses a change after which no enabled principal with a live, unlimited key
/// would administer access over the whole fleet. `remains` tells which grants
/// and keys would be left.
fn keeps_an_admin(
    access: &Access,
    now: UnixMillis,
    remains: impl Fn(&Grant, ApiKeyId) -> bool,
) -> Result<(), Rejection> {
    let administers = |grant: &Grant| {
        grant.on.is_none()
            && access
                .roles()
                .permissions(&grant.role)
                .any(|(_, held)| *held == Permission::any())
            && access
                .principal(grant.principal)
                .is_some_and(|principal| principal.disabled_at.is_none())
    };
    let count = |remains: &dyn Fn(&Grant, ApiKeyId) -> bool| {
        access
            .grants()
            .filter(|grant| administers(grant))
            .filter(|grant| {
                access.keys().any(|key| {
                    key.principal == grant.principal
                        && key.is_live(now)
                        && key.scope.is_none()
                        && remains(grant, key.id)
                })
            })
            .count()
    };
    if count(&remains) == 0 && count(&|_, _| true) > 0 {
        return Err(Rejection::new(
            ErrorCode::AccessLastAdmin,
            "this would leave nobody who may administer access",
        ));
    }
    Ok(())
}
