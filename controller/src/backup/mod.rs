//! Backups of the controller: its state, whole, of one moment, encrypted, while it
//! runs; and putting one back.
//!
//! A backup is one file in the age format (age-encryption.org/v1), around a zstd
//! frame (RFC 8878), around a tar archive. So what it takes to read one, should
//! nothing of Flotilla be left, are three common tools and the key.
//!
//! ```text
//! backup.json            what it is: see `Manifest`
//! fleet                  the fleet's id
//! pki/NAME               keys and the trust set
//! intake/TABLE/N         rows of `intake.redb`, see `rows`
//! journal/TABLE/N        rows of `journal.redb`
//! vault/…                contents of configs and secrets, as they lie
//! archives/SHA256.tar    image archives
//! releases/SHA256.tar    archives of releases
//! ```
//!
//! Metrics are not in it: losing them loses history and nothing else.
//!
//! **Invariants:** whom a backup is encrypted to is said by the controller's
//! configuration alone, so whoever may ask for one gets nothing that they can read
//! unless they hold a key that the host's owner named. A moment is taken in an order
//! in which it is a state that a crash could have left, since starting is recovery:
//! the intake before the journal that it follows, and everything else after. A
//! directory is restored whole or not at all.

mod check;
mod error;
pub mod key;
mod make;
mod read;
mod restore;
#[cfg(test)]
mod tests;

use protocol::id::FleetId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

pub use check::{Sound, verify};
pub use error::BackupError;
pub use make::{Backups, Taken, sweep};
pub use restore::restore;

/// The format of a backup's file. A higher one is a newer program's.
pub const FORMAT: u32 = 1;

/// The first entry of a backup.
const MANIFEST: &str = "backup.json";

/// The folders of a backup's entries that are not called as in the state directory.
const INTAKE: &str = "intake";
const JOURNAL: &str = "journal";

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the file.
    pub format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// The layout of the state directory that it is of.
    pub layout: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// When it was made, in controller time.
    pub made_at: UnixMillis,
    /// The number of the journal's last record in it.
    pub records: u64,
    /// Whether image archives and those of releases are in it.
    pub archives: bool,
    /// Whether the fleet's root key is in it.
    pub root_key: bool,
}
