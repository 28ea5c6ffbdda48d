//! The doctor against healthy and broken nodes, with real TLS on loopback.

use super::*;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

use crate::config::Source;
use crate::domain::update::record::Phase;
use crate::domain::update::tests::trial;
use crate::update::layout::Layout;

/// 2026-11-23T20:30:00Z
const NOW: UnixMillis = UnixMillis(1_795_465_800_000);
const DATE: &str = "Mon, 23 Nov 2026 20:30:00 GMT";

struct Fleet {
    ca: CertifiedIssuer<'static, KeyPair>,
}

struct Issued {
    pem: String,
    der: rustls_pki_types::CertificateDer<'static>,
    key: KeyPair,
}

impl Issued {
    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

fn fleet() -> Fleet {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    Fleet { ca }
}

impl Fleet {
    fn issue(&self, days: (i64, i64)) -> Issued {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let day = |offset: i64| {
            let seconds = i64::try_from(NOW.0 / 1000).unwrap() + offset * 86_400;
            x509_parser::time::ASN1Time::from_timestamp(seconds)
                .unwrap()
                .to_datetime()
        };
        params.not_before = day(days.0);
        params.not_after = day(days.1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        Issued {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key,
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn client(&self, issued: &Issued) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![issued.der.clone()], issued.key_der())
            .unwrap();
        Arc::new(config)
    }

    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider))
                .build()
                .unwrap();
        let issued = self.issue((-1, 3650));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![issued.der.clone()], issued.key_der())
            .unwrap();
        Arc::new(config)
    }
}

/// Answers one TLS connection with `answer`, once it has been asked if `asked`.
fn tls_server(config: Arc<ServerConfig>, answer: String) -> String {
    let listener = TcpListener::bind("localhost:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(stream, config, &answer);
    });
    address
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, answer: &str) {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut request = [0; 1024];
    // A client that is refused, or that only shook hands, sends nothing.
    if tls.read(&mut request).is_ok_and(|len| len > 0) {
        tls.write_all(answer.as_bytes()).unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    }
}

fn healthy(date: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n")
}

struct Node {
    _dir: tempfile::TempDir,
    subject: Subject,
}

impl Node {
    fn state(&self, name: &str) -> PathBuf {
        self.subject.dirs.state.join(name)
    }

    fn check(&self, name: &str) -> Check {
        let report = examine(&self.subject);
        let found = report.checks.into_iter().find(|check| check.name == name);
        found.unwrap()
    }

