//! What the cgroup around the whole node allows and counts.
//!
//! Only the cgroup at the root of the mounted hierarchy is asked. On a host
//! that is the real root, which has no limits; in a container or LXC it is the
//! container's own. So the limits of the unit that the agent itself runs in are
//! never taken for the node's.

use super::source::Source;

/// Above it a limit is v1's way of saying none (it prints `i64::MAX` rounded
/// down to a page).
const NO_LIMIT: u64 = 1 << 60;

/// Which hierarchy the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// No limits here: a host's root, or no cgroups.
    Unlimited,
    V1,
    V2,
}

/// The cgroup around the node.
#[derive(Debug)]
pub(super) struct Cgroup {
    version: Version,
    counts_cpu: bool,
}

/// Memory as the cgroup sees it, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CgroupMemory {
    pub(super) limit: u64,
    /// In use, without the file cache that can be reclaimed.
    pub(super) working_set: u64,
}

impl Cgroup {
    /// Looks which it is. Does not change while the agent runs.
    pub(super) fn find(source: &mut Source) -> Self {
        // `cgroup.events` is in every v2 cgroup but the real root.
        let version = if matches!(source.sys("fs/cgroup/cgroup.events"), Ok(Some(_))) {
            Version::V2
        } else if source
            .sys_number("fs/cgroup/memory/memory.limit_in_bytes")
            .is_some()
        {
            Version::V1
        } else {
            Version::Unlimited
        };
        // lxcfs mounts a `/proc/stat` that already is the container's.
        let lxcfs = matches!(
            source.proc("self/mountinfo"),
            Ok(Some(mounts)) if mounts.text.lines().any(|line| line.contains(" /proc/stat "))
        );
        Self {
            version,
            counts_cpu: version == Version::V2 && !lxcfs,
        }
    }

    /// Whether the node is confined by a cgroup of its own.
    pub(super) fn is_container(&self, source: &mut Source) -> bool {
        match self.version {
            Version::V2 => true,
            Version::V1 => {
                self.memory(source).is_some() || self.cpu_quota_hundredths(source).is_some()
            }
            Version::Unlimited => false,
        }
    }

    /// The memory limit and what is in use; `None` without a limit.
    pub(super) fn memory(&self, source: &mut Source) -> Option<CgroupMemory> {
        let (limit, usage, stat, inactive) = match self.version {
            Version::Unlimited => return None,
            Version::V1 => (
                "fs/cgroup/memory/memory.limit_in_bytes",
                "fs/cgroup/memory/memory.usage_in_bytes",
                "fs/cgroup/memory/memory.stat",
                "total_inactive_file ",
            ),
            Version::V2 => (
                "fs/cgroup/memory.max",
                "fs/cgroup/memory.current",
                "fs/cgroup/memory.stat",
                "inactive_file ",
            ),
        };
        let limit = source.sys_number(limit).filter(|limit| *limit < NO_LIMIT)?;
        let usage = source.sys_number(usage)?;
        let reclaimable = source
            .sys(stat)
            .ok()
            .flatten()
            .and_then(|file| file.number_after(inactive))
            .unwrap_or_default();
        Some(CgroupMemory {
            limit,
            working_set: usage.saturating_sub(reclaimable),
        })
    }

    /// The CPU quota in hundredths of a CPU; `None` without one.
    pub(super) fn cpu_quota_hundredths(&self, source: &mut Source) -> Option<u64> {
        let (quota, period) = match self.version {
            Version::Unlimited => return None,
            Version::V1 => (
                source.sys_number("fs/cgroup/cpu/cpu.cfs_quota_us")?,
                source.sys_number("fs/cgroup/cpu/cpu.cfs_period_us")?,
            ),
            Version::V2 => {
                let file = source.sys("fs/cgroup/cpu.max").ok().flatten()?;
                let (quota, period) = file.text.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
        };
        (quota > 0 && period > 0).then(|| quota.saturating_mul(100) / period)
    }

    /// User and system CPU time in microseconds, where the cgroup's own count is
    /// the node's and `/proc/stat` is the host's.
    pub(super) fn cpu_times_us(&self, source: &mut Source) -> Option<(u64, u64)> {
        if !self.counts_cpu {
            return None;
        }
        let file = source.sys("fs/cgroup/cpu.stat").ok().flatten()?;
        Some((
            file.number_after("user_usec ")?,
            file.number_after("system_usec ")?,
        ))
    }
}
