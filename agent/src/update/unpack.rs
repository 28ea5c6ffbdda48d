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
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use protocol::ErrorCode;
use protocol::release::PROGRAM;
use protocol::release::entries::{Entries, EntryKind, TAR_OVERHEAD_BYTES};
use tar::Archive;

use crate::durable;

/// Bytes copied at a time.
const COPY_BYTES: usize = 64 * 1024;

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
    let mut judged = Entries::new(bytes_max);
    let mut folders = BTreeSet::from([into.to_owned()]);
    // Raw: headers that extend others (long names, pax) would be read into memory
    // whole, however large. They come as entries, and are refused as such.
    for entry in tar.entries().map_err(|error| damaged(&error))?.raw(true) {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        let kind = match entry.header().entry_type() {
            kind if kind.is_file() => EntryKind::File,
            kind if kind.is_dir() => EntryKind::Folder,
            kind => EntryKind::Other(kind.as_byte()),
        };
        let size = entry.size();
        let taken = judged.take(&entry.path_bytes(), kind, size);
        if let Some(name) = taken.map_err(invalid)? {
            make_folders(into, &name, &mut folders)?;
            write(&mut entry, &into.join(&name), size, &name)?;
        }
    }
    judged.end().map_err(invalid)?;
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
