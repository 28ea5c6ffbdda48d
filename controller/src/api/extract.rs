//! What handlers take from a request: who asks, and what.
//!
//! **Invariant:** a [`Who`] comes from a valid key and from nothing else.
//! Anonymous requests are counted, never journalled, so that nobody can fill
//! the journal from outside.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderName, header, request};
use protocol::ErrorCode;
use protocol::id::RequestId;
use serde::de::DeserializeOwned;

use crate::api::Face;
use crate::api::listen::Peer;
use crate::api::problem::Refused;
use crate::operation::Who;
use crate::operation::failure::Failure;

/// The header by which a caller names a request, so that a retry gets the first
/// answer: an id of 16 characters.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl FromRequestParts<Arc<Face>> for Who {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut request::Parts,
        face: &Arc<Face>,
    ) -> Result<Self, Self::Rejection> {
        let who = authenticate(parts, face);
        if who.is_err() {
            face.metrics.anonymous_denial();
        }
        let who = who?;
        face.rates.key(who.key)?;
        Ok(who)
    }
}

fn authenticate(parts: &request::Parts, face: &Face) -> Result<Who, Refused> {
    let peer = parts.extensions.get::<Peer>().copied();
    let request = request_id(parts)?;
    let authenticated =
        bearer(parts).and_then(|secret| face.operations.authenticate(secret, request));
    authenticated.map_err(
        |failure| match peer.map(|Peer(peer)| face.rates.failure(peer.ip())) {
            Some(Err(too_many)) => too_many.into(),
            Some(Ok(())) | None => failure.into(),
        },
    )
}

pub(crate) fn bearer(parts: &request::Parts) -> Result<&str, Failure> {
    let missing = || {
        Failure::new(
            ErrorCode::KeyMissing,
            "no `Authorization: Bearer flk1_…` header",
        )
    };
    let value = parts
        .headers
        .get(header::AUTHORIZATION)
        .ok_or_else(missing)?;
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, secret) = text.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(secret.trim())
    } else {
        Err(missing())
    }
}

/// The id that the caller gave the request, else the one that we gave it.
fn request_id(parts: &request::Parts) -> Result<RequestId, Failure> {
    match parts.headers.get(IDEMPOTENCY_KEY) {
        None => Ok(parts.extensions.get().copied().unwrap_or(RequestId::NIL)),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::RequestInvalid,
                    "the Idempotency-Key header is not 16 characters of a-z and 2-7",
                )
            }),
    }
}

/// A JSON body. An empty one reads as `{}`, so that a request whose fields are
/// all optional needs none.
pub(crate) struct Given<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Face>> for Given<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, face: &Arc<Face>) -> Result<Self, Self::Rejection> {
        let bytes = Bytes::from_request(request, face).await.map_err(|error| {
            Failure::new(
                ErrorCode::RequestInvalid,
                format!("the body cannot be read: {error}"),
            )
        })?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|error| {
            Failure::new(
                ErrorCode::RequestInvalid,
                format!("the body is wrong: {error}"),
            )
            .into()
        })
    }
}

/// Query parameters.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Face>> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(
        parts: &mut request::Parts,
        _: &Arc<Face>,
    ) -> Result<Self, Self::Rejection> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(asked)| Self(asked))
            .map_err(|error| {
                Failure::new(
                    ErrorCode::RequestInvalid,
                    format!("the query is wrong: {}", error.body_text()),
                )
                .into()
            })
    }
}

/// A typed id in the path.
pub(crate) fn id<T: std::str::FromStr>(text: &str) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error: T::Err| Failure::new(ErrorCode::RequestInvalid, error.to_string()))
}
