//! The thread that runs a node's core, and the handle by which the async loop
//! reaches it.
//!
//! A commit may take seconds on an SD card; on a thread of its own it delays
//! neither sampling nor a running command. Inputs that arrive during a commit are
//! taken together afterwards, so that they share the next one.
//!
//! **Invariant:** the core never waits for the async side. Envelopes that do not
//! fit into their queue are dropped, for every one that matters is sent again;
//! orders are kept until they are taken, and the ledger bounds how many there are;
//! everything else is a latest value.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Command, ProgressStep, Receipt};
use protocol::condition::Crossing;
use protocol::fetch::{FetchArchive, FetchFile, FetchRelease};
use protocol::id::CommandId;
use protocol::join::Renew;
use protocol::state::StateItem;
use protocol::topic::Topic;
use protocol::trust::{SignedTrust, TrustSet};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{Action, Identity, Input, LinkState, LiveOrder, Node, NodeStatus, Setup};
use crate::clock::Clock;
use crate::domain::conditions::Holding;
use crate::domain::deployment::record::Transition;
use crate::domain::gate::{BreakGlass, Named};
use crate::domain::time::Tick;
use crate::store::disk::DiskError;
use crate::store::{Deployments, FrameEntry, Recovered, StoreStats};

/// Inputs that wait for the core: a second of everything that an agent does at its
/// busiest. When full, the sender waits; live samples and progress are dropped.
const INPUTS_MAX: usize = 256;

/// Envelopes that wait for the MQTT client: a full window of every stream. When
/// full, envelopes are dropped and sent again later.
const WIRE_MAX: usize = 64;

/// Orders that wait for the executor. When full, they are kept in the core.
const ORDERS_MAX: usize = 32;

/// Inputs taken before the next commit.
const BATCH_MAX: usize = 64;

/// The longest sleep of the core, so that it shows progress.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// An envelope on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: Topic,
    /// The envelope.
    pub bytes: Vec<u8>,
}

/// What the executor is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Carry out a command; it is in the ledger.
    Start(Box<Command>),
    /// Stop one.
    Cancel(CommandId),
}

/// A trust set that is believed, and the bytes that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// As the root signed it.
    pub signed: SignedTrust,
    /// What it says.
    pub set: TrustSet,
}

/// The async side's ends.
pub struct Ends {
    /// Envelopes to publish.
    pub wire: mpsc::Receiver<Outgoing>,
    /// Orders for the executor.
    pub orders: mpsc::Receiver<Order>,
    /// What is kept of each deployment; durable.
    pub deployments: watch::Receiver<Arc<Deployments>>,
    /// Live samples that are wanted.
    pub live: watch::Receiver<Option<LiveOrder>>,
    /// The node's name and labels.
    pub named: watch::Receiver<Named>,
    /// The newest trust set that came over the wire.
    pub trusted: watch::Receiver<Option<Arc<Trusted>>>,
    /// How the node is.
    pub status: watch::Receiver<Arc<NodeStatus>>,
    /// Nudges that need no value.
    pub nudges: Arc<Nudges>,
    /// Samples that a crash left of the frame that was being built.
    pub samples: Vec<Vec<u8>>,
    /// Which conditions held before.
    pub holding: Holding,
}

/// Things to do at once, without a value.
#[derive(Debug, Default)]
pub struct Nudges {
    /// Make a new connection.
    pub reconnect: Notify,
    /// Fetch the trust set by HTTPS.
    pub fetch_trust: Notify,
    /// Renew the certificate.
    pub renew: Notify,
}

/// The core's thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[source] DiskError),
    /// The system gives no thread.
    #[error("cannot start the core's thread")]
    Thread(#[source] io::Error),
    /// The thread ended at once.
    #[error("the core's thread ended while it started")]
    Gone,
}

impl StartError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) => error.code(),
            Self::Thread(_) | Self::Gone => ErrorCode::Internal,
        }
    }
}

/// The core is gone: the agent is stopping, or its thread died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's core has stopped")]
pub struct CoreGone;

/// A request that goes by HTTPS, beside the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The content of a config or secret, by its digest.
    File(String),
    /// An image archive.
    Archive {
        /// Its SHA-256.
        digest: String,
        /// From this byte on.
        offset: u64,
    },
    /// An archive of a release of the agent.
    Release {
        /// Its SHA-256.
        sha256: String,
        /// From this byte on.
        offset: u64,
    },
}

