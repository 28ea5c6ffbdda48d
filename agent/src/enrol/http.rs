//! HTTPS to the controller, for what does not go by MQTT: joining, renewing, and
//! the trust set.
//!
//! No platform roots, no redirects, no proxy of the environment, and bounds on
//! time and size.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::join::ErrorBody;
use reqwest::{Client, Response, StatusCode};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;

use crate::config::Proxy;
use crate::tls::TlsError;
use crate::uplink::Password;

/// Connecting, on the slowest link that MQTT would still work on.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// A whole request.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of an answer. An admission with two CAs has 6 KB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A request that did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The client cannot be made.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
    /// The client cannot be made.
    #[error("cannot set up HTTPS")]
    Client(#[source] reqwest::Error),
    /// Nobody answered, or not in time, or not by TLS that is believed.
    #[error("cannot reach the controller at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The controller said no.
    #[error("the controller refused: {detail} ({code})")]
    Refused {
        /// The code's text; a newer controller may send one that is not known.
        code: String,
        /// For a person.
        detail: String,
        /// What to do.
        action: String,
    },
    /// The answer is not one of this protocol.
    #[error("the answer of {address} is not understood: {reason}")]
    Malformed {
        /// Who answered.
        address: String,
        /// What is wrong.
        reason: String,
    },
}

impl RequestError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Tls(error) => error.code(),
            Self::Client(_) => ErrorCode::Internal,
            Self::Unreachable { .. } => ErrorCode::JoinUnreachable,
            Self::Refused { code, .. } => {
                ErrorCode::from_text(code).unwrap_or(ErrorCode::JoinRejected)
            }
            Self::Malformed { .. } => ErrorCode::MessageMalformed,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { .. } => {
                self.code().info().retry == protocol::error_code::Retry::Backoff
            }
            Self::Tls(_) | Self::Client(_) | Self::Malformed { .. } => false,
        }
    }
}

/// A client for answers of any length: only silence ends one.
pub(super) fn streaming(
    tls: ClientConfig,
    proxy: Option<&(Proxy, Option<Password>)>,
) -> Result<Client, RequestError> {
    let builder = Client::builder().read_timeout(ANSWER_WITHIN);
    finished(builder, tls, proxy)
}

/// A client with these settings.
pub(super) fn client(
    tls: ClientConfig,
    proxy: Option<&(Proxy, Option<Password>)>,
) -> Result<Client, RequestError> {
    let builder = Client::builder().timeout(ANSWER_WITHIN);
    finished(builder, tls, proxy)
}

fn finished(
    builder: reqwest::ClientBuilder,
    tls: ClientConfig,
    proxy: Option<&(Proxy, Option<Password>)>,
) -> Result<Client, RequestError> {
    let builder = builder
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_WITHIN)
        .pool_max_idle_per_host(0);
    let builder = match proxy {
        None => builder,
        Some((proxy, password)) => {
            let url = format!("http://{}:{}", proxy.host, proxy.port);
            let through = reqwest::Proxy::https(url).map_err(RequestError::Client)?;
            builder.proxy(match (&proxy.login, password) {
                (Some((user, _)), Some(password)) => through.basic_auth(user, &password.0),
                (Some(_), None) | (None, _) => through,
            })
        }
    };
    builder.build().map_err(RequestError::Client)
}

/// What a request carries.
pub(super) enum Body {
    /// Nothing: GET.
    None,
    /// JSON: POST.
    Json(String),
    /// An envelope: POST.
    Envelope(Vec<u8>),
}

/// Sends a request and reads the answer; its status says which of several it is.
pub(super) async fn request<T: DeserializeOwned>(
    client: &Client,
    address: &str,
    path: &str,
    body: Body,
) -> Result<T, RequestError> {
    let url = format!("https://{address}{path}");
    let request = match body {
        Body::None => client.get(url),
        Body::Json(json) => client
            .post(url)
            .header("content-type", "application/json")
            .body(json),
        Body::Envelope(bytes) => client
            .post(url)
            .header("content-type", "application/octet-stream")
            .body(bytes),
    };
    let unreachable = |source: reqwest::Error| RequestError::Unreachable {
        address: address.to_owned(),
        source: source.without_url(),
    };
    let malformed = |reason: String| RequestError::Malformed {
        address: address.to_owned(),
        reason,
    };
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let bytes = limited(response).await.map_err(|error| match error {
        TakeError::Read(source) => unreachable(source),
        TakeError::TooLarge => malformed(format!("it has more than {ANSWER_BYTES_MAX} bytes")),
    })?;
    if status == StatusCode::OK || status == StatusCode::ACCEPTED {
        return serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(error) => Err(RequestError::Refused {
            code: error.code,
            detail: error.detail,
            action: error.action,
        }),
        Err(_) => Err(malformed(format!("status {status}"))),
    }
}

enum TakeError {
    Read(reqwest::Error),
    TooLarge,
}

async fn limited(mut response: Response) -> Result<Vec<u8>, TakeError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(TakeError::Read)? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(TakeError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
