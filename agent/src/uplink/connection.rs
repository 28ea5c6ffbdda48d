//! One connection to a broker: a client, and the task that polls its event loop.
//!
//! The settings are those that were measured: a clean session, 16 publishes in
//! flight (the default table takes 14 MB), no topic aliases, QoS 1.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::{FleetId, NodeId};
use protocol::limits::PACKET_BYTES_MAX;
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, Incoming, IncomingPacketSizeLimit, MqttOptions,
    OptionError, PubAckReason, PublishOptions, QoS, SessionMode, StateError, SubscribeFilter,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use rumqttc::{Broker as MqttBroker, Proxy as MqttProxy, ProxyAuth, ProxyType};
use rustls::{AlertDescription, ClientConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Password, Target};
use crate::config::{Broker, Proxy};
use crate::node::task::Outgoing;

/// Publishes in flight. The client's own default preallocates some 14 MB.
const IN_FLIGHT_MAX: u16 = 16;

/// Requests that wait for the event loop; any more are dropped, and the core sends
/// again what they carried.
const REQUESTS_MAX: usize = 64;

/// Messages that wait for the core. When full, the event loop waits, and with it
/// the broker.
const EVENTS_MAX: usize = 32;

/// Seconds between pings on an idle connection; heartbeats come more often.
const KEEP_ALIVE_S: u16 = 60;

/// TCP, proxy, TLS and MQTT handshakes together.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// What a connection tells.
pub(super) enum Event {
    /// Both subscriptions are granted.
    Ready,
    /// A message came in.
    Message {
        /// Its topic.
        topic: String,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// It is over.
    Ended(String),
    /// It is over, because one end did not believe the other's certificate.
    Distrusted(String, Distrust),
}

/// Whose certificate is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    /// The broker's, by us.
    OfBroker,
    /// Ours, by the broker.
    OfNode,
}

/// One connection.
pub(super) struct Connection {
    client: AsyncClient,
    events: mpsc::Receiver<Event>,
    poll: JoinHandle<()>,
    dropped: u64,
}

