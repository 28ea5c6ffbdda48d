//! The agent's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    flotilla_agent::cli::main()
}
