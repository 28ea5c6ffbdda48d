//! The gate: whether this node may do now what it is about to do.
//!
//! It joins what is known: the fleet's policy, who the node is (its name and labels
//! decide what of the policy is meant for it), how long the controller has been
//! silent, and a break-glass file. Everything that is gated asks [`Gate::admit`]:
//! commands when they are taken and again when they get their slot, deployments
//! when a change begins.
//!
//! ## The lease
//! A node that has heard nothing for as long as the lease refuses what is gated.
//! Silence is counted by the monotonic clock and kept on disk now and then
//! ([`keep_every`]), so a restart goes on counting where the last one was. What is
//! not known of a restart is taken to be silence: after a crash one whole interval
//! of keeping, and as much as the node's own clock says where that is more. So no
//! number of reboots renews a lease; at worst it ends early, until the controller
//! is heard. A node that was switched off by order and has no clock of its own
//! does not notice how long that was.
//!
//! **Invariant:** an open breaker and a lease that is over are passed by nothing but
//! the policy's own overrides and probes, and a break-glass file. Controller time
//! as the gate sees it never runs back, over restarts neither, so that an override
//! does not last longer by one.

use core::time::Duration;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::breaker::BreakerState;
use protocol::command::{Action, ServiceVerb};
use protocol::condition::expression::Expression;
use protocol::id::{FleetId, NodeId};
use protocol::key::PublicKey;
use protocol::label::Labels;
use protocol::policy::{Attempt, Gate as Stop, Policy, PolicyError, Refusal, SignedPolicy};
use protocol::policy::{Scope, Standing};
use protocol::selector::Subject;
use protocol::time::{UnixMillis, millis};
use serde::{Deserialize, Serialize};

use super::time::{Moment, Tick};

/// Asked right before something that is gated begins.
pub type Admit = Arc<dyn Fn(Attempt<'_>) -> Result<(), Refusal> + Send + Sync>;

/// The lease is divided into so many parts, after each of which the silence is kept
/// on disk: of a day that is four hours, six commits or some 180 KB of flash.
const LEASE_PARTS: u64 = 6;

/// Bounds on the time between two keepings: a short lease must not wear the flash,
/// and a long one not lose days by a crash.
const KEEP_EVERY_MIN: Duration = Duration::from_secs(15 * 60);
const KEEP_EVERY_MAX: Duration = Duration::from_secs(6 * 3600);

/// The longest that a break-glass file may last.
pub const BREAK_GLASS_MAX: Duration = Duration::from_secs(24 * 3600);

/// The node's name and labels, as the controller last said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: Labels,
}

/// A policy as it lies on disk: as it was signed, with the key that it was checked
/// by, since the trust set may have left that key behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPolicy {
    signed: SignedPolicy,
    key: PublicKey,
}

impl KeptPolicy {
    /// Checks a policy that came, by the controller's keys that are trusted.
    ///
    /// # Errors
    /// [`PolicyError`]: it is not the controller's, not this fleet's, or not above
    /// the epoch that is held.
    pub fn check(
        signed: SignedPolicy,
        keys: &[PublicKey],
        fleet: FleetId,
        held: u64,
    ) -> Result<(Self, Policy), PolicyError> {
        let policy = signed.verify(keys, fleet, held)?;
        let key = keys
            .iter()
            .find(|key| key.id() == signed.key)
            .cloned()
            .ok_or(PolicyError::BadSignature)?;
        Ok((Self { signed, key }, policy))
    }

    /// What it says. The signature is checked again: a policy that was damaged on
    /// disk is never obeyed, nor taken for none.
    ///
    /// # Errors
    /// [`PolicyError`]: it is not what was kept.
    pub fn read(&self) -> Result<Policy, PolicyError> {
        let fleet = self.signed.read()?.fleet;
        self.signed
            .verify(core::slice::from_ref(&self.key), fleet, 0)
    }
}

/// For how long the controller is silent. Kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// When it was last heard, in controller time; 0 when it never was.
    pub heard_at: UnixMillis,
    /// Milliseconds of silence since.
    pub silent_ms: u64,
    /// The node's own clock at that.
    pub wall: UnixMillis,
}

impl Silence {
    /// The silence at a start, from what was kept before. `clean` is whether it was
    /// kept as the agent's last deed, and `keep_every` how often it was.
    #[must_use]
    pub fn resumed(self, clean: bool, keep_every: Duration, wall: UnixMillis) -> Self {
        let unseen = if clean { Duration::ZERO } else { keep_every };
        let passed = unseen.max(wall.since(self.wall));
        Self {
            silent_ms: self.silent_ms.saturating_add(millis(passed)),
            wall,
            ..self
        }
    }
}

