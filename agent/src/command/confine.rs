//! Opening a file below an allowed root, and nothing else.
//!
//! Every component is opened relative to the one before it and never follows a
//! link, so a path cannot leave its root however the tree changes meanwhile.
//! **Invariant:** what is returned is a regular file on a real filesystem with
//! one name only; devices, pipes, sockets, /proc and /sys are refused before a
//! byte is read. It fails with a [`ConfineError`] that names the path.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// `SYSFS_MAGIC` of linux/magic.h, which rustix does not name.
const SYSFS_MAGIC: u64 = 0x6265_6572;
/// `DEBUGFS_MAGIC` of linux/magic.h.
const DEBUGFS_MAGIC: u64 = 0x6462_6720;
/// `TRACEFS_MAGIC` of linux/magic.h.
const TRACEFS_MAGIC: u64 = 0x7472_6163;

/// A directory below which log files may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRoot(PathBuf);

impl LogRoot {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Why a log root in the configuration is no good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLogRootError {
    /// A relative path has no meaning for a service.
    #[error("log root {0:?} is not an absolute path")]
    Relative(String),
    /// `..` hides which directory is meant.
    #[error("log root {0:?} has a component that is not a plain name")]
    NotPlain(String),
    /// The whole system, or a tree that is not made of files.
    #[error("log root {0:?} is not a directory for logs")]
    TooWide(String),
}

impl FromStr for LogRoot {
    type Err = ParseLogRootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(ParseLogRootError::Relative(text.to_owned()));
        }
        if path
            .components()
            .any(|part| !matches!(part, Component::RootDir | Component::Normal(_)))
        {
            return Err(ParseLogRootError::NotPlain(text.to_owned()));
        }
        let refused = ["/", "/proc", "/sys", "/dev", "/etc", "/boot"];
        if refused
            .iter()
            .any(|tree| path == Path::new(tree) || (*tree != "/" && path.starts_with(tree)))
        {
            return Err(ParseLogRootError::TooWide(text.to_owned()));
        }
        Ok(Self(path.components().collect()))
    }
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error("path {0:?} is not an absolute path of plain names")]
    NotPlain(PathBuf),
    #[error("path {0:?} is not below an allowed log root")]
    OutsideRoots(PathBuf),
    #[error("path {0:?} goes through a symbolic link")]
    Link(PathBuf),
    #[error("path {0:?} does not exist")]
    Missing(PathBuf),
    #[error("path {0:?} is not a regular file with one name")]
    NotRegular(PathBuf),
    #[error("cannot open {path:?}")]
    Open {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Opens `path` for reading when it lies below one of `roots`.
pub(crate) fn open(roots: &[LogRoot], path: &Path) -> Result<File, ConfineError> {
    let names = plain_names(path).ok_or_else(|| ConfineError::NotPlain(path.to_owned()))?;
    let plain: PathBuf = Path::new("/").join(names.iter().collect::<PathBuf>());
    let root = roots
        .iter()
        .filter(|root| plain != root.path() && plain.starts_with(root.path()))
        .max_by_key(|root| root.path().components().count())
        .ok_or_else(|| ConfineError::OutsideRoots(path.to_owned()))?;
    let below = plain
        .strip_prefix(root.path())
        .map_err(|_| ConfineError::OutsideRoots(path.to_owned()))?;
    let file = open_below(root.path(), below).map_err(|errno| refusal(path, errno))?;
    check(&file, path)?;
    Ok(File::from(file))
}

/// Opens a regular file that the node's own configuration names.
pub(crate) fn open_named(path: &Path) -> Result<File, ConfineError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refusal(path, errno))?;
    check(&file, path)?;
    Ok(File::from(file))
}

fn plain_names(path: &Path) -> Option<Vec<&std::ffi::OsStr>> {
    // `components` drops `.` and doubled slashes silently: what remains is
    // what is opened, so they are harmless. `..` is refused.
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    parts
        .map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        })
        .collect()
}

fn open_below(root: &Path, below: &Path) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The root itself is the configuration's word and may be a link.
    let mut at = rustix::fs::open(root, folder, Mode::empty())?;
    let mut names = below.components().peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() {
            folder | OFlags::NOFOLLOW
        } else {
            // NONBLOCK: opening a pipe nobody writes to must not hang.
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
        };
        at = rustix::fs::openat(&at, name.as_os_str(), flags, Mode::empty())?;
    }
    Ok(at)
}

fn refusal(path: &Path, errno: Errno) -> ConfineError {
    let path = path.to_owned();
    match errno {
        Errno::NOENT => ConfineError::Missing(path),
        // A link to a directory opened with O_DIRECTORY | O_NOFOLLOW says
        // ENOTDIR, a final link says ELOOP.
        Errno::LOOP | Errno::NOTDIR => ConfineError::Link(path),
        // A socket or a device without a driver.
        Errno::NXIO | Errno::NODEV => ConfineError::NotRegular(path),
        source => ConfineError::Open { path, source },
    }
}

