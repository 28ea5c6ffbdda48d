//! The synchronous heart of the uplink: bytes from nodes and records of the
//! journal in, bytes to nodes and events out.
//!
//! One call of [`Desk::receive`] checks a batch of publishes, steps each node's
//! machine, hands frames to the series, makes everything durable in one intake
//! transaction, and only then seals what goes out. It neither sleeps nor reads a
//! clock nor touches the network, so the simulation runs the same code.
//!
//! **Invariants.** Nothing is sent that rests on something which is not durable.
//! When the intake cannot be written, nodes' positions go back to what is
//! durable, nothing is answered, and the nodes send again. When frames cannot be
//! stored, the same holds for the streams that carry frames, and only for them.

mod alerts;
mod breakers;
mod deployments;
mod entries;
mod notices;
mod orders;
mod receive;
mod removals;
mod rollouts;
mod service;
#[cfg(test)]
mod tests;

pub use alerts::{AlertCounts, HEARTBEAT_EVERY};
pub use breakers::Transitions;
pub use notices::Watch;
pub use orders::{NotConnected, Recorded};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::Progress;
use protocol::down::Down;
use protocol::envelope::{Opened, Seal};
use protocol::id::{CommandId, DeploymentId, NodeId};
use protocol::key::SigningKey;
use protocol::message::Message;
use protocol::policy::SignedPolicy;
use protocol::session::{Announce, Heartbeat, Hello, LiveSamples, Reject, Welcome};
use protocol::stream::Stream;
use protocol::time::UnixMillis;
use protocol::topic::Topic;

use crate::broker::{Delivery, Outgoing};
use crate::domain::breaker::manage::RecordBreaker;
use crate::domain::command::Counts;
use crate::domain::digest::Digest;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::cordon::EndDrain;
use crate::domain::rollout::event::Decision;
use crate::domain::session::{Greeting, Kept, Load, NodeLink, Order, Position, Suspect, Terms};
use crate::pki::CurrentTrust;
use crate::uplink::board::{Board, CommandBoard, Presence};
use crate::uplink::desk::alerts::AlertDesk;
use crate::uplink::desk::breakers::{Guard, Seen};
use crate::uplink::desk::deployments::Deployments;
use crate::uplink::desk::notices::Notices;
use crate::uplink::desk::service::Service;
use crate::uplink::dispatch::Dispatch;
use crate::uplink::intake::{Batch, Intake, IntakeError, TargetState};
use crate::uplink::sink::{FrameArrival, FrameSink};

/// Envelope counters claimed at each start. More than a controller can seal in
/// its life, so counters never repeat and none is written while it runs.
const COUNTERS_CLAIMED: u64 = 1 << 40;

/// What stays the same while a desk runs.
#[derive(Clone, Debug)]
pub struct DeskConfig {
    /// How often nodes are to send heartbeats.
    pub heartbeat: Duration,
    /// When someone is told of nodes.
    pub watch: Watch,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum DeskEvent {
    /// A node's identity is in doubt.
    Suspected {
        /// The node.
        node: NodeId,
        /// What was seen.
        suspect: Suspect,
    },
    /// A node has obeyed a higher incarnation than ours.
    Behind {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: u64,
    },
    /// Every target of a command is final.
    Concluded {
        /// The command.
        command: CommandId,
        /// How many ended how.
        counts: Counts,
        /// The Merkle root over final states and receipts.
        merkle_root: Digest,
    },
    /// A running command shows something.
    Progress {
        /// Where it runs.
        node: NodeId,
        /// What it shows.
        progress: Box<Progress>,
    },
    /// A target of a command has its final state.
    Ended {
        /// The command.
        command: CommandId,
        /// The node.
        node: NodeId,
    },
    /// A rollout comes to a decision.
    Decided(Box<Decision>),
    /// A removed deployment is gone from every node that can be reached.
    Gone(DeploymentId),
    /// A drain is over.
    DrainOver(EndDrain),
    /// A breaker moves.
    Moved(Box<RecordBreaker>),
    /// The time of an override has passed.
    OverrideOver(u64),
    /// A node holds a policy that is not known here.
    PolicyAhead {
        /// The node.
        node: NodeId,
        /// The policy's epoch.
        epoch: u64,
    },
    /// Close the node's connection.
    Disconnect(NodeId),
    /// Entries are missing here that were acknowledged to the node.
    Lost {
        /// The node.
        node: NodeId,
        /// How many.
        entries: u64,
    },
}

/// What a call of the desk leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Messages to nodes.
    pub outgoing: Vec<Outgoing>,
    /// Things to do.
    pub events: Vec<DeskEvent>,
}

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeskStats {
    /// Envelopes that were taken.
    pub taken: u64,
    /// Entries of streams that were taken.
    pub entries: u64,
    /// Entries that came again.
    pub duplicates: u64,
    /// Entries that could not be decoded.
    pub quarantined: u64,
    /// Entries that were acknowledged by an earlier controller and are not here.
    pub lost: u64,
    /// Messages that were not taken, by code: `envelope.replayed` for those heard
    /// before, `stream.gap` for uploads that do not follow what has arrived.
    pub refused: BTreeMap<ErrorCode, u64>,
    /// Messages of ours that nodes did not take, by the code that they gave.
    pub rejected: BTreeMap<ErrorCode, u64>,
    /// Batches that could not be made durable.
    pub commits_failed: u64,
    /// Receipts that were taken.
    pub receipts: u64,
    /// Moves of breakers that were recorded.
    pub breaker_transitions: Transitions,
    /// Alerts.
    pub alerts: AlertCounts,
    /// Rollouts that ended, by how, and the time that they took together.
    pub rollouts_ended: BTreeMap<&'static str, (u64, Duration)>,
    /// The code of the last failure, while it lasts.
    pub failing: Option<ErrorCode>,
}

