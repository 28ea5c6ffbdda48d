//! The controller's side of a session with one node: a pure machine.
//!
//! Owns what the controller knows of one node's link: which store and which
//! connect it speaks for, how far each stream has arrived, which orders of this
//! session are not confirmed yet, when the node was last heard and how far off
//! its clock is. It neither reads a clock nor opens an envelope nor writes
//! anything: the caller verifies signatures, passes the time in, makes durable
//! what [`NodeLink::kept`] says, and sends what comes out only after that.
//!
//! **Invariants.** Nothing but a fresh hello opens a session, and everything else
//! is answered only within one. `kept` never goes back for one store: positions
//! and connect counters only rise. An order has one number in a session and goes
//! out under that number until the node confirms it.
//!
//! Clones and disks that were put back show as a connect counter that is not
//! above the last one, as one position of a stream with two contents, as numbers
//! that the node has not given out yet but the controller already has, and as the
//! return of an earlier store. A recorded hello that a broker plays back shows
//! none of these: its nonce is known, or it is older than the last one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::command::Command;
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::spec::Spec;
use protocol::down::{Down, DownBody};
use protocol::id::{DeploymentId, RolloutId, StoreId};
use protocol::label::Labels;
use protocol::limits::{CLOCK_OFFSET_MAX, CREDIT_BYTES_INITIAL, DOWN_WINDOW_MAX, LINK_PROVEN_MAX};
use protocol::message;
use protocol::replay::ReplayWindow;
use protocol::session::{Acks, BootId, Heartbeat, Hello, Nonce, Welcome};
use protocol::stream::{Entry, Stream, StreamAck, Upload};
use protocol::time::UnixMillis;
use protocol::trust::TrustSet;
use serde::{Deserialize, Serialize};

use crate::domain::fleet::node::Doubt;

/// Hellos that are remembered to tell a repeated one from a clone's.
const HELLOS_KEPT_MAX: usize = 8;

/// Earlier stores that are remembered to notice the return of one.
const STORES_KEPT_MAX: usize = 4;

/// Entries per stream whose digest is remembered, to notice one position with
/// two contents. A node sends again at most its window, which is a few uploads;
/// most hold one entry.
const DIGESTS_KEPT_MAX: usize = 8;

/// An order is not sent again before this: the first copy may still be under way.
const RESEND_AFTER: Duration = Duration::from_millis(1500);

/// Orders sent again for one heartbeat. The next heartbeat asks for the rest.
const RESEND_COUNT_MAX: usize = 16;

/// Smallest credit: lets a node send one entry at a time while the controller is
/// behind.
const CREDIT_BYTES_MIN: u32 = 16 * 1024;

/// How a session is to run: the same for all nodes, but for name and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The controller's incarnation.
    pub incarnation: u64,
    /// The newest trust set's version.
    pub trust_version: u64,
    /// How often nodes are to send heartbeats, in milliseconds.
    pub heartbeat_ms: u32,
    /// The node's name.
    pub name: String,
    /// The node's labels.
    pub labels: Labels,
}

/// How busy the controller is, by which it paces nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Full credit for every stream.
    #[default]
    Normal,
    /// Little credit for frames, so that receipts and states come through.
    High,
}

/// What must survive a restart of the controller, for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The node's store; none before its first hello.
    pub store: Option<StoreId>,
    /// The highest connect counter of that store.
    pub connect_counter: u64,
    /// When the last hello was sealed, on the node's clock.
    pub hello_sent_at: UnixMillis,
    /// The last hellos of that store: connect counter and nonce.
    pub hellos: VecDeque<(u64, Nonce)>,
    /// Stores that it had before, with the time of their last hello.
    pub earlier_stores: VecDeque<StoreId>,
    /// How far each stream has arrived, by [`Stream::index`].
    pub contiguous: [u64; 4],
    /// Entries that were acknowledged to the node and are not here: this
    /// controller was restored from an older backup. By [`Stream::index`].
    pub lost: [u64; 4],
    /// The agent's version at its last hello.
    pub agent_version: String,
}

/// What a hello led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The session is open.
    Welcomed {
        /// The answer.
        welcome: Box<Welcome>,
        /// What casts doubt on the node's identity.
        doubt: Option<Suspect>,
        /// Entries that were newly found to be lost, over all streams.
        lost: u64,
    },
    /// It was heard before: nothing changes.
    Replayed,
    /// The connect counter was used before by another hello: no session.
    Refused(Suspect),
    /// The node has obeyed a higher incarnation: this controller was restored,
    /// and must raise its own above before the node can be welcomed.
    Behind {
        /// The incarnation that the node has obeyed.
        incarnation: u64,
    },
}

