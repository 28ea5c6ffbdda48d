//! The desk against nodes that are played by hand: sessions, streams, commands,
//! bad input, a store that fails, restarts.
#![expect(
    clippy::unwrap_in_result,
    reason = "a disk of a test that breaks its own rules may panic"
)]

mod breakers;
mod deployments;
mod signals;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::command::{Action, Outcome, Receipt, ServiceVerb};
use protocol::down::DownBody;
use protocol::envelope;
use protocol::id::{ApiKeyId, FleetId, PrincipalId, StoreId, TokenId};
use protocol::key::PublicKey;
use protocol::label::Labels;
use protocol::limits::{ENVELOPE_BYTES_MAX, LINK_PROVEN_MAX};
use protocol::message::{self, Kind};
use protocol::session::{Acks, BootId, Nonce, StreamOffer};
use protocol::state::{Budgets, Lifecycle, StateItem, StateValue};
use protocol::stream::{Entry, EntryKind, Upload};
use protocol::trust::{SignedTrust, TrustSet};

use super::*;
use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::command::event::{CommandCancelRequested, CommandConcluded, CommandIssued};
use crate::domain::event::Event;
use crate::domain::fleet::event::{
    IdentityResolved, IdentitySuspected, NodeJoined, NodeRelabelled, NodeRevoked,
};
use crate::domain::fleet::node::{AdmissionFacts, Doubt};
use crate::domain::fleet::token::Approval;
use crate::uplink::intake::{Ended, Medium, TargetState};
use crate::uplink::sink::{FrameOutcome, SinkError};

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const START: UnixMillis = UnixMillis(1_795_465_140_000);

/// Keeps frames in memory; refuses what begins with `!`; fails on demand.
#[derive(Default)]
struct Frames {
    kept: Vec<FrameArrival>,
    live: Vec<(NodeId, Vec<u8>)>,
    failing: bool,
}

impl FrameSink for Frames {
    fn ingest(
        &mut self,
        frames: Vec<FrameArrival>,
        _now: UnixMillis,
    ) -> Result<Vec<FrameOutcome>, SinkError> {
        if self.failing {
            return Err(SinkError {
                code: ErrorCode::StoreFull,
                reason: "no space".to_owned(),
            });
        }
        Ok(frames
            .into_iter()
            .map(|frame| {
                if frame.body.first() == Some(&b'!') {
                    FrameOutcome::Refused(ErrorCode::FrameInvalid)
                } else {
                    self.kept.push(frame);
                    FrameOutcome::Kept
                }
            })
            .collect())
    }

    fn live(&mut self, node: NodeId, frame: &[u8], _now: UnixMillis) {
        self.live.push((node, frame.to_vec()));
    }
}

/// A disk in memory that outlives its store, and fails on demand.
#[derive(Clone, Debug, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Handle(Disk);

impl redb::StorageBackend for Handle {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.bytes.lock().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.bytes.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.room()?;
        self.0
            .bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.room()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.room()?;
        let start = usize::try_from(offset).unwrap();
        self.0.bytes.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Disk {
    fn room(&self) -> std::io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn intake(&self) -> Intake {
        let disk = self.clone();
        let open = move || -> std::io::Result<Box<dyn redb::StorageBackend>> {
            Ok(Box::new(Handle(disk.clone())))
        };
        Intake::open_medium(Medium::Backend(Box::new(open))).unwrap()
    }
}

struct World {
    disk: Disk,
    desk: Desk<Frames>,
    fleet: Fleet,
    now: UnixMillis,
    controller: PublicKey,
    heard: Vec<(Topic, Heard)>,
    events: Vec<DeskEvent>,
    records: Vec<(Record, Vec<NodeId>)>,
}

/// A message of the controller's, opened.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Welcome(Box<Welcome>),
    Acks(Acks),
    Down(Down),
    Reject(Reject),
    Announce(Announce),
    Policy(SignedPolicy),
}

fn controller_key() -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&[99; 32]).unwrap())
}

fn trust(version: u64) -> Arc<CurrentTrust> {
    let set = TrustSet {
        fleet: FLEET,
        version,
        issued_at: UnixMillis(1),
        controller_keys: Vec::new(),
        authorities: Vec::new(),
        release_keys: Vec::new(),
    };
    Arc::new(CurrentTrust {
        version,
        signed: SignedTrust {
            bytes: protocol::message::encode(&set),
            signature: vec![0; 64],
        },
    })
}

impl World {
    fn new() -> Self {
        let disk = Disk::default();
        let fleet = Fleet::new(FLEET);
        Self {
            desk: Self::desk(&disk, &fleet, START),
            disk,
            fleet,
            now: START,
            controller: controller_key().public(),
            heard: Vec::new(),
            events: Vec::new(),
            records: Vec::new(),
        }
    }

    fn desk(disk: &Disk, fleet: &Fleet, now: UnixMillis) -> Desk<Frames> {
        Desk::new(
            DeskConfig {
                heartbeat: Duration::from_secs(15),
            },
            Arc::new(fleet.clone()),
            controller_key(),
            trust(1),
            disk.intake(),
            Frames::default(),
            now,
        )
        .unwrap()
    }

    /// The controller ends and starts again.
    fn restart(&mut self) {
        // The old store must be gone before its medium is opened again.
        self.desk = Self::desk(&Disk::default(), &self.fleet, self.now);
        self.desk = Self::desk(&self.disk, &self.fleet, self.now);
        self.heard.clear();
        self.events.clear();
    }

    fn record(&mut self, event: Event) {
        self.record_for(event, Vec::new());
    }

