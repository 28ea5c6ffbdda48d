//! Who makes a request, as far as that has been proven.

use protocol::id::{ApiKeyId, NodeId, PrincipalId};
use serde::{Deserialize, Serialize};

/// On whose behalf a request is made, as far as it has been proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A principal that showed one of its API keys.
    Principal {
        /// Who.
        id: PrincipalId,
        /// By which key: its scope limits what they may do with it.
        key: ApiKeyId,
    },
    /// Someone with a shell on the controller's own machine. May recover an
    /// admin, nothing else.
    Host,
    /// A node that proved its signing key.
    Node(NodeId),
    /// The controller itself: what it concludes from what nodes report.
    System,
    /// Nobody yet: a machine that shows a join token, or a request without a
    /// valid key. What is refused to it is counted, not recorded one by one.
    Anonymous,
}

impl Caller {
    /// The principal, if it is one.
    #[must_use]
    pub fn principal(&self) -> Option<PrincipalId> {
        match self {
            Self::Principal { id, .. } => Some(*id),
            Self::Host | Self::Node(_) | Self::System | Self::Anonymous => None,
        }
    }
}
