//! The core against a scripted controller: what is signed is obeyed, what is not
//! is counted, and nothing that comes in stops it.

use protocol::command::{Action as CommandAction, Outcome};
use protocol::down::Down;
use protocol::session::{Acks, Hello, Welcome};
use protocol::stream::{EntryKind, StreamAck};

use super::*;
use crate::store::disk::MemoryDisk;
use crate::store::spool::MemorySpool;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const NODE: NodeId = NodeId::from_bytes([2; 10]);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn at(ms: u64) -> Moment {
    Moment {
        tick: Tick(ms),
        wall: UnixMillis(1_800_000_000_000 + ms),
    }
}

/// A controller that seals what a test wants it to say.
struct Controller {
    key: SigningKey,
    counter: u64,
    incarnation: u64,
}

impl Controller {
    fn say<M: Message>(&mut self, message: &M) -> Vec<u8> {
        self.counter += 1;
        let seal = Seal {
            fleet: FLEET,
            sender: NodeId::NIL,
            key: &self.key,
        };
        seal.seal(self.counter, UnixMillis(1), message)
    }
}

struct World {
    node: Node,
    controller: Controller,
    disk: MemoryDisk,
    now: u64,
}

fn trust(controller: &SigningKey, version: u64) -> TrustSet {
    TrustSet {
        fleet: FLEET,
        version,
        issued_at: UnixMillis(1),
        controller_keys: vec![controller.public()],
        authorities: Vec::new(),
        release_keys: Vec::new(),
    }
}

fn open(disk: &MemoryDisk) -> Node {
    let mut drawn = 0_u8;
    let identity = Identity {
        fleet: FLEET,
        node: NODE,
        key: Arc::new(key(3)),
        root: key(9).public(),
        trust: trust(&key(4), 1),
    };
    let setup = Setup {
        disk: Box::new(disk.clone()),
        spool: Box::new(MemorySpool::default()),
        limits: Limits::default(),
        boot: BootId([0; 16]),
        agent_version: "0.1.0".to_owned(),
        draw: Box::new(move || {
            drawn += 1;
            [drawn; 16]
        }),
        seed: 1,
    };
    Node::open(identity, setup, at(0)).unwrap().0
}

impl World {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        Self {
            node: open(&disk),
            controller: Controller {
                key: key(4),
                counter: 0,
                incarnation: 1,
            },
            disk,
            now: 0,
        }
    }

    fn step(&mut self, input: Input) -> Vec<Action> {
        self.now += 10;
        self.node.step(input, at(self.now))
    }

    fn deliver(&mut self, topic: Topic, bytes: Vec<u8>) -> Vec<Action> {
        let topic = topic.print(FLEET);
        self.step(Input::Message { topic, bytes })
    }

    fn tell<M: Message>(&mut self, message: &M) -> Vec<Action> {
        let bytes = self.controller.say(message);
        self.deliver(Topic::Down(NODE), bytes)
    }

    /// Connects, and welcomes the hello.
    fn welcome(&mut self) -> Nonce {
        let actions = self.step(Input::Connected);
        let hello: Hello = only(&actions);
        let welcome = Welcome {
            nonce: hello.nonce,
            now: UnixMillis(1_800_000_000_000),
            echo: UnixMillis(0),
            incarnation: self.controller.incarnation,
            heartbeat_ms: 15_000,
            name: "web-1".to_owned(),
            labels: Labels::default(),
            trust_version: 1,
            acks: hello
                .streams
                .iter()
                .map(|offer| StreamAck {
                    stream: offer.stream,
                    acked: offer.acked,
                    credit_bytes: 65_536,
                })
                .collect(),
        };
        let actions = self.tell(&welcome);
        assert!(
            actions.contains(&Action::Link(LinkState::Up)),
            "{actions:?}"
        );
        hello.nonce
    }

    fn order(&mut self, nonce: Nonce, number: u64, body: DownBody) -> Vec<Action> {
        self.tell(&Down {
            nonce,
            number,
            body,
        })
    }
}

/// Messages of one type among what is published; each must be sealed by the node.
fn messages<M: Message>(actions: &[Action]) -> Vec<M> {
    let mut found = Vec::new();
    for action in actions {
        if let Action::Publish { bytes, .. } = action {
            let opened = envelope::open(bytes, FLEET, |sender, _| {
                (sender == NODE).then(|| key(3).public())
            });
            found.extend(opened.unwrap().decode::<M>().ok());
        }
    }
    found
}

