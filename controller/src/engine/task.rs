//! The task that runs the engine.
//!
//! Gathers what waits, hands it to the writer on a blocking thread, publishes and
//! answers. Snapshots are encoded beside it and written with a later commit, so
//! that they never stall the writer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::engine::writer::Writer;
use crate::engine::{Applied, Engine, QUEUE_MAX, SubmitError, Waiting, lock};
use crate::journal::error::JournalError;
use crate::journal::{Journal, Snapshot};

/// Requests that are decided together. A larger batch saves little more of the
/// disk's time and keeps its first caller waiting for the last.
const BATCH_MAX: usize = 256;

/// How often the task looks for what is due without a request: a summary of
/// denials, a journal that may be writable again.
const TICK: Duration = Duration::from_secs(1);

/// How the engine runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Records between two snapshots; a start reads at most about twice as many.
    pub snapshot_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            snapshot_every: 10_000,
        }
    }
}

/// Where the engine gets time and ids from.
pub type Moments = Box<dyn FnMut() -> Moment + Send>;

/// The engine's task. Does nothing until it is run.
pub struct EngineTask {
    /// None only while a batch is with its thread.
    writer: Option<Writer>,
    intake: mpsc::Receiver<Waiting>,
    published: watch::Sender<Arc<Fleet>>,
    moments: Moments,
    options: Options,
    snapshot_seq: u64,
    encoding: Option<JoinHandle<Result<Snapshot, JournalError>>>,
}

/// The engine stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A bug: the state in memory cannot be trusted.
    #[error("the engine's writer panicked")]
    Panicked(#[source] JoinError),
    /// The last counts and the last checkpoint could not be written.
    #[error("the journal could not be finished")]
    Unfinished(#[source] JournalError),
}

/// Opens the engine on a journal: the handle, and the task to be run.
///
/// # Errors
/// [`JournalError`]: the journal cannot be read, or its chain does not hold.
pub fn open(
    journal: Journal,
    moments: Moments,
    options: Options,
) -> Result<(Engine, EngineTask), JournalError> {
    let writer = Writer::open(journal)?;
    let (sender, intake) = mpsc::channel(QUEUE_MAX);
    let (published, fleet) = watch::channel(Arc::clone(writer.fleet()));
    let engine = Engine {
        intake: sender,
        fleet,
        journal: writer.reader().clone(),
        denials: Arc::clone(&writer.denials),
        key_uses: Arc::clone(&writer.key_uses),
        gauges: Arc::clone(&writer.gauges),
    };
    let task = EngineTask {
        snapshot_seq: writer.head().seq,
        writer: Some(writer),
        intake,
        published,
        moments,
        options,
        encoding: None,
    };
    Ok((engine, task))
}

/// What the task found to do.
enum Input {
    Stop,
    Batch(Vec<Waiting>),
    Tick,
    Snapshot(Result<Result<Snapshot, JournalError>, JoinError>),
}

impl EngineTask {
    /// Runs until `stop`, answers what waits by then, and finishes the journal.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), EngineError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.next(&stop, &mut tick).await {
                Input::Stop => break,
                Input::Batch(batch) => self.commit(batch).await?,
                Input::Tick => self.look_after().await?,
                Input::Snapshot(encoded) => self.keep_snapshot(encoded).await?,
            }
        }
        self.intake.close();
        loop {
            let mut batch = Vec::new();
            if self.intake.recv_many(&mut batch, BATCH_MAX).await == 0 {
                break;
            }
            self.commit(batch).await?;
        }
        self.finish().await
    }

    /// Every arm is cancel-safe: `recv_many` takes nothing unless it returns.
    async fn next(&mut self, stop: &CancellationToken, tick: &mut tokio::time::Interval) -> Input {
        let mut batch = Vec::new();
        let encoded = async {
            match self.encoding.as_mut() {
                Some(handle) => handle.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => Input::Stop,
            count = self.intake.recv_many(&mut batch, BATCH_MAX) => match count {
                0 => Input::Stop,
                _ => Input::Batch(batch),
            },
            _ = tick.tick() => Input::Tick,
            encoded = encoded => Input::Snapshot(encoded),
        }
    }

    async fn commit(&mut self, batch: Vec<Waiting>) -> Result<(), EngineError> {
        let at = (self.moments)();
        let (submissions, replies): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.submission, waiting.reply))
            .unzip();
        let answers = self
            .on_writer(move |writer| writer.commit(&submissions, &at))
            .await?;
        self.publish();
        for (reply, answer) in replies.into_iter().zip(answers) {
            send(reply, answer);
        }
        self.begin_snapshot();
        Ok(())
    }

    async fn look_after(&mut self) -> Result<(), EngineError> {
        let at = (self.moments)();
        let (due, in_trouble) = match &self.writer {
            Some(writer) => (
                lock(&writer.denials)
                    .due_at()
                    .is_some_and(|due| at.now >= due),
                lock(&writer.gauges.trouble).is_some(),
            ),
            None => (false, false),
        };
        if in_trouble {
            self.on_writer(Writer::probe).await?;
            self.publish();
        }
        if due {
            self.commit(Vec::new()).await?;
        }
        Ok(())
    }

    async fn keep_snapshot(
        &mut self,
        encoded: Result<Result<Snapshot, JournalError>, JoinError>,
    ) -> Result<(), EngineError> {
        self.encoding = None;
        match encoded.map_err(EngineError::Panicked)? {
            Ok(snapshot) => {
                if let Some(writer) = self.writer.as_mut() {
                    writer.offer(snapshot);
                }
                self.commit(Vec::new()).await
            }
            Err(error) => {
                tracing::warn!(%error, "a snapshot could not be made; the next start takes longer");
                Ok(())
            }
        }
    }

    fn begin_snapshot(&mut self) {
        let Some(writer) = self.writer.as_ref() else {
            return;
        };
        let head = writer.head();
        let is_due = head.seq
            >= self
                .snapshot_seq
                .saturating_add(self.options.snapshot_every);
        if is_due && self.encoding.is_none() {
            self.snapshot_seq = head.seq;
            let state = writer.state().clone();
            self.encoding = Some(spawn_blocking(move || state.snapshot(head)));
        }
    }

    async fn finish(mut self) -> Result<(), EngineError> {
        let at = (self.moments)();
        self.on_writer(move |writer| writer.finish(&at))
            .await?
            .map_err(EngineError::Unfinished)
    }

    /// Runs `work` on a blocking thread: it waits for the disk.
    async fn on_writer<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> R + Send + 'static,
    ) -> Result<R, EngineError> {
        // A writer that did not come back panicked, and the task ended with it.
        let Some(mut writer) = self.writer.take() else {
            return std::future::pending().await;
        };
        let (writer, done) = spawn_blocking(move || {
            let done = work(&mut writer);
            (writer, done)
        })
        .await
        .map_err(EngineError::Panicked)?;
        self.writer = Some(writer);
        Ok(done)
    }

    fn publish(&self) {
        let Some(writer) = self.writer.as_ref() else {
            return;
        };
        self.published.send_if_modified(|fleet| {
            let is_newer = writer.fleet().seq() != fleet.seq();
            if is_newer {
                *fleet = Arc::clone(writer.fleet());
            }
            is_newer
        });
    }
}

/// A caller that went away does not need its answer.
fn send(
    reply: Option<oneshot::Sender<Result<Applied, SubmitError>>>,
    answer: Result<Applied, SubmitError>,
) {
    if let Some(reply) = reply {
        reply.send(answer).ok();
    }
}
