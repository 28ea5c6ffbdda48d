//! Releases of the agent, and updates to them.

use data_encoding::BASE64;
use protocol::ErrorCode;
use protocol::message;
use protocol::release::{MANIFEST_BYTES_MAX, Release, SignedRelease};
use protocol::time::UnixMillis;

use super::deployment::{meant, parameters};
use super::rollout::caller_name;
use super::view::content::UploadView;
use super::view::deployment::ApplyAnswer;
use super::view::release::{
    AddRelease, ApplyUpdate, ReleaseArchiveView, ReleaseList, ReleaseView, RevokeRelease,
};
use super::{Operations, Who};
use crate::clock;
use crate::domain::digest::Digest;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::domain::release::{self, Known, update};
use crate::operation::content::{archiving, upload_view};
use crate::operation::failure::Failure;

/// Bytes of a manifest with its signature around it.
const SIGNED_BYTES_MAX: usize = MANIFEST_BYTES_MAX + 256;

impl Operations {
    /// The releases, the newest version first.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_releases(&self, who: &Who) -> Result<ReleaseList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("release", "read"), &[])?;
        let releases = fleet.releases().newest_first();
        Ok(ReleaseList {
            releases: releases
                .into_iter()
                .map(|known| self.release_view(&fleet, known))
                .collect(),
        })
    }

    /// Keeps a release that a key of the trust set signed. Its archives follow.
    ///
    /// # Errors
    /// When it is denied; `release.untrusted` when no release key signed it;
    /// `release.invalid` when it contradicts itself; `release.expired`;
    /// `release.conflict` when the version was given to another release.
    pub async fn add_release(&self, who: &Who, asked: AddRelease) -> Result<ReleaseView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("release", "add"), &[])?;
        let signed = read(&asked.manifest)?;
        let facts = self.about.pki.trust_facts();
        let facts = facts.map_err(|error| Failure::new(error.code(), error.to_string()))?;
        let release = signed
            .verify(&facts.set.release_keys)
            .map_err(|error| Failure::new(error.code(), error.to_string()))?;
        check_time(&release, clock::now())?;
        let version = release.version.clone();
        let operation = Operation::AddRelease(release::AddRelease {
            release: Box::new(release),
            signed,
        });
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        let known = fleet.releases().existing(&version)?;
        Ok(self.release_view(&fleet, known))
    }

    /// Takes a piece of an archive in that a release names, or says where it stands
    /// when the piece is empty.
    ///
    /// # Errors
    /// When it is denied, no release has that archive, the piece goes elsewhere, or
    /// the archive is not what the manifest says.
    pub async fn add_to_release(
        &self,
        who: &Who,
        version: &str,
        sha256: &str,
        offset: u64,
        piece: Vec<u8>,
    ) -> Result<UploadView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("release", "add"), &[])?;
        let known = fleet.releases().existing(version)?;
        let mut archives = known.release.archives.iter();
        let named = archives.find(|archive| archive.sha256 == sha256);
        let (Some(archive), Ok(digest)) = (named, sha256.parse::<Digest>()) else {
            return Err(Failure::new(
                ErrorCode::ReleaseNotFound,
                format!("release {version} names no archive {sha256}"),
            ));
        };
        let (releases, now) = (self.stores.releases.clone(), clock::now());
        let size_bytes = archive.bytes;
        let progress = archiving(move || {
            if piece.is_empty() {
                releases.begin(digest, size_bytes, now)
            } else {
                releases.append(digest, size_bytes, offset, &piece, now)
            }
        });
        Ok(upload_view(&progress.await?))
    }

    /// Never rolls a release out again; open rollouts to it are aborted, and nodes
    /// that got it by them go back.
    ///
    /// # Errors
    /// When it is denied, or there is no such release.
    pub async fn revoke_release(
        &self,
        who: &Who,
        version: &str,
        asked: RevokeRelease,
    ) -> Result<ReleaseView, Failure> {
        let operation = Operation::RevokeRelease(release::RevokeRelease {
            version: version.to_owned(),
            reason: asked.reason,
        });
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        let known = fleet.releases().existing(version)?;
        Ok(self.release_view(&fleet, known))
    }

    /// Keeps a release no longer.
    ///
    /// # Errors
    /// When it is denied, there is none, or a revision that is kept names it.
    pub async fn remove_release(&self, who: &Who, version: &str) -> Result<ReleaseView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("release", "remove"), &[])?;
        let known = fleet.releases().existing(version)?;
        let view = self.release_view(&fleet, known);
        let operation = Operation::RemoveRelease(release::RemoveRelease {
            version: version.to_owned(),
        });
        self.submit(who, operation).await?;
        for archive in &known.release.archives {
            if let Ok(digest) = archive.sha256.parse::<Digest>() {
                let releases = self.stores.releases.clone();
                archiving(move || releases.remove(digest)).await?;
            }
        }
        Ok(view)
    }

    /// Gives nodes a version of the agent, in stages; or says what would happen.
    ///
    /// # Errors
    /// When it is denied, the release cannot be rolled out, or somebody else changed
    /// the update meanwhile.
    pub async fn apply_update(
        &self,
        who: &Who,
        asked: ApplyUpdate,
    ) -> Result<ApplyAnswer, Failure> {
        let fleet = self.engine.fleet();
        self.reach(who, &fleet, ("deployment", "apply"))?;
        let known = fleet.deployments().named(&asked.name);
        let selector = meant(asked.on.as_deref(), known.map(AsRef::as_ref))?;
        let release = fleet.releases().existing(&asked.version)?;
        let missing = release.release.archives.iter().find(|it| !self.holds(it));
        if let Some(missing) = missing {
            return Err(Failure::new(
                ErrorCode::ReleaseNotFound,
                format!("the archive {} was not uploaded yet", missing.name),
            ));
        }
        let mut params = parameters(asked.rollout.clone())?;
        if !says_health(asked.rollout.as_ref()) {
            params.health = update::HEALTH;
        }
        let operation = Operation::ApplyUpdate(update::ApplyUpdate {
            name: asked.name.clone(),
            base: asked.base,
            selector,
            version: asked.version,
            how: self.how(params, asked.allow_empty),
        });
        if asked.dry_run {
            return self.preview(who, asked.name, &operation, Vec::new());
        }
        self.change_deployment(who, asked.name, operation, Vec::new())
            .await
    }

    fn holds(&self, archive: &protocol::release::Archive) -> bool {
        let digest = archive.sha256.parse::<Digest>();
        digest.is_ok_and(|digest| self.stores.releases.get(digest).is_some())
    }

    fn release_view(&self, fleet: &Fleet, known: &Known) -> ReleaseView {
        let release = &known.release;
        let archives: Vec<ReleaseArchiveView> = release
            .archives
            .iter()
            .map(|archive| ReleaseArchiveView {
                target: archive.target.clone(),
                name: archive.name.clone(),
                sha256: archive.sha256.clone(),
                size_bytes: archive.bytes,
                held: self.holds(archive),
            })
            .collect();
        let state = if known.revoked.is_some() {
            "revoked"
        } else if clock::now() >= release.expires_at {
            "expired"
        } else if archives.iter().all(|archive| archive.held) {
            "ready"
        } else {
            "incomplete"
        };
        let nodes = fleet
            .nodes()
            .filter(|node| node.is_active())
            .filter(|node| {
                let presence = self.uplink.presence(node.id);
                presence.agent_version.as_ref() == Some(&release.version)
            })
            .count();
        ReleaseView {
            version: release.version.clone(),
            state: state.to_owned(),
            key: known.signed.key.to_string(),
            issued_at: release.issued_at.into(),
            expires_at: release.expires_at.into(),
            from_min: release.from_min.clone(),
            from_max: release.from_max.clone(),
            added_at: known.added_at.into(),
            added_by: caller_name(fleet, known.added_by),
            revoked: known.revoked.as_ref().map(|(_, reason)| reason.clone()),
            nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
            archives,
        }
    }
}

fn read(text: &str) -> Result<SignedRelease, Failure> {
    let malformed = |why: String| Failure::new(ErrorCode::ReleaseInvalid, why);
    let bytes = BASE64
        .decode(text.as_bytes())
        .map_err(|_| malformed("the manifest is not base64".to_owned()))?;
    if bytes.len() > SIGNED_BYTES_MAX {
        return Err(malformed(format!(
            "the manifest has {} bytes; at most {SIGNED_BYTES_MAX}",
            bytes.len()
        )));
    }
    message::decode_exactly(&bytes)
        .map_err(|why| malformed(format!("this is no signed manifest: {why}")))
}

fn check_time(release: &Release, now: UnixMillis) -> Result<(), Failure> {
    if now < release.expires_at {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::ReleaseExpired,
        format!(
            "release {} expired at {}",
            release.version, release.expires_at
        ),
    ))
}

/// Whether a rollout's parameters say when a change has succeeded.
fn says_health(rollout: Option<&serde_json::Value>) -> bool {
    rollout.is_some_and(|rollout| rollout.get("health").is_some())
}
