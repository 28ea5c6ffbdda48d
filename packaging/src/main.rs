//! Writes manual pages and shell completions from the command lines' definitions,
//! so that packages never say something else than `--help` does.
//!
//! `flotilla-pages DIR` makes below `DIR`, for each program: `PROGRAM/man/*.1`, one
//! page a subcommand, and `PROGRAM/completion/` with a file for bash, fish and zsh
//! under the name by which each shell finds it. The same definitions give the same
//! bytes, since pages carry no date.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    let to = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: flotilla-pages DIR")?;
    for program in [
        agent::cli::Cli::command(),
        controller::cli::args::Cli::command(),
    ] {
        write(program, &to)?;
    }
    Ok(())
}

fn write(program: Command, to: &Path) -> anyhow::Result<()> {
    let name = program.get_name().to_owned();
    let pages = folder(&to.join(&name).join("man"))?;
    clap_mangen::generate_to(program.clone(), &pages)
        .with_context(|| format!("cannot write manual pages to {}", pages.display()))?;
    let completions = folder(&to.join(&name).join("completion"))?;
    for (shell, file) in [
        (Shell::Bash, name.clone()),
        (Shell::Fish, format!("{name}.fish")),
        (Shell::Zsh, format!("_{name}")),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program.clone(), &name, &mut text);
        let path = completions.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}