    fn record_for(&mut self, event: Event, targets: Vec<NodeId>) {
        let record = Record {
            seq: self.fleet.seq() + 1,
            at: self.now,
            by: Caller::System,
            request: None,
            operation: "test".to_owned(),
            version: 1,
            event,
        };
        self.fleet.apply(&record);
        self.desk.set_fleet(Arc::new(self.fleet.clone()));
        self.records.push((record.clone(), targets.clone()));
        let output = self
            .desk
            .record(vec![Recorded { record, targets }], self.now);
        self.hear(output);
    }

    /// Records that the desk has not taken into account.
    fn missed(&self) -> Vec<(Record, Vec<NodeId>)> {
        let records = self.records.iter();
        records
            .filter(|(record, _)| record.seq > self.desk.cursor())
            .cloned()
            .collect()
    }

    fn join(&mut self, number: u8) -> Node {
        let node = Node::new(number);
        self.record(Event::NodeJoined(NodeJoined {
            node: node.id,
            name: format!("node-{number}"),
            labels: Labels::default(),
            signing_key: node.key.public(),
            token: TokenId::from_bytes([1; 10]),
            approval: Approval::Automatic,
            facts: AdmissionFacts::default(),
        }));
        node
    }

    fn issue(&mut self, number: u8, action: Action, targets: &[NodeId]) -> CommandId {
        self.issue_paced(number, action, targets, None, None)
    }

    fn issue_paced(
        &mut self,
        number: u8,
        action: Action,
        targets: &[NodeId],
        concurrency_max: Option<u32>,
        rate_per_min: Option<u32>,
    ) -> CommandId {
        let command = CommandId::from_bytes([number; 10]);
        self.record_for(
            Event::CommandIssued(CommandIssued {
                command,
                selector: None,
                action,
                start_by: self.now.after(Duration::from_secs(60)),
                run_timeout_ms: 10_000,
                output_bytes_max: 1024,
                concurrency_max,
                rate_per_min,
                target_count: u32::try_from(targets.len()).unwrap(),
                targets_digest: Digest([0; 32]),
                withheld: 0,
            }),
            targets.to_vec(),
        );
        command
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        let output = self.desk.tick(self.now);
        self.hear(output);
    }

    fn deliver(&mut self, deliveries: Vec<Delivery>) {
        let output = self.desk.receive(deliveries, Load::Normal, self.now);
        self.hear(output);
    }

    fn hear(&mut self, output: Output) {
        self.events.extend(output.events);
        for outgoing in output.outgoing {
            let controller = self.controller;
            let opened = envelope::open(&outgoing.payload, FLEET, |sender, _| {
                (sender == NodeId::NIL).then_some(controller)
            })
            .unwrap();
            let heard = if let Ok(it) = opened.decode::<Welcome>() {
                Heard::Welcome(Box::new(it))
            } else if let Ok(it) = opened.decode::<Acks>() {
                Heard::Acks(it)
            } else if let Ok(it) = opened.decode::<Down>() {
                Heard::Down(it)
            } else if let Ok(it) = opened.decode::<Reject>() {
                Heard::Reject(it)
            } else if let Ok(it) = opened.decode::<SignedPolicy>() {
                Heard::Policy(it)
            } else {
                Heard::Announce(opened.decode().unwrap())
            };
            self.heard.push((outgoing.topic, heard));
        }
    }

    /// What a node was told since the last call.
    fn told(&mut self, node: &Node) -> Vec<Heard> {
        let topic = Topic::Down(node.id);
        let (own, rest) = std::mem::take(&mut self.heard)
            .into_iter()
            .partition(|(to, _)| *to == topic);
        self.heard = rest;
        own.into_iter().map(|(_, heard)| heard).collect()
    }

    fn connect(&mut self, node: &mut Node) -> Welcome {
        let hello = node.hello(self.now);
        self.deliver(vec![hello]);
        self.told(node)
            .into_iter()
            .find_map(|heard| match heard {
                Heard::Welcome(welcome) => Some(*welcome),
                Heard::Acks(_)
                | Heard::Down(_)
                | Heard::Reject(_)
                | Heard::Announce(_)
                | Heard::Policy(_) => None,
            })
            .expect("the node is welcomed")
    }

    fn acked(&mut self, node: &Node, stream: Stream) -> Option<u64> {
        self.told(node)
            .into_iter()
            .filter_map(|heard| match heard {
                Heard::Acks(acks) => acks
                    .acks
                    .iter()
                    .find(|ack| ack.stream == stream)
                    .map(|ack| ack.acked),
                Heard::Welcome(_)
                | Heard::Down(_)
                | Heard::Reject(_)
                | Heard::Announce(_)
                | Heard::Policy(_) => None,
            })
            .next_back()
    }

    fn orders(&mut self, node: &Node) -> Vec<Down> {
        self.told(node)
            .into_iter()
            .filter_map(|heard| match heard {
                Heard::Down(down) => Some(down),
                Heard::Welcome(_)
                | Heard::Acks(_)
                | Heard::Reject(_)
                | Heard::Announce(_)
                | Heard::Policy(_) => None,
            })
            .collect()
    }

    fn rejections(&mut self, node: &Node) -> Vec<String> {
        self.told(node)
            .into_iter()
            .filter_map(|heard| match heard {
                Heard::Reject(reject) => Some(reject.code),
                Heard::Welcome(_)
                | Heard::Acks(_)
                | Heard::Down(_)
                | Heard::Announce(_)
                | Heard::Policy(_) => None,
            })
            .collect()
    }

    fn ended(&self, command: CommandId, node: &Node) -> Option<Ended> {
        match self.desk.intake.target(command, node.id).unwrap()? {
            TargetState::Final(state) => Some(state.ended),
            TargetState::Waiting | TargetState::Sent { .. } => None,
        }
    }

