//! The controller's own HTTP client towards the world: registries, a store of
//! metrics, the receivers of notices, and whatever else the controller calls by itself.
//!
//! Owns limits and protection in one place: a time for connecting and for the
//! whole answer, a bound for its size, and which addresses may be reached. A name
//! is resolved here, addresses that are not allowed are left out before a
//! connection is opened, and each redirect is judged anew.
//!
//! **Invariants.** No connection goes to an address that [`address::is_allowed`]
//! forbids, whatever a name resolves to at that moment. Plain HTTP goes to listed
//! networks alone. Credentials never follow a redirect to another host. A proxy
//! from the environment is not used: it would resolve names by itself.

pub mod address;

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Certificate, Method, Url};

use address::{Network, is_allowed, is_listed};

/// Time to open a connection, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Time for the body of an answer whose status has said everything already.
const REASON_MAX: Duration = Duration::from_secs(2);

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 4;

/// What is to be asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// The time for all of it, redirects included.
    pub timeout: Duration,
    /// Bytes of the answer's body; a longer one is an error.
    pub bytes_max: usize,
}

/// What was answered, whatever the status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The address is not allowed.
    #[error("{host} is not an address that the controller may reach")]
    Forbidden {
        /// The host that was named.
        host: String,
    },
    /// The URL is not one of HTTP with a host.
    #[error("the URL is not an http or https one with a host")]
    Url,
    /// The host could not be reached, or broke off.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why, without the URL.
        reason: String,
    },
    /// It took too long.
    #[error("{host} did not answer in time")]
    Timeout {
        /// The host.
        host: String,
    },
    /// The answer is longer than allowed.
    #[error("{host} answered with more than {bytes_max} bytes")]
    TooLong {
        /// The host.
        host: String,
        /// The bound.
        bytes_max: usize,
    },
    /// It redirects again and again.
    #[error("{host} redirects more than {REDIRECTS_MAX} times")]
    Redirects {
        /// The last host.
        host: String,
    },
}

impl OutboundError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Forbidden { .. } | Self::Url => ErrorCode::AddressForbidden,
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::TooLong { .. }
            | Self::Redirects { .. } => ErrorCode::PeerUnreachable,
        }
    }
}

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Outbound {
    secure: reqwest::Client,
    plain: reqwest::Client,
    allow: Arc<[Network]>,
}

