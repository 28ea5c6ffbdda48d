//! Who gets which command when: a pure index over open commands.
//!
//! Owns, for each open command, which targets wait, which were given it and which
//! are done, and paces handing it out by the command's concurrency and rate.
//! Durable states are the intake's; this is rebuilt from them at start.
//!
//! **Invariant:** a target is in exactly one of waiting, sent and final, and
//! final is for ever. Work for one message is in the number of that node's open
//! commands, never in the number of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protocol::command::Command;
use protocol::id::{CommandId, NodeId};
use protocol::time::{UnixMillis, millis};

use crate::domain::command::Counts;
use crate::uplink::intake::{Ended, StoredCommand, TargetState};

/// Targets that one call moves; a fleet command is spread over calls so that
/// receipts of others are not kept waiting behind it.
pub(crate) const MOVES_COUNT_MAX: usize = 1000;

/// A minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// How often the conclusion of a command is asked for until the journal has it.
const CONCLUDE_AGAIN: Duration = Duration::from_secs(5);

/// How soon it is asked for again when the last final states were not durable.
const CONCLUDE_SOON: Duration = Duration::from_millis(50);

/// Open commands and their targets.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    runs: BTreeMap<CommandId, Run>,
    open_of: BTreeMap<NodeId, BTreeSet<CommandId>>,
}

/// One open command.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) row: StoredCommand,
    pub(crate) command: Arc<Command>,
    waiting: BTreeSet<NodeId>,
    /// Those of `waiting` that are believed to be connected.
    ready: BTreeSet<NodeId>,
    sent: BTreeSet<NodeId>,
    running: BTreeSet<NodeId>,
    counts: Counts,
    pace: Option<Pace>,
    conclusion_asked_at: Option<UnixMillis>,
}

/// A token bucket of one second's worth, in thousandths of a permit.
#[derive(Clone, Copy, Debug)]
struct Pace {
    per_min: u64,
    permits_milli: u64,
    at: UnixMillis,
}

impl Pace {
    fn new(per_min: u32, at: UnixMillis) -> Self {
        Self {
            per_min: u64::from(per_min.max(1)),
            permits_milli: 1000,
            at,
        }
    }

    fn permits(&mut self, now: UnixMillis) -> usize {
        let elapsed = millis(now.since(self.at)).min(MINUTE_MS);
        let earned = elapsed * self.per_min * 1000 / MINUTE_MS;
        if earned > 0 {
            let burst = (self.per_min / 60).max(1) * 1000;
            self.permits_milli = (self.permits_milli + earned).min(burst);
            self.at = now;
        }
        usize::try_from(self.permits_milli / 1000).unwrap_or(usize::MAX)
    }

    fn spend(&mut self) {
        self.permits_milli = self.permits_milli.saturating_sub(1000);
    }
}

/// How far a command has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandStatus {
    /// Targets that were not given it yet.
    pub waiting: u32,
    /// Targets that were given it and have not answered.
    pub sent: u32,
    /// Those of `sent` that say that it runs.
    pub running: u32,
    /// Targets that are done, by how they ended.
    pub ended: Counts,
}

/// What a receipt or a deadline met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The target was open and is final from here on.
    Now,
    /// The target is not open in any open command.
    NotOpen,
}

/// A target whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) command: CommandId,
    pub(crate) node: NodeId,
    pub(crate) ended: Ended,
    pub(crate) detail: &'static str,
}

impl Dispatch {
    /// Takes up a command with its targets.
    pub(crate) fn open(
        &mut self,
        id: CommandId,
        row: StoredCommand,
        targets: impl IntoIterator<Item = (NodeId, TargetState)>,
        now: UnixMillis,
    ) {
        let mut run = Run {
            command: Arc::new(row.command.clone()),
            pace: row.rate_per_min.map(|per_min| Pace::new(per_min, now)),
            row,
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            sent: BTreeSet::new(),
            running: BTreeSet::new(),
            counts: Counts::default(),
            conclusion_asked_at: None,
        };
        for (node, state) in targets {
            match state {
                TargetState::Waiting => run.waiting.insert(node),
                TargetState::Sent { .. } => run.sent.insert(node),
                TargetState::Final(state) => {
                    count(&mut run.counts, state.ended);
                    continue;
                }
            };
            self.open_of.entry(node).or_default().insert(id);
        }
        self.runs.insert(id, run);
    }

