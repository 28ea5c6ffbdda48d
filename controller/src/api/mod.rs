//! The HTTPS face: REST for operators and programs, joining and renewing for
//! nodes, health and metrics.
//!
//! Owns the listener, authentication, rate limits, and the one mapping from
//! failures to HTTP. **Invariant:** faces decide nothing. Every handler takes a
//! [`Who`](crate::operation::Who), which only a valid key gives, and calls one operation,
//! where permission is checked. It runs on a runtime of its own, so that health
//! is answered while the rest is busy.

mod extract;
mod guard;
pub mod health;
mod listen;
pub mod node;
pub mod problem;
mod rate;
pub mod rest;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
use protocol::id::RequestId;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::ApiConfig;
use crate::operation::Operations;
use crate::telemetry::Metrics;
use health::Health;
use rate::Rates;

/// What the handlers share.
pub struct Face {
    pub(crate) operations: Arc<Operations>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    pub(crate) rates: Rates,
    pub(crate) limits: BodyLimits,
    pub(crate) metrics_anonymous: bool,
    pub(crate) stop: CancellationToken,
    random: SystemRandom,
}

/// Bounds of a request's body.
#[derive(Debug, Clone)]
pub(crate) struct BodyLimits {
    pub(crate) body_bytes_max: usize,
    pub(crate) body_timeout: Duration,
}

impl Face {
    /// A face of `operations`.
    #[must_use]
    pub fn new(
        operations: Arc<Operations>,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        config: &ApiConfig,
        stop: CancellationToken,
    ) -> Self {
        Self {
            operations,
            metrics,
            health,
            rates: Rates::new(
                config.key_requests_per_minute,
                config.address_requests_per_minute,
            ),
            limits: BodyLimits {
                body_bytes_max: usize::try_from(config.body_bytes_max).unwrap_or(usize::MAX),
                body_timeout: config.body_timeout,
            },
            metrics_anonymous: config.metrics_anonymous,
            stop,
            random: SystemRandom::new(),
        }
    }

    /// A new id for a request. Without randomness, which a running kernel always
    /// has, the id is nil and only harder to find in the log.
    pub(crate) fn request_id(&self) -> RequestId {
        let mut bytes = [0; protocol::id::ID_BYTES];
        if self.random.fill(&mut bytes).is_err() {
            tracing::error!("no random source");
        }
        RequestId::from_bytes(bytes)
    }
}

/// Serving the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeApiError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The API's own runtime could not be made.
    #[error("cannot start the API's runtime")]
    Runtime(#[source] std::io::Error),
    /// The API's thread ended by a panic.
    #[error("the API's thread panicked")]
    Panicked,
}

/// A listener that is bound and not yet served.
pub struct Bound {
    listener: std::net::TcpListener,
    /// The address that it really has.
    pub address: SocketAddr,
}

/// Binds the API's address.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> Result<Bound, ServeApiError> {
    let refuse = |source| ServeApiError::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(refuse)?;
    listener.set_nonblocking(true).map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    Ok(Bound { listener, address })
}

/// The routes, with what every request passes around them. `nodes` are the
/// routes for nodes.
pub fn router(face: &Arc<Face>, nodes: Router) -> Router {
    rest::routes(face)
        .merge(nodes)
        .fallback(rest::no_route)
        .method_not_allowed_fallback(rest::no_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(face),
            guard::guard,
        ))
}

/// Serves until `stop`, on a thread and runtime of its own.
///
/// # Errors
/// See [`ServeApiError`].
pub async fn serve(
    bound: Bound,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    config: &ApiConfig,
    stop: CancellationToken,
) -> Result<(), ServeApiError> {
    let limits = listen::Limits {
        handshake: config.handshake_timeout,
        head: config.header_timeout,
        connections_max: config.connections_max,
        per_address_max: config.connections_per_address_max,
    };
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            let outcome = run(bound, tls, router, limits, stop);
            if done.send(outcome).is_err() {
                tracing::debug!("the API ended after the controller stopped waiting for it");
            }
        })
        .map_err(ServeApiError::Runtime)?;
    ended.await.unwrap_or(Err(ServeApiError::Panicked))
}

fn run(
    bound: Bound,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    limits: listen::Limits,
    stop: CancellationToken,
) -> Result<(), ServeApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeApiError::Runtime)?;
    let address = bound.address;
    runtime.block_on(async {
        let listener = TcpListener::from_std(bound.listener)
            .map_err(|source| ServeApiError::Listen { address, source })?;
        listen::serve(listener, tls, router, limits, stop).await;
        Ok(())
    })
}
