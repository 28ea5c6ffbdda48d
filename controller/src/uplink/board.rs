//! What others may look at without asking the desk: presence and progress.
//!
//! The desk writes it after every batch; readers take a short lock. Everything on
//! it is of this run of the controller: a node that was not heard since the start
//! has no presence here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::id::{CommandId, NodeId, RolloutId};
use protocol::limits::LINK_PROVEN_MAX;
use protocol::time::UnixMillis;

use crate::domain::session::{LinkView, NodeLink};
use crate::uplink::desk::DeskStats;
use crate::uplink::dispatch::CommandStatus;

/// What is known of a node's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The session; none when there is none since the controller's start.
    pub session: Option<LinkView>,
    /// The agent's version at its last hello.
    pub agent_version: String,
    /// Entries that an earlier controller acknowledged and that are not here.
    pub entries_lost: u64,
}

/// Whether a node's link works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// Heard within the last minute.
    Up,
    /// Heard before, but not within the last minute.
    Down,
    /// Not heard since the controller's start.
    Unheard,
}

impl Presence {
    pub(crate) fn of(link: &NodeLink) -> Self {
        let kept = link.kept();
        Self {
            session: link.view(),
            agent_version: kept.agent_version.clone(),
            entries_lost: kept.lost.iter().sum(),
        }
    }

    /// Whether the link works at a time.
    #[must_use]
    pub fn link(&self, now: UnixMillis) -> LinkState {
        match &self.session {
            Some(session) if now.since(session.proven_at) <= LINK_PROVEN_MAX => LinkState::Up,
            Some(_) => LinkState::Down,
            None => LinkState::Unheard,
        }
    }
}

/// How far a rollout has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutStatus {
    /// Targets of each wave, by the name of their state.
    pub waves: Vec<BTreeMap<&'static str, u32>>,
    /// Nodes a minute that may be told at the moment.
    pub rate_per_min: u32,
    /// Breakers that hold it back.
    pub breakers: Vec<String>,
    /// What it waits for, for a person; empty when nothing.
    pub waits_for: String,
}

/// What a node that is drained still has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainStatus {
    /// Names of deployments, and what taking each away waits for.
    pub left: BTreeMap<String, String>,
}

/// Open commands as the desk sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommandBoard {
    pub(crate) open: BTreeMap<CommandId, CommandStatus>,
}

#[derive(Debug, Default)]
struct Sheet {
    presences: BTreeMap<NodeId, Presence>,
    commands: CommandBoard,
    rollouts: BTreeMap<RolloutId, RolloutStatus>,
    drains: BTreeMap<NodeId, DrainStatus>,
    stats: DeskStats,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    sheet: Mutex<Sheet>,
}

impl Board {
    pub(crate) fn update(
        &self,
        presences: impl Iterator<Item = (NodeId, Presence)>,
        commands: CommandBoard,
        rollouts: Vec<(RolloutId, Option<RolloutStatus>)>,
        drains: Option<BTreeMap<NodeId, DrainStatus>>,
        stats: &DeskStats,
    ) {
        let mut sheet = self.lock();
        sheet.presences.extend(presences);
        sheet.commands = commands;
        for (rollout, status) in rollouts {
            match status {
                Some(status) => sheet.rollouts.insert(rollout, status),
                None => sheet.rollouts.remove(&rollout),
            };
        }
        if let Some(drains) = drains {
            sheet.drains = drains;
        }
        sheet.stats.clone_from(stats);
    }

    /// A node's presence; none when it was not heard since the start.
    #[must_use]
    pub fn presence(&self, node: NodeId) -> Option<Presence> {
        self.lock().presences.get(&node).cloned()
    }

    /// Every node that was heard since the start.
    #[must_use]
    pub fn presences(&self) -> BTreeMap<NodeId, Presence> {
        self.lock().presences.clone()
    }

    /// How many nodes are up at a time, and how many were heard since the start.
    #[must_use]
    pub fn up_count(&self, now: UnixMillis) -> (usize, usize) {
        let sheet = self.lock();
        let up = sheet
            .presences
            .values()
            .filter(|presence| presence.link(now) == LinkState::Up)
            .count();
        (up, sheet.presences.len())
    }

    /// How far an open command has come; none when it is not open.
    #[must_use]
    pub fn command(&self, command: CommandId) -> Option<CommandStatus> {
        self.lock().commands.open.get(&command).copied()
    }

    /// How far a rollout has come; none when it is not carried out any more.
    #[must_use]
    pub fn rollout(&self, rollout: RolloutId) -> Option<RolloutStatus> {
        self.lock().rollouts.get(&rollout).cloned()
    }

    /// What a node that is drained still has; none when it is not being drained.
    #[must_use]
    pub fn drain(&self, node: NodeId) -> Option<DrainStatus> {
        self.lock().drains.get(&node).cloned()
    }

    /// What happened since the start.
    #[must_use]
    pub fn stats(&self) -> DeskStats {
        self.lock().stats.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Sheet> {
        // A panic while it is written leaves older values, which is what it shows
        // between two batches anyway.
        self.sheet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
