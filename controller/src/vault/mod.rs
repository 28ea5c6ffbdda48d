//! The contents of configs and secrets, by digest: the folder `vault`.
//!
//! A deployment's spec names contents by digest; here they lie, each in a file of
//! its own, encrypted and bound to its digest (ChaCha20-Poly1305), so that who
//! reads the disk or a backup of it learns no secret, and who exchanges two files
//! is found out. The digest of a config is its SHA-256. That of a secret is keyed,
//! so that a short secret cannot be guessed from a journal or a spec. Flotilla's
//! own configs and secrets are names for digests, kept in the same way.
//!
//! **Invariant:** a file is whole or not there, what [`Vault::put`] returned from
//! is on the disk, and no content is in an error, a log or `Debug`.
//!
//! The key is in the key directory, not here. Without it nothing can be read: a
//! vault that another key wrote is refused at start, with what to do. So is one
//! that a newer program wrote. A file that is damaged is said when it is read, by
//! its path, and putting its content again heals it.
//!
//! Everything here waits for the disk: call it where blocking is allowed.

pub mod key;
#[cfg(test)]
mod tests;

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use protocol::ErrorCode;
use protocol::deployment::limit::{FILE_BYTES_MAX, NAME_BYTES_MAX};
use protocol::deployment::spec::FileKind;
use protocol::message;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::deployment::compose::{Contents, Named};
use crate::durable;
use key::{Keys, VaultKey};

/// How old a content must be before [`Vault::sweep`] takes it: whoever put it has
/// had the time to record the deployment that names it.
pub const SWEEP_AGE_MIN: Duration = Duration::from_secs(3600);

/// Contents that are held; at the largest they are 32 GB. Past it nothing is put.
pub const CONTENTS_COUNT_MAX: usize = 65_536;

/// Names of Flotilla's own configs and secrets.
pub const NAMES_COUNT_MAX: usize = 4096;

/// The first bytes of every file: what it is, and the format.
const MAGIC: [u8; 7] = *b"FLVAULT";
const FORMAT: u8 = 1;

/// Bytes of a file beyond its content: magic, format, nonce, tag. A name's file is
/// smaller than any of it allows.
const OVERHEAD_BYTES: usize = 8 + 12 + 16;

const HEADER: &str = "header";
const CONTENTS: &str = "content";
const NAMES: &str = "name";

/// The vault cannot do what was asked. Never with a content in it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
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
    /// A file is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, which a newer controller wrote", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// Another key wrote it.
    #[error(
        "{} was written with another key: restore vault.key in the key directory from a backup",
        path.display()
    )]
    WrongKey {
        /// The vault.
        path: PathBuf,
    },
    /// More than a content may have.
    #[error("{bytes} bytes are more than the {FILE_BYTES_MAX} of a config or secret")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// It holds as much as it may.
    #[error("the vault holds {count} {what}, which is the most")]
    Full {
        /// Of which.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A name that is none.
    #[error(
        "a name is 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . - _ and begins with a letter or digit"
    )]
    Name,
    /// A content could not be encrypted.
    #[error("cannot encrypt: {reason}")]
    Encrypt {
        /// Why.
        reason: String,
    },
}

impl VaultError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::File { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                ErrorCode::StoreFull
            }
            Self::Full { .. } => ErrorCode::StoreFull,
            Self::File { .. } | Self::Encrypt { .. } => ErrorCode::StoreFailed,
            Self::Damaged { .. } => ErrorCode::StoreCorrupt,
            Self::Newer { .. } => ErrorCode::StoreNewer,
            Self::WrongKey { .. } => ErrorCode::PkiInvalid,
            Self::TooLarge { .. } => ErrorCode::RequestTooLarge,
            Self::Name => ErrorCode::RequestInvalid,
        }
    }
}

/// A content in clear. `Debug` hides it, and its memory is cleared.
pub struct Plain(Zeroizing<Vec<u8>>);

impl Plain {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plain({} bytes)", self.0.len())
    }
}

/// A config or secret of Flotilla's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The digest of its content.
    pub digest: String,
    /// Bytes of it.
    pub size_bytes: u32,
    /// When it was set.
    pub set_at: UnixMillis,
}

/// The vault. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    keys: Keys,
    state: Mutex<State>,
}

