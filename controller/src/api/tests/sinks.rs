//! Sinks over the API: set, tried, shown without their secrets, and what callers
//! get who are wrong.

use super::*;

impl World {
    async fn sink(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(method, &format!("/api/v1{path}"), body).await
    }

    async fn code(&self, method: Method, path: &str, body: Value) -> String {
        let (status, answer) = self.sink(method, path, body).await;
        assert!(!status.is_success(), "{answer}");
        answer["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A receiver that answers the next requests with a status.
async fn receiver(status: u16) -> (String, tokio::task::JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 8192];
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            if stream.read(&mut request).await.is_ok() {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    (url, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_set_tried_changed_and_removed_and_its_secret_is_shown_once() {
    let world = World::new("[outbound]\nallow = ['127.0.0.0/8']\n").await;
    let (url, _receiver) = receiver(204).await;
    let given = json!({"url": url, "kinds": ["breaker", "node"], "severity": "warning"});
    let (status, made) = world.sink(Method::PUT, "/sinks/chat", given).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"), "{secret}");
    assert_eq!(made["sink"]["kinds"], json!(["breaker", "node"]));
    assert_eq!(made["sink"]["state"], "idle");

    let (_, tried) = world
        .sink(Method::POST, "/sinks/chat/test", json!({}))
        .await;
    assert_eq!(
        tried,
        json!({"delivered": true, "status": 204, "reason": ""})
    );

    let change = json!({"severity": "critical"});
    let (_, changed) = world.sink(Method::PUT, "/sinks/chat", change).await;
    assert_eq!(changed["sink"]["severity"], "critical");
    assert_eq!(
        changed["sink"]["url"],
        json!(url),
        "what is not given stays"
    );
    assert!(changed["secret"].is_null());
    let (_, renewed) = world
        .sink(Method::PUT, "/sinks/chat", json!({"renew_secret": true}))
        .await;
    assert_ne!(renewed["secret"], json!(secret));
    assert!(renewed["secret"].is_string());

    let (_, list) = world.sink(Method::GET, "/sinks", json!({})).await;
    let (_, trail) = world
        .sink(Method::GET, "/audit/records?limit=100", json!({}))
        .await;
    let encoded = secret.strip_prefix("whsec_").unwrap();
    for shown in [&list, &trail] {
        let text = shown.to_string();
        assert!(text.contains("chat"), "{text}");
        assert!(
            !text.contains("whsec_") && !text.contains(encoded),
            "{text}"
        );
    }
    let (status, _) = world
        .sink(Method::POST, "/sinks/chat/remove", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    let code = world.code(Method::GET, "/sinks/chat", json!({})).await;
    assert_eq!(code, "sink.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trip_is_delivered_and_listed() {
    let world = World::new("[outbound]\nallow = ['127.0.0.0/8']\n").await;
    let (url, _receiver) = receiver(200).await;
    world
        .sink(Method::PUT, "/sinks/chat", json!({"url": url}))
        .await;
    let why = json!({"reason": "odd"});
    world.sink(Method::POST, "/breakers/fleet/trip", why).await;
    let delivered = timeout(PATIENCE, async {
        loop {
            let (_, sink) = world.sink(Method::GET, "/sinks/chat", json!({})).await;
            if sink["delivered"] == 1 {
                return sink;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(delivered.await.unwrap()["state"], "ok");
    let (_, list) = world.sink(Method::GET, "/notices?limit=1", json!({})).await;
    assert_eq!(
        list["notices"][0]["title"],
        "breaker fleet is open for the whole fleet"
    );
    assert_eq!(list["notices"][0]["state"], "raised");
    let metrics = world.client().get(world.url("/metrics"));
    let metrics = metrics.bearer_auth(&world.key).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("fleet_sink_delivered_total{sink=\"chat\"} 1"),
        "{metrics}"
    );
    let (_, status) = world.sink(Method::GET, "/status", json!({})).await;
    assert_eq!(status["sinks_failing"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_sink_is_said() {
    let world = World::new("").await;
    for (body, code) in [
        (json!({}), "sink.invalid"),
        (json!({"url": "nonsense"}), "sink.invalid"),
        (
            json!({"url": "https://ann:pw@example.net/"}),
            "sink.invalid",
        ),
        (
            json!({"url": "https://example.net/", "kinds": ["test"]}),
            "sink.invalid",
        ),
        (
            json!({"url": "https://example.net/", "severity": "fatal"}),
            "sink.invalid",
        ),
        (
            json!({"url": "https://example.net/", "secret": "hunter2"}),
            "sink.invalid",
        ),
        (
            json!({"url": "https://example.net/", "nodes": "a in ("}),
            "selector.invalid",
        ),
        (json!({"url": "https://127.0.0.1/"}), "address.forbidden"),
        (json!({"url": "http://10.0.0.7/"}), "address.forbidden"),
        (json!({"url": "http://93.184.216.34/"}), "address.forbidden"),
        (json!({"uri": "https://example.net/"}), "request.invalid"),
    ] {
        let got = world.code(Method::PUT, "/sinks/chat", body.clone()).await;
        assert_eq!(got, code, "{body}");
    }
    let (_, list) = world.sink(Method::GET, "/sinks", json!({})).await;
    assert_eq!(list["sinks"], json!([]));
    let code = world
        .code(Method::POST, "/sinks/chat/test", json!({}))
        .await;
    assert_eq!(code, "sink.not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_sets_and_tries_sinks() {
    let world = World::new("").await;
    let made = json!({"url": "https://sink.invalid/"});
    world.sink(Method::PUT, "/sinks/chat", made.clone()).await;
    let mut key = String::new();
    for (path, body) in [
        ("principals", json!({"name": "bea"})),
        ("grants", json!({"principal": "bea", "role": "viewer"})),
        ("keys", json!({"principal": "bea"})),
    ] {
        let path = format!("/access/{path}");
        let (status, answer) = world.sink(Method::POST, &path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        key = answer["text"].as_str().unwrap_or_default().to_owned();
    }
    for (method, path, allowed) in [
        (Method::GET, "/sinks", true),
        (Method::GET, "/notices", true),
        (Method::PUT, "/sinks/chat", false),
        (Method::POST, "/sinks/chat/remove", false),
        (Method::POST, "/sinks/chat/test", false),
    ] {
        let path = format!("/api/v1{path}");
        let (status, answer) = world.ask_as(&key, method, &path, made.clone()).await;
        assert_eq!(status.is_success(), allowed, "{path}: {answer}");
        if !allowed {
            assert_eq!(answer["code"], "access.denied");
        }
    }
}
