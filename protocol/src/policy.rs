//! The fleet's policy as nodes hold it: which breakers are not closed and what
//! they forbid, who may pass in spite, and which conditions nodes watch.
//!
//! There is one document for the whole fleet, numbered by one epoch and signed by
//! the controller. A node keeps it on disk, obeys it offline and after a reboot,
//! and never takes an older one. It knows its own labels (which came signed), so
//! it finds out itself what is meant for it.
//!
//! An open breaker never lapses by itself. What lapses is the lease: a node that
//! has had no word from the controller for as long refuses what is gated, since
//! it cannot know what has been decided meanwhile. Running workloads, the repair
//! of drift, reads and rollbacks go on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::breaker::BreakerState;
use crate::breaker::rule::PROBES_COUNT_MAX;
use crate::condition::Rule;
use crate::condition::expression::EXPRESSION_BYTES_MAX;
use crate::id::{DeploymentId, FleetId, NodeId};
use crate::key::{KeyId, PublicKey, SigningKey, is_signed_by};
use crate::message::{self, Kind, Message};
use crate::selector::{Selector, Subject};
use crate::time::UnixMillis;

/// Bytes of one encoded policy, so that it fits an envelope.
pub const POLICY_BYTES_MAX: usize = 96 * 1024;

/// Breakers that can be other than closed at the same time.
pub const GATES_COUNT_MAX: usize = 256;

/// Overrides at the same time.
pub const OVERRIDES_COUNT_MAX: usize = 64;

/// Conditions that nodes watch.
pub const RULES_COUNT_MAX: usize = 256;

/// Kinds of commands that one breaker stops; there are fewer.
pub const COMMANDS_COUNT_MAX: usize = 64;

/// Bytes of the name of a breaker, a rule or a kind of command.
pub const NAME_BYTES_MAX: usize = 63;

/// Bytes of a reason and of who gave it. A refusal repeats a gate's, and fits a
/// receipt's detail.
pub const REASON_BYTES_MAX: usize = 640;

/// How long a node goes on with gated operations without a word from the
/// controller, in milliseconds, where the fleet does not say: a day.
pub const LEASE_MS_DEFAULT: u64 = 24 * 3600 * 1000;

/// What the fleet has decided that nodes must obey by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The fleet that it is for.
    pub fleet: FleetId,
    /// Grows with every change.
    pub epoch: u64,
    /// When it was signed, in controller time.
    pub issued_at: UnixMillis,
    /// Milliseconds without a word from the controller after which gated
    /// operations are refused; 0 is never.
    pub lease_ms: u64,
    /// The breakers that are not closed.
    pub gates: Vec<Gate>,
    /// Who may pass in spite of them.
    pub overrides: Vec<Override>,
    /// The conditions that nodes watch.
    pub rules: Vec<Rule>,
}

impl Message for SignedPolicy {
    const KIND: Kind = Kind::POLICY;
    const VERSION: u16 = 1;
}

/// One breaker that is not closed, and what it forbids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The breaker's name.
    pub breaker: String,
    /// Its state; never [`BreakerState::Closed`].
    pub state: BreakerState,
    /// Since when, in controller time.
    pub since: UnixMillis,
    /// What part of the fleet it stops.
    pub scope: Scope,
    /// Which operations it stops.
    pub gated: Gated,
    /// The nodes that may try while it is half-open.
    pub probes: BTreeSet<NodeId>,
    /// What tripped it, for a person.
    pub reason: String,
}

/// What part of the fleet is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of it.
    Fleet,
    /// The nodes that match.
    Nodes(Selector),
    /// One deployment, wherever it is.
    Deployment(DeploymentId),
}

/// Which operations a breaker stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gated {
    /// Changes of deployments. Rollbacks and removals always pass.
    pub deploy: bool,
    /// Updates of the agent. Rollbacks always pass.
    pub update: bool,
    /// Commands that change something, by the name of their action (`run`,
    /// `service`, `reload`). Reads always pass.
    pub commands: BTreeSet<String>,
}

