//! The policy at the core: what is believed, and that nothing gated begins by what
//! is known, over restarts, batches and disks that fail.

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::breaker::BreakerState;
use protocol::command::ServiceVerb;
use protocol::condition::Crossing;
use protocol::policy::{Attempt, Gate as Stop, Gated, Policy, Scope, SignedPolicy};

use super::*;

const HOUR: u64 = 3_600_000;

fn policy(epoch: u64, state: BreakerState) -> Policy {
    let gate = Stop {
        breaker: "default".to_owned(),
        state,
        since: UnixMillis(1),
        scope: Scope::Nodes("site=lyon".parse().unwrap()),
        gated: Gated {
            deploy: true,
            update: true,
            commands: BTreeSet::from(["run".to_owned(), "service".to_owned()]),
        },
        probes: BTreeSet::new(),
        reason: "3 failures in a row".to_owned(),
    };
    Policy {
        fleet: FLEET,
        epoch,
        issued_at: UnixMillis(1_800_000_000_000),
        lease_ms: 24 * HOUR,
        gates: if state == BreakerState::Closed {
            Vec::new()
        } else {
            vec![gate]
        },
        overrides: Vec::new(),
        rules: Vec::new(),
    }
}

fn open_at(epoch: u64) -> SignedPolicy {
    policy(epoch, BreakerState::Open).sign(&key(4))
}

fn lyon() -> DownBody {
    DownBody::Labels {
        name: "web-1".to_owned(),
        labels: Labels::from_pairs([("site".to_owned(), "lyon".to_owned())]).unwrap(),
    }
}

fn run(n: u8) -> DownBody {
    DownBody::Command(Command {
        action: CommandAction::Run {
            argv: vec!["true".to_owned()],
        },
        start_by: UnixMillis(u64::MAX / 2),
        ..command(n)
    })
}

fn service(n: u8, verb: ServiceVerb) -> DownBody {
    DownBody::Command(Command {
        action: CommandAction::Service {
            unit: "a.service".to_owned(),
            verb,
        },
        ..command(n)
    })
}

/// A node in Lyon, and its session. Its next order has the number 2.
fn in_lyon() -> (World, Nonce) {
    let mut world = World::new();
    let nonce = world.welcome();
    world.order(nonce, 1, lyon());
    (world, nonce)
}

fn admits(node: &Node, now: u64) -> bool {
    let status = node.status(at(now));
    status.gate.admit(Attempt::Update, at(now)).is_ok()
}

fn counted(node: &Node) -> Vec<(ErrorCode, u64)> {
    node.status(at(0)).dropped.by_code.into_iter().collect()
}

/// Bodies of one kind that wait in the control stream.
fn bodies<T: serde::de::DeserializeOwned>(node: &mut Node, kind: EntryKind) -> Vec<T> {
    let want = crate::domain::session::Want {
        stream: Stream::Control,
        after: 0,
        bytes_max: usize::MAX,
    };
    let entries = node.store.read(want, Tick(0)).unwrap();
    entries
        .iter()
        .filter(|entry| entry.kind == kind)
        .map(|entry| protocol::message::decode_exactly(&entry.body).unwrap())
        .collect()
}

fn receipts(node: &mut Node) -> Vec<Receipt> {
    bodies(node, EntryKind::RECEIPT)
}

#[test]
fn a_policy_is_taken_by_either_way_obeyed_and_said_in_the_hello() {
    for broadcast in [true, false] {
        let (mut world, nonce) = in_lyon();
        assert!(admits(&world.node, world.now));
        let problems = if broadcast {
            // Its counter is of another row than those of the node's own topic.
            let bytes = world.controller.say(&open_at(7));
            world.deliver(Topic::All, bytes)
        } else {
            world.order(nonce, 2, DownBody::Policy(open_at(7)))
        };
        assert_eq!(problems, []);
        assert!(!admits(&world.node, world.now));
        let number = if broadcast { 2 } else { 3 };
        assert_eq!(starts(&world.order(nonce, number, run(1))), 0);
        let receipt = receipts(&mut world.node).remove(0);
        assert_eq!(receipt.outcome, Outcome::Refused);
        assert_eq!(receipt.code.as_deref(), Some("breaker.open"));
        assert!(
            receipt.detail.contains("breaker default") && receipt.detail.contains("epoch 7"),
            "{}",
            receipt.detail
        );
        world.step(Input::Disconnected);
        let hello: Hello = only(&world.step(Input::Connected));
        assert_eq!(hello.policy_epoch, 7);
    }
}

