//! How an operation fails, as its caller sees it.
//!
//! **Invariant:** what is in here may be shown to whoever asked. The private
//! chain of a fault goes to the log when the failure is made, and nowhere else.

use std::error::Error;
use std::fmt::{self, Write as _};

use protocol::ErrorCode;

use crate::domain::rejection::Rejection;

/// A stable code, and what it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code; status, retry and advice follow from it.
    pub code: ErrorCode,
    /// Lowercase fragment that names the subject.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl Error for Failure {}

impl Failure {
    /// A failure whose detail may be shown.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// A failure that shows `detail` and logs the private `cause`.
    pub fn fault(code: ErrorCode, detail: impl Into<String>, cause: &dyn Error) -> Self {
        let failure = Self::new(code, detail);
        tracing::error!(
            code = code.text(),
            detail = failure.detail,
            cause = chain(cause),
            "an operation failed"
        );
        failure
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.detail)
    }
}

/// An error with its sources, for a log line or a terminal.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        if write!(text, ": {error}").is_err() {
            break;
        }
        source = error.source();
    }
    text
}