    fn doubts(&self) -> Vec<Doubt> {
        self.events
            .iter()
            .filter_map(|event| match event {
                DeskEvent::Suspected { suspect, .. } => Some(suspect.doubt),
                DeskEvent::Behind { .. }
                | DeskEvent::Concluded { .. }
                | DeskEvent::Progress { .. }
                | DeskEvent::Ended { .. }
                | DeskEvent::Decided(_)
                | DeskEvent::Gone(_)
                | DeskEvent::Moved(_)
                | DeskEvent::OverrideOver(_)
                | DeskEvent::PolicyAhead { .. }
                | DeskEvent::Disconnect(_)
                | DeskEvent::Lost { .. } => None,
            })
            .collect()
    }
}

/// A node played by hand.
#[derive(Clone)]
struct Node {
    id: NodeId,
    key: Arc<SigningKey>,
    store: StoreId,
    connects: u64,
    sent: u32,
    nonce: Nonce,
    last: [u64; 4],
    acked: [u64; 4],
    incarnation: u64,
    generation: u64,
    policy_epoch: u64,
}

impl Node {
    fn new(number: u8) -> Self {
        Self {
            id: NodeId::from_bytes([number; 10]),
            key: Arc::new(SigningKey::from_seed(&[number; 32]).unwrap()),
            store: StoreId::from_bytes([number; 10]),
            connects: 0,
            sent: 0,
            nonce: Nonce([0; 16]),
            last: [0; 4],
            acked: [0; 4],
            incarnation: 1,
            generation: 0,
            policy_epoch: 0,
        }
    }

    fn seal<M: Message>(&mut self, topic: Topic, message: &M, now: UnixMillis) -> Delivery {
        self.seal_raw(topic, M::KIND, M::VERSION, &message::encode(message), now)
    }

    fn seal_raw(
        &mut self,
        topic: Topic,
        kind: Kind,
        version: u16,
        payload: &[u8],
        now: UnixMillis,
    ) -> Delivery {
        self.sent += 1;
        let seal = Seal {
            fleet: FLEET,
            sender: self.id,
            key: &self.key,
        };
        let counter = (self.connects << 32) | u64::from(self.sent);
        Delivery {
            topic,
            payload: seal.seal_payload(kind, version, counter, now, payload),
            sender: Some(self.id),
        }
    }

    fn hello(&mut self, now: UnixMillis) -> Delivery {
        self.connects += 1;
        self.sent = 0;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.connects.to_le_bytes());
        nonce[8..].copy_from_slice(&now.0.to_le_bytes());
        self.nonce = Nonce(nonce);
        let hello = Hello {
            nonce: self.nonce,
            store: self.store,
            connect_counter: self.connects,
            boot: BootId([1; 16]),
            agent_version: "1.0.0".to_owned(),
            now,
            incarnation: self.incarnation,
            generation: self.generation,
            policy_epoch: self.policy_epoch,
            trust_version: 1,
            streams: Stream::ALL
                .map(|stream| StreamOffer {
                    stream,
                    acked: self.acked[stream.index()],
                    last: self.last[stream.index()],
                })
                .to_vec(),
        };
        self.seal(Topic::Session(self.id), &hello, now)
    }

    fn heartbeat(&mut self, down_seen: u64, now: UnixMillis) -> Delivery {
        let heartbeat = Heartbeat {
            nonce: self.nonce,
            down_seen,
            now,
            uptime_ms: 1,
            outbox_entries: 0,
        };
        self.seal(Topic::Session(self.id), &heartbeat, now)
    }

    fn upload(
        &mut self,
        stream: Stream,
        after: u64,
        entries: Vec<Entry>,
        now: UnixMillis,
    ) -> Delivery {
        if let Some(last) = entries.last() {
            let held = &mut self.last[stream.index()];
            *held = (*held).max(last.seq);
        }
        let upload = Upload {
            store: self.store,
            stream,
            after,
            entries,
        };
        self.seal(Topic::Up(self.id, stream), &upload, now)
    }

    fn receipt(
        &mut self,
        seq: u64,
        command: CommandId,
        outcome: Outcome,
        now: UnixMillis,
    ) -> Delivery {
        let entry = receipt(seq, command, outcome);
        self.upload(Stream::Control, seq - 1, vec![entry], now)
    }
}

fn entry(seq: u64, kind: EntryKind, body: &impl serde::Serialize) -> Entry {
    Entry {
        seq,
        kind,
        version: 1,
        body: message::encode(body),
    }
}

fn frame(seq: u64, body: &[u8]) -> Entry {
    Entry {
        seq,
        kind: EntryKind::FRAME,
        version: 1,
        body: body.to_vec(),
    }
}

fn state(seq: u64, memory_bytes: u64) -> Entry {
    let item = StateItem {
        at: START,
        value: StateValue::Budgets(Budgets {
            memory_bytes,
            ..Budgets::default()
        }),
    };
    entry(seq, EntryKind::STATE, &item)
}

fn receipt(seq: u64, command: CommandId, outcome: Outcome) -> Entry {
    let receipt = Receipt {
        command,
        outcome,
        code: None,
        detail: "done".to_owned(),
        started_at: None,
        ended_at: START,
        stdout: b"out".to_vec(),
        stderr: Vec::new(),
        cut_bytes: 0,
    };
    entry(seq, EntryKind::RECEIPT, &receipt)
}

fn restart_unit() -> Action {
    Action::Service {
        unit: "app.service".to_owned(),
        verb: ServiceVerb::Restart,
    }
}

#[test]
fn a_hello_is_welcomed_with_its_nonce_and_what_has_arrived() {
    let mut world = World::new();
    let mut node = world.join(1);
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.nonce, node.nonce);
    assert_eq!(welcome.echo, world.now);
    assert_eq!(welcome.name, "node-1");
    assert_eq!(welcome.heartbeat_ms, 15_000);
    assert!(welcome.acks.iter().all(|ack| ack.acked == 0));

    let upload = node.upload(Stream::Telemetry, 0, vec![frame(3, b"a")], world.now);
    world.deliver(vec![upload]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(3));
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 3);
}