/// One node as the desk holds it.
#[derive(Debug, Default)]
struct Seat {
    link: NodeLink,
    disowned_at: Option<UnixMillis>,
    /// Commands that this session was given.
    carried: BTreeSet<CommandId>,
    /// The highest generation that this session was given, or that the node said
    /// it has.
    given: u64,
    /// Whether what the node is behind with waits for its turn.
    queued: bool,
    /// The epoch of the policy that this session was given, or that the node said it
    /// has.
    policy: u64,
}

/// An answer that waits for the batch to be durable.
enum Answer {
    Welcome(NodeId, Box<Welcome>),
    Down(NodeId, Box<Down>),
    Reject(NodeId, Reject),
    Announce(Announce),
    Policy(SignedPolicy),
}

/// What the batch in work will do once it is durable.
#[derive(Default)]
struct Work {
    batch: Batch,
    answers: Vec<Answer>,
    /// Streams to acknowledge, and the envelope that the acknowledgement answers.
    acks: BTreeMap<NodeId, (BTreeSet<Stream>, UnixMillis)>,
    frames: Vec<FrameArrival>,
    /// Where streams stood before their first upload of the batch.
    frames_after: BTreeMap<(NodeId, Stream), Position>,
    /// Links as they were before the batch, to go back to.
    before: BTreeMap<NodeId, Kept>,
    welcomed: BTreeSet<NodeId>,
    events: Vec<DeskEvent>,
    /// What breakers are told.
    seen: Vec<(NodeId, Seen)>,
}

/// The desk. See the module's documentation.
pub struct Desk<S> {
    config: DeskConfig,
    fleet: Arc<Fleet>,
    key: Arc<SigningKey>,
    trust: Arc<CurrentTrust>,
    /// The sessions that run are yet to be given the trust set.
    trust_is_new: bool,
    intake: Intake,
    sink: S,
    seats: BTreeMap<NodeId, Seat>,
    dispatch: Dispatch,
    deployments: Deployments,
    service: Service,
    guard: Guard,
    notices: Notices,
    alerts: AlertDesk,
    /// Closed commands by the order of their issue, for forgetting the oldest.
    closed: BTreeMap<u64, CommandId>,
    cursor: u64,
    counter: u64,
    /// The index in memory may differ from what is durable.
    stale: bool,
    work: Work,
    stats: DeskStats,
    board: Arc<Board>,
}

