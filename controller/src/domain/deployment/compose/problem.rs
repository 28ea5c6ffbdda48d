//! What is wrong with a Compose file, and where.

use core::fmt;

use protocol::ErrorCode;

/// Problems that are kept; of the others only their number is. A screen or two:
/// who corrects these sees the rest with the next try.
pub const PROBLEMS_COUNT_MAX: usize = 50;

/// Characters of a value that a problem quotes.
const SHOWN_CHARS_MAX: usize = 60;

/// A place in a file. Both count from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// Where every file begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What sort of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It is wrong.
    Invalid,
    /// Compose may allow it; Flotilla does not.
    Unsupported,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What sort.
    pub kind: ProblemKind,
    /// Another file than the Compose file, as it is named there: an `env_file`.
    pub file: Option<String>,
    /// Where in that file.
    pub place: Place,
    /// The key's path: `services.web.ports[0]`. Empty for the file as a whole.
    pub path: String,
    /// What is wrong, as a fragment that follows the path.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}, ")?;
        }
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Everything that is wrong with a file: at least one thing, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    pub(super) found: Vec<Problem>,
    pub(super) more: usize,
}

impl Problems {
    pub(super) fn one(place: Place, text: impl Into<String>) -> Self {
        Self {
            found: vec![Problem {
                kind: ProblemKind::Invalid,
                file: None,
                place,
                path: String::new(),
                text: text.into(),
            }],
            more: 0,
        }
    }

    /// The problems.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.found
    }

    /// How many there are beyond [`PROBLEMS_COUNT_MAX`].
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }

    /// The stable code: that a key is not supported is said first, because
    /// correcting the rest does not help then.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        let unsupported = |problem: &Problem| problem.kind == ProblemKind::Unsupported;
        if self.found.iter().any(unsupported) {
            ErrorCode::DeploymentUnsupported
        } else {
            ErrorCode::DeploymentInvalid
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl core::error::Error for Problems {}

/// A value as a problem quotes it: in quotes, and cut.
pub(super) fn shown(text: &str) -> String {
    let cut = cut(text, SHOWN_CHARS_MAX);
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

/// At most so many characters of a text. Whatever a problem says of a file is cut,
/// so that what is said of a bad file is smaller than the file.
pub(super) fn cut(text: &str, chars_max: usize) -> &str {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => text.get(..at).unwrap_or_default(),
        None => text,
    }
}
