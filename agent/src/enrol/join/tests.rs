//! Joining against a small HTTPS server that plays the controller, well and badly.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use protocol::id::{FleetId, TokenId};
use protocol::join::ErrorBody;
use protocol::label::Labels;
use protocol::time::UnixMillis;
use rcgen::{BasicConstraints, Certificate, IsCa, Issuer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

use super::*;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const TOKEN: TokenId = TokenId::from_bytes([2; 10]);

/// What the fake controller answers to a join request.
#[derive(Clone)]
enum Answer {
    Admit,
    Pending,
    Refuse(ErrorCode),
    /// Admits, with something changed.
    Wrong(fn(&mut Admission)),
    /// Bytes that are no answer at all.
    Garbage(&'static [u8]),
}

struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        certificate,
        issuer: Issuer::new(params, key),
    }
}

/// A controller on loopback.
struct Controller {
    address: String,
    authority: Arc<Authority>,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

fn fingerprint(authority: &Authority) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, authority.certificate.der()).as_ref());
    bytes
}

impl Controller {
    /// Serves these answers to join requests, the last one for ever; its server
    /// certificate comes from `by`.
    fn start(answers: &[Answer], by: &Arc<Authority>, authority: &Arc<Authority>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &by.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (config, ca, log) = (Arc::new(config), Arc::clone(authority), Arc::clone(&seen));
        let mut answers: VecDeque<Answer> = answers.iter().cloned().collect();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, socket.unwrap());
                if let Some((path, body)) = read_request(&mut stream) {
                    log.lock().unwrap().push((path.clone(), body.clone()));
                    let (status, text) = respond(&path, &body, &mut answers, &ca);
                    let head = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        text.len()
                    );
                    let _sent = stream.write_all(head.as_bytes());
                    let _sent = stream.write_all(&text);
                    stream.conn.send_close_notify();
                    let _sent = stream.flush();
                }
            }
        });
        Self {
            address,
            authority: Arc::clone(authority),
            seen,
        }
    }

    fn new(answers: &[Answer]) -> Self {
        let authority = Arc::new(authority());
        Self::start(answers, &authority, &authority)
    }

    fn token(&self) -> JoinToken {
        JoinToken {
            address: self.address.clone(),
            authority: fingerprint(&self.authority),
            id: TOKEN,
            secret: [3; 32],
        }
    }

    fn joins(&self) -> Vec<serde_json::Value> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|(path, _)| path == "/node/v1/join")
            .map(|(_, body)| serde_json::from_str(body).unwrap())
            .collect()
    }
}

