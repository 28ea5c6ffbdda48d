//! Given a journal, when it is written, read, cut off and damaged, then.

mod audit;
mod faults;
mod refusal;

use protocol::id::{ApiKeyId, CommandId, RolloutId};
use protocol::time::UnixMillis;

use super::disk::Disk;
use super::error::JournalError;
use super::snapshot::Snapshot;
use super::{Batch, Head, Journal};
use crate::domain::audit::record::Record;
use crate::domain::decide::Targets;
use crate::domain::given::{FLEET, START, node_id, story};

/// Records of every event, numbered from 1.
fn records() -> Vec<Record> {
    story::everything().records
}

fn of(records: &[Record]) -> Batch<'_> {
    Batch {
        records,
        ..Batch::default()
    }
}

fn head(journal: &Journal) -> Head {
    journal.reader().head().unwrap()
}

#[test]
fn what_was_appended_is_read_back_after_opening_again() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    assert_eq!(head(&journal).seq, 0);
    let (first, rest) = records.split_at(10);
    let stands = journal.append(0, &of(first)).unwrap();
    assert_eq!((stands, stands.seq), (head(&journal), 10));
    let stands = journal.append(10, &of(rest)).unwrap();
    drop(journal);

    let reader = disk.open().reader();
    assert_eq!(reader.head().unwrap(), stands);
    assert_eq!((reader.fleet(), reader.created_at()), (FLEET, START));
    let read: Vec<Record> = reader
        .read(1, 1_000)
        .unwrap()
        .into_iter()
        .map(|stored| stored.record)
        .collect();
    assert_eq!(read, records);
    let middle = reader.read(5, 3).unwrap();
    assert_eq!(
        middle
            .iter()
            .map(|stored| stored.record.seq)
            .collect::<Vec<_>>(),
        [5, 6, 7]
    );
    let back = reader.read_back(8, 3).unwrap();
    assert_eq!(
        back.iter()
            .map(|stored| stored.record.seq)
            .collect::<Vec<_>>(),
        [7, 6, 5]
    );
    assert_eq!(reader.read_back(2, 100).unwrap().len(), 1);
    assert_eq!(reader.read(stands.seq + 1, 10).unwrap(), []);
}

#[test]
fn a_writer_that_is_behind_writes_nothing() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    journal.append(0, &of(&records[..3])).unwrap();
    for (expected, batch) in [
        (0, &records[..3]),
        (2, &records[2..4]),
        (3, &records[5..6]),
        (2, &records[..0]),
        (2, &records[3..4]),
    ] {
        let error = journal.append(expected, &of(batch)).unwrap_err();
        assert!(matches!(error, JournalError::Conflict { .. }), "{error:?}");
        assert_eq!(error.code().text(), "journal.unavailable");
    }
    assert_eq!(head(&journal).seq, 3);
    journal.append(3, &of(&records[3..4])).unwrap();
}

#[test]
fn replay_checks_the_chain_and_says_how_far_it_got() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    journal.append(0, &of(&records)).unwrap();
    let reader = journal.reader();
    let mut seen = Vec::new();
    let mut stands = reader.genesis();
    reader
        .replay(&mut stands, |record| seen.push(record.seq))
        .unwrap();
    assert_eq!(stands, head(&journal));
    assert_eq!(seen, (1..=stands.seq).collect::<Vec<_>>());

    let mut elsewhere = Head {
        hash: head(&journal).hash,
        ..reader.genesis()
    };
    let error = reader.replay(&mut elsewhere, |_| {}).unwrap_err();
    assert!(
        matches!(error, JournalError::Broken { seq: 1 }),
        "{error:?}"
    );
    assert_eq!(error.code().text(), "journal.broken");
}

#[test]
fn targets_are_read_by_page_and_forgotten() {
    let disk = Disk::default();
    let mut journal = disk.create();
    let nodes: Vec<_> = (0..10_000).map(node_id).collect();
    let one = Targets {
        of: CommandId::from_bytes([1; 10]).into(),
        nodes: nodes.clone(),
    };
    let other = Targets {
        of: RolloutId::from_bytes([2; 10]).into(),
        nodes: nodes[..3].to_vec(),
    };
    let batch = Batch {
        targets: &[one.clone(), other.clone()],
        ..Batch::default()
    };
    journal.append(0, &batch).unwrap();
    let reader = journal.reader();
    for (skip, limit) in [
        (0, 10_000),
        (0, 1),
        (4_095, 2),
        (4_096, 5),
        (9_999, 5),
        (10_000, 5),
    ] {
        let end = (skip + limit).min(nodes.len());
        assert_eq!(
            reader.targets(one.of, skip, limit).unwrap(),
            nodes[skip..end],
            "{skip} {limit}"
        );
    }
    let batch = Batch {
        forgotten: &[one.of],
        ..Batch::default()
    };
    journal.append(0, &batch).unwrap();
    assert_eq!(reader.targets(one.of, 0, 10).unwrap(), []);
    assert_eq!(reader.targets(other.of, 0, 10).unwrap(), other.nodes);
}

#[test]
fn cursors_and_uses_of_keys_are_kept() {
    let disk = Disk::default();
    let mut journal = disk.create();
    let reader = journal.reader();
    assert_eq!(reader.cursor("dispatch").unwrap(), 0);
    reader.set_cursor("dispatch", 7).unwrap();
    reader.set_cursor("notify", 3).unwrap();
    assert!(reader.set_cursor(&"x".repeat(65), 1).is_err());
    let key = ApiKeyId::from_bytes([1; 10]);
    let batch = Batch {
        key_uses: &[(key, UnixMillis(5))],
        ..Batch::default()
    };
    journal.append(0, &batch).unwrap();
    drop((journal, reader));
    let reader = disk.open().reader();
    assert_eq!(reader.cursor("dispatch").unwrap(), 7);
    assert_eq!(reader.cursor("notify").unwrap(), 3);
    assert_eq!(reader.key_uses().unwrap().get(&key), Some(&UnixMillis(5)));
}

fn snapshot_at(journal: &Journal, state: &[u8]) -> Snapshot {
    let Head { seq, hash } = head(journal);
    Snapshot {
        seq,
        hash,
        version: 1,
        state: state.to_vec(),
    }
}

fn keep(journal: &mut Journal, snapshot: &Snapshot) {
    let batch = Batch {
        snapshot: Some(snapshot),
        ..Batch::default()
    };
    journal.append(head(journal).seq, &batch).unwrap();
}

#[test]
fn the_newest_sound_snapshot_of_the_chain_is_used() {
    let disk = Disk::default();
    let records = records();
    let mut journal = disk.create();
    let reader = journal.reader();
    assert_eq!(reader.snapshot(1).unwrap(), None);
    journal.append(0, &of(&records[..2])).unwrap();
    let first = snapshot_at(&journal, b"first");
    keep(&mut journal, &first);
    assert_eq!(reader.snapshot(1).unwrap(), Some(first.clone()));
    assert_eq!(reader.snapshot(2).unwrap(), None);

    journal.append(2, &of(&records[2..4])).unwrap();
    let elsewhere = Snapshot {
        hash: first.hash,
        ..snapshot_at(&journal, b"another chain")
    };
    keep(&mut journal, &elsewhere);
    assert_eq!(reader.snapshot(1).unwrap(), Some(first));
    let beyond = Snapshot {
        seq: 99,
        ..snapshot_at(&journal, b"beyond the end")
    };
    keep(&mut journal, &beyond);
    assert_eq!(reader.snapshot(1).unwrap(), None, "two are kept");
}