#[test]
fn nothing_but_a_hello_is_taken_before_one() {
    let mut world = World::new();
    let mut node = world.join(1);
    let early = node.upload(Stream::Control, 0, vec![state(1, 1)], world.now);
    let again = node.heartbeat(0, world.now);
    world.deliver(vec![early, again]);
    // Once in a second.
    assert_eq!(world.rejections(&node), ["session.unknown"]);
    assert!(world.desk.intake.states(node.id).unwrap().is_empty());

    world.connect(&mut node);
    world.restart();
    let late = node.heartbeat(0, world.now);
    world.deliver(vec![late]);
    assert_eq!(world.rejections(&node), ["session.unknown"]);
}

#[test]
fn entries_are_taken_once_and_gaps_send_the_node_back() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);

    let first = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(1, b"a"), frame(4, b"b")],
        world.now,
    );
    let missing = node.upload(Stream::Telemetry, 4, vec![frame(5, b"c")], world.now);
    let third = node.upload(Stream::Telemetry, 5, vec![frame(6, b"d")], world.now);
    world.deliver(vec![first, third]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(4));
    assert_eq!(world.desk.stats().refused[&ErrorCode::StreamGap], 1);

    let overlap = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(4, b"b"), frame(5, b"c")],
        world.now,
    );
    world.deliver(vec![missing.clone(), overlap]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(5));
    let kept: Vec<u64> = world
        .desk
        .sink()
        .kept
        .iter()
        .map(|frame| frame.seq)
        .collect();
    assert_eq!(kept, [1, 4, 5]);

    // The same envelope again is a replay.
    world.deliver(vec![missing]);
    assert_eq!(world.desk.stats().refused[&ErrorCode::EnvelopeReplayed], 1);
    assert!(world.told(&node).is_empty());
    assert!(world.doubts().is_empty());
}

#[test]
fn what_cannot_be_decoded_is_quarantined_and_acknowledged() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let strange = Entry {
        seq: 1,
        kind: EntryKind(999),
        version: 1,
        body: vec![1, 2, 3],
    };
    let newer = Entry {
        version: 2,
        ..state(2, 1)
    };
    let cut = Entry {
        body: vec![0xff; 3],
        ..state(3, 1)
    };
    let upload = node.upload(
        Stream::State,
        0,
        vec![strange, newer, cut, state(4, 44)],
        world.now,
    );
    let bad_frame = node.upload(
        Stream::Backfill,
        0,
        vec![frame(1, b"!bad"), frame(2, b"good")],
        world.now,
    );
    world.deliver(vec![upload, bad_frame]);
    assert_eq!(world.desk.stats().quarantined, 4);
    let codes: BTreeSet<String> = world
        .desk
        .intake
        .quarantine(10)
        .unwrap()
        .into_iter()
        .map(|entry| entry.code)
        .collect();
    assert_eq!(
        codes,
        BTreeSet::from([
            "message.unknown_kind".to_owned(),
            "message.unknown_version".to_owned(),
            "message.malformed".to_owned(),
            "frame.invalid".to_owned(),
        ])
    );
    let acks: Vec<Heard> = world.told(&node);
    let Some(Heard::Acks(acks)) = acks.last() else {
        panic!("{acks:?}");
    };
    assert_eq!(acks.acks.len(), 2);
    assert_eq!(
        acks.acks.iter().map(|ack| ack.acked).collect::<Vec<_>>(),
        [4, 2]
    );
    let states = world.desk.intake.states(node.id).unwrap();
    assert_eq!(states.len(), 1, "the good one behind the bad ones is taken");
}

#[test]
fn the_latest_state_wins_and_lifecycles_are_kept() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(
        Stream::State,
        0,
        vec![state(1, 10), state(2, 20)],
        world.now,
    );
    let started = entry(
        1,
        EntryKind::LIFECYCLE,
        &Lifecycle::Stopped { at: world.now },
    );
    let control = node.upload(Stream::Control, 0, vec![started], world.now);
    world.deliver(vec![upload, control]);
    let states = world.desk.intake.states(node.id).unwrap();
    assert!(matches!(
        &states[..],
        [crate::uplink::intake::StoredState { item: StateItem { value: StateValue::Budgets(budgets), .. }, .. }]
            if budgets.memory_bytes == 20
    ));
    assert_eq!(world.desk.intake.lifecycles(node.id).unwrap().len(), 1);
}

#[test]
fn bad_envelopes_are_counted_by_code_and_change_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut stranger = Node::new(2);
    world.connect(&mut node);
    let good = node.heartbeat(0, world.now);

    let mut forged = good.clone();
    let last = forged.payload.len() - 1;
    forged.payload[last] ^= 1;
    let mut foreign = node.clone().heartbeat(0, world.now);
    foreign.payload[10] ^= 1;
    let mut truncated = good.clone();
    truncated.payload.truncate(60);
    let huge = Delivery {
        payload: vec![b'F'; ENVELOPE_BYTES_MAX + 1],
        ..good.clone()
    };
    let absurd = Delivery {
        payload: vec![0xff; 500],
        ..good.clone()
    };
    let empty = Delivery {
        payload: Vec::new(),
        ..good.clone()
    };
    let unknown = stranger.hello(world.now);
    let carried = Delivery {
        sender: Some(stranger.id),
        ..good.clone()
    };
    let elsewhere = Delivery {
        topic: Topic::Session(stranger.id),
        ..good.clone()
    };
    world.deliver(vec![
        forged, foreign, truncated, huge, absurd, empty, unknown, carried, elsewhere,
    ]);
    assert!(world.heard.is_empty(), "{:?}", world.heard);
    assert_eq!(
        world.desk.stats().refused,
        BTreeMap::from([
            (ErrorCode::EnvelopeBadSignature, 1),
            (ErrorCode::EnvelopeWrongFleet, 1),
            (ErrorCode::EnvelopeMalformed, 3),
            (ErrorCode::EnvelopeTooLarge, 1),
            (ErrorCode::EnvelopeUnknownKey, 3),
        ])
    );
    world.deliver(vec![good]);
    assert_eq!(world.told(&node).len(), 1, "the loop goes on");
}

