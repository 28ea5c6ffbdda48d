//! Segment files: frames as they came, one after another.
//!
//! Owns the bytes of a segment. A file is a header, then records; each record
//! has a length and a checksum, so that a torn tail is seen and cut off, and
//! what was acknowledged before it stays. Records are only ever appended.
//!
//! ```text
//! header  8 magic "FLOTSEG1" | 2 version | 1 class | 8 created (ms) | 4 CRC-32 of these
//! record  4 length of the body | 4 CRC-32 of the rest | 10 node | 10 store | 1 stream
//!         8 sequence | 8 first moment (ms) | 4 milliseconds to the last | body
//! ```
//!
//! Integers are little-endian. A file of a newer version is refused by name and
//! never touched.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use protocol::id::{ID_BYTES, NodeId, StoreId};
use protocol::stream::Stream;
use protocol::telemetry::limit::FRAME_BYTES_MAX;
use protocol::time::UnixMillis;
use thiserror::Error;

const MAGIC: [u8; 8] = *b"FLOTSEG1";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 23;
const RECORD_HEAD_BYTES: usize = 49;

/// Records above it are damage: a frame has its own limit, and a rollup of the
/// widest node is smaller.
const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// What the frames of a file are: each class has files, and retention, of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    /// Frames finer than a minute.
    Fine,
    /// Frames of a minute and up to ten.
    Minute,
    /// Frames of ten minutes and coarser.
    TenMinutes,
    /// What was made of them at ingest.
    Rollup,
}

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Fine, Self::Minute, Self::TenMinutes, Self::Rollup];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Minute => "minute",
            Self::TenMinutes => "ten-minutes",
            Self::Rollup => "rollup",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Fine => 1,
            Self::Minute => 2,
            Self::TenMinutes => 3,
            Self::Rollup => 4,
        }
    }
}

/// Why a segment could not be used.
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The operating system refused a step.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The file's beginning is not a segment's.
    #[error("{path} is no segment of metrics: its beginning is damaged")]
    Header {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of Flotilla wrote it.
    #[error("{path} has version {version}, this controller reads {VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
}

/// A closure that names the step and the file of an IO error.
pub(super) fn failed(
    step: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> SegmentError {
    let path = path.to_owned();
    move |source| SegmentError::Io { step, path, source }
}

/// A record to append, its body borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) origin: Origin,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) body: &'a [u8],
}

/// Where a record came from: what tells one delivered twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    pub(super) stream: Stream,
    pub(super) seq: u64,
}

/// Where a record lies in its file, and when its samples are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// Of the body.
    pub(super) offset: u32,
    /// Of the body.
    pub(super) length: u32,
}

/// A segment that records are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    pub(super) created: UnixMillis,
    length: u64,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The records in the order of the file.
    pub(super) records: Vec<(Origin, Place)>,
    /// Bytes up to the end of the last whole record.
    pub(super) whole_bytes: u64,
    /// Bytes after it: a torn tail, or damage.
    pub(super) torn_bytes: u64,
}

impl Segment {
    /// Makes a new file and its header, durably.
    pub(super) fn create(
        dir: &Path,
        class: Class,
        created: UnixMillis,
    ) -> Result<Self, SegmentError> {
        let mut at = created.0;
        let (path, mut file) = loop {
            let path = dir.join(format!("{}-{at:016}.segment", class.name()));
            match OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => at += 1,
                Err(error) => return Err(failed("create", &path)(error)),
            }
        };
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.push(class.number());
        header.extend_from_slice(&created.0.to_le_bytes());
        header.extend_from_slice(&checksum(&header).to_le_bytes());
        let written = file
            .write_all(&header)
            .and_then(|()| file.sync_all())
            .and_then(|()| sync_dir(dir));
        if let Err(error) = written {
            // An empty husk would be refused at the next start.
            if let Err(left) = std::fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), error = %left, "an unfinished segment is left behind");
            }
            return Err(failed("begin", &path)(error));
        }
        Ok(Self {
            path,
            file,
            created,
            length: HEADER_BYTES as u64,
        })
    }

    /// Opens a file to go on appending after what a scan found whole.
    pub(super) fn resume(path: &Path, scan: &Scan) -> Result<Self, SegmentError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed("open", path))?;
        if scan.torn_bytes > 0 {
            file.set_len(scan.whole_bytes)
                .and_then(|()| file.sync_all())
                .map_err(failed("cut the torn tail of", path))?;
        }
        let created = read_header(path, &file)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            created,
            length: scan.whole_bytes,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.length
    }

    /// Appends records; they are durable after [`Segment::sync`]. After an error
    /// the file holds what it held before.
    pub(super) fn append(&mut self, records: &[Record<'_>]) -> Result<Vec<Place>, SegmentError> {
        let mut bytes = Vec::with_capacity(
            records
                .iter()
                .map(|record| RECORD_HEAD_BYTES + record.body.len())
                .sum(),
        );
        let mut places = Vec::with_capacity(records.len());
        for record in records {
            let offset = self.length + bytes.len() as u64 + RECORD_HEAD_BYTES as u64;
            places.push(Place {
                first_ms: record.first_ms,
                last_ms: record.last_ms,
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                length: u32::try_from(record.body.len()).unwrap_or(u32::MAX),
            });
            put(&mut bytes, record);
        }
        if let Err(source) = self.file.write_all_at(&bytes, self.length) {
            self.undo(self.length);
            return Err(failed("write", &self.path)(source));
        }
        self.length += bytes.len() as u64;
        Ok(places)
    }

    /// Makes what was appended durable.
    pub(super) fn sync(&self) -> Result<(), SegmentError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }

    /// Goes back to an earlier length, after a batch that failed.
    pub(super) fn undo(&mut self, length: u64) {
        // What cannot be cut off now is cut off by its checksum, or found again
        // as a duplicate, at the next start.
        if let Err(error) = self.file.set_len(length) {
            tracing::warn!(file = %self.path.display(), %error, "cannot cut off a failed batch");
        }
        self.length = length;
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a body from a file, checking its checksum again.
pub(super) fn read_body(path: &Path, file: &File, place: Place) -> Result<Vec<u8>, SegmentError> {
    let whole = RECORD_HEAD_BYTES + place.length as usize;
    let mut bytes = vec![0; whole.min(RECORD_HEAD_BYTES + BODY_BYTES_MAX)];
    let start = u64::from(place.offset).saturating_sub(RECORD_HEAD_BYTES as u64);
    file.read_exact_at(&mut bytes, start)
        .map_err(failed("read", path))?;
    let sound = bytes
        .get(4..8)
        .zip(bytes.get(8..))
        .is_some_and(|(sum, rest)| sum == checksum(rest).to_le_bytes());
    if !sound {
        let damaged = std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "a record's checksum does not hold",
        );
        return Err(failed("read", path)(damaged));
    }
    bytes.drain(..RECORD_HEAD_BYTES);
    Ok(bytes)
}

