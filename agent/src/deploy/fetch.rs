//! What a deployment or an update needs from the controller: archives, configs and
//! secrets.
//!
//! They come by HTTPS beside the session: a sealed envelope names the content and
//! from which byte on it is wanted, and the answer streams it. A download that
//! breaks off goes on where it was.
//!
//! **Invariant:** nothing is used before its size and its SHA-256 are right. The
//! digest by which a secret is named is keyed, so that nobody guesses a short one
//! from it; its SHA-256 is the one that the controller says over its pinned TLS.

use std::future::Future;
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;
use protocol::ErrorCode;
use protocol::deployment::limit::{ARCHIVE_BYTES_MAX, FILE_BYTES_MAX};
use protocol::deployment::spec::{File as SpecFile, FileKind};
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::Note;
use crate::domain::deployment::machine::{Class, StepError};
use crate::durable;
use crate::status::bytes;

/// Bytes read at a time when what is there of an archive is hashed.
const READ_BYTES: usize = 64 * 1024;

/// A content at the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An image archive, by its SHA-256 in hexadecimal.
    Archive(String),
    /// A config or secret, by its digest.
    File(String),
    /// An archive of a release of the agent, by its SHA-256 in hexadecimal.
    Release(String),
}

/// Why a content does not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The controller does not answer, or broke off.
    #[error("the controller does not answer: {0}")]
    Unreachable(String),
    /// The controller has no such content.
    #[error("the controller does not have it: {0}")]
    NotFound(String),
    /// The controller says no.
    #[error("the controller refused: {0}")]
    Refused(String),
}

/// A content on its way.
pub trait Chunks: Send {
    /// The next bytes; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Vec<u8>>, FetchError>> + Send;

    /// The SHA-256 of the whole content in hexadecimal, where it is said.
    fn sha256(&self) -> Option<String>;
}

/// Gets contents.
pub trait Fetcher: Send + Sync {
    /// What comes.
    type Chunks: Chunks;

    /// Asks for a content from a byte on.
    fn open(
        &self,
        content: &Content,
        offset: u64,
    ) -> impl Future<Output = Result<Self::Chunks, FetchError>> + Send;
}

impl FetchError {
    fn step(&self, content: &Content) -> StepError {
        let code = match (self, content) {
            (Self::NotFound(_), Content::Archive(_)) => ErrorCode::ArchiveNotFound,
            (Self::NotFound(_), Content::File(_)) => ErrorCode::FileNotFound,
            (Self::NotFound(_) | Self::Refused(_), Content::Release(_)) => {
                ErrorCode::ReleaseNotFound
            }
            (Self::Unreachable(_), Content::Release(_)) => ErrorCode::PeerUnreachable,
            (Self::Unreachable(_) | Self::Refused(_), _) => ErrorCode::ImageUnavailable,
        };
        StepError {
            code,
            class: match self {
                Self::Unreachable(_) => Class::Passing,
                // It may be on its way from an operator to the controller.
                Self::NotFound(_) | Self::Refused(_) => Class::Final,
            },
            detail: self.to_string(),
        }
    }
}

fn stalled(after: Duration) -> FetchError {
    FetchError::Unreachable(format!("no byte came for {} s", after.as_secs()))
}

/// Content on its way, of which no part may let itself be waited for too long.
struct Arriving<'a, C> {
    content: &'a Content,
    chunks: C,
    stall: Duration,
}

