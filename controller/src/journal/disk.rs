//! For tests: a disk that fills up, fails, and forgets what was not synced.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::key::SigningKey;
use redb::StorageBackend;

use crate::domain::given::{FLEET, START};
use crate::journal::{Journal, Medium};

/// Bytes that a real disk writes whole; a write of more can be torn.
const SECTOR_BYTES: usize = 512;

/// A disk that can be opened again and again. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What survives a power cut.
    synced: Vec<u8>,
    /// What programs see.
    seen: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<Write>,
    bytes_max: Option<u64>,
    syncs_fail: bool,
    /// Handles of before a power cut do nothing.
    power: u64,
}

#[derive(Clone, Debug)]
enum Write {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    power: u64,
}

impl Disk {
    pub(crate) fn medium(&self) -> Medium {
        let disk = self.clone();
        Medium::Backend(Arc::new(move || {
            let power = disk.state(|state| state.power);
            Box::new(Handle {
                disk: disk.clone(),
                power,
            })
        }))
    }

    /// A journal on this disk, made now.
    pub(crate) fn create(&self) -> Journal {
        Journal::create_on(self.medium(), FLEET, key(), START).unwrap()
    }

    /// The journal on this disk.
    pub(crate) fn open(&self) -> Journal {
        Journal::open_on(self.medium(), key()).unwrap()
    }

    /// From here on the disk has no more than this; none for no limit.
    pub(crate) fn limit(&self, bytes_max: Option<u64>) {
        self.state(|state| state.bytes_max = bytes_max);
    }

    /// No byte more than there is now.
    pub(crate) fn fill(&self) {
        self.state(|state| state.bytes_max = Some(state.seen.len() as u64));
    }

    /// From here on syncs fail, though what is written is seen.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.state(|state| state.syncs_fail = fail);
    }

    /// A power cut: of what was not synced, some survives, the last of it torn.
    pub(crate) fn cut_power(&self, luck: u64) {
        self.state(|state| {
            let mut luck = luck | 1;
            let mut toss = || {
                // xorshift64: any spread of bits will do.
                luck ^= luck << 13;
                luck ^= luck >> 7;
                luck ^= luck << 17;
                luck
            };
            for write in std::mem::take(&mut state.unsynced) {
                match write {
                    Write::Length(length) => state.synced.resize(length, 0),
                    Write::Bytes(at, bytes) => {
                        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                            let start = at + index * SECTOR_BYTES;
                            let end = start + sector.len();
                            if toss() % 2 == 0 && end <= state.synced.len() {
                                state.synced[start..end].copy_from_slice(sector);
                            }
                        }
                    }
                }
            }
            state.seen = state.synced.clone();
            state.power += 1;
        });
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state(|state| state.seen.clone())
    }

    pub(crate) fn put(&self, bytes: Vec<u8>) {
        self.state(|state| {
            state.synced.clone_from(&bytes);
            state.seen = bytes;
            state.unsynced.clear();
        });
    }

    fn state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) fn key() -> Arc<SigningKey> {
    Arc::new(SigningKey::from_seed(&[5; 32]).unwrap())
}

impl Handle {
    fn state<R>(
        &self,
        change: impl FnOnce(&mut State) -> Result<R, io::Error>,
    ) -> Result<R, io::Error> {
        self.disk.state(|state| {
            if state.power != self.power {
                return Err(io::Error::other("the power was cut"));
            }
            change(state)
        })
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> Result<u64, io::Error> {
        self.state(|state| Ok(state.seen.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.state(|state| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let bytes = state
                .seen
                .get(start..start + out.len())
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.state(|state| {
            let length = usize::try_from(len).map_err(io::Error::other)?;
            if length > state.seen.len() && state.bytes_max.is_some_and(|max| len > max) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            state.seen.resize(length, 0);
            state.unsynced.push(Write::Length(length));
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.state(|state| {
            if state.syncs_fail {
                return Err(io::Error::other("sync failed"));
            }
            state.synced = state.seen.clone();
            state.unsynced.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.state(|state| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let end = start + data.len();
            if state.bytes_max.is_some_and(|max| end as u64 > max) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            if end > state.seen.len() {
                state.seen.resize(end, 0);
            }
            state.seen[start..end].copy_from_slice(data);
            state.unsynced.push(Write::Bytes(start, data.to_vec()));
            Ok(())
        })
    }
}
