//! The HTTPS API against callers who are wrong, slow, huge, many, or hostile.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use harness::clock;
use harness::controller::{Controller, Plan};
use harness::process::Process;
use reqwest::StatusCode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;

use crate::fleet;

/// A request as any client may send it.
fn ask(
    controller: &Controller,
    key: Option<&str>,
    method: reqwest::Method,
    path: &str,
    body: Option<&str>,
) -> (StatusCode, Value) {
    let client = controller.http();
    let mut request = client.request(method, format!("{}{path}", controller.api()));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_owned());
    }
    let answer = request.send().expect("the API answers");
    let status = answer.status();
    let text = answer.text().unwrap_or_default();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[test]
fn wrong_callers_get_a_code_and_nothing_else() {
    use reqwest::Method;
    let controller = Plan::nodes(0).start();
    let key = fleet::admin_key(&controller);

    let (status, problem) = ask(&controller, None, Method::GET, "/api/v1/nodes", None);
    assert_eq!(status, 401, "{problem}");
    assert_eq!(problem["code"], "key.missing");

    let mut wrong = key.clone();
    wrong.pop();
    wrong.push(if key.ends_with('a') { 'b' } else { 'a' });
    for bad in [wrong.as_str(), "nonsense", ""] {
        let (status, problem) = ask(&controller, Some(bad), Method::GET, "/api/v1/nodes", None);
        assert_eq!(status, 401, "{problem}");
    }

    let unknown = r#"{"name":"x","surprise":1}"#;
    let (status, problem) = ask(
        &controller,
        Some(&key),
        Method::POST,
        "/api/v1/access/principals",
        Some(unknown),
    );
    assert!(status.is_client_error(), "{status} {problem}");
    assert!(problem.to_string().contains("surprise"), "{problem}");

    // It is refused by its length, perhaps while the client is still sending.
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    let answer = controller
        .http()
        .post(format!("{}/api/v1/access/principals", controller.api()))
        .bearer_auth(&key)
        .header("content-type", "application/json")
        .body(huge)
        .send();
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 413));

    let (status, problem) = ask(&controller, Some(&key), Method::GET, "/nowhere", None);
    assert_eq!(status, 404);
    assert_eq!(problem["code"], "route.not_found");
}

#[test]
fn health_readiness_metrics_and_the_document_are_served() {
    use reqwest::Method;
    let controller = Plan::nodes(0).start();
    let key = fleet::admin_key(&controller);
    assert_eq!(ask(&controller, None, Method::GET, "/healthz", None).0, 200);
    assert_eq!(ask(&controller, None, Method::GET, "/readyz", None).0, 200);
    let (status, document) = ask(&controller, None, Method::GET, "/openapi.json", None);
    assert_eq!(status, 200);
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|v| v.starts_with("3.1")),
        "{}",
        document["openapi"]
    );
    let metrics = controller
        .http()
        .get(format!("{}/metrics", controller.api()))
        .bearer_auth(&key)
        .send()
        .unwrap();
    assert_eq!(metrics.status(), 200);
    let headers = metrics.headers().clone();
    let text = metrics.text().unwrap();
    assert!(text.contains("fleet_"), "{text}");
    assert!(
        headers.contains_key("x-content-type-options"),
        "{headers:?}"
    );
    assert!(
        headers.contains_key("strict-transport-security"),
        "{headers:?}"
    );
}

/// A TLS connection to the API that says only what it is told to say.
pub(crate) fn raw(
    controller: &Controller,
) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(controller.ca_file()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = controller.api_address();
    let name = ServerName::IpAddress(address.ip().into());
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    rustls::StreamOwned::new(connection, stream)
}

