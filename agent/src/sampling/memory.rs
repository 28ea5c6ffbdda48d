//! Memory and swap: the host's, or the container's where a cgroup limits it.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::cgroup::Cgroup;
use super::source::{CollectError, Source};

/// The catalogue's step of memory, in KiB.
const STEP_KIB: u64 = 64;

pub(super) fn collect(
    source: &mut Source,
    cgroup: &Cgroup,
    out: &mut SampleSet,
) -> Result<(), CollectError> {
    let Some(file) = source.proc("meminfo")? else {
        return Ok(());
    };
    let total = file
        .number_after("MemTotal:")
        .ok_or_else(|| file.lacks("MemTotal"))?;
    let free = file.number_after("MemFree:").unwrap_or_default();
    let cached = ["Buffers:", "Cached:", "SReclaimable:"]
        .into_iter()
        .filter_map(|key| file.number_after(key))
        .sum::<u64>();
    // MemAvailable came with Linux 3.14; the sum is what it refined.
    let available = file
        .number_after("MemAvailable:")
        .unwrap_or(free.saturating_add(cached))
        .min(total);
    let swap_total = file.number_after("SwapTotal:").unwrap_or_default();
    let swap_free = file.number_after("SwapFree:").unwrap_or_default();
    let (total, available) = match cgroup.memory(source) {
        Some(memory) if memory.limit / 1_024 < total => {
            let limit = memory.limit / 1_024;
            (
                limit,
                limit
                    .saturating_sub(memory.working_set / 1_024)
                    .min(available),
            )
        }
        _ => (total, available),
    };
    for (series, kib) in [
        (SeriesId::MEM_TOTAL, total),
        (SeriesId::MEM_USED, total.saturating_sub(available)),
        (SeriesId::MEM_AVAILABLE, available),
        (SeriesId::MEM_CACHED, cached),
        (SeriesId::SWAP_TOTAL, swap_total),
        (SeriesId::SWAP_USED, swap_total.saturating_sub(swap_free)),
    ] {
        out.push_u64(series, &Label::NONE, kib / STEP_KIB);
    }
    Ok(())
}
