//! The machine by tables, and against honest nodes over a network that loses,
//! repeats and reorders: nothing is taken twice or skipped, and nobody honest is
//! doubted.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::command::Action;
use protocol::id::CommandId;
use protocol::session::StreamOffer;
use protocol::stream::EntryKind;

use super::*;

const START: UnixMillis = UnixMillis(1_795_465_140_000);
const STORE: StoreId = StoreId::from_bytes([3; 10]);

fn terms() -> Terms {
    Terms {
        incarnation: 2,
        trust_version: 1,
        heartbeat_ms: 15_000,
        name: "n".to_owned(),
        labels: Labels::default(),
    }
}

fn hello(counter: u64, at: UnixMillis) -> Hello {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&counter.to_le_bytes());
    nonce[8..].copy_from_slice(&at.0.to_le_bytes());
    Hello {
        nonce: Nonce(nonce),
        store: STORE,
        connect_counter: counter,
        boot: BootId([1; 16]),
        agent_version: "1.0.0".to_owned(),
        now: at,
        incarnation: 1,
        generation: 0,
        policy_epoch: 0,
        trust_version: 1,
        streams: Stream::ALL
            .map(|stream| StreamOffer {
                stream,
                acked: 0,
                last: 0,
            })
            .to_vec(),
    }
}

fn greet(link: &mut NodeLink, counter: u64, at: UnixMillis) -> Greeting {
    let hello = hello(counter, at);
    link.hello(&hello, envelope_counter(counter, 1), at, &terms(), at)
}

fn welcomed(greeting: &Greeting) -> bool {
    matches!(greeting, Greeting::Welcomed { doubt: None, .. })
}

fn entry(seq: u64, body: &[u8]) -> Entry {
    Entry {
        seq,
        kind: EntryKind::FRAME,
        version: 1,
        body: body.to_vec(),
    }
}

fn upload(after: u64, entries: &[u64]) -> Upload {
    Upload {
        store: STORE,
        stream: Stream::Telemetry,
        after,
        entries: entries
            .iter()
            .map(|seq| entry(*seq, &seq.to_le_bytes()))
            .collect(),
    }
}

/// Takes an upload as the desk does; the numbers that were new.
fn take(link: &mut NodeLink, upload: &Upload) -> Result<Vec<u64>, Untaken> {
    let intake = link.upload(upload)?;
    assert_eq!(intake.doubt, None);
    let fresh = &upload.entries[intake.fresh_from..];
    for entry in fresh {
        link.advance(upload.stream, entry);
    }
    Ok(fresh.iter().map(|entry| entry.seq).collect())
}

#[test]
fn go_back_n_by_table() {
    struct Case {
        contiguous: u64,
        after: u64,
        entries: &'static [u64],
        expected: Result<&'static [u64], Untaken>,
    }
    let cases = [
        Case {
            contiguous: 0,
            after: 0,
            entries: &[1, 2],
            expected: Ok(&[1, 2]),
        },
        // Gaps inside are intended.
        Case {
            contiguous: 2,
            after: 2,
            entries: &[7, 9],
            expected: Ok(&[7, 9]),
        },
        // An overlap brings only what is new.
        Case {
            contiguous: 7,
            after: 2,
            entries: &[7, 9],
            expected: Ok(&[9]),
        },
        // `after` below our position, because superseded ones lie between.
        Case {
            contiguous: 9,
            after: 5,
            entries: &[12],
            expected: Ok(&[12]),
        },
        Case {
            contiguous: 9,
            after: 5,
            entries: &[6, 8],
            expected: Ok(&[]),
        },
        Case {
            contiguous: 9,
            after: 9,
            entries: &[],
            expected: Ok(&[]),
        },
        Case {
            contiguous: 9,
            after: 10,
            entries: &[11],
            expected: Err(Untaken::Gap),
        },
        Case {
            contiguous: 9,
            after: 9,
            entries: &[11, 10],
            expected: Err(Untaken::Disordered),
        },
        Case {
            contiguous: 9,
            after: 9,
            entries: &[9],
            expected: Err(Untaken::Disordered),
        },
    ];
    for case in cases {
        let mut link = NodeLink::new(Kept {
            store: Some(STORE),
            contiguous: [case.contiguous; 4],
            ..Kept::default()
        });
        let found = take(&mut link, &upload(case.after, case.entries));
        let context = format!(
            "{} after {} {:?}",
            case.contiguous, case.after, case.entries
        );
        assert_eq!(found, case.expected.map(<[u64]>::to_vec), "{context}");
        let last = case.entries.last().copied().unwrap_or(0);
        let expected = if found.is_ok() {
            case.contiguous.max(last)
        } else {
            case.contiguous
        };
        assert_eq!(link.kept().contiguous[2], expected, "{context}");
        assert_eq!(link.kept().contiguous[0], case.contiguous);
    }
}

