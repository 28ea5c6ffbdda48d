//! What goes down: commands and their ends, and what the journal's records mean
//! for nodes.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::Command;
use protocol::down::DownBody;
use protocol::id::{CommandId, NodeId};
use protocol::session::Announce;
use protocol::time::UnixMillis;

use super::{Answer, Desk, DeskEvent, Output, Seen};
use crate::domain::audit::merkle;
use crate::domain::audit::record::Record;
use crate::domain::breaker::definition::is_gated;
use crate::domain::command::Counts;
use crate::domain::command::event::CommandIssued;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::event::{NodeRelabelled, NodeRenamed, NodeReplaced};
use crate::domain::session::{Load, Order};
use crate::uplink::dispatch::{Dispatch, Overdue, Settled};
use crate::uplink::intake::{
    Ended, FinalState, IntakeError, PAGE_COUNT_MAX, StoredCommand, TargetState,
};
use crate::uplink::sink::FrameSink;

/// Closed commands whose targets and receipts are kept. The journal remembers as
/// many; older ones are answered for by their Merkle root alone.
pub(super) const CLOSED_COUNT_MAX: usize = 512;

/// A node's message may be this late, beside two heartbeats.
const GRACE: Duration = Duration::from_secs(5);

/// The node has no session, or its window is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {0} is not connected")]
pub struct NotConnected(pub NodeId);

impl NotConnected {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::PeerUnreachable
    }
}

/// A record of the journal, with what it refers to.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The record.
    pub record: Record,
    /// The targets of an issued command, or of a rollout that was started; empty
    /// otherwise.
    pub targets: Vec<NodeId>,
}

impl<S: FrameSink> Desk<S> {
    /// Takes records of the journal into account, in their order. Ones that were
    /// taken before change nothing.
    pub fn record(&mut self, records: Vec<Recorded>, now: UnixMillis) -> Output {
        self.begin(now);
        if self.stale {
            // The store is not well: the same records come again.
            return Output::default();
        }
        for recorded in records {
            if recorded.record.seq <= self.cursor {
                continue;
            }
            let seq = recorded.record.seq;
            self.tell_of(&recorded.record, now);
            self.heed(recorded, now);
            self.work.batch.cursor = Some(seq);
        }
        self.finish(Load::Normal, now)
    }

    /// Sets the cursor back when the journal is shorter than it: the journal was
    /// restored from an older backup than the intake.
    ///
    /// # Errors
    /// [`IntakeError`] when it cannot be written.
    pub fn align(&mut self, journal_head: u64, now: UnixMillis) -> Result<(), IntakeError> {
        if self.cursor > journal_head {
            tracing::warn!(
                cursor = self.cursor,
                journal_head,
                "the journal is older than the intake store"
            );
            self.intake.commit(&crate::uplink::intake::Batch {
                cursor: Some(journal_head),
                ..self.rollouts_as_recorded(journal_head)?
            })?;
            self.cursor = journal_head;
            self.load_deployments(now)?;
        }
        Ok(())
    }