    pub(crate) fn run(&self, id: CommandId) -> Option<&Run> {
        self.runs.get(&id)
    }

    pub(crate) fn run_mut(&mut self, id: CommandId) -> Option<&mut Run> {
        self.runs.get_mut(&id)
    }

    /// Every open command with its status.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (CommandId, CommandStatus)> + '_ {
        self.runs.iter().map(|(id, run)| (*id, run.status()))
    }

    /// The commands that are open for a node.
    pub(crate) fn open_of(&self, node: NodeId) -> Vec<CommandId> {
        self.open_of
            .get(&node)
            .map(|ids| ids.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Commands that a node was given and has not answered.
    pub(crate) fn sent_of(&self, node: NodeId) -> Vec<CommandId> {
        let mut ids: Vec<CommandId> = self
            .open_of(node)
            .into_iter()
            .filter(|id| {
                self.runs
                    .get(id)
                    .is_some_and(|run| run.sent.contains(&node))
            })
            .collect();
        // In the order in which they were issued.
        ids.sort_by_key(|id| self.runs.get(id).map(|run| run.row.seq));
        ids
    }

    /// A node is connected: what waits for it may go out.
    pub(crate) fn online(&mut self, node: NodeId) {
        let Some(ids) = self.open_of.get(&node) else {
            return;
        };
        for id in ids {
            if let Some(run) = self.runs.get_mut(id)
                && run.waiting.contains(&node)
            {
                run.ready.insert(node);
            }
        }
    }

    /// A target says that the command runs there.
    pub(crate) fn started(&mut self, id: CommandId, node: NodeId) {
        if let Some(run) = self.runs.get_mut(&id)
            && run.sent.contains(&node)
        {
            run.running.insert(node);
        }
    }

    /// Picks targets that may be given their command, within each command's
    /// concurrency and rate, and marks them as sent. `may` says whether a node can
    /// take it now; one that cannot is asked again when it is heard.
    pub(crate) fn release(
        &mut self,
        now: UnixMillis,
        mut may: impl FnMut(NodeId, &Command) -> bool,
    ) -> Vec<(CommandId, NodeId)> {
        let mut released = Vec::new();
        let mut order: Vec<(u64, CommandId)> = self
            .runs
            .iter()
            .map(|(id, run)| (run.row.seq, *id))
            .collect();
        order.sort_unstable();
        for (_, id) in order {
            if released.len() >= MOVES_COUNT_MAX {
                break;
            }
            if let Some(run) = self.runs.get_mut(&id) {
                run.release(id, now, &mut may, &mut released);
            }
        }
        released
    }

    /// Marks a target as done.
    pub(crate) fn settle(&mut self, id: CommandId, node: NodeId, ended: Ended) -> Settled {
        let Some(run) = self.runs.get_mut(&id) else {
            return Settled::NotOpen;
        };
        let was_open = run.waiting.remove(&node) | run.sent.remove(&node);
        run.ready.remove(&node);
        run.running.remove(&node);
        if !was_open {
            return Settled::NotOpen;
        }
        count(&mut run.counts, ended);
        if let Some(ids) = self.open_of.get_mut(&node) {
            ids.remove(&id);
            if ids.is_empty() {
                self.open_of.remove(&node);
            }
        }
        Settled::Now
    }

    /// Targets whose time is over. The caller settles them.
    ///
    /// One that was never sent cannot have started: had it been connected, the
    /// command's own pacing kept it back, and it is expired; otherwise it was not
    /// reached. One that was sent has until `grace` after the last moment at which
    /// it may run.
    pub(crate) fn overdue(
        &self,
        now: UnixMillis,
        grace: Duration,
        is_up: impl Fn(NodeId) -> bool,
    ) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for (id, run) in &self.runs {
            let room = MOVES_COUNT_MAX.saturating_sub(overdue.len());
            if run.row.cancelled {
                overdue.extend(run.waiting.iter().take(room).map(|node| Overdue {
                    command: *id,
                    node: *node,
                    ended: Ended::Cancelled,
                    detail: "cancelled before it was sent",
                }));
            } else if now >= run.command.start_by {
                overdue.extend(run.waiting.iter().take(room).map(|node| {
                    let (ended, detail) = if is_up(*node) {
                        (
                            Ended::Expired,
                            "never sent: the command's pace, the node's identity or its maintenance window held it back",
                        )
                    } else {
                        (Ended::Unreachable, "never sent: the node was not connected")
                    };
                    Overdue {
                        command: *id,
                        node: *node,
                        ended,
                        detail,
                    }
                }));
            }
            let room = MOVES_COUNT_MAX.saturating_sub(overdue.len());
            if now >= run.gives_up_at(grace) {
                overdue.extend(run.sent.iter().take(room).map(|node| Overdue {
                    command: *id,
                    node: *node,
                    ended: Ended::Unreachable,
                    detail: "sent, and no receipt came: the outcome is not known",
                }));
            }
        }
        overdue
    }

    /// Commands all of whose targets are final and whose conclusion should be
    /// asked for, now or again.
    pub(crate) fn concluded(&mut self, now: UnixMillis) -> Vec<CommandId> {
        let mut concluded = Vec::new();
        for (id, run) in &mut self.runs {
            let asked = run
                .conclusion_asked_at
                .is_some_and(|at| now.since(at) < CONCLUDE_AGAIN);
            if run.waiting.is_empty() && run.sent.is_empty() && !asked {
                run.conclusion_asked_at = Some(now);
                concluded.push(*id);
            }
        }
        concluded
    }

    /// The journal has a command's conclusion.
    pub(crate) fn close(&mut self, id: CommandId) -> Option<Run> {
        let run = self.runs.remove(&id)?;
        for node in run.waiting.iter().chain(&run.sent) {
            if let Some(ids) = self.open_of.get_mut(node) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.open_of.remove(node);
                }
            }
        }
        Some(run)
    }
}