impl<S: FrameSink> Desk<S> {
    /// A desk over an intake store. No node has a session yet.
    ///
    /// # Errors
    /// [`IntakeError`] when the store cannot be read or written.
    pub fn new(
        config: DeskConfig,
        fleet: Arc<Fleet>,
        key: Arc<SigningKey>,
        trust: Arc<CurrentTrust>,
        intake: Intake,
        sink: S,
        now: UnixMillis,
    ) -> Result<Self, IntakeError> {
        // Above every counter of earlier runs, even when the store is an old
        // backup: the clock has gone on.
        let counter = intake.counter()?.max(now.0 << 12);
        intake.commit(&Batch {
            counter: Some(counter.saturating_add(COUNTERS_CLAIMED)),
            ..Batch::default()
        })?;
        let mut desk = Self {
            config,
            fleet,
            key,
            trust,
            trust_is_new: false,
            cursor: intake.cursor()?,
            intake,
            sink,
            seats: BTreeMap::new(),
            dispatch: Dispatch::default(),
            deployments: Deployments::default(),
            service: Service::default(),
            guard: Guard::default(),
            notices: Notices::new(now),
            alerts: AlertDesk::default(),
            closed: BTreeMap::new(),
            counter,
            stale: false,
            work: Work::default(),
            stats: DeskStats::default(),
            board: Arc::default(),
        };
        desk.load_commands(now)?;
        desk.load_deployments(now)?;
        desk.load_breakers();
        desk.load_notices()?;
        desk.load_alerts()?;
        Ok(desk)
    }

    /// What others may look at.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// The last record of the journal that was taken into account.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The last record of the fleet's state.
    #[must_use]
    pub fn fleet_seq(&self) -> u64 {
        self.fleet.seq()
    }

    /// What happened since the start.
    #[must_use]
    pub fn stats(&self) -> &DeskStats {
        &self.stats
    }

    /// The frame sink.
    pub fn sink(&mut self) -> &mut S {
        &mut self.sink
    }

    /// A newer state of the fleet.
    pub fn set_fleet(&mut self, fleet: Arc<Fleet>) {
        self.fleet = fleet;
    }

    /// The key that signs from here on.
    pub fn set_key(&mut self, key: Arc<SigningKey>) {
        self.key = key;
    }

    /// The trust set in force; every session gets it with the next batch.
    pub fn set_trust(&mut self, trust: Arc<CurrentTrust>) {
        self.trust = trust;
        self.trust_is_new = true;
    }

    /// What the controller says after its start: nodes say hello again.
    pub fn announce(&mut self, now: UnixMillis) -> Outgoing {
        let announce = Announce {
            incarnation: self.fleet.incarnation(),
            now,
        };
        let payload = self.seal(&announce, now);
        Outgoing {
            topic: Topic::All,
            payload,
        }
    }

    /// Takes a batch of publishes, and does what is due.
    pub fn receive(
        &mut self,
        deliveries: impl IntoIterator<Item = Delivery>,
        load: Load,
        now: UnixMillis,
    ) -> Output {
        self.begin(now);
        for delivery in deliveries {
            self.take(&delivery, now);
        }
        self.finish(load, now)
    }

    /// Does what is due: deadlines, pacing, conclusions.
    pub fn tick(&mut self, now: UnixMillis) -> Output {
        self.receive([], Load::Normal, now)
    }

