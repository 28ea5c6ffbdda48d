//! The simulated world: hosts, the controller's machine, the network between
//! them, and the passing of time.

use std::collections::BTreeMap;

use controller::broker::{Delivery, Outgoing};
use controller::pki::CurrentTrust;
use harness::sim::chance::Chance;
use harness::sim::disk::SimDisk;
use harness::sim::net::{SimNet, Weather};
use protocol::id::{FleetId, NodeId};
use protocol::stream::Stream;
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use protocol::trust::TrustSet;

use super::controller::Machine;
use super::faults::Faults;
use super::history::History;
use super::node::{Host, Sent, signing_key};
use agent::node::Identity;

/// The controller's end of the network; host `i` has the end `i + 1`.
const CONTROLLER: usize = 0;

/// Where simulated time begins.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// How often the controller looks at what is due.
const CONTROLLER_TICK_MS: u64 = 500;

/// True time at a moment of the simulation.
pub(crate) fn unix(now: u64) -> UnixMillis {
    UnixMillis(EPOCH_MS + now)
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    topic: Topic,
    bytes: Vec<u8>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) chance: Chance,
    pub(crate) net: SimNet<Packet>,
    pub(crate) machine: Machine,
    pub(crate) hosts: Vec<Host>,
    pub(crate) history: History,
    /// Time passes in steps of at least so many milliseconds. Every step looks at
    /// every host, so that large fleets are simulated in larger ones.
    pub(crate) grain: u64,
    next_tick: u64,
    digest: u64,
}

impl World {
    /// A fleet of so many hosts, admitted and about to start.
    pub(crate) fn new(seed: u64, hosts: usize) -> World {
        let mut chance = Chance::new(seed);
        let fleet = FleetId::from_bytes(chance.bytes());
        let root = signing_key(&mut chance);
        let controller_key = signing_key(&mut chance);
        let trust = TrustSet {
            fleet,
            version: 1,
            issued_at: unix(0),
            controller_keys: vec![controller_key.public()],
            authorities: Vec::new(),
            release_keys: Vec::new(),
        };
        let current = CurrentTrust {
            version: trust.version,
            signed: trust.sign(&root),
        };
        let mut machine = Machine::new(fleet, controller_key, current, chance.fork());
        let hosts: Vec<Host> = (0..hosts)
            .map(|_| {
                let identity = Identity {
                    fleet,
                    node: NodeId::from_bytes(chance.bytes()),
                    key: signing_key(&mut chance),
                    root: root.public(),
                    trust: trust.clone(),
                };
                Host::new(identity, chance.fork())
            })
            .collect();
        let admitted: Vec<_> = hosts
            .iter()
            .map(|host| (host.id(), host.identity.key.public()))
            .collect();
        machine.start(0);
        machine.admit(&admitted, 0);
        World {
            now: 0,
            net: SimNet::new(chance.fork(), Weather::FAIR),
            machine,
            hosts,
            history: History::default(),
            grain: 1,
            next_tick: 0,
            digest: seed,
            chance,
        }
    }

    /// Lets time pass, with what chance brings.
    pub(crate) fn run(&mut self, until: u64, faults: &mut Faults) {
        while self.now < until {
            let next = self.next_event(faults).max(self.now + self.grain);
            self.now = next.min(until.max(self.now + 1));
            faults.strike(self);
            self.deliver();
            self.tick_controller();
            self.tick_hosts();
        }
    }

    fn next_event(&self, faults: &Faults) -> u64 {
        let hosts = self.hosts.iter().map(Host::wakes_at).min();
        hosts
            .unwrap_or(u64::MAX)
            .min(self.net.next_at().unwrap_or(u64::MAX))
            .min(self.next_tick)
            .min(faults.next_at())
    }

    fn deliver(&mut self) {
        let mut up = Vec::new();
        while let Some(arrival) = self.net.arrive(self.now) {
            let Packet { topic, bytes } = arrival.message;
            self.note(&bytes);
            if arrival.to == CONTROLLER {
                up.push(Delivery {
                    topic,
                    payload: bytes,
                    sender: topic.node(),
                });
            } else {
                self.give(arrival.to - 1, topic, bytes);
            }
        }
        if !up.is_empty() {
            let output = self.machine.receive(up, self.now);
            self.send_down(output.outgoing);
        }
    }

    fn give(&mut self, index: usize, topic: Topic, bytes: Vec<u8>) {
        let fleet = self.machine.fleet;
        let now = self.now;
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        if !host.is_on() || !host.connected {
            return;
        }
        if let Some(acks) = host.opens(&bytes) {
            let id = host.id();
            self.history.acknowledged(id, &acks);
        }
        let sent = host.receive(&topic.print(fleet), bytes, now);
        self.send_up(index, sent);
    }

    fn send_up(&mut self, index: usize, sent: Vec<Sent>) {
        for Sent { topic, bytes } in sent {
            self.net
                .send(index + 1, CONTROLLER, Packet { topic, bytes }, self.now);
        }
    }

