//! What the controller orders of one node.
//!
//! Down messages are numbered from 1 in each session. A node takes them in
//! order, and says in every heartbeat how far it has come; the controller sends
//! what is missing again. Delivery is at least once; the node's ledger makes a
//! command's effect happen once.

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::deployment::desired::Desired;
use crate::id::CommandId;
use crate::label::Labels;
use crate::message::{Kind, Message};
use crate::policy::SignedPolicy;
use crate::session::Nonce;
use crate::time::UnixMillis;
use crate::trust::SignedTrust;

/// One numbered order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The session that it belongs to.
    pub nonce: Nonce,
    /// Its number in the session, from 1.
    pub number: u64,
    /// The order.
    pub body: DownBody,
}

impl Message for Down {
    const KIND: Kind = Kind::DOWN;
    const VERSION: u16 = 1;
}

/// The orders. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBody {
    /// Carry out a command.
    Command(Command),
    /// Stop a command, or do not start it.
    Cancel {
        /// Which one.
        command: CommandId,
    },
    /// Send live samples until a time.
    Live {
        /// When to stop, in controller time.
        until: UnixMillis,
        /// Milliseconds between samples.
        interval_ms: u32,
    },
    /// Stop sending live samples.
    EndLive,
    /// The node's name and labels changed.
    Labels {
        /// The name.
        name: String,
        /// All of its labels.
        labels: Labels,
    },
    /// A newer trust set.
    Trust(SignedTrust),
    /// Renew the certificate now, whatever its age.
    RenewNow,
    /// What is to run of one deployment.
    Desired(Box<Desired>),
    /// A newer policy.
    Policy(SignedPolicy),
}