/// A sign of a cloned identity or a disk that was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// What kind of sign.
    pub doubt: Doubt,
    /// What was seen, for a person.
    pub detail: String,
}

/// What is to be done with an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intake {
    /// Index of the first entry that is new; those before it are duplicates.
    pub fresh_from: usize,
    /// One position with two contents.
    pub doubt: Option<Suspect>,
}

/// Where a stream stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    connect_counter: u64,
    contiguous: u64,
}

/// Why an upload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// An upload before it went missing: the node must go back to what is
    /// acknowledged.
    Gap,
    /// It is of another store than the session.
    OtherStore,
    /// Its numbers do not rise, or do not lie above `after`.
    Disordered,
}

/// An order that a session is to carry.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Carry out a command; shared among the nodes that it goes to.
    Command(Arc<Command>),
    /// Run a revision; what it is is shared among the nodes that it goes to.
    Run(Box<RunOrder>),
    /// Anything else.
    Other(DownBody),
}

impl Order {
    fn body(&self) -> DownBody {
        match self {
            Self::Command(command) => DownBody::Command(command.as_ref().clone()),
            Self::Run(run) => DownBody::Desired(Box::new(run.desired())),
            Self::Other(body) => body.clone(),
        }
    }

    /// The version of the trust set that it carries; none when it carries none.
    fn trust_version(&self) -> Option<u64> {
        if let Self::Other(DownBody::Trust(signed)) = self {
            message::decode_exactly::<TrustSet>(&signed.bytes)
                .ok()
                .map(|set| set.version)
        } else {
            None
        }
    }
}

/// An order to run a revision, without a copy of the revision for each node.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOrder {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// The node's generation.
    pub generation: u64,
    /// When it was decided.
    pub at: UnixMillis,
    /// The revision.
    pub revision: u32,
    /// What it is.
    pub spec: Arc<Spec>,
    /// The rollout that brings it.
    pub rollout: Option<RolloutId>,
    /// Why.
    pub cause: Cause,
    /// When the change has succeeded or failed.
    pub health: HealthRule,
    /// What the node does when it fails.
    pub on_failure: OnFailure,
    /// Whether the revision before may be given up.
    pub commit: Commit,
}

impl RunOrder {
    fn desired(&self) -> Desired {
        Desired {
            deployment: self.deployment,
            number: self.number,
            name: self.name.clone(),
            generation: self.generation,
            at: self.at,
            want: Want::Run(Box::new(Target {
                revision: self.revision,
                spec: self.spec.as_ref().clone(),
                rollout: self.rollout,
                cause: self.cause,
                health: self.health,
                on_failure: self.on_failure,
                commit: self.commit,
            })),
        }
    }
}

/// The session's window of orders is full; the order must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFull;

/// A session that was welcomed.
#[derive(Clone, Debug)]
struct Live {
    nonce: Nonce,
    boot: BootId,
    since: UnixMillis,
    heard_at: UnixMillis,
    clock_offset_ms: i64,
    uptime_ms: u64,
    outbox_entries: u32,
    incarnation: u64,
    trust_version: u64,
    down_last: u64,
    down_seen: u64,
    unconfirmed: VecDeque<Sent>,
}

#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    order: Order,
    at: UnixMillis,
}

/// A node's link as it is seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// When the session began, in controller time.
    pub since: UnixMillis,
    /// When the node was last heard, in controller time: 'proven at'.
    pub proven_at: UnixMillis,
    /// The host's boot.
    pub boot: BootId,
    /// Milliseconds by which the node's clock is ahead of the controller's; the
    /// time under way counts as being behind.
    pub clock_offset_ms: i64,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
    /// Entries that wait on the node.
    pub outbox_entries: u32,
    /// The trust set's version that the node holds.
    pub trust_version: u64,
    /// Orders that the node has not confirmed.
    pub unconfirmed: usize,
}

impl LinkView {
    /// Whether the node's clock is so far off that it is flagged.
    #[must_use]
    pub fn is_clock_off(&self) -> bool {
        Duration::from_millis(self.clock_offset_ms.unsigned_abs()) > CLOCK_OFFSET_MAX
    }
}

/// The machine of one node. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct NodeLink {
    kept: Kept,
    window: ReplayWindow,
    live: Option<Box<Live>>,
    digests: [VecDeque<(u64, u64)>; 4],
}

impl NodeLink {
    /// A link without a session, from what was kept of it.
    #[must_use]
    pub fn new(kept: Kept) -> Self {
        // Sessions of before are over: only a hello with a higher connect counter
        // gets past this.
        let window = ReplayWindow::after(envelope_counter(kept.connect_counter, u32::MAX));
        Self {
            kept,
            window,
            live: None,
            digests: Default::default(),
        }
    }

