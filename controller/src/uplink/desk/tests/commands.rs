//! Commands on their way: sent, lost, paced, cancelled, ended exactly once.

use super::*;

#[test]
fn a_command_goes_out_and_its_receipt_ends_it() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id]);
    let orders = world.orders(&node);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].number, 1);
    assert_eq!(orders[0].nonce, node.nonce);
    assert!(matches!(&orders[0].body, DownBody::Command(it) if it.id == command));

    let answer = node.receipt(1, command, Outcome::Failed { exit: Some(3) }, world.now);
    world.deliver(vec![answer]);
    assert_eq!(
        world.ended(command, &node),
        Some(Ended::Failed { exit: Some(3) })
    );
    let stored = world
        .desk
        .intake
        .receipt(command, node.id)
        .unwrap()
        .unwrap();
    assert!(!stored.late);
    assert_eq!(stored.receipt.stdout, b"out");

    world.wait(1);
    let concluded = world.events.iter().find_map(|event| {
        if let DeskEvent::Concluded {
            command: id,
            counts,
            ..
        } = event
        {
            (*id == command).then_some(*counts)
        } else {
            None
        }
    });
    let counts = concluded.expect("the command is concluded");
    assert_eq!(counts.failed, 1);
    assert_eq!(counts.total(), 1);
    world.record(Event::CommandConcluded(CommandConcluded {
        command,
        counts,
        merkle_root: Digest([0; 32]),
    }));
    world.events.clear();
    world.wait(10);
    assert!(world.events.is_empty());
}

#[test]
fn a_lost_order_is_sent_again_after_the_heartbeat() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.issue(1, Action::Ping, &[node.id]);
    world.issue(2, Action::Ping, &[node.id]);
    assert_eq!(world.orders(&node).len(), 2);

    let early = node.heartbeat(0, world.now);
    world.deliver(vec![early]);
    assert!(world.orders(&node).is_empty(), "they may be under way");
    world.wait(15);
    let beat = node.heartbeat(1, world.now);
    world.deliver(vec![beat]);
    let again = world.orders(&node);
    assert_eq!(
        again.iter().map(|down| down.number).collect::<Vec<_>>(),
        [2]
    );
    world.wait(15);
    let beat = node.heartbeat(2, world.now);
    world.deliver(vec![beat]);
    assert!(world.orders(&node).is_empty());
}

#[test]
fn open_commands_are_given_to_every_new_session() {
    let mut world = World::new();
    let mut node = world.join(1);
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert!(world.orders(&node).is_empty(), "it is not connected");
    let sent = |world: &mut World, node: &mut Node| {
        let hello = node.hello(world.now);
        world.deliver(vec![hello]);
        world.orders(node)
    };
    assert_eq!(sent(&mut world, &mut node).len(), 1);
    assert_eq!(sent(&mut world, &mut node).len(), 1);
    world.restart();
    let orders = sent(&mut world, &mut node);
    assert_eq!(orders.len(), 1);
    assert!(matches!(&orders[0].body, DownBody::Command(it) if it.id == command));
}

#[test]
fn concurrency_and_rate_pace_a_command() {
    let mut world = World::new();
    let mut nodes: Vec<Node> = (1..=6).map(|number| world.join(number)).collect();
    for node in &mut nodes {
        world.connect(node);
    }
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
    let command = world.issue_paced(9, Action::Ping, &ids, Some(2), None);
    let status = |world: &World| world.desk.board().command(command).unwrap();
    assert_eq!((status(&world).sent, status(&world).waiting), (2, 4));
    let first = nodes
        .iter()
        .position(|node| {
            world
                .heard
                .iter()
                .any(|(topic, _)| *topic == Topic::Down(node.id))
        })
        .unwrap();
    let now = world.now;
    let answer = nodes[first].receipt(1, command, Outcome::Succeeded, now);
    world.deliver(vec![answer]);
    assert_eq!((status(&world).sent, status(&world).waiting), (2, 3));

    let slow = world.issue_paced(8, Action::Ping, &ids, None, Some(60));
    let status = |world: &World| world.desk.board().command(slow).unwrap();
    assert_eq!(status(&world).sent, 1);
    world.wait(1);
    assert_eq!(status(&world).sent, 2);
    world.wait(1);
    assert_eq!(status(&world).sent, 3);
}

#[test]
fn every_target_ends_in_exactly_one_final_state() {
    let mut world = World::new();
    let mut silent = world.join(1);
    let absent = world.join(2);
    let mut held_back = world.join(3);
    world.connect(&mut silent);
    let command = world.issue_paced(
        1,
        Action::Ping,
        &[silent.id, absent.id, held_back.id],
        Some(1),
        None,
    );
    world.connect(&mut held_back);
    for _ in 0..5 {
        world.wait(12);
        let beats = vec![
            silent.heartbeat(1, world.now),
            held_back.heartbeat(0, world.now),
        ];
        world.deliver(beats);
    }
    world.wait(0);
    assert_eq!(world.ended(command, &absent), Some(Ended::Unreachable));
    assert_eq!(world.ended(command, &held_back), Some(Ended::Expired));
    assert_eq!(world.ended(command, &silent), None, "it may still run");
    world.wait(10 + 35);
    assert_eq!(world.ended(command, &silent), Some(Ended::Unreachable));

    // A receipt that comes later is attached and rewrites nothing.
    world.connect(&mut silent);
    let late = silent.receipt(1, command, Outcome::Succeeded, world.now);
    world.deliver(vec![late]);
    assert_eq!(world.acked(&silent, Stream::Control), Some(1));
    assert_eq!(world.ended(command, &silent), Some(Ended::Unreachable));
    let stored = world
        .desk
        .intake
        .receipt(command, silent.id)
        .unwrap()
        .unwrap();
    assert!(stored.late);
}

