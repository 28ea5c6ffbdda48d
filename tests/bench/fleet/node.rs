//! One simulated node: the agent's own core (session, ledger, outbox, store) over
//! a disk in memory and a real TLS connection. Commands end at once and well.
//!
//! What it cannot show is a host: there is no flash and there are no collectors
//! here. What it shows is all that the controller sees of a node.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::domain::backoff::{Backoff, Jitter};
use agent::domain::time::Moment;
use agent::node::{Action, Identity, Input, LinkState, Node, Setup};
use agent::store::disk::MemoryDisk;
use agent::store::spool::{Record, Spool};
use agent::store::{FrameEntry, Limits};
use anyhow::Context as _;
use harness::clock;
use protocol::command::{Command, Outcome, Receipt};
use protocol::id::{CommandId, DeploymentId};
use protocol::policy::Attempt;
use protocol::session::BootId;
use protocol::state::{Facts, StateItem, StateValue};
use protocol::stream::Stream;
use protocol::telemetry::Tier;
use protocol::telemetry::frame::FRAME_VERSION;
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use tokio::sync::watch;

use crate::mqtt::{Door, Link, PING_EVERY};
use crate::samples::Host;
use crate::world::World;

/// The agent's own pauses between two tries to connect.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Simulated nodes do not crash, so nothing has to be kept for that.
struct NoSpool;

impl Spool for NoSpool {
    fn load(&mut self) -> io::Result<Vec<Record>> {
        Ok(Vec::new())
    }

    fn append(&mut self, _records: &[Record]) -> io::Result<()> {
        Ok(())
    }

    fn replace(&mut self, _records: &[Record]) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }
}

/// What a node was enrolled with.
pub(crate) struct Enrolled {
    pub(crate) identity: Identity,
    pub(crate) door: Door,
}

/// How a node ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Frames that the controller has not acknowledged.
    pub(crate) frames_waiting: usize,
    /// Receipts and lifecycle events that it has not acknowledged.
    pub(crate) control_waiting: usize,
    /// Samples given up for lack of space.
    pub(crate) shed_samples: u64,
}

/// A node that runs.
pub(crate) struct Simulated {
    core: Node,
    door: Door,
    filters: Vec<String>,
    host: Host,
    world: Arc<World>,
    jitter: Jitter,
    seed: u64,
    /// When each frame that is not acknowledged was handed to the core.
    handed: VecDeque<Instant>,
    /// A receipt that is not acknowledged, and when its command came.
    owed: Option<(CommandId, Instant)>,
    frame_at: Instant,
    up: bool,
    /// Whether its policy forbids a change.
    refuses: bool,
}

impl Simulated {
    /// A node with an empty store.
    pub(crate) fn new(enrolled: Enrolled, seed: u64, world: Arc<World>) -> anyhow::Result<Self> {
        let Enrolled { identity, door } = enrolled;
        let filters = vec![
            Topic::Down(identity.node).print(identity.fleet),
            Topic::All.print(identity.fleet),
        ];
        let mut drawn = seed;
        let boot = BootId(nonce(&mut drawn));
        let setup = Setup {
            disk: Box::new(MemoryDisk::default()),
            spool: Box::new(NoSpool),
            limits: Limits::default(),
            boot,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            draw: Box::new(move || nonce(&mut drawn)),
            seed,
        };
        let now = world.moment();
        let (core, _nothing_left) = Node::open(identity, setup, now).context("a new store")?;
        let mut jitter = Jitter::new(seed);
        let phase = jitter.between(Duration::ZERO, world.pace.frame_every);
        Ok(Self {
            core,
            door,
            filters,
            host: Host::new(seed),
            world,
            jitter,
            seed,
            handed: VecDeque::new(),
            owed: None,
            frame_at: clock::now() + phase,
            up: false,
            refuses: false,
        })
    }

