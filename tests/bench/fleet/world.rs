//! What the simulated nodes share: the pace, the clock, and the tally of what
//! they saw.
//!
//! The tally is written by every node and read by the run; counters are atomic,
//! lists stand behind short locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent::clock::Clock;
use agent::domain::time::Moment;
use harness::clock;
use protocol::id::{CommandId, FleetId};

/// How fast nodes measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two samples.
    pub(crate) sample_every: Duration,
    /// Between two frames.
    pub(crate) frame_every: Duration,
}

impl Pace {
    /// Samples in a frame.
    pub(crate) fn slots(&self) -> u16 {
        let slots = self.frame_every.as_millis() / self.sample_every.as_millis().max(1);
        u16::try_from(slots).unwrap_or(u16::MAX).max(1)
    }

    /// Milliseconds between two samples.
    pub(crate) fn sample_ms(&self) -> u32 {
        u32::try_from(self.sample_every.as_millis()).unwrap_or(u32::MAX)
    }
}

/// What all nodes know.
pub(crate) struct World {
    /// The fleet.
    pub(crate) fleet: FleetId,
    /// How fast they measure.
    pub(crate) pace: Pace,
    /// What they saw.
    pub(crate) tally: Tally,
    clock: Clock,
    measures: AtomicBool,
    /// Whether nodes judge after each message what their policy forbids.
    judges: AtomicBool,
}

impl World {
    /// A world in which nodes measure.
    pub(crate) fn new(fleet: FleetId, pace: Pace) -> Self {
        Self {
            fleet,
            pace,
            tally: Tally::default(),
            clock: Clock::default(),
            measures: AtomicBool::new(true),
            judges: AtomicBool::new(false),
        }
    }

    /// Both clocks of the host.
    pub(crate) fn moment(&self) -> Moment {
        self.clock.moment()
    }

    /// Whether nodes hand over frames.
    pub(crate) fn measures(&self) -> bool {
        self.measures.load(Ordering::Relaxed)
    }

    /// Whether nodes note when they begin and cease to refuse a change.
    pub(crate) fn judges(&self) -> bool {
        self.judges.load(Ordering::Relaxed)
    }

    /// Has them note it, or not: judging costs them time.
    pub(crate) fn judge(&self, judges: bool) {
        self.judges.store(judges, Ordering::Relaxed);
    }

    /// Ends the measuring, so that what waits can drain.
    pub(crate) fn rest(&self) {
        self.measures.store(false, Ordering::Relaxed);
    }
}

/// A receipt that the controller acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipted {
    /// Its command.
    pub(crate) command: CommandId,
    /// When the command came to the node.
    pub(crate) taken: Instant,
    /// When the acknowledgement came.
    pub(crate) acknowledged: Instant,
}

/// What the nodes saw.
#[derive(Default)]
pub(crate) struct Tally {
    frames: AtomicU64,
    frame_bytes: AtomicU64,
    frames_acked: AtomicU64,
    commands: AtomicU64,
    receipts_acked: AtomicU64,
    links: AtomicU64,
    broken: AtomicU64,
    refused: AtomicU64,
    latencies: Mutex<Vec<f64>>,
    ups: Mutex<Vec<Instant>>,
    receipts: Mutex<Vec<Receipted>>,
    refusing: AtomicU64,
    refusals: Mutex<Vec<Instant>>,
    problems: Mutex<BTreeMap<String, u64>>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Frames handed to the nodes' cores.
    pub(crate) frames: u64,
    /// Their bytes.
    pub(crate) frame_bytes: u64,
    /// Frames that the controller acknowledged.
    pub(crate) frames_acked: u64,
    /// Commands that nodes carried out.
    pub(crate) commands: u64,
    /// Their receipts that the controller acknowledged.
    pub(crate) receipts_acked: u64,
    /// Nodes whose link is proven now.
    pub(crate) links: u64,
    /// Connections that broke.
    pub(crate) broken: u64,
    /// Connections that could not be made.
    pub(crate) refused: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// A frame was handed to a core.
    pub(crate) fn handed(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.frame_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A frame was acknowledged so long after it was handed over.
    pub(crate) fn acknowledged(&self, after: Duration) {
        self.frames_acked.fetch_add(1, Ordering::Relaxed);
        lock(&self.latencies).push(after.as_secs_f64() * 1000.0);
    }

    /// A command came.
    pub(crate) fn taken(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// A receipt was acknowledged.
    pub(crate) fn receipted(&self, command: CommandId, taken: Instant) {
        self.receipts_acked.fetch_add(1, Ordering::Relaxed);
        lock(&self.receipts).push(Receipted {
            command,
            taken,
            acknowledged: clock::now(),
        });
    }

    /// A node refuses a change from here on.
    pub(crate) fn refuses(&self) {
        self.refusing.fetch_add(1, Ordering::Relaxed);
        lock(&self.refusals).push(clock::now());
    }

    /// A node takes changes again.
    pub(crate) fn admits(&self) {
        self.refusing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nodes that refuse a change now.
    pub(crate) fn refusing(&self) -> u64 {
        self.refusing.load(Ordering::Relaxed)
    }

    /// When nodes began to refuse since the last call.
    pub(crate) fn take_refusals(&self) -> Vec<Instant> {
        std::mem::take(&mut *lock(&self.refusals))
    }

    /// A link is proven.
    pub(crate) fn up(&self, is_up: &mut bool) {
        if !std::mem::replace(is_up, true) {
            self.links.fetch_add(1, Ordering::Relaxed);
            lock(&self.ups).push(clock::now());
        }
    }

    /// A link is no longer proven.
    pub(crate) fn down(&self, is_up: &mut bool) {
        if std::mem::replace(is_up, false) {
            self.links.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A connection broke.
    pub(crate) fn lost(&self, error: &anyhow::Error) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        self.problem(&format!("connection: {error:#}"));
    }

    /// A connection could not be made.
    pub(crate) fn refused(&self, error: &anyhow::Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.problem(&format!("connecting: {error:#}"));
    }

    /// Something that should not happen in a quiet run.
    pub(crate) fn problem(&self, what: &str) {
        *lock(&self.problems).entry(what.to_owned()).or_default() += 1;
    }

    /// The counters.
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            frames: read(&self.frames),
            frame_bytes: read(&self.frame_bytes),
            frames_acked: read(&self.frames_acked),
            commands: read(&self.commands),
            receipts_acked: read(&self.receipts_acked),
            links: read(&self.links),
            broken: read(&self.broken),
            refused: read(&self.refused),
        }
    }

    /// Milliseconds from handing over to acknowledgement, of the frames
    /// acknowledged since the last call.
    pub(crate) fn take_latencies(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.latencies))
    }

    /// When links came up since the last call.
    pub(crate) fn take_ups(&self) -> Vec<Instant> {
        std::mem::take(&mut *lock(&self.ups))
    }

    /// Receipts acknowledged since the last call.
    pub(crate) fn take_receipts(&self) -> Vec<Receipted> {
        std::mem::take(&mut *lock(&self.receipts))
    }

    /// What went wrong and how often, since the last call.
    pub(crate) fn take_problems(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *lock(&self.problems))
    }
}
