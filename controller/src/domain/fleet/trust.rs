//! The controller's incarnation and the fleet's trust set, as facts that are
//! recorded: the keys themselves are the pki's.

use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::key::PublicKey;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{IncarnationRaised, TrustPublished};
use crate::domain::fleet::node::NODE_TEXT_BYTES_MAX;
use crate::domain::rejection::{Rejection, cut};

/// Controller keys of one trust set: the one in use, and those that overlap.
pub const CONTROLLER_KEYS_MAX: usize = 8;

/// The trust set in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustState {
    /// Its version; 0 before the first.
    pub version: u64,
    /// The digest of its bytes.
    pub digest: Option<Digest>,
    /// Keys that may sign for the controller.
    pub controller_keys: BTreeSet<PublicKey>,
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

pub(crate) fn publish(fleet: &Fleet, asked: &PublishTrust) -> Result<Vec<Event>, Rejection> {
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
    Ok(vec![Event::TrustPublished(TrustPublished {
        version: asked.version,
        digest: asked.digest,
        controller_keys: asked.controller_keys.clone(),
    })])
}