    fn expect(&self, name: &str, verdict: Verdict, words: &str) {
        let check = self.check(name);
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert!(check.detail.contains(words), "{check:?}");
        let good = matches!(verdict, Verdict::Ok | Verdict::Skipped);
        assert_eq!(check.advice.is_none(), good, "{check:?}");
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn node_of(fleet: &Fleet, issued: &Issued) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let dirs = Dirs {
        state: base.join("state"),
        runtime: base.join("run"),
        config: base.join("agent.toml"),
    };
    fs::create_dir_all(dirs.identity()).unwrap();
    fs::create_dir(&dirs.runtime).unwrap();
    for folder in [&dirs.state, &dirs.identity()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    write(
        &dirs.identity().join("node.pem"),
        issued.pem.as_bytes(),
        0o600,
    );
    write(&dirs.identity().join("node.key"), b"key", 0o600);
    write(&dirs.store(), b"redb\x1a\x0a\xa9\x0d\x0a and more", 0o600);
    let source = Source {
        file: dirs.config.clone(),
        file_required: false,
        environment: Vec::new(),
        flags: Vec::new(),
    };
    let mut config = source.check("").unwrap();
    config.docker.socket = base.join("docker.sock");
    Node {
        _dir: dir,
        subject: Subject {
            dirs,
            config: Ok(config),
            now: NOW,
            brokers: Vec::new(),
            controllers: Vec::new(),
            tls: Ok(fleet.client(issued)),
        },
    }
}

fn node() -> (Fleet, Node) {
    let fleet = fleet();
    let issued = fleet.issue((-1, 30));
    let node = node_of(&fleet, &issued);
    (fleet, node)
}

#[test]
fn healthy_node_is_told_so() {
    let (fleet, mut node) = node();
    node.subject.brokers = vec![tls_server(fleet.server(), String::new())];
    node.subject.controllers = vec![tls_server(fleet.server(), healthy(DATE))];
    let report = examine(&node.subject);
    for check in &report.checks {
        let expected = match check.name {
            // No agent runs here, and there is no container engine.
            "agent" => Verdict::Warning,
            "containers" | "gate" => Verdict::Skipped,
            _ => Verdict::Ok,
        };
        assert_eq!(check.verdict, expected, "{check:?}");
    }
    assert_eq!(report.exit(), Exit::Ok);
    let table = report.table();
    assert!(
        table.contains("12 checks") || table.contains("13 checks"),
        "{table}"
    );
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["checks"][0]["name"], "config");
    assert_eq!(json["checks"][0]["verdict"], "ok");
}

#[test]
fn clock_is_compared_with_the_controllers() {
    let (fleet, mut node) = node();
    node.subject.controllers = vec![tls_server(
        fleet.server(),
        healthy("Mon, 23 Nov 2025 20:30:00 GMT"),
    )];
    node.expect("clock", Verdict::Failed, "365 d 0 h ahead of");
    node.subject.controllers = Vec::new();
    node.expect("clock", Verdict::Skipped, "nothing to compare");
}

#[test]
fn address_where_nobody_listens_is_named_with_the_step() {
    let (fleet, mut node) = node();
    let closed = {
        let listener = TcpListener::bind("localhost:0").unwrap();
        format!("localhost:{}", listener.local_addr().unwrap().port())
    };
    node.subject.brokers = vec![closed.clone()];
    node.expect("broker", Verdict::Failed, "nobody answers at localhost:");
    node.subject.brokers = vec![closed, tls_server(fleet.server(), String::new())];
    node.expect("broker", Verdict::Warning, "speaks TLS");
    node.subject.brokers = vec!["no-port".to_owned()];
    node.expect("broker", Verdict::Failed, "is not host:port");
    node.subject.brokers = Vec::new();
    node.expect("broker", Verdict::Skipped, "no broker's address is known");
}

#[test]
fn broker_of_another_fleet_fails_in_tls() {
    let (_, mut node) = node();
    node.subject.brokers = vec![tls_server(fleet().server(), String::new())];
    node.expect("broker", Verdict::Failed, "TLS with localhost:");
}

#[test]
fn broker_that_refuses_the_nodes_certificate_is_noticed() {
    let (ours, mut node) = node();
    // Trusts our fleet's server, and shows another fleet's certificate.
    let theirs = fleet();
    let issued = theirs.issue((-1, 30));
    node.subject.tls = Ok(ours.client(&issued));
    node.subject.brokers = vec![tls_server(ours.server(), String::new())];
    node.expect("broker", Verdict::Failed, "TLS with localhost:");
}

#[test]
fn unhealthy_controller_is_quoted() {
    let (fleet, mut node) = node();
    let answer = "HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned();
    node.subject.controllers = vec![tls_server(fleet.server(), answer)];
    node.expect("controller", Verdict::Warning, "503 Service Unavailable");
}

#[test]
fn proxy_that_refuses_is_quoted_and_one_that_connects_is_used() {
    let (fleet, mut node) = node();
    let password = node.state("password");
    write(&password, b"hush\n", 0o600);
    let serve_proxy = |answer: &'static str, tls: Option<Arc<ServerConfig>>| {
        let listener = TcpListener::bind("localhost:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            if let Some(config) = tls {
                serve(stream, config, "");
            }
            String::from_utf8(head).unwrap()
        });
        (port, thread)
    };
    let mut with_proxy = |port: u16| {
        node.subject.config.as_mut().unwrap().uplink.proxy = Some(Proxy {
            host: "localhost".to_owned(),
            port,
            login: Some(("ana".to_owned(), password.clone())),
        });
        node.subject.brokers = vec!["localhost:8883".to_owned()];
    };
    let (port, _thread) = serve_proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", None);
    with_proxy(port);
    node.expect("broker", Verdict::Failed, "407 Proxy Authentication");

    let (port, thread) = serve_proxy("HTTP/1.1 200 OK\r\n\r\n", Some(fleet.server()));
    let mut with_proxy = |port: u16| {
        node.subject
            .config
            .as_mut()
            .unwrap()
            .uplink
            .proxy
            .as_mut()
            .unwrap()
            .port = port;
    };
    with_proxy(port);
    node.expect("broker", Verdict::Ok, "localhost:8883 speaks TLS");
    let head = thread.join().unwrap();
    assert!(
        head.starts_with("CONNECT localhost:8883 HTTP/1.1\r\n"),
        "{head}"
    );
    // base64 of ana:hush
    assert!(head.contains("Basic YW5hOmh1c2g="), "{head}");
}

#[test]
fn node_that_never_joined_is_told_what_to_do() {
    let (_, mut node) = node();
    fs::remove_dir_all(node.subject.dirs.identity()).unwrap();
    node.subject.tls = Err("the node has not joined".to_owned());
    node.expect("permissions", Verdict::Failed, "has not joined");
    node.expect("certificate", Verdict::Failed, "cannot read");
    node.expect("broker", Verdict::Skipped, "not tried");
    node.expect("controller", Verdict::Skipped, "not tried");
    assert_eq!(examine(&node.subject).exit(), Exit::Failed);
}

