//! What a sample costs on the wire.
//!
//! `record FILE MINUTES` measures this host every ten seconds with the agent's
//! own collectors and writes the samples down; `report FILE` packs a recording
//! into frames of several lengths and prints the bytes a sample: the frame
//! alone, and with everything that MQTT and the envelope add. The recording in
//! `tests/bench/data` is an hour of a real machine under a real load.
//!
//! `flash FILE DIR` runs the agent's own store on a file below DIR through a
//! simulated day of that recording, once with the link up and once with it down,
//! and prints what that writes: by the store's own count, and by the kernel's
//! count of what reached the device (so DIR must not be on a tmpfs).
//!
//! A recording is frames, each behind its length as four little-endian bytes.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use agent::domain::spool::Spool;
use agent::domain::time::Tick;
use agent::sampling::Host;
use agent::store::spool::MemorySpool;
use agent::store::{FrameEntry, Limits, RedbDisk, Store};
use anyhow::{Context as _, bail};
use protocol::envelope;
use protocol::id::{FleetId, NodeId, StoreId};
use protocol::session::BootId;
use protocol::state::Lifecycle;
use protocol::stream::{Entry, EntryKind, Stream, Upload};
use protocol::telemetry::SampleSet;
use protocol::telemetry::frame::{Effort, FRAME_VERSION, Frame, Span, decode, encode};
use protocol::time::UnixMillis;
use protocol::topic::Topic;

const INTERVAL: Duration = Duration::from_secs(10);

/// Frame lengths that are reported, in minutes.
const LENGTHS_MIN: [u64; 5] = [1, 2, 5, 15, 60];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["record", file, minutes] => record(Path::new(file), minutes.parse().context("MINUTES")?),
        ["report", file] => report(Path::new(file)),
        ["flash", file, dir] => flash(Path::new(file), Path::new(dir)),
        _ => bail!("usage: bytes_per_sample record FILE MINUTES | report FILE | flash FILE DIR"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a recorder is its own shell: it reads the clock and waits for it"
)]
fn record(file: &Path, minutes: u64) -> anyhow::Result<()> {
    let mut out = std::fs::File::create(file)?;
    let mut host = Host::default();
    let mut spool = Spool::new(INTERVAL, Duration::from_secs(60));
    let mut spent = Vec::new();
    let mut frames = 0;
    while frames < minutes {
        let now_ms = unix_ms()?;
        let due_ms = spool.next_moment(now_ms);
        std::thread::sleep(Duration::from_millis(due_ms - now_ms));
        let started = std::time::Instant::now();
        let mut samples = SampleSet::new();
        host.sample(&mut samples);
        spent.push(started.elapsed());
        for frame in spool.add(due_ms, samples) {
            let bytes = encode(&frame, Effort::Shortest)?;
            out.write_all(&u32::try_from(bytes.len())?.to_le_bytes())?;
            out.write_all(&bytes)?;
            frames += 1;
        }
    }
    spent.sort_unstable();
    let mut stdout = std::io::stdout().lock();
    let pick = |part: usize| {
        spent
            .get(spent.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    writeln!(
        stdout,
        "one sampling: median {:?}, p90 {:?}, p99 {:?} (wall clock)",
        pick(50),
        pick(90),
        pick(99)
    )?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the recorder's clock")]
fn unix_ms() -> anyhow::Result<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_millis())?)
}

fn load(file: &Path) -> anyhow::Result<Vec<Frame>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .with_context(|| format!("open {}", file.display()))?
        .read_to_end(&mut bytes)?;
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (frame, after) = after
            .split_at_checked(length)
            .context("recording ends early")?;
        frames.push(decode(frame)?);
        rest = after;
    }
    Ok(frames)
}

fn report(file: &Path) -> anyhow::Result<()> {
    let recorded = load(file)?;
    let samples: usize = recorded.iter().map(Frame::sample_count).sum();
    let moments: usize = recorded.iter().map(|frame| frame.moments().len()).sum();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} minutes, {moments} moments, {:.1} values a moment",
        recorded.len(),
        ratio(samples, moments)
    )?;
    writeln!(
        out,
        "frame    frames  bytes a frame (least/median/most)  bytes a sample  with envelope and MQTT"
    )?;
    for minutes in LENGTHS_MIN {
        let frames = repack(&recorded, Duration::from_secs(60 * minutes));
        let mut sizes = Vec::new();
        let (mut payload, mut total, mut count) = (0, 0, 0);
        for frame in &frames {
            let bytes = encode(frame, Effort::Shortest)?;
            sizes.push(bytes.len());
            payload += bytes.len();
            total += on_the_wire(bytes);
            count += frame.sample_count();
        }
        sizes.sort_unstable();
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
        writeln!(
            out,
            "{minutes:>3} min  {:>6}  {:>9} /{median:>7} /{:>7}          {:>6.3}          {:>6.3}",
            frames.len(),
            sizes.first().copied().unwrap_or_default(),
            sizes.last().copied().unwrap_or_default(),
            ratio(payload, count),
            ratio(total, count),
        )?;
    }
    Ok(())
}

