//! The link machine of the agent's side.
//!
//! It owns what a session with the controller is: hello and welcome, heartbeats,
//! the numbering of what comes down, what of each stream was sent and
//! acknowledged, and the controller's clock. It neither seals nor stores: the
//! caller feeds it events with the time, carries out what it puts out, and asks
//! [`Session::next_upload`] until there is nothing more to send.
//!
//! **Invariant:** nothing that goes down is obeyed unless it carries the nonce of
//! the session that the controller welcomed, and then in the order of its
//! numbers. The link is up only while the controller's last acknowledgement is
//! younger than [`LINK_PROVEN_MAX`]; what a broker acknowledges means nothing.
//!
//! When answers stay away, the machine says hello again with growing pauses and
//! in the end asks for a new connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::down::{Down, DownBody};
use protocol::id::StoreId;
use protocol::label::Labels;
use protocol::limits::{
    ACK_STALL, CREDIT_BYTES_INITIAL, DOWN_WINDOW_MAX, HEARTBEAT_INTERVAL, LINK_PROVEN_MAX,
    UPLOAD_BYTES_MAX,
};
use protocol::session::{Acks, Announce, BootId, Heartbeat, Hello, Nonce, StreamOffer, Welcome};
use protocol::stream::{Stream, StreamAck};
use protocol::time::{UnixMillis, millis};

use super::backoff::{Backoff, Jitter};
use super::time::{ControllerClock, Moment, Tick};

/// Uploads of one stream in flight. One lost upload costs sending at most this
/// many again; a fast link is kept busy by two.
const WINDOW_UPLOADS_MAX: usize = 4;

/// After a restart of the controller all nodes greet it: 10,000 of them within
/// this make 2,000 hellos a second.
const ANNOUNCE_SPREAD: Duration = Duration::from_secs(5);

/// A hello is answered in one round trip; on the slowest links that is seconds.
const HELLO_RETRY_FIRST: Duration = Duration::from_secs(8);
const HELLO_RETRY_MAX: Duration = Duration::from_secs(60);

/// Hellos without an answer before the connection itself is given up.
const HELLOS_UNANSWERED_MAX: u32 = 3;

/// At least this long between two heartbeats that report a gap.
const GAP_REPORT_PAUSE: Duration = Duration::from_secs(1);

/// Bounds on what a controller may ask for as a heartbeat interval.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// Envelopes whose sending time is remembered to bound a round trip. More would
/// only serve answers that are too old to bound anything.
const ECHOES_COUNT_MAX: usize = 32;

/// Orders that wait for their predecessors; any more are dropped, and sent again
/// by the controller. Bounds what a broker that reorders can make a node hold.
const EARLY_COUNT_MAX: usize = 32;

/// A stall doubles the patience, up to this many times.
const STALL_DOUBLINGS_MAX: u32 = 4;

/// What the node holds when the machine starts.
#[derive(Clone, Debug)]
pub struct Held {
    /// The store's id.
    pub store: StoreId,
    /// The host's boot.
    pub boot: BootId,
    /// The agent's version.
    pub agent_version: String,
    /// The highest incarnation of the controller that was obeyed.
    pub incarnation: u64,
    /// The version of the trust set that is held.
    pub trust_version: u64,
    /// The generation of desired state that is held.
    pub generation: u64,
    /// The last controller time that was proven in an earlier run.
    pub proven: Option<UnixMillis>,
    /// What the outbox holds of each stream.
    pub offers: [StreamOffer; 4],
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Draw a nonce and a connect counter, and call [`Session::greet`].
    Greet,
    /// Send this to the controller.
    Heartbeat(Heartbeat),
    /// Carry out an order. It comes at most once in a session.
    Order(DownBody),
    /// The controller has everything of the stream up to this number.
    Acked {
        /// The stream.
        stream: Stream,
        /// The number.
        through: u64,
    },
    /// The controller has numbers that this store never gave out: the disk was
    /// put back. What waits must be renumbered above `beyond`.
    Overtaken {
        /// The stream.
        stream: Stream,
        /// The highest number that the controller has.
        beyond: u64,
    },
    /// The link came up.
    Up,
    /// The link went down.
    Down,
    /// A higher incarnation is obeyed from here on; remember it.
    Incarnation(u64),
    /// The node's name and labels.
    Named {
        /// The name.
        name: String,
        /// The labels.
        labels: Labels,
    },
    /// The controller holds a newer trust set.
    TrustBehind,
    /// The controller's incarnation is below one that was obeyed: its past was
    /// put back without saying so. It is not obeyed.
    StaleController {
        /// Its incarnation.
        found: u64,
        /// The highest that was obeyed.
        held: u64,
    },
    /// Nobody answers on this connection: make a new one.
    Reconnect,
}

