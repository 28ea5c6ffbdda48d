//! Fleet commands: one order, many nodes.
//!
//! Owns which commands are open and how recent ones ended in sum. The state of
//! each target and the receipts are the uplink's: ten thousand targets would
//! make ten thousand records of one decision.
//!
//! **Invariant:** a command is issued to a fixed set of nodes, known by its
//! digest, and concluded once, with as many final states as it had targets.

pub mod event;
pub mod issue;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::command::Action;
use protocol::id::CommandId;
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::command::event::{CommandConcluded, CommandIssued};
use crate::domain::digest::Digest;
use crate::domain::event::Event;

/// Commands that are open at once. Each one keeps a table of targets alive.
pub const COMMANDS_OPEN_MAX: usize = 256;

/// Concluded commands that are remembered here; older ones are in the journal.
pub const COMMANDS_RECENT_MAX: usize = 512;

/// Whether a command waits for maintenance windows. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hours {
    /// It begins on a node only while a window of it is open.
    #[default]
    Windows,
    /// It begins at any time.
    Any,
}

impl Hours {
    /// Whether it is the one that nobody needs to name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The command part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    known: BTreeMap<CommandId, Arc<FleetCommand>>,
    /// Concluded ones, in the order of their end.
    concluded: VecDeque<CommandId>,
}

/// A command to some nodes of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetCommand {
    /// Its id.
    pub id: CommandId,
    /// The record that issued it: its place in the order of commands.
    pub seq: u64,
    /// Who issued it.
    pub by: Caller,
    /// When.
    pub issued_at: UnixMillis,
    /// The selector that was given; none when nodes were named.
    pub selector: Option<Selector>,
    /// What to do.
    pub action: Action,
    /// When it is too late to start.
    pub start_by: UnixMillis,
    /// How long it may run once started, in milliseconds.
    pub run_timeout_ms: u64,
    /// Bytes of output that a receipt may carry.
    pub output_bytes_max: u32,
    /// Nodes that may run it at once; none for all.
    pub concurrency_max: Option<u32>,
    /// Nodes that may be given it in a minute; none for no limit.
    pub rate_per_min: Option<u32>,
    /// How many nodes it goes to.
    pub target_count: u32,
    /// The digest of their ids.
    pub targets_digest: Digest,
    /// Nodes that were left out because their identity is in doubt.
    pub withheld: u32,
    /// Whether it waits for maintenance windows.
    pub hours: Hours,
    /// Who asked to cancel it, and when.
    pub cancel: Option<(UnixMillis, Caller)>,
    /// How it ended; none while it is open.
    pub conclusion: Option<Conclusion>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conclusion {
    /// When the last target had its final state.
    pub at: UnixMillis,
    /// How many ended how.
    pub counts: Counts,
    /// The Merkle root over final states and receipts.
    pub merkle_root: Digest,
}

/// How many targets ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Did what was asked.
    pub succeeded: u32,
    /// Ran and failed.
    pub failed: u32,
    /// Did not start it, for a reason with a code.
    pub refused: u32,
    /// Ran longer than allowed.
    pub timed_out: u32,
    /// Proved that it never started.
    pub expired: u32,
    /// Was cancelled.
    pub cancelled: u32,
    /// Stopped while it ran.
    pub interrupted: u32,
    /// Did not answer: what happened there is not known.
    pub unreachable: u32,
}

impl Counts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.succeeded,
            self.failed,
            self.refused,
            self.timed_out,
            self.expired,
            self.cancelled,
            self.interrupted,
            self.unreachable,
        ]
        .into_iter()
        .map(u64::from)
        .sum()
    }
}

impl Commands {
    /// A command that is open or was concluded not long ago.
    #[must_use]
    pub fn get(&self, id: CommandId) -> Option<&Arc<FleetCommand>> {
        self.known.get(&id)
    }

    /// Every command that is remembered, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FleetCommand>> {
        self.known.values()
    }

    /// Commands that are open, by id.
    pub fn open(&self) -> impl Iterator<Item = &Arc<FleetCommand>> {
        self.known
            .values()
            .filter(|command| command.conclusion.is_none())
    }

    /// Takes a record about commands into the state; any other changes nothing.
    pub(crate) fn apply(&mut self, record: &Record) {
        if let Event::CommandIssued(event) = &record.event {
            self.issue(event, record);
        } else if let Event::CommandCancelRequested(event) = &record.event {
            if let Some(command) = self.known.get_mut(&event.command) {
                Arc::make_mut(command).cancel = Some((record.at, record.by));
            }
        } else if let Event::CommandConcluded(event) = &record.event {
            self.conclude(event, record.at);
        }
    }

    fn issue(&mut self, event: &CommandIssued, record: &Record) {
        let command = FleetCommand {
            id: event.command,
            seq: record.seq,
            by: record.by,
            issued_at: record.at,
            selector: event.selector.clone(),
            action: event.action.clone(),
            start_by: event.start_by,
            run_timeout_ms: event.run_timeout_ms,
            output_bytes_max: event.output_bytes_max,
            concurrency_max: event.concurrency_max,
            rate_per_min: event.rate_per_min,
            target_count: event.target_count,
            targets_digest: event.targets_digest,
            withheld: event.withheld,
            hours: event.hours,
            cancel: None,
            conclusion: None,
        };
        self.known.insert(event.command, Arc::new(command));
    }

    fn conclude(&mut self, event: &CommandConcluded, at: UnixMillis) {
        let Some(command) = self.known.get_mut(&event.command) else {
            return;
        };
        Arc::make_mut(command).conclusion = Some(Conclusion {
            at,
            counts: event.counts,
            merkle_root: event.merkle_root,
        });
        self.concluded.push_back(event.command);
        while self.concluded.len() > COMMANDS_RECENT_MAX {
            if let Some(oldest) = self.concluded.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
