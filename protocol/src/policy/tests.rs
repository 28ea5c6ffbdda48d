//! What nodes believe, what they obey, and what the controller may sign.

use proptest::prelude::*;

use super::*;
use crate::label::Labels;
use crate::limits::DETAIL_BYTES_MAX;

const DAY_MS: u64 = LEASE_MS_DEFAULT;
const WEB: DeploymentId = DeploymentId::from_bytes([8; 10]);
const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

fn fleet() -> FleetId {
    FleetId::from_bytes([1; 10])
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 10])
}

fn gate(state: BreakerState) -> Gate {
    Gate {
        breaker: "deploys".to_owned(),
        state,
        since: NOW,
        scope: Scope::Fleet,
        gated: Gated {
            deploy: true,
            update: false,
            commands: BTreeSet::from(["run".to_owned()]),
        },
        probes: BTreeSet::new(),
        reason: "3 failures in a row, 3 trip it".to_owned(),
    }
}

fn policy(gates: Vec<Gate>) -> Policy {
    Policy {
        fleet: fleet(),
        epoch: 7,
        issued_at: NOW,
        lease_ms: DAY_MS,
        gates,
        overrides: Vec::new(),
        rules: Vec::new(),
    }
}

fn pass(nodes: &str) -> Override {
    Override {
        breaker: "deploys".to_owned(),
        nodes: nodes.parse().unwrap(),
        until: UnixMillis(NOW.0 + 60_000),
        by: "ada".to_owned(),
        reason: "the fix itself".to_owned(),
    }
}

fn labels() -> Labels {
    Labels::from_pairs([("site".to_owned(), "lyon".to_owned())]).unwrap()
}

/// Whether node 2, in Lyon, may, a minute after the policy was signed.
fn admits_at(policy: &Policy, attempt: Attempt<'_>, standing: Standing) -> Result<(), Refusal> {
    let labels = labels();
    let subject = Subject {
        id: node(2),
        name: "lyon-1",
        labels: &labels,
    };
    policy.admit(subject, attempt, standing)
}

fn heard(now: u64, heard_at: Option<u64>) -> Standing {
    Standing {
        now: UnixMillis(NOW.0 + now),
        heard_at: heard_at.map(|at| UnixMillis(NOW.0 + at)),
    }
}

#[track_caller]
fn check(policy: &Policy, attempt: Attempt<'_>, admitted: bool) {
    let found = admits_at(policy, attempt, heard(1_000, Some(500)));
    assert_eq!(found.is_ok(), admitted, "{attempt:?}: {found:?}");
}

const DEPLOY: Attempt<'_> = Attempt::Deploy(WEB);

#[test]
fn a_gate_stops_what_it_names_and_nothing_else() {
    for state in [
        BreakerState::Open,
        BreakerState::Isolated,
        BreakerState::HalfOpen,
    ] {
        let policy = policy(vec![gate(state)]);
        check(&policy, DEPLOY, false);
        check(&policy, Attempt::Command("run"), false);
        check(&policy, Attempt::Command("logs"), true);
        check(&policy, Attempt::Update, true);
        check(&policy, Attempt::Exempt, true);
    }
    check(&policy(Vec::new()), DEPLOY, true);
    check(&policy(vec![gate(BreakerState::Closed)]), DEPLOY, true);
    let mut updates = gate(BreakerState::Open);
    updates.gated = Gated {
        update: true,
        ..Gated::default()
    };
    check(&policy(vec![updates.clone()]), Attempt::Update, false);
    check(&policy(vec![updates]), DEPLOY, true);
}

#[test]
fn a_refusal_names_the_breaker_its_state_the_epoch_and_the_reason() {
    let refusal = admits_at(
        &policy(vec![gate(BreakerState::HalfOpen)]),
        DEPLOY,
        heard(0, None),
    )
    .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "breaker deploys is half_open (policy epoch 7): 3 failures in a row, 3 trip it"
    );
    assert_eq!(
        (refusal.code(), refusal.epoch()),
        (ErrorCode::BreakerOpen, 7)
    );
}