    /// Runs until it is stopped. The first connection is made within `spread`.
    pub(crate) async fn run(mut self, spread: Duration, mut stop: watch::Receiver<bool>) -> Ended {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX, self.seed);
        self.observe();
        let first = self.jitter.between(Duration::ZERO, spread);
        self.offline(first, &mut stop).await;
        while !*stop.borrow() {
            match Link::open(&self.door, &self.filters).await {
                Ok(link) => {
                    let ended = self.session(link, &mut backoff, &mut stop).await;
                    let now = self.world.moment();
                    self.core.input(Input::Disconnected, now);
                    self.settle(None, now);
                    if let Err(error) = ended {
                        self.world.tally.lost(&error);
                    }
                }
                Err(error) => self.world.tally.refused(&error),
            }
            if !*stop.borrow() {
                let pause = backoff.fail();
                self.offline(pause, &mut stop).await;
            }
        }
        self.world.tally.down(&mut self.up);
        Ended {
            frames_waiting: self.frames_waiting(),
            control_waiting: self.core.waiting(Stream::Control),
            shed_samples: self.core.status(self.world.moment()).store.shed_samples,
        }
    }

    /// Goes on measuring for a while without a connection.
    async fn offline(&mut self, pause: Duration, stop: &mut watch::Receiver<bool>) {
        let end = clock::now() + pause;
        while clock::now() < end && !*stop.borrow() {
            let wake = end.min(self.frame_at);
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stop.changed() => {}
            }
            let now = self.world.moment();
            self.measure(now);
            self.core.input(Input::Tick, now);
            self.settle(None, now);
        }
    }

    async fn session(
        &mut self,
        mut link: Link,
        backoff: &mut Backoff,
        stop: &mut watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let now = self.world.moment();
        self.core.input(Input::Connected, now);
        let mut ping_at = clock::now() + PING_EVERY;
        loop {
            let now = self.world.moment();
            while let Some(message) = link.next()? {
                let (topic, bytes) = (message.topic, message.payload);
                self.core.input(Input::Message { topic, bytes }, now);
            }
            self.measure(now);
            self.core.input(Input::Tick, now);
            if self.settle(Some(&mut link), now) {
                anyhow::bail!("the session asks for a new connection");
            }
            if self.up {
                backoff.succeed();
            }
            if clock::now() >= ping_at {
                link.ping()?;
                ping_at = clock::now() + PING_EVERY;
            }
            link.flush().await?;
            let due = self.core.wakes_at().map(|(at, _why)| at.since(now.tick));
            let wake = clock::now() + due.unwrap_or(PING_EVERY).max(Duration::from_millis(1));
            let wake = wake.min(self.frame_at).min(ping_at);
            tokio::select! {
                read = link.read() => read?,
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = stop.changed() => return Ok(()),
            }
        }
    }

    fn observe(&mut self) {
        let now = self.world.moment();
        let facts = Facts {
            hostname: format!("node-{}", self.seed),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            kernel: "6.1.0-18-amd64".to_owned(),
            arch: "x86_64".to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cpus: 2,
            memory_bytes: 4 << 30,
            virtualisation: "vm".to_owned(),
            ..Facts::default()
        };
        let item = StateItem {
            at: now.wall,
            value: StateValue::Facts(facts),
        };
        self.core.input(Input::State(Box::new(item)), now);
    }

    /// Hands a frame over when one is due.
    fn measure(&mut self, now: Moment) {
        if clock::now() < self.frame_at {
            return;
        }
        let pace = &self.world.pace;
        self.frame_at += pace.frame_every;
        if !self.world.measures() {
            return;
        }
        let start = self.core.controller_now(now).before(pace.frame_every);
        let last = start.after(pace.frame_every - pace.sample_every);
        let Ok(body) = self.host.frame(start.0, pace.sample_ms(), pace.slots()) else {
            self.world.tally.problem("frame.encode");
            return;
        };
        self.world.tally.handed(body.len());
        let frame = FrameEntry {
            version: FRAME_VERSION,
            tier: Tier::Fine,
            first: start,
            last,
            body,
        };
        self.handed.push_back(clock::now());
        self.core.input(Input::Frame(frame), now);
    }

    fn frames_waiting(&self) -> usize {
        self.core.waiting(Stream::Telemetry) + self.core.waiting(Stream::Backfill)
    }

    /// Carries out what the core wants; says whether it wants a new connection.
    fn settle(&mut self, mut link: Option<&mut Link>, now: Moment) -> bool {
        let mut reconnect = false;
        loop {
            let actions = self.core.settle(now);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Publish { topic, bytes } => {
                        let Some(link) = &mut link else { continue };
                        let topic = topic.print(self.world.fleet);
                        if link.publish(topic, bytes).is_err() {
                            self.world.tally.problem("mqtt.encode");
                        }
                    }
                    Action::Start(command) => self.obey(&command, now),
                    Action::Link(LinkState::Up) => self.world.tally.up(&mut self.up),
                    Action::Link(LinkState::Down) => self.world.tally.down(&mut self.up),
                    Action::Reconnect => reconnect = true,
                    Action::Problem { code, .. } => self.world.tally.problem(code.text()),
                    Action::Cancel(_)
                    | Action::Deployments(_)
                    | Action::Live(_)
                    | Action::Named(_)
                    | Action::Trust(..)
                    | Action::FetchTrust
                    | Action::Renew => {}
                }
            }
        }
        self.account();
        if self.world.judges() {
            self.judge(now);
        }
        reconnect
    }

    /// Asks the core's gate as the agent does before a change of a deployment.
    fn judge(&mut self, now: Moment) {
        let attempt = Attempt::Deploy(DeploymentId::NIL);
        let refuses = self.core.status(now).gate.admit(attempt, now).is_err();
        match (self.refuses, refuses) {
            (false, true) => self.world.tally.refuses(),
            (true, false) => self.world.tally.admits(),
            (true, true) | (false, false) => {}
        }
        self.refuses = refuses;
    }

    fn obey(&mut self, command: &Command, now: Moment) {
        let at: UnixMillis = self.core.controller_now(now);
        self.owed = Some((command.id, clock::now()));
        self.world.tally.taken();
        let receipt = Receipt {
            command: command.id,
            outcome: Outcome::Succeeded,
            code: None,
            detail: "pong".to_owned(),
            started_at: Some(at),
            ended_at: at,
            stdout: Vec::new(),
            stderr: Vec::new(),
            cut_bytes: 0,
        };
        self.core.input(Input::Finished(Box::new(receipt)), now);
    }

    /// Notes what the controller has acknowledged.
    fn account(&mut self) {
        let waiting = self.frames_waiting();
        while self.handed.len() > waiting {
            if let Some(handed) = self.handed.pop_front() {
                self.world.tally.acknowledged(handed.elapsed());
            }
        }
        if self.core.waiting(Stream::Control) == 0
            && let Some((command, taken)) = self.owed.take()
        {
            self.world.tally.receipted(command, taken);
        }
    }
}

/// Sixteen bytes that do not repeat: a simulated node's nonces need not be secret.
fn nonce(state: &mut u64) -> [u8; 16] {
    let mut jitter = Jitter::new(*state);
    let mut draw = || {
        let span = jitter.between(Duration::ZERO, Duration::from_millis(u64::MAX - 1));
        protocol::time::millis(span)
    };
    let (first, second) = (draw(), draw());
    *state = first ^ second.rotate_left(17);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}
