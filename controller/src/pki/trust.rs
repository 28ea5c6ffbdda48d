//! The controller's signing key, the fleet's root key, and the trust set.
//!
//! A rotation has two durable steps: the next key and a trust set with both keys
//! are written first; once the overlap has passed, the next key takes the place
//! of the old one. A crash between any two writes leaves a state that the next
//! start understands.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::FleetId;
use protocol::key::{PublicKey, SigningKey};
use protocol::message;
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustSet};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

use super::authority::{Authority, make_error};
use super::files::KeyDirectory;
use super::{CurrentTrust, PkiError};

const SIGNING: &str = "signing.key";
const NEXT: &str = "signing.next.key";
const ROOT: &str = "root.key";
const ROOT_PUBLIC: &str = "root.pub";
const TRUST: &str = "trust.bin";

/// Keys of the controller that a trust set holds: the one in use, the next one,
/// and the one before, for messages that are still under way.
const CONTROLLER_KEYS_MAX: usize = 3;

/// The keys and the set in force.
pub(super) struct Trust {
    pub(super) root: PublicKey,
    pub(super) signing: Arc<SigningKey>,
    set: TrustSet,
    signed: SignedTrust,
}

impl Trust {
    /// Reads keys and set, or makes them when there is no set yet.
    pub(super) fn open(
        files: &KeyDirectory,
        fleet: FleetId,
        authority: &Authority,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        if files.read(TRUST)?.is_none() {
            make(files, fleet, authority, now)?;
        }
        let root: PublicKey = files
            .require_text(ROOT_PUBLIC)?
            .trim()
            .parse()
            .map_err(|error| files.damaged(ROOT_PUBLIC, error))?;
        let signed: SignedTrust = message::decode_exactly(&files.require(TRUST)?)
            .map_err(|reason| files.damaged(TRUST, reason))?;
        let set = signed
            .verify(&root, fleet, 0)
            .map_err(|error| files.damaged(TRUST, error))?;
        let signing = read_key(files, SIGNING)?;
        if !set.controller_keys.contains(&signing.public()) {
            return Err(files.damaged(SIGNING, "the trust set does not hold it"));
        }
        Ok(Self {
            root,
            signing: Arc::new(signing),
            set,
            signed,
        })
    }

    pub(super) fn current(&self) -> CurrentTrust {
        CurrentTrust {
            version: self.set.version,
            signed: self.signed.clone(),
        }
    }

    /// Makes the next signing key and a set that holds both.
    pub(super) fn begin_rotation(
        &mut self,
        files: &KeyDirectory,
        fleet: FleetId,
        authority: &Authority,
        now: UnixMillis,
    ) -> Result<(), PkiError> {
        if files.read(ROOT)?.is_none() {
            return Err(PkiError::RootOffline {
                path: files.path_of(ROOT),
            });
        }
        let root = read_key(files, ROOT)?;
        if root.public() != self.root {
            return Err(files.damaged(ROOT, "it is not the root key that nodes pinned"));
        }
        let next = match files.read(NEXT)? {
            Some(_) => read_key(files, NEXT)?,
            None => make_key(files, NEXT)?,
        };
        if self.set.controller_keys.contains(&next.public()) {
            return Ok(());
        }
        let mut controller_keys = vec![next.public(), self.signing.public()];
        for key in &self.set.controller_keys {
            if !controller_keys.contains(key) && controller_keys.len() < CONTROLLER_KEYS_MAX {
                controller_keys.push(*key);
            }
        }
        let set = TrustSet {
            fleet,
            version: self.set.version + 1,
            issued_at: now,
            controller_keys,
            authorities: vec![authority.pem().to_owned()],
            release_keys: self.set.release_keys.clone(),
        };
        let signed = set.sign(&root);
        files.write(TRUST, &message::encode(&signed))?;
        self.set = set;
        self.signed = signed;
        Ok(())
    }

    /// Puts the next key in place of the old one, once the overlap has passed.
    pub(super) fn finish_rotation(
        &mut self,
        files: &KeyDirectory,
        now: UnixMillis,
        overlap: Duration,
    ) -> Result<bool, PkiError> {
        if now < self.set.issued_at.after(overlap) {
            return Ok(false);
        }
        let Some(bytes) = files.read(NEXT)? else {
            return Ok(false);
        };
        let next = read_key(files, NEXT)?;
        if !self.set.controller_keys.contains(&next.public()) {
            // A crash before the set was written: the rotation never began.
            return Ok(false);
        }
        files.write(SIGNING, &bytes)?;
        files.remove(NEXT)?;
        self.signing = Arc::new(next);
        Ok(true)
    }
}

fn make(
    files: &KeyDirectory,
    fleet: FleetId,
    authority: &Authority,
    now: UnixMillis,
) -> Result<(), PkiError> {
    let root = make_key(files, ROOT)?;
    files.write(ROOT_PUBLIC, root.public().to_string().as_bytes())?;
    let signing = make_key(files, SIGNING)?;
    let set = TrustSet {
        fleet,
        version: 1,
        issued_at: now,
        controller_keys: vec![signing.public()],
        authorities: vec![authority.pem().to_owned()],
        release_keys: Vec::new(),
    };
    // Written last: before it nothing was handed out.
    files.write(TRUST, &message::encode(&set.sign(&root)))
}

fn make_key(files: &KeyDirectory, name: &'static str) -> Result<SigningKey, PkiError> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|error| make_error("a signing key", error))?;
    files.write(name, pkcs8.as_ref())?;
    read_key(files, name)
}

fn read_key(files: &KeyDirectory, name: &str) -> Result<SigningKey, PkiError> {
    SigningKey::from_pkcs8(&files.require(name)?).map_err(|error| files.damaged(name, error))
}
