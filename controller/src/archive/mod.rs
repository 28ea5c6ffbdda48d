//! Image archives, for fleets whose nodes reach no registry: the folder
//! `archives`; and archives of releases, in the folder `releases`.
//!
//! An operator uploads what `docker save` wrote, piece by piece; each piece says
//! where it goes on, so that an upload that broke off is resumed, also after a
//! restart. When the last piece is there, the SHA-256 that was announced is
//! checked, and that it is an image archive. Then it has its place,
//! `<sha256>.tar`, and nodes may fetch it from any byte on.
//!
//! **Invariant:** a file in its place is whole, on the disk, and what its name
//! says. Uploads lie beside as `<sha256>.partial`.
//!
//! A full disk ends an upload and removes what there is of it; some space is left
//! for the journal in any case. A file in its place that cannot be read at start
//! is left out with a warning, and may be uploaded again.
//!
//! Everything here waits for the disk: call it where blocking is allowed.

pub mod inspect;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use protocol::ErrorCode;
use protocol::deployment::limit::ARCHIVE_BYTES_MAX;
use protocol::time::UnixMillis;
use ring::digest::{Context, SHA256};

use crate::domain::digest::Digest;
use crate::durable;
use inspect::{ArchivedImage, InspectError};

/// Bytes that are left free on the disk: the journal's, which must go on.
pub const RESERVE_BYTES: u64 = 512 * 1024 * 1024;

/// Uploads at a time, each of which keeps a file open. Another one is refused
/// until one ends or rests.
pub const UPLOADS_COUNT_MAX: usize = 16;

/// How old an archive that is in use nowhere must be to be removed, and an upload
/// that nobody went on with.
pub const SWEEP_AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Without a piece for so long, an upload makes room for another one. It can be
/// resumed from the disk.
const RESTING_AFTER: Duration = Duration::from_secs(60);

const READ_BYTES: usize = 256 * 1024;

const TAR: &str = "tar";
const PARTIAL: &str = "partial";

/// How many bytes are free where a path lies.
type FreeBytes = fn(&Path) -> io::Result<u64>;

/// What archives hold, and so what is checked of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Images of containers.
    Images,
    /// A version of the agent. Its digest is in a signed manifest; nodes judge what is
    /// in it when they unpack it.
    Releases,
}

/// An archive that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its SHA-256.
    pub digest: Digest,
    /// Bytes of it.
    pub size_bytes: u64,
    /// The images in it.
    pub images: Vec<ArchivedImage>,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are here; the next piece goes on there.
    At(u64),
    /// All of it is here.
    Held(Archive),
}

/// What cannot be done with archives.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk did not do it.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It would fill the disk.
    #[error(
        "{needed} bytes do not fit on the disk of {}: {free} are free, of which {RESERVE_BYTES} are kept",
        path.display()
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// How many bytes it would take.
        needed: u64,
        /// How many are free.
        free: u64,
    },
    /// It is larger than an archive may be, or empty.
    #[error("an archive has 1 to {ARCHIVE_BYTES_MAX} bytes, not {size_bytes}")]
    Size {
        /// What was announced.
        size_bytes: u64,
    },
    /// A piece does not go on where the upload stands.
    #[error("the upload of {digest} stands at byte {at}, not {offset}")]
    Offset {
        /// Of which archive.
        digest: Digest,
        /// Where the piece would go.
        offset: u64,
        /// Where the upload stands.
        at: u64,
    },
    /// Another request writes to the same upload.
    #[error("another request is uploading {digest}")]
    Busy {
        /// Of which archive.
        digest: Digest,
    },
    /// As many uploads as may be.
    #[error("{UPLOADS_COUNT_MAX} uploads are under way, which is the most")]
    TooMany,
    /// The bytes are not those that were announced.
    #[error("the upload has the SHA-256 {found}, not {expected}")]
    WrongDigest {
        /// What was announced.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is no image archive.
    #[error("{digest} is no image archive: {reason}")]
    NoImages {
        /// Which.
        digest: Digest,
        /// Why not.
        reason: String,
    },
    /// It is not here.
    #[error("there is no archive {digest}")]
    Absent {
        /// Which.
        digest: Digest,
    },
}

impl ArchiveError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File { source, .. } if is_full(source) => ErrorCode::StoreFull,
            Self::File { .. } => ErrorCode::StoreFailed,
            Self::NoSpace { .. } => ErrorCode::StoreFull,
            Self::Size { .. } | Self::WrongDigest { .. } | Self::NoImages { .. } => {
                ErrorCode::ArchiveInvalid
            }
            Self::Offset { .. } => ErrorCode::RequestConflict,
            Self::Busy { .. } | Self::TooMany => ErrorCode::EngineBusy,
            Self::Absent { .. } => ErrorCode::ArchiveNotFound,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The archives. Cheap to clone.
