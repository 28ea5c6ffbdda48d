//! Given principals, roles, grants and keys, when access changes, then.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{ApiKeyId, PrincipalId};

use crate::domain::access::caller::Caller;
use crate::domain::access::grant::GrantId;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::{
    CreateGrant, CreatePrincipal, CreateRole, DeleteRole, DisablePrincipal, EnablePrincipal,
    RecoverAdmin, RevokeGrant, RevokeKey, RotateKey, UpdateRole,
};
use crate::domain::access::principal::PrincipalKind;
use crate::domain::event::Event;
use crate::domain::given::{HOUR, World, create_key, key_in, permissions, principal_of};
use crate::domain::operation::Operation;

fn role(name: &str, held: &[&str], inherits: &[&str]) -> Operation {
    Operation::CreateRole(CreateRole {
        name: name.parse().unwrap(),
        description: String::new(),
        permissions: permissions(held),
        inherits: inherits.iter().map(|name| name.parse().unwrap()).collect(),
    })
}

fn update(name: &str, held: &[&str], inherits: &[&str]) -> Operation {
    match role(name, held, inherits) {
        Operation::CreateRole(asked) => Operation::UpdateRole(UpdateRole {
            name: asked.name,
            description: asked.description,
            permissions: asked.permissions,
            inherits: asked.inherits,
        }),
        other => other,
    }
}

fn delete(name: &str) -> Operation {
    Operation::DeleteRole(DeleteRole {
        name: name.parse().unwrap(),
    })
}

fn grant(to: Caller, role: &str, on: Option<&str>) -> Operation {
    Operation::CreateGrant(CreateGrant {
        principal: principal_of(to).0,
        role: role.parse().unwrap(),
        on: on.map(|selector| selector.parse().unwrap()),
    })
}

fn rotate(key: ApiKeyId, overlap: Duration) -> Operation {
    Operation::RotateKey(RotateKey {
        key,
        secret: SecretDigest::of(&[4; 32]),
        overlap,
        lifetime: None,
    })
}

fn recover(name: &str) -> Operation {
    Operation::RecoverAdmin(RecoverAdmin {
        name: name.to_owned(),
        secret: SecretDigest::of(&[6; 32]),
        lifetime: None,
    })
}

fn grant_of(world: &World, caller: Caller) -> GrantId {
    let (id, _) = principal_of(caller);
    world.fleet.access().grants_of(id).next().unwrap().id
}

fn authenticated(world: &World, caller: Caller, secret: u8) -> Result<Caller, ErrorCode> {
    let (_, key) = principal_of(caller);
    world
        .fleet
        .access()
        .authenticate(key, &SecretDigest::of(&[secret; 32]), world.now)
        .map_err(|rejection| rejection.code)
}

#[test]
fn a_key_opens_with_its_secret_until_it_ends() {
    let mut world = World::new();
    let viewer = world.person("ann", "viewer", None);
    assert_eq!(authenticated(&world, viewer, 3), Ok(viewer));
    assert_eq!(authenticated(&world, viewer, 9), Err(ErrorCode::KeyInvalid));
    let stranger = Caller::Principal {
        id: PrincipalId::NIL,
        key: ApiKeyId::NIL,
    };
    assert_eq!(
        authenticated(&world, stranger, 3),
        Err(ErrorCode::KeyInvalid)
    );

    world.now = world.now.after(1_001 * HOUR);
    assert_eq!(authenticated(&world, viewer, 3), Err(ErrorCode::KeyExpired));
}

#[test]
fn a_revoked_key_and_a_disabled_principal_open_nothing() {
    let mut world = World::new();
    let admin = world.admin;
    let viewer = world.person("ann", "viewer", None);
    let (id, key) = principal_of(viewer);
    world.done(
        admin,
        Operation::DisablePrincipal(DisablePrincipal { principal: id }),
    );
    assert_eq!(
        authenticated(&world, viewer, 3),
        Err(ErrorCode::PrincipalDisabled)
    );
    world.done(
        admin,
        Operation::EnablePrincipal(EnablePrincipal { principal: id }),
    );
    assert_eq!(authenticated(&world, viewer, 3), Ok(viewer));
    world.done(admin, Operation::RevokeKey(RevokeKey { key }));
    assert_eq!(authenticated(&world, viewer, 3), Err(ErrorCode::KeyRevoked));
    assert_eq!(world.refused(admin, rotate(key, HOUR)), "key.revoked");
}