enum Request {
    Input(Input),
    Status(oneshot::Sender<NodeStatus>),
    Seal(Box<Renew>, oneshot::Sender<Option<Vec<u8>>>),
    SealBeside(Beside, oneshot::Sender<Option<Vec<u8>>>),
    Keep(Box<Transition>, oneshot::Sender<()>),
    Crossings(Vec<Crossing>, Holding, oneshot::Sender<bool>),
    Close(oneshot::Sender<Result<(), DiskError>>),
}

/// Reaches the core. Clones reach the same one.
#[derive(Clone)]
pub struct StoreHandle {
    requests: mpsc::Sender<Request>,
}

impl StoreHandle {
    async fn send(&self, input: Input) -> Result<(), CoreGone> {
        self.requests
            .send(Request::Input(input))
            .await
            .map_err(|_| CoreGone)
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T, CoreGone> {
        self.requests.send(request).await.map_err(|_| CoreGone)?;
        answer.await.map_err(|_| CoreGone)
    }

    /// Keeps a sample of the frame that is being built.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn keep_sample(&self, sample: Vec<u8>) -> Result<(), CoreGone> {
        self.send(Input::Sample(sample)).await
    }

    /// Takes a finished frame; the samples kept before are in it.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn append_frame(&self, frame: FrameEntry) -> Result<(), CoreGone> {
        self.send(Input::Frame(frame)).await
    }

    /// Takes an observed state; it replaces the one of its key.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn put_state(&self, state: StateItem) -> Result<(), CoreGone> {
        self.send(Input::State(Box::new(state))).await
    }

    /// Shows live samples to whoever watches; dropped when nobody can take them.
    pub fn show_live(&self, frame: Vec<u8>) {
        self.offer(Input::Live(frame));
    }

    /// Shows a command's progress; dropped when nobody can take it.
    pub fn show_progress(
        &self,
        command: CommandId,
        at: protocol::time::UnixMillis,
        step: ProgressStep,
    ) {
        self.offer(Input::Progress { command, at, step });
    }

    fn offer(&self, input: Input) {
        // A full queue means that these are stale before they would be sent.
        drop(self.requests.try_send(Request::Input(input)));
    }

    /// Closes a command with its receipt.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn finish(&self, receipt: Receipt) -> Result<(), CoreGone> {
        self.send(Input::Finished(Box::new(receipt))).await
    }

    /// Seals a request for a content; none while no counter can be reserved.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn seal(&self, beside: Beside) -> Result<Option<Vec<u8>>, CoreGone> {
        let (answer, sealed) = oneshot::channel();
        self.ask(Request::SealBeside(beside, answer), sealed).await
    }

    /// Keeps what was decided of a deployment, and waits until it is durable; as
    /// long as the disk fails, that is. The watched records have it then, or what
    /// a newer order made of it.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn keep_deployment(&self, transition: Transition) -> Result<(), CoreGone> {
        let (answer, kept) = oneshot::channel();
        self.ask(Request::Keep(Box::new(transition), answer), kept)
            .await
    }

    /// Takes crossings, with what holds after them. False when there is no room for
    /// them now.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn tell_crossings(
        &self,
        crossings: Vec<Crossing>,
        holding: Holding,
    ) -> Result<bool, CoreGone> {
        let (answer, taken) = oneshot::channel();
        self.ask(Request::Crossings(crossings, holding, answer), taken)
            .await
    }

    /// Takes what the break-glass file says.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn break_glass(&self, file: Option<BreakGlass>) -> Result<(), CoreGone> {
        self.send(Input::BreakGlass(file)).await
    }

    /// The connection to the broker was made, or is gone, or brought a message.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn link(&self, input: Input) -> Result<(), CoreGone> {
        self.send(input).await
    }

    /// Takes a trust set that came by HTTPS.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn adopt(&self, signed: SignedTrust) -> Result<(), CoreGone> {
        self.send(Input::Trust(Box::new(signed))).await
    }

    /// How the node is.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn status(&self) -> Result<NodeStatus, CoreGone> {
        let (answer, status) = oneshot::channel();
        self.ask(Request::Status(answer), status).await
    }

    /// Numbers about the store.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn stats(&self) -> Result<StoreStats, CoreGone> {
        Ok(self.status().await?.store)
    }

    /// Seals a request for renewal; none while no counter can be reserved.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn seal_renewal(&self, renew: Renew) -> Result<Option<Vec<u8>>, CoreGone> {
        let (answer, sealed) = oneshot::channel();
        self.ask(Request::Seal(Box::new(renew), answer), sealed)
            .await
    }

    /// Writes everything down and ends the thread.
    ///
    /// # Errors
    /// When the core has stopped already; inside, when the store could not be
    /// written.
    pub async fn close(&self) -> Result<Result<(), DiskError>, CoreGone> {
        let (answer, closed) = oneshot::channel();
        self.ask(Request::Close(answer), closed).await
    }
}

