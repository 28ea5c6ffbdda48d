//! The controller itself: health, readiness, metrics, status, support.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use protocol::ErrorCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, json};
use crate::api::Face;
use crate::api::health::Readiness;
use crate::api::problem::{Refusals, Refused};
use crate::operation::Who;
use crate::operation::failure::Failure;
use crate::operation::view::system::{StatusView, SupportView};

pub(super) fn routes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(support))
}

pub(super) fn probes() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// The controller at a glance.
#[utoipa::path(get, path = "/status", tag = "controller",
    responses((status = 200, body = StatusView), Refusals))]
async fn status(who: Who, State(face): State<Arc<Face>>) -> Answer<StatusView> {
    json(face.operations.status(&who))
}

/// What goes into a support bundle: no secrets.
#[utoipa::path(get, path = "/support", tag = "controller",
    responses((status = 200, body = SupportView), Refusals))]
async fn support(who: Who, State(face): State<Arc<Face>>) -> Answer<SupportView> {
    let parts = face
        .health
        .readiness()
        .parts
        .into_iter()
        .map(|part| {
            let state = if part.ok { "ok" } else { "not ok" };
            format!("{}: {state} {}", part.name, part.detail)
                .trim_end()
                .to_owned()
        })
        .collect();
    let metrics = expose(&face)?;
    json(face.operations.support(&who, parts, metrics))
}

/// Whether the controller lives.
#[utoipa::path(get, path = "/healthz", tag = "controller", security(()),
    responses((status = 200, body = String), (status = 503, body = String)))]
async fn healthz(State(face): State<Arc<Face>>) -> Response<Body> {
    match face.health.alive() {
        Ok(()) => "ok\n".into_response(),
        Err(detail) => (StatusCode::SERVICE_UNAVAILABLE, format!("{detail}\n")).into_response(),
    }
}

/// Whether the controller can do its work: journal, intake, broker.
#[utoipa::path(get, path = "/readyz", tag = "controller", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
async fn readyz(State(face): State<Arc<Face>>) -> Response<Body> {
    let readiness = face.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

/// The controller's own metrics, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "controller",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), Refusals))]
async fn metrics(
    State(face): State<Arc<Face>>,
    request: Request,
) -> Result<Response<Body>, Refused> {
    if !face.metrics_anonymous {
        let (mut parts, _) = request.into_parts();
        let who = Who::from_request_parts(&mut parts, &face).await?;
        face.operations.may_read_metrics(&who)?;
    }
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    )];
    Ok((headers, expose(&face)?).into_response())
}

fn expose(face: &Face) -> Result<String, Failure> {
    let mut gauges = face.operations.gauges();
    gauges.healthy = face.health.gauges();
    face.metrics.expose(&gauges).map_err(|error| {
        Failure::fault(ErrorCode::Internal, "the metrics cannot be written", &error)
    })
}