#[test]
fn a_rotated_key_overlaps_with_its_successor() {
    let mut world = World::new();
    let viewer = world.person("ann", "viewer", None);
    let (id, key) = principal_of(viewer);
    let events = world.done(viewer, rotate(key, HOUR));
    let [Event::KeyRotated(rotated)] = &events[..] else {
        panic!("{events:?}");
    };
    let next = Caller::Principal {
        id,
        key: rotated.new,
    };
    assert_eq!(authenticated(&world, viewer, 3), Ok(viewer));
    assert_eq!(authenticated(&world, next, 4), Ok(next));
    assert_eq!(world.refused(viewer, rotate(key, HOUR)), "request.conflict");
    world.now = world.now.after(HOUR);
    assert_eq!(authenticated(&world, viewer, 3), Err(ErrorCode::KeyExpired));
    assert_eq!(authenticated(&world, next, 4), Ok(next));
}

#[test]
fn rotation_never_prolongs_the_old_key() {
    let mut world = World::new();
    let viewer = world.person("ann", "viewer", None);
    let (_, key) = principal_of(viewer);
    let ends = world.fleet.access().key(key).unwrap().expires_at.unwrap();
    world.now = ends.before(HOUR);
    world.done(viewer, rotate(key, 10 * HOUR));
    assert_eq!(
        world.fleet.access().key(key).unwrap().expires_at,
        Some(ends)
    );
}

#[test]
fn only_its_owner_or_a_permission_rotates_or_revokes_a_key() {
    let mut world = World::new();
    let ann = world.person("ann", "viewer", None);
    let ben = world.person("ben", "viewer", None);
    let key = principal_of(ann).1;
    assert_eq!(world.refused(ben, rotate(key, HOUR)), "access.denied");
    assert_eq!(
        world.refused(ben, Operation::RevokeKey(RevokeKey { key })),
        "access.denied"
    );
    world.done(ann, Operation::RevokeKey(RevokeKey { key }));
}

#[test]
fn a_key_without_the_scope_does_not_even_rotate_itself() {
    let mut world = World::new();
    let ann = world.person("ann", "admin", None);
    let id = principal_of(ann).0;
    let narrow = world.key(id, Some(&["node:read"]));
    assert_eq!(
        world.refused(narrow, rotate(principal_of(narrow).1, HOUR)),
        "key.out_of_scope"
    );
    let keys = world.key(id, Some(&["key:*"]));
    assert_eq!(
        world.refused(keys, create_key(id, None)),
        "access.escalation"
    );
    assert_eq!(
        world.refused(keys, create_key(id, Some(&["node:read"]))),
        "access.escalation"
    );
    world.done(keys, create_key(id, Some(&["key:rotate"])));
}

#[test]
fn nobody_gives_what_they_do_not_hold() {
    let mut world = World::new();
    let admin = world.admin;
    world.done(
        admin,
        role("manager", &["role:*", "grant:*", "key:*", "node:read"], &[]),
    );
    let manager = world.person("meg", "manager", None);
    let ann = world.person("ann", "admin", None);
    assert_eq!(
        world.refused(manager, role("mine", &["command:run"], &[])),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, role("mine", &[], &["operator"])),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, grant(manager, "operator", None)),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, grant(manager, "operator", Some("site=lyon"))),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, update("manager", &["*:*"], &[])),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, create_key(principal_of(ann).0, None)),
        "access.escalation"
    );
    assert_eq!(
        world.refused(manager, rotate(principal_of(ann).1, HOUR)),
        "access.escalation"
    );
    world.done(manager, role("mine", &["node:read"], &[]));
    world.done(manager, grant(ann, "mine", None));
    world.done(
        manager,
        create_key(principal_of(ann).0, Some(&["node:read"])),
    );
}

