//! Given grants, when a permission is asked for on nodes, then allowed or not,
//! and explained.

use protocol::ErrorCode;
use protocol::id::NodeId;

use super::{DENIED_NODES_MAX, Decision, Denial, authorize, reach};
use crate::domain::access::caller::Caller;
use crate::domain::access::explain::{Outcome, explain};
use crate::domain::access::manage::DisablePrincipal;
use crate::domain::access::permission::Permission;
use crate::domain::given::{World, node_id, principal_of};
use crate::domain::operation::Operation;

fn fleet() -> World {
    let mut world = World::new();
    world.node(1, "l1", "site=lyon,role=web");
    world.node(2, "l2", "site=lyon,role=db");
    world.node(3, "p1", "site=paris,role=web");
    world
}

fn decision(world: &World, caller: Caller, permission: &str, on: &[NodeId]) -> Decision {
    authorize(&world.fleet, &caller, &permission.parse().unwrap(), on)
}

fn denial(world: &World, caller: Caller, permission: &str, on: &[NodeId]) -> Denial {
    match decision(world, caller, permission, on) {
        Decision::Denied(denial) => denial,
        Decision::Allowed { grants } => panic!("{permission} is allowed by {grants:?}"),
    }
}

fn allowed(world: &World, caller: Caller, permission: &str, on: &[NodeId]) -> usize {
    match decision(world, caller, permission, on) {
        Decision::Allowed { grants } => grants.len(),
        Decision::Denied(denial) => panic!("{denial}"),
    }
}

#[test]
fn a_role_allows_what_it_holds_and_nothing_else() {
    let mut world = fleet();
    let viewer = world.person("ann", "viewer", None);
    let operator = world.person("ben", "operator", None);
    let on = [node_id(1)];
    allowed(&world, viewer, "node:read", &on);
    allowed(&world, viewer, "audit:read", &[]);
    allowed(&world, operator, "node:read", &on);
    allowed(&world, operator, "command:run", &on);
    for (caller, permission) in [
        (viewer, "command:ping"),
        (viewer, "command:run"),
        (viewer, "audit:export"),
        (operator, "node:revoke"),
        (operator, "token:create"),
        (operator, "*:*"),
    ] {
        let denied = denial(&world, caller, permission, &on);
        assert_eq!(denied.code, ErrorCode::AccessDenied, "{permission}");
        assert!(denied.reason.contains(permission), "{denied}");
    }
}

#[test]
fn the_built_in_roles_differ_where_it_matters() {
    let mut world = fleet();
    let on = [node_id(1)];
    let cases = [
        ("deployer", "command:service", true),
        ("deployer", "command:run", false),
        ("security", "node:revoke", true),
        ("security", "audit:export", true),
        ("security", "command:run", false),
        ("security", "grant:create", false),
        ("service", "command:ping", true),
        ("service", "audit:read", false),
        ("admin", "grant:create", true),
    ];
    for (index, (role, permission, expected)) in cases.into_iter().enumerate() {
        let caller = world.person(&format!("p{index}"), role, None);
        let is_allowed = matches!(
            decision(&world, caller, permission, &on),
            Decision::Allowed { .. }
        );
        assert_eq!(is_allowed, expected, "{role} {permission}");
    }
}

#[test]
fn a_limited_grant_must_cover_every_node_and_the_denial_names_the_others() {
    let mut world = fleet();
    let ann = world.person("ann", "operator", Some("site=lyon"));
    allowed(&world, ann, "command:run", &[node_id(1), node_id(2)]);
    let denied = denial(
        &world,
        ann,
        "command:run",
        &[node_id(1), node_id(3), node_id(9)],
    );
    assert_eq!(denied.nodes, [node_id(3), node_id(9)]);
    assert_eq!(denied.node_count, 2);
    assert!(denied.reason.contains(&node_id(3).to_string()), "{denied}");
    denial(&world, ann, "command:run", &[]);
}

#[test]
fn several_grants_cover_together() {
    let mut world = fleet();
    let ann = world.person("ann", "operator", Some("site=lyon"));
    world.grant(principal_of(ann).0, "operator", Some("site=paris"));
    let all = [node_id(1), node_id(2), node_id(3)];
    assert_eq!(allowed(&world, ann, "command:run", &all), 2);
    assert_eq!(allowed(&world, ann, "command:run", &all[..2]), 1);
    // Both are limited, however much they cover.
    denial(&world, ann, "token:read", &[]);
    world.grant(principal_of(ann).0, "viewer", Some("*"));
    allowed(&world, ann, "token:read", &[]);
}

#[test]
fn a_denial_names_a_bounded_number_of_nodes() {
    let mut world = fleet();
    let ann = world.person("ann", "operator", Some("site=lyon"));
    let many: Vec<NodeId> = (100..200).map(node_id).collect();
    let denied = denial(&world, ann, "command:run", &many);
    assert_eq!(denied.nodes.len(), DENIED_NODES_MAX);
    assert_eq!(denied.node_count, 100);
    assert!(denied.reason.contains("and 84 more"), "{denied}");
}