#[derive(Clone)]
pub struct Archives {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    kind: Kind,
    free: FreeBytes,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<Digest, Archive>,
    /// None while a request writes to it.
    uploads: BTreeMap<Digest, Option<Upload>>,
}

/// An upload under way.
struct Upload {
    file: File,
    /// Of what is written.
    hash: Context,
    at: u64,
    size_bytes: u64,
    last: UnixMillis,
}

impl fmt::Debug for Archives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archives({})", self.inner.folder.display())
    }
}

impl Archives {
    /// Opens the archives in a folder, making it when it is missing.
    ///
    /// # Errors
    /// [`ArchiveError::File`].
    pub fn open(folder: &Path) -> Result<Self, ArchiveError> {
        Self::open_with(folder, Kind::Images, durable::free_bytes)
    }

    /// Opens the archives of releases in a folder, making it when it is missing.
    ///
    /// # Errors
    /// [`ArchiveError::File`].
    pub fn of_releases(folder: &Path) -> Result<Self, ArchiveError> {
        Self::open_with(folder, Kind::Releases, durable::free_bytes)
    }

    fn open_with(folder: &Path, kind: Kind, free: FreeBytes) -> Result<Self, ArchiveError> {
        durable::make_private(folder).map_err(|source| fault("make", folder, source))?;
        let mut state = State::default();
        for (digest, ending) in list(folder)? {
            if ending != TAR {
                continue;
            }
            let path = folder.join(format!("{digest}.{TAR}"));
            match held(&path, digest, kind) {
                Ok(archive) => {
                    state.held.insert(digest, archive);
                }
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    path = %path.display(),
                    "an archive cannot be used; upload it again"
                ),
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                kind,
                free,
                state: Mutex::new(state),
            }),
        })
    }

    /// Begins an upload, or finds out where one stands.
    ///
    /// # Errors
    /// [`ArchiveError`]; nothing is under way then.
    pub fn begin(
        &self,
        digest: Digest,
        size_bytes: u64,
        now: UnixMillis,
    ) -> Result<Progress, ArchiveError> {
        if let Some(archive) = self.announced(digest, size_bytes, now)? {
            return Ok(Progress::Held(archive));
        }
        let upload = self.take(digest, size_bytes, now)?;
        let at = upload.at;
        if let Err(error) = self.check_space(size_bytes.saturating_sub(at)) {
            self.abandon(digest);
            return Err(error);
        }
        self.give_back(digest, upload);
        Ok(Progress::At(at))
    }

    /// Adds a piece to an upload that begins at `offset`. After the last one the
    /// archive is held.
    ///
    /// # Errors
    /// [`ArchiveError`]. When the disk failed, or the archive is not what was
    /// announced, what there is of it is removed.
    pub fn append(
        &self,
        digest: Digest,
        size_bytes: u64,
        offset: u64,
        piece: &[u8],
        now: UnixMillis,
    ) -> Result<Progress, ArchiveError> {
        if let Some(archive) = self.announced(digest, size_bytes, now)? {
            return Ok(Progress::Held(archive));
        }
        let mut upload = self.take(digest, size_bytes, now)?;
        let at = upload.at;
        let end = at.saturating_add(piece.len() as u64);
        if offset != at || end > size_bytes {
            self.give_back(digest, upload);
            return Err(ArchiveError::Offset { digest, offset, at });
        }
        let path = self.path(digest, PARTIAL);
        let written = self.check_space(piece.len() as u64).and_then(|()| {
            let written = upload.file.write_all(piece);
            written.map_err(|source| fault("write", &path, source))
        });
        if let Err(error) = written {
            self.abandon(digest);
            return Err(error);
        }
        upload.hash.update(piece);
        upload.at = end;
        upload.last = now;
        if end < size_bytes {
            self.give_back(digest, upload);
            return Ok(Progress::At(end));
        }
        match self.finish(digest, upload) {
            Ok(archive) => {
                let mut state = self.lock();
                state.uploads.remove(&digest);
                state.held.insert(digest, archive.clone());
                Ok(Progress::Held(archive))
            }
            Err(error) => {
                self.abandon(digest);
                Err(error)
            }
        }
    }

    /// Checks what is announced, and finds an archive that is held and is being
    /// uploaded again: its age counts from here, so that a sweep leaves it.
    fn announced(
        &self,
        digest: Digest,
        size_bytes: u64,
        now: UnixMillis,
    ) -> Result<Option<Archive>, ArchiveError> {
        if !(1..=ARCHIVE_BYTES_MAX).contains(&size_bytes) {
            return Err(ArchiveError::Size { size_bytes });
        }
        let state = self.lock();
        let Some(archive) = state.held.get(&digest) else {
            return Ok(None);
        };
        let path = self.path(digest, TAR);
        File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(system_time(now)))
            .map_err(|source| fault("touch", &path, source))?;
        Ok(Some(archive.clone()))
    }

    /// Checks a whole upload and gives it its place.
    fn finish(&self, digest: Digest, upload: Upload) -> Result<Archive, ArchiveError> {
        let partial = self.path(digest, PARTIAL);
        let found = finished(upload.hash);
        if found != digest {
            return Err(ArchiveError::WrongDigest {
                expected: digest,
                found,
            });
        }
        let synced = upload.file.sync_all();
        synced.map_err(|source| fault("sync", &partial, source))?;
        let archive = held(&partial, digest, self.inner.kind)?;
        let place = self.path(digest, TAR);
        durable::rename(&partial, &place)
            .map_err(|source| fault("put in place", &place, source))?;
        Ok(archive)
    }

    /// The archives that are held.
    #[must_use]
    pub fn list(&self) -> Vec<Archive> {
        self.lock().held.values().cloned().collect()
    }

    /// An archive that is held.
    #[must_use]
    pub fn get(&self, digest: Digest) -> Option<Archive> {
        self.lock().held.get(&digest).cloned()
    }

    /// An archive that has an image, by a reference with registry and tag spelled
    /// out.
    #[must_use]
    pub fn with_image(&self, reference: &str) -> Option<Archive> {
        let has = |image: &ArchivedImage| image.references.iter().any(|known| known == reference);
        let state = self.lock();
        let found = state.held.values().find(|a| a.images.iter().any(has));
        found.cloned()
    }

    /// Opens an archive at a byte. Returns the file there, and how many bytes
    /// follow. It stays readable when the archive is removed meanwhile.
    ///
    /// # Errors
    /// [`ArchiveError::Absent`], or [`ArchiveError::Offset`] behind its end.
    pub fn open_at(&self, digest: Digest, offset: u64) -> Result<(File, u64), ArchiveError> {
        let archive = self.get(digest).ok_or(ArchiveError::Absent { digest })?;
        let rest = archive
            .size_bytes
            .checked_sub(offset)
            .ok_or(ArchiveError::Offset {
                digest,
                offset,
                at: archive.size_bytes,
            })?;
        let path = self.path(digest, TAR);
        let mut file = File::open(&path).map_err(|source| fault("open", &path, source))?;
        file.seek(SeekFrom::Start(offset))
            .map_err(|source| fault("read", &path, source))?;
        Ok((file, rest))
    }

    /// Removes an archive. Says whether it was there.
    ///
    /// # Errors
    /// [`ArchiveError::File`]; it is there still.
    pub fn remove(&self, digest: Digest) -> Result<bool, ArchiveError> {
        let mut state = self.lock();
        if !state.held.contains_key(&digest) {
            return Ok(false);
        }
        let path = self.path(digest, TAR);
        durable::remove(&path).map_err(|source| fault("remove", &path, source))?;
        state.held.remove(&digest);
        Ok(true)
    }

    /// Removes the archives that are not in `keep` and the uploads that nobody
    /// went on with, unless they are younger than [`SWEEP_AGE_MIN`]. Returns how
    /// many.
    ///
    /// # Errors
    /// [`ArchiveError::File`]; some may be removed then.
    pub fn sweep(&self, keep: &BTreeSet<Digest>, now: UnixMillis) -> Result<usize, ArchiveError> {
        let mut removed = 0;
        for (digest, ending) in list(&self.inner.folder)? {
            let path = self.path(digest, ending);
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let old = modified.is_ok_and(|at| at + SWEEP_AGE_MIN <= system_time(now));
            if !old {
                continue;
            }
            let mut state = self.lock();
            if ending == TAR {
                if keep.contains(&digest) {
                    continue;
                }
                state.held.remove(&digest);
            } else if state.uploads.contains_key(&digest) {
                continue;
            }
            durable::remove(&path).map_err(|source| fault("remove", &path, source))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Takes an upload for one request, from memory or from the disk.
    fn take(
        &self,
        digest: Digest,
        size_bytes: u64,
        now: UnixMillis,
    ) -> Result<Upload, ArchiveError> {
        let known = {
            let mut state = self.lock();
            match state.uploads.get_mut(&digest) {
                Some(slot) => Some(slot.take().ok_or(ArchiveError::Busy { digest })?),
                None => {
                    state.make_room(now)?;
                    state.uploads.insert(digest, None);
                    None
                }
            }
        };
        if let Some(upload) = known {
            if upload.size_bytes == size_bytes {
                return Ok(upload);
            }
            // The size is no part of the digest: who says another one was wrong
            // about it now or before, and may go on.
            return Ok(Upload {
                size_bytes,
                ..upload
            });
        }
        self.resume(digest, size_bytes, now)
            .inspect_err(|_| self.forget(digest))
    }

    /// Opens an upload's file and takes in what there is of it.
    fn resume(
        &self,
        digest: Digest,
        size_bytes: u64,
        now: UnixMillis,
    ) -> Result<Upload, ArchiveError> {
        let path = self.path(digest, PARTIAL);
        let failed = |step| {
            let path = path.clone();
            move |source| fault(step, &path, source)
        };
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        // No more than there was: a device that someone put here may never end.
        let length = file.metadata().map_err(failed("look at"))?.len();
        let (hash, at) = hash_of(&mut (&file).take(length)).map_err(failed("read"))?;
        Ok(Upload {
            file,
            hash,
            at,
            size_bytes,
            last: now,
        })
    }

    fn give_back(&self, digest: Digest, upload: Upload) {
        self.lock().uploads.insert(digest, Some(upload));
    }

    fn forget(&self, digest: Digest) {
        self.lock().uploads.remove(&digest);
    }

    /// Ends an upload and removes what there is of it.
    fn abandon(&self, digest: Digest) {
        let path = self.path(digest, PARTIAL);
        if let Err(error) = durable::remove(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove an upload that failed");
        }
        self.forget(digest);
    }

    fn check_space(&self, needed: u64) -> Result<(), ArchiveError> {
        let path = &self.inner.folder;
        let free = (self.inner.free)(path).map_err(|source| fault("look at", path, source))?;
        if needed.saturating_add(RESERVE_BYTES) > free {
            return Err(ArchiveError::NoSpace {
                path: path.clone(),
                needed,
                free,
            });
        }
        Ok(())
    }

    fn path(&self, digest: Digest, ending: &str) -> PathBuf {
        self.inner.folder.join(format!("{digest}.{ending}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single insert or remove.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_room(&mut self, now: UnixMillis) -> Result<(), ArchiveError> {
        if self.uploads.len() < UPLOADS_COUNT_MAX {
            return Ok(());
        }
        let resting = self.uploads.iter().find_map(|(digest, upload)| {
            let upload = upload.as_ref()?;
            (now.since(upload.last) >= RESTING_AFTER).then_some(*digest)
        });
        match resting {
            Some(digest) => {
                self.uploads.remove(&digest);
                Ok(())
            }
            None => Err(ArchiveError::TooMany),
        }
    }
}

/// What a whole file holds.
fn held(path: &Path, digest: Digest, kind: Kind) -> Result<Archive, ArchiveError> {
    let failed = |source| fault("read", path, source);
    let mut file = File::open(path).map_err(failed)?;
    let size_bytes = file.metadata().map_err(failed)?.len();
    let images = match kind {
        Kind::Images => inspect::inspect(&mut file).map_err(|error| match error {
            InspectError::Read(source) => failed(source),
            InspectError::Invalid(reason) => ArchiveError::NoImages { digest, reason },
        })?,
        Kind::Releases => Vec::new(),
    };
    Ok(Archive {
        digest,
        size_bytes,
        images,
    })
}

/// The SHA-256 of an archive, and how many bytes it has.
///
/// # Errors
/// What the system says of reading.
pub fn digest_of(archive: &mut impl io::Read) -> io::Result<(Digest, u64)> {
    let (hash, size_bytes) = hash_of(archive)?;
    Ok((finished(hash), size_bytes))
}

fn hash_of(archive: &mut impl io::Read) -> io::Result<(Context, u64)> {
    let mut hash = Context::new(&SHA256);
    let mut size_bytes = 0;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = archive.read(&mut buffer)?;
        if read == 0 {
            return Ok((hash, size_bytes));
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        size_bytes += read as u64;
    }
}

fn finished(hash: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Digest(bytes)
}

/// The files of the folder that are ours.
fn list(folder: &Path) -> Result<Vec<(Digest, &'static str)>, ArchiveError> {
    let failed = |source| fault("list", folder, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some((digest, ending)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let ending = match ending {
            TAR => TAR,
            PARTIAL => PARTIAL,
            _ => continue,
        };
        found.extend(digest.parse().ok().map(|digest| (digest, ending)));
    }
    Ok(found)
}

fn system_time(now: UnixMillis) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(now.0)
}

fn fault(step: &'static str, path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::File {
        step,
        path: path.to_owned(),
        source,
    }
}
