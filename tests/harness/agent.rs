//! A real agent of the test's own, with its folders: joined by a token, started,
//! killed, cloned and put back as the test wants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{self, Answer};
use crate::process::Process;
use crate::programs;

/// An agent's folders, and its process while it runs.
pub struct Agent {
    name: String,
    folder: TempDir,
    state: PathBuf,
    runtime: PathBuf,
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    process: Option<Process>,
}

impl Agent {
    /// Folders for an agent that has not joined.
    ///
    /// # Panics
    /// When the temporary folder is not writable.
    pub fn new(name: &str) -> Agent {
        let folder = TempDir::new().expect("the temporary folder is writable");
        let state = folder.path().join("state");
        let runtime = folder.path().join("runtime");
        fs::create_dir(&runtime).expect("a fresh folder is writable");
        fs::write(folder.path().join("agent.toml"), "").expect("a fresh folder is writable");
        Agent {
            name: name.to_owned(),
            state,
            runtime,
            program: None,
            folder,
            environment: Vec::new(),
            wrapper: Vec::new(),
            process: None,
        }
    }

    /// Keeps the state elsewhere, on a small disk for instance.
    #[must_use]
    pub fn with_state(mut self, state: &Path) -> Agent {
        self.state = state.to_owned();
        self
    }

    /// Keeps what need not outlive the host elsewhere, on a tmpfs for instance.
    #[must_use]
    pub fn with_runtime(mut self, runtime: &Path) -> Agent {
        self.runtime = runtime.to_owned();
        self
    }

    /// Runs another build of the agent.
    #[must_use]
    pub fn with_program(mut self, program: &Path) -> Agent {
        self.program = Some(program.to_owned());
        self
    }

    /// Sets a variable for every command from here on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Writes the configuration file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, toml: &str) {
        fs::write(self.config(), toml).expect("the agent's folder is writable");
    }

    /// Runs every command through another program, `faketime` for instance.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
    }

    /// Joins with a token.
    #[track_caller]
    pub fn join(&self, token: &str) -> Answer {
        let name = self.name.clone();
        self.ask(&["join", token, "--name", &name])
    }

    /// Joins with a token, which must work.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn joined(self, token: &str) -> Agent {
        let answer = self.join(token);
        assert_eq!(answer.code, 0, "{answer}");
        self
    }

    /// Runs any subcommand of the agent's on these folders.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Answer {
        let mut command = self.command();
        command.args(arguments);
        cli::answer(
            &mut command,
            &format!("flotilla-agent {}", arguments.join(" ")),
        )
    }

    /// What it says of itself while it runs.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.ask(&["status", "--output", "json"]);
        assert_eq!(answer.code, 0, "{answer}");
        serde_json::from_str(&answer.out).unwrap_or_else(|e| panic!("no JSON ({e}): {answer}"))
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it runs already.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = self.command();
        command.arg("run");
        let log = self.folder.path().join("agent.log");
        self.process = Some(Process::start(&self.name, &mut command, &log));
    }

    /// Ends it with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("the agent runs").kill();
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// When it does not end cleanly.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the agent runs");
        let status = process.terminate();
        assert!(status.success(), "{status}\n{}", process.tail());
    }

    /// The process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent runs")
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it keeps what must not be lost.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// A second agent with a copy of this one's disk.
    ///
    /// # Panics
    /// When the state cannot be copied.
    pub fn cloned(&self, name: &str) -> Agent {
        let mut clone = Agent::new(name);
        clone.environment.clone_from(&self.environment);
        copy(&self.state, &clone.state);
        clone
    }

    /// Keeps a copy of the disk, to be put back later.
    ///
    /// # Panics
    /// When the state cannot be copied.
    pub fn back_up(&self) -> TempDir {
        let backup = TempDir::new().expect("the temporary folder is writable");
        copy(&self.state, &backup.path().join("state"));
        backup
    }

    /// Puts a copy of the disk back.
    ///
    /// # Panics
    /// When it runs, or the state cannot be written.
    pub fn put_back(&self, backup: &TempDir) {
        assert!(self.process.is_none(), "a disk is put back while it is off");
        fs::remove_dir_all(&self.state).expect("the state can be removed");
        copy(&backup.path().join("state"), &self.state);
    }

    fn command(&self) -> Command {
        let program = self.program.clone();
        let program = program.unwrap_or_else(programs::flotilla_agent);
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = programs::command(first);
                command.args(rest).arg(program);
                command
            }
            None => programs::command(program),
        };
        command
            .arg("--state-dir")
            .arg(&self.state)
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .arg("--config")
            .arg(self.config())
            .envs(self.environment.iter().cloned());
        command
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "{} could not be copied",
        from.display()
    );
}
