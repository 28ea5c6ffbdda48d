//! Space and inodes by filesystem.
//!
//! Only filesystems on local storage are asked: a network filesystem whose
//! server is gone would hold the thread for ever. Each is asked once, at its
//! shortest mount point: bind mounts repeat the same device, and containers'
//! bind mounts of single files are no place of their own.

use std::collections::BTreeMap;
use std::path::Path;

use procfs::FromBufRead as _;
use procfs::process::MountInfos;
use protocol::telemetry::SampleSet;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::LABELS_PER_SET_MAX;

use super::labels::Labels;
use super::source::{CollectError, Source};

/// The types that live on local storage.
const LOCAL: [&str; 18] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "nilfs2",
    "vfat", "exfat", "ntfs3", "ubifs", "jffs2", "overlay", "ufs",
];

/// The catalogue's step of space, in bytes.
const STEP_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Filesystems {
    labels: Labels,
}

impl Filesystems {
    pub(super) const fn new() -> Self {
        Self {
            labels: Labels::new(LABELS_PER_SET_MAX),
        }
    }

    /// Collects, and says how many filesystems were beyond the bound.
    pub(super) fn collect(
        &mut self,
        source: &mut Source,
        out: &mut SampleSet,
    ) -> Result<usize, CollectError> {
        let Some(file) = source.proc("self/mountinfo")? else {
            return Ok(0);
        };
        let places = places(file.text).ok_or_else(|| file.lacks("line as proc(5) has it"))?;
        let names: Vec<&str> = places.iter().map(String::as_str).collect();
        let (kept, dropped) = self.labels.of(&names);
        for (label, index) in kept {
            let Some(place) = names.get(index) else {
                continue;
            };
            // A mount that has just gone is no failure: the next sample lacks it.
            let Ok(space) = rustix::fs::statvfs(*place) else {
                continue;
            };
            if space.f_blocks == 0 {
                continue;
            }
            let steps = |blocks: u64| {
                u64::try_from(
                    u128::from(blocks) * u128::from(space.f_frsize) / u128::from(STEP_BYTES),
                )
                .unwrap_or(u64::MAX)
            };
            out.push_u64(SeriesId::FS_TOTAL, &label, steps(space.f_blocks));
            out.push_u64(
                SeriesId::FS_USED,
                &label,
                steps(space.f_blocks.saturating_sub(space.f_bfree)),
            );
            out.push_u64(SeriesId::FS_AVAILABLE, &label, steps(space.f_bavail));
            // btrfs and vfat have no fixed number of inodes and say zero.
            if space.f_files > 0 {
                out.push_u64(SeriesId::FS_INODES, &label, space.f_files);
                out.push_u64(
                    SeriesId::FS_INODES_USED,
                    &label,
                    space.f_files.saturating_sub(space.f_ffree),
                );
            }
        }
        Ok(dropped)
    }
}

/// The mount points to ask, one for each device.
fn places(mountinfo: &str) -> Option<Vec<String>> {
    let mounts = MountInfos::from_buf_read(mountinfo.as_bytes()).ok()?;
    let mut shortest: BTreeMap<String, String> = BTreeMap::new();
    for mount in mounts {
        let place = mount.mount_point.to_str().map(str::to_owned);
        let Some(place) = place.filter(|_| LOCAL.contains(&mount.fs_type.as_str())) else {
            continue;
        };
        // Docker mounts an overlay for each container; only one's own root counts.
        if mount.fs_type == "overlay" && place != "/" {
            continue;
        }
        match shortest.get_mut(&mount.majmin) {
            Some(known) if known.len() <= place.len() => {}
            Some(known) => *known = place,
            None => {
                shortest.insert(mount.majmin, place);
            }
        }
    }
    Some(
        shortest
            .into_values()
            .filter(|place| Path::new(place).is_dir())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    //! Which mounts are asked.

    use super::places;

    #[test]
    fn bind_mounts_and_pseudo_filesystems_are_left_out() {
        let mounts = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            40 27 254:0 /srv /tmp rw,relatime - ext4 /dev/vda rw\n\
            41 27 0:99 / /dev rw - overlay overlay rw\n\
            42 27 0:44 / /sys rw - nfs4 server:/x rw\n\
            43 27 254:9 /etc/hosts /proc/version rw - ext4 /dev/vdb rw\n";
        assert_eq!(places(mounts), Some(vec!["/".to_owned()]));
    }
}
