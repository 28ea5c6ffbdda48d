//! The store over a disk in memory, over redb, and over disks that fail.

mod crash;
mod disk_faults;

use std::path::Path;

use protocol::command::{Action, Outcome};
use protocol::deployment::desired::{Desired, Want as Wanted};
use protocol::deployment::limit::DEPLOYMENTS_PER_NODE_MAX;
use protocol::id::DeploymentId;
use protocol::session::BootId;
use protocol::state::{Facts, StateValue};

use super::disk::MemoryDisk;
use super::spool::MemorySpool;
use super::*;

pub(super) const FRESH: StoreId = StoreId::from_bytes([5; 10]);

pub(super) fn started(clean: bool) -> Lifecycle {
    Lifecycle::Started {
        boot: BootId([0; 16]),
        at: UnixMillis(0),
        agent_version: "0.1.0".to_owned(),
        clean,
    }
}

pub(super) fn open_on(
    disk: impl Disk + 'static,
    spool: impl Spool + 'static,
) -> (Store, Recovered) {
    try_open(disk, spool, Limits::default()).unwrap()
}

pub(super) fn try_open(
    disk: impl Disk + 'static,
    spool: impl Spool + 'static,
    limits: Limits,
) -> Result<(Store, Recovered), DiskError> {
    Store::open(
        Box::new(disk),
        Box::new(spool),
        limits,
        FRESH,
        started,
        UnixMillis(1_000),
    )
}

pub(super) fn id(n: u8) -> CommandId {
    CommandId::from_bytes([n; 10])
}

pub(super) fn command(n: u8) -> Command {
    Command {
        id: id(n),
        issued_at: UnixMillis(0),
        start_by: UnixMillis(1_000_000),
        run_timeout_ms: 1_000,
        output_bytes_max: 1_000,
        issued_by: "ops".to_owned(),
        action: Action::Ping,
    }
}

pub(super) fn receipt(n: u8) -> Receipt {
    Receipt {
        command: id(n),
        outcome: Outcome::Succeeded,
        code: None,
        detail: String::new(),
        started_at: Some(UnixMillis(1)),
        ended_at: UnixMillis(2),
        stdout: vec![n; 100],
        stderr: Vec::new(),
        cut_bytes: 0,
    }
}

pub(super) fn settle(store: &mut Store, tick: u64) -> Settled {
    store.settle(true, UnixMillis(2_000), Tick(tick))
}

pub(super) fn entries(store: &mut Store, stream: Stream) -> Vec<Entry> {
    let want = Want {
        stream,
        after: 0,
        bytes_max: usize::MAX,
    };
    store.read(want, Tick(0)).unwrap()
}

/// The receipts that wait, by command.
pub(super) fn receipts(store: &mut Store) -> Vec<(CommandId, Outcome)> {
    entries(store, Stream::Control)
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::RECEIPT)
        .map(|entry| {
            let receipt: Receipt = message::decode_exactly(&entry.body).unwrap();
            (receipt.command, receipt.outcome)
        })
        .collect()
}

/// A frame of one minute, encoded as the sampler does.
pub(super) fn frame(minute: u64) -> FrameEntry {
    use protocol::telemetry::catalogue::SeriesId;
    use protocol::telemetry::frame::{Effort, Frame, Span, encode};
    use protocol::telemetry::{Label, SampleSet};

    let start_ms = 1_790_000_040_000 + minute * 60_000;
    let span = Span {
        tier: Tier::Fine,
        start_ms,
        interval_ms: 10_000,
        slots: 6,
    };
    let sets: Vec<(usize, SampleSet)> = (0..6)
        .map(|slot| {
            let mut set = SampleSet::new();
            set.push_labelled(
                SeriesId::AGENT_MEM,
                &Label::NONE,
                i64::try_from(minute * 7 + slot).unwrap(),
            );
            (usize::try_from(slot).unwrap(), set)
        })
        .collect();
    let slots = sets.iter().map(|(slot, set)| (*slot, set));
    let frame = Frame::from_samples(1, span, slots);
    FrameEntry {
        version: 1,
        tier: Tier::Fine,
        first: UnixMillis(start_ms),
        last: UnixMillis(start_ms + 50_000),
        body: encode(&frame, Effort::Shortest).unwrap(),
    }
}

#[test]
fn a_command_starts_only_after_its_ledger_entry_is_durable() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    let settled = settle(&mut store, 10);
    assert_eq!(settled.started, [command(1)]);
    assert_eq!(settle(&mut store, 20).started, []);
    store.take_command(command(1), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 30).started, []);
    let mut image = disk;
    assert!(image.load().unwrap().ledger.contains_key(&id(1)));
}

