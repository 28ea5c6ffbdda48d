//! A stolen identity against the real controller, and a broker in foreign hands
//! against the real agent: whatever they send, nothing is obeyed that should not
//! be, everyone else is served, and what happened can be seen.

use std::fs;
use std::time::Duration;

use harness::agent::Agent;
use harness::cli::Cli;
use harness::controller::{Controller, Plan};
use harness::rogue::{self, Papers, Pen, Rogue};
use harness::wait;
use protocol::ErrorCode;
use protocol::envelope::Seal;
use protocol::id::{FleetId, NodeId, StoreId};
use protocol::key::SigningKey;
use protocol::limits::ENVELOPE_BYTES_MAX;
use protocol::message::Kind;
use protocol::session::{Acks, Heartbeat, Nonce, Reject};
use protocol::stream::{Entry, EntryKind, Stream, Upload};
use protocol::telemetry::frame::FRAME_VERSION;
use protocol::topic::Topic;

use crate::broker::{pki, with_mosquitto};
use crate::fleet;
use crate::kill::{Marks, willing_agent};

/// A message is taken, refused or quarantined, and counted, well within this.
const NOTICED: Duration = Duration::from_secs(10);

/// A command to an honest node is done within this, whatever a rogue does.
const HONEST: Duration = Duration::from_secs(10);

const STORE: StoreId = StoreId::from_bytes([0x66; 10]);

/// One metric of the controller's, with its labels as they are written.
fn metric(controller: &Controller, name: &str) -> u64 {
    let url = format!("{}/metrics", controller.api());
    let text = controller.http().get(url).send().unwrap().text().unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or(0)
}

fn refused(code: ErrorCode) -> String {
    format!("fleet_uplink_refused_total{{code=\"{}\"}}", code.text())
}

/// The controller is ready, and an honest node carries a command out in time.
#[track_caller]
fn others_are_served(controller: &Controller, what: &str) {
    let url = format!("{}/readyz", controller.api());
    let ready = controller.http().get(url).send().unwrap();
    assert_eq!(ready.status(), 200, "after {what}: {:?}", ready.text());
    let cli = controller.cli();
    let id = fleet::issue(&cli, &["run", "honest", "--", "uname"]);
    wait::until_true(&format!("honest works after {what}"), HONEST, || {
        let target = fleet::targets(&cli, &id).into_iter().next();
        target.is_some_and(|target| target["state"] == "succeeded")
    });
}

/// A rogue with a session of its own.
struct Siege {
    rogue: Rogue,
    pen: Pen,
    nonce: Nonce,
}

impl Siege {
    /// Connects with the identity in an agent's state directory.
    #[track_caller]
    fn lay(stolen: &Agent, connect: u64) -> Siege {
        let loaded = rogue::identity(stolen.state());
        let node = loaded.identity.node;
        let rogue = Rogue::connect(
            rogue::broker_of(&loaded),
            &Papers::of_node(stolen.state()),
            &node.to_string(),
            &[Topic::Down(node).print(loaded.identity.fleet)],
        );
        let mut pen = Pen::of(&loaded, STORE, connect);
        let nonce = pen.greet(&rogue).nonce;
        Siege { rogue, pen, nonce }
    }

    fn session(&self) -> String {
        Topic::Session(self.pen.node).print(self.pen.fleet)
    }

    fn stream(&self, stream: Stream) -> String {
        Topic::Up(self.pen.node, stream).print(self.pen.fleet)
    }

    fn heartbeat(&mut self) -> Vec<u8> {
        self.pen.seal(&Heartbeat {
            nonce: self.nonce,
            down_seen: 0,
            now: rogue::now(),
            uptime_ms: 1,
            outbox_entries: 0,
        })
    }

    fn upload(&mut self, stream: Stream, after: u64, entries: Vec<Entry>) {
        let upload = self.pen.seal(&Upload {
            store: STORE,
            stream,
            after,
            entries,
        });
        self.rogue.publish(&self.stream(stream), upload);
    }

    /// The controller acknowledges the stream up to `through`.
    #[track_caller]
    fn acknowledged(&self, stream: Stream, through: u64) {
        wait::until_true("a bad entry does not stick", NOTICED, || {
            let acks: Acks = self.pen.heard(&self.rogue);
            let ack = acks.acks.iter().find(|ack| ack.stream == stream);
            ack.is_some_and(|ack| ack.acked == through)
        });
    }
}