/// What is in the folder. Every change of it holds the lock over its write, so
/// that a sweep and a put of one content do not pass each other.
struct State {
    contents: BTreeSet<(FileKind, String)>,
    names: BTreeMap<(FileKind, String), Entry>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.inner.folder.display())
    }
}

impl Vault {
    /// Opens the vault in a folder, making it when it is missing.
    ///
    /// # Errors
    /// [`VaultError`]; what is there is left as it is.
    pub fn open(folder: &Path, key: &VaultKey) -> Result<Self, VaultError> {
        let keys = Keys::of(key);
        for name in [CONTENTS, NAMES] {
            let path = folder.join(name);
            durable::make_private(&path).map_err(|source| fault("make", &path, source))?;
        }
        check_header(folder, &keys)?;
        let contents = list(&folder.join(CONTENTS))?
            .into_iter()
            .filter_map(|name| content_of(&name))
            .collect();
        let mut names = BTreeMap::new();
        for name in list(&folder.join(NAMES))? {
            let Some((kind, own)) = kind_of(&name) else {
                continue;
            };
            let path = folder.join(NAMES).join(&name);
            let entry = read_sealed(&path, &keys, &format!("{NAMES}/{name}"))?;
            let entry = entry.ok_or_else(|| damaged(&path, "it is gone"))?;
            let entry = message::decode_exactly(entry.bytes())
                .map_err(|_| damaged(&path, "it is no entry"))?;
            names.insert((kind, own.to_owned()), entry);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                keys,
                state: Mutex::new(State { contents, names }),
            }),
        })
    }

    /// Keeps a content and returns its digest. Putting one again is harmless.
    ///
    /// # Errors
    /// [`VaultError`]; nothing is kept then.
    pub fn put(
        &self,
        kind: FileKind,
        content: &[u8],
        now: UnixMillis,
    ) -> Result<String, VaultError> {
        let mut state = self.lock();
        self.put_locked(&mut state, kind, content, now)
    }

    fn put_locked(
        &self,
        state: &mut State,
        kind: FileKind,
        content: &[u8],
        now: UnixMillis,
    ) -> Result<String, VaultError> {
        if content.len() > FILE_BYTES_MAX {
            return Err(VaultError::TooLarge {
                bytes: content.len(),
            });
        }
        let digest = self.digest_of(kind, content);
        let key = (kind, digest.clone());
        let known = state.contents.contains(&key);
        if !known && state.contents.len() >= CONTENTS_COUNT_MAX {
            return Err(VaultError::Full {
                what: "contents",
                count: CONTENTS_COUNT_MAX,
            });
        }
        let (path, what) = self.content_path(kind, &digest);
        let whole = known && matches!(read_sealed(&path, &self.inner.keys, &what), Ok(Some(_)));
        if !whole {
            self.write_sealed(&path, &what, content)?;
        }
        // Its age counts from here, so that a sweep leaves it.
        File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(system_time(now)))
            .map_err(|source| fault("touch", &path, source))?;
        state.contents.insert(key);
        Ok(digest)
    }

    /// The content of a digest; none when it is not held.
    ///
    /// # Errors
    /// [`VaultError`], also when the content is not what its digest says.
    pub fn get(&self, kind: FileKind, digest: &str) -> Result<Option<Plain>, VaultError> {
        if !self.holds(kind, digest) {
            return Ok(None);
        }
        let (path, what) = self.content_path(kind, digest);
        let Some(content) = read_sealed(&path, &self.inner.keys, &what)? else {
            return Ok(None);
        };
        if self.digest_of(kind, content.bytes()) != digest {
            return Err(damaged(&path, "its content has another digest"));
        }
        Ok(Some(content))
    }

    /// The content of a digest of either kind; none when it is not held.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn find(&self, digest: &str) -> Result<Option<Plain>, VaultError> {
        match self.get(FileKind::Config, digest)? {
            Some(content) => Ok(Some(content)),
            None => self.get(FileKind::Secret, digest),
        }
    }

    /// Whether a content is held.
    #[must_use]
    pub fn holds(&self, kind: FileKind, digest: &str) -> bool {
        let key = (kind, digest.to_owned());
        self.lock().contents.contains(&key)
    }

    /// Gives a config or secret of Flotilla's own a content. Deployments that are
    /// there keep the content that they were applied with.
    ///
    /// # Errors
    /// [`VaultError`]; the name keeps its old content then.
    pub fn set(
        &self,
        kind: FileKind,
        name: &str,
        content: &[u8],
        now: UnixMillis,
    ) -> Result<Entry, VaultError> {
        if !is_name(name) {
            return Err(VaultError::Name);
        }
        let mut state = self.lock();
        let key = (kind, name.to_owned());
        if !state.names.contains_key(&key) && state.names.len() >= NAMES_COUNT_MAX {
            return Err(VaultError::Full {
                what: "names",
                count: NAMES_COUNT_MAX,
            });
        }
        let entry = Entry {
            digest: self.put_locked(&mut state, kind, content, now)?,
            size_bytes: u32::try_from(content.len()).unwrap_or(u32::MAX),
            set_at: now,
        };
        let (path, what) = self.name_path(kind, name);
        self.write_sealed(&path, &what, &message::encode(&entry))?;
        state.names.insert(key, entry.clone());
        Ok(entry)
    }

    /// Takes a name away. Says whether it was there.
    ///
    /// # Errors
    /// [`VaultError`]; the name is there still.
    pub fn remove(&self, kind: FileKind, name: &str) -> Result<bool, VaultError> {
        let mut state = self.lock();
        let key = (kind, name.to_owned());
        if !state.names.contains_key(&key) {
            return Ok(false);
        }
        let (path, _) = self.name_path(kind, name);
        durable::remove(&path).map_err(|source| fault("remove", &path, source))?;
        state.names.remove(&key);
        Ok(true)
    }

    /// Flotilla's own configs and secrets, by kind and name.
    #[must_use]
    pub fn names(&self) -> BTreeMap<(FileKind, String), Entry> {
        self.lock().names.clone()
    }

    /// Removes the contents that are neither in `keep` nor named, unless they are
    /// younger than [`SWEEP_AGE_MIN`]. Returns how many.
    ///
    /// # Errors
    /// [`VaultError`]; some may be removed then.
    pub fn sweep(
        &self,
        keep: &BTreeSet<(FileKind, String)>,
        now: UnixMillis,
    ) -> Result<usize, VaultError> {
        let mut state = self.lock();
        let named: BTreeSet<(FileKind, String)> = state
            .names
            .iter()
            .map(|((kind, _), entry)| (*kind, entry.digest.clone()))
            .collect();
        let unneeded: Vec<(FileKind, String)> = state
            .contents
            .iter()
            .filter(|content| !keep.contains(*content) && !named.contains(*content))
            .cloned()
            .collect();
        let mut removed = 0;
        for content in unneeded {
            let (path, _) = self.content_path(content.0, &content.1);
            let old = fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .map(|at| at + SWEEP_AGE_MIN <= system_time(now));
            match old {
                Ok(false) => continue,
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(fault("look at", &path, source));
                }
                Ok(true) | Err(_) => {}
            }
            durable::remove(&path).map_err(|source| fault("remove", &path, source))?;
            state.contents.remove(&content);
            removed += 1;
        }
        Ok(removed)
    }

    fn digest_of(&self, kind: FileKind, content: &[u8]) -> String {
        match kind {
            FileKind::Config => {
                HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, content).as_ref())
            }
            FileKind::Secret => HEXLOWER.encode(&self.inner.keys.digest(content)),
        }
    }

    /// The file of a content, and what its encryption binds it to.
    fn content_path(&self, kind: FileKind, digest: &str) -> (PathBuf, String) {
        let what = format!("{CONTENTS}/{}-{digest}", letter(kind));
        (self.inner.folder.join(&what), what)
    }

    fn name_path(&self, kind: FileKind, name: &str) -> (PathBuf, String) {
        let what = format!("{NAMES}/{}-{name}", letter(kind));
        (self.inner.folder.join(&what), what)
    }

    fn write_sealed(&self, path: &Path, what: &str, content: &[u8]) -> Result<(), VaultError> {
        let sealed = self
            .inner
            .keys
            .seal(what, content)
            .map_err(|reason| VaultError::Encrypt { reason })?;
        let mut bytes = MAGIC.to_vec();
        bytes.push(FORMAT);
        bytes.extend(sealed);
        durable::replace(path, &bytes).map_err(|source| fault("write", path, source))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is known is changed after the disk, by single inserts and removes.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents for Vault {
    fn digest(&self, kind: FileKind, content: &[u8]) -> String {
        self.digest_of(kind, content)
    }

    fn named(&self, kind: FileKind, name: &str) -> Option<Named> {
        let key = (kind, name.to_owned());
        let state = self.lock();
        state.names.get(&key).map(|entry| Named {
            digest: entry.digest.clone(),
            size_bytes: entry.size_bytes,
        })
    }
}

fn letter(kind: FileKind) -> char {
    match kind {
        FileKind::Config => 'c',
        FileKind::Secret => 's',
    }
}

/// The kind and the rest of a file's name; none for what is not ours, such as a
/// file that a crash left half written.
fn kind_of(name: &str) -> Option<(FileKind, &str)> {
    let kind = match name.split_once('-')? {
        ("c", rest) => (FileKind::Config, rest),
        ("s", rest) => (FileKind::Secret, rest),
        _ => return None,
    };
    (!name.ends_with(durable::PARTIAL)).then_some(kind)
}

fn content_of(name: &str) -> Option<(FileKind, String)> {
    let (kind, digest) = kind_of(name)?;
    let is_digest = HEXLOWER
        .decode(digest.as_bytes())
        .is_ok_and(|d| d.len() == 32);
    is_digest.then(|| (kind, digest.to_owned()))
}

/// A name is a file's name too, so nothing in it climbs; and it is none that a
/// half-written file has.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && !name.ends_with(durable::PARTIAL)
}