#[test]
fn a_limited_grant_gives_away_its_own_nodes_alone() {
    let mut world = World::new();
    let admin = world.admin;
    let meg = world.person("meg", "viewer", None);
    world.done(admin, role("granting", &["grant:create"], &[]));
    world.done(admin, grant(meg, "granting", None));
    world.done(admin, grant(meg, "operator", Some("site=lyon")));
    let ann = world.person("ann", "viewer", None);
    assert_eq!(
        world.refused(meg, grant(ann, "operator", Some("site=paris"))),
        "access.escalation"
    );
    assert_eq!(
        world.refused(meg, grant(ann, "operator", None)),
        "access.escalation"
    );
    world.done(meg, grant(ann, "operator", Some("site=lyon")));
}

#[test]
fn the_last_admin_cannot_be_taken_away() {
    let mut world = World::new();
    let admin = world.admin;
    let (id, key) = principal_of(admin);
    let disable = Operation::DisablePrincipal(DisablePrincipal { principal: id });
    let revoke = Operation::RevokeGrant(RevokeGrant {
        grant: grant_of(&world, admin),
    });
    let revoke_key = Operation::RevokeKey(RevokeKey { key });
    for operation in [&disable, &revoke, &revoke_key] {
        assert_eq!(world.refused(admin, operation.clone()), "access.last_admin");
    }
    // A second admin whose key is limited does not count.
    let ann = world.person("ann", "admin", None);
    let ann_key = principal_of(ann).1;
    world.key(principal_of(ann).0, Some(&["*:read"]));
    world.done(admin, Operation::RevokeKey(RevokeKey { key: ann_key }));
    assert_eq!(world.refused(admin, disable.clone()), "access.last_admin");
    world.key(principal_of(ann).0, None);
    world.done(admin, disable);
}

#[test]
fn recovery_makes_or_restores_an_admin_from_the_host_alone() {
    let mut world = World::new();
    let admin = world.admin;
    for caller in [admin, Caller::System, Caller::Anonymous] {
        assert_eq!(world.refused(caller, recover("eve")), "access.denied");
    }
    let ann = world.person("ann", "viewer", None);
    let id = principal_of(ann).0;
    world.done(
        admin,
        Operation::DisablePrincipal(DisablePrincipal { principal: id }),
    );
    let events = world.done(Caller::Host, recover("ann"));
    assert!(
        matches!(&events[0], Event::AdminRecovered(recovered) if recovered.principal == id),
        "{events:?}"
    );
    let ann = key_in(&events);
    assert_eq!(authenticated(&world, ann, 6), Ok(ann));
    world.done(ann, role("by-ann", &["*:*"], &[]));

    let again = world.done(Caller::Host, recover("ann"));
    assert_eq!(again.len(), 2, "no second grant: {again:?}");
    let new = world.done(Caller::Host, recover("zoe"));
    world.done(key_in(&new), role("by-zoe", &["*:*"], &[]));
    assert_eq!(
        world.refused(Caller::Host, recover("no name")),
        "request.invalid"
    );
}

#[test]
fn the_host_may_do_nothing_else() {
    let mut world = World::new();
    assert_eq!(
        world.refused(Caller::Host, role("r", &["node:read"], &[])),
        "access.denied"
    );
}

#[test]
fn roles_are_made_changed_and_deleted() {
    let mut world = World::new();
    let admin = world.admin;
    world.done(admin, role("a", &["node:read"], &["viewer"]));
    assert_eq!(world.refused(admin, role("a", &[], &[])), "role.exists");
    assert_eq!(
        world.refused(admin, role("viewer", &[], &[])),
        "role.exists"
    );
    assert_eq!(
        world.refused(admin, role("b", &["nod:read"], &[])),
        "permission.invalid"
    );
    world.done(admin, role("b", &[], &["a"]));
    assert_eq!(world.refused(admin, update("a", &[], &["b"])), "role.cycle");
    assert_eq!(
        world.refused(admin, update("viewer", &["*:*"], &[])),
        "role.builtin"
    );
    assert_eq!(
        world.refused(admin, update("c", &[], &[])),
        "role.not_found"
    );
    assert_eq!(world.refused(admin, delete("a")), "role.in_use");
    assert_eq!(world.refused(admin, delete("viewer")), "role.builtin");
    let ann = world.person("ann", "b", None);
    assert_eq!(world.refused(admin, delete("b")), "role.in_use");
    let revoke = Operation::RevokeGrant(RevokeGrant {
        grant: grant_of(&world, ann),
    });
    world.done(admin, revoke.clone());
    assert_eq!(world.refused(admin, revoke), "grant.not_found");
    world.done(admin, delete("b"));
    world.done(admin, delete("a"));
    assert_eq!(world.fleet.access().roles().iter().count(), 6);
}

