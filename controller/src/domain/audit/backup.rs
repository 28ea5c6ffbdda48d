//! That a backup of the controller was made.
//!
//! A backup holds the fleet's keys. Who takes one must be allowed to, and the audit
//! trail says so before the first byte of it leaves: a backup tells of itself.

use protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::domain::event::Event;
use crate::domain::rejection::Rejection;

/// Keys that one backup is encrypted to. Each costs a line of its header.
pub const RECIPIENTS_MAX: usize = 8;

/// Asks for a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeBackup {
    /// The public keys that it is encrypted to, as the configuration names them.
    pub recipients: Vec<String>,
}

/// A backup was made, or begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// The public keys whose holders can read it.
    pub recipients: Vec<String>,
}

/// # Errors
/// The rejection when nobody could read it.
pub(crate) fn make(asked: &MakeBackup) -> Result<Vec<Event>, Rejection> {
    if asked.recipients.is_empty() || asked.recipients.len() > RECIPIENTS_MAX {
        return Err(Rejection::new(
            ErrorCode::BackupUnconfigured,
            format!(
                "the controller's configuration names {} recipients of backups; it takes 1 to {RECIPIENTS_MAX}",
                asked.recipients.len()
            ),
        ));
    }
    Ok(vec![Event::BackupMade(BackupMade {
        recipients: asked.recipients.clone(),
    })])
}