fn read_request(stream: &mut impl std::io::Read) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                })
                .unwrap_or(0_usize);
            if body.len() >= length {
                let path = head.split(' ').nth(1)?.to_owned();
                return Some((path, body.to_owned()));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn trust(authority: &Authority, root: &SigningKey) -> SignedTrust {
    TrustSet {
        fleet: FLEET,
        version: 1,
        issued_at: UnixMillis(1),
        controller_keys: vec![root.public()],
        authorities: vec![authority.certificate.pem()],
        release_keys: Vec::new(),
    }
    .sign(root)
}

fn respond(
    path: &str,
    body: &str,
    answers: &mut VecDeque<Answer>,
    authority: &Authority,
) -> (u16, Vec<u8>) {
    let root = SigningKey::from_seed(&[9; 32]).unwrap();
    if path == "/node/v1/trust" {
        return (200, serde_json::to_vec(&trust(authority, &root)).unwrap());
    }
    let answer = if answers.len() > 1 {
        answers.pop_front().unwrap()
    } else {
        answers.front().unwrap().clone()
    };
    let request: JoinRequest = serde_json::from_str(body).unwrap();
    match answer {
        Answer::Admit => admit(&request, authority, &root, |_| {}),
        Answer::Wrong(change) => admit(&request, authority, &root, change),
        Answer::Pending => {
            let pending = JoinResponse::Pending { retry_after_s: 1 };
            (202, serde_json::to_vec(&pending).unwrap())
        }
        Answer::Refuse(code) => {
            let error = ErrorBody {
                code: code.text().to_owned(),
                detail: code.info().summary.to_owned(),
                action: code.info().action.to_owned(),
                request: "r".to_owned(),
            };
            (code.info().http, serde_json::to_vec(&error).unwrap())
        }
        Answer::Garbage(bytes) => (200, bytes.to_vec()),
    }
}

fn admit(
    request: &JoinRequest,
    authority: &Authority,
    root: &SigningKey,
    change: impl FnOnce(&mut Admission),
) -> (u16, Vec<u8>) {
    let der = pem_body(&request.csr);
    let csr = rcgen::CertificateSigningRequestParams::from_der(&der.into()).unwrap();
    let certificate = csr.signed_by(&authority.issuer).unwrap();
    let mut admission = Admission {
        fleet: FLEET,
        node: request.node,
        name: request.name.clone(),
        labels: Labels::default(),
        certificate: certificate.pem(),
        root: root.public(),
        trust: trust(authority, root),
        brokers: vec!["mqtts://127.0.0.1:8883".to_owned()],
        controllers: vec!["127.0.0.1:7443".to_owned()],
        now: UnixMillis(1_800_000_000_000),
    };
    change(&mut admission);
    let response = JoinResponse::Admitted(Box::new(admission));
    (200, serde_json::to_vec(&response).unwrap())
}

fn pem_body(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn dirs(&self) -> Dirs {
        Dirs {
            state: self.dir.path().join("state"),
            runtime: self.dir.path().join("run"),
            config: self.dir.path().join("agent.toml"),
        }
    }

    /// Every file and directory below the state directory.
    fn contents(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dirs().state) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn options(token: &JoinToken) -> JoinOptions {
    JoinOptions {
        token: TokenText::new(token.to_string()),
        name: "web-1".to_owned(),
        existing: Existing::Keep,
        approval_timeout: Some(Duration::from_secs(20)),
        proxy: None,
    }
}

async fn attempt(home: &Home, options: &JoinOptions) -> Result<Summary, JoinError> {
    join(&home.dirs(), options, &Clock::default()).await
}

#[tokio::test]
async fn a_node_joins_and_its_files_are_its_own() {
    let controller = Controller::new(&[Answer::Admit]);
    let home = Home::new();
    let summary = attempt(&home, &options(&controller.token())).await.unwrap();
    assert_eq!((summary.fleet, summary.name.as_str()), (FLEET, "web-1"));
    assert_eq!(home.contents(), ["identity"]);
    let identity = home.dirs().identity();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&identity), 0o700);
    for file in [
        NODE_KEY,
        NODE_CERTIFICATE,
        SIGNING_KEY,
        AUTHORITIES,
        TRUST,
        ABOUT,
    ] {
        assert_eq!(mode(&identity.join(file)), 0o600, "{file}");
    }
    let loaded = files::load(&identity).unwrap();
    assert_eq!(loaded.identity.node, summary.node);
    let joins = controller.joins();
    assert_eq!(joins.len(), 1);
    assert_eq!(joins[0]["node"], summary.node.to_string());
    let again = attempt(&home, &options(&controller.token())).await;
    assert_eq!(again.unwrap_err().code(), ErrorCode::JoinAlready);
}

#[tokio::test]
async fn every_refusal_keeps_its_code_and_leaves_nothing_behind() {
    for code in [
        ErrorCode::TokenUnknown,
        ErrorCode::TokenExpired,
        ErrorCode::TokenExhausted,
        ErrorCode::TokenRevoked,
        ErrorCode::NodeIdTaken,
        ErrorCode::JoinRejected,
    ] {
        let controller = Controller::new(&[Answer::Refuse(code)]);
        let home = Home::new();
        let error = attempt(&home, &options(&controller.token()))
            .await
            .unwrap_err();
        assert_eq!(error.code(), code);
        assert!(
            crate::chain(&error).contains(code.text()),
            "{}",
            crate::chain(&error)
        );
        assert!(home.contents().is_empty(), "{:?}", home.contents());
        assert_eq!(
            controller.joins().len(),
            1,
            "a definite no is not asked twice"
        );
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_leave_nothing_behind() {
    fn other_node(admission: &mut Admission) {
        admission.node = NodeId::from_bytes([8; 10]);
    }
    fn other_root(admission: &mut Admission) {
        admission.root = SigningKey::from_seed(&[7; 32]).unwrap().public();
    }
    fn other_fleet(admission: &mut Admission) {
        admission.fleet = FleetId::from_bytes([8; 10]);
    }
    fn other_key(admission: &mut Admission) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(Vec::new()).unwrap();
        admission.certificate = params.self_signed(&key).unwrap().pem();
    }
    fn no_certificate(admission: &mut Admission) {
        admission.certificate = "none".to_owned();
    }
    for answer in [
        Answer::Wrong(other_node),
        Answer::Wrong(other_root),
        Answer::Wrong(other_fleet),
        Answer::Wrong(other_key),
        Answer::Wrong(no_certificate),
        Answer::Garbage(b""),
        Answer::Garbage(b"{\"state\":\"admitted\"}"),
        Answer::Garbage(b"<html>"),
    ] {
        let controller = Controller::new(&[answer]);
        let home = Home::new();
        let error = attempt(&home, &options(&controller.token()))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error.code(),
                ErrorCode::MessageMalformed | ErrorCode::TrustInvalid
            ),
            "{error:?}"
        );
        assert!(
            home.contents().is_empty(),
            "{error:?}: {:?}",
            home.contents()
        );
    }
}

