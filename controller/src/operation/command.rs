//! Fleet commands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Action, LogSource, Outcome, OutputStream, Receipt, ServiceVerb};
use protocol::id::{CommandId, NodeId};
use protocol::limits::OUTPUT_BYTES_DEFAULT;

use super::view::command::{
    ActionView, CommandList, CommandView, IssueCommand, ListCommands, ListTargets, ReceiptView,
    SourceView, TargetPage, TargetView, VerbView,
};
use super::{Operations, Who, find_selector, unexpected};
use crate::clock;
use crate::domain::access::caller::Caller;
use crate::domain::command::issue::{self, Aim, CancelCommand, EmptyAim};
use crate::domain::command::{Counts, FleetCommand, Hours};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::domain::window::{Wait, Work};
use crate::operation::failure::Failure;
use crate::uplink::{Target, UplinkError};

/// How long nodes have to start a command, unless the caller says otherwise.
const START_WITHIN: Duration = Duration::from_secs(600);

/// How long a command may run on a node, unless the caller says otherwise.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// Most rows in one answer.
const ROWS_MAX: u32 = 1000;

impl Operations {
    /// Issues a command.
    ///
    /// # Errors
    /// When it is denied on any node, matches nothing, or is malformed.
    pub async fn issue_command(
        &self,
        who: &Who,
        asked: IssueCommand,
    ) -> Result<CommandView, Failure> {
        let (on, action) = (self.aim(who, &asked.nodes)?, action(asked.action));
        let hours = if asked.now {
            Hours::Any
        } else {
            Hours::Windows
        };
        let operation = Operation::IssueCommand(issue::IssueCommand {
            on: on.clone(),
            action: action.clone(),
            start_within: asked.start_by_s.map_or(START_WITHIN, Duration::from_secs),
            run_timeout: asked
                .run_timeout_ms
                .map_or(RUN_TIMEOUT, Duration::from_millis),
            output_bytes_max: asked.output_bytes_max.unwrap_or(OUTPUT_BYTES_DEFAULT),
            concurrency_max: asked.concurrency,
            rate_per_min: asked.rate_per_minute,
            empty: if asked.allow_empty {
                EmptyAim::Allow
            } else {
                EmptyAim::Refuse
            },
            hours,
        });
        let applied = self.submit(who, operation).await?;
        let id = applied
            .events
            .iter()
            .find_map(|event| {
                if let Event::CommandIssued(issued) = event {
                    Some(issued.command)
                } else {
                    None
                }
            })
            .ok_or_else(|| unexpected(&applied.events))?;
        let mut view = self.command_view(id)?;
        // The uplink takes the command up a moment later; what it will wait for is known
        // now.
        let fleet = self.engine.fleet();
        if hours == Hours::Windows
            && let Ok(resolved) = issue::resolve(&fleet, &on, &action)
        {
            view.waits_for = waits_text(&fleet, &resolved.nodes, &action);
        }
        Ok(view)
    }

    /// One node by name or id, so that a typo is an error of its own; else a selector.
    pub(super) fn aim(&self, who: &Who, text: &str) -> Result<Aim, Failure> {
        let fleet = self.engine.fleet();
        let selector = find_selector(text)?;
        let written = selector.to_string();
        let alone = written
            .strip_prefix("name=")
            .or_else(|| written.strip_prefix("id="))
            .filter(|rest| !rest.contains(','));
        match alone {
            Some(node) => {
                let node = self.node_id(who, node)?;
                let held = super::find_node(&fleet, &node.to_string())?.id;
                Ok(Aim::Nodes(BTreeSet::from([held])))
            }
            None => Ok(Aim::Selector(selector)),
        }
    }

