//! `/api/v1/trust`.

use std::sync::Arc;

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::Given;
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::trust::{ChangeTrust, InstallTrust, TrustChanged, TrustView};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(change))
        .routes(routes!(install))
}

/// The trust set in force, and how far nodes are with it.
#[utoipa::path(get, path = "/trust", tag = "trust",
    responses((status = 200, body = TrustView), Refusals))]
async fn show(who: Who, State(face): State<Arc<Face>>) -> Answer<TrustView> {
    json(face.operations.trust(&who))
}

/// Rotates the signing key or the CA, or retires one; or drafts that for a root key
/// that is elsewhere.
#[utoipa::path(post, path = "/trust/changes", tag = "trust", request_body = ChangeTrust,
    responses((status = 200, body = TrustChanged), Refusals))]
async fn change(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<ChangeTrust>,
) -> Answer<TrustChanged> {
    json(face.operations.change_trust(&who, given).await)
}

/// Puts a trust set in force that was signed where the root key is.
#[utoipa::path(post, path = "/trust/install", tag = "trust", request_body = InstallTrust,
    responses((status = 200, body = TrustChanged), Refusals))]
async fn install(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<InstallTrust>,
) -> Answer<TrustChanged> {
    json(face.operations.install_trust(&who, given).await)
}
