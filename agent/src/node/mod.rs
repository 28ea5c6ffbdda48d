//! The node's core: session, outbox and ledger over a store, with the keys that
//! seal and open what crosses the wire.
//!
//! It is synchronous, has no thread, no socket and no clock: bytes and the time
//! go in, actions come out. [`task`] runs it beside the async loop of an agent;
//! the simulation and the fleet benchmark drive it directly.
//!
//! **Invariant:** no action that depends on something being durable is put out
//! before it is: [`Node::settle`] commits first. A message that cannot be
//! understood never stops the core; it is answered with a code when its signature
//! holds, and counted otherwise.

pub mod task;

use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Command, Progress, ProgressStep, Receipt};
use protocol::down::DownBody;
use protocol::envelope::{self, EnvelopeError, Opened, Seal};
use protocol::id::{CommandId, FleetId, NodeId, StoreId};
use protocol::join::Renew;
use protocol::key::{PublicKey, SigningKey};
use protocol::label::Labels;
use protocol::message::{DecodeError, Kind, Message};
use protocol::replay::ReplayWindow;
use protocol::session::{BootId, LiveSamples, Nonce, Reject};
use protocol::state::{Lifecycle, StateItem};
use protocol::stream::{Stream, Upload};
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use protocol::trust::{SignedTrust, TrustError, TrustSet};

use crate::domain::deployment::record::Transition;
use crate::domain::ledger;
use crate::domain::session::{Held, Output, Session};
use crate::domain::time::{Moment, Offset, Tick};
use crate::store::disk::{Disk, DiskError};
use crate::store::spool::Spool;
use crate::store::{Deployments, FrameEntry, Limits, Recovered, Store, StoreStats};

/// At least this long between two rejections, so that a peer that sends rubbish
/// does not make the node send as much.
const REJECT_PAUSE: Duration = Duration::from_secs(1);

/// Rounds of reading and sending in one go. The rest follows with the next input;
/// windows and credit bound it anyway.
const UPLOADS_AT_ONCE_MAX: usize = 32;

/// Who the node is, and whom it believes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The fleet.
    pub fleet: FleetId,
    /// The node.
    pub node: NodeId,
    /// The key by which it signs.
    pub key: Arc<SigningKey>,
    /// The fleet's root key.
    pub root: PublicKey,
    /// The trust set that is held.
    pub trust: TrustSet,
}

/// What a core needs besides its identity.
pub struct Setup {
    /// The disk under the store.
    pub disk: Box<dyn Disk>,
    /// What survives a crash of the agent.
    pub spool: Box<dyn Spool>,
    /// What the store may hold.
    pub limits: Limits,
    /// The host's boot.
    pub boot: BootId,
    /// The agent's version (semver).
    pub agent_version: String,
    /// Draws random bytes, for nonces and the id of a new store.
    pub draw: Box<dyn FnMut() -> [u8; 16] + Send>,
    /// Fixes the jitter.
    pub seed: u64,
}

/// Live samples are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOrder {
    /// Until then, in controller time.
    pub until: UnixMillis,
    /// Time between samples.
    pub interval: Duration,
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// Connected to the broker; the down topic and `all` are subscribed.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// A message came in.
    Message {
        /// Its topic.
        topic: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A sample was taken.
    Sample(Vec<u8>),
    /// A frame is finished.
    Frame(FrameEntry),
    /// A state was observed.
    State(Box<StateItem>),
    /// A running command has something to show.
    Progress {
        /// Which command.
        command: CommandId,
        /// When, in controller time.
        at: UnixMillis,
        /// What.
        step: ProgressStep,
    },
    /// A command ended.
    Finished(Box<Receipt>),
    /// Something was decided of a deployment.
    Deployment(Box<Transition>),
    /// Live samples: an encoded frame.
    Live(Vec<u8>),
    /// A trust set that came by HTTPS.
    Trust(Box<SignedTrust>),
    /// Time has passed.
    Tick,
}

/// What the node's surroundings must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Publish.
    Publish {
        /// Where.
        topic: Topic,
        /// A sealed envelope.
        bytes: Vec<u8>,
    },
    /// Carry a command out. It is in the ledger, and comes once.
    Start(Box<Command>),
    /// Stop a command.
    Cancel(CommandId),
    /// The records of deployments changed. They are durable.
    Deployments(Arc<Deployments>),
    /// Begin or end live samples.
    Live(Option<LiveOrder>),
    /// The node's name and labels.
    Named {
        /// The name.
        name: String,
        /// The labels.
        labels: Labels,
    },
    /// A newer trust set is believed: keep it, and use its CAs.
    Trust(Box<SignedTrust>, Box<TrustSet>),
    /// The controller holds a newer trust set, or signs with a key that is not
    /// known here: fetch it by HTTPS.
    FetchTrust,
    /// Renew the certificate now.
    Renew,
    /// Make a new connection.
    Reconnect,
    /// The link came up or went down.
    Link(LinkState),
    /// Something is wrong that an operator should know of; comes once a change.
    Problem {
        /// The code.
        code: ErrorCode,
        /// For a person.
        detail: String,
    },
}

