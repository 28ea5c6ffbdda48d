//! The whole way: a node joins by a token, connects with its certificate to the
//! embedded broker, says hello, obeys a command, and is cut off.
#![expect(
    clippy::disallowed_methods,
    reason = "certificates are made for the real clock, and tasks of a test have no supervisor"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one kind of packet or event among many"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use protocol::ErrorCode;
use protocol::command::{Action, Outcome, Progress, ProgressStep, Receipt};
use protocol::down::{Down, DownBody};
use protocol::envelope::{self, Seal};
use protocol::id::{CommandId, FleetId, NodeId, StoreId, TokenId};
use protocol::join::{Admission, JoinRequest, JoinResponse, Renew};
use protocol::key::SigningKey;
use protocol::label::Labels;
use protocol::message::Message;
use protocol::session::{Acks, BootId, Heartbeat, Hello, Nonce, StreamOffer, Welcome};
use protocol::stream::{Entry, EntryKind, Stream, Upload};
use protocol::time::UnixMillis;
use protocol::topic::Topic;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, Event as ClientEvent, EventLoop, Incoming, MqttOptions, PublishOptions,
    TlsConfiguration, Transport,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sink::{FrameArrival, FrameOutcome, FrameSink, SinkError};
use super::task::{Parts, open};
use super::*;
use crate::broker::embedded::{EmbeddedBroker, EmbeddedConfig};
use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::RecoverAdmin;
use crate::domain::command::Hours;
use crate::domain::command::issue::{Aim, CancelCommand, EmptyAim, IssueCommand};
use crate::domain::event::Event;
use crate::domain::fleet::admit::ApproveNode;
use crate::domain::fleet::manage::{RenameNode, RevokeNode};
use crate::domain::fleet::token::{Approval, CreateToken, RevokeToken};
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::engine::Engine;
use crate::engine::task::{self as engine_task, Options};
use crate::journal::Journal;
use crate::pki::enrolment::{Addresses, EnrolError, Enrolment};
use crate::pki::{Pki, PkiConfig};

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: [u8; 32] = [42; 32];

struct NoFrames;

impl FrameSink for NoFrames {
    fn ingest(
        &mut self,
        frames: Vec<FrameArrival>,
        _now: UnixMillis,
    ) -> Result<Vec<FrameOutcome>, SinkError> {
        Ok(vec![FrameOutcome::Kept; frames.len()])
    }

    fn live(&mut self, _node: NodeId, _frame: &[u8], _now: UnixMillis) {}
}