    fn heed(&mut self, recorded: Recorded, now: UnixMillis) {
        let record = &recorded.record;
        match &record.event {
            Event::CommandIssued(event) => {
                let row = self.command_row(record, event);
                self.open_command(event.command, row, &recorded.targets, now);
            }
            Event::CommandCancelRequested(event) => self.cancel(event.command, now),
            Event::CommandConcluded(event) => self.close(event.command),
            Event::NodeRevoked(event) => self.cut_off(event.node, now),
            Event::NodeReplaced(event) => self.replaced(event, now),
            Event::NodesCordoned(event) => self.set_aside(&event.nodes, now),
            Event::NodesUncordoned(event) => {
                self.set_aside(&event.nodes, now);
                for node in &event.nodes {
                    self.relook(*node, now);
                }
            }
            Event::DrainStarted(event) => {
                self.set_aside(&event.nodes, now);
                self.begin_drains(&event.nodes);
            }
            Event::NodeRenamed(NodeRenamed { node, .. })
            | Event::NodeRelabelled(NodeRelabelled { node, .. }) => {
                self.order_labels(*node, now);
                self.relook(*node, now);
            }
            Event::NodeJoined(event) => self.relook(event.node, now),
            Event::NodeApproved(event) => self.relook(event.node, now),
            Event::DeploymentApplied(_) | Event::UpdateApplied(_) => {}
            Event::DeploymentRemoved(event) => self.remove_deployment(event.deployment),
            Event::DeploymentForgotten(event) => self.remove_deployment(event.deployment),
            Event::RolloutStarted(event) => {
                self.start_rollout(record, event, &recorded.targets, now);
            }
            Event::WaveStarted(_)
            | Event::WaveApproved(_)
            | Event::RolloutHalted(_)
            | Event::RolloutPaused(_)
            | Event::RolloutResumed(_)
            | Event::RolloutAborted(_)
            | Event::RolloutCommitted(_)
            | Event::RolloutFinished(_) => {
                if let Some(decision) = record.event.decision() {
                    self.decided(decision, record.at, now);
                }
            }
            Event::IdentityResolved(event) => {
                self.carry_open_commands(event.node, now);
                self.dispatch.online(event.node);
                self.relook(event.node, now);
                self.carry_desired(event.node, now);
            }
            Event::BreakerDefined(_) | Event::BreakerRemoved(_) => self.load_breakers(),
            Event::BreakerMoved(event) => self.breaker_moved(event),
            Event::BreakerOverridden(_) | Event::OverrideEnded(_) => self.tell_breakers(),
            Event::PolicyPublished(_) => self.publish_policy(),
            Event::WindowSet(_)
            | Event::WindowRemoved(_)
            | Event::WindowOpened(_)
            | Event::WindowShut(_) => self.windows_changed(),
            Event::IncarnationRaised(event) => {
                self.work.answers.push(Answer::Announce(Announce {
                    incarnation: event.incarnation,
                    now,
                }));
            }
            Event::TokenCreated(_)
            | Event::TokenRevoked(_)
            | Event::DrainEnded(_)
            // Alerts are judged by the fleet's state.
            | Event::AlertRuleDefined(_)
            | Event::AlertRuleRemoved(_)
            | Event::SilenceCreated(_)
            | Event::SilenceEnded(_)
            | Event::NodeCertified(_)
            // The set itself comes from the pki, once it is in force.
            | Event::TrustPublished(_)
            | Event::IdentitySuspected(_)
            | Event::PrincipalCreated(_)
            | Event::PrincipalDisabled(_)
            | Event::PrincipalEnabled(_)
            | Event::RoleCreated(_)
            | Event::RoleUpdated(_)
            | Event::RoleDeleted(_)
            | Event::GrantCreated(_)
            | Event::GrantRevoked(_)
            | Event::KeyCreated(_)
            | Event::KeyRotated(_)
            | Event::KeyRevoked(_)
            | Event::AdminRecovered(_)
            | Event::ContentSet(_)
            | Event::ContentRemoved(_)
            | Event::ArchivePushed(_)
            | Event::ArchiveRemoved(_)
            | Event::ReleaseAdded(_)
            | Event::ReleaseRevoked(_)
            | Event::ReleaseRemoved(_)
            | Event::BackupMade(_)
            | Event::RequestDenied(_)
            | Event::RequestRejected(_)
            | Event::SinkSet(_)
            | Event::SinkRemoved(_)
            | Event::LeaseSet(_)
            | Event::DenialsCounted(_) => {}
        }
    }

    fn replaced(&mut self, event: &NodeReplaced, now: UnixMillis) {
        self.cut_off(event.old, now);
        self.order_labels(event.new, now);
        self.relook(event.new, now);
    }