/// Entries of a stream that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The stream.
    pub stream: Stream,
    /// The number that precedes them.
    pub after: u64,
    /// Bytes of bodies at most, but for the first entry, which always goes.
    pub bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    last: u64,
    bytes: usize,
    sent: Tick,
}

/// What was sent of one stream.
#[derive(Clone, Debug)]
struct Lane {
    acked: u64,
    sent: u64,
    last: u64,
    in_flight: VecDeque<InFlight>,
    credit_bytes: usize,
    window: usize,
    /// When the acknowledgement moved last, or sending began.
    moved: Tick,
    stalls: u32,
}

impl Lane {
    fn new(offer: StreamOffer) -> Self {
        Self {
            acked: offer.acked,
            sent: offer.acked,
            last: offer.last,
            in_flight: VecDeque::new(),
            credit_bytes: 0,
            window: 1,
            moved: Tick::default(),
            stalls: 0,
        }
    }

    /// Starts sending anew after `acked`.
    fn restart(&mut self, acked: u64, now: Tick) {
        self.acked = acked;
        self.sent = acked;
        self.in_flight.clear();
        self.window = 1;
        self.moved = now;
    }

    fn bytes_in_flight(&self) -> usize {
        self.in_flight.iter().map(|upload| upload.bytes).sum()
    }

    fn room(&self) -> Option<usize> {
        let waiting = self.last > self.sent;
        let open = self.in_flight.len() < self.window;
        let room = self.credit_bytes.saturating_sub(self.bytes_in_flight());
        (waiting && open && room > 0).then_some(room.min(UPLOAD_BYTES_MAX))
    }

    /// Takes an acknowledgement; when it moved, says when the newest upload that
    /// it covers was sent.
    fn acknowledge(&mut self, ack: StreamAck, now: Tick) -> Option<Tick> {
        self.credit_bytes = usize::try_from(ack.credit_bytes).unwrap_or(usize::MAX);
        if ack.acked <= self.acked || ack.acked > self.last {
            return None;
        }
        self.acked = ack.acked;
        self.sent = self.sent.max(ack.acked);
        let mut sent = self.moved;
        while let Some(upload) = self.in_flight.front()
            && upload.last <= ack.acked
        {
            sent = upload.sent;
            self.in_flight.pop_front();
        }
        self.window = (self.window + 1).min(WINDOW_UPLOADS_MAX);
        self.moved = now;
        self.stalls = 0;
        Some(sent)
    }

    /// Another stream's upload of the time `sent` was acknowledged. What was sent
    /// after it is on its way behind it, so the link is slow and nothing is lost;
    /// what was sent before it and is not acknowledged may well be lost.
    fn other_moved(&mut self, sent: Tick, now: Tick) {
        if self
            .in_flight
            .front()
            .is_some_and(|oldest| oldest.sent > sent)
        {
            self.moved = now;
        }
    }

    fn stalls_at(&self) -> Option<Tick> {
        let patience = ACK_STALL.saturating_mul(2_u32.saturating_pow(self.stalls));
        (!self.in_flight.is_empty()).then(|| self.moved.after(patience))
    }

    fn stall(&mut self, now: Tick) {
        self.stalls = (self.stalls + 1).min(STALL_DOUBLINGS_MAX);
        self.restart(self.acked, now);
    }
}

/// Orders of one session, put into the order of their numbers.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// Every number up to this one was passed on.
    seen: u64,
    /// Numbers that came before their predecessors.
    early: BTreeMap<u64, DownBody>,
}

