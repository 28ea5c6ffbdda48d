//! What notices say: one function for each cause, from what was recorded or seen
//! to the notice about it.
//!
//! Keys stand here alone, so that what resolves a notice names the same as what
//! raised it.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::breaker::BreakerState;
use protocol::id::{NodeId, RolloutId};
use protocol::time::UnixMillis;

use super::crowd::Told;
use super::{Notice, NoticeKind, NoticeState, Severity};
use crate::domain::breaker::definition::Group;
use crate::domain::breaker::event::{BreakerMoved, BreakerOverridden, OverrideEnd};
use crate::domain::fleet::node::Doubt;
use crate::domain::rollout::event::{Decision, Outcome};
use crate::domain::rollout::params::OnHalt;

/// What keys of a breaker's overrides begin with.
#[must_use]
pub fn overrides_of(breaker: &str) -> String {
    format!("override/{breaker}/")
}

/// A breaker moved.
#[must_use]
pub fn breaker_moved(event: &BreakerMoved, at: UnixMillis) -> Notice {
    let BreakerMoved {
        breaker,
        group,
        transition,
        ..
    } = event;
    let (from, to) = (transition.from, transition.to);
    let state = match (from, to) {
        (_, BreakerState::Closed) => NoticeState::Resolved,
        (BreakerState::Closed, _) => NoticeState::Raised,
        // What is open stays raised, however it moves.
        (
            BreakerState::Open | BreakerState::HalfOpen | BreakerState::Isolated,
            BreakerState::Open | BreakerState::HalfOpen | BreakerState::Isolated,
        ) => NoticeState::Once,
    };
    let (severity, what) = match to {
        BreakerState::Closed => (Severity::Critical, "closed"),
        BreakerState::Open => (Severity::Critical, "is open"),
        BreakerState::HalfOpen => (Severity::Info, "lets a few try"),
        BreakerState::Isolated => (Severity::Critical, "is isolated"),
    };
    let key = format!("breaker/{breaker}/{group}");
    let part = match group {
        Group::Fleet => "the whole fleet".to_owned(),
        Group::Label(value) => value.clone(),
        Group::Deployment(id) => format!("deployment {id}"),
    };
    Notice::new(at, NoticeKind::Breaker, severity, state, key)
        .saying(breaker, format!("breaker {breaker} {what} for {part}"))
        .detailed(transition.reason.to_string())
        .fact("breaker", breaker)
        .fact("group", group)
        .fact("from", from.name())
        .fact("to", to.name())
        .fact("reason", transition.reason.name())
}

/// Some nodes may pass a breaker.
#[must_use]
pub fn overridden(event: &BreakerOverridden, at: UnixMillis) -> Notice {
    let BreakerOverridden {
        number,
        breaker,
        nodes,
        until,
        by,
        reason,
    } = event;
    let key = format!("{}{number}", overrides_of(breaker));
    Notice::new(
        at,
        NoticeKind::Breaker,
        Severity::Warning,
        NoticeState::Raised,
        key,
    )
    .saying(breaker, format!("{nodes} may pass breaker {breaker}"))
    .detailed(format!("until {until}, by {by}: {reason}"))
    .fact("breaker", breaker)
    .fact("override", number)
    .fact("nodes", nodes)
    .fact("until", until)
}

/// An override of this key is over.
#[must_use]
pub fn override_ended(key: String, why: OverrideEnd, at: UnixMillis) -> Notice {
    let why = match why {
        OverrideEnd::Expired => "its time has passed",
        OverrideEnd::Withdrawn => "it was withdrawn",
    };
    let breaker = key.split('/').nth(1).unwrap_or_default().to_owned();
    Notice::new(
        at,
        NoticeKind::Breaker,
        Severity::Warning,
        NoticeState::Resolved,
        key,
    )
    .saying(
        &breaker,
        format!("an override of breaker {breaker} is over"),
    )
    .detailed(why)
    .fact("breaker", &breaker)
}

fn rollout_key(rollout: RolloutId) -> String {
    format!("rollout/{rollout}")
}

fn approval_key(rollout: RolloutId) -> String {
    format!("approval/{rollout}")
}

fn of_rollout(
    rollout: RolloutId,
    deployment: &str,
    severity: Severity,
    state: NoticeState,
    at: UnixMillis,
) -> Notice {
    let key = rollout_key(rollout);
    Notice::new(at, NoticeKind::Rollout, severity, state, key)
        .fact("rollout", rollout)
        .fact("deployment", deployment)
}