fn entry(seq: u64, kind: EntryKind, version: u16, body: Vec<u8>) -> Entry {
    Entry {
        seq,
        kind,
        version,
        body,
    }
}

/// An honest node that runs, and one whose identity a rogue has taken.
fn controller_with_a_stolen_node() -> (Controller, Agent, Agent) {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_API_METRICS_ANONYMOUS", "true")
        .with("FLOTILLA_SESSION_HEARTBEAT", "1s")
        .start();
    let honest = fleet::running_agent(&controller, "honest");
    let mut stolen = fleet::running_agent(&controller, "stolen");
    stolen.stop();
    (controller, honest, stolen)
}

#[test]
fn envelopes_that_are_forged_broken_or_heard_before_are_counted_by_code() {
    let (controller, honest, stolen) = controller_with_a_stolen_node();
    let mut siege = Siege::lay(&stolen, 1_000);
    let session = siege.session();
    let fleet_of_others = FleetId::from_bytes([0x99; 10]);
    let key_of_nobody = SigningKey::from_seed(&[0x31; 32]).unwrap();

    let mut forged = siege.heartbeat();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let real = siege.pen.fleet;
    siege.pen.fleet = fleet_of_others;
    let foreign = siege.heartbeat();
    siege.pen.fleet = real;
    let mut truncated = siege.heartbeat();
    truncated.truncate(truncated.len() - 9);
    let stranger = Seal {
        fleet: real,
        sender: siege.pen.node,
        key: &key_of_nobody,
    };
    let stranger = stranger.seal_payload(Kind::HEARTBEAT, 1, 1 << 40, rogue::now(), b"x");
    let oversized = vec![0; ENVELOPE_BYTES_MAX + 100];
    for (what, payload, code) in [
        ("a bad signature", forged, ErrorCode::EnvelopeBadSignature),
        ("another fleet", foreign, ErrorCode::EnvelopeWrongFleet),
        ("another key", stranger, ErrorCode::EnvelopeUnknownKey),
        ("a part", truncated, ErrorCode::EnvelopeMalformed),
        ("garbage", vec![0xff; 3000], ErrorCode::EnvelopeMalformed),
        ("nothing", Vec::new(), ErrorCode::EnvelopeMalformed),
        ("too much", oversized, ErrorCode::EnvelopeTooLarge),
    ] {
        let before = metric(&controller, &refused(code));
        siege.rogue.publish(&session, payload);
        wait::until_true(&format!("{what} is counted"), NOTICED, || {
            metric(&controller, &refused(code)) == before + 1
        });
        others_are_served(&controller, what);
    }

    // The same good envelope twice: once taken, once a replay.
    let beat = siege.heartbeat();
    for _ in 0..2 {
        siege.rogue.publish(&session, beat.clone());
    }
    wait::until_true("the replay is counted", NOTICED, || {
        metric(&controller, &refused(ErrorCode::EnvelopeReplayed)) == 1
    });

    // Another node's topic is refused at the broker's door.
    let door = metric(&controller, "fleet_broker_refused_total");
    let other = rogue::identity(honest.state()).identity.node;
    let beat = siege.heartbeat();
    siege
        .rogue
        .publish(&Topic::Session(other).print(real), beat);
    wait::until_true("the trespass is counted", NOTICED, || {
        metric(&controller, "fleet_broker_refused_total") > door
    });
    others_are_served(&controller, "a trespass");

    // Ten megabytes are no envelope: the broker ends the connection over them.
    let loaded = rogue::identity(stolen.state());
    rogue::send_a_monster(
        rogue::broker_of(&loaded),
        &Papers::of_node(stolen.state()),
        &loaded.identity.node.to_string(),
        &session,
        vec![0x46; 10 << 20],
    );
    others_are_served(&controller, "ten megabytes");
    drop(siege);
    the_real_one_comes_back(&controller, stolen);
}

