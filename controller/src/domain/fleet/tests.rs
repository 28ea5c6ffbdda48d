//! Given a fleet, when nodes join, are managed and fall into doubt, then.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

use std::collections::BTreeSet;

use protocol::id::TokenId;
use protocol::key::PublicKey;
use protocol::time::UnixMillis;

use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::admit::ApproveNode;
use crate::domain::fleet::manage::{
    CertifyNode, RelabelNode, RenameNode, ReplaceNode, ResolveIdentity, RevokeNode, SuspectIdentity,
};
use crate::domain::fleet::node::{Certificate, Doubt, NodeState};
use crate::domain::fleet::token::{Approval, RevokeToken};
use crate::domain::fleet::trust::{PublishTrust, RaiseIncarnation, Retire};
use crate::domain::given::{HOUR, World, admission, node_id, parsed};
use crate::domain::operation::Operation;

fn with_secret(operation: Operation, secret: [u8; 32]) -> Operation {
    match operation {
        Operation::AdmitNode(mut asked) => {
            asked.secret = SecretDigest::of(&secret);
            Operation::AdmitNode(asked)
        }
        other => other,
    }
}

fn with_key(operation: Operation, key: u8) -> Operation {
    match operation {
        Operation::AdmitNode(mut asked) => {
            asked.signing_key = PublicKey([key; 32]);
            Operation::AdmitNode(asked)
        }
        other => other,
    }
}

fn revoke(n: u16) -> Operation {
    Operation::RevokeNode(RevokeNode {
        node: node_id(n),
        reason: "lost".to_owned(),
    })
}

fn suspect(n: u16) -> Operation {
    Operation::SuspectIdentity(SuspectIdentity {
        node: node_id(n),
        doubt: Doubt::CounterReused,
        detail: "counter 7 again".to_owned(),
    })
}

#[test]
fn a_node_joins_with_the_tokens_labels_and_uses_it_up() {
    let mut world = World::new();
    let token = world.token(|token| {
        token.labels = parsed("site=lyon");
        token.uses_max = 2;
    });
    for n in 1..=2 {
        world.done(Caller::Anonymous, admission(token, n, &format!("edge-{n}")));
    }
    let node = world.fleet.node_named("edge-1").unwrap();
    assert_eq!(node.labels, parsed("site=lyon"));
    assert!(node.is_active());
    assert_eq!(
        world.refused(Caller::Anonymous, admission(token, 3, "edge-3")),
        "token.exhausted"
    );
}

#[test]
fn a_token_that_does_not_count_lets_nobody_in() {
    let mut world = World::new();
    let admin = world.admin;
    let token = world.token(|_| {});
    let unknown = TokenId::from_bytes([0xee; 10]);
    let join = |token| admission(token, 1, "edge");
    assert_eq!(
        world.refused(Caller::Anonymous, join(unknown)),
        "token.unknown"
    );
    assert_eq!(
        world.refused(Caller::Anonymous, with_secret(join(token), [8; 32])),
        "token.unknown"
    );
    world.done(admin, Operation::RevokeToken(RevokeToken { token }));
    assert_eq!(
        world.refused(Caller::Anonymous, join(token)),
        "token.revoked"
    );
    assert_eq!(
        world.refused(admin, Operation::RevokeToken(RevokeToken { token })),
        "token.revoked"
    );
    assert_eq!(
        world.refused(
            admin,
            Operation::RevokeToken(RevokeToken { token: unknown })
        ),
        "token.not_found"
    );

    let short = world.token(|token| token.lifetime = HOUR);
    world.now = world.now.after(HOUR);
    assert_eq!(
        world.refused(Caller::Anonymous, join(short)),
        "token.expired"
    );
}

#[test]
fn asking_again_after_a_lost_answer_changes_nothing() {
    let mut world = World::new();
    let token = world.token(|token| token.uses_max = 1);
    world.done(Caller::Anonymous, admission(token, 1, "edge"));
    assert_eq!(
        world.done(Caller::Anonymous, admission(token, 1, "edge")),
        []
    );
    assert_eq!(
        world.refused(
            Caller::Anonymous,
            with_secret(admission(token, 1, "edge"), [8; 32])
        ),
        "token.unknown"
    );
}