#[test]
fn two_copies_in_one_batch_start_once() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    store.take_command(command(1), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 10).started.len(), 1);
}

#[test]
fn a_receipt_closes_its_command_once_and_survives_a_crash() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    store.close_command(&receipt(1));
    store.close_command(&receipt(1));
    store.close_command(&receipt(9));
    // Nothing of it can be sent before it is durable.
    assert_eq!(receipts(&mut store), []);
    settle(&mut store, 20);
    assert_eq!(receipts(&mut store), [(id(1), Outcome::Succeeded)]);
    drop(store);
    let (mut again, recovered) = open_on(disk, MemorySpool::default());
    assert_eq!(recovered.interrupted, []);
    assert_eq!(receipts(&mut again), [(id(1), Outcome::Succeeded)]);
}

#[test]
fn a_command_that_was_open_at_a_crash_is_interrupted_once() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    drop(store);
    let (store, recovered) = open_on(disk.clone(), MemorySpool::default());
    assert_eq!(recovered.interrupted, [id(1)]);
    drop(store);
    let (mut store, recovered) = open_on(disk, MemorySpool::default());
    assert_eq!(recovered.interrupted, []);
    assert_eq!(receipts(&mut store), [(id(1), Outcome::Interrupted)]);
}

#[test]
fn numbers_and_counters_are_never_given_out_twice() {
    let disk = MemoryDisk::default();
    let mut connects = Vec::new();
    let mut numbers = Vec::new();
    for round in 0..4 {
        let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
        assert_eq!(store.id(), FRESH);
        for n in 0..40 {
            connects.extend(store.connect());
            store.append_frame(frame(n), Tick(n));
            settle(&mut store, n);
        }
        for entry in entries(&mut store, Stream::Telemetry) {
            numbers.push(entry.seq);
        }
        // Every round but the last ends in a crash.
        if round == 3 {
            store.close().unwrap();
        }
    }
    assert_eq!(connects.len(), 160);
    assert!(
        connects.windows(2).all(|pair| pair[0] < pair[1]),
        "{connects:?}"
    );
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_clean_stop_is_told_from_a_crash() {
    let disk = MemoryDisk::default();
    let starts = |store: &mut Store| -> Vec<bool> {
        entries(store, Stream::Control)
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::LIFECYCLE)
            .filter_map(|entry| match message::decode_exactly(&entry.body) {
                Ok(Lifecycle::Started { clean, .. }) => Some(clean),
                Ok(Lifecycle::Stopped { .. }) | Err(_) => None,
            })
            .collect()
    };
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    store.close().unwrap();
    let (store, _) = open_on(disk.clone(), MemorySpool::default());
    drop(store);
    let (mut store, _) = open_on(disk, MemorySpool::default());
    assert_eq!(starts(&mut store), [true, true, false]);
}

#[test]
fn frames_and_samples_survive_a_kill_in_the_spool() {
    let (disk, spool) = (MemoryDisk::default(), MemorySpool::default());
    let (mut store, _) = open_on(disk.clone(), spool.clone());
    store.keep_sample(vec![1]);
    store.append_frame(frame(0), Tick(0));
    store.keep_sample(vec![2]);
    store.keep_sample(vec![3]);
    drop(store);
    let (mut store, recovered) = open_on(disk.clone(), spool.clone());
    assert_eq!(recovered.samples, [vec![2], vec![3]]);
    let frames = entries(&mut store, Stream::Telemetry);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].body, frame(0).body);
    store.acknowledged(Stream::Telemetry, frames[0].seq, Tick(5));
    drop(store);
    let (mut store, recovered) = open_on(disk, spool);
    assert_eq!(recovered.samples, [vec![2], vec![3]]);
    assert_eq!(entries(&mut store, Stream::Telemetry), []);
}

#[test]
fn another_stores_spool_is_not_read() {
    let spool = MemorySpool::default();
    let (mut store, _) = open_on(MemoryDisk::default(), spool.clone());
    store.keep_sample(vec![1]);
    store.append_frame(frame(0), Tick(0));
    drop(store);
    let (mut other, recovered) = Store::open(
        Box::new(MemoryDisk::default()),
        Box::new(spool),
        Limits::default(),
        StoreId::from_bytes([6; 10]),
        started,
        UnixMillis(1_000),
    )
    .unwrap();
    assert!(recovered.samples.is_empty());
    assert_eq!(entries(&mut other, Stream::Telemetry), []);
}

