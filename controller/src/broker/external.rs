//! Any MQTT 5 broker as the pipe, by configuration: Mosquitto, EMQX, VerneMQ,
//! HiveMQ, RabbitMQ 4.
//!
//! Needs nothing of the broker but TLS, QoS 1 and access rules: a node may
//! publish below its own `up` and read its own `down` and `all`, the controller
//! may read every `up`. No retained messages, no stored sessions. The broker does
//! not say who published, so a delivery's sender is unknown; the envelope's
//! signature tells.
//!
//! The client and its event loop are made anew for every connection: what they
//! would carry over is nothing that must arrive, and a stuck reconnect of the
//! library cannot outlive it. While the broker is away publishes are shed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use protocol::id::{FleetId, NodeId};
use protocol::limits;
use protocol::topic::{Topic, up_filter};
use ring::rand::{SecureRandom as _, SystemRandom};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::SubscribeReasonCode;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, IncomingPacketSizeLimit, MqttOptions, PublishOptions,
    TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::{
    Counters, DELIVERY_WAIT_MAX, Deliveries, Delivery, Intake, Outgoing, Pipe, PipeCounts,
    PipeState, PublishError,
};

/// The first wait after a lost connection; doubles up to [`RETRY_MAX`], and half
/// of each is random.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// The longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A connection that lasted this long resets the wait.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Time for the TCP, TLS and MQTT handshakes together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds without a packet before a ping is sent.
const KEEP_ALIVE_S: u16 = 15;

/// Publishes waiting for the event loop. When it is full, a publish waits for
/// half a second and is then shed.
const REQUESTS_MAX: usize = 1024;

/// Publishes to the broker that wait for their PubAck.
const INFLIGHT_MAX: u16 = 1024;

/// Publishes that the broker may send before our PubAck.
const RECEIVE_MAX: u16 = 4096;

/// The port that IANA names for MQTT over TLS.
const MQTTS_PORT: u16 = 8883;

/// Where the broker is, and how to log in.
#[derive(Clone)]
pub struct ExternalConfig {
    /// The fleet whose topics are used.
    pub fleet: FleetId,
    /// Where it listens.
    pub address: ExternalAddress,
    /// TLS with the broker's CA and, usually, a client certificate.
    pub tls: Arc<ClientConfig>,
    /// User name and password, for brokers that want them.
    pub credentials: Option<(String, String)>,
}

/// Where an external broker listens. TLS in both cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalAddress {
    /// MQTT over TLS.
    Mqtts {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// MQTT over WebSocket over TLS: `wss://host:port/path`.
    Wss(String),
}

/// A broker's URL that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not mqtts://host[:port] or wss://host[:port]/path")]
pub struct ParseAddressError {
    url: String,
}

impl std::str::FromStr for ExternalAddress {
    type Err = ParseAddressError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseAddressError {
            url: url.to_owned(),
        };
        if url.starts_with("wss://") && url.len() > "wss://".len() {
            return Ok(Self::Wss(url.to_owned()));
        }
        let rest = url.strip_prefix("mqtts://").ok_or_else(refuse)?;
        let rest = rest.trim_end_matches('/');
        // An IPv6 address stands in brackets in a URL, and bare everywhere else.
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(refuse)?;
                (host, after.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(refuse());
        }
        Ok(Self::Mqtts {
            host: host.to_owned(),
            port: match port {
                Some(port) => port.parse().map_err(|_| refuse())?,
                None => MQTTS_PORT,
            },
        })
    }
}

/// A prepared pipe, whose [`ExternalBroker::run`] has still to be driven.
pub struct ExternalBroker {
    config: ExternalConfig,
    pipe: Arc<ExternalPipe>,
    deliveries: Intake,
}

/// The sending half.
pub struct ExternalPipe {
    fleet: FleetId,
    counters: Counters,
    /// The client of the connection that is up; none while there is none.
    client: Mutex<Option<AsyncClient>>,
}

/// Why a connection to the broker ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the client's options are refused: {0}")]
    Options(String),
    #[error("connection to the broker ended")]
    Connection(#[source] Box<rumqttc::ConnectionError>),
    #[error("the broker refused the subscription: {0}")]
    Subscription(String),
    #[error("the uplink has stopped")]
    Closed,
}

impl ExternalBroker {
    /// Prepares the pipe. Nothing is connected before [`ExternalBroker::run`].
    #[must_use]
    pub fn new(config: ExternalConfig) -> (Self, Deliveries) {
        let (sender, deliveries) = Deliveries::channel();
        let pipe = Arc::new(ExternalPipe {
            fleet: config.fleet,
            counters: Counters::default(),
            client: Mutex::default(),
        });
        let broker = Self {
            config,
            pipe,
            deliveries: sender,
        };
        (broker, deliveries)
    }

    /// The sending half.
    #[must_use]
    pub fn pipe(&self) -> Arc<ExternalPipe> {
        Arc::clone(&self.pipe)
    }

