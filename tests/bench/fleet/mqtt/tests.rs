//! The lean client against the embedded broker.

use controller::broker::embedded::{EmbeddedBroker, EmbeddedConfig};
use controller::broker::{Gate, Outgoing, Pipe as _};
use controller::pki::{Pki, PkiConfig};
use harness::clock;
use protocol::id::{FleetId, NodeId};
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::*;

struct Everyone;

impl Gate for Everyone {
    fn admits(&self, _node: NodeId) -> bool {
        true
    }
}

fn tls(pki: &Pki, node: NodeId) -> Arc<ClientConfig> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let now = UnixMillis(clock::unix_millis());
    let issued = pki.issue_node(&request, node, now).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(pki.authorities_pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn messages_pass_both_ways_in_any_number() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = FleetId::from_bytes([1; 10]);
    let node = NodeId::from_bytes([2; 10]);
    let config = PkiConfig {
        directory: folder.path().join("pki"),
        fleet,
        hosts: Vec::new(),
        server_life: Duration::from_secs(3600),
        node_life: Duration::from_secs(3600),
        rotation_overlap: Duration::from_secs(3600),
    };
    let pki = Pki::open(config, UnixMillis(clock::unix_millis())).unwrap();
    let config = EmbeddedConfig {
        fleet,
        mqtt: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        websocket: Vec::new(),
        connections_max: 16,
    };
    let (broker, mut deliveries) =
        EmbeddedBroker::start(config, pki.mqtt_tls(), Arc::new(Everyone))
            .await
            .unwrap();
    let (pipe, addresses) = (broker.pipe(), broker.addresses());
    let cancel = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(broker.run(cancel.clone()));
    let address = *addresses.mqtt.first().unwrap();
    let door = Door {
        source: IpAddr::from([127, 0, 1, 7]),
        broker: address,
        name: ServerName::from(address.ip()),
        tls: tls(&pki, node),
        client: node.to_string(),
    };
    let filters = [Topic::Down(node).print(fleet), Topic::All.print(fleet)];
    let mut link = Link::open(&door, &filters).await.unwrap();

    // More than may be in flight at once.
    for number in 0..100_u8 {
        let topic = Topic::Session(node).print(fleet);
        link.publish(topic, vec![number; 300]).unwrap();
    }
    link.flush().await.unwrap();
    let received = async {
        for number in 0..100_u8 {
            let delivery = deliveries.next().await.unwrap();
            assert_eq!(delivery.sender, Some(node));
            assert_eq!(delivery.payload, vec![number; 300]);
        }
    };
    let reading = async {
        loop {
            link.read().await.unwrap();
            assert!(link.next().unwrap().is_none());
            link.flush().await.unwrap();
        }
    };
    tokio::select! {
        () = received => {}
        () = reading => {}
    }
    for number in 0..40_u8 {
        let down = Outgoing {
            topic: Topic::Down(node),
            payload: vec![number; 200],
        };
        pipe.publish(down).await.unwrap();
    }
    let mut expected = 0_u8;
    while expected < 40 {
        link.read().await.unwrap();
        while let Some(message) = link.next().unwrap() {
            assert_eq!(message.topic, Topic::Down(node).print(fleet));
            assert_eq!(message.payload, vec![expected; 200]);
            expected += 1;
        }
        link.flush().await.unwrap();
    }
    cancel.cancel();
    tasks.join_all().await;
}
