//! The agent's entry: reads the command line and the environment, and hands over.

use std::process::ExitCode;

use clap::Parser as _;
use flotilla_agent::cli::{Cli, Environment, run};
use flotilla_agent::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version were asked for; anything else is wrong usage.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // Without a place to write to there is nobody to tell.
            drop(error.print());
            return exit.into();
        }
    };
    let environment = Environment {
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(1))
        .build();
    let exit = match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(
                cli,
                environment,
                &mut std::io::stdout(),
                &mut std::io::stderr(),
            ));
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            exit
        }
        Err(_) => Exit::Bug,
    };
    exit.into()
}
