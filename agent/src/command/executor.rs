//! Which command runs when: lanes, slots, cancellation, and one receipt each.
//!
//! Owns every running command's task. Commands wait in lanes by what they do,
//! so that a stuck program delays other programs at most, never a question
//! about a unit, a log, or a ping. **Invariant:** each started command yields
//! exactly one [`CommandEvent::Finished`], whatever it does, and gives its slot
//! back: a task that panics or overruns its bound is ended here.
//!
//! [`Executor::start`] cannot fail: what cannot run is refused by receipt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Action, Command, Outcome, Receipt, ServiceVerb};
use protocol::id::CommandId;
use protocol::time::UnixMillis;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::CommandEvent;
use super::ending::Ending;
use super::offspring::{self, Leftovers};
use super::process::{Bounds, ENDING_MAX};
use super::progress::Progress;
use super::settings::Settings;
use super::task::{self, Context, ReloadRequest};
use crate::domain::gate::{self, Admit};

/// Commands that wait in one lane; the next one is refused with
/// `command.no_slot`. An operator who sends more to one node than this many at
/// a time is better told so than kept waiting.
pub(crate) const WAITING_MAX: usize = 64;

/// Progress chunks that wait for the owner; when full, chunks are dropped.
const PROGRESS_QUEUE: usize = 64;

/// How often waiting commands are looked at for expiry.
const EXPIRY_CHECK: Duration = Duration::from_secs(1);

/// Time that a command's task has beyond all of its own bounds before it is
/// taken to be stuck.
const OVERRUN: Duration = Duration::from_secs(10);

/// Longest wait of a shutdown for commands that were asked to end; then they
/// are killed. Shorter than what the whole agent has for stopping.
const SHUTDOWN_MAX: Duration = Duration::from_secs(4);

/// Reads a point in time.
pub type ReadTime = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

/// The two clocks that commands are judged by.
#[derive(Clone)]
pub struct Clocks {
    /// Controller time: deadlines and receipts.
    pub controller: ReadTime,
    /// The node's own clock, which its logs and its container engine use.
    pub wall: ReadTime,
}

impl Clocks {
    pub(crate) fn controller(&self) -> UnixMillis {
        (self.controller)()
    }

    pub(crate) fn wall(&self) -> UnixMillis {
        (self.wall)()
    }
}

impl std::fmt::Debug for Clocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clocks").finish_non_exhaustive()
    }
}

/// Commands of one kind share slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Programs and changes of units.
    Work,
    /// Questions that end by themselves.
    Read,
    /// Logs that are followed until their deadline.
    Follow,
    /// The agent's own.
    Own,
}

const LANES: [Lane; 4] = [Lane::Work, Lane::Read, Lane::Follow, Lane::Own];

impl Lane {
    fn of(action: &Action) -> Self {
        match action {
            Action::Ping | Action::Reload => Self::Own,
            Action::Service {
                verb: ServiceVerb::Status,
                ..
            }
            | Action::Logs { follow: false, .. } => Self::Read,
            Action::Logs { follow: true, .. } => Self::Follow,
            Action::Run { .. } | Action::Service { .. } => Self::Work,
        }
    }

    fn slots(self, configured: usize) -> usize {
        match self {
            Self::Work | Self::Read | Self::Follow => configured.max(1),
            // One reload at a time.
            Self::Own => 1,
        }
    }
}

/// How much an executor has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Commands that run.
    pub running: usize,
    /// Commands that wait for a slot.
    pub waiting: usize,
}

#[derive(Debug)]
struct Running {
    command: CommandId,
    lane: Lane,
    started_at: UnixMillis,
    stop: CancellationToken,
    cancelled: bool,
}

/// Runs commands. One task owns it: it starts, cancels, and awaits [`next`].
///
/// [`next`]: Executor::next
pub struct Executor {
    settings: Arc<Settings>,
    clocks: Clocks,
    reload: mpsc::Sender<ReloadRequest>,
    admit: Admit,
    tasks: JoinSet<Ending>,
    running: BTreeMap<Id, Running>,
    waiting: BTreeMap<Lane, VecDeque<Command>>,
    ready: VecDeque<CommandEvent>,
    progress: mpsc::Sender<CommandEvent>,
    progressed: mpsc::Receiver<CommandEvent>,
}