fn check(file: &OwnedFd, path: &Path) -> Result<(), ConfineError> {
    let wrap = |source| ConfineError::Open {
        path: path.to_owned(),
        source,
    };
    let stat = rustix::fs::fstat(file).map_err(wrap)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    // A second name may be one that the root does not show, such as a hard
    // link to a private file made in a directory where others may write.
    if !regular || stat.st_nlink != 1 {
        return Err(ConfineError::NotRegular(path.to_owned()));
    }
    let filesystem = rustix::fs::fstatfs(file).map_err(wrap)?;
    let kernel_made = [
        rustix::fs::PROC_SUPER_MAGIC as u64,
        SYSFS_MAGIC,
        DEBUGFS_MAGIC,
        TRACEFS_MAGIC,
    ];
    if kernel_made.contains(&(filesystem.f_type as u64)) {
        return Err(ConfineError::NotRegular(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Tree {
        _dir: tempfile::TempDir,
        root: PathBuf,
        outside: PathBuf,
    }

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let root = base.join("log");
        let outside = base.join("secret");
        fs::create_dir_all(root.join("app")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(root.join("app/main.log"), "hello").unwrap();
        fs::write(outside.join("key"), "secret").unwrap();
        Tree {
            _dir: dir,
            root,
            outside,
        }
    }

    fn try_open(tree: &Tree, path: &str) -> Result<String, ConfineError> {
        let roots = [LogRoot(tree.root.clone())];
        let file = open(&roots, Path::new(path))?;
        Ok(std::io::read_to_string(file).unwrap_or_default())
    }

    fn below(tree: &Tree, name: &str) -> String {
        format!("{}/{name}", tree.root.display())
    }

    #[test]
    fn plain_file_below_the_root_is_read() {
        let tree = tree();
        assert_eq!(
            try_open(&tree, &below(&tree, "app/main.log")).unwrap(),
            "hello"
        );
        assert_eq!(
            try_open(&tree, &below(&tree, "./app//main.log")).unwrap(),
            "hello"
        );
    }

    #[test]
    fn paths_that_leave_the_root_are_refused() {
        let tree = tree();
        for path in [
            below(&tree, "../secret/key"),
            below(&tree, "app/../../secret/key"),
            tree.outside.join("key").display().to_string(),
            "app/main.log".to_owned(),
            "/etc/shadow".to_owned(),
            format!("{}-other/x", tree.root.display()),
            tree.root.display().to_string(),
            String::new(),
        ] {
            let refused = try_open(&tree, &path);
            assert!(
                matches!(
                    refused,
                    Err(ConfineError::NotPlain(_) | ConfineError::OutsideRoots(_))
                ),
                "{path}: {refused:?}"
            );
        }
    }

    #[test]
    fn links_are_never_followed() {
        let tree = tree();
        symlink(tree.outside.join("key"), tree.root.join("key.log")).unwrap();
        symlink(&tree.outside, tree.root.join("folder")).unwrap();
        symlink("main.log", tree.root.join("app/inner.log")).unwrap();
        for name in ["key.log", "folder/key", "app/inner.log"] {
            let refused = try_open(&tree, &below(&tree, name));
            assert!(
                matches!(refused, Err(ConfineError::Link(_))),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn second_name_of_a_file_is_refused() {
        let tree = tree();
        fs::hard_link(tree.outside.join("key"), tree.root.join("key.log")).unwrap();
        let refused = try_open(&tree, &below(&tree, "key.log"));
        assert!(
            matches!(refused, Err(ConfineError::NotRegular(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn pipes_sockets_and_folders_are_refused_without_waiting() {
        let tree = tree();
        let pipe = tree.root.join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.root.join("socket")).unwrap();
        for name in ["pipe", "socket", "app"] {
            let refused = try_open(&tree, &below(&tree, name));
            assert!(
                matches!(refused, Err(ConfineError::NotRegular(_))),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn files_made_by_the_kernel_are_refused() {
        // A root that is a link into /proc passes the name check: the
        // filesystem's own type is what stops it.
        let tree = tree();
        let roots = [LogRoot(tree.root.join("proc"))];
        symlink("/proc", tree.root.join("proc")).unwrap();
        let path = tree.root.join("proc/version");
        let refused = open(&roots, &path);
        assert!(
            matches!(refused, Err(ConfineError::NotRegular(_))),
            "{refused:?}"
        );
        let environment = open(&roots, &tree.root.join("proc/self/environ"));
        assert!(
            matches!(environment, Err(ConfineError::Link(_))),
            "{environment:?}"
        );
    }

    #[test]
    fn missing_file_is_named() {
        let tree = tree();
        let refused = try_open(&tree, &below(&tree, "app/none.log")).unwrap_err();
        assert!(refused.to_string().contains("none.log"));
    }

    #[test]
    fn roots_that_are_too_wide_are_refused() {
        for text in [
            "/",
            "/proc",
            "/proc/1",
            "/sys/kernel",
            "/dev",
            "/etc",
            "/etc/ssl",
            "//",
        ] {
            assert_eq!(
                text.parse::<LogRoot>(),
                Err(ParseLogRootError::TooWide(text.to_owned()))
            );
        }
        assert!(matches!(
            "var/log".parse::<LogRoot>(),
            Err(ParseLogRootError::Relative(_))
        ));
        assert!(matches!(
            "/var/../etc".parse::<LogRoot>(),
            Err(ParseLogRootError::NotPlain(_))
        ));
        assert_eq!(
            "/var/log/".parse::<LogRoot>().unwrap().path(),
            Path::new("/var/log")
        );
    }
}
