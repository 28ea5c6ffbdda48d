//! Drives the desk: publishes of nodes, records of the journal, the clock.
//!
//! The desk blocks on the disk, so every step runs on a blocking thread; it moves
//! there and back, and nothing else can touch it. What comes out is published
//! before the next step, so the broker's pace is the desk's. What the desk
//! concludes about nodes goes to the engine by a queue of its own: a full queue
//! sheds, because the desk concludes it again.

use std::sync::Arc;
use std::time::Duration;

use protocol::command::ProgressStep;
use protocol::down::DownBody;
use protocol::id::NodeId;
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::broker::{Deliveries, Delivery, Outgoing, Pipe, PipeState};
use crate::domain::access::caller::Caller;
use crate::domain::breaker::manage::{EndOverride, RaisePolicy, RecordBreaker, check_move};
use crate::domain::command::issue::ConcludeCommand;
use crate::domain::deployment::apply::ForgetDeployment;
use crate::domain::deployment::steer::RecordRollout;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::cordon::EndDrain;
use crate::domain::fleet::manage::SuspectIdentity;
use crate::domain::fleet::trust::RaiseIncarnation;
use crate::domain::operation::Operation;
use crate::domain::session::Load;
use crate::effect;
use crate::engine::Engine;
use crate::journal::JournalReader;
use crate::journal::error::JournalError;
use crate::pki::{CurrentTrust, Pki};
use crate::uplink::desk::{Desk, DeskConfig, DeskEvent, Output, Watch};
use crate::uplink::handle::{News, NewsOf, Uplink};
use crate::uplink::intake::{Intake, IntakeError};
use crate::uplink::sink::FrameSink;

/// Publishes taken in one step: one intake transaction for all of them.
const BATCH_MAX: usize = 512;

/// How often deadlines and pacing are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Requests of the face that wait for the desk. Beyond it they are refused.
const JOBS_MAX: usize = 256;

/// Conclusions that wait for the engine. Beyond it they are shed, and drawn again.
const FINDINGS_MAX: usize = 256;

/// News that a slow watcher may be behind before it misses some.
const NEWS_MAX: usize = 4096;

/// A request of the face.
#[derive(Debug)]
pub(crate) enum Job {
    /// Order something of a node that is not journalled.
    Ask(NodeId, DownBody),
}

/// What the uplink is made of.
pub struct Parts<S> {
    /// How often nodes are to send heartbeats.
    pub heartbeat: Duration,
    /// When someone is told of nodes.
    pub watch: Watch,
    /// The engine: fleet, journal, and where conclusions go.
    pub engine: Engine,
    /// Signing key and trust set.
    pub pki: Pki,
    /// What arrived.
    pub intake: Intake,
    /// To nodes.
    pub pipe: Arc<dyn Pipe>,
    /// From nodes.
    pub deliveries: Deliveries,
    /// Where frames go.
    pub sink: S,
    /// The wall clock.
    pub clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

/// The uplink could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartUplinkError {
    /// Its store cannot be read or written.
    #[error("the intake store cannot be used")]
    Intake(#[source] IntakeError),
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[source] JournalError),
}

impl StartUplinkError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> protocol::ErrorCode {
        match self {
            Self::Intake(error) => error.code(),
            Self::Journal(error) => error.code(),
        }
    }
}

/// The uplink stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum UplinkTaskError {
    /// A bug: the state in memory is gone.
    #[error("the desk panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// The broker's side is gone.
    #[error("the broker stopped delivering")]
    Closed,
}

/// The uplink's task. Does nothing until it is run.
pub struct UplinkTask<S> {
    /// None only while it is with its thread.
    desk: Option<Box<Desk<S>>>,
    inputs: Inputs,
    pipe: Arc<dyn Pipe>,
    news: broadcast::Sender<Arc<News>>,
    findings: mpsc::Sender<Finding>,
    officer: Officer,
    announced: bool,
}

