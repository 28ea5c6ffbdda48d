//! Commands judged once, over repetition, restarts and full disks.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use protocol::command::Action;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn id(n: u8) -> CommandId {
    CommandId::from_bytes([n; 10])
}

fn command(n: u8, start_by: u64) -> Command {
    Command {
        id: id(n),
        issued_at: UnixMillis(0),
        start_by: UnixMillis(start_by),
        run_timeout_ms: 1_000,
        output_bytes_max: 1_000,
        issued_by: "ops".to_owned(),
        action: Action::Ping,
    }
}

/// What the store does with a verdict.
fn settle(ledger: &mut Ledger, command: CommandId, verdict: &Verdict) {
    if let Verdict::Start(entry) | Verdict::Answer(entry, _) = verdict {
        ledger.insert(command, *entry);
    }
}

#[test]
fn a_command_starts_once_and_its_copies_are_duplicates() {
    let mut ledger = Ledger::default();
    let command = command(1, 1_000);
    let verdict = ledger.judge(&command, UnixMillis(10), Room::Enough);
    assert!(matches!(verdict, Verdict::Start(_)));
    settle(&mut ledger, command.id, &verdict);
    let again = ledger.judge(&command, UnixMillis(20), Room::Enough);
    assert_eq!(again, Verdict::Duplicate);
    let closed = ledger.close(command.id, Outcome::Succeeded).unwrap();
    ledger.insert(command.id, closed);
    assert_eq!(ledger.close(command.id, Outcome::Succeeded), None);
    // Even past its expiry, where it would be answered as expired otherwise.
    let late = ledger.judge(&command, UnixMillis(9_000), Room::Enough);
    assert_eq!(late, Verdict::Duplicate);
}

#[test]
fn a_late_command_is_expired_and_never_starts() {
    let ledger = Ledger::default();
    let verdict = ledger.judge(&command(1, 1_000), UnixMillis(1_001), Room::Enough);
    let Verdict::Answer(entry, receipt) = verdict else {
        panic!("expected an answer, got {verdict:?}");
    };
    assert_eq!(entry.state, State::Closed(Outcome::Expired));
    assert_eq!(receipt.outcome, Outcome::Expired);
    assert_eq!(receipt.code.as_deref(), Some("command.expired"));
    assert_eq!(receipt.started_at, None);
    let on_time = ledger.judge(&command(1, 1_000), UnixMillis(1_000), Room::Enough);
    assert!(matches!(on_time, Verdict::Start(_)));
}

#[test]
fn a_malformed_command_is_refused_with_the_reason() {
    let mut malformed = command(1, 1_000);
    malformed.action = Action::Run { argv: Vec::new() };
    let verdict = Ledger::default().judge(&malformed, UnixMillis(1), Room::Enough);
    let Verdict::Answer(_, receipt) = verdict else {
        panic!("expected an answer, got {verdict:?}");
    };
    assert_eq!(receipt.code.as_deref(), Some("command.invalid"));
    assert!(
        receipt.detail.contains("command line"),
        "{}",
        receipt.detail
    );
}

#[test]
fn without_room_a_command_is_refused_and_not_remembered() {
    let mut ledger = Ledger::default();
    let verdict = ledger.judge(&command(1, 1_000), UnixMillis(1), Room::Full);
    let Verdict::AnswerOnly(receipt) = &verdict else {
        panic!("expected an answer, got {verdict:?}");
    };
    assert_eq!(receipt.code.as_deref(), Some("store.full"));
    settle(&mut ledger, id(1), &verdict);
    // Once there is room again, a copy is carried out.
    let again = ledger.judge(&command(1, 1_000), UnixMillis(2), Room::Enough);
    assert!(matches!(again, Verdict::Start(_)));
}

#[test]
fn more_open_commands_than_receipts_are_reserved_for_are_refused() {
    let mut ledger = Ledger::default();
    for n in 0..OPEN_COUNT_MAX {
        let command = command(u8::try_from(n).unwrap(), 1_000);
        let verdict = ledger.judge(&command, UnixMillis(1), Room::Enough);
        assert!(matches!(verdict, Verdict::Start(_)));
        settle(&mut ledger, command.id, &verdict);
    }
    let verdict = ledger.judge(&command(200, 1_000), UnixMillis(1), Room::Enough);
    let Verdict::Answer(_, receipt) = verdict else {
        panic!("expected an answer, got {verdict:?}");
    };
    assert_eq!(receipt.code.as_deref(), Some("command.no_slot"));
}