#[test]
fn unknown_kinds_and_versions_and_malformed_payloads_are_answered() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let session = Topic::Session(node.id);
    let bad = vec![
        node.seal_raw(session, Kind(777), 1, b"?", world.now),
        node.seal_raw(session, Kind::HEARTBEAT, 9, b"?", world.now),
        node.seal_raw(session, Kind::HEARTBEAT, 1, &[0xff; 40], world.now),
        node.seal_raw(session, Kind::HELLO, 9, b"?", world.now),
        node.seal_raw(session, Kind::UPLOAD, 1, b"?", world.now),
        node.seal_raw(session, Kind::WELCOME, 1, b"?", world.now),
    ];
    world.deliver(bad);
    assert_eq!(
        world.rejections(&node),
        [
            "message.unknown_kind",
            "message.unknown_version",
            "message.malformed",
            "message.unknown_version",
            "message.unknown_kind",
            "message.unknown_kind",
        ]
    );
}

#[test]
fn what_a_node_does_not_take_is_counted_and_never_answered() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let session = Topic::Session(node.id);
    for code in ["message.unknown_version", "a.code_of_tomorrow"] {
        let reject = message::encode(&Reject {
            kind: Kind::DOWN.0,
            version: 1,
            counter: 1,
            code: code.to_owned(),
            detail: String::new(),
        });
        let said = node.seal_raw(session, Kind::REJECT, 1, &reject, world.now);
        world.deliver(vec![said]);
    }
    let garbled = node.seal_raw(session, Kind::REJECT, 1, &[0xff; 40], world.now);
    world.deliver(vec![garbled]);
    assert!(world.told(&node).is_empty(), "{:?}", world.heard);
    assert_eq!(
        world.desk.stats().rejected,
        BTreeMap::from([
            (ErrorCode::MessageUnknownVersion, 1),
            (ErrorCode::Internal, 1)
        ])
    );
    assert_eq!(
        world.desk.stats().refused,
        BTreeMap::from([(ErrorCode::MessageMalformed, 1)])
    );
}

#[test]
fn absurd_counts_and_numbers_in_an_upload_are_refused() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let topic = Topic::Up(node.id, Stream::Telemetry);
    // An entry count of 2^63 with nothing behind it.
    let mut payload = node.store.as_bytes().to_vec();
    payload.extend([2, 0]);
    payload.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let absurd = node.seal_raw(topic, Kind::UPLOAD, 1, &payload, world.now);
    let falling = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(5, b"a"), frame(5, b"b")],
        world.now,
    );
    let below = node.upload(Stream::Telemetry, 7, vec![frame(7, b"a")], world.now);
    let mut other_store = node.clone();
    other_store.store = StoreId::from_bytes([77; 10]);
    other_store.sent = node.sent;
    let other = other_store.upload(Stream::Telemetry, 0, vec![frame(1, b"a")], world.now);
    world.deliver(vec![absurd, falling, below, other]);
    assert_eq!(world.rejections(&node), vec!["message.malformed"; 4]);
    assert!(world.desk.sink().kept.is_empty());

    let last = node.upload(Stream::Telemetry, 0, vec![frame(u64::MAX, b"a")], world.now);
    world.deliver(vec![last]);
}

#[test]
fn a_reused_connect_counter_puts_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut clone = node.clone();
    world.connect(&mut node);
    world.wait(1);
    // Another machine with the same disk: same counter, its own nonce.
    let theirs = clone.hello(world.now);
    world.deliver(vec![theirs]);
    assert_eq!(world.doubts(), [Doubt::CounterReused]);
    assert_eq!(world.rejections(&node), ["node.identity_suspect"]);
}

#[test]
fn a_disk_that_was_put_back_is_noticed_even_after_a_restart() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut old = node.clone();
    for _ in 0..20 {
        world.wait(1);
        world.connect(&mut node);
    }
    world.restart();
    world.wait(1);
    let hello = old.hello(world.now);
    world.deliver(vec![hello]);
    assert_eq!(world.doubts(), [Doubt::CounterReused]);
}

#[test]
fn hellos_that_a_broker_plays_back_are_ignored() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut recorded = Vec::new();
    for _ in 0..20 {
        world.wait(1);
        let hello = node.hello(world.now);
        recorded.push(hello.clone());
        world.deliver(vec![hello]);
    }
    world.told(&node);
    world.deliver(recorded.clone());
    world.restart();
    world.deliver(recorded);
    assert!(world.doubts().is_empty());
    assert!(world.told(&node).is_empty());
}

#[test]
fn one_number_with_two_contents_puts_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let one = node.upload(Stream::Control, 0, vec![state(1, 1)], world.now);
    let two = node.upload(Stream::Control, 0, vec![state(1, 2)], world.now);
    world.deliver(vec![one, two]);
    assert_eq!(world.doubts(), [Doubt::ContentDiffers]);
}

#[test]
fn numbers_that_were_never_given_out_put_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(50, b"a")], world.now);
    world.deliver(vec![upload]);
    node.last = [0; 4];
    let welcome = world.connect(&mut node);
    assert_eq!(world.doubts(), [Doubt::ContentDiffers]);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 50);
}

#[test]
fn a_new_store_starts_anew_and_the_return_of_the_old_one_is_doubted() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(50, b"a")], world.now);
    world.deliver(vec![upload]);
    let mut old = node.clone();

    world.wait(1);
    node.store = StoreId::from_bytes([42; 10]);
    node.connects = 0;
    node.last = [0; 4];
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 0);
    assert!(world.doubts().is_empty());

    world.wait(1);
    world.connect(&mut old);
    assert_eq!(world.doubts(), [Doubt::StoreChanged]);
}

