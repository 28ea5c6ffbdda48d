//! What a breaker is: what it watches, when it trips, what it stops and where.
//!
//! **Invariant:** a definition that passed [`Definition::check`] says nothing that
//! nodes would not do, and its gates fit the room that the policy keeps for them.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeSet;

use protocol::ErrorCode;
use protocol::breaker::rule::{BreakerRule, Confidence, Recovery, Trip};
use protocol::command::{Action, ServiceVerb};
use protocol::deployment::spec::is_name;
use protocol::id::DeploymentId;
use protocol::label::{Labels, is_key, is_value};
use protocol::policy::{Gated, Scope};
use protocol::selector::Selector;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::rejection::Rejection;

/// Nodes that may be probes of one round. Each is named in the policy, by ten
/// bytes.
pub const PROBES_MAX: u32 = 8;

/// The name of the breaker that every fleet has from the start.
pub const FLEET: &str = "fleet";

/// Kinds of commands that a breaker can stop: every action that changes something.
pub const COMMANDS: [&str; 3] = ["reload", "run", "service"];

/// A breaker as an operator defines it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name, unique in the fleet.
    pub name: String,
    /// The nodes whose signals it watches. Whom it stops is said by its span alone.
    pub nodes: Selector,
    /// What it watches.
    pub watches: BTreeSet<Signal>,
    /// When it trips, and how it recovers.
    pub rule: BreakerRule,
    /// What it stops.
    pub gated: Gated,
    /// What a trip stops it for.
    pub span: Span,
    /// What becomes of rollouts that it covers.
    pub rollouts: OnTrip,
    /// Whether its moves are told to the notification sinks.
    pub notify: bool,
}

/// What is watched. Each happening on a node is one sample. Append-only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// How changes of deployments end: a refusal or a superseded one is no sample.
    Deploy,
    /// Whether nodes are heard after a change: silent within ten minutes of one is
    /// a failure, ten minutes of being heard a success.
    Silence,
    /// Whether a deployment comes to be, or ceases to be, well on a node.
    Unhealthy,
    /// Whether containers are started again and again.
    CrashLoop,
    /// How commands that change something end: what was refused, cancelled or
    /// expired is no sample.
    Command,
    /// Whether a condition of this name begins or ceases to hold.
    Condition(String),
}

/// A text that is not a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not deploy, silence, unhealthy, crash_loop, command or condition:NAME")]
pub struct ParseSignalError(String);

/// For what part of the fleet a breaker trips. Append-only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// All of it at once.
    #[default]
    Fleet,
    /// Each value of a label by itself. Nodes without the label are not watched.
    Label(String),
    /// Each deployment by itself, wherever it is.
    Deployment,
}

/// One part of the fleet for which a breaker has a state of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The whole fleet. Breakers of a narrower span have it too: for trips by hand,
    /// and for when more groups would be open than the policy has room for.
    Fleet,
    /// The nodes with this value of the span's label.
    Label(String),
    /// One deployment.
    Deployment(DeploymentId),
}

/// What becomes of rollouts that a breaker covers when it trips. Append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTrip {
    /// They start nothing more until it closes, and then go on.
    Hold,
    /// They halt: what is in progress is recalled, and they end as their own
    /// parameters say.
    #[default]
    Halt,
    /// They are aborted, and nodes that succeeded go back.
    Revert,
}

impl Definition {
    /// The breaker that every fleet has until someone defines another by its name.
    ///
    /// It is the net below the rollouts' own criteria, which see one deployment
    /// each: it trips when changes fail all over the fleet, whichever they are. Only
    /// a share trips it, because single failures are a rollout's to judge, and
    /// because five developers who each break their own canary in an afternoon are
    /// no reason to stop a sixth: a fifth of at least ten changes within half an
    /// hour, at 95 % confidence, is 5 of 10 or 11 of 30, and never 1 of 100. It
    /// stops changes of deployments and of the agent, not commands, which are what
    /// operators repair with. Two nodes try after ten minutes, and have an
    /// hour: a canary must outlive its soak before the next wave's node begins.
    #[must_use]
    pub fn fleet() -> Self {
        Self {
            name: FLEET.to_owned(),
            nodes: Selector::every(),
            watches: BTreeSet::from([Signal::Deploy, Signal::Silence]),
            rule: BreakerRule {
                trip: Trip {
                    consecutive: 0,
                    count: 0,
                    percent: 20,
                    min_samples: 10,
                    confidence: Confidence::P95,
                    window_ms: 30 * 60 * 1000,
                },
                recovery: Recovery {
                    cool_down_ms: 10 * 60 * 1000,
                    cool_down_ms_max: 2 * 60 * 60 * 1000,
                    probes: 2,
                    successes: 2,
                    probe_limit_ms: 60 * 60 * 1000,
                },
            },
            gated: Gated {
                deploy: true,
                update: true,
                commands: BTreeSet::new(),
            },
            span: Span::Fleet,
            rollouts: OnTrip::Halt,
            notify: true,
        }
    }

