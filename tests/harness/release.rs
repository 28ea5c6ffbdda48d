//! Releases of a test's own: archives of the next agent, with a version and a fault.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::program::target;
use controller::bundle::{self, Ask, key};
use protocol::key::PublicKey;
use protocol::release::{LIFETIME_DEFAULT, archive_name};
use protocol::time::UnixMillis;
use tempfile::TempDir;

use crate::{clock, programs};

/// A release key, and folders with releases that it signed.
pub struct Maker {
    folder: TempDir,
    public: PublicKey,
}

impl Maker {
    /// A maker with a key of its own.
    ///
    /// # Panics
    /// When the temporary folder is not writable.
    #[expect(clippy::new_without_default, reason = "it makes a key")]
    pub fn new() -> Maker {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let public = key::create(&folder.path().join("release.key")).expect("a key can be made");
        Maker { folder, public }
    }

    /// The public half of the key.
    pub fn public(&self) -> String {
        self.public.to_string()
    }

    /// The file with the key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("release.key")
    }

    /// A folder with a signed release of a version; `fault` is what it does wrong.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn release(&self, version: &str, fault: &str) -> PathBuf {
        self.made_at(version, fault, UnixMillis(clock::unix_millis()))
    }

    /// The same, made at another time.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn made_at(&self, version: &str, fault: &str, now: UnixMillis) -> PathBuf {
        let folder = self.folder.path().join(version);
        archive(&folder, version, fault);
        let ask = Ask {
            version: version.to_owned(),
            from_min: "0.1.0".to_owned(),
            from_max: None,
            lifetime: LIFETIME_DEFAULT,
            now,
        };
        let key = key::read(&self.key()).expect("the key is readable");
        bundle::sign(&folder, &key, &ask).expect("the release is signed");
        folder
    }
}

/// Puts an archive of the next agent into a folder.
fn archive(folder: &Path, version: &str, fault: &str) {
    let content = folder.join("content");
    fs::create_dir_all(&content).expect("the folder is writable");
    let program = content.join("flotilla-agent");
    // Without what a debugger wants it is a fifth.
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&program)
        .arg(programs::next_agent())
        .status();
    assert!(stripped.is_ok_and(|status| status.success()), "no strip");
    fs::write(content.join("VERSION"), version).expect("the folder is writable");
    let mut names = vec!["flotilla-agent", "VERSION"];
    if !fault.is_empty() {
        fs::write(content.join("FAULT"), fault).expect("the folder is writable");
        names.push("FAULT");
    }
    let to = File::create(folder.join(archive_name(version, target()))).expect("it is writable");
    let packed = Command::new("tar")
        .args(["-cf", "-", "-I", "gzip -1"])
        .arg("-C")
        .arg(&content)
        .args(names)
        .stdout(to)
        .status();
    assert!(packed.is_ok_and(|status| status.success()), "no tar");
    fs::remove_dir_all(&content).expect("the folder is writable");
}