#[test]
fn frames_are_spilled_only_while_the_link_is_down_and_then_once() {
    let (disk, spool) = (MemoryDisk::default(), MemorySpool::default());
    let (mut store, _) = open_on(disk.clone(), spool.clone());
    let age = u64::try_from(SPILL_AGE.as_millis()).unwrap();
    for n in 0..10 {
        store.append_frame(frame(n), Tick(n));
    }
    settle(&mut store, age + 20);
    let commits = store.stats().commits;
    assert_eq!(store.stats().waiting, [1, 0, 10, 0]);
    store.settle(false, UnixMillis(2_000), Tick(age + 30));
    assert_eq!(store.stats().waiting, [1, 0, 0, 10]);
    assert_eq!(store.stats().commits, commits + 1, "one commit for all");
    drop(store);
    let (mut store, _) = open_on(disk, spool);
    assert_eq!(store.stats().waiting[3], 10);
    assert_eq!(store.stats().waiting[2], 0);
    assert_eq!(entries(&mut store, Stream::Backfill)[0].body, frame(0).body);
}

#[test]
fn a_crash_between_spilling_and_the_spool_doubles_nothing() {
    let (disk, spool) = (MemoryDisk::default(), MemorySpool::default());
    let (mut store, _) = open_on(disk.clone(), spool.clone());
    store.append_frame(frame(0), Tick(0));
    let before = spool.clone().load().unwrap();
    let age = u64::try_from(SPILL_AGE.as_millis()).unwrap();
    store.settle(false, UnixMillis(2_000), Tick(age + 30));
    drop(store);
    spool.clone().replace(&before).unwrap();
    let (store, _) = open_on(disk, spool);
    assert_eq!(store.stats().waiting[2..], [0, 1]);
}

#[test]
fn frames_that_were_sent_stay_where_they_are_when_the_link_falls() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    store.append_frame(frame(0), Tick(0));
    assert_eq!(entries(&mut store, Stream::Telemetry).len(), 1);
    store.append_frame(frame(1), Tick(1));
    let age = u64::try_from(SPILL_AGE.as_millis()).unwrap();
    store.settle(false, UnixMillis(2_000), Tick(age + 30));
    assert_eq!(store.stats().waiting[2..], [1, 1]);
}

#[test]
fn a_state_replaces_the_older_one_of_its_key() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    let facts = |name: &str| StateItem {
        at: UnixMillis(1),
        value: StateValue::Facts(Facts {
            hostname: name.to_owned(),
            ..Facts::default()
        }),
    };
    store.put_state(&facts("a"));
    store.put_state(&facts("b"));
    let waiting = entries(&mut store, Stream::State);
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].body, message::encode(&facts("b")));
    let commits = store.stats().commits;
    settle(&mut store, 10);
    assert_eq!(store.stats().commits, commits, "a state costs no commit");
}

#[test]
fn a_full_backfill_becomes_coarser_before_it_is_dropped() {
    let limits = Limits {
        telemetry_bytes_max: 1,
        backfill_bytes_max: 1_500,
        ..Limits::default()
    };
    let spool = MemorySpool::default();
    let (mut store, _) = try_open(MemoryDisk::default(), spool, limits).unwrap();
    for n in 0..120 {
        store.append_frame(frame(n), Tick(n));
        store.settle(false, UnixMillis(2_000), Tick(n));
        let bytes = store.stats().bytes[3];
        assert!(bytes <= 1_500, "{bytes} at {n}");
    }
    let tiers: Vec<Tier> = entries(&mut store, Stream::Backfill)
        .iter()
        .map(|entry| {
            protocol::telemetry::frame::decode(&entry.body)
                .unwrap()
                .span
                .tier
        })
        .collect();
    assert!(
        tiers.contains(&Tier::Minute) || tiers.contains(&Tier::TenMinutes),
        "{tiers:?}"
    );
    assert!(store.stats().shed_samples > 0);
}

#[test]
fn a_receipt_reserve_that_is_used_up_refuses_commands() {
    let limits = Limits {
        control_bytes_max: 130 * 1024,
        ..Limits::default()
    };
    let (mut store, _) = try_open(MemoryDisk::default(), MemorySpool::default(), limits).unwrap();
    store.take_command(command(1), UnixMillis(2_000));
    store.take_command(command(2), UnixMillis(2_000));
    store.take_command(command(3), UnixMillis(2_000));
    let settled = settle(&mut store, 10);
    assert_eq!(settled.started.len(), 2);
    assert_eq!(receipts(&mut store), [(id(3), Outcome::Refused)]);
    // Room comes back with the acknowledgements.
    store.close_command(&receipt(1));
    settle(&mut store, 20);
    let last = entries(&mut store, Stream::Control).last().unwrap().seq;
    store.acknowledged(Stream::Control, last, Tick(30));
    store.take_command(command(4), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 40).started, [command(4)]);
}

