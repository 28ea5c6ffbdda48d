//! Nodes fetch by the real routes, from a real engine and real stores.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of event among many"
)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use protocol::deployment::spec::FileKind;
use protocol::envelope::Seal;
use protocol::fetch::SHA256_HEADER;
use protocol::id::FleetId;
use protocol::join::Renew;
use protocol::key::SigningKey;
use protocol::label::Labels;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::api::node::fetch_routes;
use crate::archive::Progress;
use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::RecoverAdmin;
use crate::domain::event::Event;
use crate::domain::fleet::admit::AdmitNode;
use crate::domain::fleet::manage::RevokeNode;
use crate::domain::fleet::node::AdmissionFacts;
use crate::domain::fleet::token::{Approval, CreateToken};
use crate::domain::moment::Moment;
use crate::domain::operation::Operation;
use crate::engine::task::{self as engine_task, Options};
use crate::journal::Journal;
use crate::operation::failure::Failure;
use crate::vault::key::VaultKey;

const FLEET: FleetId = FleetId::from_bytes([7; 10]);
const NODE: NodeId = NodeId::from_bytes([1; 10]);
const PENDING: NodeId = NodeId::from_bytes([2; 10]);
const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const SECRET: [u8; 32] = [42; 32];

/// What nodes may have, in a list.
#[derive(Default)]
struct Listed(Mutex<BTreeSet<(NodeId, String)>>);

impl Wants for Listed {
    fn file(&self, node: NodeId, digest: &str) -> bool {
        self.0.lock().unwrap().contains(&(node, digest.to_owned()))
    }
    fn archive(&self, node: NodeId, digest: &str) -> bool {
        self.file(node, digest)
    }
    fn release(&self, node: NodeId, sha256: &str) -> bool {
        self.file(node, sha256)
    }
}

struct World {
    engine: Engine,
    admin: Caller,
    vault: Vault,
    archives: Archives,
    listed: Arc<Listed>,
    fetches: Fetches,
    _tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

fn key(node: NodeId) -> SigningKey {
    SigningKey::from_seed(&[node.as_bytes()[0]; 32]).unwrap()
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signing = Arc::new(SigningKey::from_seed(&[9; 32]).unwrap());
        let path = directory.path().join("journal.redb");
        let journal = Journal::create(&path, FLEET, signing, NOW).unwrap();
        let mut seed = 0_u64;
        let moments = Box::new(move || {
            seed += 1;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            Moment::new(NOW, bytes)
        });
        let (engine, task) = engine_task::open(journal, moments, Options::default()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { task.run(CancellationToken::new()).await.unwrap() });
        let vault_key = VaultKey::from_text("0a".repeat(32).as_bytes()).unwrap();
        let vault = Vault::open(&directory.path().join("vault"), &vault_key).unwrap();
        let archives = Archives::open(&directory.path().join("archives")).unwrap();
        let listed = Arc::<Listed>::default();
        let fetches = Fetches::new(
            engine.clone(),
            vault.clone(),
            archives.clone(),
            Archives::of_releases(&directory.path().join("releases")).unwrap(),
            Arc::clone(&listed) as Arc<dyn Wants>,
            Arc::new(|| NOW),
        );
        let mut world = Self {
            engine,
            admin: Caller::Host,
            vault,
            archives,
            listed,
            fetches,
            _tasks: tasks,
            _directory: directory,
        };
        world.recover_admin().await;
        world.admit(NODE, Approval::Automatic).await;
        world.admit(PENDING, Approval::Required).await;
        world
    }

    async fn submit(&self, caller: Caller, operation: Operation) -> Vec<Event> {
        let applied = self.engine.submit(caller, None, operation).await;
        applied.unwrap().events
    }

    async fn recover_admin(&mut self) {
        let recover = RecoverAdmin {
            name: "ada".to_owned(),
            secret: SecretDigest::of(&SECRET),
            lifetime: None,
        };
        let events = self
            .submit(Caller::Host, Operation::RecoverAdmin(recover))
            .await;
        let created = events.iter().find_map(|event| match event {
            Event::KeyCreated(created) => Some(created.clone()),
            _ => None,
        });
        let created = created.unwrap();
        self.admin = Caller::Principal {
            id: created.principal,
            key: created.key,
        };
    }

