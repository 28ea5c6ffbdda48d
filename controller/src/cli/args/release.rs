//! `flotilla release` and `flotilla update`: flags and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::deploy::{Manner, Staged};
use super::trust::Signing;

/// `flotilla release …`
#[derive(Debug, Subcommand)]
pub enum Release {
    /// Release keys: create, add, remove
    #[command(subcommand)]
    Key(ReleaseKey),
    /// Sign the archives of a version, where the release key is
    #[command(
        after_help = "The folder holds flotilla-agent-VERSION-TARGET.tar.gz for each target; the manifest is\n\
        written beside them.\n\nExample:\n  flotilla release sign dist --release-version 0.2.0 --key release.key"
    )]
    Sign(SignRelease),
    /// Give a signed release to the controller: its manifest and its archives
    #[command(after_help = "Example:\n  flotilla release add dist")]
    Add {
        /// The manifest, or a folder with one
        path: PathBuf,
    },
    /// List releases, the newest version first
    #[command(visible_alias = "ls")]
    List,
    /// Never roll a release out again; open rollouts to it are aborted and go back
    #[command(after_help = "Example:\n  flotilla release revoke 0.2.0 --reason 'loses samples'")]
    Revoke {
        /// The version
        version: String,
        /// Why; in the audit trail
        #[arg(long)]
        reason: String,
    },
    /// Keep a release no longer that no revision names
    Remove {
        /// The version
        version: String,
    },
}

/// `flotilla release key …`
#[derive(Debug, Subcommand)]
pub enum ReleaseKey {
    /// Make a key in a file, and print its public half
    #[command(after_help = "Example:\n  flotilla release key create release.key")]
    Create {
        /// The file; it must not be there
        file: PathBuf,
    },
    /// Believe releases that a key signed: a change of the trust set
    #[command(
        after_help = "Example:\n  flotilla release key add 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    )]
    Add {
        /// The public key, 64 hex digits
        key: String,
        /// Where it is signed
        #[command(flatten)]
        signing: Signing,
    },
    /// Believe releases of a key no longer: a change of the trust set
    Remove {
        /// The public key, or its first 8 digits or more
        key: String,
        /// Where it is signed
        #[command(flatten)]
        signing: Signing,
    },
}

/// `flotilla release sign`
#[derive(Debug, Args)]
pub struct SignRelease {
    /// The folder with the archives
    pub folder: PathBuf,
    /// The version
    #[arg(long, value_name = "VERSION")]
    pub release_version: String,
    /// The release key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The oldest version that it may be installed over
    #[arg(long, value_name = "VERSION", default_value = "0.1.0")]
    pub from_min: String,
    /// The newest version that it may be installed over [default: its own]
    #[arg(long, value_name = "VERSION")]
    pub from_max: Option<String>,
    /// How long it may be installed
    #[arg(long, value_name = "DURATION", default_value = "400d", value_parser = humantime::parse_duration)]
    pub expires: Duration,
}

/// `flotilla update …`
#[derive(Debug, Subcommand)]
pub enum Update {
    /// Give nodes a version of the agent, in stages
    #[command(
        after_help = "An update is a deployment of the agent: `flotilla deploy status agent` shows how it is on every\n\
        node, `flotilla deploy rollback agent` goes back, `flotilla rollout` steers it.\n\nExamples:\n  \
        flotilla update apply 0.2.0 --on '*' --wave 1:soak=10m --wave 10% --wave rest\n  \
        flotilla update apply 0.2.0 --name agent-edge --on site=edge --dry-run"
    )]
    Apply(ApplyUpdate),
}

/// `flotilla update apply`
#[derive(Debug, Clone, Args)]
pub struct ApplyUpdate {
    /// The version
    pub version: String,
    /// The name that it goes by among deployments
    #[arg(long, default_value = "agent")]
    pub name: String,
    /// Which nodes: a selector, or * for every node [default: as in the revision before]
    #[arg(long, value_name = "NODES")]
    pub on: Option<String>,
    /// A selector that matches nothing is no error
    #[arg(long)]
    pub allow_empty: bool,
    /// How it is rolled out
    #[command(flatten)]
    pub staged: Staged,
    /// Whether to ask, and to wait
    #[command(flatten)]
    pub manner: Manner,
}
