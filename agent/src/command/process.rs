//! One child process: how it starts, what it may write, and how it ends for
//! certain.
//!
//! A child has a process group of its own, an empty environment with a fixed
//! search path, nothing on standard input and a folder of its own. When its
//! first process ends, whatever it left running is ended too: what left its
//! group by [`offspring`], the rest of the group before that process is reaped,
//! so that the group's number cannot have been given to someone else.
//! **Invariant:** [`run`] returns within the deadline plus the grace plus
//! [`ENDING_MAX`], whatever the child and its descendants do: a descendant that
//! holds the pipe loses its reader, and a process that the kernel cannot kill is
//! left behind and said so. Dropping the future kills the group; what had left
//! it goes with the next command's end, or with the agent's.
//!
//! It fails with a [`SpawnError`] only when the child never ran.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::allow::Trust;
use super::capture::{Capture, Fitted, fit};
use super::offspring::{self, Leftovers, Listed};
use super::progress::{Progress, TICK};
use protocol::command::OutputStream;

/// How long the group's pipes are read after it has been killed: long enough
/// for what lies in a pipe (64 KiB), short enough not to hold a slot for a
/// descendant that escaped.
const DRAIN: Duration = Duration::from_millis(500);

/// How long a killed process may take to end before it is left behind: a
/// process in an uninterruptible call ends only when the kernel lets it.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Bytes read from both pipes in one [`TICK`]: 4 MiB a second, above what a
/// diagnostic writes, and low enough that an endless writer is slowed by its
/// full pipe and does not take the agent's processor.
const READ_BYTES_PER_TICK: usize = 1024 * 1024;

/// One read from a pipe, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// What a command may take beyond its timeout and its grace.
pub(crate) const ENDING_MAX: Duration = KILL_WAIT
    .saturating_add(offspring::END_MAX)
    .saturating_add(DRAIN);

/// How often a child is asked whether it ended when no signal says so, and the
/// agent's adopted children are looked at.
const POLL: Duration = Duration::from_secs(1);

/// The search path of every child.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The distribution's own folders, for programs that a built-in rule describes.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// All of a child's environment besides its home. No pager, no colours, no
/// translations.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", SEARCH_PATH),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    ("PAGER", "cat"),
    ("SYSTEMD_PAGER", "cat"),
    ("SYSTEMD_PAGERSECURE", "1"),
    ("SYSTEMD_COLORS", "0"),
];

/// What to start.
#[derive(Debug)]
pub(crate) struct Job {
    /// Absolute path of the program.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Its working directory and home.
    pub(crate) folder: PathBuf,
}

/// When to stop it, and how much of it to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) timeout: Duration,
    /// Between TERM and KILL.
    pub(crate) grace: Duration,
    pub(crate) output_bytes_max: usize,
}

/// Why a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// Its time was up.
    TimedOut,
    /// It was cancelled.
    Cancelled,
}

/// What a child left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) output: Fitted,
    /// What it left running when it ended.
    pub(crate) leftovers: Leftovers,
    /// Set when the kernel could not end it.
    pub(crate) left_behind: bool,
}