#[test]
fn a_scope_covers_its_part_of_the_fleet() {
    let scoped = |scope| {
        let mut gate = gate(BreakerState::Open);
        gate.scope = scope;
        policy(vec![gate])
    };
    let nodes = |selector: &str| scoped(Scope::Nodes(selector.parse().unwrap()));
    check(&nodes("site=lyon"), DEPLOY, false);
    check(&nodes("site=paris"), DEPLOY, true);
    check(&nodes("name=lyon-1"), Attempt::Command("run"), false);
    let of_web = scoped(Scope::Deployment(WEB));
    check(&of_web, DEPLOY, false);
    check(
        &of_web,
        Attempt::Deploy(DeploymentId::from_bytes([9; 10])),
        true,
    );
    check(&of_web, Attempt::Command("run"), true);
}

#[test]
fn probes_pass_while_it_is_half_open_and_only_then() {
    for (state, admitted) in [
        (BreakerState::HalfOpen, true),
        (BreakerState::Open, false),
        (BreakerState::Isolated, false),
    ] {
        let mut probing = gate(state);
        probing.probes = BTreeSet::from([node(2)]);
        check(&policy(vec![probing.clone()]), DEPLOY, admitted);
        probing.probes = BTreeSet::from([node(3)]);
        check(&policy(vec![probing]), DEPLOY, false);
    }
}

#[test]
fn every_gate_must_be_passed() {
    let mut probing = gate(BreakerState::HalfOpen);
    probing.probes = BTreeSet::from([node(2)]);
    let mut other = gate(BreakerState::Open);
    other.breaker = "silent".to_owned();
    for gates in [vec![probing.clone(), other.clone()], vec![other, probing]] {
        let mut policy = policy(gates);
        check(&policy, DEPLOY, false);
        policy.overrides = vec![pass("*")];
        check(&policy, DEPLOY, false);
        policy.overrides[0].breaker = "silent".to_owned();
        check(&policy, DEPLOY, true);
    }
}

#[test]
fn an_override_is_for_a_breaker_some_nodes_and_a_while() {
    for state in [
        BreakerState::Open,
        BreakerState::Isolated,
        BreakerState::HalfOpen,
    ] {
        let mut policy = policy(vec![gate(state)]);
        policy.overrides = vec![pass("site=lyon")];
        check(&policy, DEPLOY, true);
        let at = |now| admits_at(&policy, DEPLOY, heard(now, Some(0))).is_ok();
        assert!(at(59_999) && !at(60_000), "it ends at its time");
        policy.overrides = vec![pass("site=paris")];
        check(&policy, DEPLOY, false);
    }
}

#[test]
fn the_lease_ends_gated_work_and_nothing_else() {
    let mut policy = policy(Vec::new());
    let at = |policy: &Policy, attempt, now, heard_at| {
        admits_at(policy, attempt, heard(now, heard_at)).map_err(|refusal| refusal.code())
    };
    let over = Err(ErrorCode::PolicyLease);
    assert_eq!(at(&policy, DEPLOY, DAY_MS, None), Ok(()));
    assert_eq!(at(&policy, DEPLOY, DAY_MS + 1, None), over);
    assert_eq!(at(&policy, Attempt::Update, DAY_MS + 1, Some(0)), over);
    assert_eq!(
        at(&policy, Attempt::Command("run"), DAY_MS + 1, Some(0)),
        over
    );
    assert_eq!(at(&policy, Attempt::Exempt, 9 * DAY_MS, None), Ok(()));
    assert_eq!(at(&policy, DEPLOY, DAY_MS + 1, Some(1)), Ok(()));
    let refusal = admits_at(&policy, DEPLOY, heard(2 * DAY_MS, None)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the controller has not been heard for 172800 s, longer than the lease of 86400 s (policy epoch 7)"
    );
    assert_eq!(refusal.epoch(), 7);
    policy.overrides = vec![pass("*")];
    policy.overrides[0].until = UnixMillis(u64::MAX);
    assert_eq!(
        at(&policy, DEPLOY, DAY_MS + 1, None),
        over,
        "no override of it"
    );
    policy.lease_ms = 0;
    assert_eq!(at(&policy, DEPLOY, u64::MAX - NOW.0, None), Ok(()));
}

