//! Pressure stall information: how long tasks waited for CPU, memory and IO.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::source::{CollectError, File, Source};

pub(super) fn collect(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    for (name, some, full) in [
        // The kernel defines no `full` for the CPU of a whole system.
        ("pressure/cpu", SeriesId::PSI_CPU_SOME, None),
        (
            "pressure/memory",
            SeriesId::PSI_MEM_SOME,
            Some(SeriesId::PSI_MEM_FULL),
        ),
        (
            "pressure/io",
            SeriesId::PSI_IO_SOME,
            Some(SeriesId::PSI_IO_FULL),
        ),
    ] {
        let Some(file) = source.proc(name)? else {
            continue;
        };
        let total = total_ms(&file, "some ").ok_or_else(|| file.lacks("total of `some`"))?;
        out.push_u64(some, &Label::NONE, total);
        if let (Some(series), Some(total)) = (full, total_ms(&file, "full ")) {
            out.push_u64(series, &Label::NONE, total);
        }
    }
    Ok(())
}

fn total_ms(file: &File<'_>, line: &str) -> Option<u64> {
    let rest = file.text.lines().find_map(|text| text.strip_prefix(line))?;
    let (_, total) = rest.split_once("total=")?;
    total.trim().parse::<u64>().ok().map(|us| us / 1_000)
}
