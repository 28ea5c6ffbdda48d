//! The trust set: what is in it, and how it changes.
//!
//! A change is drafted and signed, here or where the root key is, and comes back
//! by the same door: staged beside the set in force, recorded in the journal, and
//! put in force. What a crash or a full disk left in between is settled by the next
//! start, and before the next change.

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use protocol::ErrorCode;
use protocol::key::PublicKey;
use protocol::message;
use protocol::trust::SignedTrust;

use super::view::trust::{
    AuthorityView, ChangeTrust, InstallTrust, KeyView, TrustChange, TrustChanged, TrustView,
};
use super::{Operations, Who};
use crate::clock;
use crate::domain::fleet::trust::{
    PublishTrust, Retire, check_retired, nodes_of, parse_signed, signed_text,
};
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;
use crate::operation::view::Stamp;
use crate::pki::{Change, CurrentTrust, Duty, PkiError, Staged, TrustFacts, fingerprints};

/// Fewest digits by which a key or CA may be named.
const DIGITS_MIN: usize = 8;

impl Operations {
    /// The trust set in force, and how far nodes are with it.
    ///
    /// # Errors
    /// When it is denied, or the key directory cannot be read.
    pub fn trust(&self, who: &Who) -> Result<TrustView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("trust", "read"), &[])?;
        self.trust_view()
    }

    /// Changes the trust set, or drafts the change for a root key that is
    /// elsewhere. A rotation that runs already is left as it is.
    ///
    /// # Errors
    /// When it is denied; `trust.root_offline` when the root key is not here;
    /// `trust.in_use` when a CA is to leave that is needed.
    pub async fn change_trust(
        &self,
        who: &Who,
        asked: ChangeTrust,
    ) -> Result<TrustChanged, Failure> {
        let fleet = self.engine.fleet();
        // Before a key is made; the engine asks again when the set is recorded.
        self.may(who, &fleet, ("trust", "rotate"), &[])?;
        let _one_at_a_time = self.trusting.lock().await;
        let pki = &self.about.pki;
        self.settle()?;
        let now = clock::now();
        let change = match asked.change {
            TrustChange::RotateSigningKey => Change::RotateSigning,
            TrustChange::RotateCa => Change::RotateAuthority,
            TrustChange::RetireCa => {
                let facts = pki.trust_facts().map_err(failure)?;
                let all = facts.authorities.iter().map(|(digest, ..)| *digest);
                Change::RetireAuthority(find("CA", asked.which.as_deref(), all)?.0)
            }
            TrustChange::RetireSigningKey => {
                let facts = pki.trust_facts().map_err(failure)?;
                let all = facts.keys.iter().map(|(key, _)| *key);
                Change::RetireSigning(find("signing key", asked.which.as_deref(), all)?)
            }
            TrustChange::AddReleaseKey => {
                let text = asked.which.as_deref().unwrap_or_default();
                let key = text.parse::<PublicKey>();
                let key =
                    key.map_err(|e| Failure::new(ErrorCode::RequestInvalid, e.to_string()))?;
                Change::AddRelease(key)
            }
            TrustChange::RemoveReleaseKey => {
                let facts = pki.trust_facts().map_err(failure)?;
                let all = facts.set.release_keys.iter().copied();
                Change::RemoveRelease(find("release key", asked.which.as_deref(), all)?)
            }
        };
        let Some(set) = pki.draft(change, now).map_err(failure)? else {
            return Ok(TrustChanged {
                changed: false,
                request: None,
                trust: self.trust_view()?,
            });
        };
        let retire = retire(asked.force);
        if retire == Retire::Unused {
            check_retired(&fleet, &fingerprints(&set).into_iter().collect(), now)?;
        }
        if asked.unsigned {
            return Ok(TrustChanged {
                changed: false,
                request: Some(BASE64URL_NOPAD.encode(&message::encode(&set))),
                trust: self.trust_view()?,
            });
        }
        let signed = pki.sign(&set).map_err(failure)?;
        self.put_in_force(who, signed, retire).await
    }

    /// Puts a trust set in force that was signed where the root key is.
    ///
    /// # Errors
    /// When it is denied; `trust.invalid` when the root did not sign it or it is
    /// another fleet's, `trust.stale` when it is not newer than the one in force,
    /// `trust.unfit` when the controller could not work under it, `trust.in_use`
    /// when nodes need a CA that is not in it.
    pub async fn install_trust(
        &self,
        who: &Who,
        asked: InstallTrust,
    ) -> Result<TrustChanged, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("trust", "rotate"), &[])?;
        let signed = parse_signed(asked.signed.trim())
            .ok_or_else(|| Failure::new(ErrorCode::TrustInvalid, "this is no signed trust set"))?;
        let _one_at_a_time = self.trusting.lock().await;
        self.settle()?;
        self.put_in_force(who, signed, retire(asked.force)).await
    }

    /// A set that the journal holds, and that could not be put in force when it was
    /// recorded, comes before any other.
    fn settle(&self) -> Result<(), Failure> {
        let recorded = self.engine.fleet().trust().digest;
        self.about.pki.settle(recorded).map_err(failure)
    }

    async fn put_in_force(
        &self,
        who: &Who,
        signed: SignedTrust,
        retire: Retire,
    ) -> Result<TrustChanged, Failure> {
        let pki = &self.about.pki;
        let staged = pki.stage(signed, clock::now()).map_err(failure)?;
        let operation = Operation::PublishTrust(publication(&staged, retire));
        self.submit(who, operation).await?;
        pki.install(staged).map_err(failure)?;
        Ok(TrustChanged {
            changed: true,
            request: None,
            trust: self.trust_view()?,
        })
    }

    fn trust_view(&self) -> Result<TrustView, Failure> {
        let facts = self.about.pki.trust_facts().map_err(failure)?;
        let fleet = self.engine.fleet();
        let (mut current, mut behind, mut unheard) = (0, 0, 0);
        for node in fleet.nodes().filter(|node| node.is_active()) {
            match self.uplink.presence(node.id).trust_version {
                Some(held) if held >= facts.set.version => current += 1,
                Some(_) => behind += 1,
                None => unheard += 1,
            }
        }
        let now = clock::now();
        let authorities = facts
            .authorities
            .iter()
            .map(|(fingerprint, expires_at, duty)| {
                let only = BTreeSet::from([*fingerprint]);
                let nodes = nodes_of(&fleet, &only, now).count();
                let (duty, from) = duty_text(*duty);
                AuthorityView {
                    fingerprint: fingerprint.to_string(),
                    duty,
                    from,
                    expires_at: (*expires_at).into(),
                    nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
                }
            })
            .collect();
        Ok(TrustView {
            fleet: fleet.id().to_string(),
            version: facts.set.version,
            digest: facts.digest.to_string(),
            issued_at: facts.set.issued_at.into(),
            root: self.about.pki.root().to_string(),
            root_here: facts.has_root,
            keys: key_views(&facts),
            authorities,
            release_keys: facts
                .set
                .release_keys
                .iter()
                .map(ToString::to_string)
                .collect(),
            nodes_current: current,
            nodes_behind: behind,
            nodes_unheard: unheard,
        })
    }
}

