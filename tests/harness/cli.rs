//! An operator at a terminal: the `flotilla` command line with a profile.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::{clock, programs};

/// A command must answer within this, whatever the controller does.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The command line of one operator.
#[derive(Clone, Debug)]
pub struct Cli {
    profile: PathBuf,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// The exit code, -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The arguments, for messages.
    pub asked: String,
}

impl Cli {
    /// The operator whose profile lies at `profile`.
    pub fn new(profile: &Path) -> Cli {
        Cli {
            profile: profile.to_owned(),
        }
    }

    /// Runs a command.
    ///
    /// # Panics
    /// When the program cannot be started, or has not answered within a minute.
    #[track_caller]
    pub fn ask<A: AsRef<str>>(&self, arguments: &[A]) -> Answer {
        let asked: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = programs::command(programs::flotilla());
        command.args(&asked).env("FLOTILLA_PROFILE", &self.profile);
        answer(&mut command, &asked.join(" "))
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn ok<A: AsRef<str>>(&self, arguments: &[A]) -> String {
        let answer = self.ask(arguments);
        assert_eq!(answer.code, 0, "{answer}");
        answer.out
    }

    /// Runs a command that must succeed, with `--output json`.
    ///
    /// # Panics
    /// When it fails, or prints something else than JSON.
    #[track_caller]
    pub fn json<A: AsRef<str>>(&self, arguments: &[A]) -> Value {
        let mut all = vec!["--output", "json"];
        all.extend(arguments.iter().map(AsRef::as_ref));
        let answer = self.ask(&all);
        assert_eq!(answer.code, 0, "{answer}");
        serde_json::from_str(&answer.out).unwrap_or_else(|e| panic!("no JSON ({e}): {answer}"))
    }

    /// Starts a command and leaves it running.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn begin<A: AsRef<str>>(&self, arguments: &[A]) -> std::process::Child {
        programs::command(programs::flotilla())
            .args(arguments.iter().map(AsRef::as_ref))
            .env("FLOTILLA_PROFILE", &self.profile)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("flotilla starts")
    }
}

impl Answer {
    /// Fails unless the command failed and named the error's code.
    ///
    /// # Panics
    /// When it succeeded, or named another.
    #[track_caller]
    pub fn refused_with(&self, code: &str) {
        assert_ne!(self.code, 0, "{self}");
        assert!(
            self.err.contains(code) || self.out.contains(code),
            "{code} is not named: {self}"
        );
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` exited {}\n--- stdout\n{}\n--- stderr\n{}",
            self.asked, self.code, self.out, self.err
        )
    }
}

/// Runs any command to its end and takes what it printed.
///
/// # Panics
/// When it cannot be started, or has not ended within a minute.
#[track_caller]
pub fn answer(command: &mut Command, asked: &str) -> Answer {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("`{asked}` does not start: {e}"));
    let id = child.id();
    let began = clock::now();
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    let reader = std::thread::spawn(move || {
        let _nobody_waits = done.send(child.wait_with_output());
    });
    let Ok(output) = ended.recv_timeout(ANSWER_LIMIT) else {
        crate::process::signal(id, rustix::process::Signal::KILL);
        panic!("`{asked}` gave no answer in {:?}", began.elapsed());
    };
    let _ended = reader.join();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap_or_else(|e| panic!("`{asked}` could not be read: {e}"));
    Answer {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
        asked: asked.to_owned(),
    }
}