#[test]
fn receipts_are_offered_again_to_a_restored_controller() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    store.close_command(&receipt(1));
    settle(&mut store, 20);
    let last = entries(&mut store, Stream::Control).last().unwrap().seq;
    store.acknowledged(Stream::Control, last, Tick(30));
    assert_eq!(store.stats().waiting[0], 0);
    store.offer_receipts_again();
    settle(&mut store, 40);
    assert_eq!(store.stats().waiting[0], 1);
    let again = entries(&mut store, Stream::Control);
    assert!(
        again
            .iter()
            .any(|entry| entry.kind == EntryKind::RECEIPT && entry.seq > last)
    );
}

#[test]
fn a_disk_that_was_put_back_numbers_above_what_the_controller_has() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    store.close_command(&receipt(1));
    store.append_frame(frame(0), Tick(0));
    settle(&mut store, 20);
    for stream in [Stream::Control, Stream::Telemetry] {
        store.renumber(stream, 500);
    }
    settle(&mut store, 30);
    for stream in [Stream::Control, Stream::Telemetry] {
        let seqs: Vec<u64> = entries(&mut store, stream)
            .iter()
            .map(|entry| entry.seq)
            .collect();
        assert!(
            !seqs.is_empty() && seqs.iter().all(|seq| *seq > 500),
            "{seqs:?}"
        );
    }
}

#[test]
fn acknowledgements_alone_cost_no_commit_for_an_hour() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    settle(&mut store, 0);
    let commits = store.stats().commits;
    let last = entries(&mut store, Stream::Control).last().unwrap().seq;
    store.acknowledged(Stream::Control, last, Tick(10));
    settle(&mut store, 3_599_000);
    assert_eq!(store.stats().commits, commits);
    settle(&mut store, 3_700_000);
    assert_eq!(store.stats().commits, commits + 1);
}

#[test]
fn everything_comes_back_from_a_redb_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let (mut store, _) = open_on(RedbDisk::file(&path), MemorySpool::default());
    store.take_command(command(1), UnixMillis(2_000));
    settle(&mut store, 10);
    store.close_command(&receipt(1));
    store.learn(7, Some(UnixMillis(9_999)));
    settle(&mut store, 20);
    assert!(store.stats().flash_bytes > 0);
    drop(store);
    assert_private(&path);
    let (mut store, recovered) = open_on(RedbDisk::file(&path), MemorySpool::default());
    assert_eq!(recovered.interrupted, []);
    assert_eq!(store.incarnation(), 7);
    assert_eq!(store.proven(), Some(UnixMillis(9_999)));
    assert_eq!(receipts(&mut store), [(id(1), Outcome::Succeeded)]);
    store.take_command(command(1), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 30).started, []);
}

fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The budget: 100 KB of flash for a command, 0.5 MB a day connected.
#[test]
fn flash_stays_within_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RedbDisk::file(&dir.path().join("agent.redb"));
    let (mut store, _) = open_on(disk, MemorySpool::default());
    let before = store.stats().flash_bytes;
    for n in 0..20 {
        store.take_command(command(n), UnixMillis(2_000));
        settle(&mut store, 10);
        store.close_command(&receipt(n));
        settle(&mut store, 20);
    }
    let per_command = (store.stats().flash_bytes - before) / 20;
    assert!(per_command < 100_000, "{per_command} bytes a command");

    let before = store.stats().flash_bytes;
    let minute = 60_000;
    for n in 0..24 * 60 {
        store.append_frame(frame(n), Tick(n * minute));
        let last = entries(&mut store, Stream::Telemetry).last().unwrap().seq;
        store.acknowledged(Stream::Telemetry, last, Tick(n * minute));
        settle(&mut store, n * minute);
    }
    let connected = store.stats().flash_bytes - before;
    assert!(connected < 500_000, "{connected} bytes a day connected");

    let before = store.stats().flash_bytes;
    for n in 0..24 * 60 {
        let tick = Tick((24 * 60 + n) * minute);
        store.append_frame(frame(24 * 60 + n), tick);
        store.settle(false, UnixMillis(2_000), tick);
    }
    let offline = store.stats().flash_bytes - before;
    assert!(offline < 5_000_000, "{offline} bytes a day offline");
}

fn order(generation: u64, n: u8) -> Desired {
    Desired {
        deployment: DeploymentId::from_bytes([n; 10]),
        number: u16::from(n),
        name: format!("d{n}"),
        generation,
        at: UnixMillis(0),
        want: Wanted::Remove,
    }
}