#[test]
fn slow_clients_are_dropped_and_hold_nobody_up() {
    let controller = Plan::nodes(0)
        .with("FLOTILLA_API_HEADER_TIMEOUT", "2s")
        .with("FLOTILLA_API_HANDSHAKE_TIMEOUT", "2s")
        .start();
    // Some who never finish their TLS handshake, and one that never finishes its
    // headers.
    let silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(controller.api_address()).unwrap())
        .collect();
    let mut slow = raw(&controller);
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: slow\r\n")
        .unwrap();
    slow.flush().unwrap();
    assert_eq!(
        fleet::nodes(&controller.cli()).len(),
        0,
        "others are served"
    );
    let mut answer = Vec::new();
    let began = clock::now();
    let _closed_or_answered = slow.read_to_end(&mut answer);
    assert!(began.elapsed() < Duration::from_secs(20));
    for mut stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let ended = stream.read(&mut [0; 16]);
        assert!(
            matches!(&ended, Ok(0))
                || ended
                    .as_ref()
                    .is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock),
            "a silent client is dropped: {ended:?}"
        );
    }
}

#[test]
fn plain_http_is_not_spoken() {
    let controller = Plan::nodes(0).start();
    let mut stream = TcpStream::connect(controller.api_address()).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    let mut answer = String::new();
    let _refused = stream.read_to_string(&mut answer);
    assert!(!answer.contains("200 OK"), "{answer}");
}

/// How long the flood lasts, and how many take part in it.
const FLOOD: Duration = Duration::from_secs(15);
const FLOODERS: usize = 4;

/// Far beyond what a test machine sends in that time; bounds it on a fast one.
const FLOOD_REQUESTS_MAX: usize = 250_000;

#[test]
fn a_flood_of_anonymous_requests_grows_neither_the_journal_nor_memory() {
    // Without the limit by address, so that each request comes as far as it can.
    let mut controller = Plan::nodes(0)
        .with("FLOTILLA_API_ADDRESS_REQUESTS_PER_MINUTE", "1000000")
        .start();
    let cli = controller.cli();
    let before = journal_sequence(&cli);
    flood(&controller, Duration::from_secs(1));
    let memory = resident_bytes(controller.process());
    let statuses = flood(&controller, FLOOD);
    let asked: usize = statuses.values().sum();
    harness::say(&format!("{asked} anonymous requests: {statuses:?}"));
    assert!(asked > 2_000, "{statuses:?}");
    assert!(
        statuses
            .keys()
            .all(|status| [401, 403, 404, 429].contains(status)),
        "{statuses:?}"
    );
    // A summary a minute, for what may be two minutes, and the start's own records.
    let after = journal_sequence(&cli);
    assert!(after <= before + 4, "{before} records became {after}");
    let grown = resident_bytes(controller.process()).saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes for {asked} requests");
}

/// Sends requests without a key, with a wrong one, and for what is not there, over
/// connections that are kept; how often each status was answered.
fn flood(controller: &Controller, time: Duration) -> BTreeMap<u16, usize> {
    let until = clock::now() + time;
    let each = &|flooder: usize| {
        let client = controller.http();
        let mut statuses = BTreeMap::<u16, usize>::new();
        for number in 0..FLOOD_REQUESTS_MAX / FLOODERS {
            if clock::now() >= until {
                break;
            }
            let mut request = match number % 3 {
                0 => client.get(format!("{}/api/v1/nodes", controller.api())),
                1 => client
                    .post(format!("{}/api/v1/join", controller.api()))
                    .body("{}"),
                _ => client.get(format!("{}/{flooder}/{number}", controller.api())),
            };
            if number % 2 == 0 {
                request = request.bearer_auth(format!("flk1_{flooder}_{number}"));
            }
            // A connection that the controller ended is no answer; the next one is.
            if let Ok(answer) = request.send() {
                let status = answer.status().as_u16();
                let _drained = answer.bytes();
                *statuses.entry(status).or_default() += 1;
            }
        }
        statuses
    };
    std::thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|flooder| scope.spawn(move || each(flooder)))
            .collect();
        let mut all = BTreeMap::new();
        for flooder in flooders {
            for (status, count) in flooder.join().expect("a flooder ends") {
                *all.entry(status).or_default() += count;
            }
        }
        all
    })
}

fn journal_sequence(cli: &harness::cli::Cli) -> u64 {
    let newest = fleet::trail(cli);
    let newest = newest
        .iter()
        .filter_map(|record| record["sequence"].as_u64());
    newest.max().expect("a journal has records")
}

/// The memory that a process has, in bytes.
fn resident_bytes(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .unwrap();
    resident * 1024
}
