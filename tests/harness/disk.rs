//! A disk of a few MiB, to see what happens when it is full.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A small file system of its own. Unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs of `mebibytes`.
    ///
    /// `None` where that is not allowed (it needs root), unless
    /// `FLOTILLA_REQUIRE_ALL` is set.
    ///
    /// # Panics
    /// When all is required and it cannot be mounted.
    pub fn new(mebibytes: u32) -> Option<SmallDisk> {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { folder });
        }
        crate::servers::skipped("a disk of its own", "a tmpfs cannot be mounted");
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes until nothing fits. Removing the file that is returned makes room.
    ///
    /// # Panics
    /// When the file cannot be made at all.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).expect("a file can be made on the small disk");
        for size in [64 * 1024, 4096, 64, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }

    /// Removes the ballast.
    ///
    /// # Panics
    /// When it was never there.
    pub fn relieve(&self) {
        fs::remove_file(self.path().join("ballast")).expect("the ballast is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being ended may hold it for a moment longer.
        let _unmounted = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_relieved() {
        let Some(disk) = SmallDisk::new(1) else {
            return;
        };
        disk.fill();
        assert!(fs::write(disk.path().join("more"), vec![0; 8192]).is_err());
        disk.relieve();
        assert!(fs::write(disk.path().join("more"), vec![0; 8192]).is_ok());
    }
}
