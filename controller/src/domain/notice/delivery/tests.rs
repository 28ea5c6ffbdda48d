//! What is tried when, and what becomes of it.

use proptest::prelude::*;

use super::*;
use crate::domain::notice::{NoticeKind, NoticeState, Severity};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

fn notice(key: &str) -> Notice {
    Notice::new(
        UnixMillis(1),
        NoticeKind::Breaker,
        Severity::Critical,
        NoticeState::Once,
        key.to_owned(),
    )
    .saying("fleet", format!("notice of {key}"))
}

/// A queue with one notice of each key, numbered from 1.
fn queue(keys: &[&str]) -> Queue {
    let mut queue = Queue::resume(Progress::default(), BTreeMap::new());
    for (seq, key) in (1..).zip(keys) {
        queue.take(seq, Some(notice(key)), UnixMillis(0));
    }
    queue
}

fn tried(queue: &mut Queue, at: u64) -> Vec<u64> {
    let next = queue.next(UnixMillis(at));
    next.into_iter().map(|(seq, _)| seq).collect()
}

fn settle(queue: &mut Queue, seq: u64, outcome: Outcome, at: u64) {
    queue.settle(seq, outcome, 0, UnixMillis(at));
}

fn failed() -> Outcome {
    Outcome::Failed("it hung up".to_owned())
}

#[test]
fn what_is_delivered_is_done_with() {
    let mut queue = queue(&["a", "b"]);
    assert_eq!(tried(&mut queue, 0), [1, 2]);
    assert_eq!(tried(&mut queue, 0), [0; 0], "each is in flight once");
    settle(&mut queue, 2, Outcome::Delivered, 5);
    settle(&mut queue, 1, Outcome::Delivered, 7);
    let progress = queue.progress();
    assert_eq!(progress.cursor, 2);
    assert_eq!(progress.totals.delivered, 2);
    assert_eq!(progress.delivered_at, Some(UnixMillis(7)));
    assert!(progress.waiting.is_empty() && progress.failing.is_none());
    assert_eq!(queue.wakes_at(), None);
}

#[test]
fn an_end_is_not_tried_before_its_beginning_is_settled() {
    let mut queue = queue(&["a", "b", "a", "a"]);
    assert_eq!(tried(&mut queue, 0), [1, 2]);
    settle(&mut queue, 1, failed(), 0);
    assert_eq!(tried(&mut queue, 1), [0; 0], "3 waits for 1");
    assert_eq!(tried(&mut queue, 5 * SECOND), [1]);
    settle(&mut queue, 1, Outcome::Delivered, 5 * SECOND);
    assert_eq!(tried(&mut queue, 5 * SECOND), [3]);
    settle(&mut queue, 3, Outcome::Refused("no".to_owned()), 6 * SECOND);
    assert_eq!(tried(&mut queue, 6 * SECOND), [4], "also after a refusal");
}

#[test]
fn a_refusal_is_for_good_and_shown() {
    let mut queue = queue(&["a"]);
    tried(&mut queue, 0);
    settle(
        &mut queue,
        1,
        Outcome::Refused("it answered 404".to_owned()),
        9,
    );
    let progress = queue.progress();
    assert!(progress.waiting.is_empty());
    assert_eq!(progress.totals.failed, 1);
    let given_up = progress.given_up.unwrap();
    assert_eq!(given_up.reason, "notice of a: it answered 404");
    assert_eq!(progress.failing.unwrap().at, UnixMillis(9));
    assert_eq!(queue.breaker(), BreakerState::Closed, "a no is an answer");
}

#[test]
fn pauses_double_with_jitter_up_to_a_quarter_of_an_hour() {
    assert_eq!(
        (1..12).map(pause_ms).collect::<Vec<_>>(),
        [
            5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 900_000, 900_000,
            900_000
        ]
    );
    assert_eq!(pause_ms(u32::MAX), PAUSE_MS_MAX);
    for chance in [0, 1, 77, u64::MAX] {
        let pause = jittered(10_000, chance);
        assert!((5_000..=10_000).contains(&pause), "{pause}");
    }
}