    /// Commands, newest first.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_commands(&self, who: &Who, asked: &ListCommands) -> Result<CommandList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("command", "read"), &[])?;
        let mut commands: Vec<_> = fleet.commands().iter().collect();
        commands.sort_by_key(|command| std::cmp::Reverse(command.seq));
        commands.truncate(rows(asked.limit, 20));
        let commands = commands
            .into_iter()
            .map(|command| self.view_of(&fleet, command))
            .collect::<Result<_, _>>()?;
        Ok(CommandList { commands })
    }

    /// One command.
    ///
    /// # Errors
    /// When it is denied, or there is no such command.
    pub fn show_command(&self, who: &Who, command: CommandId) -> Result<CommandView, Failure> {
        self.may_read_command(who, command)?;
        self.command_view(command)
    }

    /// Whoever issued a command may read it; others need the permission.
    pub(super) fn may_read_command(&self, who: &Who, command: CommandId) -> Result<(), Failure> {
        let fleet = self.engine.fleet();
        let issuer = fleet
            .commands()
            .get(command)
            .and_then(|command| command.by.principal());
        if issuer == Some(who.principal) {
            return Ok(());
        }
        self.may(who, &fleet, ("command", "read"), &[])
    }

    /// Some targets of a command, by node id.
    ///
    /// # Errors
    /// When it is denied, or there is no such command.
    pub fn list_targets(
        &self,
        who: &Who,
        command: CommandId,
        asked: &ListTargets,
    ) -> Result<TargetPage, Failure> {
        self.may_read_command(who, command)?;
        self.command_view(command)?;
        let limit = rows(asked.limit, 100);
        let mut targets = self
            .uplink
            .targets(command, asked.after, limit + 1)
            .map_err(|error| fault(&error))?;
        let more = targets.len() > limit;
        targets.truncate(limit);
        let fleet = self.engine.fleet();
        let targets: Vec<_> = targets
            .iter()
            .map(|target| target_view(&fleet, command, target))
            .collect();
        let next = targets.last().map(|target| target.node).filter(|_| more);
        Ok(TargetPage { targets, next })
    }

    /// One target with its receipt.
    ///
    /// # Errors
    /// When it is denied, or the node is no target.
    pub fn show_target(
        &self,
        who: &Who,
        command: CommandId,
        node: &str,
    ) -> Result<TargetView, Failure> {
        self.may_read_command(who, command)?;
        let node = self.node_id(who, node)?;
        self.target(command, node)?.ok_or_else(|| {
            Failure::new(
                ErrorCode::NodeNotFound,
                format!("node {node} is no target of command {command}"),
            )
        })
    }

    pub(super) fn target(
        &self,
        command: CommandId,
        node: NodeId,
    ) -> Result<Option<TargetView>, Failure> {
        let target = self
            .uplink
            .target(command, node)
            .map_err(|error| fault(&error))?;
        let fleet = self.engine.fleet();
        Ok(target.map(|target| target_view(&fleet, command, &target)))
    }

    /// Cancels a command on every node that has not finished it.
    ///
    /// # Errors
    /// When it is denied, or the command has ended.
    pub async fn cancel_command(
        &self,
        who: &Who,
        command: CommandId,
    ) -> Result<CommandView, Failure> {
        let operation = Operation::CancelCommand(CancelCommand { command });
        self.submit(who, operation).await?;
        self.command_view(command)
    }

    pub(super) fn command_view(&self, id: CommandId) -> Result<CommandView, Failure> {
        let fleet = self.engine.fleet();
        let command = fleet.commands().get(id).ok_or_else(|| {
            Failure::new(
                ErrorCode::CommandNotFound,
                format!("there is no command {id}, or it ended long ago"),
            )
        })?;
        self.view_of(&fleet, command)
    }

    fn view_of(&self, fleet: &Fleet, command: &FleetCommand) -> Result<CommandView, Failure> {
        let mut counts = BTreeMap::new();
        match &command.conclusion {
            Some(conclusion) => add_counts(&mut counts, &conclusion.counts),
            None => {
                let now = self
                    .uplink
                    .counts(command.id)
                    .map_err(|error| fault(&error))?;
                for (state, count) in [
                    ("waiting", now.waiting),
                    ("sent", now.sent.saturating_sub(now.running)),
                    ("running", now.running),
                ] {
                    counts.insert(state.to_owned(), count);
                }
                add_counts(&mut counts, &now.ended);
            }
        }
        counts.retain(|_, count| *count > 0);
        let issued_by = match command.by {
            Caller::Principal { id, .. } => fleet
                .access()
                .principal(id)
                .map_or_else(|| id.to_string(), |principal| principal.name.clone()),
            Caller::Host => "host".to_owned(),
            Caller::Node(node) => node.to_string(),
            Caller::System => "system".to_owned(),
            Caller::Anonymous => "anonymous".to_owned(),
        };
        Ok(CommandView {
            id: command.id,
            what: what(&command.action),
            nodes: command
                .selector
                .as_ref()
                .map_or_else(|| self.single_target(fleet, command), ToString::to_string),
            issued_by,
            issued_at: command.issued_at.into(),
            start_by: command.start_by.into(),
            targets: command.target_count,
            withheld: command.withheld,
            cancelled: command.cancel.is_some(),
            done: command.conclusion.is_some(),
            counts,
            waits_for: self.windows_of(fleet, command)?,
        })
    }

    /// The maintenance windows that targets of a command wait for, on one line. Of
    /// many targets the first ones are looked at.
    fn windows_of(&self, fleet: &Fleet, command: &FleetCommand) -> Result<String, Failure> {
        let is_open = command.conclusion.is_none() && command.cancel.is_none();
        if !is_open || fleet.windows().iter().len() == 0 {
            return Ok(String::new());
        }
        let targets = self
            .uplink
            .targets(command.id, None, ROWS_MAX as usize)
            .map_err(|error| fault(&error))?;
        let waiting: Vec<NodeId> = targets
            .iter()
            .filter(|target| window_of(fleet, command, target).is_some())
            .map(|target| target.node)
            .collect();
        Ok(waits_text(fleet, &waiting, &command.action))
    }

    /// The name of the one node that a command without a selector goes to.
    fn single_target(&self, fleet: &Fleet, command: &FleetCommand) -> String {
        match self.uplink.targets(command.id, None, 1) {
            Ok(targets) => targets
                .first()
                .map_or_else(String::new, |target| node_name(fleet, target.node)),
            Err(_) => String::new(),
        }
    }
}