#[test]
fn a_restored_controller_takes_the_nodes_word_and_counts_what_is_lost() {
    let mut world = World::new();
    let mut node = world.join(1);
    node.acked[Stream::Telemetry.index()] = 100;
    node.last[Stream::Telemetry.index()] = 120;
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 100);
    assert_eq!(world.desk.stats().lost, 100);
    assert!(world.events.contains(&DeskEvent::Lost {
        node: node.id,
        entries: 100
    }));
    let presence = world.desk.board().presence(node.id).unwrap();
    assert_eq!(presence.entries_lost, 100);

    node.incarnation = 5;
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    assert!(world.told(&node).is_empty());
    assert!(world.events.contains(&DeskEvent::Behind {
        node: node.id,
        incarnation: 5
    }));
}

#[test]
fn a_full_intake_disk_stops_acknowledgements_and_loses_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let upload = node.upload(Stream::Control, 0, vec![state(1, 11)], world.now);
        world.deliver(vec![upload]);
        assert!(world.told(&node).is_empty(), "nothing is acknowledged");
    }
    assert_eq!(world.desk.stats().commits_failed, 3);

    world.disk.full.store(false, Ordering::Relaxed);
    let upload = node.upload(Stream::Control, 0, vec![state(1, 11)], world.now);
    world.deliver(vec![upload]);
    assert_eq!(world.acked(&node, Stream::Control), Some(1));
    assert_eq!(world.desk.intake.states(node.id).unwrap().len(), 1);
    assert!(world.doubts().is_empty());
}

#[test]
fn full_series_hold_back_frames_and_nothing_else() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.desk.sink().failing = true;
    let frames = node.upload(Stream::Telemetry, 0, vec![frame(1, b"a")], world.now);
    let more = node.upload(Stream::Telemetry, 1, vec![frame(2, b"b")], world.now);
    let states = node.upload(Stream::State, 0, vec![state(1, 1)], world.now);
    world.deliver(vec![frames, more, states]);
    let told = world.told(&node);
    let Some(Heard::Acks(acks)) = told.last() else {
        panic!("{told:?}");
    };
    assert_eq!(acks.acks.len(), 1);
    assert_eq!(acks.acks[0].stream, Stream::State);

    world.desk.sink().failing = false;
    let again = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(1, b"a"), frame(2, b"b")],
        world.now,
    );
    world.deliver(vec![again]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(2));
    assert_eq!(world.desk.sink().kept.len(), 2);
}

#[test]
fn positions_survive_a_restart() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(9, b"a")], world.now);
    world.deliver(vec![upload]);
    world.restart();
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 9);
}

#[test]
fn a_command_goes_out_and_its_receipt_ends_it() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id]);
    let orders = world.orders(&node);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].number, 1);
    assert_eq!(orders[0].nonce, node.nonce);
    assert!(matches!(&orders[0].body, DownBody::Command(it) if it.id == command));

    let answer = node.receipt(1, command, Outcome::Failed { exit: Some(3) }, world.now);
    world.deliver(vec![answer]);
    assert_eq!(
        world.ended(command, &node),
        Some(Ended::Failed { exit: Some(3) })
    );
    let stored = world
        .desk
        .intake
        .receipt(command, node.id)
        .unwrap()
        .unwrap();
    assert!(!stored.late);
    assert_eq!(stored.receipt.stdout, b"out");

    world.wait(1);
    let concluded = world.events.iter().find_map(|event| {
        if let DeskEvent::Concluded {
            command: id,
            counts,
            ..
        } = event
        {
            (*id == command).then_some(*counts)
        } else {
            None
        }
    });
    let counts = concluded.expect("the command is concluded");
    assert_eq!(counts.failed, 1);
    assert_eq!(counts.total(), 1);
    world.record(Event::CommandConcluded(CommandConcluded {
        command,
        counts,
        merkle_root: Digest([0; 32]),
    }));
    world.events.clear();
    world.wait(10);
    assert!(world.events.is_empty());
}

#[test]
fn a_lost_order_is_sent_again_after_the_heartbeat() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.issue(1, Action::Ping, &[node.id]);
    world.issue(2, Action::Ping, &[node.id]);
    assert_eq!(world.orders(&node).len(), 2);

    let early = node.heartbeat(0, world.now);
    world.deliver(vec![early]);
    assert!(world.orders(&node).is_empty(), "they may be under way");
    world.wait(15);
    let beat = node.heartbeat(1, world.now);
    world.deliver(vec![beat]);
    let again = world.orders(&node);
    assert_eq!(
        again.iter().map(|down| down.number).collect::<Vec<_>>(),
        [2]
    );
    world.wait(15);
    let beat = node.heartbeat(2, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty());
}

#[test]
fn open_commands_are_given_to_every_new_session() {
    let mut world = World::new();
    let mut node = world.join(1);
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert!(world.orders(&node).is_empty(), "it is not connected");
    let sent = |world: &mut World, node: &mut Node| {
        let hello = node.hello(world.now);
        world.deliver(vec![hello]);
        world.orders(node)
    };
    assert_eq!(sent(&mut world, &mut node).len(), 1);
    assert_eq!(sent(&mut world, &mut node).len(), 1);
    world.restart();
    let orders = sent(&mut world, &mut node);
    assert_eq!(orders.len(), 1);
    assert!(matches!(&orders[0].body, DownBody::Command(it) if it.id == command));
}