    /// Keeps a connection to the broker until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut wait = RETRY_MIN;
        loop {
            let started = tokio::time::Instant::now();
            // Dropping the future drops client and event loop with it.
            let error = tokio::select! {
                () = cancel.cancelled() => break,
                error = self.connection() => error,
            };
            self.pipe.set_client(None);
            if matches!(error, LinkError::Closed) {
                break;
            }
            if started.elapsed() > STABLE_AFTER {
                wait = RETRY_MIN;
            }
            let pause = jittered(wait);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                retry_in_ms = pause.as_millis(),
                "the broker is not connected"
            );
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
        self.pipe.set_client(None);
    }

    /// One connection, from its start to its end.
    async fn connection(&self) -> LinkError {
        let (client, mut events) = match self.client() {
            Ok(pair) => pair,
            Err(error) => return error,
        };
        loop {
            let event = match events.poll().await {
                Ok(event) => event,
                Err(error) => return LinkError::Connection(Box::new(error)),
            };
            let Event::Incoming(incoming) = event else {
                continue;
            };
            if let Err(error) = self.take(&client, incoming).await {
                return error;
            }
        }
    }

    async fn take(&self, client: &AsyncClient, incoming: Incoming) -> Result<(), LinkError> {
        if let Incoming::Publish(publish) = incoming {
            self.deliver(&publish.topic, publish.payload.to_vec()).await
        } else if let Incoming::ConnAck(_) = incoming {
            client
                .try_subscribe(up_filter(self.config.fleet), QoS::AtLeastOnce)
                .map_err(|error| LinkError::Subscription(error.to_string()))
        } else if let Incoming::SubAck(ack) = incoming {
            match ack.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => {
                    self.pipe.set_client(Some(client.clone()));
                    tracing::info!(address = ?self.config.address, "the broker is connected");
                    Ok(())
                }
                other => Err(LinkError::Subscription(format!("{other:?}"))),
            }
        } else {
            Ok(())
        }
    }

    async fn deliver(&self, topic: &[u8], payload: Vec<u8>) -> Result<(), LinkError> {
        let counters = &self.pipe.counters;
        let own = std::str::from_utf8(topic)
            .ok()
            .and_then(|text| Topic::parse(text).ok())
            .filter(|(fleet, topic)| {
                *fleet == self.config.fleet && matches!(topic, Topic::Session(_) | Topic::Up(..))
            });
        let Some((_, topic)) = own else {
            // The broker let something through that is nobody's to send.
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let delivery = Delivery {
            topic,
            payload,
            sender: None,
        };
        let sent = tokio::time::timeout(DELIVERY_WAIT_MAX, self.deliveries.send(delivery)).await;
        match sent {
            Ok(Ok(())) => counters.delivered.fetch_add(1, Ordering::Relaxed),
            Ok(Err(_)) => return Err(LinkError::Closed),
            Err(_) => counters.shed.fetch_add(1, Ordering::Relaxed),
        };
        Ok(())
    }

    fn client(&self) -> Result<(AsyncClient, EventLoop), LinkError> {
        let packet_bytes_max = u32::try_from(limits::PACKET_BYTES_MAX).unwrap_or(u32::MAX);
        let id = format!("flotilla-controller-{}", self.config.fleet);
        let tls = TlsConfiguration::Rustls(Arc::clone(&self.config.tls));
        let mut options = match &self.config.address {
            ExternalAddress::Mqtts { host, port } => {
                let mut options = MqttOptions::new(id, (host.as_str(), *port));
                options.set_transport(Transport::tls_with_config(tls));
                options
            }
            ExternalAddress::Wss(url) => MqttOptions::websocket_with_tls_config(id, url, tls)
                .map_err(|error| LinkError::Options(error.to_string()))?,
        };
        options
            .set_keep_alive(KEEP_ALIVE_S)
            .set_clean_start(true)
            .set_session_expiry_interval(Some(0))
            .set_connect_timeout(CONNECT_TIMEOUT)
            .set_receive_maximum(Some(RECEIVE_MAX))
            .set_max_packet_size(Some(packet_bytes_max))
            .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(packet_bytes_max))
            .set_outgoing_inflight_upper_limit(INFLIGHT_MAX);
        if let Some((user, password)) = &self.config.credentials {
            options.set_credentials(user.clone(), password.clone());
        }
        AsyncClient::builder(options)
            .capacity(REQUESTS_MAX)
            .try_build()
            .map_err(|error| LinkError::Options(error.to_string()))
    }
}

impl ExternalPipe {
    fn lock(&self) -> MutexGuard<'_, Option<AsyncClient>> {
        // Only ever replaced whole.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_client(&self, client: Option<AsyncClient>) {
        *self.lock() = client;
    }
}

impl Pipe for ExternalPipe {
    fn publish(&self, outgoing: Outgoing) -> BoxFuture<'_, Result<(), PublishError>> {
        async move {
            let client = self.lock().clone().ok_or(PublishError::Down)?;
            let topic = outgoing.topic.print(self.fleet);
            let publish = client.publish(
                topic,
                outgoing.payload,
                PublishOptions::new(QoS::AtLeastOnce),
            );
            match tokio::time::timeout(DELIVERY_WAIT_MAX, publish).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(PublishError::Down),
            }
        }
        .boxed()
    }

    fn disconnect(&self, _node: NodeId) {}

    fn state(&self) -> PipeState {
        if self.lock().is_some() {
            PipeState::Up
        } else {
            PipeState::Down
        }
    }

    fn counts(&self) -> PipeCounts {
        self.counters.read()
    }
}

/// Between half of a wait and all of it.
fn jittered(wait: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without random bytes the wait is only less spread.
    let random = match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX,
    };
    let half = wait / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
