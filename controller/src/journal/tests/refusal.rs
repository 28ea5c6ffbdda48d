//! Files that are no journal, or not one for this program.

use std::path::Path;

use crate::domain::given::{FLEET, START};
use crate::journal::Journal;
use crate::journal::disk::key;
use crate::journal::error::OpenError;
use crate::journal::tables::{META, META_CREATED, META_FORMAT, RECORDS};
use crate::journal::tests::{of, records};

fn made(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("journal.redb");
    let mut journal = Journal::create(&path, FLEET, key(), START).unwrap();
    journal.append(0, &of(&records())).unwrap();
    path
}

fn refused(path: &Path) -> OpenError {
    let before = std::fs::read(path).ok();
    let error = match Journal::open(path, key()) {
        Ok(journal) => panic!("{journal:?} was opened"),
        Err(error) => error,
    };
    assert_eq!(
        std::fs::read(path).ok(),
        before,
        "the file was changed: {error}"
    );
    error
}

/// Changes the journal's tables behind its back.
fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_journal_is_never_made_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let before = std::fs::read(&path).unwrap();
    let error = Journal::create(&path, FLEET, key(), START).unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error:?}");
    assert_eq!(error.code().text(), "store.failed");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn what_a_crash_left_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("journal.redb.new"), b"half").unwrap();
    made(folder.path());
    assert!(!folder.path().join("journal.redb.new").exists());
}

#[test]
fn a_file_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    assert!(matches!(refused(&path), OpenError::Absent { .. }));
    assert!(!path.exists());
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let held = Journal::open(&path, key()).unwrap();
    let error = Journal::open(&path, key()).unwrap_err();
    assert_eq!(error.code().text(), "store.locked");
    drop(held);
    Journal::open(&path, key()).unwrap();
}

#[test]
fn a_truncated_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let whole = std::fs::read(&path).unwrap();
    for length in [
        0,
        1,
        100,
        4_096,
        8_192,
        whole.len() / 2,
        whole.len() - 4_096,
    ] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refused(&path);
        assert_eq!(error.code().text(), "store.corrupt", "{length}: {error:?}");
    }
}

#[test]
fn a_file_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.redb");
    std::fs::write(&path, "not a journal at all".repeat(10_000)).unwrap();
    assert_eq!(refused(&path).code().text(), "store.corrupt");
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    let error = Journal::open(&path, key()).unwrap_err();
    assert_eq!(error.code().text(), "store.corrupt", "{error:?}");
}

#[test]
fn a_damaged_page_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(14)
        .position(|window| window == b"\"node.joined\":")
        .unwrap();
    bytes[at + 3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Journal::open(&path, key()).unwrap_err();
    assert_eq!(error.code().text(), "store.corrupt", "{error:?}");
}

#[test]
fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    tamper(&path, |transaction| {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(META_FORMAT, 2_u32.to_be_bytes().as_slice())
            .unwrap();
    });
    let error = Journal::open(&path, key()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2 }), "{error:?}");
    assert_eq!(error.code().text(), "store.newer");
}

#[test]
fn a_journal_with_a_hole_or_without_its_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    tamper(&path, |transaction| {
        transaction.open_table(RECORDS).unwrap().remove(3).unwrap();
    });
    let error = Journal::open(&path, key()).unwrap_err();
    assert_eq!(error.code().text(), "store.corrupt", "{error:?}");

    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path());
    tamper(&path, |transaction| {
        transaction
            .open_table(META)
            .unwrap()
            .remove(META_CREATED)
            .unwrap();
    });
    let error = Journal::open(&path, key()).unwrap_err();
    assert!(error.to_string().contains("created_at"), "{error}");
}
