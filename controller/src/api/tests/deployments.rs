//! Deployments, rollouts, secrets and images over the API: the good way, and what
//! callers get who are wrong.

use data_encoding::BASE64;
use protocol::key::PublicKey;
use protocol::label::Labels;

use super::*;
use crate::domain::access::caller::Caller;
use crate::domain::access::key::SecretDigest;
use crate::domain::access::manage::CreateGrant;
use crate::domain::event::Event;
use crate::domain::fleet::admit::AdmitNode;
use crate::domain::fleet::node::AdmissionFacts;
use crate::domain::fleet::token::{Approval, CreateToken};
use crate::domain::operation::Operation;

const COMPOSE: &str = "services:\n  web:\n    image: 127.0.0.1:1/shop/web:1\n";

impl World {
    /// Lets nodes in, as join tokens do, with these names and sites.
    async fn admit(&self, nodes: &[(&str, &str)]) {
        let engine = &self.controller.engine;
        let admin = engine
            .fleet()
            .access()
            .keys()
            .next()
            .map(|key| Caller::Principal {
                id: key.principal,
                key: key.id,
            });
        for (number, (name, site)) in (1_u8..).zip(nodes) {
            let secret = SecretDigest::of(&[number; 32]);
            let pairs = [("site".to_owned(), (*site).to_owned())];
            let create = CreateToken {
                secret,
                labels: Labels::from_pairs(pairs).unwrap(),
                lifetime: Duration::from_secs(60),
                uses_max: 1,
                approval: Approval::Automatic,
                replaces: None,
            };
            let applied = engine
                .submit(admin.unwrap(), None, Operation::CreateToken(create))
                .await
                .unwrap();
            let Some(Event::TokenCreated(token)) = applied.events.first() else {
                panic!("{applied:?}");
            };
            let admit = AdmitNode {
                token: token.token,
                secret,
                node: protocol::id::NodeId::from_bytes([number; 10]),
                name: (*name).to_owned(),
                signing_key: PublicKey([number; 32]),
                facts: AdmissionFacts::default(),
            };
            engine
                .submit(Caller::Anonymous, None, Operation::AdmitNode(admit))
                .await
                .unwrap();
        }
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, &format!("/api/v1{path}"), body)
            .await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, &format!("/api/v1{path}"), json!({}))
            .await
    }
}

