//! The routes for nodes: joining, renewing, the trust set, and what they fetch.
//!
//! Nodes have no API key: a join is proven by its token, a renewal and what is
//! fetched by the node's signing key, and the trust set is signed by the fleet's
//! root. So these take a `Peer` and no `Who`. They are not part of the OpenAPI
//! document, because `protocol::join` and `protocol::fetch` are their definition.
//!
//! What is fetched is streamed: a node that reads slowly costs one buffer, and is
//! cut off as every slow connection is.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use protocol::ErrorCode;
use protocol::fetch::SHA256_HEADER;
use protocol::join::{JoinRequest, JoinResponse, Renewal};
use protocol::trust::SignedTrust;
use tokio::io::AsyncReadExt as _;

use crate::api::listen::Peer;
use crate::api::problem::Refused;
use crate::archive::ArchiveError;
use crate::fetch::{ArchiveDownload, FetchError, Fetches, FileDownload};
use crate::operation::failure::Failure;
use crate::pki::enrolment::{EnrolError, Enrolment};

/// Bytes of an archive that are read at a time: few enough to hold for each
/// download, enough that reading is not what takes the time.
const PIECE_BYTES: usize = 64 * 1024;

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

/// The routes by which nodes fetch what is too large for an envelope.
pub fn fetch_routes(fetches: Fetches) -> Router {
    Router::new()
        .route("/node/v1/file", post(file))
        .route("/node/v1/archive", post(archive))
        .route("/node/v1/release", post(release))
        .with_state(fetches)
}

async fn file(State(fetches): State<Fetches>, body: Bytes) -> Result<Response<Body>, Refused> {
    /// Keeps the slot, and the content under its own hand, until it is sent.
    struct Sent(FileDownload);
    impl AsRef<[u8]> for Sent {
        fn as_ref(&self) -> &[u8] {
            self.0.content.bytes()
        }
    }
    let download = fetches.file(&body).await.map_err(|e| not_sent(&e))?;
    let sha256 = HeaderValue::from_str(&download.sha256).ok();
    let mut response = Body::from(Bytes::from_owner(Sent(download))).into_response();
    if let Some(sha256) = sha256 {
        let name = HeaderName::from_static(SHA256_HEADER);
        response.headers_mut().insert(name, sha256);
    }
    Ok(as_bytes(response))
}

async fn archive(State(fetches): State<Fetches>, body: Bytes) -> Result<Response<Body>, Refused> {
    let download = fetches.archive(&body).await.map_err(|e| not_sent(&e))?;
    Ok(streamed(download))
}

async fn release(State(fetches): State<Fetches>, body: Bytes) -> Result<Response<Body>, Refused> {
    let download = fetches.release(&body).await.map_err(|e| not_sent(&e))?;
    Ok(streamed(download))
}

fn streamed(download: ArchiveDownload) -> Response<Body> {
    let size_bytes = download.size_bytes;
    let (file, slot) = download.into_parts();
    let reader = tokio::fs::File::from_std(file).take(size_bytes);
    let pieces = futures_util::stream::unfold((reader, slot), |(mut reader, slot)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = reader.read(&mut piece).await;
        let piece = read.map(|count| {
            piece.truncate(count);
            Bytes::from(piece)
        });
        match piece {
            Ok(piece) if piece.is_empty() => None,
            piece => Some((piece, (reader, slot))),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size_bytes));
    as_bytes(response)
}

fn as_bytes(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

/// What a node hears when it gets nothing. Our own faults are logged, and it hears
/// no more than that there was one.
fn not_sent(error: &FetchError) -> Refused {
    let failure = match error {
        FetchError::Vault(_) => Failure::fault(error.code(), "the file cannot be read now", error),
        FetchError::Archive(ArchiveError::File { .. }) => {
            Failure::fault(error.code(), "the archive cannot be read now", error)
        }
        FetchError::Archive(cause) => Failure::new(error.code(), cause.to_string()),
        FetchError::Sender(_)
        | FetchError::Stale { .. }
        | FetchError::NoFile { .. }
        | FetchError::NoArchive { .. }
        | FetchError::NoRelease { .. }
        | FetchError::Busy
        | FetchError::Stopping => Failure::new(error.code(), error.to_string()),
    };
    tracing::info!(
        code = failure.code.text(),
        detail = failure.detail,
        "a node was sent nothing"
    );
    failure.into()
}

fn refused(error: &EnrolError) -> Refused {
    tracing::info!(code = error.code().text(), %error, "a node was refused");
    Failure::new(error.code(), error.to_string()).into()
}
