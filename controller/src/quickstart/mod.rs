//! `flotilla quickstart`: a controller and local nodes, in one command.
//!
//! The controller is the real one, in this process; each node is a real agent
//! as a child process, enrolled by token and mutual TLS like any other. All
//! state lies below one directory, and running again on it resumes.
//!
//! **Invariant:** one quickstart a directory (a lock says so); nothing outside
//! the directory is written but the operator's profile, and that only if it is
//! absent or was written by this very directory.

mod agents;
mod operator;

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cli::args::Quickstart;
use crate::cli::failure::CliFailure;
use crate::cli::{note, profile};
use crate::config::{self, Config};
use crate::durable;
use crate::exit::Exit;
use crate::serve::signal::Signals;
use crate::serve::{self, Controller, Ready};
use crate::supervisor::Stage;
use crate::telemetry::log;
use crate::uplink::Link;
use agents::{Agent, Agents};

/// How long nodes have to come up. Joining takes a second or two; a machine
/// that is busy compiling takes longer.
const UP_MAX: Duration = Duration::from_secs(60);

/// Addresses that are kept over restarts, because nodes know them.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addresses {
    api: Option<SocketAddr>,
    broker: Option<SocketAddr>,
}

/// Runs the subcommand.
///
/// # Errors
/// What to print, and the code to exit with.
pub fn run(asked: Quickstart) -> Result<Exit, CliFailure> {
    let dir = directory(&asked)?;
    let _held = lock(&dir)?;
    let agent = agents::program()?;
    let kept = read_addresses(&dir)?;
    let config = configuration(&asked, &dir, &kept)?;
    let recent = log::start(&config.log)
        .map_err(|error| CliFailure::because(Exit::Config, "cannot log", &error))?;
    serve::runtime()?.block_on(async {
        let signals = Signals::listen()?;
        agents::stop_leftovers(&dir, &agent).await;
        let controller = serve::start(config, recent).await?;
        keep_addresses(&dir, &controller)?;
        with_nodes(controller, &asked, &dir, &agent, signals).await
    })
}

async fn with_nodes(
    mut controller: Controller,
    asked: &Quickstart,
    dir: &Path,
    agent: &Path,
    mut signals: Signals,
) -> Result<Exit, CliFailure> {
    let prepared = tokio::select! {
        prepared = prepare(&mut controller, asked, dir, agent) => prepared.map(|()| true),
        () = signals.next() => Ok(false),
    };
    let ended = if matches!(prepared, Ok(true)) {
        controller.supervisor.run(signals.asked_to_stop()).await
    } else {
        signals.leave_at_next();
        controller.supervisor.run(std::future::ready(())).await
    };
    prepared?;
    let exit = serve::conclude(&ended)?;
    note("Stopped. Run the same command again to go on.");
    Ok(exit)
}

/// Brings the nodes up and says how to go on.
async fn prepare(
    controller: &mut Controller,
    asked: &Quickstart,
    dir: &Path,
    agent: &Path,
) -> Result<(), CliFailure> {
    let own = operator::own_profile(controller, dir).await?;
    let agents = Agents::enrol(controller, &own, dir, agent, asked.nodes).await?;
    let started = agents.start(&mut controller.supervisor);
    wait_for(controller, &started).await?;
    let mut ready = controller.ready.clone();
    ready.profile = Some(own.clone());
    ready.nodes = started.iter().map(Agent::ready).collect();
    let shared = operator::share_profile(&own, dir, profile::default_path())?;
    if let Some(file) = &asked.ready_file {
        serve::write_ready(file, &ready)?;
    }
    welcome(&ready, dir, &own, &shared);
    Ok(())
}