    /// What must be durable before anything that came out is sent.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Goes back to what is durable, because it could not be made so. Entries
    /// are simply sent again; the session goes on.
    pub fn revert(&mut self, kept: Kept) {
        self.kept = kept;
        self.digests = Default::default();
    }

    /// The session's nonce; none without a session.
    #[must_use]
    pub fn nonce(&self) -> Option<Nonce> {
        self.live.as_ref().map(|live| live.nonce)
    }

    /// Ends the session. The node must say hello again.
    pub fn close(&mut self) {
        self.live = None;
    }

    /// Whether the node was heard in its session within the time that proves a
    /// link.
    #[must_use]
    pub fn is_up(&self, now: UnixMillis) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| now.since(live.heard_at) <= LINK_PROVEN_MAX)
    }

    /// The session as it is seen from outside; none without one.
    #[must_use]
    pub fn view(&self) -> Option<LinkView> {
        self.live.as_ref().map(|live| LinkView {
            since: live.since,
            proven_at: live.heard_at,
            boot: live.boot,
            clock_offset_ms: live.clock_offset_ms,
            uptime_ms: live.uptime_ms,
            outbox_entries: live.outbox_entries,
            trust_version: live.trust_version,
            unconfirmed: live.unconfirmed.len(),
        })
    }

    /// A hello whose signature holds. `counter` and `sent_at` are its envelope's.
    pub fn hello(
        &mut self,
        hello: &Hello,
        counter: u64,
        sent_at: UnixMillis,
        terms: &Terms,
        now: UnixMillis,
    ) -> Greeting {
        let same_store = self.kept.store == Some(hello.store);
        if same_store && hello.connect_counter <= self.kept.connect_counter {
            return self.repeated(hello, sent_at);
        }
        let returned = self.kept.earlier_stores.contains(&hello.store);
        if returned && sent_at <= self.kept.hello_sent_at {
            return Greeting::Replayed;
        }
        if hello.incarnation > terms.incarnation {
            return Greeting::Behind {
                incarnation: hello.incarnation,
            };
        }
        let mut doubt = returned.then(|| Suspect {
            doubt: Doubt::StoreChanged,
            detail: format!(
                "store {} is back; {:?} came after it",
                hello.store, self.kept.store
            ),
        });
        if !same_store {
            self.change_store(hello.store);
        }
        self.kept.connect_counter = hello.connect_counter;
        self.kept.hello_sent_at = sent_at;
        self.kept.agent_version.clone_from(&hello.agent_version);
        self.kept
            .hellos
            .push_back((hello.connect_counter, hello.nonce));
        while self.kept.hellos.len() > HELLOS_KEPT_MAX {
            self.kept.hellos.pop_front();
        }
        self.window = ReplayWindow::after(envelope_counter(hello.connect_counter, 0));
        // The hello itself; a node whose counters are laid out otherwise is
        // refused from its next envelope on, which says so.
        let _first = self.window.admit(counter);

        let lost = self.resume(hello, &mut doubt);
        self.live = Some(Box::new(Live {
            nonce: hello.nonce,
            boot: hello.boot,
            since: now,
            heard_at: now,
            clock_offset_ms: hello.now.offset_from(now),
            uptime_ms: 0,
            outbox_entries: 0,
            incarnation: terms.incarnation,
            trust_version: hello.trust_version,
            down_last: 0,
            down_seen: 0,
            unconfirmed: VecDeque::new(),
        }));
        let welcome = Box::new(Welcome {
            nonce: hello.nonce,
            now,
            echo: sent_at,
            incarnation: terms.incarnation,
            heartbeat_ms: terms.heartbeat_ms,
            name: terms.name.clone(),
            labels: terms.labels.clone(),
            trust_version: terms.trust_version,
            acks: Stream::ALL
                .map(|stream| self.ack(stream, Load::Normal))
                .to_vec(),
        });
        Greeting::Welcomed {
            welcome,
            doubt,
            lost,
        }
    }

    /// A hello with a connect counter that is not above the last one.
    fn repeated(&self, hello: &Hello, sent_at: UnixMillis) -> Greeting {
        let known = self
            .kept
            .hellos
            .iter()
            .find(|(counter, _)| *counter == hello.connect_counter);
        let replay = match known {
            Some((_, nonce)) => *nonce == hello.nonce,
            None => sent_at <= self.kept.hello_sent_at,
        };
        if replay {
            return Greeting::Replayed;
        }
        Greeting::Refused(Suspect {
            doubt: Doubt::CounterReused,
            detail: format!(
                "connect {} of store {} came again after {}",
                hello.connect_counter, hello.store, self.kept.connect_counter
            ),
        })
    }

    fn change_store(&mut self, store: StoreId) {
        if let Some(earlier) = self.kept.store.replace(store) {
            self.kept.earlier_stores.push_back(earlier);
            while self.kept.earlier_stores.len() > STORES_KEPT_MAX {
                self.kept.earlier_stores.pop_front();
            }
        }
        self.kept.earlier_stores.retain(|earlier| *earlier != store);
        self.kept.hellos.clear();
        self.kept.contiguous = [0; 4];
        self.digests = Default::default();
    }

    /// Compares the node's positions with ours. Returns how many entries are
    /// lost because the node gave them up on an acknowledgement that is not here.
    fn resume(&mut self, hello: &Hello, doubt: &mut Option<Suspect>) -> u64 {
        let mut newly_lost = 0;
        for offer in &hello.streams {
            let index = offer.stream.index();
            let ours = self.kept.contiguous[index];
            if offer.acked > ours {
                let lost = offer.acked - ours;
                self.kept.contiguous[index] = offer.acked;
                self.kept.lost[index] = self.kept.lost[index].saturating_add(lost);
                newly_lost += lost;
            } else if offer.last < ours && doubt.is_none() {
                *doubt = Some(Suspect {
                    doubt: Doubt::ContentDiffers,
                    detail: format!(
                        "stream {} of store {} has given out {}, but {} arrived: its disk was put back",
                        offer.stream.name(),
                        hello.store,
                        offer.last,
                        ours
                    ),
                });
            }
        }
        newly_lost
    }

    /// Whether an envelope of the running session is fresh; notes it as seen.
    #[must_use]
    pub fn admit(&mut self, counter: u64) -> bool {
        self.window.admit(counter)
    }

    /// Notes that the node was heard.
    pub fn hear(&mut self, now: UnixMillis) {
        if let Some(live) = &mut self.live {
            live.heard_at = live.heard_at.max(now);
        }
    }

    /// A heartbeat of the running session. Returns the orders to send again;
    /// none when it is another session's.
    pub fn heartbeat(&mut self, heartbeat: &Heartbeat, now: UnixMillis) -> Option<Vec<Down>> {
        let live = self.live.as_mut()?;
        if live.nonce != heartbeat.nonce {
            return None;
        }
        live.heard_at = live.heard_at.max(now);
        live.clock_offset_ms = heartbeat.now.offset_from(now);
        live.uptime_ms = heartbeat.uptime_ms;
        live.outbox_entries = heartbeat.outbox_entries;
        // A node cannot have seen what was not sent.
        live.down_seen = live.down_seen.max(heartbeat.down_seen.min(live.down_last));
        while live
            .unconfirmed
            .front()
            .is_some_and(|sent| sent.number <= live.down_seen)
        {
            if let Some(sent) = live.unconfirmed.pop_front()
                && let Some(version) = sent.order.trust_version()
            {
                live.trust_version = live.trust_version.max(version);
            }
        }
        let nonce = live.nonce;
        Some(
            live.unconfirmed
                .iter_mut()
                .filter(|sent| now.since(sent.at) >= RESEND_AFTER)
                .take(RESEND_COUNT_MAX)
                .map(|sent| {
                    sent.at = now;
                    Down {
                        nonce,
                        number: sent.number,
                        body: sent.order.body(),
                    }
                })
                .collect(),
        )
    }

    /// An upload in the running session: whether it is taken, and from which
    /// entry on it is new. Positions move only by [`NodeLink::advance`].
    ///
    /// # Errors
    /// [`Untaken`] says why it is dropped; the answer is what is acknowledged.
    pub fn upload(&mut self, upload: &Upload) -> Result<Intake, Untaken> {
        if self.kept.store != Some(upload.store) {
            return Err(Untaken::OtherStore);
        }
        let rising = upload
            .entries
            .iter()
            .try_fold(upload.after, |before, entry| {
                (entry.seq > before).then_some(entry.seq)
            });
        if rising.is_none() {
            return Err(Untaken::Disordered);
        }
        let index = upload.stream.index();
        let contiguous = self.kept.contiguous[index];
        if upload.after > contiguous {
            return Err(Untaken::Gap);
        }
        let fresh_from = upload
            .entries
            .partition_point(|entry| entry.seq <= contiguous);
        let doubt = upload.entries[..fresh_from]
            .iter()
            .find(|entry| {
                self.digests[index]
                    .iter()
                    .any(|(seq, digest)| *seq == entry.seq && *digest != content_digest(entry))
            })
            .map(|entry| Suspect {
                doubt: Doubt::ContentDiffers,
                detail: format!(
                    "entry {} of stream {} of store {} came with two contents",
                    entry.seq,
                    upload.stream.name(),
                    upload.store
                ),
            });
        Ok(Intake { fresh_from, doubt })
    }

    /// An entry of a stream was taken: everything up to it has arrived.
    pub fn advance(&mut self, stream: Stream, entry: &Entry) {
        let index = stream.index();
        let contiguous = &mut self.kept.contiguous[index];
        *contiguous = (*contiguous).max(entry.seq);
        let digests = &mut self.digests[index];
        if digests.len() == DIGESTS_KEPT_MAX {
            digests.pop_front();
        }
        digests.push_back((entry.seq, content_digest(entry)));
    }

    /// Where a stream stands, and in which connect.
    #[must_use]
    pub fn position(&self, stream: Stream) -> Position {
        Position {
            connect_counter: self.kept.connect_counter,
            contiguous: self.kept.contiguous[stream.index()],
        }
    }

    /// Goes back to an earlier position of one stream, because what came after it
    /// could not be kept. A position of an earlier connect changes nothing: the
    /// node has offered its own since.
    pub fn retreat(&mut self, stream: Stream, to: Position) {
        let index = stream.index();
        if self.kept.connect_counter == to.connect_counter {
            self.kept.contiguous[index] = to.contiguous;
            self.digests[index].clear();
        }
    }

    /// The acknowledgement that answers an envelope sealed at `echo`; none
    /// without a session.
    #[must_use]
    pub fn acks(
        &self,
        echo: UnixMillis,
        streams: &[Stream],
        load: Load,
        now: UnixMillis,
    ) -> Option<Acks> {
        self.live.as_ref().map(|live| Acks {
            nonce: live.nonce,
            now,
            echo,
            down_last: live.down_last,
            acks: streams
                .iter()
                .map(|stream| self.ack(*stream, load))
                .collect(),
        })
    }

    fn ack(&self, stream: Stream, load: Load) -> StreamAck {
        let credit_bytes = match (stream, load) {
            (Stream::Telemetry | Stream::Backfill, Load::High) => CREDIT_BYTES_MIN,
            (Stream::Backfill, Load::Normal) => CREDIT_BYTES_INITIAL / 2,
            (Stream::Control | Stream::State | Stream::Telemetry, _) => CREDIT_BYTES_INITIAL,
        };
        StreamAck {
            stream,
            acked: self.kept.contiguous[stream.index()],
            credit_bytes,
        }
    }

    /// Whether the session takes another order.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.unconfirmed.len() < DOWN_WINDOW_MAX)
    }

    /// Gives an order its number in the session and returns it for sending.
    ///
    /// # Errors
    /// [`WindowFull`] when there is no session or its window is full.
    pub fn order(&mut self, order: Order, now: UnixMillis) -> Result<Down, WindowFull> {
        let live = self.live.as_mut().ok_or(WindowFull)?;
        if live.unconfirmed.len() >= DOWN_WINDOW_MAX {
            return Err(WindowFull);
        }
        live.down_last += 1;
        let down = Down {
            nonce: live.nonce,
            number: live.down_last,
            body: order.body(),
        };
        live.unconfirmed.push_back(Sent {
            number: live.down_last,
            order,
            at: now,
        });
        Ok(down)
    }

    /// Whether the node is to be given a trust set of that version: it has a
    /// session, holds an older one, and none is on its way.
    #[must_use]
    pub fn lacks_trust(&self, version: u64) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.trust_version < version
                && !live
                    .unconfirmed
                    .iter()
                    .any(|sent| sent.order.trust_version() >= Some(version))
        })
    }

    /// Whether the session was welcomed under that incarnation.
    #[must_use]
    pub fn is_of_incarnation(&self, incarnation: u64) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.incarnation == incarnation)
    }
}

/// A node's envelope counter: the connect counter of its session, and the number
/// of the envelope in it, from 1 (the hello).
#[must_use]
pub fn envelope_counter(connect_counter: u64, number: u32) -> u64 {
    (connect_counter << 32) | u64::from(number)
}

/// FNV-1a over an entry's kind, version and body: tells differing contents of
/// one position apart, and proves nothing.
fn content_digest(entry: &Entry) -> u64 {
    let kind = entry.kind.0.to_le_bytes();
    let version = entry.version.to_le_bytes();
    kind.iter()
        .chain(&version)
        .chain(&entry.body)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests;
