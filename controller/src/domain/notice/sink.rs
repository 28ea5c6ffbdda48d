//! Sinks: where notices go, and which of them.
//!
//! A sink is what an operator wants told where; the journal records it. How far
//! its deliveries have come is the intake's ([`super::delivery`]). Its signing
//! secret lies in the vault; here is its keyed digest, from which nothing can be
//! guessed.
//!
//! **Invariant:** a number is never used again, so the deliveries of a sink that
//! was removed are never taken for those of another of its name.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ErrorCode;
use protocol::deployment::spec::is_name;
use protocol::selector::{Selector, Subject};
use serde::{Deserialize, Serialize};

use super::{Notice, NoticeKind, Severity};
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::rejection::Rejection;

/// Sinks of a fleet. Each delivers a few notices at once, so this bounds what the
/// controller has open towards receivers.
pub const SINKS_COUNT_MAX: usize = 16;

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 1024;

/// Where notices go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Its name, unique in the fleet.
    pub name: String,
    /// Where they are posted to.
    pub url: String,
    /// The kinds that it gets; all but heartbeats when there are none.
    pub kinds: BTreeSet<NoticeKind>,
    /// The mildest severity that it gets.
    pub severity: Severity,
    /// Of notices about one node, those about these. Notices about no single node
    /// are not held back by it.
    pub nodes: Selector,
    /// The digest of its signing secret in the vault.
    pub secret: String,
}

/// A sink that is known, with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its number, from 1; kept when it is changed.
    pub number: u64,
    /// What it is.
    pub sink: Sink,
}

/// The sinks of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sinks {
    known: BTreeMap<String, Known>,
    number_last: u64,
}

/// Make a sink, or change one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSink {
    /// What it is to be.
    pub sink: Box<Sink>,
}

/// Remove a sink. What waits for it is not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveSink {
    /// Its name.
    pub sink: String,
}

/// A sink was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkSet {
    /// Its number.
    pub number: u64,
    /// What it is from here on.
    pub sink: Box<Sink>,
}

/// A sink was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRemoved {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub sink: String,
}

impl Sink {
    /// Whether it gets a notice. `node` is the node that the notice is about, if it
    /// is about one that is known.
    #[must_use]
    pub fn takes(&self, notice: &Notice, node: Option<Subject<'_>>) -> bool {
        let kind = if self.kinds.is_empty() {
            notice.kind != NoticeKind::Heartbeat
        } else {
            self.kinds.contains(&notice.kind)
        };
        kind && notice.severity >= self.severity
            && node.is_none_or(|subject| self.nodes.matches(subject))
    }

    /// Refuses a sink that could not work.
    ///
    /// # Errors
    /// `sink.invalid` with the part that is wrong.
    pub fn check(&self) -> Result<(), Rejection> {
        let invalid = |detail: String| Err(Rejection::new(ErrorCode::SinkInvalid, detail));
        if !is_name(&self.name) {
            let name: String = self.name.chars().take(64).collect();
            return invalid(format!("{name:?} is no name: 1 to 40 of a-z 0-9 - _"));
        }
        let schemed = ["https://", "http://"]
            .iter()
            .any(|scheme| self.url.starts_with(scheme));
        let plain = self.url.bytes().all(|byte| byte.is_ascii_graphic());
        if !schemed || !plain || self.url.len() > URL_BYTES_MAX {
            return invalid(format!(
                "the URL must begin with https:// and have at most {URL_BYTES_MAX} characters"
            ));
        }
        if self.kinds.contains(&NoticeKind::Test) {
            return invalid("test is no kind that a sink can choose".to_owned());
        }
        Ok(())
    }
}

impl Sinks {
    /// A sink by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Known> {
        self.known.get(name)
    }

    /// Every sink, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Known> {
        self.known.values()
    }

    /// A sink by name.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub fn existing(&self, name: &str) -> Result<&Known, Rejection> {
        self.known.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Rejection::new(
                ErrorCode::SinkNotFound,
                format!("there is no sink {name:?}"),
            )
        })
    }

    /// Takes an event into the state. One of something else changes nothing.
    pub(crate) fn apply(&mut self, event: &Event) {
        if let Event::SinkSet(event) = event {
            self.number_last = self.number_last.max(event.number);
            let known = Known {
                number: event.number,
                sink: event.sink.as_ref().clone(),
            };
            self.known.insert(known.sink.name.clone(), known);
        } else if let Event::SinkRemoved(event) = event {
            self.known.remove(&event.sink);
        }
    }
}

pub(crate) fn set(fleet: &Fleet, asked: &SetSink) -> Result<Vec<Event>, Rejection> {
    asked.sink.check()?;
    let sinks = fleet.sinks();
    let number = match sinks.get(&asked.sink.name) {
        Some(known) if known.sink == *asked.sink => return Ok(Vec::new()),
        Some(known) => known.number,
        None if sinks.iter().len() >= SINKS_COUNT_MAX => {
            return Err(Rejection::new(
                ErrorCode::LimitReached,
                format!("the fleet has {SINKS_COUNT_MAX} sinks; remove some"),
            ));
        }
        None => sinks.number_last + 1,
    };
    Ok(vec![Event::SinkSet(SinkSet {
        number,
        sink: asked.sink.clone(),
    })])
}

pub(crate) fn remove(fleet: &Fleet, asked: &RemoveSink) -> Result<Vec<Event>, Rejection> {
    let known = fleet.sinks().existing(&asked.sink)?;
    Ok(vec![Event::SinkRemoved(SinkRemoved {
        number: known.number,
        sink: asked.sink.clone(),
    })])
}

#[cfg(test)]
mod tests;
