//! How a command ended, before it is a receipt.
//!
//! **Invariant:** an ending that is not a success always says why in words, and
//! its detail fits the wire. It cannot fail.

use std::error::Error;

use protocol::ErrorCode;
use protocol::command::Outcome;
use protocol::limits::DETAIL_BYTES_MAX;

use super::capture::Fitted;
use super::process::{End, Ran, SpawnError, describe};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) code: Option<ErrorCode>,
    pub(crate) detail: String,
    pub(crate) output: Fitted,
}

impl Ending {
    pub(crate) fn succeeded(detail: impl Into<String>, output: Fitted) -> Self {
        Self {
            outcome: Outcome::Succeeded,
            code: None,
            detail: detail.into(),
            output,
        }
    }

    /// The node's rules, or the command itself, stand against it.
    pub(crate) fn refused(code: ErrorCode, why: &dyn Error) -> Self {
        Self::without_output(Outcome::Refused, code, chain(why))
    }

    /// It was tried, and did not work.
    pub(crate) fn failed(code: ErrorCode, why: &dyn Error) -> Self {
        Self::without_output(Outcome::Failed { exit: None }, code, chain(why))
    }

    pub(crate) fn without_output(outcome: Outcome, code: ErrorCode, detail: String) -> Self {
        Self {
            outcome,
            code: Some(code),
            detail,
            output: Fitted::default(),
        }
    }

    /// A process that ended for a reason of ours keeps its output.
    pub(crate) fn stopped(end: Stopped, output: Fitted) -> Self {
        let (outcome, code, detail) = match end {
            Stopped::TimedOut => (
                Outcome::TimedOut,
                ErrorCode::CommandTimedOut,
                "its run timeout passed, and it was ended",
            ),
            Stopped::Cancelled => (
                Outcome::Cancelled,
                ErrorCode::CommandCancelled,
                "it was cancelled while it ran, and ended",
            ),
        };
        Self {
            outcome,
            code: Some(code),
            detail: detail.to_owned(),
            output,
        }
    }

    /// What a process's end means when its exit code alone decides.
    pub(crate) fn of(ran: Result<Ran, SpawnError>) -> Self {
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => return Self::failed(ErrorCode::CommandStart, &error),
        };
        let mut ending = match ran.end {
            End::TimedOut => Self::stopped(Stopped::TimedOut, ran.output),
            End::Cancelled => Self::stopped(Stopped::Cancelled, ran.output),
            End::Exited(status) if status.success() => Self::succeeded("", ran.output),
            End::Exited(status) => Self {
                outcome: Outcome::Failed {
                    exit: status.code(),
                },
                code: None,
                detail: describe(status),
                output: ran.output,
            },
        };
        let by_itself = matches!(ran.end, End::Exited(_));
        match ran.leftovers.count {
            1 if by_itself => ending.add("1 process that it left running was ended"),
            count if count > 1 && by_itself => {
                ending.add(&format!(
                    "{count} processes that it left running were ended"
                ));
            }
            _ => {}
        }
        if ran.leftovers.remain {
            ending.add("not all that it left running could be ended in time");
        }
        if ran.left_behind {
            ending.add("the kernel has not ended the process, which was left behind");
        }
        ending
    }

    fn add(&mut self, detail: &str) {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str(detail);
    }

    /// The detail within the wire's limit.
    pub(crate) fn fitted_detail(&self) -> String {
        let mut end = self.detail.len().min(DETAIL_BYTES_MAX);
        while !self.detail.is_char_boundary(end) {
            end -= 1;
        }
        self.detail.get(..end).unwrap_or_default().to_owned()
    }
}

/// Why something was stopped by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    TimedOut,
    Cancelled,
}

/// An error with its sources, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
