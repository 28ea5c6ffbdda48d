//! What may be in an archive of a release. Who signs one and who unpacks it judge by
//! the same, so that nothing is signed that nodes refuse.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{ARCHIVE_FILES_MAX, PROGRAM};

/// Files and folders in an archive.
const ENTRIES_MAX: usize = 2 * ARCHIVE_FILES_MAX;

/// Bytes of a tar beside its files' content: a header and padding for each entry, and
/// the last record, which programs fill up to 20 blocks (POSIX.1-2017, pax, ustar).
pub const TAR_OVERHEAD_BYTES: u64 = ENTRIES_MAX as u64 * 2 * 512 + 20 * 512;

/// Folders below one another.
const DEPTH_MAX: usize = 4;

/// What the header of an entry says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with content of its own.
    File,
    /// A folder.
    Folder,
    /// Anything else, a header that extends another one included, by the type that it
    /// has in the archive.
    Other(u8),
}

/// The entries of an archive, judged one after another by their headers alone.
#[derive(Clone, Debug)]
pub struct Entries {
    names: BTreeSet<PathBuf>,
    count: usize,
    bytes_max: u64,
    bytes: u64,
}

impl Entries {
    /// Those of an archive whose files may have so many bytes together.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            names: BTreeSet::new(),
            count: 0,
            bytes_max,
            bytes: 0,
        }
    }

    /// Takes the next entry. Returns where its file lies below the folder of the
    /// archive; none is a folder.
    ///
    /// # Errors
    /// Why the archive is refused, as text.
    pub fn take(
        &mut self,
        name: &[u8],
        kind: EntryKind,
        size: u64,
    ) -> Result<Option<PathBuf>, String> {
        if self.count >= ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} files and folders"));
        }
        self.count += 1;
        let name = plain(name)?;
        let shown = name.display();
        match kind {
            EntryKind::Folder if size == 0 => return Ok(None),
            EntryKind::File => {}
            EntryKind::Folder => {
                return Err(format!("{shown} is no plain file (a folder with content)"));
            }
            EntryKind::Other(kind) => {
                let kind = char::from(kind);
                return Err(format!("{shown} is no plain file (type {kind:?})"));
            }
        }
        if self.names.len() >= ARCHIVE_FILES_MAX {
            return Err(format!("it has more than {ARCHIVE_FILES_MAX} files"));
        }
        if !self.names.insert(name.clone()) {
            return Err(format!("{shown} is in it twice"));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.bytes_max {
            let most = self.bytes_max;
            return Err(format!(
                "it has more than the {most} bytes that it may have"
            ));
        }
        Ok(Some(name))
    }

    /// After the last entry: the bytes of all files.
    ///
    /// # Errors
    /// Why the archive is refused, as text.
    pub fn end(&self) -> Result<u64, String> {
        if self.names.contains(Path::new(PROGRAM)) {
            Ok(self.bytes)
        } else {
            Err(format!("there is no {PROGRAM} in it"))
        }
    }
}

/// A path that leads to nowhere but down.
fn plain(raw: &[u8]) -> Result<PathBuf, String> {
    let text = core::str::from_utf8(raw).map_err(|_| "a name in it is no UTF-8")?;
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(format!("{text:?} leads out of it"));
            }
        }
    }
    let hidden = path
        .components()
        .any(|part| part.as_os_str().to_string_lossy().starts_with('.'));
    if path.components().count() > DEPTH_MAX || text.contains('\0') || hidden {
        return Err(format!("{text:?} is no name of a file of a release"));
    }
    Ok(path)
}
