//! Which version of the agent runs, and how the last update of it went.

use super::{Check, Subject};
use crate::domain::update::record::{Phase, UpdateRecord};
use crate::program;
use crate::update::layout::{Layout, LayoutError};

const NAME: &str = "update";

pub(super) fn update(subject: &Subject) -> Check {
    let layout = Layout::below(&subject.dirs.state);
    match layout.record() {
        Ok(None) => Check::ok(
            NAME,
            format!("version {}, as installed", program::version()),
        ),
        // This program is the installed one, also while another version runs.
        Ok(Some(record)) if record.base != program::version() => Check::ok(
            NAME,
            format!(
                "version {}, installed after an update to {}, whose place it takes",
                program::version(),
                record.version
            ),
        ),
        Ok(Some(record)) => went(&record),
        Err(error @ LayoutError::Record { .. }) => Check::failed(
            NAME,
            crate::chain(&error),
            "whichever version is selected starts unwatched: install the package again, which \
             takes the place of any update, and remove the file",
        ),
        Err(error) => Check::warning(
            NAME,
            crate::chain(&error),
            "run this as the agent's user, or as root",
        ),
    }
}

fn went(record: &UpdateRecord) -> Check {
    if matches!(record.phase, Phase::Reverted { .. }) {
        return Check::warning(
            NAME,
            record.story(),
            "nothing at this node: revoke the release if it does so elsewhere \
             ('flotilla release revoke'), or correct what it says and apply another one",
        );
    }
    Check::ok(NAME, record.story())
}
