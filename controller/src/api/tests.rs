//! The HTTPS face on a real socket, over a whole controller in a temporary
//! directory: what it refuses, how it says so, and what it cuts.

mod alerts;
mod breakers;
mod deployments;
mod sinks;
mod windows;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config;
use crate::host;
use crate::serve::{self, Controller};
use crate::telemetry::log::RecentLog;

/// Far above what anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    controller: Controller,
    ca_file: PathBuf,
    key: String,
    // Removed when the world ends.
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(settings: &str) -> Self {
        let installed = rustls::crypto::ring::default_provider().install_default();
        assert!(installed.is_ok() || rustls::crypto::CryptoProvider::get_default().is_some());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("controller.toml");
        let text = format!(
            "state_dir = {:?}\napi.listen = '127.0.0.1:0'\nbroker.listen = '127.0.0.1:0'\n{settings}",
            dir.path().join("state")
        );
        std::fs::write(&file, text).unwrap();
        let config = config::load(Some(&file), Vec::new(), &[]).unwrap();
        let controller = serve::start(config, RecentLog::default()).await.unwrap();
        let key = host::new_admin_key(&controller.engine, "admin")
            .await
            .unwrap();
        Self {
            ca_file: controller.ready.ca_file.clone(),
            controller,
            key,
            _dir: dir,
        }
    }

    fn client(&self) -> reqwest::Client {
        let pem = std::fs::read(&self.ca_file).unwrap();
        reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem).unwrap())
            .no_proxy()
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.controller.api_address)
    }

    /// Sends a request with the admin's key, and gives status and JSON body.
    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask_as(&self.key, method, path, body).await
    }

    async fn ask_as(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let request = self
            .client()
            .request(method, self.url(path))
            .bearer_auth(key)
            .json(&body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn head(&self) -> u64 {
        self.controller.engine.fleet().seq()
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(&self.ca_file).unwrap();
        for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.controller.api_address)
            .await
            .unwrap();
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
            .connect("127.0.0.1".try_into().unwrap(), stream)
            .await
            .unwrap()
    }
}

