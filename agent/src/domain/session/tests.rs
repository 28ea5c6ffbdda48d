//! The link machine against a model of the controller's side: tables of single
//! behaviours, and properties under loss, repetition and reordering.

use proptest::prelude::*;
use protocol::label::Labels;

use super::*;

const STORE: StoreId = StoreId::from_bytes([7; 10]);

fn at(ms: u64) -> Moment {
    Moment {
        tick: Tick(ms),
        wall: UnixMillis(1_000_000 + ms),
    }
}

fn held() -> Held {
    Held {
        store: STORE,
        boot: BootId([1; 16]),
        agent_version: "0.1.0".to_owned(),
        incarnation: 3,
        generation: 0,
        trust_version: 1,
        proven: None,
        offers: Stream::ALL.map(|stream| StreamOffer {
            stream,
            acked: 0,
            last: 0,
        }),
    }
}

fn nonce(n: u8) -> Nonce {
    Nonce([n; 16])
}

fn ack(stream: Stream, acked: u64) -> StreamAck {
    StreamAck {
        stream,
        acked,
        credit_bytes: 256 * 1024,
    }
}

fn welcome(nonce: Nonce, acks: &[(Stream, u64)]) -> Welcome {
    Welcome {
        nonce,
        now: UnixMillis(5_000_000),
        echo: UnixMillis(0),
        incarnation: 3,
        heartbeat_ms: 15_000,
        name: "web-1".to_owned(),
        labels: Labels::default(),
        trust_version: 1,
        acks: acks
            .iter()
            .map(|(stream, acked)| ack(*stream, *acked))
            .collect(),
    }
}

fn acks(nonce: Nonce, list: &[(Stream, u64)]) -> Acks {
    Acks {
        nonce,
        now: UnixMillis(5_000_001),
        echo: UnixMillis(0),
        down_last: 0,
        acks: list
            .iter()
            .map(|(stream, acked)| ack(*stream, *acked))
            .collect(),
    }
}

fn down(nonce: Nonce, number: u64) -> Down {
    Down {
        nonce,
        number,
        body: DownBody::Cancel {
            command: protocol::id::CommandId::from_bytes([u8::try_from(number % 250).unwrap(); 10]),
        },
    }
}

/// A session that was welcomed at tick 100.
fn up() -> Session {
    let mut session = Session::new(held(), 1, at(0));
    assert_eq!(session.connected(at(0)), [Output::Greet]);
    session.greet(nonce(1), 1, at(0));
    let outputs = session.welcomed(welcome(nonce(1), &[]), at(100));
    assert!(outputs.contains(&Output::Up));
    session
}

fn orders(outputs: &[Output]) -> usize {
    let order = |output: &&Output| matches!(output, Output::Order(_));
    outputs.iter().filter(order).count()
}

#[test]
fn the_link_is_up_only_after_the_controllers_welcome() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    assert!(!session.is_up());
    let hello = session.greet(nonce(1), 9, at(0));
    assert_eq!((hello.connect_counter, hello.incarnation), (9, 3));
    assert_eq!(hello.streams.len(), 4);
    // A welcome to another hello is an old recording.
    assert_eq!(session.welcomed(welcome(nonce(2), &[]), at(10)), []);
    assert!(!session.is_up());
    let outputs = session.welcomed(welcome(nonce(1), &[]), at(20));
    assert!(outputs.contains(&Output::Up), "{outputs:?}");
    assert!(session.is_up());
}

#[test]
fn the_link_falls_a_minute_after_the_last_acknowledgement() {
    let mut session = up();
    session.acknowledged(&acks(nonce(1), &[]), at(10_000));
    assert!(!session.tick(at(69_999)).contains(&Output::Down));
    let outputs = session.tick(at(70_000));
    assert!(outputs.contains(&Output::Down), "{outputs:?}");
    assert!(outputs.contains(&Output::Greet), "{outputs:?}");
    assert_eq!(session.nonce(), None);
}

