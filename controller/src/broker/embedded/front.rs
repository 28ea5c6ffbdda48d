//! The listeners that nodes connect to: TLS with a client certificate of the
//! fleet, then MQTT either bare or in WebSocket messages.
//!
//! A connection that is slow, silent or unknown costs one task until
//! [`HANDSHAKE_TIMEOUT`], and never delays another one. Past the limits a new
//! connection is closed at once; the node's backoff spreads the retries.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_tungstenite::WebSocketStream;
use async_tungstenite::bytes::{ByteReader, ByteWriter};
use async_tungstenite::tokio::{TokioAdapter, accept_hdr_async_with_config};
use async_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use async_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use protocol::id::FleetId;
use protocol::limits;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::seats::{Seat, Seats};
use crate::pki::certificate::NodeSubject;

/// TLS, and the WebSocket upgrade, must be done by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections in their TLS handshake at once. Each holds a socket and some
/// kilobytes, so this many stalled peers are harmless.
const HANDSHAKES_MAX: usize = 4096;

/// Bytes of the copy buffers of one connection, in each direction. Most messages
/// fit into one; there are ten thousand connections.
const COPY_BYTES: usize = 4096;

/// Loopback source addresses to rotate over. Each has its own 28,000 ports, so a
/// storm of reconnects is not starved by ports in TIME_WAIT.
const SOURCES: u8 = 64;

/// How a listener carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Mqtt,
    WebSocket,
}

/// Bounds shared by all listeners.
#[derive(Clone)]
pub(super) struct Limits {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Limits {
    pub(super) fn new(connections_max: usize) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        }
    }

    fn claim(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
        Some((connection, handshake))
    }
}

/// One listener.
pub(super) struct Front {
    pub(super) fleet: FleetId,
    pub(super) framing: Framing,
    pub(super) listener: TcpListener,
    pub(super) inner: SocketAddr,
    pub(super) tls: watch::Receiver<Arc<ServerConfig>>,
    pub(super) seats: Arc<Seats>,
    pub(super) limits: Limits,
}

/// Why a connection ended before its session began. For the log only: peers
/// learn nothing.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    #[error("TLS handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("the client certificate names no node of this fleet")]
    Identity,
    #[error("the node is not admitted")]
    NotAdmitted,
    #[error("WebSocket upgrade failed: {0}")]
    WebSocket(String),
    #[error("cannot reach the inner broker")]
    Inner(#[source] std::io::Error),
}

impl Front {
    pub(super) async fn run(self, cancel: CancellationToken) {
        let front = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            // Every arm is cancel-safe: accept and join_next lose nothing.
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = front.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let Some(permits) = front.limits.claim() else {
                        tracing::debug!(%peer, "closed a connection past the limit");
                        continue;
                    };
                    let front = Arc::clone(&front);
                    connections.spawn(async move {
                        if let Err(error) = front.serve(socket, permits).await {
                            tracing::debug!(%peer, error = ?error, "a connection was refused");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to close.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.shutdown().await;
    }

    async fn serve(
        &self,
        socket: TcpStream,
        (connection, handshake): (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Result<(), ConnectionError> {
        // Latency only: commands are small.
        socket.set_nodelay(true).map_err(ConnectionError::Tls)?;
        let config = Arc::clone(&self.tls.borrow());
        let accept = TlsAcceptor::from(config).accept(socket);
        let stream = timeout(HANDSHAKE_TIMEOUT, accept)
            .await
            .map_err(|_| ConnectionError::Timeout)?
            .map_err(ConnectionError::Tls)?;
        let subject = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|leaf| NodeSubject::read(leaf).ok())
            .filter(|subject| subject.fleet == self.fleet)
            .ok_or(ConnectionError::Identity)?;
        let mut seat = self
            .seats
            .take(subject.node)
            .ok_or(ConnectionError::NotAdmitted)?;
        let closed = seat.closed();
        tokio::select! {
            () = closed.cancelled() => {
                tracing::info!(node = %seat.node(), "closed the connection of a node");
                Ok(())
            }
            result = self.relay(stream, &mut seat, handshake) => {
                drop(connection);
                result
            }
        }
    }

    /// Joins the peer to a new loopback connection of its own until either ends.
    async fn relay<S>(
        &self,
        stream: S,
        seat: &mut Seat,
        handshake: OwnedSemaphorePermit,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.framing {
            Framing::Mqtt => {
                let inner = self.connect_inner(seat).await?;
                drop(handshake);
                copy(stream, inner).await;
            }
            Framing::WebSocket => {
                let socket = timeout(HANDSHAKE_TIMEOUT, upgrade(stream))
                    .await
                    .map_err(|_| ConnectionError::Timeout)??;
                let inner = self.connect_inner(seat).await?;
                drop(handshake);
                let (sender, receiver) = socket.split();
                copy(
                    tokio::io::join(ByteReader::new(receiver), ByteWriter::new(sender)),
                    inner,
                )
                .await;
            }
        }
        Ok(())
    }

    async fn connect_inner(&self, seat: &mut Seat) -> Result<TcpStream, ConnectionError> {
        let inner = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.set_nodelay(true)?;
            socket.bind(SocketAddr::new(next_source(), 0))?;
            let stream = socket.connect(self.inner).await?;
            seat.bind(stream.local_addr()?);
            Ok(stream)
        };
        inner.await.map_err(ConnectionError::Inner)
    }
}

fn next_source() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let turn = NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES;
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, turn + 1))
}

/// Copies both ways; how it ends does not matter to either side's keeping.
async fn copy<S>(mut outer: S, mut inner: TcpStream)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) =
        copy_bidirectional_with_sizes(&mut outer, &mut inner, COPY_BYTES, COPY_BYTES).await
    {
        tracing::trace!(%error, "a connection ended");
    }
}

async fn upgrade<S>(stream: S) -> Result<WebSocketStream<TokioAdapter<S>>, ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The default limits are 64 MiB, and its read buffer alone 128 KiB.
    let config = WebSocketConfig::default()
        .read_buffer_size(COPY_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * limits::PACKET_BYTES_MAX)
        .max_message_size(Some(limits::PACKET_BYTES_MAX))
        .max_frame_size(Some(limits::PACKET_BYTES_MAX));
    accept_hdr_async_with_config(stream, speaks_mqtt, Some(config))
        .await
        .map_err(|error| ConnectionError::WebSocket(error.to_string()))
}

/// RFC 6455 subprotocol `mqtt` (MQTT 5, section 6).
#[expect(
    clippy::result_large_err,
    reason = "the signature is the WebSocket library's callback"
)]
fn speaks_mqtt(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == "mqtt");
    if offered {
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("mqtt"),
        );
        Ok(response)
    } else {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        Err(refusal)
    }
}