/// Reads a file from its beginning to the first byte that is no whole record.
pub(super) fn scan(path: &Path) -> Result<Scan, SegmentError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let total = file.metadata().map_err(failed("look at", path))?.len();
    read_header(path, &file)?;
    let mut reader = BufReader::with_capacity(256 * 1_024, file);
    let mut header = [0; HEADER_BYTES];
    reader
        .read_exact(&mut header)
        .map_err(failed("read", path))?;
    let mut found = Scan {
        whole_bytes: HEADER_BYTES as u64,
        ..Scan::default()
    };
    let mut body = Vec::new();
    loop {
        let mut head = [0; RECORD_HEAD_BYTES];
        if reader.read_exact(&mut head).is_err() {
            break;
        }
        let Some((length, sum, parsed)) = parse_head(&head) else {
            break;
        };
        body.resize(length as usize, 0);
        if reader.read_exact(&mut body).is_err() {
            break;
        }
        let mut crc = flate2::Crc::new();
        crc.update(head.get(8..).unwrap_or_default());
        crc.update(&body);
        if crc.sum() != sum {
            break;
        }
        let offset = found.whole_bytes + RECORD_HEAD_BYTES as u64;
        let (origin, first_ms, last_ms) = parsed;
        found.records.push((
            origin,
            Place {
                first_ms,
                last_ms,
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                length,
            },
        ));
        found.whole_bytes = offset + u64::from(length);
    }
    found.torn_bytes = total.saturating_sub(found.whole_bytes);
    Ok(found)
}

fn read_header(path: &Path, file: &File) -> Result<UnixMillis, SegmentError> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)
        .map_err(|_| SegmentError::Header {
            path: path.to_owned(),
        })?;
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        v0,
        v1,
        _class,
        c0,
        c1,
        c2,
        c3,
        c4,
        c5,
        c6,
        c7,
        s0,
        s1,
        s2,
        s3,
    ] = header;
    if [m0, m1, m2, m3, m4, m5, m6, m7] != MAGIC {
        return Err(SegmentError::Header {
            path: path.to_owned(),
        });
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(SegmentError::Newer {
            path: path.to_owned(),
            version,
        });
    }
    let summed = header.get(..HEADER_BYTES - 4).unwrap_or_default();
    if checksum(summed) != u32::from_le_bytes([s0, s1, s2, s3]) {
        return Err(SegmentError::Header {
            path: path.to_owned(),
        });
    }
    Ok(UnixMillis(u64::from_le_bytes([
        c0, c1, c2, c3, c4, c5, c6, c7,
    ])))
}

fn put(out: &mut Vec<u8>, record: &Record<'_>) {
    let start = out.len();
    let length = u32::try_from(record.body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(record.origin.node.as_bytes());
    out.extend_from_slice(record.origin.store.as_bytes());
    out.push(u8::try_from(record.origin.stream.index()).unwrap_or(u8::MAX));
    out.extend_from_slice(&record.origin.seq.to_le_bytes());
    out.extend_from_slice(&record.first_ms.to_le_bytes());
    let extent = record.last_ms.saturating_sub(record.first_ms);
    out.extend_from_slice(&u32::try_from(extent).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(record.body);
    let sum = checksum(out.get(start + 8..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

type Parsed = (u32, u32, (Origin, u64, u64));

fn parse_head(head: &[u8; RECORD_HEAD_BYTES]) -> Option<Parsed> {
    let (length, rest) = head.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (node, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let (store, rest) = rest.split_first_chunk::<ID_BYTES>()?;
    let (stream, rest) = rest.split_first()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (extent, _) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    if length as usize > BODY_BYTES_MAX {
        return None;
    }
    let first_ms = u64::from_le_bytes(*first);
    let origin = Origin {
        node: NodeId::from_bytes(*node),
        store: StoreId::from_bytes(*store),
        stream: *Stream::ALL.get(usize::from(*stream))?,
        seq: u64::from_le_bytes(*seq),
    };
    let last_ms = first_ms.saturating_add(u64::from(u32::from_le_bytes(*extent)));
    Some((
        length,
        u32::from_le_bytes(*sum),
        (origin, first_ms, last_ms),
    ))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
