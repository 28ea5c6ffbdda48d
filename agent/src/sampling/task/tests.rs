//! The grid of moments, and the task on a real core: what is kept, sealed and
//! taken up again.

use std::path::PathBuf;

use protocol::id::{FleetId, NodeId};
use protocol::key::SigningKey;
use protocol::session::BootId;
use protocol::trust::TrustSet;

use super::*;
use crate::config::Source;
use crate::node::task::{Ends, start};
use crate::node::{Identity, Setup};
use crate::store::Limits;
use crate::store::disk::MemoryDisk;
use crate::store::spool::{MemorySpool, Record, Spool as _};

#[test]
fn moments_lie_on_the_grid_and_none_comes_twice() {
    assert_eq!(due(0, 25_001, 10_000), 30_000);
    assert_eq!(due(20_000, 20_000, 10_000), 30_000);
    // Woken a millisecond early by the difference of two clocks.
    assert_eq!(due(30_000, 29_999, 10_000), 40_000);
    assert_eq!(due(30_000, 30_001, 10_000), 40_000);
}

#[test]
fn a_clock_set_back_starts_over() {
    assert_eq!(due(9_000_000, 1_000_001, 10_000), 1_010_000);
}

fn core(spool: &MemorySpool) -> (StoreHandle, Ends) {
    let key = Arc::new(SigningKey::from_seed(&[7; 32]).unwrap());
    let fleet = FleetId::from_bytes([1; 10]);
    let identity = Identity {
        fleet,
        node: NodeId::from_bytes([2; 10]),
        root: key.public(),
        trust: TrustSet {
            fleet,
            version: 1,
            issued_at: UnixMillis(0),
            controller_keys: vec![key.public()],
            authorities: Vec::new(),
            release_keys: Vec::new(),
        },
        key,
    };
    let spool = spool.clone();
    let setup = move || Setup {
        disk: Box::new(MemoryDisk::default()),
        spool: Box::new(spool),
        limits: Limits::default(),
        boot: BootId([3; 16]),
        agent_version: "0.1.0".to_owned(),
        draw: Box::new(|| [4; 16]),
        seed: 5,
    };
    start(identity, setup, Clock::default()).unwrap()
}

/// The senders that a supervisor would hold.
type Held = (watch::Sender<Arc<Config>>, watch::Sender<UnixMillis>);

/// A sampler at one sample a second, five to a frame.
fn sampler(store: StoreHandle, ends: Ends, stop: &CancellationToken) -> (Context, Held) {
    let source = Source {
        file: PathBuf::from("/nonexistent/agent.toml"),
        file_required: false,
        environment: Vec::new(),
        flags: Vec::new(),
    };
    let text = "[sampling]\ninterval = \"1s\"\nframe = \"5s\"\ncontainers = false\n";
    let (configured, config) = watch::channel(Arc::new(source.check(text).unwrap()));
    let (certificate, certificate_expires_at) = watch::channel(UnixMillis(0));
    let context = Context {
        config,
        clock: Clock::default(),
        store,
        kept: ends.samples,
        holding: ends.holding,
        live: ends.live,
        link: ends.status,
        dependencies: Dependencies::new(Arc::new(|| UnixMillis(0))),
        certificate_expires_at,
        stop: stop.clone(),
    };
    (context, (configured, certificate))
}

/// Frames and loose samples that the spool holds.
fn held(spool: &MemorySpool) -> (Vec<Frame>, usize) {
    let mut frames = Vec::new();
    let mut samples = 0;
    for record in spool.clone().load().unwrap() {
        match record {
            Record::Frame(_, stored) => {
                frames.push(decode(&stored.body).unwrap());
                samples = 0;
            }
            Record::Sample(_) => samples += 1,
            Record::Store(_) | Record::Gone(_) => {}
        }
    }
    (frames, samples)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_killed_sampler_loses_nothing_that_it_measured() {
    let spool = MemorySpool::default();
    let stop = CancellationToken::new();
    let (store, ends) = core(&spool);
    let (context, _held) = sampler(store, ends, &stop);
    tokio::select! {
        ended = run(context) => panic!("the sampler ended: {ended:?}"),
        () = until("two loose samples", || held(&spool).1 >= 2) => {}
    }
    let (_, loose) = held(&spool);

    let (store, ends) = core(&spool);
    assert_eq!(ends.samples.len(), loose);
    let (context, _held) = sampler(store, ends, &stop);
    tokio::select! {
        ended = run(context) => panic!("the sampler ended: {ended:?}"),
        // The loose samples may lie on both sides of a frame's edge.
        () = until("what was loose in frames", || {
            let framed = held(&spool).0;
            framed.iter().map(|frame| frame.moments().len()).sum::<usize>() >= loose
        }) => {}
    }
    let (frames, _) = held(&spool);
    let moments = frames.last().unwrap().moments();
    let (_, last) = moments.last().unwrap();
    assert!(last.get(SeriesId::AGENT_OUTBOX, "").is_some());
    assert!(last.get(SeriesId::MEM_USED, "").is_some());
}

#[tokio::test]
async fn the_first_samples_leave_as_frames_of_their_own() {
    let spool = MemorySpool::default();
    let stop = CancellationToken::new();
    let (store, ends) = core(&spool);
    let (context, _held) = sampler(store, ends, &stop);
    tokio::select! {
        ended = run(context) => panic!("the sampler ended: {ended:?}"),
        () = until("two frames", || held(&spool).0.len() >= 2) => {}
    }
    let (frames, _) = held(&spool);
    assert!(frames.iter().take(2).all(|frame| frame.span.slots == 1));
}

#[tokio::test]
async fn a_stopped_sampler_hands_over_its_unfinished_frame() {
    let spool = MemorySpool::default();
    let stop = CancellationToken::new();
    let (store, ends) = core(&spool);
    let (context, _held) = sampler(store.clone(), ends, &stop);
    let stopping = async {
        until("a loose sample", || held(&spool).1 >= 1).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(run(context), stopping);
    assert_eq!(ended, Ok(()));
    // The frame is on its way to the core's thread.
    until("the frame", || {
        held(&spool).1 == 0 && !held(&spool).0.is_empty()
    })
    .await;
    let stats = store.stats().await.unwrap();
    assert!(
        stats.waiting.iter().sum::<usize>() >= 3,
        "frame, facts and budgets: {stats:?}"
    );
}
