//! Commands to nodes, and the receipts that end them.

use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::id::CommandId;
use crate::limits::{
    ARG_BYTES_MAX, ARGV_COUNT_MAX, LOG_LINES_MAX, NAME_BYTES_MAX, OUTPUT_BYTES_MAX, RUN_TIMEOUT_MAX,
};
use crate::message::{Kind, Message};
use crate::session::Nonce;
use crate::time::{UnixMillis, millis};

/// One order to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its id; the same on every node that it goes to.
    pub id: CommandId,
    /// When it was issued, in controller time.
    pub issued_at: UnixMillis,
    /// When it is too late to start, in controller time.
    pub start_by: UnixMillis,
    /// How long it may run once started, in milliseconds.
    pub run_timeout_ms: u64,
    /// Bytes of output that the receipt may carry.
    pub output_bytes_max: u32,
    /// Who asked, for the node's own log.
    pub issued_by: String,
    /// What to do.
    pub action: Action,
}

/// What a command does. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Answer.
    Ping,
    /// Run a program, without a shell.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
    },
    /// Ask or change a systemd unit.
    Service {
        /// The unit's name.
        unit: String,
        /// What to do with it.
        verb: ServiceVerb,
    },
    /// Read a log.
    Logs {
        /// Which log.
        source: LogSource,
        /// How many of its last lines.
        lines: u32,
        /// Only what is not older than this many milliseconds; 0 for all.
        since_ms: u64,
        /// Go on with new lines as progress, until the run timeout.
        follow: bool,
    },
    /// Read the agent's configuration again.
    Reload,
}

/// What to do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceVerb {
    /// Show its state.
    Status,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Restart it.
    Restart,
}

/// Where log lines come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The journal of a systemd unit.
    Unit(String),
    /// A file below one of the node's allowed roots.
    File(String),
    /// A Docker container, by name or id.
    Container(String),
}

/// A command that no node could carry out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} {problem}")]
pub struct CommandError {
    subject: &'static str,
    problem: String,
}

impl CommandError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::CommandInvalid
    }
}

impl Action {
    /// The action's name, which is also the last part of its permission
    /// (`command:ping`).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Run { .. } => "run",
            Self::Service {
                verb: ServiceVerb::Status,
                ..
            } => "service_status",
            Self::Service { .. } => "service",
            Self::Logs { .. } => "logs",
            Self::Reload => "reload",
        }
    }

    /// Whether it can change anything on the node.
    #[must_use]
    pub fn mutates(&self) -> bool {
        match self {
            Self::Ping
            | Self::Logs { .. }
            | Self::Service {
                verb: ServiceVerb::Status,
                ..
            } => false,
            Self::Run { .. } | Self::Service { .. } | Self::Reload => true,
        }
    }

    /// Checks sizes and characters, on both sides of the wire.
    ///
    /// # Errors
    /// The first thing that is wrong, with its subject.
    pub fn check(&self) -> Result<(), CommandError> {
        match self {
            Self::Ping | Self::Reload => Ok(()),
            Self::Run { argv } => check_argv(argv),
            Self::Service { unit, .. } => check_name("unit", unit),
            Self::Logs { source, lines, .. } => {
                if !(1..=LOG_LINES_MAX).contains(lines) {
                    return Err(CommandError {
                        subject: "lines",
                        problem: format!("is {lines}; give 1 to {LOG_LINES_MAX}"),
                    });
                }
                match source {
                    LogSource::Unit(unit) => check_name("unit", unit),
                    LogSource::File(path) if !path.starts_with('/') => Err(CommandError {
                        subject: "file",
                        problem: format!("{path:?} is not an absolute path"),
                    }),
                    LogSource::File(path) => check_name("file", path),
                    LogSource::Container(name) => check_name("container", name),
                }
            }
        }
    }
}

