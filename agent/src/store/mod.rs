//! The store: what a node must not lose.
//!
//! It owns the ledger, the outbox, the counters, and the disk and the spool under
//! them. It is synchronous and has no thread of its own; the node's core owns it.
//!
//! Receipts and the ledger are on disk, and so are frames made while the link was
//! down (`backfill`). States and frames made while it is up stay in memory: a
//! durable commit costs some 30 KB of flash, and a state is observed again after a
//! restart. Frames and the samples of the unfinished one are mirrored to the
//! spool on a tmpfs, so a kill loses nothing of them, and a power cut what was
//! not spilled: at most [`SPILL_AGE`] of frames.
//!
//! **Invariant:** numbers are reserved durably, in blocks, before one is given
//! out, and never given out twice. Nothing of the control stream is handed out for
//! sending before it is durable, but for the refusals of a node whose disk is
//! full. A command is started only after its ledger entry is durable.
//!
//! When the disk fails, new commands are refused with its code, frames stay in
//! memory as far as that reaches and then give way by tiers, and what was promised
//! is kept and written as soon as the disk works again.

mod deployments;
pub mod disk;
mod file;
mod settle;
mod shed;
pub mod spool;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{Command, Receipt};
use protocol::id::{CommandId, StoreId};
use protocol::message;
use protocol::state::{Lifecycle, StateItem};
use protocol::stream::{Entry, EntryKind, Stream};
use protocol::telemetry::Tier;
use protocol::time::UnixMillis;

pub use deployments::Deployments;
pub use file::{OpenBackend, RedbDisk, SCHEMA};

use crate::domain::ledger::{self, Ledger, Room, Verdict};
use crate::domain::outbox::{
    CONTROL_KEPT_BYTES_MAX, CONTROL_KEPT_COUNT_MAX, FrameWorth, Item, Line, Outbox, Worth,
};
use crate::domain::session::Want;
use crate::domain::time::Tick;
use disk::{Change, Disk, DiskError, Meta, Stored};
use spool::{Record, Spool};

/// Frames older than this are spilled to disk while the link is down.
pub const SPILL_AGE: Duration = Duration::from_secs(15 * 60);

/// Numbers reserved at a time, per stream: a block of frames at one a minute lasts
/// 17 hours, and each block costs a commit.
const BLOCK: [u64; 4] = [64, 256, 1024, 1024];

/// Connect counters reserved at a time.
const CONNECTS_BLOCK: u64 = 16;

/// What a store may hold, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames in memory and in the spool.
    pub telemetry_bytes_max: u64,
    /// Frames on disk.
    pub backfill_bytes_max: u64,
    /// Control entries that are not acknowledged, with the room that open commands
    /// are owed.
    pub control_bytes_max: u64,
    /// While the disk has less than this free, frames on it do not grow.
    pub free_bytes_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            telemetry_bytes_max: 1024 * 1024,
            backfill_bytes_max: 64 * 1024 * 1024,
            control_bytes_max: 8 * 1024 * 1024,
            free_bytes_min: 16 * 1024 * 1024,
        }
    }
}

/// A finished frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// The version of the frame's encoding.
    pub version: u16,
    /// How fine it is.
    pub tier: Tier,
    /// Time of its first sample, in controller time.
    pub first: UnixMillis,
    /// Time of its last sample.
    pub last: UnixMillis,
    /// The encoded frame.
    pub body: Vec<u8>,
}

impl FrameEntry {
    fn worth(&self) -> FrameWorth {
        FrameWorth {
            tier: self.tier.number(),
            first: self.first,
            last: self.last,
            samples: slots(self.first, self.last, self.tier),
        }
    }
}

/// Moments between two times, both included, at a tier's usual spacing.
fn slots(first: UnixMillis, last: UnixMillis, tier: Tier) -> u32 {
    let steps = last.since(first).as_secs() / tier.interval().as_secs().max(1);
    u32::try_from(steps).unwrap_or(u32::MAX).saturating_add(1)
}

/// What a crash left.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Samples of the frame that was being built, in order.
    pub samples: Vec<Vec<u8>>,
    /// Commands that were open: their receipts say `interrupted`.
    pub interrupted: Vec<CommandId>,
}

