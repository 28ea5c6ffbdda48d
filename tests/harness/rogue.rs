//! Whoever has got hold of an identity, or of the broker itself, and sends what no
//! honest program would: an MQTT client that publishes any bytes on any topic, and
//! a node's pen that seals whatever it is told to.
//!
//! It has a thread of its own that keeps the connection; the test sends, and looks
//! at what came.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::enrol::{self, Loaded};
use bytes::BytesMut;
use controller::pki::{Pki, PkiConfig};
use protocol::envelope::{self, Seal};
use protocol::id::{FleetId, NodeId, StoreId};
use protocol::key::{SIGNATURE_BYTES, SigningKey};
use protocol::message::{Kind, Message};
use protocol::session::{BootId, Hello, Nonce, StreamOffer, Welcome};
use protocol::stream::Stream;
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{Connect, ConnectAuth, Packet, Publish};
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, IncomingPacketSizeLimit, MqttOptions, PublishOptions,
    TlsConfiguration, Transport,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::runtime::Runtime;

use crate::{clock, wait};

/// More than the largest payload that a test sends.
const PACKET_BYTES_MAX: u32 = 64 << 20;

/// A broker on loopback answers well within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// One connection to a broker.
pub struct Rogue {
    runtime: Runtime,
    client: AsyncClient,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connected: bool,
    granted: usize,
    acknowledged: u64,
    ended: Option<String>,
    heard: VecDeque<(String, Vec<u8>)>,
}

/// A certificate with its key, and the CA to trust; all PEM.
pub struct Papers {
    /// The fleet's CA.
    pub authority: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Papers {
    /// Those of a node that has joined.
    ///
    /// # Panics
    /// When it has not.
    pub fn of_node(state: &Path) -> Papers {
        let loaded = identity(state);
        let authority = std::fs::read_to_string(state.join("identity/ca.pem"));
        Papers {
            authority: authority.expect("an identity has its CA"),
            certificate: loaded.certificate.clone(),
            key: loaded.key.as_str().to_owned(),
        }
    }

    /// Those of a controller towards an external broker, as whoever owns the
    /// broker may act: a copy of the fleet's keys signs them.
    ///
    /// # Panics
    /// When the folder holds no fleet's keys.
    pub fn of_controller(pki: &Path, fleet: FleetId) -> Papers {
        let copy = tempfile::TempDir::new().expect("the temporary folder is writable");
        for file in std::fs::read_dir(pki).into_iter().flatten().flatten() {
            let to = copy.path().join(file.file_name());
            std::fs::copy(file.path(), to).expect("a key file can be copied");
        }
        let pki = Pki::open(
            PkiConfig {
                directory: copy.path().to_owned(),
                fleet,
                hosts: Vec::new(),
                server_life: Duration::from_secs(3600),
                node_life: Duration::from_secs(3600),
                rotation_overlap: Duration::from_secs(3600),
            },
            controller::clock::now(),
        )
        .expect("a copy of the keys opens");
        let issued = pki.issue_controller_client(controller::clock::now());
        let (certificate, key) = issued.expect("the CA signs");
        Papers {
            authority: pki.authorities_pem().to_owned(),
            certificate,
            key,
        }
    }

    fn tls(&self) -> ClientConfig {
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.authority.as_bytes()) {
            roots
                .add(authority.expect("the CA is a certificate"))
                .expect("the CA can be trusted");
        }
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate.expect("it is a certificate")],
                key.expect("it is a key"),
            )
            .expect("certificate and key belong together")
    }
}