#[test]
fn stopping_and_reading_pass_an_open_breaker() {
    let (mut world, nonce) = in_lyon();
    world.order(nonce, 2, DownBody::Policy(open_at(1)));
    let verdicts = [
        (ServiceVerb::Stop, 1),
        (ServiceVerb::Status, 1),
        (ServiceVerb::Start, 0),
        (ServiceVerb::Restart, 0),
    ];
    for (n, (verb, expected)) in verdicts.into_iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        let actions = world.order(nonce, u64::from(n) + 3, service(n, verb));
        assert_eq!(starts(&actions), expected, "{verb:?}");
    }
}

#[test]
fn what_is_not_a_newer_policy_of_this_fleet_by_the_controller_is_refused_with_a_code() {
    let foreign = Policy {
        fleet: FleetId::from_bytes([9; 10]),
        ..policy(9, BreakerState::Open)
    };
    let mut garbled = open_at(9);
    garbled.bytes.truncate(20);
    let mut cut = open_at(9);
    cut.signature.pop();
    let huge = SignedPolicy {
        bytes: vec![0; protocol::policy::POLICY_BYTES_MAX + 1],
        ..open_at(9)
    };
    for (signed, code) in [
        (
            policy(9, BreakerState::Closed).sign(&key(8)),
            ErrorCode::PolicyInvalid,
        ),
        (foreign.sign(&key(4)), ErrorCode::PolicyInvalid),
        (garbled, ErrorCode::PolicyInvalid),
        (cut, ErrorCode::PolicyInvalid),
        (huge, ErrorCode::PolicyInvalid),
        (
            policy(4, BreakerState::Closed).sign(&key(4)),
            ErrorCode::PolicyStale,
        ),
    ] {
        let (mut world, nonce) = in_lyon();
        world.order(nonce, 2, DownBody::Policy(open_at(5)));
        let actions = world.order(nonce, 3, DownBody::Policy(signed));
        let problem = |action: &Action| matches!(action, Action::Problem { code: found, .. } if *found == code);
        assert!(actions.iter().any(problem), "{code:?}: {actions:?}");
        assert_eq!(counted(&world.node), [(code, 1)]);
        assert_eq!(world.node.status(at(0)).gate.epoch(), 5);
        assert!(!admits(&world.node, world.now));
    }
}

#[test]
fn the_same_policy_by_both_ways_is_no_mistake() {
    let (mut world, nonce) = in_lyon();
    let bytes = world.controller.say(&open_at(5));
    world.deliver(Topic::All, bytes.clone());
    world.deliver(Topic::All, bytes);
    assert_eq!(world.order(nonce, 2, DownBody::Policy(open_at(5))), []);
    assert_eq!(counted(&world.node), []);
}

#[test]
fn garbage_on_all_is_answered_with_a_code_and_a_key_that_is_not_known_is_fetched() {
    let (mut world, nonce) = in_lyon();
    let signer = key(4);
    let seal = Seal {
        fleet: FLEET,
        sender: NodeId::NIL,
        key: &signer,
    };
    let bytes = seal.seal_payload(Kind::POLICY, 1, 900, UnixMillis(1), &[1]);
    let reject: Reject = only(&world.deliver(Topic::All, bytes));
    assert_eq!(reject.code, "message.malformed");
    let by_next = policy(1, BreakerState::Open).sign(&key(5));
    let actions = world.order(nonce, 2, DownBody::Policy(by_next));
    assert!(actions.contains(&Action::FetchTrust), "{actions:?}");
}

#[test]
fn a_restart_finds_policy_name_and_labels_and_obeys_before_anything_else() {
    let (mut world, nonce) = in_lyon();
    world.order(nonce, 2, DownBody::Policy(open_at(5)));
    // Killed, not closed.
    let mut node = open(&world.disk);
    let status = node.status(at(0));
    assert_eq!(status.gate.epoch(), 5);
    assert_eq!(status.gate.named().name, "web-1");
    assert!(!admits(&node, 0));
    let hello: Hello = only(&node.step(Input::Connected, at(0)));
    assert_eq!(hello.policy_epoch, 5);
    world.node = node;
    world.controller.counter = 0;
    let bytes = world
        .controller
        .say(&policy(4, BreakerState::Closed).sign(&key(4)));
    world.deliver(Topic::All, bytes);
    assert!(
        !admits(&world.node, world.now),
        "an older epoch was accepted"
    );
    assert_eq!(counted(&world.node), [(ErrorCode::PolicyStale, 1)]);
}

