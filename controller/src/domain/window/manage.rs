//! Defining and removing maintenance windows, and opening one against its schedule.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::label;

use crate::domain::breaker::definition::COMMANDS;
use crate::domain::event::Event;
use crate::domain::fleet::Fleet;
use crate::domain::moment::Moment;
use crate::domain::rejection::{Rejection, cut};
use crate::domain::window::event::{WindowOpened, WindowRemoved, WindowSet, WindowShut};
use crate::domain::window::{Definition, WINDOWS_COUNT_MAX};

/// The longest time for which a window is opened against its schedule: what should
/// be open for longer is another schedule.
pub const OPEN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Bytes of the reason for opening a window.
const REASON_BYTES_MAX: usize = 256;

/// Define a window, or define it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetWindow {
    /// What it is to be.
    pub definition: Box<Definition>,
}

/// Remove a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveWindow {
    /// Its name.
    pub window: String,
}

/// Open a window against its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWindow {
    /// Its name.
    pub window: String,
    /// For how long.
    pub lifetime: Duration,
    /// Why.
    pub reason: String,
}

/// Shut a window that was opened against its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutWindow {
    /// Its name.
    pub window: String,
}

pub(crate) fn set(fleet: &Fleet, asked: &SetWindow) -> Result<Vec<Event>, Rejection> {
    let definition = asked.definition.as_ref();
    let invalid = |detail: String| Rejection::new(ErrorCode::WindowInvalid, detail);
    label::check_name(&definition.name).map_err(|error| invalid(error.to_string()))?;
    definition
        .schedule
        .check()
        .map_err(|error| invalid(error.to_string()))?;
    let gated = &definition.gated;
    if let Some(unknown) = gated
        .commands
        .iter()
        .find(|name| !COMMANDS.contains(&name.as_str()))
    {
        return Err(invalid(format!(
            "{unknown:?} is nothing that waits for a window: deploy, update, {}",
            COMMANDS.join(", ")
        )));
    }
    if !gated.deploy && !gated.update && gated.commands.is_empty() {
        return Err(invalid("nothing waits for it".to_owned()));
    }
    let known = fleet.windows().existing(&definition.name);
    if known.is_ok_and(|known| known.definition == *definition) {
        return Ok(Vec::new());
    }
    if known_count(fleet, &definition.name) >= WINDOWS_COUNT_MAX {
        return Err(Rejection::new(
            ErrorCode::LimitReached,
            format!("the fleet has {WINDOWS_COUNT_MAX} maintenance windows; remove some"),
        ));
    }
    Ok(vec![Event::WindowSet(WindowSet {
        definition: asked.definition.clone(),
    })])
}

/// Windows besides the one of that name.
fn known_count(fleet: &Fleet, name: &str) -> usize {
    let others = fleet.windows().iter();
    others.filter(|it| it.definition.name != name).count()
}

pub(crate) fn remove(fleet: &Fleet, asked: &RemoveWindow) -> Result<Vec<Event>, Rejection> {
    fleet.windows().existing(&asked.window)?;
    Ok(vec![Event::WindowRemoved(WindowRemoved {
        window: asked.window.clone(),
    })])
}

pub(crate) fn open(
    fleet: &Fleet,
    asked: &OpenWindow,
    at: &Moment,
) -> Result<Vec<Event>, Rejection> {
    fleet.windows().existing(&asked.window)?;
    let invalid = |detail: String| Err(Rejection::new(ErrorCode::WindowInvalid, detail));
    if asked.lifetime.is_zero() || asked.lifetime > OPEN_MAX {
        return invalid(format!(
            "a window is opened for {} s; give 1 to {}",
            asked.lifetime.as_secs(),
            OPEN_MAX.as_secs()
        ));
    }
    if asked.reason.trim().is_empty() {
        return invalid("opening a window against its schedule needs a reason".to_owned());
    }
    Ok(vec![Event::WindowOpened(WindowOpened {
        window: asked.window.clone(),
        until: at.now.after(asked.lifetime),
        reason: cut(asked.reason.clone(), REASON_BYTES_MAX),
    })])
}

pub(crate) fn shut(fleet: &Fleet, asked: &ShutWindow) -> Result<Vec<Event>, Rejection> {
    let known = fleet.windows().existing(&asked.window)?;
    if known.opened.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![Event::WindowShut(WindowShut {
        window: asked.window.clone(),
    })])
}
