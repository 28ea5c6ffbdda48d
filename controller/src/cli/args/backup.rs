//! `flotilla backup`: flags and help.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ConfigSource;

/// `flotilla backup …`
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Backup keys: create
    #[command(subcommand)]
    Key(BackupKey),
    /// Make a backup of the controller while it runs
    #[command(
        after_help = "Everything of one moment but metrics: keys, journal, what nodes reported, configs and\n\
        secrets, archives. It is encrypted to the keys in backup.recipients of the controller's\n\
        configuration, and takes the permission backup:create.\n\n\
        Example:\n  flotilla backup create --to fleet.backup"
    )]
    Create {
        /// File to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Leave out image archives and those of releases
        #[arg(long)]
        without_archives: bool,
    },
    /// Check a backup by restoring it aside and opening all of it, offline
    #[command(
        after_help = "It is unpacked, keys and all, into a folder of its own in TMPDIR, readable by its owner\n\
        alone, and removed again. Records are checked by the fleet's root key, configs and\n\
        secrets are decrypted, archives are hashed.\n\n\
        Example:\n  flotilla backup verify fleet.backup --key backup.key"
    )]
    Verify(OpenBackup),
    /// Restore a backup where no controller is, on this machine, offline
    #[command(
        after_help = "State directory and key directory, as the configuration has them, must be empty. The backup\n\
        is checked before anything is in place. At its next start the controller raises its\n\
        incarnation; nodes come back by themselves when it has the old one's address.\n\n\
        Example:\n  flotilla backup restore fleet.backup --key backup.key && systemctl start flotilla-controller"
    )]
    Restore {
        /// The backup and its key
        #[command(flatten)]
        open: OpenBackup,
        /// The controller's configuration, for its directories
        #[command(flatten)]
        source: ConfigSource,
    },
}

/// A backup, and what opens it.
#[derive(Debug, Args)]
pub struct OpenBackup {
    /// The backup
    pub file: PathBuf,
    /// The file that `flotilla backup key create` made
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
}

/// `flotilla backup key …`
#[derive(Debug, Subcommand)]
pub enum BackupKey {
    /// Make a key in a file, and print its public half
    #[command(
        after_help = "Keep the file away from the controller. age(1) reads it, too.\n\n\
        Example:\n  flotilla backup key create backup.key"
    )]
    Create {
        /// The file; it must not be there
        file: PathBuf,
    },
}