impl Rogue {
    /// Connects and reads the topics that match `filters`.
    ///
    /// # Panics
    /// When the broker does not let it in.
    #[track_caller]
    pub fn connect(
        broker: SocketAddr,
        papers: &Papers,
        client_id: &str,
        filters: &[String],
    ) -> Rogue {
        let mut options = MqttOptions::new(client_id, (broker.ip().to_string(), broker.port()));
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::new(papers.tls()),
            )))
            .set_clean_start(true)
            .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(PACKET_BYTES_MAX));
        let (client, events) = AsyncClient::builder(options).build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let seen = Arc::new(Mutex::new(Seen::default()));
        runtime.spawn(keep(events, Arc::clone(&seen)));
        let rogue = Rogue {
            runtime,
            client,
            seen,
        };
        wait::until_true("the broker takes the rogue", ANSWER_LIMIT, || {
            rogue.seen().connected
        });
        for filter in filters {
            let asked = rogue.client.subscribe(filter.clone(), QoS::AtLeastOnce);
            let asked = rogue.runtime.block_on(asked);
            asked.expect("the client takes requests");
        }
        wait::until_true("the broker grants the filters", ANSWER_LIMIT, || {
            rogue.seen().granted >= filters.len()
        });
        rogue
    }

    /// Publishes, and waits until the broker has taken or refused it, or has ended
    /// the connection over it.
    ///
    /// # Panics
    /// When the broker does none of these.
    #[track_caller]
    pub fn publish(&self, topic: &str, payload: Vec<u8>) {
        let before = self.seen().acknowledged;
        let sent = self.client.publish(
            topic.to_owned(),
            payload,
            PublishOptions::new(QoS::AtLeastOnce),
        );
        if self.runtime.block_on(sent).is_err() {
            return;
        }
        wait::until_true("the broker answers a publish", ANSWER_LIMIT, || {
            let seen = self.seen();
            seen.acknowledged > before || seen.ended.is_some()
        });
    }

    /// Why the connection ended; none while it is open.
    pub fn ended(&self) -> Option<String> {
        self.seen().ended.clone()
    }

    /// The next message that came, oldest first.
    pub fn next(&self) -> Option<(String, Vec<u8>)> {
        self.seen().heard.pop_front()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one publish that is larger than the broker has said it takes, which no
/// client library would, and waits until the broker ends the connection.
///
/// # Panics
/// When it does not let the client in, or goes on reading.
#[track_caller]
pub fn send_a_monster(
    broker: SocketAddr,
    papers: &Papers,
    client_id: &str,
    topic: &str,
    payload: Vec<u8>,
) {
    let connect = Packet::Connect(
        Connect {
            keep_alive: 30,
            client_id: client_id.to_owned(),
            clean_start: true,
            properties: None,
        },
        None,
        ConnectAuth::None,
    );
    let mut publish = Publish::new(topic.to_owned(), QoS::AtLeastOnce, payload, None);
    publish.pkid = 1;
    let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
    let coded = connect
        .write(&mut first, None)
        .and_then(|_| Packet::Publish(publish).write(&mut second, None));
    coded.expect("packets can be coded");
    let name = ServerName::IpAddress(broker.ip().into());
    let tls = ClientConnection::new(Arc::new(papers.tls()), name).expect("TLS can begin");
    let socket = TcpStream::connect(broker).expect("the broker listens");
    socket
        .set_read_timeout(Some(ANSWER_LIMIT))
        .expect("a socket has a timeout");
    let mut stream = StreamOwned::new(tls, socket);
    let mut answer = [0; 64];
    let welcomed = stream
        .write_all(&first)
        .and_then(|()| stream.flush())
        .and_then(|()| stream.read(&mut answer));
    assert!(welcomed.is_ok_and(|count| count > 0), "it is let in");
    let sent = stream.write_all(&second).and_then(|()| stream.flush());
    // What the broker says before it hangs up, if anything, is of no interest.
    let mut rest = Vec::new();
    let ended = sent.and_then(|()| stream.read_to_end(&mut rest));
    let waits = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!waits, "the broker goes on reading");
}

/// Polls until the connection ends; it is not made again.
async fn keep(mut events: EventLoop, seen: Arc<Mutex<Seen>>) {
    loop {
        let event = events.poll().await;
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => seen.connected = true,
            Ok(Event::Incoming(Incoming::SubAck(_))) => seen.granted += 1,
            Ok(Event::Incoming(Incoming::PubAck(_))) => seen.acknowledged += 1,
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                seen.heard.push_back((topic, publish.payload.to_vec()));
            }
            Ok(Event::Incoming(Incoming::Disconnect(why))) => {
                seen.ended = Some(format!("{:?}", why.reason_code));
                return;
            }
            Ok(_) => {}
            Err(error) => {
                seen.ended = Some(error.to_string());
                return;
            }
        }
    }
}

