//! What this process uses, read from the kernel at the moment it is asked for.
//!
//! A value that cannot be read is zero: a status with a gap is better than
//! none.

use std::fs;
use std::path::Path;

/// Proportional set size of this process, in bytes.
pub(super) fn memory_bytes() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    pss(&rollup).unwrap_or_default()
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Processor time of this process, in milliseconds.
pub(super) fn cpu_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds * 1000 + nanos / 1_000_000
}

/// Bytes that the agent may still write below `folder`.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes of a file.
pub(super) fn file_bytes(file: &Path) -> u64 {
    fs::metadata(file)
        .map(|meta| meta.len())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        let text = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 4000 kB\nPss:    1234 kB\n";
        assert_eq!(pss(text), Some(1234 * 1024));
        assert_eq!(pss(""), None);
        assert_eq!(pss("Pss: many kB"), None);
        assert!(memory_bytes() > 0);
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/nonexistent")), None);
    }
}
