//! Processes and file descriptors of the host.

use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::{Label, SampleSet};

use super::source::{CollectError, Source};

pub(super) fn count(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    let entries = std::fs::read_dir(&source.proc).map_err(|error| CollectError::Read {
        path: source.proc.clone(),
        source: error,
    })?;
    let processes = entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .first()
                .is_some_and(u8::is_ascii_digit)
        })
        .count() as u64;
    out.push_u64(SeriesId::PROC_COUNT, &Label::NONE, processes);
    Ok(())
}

pub(super) fn descriptors(source: &mut Source, out: &mut SampleSet) -> Result<(), CollectError> {
    let Some(file) = source.proc("sys/fs/file-nr")? else {
        return Ok(());
    };
    let mut numbers = file.text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(open)), Some(Ok(unused)), Some(Ok(limit))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        return Err(file.lacks("three numbers"));
    };
    out.push_u64(SeriesId::FD_USED, &Label::NONE, open.saturating_sub(unused));
    out.push_u64(SeriesId::FD_MAX, &Label::NONE, limit);
    Ok(())
}
