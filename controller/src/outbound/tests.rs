//! The client against servers of the test's own, on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A server that answers each connection with what `answer` makes of the request's
/// head, and counts connections. It ends with the task that is returned.
async fn server(
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let task = async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            seen.fetch_add(1, Ordering::Relaxed);
            let mut head = vec![0; 4096];
            let Ok(read) = stream.read(&mut head).await else {
                continue;
            };
            let text = answer(&String::from_utf8_lossy(&head[..read]));
            if stream.write_all(text.as_bytes()).await.is_err() {
                continue;
            }
        }
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    (address, count, tasks)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
}

fn get(url: &str) -> Request {
    Request {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Vec::new(),
        timeout: Duration::from_secs(5),
        bytes_max: 1024,
    }
}

/// A client, in a process whose `main` did not set TLS up.
pub(crate) fn outbound(allow: Vec<Network>) -> Outbound {
    let installed = rustls::crypto::ring::default_provider().install_default();
    assert!(installed.is_ok() || rustls::crypto::CryptoProvider::get_default().is_some());
    Outbound::new(allow).unwrap()
}

fn client(allow: &[&str]) -> Outbound {
    let allow: Vec<Network> = allow.iter().map(|text| text.parse().unwrap()).collect();
    outbound(allow)
}

#[tokio::test]
async fn loopback_is_reached_only_when_it_is_listed() {
    let (address, count, _task) = server(|_| ok("hello")).await;
    for url in [
        format!("http://{address}/"),
        format!("https://{address}/"),
        format!("http://localhost:{}/", address.port()),
        format!("http://[::ffff:127.0.0.1]:{}/", address.port()),
    ] {
        let error = client(&[]).send(get(&url)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::AddressForbidden, "{url}: {error}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 0, "nothing was opened");
    for url in [
        format!("http://{address}/"),
        format!("http://localhost:{}/", address.port()),
    ] {
        let answer = client(&["127.0.0.0/8"]).send(get(&url)).await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, &b"hello"[..])
        );
    }
}

#[tokio::test]
async fn a_redirect_to_what_is_forbidden_is_not_followed() {
    let (address, count, _task) = server(|_| redirect("http://127.0.0.2/")).await;
    // The server's own address is listed, and no other.
    let error = client(&["127.0.0.1"])
        .send(get(&format!("http://{address}/")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::AddressForbidden, "{error}");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn redirects_and_answers_are_bounded() {
    let (address, count, _task) = server(|_| redirect("/again")).await;
    let allowed = client(&["127.0.0.0/8"]);
    let error = allowed
        .send(get(&format!("http://{address}/")))
        .await
        .unwrap_err();
    assert!(matches!(error, OutboundError::Redirects { .. }), "{error}");
    assert_eq!(count.load(Ordering::Relaxed), REDIRECTS_MAX + 1);

    let (address, _, _task) = server(|_| ok(&"x".repeat(2000))).await;
    let error = allowed
        .send(get(&format!("http://{address}/")))
        .await
        .unwrap_err();
    assert!(matches!(error, OutboundError::TooLong { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::PeerUnreachable);
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_host() {
    let (inner, _, _inner) = server(|head| {
        let told = head.to_ascii_lowercase().contains("authorization");
        ok(if told { "told" } else { "untold" })
    })
    .await;
    let (outer, _, _outer) = server(move |_| redirect(&format!("http://{inner}/"))).await;
    let mut request = get(&format!("http://{outer}/"));
    request
        .headers
        .insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
    let answer = client(&["127.0.0.0/8"]).send(request).await.unwrap();
    assert_eq!(answer.body, b"untold");
}

#[tokio::test]
async fn a_silent_server_ends_by_the_clock() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut request = get(&format!("http://{address}/"));
    request.timeout = Duration::from_millis(100);
    let error = client(&["127.0.0.0/8"]).send(request).await.unwrap_err();
    assert!(matches!(error, OutboundError::Timeout { .. }), "{error}");
}