/// How many rows to give.
pub(super) fn rows(asked: Option<u32>, default: u32) -> usize {
    let rows = asked.unwrap_or(default).clamp(1, ROWS_MAX);
    usize::try_from(rows).unwrap_or(usize::MAX)
}

pub(super) fn fault(error: &UplinkError) -> Failure {
    Failure::fault(error.code(), "the commands' states cannot be read", error)
}

pub(super) fn node_name(fleet: &Fleet, id: NodeId) -> String {
    fleet
        .node(id)
        .map_or_else(|| id.to_string(), |node| node.name.clone())
}

fn add_counts(counts: &mut BTreeMap<String, u32>, ended: &Counts) {
    for (state, count) in [
        ("succeeded", ended.succeeded),
        ("failed", ended.failed),
        ("refused", ended.refused),
        ("timed_out", ended.timed_out),
        ("expired", ended.expired),
        ("cancelled", ended.cancelled),
        ("interrupted", ended.interrupted),
        ("unreachable", ended.unreachable),
    ] {
        counts.insert(state.to_owned(), count);
    }
}

fn action(asked: ActionView) -> Action {
    match asked {
        ActionView::Ping {} => Action::Ping,
        ActionView::Run { argv } => Action::Run { argv },
        ActionView::Service { unit, verb } => Action::Service {
            unit,
            verb: match verb {
                VerbView::Status => ServiceVerb::Status,
                VerbView::Start => ServiceVerb::Start,
                VerbView::Stop => ServiceVerb::Stop,
                VerbView::Restart => ServiceVerb::Restart,
            },
        },
        ActionView::Logs {
            source,
            lines,
            since_ms,
            follow,
        } => Action::Logs {
            source: match source {
                SourceView::Unit(unit) => LogSource::Unit(unit),
                SourceView::File(file) => LogSource::File(file),
                SourceView::Container(container) => LogSource::Container(container),
            },
            lines,
            since_ms,
            follow,
        },
        ActionView::Reload {} => Action::Reload,
    }
}