/// The core's own ends.
struct Outs {
    wire: mpsc::Sender<Outgoing>,
    orders: mpsc::Sender<Order>,
    owed: VecDeque<Order>,
    deployments: watch::Sender<Arc<Deployments>>,
    live: watch::Sender<Option<LiveOrder>>,
    named: watch::Sender<Named>,
    trusted: watch::Sender<Option<Arc<Trusted>>>,
    status: watch::Sender<Arc<NodeStatus>>,
    nudges: Arc<Nudges>,
}

impl Outs {
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Publish { topic, bytes } => {
                    if self.wire.try_send(Outgoing { topic, bytes }).is_err() {
                        tracing::debug!("an envelope was dropped, the wire is busy");
                    }
                }
                Action::Start(command) => self.owed.push_back(Order::Start(command)),
                Action::Cancel(command) => self.owed.push_back(Order::Cancel(command)),
                Action::Deployments(records) => {
                    self.deployments.send_replace(records);
                }
                Action::Live(order) => {
                    self.live.send_replace(order);
                }
                Action::Named(named) => {
                    self.named.send_replace(named);
                }
                Action::Trust(signed, set) => {
                    tracing::info!(version = set.version, "a newer trust set is believed");
                    self.trusted.send_replace(Some(Arc::new(Trusted {
                        signed: *signed,
                        set: *set,
                    })));
                }
                Action::FetchTrust => self.nudges.fetch_trust.notify_one(),
                Action::Renew => self.nudges.renew.notify_one(),
                Action::Reconnect => self.nudges.reconnect.notify_one(),
                Action::Link(LinkState::Up) => tracing::info!("the link to the controller is up"),
                Action::Link(LinkState::Down) => {
                    tracing::warn!("the link to the controller is down");
                }
                Action::Problem { code, detail } => {
                    tracing::warn!(code = code.text(), detail, "something is wrong");
                }
            }
        }
    }
}

/// Opens a node's core on a thread of its own.
///
/// # Errors
/// [`StartError`] when the store cannot be opened or the thread not started.
pub fn start(
    identity: Identity,
    setup: impl FnOnce() -> Setup + Send + 'static,
    clock: Clock,
) -> Result<(StoreHandle, Ends), StartError> {
    let (requests, inbox) = mpsc::channel(INPUTS_MAX);
    let (wire, wire_end) = mpsc::channel(WIRE_MAX);
    let (orders, orders_end) = mpsc::channel(ORDERS_MAX);
    let (deployments, deployments_end) = watch::channel(Arc::default());
    let (live, live_end) = watch::channel(None);
    let (named, named_end) = watch::channel(Named::default());
    let (trusted, trusted_end) = watch::channel(None);
    let (status, status_end) = watch::channel(Arc::new(NodeStatus::default()));
    let nudges = Arc::new(Nudges::default());
    let outs = Outs {
        wire,
        orders,
        owed: VecDeque::new(),
        deployments,
        live,
        named,
        trusted,
        status,
        nudges: Arc::clone(&nudges),
    };
    let (opened, opening) = std_mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || {
            let node = match Node::open(identity, setup(), clock.moment()) {
                Ok((node, recovered)) => {
                    if !recovered.interrupted.is_empty() {
                        let count = recovered.interrupted.len();
                        tracing::warn!(count, "commands were interrupted by the last stop");
                    }
                    // Whoever asks the gate, or looks at the name, must find what was
                    // kept of them.
                    outs.status
                        .send_replace(Arc::new(node.status(clock.moment())));
                    outs.named.send_replace(recovered.named.clone());
                    if opened.send(Ok(recovered)).is_err() {
                        return;
                    }
                    node
                }
                Err(error) => {
                    drop(opened.send(Err(StartError::Store(error))));
                    return;
                }
            };
            match tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
            {
                Ok(runtime) => runtime.block_on(run(node, inbox, outs, clock)),
                Err(error) => tracing::error!(%error, "the core's runtime cannot be built"),
            }
        })
        .map_err(StartError::Thread)?;
    let Recovered {
        samples, holding, ..
    } = opening.recv().map_err(|_| StartError::Gone)??;
    let ends = Ends {
        wire: wire_end,
        orders: orders_end,
        deployments: deployments_end,
        live: live_end,
        named: named_end,
        trusted: trusted_end,
        status: status_end,
        nudges,
        samples,
        holding,
    };
    Ok((StoreHandle { requests }, ends))
}

