//! Notices, and the sinks where they go.

use protocol::id::NodeId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Stamp;

/// What a sink is to be. What is left out stays as it is, or is the default.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SetSink {
    /// Where notices are posted to.
    pub url: Option<String>,
    /// The kinds that it gets: `breaker`, `rollout`, `node`, `certificate`, `alert`,
    /// `heartbeat`. Empty is all but heartbeats.
    pub kinds: Option<Vec<String>>,
    /// The mildest severity that it gets: `info` (the default), `warning` or
    /// `critical`.
    pub severity: Option<String>,
    /// Of notices about one node, those about these: a selector; `*` is all.
    pub nodes: Option<String>,
    /// A signing secret, `whsec_` and base64. Without one a new sink gets one made
    /// here, which the answer shows.
    pub secret: Option<String>,
    /// Whether a sink that is there gets a new secret made here.
    pub renew_secret: bool,
}

impl std::fmt::Debug for SetSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetSink({:?})", self.url)
    }
}

/// A sink as it was set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SinkMade {
    /// The sink.
    pub sink: SinkView,
    /// The signing secret that was made for it; never shown again.
    pub secret: Option<String>,
}

/// Every sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SinkList {
    /// The sinks, by name.
    pub sinks: Vec<SinkView>,
}

/// Where notices go, and how that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SinkView {
    /// Its name.
    pub name: String,
    /// Where notices are posted to.
    pub url: String,
    /// The kinds that it gets; empty is all but heartbeats.
    pub kinds: Vec<String>,
    /// The mildest severity that it gets.
    pub severity: String,
    /// Of notices about one node, those about these.
    pub nodes: String,
    /// `idle` (nothing tried yet), `ok`, or `failing`.
    pub state: String,
    /// When the receiver took a notice last.
    pub delivered_at: Option<Stamp>,
    /// Notices that it took.
    pub delivered: u64,
    /// Notices that wait.
    pub pending: u32,
    /// Since when the oldest of them does.
    pub pending_since: Option<Stamp>,
    /// Since when nothing was taken although it was tried.
    pub failing_since: Option<Stamp>,
    /// Why.
    pub failing_reason: Option<String>,
    /// Notices that the receiver refused for good, or that were given up.
    pub failed: u64,
    /// The last of them, and why.
    pub given_up: Option<String>,
    /// When that was.
    pub given_up_at: Option<Stamp>,
    /// Notices that nobody wanted any more before they were delivered.
    pub expired: u64,
    /// Notices that had left the table before they could be delivered.
    pub lost: u64,
    /// The breaker before the receiver: `closed`, `open` or `half_open`.
    pub breaker: String,
}

/// How trying a sink went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SinkTried {
    /// Whether the receiver took the notice.
    pub delivered: bool,
    /// The status of its answer; none without one.
    pub status: Option<u16>,
    /// What it said, or why there was no answer; empty when all went well.
    pub reason: String,
}

/// Which notices are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ReadNotices {
    /// How many of the newest, at most 1000.
    pub limit: u32,
}

impl Default for ReadNotices {
    fn default() -> Self {
        Self { limit: 100 }
    }
}

/// Notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeList {
    /// The newest, newest first.
    pub notices: Vec<NoticeView>,
}

/// Something that someone was told of, or would have been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoticeView {
    /// Its number.
    pub seq: u64,
    /// When.
    pub at: Stamp,
    /// `breaker`, `rollout`, `node`, `certificate`, `alert` or `heartbeat`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// `raised`, `resolved` or `once`.
    pub state: String,
    /// Names what is raised and later resolved.
    pub key: String,
    /// What it concerns, by name.
    pub subject: String,
    /// The node that it concerns, when it is one.
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// What happened.
    pub title: String,
    /// More of it.
    pub detail: String,
}