#[test]
fn hellos_by_table() {
    let at = |seconds: u64| START.after(Duration::from_secs(seconds));
    let mut link = NodeLink::default();
    assert!(welcomed(&greet(&mut link, 10, at(0))));
    assert!(welcomed(&greet(&mut link, 11, at(10))));

    // The same hello again, and the one before it.
    assert_eq!(greet(&mut link, 11, at(10)), Greeting::Replayed);
    assert_eq!(greet(&mut link, 10, at(0)), Greeting::Replayed);
    // Older than what is remembered, and sealed before the last one: a recording.
    assert_eq!(greet(&mut link, 3, at(9)), Greeting::Replayed);
    // The same counters by another hand.
    for counter in [10, 11] {
        assert!(matches!(
            greet(&mut link, counter, at(20)),
            Greeting::Refused(Suspect {
                doubt: Doubt::CounterReused,
                ..
            })
        ));
    }
    // A disk that was put back: long forgotten, but sealed after the last one.
    assert!(matches!(
        greet(&mut link, 3, at(20)),
        Greeting::Refused(Suspect {
            doubt: Doubt::CounterReused,
            ..
        })
    ));
    assert!(welcomed(&greet(&mut link, 400, at(30))));
}

#[test]
fn what_was_kept_refuses_the_same_after_a_restart() {
    let mut link = NodeLink::default();
    greet(&mut link, 10, START);
    let mut again = NodeLink::new(link.kept().clone());
    assert_eq!(again.nonce(), None);
    assert!(!again.admit(envelope_counter(10, 7)), "sessions are over");
    assert_eq!(greet(&mut again, 10, START), Greeting::Replayed);
    assert!(welcomed(&greet(&mut again, 11, START)));
    assert!(again.admit(envelope_counter(11, 2)));
    assert!(!again.admit(envelope_counter(11, 2)));
    assert!(!again.admit(envelope_counter(11, 1)), "the hello's own");
    assert!(!again.admit(envelope_counter(10, 9)));
}

#[test]
fn a_node_ahead_of_our_incarnation_gets_no_session() {
    let mut link = NodeLink::default();
    let mut ahead = hello(1, START);
    ahead.incarnation = 3;
    let kept = link.kept().clone();
    let greeting = link.hello(&ahead, envelope_counter(1, 1), START, &terms(), START);
    assert_eq!(greeting, Greeting::Behind { incarnation: 3 });
    assert_eq!(link.kept(), &kept, "its counter is not used up");
}

#[test]
fn a_session_proves_itself_by_being_heard() {
    let mut link = NodeLink::default();
    assert!(!link.is_up(START));
    greet(&mut link, 1, START);
    assert!(link.is_up(START.after(LINK_PROVEN_MAX)));
    assert!(!link.is_up(START.after(LINK_PROVEN_MAX + Duration::from_millis(1))));
    link.hear(START.after(Duration::from_secs(50)));
    assert!(link.is_up(START.after(Duration::from_secs(110))));
    // Time that goes back proves nothing newer, and takes nothing back.
    link.hear(START);
    assert!(link.is_up(START.after(Duration::from_secs(110))));
}

#[test]
fn busy_controllers_give_frames_little_credit() {
    let mut link = NodeLink::default();
    greet(&mut link, 1, START);
    let credit = |load: Load, stream: Stream| {
        link.acks(START, &[stream], load, START).unwrap().acks[0].credit_bytes
    };
    for stream in [Stream::Telemetry, Stream::Backfill] {
        assert!(credit(Load::High, stream) < credit(Load::Normal, stream));
    }
    for stream in [Stream::Control, Stream::State] {
        assert_eq!(credit(Load::High, stream), credit(Load::Normal, stream));
    }
}

