//! Which commands the node obeys, and within which bounds: the node's own word,
//! which nothing that the controller sends can widen.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::raw::Section;
use crate::command::{KILL_GRACE_DEFAULT, RunMode, SLOTS_DEFAULT, SLOTS_MAX, Settings};

/// Entries of a list; each is compared with every command.
const LIST_COUNT_MAX: usize = 256;

/// `runtime` is the runtime directory: each command gets a folder below it.
pub(super) fn check(section: &mut Section<'_>, runtime: &Path) -> Settings {
    let default = Settings::new(runtime.join("work"));
    let slots_max = u64::try_from(SLOTS_MAX).unwrap_or(u64::MAX);
    let slots_default = u64::try_from(SLOTS_DEFAULT).unwrap_or(u64::MAX);
    let slots = section.integer("slots", slots_default, 1..=slots_max);
    Settings {
        run: section.choice(
            "run",
            default.run,
            &[
                ("off", RunMode::Off),
                ("allow-list", RunMode::AllowList),
                ("any", RunMode::Any),
            ],
        ),
        allow: list(section, "allow").unwrap_or(default.allow),
        units: list(section, "units").unwrap_or(default.units),
        log_roots: list(section, "log_roots").unwrap_or(default.log_roots),
        slots: usize::try_from(slots).unwrap_or(SLOTS_DEFAULT),
        kill_grace: section.duration(
            "kill_grace",
            KILL_GRACE_DEFAULT,
            Duration::from_millis(100)..=Duration::from_secs(60),
        ),
        ..default
    }
}

fn list<T>(section: &mut Section<'_>, key: &str) -> Option<Vec<T>>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let texts = section.optional_texts(key, LIST_COUNT_MAX)?;
    let mut items = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(item) => items.push(item),
            Err(error) => section.problem(key, &text, &format!("usable: {error}")),
        }
    }
    Some(items)
}
