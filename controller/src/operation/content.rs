//! Configs and secrets of Flotilla's own, and image archives.

use protocol::ErrorCode;
use protocol::deployment::limit::FILE_BYTES_MAX;
use protocol::deployment::spec::FileKind;

use super::view::content::{
    ArchiveList, ArchiveView, ContentKind, ContentList, ContentView, UploadView,
};
use super::{Operations, Who};
use crate::archive::{Archive, ArchiveError, Progress};
use crate::clock;
use crate::domain::deployment::content::{PushArchive, RemoveArchive, RemoveContent, SetContent};
use crate::domain::digest::Digest;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;
use crate::vault::VaultError;

impl Operations {
    /// The configs and secrets, by kind and name. Contents are never shown.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_contents(&self, who: &Who) -> Result<ContentList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("secret", "read"), &[])?;
        let contents = self.stores.vault.names().into_iter();
        Ok(ContentList {
            contents: contents
                .map(|((kind, name), entry)| ContentView {
                    kind: kind.into(),
                    name,
                    size_bytes: entry.size_bytes,
                    set_at: entry.set_at.into(),
                })
                .collect(),
        })
    }

    /// Gives a config or secret a content. Deployments that are there keep theirs
    /// until they are applied again.
    ///
    /// # Errors
    /// When it is denied, the name is malformed, or the content too large.
    pub async fn set_content(
        &self,
        who: &Who,
        kind: ContentKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<ContentView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("secret", "set"), &[])?;
        if content.len() > FILE_BYTES_MAX {
            return Err(Failure::new(
                ErrorCode::RequestTooLarge,
                format!("the content has more than {FILE_BYTES_MAX} bytes"),
            ));
        }
        let (vault, now) = (self.stores.vault.clone(), clock::now());
        let kind_held = FileKind::from(kind);
        // Kept under its digest first, so that what is recorded is there.
        let put = {
            let (vault, content) = (vault.clone(), content.clone());
            blocking(move || vault.put(kind_held, &content, now)).await?
        };
        let operation = Operation::SetContent(SetContent {
            kind: kind_held,
            name: name.to_owned(),
            digest: put,
            size_bytes: u32::try_from(content.len()).unwrap_or(u32::MAX),
        });
        self.submit(who, operation).await?;
        let named = name.to_owned();
        let entry = blocking(move || vault.set(kind_held, &named, &content, now)).await?;
        Ok(ContentView {
            kind,
            name: name.to_owned(),
            size_bytes: entry.size_bytes,
            set_at: entry.set_at.into(),
        })
    }

    /// Takes a config or secret away. Deployments that are there keep its content.
    ///
    /// # Errors
    /// When it is denied, or there is none of that name.
    pub async fn remove_content(
        &self,
        who: &Who,
        kind: ContentKind,
        name: &str,
    ) -> Result<ContentView, Failure> {
        let held = FileKind::from(kind);
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("secret", "remove"), &[])?;
        let key = (held, name.to_owned());
        let entry = self.stores.vault.names().remove(&key).ok_or_else(|| {
            Failure::new(
                ErrorCode::FileNotFound,
                format!("there is no config or secret {name:?} of that kind"),
            )
        })?;
        let operation = Operation::RemoveContent(RemoveContent {
            kind: held,
            name: name.to_owned(),
        });
        self.submit(who, operation).await?;
        let (vault, named) = (self.stores.vault.clone(), name.to_owned());
        blocking(move || vault.remove(held, &named)).await?;
        Ok(ContentView {
            kind,
            name: name.to_owned(),
            size_bytes: entry.size_bytes,
            set_at: entry.set_at.into(),
        })
    }

    /// The image archives.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_archives(&self, who: &Who) -> Result<ArchiveList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("image", "read"), &[])?;
        Ok(ArchiveList {
            archives: self
                .stores
                .archives
                .list()
                .iter()
                .map(archive_view)
                .collect(),
        })
    }

    /// Begins to take an archive in, or says how much of it is here.
    ///
    /// # Errors
    /// When it is denied, too large, or there is no space.
    pub async fn begin_archive(
        &self,
        who: &Who,
        digest: &str,
        size_bytes: u64,
    ) -> Result<UploadView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("image", "push"), &[])?;
        let digest = archive_digest(digest)?;
        let (archives, now) = (self.stores.archives.clone(), clock::now());
        let progress = archiving(move || archives.begin(digest, size_bytes, now)).await?;
        if progress == Progress::At(0) {
            let operation = Operation::PushArchive(PushArchive { digest, size_bytes });
            self.submit(who, operation).await?;
        }
        Ok(upload_view(&progress))
    }

    /// Adds a piece to an archive that is being taken in.
    ///
    /// # Errors
    /// When it is denied, the piece goes elsewhere, or the archive is not what was
    /// announced.
    pub async fn add_to_archive(
        &self,
        who: &Who,
        digest: &str,
        size_bytes: u64,
        offset: u64,
        piece: Vec<u8>,
    ) -> Result<UploadView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("image", "push"), &[])?;
        let digest = archive_digest(digest)?;
        let (archives, now) = (self.stores.archives.clone(), clock::now());
        let progress =
            archiving(move || archives.append(digest, size_bytes, offset, &piece, now)).await?;
        Ok(upload_view(&progress))
    }

    /// Takes an archive away. Nodes that have its images keep them.
    ///
    /// # Errors
    /// When it is denied, there is no such archive, or a revision that is kept
    /// needs it.
    pub async fn remove_archive(&self, who: &Who, digest: &str) -> Result<ArchiveView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("image", "remove"), &[])?;
        let digest = archive_digest(digest)?;
        let archive = self.stores.archives.get(digest).ok_or_else(|| {
            Failure::new(
                ErrorCode::ArchiveNotFound,
                format!("there is no image archive {digest}"),
            )
        })?;
        let text = digest.to_string();
        let user = fleet.deployments().iter().find(|known| {
            known.revisions.values().any(|revision| {
                let mut images = revision.spec.services.values().map(|it| &it.image);
                images.any(|image| image.archive.as_deref() == Some(text.as_str()))
            })
        });
        if let Some(user) = user {
            return Err(Failure::new(
                ErrorCode::DeploymentConflict,
                format!("deployment {} has a revision that needs it", user.name),
            ));
        }
        let operation = Operation::RemoveArchive(RemoveArchive { digest });
        self.submit(who, operation).await?;
        let archives = self.stores.archives.clone();
        archiving(move || archives.remove(digest)).await?;
        Ok(archive_view(&archive))
    }
}

