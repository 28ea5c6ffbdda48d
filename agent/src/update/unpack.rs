//! Unpacks the archive of a release.
//!
//! The archive has the digest that a signed manifest names. It is still read as if
//! anybody had made it: a release key that is lost must not write where it likes.
//!
//! **Invariant:** nothing is written outside of the folder that is made for it, no
//! more than the manifest says, and after a failure the folder is gone.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Take, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::GzDecoder;
use protocol::ErrorCode;
use protocol::release::{ARCHIVE_FILES_MAX, PROGRAM};
use tar::{Archive, EntryType};

use crate::durable;

/// Files and folders in an archive.
const ENTRIES_MAX: usize = 2 * ARCHIVE_FILES_MAX;

/// Bytes of a tar beside its files' content: a header and padding for each entry, and
/// the last record, which programs fill up to 20 blocks (POSIX.1-2017, pax, ustar).
const TAR_OVERHEAD_BYTES: u64 = ENTRIES_MAX as u64 * 2 * 512 + 20 * 512;

/// Bytes copied at a time.
const COPY_BYTES: usize = 64 * 1024;

/// Folders below one another.
const DEPTH_MAX: usize = 4;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what a release's archive is.
    #[error("the archive is refused: {0}")]
    Invalid(String),
    /// The disk does not take it.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl UnpackError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::ReleaseInvalid,
            Self::Disk { .. } => ErrorCode::UpdateFailed,
        }
    }
}

fn invalid(detail: impl Into<String>) -> UnpackError {
    UnpackError::Invalid(detail.into())
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Disk { path, source }
}

fn damaged(error: &io::Error) -> UnpackError {
    invalid(format!("it cannot be read: {error}"))
}

/// Unpacks an archive into a folder that is not there, and syncs all of it. It blocks.
///
/// # Errors
/// [`UnpackError`]; the folder is gone then.
pub fn unpack(archive: &Path, into: &Path, bytes_max: u64) -> Result<(), UnpackError> {
    let file = File::open(archive).map_err(disk(archive))?;
    DirBuilder::new()
        .mode(0o700)
        .create(into)
        .map_err(disk(into))?;
    let unpacked = read(file, into, bytes_max);
    if unpacked.is_err() {
        drop(fs::remove_dir_all(into));
    }
    unpacked
}

fn read(file: File, into: &Path, bytes_max: u64) -> Result<(), UnpackError> {
    // A bomb ends here, whatever its headers say.
    let bound = bytes_max.saturating_add(TAR_OVERHEAD_BYTES);
    let plain = GzDecoder::new(BufReader::new(file)).take(bound);
    let mut tar = Archive::new(plain);
    let folders = read_entries(&mut tar, into, bytes_max)?;
    nothing_follows(tar.into_inner())?;
    for folder in folders {
        durable::sync(&folder).map_err(disk(&folder))?;
    }
    Ok(())
}

/// Writes the files, and says in which folders they are.
fn read_entries(
    tar: &mut Archive<impl Read>,
    into: &Path,
    bytes_max: u64,
) -> Result<BTreeSet<PathBuf>, UnpackError> {
    let mut left = bytes_max;
    let mut names = BTreeSet::new();
    let mut folders = BTreeSet::from([into.to_owned()]);
    // Raw: headers that extend others (long names, pax) would be read into memory
    // whole, however large. They come as entries, and are refused as such.
    let entries = tar.entries().map_err(|error| damaged(&error))?.raw(true);
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        if count >= ENTRIES_MAX {
            return Err(invalid(format!(
                "it has more than {ENTRIES_MAX} files and folders"
            )));
        }
        let kind = entry.header().entry_type();
        let name = plain(&entry.path_bytes())?;
        let size = entry.size();
        if kind == EntryType::Directory && size == 0 {
            continue;
        }
        if kind != EntryType::Regular {
            let shown = name.display();
            return Err(invalid(format!("{shown} is no plain file ({kind:?})")));
        }
        if names.len() >= ARCHIVE_FILES_MAX {
            return Err(invalid(format!(
                "it has more than {ARCHIVE_FILES_MAX} files"
            )));
        }
        if !names.insert(name.clone()) {
            return Err(invalid(format!("{} is in it twice", name.display())));
        }
        left = left.checked_sub(size).ok_or_else(|| {
            invalid(format!(
                "its files have more than the {bytes_max} bytes that the manifest says"
            ))
        })?;
        make_folders(into, &name, &mut folders)?;
        write(&mut entry, &into.join(&name), size, &name)?;
    }
    if !names.contains(Path::new(PROGRAM)) {
        return Err(invalid(format!("there is no {PROGRAM} in it")));
    }
    Ok(folders)
}

