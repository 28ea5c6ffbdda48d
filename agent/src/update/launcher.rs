//! What the service manager starts: it decides which version runs, before anything
//! else of the agent is looked at.
//!
//! Its ways are few and never change, because the launcher that a package installed
//! starts versions that are years newer: `run --launcher PATH --launcher-version V`
//! for one that it becomes, and `--guarded` too for one that it watches; the exit code
//! of [`Exit::Relaunch`]; the record and the symlink of [`super::layout`].

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::guard::{self, Signals, Start, Watched};
use super::layout::Layout;
use crate::config::Dirs;
use crate::domain::update::launch::{Launch, launch};
use crate::domain::update::record::{Phase, Slot, UpdateRecord};
use crate::exit::Exit;
use crate::program;

/// Pause before a version that ended is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The launcher's program.
    pub launcher: PathBuf,
    /// The launcher's version.
    pub base: String,
    /// Whether the launcher watches this process.
    pub guarded: bool,
    /// Whether this is the launcher's own program.
    pub is_base: bool,
    /// The arguments that the launcher was given.
    pub arguments: Vec<OsString>,
}

/// What is to be done after a decision.
#[derive(Debug)]
pub enum Launching {
    /// Run the agent in this process.
    Here(Launched),
    /// End with this code.
    End(Exit),
}

/// What the launcher knows of itself.
pub struct Launcher<'a> {
    /// Its own program.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// The agent's directories.
    pub dirs: &'a Dirs,
    /// The service manager's socket.
    pub notify: Option<&'a str>,
    /// How often the service manager wants a sign of life.
    pub alive_within: Option<Duration>,
}

/// For an operator who looks at the journal. Nothing else is set up yet.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "flotilla-agent: {text}"));
}

impl Launcher<'_> {
    /// Decides and starts, until a version is to run here or the end is asked for.
    pub async fn launch(&self) -> Launching {
        let layout = Layout::below(&self.dirs.state);
        let (mut signals, mut last) = (None, None::<String>);
        loop {
            let record = layout.record().unwrap_or_else(|error| {
                say(&format!("{error}; what is selected is started"));
                None
            });
            let decided = launch(
                record.as_ref(),
                &layout.selected(),
                program::version(),
                last.as_deref(),
            );
            let (decided, record) = prepare(&layout, decided, record);
            if !decided.watch {
                match &decided.run {
                    None => return Launching::Here(self.here()),
                    Some(version) => {
                        let Some(ended) = self.become_version(&layout, version, record) else {
                            continue;
                        };
                        return ended;
                    }
                }
            }
            let (Some(record), Ok(signals)) = (&record, signals_of(&mut signals)) else {
                return Launching::Here(self.here());
            };
            match self.guard(&layout, &decided.run, record, signals).await {
                Watched::Stopped => return Launching::End(Exit::Ok),
                Watched::Relaunch => last = None,
                Watched::GiveUp(reason) => {
                    say(&reason);
                    give_up(&layout, record, &reason);
                }
                Watched::Ended(reason) => {
                    say(&format!("version {}: {reason}", record.version));
                    last = Some(reason);
                    tokio::select! {
                        () = signals.stop() => return Launching::End(Exit::Ok),
                        () = tokio::time::sleep(AGAIN_AFTER) => {}
                    }
                }
            }
        }
    }

    fn here(&self) -> Launched {
        Launched {
            launcher: self.program.clone(),
            base: program::version().to_owned(),
            guarded: false,
            is_base: true,
            arguments: self.arguments.clone(),
        }
    }

    /// The arguments of a version.
    fn arguments_for(&self, guarded: bool) -> Vec<OsString> {
        let mut arguments = self.arguments.clone();
        arguments.push("--launcher".into());
        arguments.push(self.program.clone().into());
        arguments.push("--launcher-version".into());
        arguments.push(program::version().into());
        arguments.extend(guarded.then(|| "--guarded".into()));
        arguments
    }

    /// Becomes a version. Comes back only when that is impossible.
    fn become_version(
        &self,
        layout: &Layout,
        version: &str,
        record: Option<UpdateRecord>,
    ) -> Option<Launching> {
        let path = layout.program(version);
        let error = Command::new(&path).args(self.arguments_for(false)).exec();
        let reason = format!("version {version} cannot be started: {error}");
        say(&reason);
        let record = record.filter(|record| record.to.as_deref() == Some(version));
        match record {
            // The one before it, which may be another than the launcher's.
            Some(record) if give_up(layout, &record, &reason) => None,
            Some(_) | None => {
                let _tried = layout.select(&None);
                Some(Launching::Here(self.here()))
            }
        }
    }

    async fn guard(
        &self,
        layout: &Layout,
        slot: &Slot,
        record: &UpdateRecord,
        signals: &mut Signals,
    ) -> Watched {
        let path = slot
            .as_ref()
            .map_or_else(|| self.program.clone(), |version| layout.program(version));
        let start = Start {
            program: &path,
            arguments: &self.arguments_for(true),
            socket: self.dirs.guard_socket(),
            upstream: self.notify,
            alive_within: self.alive_within,
        };
        let made = std::fs::create_dir_all(&self.dirs.runtime);
        match made {
            Ok(()) => guard::watch(start, layout, record, signals).await,
            Err(error) => Err(error),
        }
        .unwrap_or_else(|error| Watched::Ended(format!("it cannot be started: {error}")))
    }
}

fn signals_of(signals: &mut Option<Signals>) -> std::io::Result<&mut Signals> {
    if signals.is_none() {
        *signals = Some(Signals::take()?);
    }
    signals
        .as_mut()
        .ok_or_else(|| std::io::Error::other("no signals"))
}

/// Makes a decision durable. One that cannot be counted is not carried out: the
/// version before runs instead.
pub(super) fn prepare(
    layout: &Layout,
    decided: Launch,
    before: Option<UpdateRecord>,
) -> (Launch, Option<UpdateRecord>) {
    if let Some(record) = &decided.record {
        if let Phase::Reverted { reason, .. } = &record.phase {
            say(&format!(
                "back to version {}: {reason}",
                record.from_version
            ));
        }
        if let Err(error) = layout.keep(record) {
            say(&format!(
                "{error}; version {} is started",
                record.from_version
            ));
            let run = record.from.clone();
            let watch = false;
            let instead = Launch {
                run,
                watch,
                ..decided
            };
            return (instead, before);
        }
    }
    if let Some(slot) = &decided.select
        && let Err(error) = layout.select(slot)
    {
        say(&format!("{error}; it is tried again at the next start"));
    }
    let record = decided.record.clone().or(before);
    (decided, record)
}

/// Writes down that a version is given up; the next decision selects by it. False when
/// the disk does not take it.
fn give_up(layout: &Layout, record: &UpdateRecord, reason: &str) -> bool {
    layout.keep(&record.reverted(reason)).is_ok()
}

/// Starts the launcher anew, in place of this process. Comes back only when that is
/// impossible.
#[must_use]
pub fn relaunch(launched: &Launched) -> Exit {
    if launched.guarded {
        return Exit::Relaunch;
    }
    let error = Command::new(&launched.launcher)
        .args(&launched.arguments)
        .exec();
    let path: &Path = &launched.launcher;
    say(&format!("cannot start {}: {error}", path.display()));
    // The service manager starts it.
    Exit::Bug
}