#[test]
fn a_policy_stops_what_came_before_it_in_the_same_batch() {
    for policy_first in [true, false] {
        let (mut world, nonce) = in_lyon();
        let mut bodies = vec![run(1), DownBody::Policy(open_at(5))];
        if policy_first {
            bodies.reverse();
        }
        for (number, body) in (2..).zip(bodies) {
            let down = Down {
                nonce,
                number,
                body,
            };
            let bytes = world.controller.say(&down);
            let topic = Topic::Down(NODE).print(FLEET);
            world.node.input(Input::Message { topic, bytes }, at(50));
        }
        let actions = world.node.settle(at(50));
        assert_eq!(starts(&actions), 0, "policy first: {policy_first}");
        let receipt = receipts(&mut world.node).remove(0);
        assert_eq!(receipt.code.as_deref(), Some("breaker.open"));
    }
}

#[test]
fn a_policy_that_cannot_be_written_is_not_said_to_be_held() {
    let (mut world, nonce) = in_lyon();
    world.disk.set_full(true);
    world.order(nonce, 2, DownBody::Policy(open_at(5)));
    assert_eq!(world.node.status(at(0)).gate.epoch(), 0);
    world.step(Input::Disconnected);
    // A command that came with it is refused, for whichever reason.
    let hello: Hello = only(&world.step(Input::Connected));
    assert_eq!(hello.policy_epoch, 0);
    world.disk.set_full(false);
    world.now += 10_000;
    world.step(Input::Tick);
    assert_eq!(world.node.status(at(0)).gate.epoch(), 5);
    assert!(!admits(&world.node, world.now));
    assert_eq!(open(&world.disk).status(at(0)).gate.epoch(), 5);
}

#[test]
fn the_lease_refuses_until_the_controller_is_heard_and_a_reboot_does_not_renew_it() {
    let (mut world, nonce) = in_lyon();
    let closed = policy(1, BreakerState::Closed).sign(&key(4));
    world.order(nonce, 2, DownBody::Policy(closed));
    world.step(Input::Disconnected);
    world.now += 23 * HOUR;
    world.step(Input::Tick);
    assert!(admits(&world.node, world.now));
    // The clock of the next boot begins at zero, and so does `at`.
    world.node.close(at(world.now)).unwrap();
    let mut node = open(&world.disk);
    assert!(admits(&node, HOUR / 2));
    assert!(!admits(&node, 2 * HOUR));
    let status = node.status(at(2 * HOUR));
    let problems = status.gate.problems(Tick(2 * HOUR));
    assert_eq!(problems[0].0, ErrorCode::PolicyLease);
    node.step(Input::Tick, at(2 * HOUR));
    world.node = node;
    world.now = 2 * HOUR;
    let nonce = world.welcome();
    assert!(admits(&world.node, world.now));
    assert_eq!(starts(&world.order(nonce, 1, run(2))), 1);
}

#[test]
fn a_command_is_refused_once_the_lease_is_over() {
    let (mut world, nonce) = in_lyon();
    let closed = policy(1, BreakerState::Closed).sign(&key(4));
    world.order(nonce, 2, DownBody::Policy(closed));
    // Recorded orders of the session are no word of now.
    world.now += 25 * HOUR;
    assert_eq!(starts(&world.order(nonce, 3, run(1))), 0);
    let receipt = receipts(&mut world.node).remove(0);
    assert_eq!(receipt.code.as_deref(), Some("policy.lease_expired"));
    assert!(receipt.detail.contains("epoch 1"), "{}", receipt.detail);
}

#[test]
fn silence_is_kept_some_times_a_day_and_not_at_all_without_a_policy() {
    let (mut world, nonce) = in_lyon();
    let commits = |world: &World| world.node.status(at(0)).store.commits;
    let live = |world: &mut World, hours: u64| {
        let before = commits(world);
        for _ in 0..hours * 60 {
            world.now += 60_000;
            world.step(Input::Tick);
        }
        commits(world) - before
    };
    assert_eq!(live(&mut world, 24), 0);
    world.step(Input::Disconnected);
    let nonce_ = world.welcome();
    assert_ne!(nonce, nonce_);
    let closed = policy(1, BreakerState::Closed).sign(&key(4));
    world.order(nonce_, 1, DownBody::Policy(closed));
    assert_eq!(live(&mut world, 24), 6);
}

