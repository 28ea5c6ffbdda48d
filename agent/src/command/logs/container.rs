//! The output of a container, from the engine's own log.
//!
//! **Invariant:** the name is one that the engine gives out, so it cannot reach
//! another part of the engine's interface. An engine that does not answer
//! costs its slot no longer than the run timeout.

use std::path::Path;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use protocol::ErrorCode;
use protocol::command::OutputStream;
use tokio::time::MissedTickBehavior;

use super::Query;
use crate::command::capture::{Capture, fit};
use crate::command::ending::{Ending, Stopped};
use crate::command::progress::TICK;
use crate::command::task::Context;
use crate::deploy::docker;

/// Longest container name, in bytes: the engine sets none, and an id has 64.
const CONTAINER_BYTES_MAX: usize = 128;

#[derive(Debug, thiserror::Error)]
enum ContainerError {
    #[error("container name {0:?} is not one that the engine gives out")]
    Name(String),
    #[error("no container engine answers at {socket:?}")]
    Engine {
        socket: String,
        #[source]
        source: bollard::errors::Error,
    },
    #[error("cannot read the log of container {name:?}")]
    Log {
        name: String,
        #[source]
        source: bollard::errors::Error,
    },
}

impl ContainerError {
    fn ending(&self) -> Ending {
        match self {
            Self::Name(_) => Ending::refused(ErrorCode::CommandInvalid, self),
            Self::Engine { .. } => Ending::failed(ErrorCode::ContainerEngine, self),
            Self::Log { .. } => Ending::failed(ErrorCode::LogUnavailable, self),
        }
    }
}

pub(super) async fn read(context: &mut Context, name: &str, query: Query) -> Ending {
    let limit = context.bounds.output_bytes_max;
    let mut kept = Kept {
        stdout: Capture::new(limit),
        stderr: Capture::new(limit),
    };
    let timeout = tokio::time::sleep(context.bounds.timeout);
    let stop = context.stop.clone();
    let stopped = tokio::select! {
        () = timeout => Some(Stopped::TimedOut),
        () = stop.cancelled() => Some(Stopped::Cancelled),
        read = copy(context, name, query, &mut kept) => match read {
            Ok(()) => None,
            Err(error) => return error.ending(),
        },
    };
    let output = fit(kept.stdout, kept.stderr, limit);
    match stopped {
        None => Ending::succeeded("", output),
        Some(end) => Ending::stopped(end, output),
    }
}

struct Kept {
    stdout: Capture,
    stderr: Capture,
}

async fn copy(
    context: &mut Context,
    name: &str,
    query: Query,
    kept: &mut Kept,
) -> Result<(), ContainerError> {
    if !is_name(name) {
        return Err(ContainerError::Name(name.to_owned()));
    }
    let docker = connect(
        &context.settings.docker_socket,
        context.bounds.timeout.as_secs(),
    )
    .await?;
    let mut options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(query.follow)
        .tail(&query.lines.to_string());
    if let Some(age) = query.since {
        let since = context.clocks.wall().before(age).0 / 1000;
        options = options.since(i32::try_from(since).unwrap_or(i32::MAX));
    }
    let mut log = std::pin::pin!(docker.logs(name, Some(options.build())));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = log.next() => match next {
                Some(Ok(output)) => {
                    let (stream, bytes) = parts(output);
                    context.progress.push(stream, &bytes);
                    match stream {
                        OutputStream::Stdout => kept.stdout.push(&bytes),
                        OutputStream::Stderr => kept.stderr.push(&bytes),
                    }
                }
                Some(Err(source)) => {
                    return Err(ContainerError::Log { name: name.to_owned(), source });
                }
                None => return Ok(()),
            },
            _ = tick.tick() => context.progress.flush(),
        }
    }
}

async fn connect(socket: &Path, timeout_s: u64) -> Result<Docker, ContainerError> {
    let text = socket.display().to_string();
    let refuse = |source| ContainerError::Engine {
        socket: text.clone(),
        source,
    };
    docker::client(socket, timeout_s)
        .map_err(refuse)?
        .negotiate_version()
        .await
        .map_err(refuse)
}

fn is_name(name: &str) -> bool {
    name.len() <= CONTAINER_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn parts(output: LogOutput) -> (OutputStream, Vec<u8>) {
    match output {
        LogOutput::StdErr { message } => (OutputStream::Stderr, message.to_vec()),
        LogOutput::StdOut { message }
        | LogOutput::StdIn { message }
        | LogOutput::Console { message } => (OutputStream::Stdout, message.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_reach_elsewhere_in_the_engine() {
        for name in ["web", "web-1", "a.b_c", "0123456789abcdef"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-x",
            "../images",
            "a/b",
            "a?b",
            "a b",
            "a%2fb",
            "a\n",
            "é",
            "..",
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&"x".repeat(CONTAINER_BYTES_MAX + 1)));
    }
}