struct Inputs {
    deliveries: Deliveries,
    jobs: mpsc::Receiver<Job>,
    fleet: watch::Receiver<Arc<Fleet>>,
    signing: watch::Receiver<Arc<SigningKey>>,
    trust: watch::Receiver<Arc<CurrentTrust>>,
    journal: JournalReader,
    pki: Pki,
    clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

/// What the engine is asked for.
#[derive(Debug)]
enum Finding {
    Suspect(SuspectIdentity),
    Raise(RaiseIncarnation),
    Conclude(ConcludeCommand),
    Decide(RecordRollout),
    Forget(ForgetDeployment),
    EndDrain(EndDrain),
    Move(RecordBreaker),
    EndOverride(EndOverride),
    /// The policy's epoch must be above this one.
    PolicyAbove(u64),
}

/// One step of the desk.
enum Step {
    Receive(Vec<Delivery>),
    Ask(NodeId, DownBody),
    Tick,
}

/// Makes the uplink: its handle, and the task to be run.
///
/// # Errors
/// [`StartUplinkError`].
pub fn open<S: FrameSink + 'static>(
    parts: Parts<S>,
) -> Result<(Uplink, UplinkTask<S>), StartUplinkError> {
    let now = (parts.clock)();
    let fleet = parts.engine.watch();
    let signing = parts.pki.signing();
    let trust = parts.pki.trust();
    let mut desk = Desk::new(
        DeskConfig {
            heartbeat: parts.heartbeat,
            watch: parts.watch,
        },
        Arc::clone(&fleet.borrow()),
        Arc::clone(&signing.borrow()),
        Arc::clone(&trust.borrow()),
        parts.intake.clone(),
        parts.sink,
        now,
    )
    .map_err(StartUplinkError::Intake)?;
    let journal = parts.engine.journal().clone();
    let head = journal.head().map_err(StartUplinkError::Journal)?;
    desk.align(head.seq, now)
        .map_err(StartUplinkError::Intake)?;

    let (jobs_in, jobs) = mpsc::channel(JOBS_MAX);
    let (findings, found) = mpsc::channel(FINDINGS_MAX);
    let (news, _) = broadcast::channel(NEWS_MAX);
    let uplink = Uplink {
        board: desk.board(),
        intake: parts.intake,
        pipe: Arc::clone(&parts.pipe),
        jobs: jobs_in,
        news: news.clone(),
        clock: Arc::clone(&parts.clock),
    };
    let task = UplinkTask {
        desk: Some(Box::new(desk)),
        inputs: Inputs {
            deliveries: parts.deliveries,
            jobs,
            fleet,
            signing: signing.clone(),
            trust,
            journal,
            pki: parts.pki,
            clock: parts.clock,
        },
        pipe: parts.pipe,
        news,
        findings,
        officer: Officer {
            engine: parts.engine,
            signing,
            found,
        },
        announced: false,
    };
    Ok((uplink, task))
}

impl<S: FrameSink + 'static> UplinkTask<S> {
    /// Works until stopped.
    ///
    /// # Errors
    /// [`UplinkTaskError`] when it cannot go on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), UplinkTaskError> {
        let Self {
            desk,
            inputs,
            pipe,
            news,
            findings,
            officer,
            announced,
        } = self;
        let floor = Floor {
            desk,
            pipe,
            news,
            findings,
            announced,
        };
        // The officer ends when the floor drops its end of the queue.
        let (outcome, ()) = tokio::join!(floor.work(inputs, stop), officer.work());
        outcome
    }
}

/// Where the desk stands and its output is carried away.
struct Floor<S> {
    desk: Option<Box<Desk<S>>>,
    pipe: Arc<dyn Pipe>,
    news: broadcast::Sender<Arc<News>>,
    findings: mpsc::Sender<Finding>,
    announced: bool,
}

