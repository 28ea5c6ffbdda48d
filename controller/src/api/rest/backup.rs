//! `/api/v1/backups`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::octets;
use crate::api::Face;
use crate::api::extract::Given;
use crate::api::problem::{Refusals, Refused};
use crate::operation::Who;
use crate::operation::view::backup::MakeBackup;

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new().routes(routes!(make))
}

/// A backup of the controller of this moment, encrypted to the keys in
/// `backup.recipients`, as `flotilla backup verify` reads it.
#[utoipa::path(post, path = "/backups", tag = "backups", request_body = MakeBackup,
    responses((status = 200, content_type = "application/octet-stream"), Refusals))]
async fn make(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<MakeBackup>,
) -> Result<Response<Body>, Refused> {
    Ok(octets(face.operations.make_backup(&who, given).await?))
}
