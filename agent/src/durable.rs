//! Files and folders on disk. What is written outlives a power cut; what is removed is
//! gone for good once its folder was synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes a folder that only its owner may enter, and those above it.
///
/// # Errors
/// What the system says.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file of its owner alone, from nothing.
///
/// # Errors
/// What the system says; some of it may be written then.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file in a folder in one step.
///
/// # Errors
/// What the system says; the old content is there then.
pub(crate) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = folder.join(format!(".{name}.new"));
    write(&fresh, bytes)?;
    fs::rename(&fresh, folder.join(name))?;
    sync(folder)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the system says.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// What the system says.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    unless_absent(fs::remove_file(path))
}

/// Removes a folder with what is in it; one that is not there is fine.
///
/// # Errors
/// What the system says; some of it may be left then.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    unless_absent(fs::remove_dir_all(path))
}

fn unless_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
