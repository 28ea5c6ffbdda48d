//! For tests: a fleet that things have happened to. Every request goes through
//! the same `admit`, `decide` and `apply` as in the engine.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

pub(crate) mod story;

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::command::Action;
use protocol::deployment::spec::{Image, Service, Spec};
use protocol::id::{ApiKeyId, FleetId, NodeId, PrincipalId, RolloutId, TokenId};
use protocol::key::PublicKey;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::{CreateGrant, CreateKey, CreatePrincipal, RecoverAdmin};
use crate::domain::access::permission::Permission;
use crate::domain::access::principal::PrincipalKind;
use crate::domain::audit::record::Record;
use crate::domain::command::Hours;
use crate::domain::command::issue::{Aim, EmptyAim, IssueCommand};
use crate::domain::decide::{Decided, Refusal, admit, decide};
use crate::domain::deployment::apply::{ApplyDeployment, How};
use crate::domain::deployment::steer::RecordRollout;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::admit::AdmitNode;
use crate::domain::fleet::node::AdmissionFacts;
use crate::domain::fleet::token::{Approval, CreateToken};
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::domain::rollout::event::{Counts, Decision, Outcome, RolloutFinished};
use crate::domain::rollout::params::Params;

pub(crate) const FLEET: FleetId = FleetId::from_bytes([0xf1; 10]);
pub(crate) const START: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A fleet, its records, and a clock that moves a second with each request.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) records: Vec<Record>,
    pub(crate) now: UnixMillis,
    /// Has the role `admin` on the whole fleet.
    pub(crate) admin: Caller,
    pub(crate) seed: u64,
}

impl World {
    /// A fleet with an admin and nothing else.
    pub(crate) fn new() -> Self {
        let mut world = Self {
            fleet: Fleet::new(FLEET),
            records: Vec::new(),
            now: START,
            admin: Caller::Anonymous,
            seed: 0,
        };
        let events = world.done(
            Caller::Host,
            Operation::RecoverAdmin(RecoverAdmin {
                name: "root".to_owned(),
                secret: SecretDigest::of(&[1; 32]),
                lifetime: None,
            }),
        );
        world.admin = key_in(&events);
        world
    }

    pub(crate) fn moment(&mut self) -> Moment {
        self.now = self.now.after(Duration::from_secs(1));
        self.seed += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_be_bytes());
        Moment::new(self.now, seed)
    }

    /// What the request leads to; it is taken into the fleet.
    pub(crate) fn ask(&mut self, caller: Caller, operation: Operation) -> Result<Decided, Refusal> {
        let at = self.moment();
        admit(&self.fleet, &caller, &operation)?;
        let decided = decide(&self.fleet, &caller, &operation, &at).map_err(Refusal::Rejected)?;
        for event in &decided.events {
            let record = Record {
                seq: self.fleet.seq() + 1,
                at: at.now,
                by: caller,
                request: None,
                operation: operation.name().to_owned(),
                version: event.version(),
                event: event.clone(),
            };
            self.fleet.apply(&record);
            self.records.push(record);
        }
        Ok(decided)
    }

    /// The events of a request that must succeed.
    pub(crate) fn done(&mut self, caller: Caller, operation: Operation) -> Vec<Event> {
        let name = operation.name();
        match self.ask(caller, operation) {
            Ok(decided) => decided.events,
            Err(refusal) => panic!("{name}: {refusal}"),
        }
    }

    /// The code of a request that must be refused, which changes nothing.
    pub(crate) fn refused(&mut self, caller: Caller, operation: Operation) -> &'static str {
        let before = self.fleet.clone();
        let name = operation.name();
        match self.ask(caller, operation) {
            Ok(decided) => panic!("{name} was allowed: {decided:?}"),
            Err(refusal) => {
                assert_eq!(self.fleet, before, "{name} changed something");
                refusal.code().text()
            }
        }
    }

    pub(crate) fn token(&mut self, change: impl FnOnce(&mut CreateToken)) -> TokenId {
        let mut asked = CreateToken {
            secret: SecretDigest::of(&[2; 32]),
            labels: Labels::new(),
            lifetime: 24 * HOUR,
            uses_max: 1_000,
            approval: Approval::Automatic,
            replaces: None,
        };
        change(&mut asked);
        match &self.done(self.admin, Operation::CreateToken(asked))[..] {
            [Event::TokenCreated(created)] => created.token,
            other => panic!("{other:?}"),
        }
    }

    /// An active node with that number, name and labels.
    pub(crate) fn node(&mut self, n: u16, name: &str, labels: &str) -> NodeId {
        let token = self.token(|token| token.labels = parsed(labels));
        self.done(Caller::Anonymous, admission(token, n, name));
        node_id(n)
    }

    /// A principal that has the role, on the whole fleet or on some nodes.
    pub(crate) fn person(&mut self, name: &str, role: &str, on: Option<&str>) -> Caller {
        let admin = self.admin;
        let events = self.done(
            admin,
            Operation::CreatePrincipal(CreatePrincipal {
                name: name.to_owned(),
                kind: PrincipalKind::Person,
            }),
        );
        let [Event::PrincipalCreated(created)] = &events[..] else {
            panic!("{events:?}");
        };
        self.grant(created.principal, role, on);
        self.key(created.principal, None)
    }

    pub(crate) fn grant(&mut self, principal: PrincipalId, role: &str, on: Option<&str>) {
        let admin = self.admin;
        self.done(
            admin,
            Operation::CreateGrant(CreateGrant {
                principal,
                role: role.parse().unwrap(),
                on: on.map(|selector| selector.parse().unwrap()),
            }),
        );
    }

    /// A new key of the principal, with its scope.
    pub(crate) fn key(&mut self, principal: PrincipalId, scope: Option<&[&str]>) -> Caller {
        let admin = self.admin;
        let events = self.done(admin, create_key(principal, scope));
        key_in(&events)
    }
}