/// Waits until every node's link is up.
async fn wait_for(controller: &Controller, agents: &[Agent]) -> Result<(), CliFailure> {
    let deadline = Instant::now() + UP_MAX;
    for agent in agents {
        while !agent.has_started() || controller.uplink.presence(agent.id()).link != Link::Up {
            if Instant::now() >= deadline {
                return Err(CliFailure::new(
                    Exit::Unavailable,
                    format!(
                        "node {} did not come up within {} s",
                        agent.name(),
                        UP_MAX.as_secs()
                    ),
                )
                .advise(format!("look into {}", agent.log_file().display())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn welcome(ready: &Ready, dir: &Path, profile: &Path, shared: &operator::Shared) {
    let flotilla = match shared {
        operator::Shared::Written(_) => "flotilla".to_owned(),
        operator::Shared::Kept(_) => format!("flotilla --profile {}", profile.display()),
    };
    let count = ready.nodes.len();
    note(&format!(
        "\nA controller runs at {} with {count} node{}. State is kept in {}.",
        ready.api,
        if count == 1 { "" } else { "s" },
        dir.display()
    ));
    match shared {
        operator::Shared::Written(path) => {
            note(&format!("Operator profile: {}", path.display()));
        }
        operator::Shared::Kept(path) => note(&format!(
            "{} is a profile of another fleet and was left alone.",
            path.display()
        )),
    }
    note(&format!(
        "\nTry in another terminal:\n  \
         {flotilla} node list\n  \
         {flotilla} metrics\n  \
         {flotilla} run -- uptime\n  \
         {flotilla} logs\n  \
         {flotilla} access principal add alice --role viewer --key\n  \
         {flotilla} audit tail\n\n\
         Ctrl-C stops everything; the same command again resumes."
    ));
}

fn directory(asked: &Quickstart) -> Result<PathBuf, CliFailure> {
    let dir = match &asked.dir {
        Some(dir) => dir.clone(),
        None => data_home()
            .ok_or_else(|| {
                CliFailure::new(Exit::Usage, "there is no home directory to keep state in")
                    .advise("give --dir DIR")
            })?
            .join("flotilla/quickstart"),
    };
    let cannot = |error: &std::io::Error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot make {}", dir.display()),
            error,
        )
    };
    durable::make_private(&dir).map_err(|error| cannot(&error))?;
    // Agents and profile name paths below it, whatever directory they run in.
    dir.canonicalize().map_err(|error| cannot(&error))
}

fn data_home() -> Option<PathBuf> {
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")))
}

/// Takes the directory's lock, which the kernel releases however this process ends.
fn lock(dir: &Path) -> Result<File, CliFailure> {
    let path = dir.join("lock");
    let cannot = |error: &std::io::Error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot lock {}", path.display()),
            error,
        )
    };
    let file = File::create(&path).map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CliFailure::new(
            Exit::CannotCreate,
            format!("another quickstart runs on {}", dir.display()),
        )
        .advise("use that one, stop it first, or give another --dir")),
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}

fn read_addresses(dir: &Path) -> Result<Addresses, CliFailure> {
    let path = dir.join("addresses.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Addresses::default());
        }
        Err(error) => {
            return Err(CliFailure::because(
                Exit::Store,
                format_args!("cannot read {}", path.display()),
                &error,
            ));
        }
    };
    toml::from_str(&text).map_err(|error| {
        CliFailure::because(
            Exit::Store,
            format_args!("{} is damaged", path.display()),
            &error,
        )
        .advise("remove it; nodes must then join again")
    })
}

fn keep_addresses(dir: &Path, controller: &Controller) -> Result<(), CliFailure> {
    let addresses = Addresses {
        api: Some(controller.api_address),
        broker: controller.broker_address,
    };
    let path = dir.join("addresses.toml");
    toml::to_string(&addresses)
        .map_err(std::io::Error::other)
        .and_then(|text| serve::store::write_whole(&path, &text))
        .map_err(|error| {
            CliFailure::because(
                Exit::CannotCreate,
                format_args!("cannot write {}", path.display()),
                &error,
            )
        })
}

/// The controller's configuration: what quickstart needs, under the environment
/// and `--set`.
fn configuration(asked: &Quickstart, dir: &Path, kept: &Addresses) -> Result<Config, CliFailure> {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let api = asked.api_listen.or(kept.api).unwrap_or(free);
    let broker = asked.broker_listen.or(kept.broker).unwrap_or(free);
    let defaults = format!(
        "state_dir = {:?}\napi.listen = \"{api}\"\nbroker.listen = \"{broker}\"\nlog.filter = \"warn\"\n",
        dir.join("controller").display().to_string(),
    );
    let file = dir.join("controller.toml");
    serve::store::write_whole(&file, &defaults).map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write {}", file.display()),
            &error,
        )
    })?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config::load(Some(&file), environment, &asked.set)
        .map_err(|problems| crate::cli::config::wrong(&problems))
}

/// Stops agents before the controller, so that they can say goodbye.
const AGENTS_STAGE: Stage = Stage::Intake;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_quickstart_on_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let refused = lock(dir.path()).unwrap_err();
        assert_eq!(refused.exit, Exit::CannotCreate);
        assert!(refused.message.contains("another quickstart"), "{refused}");
        std::mem::drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