    /// Asks a connected node to do something that is not journalled.
    ///
    /// # Errors
    /// [`NotConnected`] when it has no working session.
    pub fn ask(
        &mut self,
        node: NodeId,
        body: DownBody,
        now: UnixMillis,
    ) -> Result<Output, NotConnected> {
        let up = self
            .seats
            .get(&node)
            .is_some_and(|seat| seat.link.is_up(now));
        if !up {
            return Err(NotConnected(node));
        }
        self.begin(now);
        let ordered = self.order(node, Order::Other(body), now);
        let output = self.finish(Load::Normal, now);
        if ordered {
            Ok(output)
        } else {
            Err(NotConnected(node))
        }
    }

    fn command_row(&self, record: &Record, event: &CommandIssued) -> StoredCommand {
        let issued_by = self.fleet.access().name_of(&record.by);
        StoredCommand {
            seq: record.seq,
            command: Command {
                id: event.command,
                issued_at: record.at,
                start_by: event.start_by,
                run_timeout_ms: event.run_timeout_ms,
                output_bytes_max: event.output_bytes_max,
                issued_by,
                action: event.action.clone(),
            },
            concurrency_max: event.concurrency_max,
            rate_per_min: event.rate_per_min,
            target_count: event.target_count,
            cancelled: false,
            closed: false,
        }
    }

    fn open_command(
        &mut self,
        id: CommandId,
        row: StoredCommand,
        targets: &[NodeId],
        now: UnixMillis,
    ) {
        let waiting = || targets.iter().map(|node| (*node, TargetState::Waiting));
        self.work.batch.commands.insert(id, row.clone());
        self.work
            .batch
            .targets
            .extend(waiting().map(|(node, state)| ((id, node), state)));
        self.dispatch.open(id, row, waiting(), now);
        for node in targets {
            let is_up = self
                .seats
                .get(node)
                .is_some_and(|seat| seat.link.is_up(now));
            if is_up {
                self.dispatch.online(*node);
            }
        }
    }

    fn cancel(&mut self, id: CommandId, now: UnixMillis) {
        let Some(run) = self.dispatch.run_mut(id) else {
            return;
        };
        run.row.cancelled = true;
        self.work.batch.commands.insert(id, run.row.clone());
        let sent: Vec<NodeId> = run.sent().collect();
        for node in sent {
            self.order(node, Order::Other(DownBody::Cancel { command: id }), now);
        }
    }

    fn close(&mut self, id: CommandId) {
        let Some(mut run) = self.dispatch.close(id) else {
            return;
        };
        run.row.closed = true;
        self.closed.insert(run.row.seq, id);
        self.work.batch.commands.insert(id, run.row);
        while self.closed.len() > CLOSED_COUNT_MAX {
            if let Some((_, oldest)) = self.closed.pop_first() {
                self.work.batch.forgotten.push(oldest);
            }
        }
    }

    /// A node left the fleet: its connection ends, and what was open for it.
    fn cut_off(&mut self, node: NodeId, now: UnixMillis) {
        self.relook(node, now);
        self.forget_wants(node);
        self.unwatch(node);
        self.work.events.push(DeskEvent::Disconnect(node));
        if let Some(seat) = self.seats.get_mut(&node) {
            seat.link.close();
        }
        for id in self.dispatch.open_of(node) {
            let was_sent = self
                .dispatch
                .run(id)
                .is_some_and(|run| run.is_sent_to(node));
            let (ended, detail) = if was_sent {
                (
                    Ended::Unreachable,
                    "the node left the fleet before its receipt came",
                )
            } else {
                (
                    Ended::Cancelled,
                    "the node left the fleet before it was sent",
                )
            };
            self.end(id, node, ended, ErrorCode::NodeRevoked, detail, now);
        }
    }