pub(crate) fn create_key(principal: PrincipalId, scope: Option<&[&str]>) -> Operation {
    Operation::CreateKey(CreateKey {
        principal,
        secret: SecretDigest::of(&[3; 32]),
        scope: scope.map(permissions),
        note: String::new(),
        lifetime: Some(1_000 * HOUR),
    })
}

pub(crate) fn permissions(texts: &[&str]) -> BTreeSet<Permission> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The caller that shows the key which these events made.
pub(crate) fn key_in(events: &[Event]) -> Caller {
    events
        .iter()
        .find_map(|event| match event {
            Event::KeyCreated(created) => Some(Caller::Principal {
                id: created.principal,
                key: created.key,
            }),
            _ => None,
        })
        .expect("a key was made")
}

pub(crate) fn principal_of(caller: Caller) -> (PrincipalId, ApiKeyId) {
    match caller {
        Caller::Principal { id, key } => (id, key),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn node_id(n: u16) -> NodeId {
    let mut bytes = [7; 10];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes)
}

pub(crate) fn admission(token: TokenId, n: u16, name: &str) -> Operation {
    let mut key = [9; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    Operation::AdmitNode(AdmitNode {
        token,
        secret: SecretDigest::of(&[2; 32]),
        node: node_id(n),
        name: name.to_owned(),
        signing_key: PublicKey(key),
        facts: AdmissionFacts::default(),
    })
}

/// Labels from `a=b,c=d`.
pub(crate) fn parsed(labels: &str) -> Labels {
    let pairs = labels
        .split(',')
        .filter(|pair| !pair.is_empty())
        .map(|pair| protocol::label::parse_pair(pair).unwrap());
    Labels::from_pairs(pairs).unwrap()
}

pub(crate) fn order(selector: &str, action: Action) -> IssueCommand {
    IssueCommand {
        on: Aim::Selector(selector.parse().unwrap()),
        action,
        start_within: HOUR,
        run_timeout: Duration::from_secs(60),
        output_bytes_max: 1_000,
        concurrency_max: None,
        rate_per_min: None,
        empty: EmptyAim::Refuse,
        hours: Hours::Windows,
    }
}

/// A project of one service with this image.
pub(crate) fn spec(image: &str) -> Spec {
    let service = Service {
        image: Image {
            reference: format!("docker.io/library/{image}"),
            ..Image::default()
        },
        ..Service::default()
    };
    Spec {
        services: [("web".to_owned(), service)].into(),
        ..Spec::default()
    }
}

/// Everyone who is meant is there.
pub(crate) fn how(params: Params) -> Box<How> {
    Box::new(How {
        params,
        present: BTreeSet::new(),
        empty: EmptyAim::Refuse,
    })
}

pub(crate) fn apply(name: &str, base: u32, selector: &str, image: &str) -> ApplyDeployment {
    ApplyDeployment {
        name: name.to_owned(),
        base,
        selector: selector.parse().unwrap(),
        spec: Box::new(spec(image)),
        how: how(Params::default()),
    }
}

/// The next decision about a rollout, made from its step.
pub(crate) fn decide_next(
    fleet: &Fleet,
    rollout: RolloutId,
    decision: impl FnOnce(u32) -> Decision,
) -> Operation {
    let step = fleet.rollouts().get(rollout).map_or(0, |it| it.course.step);
    Operation::RecordRollout(RecordRollout {
        decision: decision(step),
    })
}

/// A rollout's end with one node that ended so.
pub(crate) fn finished(rollout: RolloutId, step: u32, outcome: Outcome) -> Decision {
    Decision::Finished(RolloutFinished {
        rollout,
        step,
        outcome,
        counts: Counts {
            succeeded: u32::from(outcome == Outcome::Completed),
            failed: u32::from(outcome != Outcome::Completed),
            ..Counts::default()
        },
        merkle_root: Digest([5; 32]),
    })
}

pub(crate) fn run() -> Action {
    Action::Run {
        argv: vec!["uptime".to_owned()],
    }
}