impl Outbound {
    /// A client that may reach public addresses, and these networks.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(allow: impl Into<Arc<[Network]>>) -> Result<Self, reqwest::Error> {
        Self::build(allow.into(), None)
    }

    /// The same, for a peer whose certificate one of these CAs issued, and no other.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn trusting(
        allow: impl Into<Arc<[Network]>>,
        roots: Vec<Certificate>,
    ) -> Result<Self, reqwest::Error> {
        Self::build(allow.into(), Some(roots))
    }

    fn build(
        allow: Arc<[Network]>,
        roots: Option<Vec<Certificate>>,
    ) -> Result<Self, reqwest::Error> {
        let client = |reach| {
            let builder = reqwest::Client::builder();
            let builder = match roots.clone() {
                Some(roots) => builder.tls_certs_only(roots),
                None => builder,
            };
            builder
                .user_agent(concat!("flotilla/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_MAX)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .dns_resolver(Arc::new(Resolver {
                    allow: Arc::clone(&allow),
                    reach,
                }))
        };
        // A host without CA certificates is one that needs none until a server of
        // the public internet is to be asked, which then is not trusted.
        let secure = || client(Reach::Allowed).https_only(true);
        let secure = secure().build().or_else(|error| {
            tracing::warn!(%error, "no CA certificates: HTTPS servers are not trusted; install ca-certificates");
            secure().tls_certs_only([]).build()
        })?;
        Ok(Self {
            secure,
            plain: client(Reach::Listed).tls_certs_only([]).build()?,
            allow: Arc::clone(&allow),
        })
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// [`OutboundError`].
    pub async fn send(&self, request: Request) -> Result<Answer, OutboundError> {
        let host = host_of(&request.url)?;
        let timeout = request.timeout;
        match tokio::time::timeout(timeout, self.follow(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(OutboundError::Timeout { host }),
        }
    }

    /// Hands something over, where the status of the answer is what counts. A
    /// redirect is an answer and is not followed. Of the body as much is read as
    /// comes soon and is allowed, and none when all went well: a receiver cannot
    /// undo its answer by what it says after it.
    ///
    /// # Errors
    /// [`OutboundError`] when there is no status.
    pub async fn hand_over(&self, request: Request) -> Result<Answer, OutboundError> {
        let host = host_of(&request.url)?;
        let opened = tokio::time::timeout(request.timeout, self.open(&request)).await;
        let mut response = opened.map_err(|_| OutboundError::Timeout { host })??;
        let mut body = Vec::new();
        if !response.status().is_success() {
            let read = async {
                while body.len() < request.bytes_max
                    && let Ok(Some(chunk)) = response.chunk().await
                {
                    body.extend_from_slice(&chunk);
                }
            };
            // Late or broken, it is only words.
            let _late = tokio::time::timeout(REASON_MAX, read).await;
            body.truncate(request.bytes_max);
        }
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        })
    }

    async fn follow(&self, mut request: Request) -> Result<Answer, OutboundError> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.once(&request).await?;
            let target = matches!(answer.status, 301 | 302 | 303 | 307 | 308)
                .then(|| answer.headers.get(LOCATION))
                .flatten();
            let Some(target) = target else {
                return Ok(answer);
            };
            let next = target
                .to_str()
                .ok()
                .and_then(|text| request.url.join(text).ok())
                .ok_or(OutboundError::Url)?;
            if request.url.origin() != next.origin() {
                request.headers.remove(AUTHORIZATION);
            }
            if request.url.scheme() == "https" && next.scheme() != "https" {
                return Err(OutboundError::Forbidden {
                    host: host_of(&next)?,
                });
            }
            request.url = next;
        }
        Err(OutboundError::Redirects {
            host: host_of(&request.url)?,
        })
    }

    /// Whether a URL may be reached, as far as it says where it leads: what a name
    /// resolves to is judged when it is connected to.
    ///
    /// # Errors
    /// [`OutboundError::Url`] or [`OutboundError::Forbidden`].
    pub fn check(&self, url: &Url) -> Result<(), OutboundError> {
        let host = host_of(url)?;
        let (_, reach) = self.client(url);
        match literal(url) {
            Some(address) if !reach.allows(address, &self.allow) => {
                Err(OutboundError::Forbidden { host })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn client(&self, url: &Url) -> (&reqwest::Client, Reach) {
        match url.scheme() {
            "https" => (&self.secure, Reach::Allowed),
            _ => (&self.plain, Reach::Listed),
        }
    }

    /// Asks, and reads the head of the answer.
    async fn open(&self, request: &Request) -> Result<reqwest::Response, OutboundError> {
        let host = host_of(&request.url)?;
        // An address that is written as one is connected to without a resolver.
        self.check(&request.url)?;
        let (client, _) = self.client(&request.url);
        client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone())
            .body(request.body.clone())
            .send()
            .await
            .map_err(|error| failure(&host, &error))
    }

    async fn once(&self, request: &Request) -> Result<Answer, OutboundError> {
        let host = host_of(&request.url)?;
        let mut response = self.open(request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| failure(&host, &error))?
        {
            if body.len() + chunk.len() > request.bytes_max {
                return Err(OutboundError::TooLong {
                    host,
                    bytes_max: request.bytes_max,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body,
        })
    }
}

/// Which addresses a client may reach.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// Public and listed ones.
    Allowed,
    /// Listed ones.
    Listed,
}

impl Reach {
    fn allows(self, address: IpAddr, allow: &[Network]) -> bool {
        match self {
            Self::Allowed => is_allowed(address, allow),
            Self::Listed => is_listed(address, allow),
        }
    }
}

/// Resolves names to the addresses that may be reached, and to no others.
struct Resolver {
    allow: Arc<[Network]>,
    reach: Reach,
}

/// Every address of a name is forbidden.
#[derive(Debug, thiserror::Error)]
#[error("no address of the name may be reached")]
struct AllForbidden;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allow, reach) = (Arc::clone(&self.allow), self.reach);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> = found
                .into_iter()
                .filter(|address| reach.allows(address.ip(), &allow))
                .collect();
            if allowed.is_empty() {
                return Err(AllForbidden.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn host_of(url: &Url) -> Result<String, OutboundError> {
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) => Ok(host.to_owned()),
        _ => Err(OutboundError::Url),
    }
}

/// The address in a URL that names one.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok()
}

fn failure(host: &str, error: &reqwest::Error) -> OutboundError {
    let host = host.to_owned();
    let mut source = error.source();
    let mut reason = error.to_string();
    while let Some(cause) = source {
        if cause.is::<AllForbidden>() {
            return OutboundError::Forbidden { host };
        }
        reason = cause.to_string();
        source = cause.source();
    }
    if error.is_timeout() {
        OutboundError::Timeout { host }
    } else {
        OutboundError::Unreachable { host, reason }
    }
}

#[cfg(test)]
pub(crate) mod tests;
