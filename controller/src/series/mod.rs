//! Metrics: frames as they came, and the answers made of them.
//!
//! Owns the segment files below the controller's `series` folder, the newest
//! value of every column, the ten-minute rollups, and the way to a
//! Prometheus-compatible store.
//!
//! **Invariant:** [`Series::ingest`] answers `Ok` only when every frame of the
//! batch that it calls stored is on disk and synced, so the uplink may
//! acknowledge it. On a full disk, or any other fault, it answers an error and
//! nothing of the batch is kept: the nodes keep their frames and send again.
//!
//! A frame that cannot be decoded is refused by its code, alone; the uplink puts
//! it into quarantine, and the rest of the batch goes on. Frames are not events:
//! the journal knows nothing of them, and deleting the folder loses history and
//! nothing else.

mod delivered;
mod error;
mod index;
mod last;
mod question;
pub mod remote;
mod rollup;
mod segment;
mod shelf;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{NodeId, StoreId};
use protocol::label::Labels;
use protocol::stream::Stream;
use protocol::telemetry::Tier;
use protocol::telemetry::catalogue::Series as CatalogueSeries;
use protocol::telemetry::frame::{self, DecodeFrameError, Frame};
use protocol::time::UnixMillis;
use tokio::sync::{broadcast, mpsc};

use delivered::Delivered;
use error::told;
use last::Last;
use question::Gathering;
use rollup::{BUCKET_MS, Closed, Rollups};
use segment::{Class, Origin, Record};
use shelf::{Newest, Shelf};

pub use error::{IngestError, OpenSeriesError, QueryError};
pub use last::{LastValue, TopRow};
pub use question::{Line, POINTS_MAX, Point, Query, Value};
pub use segment::SegmentError;
pub use upkeep::Upkeep;

/// Frames that one question may decode: a week of one node at a frame a minute
/// is 10,080. Longer ones are asked in steps of ten minutes, which read rollups.
const FRAMES_PER_QUERY_MAX: usize = 25_000;

/// Live frames held for watchers that are slow; the oldest are dropped, because
/// a watcher wants what is newest.
const LIVE_QUEUE: usize = 256;

/// Summaries that wait for the disk; beyond it the oldest are dropped and
/// counted: frames, which are acknowledged, come first.
const ROLLUPS_WAITING_MAX: usize = 50_000;

const FRAMES: [Class; 3] = [Class::Fine, Class::Minute, Class::TenMinutes];

/// What the store is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The folder for segment files.
    pub dir: PathBuf,
    /// How long frames are kept.
    pub retention: Duration,
    /// How long rollups are kept.
    pub retention_rollup: Duration,
    /// Most bytes on disk; the oldest files go first.
    pub bytes_max: u64,
    /// Where to forward samples, if anywhere.
    pub remote_write: Option<remote::Settings>,
    /// How nodes are called, for the labels of forwarded samples.
    pub tags: Tags,
}

/// Looks up a node's name and labels; none for a node that is not known.
pub type Tags = Arc<dyn Fn(NodeId) -> Option<(String, Labels)> + Send + Sync>;

/// A frame that came up from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whose.
    pub node: NodeId,
    /// From which store of the node.
    pub store: StoreId,
    /// Through which stream.
    pub stream: Stream,
    /// Under which number.
    pub seq: u64,
    /// The frame's bytes.
    pub body: Vec<u8>,
}

/// What became of one arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Stored,
    /// It was durable before.
    Duplicate,
    /// It is no frame: to be put into quarantine and acknowledged.
    Refused(ErrorCode),
}

/// A live frame as watchers get it.
#[derive(Debug, Clone)]
pub struct LiveFrame {
    /// Whose.
    pub node: NodeId,
    /// What was measured.
    pub frame: Arc<Frame>,
}

/// Whether the store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the newest batch was stored and no file is damaged.
    pub ok: bool,
    /// What is wrong; empty when all is well.
    pub detail: String,
}