/// Lets some nodes pass a breaker for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The breaker that is passed.
    pub breaker: String,
    /// The nodes that may.
    pub nodes: Selector,
    /// Until when, in controller time.
    pub until: UnixMillis,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What a node is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// Change a deployment.
    Deploy(DeploymentId),
    /// Change the agent's version.
    Update,
    /// Carry out a command that changes something, by its action's name.
    Command(&'a str),
    /// Go back, remove what is broken, read, repair drift: always allowed.
    Exempt,
}

/// How a node stands towards the controller when it judges an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Controller time as the node knows it.
    pub now: UnixMillis,
    /// When the controller last said anything, in controller time; none when it
    /// never did.
    pub heard_at: Option<UnixMillis>,
}

/// Why an attempt is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A breaker stops it.
    #[error("breaker {breaker} is {state} (policy epoch {epoch}): {reason}")]
    Breaker {
        /// Its name.
        breaker: String,
        /// Its state's name.
        state: &'static str,
        /// The policy's epoch.
        epoch: u64,
        /// What tripped it.
        reason: String,
    },
    /// The controller has not been heard for as long as the lease.
    #[error(
        "the controller has not been heard for {silent_s} s, longer than the lease of {lease_s} s (policy epoch {epoch})"
    )]
    Lease {
        /// Seconds since its last word.
        silent_s: u64,
        /// Seconds of the lease.
        lease_s: u64,
        /// The policy's epoch.
        epoch: u64,
    },
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Breaker { .. } => ErrorCode::BreakerOpen,
            Self::Lease { .. } => ErrorCode::PolicyLease,
        }
    }

    /// The policy's epoch by which it was refused.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Breaker { epoch, .. } | Self::Lease { epoch, .. } => *epoch,
        }
    }
}

impl Scope {
    fn covers(&self, subject: Subject<'_>, attempt: Attempt<'_>) -> bool {
        match self {
            Self::Fleet => true,
            Self::Nodes(selector) => selector.matches(subject),
            Self::Deployment(id) => attempt == Attempt::Deploy(*id),
        }
    }
}

impl Gated {
    /// What these names say: `deploy`, `update`, and the names of actions.
    #[must_use]
    pub fn of(mut names: BTreeSet<String>) -> Self {
        Self {
            deploy: names.remove("deploy"),
            update: names.remove("update"),
            commands: names,
        }
    }

    /// The names of what it says.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        names.extend(self.deploy.then(|| "deploy".to_owned()));
        names.extend(self.update.then(|| "update".to_owned()));
        names.extend(self.commands.iter().cloned());
        names
    }

    /// Whether the attempt is one that is stopped.
    #[must_use]
    pub fn stops(&self, attempt: Attempt<'_>) -> bool {
        match attempt {
            Attempt::Deploy(_) => self.deploy,
            Attempt::Update => self.update,
            Attempt::Command(action) => self.commands.contains(action),
            Attempt::Exempt => false,
        }
    }
}

