//! Saving what a controller streams.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use futures_util::StreamExt as _;
use reqwest::Response;

use crate::cli::failure::CliFailure;
use crate::exit::Exit;

/// Saves an answer in a file that only its owner reads, and says how many bytes there
/// were. What broke off leaves no file that looks whole.
pub(super) async fn save(response: Response, to: &Path, what: &str) -> Result<u64, CliFailure> {
    let part = to.with_added_extension("part");
    let saved = stream(response, &part, what).await;
    if saved.is_err()
        && let Err(error) = std::fs::remove_file(&part)
    {
        tracing::debug!(%error, "nothing of it was there");
    }
    let count = saved?;
    std::fs::rename(&part, to).map_err(|error| cannot_write(to, &error))?;
    Ok(count)
}

async fn stream(response: Response, part: &Path, what: &str) -> Result<u64, CliFailure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .map_err(|error| cannot_write(part, &error))?;
    let mut chunks = response.bytes_stream();
    let mut count = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            CliFailure::because(Exit::Unavailable, format_args!("{what} broke off"), &error)
        })?;
        count += chunk.len() as u64;
        file.write_all(&chunk)
            .map_err(|error| cannot_write(part, &error))?;
    }
    file.sync_all()
        .map_err(|error| cannot_write(part, &error))?;
    Ok(count)
}

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> CliFailure {
    CliFailure::because(
        Exit::CannotCreate,
        format_args!("cannot write {}", path.display()),
        error,
    )
}
