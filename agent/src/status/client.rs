//! The client's side of the socket, behind `flotilla-agent status`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use protocol::time::UnixMillis;

use super::report::AgentStatus;
use super::table;

/// How long the agent has for its answer. It is made at once, so more means
/// that the agent's loop is stuck.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes: a status is a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For a person.
    #[default]
    Table,
    /// For a program.
    Json,
}

/// A form of output that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("output {0:?} is neither table nor json")]
pub struct ParseOutputError(String);

impl FromStr for Output {
    type Err = ParseOutputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            other => Err(ParseOutputError(other.to_owned())),
        }
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum FetchStatusError {
    /// Nobody listens.
    #[error(
        "the agent is not running: nobody answers at {socket:?} (start it with 'systemctl start flotilla-agent', or name its runtime directory)"
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        #[source]
        source: io::Error,
    },
    /// The socket is another user's.
    #[error(
        "the agent's socket {socket:?} is not open to this user: run it as the agent's user, or as root"
    )]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        #[source]
        source: io::Error,
    },
    /// It listens and says nothing.
    #[error("the agent runs and does not answer at {socket:?}: look at its log, or restart it")]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What the connection said.
        #[source]
        source: io::Error,
    },
    /// It says something else.
    #[error("what answers at {socket:?} is not an agent's status")]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// Where it stopped making sense.
        #[source]
        source: serde_json::Error,
    },
    /// The answer cannot be printed.
    #[error("cannot print the status")]
    Print(#[source] io::Error),
}

impl FetchStatusError {
    /// The exit code: 69 when no agent answers, 77 when this user may not ask,
    /// 74 when it cannot be printed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRunning { .. } | Self::Silent { .. } | Self::Garbled { .. } => 69,
            Self::Denied { .. } => 77,
            Self::Print(_) => 74,
        }
    }
}

/// Asks the agent that listens on `socket`.
///
/// # Errors
/// [`FetchStatusError`] when none answers, or not with a status.
pub fn fetch(socket: &Path) -> Result<AgentStatus, FetchStatusError> {
    let client = UnixStream::connect(socket).map_err(|source| {
        let socket = socket.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            FetchStatusError::Denied { socket, source }
        } else {
            FetchStatusError::NotRunning { socket, source }
        }
    })?;
    let silent = |source| FetchStatusError::Silent {
        socket: socket.to_owned(),
        source,
    };
    client.set_read_timeout(Some(ANSWER_MAX)).map_err(silent)?;
    let mut text = Vec::new();
    client
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(silent)?;
    serde_json::from_slice(&text).map_err(|source| FetchStatusError::Garbled {
        socket: socket.to_owned(),
        source,
    })
}

/// Asks the agent and prints what it says. `now` is the node's clock.
///
/// # Errors
/// [`FetchStatusError`] when no agent answers, or the answer cannot be printed.
pub fn show(
    socket: &Path,
    output: Output,
    now: UnixMillis,
    out: &mut dyn Write,
) -> Result<(), FetchStatusError> {
    let status = fetch(socket)?;
    let text = match output {
        Output::Table => table::render(&status, now),
        Output::Json => {
            let text = serde_json::to_string_pretty(&status).map_err(|source| {
                FetchStatusError::Garbled {
                    socket: socket.to_owned(),
                    source,
                }
            })?;
            text + "\n"
        }
    };
    out.write_all(text.as_bytes())
        .map_err(FetchStatusError::Print)
}
