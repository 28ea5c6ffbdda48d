//! The controller's signing key, the fleet's root key, and the trust set.
//!
//! Every change of the set takes the same way: it is drafted, signed by the root
//! key, here or wherever that is, staged in a file, and put in force once the
//! journal holds it. A rotation begins with a set that holds the next key or CA
//! beside the one in use; once the overlap has passed, the next takes the place
//! of the other without a new set. It leaves the set by another change.
//!
//! **Invariant:** a set in force holds the key that signs and the CA that issues.
//! A crash between any two writes leaves a state that the next start understands:
//! a next key that no set holds was never announced and is used by the next
//! draft; a staged set counts if the journal holds its digest; and a takeover
//! that was interrupted is brought to its end.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::FleetId;
use protocol::key::{PublicKey, SigningKey};
use protocol::message;
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustError, TrustSet};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::authority::{Authority, make_error};
use super::certificate::{Validity, fingerprint_of_pem};
use super::files::KeyDirectory;
use super::{CurrentTrust, PkiError};
use crate::domain::digest::Digest;
use crate::domain::fleet::trust::AUTHORITIES_MAX;

pub(super) const SIGNING: &str = "signing.key";
const NEXT: &str = "signing.next.key";
/// The file of the root key, as long as it is here.
pub(crate) const ROOT: &str = "root.key";
pub(super) const ROOT_PUBLIC: &str = "root.pub";
pub(super) const TRUST: &str = "trust.bin";
const STAGED: &str = "trust.staged.bin";

/// When a set with the next key came into force: milliseconds since 1970, as text.
/// The set's own time is that of its signature, which may be weeks older.
const NEXT_SINCE: &str = "signing.next.since";
const NEXT_AUTHORITY_SINCE: &str = "ca.next.since";

/// Keys of the controller that a trust set holds: the one in use, the next one,
/// and the one before, for messages that are still under way.
const CONTROLLER_KEYS_MAX: usize = 3;

/// Release keys that a trust set holds: of each maker one in use and the next one.
const RELEASE_KEYS_MAX: usize = 8;

/// A change of the trust set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Announce the next signing key.
    RotateSigning,
    /// Announce the next CA.
    RotateAuthority,
    /// Take a CA out, by SHA-256 of its certificate.
    RetireAuthority([u8; 32]),
    /// Take a signing key out.
    RetireSigning(PublicKey),
    /// Believe releases that a key signed.
    AddRelease(PublicKey),
    /// Believe them no longer.
    RemoveRelease(PublicKey),
}

/// What a key or CA of the trust set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It signs or issues.
    InUse,
    /// It will from then on.
    Next {
        /// When the overlap ends.
        from: UnixMillis,
    },
    /// It did; what it signed or issued is still believed.
    Before,
}

/// The trust set in force, key by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustFacts {
    /// The set.
    pub set: TrustSet,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Whether the root key is here.
    pub has_root: bool,
    /// The controller's keys.
    pub keys: Vec<(PublicKey, Duty)>,
    /// The CAs: fingerprint, end of their certificate, duty.
    pub authorities: Vec<(Digest, UnixMillis, Duty)>,
}

/// A signed set that fits, written down but not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The set.
    pub set: TrustSet,
    /// As it travels.
    pub signed: SignedTrust,
}

/// The keys and the set in force.
pub(super) struct Trust {
    pub(super) root: PublicKey,
    pub(super) signing: Arc<SigningKey>,
    pub(super) authority: Authority,
    fleet: FleetId,
    set: TrustSet,
    signed: SignedTrust,
}

