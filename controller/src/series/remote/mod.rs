//! Forwards stored samples to a Prometheus-compatible store by remote write 1.0.
//!
//! Owns the queue of frames, the requests made of them, and the tries. The queue
//! is bounded: when the other store is down for longer than it holds, samples are
//! dropped for it, newest first, and counted; the controller's own store keeps
//! them all the same, and nothing waits for the other one.
//!
//! What the other store refuses for good (a 4xx other than 429, such as samples
//! out of order from a backfill) is dropped and counted, never tried again: it
//! would be refused for ever and hold up the rest.
//!
//! Requests go by the guarded client: a store on a private network is reached when
//! the configuration lists that network, and is tried in vain otherwise.

mod message;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use protocol::id::NodeId;
use protocol::telemetry::frame::Frame;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Tags;
use crate::outbound::address::Network;
use crate::outbound::{Outbound, Request};
pub(super) use message::write_request;

/// Frames that wait. Ten thousand nodes at a frame a minute fill it in a minute
/// and a half of the other store's silence; it then takes about 250 MB, a fleet
/// of a hundred nodes never comes near.
const QUEUE_FRAMES: usize = 16_384;

/// Samples in one request: Prometheus' own senders take 2,000 to 10,000.
const SAMPLES_MAX: usize = 8_000;

/// How long a request that is not full waits for more.
const LINGER: Duration = Duration::from_secs(1);

/// How long the other store may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Pauses between tries: from here, doubled each time,
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// up to here.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Bytes of an answer: the other store says nothing or why it refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is kept of an answer that says why it refused.
const REASON_BYTES_MAX: usize = 512;

/// Where to forward to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The remote-write URL, as in `https://host/api/v1/write`.
    pub url: String,
    /// File that holds a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// CA of its certificate, PEM; the system's own roots otherwise.
    pub ca_file: Option<PathBuf>,
    /// Networks that may be reached besides the public internet.
    pub allow: Vec<Network>,
}

/// Why remote write cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The URL is none, or not of HTTP.
    #[error("{url:?} is no http or https URL")]
    Url {
        /// What was given.
        url: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token holds characters that no header may hold.
    #[error("the bearer token in {path} holds characters that cannot be sent")]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client refuses the CA or its setup.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// What became of samples on their way.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) retries: AtomicU64,
}

/// A frame on its way.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) node: NodeId,
    pub(super) frame: Frame,
}

/// The task that sends.
pub(super) struct Forwarder {
    url: reqwest::Url,
    outbound: Outbound,
    headers: HeaderMap,
    queue: mpsc::Receiver<Forwarded>,
    tags: Tags,
    counters: Arc<super::Counters>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

enum Answer {
    Taken,
    Refused(String),
    TryAgain(String),
}

impl Forwarder {
    pub(super) fn new(
        settings: Settings,
        tags: Tags,
        counters: Arc<super::Counters>,
    ) -> Result<(mpsc::Sender<Forwarded>, Self), SetupError> {
        let url = reqwest::Url::parse(&settings.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| SetupError::Url {
                url: settings.url.clone(),
            })?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        headers.insert(
            "x-prometheus-remote-write-version",
            HeaderValue::from_static("0.1.0"),
        );
        if let Some(path) = settings.bearer_token_file {
            let token = read(&path)?;
            let text = String::from_utf8_lossy(&token);
            let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
                .map_err(|_| SetupError::Token { path })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let outbound = match settings.ca_file {
            Some(path) => {
                let pem = read(&path)?;
                let roots =
                    reqwest::Certificate::from_pem_bundle(&pem).map_err(SetupError::Client)?;
                Outbound::trusting(settings.allow, roots)
            }
            None => Outbound::new(settings.allow),
        };
        let outbound = outbound.map_err(SetupError::Client)?;
        let (sender, queue) = mpsc::channel(QUEUE_FRAMES);
        Ok((
            sender,
            Self {
                url,
                outbound,
                headers,
                queue,
                tags,
                counters,
            },
        ))
    }

    /// Sends until told to stop. What still waits then is dropped: it is in the
    /// controller's own store.
    pub(super) async fn run(mut self, stop: &CancellationToken) {
        loop {
            let Some(batch) = self.gather(stop).await else {
                return;
            };
            let request = write_request(&batch, &self.tags);
            let samples = request
                .timeseries
                .iter()
                .map(|line| line.samples.len() as u64)
                .sum();
            let request = request.encode_to_vec();
            let body = match snap::raw::Encoder::new().compress_vec(&request) {
                Ok(body) => body,
                Err(error) => {
                    tracing::error!(%error, "a remote write request cannot be compressed");
                    self.counters
                        .remote
                        .dropped
                        .fetch_add(samples, Ordering::Relaxed);
                    continue;
                }
            };
            if !self.deliver(body, samples, stop).await {
                return;
            }
        }
    }

    /// Waits for frames and takes as many as make a request; `None` at the stop.
    async fn gather(&mut self, stop: &CancellationToken) -> Option<Vec<Forwarded>> {
        let first = tokio::select! {
            () = stop.cancelled() => return None,
            first = self.queue.recv() => first?,
        };
        let mut samples = first.frame.sample_count();
        let mut batch = vec![first];
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        while samples < SAMPLES_MAX {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = &mut linger => break,
                next = self.queue.recv() => {
                    let Some(next) = next else { break };
                    samples += next.frame.sample_count();
                    batch.push(next);
                }
            }
        }
        Some(batch)
    }

    /// Sends one request until it is taken or refused; `false` at the stop.
    async fn deliver(&self, body: Vec<u8>, samples: u64, stop: &CancellationToken) -> bool {
        let counters = &self.counters.remote;
        let mut pause = PAUSE_MIN;
        loop {
            let answer = tokio::select! {
                () = stop.cancelled() => return false,
                answer = self.post(body.clone()) => answer,
            };
            match answer {
                Answer::Taken => {
                    counters.sent.fetch_add(samples, Ordering::Relaxed);
                    return true;
                }
                Answer::Refused(reason) => {
                    tracing::warn!(samples, reason, "the remote store refuses samples");
                    counters.dropped.fetch_add(samples, Ordering::Relaxed);
                    return true;
                }
                Answer::TryAgain(reason) => {
                    if counters.retries.fetch_add(1, Ordering::Relaxed) == 0 || pause == PAUSE_MAX {
                        tracing::warn!(reason, "the remote store does not answer; trying again");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    async fn post(&self, body: Vec<u8>) -> Answer {
        let request = Request {
            method: Method::POST,
            url: self.url.clone(),
            headers: self.headers.clone(),
            body,
            timeout: ANSWER_MAX,
            bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = match self.outbound.send(request).await {
            Ok(answer) => answer,
            Err(error) => return Answer::TryAgain(error.to_string()),
        };
        if (200..300).contains(&answer.status) {
            return Answer::Taken;
        }
        let mut reason = answer.status.to_string();
        let kept = answer.body.get(..REASON_BYTES_MAX).unwrap_or(&answer.body);
        if !kept.is_empty() {
            reason.push_str(": ");
            let text = String::from_utf8_lossy(kept);
            reason.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        if answer.status >= 500 || answer.status == 429 {
            Answer::TryAgain(reason)
        } else {
            Answer::Refused(reason)
        }
    }
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, SetupError> {
    std::fs::read(path).map_err(|source| SetupError::File {
        path: path.to_owned(),
        source,
    })
}
