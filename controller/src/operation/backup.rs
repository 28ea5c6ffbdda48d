//! Backups of the controller.

use protocol::ErrorCode;

use super::stream::{Bytes, written};
use super::view::backup::MakeBackup;
use super::{Operations, Who};
use crate::backup::BackupError;
use crate::clock;
use crate::domain::audit::backup;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;

impl Operations {
    /// A backup of this moment, encrypted to the keys that the configuration names. That
    /// it was made is in the audit trail before its first byte is.
    ///
    /// # Errors
    /// When it is denied; `backup.unconfigured` when no key is named; `backup.running`
    /// when another one is being made; when a store cannot be read.
    pub async fn make_backup(&self, who: &Who, asked: MakeBackup) -> Result<Bytes, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("backup", "create"), &[])?;
        let turn = self.backups.turn().map_err(|error| failed(&error))?;
        let recipients = self.backups.recipients().iter();
        let operation = Operation::MakeBackup(backup::MakeBackup {
            recipients: recipients.map(ToString::to_string).collect(),
        });
        self.submit(who, operation).await?;
        let backups = self.backups.clone();
        let archives = !asked.without_archives;
        let taken =
            tokio::task::spawn_blocking(move || backups.take(turn, archives, clock::now())).await;
        let taken = taken
            .map_err(|error| {
                Failure::fault(ErrorCode::Internal, "taking the backup broke off", &error)
            })?
            .map_err(|error| failed(&error))?;
        Ok(written("a backup", move |to| taken.write(to)))
    }
}

fn failed(error: &BackupError) -> Failure {
    if matches!(error, BackupError::Running) {
        Failure::new(error.code(), error.to_string())
    } else {
        Failure::fault(error.code(), "no backup can be made", error)
    }
}