    /// Checks each part against the others.
    ///
    /// # Errors
    /// The rejection that names the first part that is wrong.
    pub fn check(&self) -> Result<(), Rejection> {
        let invalid = |detail: String| Err(Rejection::new(ErrorCode::BreakerInvalid, detail));
        if !is_name(&self.name) {
            return invalid(format!(
                "breaker name {:?} is not lowercase letters, digits, - and _",
                self.name
            ));
        }
        self.rule
            .check()
            .map_err(|error| Rejection::new(error.code(), error.to_string()))?;
        let probes = self.rule.recovery.probes;
        if probes > PROBES_MAX {
            return invalid(format!(
                "recovery.probes is {probes}; nodes are named, at most {PROBES_MAX}"
            ));
        }
        let Gated {
            deploy,
            update,
            commands,
        } = &self.gated;
        if let Some(unknown) = commands
            .iter()
            .find(|command| !COMMANDS.contains(&command.as_str()))
        {
            return invalid(format!(
                "no command that changes something is named {unknown:?}; there are {}",
                COMMANDS.join(", ")
            ));
        }
        if !deploy && !update && commands.is_empty() {
            return invalid("it stops nothing: give deploy, update or commands".to_owned());
        }
        match &self.span {
            Span::Fleet => Ok(()),
            // In a selector these two are the node's own.
            Span::Label(key) if is_key(key) && !["id", "name"].contains(&key.as_str()) => Ok(()),
            Span::Label(key) => invalid(format!("{key:?} is no key of a label")),
            Span::Deployment if *update || !commands.is_empty() => invalid(
                "a breaker of each deployment stops its changes alone, not updates or commands"
                    .to_owned(),
            ),
            Span::Deployment if !self.watches.iter().all(Signal::is_of_deployment) => invalid(
                "a breaker of each deployment watches deploy, unhealthy and crash_loop alone"
                    .to_owned(),
            ),
            Span::Deployment => Ok(()),
        }
    }

    /// The group that a signal of a node counts in; none when it is not watched.
    #[must_use]
    pub fn group_of(&self, labels: &Labels, deployment: Option<DeploymentId>) -> Option<Group> {
        match &self.span {
            Span::Fleet => Some(Group::Fleet),
            Span::Label(key) => labels
                .get(key)
                .map(|value| Group::Label(value.to_owned()))
                .filter(|group| self.scope(group).is_some()),
            Span::Deployment => deployment.map(Group::Deployment),
        }
    }

    /// Whether the breaker can have this group.
    #[must_use]
    pub fn has(&self, group: &Group) -> bool {
        match (group, &self.span) {
            (Group::Fleet, _) | (Group::Deployment(_), Span::Deployment) => true,
            (Group::Label(_), _) => self.scope(group).is_some(),
            (Group::Deployment(_), Span::Fleet | Span::Label(_)) => false,
        }
    }

    /// What part of the fleet a group is, as nodes understand it. None for one that
    /// no selector can name.
    #[must_use]
    pub fn scope(&self, group: &Group) -> Option<Scope> {
        match (group, &self.span) {
            // A text that is no value could say more than one term.
            (Group::Label(value), Span::Label(key)) if is_value(value) => {
                format!("{key}={value}").parse().ok().map(Scope::Nodes)
            }
            (Group::Deployment(id), _) => Some(Scope::Deployment(*id)),
            (Group::Fleet, _) => Some(Scope::Fleet),
            (Group::Label(_), Span::Fleet | Span::Label(_) | Span::Deployment) => None,
        }
    }
}

impl Signal {
    /// Whether it is of one deployment.
    #[must_use]
    pub fn is_of_deployment(&self) -> bool {
        match self {
            Self::Deploy | Self::Unhealthy | Self::CrashLoop => true,
            Self::Silence | Self::Command | Self::Condition(_) => false,
        }
    }
}

impl Group {
    /// Reads a group as an operator names it: a label's value, a deployment's id;
    /// nothing is the whole fleet.
    ///
    /// # Errors
    /// The rejection when the breaker has no such group.
    pub fn of(definition: &Definition, text: Option<&str>) -> Result<Self, Rejection> {
        let Some(text) = text else {
            return Ok(Self::Fleet);
        };
        let group = match &definition.span {
            Span::Label(_) => Some(Self::Label(text.to_owned())),
            Span::Deployment => text.parse().ok().map(Self::Deployment),
            Span::Fleet => None,
        };
        let group = group.filter(|group| definition.has(group));
        group.ok_or_else(|| {
            Rejection::new(
                ErrorCode::BreakerInvalid,
                format!("breaker {} has no group {text:?}", definition.name),
            )
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet => f.write_str("*"),
            Self::Label(value) => f.write_str(value),
            Self::Deployment(id) => id.fmt(f),
        }
    }
}

/// Whether a breaker may stop the action. Reads never, and stopping what is broken
/// never.
#[must_use]
pub fn is_gated(action: &Action) -> bool {
    let stops = matches!(
        action,
        Action::Service {
            verb: ServiceVerb::Stop,
            ..
        }
    );
    action.mutates() && !stops
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy => f.write_str("deploy"),
            Self::Silence => f.write_str("silence"),
            Self::Unhealthy => f.write_str("unhealthy"),
            Self::CrashLoop => f.write_str("crash_loop"),
            Self::Command => f.write_str("command"),
            Self::Condition(name) => write!(f, "condition:{name}"),
        }
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, ParseSignalError> {
        Ok(match text {
            "deploy" => Self::Deploy,
            "silence" => Self::Silence,
            "unhealthy" => Self::Unhealthy,
            "crash_loop" => Self::CrashLoop,
            "command" => Self::Command,
            other => match other.strip_prefix("condition:") {
                Some(name) if is_name(name) => Self::Condition(name.to_owned()),
                Some(_) | None => {
                    return Err(ParseSignalError(text.chars().take(80).collect()));
                }
            },
        })
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}
