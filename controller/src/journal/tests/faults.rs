//! Full disks, failing syncs and power cuts.

use proptest::prelude::*;

use crate::domain::audit::record::Record;
use crate::journal::Batch;
use crate::journal::disk::Disk;
use crate::journal::error::JournalError;
use crate::journal::tests::{head, of, records};

#[test]
fn a_full_disk_fails_the_append_and_nothing_else() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    journal.append(0, &of(&records[..5])).unwrap();
    disk.fill();
    let state = vec![7; 4_000_000];
    let snapshot = super::snapshot_at(&journal, &state);
    let large = Batch {
        records: &records[5..6],
        snapshot: Some(&snapshot),
        ..Batch::default()
    };
    let error = journal.append(5, &large).unwrap_err();
    assert!(matches!(error, JournalError::Storage { .. }), "{error:?}");
    assert_eq!(error.code().text(), "journal.unavailable");
    assert!(!journal.reader().is_open());

    disk.limit(None);
    assert_eq!(head(&journal).seq, 5);
    journal.append(5, &large).unwrap();
    assert_eq!(head(&journal).seq, 6);
}

#[test]
fn a_journal_that_cannot_be_opened_again_says_so_until_it_can() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    journal.append(0, &of(&records[..5])).unwrap();
    let good = disk.bytes();
    disk.fail_syncs(true);
    journal.append(5, &of(&records[5..7])).unwrap_err();
    disk.put(Vec::new());
    let error = journal.append(5, &of(&records[5..7])).unwrap_err();
    assert!(matches!(error, JournalError::Closed(_)), "{error:?}");
    assert_eq!(error.code().text(), "journal.unavailable");
    assert!(disk.bytes().is_empty(), "nothing was made in its place");
    disk.put(good);
    disk.fail_syncs(false);
    journal.append(5, &of(&records[5..7])).unwrap();
    assert_eq!(head(&journal).seq, 7);
}

#[test]
fn another_journal_in_its_place_is_not_taken_for_it() {
    let disk = Disk::default();
    let mut journal = disk.create();
    let other = Disk::default();
    drop(
        crate::journal::Journal::create_on(
            other.medium(),
            crate::domain::given::FLEET,
            crate::journal::disk::key(),
            protocol::time::UnixMillis(1),
        )
        .unwrap(),
    );
    disk.fail_syncs(true);
    journal.append(0, &of(&records()[..1])).unwrap_err();
    disk.put(other.bytes());
    disk.fail_syncs(false);
    let error = journal.append(0, &of(&records()[..1])).unwrap_err();
    assert!(matches!(error, JournalError::Closed(_)), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn invariant_what_was_acknowledged_survives_a_power_cut_and_a_batch_is_all_or_nothing(
        sizes in proptest::collection::vec(1..9_usize, 1..8),
        fail_last in any::<bool>(),
        luck in any::<u64>(),
    ) {
        let disk = Disk::default();
        let records = records();
        let mut journal = disk.create();
        let mut written = 0;
        for size in sizes {
            let batch = &records[written..written + size];
            journal.append(written as u64, &of(batch)).unwrap();
            written += size;
        }
        let unsure = &records[written..written + 3];
        if fail_last {
            disk.fail_syncs(true);
            prop_assert!(journal.append(written as u64, &of(unsure)).is_err());
            disk.fail_syncs(false);
        }
        disk.cut_power(luck);
        drop(journal);

        let reader = disk.open().reader();
        let mut stands = reader.genesis();
        let mut read: Vec<Record> = Vec::new();
        reader.replay(&mut stands, |record| read.push(record)).unwrap();
        let whole = written + if fail_last { 3 } else { 0 };
        prop_assert!(read.len() == written || read.len() == whole, "{} of {written}", read.len());
        prop_assert_eq!(&read[..], &records[..read.len()]);
    }

    #[test]
    fn invariant_a_disk_that_fills_up_anywhere_loses_nothing_acknowledged(
        room in 0..400_000_u64,
        sizes in proptest::collection::vec(1..9_usize, 1..8),
    ) {
        let disk = Disk::default();
        let records = records();
        let mut journal = disk.create();
        let start = disk.bytes().len() as u64;
        disk.limit(Some(start.saturating_sub(200_000) + room));
        let mut acknowledged = 0;
        for size in sizes {
            let batch = &records[acknowledged..acknowledged + size];
            if journal.append(acknowledged as u64, &of(batch)).is_err() {
                break;
            }
            acknowledged += size;
        }
        disk.limit(None);
        let reader = journal.reader();
        let mut stands = reader.genesis();
        let mut read = 0;
        reader.replay(&mut stands, |_| read += 1).unwrap();
        prop_assert!(read >= acknowledged);
        let next = &records[read..read + 1];
        journal.append(read as u64, &of(next)).unwrap();
    }
}
