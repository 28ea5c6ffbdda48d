//! Alert rules and silences over the API: the good way, and what callers get who are
//! wrong. What fires is the desk's and the system's tests'.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_defined_watched_and_removed() {
    let world = World::new("").await;
    let path = "/api/v1/alert-rules/disk-full";
    let rule = json!({"when": "fs.used>90% for 5m", "severity": "critical"});
    let (status, made) = world.ask(Method::PUT, path, rule).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["definition"]["when"], "fs.used > 90% for 5m");
    assert_eq!(made["definition"]["nodes"], "*");
    assert_eq!(made["firing"], 0);

    let breaker = json!({"watches": ["condition:disk-full"], "gates": ["run"], "count": 2});
    let (status, refused) = world
        .ask(Method::PUT, "/api/v1/breakers/disks", breaker)
        .await;
    assert_eq!(status, StatusCode::OK, "{refused}");
    let (_, list) = world
        .ask(Method::GET, "/api/v1/alert-rules", json!({}))
        .await;
    assert_eq!(list["rules"][0]["breakers"], json!(["disks"]));
    assert!(list["policy_bytes"].as_u64() > Some(0));

    let remove = "/api/v1/alert-rules/disk-full/remove";
    let (status, body) = world.ask(Method::POST, remove, json!({})).await;
    assert_eq!(
        (status, body["code"].as_str()),
        (StatusCode::CONFLICT, Some("alert.rule_in_use"))
    );
    let (_, body) = world
        .ask(Method::POST, "/api/v1/breakers/disks/remove", json!({}))
        .await;
    assert_eq!(body["name"], "disks");
    let (status, _) = world.ask(Method::POST, remove, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = world.ask(Method::GET, path, json!({})).await;
    assert_eq!(
        (status, body["code"].as_str()),
        (StatusCode::NOT_FOUND, Some("alert.rule_not_found"))
    );
    for path in ["/api/v1/alerts?all=true", "/api/v1/alerts/history?limit=5"] {
        let (status, body) = world.ask(Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_is_made_listed_and_ended() {
    let world = World::new("").await;
    let asked = json!({"nodes": "site=lyon", "for_s": 7200, "reason": "disks are swapped"});
    let (status, made) = world
        .ask(Method::POST, "/api/v1/silences", asked.clone())
        .await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!((&made["number"], &made["rule"]), (&json!(1), &json!(null)));
    let (_, list) = world.ask(Method::GET, "/api/v1/silences", json!({})).await;
    assert_eq!(list["silences"][0]["reason"], "disks are swapped");
    let end = "/api/v1/silences/1/end";
    let (status, _) = world.ask(Method::POST, end, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, body) = world.ask(Method::POST, end, json!({})).await;
    assert_eq!(
        (status, body["code"].as_str()),
        (StatusCode::NOT_FOUND, Some("alert.silence_not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rule_or_silence_is_refused_by_code() {
    let world = World::new("").await;
    let path = "/api/v1/alert-rules/odd";
    for (rule, code) in [
        (json!({"when": "fs.used > 90 bananas"}), "condition.invalid"),
        (
            json!({"when": "load.1m > 4", "severity": "loud"}),
            "alert.rule_invalid",
        ),
        (
            json!({"when": "load.1m > 4", "resolve_after_s": u64::MAX}),
            "alert.rule_invalid",
        ),
        (
            json!({"when": "load.1m > 4", "nodes": "site in ("}),
            "selector.invalid",
        ),
    ] {
        let (_, body) = world.ask(Method::PUT, path, rule.clone()).await;
        assert_eq!(body["code"], code, "{rule}");
    }
    let (_, body) = world
        .ask(Method::PUT, path, json!({"when": "fs.used > 90 bananas"}))
        .await;
    assert!(
        body["detail"].as_str().unwrap().contains("character 14"),
        "{body}"
    );
    let silence = json!({"nodes": "*", "for_s": 0, "reason": "none"});
    let (_, body) = world.ask(Method::POST, "/api/v1/silences", silence).await;
    assert_eq!(body["code"], "alert.silence_invalid");
}
