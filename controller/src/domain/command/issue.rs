//! Issuing, cancelling and concluding commands.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Action, Command};
use protocol::id::{CommandId, NodeId};
use protocol::limits::START_BY_MAX;
use protocol::selector::Selector;
use protocol::time::millis;

use crate::domain::audit::merkle;
use crate::domain::breaker::manage::admit_command;
use crate::domain::command::event::{CommandCancelRequested, CommandConcluded, CommandIssued};
use crate::domain::command::{COMMANDS_OPEN_MAX, Counts, FleetCommand, Hours};
use crate::domain::decide::Targets;
use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::rejection::Rejection;
use crate::domain::window::Work;

/// The most nodes that one command goes to, which is every node of the largest
/// fleet that one controller holds.
pub const TARGETS_MAX: usize = 100_000;

/// The highest rate that can be asked for; beyond it no rate means the same.
pub const RATE_PER_MIN_MAX: u32 = 1_000_000;

/// Issue a command to some nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueCommand {
    /// Which nodes.
    pub on: Aim,
    /// What to do.
    pub action: Action,
    /// How long from here on it may be started.
    pub start_within: Duration,
    /// How long it may run once started.
    pub run_timeout: Duration,
    /// Bytes of output that a receipt may carry.
    pub output_bytes_max: u32,
    /// Nodes that may run it at once; none for all.
    pub concurrency_max: Option<u32>,
    /// Nodes that may be given it in a minute; none for no limit.
    pub rate_per_min: Option<u32>,
    /// What to do when no node is meant.
    pub empty: EmptyAim,
    /// Whether it waits for maintenance windows.
    pub hours: Hours,
}

/// Which nodes a command is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Every active node that matches.
    Selector(Selector),
    /// These, each of which must be there.
    Nodes(BTreeSet<NodeId>),
}

/// What to do when no node is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyAim {
    /// It is a mistake: refuse.
    Refuse,
    /// It is fine: the command is concluded at once.
    Allow,
}

/// Cancel a command on every node where it has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelCommand {
    /// Which.
    pub command: CommandId,
}

/// Record that every target of a command has its final state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcludeCommand {
    /// Which.
    pub command: CommandId,
    /// How many ended how.
    pub counts: Counts,
    /// The Merkle root over final states and receipts, by node id.
    pub merkle_root: Digest,
}

/// The nodes that an aim means at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Those that get the command, by id.
    pub nodes: Vec<NodeId>,
    /// How many match and are left out, because their identity is in doubt.
    pub withheld: u32,
}

/// Which nodes are meant: a selector means active nodes. One whose identity is
/// in doubt gets no command that changes anything.
///
/// # Errors
/// The rejection for a named node that cannot be given the command.
pub fn resolve(fleet: &Fleet, aim: &Aim, action: &Action) -> Result<Resolved, Rejection> {
    match aim {
        Aim::Selector(selector) => {
            let (held_back, nodes): (Vec<_>, Vec<_>) = fleet
                .nodes()
                .filter(|node| node.is_active() && selector.matches(node.subject()))
                .partition(|node| node.suspicion.is_some() && action.mutates());
            Ok(Resolved {
                nodes: nodes.into_iter().map(|node| node.id).collect(),
                withheld: u32::try_from(held_back.len()).unwrap_or(u32::MAX),
            })
        }
        Aim::Nodes(ids) => {
            for &id in ids {
                let node = fleet.existing(id)?;
                node.require_active()?;
                if node.suspicion.is_some() && action.mutates() {
                    return Err(Rejection::new(
                        ErrorCode::NodeIdentitySuspect,
                        format!("identity of node {id} is in doubt; resolve it first"),
                    ));
                }
            }
            Ok(Resolved {
                nodes: ids.iter().copied().collect(),
                withheld: 0,
            })
        }
    }
}

/// The digest of a command's targets, in the order of their ids.
#[must_use]
pub fn targets_digest(nodes: &[NodeId]) -> Digest {
    let ids: Vec<u8> = nodes.iter().flat_map(|id| *id.as_bytes()).collect();
    Digest::of("flotilla targets 1", &[&ids])
}

pub(crate) fn issue(
    fleet: &Fleet,
    asked: &IssueCommand,
    at: &Moment,
) -> Result<(Vec<Event>, Targets), Rejection> {
    check_limits(fleet, asked)?;
    let resolved = resolve(fleet, &asked.on, &asked.action)?;
    if resolved.nodes.is_empty() && asked.empty == EmptyAim::Refuse {
        return Err(nothing_meant(&asked.on, resolved.withheld));
    }
    if resolved.nodes.len() > TARGETS_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!(
                "{} nodes are meant; a command goes to at most {TARGETS_MAX}",
                resolved.nodes.len()
            ),
        ));
    }
    admit_command(fleet, &asked.action, &resolved.nodes, at)?;
    opens_in_time(fleet, asked, &resolved.nodes, at)?;
    let command: CommandId = at.ids.id(0);
    let issued = CommandIssued {
        command,
        selector: match &asked.on {
            Aim::Selector(selector) => Some(selector.clone()),
            Aim::Nodes(_) => None,
        },
        action: asked.action.clone(),
        start_by: at.now.after(asked.start_within),
        run_timeout_ms: millis(asked.run_timeout),
        output_bytes_max: asked.output_bytes_max,
        concurrency_max: asked.concurrency_max,
        rate_per_min: asked.rate_per_min,
        target_count: u32::try_from(resolved.nodes.len()).unwrap_or(u32::MAX),
        targets_digest: targets_digest(&resolved.nodes),
        withheld: resolved.withheld,
        hours: asked.hours,
    };
    check_as_sent(&issued, at)?;
    let mut events = vec![Event::CommandIssued(issued)];
    if resolved.nodes.is_empty() {
        events.push(Event::CommandConcluded(CommandConcluded {
            command,
            counts: Counts::default(),
            merkle_root: merkle::root(&[]),
        }));
    }
    let targets = Targets {
        of: command.into(),
        nodes: resolved.nodes,
    };
    Ok((events, targets))
}