    async fn admit(&self, node: NodeId, approval: Approval) {
        let create = CreateToken {
            secret: SecretDigest::of(&SECRET),
            labels: Labels::default(),
            lifetime: Duration::from_secs(600),
            uses_max: 1,
            approval,
            replaces: None,
        };
        let events = self
            .submit(self.admin, Operation::CreateToken(create))
            .await;
        let token = events.iter().find_map(|event| match event {
            Event::TokenCreated(created) => Some(created.token),
            _ => None,
        });
        let admit = AdmitNode {
            token: token.unwrap(),
            secret: SecretDigest::of(&SECRET),
            node,
            name: format!("node-{}", node.as_bytes()[0]),
            signing_key: key(node).public(),
            facts: AdmissionFacts {
                agent_version: "1.0.0".to_owned(),
                address: "192.0.2.7".to_owned(),
            },
        };
        self.submit(Caller::Anonymous, Operation::AdmitNode(admit))
            .await;
    }

    fn allow(&self, digest: &str) {
        self.listed
            .0
            .lock()
            .unwrap()
            .insert((NODE, digest.to_owned()));
    }

    fn file(&self) -> FetchFile {
        let digest = self.vault.put(FileKind::Secret, b"hunter2", NOW).unwrap();
        FetchFile { digest, now: NOW }
    }

    /// Uploads an archive; returns its bytes and a request for it.
    fn archive(&self) -> (Vec<u8>, FetchArchive) {
        let mut builder = tar::Builder::new(Vec::new());
        let parts: [(&str, Vec<u8>); 3] = [
            ("config.json", b"{}".to_vec()),
            ("layer.tar", vec![7; 300_000]),
            (
                "manifest.json",
                br#"[{"Config":"config.json","Layers":["layer.tar"]}]"#.to_vec(),
            ),
        ];
        for (path, content) in parts {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_slice())
                .unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let digest: Digest = HEXLOWER.encode(sha256.as_ref()).parse().unwrap();
        let size = bytes.len() as u64;
        let progress = self.archives.append(digest, size, 0, &bytes, NOW).unwrap();
        assert!(matches!(progress, Progress::Held(_)));
        let asked = FetchArchive {
            digest: digest.to_string(),
            offset: 0,
            now: NOW,
        };
        (bytes, asked)
    }
}

fn sealed_by<M: Message>(node: NodeId, key: &SigningKey, fleet: FleetId, message: &M) -> Vec<u8> {
    let seal = Seal {
        fleet,
        sender: node,
        key,
    };
    seal.seal(1, NOW, message)
}

fn sealed<M: Message>(message: &M) -> Vec<u8> {
    sealed_by(NODE, &key(NODE), FLEET, message)
}

/// The body and the SHA-256 header, or the code.
async fn post(
    world: &World,
    path: &str,
    body: Vec<u8>,
) -> Result<(Vec<u8>, Option<String>), ErrorCode> {
    let request = Request::post(path).body(Body::from(body)).unwrap();
    let router = fetch_routes(world.fetches.clone());
    let response = router.oneshot(request).await.unwrap();
    if let Some(failure) = response.extensions().get::<Failure>() {
        return Err(failure.code);
    }
    assert_eq!(response.status(), 200);
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let (length, sha256) = (
        header(header::CONTENT_LENGTH.as_str()),
        header(SHA256_HEADER),
    );
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    if let Some(length) = length {
        assert_eq!(length, body.len().to_string());
    }
    Ok((body.to_vec(), sha256))
}

async fn file(world: &World, body: Vec<u8>) -> Result<(Vec<u8>, Option<String>), ErrorCode> {
    post(world, "/node/v1/file", body).await
}

async fn archive(world: &World, asked: &FetchArchive) -> Result<Vec<u8>, ErrorCode> {
    let answer = post(world, "/node/v1/archive", sealed(asked)).await;
    answer.map(|(body, _)| body)
}

#[tokio::test]
async fn a_node_gets_a_file_that_is_wanted_of_it() {
    let world = World::new().await;
    let asked = world.file();
    let refused = file(&world, sealed(&asked)).await.unwrap_err();
    assert_eq!(refused, ErrorCode::FileNotFound);
    world.allow(&asked.digest);
    let (body, sha256) = file(&world, sealed(&asked)).await.unwrap();
    assert_eq!(body, b"hunter2");
    let expected = ring::digest::digest(&ring::digest::SHA256, b"hunter2");
    assert_eq!(sha256, Some(HEXLOWER.encode(expected.as_ref())));
    let lost = "0b".repeat(32);
    world.allow(&lost);
    let lost = FetchFile {
        digest: lost,
        now: NOW,
    };
    assert_eq!(
        file(&world, sealed(&lost)).await.unwrap_err(),
        ErrorCode::FileNotFound
    );
}

