//! Which records of a segment are whose.
//!
//! The segment that is being written has its index in memory, 24 bytes a frame.
//! When it is sealed the index becomes a file beside it, from which one node's
//! part is read without the rest: a table of nodes sorted by id, then their
//! places. So a day of ten thousand nodes costs no memory.
//!
//! ```text
//! 8 magic "FLOTIDX1" | 4 nodes | 4 CRC-32 of the table | table | places
//! table  10 node | 4 first place | 4 places | 8 first moment | 8 last moment
//! place  8 first moment | 8 last moment | 4 offset | 4 length
//! ```
//!
//! **Invariant:** an index says nothing that its segment does not: one that is
//! missing or damaged is made again by a scan.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use protocol::id::{ID_BYTES, NodeId};

use super::segment::{Place, SegmentError, failed, sync_dir};

const MAGIC: [u8; 8] = *b"FLOTIDX1";
const HEAD_BYTES: usize = 16;
const ROW_BYTES: usize = 34;
const PLACE_BYTES: usize = 24;

/// Rows that a table may claim: far above any fleet, so that a damaged count
/// allocates 68 MB at most.
const ROWS_MAX: u32 = 2_000_000;

/// The index of the segment that is being written.
#[derive(Debug, Default)]
pub(super) struct Index {
    nodes: BTreeMap<NodeId, Vec<Place>>,
}

/// The moments that a segment's samples lie between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

impl Extent {
    pub(super) const EMPTY: Self = Self {
        first_ms: u64::MAX,
        last_ms: 0,
    };

    pub(super) fn take_in(&mut self, place: &Place) {
        self.first_ms = self.first_ms.min(place.first_ms);
        self.last_ms = self.last_ms.max(place.last_ms);
    }

    pub(super) const fn overlaps(&self, from_ms: u64, to_ms: u64) -> bool {
        self.first_ms < to_ms && self.last_ms >= from_ms
    }
}

impl Index {
    pub(super) fn add(&mut self, node: NodeId, place: Place) {
        self.nodes.entry(node).or_default().push(place);
    }

    pub(super) fn extent(&self) -> Extent {
        let mut extent = Extent::EMPTY;
        self.nodes
            .values()
            .flatten()
            .for_each(|place| extent.take_in(place));
        extent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (NodeId, &[Place])> {
        self.nodes
            .iter()
            .map(|(node, places)| (*node, places.as_slice()))
    }

    /// The node's records whose samples touch the range.
    pub(super) fn places(&self, node: NodeId, from_ms: u64, to_ms: u64) -> Vec<Place> {
        self.nodes
            .get(&node)
            .into_iter()
            .flatten()
            .filter(|place| place.first_ms < to_ms && place.last_ms >= from_ms)
            .copied()
            .collect()
    }

    /// Writes it beside its segment: whole under its name, or not at all.
    pub(super) fn write(&self, segment: &Path) -> Result<(), SegmentError> {
        let path = beside(segment);
        let draft = path.with_extension("draft");
        let mut table = Vec::with_capacity(self.nodes.len() * ROW_BYTES);
        let mut places = Vec::new();
        let mut count = 0_u32;
        for (node, list) in &self.nodes {
            let mut extent = Extent::EMPTY;
            for place in list {
                extent.take_in(place);
                places.extend_from_slice(&place.first_ms.to_le_bytes());
                places.extend_from_slice(&place.last_ms.to_le_bytes());
                places.extend_from_slice(&place.offset.to_le_bytes());
                places.extend_from_slice(&place.length.to_le_bytes());
            }
            let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
            table.extend_from_slice(node.as_bytes());
            table.extend_from_slice(&count.to_le_bytes());
            table.extend_from_slice(&length.to_le_bytes());
            table.extend_from_slice(&extent.first_ms.to_le_bytes());
            table.extend_from_slice(&extent.last_ms.to_le_bytes());
            count = count.saturating_add(length);
        }
        let mut crc = flate2::Crc::new();
        crc.update(&table);
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&nodes.to_le_bytes());
        bytes.extend_from_slice(&crc.sum().to_le_bytes());
        bytes.extend_from_slice(&table);
        bytes.extend_from_slice(&places);
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(failed("write", &draft))?;
        std::fs::rename(&draft, &path).map_err(failed("name", &path))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        sync_dir(dir).map_err(failed("sync", dir))
    }
}

