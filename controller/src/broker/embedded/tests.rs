//! The embedded broker against real clients: identity, access rules, limits,
//! revocation, renewal of the certificate, WebSocket.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one kind of packet among all of MQTT's"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "certificates are made for the real clock, and tasks of a test have no supervisor"
)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use protocol::stream::Stream;
use protocol::time::{UnixMillis, millis};
use protocol::topic::Topic;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rumqttc::mqttbytes::QoS as ClientQos;
use rumqttc::mqttbytes::v5::{PubAckReason, SubscribeReasonCode};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, PublishOptions,
    TlsConfiguration, Transport,
};
use rustls_pki_types::pem::PemObject as _;
use tokio::time::timeout;

use super::*;
use crate::broker::Delivery;
use crate::pki::{Pki, PkiConfig};

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const PATIENCE: Duration = Duration::from_secs(10);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 10])
}

fn now() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    UnixMillis(millis(since))
}

#[derive(Default)]
struct Refusals(Mutex<BTreeSet<NodeId>>);

impl Gate for Refusals {
    fn admits(&self, node: NodeId) -> bool {
        !self.0.lock().unwrap().contains(&node)
    }
}

struct World {
    pki: Pki,
    pipe: Arc<EmbeddedPipe>,
    deliveries: Deliveries,
    addresses: BoundAddresses,
    inner: SocketAddr,
    refusals: Arc<Refusals>,
    cancel: CancellationToken,
    broker: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::with_server_certificate_of(now()).await
    }

    async fn with_server_certificate_of(issued_at: UnixMillis) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(
            PkiConfig {
                directory: directory.path().join("pki"),
                fleet: FLEET,
                hosts: vec![],
                server_life: Duration::from_secs(3600),
                node_life: Duration::from_secs(3600),
                rotation_overlap: Duration::from_secs(60),
            },
            issued_at,
        )
        .unwrap();
        let refusals = Arc::new(Refusals::default());
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (broker, deliveries) = EmbeddedBroker::start(
            EmbeddedConfig {
                fleet: FLEET,
                mqtt: vec![loopback],
                websocket: vec![loopback],
                connections_max: 100,
            },
            pki.mqtt_tls(),
            Arc::<Refusals>::clone(&refusals),
        )
        .await
        .unwrap();
        let cancel = CancellationToken::new();
        Self {
            pki,
            pipe: broker.pipe(),
            deliveries,
            addresses: broker.addresses(),
            inner: broker.fronts[0].inner,
            refusals,
            broker: tokio::spawn(broker.run(cancel.clone())),
            cancel,
            _directory: directory,
        }
    }

    /// The rustls configuration of a client with a certificate for `node`.
    fn client_tls(&self, node: NodeId) -> rustls::ClientConfig {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let certificate = self.pki.issue_node(&csr, node, now()).unwrap();
        let chain = vec![
            rustls_pki_types::CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap(),
        ];
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())
            .unwrap();
        self.tls_builder()
            .with_client_auth_cert(chain, key)
            .unwrap()
    }

    fn tls_builder(
        &self,
    ) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(
                rustls_pki_types::CertificateDer::from_pem_slice(
                    self.pki.authorities_pem().as_bytes(),
                )
                .unwrap(),
            )
            .unwrap();
        rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
    }

    fn options(&self, client_id: &str, tls: rustls::ClientConfig) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, ("localhost", self.addresses.mqtt[0].port()));
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::new(tls),
            )))
            .set_clean_start(true)
            .set_max_packet_size(Some(1 << 20));
        options
    }

    fn client(&self, node: NodeId) -> (AsyncClient, EventLoop) {
        AsyncClient::builder(self.options(&node.to_string(), self.client_tls(node))).build()
    }

    async fn connected(&self, node: NodeId) -> (AsyncClient, EventLoop) {
        let (client, mut events) = self.client(node);
        wait_for(&mut events, |incoming| {
            matches!(incoming, Incoming::ConnAck(_)).then_some(())
        })
        .await;
        (client, events)
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(PATIENCE, self.broker).await.unwrap().unwrap();
    }
}