async fn run(mut node: Node, mut inbox: mpsc::Receiver<Request>, mut outs: Outs, clock: Clock) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut unkept: Vec<oneshot::Sender<()>> = Vec::new();
    outs.deployments
        .send_replace(Arc::clone(node.deployments()));
    loop {
        let sleep = sleep_for(node.wakes_at(), clock.tick());
        tokio::select! {
            taken = inbox.recv_many(&mut batch, BATCH_MAX) => {
                if taken == 0 {
                    // Everyone who could ask is gone, which only a panic or the end
                    // of the process brings about.
                    return;
                }
            }
            permit = outs.orders.reserve(), if !outs.owed.is_empty() => {
                if let (Ok(permit), Some(order)) = (permit, outs.owed.pop_front()) {
                    permit.send(order);
                }
                continue;
            }
            () = tokio::time::sleep(sleep) => {}
        }
        let now = clock.moment();
        let mut closing = None;
        for request in batch.drain(..) {
            match request {
                Request::Input(input) => node.input(input, now),
                Request::Status(answer) => drop(answer.send(node.status(now))),
                Request::Seal(renew, answer) => {
                    drop(answer.send(node.seal_renewal(&renew, now)));
                }
                Request::SealBeside(beside, answer) => {
                    let sent_at = node.controller_now(now);
                    let sealed = match beside {
                        Beside::File(digest) => {
                            let asked = FetchFile {
                                digest,
                                now: sent_at,
                            };
                            node.seal_beside(&asked, now)
                        }
                        Beside::Archive { digest, offset } => {
                            let asked = FetchArchive {
                                digest,
                                offset,
                                now: sent_at,
                            };
                            node.seal_beside(&asked, now)
                        }
                        Beside::Release { sha256, offset } => {
                            let asked = FetchRelease {
                                sha256,
                                offset,
                                now: sent_at,
                            };
                            node.seal_beside(&asked, now)
                        }
                    };
                    drop(answer.send(sealed));
                }
                Request::Keep(transition, answer) => {
                    node.input(Input::Deployment(transition), now);
                    unkept.push(answer);
                }
                Request::Crossings(crossings, holding, answer) => {
                    // Who asked may have gone.
                    let _sent = answer.send(node.take_crossings(&crossings, &holding));
                }
                Request::Close(answer) => closing = Some(answer),
            }
        }
        node.input(Input::Tick, now);
        outs.carry_out(node.settle(now));
        if node.is_written() {
            for answer in unkept.drain(..) {
                // Who asked may have gone.
                let _sent = answer.send(());
            }
        }
        let status = node.status(now);
        clock.learn(status.offset, status.controller_now);
        outs.status.send_replace(Arc::new(status));
        if let Some(answer) = closing {
            drop(answer.send(node.close(now)));
            return;
        }
    }
}

fn sleep_for(wakes: Option<(Tick, &'static str)>, now: Tick) -> Duration {
    let Some((at, why)) = wakes else {
        return SLEEP_MAX;
    };
    let sleep = at.since(now);
    tracing::trace!(?sleep, why, "the core sleeps");
    sleep.min(SLEEP_MAX)
}
