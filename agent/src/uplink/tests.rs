//! The uplink without a broker: it goes on trying, in turn, and can be stopped.

use std::net::TcpListener;

use protocol::key::SigningKey;
use protocol::session::BootId;
use protocol::time::UnixMillis;
use protocol::trust::TrustSet;

use super::*;
use crate::clock::Clock;
use crate::node::task::{self, Ends};
use crate::node::{Identity, Setup};
use crate::store::Limits;
use crate::store::disk::MemoryDisk;
use crate::store::spool::MemorySpool;

const FLEET: FleetId = FleetId::from_bytes([1; 10]);
const NODE: NodeId = NodeId::from_bytes([2; 10]);

fn core(clock: &Clock) -> (StoreHandle, Ends) {
    let key = Arc::new(SigningKey::from_seed(&[3; 32]).unwrap());
    let identity = Identity {
        fleet: FLEET,
        node: NODE,
        root: key.public(),
        key,
        trust: TrustSet {
            fleet: FLEET,
            version: 1,
            issued_at: UnixMillis(1),
            controller_keys: Vec::new(),
            authorities: Vec::new(),
            release_keys: Vec::new(),
        },
    };
    let setup = || Setup {
        disk: Box::new(MemoryDisk::default()),
        spool: Box::new(MemorySpool::default()),
        limits: Limits::default(),
        boot: BootId([0; 16]),
        agent_version: "0.1.0".to_owned(),
        draw: Box::new(|| [4; 16]),
        seed: 5,
    };
    task::start(identity, setup, clock.clone()).unwrap()
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn brokers_that_do_not_answer_are_tried_in_turn_until_it_is_stopped() {
    let clock = Clock::default();
    let (core, ends) = core(&clock);
    let brokers: Vec<Broker> = [closed_port(), closed_port()]
        .into_iter()
        .map(|port| Broker::Tls {
            host: "127.0.0.1".to_owned(),
            port,
        })
        .collect();
    let names: Vec<String> = brokers.iter().map(ToString::to_string).collect();
    let target = Target {
        brokers,
        proxy: None,
        retry_max: Duration::from_millis(1_000),
    };
    let (_target, target) = watch::channel(Arc::new(target));
    let tls = Arc::new(crate::tls::unauthenticated().unwrap());
    let (_tls, tls) = watch::channel(tls);
    let (state, mut seen) = watch::channel(State::default());
    let stop = CancellationToken::new();
    let context = Context {
        fleet: FLEET,
        node: NODE,
        target,
        tls,
        core,
        wire: ends.wire,
        nudges: ends.nudges,
        clock,
        seed: 1,
        state,
        stop: stop.clone(),
    };
    let task = crate::supervisor::spawn("uplink", run(context));
    let tried = async {
        let mut tried = std::collections::BTreeSet::new();
        while tried.len() < 2 {
            seen.changed().await.unwrap();
            tried.extend(seen.borrow().broker.clone());
        }
        tried
    };
    let tried = tokio::time::timeout(Duration::from_secs(20), tried)
        .await
        .unwrap();
    assert!(
        tried.iter().all(|broker| names.contains(broker)),
        "{tried:?}"
    );
    assert!(!seen.borrow().connected);
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    assert_eq!(ended.unwrap().unwrap(), Ok(()));
}

#[test]
fn a_proxys_password_is_hidden() {
    let shown = format!("{:?}", Password("secret".to_owned()));
    assert!(!shown.contains("secret"), "{shown}");
}
