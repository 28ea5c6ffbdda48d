//! What a node is and how it is: the `state` stream, latest wins per key; and
//! the lifecycle events of the control stream.

use serde::{Deserialize, Serialize};

use crate::deployment::observed::DeploymentState;
use crate::session::BootId;
use crate::time::UnixMillis;

/// One observed state. Newer ones of the same key replace it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateItem {
    /// When it was observed, on the node's clock.
    pub at: UnixMillis,
    /// What was observed.
    pub value: StateValue,
}

impl StateItem {
    /// The version of a state's body in a stream entry.
    pub const VERSION: u16 = 1;
}

/// The key of a state: one entry each. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StateKey(pub u16);

/// An observed state. Append-only: postcard numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateValue {
    /// What the host is.
    Facts(Facts),
    /// What the agent uses.
    Budgets(Budgets),
    /// What is wrong on the node, if anything.
    Health(Health),
    /// How one deployment is.
    Deployment(Box<DeploymentState>),
}

impl StateValue {
    /// The key under which it replaces an older one.
    #[must_use]
    pub fn key(&self) -> StateKey {
        StateKey(match self {
            Self::Facts(_) => 1,
            Self::Budgets(_) => 2,
            Self::Health(_) => 3,
            Self::Deployment(state) => DeploymentState::KEY_FIRST.saturating_add(state.number),
        })
    }
}

/// What a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The host's name.
    pub hostname: String,
    /// The distribution, as in `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's architecture, as Rust names it.
    pub arch: String,
    /// The agent's version (semver).
    pub agent_version: String,
    /// Logical processors that the agent may use.
    pub cpus: u32,
    /// Bytes of memory: the host's, or the container's limit.
    pub memory_bytes: u64,
    /// How the host is run: `none`, `container`, `vm`, or what is known of it.
    pub virtualisation: String,
    /// The Docker engine's version; none when there is none.
    pub docker: Option<String>,
    /// When the host booted, on its own clock.
    pub booted_at: UnixMillis,
    /// When the certificate expires.
    pub certificate_expires_at: UnixMillis,
}

/// What an agent uses, against its budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Bytes of memory, proportional set size.
    pub memory_bytes: u64,
    /// Bytes written to the store's disk since the agent started.
    pub flash_bytes: u64,
    /// Bytes sent since the agent started.
    pub sent_bytes: u64,
    /// Bytes received since the agent started.
    pub received_bytes: u64,
    /// Entries that wait in the outbox.
    pub outbox_entries: u64,
    /// Bytes that wait in the outbox.
    pub outbox_bytes: u64,
    /// Samples given up for lack of space since the store was made.
    pub shed_samples: u64,
}

/// What is wrong on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The problems, worst first; none when all is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The error code's text.
    pub code: String,
    /// What is wrong, for a person.
    pub detail: String,
}

/// An event in an agent's life, in the control stream. Append-only: postcard
/// numbers the variants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// The agent started.
    Started {
        /// The host's boot.
        boot: BootId,
        /// When, on the node's clock.
        at: UnixMillis,
        /// The agent's version.
        agent_version: String,
        /// Whether the run before ended by a clean stop.
        clean: bool,
    },
    /// The agent is stopping as it was asked to.
    Stopped {
        /// When, on the node's clock.
        at: UnixMillis,
    },
    /// A break-glass file of the node is in force: what is gated passes. Told again
    /// when the agent starts while it is.
    BreakGlass {
        /// When it was found, on the node's clock.
        at: UnixMillis,
        /// Until when it lasts, on the node's clock.
        until: UnixMillis,
        /// Why, as the file says.
        reason: String,
    },
    /// The break-glass file is not in force any more: its time is over, or it was
    /// taken away.
    BreakGlassEnded {
        /// When, on the node's clock.
        at: UnixMillis,
    },
}

impl Lifecycle {
    /// The version of a lifecycle event's body in a stream entry.
    pub const VERSION: u16 = 1;
}