/// Whatever the peer sends until it closes.
async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset, and a close without TLS's goodbye, are closes too.
    assert!(ended.is_ok(), "the peer keeps the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_counted_and_not_journalled() {
    let world = World::new("").await;
    let before = world.head();
    let client = world.client();
    let response = client.get(world.url("/api/v1/nodes")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let id = response.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "key.missing");
    assert_eq!(problem["request"], id);
    assert!(problem["action"].as_str().unwrap().len() > 5, "{problem}");

    for key in ["nonsense", &format!("flk1_{}", "a".repeat(68))] {
        let (status, problem) = world
            .ask_as(key, Method::GET, "/api/v1/nodes", json!({}))
            .await;
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (401, &json!("key.invalid"))
        );
    }
    let mut limited = 0;
    for _ in 0..40 {
        let (status, _) = world
            .ask_as("nonsense", Method::GET, "/api/v1/nodes", json!({}))
            .await;
        limited += u32::from(status == 429);
    }
    assert!(limited > 0, "failed authentications are not limited");
    assert_eq!(world.head(), before, "a stranger can fill the journal");
    let metrics = client
        .get(world.url("/metrics"))
        .bearer_auth(&world.key)
        .send()
        .await
        .unwrap();
    let text = metrics.text().await.unwrap();
    assert!(
        text.contains("fleet_api_anonymous_denials_total 43"),
        "{text}"
    );
    assert!(
        text.contains("route=\"/api/v1/nodes\",status=\"401\""),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_refused_a_command_and_told_why() {
    let world = World::new("").await;
    let (status, principal) = world
        .ask(
            Method::POST,
            "/api/v1/access/principals",
            json!({"name": "eve"}),
        )
        .await;
    assert_eq!(status, 200, "{principal}");
    let grant = json!({"principal": "eve", "role": "viewer"});
    let (status, _) = world
        .ask(Method::POST, "/api/v1/access/grants", grant)
        .await;
    assert_eq!(status, 200);
    let (status, key) = world
        .ask(
            Method::POST,
            "/api/v1/access/keys",
            json!({"principal": "eve"}),
        )
        .await;
    assert_eq!(status, 200, "{key}");
    let key = key["text"].as_str().unwrap();

    let (status, nodes) = world
        .ask_as(key, Method::GET, "/api/v1/nodes", json!({}))
        .await;
    assert_eq!((status.as_u16(), nodes), (200, json!({"nodes": []})));
    let run = json!({"nodes": "*", "action": {"run": {"argv": ["uptime"]}}, "allow_empty": true});
    let before = world.head();
    let (status, problem) = world
        .ask_as(key, Method::POST, "/api/v1/commands", run)
        .await;
    assert_eq!(status, 403);
    assert_eq!(problem["code"], "access.denied");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("command:run"), "{detail}");
    assert!(world.head() > before, "the denial is not in the journal");

    let (_, page) = world
        .ask(Method::GET, "/api/v1/audit/records?limit=1", json!({}))
        .await;
    let record = &page["records"][0];
    assert_eq!(record["kind"], "request.denied", "{page}");
    assert_eq!(record["caller"], "eve");
    let explain = "/api/v1/access/explain?principal=eve&permission=command:run";
    let (_, explanation) = world.ask(Method::GET, explain, json!({})).await;
    assert_eq!(explanation["allowed"], false);
    assert_eq!(explanation["grants"][0]["outcome"], "other_permission");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name() {
    let world = World::new("api.body_bytes_max = 2048").await;
    for (method, path, body, status, code) in [
        (
            Method::POST,
            "/api/v1/tokens",
            json!({"uses": 1, "expires_s": 60, "colour": 1}),
            400,
            "request.invalid",
        ),
        (
            Method::POST,
            "/api/v1/tokens",
            json!({"uses": "many", "expires_s": 60}),
            400,
            "request.invalid",
        ),
        (
            Method::GET,
            "/api/v1/nodes?selektor=a",
            json!({}),
            400,
            "request.invalid",
        ),
        (
            Method::GET,
            "/api/v1/nodes?selector=a,,b",
            json!({}),
            400,
            "selector.invalid",
        ),
        (
            Method::GET,
            "/api/v1/nodes/nobody",
            json!({}),
            404,
            "node.not_found",
        ),
        (
            Method::GET,
            "/api/v1/commands/xyz",
            json!({}),
            400,
            "request.invalid",
        ),
        (
            Method::GET,
            "/api/v1/nothing",
            json!({}),
            404,
            "route.not_found",
        ),
        (
            Method::DELETE,
            "/api/v1/nodes",
            json!({}),
            404,
            "route.not_found",
        ),
        (
            Method::POST,
            "/api/v1/commands",
            json!({"nodes": "site=lyon", "action": {"ping": {}}}),
            404,
            "selector.matches_nothing",
        ),
        (
            Method::POST,
            "/api/v1/commands",
            json!({"nodes": "*", "action": {"run": {"argv": []}}, "allow_empty": true}),
            400,
            "command.invalid",
        ),
        (
            Method::POST,
            "/api/v1/access/grants",
            json!({"principal": "admin", "role": "x".repeat(4096)}),
            413,
            "request.too_large",
        ),
    ] {
        let (got, problem) = world.ask(method.clone(), path, body).await;
        assert_eq!(problem["code"], code, "{method} {path}: {problem}");
        assert_eq!(problem["status"], got.as_u16(), "{path}");
        assert!(
            got.as_u16() == status || code != "request.invalid",
            "{path}: {got}"
        );
    }
    let (_, problem) = world
        .ask(
            Method::POST,
            "/api/v1/tokens",
            json!({"uses": 1, "expires_s": 60, "colour": 1}),
        )
        .await;
    assert!(
        problem["detail"].as_str().unwrap().contains("colour"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut() {
    let world = World::new(
        "api.handshake_timeout = '1s'\napi.header_timeout = '1s'\napi.body_timeout = '1s'",
    )
    .await;
    let mut silent = TcpStream::connect(world.controller.api_address)
        .await
        .unwrap();
    let mut half = world.connect().await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let mut body = world.connect().await;
    let head = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\r\n{{",
        world.key
    );
    body.write_all(head.as_bytes()).await.unwrap();
    let mut idle = world.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();

    assert_eq!(until_closed(&mut silent).await, "");
    let answered = until_closed(&mut half).await;
    assert!(
        answered.is_empty() || answered.contains(" 408 "),
        "{answered}"
    );
    let mut bytes = vec![0; 2048];
    let count = timeout(PATIENCE, body.read(&mut bytes))
        .await
        .unwrap()
        .unwrap();
    let answered = String::from_utf8_lossy(&bytes[..count]).into_owned();
    assert!(
        answered.contains("request.timeout") || answered.contains(" 408 "),
        "{answered}"
    );
    let answered = until_closed(&mut idle).await;
    assert!(answered.contains("200 OK"), "{answered}");
}

/// A client that would rather speak HTTP/2, as curl and browsers do, is told not to.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_offers_http_2_is_answered_in_http_1() {
    let world = World::new("").await;
    let mut stream = world.connect().await;
    assert_eq!(
        stream.get_ref().1.alpn_protocol(),
        Some(b"http/1.1".as_slice())
    );
    let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answered = until_closed(&mut stream).await;
    assert!(answered.starts_with("HTTP/1.1 200 OK"), "{answered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_its_share_of_connections() {
    let world = World::new("api.connections_per_address_max = 2").await;
    let _first = world.connect().await;
    let _second = world.connect().await;
    let mut third = TcpStream::connect(world.controller.api_address)
        .await
        .unwrap();
    assert_eq!(until_closed(&mut third).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_too_often_is_told_when_to_come_back() {
    let world = World::new("api.key_requests_per_minute = 3").await;
    let client = world.client();
    let mut last = None;
    for _ in 0..5 {
        let request = client
            .get(world.url("/api/v1/status"))
            .bearer_auth(&world.key);
        last = Some(request.send().await.unwrap());
    }
    let last = last.unwrap();
    assert_eq!(last.status(), 429);
    assert!(last.headers().contains_key("retry-after"));
    let probe = client.get(world.url("/healthz")).send().await.unwrap();
    assert_eq!(probe.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_document_and_headers_are_as_promised() {
    let world = World::new("").await;
    let client = world.client();
    let ready = client.get(world.url("/readyz")).send().await.unwrap();
    let headers = ready.headers().clone();
    let status = ready.status();
    let body: Value = ready.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    let names: Vec<_> = body["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert_eq!(names, ["runtime", "journal", "intake", "series", "broker"]);
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert!(headers.contains_key("strict-transport-security"));
    let unauthorised = client.get(world.url("/metrics")).send().await.unwrap();
    assert_eq!(unauthorised.status(), 401);
    let document: Value = client
        .get(world.url("/openapi.json"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_id_makes_nothing_twice() {
    let world = World::new("").await;
    let client = world.client();
    let send = || {
        client
            .post(world.url("/api/v1/tokens"))
            .bearer_auth(&world.key)
            .header("idempotency-key", "abcdefghijklmnop")
            .json(&json!({"uses": 1, "expires_s": 60}))
            .send()
    };
    assert_eq!(send().await.unwrap().status(), 200);
    let again = send().await.unwrap();
    assert_eq!(again.status(), 409);
    let problem: Value = again.json().await.unwrap();
    assert_eq!(problem["code"], "request.conflict");
    let (_, list) = world.ask(Method::GET, "/api/v1/tokens", json!({})).await;
    assert_eq!(list["tokens"].as_array().unwrap().len(), 1);
}

/// A change of the document is a change of the API: review it, then accept the
/// snapshot.
#[test]
fn the_openapi_document_changes_only_on_purpose() {
    insta::assert_snapshot!("openapi", super::rest::document());
}

#[tokio::test]
async fn a_trust_set_that_was_recorded_and_not_written_comes_before_the_next() {
    let world = World::new("").await;
    let pki = world.ca_file.with_file_name("pki");
    let rotate = |change: &str| {
        let body = json!({ "change": change });
        world.ask(Method::POST, "/api/v1/trust/changes", body)
    };
    // A folder where the file is to be written first: the write fails.
    let obstacle = pki.join("trust.bin.partial");
    std::fs::create_dir(&obstacle).unwrap();
    let (status, problem) = rotate("rotate_signing_key").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(problem["code"], "pki.invalid");
    assert_eq!(world.controller.engine.fleet().trust().version, 2);
    let (_, trust) = world.ask(Method::GET, "/api/v1/trust", Value::Null).await;
    assert_eq!(trust["version"], 1, "{trust}");

    std::fs::remove_dir(&obstacle).unwrap();
    let (status, changed) = rotate("rotate_ca").await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["trust"]["version"], 3);
    assert_eq!(changed["trust"]["keys"].as_array().map(Vec::len), Some(2));
    assert_eq!(world.controller.engine.fleet().trust().version, 3);
}
