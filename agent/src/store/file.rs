//! The disk that is a redb file.
//!
//! **Invariant:** a file that is there is opened or refused, never written over:
//! a new one is made under another name and renamed when it is whole, so an empty
//! or cut file can only be damage.
//!
//! A failed write leaves redb unusable until it is opened again; [`RedbDisk::load`]
//! does so.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::id::{CommandId, DeploymentId};
use protocol::message;
use protocol::stream::Stream;
use redb::backends::FileBackend;
use redb::{
    BackendError, Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _,
    StorageBackend, StorageError, TableDefinition,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{Change, Disk, DiskError, Image, Meta, Stored};
use super::reserve::Reserve;
use crate::domain::deployment::record::Record;
use crate::domain::stored;
use crate::durable;

/// The layout of the tables. Raised when one of them changes; an older agent
/// refuses it. A table or a key that is added does not raise it: it is empty in an
/// older file, and an older agent, which an update may have to go back to, leaves
/// it alone.
pub const SCHEMA: u32 = 1;

/// redb's own default is a gigabyte; the whole working set is a few pages.
const CACHE_BYTES: usize = 1024 * 1024;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, (u8, u64), &[u8]> = TableDefinition::new("entries");
const LEDGER: TableDefinition<'_, &[u8; 10], &[u8]> = TableDefinition::new("ledger");
const DEPLOYMENTS: TableDefinition<'_, &[u8; 10], &[u8]> = TableDefinition::new("deployments");

const KEY_SCHEMA: &str = "schema";
const KEY_META: &str = "meta";
const KEY_GENERATION: &str = "generation";
const KEY_POLICY: &str = "policy";
const KEY_NAMED: &str = "named";
const KEY_SILENCE: &str = "silence";
const KEY_HOLDING: &str = "holding";

/// The first byte of each value above that may change its layout.
const FORMAT: u8 = 1;

/// Makes the storage under redb, each time that it is opened.
pub type OpenBackend = Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send>;

/// Counts what is written, and passes everything on.
struct Counting {
    inner: Box<dyn StorageBackend>,
    written: Arc<AtomicU64>,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl StorageBackend for Counting {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)?;
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.written.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// A redb file, or whatever else redb can be put on.
pub struct RedbDisk {
    path: PathBuf,
    open: OpenBackend,
    database: Option<Database>,
    written: Arc<AtomicU64>,
    reserve: Option<Reserve>,
}

impl RedbDisk {
    /// A store in a file of that name.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        let name = path.to_owned();
        Self {
            reserve: Some(Reserve::beside(path)),
            ..Self::on(path, Box::new(move || open_file(&name)))
        }
    }

    /// A store on another backend, with nothing set aside. `name` stands for it in
    /// errors.
    #[must_use]
    pub fn on(name: &Path, open: OpenBackend) -> Self {
        Self {
            path: name.to_owned(),
            open,
            database: None,
            written: Arc::new(AtomicU64::new(0)),
            reserve: None,
        }
    }

    fn failed(&self, step: &'static str, error: redb::Error) -> DiskError {
        classify(&self.path, step, error)
    }

    fn not_opened(&self, error: DatabaseError) -> DiskError {
        if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
            return DiskError::Locked {
                path: self.path.clone(),
            };
        }
        if let DatabaseError::UpgradeRequired(version) = error {
            return self.corrupt(&format!("file format {version} is not read here"));
        }
        if matches!(error, DatabaseError::RepairAborted) {
            return self.corrupt("its repair was given up");
        }
        self.failed("open", error.into())
    }

    fn database(&self) -> Result<&Database, DiskError> {
        self.database.as_ref().ok_or_else(|| DiskError::Failed {
            path: self.path.clone(),
            step: "use",
            source: "it is not open".into(),
        })
    }

    fn image(&self) -> Result<Image, DiskError> {
        let failed = |error: redb::Error| self.failed("read", error);
        let read = self
            .database()?
            .begin_read()
            .map_err(|error| failed(error.into()))?;
        let mut image = Image::default();
        let meta = match read.open_table(META) {
            Ok(table) => table,
            // A new database has no tables yet.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(image),
            Err(error) => return Err(failed(error.into())),
        };
        let value = |key| -> Result<Option<Vec<u8>>, DiskError> {
            let found = meta.get(key).map_err(|error| failed(error.into()))?;
            Ok(found.map(|guard| guard.value().to_vec()))
        };
        let schema = value(KEY_SCHEMA)?
            .and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
            .ok_or_else(|| self.corrupt("it has no schema version"))?;
        if schema > SCHEMA {
            return Err(DiskError::Newer {
                path: self.path.clone(),
                found: schema,
                known: SCHEMA,
            });
        }
        let bytes = value(KEY_META)?.ok_or_else(|| self.corrupt("it has no store id"))?;
        let meta: Meta = message::decode_exactly(&bytes).map_err(|reason| self.corrupt(&reason))?;
        image.meta = Some(meta);
        if let Some(bytes) = value(KEY_GENERATION)? {
            let bytes = bytes
                .try_into()
                .map_err(|_| self.corrupt("its generation is no number"))?;
            image.generation = u64::from_le_bytes(bytes);
        }
        image.policy = self.versioned(KEY_POLICY, value(KEY_POLICY)?)?;
        image.silence = self.versioned(KEY_SILENCE, value(KEY_SILENCE)?)?;
        if let Some(named) = self.versioned(KEY_NAMED, value(KEY_NAMED)?)? {
            image.named = named;
        }
        if let Some(holding) = self.versioned(KEY_HOLDING, value(KEY_HOLDING)?)? {
            image.holding = holding;
        }
        let entries = read
            .open_table(ENTRIES)
            .map_err(|error| failed(error.into()))?;
        for row in entries.iter().map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let (stream, seq) = key.value();
            let stored = self.stored(value.value())?;
            let stream = Stream::ALL
                .get(usize::from(stream))
                .ok_or_else(|| self.corrupt("an entry belongs to no stream"))?;
            image.items[stream.index()].insert(seq, stored.item);
        }
        let ledger = read
            .open_table(LEDGER)
            .map_err(|error| failed(error.into()))?;
        for row in ledger.iter().map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let entry =
                message::decode_exactly(value.value()).map_err(|reason| self.corrupt(&reason))?;
            image
                .ledger
                .insert(CommandId::from_bytes(*key.value()), entry);
        }
        let deployments = match read.open_table(DEPLOYMENTS) {
            Ok(table) => table,
            // A file from before there were any.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(image),
            Err(error) => return Err(failed(error.into())),
        };
        for row in deployments.iter().map_err(|error| failed(error.into()))? {
            let (key, value) = row.map_err(|error| failed(error.into()))?;
            let record = Record::decode(value.value()).map_err(|reason| self.corrupt(&reason))?;
            let deployment = DeploymentId::from_bytes(*key.value());
            image.deployments.insert(deployment, Arc::new(record));
        }
        Ok(image)
    }

    fn versioned<T: DeserializeOwned>(
        &self,
        key: &str,
        bytes: Option<Vec<u8>>,
    ) -> Result<Option<T>, DiskError> {
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        stored::decode(FORMAT, &bytes, &format!("its {key}"))
            .map(Some)
            .map_err(|reason| self.corrupt(&reason))
    }

    fn stored(&self, bytes: &[u8]) -> Result<Stored, DiskError> {
        message::decode_exactly(bytes).map_err(|reason| self.corrupt(&reason))
    }

    fn corrupt(&self, reason: &str) -> DiskError {
        DiskError::Corrupt {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseClosed);
        };
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let mut entries = write.open_table(ENTRIES)?;
            let mut ledger = write.open_table(LEDGER)?;
            let mut deployments = write.open_table(DEPLOYMENTS)?;
            for change in changes {
                match change {
                    Change::Meta(values) => {
                        meta.insert(KEY_SCHEMA, SCHEMA.to_le_bytes().as_slice())?;
                        meta.insert(KEY_META, message::encode(values).as_slice())?;
                    }
                    Change::Put(stream, seq, stored) => {
                        entries.insert(key(*stream, *seq), message::encode(stored).as_slice())?;
                    }
                    Change::Remove(stream, seq) => {
                        entries.remove(key(*stream, *seq))?;
                    }
                    Change::Take(command, entry) => {
                        ledger.insert(command.as_bytes(), message::encode(entry).as_slice())?;
                    }
                    Change::Forget(command) => {
                        ledger.remove(command.as_bytes())?;
                    }
                    Change::Deployment(record) => {
                        let key = record.desired.deployment;
                        deployments.insert(key.as_bytes(), record.encode().as_slice())?;
                    }
                    Change::ForgetDeployment(deployment) => {
                        deployments.remove(deployment.as_bytes())?;
                    }
                    Change::Generation(generation) => {
                        meta.insert(KEY_GENERATION, generation.to_le_bytes().as_slice())?;
                    }
                    Change::Policy(kept) => {
                        meta.insert(KEY_POLICY, versioned(kept).as_slice())?;
                    }
                    Change::Named(named) => {
                        meta.insert(KEY_NAMED, versioned(named).as_slice())?;
                    }
                    Change::Silence(silence) => {
                        meta.insert(KEY_SILENCE, versioned(silence).as_slice())?;
                    }
                    Change::Holding(holding) => {
                        meta.insert(KEY_HOLDING, versioned(holding).as_slice())?;
                    }
                }
            }
        }
        write.commit()?;
        Ok(())
    }
}

