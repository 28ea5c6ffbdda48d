//! Notices: what someone should be told of.
//!
//! A notice is made where its cause is taken into account, and written in the
//! same transaction as what the cause led to; sinks read the table behind it. It
//! is not an event: where its cause is one, the journal has that already.
//!
//! A state that lasts is two notices with one key, `raised` and `resolved`. What is
//! raised already is not raised again, and what is not raised is not resolved, so
//! a cause may be judged again at any time (after a restart, once a day) without
//! telling anybody twice.
//!
//! **Invariant:** a notice has bounded size whatever its cause says, and holds no
//! secret: it leaves for wherever an operator's sink points.

pub mod cause;
pub mod crowd;
pub mod delivery;
pub mod sink;

use std::collections::BTreeMap;

use protocol::id::NodeId;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Bytes of a key or of a subject: room for a kind and two names.
pub const KEY_BYTES_MAX: usize = 256;

/// Bytes of a title: one line of a chat.
pub const TITLE_BYTES_MAX: usize = 256;

/// Bytes of a detail, as of a receipt's.
pub const DETAIL_BYTES_MAX: usize = protocol::limits::DETAIL_BYTES_MAX;

/// Facts of one notice.
pub const FACTS_COUNT_MAX: usize = 16;

/// Something that someone should be told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When its cause was taken into account, in controller time.
    pub at: UnixMillis,
    /// What it is about.
    pub kind: NoticeKind,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it begins, ends or just happened.
    pub state: NoticeState,
    /// Names what is raised and later resolved: both notices have the same key.
    /// Notices of one key reach a sink in their order.
    pub key: String,
    /// What it concerns, by name: a breaker, a deployment, a node.
    pub subject: String,
    /// The node that it concerns; none when it is no single one.
    pub node: Option<NodeId>,
    /// What happened, in one line for a person.
    pub title: String,
    /// More of it, for a person; may be empty.
    pub detail: String,
    /// The same for a program, by name.
    pub facts: BTreeMap<String, String>,
    /// After this nobody wants to hear of it any more; none for how long a sink
    /// is tried anyway.
    pub expires_at: Option<UnixMillis>,
}

/// What a notice is about. Append-only: postcard numbers the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A breaker moved, or is passed by an override.
    Breaker,
    /// A rollout needs someone, or ended.
    Rollout,
    /// A node fell silent, or its identity is in doubt.
    Node,
    /// A certificate nears its end.
    Certificate,
    /// An alert rule fires.
    Alert,
    /// The controller is alive: for a dead man's switch. Only sinks that name it
    /// get it.
    Heartbeat,
    /// Somebody tries a sink.
    Test,
}

/// How bad it is. Append-only; a later one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it in working hours.
    Warning,
    /// Look at it now.
    Critical,
}

/// Whether a notice begins, ends or just happened. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    /// It lasts from here on, until it is resolved.
    Raised,
    /// It is over.
    Resolved,
    /// It happened, and that is all.
    Once,
}

/// A text that is not a name of the list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not one of {names}")]
pub struct ParseNameError {
    text: String,
    names: String,
}

fn parse<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, ParseNameError> {
    all.iter()
        .copied()
        .find(|one| name(*one) == text)
        .ok_or_else(|| ParseNameError {
            text: text.to_owned(),
            names: all
                .iter()
                .map(|one| name(*one))
                .collect::<Vec<_>>()
                .join(", "),
        })
}

impl NoticeKind {
    /// Every kind that a sink can choose.
    pub const CHOICES: [Self; 6] = [
        Self::Breaker,
        Self::Rollout,
        Self::Node,
        Self::Certificate,
        Self::Alert,
        Self::Heartbeat,
    ];

    /// Its name, as it is shown and sent.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Breaker => "breaker",
            Self::Rollout => "rollout",
            Self::Node => "node",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::Heartbeat => "heartbeat",
            Self::Test => "test",
        }
    }
}

impl core::str::FromStr for NoticeKind {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        parse(text, &Self::CHOICES, Self::name)
    }
}

impl Severity {
    /// Every severity, the mildest first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Its name, as it is shown and sent.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl core::str::FromStr for Severity {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        parse(text, &Self::ALL, Self::name)
    }
}

impl NoticeState {
    /// Its name, as it is shown and sent.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Resolved => "resolved",
            Self::Once => "once",
        }
    }
}

/// What is raised under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The number of the notice that raised it.
    pub seq: u64,
    /// How bad it was said to be last.
    pub severity: Severity,
    /// How bad it was said to be at worst. Its end is told at this severity, so that
    /// whoever was told of it is told of its end.
    pub worst: Severity,
}

impl Standing {
    /// What stands once this notice is raised over what stood before.
    #[must_use]
    pub fn raised(seq: u64, severity: Severity, before: Option<Self>) -> Self {
        Self {
            seq,
            severity,
            worst: before.map_or(severity, |before| before.worst.max(severity)),
        }
    }
}

impl Notice {
    /// A notice that says no more than what is given; the others of these functions
    /// add to it.
    #[must_use]
    pub fn new(
        at: UnixMillis,
        kind: NoticeKind,
        severity: Severity,
        state: NoticeState,
        key: String,
    ) -> Self {
        Self {
            at,
            kind,
            severity,
            state,
            key,
            subject: String::new(),
            node: None,
            title: String::new(),
            detail: String::new(),
            facts: BTreeMap::new(),
            expires_at: None,
        }
    }

    /// About what, by name, and what happened, in one line.
    #[must_use]
    pub fn saying(mut self, subject: impl Into<String>, title: impl Into<String>) -> Self {
        self.subject = subject.into();
        self.title = title.into();
        self
    }

    /// With more of it, for a person.
    #[must_use]
    pub fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// About a node.
    #[must_use]
    pub fn about(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// With a fact for a program.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }

    /// The same within the limits: what is too long is cut.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        clip(&mut self.key, KEY_BYTES_MAX);
        clip(&mut self.subject, KEY_BYTES_MAX);
        clip(&mut self.title, TITLE_BYTES_MAX);
        clip(&mut self.detail, DETAIL_BYTES_MAX);
        self.facts = std::mem::take(&mut self.facts)
            .into_iter()
            .take(FACTS_COUNT_MAX)
            .map(|(mut name, mut value)| {
                clip(&mut name, KEY_BYTES_MAX);
                clip(&mut value, KEY_BYTES_MAX);
                (name, value)
            })
            .collect();
        self
    }

    /// Whether it tells something new, given what is raised under its key: a raised
    /// notice does when nothing was, or when it is of another severity.
    #[must_use]
    pub fn is_news(&self, standing: Option<Standing>) -> bool {
        match (self.state, standing) {
            (NoticeState::Once, _) | (NoticeState::Raised, None) => true,
            (NoticeState::Raised, Some(standing)) => standing.severity != self.severity,
            (NoticeState::Resolved, standing) => standing.is_some(),
        }
    }
}

/// Cuts a text at a character's edge.
fn clip(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

#[cfg(test)]
mod tests;