impl<'a, C: Chunks> Arriving<'a, C> {
    async fn open<F: Fetcher<Chunks = C>>(
        fetcher: &F,
        content: &'a Content,
        offset: u64,
        stall: Duration,
    ) -> Result<Self, StepError> {
        let opening = fetcher.open(content, offset);
        let chunks = in_time(opening, content, stall).await?;
        Ok(Self {
            content,
            chunks,
            stall,
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, StepError> {
        in_time(self.chunks.next(), self.content, self.stall).await
    }
}

async fn in_time<T>(
    arriving: impl Future<Output = Result<T, FetchError>>,
    content: &Content,
    stall: Duration,
) -> Result<T, StepError> {
    let arrived = tokio::time::timeout(stall, arriving).await;
    arrived
        .unwrap_or_else(|_| Err(stalled(stall)))
        .map_err(|error| error.step(content))
}

/// Fetches a config or secret.
///
/// # Errors
/// [`StepError`] when it does not come, or is not what was asked for.
pub async fn file(
    fetcher: &impl Fetcher,
    wanted: &SpecFile,
    stall: Duration,
) -> Result<Vec<u8>, StepError> {
    let content = Content::File(wanted.digest.clone());
    let mut arriving = Arriving::open(fetcher, &content, 0, stall).await?;
    let sha256 = match wanted.kind {
        FileKind::Config => Some(wanted.digest.clone()),
        FileKind::Secret => arriving.chunks.sha256(),
    };
    let mut body = Vec::new();
    while let Some(chunk) = arriving.next().await? {
        body.extend_from_slice(&chunk);
        if body.len() > FILE_BYTES_MAX {
            break;
        }
    }
    let hash = ring::digest::digest(&SHA256, &body);
    let right = u64::try_from(body.len()) == Ok(u64::from(wanted.size_bytes))
        && sha256.is_some_and(|sha256| HEXLOWER.encode(hash.as_ref()) == sha256);
    if right {
        return Ok(body);
    }
    Err(StepError {
        code: ErrorCode::FileNotFound,
        class: Class::Passing,
        detail: format!(
            "what came for the file {} has {} bytes or another digest",
            wanted.digest,
            body.len()
        ),
    })
}

/// Fetches an image archive to `path`, going on with what is there of it.
///
/// # Errors
/// [`StepError`] when it does not come, is not what was asked for, or the disk
/// does not take it.
pub async fn archive(
    fetcher: &impl Fetcher,
    digest: &str,
    path: &Path,
    stall: Duration,
    note: Note<'_>,
) -> Result<(), StepError> {
    let wanted = Download {
        content: &Content::Archive(digest.to_owned()),
        sha256: digest,
        bytes_max: ARCHIVE_BYTES_MAX,
        bytes_per_s_max: None,
        stall,
    };
    download(fetcher, wanted, path, note).await
}

/// What is downloaded to a file.
#[derive(Clone, Copy, Debug)]
pub struct Download<'a> {
    /// What.
    pub content: &'a Content,
    /// Its SHA-256, in lowercase hexadecimal.
    pub sha256: &'a str,
    /// More bytes than these are not read.
    pub bytes_max: u64,
    /// At most so many bytes in a second, on average; none is no limit.
    pub bytes_per_s_max: Option<NonZeroU64>,
    /// No part may let itself be waited for longer than this.
    pub stall: Duration,
}

impl Download<'_> {
    fn not_written(&self, error: &io::Error) -> StepError {
        StepError {
            code: match self.content {
                Content::Release(_) => ErrorCode::UpdateFailed,
                Content::Archive(_) | Content::File(_) => ErrorCode::ImageUnavailable,
            },
            class: Class::Final,
            detail: format!("the archive cannot be kept on disk: {error}"),
        }
    }

    fn is_another(&self) -> StepError {
        StepError {
            code: match self.content {
                Content::Release(_) => ErrorCode::ReleaseInvalid,
                Content::Archive(_) | Content::File(_) => ErrorCode::ArchiveInvalid,
            },
            class: Class::Passing,
            detail: format!(
                "what came for the archive {} has another digest",
                self.sha256
            ),
        }
    }
}

/// Downloads to `path`, going on with what is there of it.
///
/// # Errors
/// [`StepError`] when it does not come, is not what was asked for, or the disk
/// does not take it.
pub async fn download(
    fetcher: &impl Fetcher,
    wanted: Download<'_>,
    path: &Path,
    note: Note<'_>,
) -> Result<(), StepError> {
    let not_written = |error: io::Error| wanted.not_written(&error);
    if let Some(folder) = path.parent() {
        durable::make_private(folder).map_err(not_written)?;
    }
    let (mut hash, mut offset) = hash_of(path).await.map_err(not_written)?;
    let mut file = tokio::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .await
        .map_err(not_written)?;
    let mut arriving = Arriving::open(fetcher, wanted.content, offset, wanted.stall).await?;
    let (began, first) = (Instant::now(), offset);
    let ended = loop {
        let chunk = match arriving.next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        hash.update(&chunk);
        offset += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if offset > wanted.bytes_max {
            break Ok(());
        }
        if let Err(error) = file.write_all(&chunk).await {
            // Most likely the disk is full: what is there is given back.
            drop(tokio::fs::remove_file(path).await);
            return Err(not_written(error));
        }
        note(format!("archive: {}", bytes(offset)));
        if let Some(rate) = wanted.bytes_per_s_max {
            let due = Duration::from_millis((offset - first).saturating_mul(1000) / rate);
            tokio::time::sleep_until(began + due).await;
        }
    };
    // A write goes on by itself when its file is dropped, and would meet the next try.
    file.flush().await.map_err(not_written)?;
    ended?;
    // Also when a try before was broken off in the middle of a write: what is kept is
    // what was hashed.
    let kept = file.metadata().await.map_err(not_written)?.len();
    if kept == offset && HEXLOWER.encode(hash.finish().as_ref()) == wanted.sha256 {
        return Ok(());
    }
    // What is wrong does not get right by going on with it.
    drop(tokio::fs::remove_file(path).await);
    Err(wanted.is_another())
}

async fn hash_of(path: &Path) -> io::Result<(Context, u64)> {
    let mut hash = Context::new(&SHA256);
    let mut offset = 0;
    let mut file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((hash, 0)),
        Err(error) => return Err(error),
    };
    let mut part = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut part).await?;
        let Some(read) = part.get(..count).filter(|read| !read.is_empty()) else {
            return Ok((hash, offset));
        };
        hash.update(read);
        offset += u64::try_from(count).unwrap_or(u64::MAX);
    }
}