/// Says which key wrote the vault; or checks that it is ours.
fn check_header(folder: &Path, keys: &Keys) -> Result<(), VaultError> {
    let path = folder.join(HEADER);
    let mut expected = MAGIC.to_vec();
    expected.push(FORMAT);
    expected.extend(keys.id());
    let Some(found) = read_bounded(&path)? else {
        return durable::replace(&path, &expected).map_err(|source| fault("write", &path, source));
    };
    let body = body_of(&path, &found)?;
    if body.len() != keys.id().len() {
        return Err(damaged(&path, "it has another length"));
    }
    if body != keys.id() {
        return Err(VaultError::WrongKey {
            path: folder.to_owned(),
        });
    }
    Ok(())
}

/// What comes behind magic and format.
fn body_of<'b>(path: &Path, bytes: &'b [u8]) -> Result<&'b [u8], VaultError> {
    let body = bytes
        .strip_prefix(&MAGIC)
        .ok_or_else(|| damaged(path, "it does not begin as a file of the vault"))?;
    match body.split_first() {
        Some((&FORMAT, body)) => Ok(body),
        Some((&found, _)) if found > FORMAT => Err(VaultError::Newer {
            path: path.to_owned(),
            found,
        }),
        Some(_) | None => Err(damaged(path, "it names no format")),
    }
}

fn read_sealed(path: &Path, keys: &Keys, what: &str) -> Result<Option<Plain>, VaultError> {
    let Some(bytes) = read_bounded(path)? else {
        return Ok(None);
    };
    let body = body_of(path, &bytes)?;
    let content = keys
        .open(what, body)
        .ok_or_else(|| damaged(path, "it does not decrypt"))?;
    Ok(Some(Plain(Zeroizing::new(content))))
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, VaultError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fault("open", path, source)),
    };
    let most = (FILE_BYTES_MAX + OVERHEAD_BYTES) as u64;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| fault("read", path, source))?;
    if bytes.len() as u64 > most {
        return Err(damaged(path, "it is too large"));
    }
    Ok(Some(bytes))
}

fn list(folder: &Path) -> Result<Vec<String>, VaultError> {
    let failed = |source| fault("list", folder, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn system_time(now: UnixMillis) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(now.0)
}

fn fault(step: &'static str, path: &Path, source: io::Error) -> VaultError {
    VaultError::File {
        step,
        path: path.to_owned(),
        source,
    }
}

fn damaged(path: &Path, reason: &'static str) -> VaultError {
    VaultError::Damaged {
        path: path.to_owned(),
        reason,
    }
}
