//! The node's identity: joining a fleet, the files that hold it, keeping it fresh.
//! The only owner of the HTTPS client in the agent.
//!
//! A node makes its own keys and never shows them: a TLS key (ECDSA P-256) whose
//! certificate the fleet's CA signs, and a signing key (Ed25519). What it believes
//! is pinned when it joins: first the CA whose fingerprint the token names, from
//! then on whatever the fleet's root key signs.
//!
//! **Invariant:** the identity directory is whole or not there. It is made under
//! another name, synced, and renamed; single files in it are replaced the same
//! way. All are for the agent's user alone (0600, the directory 0700).

mod download;
mod files;
mod http;
mod join;
mod keep;

pub use download::{Download, Downloads};
pub use files::{IdentityError, Loaded, Summary, load, previous_identity};
pub use http::RequestError;
pub use join::{Existing, JoinError, JoinOptions, TokenText, join};
pub use keep::{Context, KeepError, run};