/// Whether the controller is known to hear this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It acknowledged something in the last minute.
    Up,
    /// It did not.
    Down,
}

/// Messages that were not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Not a whole envelope, or another fleet's, or not signed by the controller.
    pub bad_envelopes: u64,
    /// Seen before.
    pub replayed: u64,
    /// Signed, and not understood.
    pub rejected: u64,
    /// On a topic that is not the node's.
    pub foreign: u64,
    /// What the controller refused of the node's.
    pub refused: u64,
}

/// How a node is, for its status.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Whether the link is up.
    pub link_up: bool,
    /// Whether a session was welcomed.
    pub welcomed: bool,
    /// How long ago the controller answered.
    pub proven_ago: Option<Duration>,
    /// The controller's clock against the node's.
    pub offset: Option<Offset>,
    /// Controller time.
    pub controller_now: Option<UnixMillis>,
    /// The incarnation that is obeyed.
    pub incarnation: u64,
    /// The trust set's version.
    pub trust_version: u64,
    /// The generation of desired state that is held.
    pub generation: u64,
    /// The store.
    pub store: StoreStats,
    /// Messages that were not taken.
    pub dropped: Dropped,
    /// Bytes of envelopes sent since the agent started.
    pub sent_bytes: u64,
    /// Bytes of envelopes received since the agent started.
    pub received_bytes: u64,
    /// The connect counter used last.
    pub connects: u64,
    /// The commands taken last, newest first.
    pub commands: Vec<(CommandId, ledger::Entry)>,
}

/// Commands that a status shows.
const STATUS_COMMANDS: usize = 10;

