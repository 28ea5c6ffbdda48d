//! Logs: to journald under systemd, else to standard error; and the newest lines
//! in memory, for the support bundle.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::clock;
use crate::config::{LogConfig, LogFormat};

/// Lines kept in memory: a few minutes of a busy controller, below 100 KB.
const RECENT_LINES_MAX: usize = 500;

/// Longest line kept, in bytes.
const RECENT_LINE_BYTES_MAX: usize = 400;

/// The newest log lines.
#[derive(Clone, Default)]
pub struct RecentLog(Arc<Mutex<VecDeque<String>>>);

impl RecentLog {
    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn push(&self, mut line: String) {
        let end = line
            .char_indices()
            .map(|(index, _)| index)
            .find(|index| *index >= RECENT_LINE_BYTES_MAX);
        line.truncate(end.unwrap_or(line.len()));
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= RECENT_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

impl<S: tracing::Subscriber> Layer<S> for RecentLog {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line(format!(
            "{} {} {}:",
            clock::now(),
            metadata.level(),
            metadata.target()
        ));
        event.record(&mut line);
        self.push(line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not in `tracing`'s syntax.
    #[error("log.filter {filter:?} is not valid")]
    Filter {
        /// As configured.
        filter: String,
        /// What the parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// journald was asked for and cannot be reached.
    #[error("cannot reach journald")]
    Journald(#[source] std::io::Error),
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process.
///
/// # Errors
/// See [`LogError`].
pub fn start(config: &LogConfig) -> Result<RecentLog, LogError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|source| LogError::Filter {
        filter: config.filter.clone(),
        source,
    })?;
    let recent = RecentLog::default();
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(recent.clone());
    // systemd sets this when standard error is connected to the journal.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let done = match config.format {
        LogFormat::Auto if under_systemd => match journald() {
            Ok(journald) => registry.with(journald).try_init(),
            Err(_) => registry.with(text_layer()).try_init(),
        },
        LogFormat::Journald => {
            let journald = journald().map_err(LogError::Journald)?;
            registry.with(journald).try_init()
        }
        LogFormat::Auto | LogFormat::Text => registry.with(text_layer()).try_init(),
        LogFormat::Json => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    done.map_err(LogError::Twice)?;
    Ok(recent)
}

/// The journal, where a field `command` is `FLOTILLA_COMMAND`.
fn journald() -> std::io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(Some("FLOTILLA".to_owned())))
}

fn text_layer<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    use std::io::IsTerminal as _;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_bounded() {
        let recent = RecentLog::default();
        let subscriber = tracing_subscriber::registry().with(recent.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..RECENT_LINES_MAX + 3 {
                tracing::info!(n, "counted");
            }
            tracing::info!("{}", "é".repeat(RECENT_LINE_BYTES_MAX));
        });
        let lines = recent.lines();
        assert_eq!(lines.len(), RECENT_LINES_MAX);
        assert!(lines[0].ends_with("counted n=4"), "{}", lines[0]);
        assert!(lines[RECENT_LINES_MAX - 1].len() <= RECENT_LINE_BYTES_MAX + 2);
    }
}
