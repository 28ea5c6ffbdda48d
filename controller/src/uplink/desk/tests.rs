//! The desk against nodes that are played by hand: a world of them, and by subject
//! what the desk makes of what they say.
#![expect(
    clippy::unwrap_in_result,
    reason = "a disk of a test that breaks its own rules may panic"
)]

mod alerts;
mod breakers;
mod commands;
mod deployments;
mod envelopes;
mod identity;
mod notices;
mod service;
mod sessions;
mod signals;
mod streams;

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
use crate::domain::command::Hours;
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
                watch: Watch {
                    silent_after: Duration::from_secs(300),
                    certificate_life: Duration::from_secs(90 * 86_400),
                },
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
                hours: Hours::Windows,
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
            .filter_map(|event| {
                if let DeskEvent::Suspected { suspect, .. } = event {
                    Some(suspect.doubt)
                } else {
                    None
                }
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
