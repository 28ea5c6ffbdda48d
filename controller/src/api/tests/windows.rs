//! Maintenance windows and nodes out of service over the API.

use super::*;

impl World {
    async fn call(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(method, &format!("/api/v1{path}"), body).await
    }
}

fn nights() -> Value {
    json!({
        "nodes": "role=db",
        "gates": ["deploy", "run"],
        "days": "mon-fri",
        "from": "22:00",
        "length_s": 14_400,
        "zone": "Europe/Paris",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_set_opened_shut_and_removed() {
    let world = World::new("").await;
    let (status, made) = world.call(Method::PUT, "/windows/nights", nights()).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    assert_eq!(made["definition"]["days"], "mon-fri");
    assert_eq!(made["next"].as_array().unwrap().len(), 5);
    let local = made["next"][4]["local"].as_str().unwrap();
    assert!(local.ends_with("22:00 Europe/Paris"), "{local}");

    let asked = json!({"for_s": 600, "reason": "security fix"});
    let (status, opened) = world
        .call(Method::POST, "/windows/nights/open", asked)
        .await;
    assert_eq!(status, StatusCode::OK, "{opened}");
    assert!(opened["open_until"].is_string());
    assert_eq!(opened["opened"]["reason"], "security fix");
    let (_, shut) = world
        .call(Method::POST, "/windows/nights/shut", json!({}))
        .await;
    assert!(shut["opened"].is_null(), "{shut}");

    let (_, list) = world.call(Method::GET, "/windows", json!({})).await;
    assert_eq!(list["windows"][0]["name"], "nights");
    let (status, _) = world
        .call(Method::POST, "/windows/nights/remove", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK);
    let (status, gone) = world.call(Method::GET, "/windows/nights", json!({})).await;
    assert_eq!(
        (status, gone["code"].as_str()),
        (StatusCode::NOT_FOUND, Some("window.not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_window_is_refused_by_code() {
    let world = World::new("").await;
    for (key, value) in [
        ("days", json!("weekdays")),
        ("from", json!("10pm")),
        ("zone", json!("Paris")),
        ("length_s", json!(0)),
        ("gates", json!(["ping"])),
    ] {
        let mut window = nights();
        window[key] = value;
        let (status, body) = world
            .call(Method::PUT, "/windows/odd", window.clone())
            .await;
        assert_eq!(
            (status, body["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("window.invalid")),
            "{window}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_not_there_are_not_taken_out_of_service() {
    let world = World::new("").await;
    for verb in ["cordon", "uncordon", "drain", "decommission"] {
        let path = format!("/service/{verb}");
        let asked = json!({"nodes": "site=nowhere", "reason": "disk"});
        let (status, body) = world.call(Method::POST, &path, asked).await;
        assert_eq!(
            (status, body["code"].as_str()),
            (StatusCode::NOT_FOUND, Some("selector.matches_nothing")),
            "{verb}"
        );
    }
}