#[test]
fn a_policy_is_itself_a_word_of_the_controller() {
    let old = Standing {
        now: UnixMillis(NOW.0 + 1),
        heard_at: Some(UnixMillis(NOW.0 - 9 * DAY_MS)),
    };
    assert_eq!(admits_at(&policy(Vec::new()), DEPLOY, old), Ok(()));
}

#[test]
fn only_a_newer_policy_of_our_controller_and_fleet_is_believed() {
    let signed = policy(Vec::new()).sign(&key(1));
    let ours = [key(9).public(), key(1).public()];
    assert_eq!(signed.verify(&ours, fleet(), 6), Ok(policy(Vec::new())));
    assert_eq!(
        signed.verify(&ours[..1], fleet(), 0),
        Err(PolicyError::BadSignature)
    );
    assert_eq!(
        signed.verify(&[], fleet(), 0),
        Err(PolicyError::BadSignature)
    );
    for held in [7, 8] {
        let stale = signed.verify(&ours, fleet(), held).unwrap_err();
        assert_eq!(stale, PolicyError::Stale { found: 7, held });
        assert_eq!(stale.code(), ErrorCode::PolicyStale);
    }
    let other = FleetId::from_bytes([2; 10]);
    let foreign = signed.verify(&ours, other, 0).unwrap_err();
    assert!(matches!(foreign, PolicyError::WrongFleet { .. }));
    assert_eq!(foreign.code(), ErrorCode::PolicyInvalid);
}

#[test]
fn a_policy_that_was_touched_is_not_believed() {
    let signed = policy(vec![gate(BreakerState::Open)]).sign(&key(1));
    let ours = [key(1).public()];
    for index in 0..signed.bytes.len() {
        let mut touched = signed.clone();
        touched.bytes[index] ^= 1;
        assert_eq!(
            touched.verify(&ours, fleet(), 0),
            Err(PolicyError::BadSignature)
        );
    }
    let mut short = signed.clone();
    short.signature.pop();
    assert_eq!(
        short.verify(&ours, fleet(), 0),
        Err(PolicyError::BadSignature)
    );
    // The same bytes signed by the same key as something else.
    let mut bare = signed.clone();
    bare.signature = key(1).sign(&signed.bytes).to_vec();
    assert_eq!(
        bare.verify(&ours, fleet(), 0),
        Err(PolicyError::BadSignature)
    );
    // Another controller key's name on it.
    let mut renamed = signed;
    renamed.key = key(2).public().id();
    let both = [key(1).public(), key(2).public()];
    assert_eq!(
        renamed.verify(&both, fleet(), 0),
        Err(PolicyError::BadSignature)
    );
}

#[test]
fn what_is_signed_and_no_policy_is_malformed() {
    let sign = |bytes: Vec<u8>| SignedPolicy {
        signature: key(1).sign(&[DOMAIN, &bytes].concat()).to_vec(),
        key: key(1).public().id(),
        bytes,
    };
    let mut long = message::encode(&policy(Vec::new()));
    long.push(0);
    for bytes in [
        Vec::new(),
        vec![0xff; 100],
        long,
        vec![0; POLICY_BYTES_MAX + 1],
    ] {
        let error = sign(bytes)
            .verify(&[key(1).public()], fleet(), 0)
            .unwrap_err();
        assert!(matches!(error, PolicyError::Malformed(_)), "{error}");
        assert_eq!(error.code(), ErrorCode::PolicyInvalid);
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Policy), problem: &str) {
    let mut policy = policy(vec![gate(BreakerState::Open)]);
    policy.overrides = vec![pass("*")];
    policy.rules = vec![rule("disk")];
    policy.check().unwrap();
    change(&mut policy);
    let error = policy.check().unwrap_err();
    assert_eq!(error.to_string(), format!("policy is malformed: {problem}"));
}

fn rule(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        nodes: Selector::every(),
        expression: "fs.used > 90% for 5m".to_owned(),
    }
}