fn versioned<T: Serialize>(value: &T) -> Vec<u8> {
    stored::encode(FORMAT, value)
}

fn key(stream: Stream, seq: u64) -> (u8, u64) {
    let index = match stream {
        Stream::Control => 0,
        Stream::State => 1,
        Stream::Telemetry => 2,
        Stream::Backfill => 3,
    };
    (index, seq)
}

impl Disk for RedbDisk {
    fn load(&mut self) -> Result<Image, DiskError> {
        // The old handle holds the lock; it must go first.
        self.database = None;
        let backend = (self.open)().map_err(|error| classify_io(&self.path, "open", error))?;
        let counting = Counting {
            inner: backend,
            written: Arc::clone(&self.written),
        };
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(counting)
            .map_err(|error| self.not_opened(error))?;
        self.database = Some(database);
        self.image()
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), DiskError> {
        self.write(changes)
            .map_err(|error| self.failed("write", error))
    }

    fn read(&self, stream: Stream, seqs: &[u64]) -> Result<Vec<(u64, Stored)>, DiskError> {
        let failed = |error: redb::Error| self.failed("read", error);
        let read = self
            .database()?
            .begin_read()
            .map_err(|error| failed(error.into()))?;
        let table = match read.open_table(ENTRIES) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error.into())),
        };
        let mut found = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let row = table
                .get(key(stream, *seq))
                .map_err(|error| failed(error.into()))?;
            if let Some(guard) = row {
                found.push((*seq, self.stored(guard.value())?));
            }
        }
        Ok(found)
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn free_bytes(&self) -> Option<u64> {
        let parent = self.path.parent()?;
        let stat = rustix::fs::statvfs(parent).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn reserve(&mut self) -> bool {
        self.reserve.as_ref().is_none_or(Reserve::fill)
    }

    fn spend_reserve(&mut self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::spend)
    }
}

