//! Numbers, sizes, and what gives way.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn kept(bytes: u32) -> Item {
    Item {
        bytes,
        worth: Worth::Kept,
    }
}

fn frame(tier: Tier, minute: u64) -> Item {
    let first = UnixMillis(0).after(Duration::from_secs(60 * minute));
    Item {
        bytes: 500,
        worth: Worth::Frame(FrameWorth {
            tier: tier.number(),
            first,
            last: first.after(Duration::from_secs(50)),
            samples: 6,
        }),
    }
}

fn line(granted: u64) -> Line {
    Line::restored(BTreeMap::new(), 0, 0, granted)
}

#[test]
fn numbers_stop_where_the_reservation_ends() {
    let mut line = line(2);
    for expected in [Some(1), Some(2), None] {
        assert_eq!(line.next(), expected);
        if let Some(seq) = expected {
            line.insert(seq, kept(1));
        }
    }
    line.grant(10);
    assert_eq!(line.next(), Some(3));
    line.skip(20);
    assert_eq!((line.next(), line.left()), (None, 0));
}

#[test]
fn a_newer_state_finds_the_older_one_of_its_key() {
    let mut line = line(100);
    let state = |key| Item {
        bytes: 5,
        worth: Worth::State(StateKey(key)),
    };
    line.insert(1, state(1));
    line.insert(2, state(2));
    line.insert(3, state(1));
    assert_eq!(line.superseded_by(3, StateKey(1)), Some(1));
    assert_eq!(line.superseded_by(2, StateKey(2)), None);
}

#[test]
fn acknowledged_entries_are_released_but_for_the_newest() {
    let mut line = line(100);
    for seq in 1..=6 {
        line.insert(seq, kept(100));
    }
    line.acknowledge(5);
    assert_eq!(line.released(0, 0), [5, 4, 3, 2, 1]);
    assert_eq!(line.released(2, 1_000), [3, 2, 1]);
    assert_eq!(line.released(5, 250), [3, 2, 1]);
    assert_eq!(line.waiting(), 1);
    assert_eq!(line.kept(), [1, 2, 3, 4, 5]);
}

#[test]
fn the_oldest_fine_frames_become_coarser_first() {
    let mut line = line(1_000);
    line.insert(1, frame(Tier::Minute, 0));
    for seq in 2..=80 {
        line.insert(seq, frame(Tier::Fine, seq));
    }
    let Some(Shed::Coarsen { frames, tier }) = line.shed() else {
        panic!("expected frames to become coarser");
    };
    assert_eq!(tier, Tier::Minute);
    assert_eq!(frames, (2..62).collect::<Vec<_>>());
}

#[test]
fn frames_far_apart_do_not_go_into_one() {
    let mut line = line(1_000);
    line.insert(1, frame(Tier::Fine, 0));
    line.insert(2, frame(Tier::Fine, 100_000));
    line.insert(3, frame(Tier::Fine, 100_001));
    let Some(Shed::Coarsen { frames, .. }) = line.shed() else {
        panic!("expected frames to become coarser");
    };
    assert_eq!(frames, [2, 3]);
}

#[test]
fn when_nothing_can_become_coarser_the_oldest_frame_goes() {
    let mut line = line(1_000);
    line.insert(1, kept(9));
    line.insert(2, frame(Tier::TenMinutes, 0));
    line.insert(3, frame(Tier::TenMinutes, 600));
    assert_eq!(line.shed(), Some(Shed::Drop { frame: 2 }));
}

#[test]
fn receipts_have_room_as_long_as_every_open_command_has() {
    let most = u64::try_from(protocol::limits::ENTRY_BYTES_MAX).unwrap();
    let mut outbox = Outbox::default();
    assert!(outbox.has_room_for_receipt(0, most));
    assert!(!outbox.has_room_for_receipt(1, most));
    outbox.line_mut(Stream::Control).insert(1, kept(10));
    assert!(!outbox.has_room_for_receipt(0, most));
    // What is acknowledged is kept only while there is room, so it does not count.
    outbox.line_mut(Stream::Control).acknowledge(1);
    assert!(outbox.has_room_for_receipt(0, most));
}

proptest! {
    #[test]
    fn invariant_numbers_rise_and_the_sum_of_bytes_is_kept(
        steps in prop::collection::vec((0_u8..4, 1_u32..1_000), 1..200)
    ) {
        let mut line = line(1_000);
        let mut given = 0;
        for (what, value) in steps {
            match what {
                0 | 1 => if let Some(seq) = line.next() {
                    prop_assert!(seq > given);
                    given = seq;
                    line.insert(seq, kept(value));
                },
                2 => { line.remove(u64::from(value) % 50); }
                _ => line.acknowledge(u64::from(value) % 300),
            }
            let bytes: u64 = line.after(0).map(|(_, item)| u64::from(item.bytes)).sum();
            prop_assert_eq!(line.bytes(), bytes);
            prop_assert!(line.acked() <= line.last());
            prop_assert_eq!(line.waiting(), line.after(line.acked()).count());
        }
    }

    #[test]
    fn invariant_a_receipt_is_never_shed(
        items in prop::collection::vec((0_u8..5, 0_u64..3_000), 1..60)
    ) {
        let mut line = line(10_000);
        for (kind, minute) in items {
            let item = match Tier::from_number(kind) {
                Some(tier) => frame(tier, minute),
                None => kept(10),
            };
            let seq = line.next().unwrap();
            line.insert(seq, item);
        }
        let receipts = line.after(0).filter(|(_, item)| item.worth == Worth::Kept).count();
        while let Some(shed) = line.shed() {
            let gone = match shed {
                Shed::Drop { frame } => vec![frame],
                Shed::Coarsen { frames, .. } => {
                    prop_assert!(frames.len() > 1);
                    frames
                }
            };
            for seq in gone {
                let item = line.remove(seq);
                prop_assert!(matches!(item.map(|item| item.worth), Some(Worth::Frame(_))));
            }
        }
        prop_assert_eq!(line.after(0).count(), receipts);
    }
}
