//! For tests: a story in which every event happens, and one made of chance.

mod guard;

use guard::{alerting, breaking, guarding};
pub(crate) use guard::{by_site, define_rule, disk_full, silence};

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::ErrorCode;
use protocol::breaker::BreakerState;
use protocol::breaker::machine::{Input, Reason, Transition};
use protocol::command::Action;
use protocol::deployment::spec::FileKind;
use protocol::id::{ApiKeyId, CommandId, DeploymentId, NodeId, PrincipalId, RolloutId, TokenId};
use protocol::key::{KeyId, PublicKey};
use protocol::policy::Gated;
use protocol::selector::Selector;
use protocol::time::UnixMillis;

use super::{
    HOUR, World, admission, apply, create_key, decide_next, finished, how, node_id, order, parsed,
    permissions, run,
};
use crate::domain::access::caller::Caller;
use crate::domain::access::grant::GrantId;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::{
    CreateGrant, CreatePrincipal, CreateRole, DeleteRole, DisablePrincipal, EnablePrincipal,
    RecoverAdmin, RevokeGrant, RevokeKey, RotateKey, UpdateRole,
};
use crate::domain::access::principal::PrincipalKind;
use crate::domain::alert::manage::{CreateSilence, DefineAlertRule, EndSilence, RemoveAlertRule};
use crate::domain::alert::rule::AlertRule;
use crate::domain::audit::backup::BackupMade;
use crate::domain::audit::event::{DenialsCounted, RequestDenied, RequestRejected};
use crate::domain::breaker::definition::{Definition, Group, Signal, Span};
use crate::domain::breaker::manage::{
    DefineBreaker, EndOverride, Hand, MoveBreaker, OverrideBreaker, RaisePolicy, RecordBreaker,
    RemoveBreaker, SetLease,
};
use crate::domain::command::Counts;
use crate::domain::command::issue::{Aim, CancelCommand, ConcludeCommand, EmptyAim};
use crate::domain::deployment::apply::{ForgetDeployment, RemoveDeployment, RollBackDeployment};
use crate::domain::deployment::content::{PushArchive, RemoveArchive, RemoveContent, SetContent};
use crate::domain::deployment::steer::{AbortRollout, ApproveRollout, PauseRollout, ResumeRollout};
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::admit::ApproveNode;
use crate::domain::fleet::cordon::{
    CordonNodes, DecommissionNodes, DrainNodes, DrainOutcome, EndDrain, Leaving, UncordonNodes,
};
use crate::domain::fleet::manage::{
    CertifyNode, RelabelNode, RenameNode, ReplaceNode, ResolveIdentity, RevokeNode, SuspectIdentity,
};
use crate::domain::fleet::node::{Certificate, Doubt};
use crate::domain::fleet::token::{Approval, RevokeToken};
use crate::domain::fleet::trust::{PublishTrust, RaiseIncarnation, Retire};
use crate::domain::notice::sink::{RemoveSink, SetSink, Sink};
use crate::domain::notice::{NoticeKind, Severity};
use crate::domain::operation::Operation;
use crate::domain::rollout::event::{
    AfterAbort, Decision, Outcome, RolloutCommitted, RolloutHalted, WaveStarted,
};
use crate::domain::rollout::halt::Evidence;
use crate::domain::rollout::params::{Approve, CommitMode, OnHalt, Params, SelfApproval, Wave};
use crate::domain::window;
use crate::domain::window::manage::{OpenWindow, RemoveWindow, SetWindow, ShutWindow};
use crate::domain::window::schedule::Schedule;

/// One request of a story made of chance: what, and on whom.
pub(crate) type Step = (u8, u8, u8);

