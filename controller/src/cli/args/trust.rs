//! The command line of `flotilla trust`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `flotilla trust …`
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Show keys, CAs, and how many nodes hold the set in force
    Show,
    /// Announce the next signing key; it takes over once pki.rotation_overlap has passed
    #[command(after_help = "Examples:\n  flotilla trust rotate-signing-key\n  \
        flotilla trust rotate-signing-key --out request.trust     where the root key is elsewhere")]
    RotateSigningKey(Signing),
    /// Announce the next CA; it takes over once pki.rotation_overlap has passed
    #[command(after_help = "Example:\n  flotilla trust rotate-ca")]
    RotateCa(Signing),
    /// Take a CA out of the trust set that is in use no longer
    #[command(after_help = "Example:\n  flotilla trust retire-ca 3f9a2c51")]
    RetireCa {
        /// SHA-256 of its certificate, as shown, or the first 8 digits or more
        fingerprint: String,
        /// Also when nodes hold a certificate of it: they renew by HTTPS
        #[arg(long)]
        force: bool,
        /// Where it is signed
        #[command(flatten)]
        signing: Signing,
    },
    /// Take a signing key out of the trust set that signs no longer, or that was only announced
    #[command(after_help = "Example:\n  flotilla trust retire-signing-key 9c41d0aa")]
    RetireSigningKey {
        /// The public key, as shown, or its first 8 digits or more
        key: String,
        /// Where it is signed
        #[command(flatten)]
        signing: Signing,
    },
    /// Sign a request by the root key, offline, where that key is
    #[command(
        after_help = "Example:\n  flotilla trust sign --root-key root.key request.trust --to signed.trust"
    )]
    Sign {
        /// The request that `--out` wrote
        request: PathBuf,
        /// The root key, as it was in the controller's key directory
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
        /// File to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Put a trust set in force that `sign` made
    #[command(after_help = "Example:\n  flotilla trust install signed.trust")]
    Install {
        /// The signed trust set
        file: PathBuf,
        /// Also when nodes hold a certificate of a CA that leaves: they renew by HTTPS
        #[arg(long)]
        force: bool,
    },
}

/// Where a change of the trust set is signed.
#[derive(Debug, Args)]
pub struct Signing {
    /// Write a request to be signed elsewhere, instead of signing on the controller's host
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