#[test]
fn keys_that_others_can_read_are_found() {
    let (_, node) = node();
    let key = node.state("identity/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    node.expect("permissions", Verdict::Failed, "node.key has mode 640");
    fs::remove_file(&key).unwrap();
    symlink("/etc/passwd", &key).unwrap();
    node.expect("permissions", Verdict::Failed, "is a symbolic link");
}

#[test]
fn certificates_life_is_judged() {
    let fleet = fleet();
    for (days, verdict, words) in [
        ((-30, -1), Verdict::Failed, "expired"),
        ((-30, 3), Verdict::Warning, "should have been renewed"),
        ((1, 30), Verdict::Warning, "begins to hold"),
        ((-1, 30), Verdict::Ok, "for 30 d"),
    ] {
        let issued = fleet.issue(days);
        node_of(&fleet, &issued).expect("certificate", verdict, words);
    }
    let (_, node) = node();
    write(&node.state("identity/node.pem"), b"nonsense", 0o600);
    node.expect("certificate", Verdict::Failed, "is not a certificate");
}

#[test]
fn store_that_is_none_is_found() {
    let (_, node) = node();
    for bytes in [&b""[..], b"redb", b"SQLite format 3\0"] {
        write(&node.subject.dirs.store(), bytes, 0o600);
        node.expect("store", Verdict::Failed, "is not a store");
    }
    fs::remove_file(node.subject.dirs.store()).unwrap();
    node.expect("store", Verdict::Ok, "does not exist yet");
}

#[test]
fn folders_that_take_no_writes_or_have_no_room_are_found() {
    let (_, mut node) = node();
    node.subject.config.as_mut().unwrap().store.free_bytes_min = u64::MAX;
    node.expect("state", Verdict::Warning, "free, less than");
    fs::remove_dir(&node.subject.dirs.runtime).unwrap();
    node.expect("runtime", Verdict::Failed, "takes no writes");
    fs::write(&node.subject.dirs.runtime, "a file").unwrap();
    node.expect("runtime", Verdict::Failed, "takes no writes");
    let left: Vec<_> = fs::read_dir(&node.subject.dirs.state)
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".doctor"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn wrong_configuration_is_shown() {
    let (_, mut node) = node();
    node.subject.config = Err("sampling.interval: \"x\" is not a duration".to_owned());
    node.expect("config", Verdict::Failed, "sampling.interval");
    node.expect("containers", Verdict::Skipped, "configuration");
}

#[test]
fn container_engine_is_asked() {
    let (_, node) = node();
    let socket = node.subject.config.as_ref().unwrap().docker.socket.clone();
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        for answer in [
            "HTTP/1.1 200 OK\r\nServer: Docker/20.10.24 (linux)\r\n\r\nOK",
            "HTTP/1.1 500 Internal Server Error\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    node.expect("containers", Verdict::Ok, "Docker/20.10.24 (linux) answers");
    node.expect("containers", Verdict::Warning, "500 Internal");
    thread.join().unwrap();
    node.expect("containers", Verdict::Warning, "does not answer");
    fs::remove_file(&socket).unwrap();
    node.expect("containers", Verdict::Skipped, "no container engine");
}

#[test]
fn a_break_glass_file_is_found_whether_it_counts_or_not() {
    let (_fleet, mut node) = node();
    node.expect("gate", Verdict::Skipped, "does not say");
    let path = node.state("break-glass.toml");
    if let Ok(config) = &mut node.subject.config {
        config.gate.break_glass_file.clone_from(&path);
    }
    write(&path, b"reason = \"x\"", 0o666);
    node.expect("gate", Verdict::Warning, "does not count");
}

#[test]
fn the_last_update_is_told_and_one_that_was_given_up_is_a_warning() {
    let (_fleet, node) = node();
    node.expect("update", Verdict::Ok, "as installed");
    let layout = Layout::below(&node.subject.dirs.state);
    let mut trial = trial();
    trial.base = "0.0.1".to_owned();
    layout.keep(&trial).unwrap();
    node.expect("update", Verdict::Ok, "installed after an update to 0.2.0");
    trial.base = crate::program::version().to_owned();
    layout.keep(&trial).unwrap();
    node.expect("update", Verdict::Ok, "is on trial");
    layout.keep(&trial.to(Phase::Proven)).unwrap();
    node.expect("update", Verdict::Ok, "updated from 0.1.0");
    layout.keep(&trial.to(Phase::Abandoned)).unwrap();
    node.expect("update", Verdict::Ok, "before it was started");
    layout.keep(&trial.reverted("it never got ready")).unwrap();
    node.expect("update", Verdict::Warning, "given up: it never got ready");
    fs::write(node.state("update/record"), b"damaged").unwrap();
    node.expect("update", Verdict::Failed, "update/record is damaged");
}
