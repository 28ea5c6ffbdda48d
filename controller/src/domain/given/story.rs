//! For tests: a story in which every event happens, and one made of chance.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::ErrorCode;
use protocol::command::Action;
use protocol::id::{ApiKeyId, CommandId, NodeId, PrincipalId, TokenId};
use protocol::key::PublicKey;
use protocol::time::UnixMillis;

use super::{HOUR, World, admission, create_key, node_id, order, parsed, permissions, run};
use crate::domain::access::caller::Caller;
use crate::domain::access::grant::GrantId;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::{
    CreateGrant, CreatePrincipal, CreateRole, DeleteRole, DisablePrincipal, EnablePrincipal,
    RecoverAdmin, RevokeGrant, RevokeKey, RotateKey, UpdateRole,
};
use crate::domain::access::principal::PrincipalKind;
use crate::domain::audit::event::{DenialsCounted, RequestDenied, RequestRejected};
use crate::domain::command::Counts;
use crate::domain::command::issue::{CancelCommand, ConcludeCommand, EmptyAim};
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::admit::ApproveNode;
use crate::domain::fleet::manage::{
    CertifyNode, RelabelNode, RenameNode, ReplaceNode, ResolveIdentity, RevokeNode, SuspectIdentity,
};
use crate::domain::fleet::node::{Certificate, Doubt};
use crate::domain::fleet::token::{Approval, RevokeToken};
use crate::domain::fleet::trust::{PublishTrust, RaiseIncarnation, Retire};
use crate::domain::operation::Operation;

/// One request of a story made of chance: what, and on whom.
pub(crate) type Step = (u8, u8, u8);

/// Stories of up to `length_max` requests.
pub(crate) fn steps(length_max: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..26_u8, any::<u8>(), any::<u8>()), 1..length_max)
}

/// A fleet to which every event has happened.
pub(crate) fn everything() -> World {
    let mut world = World::new();
    for n in 1..=3 {
        world.node(n, &format!("edge-{n}"), "site=lyon");
    }
    let waiting = world.token(|token| token.approval = Approval::Required);
    world.done(Caller::Anonymous, admission(waiting, 4, "edge-4"));
    world.person("ann", "viewer", Some("site=lyon"));
    let gone = RevokeNode {
        node: node_id(3),
        reason: "stolen".to_owned(),
    };
    world.done(world.admin, Operation::RevokeNode(gone));
    // In this order each kind of request finds what it needs.
    for kind in 0..26 {
        for (a, b) in [(1, 0), (0, 1), (2, 3), (1, 1), (0, 2), (0, 4)] {
            let (caller, operation) = request(&world, (kind, a, b));
            world.ask(caller, operation).ok();
        }
    }
    let denied = Event::RequestDenied(RequestDenied {
        code: ErrorCode::AccessDenied,
        reason: "no grant gives node:revoke".to_owned(),
        nodes: vec![node_id(1)],
        node_count: 1,
    });
    let rejected = Event::RequestRejected(RequestRejected {
        code: ErrorCode::NodeNotFound,
        detail: "there is no node".to_owned(),
    });
    let counted = Event::DenialsCounted(DenialsCounted {
        caller: Some(Caller::Anonymous),
        from: UnixMillis(1),
        until: UnixMillis(2),
        count: 1_000_000,
    });
    for event in [denied, rejected, counted] {
        let mut record = world.records[0].clone();
        record.seq = world.fleet.seq() + 1;
        record.by = Caller::System;
        record.event = event;
        world.fleet.apply(&record);
        world.records.push(record);
    }
    world
}

/// A fleet after a story made of chance; requests that are refused leave nothing.
pub(crate) fn told(steps: &[Step]) -> World {
    let mut world = World::new();
    for &step in steps {
        let (caller, operation) = request(&world, step);
        world.ask(caller, operation).ok();
    }
    world
}

/// Who asks for what in a step, given what there is by then.
pub(crate) fn request(world: &World, (kind, a, b): Step) -> (Caller, Operation) {
    let node = node_id(u16::from(a % 6));
    let admin = world.admin;
    match kind {
        0..=4 => joining(world, kind, a, b),
        5..=11 => managing(admin, kind, node, node_id(u16::from(b % 6)), b),
        12..=21 => {
            let operation = granting(world, kind, a, b);
            match operation {
                Operation::RaiseIncarnation(_) => (Caller::System, operation),
                _ => (admin, operation),
            }
        }
        22 => (Caller::Host, recovery(a)),
        23 => {
            let selector = ["*", "site=lyon", "name=edge-1"][usize::from(a % 3)];
            let action = [run(), Action::Ping, Action::Reload][usize::from(b % 3)].clone();
            let mut asked = order(selector, action);
            asked.empty = EmptyAim::Allow;
            (admin, Operation::IssueCommand(asked))
        }
        24 => {
            let command = command(world, a);
            (admin, Operation::CancelCommand(CancelCommand { command }))
        }
        _ => {
            let command = command(world, a);
            let targets = world.fleet.commands().get(command);
            let counts = Counts {
                unreachable: targets.map_or(0, |command| command.target_count),
                ..Counts::default()
            };
            let concluded = ConcludeCommand {
                command,
                counts,
                merkle_root: Digest([b; 32]),
            };
            (Caller::System, Operation::ConcludeCommand(concluded))
        }
    }
}