#[test]
fn what_nodes_could_not_take_or_obey_is_not_signed() {
    refused(|p| p.epoch = 0, "its epoch is 0");
    refused(
        |p| p.gates = vec![gate(BreakerState::Open); GATES_COUNT_MAX + 1],
        "it has 257 gates; at most 256",
    );
    refused(
        |p| p.overrides = vec![pass("*"); OVERRIDES_COUNT_MAX + 1],
        "it has 65 overrides; at most 64",
    );
    refused(
        |p| p.rules = vec![rule("a"); RULES_COUNT_MAX + 1],
        "it has 257 rules; at most 256",
    );
    refused(
        |p| p.rules.push(rule("disk")),
        "two rules are named \"disk\"",
    );
    refused(|p| p.rules[0].name.clear(), "a rule has no name");
    refused(
        |p| p.rules[0].expression = "x".repeat(257),
        "an expression has 257 bytes; at most 256",
    );
    refused(
        |p| p.gates[0].breaker = "x".repeat(64),
        "a gate's breaker has 64 bytes; at most 63",
    );
    refused(
        |p| p.gates[0].reason = "x".repeat(641),
        "a gate's reason has 641 bytes; at most 640",
    );
    refused(
        |p| p.gates[0].state = BreakerState::Closed,
        "the gate of \"deploys\" is closed",
    );
    refused(
        |p| p.gates[0].probes = BTreeSet::from([node(1)]),
        "the gate of \"deploys\" has probes and is not half-open",
    );
    refused(
        |p| {
            p.gates[0].state = BreakerState::HalfOpen;
            let id = |n: u32| {
                let mut bytes = [0; 10];
                bytes[..4].copy_from_slice(&n.to_be_bytes());
                NodeId::from_bytes(bytes)
            };
            p.gates[0].probes = (0..=PROBES_COUNT_MAX).map(id).collect();
        },
        "the gate of \"deploys\" has 1001 probes; at most 1000",
    );
    refused(
        |p| p.gates[0].scope = Scope::Deployment(WEB),
        "the gate of \"deploys\" is of one deployment and stops more than its changes",
    );
    refused(
        |p| p.gates[0].gated.commands = (0..65).map(|n| format!("c{n}")).collect(),
        "the gate of \"deploys\" names 65 commands; at most 64",
    );
    refused(
        |p| p.gates[0].gated.commands = BTreeSet::from([String::new()]),
        "a gated command has no name",
    );
    refused(
        |p| p.overrides[0].breaker.clear(),
        "an override's breaker has no name",
    );
    refused(
        |p| p.overrides[0].by = "x".repeat(641),
        "an override's author has 641 bytes; at most 640",
    );
    refused(
        |p| p.overrides[0].reason = "x".repeat(641),
        "an override's reason has 641 bytes; at most 640",
    );
}

#[test]
fn a_policy_whose_parts_fit_may_still_be_too_large() {
    let mut full = policy(vec![gate(BreakerState::Open); GATES_COUNT_MAX]);
    for gate in &mut full.gates {
        gate.reason = "x".repeat(REASON_BYTES_MAX);
    }
    let error = full.check().unwrap_err().to_string();
    assert!(error.ends_with("bytes; at most 98304"), "{error}");
}

#[test]
fn the_longest_refusal_fits_a_receipts_detail() {
    let mut long = gate(BreakerState::HalfOpen);
    long.breaker = "x".repeat(NAME_BYTES_MAX);
    long.reason = "x".repeat(REASON_BYTES_MAX);
    let mut policy = policy(vec![long]);
    policy.epoch = u64::MAX;
    let refusal = admits_at(&policy, DEPLOY, heard(0, None)).unwrap_err();
    assert!(refusal.to_string().len() <= DETAIL_BYTES_MAX);
}

