//! redb over a backend that loses what was not synced, killed after any number of
//! writes: nothing that was promised is lost, and the file always opens.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::*;

#[derive(Debug, Default)]
struct Medium {
    synced: Vec<u8>,
    now: Vec<u8>,
    writes_left: Option<u64>,
    bytes_max: Option<u64>,
}

/// A file whose unsynced writes a crash discards. It can die after some writes,
/// and be full.
#[derive(Clone, Debug, Default)]
pub(super) struct Faulty {
    medium: Arc<Mutex<Medium>>,
}

impl Faulty {
    pub(super) fn die_after(&self, writes: u64) {
        self.lock().writes_left = Some(writes);
    }

    fn limit(&self, bytes: Option<u64>) {
        self.lock().bytes_max = bytes;
    }

    fn len(&self) -> u64 {
        u64::try_from(self.lock().now.len()).unwrap()
    }

    pub(super) fn crash(&self) {
        let mut medium = self.lock();
        medium.now = medium.synced.clone();
        medium.writes_left = None;
    }

    pub(super) fn disk(&self) -> RedbDisk {
        let backend = self.clone();
        RedbDisk::on(
            Path::new("faulty"),
            Box::new(move || Ok(Box::new(backend.clone()) as Box<dyn StorageBackend>)),
        )
    }
}

impl Medium {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Faulty {
    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(Faulty::len(self))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = self.lock();
        let start = place(offset);
        let bytes = medium
            .now
            .get(start..start + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut medium = self.lock();
        medium.spend()?;
        if medium.bytes_max.is_some_and(|most| len > most) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        medium.now.resize(place(len), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut medium = self.lock();
        medium.spend()?;
        medium.synced = medium.now.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut medium = self.lock();
        medium.spend()?;
        let start = place(offset);
        medium.now[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// What the node promised to the outside before a crash.
#[derive(Default)]
struct Promised {
    started: Vec<CommandId>,
    shown: Vec<CommandId>,
    connects: u64,
}

fn work(store: &mut Store, promised: &mut Promised, from: u8) {
    for n in from..from + 6 {
        promised.connects = store
            .connect()
            .unwrap_or(promised.connects)
            .max(promised.connects);
        store.take_command(command(n), UnixMillis(2_000));
        for command in settle(store, 0).started {
            promised.started.push(command.id);
            store.close_command(&receipt(n));
        }
        settle(store, 0);
        if let Ok(entries) = store.read(
            Want {
                stream: Stream::Control,
                after: 0,
                bytes_max: usize::MAX,
            },
            Tick(0),
        ) {
            let shown = entries
                .iter()
                .filter(|entry| entry.kind == EntryKind::RECEIPT)
                .map(|entry| message::decode_exactly::<Receipt>(&entry.body).unwrap())
                .filter(|receipt| receipt.outcome == Outcome::Succeeded)
                .map(|receipt| receipt.command);
            for command in shown {
                if !promised.shown.contains(&command) {
                    promised.shown.push(command);
                }
            }
        }
    }
}

#[test]
fn a_power_cut_after_any_write_loses_nothing_that_was_promised() {
    // Every fifth write: each of them is a whole life of a store.
    for writes in (0..400).step_by(5) {
        let backend = Faulty::default();
        let (store, _) = open_on(backend.disk(), MemorySpool::default());
        drop(store);
        let mut promised = Promised::default();
        backend.die_after(writes);
        if let Ok((mut store, _)) =
            try_open(backend.disk(), MemorySpool::default(), Limits::default())
        {
            work(&mut store, &mut promised, 0);
        }
        backend.crash();
        let (mut store, recovered) = open_on(backend.disk(), MemorySpool::default());
        let receipts = receipts(&mut store);
        for command in &promised.shown {
            assert!(
                receipts.contains(&(*command, Outcome::Succeeded)),
                "a receipt that was shown is lost after {writes} writes"
            );
        }
        for command in &promised.started {
            let closed = receipts.iter().any(|(id, _)| id == command);
            assert!(
                closed,
                "a started command has no receipt after {writes} writes"
            );
            assert!(
                store
                    .ledger()
                    .latest(100)
                    .iter()
                    .any(|(id, _)| id == command)
            );
        }
        for command in &recovered.interrupted {
            assert!(
                !promised.shown.contains(command),
                "two receipts for one command"
            );
        }
        assert!(
            store.connect().unwrap() > promised.connects,
            "a counter was used twice"
        );
    }
}

#[test]
fn a_full_disk_under_redb_refuses_and_heals() {
    let backend = Faulty::default();
    let (mut store, _) = open_on(backend.disk(), MemorySpool::default());
    backend.limit(Some(backend.len()));
    let big = |n: u8| Receipt {
        stdout: vec![n; 40_000],
        ..receipt(n)
    };
    let mut refused = None;
    let mut done = Vec::new();
    for n in 0..200 {
        let tick = u64::from(n) * 10;
        store.take_command(command(n), UnixMillis(2_000));
        let settled = settle(&mut store, tick);
        if settled.started.is_empty() {
            refused = Some(n);
            break;
        }
        store.close_command(&big(n));
        done.push(n);
        settle(&mut store, tick);
    }
    let refused = refused.expect("the disk fills up");
    assert_eq!(store.stats().failing, Some(ErrorCode::StoreFull));
    backend.limit(None);
    let settled = settle(&mut store, 100_000);
    assert!(settled.healed, "{settled:?}");
    store.take_command(command(250), UnixMillis(2_000));
    assert_eq!(settle(&mut store, 100_010).started, [command(250)]);
    drop(store);
    backend.crash();
    let (mut store, _) = open_on(backend.disk(), MemorySpool::default());
    let kept = receipts(&mut store);
    for n in done {
        assert!(
            kept.contains(&(id(n), Outcome::Succeeded)),
            "receipt {n} of {refused}"
        );
    }
}