/// Minutes in a day: frames that a day has.
const DAY_MINUTES: u64 = 1_440;

/// A Monday in the past; any day will do.
const DAY_START_MS: u64 = 1_794_268_800_000;

fn flash(file: &Path, dir: &Path) -> anyhow::Result<()> {
    let recorded = load(file)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "a day of one-minute frames   by the store   by the kernel   commits"
    )?;
    for (name, link_up) in [("link up", true), ("link down", false)] {
        let day = Day::new(dir)?;
        let (counted, device, commits) = day.run(&recorded, link_up)?;
        writeln!(
            out,
            "{name:<26} {:>11.2} MB {:>12.2} MB {commits:>9}",
            ratio(counted, 1_000_000),
            ratio(device, 1_000_000),
        )?;
    }
    Ok(())
}

/// The agent's store on a real file, with the clock in our hands.
struct Day {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Day {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(dir)?;
        let disk = RedbDisk::file(&folder.path().join("agent.redb"));
        let started = |clean| Lifecycle::Started {
            boot: BootId([0; 16]),
            at: UnixMillis(DAY_START_MS),
            agent_version: String::new(),
            clean,
        };
        let (store, _) = Store::open(
            Box::new(disk),
            // The real one is on a tmpfs, which is no flash.
            Box::new(MemorySpool::default()),
            Limits::default(),
            StoreId::from_bytes([1; 10]),
            started,
            UnixMillis(DAY_START_MS),
        )?;
        Ok(Self {
            _folder: folder,
            store,
        })
    }

    /// Bytes by the store's count, by the kernel's, and commits.
    fn run(mut self, recorded: &[Frame], link_up: bool) -> anyhow::Result<(usize, usize, u64)> {
        self.store.settle(true, UnixMillis(DAY_START_MS), Tick(0));
        let (before, device_before) = (self.store.stats(), written_by_kernel()?);
        for minute in 0..DAY_MINUTES {
            let index = usize::try_from(minute)? % recorded.len().max(1);
            let frame = recorded.get(index).context("an empty recording")?;
            let start_ms = DAY_START_MS + minute * 60_000;
            let span = Span {
                start_ms,
                ..frame.span
            };
            let body = encode(
                &Frame {
                    span,
                    ..frame.clone()
                },
                Effort::Shortest,
            )?;
            let last = UnixMillis(span.slot_ms(usize::from(span.slots.saturating_sub(1))));
            let now = Tick((minute + 1) * 60_000);
            let entry = FrameEntry {
                version: FRAME_VERSION,
                tier: span.tier,
                first: UnixMillis(start_ms),
                last,
                body,
            };
            self.store.append_frame(entry, now);
            if link_up {
                let sent = self.store.outbox().line(Stream::Telemetry).last();
                self.store.acknowledged(Stream::Telemetry, sent, now);
            }
            let settled = self.store.settle(link_up, UnixMillis(last.0 + 10_000), now);
            if let Some(error) = settled.failed {
                return Err(error.into());
            }
        }
        self.store.close()?;
        let after = self.store.stats();
        Ok((
            usize::try_from(after.flash_bytes - before.flash_bytes)?,
            usize::try_from(written_by_kernel()? - device_before)?,
            after.commits - before.commits,
        ))
    }
}

fn written_by_kernel() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line
        .context("no write_bytes in /proc/self/io")?
        .trim()
        .parse()?)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a report are far below 2^53"
)]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn repack(recorded: &[Frame], window: Duration) -> Vec<Frame> {
    let mut spool = Spool::new(INTERVAL, window);
    let mut frames = Vec::new();
    for frame in recorded {
        for (slot, samples) in frame.moments() {
            frames.extend(spool.add(frame.span.slot_ms(slot), samples));
        }
    }
    frames.extend(spool.seal());
    frames
}

/// The bytes of the MQTT 5 PUBLISH at QoS 1 that carries one frame: the upload
/// message around it, the signed envelope, the topic, the packet id, no
/// properties. TLS and TCP are the network's and not counted.
fn on_the_wire(frame: Vec<u8>) -> usize {
    let upload = Upload {
        store: StoreId::from_bytes([0xa5; 10]),
        stream: Stream::Telemetry,
        after: 1_000_000,
        entries: vec![Entry {
            seq: 1_000_001,
            kind: EntryKind::FRAME,
            version: FRAME_VERSION,
            body: frame,
        }],
    };
    let payload = protocol::message::encode(&upload).len() + envelope::OVERHEAD_BYTES;
    let topic = Topic::Up(NodeId::from_bytes([0xa5; 10]), Stream::Telemetry)
        .print(FleetId::from_bytes([0xa5; 10]))
        .len();
    let variable = 2 + topic + 2 + 1 + payload;
    let length_bytes = if variable < 128 {
        1
    } else if variable < 16_384 {
        2
    } else {
        3
    };
    1 + length_bytes + variable
}