fn deployment_results(store: &mut Store) -> usize {
    let all = store.read_entries(Stream::Control, &(1..500).collect::<Vec<_>>());
    let kind = EntryKind::DEPLOYMENT_RESULT;
    all.unwrap()
        .iter()
        .filter(|(_, one)| one.kind == kind)
        .count()
}

#[test]
fn orders_are_durable_with_their_generation_and_older_ones_move_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let open = || open_on(RedbDisk::file(&path), MemorySpool::default()).0;
    let mut store = open();
    assert_eq!(store.generation_kept(), 0);
    store.take_desired(order(4, 1), UnixMillis(1));
    assert_eq!(store.generation_kept(), 0, "not before it is durable");
    assert!(store.settle(true, UnixMillis(1), Tick(1)).deployments);
    assert_eq!(store.generation_kept(), 4);
    store.take_desired(order(3, 1), UnixMillis(1));
    store.take_desired(order(4, 2), UnixMillis(1));
    let settled = store.settle(true, UnixMillis(1), Tick(2));
    assert!(!settled.deployments);
    drop(store);
    let mut store = open();
    assert_eq!((store.generation_kept(), store.deployments().len()), (4, 1));
    let id = DeploymentId::from_bytes([1; 10]);
    let record = Arc::clone(&store.deployments()[&id]);
    let begun = record.begin();
    let done = begun.record.succeed(UnixMillis(2));
    // A result is told once, however often it is decided.
    store.keep_deployment(begun);
    store.keep_deployment(done.clone());
    store.keep_deployment(done.clone());
    store.settle(true, UnixMillis(1), Tick(1));
    drop(store);
    let mut store = open();
    assert_eq!(deployment_results(&mut store), 1);
    assert!(store.deployments()[&id].is_gone());
    // A late word about an older order is left out.
    store.take_desired(order(5, 1), UnixMillis(1));
    store.keep_deployment(done);
    store.settle(true, UnixMillis(1), Tick(1));
    assert_eq!(store.deployments()[&id].desired.generation, 5);
    assert_eq!(deployment_results(&mut store), 1);
}

#[test]
fn a_full_disk_keeps_the_generation_back_until_it_works_again() {
    let disk = MemoryDisk::default();
    let (mut store, _) = open_on(disk.clone(), MemorySpool::default());
    disk.set_full(true);
    store.take_desired(order(1, 1), UnixMillis(1));
    let settled = store.settle(true, UnixMillis(1), Tick(1));
    assert!(!settled.deployments && !store.is_written());
    assert_eq!(store.generation_kept(), 0);
    disk.set_full(false);
    let settled = store.settle(true, UnixMillis(1), Tick(10_000));
    assert!(settled.deployments && store.is_written());
    assert_eq!(store.generation_kept(), 1);
}

#[test]
fn a_node_has_so_many_deployments_and_forgets_those_that_are_gone() {
    let (mut store, _) = open_on(MemoryDisk::default(), MemorySpool::default());
    let most = u8::try_from(DEPLOYMENTS_PER_NODE_MAX).unwrap();
    for n in 1..=most {
        store.take_desired(order(u64::from(n), n), UnixMillis(1));
    }
    store.take_desired(order(100, 200), UnixMillis(1));
    assert_eq!(store.deployments().len(), usize::from(most));
    store.settle(true, UnixMillis(1), Tick(1));
    assert_eq!(
        deployment_results(&mut store),
        1,
        "the one too many is refused"
    );
    let gone = store.deployments()[&DeploymentId::from_bytes([7; 10])].begin();
    let gone = gone.record.succeed(UnixMillis(1));
    store.keep_deployment(gone);
    store.take_desired(order(101, 201), UnixMillis(1));
    assert_eq!(store.deployments().len(), usize::from(most));
    let taken = DeploymentId::from_bytes([201; 10]);
    assert!(store.deployments().contains_key(&taken));
}

/// A file of the version before there were deployments has no table for them.
#[test]
fn a_file_from_before_deployments_opens() {
    use redb::ReadableDatabase as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    drop(open_on(RedbDisk::file(&path), MemorySpool::default()));
    let table: redb::TableDefinition<'_, &[u8; 10], &[u8]> =
        redb::TableDefinition::new("deployments");
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(table).unwrap());
    write.commit().unwrap();
    assert!(database.begin_read().unwrap().open_table(table).is_err());
    drop(database);
    let (store, _) = open_on(RedbDisk::file(&path), MemorySpool::default());
    assert!(store.deployments().is_empty());
    assert_eq!(store.generation_kept(), 0);
}