#[tokio::test]
async fn a_controller_without_the_tokens_ca_gets_no_secret() {
    let controller = Controller::new(&[Answer::Admit]);
    let mut token = controller.token();
    token.authority = [0; 32];
    let home = Home::new();
    let error = attempt(&home, &options(&token)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::JoinFingerprint);
    assert!(controller.joins().is_empty());
    assert!(home.contents().is_empty());
}

#[tokio::test]
async fn a_server_that_only_repeats_the_right_ca_gets_no_secret() {
    let (real, other) = (Arc::new(authority()), Arc::new(authority()));
    let controller = Controller::start(&[Answer::Admit], &other, &real);
    let home = Home::new();
    let error = attempt(&home, &options(&controller.token()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::JoinUnreachable);
    assert!(controller.joins().is_empty());
    assert!(home.contents().is_empty());
}

#[tokio::test]
async fn a_node_that_waits_for_approval_is_the_same_after_a_restart() {
    let controller = Controller::new(&[Answer::Pending, Answer::Pending, Answer::Admit]);
    let home = Home::new();
    let impatient = JoinOptions {
        approval_timeout: Some(Duration::ZERO),
        ..options(&controller.token())
    };
    let error = attempt(&home, &impatient).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::JoinPending);
    assert_eq!(home.contents(), ["identity.joining"]);
    let summary = attempt(&home, &options(&controller.token())).await.unwrap();
    let nodes: Vec<_> = controller
        .joins()
        .iter()
        .map(|join| join["node"].clone())
        .collect();
    assert_eq!(nodes, vec![serde_json::json!(summary.node.to_string()); 3]);
    assert_eq!(home.contents(), ["identity"]);
}

#[tokio::test]
async fn a_node_that_is_refused_while_it_waits_forgets_its_keys() {
    let refuse = Answer::Refuse(ErrorCode::JoinRejected);
    let controller = Controller::new(&[Answer::Pending, refuse]);
    let home = Home::new();
    let error = attempt(&home, &options(&controller.token()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::JoinRejected);
    assert!(home.contents().is_empty(), "{:?}", home.contents());
}

#[tokio::test]
async fn joining_anew_keeps_the_old_identity_and_store_aside() {
    let controller = Controller::new(&[Answer::Admit]);
    let home = Home::new();
    let first = attempt(&home, &options(&controller.token())).await.unwrap();
    std::fs::write(home.dirs().store(), b"old").unwrap();
    let replace = JoinOptions {
        existing: Existing::Replace,
        ..options(&controller.token())
    };
    let second = attempt(&home, &replace).await.unwrap();
    assert_ne!(first.node, second.node);
    let previous = files::previous_identity(&home.dirs().identity());
    assert_eq!(Summary::read(&previous).unwrap().node, first.node);
    assert_eq!(
        home.contents(),
        ["agent.redb.previous", "identity", "identity.previous"]
    );
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_named() {
    let controller = Controller::new(&[Answer::Admit]);
    let home = Home::new();
    std::fs::write(home.dirs().state, b"a file stands in the way").unwrap();
    let error = attempt(&home, &options(&controller.token()))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::IdentityInvalid);
    assert!(
        crate::chain(&error).contains("state"),
        "{}",
        crate::chain(&error)
    );
}

#[tokio::test]
async fn a_text_that_is_no_token_is_refused_at_once() {
    let home = Home::new();
    let token = Controller::new(&[Answer::Admit]).token();
    let bad = JoinOptions {
        token: TokenText::new("flj1_damaged".to_owned()),
        ..options(&token)
    };
    let error = attempt(&home, &bad).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TokenMalformed);
}

#[test]
fn a_tokens_text_is_hidden() {
    let options = options(&JoinToken {
        address: "controller:1".to_owned(),
        authority: [1; 32],
        id: TOKEN,
        secret: [3; 32],
    });
    let shown = format!("{options:?}");
    assert!(!shown.contains("flj1_"), "{shown}");
}
