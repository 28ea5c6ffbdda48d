//! `flotilla config …`.

use crate::cli::args::{Config, ConfigSource};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone};
use crate::config;
use crate::exit::Exit;

pub(super) fn run(print: &mut Printer, command: Config) -> Result<Exit, CliFailure> {
    match command {
        Config::Check(source) => {
            let config = load(&source)?;
            print.line(format!(
                "The configuration is good. State is kept in {}.",
                config.state_dir.display()
            ))?;
        }
        Config::Keys => {
            let mut table = print.table(&["KEY", "ENVIRONMENT"]);
            for key in config::keys() {
                table.add_row(vec![
                    print.cell(key, Tone::Plain),
                    print.cell(config::variable(key), Tone::Faint),
                ]);
            }
            print.print(table, "")?;
        }
    }
    Ok(Exit::Ok)
}

/// Reads the configuration from file, environment and flags.
///
/// # Errors
/// Every problem, one a line.
pub(crate) fn load(source: &ConfigSource) -> Result<config::Config, CliFailure> {
    let mut flags = source.set.clone();
    if let Some(dir) = &source.state_dir {
        flags.push(("state_dir".to_owned(), dir.clone()));
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config::load(source.config.as_deref(), environment, &flags).map_err(|problems| wrong(&problems))
}

/// Every problem of a configuration, one a line.
pub(crate) fn wrong(problems: &[config::Problem]) -> CliFailure {
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect();
    CliFailure::new(
        Exit::Config,
        format!("the configuration is wrong:{}", lines.concat()),
    )
    .advise("correct it, then `flotilla config check`; `flotilla config keys` lists every key")
    .coded(protocol::ErrorCode::ConfigInvalid)
}
