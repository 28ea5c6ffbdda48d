//! Streams: what is taken once, put aside, kept, and held back by full disks.

use super::*;

#[test]
fn entries_are_taken_once_and_gaps_send_the_node_back() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);

    let first = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(1, b"a"), frame(4, b"b")],
        world.now,
    );
    let missing = node.upload(Stream::Telemetry, 4, vec![frame(5, b"c")], world.now);
    let third = node.upload(Stream::Telemetry, 5, vec![frame(6, b"d")], world.now);
    world.deliver(vec![first, third]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(4));
    assert_eq!(world.desk.stats().refused[&ErrorCode::StreamGap], 1);

    let overlap = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(4, b"b"), frame(5, b"c")],
        world.now,
    );
    world.deliver(vec![missing.clone(), overlap]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(5));
    let kept: Vec<u64> = world
        .desk
        .sink()
        .kept
        .iter()
        .map(|frame| frame.seq)
        .collect();
    assert_eq!(kept, [1, 4, 5]);

    // The same envelope again is a replay.
    world.deliver(vec![missing]);
    assert_eq!(world.desk.stats().refused[&ErrorCode::EnvelopeReplayed], 1);
    assert!(world.told(&node).is_empty());
    assert!(world.doubts().is_empty());
}

#[test]
fn what_cannot_be_decoded_is_quarantined_and_acknowledged() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let strange = Entry {
        seq: 1,
        kind: EntryKind(999),
        version: 1,
        body: vec![1, 2, 3],
    };
    let newer = Entry {
        version: 2,
        ..state(2, 1)
    };
    let cut = Entry {
        body: vec![0xff; 3],
        ..state(3, 1)
    };
    let upload = node.upload(
        Stream::State,
        0,
        vec![strange, newer, cut, state(4, 44)],
        world.now,
    );
    let bad_frame = node.upload(
        Stream::Backfill,
        0,
        vec![frame(1, b"!bad"), frame(2, b"good")],
        world.now,
    );
    world.deliver(vec![upload, bad_frame]);
    assert_eq!(world.desk.stats().quarantined, 4);
    let codes: BTreeSet<String> = world
        .desk
        .intake
        .quarantine(10)
        .unwrap()
        .into_iter()
        .map(|entry| entry.code)
        .collect();
    assert_eq!(
        codes,
        BTreeSet::from([
            "message.unknown_kind".to_owned(),
            "message.unknown_version".to_owned(),
            "message.malformed".to_owned(),
            "frame.invalid".to_owned(),
        ])
    );
    let acks: Vec<Heard> = world.told(&node);
    let Some(Heard::Acks(acks)) = acks.last() else {
        panic!("{acks:?}");
    };
    assert_eq!(acks.acks.len(), 2);
    assert_eq!(
        acks.acks.iter().map(|ack| ack.acked).collect::<Vec<_>>(),
        [4, 2]
    );
    let states = world.desk.intake.states(node.id).unwrap();
    assert_eq!(states.len(), 1, "the good one behind the bad ones is taken");
}

#[test]
fn the_latest_state_wins_and_lifecycles_are_kept() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(
        Stream::State,
        0,
        vec![state(1, 10), state(2, 20)],
        world.now,
    );
    let started = entry(
        1,
        EntryKind::LIFECYCLE,
        &Lifecycle::Stopped { at: world.now },
    );
    let control = node.upload(Stream::Control, 0, vec![started], world.now);
    world.deliver(vec![upload, control]);
    let states = world.desk.intake.states(node.id).unwrap();
    assert!(matches!(
        &states[..],
        [crate::uplink::intake::StoredState { item: StateItem { value: StateValue::Budgets(budgets), .. }, .. }]
            if budgets.memory_bytes == 20
    ));
    assert_eq!(world.desk.intake.lifecycles(node.id).unwrap().len(), 1);
}

#[test]
fn absurd_counts_and_numbers_in_an_upload_are_refused() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let topic = Topic::Up(node.id, Stream::Telemetry);
    // An entry count of 2^63 with nothing behind it.
    let mut payload = node.store.as_bytes().to_vec();
    payload.extend([2, 0]);
    payload.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let absurd = node.seal_raw(topic, Kind::UPLOAD, 1, &payload, world.now);
    let falling = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(5, b"a"), frame(5, b"b")],
        world.now,
    );
    let below = node.upload(Stream::Telemetry, 7, vec![frame(7, b"a")], world.now);
    let mut other_store = node.clone();
    other_store.store = StoreId::from_bytes([77; 10]);
    other_store.sent = node.sent;
    let other = other_store.upload(Stream::Telemetry, 0, vec![frame(1, b"a")], world.now);
    world.deliver(vec![absurd, falling, below, other]);
    assert_eq!(world.rejections(&node), vec!["message.malformed"; 4]);
    assert!(world.desk.sink().kept.is_empty());

    let last = node.upload(Stream::Telemetry, 0, vec![frame(u64::MAX, b"a")], world.now);
    world.deliver(vec![last]);
}

#[test]
fn a_full_intake_disk_stops_acknowledgements_and_loses_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let upload = node.upload(Stream::Control, 0, vec![state(1, 11)], world.now);
        world.deliver(vec![upload]);
        assert!(world.told(&node).is_empty(), "nothing is acknowledged");
    }
    assert_eq!(world.desk.stats().commits_failed, 3);

    world.disk.full.store(false, Ordering::Relaxed);
    let upload = node.upload(Stream::Control, 0, vec![state(1, 11)], world.now);
    world.deliver(vec![upload]);
    assert_eq!(world.acked(&node, Stream::Control), Some(1));
    assert_eq!(world.desk.intake.states(node.id).unwrap().len(), 1);
    assert!(world.doubts().is_empty());
}

#[test]
fn full_series_hold_back_frames_and_nothing_else() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.desk.sink().failing = true;
    let frames = node.upload(Stream::Telemetry, 0, vec![frame(1, b"a")], world.now);
    let more = node.upload(Stream::Telemetry, 1, vec![frame(2, b"b")], world.now);
    let states = node.upload(Stream::State, 0, vec![state(1, 1)], world.now);
    world.deliver(vec![frames, more, states]);
    let told = world.told(&node);
    let Some(Heard::Acks(acks)) = told.last() else {
        panic!("{told:?}");
    };
    assert_eq!(acks.acks.len(), 1);
    assert_eq!(acks.acks[0].stream, Stream::State);

    world.desk.sink().failing = false;
    let again = node.upload(
        Stream::Telemetry,
        0,
        vec![frame(1, b"a"), frame(2, b"b")],
        world.now,
    );
    world.deliver(vec![again]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(2));
    assert_eq!(world.desk.sink().kept.len(), 2);
}

#[test]
fn positions_survive_a_restart() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(9, b"a")], world.now);
    world.deliver(vec![upload]);
    world.restart();
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 9);
}