#[test]
fn an_id_or_a_key_that_is_taken_is_refused() {
    let mut world = World::new();
    world.node(1, "edge", "");
    let token = world.token(|_| {});
    assert_eq!(
        world.refused(Caller::Anonymous, admission(token, 1, "other")),
        "node.id_taken"
    );
    assert_eq!(
        world.refused(Caller::Anonymous, with_key(admission(token, 1, "other"), 5)),
        "node.id_taken"
    );
    world.done(Caller::Anonymous, with_key(admission(token, 2, "other"), 5));
    assert_eq!(
        world.refused(Caller::Anonymous, with_key(admission(token, 3, "third"), 5)),
        "node.key_taken"
    );
    let nil = match admission(token, 4, "nil") {
        Operation::AdmitNode(mut asked) => {
            asked.node = protocol::id::NodeId::NIL;
            Operation::AdmitNode(asked)
        }
        other => other,
    };
    assert_eq!(world.refused(Caller::Anonymous, nil), "node.id_taken");
}

#[test]
fn a_revoked_node_does_not_get_in_by_asking_again() {
    let mut world = World::new();
    let token = world.token(|_| {});
    world.done(Caller::Anonymous, admission(token, 1, "edge"));
    let admin = world.admin;
    world.done(admin, revoke(1));
    assert_eq!(
        world.refused(Caller::Anonymous, admission(token, 1, "edge")),
        "join.rejected"
    );
}

#[test]
fn a_taken_or_odd_name_is_replaced_by_one_that_is_free() {
    let mut world = World::new();
    world.node(1, "edge", "");
    let token = world.token(|_| {});
    for (n, wanted) in [(2, "edge"), (3, "no name!"), (4, ""), (5, "…")] {
        world.done(Caller::Anonymous, admission(token, n, wanted));
        let name = &world.fleet.node(node_id(n)).unwrap().name;
        assert!(protocol::label::check_name(name).is_ok(), "{name}");
        assert_eq!(world.fleet.node_named(name).unwrap().id, node_id(n));
    }
    let second = &world.fleet.node(node_id(2)).unwrap().name;
    assert!(second.starts_with("edge-"), "{second}");
}

#[test]
fn a_waiting_node_is_let_in_once() {
    let mut world = World::new();
    let admin = world.admin;
    let token = world.token(|token| token.approval = Approval::Required);
    world.done(Caller::Anonymous, admission(token, 1, "edge"));
    assert_eq!(
        world.fleet.node(node_id(1)).unwrap().state,
        NodeState::Pending
    );
    let approve = || Operation::ApproveNode(ApproveNode { node: node_id(1) });
    world.done(admin, approve());
    assert!(world.fleet.node(node_id(1)).unwrap().is_active());
    assert_eq!(world.refused(admin, approve()), "node.not_pending");
}

#[test]
fn names_stay_unique_and_become_free_when_a_node_leaves() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    world.node(2, "b", "");
    let rename = |n, name: &str| {
        Operation::RenameNode(RenameNode {
            node: node_id(n),
            name: name.to_owned(),
        })
    };
    assert_eq!(world.refused(admin, rename(1, "b")), "node.name_taken");
    assert_eq!(world.refused(admin, rename(1, "no/name")), "label.invalid");
    assert_eq!(world.done(admin, rename(1, "a")), []);
    world.done(admin, revoke(2));
    world.done(admin, rename(1, "b"));
    assert_eq!(world.fleet.node_named("b").unwrap().id, node_id(1));
    assert!(world.fleet.node_named("a").is_none());
    assert_eq!(world.refused(admin, rename(2, "c")), "node.revoked");
    assert_eq!(world.refused(admin, rename(9, "c")), "node.not_found");
}