#[test]
fn a_keys_scope_narrows_its_principal() {
    let mut world = fleet();
    let ann = world.person("ann", "admin", None);
    let (id, _) = principal_of(ann);
    let narrow = world.key(id, Some(&["node:*", "*:read"]));
    allowed(&world, narrow, "node:revoke", &[node_id(1)]);
    allowed(&world, narrow, "audit:read", &[]);
    let denied = denial(&world, narrow, "command:run", &[node_id(1)]);
    assert_eq!(denied.code, ErrorCode::KeyOutOfScope);
}

#[test]
fn a_key_of_somebody_else_a_disabled_principal_and_no_principal_are_denied() {
    let mut world = fleet();
    let ann = world.person("ann", "admin", None);
    let ben = world.person("ben", "viewer", None);
    let mixed = Caller::Principal {
        id: principal_of(ann).0,
        key: principal_of(ben).1,
    };
    assert_eq!(
        denial(&world, mixed, "node:read", &[]).code,
        ErrorCode::KeyRevoked
    );
    for caller in [
        Caller::Host,
        Caller::System,
        Caller::Anonymous,
        Caller::Node(node_id(1)),
    ] {
        assert_eq!(
            denial(&world, caller, "node:read", &[node_id(1)]).code,
            ErrorCode::AccessDenied
        );
    }
    let admin = world.admin;
    world.done(
        admin,
        Operation::DisablePrincipal(DisablePrincipal {
            principal: principal_of(ann).0,
        }),
    );
    assert_eq!(
        denial(&world, ann, "node:read", &[]).code,
        ErrorCode::PrincipalDisabled
    );
}

#[test]
fn lists_show_what_is_in_reach() {
    let mut world = fleet();
    let ann = world.person("ann", "viewer", Some("site=lyon"));
    let permission: Permission = "node:read".parse().unwrap();
    let seen = reach(world.fleet.access(), &ann, &permission).unwrap();
    let names: Vec<&str> = world
        .fleet
        .nodes()
        .filter(|node| seen.covers(node))
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(names, ["l1", "l2"]);
    assert!(!seen.is_everywhere());
    let run: Permission = "command:run".parse().unwrap();
    assert!(reach(world.fleet.access(), &ann, &run).is_err());
}

#[test]
fn an_explanation_agrees_with_the_decision_and_names_the_grant() {
    let mut world = fleet();
    let ann = world.person("ann", "viewer", None);
    let (id, key) = principal_of(ann);
    world.grant(id, "operator", Some("site=lyon"));
    for permission in ["node:read", "command:run", "node:revoke", "token:create"] {
        let asked: Permission = permission.parse().unwrap();
        for node in [None, Some(node_id(1)), Some(node_id(3)), Some(node_id(9))] {
            let told = explain(&world.fleet, id, Some(key), &asked, node);
            let decided = authorize(&world.fleet, &ann, &asked, node.as_slice());
            assert_eq!(
                told.allowed,
                matches!(decided, Decision::Allowed { .. }),
                "{permission} on {node:?}"
            );
            assert_eq!(told.grants.len(), 2);
            if told.allowed {
                let names_one = told.grants.iter().any(|grant| {
                    grant.outcome == Outcome::Allows
                        && told.reason.contains(&grant.grant.to_string())
                });
                assert!(names_one, "{}", told.reason);
            }
        }
    }
}

#[test]
fn an_explanation_says_what_each_grant_lacks() {
    let mut world = fleet();
    let ann = world.person("ann", "service", None);
    let (id, _) = principal_of(ann);
    world.grant(id, "operator", Some("site=lyon"));
    let outcomes = |permission: &str, node| {
        let asked: Permission = permission.parse().unwrap();
        let told = explain(&world.fleet, id, None, &asked, node);
        let of = |role: &str| {
            let grant = told.grants.iter().find(|grant| grant.role.as_str() == role);
            grant.unwrap().clone()
        };
        (of("service"), of("operator"))
    };
    let (service, operator) = outcomes("command:run", Some(node_id(3)));
    assert_eq!(service.outcome, Outcome::OtherPermission);
    assert_eq!(operator.outcome, Outcome::OtherNodes);
    let (_, operator) = outcomes("command:run", None);
    assert_eq!(operator.outcome, Outcome::NotFleetWide);
    let (_, operator) = outcomes("audit:read", Some(node_id(1)));
    assert_eq!(operator.outcome, Outcome::Allows);
    let path: Vec<&str> = operator.path.iter().map(|role| role.as_str()).collect();
    assert_eq!(path, ["operator", "viewer"]);
    assert_eq!(operator.permission.unwrap().to_string(), "*:read");
}
