//! The controller's incarnation and the fleet's trust set, as facts that are
//! recorded: the keys themselves are the pki's.

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use protocol::ErrorCode;
use protocol::key::PublicKey;
use protocol::time::UnixMillis;
use protocol::trust::SignedTrust;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{IncarnationRaised, TrustPublished};
use crate::domain::fleet::node::{NODE_TEXT_BYTES_MAX, Node};
use crate::domain::rejection::{Rejection, cut};

/// Controller keys of one trust set: the one in use, and those that overlap.
pub const CONTROLLER_KEYS_MAX: usize = 8;

/// CAs of one trust set: the one that issues, the next one, and one whose
/// certificates are still about. Each is more to send to every node, and one more
/// signature to check in a TLS handshake.
pub const AUTHORITIES_MAX: usize = 3;

/// Nodes that a refusal names; the rest are counted.
const NODES_NAMED_MAX: usize = 5;

/// The trust set in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustState {
    /// Its version; 0 before the first.
    pub version: u64,
    /// The digest of its bytes.
    pub digest: Option<Digest>,
    /// Keys that may sign for the controller.
    pub controller_keys: BTreeSet<PublicKey>,
    /// SHA-256 of each CA's certificate, DER; empty where it was published before
    /// this was recorded.
    pub authorities: BTreeSet<Digest>,
}

/// Raise the controller's incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaiseIncarnation {
    /// An incarnation that a node was seen to hold; the new one is above it and
    /// above the present one. 0 when none was seen.
    pub above: u64,
    /// Why.
    pub reason: String,
}

/// Put a trust set in force that the fleet's root has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTrust {
    /// Its version.
    pub version: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Keys that may sign for the controller.
    pub controller_keys: BTreeSet<PublicKey>,
    /// SHA-256 of each CA's certificate, DER.
    pub authorities: BTreeSet<Digest>,
    /// The set and the root's signature, so that the trail can be verified by the
    /// root's public key: [`signed_text`].
    pub signed: String,
    /// Whether a CA may leave that nodes still need.
    pub retire: Retire,
}

/// What to do about nodes that need a CA which leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Refuse.
    Unused,
    /// Let it leave; its nodes renew by HTTPS.
    Forced,
}

/// A signed trust set on one line: bytes and signature in base64url, with a dot
/// in between.
#[must_use]
pub fn signed_text(signed: &SignedTrust) -> String {
    format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(&signed.bytes),
        BASE64URL_NOPAD.encode(&signed.signature)
    )
}

/// The trust set of a [`signed_text`]; none when it is not one. Nothing is
/// verified.
#[must_use]
pub fn parse_signed(text: &str) -> Option<SignedTrust> {
    let (bytes, signature) = text.split_once('.')?;
    Some(SignedTrust {
        bytes: BASE64URL_NOPAD.decode(bytes.as_bytes()).ok()?,
        signature: BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?,
    })
}

/// Active nodes whose certificate holds and was issued by one of these CAs, or
/// by one that was not recorded.
pub fn nodes_of<'a>(
    fleet: &'a Fleet,
    authorities: &'a BTreeSet<Digest>,
    now: UnixMillis,
) -> impl Iterator<Item = &'a Node> {
    fleet
        .nodes()
        .map(AsRef::as_ref)
        .filter(|node: &&Node| node.is_active())
        .filter(move |node| {
            let holds = node
                .certificate
                .as_ref()
                .is_some_and(|certificate| certificate.expires_at > now);
            holds
                && node
                    .authority
                    .is_none_or(|authority| authorities.contains(&authority))
        })
}

/// Checks that no active node needs a CA that would leave the set.
pub(crate) fn check_retired(
    fleet: &Fleet,
    authorities: &BTreeSet<Digest>,
    now: UnixMillis,
) -> Result<(), Rejection> {
    let leaving: BTreeSet<Digest> = fleet
        .trust()
        .authorities
        .difference(authorities)
        .copied()
        .collect();
    if leaving.is_empty() {
        return Ok(());
    }
    let needing: Vec<&str> = nodes_of(fleet, &leaving, now)
        .map(|node| node.name.as_str())
        .collect();
    if needing.is_empty() {
        return Ok(());
    }
    let named = needing
        .iter()
        .take(NODES_NAMED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let more = match needing.len().saturating_sub(NODES_NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Rejection::new(
        ErrorCode::TrustInUse,
        format!(
            "{} active nodes hold a certificate of the CA that is to leave: {named}{more}",
            needing.len()
        ),
    ))
}

pub(crate) fn raise(fleet: &Fleet, asked: &RaiseIncarnation) -> Result<Vec<Event>, Rejection> {
    let incarnation = fleet
        .incarnation()
        .max(asked.above)
        .checked_add(1)
        .ok_or_else(|| {
            Rejection::new(
                ErrorCode::FleetStale,
                format!("incarnation {} has no successor", asked.above),
            )
        })?;
    Ok(vec![Event::IncarnationRaised(IncarnationRaised {
        incarnation,
        reason: cut(asked.reason.clone(), NODE_TEXT_BYTES_MAX),
    })])
}

pub(crate) fn publish(
    fleet: &Fleet,
    asked: &PublishTrust,
    now: UnixMillis,
) -> Result<Vec<Event>, Rejection> {
    let held = fleet.trust();
    if asked.version == held.version && held.digest == Some(asked.digest) {
        return Ok(Vec::new());
    }
    if asked.version <= held.version {
        return Err(Rejection::new(
            ErrorCode::FleetStale,
            format!(
                "trust set {} is not above {}, which the fleet has",
                asked.version, held.version
            ),
        ));
    }
    if asked.controller_keys.is_empty() || asked.controller_keys.len() > CONTROLLER_KEYS_MAX {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!(
                "trust set {} has {} controller keys; give 1 to {CONTROLLER_KEYS_MAX}",
                asked.version,
                asked.controller_keys.len()
            ),
        ));
    }
    match asked.retire {
        Retire::Unused => check_retired(fleet, &asked.authorities, now)?,
        Retire::Forced => {}
    }
    Ok(vec![Event::TrustPublished(TrustPublished {
        version: asked.version,
        digest: asked.digest,
        controller_keys: asked.controller_keys.clone(),
        authorities: asked.authorities.clone(),
        signed: asked.signed.clone(),
    })])
}