impl<S: FrameSink + 'static> Floor<S> {
    async fn work(
        mut self,
        mut inputs: Inputs,
        stop: CancellationToken,
    ) -> Result<(), UplinkTaskError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut deliveries = Vec::new();
            // Every arm is cancel-safe: channels and intervals lose nothing.
            let step = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                count = inputs.deliveries.next_many(&mut deliveries, BATCH_MAX) => {
                    if count == 0 {
                        return if stop.is_cancelled() {
                            Ok(())
                        } else {
                            Err(UplinkTaskError::Closed)
                        };
                    }
                    Step::Receive(deliveries)
                }
                Ok(()) = inputs.fleet.changed() => Step::Tick,
                Ok(()) = inputs.trust.changed() => {
                    inputs.trust.mark_changed();
                    Step::Tick
                }
                Some(Job::Ask(node, body)) = inputs.jobs.recv() => Step::Ask(node, body),
                _ = ticks.tick() => Step::Tick,
            };
            self.step(step, &mut inputs).await?;
        }
    }

    async fn step(&mut self, step: Step, inputs: &mut Inputs) -> Result<(), UplinkTaskError> {
        let Some(mut desk) = self.desk.take() else {
            return Ok(());
        };
        desk.set_fleet(Arc::clone(&inputs.fleet.borrow_and_update()));
        if inputs.signing.has_changed().unwrap_or(false) {
            desk.set_key(Arc::clone(&inputs.signing.borrow_and_update()));
        }
        if inputs.trust.has_changed().unwrap_or(false) {
            desk.set_trust(Arc::clone(&inputs.trust.borrow_and_update()));
        }
        let announce = !self.announced && self.pipe.state() == PipeState::Up;
        self.announced |= announce;
        if desk.certificates_are_due((inputs.clock)()) {
            match inputs.pki.own_certificates() {
                Ok(own) => desk.set_certificates(own),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot look at the controller's own certificates"
                ),
            }
        }
        let journal = inputs.journal.clone();
        let clock = Arc::clone(&inputs.clock);
        let (desk, output) = spawn_blocking(move || {
            let output = work(&mut desk, step, &journal, clock.as_ref(), announce);
            (desk, output)
        })
        .await
        .map_err(UplinkTaskError::Panicked)?;
        self.desk = Some(desk);
        for outgoing in output.outgoing {
            self.publish(outgoing).await;
        }
        for event in output.events {
            self.carry(event);
        }
        Ok(())
    }

    async fn publish(&self, outgoing: Outgoing) {
        if let Err(error) = self.pipe.publish(outgoing).await {
            // Heartbeats repair what is shed here.
            tracing::trace!(%error, "a message was shed");
        }
    }

    fn carry(&self, event: DeskEvent) {
        match event {
            DeskEvent::Disconnect(node) => self.pipe.disconnect(node),
            DeskEvent::Progress { node, progress } => {
                let what = match progress.step {
                    ProgressStep::Started => NewsOf::Started { at: progress.at },
                    ProgressStep::Output {
                        stream,
                        offset,
                        bytes,
                    } => NewsOf::Output {
                        stream,
                        offset,
                        bytes,
                    },
                };
                self.tell(News {
                    command: progress.command,
                    node,
                    what,
                });
            }
            DeskEvent::Ended { command, node } => self.tell(News {
                command,
                node,
                what: NewsOf::Ended,
            }),
            DeskEvent::Suspected { node, suspect } => {
                tracing::warn!(
                    %node,
                    doubt = suspect.doubt.name(),
                    detail = suspect.detail,
                    "a node's identity is in doubt"
                );
                self.find(Finding::Suspect(SuspectIdentity {
                    node,
                    doubt: suspect.doubt,
                    detail: suspect.detail,
                }));
            }
            DeskEvent::Behind { node, incarnation } => {
                self.find(Finding::Raise(RaiseIncarnation {
                    above: incarnation,
                    reason: format!("node {node} has obeyed incarnation {incarnation}"),
                }));
            }
            DeskEvent::Concluded {
                command,
                counts,
                merkle_root,
            } => self.find(Finding::Conclude(ConcludeCommand {
                command,
                counts,
                merkle_root,
            })),
            DeskEvent::Decided(decision) => {
                tracing::info!(rollout = %decision.rollout(), %decision, "a rollout decides");
                self.find(Finding::Decide(RecordRollout {
                    decision: *decision,
                }));
            }
            DeskEvent::Gone(deployment) => {
                self.find(Finding::Forget(ForgetDeployment { deployment }));
            }
            DeskEvent::DrainOver(end) => self.find(Finding::EndDrain(end)),
            DeskEvent::Moved(moved) => self.find(Finding::Move(*moved)),
            DeskEvent::OverrideOver(number) => {
                self.find(Finding::EndOverride(EndOverride { number }));
            }
            DeskEvent::PolicyAhead { node, epoch } => {
                tracing::warn!(%node, epoch, "a node holds a policy that is not known here");
                self.find(Finding::PolicyAbove(epoch));
            }
            DeskEvent::Lost { node, entries } => tracing::warn!(
                %node,
                entries,
                "entries that were acknowledged are missing: this controller was restored"
            ),
        }
    }

    fn tell(&self, news: News) {
        // Nobody watches: fine.
        let _watchers = self.news.send(Arc::new(news));
    }

    fn find(&self, finding: Finding) {
        if let Err(error) = self.findings.try_send(finding) {
            tracing::warn!(%error, "the engine is behind; this is found again later");
        }
    }
}

