//! The store on files and on a failing disk: what is committed stays, what is
//! damaged or newer is refused and left as it is.
#![expect(
    clippy::unwrap_in_result,
    reason = "a disk of a test that breaks its own rules may panic"
)]

use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};

use protocol::id::StoreId;
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;

use super::*;
use crate::domain::notice::{NoticeKind, NoticeState, Severity};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 10])
}

fn batch(number: u64) -> Batch {
    Batch {
        kept: BTreeMap::from([(
            node(1),
            Kept {
                store: Some(StoreId::from_bytes([1; 10])),
                connect_counter: number,
                ..Kept::default()
            },
        )]),
        cursor: Some(number),
        ..Batch::default()
    }
}

fn quarantined(seq: u64) -> Quarantined {
    Quarantined {
        received_at: UnixMillis(1),
        node: node(1),
        stream: Stream::State,
        seq,
        kind: EntryKind(9),
        version: 1,
        code: "message.unknown_kind".to_owned(),
        reason: String::new(),
        body: vec![0; 10],
    }
}

#[test]
fn what_is_committed_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intake.redb");
    let intake = Intake::open(&path).unwrap();
    intake.commit(&batch(7)).unwrap();
    drop(intake);
    let intake = Intake::open(&path).unwrap();
    assert_eq!(intake.cursor().unwrap(), 7);
    assert_eq!(intake.kept(node(1)).unwrap().unwrap().connect_counter, 7);
    assert_eq!(intake.kept(node(2)).unwrap(), None);
}

#[test]
fn a_store_that_is_open_is_not_opened_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intake.redb");
    let _held = Intake::open(&path).unwrap();
    let error = Intake::open(&path).err().unwrap();
    assert_eq!(error.code(), ErrorCode::StoreLocked, "{error}");
}

#[test]
fn damaged_files_are_refused_and_left_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intake.redb");
    let intake = Intake::open(&path).unwrap();
    intake.commit(&batch(7)).unwrap();
    drop(intake);
    let whole = fs::read(&path).unwrap();
    let damaged: [Vec<u8>; 4] = [
        Vec::new(),
        whole[..whole.len() / 2].to_vec(),
        whole[..100].to_vec(),
        vec![0x55; 4096],
    ];
    for content in damaged {
        fs::write(&path, &content).unwrap();
        let error = Intake::open(&path)
            .err()
            .unwrap_or_else(|| panic!("{} bytes were accepted", content.len()));
        assert!(
            matches!(
                error.code(),
                ErrorCode::StoreCorrupt | ErrorCode::StoreFailed
            ),
            "{error}"
        );
        assert!(error.to_string().contains("intake.redb"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content, "it was touched");
    }
}

#[test]
fn a_newer_programs_file_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intake.redb");
    drop(Intake::open(&path).unwrap());
    {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert(META_FORMAT, FORMAT + 1)
            .unwrap();
        transaction.commit().unwrap();
    }
    let error = Intake::open(&path).err().unwrap();
    assert_eq!(error.code(), ErrorCode::StoreNewer);
    let error = Intake::open(&path).err().unwrap();
    assert!(matches!(error, IntakeError::Newer { found, .. } if found == FORMAT + 1));
}

#[test]
fn the_quarantine_is_bounded_and_drops_the_oldest() {
    let directory = tempfile::tempdir().unwrap();
    let intake = Intake::open(&directory.path().join("intake.redb")).unwrap();
    for start in [0, 700] {
        intake
            .commit(&Batch {
                quarantine: (start..start + 700).map(quarantined).collect(),
                ..Batch::default()
            })
            .unwrap();
    }
    let limit = usize::try_from(QUARANTINE_COUNT_MAX).unwrap();
    let held = intake.quarantine(limit + 1).unwrap();
    assert_eq!(held.len(), limit);
    assert_eq!(held[0].seq, 1399, "newest first");
    assert_eq!(held[limit - 1].seq, 400);
}

#[test]
fn targets_are_paged_and_forgotten_with_their_command() {
    let directory = tempfile::tempdir().unwrap();
    let intake = Intake::open(&directory.path().join("intake.redb")).unwrap();
    let (one, two) = (
        CommandId::from_bytes([1; 10]),
        CommandId::from_bytes([2; 10]),
    );
    let targets = [one, two]
        .into_iter()
        .flat_map(|command| {
            (0..10).map(move |number| ((command, node(number)), TargetState::Waiting))
        })
        .collect();
    intake
        .commit(&Batch {
            targets,
            ..Batch::default()
        })
        .unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = intake.targets(one, after, 3).unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        seen.extend(page.into_iter().map(|(node, _)| node));
    }
    assert_eq!(seen, (0..10).map(node).collect::<Vec<_>>());
    intake
        .commit(&Batch {
            forgotten: vec![one],
            ..Batch::default()
        })
        .unwrap();
    assert!(intake.targets(one, None, 100).unwrap().is_empty());
    assert_eq!(intake.targets(two, None, 100).unwrap().len(), 10);
}