#[test]
fn hellos_without_an_answer_end_in_a_new_connection() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    session.greet(nonce(1), 1, at(0));
    let mut hellos = 1;
    let mut now = 0;
    loop {
        let (tick, _) = session.wakes_at().unwrap();
        assert!(tick.0 > now, "no busy loop");
        now = tick.0;
        let outputs = session.tick(at(now));
        if outputs.contains(&Output::Reconnect) {
            break;
        }
        assert_eq!(outputs, [Output::Greet]);
        hellos += 1;
        session.greet(nonce(hellos), u64::from(hellos), at(now));
    }
    assert_eq!(u32::from(hellos), HELLOS_UNANSWERED_MAX);
    assert_eq!(session.wakes_at(), None);
    assert!(now < 180_000, "gave up after {now} ms");
}

#[test]
fn a_node_without_a_connect_counter_asks_for_one_later() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    session.greet_later(at(0));
    assert_eq!(session.tick(at(10)), []);
    let (tick, _) = session.wakes_at().unwrap();
    assert_eq!(session.tick(at(tick.0)), [Output::Greet]);
}

#[test]
fn a_controller_with_a_lower_incarnation_is_not_obeyed() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    session.greet(nonce(1), 1, at(0));
    let stale = Welcome {
        incarnation: 2,
        ..welcome(nonce(1), &[])
    };
    let refused = Output::StaleController { found: 2, held: 3 };
    assert_eq!(session.welcomed(stale, at(10)), [refused]);
    assert_eq!(session.ordered(down(nonce(1), 1), at(20)), []);
}

#[test]
fn a_higher_incarnation_is_remembered() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    session.greet(nonce(1), 1, at(0));
    let restored = Welcome {
        incarnation: 4,
        ..welcome(nonce(1), &[])
    };
    let outputs = session.welcomed(restored, at(10));
    assert!(outputs.contains(&Output::Incarnation(4)), "{outputs:?}");
    assert_eq!(session.greet(nonce(2), 2, at(20)).incarnation, 4);
}

#[test]
fn orders_of_another_session_are_not_obeyed() {
    let mut session = up();
    assert_eq!(session.ordered(down(nonce(9), 1), at(200)), []);
    assert_eq!(orders(&session.ordered(down(nonce(1), 1), at(200))), 1);
    assert_eq!(orders(&session.ordered(down(nonce(1), 1), at(201))), 0);
}

#[test]
fn a_gap_is_reported_at_once_and_the_rest_follows_in_order() {
    let mut session = up();
    let outputs = session.ordered(down(nonce(1), 3), at(200));
    let [Output::Heartbeat(heartbeat)] = outputs.as_slice() else {
        panic!("expected a heartbeat, got {outputs:?}");
    };
    assert_eq!(heartbeat.down_seen, 0);
    assert_eq!(session.ordered(down(nonce(1), 2), at(300)), []);
    assert_eq!(orders(&session.ordered(down(nonce(1), 1), at(400))), 3);
}

#[test]
fn orders_that_went_missing_at_the_end_are_noticed_by_the_acknowledgement() {
    let mut session = up();
    let late = Acks {
        down_last: 2,
        ..acks(nonce(1), &[])
    };
    let outputs = session.acknowledged(&late, at(5_000));
    assert!(
        matches!(outputs.as_slice(), [Output::Heartbeat(beat)] if beat.down_seen == 0),
        "{outputs:?}"
    );
}

#[test]
fn a_number_far_ahead_is_left_to_be_sent_again() {
    let mut session = up();
    let far = u64::try_from(DOWN_WINDOW_MAX).unwrap() + 1;
    session.ordered(down(nonce(1), far), at(200));
    for number in 2..2 + u64::try_from(EARLY_COUNT_MAX).unwrap() + 10 {
        session.ordered(down(nonce(1), number), at(200));
    }
    let passed = orders(&session.ordered(down(nonce(1), 1), at(300)));
    assert_eq!(passed, EARLY_COUNT_MAX + 1);
}

#[test]
fn heartbeats_come_at_the_interval_that_the_welcome_asks_for() {
    let mut session = up();
    let mut beats = Vec::new();
    let mut now = 100;
    while beats.len() < 6 {
        let (tick, _) = session.wakes_at().unwrap();
        now = tick.0.max(now);
        for output in session.tick(at(now)) {
            if matches!(output, Output::Heartbeat(_)) {
                beats.push(now);
            }
        }
        session.acknowledged(&acks(nonce(1), &[]), at(now));
    }
    for pair in beats.windows(2) {
        let pause = pair[1] - pair[0];
        assert!((13_500..=16_500).contains(&pause), "{beats:?}");
    }
}