#[test]
fn the_window_of_orders_is_bounded_and_moves() {
    let mut link = NodeLink::default();
    assert_eq!(
        link.order(Order::Other(DownBody::RenewNow), START),
        Err(WindowFull)
    );
    greet(&mut link, 1, START);
    for _ in 0..DOWN_WINDOW_MAX {
        assert!(link.has_room());
        link.order(Order::Other(DownBody::RenewNow), START).unwrap();
    }
    assert!(!link.has_room());
    assert_eq!(
        link.order(Order::Other(DownBody::RenewNow), START),
        Err(WindowFull)
    );
    // A node that claims to have seen the future is not believed beyond what was
    // sent.
    let beat = heartbeat(&link, u64::MAX);
    assert_eq!(link.heartbeat(&beat, START), Some(Vec::new()));
    assert!(link.has_room());
    let down = link.order(Order::Other(DownBody::RenewNow), START).unwrap();
    assert_eq!(down.number, DOWN_WINDOW_MAX as u64 + 1);
}

fn heartbeat(link: &NodeLink, down_seen: u64) -> Heartbeat {
    Heartbeat {
        nonce: link.nonce().unwrap_or(Nonce([0; 16])),
        down_seen,
        now: START,
        uptime_ms: 0,
        outbox_entries: 0,
    }
}

fn command(number: u8) -> Arc<Command> {
    Arc::new(Command {
        id: CommandId::from_bytes([number; 10]),
        issued_at: START,
        start_by: START,
        run_timeout_ms: 1,
        output_bytes_max: 1,
        issued_by: String::new(),
        action: Action::Ping,
    })
}

/// What happens to an honest node's messages.
#[derive(Clone, Debug)]
enum Step {
    /// The node sends its next upload of up to this many entries; it is lost.
    SendLost(usize),
    /// It sends one, which arrives at once.
    Send(usize),
    /// It sends one, which is held back.
    SendLate(usize),
    /// What was held back arrives, the newest first, and stays held back.
    Flush,
    /// The node makes entries, leaving a gap before them.
    Make { gap: u64, count: u64 },
    /// The node hears how far it has come, and goes on from there.
    Hear,
    /// The node connects anew.
    Reconnect,
    /// The controller starts anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..5_usize).prop_map(Step::SendLost),
        4 => (1..5_usize).prop_map(Step::Send),
        2 => (1..5_usize).prop_map(Step::SendLate),
        1 => Just(Step::Flush),
        3 => (0..4_u64, 1..6_u64).prop_map(|(gap, count)| Step::Make { gap, count }),
        3 => Just(Step::Hear),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
    ]
}

/// An honest node with one stream.
#[derive(Default)]
struct Honest {
    live: BTreeSet<u64>,
    last: u64,
    acked: u64,
    sent: u64,
    connects: u64,
}

impl Honest {
    fn next(&mut self, count: usize) -> Upload {
        let entries: Vec<u64> = self
            .live
            .range(self.sent + 1..)
            .take(count)
            .copied()
            .collect();
        let after = self.sent;
        self.sent = entries.last().copied().unwrap_or(self.sent);
        upload(after, &entries)
    }

    fn connect(&mut self, link: &mut NodeLink, now: UnixMillis) {
        self.connects += 1;
        let mut hello = hello(self.connects, now);
        hello.streams[Stream::Telemetry.index()] = StreamOffer {
            stream: Stream::Telemetry,
            acked: self.acked,
            last: self.last,
        };
        let counter = envelope_counter(self.connects, 1);
        let greeting = link.hello(&hello, counter, now, &terms(), now);
        assert!(welcomed(&greeting), "{greeting:?}");
        self.hear(link);
    }

    fn hear(&mut self, link: &NodeLink) {
        self.acked = link.kept().contiguous[Stream::Telemetry.index()];
        self.sent = self.acked;
        self.live = self.live.split_off(&(self.acked + 1));
    }
}

