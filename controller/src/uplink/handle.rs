//! The uplink as the rest of the controller sees it: presence, states, targets
//! of commands, progress, live mode.
//!
//! Reads go to the board in memory or to a snapshot of the intake store; none of
//! them waits for the desk.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::command::{OutputStream, Receipt};
use protocol::deployment::observed::DeploymentState;
use protocol::down::DownBody;
use protocol::id::{CommandId, DeploymentId, NodeId, RolloutId};
use protocol::state::{self, StateItem, StateKey, StateValue};
use protocol::time::UnixMillis;
use tokio::sync::{broadcast, mpsc};

use crate::broker::{Pipe, PipeCounts, PipeState};
use crate::domain::alert::book::{Key, Turn};
use crate::domain::alert::machine::Alert;
use crate::domain::command::Counts;
use crate::domain::notice::Notice;
use crate::domain::rollout::target::TargetRow;
use crate::uplink::board::{Board, DrainStatus, LinkState, RolloutStatus};
use crate::uplink::desk::DeskStats;
use crate::uplink::dispatch::{self, CommandStatus};
use crate::uplink::intake::{
    Ended, Intake, IntakeError, PAGE_COUNT_MAX, Quarantined, StoredDesired, StoredLifecycle,
    StoredReceipt, StoredResult, TargetState,
};
use crate::uplink::task::Job;

/// A handle to the uplink. Cheap to clone; tied to no runtime.
#[derive(Clone)]
pub struct Uplink {
    pub(super) board: Arc<Board>,
    pub(super) intake: Intake,
    pub(super) pipe: Arc<dyn Pipe>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) news: broadcast::Sender<Arc<News>>,
    pub(super) clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

/// The uplink cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The store cannot be read.
    #[error("the intake store cannot be read")]
    Intake(#[source] IntakeError),
    /// The node has no working session.
    #[error("node {0} is not connected")]
    NotConnected(NodeId),
    /// There is no link to the broker, so nothing can be asked of any node.
    #[error("the broker is not connected")]
    BrokerDown,
    /// The uplink has more to do than it can hold, or has stopped.
    #[error("the uplink is busy or stopping")]
    Busy,
}

impl UplinkError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Intake(error) => error.code(),
            Self::NotConnected(_) => ErrorCode::PeerUnreachable,
            Self::BrokerDown => ErrorCode::BrokerUnavailable,
            Self::Busy => ErrorCode::EngineBusy,
        }
    }
}

/// Whether a node's link works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Heard within the last minute.
    Up,
    /// Heard before, but not within the last minute.
    Down,
    /// Never heard, as far as is remembered.
    Never,
}

impl Link {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Never => "never",
        }
    }
}

/// What is known of a node's link and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it works.
    pub link: Link,
    /// When the node was last heard, in controller time; none when that was
    /// before the controller's start.
    pub proven_at: Option<UnixMillis>,
    /// Since when its session lasts.
    pub since: Option<UnixMillis>,
    /// The agent's version at its last hello.
    pub agent_version: Option<String>,
    /// The trust set that the node holds; none when it was not heard since the
    /// controller's start.
    pub trust_version: Option<u64>,
    /// Milliseconds by which its clock is ahead of ours.
    pub clock_offset_ms: Option<i64>,
    /// Whether that is so far off that the node is flagged.
    pub is_clock_off: bool,
    /// Entries that wait on the node.
    pub outbox_entries: Option<u32>,
    /// Entries that an earlier controller acknowledged and that are not here: this
    /// one was restored from a backup.
    pub entries_lost: u64,
    /// What the node says is wrong with it; none when it never said.
    pub health: Option<state::Health>,
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    /// Targets that were not given it yet.
    pub waiting: u32,
    /// Targets that were given it and have not answered.
    pub sent: u32,
    /// Those of `sent` that say that it runs.
    pub running: u32,
    /// Targets that are done, by how they ended.
    pub ended: Counts,
}

impl From<CommandStatus> for TargetCounts {
    fn from(status: CommandStatus) -> Self {
        Self {
            waiting: status.waiting,
            sent: status.sent,
            running: status.running,
            ended: status.ended,
        }
    }
}

/// Where one target stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(pub TargetState);