#[test]
fn streams_are_sent_in_their_order_within_window_and_credit() {
    let mut session = up();
    for stream in Stream::ALL {
        session.offer(stream, 3);
    }
    let mut sent = Vec::new();
    while let Some(want) = session.next_upload() {
        assert_eq!(want.after, 0);
        sent.push(want.stream);
        session.uploaded(want.stream, 1, 10, at(200));
    }
    // One upload each until the first acknowledgement opens the window.
    assert_eq!(sent, Stream::ALL);
    session.acknowledged(&acks(nonce(1), &[(Stream::Backfill, 1)]), at(300));
    let want = session.next_upload().unwrap();
    assert_eq!((want.stream, want.after), (Stream::Backfill, 1));
}

#[test]
fn without_credit_nothing_is_sent() {
    let mut session = up();
    session.offer(Stream::Control, 2);
    let mut none = acks(nonce(1), &[(Stream::Control, 0)]);
    none.acks[0].credit_bytes = 0;
    session.acknowledged(&none, at(200));
    assert_eq!(session.next_upload(), None);
    session.acknowledged(&acks(nonce(1), &[(Stream::Control, 0)]), at(300));
    assert!(session.next_upload().is_some());
}

#[test]
fn a_stall_goes_back_to_what_was_acknowledged_with_growing_patience() {
    let mut session = up();
    session.offer(Stream::Control, 5);
    session.uploaded(Stream::Control, 5, 100, at(1_000));
    assert_eq!(session.next_upload(), None);
    let mut now = 1_000;
    let mut pauses = Vec::new();
    for _ in 0..3 {
        while session.next_upload().is_none() {
            now += 500;
            session.tick(at(now));
            session.acknowledged(&acks(nonce(1), &[]), at(now));
        }
        pauses.push(now);
        let want = session.next_upload().unwrap();
        assert_eq!((want.stream, want.after), (Stream::Control, 0));
        session.uploaded(Stream::Control, 5, 100, at(now));
    }
    assert_eq!(pauses, [11_000, 31_000, 71_000]);
}

#[test]
fn a_slow_link_is_not_taken_for_a_lossy_one() {
    let mut session = up();
    session.offer(Stream::Backfill, 100);
    session.offer(Stream::Control, 1);
    // The backfill went out first and takes its time; the receipt is behind it.
    session.uploaded(Stream::Backfill, 10, 60_000, at(1_000));
    session.uploaded(Stream::Control, 1, 100, at(1_500));
    session.acknowledged(&acks(nonce(1), &[(Stream::Backfill, 10)]), at(10_500));
    session.tick(at(12_000));
    assert_ne!(
        session.next_upload().map(|want| want.stream),
        Some(Stream::Control)
    );
    // What was sent before an upload that arrived is lost, however others move.
    session.uploaded(Stream::Backfill, 20, 60_000, at(12_000));
    session.acknowledged(&acks(nonce(1), &[(Stream::Backfill, 20)]), at(20_000));
    session.tick(at(21_000));
    let want = session.next_upload().unwrap();
    assert_eq!((want.stream, want.after), (Stream::Control, 0));
}

#[test]
fn numbers_that_this_store_never_gave_out_are_reported() {
    let mut session = Session::new(held(), 1, at(0));
    session.connected(at(0));
    session.greet(nonce(1), 1, at(0));
    let outputs = session.welcomed(welcome(nonce(1), &[(Stream::Control, 40)]), at(10));
    assert!(outputs.contains(&Output::Overtaken {
        stream: Stream::Control,
        beyond: 40
    }));
}

#[test]
fn a_restored_controller_gets_what_is_still_kept() {
    let mut offers = held();
    offers.offers[0] = StreamOffer {
        stream: Stream::Control,
        acked: 30,
        last: 33,
    };
    let mut session = Session::new(offers, 1, at(0));
    session.connected(at(0));
    session.greet(nonce(1), 1, at(0));
    session.welcomed(welcome(nonce(1), &[(Stream::Control, 12)]), at(10));
    assert_eq!(session.next_upload().map(|want| want.after), Some(12));
}

