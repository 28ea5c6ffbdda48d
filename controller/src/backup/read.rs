//! Reading a backup: into a folder that is laid out as a state directory.
//!
//! **Invariant:** nothing is written outside of the folder, every entry is one that a
//! backup has, none stands twice, and what was read to its end was encrypted to its
//! end: a file that is cut short is refused, wherever it is cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use age::DecryptError;
use zeroize::Zeroizing;

use super::error::{failed, invalid};
use super::{BackupError, FORMAT, INTAKE, JOURNAL, MANIFEST, Manifest, key};
use crate::durable;
use crate::journal::Journal;
use crate::layout;
use crate::rows::{CHUNK_BYTES_MAX, Loading};
use crate::uplink::intake::Intake;

/// Bytes of the manifest and of the fleet's id that are read.
const TEXT_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a key file or certificate that are read.
const KEY_BYTES_MAX: u64 = 256 * 1024;

/// Bytes of the window that a frame may ask for, as a power of two: the default of
/// zstd's own tool.
const WINDOW_LOG_MAX: u32 = 27;

/// Reads a backup into a folder that is not there: `pki`, and the rest as in a state
/// directory. After an error what is there is of no use.
pub(super) fn unpack(file: &Path, key: &Path, into: &Path) -> Result<Manifest, BackupError> {
    let plain = decrypt(file, key)?;
    let damaged = |error: io::Error| invalid(file, error);
    let mut frame = zstd::Decoder::new(plain).map_err(damaged)?;
    frame.window_log_max(WINDOW_LOG_MAX).map_err(damaged)?;
    let mut unpacking = Unpacking::new(file, into)?;
    let mut tar = tar::Archive::new(frame);
    for entry in tar.entries().map_err(damaged)? {
        unpacking.take(&mut entry.map_err(damaged)?)?;
    }
    // Behind the archive's end comes the end of the frame and of the encryption, which
    // is the proof that nothing is missing.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(damaged)?;
    unpacking.end()
}

fn decrypt(
    file: &Path,
    key: &Path,
) -> Result<age::stream::StreamReader<BufReader<File>>, BackupError> {
    let keys = key::read(key)?;
    let opened = File::open(file).map_err(failed("open", file))?;
    age::Decryptor::new_buffered(BufReader::new(opened))
        .and_then(|sealed| sealed.decrypt(keys.iter().map(|key| key as &dyn age::Identity)))
        .map_err(|error| {
            if matches!(error, DecryptError::NoMatchingKeys) {
                BackupError::KeyWrong {
                    key: key.to_owned(),
                    path: file.to_owned(),
                }
            } else {
                invalid(file, error)
            }
        })
}

/// What has been unpacked so far.
struct Unpacking<'f> {
    file: &'f Path,
    into: &'f Path,
    manifest: Option<Manifest>,
    journal: Option<Loading>,
    intake: Option<Loading>,
}

