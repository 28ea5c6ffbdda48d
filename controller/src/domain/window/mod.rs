//! Maintenance windows: when nodes may be changed.
//!
//! A window names nodes by a selector, says what it governs, and when it is open. A
//! node that at least one window matches for a kind of work is changed by such work
//! only while one of these windows is open; a node that none matches is not
//! restricted. Only starts are held back: what began in a window is finished, and
//! rollbacks, halts, reverts, removals and stops pass.
//!
//! The controller decides, by its own clock: nodes know nothing of windows.
//!
//! **Invariant:** what a node waits for follows from the windows, the node and the
//! time alone.

pub mod event;
pub mod manage;
pub mod schedule;

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::command::Action;
use protocol::policy::Gated;
use protocol::selector::{Selector, Subject};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::domain::access::caller::Caller;
use crate::domain::audit::record::Record;
use crate::domain::breaker::definition::is_gated;
use crate::domain::event::Event;
use crate::domain::rejection::Rejection;
use crate::domain::window::schedule::Schedule;

/// Windows of a fleet. All are looked at for each node, so they are few.
pub const WINDOWS_COUNT_MAX: usize = 64;

/// The window part of the fleet's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    known: BTreeMap<String, Arc<Window>>,
}

/// What a window is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// The nodes that it is for.
    pub nodes: Selector,
    /// What waits for it.
    pub gated: Gated,
    /// When it is open.
    pub schedule: Schedule,
}

/// A window, and whether it was opened against its schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// What it is.
    pub definition: Definition,
    /// Who opened it against its schedule, if somebody did.
    pub opened: Option<Opened>,
}

/// A window was opened against its schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Since when.
    pub since: UnixMillis,
    /// Until when.
    pub until: UnixMillis,
    /// By whom.
    pub by: Caller,
    /// Why.
    pub reason: String,
}

/// What is about to begin on a node.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// A change of a deployment that is neither a rollback nor a removal.
    Deploy,
    /// An update of the agent that is no rollback.
    Update,
    /// A command.
    Command(&'a Action),
}

/// What a node waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The window that opens first.
    pub window: String,
    /// When.
    pub until: UnixMillis,
    /// The same, as people at the window's place write it.
    pub local: String,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waits for window {} until {}", self.window, self.local)
    }
}

impl Definition {
    /// Whether work of that kind waits for it.
    #[must_use]
    pub fn governs(&self, work: Work<'_>) -> bool {
        match work {
            Work::Deploy => self.gated.deploy,
            Work::Update => self.gated.update,
            Work::Command(action) => {
                is_gated(action) && self.gated.commands.contains(action.name())
            }
        }
    }
}

impl Window {
    /// Until when it is open; none when it is not.
    #[must_use]
    pub fn open_until(&self, now: UnixMillis) -> Option<UnixMillis> {
        let opened = self.opened.as_ref().map(|opened| opened.until);
        let scheduled = self.definition.schedule.open_until(now);
        opened.filter(|until| *until > now).max(scheduled)
    }

    /// The next time at which it may be open or not as it is not now.
    fn next_edge(&self, now: UnixMillis) -> Option<UnixMillis> {
        let opens = self.definition.schedule.opens_after(now);
        let opened = self.opened.as_ref().map(|opened| opened.until);
        [
            opens,
            self.definition.schedule.open_until(now),
            opened.filter(|until| *until > now),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Windows {
    /// A window by name.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, name: &str) -> Result<&Arc<Window>, Rejection> {
        self.known.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Rejection::new(
                ErrorCode::WindowNotFound,
                format!("there is no maintenance window {name:?}"),
            )
        })
    }

    /// Every window, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Window>> {
        self.known.values()
    }

    /// What a node waits for before work of a kind may begin on it; none when it may
    /// begin.
    #[must_use]
    pub fn wait(&self, subject: Subject<'_>, work: Work<'_>, now: UnixMillis) -> Option<Wait> {
        let mut first: Option<(UnixMillis, &Window)> = None;
        for window in self.known.values() {
            let definition = &window.definition;
            if !definition.governs(work) || !definition.nodes.matches(subject) {
                continue;
            }
            if window.open_until(now).is_some() {
                return None;
            }
            let opens = definition.schedule.opens_after(now);
            let opens = opens.unwrap_or(UnixMillis(u64::MAX));
            if first.is_none_or(|(at, _)| opens < at) {
                first = Some((opens, window));
            }
        }
        first.map(|(until, window)| Wait {
            window: window.definition.name.clone(),
            until,
            local: window.definition.schedule.local(until, now),
        })
    }

    /// The next time at which an answer of [`Windows::wait`] may change.
    #[must_use]
    pub fn next_edge(&self, now: UnixMillis) -> Option<UnixMillis> {
        let edges = self.known.values();
        edges.filter_map(|window| window.next_edge(now)).min()
    }

    /// Takes a record into the state. One of something else changes nothing.
    pub(crate) fn apply(&mut self, record: &Record) {
        if let Event::WindowSet(event) = &record.event {
            let definition = event.definition.as_ref().clone();
            let known = self.known.get(&definition.name);
            let window = Window {
                opened: known.and_then(|known| known.opened.clone()),
                definition,
            };
            let name = window.definition.name.clone();
            self.known.insert(name, Arc::new(window));
        } else if let Event::WindowRemoved(event) = &record.event {
            self.known.remove(&event.window);
        } else if let Event::WindowOpened(event) = &record.event {
            self.change(&event.window, |window| {
                window.opened = Some(Opened {
                    since: record.at,
                    until: event.until,
                    by: record.by,
                    reason: event.reason.clone(),
                });
            });
        } else if let Event::WindowShut(event) = &record.event {
            self.change(&event.window, |window| window.opened = None);
        }
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Window)) {
        if let Some(window) = self.known.get_mut(name) {
            change(Arc::make_mut(window));
        }
    }
}

#[cfg(test)]
mod tests;