/// The key or CA of the set that is named by its digits, or by the first of them.
fn find<T: ToString>(
    kind: &str,
    which: Option<&str>,
    all: impl Iterator<Item = T>,
) -> Result<T, Failure> {
    let text = which.unwrap_or_default().to_ascii_lowercase();
    let is_hex = text.chars().all(|digit| digit.is_ascii_hexdigit());
    if text.len() < DIGITS_MIN || !is_hex {
        return Err(Failure::new(
            ErrorCode::RequestInvalid,
            format!("a {kind} is named by at least {DIGITS_MIN} of its hex digits, as shown"),
        ));
    }
    let mut found: Vec<T> = all
        .filter(|one| one.to_string().starts_with(&text))
        .collect();
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (last, others) => Err(Failure::new(
            ErrorCode::TrustNotFound,
            format!(
                "the trust set has {} of the kind {kind} that begin with {text}",
                others + usize::from(last.is_some())
            ),
        )),
    }
}

fn key_views(facts: &TrustFacts) -> Vec<KeyView> {
    facts
        .keys
        .iter()
        .map(|(key, duty)| {
            let (duty, from) = duty_text(*duty);
            KeyView {
                id: key.id().to_string(),
                public_key: key.to_string(),
                duty,
                from,
            }
        })
        .collect()
}

fn duty_text(duty: Duty) -> (String, Option<Stamp>) {
    match duty {
        Duty::InUse => ("in_use".to_owned(), None),
        Duty::Next { from } => ("next".to_owned(), Some(from.into())),
        Duty::Before => ("before".to_owned(), None),
    }
}

fn retire(force: bool) -> Retire {
    if force {
        Retire::Forced
    } else {
        Retire::Unused
    }
}

/// What the journal records of a staged set.
fn publication(staged: &Staged, retire: Retire) -> PublishTrust {
    let current = CurrentTrust {
        version: staged.set.version,
        signed: staged.signed.clone(),
    };
    PublishTrust {
        version: current.version,
        digest: current.digest(),
        controller_keys: staged.set.controller_keys.iter().copied().collect(),
        authorities: fingerprints(&staged.set).into_iter().collect(),
        signed: signed_text(&staged.signed),
        retire,
    }
}

fn failure(error: PkiError) -> Failure {
    if error.is_fault() {
        Failure::fault(error.code(), "the key directory cannot be used", &error)
    } else {
        Failure::new(error.code(), error.to_string())
    }
}
