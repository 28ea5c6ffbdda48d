//! What every request passes, whichever route it takes.
//!
//! Gives it an id and a span, counts it against its address, reads its body
//! within a size and a time, bounds the time to an answer, renders errors, sets
//! security headers, and measures. **Invariant:** a handler never sees a body
//! that is not whole, so a slow client holds no operation.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use protocol::ErrorCode;
use protocol::id::RequestId;
use tracing::Instrument as _;

use crate::api::Face;
use crate::api::extract::bearer;
use crate::api::listen::Peer;
use crate::api::problem::{Refused, render};
use crate::clock;
use crate::operation::failure::Failure;

/// Longest time to the head of an answer. The engine answers in milliseconds;
/// what takes this long is stuck, and the client should hear so.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Bytes of a body that carries files: a project with its configs and secrets, a
/// piece of an archive.
pub(crate) const BULK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where such bodies go.
const BULK_PATHS: [&str; 4] = [
    "/api/v1/deployments",
    "/api/v1/contents/",
    "/api/v1/images/",
    "/api/v1/releases/",
];

/// The header with a request's id, in answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (
        header::STRICT_TRANSPORT_SECURITY,
        "max-age=31536000; includeSubDomains",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

/// The middleware around all routes.
pub(crate) async fn guard(
    State(face): State<Arc<Face>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let started = clock::monotonic();
    let id = face.request_id();
    request.extensions_mut().insert(id);
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let span = tracing::debug_span!("request", %id, method = %request.method(), route);
    let response = admit(&face, request, next).instrument(span).await;
    if let Some(failure) = response.extensions().get::<Failure>() {
        face.metrics.refusal(failure.code);
        tracing::debug!(request = %id, code = failure.code.text(), detail = failure.detail, "refused");
    }
    let took = clock::monotonic().saturating_duration_since(started);
    face.metrics
        .request(&route, response.status().as_u16(), took);
    let mut response = render(response, id);
    add_headers(response.headers_mut(), id);
    response
}

async fn admit(face: &Face, request: Request, next: Next) -> Response<Body> {
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if !probe
        && let Some(Peer(peer)) = request.extensions().get()
        && let Err(too_many) = face.rates.address(peer.ip())
    {
        return Refused::from(too_many).into_response();
    }
    let request = match whole(face, request).await {
        Ok(request) => request,
        Err(failure) => return Refused::from(failure).into_response(),
    };
    match tokio::time::timeout(ANSWER_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused::from(Failure::new(
            ErrorCode::EngineBusy,
            format!("no answer within {} s", ANSWER_MAX.as_secs()),
        ))
        .into_response(),
    }
}

/// How large a request's body may be. What carries files may be larger, but only
/// from those who have a key: a stranger never has much memory.
fn body_bytes_max(face: &Face, parts: &Parts) -> usize {
    let max = face.limits.body_bytes_max;
    let path = parts.uri.path();
    let carries_files = BULK_PATHS.iter().any(|start| path.starts_with(start));
    let known = carries_files
        && bearer(parts).is_ok_and(|text| {
            let request = RequestId::NIL;
            face.operations.authenticate(text, request).is_ok()
        });
    if known { max.max(BULK_BYTES_MAX) } else { max }
}

/// Reads the body, all of it.
async fn whole(face: &Face, request: Request) -> Result<Request, Failure> {
    let (parts, body) = request.into_parts();
    let max = body_bytes_max(face, &parts);
    let too_large = || {
        Failure::new(
            ErrorCode::RequestTooLarge,
            format!("the body has more than {max} bytes"),
        )
    };
    let announced = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let limit = face.limits.body_timeout;
    match tokio::time::timeout(limit, to_bytes(body, max)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(Failure::new(
            ErrorCode::RequestTimeout,
            format!("the body did not arrive within {} s", limit.as_secs()),
        )),
    }
}

fn add_headers(headers: &mut HeaderMap, id: RequestId) {
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
}