impl<'f> Unpacking<'f> {
    fn new(file: &'f Path, into: &'f Path) -> Result<Self, BackupError> {
        // Never one that is there: in a folder for everybody it could be somebody else's.
        DirBuilder::new()
            .mode(0o700)
            .create(into)
            .map_err(failed("make", into))?;
        Ok(Self {
            file,
            into,
            manifest: None,
            journal: None,
            intake: None,
        })
    }

    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), BackupError> {
        let path = entry.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&path).into_owned();
        let parts: Vec<&str> = name.split('/').collect();
        if entry.header().entry_type() != tar::EntryType::Regular
            || !parts.iter().all(|part| is_plain(part))
        {
            return Err(self.unexpected(&name));
        }
        if self.manifest.is_none() {
            return self.begin(&name, entry);
        }
        match *parts.as_slice() {
            [layout::FLEET_FILE] => self.write(&name, entry, TEXT_BYTES_MAX),
            [layout::PKI, _] => self.write(&name, entry, KEY_BYTES_MAX),
            [JOURNAL, table, _] => {
                let path = self.into.join(layout::JOURNAL_FILE);
                let loading = once(&mut self.journal, || Ok(Journal::load(&path)?))?;
                put_rows(self.file, loading, "journal", table, entry)
            }
            [INTAKE, table, _] => {
                let path = self.into.join(layout::INTAKE_FILE);
                let loading = once(&mut self.intake, || Ok(Intake::load(&path)?))?;
                put_rows(self.file, loading, "intake", table, entry)
            }
            [layout::VAULT, _] | [layout::VAULT, _, _] => self.write(&name, entry, CHUNK_BYTES_MAX),
            [layout::ARCHIVES | layout::RELEASES, _] => self.write(&name, entry, u64::MAX),
            _ => Err(self.unexpected(&name)),
        }
    }

    fn begin(&mut self, name: &str, entry: &mut impl Read) -> Result<(), BackupError> {
        if name != MANIFEST {
            return Err(self.invalid("it does not begin with what it is"));
        }
        let bytes = read_bounded(self.file, entry, TEXT_BYTES_MAX)?;
        // The format before the rest, which another one may spell differently.
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| self.invalid(error))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let format = format.and_then(|format| u32::try_from(format).ok());
        let newer = |what, found| BackupError::Newer {
            path: self.file.to_owned(),
            what,
            found,
        };
        if let Some(found) = format.filter(|format| *format > FORMAT) {
            return Err(newer("format", found));
        }
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|error| self.invalid(error))?;
        if manifest.layout > layout::FORMAT {
            return Err(newer("state of format", manifest.layout));
        }
        self.manifest = Some(manifest);
        Ok(())
    }

    /// The manifest, when everything is there that a controller cannot make anew.
    fn end(self) -> Result<Manifest, BackupError> {
        let needed = [
            layout::FLEET_FILE.to_owned(),
            layout::JOURNAL_FILE.to_owned(),
            layout::INTAKE_FILE.to_owned(),
        ];
        let keys = crate::pki::REQUIRED.map(|name| format!("{}/{name}", layout::PKI));
        for name in needed.iter().chain(&keys) {
            let path = self.into.join(name);
            // redb makes files as the umask says.
            let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
            private.map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    return self.invalid(format!("there is no {name} in it"));
                }
                failed("close to others", &path)(source)
            })?;
        }
        let nothing = self.invalid("it is empty");
        let manifest = self.manifest.ok_or(nothing)?;
        layout::write_format(self.into, manifest.layout)
            .map_err(failed("write", &self.into.join(layout::FORMAT_FILE)))?;
        Ok(manifest)
    }

    fn write(&self, name: &str, entry: &mut impl Read, bytes_max: u64) -> Result<(), BackupError> {
        let path = self.into.join(name);
        if let Some(folder) = path.parent() {
            durable::make_private(folder).map_err(failed("make", folder))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| {
                if source.kind() == io::ErrorKind::AlreadyExists {
                    return self.unexpected(name);
                }
                failed("make", &path)(source)
            })?;
        let mut entry = entry.take(bytes_max.saturating_add(1));
        let written = copy(&mut entry, &mut file).map_err(|error| match error {
            Copying::Read(error) => self.invalid(error),
            Copying::Write(error) => failed("write", &path)(error),
        })?;
        if written > bytes_max {
            return Err(self.invalid(format!("{name} is too large")));
        }
        Ok(())
    }

    fn unexpected(&self, name: &str) -> BackupError {
        let name: String = name.chars().take(128).collect();
        self.invalid(format!("it has an entry {name:?}"))
    }

    fn invalid(&self, reason: impl ToString) -> BackupError {
        invalid(self.file, reason)
    }
}

/// What is there, or what is made now.
fn once<T>(
    place: &mut Option<T>,
    make: impl FnOnce() -> Result<T, BackupError>,
) -> Result<&T, BackupError> {
    Ok(match place {
        Some(there) => there,
        None => place.insert(make()?),
    })
}

fn put_rows(
    file: &Path,
    loading: &Loading,
    what: &'static str,
    table: &str,
    entry: &mut impl Read,
) -> Result<(), BackupError> {
    let chunk = Zeroizing::new(read_bounded(file, entry, CHUNK_BYTES_MAX)?);
    loading
        .put(table, &chunk)
        .map_err(|source| BackupError::Rows { what, source })
}

fn read_bounded(
    file: &Path,
    entry: &mut impl Read,
    bytes_max: u64,
) -> Result<Vec<u8>, BackupError> {
    let mut bytes = Vec::new();
    entry
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| invalid(file, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(invalid(file, "an entry is too large"));
    }
    Ok(bytes)
}

/// A name that is a file's own: no way up, nothing hidden, nothing of a shell's.
fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Which side of a copy failed: a damaged backup, or a full disk.
enum Copying {
    Read(io::Error),
    Write(io::Error),
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<u64, Copying> {
    let mut buffer = vec![0; 256 * 1024];
    let mut copied = 0;
    loop {
        let read = from.read(&mut buffer).map_err(Copying::Read)?;
        if read == 0 {
            return Ok(copied);
        }
        io::Write::write_all(to, &buffer[..read]).map_err(Copying::Write)?;
        copied += read as u64;
    }
}

/// A folder that is removed again, with all that is in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A folder that is not there yet: another one's leftovers are cleared.
    pub(super) fn new(path: PathBuf) -> Result<Self, BackupError> {
        durable::remove_tree(&path).map_err(failed("clear", &path))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "what was unpacked stays");
        }
    }
}