impl State {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.0 {
            TargetState::Waiting => "waiting",
            TargetState::Sent { .. } => "sent",
            TargetState::Final(state) => state.ended.name(),
        }
    }

    /// Whether it will not change any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.ended().is_some()
    }

    /// How it ended; none while it is open.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        match &self.0 {
            TargetState::Final(state) => Some(state.ended),
            TargetState::Waiting | TargetState::Sent { .. } => None,
        }
    }

    /// The error code's text and what happened; none while it is open.
    #[must_use]
    pub fn reason(&self) -> Option<(Option<&str>, &str)> {
        match &self.0 {
            TargetState::Final(state) => Some((state.code.as_deref(), &state.detail)),
            TargetState::Waiting | TargetState::Sent { .. } => None,
        }
    }
}

/// One target of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: NodeId,
    /// Where it stands.
    pub state: State,
    /// Whether the receipt came after the final state, which it did not change.
    pub late: bool,
    /// The node's receipt, if one came.
    pub receipt: Option<Receipt>,
}

/// Something new about a command on a node. May be missed: targets and receipts
/// are what counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The command.
    pub command: CommandId,
    /// The node.
    pub node: NodeId,
    /// What is new.
    pub what: NewsOf,
}

/// What is new about a command on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewsOf {
    /// It started.
    Started {
        /// When, in controller time.
        at: UnixMillis,
    },
    /// It wrote something.
    Output {
        /// Where to.
        stream: OutputStream,
        /// Bytes that this stream had before.
        offset: u64,
        /// What it wrote.
        bytes: Vec<u8>,
    },
    /// The target has its final state.
    Ended,
}

/// Whether the uplink can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The code of what is wrong; none when nothing is.
    pub code: Option<ErrorCode>,
    /// What is wrong, for a person.
    pub detail: String,
}

/// Counters and gauges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkStats {
    /// The desk's.
    pub desk: DeskStats,
    /// The broker's.
    pub pipe: PipeCounts,
    /// Nodes whose link works.
    pub nodes_up: usize,
    /// Nodes that were heard since the start.
    pub nodes_heard: usize,
}

impl Uplink {
    /// What is known of a node's link and health.
    #[must_use]
    pub fn presence(&self, node: NodeId) -> Presence {
        let health = self.health_of(node);
        let Some(seen) = self.board.presence(node) else {
            // Not heard since the start: what the store remembers.
            let kept = self.intake.kept(node).ok().flatten();
            return Presence {
                link: if kept.is_some() {
                    Link::Down
                } else {
                    Link::Never
                },
                proven_at: None,
                since: None,
                agent_version: kept.as_ref().map(|kept| kept.agent_version.clone()),
                trust_version: None,
                clock_offset_ms: None,
                is_clock_off: false,
                outbox_entries: None,
                entries_lost: kept.map_or(0, |kept| kept.lost.iter().sum()),
                health,
            };
        };
        let link = match seen.link((self.clock)()) {
            LinkState::Up => Link::Up,
            LinkState::Down | LinkState::Unheard => Link::Down,
        };
        let session = seen.session.as_ref();
        Presence {
            link,
            proven_at: session.map(|session| session.proven_at),
            since: session.map(|session| session.since),
            agent_version: Some(seen.agent_version.clone()),
            trust_version: session.map(|session| session.trust_version),
            clock_offset_ms: session.map(|session| session.clock_offset_ms),
            is_clock_off: session.is_some_and(|session| session.is_clock_off()),
            outbox_entries: session.map(|session| session.outbox_entries),
            entries_lost: seen.entries_lost,
            health,
        }
    }

    fn health_of(&self, node: NodeId) -> Option<state::Health> {
        let states = self.intake.states(node).ok()?;
        states.into_iter().find_map(|state| match state.item.value {
            StateValue::Health(health) => Some(health),
            StateValue::Facts(_) | StateValue::Budgets(_) | StateValue::Deployment(_) => None,
        })
    }