    fn order_labels(&mut self, node: NodeId, now: UnixMillis) {
        if let Some(record) = self.fleet.node(node) {
            let body = DownBody::Labels {
                name: record.name.clone(),
                labels: record.labels.clone(),
            };
            // Without a session the next welcome says it.
            self.order(node, Order::Other(body), now);
        }
    }

    /// Gives a session the trust set in force, unless the node holds it or it is on
    /// its way.
    pub(super) fn order_trust(&mut self, node: NodeId, now: UnixMillis) {
        let version = self.trust.version;
        let lacks = self
            .seats
            .get(&node)
            .is_some_and(|seat| seat.link.lacks_trust(version));
        if !lacks {
            return;
        }
        let body = DownBody::Trust(self.trust.signed.clone());
        self.order(node, Order::Other(body), now);
    }

    /// Gives a session what the node was given before and has not answered.
    pub(super) fn carry_open_commands(&mut self, node: NodeId, now: UnixMillis) {
        for id in self.dispatch.sent_of(node) {
            let Some(seat) = self.seats.get_mut(&node) else {
                return;
            };
            if seat.carried.contains(&id) || !seat.link.has_room() {
                continue;
            }
            let Some(run) = self.dispatch.run(id) else {
                continue;
            };
            let order = if run.row.cancelled {
                Order::Other(DownBody::Cancel { command: id })
            } else if self.may_run(node, &run.command) {
                Order::Command(std::sync::Arc::clone(&run.command))
            } else {
                continue;
            };
            if self.order(node, order, now)
                && let Some(seat) = self.seats.get_mut(&node)
            {
                seat.carried.insert(id);
            }
        }
    }

    /// Whether the node's identity allows the command.
    fn may_run(&self, node: NodeId, command: &Command) -> bool {
        self.fleet.node(node).is_some_and(|record| {
            record.is_active() && (record.suspicion.is_none() || !command.action.mutates())
        })
    }

    /// Moves commands on: deadlines, pacing, conclusions.
    pub(super) fn run_commands(&mut self, now: UnixMillis) {
        let grace = 2 * self.config.heartbeat + GRACE;
        let overdue = self.dispatch.overdue(now, grace, |node| {
            self.seats
                .get(&node)
                .is_some_and(|seat| seat.link.is_up(now))
        });
        for Overdue {
            command,
            node,
            ended,
            detail,
        } in overdue
        {
            let code = match ended {
                Ended::Cancelled => ErrorCode::CommandCancelled,
                Ended::Expired => ErrorCode::CommandExpired,
                Ended::Succeeded
                | Ended::Failed { .. }
                | Ended::Refused
                | Ended::TimedOut
                | Ended::Interrupted
                | Ended::Unreachable => ErrorCode::CommandUnreachable,
            };
            self.end(command, node, ended, code, detail, now);
        }
        self.release(now);
        for id in self.dispatch.concluded(now) {
            self.conclude(id, now);
        }
    }

    fn release(&mut self, now: UnixMillis) {
        let fleet = std::sync::Arc::clone(&self.fleet);
        let mut dispatch = std::mem::take(&mut self.dispatch);
        let released = dispatch.release(now, |node, command| {
            let connected = self
                .seats
                .get(&node)
                .is_some_and(|seat| seat.link.is_up(now) && seat.link.has_room());
            connected
                && self.may_run(node, command)
                && fleet
                    .node(node)
                    .is_some_and(|record| self.is_in_hours(record, command, now))
        });
        self.dispatch = dispatch;
        for (id, node) in released {
            self.work
                .batch
                .targets
                .insert((id, node), TargetState::Sent { at: now });
            let Some(run) = self.dispatch.run(id) else {
                continue;
            };
            let order = Order::Command(std::sync::Arc::clone(&run.command));
            if is_gated(&run.command.action) {
                self.work.seen.push((node, Seen::Changed));
            }
            // One node may be released for more commands than its window has room
            // for; its next heartbeat carries the rest.
            if self.order(node, order, now)
                && let Some(seat) = self.seats.get_mut(&node)
            {
                seat.carried.insert(id);
            }
        }
    }

