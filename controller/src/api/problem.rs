//! The one mapping from failures to HTTP.
//!
//! A handler answers with a [`Failure`]; `guard` renders it, because only there
//! the request's id is known. The body is `application/problem+json` (RFC 9457)
//! with the members that nodes and the command line read too: `code`, `detail`,
//! `action` and `request`.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use protocol::error_code::{Actor, Retry};
use protocol::id::RequestId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::rate::TooMany;
use crate::operation::failure::Failure;

/// What every error looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable code, such as `access.denied`.
    pub code: String,
    /// HTTP status.
    pub status: u16,
    /// What the code means.
    pub title: String,
    /// What happened here.
    pub detail: String,
    /// What to do about it.
    pub action: String,
    /// Whether trying again can help: `never`, `after_fix` or `backoff`.
    pub retry: String,
    /// Who can act: `caller`, `operator` or `developer`.
    pub actor: String,
    /// Id of the request, to find it in the controller's log.
    pub request: String,
}

impl Problem {
    /// The problem of `failure` in `request`.
    #[must_use]
    pub fn of(failure: &Failure, request: RequestId) -> Self {
        let info = failure.code.info();
        Self {
            code: info.text.to_owned(),
            status: info.http,
            title: info.summary.to_owned(),
            detail: failure.detail.clone(),
            action: info.action.to_owned(),
            retry: match info.retry {
                Retry::Never => "never",
                Retry::AfterFix => "after_fix",
                Retry::Backoff => "backoff",
            }
            .to_owned(),
            actor: match info.actor {
                Actor::Caller => "caller",
                Actor::Operator => "operator",
                Actor::Developer => "developer",
            }
            .to_owned(),
            request: request.to_string(),
        }
    }
}

/// The answers that every operation may give besides its own.
#[derive(utoipa::IntoResponses)]
pub(crate) enum Refusals {
    /// The request was refused, or failed; `code` says why.
    #[response(status = "default", content_type = "application/problem+json")]
    #[expect(
        dead_code,
        reason = "describes the answers; the document is all that is made of it"
    )]
    Refused(Problem),
}

/// A failure on its way to being rendered.
#[derive(Debug, Clone)]
pub struct Refused {
    failure: Failure,
    retry_after: Option<u64>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            retry_after: None,
        }
    }
}

impl From<TooMany> for Refused {
    fn from(TooMany(wait): TooMany) -> Self {
        let seconds = wait.as_secs() + 1;
        Self {
            failure: Failure::new(
                protocol::ErrorCode::RateLimited,
                format!("too many requests; the next is served in {seconds} s"),
            ),
            retry_after: Some(seconds),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let mut response = status(&self.failure).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self.failure);
        response
    }
}

fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.code.info().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Gives a response that carries a failure its body.
pub(crate) fn render(response: Response<Body>, request: RequestId) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Some(failure) = parts.extensions.remove::<Failure>() else {
        return Response::from_parts(parts, body);
    };
    let problem = Problem::of(&failure, request);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    parts.headers.insert(
        HeaderName::from_static("flotilla-code"),
        HeaderValue::from_static(failure.code.text()),
    );
    Response::from_parts(parts, Body::from(body))
}
