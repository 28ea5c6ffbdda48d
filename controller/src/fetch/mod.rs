//! What nodes fetch by HTTPS: contents of configs and secrets, image archives, and
//! archives of releases.
//!
//! **Invariant:** bytes go to an active node that signed its request lately, and
//! only those that a deployment which was ordered of it names. A node that asks
//! for something else hears that it is not there, whether it is or not.
//!
//! A download holds a slot until its last byte is sent or its connection is cut;
//! when all are taken, nodes are asked to come back. So the files that are open
//! and the bandwidth that is shared have a bound.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use protocol::ErrorCode;
use protocol::fetch::{FRESH_MAX, FetchArchive, FetchFile, FetchRelease};
use protocol::id::NodeId;
use protocol::message::Message;
use protocol::time::UnixMillis;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::archive::{ArchiveError, Archives};
use crate::domain::digest::Digest;
use crate::engine::Engine;
use crate::pki::sender::{SenderError, authenticate};
use crate::vault::{Plain, Vault, VaultError};

/// Archives that are sent at a time. Each is a file that is open and a share of
/// the link; with more of them none would be done sooner.
pub const ARCHIVES_AT_ONCE_MAX: usize = 32;

/// Files that are sent at a time; each is at most half a megabyte of memory.
pub const FILES_AT_ONCE_MAX: usize = 64;

/// What a node may fetch.
pub trait Wants: Send + Sync {
    /// Whether a deployment that was ordered of the node names this content.
    fn file(&self, node: NodeId, digest: &str) -> bool;

    /// Whether a deployment that was ordered of the node names this archive.
    fn archive(&self, node: NodeId, digest: &str) -> bool;

    /// Whether a version that was ordered of the node, and is not revoked, has this
    /// archive.
    fn release(&self, node: NodeId, sha256: &str) -> bool;
}

/// Why nothing is sent.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request is not one of a node that belongs here.
    #[error("{0}")]
    Sender(SenderError),
    /// It was made too long ago, or the node's idea of the time is wrong.
    #[error("the request is of {sent_at}, and it is {now}")]
    Stale {
        /// When the node says it is.
        sent_at: UnixMillis,
        /// When it is.
        now: UnixMillis,
    },
    /// There is no such file, or it is none of the node's.
    #[error("node {node} has no file {digest}")]
    NoFile {
        /// Who asks.
        node: NodeId,
        /// For what, cut.
        digest: String,
    },
    /// There is no such archive, or it is none of the node's.
    #[error("node {node} has no archive {digest}")]
    NoArchive {
        /// Who asks.
        node: NodeId,
        /// For what, cut.
        digest: String,
    },
    /// There is no such archive of a release, or it is none of the node's.
    #[error("node {node} has no archive {sha256} of a release")]
    NoRelease {
        /// Who asks.
        node: NodeId,
        /// For what, cut.
        sha256: String,
    },
    /// All slots are taken.
    #[error("as many downloads as may be are under way")]
    Busy,
    /// The vault failed.
    #[error("cannot read a file")]
    Vault(#[source] VaultError),
    /// The archives failed.
    #[error("cannot read an archive")]
    Archive(#[source] ArchiveError),
    /// Reading was cut off by the end of the controller.
    #[error("the controller is stopping")]
    Stopping,
}

impl FetchError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Sender(error) => error.code(),
            Self::Stale { .. } => ErrorCode::EnvelopeReplayed,
            Self::NoFile { .. } => ErrorCode::FileNotFound,
            Self::NoArchive { .. } => ErrorCode::ArchiveNotFound,
            Self::NoRelease { .. } => ErrorCode::ReleaseNotFound,
            Self::Busy | Self::Stopping => ErrorCode::EngineBusy,
            Self::Vault(error) => error.code(),
            Self::Archive(error) => error.code(),
        }
    }
}

/// A content to send.
#[derive(Debug)]
pub struct FileDownload {
    /// The content.
    pub content: Plain,
    /// Its SHA-256, lowercase hexadecimal.
    pub sha256: String,
    _slot: Slot,
}

/// The rest of an archive to send.
#[derive(Debug)]
pub struct ArchiveDownload {
    /// Open at the first byte to send.
    pub file: File,
    /// Bytes to send.
    pub size_bytes: u64,
    slot: Slot,
}

impl ArchiveDownload {
    /// The file, and what must be kept until it is sent.
    #[must_use]
    pub fn into_parts(self) -> (File, Slot) {
        (self.file, self.slot)
    }
}

