//! The agent's own log.
//!
//! ERROR is broken, WARN is for tomorrow, INFO is a change of state that an
//! operator cares for, DEBUG a decision, TRACE the flow. Values are fields;
//! secrets never appear, addresses only at DEBUG.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not in `tracing`'s syntax.
    #[error("log.level {level:?} is not a filter")]
    Filter {
        /// As configured.
        level: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The journal was asked for and cannot be reached.
    #[error("cannot reach the journal")]
    Journal(#[source] std::io::Error),
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process. `under_systemd` says whether systemd connected
/// the standard error to the journal (`JOURNAL_STREAM`).
///
/// # Errors
/// See [`LogError`].
pub fn start_log(log: &Log, under_systemd: bool) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|source| LogError::Filter {
        level: log.level.clone(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let text = || {
        use std::io::IsTerminal as _;
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
    };
    let done = match log.format {
        LogFormat::Auto if under_systemd => match journal() {
            Ok(journal) => registry.with(journal).try_init(),
            Err(_) => registry.with(text()).try_init(),
        },
        LogFormat::Journald => {
            let journal = journal().map_err(LogError::Journal)?;
            registry.with(journal).try_init()
        }
        LogFormat::Auto | LogFormat::Text => registry.with(text()).try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    done.map_err(LogError::Twice)
}

/// The journal, where a field `command` is `FLOTILLA_COMMAND`.
fn journal() -> std::io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(Some("FLOTILLA".to_owned())))
}