fn gates() -> impl Strategy<Value = Gate> {
    let states = vec![
        BreakerState::Open,
        BreakerState::HalfOpen,
        BreakerState::Isolated,
    ];
    let scopes = vec![
        Scope::Fleet,
        Scope::Nodes("site=lyon".parse().unwrap()),
        Scope::Nodes("site=paris".parse().unwrap()),
        Scope::Deployment(WEB),
        Scope::Deployment(DeploymentId::from_bytes([9; 10])),
    ];
    let names = prop::sample::select(vec!["deploys", "silent", "disks"]);
    let probes = prop::collection::btree_set((1_u8..4).prop_map(node), 0..3);
    let gated = (any::<bool>(), any::<bool>(), any::<bool>());
    let (states, scopes) = (prop::sample::select(states), prop::sample::select(scopes));
    (names, states, scopes, probes, gated).prop_map(|(name, state, scope, probes, gated)| Gate {
        breaker: name.to_owned(),
        scope,
        probes,
        gated: Gated {
            deploy: gated.0,
            update: gated.1,
            commands: gated.2.then(|| "run".to_owned()).into_iter().collect(),
        },
        ..gate(state)
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let names = prop::sample::select(vec!["deploys", "silent"]);
    let selectors = prop::sample::select(vec!["*", "site=lyon", "site=paris"]);
    let passes = (names, selectors, 0_u64..4_000).prop_map(|(name, nodes, ms)| Override {
        breaker: name.to_owned(),
        until: UnixMillis(NOW.0 + ms),
        ..pass(nodes)
    });
    let passes = prop::collection::vec(passes, 0..3);
    (prop::collection::vec(gates(), 0..5), passes, 0_u64..3_000).prop_map(
        |(gates, overrides, lease_ms)| Policy {
            overrides,
            lease_ms,
            ..policy(gates)
        },
    )
}

fn attempts() -> impl Strategy<Value = Attempt<'static>> {
    prop::sample::select(vec![
        DEPLOY,
        Attempt::Update,
        Attempt::Command("run"),
        Attempt::Command("logs"),
        Attempt::Exempt,
    ])
}

proptest! {
    #[test]
    fn invariant_what_is_refused_stays_refused_when_a_gate_is_added(
        policy in policies(), more in gates(), index in any::<prop::sample::Index>(),
        attempt in attempts(), now in 0_u64..5_000,
    ) {
        let mut stricter = policy.clone();
        stricter.gates.insert(index.index(policy.gates.len() + 1), more);
        if admits_at(&policy, attempt, heard(now, None)).is_err() {
            prop_assert!(admits_at(&stricter, attempt, heard(now, None)).is_err());
        }
    }

    #[test]
    fn invariant_nothing_passes_an_open_gate_that_means_it_without_an_override(
        mut policy in policies(), attempt in attempts(), now in 0_u64..5_000,
    ) {
        let admitted = admits_at(&policy, attempt, heard(now, None)).is_ok();
        let lyon = "site=lyon".parse().unwrap();
        let meant = policy.gates.iter().any(|gate| {
            let covered = match &gate.scope {
                Scope::Fleet => true,
                Scope::Nodes(nodes) => *nodes == lyon,
                Scope::Deployment(id) => *id == WEB && attempt == DEPLOY,
            };
            let stopped = match attempt {
                Attempt::Deploy(_) => gate.gated.deploy,
                Attempt::Update => gate.gated.update,
                Attempt::Command(name) => gate.gated.commands.contains(name),
                Attempt::Exempt => false,
            };
            let probe = gate.state == BreakerState::HalfOpen && gate.probes.contains(&node(2));
            let passed = policy.overrides.iter().any(|pass| {
                pass.breaker == gate.breaker
                    && now < pass.until.0 - NOW.0
                    && (pass.nodes.is_every() || pass.nodes == lyon)
            });
            covered && stopped && !probe && !passed
        });
        let leased = policy.lease_ms == 0 || now <= policy.lease_ms || attempt == Attempt::Exempt;
        prop_assert_eq!(admitted, !meant && leased);
        // Without overrides there is nothing left but probes.
        policy.overrides.clear();
        if !admitted && leased {
            prop_assert!(admits_at(&policy, attempt, heard(now, None)).is_err());
        }
    }

    #[test]
    fn invariant_garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), signature in prop::collection::vec(any::<u8>(), 0..80)) {
        let signed = SignedPolicy { bytes, key: key(1).public().id(), signature };
        prop_assert!(signed.verify(&[key(1).public()], fleet(), 0).is_err());
    }
}
