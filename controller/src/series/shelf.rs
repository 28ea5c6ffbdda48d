//! All segments of the store: which are open, which are sealed, which may go.
//!
//! Owns the folder. Segments are partitioned by when their frames came, an hour
//! or [`SEGMENT_BYTES_MAX`] each, one open for each class; so writing is always
//! appending to at most four files, a backfilled day lies in the hour in which it
//! came, and retention deletes whole files.
//!
//! **Invariant:** what [`Shelf::append`] returned `Ok` for is on disk. After an
//! error the files hold what they held before it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::id::NodeId;
use protocol::time::UnixMillis;

use super::index::{self, Extent, Index};
use super::segment::{self, Class, Origin, Place, Record, Scan, Segment, SegmentError, failed};

/// How long a segment takes frames in.
const SEGMENT_SPAN: Duration = Duration::from_secs(3_600);

/// How large it grows: far below the 4 GiB that offsets reach.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// A torn tail up to here is what one unfinished batch leaves, and is cut off.
/// More is damage: the file is then left as it is, and a new one begun.
const TORN_BYTES_MAX: u64 = 64 << 20;

/// A segment that takes frames in.
#[derive(Debug)]
struct Open {
    segment: Segment,
    index: Index,
}

/// A segment that is whole.
#[derive(Debug, Clone)]
struct Sealed {
    class: Class,
    path: PathBuf,
    created: UnixMillis,
    extent: Extent,
    bytes: u64,
}

/// The folder's segments.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    open: Vec<(Class, Open)>,
    sealed: Vec<Sealed>,
    /// Files that could not be used, for the operator to see.
    pub(super) damaged: Vec<String>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub(super) frames: Duration,
    pub(super) rollups: Duration,
    pub(super) bytes_max: u64,
}

/// Where some of a node's records are, to be read without holding the shelf.
#[derive(Debug)]
pub(super) enum Found {
    Places(PathBuf, Vec<Place>),
    Sealed(PathBuf),
}

/// What the newest segments hold, to rebuild what is only in memory.
#[derive(Debug, Default)]
pub(super) struct Newest {
    pub(super) origins: Vec<Origin>,
    pub(super) raw: Vec<(PathBuf, NodeId, Vec<Place>)>,
    pub(super) rolled_until_ms: Vec<(NodeId, u64)>,
}

impl Shelf {
    /// Opens the folder: resumes or seals what a crash left open.
    pub(super) fn open(dir: &Path) -> Result<(Self, Newest), SegmentError> {
        std::fs::create_dir_all(dir).map_err(failed("make the folder", dir))?;
        let mut shelf = Self {
            dir: dir.to_owned(),
            open: Vec::new(),
            sealed: Vec::new(),
            damaged: Vec::new(),
        };
        let mut newest = Newest::default();
        for class in Class::ALL {
            let mut paths = shelf.files(class)?;
            paths.sort();
            let last = paths.len().saturating_sub(2);
            for (number, path) in paths.into_iter().enumerate() {
                shelf.take_up(class, path, number >= last, &mut newest)?;
            }
        }
        Ok((shelf, newest))
    }

