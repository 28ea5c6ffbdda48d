//! One simulated host: the agent's core over a simulated disk, and an executor
//! that only counts effects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::domain::deployment::catch_up::CatchUp;
use agent::domain::deployment::record::{Failure, Record, Stage};
use agent::domain::time::{Moment, Tick};
use agent::node::{Action, Identity, Input, LinkState, Node, Setup};
use agent::store::disk::Disk;
use agent::store::spool::MemorySpool;
use agent::store::{Deployments, FrameEntry, Limits, RedbDisk};
use harness::sim::chance::Chance;
use harness::sim::disk::SimDisk;
use protocol::ErrorCode;
use protocol::command::{Command, Outcome, Receipt};
use protocol::deployment::desired::Desired;
use protocol::id::{CommandId, DeploymentId, NodeId};
use protocol::session::BootId;
use protocol::telemetry::Tier;
use protocol::time::UnixMillis;
use protocol::topic::Topic;

/// Frames come this often.
pub(crate) const FRAME_EVERY_MS: u64 = 60_000;

/// What a host puts out.
pub(crate) struct Sent {
    pub(crate) topic: Topic,
    pub(crate) bytes: Vec<u8>,
}

/// A frame that the host measured, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) marker: u64,
    pub(crate) at: u64,
}

/// One host.
pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) disk: SimDisk,
    spool: MemorySpool,
    chance: Chance,
    core: Option<Node>,
    /// Wall clock minus simulated time.
    skew_ms: i64,
    booted_at: u64,
    boot: BootId,
    running: Vec<(u64, Command)>,
    /// Orders that are worked on: when the next step is done, and of which order.
    changing: Vec<(u64, DeploymentId, u64)>,
    /// Revisions that fail on this host.
    pub(crate) fails: BTreeSet<u32>,
    catch_up: CatchUp,
    /// When the host took each generation, and when it began with it.
    pub(crate) begun: BTreeMap<u64, (u64, u64)>,
    /// What each generation ordered: no two orders may have one.
    pub(crate) ordered: BTreeMap<u64, Desired>,
    pub(crate) next_frame: u64,
    pub(crate) connected: bool,
    pub(crate) reconnect_at: u64,
    pub(crate) start_at: Option<u64>,
    /// Effects in the world: these survive everything.
    pub(crate) effects: BTreeMap<CommandId, u32>,
    pub(crate) measured: Vec<Measured>,
    /// When the power went, and whether the link was proven then.
    pub(crate) power_cuts: Vec<u64>,
    pub(crate) link_up: bool,
    pub(crate) problems: Vec<String>,
    spins: u32,
}