/// Polls until `pick` takes a packet.
async fn wait_for<T>(events: &mut EventLoop, mut pick: impl FnMut(Incoming) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            if let Event::Incoming(incoming) = events.poll().await.unwrap()
                && let Some(found) = pick(incoming)
            {
                return found;
            }
        }
    })
    .await
    .unwrap()
}

/// Polls until the connection fails.
async fn failure(events: &mut EventLoop) -> ConnectionError {
    timeout(PATIENCE, async {
        loop {
            if let Err(error) = events.poll().await {
                return error;
            }
        }
    })
    .await
    .unwrap()
}

async fn subscription(
    client: &AsyncClient,
    events: &mut EventLoop,
    filter: &str,
) -> SubscribeReasonCode {
    client
        .subscribe(filter, ClientQos::AtLeastOnce)
        .await
        .unwrap();
    wait_for(events, |incoming| match incoming {
        Incoming::SubAck(ack) => Some(ack.return_codes[0]),
        _ => None,
    })
    .await
}

async fn publish(
    client: &AsyncClient,
    events: &mut EventLoop,
    topic: String,
    payload: Vec<u8>,
) -> PubAckReason {
    client
        .publish(topic, payload, PublishOptions::new(ClientQos::AtLeastOnce))
        .await
        .unwrap();
    wait_for(events, |incoming| match incoming {
        Incoming::PubAck(ack) => Some(ack.reason),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_node_publishes_below_its_own_up_and_reads_its_own_down_and_all() {
    let mut world = World::start().await;
    let (client, mut events) = world.connected(node(1)).await;
    for topic in [Topic::Down(node(1)), Topic::All] {
        let code = subscription(&client, &mut events, &topic.print(FLEET)).await;
        assert!(matches!(code, SubscribeReasonCode::Success(_)), "{code:?}");
    }

    let up = Topic::Up(node(1), Stream::Control);
    publish(&client, &mut events, up.print(FLEET), b"entry".to_vec()).await;
    let delivery = timeout(PATIENCE, world.deliveries.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        delivery,
        Delivery {
            topic: up,
            payload: b"entry".to_vec(),
            sender: Some(node(1)),
        }
    );

    for topic in [Topic::Down(node(1)), Topic::All] {
        let payload = b"order".to_vec();
        world
            .pipe
            .publish(Outgoing {
                topic,
                payload: payload.clone(),
            })
            .await
            .unwrap();
        let received = wait_for(&mut events, |incoming| match incoming {
            Incoming::Publish(publish) => Some(publish),
            _ => None,
        })
        .await;
        assert_eq!(received.topic, topic.print(FLEET).as_bytes());
        assert_eq!(received.payload, payload);
    }
    world.stop().await;
}

#[tokio::test]
async fn foreign_topics_are_refused() {
    let mut world = World::start().await;
    let (client, mut events) = world.connected(node(1)).await;
    let other_fleet = FleetId::from_bytes([8; 10]);
    for filter in [
        "#".to_owned(),
        "$SYS/#".to_owned(),
        Topic::Down(node(2)).print(FLEET),
        Topic::Down(node(1)).print(other_fleet),
        Topic::Session(node(1)).print(FLEET),
        format!("flotilla/1/{FLEET}/n/+/down"),
        format!("$share/g/flotilla/1/{FLEET}/n/{}/down", node(1)),
    ] {
        let code = subscription(&client, &mut events, &filter).await;
        assert!(
            !matches!(code, SubscribeReasonCode::Success(_)),
            "{filter}: {code:?}"
        );
    }
    for topic in [
        Topic::Session(node(2)).print(FLEET),
        Topic::Session(node(1)).print(other_fleet),
        Topic::Down(node(1)).print(FLEET),
        Topic::All.print(FLEET),
        "anything".to_owned(),
    ] {
        let reason = publish(&client, &mut events, topic.clone(), vec![1]).await;
        assert_eq!(reason, PubAckReason::NotAuthorized, "{topic}");
    }
    assert!(
        timeout(Duration::from_millis(100), world.deliveries.next())
            .await
            .is_err()
    );
    assert_eq!(world.pipe.counts().refused, 12);
    world.stop().await;
}

#[tokio::test]
async fn a_client_is_its_certificates_node_or_nobody() {
    let world = World::start().await;

    let (_client, mut events) =
        AsyncClient::builder(world.options(&node(2).to_string(), world.client_tls(node(1))))
            .build();
    let error = failure(&mut events).await;
    assert!(
        matches!(error, ConnectionError::ConnectionRefused(_)),
        "{error}"
    );

    let bare = world.tls_builder().with_no_client_auth();
    let (_client, mut events) =
        AsyncClient::builder(world.options(&node(1).to_string(), bare)).build();
    let error = failure(&mut events).await;
    assert!(
        !matches!(error, ConnectionError::ConnectionRefused(_)),
        "{error}"
    );

    let elsewhere = World::start().await;
    let foreign = world.options(&node(1).to_string(), {
        // Trusts this world's CA, but was certified by the other one.
        let mut tls = world.client_tls(node(1));
        tls.client_auth_cert_resolver = elsewhere.client_tls(node(1)).client_auth_cert_resolver;
        tls
    });
    let (_client, mut events) = AsyncClient::builder(foreign).build();
    failure(&mut events).await;

    elsewhere.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn wills_and_stored_sessions_are_refused() {
    let world = World::start().await;
    let mut with_will = world.options(&node(1).to_string(), world.client_tls(node(1)));
    with_will.set_last_will(rumqttc::LastWill::new(
        Topic::Down(node(2)).print(FLEET),
        "forged",
        ClientQos::AtLeastOnce,
        false,
        None,
    ));
    let mut stored = world.options(&node(1).to_string(), world.client_tls(node(1)));
    stored
        .set_clean_start(false)
        .set_session_expiry_interval(Some(u32::MAX));
    for options in [with_will, stored] {
        let (_client, mut events) = AsyncClient::builder(options).build();
        let error = failure(&mut events).await;
        assert!(
            matches!(error, ConnectionError::ConnectionRefused(_)),
            "{error}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn an_oversized_message_ends_its_own_connection_only() {
    let mut world = World::start().await;
    let (large, mut large_events) = world.connected(node(1)).await;
    let (small, mut small_events) = world.connected(node(2)).await;
    large
        .publish(
            Topic::Session(node(1)).print(FLEET),
            vec![0; 1000 * 1000],
            PublishOptions::new(ClientQos::AtLeastOnce),
        )
        .await
        .unwrap();
    failure(&mut large_events).await;
    let topic = Topic::Session(node(2));
    publish(&small, &mut small_events, topic.print(FLEET), vec![1]).await;
    let delivery = timeout(PATIENCE, world.deliveries.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(delivery.topic, topic);
    world.stop().await;
}

#[tokio::test]
async fn a_whole_envelope_passes() {
    let mut world = World::start().await;
    let (client, mut events) = world.connected(node(1)).await;
    let topic = Topic::Up(node(1), Stream::Backfill);
    let payload = vec![5; limits::ENVELOPE_BYTES_MAX];
    publish(&client, &mut events, topic.print(FLEET), payload.clone()).await;
    let delivery = timeout(PATIENCE, world.deliveries.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(delivery.payload, payload);
    world.stop().await;
}

#[tokio::test]
async fn revocation_closes_a_live_session_within_a_second() {
    let world = World::start().await;
    let (_client, mut events) = world.connected(node(1)).await;
    let (_other, mut other_events) = world.connected(node(2)).await;
    assert_eq!(world.pipe.counts().connections, 2);

    let started = Instant::now();
    world.refusals.0.lock().unwrap().insert(node(1));
    world.pipe.disconnect(node(1));
    failure(&mut events).await;
    assert!(started.elapsed() < Duration::from_secs(1));

    // The next try gets no session either.
    let error = failure(&mut events).await;
    assert!(
        !matches!(error, ConnectionError::ConnectionRefused(_)),
        "closed before MQTT: {error}"
    );
    assert!(
        timeout(Duration::from_millis(200), failure(&mut other_events))
            .await
            .is_err()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_second_connection_of_a_node_displaces_the_first() {
    let world = World::start().await;
    let (_first, mut first_events) = world.connected(node(1)).await;
    let (_second, _second_events) = world.connected(node(1)).await;
    failure(&mut first_events).await;
    world.stop().await;
}

#[tokio::test]
async fn mqtt_passes_over_websocket() {
    let mut world = World::start().await;
    let url = format!(
        "wss://localhost:{}/mqtt",
        world.addresses.websocket[0].port()
    );
    let tls = TlsConfiguration::Rustls(Arc::new(world.client_tls(node(1))));
    let mut options =
        MqttOptions::websocket_with_tls_config(node(1).to_string(), url, tls).unwrap();
    options
        .set_clean_start(true)
        .set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::builder(options).build();
    let down = Topic::Down(node(1));
    let code = subscription(&client, &mut events, &down.print(FLEET)).await;
    assert!(matches!(code, SubscribeReasonCode::Success(_)));

    let up = Topic::Up(node(1), Stream::Telemetry);
    let payload = vec![9; limits::UPLOAD_BYTES_MAX];
    publish(&client, &mut events, up.print(FLEET), payload.clone()).await;
    let delivery = timeout(PATIENCE, world.deliveries.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(delivery.payload, payload);

    world
        .pipe
        .publish(Outgoing {
            topic: down,
            payload: payload.clone(),
        })
        .await
        .unwrap();
    let received = wait_for(&mut events, |incoming| match incoming {
        Incoming::Publish(publish) => Some(publish.payload),
        _ => None,
    })
    .await;
    assert_eq!(received, payload);
    world.stop().await;
}

#[tokio::test]
async fn stalled_peers_do_not_delay_a_handshake() {
    let world = World::start().await;
    let mut stalled = Vec::new();
    for _ in 0..90 {
        stalled.push(
            tokio::net::TcpStream::connect(world.addresses.mqtt[0])
                .await
                .unwrap(),
        );
    }
    let started = Instant::now();
    world.connected(node(1)).await;
    assert!(started.elapsed() < Duration::from_secs(3));
    world.stop().await;
}

#[tokio::test]
async fn the_servers_certificate_renews_without_touching_a_connection() {
    let issued_at = now().before(Duration::from_secs(45 * 60));
    let mut world = World::with_server_certificate_of(issued_at).await;
    let (client, mut events) = world.connected(node(1)).await;
    let before = world.pki.server_expires_at();
    assert!(!world.pki.renew_server(issued_at).unwrap());
    assert!(world.pki.renew_server(now()).unwrap());
    assert!(world.pki.server_expires_at() > before);

    let topic = Topic::Session(node(1));
    publish(&client, &mut events, topic.print(FLEET), vec![1]).await;
    timeout(PATIENCE, world.deliveries.next())
        .await
        .unwrap()
        .unwrap();
    world.connected(node(2)).await;
    world.stop().await;
}

#[tokio::test]
async fn the_inner_port_serves_nobody_who_connects_by_themselves() {
    let world = World::start().await;
    // Any process on the machine can find and reach the loopback port.
    let mut options = MqttOptions::new(node(1).to_string(), ("127.0.0.1", world.inner.port()));
    options.set_clean_start(true);
    let (_client, mut events) = AsyncClient::builder(options).build();
    let error = failure(&mut events).await;
    assert!(
        matches!(error, ConnectionError::ConnectionRefused(_)),
        "{error}"
    );
    world.stop().await;
}
