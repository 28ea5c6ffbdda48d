//! The task that owns the executor, between two channels.
//!
//! **Invariant:** it never waits for one channel while the other needs it:
//! events that the owner has not taken yet are kept here, and while many are
//! kept no further order is read. Progress is dropped first, receipts never.

use std::collections::VecDeque;

use protocol::command::{Command, OutputStream, Receipt};
use protocol::id::CommandId;
use protocol::time::UnixMillis;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::executor::{Clocks, Executor};
use super::settings::Settings;
use super::task::ReloadRequest;
use crate::domain::gate::Admit;

/// Events kept for an owner that is busy: every slot's and every waiting
/// command's end fits, so orders stop only when the owner does.
const KEPT_MAX: usize = 512;

/// What the executor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Carry this out. Its ledger entry is durable.
    Start(Command),
    /// Stop this one, if it waits or runs.
    Cancel(CommandId),
}

/// What the executor tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEvent {
    /// A command got its slot.
    Started {
        /// Which command.
        command: CommandId,
        /// When, in controller time.
        at: UnixMillis,
    },
    /// A command wrote something. May be missing: the receipt is what counts.
    Output {
        /// Which command.
        command: CommandId,
        /// Which of its outputs.
        stream: OutputStream,
        /// Bytes that this output had before.
        offset: u64,
        /// What it wrote.
        bytes: Vec<u8>,
    },
    /// A command ended: exactly one for each that was started.
    Finished(Receipt),
}

/// What the subsystem needs.
pub struct Context {
    /// The node's rules; a change holds for commands that start after it.
    pub settings: watch::Receiver<Settings>,
    /// The clocks.
    pub clocks: Clocks,
    /// What to do.
    pub orders: mpsc::Receiver<Order>,
    /// What happened.
    pub events: mpsc::Sender<CommandEvent>,
    /// Reaches whoever owns the configuration.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Asked when a command gets its slot.
    pub admit: Admit,
    /// When cancelled, running commands are ended and reported interrupted.
    pub stop: CancellationToken,
}

/// Runs commands until it is stopped or its owner has gone.
pub async fn run(context: Context) {
    let Context {
        mut settings,
        clocks,
        mut orders,
        events,
        reload,
        admit,
        stop,
    } = context;
    let first = settings.borrow_and_update().clone();
    let mut executor = Executor::new(first, clocks, reload, admit);
    let mut kept: VecDeque<CommandEvent> = VecDeque::new();
    loop {
        let room = kept.len() < KEPT_MAX;
        tokio::select! {
            () = stop.cancelled() => break,
            permit = events.reserve(), if !kept.is_empty() => match (permit, kept.pop_front()) {
                (Ok(permit), Some(event)) => permit.send(event),
                (Ok(_), None) => {}
                (Err(_), _) => break,
            },
            order = orders.recv(), if room => match order {
                Some(Order::Start(command)) => executor.start(command),
                Some(Order::Cancel(id)) => {
                    executor.cancel(id);
                }
                None => break,
            },
            event = executor.next(), if room => kept.push_back(event),
            changed = settings.changed() => match changed {
                Ok(()) => executor.apply(settings.borrow_and_update().clone()),
                Err(_) => break,
            },
        }
    }
    let owed = executor
        .shutdown()
        .await
        .into_iter()
        .map(CommandEvent::Finished);
    kept.retain(|event| matches!(event, CommandEvent::Finished(_)));
    for event in kept.into_iter().chain(owed) {
        if events.send(event).await.is_err() {
            return;
        }
    }
}