    /// The latest states that a node reported.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn states(&self, node: NodeId) -> Result<Vec<StateItem>, UplinkError> {
        let states = self.intake.states(node).map_err(UplinkError::Intake)?;
        Ok(states.into_iter().map(|state| state.item).collect())
    }

    /// The last lifecycle events of a node, oldest first.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn lifecycles(&self, node: NodeId) -> Result<Vec<StoredLifecycle>, UplinkError> {
        self.intake.lifecycles(node).map_err(UplinkError::Intake)
    }

    /// The newest notices, newest first, with their numbers.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn notices(&self, limit: usize) -> Result<Vec<(u64, Notice)>, UplinkError> {
        self.intake
            .notices_newest(limit)
            .map_err(UplinkError::Intake)
    }

    /// Every alert that is known, those that are clear included.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn alerts(&self) -> Result<Vec<(Key, Alert)>, UplinkError> {
        self.intake.alerts().map_err(UplinkError::Intake)
    }

    /// How alerts turned, the newest first.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn alert_turns(&self) -> Result<Vec<Turn>, UplinkError> {
        self.intake.alert_turns().map_err(UplinkError::Intake)
    }

    /// Entries that could not be decoded, newest first.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn quarantine(&self, limit: usize) -> Result<Vec<Quarantined>, UplinkError> {
        self.intake.quarantine(limit).map_err(UplinkError::Intake)
    }

    /// How far a command has come. A closed one is counted from the store.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn counts(&self, command: CommandId) -> Result<TargetCounts, UplinkError> {
        if let Some(status) = self.board.command(command) {
            return Ok(status.into());
        }
        let mut counts = TargetCounts::default();
        let mut after = None;
        loop {
            let page = self
                .intake
                .targets(command, after, PAGE_COUNT_MAX)
                .map_err(UplinkError::Intake)?;
            let Some((last, _)) = page.last() else {
                return Ok(counts);
            };
            after = Some(*last);
            for (_, state) in page {
                match state {
                    TargetState::Waiting => counts.waiting += 1,
                    TargetState::Sent { .. } => counts.sent += 1,
                    TargetState::Final(state) => dispatch::count(&mut counts.ended, state.ended),
                }
            }
        }
    }

    /// Targets of a command by node id, after `after`; at most
    /// [`PAGE_COUNT_MAX`].
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn targets(
        &self,
        command: CommandId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<Target>, UplinkError> {
        let page = self
            .intake
            .targets(command, after, limit.min(PAGE_COUNT_MAX))
            .map_err(UplinkError::Intake)?;
        page.into_iter()
            .map(|(node, state)| self.with_receipt(command, node, state))
            .collect()
    }

    /// One target of a command; none when the node is none.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn target(&self, command: CommandId, node: NodeId) -> Result<Option<Target>, UplinkError> {
        self.intake
            .target(command, node)
            .map_err(UplinkError::Intake)?
            .map(|state| self.with_receipt(command, node, state))
            .transpose()
    }

    fn with_receipt(
        &self,
        command: CommandId,
        node: NodeId,
        state: TargetState,
    ) -> Result<Target, UplinkError> {
        let stored: Option<StoredReceipt> = self
            .intake
            .receipt(command, node)
            .map_err(UplinkError::Intake)?;
        Ok(Target {
            node,
            state: State(state),
            late: stored.as_ref().is_some_and(|stored| stored.late),
            receipt: stored.map(|stored| stored.receipt),
        })
    }

    /// Nodes whose link is up.
    #[must_use]
    pub fn nodes_up(&self) -> BTreeSet<NodeId> {
        let now = (self.clock)();
        self.board
            .presences()
            .into_iter()
            .filter(|(_, presence)| presence.link(now) == LinkState::Up)
            .map(|(node, _)| node)
            .collect()
    }

    /// How far a rollout has come; none when it is not carried out any more.
    #[must_use]
    pub fn rollout_status(&self, rollout: RolloutId) -> Option<RolloutStatus> {
        self.board.rollout(rollout)
    }

    /// What a node that is drained still has; none when it is not being drained.
    #[must_use]
    pub fn drain(&self, node: NodeId) -> Option<DrainStatus> {
        self.board.drain(node)
    }

    /// Where targets of a rollout stand, by node id, after `after`.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn rollout_targets(
        &self,
        rollout: RolloutId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, TargetRow)>, UplinkError> {
        self.intake
            .rollout_targets(rollout, after, limit)
            .map_err(UplinkError::Intake)
    }

    /// Where every target of a rollout stands.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn rollout_targets_all(
        &self,
        rollout: RolloutId,
    ) -> Result<Vec<(NodeId, TargetRow)>, UplinkError> {
        self.intake
            .rollout_targets_all(rollout)
            .map_err(UplinkError::Intake)
    }

    /// What nodes are to have of a deployment, by node id, after `after`.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn desired_of(
        &self,
        deployment: DeploymentId,
        after: Option<NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, StoredDesired)>, UplinkError> {
        self.intake
            .desired_of(deployment, after, limit)
            .map_err(UplinkError::Intake)
    }

    /// What one node is to have of a deployment.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn desired_on(
        &self,
        deployment: DeploymentId,
        node: NodeId,
    ) -> Result<Option<StoredDesired>, UplinkError> {
        self.intake
            .desired_on(deployment, node)
            .map_err(UplinkError::Intake)
    }

    /// How the last change of a rollout's target ended that did not succeed.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn rollout_failure(
        &self,
        rollout: RolloutId,
        node: NodeId,
    ) -> Result<Option<StoredResult>, UplinkError> {
        self.intake
            .result(rollout, node)
            .map_err(UplinkError::Intake)
    }

    /// How a deployment of that number is on a node; none when the node never said.
    ///
    /// # Errors
    /// [`UplinkError::Intake`].
    pub fn deployment_state(
        &self,
        node: NodeId,
        number: u16,
    ) -> Result<Option<(UnixMillis, DeploymentState)>, UplinkError> {
        let key = StateKey(DeploymentState::KEY_FIRST.saturating_add(number));
        let stored = self.intake.state(node, key).map_err(UplinkError::Intake)?;
        Ok(stored.and_then(|stored| match stored.item.value {
            StateValue::Deployment(state) => Some((stored.received_at, *state)),
            StateValue::Facts(_) | StateValue::Budgets(_) | StateValue::Health(_) => None,
        }))
    }

    /// News of all commands from here on. A slow reader misses some, and is told
    /// that it did.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// Asks a node for live samples until a time.
    ///
    /// # Errors
    /// [`UplinkError::BrokerDown`], [`UplinkError::NotConnected`] or
    /// [`UplinkError::Busy`].
    pub fn live(
        &self,
        node: NodeId,
        until: UnixMillis,
        interval_ms: u32,
    ) -> Result<(), UplinkError> {
        self.ask(node, DownBody::Live { until, interval_ms })
    }

    /// Ends live samples. A node that does not hear it ends them by itself.
    pub fn end_live(&self, node: NodeId) {
        if let Err(error) = self.ask(node, DownBody::EndLive) {
            tracing::debug!(%node, %error, "live mode ends by itself");
        }
    }

    /// Asks a node to renew its certificate now.
    ///
    /// # Errors
    /// [`UplinkError::BrokerDown`], [`UplinkError::NotConnected`] or
    /// [`UplinkError::Busy`].
    pub fn renew(&self, node: NodeId) -> Result<(), UplinkError> {
        self.ask(node, DownBody::RenewNow)
    }

    fn ask(&self, node: NodeId, body: DownBody) -> Result<(), UplinkError> {
        if self.pipe.state() == PipeState::Down {
            return Err(UplinkError::BrokerDown);
        }
        let up = self
            .board
            .presence(node)
            .is_some_and(|presence| presence.link((self.clock)()) == LinkState::Up);
        if !up {
            return Err(UplinkError::NotConnected(node));
        }
        self.jobs
            .try_send(Job::Ask(node, body))
            .map_err(|_| UplinkError::Busy)
    }

    /// Whether the uplink can do its work.
    #[must_use]
    pub fn health(&self) -> Health {
        let (code, detail) = if self.jobs.is_closed() {
            let code = ErrorCode::ControllerStarting;
            (Some(code), "the uplink has stopped".to_owned())
        } else if let Some(code) = self.board.stats().failing {
            let detail = format!("the intake store cannot be written: {code}");
            (Some(code), detail)
        } else if self.pipe.state() == PipeState::Down {
            let code = ErrorCode::BrokerUnavailable;
            (Some(code), "the broker is not connected".to_owned())
        } else {
            (None, String::new())
        };
        Health { code, detail }
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> UplinkStats {
        let (nodes_up, nodes_heard) = self.board.up_count((self.clock)());
        UplinkStats {
            desk: self.board.stats(),
            pipe: self.pipe.counts(),
            nodes_up,
            nodes_heard,
        }
    }
}