/// Counters and gauges for the controller's own metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeriesStats {
    /// Frames stored since the start.
    pub frames: u64,
    /// Samples in them.
    pub samples: u64,
    /// Bytes of them as they came.
    pub frame_bytes: u64,
    /// Frames that came twice.
    pub duplicates: u64,
    /// Frames that could not be decoded.
    pub refused: u64,
    /// Batches that could not be stored.
    pub failed_batches: u64,
    /// Summaries dropped because the disk did not take them.
    pub rollups_dropped: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files on disk.
    pub files: u64,
    /// Nodes with a value.
    pub nodes: u64,
    /// Samples handed to the remote store.
    pub remote_sent: u64,
    /// Samples dropped on the way to it: queue full, or refused by it.
    pub remote_dropped: u64,
    /// Requests to it that failed and were tried again.
    pub remote_retries: u64,
}

#[derive(Debug, Default)]
struct Counters {
    frames: AtomicU64,
    samples: AtomicU64,
    frame_bytes: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    failed_batches: AtomicU64,
    rollups_dropped: AtomicU64,
    remote: remote::Counters,
}

/// What is only in memory; held for short, never across IO.
#[derive(Debug, Default)]
struct View {
    last: Last,
    delivered: Delivered,
    rollups: Rollups,
    waiting: Vec<Closed>,
    trouble: Option<String>,
}

struct Inner {
    /// Held while files are written. Taken before `view` where both are.
    shelf: Mutex<Shelf>,
    view: Mutex<View>,
    counters: Arc<Counters>,
    live: broadcast::Sender<LiveFrame>,
    forward: Option<mpsc::Sender<remote::Forwarded>>,
    keep: shelf::Keep,
}

/// The store of metrics. Cheap to clone.
#[derive(Clone)]
pub struct Series {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Series")
            .field("stats", &self.stats())
            .finish()
    }
}

impl Series {
    /// Opens the store: blocking, because it reads the newest segments.
    ///
    /// # Errors
    /// When the folder cannot be used, a file is of a newer version, or remote
    /// write is set up wrongly.
    pub fn open(settings: Settings, now: UnixMillis) -> Result<(Self, Upkeep), OpenSeriesError> {
        let (shelf, newest) = Shelf::open(&settings.dir).map_err(OpenSeriesError::Store)?;
        let counters = Arc::new(Counters::default());
        let (forward, forwarder) = match settings.remote_write {
            None => (None, None),
            Some(remote) => {
                let (sender, forwarder) =
                    remote::Forwarder::new(remote, settings.tags, Arc::clone(&counters))
                        .map_err(OpenSeriesError::Remote)?;
                (Some(sender), Some(forwarder))
            }
        };
        let (live, _) = broadcast::channel(LIVE_QUEUE);
        let keep = shelf::Keep {
            frames: settings.retention,
            rollups: settings.retention_rollup,
            bytes_max: settings.bytes_max,
        };
        let view = recall(newest, now).map_err(OpenSeriesError::Store)?;
        let series = Self {
            inner: Arc::new(Inner {
                shelf: Mutex::new(shelf),
                view: Mutex::new(view),
                counters,
                live,
                forward,
                keep,
            }),
        };
        let upkeep = Upkeep::new(series.clone(), forwarder);
        Ok((series, upkeep))
    }

    /// Stores a batch. `Ok` has one outcome for each arrival, in order, and means
    /// that all that is stored is durable.
    ///
    /// # Errors
    /// When the files cannot be written; then nothing of the batch is kept.
    pub async fn ingest(
        &self,
        batch: Vec<Arrival>,
        now: UnixMillis,
    ) -> Result<Vec<Outcome>, IngestError> {
        let series = self.clone();
        tokio::task::spawn_blocking(move || series.ingest_blocking(&batch, now))
            .await
            .map_err(|_| IngestError::Stopping)?
    }