proptest! {
    #[test]
    fn invariant_an_honest_node_gets_everything_across_once_and_is_never_doubted(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut link = NodeLink::default();
        let mut node = Honest::default();
        let mut made = BTreeSet::new();
        let mut taken: BTreeMap<u64, u32> = BTreeMap::new();
        let mut late: Vec<Upload> = Vec::new();
        let mut now = START;
        node.connect(&mut link, now);
        for step in steps {
            now = now.after(Duration::from_millis(700));
            let before = link.kept().contiguous[Stream::Telemetry.index()];
            let mut arrived = Vec::new();
            match step {
                Step::SendLost(count) => { node.next(count); }
                Step::Send(count) => arrived.push(node.next(count)),
                Step::SendLate(count) => late.push(node.next(count)),
                Step::Flush => arrived.extend(late.iter().rev().cloned()),
                Step::Make { gap, count } => for seq in node.last + gap + 1..=node.last + gap + count {
                    node.last = node.last.max(seq);
                    node.live.insert(seq);
                    made.insert(seq);
                },
                Step::Hear => node.hear(&link),
                Step::Reconnect => node.connect(&mut link, now),
                Step::Restart => {
                    link = NodeLink::new(link.kept().clone());
                    node.connect(&mut link, now);
                }
            }
            for upload in arrived {
                if let Ok(fresh) = take(&mut link, &upload) {
                    for seq in fresh {
                        *taken.entry(seq).or_default() += 1;
                    }
                }
            }
            prop_assert!(link.kept().contiguous[Stream::Telemetry.index()] >= before);
        }
        // The network heals: everything arrives.
        for _ in 0..made.len() + 1 {
            node.hear(&link);
            let upload = node.next(4);
            if let Ok(fresh) = take(&mut link, &upload) {
                for seq in fresh {
                    *taken.entry(seq).or_default() += 1;
                }
            }
        }
        let expected: BTreeMap<u64, u32> = made.iter().map(|seq| (*seq, 1)).collect();
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn invariant_every_order_arrives_in_its_place_while_heartbeats_pass(
        losses in prop::collection::vec(any::<bool>(), 1..200),
        orders in 1..60_u8,
    ) {
        let mut link = NodeLink::default();
        let mut now = START;
        greet(&mut link, 1, now);
        let mut lost = losses.into_iter().chain(std::iter::repeat(false));
        let mut seen: BTreeMap<u64, CommandId> = BTreeMap::new();
        let mut deliver = |down: Down, lost: bool| {
            if !lost && let DownBody::Command(command) = down.body {
                let first = *seen.entry(down.number).or_insert(command.id);
                assert_eq!(first, command.id, "one number, one order");
            }
            let mut through = 0;
            while seen.contains_key(&(through + 1)) {
                through += 1;
            }
            through
        };
        let mut through = 0;
        for number in 1..=orders {
            let down = link.order(Order::Command(command(number)), now).unwrap();
            through = deliver(down, lost.next() == Some(true));
        }
        for _ in 0..300 {
            now = now.after(Duration::from_secs(2));
            let beat = heartbeat(&link, through);
            for down in link.heartbeat(&beat, now).unwrap() {
                through = deliver(down, lost.next() == Some(true));
            }
        }
        prop_assert_eq!(through, u64::from(orders));
        for number in 1..=orders {
            prop_assert_eq!(seen.get(&u64::from(number)), Some(&command(number).id));
        }
    }

    #[test]
    fn invariant_no_recorded_hello_opens_a_session_or_casts_doubt(
        counters in prop::collection::vec(1..6_u64, 1..20),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let mut link = NodeLink::default();
        let mut recorded = Vec::new();
        let (mut counter, mut now) = (0, START);
        for step in counters {
            counter += step;
            now = now.after(Duration::from_secs(1));
            prop_assert!(welcomed(&greet(&mut link, counter, now)));
            recorded.push((counter, now));
        }
        let kept = link.kept().clone();
        for pick in picks {
            let (counter, at) = recorded[pick.index(recorded.len())];
            prop_assert_eq!(greet(&mut link, counter, at), Greeting::Replayed);
        }
        prop_assert_eq!(link.kept(), &kept);
    }
}