#[test]
fn what_is_signed_and_not_understood_is_answered_or_quarantined() {
    let (controller, _honest, stolen) = controller_with_a_stolen_node();
    let mut siege = Siege::lay(&stolen, 1_000);

    // An upload that claims 2^63 entries and brings none.
    let mut absurd = STORE.as_bytes().to_vec();
    absurd.extend([2, 0]);
    absurd.extend([0xff; 8]);
    absurd.push(0x7f);
    let session = siege.session();
    let telemetry = siege.stream(Stream::Telemetry);
    for (what, topic, kind, version, payload, code) in [
        (
            "an unknown kind",
            &session,
            Kind(777),
            1,
            b"?".to_vec(),
            ErrorCode::MessageUnknownKind,
        ),
        (
            "an unknown version",
            &session,
            Kind::HEARTBEAT,
            9,
            b"?".to_vec(),
            ErrorCode::MessageUnknownVersion,
        ),
        (
            "a malformed message",
            &session,
            Kind::HEARTBEAT,
            1,
            vec![0xff; 40],
            ErrorCode::MessageMalformed,
        ),
        (
            "absurd counts",
            &telemetry,
            Kind::UPLOAD,
            1,
            absurd,
            ErrorCode::MessageMalformed,
        ),
    ] {
        let before = metric(&controller, &refused(code));
        let sealed = siege.pen.seal_payload(kind, version, &payload);
        siege.rogue.publish(topic, sealed);
        let answer: Reject = siege.pen.heard(&siege.rogue);
        assert_eq!((answer.code.as_str(), answer.kind), (code.text(), kind.0));
        wait::until_true(&format!("{what} is counted"), NOTICED, || {
            metric(&controller, &refused(code)) == before + 1
        });
        others_are_served(&controller, what);
    }

    // An upload whose predecessor never came: the acknowledgement sends it back.
    siege.upload(
        Stream::Control,
        41,
        vec![entry(42, EntryKind::RECEIPT, 1, vec![])],
    );
    siege.acknowledged(Stream::Control, 0);
    wait::until_true("the gap is counted", NOTICED, || {
        metric(&controller, &refused(ErrorCode::StreamGap)) == 1
    });

    // Entries that nobody can read are put aside and acknowledged.
    let quarantined = || metric(&controller, "fleet_uplink_quarantined_total");
    let before = quarantined();
    siege.upload(
        Stream::Control,
        0,
        vec![
            entry(1, EntryKind(999), 1, vec![1, 2, 3]),
            entry(2, EntryKind::RECEIPT, 77, vec![1]),
            entry(3, EntryKind::RECEIPT, 1, vec![0xff; 200]),
        ],
    );
    siege.acknowledged(Stream::Control, 3);
    let mut frames = vec![vec![], vec![0xff; 100]];
    // Each known form, tier and coding, with counts up to 2^63 behind it.
    for form in 0..4 {
        for tier in 0..4 {
            let mut frame = vec![form, tier];
            frame.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f].repeat(6));
            frames.push(frame);
        }
    }
    let count = u64::try_from(frames.len()).unwrap();
    let entries = (1..).zip(frames);
    let entries = entries.map(|(seq, body)| entry(seq, EntryKind::FRAME, FRAME_VERSION, body));
    siege.upload(Stream::Telemetry, 0, entries.collect());
    siege.acknowledged(Stream::Telemetry, count);
    assert_eq!(quarantined(), before + 3 + count);
    assert_eq!(metric(&controller, "fleet_frames_refused_total"), count);
    others_are_served(&controller, "a quarantine");
    drop(siege);
    the_real_one_comes_back(&controller, stolen);
}

/// The identity was used by another: it is held until someone has looked, and
/// works again then.
#[track_caller]
fn the_real_one_comes_back(controller: &Controller, mut stolen: Agent) {
    let cli = controller.cli();
    stolen.start();
    wait::until_true(
        "two who say the same name are noticed",
        fleet::LINK_LIMIT,
        || fleet::node(&cli, "stolen").is_some_and(|node| node["state"] == "suspect"),
    );
    cli.ok(&["node", "resolve", "stolen", "--keep"]);
    wait::until_true("the node works again", fleet::RECEIPT_LIMIT, || {
        cli.ask(&["run", "stolen", "--", "uname"]).code == 0
    });
    assert!(controller_runs(controller));
}

fn controller_runs(controller: &Controller) -> bool {
    let url = format!("{}/healthz", controller.api());
    controller
        .http()
        .get(url)
        .send()
        .is_ok_and(|answer| answer.status() == 200)
}

fn dropped(agent: &Agent, code: ErrorCode) -> u64 {
    agent.status()["refused"][code.text()].as_u64().unwrap_or(0)
}