/// Refuses a command that a node could never start, because its maintenance window
/// opens when it is too late: whoever issues it learns that now.
fn opens_in_time(
    fleet: &Fleet,
    asked: &IssueCommand,
    nodes: &[NodeId],
    at: &Moment,
) -> Result<(), Rejection> {
    let windows = fleet.windows();
    if asked.hours == Hours::Any || windows.iter().len() == 0 {
        return Ok(());
    }
    let start_by = at.now.after(asked.start_within);
    let mut late = nodes
        .iter()
        .filter_map(|node| fleet.node(*node))
        .filter_map(|node| {
            let work = Work::Command(&asked.action);
            let wait = windows.wait(node.subject(), work, at.now)?;
            (wait.until >= start_by).then_some((node, wait))
        });
    let Some((node, wait)) = late.next() else {
        return Ok(());
    };
    let more = late.count();
    let rest = if more == 0 {
        String::new()
    } else {
        format!(", and {more} more nodes wait as long")
    };
    Err(Rejection::new(
        ErrorCode::WindowClosed,
        format!(
            "node {} {wait}, when the command's time to start is over{rest}",
            node.name
        ),
    ))
}

pub(crate) fn cancel(fleet: &Fleet, asked: &CancelCommand) -> Result<Vec<Event>, Rejection> {
    let command = open(fleet, asked.command)?;
    if command.cancel.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::CommandCancelRequested(
        CommandCancelRequested {
            command: asked.command,
        },
    )])
}

pub(crate) fn conclude(fleet: &Fleet, asked: &ConcludeCommand) -> Result<Vec<Event>, Rejection> {
    let command = open(fleet, asked.command)?;
    if asked.counts.total() != u64::from(command.target_count) {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "command {} has {} targets, not {}",
                asked.command,
                command.target_count,
                asked.counts.total()
            ),
        ));
    }
    Ok(vec![Event::CommandConcluded(CommandConcluded {
        command: asked.command,
        counts: asked.counts,
        merkle_root: asked.merkle_root,
    })])
}

fn open(fleet: &Fleet, id: CommandId) -> Result<&FleetCommand, Rejection> {
    let command = fleet.commands().get(id).ok_or_else(|| {
        Rejection::new(
            ErrorCode::CommandNotFound,
            format!("there is no command {id}, or it ended long ago"),
        )
    })?;
    if command.conclusion.is_some() {
        return Err(Rejection::new(
            ErrorCode::CommandFinished,
            format!("command {id} has ended"),
        ));
    }
    Ok(command)
}

fn check_limits(fleet: &Fleet, asked: &IssueCommand) -> Result<(), Rejection> {
    let invalid = |detail: String| Err(Rejection::new(ErrorCode::CommandInvalid, detail));
    if asked.start_within.is_zero() || asked.start_within > START_BY_MAX {
        return invalid(format!(
            "time to start is {} s; give 1 to {}",
            asked.start_within.as_secs(),
            START_BY_MAX.as_secs()
        ));
    }
    if asked.concurrency_max == Some(0) {
        return invalid("concurrency is 0; give at least 1".to_owned());
    }
    if asked
        .rate_per_min
        .is_some_and(|rate| !(1..=RATE_PER_MIN_MAX).contains(&rate))
    {
        return invalid(format!("rate per minute is not 1 to {RATE_PER_MIN_MAX}"));
    }
    if fleet.commands().open().count() >= COMMANDS_OPEN_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {COMMANDS_OPEN_MAX} open commands; wait or cancel some"),
        ));
    }
    Ok(())
}

/// Checks the command as a node will: what a node would refuse as malformed is
/// refused here, once.
fn check_as_sent(issued: &CommandIssued, at: &Moment) -> Result<(), Rejection> {
    Command {
        id: issued.command,
        issued_at: at.now,
        start_by: issued.start_by,
        run_timeout_ms: issued.run_timeout_ms,
        output_bytes_max: issued.output_bytes_max,
        issued_by: String::new(),
        action: issued.action.clone(),
    }
    .check()
    .map_err(|error| Rejection::new(error.code(), error.to_string()))
}

fn nothing_meant(aim: &Aim, withheld: u32) -> Rejection {
    let what = match aim {
        Aim::Selector(selector) => format!("selector {selector} matches no active node"),
        Aim::Nodes(_) => "no node is named".to_owned(),
    };
    let rest = if withheld == 0 {
        String::new()
    } else {
        format!(" except {withheld} whose identity is in doubt")
    };
    Rejection::new(ErrorCode::SelectorEmpty, format!("{what}{rest}"))
}