/// The core. See the module's documentation.
pub struct Node {
    identity: Identity,
    session: Session,
    store: Store,
    draw: Box<dyn FnMut() -> [u8; 16] + Send>,
    connect: u64,
    sealed: u64,
    replay: ReplayWindow,
    rejected_at: Option<Tick>,
    actions: Vec<Action>,
    dropped: Dropped,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Node {
    /// Opens a node's store and takes up what a crash left.
    ///
    /// # Errors
    /// [`DiskError`] when the store cannot be opened.
    pub fn open(
        identity: Identity,
        mut setup: Setup,
        now: Moment,
    ) -> Result<(Self, Recovered), DiskError> {
        let mut fresh = [0; 10];
        fresh.copy_from_slice(&(setup.draw)()[..10]);
        let (boot, version) = (setup.boot, setup.agent_version.clone());
        let started = |clean| Lifecycle::Started {
            boot,
            at: now.wall,
            agent_version: version,
            clean,
        };
        let (store, recovered) = Store::open(
            setup.disk,
            setup.spool,
            setup.limits,
            StoreId::from_bytes(fresh),
            started,
            now.wall,
        )?;
        let held = Held {
            store: store.id(),
            boot: setup.boot,
            agent_version: setup.agent_version,
            incarnation: store.incarnation(),
            trust_version: identity.trust.version,
            generation: store.generation_kept(),
            proven: store.proven(),
            offers: store.outbox().offers(),
        };
        let node = Self {
            identity,
            session: Session::new(held, setup.seed, now),
            store,
            draw: setup.draw,
            connect: 0,
            sealed: 0,
            replay: ReplayWindow::default(),
            rejected_at: None,
            actions: Vec::new(),
            dropped: Dropped::default(),
            sent_bytes: 0,
            received_bytes: 0,
        };
        Ok((node, recovered))
    }

    /// Takes one input and carries out what follows from it.
    pub fn step(&mut self, input: Input, now: Moment) -> Vec<Action> {
        self.input(input, now);
        self.settle(now)
    }

    /// Takes an input. Call [`Node::settle`] when there are no more for now.
    pub fn input(&mut self, input: Input, now: Moment) {
        match input {
            Input::Connected => {
                let outputs = self.session.connected(now);
                self.act(outputs, now);
            }
            Input::Disconnected => {
                let outputs = self.session.disconnected(now);
                self.actions.push(Action::Live(None));
                self.act(outputs, now);
            }
            Input::Message { topic, bytes } => self.receive(&topic, &bytes, now),
            Input::Sample(sample) => self.store.keep_sample(sample),
            Input::Frame(frame) => self.store.append_frame(frame, now.tick),
            Input::State(state) => self.store.put_state(&state),
            Input::Progress { command, at, step } => {
                if let Some(nonce) = self.session.nonce() {
                    let progress = Progress {
                        nonce,
                        command,
                        at,
                        step,
                    };
                    self.publish(Topic::Session(self.identity.node), &progress, now);
                }
            }
            Input::Finished(receipt) => self.store.close_command(&receipt),
            Input::Deployment(transition) => self.store.keep_deployment(*transition),
            Input::Live(frame) => {
                if let Some(nonce) = self.session.nonce() {
                    let samples = LiveSamples { nonce, frame };
                    self.publish(Topic::Session(self.identity.node), &samples, now);
                }
            }
            Input::Trust(signed) => self.adopt(&signed),
            Input::Tick => {
                let outputs = self.session.tick(now);
                self.act(outputs, now);
            }
        }
    }

    /// Commits what must be durable, sends what may be sent, and yields all that
    /// is to be done.
    pub fn settle(&mut self, now: Moment) -> Vec<Action> {
        let controller = self.controller_now(now);
        let proven = self.session.clock().now(now.tick);
        if self.session.clock().is_proven() {
            self.store.learn(self.session.incarnation(), proven);
        }
        let settled = self
            .store
            .settle(self.session.is_up(), controller, now.tick);
        for command in settled.started {
            self.actions.push(Action::Start(Box::new(command)));
        }
        if settled.deployments {
            let records = Arc::clone(self.store.deployments());
            self.actions.push(Action::Deployments(records));
        }
        self.session.holds(self.store.generation_kept());
        if let Some(error) = settled.failed {
            self.problem(error.code(), &crate::chain(&error));
        }
        self.upload(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Tick`] is due, and why.
    #[must_use]
    pub fn wakes_at(&self) -> Option<(Tick, &'static str)> {
        let store = self.store.wakes_at(self.session.is_up());
        self.session
            .wakes_at()
            .into_iter()
            .chain(store)
            .min_by_key(|(at, _)| *at)
    }

    /// The agent stops as it was asked to: writes everything down.
    ///
    /// # Errors
    /// [`DiskError`] when the store cannot be written.
    pub fn close(&mut self, now: Moment) -> Result<(), DiskError> {
        self.store
            .append_lifecycle(&Lifecycle::Stopped { at: now.wall });
        self.store.close()
    }

    /// The records of deployments.
    #[must_use]
    pub fn deployments(&self) -> &Arc<Deployments> {
        self.store.deployments()
    }

    /// Whether everything that was promised is durable.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.store.is_written()
    }

    /// Controller time as far as it is known; the node's own before that.
    #[must_use]
    pub fn controller_now(&self, now: Moment) -> UnixMillis {
        self.session.clock().now(now.tick).unwrap_or(now.wall)
    }

    /// Seals a request for renewal, which goes by HTTPS beside the session and so
    /// has a connect counter of its own. None while none can be reserved.
    #[must_use]
    pub fn seal_renewal(&mut self, renew: &Renew, now: Moment) -> Option<Vec<u8>> {
        self.seal_beside(renew, now)
    }

    /// Seals a request that goes by HTTPS, beside the session as a renewal does.
    #[must_use]
    pub fn seal_beside<M: Message>(&mut self, message: &M, now: Moment) -> Option<Vec<u8>> {
        let connect = self.store.connect()?;
        Some(self.seal_as(connect << 32 | 1, message, now))
    }

    /// How the node is.
    #[must_use]
    pub fn status(&self, now: Moment) -> NodeStatus {
        NodeStatus {
            link_up: self.session.is_up(),
            welcomed: self.session.nonce().is_some(),
            proven_ago: self.session.proven_at().map(|at| now.tick.since(at)),
            offset: self.session.clock().offset(now),
            controller_now: self.session.clock().now(now.tick),
            incarnation: self.session.incarnation(),
            trust_version: self.identity.trust.version,
            generation: self.store.generation_kept(),
            store: self.store.stats(),
            dropped: self.dropped,
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            connects: self.connect,
            commands: self.store.ledger().latest(STATUS_COMMANDS),
        }
    }

    fn problem(&mut self, code: ErrorCode, detail: &str) {
        self.actions.push(Action::Problem {
            code,
            detail: detail.to_owned(),
        });
    }

    fn act(&mut self, outputs: Vec<Output>, now: Moment) {
        for output in outputs {
            match output {
                Output::Greet => self.greet(now),
                Output::Heartbeat(heartbeat) => {
                    self.publish(Topic::Session(self.identity.node), &heartbeat, now);
                }
                Output::Order(body) => self.obey(body, now),
                Output::Acked { stream, through } => {
                    self.store.acknowledged(stream, through, now.tick);
                }
                Output::Overtaken { stream, beyond } => {
                    self.store.renumber(stream, beyond);
                    let detail = format!(
                        "the controller has {} {beyond} of this store, which never gave it out",
                        stream.name()
                    );
                    self.problem(ErrorCode::NodeIdentitySuspect, &detail);
                }
                Output::Up => self.actions.push(Action::Link(LinkState::Up)),
                Output::Down => {
                    self.actions.push(Action::Live(None));
                    self.actions.push(Action::Link(LinkState::Down));
                }
                Output::Incarnation(incarnation) => {
                    self.store.learn(incarnation, None);
                    self.store.offer_receipts_again();
                }
                Output::Named { name, labels } => {
                    self.actions.push(Action::Named { name, labels });
                }
                Output::TrustBehind => self.actions.push(Action::FetchTrust),
                Output::StaleController { found, held } => self.refuse_stale(found, held, now),
                Output::Reconnect => self.actions.push(Action::Reconnect),
            }
        }
    }

    fn greet(&mut self, now: Moment) {
        let Some(connect) = self.store.connect() else {
            self.session.greet_later(now);
            return;
        };
        self.connect = connect;
        self.sealed = 0;
        self.replay = ReplayWindow::default();
        for offer in self.store.outbox().offers() {
            self.session.offer(offer.stream, offer.last);
        }
        let hello = self.session.greet(Nonce((self.draw)()), connect, now);
        self.publish(Topic::Session(self.identity.node), &hello, now);
    }

    fn refuse_stale(&mut self, found: u64, held: u64, now: Moment) {
        let code = ErrorCode::SessionStale;
        let detail = format!(
            "the controller's incarnation {found} is below {held}, which this node has obeyed"
        );
        let reject = Reject {
            kind: Kind::WELCOME.0,
            version: 1,
            counter: 0,
            code: code.text().to_owned(),
            detail: detail.clone(),
        };
        self.publish(Topic::Session(self.identity.node), &reject, now);
        self.problem(code, &detail);
    }

    fn obey(&mut self, body: DownBody, now: Moment) {
        let controller = self.controller_now(now);
        match body {
            DownBody::Command(command) => self.store.take_command(command, controller),
            DownBody::Cancel { command } => {
                if self.store.cancel_command(command, controller) {
                    self.actions.push(Action::Cancel(command));
                }
            }
            DownBody::Live { until, interval_ms } => {
                self.actions.push(Action::Live(Some(LiveOrder {
                    until,
                    interval: Duration::from_millis(u64::from(interval_ms)),
                })));
            }
            DownBody::EndLive => self.actions.push(Action::Live(None)),
            DownBody::Labels { name, labels } => self.actions.push(Action::Named { name, labels }),
            DownBody::Trust(signed) => self.adopt(&signed),
            DownBody::RenewNow => self.actions.push(Action::Renew),
            DownBody::Desired(desired) => self.store.take_desired(*desired, controller),
            DownBody::Policy(_) => self.dropped.rejected += 1,
        }
    }

    fn adopt(&mut self, signed: &SignedTrust) {
        let held = self.identity.trust.version;
        match signed.verify(&self.identity.root, self.identity.fleet, held) {
            Ok(set) => {
                self.identity.trust = set.clone();
                self.session.trusts(set.version);
                self.actions
                    .push(Action::Trust(Box::new(signed.clone()), Box::new(set)));
            }
            // The same set may come by several ways.
            Err(TrustError::Stale { .. }) => {}
            Err(error) => self.problem(error.code(), &error.to_string()),
        }
    }

    fn seal<M: Message>(&mut self, message: &M, now: Moment) -> Vec<u8> {
        self.sealed += 1;
        // A connect counter is never used again, so neither is this.
        self.seal_as((self.connect << 32) | self.sealed, message, now)
    }

    fn seal_as<M: Message>(&self, counter: u64, message: &M, now: Moment) -> Vec<u8> {
        let seal = Seal {
            fleet: self.identity.fleet,
            sender: self.identity.node,
            key: &self.identity.key,
        };
        seal.seal(counter, now.wall, message)
    }

    fn publish<M: Message>(&mut self, topic: Topic, message: &M, now: Moment) {
        let bytes = self.seal(message, now);
        self.sent_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.actions.push(Action::Publish { topic, bytes });
    }

    fn upload(&mut self, now: Moment) {
        for offer in self.store.outbox().offers() {
            self.session.offer(offer.stream, offer.last);
        }
        self.session.waiting(self.store.outbox().waiting());
        for _ in 0..UPLOADS_AT_ONCE_MAX {
            let Some(want) = self.session.next_upload() else {
                return;
            };
            let Ok(entries) = self.store.read(want, now.tick) else {
                return;
            };
            let Some(last) = entries.last().map(|entry| entry.seq) else {
                self.session.nothing_after(want.stream, want.after);
                continue;
            };
            let bytes = entries.iter().map(|entry| entry.body.len()).sum();
            let upload = Upload {
                store: self.store.id(),
                stream: want.stream,
                after: want.after,
                entries,
            };
            let topic = Topic::Up(self.identity.node, want.stream);
            self.publish(topic, &upload, now);
            self.session.uploaded(want.stream, last, bytes, now);
        }
    }

    fn receive(&mut self, topic: &str, bytes: &[u8], now: Moment) {
        self.received_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let ours = match Topic::parse(topic) {
            Ok((fleet, Topic::Down(node))) => {
                fleet == self.identity.fleet && node == self.identity.node
            }
            Ok((fleet, Topic::All)) => fleet == self.identity.fleet,
            Ok((_, Topic::Session(_) | Topic::Up(..))) | Err(_) => false,
        };
        if !ours {
            self.dropped.foreign += 1;
            return;
        }
        let trust = &self.identity.trust;
        let opened = envelope::open(bytes, self.identity.fleet, |sender, key| {
            (sender == NodeId::NIL)
                .then(|| trust.controller_key(key))
                .flatten()
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.dropped.bad_envelopes += 1;
                if let EnvelopeError::UnknownKey { sender, .. } = error
                    && sender == NodeId::NIL
                {
                    self.actions.push(Action::FetchTrust);
                }
                return;
            }
        };
        // What goes to all is ordered by time and incarnation, and its counter may
        // overtake those of the node's own topic.
        let broadcast = opened.header.kind == Kind::ANNOUNCE;
        if !broadcast && !self.replay.admit(opened.header.counter) {
            self.dropped.replayed += 1;
            return;
        }
        if let Err(error) = self.dispatch(&opened, now) {
            self.reject(&opened, &error, now);
        }
    }

    fn dispatch(&mut self, opened: &Opened<'_>, now: Moment) -> Result<(), DecodeError> {
        let outputs = match opened.header.kind {
            Kind::WELCOME => self.session.welcomed(opened.decode()?, now),
            Kind::ACKS => self.session.acknowledged(&opened.decode()?, now),
            Kind::DOWN => self.session.ordered(opened.decode()?, now),
            Kind::ANNOUNCE => self.session.announced(&opened.decode()?, now),
            Kind::REJECT => {
                let reject: Reject = opened.decode()?;
                self.dropped.refused += 1;
                if reject.code == ErrorCode::SessionUnknown.text() {
                    self.session.disowned(now)
                } else {
                    let detail = format!("{}: {}", reject.code, reject.detail);
                    let code = ErrorCode::from_text(&reject.code).unwrap_or(ErrorCode::Internal);
                    self.problem(code, &detail);
                    Vec::new()
                }
            }
            Kind(kind) => {
                return Err(DecodeError::Kind {
                    found: kind,
                    expected: 0,
                });
            }
        };
        self.act(outputs, now);
        Ok(())
    }

    fn reject(&mut self, opened: &Opened<'_>, error: &DecodeError, now: Moment) {
        self.dropped.rejected += 1;
        let lately = self
            .rejected_at
            .is_some_and(|at| now.tick.since(at) < REJECT_PAUSE);
        // A rejection is never answered, or two peers would go on for ever.
        if lately || opened.header.kind == Kind::REJECT {
            return;
        }
        self.rejected_at = Some(now.tick);
        let code = match error {
            DecodeError::Kind { .. } => ErrorCode::MessageUnknownKind,
            DecodeError::Version { .. } => ErrorCode::MessageUnknownVersion,
            DecodeError::Malformed { .. } => ErrorCode::MessageMalformed,
        };
        let reject = Reject {
            kind: opened.header.kind.0,
            version: opened.header.version,
            counter: opened.header.counter,
            code: code.text().to_owned(),
            detail: error.to_string(),
        };
        self.publish(Topic::Session(self.identity.node), &reject, now);
    }

    /// What waits of a stream.
    #[must_use]
    pub fn waiting(&self, stream: Stream) -> usize {
        self.store.outbox().line(stream).waiting()
    }
}

#[cfg(test)]
mod tests;
