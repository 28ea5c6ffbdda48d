//! What lies where below the state directory, and in which format as a whole.
//!
//! | name | what |
//! |---|---|
//! | `format` | the number of this layout |
//! | `fleet` | the fleet's id; `fleet.founding` until everything was made once |
//! | `pki/` | keys, unless `pki.dir` says otherwise |
//! | `journal.redb` | the journal, which is the audit trail |
//! | `intake.redb` | what nodes reported |
//! | `vault/` | contents of configs and secrets |
//! | `archives/`, `releases/` | image archives, archives of releases |
//! | `series/` | metrics |
//! | `host.sock`, `ca.pem`, `admin-profile.toml` | made anew, or by a person |
//! | `before-format-N/` | a copy of before the migration to format N |
//! | `restored` | a backup was put here, and the controller has not started since |
//! | `restoring/`, `backup.partial/` | what is under way |
//!
//! **Invariant:** `fleet` is the last name that appears: a directory with it is whole.

use std::fs;
use std::io;
use std::path::Path;

use crate::durable;

/// The layout that this program writes, and the newest that it reads. Raised by any
/// change of a store after which an older program would misread it.
///
/// 1: the first that is numbered. Before it, `intake.redb` may be of its formats 1
/// and 2, without the tables of deployments, alerts and notices.
pub(crate) const FORMAT: u32 = 1;

pub(crate) const FORMAT_FILE: &str = "format";
pub(crate) const FLEET_FILE: &str = "fleet";
pub(crate) const FOUNDING_FILE: &str = "fleet.founding";
pub(crate) const PKI: &str = "pki";
pub(crate) const JOURNAL_FILE: &str = "journal.redb";
pub(crate) const INTAKE_FILE: &str = "intake.redb";
pub(crate) const VAULT: &str = "vault";
pub(crate) const ARCHIVES: &str = "archives";
pub(crate) const RELEASES: &str = "releases";
pub(crate) const SERIES: &str = "series";
pub(crate) const RESTORED_FILE: &str = "restored";
pub(crate) const RESTORING: &str = "restoring";
pub(crate) const BACKING_UP: &str = "backup.partial";

/// The name of the copy that is made before a directory becomes of a format.
pub(crate) fn copy_before(format: u32) -> String {
    format!("before-format-{format}")
}

/// The format that a directory says; 0 for one that says none, which is from before
/// formats were numbered, or new.
///
/// # Errors
/// When the file cannot be read, or holds no number (`InvalidData`).
pub(crate) fn read_format(dir: &Path) -> io::Result<u32> {
    match fs::read_to_string(dir.join(FORMAT_FILE)) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Says that a directory is of a format.
///
/// # Errors
/// When the disk does not do it.
pub(crate) fn write_format(dir: &Path, format: u32) -> io::Result<()> {
    durable::replace(&dir.join(FORMAT_FILE), format!("{format}\n").as_bytes())
}
