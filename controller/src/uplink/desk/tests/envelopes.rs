//! Messages that are forged, broken, unknown or refused by nodes.

use super::*;

#[test]
fn bad_envelopes_are_counted_by_code_and_change_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut stranger = Node::new(2);
    world.connect(&mut node);
    let good = node.heartbeat(0, world.now);

    let mut forged = good.clone();
    let last = forged.payload.len() - 1;
    forged.payload[last] ^= 1;
    let mut foreign = node.clone().heartbeat(0, world.now);
    foreign.payload[10] ^= 1;
    let mut truncated = good.clone();
    truncated.payload.truncate(60);
    let huge = Delivery {
        payload: vec![b'F'; ENVELOPE_BYTES_MAX + 1],
        ..good.clone()
    };
    let absurd = Delivery {
        payload: vec![0xff; 500],
        ..good.clone()
    };
    let empty = Delivery {
        payload: Vec::new(),
        ..good.clone()
    };
    let unknown = stranger.hello(world.now);
    let carried = Delivery {
        sender: Some(stranger.id),
        ..good.clone()
    };
    let elsewhere = Delivery {
        topic: Topic::Session(stranger.id),
        ..good.clone()
    };
    world.deliver(vec![
        forged, foreign, truncated, huge, absurd, empty, unknown, carried, elsewhere,
    ]);
    assert!(world.heard.is_empty(), "{:?}", world.heard);
    assert_eq!(
        world.desk.stats().refused,
        BTreeMap::from([
            (ErrorCode::EnvelopeBadSignature, 1),
            (ErrorCode::EnvelopeWrongFleet, 1),
            (ErrorCode::EnvelopeMalformed, 3),
            (ErrorCode::EnvelopeTooLarge, 1),
            (ErrorCode::EnvelopeUnknownKey, 3),
        ])
    );
    world.deliver(vec![good]);
    assert_eq!(world.told(&node).len(), 1, "the loop goes on");
}

#[test]
fn unknown_kinds_and_versions_and_malformed_payloads_are_answered() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let session = Topic::Session(node.id);
    let bad = vec![
        node.seal_raw(session, Kind(777), 1, b"?", world.now),
        node.seal_raw(session, Kind::HEARTBEAT, 9, b"?", world.now),
        node.seal_raw(session, Kind::HEARTBEAT, 1, &[0xff; 40], world.now),
        node.seal_raw(session, Kind::HELLO, 9, b"?", world.now),
        node.seal_raw(session, Kind::UPLOAD, 1, b"?", world.now),
        node.seal_raw(session, Kind::WELCOME, 1, b"?", world.now),
    ];
    world.deliver(bad);
    assert_eq!(
        world.rejections(&node),
        [
            "message.unknown_kind",
            "message.unknown_version",
            "message.malformed",
            "message.unknown_version",
            "message.unknown_kind",
            "message.unknown_kind",
        ]
    );
}

#[test]
fn what_a_node_does_not_take_is_counted_and_never_answered() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let session = Topic::Session(node.id);
    for code in ["message.unknown_version", "a.code_of_tomorrow"] {
        let reject = message::encode(&Reject {
            kind: Kind::DOWN.0,
            version: 1,
            counter: 1,
            code: code.to_owned(),
            detail: String::new(),
        });
        let said = node.seal_raw(session, Kind::REJECT, 1, &reject, world.now);
        world.deliver(vec![said]);
    }
    let garbled = node.seal_raw(session, Kind::REJECT, 1, &[0xff; 40], world.now);
    world.deliver(vec![garbled]);
    assert!(world.told(&node).is_empty(), "{:?}", world.heard);
    assert_eq!(
        world.desk.stats().rejected,
        BTreeMap::from([
            (ErrorCode::MessageUnknownVersion, 1),
            (ErrorCode::Internal, 1)
        ])
    );
    assert_eq!(
        world.desk.stats().refused,
        BTreeMap::from([(ErrorCode::MessageMalformed, 1)])
    );
}