struct World {
    engine: Engine,
    pki: Pki,
    uplink: Uplink,
    enrolment: Enrolment,
    broker: SocketAddr,
    admin: Caller,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::with_node_life(Duration::from_secs(3600)).await
    }

    async fn with_node_life(node_life: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(
            PkiConfig {
                directory: directory.path().join("pki"),
                fleet: FLEET,
                hosts: vec![],
                server_life: Duration::from_secs(3600),
                node_life,
                rotation_overlap: Duration::from_secs(60),
            },
            crate::clock::now(),
        )
        .unwrap();
        let key = Arc::clone(&pki.signing().borrow());
        let path = directory.path().join("journal.redb");
        let journal = Journal::create(&path, FLEET, key, crate::clock::now()).unwrap();
        let mut seed = 0_u64;
        let moments = Box::new(move || {
            seed += 1;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            Moment::new(crate::clock::now(), bytes)
        });
        let (engine, task) = engine_task::open(journal, moments, Options::default()).unwrap();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = cancel.clone();
        tasks.spawn(async move { task.run(stop).await.unwrap() });

        let (broker, deliveries) = EmbeddedBroker::start(
            EmbeddedConfig {
                fleet: FLEET,
                mqtt: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
                websocket: vec![],
                connections_max: 100,
            },
            pki.mqtt_tls(),
            Arc::new(FleetGate::new(engine.watch())),
        )
        .await
        .unwrap();
        let address = broker.addresses().mqtt[0];
        let pipe = broker.pipe();
        tasks.spawn(broker.run(cancel.clone()));
        let (uplink, task) = open(Parts {
            heartbeat: Duration::from_secs(15),
            watch: crate::uplink::desk::Watch {
                silent_after: Duration::from_secs(300),
                certificate_life: Duration::from_secs(90 * 86_400),
            },
            engine: engine.clone(),
            pki: pki.clone(),
            intake: intake::Intake::open(&directory.path().join("intake.redb")).unwrap(),
            pipe,
            deliveries,
            sink: NoFrames,
            clock: Arc::new(crate::clock::now),
        })
        .unwrap();
        let stop = cancel.clone();
        tasks.spawn(async move { task.run(stop).await.unwrap() });
        let enrolment = Enrolment::new(
            engine.clone(),
            pki.clone(),
            Addresses {
                brokers: vec![format!("mqtts://localhost:{}", address.port())],
                controllers: vec!["localhost:7443".to_owned()],
            },
            Arc::new(crate::clock::now),
        );
        let mut world = Self {
            engine,
            pki,
            uplink,
            enrolment,
            broker: address,
            admin: Caller::Host,
            cancel,
            tasks,
            _directory: directory,
        };
        world
            .until("the fleet has a policy", || {
                world.engine.fleet().breakers().published().epoch == 1
            })
            .await;
        world.recover_admin().await;
        world
    }

    async fn recover_admin(&mut self) {
        let recover = RecoverAdmin {
            name: "ada".to_owned(),
            secret: SecretDigest::of(&SECRET),
            lifetime: None,
        };
        let applied = self.submit(Operation::RecoverAdmin(recover)).await;
        let key = applied.iter().find_map(|event| match event {
            Event::KeyCreated(created) => Some(created.clone()),
            _ => None,
        });
        let key = key.unwrap();
        self.admin = Caller::Principal {
            id: key.principal,
            key: key.key,
        };
    }

    async fn submit(&self, operation: Operation) -> Vec<Event> {
        self.engine
            .submit(self.admin, None, operation)
            .await
            .unwrap()
            .events
    }

    async fn token(&self, uses_max: u32, approval: Approval, lifetime: Duration) -> TokenId {
        let create = CreateToken {
            secret: SecretDigest::of(&SECRET),
            labels: Labels::default(),
            lifetime,
            uses_max,
            approval,
            replaces: None,
        };
        let events = self.submit(Operation::CreateToken(create)).await;
        events
            .iter()
            .find_map(|event| match event {
                Event::TokenCreated(created) => Some(created.token),
                _ => None,
            })
            .unwrap()
    }

    async fn easy_token(&self) -> TokenId {
        self.token(10, Approval::Automatic, Duration::from_secs(600))
            .await
    }

    async fn join(
        &self,
        node: &Machine,
        token: TokenId,
        secret: [u8; 32],
    ) -> Result<JoinResponse, EnrolError> {
        let request = node.join_request(token, secret);
        self.enrolment.join(request, "192.0.2.7".to_owned()).await
    }

    async fn admitted(&self, node: &Machine) -> Admission {
        let token = self.easy_token().await;
        match self.join(node, token, SECRET).await.unwrap() {
            JoinResponse::Admitted(admission) => *admission,
            JoinResponse::Pending { .. } => panic!("pending"),
        }
    }

    async fn issue(&self, node: NodeId, action: Action) -> CommandId {
        let issue = IssueCommand {
            on: Aim::Nodes(BTreeSet::from([node])),
            action,
            start_within: Duration::from_secs(60),
            run_timeout: Duration::from_secs(10),
            output_bytes_max: 1000,
            concurrency_max: None,
            rate_per_min: None,
            empty: EmptyAim::Refuse,
            hours: Hours::Windows,
        };
        let events = self.submit(Operation::IssueCommand(issue)).await;
        events
            .iter()
            .find_map(|event| match event {
                Event::CommandIssued(issued) => Some(issued.command),
                _ => None,
            })
            .unwrap()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}");
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        timeout(PATIENCE, async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await
        .unwrap();
    }
}

/// A machine that wants to be a node.
struct Machine {
    id: NodeId,
    signing: Arc<SigningKey>,
    tls: KeyPair,
}