impl Policy {
    /// Checks that every node can take and obey it: the bounds of its parts, and
    /// that no part says what nodes would not do. For the controller, before it
    /// signs; nodes take whatever is signed and has the size, so that another
    /// version's bounds never keep an open breaker from them.
    ///
    /// # Errors
    /// [`PolicyError::Malformed`] with the first part that is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        require(self.epoch > 0, || "its epoch is 0".to_owned())?;
        for (part, count, most) in [
            ("gates", self.gates.len(), GATES_COUNT_MAX),
            ("overrides", self.overrides.len(), OVERRIDES_COUNT_MAX),
            ("rules", self.rules.len(), RULES_COUNT_MAX),
        ] {
            require(count <= most, || {
                format!("it has {count} {part}; at most {most}")
            })?;
        }
        self.gates.iter().try_for_each(Gate::check)?;
        for pass in &self.overrides {
            named("an override's breaker", &pass.breaker)?;
            short("an override's author", &pass.by, REASON_BYTES_MAX)?;
            short("an override's reason", &pass.reason, REASON_BYTES_MAX)?;
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            named("a rule", &rule.name)?;
            short("an expression", &rule.expression, EXPRESSION_BYTES_MAX)?;
            require(names.insert(&rule.name), || {
                format!("two rules are named {:?}", rule.name)
            })?;
        }
        let bytes = message::encode(self).len();
        require(bytes <= POLICY_BYTES_MAX, || {
            format!("it has {bytes} bytes; at most {POLICY_BYTES_MAX}")
        })
    }

    /// Whether `subject` may do what it attempts.
    ///
    /// Without a word from the controller since it was signed, the policy itself is
    /// its last word. An override passes a breaker, never the lease: a node that
    /// hears nothing does not know whether the override still stands.
    ///
    /// # Errors
    /// The first reason against it: the gates in their order, then the lease.
    pub fn admit(
        &self,
        subject: Subject<'_>,
        attempt: Attempt<'_>,
        standing: Standing,
    ) -> Result<(), Refusal> {
        if attempt == Attempt::Exempt {
            return Ok(());
        }
        for gate in &self.gates {
            let meant = gate.gated.stops(attempt) && gate.scope.covers(subject, attempt);
            if meant && !self.passes(gate, subject, standing.now) {
                return Err(Refusal::Breaker {
                    breaker: gate.breaker.clone(),
                    state: gate.state.name(),
                    epoch: self.epoch,
                    reason: gate.reason.clone(),
                });
            }
        }
        let heard_at = standing.heard_at.unwrap_or_default().max(self.issued_at);
        let silent_ms = standing.now.0.saturating_sub(heard_at.0);
        if self.lease_ms != 0 && silent_ms > self.lease_ms {
            return Err(Refusal::Lease {
                silent_s: silent_ms / 1000,
                lease_s: self.lease_ms / 1000,
                epoch: self.epoch,
            });
        }
        Ok(())
    }

    /// Whether `subject` passes a gate at `now`, as one of its probes or by an
    /// override.
    #[must_use]
    pub fn passes(&self, gate: &Gate, subject: Subject<'_>, now: UnixMillis) -> bool {
        let open = match gate.state {
            BreakerState::Closed => true,
            BreakerState::HalfOpen => gate.probes.contains(&subject.id),
            BreakerState::Open | BreakerState::Isolated => false,
        };
        open || self.overrides.iter().any(|pass| {
            pass.breaker == gate.breaker && now < pass.until && pass.nodes.matches(subject)
        })
    }

    /// Signs the policy with the controller's key, as it is: see
    /// [`Policy::check`].
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> SignedPolicy {
        let bytes = message::encode(self);
        SignedPolicy {
            signature: key.sign_as(DOMAIN, &bytes),
            bytes,
            key: key.public().id(),
        }
    }
}

