//! Addresses of external brokers, and a broker that is away.

use std::time::Duration;

use protocol::id::FleetId;
use rustls::RootCertStore;

use super::*;

#[test]
fn addresses_read_from_their_urls() {
    let mqtts = |host: &str, port| {
        Ok(ExternalAddress::Mqtts {
            host: host.to_owned(),
            port,
        })
    };
    let cases = [
        ("mqtts://broker.example:8883", mqtts("broker.example", 8883)),
        ("mqtts://broker.example", mqtts("broker.example", 8883)),
        ("mqtts://[2001:db8::1]", mqtts("2001:db8::1", 8883)),
        ("mqtts://192.0.2.1:1/", mqtts("192.0.2.1", 1)),
        ("mqtts://[2001:db8::1]:8883", mqtts("2001:db8::1", 8883)),
        (
            "wss://broker.example:443/mqtt",
            Ok(ExternalAddress::Wss(
                "wss://broker.example:443/mqtt".to_owned(),
            )),
        ),
    ];
    for (url, expected) in cases {
        assert_eq!(url.parse::<ExternalAddress>(), expected, "{url}");
    }
    for url in [
        "",
        "mqtt://plain.example:1883",
        "mqtts://",
        "mqtts://:8883",
        "mqtts://[2001:db8::1",
        "mqtts://2001:db8::1",
        "mqtts://broker.example:99999",
        "wss://",
        "ws://plain.example",
    ] {
        assert!(url.parse::<ExternalAddress>().is_err(), "{url}");
    }
}

#[tokio::test]
async fn publishes_are_shed_while_the_broker_is_away() {
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    let (broker, _deliveries) = ExternalBroker::new(ExternalConfig {
        fleet: FleetId::from_bytes([7; 10]),
        // A port that refuses: nothing listens on the discard port of a test.
        address: "mqtts://127.0.0.1:9".parse().unwrap(),
        tls: Arc::new(tls),
        credentials: None,
    });
    let pipe = broker.pipe();
    let cancel = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(broker.run(cancel.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(pipe.state(), PipeState::Down);
    let outgoing = Outgoing {
        topic: Topic::All,
        payload: vec![1],
    };
    assert_eq!(pipe.publish(outgoing).await, Err(PublishError::Down));
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), tasks.join_next()).await;
    assert!(ended.is_ok(), "it stops while it waits for its next try");
}

#[test]
fn waits_are_spread_and_bounded() {
    for _ in 0..100 {
        let wait = jittered(RETRY_MAX);
        assert!(wait >= RETRY_MAX / 2 && wait <= RETRY_MAX);
    }
}
