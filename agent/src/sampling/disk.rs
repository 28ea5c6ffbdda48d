//! Operations, bytes and latency by block device.
//!
//! One physical device is counted once: partitions, loop devices, RAM disks and
//! devices stacked upon others (LVM, RAID, dm-crypt) repeat what the device
//! below them counts, and are left out.

use std::collections::BTreeMap;

use protocol::telemetry::SampleSet;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::LABELS_PER_SET_MAX;

use super::labels::Labels;
use super::source::{CollectError, Source, counts_of};

/// Names forgotten at once when there are more: a host that attaches and
/// detaches volumes for ever must not grow the memory of what they were.
const REMEMBERED_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Disks {
    labels: Labels,
    physical: BTreeMap<String, bool>,
}

impl Disks {
    pub(super) const fn new() -> Self {
        Self {
            labels: Labels::new(LABELS_PER_SET_MAX),
            physical: BTreeMap::new(),
        }
    }

    /// Collects, and says how many devices were beyond the bound.
    pub(super) fn collect(
        &mut self,
        source: &mut Source,
        out: &mut SampleSet,
    ) -> Result<usize, CollectError> {
        let block = source.sys.join("block");
        let Some(file) = source.proc("diskstats")? else {
            return Ok(0);
        };
        let mut names = Vec::new();
        let mut counts = Vec::new();
        if self.physical.len() > REMEMBERED_MAX {
            self.physical.clear();
        }
        for line in file.text.lines() {
            let mut fields = line.split_whitespace().skip(2);
            let Some(name) = fields.next() else { continue };
            let physical = match self.physical.get(name) {
                Some(physical) => *physical,
                None => {
                    let physical = is_physical(&block, name);
                    self.physical.insert(name.to_owned(), physical);
                    physical
                }
            };
            if !physical {
                continue;
            }
            names.push(name);
            let numbers = counts_of::<10>(fields);
            counts.push(numbers.ok_or_else(|| file.lacks("ten counts for a device"))?);
        }
        let (kept, dropped) = self.labels.of(&names);
        for (label, index) in kept {
            let Some(numbers) = counts.get(index) else {
                continue;
            };
            let [
                reads,
                _,
                read_sectors,
                read_ms,
                writes,
                _,
                written_sectors,
                write_ms,
                _,
                busy_ms,
            ] = *numbers;
            for (series, value) in [
                (SeriesId::DISK_READ_OPS, reads),
                (SeriesId::DISK_READ_BYTES, read_sectors),
                (SeriesId::DISK_READ_TIME, read_ms),
                (SeriesId::DISK_WRITE_OPS, writes),
                (SeriesId::DISK_WRITE_BYTES, written_sectors),
                (SeriesId::DISK_WRITE_TIME, write_ms),
                (SeriesId::DISK_BUSY, busy_ms),
            ] {
                out.push_u64(series, &label, value);
            }
        }
        Ok(dropped)
    }
}

fn is_physical(block: &std::path::Path, name: &str) -> bool {
    if ["loop", "ram", "zram", "fd", "sr"]
        .iter()
        .any(|kind| is_numbered(name, kind))
    {
        return false;
    }
    let folder = block.join(name.replace('/', "!"));
    let stacked =
        std::fs::read_dir(folder.join("slaves")).is_ok_and(|mut below| below.next().is_some());
    folder.is_dir() && !stacked && !is_hidden(&folder)
}

/// The paths of a multipath device are hidden behind it.
fn is_hidden(folder: &std::path::Path) -> bool {
    std::fs::read_to_string(folder.join("hidden")).is_ok_and(|text| text.trim() == "1")
}

fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}