impl Run {
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn is_sent_to(&self, node: NodeId) -> bool {
        self.sent.contains(&node)
    }

    /// Asks for the conclusion again before long.
    pub(crate) fn conclude_soon(&mut self, now: UnixMillis) {
        self.conclusion_asked_at = Some(now.before(CONCLUDE_AGAIN).after(CONCLUDE_SOON));
    }

    /// Nodes that were given it and have not answered.
    pub(crate) fn sent(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.sent.iter().copied()
    }

    pub(crate) fn status(&self) -> CommandStatus {
        let number = |set: &BTreeSet<NodeId>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        CommandStatus {
            waiting: number(&self.waiting),
            sent: number(&self.sent),
            running: number(&self.running),
            ended: self.counts,
        }
    }

    /// When a target that was sent and does not answer counts as unreachable.
    fn gives_up_at(&self, grace: Duration) -> UnixMillis {
        self.command
            .start_by
            .after(Duration::from_millis(self.command.run_timeout_ms))
            .after(grace)
    }

    fn release(
        &mut self,
        id: CommandId,
        now: UnixMillis,
        may: &mut impl FnMut(NodeId, &Command) -> bool,
        released: &mut Vec<(CommandId, NodeId)>,
    ) {
        if self.row.cancelled || now >= self.command.start_by {
            return;
        }
        let free = match self.row.concurrency_max {
            Some(max) => usize::try_from(max)
                .unwrap_or(usize::MAX)
                .saturating_sub(self.sent.len()),
            None => usize::MAX,
        };
        let permits = self
            .pace
            .as_mut()
            .map_or(usize::MAX, |pace| pace.permits(now));
        let mut room = free
            .min(permits)
            .min(MOVES_COUNT_MAX.saturating_sub(released.len()));
        while room > 0
            && let Some(node) = self.ready.pop_first()
        {
            if !may(node, &self.command) {
                continue;
            }
            self.waiting.remove(&node);
            self.sent.insert(node);
            if let Some(pace) = &mut self.pace {
                pace.spend();
            }
            released.push((id, node));
            room -= 1;
        }
    }
}

pub(crate) fn count(counts: &mut Counts, ended: Ended) {
    let place = match ended {
        Ended::Succeeded => &mut counts.succeeded,
        Ended::Failed { .. } => &mut counts.failed,
        Ended::Refused => &mut counts.refused,
        Ended::TimedOut => &mut counts.timed_out,
        Ended::Expired => &mut counts.expired,
        Ended::Cancelled => &mut counts.cancelled,
        Ended::Interrupted => &mut counts.interrupted,
        Ended::Unreachable => &mut counts.unreachable,
    };
    *place = place.saturating_add(1);
}

#[cfg(test)]
mod tests;