/// What became of the commands that waited for a commit.
#[derive(Debug, Default)]
pub struct Settled {
    /// These are in the ledger: carry them out.
    pub started: Vec<Command>,
    /// Something of the control stream may now be sent.
    pub wrote: bool,
    /// The disk failed just now.
    pub failed: Option<DiskError>,
    /// The disk works again.
    pub healed: bool,
    /// Records of deployments changed, and are durable.
    pub deployments: bool,
}

/// Numbers about the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Entries that wait, in the order of [`Stream::ALL`].
    pub waiting: [usize; 4],
    /// Bytes of the entries of each stream.
    pub bytes: [u64; 4],
    /// Bytes written to the disk since the agent started.
    pub flash_bytes: u64,
    /// Bytes written to the disk since the store was made.
    pub flash_bytes_ever: u64,
    /// Commits since the agent started.
    pub commits: u64,
    /// Samples given up for lack of space since the store was made.
    pub shed_samples: u64,
    /// Writes to the spool that failed since the agent started.
    pub spool_failures: u64,
    /// Commands whose receipts are owed.
    pub open_commands: usize,
    /// Why the disk does not work, when it does not.
    pub failing: Option<ErrorCode>,
}

/// An entry for a stream on disk that has no number yet.
struct Pending {
    stream: Stream,
    stored: Stored,
    /// The frame in memory that it is, when it is one.
    frame: Option<u64>,
}

/// The store. See the module's documentation.
pub struct Store {
    disk: Box<dyn Disk>,
    spool: Box<dyn Spool>,
    limits: Limits,
    meta: Meta,
    ledger: Ledger,
    deployments: Arc<Deployments>,
    /// Whether they changed since the last commit.
    deployments_moved: bool,
    /// The highest generation that was taken, and the highest that is durable.
    generation: u64,
    generation_kept: u64,
    outbox: Outbox,
    /// Bodies of states, of frames, and of refusals that no disk would take.
    memory: BTreeMap<(Stream, u64), Stored>,
    /// When each frame in memory came in.
    arrived: BTreeMap<u64, Tick>,
    samples: Vec<Vec<u8>>,
    /// Changes that are kept until they are durable.
    staged: Vec<Change>,
    /// Entries that get their numbers in the commit that writes them.
    pending: Vec<Pending>,
    /// Whether something of these should not wait.
    urgent: bool,
    lazy_since: Option<Tick>,
    opening: Vec<(Command, ledger::Entry)>,
    /// The highest number of a frame in memory that was handed out for sending:
    /// it may have arrived, so it is not moved to another stream.
    handed_out: u64,
    connects: u64,
    /// Connect counters up to this one are reserved durably.
    connects_granted: u64,
    failing: Option<(ErrorCode, Tick)>,
    flash_before: u64,
    commits: u64,
    spool_failures: u64,
}

impl Store {
    /// Opens a store, or makes one with `fresh` as its id, and takes up what a
    /// crash left. `now` is controller time as far as it is known.
    ///
    /// # Errors
    /// [`DiskError`] when the disk cannot be read or written.
    pub fn open(
        mut disk: Box<dyn Disk>,
        spool: Box<dyn Spool>,
        limits: Limits,
        fresh: StoreId,
        lifecycle: impl FnOnce(bool) -> Lifecycle,
        now: UnixMillis,
    ) -> Result<(Self, Recovered), DiskError> {
        let image = disk.load()?;
        let mut meta = image.meta.unwrap_or_else(|| Meta::new(fresh));
        let clean = meta.clean;
        let now = now.max(meta.proven);
        let connects = meta.connects;
        let before = meta.granted;
        for (granted, block) in meta.granted.iter_mut().zip(BLOCK) {
            *granted += block;
        }
        meta.connects += CONNECTS_BLOCK;
        meta.clean = false;
        let mut items = image.items.into_iter();
        let lines = Stream::ALL.map(|stream| {
            let place = stream.index();
            let items = items.next().unwrap_or_default();
            Line::restored(items, meta.acked[place], before[place], meta.granted[place])
        });
        let mut store = Self {
            disk,
            spool,
            limits,
            flash_before: meta.flash_bytes,
            meta,
            ledger: Ledger::restored(image.ledger),
            deployments: Arc::new(image.deployments),
            deployments_moved: false,
            generation: image.generation,
            generation_kept: image.generation,
            outbox: Outbox::restored(lines),
            memory: BTreeMap::new(),
            arrived: BTreeMap::new(),
            samples: Vec::new(),
            staged: Vec::new(),
            pending: Vec::new(),
            urgent: true,
            lazy_since: None,
            opening: Vec::new(),
            handed_out: 0,
            connects,
            connects_granted: connects,
            failing: None,
            commits: 0,
            spool_failures: 0,
        };
        let mut recovered = Recovered::default();
        for receipt in store.ledger.interrupted(now) {
            recovered.interrupted.push(receipt.command);
            store.close_command(&receipt);
        }
        store.append_lifecycle(&lifecycle(clean));
        store.write()?;
        recovered.samples = store.unspool();
        Ok((store, recovered))
    }

