//! Files that are whole or not there.
//!
//! **Invariant:** after a crash at any point a path has its old content or its new
//! one, and what this returned from is on the disk. Files are for their owner
//! alone (0600).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The end of the name of a file that is being written. A crash leaves at most one
/// for each path, which the next write to that path clears.
pub(crate) const PARTIAL: &str = ".partial";

/// Writes a file, replacing an older one in one step.
///
/// # Errors
/// When the disk does not do it; the old content is there then.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    // A leftover of a crash may have another mode; start from nothing.
    remove(&partial)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    if let Err(error) = written {
        // The disk may be full: what was written so far is in the way.
        drop(fs::remove_file(&partial));
        return Err(error);
    }
    rename(&partial, path)
}

/// Moves a file that is synced to its place.
///
/// # Errors
/// When the disk does not do it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder_of(to)
}

/// Makes a folder that only its owner may enter, and those above it. One that is there
/// is fine.
///
/// # Errors
/// When the disk does not do it.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The files below a folder, by their path in it, in order; none where there is no
/// folder. What is being written is left out.
///
/// # Errors
/// When the disk does not say it.
pub(crate) fn files_below(folder: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(below) = waiting.pop() {
        let entries = match fs::read_dir(folder.join(&below)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            let Ok(own) = entry.file_name().into_string() else {
                continue;
            };
            let name = if below.is_empty() {
                own
            } else {
                format!("{below}/{own}")
            };
            if kind.is_dir() {
                waiting.push(name);
            } else if kind.is_file() && !name.ends_with(PARTIAL) {
                files.push(name);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Gives the files below a folder a second name each below another one: for files that
/// are never changed in place. What has it already, or is taken away meanwhile, is
/// passed over. Not synced.
///
/// # Errors
/// When the disk does not do it, with the name that it is about.
pub(crate) fn hold_below(from: &Path, into: &Path) -> io::Result<()> {
    for name in files_below(from)? {
        let (path, to) = (from.join(&name), into.join(&name));
        let held = to.parent().map_or(Ok(()), make_private);
        match held.and_then(|()| hold(&path, &to)) {
            Err(error) if !is_gone_or_held(&error) => {
                let said = format!("{}: {error}", to.display());
                return Err(io::Error::new(error.kind(), said));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A copy where the disk is another one, or gives no second name.
fn hold(path: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(path, to).or_else(|error| {
        if is_gone_or_held(&error) {
            return Err(error);
        }
        fs::copy(path, to).map(drop)
    })
}

fn is_gone_or_held(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
    )
}

/// Removes a folder with what is in it; one that is not there is fine.
///
/// # Errors
/// When the disk does not do it; some of it may be left then.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes all that was written to a folder's file system outlive a power cut.
///
/// # Errors
/// When the disk does not do it.
pub(crate) fn sync_all_of(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// When the disk does not do it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How many bytes may still be written where a path lies.
///
/// # Errors
/// When the file system does not say it.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one").unwrap();
        fs::write(folder.path().join("a.partial"), b"left over").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn what_is_held_stays_when_its_first_name_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (folder.path().join("from"), folder.path().join("into"));
        assert_eq!(files_below(&from).unwrap(), Vec::<String>::new());
        make_private(&from.join("b")).unwrap();
        for name in ["b/2", "a", "c.partial"] {
            fs::write(from.join(name), name).unwrap();
        }
        hold_below(&from, &into).unwrap();
        fs::write(from.join("z"), "later").unwrap();
        hold_below(&from, &into).unwrap();
        remove_tree(&from).unwrap();
        remove_tree(&from).unwrap();
        assert_eq!(files_below(&into).unwrap(), ["a", "b/2", "z"]);
        assert_eq!(fs::read(into.join("b/2")).unwrap(), b"b/2");
        fs::write(&from, "no folder").unwrap();
        assert!(files_below(&from).is_err());
    }

    #[test]
    fn a_folder_that_is_gone_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/a");
        assert!(replace(&path, b"one").is_err());
    }
}
