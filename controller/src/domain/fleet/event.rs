//! What happened to nodes, join tokens and the fleet itself.
//!
//! Stored for ever: a field is only added with `#[serde(default)]`, a change of
//! meaning is a new version (see [`crate::domain::event`]). When and by whom is
//! said by the record around the event.

use std::collections::BTreeSet;

use protocol::id::{NodeId, TokenId};
use protocol::key::PublicKey;
use protocol::label::Labels;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::key::SecretDigest;
use crate::domain::digest::Digest;
use crate::domain::fleet::cordon::{AfterDrain, DrainOutcome};
use crate::domain::fleet::node::{AdmissionFacts, Certificate, Doubt};
use crate::domain::fleet::token::Approval;

/// A join token was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// Its serial.
    pub token: TokenId,
    /// The digest of its secret.
    pub secret: SecretDigest,
    /// Labels of the nodes that join by it.
    pub labels: Labels,
    /// From when on it is refused.
    pub expires_at: UnixMillis,
    /// How many nodes may join by it.
    pub uses_max: u32,
    /// Whether an operator must approve them.
    pub approval: Approval,
    /// The node whose name, labels and duties the joining one takes over.
    pub replaces: Option<NodeId>,
}

/// A join token was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// Which.
    pub token: TokenId,
}

/// A node joined; its token has one use less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJoined {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its labels, from the token.
    pub labels: Labels,
    /// The key by which it signs.
    pub signing_key: PublicKey,
    /// By which token.
    pub token: TokenId,
    /// Whether it waits for an operator.
    pub approval: Approval,
    /// What it said of itself.
    pub facts: AdmissionFacts,
}

/// An operator let a waiting node in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeApproved {
    /// Which.
    pub node: NodeId,
}

/// A node got another name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRenamed {
    /// Which.
    pub node: NodeId,
    /// Its name from here on.
    pub name: String,
}

/// A node's labels changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRelabelled {
    /// Which.
    pub node: NodeId,
    /// All its labels from here on.
    pub labels: Labels,
}

/// A node was put out of the fleet, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRevoked {
    /// Which.
    pub node: NodeId,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Nodes were taken out of service: they get nothing that they do not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesCordoned {
    /// Which.
    pub nodes: BTreeSet<NodeId>,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Nodes were put into service again; what was being drained is drained no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesUncordoned {
    /// Which.
    pub nodes: BTreeSet<NodeId>,
    /// Why, in the operator's words.
    pub reason: String,
}

/// The workloads of nodes are to be taken away; the nodes are cordoned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStarted {
    /// Which.
    pub nodes: BTreeSet<NodeId>,
    /// Why, in the operator's words.
    pub reason: String,
    /// Until when that is tried.
    pub until: UnixMillis,
    /// What follows.
    pub then: AfterDrain,
}

/// A drain ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainEnded {
    /// Of which node.
    pub node: NodeId,
    /// How.
    pub how: DrainOutcome,
    /// Deployments that are left on it.
    pub left: u32,
}

/// A node took over the name, labels and duties of another, which left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReplaced {
    /// The one that left.
    pub old: NodeId,
    /// The one in its place.
    pub new: NodeId,
}

/// A node got a certificate, its first or a renewed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCertified {
    /// Which node.
    pub node: NodeId,
    /// The certificate.
    pub certificate: Certificate,
    /// SHA-256 of the CA that issued it, its certificate in DER; none where that
    /// was not recorded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Digest>,
}

/// A node's identity came into doubt: gated work stops on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentitySuspected {
    /// Which node.
    pub node: NodeId,
    /// What was seen.
    pub doubt: Doubt,
    /// What was seen, for a person.
    pub detail: String,
}

/// An operator found a node's identity sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityResolved {
    /// Which node.
    pub node: NodeId,
    /// What was found, in the operator's words.
    pub note: String,
}

/// The controller's incarnation rose: it was restored, or starts anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationRaised {
    /// The incarnation from here on.
    pub incarnation: u64,
    /// Why.
    pub reason: String,
}

/// A trust set was signed by the fleet's root and published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustPublished {
    /// Its version.
    pub version: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Keys that may sign for the controller while it is in force.
    pub controller_keys: BTreeSet<PublicKey>,
    /// SHA-256 of each CA's certificate, DER.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub authorities: BTreeSet<Digest>,
    /// The set and the root's signature, as
    /// [`signed_text`](crate::domain::fleet::trust::signed_text) writes them;
    /// empty where it was published before this was recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signed: String,
}