impl Trust {
    /// Reads keys and set, or makes them when there is no set yet.
    pub(super) fn open(
        files: &KeyDirectory,
        fleet: FleetId,
        now: UnixMillis,
    ) -> Result<Self, PkiError> {
        let authority = Authority::open(files, fleet, now)?;
        if files.read(TRUST)?.is_none() {
            make(files, fleet, &authority, now)?;
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
        if !holds(&set, authority.fingerprint()) {
            return Err(files.damaged("ca.pem", "the trust set does not hold it"));
        }
        Ok(Self {
            root,
            signing: Arc::new(signing),
            authority,
            fleet,
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

    /// The CAs of the set in force.
    pub(super) fn authorities(
        &self,
        files: &KeyDirectory,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        self.set
            .authorities
            .iter()
            .map(|pem| {
                CertificateDer::from_pem_slice(pem.as_bytes())
                    .map_err(|error| files.damaged(TRUST, error))
            })
            .collect()
    }

    /// The CAs of the set in force, PEM.
    pub(super) fn authorities_pem(&self) -> String {
        self.set.authorities.concat()
    }

    /// The set that a change leads to; none when it is in force already. Makes the
    /// next key or CA where there is none.
    pub(super) fn draft(
        &self,
        files: &KeyDirectory,
        change: Change,
        now: UnixMillis,
    ) -> Result<Option<TrustSet>, PkiError> {
        let mut set = TrustSet {
            version: self.set.version + 1,
            issued_at: now,
            ..self.set.clone()
        };
        match change {
            Change::RotateSigning => {
                let next = match files.read(NEXT)? {
                    Some(_) => read_key(files, NEXT)?,
                    None => make_key(files, NEXT)?,
                };
                if self.set.controller_keys.contains(&next.public()) {
                    return Ok(None);
                }
                set.controller_keys = vec![next.public(), self.signing.public()];
                for key in &self.set.controller_keys {
                    if !set.controller_keys.contains(key)
                        && set.controller_keys.len() < CONTROLLER_KEYS_MAX
                    {
                        set.controller_keys.push(*key);
                    }
                }
            }
            Change::RotateAuthority => {
                let waiting = Authority::next(files, self.fleet)?;
                if let Some(next) = &waiting
                    && self.holds(next.fingerprint())
                {
                    return Ok(None);
                }
                if self.set.authorities.len() >= AUTHORITIES_MAX {
                    return Err(PkiError::TooManyAuthorities);
                }
                let next = match waiting {
                    Some(next) => next,
                    None => self.authority.make_next(files, self.fleet, now)?,
                };
                set.authorities.push(next.pem().to_owned());
            }
            Change::RetireAuthority(fingerprint) => {
                if !self.holds(fingerprint) {
                    return Err(PkiError::UnknownAuthority {
                        fingerprint: Digest(fingerprint),
                    });
                }
                if fingerprint == self.authority.fingerprint() {
                    return Err(PkiError::AuthorityInUse {
                        fingerprint: Digest(fingerprint),
                    });
                }
                set.authorities
                    .retain(|pem| fingerprint_of_pem(pem) != Some(fingerprint));
            }
            Change::RetireSigning(key) => {
                if !self.set.controller_keys.contains(&key) {
                    return Err(PkiError::UnknownSigning { key });
                }
                if key == self.signing.public() {
                    return Err(PkiError::SigningInUse { key });
                }
                set.controller_keys.retain(|held| *held != key);
            }
            Change::AddRelease(key) => {
                if self.set.release_keys.contains(&key) {
                    return Ok(None);
                }
                set.release_keys.push(key);
            }
            Change::RemoveRelease(key) => {
                if !self.set.release_keys.contains(&key) {
                    return Ok(None);
                }
                set.release_keys.retain(|held| *held != key);
            }
        }
        Ok(Some(set))
    }

    /// Signs a set by the root key, which must be here.
    pub(super) fn sign(
        &self,
        files: &KeyDirectory,
        set: &TrustSet,
    ) -> Result<SignedTrust, PkiError> {
        if files.read(ROOT)?.is_none() {
            return Err(PkiError::RootOffline);
        }
        let root = read_key(files, ROOT)?;
        if root.public() != self.root {
            return Err(files.damaged(ROOT, "it is not the root key that nodes pinned"));
        }
        Ok(set.sign(&root))
    }

    /// Checks a signed set and writes it beside the one in force.
    pub(super) fn stage(
        &self,
        files: &KeyDirectory,
        signed: SignedTrust,
        now: UnixMillis,
    ) -> Result<Staged, PkiError> {
        let set = signed
            .verify(&self.root, self.fleet, self.set.version)
            .map_err(PkiError::Trust)?;
        self.check_fit(&set)?;
        // The overlap begins here. These times are in place before any set with
        // the next key is, and are written anew until one is.
        if let Some(bytes) = files.read(NEXT)? {
            let next = parse_key(files, NEXT, &bytes)?.public();
            if set.controller_keys.contains(&next) && !self.set.controller_keys.contains(&next) {
                files.write(NEXT_SINCE, now.0.to_string().as_bytes())?;
            }
        }
        if let Some(next) = Authority::next(files, self.fleet)?
            && holds(&set, next.fingerprint())
            && !self.holds(next.fingerprint())
        {
            files.write(NEXT_AUTHORITY_SINCE, now.0.to_string().as_bytes())?;
        }
        files.write(STAGED, &message::encode(&signed))?;
        Ok(Staged { set, signed })
    }

    /// Whether the controller could work under a set.
    fn check_fit(&self, set: &TrustSet) -> Result<(), PkiError> {
        let unfit = |reason: &str| PkiError::Unfit {
            reason: reason.to_owned(),
        };
        if !set.controller_keys.contains(&self.signing.public()) {
            return Err(unfit("the key that signs now is not in it"));
        }
        if set.controller_keys.len() > CONTROLLER_KEYS_MAX {
            return Err(unfit("it holds too many controller keys"));
        }
        if !holds(set, self.authority.fingerprint()) {
            return Err(unfit("the CA that issues now is not in it"));
        }
        if set.authorities.len() > AUTHORITIES_MAX {
            return Err(unfit("it holds too many CAs"));
        }
        if set.release_keys.len() > RELEASE_KEYS_MAX {
            return Err(unfit("it holds too many release keys"));
        }
        if set
            .authorities
            .iter()
            .any(|pem| fingerprint_of_pem(pem).is_none())
        {
            return Err(unfit("one of its CAs is no certificate"));
        }
        Ok(())
    }

    /// Puts a staged set in force.
    pub(super) fn install(&mut self, files: &KeyDirectory, staged: Staged) -> Result<(), PkiError> {
        self.give_up_announced(files, &staged.set)?;
        files.write(TRUST, &message::encode(&staged.signed))?;
        self.set = staged.set;
        self.signed = staged.signed;
        files.remove(STAGED)
    }

    /// A next key or CA that was announced and is in the set no longer was called
    /// off, and is never drafted again. Before the new set, so that no crash leaves
    /// it looking as if it had never been announced.
    fn give_up_announced(&self, files: &KeyDirectory, to: &TrustSet) -> Result<(), PkiError> {
        if let Some(bytes) = files.read(NEXT)? {
            let next = parse_key(files, NEXT, &bytes)?.public();
            let held = |set: &TrustSet| set.controller_keys.contains(&next);
            if held(&self.set) && !held(to) {
                files.remove(NEXT)?;
                files.remove(NEXT_SINCE)?;
            }
        }
        if let Some(next) = Authority::next(files, self.fleet)?
            && self.holds(next.fingerprint())
            && !holds(to, next.fingerprint())
        {
            Authority::forget_next(files)?;
            files.remove(NEXT_AUTHORITY_SINCE)?;
        }
        Ok(())
    }

    /// Decides about a set that a crash left staged: it counts if the journal
    /// holds its digest. Says whether it came into force.
    pub(super) fn settle(
        &mut self,
        files: &KeyDirectory,
        recorded: Option<Digest>,
    ) -> Result<bool, PkiError> {
        let Some(bytes) = files.read(STAGED)? else {
            return Ok(false);
        };
        let staged = message::decode_exactly::<SignedTrust>(&bytes)
            .ok()
            .filter(|signed| recorded == Some(digest_of(signed)))
            .and_then(|signed| {
                let set = signed.verify(&self.root, self.fleet, self.set.version);
                set.ok().map(|set| Staged { set, signed })
            });
        match staged {
            Some(staged) => self.install(files, staged).map(|()| true),
            None => files.remove(STAGED).map(|()| false),
        }
    }

    /// Puts the next signing key in place of the old one, once the overlap has
    /// passed. Says whether it did.
    pub(super) fn finish_signing(
        &mut self,
        files: &KeyDirectory,
        now: UnixMillis,
        overlap: Duration,
    ) -> Result<bool, PkiError> {
        let Some((next, from)) = self.next_signing(files, overlap)? else {
            return Ok(false);
        };
        if now < from {
            return Ok(false);
        }
        files.write(SIGNING, &files.require(NEXT)?)?;
        files.remove(NEXT)?;
        files.remove(NEXT_SINCE)?;
        self.signing = Arc::new(next);
        Ok(true)
    }

    /// Puts the next CA in place of the old one, once the overlap has passed. Says
    /// whether it did.
    pub(super) fn finish_authority(
        &mut self,
        files: &KeyDirectory,
        now: UnixMillis,
        overlap: Duration,
    ) -> Result<bool, PkiError> {
        let Some((_, from)) = self.next_authority(files, overlap)? else {
            return Ok(false);
        };
        if now < from {
            return Ok(false);
        }
        self.authority = Authority::take_over(files, self.fleet)?;
        files.remove(NEXT_AUTHORITY_SINCE)?;
        Ok(true)
    }

    /// The next signing key, when the set in force announces it, and from when on
    /// it signs.
    fn next_signing(
        &self,
        files: &KeyDirectory,
        overlap: Duration,
    ) -> Result<Option<(SigningKey, UnixMillis)>, PkiError> {
        let Some(bytes) = files.read(NEXT)? else {
            return Ok(None);
        };
        let next = parse_key(files, NEXT, &bytes)?;
        if !self.set.controller_keys.contains(&next.public()) {
            return Ok(None);
        }
        let since = self.since(files, NEXT_SINCE)?;
        Ok(Some((next, since.after(overlap))))
    }

    /// The next CA, when the set in force announces it, and from when on it
    /// issues.
    fn next_authority(
        &self,
        files: &KeyDirectory,
        overlap: Duration,
    ) -> Result<Option<([u8; 32], UnixMillis)>, PkiError> {
        let next = Authority::next(files, self.fleet)?.map(|next| next.fingerprint());
        let Some(next) = next.filter(|next| self.holds(*next)) else {
            return Ok(None);
        };
        let since = self.since(files, NEXT_AUTHORITY_SINCE)?;
        Ok(Some((next, since.after(overlap))))
    }

    /// When the set that announced something came into force.
    fn since(&self, files: &KeyDirectory, name: &str) -> Result<UnixMillis, PkiError> {
        let Some(bytes) = files.read(name)? else {
            return Ok(self.set.issued_at);
        };
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .map(UnixMillis)
            .ok_or_else(|| files.damaged(name, "it is not a time"))
    }

    fn holds(&self, fingerprint: [u8; 32]) -> bool {
        holds(&self.set, fingerprint)
    }

    /// The set in force, key by key.
    pub(super) fn facts(
        &self,
        files: &KeyDirectory,
        overlap: Duration,
    ) -> Result<TrustFacts, PkiError> {
        let signing = self.signing.public();
        let next = self.next_signing(files, overlap)?;
        let keys = self
            .set
            .controller_keys
            .iter()
            .map(|key| {
                let duty = match &next {
                    _ if *key == signing => Duty::InUse,
                    Some((next, from)) if *key == next.public() => Duty::Next { from: *from },
                    Some(_) | None => Duty::Before,
                };
                (*key, duty)
            })
            .collect();
        let issuing = self.authority.fingerprint();
        let next = self.next_authority(files, overlap)?;
        let authorities = self
            .authorities(files)?
            .iter()
            .map(|certificate| {
                let fingerprint = super::certificate::fingerprint(certificate);
                let duty = match next {
                    _ if fingerprint == issuing => Duty::InUse,
                    Some((next, from)) if fingerprint == next => Duty::Next { from },
                    Some(_) | None => Duty::Before,
                };
                let validity =
                    Validity::read(certificate).map_err(|error| files.damaged(TRUST, error))?;
                Ok((Digest(fingerprint), validity.not_after, duty))
            })
            .collect::<Result<_, PkiError>>()?;
        Ok(TrustFacts {
            set: self.set.clone(),
            digest: digest_of(&self.signed),
            has_root: files.read(ROOT)?.is_some(),
            keys,
            authorities,
        })
    }
}

/// The digest by which the journal names a set.
pub(super) fn digest_of(signed: &SignedTrust) -> Digest {
    Digest::of("flotilla trust set", &[&signed.bytes])
}

/// Signs the bytes of a set by a root key that lies in a file of its own, away
/// from any controller.
///
/// # Errors
/// When the bytes are no trust set, or the key is none.
pub fn sign_offline(bytes: &[u8], root_pkcs8: &[u8]) -> Result<(TrustSet, SignedTrust), PkiError> {
    let set: TrustSet = message::decode_exactly(bytes)
        .map_err(|reason| PkiError::Trust(TrustError::Malformed(reason)))?;
    let root = SigningKey::from_pkcs8(root_pkcs8).map_err(|error| PkiError::Unfit {
        reason: format!("the root key is none: {error}"),
    })?;
    let signed = set.sign(&root);
    Ok((set, signed))
}

/// SHA-256 of each CA of a set, its certificate in DER.
#[must_use]
pub fn fingerprints(set: &TrustSet) -> Vec<Digest> {
    set.authorities
        .iter()
        .filter_map(|pem| fingerprint_of_pem(pem))
        .map(Digest)
        .collect()
}

fn holds(set: &TrustSet, fingerprint: [u8; 32]) -> bool {
    set.authorities
        .iter()
        .any(|pem| fingerprint_of_pem(pem) == Some(fingerprint))
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
    parse_key(files, name, &files.require(name)?)
}

fn parse_key(files: &KeyDirectory, name: &str, bytes: &[u8]) -> Result<SigningKey, PkiError> {
    SigningKey::from_pkcs8(bytes).map_err(|error| files.damaged(name, error))
}