/// An action on one line.
fn what(action: &Action) -> String {
    match action {
        Action::Ping => "ping".to_owned(),
        Action::Run { argv } => format!("run {}", argv.join(" ")),
        Action::Service { unit, verb } => {
            let verb = match verb {
                ServiceVerb::Status => "status",
                ServiceVerb::Start => "start",
                ServiceVerb::Stop => "stop",
                ServiceVerb::Restart => "restart",
            };
            format!("service {verb} {unit}")
        }
        Action::Logs { source, .. } => match source {
            LogSource::Unit(unit) => format!("logs of unit {unit}"),
            LogSource::File(file) => format!("logs of file {file}"),
            LogSource::Container(container) => format!("logs of container {container}"),
        },
        Action::Reload => "reload".to_owned(),
    }
}

/// The maintenance window that a target waits for; none when it does not.
fn window_of(fleet: &Fleet, command: &FleetCommand, target: &Target) -> Option<Wait> {
    if target.state.name() != "waiting" || command.hours == Hours::Any {
        return None;
    }
    let node = fleet.node(target.node)?;
    let work = Work::Command(&command.action);
    fleet.windows().wait(node.subject(), work, clock::now())
}

/// The maintenance windows that nodes wait for, on one line.
fn waits_text(fleet: &Fleet, nodes: &[NodeId], action: &Action) -> String {
    let now = clock::now();
    let mut waits: BTreeMap<String, u32> = BTreeMap::new();
    for node in nodes.iter().filter_map(|node| fleet.node(*node)) {
        let work = Work::Command(action);
        if let Some(wait) = fleet.windows().wait(node.subject(), work, now) {
            *waits.entry(wait.to_string()).or_default() += 1;
        }
    }
    let lines: Vec<String> = waits
        .into_iter()
        .map(|(wait, count)| match count {
            1 => format!("1 node {wait}"),
            _ => format!("{count} nodes: each {wait}"),
        })
        .collect();
    lines.join("; ")
}

fn target_view(fleet: &Fleet, command: CommandId, target: &Target) -> TargetView {
    let (code, detail) = target.state.reason().unwrap_or_default();
    let known = fleet.commands().get(command);
    let wait = known.and_then(|known| window_of(fleet, known, target));
    let detail = wait.map_or_else(|| detail.to_owned(), |wait| wait.to_string());
    TargetView {
        node: target.node,
        name: node_name(fleet, target.node),
        state: target.state.name().to_owned(),
        done: target.state.is_final(),
        code: code.map(str::to_owned),
        detail,
        receipt: target
            .receipt
            .as_ref()
            .map(|receipt| receipt_view(receipt, target.late)),
    }
}

fn receipt_view(receipt: &Receipt, late: bool) -> ReceiptView {
    ReceiptView {
        outcome: receipt.outcome.name().to_owned(),
        exit: match receipt.outcome {
            Outcome::Failed { exit } => exit,
            Outcome::Succeeded => Some(0),
            Outcome::Refused
            | Outcome::TimedOut
            | Outcome::Expired
            | Outcome::Cancelled
            | Outcome::Interrupted => None,
        },
        code: receipt.code.clone(),
        detail: receipt.detail.clone(),
        started_at: receipt.started_at.map(Into::into),
        ended_at: receipt.ended_at.into(),
        stdout: String::from_utf8_lossy(&receipt.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&receipt.stderr).into_owned(),
        cut_bytes: receipt.cut_bytes,
        late,
    }
}

/// The name of an output stream.
pub(super) fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}