/// One step on the blocking thread.
fn work<S: FrameSink>(
    desk: &mut Desk<S>,
    step: Step,
    journal: &JournalReader,
    clock: &(dyn Fn() -> UnixMillis + Send + Sync),
    announce: bool,
) -> Output {
    let mut output = Output::default();
    let now = clock();
    if announce {
        output.outgoing.push(desk.announce(now));
    }
    follow(desk, journal, now, &mut output);
    let next = match step {
        Step::Receive(deliveries) => {
            let load = if deliveries.len() == BATCH_MAX {
                Load::High
            } else {
                Load::Normal
            };
            desk.receive(deliveries, load, now)
        }
        Step::Ask(node, body) => match desk.ask(node, body, now) {
            Ok(output) => output,
            Err(error) => {
                tracing::debug!(%error, "a request was dropped");
                Output::default()
            }
        },
        Step::Tick => desk.tick(now),
    };
    output.outgoing.extend(next.outgoing);
    output.events.extend(next.events);
    output
}

/// Takes the records that the desk has not seen.
fn follow<S: FrameSink>(
    desk: &mut Desk<S>,
    journal: &JournalReader,
    now: UnixMillis,
    output: &mut Output,
) {
    while desk.cursor() < desk.fleet_seq() {
        let before = desk.cursor();
        match effect::after(journal, before) {
            Ok(records) if records.is_empty() => return,
            Ok(records) => {
                let next = desk.record(records, now);
                output.outgoing.extend(next.outgoing);
                output.events.extend(next.events);
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot read the journal; its effects wait"
                );
                return;
            }
        }
        if desk.cursor() == before {
            // The intake store is not well; the records come again.
            return;
        }
    }
}

/// Submits what the desk concluded.
struct Officer {
    engine: Engine,
    signing: watch::Receiver<Arc<SigningKey>>,
    found: mpsc::Receiver<Finding>,
}

impl Officer {
    async fn work(mut self) {
        // A fleet has a policy from the start: without one nodes have no lease. And
        // it is signed by the key that is in use, whenever that came to be.
        self.signing.mark_changed();
        loop {
            tokio::select! {
                Ok(()) = self.signing.changed() => {
                    self.submit(Finding::PolicyAbove(0)).await;
                }
                found = self.found.recv() => match found {
                    Some(finding) => self.submit(finding).await,
                    None => return,
                },
            }
        }
    }

    async fn submit(&self, finding: Finding) {
        let Some(operation) = self.operation(finding) else {
            return;
        };
        let name = operation.name();
        if let Err(error) = self.engine.submit(Caller::System, None, operation).await {
            tracing::warn!(
                operation = name,
                code = error.code().text(),
                %error,
                "a conclusion was not recorded; it is drawn again"
            );
        }
    }

    /// The operation, unless the fleet already says so.
    fn operation(&self, finding: Finding) -> Option<Operation> {
        let fleet = self.engine.fleet();
        match finding {
            Finding::Suspect(suspect) => fleet
                .node(suspect.node)
                .is_some_and(|node| node.is_active() && node.suspicion.is_none())
                .then_some(Operation::SuspectIdentity(suspect)),
            Finding::Raise(raise) => {
                (fleet.incarnation() < raise.above).then_some(Operation::RaiseIncarnation(raise))
            }
            Finding::Conclude(conclude) => fleet
                .commands()
                .get(conclude.command)
                .is_some_and(|command| command.conclusion.is_none())
                .then_some(Operation::ConcludeCommand(conclude)),
            // One that was recorded meanwhile is refused by its step; asking would
            // leave a rejection in the journal.
            Finding::Decide(decide) => fleet
                .rollouts()
                .get(decide.decision.rollout())
                .is_some_and(|rollout| rollout.course.check(&decide.decision).is_ok())
                .then_some(Operation::RecordRollout(decide)),
            Finding::Forget(forget) => fleet
                .deployments()
                .get(forget.deployment)
                .is_some_and(|deployment| deployment.removal.is_some())
                .then_some(Operation::ForgetDeployment(forget)),
            Finding::EndDrain(end) => fleet
                .node(end.node)
                .and_then(|node| node.cordon.as_ref())
                .is_some_and(|cordon| cordon.draining().is_some())
                .then_some(Operation::EndDrain(end)),
            Finding::Move(moved) => fleet
                .breakers()
                .get(&moved.breaker)
                .is_some_and(|known| check_move(known, &moved).is_ok())
                .then_some(Operation::RecordBreaker(moved)),
            Finding::EndOverride(end) => fleet
                .breakers()
                .overrides()
                .any(|(number, _)| number == end.number)
                .then_some(Operation::EndOverride(end)),
            Finding::PolicyAbove(above) => {
                let signer = self.signing.borrow().public().id();
                let raise = RaisePolicy { above, signer };
                let published = fleet.breakers().published();
                (!raise.is_done(published)).then_some(Operation::RaisePolicy(raise))
            }
        }
    }
}