/// The index file of a segment.
pub(super) fn beside(segment: &Path) -> PathBuf {
    segment.with_extension("index")
}

/// What a sealed segment's index says as a whole; `None` when there is none or
/// it is damaged.
pub(super) fn extent(segment: &Path) -> Option<Extent> {
    let file = File::open(beside(segment)).ok()?;
    let table = table(&file)?;
    let mut extent = Extent::EMPTY;
    for row in table.chunks_exact(ROW_BYTES) {
        let row = parse_row(row)?;
        extent.first_ms = extent.first_ms.min(row.extent.first_ms);
        extent.last_ms = extent.last_ms.max(row.extent.last_ms);
    }
    Some(extent)
}

/// One node's records in a sealed segment whose samples touch the range.
pub(super) fn read_places(
    segment: &Path,
    node: NodeId,
    from_ms: u64,
    to_ms: u64,
) -> Result<Vec<Place>, SegmentError> {
    let path = beside(segment);
    let damaged = || {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "the index is damaged");
        failed("read", &path)(error)
    };
    let file = File::open(&path).map_err(failed("open", &path))?;
    let table = table(&file).ok_or_else(damaged)?;
    let rows: Vec<&[u8]> = table.chunks_exact(ROW_BYTES).collect();
    let found =
        rows.binary_search_by(|row| row.get(..ID_BYTES).cmp(&Some(node.as_bytes().as_slice())));
    let Some(row) = found
        .ok()
        .and_then(|index| rows.get(index))
        .and_then(|row| parse_row(row))
    else {
        return Ok(Vec::new());
    };
    if !row.extent.overlaps(from_ms, to_ms) {
        return Ok(Vec::new());
    }
    let start = HEAD_BYTES as u64 + table.len() as u64 + u64::from(row.first) * PLACE_BYTES as u64;
    let length = row.count as usize * PLACE_BYTES;
    let total = file.metadata().map_err(failed("look at", &path))?.len();
    if start + length as u64 > total {
        return Err(damaged());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)
        .map_err(failed("read", &path))?;
    let places = bytes.chunks_exact(PLACE_BYTES).filter_map(parse_place);
    Ok(places
        .filter(|place| place.first_ms < to_ms && place.last_ms >= from_ms)
        .collect())
}

struct Row {
    first: u32,
    count: u32,
    extent: Extent,
}

fn table(file: &File) -> Option<Vec<u8>> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, 0).ok()?;
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (nodes, rest) = rest.split_first_chunk::<4>()?;
    let (sum, _) = rest.split_first_chunk::<4>()?;
    let nodes = u32::from_le_bytes(*nodes);
    if *magic != MAGIC || nodes > ROWS_MAX {
        return None;
    }
    let mut table = vec![0; nodes as usize * ROW_BYTES];
    file.read_exact_at(&mut table, HEAD_BYTES as u64).ok()?;
    let mut crc = flate2::Crc::new();
    crc.update(&table);
    (crc.sum() == u32::from_le_bytes(*sum)).then_some(table)
}

fn parse_row(row: &[u8]) -> Option<Row> {
    let (_, rest) = row.split_first_chunk::<ID_BYTES>()?;
    let (first, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (first_ms, rest) = rest.split_first_chunk::<8>()?;
    let (last_ms, _) = rest.split_first_chunk::<8>()?;
    Some(Row {
        first: u32::from_le_bytes(*first),
        count: u32::from_le_bytes(*count),
        extent: Extent {
            first_ms: u64::from_le_bytes(*first_ms),
            last_ms: u64::from_le_bytes(*last_ms),
        },
    })
}

fn parse_place(bytes: &[u8]) -> Option<Place> {
    let (first_ms, rest) = bytes.split_first_chunk::<8>()?;
    let (last_ms, rest) = rest.split_first_chunk::<8>()?;
    let (offset, rest) = rest.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some(Place {
        first_ms: u64::from_le_bytes(*first_ms),
        last_ms: u64::from_le_bytes(*last_ms),
        offset: u32::from_le_bytes(*offset),
        length: u32::from_le_bytes(*length),
    })
}