/// A download's place among those that may be under way; dropped, it is free.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// Answers nodes that fetch. Cheap to clone.
#[derive(Clone)]
pub struct Fetches {
    engine: Engine,
    vault: Vault,
    archives: Archives,
    releases: Archives,
    wants: Arc<dyn Wants>,
    clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    file_slots: Arc<Semaphore>,
    archive_slots: Arc<Semaphore>,
}

impl Fetches {
    /// Fetching from these stores; `wants` says what each node may have.
    #[must_use]
    pub fn new(
        engine: Engine,
        vault: Vault,
        archives: Archives,
        releases: Archives,
        wants: Arc<dyn Wants>,
        clock: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    ) -> Self {
        Self {
            engine,
            vault,
            archives,
            releases,
            wants,
            clock,
            file_slots: Arc::new(Semaphore::new(FILES_AT_ONCE_MAX)),
            archive_slots: Arc::new(Semaphore::new(ARCHIVES_AT_ONCE_MAX)),
        }
    }

    /// `POST /node/v1/file`.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn file(&self, body: &[u8]) -> Result<FileDownload, FetchError> {
        let (node, asked) = self.asked::<FetchFile>(body, |asked| asked.now)?;
        let digest = asked.digest;
        let absent = |digest: &str| FetchError::NoFile {
            node,
            digest: cut(digest),
        };
        if !self.wants.file(node, &digest) {
            return Err(absent(&digest));
        }
        let slot = slot(&self.file_slots)?;
        let vault = self.vault.clone();
        let wanted = digest.clone();
        let content = tokio::task::spawn_blocking(move || vault.find(&wanted))
            .await
            .map_err(|_| FetchError::Stopping)?
            .map_err(FetchError::Vault)?
            .ok_or_else(|| absent(&digest))?;
        let sha256 = ring::digest::digest(&ring::digest::SHA256, content.bytes());
        Ok(FileDownload {
            sha256: HEXLOWER.encode(sha256.as_ref()),
            content,
            _slot: slot,
        })
    }

    /// `POST /node/v1/archive`.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn archive(&self, body: &[u8]) -> Result<ArchiveDownload, FetchError> {
        let (node, asked) = self.asked::<FetchArchive>(body, |asked| asked.now)?;
        let absent = || FetchError::NoArchive {
            node,
            digest: cut(&asked.digest),
        };
        let digest: Digest = asked.digest.parse().map_err(|_| absent())?;
        if !self.wants.archive(node, &asked.digest) {
            return Err(absent());
        }
        self.send(&self.archives, digest, asked.offset).await
    }

    /// `POST /node/v1/release`.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn release(&self, body: &[u8]) -> Result<ArchiveDownload, FetchError> {
        let (node, asked) = self.asked::<FetchRelease>(body, |asked| asked.now)?;
        let absent = || FetchError::NoRelease {
            node,
            sha256: cut(&asked.sha256),
        };
        let digest: Digest = asked.sha256.parse().map_err(|_| absent())?;
        if !self.wants.release(node, &asked.sha256) || self.releases.get(digest).is_none() {
            return Err(absent());
        }
        self.send(&self.releases, digest, asked.offset).await
    }

    async fn send(
        &self,
        from: &Archives,
        digest: Digest,
        offset: u64,
    ) -> Result<ArchiveDownload, FetchError> {
        let slot = slot(&self.archive_slots)?;
        let archives = from.clone();
        let opened = tokio::task::spawn_blocking(move || archives.open_at(digest, offset))
            .await
            .map_err(|_| FetchError::Stopping)?;
        let (file, size_bytes) = opened.map_err(FetchError::Archive)?;
        Ok(ArchiveDownload {
            file,
            size_bytes,
            slot,
        })
    }

    /// Who asks for what.
    fn asked<M: Message>(
        &self,
        body: &[u8],
        sent_at: impl FnOnce(&M) -> UnixMillis,
    ) -> Result<(NodeId, M), FetchError> {
        let fleet = self.engine.fleet();
        let (node, opened) = authenticate(&fleet, body).map_err(FetchError::Sender)?;
        let content = opened.decode().map_err(SenderError::Content);
        let asked: M = content.map_err(FetchError::Sender)?;
        let (sent_at, now) = (sent_at(&asked), (self.clock)());
        if now.since(sent_at).max(sent_at.since(now)) > FRESH_MAX {
            return Err(FetchError::Stale { sent_at, now });
        }
        Ok((node.id, asked))
    }
}

fn slot(slots: &Arc<Semaphore>) -> Result<Slot, FetchError> {
    Arc::clone(slots)
        .try_acquire_owned()
        .map(|permit| Slot { _permit: permit })
        .map_err(|_| FetchError::Busy)
}

/// A digest that a node sent, for a message.
fn cut(digest: &str) -> String {
    digest.chars().take(64).collect()
}