/// How often the silence is kept on disk under a policy; none when it has no lease.
#[must_use]
pub fn keep_every(policy: &Policy) -> Option<Duration> {
    let part = Duration::from_millis(policy.lease_ms / LEASE_PARTS);
    (policy.lease_ms != 0).then(|| part.clamp(KEEP_EVERY_MIN, KEEP_EVERY_MAX))
}

/// The silence of the controller while the agent runs.
#[derive(Clone, Copy, Debug, Default)]
struct Hearing {
    heard_at: UnixMillis,
    silent_ms: u64,
    /// When `silent_ms` was right.
    at: Tick,
}

impl Hearing {
    fn silent_ms(&self, now: Tick) -> u64 {
        self.silent_ms.saturating_add(millis(now.since(self.at)))
    }

    /// The controller's clock shows at least this.
    fn now(&self, now: Tick) -> UnixMillis {
        UnixMillis(self.heard_at.0.saturating_add(self.silent_ms(now)))
    }
}

/// Leave to pass every gate of this node, given by whoever may write a file that is
/// root's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    /// Why, as the file says.
    pub reason: String,
    /// Until when, on the node's own clock.
    pub until: UnixMillis,
}

/// A break-glass file in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InForce {
    file: BreakGlass,
    /// When it ends by the monotonic clock: setting the other back does not prolong
    /// it.
    ends: Tick,
}

/// A condition of the policy that this node is to watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The rule's name.
    pub rule: String,
    /// Its expression, or why this node does not understand it.
    pub expression: Result<Expression, String>,
}

/// What is known but for the time.
#[derive(Clone, Debug)]
struct Known {
    node: NodeId,
    named: Named,
    policy: Option<Arc<Policy>>,
    watched: Arc<[Watched]>,
    glass: Option<InForce>,
}

/// The gate. Clones are cheap, and stay as they are.
#[derive(Clone, Debug)]
pub struct Gate {
    known: Arc<Known>,
    hearing: Hearing,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(
            NodeId::NIL,
            Named::default(),
            None,
            Silence::default(),
            Tick::default(),
        )
    }
}

/// How a command is seen by the gate. Reads pass always, and so does stopping a
/// service: what is broken may be stopped at any time.
#[must_use]
pub fn attempt(action: &Action) -> Attempt<'static> {
    match action {
        Action::Service {
            verb: ServiceVerb::Stop,
            ..
        } => Attempt::Exempt,
        action if action.mutates() => Attempt::Command(action.name()),
        Action::Ping
        | Action::Run { .. }
        | Action::Service { .. }
        | Action::Logs { .. }
        | Action::Reload => Attempt::Exempt,
    }
}