    /// Opens a batch.
    fn begin(&mut self, now: UnixMillis) {
        self.work = Work::default();
        if self.alerts.is_lost()
            && let Err(error) = self.load_alerts()
        {
            // Without them nothing is taken, below.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot read the alerts"
            );
        }
        if self.stale
            && self.load_commands(now).is_ok()
            && self.load_deployments(now).is_ok()
            && self.load_notices().is_ok()
        {
            self.stale = false;
            self.load_breakers();
        }
        if std::mem::take(&mut self.trust_is_new) {
            let nodes: Vec<NodeId> = self.seats.keys().copied().collect();
            for node in nodes {
                self.order_trust(node, now);
            }
        }
    }

    /// Makes the batch durable and turns it into messages.
    fn finish(&mut self, load: Load, now: UnixMillis) -> Output {
        if !self.stale {
            self.run_commands(now);
            self.tell_rollouts(now);
            self.run_deployments(now);
            self.run_notices(now);
        }
        self.look_at_alerts(now);
        self.store_frames(now);
        self.work.batch.kept = self
            .work
            .before
            .iter()
            .filter_map(|(node, before)| {
                let kept = self.seats.get(node)?.link.kept();
                (kept != before).then(|| (*node, kept.clone()))
            })
            .collect();
        let work = std::mem::take(&mut self.work);
        let committed = if self.alerts.is_lost() {
            Err(IntakeError::Closed)
        } else {
            self.intake.commit(&work.batch)
        };
        match committed {
            Ok(()) => {
                self.stats.failing = None;
                self.publish(work, load, now)
            }
            Err(error) => {
                self.stats.commits_failed += 1;
                self.stats.failing = Some(error.code());
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    code = error.code().text(),
                    "cannot keep what nodes sent; nothing is acknowledged"
                );
                self.go_back(work);
                self.show(std::iter::empty(), now);
                Output::default()
            }
        }
    }

    fn go_back(&mut self, work: Work) {
        for (node, before) in work.before {
            if let Some(seat) = self.seats.get_mut(&node) {
                seat.link.revert(before);
                if work.welcomed.contains(&node) {
                    seat.link.close();
                }
            }
        }
        // Their sessions would send these orders again, though it is not durable
        // that the nodes have them.
        for answer in work.answers {
            if let Answer::Down(node, _) = answer
                && let Some(seat) = self.seats.get_mut(&node)
            {
                seat.link.close();
            }
        }
        // Targets, the cursor and alerts as well; read again when the store is well.
        self.stale = true;
        self.alerts.lose();
        self.cursor = self.intake.cursor().unwrap_or(self.cursor);
    }

    fn publish(&mut self, work: Work, load: Load, now: UnixMillis) -> Output {
        if let Some(cursor) = work.batch.cursor {
            self.cursor = cursor;
        }
        let mut outgoing = Vec::with_capacity(work.answers.len() + work.acks.len());
        for answer in work.answers {
            let (topic, payload) = match answer {
                Answer::Welcome(node, welcome) => {
                    (Topic::Down(node), self.seal(welcome.as_ref(), now))
                }
                Answer::Down(node, down) => (Topic::Down(node), self.seal(down.as_ref(), now)),
                Answer::Reject(node, reject) => (Topic::Down(node), self.seal(&reject, now)),
                Answer::Announce(announce) => (Topic::All, self.seal(&announce, now)),
                Answer::Policy(policy) => (Topic::All, self.seal(&policy, now)),
            };
            outgoing.push(Outgoing { topic, payload });
        }
        for (node, (streams, echo)) in work.acks {
            let streams: Vec<Stream> = streams.into_iter().collect();
            let acks = self
                .seats
                .get(&node)
                .and_then(|seat| seat.link.acks(echo, &streams, load, now));
            if let Some(acks) = acks {
                let payload = self.seal(&acks, now);
                outgoing.push(Outgoing {
                    topic: Topic::Down(node),
                    payload,
                });
            }
        }
        self.show(work.before.into_keys(), now);
        let mut events = work.events;
        self.count_alerts(&work.batch.alert_turns);
        events.extend(self.watch(work.seen, now));
        events.extend(
            work.batch
                .targets
                .into_iter()
                .filter_map(|((command, node), state)| match state {
                    TargetState::Final(_) => Some(DeskEvent::Ended { command, node }),
                    TargetState::Waiting | TargetState::Sent { .. } => None,
                }),
        );
        Output { outgoing, events }
    }

    /// Puts what changed on the board.
    fn show(&mut self, nodes: impl Iterator<Item = NodeId>, now: UnixMillis) {
        let rollouts = self.rollout_statuses(now);
        let presences = nodes.filter_map(|node| {
            let seat = self.seats.get(&node)?;
            Some((node, Presence::of(&seat.link)))
        });
        self.board.update(
            presences,
            CommandBoard {
                open: self.dispatch.statuses().collect(),
            },
            rollouts,
            self.service.take_shown(),
            &self.stats,
        );
    }

    fn seal<M: Message>(&mut self, message: &M, now: UnixMillis) -> Vec<u8> {
        self.counter += 1;
        Seal {
            fleet: self.fleet.id(),
            sender: NodeId::NIL,
            key: &self.key,
        }
        .seal(self.counter, now, message)
    }

    fn refuse(&mut self, code: ErrorCode) {
        *self.stats.refused.entry(code).or_default() += 1;
    }

    /// The node's seat, made from what is kept of it. None when the store cannot
    /// be read: the message is dropped and comes again.
    fn seat(&mut self, node: NodeId) -> Option<&mut Seat> {
        if !self.seats.contains_key(&node) {
            match self.intake.kept(node) {
                Ok(kept) => {
                    let seat = Seat {
                        link: NodeLink::new(kept.unwrap_or_default()),
                        ..Seat::default()
                    };
                    self.seats.insert(node, seat);
                }
                Err(error) => {
                    tracing::error!(
                        %node,
                        error = &error as &dyn std::error::Error,
                        "cannot read a node's positions"
                    );
                    return None;
                }
            }
        }
        let seat = self.seats.get_mut(&node)?;
        self.work
            .before
            .entry(node)
            .or_insert_with(|| seat.link.kept().clone());
        Some(seat)
    }

    fn hello(&mut self, node: NodeId, hello: &Hello, opened: &Opened<'_>, now: UnixMillis) {
        let Some(record) = self.fleet.node(node) else {
            return;
        };
        let terms = Terms {
            incarnation: self.fleet.incarnation(),
            trust_version: self.trust.version,
            heartbeat_ms: u32::try_from(self.config.heartbeat.as_millis()).unwrap_or(u32::MAX),
            name: record.name.clone(),
            labels: record.labels.clone(),
        };
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        let header = opened.header;
        match seat
            .link
            .hello(hello, header.counter, header.sent_at, &terms, now)
        {
            Greeting::Welcomed {
                welcome,
                doubt,
                lost,
            } => {
                self.stats.taken += 1;
                seat.carried.clear();
                seat.given = hello.generation;
                seat.queued = false;
                self.work.welcomed.insert(node);
                self.work.answers.push(Answer::Welcome(node, welcome));
                if let Some(suspect) = doubt {
                    self.work
                        .events
                        .push(DeskEvent::Suspected { node, suspect });
                }
                if lost > 0 {
                    self.stats.lost += lost;
                    self.work.events.push(DeskEvent::Lost {
                        node,
                        entries: lost,
                    });
                }
                self.order_trust(node, now);
                self.greet_alerts(node, hello.store, now);
                self.greet_policy(node, hello.policy_epoch, now);
                self.carry_open_commands(node, now);
                self.dispatch.online(node);
                self.greet_deployments(node, hello.generation, now);
            }
            Greeting::Replayed => self.refuse(ErrorCode::EnvelopeReplayed),
            Greeting::Refused(suspect) => {
                self.reject(
                    node,
                    opened,
                    ErrorCode::NodeIdentitySuspect,
                    suspect.detail.clone(),
                );
                self.work
                    .events
                    .push(DeskEvent::Suspected { node, suspect });
            }
            Greeting::Behind { incarnation } => {
                self.work
                    .events
                    .push(DeskEvent::Behind { node, incarnation });
            }
        }
    }

    fn heartbeat(
        &mut self,
        node: NodeId,
        heartbeat: &Heartbeat,
        opened: &Opened<'_>,
        now: UnixMillis,
    ) {
        let Some(seat) = self.seats.get_mut(&node) else {
            return;
        };
        let Some(again) = seat.link.heartbeat(heartbeat, now) else {
            self.disown(node, opened, now);
            return;
        };
        for down in again {
            self.work.answers.push(Answer::Down(node, Box::new(down)));
        }
        self.acknowledge(node, None, opened.header.sent_at);
        // What did not fit into the window, or waited for the node.
        self.order_trust(node, now);
        self.carry_policy(node, now);
        self.carry_desired(node, now);
        self.carry_open_commands(node, now);
        self.dispatch.online(node);
    }

    fn acknowledge(&mut self, node: NodeId, stream: Option<Stream>, echo: UnixMillis) {
        let (streams, answered) = self.work.acks.entry(node).or_default();
        streams.extend(stream);
        *answered = echo;
    }

    fn progress(&mut self, node: NodeId, progress: Progress) {
        let nonce = self.seats.get(&node).and_then(|seat| seat.link.nonce());
        if nonce != Some(progress.nonce) {
            return;
        }
        self.dispatch.started(progress.command, node);
        self.work.events.push(DeskEvent::Progress {
            node,
            progress: Box::new(progress),
        });
    }

    fn live_samples(&mut self, node: NodeId, live: &LiveSamples, now: UnixMillis) {
        let nonce = self.seats.get(&node).and_then(|seat| seat.link.nonce());
        if nonce == Some(live.nonce) {
            self.sink.live(node, &live.frame, now);
        }
    }

    /// Gives a session an order, if it has room; the caller tries again later.
    fn order(&mut self, node: NodeId, order: Order, now: UnixMillis) -> bool {
        let Some(seat) = self.seats.get_mut(&node) else {
            return false;
        };
        match seat.link.order(order, now) {
            Ok(down) => {
                self.work.answers.push(Answer::Down(node, Box::new(down)));
                true
            }
            Err(_full) => false,
        }
    }
}
