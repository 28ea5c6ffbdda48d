//! What a command leaves running, and how all of it is ended.
//!
//! A process group is easily left: `setsid`, or a double fork as daemons do it.
//! So the agent is the reaper of all its descendants ([`adopt`]): whoever loses
//! its parent becomes the agent's own child. And every command's environment
//! carries [`MARKER`], which its descendants inherit and which tells whose they
//! are. (A control group would tell it better, but the agent has one of its own
//! to divide only under systemd with delegation.) Killing the agent's children
//! that a command left makes their children the agent's, and so on round by
//! round until none is left.
//!
//! An orphan that has dropped the marker (`env -i`, or a daemon that writes its
//! title over its environment) could be of any command that runs. It is ended
//! with the command that it started under when that runs alone, and only by an
//! agent that has no children but those that commands start: one that is the
//! first process of a container, or was started with children of somebody
//! else's, leaves it.
//!
//! **Invariant:** only the agent's own children are signalled and reaped, never
//! the first process of a command that runs (tokio reaps those), and both under
//! one lock: a number whose process only the agent may reap, and has not, is not
//! anyone else's. **Invariant:** [`end`] returns within [`END_MAX`]; what the
//! kernel has not ended by then, or what forks faster than it is found, is said
//! to be left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The variable that marks a command's processes. Its value is the command's
/// folder, which no other command on the host has.
pub(crate) const MARKER: &str = "FLOTILLA_COMMAND";

/// Longest time that ending what a command left may take. A round takes some
/// milliseconds, so it is enough for families a hundred generations deep.
pub(crate) const END_MAX: Duration = Duration::from_secs(2);

/// Between two rounds: a killed process needs a moment to end.
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// Most of an environment that is searched for the marker, in bytes: the
/// kernel's usual limit for arguments and environment together.
const ENVIRONMENT_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The first processes of commands. They are a property of the process, as its
/// children are.
static FIRST: Mutex<First> = Mutex::new(First {
    running: BTreeMap::new(),
    dropped: BTreeSet::new(),
    only_parent: None,
});

struct First {
    /// Not reaped yet, each with its command's folder.
    running: BTreeMap<i32, PathBuf>,
    /// Killed and left to tokio to be reaped.
    dropped: BTreeSet<i32>,
    /// Whether every child of this process comes from a command; none before
    /// [`adopt`].
    only_parent: Option<bool>,
}

/// A command that ends.
#[derive(Clone, Copy)]
struct Ending<'a> {
    folder: &'a Path,
    /// When its first process started.
    started: u64,
}

impl First {
    fn lock() -> MutexGuard<'static, Self> {
        FIRST.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, pid: Pid) -> bool {
        let pid = pid.as_raw_pid();
        self.running.contains_key(&pid) || self.dropped.contains(&pid)
    }

    /// The command in `folder`, as long as its first process is not reaped.
    fn ending<'a>(&self, folder: &'a Path) -> Option<Ending<'a>> {
        let (pid, _) = self.running.iter().find(|(_, of)| *of == folder)?;
        let started = Process::read(*pid)?.started;
        Some(Ending { folder, started })
    }

    /// Whether an orphan goes, with its mark, when a command ends.
    fn gives_up(&self, orphan: &Process, mark: Option<&Path>, ending: Option<Ending<'_>>) -> bool {
        let own = ending.map(|ending| ending.folder);
        let mut others = self.running.values().filter(|of| Some(of.as_path()) != own);
        match (mark, ending) {
            (Some(mark), _) => !others.any(|of| of == mark),
            (None, Some(ending)) => {
                self.only_parent == Some(true)
                    && orphan.started >= ending.started
                    && others.next().is_none()
            }
            (None, None) => false,
        }
    }
}

/// Makes this process the parent of all its descendants' orphans. Without it
/// (Linux before 3.4) only the process group of a command is ended with it.
pub(crate) fn adopt() {
    let mut first = First::lock();
    if first.only_parent.is_none() {
        let own = std::process::id();
        first.only_parent = Some(own != 1 && !processes().any(|process| process.parent == own));
    }
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(%error, "what commands leave running cannot be adopted, and may outlive them");
    }
}

/// A command's first process; while this is held, it is its owner's to reap.
pub(crate) struct Listed {
    pid: i32,
    reaped: bool,
}

impl Listed {
    /// Starts a program with the mark of the command in `folder`.
    pub(crate) fn spawn(command: &mut Command, folder: &Path) -> io::Result<(Child, Self)> {
        let mut first = First::lock();
        let child = command.env(MARKER, folder).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let pid = pid.ok_or_else(|| io::Error::other("it has no process id"))?;
        first.running.insert(pid, folder.to_owned());
        Ok((child, Self { pid, reaped: false }))
    }

    /// Its owner has reaped it.
    pub(crate) fn reaped(mut self) {
        self.reaped = true;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut first = First::lock();
        first.running.remove(&self.pid);
        if !self.reaped {
            first.dropped.insert(self.pid);
        }
    }
}

/// What became of the processes that a command had left running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// How many there were.
    pub(crate) count: usize,
    /// Set when some could not be ended in time.
    pub(crate) remain: bool,
}

