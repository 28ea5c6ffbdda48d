//! What the audit trail says of contents that lie beside the fleet's state: configs
//! and secrets of Flotilla's own, and image archives.
//!
//! The contents are the vault's and the archives'; here it is decided who may
//! change them, and recorded that it was done. Digests of secrets are keyed, so
//! nothing can be guessed from them.

use protocol::ErrorCode;
use protocol::deployment::spec::{FileKind, is_name};
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::rejection::Rejection;

/// Give a config or secret a content, which is held already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetContent {
    /// Which of the two.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
    /// The content's digest.
    pub digest: String,
    /// Bytes of it.
    pub size_bytes: u32,
}

/// Take a config or secret away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveContent {
    /// Which of the two.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
}

/// Begin to take an image archive in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushArchive {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Bytes of it.
    pub size_bytes: u64,
}

/// Take an image archive away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveArchive {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// A config or secret got a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSet {
    /// Which of the two.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
    /// The content's digest.
    pub digest: String,
    /// Bytes of it.
    pub size_bytes: u32,
}

/// A config or secret was taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRemoved {
    /// Which of the two.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
}

/// An image archive is uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivePushed {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Bytes of it.
    pub size_bytes: u64,
}

/// An image archive was taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRemoved {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

pub(crate) fn set(asked: &SetContent) -> Result<Vec<Event>, Rejection> {
    check_name(&asked.name)?;
    Ok(vec![Event::ContentSet(ContentSet {
        kind: asked.kind,
        name: asked.name.clone(),
        digest: asked.digest.clone(),
        size_bytes: asked.size_bytes,
    })])
}

pub(crate) fn remove(asked: &RemoveContent) -> Result<Vec<Event>, Rejection> {
    check_name(&asked.name)?;
    Ok(vec![Event::ContentRemoved(ContentRemoved {
        kind: asked.kind,
        name: asked.name.clone(),
    })])
}

pub(crate) fn push(asked: &PushArchive) -> Vec<Event> {
    vec![Event::ArchivePushed(ArchivePushed {
        digest: asked.digest,
        size_bytes: asked.size_bytes,
    })]
}

pub(crate) fn drop_archive(asked: &RemoveArchive) -> Vec<Event> {
    vec![Event::ArchiveRemoved(ArchiveRemoved {
        digest: asked.digest,
    })]
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if is_name(name) {
        return Ok(());
    }
    Err(Rejection::new(
        ErrorCode::DeploymentInvalid,
        format!("{name:?} is no name of a config or secret: 1 to 40 of a-z 0-9 - _"),
    ))
}
