//! The `flotilla` binary: the controller and the operator's command line.

use std::process::ExitCode;

use flotilla_controller::cli::args::Command;
use flotilla_controller::cli::failure::CliFailure;
use flotilla_controller::exit::Exit;
use flotilla_controller::{cli, quickstart, recover, serve};

fn main() -> ExitCode {
    // The one cryptographic provider. It can only be there already.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return Exit::Bug.into();
    }
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let done = match cli.command {
        Command::Serve(asked) => serve::run(asked),
        Command::Quickstart(asked) => quickstart::run(asked),
        Command::Recover(asked) => recover::run(&cli.global, asked),
        command @ (Command::Node(_)
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
        | Command::Support(_)
        | Command::Config(_)
        | Command::Completion { .. }) => operator(cli.global, command),
    };
    done.unwrap_or_else(|failure| {
        if failure.exit != Exit::Ok {
            cli::note(&failure.to_string());
        }
        failure.exit
    })
    .into()
}

fn operator(global: cli::args::Global, command: Command) -> Result<Exit, CliFailure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliFailure::because(Exit::Bug, "cannot start a runtime", &error))?;
    runtime.block_on(cli::run(global, command))
}
