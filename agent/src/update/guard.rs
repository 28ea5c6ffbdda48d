//! The launcher while it watches a version that is not proven, as its parent.
//!
//! What the version tells the service manager passes through here: readiness and the
//! watchdog are judged on the way. So the guard is the process that the service
//! manager knows, and the version cannot speak for itself when it hangs.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::Instant;

use super::layout::Layout;
use crate::domain::update::record::{Phase, UpdateRecord};
use crate::durable;
use crate::exit::Exit;

/// The version must say that it is ready within this. The unit gives two minutes.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Where the service manager sets no watchdog, a sign of life is wanted this often.
const ALIVE_WITHIN: Duration = Duration::from_secs(120);

/// An ordered end may take this long; see the supervisor's own bound.
const END_WITHIN: Duration = Duration::from_secs(15);

/// A notification is a few short lines.
const NOTE_BYTES_MAX: usize = 4096;

/// How a version that was watched came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It was asked to stop, by the service manager.
    Stopped,
    /// It wants another version, or itself, to be started.
    Relaunch,
    /// It ended, or had to be ended, for this reason.
    Ended(String),
    /// It is to be given up, for this reason.
    GiveUp(String),
}

/// The signals that a guard passes on.
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Takes the signals from here on.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is asked to stop.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What is started, and with what.
pub struct Start<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// The socket on which it notifies.
    pub socket: PathBuf,
    /// The service manager's socket, where there is one.
    pub upstream: Option<&'a str>,
    /// How often the service manager wants a sign of life, where it does.
    pub alive_within: Option<Duration>,
}

/// What a version said of itself.
#[derive(Debug, Default)]
struct Heard {
    ready: bool,
    alive_at: Option<Instant>,
}

/// Starts a version and watches it until it ends. `record` is what its start was
/// counted in.
///
/// # Errors
/// When it cannot be started, or the socket not be made.
pub async fn watch(
    start: Start<'_>,
    layout: &Layout,
    record: &UpdateRecord,
    signals: &mut Signals,
) -> io::Result<Watched> {
    let alive_within = start.alive_within.unwrap_or(ALIVE_WITHIN);
    durable::remove(&start.socket)?;
    let inbox = UnixDatagram::bind(&start.socket)?;
    let mut child = Command::new(start.program)
        .args(start.arguments)
        .env("NOTIFY_SOCKET", &start.socket)
        .env("WATCHDOG_USEC", alive_within.as_micros().to_string())
        .env_remove("WATCHDOG_PID")
        .kill_on_drop(true)
        .spawn()?;
    let began = Instant::now();
    // None once the version has confirmed itself.
    let mut window = Some(began + Duration::from_millis(record.window_ms));
    let mut heard = Heard::default();
    let mut asked_at: Option<Instant> = None;
    let mut note = vec![0; NOTE_BYTES_MAX];
    let watched = loop {
        let due = heard.due(began, alive_within);
        let wakes = match asked_at {
            Some(asked_at) => asked_at + END_WITHIN,
            None => window.map_or(due, |window| window.min(due)),
        };
        tokio::select! {
            ended = child.wait() => break ended_as(ended?, asked_at.is_some()),
            received = inbox.recv(&mut note) => {
                let told = note.get(..received?).unwrap_or_default();
                heard.take(told);
                pass_on(told, start.upstream, asked_at.is_some());
            }
            _ = signals.terminate.recv() => ask_to_end(&child, &mut asked_at),
            _ = signals.interrupt.recv() => ask_to_end(&child, &mut asked_at),
            _ = signals.hangup.recv() => send(&child, Signal::HUP),
            () = tokio::time::sleep_until(wakes) => {}
        }
        let now = Instant::now();
        if let Some(asked_at) = asked_at {
            if now >= asked_at + END_WITHIN {
                child.kill().await?;
                break Watched::Stopped;
            }
            continue;
        }
        if let Some(reason) = heard.wrong(now, began, alive_within) {
            end(&mut child).await?;
            break Watched::Ended(reason);
        }
        if window.is_some_and(|window| now >= window) {
            if is_on_trial(layout) {
                end(&mut child).await?;
                break Watched::GiveUp(format!(
                    "version {} did not confirm itself within {} s",
                    record.version,
                    record.window_ms / 1000
                ));
            }
            window = None;
        }
    };
    drop(std::fs::remove_file(&start.socket));
    Ok(watched)
}

/// Whether the version that is watched has not written down that it is proven.
fn is_on_trial(layout: &Layout) -> bool {
    let kept = layout.record().ok().flatten();
    kept.is_some_and(|kept| kept.phase == Phase::Trial)
}

impl Heard {
    fn take(&mut self, told: &[u8]) {
        let is = |wanted: &[u8]| told.split(|byte| *byte == b'\n').any(|line| line == wanted);
        self.ready |= is(b"READY=1");
        if is(b"READY=1") || is(b"WATCHDOG=1") {
            self.alive_at = Some(Instant::now());
        }
    }

    fn wrong(&self, now: Instant, began: Instant, alive_within: Duration) -> Option<String> {
        if now < self.due(began, alive_within) {
            return None;
        }
        if self.ready {
            let seconds = alive_within.as_secs();
            return Some(format!("it gave no sign of life for {seconds} s"));
        }
        let seconds = READY_WITHIN.min(alive_within).as_secs();
        Some(format!("it was not ready within {seconds} s"))
    }

    /// By when something must be heard: that it is ready, then signs of life.
    fn due(&self, began: Instant, alive_within: Duration) -> Instant {
        match self.alive_at {
            Some(alive_at) if self.ready => alive_at + alive_within,
            Some(_) | None => began + READY_WITHIN.min(alive_within),
        }
    }
}

fn ended_as(status: ExitStatus, asked: bool) -> Watched {
    if asked {
        return Watched::Stopped;
    }
    if status.code() == Some(i32::from(Exit::Relaunch.code())) {
        return Watched::Relaunch;
    }
    Watched::Ended(format!("it ended with {status}"))
}

fn ask_to_end(child: &Child, asked_at: &mut Option<Instant>) {
    send(child, Signal::TERM);
    asked_at.get_or_insert_with(Instant::now);
}

fn send(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended this moment, which is seen next.
        let _gone = kill_process(pid, signal);
    }
}

async fn end(child: &mut Child) -> io::Result<()> {
    send(child, Signal::TERM);
    if tokio::time::timeout(END_WITHIN, child.wait())
        .await
        .is_err()
    {
        child.kill().await?;
    }
    Ok(())
}

/// Passes a notification on. That a version stops is the service manager's concern
/// only when it was asked to.
fn pass_on(told: &[u8], upstream: Option<&str>, asked: bool) {
    let Some(upstream) = upstream else { return };
    let lines: Vec<&[u8]> = told
        .split(|byte| *byte == b'\n')
        .filter(|line| asked || !line.starts_with(b"STOPPING="))
        .filter(|line| !line.is_empty() && !line.starts_with(b"MAINPID="))
        .collect();
    let address = match upstream.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(upstream),
    };
    let sent = address
        .and_then(|address| StdDatagram::unbound()?.send_to_addr(&lines.join(&b'\n'), &address));
    // A service manager that is not there is told nothing.
    drop(sent);
}
