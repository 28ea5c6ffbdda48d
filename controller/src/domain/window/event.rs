//! What happens to maintenance windows.

use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::window::Definition;

/// A window was defined, or defined anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSet {
    /// What it is from here on.
    pub definition: Box<Definition>,
}

/// A window was removed: what waited for it waits no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRemoved {
    /// Its name.
    pub window: String,
}

/// A window was opened against its schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowOpened {
    /// Its name.
    pub window: String,
    /// Until when.
    pub until: UnixMillis,
    /// Why, in the operator's words.
    pub reason: String,
}

/// A window that was opened against its schedule was shut again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowShut {
    /// Its name.
    pub window: String,
}