fn joining(world: &World, kind: u8, a: u8, b: u8) -> (Caller, Operation) {
    let token = nth(world.fleet.tokens().map(|token| token.id), b);
    let operation = match kind {
        0 => Operation::CreateToken(crate::domain::fleet::token::CreateToken {
            secret: SecretDigest::of(&[2; 32]),
            labels: parsed("site=paris"),
            lifetime: HOUR,
            uses_max: u32::from(b % 3),
            approval: if a.is_multiple_of(2) {
                Approval::Automatic
            } else {
                Approval::Required
            },
            replaces: (b % 5 == 1).then(|| node_id(u16::from(a % 6))),
        }),
        1 | 2 => {
            let token = token.unwrap_or(TokenId::NIL);
            let join = admission(token, u16::from(a % 6), &format!("edge-{}", b % 4));
            return (Caller::Anonymous, join);
        }
        3 => Operation::ApproveNode(ApproveNode {
            node: node_id(u16::from(a % 6) + u16::from(b) * 3),
        }),
        _ => Operation::RevokeToken(RevokeToken {
            token: token.unwrap_or(TokenId::NIL),
        }),
    };
    (world.admin, operation)
}

fn managing(admin: Caller, kind: u8, node: NodeId, other: NodeId, b: u8) -> (Caller, Operation) {
    match kind {
        5 => {
            let name = format!("name-{}", b % 4);
            (admin, Operation::RenameNode(RenameNode { node, name }))
        }
        6 => {
            let asked = RelabelNode {
                node,
                set: parsed(&format!("rack={}", b % 3)),
                remove: BTreeSet::from(["site".to_owned()]),
            };
            (admin, Operation::RelabelNode(asked))
        }
        7 => {
            let certificate = Certificate {
                serial: format!("{b:02x}"),
                expires_at: UnixMillis(u64::from(b)),
            };
            let asked = CertifyNode {
                node,
                certificate,
                authority: Some(Digest([b | 0x80; 32])),
            };
            (Caller::System, Operation::CertifyNode(asked))
        }
        8 => {
            let asked = SuspectIdentity {
                node,
                doubt: Doubt::StoreChanged,
                detail: "another store".to_owned(),
            };
            (Caller::System, Operation::SuspectIdentity(asked))
        }
        9 => {
            let note = "it was me".to_owned();
            (
                admin,
                Operation::ResolveIdentity(ResolveIdentity { node, note }),
            )
        }
        10 => {
            let asked = ReplaceNode {
                old: node,
                new: other,
            };
            (admin, Operation::ReplaceNode(asked))
        }
        _ => {
            let reason = "lost".to_owned();
            (admin, Operation::RevokeNode(RevokeNode { node, reason }))
        }
    }
}

fn granting(world: &World, kind: u8, a: u8, b: u8) -> Operation {
    let access = world.fleet.access();
    let principal = nth(access.principals().map(|known| known.id), a).unwrap_or(PrincipalId::NIL);
    let key = nth(access.keys().map(|key| key.id), a).unwrap_or(ApiKeyId::NIL);
    let name = format!("role-{}", a % 3);
    let name = name.parse().unwrap();
    let parent = format!("role-{}", b % 3).parse().unwrap();
    match kind {
        12 => Operation::CreatePrincipal(CreatePrincipal {
            name: format!("person-{}", a % 4),
            kind: PrincipalKind::Person,
        }),
        13 => Operation::CreateRole(CreateRole {
            name,
            description: "made by chance".to_owned(),
            permissions: permissions(&["node:*"]),
            inherits: BTreeSet::new(),
        }),
        14 => Operation::UpdateRole(UpdateRole {
            name,
            description: String::new(),
            permissions: permissions(&["*:read"]),
            inherits: BTreeSet::from([parent]),
        }),
        15 => Operation::CreateGrant(CreateGrant {
            principal,
            role: name,
            on: b.is_multiple_of(2).then(|| "site=lyon".parse().unwrap()),
        }),
        16 => create_key(principal, Some(&["node:read"])),
        17 => Operation::RotateKey(RotateKey {
            key,
            secret: SecretDigest::of(&[4; 32]),
            overlap: HOUR,
            lifetime: None,
        }),
        18 => Operation::RevokeKey(RevokeKey { key }),
        19 => Operation::RevokeGrant(RevokeGrant {
            grant: nth(access.grants().map(|grant| grant.id), b).unwrap_or(GrantId::NIL),
        }),
        20 => Operation::DeleteRole(DeleteRole { name }),
        _ if b == 1 => Operation::EnablePrincipal(EnablePrincipal {
            principal: nth(
                access
                    .principals()
                    .filter(|known| known.disabled_at.is_some())
                    .map(|known| known.id),
                a,
            )
            .unwrap_or(principal),
        }),
        _ if b % 3 == 2 => Operation::RaiseIncarnation(RaiseIncarnation {
            above: u64::from(a),
            reason: "restored".to_owned(),
        }),
        _ if b % 3 == 1 => Operation::PublishTrust(PublishTrust {
            version: u64::from(b),
            digest: Digest([a; 32]),
            controller_keys: BTreeSet::from([PublicKey([a; 32])]),
            authorities: BTreeSet::from([Digest([a; 32])]),
            signed: "AA.AA".to_owned(),
            retire: Retire::Unused,
        }),
        _ => Operation::DisablePrincipal(DisablePrincipal { principal }),
    }
}

fn recovery(a: u8) -> Operation {
    Operation::RecoverAdmin(RecoverAdmin {
        name: format!("admin-{}", a % 3),
        secret: SecretDigest::of(&[6; 32]),
        lifetime: None,
    })
}

fn command(world: &World, a: u8) -> CommandId {
    nth(world.fleet.commands().iter().map(|command| command.id), a).unwrap_or(CommandId::NIL)
}

fn nth<T>(items: impl Iterator<Item = T>, n: u8) -> Option<T> {
    let items: Vec<T> = items.collect();
    let count = items.len();
    items.into_iter().nth(usize::from(n) % count.max(1))
}
