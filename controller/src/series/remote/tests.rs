//! Remote write against a server of a few lines that answers as told. The real
//! Prometheus is in `tests/system`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc as std_mpsc;

use protocol::label::Labels;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::frame::Span;
use protocol::telemetry::{Label, SampleSet, Tier};

use super::message::WriteRequest;
use super::*;

/// Answers each request with the next status, then repeats the last, and hands
/// over what was sent.
fn server(statuses: &'static [u16]) -> (SocketAddr, std_mpsc::Receiver<(String, WriteRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = std_mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for number in 0.. {
            let Ok((mut peer, _)) = listener.accept() else {
                return;
            };
            let (head, body) = request(&mut peer);
            let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
            let status = statuses.get(number).or(statuses.last()).copied().unwrap();
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n"
            );
            peer.write_all(answer.as_bytes()).unwrap();
            if seen
                .send((head, WriteRequest::decode(plain.as_slice()).unwrap()))
                .is_err()
            {
                return;
            }
        }
    });
    (address, requests)
}

fn request(peer: &mut std::net::TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let count = peer.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap()
            .parse()
            .unwrap();
        if bytes.len() >= end + 4 + length {
            return (head, bytes[end + 4..].to_vec());
        }
    }
}

fn frame() -> Forwarded {
    let mut samples = SampleSet::new();
    samples.push(SeriesId::MEM_USED, 16);
    samples.push_labelled(SeriesId::NET_RX_BYTES, &Label::fit("eth0"), 1_234);
    samples.push(SeriesId(60_000), 1);
    let span = Span {
        tier: Tier::Fine,
        start_ms: 1_790_000_000_000,
        interval_ms: 10_000,
        slots: 1,
    };
    Forwarded {
        node: NodeId::from_bytes([7; 10]),
        frame: Frame::from_samples(1, span, [(0, &samples)]),
    }
}

fn tags() -> Tags {
    std::sync::Arc::new(|_| {
        let labels = Labels::from_pairs([("site".to_owned(), "lyon".to_owned())]).unwrap();
        Some(("web-1".to_owned(), labels))
    })
}

fn forwarder(
    settings: Settings,
) -> (
    mpsc::Sender<Forwarded>,
    Forwarder,
    Arc<super::super::Counters>,
) {
    // Another test may have installed it already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let counters = Arc::new(super::super::Counters::default());
    let (sender, forwarder) = Forwarder::new(settings, tags(), Arc::clone(&counters)).unwrap();
    (sender, forwarder, counters)
}

fn plain(address: SocketAddr) -> Settings {
    Settings {
        url: format!("http://{address}/api/v1/write"),
        bearer_token_file: None,
        ca_file: None,
        allow: vec!["127.0.0.0/8".parse().unwrap()],
    }
}

/// Runs a forwarder until the counters say so.
async fn run_until(forwarder: Forwarder, done: impl Fn() -> bool) {
    let stop = CancellationToken::new();
    let watch = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !done() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    tokio::join!(forwarder.run(&stop), watch);
    assert!(done(), "the deadline passed");
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_request_carries_names_labels_units_and_moments() {
    let (address, requests) = server(&[204]);
    let (sender, forwarder, counters) = forwarder(plain(address));
    sender.send(frame()).await.unwrap();
    run_until(forwarder, || read(&counters.remote.sent) == 2).await;
    let (head, request) = requests.recv().unwrap();
    assert!(head.contains("content-encoding: snappy"), "{head}");
    assert!(
        head.contains("x-prometheus-remote-write-version: 0.1.0"),
        "{head}"
    );
    let lines: Vec<(Vec<String>, f64, i64)> = request
        .timeseries
        .iter()
        .map(|line| {
            let labels = line
                .labels
                .iter()
                .map(|pair| format!("{}={}", pair.name, pair.value))
                .collect();
            (labels, line.samples[0].value, line.samples[0].timestamp)
        })
        .collect();
    let node = "node=a4dqobyha4dqobyh".to_owned();
    let owned = |labels: &[&str]| -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    };
    assert_eq!(
        lines,
        [
            (
                owned(&[
                    "__name__=flotilla_mem_used_bytes",
                    "label_site=lyon",
                    "name=web-1",
                    &node
                ]),
                1_048_576.0,
                1_790_000_000_000
            ),
            (
                owned(&[
                    "__name__=flotilla_net_rx_bytes_total",
                    "interface=eth0",
                    "label_site=lyon",
                    "name=web-1",
                    &node
                ]),
                1_234.0,
                1_790_000_000_000
            ),
        ]
    );
}

#[tokio::test]
async fn a_store_that_is_down_is_tried_again() {
    let (address, requests) = server(&[503, 429, 204]);
    let (sender, forwarder, counters) = forwarder(plain(address));
    sender.send(frame()).await.unwrap();
    run_until(forwarder, || read(&counters.remote.sent) == 2).await;
    assert_eq!(read(&counters.remote.retries), 2);
    assert_eq!(read(&counters.remote.dropped), 0);
    assert_eq!(requests.try_iter().count(), 3);
}

#[tokio::test]
async fn what_is_refused_for_good_is_dropped_and_counted() {
    let (address, _requests) = server(&[400]);
    let (sender, forwarder, counters) = forwarder(plain(address));
    sender.send(frame()).await.unwrap();
    run_until(forwarder, || read(&counters.remote.dropped) == 2).await;
    assert_eq!(read(&counters.remote.retries), 0);
}

#[tokio::test]
async fn a_store_on_a_network_that_is_not_listed_is_never_reached() {
    let (address, requests) = server(&[204]);
    let (sender, forwarder, counters) = forwarder(Settings {
        allow: Vec::new(),
        ..plain(address)
    });
    sender.send(frame()).await.unwrap();
    run_until(forwarder, || read(&counters.remote.retries) > 1).await;
    assert_eq!(read(&counters.remote.sent), 0);
    assert_eq!(requests.try_iter().count(), 0);
}

#[tokio::test]
async fn a_stop_ends_the_tries() {
    let (sender, forwarder, _) = forwarder(plain(SocketAddr::from(([127, 0, 0, 1], 9))));
    sender.send(frame()).await.unwrap();
    let stop = CancellationToken::new();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    };
    tokio::time::timeout(Duration::from_secs(5), async {
        tokio::join!(forwarder.run(&stop), cancel)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_bearer_token_is_sent_and_never_shown() {
    let (address, requests) = server(&[204]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "s3cret\n").unwrap();
    let (sender, forwarder, counters) = forwarder(Settings {
        bearer_token_file: Some(path),
        ..plain(address)
    });
    assert!(!format!("{forwarder:?}").contains("s3cret"));
    sender.send(frame()).await.unwrap();
    run_until(forwarder, || read(&counters.remote.sent) == 2).await;
    let (head, _) = requests.recv().unwrap();
    assert!(head.contains("authorization: bearer s3cret"), "{head}");
}

#[test]
fn a_wrong_setup_is_named() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let setup = |settings| {
        Forwarder::new(settings, tags(), Arc::default())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let base = plain(SocketAddr::from(([127, 0, 0, 1], 9)));
    assert_eq!(
        setup(Settings {
            url: "ftp://host/x".to_owned(),
            ..base.clone()
        }),
        "\"ftp://host/x\" is no http or https URL"
    );
    let missing = Path::new("/nonexistent/token").to_owned();
    assert_eq!(
        setup(Settings {
            bearer_token_file: Some(missing),
            ..base
        }),
        "cannot read /nonexistent/token"
    );
}