#[test]
fn an_announcement_makes_a_session_greet_again_within_the_spread() {
    let mut session = up();
    let announce = Announce {
        incarnation: 3,
        now: UnixMillis(6_000_000),
    };
    session.announced(&announce, at(1_000));
    let (tick, why) = session.wakes_at().unwrap();
    assert_eq!(why, "say hello");
    assert!(tick.since(Tick(1_000)) <= ANNOUNCE_SPREAD);
    assert_eq!(session.tick(at(tick.0)), [Output::Greet]);
    // The same words again, as a broker may repeat them, change nothing.
    session.greet(nonce(2), 2, at(tick.0));
    session.welcomed(welcome(nonce(2), &[]), at(tick.0 + 10));
    session.announced(&announce, at(tick.0 + 20));
    assert!(session.nonce().is_some());
}

#[test]
fn an_announcement_older_than_the_welcome_is_old_news() {
    let mut session = up();
    let announce = Announce {
        incarnation: 3,
        now: UnixMillis(4_000_000),
    };
    session.announced(&announce, at(1_000));
    assert!(session.nonce().is_some());
}

#[test]
fn the_answer_to_a_heartbeat_proves_the_controllers_time() {
    let mut session = up();
    let (tick, _) = session.wakes_at().unwrap();
    let outputs = session.tick(at(tick.0));
    assert!(matches!(outputs.as_slice(), [Output::Heartbeat(_)]));
    let answer = Acks {
        now: UnixMillis(9_000_000),
        echo: at(tick.0).wall,
        ..acks(nonce(1), &[])
    };
    session.acknowledged(&answer, at(tick.0 + 200));
    let offset = session.clock().offset(at(tick.0 + 200)).unwrap();
    assert_eq!(offset.error_ms, 100);
    assert_eq!(
        session.clock().now(Tick(tick.0 + 200)),
        Some(UnixMillis(9_000_100))
    );
}

/// What a lossy network does with a message.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deliver,
    Drop,
    Twice,
    Late,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Deliver),
        2 => Just(Fate::Drop),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Late),
    ]
}

/// The controller's side of one stream, as `protocol::stream` states it.
#[derive(Default)]
struct Receiver {
    contiguous: u64,
    taken: Vec<u64>,
}

impl Receiver {
    fn take(&mut self, after: u64, seqs: &[u64]) {
        if after > self.contiguous {
            return;
        }
        for seq in seqs {
            if *seq > self.contiguous {
                self.taken.push(*seq);
                self.contiguous = *seq;
            }
        }
    }
}