#[test]
fn principals_and_grants_are_named_once() {
    let mut world = World::new();
    let admin = world.admin;
    let ann = world.person("ann", "viewer", None);
    let twin = |name: &str| {
        Operation::CreatePrincipal(CreatePrincipal {
            name: name.to_owned(),
            kind: PrincipalKind::Service,
        })
    };
    assert_eq!(world.refused(admin, twin("ann")), "principal.exists");
    assert_eq!(world.refused(admin, twin("a b")), "request.invalid");
    assert_eq!(
        world.refused(admin, grant(ann, "viewer", None)),
        "grant.exists"
    );
    world.done(admin, grant(ann, "viewer", Some("site=lyon")));
    assert_eq!(
        world.refused(admin, grant(ann, "nobody", None)),
        "role.not_found"
    );
    let nobody = Caller::Principal {
        id: PrincipalId::NIL,
        key: ApiKeyId::NIL,
    };
    assert_eq!(
        world.refused(admin, grant(nobody, "viewer", None)),
        "principal.not_found"
    );
    assert_eq!(
        world.refused(admin, create_key(PrincipalId::NIL, None)),
        "principal.not_found"
    );
    assert_eq!(
        world.refused(admin, rotate(ApiKeyId::NIL, HOUR)),
        "key.not_found"
    );
}

#[test]
fn keys_have_limits() {
    let mut world = World::new();
    let admin = world.admin;
    let ann = world.person("ann", "viewer", None);
    let (id, key) = principal_of(ann);
    assert_eq!(
        world.refused(admin, create_key(id, Some(&[]))),
        "request.invalid"
    );
    assert_eq!(
        world.refused(admin, create_key(id, Some(&["nod:read"]))),
        "permission.invalid"
    );
    assert_eq!(
        world.refused(ann, rotate(key, 1_000 * HOUR)),
        "request.invalid"
    );
    for lifetime in [Duration::ZERO, 100_000 * HOUR] {
        let Operation::CreateKey(mut asked) = create_key(id, None) else {
            unreachable!("it makes a key");
        };
        asked.lifetime = Some(lifetime);
        assert_eq!(
            world.refused(admin, Operation::CreateKey(asked)),
            "request.invalid"
        );
    }
    for _ in 1..super::key::KEYS_PER_PRINCIPAL_MAX {
        world.done(admin, create_key(id, None));
    }
    assert_eq!(world.refused(admin, create_key(id, None)), "limit.reached");
    assert_eq!(world.refused(ann, rotate(key, HOUR)), "limit.reached");
}

#[test]
fn dead_keys_are_forgotten_in_time() {
    let mut world = World::new();
    let admin = world.admin;
    let ann = world.person("ann", "viewer", None);
    let (id, _) = principal_of(ann);
    for _ in 0..100 {
        let made = world.key(id, None);
        let key = principal_of(made).1;
        world.done(admin, Operation::RevokeKey(RevokeKey { key }));
    }
    let kept = world
        .fleet
        .access()
        .keys()
        .filter(|key| key.principal == id)
        .count();
    assert!(kept <= super::DEAD_KEYS_PER_PRINCIPAL_MAX + 2, "{kept}");
}

#[test]
fn grants_of_a_principal_are_bounded() {
    let mut world = World::new();
    let admin = world.admin;
    let ann = world.person("ann", "viewer", None);
    for n in 1..super::grant::GRANTS_PER_PRINCIPAL_MAX {
        world.done(admin, grant(ann, "viewer", Some(&format!("rack={n}"))));
    }
    assert_eq!(
        world.refused(admin, grant(ann, "operator", None)),
        "limit.reached"
    );
}