/// Zeroes fill up the last record, then the gzip member ends (its checksum is right),
/// and the file with it.
fn nothing_follows(mut rest: Take<GzDecoder<BufReader<File>>>) -> Result<(), UnpackError> {
    let mut after = [0; COPY_BYTES];
    loop {
        let count = rest.read(&mut after).map_err(|error| damaged(&error))?;
        if count == 0 {
            break;
        }
        if after.iter().take(count).any(|byte| *byte != 0) {
            return Err(invalid("something follows its end"));
        }
    }
    let mut member = rest.into_inner();
    let more = member.read(&mut [0]).map_err(|error| damaged(&error))?;
    let mut file = member.into_inner();
    let bytes = file.fill_buf().map_err(|error| damaged(&error))?;
    if more > 0 || !bytes.is_empty() {
        return Err(invalid("something follows its end"));
    }
    Ok(())
}

/// A path that leads to nowhere but down.
fn plain(raw: &[u8]) -> Result<PathBuf, UnpackError> {
    let text = core::str::from_utf8(raw).map_err(|_| invalid("a name in it is no UTF-8"))?;
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(invalid(format!("{text:?} leads out of it")));
            }
        }
    }
    let hidden = path
        .components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with('.'));
    if path.components().count() > DEPTH_MAX || text.contains('\0') || hidden {
        return Err(invalid(format!(
            "{text:?} is no name of a file of a release"
        )));
    }
    Ok(path)
}

fn make_folders(
    into: &Path,
    name: &Path,
    folders: &mut BTreeSet<PathBuf>,
) -> Result<(), UnpackError> {
    let mut folder = into.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        if folders.insert(folder.clone()) {
            DirBuilder::new()
                .mode(0o755)
                .create(&folder)
                .map_err(|error| {
                    if error.kind() == io::ErrorKind::AlreadyExists {
                        invalid(format!("{} is a file and a folder", name.display()))
                    } else {
                        disk(&folder)(error)
                    }
                })?;
        }
    }
    Ok(())
}

fn write(entry: &mut impl Read, path: &Path, size: u64, name: &Path) -> Result<(), UnpackError> {
    let mode = if name == Path::new(PROGRAM) {
        0o755
    } else {
        0o644
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                invalid(format!("{} is a file and a folder", name.display()))
            } else {
                disk(path)(error)
            }
        })?;
    let mut part = vec![0; COPY_BYTES];
    let mut copied = 0_u64;
    loop {
        let count = entry.read(&mut part).map_err(|error| damaged(&error))?;
        let Some(read) = part.get(..count).filter(|read| !read.is_empty()) else {
            break;
        };
        copied += u64::try_from(count).unwrap_or(u64::MAX);
        file.write_all(read).map_err(disk(path))?;
    }
    if copied != size {
        let shown = name.display();
        return Err(invalid(format!(
            "{shown} ends after {copied} of {size} bytes"
        )));
    }
    // The mode above was cut by the umask.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    file.set_permissions(permissions).map_err(disk(path))?;
    file.sync_all().map_err(disk(path))
}
