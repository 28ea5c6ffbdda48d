//! What a benchmark ran on, and how to read a process's cost from /proc.

use std::fs;
use std::time::Duration;

/// One line about the machine: processor, cores, memory, kernel.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{model}, {cores} cores, {} MiB, Linux {}",
        memory / 1024,
        kernel.trim()
    )
}

/// The number behind `key` in a file of lines like `Pss:  1234 kB`.
fn number(file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The proportional set size of a process in KiB; `None` when it is gone.
pub fn pss_kib(process: u32) -> Option<u64> {
    number(&format!("/proc/{process}/smaps_rollup"), "Pss:")
}

/// The resident set size of a process in KiB; `None` when it is gone.
pub fn rss_kib(process: u32) -> Option<u64> {
    number(&format!("/proc/{process}/smaps_rollup"), "Rss:")
}

/// Bytes that a process caused to be written to storage; `None` when it is gone.
pub fn written_bytes(process: u32) -> Option<u64> {
    number(&format!("/proc/{process}/io"), "write_bytes:")
}

/// Descriptors that a process has open; `None` when it is gone.
pub fn descriptors(process: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{process}/fd")).ok()?.count())
}

/// Ticks a second of the times in /proc: USER_HZ, 100 on every Linux that Flotilla
/// runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that a process has used, its ended threads included.
pub fn cpu(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields follow it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

/// The least, the middle, a high percentile and the most of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The median.
    pub middle: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of at least one number; zeroes without any.
    pub fn of(numbers: &[f64]) -> Spread {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |permille: usize| {
            let index = (sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1));
            sorted.get(index).copied().unwrap_or_default()
        };
        Spread {
            least: at(0),
            middle: at(500),
            p99: at(990),
            most: at(1000),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} median ({:.3} to {:.3}, p99 {:.3})",
            self.middle, self.least, self.most, self.p99
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_size_and_a_time() {
        let own = std::process::id();
        assert!(pss_kib(own).is_some_and(|kib| kib > 100));
        assert!(rss_kib(own) >= pss_kib(own));
        assert!(cpu(own).is_some());
        assert!(written_bytes(own).is_some());
        assert!(descriptors(own).is_some_and(|open| open > 2));
        assert!(describe().contains("cores"));
    }

    #[test]
    fn a_spread_has_its_middle_and_its_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]);
        assert_eq!((spread.least, spread.middle, spread.most), (1.0, 2.0, 3.0));
    }
}
