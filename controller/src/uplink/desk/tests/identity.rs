//! Identities in doubt: clones, disks that were put back, and a controller that was.

use super::*;

#[test]
fn a_reused_connect_counter_puts_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut clone = node.clone();
    world.connect(&mut node);
    world.wait(1);
    // Another machine with the same disk: same counter, its own nonce.
    let theirs = clone.hello(world.now);
    world.deliver(vec![theirs]);
    assert_eq!(world.doubts(), [Doubt::CounterReused]);
    assert_eq!(world.rejections(&node), ["node.identity_suspect"]);
}

#[test]
fn a_disk_that_was_put_back_is_noticed_even_after_a_restart() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut old = node.clone();
    for _ in 0..20 {
        world.wait(1);
        world.connect(&mut node);
    }
    world.restart();
    world.wait(1);
    let hello = old.hello(world.now);
    world.deliver(vec![hello]);
    assert_eq!(world.doubts(), [Doubt::CounterReused]);
}

#[test]
fn hellos_that_a_broker_plays_back_are_ignored() {
    let mut world = World::new();
    let mut node = world.join(1);
    let mut recorded = Vec::new();
    for _ in 0..20 {
        world.wait(1);
        let hello = node.hello(world.now);
        recorded.push(hello.clone());
        world.deliver(vec![hello]);
    }
    world.told(&node);
    world.deliver(recorded.clone());
    world.restart();
    world.deliver(recorded);
    assert!(world.doubts().is_empty());
    assert!(world.told(&node).is_empty());
}

#[test]
fn one_number_with_two_contents_puts_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let one = node.upload(Stream::Control, 0, vec![state(1, 1)], world.now);
    let two = node.upload(Stream::Control, 0, vec![state(1, 2)], world.now);
    world.deliver(vec![one, two]);
    assert_eq!(world.doubts(), [Doubt::ContentDiffers]);
}

#[test]
fn numbers_that_were_never_given_out_put_the_identity_in_doubt() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(50, b"a")], world.now);
    world.deliver(vec![upload]);
    node.last = [0; 4];
    let welcome = world.connect(&mut node);
    assert_eq!(world.doubts(), [Doubt::ContentDiffers]);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 50);
}

#[test]
fn a_new_store_starts_anew_and_the_return_of_the_old_one_is_doubted() {
    let mut world = World::new();
    let mut node = world.join(1);
    world.connect(&mut node);
    let upload = node.upload(Stream::Telemetry, 0, vec![frame(50, b"a")], world.now);
    world.deliver(vec![upload]);
    let mut old = node.clone();

    world.wait(1);
    node.store = StoreId::from_bytes([42; 10]);
    node.connects = 0;
    node.last = [0; 4];
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 0);
    assert!(world.doubts().is_empty());

    world.wait(1);
    world.connect(&mut old);
    assert_eq!(world.doubts(), [Doubt::StoreChanged]);
}

#[test]
fn a_restored_controller_takes_the_nodes_word_and_counts_what_is_lost() {
    let mut world = World::new();
    let mut node = world.join(1);
    node.acked[Stream::Telemetry.index()] = 100;
    node.last[Stream::Telemetry.index()] = 120;
    let welcome = world.connect(&mut node);
    assert_eq!(welcome.acks[Stream::Telemetry.index()].acked, 100);
    assert_eq!(world.desk.stats().lost, 100);
    assert!(world.events.contains(&DeskEvent::Lost {
        node: node.id,
        entries: 100
    }));
    let presence = world.desk.board().presence(node.id).unwrap();
    assert_eq!(presence.entries_lost, 100);

    node.incarnation = 5;
    let hello = node.hello(world.now);
    world.deliver(vec![hello]);
    assert!(world.told(&node).is_empty());
    assert!(world.events.contains(&DeskEvent::Behind {
        node: node.id,
        incarnation: 5
    }));
}