    /// Takes up what the spool holds. Frames that reached the disk before a crash
    /// are not taken twice.
    fn unspool(&mut self) -> Vec<Vec<u8>> {
        let records = match self.spool.load() {
            Ok(records) => records,
            Err(_) => {
                self.spool_failures += 1;
                Vec::new()
            }
        };
        let mut records = records.into_iter();
        let ours = records.next() == Some(Record::Store(self.meta.store));
        let mut frames = BTreeMap::new();
        if ours {
            for record in records {
                match record {
                    Record::Store(_) => {}
                    Record::Sample(sample) => self.samples.push(sample),
                    Record::Frame(seq, stored) => {
                        self.samples.clear();
                        frames.insert(seq, stored);
                    }
                    Record::Gone(seq) => {
                        frames.remove(&seq);
                    }
                }
            }
        }
        let spilled: Vec<Worth> = self
            .outbox
            .line(Stream::Backfill)
            .after(0)
            .map(|(_, item)| item.worth)
            .collect();
        let acked = self.outbox.line(Stream::Telemetry).acked();
        for (seq, stored) in frames {
            if seq > acked && !spilled.contains(&stored.item.worth) {
                self.outbox
                    .line_mut(Stream::Telemetry)
                    .insert(seq, stored.item);
                self.memory.insert((Stream::Telemetry, seq), stored);
                self.arrived.insert(seq, Tick::default());
                self.handed_out = self.handed_out.max(seq);
            }
        }
        self.respool();
        self.samples.clone()
    }

    fn respool(&mut self) {
        let mut records = vec![Record::Store(self.meta.store)];
        records.extend(
            self.memory
                .iter()
                .filter(|((stream, _), _)| *stream == Stream::Telemetry)
                .map(|((_, seq), stored)| Record::Frame(*seq, stored.clone())),
        );
        records.extend(self.samples.iter().cloned().map(Record::Sample));
        if self.spool.replace(&records).is_err() {
            self.spool_failures += 1;
        }
    }

    fn spool(&mut self, records: &[Record]) {
        if self.spool.append(records).is_err() {
            self.spool_failures += 1;
        }
        let live = self.outbox.line(Stream::Telemetry).bytes() + self.samples_bytes();
        // Each record has a header; a floor keeps a short file from being written
        // anew for every frame.
        if self.spool.bytes() > 2 * live + 64 * 1024 {
            self.respool();
        }
    }

    fn samples_bytes(&self) -> u64 {
        let bytes: usize = self.samples.iter().map(Vec::len).sum();
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.meta.store
    }