#[test]
fn labels_are_removed_and_set() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "site=lyon,role=web");
    let relabel = |set: &str, remove: &[&str]| {
        Operation::RelabelNode(RelabelNode {
            node: node_id(1),
            set: parsed(set),
            remove: remove.iter().map(|key| (*key).to_owned()).collect(),
        })
    };
    world.done(admin, relabel("site=paris,gpu=", &["role", "none"]));
    assert_eq!(
        world.fleet.node(node_id(1)).unwrap().labels,
        parsed("site=paris,gpu=")
    );
    assert_eq!(world.done(admin, relabel("site=paris", &[])), []);
    let many: String = (0..63).map(|n| format!("k{n}=v,")).collect();
    assert_eq!(world.refused(admin, relabel(&many, &[])), "label.invalid");
}

#[test]
fn a_replacing_node_takes_over_name_labels_and_duties() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "db", "role=db,site=lyon");
    world.node(2, "spare", "disk=ssd,site=store");
    let replace = |old, new| {
        Operation::ReplaceNode(ReplaceNode {
            old: node_id(old),
            new: node_id(new),
        })
    };
    assert_eq!(world.refused(admin, replace(1, 1)), "request.invalid");
    assert_eq!(world.refused(admin, replace(1, 9)), "node.not_found");
    world.done(admin, replace(1, 2));
    let new = world.fleet.node_named("db").unwrap();
    assert_eq!((new.id, new.replaces), (node_id(2), Some(node_id(1))));
    assert_eq!(new.labels, parsed("disk=ssd,role=db,site=lyon"));
    assert!(world.fleet.node_named("spare").is_none());
    assert!(world.fleet.node(node_id(1)).unwrap().has_left());
    assert_eq!(world.refused(admin, replace(1, 2)), "node.revoked");
}

#[test]
fn a_token_for_a_replacement_works_once_and_after_approval() {
    for approval in [Approval::Automatic, Approval::Required] {
        let mut world = World::new();
        let admin = world.admin;
        world.node(1, "db", "role=db");
        let token = world.token(|token| {
            token.replaces = Some(node_id(1));
            token.uses_max = 1;
            token.approval = approval;
        });
        world.done(Caller::Anonymous, admission(token, 2, "new"));
        if approval == Approval::Required {
            assert_eq!(world.fleet.node_named("db").unwrap().id, node_id(1));
            world.done(
                admin,
                Operation::ApproveNode(ApproveNode { node: node_id(2) }),
            );
        }
        let new = world.fleet.node_named("db").unwrap();
        assert_eq!((new.id, new.labels.get("role")), (node_id(2), Some("db")));
    }
}

#[test]
fn a_pending_or_departed_node_cannot_take_over() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    let token = world.token(|token| token.approval = Approval::Required);
    world.done(Caller::Anonymous, admission(token, 2, "b"));
    let replace = Operation::ReplaceNode(ReplaceNode {
        old: node_id(1),
        new: node_id(2),
    });
    assert_eq!(world.refused(admin, replace.clone()), "node.not_active");
    world.done(admin, revoke(2));
    assert_eq!(world.refused(admin, replace), "node.not_active");
}

#[test]
fn tokens_have_limits() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    world.node(2, "gone", "");
    world.done(admin, revoke(2));
    type Change = fn(&mut crate::domain::fleet::token::CreateToken);
    let cases: [(Change, &str); 6] = [
        (
            |token| token.lifetime = std::time::Duration::ZERO,
            "request.invalid",
        ),
        (|token| token.lifetime = 10_000 * HOUR, "request.invalid"),
        (|token| token.uses_max = 0, "request.invalid"),
        (|token| token.uses_max = 100_001, "request.invalid"),
        (|token| token.replaces = Some(node_id(1)), "request.invalid"),
        (|token| token.replaces = Some(node_id(2)), "node.not_active"),
    ];
    for (index, (change, code)) in cases.into_iter().enumerate() {
        let mut asked = crate::domain::fleet::token::CreateToken {
            secret: SecretDigest::of(&[2; 32]),
            labels: parsed(""),
            lifetime: HOUR,
            uses_max: 5,
            approval: Approval::Automatic,
            replaces: None,
        };
        change(&mut asked);
        assert_eq!(
            world.refused(admin, Operation::CreateToken(asked)),
            code,
            "case {index}"
        );
    }
}

