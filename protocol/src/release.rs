//! Releases: new versions of the agent, signed by whoever makes them.
//!
//! A release is a signed manifest and one archive for each target. The manifest
//! names the archives with their sizes and digests, so its signature covers them.
//! A fleet believes the release keys of its trust set ([`crate::trust`]), which its
//! root signs: they are rotated as every key there. The controller keeps releases
//! and orders updates; it cannot make a release, and a node that checks
//! [`SignedRelease::verify`] and [`Release::admit`] takes nothing else.
//!
//! **Invariant:** a version is never gone back to by an old manifest played again: a
//! release says which versions it may come from, and by default these are older.

pub mod entries;

use core::time::Duration;
use std::collections::BTreeSet;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::deployment::desired::{Cause, HealthRule};
use crate::id::RolloutId;
use crate::key::{KeyId, PublicKey, SigningKey, is_signed_by};
use crate::message;
use crate::time::UnixMillis;

/// Bytes of one manifest: fits an order beside everything else.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024;

/// Archives of one release; there are fewer targets.
pub const ARCHIVES_COUNT_MAX: usize = 32;

/// Bytes of one archive. An agent has eight megabytes before compression.
pub const ARCHIVE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of all files of one archive, unpacked.
pub const UNPACKED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Files in one archive: the program, and texts beside it.
pub const ARCHIVE_FILES_MAX: usize = 64;

/// Bytes of a version, a target or a file's name.
pub const NAME_BYTES_MAX: usize = 128;

/// Revoked versions that an order carries, the newest ones.
pub const REVOKED_COUNT_MAX: usize = 64;

/// How long a release may be installed after it was made, where its maker does not
/// say: what nobody has looked at for so long is made anew.
pub const LIFETIME_DEFAULT: Duration = Duration::from_secs(400 * 24 * 3600);

/// The file in an archive that is the program.
pub const PROGRAM: &str = "flotilla-agent";

/// What a release is, as its maker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The version (semver).
    pub version: String,
    /// When the manifest was made.
    pub issued_at: UnixMillis,
    /// From then on nodes do not install it.
    pub expires_at: UnixMillis,
    /// The oldest version that it may be installed over.
    pub from_min: String,
    /// The newest version that it may be installed over. Above its own version, it
    /// is a downgrade that its maker allows.
    pub from_max: String,
    /// The archives, one for each target.
    pub archives: Vec<Archive>,
}

/// One archive of a release: a tar, compressed with gzip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The target triple of the program in it.
    pub target: String,
    /// Its file's name; see [`archive_name`].
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256, in lowercase hexadecimal.
    pub sha256: String,
    /// Bytes of its files, unpacked.
    pub unpacked_bytes: u64,
}

/// A release as it travels: the bytes that were signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRelease {
    /// The encoded [`Release`].
    pub bytes: Vec<u8>,
    /// The key that signed.
    pub key: KeyId,
    /// The Ed25519 signature over `flotilla release 1\0` and the bytes.
    pub signature: Vec<u8>,
}

/// A version of the agent that a node is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The revision's number, from 1.
    pub revision: u32,
    /// The release.
    pub release: SignedRelease,
    /// Versions that the fleet has revoked: none of them is installed any more.
    pub revoked: Vec<String>,
    /// The rollout that brings it; none for what a late start brings.
    pub rollout: Option<RolloutId>,
    /// Why the node gets it. A rollback passes breakers, and may go to a version
    /// that the node still keeps whatever the release says.
    pub cause: Cause,
    /// `healthy_deadline` is the window in which the new version must confirm
    /// itself, `min_healthy` for how long its link must be up before that.
    pub health: HealthRule,
}

/// A release that is not believed or does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// No release key of the trust set signed it.
    #[error("release is not signed by a release key of this fleet (it names key {0})")]
    Untrusted(KeyId),
    /// It is too large, does not decode, or contradicts itself.
    #[error("release is malformed: {0}")]
    Malformed(String),
    /// Its time is over.
    #[error("release {version} expired at {expires_at}, and it is {now}")]
    Expired {
        /// Its version.
        version: String,
        /// When, in milliseconds since 1970.
        expires_at: u64,
        /// Controller time, likewise.
        now: u64,
    },
    /// The fleet has revoked it.
    #[error("release {0} is revoked")]
    Revoked(String),
    /// It may not be installed over the version that runs.
    #[error("release {version} may be installed over {from_min} to {from_max}, not over {running}")]
    From {
        /// Its version.
        version: String,
        /// The oldest.
        from_min: String,
        /// The newest.
        from_max: String,
        /// What runs.
        running: String,
    },
    /// It has no archive for a target.
    #[error("release {version} has no archive for {target}")]
    NoTarget {
        /// Its version.
        version: String,
        /// The target.
        target: String,
    },
}

impl ReleaseError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Untrusted(_) => ErrorCode::ReleaseUntrusted,
            Self::Malformed(_) => ErrorCode::ReleaseInvalid,
            Self::Expired { .. } => ErrorCode::ReleaseExpired,
            Self::Revoked(_) => ErrorCode::ReleaseRevoked,
            Self::From { .. } => ErrorCode::ReleaseForbidden,
            Self::NoTarget { .. } => ErrorCode::ReleaseNoTarget,
        }
    }
}

/// Keeps a signature over a release from being one over anything else.
const DOMAIN: &[u8] = b"flotilla release 1\0";

