//! The routes for nodes: joining, renewing, the trust set.
//!
//! Nodes have no API key: a join is proven by its token, a renewal by the
//! node's signing key, and the trust set is signed by the fleet's root. So these
//! take a [`Peer`] and no `Who`. They are not part of the OpenAPI document,
//! because `protocol::join` is their definition.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use protocol::ErrorCode;
use protocol::join::{JoinRequest, JoinResponse, Renewal};
use protocol::trust::SignedTrust;

use crate::api::listen::Peer;
use crate::api::problem::Refused;
use crate::operation::failure::Failure;
use crate::pki::enrolment::{EnrolError, Enrolment};

/// The routes below `/node/v1`.
pub(crate) fn routes(enrolment: Enrolment) -> Router {
    Router::new()
        .route("/node/v1/join", post(join))
        .route("/node/v1/renew", post(renew))
        .route("/node/v1/trust", get(trust))
        .with_state(Arc::new(enrolment))
}

async fn join(
    State(enrolment): State<Arc<Enrolment>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Bytes,
) -> Result<Response<Body>, Refused> {
    let asked: JoinRequest = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(
            ErrorCode::RequestInvalid,
            format!("the body is wrong: {error}"),
        )
    })?;
    let answer = enrolment
        .join(asked, peer.ip().to_string())
        .await
        .map_err(|error| refused(&error))?;
    let status = match answer {
        JoinResponse::Admitted(_) => StatusCode::OK,
        JoinResponse::Pending { .. } => StatusCode::ACCEPTED,
    };
    Ok((status, Json(answer)).into_response())
}

async fn renew(
    State(enrolment): State<Arc<Enrolment>>,
    body: Bytes,
) -> Result<Json<Renewal>, Refused> {
    let renewal = enrolment.renew(&body).await;
    renewal.map(Json).map_err(|error| refused(&error))
}

async fn trust(State(enrolment): State<Arc<Enrolment>>) -> Json<SignedTrust> {
    Json(enrolment.trust())
}

fn refused(error: &EnrolError) -> Refused {
    tracing::info!(code = error.code().text(), %error, "a node was refused");
    Failure::new(error.code(), error.to_string()).into()
}
