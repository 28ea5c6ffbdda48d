//! The pipe over a real mosquitto with TLS: messages pass both ways, other
//! topics do not, and a broker that was killed is taken up again.

use std::sync::Arc;
use std::time::Duration;

use controller::broker::external::{ExternalAddress, ExternalBroker, ExternalConfig};
use controller::broker::{Outgoing, Pipe, PipeState};
use controller::pki::{Pki, PkiConfig};
use harness::servers::{Mosquitto, TlsFiles};
use protocol::id::{FleetId, NodeId};
use protocol::stream::Stream;
use protocol::topic::Topic;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions, PublishOptions, TlsConfiguration,
    Transport,
};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const NODE: NodeId = NodeId::from_bytes([1; 10]);
const OTHER: NodeId = NodeId::from_bytes([2; 10]);
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    directory: tempfile::TempDir,
    pki: Pki,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::TempDir::new().expect("the temporary folder is writable");
        let pki = Pki::open(
            PkiConfig {
                directory: directory.path().join("pki"),
                fleet: FLEET,
                hosts: vec![],
                server_life: Duration::from_secs(3600),
                node_life: Duration::from_secs(3600),
                rotation_overlap: Duration::from_secs(60),
            },
            controller::clock::now(),
        )
        .expect("keys can be made");
        Self { directory, pki }
    }

    fn mosquitto(&self) -> Option<Mosquitto> {
        let keys = self.directory.path().join("pki");
        let files = TlsFiles {
            ca: &keys.join("ca.pem"),
            certificate: &keys.join("server.pem"),
            key: &keys.join("server.key"),
        };
        Mosquitto::start(&files, "controller")
    }

    fn tls(&self, certificate: &str, key: &str) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.pki.authorities_pem().as_bytes());
        roots
            .add(authority.expect("the CA is a certificate"))
            .expect("the CA can be trusted");
        let chain = CertificateDer::from_pem_slice(certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring speaks them")
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    vec![chain.expect("it is a certificate")],
                    key.expect("it is a key"),
                );
        Arc::new(config.expect("certificate and key belong together"))
    }

    fn broker(&self, mosquitto: &Mosquitto) -> ExternalConfig {
        let (certificate, key) = self
            .pki
            .issue_controller_client(controller::clock::now())
            .expect("the CA signs");
        ExternalConfig {
            fleet: FLEET,
            address: ExternalAddress::Mqtts {
                host: "localhost".to_owned(),
                port: mosquitto.address().port(),
            },
            tls: self.tls(&certificate, &key),
            credentials: None,
        }
    }

    /// A node's client, as the agent connects.
    fn node(&self, mosquitto: &Mosquitto, node: NodeId) -> (AsyncClient, EventLoop) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("ring makes keys");
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .expect("a request can be made");
        let issued = self
            .pki
            .issue_node(&csr, node, controller::clock::now())
            .expect("the CA signs");
        let mut options =
            MqttOptions::new(node.to_string(), ("localhost", mosquitto.address().port()));
        let tls = self.tls(&issued.pem, &key.serialize_pem());
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
            .set_clean_start(true);
        AsyncClient::builder(options).build()
    }
}

/// Polls until `pick` takes a packet.
async fn wait_for<T>(events: &mut EventLoop, mut pick: impl FnMut(Incoming) -> Option<T>) -> T {
    timeout(PATIENCE, async {
        loop {
            if let Ok(Event::Incoming(incoming)) = events.poll().await
                && let Some(found) = pick(incoming)
            {
                return found;
            }
        }
    })
    .await
    .expect("the packet comes")
}

async fn until_up(pipe: &dyn Pipe) {
    let waited = timeout(PATIENCE, async {
        while pipe.state() == PipeState::Down {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the broker is connected");
}

async fn subscribed(client: &AsyncClient, events: &mut EventLoop) {
    client
        .subscribe(Topic::Down(NODE).print(FLEET), QoS::AtLeastOnce)
        .await
        .expect("the client takes requests");
    wait_for(events, |incoming| {
        matches!(incoming, Incoming::SubAck(_)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn messages_pass_a_mosquitto_and_survive_its_death() {
    let world = World::new();
    let Some(mut mosquitto) = world.mosquitto() else {
        return;
    };
    let (broker, mut deliveries) = ExternalBroker::new(world.broker(&mosquitto));
    let pipe = broker.pipe();
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(broker.run(cancel.clone()));

    for round in 0..2_u8 {
        until_up(pipe.as_ref()).await;
        let (client, mut events) = world.node(&mosquitto, NODE);
        subscribed(&client, &mut events).await;

        let up = Topic::Up(NODE, Stream::Control);
        let at_least_once = || PublishOptions::new(QoS::AtLeastOnce);
        for topic in [
            // The broker lets through only what is the node's own.
            Topic::Up(OTHER, Stream::Control),
            Topic::Down(OTHER),
            Topic::All,
            up,
        ] {
            client
                .publish(topic.print(FLEET), vec![round], at_least_once())
                .await
                .expect("the client takes requests");
        }
        let mut acknowledged = 0;
        wait_for(&mut events, |incoming| {
            acknowledged += u8::from(matches!(incoming, Incoming::PubAck(_)));
            (acknowledged == 4).then_some(())
        })
        .await;
        let delivery = timeout(PATIENCE, deliveries.next())
            .await
            .expect("the message comes")
            .expect("the pipe is open");
        assert_eq!((delivery.topic, delivery.payload), (up, vec![round]));
        assert_eq!(delivery.sender, None, "the broker does not say");

        pipe.publish(Outgoing {
            topic: Topic::Down(NODE),
            payload: vec![100 + round],
        })
        .await
        .expect("the broker is connected");
        let payload = wait_for(&mut events, |incoming| {
            if let Incoming::Publish(publish) = incoming {
                Some(publish.payload)
            } else {
                None
            }
        })
        .await;
        assert_eq!(payload, vec![100 + round]);

        if round == 0 {
            mosquitto.kill();
            let waited = timeout(PATIENCE, async {
                while pipe.state() == PipeState::Up {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            waited.await.expect("the lost connection is noticed");
            mosquitto.run();
        }
    }
    cancel.cancel();
    timeout(PATIENCE, tasks.join_next())
        .await
        .expect("it stops when asked");
}
