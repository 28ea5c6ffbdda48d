//! Configs, secrets and unfinished archives on the node's disk.
//!
//! Each file lies below a directory that only the agent may enter, one for each
//! deployment, in a copy for each mode and owner that it is mounted with: the
//! engine mounts it from there.
//!
//! **Invariant:** a copy has its whole content or does not exist: it is written
//! under another name and renamed. Names are made from checked parts alone.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::id::DeploymentId;

use crate::domain::deployment::observed::FileCopy;
use crate::durable;

/// Mode bits that a mounted file may have; a setuid bit from the wire is none.
const MODE_MASK: u32 = 0o777;

/// The files of all deployments.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Files below `root`, which is made when it is needed.
    #[must_use]
    pub fn below(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a copy lies.
    #[must_use]
    pub fn path(&self, deployment: DeploymentId, copy: &FileCopy) -> PathBuf {
        self.folder(deployment).join(copy.file_name())
    }

    /// Where the part of an archive is collected. `digest` is hexadecimal.
    #[must_use]
    pub fn archive(&self, digest: &str) -> PathBuf {
        self.root.join("archives").join(format!("{digest}.part"))
    }

    fn folder(&self, deployment: DeploymentId) -> PathBuf {
        self.root.join("files").join(deployment.to_string())
    }

    /// The copies that there are.
    #[must_use]
    pub fn copies(&self, deployment: DeploymentId) -> BTreeSet<FileCopy> {
        let Ok(entries) = std::fs::read_dir(self.folder(deployment)) else {
            return BTreeSet::new();
        };
        entries
            .filter_map(|entry| read_name(entry.ok()?.file_name().to_str()?))
            .collect()
    }

    /// The content of any copy with that digest.
    #[must_use]
    pub fn content(&self, deployment: DeploymentId, digest: &str) -> Option<Vec<u8>> {
        let copy = self
            .copies(deployment)
            .into_iter()
            .find(|copy| copy.digest == digest)?;
        std::fs::read(self.path(deployment, &copy)).ok()
    }

    /// Writes a copy.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(&self, deployment: DeploymentId, copy: &FileCopy, content: &[u8]) -> io::Result<()> {
        let folder = self.folder(deployment);
        durable::make_private(&folder)?;
        let fresh = folder.join(".new");
        durable::remove(&fresh)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(content)?;
        // In this order: who has given a file away may not set its mode without a
        // capability that the agent has no other use for.
        file.set_permissions(Permissions::from_mode(copy.mode & MODE_MASK))?;
        let (user, group) = copy.owner;
        std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        file.sync_all()?;
        std::fs::rename(&fresh, self.path(deployment, copy))?;
        durable::sync(&folder)
    }

    /// Removes the copies that are not to be kept, and the folder when none is.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep(&self, deployment: DeploymentId, keep: &BTreeSet<FileCopy>) -> io::Result<()> {
        for copy in self.copies(deployment) {
            if !keep.contains(&copy) {
                std::fs::remove_file(self.path(deployment, &copy))?;
            }
        }
        if keep.is_empty() {
            return durable::remove_tree(&self.folder(deployment));
        }
        Ok(())
    }
}

fn read_name(name: &str) -> Option<FileCopy> {
    let mut parts = name.split('-');
    let copy = FileCopy {
        digest: parts.next()?.to_owned(),
        mode: u32::from_str_radix(parts.next()?, 8).ok()?,
        owner: (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
    };
    parts.next().is_none().then_some(copy)
}

/// Where a path of the node really lies: links are followed, and what does not
/// exist yet is taken from the deepest directory that does.
///
/// # Errors
/// What the system says.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path;
    loop {
        match std::fs::canonicalize(there) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link that leads nowhere yet could lead anywhere later.
                if std::fs::symlink_metadata(there).is_ok() {
                    return Err(io::Error::other("a link leads nowhere"));
                }
                let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
                    return Err(error);
                };
                missing.push(name.to_owned());
                there = parent;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_private_whole_and_removed_when_nobody_mounts_them() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path().join("deploy"));
        let deployment = DeploymentId::from_bytes([3; 10]);
        let (user, group) = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let copy = |mode| FileCopy {
            digest: "ab".repeat(32),
            mode,
            owner: (user, group),
        };
        files.put(deployment, &copy(0o440), b"secret").unwrap();
        files.put(deployment, &copy(0o4444), b"secret").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&files.path(deployment, &copy(0o440))), 0o440);
        assert_eq!(mode(&files.path(deployment, &copy(0o4444))), 0o444);
        assert_eq!(
            mode(files.path(deployment, &copy(0o440)).parent().unwrap()),
            0o700
        );
        assert_eq!(
            files.content(deployment, &"ab".repeat(32)).unwrap(),
            b"secret"
        );
        assert_eq!(files.copies(deployment).len(), 2);
        files.keep(deployment, &[copy(0o440)].into()).unwrap();
        assert_eq!(files.copies(deployment), [copy(0o440)].into());
        files.keep(deployment, &BTreeSet::new()).unwrap();
        assert!(files.copies(deployment).is_empty());
        files.keep(deployment, &BTreeSet::new()).unwrap();
    }

    #[test]
    fn paths_are_judged_by_where_their_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(real.join("srv")).unwrap();
        std::os::unix::fs::symlink("/etc", real.join("srv/out")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/later", real.join("srv/later")).unwrap();
        let resolved = |path: &str| resolve(&real.join(path));
        assert_eq!(resolved("srv").unwrap(), real.join("srv"));
        assert_eq!(resolved("srv/new/deep").unwrap(), real.join("srv/new/deep"));
        assert_eq!(
            resolved("srv/out/passwd").unwrap(),
            Path::new("/etc/passwd")
        );
        assert!(resolved("srv/later").is_err());
        assert!(resolved("srv/later/x").is_err());
    }
}