/// What a rollout decided: nothing for most decisions, two notices for the end of
/// one that waited for someone.
#[must_use]
pub fn rollout_decided(decision: &Decision, deployment: &str, at: UnixMillis) -> Vec<Notice> {
    let id = decision.rollout();
    let about = |severity, state| of_rollout(id, deployment, severity, state, at);
    let said =
        |notice: Notice| notice.saying(deployment, format!("rollout of {deployment} {decision}"));
    let resolved = || {
        about(Severity::Warning, NoticeState::Resolved).saying(
            deployment,
            format!("rollout of {deployment} waits for nobody any more"),
        )
    };
    match decision {
        Decision::WaveStarted(_) | Decision::WaveApproved(_) => {
            vec![approval_over(id, deployment, at)]
        }
        Decision::Halted(halted) => {
            let severity = match halted.then {
                OnHalt::Pause => Severity::Critical,
                OnHalt::Keep | OnHalt::Revert => Severity::Warning,
            };
            vec![said(about(severity, NoticeState::Raised)).fact("decision", "halted")]
        }
        Decision::Paused(_) => {
            let notice = about(Severity::Warning, NoticeState::Raised);
            vec![said(notice).fact("decision", "paused")]
        }
        Decision::Resumed(_) => vec![said(resolved())],
        Decision::Aborted(_) => {
            let notice = about(Severity::Warning, NoticeState::Once);
            vec![said(notice).fact("decision", "aborted")]
        }
        Decision::Committed(_) => Vec::new(),
        Decision::Finished(finished) => {
            let severity = match finished.outcome {
                Outcome::Completed => Severity::Info,
                Outcome::Halted | Outcome::Reverted | Outcome::Aborted | Outcome::Expired => {
                    Severity::Warning
                }
            };
            let end = said(about(severity, NoticeState::Once))
                .fact("decision", "finished")
                .fact("outcome", finished.outcome.name())
                .fact("succeeded", finished.counts.succeeded);
            vec![approval_over(id, deployment, at), resolved(), end]
        }
    }
}

/// A rollout waits for someone to open the gate before a wave, counted from 0.
#[must_use]
pub fn waits_for_approval(
    rollout: RolloutId,
    deployment: &str,
    wave: u32,
    at: UnixMillis,
) -> Notice {
    let wave = wave + 1;
    let mut notice = of_rollout(
        rollout,
        deployment,
        Severity::Warning,
        NoticeState::Raised,
        at,
    );
    notice.key = approval_key(rollout);
    notice
        .saying(
            deployment,
            format!("rollout of {deployment} waits for the approval of wave {wave}"),
        )
        .detailed(format!("flotilla rollout approve {rollout} --wave {wave}"))
        .fact("wave", wave)
}

fn approval_over(rollout: RolloutId, deployment: &str, at: UnixMillis) -> Notice {
    let mut notice = of_rollout(
        rollout,
        deployment,
        Severity::Warning,
        NoticeState::Resolved,
        at,
    );
    notice.key = approval_key(rollout);
    notice.saying(
        deployment,
        format!("rollout of {deployment} does not wait for approval any more"),
    )
}

/// A node's identity came into doubt.
#[must_use]
pub fn suspected(node: NodeId, name: &str, doubt: Doubt, detail: &str, at: UnixMillis) -> Notice {
    of_identity(node, Severity::Critical, NoticeState::Raised, at)
        .saying(name, format!("the identity of node {name} is in doubt"))
        .detailed(detail)
        .fact("doubt", doubt.name())
}

/// A node's identity is not in doubt any more.
#[must_use]
pub fn suspicion_over(node: NodeId, name: &str, why: &str, at: UnixMillis) -> Notice {
    of_identity(node, Severity::Critical, NoticeState::Resolved, at)
        .saying(
            name,
            format!("the identity of node {name} is not in doubt any more"),
        )
        .detailed(why)
}

fn of_identity(node: NodeId, severity: Severity, state: NoticeState, at: UnixMillis) -> Notice {
    Notice::new(
        at,
        NoticeKind::Node,
        severity,
        state,
        format!("identity/{node}"),
    )
    .about(node)
}

/// A trouble that many nodes can have at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing is heard of a node.
    Silence,
    /// A node's certificate should have been renewed.
    Certificate,
}

/// What is known of one node in trouble, for the words about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Its name.
    pub name: String,
    /// When it was heard last, or when its certificate ends.
    pub time: Option<UnixMillis>,
}