impl Orders {
    fn take(&mut self, number: u64, body: DownBody) -> Vec<DownBody> {
        let window = u64::try_from(DOWN_WINDOW_MAX).unwrap_or(u64::MAX);
        if number <= self.seen || number > self.seen.saturating_add(window) {
            return Vec::new();
        }
        if number > self.seen + 1 && self.early.len() >= EARLY_COUNT_MAX {
            return Vec::new();
        }
        self.early.insert(number, body);
        let mut ready = Vec::new();
        while let Some(body) = self.early.remove(&(self.seen + 1)) {
            self.seen += 1;
            ready.push(body);
        }
        ready
    }
}

#[derive(Clone, Debug)]
enum Phase {
    /// No connection.
    Offline,
    /// Connected, and waiting for the time to say hello.
    Waiting { greet_at: Tick },
    /// Hello was said.
    Greeting { nonce: Nonce, retry_at: Tick },
    /// The controller welcomed the session.
    Welcomed(Box<Welcomed>),
}

#[derive(Clone, Debug)]
struct Welcomed {
    nonce: Nonce,
    /// The controller's clock when it welcomed.
    since: UnixMillis,
    orders: Orders,
    /// The highest number that the controller says it sent.
    down_last: u64,
    heartbeat_every: Duration,
    heartbeat_at: Tick,
    gap_reported: Option<Tick>,
}

/// The machine. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Session {
    held: Held,
    clock: ControllerClock,
    lanes: [Lane; 4],
    phase: Phase,
    /// When the controller last answered, in any session.
    proven: Option<Tick>,
    up: bool,
    /// The announcement that was heeded last.
    announced: Option<UnixMillis>,
    echoes: VecDeque<(UnixMillis, Tick)>,
    hellos: Backoff,
    jitter: Jitter,
    started: Tick,
    waiting: u32,
}

impl Session {
    /// A machine without a connection. The seed fixes its jitter.
    #[must_use]
    pub fn new(held: Held, seed: u64, now: Moment) -> Self {
        let clock = ControllerClock::remembered(held.proven, now.tick);
        let lanes = held.offers.map(Lane::new);
        Self {
            held,
            clock,
            lanes,
            phase: Phase::Offline,
            proven: None,
            up: false,
            announced: None,
            echoes: VecDeque::new(),
            hellos: Backoff::new(HELLO_RETRY_FIRST, HELLO_RETRY_MAX, seed),
            jitter: Jitter::new(seed.rotate_left(32)),
            started: now.tick,
            waiting: 0,
        }
    }

    /// The controller's clock as far as it is known.
    #[must_use]
    pub fn clock(&self) -> &ControllerClock {
        &self.clock
    }

    /// Whether the controller acknowledged something lately.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When the controller last answered.
    #[must_use]
    pub fn proven_at(&self) -> Option<Tick> {
        self.proven
    }

    /// The nonce of the session that the controller welcomed.
    #[must_use]
    pub fn nonce(&self) -> Option<Nonce> {
        match &self.phase {
            Phase::Welcomed(session) => Some(session.nonce),
            Phase::Offline | Phase::Waiting { .. } | Phase::Greeting { .. } => None,
        }
    }

