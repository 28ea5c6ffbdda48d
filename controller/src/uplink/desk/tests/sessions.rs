//! Sessions: hello and welcome, what reaches live ones, and who is there.

use super::*;

#[test]
fn a_hello_is_welcomed_with_its_nonce_and_what_has_arrived() {
    let mut world = World::new();
    let mut node = world.join(1);
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.nonce, node.nonce);
    assert_eq!(welcome.echo, world.now);
    assert_eq!(welcome.name, "node-1");
    assert_eq!(welcome.heartbeat_ms, 15_000);
    assert!(welcome.acks.iter().all(|ack| ack.acked == 0));

    let upload = node.upload(Stream::Telemetry, 0, vec![frame(3, b"a")], world.now);
    world.deliver(vec![upload]);
    assert_eq!(world.acked(&node, Stream::Telemetry), Some(3));
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 3);
}

#[test]
fn nothing_but_a_hello_is_taken_before_one() {
    let mut world = World::new();
    let mut node = world.join(1);
    let early = node.upload(Stream::Control, 0, vec![state(1, 1)], world.now);
    let again = node.heartbeat(0, world.now);
    world.deliver(vec![early, again]);
    // Once in a second.
    assert_eq!(world.rejections(&node), ["session.unknown"]);
    assert!(world.desk.intake.states(node.id).unwrap().is_empty());

    world.connect(&mut node);
    world.restart();
    let late = node.heartbeat(0, world.now);
    world.deliver(vec![late]);
    assert_eq!(world.rejections(&node), ["session.unknown"]);
}

#[test]
fn labels_and_trust_reach_live_sessions() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let mut labels = Labels::default();
    labels.set("site".to_owned(), "lyon".to_owned()).unwrap();
    world.record(Event::NodeRelabelled(NodeRelabelled {
        node: node.id,
        labels: labels.clone(),
    }));
    let orders = world.orders(&node);
    assert!(
        matches!(&orders[..], [Down { body: DownBody::Labels { labels: told, .. }, .. }] if *told == labels)
    );
    // A new set goes to the sessions that run, and again until the node says that
    // it has it.
    let is_trust = |orders: &[Down]| {
        matches!(
            orders,
            [Down {
                body: DownBody::Trust(_),
                ..
            }]
        )
    };
    world.desk.set_trust(trust(2));
    world.deliver(vec![]);
    let orders = world.orders(&node);
    assert!(is_trust(&orders));
    let number = orders[0].number;
    let id = node.id;
    let held = |world: &World| {
        let presence = world.desk.board().presence(id);
        presence.unwrap().session.unwrap().trust_version
    };
    let beat = node.heartbeat(0, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty(), "it is on its way");
    assert_eq!(held(&world), 1);
    let beat = node.heartbeat(number, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty());
    assert_eq!(held(&world), 2);

    // A node that comes with an older one gets it with its welcome.
    world.desk.set_trust(trust(3));
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    let orders = world.orders(&node);
    assert!(is_trust(orders.last().map_or(&[], std::slice::from_ref)));
}

#[test]
fn records_are_taken_once_across_restarts() {
    let mut world = World::new();
    let node = world.join(1);
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert_eq!(world.desk.cursor(), 2);
    world.record(Event::CommandCancelRequested(CommandCancelRequested {
        command,
    }));
    assert_eq!(world.ended(command, &node), Some(Ended::Cancelled));
    world.restart();
    assert_eq!(world.desk.cursor(), 3);
    // The journal was restored from before the cancelling.
    world.desk.align(2, world.now).unwrap();
    assert_eq!(world.desk.cursor(), 2);
    assert_eq!(world.ended(command, &node), Some(Ended::Cancelled));
}

#[test]
fn presence_is_what_was_proven_and_when() {
    use crate::uplink::board::LinkState;
    let mut world = World::new();
    let mut node = world.join(1);
    assert!(world.desk.board().presence(node.id).is_none());
    world.connect(&mut node);
    let beat = {
        let ahead = world.now.after(Duration::from_secs(3600));
        node.heartbeat(0, ahead)
    };
    world.deliver(vec![beat]);
    let presence = world.desk.board().presence(node.id).unwrap();
    assert_eq!(presence.link(world.now), LinkState::Up);
    let session = presence.session.clone().unwrap();
    assert!(session.is_clock_off());
    assert_eq!(session.clock_offset_ms, 3_600_000);
    let later = world
        .now
        .after(LINK_PROVEN_MAX)
        .after(Duration::from_millis(1));
    assert_eq!(presence.link(later), LinkState::Down);
}

#[test]
fn asking_needs_a_session() {
    let mut world = World::new();
    let mut node = world.join(1);
    let live = DownBody::Live {
        until: world.now,
        interval_ms: 1000,
    };
    assert!(world.desk.ask(node.id, live.clone(), world.now).is_err());
    world.connect(&mut node);
    let output = world.desk.ask(node.id, live.clone(), world.now).unwrap();
    world.hear(output);
    assert_eq!(world.orders(&node)[0].body, live);

    let samples = LiveSamples {
        nonce: node.nonce,
        frame: b"now".to_vec(),
    };
    let samples = node.seal(Topic::Session(node.id), &samples, world.now);
    world.deliver(vec![samples]);
    assert_eq!(world.desk.sink().live, [(node.id, b"now".to_vec())]);
}

#[test]
fn principals_names_are_told_to_nodes() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let id = PrincipalId::from_bytes([5; 10]);
    let record = Record {
        seq: world.fleet.seq() + 1,
        at: world.now,
        by: Caller::Principal {
            id,
            key: ApiKeyId::from_bytes([6; 10]),
        },
        request: None,
        operation: "command.issue".to_owned(),
        version: 1,
        event: Event::CommandIssued(CommandIssued {
            command: CommandId::from_bytes([1; 10]),
            selector: None,
            action: Action::Ping,
            start_by: world.now.after(Duration::from_secs(60)),
            run_timeout_ms: 1000,
            output_bytes_max: 10,
            concurrency_max: None,
            rate_per_min: None,
            target_count: 1,
            targets_digest: Digest([0; 32]),
            withheld: 0,
            hours: Hours::Windows,
        }),
    };
    let recorded = Recorded {
        record,
        targets: vec![node.id],
    };
    let output = world.desk.record(vec![recorded], world.now);
    world.hear(output);
    let orders = world.orders(&node);
    assert!(
        matches!(&orders[0].body, DownBody::Command(command) if command.issued_by == id.to_string())
    );
}