/// The name of a manifest's file.
#[must_use]
pub fn manifest_name(version: &str) -> String {
    format!("flotilla-agent-{version}.release")
}

/// The name of an archive's file.
#[must_use]
pub fn archive_name(version: &str, target: &str) -> String {
    format!("flotilla-agent-{version}-{target}.tar.gz")
}

/// A version's text, read.
///
/// # Errors
/// [`ReleaseError::Malformed`] when it is none.
pub fn version(text: &str) -> Result<Version, ReleaseError> {
    if text.len() > NAME_BYTES_MAX {
        return Err(malformed(format!("a version has {} bytes", text.len())));
    }
    Version::parse(text).map_err(|error| malformed(format!("{text:?} is no version: {error}")))
}

fn malformed(detail: String) -> ReleaseError {
    ReleaseError::Malformed(detail)
}

impl Release {
    /// Checks that it does not contradict itself.
    ///
    /// # Errors
    /// [`ReleaseError::Malformed`] with the first part that is wrong.
    pub fn check(&self) -> Result<(), ReleaseError> {
        version(&self.version)?;
        if version(&self.from_min)? > version(&self.from_max)? {
            return Err(malformed(format!(
                "it comes from {} to {}, which is nothing",
                self.from_min, self.from_max
            )));
        }
        if self.expires_at <= self.issued_at {
            return Err(malformed("it expires before it is made".to_owned()));
        }
        if self.archives.is_empty() || self.archives.len() > ARCHIVES_COUNT_MAX {
            return Err(malformed(format!(
                "it has {} archives; from 1 to {ARCHIVES_COUNT_MAX}",
                self.archives.len()
            )));
        }
        let mut targets = BTreeSet::new();
        for archive in &self.archives {
            archive.check(&self.version)?;
            if !targets.insert(&archive.target) {
                return Err(malformed(format!(
                    "it has two archives for {}",
                    archive.target
                )));
            }
        }
        Ok(())
    }

    /// Signs it with a release key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> SignedRelease {
        let bytes = message::encode(self);
        SignedRelease {
            signature: key.sign_as(DOMAIN, &bytes),
            bytes,
            key: key.public().id(),
        }
    }

    /// Whether it may be installed: not revoked, not expired at `now` (controller
    /// time), and meant to come from the version that runs. A version `kept` is one
    /// that ran here before and is gone back to: it may come from any.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn admit(
        &self,
        running: &str,
        kept: bool,
        revoked: &[String],
        now: UnixMillis,
    ) -> Result<(), ReleaseError> {
        if revoked.contains(&self.version) {
            return Err(ReleaseError::Revoked(self.version.clone()));
        }
        if kept {
            return Ok(());
        }
        if now >= self.expires_at {
            return Err(ReleaseError::Expired {
                version: self.version.clone(),
                expires_at: self.expires_at.0,
                now: now.0,
            });
        }
        let runs = version(running)?;
        if runs < version(&self.from_min)? || runs > version(&self.from_max)? {
            return Err(ReleaseError::From {
                version: self.version.clone(),
                from_min: self.from_min.clone(),
                from_max: self.from_max.clone(),
                running: running.to_owned(),
            });
        }
        Ok(())
    }

    /// The archive for a target.
    ///
    /// # Errors
    /// [`ReleaseError::NoTarget`] when there is none.
    pub fn archive(&self, target: &str) -> Result<&Archive, ReleaseError> {
        self.archives
            .iter()
            .find(|archive| archive.target == target)
            .ok_or_else(|| ReleaseError::NoTarget {
                version: self.version.clone(),
                target: target.to_owned(),
            })
    }
}

impl Archive {
    fn check(&self, version: &str) -> Result<(), ReleaseError> {
        let target = &self.target;
        let is_target = !target.is_empty()
            && target.len() <= NAME_BYTES_MAX
            && target
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !is_target {
            return Err(malformed(format!("{target:?} is no target triple")));
        }
        if self.name != archive_name(version, target) {
            return Err(malformed(format!(
                "the archive for {target} is named {:?}, not {:?}",
                self.name,
                archive_name(version, target)
            )));
        }
        let is_digest = self.sha256.len() == 64
            && self
                .sha256
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_digest {
            return Err(malformed(format!("{} has no SHA-256", self.name)));
        }
        for (what, bytes, most) in [
            ("bytes", self.bytes, ARCHIVE_BYTES_MAX),
            ("unpacked bytes", self.unpacked_bytes, UNPACKED_BYTES_MAX),
        ] {
            if bytes == 0 || bytes > most {
                return Err(malformed(format!(
                    "{} has {bytes} {what}; from 1 to {most}",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

impl SignedRelease {
    /// Checks the signature by one of `keys`, and that the release is well-formed.
    ///
    /// # Errors
    /// [`ReleaseError`], the first check that fails.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Release, ReleaseError> {
        if self.bytes.len() > MANIFEST_BYTES_MAX {
            return Err(malformed(format!(
                "its manifest has {} bytes; at most {MANIFEST_BYTES_MAX}",
                self.bytes.len()
            )));
        }
        if !is_signed_by(keys, self.key, DOMAIN, &self.bytes, &self.signature) {
            return Err(ReleaseError::Untrusted(self.key));
        }
        let release: Release =
            message::decode_exactly(&self.bytes).map_err(ReleaseError::Malformed)?;
        release.check()?;
        Ok(release)
    }
}

#[cfg(test)]
mod tests;