    /// The highest incarnation of the controller that was obeyed.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.meta.incarnation
    }

    /// The last controller time that was proven.
    #[must_use]
    pub fn proven(&self) -> Option<UnixMillis> {
        (self.meta.proven.0 > 0).then_some(self.meta.proven)
    }

    /// The index of what waits.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A connect counter that was never used; none while no more can be reserved.
    #[must_use]
    pub fn connect(&mut self) -> Option<u64> {
        let last = self.connects_granted;
        if last - self.connects <= CONNECTS_BLOCK / 2 && self.meta.connects == last {
            self.meta.connects += CONNECTS_BLOCK;
            self.urgent = true;
        }
        if self.connects >= last {
            return None;
        }
        self.connects += 1;
        Some(self.connects)
    }

    /// Remembers the controller's time and incarnation; the time with the next
    /// commit, the incarnation at once.
    pub fn learn(&mut self, incarnation: u64, proven: Option<UnixMillis>) {
        if let Some(proven) = proven {
            self.meta.proven = self.meta.proven.max(proven);
        }
        if incarnation > self.meta.incarnation {
            self.meta.incarnation = incarnation;
            self.urgent = true;
        }
    }

    fn room(&self) -> Room {
        let owed = self.ledger.open_count() + self.opening.len() + self.pending.len();
        let fits = self
            .outbox
            .has_room_for_receipt(owed, self.limits.control_bytes_max);
        if self.failing.is_none() && fits {
            Room::Enough
        } else {
            Room::Full
        }
    }

    /// Takes a command. When it is to be started, [`Settled::started`] says so
    /// after the commit. `now` is controller time.
    pub fn take_command(&mut self, command: Command, now: UnixMillis) {
        if self.opening.iter().any(|(open, _)| open.id == command.id) {
            return;
        }
        match self.ledger.judge(&command, now, self.room()) {
            Verdict::Duplicate => {}
            Verdict::Start(entry) => self.opening.push((command, entry)),
            Verdict::Answer(entry, receipt) => self.answer(entry, &receipt),
            Verdict::AnswerOnly(receipt) => self.answer_only(&receipt),
        }
    }

    /// Takes the cancelling of a command. True when the command is open, and so
    /// the executor's to stop.
    #[must_use]
    pub fn cancel_command(&mut self, command: CommandId, now: UnixMillis) -> bool {
        if self.opening.iter().any(|(open, _)| open.id == command) {
            return true;
        }
        match self.ledger.judge_cancel(command, now, self.room()) {
            Verdict::Start(_) => true,
            Verdict::Duplicate => false,
            Verdict::Answer(entry, receipt) => {
                self.answer(entry, &receipt);
                false
            }
            Verdict::AnswerOnly(receipt) => {
                self.answer_only(&receipt);
                false
            }
        }
    }

    fn answer(&mut self, entry: ledger::Entry, receipt: &Receipt) {
        self.ledger.insert(receipt.command, entry);
        self.staged.push(Change::Take(receipt.command, entry));
        self.append_control(
            EntryKind::RECEIPT,
            Receipt::VERSION,
            message::encode(receipt),
        );
    }

    /// A refusal that no disk would take: sent from memory, and gone after a crash.
    fn answer_only(&mut self, receipt: &Receipt) {
        let body = message::encode(receipt);
        let Some(seq) = self.outbox.line(Stream::Control).next() else {
            return;
        };
        let stored = stored(Worth::Kept, EntryKind::RECEIPT, Receipt::VERSION, body);
        self.outbox
            .line_mut(Stream::Control)
            .insert(seq, stored.item);
        self.memory.insert((Stream::Control, seq), stored);
    }

    /// Closes a command with its receipt, exactly once: a second receipt is left
    /// out, and so is one of a command that is not open.
    pub fn close_command(&mut self, receipt: &Receipt) {
        if let Some(entry) = self.ledger.close(receipt.command, receipt.outcome) {
            self.answer(entry, receipt);
        }
    }

    /// Puts an event of the agent's life into the control stream.
    pub fn append_lifecycle(&mut self, event: &Lifecycle) {
        self.append_control(
            EntryKind::LIFECYCLE,
            Lifecycle::VERSION,
            message::encode(event),
        );
    }

    fn append_control(&mut self, kind: EntryKind, version: u16, body: Vec<u8>) {
        self.pending.push(Pending {
            stream: Stream::Control,
            stored: stored(Worth::Kept, kind, version, body),
            frame: None,
        });
        self.urgent = true;
    }

    /// Puts the receipts that are still kept into the outbox again, under new
    /// numbers: for a controller that was restored from a backup.
    pub fn offer_receipts_again(&mut self) {
        let kept = self.outbox.line(Stream::Control).kept();
        let Ok(found) = self.read_entries(Stream::Control, &kept) else {
            return;
        };
        for (seq, old) in found {
            if old.kind == EntryKind::RECEIPT {
                self.drop_entry(Stream::Control, seq);
                self.append_control(old.kind, old.version, old.body);
            }
        }
    }

    /// Puts what waits of a stream above a number that the controller already has
    /// from a later life of this disk.
    pub fn renumber(&mut self, stream: Stream, beyond: u64) {
        let place = stream.index();
        let line = self.outbox.line(stream);
        let waiting: Vec<u64> = line.after(line.acked()).map(|(seq, _)| seq).collect();
        let found = self.read_entries(stream, &waiting).unwrap_or_default();
        self.outbox.line_mut(stream).skip(beyond);
        self.meta.granted[place] = self.meta.granted[place].max(beyond) + BLOCK[place];
        self.urgent = true;
        for (seq, stored) in found {
            self.drop_entry(stream, seq);
            match stream {
                Stream::Control | Stream::Backfill => self.pending.push(Pending {
                    stream,
                    stored,
                    frame: None,
                }),
                // The numbers are used before they are durable, in this one case: a
                // crash right now would meet a second disk that was put back.
                Stream::State | Stream::Telemetry => {
                    let line = self.outbox.line_mut(stream);
                    line.grant(self.meta.granted[place]);
                    if let Some(seq) = line.next() {
                        line.insert(seq, stored.item);
                        self.memory.insert((stream, seq), stored);
                    }
                }
            }
        }
        if stream == Stream::Telemetry {
            self.respool();
        }
    }

    /// Puts an observed state into the outbox, in the place of the older one of its
    /// key.
    pub fn put_state(&mut self, state: &StateItem) {
        let key = state.value.key();
        let body = message::encode(state);
        let stored = stored(
            Worth::State(key),
            EntryKind::STATE,
            StateItem::VERSION,
            body,
        );
        let Some(seq) = self.outbox.line(Stream::State).next() else {
            return;
        };
        let line = self.outbox.line_mut(Stream::State);
        line.insert(seq, stored.item);
        let older = line.superseded_by(seq, key);
        self.memory.insert((Stream::State, seq), stored);
        if let Some(older) = older {
            self.drop_entry(Stream::State, older);
        }
        self.top_up(Stream::State);
    }

    /// Keeps a sample of the frame that is being built.
    pub fn keep_sample(&mut self, sample: Vec<u8>) {
        self.spool(&[Record::Sample(sample.clone())]);
        self.samples.push(sample);
    }

    /// Puts a finished frame into the outbox. The samples that were kept are in
    /// it.
    pub fn append_frame(&mut self, frame: FrameEntry, now: Tick) {
        let worth = frame.worth();
        let stored = stored(
            Worth::Frame(worth),
            EntryKind::FRAME,
            frame.version,
            frame.body,
        );
        self.samples.clear();
        let Some(seq) = self.outbox.line(Stream::Telemetry).next() else {
            self.meta.shed_samples += u64::from(worth.samples);
            return;
        };
        self.keep_frame(seq, stored, now);
        self.top_up(Stream::Telemetry);
    }

    fn keep_frame(&mut self, seq: u64, stored: Stored, now: Tick) {
        self.outbox
            .line_mut(Stream::Telemetry)
            .insert(seq, stored.item);
        self.arrived.insert(seq, now);
        self.spool(&[Record::Frame(seq, stored.clone())]);
        self.memory.insert((Stream::Telemetry, seq), stored);
    }

    /// Reserves the next block while half of this one is left, so that a full disk
    /// does not stop the numbering at once.
    fn top_up(&mut self, stream: Stream) {
        let place = stream.index();
        if self.outbox.line(stream).left() < BLOCK[place] / 2 {
            let wanted = self.outbox.line(stream).last() + BLOCK[place];
            if wanted > self.meta.granted[place] {
                self.meta.granted[place] = wanted;
                self.urgent = true;
            }
        }
    }

    /// Takes an acknowledgement.
    pub fn acknowledged(&mut self, stream: Stream, through: u64, now: Tick) {
        let line = self.outbox.line_mut(stream);
        line.acknowledge(through);
        let (count, bytes) = match stream {
            Stream::Control => (CONTROL_KEPT_COUNT_MAX, CONTROL_KEPT_BYTES_MAX),
            Stream::State | Stream::Telemetry | Stream::Backfill => (0, 0),
        };
        let released = line.released(count, bytes);
        self.meta.acked[stream.index()] = line.acked();
        let frames: Vec<Record> = released.iter().copied().map(Record::Gone).collect();
        for seq in released {
            self.drop_entry(stream, seq);
        }
        if stream == Stream::Telemetry && !frames.is_empty() {
            self.spool(&frames);
        }
        // Of the streams in memory only the number is kept, which may lag for ever.
        if matches!(stream, Stream::Control | Stream::Backfill) {
            self.lazy_since.get_or_insert(now);
        }
    }

    fn drop_entry(&mut self, stream: Stream, seq: u64) {
        self.outbox.line_mut(stream).remove(seq);
        if stream == Stream::Telemetry {
            self.arrived.remove(&seq);
        }
        if self.memory.remove(&(stream, seq)).is_none() {
            self.staged.push(Change::Remove(stream, seq));
        }
    }

    /// Reads what may be sent.
    ///
    /// # Errors
    /// [`DiskError`]; the next [`Store::settle`] opens the disk again.
    pub fn read(&mut self, want: Want, now: Tick) -> Result<Vec<Entry>, DiskError> {
        let mut bytes = 0;
        let mut wanted = Vec::new();
        for (seq, item) in self.outbox.line(want.stream).after(want.after) {
            bytes += usize::try_from(item.bytes).unwrap_or(usize::MAX);
            let full = !wanted.is_empty()
                && (bytes > want.bytes_max || wanted.len() >= protocol::limits::UPLOAD_ENTRIES_MAX);
            if full {
                break;
            }
            wanted.push(seq);
        }
        let found = match self.read_entries(want.stream, &wanted) {
            Ok(found) => found,
            Err(error) => {
                self.fail(&error, now);
                return Err(error);
            }
        };
        if want.stream == Stream::Telemetry
            && let Some((last, _)) = found.last()
        {
            self.handed_out = self.handed_out.max(*last);
        }
        Ok(found
            .into_iter()
            .map(|(seq, stored)| Entry {
                seq,
                kind: stored.kind,
                version: stored.version,
                body: stored.body,
            })
            .collect())
    }

    fn read_entries(&self, stream: Stream, seqs: &[u64]) -> Result<Vec<(u64, Stored)>, DiskError> {
        let mut found = Vec::with_capacity(seqs.len());
        let mut on_disk = Vec::new();
        for seq in seqs {
            match self.memory.get(&(stream, *seq)) {
                Some(stored) => found.push((*seq, stored.clone())),
                None => on_disk.push(*seq),
            }
        }
        if !on_disk.is_empty() {
            found.extend(self.disk.read(stream, &on_disk)?);
            found.sort_by_key(|(seq, _)| *seq);
        }
        Ok(found)
    }

    /// Numbers about the store.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let flash_bytes = self.disk.written_bytes();
        StoreStats {
            waiting: Stream::ALL.map(|stream| self.outbox.line(stream).waiting()),
            bytes: Stream::ALL.map(|stream| self.outbox.line(stream).bytes()),
            flash_bytes,
            flash_bytes_ever: self.flash_before + flash_bytes,
            commits: self.commits,
            shed_samples: self.meta.shed_samples,
            spool_failures: self.spool_failures,
            open_commands: self.ledger.open_count(),
            failing: self.failing.map(|(code, _)| code),
        }
    }
}

fn stored(worth: Worth, kind: EntryKind, version: u16, body: Vec<u8>) -> Stored {
    Stored {
        item: Item {
            bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            worth,
        },
        kind,
        version,
        body,
    }
}

#[cfg(test)]
mod tests;