#[test]
fn concurrency_and_rate_pace_a_command() {
    let mut world = World::new();
    let mut nodes: Vec<Node> = (1..=6).map(|number| world.join(number)).collect();
    for node in &mut nodes {
        world.connect(node);
    }
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let command = world.issue_paced(9, Action::Ping, &ids, Some(2), None);
    let status = |world: &World| world.desk.board().command(command).unwrap();
    assert_eq!((status(&world).sent, status(&world).waiting), (2, 4));
    let first = nodes
        .iter()
        .position(|node| {
            world
                .heard
                .iter()
                .any(|(topic, _)| *topic == Topic::Down(node.id))
        })
        .unwrap();
    let now = world.now;
    let answer = nodes[first].receipt(1, command, Outcome::Succeeded, now);
    world.deliver(vec![answer]);
    assert_eq!((status(&world).sent, status(&world).waiting), (2, 3));

    let slow = world.issue_paced(8, Action::Ping, &ids, None, Some(60));
    let status = |world: &World| world.desk.board().command(slow).unwrap();
    assert_eq!(status(&world).sent, 1);
    world.wait(1);
    assert_eq!(status(&world).sent, 2);
    world.wait(1);
    assert_eq!(status(&world).sent, 3);
}

#[test]
fn every_target_ends_in_exactly_one_final_state() {
    let mut world = World::new();
    let mut silent = world.join(1);
    let absent = world.join(2);
    let mut held_back = world.join(3);
    world.connect(&mut silent);
    let command = world.issue_paced(
        1,
        Action::Ping,
        &[silent.id, absent.id, held_back.id],
        Some(1),
        None,
    );
    world.connect(&mut held_back);
    for _ in 0..5 {
        world.wait(12);
        let beats = vec![
            silent.heartbeat(1, world.now),
            held_back.heartbeat(0, world.now),
        ];
        world.deliver(beats);
    }
    world.wait(0);
    assert_eq!(world.ended(command, &absent), Some(Ended::Unreachable));
    assert_eq!(world.ended(command, &held_back), Some(Ended::Expired));
    assert_eq!(world.ended(command, &silent), None, "it may still run");
    world.wait(10 + 35);
    assert_eq!(world.ended(command, &silent), Some(Ended::Unreachable));

    // A receipt that comes later is attached and rewrites nothing.
    world.connect(&mut silent);
    let late = silent.receipt(1, command, Outcome::Succeeded, world.now);
    world.deliver(vec![late]);
    assert_eq!(world.acked(&silent, Stream::Control), Some(1));
    assert_eq!(world.ended(command, &silent), Some(Ended::Unreachable));
    let stored = world
        .desk
        .intake
        .receipt(command, silent.id)
        .unwrap()
        .unwrap();
    assert!(stored.late);
}

#[test]
fn cancelling_ends_what_was_not_sent_and_tells_who_has_it() {
    let mut world = World::new();
    let mut running = world.join(1);
    let absent = world.join(2);
    world.connect(&mut running);
    let command = world.issue(1, restart_unit(), &[running.id, absent.id]);
    assert_eq!(world.orders(&running).len(), 1);
    world.record(Event::CommandCancelRequested(CommandCancelRequested {
        command,
    }));
    assert_eq!(world.ended(command, &absent), Some(Ended::Cancelled));
    assert_eq!(world.ended(command, &running), None);
    let orders = world.orders(&running);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].body, DownBody::Cancel { command });

    // A new session hears of the cancelling, and not of the command.
    let hello = running.hello(world.now);
    world.deliver(vec![hello]);
    let orders = world.orders(&running);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].body, DownBody::Cancel { command });
    let answer = running.receipt(1, command, Outcome::Cancelled, world.now);
    world.deliver(vec![answer]);
    assert_eq!(world.ended(command, &running), Some(Ended::Cancelled));
}

#[test]
fn receipts_twice_or_of_unknown_commands_change_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id]);
    let twice = node.upload(
        Stream::Control,
        0,
        vec![
            receipt(1, command, Outcome::Succeeded),
            receipt(2, command, Outcome::Refused),
            receipt(3, CommandId::from_bytes([200; 10]), Outcome::Succeeded),
        ],
        world.now,
    );
    world.deliver(vec![twice]);
    assert_eq!(world.acked(&node, Stream::Control), Some(3));
    assert_eq!(world.ended(command, &node), Some(Ended::Succeeded));
    let stored = world
        .desk
        .intake
        .receipt(command, node.id)
        .unwrap()
        .unwrap();
    assert_eq!(stored.receipt.outcome, Outcome::Succeeded);
    assert_eq!(
        world.desk.intake.quarantine(5).unwrap()[0].code,
        "command.not_found"
    );
}

#[test]
fn a_doubted_identity_gets_reads_but_no_changes() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.record(Event::IdentitySuspected(IdentitySuspected {
        node: node.id,
        doubt: Doubt::CounterReused,
        detail: String::new(),
    }));
    world.issue(1, restart_unit(), &[node.id]);
    assert!(world.orders(&node).is_empty());
    world.issue(2, Action::Ping, &[node.id]);
    assert_eq!(world.orders(&node).len(), 1);
    world.record(Event::IdentityResolved(IdentityResolved {
        node: node.id,
        note: String::new(),
    }));
    assert_eq!(world.orders(&node).len(), 1);
}

#[test]
fn a_revoked_node_is_cut_off_and_its_targets_end() {
    let mut world = World::new();
    let mut node = world.join(1);
    let waiting = world.join(2);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id, waiting.id]);
    for id in [node.id, waiting.id] {
        world.record(Event::NodeRevoked(NodeRevoked {
            node: id,
            reason: String::new(),
        }));
        assert!(world.events.contains(&DeskEvent::Disconnect(id)));
    }
    assert_eq!(world.ended(command, &node), Some(Ended::Unreachable));
    assert_eq!(world.ended(command, &waiting), Some(Ended::Cancelled));
    world.told(&node);
    let beat = node.heartbeat(0, world.now);
    let hello = node.hello(world.now);
    world.deliver(vec![beat, hello]);
    assert!(world.told(&node).is_empty());
    assert_eq!(
        world.desk.stats().refused[&ErrorCode::EnvelopeUnknownKey],
        2
    );
}