#[test]
fn cancelling_ends_what_was_not_sent_and_tells_who_has_it() {
    let mut world = World::new();
    let mut running = world.join(1);
    let absent = world.join(2);
    world.connect(&mut running);
    let command = world.issue(1, restart_unit(), &[running.id, absent.id]);
    assert_eq!(world.orders(&running).len(), 1);
    world.record(Event::CommandCancelRequested(CommandCancelRequested {
        command,
    }));
    assert_eq!(world.ended(command, &absent), Some(Ended::Cancelled));
    assert_eq!(world.ended(command, &running), None);
    let orders = world.orders(&running);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].body, DownBody::Cancel { command });

    // A new session hears of the cancelling, and not of the command.
    let hello = running.hello(world.now);
    world.deliver(vec![hello]);
    let orders = world.orders(&running);
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].body, DownBody::Cancel { command });
    let answer = running.receipt(1, command, Outcome::Cancelled, world.now);
    world.deliver(vec![answer]);
    assert_eq!(world.ended(command, &running), Some(Ended::Cancelled));
}

#[test]
fn receipts_twice_or_of_unknown_commands_change_nothing() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id]);
    let twice = node.upload(
        Stream::Control,
        0,
        vec![
            receipt(1, command, Outcome::Succeeded),
            receipt(2, command, Outcome::Refused),
            receipt(3, CommandId::from_bytes([200; 10]), Outcome::Succeeded),
        ],
        world.now,
    );
    world.deliver(vec![twice]);
    assert_eq!(world.acked(&node, Stream::Control), Some(3));
    assert_eq!(world.ended(command, &node), Some(Ended::Succeeded));
    let stored = world
        .desk
        .intake
        .receipt(command, node.id)
        .unwrap()
        .unwrap();
    assert_eq!(stored.receipt.outcome, Outcome::Succeeded);
    assert_eq!(
        world.desk.intake.quarantine(5).unwrap()[0].code,
        "command.not_found"
    );
}

#[test]
fn a_doubted_identity_gets_reads_but_no_changes() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.record(Event::IdentitySuspected(IdentitySuspected {
        node: node.id,
        doubt: Doubt::CounterReused,
        detail: String::new(),
    }));
    world.issue(1, restart_unit(), &[node.id]);
    assert!(world.orders(&node).is_empty());
    world.issue(2, Action::Ping, &[node.id]);
    assert_eq!(world.orders(&node).len(), 1);
    world.record(Event::IdentityResolved(IdentityResolved {
        node: node.id,
        note: String::new(),
    }));
    assert_eq!(world.orders(&node).len(), 1);
}

#[test]
fn a_revoked_node_is_cut_off_and_its_targets_end() {
    let mut world = World::new();
    let mut node = world.join(1);
    let waiting = world.join(2);
    world.connect(&mut node);
    let command = world.issue(1, Action::Ping, &[node.id, waiting.id]);
    for id in [node.id, waiting.id] {
        world.record(Event::NodeRevoked(NodeRevoked {
            node: id,
            reason: String::new(),
        }));
        assert!(world.events.contains(&DeskEvent::Disconnect(id)));
    }
    assert_eq!(world.ended(command, &node), Some(Ended::Unreachable));
    assert_eq!(world.ended(command, &waiting), Some(Ended::Cancelled));
    world.told(&node);
    let beat = node.heartbeat(0, world.now);
    let hello = node.hello(world.now);
    world.deliver(vec![beat, hello]);
    assert!(world.told(&node).is_empty());
    assert_eq!(
        world.desk.stats().refused[&ErrorCode::EnvelopeUnknownKey],
        2
    );
}

#[test]
fn a_batch_that_fails_sends_no_command_it_does_not_remember() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    world.disk.full.store(true, Ordering::Relaxed);
    // The record cannot be kept: it comes again.
    let before = world.desk.cursor();
    let fleet_before = world.fleet.clone();
    let command = world.issue(1, Action::Ping, &[node.id]);
    assert_eq!(world.desk.cursor(), before);
    assert!(world.orders(&node).is_empty());
    world.disk.full.store(false, Ordering::Relaxed);
    world.fleet = fleet_before;
    world.wait(1);
    assert_eq!(world.issue(1, Action::Ping, &[node.id]), command);
    // Its session was ended, so that it cannot get what is not remembered.
    world.connect(&mut node);
    world.wait(0);
    assert!(world.desk.board().command(command).is_some());
}