#[test]
fn a_broken_glass_is_told_and_passes_until_it_is_taken_away() {
    let (mut world, nonce) = in_lyon();
    world.order(nonce, 2, DownBody::Policy(open_at(1)));
    assert!(!admits(&world.node, world.now));
    let file = BreakGlass {
        reason: "dead controller".to_owned(),
        until: at(HOUR).wall,
    };
    world.step(Input::BreakGlass(Some(file.clone())));
    assert!(admits(&world.node, world.now));
    assert_eq!(starts(&world.order(nonce, 3, run(1))), 1);
    let told = |world: &mut World| -> Vec<Lifecycle> {
        let all: Vec<Lifecycle> = bodies(&mut world.node, EntryKind::LIFECYCLE);
        all.into_iter()
            .filter(|event| !matches!(event, Lifecycle::Started { .. } | Lifecycle::Stopped { .. }))
            .collect()
    };
    let [Lifecycle::BreakGlass { reason, until, .. }] = &told(&mut world)[..] else {
        panic!("{:?}", told(&mut world));
    };
    assert_eq!((reason.as_str(), *until), ("dead controller", file.until));
    world.now = HOUR;
    world.step(Input::Tick);
    assert!(!admits(&world.node, world.now));
    assert!(matches!(
        &told(&mut world)[..],
        [
            Lifecycle::BreakGlass { .. },
            Lifecycle::BreakGlassEnded { .. }
        ]
    ));
    world.step(Input::BreakGlass(None));
    assert_eq!(told(&mut world).len(), 2);
}

#[test]
fn a_crossing_goes_up_and_what_holds_is_found_again() {
    let (mut world, _) = in_lyon();
    let crossing = Crossing {
        rule: "full".to_owned(),
        epoch: 1,
        holds: true,
        label: "/var".to_owned(),
        value: "91 %".to_owned(),
        at: UnixMillis(5),
    };
    let holding = BTreeSet::from([("full".to_owned(), "/var".to_owned())]);
    assert!(
        world
            .node
            .take_crossings(std::slice::from_ref(&crossing), &holding)
    );
    world.step(Input::Tick);
    let told: Vec<Crossing> = bodies(&mut world.node, EntryKind::CONDITION);
    assert_eq!(told, std::slice::from_ref(&crossing));
    world.disk.set_full(true);
    world.step(Input::BreakGlass(None));
    world.order(Nonce([0; 16]), 9, lyon());
    world.disk.set_full(false);
    let many = vec![crossing; 200];
    assert!(
        !world.node.take_crossings(&many, &holding),
        "receipts would have no room"
    );
}

/// What befalls a node, in any order.
#[derive(Clone, Debug)]
enum Event {
    Policy {
        epoch: u64,
        open: bool,
        broadcast: bool,
    },
    Command,
    Kill,
    Full(bool),
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1_u64..12, any::<bool>(), any::<bool>()).prop_map(|(epoch, open, broadcast)| {
            Event::Policy { epoch, open, broadcast }
        }),
        4 => Just(Event::Command),
        2 => Just(Event::Kill),
        1 => any::<bool>().prop_map(Event::Full),
        1 => Just(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariant_no_gated_command_starts_by_an_open_breaker_and_epochs_never_go_back(
        events in proptest::collection::vec(event(), 1..40)
    ) {
        let (mut world, mut nonce) = in_lyon();
        let (mut number, mut commands, mut known) = (1, 0_u8, 0_u64);
        for event in events {
            match event {
                Event::Policy { epoch, open, broadcast } => {
                    let state = if open { BreakerState::Open } else { BreakerState::Closed };
                    // One document per epoch, as the controller's journal sees to.
                    let state = if epoch % 2 == 0 { state } else { BreakerState::Open };
                    let signed = policy(epoch, state).sign(&key(4));
                    if broadcast {
                        let bytes = world.controller.say(&signed);
                        world.deliver(Topic::All, bytes);
                    } else {
                        number += 1;
                        world.order(nonce, number, DownBody::Policy(signed));
                    }
                }
                Event::Command => {
                    number += 1;
                    commands += 1;
                    let before = admits(&world.node, world.now);
                    let started = starts(&world.order(nonce, number, run(commands)));
                    prop_assert!(before || started == 0, "started by an open breaker");
                }
                Event::Kill => {
                    world.node = open(&world.disk);
                    world.controller.counter = 0;
                    world.disk.set_full(false);
                    nonce = world.welcome();
                    number = 1;
                    world.order(nonce, 1, lyon());
                }
                Event::Full(full) => world.disk.set_full(full),
                Event::Wait => {
                    world.now += 6_000;
                    world.step(Input::Tick);
                }
            }
            let epoch = world.node.status(at(world.now)).gate.epoch();
            prop_assert!(epoch >= known, "epoch {epoch} after {known}");
            known = epoch;
        }
    }
}
