//! The trust set: whom nodes believe.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// The trust set in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    /// The fleet.
    pub fleet: String,
    /// Its version; grows with every change.
    pub version: u64,
    /// The digest of its bytes, as the audit trail names it.
    pub digest: String,
    /// When it was drafted.
    pub issued_at: Stamp,
    /// The root's public key, which nodes pinned when they joined: 64 hex digits.
    pub root: String,
    /// Whether the root key is on the controller's host.
    pub root_here: bool,
    /// Keys that may sign for the controller.
    pub keys: Vec<KeyView>,
    /// The CAs.
    pub authorities: Vec<AuthorityView>,
    /// Keys that may sign releases: 64 hex digits each.
    pub release_keys: Vec<String>,
    /// Active nodes that are known to hold this set.
    pub nodes_current: u32,
    /// Active nodes that hold an older one.
    pub nodes_behind: u32,
    /// Active nodes that were not heard since the controller's start.
    pub nodes_unheard: u32,
}

/// A key of the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Its id, as envelopes and checkpoints name it.
    pub id: String,
    /// The public key, 64 hex digits.
    pub public_key: String,
    /// `in_use`, `next` or `before`.
    pub duty: String,
    /// When the next one takes over.
    pub from: Option<Stamp>,
}

/// A CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuthorityView {
    /// SHA-256 of its certificate, 64 hex digits; join tokens pin it.
    pub fingerprint: String,
    /// `in_use`, `next` or `before`.
    pub duty: String,
    /// When the next one takes over.
    pub from: Option<Stamp>,
    /// When its certificate ends.
    pub expires_at: Stamp,
    /// Active nodes whose certificate it issued and still holds, with those of
    /// which the CA is not known.
    pub nodes: u32,
}

/// What to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrustChange {
    /// Announce the next signing key.
    RotateSigningKey,
    /// Announce the next CA.
    RotateCa,
    /// Take a CA out of the set.
    RetireCa,
    /// Take a signing key out of the set.
    RetireSigningKey,
    /// Believe releases that a key signed.
    AddReleaseKey,
    /// Believe them no longer.
    RemoveReleaseKey,
}

/// A change of the trust set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTrust {
    /// What to change.
    pub change: TrustChange,
    /// With `retire_ca` and `retire_signing_key`: which, by the CA's fingerprint or
    /// the public key, or by the first 8 digits or more.
    #[serde(default)]
    pub which: Option<String>,
    /// With `retire_ca`: also when nodes still need it; they renew by HTTPS.
    #[serde(default)]
    pub force: bool,
    /// Answer with the set to be signed, instead of signing it here.
    #[serde(default)]
    pub unsigned: bool,
}

/// A trust set that was signed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallTrust {
    /// Bytes and signature in base64url, with a dot in between.
    pub signed: String,
    /// Also when nodes still need a CA that leaves.
    #[serde(default)]
    pub force: bool,
}

/// What a change led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustChanged {
    /// Whether the trust set is another one than before.
    pub changed: bool,
    /// The set to be signed, base64url, where that was asked for.
    pub request: Option<String>,
    /// The set in force.
    pub trust: TrustView,
}