fn web(base: u32) -> Value {
    json!({"name": "web", "on": "*", "compose": COMPOSE, "base": base})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_planned_applied_steered_and_looked_at() {
    let world = World::new("").await;
    world
        .admit(&[("l1", "lyon"), ("l2", "lyon"), ("p1", "paris")])
        .await;
    let head = world.head();
    let mut dry = web(0);
    dry["dry_run"] = json!(true);
    let (status, plan) = world.post("/deployments", dry).await;
    assert_eq!(status, 200, "{plan}");
    assert_eq!(world.head(), head, "a dry run records nothing");
    assert_eq!(plan["waves"].as_array().unwrap().len(), 3, "{plan}");
    assert_eq!(plan["waves"][0]["size"], 1);
    // No registry answers there: applied by tag, and said so.
    let note = plan["notes"][0].as_str().unwrap();
    assert!(
        note.contains("127.0.0.1:1/shop/web:1 is applied by its tag"),
        "{note}"
    );

    let (status, answer) = world.post("/deployments", web(0)).await;
    assert_eq!(status, 200, "{answer}");
    let rollout = answer["rollout"]["id"].as_str().unwrap().to_owned();
    assert_eq!(answer["revision"], 1);
    assert_eq!(answer["waves"], plan["waves"], "the dry run told the truth");
    let changes = answer["changes"].as_array().unwrap();
    assert!(
        changes.iter().any(|it| it["path"] == "services.web.image"),
        "{answer}"
    );

    // Of two who apply at once one wins, and the other is told.
    let (status, problem) = world.post("/deployments", web(0)).await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(problem["code"], "deployment.conflict");

    let (_, list) = world.get("/deployments").await;
    assert_eq!(list["deployments"][0]["name"], "web");
    assert_eq!(list["deployments"][0]["nodes"], 3);
    let (_, detail) = world.get("/deployments/web").await;
    assert!(
        detail["revision"]["spec"]["services"]["web"].is_object(),
        "{detail}"
    );
    let (_, revisions) = world.get("/deployments/web/revisions").await;
    assert_eq!(revisions["revisions"][0]["cause"], "applied");
    let (status, problem) = world.get("/deployments/web/revisions/9").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &json!("revision.not_found"))
    );
    let (status, problem) = world.get("/deployments/shop").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &json!("deployment.not_found"))
    );

    let path = format!("/rollouts/{rollout}");
    let (_, paused) = world
        .post(&format!("{path}/pause"), json!({"reason": "a look"}))
        .await;
    assert_eq!(
        (&paused["state"], &paused["reason"]),
        (&json!("paused"), &json!("a look"))
    );
    let (status, problem) = world.post(&format!("{path}/pause"), json!({})).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (409, &json!("rollout.state"))
    );
    world.post(&format!("{path}/resume"), json!({})).await;
    let (_, aborted) = world
        .post(&format!("{path}/abort"), json!({"reason": "enough"}))
        .await;
    assert_eq!(aborted["state"], "aborting", "{aborted}");
    let client = world.client();
    let followed = client
        .get(world.url(&format!("/api/v1{path}/follow")))
        .bearer_auth(&world.key)
        .send();
    let lines = timeout(PATIENCE, followed).await.unwrap().unwrap();
    let lines = timeout(PATIENCE, lines.text()).await.unwrap().unwrap();
    let last: Value = serde_json::from_str(lines.trim().lines().last().unwrap()).unwrap();
    assert_eq!(last["rollout"]["state"], "aborted", "{lines}");
    assert_eq!(last["rollout"]["counts"]["pending"], 3, "{lines}");
    let (_, targets) = world.get(&format!("{path}/targets?limit=2")).await;
    assert_eq!(targets["targets"].as_array().unwrap().len(), 2);
    assert!(targets["next"].is_string());

    let (status, removing) = world
        .post("/deployments/web/remove", json!({"base": 1}))
        .await;
    assert_eq!(
        (status.as_u16(), &removing["state"]),
        (200, &json!("removing"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_opened_by_somebody_else() {
    let world = World::new("").await;
    world.admit(&[("l1", "lyon")]).await;
    let mut asked = web(0);
    asked["rollout"] = json!({"waves": [{"approve": "human"}]});
    let (_, answer) = world.post("/deployments", asked).await;
    let rollout = answer["rollout"]["id"].as_str().unwrap();
    let path = format!("/rollouts/{rollout}/approve");
    let (status, problem) = world.post(&path, json!({})).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (403, &json!("rollout.self_approval"))
    );
    let (status, problem) = world.post(&path, json!({"wave": 0})).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (400, &json!("request.invalid"))
    );
    let other = host::new_admin_key(&world.controller.engine, "bob")
        .await
        .unwrap();
    let path = format!("/api/v1{path}");
    let (status, _) = world
        .ask_as(&other, Method::POST, &path, json!({"wave": 1}))
        .await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_on_some_nodes_applies_there_alone_and_denials_are_recorded() {
    let world = World::new("").await;
    world.admit(&[("l1", "lyon"), ("p1", "paris")]).await;
    let engine = &world.controller.engine;
    let key = host::new_admin_key(engine, "lea").await.unwrap();
    let fleet = engine.fleet();
    let access = fleet.access();
    let admin = access.keys().next().map(|key| Caller::Principal {
        id: key.principal,
        key: key.id,
    });
    let lea = access.principals().find(|it| it.name == "lea").unwrap().id;
    let all = access.grants_of(lea).next().unwrap().id;
    let grant = CreateGrant {
        principal: lea,
        role: "deployer".parse().unwrap(),
        on: Some("site=lyon".parse().unwrap()),
    };
    let revoke = crate::domain::access::manage::RevokeGrant { grant: all };
    for operation in [
        Operation::CreateGrant(grant),
        Operation::RevokeGrant(revoke),
    ] {
        engine
            .submit(admin.unwrap(), None, operation)
            .await
            .unwrap();
    }
    let head = world.head();
    let mut dry = web(0);
    dry["dry_run"] = json!(true);
    let path = "/api/v1/deployments";
    let (status, problem) = world.ask_as(&key, Method::POST, path, dry).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (403, &json!("access.denied"))
    );
    let denied = tokio::time::timeout(PATIENCE, async {
        while world.head() == head {
            tokio::task::yield_now().await;
        }
    });
    denied
        .await
        .expect("the denial of a dry run is recorded, too");
    let mut lyon = web(0);
    lyon["on"] = json!("site=lyon");
    let (status, answer) = world.ask_as(&key, Method::POST, path, lyon).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_projects_and_parameters_are_named() {
    let world = World::new("").await;
    world.admit(&[("l1", "lyon")]).await;
    let with = |key: &str, value: Value| {
        let mut asked = web(0);
        asked[key] = value;
        asked
    };
    for (asked, code, told) in [
        (
            with(
                "compose",
                json!("services:\n  web:\n    image: a\n    colour: red\n"),
            ),
            "deployment.unsupported",
            "line 4",
        ),
        (
            with("compose", json!("services: {}\n")),
            "deployment.invalid",
            "services",
        ),
        (with("name", json!("Web!")), "deployment.invalid", "Web!"),
        (
            with("on", json!("site=nice")),
            "selector.matches_nothing",
            "site=nice",
        ),
        (with("on", json!("a b c")), "selector.invalid", "a b c"),
        (
            with("rollout", json!({"waves": [{"percent": 200}]})),
            "rollout.invalid",
            "percent",
        ),
        (
            with("rollout", json!({"wave": []})),
            "rollout.invalid",
            "wave",
        ),
        (
            with("rollout", json!({"waves": [{"approve": "consensus"}]})),
            "consensus.unavailable",
            "experts",
        ),
        (
            with("files", json!({"a": "%"})),
            "request.invalid",
            "base64",
        ),
        (with("surprise", json!(1)), "request.invalid", "surprise"),
        (with("base", json!(3)), "deployment.conflict", "not there"),
    ] {
        let (status, problem) = world.post("/deployments", asked).await;
        assert!(status.is_client_error(), "{code}: {status} {problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert!(problem.to_string().contains(told), "{told}: {problem}");
    }
    let (status, problem) = world.get("/rollouts/aaaaaaaaaaaaaaaa").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &json!("rollout.not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_for_those_who_have_a_key() {
    let world = World::new("").await;
    let body = |bytes: usize| {
        let mut asked = web(0);
        asked["files"] = json!({"a": "A".repeat(bytes)});
        asked
    };
    let path = "/api/v1/deployments";
    let status = async |key: &str, bytes| {
        let request = world
            .client()
            .post(world.url(path))
            .bearer_auth(key)
            .json(&body(bytes));
        match request.send().await {
            Ok(response) => response.status().as_u16(),
            // Refused by its length while it was still being sent.
            Err(_) => 413,
        }
    };
    // Past the limit of others, and taken: there is no node for it.
    assert_eq!(status(&world.key, 1 << 20).await, 404);
    assert_eq!(status(&world.key, 8 << 20).await, 413);
    let mut wrong = world.key.clone();
    wrong.pop();
    assert_eq!(status(&wrong, 1 << 20).await, 413);
    assert_eq!(status(&wrong, 10).await, 401);
    // Elsewhere a key makes no difference.
    let elsewhere = world
        .client()
        .post(world.url("/api/v1/tokens"))
        .bearer_auth(&world.key)
        .json(&body(1 << 20))
        .send()
        .await;
    assert!(elsewhere.map_or(true, |response| response.status() == 413));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing_from_any_of_it() {
    let world = World::new("").await;
    for (method, path) in [
        (Method::GET, "/deployments"),
        (Method::POST, "/deployments"),
        (Method::GET, "/deployments/web"),
        (Method::GET, "/deployments/web/revisions"),
        (Method::GET, "/deployments/web/status"),
        (Method::POST, "/deployments/web/rollback"),
        (Method::POST, "/deployments/web/remove"),
        (Method::GET, "/rollouts"),
        (Method::POST, "/rollouts/aaaaaaaaaaaaaaaa/pause"),
        (Method::POST, "/rollouts/aaaaaaaaaaaaaaaa/resume"),
        (Method::POST, "/rollouts/aaaaaaaaaaaaaaaa/approve"),
        (Method::POST, "/rollouts/aaaaaaaaaaaaaaaa/abort"),
        (Method::GET, "/rollouts/aaaaaaaaaaaaaaaa/follow"),
        (Method::GET, "/contents"),
        (Method::PUT, "/contents/secret/a"),
        (Method::DELETE, "/contents/secret/a"),
        (Method::GET, "/images"),
    ] {
        let path = format!("/api/v1{path}");
        let (status, problem) = world.ask_as("flk1_x", method, &path, json!({})).await;
        assert_eq!(status, 401, "{path}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_set_listed_and_removed_and_never_shown() {
    let world = World::new("").await;
    let content = json!({"content": BASE64.encode(b"hunter2-hunter2")});
    let path = "/api/v1/contents/secret/db-password";
    let (status, view) = world.ask(Method::PUT, path, content.clone()).await;
    assert_eq!(status, 200, "{view}");
    let (_, list) = world.get("/contents").await;
    assert_eq!(list["contents"][0]["name"], "db-password");
    assert_eq!(list["contents"][0]["size_bytes"], 15);
    let trail = world.get("/audit/records?limit=100").await.1;
    for text in [view.to_string(), list.to_string(), trail.to_string()] {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(!text.contains(&BASE64.encode(b"hunter2-hunter2")), "{text}");
    }
    // A project may refer to it.
    world.admit(&[("l1", "lyon")]).await;
    let compose = format!(
        "{COMPOSE}    secrets: [db-password]\nsecrets:\n  db-password:\n    external: true\n"
    );
    let asked = json!({"name": "web", "on": "*", "compose": compose});
    let (status, answer) = world.post("/deployments", asked).await;
    assert_eq!(status, 200, "{answer}");

    for (path, body, code) in [
        (
            "/api/v1/contents/secret/Bad%20Name",
            content.clone(),
            "deployment.invalid",
        ),
        ("/api/v1/contents/thing/a", content, "request.invalid"),
        (
            "/api/v1/contents/secret/a",
            json!({"content": "%"}),
            "request.invalid",
        ),
    ] {
        let (status, problem) = world.ask(Method::PUT, path, body).await;
        assert!(status.is_client_error());
        assert_eq!(problem["code"], code, "{problem}");
    }
    let (status, _) = world.ask(Method::DELETE, path, json!({})).await;
    assert_eq!(status, 200);
    let (status, problem) = world.ask(Method::DELETE, path, json!({})).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (404, &json!("file.not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_none_is_refused() {
    let world = World::new("").await;
    // More than axum takes by itself, and less than a piece may have.
    let bytes = vec![b'x'; 3_000_000];
    let digest = data_encoding::HEXLOWER
        .encode(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());
    let path = format!("/images/{digest}");
    let (status, begun) = world.post(&path, json!({"size_bytes": bytes.len()})).await;
    assert_eq!(
        (status.as_u16(), &begun["offset"]),
        (200, &json!(0)),
        "{begun}"
    );
    let url = format!("/api/v1{path}?size_bytes={}&offset=0", bytes.len());
    let response = world
        .client()
        .put(world.url(&url))
        .bearer_auth(&world.key)
        .body(bytes)
        .send()
        .await
        .unwrap();
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "archive.invalid", "{problem}");
    for (path, code) in [
        (path.as_str(), "archive.not_found"),
        ("/images/nonsense", "request.invalid"),
    ] {
        let path = format!("/api/v1{path}");
        let (_, problem) = world.ask(Method::DELETE, &path, json!({})).await;
        assert_eq!(problem["code"], code, "{problem}");
    }
    let (_, list) = world.get("/images").await;
    assert_eq!(list["archives"], json!([]));
}
