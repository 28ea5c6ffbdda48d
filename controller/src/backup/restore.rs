//! Putting a backup where a controller starts from.
//!
//! It is unpacked and opened beside its place, which is below the state directory, so
//! on the same disk; then each part is moved to its place, the fleet's id last: a
//! directory without it is not started. What a crash leaves is cleared by the next
//! try, because nothing else was there before the first.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use super::BackupError;
use super::check::{Sound, check};
use super::error::failed;
use super::read::{Scratch, unpack};
use crate::config::Config;
use crate::durable;
use crate::layout;

/// What may be in an empty directory that is a file system of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// Restores a backup into the directories that a configuration names, where nothing
/// is. The next start raises the incarnation, as after `flotilla serve --restored`.
///
/// # Errors
/// [`BackupError`]; nothing is in place then, unless the disk failed while the parts
/// were moved, in which case a start is refused until it is tried again.
pub fn restore(config: &Config, file: &Path, key: &Path) -> Result<Sound, BackupError> {
    let dir = &config.state_dir;
    durable::make_private(dir).map_err(failed("make", dir))?;
    let restoring = dir.join(layout::RESTORING);
    let begun = restoring.exists() && !dir.join(layout::FLEET_FILE).exists();
    for place in [dir, &config.pki.dir] {
        clear(place, begun)?;
    }
    let restoring = Scratch::new(restoring)?;
    let manifest = unpack(file, key, restoring.path())?;
    let aside = Config {
        state_dir: restoring.path().to_owned(),
        pki: crate::config::PkiConfig {
            dir: restoring.path().join(layout::PKI),
            ..config.pki.clone()
        },
        ..config.clone()
    };
    let sound = check(file, &aside, manifest)?;
    let reason = format!(
        "restored from the backup of {}, record {}",
        sound.manifest.made_at, sound.records
    );
    let marker = restoring.path().join(layout::RESTORED_FILE);
    durable::replace(&marker, reason.as_bytes()).map_err(failed("write", &marker))?;
    give(restoring.path(), dir)?;
    place(restoring.path(), config)?;
    Ok(sound)
}

/// Sees to it that nothing is in a directory; what a try before left is removed.
fn clear(place: &Path, begun: bool) -> Result<(), BackupError> {
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed("list", place))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", place))?;
        let path = entry.path();
        if entry.file_name() == LOST_AND_FOUND {
            continue;
        }
        if !begun {
            return Err(BackupError::InTheWay { path });
        }
        // The marker goes last, with the next try's own.
        if entry.file_name() == layout::RESTORING {
            continue;
        }
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// Gives everything to whoever the state directory belongs to: a backup is restored
/// by root, and the controller is another user.
fn give(what: &Path, like: &Path) -> Result<(), BackupError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(like).map_err(failed("look at", like))?;
    let mut waiting = vec![what.to_owned()];
    while let Some(path) = waiting.pop() {
        chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(failed("give away", &path))?;
        if path.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
                waiting.push(entry.map_err(failed("list", &path))?.path());
            }
        }
    }
    Ok(())
}

fn place(from: &Path, config: &Config) -> Result<(), BackupError> {
    let dir = &config.state_dir;
    let keys = &config.pki.dir;
    durable::make_private(keys).map_err(failed("make", keys))?;
    for entry in fs::read_dir(from.join(layout::PKI)).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        // The keys may be on another disk.
        let to = keys.join(entry.file_name());
        let content = fs::read(entry.path()).map_err(failed("read", &entry.path()))?;
        durable::replace(&to, &content).map_err(failed("write", &to))?;
    }
    give(keys, dir)?;
    for entry in fs::read_dir(from).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        let name = entry.file_name();
        if name != layout::PKI && name != layout::FLEET_FILE {
            let to = dir.join(&name);
            fs::rename(entry.path(), &to).map_err(failed("put in place", &to))?;
        }
    }
    // All of it is on the disk before the name that makes it count.
    durable::sync_all_of(dir).map_err(failed("sync", dir))?;
    let to = dir.join(layout::FLEET_FILE);
    durable::rename(&from.join(layout::FLEET_FILE), &to).map_err(failed("put in place", &to))
}