impl Executor {
    /// An executor with nothing to do. `reload` reaches whoever owns the
    /// configuration; `admit` is asked when a command gets its slot, which may be
    /// long after it was taken.
    pub fn new(
        settings: Settings,
        clocks: Clocks,
        reload: mpsc::Sender<ReloadRequest>,
        admit: Admit,
    ) -> Self {
        let (progress, progressed) = mpsc::channel(PROGRESS_QUEUE);
        offspring::adopt();
        Self {
            settings: Arc::new(settings),
            clocks,
            reload,
            admit,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            waiting: LANES.iter().map(|lane| (*lane, VecDeque::new())).collect(),
            ready: VecDeque::new(),
            progress,
            progressed,
        }
    }

    /// Takes new settings for commands that start from here on.
    pub fn apply(&mut self, settings: Settings) {
        self.settings = Arc::new(settings);
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len(),
            waiting: self.waiting.values().map(VecDeque::len).sum(),
        }
    }

    /// Takes a command. Its end comes from [`Executor::next`].
    pub fn start(&mut self, command: Command) {
        let id = command.id;
        if self.knows(id) {
            tracing::error!(command = %id, "command started twice, second start ignored");
            return;
        }
        if let Err(error) = command.check() {
            return self.refuse(id, &Ending::refused(error.code(), &error));
        }
        if let Action::Ping = command.action {
            let at = self.clocks.controller();
            let ending = Ending::succeeded("pong", Default::default());
            return self.finish(id, Some(at), &ending);
        }
        let lane = Lane::of(&command.action);
        let queue = self.waiting.entry(lane).or_default();
        if queue.len() >= WAITING_MAX {
            let why = format!("{WAITING_MAX} commands of its kind wait already");
            let ending = Ending::without_output(Outcome::Refused, ErrorCode::CommandNoSlot, why);
            return self.refuse(id, &ending);
        }
        queue.push_back(command);
        self.fill();
    }

    /// Stops a command that waits or runs. Returns whether there was one; if
    /// it ends by itself meanwhile, that end stands.
    pub fn cancel(&mut self, id: CommandId) -> bool {
        for queue in self.waiting.values_mut() {
            if let Some(at) = queue.iter().position(|command| command.id == id) {
                queue.remove(at);
                let why = "it was cancelled before it started".to_owned();
                let code = ErrorCode::CommandCancelled;
                let ending = Ending::without_output(Outcome::Cancelled, code, why);
                self.refuse(id, &ending);
                return true;
            }
        }
        match self.running.values_mut().find(|one| one.command == id) {
            Some(running) => {
                running.cancelled = true;
                running.stop.cancel();
                true
            }
            None => false,
        }
    }

    /// What happened next. Cancel-safe; never returns while there is nothing
    /// to do.
    pub async fn next(&mut self) -> CommandEvent {
        loop {
            self.fill();
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let waits = self.waiting.values().any(|queue| !queue.is_empty());
            tokio::select! {
                // What a command wrote comes before its end.
                biased;
                Some(event) = self.progressed.recv() => return event,
                Some(joined) = self.tasks.join_next_with_id() => self.joined(joined),
                () = tokio::time::sleep(EXPIRY_CHECK), if waits => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Ends every command: what waits is not started, what runs is killed.
    /// Returns the receipts that are still owed, within six seconds.
    pub async fn shutdown(&mut self) -> Vec<Receipt> {
        let waiting: Vec<CommandId> = self
            .waiting
            .values_mut()
            .flat_map(std::mem::take)
            .map(|command| command.id)
            .collect();
        for id in waiting {
            let why = "the agent stopped before it started".to_owned();
            let code = ErrorCode::CommandInterrupted;
            let ending = Ending::without_output(Outcome::Interrupted, code, why);
            self.refuse(id, &ending);
        }
        for running in self.running.values() {
            running.stop.cancel();
        }
        let all = async {
            while let Some(joined) = self.tasks.join_next_with_id().await {
                self.joined(joined);
            }
        };
        // What is left after this is killed as its task is dropped.
        if tokio::time::timeout(SHUTDOWN_MAX, all).await.is_err() {
            self.tasks.abort_all();
            while let Some(joined) = self.tasks.join_next_with_id().await {
                self.joined(joined);
            }
        }
        let left = offspring::end(None).await;
        if left != Leftovers::default() {
            tracing::info!(
                count = left.count,
                remain = left.remain,
                "what commands left running was ended"
            );
        }
        self.ready
            .drain(..)
            .filter_map(|event| match event {
                CommandEvent::Finished(receipt) => Some(receipt),
                CommandEvent::Started { .. } | CommandEvent::Output { .. } => None,
            })
            .collect()
    }

    fn knows(&self, id: CommandId) -> bool {
        let waits = |queue: &VecDeque<Command>| queue.iter().any(|command| command.id == id);
        self.waiting.values().any(waits) || self.running.values().any(|one| one.command == id)
    }

    /// Starts what has a slot, and gives up what came too late for one.
    fn fill(&mut self) {
        let now = self.clocks.controller();
        for lane in LANES {
            while let Some(command) = self.take(lane, now) {
                match (self.admit)(gate::attempt(&command.action)) {
                    Ok(()) => self.launch(lane, command, now),
                    Err(refusal) => {
                        let ending = Ending::refused(refusal.code(), &refusal);
                        self.refuse(command.id, &ending);
                    }
                }
            }
        }
    }

    fn take(&mut self, lane: Lane, now: UnixMillis) -> Option<Command> {
        let busy = self.running.values().filter(|one| one.lane == lane).count();
        let queue = self.waiting.entry(lane).or_default();
        let (late, fresh): (VecDeque<Command>, VecDeque<Command>) =
            queue.drain(..).partition(|command| command.start_by < now);
        *queue = fresh;
        let next = if busy < lane.slots(self.settings.slots) {
            queue.pop_front()
        } else {
            None
        };
        for command in late {
            let why = format!("no slot was free before {}", command.start_by);
            let code = ErrorCode::CommandExpired;
            let ending = Ending::without_output(Outcome::Expired, code, why);
            self.refuse(command.id, &ending);
        }
        next
    }

    fn launch(&mut self, lane: Lane, command: Command, now: UnixMillis) {
        let stop = CancellationToken::new();
        let bounds = task::bounds(&command, self.settings.kill_grace);
        let context = Context {
            settings: Arc::clone(&self.settings),
            clocks: self.clocks.clone(),
            folder: self.settings.work_dir.join(command.id.to_string()),
            bounds,
            stop: stop.clone(),
            progress: Progress::new(command.id, self.progress.clone()),
            reload: self.reload.clone(),
        };
        tracing::info!(
            command = %command.id, action = command.action.name(), by = %command.issued_by,
            "command started"
        );
        let work = Box::pin(task::execute(context, command.action));
        let task = self.tasks.spawn(within(bounds, work)).id();
        self.running.insert(
            task,
            Running {
                command: command.id,
                lane,
                started_at: now,
                stop,
                cancelled: false,
            },
        );
        self.ready.push_back(CommandEvent::Started {
            command: command.id,
            at: now,
        });
    }

    fn joined(&mut self, joined: Result<(Id, Ending), JoinError>) {
        let (task, mut ending) = match joined {
            Ok(done) => done,
            Err(error) => {
                let why = if error.is_cancelled() {
                    "it did not end in time when the agent stopped"
                } else {
                    "the agent failed while it ran it"
                };
                let outcome = Outcome::Cancelled;
                let ending = Ending::without_output(outcome, ErrorCode::Internal, why.to_owned());
                (error.id(), ending)
            }
        };
        let Some(running) = self.running.remove(&task) else {
            return;
        };
        // Stopped, and by nobody's wish: the agent itself is stopping, or
        // failed.
        if ending.outcome == Outcome::Cancelled && !running.cancelled {
            ending.outcome = Outcome::Interrupted;
            ending.code = Some(ErrorCode::CommandInterrupted);
            if running.stop.is_cancelled() {
                "the agent stopped while it ran".clone_into(&mut ending.detail);
            }
        }
        self.finish(running.command, Some(running.started_at), &ending);
    }

    fn refuse(&mut self, command: CommandId, ending: &Ending) {
        self.finish(command, None, ending);
    }

    fn finish(&mut self, command: CommandId, started_at: Option<UnixMillis>, ending: &Ending) {
        let started_at = started_at.filter(|_| ending.outcome != Outcome::Refused);
        tracing::info!(
            %command, outcome = ending.outcome.name(), detail = %ending.detail, "command ended"
        );
        self.ready.push_back(CommandEvent::Finished(Receipt {
            command,
            outcome: ending.outcome,
            code: ending.code.map(|code| code.info().text.to_owned()),
            detail: ending.fitted_detail(),
            started_at,
            ended_at: self.clocks.controller(),
            stdout: ending.output.stdout.clone(),
            stderr: ending.output.stderr.clone(),
            cut_bytes: ending.output.cut,
        }));
    }
}

/// The last line of defence: no action may hold its slot past its bounds.
async fn within(bounds: Bounds, work: impl Future<Output = Ending>) -> Ending {
    let most = bounds.timeout + bounds.grace + ENDING_MAX + OVERRUN;
    match tokio::time::timeout(most, work).await {
        Ok(ending) => ending,
        Err(_) => Ending::without_output(
            Outcome::TimedOut,
            ErrorCode::CommandTimedOut,
            "it did not end when its time was up, and was left behind".to_owned(),
        ),
    }
}