impl Host {
    pub(crate) fn new(identity: Identity, mut chance: Chance) -> Host {
        let year_ms: i64 = 365 * 24 * 3600 * 1000;
        let skew_ms = match chance.below(4) {
            0 => year_ms,
            1 => -year_ms,
            2 => 40_000,
            _ => 0,
        };
        Host {
            identity,
            disk: SimDisk::new(),
            spool: MemorySpool::default(),
            core: None,
            skew_ms,
            booted_at: 0,
            boot: BootId(chance.bytes()),
            running: Vec::new(),
            changing: Vec::new(),
            catch_up: CatchUp::new(chance.below(u64::MAX)),
            begun: BTreeMap::new(),
            fails: BTreeSet::new(),
            ordered: BTreeMap::new(),
            next_frame: chance.below(FRAME_EVERY_MS),
            connected: false,
            reconnect_at: chance.below(5_000),
            start_at: Some(0),
            effects: BTreeMap::new(),
            measured: Vec::new(),
            power_cuts: Vec::new(),
            link_up: false,
            problems: Vec::new(),
            spins: 0,
            chance,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.identity.node
    }

    pub(crate) fn is_on(&self) -> bool {
        self.core.is_some()
    }

    fn moment(&self, now: u64) -> Moment {
        let wall = super::world::unix(now);
        Moment {
            tick: Tick(now - self.booted_at),
            wall: UnixMillis(wall.0.saturating_add_signed(self.skew_ms)),
        }
    }

    /// Starts the agent. A store that cannot be opened is a failure of the test.
    pub(crate) fn start(&mut self, now: u64) {
        self.start_at = None;
        let disk = self.disk.clone();
        let backend: Box<dyn Disk> = Box::new(RedbDisk::on(
            Path::new("simulated"),
            Box::new(move || Ok(disk.open())),
        ));
        let mut draws = self.chance.fork();
        let setup = Setup {
            disk: backend,
            spool: Box::new(self.spool.clone()),
            limits: Limits::default(),
            boot: self.boot,
            agent_version: "0.0.0".to_owned(),
            draw: Box::new(move || draws.bytes()),
            seed: self.chance.draw(),
        };
        match Node::open(self.identity.clone(), setup, self.moment(now)) {
            Ok((node, _recovered)) => {
                let records = Arc::clone(node.deployments());
                self.core = Some(node);
                self.look_at_orders(&records, now);
            }
            Err(error) => {
                // A disk that is failing just now: systemd tries again.
                self.problems.push(error.to_string());
                self.start_at = Some(now + 5_000);
            }
        }
        self.connected = false;
        self.reconnect_at = now + self.chance.below(3_000);
    }

    /// The process dies; the host does not.
    pub(crate) fn kill(&mut self, now: u64) {
        self.core = None;
        self.running.clear();
        self.changing.clear();
        self.disk.kill();
        self.down(now);
    }

    /// The power goes: what was not synced may be lost, the tmpfs is.
    pub(crate) fn cut_power(&mut self, now: u64) {
        self.core = None;
        self.running.clear();
        self.changing.clear();
        self.disk.crash(&mut self.chance);
        self.spool = MemorySpool::default();
        self.boot = BootId(self.chance.bytes());
        self.booted_at = now;
        self.power_cuts.push(now);
        self.down(now);
    }

    fn down(&mut self, now: u64) {
        self.connected = false;
        self.link_up = false;
        self.start_at = Some(now + 1_000 + self.chance.below(20_000));
    }

    pub(crate) fn connect(&mut self, now: u64) -> Vec<Sent> {
        self.connected = true;
        self.step(Input::Connected, now)
    }

    pub(crate) fn disconnect(&mut self, now: u64) -> Vec<Sent> {
        self.connected = false;
        self.reconnect_at = now + 500 + self.chance.below(8_000);
        self.step(Input::Disconnected, now)
    }

    pub(crate) fn receive(&mut self, topic: &str, bytes: Vec<u8>, now: u64) -> Vec<Sent> {
        let topic = topic.to_owned();
        self.step(Input::Message { topic, bytes }, now)
    }

    /// When something is due on this host.
    pub(crate) fn wakes_at(&self) -> u64 {
        let Some(core) = &self.core else {
            return self.start_at.unwrap_or(u64::MAX);
        };
        let core = core
            .wakes_at()
            .map_or(u64::MAX, |(tick, _)| self.booted_at + tick.0);
        let running = self.running.iter().map(|(at, _)| *at).min();
        let changing = self.changing.iter().map(|(at, _, _)| *at).min();
        core.min(self.next_frame)
            .min(changing.unwrap_or(u64::MAX))
            .min(running.unwrap_or(u64::MAX))
            .min(if self.connected {
                u64::MAX
            } else {
                self.reconnect_at
            })
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: u64) -> Vec<Sent> {
        if self.core.is_none() {
            if self.start_at.is_some_and(|at| at <= now) {
                self.start(now);
            }
            return Vec::new();
        }
        let mut sent = Vec::new();
        if self.next_frame <= now {
            self.next_frame = now + FRAME_EVERY_MS;
            sent.extend(self.measure(now));
        }
        let due: Vec<Command> = {
            let (due, later) = std::mem::take(&mut self.running)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            self.running = later;
            let due: Vec<(u64, Command)> = due;
            due.into_iter().map(|(_, command)| command).collect()
        };
        for command in due {
            let receipt = self.receipt(&command, Outcome::Succeeded, now);
            sent.extend(self.step(Input::Finished(Box::new(receipt)), now));
        }
        sent.extend(self.change(now));
        sent.extend(self.step(Input::Tick, now));
        self.invariant_a_core_sleeps_when_nothing_is_due(now);
        sent
    }

    /// A core that wants to be woken again at once would keep a processor busy.
    fn invariant_a_core_sleeps_when_nothing_is_due(&mut self, now: u64) {
        let due = self.core.as_ref().and_then(Node::wakes_at);
        let spins = due.filter(|(tick, _)| self.booted_at + tick.0 <= now);
        self.spins = spins.map_or(0, |_| self.spins + 1);
        assert!(self.spins < 50, "{} spins at {now}: {spins:?}", self.id());
    }

    /// A frame whose body says which one it is. The store of frames is a double
    /// here, so nothing decodes it but the agent's own tiers, which are not
    /// reached at this size.
    fn measure(&mut self, now: u64) -> Vec<Sent> {
        let marker = self.chance.draw();
        let at = super::world::unix(now);
        self.measured.push(Measured { marker, at: now });
        let mut body = marker.to_le_bytes().to_vec();
        body.resize(350, 7);
        let frame = FrameEntry {
            version: 1,
            tier: Tier::Fine,
            first: at,
            last: at.after(Duration::from_millis(FRAME_EVERY_MS)),
            body,
        };
        self.step(Input::Frame(frame), now)
    }

    fn receipt(&self, command: &Command, outcome: Outcome, now: u64) -> Receipt {
        let at = super::world::unix(now);
        Receipt {
            command: command.id,
            outcome,
            code: None,
            detail: String::new(),
            started_at: Some(at),
            ended_at: at,
            stdout: command.id.as_bytes().to_vec(),
            stderr: Vec::new(),
            cut_bytes: 0,
        }
    }

    fn step(&mut self, input: Input, now: u64) -> Vec<Sent> {
        let moment = self.moment(now);
        let Some(core) = self.core.as_mut() else {
            return Vec::new();
        };
        let actions = core.step(input, moment);
        let mut sent = Vec::new();
        let mut cancelled = Vec::new();
        for action in actions {
            match action {
                Action::Publish { topic, bytes } => sent.push(Sent { topic, bytes }),
                Action::Start(command) => self.begin(*command, now),
                Action::Cancel(command) => cancelled.push(command),
                Action::Deployments(records) => self.look_at_orders(&records, now),
                Action::Link(state) => self.link_up = state == LinkState::Up,
                Action::Reconnect => {
                    self.connected = false;
                    self.reconnect_at = now + 200;
                }
                Action::Problem { code, detail } => self.problems.push(format!("{code}: {detail}")),
                Action::Live(_)
                | Action::Named(_)
                | Action::Trust(..)
                | Action::FetchTrust
                | Action::Renew => {}
            }
        }
        for id in cancelled {
            let found = self.running.iter().position(|(_, c)| c.id == id);
            if let Some(found) = found {
                let (_, command) = self.running.remove(found);
                let receipt = self.receipt(&command, Outcome::Cancelled, now);
                sent.extend(self.step(Input::Finished(Box::new(receipt)), now));
            }
        }
        sent
    }

    /// The effect happens as the command starts; its end comes later.
    fn begin(&mut self, command: Command, now: u64) {
        *self.effects.entry(command.id).or_insert(0) += 1;
        let takes = 50 + self.chance.below(30_000);
        self.running.push((now + takes, command));
    }

    /// Takes up the orders that have not ended.
    fn look_at_orders(&mut self, records: &Deployments, now: u64) {
        for record in records.values() {
            let order = &record.desired;
            let known = self
                .ordered
                .entry(order.generation)
                .or_insert_with(|| order.clone());
            assert_eq!(
                known, order,
                "two orders of {} have one generation",
                self.identity.node
            );
            let key = (order.deployment, order.generation);
            let busy = self.changing.iter().any(|(_, d, g)| (*d, *g) == key);
            if record.is_open() && !busy {
                let at = super::world::unix(now);
                let begins = self.catch_up.begins_at(order, Tick(now), at).0.max(now);
                self.begun.entry(key.1).or_insert((now, begins));
                let takes = 200 + self.chance.below(15_000);
                self.changing.push((begins + takes, key.0, key.1));
            }
        }
    }

    /// Moves the changes on whose time has come, as an engine would: begun, then
    /// healthy, or failed and put back.
    fn change(&mut self, now: u64) -> Vec<Sent> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.changing)
            .into_iter()
            .partition(|(at, _, _)| *at <= now);
        self.changing = later;
        let at = super::world::unix(now);
        let mut sent = Vec::new();
        for (_, deployment, generation) in due {
            let record = self
                .core
                .as_ref()
                .and_then(|core| core.deployments().get(&deployment).cloned());
            let Some(record) = record.filter(|it| it.desired.generation == generation) else {
                continue;
            };
            let fails = record
                .wanted()
                .is_some_and(|target| self.fails.contains(&target.revision));
            let transition = match &record.stage {
                Stage::New => record.begin(),
                Stage::Changing if fails => {
                    let failure = Failure::new(ErrorCode::WorkloadExited, "it ended at once");
                    record.fail(failure, at)
                }
                Stage::Changing => record.succeed(at),
                Stage::Reverting(_) => record.reverted(None, at),
                Stage::AwaitingCommit | Stage::Settled(..) => continue,
            };
            sent.extend(self.step(Input::Deployment(Box::new(transition)), now));
        }
        sent
    }

    /// The generation that the host holds, and the revision that runs there.
    pub(crate) fn holds(&self, deployment: DeploymentId, now: u64) -> (u64, Option<u32>) {
        let Some(core) = &self.core else {
            return (0, None);
        };
        let record = core.deployments().get(&deployment);
        let runs = record.and_then(|record| record.committed.as_ref());
        (
            core.status(self.moment(now)).generation,
            runs.map(|target| target.revision),
        )
    }

    /// What the host keeps of deployments; nothing while it is off.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = &Record> {
        let records = self.core.as_ref().map(|core| core.deployments().values());
        records.into_iter().flatten().map(AsRef::as_ref)
    }

    /// What waits for an acknowledgement, by stream.
    pub(crate) fn waiting(&self, now: u64) -> usize {
        let status = self.core.as_ref().map(|core| core.status(self.moment(now)));
        status.map_or(0, |status| status.store.waiting.iter().sum())
    }

    /// The controller's signing keys that this host believes.
    pub(crate) fn opens(&self, bytes: &[u8]) -> Option<protocol::session::Acks> {
        let identity = &self.identity;
        let opened = protocol::envelope::open(bytes, identity.fleet, |_, key| {
            identity.trust.controller_key(key)
        });
        opened.ok()?.decode().ok()
    }
}

/// Shares a signing key between an identity and the fleet's records.
pub(crate) fn signing_key(chance: &mut Chance) -> Arc<protocol::key::SigningKey> {
    let key = protocol::key::SigningKey::from_seed(&chance.bytes());
    Arc::new(key.expect("any 32 bytes are a seed"))
}
