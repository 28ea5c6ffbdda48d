//! The engine's task, and the handle that everybody else holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::id::RequestId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{at, person, recovery, request};
use crate::domain::access::authorize::Denial;
use crate::domain::access::caller::Caller;
use crate::domain::given::{START, key_in};
use crate::engine::state::SNAPSHOT_VERSION;
use crate::engine::task::{EngineError, Options, open};
use crate::engine::{Engine, QUEUE_MAX, SubmitError};
use crate::journal::disk::Disk;
use crate::journal::error::OpenError;

struct Running {
    engine: Engine,
    admin: Caller,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), EngineError>>,
}

async fn running(disk: &Disk) -> Running {
    let journal = disk.create();
    let (engine, task) =
        open(journal, Box::new(moments()), Options { snapshot_every: 20 }).unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(task.run(stop.clone()));
    let applied = engine.submit(Caller::Host, None, recovery()).await.unwrap();
    Running {
        admin: key_in(&applied.events),
        engine,
        stop,
        tasks,
    }
}

/// Each moment a millisecond after the one before.
fn moments() -> impl FnMut() -> crate::domain::moment::Moment + Send + 'static {
    let ticks = Arc::new(AtomicU64::new(0));
    move || at(ticks.fetch_add(1, Ordering::Relaxed))
}

impl Running {
    async fn stopped(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn denial() -> Denial {
    Denial {
        code: protocol::ErrorCode::AccessDenied,
        reason: "no grant gives node:read".to_owned(),
        nodes: Vec::new(),
        node_count: 0,
    }
}

#[tokio::test]
async fn an_answer_means_that_everybody_sees_it() {
    let disk = Disk::default();
    let running = running(&disk).await;
    let mut watch = running.engine.watch();
    watch.mark_unchanged();
    let applied = running
        .engine
        .submit(running.admin, Some(request(1)), person("ann"))
        .await
        .unwrap();
    assert!(running.engine.fleet().seq() >= applied.seq);
    assert!(
        running
            .engine
            .fleet()
            .access()
            .principal_named("ann")
            .is_some()
    );
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow().seq(), applied.seq);
    assert_eq!(running.engine.journal().head().unwrap().seq, applied.seq);
    let again = running
        .engine
        .submit(running.admin, Some(request(1)), person("ann"))
        .await
        .unwrap();
    assert!(again.replayed);
    assert!(running.engine.health().ok);
    assert_eq!(running.engine.stats().seq, applied.seq);
    running.stopped().await;
}

#[tokio::test]
async fn many_callers_at_once_share_transactions() {
    let disk = Disk::default();
    let running = running(&disk).await;
    let before = running.engine.stats();
    let mut callers = JoinSet::new();
    for n in 0..200 {
        let (engine, admin) = (running.engine.clone(), running.admin);
        callers.spawn(async move { engine.submit(admin, None, person(&format!("p{n}"))).await });
    }
    while let Some(answer) = callers.join_next().await {
        answer.unwrap().unwrap();
    }
    let stats = running.engine.stats();
    assert_eq!(stats.records - before.records, 200);
    assert!(stats.commits - before.commits < 100, "{stats:?}");
    running.stopped().await;
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_code() {
    let disk = Disk::default();
    let (engine, _task) = open(disk.create(), Box::new(moments()), Options::default()).unwrap();
    let mut waiting = JoinSet::new();
    for n in 0..QUEUE_MAX {
        let engine = engine.clone();
        waiting.spawn(async move {
            engine
                .submit(Caller::Host, None, person(&n.to_string()))
                .await
        });
    }
    while engine.stats().queued < QUEUE_MAX as u64 {
        tokio::task::yield_now().await;
    }
    let refused = engine
        .submit(Caller::Host, None, person("x"))
        .await
        .unwrap_err();
    assert_eq!(refused.code().text(), "engine.busy");
    assert_eq!(engine.stats().busy, 1);
    // A denial that finds no room is counted, not lost and not waited for.
    engine.deny(Caller::System, None, "node.list", denial(), START);
    assert_eq!(engine.stats().denials_counted, 1);
}

#[tokio::test]
async fn what_waits_is_answered_before_the_end_and_nothing_after() {
    let disk = Disk::default();
    let running = running(&disk).await;
    let (engine, admin) = (running.engine.clone(), running.admin);
    let mut waiting = JoinSet::new();
    for n in 0..20 {
        let engine = engine.clone();
        waiting.spawn(async move { engine.submit(admin, None, person(&format!("p{n}"))).await });
    }
    while engine.stats().records < 5 {
        tokio::task::yield_now().await;
    }
    engine.deny(Caller::Anonymous, None, "node.list", denial(), START);
    running.stopped().await;
    while let Some(answer) = waiting.join_next().await {
        answer.unwrap().unwrap();
    }
    let late = engine
        .submit(admin, None, person("late"))
        .await
        .unwrap_err();
    assert!(matches!(late, SubmitError::Stopped));
    assert_eq!(late.code(), protocol::ErrorCode::ControllerStarting);
    assert!(!engine.health().ok);

    drop(engine);
    let reader = disk.open().reader();
    let head = reader.head().unwrap();
    assert_eq!(reader.last_checkpoint().unwrap().unwrap().seq, head.seq);
    let last = reader.read(head.seq, 1).unwrap().remove(0).record;
    assert_eq!(last.event.name(), "request.denials_counted");
    assert!(reader.snapshot(SNAPSHOT_VERSION).unwrap().is_some());
}

#[tokio::test]
async fn denials_from_the_edge_are_recorded_without_waiting() {
    let disk = Disk::default();
    let running = running(&disk).await;
    let (engine, admin) = (&running.engine, running.admin);
    let before = engine.stats().records;
    engine.deny(
        admin,
        Some(RequestId::from_bytes([5; 10])),
        "audit.tail",
        denial(),
        START,
    );
    for _ in 0..100_000 {
        engine.deny(Caller::Anonymous, None, "audit.tail", denial(), START);
    }
    engine.submit(admin, None, person("ann")).await.unwrap();
    assert_eq!(engine.stats().records, before + 2);
    assert_eq!(engine.stats().denials_counted, 100_000);
    running.stopped().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_on_the_way() {
    let disk = Disk::default();
    let running = running(&disk).await;
    for n in 0..30 {
        let name = format!("p{n}");
        running
            .engine
            .submit(running.admin, None, person(&name))
            .await
            .unwrap();
    }
    let reader = running.engine.journal().clone();
    tokio::time::timeout(Duration::from_secs(20), async {
        while reader.snapshot(SNAPSHOT_VERSION).unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    running.stopped().await;
}

#[tokio::test]
async fn a_journal_that_fails_is_reported_and_heals_by_itself() {
    let disk = Disk::default();
    let running = running(&disk).await;
    disk.fail_syncs(true);
    let refused = running
        .engine
        .submit(running.admin, None, person("ann"))
        .await
        .unwrap_err();
    assert_eq!(refused.code().text(), "journal.unavailable");
    let health = running.engine.health();
    assert!(!health.ok && !health.detail.is_empty(), "{health:?}");
    assert!(running.engine.stats().failures > 0);
    disk.fail_syncs(false);
    tokio::time::timeout(Duration::from_secs(20), async {
        while !running.engine.health().ok {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    running.stopped().await;
}

#[test]
fn a_damaged_journal_does_not_start() {
    let disk = Disk::default();
    drop(disk.create());
    let mut bytes = disk.bytes();
    bytes.truncate(5_000);
    disk.put(bytes);
    let error =
        crate::journal::Journal::open_on(disk.medium(), crate::journal::disk::key()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}
