//! How the journal fails, with the code that each failure has.

use std::path::PathBuf;

use protocol::ErrorCode;

use crate::domain::audit::record::ReadRecordError;

/// A journal that cannot be opened or created.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no file.
    #[error("journal {} does not exist", path.display())]
    Absent {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is one where a new one was to be made.
    #[error("journal {} exists already", path.display())]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// The file system did not do what was asked.
    #[error("cannot {step} journal {}", path.display())]
    File {
        /// What was to be done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("journal is open in another process")]
    Locked,
    /// A newer program wrote it.
    #[error("journal has format {found}, which a newer controller wrote")]
    Newer {
        /// The format of the file.
        found: u32,
    },
    /// It is damaged, truncated, or no journal at all.
    #[error("journal is damaged: {what}")]
    Damaged {
        /// What is wrong, with the record's number where it is known.
        what: String,
    },
    /// The store beneath failed.
    #[error("journal cannot be {step}")]
    Storage {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        #[source]
        source: redb::Error,
    },
}

impl OpenError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Damaged { .. } => ErrorCode::StoreCorrupt,
            Self::Absent { .. }
            | Self::Exists { .. }
            | Self::File { .. }
            | Self::Storage { .. } => ErrorCode::StoreFailed,
            Self::Locked => ErrorCode::StoreLocked,
            Self::Newer { .. } => ErrorCode::StoreNewer,
        }
    }

    /// What a failure of the store means for the opening of a journal.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "redb's errors are many and open-ended; these few mean something here"
    )]
    pub(super) fn from_redb(step: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::Locked,
            redb::Error::Corrupted(what) => Self::Damaged { what },
            redb::Error::UpgradeRequired(found) => Self::Newer {
                found: u32::from(found),
            },
            redb::Error::Io(source) if is_about_contents(&source) => Self::Damaged {
                what: format!("it is no journal, or truncated ({source})"),
            },
            source => Self::Storage { step, source },
        }
    }
}

/// Whether an input error is about what was read, and not about reading.
fn is_about_contents(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::UnexpectedEof
    )
}

/// A journal that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file is closed after a failed write, and cannot be opened again yet.
    #[error("journal is closed after a failure")]
    Closed(#[source] Box<OpenError>),
    /// The store beneath failed.
    #[error("journal cannot {step}")]
    Storage {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        #[source]
        source: redb::Error,
    },
    /// The writer's state is not the journal's.
    #[error("journal stands at record {found}, not {expected}")]
    Conflict {
        /// Where the writer believed it to stand.
        expected: u64,
        /// Where it stands.
        found: u64,
    },
    /// Something cannot be encoded for storage.
    #[error("record {seq} cannot be encoded")]
    Encode {
        /// The record's number, or that of the state after it.
        seq: u64,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stored record cannot be read.
    #[error("record {seq} cannot be read")]
    Record {
        /// Its number.
        seq: u64,
        /// Why not.
        #[source]
        source: ReadRecordError,
    },
    /// The chain does not hold.
    #[error("record {seq} does not follow from the one before")]
    Broken {
        /// The first record that does not.
        seq: u64,
    },
    /// Something stored beside the records cannot be read.
    #[error("{what} in the journal cannot be read")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// An export cannot be written to where it goes.
    #[error("export cannot be written")]
    Write(#[source] std::io::Error),
}

impl JournalError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Closed(_) | Self::Storage { .. } | Self::Conflict { .. } => {
                ErrorCode::JournalUnavailable
            }
            Self::Broken { .. } | Self::Malformed { .. } => ErrorCode::JournalBroken,
            Self::Record { source, .. } => match source {
                ReadRecordError::Newer { .. } => ErrorCode::StoreNewer,
                ReadRecordError::Malformed(_) => ErrorCode::JournalBroken,
            },
            Self::Encode { .. } | Self::Write(_) => ErrorCode::Internal,
        }
    }

    /// For `map_err`: a failure of the store while doing `step`.
    pub(super) fn storage<E: Into<redb::Error>>(step: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::Storage {
            step,
            source: error.into(),
        }
    }
}
