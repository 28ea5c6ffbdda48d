//! The operator's command line, over the REST API.
//!
//! Owns parsing, the profile, the connection and what is printed. **Invariant:**
//! results go to standard output and remarks to standard error; nothing here
//! decides about the fleet, the API does. Failures end with a documented exit
//! code, a stable error code where there is one, and what to do.

pub mod args;
pub mod client;
pub mod failure;
pub mod print;
pub mod profile;

mod access;
mod alert;
mod audit;
mod backup;
mod breaker;
mod command;
pub(crate) mod config;
mod content;
mod deploy;
mod follow;
mod metrics;
mod node;
mod release;
mod rollout;
mod save;
mod service;
mod sink;
mod status;
mod support;
mod token;
mod trust;
mod window;

#[cfg(test)]
mod tests;

use clap::{CommandFactory as _, Parser as _};

use crate::cli::args::{Cli, Command, Global};
use crate::cli::client::Client;
use crate::cli::failure::CliFailure;
use crate::cli::print::Printer;
use crate::clock;
use crate::exit::Exit;

pub use command::Outcome;

/// What a subcommand works with.
pub struct Session {
    /// The connection to the controller.
    pub client: Client,
    /// Where results go.
    pub print: Printer,
}

/// Parses the command line; an error or a wish for help is printed.
///
/// # Errors
/// The code to exit with.
pub fn parse() -> Result<Cli, Exit> {
    Cli::try_parse().map_err(|error| {
        let exit = if error.use_stderr() {
            Exit::Usage
        } else {
            Exit::Ok
        };
        if error.print().is_err() {
            return Exit::Failed;
        }
        exit
    })
}

/// Runs a subcommand that asks a controller, or needs none at all.
///
/// # Errors
/// What to print, and the code to exit with.
pub async fn run(global: Global, command: Command) -> Result<Exit, CliFailure> {
    let mut print = Printer::stdout(global.output, clock::now());
    match command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flotilla", &mut script);
            print.raw(&String::from_utf8_lossy(&script))?;
            return Ok(Exit::Ok);
        }
        Command::Config(command) => return config::run(&mut print, command),
        Command::Support(asked) => return support::run(&global, &mut print, asked).await,
        Command::Audit(args::Audit::Verify { file, key }) => {
            return audit::verify(&mut print, &file, key.as_deref());
        }
        Command::Trust(args::trust::Trust::Sign {
            root_key,
            request,
            to,
        }) => return trust::sign(&mut print, &root_key, &request, &to),
        Command::Release(args::release::Release::Key(args::release::ReleaseKey::Create {
            file,
        })) => return release::create_key(&mut print, &file),
        Command::Release(args::release::Release::Sign(asked)) => {
            return release::sign(&mut print, &asked);
        }
        Command::Backup(args::backup::Backup::Key(args::backup::BackupKey::Create { file })) => {
            return backup::create_key(&mut print, &file);
        }
        Command::Backup(args::backup::Backup::Verify(asked)) => {
            return backup::verify(&mut print, &asked);
        }
        Command::Backup(args::backup::Backup::Restore { open, source }) => {
            return backup::restore(&mut print, &open, &source);
        }
        Command::Node(_)
        | Command::Token(_)
        | Command::Trust(_)
        | Command::Ping(_)
        | Command::Run(_)
        | Command::Service(_)
        | Command::Logs(_)
        | Command::Command(_)
        | Command::Deploy(_)
        | Command::Rollout(_)
        | Command::Breaker(_)
        | Command::Window(_)
        | Command::Sink(_)
        | Command::Notice(_)
        | Command::Alert(_)
        | Command::Secret(_)
        | Command::Release(_)
        | Command::Update(_)
        | Command::Image(_)
        | Command::Metrics(_)
        | Command::Access(_)
        | Command::Audit(_)
        | Command::Backup(_)
        | Command::Recover(_)
        | Command::Serve(_)
        | Command::Quickstart(_) => {}
    }
    let key = std::env::var("FLOTILLA_KEY").ok();
    let client = Client::new(profile::connection(&global, key)?)?;
    ask(&mut Session { client, print }, command).await
}

/// Runs a subcommand that asks a controller.
///
/// # Errors
/// What to print, and the code to exit with.
pub async fn ask(session: &mut Session, command: Command) -> Result<Exit, CliFailure> {
    match command {
        Command::Node(command) => node::run(session, command).await,
        Command::Token(command) => token::run(session, command).await,
        Command::Trust(command) => trust::run(session, command).await,
        Command::Ping(asked) => command::ping(session, asked).await,
        Command::Run(asked) => command::run(session, asked).await,
        Command::Service(asked) => command::service(session, asked).await,
        Command::Logs(asked) => command::logs(session, asked).await,
        Command::Command(noun) => command::noun(session, noun).await,
        Command::Deploy(asked) => deploy::run(session, asked).await,
        Command::Rollout(asked) => rollout::run(session, asked).await,
        Command::Breaker(asked) => breaker::run(session, asked).await,
        Command::Window(asked) => window::run(session, asked).await,
        Command::Sink(asked) => sink::run(session, asked).await,
        Command::Notice(asked) => sink::notice(session, asked).await,
        Command::Alert(asked) => alert::run(session, asked).await,
        Command::Secret(asked) => content::secret(session, asked).await,
        Command::Image(asked) => content::image(session, asked).await,
        Command::Release(asked) => release::run(session, asked).await,
        Command::Update(asked) => release::update(session, asked).await,
        Command::Metrics(asked) => metrics::run(session, asked).await,
        Command::Access(command) => access::run(session, command).await,
        Command::Audit(command) => audit::run(session, command).await,
        Command::Backup(command) => backup::run(session, command).await,
        Command::Config(_)
        | Command::Completion { .. }
        | Command::Support(_)
        | Command::Recover(_)
        | Command::Serve(_)
        | Command::Quickstart(_) => Err(CliFailure::new(
            Exit::Bug,
            "this subcommand does not ask a controller",
        )),
    }
}

/// A remark: to standard error, so that a pipe gets results alone.
pub fn note(text: &str) {
    aside(&format!("{text}\n"));
}

/// Text to standard error as it is. A terminal that went away takes nothing.
pub(crate) fn aside(text: &str) {
    use std::io::Write as _;
    if std::io::stderr().write_all(text.as_bytes()).is_err() {
        tracing::debug!("standard error is gone");
    }
}