fn classify(path: &Path, step: &'static str, error: redb::Error) -> DiskError {
    if let redb::Error::Io(source) = error {
        return classify_io(path, step, source);
    }
    if let redb::Error::Corrupted(reason) = error {
        return DiskError::Corrupt {
            path: path.to_owned(),
            reason,
        };
    }
    if let redb::Error::TableTypeMismatch { table, .. } = &error {
        return DiskError::Corrupt {
            path: path.to_owned(),
            reason: format!("table {table} has other types"),
        };
    }
    DiskError::Failed {
        path: path.to_owned(),
        step,
        source: Box::new(error),
    }
}

fn classify_io(path: &Path, step: &'static str, source: io::Error) -> DiskError {
    use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
    let kind = source.kind();
    let path = path.to_owned();
    if matches!(kind, StorageFull | QuotaExceeded | FileTooLarge) {
        return DiskError::Full {
            path,
            source: Box::new(source),
        };
    }
    // redb says so of bytes that are not its own, and of a file cut short.
    if matches!(kind, InvalidData | UnexpectedEof) {
        return DiskError::Corrupt {
            path,
            reason: source.to_string(),
        };
    }
    DiskError::Failed {
        path,
        step,
        source: Box::new(source),
    }
}

fn open_file(path: &Path) -> io::Result<Box<dyn StorageBackend>> {
    match read_write(path, false) {
        Ok(file) => {
            if file.metadata()?.len() == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is empty",
                ));
            }
            backend(file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_file(path)?;
            backend(read_write(path, false)?)
        }
        Err(error) => Err(error),
    }
}

/// Makes a whole, empty database under another name and renames it.
fn create_file(path: &Path) -> io::Result<()> {
    let fresh = path.with_extension("redb.new");
    durable::remove(&fresh)?;
    let made = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(
            FileBackend::new(read_write(&fresh, true)?).map_err(io::Error::other)?,
        );
    match made {
        Ok(database) => drop(database),
        Err(DatabaseError::Storage(StorageError::Io(error))) => return Err(error),
        Err(error) => return Err(io::Error::other(error)),
    }
    std::fs::rename(&fresh, path)?;
    if let Some(parent) = path.parent() {
        durable::sync(parent)?;
    }
    Ok(())
}

fn read_write(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600)
        .open(path)
}

fn backend(file: File) -> io::Result<Box<dyn StorageBackend>> {
    let backend = FileBackend::new(file).map_err(io::Error::other)?;
    Ok(Box::new(backend))
}