fn only<M: Message>(actions: &[Action]) -> M {
    let mut found = messages(actions);
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn command(n: u8) -> Command {
    Command {
        id: CommandId::from_bytes([n; 10]),
        issued_at: UnixMillis(1_800_000_000_000),
        start_by: UnixMillis(1_800_000_060_000),
        run_timeout_ms: 1_000,
        output_bytes_max: 1_000,
        issued_by: "ops".to_owned(),
        action: CommandAction::Ping,
    }
}

fn starts(actions: &[Action]) -> usize {
    let start = |action: &&Action| matches!(action, Action::Start(_));
    actions.iter().filter(start).count()
}

fn receipt(n: u8) -> Receipt {
    Receipt {
        command: CommandId::from_bytes([n; 10]),
        outcome: Outcome::Succeeded,
        code: None,
        detail: String::new(),
        started_at: None,
        ended_at: UnixMillis(2),
        stdout: Vec::new(),
        stderr: Vec::new(),
        cut_bytes: 0,
    }
}

#[test]
fn a_signed_command_starts_once_and_its_receipt_goes_up() {
    let mut world = World::new();
    let nonce = world.welcome();
    let body = DownBody::Command(command(1));
    assert_eq!(starts(&world.order(nonce, 1, body.clone())), 1);
    assert_eq!(starts(&world.order(nonce, 1, body.clone())), 0);
    assert_eq!(starts(&world.order(nonce, 2, body)), 0);
    // The start-up event is on its way: its acknowledgement opens the window.
    let acks = Acks {
        nonce,
        now: UnixMillis(1_800_000_000_100),
        echo: UnixMillis(0),
        down_last: 2,
        acks: vec![StreamAck {
            stream: Stream::Control,
            acked: 1,
            credit_bytes: 65_536,
        }],
    };
    world.tell(&acks);
    let actions = world.step(Input::Finished(Box::new(receipt(1))));
    let upload: Upload = only(&actions);
    assert_eq!((upload.stream, upload.after), (Stream::Control, 1));
    assert_eq!(upload.entries[0].kind, EntryKind::RECEIPT);
}

#[test]
fn envelopes_that_are_not_the_controllers_are_counted_and_ignored() {
    let mut world = World::new();
    let nonce = world.welcome();
    let down = Down {
        nonce,
        number: 1,
        body: DownBody::Command(command(1)),
    };
    let good = world.controller.say(&down);
    let forged = |fleet, sender, key: &SigningKey| {
        Seal { fleet, sender, key }.seal(99, UnixMillis(1), &down)
    };
    let mut flipped = good.clone();
    flipped[60] ^= 1;
    let bad: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 10],
        vec![b'F'; 10 * 1024 * 1024],
        good[..good.len() - 1].to_vec(),
        flipped,
        forged(FLEET, NodeId::NIL, &key(8)),
        forged(FLEET, NODE, &key(3)),
        forged(FleetId::from_bytes([9; 10]), NodeId::NIL, &key(4)),
    ];
    let count = u64::try_from(bad.len()).unwrap();
    for bytes in bad {
        let actions = world.deliver(Topic::Down(NODE), bytes);
        assert_eq!(starts(&actions), 0);
        assert!(messages::<Reject>(&actions).is_empty());
    }
    assert_eq!(world.node.status(at(0)).dropped.bad_envelopes, count);
    assert_eq!(starts(&world.deliver(Topic::Down(NODE), good)), 1);
}

#[test]
fn an_envelope_that_was_seen_is_not_taken_again() {
    let mut world = World::new();
    let nonce = world.welcome();
    let down = Down {
        nonce,
        number: 1,
        body: DownBody::RenewNow,
    };
    let bytes = world.controller.say(&down);
    let first = world.deliver(Topic::Down(NODE), bytes.clone());
    assert!(first.contains(&Action::Renew));
    let second = world.deliver(Topic::Down(NODE), bytes);
    assert_eq!(second, []);
    assert_eq!(world.node.status(at(0)).dropped.replayed, 1);
}

