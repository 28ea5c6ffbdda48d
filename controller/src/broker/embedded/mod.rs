//! The embedded broker: rmqtt on a loopback socket, and in front of it the
//! listeners that nodes connect to.
//!
//! rmqtt reads its certificate once, from files, with a cryptographic provider
//! that this project does not ship; so TLS and WebSocket end in `front`, which
//! knows who connects, and passes the plain MQTT bytes on over loopback. rmqtt
//! learns the identity from the source address of that loopback connection,
//! which the front registers first: a process on this machine that connects to
//! the inner port by itself has no identity and is refused.
//!
//! **Invariant:** every MQTT session belongs to the node that its client
//! certificate names, publishes only below that node's own `up` topics, and
//! reads only its own `down` and `all`.
//!
//! Renewing the server's certificate touches no connection: the next handshake
//! uses the new one.

mod front;
mod rules;
mod seats;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use protocol::id::{FleetId, NodeId};
use protocol::limits;
use protocol::topic::Topic;
use rmqtt::codec::types::Publish as WirePublish;
use rmqtt::context::ServerContext;
use rmqtt::server::MqttServer;
use rmqtt::session::SessionState;
use rmqtt::types::{ClientId, From as Origin, Id as ClientIdentity, Publish, QoS};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Counters, Deliveries, Gate, Outgoing, Pipe, PipeCounts, PipeState, PublishError};
use seats::Seats;

/// Messages of one session that wait for their PubAck; the rest waits in its
/// queue.
const INFLIGHT_MAX: u16 = 16;

/// Messages that one session's queue holds before the oldest is shed. A node
/// that is this far behind is repaired by its next heartbeat.
const SESSION_QUEUE_MAX: usize = 512;

/// Connections that the kernel holds before they are accepted: a reconnect storm
/// of a whole fleet arrives within seconds.
const BACKLOG: u32 = 4096;

/// Handshakes that rmqtt works on at once.
const INNER_HANDSHAKES_MAX: usize = 1024;

/// Time for a client to say CONNECT after its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to write one packet to a client before it counts as gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What to listen on.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The fleet that certificates must name as their organisation.
    pub fleet: FleetId,
    /// Addresses for MQTT over TLS.
    pub mqtt: Vec<SocketAddr>,
    /// Addresses for MQTT over WebSocket over TLS.
    pub websocket: Vec<SocketAddr>,
    /// Open connections from nodes; more are closed at once.
    pub connections_max: usize,
}

/// The embedded broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartBrokerError {
    /// An address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// rmqtt did not start.
    #[error("cannot start the inner broker: {reason}")]
    Inner {
        /// rmqtt's reason.
        reason: String,
    },
}

/// A started broker, whose [`EmbeddedBroker::run`] has still to be driven.
pub struct EmbeddedBroker {
    pipe: Arc<EmbeddedPipe>,
    server: MqttServer,
    fronts: Vec<front::Front>,
    // Dropping it would leave the rules registered but no way to stop them.
    rules: Box<dyn rmqtt::hook::Register>,
}

/// The sending half of the embedded broker.
pub struct EmbeddedPipe {
    fleet: FleetId,
    context: ServerContext,
    origin: Origin,
    seats: Arc<Seats>,
    counters: Arc<Counters>,
}

/// Where the broker listens, port 0 resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundAddresses {
    /// MQTT over TLS.
    pub mqtt: Vec<SocketAddr>,
    /// MQTT over WebSocket over TLS.
    pub websocket: Vec<SocketAddr>,
}

impl EmbeddedBroker {
    /// Binds every address and prepares the broker. Nothing is accepted before
    /// [`EmbeddedBroker::run`].
    ///
    /// # Errors
    /// When an address cannot be bound or rmqtt does not start.
    pub async fn start(
        config: EmbeddedConfig,
        tls: watch::Receiver<Arc<ServerConfig>>,
        gate: Arc<dyn Gate>,
    ) -> Result<(Self, Deliveries), StartBrokerError> {
        let (deliveries_in, deliveries) = Deliveries::channel();
        let counters = Arc::new(Counters::default());
        let seats = Arc::new(Seats::new(gate, Arc::clone(&counters)));

        let context = ServerContext::new()
            .busy_check_enable(false)
            .mqtt_max_sessions(isize::try_from(config.connections_max).unwrap_or(isize::MAX))
            .build()
            .await;
        let rules = rules::install(
            &context,
            rules::Rules {
                fleet: config.fleet,
                seats: Arc::clone(&seats),
                counters: Arc::clone(&counters),
                deliveries: deliveries_in,
            },
        )
        .await;
        let (server, inner) = inner_server(&context, &config)?;

        let connections = front::Limits::new(config.connections_max);
        let mut fronts = Vec::new();
        let mqtt = config.mqtt.iter().map(|at| (at, front::Framing::Mqtt));
        let websocket = config
            .websocket
            .iter()
            .map(|at| (at, front::Framing::WebSocket));
        for (address, framing) in mqtt.chain(websocket) {
            let listener = listen(*address).map_err(|source| StartBrokerError::Listen {
                address: *address,
                source,
            })?;
            fronts.push(front::Front {
                fleet: config.fleet,
                framing,
                listener,
                inner,
                tls: tls.clone(),
                seats: Arc::clone(&seats),
                limits: connections.clone(),
            });
        }
        let origin = Origin::from_system(ClientIdentity::new(
            0,
            0,
            None,
            None,
            ClientId::from_static("controller"),
            None,
        ));
        let pipe = Arc::new(EmbeddedPipe {
            fleet: config.fleet,
            context,
            origin,
            seats,
            counters,
        });
        Ok((
            Self {
                pipe,
                server,
                fronts,
                rules,
            },
            deliveries,
        ))
    }