impl Machine {
    fn new(number: u8) -> Self {
        Self {
            id: NodeId::from_bytes([number; 10]),
            signing: Arc::new(SigningKey::from_seed(&[number; 32]).unwrap()),
            tls: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    fn csr(&self) -> String {
        CertificateParams::default()
            .serialize_request(&self.tls)
            .unwrap()
            .pem()
            .unwrap()
    }

    fn join_request(&self, token: TokenId, secret: [u8; 32]) -> JoinRequest {
        let csr = self.csr();
        let proof = self
            .signing
            .sign(&JoinRequest::proof_bytes(token, self.id, &csr));
        JoinRequest {
            token,
            secret: BASE64URL_NOPAD.encode(&secret),
            node: self.id,
            name: "web-1".to_owned(),
            csr,
            signing_key: self.signing.public(),
            proof: BASE64URL_NOPAD.encode(&proof),
            agent_version: "1.0.0".to_owned(),
        }
    }

    fn seal<M: Message>(&self, counter: u64, message: &M) -> Vec<u8> {
        Seal {
            fleet: FLEET,
            sender: self.id,
            key: &self.signing,
        }
        .seal(counter, crate::clock::now(), message)
    }
}

/// A node's live connection.
struct Session {
    machine: Machine,
    client: AsyncClient,
    events: EventLoop,
    counter: u64,
    nonce: Nonce,
    controller: protocol::key::PublicKey,
}

impl Session {
    async fn open(world: &World, machine: Machine, admission: &Admission) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let authority = world.pki.authorities_pem();
        let authority = authority.as_bytes();
        roots
            .add(CertificateDer::from_pem_slice(authority).unwrap())
            .unwrap();
        let chain = vec![CertificateDer::from_pem_slice(admission.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(machine.tls.serialize_pem().as_bytes()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
        let mut options =
            MqttOptions::new(machine.id.to_string(), ("localhost", world.broker.port()));
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
                Arc::new(tls),
            )))
            .set_clean_start(true)
            .set_max_packet_size(Some(1 << 20));
        let (client, events) = AsyncClient::builder(options).build();
        let trust = admission
            .trust
            .verify(&admission.root, FLEET, 0)
            .expect("the root signed the trust set");
        let mut session = Self {
            machine,
            client,
            events,
            counter: 1 << 32,
            nonce: Nonce([5; 16]),
            controller: trust.controller_keys[0],
        };
        for topic in [Topic::Down(session.machine.id), Topic::All] {
            session
                .client
                .subscribe(topic.print(FLEET), QoS::AtLeastOnce)
                .await
                .unwrap();
            session
                .wait(|incoming| matches!(incoming, Incoming::SubAck(_)).then_some(()))
                .await;
        }
        session
    }

    async fn wait<T>(&mut self, mut pick: impl FnMut(Incoming) -> Option<T>) -> T {
        timeout(PATIENCE, async {
            loop {
                if let ClientEvent::Incoming(incoming) = self.events.poll().await.unwrap()
                    && let Some(found) = pick(incoming)
                {
                    return found;
                }
            }
        })
        .await
        .unwrap()
    }

    async fn heard<M: Message>(&mut self) -> M {
        let controller = self.controller;
        self.wait(|incoming| match incoming {
            Incoming::Publish(publish) => {
                let opened = envelope::open(&publish.payload, FLEET, |sender, _| {
                    (sender == NodeId::NIL).then_some(controller)
                })
                .unwrap();
                opened.decode().ok()
            }
            _ => None,
        })
        .await
    }

    async fn say<M: Message>(&mut self, topic: Topic, message: &M) {
        self.counter += 1;
        let payload = self.machine.seal(self.counter, message);
        self.client
            .publish(
                topic.print(FLEET),
                payload,
                PublishOptions::new(QoS::AtLeastOnce),
            )
            .await
            .unwrap();
    }

    async fn hello(&mut self) -> Welcome {
        let hello = Hello {
            nonce: self.nonce,
            store: StoreId::from_bytes([1; 10]),
            connect_counter: 1,
            boot: BootId([1; 16]),
            agent_version: "1.0.0".to_owned(),
            now: crate::clock::now(),
            incarnation: 0,
            generation: 0,
            policy_epoch: 1,
            trust_version: 1,
            streams: Stream::ALL
                .map(|stream| StreamOffer {
                    stream,
                    acked: 0,
                    last: 0,
                })
                .to_vec(),
        };
        self.say(Topic::Session(self.machine.id), &hello).await;
        self.heard().await
    }

    async fn answer(&mut self, seq: u64, command: CommandId, outcome: Outcome) {
        let receipt = Receipt {
            command,
            outcome,
            code: None,
            detail: String::new(),
            started_at: None,
            ended_at: crate::clock::now(),
            stdout: b"pong".to_vec(),
            stderr: Vec::new(),
            cut_bytes: 0,
        };
        let upload = Upload {
            store: StoreId::from_bytes([1; 10]),
            stream: Stream::Control,
            after: seq - 1,
            entries: vec![Entry {
                seq,
                kind: EntryKind::RECEIPT,
                version: Receipt::VERSION,
                body: protocol::message::encode(&receipt),
            }],
        };
        let topic = Topic::Up(self.machine.id, Stream::Control);
        self.say(topic, &upload).await;
        let acks: Acks = self.heard().await;
        assert_eq!(acks.acks[0].acked, seq);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_connects_obeys_and_is_cut_off_within_a_second() {
    let world = World::start().await;
    let machine = Machine::new(1);
    let admission = world.admitted(&machine).await;
    assert_eq!(admission.name, "web-1");
    let id = machine.id;
    assert_eq!(world.uplink.presence(id).link, Link::Never);
    let mut node = Session::open(&world, machine, &admission).await;
    let welcome = node.hello().await;
    assert_eq!(welcome.nonce, node.nonce);
    assert_eq!(world.uplink.presence(id).link, Link::Up);

    let mut news = world.uplink.news();
    let command = world.issue(id, Action::Ping).await;
    let down: Down = node.heard().await;
    assert!(
        matches!(&down.body, DownBody::Command(it) if it.id == command && it.issued_by == "ada")
    );
    let progress = Progress {
        nonce: node.nonce,
        command,
        at: crate::clock::now(),
        step: ProgressStep::Started,
    };
    node.say(Topic::Session(id), &progress).await;
    node.answer(1, command, Outcome::Succeeded).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let item = timeout(PATIENCE, news.recv()).await.unwrap().unwrap();
        seen.push(item.what.clone());
    }
    assert!(matches!(seen[0], NewsOf::Started { .. }));
    assert_eq!(seen[1], NewsOf::Ended);
    let target = world.uplink.target(command, id).unwrap().unwrap();
    assert_eq!(target.state.name(), "succeeded");
    assert_eq!(target.receipt.unwrap().stdout, b"pong");
    let concluded = || {
        let fleet = world.engine.fleet();
        let command = fleet.commands().get(command).unwrap();
        command.conclusion.as_ref().map(|it| it.counts.succeeded) == Some(1)
    };
    world.until("the journal concludes it", concluded).await;
    assert_eq!(world.uplink.counts(command).unwrap().ended.succeeded, 1);

    let rename = RenameNode {
        node: id,
        name: "web-one".to_owned(),
    };
    world.submit(Operation::RenameNode(rename)).await;
    let down: Down = node.heard().await;
    assert!(matches!(down.body, DownBody::Labels { name, .. } if name == "web-one"));

    let open = world.issue(id, Action::Ping).await;
    let started = Instant::now();
    let revoke = RevokeNode {
        node: id,
        reason: "lost".to_owned(),
    };
    world.submit(Operation::RevokeNode(revoke)).await;
    timeout(PATIENCE, async {
        while node.events.poll().await.is_ok() {}
    })
    .await
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    world
        .until("its open command ends", || {
            world.uplink.counts(open).unwrap().ended.total() == 1
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_and_heartbeats_pass_the_whole_way() {
    let world = World::start().await;
    let machine = Machine::new(1);
    let admission = world.admitted(&machine).await;
    let id = machine.id;
    let mut node = Session::open(&world, machine, &admission).await;
    node.hello().await;
    let command = world.issue(id, Action::Ping).await;
    let first: Down = node.heard().await;
    assert_eq!(first.number, 1);
    world
        .submit(Operation::CancelCommand(CancelCommand { command }))
        .await;
    let second: Down = node.heard().await;
    assert_eq!(second.body, DownBody::Cancel { command });
    let beat = Heartbeat {
        nonce: node.nonce,
        down_seen: 2,
        now: crate::clock::now(),
        uptime_ms: 5,
        outbox_entries: 3,
    };
    node.say(Topic::Session(id), &beat).await;
    let acks: Acks = node.heard().await;
    assert_eq!(acks.down_last, 2);
    world
        .until("the heartbeat shows", || {
            world.uplink.presence(id).outbox_entries == Some(3)
        })
        .await;
    node.answer(1, command, Outcome::Cancelled).await;
    world
        .until("it is cancelled", || {
            world.uplink.counts(command).unwrap().ended.cancelled == 1
        })
        .await;

    world.uplink.live(id, crate::clock::now(), 1000).unwrap();
    let live: Down = node.heard().await;
    assert!(matches!(live.body, DownBody::Live { .. }));
    assert_eq!(world.uplink.health().code, None);
    assert!(matches!(
        world
            .uplink
            .live(NodeId::from_bytes([9; 10]), crate::clock::now(), 1000),
        Err(UplinkError::NotConnected(_))
    ));
    world.stop().await;
}

#[tokio::test]
async fn tokens_that_do_not_let_in_say_why_and_change_nothing() {
    let world = World::start().await;
    let machine = Machine::new(1);
    let code = |outcome: Result<JoinResponse, EnrolError>| outcome.unwrap_err().code();

    let token = world.easy_token().await;
    let wrong = world.join(&machine, token, [1; 32]).await;
    assert_eq!(code(wrong), ErrorCode::TokenUnknown);
    let unknown = TokenId::from_bytes([9; 10]);
    let unknown = world.join(&machine, unknown, SECRET).await;
    assert_eq!(code(unknown), ErrorCode::TokenUnknown);
    let mut garbled = machine.join_request(token, SECRET);
    garbled.secret = "not base64!".to_owned();
    let garbled = world.enrolment.join(garbled, String::new()).await;
    assert_eq!(code(garbled), ErrorCode::TokenUnknown);

    let mut forged = machine.join_request(token, SECRET);
    forged.signing_key = Machine::new(2).signing.public();
    let forged = world.enrolment.join(forged, String::new()).await;
    assert_eq!(code(forged), ErrorCode::JoinProofInvalid);

    let mut bad_csr = machine.join_request(token, SECRET);
    bad_csr.csr = "nonsense".to_owned();
    let proof = machine
        .signing
        .sign(&JoinRequest::proof_bytes(token, machine.id, "nonsense"));
    bad_csr.proof = BASE64URL_NOPAD.encode(&proof);
    let bad_csr = world.enrolment.join(bad_csr, String::new()).await;
    assert_eq!(code(bad_csr), ErrorCode::JoinCsrInvalid);

    let short = world
        .token(1, Approval::Automatic, Duration::from_secs(1))
        .await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let expired = world.join(&machine, short, SECRET).await;
    assert_eq!(code(expired), ErrorCode::TokenExpired);

    let revoked = world.easy_token().await;
    world
        .submit(Operation::RevokeToken(RevokeToken { token: revoked }))
        .await;
    let revoked = world.join(&machine, revoked, SECRET).await;
    assert_eq!(code(revoked), ErrorCode::TokenRevoked);
    assert_eq!(world.engine.fleet().nodes().len(), 0);

    let once = world
        .token(1, Approval::Automatic, Duration::from_secs(600))
        .await;
    world.join(&machine, once, SECRET).await.unwrap();
    let exhausted = world.join(&Machine::new(2), once, SECRET).await;
    assert_eq!(code(exhausted), ErrorCode::TokenExhausted);

    let mut thief = Machine::new(3);
    thief.id = machine.id;
    let taken = world.join(&thief, token, SECRET).await;
    assert_eq!(code(taken), ErrorCode::NodeIdTaken);
    world.stop().await;
}

#[tokio::test]
async fn asking_again_gets_the_same_and_lets_the_journal_be() {
    let world = World::start().await;
    let machine = Machine::new(1);
    let token = world.easy_token().await;
    let request = machine.join_request(token, SECRET);
    let first = world
        .enrolment
        .join(request.clone(), String::new())
        .await
        .unwrap();
    let seq = world.engine.fleet().seq();
    for _ in 0..20 {
        let again = world
            .enrolment
            .join(request.clone(), String::new())
            .await
            .unwrap();
        let certificate = |response: &JoinResponse| match response {
            JoinResponse::Admitted(admission) => admission.certificate.clone(),
            JoinResponse::Pending { .. } => panic!("pending"),
        };
        assert_eq!(certificate(&again), certificate(&first));
    }
    assert_eq!(world.engine.fleet().seq(), seq);
    let other_key = Machine {
        tls: Machine::new(2).tls,
        ..Machine::new(1)
    };
    let other = world.join(&other_key, token, SECRET).await.unwrap_err();
    assert_eq!(other.code(), ErrorCode::RateLimited);
    world.stop().await;
}

#[tokio::test]
async fn a_node_that_needs_approval_waits_for_it() {
    let world = World::start().await;
    let machine = Machine::new(1);
    let token = world
        .token(1, Approval::Required, Duration::from_secs(600))
        .await;
    for _ in 0..2 {
        let pending = world.join(&machine, token, SECRET).await.unwrap();
        assert!(matches!(pending, JoinResponse::Pending { retry_after_s } if retry_after_s > 0));
    }
    let early = world
        .enrolment
        .renew(&machine.seal(1, &renewal(&machine)))
        .await;
    assert_eq!(early.unwrap_err().code(), ErrorCode::JoinPending);
    world
        .submit(Operation::ApproveNode(ApproveNode { node: machine.id }))
        .await;
    let admitted = world.join(&machine, token, SECRET).await.unwrap();
    assert!(matches!(admitted, JoinResponse::Admitted(_)));

    let turned_down = Machine::new(2);
    let token = world
        .token(1, Approval::Required, Duration::from_secs(600))
        .await;
    world.join(&turned_down, token, SECRET).await.unwrap();
    let revoke = RevokeNode {
        node: turned_down.id,
        reason: "who is this".to_owned(),
    };
    world.submit(Operation::RevokeNode(revoke)).await;
    let refused = world.join(&turned_down, token, SECRET).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::JoinRejected);
    world.stop().await;
}

fn renewal(machine: &Machine) -> Renew {
    Renew {
        csr: machine.csr(),
        trust_version: 0,
    }
}

#[tokio::test]
async fn renewing_needs_the_signing_key_and_an_unrevoked_node() {
    // So short that it has expired before it is renewed.
    let world = World::with_node_life(Duration::from_secs(1)).await;
    let machine = Machine::new(1);
    let admission = world.admitted(&machine).await;
    let first = world
        .engine
        .fleet()
        .node(machine.id)
        .unwrap()
        .certificate
        .clone();
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let renewed = world
        .enrolment
        .renew(&machine.seal(1, &renewal(&machine)))
        .await
        .unwrap();
    assert_ne!(renewed.certificate, admission.certificate);
    assert_eq!(renewed.trust, Some(world.enrolment.trust()));
    let second = world
        .engine
        .fleet()
        .node(machine.id)
        .unwrap()
        .certificate
        .clone();
    assert_ne!(first, second, "the journal knows the new one");

    let stranger = Machine::new(2);
    let unknown = world
        .enrolment
        .renew(&stranger.seal(1, &renewal(&stranger)))
        .await;
    assert_eq!(unknown.unwrap_err().code(), ErrorCode::EnvelopeUnknownKey);
    let mut forged = machine.seal(1, &renewal(&machine));
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = world.enrolment.renew(&forged).await;
    assert_eq!(forged.unwrap_err().code(), ErrorCode::EnvelopeBadSignature);
    let beat = Heartbeat {
        nonce: Nonce([0; 16]),
        down_seen: 0,
        now: UnixMillis(0),
        uptime_ms: 0,
        outbox_entries: 0,
    };
    let other = world.enrolment.renew(&machine.seal(1, &beat)).await;
    assert_eq!(other.unwrap_err().code(), ErrorCode::MessageUnknownKind);

    let revoke = RevokeNode {
        node: machine.id,
        reason: String::new(),
    };
    world.submit(Operation::RevokeNode(revoke)).await;
    let revoked = world
        .enrolment
        .renew(&machine.seal(1, &renewal(&machine)))
        .await;
    assert_eq!(revoked.unwrap_err().code(), ErrorCode::NodeRevoked);
    world.stop().await;
}
