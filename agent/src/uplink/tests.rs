//! The uplink without a broker: it goes on trying, in turn, and can be stopped.

use std::net::TcpListener;

use protocol::key::SigningKey;
use protocol::session::BootId;
use protocol::time::UnixMillis;
use protocol::trust::TrustSet;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::clock::Clock;
use crate::node::task::{self, Ends};
use crate::node::{Identity, Setup};
use crate::store::Limits;
use crate::store::disk::MemoryDisk;
use crate::store::spool::MemorySpool;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const NODE: NodeId = NodeId::from_bytes([2; 10]);

fn core(clock: &Clock) -> (StoreHandle, Ends) {
    let key = Arc::new(SigningKey::from_seed(&[3; 32]).unwrap());
    let identity = Identity {
        fleet: FLEET,
        node: NODE,
        root: key.public(),
        key,
        trust: TrustSet {
            fleet: FLEET,
            version: 1,
            issued_at: UnixMillis(1),
            controller_keys: Vec::new(),
            authorities: Vec::new(),
            release_keys: Vec::new(),
        },
    };
    let setup = || Setup {
        disk: Box::new(MemoryDisk::default()),
        spool: Box::new(MemorySpool::default()),
        limits: Limits::default(),
        boot: BootId([0; 16]),
        agent_version: "0.1.0".to_owned(),
        draw: Box::new(|| [4; 16]),
        seed: 5,
    };
    task::start(identity, setup, clock.clone()).unwrap()
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An uplink to these brokers, what it shows, and what stops it.
struct Rig {
    context: Context,
    seen: watch::Receiver<State>,
    stop: CancellationToken,
    _senders: (watch::Sender<Arc<Target>>, watch::Sender<Arc<ClientConfig>>),
}

fn rig(ports: &[u16], tls: ClientConfig, retry_max: Duration) -> Rig {
    let clock = Clock::default();
    let (core, ends) = core(&clock);
    let brokers = ports.iter().map(|port| Broker::Tls {
        host: "127.0.0.1".to_owned(),
        port: *port,
    });
    let target = Target {
        brokers: brokers.collect(),
        proxy: None,
        retry_max,
    };
    let (targets, target) = watch::channel(Arc::new(target));
    let (configs, tls) = watch::channel(Arc::new(tls));
    let (state, seen) = watch::channel(State::default());
    let stop = CancellationToken::new();
    let context = Context {
        fleet: FLEET,
        node: NODE,
        target,
        tls,
        core,
        wire: ends.wire,
        nudges: ends.nudges,
        clock,
        seed: 1,
        state,
        stop: stop.clone(),
    };
    Rig {
        context,
        seen,
        stop,
        _senders: (targets, configs),
    }
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A server with a certificate by `server` that wants its clients' to be by
/// `clients`. It gets no further than that.
fn broker(server: &Authority, clients: &Authority) -> u16 {
    let (leaf, key) = server.issue();
    let mut roots = rustls::RootCertStore::empty();
    let client_ca = CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap();
    roots.add(client_ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut socket).is_ok() {}
            // What is left unread would turn the alert into a reset.
            let _sent = socket.shutdown(std::net::Shutdown::Write);
            let _rest = std::io::copy(&mut socket, &mut std::io::sink());
        }
    });
    port
}

#[tokio::test]
async fn certificates_that_are_not_believed_lead_to_the_trust_set_at_once() {
    let (ours, theirs) = (authority(), authority());
    for (server, clients, renews) in [(&theirs, &ours, false), (&ours, &theirs, true)] {
        let (leaf, key) = ours.issue();
        let identity = crate::tls::ClientIdentity {
            certificate: &leaf.pem(),
            key: &key.serialize_pem(),
        };
        let pinned = [ours.pem.clone()];
        let tls = crate::tls::pinned(&pinned, Some(&identity), &Clock::default()).unwrap();
        let rig = rig(&[broker(server, clients)], tls, Duration::from_secs(60));
        let nudges = Arc::clone(&rig.context.nudges);
        let task = crate::supervisor::spawn("uplink", run(rig.context));
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, nudges.fetch_trust.notified())
            .await
            .unwrap();
        let failures = rig.seen.borrow().failures;
        assert!(failures < FAILURES_BEFORE_TRUST, "{failures}");
        let renewed = tokio::time::timeout(Duration::from_millis(200), nudges.renew.notified());
        assert_eq!(renewed.await.is_ok(), renews);
        // The next failures ask for the trust set again, and for no certificate.
        tokio::time::timeout(patience, nudges.fetch_trust.notified())
            .await
            .unwrap();
        let again = tokio::time::timeout(Duration::from_millis(200), nudges.renew.notified());
        assert!(again.await.is_err());
        rig.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
        assert_eq!(ended.unwrap().unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_tried_in_turn_until_it_is_stopped() {
    let ports = [closed_port(), closed_port()];
    let names: Vec<String> = ports
        .iter()
        .map(|port| format!("mqtts://127.0.0.1:{port}"))
        .collect();
    let tls = crate::tls::unauthenticated().unwrap();
    let Rig {
        context,
        mut seen,
        stop,
        _senders,
    } = rig(&ports, tls, Duration::from_millis(1_000));
    let task = crate::supervisor::spawn("uplink", run(context));
    let tried = async {
        let mut tried = std::collections::BTreeSet::new();
        while tried.len() < 2 {
            seen.changed().await.unwrap();
            tried.extend(seen.borrow().broker.clone());
        }
        tried
    };
    let tried = tokio::time::timeout(Duration::from_secs(20), tried)
        .await
        .unwrap();
    assert!(
        tried.iter().all(|broker| names.contains(broker)),
        "{tried:?}"
    );
    assert!(!seen.borrow().connected);
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    assert_eq!(ended.unwrap().unwrap(), Ok(()));
}

#[test]
fn a_proxys_password_is_hidden() {
    let shown = format!("{:?}", Password("secret".to_owned()));
    assert!(!shown.contains("secret"), "{shown}");
}