#[test]
fn what_is_signed_and_not_understood_is_answered_with_a_code() {
    for (kind, version, payload, code) in [
        (Kind(999), 1, vec![1, 2], ErrorCode::MessageUnknownKind),
        (Kind::DOWN, 99, vec![1], ErrorCode::MessageUnknownVersion),
        (Kind::DOWN, 1, vec![0xff; 40], ErrorCode::MessageMalformed),
        (Kind::ACKS, 1, Vec::new(), ErrorCode::MessageMalformed),
    ] {
        let mut world = World::new();
        world.welcome();
        let signer = key(4);
        let seal = Seal {
            fleet: FLEET,
            sender: NodeId::NIL,
            key: &signer,
        };
        let bytes = seal.seal_payload(kind, version, 50, UnixMillis(1), &payload);
        let actions = world.deliver(Topic::Down(NODE), bytes);
        let reject: Reject = only(&actions);
        assert_eq!(reject.code, code.text());
        assert_eq!((reject.kind, reject.counter), (kind.0, 50));
    }
}

#[test]
fn rejections_are_not_answered_and_answers_are_few() {
    let mut world = World::new();
    world.welcome();
    let signer = key(4);
    let seal = Seal {
        fleet: FLEET,
        sender: NodeId::NIL,
        key: &signer,
    };
    let mut answers = 0;
    for counter in 10..60 {
        let kind = if counter % 2 == 0 {
            Kind(999)
        } else {
            Kind::REJECT
        };
        let bytes = seal.seal_payload(kind, 7, counter, UnixMillis(1), &[1]);
        answers += messages::<Reject>(&world.deliver(Topic::Down(NODE), bytes)).len();
    }
    assert_eq!(answers, 1, "half a second of rubbish gets one answer");
}

#[test]
fn messages_on_foreign_topics_are_counted() {
    let mut world = World::new();
    let nonce = world.welcome();
    let down = Down {
        nonce,
        number: 1,
        body: DownBody::Command(command(1)),
    };
    let other = NodeId::from_bytes([7; 10]);
    for topic in ["", "x/y", "$SYS/broker"] {
        let bytes = world.controller.say(&down);
        let topic = topic.to_owned();
        assert_eq!(world.step(Input::Message { topic, bytes }), []);
    }
    let bytes = world.controller.say(&down);
    assert_eq!(world.deliver(Topic::Down(other), bytes), []);
    assert_eq!(world.node.status(at(0)).dropped.foreign, 4);
}

#[test]
fn a_session_that_the_controller_does_not_know_is_greeted_anew() {
    let mut world = World::new();
    world.welcome();
    let reject = Reject {
        kind: Kind::HEARTBEAT.0,
        version: 1,
        counter: 3,
        code: ErrorCode::SessionUnknown.text().to_owned(),
        detail: String::new(),
    };
    world.tell(&reject);
    let (tick, _) = world.node.wakes_at().unwrap();
    world.now = tick.0;
    let hello: Hello = only(&world.step(Input::Tick));
    assert_eq!(hello.connect_counter, 2);
}

#[test]
fn only_a_newer_trust_set_of_the_root_is_believed_and_its_keys_are() {
    let mut world = World::new();
    let nonce = world.welcome();
    let next = key(5);
    let forged = trust(&next, 2).sign(&key(8));
    let actions = world.order(nonce, 1, DownBody::Trust(forged));
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Trust(..)))
    );
    let signed = trust(&next, 2).sign(&key(9));
    let actions = world.order(nonce, 2, DownBody::Trust(signed.clone()));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Trust(..)))
    );
    // The old key is out, the new one signs from here on.
    let live = DownBody::Live {
        until: UnixMillis(9),
        interval_ms: 1_000,
    };
    let by_old = world.order(nonce, 3, live.clone());
    assert_eq!(by_old, [Action::FetchTrust]);
    world.controller.key = next;
    let by_new = world.order(nonce, 3, live);
    assert!(
        by_new
            .iter()
            .any(|action| matches!(action, Action::Live(Some(_))))
    );
    assert_eq!(world.step(Input::Trust(Box::new(signed))), []);
}