/// Why a child did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("program {0:?} was not found in {1}")]
    NotFound(String, &'static str),
    #[error("cannot start {program:?}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch {program:?}")]
    Watch {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The absolute path of a program. An absolute name stands for itself.
pub(crate) fn locate(program: &str, trust: Trust) -> Result<PathBuf, SpawnError> {
    if program.starts_with('/') {
        return Ok(PathBuf::from(program));
    }
    let path = match trust {
        Trust::System => SYSTEM_PATH,
        Trust::Path => SEARCH_PATH,
    };
    path.split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|file| is_executable(file))
        .ok_or_else(|| SpawnError::NotFound(program.to_owned(), path))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a child to its end.
pub(crate) async fn run(
    job: &Job,
    bounds: Bounds,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> Result<Ran, SpawnError> {
    let fail = |source| SpawnError::Watch {
        program: job.program.clone(),
        source,
    };
    let mut watch = ExitWatch::new().map_err(fail)?;
    let mut started = spawn(job)?;
    let mut pipes = Pipes::new(&mut started.child, bounds.output_bytes_max);
    let group = &mut started.group;
    let stopped = supervise(group, &mut watch, &mut pipes, bounds, stop, progress).await;
    let leftovers = group.leftovers;
    let status = if group.ended {
        // A zombie until here: this returns at once.
        let status = started.child.wait().await.map_err(fail)?;
        started.listed.reaped();
        Some(status)
    } else {
        None
    };
    Ok(Ran {
        end: stopped.or(status.map(End::Exited)).unwrap_or(End::TimedOut),
        output: pipes.finish(bounds.output_bytes_max),
        leftovers,
        left_behind: status.is_none(),
    })
}

/// A child that runs. Its fields are dropped in this order: the group is killed,
/// tokio takes the child over, and only then is it struck off the list.
struct Started {
    group: Group,
    child: Child,
    listed: Listed,
}

fn spawn(job: &Job) -> Result<Started, SpawnError> {
    let fail = |source| SpawnError::Start {
        program: job.program.clone(),
        source,
    };
    let mut command = Command::new(&job.program);
    command
        .args(&job.arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .env("HOME", &job.folder)
        .current_dir(&job.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let (child, listed) = Listed::spawn(&mut command, &job.folder).map_err(fail)?;
    let group = Group::of(&child, &job.folder)
        .ok_or_else(|| fail(io::Error::other("it has no process id")))?;
    Ok(Started {
        group,
        child,
        listed,
    })
}

/// What the next wake-up means.
#[derive(Clone, Copy)]
enum Phase {
    /// Its time is up.
    Running,
    /// TERM was not enough.
    Terminating,
    /// KILL was not enough.
    Killed,
    /// It has ended; what is in its pipes has been waited for long enough.
    Draining,
}

/// Watches the child until it has ended and its output is read, or nothing more
/// can be done. Returns why it was stopped; none when it ended by itself.
async fn supervise(
    group: &mut Group,
    watch: &mut ExitWatch,
    pipes: &mut Pipes,
    bounds: Bounds,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> Option<End> {
    let mut stopped = None;
    let mut phase = Phase::Running;
    let mut wake = Box::pin(tokio::time::sleep(bounds.timeout));
    let mut tick = every(TICK);
    let mut allowance = READ_BYTES_PER_TICK;
    loop {
        if group.ended && pipes.closed() {
            return stopped;
        }
        tokio::select! {
            (stream, read) = pipes.next(), if allowance > 0 && !pipes.closed() => {
                allowance = allowance.saturating_sub(read.len());
                progress.push(stream, &read);
                pipes.keep(stream, &read);
            }
            () = watch.ended(group.leader), if !group.ended => {
                // Reading rests meanwhile: what was written lies in the pipes.
                group.end().await;
                phase = Phase::Draining;
                wake.as_mut().reset(Instant::now() + DRAIN);
            }
            () = stop.cancelled(), if matches!(phase, Phase::Running) => {
                group.signal(Signal::TERM);
                stopped = Some(End::Cancelled);
                phase = Phase::Terminating;
                wake.as_mut().reset(Instant::now() + bounds.grace);
            }
            () = wake.as_mut() => match phase {
                Phase::Running => {
                    group.signal(Signal::TERM);
                    stopped = Some(End::TimedOut);
                    phase = Phase::Terminating;
                    wake.as_mut().reset(Instant::now() + bounds.grace);
                }
                Phase::Terminating => {
                    group.signal(Signal::KILL);
                    phase = Phase::Killed;
                    wake.as_mut().reset(Instant::now() + KILL_WAIT);
                }
                Phase::Killed | Phase::Draining => return stopped,
            },
            _ = tick.tick() => {
                allowance = READ_BYTES_PER_TICK;
                progress.flush();
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut tick = tokio::time::interval_at(Instant::now() + period, period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// The child's process group. Signals are sent only while its leader is not
/// reaped, since until then the kernel keeps the number.
struct Group {
    leader: Pid,
    folder: PathBuf,
    ended: bool,
    leftovers: Leftovers,
}

impl Group {
    fn of(child: &Child, folder: &Path) -> Option<Self> {
        let id = i32::try_from(child.id()?).ok()?;
        Some(Self {
            leader: Pid::from_raw(id)?,
            folder: folder.to_owned(),
            ended: false,
            leftovers: Leftovers::default(),
        })
    }

    /// Signals every process of the group. An error means that nothing is
    /// left to signal.
    fn signal(&self, signal: Signal) {
        if let Err(errno) = rustix::process::kill_process_group(self.leader, signal) {
            tracing::debug!(group = self.leader.as_raw_nonzero(), %errno, "process group not signalled");
        }
    }

    /// The leader ended: what it left running ends too.
    async fn end(&mut self) {
        self.leftovers = offspring::end(Some(&self.folder)).await;
        self.signal(Signal::KILL);
        self.ended = true;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// Tells when a process ends, without reaping it: tokio's own wait reaps.
struct ExitWatch {
    /// Says that some child ended or stopped.
    children: Signals,
    poll: Interval,
}

impl ExitWatch {
    /// Made before the child, so that no end is missed.
    fn new() -> io::Result<Self> {
        Ok(Self {
            children: tokio::signal::unix::signal(SignalKind::child())?,
            poll: every(POLL),
        })
    }

    /// Cancel-safe.
    async fn ended(&mut self, pid: Pid) {
        while !has_ended(pid) {
            tokio::select! {
                _ = self.children.recv() => {}
                // Signals coalesce but are not lost; were one, the command
                // would still end.
                _ = self.poll.tick() => offspring::reap(),
            }
        }
    }
}

fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(
        rustix::process::waitid(WaitId::Pid(pid), options),
        Ok(None) | Err(rustix::io::Errno::INTR)
    )
}

/// Both output pipes and what was read of them.
struct Pipes {
    stdout: Option<tokio::process::ChildStdout>,
    stderr: Option<tokio::process::ChildStderr>,
    stdout_kept: Capture,
    stderr_kept: Capture,
}

impl Pipes {
    fn new(child: &mut Child, limit: usize) -> Self {
        Self {
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            stdout_kept: Capture::new(limit),
            stderr_kept: Capture::new(limit),
        }
    }

    fn closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The next bytes of either stream; an end or an error closes it.
    /// Cancel-safe: a read that was not finished has taken nothing.
    async fn next(&mut self) -> (OutputStream, Vec<u8>) {
        let (stream, read) = tokio::select! {
            read = read_some(self.stdout.as_mut()), if self.stdout.is_some() => {
                (OutputStream::Stdout, read)
            }
            read = read_some(self.stderr.as_mut()), if self.stderr.is_some() => {
                (OutputStream::Stderr, read)
            }
            else => std::future::pending().await,
        };
        if read.is_empty() {
            match stream {
                OutputStream::Stdout => self.stdout = None,
                OutputStream::Stderr => self.stderr = None,
            }
        }
        (stream, read)
    }

    fn keep(&mut self, stream: OutputStream, bytes: &[u8]) {
        match stream {
            OutputStream::Stdout => self.stdout_kept.push(bytes),
            OutputStream::Stderr => self.stderr_kept.push(bytes),
        }
    }

    fn finish(self, limit: usize) -> Fitted {
        fit(self.stdout_kept, self.stderr_kept, limit)
    }
}

async fn read_some<R: AsyncRead + Unpin>(pipe: Option<&mut R>) -> Vec<u8> {
    let Some(pipe) = pipe else {
        return Vec::new();
    };
    let mut bytes = vec![0; READ_BYTES];
    match pipe.read(&mut bytes).await {
        Ok(len) => {
            bytes.truncate(len);
            bytes
        }
        // A broken pipe is the end of the stream: what was read stands.
        Err(_) => Vec::new(),
    }
}

/// What to say of a process that did not exit with a number.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}
