//! Maintenance windows: what can be seen of them, defining them, and opening one
//! against its schedule.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::policy::Gated;
use protocol::time::UnixMillis;

use super::rollout::caller_name;
use super::view::window::{
    OpenWindow, WindowDefinition, WindowList, WindowOpening, WindowTimes, WindowView,
};
use super::{Operations, Who, find_selector};
use crate::clock;
use crate::domain::fleet::Fleet;
use crate::domain::operation::Operation;
use crate::domain::window::schedule::{Schedule, ScheduleError};
use crate::domain::window::{Definition, Window, manage};
use crate::operation::failure::Failure;

/// Openings that are shown of a window.
const NEXT_COUNT: usize = 5;

impl Operations {
    /// Every window.
    ///
    /// # Errors
    /// When it is denied.
    pub fn list_windows(&self, who: &Who) -> Result<WindowList, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("window", "read"), &[])?;
        let now = clock::now();
        let windows = fleet.windows().iter();
        Ok(WindowList {
            windows: windows.map(|window| view(&fleet, window, now)).collect(),
        })
    }

    /// One window.
    ///
    /// # Errors
    /// When it is denied, or there is no such window.
    pub fn show_window(&self, who: &Who, window: &str) -> Result<WindowView, Failure> {
        let fleet = self.engine.fleet();
        self.may(who, &fleet, ("window", "read"), &[])?;
        self.window_view(window)
    }

    /// Defines a window, or defines it anew.
    ///
    /// # Errors
    /// When it is denied, or a part is wrong.
    pub async fn set_window(
        &self,
        who: &Who,
        window: String,
        asked: WindowDefinition,
    ) -> Result<WindowView, Failure> {
        let definition = Box::new(definition(window.clone(), &asked)?);
        let operation = Operation::SetWindow(manage::SetWindow { definition });
        self.submit(who, operation).await?;
        self.window_view(&window)
    }

    /// Removes a window: what waits for it waits no more.
    ///
    /// # Errors
    /// When it is denied, or there is no such window.
    pub async fn remove_window(&self, who: &Who, window: String) -> Result<WindowView, Failure> {
        let before = self.window_view(&window);
        let operation = Operation::RemoveWindow(manage::RemoveWindow { window });
        self.submit(who, operation).await?;
        before
    }

    /// Opens a window against its schedule: break-glass.
    ///
    /// # Errors
    /// When it is denied, there is no such window, or a value is out of bounds.
    pub async fn open_window(
        &self,
        who: &Who,
        window: String,
        asked: OpenWindow,
    ) -> Result<WindowView, Failure> {
        let operation = Operation::OpenWindow(manage::OpenWindow {
            window: window.clone(),
            lifetime: Duration::from_secs(asked.for_s),
            reason: asked.reason,
        });
        self.submit(who, operation).await?;
        self.window_view(&window)
    }

    /// Shuts a window that was opened against its schedule.
    ///
    /// # Errors
    /// When it is denied, or there is no such window.
    pub async fn shut_window(&self, who: &Who, window: String) -> Result<WindowView, Failure> {
        let operation = Operation::ShutWindow(manage::ShutWindow {
            window: window.clone(),
        });
        self.submit(who, operation).await?;
        self.window_view(&window)
    }

    fn window_view(&self, window: &str) -> Result<WindowView, Failure> {
        let fleet = self.engine.fleet();
        let known = fleet.windows().existing(window)?;
        Ok(view(&fleet, known, clock::now()))
    }
}

fn view(fleet: &Fleet, window: &Window, now: UnixMillis) -> WindowView {
    let definition = &window.definition;
    let schedule = &definition.schedule;
    let matching = fleet
        .nodes()
        .filter(|node| node.is_active() && definition.nodes.matches(node.subject()))
        .count();
    let opened = window.opened.as_ref().filter(|opened| opened.until > now);
    WindowView {
        name: definition.name.clone(),
        definition: WindowDefinition::from(definition),
        matching: u32::try_from(matching).unwrap_or(u32::MAX),
        open_until: window.open_until(now).map(Into::into),
        opened: opened.map(|opened| WindowOpening {
            until: opened.until.into(),
            by: caller_name(fleet, opened.by),
            reason: opened.reason.clone(),
        }),
        next: schedule
            .openings(now)
            .take(NEXT_COUNT)
            .map(|opening| WindowTimes {
                from: opening.from.into(),
                until: opening.until.into(),
                local: schedule.local(opening.from, now),
            })
            .collect(),
    }
}

impl From<&Definition> for WindowDefinition {
    fn from(definition: &Definition) -> Self {
        let Schedule {
            days,
            from,
            length_s,
            zone,
        } = &definition.schedule;
        Self {
            nodes: definition.nodes.to_string(),
            gates: definition.gated.names(),
            days: days.to_string(),
            from: from.to_string(),
            length_s: *length_s,
            zone: zone.clone(),
        }
    }
}

fn definition(name: String, asked: &WindowDefinition) -> Result<Definition, Failure> {
    let invalid = |error: ScheduleError| Failure::new(ErrorCode::WindowInvalid, error.to_string());
    let gates: BTreeSet<String> = asked.gates.iter().cloned().collect();
    Ok(Definition {
        name,
        nodes: find_selector(&asked.nodes)?,
        gated: Gated::of(gates),
        schedule: Schedule {
            days: asked.days.parse().map_err(invalid)?,
            from: asked.from.parse().map_err(invalid)?,
            length_s: asked.length_s,
            zone: asked.zone.clone(),
        },
    })
}