impl Command {
    /// Checks sizes and ranges, on both sides of the wire.
    ///
    /// # Errors
    /// The first thing that is wrong, with its subject.
    pub fn check(&self) -> Result<(), CommandError> {
        if self.run_timeout_ms == 0 || self.run_timeout_ms > millis(RUN_TIMEOUT_MAX) {
            return Err(CommandError {
                subject: "run timeout",
                problem: format!(
                    "is {} ms; give 1 to {}",
                    self.run_timeout_ms,
                    millis(RUN_TIMEOUT_MAX)
                ),
            });
        }
        if self.output_bytes_max > OUTPUT_BYTES_MAX {
            return Err(CommandError {
                subject: "output limit",
                problem: format!(
                    "is {} bytes; give at most {OUTPUT_BYTES_MAX}",
                    self.output_bytes_max
                ),
            });
        }
        self.action.check()
    }
}

fn check_argv(argv: &[String]) -> Result<(), CommandError> {
    let problem = match argv {
        [] => "is empty; give a program".to_owned(),
        [program, ..] if program.is_empty() => "names no program".to_owned(),
        _ if argv.len() > ARGV_COUNT_MAX => {
            format!("has {} parts; at most {ARGV_COUNT_MAX}", argv.len())
        }
        _ if argv.iter().any(|arg| arg.len() > ARG_BYTES_MAX) => {
            format!("has an argument of more than {ARG_BYTES_MAX} bytes")
        }
        _ if argv.iter().any(|arg| arg.contains('\0')) => "has a NUL character".to_owned(),
        _ => return Ok(()),
    };
    Err(CommandError {
        subject: "command line",
        problem,
    })
}

fn check_name(subject: &'static str, name: &str) -> Result<(), CommandError> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("has {} bytes; at most {NAME_BYTES_MAX}", name.len())
    } else if name.starts_with('-') {
        format!("{name:?} starts with a dash")
    } else if name.chars().any(char::is_control) {
        "has a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(CommandError { subject, problem })
}

/// How a command ended on a node. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what was asked.
    Succeeded,
    /// It ran and failed.
    Failed {
        /// The exit code; none when a signal ended it or there was no process.
        exit: Option<i32>,
    },
    /// The node did not start it; the receipt's code says why.
    Refused,
    /// It ran longer than its run timeout and was ended.
    TimedOut,
    /// Its `start_by` had passed: it never started.
    Expired,
    /// It was cancelled, before or while it ran.
    Cancelled,
    /// The agent stopped while it ran. What it had done by then is not known.
    Interrupted,
}

impl Outcome {
    /// The outcome's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A node's answer to a command: exactly one for each, in the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which command.
    pub command: CommandId,
    /// How it ended.
    pub outcome: Outcome,
    /// The error code's text when it did not succeed for a reason that has one;
    /// a newer node may send one that is not known here.
    pub code: Option<String>,
    /// What happened, for a person.
    pub detail: String,
    /// When it started, in controller time; none when it never did.
    pub started_at: Option<UnixMillis>,
    /// When it ended, in controller time.
    pub ended_at: UnixMillis,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// Bytes of output that were cut from the middle to keep the limit.
    pub cut_bytes: u64,
}

impl Receipt {
    /// The version of a receipt's body in a stream entry.
    pub const VERSION: u16 = 1;
}

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a running command shows. May be lost: the receipt is what counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The session.
    pub nonce: Nonce,
    /// Which command.
    pub command: CommandId,
    /// When, in controller time.
    pub at: UnixMillis,
    /// What there is to show.
    pub step: ProgressStep,
}

impl Message for Progress {
    const KIND: Kind = Kind::PROGRESS;
    const VERSION: u16 = 1;
}

/// A step of a running command. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressStep {
    /// It started.
    Started,
    /// It wrote something.
    Output {
        /// Where to.
        stream: OutputStream,
        /// Bytes that this stream had before; a jump means that chunks are
        /// missing.
        offset: u64,
        /// What it wrote.
        bytes: Vec<u8>,
    },
}
