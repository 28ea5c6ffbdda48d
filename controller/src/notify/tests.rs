//! The courier and the task against receivers of the tests' own, which check
//! signatures and answer as they are told: well, badly, late, or not at all.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::breaker::BreakerState;
use protocol::id::FleetId;
use protocol::selector::Selector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::task::{NotifyTask, Parts};
use super::webhook::ParseSecretError;
use super::*;
use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::event::Event;
use crate::domain::notice::sink::SinkSet;
use crate::outbound::tests::outbound;
use crate::uplink::intake::{Batch, Intake};
use crate::vault::key::VaultKey;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver does with a request.
#[derive(Clone, Debug, PartialEq)]
enum Manner {
    /// Answers this, with these headers.
    Answers(u16, &'static str),
    /// Says so much after an answer.
    Talks(u16, usize),
    /// Takes the request and says nothing.
    Hangs,
    /// Takes the request and closes.
    Closes,
    /// Closes in the middle of its answer's head.
    BreaksOff,
}

/// A request as the receiver got it.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    body: serde_json::Value,
    verified: bool,
}

#[derive(Clone)]
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
    /// What it does with the next requests; with all others it answers 200.
    manners: Arc<Mutex<VecDeque<Manner>>>,
}

impl Receiver {
    async fn start(tasks: &mut JoinSet<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            got: Arc::default(),
            manners: Arc::default(),
        };
        let answering = receiver.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = answering.clone();
                open.spawn(async move { receiver.answer(stream).await });
            }
        });
        receiver
    }

    async fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let (head, body) = read(&mut stream).await?;
        let header = |name: &str| {
            let line = head.lines().find(|line| {
                line.split_once(':')
                    .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
            });
            let (_, value) = line.unwrap_or(": ").split_once(':').unwrap();
            value.trim().to_owned()
        };
        let id = header("webhook-id");
        let manner = self.manners.lock().unwrap().pop_front();
        self.got.lock().unwrap().push(Got {
            verified: verify(
                SECRET,
                &id,
                &header("webhook-timestamp"),
                &header("webhook-signature"),
                &body,
            ),
            id,
            body: serde_json::from_slice(&body).unwrap(),
        });
        let text = match manner.unwrap_or(Manner::Answers(200, "")) {
            Manner::Answers(status, headers) => format!(
                "HTTP/1.1 {status} x\r\n{headers}content-length: 5\r\nconnection: close\r\n\r\nwhy?\n"
            ),
            Manner::Talks(status, bytes) => {
                format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {bytes}\r\n\r\n{}",
                    "x".repeat(bytes)
                )
            }
            Manner::BreaksOff => "HTTP/1.1 200 O".to_owned(),
            Manner::Closes => String::new(),
            Manner::Hangs => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                String::new()
            }
        };
        stream.write_all(text.as_bytes()).await.ok()
    }

    fn does(&self, manners: impl IntoIterator<Item = Manner>) {
        self.manners.lock().unwrap().extend(manners);
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// The titles of what it got.
    fn titles(&self) -> Vec<String> {
        let got = self.got();
        got.iter()
            .map(|got| got.body["data"]["title"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.ok()?;
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if bytes.len() >= head.len() + 4 + length {
                return Some((head.to_owned(), bytes[head.len() + 4..].to_vec()));
            }
        }
        if count == 0 {
            return None;
        }
    }
}

/// As any receiver does it, by the specification alone.
fn verify(secret: &str, id: &str, timestamp: &str, signature: &str, body: &[u8]) -> bool {
    let key = data_encoding::BASE64
        .decode(secret.strip_prefix("whsec_").unwrap().as_bytes())
        .unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let Some(tag) = signature.strip_prefix("v1,") else {
        return false;
    };
    let tag = data_encoding::BASE64.decode(tag.as_bytes()).unwrap();
    ring::hmac::verify(&key, &signed, &tag).is_ok()
}

/// The controller's time in these tests: it stands still until it is moved.
static NOW: AtomicU64 = AtomicU64::new(1_800_000_000_000);

fn now() -> UnixMillis {
    UnixMillis(NOW.load(Ordering::SeqCst))
}

struct World {
    dir: tempfile::TempDir,
    intake: Intake,
    fleet: watch::Sender<Arc<Fleet>>,
    courier: Courier,
    secret: String,
    receivers: JoinSet<()>,
}

impl World {
    fn new(allow: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = VaultKey::random().unwrap();
        let vault = Vault::open(&dir.path().join("vault"), &key).unwrap();
        let secret = Secret::parse(SECRET).unwrap();
        let digest = vault.put(FileKind::Secret, secret.bytes(), now()).unwrap();
        let allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        Self {
            intake: Intake::open(&dir.path().join("intake.redb")).unwrap(),
            dir,
            fleet: watch::Sender::new(Arc::new(Fleet::new(FleetId::from_bytes([7; 10])))),
            courier: Courier::new(outbound(allow), vault, now),
            secret: digest,
            receivers: JoinSet::new(),
        }
    }

    async fn receiver(&mut self) -> Receiver {
        Receiver::start(&mut self.receivers).await
    }

    fn sink(&self, name: &str, url: &str) -> Sink {
        Sink {
            name: name.to_owned(),
            url: url.to_owned(),
            kinds: BTreeSet::new(),
            severity: Severity::Info,
            nodes: Selector::every(),
            secret: self.secret.clone(),
        }
    }

    /// The journal records a sink, and the desk takes note.
    fn set(&self, sink: Sink, number: u64) {
        self.intake
            .commit(&Batch {
                sinks_begun: vec![(sink.name.clone(), number)],
                ..Batch::default()
            })
            .unwrap();
        let event = Event::SinkSet(SinkSet {
            number,
            sink: Box::new(sink),
        });
        self.fleet.send_modify(|fleet| {
            let record = Record {
                seq: fleet.seq() + 1,
                at: now(),
                by: Caller::System,
                request: None,
                operation: "sink.set".to_owned(),
                version: 1,
                event,
            };
            Arc::make_mut(fleet).apply(&record);
        });
    }

    fn raise(&self, titles: &[&str]) {
        let mut batch = Batch::default();
        for title in titles {
            let key = format!("test/{title}");
            let notice = Notice::new(
                now(),
                NoticeKind::Breaker,
                Severity::Critical,
                NoticeState::Once,
                key,
            );
            batch.raise(notice.saying("fleet", *title));
        }
        self.intake.commit(&batch).unwrap();
    }

    /// The task, running; it is killed when the set is dropped.
    fn run(&self) -> Running {
        let stop = CancellationToken::new();
        let board = Board::default();
        let task = NotifyTask::new(Parts {
            intake: self.intake.clone(),
            fleet: self.fleet.subscribe(),
            courier: self.courier.clone(),
            board: board.clone(),
            clock: now,
        });
        let mut set = JoinSet::new();
        let stopped = stop.clone();
        set.spawn(async move { task.run(stopped).await.unwrap() });
        Running { board, stop, set }
    }
}

struct Running {
    board: Board,
    stop: CancellationToken,
    set: JoinSet<()>,
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        while self.set.join_next().await.is_some() {}
    }

    fn standing(&self, sink: &str) -> Option<Standing> {
        self.board.standings().remove(sink)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within ten seconds: {what}");
}

#[tokio::test]
async fn what_is_signed_verifies_as_the_specification_says() {
    // Its own example.
    let secret = Secret::parse(SECRET).unwrap();
    let body = br#"{"test": 2432232314}"#;
    assert_eq!(
        secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
    assert_eq!(secret.to_text().as_str(), SECRET);
    assert_eq!(format!("{secret:?}"), "Secret");
    for text in [
        "",
        "whsec_",
        "whsec_c2hvcnQ=",
        "whsec_!",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ] {
        assert_eq!(Secret::parse(text).err(), Some(ParseSecretError), "{text}");
    }
}

#[tokio::test]
async fn each_answer_means_what_it_should() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let receiver = world.receiver().await;
    let fleet = world.fleet.borrow().clone();
    let sink = world.sink("chat", &receiver.url);
    let refused = |text: &str| Outcome::Refused(text.to_owned());
    let failed = |text: &str| Outcome::Failed(text.to_owned());
    let later = |text: &str, pause_ms| Outcome::Later {
        reason: text.to_owned(),
        pause_ms,
    };
    for (manner, expected) in [
        (Manner::Answers(200, ""), Outcome::Delivered),
        (Manner::Answers(204, ""), Outcome::Delivered),
        (Manner::Talks(200, 10_000_000), Outcome::Delivered),
        (Manner::Answers(404, ""), refused("it answered 404: why?")),
        (Manner::Answers(410, ""), refused("it answered 410: why?")),
        (
            Manner::Answers(408, ""),
            later("it answered 408: why?", None),
        ),
        (
            Manner::Answers(429, "retry-after: 120\r\n"),
            later("it answered 429: why?", Some(120_000)),
        ),
        (
            Manner::Answers(429, "retry-after: soon\r\n"),
            later("it answered 429: why?", None),
        ),
        (Manner::Answers(500, ""), failed("it answered 500: why?")),
        (
            Manner::Answers(302, "location: http://127.0.0.1:1/\r\n"),
            failed("it answered 302: why?"),
        ),
        (
            Manner::Talks(500, 10_000_000),
            failed(&format!("it answered 500: {}", "x".repeat(120))),
        ),
    ] {
        receiver.does([manner.clone()]);
        let tried = courier_try(&world, &fleet, &sink).await;
        assert_eq!(tried.outcome, expected, "{manner:?}");
    }
    for manner in [Manner::Closes, Manner::BreaksOff] {
        receiver.does([manner.clone()]);
        let tried = courier_try(&world, &fleet, &sink).await;
        assert!(
            matches!(tried.outcome, Outcome::Failed(_)),
            "{manner:?} {tried:?}"
        );
        assert_eq!(tried.status, None);
    }
    let got = receiver.got();
    assert_eq!(got.len(), 13, "no redirect was followed");
    assert!(got.iter().all(|got| got.verified));
    assert_eq!(got[0].body["type"], "test.once");
}

async fn courier_try(world: &World, fleet: &Fleet, sink: &Sink) -> Tried {
    world.courier.try_sink(fleet, sink).await
}

#[tokio::test]
async fn private_addresses_are_refused_unless_they_are_listed() {
    let mut world = World::new(&[]);
    let receiver = world.receiver().await;
    let fleet = world.fleet.borrow().clone();
    let port = receiver.url.rsplit(':').next().unwrap().to_owned();
    for url in [
        receiver.url.clone(),
        receiver.url.replace("http", "https"),
        format!("http://localhost:{port}"),
        format!("https://localhost:{port}"),
        format!("https://[::ffff:127.0.0.1]:{port}"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/".to_owned(),
    ] {
        let tried = courier_try(&world, &fleet, &world.sink("chat", &url)).await;
        let Outcome::Failed(reason) = tried.outcome else {
            panic!("{url}: {tried:?}");
        };
        assert!(reason.contains("may reach"), "{url}: {reason}");
    }
    assert!(receiver.got().is_empty(), "nothing was opened");
    let own = "http://127.0.0.1/".parse().unwrap();
    let error = world.courier.check(&own).unwrap_err();
    assert_eq!(error.code(), protocol::ErrorCode::AddressForbidden);
    assert!(
        world
            .courier
            .check(&"https://example.net/".parse().unwrap())
            .is_ok()
    );
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_no_receiver() {
    // A server that speaks no TLS at all, and so proves nothing.
    let mut world = World::new(&["127.0.0.0/8"]);
    let receiver = world.receiver().await;
    let fleet = world.fleet.borrow().clone();
    let sink = world.sink("chat", &receiver.url.replace("http", "https"));
    let tried = courier_try(&world, &fleet, &sink).await;
    assert!(matches!(tried.outcome, Outcome::Failed(_)), "{tried:?}");
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn a_secret_that_is_not_there_fails_without_a_request() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let receiver = world.receiver().await;
    let fleet = world.fleet.borrow().clone();
    let mut sink = world.sink("chat", &receiver.url);
    sink.secret = "cd".repeat(32);
    let tried = courier_try(&world, &fleet, &sink).await;
    assert_eq!(
        tried.outcome,
        Outcome::Failed("its signing secret is not in the vault".to_owned())
    );
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn notices_are_delivered_from_the_sinks_beginning_on() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let receiver = world.receiver().await;
    world.raise(&["before"]);
    let running = world.run();
    world.set(world.sink("chat", &receiver.url), 1);
    world.raise(&["one", "two"]);
    until("two are there", || receiver.got().len() == 2).await;
    world.raise(&["three"]);
    until("the third is there", || receiver.got().len() == 3).await;
    let mut titles = receiver.titles();
    titles.sort();
    assert_eq!(titles, ["one", "three", "two"]);
    let got = receiver.got();
    assert!(got.iter().all(|got| got.verified));
    let data = &got[0].body["data"];
    assert_eq!(got[0].body["type"], "breaker.once");
    assert_eq!(data["version"], 1);
    assert_eq!(data["severity"], "critical");
    assert_eq!(data["subject"], "fleet");
    assert!(data["node"].is_null());
    running.stop().await;
    let kept = world.intake.sink("chat").unwrap().unwrap();
    assert_eq!((kept.cursor, kept.totals.delivered), (4, 3));
}

#[tokio::test]
async fn what_was_not_answered_before_a_kill_comes_again_under_its_id() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let receiver = world.receiver().await;
    receiver.does([Manner::Hangs]);
    world.set(world.sink("chat", &receiver.url), 1);
    let killed = world.run();
    world.raise(&["one"]);
    until("it hangs", || receiver.got().len() == 1).await;
    drop(killed);
    let running = world.run();
    until("it comes again", || receiver.got().len() == 2).await;
    let got = receiver.got();
    assert_eq!(got[0].id, got[1].id);
    assert_eq!(got[0].body, got[1].body);
    running.stop().await;
    let again = world.run();
    world.raise(&["two"]);
    until("only the next one comes", || receiver.got().len() == 3).await;
    assert_eq!(receiver.titles()[2], "two");
    again.stop().await;
}

#[tokio::test]
async fn a_sink_that_hangs_or_fails_holds_up_no_other() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let (hanging, failing, well) = (
        world.receiver().await,
        world.receiver().await,
        world.receiver().await,
    );
    hanging.does(vec![Manner::Hangs; 50]);
    failing.does(vec![Manner::Answers(500, ""); 50]);
    world.set(world.sink("hanging", &hanging.url), 1);
    world.set(world.sink("failing", &failing.url), 2);
    world.set(world.sink("well", &well.url), 3);
    let running = world.run();
    let titles: Vec<String> = (0..100).map(|number| format!("notice {number}")).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    world.raise(&titles);
    until("the well one has them", || well.got().len() == 100).await;
    assert_eq!(hanging.got().len(), 4, "so many at once");
    until("the failing one is left alone", || {
        running
            .standing("failing")
            .is_some_and(|it| it.breaker == BreakerState::Open)
    })
    .await;
    let standing = running.standing("failing").unwrap();
    assert_eq!(standing.waiting, 100);
    let failing = standing.progress.failing.unwrap();
    assert_eq!(failing.reason, "it answered 500: why?");
    assert!(running.board.failing_long(now()).is_empty());
    let later = now().after(FAILING_LONG);
    assert!(
        running
            .board
            .failing_long(later)
            .contains(&"failing".to_owned())
    );
    running.stop().await;
}

#[tokio::test]
async fn a_sink_that_is_set_right_gets_what_waits_and_a_removed_one_nothing() {
    let mut world = World::new(&["127.0.0.0/8"]);
    let (bad, good) = (world.receiver().await, world.receiver().await);
    bad.does(vec![Manner::Answers(500, ""); 50]);
    world.set(world.sink("chat", &bad.url), 1);
    let running = world.run();
    world.raise(&["one"]);
    until("it fails", || !bad.got().is_empty()).await;
    world.set(world.sink("chat", &good.url), 1);
    until("it is delivered", || good.got().len() == 1).await;
    assert_eq!(bad.got()[0].id, good.got()[0].id);
    world.fleet.send_modify(|fleet| {
        *fleet = Arc::new(Fleet::new(FleetId::from_bytes([7; 10])));
    });
    until("it is gone", || running.standing("chat").is_none()).await;
    world.raise(&["two"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(good.got().len(), 1);
    running.stop().await;
    assert!(world.dir.path().exists());
}
