//! What the fleet knows of a node that must survive: who it is, what it is
//! called, whether it belongs.
//!
//! What a node reports of itself while it runs (state, samples, presence) is no
//! part of this.

use protocol::ErrorCode;
use protocol::id::{NodeId, TokenId};
use protocol::key::PublicKey;
use protocol::label::Labels;
use protocol::selector::Subject;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::digest::Digest;
use crate::domain::fleet::cordon::Cordon;
use crate::domain::rejection::Rejection;

/// Nodes of a fleet, those that left included.
pub const NODES_COUNT_MAX: usize = 200_000;

/// Bytes of a reason, a note, or a fact that a node says of itself.
pub const NODE_TEXT_BYTES_MAX: usize = 256;

/// A host with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id: random, never reused.
    pub id: NodeId,
    /// What people call it; unique among the nodes that have not left.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it belongs.
    pub state: NodeState,
    /// The key by which it signs.
    pub signing_key: PublicKey,
    /// Its newest certificate.
    pub certificate: Option<Certificate>,
    /// SHA-256 of the CA that issued it, its certificate in DER; none where that
    /// was not recorded yet.
    pub authority: Option<Digest>,
    /// Why its identity is in doubt.
    pub suspicion: Option<Suspicion>,
    /// How it was taken out of service, if it was.
    pub cordon: Option<Cordon>,
    /// By which token it joined.
    pub token: TokenId,
    /// When it joined.
    pub joined_at: UnixMillis,
    /// What it said of itself when it joined.
    pub facts: AdmissionFacts,
    /// The node whose place it took.
    pub replaces: Option<NodeId>,
}

/// Whether a node belongs to the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It joined by a token that asks for approval, and waits.
    Pending,
    /// It belongs.
    Active,
    /// It was put out.
    Revoked {
        /// When.
        at: UnixMillis,
        /// Why, in the operator's words.
        reason: String,
    },
    /// Another node took its place.
    Replaced {
        /// When.
        at: UnixMillis,
        /// Which.
        by: NodeId,
    },
}

/// A node's TLS certificate, as far as the fleet must remember it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number, lowercase hexadecimal.
    pub serial: String,
    /// When it ends, in controller time.
    pub expires_at: UnixMillis,
}

/// What a node says of itself when it joins. Not proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionFacts {
    /// The agent's version.
    pub agent_version: String,
    /// The address that the request came from.
    pub address: String,
}

/// A node's identity in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Since when.
    pub since: UnixMillis,
    /// What was seen.
    pub doubt: Doubt,
    /// What was seen, for a person.
    pub detail: String,
}

/// Signs of an identity that is used twice, or of a disk put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// A connect counter that was used before.
    CounterReused,
    /// One position of a stream with two contents.
    ContentDiffers,
    /// A store id other than the one that the node had, without a reason.
    StoreChanged,
    /// Two sessions at once that displace one another.
    SessionsAlternate,
}

impl Node {
    /// What a selector asks about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            name: &self.name,
            labels: &self.labels,
        }
    }

    /// Whether it belongs and may talk.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == NodeState::Active
    }

    /// Refuses what only an active node may be part of.
    pub(crate) fn require_active(&self) -> Result<(), Rejection> {
        if self.is_active() {
            return Ok(());
        }
        Err(Rejection::new(
            ErrorCode::NodeNotActive,
            format!("node {} is {}, not active", self.id, self.state.name()),
        ))
    }

    /// Whether its workloads are taken away, or were.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.cordon
            .as_ref()
            .is_some_and(|cordon| cordon.drain.is_some())
    }

    /// Whether it left for ever.
    #[must_use]
    pub fn has_left(&self) -> bool {
        match self.state {
            NodeState::Pending | NodeState::Active => false,
            NodeState::Revoked { .. } | NodeState::Replaced { .. } => true,
        }
    }
}

impl NodeState {
    /// The state's name, as it is shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked { .. } => "revoked",
            Self::Replaced { .. } => "replaced",
        }
    }
}

impl Doubt {
    /// The doubt's name, as it is shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CounterReused => "counter_reused",
            Self::ContentDiffers => "content_differs",
            Self::StoreChanged => "store_changed",
            Self::SessionsAlternate => "sessions_alternate",
        }
    }
}