#[test]
fn a_controller_put_back_without_a_word_is_refused_with_a_code() {
    let mut world = World::new();
    world.controller.incarnation = 5;
    world.welcome();
    world.step(Input::Disconnected);
    world.controller.incarnation = 4;
    let hello: Hello = only(&world.step(Input::Connected));
    let welcome = Welcome {
        nonce: hello.nonce,
        now: UnixMillis(1),
        echo: UnixMillis(0),
        incarnation: 4,
        heartbeat_ms: 15_000,
        name: String::new(),
        labels: Labels::default(),
        trust_version: 1,
        acks: Vec::new(),
    };
    let actions = world.tell(&welcome);
    let reject: Reject = only(&actions);
    assert_eq!(reject.code, ErrorCode::SessionStale.text());
    assert!(!world.node.status(at(0)).link_up);
}

#[test]
fn a_full_disk_refuses_a_command_and_says_so() {
    let mut world = World::new();
    let nonce = world.welcome();
    let acks = Acks {
        nonce,
        now: UnixMillis(1_800_000_000_100),
        echo: UnixMillis(0),
        down_last: 0,
        acks: vec![StreamAck {
            stream: Stream::Control,
            acked: 1,
            credit_bytes: 65_536,
        }],
    };
    world.tell(&acks);
    world.disk.set_full(true);
    let actions = world.order(nonce, 1, DownBody::Command(command(1)));
    assert_eq!(starts(&actions), 0);
    let upload: Upload = only(&actions);
    let receipt: Receipt = protocol::message::decode_exactly(&upload.entries[0].body).unwrap();
    assert_eq!(receipt.outcome, Outcome::Refused);
    assert_eq!(receipt.code.as_deref(), Some("store.full"));
    let problem = |action: &Action| matches!(action, Action::Problem { code, .. } if *code == ErrorCode::StoreFull);
    assert!(actions.iter().any(problem), "{actions:?}");
}

#[test]
fn no_envelope_counter_is_used_twice_over_restarts_and_renewals() {
    let disk = MemoryDisk::default();
    let mut counters = Vec::new();
    for _ in 0..3 {
        let mut node = open(&disk);
        for round in 0..4 {
            let mut actions = node.step(Input::Connected, at(round * 10));
            let renew = Renew {
                csr: String::new(),
                trust_version: 1,
            };
            let bytes = node.seal_renewal(&renew, at(round * 10)).unwrap();
            actions.push(Action::Publish {
                topic: Topic::All,
                bytes,
            });
            for action in actions {
                if let Action::Publish { bytes, .. } = action {
                    counters.push(envelope::peek(&bytes).unwrap().counter);
                }
            }
            node.step(Input::Disconnected, at(round * 10 + 5));
        }
    }
    let distinct: std::collections::BTreeSet<_> = counters.iter().collect();
    assert_eq!(distinct.len(), counters.len(), "{counters:?}");
    assert!(counters.len() >= 24);
}

fn desired(generation: u64) -> DownBody {
    use protocol::deployment::desired::{Desired, Want};
    DownBody::Desired(Box::new(Desired {
        deployment: protocol::id::DeploymentId::from_bytes([6; 10]),
        number: 1,
        name: "web".to_owned(),
        generation,
        at: UnixMillis(1),
        want: Want::Remove,
    }))
}

#[test]
fn orders_for_deployments_are_handed_out_when_durable_and_said_in_the_hello() {
    let mut world = World::new();
    let nonce = world.welcome();
    let handed_out = |actions: &[Action]| {
        let records = actions.iter().find_map(|action| {
            if let Action::Deployments(records) = action {
                return Some(records.len());
            }
            None
        });
        records.unwrap_or(0)
    };
    world.disk.set_full(true);
    let actions = world.order(nonce, 1, desired(8));
    assert_eq!(handed_out(&actions), 0);
    assert_eq!(world.node.status(at(world.now)).generation, 0);
    world.disk.set_full(false);
    world.now += 10_000;
    assert_eq!(handed_out(&world.step(Input::Tick)), 1);
    // An older one that is played back moves nothing.
    assert_eq!(handed_out(&world.order(nonce, 2, desired(7))), 0);
    world.step(Input::Disconnected);
    let hello: Hello = only(&world.step(Input::Connected));
    assert_eq!(hello.generation, 8);
    // And so it is after a crash.
    let mut node = open(&world.disk);
    assert_eq!(node.deployments().len(), 1);
    let hello: Hello = only(&node.step(Input::Connected, at(1)));
    assert_eq!(hello.generation, 8);
}
