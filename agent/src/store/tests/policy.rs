//! The policy on disk: whole or refused, and never an older one.

use protocol::breaker::BreakerState;
use protocol::id::FleetId;
use protocol::key::SigningKey;

use super::crash::Faulty;
use super::*;
use crate::domain::gate::KeptPolicy;

fn kept(epoch: u64) -> (KeptPolicy, Policy) {
    let key = SigningKey::from_seed(&[4; 32]).unwrap();
    let fleet = FleetId::from_bytes([1; 10]);
    let policy = Policy {
        fleet,
        epoch,
        issued_at: UnixMillis(1),
        lease_ms: 24 * 3_600_000,
        gates: vec![protocol::policy::Gate {
            breaker: "default".to_owned(),
            state: BreakerState::Open,
            since: UnixMillis(1),
            scope: protocol::policy::Scope::Fleet,
            gated: protocol::policy::Gated::default(),
            probes: std::collections::BTreeSet::new(),
            reason: String::new(),
        }],
        overrides: Vec::new(),
        rules: Vec::new(),
    };
    KeptPolicy::check(policy.sign(&key), &[key.public()], fleet, 0).unwrap()
}

fn keep(store: &mut Store, epoch: u64, tick: u64) {
    let (kept, policy) = kept(epoch);
    store.keep_policy(kept, &policy);
    settle(store, tick);
}

#[test]
fn a_power_cut_after_any_write_leaves_the_epoch_that_was_shown_or_a_newer_one() {
    for writes in (0..240).step_by(3) {
        let backend = Faulty::default();
        drop(open_on(backend.disk(), MemorySpool::default()));
        backend.die_after(writes);
        let mut shown = 0;
        if let Ok((mut store, _)) =
            try_open(backend.disk(), MemorySpool::default(), Limits::default())
        {
            for epoch in [3, 1, 4, 2, 9, 8, 10] {
                keep(&mut store, epoch, epoch);
                assert!(store.policy_epoch() >= shown, "it went back");
                shown = store.policy_epoch();
            }
        }
        backend.crash();
        let (mut store, recovered) = open_on(backend.disk(), MemorySpool::default());
        let found = recovered.policy.map_or(0, |policy| policy.epoch);
        assert!(
            found >= shown,
            "epoch {shown} became {found}, {writes} writes"
        );
        assert_eq!(store.policy_epoch(), found);
        keep(&mut store, found.max(1), 20);
        assert_eq!(store.policy_epoch(), found.max(1));
        keep(&mut store, found + 1, 30);
        assert_eq!(store.policy_epoch(), found + 1);
    }
}

#[test]
fn a_policy_that_was_damaged_is_an_error_and_never_none() {
    let (whole, _) = kept(7);
    let bytes = message::encode(&whole);
    let mut damaged = 0;
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        // What does not decode is refused by the file itself.
        let Ok(bad) = message::decode_exactly::<KeptPolicy>(&bytes) else {
            continue;
        };
        damaged += 1;
        let mut disk = MemoryDisk::default();
        disk.load().unwrap();
        let meta = Meta::new(FRESH);
        disk.commit(&[Change::Meta(meta), Change::Policy(Box::new(bad))])
            .unwrap();
        let opened = try_open(disk, MemorySpool::default(), Limits::default());
        let error = opened.err().expect("a damaged policy was taken");
        assert_eq!(error.code(), ErrorCode::StoreCorrupt);
    }
    assert!(damaged > 100, "{damaged}");
}

#[test]
fn policy_labels_silence_and_conditions_are_found_again_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.redb");
    let (mut store, _) = open_on(RedbDisk::file(&path), MemorySpool::default());
    let named = Named {
        name: "web-1".to_owned(),
        ..Named::default()
    };
    let holding = Holding::from([("full".to_owned(), "/var".to_owned())]);
    store.keep_named(&named);
    assert!(store.keep_crossings(&[], &holding));
    let silence = Silence {
        heard_at: UnixMillis(5),
        silent_ms: 6,
        wall: UnixMillis(1_000),
    };
    store.note_silence(silence);
    keep(&mut store, 3, 0);
    store.close().unwrap();
    drop(store);
    let (_, recovered) = open_on(RedbDisk::file(&path), MemorySpool::default());
    assert_eq!(recovered.policy, Some(kept(3).1));
    assert_eq!(recovered.named, named);
    assert_eq!(recovered.holding, holding);
    assert_eq!(
        recovered.silence, silence,
        "a clean stop, and no time since"
    );
    // Dropped without a close: a whole interval may have passed.
    let (_, recovered) = open_on(RedbDisk::file(&path), MemorySpool::default());
    assert_eq!(recovered.silence.silent_ms, 6 + 4 * 3_600_000);
}