#[test]
fn open_tokens_are_bounded_and_spent_ones_forgotten() {
    let mut world = World::new();
    let admin = world.admin;
    for _ in 0..super::token::TOKENS_OPEN_MAX {
        world.token(|token| token.lifetime = 2 * HOUR);
    }
    let one_more = Operation::CreateToken(crate::domain::fleet::token::CreateToken {
        secret: SecretDigest::of(&[2; 32]),
        labels: parsed(""),
        lifetime: HOUR,
        uses_max: 1,
        approval: Approval::Automatic,
        replaces: None,
    });
    assert_eq!(world.refused(admin, one_more.clone()), "limit.reached");
    for _ in 0..6 {
        world.now = world.now.after(3 * HOUR);
        for _ in 0..super::token::TOKENS_OPEN_MAX {
            world.done(admin, one_more.clone());
        }
    }
    assert_eq!(world.fleet.tokens().count(), super::token::TOKENS_COUNT_MAX);
}

#[test]
fn certificates_are_remembered_for_active_nodes() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    let certify = || {
        Operation::CertifyNode(CertifyNode {
            node: node_id(1),
            certificate: Certificate {
                serial: "0a".to_owned(),
                expires_at: UnixMillis(5),
            },
            authority: None,
        })
    };
    world.done(Caller::Node(node_id(1)), certify());
    world.done(Caller::System, certify());
    assert_eq!(
        world
            .fleet
            .node(node_id(1))
            .unwrap()
            .certificate
            .as_ref()
            .unwrap()
            .serial,
        "0a"
    );
    assert_eq!(
        world.refused(Caller::Node(node_id(2)), certify()),
        "access.denied"
    );
    assert_eq!(world.refused(admin, certify()), "access.denied");
    world.done(admin, revoke(1));
    assert_eq!(world.refused(Caller::System, certify()), "node.revoked");
}

#[test]
fn a_suspect_identity_stays_so_until_an_operator_resolves_it() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    let resolve = || {
        Operation::ResolveIdentity(ResolveIdentity {
            node: node_id(1),
            note: "disk was put back by me".to_owned(),
        })
    };
    assert_eq!(world.refused(admin, resolve()), "node.not_suspect");
    assert_eq!(world.refused(admin, suspect(1)), "access.denied");
    world.done(Caller::System, suspect(1));
    assert_eq!(world.done(Caller::System, suspect(1)), []);
    let suspicion = world.fleet.node(node_id(1)).unwrap().suspicion.clone();
    assert_eq!(suspicion.unwrap().doubt, Doubt::CounterReused);
    assert_eq!(world.refused(Caller::System, resolve()), "access.denied");
    world.done(admin, resolve());
    assert!(world.fleet.node(node_id(1)).unwrap().suspicion.is_none());
}

#[test]
fn a_revoked_node_stays_revoked() {
    let mut world = World::new();
    let admin = world.admin;
    world.node(1, "a", "");
    world.done(admin, revoke(1));
    assert_eq!(world.refused(admin, revoke(1)), "node.revoked");
    assert_eq!(world.refused(Caller::System, suspect(1)), "node.revoked");
}

#[test]
fn the_incarnation_rises_above_what_nodes_hold() {
    let mut world = World::new();
    let raise = |above| {
        Operation::RaiseIncarnation(RaiseIncarnation {
            above,
            reason: "restored".to_owned(),
        })
    };
    world.done(Caller::System, raise(0));
    assert_eq!(world.fleet.incarnation(), 2);
    world.done(Caller::System, raise(40));
    assert_eq!(world.fleet.incarnation(), 41);
    world.done(Caller::System, raise(3));
    assert_eq!(world.fleet.incarnation(), 42);
    assert_eq!(
        world.refused(Caller::System, raise(u64::MAX)),
        "fleet.stale"
    );
    let admin = world.admin;
    assert_eq!(world.refused(admin, raise(0)), "access.denied");
}

