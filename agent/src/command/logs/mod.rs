//! Log lines: of a unit's journal, of a file below an allowed root, of a
//! container.
//!
//! **Invariant:** a request without `follow` ends with the last line there is;
//! one with `follow` ends at its run timeout at the latest, and that is a
//! success, since it is what was asked. Each source says in its own words why
//! it cannot be read.

mod container;
mod file;
mod journal;

use std::path::PathBuf;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::command::{LogSource, Outcome};

use super::ending::Ending;
use super::task::Context;

/// Which lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    /// How many of the last lines.
    pub(crate) lines: u32,
    /// Only what is younger.
    pub(crate) since: Option<Duration>,
    /// Go on with new lines until the run timeout.
    pub(crate) follow: bool,
}

/// The agent's own unit, with and without its suffix.
const OWN_UNIT: [&str; 2] = ["flotilla-agent", "flotilla-agent.service"];

/// The file that stands in for the agent's own journal, when its lines go there.
fn own_log(context: &Context, unit: &str) -> Option<PathBuf> {
    let log = context.settings.own_log.as_ref()?;
    OWN_UNIT.contains(&unit).then(|| log.clone())
}

/// Reads a log.
pub(crate) async fn execute(context: &mut Context, source: &LogSource, query: Query) -> Ending {
    let mut ending = match source {
        LogSource::Unit(unit) => match own_log(context, unit) {
            Some(log) => file::read_own(context, log, query).await,
            None => journal::read(context, unit, query).await,
        },
        LogSource::File(path) => file::read(context, path, query).await,
        LogSource::Container(name) => container::read(context, name, query).await,
    };
    if query.follow && ending.outcome == Outcome::TimedOut {
        ending.outcome = Outcome::Succeeded;
        ending.code = None;
        "followed until its run timeout".clone_into(&mut ending.detail);
    } else if let Outcome::Failed { .. } = ending.outcome {
        ending.code.get_or_insert(ErrorCode::LogUnavailable);
    }
    ending
}
