//! Disks that fill up and fail under the engine, and power cuts.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the one variant that it means"
)]

use proptest::prelude::*;

use super::{asks, at, one, person, reopened, request, writer};
use crate::domain::given::START;
use crate::domain::given::story::{self, Step};
use crate::engine::state::{Requests, State};
use crate::engine::writer::{Submission, Writer};
use crate::journal::disk::Disk;

#[test]
fn a_full_disk_changes_nothing_and_work_goes_on_when_there_is_space() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    disk.fill();
    let mut refused = None;
    for n in 0..100_000_u64 {
        let before = writer.state().clone();
        let names: Vec<Submission> = (0..50)
            .map(|index| asks(admin, None, person(&format!("p{n}-{index}"))))
            .collect();
        let answers = writer.commit(&names, &at(n));
        if let Err(error) = &answers[0] {
            assert!(answers.iter().all(Result::is_err));
            assert_eq!(error.code().text(), "journal.unavailable");
            assert_eq!(*writer.state(), before);
            refused = Some(n);
            break;
        }
    }
    let n = refused.expect("the disk is full at last");
    assert!(super::super::lock(&writer.gauges.trouble).is_some());
    let still = one(&mut writer, asks(admin, None, person("still")), &at(n + 1));
    assert!(still.is_ok() || still.unwrap_err().code().text() == "journal.unavailable");

    disk.limit(None);
    writer.probe();
    assert!(super::super::lock(&writer.gauges.trouble).is_none());
    one(&mut writer, asks(admin, None, person("again")), &at(n + 2)).unwrap();
    let live = writer.state().clone();
    assert_eq!(*reopened(&disk, writer).state(), live);
}

#[test]
fn a_failed_write_that_reached_the_disk_is_found_and_answers_the_retry() {
    let disk = Disk::default();
    let (mut writer, admin) = writer(&disk);
    let ask = || asks(admin, Some(request(1)), person("ann"));
    let before = writer.state().clone();
    disk.fail_syncs(true);
    let error = one(&mut writer, ask(), &at(1)).unwrap_err();
    assert_eq!(error.code().text(), "journal.unavailable");
    assert_eq!(*writer.state(), before, "nothing counts before it is sure");
    disk.fail_syncs(false);
    let answer = one(&mut writer, ask(), &at(2)).unwrap();
    assert!(writer.fleet().access().principal_named("ann").is_some());
    let again = one(&mut writer, ask(), &at(3)).unwrap();
    assert_eq!((answer.seq, answer.events), (again.seq, again.events));
    let anns = writer
        .fleet()
        .access()
        .principals()
        .filter(|known| known.name == "ann")
        .count();
    assert_eq!(anns, 1);
}

#[test]
fn summaries_whose_write_failed_are_written_later() {
    let disk = Disk::default();
    let (mut writer, _) = writer(&disk);
    let join = crate::domain::given::admission(protocol::id::TokenId::NIL, 1, "x");
    let anonymous = crate::domain::access::caller::Caller::Anonymous;
    one(&mut writer, asks(anonymous, None, join), &at(0)).unwrap_err();
    let stands = writer.head().seq;
    disk.fail_syncs(true);
    writer.commit(&[], &at(60_000));
    disk.fail_syncs(false);
    writer.probe();
    writer.commit(&[], &at(120_000));
    let records = writer.reader().read(stands + 1, 10).unwrap();
    let counted: u64 = records
        .iter()
        .map(|stored| match &stored.record.event {
            crate::domain::event::Event::DenialsCounted(counted) => counted.count,
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(counted >= 1, "{records:?}");
}

/// What happens to the disk around a batch.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    SyncsFail,
    Full,
    PowerCut(u64),
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::SyncsFail),
        1 => Just(Fault::Full),
        1 => any::<u64>().prop_map(Fault::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn invariant_replay_gives_the_live_state_whatever_the_disk_did(
        batches in proptest::collection::vec((story::steps(12), faults()), 1..12),
    ) {
        let disk = Disk::default();
        let (mut live, admin) = writer(&disk);
        let mut acknowledged = live.head().seq;
        for (n, (steps, fault)) in batches.into_iter().enumerate() {
            let moment = at(1_000 * (n as u64 + 1));
            let batch = submissions(&live, admin, &steps, n);
            match fault {
                Fault::SyncsFail => disk.fail_syncs(true),
                Fault::Full => disk.fill(),
                Fault::None | Fault::PowerCut(_) => {}
            }
            let before = live.state().clone();
            let answers = live.commit(&batch, &moment);
            disk.fail_syncs(false);
            disk.limit(None);
            for applied in answers.iter().flatten() {
                acknowledged = acknowledged.max(applied.seq);
            }
            let failed = answers.iter().any(|answer| {
                answer.as_ref().is_err_and(|error| error.code().text() == "journal.unavailable")
            });
            if failed {
                prop_assert_eq!(live.state(), &before);
            }
            if let Fault::PowerCut(luck) = fault {
                disk.cut_power(luck);
                live = reopened(&disk, live);
            }
            live.probe();
            prop_assert!(live.head().seq >= acknowledged, "an acknowledged record is gone");
        }
        let mut full = State {
            fleet: std::sync::Arc::new(crate::domain::fleet::Fleet::new(live.reader().fleet())),
            requests: Requests::default(),
        };
        let mut stands = live.reader().genesis();
        full.follow(live.reader(), &mut stands).unwrap();
        prop_assert_eq!(&full, live.state());
        prop_assert_eq!(stands, live.head());
        let snapshot = live.state().snapshot(live.head()).unwrap();
        let back: State = postcard::from_bytes(&snapshot.state).unwrap();
        prop_assert_eq!(&back, live.state());
    }
}

/// Requests of a random story, as far as the fleet of the writer lets them be
/// put; with ids, some of them twice.
fn submissions(
    live: &Writer,
    admin: crate::domain::access::caller::Caller,
    steps: &[Step],
    batch: usize,
) -> Vec<Submission> {
    let world = crate::domain::given::World {
        fleet: live.fleet().as_ref().clone(),
        records: Vec::new(),
        now: START,
        admin,
        seed: 0,
    };
    steps
        .iter()
        .enumerate()
        .map(|(n, &step)| {
            let (caller, operation) = story::request(&world, step);
            let mut id = [0; 10];
            id[0] = u8::try_from(batch).unwrap_or(0) / 2;
            id[1] = u8::try_from(n).unwrap_or(0);
            let id = protocol::id::RequestId::from_bytes(id);
            asks(caller, step.1.is_multiple_of(2).then_some(id), operation)
        })
        .collect()
}