/// A connection that cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("the broker's address is unusable")]
    Address(#[source] OptionError),
    #[error("the client's options are unusable: {0}")]
    Options(String),
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(
        node: NodeId,
        target: &Target,
        broker: &Broker,
        tls: Arc<ClientConfig>,
        topics: [String; 2],
    ) -> Result<Self, OpenError> {
        let options = options(node, target, broker, tls)?;
        let (client, event_loop) = AsyncClient::builder(options)
            .capacity(REQUESTS_MAX)
            .try_build()
            .map_err(|error| OpenError::Options(error.to_string()))?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let poll =
            crate::supervisor::spawn("mqtt", poll(event_loop, client.clone(), topics, sender));
        Ok(Self {
            client,
            events,
            poll,
            dropped: 0,
        })
    }

    /// What happens next. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        self.events
            .recv()
            .await
            .unwrap_or_else(|| Event::Ended("the client's task ended".to_owned()))
    }

    /// Hands an envelope to the client, or drops it when the client has no room.
    pub(super) fn publish(&mut self, fleet: FleetId, outgoing: Outgoing) {
        let topic = outgoing.topic.print(fleet);
        let sent = self
            .client
            .try_publish(topic, outgoing.bytes, PublishOptions::at_least_once());
        if let Err(error) = sent {
            self.dropped += 1;
            tracing::debug!(%error, dropped = self.dropped, "an envelope was dropped");
        }
    }

    /// Sends what is queued and DISCONNECT, and waits at most this long for it.
    pub(super) async fn goodbye(&mut self, most: Duration) {
        if self.client.try_disconnect_with_timeout(most).is_ok() {
            // The event loop ends by itself once the packet is out.
            let ended = tokio::time::timeout(most, async {
                while !matches!(self.next().await, Event::Ended(_) | Event::Distrusted(..)) {}
            });
            if ended.await.is_err() {
                tracing::debug!("the broker did not read our goodbye");
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

fn options(
    node: NodeId,
    target: &Target,
    broker: &Broker,
    tls: Arc<ClientConfig>,
) -> Result<MqttOptions, OpenError> {
    let tls = TlsConfiguration::Rustls(tls);
    let id = node.to_string();
    let mut options = match broker {
        Broker::Tls { host, port } => {
            let mut options = MqttOptions::new(id, MqttBroker::tcp(host.clone(), *port));
            options.set_transport(Transport::tls_with_config(tls));
            options
        }
        Broker::WebSocket { .. } => {
            MqttOptions::websocket_with_tls_config(id, broker.to_string(), tls)
                .map_err(OpenError::Address)?
        }
    };
    options.set_session_mode(SessionMode::Clean);
    options.set_keep_alive(KEEP_ALIVE_S);
    options.set_connect_timeout(CONNECT_WITHIN);
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
    let packet = u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX);
    options.set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(packet));
    if let Some((proxy, password)) = &target.proxy {
        options.set_proxy(through(proxy, password.as_ref()));
    } else if let Broker::Tls { host, port } | Broker::WebSocket { host, port, .. } = broker
        && host.contains(':')
    {
        // The client joins host and port with a colon, which IPv6 does not survive.
        let address = format!("[{host}]:{port}");
        options.set_socket_connector(move |_, network| {
            let address = address.clone();
            async move { rumqttc::default_socket_connect(address, network).await }
        });
    }
    Ok(options)
}

fn through(proxy: &Proxy, password: Option<&Password>) -> MqttProxy {
    let auth = match (&proxy.login, password) {
        (Some((user, _)), Some(password)) => ProxyAuth::Basic {
            username: user.clone(),
            password: password.0.clone(),
        },
        (Some(_), None) | (None, _) => ProxyAuth::None,
    };
    MqttProxy {
        ty: ProxyType::Http,
        auth,
        addr: proxy.host.clone(),
        port: proxy.port,
    }
}

/// Polls until the connection ends. It is never cancelled but by dropping the
/// whole event loop with it: a poll that is cancelled while it connects has been
/// seen to report wrongly afterwards.
async fn poll(
    mut event_loop: EventLoop,
    client: AsyncClient,
    topics: [String; 2],
    events: mpsc::Sender<Event>,
) {
    let mut granted = BTreeSet::new();
    loop {
        let event = match event_loop.poll().await {
            Ok(event) => event,
            Err(error) => {
                let reason = explain(&error);
                let over = match distrust(&error) {
                    Some(distrust) => Event::Distrusted(reason, distrust),
                    None => Event::Ended(reason),
                };
                drop(events.send(over).await);
                return;
            }
        };
        let told = match event {
            rumqttc::Event::Incoming(packet) => incoming(packet, &client, &topics, &mut granted),
            rumqttc::Event::Outgoing(_) | rumqttc::Event::Auth(_) => None,
        };
        let Some(told) = told else {
            continue;
        };
        let over = matches!(told, Event::Ended(_));
        if events.send(told).await.is_err() || over {
            return;
        }
    }
}

fn incoming(
    packet: Incoming,
    client: &AsyncClient,
    topics: &[String; 2],
    granted: &mut BTreeSet<u16>,
) -> Option<Event> {
    match packet {
        Incoming::ConnAck(_) => {
            let filters = topics
                .iter()
                .map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
            client
                .try_subscribe_many(filters)
                .err()
                .map(|error| Event::Ended(format!("cannot subscribe: {error}")))
        }
        Incoming::SubAck(ack) => {
            let refused = ack
                .return_codes
                .iter()
                .find(|code| !matches!(code, SubscribeReasonCode::Success(_)));
            if let Some(code) = refused {
                return Some(Event::Ended(format!(
                    "a subscription was refused: {code:?}"
                )));
            }
            (granted.insert(ack.pkid) && granted.len() == 1).then_some(Event::Ready)
        }
        Incoming::Publish(publish) => {
            // A topic that is not UTF-8 is no topic of ours; the core counts it.
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            Some(Event::Message {
                topic,
                bytes: publish.payload.to_vec(),
            })
        }
        Incoming::PubAck(ack) => {
            if !matches!(
                ack.reason,
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers
            ) {
                tracing::debug!(reason = ?ack.reason, "the broker refused a publish");
            }
            None
        }
        Incoming::Disconnect(disconnect) => Some(Event::Ended(format!(
            "the broker closed the connection: {:?}",
            disconnect.reason_code
        ))),
        Incoming::Auth(_)
        | Incoming::Connect(..)
        | Incoming::PubRec(_)
        | Incoming::PubRel(_)
        | Incoming::PubComp(_)
        | Incoming::PingReq
        | Incoming::PingResp
        | Incoming::Subscribe(_)
        | Incoming::Unsubscribe(_)
        | Incoming::UnsubAck(_) => None,
    }
}

/// Whether a certificate is what an error is about, and whose.
fn distrust(error: &(dyn Error + 'static)) -> Option<Distrust> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return distrust_of(tls);
        }
        // Two of the errors on the way do not name what they wrap as their source.
        let wrapped: Option<&(dyn Error + 'static)> =
            if let Some(error) = error.downcast_ref::<io::Error>() {
                error.get_ref().map(|wrapped| wrapped as _)
            } else if let Some(StateError::Deserialization(wrapped)) = error.downcast_ref() {
                Some(wrapped)
            } else {
                None
            };
        if let Some(found) = wrapped.and_then(distrust) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn distrust_of(error: &rustls::Error) -> Option<Distrust> {
    if let rustls::Error::InvalidCertificate(_) = error {
        return Some(Distrust::OfBroker);
    }
    let rustls::Error::AlertReceived(alert) = error else {
        return None;
    };
    [
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::DecryptError,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ]
    .contains(alert)
    .then_some(Distrust::OfNode)
}

/// The client's errors name their causes in their own text.
fn explain(error: &ConnectionError) -> String {
    error.to_string()
}
