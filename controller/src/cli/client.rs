//! Talks to the controller's REST API.
//!
//! Every request has an end: connecting, waiting for an answer's head, and a
//! silent stream each have a limit. What changes something carries an
//! `Idempotency-Key`, so that trying once more after a lost answer is safe.

use std::time::Duration;

use futures_util::StreamExt as _;
use protocol::id::RequestId;
use reqwest::{Certificate, Method, Response};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::problem::Problem;
use crate::cli::failure::CliFailure;
use crate::cli::profile::Connection;
use crate::exit::Exit;

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Above the controller's own limit for an answer (60 s), so that its answer
/// wins; and three keep-alives of a stream.
const SILENCE_MAX: Duration = Duration::from_secs(65);

/// Longest line of a stream: one receipt with its output, JSON-escaped.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// A connection to one controller.
pub struct Client {
    http: reqwest::Client,
    api: String,
    key: String,
}

impl Client {
    /// A client that trusts the given CA alone, or the system's.
    ///
    /// # Errors
    /// When the CA file holds no certificate.
    pub fn new(connection: Connection) -> Result<Self, CliFailure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("flotilla/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &connection.ca {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
                CliFailure::because(Exit::Config, "the CA file holds no certificate", &error)
            })?;
            // The CA names the controller whoever stands in between, so a proxy
            // from the environment would only be in the way of loopback.
            builder = builder.tls_certs_only(certificates).no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| CliFailure::because(Exit::Config, "cannot set up HTTPS", &error))?;
        Ok(Self {
            http,
            api: connection.api,
            key: connection.key,
        })
    }

    /// Base URL of the controller.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliFailure> {
        decode(self.send(Method::GET, path, None::<&()>).await?).await
    }

    /// Reads something with query parameters.
    pub(crate) async fn query<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
    ) -> Result<T, CliFailure> {
        let request = self.http.get(self.url(path)).query(query);
        decode(
            self.answer(request.bearer_auth(&self.key).send().await)
                .await?,
        )
        .await
    }

    /// Changes something.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliFailure> {
        decode(self.send(Method::POST, path, Some(body)).await?).await
    }

    /// Asks for something that is made for it, and takes the whole answer as it comes.
    pub(crate) async fn post_for<B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Response, CliFailure> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Sets something.
    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, CliFailure> {
        decode(self.send(Method::PUT, path, Some(body)).await?).await
    }

    /// Sets something that is no JSON.
    pub(crate) async fn put_bytes<Q: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Q,
        body: Vec<u8>,
    ) -> Result<T, CliFailure> {
        let request = self
            .http
            .put(self.url(path))
            .query(query)
            .bearer_auth(&self.key)
            .header("content-type", "application/octet-stream")
            .body(body);
        decode(self.answer(request.send().await).await?).await
    }

    /// Removes something.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliFailure> {
        decode(self.send(Method::DELETE, path, None::<&()>).await?).await
    }

    /// The whole answer as it comes.
    pub(crate) async fn download(&self, path: &str) -> Result<Response, CliFailure> {
        self.send(Method::GET, path, None::<&()>).await
    }

    /// A stream of JSON objects, one a line.
    pub(crate) async fn lines(&self, path: &str) -> Result<JsonLines, CliFailure> {
        let response = self.send(Method::GET, path, None::<&()>).await?;
        Ok(JsonLines {
            chunks: Box::pin(
                response
                    .bytes_stream()
                    .map(|chunk| chunk.map(|bytes| bytes.to_vec())),
            ),
            buffer: Vec::new(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.api)
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Response, CliFailure> {
        let changes = method != Method::GET;
        let mut request = self
            .http
            .request(method, self.url(path))
            .bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        if changes {
            request = request.header("idempotency-key", request_id()?.to_string());
        }
        let again = request.try_clone();
        match (request.send().await, again) {
            // Nothing was sent, or the answer was lost; the key makes it safe.
            (Err(error), Some(again)) if error.is_connect() || error.is_request() => {
                self.answer(again.send().await).await
            }
            (sent, _) => self.answer(sent).await,
        }
    }

    async fn answer(&self, sent: reqwest::Result<Response>) -> Result<Response, CliFailure> {
        let response = sent.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(CliFailure::new(
                Exit::Unavailable,
                format!(
                    "{} answered {status}, which is no answer of a controller",
                    self.api
                ),
            )
            .advise("check the address: a proxy or another program may answer there")),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliFailure {
        CliFailure::because(
            Exit::Unavailable,
            format_args!("cannot reach the controller at {}", self.api),
            &error.without_url_ref(),
        )
        .advise("check that it runs, the address, and that the CA file is the fleet's")
        .coded(protocol::ErrorCode::PeerUnreachable)
    }
}

/// Shows an HTTP error without its URL, which may carry a name that was typed.
trait WithoutUrl {
    fn without_url_ref(&self) -> Sources<'_>;
}

#[derive(Debug)]
struct Sources<'a>(&'a reqwest::Error);

impl WithoutUrl for reqwest::Error {
    fn without_url_ref(&self) -> Sources<'_> {
        Sources(self)
    }
}

impl std::fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut source = std::error::Error::source(self.0);
        let Some(mut last) = source else {
            return f.write_str(if self.0.is_timeout() {
                "no answer in time"
            } else {
                "the connection broke"
            });
        };
        while let Some(error) = source {
            last = error;
            source = error.source();
        }
        write!(f, "{last}")
    }
}

impl std::error::Error for Sources<'_> {}

pub(super) fn request_id() -> Result<RequestId, CliFailure> {
    let mut bytes = [0; protocol::id::ID_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CliFailure::new(Exit::Bug, "no random source"))?;
    Ok(RequestId::from_bytes(bytes))
}

async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, CliFailure> {
    let bytes = response
        .bytes()
        .await
        .map_err(|error| CliFailure::because(Exit::Unavailable, "the answer broke off", &error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        CliFailure::because(
            Exit::Bug,
            "the controller's answer is not what this version expects",
            &error,
        )
        .advise("use a flotilla of the controller's version")
    })
}

type Chunks = std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<Vec<u8>>> + Send>>;

/// Lines of a stream, decoded.
pub(crate) struct JsonLines {
    chunks: Chunks,
    buffer: Vec<u8>,
}

impl JsonLines {
    /// The next object; none at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliFailure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    CliFailure::because(Exit::Bug, "a line of the stream is wrong", &error)
                });
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(CliFailure::new(
                    Exit::Bug,
                    "a line of the stream is too long",
                ));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => {
                    return Err(CliFailure::because(
                        Exit::Unavailable,
                        "the stream broke off",
                        &error,
                    ));
                }
                None => return Ok(None),
            }
        }
    }
}
