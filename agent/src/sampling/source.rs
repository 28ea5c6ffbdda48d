//! Where the collectors read: the kernel's text files below `/proc` and `/sys`.
//!
//! Owns the two roots, so that tests read recorded files, and one buffer, so
//! that a sample costs no allocation a file.
//!
//! A file that is not there is no failure: kernels, containers and boards differ
//! in what they offer, and a series without a source is simply absent. A file
//! that cannot be read, or says something else than its format, is one.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Most that is read of one file. The largest, `/proc/stat` of a machine with
/// hundreds of CPUs and interrupts, stays below it; what is cut is its tail.
const FILE_BYTES_MAX: u64 = 256 * 1_024;

/// Why a collector has nothing to say.
#[derive(Debug, Error)]
pub(super) enum CollectError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file does not say what its format promises.
    #[error("{path} has no {what}")]
    Malformed { path: PathBuf, what: &'static str },
}

/// The roots and the buffer.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) proc: PathBuf,
    pub(super) sys: PathBuf,
    text: String,
}

impl Source {
    /// The running host's.
    pub(super) fn host() -> Self {
        Self::at(Path::new("/"))
    }

    /// Those below another root.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            sys: root.join("sys"),
            text: String::new(),
        }
    }

    /// Reads a file below `/proc`; `None` when there is none.
    pub(super) fn proc(&mut self, file: &str) -> Result<Option<File<'_>>, CollectError> {
        let path = self.proc.join(file);
        self.read(path)
    }

    /// Reads a file below `/sys`; `None` when there is none.
    pub(super) fn sys(&mut self, file: &str) -> Result<Option<File<'_>>, CollectError> {
        let path = self.sys.join(file);
        self.read(path)
    }

    /// The number that a file below `/sys` holds; `None` when there is no file,
    /// or it holds a word (`max`).
    pub(super) fn sys_number(&mut self, file: &str) -> Option<u64> {
        self.sys(file).ok().flatten()?.text.trim().parse().ok()
    }

    fn read(&mut self, path: PathBuf) -> Result<Option<File<'_>>, CollectError> {
        self.text.clear();
        let opened = match std::fs::File::open(&path) {
            Ok(opened) => opened,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(CollectError::Read { path, source }),
        };
        match opened.take(FILE_BYTES_MAX).read_to_string(&mut self.text) {
            Ok(_) => Ok(Some(File {
                path,
                text: &self.text,
            })),
            // PSI compiled in and switched off answers EOPNOTSUPP on reading.
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(CollectError::Read { path, source }),
        }
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::PermissionDenied
            | ErrorKind::Unsupported
    )
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct File<'a> {
    path: PathBuf,
    pub(super) text: &'a str,
}

impl File<'_> {
    /// The error that this file lacks something.
    pub(super) fn lacks(&self, what: &'static str) -> CollectError {
        CollectError::Malformed {
            path: self.path.clone(),
            what,
        }
    }

    /// The number that follows a key at the beginning of a line.
    pub(super) fn number_after(&self, key: &str) -> Option<u64> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
    }
}

/// The first `N` counts of a line; `None` when one is missing or no number.
pub(super) fn counts_of<'a, const N: usize>(
    mut fields: impl Iterator<Item = &'a str>,
) -> Option<[u64; N]> {
    let mut counts = [0; N];
    for count in &mut counts {
        *count = fields.next()?.parse().ok()?;
    }
    Some(counts)
}