/// Ends what the command in `folder` left running, and what earlier ones did that
/// could not be ended then; without a folder, the latter alone.
pub(crate) async fn end(folder: Option<&Path>) -> Leftovers {
    let deadline = Instant::now() + END_MAX;
    let mut found = BTreeSet::new();
    loop {
        let folder = folder.map(Path::to_owned);
        // On a thread of its own: reading the environment of a process waits for
        // its memory, which may be stuck in a dead disk.
        let round = tokio::task::spawn_blocking(move || kill_round(folder.as_deref()));
        let alive = match tokio::time::timeout_at(deadline, round).await {
            Ok(Ok(alive)) => alive,
            Ok(Err(_)) | Err(_) => break,
        };
        if alive.is_empty() {
            return Leftovers {
                count: found.len(),
                remain: false,
            };
        }
        found.extend(alive);
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
    Leftovers {
        count: found.len(),
        remain: true,
    }
}

/// Reaps adopted processes that ended by themselves. Costs one system call when
/// there are none.
pub(crate) fn reap() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if matches!(rustix::process::waitid(WaitId::All, options), Ok(Some(_))) {
        orphans(&mut First::lock());
    }
}

/// Kills what is to be given up, and says what was found alive.
fn kill_round(folder: Option<&Path>) -> Vec<Process> {
    let orphans = orphans(&mut First::lock());
    let marked = orphans.into_iter().map(|orphan| (mark(orphan.pid), orphan));
    let marked: Vec<(Option<PathBuf>, Process)> = marked.collect();
    let first = First::lock();
    let ending = folder.and_then(|folder| first.ending(folder));
    let given_up = marked.into_iter().filter(|(mark, orphan)| {
        // Looked at again: while the lock was open, another may have reaped it.
        first.gives_up(orphan, mark.as_deref(), ending)
            && Process::read(orphan.pid) == Some(*orphan)
    });
    given_up
        .map(|(_, orphan)| {
            if let Some(pid) = Pid::from_raw(orphan.pid)
                && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
            {
                tracing::debug!(pid = orphan.pid, %error, "a process that a command left is not ended");
            }
            orphan
        })
        .collect()
}

/// The children of this process that are no command's first process; those that
/// have ended are reaped.
fn orphans(first: &mut First) -> Vec<Process> {
    let mut children = BTreeSet::new();
    let mut orphans = Vec::new();
    for process in processes().filter(Process::is_ours) {
        children.insert(process.pid);
        let Some(pid) = Pid::from_raw(process.pid).filter(|pid| !first.has(*pid)) else {
            continue;
        };
        if process.ended {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // Whatever it answers, the next round sees what is left to do.
            let _status = rustix::process::waitid(WaitId::Pid(pid), options);
        } else {
            orphans.push(process);
        }
    }
    first.dropped.retain(|pid| children.contains(pid));
    orphans
}

/// A process as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: i32,
    parent: u32,
    /// When it started, in ticks since the boot: tells it from a later one of
    /// the same number.
    started: u64,
    ended: bool,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // The name before it may hold anything, parentheses too.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        // The 22nd of all fields; two were before the name's end, two are read.
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self {
            pid,
            parent,
            started,
            ended,
        })
    }

    fn is_ours(&self) -> bool {
        self.parent == std::process::id()
    }
}

fn processes() -> impl Iterator<Item = Process> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
}

/// The mark in a process's environment; none when it cannot be read.
fn mark(pid: i32) -> Option<PathBuf> {
    let file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environment = Vec::new();
    file.take(ENVIRONMENT_BYTES_MAX)
        .read_to_end(&mut environment)
        .ok()?;
    environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))
        .map(|value| PathBuf::from(OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/a";
    const B: &str = "/b";

    fn first(folders: &[&str]) -> First {
        First {
            running: (1..).zip(folders.iter().map(PathBuf::from)).collect(),
            dropped: BTreeSet::new(),
            only_parent: Some(true),
        }
    }

    /// Whether an orphan of the time `started` goes with a command in A that
    /// began at 100.
    fn goes(first: &First, started: u64, mark: Option<&str>) -> bool {
        let orphan = Process {
            pid: 9,
            parent: 1,
            started,
            ended: false,
        };
        let folder = Path::new(A);
        let ending = Ending {
            folder,
            started: 100,
        };
        first.gives_up(&orphan, mark.map(Path::new), Some(ending))
    }

    #[test]
    fn marked_processes_go_with_their_own_command() {
        let two = first(&[A, B]);
        assert!(goes(&two, 100, Some(A)));
        assert!(!goes(&two, 100, Some(B)));
        assert!(goes(&two, 50, Some("/gone")));
    }

    #[test]
    fn unmarked_processes_go_only_when_they_can_be_of_nobody_else() {
        assert!(goes(&first(&[A]), 100, None));
        assert!(!goes(&first(&[A]), 99, None), "older than the command");
        assert!(!goes(&first(&[A, B]), 100, None), "another command runs");
        let mut shared = first(&[A]);
        shared.only_parent = Some(false);
        assert!(!goes(&shared, 100, None), "there are other children");
    }

    #[test]
    fn this_process_is_read_as_itself() {
        let own = i32::try_from(std::process::id()).unwrap();
        let seen = Process::read(own).unwrap();
        assert_eq!(seen.parent, std::os::unix::process::parent_id());
        assert!(seen.started > 0 && !seen.ended && !seen.is_ours());
        assert_eq!(Process::read(own), Some(seen));
        assert_eq!(mark(own), None);
    }
}
