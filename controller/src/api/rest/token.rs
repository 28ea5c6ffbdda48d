//! `/api/v1/tokens`.

use std::sync::Arc;

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::extract::{Given, id};
use crate::api::problem::Refusals;
use crate::operation::Who;
use crate::operation::view::token::{CreateToken, TokenList, TokenMade, TokenView};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// Join tokens, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "tokens",
    responses((status = 200, body = TokenList), Refusals))]
async fn list(who: Who, State(face): State<Arc<Face>>) -> Answer<TokenList> {
    json(face.operations.list_tokens(&who))
}

/// Makes a join token. Its text is shown here and never again.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = CreateToken,
    responses((status = 200, body = TokenMade), Refusals))]
async fn create(
    who: Who,
    State(face): State<Arc<Face>>,
    Given(given): Given<CreateToken>,
) -> Answer<TokenMade> {
    json(face.operations.create_token(&who, given).await)
}

/// Makes a join token useless.
#[utoipa::path(post, path = "/tokens/{token}/revoke", tag = "tokens", params(("token" = String, Path, description = "Serial")),
    responses((status = 200, body = TokenView), Refusals))]
async fn revoke(
    who: Who,
    State(face): State<Arc<Face>>,
    Path(token): Path<String>,
) -> Answer<TokenView> {
    let token = id(&token)?;
    json(face.operations.revoke_token(&who, token).await)
}
