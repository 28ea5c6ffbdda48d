//! How a subcommand fails: exit code, what happened, what to do.

use std::error::Error;
use std::fmt;

use protocol::ErrorCode;

use crate::api::problem::Problem;
use crate::exit::Exit;
use crate::operation::failure::chain;

/// A failure as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliFailure {
    /// Code for the shell.
    pub exit: Exit,
    /// Stable code, where there is one.
    pub code: Option<String>,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub action: Option<String>,
    /// Id of the request, to find it in the controller's log.
    pub request: Option<String>,
}

impl CliFailure {
    /// A failure without a code of its own.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: None,
            message: message.into(),
            action: None,
            request: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn advise(mut self, action: impl Into<String>) -> Self {
        self.action = Some(action.into());
        self
    }

    /// The same with a stable code.
    #[must_use]
    pub fn coded(mut self, code: ErrorCode) -> Self {
        self.code = Some(code.text().to_owned());
        self
    }

    /// A failure with the chain of its cause.
    pub fn because(exit: Exit, message: impl fmt::Display, cause: &dyn Error) -> Self {
        Self::new(exit, format!("{message}: {}", chain(cause)))
    }
}

impl From<Problem> for CliFailure {
    fn from(problem: Problem) -> Self {
        let exit = match (problem.status, problem.code.as_str()) {
            (_, "selector.matches_nothing") => Exit::NotFound,
            (401 | 403, _) => Exit::Denied,
            (404, _) => Exit::NotFound,
            (409 | 410, _) => Exit::Failed,
            (408 | 429 | 503 | 507, _) => Exit::Later,
            (500.., _) => Exit::Bug,
            _ => Exit::Usage,
        };
        Self {
            exit,
            code: Some(problem.code),
            message: problem.detail,
            action: Some(problem.action),
            request: Some(problem.request),
        }
    }
}

impl fmt::Display for CliFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("error")?;
        if let Some(code) = &self.code {
            write!(f, " [{code}]")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(action) = &self.action {
            write!(f, "\n  what to do: {action}")?;
        }
        if let Some(request) = &self.request {
            write!(f, "\n  request: {request}")?;
        }
        Ok(())
    }
}

impl Error for CliFailure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, code: &str) -> Problem {
        Problem {
            code: code.to_owned(),
            status,
            title: String::new(),
            detail: "no grant gives command:run".to_owned(),
            action: "ask an administrator".to_owned(),
            retry: "after_fix".to_owned(),
            actor: "caller".to_owned(),
            request: "aaaaaaaaaaaaaaaa".to_owned(),
        }
    }

    #[test]
    fn a_refusal_says_its_code_and_what_to_do() {
        let failure = CliFailure::from(problem(403, "access.denied"));
        assert_eq!(failure.exit, Exit::Denied);
        assert_eq!(
            failure.to_string(),
            "error [access.denied]: no grant gives command:run\n  what to do: ask an \
             administrator\n  request: aaaaaaaaaaaaaaaa"
        );
    }

    #[test]
    fn scripts_can_tell_kinds_of_failure_apart() {
        for (status, code, exit) in [
            (404, "node.not_found", Exit::NotFound),
            (422, "selector.matches_nothing", Exit::NotFound),
            (429, "rate.limited", Exit::Later),
            (400, "request.invalid", Exit::Usage),
            (500, "internal", Exit::Bug),
        ] {
            assert_eq!(CliFailure::from(problem(status, code)).exit, exit, "{code}");
        }
    }
}