fn trust_set(version: u64, digest: u8, authorities: &[u8]) -> PublishTrust {
    PublishTrust {
        version,
        digest: Digest([digest; 32]),
        controller_keys: BTreeSet::from([PublicKey([1; 32])]),
        authorities: authorities.iter().map(|a| Digest([*a; 32])).collect(),
        signed: String::new(),
        retire: Retire::Unused,
    }
}

#[test]
fn only_a_newer_trust_set_comes_into_force() {
    let mut world = World::new();
    let admin = world.admin;
    let publish = |version, digest| Operation::PublishTrust(trust_set(version, digest, &[1]));
    world.done(Caller::System, publish(1, 1));
    assert_eq!(world.done(Caller::System, publish(1, 1)), []);
    assert_eq!(world.refused(Caller::System, publish(1, 2)), "fleet.stale");
    world.done(admin, publish(3, 2));
    assert_eq!(world.fleet.trust().version, 3);
    assert_eq!(world.refused(Caller::System, publish(2, 2)), "fleet.stale");
    let empty = Operation::PublishTrust(PublishTrust {
        controller_keys: BTreeSet::new(),
        ..trust_set(4, 4, &[1])
    });
    assert_eq!(world.refused(Caller::System, empty), "request.invalid");
}

#[test]
fn a_ca_stays_while_a_node_needs_it_unless_it_is_forced_out() {
    let mut world = World::new();
    let certify = |n: u16, authority: Option<u8>, until: UnixMillis| {
        Operation::CertifyNode(CertifyNode {
            node: node_id(n),
            certificate: Certificate {
                serial: "0a".to_owned(),
                expires_at: until,
            },
            authority: authority.map(|a| Digest([a; 32])),
        })
    };
    let until = world.now.after(HOUR);
    for (n, authority) in [(1, Some(1)), (2, None), (3, Some(2))] {
        world.node(n, &format!("edge-{n}"), "");
        world.done(Caller::System, certify(n, authority, until));
    }
    world.done(
        Caller::System,
        Operation::PublishTrust(trust_set(1, 1, &[1, 2])),
    );
    let retire = || Operation::PublishTrust(trust_set(2, 2, &[2]));
    // One has the CA's certificate, and of the other it is not known.
    assert_eq!(world.refused(Caller::System, retire()), "trust.in_use");
    let why =
        super::trust::check_retired(&world.fleet, &BTreeSet::from([Digest([2; 32])]), world.now)
            .unwrap_err();
    assert!(why.detail.contains("2 active nodes"), "{}", why.detail);
    assert!(why.detail.contains("edge-1, edge-2"), "{}", why.detail);

    // A node that renewed and one whose certificate has ended need it no longer.
    world.done(Caller::System, certify(1, Some(2), until.after(HOUR)));
    world.now = until;
    world.done(Caller::System, retire());

    world.done(
        Caller::System,
        Operation::PublishTrust(trust_set(3, 3, &[2, 3])),
    );
    let next = trust_set(4, 4, &[3]);
    assert_eq!(
        world.refused(Caller::System, Operation::PublishTrust(next.clone())),
        "trust.in_use"
    );
    let forced = Operation::PublishTrust(PublishTrust {
        retire: Retire::Forced,
        ..next
    });
    world.done(Caller::System, forced);
}

#[test]
fn events_for_what_is_not_there_change_nothing() {
    let mut world = World::new();
    world.node(1, "a", "");
    let before = world.fleet.clone();
    let stray = [
        Event::NodeApproved(super::event::NodeApproved { node: node_id(9) }),
        Event::NodeReplaced(super::event::NodeReplaced {
            old: node_id(9),
            new: node_id(1),
        }),
        Event::TokenRevoked(super::event::TokenRevoked {
            token: TokenId::from_bytes([9; 10]),
        }),
    ];
    for event in stray {
        let mut record = world.records[0].clone();
        record.seq = before.seq();
        record.event = event;
        world.fleet.apply(&record);
    }
    assert_eq!(world.fleet, before);
}
