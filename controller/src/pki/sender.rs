//! Which node sealed an envelope that came by HTTPS.
//!
//! **Invariant:** what comes out of [`authenticate`] was signed by a node that
//! belongs to the fleet. Whether it is fresh is for the caller to say, who knows
//! what an old one could do.

use protocol::ErrorCode;
use protocol::envelope::{self, EnvelopeError, Opened};
use protocol::id::NodeId;
use protocol::message::DecodeError;

use crate::domain::fleet::Fleet;
use crate::domain::fleet::node::{Node, NodeState};

/// Why an envelope is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    /// It does not hold.
    #[error("{0}")]
    Envelope(EnvelopeError),
    /// It holds something else than was asked for.
    #[error("{0}")]
    Content(DecodeError),
    /// The node left the fleet.
    #[error("node {0} was revoked or replaced")]
    Revoked(NodeId),
    /// The node waits for approval.
    #[error("node {0} waits for an operator's approval")]
    Pending(NodeId),
}

impl SenderError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Content(DecodeError::Kind { .. }) => ErrorCode::MessageUnknownKind,
            Self::Content(DecodeError::Version { .. }) => ErrorCode::MessageUnknownVersion,
            Self::Content(DecodeError::Malformed { .. }) => ErrorCode::MessageMalformed,
            Self::Revoked(_) => ErrorCode::NodeRevoked,
            Self::Pending(_) => ErrorCode::JoinPending,
        }
    }
}

/// Opens an envelope that an active node of the fleet sealed.
///
/// # Errors
/// [`SenderError`], the first check that fails.
pub fn authenticate<'f, 'b>(
    fleet: &'f Fleet,
    body: &'b [u8],
) -> Result<(&'f Node, Opened<'b>), SenderError> {
    let opened = envelope::open(body, fleet.id(), |sender, _| {
        fleet.node(sender).map(|node| node.signing_key)
    })
    .map_err(SenderError::Envelope)?;
    let id = opened.header.sender;
    let node = fleet.node(id).ok_or(SenderError::Revoked(id))?;
    match node.state {
        NodeState::Active => Ok((node, opened)),
        NodeState::Pending => Err(SenderError::Pending(id)),
        NodeState::Revoked { .. } | NodeState::Replaced { .. } => Err(SenderError::Revoked(id)),
    }
}