impl Trouble {
    /// What its keys begin with. After it comes a node's id, or [`TOGETHER`].
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Silence => "silence/",
            Self::Certificate => "certificate/node/",
        }
    }

    fn kind(self) -> NoticeKind {
        match self {
            Self::Silence => NoticeKind::Node,
            Self::Certificate => NoticeKind::Certificate,
        }
    }

    /// The notice about what the crowd says. `words` says what is known of a node.
    #[must_use]
    pub fn notice(self, told: Told, words: impl Fn(NodeId) -> Words, at: UnixMillis) -> Notice {
        let single = |node: NodeId, severity, state| {
            let key = format!("{}{node}", self.prefix());
            Notice::new(at, self.kind(), severity, state, key).about(node)
        };
        let together = |severity, state| {
            let key = format!("{}{TOGETHER}", self.prefix());
            Notice::new(at, self.kind(), severity, state, key)
        };
        match told {
            Told::Node(node, severity) => {
                let words = words(node);
                let notice = single(node, severity, NoticeState::Raised);
                self.begun(notice, &words, at)
            }
            Told::Over(node) => {
                let name = words(node).name;
                let title = match self {
                    Self::Silence => format!("node {name} is heard again, or has left"),
                    Self::Certificate => format!("node {name} has renewed its certificate"),
                };
                single(node, Severity::Warning, NoticeState::Resolved).saying(name, title)
            }
            Told::Many {
                count,
                of,
                severity,
            } => {
                let title = match self {
                    Self::Silence => format!("{count} of {of} nodes are silent"),
                    Self::Certificate => {
                        format!("the certificates of {count} of {of} nodes near their end")
                    }
                };
                together(severity, NoticeState::Raised)
                    .saying("fleet", title)
                    .detailed("single nodes are not told of until they are few again")
                    .fact("nodes", count)
                    .fact("of", of)
            }
            Told::Few { count } => {
                let title = match self {
                    Self::Silence => format!("{count} nodes are still silent"),
                    Self::Certificate => {
                        format!("the certificates of {count} nodes still near their end")
                    }
                };
                together(Severity::Warning, NoticeState::Resolved)
                    .saying("fleet", title)
                    .fact("nodes", count)
            }
        }
    }

    fn begun(self, notice: Notice, words: &Words, at: UnixMillis) -> Notice {
        let name = words.name.as_str();
        match self {
            Self::Silence => {
                let heard = words.time.map_or_else(
                    || "it was not heard since the controller's start".to_owned(),
                    |heard| format!("it was heard last at {heard}"),
                );
                notice
                    .saying(name, format!("node {name} is silent"))
                    .detailed(heard)
            }
            Self::Certificate => {
                let end = words.time.unwrap_or(at);
                notice
                    .saying(
                        name,
                        format!("the certificate of node {name} {}", ends(end, at)),
                    )
                    .detailed("the node should have renewed it; see flotilla-agent doctor there")
                    .fact("expires_at", end)
            }
        }
    }
}

/// Stands for all nodes together in a key.
pub const TOGETHER: &str = "fleet";

/// A certificate of the controller's own, or a CA, as the daily look finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// Its name: `server`, or a CA's fingerprint.
    pub name: String,
    /// What it is, for a person.
    pub what: String,
    /// When it ends.
    pub expires_at: UnixMillis,
    /// How long before its end it is told of.
    pub warn_before: Duration,
}

impl OwnCertificate {
    /// What keys of these begin with.
    pub const PREFIX: &'static str = "certificate/own/";

    /// The notice that ends what was told of one that is not in use any more.
    #[must_use]
    pub fn gone(key: String, at: UnixMillis) -> Notice {
        let name = key
            .strip_prefix(Self::PREFIX)
            .unwrap_or_default()
            .to_owned();
        Notice::new(
            at,
            NoticeKind::Certificate,
            Severity::Warning,
            NoticeState::Resolved,
            key,
        )
        .saying(name, "a certificate is not in use any more")
    }

    /// The notice about it, which is told once, or ends what was told.
    #[must_use]
    pub fn notice(&self, at: UnixMillis) -> Notice {
        let severity = near_end(self.expires_at, self.warn_before, at);
        let state = severity.map_or(NoticeState::Resolved, |_| NoticeState::Raised);
        let key = format!("{}{}", Self::PREFIX, self.name);
        let severity = severity.unwrap_or(Severity::Warning);
        let what = &self.what;
        let title = match state {
            NoticeState::Raised => format!("{what} {}", ends(self.expires_at, at)),
            NoticeState::Resolved | NoticeState::Once => format!("{what} is fresh again"),
        };
        Notice::new(at, NoticeKind::Certificate, severity, state, key)
            .saying(&self.name, title)
            .fact("expires_at", self.expires_at)
    }
}

/// How bad it is that a certificate ends then; none while there is more time than
/// `warn_before`. The last third of that is critical.
#[must_use]
pub fn near_end(expires_at: UnixMillis, warn_before: Duration, at: UnixMillis) -> Option<Severity> {
    let left = Duration::from_millis(expires_at.0.saturating_sub(at.0));
    if left > warn_before {
        None
    } else if left > warn_before / 3 {
        Some(Severity::Warning)
    } else {
        Some(Severity::Critical)
    }
}

fn ends(expires_at: UnixMillis, at: UnixMillis) -> String {
    if expires_at <= at {
        format!("has ended at {expires_at}")
    } else {
        format!("ends at {expires_at}")
    }
}

/// The nodes that are told of one by one, and what is told of all, from what is
/// raised below a trouble's prefix.
#[must_use]
pub fn crowd_of(
    trouble: Trouble,
    raised: impl IntoIterator<Item = (String, super::Standing)>,
) -> super::crowd::Crowd {
    let mut told = BTreeMap::new();
    let mut together = None;
    for (key, standing) in raised {
        let Some(rest) = key.strip_prefix(trouble.prefix()) else {
            continue;
        };
        if rest == TOGETHER {
            together = Some(standing.worst);
        } else if let Ok(node) = rest.parse() {
            told.insert(node, standing.severity);
        }
    }
    super::crowd::Crowd::resume(told, together)
}
