//! Breakers over the API: the good way, and what callers get who are wrong.

use super::*;

impl World {
    async fn breaker(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(method, &format!("/api/v1{path}"), body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_defined_tripped_overridden_and_reset() {
    let world = World::new("").await;
    let (status, list) = world.breaker(Method::GET, "/breakers", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(list["breakers"][0]["name"], "fleet");
    assert_eq!(list["breakers"][0]["state"], "closed");
    assert_eq!(list["lease_s"], 86_400);

    let sites = json!({
        "span": "label:site",
        "watches": ["command"],
        "gates": ["run"],
        "consecutive": 3,
    });
    let (status, made) = world.breaker(Method::PUT, "/breakers/sites", sites).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["definition"]["percent"], 20);

    let why = json!({"group": "lyon", "reason": "odd"});
    let (status, tripped) = world
        .breaker(Method::POST, "/breakers/sites/trip", why)
        .await;
    assert_eq!(status, StatusCode::OK, "{tripped}");
    assert_eq!(tripped["state"], "open");
    assert_eq!(tripped["groups"][0]["group"], "lyon");
    assert!(tripped["groups"][0]["tries_at"].is_string());
    let (status, refused) = world
        .breaker(Method::POST, "/breakers/sites/remove", json!({}))
        .await;
    assert_eq!(
        (status, refused["code"].as_str()),
        (StatusCode::CONFLICT, Some("breaker.state"))
    );

    let pass = json!({"nodes": "site=lyon", "for_s": 600, "reason": "the fix"});
    let (status, _) = world
        .breaker(Method::POST, "/breakers/sites/override", pass)
        .await;
    assert_eq!(status, StatusCode::OK);
    let (_, list) = world.breaker(Method::GET, "/breakers", json!({})).await;
    assert_eq!(list["overrides"][0]["number"], 1);
    assert!(list["policy_epoch"].as_u64().unwrap() >= 3);
    let (status, _) = world
        .breaker(Method::POST, "/overrides/1/end", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);

    let why = json!({"reason": "fine"});
    world
        .breaker(Method::POST, "/breakers/sites/isolate", why.clone())
        .await;
    let (_, reset) = world
        .breaker(Method::POST, "/breakers/sites/reset", why)
        .await;
    assert_eq!(reset["state"], "closed");
    let (_, shown) = world
        .breaker(Method::GET, "/breakers/sites", json!({}))
        .await;
    assert_eq!(shown["history"].as_array().unwrap().len(), 4);
    let (status, _) = world
        .breaker(Method::POST, "/breakers/sites/remove", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_breaker_is_refused_by_code() {
    let world = World::new("").await;
    let (status, body) = world
        .breaker(Method::GET, "/breakers/none", json!({}))
        .await;
    assert_eq!(
        (status, body["code"].as_str()),
        (StatusCode::NOT_FOUND, Some("breaker.not_found"))
    );
    for definition in [
        json!({"span": "galaxy"}),
        json!({"rollouts": "explode"}),
        json!({"confidence": "p42"}),
        json!({"watches": ["stars"]}),
        json!({"gates": ["logs"]}),
        json!({"percent": 100}),
        json!({"window_s": u64::MAX}),
    ] {
        let (_, body) = world
            .breaker(Method::PUT, "/breakers/odd", definition.clone())
            .await;
        assert_eq!(body["code"], "breaker.invalid", "{definition}");
    }
}
