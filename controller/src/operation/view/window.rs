//! Maintenance windows.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Stamp;

/// Every window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowList {
    /// The windows, by name.
    pub windows: Vec<WindowView>,
}

/// A window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: WindowDefinition,
    /// Active nodes that it is for.
    pub matching: u32,
    /// Until when it is open; none when it is not.
    pub open_until: Option<Stamp>,
    /// Who opened it against its schedule, until when and why.
    pub opened: Option<WindowOpening>,
    /// When its schedule opens it next, the current opening included.
    pub next: Vec<WindowTimes>,
}

/// One time that a schedule opens a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowTimes {
    /// From then on.
    pub from: Stamp,
    /// Until then.
    pub until: Stamp,
    /// The same, as people at the window's place write it.
    pub local: String,
}

/// A window that was opened against its schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowOpening {
    /// Until when.
    pub until: Stamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What a window is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowDefinition {
    /// The nodes that it is for: an id, a name or a selector.
    pub nodes: String,
    /// What waits for it: `deploy`, `update`, `run`, `service`, `reload`.
    pub gates: Vec<String>,
    /// On which days it opens: `mon-fri`, `sat,sun`, `daily`.
    pub days: String,
    /// At which local time: `22:00`.
    pub from: String,
    /// For how long, in seconds.
    pub length_s: u64,
    /// The time zone's name in the IANA database.
    pub zone: String,
}

/// A window that is to be open against its schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenWindow {
    /// For how long, in seconds; at most a day.
    pub for_s: u64,
    /// Kept in the audit trail.
    pub reason: String,
}