/// Everything that came down to a node so far, and what is still on its way.
fn recorded(rogue: &Rogue, topic: &str) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| rogue.next())
        .filter(|(of, _)| of == topic)
        .map(|(_, payload)| payload)
        .collect()
}

#[test]
fn whoever_owns_the_broker_makes_an_agent_do_nothing() {
    let Some((controller, mosquitto)) = with_mosquitto() else {
        return;
    };
    let cli = controller.cli();
    let marks = Marks::below(controller.scratch());
    let mut agent = willing_agent(&cli, "besieged");
    let loaded = rogue::identity(agent.state());
    let (fleet_id, node) = (loaded.identity.fleet, loaded.identity.node);
    let (down, all) = (
        Topic::Down(node).print(fleet_id),
        Topic::All.print(fleet_id),
    );
    let owner = Rogue::connect(
        mosquitto.address(),
        &Papers::of_controller(&pki(&controller), fleet_id),
        "owner",
        &[down.clone(), all.clone()],
    );
    agent.start();
    fleet::await_up(&cli, "besieged");
    let works = |number: usize, cli: &Cli| {
        let id = crate::kill::issue(cli, "besieged", &marks, number).expect("it is issued");
        let target = fleet::outcome(cli, &id);
        assert_eq!(target["state"], "succeeded", "{target}");
        assert_eq!(marks.count(number), 1);
    };
    works(0, &cli);
    let genuine = recorded(&owner, &down);
    let order = genuine
        .iter()
        .find(|bytes| protocol::envelope::peek(bytes).is_ok_and(|h| h.kind == Kind::DOWN))
        .expect("the order was recorded")
        .clone();
    let connects = agent.status()["link"]["connects"].clone();

    let mut forged = order.clone();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let own_key = SigningKey::from_seed(&[0x31; 32]).unwrap();
    let seal = |fleet| Seal {
        fleet,
        sender: NodeId::NIL,
        key: &own_key,
    };
    let signed = |fleet| seal(fleet).seal_payload(Kind::DOWN, 1, 1 << 60, rogue::now(), &[0; 40]);
    let foreign = signed(FleetId::from_bytes([0x99; 10]));
    let stranger = signed(fleet_id);
    let part = order.get(..order.len() - 20).unwrap_or_default().to_vec();
    for (what, payload, code) in [
        ("garbage", vec![0xff; 3000], ErrorCode::EnvelopeMalformed),
        ("a part", part, ErrorCode::EnvelopeMalformed),
        ("a bad signature", forged, ErrorCode::EnvelopeBadSignature),
        ("another key", stranger, ErrorCode::EnvelopeUnknownKey),
        ("another fleet", foreign, ErrorCode::EnvelopeWrongFleet),
    ] {
        let before = dropped(&agent, code);
        for topic in [&down, &all] {
            owner.publish(topic, payload.clone());
        }
        wait::until_true(&format!("{what} is counted"), NOTICED, || {
            dropped(&agent, code) == before + 2
        });
    }
    // An order that was obeyed, on either topic.
    for topic in [&down, &all] {
        owner.publish(topic, order.clone());
    }
    wait::until_true("the replay is counted", NOTICED, || {
        dropped(&agent, ErrorCode::EnvelopeReplayed) >= 2
    });
    // More than the agent takes: the broker does not pass it on.
    for topic in [&down, &all] {
        owner.publish(topic, vec![0x46; 10 << 20]);
    }
    assert_eq!(owner.ended(), None, "the broker took them");
    works(1, &cli);
    let now = agent.status();
    assert_eq!(now["link"]["connects"], connects, "it kept its connection");
    let problems = now["problems"].to_string();
    assert!(problems.contains("envelope.bad_signature"), "{problems}");
    wait::until_true("the controller is told", NOTICED, || {
        let shown = cli.json(&["node", "show", "besieged"]).to_string();
        shown.contains("envelope.bad_signature")
    });

    // All of an earlier session, welcome and orders, in a new one.
    agent.stop();
    agent.start();
    fleet::await_up(&cli, "besieged");
    works(2, &cli);
    for payload in &genuine {
        owner.publish(&down, payload.clone());
        owner.publish(&all, payload.clone());
    }
    assert_eq!(owner.ended(), None);
    works(3, &cli);
    let text = fs::read_to_string(&marks.file).unwrap_or_default();
    assert_eq!(
        text.lines().count(),
        4,
        "each order was obeyed once: {text}"
    );
}