    /// [`Series::ingest`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Series::ingest`].
    pub fn ingest_blocking(
        &self,
        batch: &[Arrival],
        now: UnixMillis,
    ) -> Result<Vec<Outcome>, IngestError> {
        let decoded: Vec<Result<Frame, DecodeFrameError>> = batch
            .iter()
            .map(|arrival| frame::decode(&arrival.body))
            .collect();
        let mut shelf = lock(&self.inner.shelf);
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut records: BTreeMap<Class, Vec<Record<'_>>> = BTreeMap::new();
        let mut within = Delivered::default();
        {
            let view = lock(&self.inner.view);
            for (arrival, decoded) in batch.iter().zip(&decoded) {
                let origin = origin(arrival);
                outcomes.push(match decoded {
                    Err(error) => {
                        let (node, seq) = (arrival.node, arrival.seq);
                        tracing::warn!(%node, seq, %error, "a frame cannot be decoded");
                        Outcome::Refused(error.code())
                    }
                    Ok(_) if view.delivered.has(&origin) || within.has(&origin) => {
                        Outcome::Duplicate
                    }
                    Ok(frame) => {
                        within.note(&origin);
                        let (first_ms, last_ms) = extent(frame);
                        let record = Record {
                            origin,
                            first_ms,
                            last_ms,
                            body: &arrival.body,
                        };
                        records.entry(class_of(frame)).or_default().push(record);
                        Outcome::Stored
                    }
                });
            }
        }
        let records: Vec<(Class, Vec<Record<'_>>)> = records.into_iter().collect();
        if let Err(error) = shelf.append(&records, now) {
            self.inner
                .counters
                .failed_batches
                .fetch_add(1, Ordering::Relaxed);
            let trouble = told(&error);
            let before = lock(&self.inner.view).trouble.replace(trouble.clone());
            if before.as_ref() != Some(&trouble) {
                tracing::error!(error = trouble, "frames cannot be stored; nodes keep them");
            }
            return Err(IngestError::Store(error));
        }
        self.take_in(batch, decoded, &outcomes, now);
        self.write_rollups(&mut shelf, now);
        Ok(outcomes)
    }

    /// Notes in memory what has become durable.
    fn take_in(
        &self,
        batch: &[Arrival],
        decoded: Vec<Result<Frame, DecodeFrameError>>,
        outcomes: &[Outcome],
        now: UnixMillis,
    ) {
        let counters = &self.inner.counters;
        let mut view = lock(&self.inner.view);
        view.trouble = None;
        for ((arrival, decoded), outcome) in batch.iter().zip(decoded).zip(outcomes) {
            match (outcome, decoded) {
                (Outcome::Stored, Ok(frame)) => {
                    counters.frames.fetch_add(1, Ordering::Relaxed);
                    counters
                        .samples
                        .fetch_add(frame.sample_count() as u64, Ordering::Relaxed);
                    counters
                        .frame_bytes
                        .fetch_add(arrival.body.len() as u64, Ordering::Relaxed);
                    view.delivered.note(&origin(arrival));
                    view.last.take_in(arrival.node, &frame);
                    let closed = view.rollups.take_in(arrival.node, &frame, now.0);
                    view.waiting.extend(closed);
                    self.forward(arrival.node, frame);
                }
                (Outcome::Duplicate, _) => {
                    counters.duplicates.fetch_add(1, Ordering::Relaxed);
                }
                (Outcome::Refused(_), _) | (Outcome::Stored, Err(_)) => {
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn forward(&self, node: NodeId, frame: Frame) {
        let Some(forward) = &self.inner.forward else {
            return;
        };
        let samples = frame.sample_count() as u64;
        if forward.try_send(remote::Forwarded { node, frame }).is_err() {
            self.inner
                .counters
                .remote
                .dropped
                .fetch_add(samples, Ordering::Relaxed);
        }
    }

    /// Writes the summaries that wait. They can be made again from the frames, so
    /// a failure is reported and does not fail the batch.
    fn write_rollups(&self, shelf: &mut Shelf, now: UnixMillis) {
        let waiting = std::mem::take(&mut lock(&self.inner.view).waiting);
        if waiting.is_empty() {
            return;
        }
        let records = waiting
            .iter()
            .map(|closed| Record {
                origin: Origin {
                    node: closed.node,
                    store: StoreId::NIL,
                    stream: Stream::Telemetry,
                    seq: 0,
                },
                first_ms: closed.start_ms,
                last_ms: closed.start_ms + BUCKET_MS - 1,
                body: &closed.bytes,
            })
            .collect();
        if let Err(error) = shelf.append(&[(Class::Rollup, records)], now) {
            tracing::warn!(error = told(&error), "rollups wait for the disk");
            let mut view = lock(&self.inner.view);
            let mut waiting = waiting;
            waiting.append(&mut view.waiting);
            let beyond = waiting.len().saturating_sub(ROLLUPS_WAITING_MAX);
            waiting.drain(..beyond);
            self.inner
                .counters
                .rollups_dropped
                .fetch_add(beyond as u64, Ordering::Relaxed);
            view.waiting = waiting;
        }
    }

    /// Shows a live frame to watchers and takes its values as the newest. It is
    /// not stored: the node's stored frames tell the same more coarsely.
    ///
    /// # Errors
    /// When the bytes are no frame.
    pub fn live(&self, node: NodeId, bytes: &[u8]) -> Result<(), DecodeFrameError> {
        let frame = Arc::new(frame::decode(bytes)?);
        lock(&self.inner.view).last.take_in(node, &frame);
        // Nobody watching is the usual case and no fault.
        if self.inner.live.send(LiveFrame { node, frame }).is_err() {
            tracing::trace!(%node, "a live frame has no watcher");
        }
        Ok(())
    }

    /// Live frames of all nodes from here on.
    pub fn watch_live(&self) -> broadcast::Receiver<LiveFrame> {
        self.inner.live.subscribe()
    }

    /// The newest value of each of a node's columns.
    pub fn last(&self, node: NodeId) -> Vec<LastValue> {
        lock(&self.inner.view).last.of(node)
    }

    /// The highest values of a series over the nodes that `keep` keeps; counters
    /// by their growth per second. Nodes silent for five minutes are left out.
    pub fn top(
        &self,
        series: &CatalogueSeries,
        count: usize,
        now: UnixMillis,
        keep: impl Fn(NodeId) -> bool,
    ) -> Vec<TopRow> {
        lock(&self.inner.view).last.top(series, count, now, keep)
    }

    /// Answers for one node, series and range.
    ///
    /// # Errors
    /// When too much is asked, or a file cannot be read.
    pub async fn query(&self, query: Query) -> Result<Vec<Line>, QueryError> {
        let series = self.clone();
        tokio::task::spawn_blocking(move || series.query_blocking(&query))
            .await
            .map_err(|_| QueryError::Stopping)?
    }

    /// [`Series::query`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Series::query`].
    pub fn query_blocking(&self, query: &Query) -> Result<Vec<Line>, QueryError> {
        let step_ms = protocol::time::millis(query.step);
        if step_ms == 0 || query.to <= query.from {
            return Err(QueryError::Empty);
        }
        let points = (query.to.0 - query.from.0).div_ceil(step_ms);
        if points > POINTS_MAX {
            return Err(QueryError::TooManyPoints { points });
        }
        let mut gathering = Gathering::new(query);
        let lead_ms = query.from.0.saturating_sub(Gathering::lead_ms());
        let rolled = step_ms >= BUCKET_MS;
        let open_since = lock(&self.inner.view).rollups.open_since(query.node);
        // Without an open summary every sample is in a closed one, or there is none.
        let frames_from_ms = if rolled {
            lead_ms.max(open_since.unwrap_or(u64::MAX))
        } else {
            lead_ms
        };
        if rolled {
            self.read(&[Class::Rollup], query.node, lead_ms, query.to.0, |body| {
                if let Some(summary) = rollup::read(body) {
                    gathering.summary(&summary);
                }
            })?;
            let view = lock(&self.inner.view);
            for closed in view
                .waiting
                .iter()
                .filter(|closed| closed.node == query.node)
            {
                if let Some(summary) = rollup::read(&closed.bytes) {
                    gathering.summary(&summary);
                }
            }
        }
        if frames_from_ms < query.to.0 {
            self.read(&FRAMES, query.node, frames_from_ms, query.to.0, |body| {
                // What was decoded when it came decodes again; its record's
                // checksum has just been checked.
                if let Ok(frame) = frame::decode(body) {
                    gathering.frame(&frame, frames_from_ms);
                }
            })?;
        }
        Ok(gathering.answer())
    }

    fn read(
        &self,
        classes: &[Class],
        node: NodeId,
        from_ms: u64,
        to_ms: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), QueryError> {
        let found = lock(&self.inner.shelf).find(classes, node, from_ms, to_ms);
        let mut reads = Vec::with_capacity(found.len());
        let mut frames = 0;
        for found in found {
            let (path, places) = found
                .places(node, from_ms, to_ms)
                .map_err(QueryError::Store)?;
            frames += places.len();
            reads.push((path, places));
        }
        if frames > FRAMES_PER_QUERY_MAX {
            return Err(QueryError::TooManyFrames { frames });
        }
        for (path, places) in reads {
            shelf::read_bodies(&path, &places, &mut take).map_err(QueryError::Store)?;
        }
        Ok(())
    }

    /// Forgets a node's newest values. Its stored frames stay until retention.
    pub fn forget(&self, node: NodeId) {
        let mut view = lock(&self.inner.view);
        view.last.forget(node);
        view.delivered.forget(node);
        let closed = view.rollups.forget(node);
        view.waiting.extend(closed);
    }

    /// Whether the store works.
    pub fn health(&self) -> Health {
        let trouble = lock(&self.inner.view).trouble.clone();
        // A batch being written holds the shelf; its health is then that it writes.
        let damaged = self
            .inner
            .shelf
            .try_lock()
            .map(|shelf| shelf.damaged.join("; "))
            .unwrap_or_default();
        let detail = trouble.unwrap_or(damaged);
        Health {
            ok: detail.is_empty(),
            detail,
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> SeriesStats {
        let counters = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (bytes, files) = self
            .inner
            .shelf
            .try_lock()
            .map(|shelf| (shelf.bytes(), shelf.file_count() as u64))
            .unwrap_or_default();
        SeriesStats {
            frames: read(&counters.frames),
            samples: read(&counters.samples),
            frame_bytes: read(&counters.frame_bytes),
            duplicates: read(&counters.duplicates),
            refused: read(&counters.refused),
            failed_batches: read(&counters.failed_batches),
            rollups_dropped: read(&counters.rollups_dropped),
            bytes,
            files,
            nodes: lock(&self.inner.view).last.node_count() as u64,
            remote_sent: read(&counters.remote.sent),
            remote_dropped: read(&counters.remote.dropped),
            remote_retries: read(&counters.remote.retries),
        }
    }

    /// Seals, writes waiting rollups, and deletes what is too old: blocking.
    fn tend(&self, now: UnixMillis) -> Result<(), SegmentError> {
        let mut shelf = lock(&self.inner.shelf);
        // A node silent for two more buckets has nothing to add to its open one.
        let closed = lock(&self.inner.view)
            .rollups
            .close_before(now.0.saturating_sub(2 * BUCKET_MS));
        lock(&self.inner.view).waiting.extend(closed);
        self.write_rollups(&mut shelf, now);
        shelf.seal_due(now)?;
        let deleted = shelf.retain(self.inner.keep, now)?;
        if deleted > 0 {
            tracing::info!(files = deleted, "retention deleted segments of metrics");
        }
        Ok(())
    }
}

/// Rebuilds what is only in memory from the newest segments.
fn recall(newest: Newest, now: UnixMillis) -> Result<View, SegmentError> {
    let mut view = View::default();
    let mut rolled_until: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (node, until_ms) in newest.rolled_until_ms {
        let known = rolled_until.entry(node).or_default();
        *known = until_ms.max(*known);
    }
    for origin in &newest.origins {
        view.delivered.note(origin);
    }
    for (path, node, places) in newest.raw {
        let from_ms = rolled_until.get(&node).copied().unwrap_or_default();
        let newest_ms = places
            .iter()
            .map(|place| place.last_ms)
            .max()
            .unwrap_or_default();
        let wanted: Vec<_> = places
            .into_iter()
            .filter(|place| place.last_ms >= from_ms || place.last_ms == newest_ms)
            .collect();
        let mut closed = Vec::new();
        shelf::read_bodies(&path, &wanted, |body| {
            if let Ok(frame) = frame::decode(body) {
                view.last.take_in(node, &frame);
                closed.extend(view.rollups.take_in_again(node, &frame, from_ms, now.0));
            }
        })?;
        view.waiting.extend(closed);
    }
    Ok(view)
}

fn origin(arrival: &Arrival) -> Origin {
    Origin {
        node: arrival.node,
        store: arrival.store,
        stream: arrival.stream,
        seq: arrival.seq,
    }
}

/// The moments of a frame's first and last slot.
fn extent(frame: &Frame) -> (u64, u64) {
    let last = usize::from(frame.span.slots.saturating_sub(1));
    (frame.span.start_ms, frame.span.slot_ms(last))
}

const fn class_of(frame: &Frame) -> Class {
    match frame.span.tier {
        Tier::Live | Tier::Fine => Class::Fine,
        Tier::Minute => Class::Minute,
        Tier::TenMinutes => Class::TenMinutes,
    }
}

/// A thread that panicked while holding it left whole values behind: every
/// change under these locks is made of steps that leave them so.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