/// Stories of up to `length_max` requests.
pub(crate) fn steps(length_max: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..34_u8, any::<u8>(), any::<u8>()), 1..length_max)
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
    setting_aside(&mut world);
    deploying(&mut world);
    contents(&mut world);
    guarding(&mut world);
    opening(&mut world);
    notifying(&mut world);
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
    let backup = Event::BackupMade(BackupMade {
        recipients: vec!["age1example".to_owned()],
    });
    for event in [backup, denied, rejected, counted] {
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
        26..=28 => deployments(world, kind, a, b),
        29 => steering(world, a, b),
        30 | 31 => breaking(world, a, b),
        32 => aside(admin, node, b),
        33 => alerting(world, a, b),
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

/// A node that is taken out of service, or put into it.
fn aside(admin: Caller, node: NodeId, b: u8) -> (Caller, Operation) {
    let nodes = Aim::Nodes(BTreeSet::from([node]));
    let reason = "new kernel".to_owned();
    match b % 5 {
        0 => (admin, Operation::CordonNodes(CordonNodes { nodes, reason })),
        1 => (
            admin,
            Operation::UncordonNodes(UncordonNodes { nodes, reason }),
        ),
        2 => (
            admin,
            Operation::DrainNodes(DrainNodes {
                nodes,
                reason,
                within: HOUR,
            }),
        ),
        3 => (
            admin,
            Operation::DecommissionNodes(DecommissionNodes {
                nodes,
                reason,
                how: Leaving::Drained(HOUR),
            }),
        ),
        _ => (
            Caller::System,
            Operation::EndDrain(EndDrain {
                node,
                how: DrainOutcome::Drained,
                left: 0,
            }),
        ),
    }
}

/// A window is set, opened, shut, opened again and removed; another one stays.
fn opening(world: &mut World) {
    let admin = world.admin;
    for (name, zone) in [("nights", "Europe/Paris"), ("gone", "UTC")] {
        let definition = Box::new(window::Definition {
            name: name.to_owned(),
            nodes: "role=db".parse().unwrap(),
            gated: Gated::of(["deploy", "run"].map(str::to_owned).into()),
            schedule: Schedule {
                days: "mon-fri".parse().unwrap(),
                from: "22:00".parse().unwrap(),
                length_s: 4 * 3600,
                zone: zone.to_owned(),
            },
        });
        world.done(admin, Operation::SetWindow(SetWindow { definition }));
        let open = OpenWindow {
            window: name.to_owned(),
            lifetime: HOUR,
            reason: "security fix".to_owned(),
        };
        world.done(admin, Operation::OpenWindow(open));
    }
    let window = "nights".to_owned();
    world.done(admin, Operation::ShutWindow(ShutWindow { window }));
    let window = "gone".to_owned();
    world.done(admin, Operation::RemoveWindow(RemoveWindow { window }));
}

/// A node is cordoned, put back, drained and cordoned for good; another leaves.
fn setting_aside(world: &mut World) {
    let admin = world.admin;
    world.node(21, "edge-21", "site=nice");
    world.node(22, "edge-22", "site=nice");
    for (n, b) in [(21, 0), (21, 1), (21, 2), (21, 4), (22, 3), (22, 4)] {
        let (caller, operation) = aside(admin, node_id(n), b);
        world.done(caller, operation);
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

fn deployments(world: &World, kind: u8, a: u8, b: u8) -> (Caller, Operation) {
    let name = format!("app-{}", a % 2);
    let known = world.fleet.deployments().named(&name);
    let deployment = known.map_or(DeploymentId::NIL, |known| known.id);
    let base = known.map_or(0, |known| known.newest_number());
    match kind {
        26 => {
            let selector = ["*", "site=lyon", "name=edge-1"][usize::from(b % 3)];
            let asked = apply(&name, base, selector, &format!("nginx:{}", b % 4));
            (world.admin, Operation::ApplyDeployment(asked))
        }
        27 => {
            let asked = RollBackDeployment {
                deployment,
                base,
                to: (b % 2 == 1).then_some(u32::from(b % 4)),
                how: how(Params::default()),
            };
            (world.admin, Operation::RollBackDeployment(asked))
        }
        _ if b % 8 == 7 => {
            let asked = RemoveDeployment { deployment, base };
            (world.admin, Operation::RemoveDeployment(asked))
        }
        _ => {
            let asked = ForgetDeployment { deployment };
            (Caller::System, Operation::ForgetDeployment(asked))
        }
    }
}

fn steering(world: &World, a: u8, b: u8) -> (Caller, Operation) {
    let rollout = nth(world.fleet.rollouts().iter().map(|it| it.id), a).unwrap_or(RolloutId::NIL);
    let reason = "by chance".to_owned();
    let decided = |decision: fn(RolloutId, u32) -> Decision| {
        let asked = decide_next(&world.fleet, rollout, |step| decision(rollout, step));
        (Caller::System, asked)
    };
    match b % 8 {
        0 => {
            let asked = PauseRollout { rollout, reason };
            (world.admin, Operation::PauseRollout(asked))
        }
        1 => {
            let asked = ResumeRollout { rollout };
            (world.admin, Operation::ResumeRollout(asked))
        }
        2 => {
            let then = AfterAbort::Keep;
            let asked = AbortRollout {
                rollout,
                reason,
                then,
            };
            (world.admin, Operation::AbortRollout(asked))
        }
        3 => {
            let wave = None;
            let asked = ApproveRollout { rollout, wave };
            (world.admin, Operation::ApproveRollout(asked))
        }
        4 => decided(|rollout, step| finished(rollout, step, Outcome::Completed)),
        5 => decided(|rollout, step| finished(rollout, step, Outcome::Halted)),
        6 => decided(halted),
        _ => decided(|rollout, step| {
            Decision::WaveStarted(WaveStarted {
                rollout,
                step,
                wave: 0,
            })
        }),
    }
}

fn halted(rollout: RolloutId, step: u32) -> Decision {
    Decision::Halted(RolloutHalted {
        rollout,
        step,
        evidence: Evidence::Breaker {
            breaker: "fleet".to_owned(),
        },
        then: OnHalt::Pause,
    })
}

/// Everything that can happen to a deployment and its rollouts, once.
fn deploying(world: &mut World) {
    let admin = world.admin;
    world.node(9, "edge-9", "site=nice");
    let mut params = Params {
        commit: CommitMode::Barrier,
        self_approval: SelfApproval::Allowed,
        ..Params::default()
    };
    params.waves = vec![Wave {
        approve: Approve::Human,
        ..Wave::default()
    }];
    let reason = "a look".to_owned();
    let mut asked = apply("shop", 0, "site=nice", "nginx:1");
    asked.how = how(params);
    let rollout = started(&world.done(admin, Operation::ApplyDeployment(asked)));
    let pause = PauseRollout {
        rollout,
        reason: reason.clone(),
    };
    world.done(admin, Operation::PauseRollout(pause));
    world.done(admin, Operation::ResumeRollout(ResumeRollout { rollout }));
    let approve = ApproveRollout {
        rollout,
        wave: Some(0),
    };
    world.done(admin, Operation::ApproveRollout(approve));
    let decisions: [fn(RolloutId, u32) -> Decision; 3] = [
        |rollout, step| {
            Decision::WaveStarted(WaveStarted {
                rollout,
                step,
                wave: 0,
            })
        },
        |rollout, step| Decision::Committed(RolloutCommitted { rollout, step }),
        |rollout, step| finished(rollout, step, Outcome::Completed),
    ];
    for decision in decisions {
        let asked = decide_next(&world.fleet, rollout, |step| decision(rollout, step));
        world.done(Caller::System, asked);
    }
    let asked = apply("shop", 1, "site=nice", "nginx:2");
    let rollout = started(&world.done(admin, Operation::ApplyDeployment(asked)));
    let halt = decide_next(&world.fleet, rollout, |step| halted(rollout, step));
    world.done(Caller::System, halt);
    let abort = AbortRollout {
        rollout,
        reason,
        then: AfterAbort::Revert,
    };
    world.done(admin, Operation::AbortRollout(abort));
    let end = decide_next(&world.fleet, rollout, |step| {
        finished(rollout, step, Outcome::Aborted)
    });
    world.done(Caller::System, end);
    let deployment = world.fleet.deployments().named("shop").unwrap().id;
    let remove = RemoveDeployment {
        deployment,
        base: 2,
    };
    world.done(admin, Operation::RemoveDeployment(remove));
    let forget = ForgetDeployment { deployment };
    world.done(Caller::System, Operation::ForgetDeployment(forget));
}

/// Contents that lie beside the state come and go.
fn contents(world: &mut World) {
    let admin = world.admin;
    let kind = FileKind::Secret;
    let name = "db-password".to_owned();
    let digest = Digest([7; 32]);
    for operation in [
        Operation::SetContent(SetContent {
            kind,
            name: name.clone(),
            digest: "ab".repeat(32),
            size_bytes: 12,
        }),
        Operation::RemoveContent(RemoveContent { kind, name }),
        Operation::PushArchive(PushArchive {
            digest,
            size_bytes: 1 << 20,
        }),
        Operation::RemoveArchive(RemoveArchive { digest }),
    ] {
        world.done(admin, operation);
    }
}

/// A sink comes, changes and goes.
fn notifying(world: &mut World) {
    let admin = world.admin;
    let sink = |severity| {
        Operation::SetSink(SetSink {
            sink: Box::new(Sink {
                name: "chat".to_owned(),
                url: "https://chat.example.net/hook".to_owned(),
                kinds: BTreeSet::from([NoticeKind::Breaker, NoticeKind::Node]),
                severity,
                nodes: "site=lyon".parse().unwrap(),
                secret: "ab".repeat(32),
            }),
        })
    };
    world.done(admin, sink(Severity::Info));
    let remove = |name: &str| {
        Operation::RemoveSink(RemoveSink {
            sink: name.to_owned(),
        })
    };
    world.done(admin, remove("chat"));
    world.done(admin, sink(Severity::Warning));
}

/// The rollout that these events started.
pub(crate) fn started(events: &[Event]) -> RolloutId {
    events
        .iter()
        .find_map(|event| match event {
            Event::RolloutStarted(started) => Some(started.rollout),
            _ => None,
        })
        .expect("a rollout was started")
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