    /// The highest incarnation that was obeyed.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.held.incarnation
    }

    /// Notes that a newer trust set is held.
    pub fn trusts(&mut self, version: u64) {
        self.held.trust_version = version;
    }

    /// Notes the generation of desired state that is durable.
    pub fn holds(&mut self, generation: u64) {
        self.held.generation = generation;
    }

    /// Notes how many entries wait in the outbox, for the heartbeats.
    pub fn waiting(&mut self, entries: usize) {
        self.waiting = u32::try_from(entries).unwrap_or(u32::MAX);
    }

    /// Notes the highest number that a stream has given out.
    pub fn offer(&mut self, stream: Stream, last: u64) {
        let lane = &mut self.lanes[stream.index()];
        lane.last = lane.last.max(last);
    }

    /// A connection to the broker was made and both topics are subscribed.
    pub fn connected(&mut self, now: Moment) -> Vec<Output> {
        self.hellos.succeed();
        self.phase = Phase::Waiting { greet_at: now.tick };
        vec![Output::Greet]
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, now: Moment) -> Vec<Output> {
        self.phase = Phase::Offline;
        for lane in &mut self.lanes {
            lane.restart(lane.acked, now.tick);
            lane.credit_bytes = 0;
        }
        self.fall()
    }

    fn fall(&mut self) -> Vec<Output> {
        if std::mem::take(&mut self.up) {
            vec![Output::Down]
        } else {
            Vec::new()
        }
    }

    /// There is no connect counter to be had: asks for one again in a while.
    pub fn greet_later(&mut self, now: Moment) {
        self.phase = Phase::Waiting {
            greet_at: now.tick.after(HELLO_RETRY_FIRST),
        };
    }

    /// Says hello. Each hello needs a nonce and a connect counter of its own, so
    /// that an answer to an earlier one is told apart, and one that was repeated
    /// is not taken for a clone.
    pub fn greet(&mut self, nonce: Nonce, connect_counter: u64, now: Moment) -> Hello {
        let retry = self.hellos.fail().max(HELLO_RETRY_FIRST / 2);
        self.phase = Phase::Greeting {
            nonce,
            retry_at: now.tick.after(retry),
        };
        self.sent_at(now);
        Hello {
            nonce,
            store: self.held.store,
            connect_counter,
            boot: self.held.boot,
            agent_version: self.held.agent_version.clone(),
            now: now.wall,
            incarnation: self.held.incarnation,
            generation: self.held.generation,
            policy_epoch: 0,
            trust_version: self.held.trust_version,
            streams: Stream::ALL
                .into_iter()
                .map(|stream| {
                    let lane = &self.lanes[stream.index()];
                    StreamOffer {
                        stream,
                        acked: lane.acked,
                        last: lane.last,
                    }
                })
                .collect(),
        }
    }

    fn sent_at(&mut self, now: Moment) {
        if self.echoes.len() == ECHOES_COUNT_MAX {
            self.echoes.pop_front();
        }
        self.echoes.push_back((now.wall, now.tick));
    }

    fn learn_time(&mut self, controller: UnixMillis, echo: UnixMillis, now: Moment) {
        // Two envelopes may bear the same millisecond; the earlier gives the wider
        // bound, which holds for both.
        let sent = self.echoes.iter().find(|(wall, _)| *wall == echo);
        match sent {
            Some((_, tick)) if echo.0 != 0 => self.clock.prove(*tick, now.tick, controller),
            Some(_) | None => self.clock.raise(controller, now.tick),
        }
    }

    fn prove_link(&mut self, now: Moment) -> Vec<Output> {
        self.proven = Some(now.tick);
        if std::mem::replace(&mut self.up, true) {
            Vec::new()
        } else {
            vec![Output::Up]
        }
    }

    /// The controller's answer to the hello.
    pub fn welcomed(&mut self, welcome: Welcome, now: Moment) -> Vec<Output> {
        match &self.phase {
            Phase::Greeting { nonce, .. } if *nonce == welcome.nonce => {}
            Phase::Greeting { .. }
            | Phase::Offline
            | Phase::Waiting { .. }
            | Phase::Welcomed(_) => return Vec::new(),
        }
        if welcome.incarnation < self.held.incarnation {
            return vec![Output::StaleController {
                found: welcome.incarnation,
                held: self.held.incarnation,
            }];
        }
        self.learn_time(welcome.now, welcome.echo, now);
        self.hellos.succeed();
        let every = Duration::from_millis(u64::from(welcome.heartbeat_ms));
        let heartbeat_every = if every.is_zero() {
            HEARTBEAT_INTERVAL
        } else {
            every.clamp(HEARTBEAT_MIN, LINK_PROVEN_MAX / 3)
        };
        let first = self.jitter.between(Duration::ZERO, heartbeat_every);
        self.phase = Phase::Welcomed(Box::new(Welcomed {
            nonce: welcome.nonce,
            since: welcome.now,
            orders: Orders::default(),
            down_last: 0,
            heartbeat_every,
            heartbeat_at: now.tick.after(first),
            gap_reported: None,
        }));
        let mut outputs = Vec::new();
        if welcome.incarnation > self.held.incarnation {
            self.held.incarnation = welcome.incarnation;
            outputs.push(Output::Incarnation(welcome.incarnation));
        }
        for stream in Stream::ALL {
            let ack = welcome.acks.iter().find(|ack| ack.stream == stream);
            outputs.extend(self.resume(stream, ack.copied(), now));
        }
        outputs.push(Output::Named {
            name: welcome.name,
            labels: welcome.labels,
        });
        if welcome.trust_version > self.held.trust_version {
            outputs.push(Output::TrustBehind);
        }
        outputs.extend(self.prove_link(now));
        outputs
    }

    /// Takes up a stream where the controller has it.
    fn resume(&mut self, stream: Stream, ack: Option<StreamAck>, now: Moment) -> Option<Output> {
        let lane = &mut self.lanes[stream.index()];
        let (before, last) = (lane.acked, lane.last);
        let (acked, credit_bytes) = ack.map_or((before, CREDIT_BYTES_INITIAL), |ack| {
            (ack.acked, ack.credit_bytes)
        });
        lane.restart(acked, now.tick);
        lane.stalls = 0;
        lane.credit_bytes = usize::try_from(credit_bytes).unwrap_or(usize::MAX);
        if acked > last {
            lane.last = acked;
            Some(Output::Overtaken {
                stream,
                beyond: acked,
            })
        } else if acked > before {
            Some(Output::Acked {
                stream,
                through: acked,
            })
        } else {
            // Less than was acknowledged once: the controller was restored from a
            // backup. What is still kept above it goes out again.
            None
        }
    }

    /// An acknowledgement.
    pub fn acknowledged(&mut self, acks: &Acks, now: Moment) -> Vec<Output> {
        let Phase::Welcomed(session) = &mut self.phase else {
            return Vec::new();
        };
        if session.nonce != acks.nonce {
            return Vec::new();
        }
        session.down_last = session.down_last.max(acks.down_last);
        self.learn_time(acks.now, acks.echo, now);
        let mut outputs = self.prove_link(now);
        let mut newest = None;
        for ack in &acks.acks {
            let lane = &mut self.lanes[ack.stream.index()];
            if let Some(sent) = lane.acknowledge(*ack, now.tick) {
                newest = newest.max(Some(sent));
                outputs.push(Output::Acked {
                    stream: ack.stream,
                    through: ack.acked,
                });
            }
        }
        if let Some(sent) = newest {
            for lane in &mut self.lanes {
                lane.other_moved(sent, now.tick);
            }
        }
        outputs.extend(self.report_gap(now));
        outputs
    }

    /// A numbered order.
    pub fn ordered(&mut self, down: Down, now: Moment) -> Vec<Output> {
        let Phase::Welcomed(session) = &mut self.phase else {
            return Vec::new();
        };
        if session.nonce != down.nonce {
            return Vec::new();
        }
        session.down_last = session.down_last.max(down.number);
        let ready = session.orders.take(down.number, down.body);
        let mut outputs: Vec<Output> = ready.into_iter().map(Output::Order).collect();
        outputs.extend(self.report_gap(now));
        outputs
    }

    /// A heartbeat out of turn when numbers are missing: the controller sends
    /// again from what it reports.
    fn report_gap(&mut self, now: Moment) -> Option<Output> {
        let Phase::Welcomed(session) = &mut self.phase else {
            return None;
        };
        let gap = session.down_last > session.orders.seen;
        let lately = session
            .gap_reported
            .is_some_and(|at| now.tick.since(at) < GAP_REPORT_PAUSE);
        if !gap || lately {
            return None;
        }
        session.gap_reported = Some(now.tick);
        self.heartbeat(now)
    }

    /// The controller has started anew.
    pub fn announced(&mut self, announce: &Announce, now: Moment) -> Vec<Output> {
        let heard = self.announced.is_some_and(|at| announce.now <= at);
        if heard || announce.incarnation < self.held.incarnation {
            return Vec::new();
        }
        self.announced = Some(announce.now);
        if let Phase::Welcomed(session) = &self.phase
            && session.since < announce.now
        {
            let delay = self.jitter.between(Duration::ZERO, ANNOUNCE_SPREAD);
            self.phase = Phase::Waiting {
                greet_at: now.tick.after(delay),
            };
        }
        Vec::new()
    }

    /// The controller does not know this session.
    pub fn disowned(&mut self, now: Moment) -> Vec<Output> {
        if matches!(self.phase, Phase::Welcomed(_)) {
            let delay = self.jitter.between(Duration::ZERO, ANNOUNCE_SPREAD);
            self.phase = Phase::Waiting {
                greet_at: now.tick.after(delay),
            };
        }
        Vec::new()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.proof_ends().is_some_and(|end| now.tick >= end) {
            outputs.extend(self.fall());
            if matches!(self.phase, Phase::Welcomed(_)) {
                self.phase = Phase::Waiting { greet_at: now.tick };
            }
        }
        match &self.phase {
            Phase::Offline => {}
            Phase::Waiting { greet_at } => {
                if now.tick >= *greet_at {
                    outputs.push(Output::Greet);
                }
            }
            Phase::Greeting { retry_at, .. } => {
                if now.tick >= *retry_at {
                    if self.hellos.failures() >= HELLOS_UNANSWERED_MAX {
                        self.phase = Phase::Offline;
                        outputs.push(Output::Reconnect);
                    } else {
                        outputs.push(Output::Greet);
                    }
                }
            }
            Phase::Welcomed(session) => {
                let due = now.tick >= session.heartbeat_at;
                for lane in &mut self.lanes {
                    if lane.stalls_at().is_some_and(|at| now.tick >= at) {
                        lane.stall(now.tick);
                    }
                }
                if due {
                    outputs.extend(self.heartbeat(now));
                }
            }
        }
        outputs
    }

    fn heartbeat(&mut self, now: Moment) -> Option<Output> {
        let uptime_ms = millis(now.tick.since(self.started));
        let Phase::Welcomed(session) = &mut self.phase else {
            return None;
        };
        session.heartbeat_at = now.tick.after(self.jitter.around(session.heartbeat_every));
        let heartbeat = Heartbeat {
            nonce: session.nonce,
            down_seen: session.orders.seen,
            now: now.wall,
            uptime_ms,
            outbox_entries: self.waiting,
        };
        self.sent_at(now);
        Some(Output::Heartbeat(heartbeat))
    }

    fn proof_ends(&self) -> Option<Tick> {
        let proven = self.proven.filter(|_| self.up)?;
        Some(proven.after(LINK_PROVEN_MAX))
    }

    /// What may be sent next: streams in their order, each within its window and
    /// its credit. The caller reads the entries, sends them, and calls
    /// [`Session::uploaded`]; or [`Session::nothing_after`] when there are none.
    #[must_use]
    pub fn next_upload(&self) -> Option<Want> {
        if !matches!(self.phase, Phase::Welcomed(_)) {
            return None;
        }
        Stream::ALL.into_iter().find_map(|stream| {
            let lane = &self.lanes[stream.index()];
            lane.room().map(|bytes_max| Want {
                stream,
                after: lane.sent,
                bytes_max,
            })
        })
    }

    /// Entries were sent: the last one's number, and the bytes of all bodies.
    pub fn uploaded(&mut self, stream: Stream, last: u64, bytes: usize, now: Moment) {
        self.sent_at(now);
        let lane = &mut self.lanes[stream.index()];
        if lane.in_flight.is_empty() {
            lane.moved = now.tick;
        }
        lane.sent = last;
        lane.last = lane.last.max(last);
        lane.in_flight.push_back(InFlight {
            last,
            bytes,
            sent: now.tick,
        });
    }

    /// The stream has no live entry after what was sent: its last numbers were
    /// superseded, moved or shed.
    pub fn nothing_after(&mut self, stream: Stream, sent: u64) {
        let lane = &mut self.lanes[stream.index()];
        if lane.sent == sent {
            lane.last = sent;
        }
    }

    /// When the machine must be ticked, and why.
    #[must_use]
    pub fn wakes_at(&self) -> Option<(Tick, &'static str)> {
        let phase = match &self.phase {
            Phase::Offline => None,
            Phase::Waiting { greet_at } => Some((*greet_at, "say hello")),
            Phase::Greeting { retry_at, .. } => Some((*retry_at, "say hello again")),
            Phase::Welcomed(session) => Some((session.heartbeat_at, "heartbeat")),
        };
        let proof = self.proof_ends().map(|at| (at, "link no longer proven"));
        let stalls = self
            .lanes
            .iter()
            .filter(|_| matches!(self.phase, Phase::Welcomed(_)))
            .filter_map(Lane::stalls_at)
            .map(|at| (at, "acknowledgements stalled"));
        phase
            .into_iter()
            .chain(proof)
            .chain(stalls)
            .min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
