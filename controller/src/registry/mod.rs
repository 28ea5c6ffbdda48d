//! Asks image registries which manifest a tag names now.
//!
//! A revision never changes, so a tag in it is resolved once, when it is applied,
//! and nodes pull by digest: a tag that moves later moves nothing. Speaks the
//! HTTP API of registries, version 2 (the OCI distribution specification), with
//! the token flow that public registries ask for. There are no credentials here:
//! a private registry that asks for some stays unresolved, and nodes pull by tag
//! with their own.
//!
//! Fails by [`Unresolved`], which is an answer for people, not a fault: applying
//! goes on by tag and says so.

mod challenge;
mod reference;

use std::time::Duration;

use data_encoding::HEXLOWER;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use ring::digest::{SHA256, digest};

use crate::outbound::{Answer, Outbound, OutboundError, Request};
use challenge::Challenge;
use reference::Reference;

/// Time for one question. An apply asks for all of its images at once.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Bytes of a manifest: what registries take.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a token's answer.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// The kinds of manifests that engines pull by: indexes first, so that the digest
/// holds for every architecture.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Why a tag was not resolved.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// The reference is not one of an image with a tag.
    #[error("{0:?} is no reference with a tag")]
    Reference(String),
    /// The registry cannot be asked.
    #[error("registry {registry} cannot be asked")]
    Registry {
        /// Its host.
        registry: String,
        /// Why.
        #[source]
        source: OutboundError,
    },
    /// It wants credentials, which nodes have and the controller does not.
    #[error("registry {registry} asks for credentials")]
    Credentials {
        /// Its host.
        registry: String,
    },
    /// It has no such image.
    #[error("registry {registry} has no {image}")]
    Absent {
        /// Its host.
        registry: String,
        /// The repository and tag.
        image: String,
    },
    /// It answers what no registry answers.
    #[error("registry {registry} answered {answer}")]
    Garbage {
        /// Its host.
        registry: String,
        /// What, in short.
        answer: String,
    },
}

/// Asks registries.
#[derive(Debug, Clone)]
pub struct Registries {
    outbound: Outbound,
}

impl Registries {
    /// Asks by this client.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        Self { outbound }
    }

    /// The digest of the manifest that a reference's tag names now: `sha256:…`.
    ///
    /// # Errors
    /// [`Unresolved`].
    pub async fn resolve(&self, reference: &str) -> Result<String, Unresolved> {
        let reference = Reference::parse(reference)
            .ok_or_else(|| Unresolved::Reference(reference.to_owned()))?;
        match self.ask(&reference, "https").await {
            // Registries on this machine and in test setups speak plain HTTP. The
            // client sends that to listed networks alone.
            Err(Unresolved::Registry {
                source: OutboundError::Unreachable { .. },
                registry,
            }) => match self.ask(&reference, "http").await {
                Err(Unresolved::Registry {
                    source: OutboundError::Forbidden { host },
                    ..
                }) => Err(Unresolved::Registry {
                    registry,
                    source: OutboundError::Unreachable {
                        host,
                        reason: "it does not speak HTTPS".to_owned(),
                    },
                }),
                outcome => outcome,
            },
            outcome => outcome,
        }
    }

    async fn ask(&self, reference: &Reference, scheme: &str) -> Result<String, Unresolved> {
        let url = reference
            .manifest_url(scheme)
            .ok_or_else(|| Unresolved::Reference(reference.to_string()))?;
        let mut answer = self.manifest(reference, Method::HEAD, &url, None).await?;
        let mut token = None;
        if answer.status == 401 {
            token = Some(self.token(reference, &answer).await?);
            answer = self
                .manifest(reference, Method::HEAD, &url, token.as_ref())
                .await?;
        }
        let named = told_digest(&answer.headers);
        match (answer.status, named) {
            (200, Some(digest)) => Ok(digest),
            // Registries may leave the header out: the manifest says it.
            (200, None) => {
                let answer = self
                    .manifest(reference, Method::GET, &url, token.as_ref())
                    .await?;
                match answer.status {
                    200 if !answer.body.is_empty() => Ok(format!(
                        "sha256:{}",
                        HEXLOWER.encode(digest(&SHA256, &answer.body).as_ref())
                    )),
                    status => Err(garbage(reference, format!("status {status}"))),
                }
            }
            (401 | 403, _) => Err(Unresolved::Credentials {
                registry: reference.registry.clone(),
            }),
            (404, _) => Err(Unresolved::Absent {
                registry: reference.registry.clone(),
                image: format!("{}:{}", reference.repository, reference.tag),
            }),
            (status, _) => Err(garbage(reference, format!("status {status}"))),
        }
    }

    async fn manifest(
        &self,
        reference: &Reference,
        method: Method,
        url: &Url,
        token: Option<&HeaderValue>,
    ) -> Result<Answer, Unresolved> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        self.send(reference, method, url.clone(), headers, MANIFEST_BYTES_MAX)
            .await
    }

    /// A token that lets anyone pull, from where the registry says.
    async fn token(
        &self,
        reference: &Reference,
        answer: &Answer,
    ) -> Result<HeaderValue, Unresolved> {
        let credentials = || Unresolved::Credentials {
            registry: reference.registry.clone(),
        };
        let challenge = answer
            .headers
            .get(WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok())
            .and_then(Challenge::parse)
            .ok_or_else(credentials)?;
        let url = challenge
            .token_url(&format!("repository:{}:pull", reference.repository))
            .ok_or_else(credentials)?;
        let answer = self
            .send(
                reference,
                Method::GET,
                url,
                HeaderMap::new(),
                TOKEN_BYTES_MAX,
            )
            .await?;
        if answer.status != 200 {
            return Err(credentials());
        }
        #[derive(serde::Deserialize)]
        struct Told {
            token: Option<String>,
            access_token: Option<String>,
        }
        let told: Told = serde_json::from_slice(&answer.body)
            .map_err(|_| garbage(reference, "no token".to_owned()))?;
        let token = told.token.or(told.access_token).ok_or_else(credentials)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| garbage(reference, "a token that cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn send(
        &self,
        reference: &Reference,
        method: Method,
        url: Url,
        headers: HeaderMap,
        bytes_max: usize,
    ) -> Result<Answer, Unresolved> {
        self.outbound
            .send(Request {
                method,
                url,
                headers,
                body: Vec::new(),
                timeout: ANSWER_MAX,
                bytes_max,
            })
            .await
            .map_err(|source| Unresolved::Registry {
                registry: reference.registry.clone(),
                source,
            })
    }
}

/// The digest that a registry tells in its header, if it is one.
fn told_digest(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("docker-content-digest")?.to_str().ok()?;
    let hex = text.strip_prefix("sha256:")?;
    let is_digest = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then(|| text.to_owned())
}

fn garbage(reference: &Reference, answer: String) -> Unresolved {
    Unresolved::Garbage {
        registry: reference.registry.clone(),
        answer,
    }
}

#[cfg(test)]
mod tests;