#[tokio::test]
async fn a_node_gets_an_archive_that_is_wanted_of_it_from_any_byte_on() {
    let world = World::new().await;
    let (bytes, asked) = world.archive();
    assert_eq!(
        archive(&world, &asked).await,
        Err(ErrorCode::ArchiveNotFound)
    );
    world.allow(&asked.digest);
    for offset in [0, 1, 200_000, bytes.len()] {
        let asked = FetchArchive {
            offset: offset as u64,
            ..asked.clone()
        };
        assert_eq!(archive(&world, &asked).await.unwrap(), &bytes[offset..]);
    }
    let behind = FetchArchive {
        offset: bytes.len() as u64 + 1,
        ..asked
    };
    assert_eq!(
        archive(&world, &behind).await,
        Err(ErrorCode::RequestConflict)
    );
    let odd = FetchArchive {
        digest: "../x".to_owned(),
        offset: 0,
        now: NOW,
    };
    assert_eq!(archive(&world, &odd).await, Err(ErrorCode::ArchiveNotFound));
}

#[tokio::test]
async fn only_an_active_node_with_its_key_and_a_fresh_request_gets_anything() {
    let world = World::new().await;
    let asked = world.file();
    world.allow(&asked.digest);
    for node in [PENDING, NodeId::from_bytes([3; 10])] {
        world
            .listed
            .0
            .lock()
            .unwrap()
            .insert((node, asked.digest.clone()));
    }
    let stranger = NodeId::from_bytes([3; 10]);
    let other = FleetId::from_bytes([8; 10]);
    let past = FRESH_MAX + Duration::from_millis(1);
    let at = |now| FetchFile {
        now,
        ..asked.clone()
    };
    let mut forged = sealed(&asked);
    *forged.last_mut().unwrap() ^= 1;
    let renew = Renew {
        csr: String::new(),
        trust_version: 1,
    };
    for (body, code) in [
        (
            sealed_by(PENDING, &key(PENDING), FLEET, &asked),
            ErrorCode::JoinPending,
        ),
        (
            sealed_by(stranger, &key(stranger), FLEET, &asked),
            ErrorCode::EnvelopeUnknownKey,
        ),
        (
            sealed_by(NODE, &key(stranger), FLEET, &asked),
            ErrorCode::EnvelopeUnknownKey,
        ),
        (
            sealed_by(NODE, &key(NODE), other, &asked),
            ErrorCode::EnvelopeWrongFleet,
        ),
        (forged, ErrorCode::EnvelopeBadSignature),
        (b"hello".to_vec(), ErrorCode::EnvelopeMalformed),
        (sealed(&renew), ErrorCode::MessageUnknownKind),
        (sealed(&at(NOW.before(past))), ErrorCode::EnvelopeReplayed),
        (sealed(&at(NOW.after(past))), ErrorCode::EnvelopeReplayed),
    ] {
        assert_eq!(file(&world, body).await.unwrap_err(), code);
    }
    for fresh in [NOW.before(FRESH_MAX), NOW.after(FRESH_MAX)] {
        assert!(file(&world, sealed(&at(fresh))).await.is_ok());
    }
    let revoke = RevokeNode {
        node: NODE,
        reason: "stolen".to_owned(),
    };
    world
        .submit(world.admin, Operation::RevokeNode(revoke))
        .await;
    let refused = file(&world, sealed(&asked)).await.unwrap_err();
    assert_eq!(refused, ErrorCode::NodeRevoked);
}

#[tokio::test]
async fn downloads_at_a_time_have_a_bound_and_give_their_place_back() {
    let world = World::new().await;
    let (_, asked) = world.archive();
    world.allow(&asked.digest);
    let mut open = Vec::new();
    for _ in 0..ARCHIVES_AT_ONCE_MAX {
        open.push(world.fetches.archive(&sealed(&asked)).await.unwrap());
    }
    assert_eq!(archive(&world, &asked).await, Err(ErrorCode::EngineBusy));
    open.pop();
    assert!(archive(&world, &asked).await.is_ok());
    // The body of an answer holds its place until it is read or dropped.
    let request = Request::post("/node/v1/archive")
        .body(Body::from(sealed(&asked)))
        .unwrap();
    let answer = fetch_routes(world.fetches.clone())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(archive(&world, &asked).await, Err(ErrorCode::EngineBusy));
    drop(answer);
    assert!(archive(&world, &asked).await.is_ok());
}
