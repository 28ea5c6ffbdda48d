//! REST: thin handlers, one file per noun, and the OpenAPI document over them.
//!
//! A handler takes its input apart, calls one operation and answers with what
//! it gives. The document at `/openapi.json` is made from the same routes.

mod access;
mod alert;
mod audit;
mod backup;
mod breaker;
mod command;
mod content;
mod deployment;
mod node;
mod release;
mod rollout;
mod series;
mod sink;
mod stream;
mod system;
mod token;
mod trust;
mod window;

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, Response, Uri, header};
use axum::response::IntoResponse;
use axum::{Json, Router};
use protocol::ErrorCode;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::api::Face;
use crate::api::problem::{Problem, Refused};
use crate::operation::Bytes;
use crate::operation::failure::Failure;

/// The answer of most handlers.
type Answer<T> = Result<Json<T>, Refused>;

fn json<T>(answer: Result<T, Failure>) -> Answer<T> {
    answer.map(Json).map_err(Refused::from)
}

/// Bytes as they are made.
fn octets(bytes: Bytes) -> Response<Body> {
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    )];
    (headers, Body::from_stream(bytes)).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flotilla",
        description = "The API of a Flotilla controller. Every request but health needs \
                       `Authorization: Bearer flk1_…`. A request that changes something may carry \
                       `Idempotency-Key: <16 characters of a-z and 2-7>`; a retry with the same \
                       key gets the first answer. Errors are `application/problem+json` with a \
                       stable `code`.",
        license(name = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("key" = []))
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("key", scheme);
    }
}

fn open_router() -> OpenApiRouter<Arc<Face>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .nest(
            "/api/v1",
            OpenApiRouter::new()
                .merge(node::routes())
                .merge(release::routes())
                .merge(token::routes())
                .merge(trust::routes())
                .merge(command::routes())
                .merge(deployment::routes())
                .merge(rollout::routes())
                .merge(content::routes())
                .merge(series::routes())
                .merge(access::routes())
                .merge(audit::routes())
                .merge(backup::routes())
                .merge(breaker::routes())
                .merge(window::routes())
                .merge(sink::routes())
                .merge(alert::routes())
                .merge(system::routes()),
        )
        .merge(system::probes())
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, document) = open_router().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
});

/// The OpenAPI document, as served at `/openapi.json`.
#[must_use]
pub fn document() -> &'static str {
    &DOCUMENT
}

async fn openapi() -> Response<Body> {
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )];
    (headers, document()).into_response()
}

pub(crate) fn routes(face: &Arc<Face>) -> Router {
    let (router, _) = open_router().split_for_parts();
    router
        .route("/openapi.json", axum::routing::get(openapi))
        // The guard has read the body, within the bound of its path; axum's own bound
        // of 2 MB would end what may be larger.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(face))
}

pub(crate) async fn no_route(uri: Uri) -> Refused {
    Failure::new(
        ErrorCode::RouteNotFound,
        format!("there is nothing at {}", uri.path()),
    )
    .into()
}

pub(crate) async fn no_method(method: Method, uri: Uri) -> Refused {
    Failure::new(
        ErrorCode::RouteNotFound,
        format!("{} does not take {method}", uri.path()),
    )
    .into()
}