    fn end(
        &mut self,
        id: CommandId,
        node: NodeId,
        ended: Ended,
        code: ErrorCode,
        detail: &str,
        now: UnixMillis,
    ) {
        if self.dispatch.settle(id, node, ended) == Settled::Now {
            self.work.batch.targets.insert(
                (id, node),
                TargetState::Final(FinalState {
                    ended,
                    at: now,
                    code: Some(code.text().to_owned()),
                    detail: detail.to_owned(),
                }),
            );
        }
    }

    /// Asks for a command's conclusion, with the root over what is durable. While
    /// its last targets are in the batch in work, it waits for the next one.
    fn conclude(&mut self, id: CommandId, now: UnixMillis) {
        let all = (id, NodeId::NIL)..=(id, NodeId::from_bytes([0xff; 10]));
        let in_work = self.work.batch.targets.range(all).next().is_some();
        let Some(run) = self.dispatch.run_mut(id) else {
            return;
        };
        if in_work {
            run.conclude_soon(now);
            return;
        }
        let counts = run.counts();
        match self.merkle_root(id) {
            Ok((merkle_root, kept)) if kept == counts => {
                self.work.events.push(DeskEvent::Concluded {
                    command: id,
                    counts,
                    merkle_root,
                });
            }
            // The index in memory is read again with the next batch.
            Ok(_) => self.stale = true,
            Err(error) => tracing::error!(
                command = %id,
                error = &error as &dyn std::error::Error,
                "cannot read a command's targets"
            ),
        }
    }

    /// The Merkle root over a command's final states and receipts by node id, and
    /// what it counts.
    fn merkle_root(&self, id: CommandId) -> Result<(Digest, Counts), IntakeError> {
        let mut leaves = Vec::new();
        let mut counts = Counts::default();
        let mut after = None;
        loop {
            let page = self.intake.targets(id, after, PAGE_COUNT_MAX)?;
            let Some((last, _)) = page.last() else {
                break;
            };
            after = Some(*last);
            for (node, state) in page {
                if let TargetState::Final(state) = &state {
                    crate::uplink::dispatch::count(&mut counts, state.ended);
                }
                let receipt = self
                    .intake
                    .receipt(id, node)?
                    .filter(|receipt| !receipt.late);
                leaves.push(leaf(node, &state, receipt.as_ref().map(|it| &it.receipt)));
            }
        }
        Ok((merkle::root(&leaves), counts))
    }

    /// Reads open commands from the store.
    pub(super) fn load_commands(&mut self, now: UnixMillis) -> Result<(), IntakeError> {
        self.intake.reopen_if_closed()?;
        let mut dispatch = Dispatch::default();
        let mut closed = std::collections::BTreeMap::new();
        for (id, row) in self.intake.commands()? {
            if row.closed {
                closed.insert(row.seq, id);
                continue;
            }
            let mut targets = Vec::new();
            let mut after = None;
            loop {
                let page = self.intake.targets(id, after, PAGE_COUNT_MAX)?;
                let Some((last, _)) = page.last() else {
                    break;
                };
                after = Some(*last);
                targets.extend(page);
            }
            dispatch.open(id, row, targets, now);
        }
        for (node, seat) in &self.seats {
            if seat.link.is_up(now) {
                dispatch.online(*node);
            }
        }
        self.dispatch = dispatch;
        self.closed = closed;
        Ok(())
    }
}

/// One target's leaf: who, how it ended, and the receipt that said so.
fn leaf(node: NodeId, state: &TargetState, receipt: Option<&protocol::command::Receipt>) -> Digest {
    let state = protocol::message::encode(state);
    let receipt = receipt.map(protocol::message::encode).unwrap_or_default();
    let content = Digest::of("flotilla target", &[node.as_bytes(), &state, &receipt]);
    merkle::leaf(&content.0)
}
