//! A child process with its output in a file, ended when dropped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// How long an orderly end may take before it counts as a hang.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Every program that was started and not yet reaped.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends every program that was started and still runs, and its children, the hard
/// way. For where nothing is dropped: on a signal, and on a panic of a program
/// that was built to abort on one.
pub fn end_all() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    for process in running.iter() {
        for child in children(*process) {
            signal(child, Signal::KILL);
        }
        signal(*process, Signal::KILL);
    }
}

fn end_all_when_aborting() {
    static HOOK: Once = Once::new();
    if cfg!(panic = "abort") {
        HOOK.call_once(|| {
            let tell = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                tell(panic);
                end_all();
            }));
        });
    }
}

fn note(process: u32) {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.push(process);
}

fn forget(process: u32) {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.retain(|other| *other != process);
}

/// A running program. Dropping it ends it the hard way.
pub struct Process {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts the command in a process group of its own, its output appended to
    /// `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log's folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file can be shared"))
            .stderr(out)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        end_all_when_aborting();
        note(child.id());
        Process {
            child,
            log: log.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that it wrote, for a failure's message.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let from = lines.len().saturating_sub(40);
        let tail = lines.get(from..).unwrap_or_default().join("\n");
        format!("--- {} said last:\n{tail}\n---", self.name)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGKILL and reaps it.
    pub fn kill(&mut self) {
        let killed = self.child.kill();
        let reaped = self.child.wait();
        assert!(
            killed.is_ok() && reaped.is_ok(),
            "{} could not be ended",
            self.name
        );
        forget(self.id());
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it has not ended within half a minute.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.id(), Signal::TERM);
        self.ended(END_LIMIT)
    }

    /// Waits for an end that comes by itself.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        let ended = wait::within(limit, || self.child.try_wait().ok().flatten());
        match ended {
            Some(status) => {
                forget(self.id());
                status
            }
            None => panic!("{} runs on after {limit:?}\n{}", self.name, self.tail()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The group first: a supervisor's children must not outlive the test.
            for child in children(self.child.id()) {
                signal(child, Signal::KILL);
            }
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
        forget(self.child.id());
        if std::thread::panicking() {
            crate::say(&self.tail());
        }
    }
}

/// Sends a signal to a process that this test started, directly or not. One that
/// has ended meanwhile is no error.
pub fn signal(id: u32, signal: Signal) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    if let Some(id) = id {
        let _gone = kill_process(id, signal);
    }
}

/// The direct children of a process, from /proc.
pub fn children(of: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{of}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|line| {
            line.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// The children of a process that run the named program.
pub fn children_named(of: u32, program: &str) -> Vec<u32> {
    children(of)
        .into_iter()
        .filter(|child| {
            fs::read_link(format!("/proc/{child}/exe"))
                .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
        })
        .collect()
}