/// The identity in an agent's state directory.
///
/// # Panics
/// When there is none.
pub fn identity(state: &Path) -> Loaded {
    enrol::load(&state.join("identity")).expect("the node has joined")
}

/// The broker that an identity names.
///
/// # Panics
/// When it names none by address.
pub fn broker_of(loaded: &Loaded) -> SocketAddr {
    let broker = loaded.brokers.first().expect("an identity names brokers");
    let address = broker.trim_start_matches("mqtts://");
    address.parse().expect("a broker is an address and a port")
}

/// A node's hand: seals what it is given as that node would.
pub struct Pen {
    /// The fleet.
    pub fleet: FleetId,
    /// The node.
    pub node: NodeId,
    /// The node's store; of its own, so that the real one's numbers stay.
    pub store: StoreId,
    key: Arc<SigningKey>,
    connect: u64,
    sealed: u32,
}

impl Pen {
    /// A pen with a node's real key. Its connect counters begin at `connect`.
    pub fn of(loaded: &Loaded, store: StoreId, connect: u64) -> Pen {
        Pen {
            fleet: loaded.identity.fleet,
            node: loaded.identity.node,
            store,
            key: Arc::clone(&loaded.identity.key),
            connect,
            sealed: 0,
        }
    }

    /// A sealed message.
    pub fn seal<M: Message>(&mut self, message: &M) -> Vec<u8> {
        let payload = protocol::message::encode(message);
        self.seal_payload(M::KIND, M::VERSION, &payload)
    }

    /// A sealed payload of any kind and version.
    pub fn seal_payload(&mut self, kind: Kind, version: u16, payload: &[u8]) -> Vec<u8> {
        self.sealed += 1;
        let seal = Seal {
            fleet: self.fleet,
            sender: self.node,
            key: &self.key,
        };
        let counter = (self.connect << 32) | u64::from(self.sealed);
        seal.seal_payload(kind, version, counter, now(), payload)
    }

    /// Says hello and waits for the welcome.
    ///
    /// # Panics
    /// When no welcome comes.
    #[track_caller]
    pub fn greet(&mut self, rogue: &Rogue) -> Welcome {
        self.connect += 1;
        self.sealed = 0;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.connect.to_le_bytes());
        nonce[8..].copy_from_slice(&now().0.to_le_bytes());
        let hello = self.seal(&Hello {
            nonce: Nonce(nonce),
            store: self.store,
            connect_counter: self.connect,
            boot: BootId([1; 16]),
            agent_version: "0.0.0-rogue".to_owned(),
            now: now(),
            incarnation: 0,
            generation: 0,
            policy_epoch: 0,
            trust_version: 1,
            streams: Stream::ALL
                .map(|stream| StreamOffer {
                    stream,
                    acked: 0,
                    last: 0,
                })
                .to_vec(),
        });
        rogue.publish(&Topic::Session(self.node).print(self.fleet), hello);
        self.heard(rogue)
    }

    /// The next message of that type that came down. Others before it are passed
    /// over; nothing is verified.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn heard<M: Message>(&self, rogue: &Rogue) -> M {
        wait::until("a message comes down", ANSWER_LIMIT, || {
            let (_, bytes) = rogue.next()?;
            let header = envelope::peek(&bytes).ok()?;
            let payload = bytes.get(envelope::HEADER_BYTES..)?;
            let payload = payload.get(..payload.len().checked_sub(SIGNATURE_BYTES)?)?;
            protocol::message::decode(header.kind, header.version, payload).ok()
        })
    }
}

/// The wall clock, as envelopes tell it.
pub fn now() -> UnixMillis {
    UnixMillis(clock::unix_millis())
}
