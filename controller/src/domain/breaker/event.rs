//! What happens to breakers and to the policy.

use std::collections::BTreeSet;

use protocol::breaker::machine::Transition;
use protocol::id::NodeId;
use protocol::key::KeyId;
use protocol::selector::Selector;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::breaker::definition::{Definition, Group};
use crate::domain::digest::Digest;

/// A breaker was defined, or defined anew. It keeps its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerDefined {
    /// What it is from here on.
    pub definition: Box<Definition>,
}

/// A breaker was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerRemoved {
    /// Its name.
    pub breaker: String,
}

/// For how long nodes go on without a word from the controller was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSet {
    /// Seconds of silence after which nodes refuse what can be gated.
    pub lease_s: u64,
}

/// A breaker moved from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerMoved {
    /// Its name.
    pub breaker: String,
    /// For which part of the fleet.
    pub group: Group,
    /// From where to where, and on which evidence.
    pub transition: Transition,
    /// The nodes that may try, when it became half-open.
    pub probes: BTreeSet<NodeId>,
}

/// Some nodes may pass a breaker for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOverridden {
    /// The override's number, from 1; never used again.
    pub number: u64,
    /// The breaker that is passed.
    pub breaker: String,
    /// The nodes that may.
    pub nodes: Selector,
    /// Until when.
    pub until: UnixMillis,
    /// Who said so, by name.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
}

/// An override is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideEnded {
    /// Its number.
    pub number: u64,
    /// How.
    pub why: OverrideEnd,
}

/// How an override ended. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverrideEnd {
    /// Its time passed.
    Expired,
    /// Someone took it back.
    Withdrawn,
}

/// The policy that nodes obey got a new number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPublished {
    /// Its epoch.
    pub epoch: u64,
    /// The digest of what it says, number and time apart.
    pub digest: Digest,
    /// The key that signs it; none where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<KeyId>,
}
