//! The client against registries that are played on loopback.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::outbound::address::Network;
use crate::outbound::tests::outbound;

const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What a played registry answers to the head of a request, given its own address.
type Play = fn(&str, &str) -> String;

async fn registry(play: Play) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let own = address.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&head[..read]).into_owned();
            // A TLS handshake, which a registry without TLS does not understand.
            if text.starts_with("GET") || text.starts_with("HEAD") {
                let answer = play(&text, &own);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    continue;
                }
            }
        }
    });
    (address, tasks)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn resolve(address: &str, allow: &[&str]) -> Result<String, Unresolved> {
    let allow: Vec<Network> = allow.iter().map(|text| text.parse().unwrap()).collect();
    Registries::new(outbound(allow))
        .resolve(&format!("{address}/shop/web:1.2"))
        .await
}

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

#[tokio::test]
async fn a_tag_is_resolved_by_the_header_or_by_the_manifest() {
    let (address, _task) = registry(|head, _| {
        assert!(head.starts_with("HEAD /v2/shop/web/manifests/1.2 "));
        answer(
            "200 OK",
            &format!("docker-content-digest: {DIGEST}\r\n"),
            "",
        )
    })
    .await;
    assert_eq!(resolve(&address, LOOPBACK).await.unwrap(), DIGEST);

    let (address, _task) = registry(|head, _| {
        let body = if head.starts_with("GET") { "{}" } else { "" };
        answer("200 OK", "docker-content-digest: nonsense\r\n", body)
    })
    .await;
    assert_eq!(
        resolve(&address, LOOPBACK).await.unwrap(),
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    );
}

#[tokio::test]
async fn a_token_is_fetched_where_the_registry_says() {
    let (address, _task) = registry(|head, own| {
        if head.starts_with("GET /token?service=s&scope=repository%3Ashop%2Fweb%3Apull ") {
            answer("200 OK", "", r#"{"token":"abc"}"#)
        } else if head
            .to_ascii_lowercase()
            .contains("authorization: bearer abc")
        {
            answer(
                "200 OK",
                &format!("docker-content-digest: {DIGEST}\r\n"),
                "",
            )
        } else {
            let challenge =
                format!("www-authenticate: Bearer realm=\"http://{own}/token\",service=\"s\"\r\n");
            answer("401 Unauthorized", &challenge, "")
        }
    })
    .await;
    assert_eq!(resolve(&address, LOOPBACK).await.unwrap(), DIGEST);
}

#[tokio::test]
async fn what_cannot_be_resolved_says_why() {
    let cases: [(Play, &str); 5] = [
        (
            |_, _| answer("404 Not Found", "", ""),
            "has no shop/web:1.2",
        ),
        (
            |_, _| {
                answer(
                    "401 Unauthorized",
                    "www-authenticate: Basic realm=\"x\"\r\n",
                    "",
                )
            },
            "asks for credentials",
        ),
        (|_, _| answer("500 Oops", "", ""), "answered status 500"),
        (|_, _| "garbage\r\n\r\n".to_owned(), "cannot be asked"),
        (
            |head, own| {
                if head.starts_with("GET /token") {
                    answer("200 OK", "", "not JSON")
                } else {
                    let challenge =
                        format!("www-authenticate: Bearer realm=\"http://{own}/token\"\r\n");
                    answer("401 Unauthorized", &challenge, "")
                }
            },
            "no token",
        ),
    ];
    for (play, expected) in cases {
        let (address, _task) = registry(play).await;
        let error = resolve(&address, LOOPBACK).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_registry_on_a_private_address_is_not_asked_unless_listed() {
    let (address, _task) = registry(|_, _| panic!("it was asked")).await;
    let error = resolve(&address, &[]).await.unwrap_err();
    assert!(
        matches!(
            error,
            Unresolved::Registry {
                source: OutboundError::Forbidden { .. },
                ..
            }
        ),
        "{error}"
    );
}