#[test]
fn what_was_open_at_a_crash_is_interrupted_and_never_runs_again() {
    let mut ledger = Ledger::default();
    let verdict = ledger.judge(&command(1, 1_000), UnixMillis(5), Room::Enough);
    settle(&mut ledger, id(1), &verdict);
    let restored = Ledger::restored(ledger.entries.clone());
    assert_eq!(restored.open_count(), 1);
    let receipts = restored.interrupted(UnixMillis(50));
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].outcome, Outcome::Interrupted);
    assert_eq!(receipts[0].started_at, Some(UnixMillis(5)));
    let copy = restored.judge(&command(1, 1_000), UnixMillis(60), Room::Enough);
    assert_eq!(copy, Verdict::Duplicate);
}

#[test]
fn a_command_cancelled_before_it_arrived_never_starts() {
    let mut ledger = Ledger::default();
    let verdict = ledger.judge_cancel(id(1), UnixMillis(1), Room::Enough);
    let Verdict::Answer(_, receipt) = &verdict else {
        panic!("expected an answer, got {verdict:?}");
    };
    assert_eq!(receipt.outcome, Outcome::Cancelled);
    settle(&mut ledger, id(1), &verdict);
    let late = ledger.judge(&command(1, 1_000), UnixMillis(2), Room::Enough);
    assert_eq!(late, Verdict::Duplicate);
    let again = ledger.judge_cancel(id(1), UnixMillis(3), Room::Enough);
    assert_eq!(again, Verdict::Duplicate);
}

#[test]
fn ids_are_kept_past_expiry_and_then_forgotten() {
    let mut ledger = Ledger::default();
    let verdict = ledger.judge(&command(1, 1_000), UnixMillis(1), Room::Enough);
    settle(&mut ledger, id(1), &verdict);
    let long_after = UnixMillis(1_000).after(LEDGER_KEEP).after(HOUR);
    // An open command is owed a receipt, however old it is.
    assert_eq!(ledger.forgettable(long_after), []);
    let closed = ledger.close(id(1), Outcome::Succeeded).unwrap();
    ledger.insert(id(1), closed);
    assert_eq!(ledger.forgettable(UnixMillis(1_000).after(HOUR)), []);
    assert_eq!(ledger.forgettable(long_after), [id(1)]);
}

proptest! {
    #[test]
    fn invariant_no_command_starts_twice_and_each_gets_one_receipt(
        steps in prop::collection::vec((0_u8..6, 0_u8..4, 0_u64..3_000), 1..120)
    ) {
        let mut ledger = Ledger::default();
        let mut started = BTreeSet::new();
        let mut receipts: Vec<CommandId> = Vec::new();
        let mut now = 0;
        for (n, what, wait) in steps {
            now += wait;
            let (command, time) = (command(n, 2_000 + u64::from(n) * 500), UnixMillis(now));
            match what {
                0 | 1 => {
                    let verdict = ledger.judge(&command, time, Room::Enough);
                    match &verdict {
                        Verdict::Start(_) => {
                            prop_assert!(started.insert(command.id), "started twice");
                            prop_assert!(time <= command.start_by);
                        }
                        Verdict::Answer(..) => receipts.push(command.id),
                        Verdict::Duplicate => {}
                        Verdict::AnswerOnly(_) => prop_assert!(false, "there is room"),
                    }
                    settle(&mut ledger, command.id, &verdict);
                }
                2 => {
                    if let Some(entry) = ledger.close(command.id, Outcome::Succeeded) {
                        receipts.push(command.id);
                        ledger.insert(command.id, entry);
                    }
                }
                _ => {
                    ledger = Ledger::restored(ledger.entries.clone());
                    for receipt in ledger.interrupted(time) {
                        let entry = ledger.close(receipt.command, receipt.outcome);
                        prop_assert!(entry.is_some());
                        ledger.insert(receipt.command, entry.unwrap());
                        receipts.push(receipt.command);
                    }
                }
            }
            let open = ledger.entries.values().filter(|entry| entry.state == State::Open).count();
            prop_assert_eq!(ledger.open_count(), open);
        }
        let distinct: BTreeSet<_> = receipts.iter().collect();
        prop_assert_eq!(distinct.len(), receipts.len(), "a command has two receipts");
    }
}