impl Gate {
    fn check(&self) -> Result<(), PolicyError> {
        named("a gate's breaker", &self.breaker)?;
        let name = &self.breaker;
        short("a gate's reason", &self.reason, REASON_BYTES_MAX)?;
        require(self.state != BreakerState::Closed, || {
            format!("the gate of {name:?} is closed")
        })?;
        require(
            self.probes.is_empty() || self.state == BreakerState::HalfOpen,
            || format!("the gate of {name:?} has probes and is not half-open"),
        )?;
        require(self.probes.len() <= PROBES_COUNT_MAX as usize, || {
            format!(
                "the gate of {name:?} has {} probes; at most {PROBES_COUNT_MAX}",
                self.probes.len()
            )
        })?;
        let Gated {
            deploy: _,
            update,
            commands,
        } = &self.gated;
        require(commands.len() <= COMMANDS_COUNT_MAX, || {
            format!(
                "the gate of {name:?} names {} commands; at most {COMMANDS_COUNT_MAX}",
                commands.len()
            )
        })?;
        commands
            .iter()
            .try_for_each(|command| named("a gated command", command))?;
        let of_deployment = matches!(self.scope, Scope::Deployment(_));
        require(!of_deployment || (!update && commands.is_empty()), || {
            format!("the gate of {name:?} is of one deployment and stops more than its changes")
        })
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), PolicyError> {
    holds
        .then_some(())
        .ok_or_else(|| PolicyError::Malformed(otherwise()))
}

fn short(what: &str, text: &str, most: usize) -> Result<(), PolicyError> {
    require(text.len() <= most, || {
        format!("{what} has {} bytes; at most {most}", text.len())
    })
}

fn named(what: &str, name: &str) -> Result<(), PolicyError> {
    require(!name.is_empty(), || format!("{what} has no name"))?;
    short(what, name, NAME_BYTES_MAX)
}

/// Keeps a signature over a policy from being one over anything else.
const DOMAIN: &[u8] = b"flotilla policy 1\0";

/// A policy as it travels and lies on a node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPolicy {
    /// The encoded [`Policy`].
    pub bytes: Vec<u8>,
    /// The controller key that signed.
    pub key: KeyId,
    /// Its Ed25519 signature over `flotilla policy 1\0` and the bytes.
    pub signature: Vec<u8>,
}

/// A policy that is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No controller key of the trust set signed it.
    #[error("policy is not signed by a controller key of the fleet")]
    BadSignature,
    /// It does not decode, or is larger than a policy may be.
    #[error("policy is malformed: {0}")]
    Malformed(String),
    /// It is another fleet's.
    #[error("policy belongs to fleet {found}, not {expected}")]
    WrongFleet {
        /// The fleet in it.
        found: FleetId,
        /// Ours.
        expected: FleetId,
    },
    /// It is not newer than the one that is held.
    #[error("policy epoch {found} is not above {held}")]
    Stale {
        /// The epoch in it.
        found: u64,
        /// The epoch held.
        held: u64,
    },
}

impl PolicyError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadSignature | Self::Malformed(_) | Self::WrongFleet { .. } => {
                ErrorCode::PolicyInvalid
            }
            Self::Stale { .. } => ErrorCode::PolicyStale,
        }
    }
}

impl SignedPolicy {
    /// Checks the signature by a key of the trust set, the fleet, and that the
    /// epoch is above `held` (0 when none is held).
    ///
    /// # Errors
    /// [`PolicyError`], the first check that fails.
    pub fn verify(
        &self,
        keys: &[PublicKey],
        fleet: FleetId,
        held: u64,
    ) -> Result<Policy, PolicyError> {
        self.check_size()?;
        if !is_signed_by(keys, self.key, DOMAIN, &self.bytes, &self.signature) {
            return Err(PolicyError::BadSignature);
        }
        let policy = self.read()?;
        if policy.fleet != fleet {
            return Err(PolicyError::WrongFleet {
                found: policy.fleet,
                expected: fleet,
            });
        }
        if policy.epoch <= held {
            return Err(PolicyError::Stale {
                found: policy.epoch,
                held,
            });
        }
        Ok(policy)
    }

    /// What it says, unchecked: for a copy that was checked when it came.
    ///
    /// # Errors
    /// [`PolicyError::Malformed`].
    pub fn read(&self) -> Result<Policy, PolicyError> {
        self.check_size()?;
        message::decode_exactly(&self.bytes).map_err(PolicyError::Malformed)
    }

    fn check_size(&self) -> Result<(), PolicyError> {
        let bytes = self.bytes.len();
        require(bytes <= POLICY_BYTES_MAX, || {
            format!("it has {bytes} bytes; at most {POLICY_BYTES_MAX}")
        })
    }
}

#[cfg(test)]
mod tests;
