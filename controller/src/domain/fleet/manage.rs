//! What operators do with nodes that are in the fleet, and how a node's identity
//! comes into doubt and out of it.

use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::label::{self, Labels};

use crate::domain::digest::Digest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{
    IdentityResolved, IdentitySuspected, NodeCertified, NodeRelabelled, NodeRenamed, NodeReplaced,
    NodeRevoked,
};
use crate::domain::fleet::node::{Certificate, Doubt, NODE_TEXT_BYTES_MAX, Node};
use crate::domain::rejection::{Rejection, cut};

/// Give a node another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenameNode {
    /// Which.
    pub node: NodeId,
    /// Its name from here on.
    pub name: String,
}

/// Change a node's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelabelNode {
    /// Which.
    pub node: NodeId,
    /// Labels to set.
    pub set: Labels,
    /// Keys to remove, before setting.
    pub remove: BTreeSet<String>,
}

/// Put a node out of the fleet, or turn down one that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeNode {
    /// Which.
    pub node: NodeId,
    /// Why.
    pub reason: String,
}

/// Let one node take over the name, labels and duties of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceNode {
    /// The one that leaves.
    pub old: NodeId,
    /// The one that takes its place; active.
    pub new: NodeId,
}

/// Remember a certificate that was issued to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifyNode {
    /// Which node.
    pub node: NodeId,
    /// The certificate.
    pub certificate: Certificate,
    /// SHA-256 of the CA that issued it, its certificate in DER.
    pub authority: Option<Digest>,
}

/// Put a node's identity in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectIdentity {
    /// Which node.
    pub node: NodeId,
    /// What was seen.
    pub doubt: Doubt,
    /// What was seen, for a person.
    pub detail: String,
}

/// Declare a node's identity sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveIdentity {
    /// Which node.
    pub node: NodeId,
    /// What was found.
    pub note: String,
}

pub(crate) fn rename(fleet: &Fleet, asked: &RenameNode) -> Result<Vec<Event>, Rejection> {
    let node = belonging(fleet, asked.node)?;
    label::check_name(&asked.name)
        .map_err(|error| Rejection::new(error.code(), error.to_string()))?;
    if node.name == asked.name {
        return Ok(Vec::new());
    }
    if let Some(other) = fleet.node_named(&asked.name) {
        return Err(Rejection::new(
            ErrorCode::NodeNameTaken,
            format!("name {} is node {}'s", asked.name, other.id),
        ));
    }
    Ok(vec![Event::NodeRenamed(NodeRenamed {
        node: asked.node,
        name: asked.name.clone(),
    })])
}

pub(crate) fn relabel(fleet: &Fleet, asked: &RelabelNode) -> Result<Vec<Event>, Rejection> {
    let node = belonging(fleet, asked.node)?;
    let labels = relabelled(node, asked)?;
    if labels == node.labels {
        return Ok(Vec::new());
    }
    Ok(vec![Event::NodeRelabelled(NodeRelabelled {
        node: asked.node,
        labels,
    })])
}

/// The labels that the node would have.
pub(crate) fn relabelled(node: &Node, asked: &RelabelNode) -> Result<Labels, Rejection> {
    let mut labels = node.labels.clone();
    for key in &asked.remove {
        labels.remove(key);
    }
    for (key, value) in asked.set.iter() {
        labels
            .set(key.to_owned(), value.to_owned())
            .map_err(|error| Rejection::new(error.code(), error.to_string()))?;
    }
    Ok(labels)
}

pub(crate) fn revoke(fleet: &Fleet, asked: &RevokeNode) -> Result<Vec<Event>, Rejection> {
    let node = fleet.existing(asked.node)?;
    if node.has_left() {
        return Err(Rejection::new(
            ErrorCode::NodeRevoked,
            format!("node {} is {} already", node.id, node.state.name()),
        ));
    }
    Ok(vec![Event::NodeRevoked(NodeRevoked {
        node: asked.node,
        reason: cut(asked.reason.clone(), NODE_TEXT_BYTES_MAX),
    })])
}

pub(crate) fn replace(fleet: &Fleet, asked: &ReplaceNode) -> Result<Vec<Event>, Rejection> {
    let old = belonging(fleet, asked.old)?;
    let new = fleet.existing(asked.new)?;
    if old.id == new.id {
        return Err(Rejection::new(
            ErrorCode::RequestInvalid,
            format!("node {} cannot replace itself", old.id),
        ));
    }
    new.require_active()?;
    Ok(vec![Event::NodeReplaced(NodeReplaced {
        old: old.id,
        new: new.id,
    })])
}

pub(crate) fn certify(fleet: &Fleet, asked: &CertifyNode) -> Result<Vec<Event>, Rejection> {
    let node = belonging(fleet, asked.node)?;
    node.require_active()?;
    Ok(vec![Event::NodeCertified(NodeCertified {
        node: asked.node,
        certificate: Certificate {
            serial: cut(asked.certificate.serial.clone(), NODE_TEXT_BYTES_MAX),
            expires_at: asked.certificate.expires_at,
        },
        authority: asked.authority,
    })])
}

pub(crate) fn suspect(fleet: &Fleet, asked: &SuspectIdentity) -> Result<Vec<Event>, Rejection> {
    let node = belonging(fleet, asked.node)?;
    // The first sign is what matters; a clone gives new ones with every message.
    if node.suspicion.is_some() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::IdentitySuspected(IdentitySuspected {
        node: asked.node,
        doubt: asked.doubt,
        detail: cut(asked.detail.clone(), NODE_TEXT_BYTES_MAX),
    })])
}

pub(crate) fn resolve(fleet: &Fleet, asked: &ResolveIdentity) -> Result<Vec<Event>, Rejection> {
    let node = belonging(fleet, asked.node)?;
    if node.suspicion.is_none() {
        return Err(Rejection::new(
            ErrorCode::NodeNotSuspect,
            format!("identity of node {} is not in doubt", node.id),
        ));
    }
    Ok(vec![Event::IdentityResolved(IdentityResolved {
        node: asked.node,
        note: cut(asked.note.clone(), NODE_TEXT_BYTES_MAX),
    })])
}

/// The node, if it has not left the fleet.
fn belonging(fleet: &Fleet, id: NodeId) -> Result<&Node, Rejection> {
    let node = fleet.existing(id)?;
    if node.has_left() {
        return Err(Rejection::new(
            ErrorCode::NodeRevoked,
            format!("node {id} is {}", node.state.name()),
        ));
    }
    Ok(node)
}
