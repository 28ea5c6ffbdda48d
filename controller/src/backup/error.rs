//! Why a backup cannot be made, read or put back.

use std::io;
use std::path::{Path, PathBuf};

use protocol::ErrorCode;

use crate::archive::ArchiveError;
use crate::cli::failure::CliFailure;
use crate::journal::error::{JournalError, OpenError};
use crate::journal::verify::Broken;
use crate::pki::PkiError;
use crate::rows::RowsError;
use crate::secret_file::SecretFileError;
use crate::uplink::intake::IntakeError;
use crate::vault::VaultError;

/// Why a backup cannot be made, read or put back. Never with a key in it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another one is being made.
    #[error("a backup is being made")]
    Running,
    /// The disk did not do it.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Whoever takes the bytes does not.
    #[error("the backup broke off")]
    Sink(#[source] io::Error),
    /// The rows of a store cannot be read or written.
    #[error("cannot copy the {what}")]
    Rows {
        /// Of which.
        what: &'static str,
        /// Why not.
        #[source]
        source: RowsError,
    },
    /// The journal cannot be read.
    #[error("the journal cannot be read")]
    Journal(#[from] JournalError),
    /// The journal cannot be opened.
    #[error("the journal cannot be opened")]
    Open(#[from] OpenError),
    /// The chain of the audit trail does not hold.
    #[error("the audit trail does not verify")]
    Trail(#[from] Broken),
    /// What nodes reported cannot be read.
    #[error("the intake store cannot be used")]
    Intake(#[from] IntakeError),
    /// The keys cannot be used.
    #[error("the keys cannot be used")]
    Pki(#[from] PkiError),
    /// The contents cannot be used.
    #[error("the configs and secrets cannot be used")]
    Vault(#[from] VaultError),
    /// The archives cannot be used.
    #[error("the archives cannot be used")]
    Archive(#[from] ArchiveError),
    /// A part does not start.
    #[error("{0}")]
    Start(CliFailure),
    /// The file is no backup, or is damaged.
    #[error("{} is no whole backup: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer program made it.
    #[error("{} has {what} {found}, which a newer flotilla made", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// Which.
        found: u32,
    },
    /// No key of the file opens it.
    #[error("no key in {} opens {}", key.display(), path.display())]
    KeyWrong {
        /// The file with the keys.
        key: PathBuf,
        /// The backup.
        path: PathBuf,
    },
    /// The file with the keys cannot be used.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// It holds no key.
    #[error("{} holds no backup key", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Something is where the backup goes.
    #[error("{} is in the way: a backup is restored where nothing is", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
}

/// What was tried of a file, for `map_err`.
pub(super) fn failed(
    step: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::File { step, path, source }
}

/// A file that is no whole backup.
pub(super) fn invalid(file: &Path, reason: impl ToString) -> BackupError {
    BackupError::Invalid {
        path: file.to_owned(),
        reason: reason.to_string(),
    }
}

impl BackupError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Running => ErrorCode::BackupRunning,
            Self::File { source, .. } | Self::Sink(source) => code_of(source),
            Self::Rows { source, .. } => match source {
                RowsError::Unknown { .. } | RowsError::Malformed { .. } => ErrorCode::BackupInvalid,
                RowsError::Sink(_) | RowsError::Store { .. } => {
                    source.io().map_or(ErrorCode::StoreFailed, code_of)
                }
            },
            Self::Journal(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::Trail(error) => error.code(),
            Self::Intake(error) => error.code(),
            Self::Pki(error) => error.code(),
            Self::Vault(error) => error.code(),
            Self::Archive(error) => error.code(),
            Self::Start(failure) => failure
                .code
                .as_deref()
                .and_then(ErrorCode::from_text)
                .unwrap_or(ErrorCode::BackupInvalid),
            Self::Invalid { .. } => ErrorCode::BackupInvalid,
            Self::Newer { .. } => ErrorCode::BackupNewer,
            Self::KeyWrong { .. } | Self::NoKey { .. } => ErrorCode::BackupKeyWrong,
            Self::KeyFile(_) => ErrorCode::ConfigInvalid,
            Self::InTheWay { .. } => ErrorCode::BackupInTheWay,
        }
    }
}

fn code_of(error: &io::Error) -> ErrorCode {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        ErrorCode::StoreFull
    } else {
        ErrorCode::StoreFailed
    }
}