#[test]
fn who_says_when_is_left_alone_until_then() {
    let mut queue = queue(&["a", "b"]);
    assert_eq!(tried(&mut queue, 0), [1, 2]);
    let later = Outcome::Later {
        reason: "it answered 429".to_owned(),
        pause_ms: Some(2 * MINUTE),
    };
    settle(&mut queue, 1, later, 0);
    settle(&mut queue, 2, failed(), 0);
    assert_eq!(queue.wakes_at(), Some(UnixMillis(2 * MINUTE)));
    assert_eq!(
        tried(&mut queue, 2 * MINUTE - 1),
        [0; 0],
        "neither is tried"
    );
    assert_eq!(tried(&mut queue, 2 * MINUTE), [1, 2]);
}

#[test]
fn a_receiver_that_fails_is_probed_now_and_then_and_comes_back() {
    let mut queue = queue(&["a", "b", "c", "d", "e", "f"]);
    assert_eq!(tried(&mut queue, 0), [1, 2, 3, 4], "so many at once");
    for seq in 1..=4 {
        settle(&mut queue, seq, failed(), 0);
    }
    assert_eq!(tried(&mut queue, 0), [5, 6]);
    settle(&mut queue, 5, failed(), 0);
    settle(&mut queue, 6, failed(), 0);
    assert_eq!(queue.breaker(), BreakerState::Open);
    assert_eq!(tried(&mut queue, 29 * SECOND), [0; 0]);
    assert_eq!(queue.wakes_at(), Some(UnixMillis(30 * SECOND)));
    assert_eq!(tried(&mut queue, 30 * SECOND), [1], "one probe");
    assert_eq!(
        queue.wakes_at(),
        Some(UnixMillis(GIVE_UP_MS)),
        "its answer is what comes next"
    );
    settle(&mut queue, 1, failed(), 31 * SECOND);
    assert_eq!(
        queue.wakes_at(),
        Some(UnixMillis(91 * SECOND)),
        "twice as long"
    );
    assert_eq!(tried(&mut queue, 91 * SECOND), [1]);
    settle(&mut queue, 1, Outcome::Delivered, 92 * SECOND);
    assert_eq!(queue.breaker(), BreakerState::Closed);
    assert_eq!(tried(&mut queue, 92 * SECOND), [2, 3, 4, 5]);
    assert!(queue.progress().failing.is_none());
}

#[test]
fn it_is_given_up_after_a_day_and_that_is_shown() {
    let mut queue = queue(&["a"]);
    let mut at = 0;
    let mut tries = 0;
    while let Some(wakes) = queue.wakes_at() {
        assert!(wakes.0 > at || tries == 0, "it does not spin");
        at = wakes.0;
        for seq in tried(&mut queue, at) {
            tries += 1;
            settle(&mut queue, seq, failed(), at);
        }
    }
    assert_eq!(at, GIVE_UP_MS);
    assert!((90..200).contains(&tries), "{tries} tries in a day");
    let progress = queue.progress();
    assert_eq!((progress.totals.failed, progress.waiting.len()), (1, 0));
    let reason = progress.given_up.unwrap().reason;
    assert_eq!(reason, "notice of a: given up after a day: it hung up");
    assert_eq!(progress.failing.unwrap().at, UnixMillis(0));
}

#[test]
fn what_nobody_wants_any_more_is_dropped() {
    let mut queue = queue(&[]);
    for (seq, expires) in [(1, MINUTE), (2, 2 * MINUTE)] {
        let mut beat = notice("heartbeat");
        beat.expires_at = Some(UnixMillis(expires));
        queue.take(seq, Some(beat), UnixMillis(0));
    }
    assert_eq!(tried(&mut queue, 0), [1]);
    settle(&mut queue, 1, failed(), 50 * SECOND);
    assert_eq!(tried(&mut queue, MINUTE), [2], "never beyond its interval");
    settle(&mut queue, 2, Outcome::Delivered, MINUTE);
    let totals = queue.progress().totals;
    assert_eq!((totals.expired, totals.delivered, totals.failed), (1, 1, 0));
}

