//! Files that are damaged or newer are refused and left as they are; a full disk
//! refuses new work and loses nothing that was promised.

use std::path::Path;

use redb::{Database, TableDefinition};

use super::*;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

fn whole_file(path: &Path) -> Vec<u8> {
    let (mut store, _) = open_on(RedbDisk::file(path), MemorySpool::default());
    for n in 0..30 {
        store.take_command(command(n), UnixMillis(2_000));
        settle(&mut store, 10);
        store.close_command(&receipt(n));
        settle(&mut store, 20);
    }
    drop(store);
    std::fs::read(path).unwrap()
}

fn refusal(path: &Path) -> DiskError {
    let result = try_open(
        RedbDisk::file(path),
        MemorySpool::default(),
        Limits::default(),
    );
    match result {
        Err(error) => error,
        Ok(_) => panic!("{} was opened", path.display()),
    }
}

#[test]
fn a_truncated_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let whole = whole_file(&path);
    for length in [0, 1, 100, 4096, 10_000, whole.len() / 2, whole.len() - 4096] {
        let cut = &whole[..length];
        std::fs::write(&path, cut).unwrap();
        let error = refusal(&path);
        assert_eq!(error.code(), ErrorCode::StoreCorrupt, "{length}: {error:?}");
        assert_eq!(
            std::fs::read(&path).unwrap(),
            cut,
            "{length} bytes were changed"
        );
    }
}

#[test]
fn a_file_of_something_else_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let other = vec![b'x'; 8192];
    std::fs::write(&path, &other).unwrap();
    assert_eq!(refusal(&path).code(), ErrorCode::StoreCorrupt);
    assert_eq!(std::fs::read(&path).unwrap(), other);
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    whole_file(&path);
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut meta = write.open_table(META).unwrap();
        let newer = (SCHEMA + 1).to_le_bytes();
        meta.insert("schema", newer.as_slice()).unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let error = refusal(&path);
    assert_eq!(error.code(), ErrorCode::StoreNewer);
    assert!(error.to_string().contains("schema 2"), "{error}");
}

#[test]
fn a_store_in_use_is_not_opened_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let (store, _) = open_on(RedbDisk::file(&path), MemorySpool::default());
    assert_eq!(refusal(&path).code(), ErrorCode::StoreLocked);
    drop(store);
    open_on(RedbDisk::file(&path), MemorySpool::default());
}

#[test]
fn a_full_disk_refuses_commands_and_keeps_what_was_promised() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 10).started, [command(1)]);

    disk.set_full(true);
    store.take_command(command(2), UnixMillis(2_000));
    let settled = settle(&mut store, 20);
    assert!(settled.started.is_empty());
    assert!(settled.failed.is_some());
    assert_eq!(store.stats().failing, Some(ErrorCode::StoreFull));
    // The refusal is sent all the same, with its code.
    assert_eq!(receipts(&mut store), [(id(2), Outcome::Refused)]);

    // The receipt of a command that runs is written into the reserve.
    store.close_command(&receipt(1));
    assert!(settle(&mut store, 6_000).wrote);
    assert_eq!(
        receipts(&mut store),
        [(id(2), Outcome::Refused), (id(1), Outcome::Succeeded)]
    );
    store.append_frame(frame(0), Tick(6_000));
    assert_eq!(store.stats().waiting[2], 1);

    // Without its reserve it takes no commands, and writes nothing to find that
    // out.
    let commits = store.stats().commits;
    assert!(!settle(&mut store, 11_500).healed);
    assert_eq!(store.stats().commits, commits);
    store.take_command(command(4), UnixMillis(2_000));
    assert!(settle(&mut store, 11_600).started.is_empty());

    disk.set_full(false);
    let settled = settle(&mut store, 18_000);
    assert!(settled.healed);
    store.take_command(command(3), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 18_010).started, [command(3)]);
    drop(store);
    let (mut store, recovered) = open_on(disk, MemorySpool::default());
    assert_eq!(recovered.interrupted, [id(3)]);
    assert!(receipts(&mut store).contains(&(id(1), Outcome::Succeeded)));
}

#[test]
fn a_receipt_of_a_full_disk_outlives_a_crash() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    disk.set_full(true);
    store.close_command(&receipt(1));
    assert!(settle(&mut store, 20).wrote);
    drop(store);
    let (mut store, recovered) = open_on(disk, MemorySpool::default());
    assert_eq!(recovered.interrupted, []);
    assert_eq!(receipts(&mut store), [(id(1), Outcome::Succeeded)]);
    assert_eq!(store.stats().failing, Some(ErrorCode::StoreFull));
}

#[test]
fn frames_do_not_take_the_place_of_receipts() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 0);
    disk.set_full(true);
    let age = u64::try_from(SPILL_AGE.as_millis()).unwrap();
    store.append_frame(frame(0), Tick(0));
    let spill = |store: &mut Store, at| store.settle(false, UnixMillis(2_000), Tick(at));
    assert!(!spill(&mut store, age).wrote);
    store.close_command(&receipt(1));
    assert!(spill(&mut store, age + 6_000).wrote);
    // The reserve is spent, and the frame waits for space of its own.
    spill(&mut store, age + 12_000);
    assert_eq!(store.stats().waiting[2], 1);
    disk.set_full(false);
    assert!(spill(&mut store, age + 18_000).healed);
    spill(&mut store, age + 18_010);
    assert_eq!(store.stats().waiting[3], 1);
}

#[test]
fn while_the_disk_is_full_frames_in_memory_give_way_by_tiers() {
    let disk = MemoryDisk::default();
    let limits = Limits {
        telemetry_bytes_max: 3_000,
        ..Limits::default()
    };
    let (mut store, _) = try_open(disk.clone(), MemorySpool::default(), limits).unwrap();
    disk.set_full(true);
    for n in 0..300 {
        store.append_frame(frame(n), Tick(n * 60_000));
        store.settle(false, UnixMillis(2_000), Tick(n * 60_000));
        let bytes = store.stats().bytes[2];
        assert!(bytes <= 3_000, "{bytes} bytes");
    }
    assert!(store.stats().shed_samples > 0);
    assert!(store.stats().waiting[2] > 0);
}

#[test]
fn numbers_run_out_and_not_over_while_the_disk_is_full() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    disk.set_full(true);
    let mut connects = Vec::new();
    for n in 0..100 {
        connects.extend(store.connect());
        settle(&mut store, n * 10_000);
    }
    assert_eq!(connects.len(), 16);
    disk.set_full(false);
    settle(&mut store, 2_000_000);
    assert_eq!(store.connect(), Some(17));
}
