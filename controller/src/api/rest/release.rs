//! `/api/v1/releases` and `/api/v1/updates`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Asked, Given};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::content::{ArchivePiece, UploadView};
use crate::operation::view::deployment::ApplyAnswer;
use crate::operation::view::release::{
    AddRelease, ApplyUpdate, ReleaseList, ReleaseView, RevokeRelease,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(append))
        .routes(routes!(revoke))
        .routes(routes!(remove))
        .routes(routes!(update))
}

/// Releases of the agent, the newest version first.
#[utoipa::path(get, path = "/releases", tag = "releases",
    responses((status = 200, body = ReleaseList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<ReleaseList> {
    json(face.operations.list_releases(&who))
}

/// Keeps a release that a release key of the fleet signed. Its archives follow.
#[utoipa::path(post, path = "/releases", tag = "releases", request_body = AddRelease,
    responses((status = 200, body = ReleaseView), Refusals))]
async fn add(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<AddRelease>,
) -> Answer<ReleaseView> {
    json(face.operations.add_release(&who, given).await)
}

/// Adds a piece of up to 4 MiB to an archive that the release names; without bytes
/// it says where the upload stands.
#[utoipa::path(put, path = "/releases/{version}/archives/{sha256}", tag = "releases",
    params(("version" = String, Path, description = "Version"),
        ("sha256" = String, Path, description = "SHA-256 of the archive"), ArchivePiece),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = UploadView), Refusals))]
async fn append(
    who: Who,
    State(face): State<Arc<Face>>,
    Path((version, sha256)): Path<(String, String)>,
    Asked(asked): Asked<ArchivePiece>,
    piece: Bytes,
) -> Answer<UploadView> {
    let added = face
        .operations
        .add_to_release(&who, &version, &sha256, asked.offset, piece.to_vec())
        .await;
    json(added)
}

/// Never rolls a release out again. Open rollouts to it are aborted.
#[utoipa::path(post, path = "/releases/{version}/revoke", tag = "releases",
    params(("version" = String, Path, description = "Version")), request_body = RevokeRelease,
    responses((status = 200, body = ReleaseView), Refusals))]
async fn revoke(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(version): Path<String>,
    Given(given): Given<RevokeRelease>,
) -> Answer<ReleaseView> {
    json(face.operations.revoke_release(&who, &version, given).await)
}

/// Keeps a release no longer, unless a revision that is kept names it.
#[utoipa::path(delete, path = "/releases/{version}", tag = "releases",
    params(("version" = String, Path, description = "Version")),
    responses((status = 200, body = ReleaseView), Refusals))]
async fn remove(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(version): Path<String>,
) -> Answer<ReleaseView> {
    json(face.operations.remove_release(&who, &version).await)
}

/// Gives nodes a version of the agent, in stages; or says what would happen.
#[utoipa::path(post, path = "/updates", tag = "updates", request_body = ApplyUpdate,
    responses((status = 200, body = ApplyAnswer), Refusals))]
async fn update(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<ApplyUpdate>,
) -> Answer<ApplyAnswer> {
    json(face.operations.apply_update(&who, given).await)
}
