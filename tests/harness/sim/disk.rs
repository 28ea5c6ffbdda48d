//! A simulated disk under redb: what was not synced may be gone after a crash.
//!
//! A crash keeps everything up to the last sync, and of each later write nothing,
//! all, or some of its sectors, as chance wills: that is what a disk with a write
//! cache does when the power goes. The disk can also fill up and fail.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use super::chance::Chance;

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk with one file on it. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    shared: Arc<Mutex<Platters>>,
}

#[derive(Debug, Default)]
struct Platters {
    /// What a reader sees.
    seen: Vec<u8>,
    /// What is there after a crash that loses every write since the last sync.
    synced: Vec<u8>,
    /// Writes since then, in order.
    pending: Vec<Change>,
    /// Each crash makes handles that were open before it useless.
    epoch: u64,
    capacity: Option<u64>,
    fails: bool,
    syncs: u64,
    written: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Length(u64),
    Bytes(u64, Vec<u8>),
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Opens the file for redb. A crash makes the handle useless.
    pub fn open(&self) -> Box<dyn StorageBackend> {
        let epoch = self.lock().epoch;
        Box::new(Handle {
            disk: self.clone(),
            epoch,
        })
    }

    /// The power goes: unsynced writes survive in part.
    pub fn crash(&self, chance: &mut Chance) {
        let mut platters = self.lock();
        let mut kept = std::mem::take(&mut platters.synced);
        let pending = std::mem::take(&mut platters.pending);
        for change in pending {
            match change {
                Change::Length(length) => {
                    if chance.permille(500) {
                        resize(&mut kept, length);
                    }
                }
                Change::Bytes(offset, bytes) => keep_in_part(&mut kept, offset, &bytes, chance),
            }
        }
        platters.seen = kept.clone();
        platters.synced = kept;
        platters.epoch += 1;
    }

    /// The process ends, the machine does not: every write survives.
    pub fn kill(&self) {
        self.lock().epoch += 1;
    }

    /// A copy of the disk as it is, for putting it back or for a clone.
    #[must_use]
    pub fn copy(&self) -> SimDisk {
        let platters = self.lock();
        SimDisk {
            shared: Arc::new(Mutex::new(Platters {
                seen: platters.seen.clone(),
                synced: platters.seen.clone(),
                ..Platters::default()
            })),
        }
    }

    /// Bytes that fit from here on; `None` lifts the limit.
    pub fn limit(&self, capacity: Option<u64>) {
        self.lock().capacity = capacity;
    }

    /// Bytes that the file has.
    pub fn length(&self) -> u64 {
        length(&self.lock().seen)
    }

    /// Makes every write and sync fail, or work again.
    pub fn fail(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    fn lock(&self) -> MutexGuard<'_, Platters> {
        match self.shared.lock() {
            Ok(platters) => platters,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    epoch: u64,
}

impl Handle {
    fn platters(&self) -> io::Result<MutexGuard<'_, Platters>> {
        let platters = self.disk.lock();
        if platters.epoch == self.epoch {
            Ok(platters)
        } else {
            Err(io::Error::other(
                "the process that opened this file is gone",
            ))
        }
    }

    fn writable(&self, end: u64) -> io::Result<MutexGuard<'_, Platters>> {
        let platters = self.platters()?;
        if platters.fails {
            return Err(io::Error::other("the simulated disk fails"));
        }
        let grows = end > length(&platters.seen);
        if grows && platters.capacity.is_some_and(|capacity| end > capacity) {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(platters)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(length(&self.platters()?.seen))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platters = self.platters()?;
        let start = index(offset)?;
        let bytes = platters
            .seen
            .get(start..start.saturating_add(out.len()))
            .ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platters = self.writable(len)?;
        resize(&mut platters.seen, len);
        platters.pending.push(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.writable(0)?;
        let pending = std::mem::take(&mut platters.pending);
        for change in pending {
            match change {
                Change::Length(length) => resize(&mut platters.synced, length),
                Change::Bytes(offset, bytes) => put(&mut platters.synced, index(offset)?, &bytes),
            }
        }
        platters.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(count(data.len()));
        let mut platters = self.writable(end)?;
        put(&mut platters.seen, index(offset)?, data);
        platters.pending.push(Change::Bytes(offset, data.to_vec()));
        platters.written += count(data.len());
        Ok(())
    }
}

fn keep_in_part(kept: &mut Vec<u8>, offset: u64, bytes: &[u8], chance: &mut Chance) {
    let Ok(start) = index(offset) else {
        return;
    };
    let fate = chance.below(4);
    for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let survives = match fate {
            0 => false,
            1 => true,
            _ => chance.permille(500),
        };
        if survives {
            put(kept, start + number * SECTOR_BYTES, sector);
        }
    }
}

fn put(to: &mut Vec<u8>, start: usize, bytes: &[u8]) {
    let end = start + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    if let Some(place) = to.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

fn resize(bytes: &mut Vec<u8>, length: u64) {
    bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
}

fn length(bytes: &[u8]) -> u64 {
    count(bytes.len())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use redb::{Builder, ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    /// Writes 1, 2, 3 … durably until the power goes, and gives the last that was
    /// committed.
    fn write_until_crash(disk: &SimDisk, from: u64, chance: &mut Chance) -> u64 {
        let database = Builder::new()
            .create_with_backend(Opened(disk.open()))
            .unwrap();
        let mut last = from;
        for number in from + 1..from + 2 + chance.below(20) {
            let write = database.begin_write().unwrap();
            write.open_table(TABLE).unwrap().insert(0, number).unwrap();
            if chance.permille(100) {
                // The power goes before the commit.
                disk.crash(chance);
                std::mem::forget(write);
                std::mem::forget(database);
                return last;
            }
            write.commit().unwrap();
            last = number;
        }
        disk.crash(chance);
        last
    }

    #[derive(Debug)]
    struct Opened(Box<dyn StorageBackend>);

    impl StorageBackend for Opened {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    #[test]
    fn what_redb_committed_survives_every_crash() {
        for seed in 0..60 {
            let mut chance = Chance::new(seed);
            let disk = SimDisk::new();
            let mut last = 0;
            for _ in 0..8 {
                last = write_until_crash(&disk, last, &mut chance);
                let database = Builder::new()
                    .create_with_backend(Opened(disk.open()))
                    .unwrap();
                let read = database.begin_read().unwrap();
                let found = read
                    .open_table(TABLE)
                    .ok()
                    .and_then(|table| table.get(0).unwrap().map(|number| number.value()))
                    .unwrap_or(0);
                assert!(
                    found >= last,
                    "seed {seed}: {last} was committed, {found} is there"
                );
                last = found;
                drop(read);
                drop(database);
            }
        }
    }

    #[test]
    fn a_full_disk_says_so_and_takes_more_when_there_is_room() {
        let disk = SimDisk::new();
        disk.limit(Some(100));
        let file = disk.open();
        assert!(file.write(0, &[1; 100]).is_ok());
        let error = file.write(100, &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        disk.limit(None);
        assert!(file.write(100, &[1]).is_ok());
    }
}