    fn send_down(&mut self, outgoing: Vec<Outgoing>) {
        for Outgoing { topic, payload } in outgoing {
            let bytes = payload;
            for (index, host) in self.hosts.iter().enumerate() {
                let wanted = topic.node().is_none_or(|node| node == host.id());
                if wanted && host.connected {
                    let packet = Packet {
                        topic,
                        bytes: bytes.clone(),
                    };
                    self.net.send(CONTROLLER, index + 1, packet, self.now);
                }
            }
        }
        for node in std::mem::take(&mut self.machine.disconnects) {
            if let Some(index) = self.hosts.iter().position(|host| host.id() == node) {
                self.break_connection(index);
            }
        }
    }

    fn tick_controller(&mut self) {
        if self.next_tick > self.now {
            return;
        }
        self.next_tick = self.now + CONTROLLER_TICK_MS;
        let starts = self.machine.start_at.is_some_and(|at| at <= self.now);
        if starts && !self.machine.is_on() && !self.machine.disks_fail {
            // What nodes were told is durable must be.
            for host in &self.hosts {
                let contiguous = self.machine.contiguous(host.id());
                self.history
                    .invariant_what_was_acknowledged_is_durable(host.id(), contiguous);
            }
        }
        let output = self.machine.tick(self.now);
        self.send_down(output.outgoing);
    }

    fn tick_hosts(&mut self) {
        for index in 0..self.hosts.len() {
            let reachable = self.machine.is_on() && !self.net.is_cut(CONTROLLER, index + 1);
            let now = self.now;
            let Some(host) = self.hosts.get_mut(index) else {
                continue;
            };
            if host.wakes_at() > now {
                continue;
            }
            let mut sent = host.tick(now);
            if host.is_on() && !host.connected && host.reconnect_at <= now {
                if reachable {
                    self.net.drop_between(CONTROLLER, index + 1);
                    sent.extend(host.connect(now));
                } else {
                    host.reconnect_at = now + 2_000;
                }
            }
            self.send_up(index, sent);
        }
    }

    /// Ends a host's connection, with what is in flight on it.
    pub(crate) fn break_connection(&mut self, index: usize) {
        self.net.drop_between(CONTROLLER, index + 1);
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(index)
            && host.connected
        {
            let sent = host.disconnect(now);
            self.send_up(index, sent);
        }
    }

    /// The controller's process or power goes, and all connections with it.
    pub(crate) fn controller_gone(&mut self) {
        for index in 0..self.hosts.len() {
            self.break_connection(index);
        }
    }

    pub(crate) fn cut(&mut self, index: usize) {
        self.net.cut(CONTROLLER, index + 1);
    }

    pub(crate) fn heal(&mut self, index: usize) {
        self.net.heal(CONTROLLER, index + 1);
    }

    /// Issues a command and remembers it when it was accepted.
    pub(crate) fn issue(&mut self, index: Option<usize>) {
        let node = index.and_then(|index| self.hosts.get(index)).map(Host::id);
        if let Some(command) = self.machine.issue(node, self.now) {
            self.history.issued.push(command);
        }
    }

    /// An operator applies another revision of the one deployment. When it is a bad
    /// one, it fails on all hosts but `share`.
    pub(crate) fn apply(&mut self, bad: Option<u64>) {
        let Some(revision) = self.machine.apply(self.now) else {
            return;
        };
        if let Some(share) = bad {
            let well = usize::try_from(share).unwrap_or(0);
            for host in self.hosts.iter_mut().skip(well) {
                host.fails.insert(revision);
            }
        }
        self.history.applied.insert(revision);
    }

    /// Lets what is on its way this moment arrive: a frame is sent each minute.
    fn run_dry(&mut self) {
        for _ in 0..6 {
            let waits = self.hosts.iter().any(|host| host.waiting(self.now) > 0);
            if waits {
                self.run(self.now + 5_000, &mut Faults::none());
            }
        }
    }

    /// The controller's machine goes off for good, so that its disks can be read.
    pub(crate) fn settle(&mut self) {
        self.run_dry();
        let now = self.now;
        self.machine.kill(now);
        self.machine.start_at = None;
    }

    /// The controller's disks are replaced by older copies.
    pub(crate) fn restore(&mut self, journal: SimDisk, intake: SimDisk) {
        let now = self.now;
        self.machine.kill(now);
        self.controller_gone();
        self.machine.journal = journal;
        self.machine.intake = intake;
        self.machine.live = None;
        self.history.forget();
        self.machine.start_restored(now);
    }

    /// What came over the network so far, as one number.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    fn note(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().rev().take(16) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest ^= self.now;
    }
}

/// What was acknowledged to each node, by stream.
pub(crate) type Acknowledged = BTreeMap<(NodeId, usize), u64>;

/// The place of a stream in the arrays by stream.
pub(crate) fn place(stream: Stream) -> usize {
    stream.index()
}
