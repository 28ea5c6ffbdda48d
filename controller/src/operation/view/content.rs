//! Configs and secrets of Flotilla's own, and image archives.

use protocol::deployment::spec::FileKind;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// Config or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// A config.
    Config,
    /// A secret.
    Secret,
}

impl From<FileKind> for ContentKind {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Config => Self::Config,
            FileKind::Secret => Self::Secret,
        }
    }
}

impl From<ContentKind> for FileKind {
    fn from(kind: ContentKind) -> Self {
        match kind {
            ContentKind::Config => Self::Config,
            ContentKind::Secret => Self::Secret,
        }
    }
}

/// A new content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetContent {
    /// The content, base64.
    pub content: String,
}

impl std::fmt::Debug for SetContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetContent({} characters)", self.content.len())
    }
}

/// A config or secret; its content is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentView {
    /// Which of the two.
    pub kind: ContentKind,
    /// Its name, by which Compose files refer to it as `external`.
    pub name: String,
    /// Bytes of its content.
    pub size_bytes: u32,
    /// When it was set.
    pub set_at: Stamp,
}

/// Configs and secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentList {
    /// Them, by kind and name.
    pub contents: Vec<ContentView>,
}

/// An image archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveView {
    /// The SHA-256 of its bytes, lowercase hexadecimal.
    pub digest: String,
    /// Bytes of it.
    pub size_bytes: u64,
    /// The images in it, with registry and tag.
    pub images: Vec<String>,
}

/// Image archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveList {
    /// Them.
    pub archives: Vec<ArchiveView>,
}

/// How large an archive is that is being uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginArchive {
    /// Bytes of it.
    pub size_bytes: u64,
}

/// Where a piece goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ArchivePiece {
    /// Bytes of the whole archive.
    pub size_bytes: u64,
    /// Where the piece begins.
    pub offset: u64,
}

/// Where an upload stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadView {
    /// Bytes that are here: the next piece begins there.
    pub offset: u64,
    /// The archive, once it is whole.
    pub archive: Option<ArchiveView>,
}
