//! `/api/v1/contents` and `/api/v1/images`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use data_encoding::BASE64;
use protocol::ErrorCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::failure::Failure;
use crate::operation::view::content::{
    ArchiveList, ArchivePiece, ArchiveView, BeginArchive, ContentKind, ContentList, ContentView,
    SetContent, UploadView,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(set, remove))
        .routes(routes!(archives))
        .routes(routes!(begin, append, remove_archive))
}

/// Configs and secrets of Flotilla's own. Their contents are never shown.
#[utoipa::path(get, path = "/contents", tag = "contents",
    responses((status = 200, body = ContentList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<ContentList> {
    json(face.operations.list_contents(&who))
}

/// Gives a config or secret a content. Deployments that are there keep theirs until
/// they are applied again.
#[utoipa::path(put, path = "/contents/{kind}/{name}", tag = "contents",
    params(("kind" = ContentKind, Path, description = "Which of the two"), ("name" = String, Path, description = "Name")),
    request_body = SetContent,
    responses((status = 200, body = ContentView), Refusals))]
async fn set(
    who: Who,
    State(face): State<Arc<Face>>,
    Path((kind, name)): Path<(String, String)>,
    Given(given): Given<SetContent>,
) -> Answer<ContentView> {
    let kind = kind_of(&kind)?;
    let content = BASE64
        .decode(given.content.as_bytes())
        .map_err(|_| Failure::new(ErrorCode::RequestInvalid, "the content is not base64"))?;
    json(
        face.operations
            .set_content(&who, kind, &name, content)
            .await,
    )
}

/// Takes a config or secret away. Deployments that are there keep its content.
#[utoipa::path(delete, path = "/contents/{kind}/{name}", tag = "contents",
    params(("kind" = ContentKind, Path, description = "Which of the two"), ("name" = String, Path, description = "Name")),
    responses((status = 200, body = ContentView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path((kind, name)): Path<(String, String)>,
) -> Answer<ContentView> {
    let kind = kind_of(&kind)?;
    json(face.operations.remove_content(&who, kind, &name).await)
}

/// Image archives.
#[utoipa::path(get, path = "/images", tag = "images",
    responses((status = 200, body = ArchiveList), Refusals))]
async fn archives(who: Who, State(face): State<Arc<Face>>) -> Answer<ArchiveList> {
    json(face.operations.list_archives(&who))
}

/// Begins to upload an image archive, or says where an upload stands.
#[utoipa::path(post, path = "/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "SHA-256 of its bytes")), request_body = BeginArchive,
    responses((status = 200, body = UploadView), Refusals))]
async fn begin(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(digest): Path<String>,
    Given(given): Given<BeginArchive>,
) -> Answer<UploadView> {
    let size_bytes = given.size_bytes;
    json(
        face.operations
            .begin_archive(&who, &digest, size_bytes)
            .await,
    )
}

/// Adds a piece of up to 4 MiB to an image archive.
#[utoipa::path(put, path = "/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "SHA-256 of its bytes"), ArchivePiece),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = UploadView), Refusals))]
async fn append(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(digest): Path<String>,
    Asked(asked): Asked<ArchivePiece>,
    piece: Bytes,
) -> Answer<UploadView> {
    let ArchivePiece { size_bytes, offset } = asked;
    let added = face
        .operations
        .add_to_archive(&who, &digest, size_bytes, offset, piece.to_vec())
        .await;
    json(added)
}

/// Takes an image archive away, unless a revision that is kept needs it.
#[utoipa::path(delete, path = "/images/{digest}", tag = "images",
    params(("digest" = String, Path, description = "SHA-256 of its bytes")),
    responses((status = 200, body = ArchiveView), Refusals))]
async fn remove_archive(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(digest): Path<String>,
) -> Answer<ArchiveView> {
    json(face.operations.remove_archive(&who, &digest).await)
}

fn kind_of(text: &str) -> Result<ContentKind, Failure> {
    match text {
        "config" => Ok(ContentKind::Config),
        "secret" => Ok(ContentKind::Secret),
        _ => Err(Failure::new(
            ErrorCode::RequestInvalid,
            format!("{text:?} is neither config nor secret"),
        )),
    }
}