/// A disk that forgets what was not synced when it crashes, and that fails after
/// a number of writes.
#[derive(Clone, Debug, Default)]
struct Disk {
    seen: Arc<RwLock<Vec<u8>>>,
    synced: Arc<RwLock<Vec<u8>>>,
    writes_left: Arc<AtomicI64>,
}

#[derive(Debug)]
struct Handle(Disk);

impl Disk {
    fn spend(&self) -> std::io::Result<()> {
        if self.writes_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            Err(std::io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn crash(&self) {
        let synced = self.synced.read().unwrap().clone();
        *self.seen.write().unwrap() = synced;
    }

    fn allow(&self, writes: i64) {
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    fn open(&self) -> Result<Intake, IntakeError> {
        let disk = self.clone();
        Intake::open_medium(Medium::Backend(Box::new(move || {
            Ok(Box::new(Handle(disk.clone())))
        })))
    }
}

impl redb::StorageBackend for Handle {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.seen.read().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.seen.read().unwrap()[start..start + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.spend()?;
        let len = usize::try_from(len).unwrap();
        self.0.seen.write().unwrap().resize(len, 0);
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.spend()?;
        let seen = self.0.seen.read().unwrap().clone();
        *self.0.synced.write().unwrap() = seen;
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.spend()?;
        let start = usize::try_from(offset).unwrap();
        self.0.seen.write().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Goal: nothing that `commit` answered with `Ok` is ever lost, wherever the disk
/// fails and the power goes. Method: every number of writes before the failure in
/// turn, a crash, and a look at what is there.
#[test]
fn every_crash_point_keeps_what_was_committed() {
    for writes in 0..60 {
        let disk = Disk::default();
        disk.allow(i64::MAX);
        let intake = disk.open().unwrap();
        intake.commit(&batch(1)).unwrap();
        disk.allow(writes);
        let mut committed = 1;
        for number in 2..6 {
            if intake.commit(&batch(number)).is_ok() {
                committed = number;
            }
        }
        drop(intake);
        disk.crash();
        disk.allow(i64::MAX);
        let intake = disk.open().unwrap();
        let found = intake.cursor().unwrap();
        assert!(
            found >= committed,
            "{found} after {committed}, {writes} writes"
        );
        let kept = intake.kept(node(1)).unwrap().unwrap();
        assert_eq!(kept.connect_counter, found, "a batch is whole or not there");
        intake.commit(&batch(99)).unwrap();
    }
}

#[test]
fn a_full_disk_is_named_and_work_goes_on_when_there_is_space() {
    let disk = Disk::default();
    disk.allow(i64::MAX);
    let intake = disk.open().unwrap();
    disk.allow(0);
    let error = intake.commit(&batch(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreFull, "{error:?}");
    assert!(intake.commit(&batch(1)).is_err());
    assert!(intake.cursor().is_err(), "it is closed until it is written");
    disk.allow(i64::MAX);
    intake.commit(&batch(2)).unwrap();
    assert_eq!(intake.cursor().unwrap(), 2);
}

fn notice(at: u64, state: NoticeState, key: &str) -> Notice {
    Notice::new(
        UnixMillis(at),
        NoticeKind::Node,
        Severity::Warning,
        state,
        key.to_owned(),
    )
}

fn raise(intake: &Intake, notices: impl IntoIterator<Item = Notice>) {
    let mut batch = Batch::default();
    for notice in notices {
        batch.raise(notice);
    }
    intake.commit(&batch).unwrap();
}

#[test]
fn notices_are_numbered_and_told_once_over_restarts() {
    use NoticeState::{Once, Raised, Resolved};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("intake.redb");
    let intake = Intake::open(&path).unwrap();
    assert_eq!(intake.notice_span().unwrap(), (1, 0));
    raise(&intake, [notice(1, Raised, "a"), notice(1, Raised, "a")]);
    drop(intake);
    let intake = Intake::open(&path).unwrap();
    raise(&intake, [notice(2, Raised, "a"), notice(2, Resolved, "b")]);
    assert_eq!(intake.raised("a").unwrap().unwrap().seq, 1);
    raise(&intake, [notice(3, Once, "a"), notice(3, Resolved, "a")]);
    raise(&intake, [notice(4, Resolved, "a"), notice(4, Raised, "a")]);
    let told: Vec<(u64, u64, NoticeState)> = intake
        .notices(0, 10)
        .unwrap()
        .into_iter()
        .map(|(seq, notice)| (seq, notice.at.0, notice.state))
        .collect();
    let expected = [
        (1, 1, Raised),
        (2, 3, Once),
        (3, 3, Resolved),
        (4, 4, Raised),
    ];
    assert_eq!(told, expected);
    assert_eq!(intake.notices(2, 1).unwrap()[0].0, 3);
    assert_eq!(intake.notice_span().unwrap(), (1, 4));
    assert_eq!(intake.raised_below("a").unwrap().len(), 1);
    assert!(intake.raised_below("b").unwrap().is_empty());
}

#[test]
fn notices_are_bounded_by_count_and_age_and_their_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let intake = Intake::open(&directory.path().join("intake.redb")).unwrap();
    let many = NOTICE_COUNT_MAX + 5;
    raise(
        &intake,
        (0..many).map(|number| notice(number, NoticeState::Once, "a")),
    );
    assert_eq!(intake.notice_span().unwrap(), (6, many));
    raise(
        &intake,
        [notice(many + NOTICE_KEPT_MS, NoticeState::Once, "a")],
    );
    assert_eq!(
        intake.notice_span().unwrap(),
        (many + 1, many + 1),
        "what is older than the retention is gone"
    );
}

#[test]
fn what_is_raised_is_bounded_and_told_all_the_same() {
    use NoticeState::{Raised, Resolved};
    let directory = tempfile::tempdir().unwrap();
    let intake = Intake::open(&directory.path().join("intake.redb")).unwrap();
    let most = super::notice::RAISED_COUNT_MAX;
    let key = |number: u64| format!("k{number}");
    raise(
        &intake,
        (0..=most).map(|number| notice(1, Raised, &key(number))),
    );
    assert_eq!(intake.notice_span().unwrap().1, most + 1);
    assert!(intake.raised(&key(most - 1)).unwrap().is_some());
    assert_eq!(intake.raised(&key(most)).unwrap(), None);
    raise(&intake, [notice(2, Resolved, &key(most))]);
    assert_eq!(intake.notice_span().unwrap().1, most + 1, "its end is not");
    raise(
        &intake,
        [notice(2, Resolved, &key(0)), notice(2, Raised, &key(most))],
    );
    assert!(
        intake.raised(&key(most)).unwrap().is_some(),
        "there is room"
    );
}

#[test]
fn an_end_is_as_bad_as_the_worst_that_was_told() {
    use NoticeState::{Raised, Resolved};
    let directory = tempfile::tempdir().unwrap();
    let intake = Intake::open(&directory.path().join("intake.redb")).unwrap();
    for severity in [Severity::Critical, Severity::Info] {
        let mut raised = notice(1, Raised, "a");
        raised.severity = severity;
        raise(&intake, [raised]);
    }
    raise(&intake, [notice(2, Resolved, "a")]);
    let told = intake.notices(0, 10).unwrap();
    let severities: Vec<Severity> = told.into_iter().map(|(_, it)| it.severity).collect();
    assert_eq!(severities[..2], [Severity::Critical, Severity::Info]);
    assert_eq!(severities[2], Severity::Critical);
}

#[test]
fn older_formats_get_the_tables_that_they_lack() {
    for format in [1, 2] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intake.redb");
        let intake = Intake::open(&path).unwrap();
        intake.commit(&batch(7)).unwrap();
        drop(intake);
        {
            let database = Database::create(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            transaction
                .open_table(META)
                .unwrap()
                .insert(META_FORMAT, format)
                .unwrap();
            transaction.delete_table(NOTICES).unwrap();
            transaction.delete_table(NOTICES_RAISED).unwrap();
            transaction.delete_table(SINKS).unwrap();
            transaction.commit().unwrap();
        }
        let intake = Intake::open(&path).unwrap();
        assert_eq!(intake.cursor().unwrap(), 7);
        assert_eq!(intake.notice_span().unwrap(), (1, 0));
        assert_eq!(intake.sink("chat").unwrap(), None);
        raise(&intake, [notice(1, NoticeState::Once, "a")]);
        assert_eq!(intake.notices(0, 10).unwrap().len(), 1);
    }
}