    fn files(&self, class: Class) -> Result<Vec<PathBuf>, SegmentError> {
        let mut paths = Vec::new();
        let entries = std::fs::read_dir(&self.dir).map_err(failed("list", &self.dir))?;
        for entry in entries {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let own = name
                .strip_prefix(class.name())
                .and_then(|rest| rest.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(".segment"));
            if own.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    fn take_up(
        &mut self,
        class: Class,
        path: PathBuf,
        is_new: bool,
        newest: &mut Newest,
    ) -> Result<(), SegmentError> {
        let length = std::fs::metadata(&path)
            .map_err(failed("look at", &path))?
            .len();
        if length == 0 {
            // Made by a start that ended before its first byte was durable.
            return std::fs::remove_file(&path).map_err(failed("remove the empty", &path));
        }
        let extent = index::extent(&path);
        if let Some(extent) = extent.filter(|_| !is_new) {
            self.sealed.push(Sealed {
                class,
                created: created_of(&path),
                path,
                extent,
                bytes: length,
            });
            return Ok(());
        }
        let scan = match segment::scan(&path) {
            Ok(scan) => scan,
            Err(error @ SegmentError::Newer { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a segment of metrics cannot be read; it is left as it is");
                self.damaged.push(error.to_string());
                return Ok(());
            }
        };
        let mut index = Index::default();
        for (origin, place) in &scan.records {
            index.add(origin.node, *place);
        }
        newest.take_in(class, &path, &scan, &index);
        if let Some(extent) = extent {
            self.sealed.push(Sealed {
                class,
                created: created_of(&path),
                path,
                extent,
                bytes: length,
            });
            return Ok(());
        }
        if scan.torn_bytes > 0 {
            tracing::warn!(
                file = %path.display(),
                bytes = scan.torn_bytes,
                "a segment of metrics ends in an unfinished batch, which was never acknowledged"
            );
        }
        if scan.torn_bytes > TORN_BYTES_MAX {
            self.damaged.push(format!(
                "{} has {} unreadable bytes",
                path.display(),
                scan.torn_bytes
            ));
            index.write(&path)?;
            self.sealed.push(Sealed {
                class,
                created: created_of(&path),
                extent: index.extent(),
                path,
                bytes: length,
            });
            return Ok(());
        }
        let segment = Segment::resume(&path, &scan)?;
        if let Some(position) = self.open.iter().position(|(open, _)| *open == class) {
            let (_, before) = self.open.swap_remove(position);
            self.seal(class, before)?;
        }
        self.open.push((class, Open { segment, index }));
        Ok(())
    }

    /// Appends records of several classes, durably: all of them or none.
    pub(super) fn append(
        &mut self,
        batch: &[(Class, Vec<Record<'_>>)],
        now: UnixMillis,
    ) -> Result<(), SegmentError> {
        let mut done: Vec<(Class, u64, Vec<Place>)> = Vec::new();
        let mut outcome = Ok(());
        for (class, records) in batch.iter().filter(|(_, records)| !records.is_empty()) {
            let step = self.ready(*class, now).and_then(|open| {
                let before = open.segment.bytes();
                let places = open.segment.append(records)?;
                Ok((before, places))
            });
            match step {
                Ok((before, places)) => done.push((*class, before, places)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        for (class, _, _) in &done {
            if outcome.is_ok()
                && let Some(open) = self.open_of(*class)
            {
                outcome = open.segment.sync();
            }
        }
        if outcome.is_err() {
            for (class, before, _) in done {
                if let Some(open) = self.open_of(class) {
                    open.segment.undo(before);
                }
            }
            return outcome;
        }
        for (class, _, places) in done {
            let records = batch
                .iter()
                .find(|(of, _)| *of == class)
                .map(|(_, records)| records);
            if let (Some(open), Some(records)) = (self.open_of(class), records) {
                for (record, place) in records.iter().zip(places) {
                    open.index.add(record.origin.node, place);
                }
            }
        }
        Ok(())
    }

    fn open_of(&mut self, class: Class) -> Option<&mut Open> {
        self.open
            .iter_mut()
            .find(|(open, _)| *open == class)
            .map(|(_, open)| open)
    }

    fn ready(&mut self, class: Class, now: UnixMillis) -> Result<&mut Open, SegmentError> {
        if self.open_of(class).is_none() {
            let segment = Segment::create(&self.dir, class, now)?;
            self.open.push((
                class,
                Open {
                    segment,
                    index: Index::default(),
                },
            ));
        }
        let missing = || {
            failed("find the open", &PathBuf::from(class.name()))(
                std::io::ErrorKind::NotFound.into(),
            )
        };
        let position = self.open.iter().position(|(open, _)| *open == class);
        position
            .and_then(|position| self.open.get_mut(position))
            .map(|(_, open)| open)
            .ok_or_else(missing)
    }

    fn seal(&mut self, class: Class, open: Open) -> Result<(), SegmentError> {
        let sealed = Sealed {
            class,
            path: open.segment.path().to_owned(),
            created: open.segment.created,
            extent: open.index.extent(),
            bytes: open.segment.bytes(),
        };
        let written = open
            .segment
            .sync()
            .and_then(|()| open.index.write(open.segment.path()));
        if let Err(error) = written {
            self.open.push((class, open));
            return Err(error);
        }
        self.sealed.push(sealed);
        Ok(())
    }

    /// Seals what is full or old enough.
    pub(super) fn seal_due(&mut self, now: UnixMillis) -> Result<(), SegmentError> {
        while let Some(position) = self.open.iter().position(|(_, open)| {
            let due = open.segment.bytes() >= SEGMENT_BYTES_MAX
                || now.since(open.segment.created) >= SEGMENT_SPAN;
            due && !open.index.is_empty()
        }) {
            let (class, open) = self.open.swap_remove(position);
            self.seal(class, open)?;
        }
        Ok(())
    }

    /// Deletes what retention no longer keeps, and says how many files.
    pub(super) fn retain(&mut self, keep: Keep, now: UnixMillis) -> Result<usize, SegmentError> {
        let expired = |sealed: &Sealed| {
            let life = if sealed.class == Class::Rollup {
                keep.rollups
            } else {
                keep.frames
            };
            now.since(sealed.created) > life.saturating_add(SEGMENT_SPAN)
        };
        let mut deleted = 0;
        while let Some(position) = self.sealed.iter().position(expired) {
            self.delete(position)?;
            deleted += 1;
        }
        while self.bytes() > keep.bytes_max {
            // Frames go before the rollups that still tell of them, oldest first.
            let oldest = (0..self.sealed.len()).min_by_key(|index| {
                self.sealed
                    .get(*index)
                    .map(|sealed| (sealed.class == Class::Rollup, sealed.created))
            });
            let Some(oldest) = oldest else { break };
            self.delete(oldest)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn delete(&mut self, position: usize) -> Result<(), SegmentError> {
        let Some(sealed) = self.sealed.get(position) else {
            return Ok(());
        };
        // The index goes first: a segment without one is scanned, an index
        // without its segment would be litter for ever.
        for path in [index::beside(&sealed.path), sealed.path.clone()] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("delete", &path)(error));
                }
                _ => {}
            }
        }
        self.sealed.swap_remove(position);
        Ok(())
    }

    /// Where a node's records of these classes lie that touch the range.
    pub(super) fn find(
        &self,
        classes: &[Class],
        node: NodeId,
        from_ms: u64,
        to_ms: u64,
    ) -> Vec<Found> {
        let sealed = self
            .sealed
            .iter()
            .filter(|sealed| {
                classes.contains(&sealed.class) && sealed.extent.overlaps(from_ms, to_ms)
            })
            .map(|sealed| Found::Sealed(sealed.path.clone()));
        let open = self
            .open
            .iter()
            .filter(|(class, _)| classes.contains(class))
            .map(|(_, open)| {
                Found::Places(
                    open.segment.path().to_owned(),
                    open.index.places(node, from_ms, to_ms),
                )
            });
        sealed.chain(open).collect()
    }

    /// Bytes on disk, without the indexes.
    pub(super) fn bytes(&self) -> u64 {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let open: u64 = self.open.iter().map(|(_, open)| open.segment.bytes()).sum();
        sealed + open
    }

    pub(super) fn file_count(&self) -> usize {
        self.sealed.len() + self.open.len()
    }
}

impl Found {
    /// The records' places; none where retention has just deleted the file.
    pub(super) fn places(
        self,
        node: NodeId,
        from_ms: u64,
        to_ms: u64,
    ) -> Result<(PathBuf, Vec<Place>), SegmentError> {
        match self {
            Self::Places(path, places) => Ok((path, places)),
            Self::Sealed(path) => {
                let places = index::read_places(&path, node, from_ms, to_ms);
                if places.is_err() && !path.exists() {
                    return Ok((path, Vec::new()));
                }
                places.map(|places| (path, places))
            }
        }
    }
}

/// Reads the bodies at these places; none where the file is gone.
pub(super) fn read_bodies(
    path: &Path,
    places: &[Place],
    mut take: impl FnMut(&[u8]),
) -> Result<(), SegmentError> {
    if places.is_empty() {
        return Ok(());
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("open", path)(error)),
    };
    for place in places {
        take(&segment::read_body(path, &file, *place)?);
    }
    Ok(())
}

impl Newest {
    fn take_in(&mut self, class: Class, path: &Path, scan: &Scan, index: &Index) {
        if class == Class::Rollup {
            for (node, places) in index.nodes() {
                let until = places
                    .iter()
                    .map(|place| place.last_ms)
                    .max()
                    .unwrap_or_default();
                self.rolled_until_ms.push((node, until.saturating_add(1)));
            }
            return;
        }
        self.origins
            .extend(scan.records.iter().map(|(origin, _)| *origin));
        for (node, places) in index.nodes() {
            self.raw.push((path.to_owned(), node, places.to_vec()));
        }
    }
}

fn created_of(path: &Path) -> UnixMillis {
    let name = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let number = name
        .rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok());
    UnixMillis(number.unwrap_or_default())
}
