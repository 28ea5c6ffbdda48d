//! How nodes get into the fleet: joining by a token, and approval.

use protocol::ErrorCode;
use protocol::id::{NodeId, TokenId};
use protocol::key::PublicKey;
use protocol::label::{self, Labels};

use crate::domain::access::key::SecretDigest;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::event::{NodeApproved, NodeJoined, NodeReplaced};
use crate::domain::fleet::node::{AdmissionFacts, NODE_TEXT_BYTES_MAX, NODES_COUNT_MAX, NodeState};
use crate::domain::fleet::token::{Approval, Token};
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};

/// Let a machine join that shows a join token's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitNode {
    /// The token's serial.
    pub token: TokenId,
    /// The digest of the secret that was shown.
    pub secret: SecretDigest,
    /// The id that the node drew for itself.
    pub node: NodeId,
    /// The name that it would like. Where that is taken or no name, it gets one
    /// made from it or from its id: a clash of host names must not keep a golden
    /// image from booting.
    pub name: String,
    /// The key by which it will sign; that it has it has been checked.
    pub signing_key: PublicKey,
    /// What it says of itself.
    pub facts: AdmissionFacts,
}

/// Let a waiting node in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApproveNode {
    /// Which.
    pub node: NodeId,
}

pub(crate) fn admit(
    fleet: &Fleet,
    asked: &AdmitNode,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    let token = fleet
        .token(asked.token)
        .filter(|token| token.secret.matches(&asked.secret))
        .ok_or_else(|| {
            Rejection::new(
                ErrorCode::TokenUnknown,
                "join token is not one of this fleet",
            )
        })?;
    if let Some(node) = fleet.node(asked.node) {
        // A lost answer makes the node ask again, by then with a spent token.
        let again = node.signing_key == asked.signing_key && node.token == asked.token;
        return match &node.state {
            NodeState::Pending | NodeState::Active if again => Ok(Vec::new()),
            NodeState::Revoked { .. } if again => Err(Rejection::new(
                ErrorCode::JoinRejected,
                format!("node {} was turned down or revoked", asked.node),
            )),
            NodeState::Pending
            | NodeState::Active
            | NodeState::Revoked { .. }
            | NodeState::Replaced { .. } => Err(Rejection::new(
                ErrorCode::NodeIdTaken,
                format!("node id {} is taken by another machine", asked.node),
            )),
        };
    }
    token.check(at.now)?;
    if asked.node == NodeId::NIL {
        return Err(Rejection::new(
            ErrorCode::NodeIdTaken,
            "node id of all zeros means the controller",
        ));
    }
    if let Some(twin) = fleet
        .nodes()
        .find(|node| node.signing_key == asked.signing_key)
    {
        return Err(Rejection::new(
            ErrorCode::NodeKeyTaken,
            format!("node {} has this signing key", twin.id),
        ));
    }
    if fleet.nodes().len() >= NODES_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {NODES_COUNT_MAX} nodes"),
        ));
    }
    let joined = NodeJoined {
        node: asked.node,
        name: free_name(fleet, &asked.name, asked.node),
        labels: token.labels.clone(),
        signing_key: asked.signing_key,
        token: asked.token,
        approval: token.approval,
        facts: AdmissionFacts {
            agent_version: cut(asked.facts.agent_version.clone(), NODE_TEXT_BYTES_MAX),
            address: cut(asked.facts.address.clone(), NODE_TEXT_BYTES_MAX),
        },
    };
    let mut events = vec![Event::NodeJoined(joined)];
    if token.approval == Approval::Automatic {
        events.extend(taking_over(fleet, token, asked.node));
    }
    Ok(events)
}

pub(crate) fn approve(fleet: &Fleet, asked: &ApproveNode) -> Result<Vec<Event>, Rejection> {
    let node = fleet.existing(asked.node)?;
    if node.state != NodeState::Pending {
        return Err(Rejection::new(
            ErrorCode::NodeNotPending,
            format!("node {} is {}, not pending", node.id, node.state.name()),
        ));
    }
    let mut events = vec![Event::NodeApproved(NodeApproved { node: node.id })];
    if let Some(token) = fleet.token(node.token) {
        events.extend(taking_over(fleet, token, node.id));
    }
    Ok(events)
}

/// The replacement that the token announces, if the old node is still there.
fn taking_over(fleet: &Fleet, token: &Token, new: NodeId) -> Option<Event> {
    let old = fleet.node(token.replaces?)?;
    (!old.has_left()).then_some(Event::NodeReplaced(NodeReplaced { old: old.id, new }))
}

/// A name that no other node has: the wanted one, or one made from it.
fn free_name(fleet: &Fleet, wanted: &str, node: NodeId) -> String {
    let is_free = |name: &str| fleet.node_named(name).is_none();
    if label::check_name(wanted).is_ok() && is_free(wanted) {
        return wanted.to_owned();
    }
    let id = node.to_string();
    let stem: String = wanted
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect();
    let stem = stem.trim_matches('-');
    let suffixed = format!("{stem}-{}", id.get(..6).unwrap_or(&id));
    if !stem.is_empty() && is_free(&suffixed) {
        suffixed
    } else {
        id
    }
}

/// The labels that a replacing node has: the old node's over its own.
pub(crate) fn inherited(own: &Labels, old: &Labels) -> Labels {
    let mut labels = own.clone();
    for (key, value) in old.iter() {
        // Only the number of labels can be exceeded, since each one was checked;
        // the old node's come first then, because they are its duties.
        if labels.set(key.to_owned(), value.to_owned()).is_err() {
            return old.clone();
        }
    }
    labels
}