    /// The sending half.
    #[must_use]
    pub fn pipe(&self) -> Arc<EmbeddedPipe> {
        Arc::clone(&self.pipe)
    }

    /// The addresses listened on, in the configuration's order.
    #[must_use]
    pub fn addresses(&self) -> BoundAddresses {
        let of = |framing| {
            self.fronts
                .iter()
                .filter(|front| front.framing == framing)
                .filter_map(|front| front.listener.local_addr().ok())
                .collect()
        };
        BoundAddresses {
            mqtt: of(front::Framing::Mqtt),
            websocket: of(front::Framing::WebSocket),
        }
    }

    /// Accepts and serves connections until cancelled, then closes them all.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            pipe: _pipe,
            server,
            fronts,
            rules,
        } = self;
        let fronts = fronts
            .into_iter()
            .map(|front| front.run(cancel.clone()).boxed())
            .collect::<Vec<_>>();
        tokio::select! {
            // Its listener loops end only with their future.
            result = server.run() => {
                if let Err(error) = result {
                    tracing::error!(%error, "the inner broker stopped");
                }
            }
            _ = futures_util::future::join_all(fronts) => {}
        }
        rules.stop().await;
    }
}

/// Binds rmqtt's plain listener to a free loopback port.
fn inner_server(
    context: &ServerContext,
    config: &EmbeddedConfig,
) -> Result<(MqttServer, SocketAddr), StartBrokerError> {
    let fault = |error: rmqtt::Error| StartBrokerError::Inner {
        reason: format!("{error:#}"),
    };
    let packet_bytes_max = u32::try_from(limits::PACKET_BYTES_MAX).unwrap_or(u32::MAX);
    let listener = rmqtt::net::Builder::new()
        .name("flotilla")
        .laddr(SocketAddr::from(([127, 0, 0, 1], 0)))
        .backlog(i32::try_from(BACKLOG).unwrap_or(i32::MAX))
        .nodelay(true)
        .max_connections(config.connections_max)
        .max_handshaking_limit(INNER_HANDSHAKES_MAX)
        .max_packet_size(packet_bytes_max)
        .allow_anonymous(false)
        .min_keepalive(5)
        .max_keepalive(600)
        .allow_zero_keepalive(false)
        .max_inflight(NonZeroU16::new(INFLIGHT_MAX).unwrap_or(NonZeroU16::MIN))
        .handshake_timeout(CONNECT_TIMEOUT)
        .send_timeout(SEND_TIMEOUT)
        .max_mqueue_len(SESSION_QUEUE_MAX)
        .max_clientid_len(protocol::id::ID_CHARS)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_topic_levels(8)
        // Nothing is kept for a node that is away.
        .session_expiry_interval(Duration::ZERO)
        .max_session_expiry_interval(Duration::from_millis(1))
        .message_expiry_interval(Duration::ZERO)
        .max_subscriptions(4)
        .bind()
        .and_then(rmqtt::net::Listener::tcp)
        .map_err(fault)?;
    let inner = listener.local_addr().map_err(fault)?;
    let server = MqttServer::new(context.clone())
        .listener_by_id(listener, 1)
        .build();
    Ok((server, inner))
}

/// Binds a listener with a backlog that takes a reconnect storm.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // A restart must not wait for the kernel to forget old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Pipe for EmbeddedPipe {
    fn publish(&self, outgoing: Outgoing) -> BoxFuture<'_, Result<(), PublishError>> {
        async move {
            let mut publish = Publish::from(WirePublish {
                dup: false,
                retain: false,
                qos: QoS::AtLeastOnce,
                topic: outgoing.topic.print(self.fleet).into(),
                packet_id: None,
                payload: outgoing.payload.into(),
                properties: None,
            });
            // A node's client has the node's name, so its session is found without
            // a search among all subscriptions.
            if let Topic::Down(node) = outgoing.topic {
                publish = publish.target_clientid(ClientId::from(node.to_string()));
            }
            // No subscriber is not an error: the node is away.
            SessionState::forwards(&self.context, self.origin.clone(), publish, false, None)
                .await
                .map_err(|_| PublishError::Closed)
        }
        .boxed()
    }

    fn disconnect(&self, node: NodeId) {
        self.seats.close(node);
    }

    fn state(&self) -> PipeState {
        PipeState::Up
    }

    fn counts(&self) -> PipeCounts {
        self.counters.read()
    }
}
