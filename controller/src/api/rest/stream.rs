//! Long answers: one JSON object a line (`application/x-ndjson`).
//!
//! An empty line every few seconds keeps proxies from closing a quiet stream
//! and lets us notice a reader that is gone. When the controller stops, streams
//! end at once: a reader follows again, and loses nothing that is kept.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse as _;
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::operation::Lines;

/// Distance of keep-alive lines.
const QUIET_MAX: Duration = Duration::from_secs(10);

/// Answers with `lines` until they end or `stop` is asked for.
pub(crate) fn lines<T: Serialize + Send + 'static>(
    lines: Lines<T>,
    stop: CancellationToken,
) -> Response<Body> {
    let bytes = futures_util::stream::unfold((lines, stop), async |(mut lines, stop)| {
        let deadline = Instant::now() + QUIET_MAX;
        let next = tokio::select! {
            () = stop.cancelled() => return None,
            next = timeout_at(deadline, lines.next()) => next,
        };
        let line = match next {
            Ok(None) => return None,
            Ok(Some(item)) => serde_json::to_vec(&item).map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            }),
            Err(_) => Ok(Bytes::from_static(b"\n")),
        };
        Some((line, (lines, stop)))
    });
    let headers = [(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    )];
    (headers, Body::from_stream(bytes)).into_response()
}
