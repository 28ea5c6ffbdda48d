//! Contents that deployments need, from the controller by HTTPS.
//!
//! A request is an envelope that the core seals, beside the session; the answer
//! streams the content from the byte on that was asked for.
//!
//! **Invariant:** the controller is believed by the fleet's CAs alone, as for
//! everything else, and an address that does not answer is followed by the next.

use std::sync::Arc;

use protocol::ErrorCode;
use protocol::error_code::Retry;
use protocol::fetch::SHA256_HEADER;
use protocol::join::ErrorBody;
use reqwest::{Response, StatusCode};
use rustls::ClientConfig;
use tokio::sync::watch;

use super::http;
use crate::deploy::fetch::{Chunks, Content, FetchError, Fetcher};
use crate::node::task::{Beside, StoreHandle};
use crate::uplink::Target;

/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 16 * 1024;

/// Downloads from the controller.
pub struct Downloads {
    /// The controller's addresses, tried in turn.
    pub controllers: Vec<String>,
    /// The TLS of the node.
    pub tls: watch::Receiver<Arc<ClientConfig>>,
    /// The proxy.
    pub target: watch::Receiver<Arc<Target>>,
    /// Seals requests.
    pub core: StoreHandle,
}

/// A content on its way.
pub struct Download(Response);

impl Chunks for Download {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        match self.0.chunk().await {
            Ok(chunk) => Ok(chunk.map(|bytes| bytes.to_vec())),
            Err(error) => Err(unreachable(&error)),
        }
    }

    fn sha256(&self) -> Option<String> {
        let header = self.0.headers().get(SHA256_HEADER)?;
        Some(header.to_str().ok()?.to_owned())
    }
}

impl Fetcher for Downloads {
    type Chunks = Download;

    async fn open(&self, content: &Content, offset: u64) -> Result<Download, FetchError> {
        let tls = ClientConfig::clone(&self.tls.borrow());
        let proxy = self.target.borrow().proxy.clone();
        let client = http::streaming(tls, proxy.as_ref())
            .map_err(|error| FetchError::Unreachable(crate::chain(&error)))?;
        let (path, beside) = match content {
            Content::Archive(digest) => {
                let digest = digest.clone();
                ("/node/v1/archive", Beside::Archive { digest, offset })
            }
            Content::File(digest) => ("/node/v1/file", Beside::File(digest.clone())),
            Content::Release(sha256) => {
                let sha256 = sha256.clone();
                ("/node/v1/release", Beside::Release { sha256, offset })
            }
        };
        let mut last = FetchError::Unreachable("no controller's address is known".to_owned());
        for address in &self.controllers {
            let sealed = self.core.seal(beside.clone()).await;
            let Ok(Some(sealed)) = sealed else {
                return Err(FetchError::Unreachable(
                    "the store gives no counter for the request".to_owned(),
                ));
            };
            let request = client
                .post(format!("https://{address}{path}"))
                .header("content-type", "application/octet-stream")
                .body(sealed);
            match request.send().await {
                Ok(answer) if answer.status() == StatusCode::OK => return Ok(Download(answer)),
                Ok(answer) => return Err(refused(answer).await),
                Err(error) => last = unreachable(&error),
            }
        }
        Err(last)
    }
}

fn unreachable(error: &reqwest::Error) -> FetchError {
    FetchError::Unreachable(crate::chain(error))
}

/// What the controller says that it does not give the content.
async fn refused(mut answer: Response) -> FetchError {
    let status = answer.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    let said: Option<ErrorBody> = serde_json::from_slice(&body).ok();
    let code = said
        .as_ref()
        .and_then(|said| ErrorCode::from_text(&said.code));
    let text = said.map_or_else(
        || format!("status {status}"),
        |said| format!("{} ({})", said.detail, said.code),
    );
    let passing = code.map_or(status.is_server_error(), |code| {
        code.info().retry == Retry::Backoff
    });
    match code {
        Some(ErrorCode::ArchiveNotFound | ErrorCode::FileNotFound | ErrorCode::ReleaseNotFound) => {
            FetchError::NotFound(text)
        }
        Some(_) | None if passing => FetchError::Unreachable(text),
        Some(_) | None => FetchError::Refused(text),
    }
}