proptest! {
    /// Orders are passed on in order, each once, whatever the network does, as
    /// long as the controller goes on sending what is missing.
    #[test]
    fn invariant_every_order_of_a_session_is_passed_on_once_in_order(
        fates in prop::collection::vec(fate(), 1..120),
        count in 1_u64..40,
    ) {
        let mut session = up();
        let mut passed = Vec::new();
        let mut late = Vec::new();
        let mut fates = fates.into_iter();
        let mut now = 1_000;
        for round in 0..200 {
            let seen = u64::try_from(passed.len()).unwrap();
            if seen == count {
                break;
            }
            for number in seen + 1..=count {
                now += 1;
                let message = down(nonce(1), number);
                let deliveries = match fates.next().unwrap_or(Fate::Deliver) {
                    Fate::Drop => vec![],
                    Fate::Deliver => vec![message],
                    Fate::Twice => vec![message.clone(), message],
                    Fate::Late => { late.push(message); vec![] }
                };
                for message in deliveries {
                    for output in session.ordered(message, at(now)) {
                        if let Output::Order(DownBody::Cancel { command }) = output {
                            passed.push(command);
                        }
                    }
                }
            }
            if round % 2 == 1 {
                for message in late.drain(..) {
                    for output in session.ordered(message, at(now)) {
                        if let Output::Order(DownBody::Cancel { command }) = output {
                            passed.push(command);
                        }
                    }
                }
            }
        }
        let expected: Vec<_> = (1..=count)
            .map(|number| protocol::id::CommandId::from_bytes([u8::try_from(number).unwrap(); 10]))
            .collect();
        prop_assert_eq!(passed, expected);
    }

    /// Every live entry arrives once and in order, whatever the network does with
    /// uploads and acknowledgements, and the session never thinks more arrived
    /// than did.
    #[test]
    fn invariant_every_entry_arrives_once_in_order_and_acks_never_run_ahead(
        fates in prop::collection::vec(fate(), 1..200),
        gaps in prop::collection::vec(1_u64..4, 1..30),
    ) {
        let entries: Vec<u64> = gaps.iter().scan(0, |seq, gap| { *seq += gap; Some(*seq) }).collect();
        let last = *entries.last().unwrap();
        let mut session = up();
        session.offer(Stream::Control, last);
        let mut receiver = Receiver::default();
        let mut late: Vec<(u64, Vec<u64>)> = Vec::new();
        let mut fates = fates.into_iter();
        let mut now = 1_000;
        for _ in 0..600 {
            now += 1_000;
            session.tick(at(now));
            while let Some(want) = session.next_upload() {
                let seqs: Vec<u64> = entries.iter().copied().filter(|seq| *seq > want.after).take(3).collect();
                let Some(sent) = seqs.last().copied() else {
                    session.nothing_after(want.stream, want.after);
                    continue;
                };
                session.uploaded(want.stream, sent, 30, at(now));
                match fates.next().unwrap_or(Fate::Deliver) {
                    Fate::Drop => {}
                    Fate::Deliver => receiver.take(want.after, &seqs),
                    Fate::Twice => {
                        receiver.take(want.after, &seqs);
                        receiver.take(want.after, &seqs);
                    }
                    Fate::Late => late.push((want.after, seqs)),
                }
            }
            for (after, seqs) in late.drain(..) {
                receiver.take(after, &seqs);
            }
            // Heartbeats keep the link proven even where acknowledgements get lost.
            match fates.next().unwrap_or(Fate::Deliver) {
                Fate::Drop | Fate::Late => { session.acknowledged(&acks(nonce(1), &[]), at(now)); }
                Fate::Deliver | Fate::Twice => {
                    let list = [(Stream::Control, receiver.contiguous)];
                    session.acknowledged(&acks(nonce(1), &list), at(now));
                }
            }
            prop_assert!(session.lanes[0].acked <= receiver.contiguous);
            if session.lanes[0].acked == last {
                break;
            }
        }
        prop_assert_eq!(receiver.taken, entries);
        prop_assert_eq!(session.lanes[0].acked, last);
    }

    /// Once ticked at the time that it named, the machine never wants to be woken
    /// at or before that time again: there is no busy loop.
    #[test]
    fn invariant_the_machine_sleeps_after_it_was_woken(
        steps in prop::collection::vec((0_u8..7, 1_u64..40_000), 1..80),
        seed: u64,
    ) {
        let mut session = Session::new(held(), seed, at(0));
        let mut now = 0;
        let mut counter = 0;
        let mut last_nonce = nonce(0);
        for (what, wait) in steps {
            now += wait;
            let mut outputs = match what {
                0 => session.connected(at(now)),
                1 => session.disconnected(at(now)),
                2 => session.welcomed(welcome(last_nonce, &[]), at(now)),
                3 => session.acknowledged(&acks(last_nonce, &[]), at(now)),
                4 => session.disowned(at(now)),
                5 => {
                    session.offer(Stream::Control, now);
                    if let Some(want) = session.next_upload() {
                        session.uploaded(want.stream, now, 10, at(now));
                    }
                    Vec::new()
                }
                _ => Vec::new(),
            };
            outputs.extend(session.tick(at(now)));
            while outputs.contains(&Output::Greet) {
                counter += 1;
                last_nonce = Nonce(u128::from(counter).to_le_bytes());
                session.greet(last_nonce, counter, at(now));
                outputs = session.tick(at(now));
            }
            if let Some((wake, why)) = session.wakes_at() {
                prop_assert!(wake > Tick(now), "{why} at {wake:?}, it is {now}");
            }
        }
    }
}