#[test]
fn what_was_kept_is_tried_again_after_a_crash_and_what_is_gone_is_counted() {
    let mut before = queue(&["a", "b", "c"]);
    assert_eq!(tried(&mut before, 0), [1, 2, 3]);
    settle(&mut before, 1, failed(), 0);
    settle(&mut before, 2, Outcome::Delivered, 0);
    let kept = before.progress();
    let held = BTreeMap::from([(3, notice("c"))]);
    let mut after = Queue::resume(kept, held);
    assert_eq!(tried(&mut after, 1), [3], "also what was in flight");
    assert_eq!(after.progress().totals.lost, 1, "1 left the table");
    after.begins_at(10);
    assert_eq!(after.cursor(), 9);
    assert_eq!(after.progress().totals.lost, 1 + 6);
    after.begins_at(4);
    assert_eq!(after.cursor(), 9);
}

#[test]
fn a_changed_sink_is_tried_at_once() {
    let mut queue = queue(&["a", "b", "c", "d", "e", "f"]);
    for _ in 0..2 {
        for seq in tried(&mut queue, 0) {
            settle(&mut queue, seq, failed(), 0);
        }
    }
    assert_eq!(queue.breaker(), BreakerState::Open);
    queue.try_now();
    assert_eq!(tried(&mut queue, 1), [1, 2, 3, 4]);
}

#[test]
fn what_waits_is_bounded() {
    let mut queue = queue(&[]);
    for seq in 1.. {
        if queue.room() == 0 {
            break;
        }
        queue.take(seq, Some(notice("a")), UnixMillis(0));
    }
    assert_eq!(queue.waiting(), (PENDING_MAX, Some(UnixMillis(0))));
}

fn key_of<'k>(keys: &[&'k str], seq: u64) -> Option<&'k str> {
    (1..)
        .zip(keys)
        .find(|(number, _)| *number == seq)
        .map(|(_, key)| *key)
}

/// What a receiver does, made of chance.
fn outcomes() -> impl Strategy<Value = Vec<(u8, u8, u64)>> {
    proptest::collection::vec((0..5_u8, 0..8_u8, 0..20 * MINUTE), 1..200)
}

proptest! {
    #[test]
    fn invariant_each_notice_is_settled_once_and_in_the_order_of_its_key(story in outcomes()) {
        let keys = ["a", "b", "a", "c", "a", "b", "b", "c", "d", "a"];
        let mut queue = queue(&keys);
        let mut flying: Vec<u64> = Vec::new();
        let mut settled: Vec<u64> = Vec::new();
        let mut now = 0;
        let mut story = story.into_iter();
        while now < 3 * GIVE_UP_MS {
            for seq in tried(&mut queue, now) {
                prop_assert!(!flying.contains(&seq) && !settled.contains(&seq));
                let key = key_of(&keys, seq);
                for earlier in (1..seq).filter(|earlier| key_of(&keys, *earlier) == key) {
                    let waits = queue.progress().waiting.iter().any(|row| row.seq == earlier);
                    prop_assert!(!waits, "{earlier} was not settled before {seq}");
                }
                flying.push(seq);
            }
            prop_assert!(flying.len() <= TRIES_AT_ONCE);
            let (what, which, passes) = story.next().unwrap_or((4, 0, HOUR));
            if !flying.is_empty() {
                let seq = flying.remove(usize::from(which) % flying.len());
                let outcome = match what {
                    0 => Outcome::Delivered,
                    1 => Outcome::Refused("no".to_owned()),
                    2 => Outcome::Later { reason: "later".to_owned(), pause_ms: Some(passes) },
                    _ => failed(),
                };
                if what < 2 {
                    settled.push(seq);
                }
                settle(&mut queue, seq, outcome, now);
            }
            now += passes;
        }
        let progress = queue.progress();
        prop_assert_eq!(progress.totals.delivered + progress.totals.failed, keys.len() as u64);
        prop_assert!(progress.waiting.is_empty());
    }
}
