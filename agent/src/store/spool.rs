//! A small file on a tmpfs that survives a crash of the agent, though not one of
//! the host: frames that are not acknowledged, and the samples of the frame that
//! is still being built.
//!
//! Records are appended; the file is written anew when more than half of it is
//! stale. Each record carries a checksum, so one that a kill cut short ends the
//! reading without harm. The first record names the store: another store's file
//! is not read.
//!
//! It fails softly. What cannot be written is counted and stays in memory; the
//! agent goes on, and a crash then costs those samples.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::id::StoreId;
use protocol::message;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::disk::Stored;

/// One record. Append-only: a file may be read by the next version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The store whose numbers these are.
    Store(StoreId),
    /// A sample of the frame that is being built.
    Sample(Vec<u8>),
    /// A frame; the samples before it are in it.
    Frame(u64, Stored),
    /// The frame of that number is acknowledged, moved or shed.
    Gone(u64),
}

/// Something that keeps records over a crash of the agent.
pub trait Spool: Send {
    /// Reads what is whole.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    fn load(&mut self) -> io::Result<Vec<Record>>;

    /// Adds records.
    ///
    /// # Errors
    /// When they may not all be there.
    fn append(&mut self, records: &[Record]) -> io::Result<()>;

    /// Puts these in the place of all.
    ///
    /// # Errors
    /// When the old ones are still there.
    fn replace(&mut self, records: &[Record]) -> io::Result<()>;

    /// Bytes that the records take.
    fn bytes(&self) -> u64;
}

const CHECK_BYTES: usize = 4;
const LENGTH_BYTES: usize = 4;

fn frame(record: &Record, out: &mut Vec<u8>) {
    let body = message::encode(record);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&check(&body));
    out.extend_from_slice(&body);
}

fn check(body: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = digest(&SHA256, body);
    let mut bytes = [0; CHECK_BYTES];
    bytes.copy_from_slice(&hash.as_ref()[..CHECK_BYTES]);
    bytes
}

/// The records up to the first that is not whole.
fn parse(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>()
        && let Some((sum, rest)) = rest.split_first_chunk::<CHECK_BYTES>()
        && let Ok(length) = usize::try_from(u32::from_le_bytes(*length))
        && let Some((body, rest)) = rest.split_at_checked(length)
        && check(body) == *sum
        && let Ok(record) = message::decode_exactly(body)
    {
        records.push(record);
        bytes = rest;
    }
    records
}

/// A spool in a file.
pub struct FileSpool {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl FileSpool {
    /// A spool in a file of that name, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            bytes: 0,
        }
    }

    fn open(&self, path: &Path, append: bool) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(append)
            .write(true)
            .truncate(!append)
            .mode(0o600)
            .open(path)
    }
}

impl Spool for FileSpool {
    fn load(&mut self) -> io::Result<Vec<Record>> {
        self.file = None;
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let records = parse(&bytes);
        // What a kill cut short must not stand before what is appended.
        self.replace(&records)?;
        Ok(records)
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(self.open(&self.path, true)?);
        }
        let mut out = Vec::new();
        for record in records {
            frame(record, &mut out);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let before = self.bytes;
        if let Err(error) = file.write_all(&out) {
            // Half a record would hide everything that is appended behind it.
            file.set_len(before)?;
            return Err(error);
        }
        self.bytes += u64::try_from(out.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn replace(&mut self, records: &[Record]) -> io::Result<()> {
        let mut out = Vec::new();
        for record in records {
            frame(record, &mut out);
        }
        let fresh = self.path.with_extension("new");
        let mut file = self.open(&fresh, false)?;
        file.write_all(&out)?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = Some(self.open(&self.path, true)?);
        self.bytes = u64::try_from(out.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A spool in memory, for simulated nodes. Clones share their records.
#[derive(Clone, Default)]
pub struct MemorySpool {
    records: std::sync::Arc<std::sync::Mutex<Vec<Record>>>,
}

impl MemorySpool {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.records
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Spool for MemorySpool {
    fn load(&mut self) -> io::Result<Vec<Record>> {
        Ok(self.lock().clone())
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        self.lock().extend_from_slice(records);
        Ok(())
    }

    fn replace(&mut self, records: &[Record]) -> io::Result<()> {
        *self.lock() = records.to_vec();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let records = self.lock();
        let bytes = records.iter().map(|record| match record {
            Record::Sample(body) => body.len() + 16,
            Record::Frame(_, stored) => stored.body.len() + 48,
            Record::Store(_) | Record::Gone(_) => 24,
        });
        u64::try_from(bytes.sum::<usize>()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outbox::{Item, Worth};
    use protocol::stream::EntryKind;

    fn records() -> Vec<Record> {
        vec![
            Record::Store(StoreId::from_bytes([1; 10])),
            Record::Sample(vec![1; 300]),
            Record::Frame(
                7,
                Stored {
                    item: Item {
                        bytes: 3,
                        worth: Worth::Kept,
                    },
                    kind: EntryKind::FRAME,
                    version: 1,
                    body: vec![1, 2, 3],
                },
            ),
            Record::Gone(7),
        ]
    }

    #[test]
    fn records_come_back_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut spool = FileSpool::new(&path);
        assert_eq!(spool.load().unwrap(), []);
        spool.append(&records()[..2]).unwrap();
        spool.append(&records()[2..]).unwrap();
        drop(spool);
        let mut again = FileSpool::new(&path);
        assert_eq!(again.load().unwrap(), records());
        again.replace(&records()[..1]).unwrap();
        again.append(&records()[1..2]).unwrap();
        assert_eq!(FileSpool::new(&path).load().unwrap(), records()[..2]);
        let written = std::fs::metadata(&path).unwrap().len();
        assert_eq!(again.bytes(), written);
    }

    #[test]
    fn a_file_cut_anywhere_yields_its_whole_records_and_takes_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        FileSpool::new(&path).replace(&records()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut spool = FileSpool::new(&path);
            let found = spool.load().unwrap();
            assert!(found.len() < records().len());
            assert_eq!(found, records()[..found.len()]);
            spool.append(&records()[3..]).unwrap();
            let again = FileSpool::new(&path).load().unwrap();
            assert_eq!(again.last(), records().last());
            assert_eq!(again.len(), found.len() + 1);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        FileSpool::new(&path).replace(&records()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(FileSpool::new(&path).load().unwrap(), records()[..1]);
    }
}