fn archive_digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|error| {
        Failure::new(
            ErrorCode::RequestInvalid,
            format!("{text:?} names no image archive: {error}"),
        )
    })
}

fn archive_view(archive: &Archive) -> ArchiveView {
    ArchiveView {
        digest: archive.digest.to_string(),
        size_bytes: archive.size_bytes,
        images: archive
            .images
            .iter()
            .flat_map(|image| image.references.iter().cloned())
            .collect(),
    }
}

pub(super) fn upload_view(progress: &Progress) -> UploadView {
    match progress {
        Progress::At(offset) => UploadView {
            offset: *offset,
            archive: None,
        },
        Progress::Held(archive) => UploadView {
            offset: archive.size_bytes,
            archive: Some(archive_view(archive)),
        },
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure::fault(error.code(), error.to_string(), &error)),
        Err(error) => Err(Failure::fault(
            ErrorCode::Internal,
            "keeping the content broke off",
            &error,
        )),
    }
}

pub(super) async fn archiving<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error @ ArchiveError::File { .. })) => Err(Failure::fault(
            error.code(),
            "the archive cannot be kept now",
            &error,
        )),
        Ok(Err(error)) => Err(Failure::new(error.code(), error.to_string())),
        Err(error) => Err(Failure::fault(
            ErrorCode::Internal,
            "keeping the archive broke off",
            &error,
        )),
    }
}
