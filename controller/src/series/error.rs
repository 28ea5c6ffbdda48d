//! Why the store of metrics could not do what it was asked.

use protocol::ErrorCode;
use thiserror::Error;

use super::question::POINTS_MAX;
use super::segment::SegmentError;
use super::{FRAMES_PER_QUERY_MAX, remote};

/// Why a batch was not stored. Nothing of it is kept.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The files could not be written.
    #[error("cannot store frames")]
    Store(#[source] SegmentError),
    /// The controller is stopping.
    #[error("the store of metrics is stopping")]
    Stopping,
}

impl IngestError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) if is_full(error) => ErrorCode::StoreFull,
            Self::Store(_) => ErrorCode::StoreFailed,
            Self::Stopping => ErrorCode::SeriesUnavailable,
        }
    }
}

fn is_full(error: &SegmentError) -> bool {
    match error {
        SegmentError::Io { source, .. } => {
            matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        }
        SegmentError::Header { .. } | SegmentError::Newer { .. } => false,
    }
}

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The range and step make more points than one answer may have.
    #[error("{points} points asked for, at most {POINTS_MAX} fit; take a larger step")]
    TooManyPoints {
        /// How many they would be.
        points: u64,
    },
    /// The range is empty or the step is zero.
    #[error("the range or the step is empty")]
    Empty,
    /// Too many frames would have to be read.
    #[error(
        "{frames} frames would have to be read, at most {FRAMES_PER_QUERY_MAX}; take a step of ten minutes or more"
    )]
    TooManyFrames {
        /// How many there are.
        frames: usize,
    },
    /// A file could not be read.
    #[error("cannot read stored frames")]
    Store(#[source] SegmentError),
    /// The controller is stopping.
    #[error("the store of metrics is stopping")]
    Stopping,
}

impl QueryError {
    /// The stable code.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooManyPoints { .. } | Self::TooManyFrames { .. } => ErrorCode::LimitReached,
            Self::Empty => ErrorCode::RequestInvalid,
            Self::Store(_) => ErrorCode::StoreFailed,
            Self::Stopping => ErrorCode::SeriesUnavailable,
        }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenSeriesError {
    /// A file cannot be used.
    #[error("cannot open the store of metrics")]
    Store(#[source] SegmentError),
    /// Remote write is set up wrongly.
    #[error("cannot set up remote write")]
    Remote(#[source] remote::SetupError),
}

impl OpenSeriesError {
    /// The stable code.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Store(SegmentError::Newer { .. }) => ErrorCode::StoreNewer,
            Self::Store(SegmentError::Header { .. }) => ErrorCode::StoreCorrupt,
            Self::Store(SegmentError::Io { .. }) => ErrorCode::StoreFailed,
            Self::Remote(_) => ErrorCode::ConfigInvalid,
        }
    }
}

/// An error with its causes, for the log and the operator.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