impl Gate {
    /// A gate by what was kept on disk.
    #[must_use]
    pub fn new(
        node: NodeId,
        named: Named,
        policy: Option<Policy>,
        silence: Silence,
        now: Tick,
    ) -> Self {
        let mut gate = Self {
            known: Arc::new(Known {
                node,
                named,
                policy: policy.map(Arc::new),
                watched: Arc::default(),
                glass: None,
            }),
            hearing: Hearing {
                heard_at: silence.heard_at,
                silent_ms: silence.silent_ms,
                at: now,
            },
        };
        gate.read_rules();
        gate
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.known.node,
            name: &self.known.named.name,
            labels: &self.known.named.labels,
        }
    }

    fn read_rules(&mut self) {
        let subject = self.subject();
        let rules = self.known.policy.iter().flat_map(|policy| &policy.rules);
        let watched = rules
            .filter(|rule| rule.nodes.matches(subject))
            .map(|rule| Watched {
                rule: rule.name.clone(),
                expression: rule
                    .expression
                    .parse::<Expression>()
                    .map_err(|error| error.to_string()),
            })
            .collect();
        Arc::make_mut(&mut self.known).watched = watched;
    }

    /// Whether the node may do what it attempts.
    ///
    /// # Errors
    /// [`Refusal`] with the code, the breaker or lease, and the policy's epoch.
    pub fn admit(&self, attempt: Attempt<'_>, now: Moment) -> Result<(), Refusal> {
        let Some(policy) = &self.known.policy else {
            return Ok(());
        };
        match policy.admit(self.subject(), attempt, self.standing(now.tick)) {
            Err(_) if self.break_glass(now).is_some() => Ok(()),
            judged => judged,
        }
    }

    fn standing(&self, now: Tick) -> Standing {
        Standing {
            now: self.hearing.now(now),
            heard_at: (self.hearing.heard_at.0 > 0).then_some(self.hearing.heard_at),
        }
    }

    /// Takes a policy. It is checked, and above the one that is held.
    pub fn take_policy(&mut self, policy: Policy, now: Tick) {
        // The controller's clock showed this when it signed, whenever that arrives.
        if policy.issued_at > self.hearing.now(now) {
            self.hear(policy.issued_at, now);
        }
        Arc::make_mut(&mut self.known).policy = Some(Arc::new(policy));
        self.read_rules();
    }

    /// Takes the node's name and labels. False when they are what is held.
    pub fn take_named(&mut self, named: &Named) -> bool {
        if self.known.named == *named {
            return false;
        }
        Arc::make_mut(&mut self.known).named = named.clone();
        self.read_rules();
        true
    }

    /// Notes that the controller answered at `tick`, when its clock showed `at`.
    pub fn hear(&mut self, at: UnixMillis, tick: Tick) {
        self.hearing = Hearing {
            heard_at: at.max(self.hearing.now(tick)),
            silent_ms: 0,
            at: tick,
        };
    }

    /// Hears the controller as another gate does: that needs no disk.
    pub fn hears_as(&mut self, other: &Self) {
        self.hearing = other.hearing;
    }

    /// When the controller was last heard in this run.
    #[must_use]
    pub fn heard(&self) -> Tick {
        self.hearing.at
    }

    /// The silence, as it is to be kept.
    #[must_use]
    pub fn silence(&self, now: Moment) -> Silence {
        Silence {
            heard_at: self.hearing.heard_at,
            silent_ms: self.hearing.silent_ms(now.tick),
            wall: now.wall,
        }
    }

    /// Takes what the break-glass file says, none when there is none. True when that
    /// is something else than is held.
    pub fn take_break_glass(&mut self, file: Option<BreakGlass>, now: Moment) -> bool {
        if self.known.glass.as_ref().map(|glass| &glass.file) == file.as_ref() {
            return false;
        }
        let glass = file.map(|file| InForce {
            ends: now
                .tick
                .after(file.until.since(now.wall).min(BREAK_GLASS_MAX)),
            file,
        });
        Arc::make_mut(&mut self.known).glass = glass;
        true
    }

    /// The break-glass file in force; none when there is none, or its time is over.
    #[must_use]
    pub fn break_glass(&self, now: Moment) -> Option<&BreakGlass> {
        let glass = self.known.glass.as_ref()?;
        let holds = now.tick < glass.ends && now.wall < glass.file.until;
        holds.then_some(&glass.file)
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        self.known.policy.as_ref()
    }

    /// The policy's epoch; 0 without one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.policy().map_or(0, |policy| policy.epoch)
    }

    /// The node's name and labels.
    #[must_use]
    pub fn named(&self) -> &Named {
        &self.known.named
    }

    /// The conditions of the policy that are meant for this node. The same pointer
    /// as long as they are the same.
    #[must_use]
    pub fn watched(&self) -> &Arc<[Watched]> {
        &self.known.watched
    }

    /// The breakers that stop something on this node, or of a deployment wherever it
    /// is.
    pub fn stops(&self, now: Tick) -> impl Iterator<Item = &Stop> {
        let standing = self.standing(now);
        self.policy().into_iter().flat_map(move |policy| {
            policy.gates.iter().filter(move |gate| {
                let covers = match &gate.scope {
                    Scope::Nodes(selector) => selector.matches(self.subject()),
                    Scope::Fleet | Scope::Deployment(_) => true,
                };
                covers
                    && gate.state != BreakerState::Closed
                    && !policy.passes(gate, self.subject(), standing.now)
            })
        })
    }

    /// The lease, as far as the policy has one.
    #[must_use]
    pub fn lease(&self, now: Tick) -> Option<Lease> {
        let policy = self.policy().filter(|policy| policy.lease_ms != 0)?;
        let heard_at = self.hearing.heard_at.max(policy.issued_at);
        let silent = self.hearing.now(now).since(heard_at);
        Some(Lease {
            silent,
            length: Duration::from_millis(policy.lease_ms),
        })
    }

    /// What is wrong with what the gate holds, for an operator.
    #[must_use]
    pub fn problems(&self, now: Tick) -> Vec<(ErrorCode, String)> {
        let lease = self.lease(now).filter(Lease::is_over).map(|lease| {
            let detail = format!(
                "the controller has not been heard for {} s, longer than the lease of {} s",
                lease.silent.as_secs(),
                lease.length.as_secs()
            );
            (ErrorCode::PolicyLease, detail)
        });
        let unread = self.watched().iter().filter_map(|watched| {
            let error = watched.expression.as_ref().err()?;
            let detail = format!("the condition {:?} is not watched: {error}", watched.rule);
            Some((ErrorCode::ConditionInvalid, detail))
        });
        lease.into_iter().chain(unread).collect()
    }
}

/// How much of a lease is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// For how long the controller was not heard.
    pub silent: Duration,
    /// How long it may be.
    pub length: Duration,
}

impl Lease {
    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.silent > self.length
    }
}

#[cfg(test)]
mod tests;