#[test]
fn labels_and_trust_reach_live_sessions() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let mut labels = Labels::default();
    labels.set("site".to_owned(), "lyon".to_owned()).unwrap();
    world.record(Event::NodeRelabelled(NodeRelabelled {
        node: node.id,
        labels: labels.clone(),
    }));
    let orders = world.orders(&node);
    assert!(
        matches!(&orders[..], [Down { body: DownBody::Labels { labels: told, .. }, .. }] if *told == labels)
    );
    // A new set goes to the sessions that run, and again until the node says that
    // it has it.
    let is_trust = |orders: &[Down]| {
        matches!(
            orders,
            [Down {
                body: DownBody::Trust(_),
                ..
            }]
        )
    };
    world.desk.set_trust(trust(2));
    world.deliver(vec![]);
    let orders = world.orders(&node);
    assert!(is_trust(&orders));
    let number = orders[0].number;
    let id = node.id;
    let held = |world: &World| {
        let presence = world.desk.board().presence(id);
        presence.unwrap().session.unwrap().trust_version
    };
    let beat = node.heartbeat(0, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty(), "it is on its way");
    assert_eq!(held(&world), 1);
    let beat = node.heartbeat(number, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty());
    assert_eq!(held(&world), 2);

    // A node that comes with an older one gets it with its welcome.
    world.desk.set_trust(trust(3));
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    let orders = world.orders(&node);
    assert!(is_trust(orders.last().map_or(&[], std::slice::from_ref)));
}

#[test]
fn records_are_taken_once_across_restarts() {
    let mut world = World::new();
    let node = world.join(1);
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert_eq!(world.desk.cursor(), 2);
    world.record(Event::CommandCancelRequested(CommandCancelRequested {
        command,
    }));
    assert_eq!(world.ended(command, &node), Some(Ended::Cancelled));
    world.restart();
    assert_eq!(world.desk.cursor(), 3);
    // The journal was restored from before the cancelling.
    world.desk.align(2, world.now).unwrap();
    assert_eq!(world.desk.cursor(), 2);
    assert_eq!(world.ended(command, &node), Some(Ended::Cancelled));
}

#[test]
fn presence_is_what_was_proven_and_when() {
    use crate::uplink::board::LinkState;
    let mut world = World::new();
    let mut node = world.join(1);
    assert!(world.desk.board().presence(node.id).is_none());
    world.connect(&mut node);
    let beat = {
        let ahead = world.now.after(Duration::from_secs(3600));
        node.heartbeat(0, ahead)
    };
    world.deliver(vec![beat]);
    let presence = world.desk.board().presence(node.id).unwrap();
    assert_eq!(presence.link(world.now), LinkState::Up);
    let session = presence.session.clone().unwrap();
    assert!(session.is_clock_off());
    assert_eq!(session.clock_offset_ms, 3_600_000);
    let later = world
        .now
        .after(LINK_PROVEN_MAX)
        .after(Duration::from_millis(1));
    assert_eq!(presence.link(later), LinkState::Down);
}

#[test]
fn asking_needs_a_session() {
    let mut world = World::new();
    let mut node = world.join(1);
    let live = DownBody::Live {
        until: world.now,
        interval_ms: 1000,
    };
    assert!(world.desk.ask(node.id, live.clone(), world.now).is_err());
    world.connect(&mut node);
    let output = world.desk.ask(node.id, live.clone(), world.now).unwrap();
    world.hear(output);
    assert_eq!(world.orders(&node)[0].body, live);

    let samples = LiveSamples {
        nonce: node.nonce,
        frame: b"now".to_vec(),
    };
    let samples = node.seal(Topic::Session(node.id), &samples, world.now);
    world.deliver(vec![samples]);
    assert_eq!(world.desk.sink().live, [(node.id, b"now".to_vec())]);
}

#[test]
fn a_batch_that_fails_sends_no_command_it_does_not_remember() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.disk.full.store(true, Ordering::Relaxed);
    // The record cannot be kept: it comes again.
    let before = world.desk.cursor();
    let fleet_before = world.fleet.clone();
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert_eq!(world.desk.cursor(), before);
    assert!(world.orders(&node).is_empty());
    world.disk.full.store(false, Ordering::Relaxed);
    world.fleet = fleet_before;
    world.wait(1);
    assert_eq!(world.issue(1, Action::Ping, &[node.id]), command);
    // Its session was ended, so that it cannot get what is not remembered.
    world.connect(&mut node);
    world.wait(0);
    assert!(world.desk.board().command(command).is_some());
}

#[test]
fn principals_names_are_told_to_nodes() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let id = PrincipalId::from_bytes([5; 10]);
    let record = Record {
        seq: world.fleet.seq() + 1,
        at: world.now,
        by: Caller::Principal {
            id,
            key: ApiKeyId::from_bytes([6; 10]),
        },
        request: None,
        operation: "command.issue".to_owned(),
        version: 1,
        event: Event::CommandIssued(CommandIssued {
            command: CommandId::from_bytes([1; 10]),
            selector: None,
            action: Action::Ping,
            start_by: world.now.after(Duration::from_secs(60)),
            run_timeout_ms: 1000,
            output_bytes_max: 10,
            concurrency_max: None,
            rate_per_min: None,
            target_count: 1,
            targets_digest: Digest([0; 32]),
            withheld: 0,
        }),
    };
    let recorded = Recorded {
        record,
        targets: vec![node.id],
    };
    let output = world.desk.record(vec![recorded], world.now);
    world.hear(output);
    let orders = world.orders(&node);
    assert!(
        matches!(&orders[0].body, DownBody::Command(command) if command.issued_by == id.to_string())
    );
}
