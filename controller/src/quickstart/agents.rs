//! Local agents as child processes.
//!
//! Owns their directories (`nodes/N` with `state`, `run` and `agent.log`), their
//! enrolment, and their lives: one that dies is started again, as systemd would.
//! An agent that outlived a killed quickstart is stopped before its place is
//! taken; it is known by its process id, its program and its state directory.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use protocol::id::{NodeId, RequestId};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::cli::failure::CliFailure;
use crate::cli::note;
use crate::cli::profile;
use crate::durable;
use crate::exit::Exit;
use crate::operation::view::token::CreateToken;
use crate::serve::{Controller, ReadyNode};
use crate::supervisor::Supervisor;

/// Pause before an agent that died is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How long an agent may take to stop; it promises ten seconds.
const STOP_MAX: Duration = Duration::from_secs(12);

/// A log above this size is moved aside at the next start of its agent.
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// One local node.
#[derive(Clone)]
pub(super) struct Agent {
    id: NodeId,
    name: String,
    dir: PathBuf,
    program: PathBuf,
    pid: Arc<AtomicU32>,
}

/// The local nodes, enrolled and not yet running.
pub(super) struct Agents(Vec<Agent>);

/// What the agent writes about its identity, as far as it matters here.
#[derive(Deserialize)]
struct Identity {
    node: String,
    name: Option<String>,
}

/// The agent's program: beside this one.
pub(super) fn program() -> Result<PathBuf, CliFailure> {
    let own = std::env::current_exe()
        .map_err(|error| CliFailure::because(Exit::Bug, "where is this program?", &error))?;
    let beside = own.with_file_name("flotilla-agent");
    if beside.is_file() {
        Ok(beside)
    } else {
        Err(CliFailure::new(
            Exit::CannotCreate,
            format!("there is no agent at {}", beside.display()),
        )
        .advise("build it too: cargo build --release"))
    }
}

/// What the fleet says of a node's directory.
#[derive(PartialEq, Eq)]
enum Standing {
    /// It has joined.
    Member,
    /// It has not, or another fleet.
    Stranger,
    /// It was revoked or replaced.
    Gone,
}

fn standing(controller: &Controller, dir: &Path, program: &Path) -> Result<Standing, CliFailure> {
    if !identity_file(dir).exists() {
        return Ok(Standing::Stranger);
    }
    let agent = read(dir.to_owned(), program)?;
    let fleet = controller.engine.fleet();
    Ok(match fleet.node(agent.id) {
        Some(node) if node.has_left() => Standing::Gone,
        Some(_) => Standing::Member,
        None => Standing::Stranger,
    })
}

impl Agents {
    /// Enrols what is not enrolled yet.
    pub(super) async fn enrol(
        controller: &Controller,
        profile: &Path,
        dir: &Path,
        program: &Path,
        count: u16,
    ) -> Result<Self, CliFailure> {
        let mut agents = Vec::new();
        for number in 1..=count {
            let dir = dir.join(format!("nodes/{number}"));
            make(&dir)?;
            let standing = standing(controller, &dir, program)?;
            if standing == Standing::Gone {
                note(&format!(
                    "Node {number} was revoked or replaced, and is left alone. To have it join anew, \
                     remove {}.",
                    dir.display()
                ));
                continue;
            }
            if standing == Standing::Stranger {
                let token = token(controller, profile).await?;
                join(&dir, program, &token, &format!("node-{number}")).await?;
            }
            agents.push(read(dir, program)?);
        }
        Ok(Self(agents))
    }

    /// Starts every agent and keeps it running.
    pub(super) fn start(self, supervisor: &mut Supervisor) -> Vec<Agent> {
        for agent in &self.0 {
            let stop = supervisor.stop(super::AGENTS_STAGE);
            supervisor.start(
                "agent",
                super::AGENTS_STAGE,
                Exit::Bug,
                agent.clone().keep(stop),
            );
        }
        self.0
    }
}

impl Agent {
    pub(super) fn id(&self) -> NodeId {
        self.id
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its process was started.
    pub(super) fn has_started(&self) -> bool {
        self.pid.load(Ordering::Relaxed) != 0
    }

    /// What its containers' names begin with: all agents here share one engine.
    fn name_prefix(&self) -> String {
        let number = self.dir.file_name().unwrap_or_default();
        format!("flotilla-node-{}", number.to_string_lossy())
    }

    pub(super) fn log_file(&self) -> PathBuf {
        log_file(&self.dir)
    }

    pub(super) fn ready(&self) -> ReadyNode {
        ReadyNode {
            id: self.id.to_string(),
            name: self.name.clone(),
            state_dir: state_dir(&self.dir),
            runtime_dir: runtime_dir(&self.dir),
            pid: self.pid.load(Ordering::Relaxed),
        }
    }

    /// Runs the agent, again and again, until asked to stop.
    async fn keep(self, stop: CancellationToken) -> Result<(), std::io::Error> {
        loop {
            let mut child = self.spawn()?;
            let ended = tokio::select! {
                () = stop.cancelled() => return end(&mut child).await,
                ended = child.wait() => ended?,
            };
            tracing::warn!(node = self.name, %ended, "an agent ended, starting it again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let child = command(&self.program, &self.dir)?
            .arg("run")
            .arg("--state-dir")
            .arg(state_dir(&self.dir))
            .arg("--runtime-dir")
            .arg(runtime_dir(&self.dir))
            .env("FLOTILLA_AGENT_DEPLOY_NAME_PREFIX", self.name_prefix())
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        self.pid.store(pid, Ordering::Relaxed);
        std::fs::write(self.dir.join("pid"), pid.to_string())?;
        Ok(child)
    }
}

async fn end(child: &mut Child) -> std::io::Result<()> {
    if let Some(pid) = child.id().and_then(pid_of) {
        kill_process(pid, Signal::TERM)?;
    }
    match tokio::time::timeout(STOP_MAX, child.wait()).await {
        Ok(ended) => ended.map(|_| ()),
        Err(_) => {
            tracing::warn!("an agent did not stop in time");
            child.kill().await
        }
    }
}

fn pid_of(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

fn runtime_dir(dir: &Path) -> PathBuf {
    dir.join("run")
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("agent.log")
}

fn identity_file(dir: &Path) -> PathBuf {
    state_dir(dir).join("identity/identity.toml")
}

fn make(dir: &Path) -> Result<(), CliFailure> {
    for path in [state_dir(dir), runtime_dir(dir)] {
        durable::make_private(&path).map_err(|error| {
            CliFailure::because(
                Exit::CannotCreate,
                format_args!("cannot make {}", path.display()),
                &error,
            )
        })?;
    }
    Ok(())
}

/// A command of the agent whose output goes to the node's log.
fn command(program: &Path, dir: &Path) -> std::io::Result<Command> {
    let path = log_file(dir);
    if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, path.with_extension("log.old"))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env("FLOTILLA_AGENT_LOG_FILE", &path)
        // Ctrl-C reaches the whole group of a terminal; the order of the stop is ours.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

async fn token(controller: &Controller, profile: &Path) -> Result<String, CliFailure> {
    let failed = |failure: crate::operation::failure::Failure| {
        CliFailure::new(Exit::Store, format!("cannot make a join token: {failure}"))
    };
    let key = profile::read(profile, true)?
        .and_then(|profile| profile.key)
        .unwrap_or_default();
    let asked = CreateToken {
        labels: [("site".to_owned(), "local".to_owned())].into(),
        expires_s: 600,
        uses: 1,
        approve: false,
        replaces: None,
    };
    let who = controller
        .operations
        .authenticate(&key, new_request()?)
        .map_err(failed)?;
    let made = controller
        .operations
        .create_token(&who, asked)
        .await
        .map_err(failed)?;
    Ok(made.text)
}

fn new_request() -> Result<RequestId, CliFailure> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; protocol::id::ID_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CliFailure::new(Exit::Bug, "no random source"))?;
    Ok(RequestId::from_bytes(bytes))
}

async fn join(dir: &Path, program: &Path, token: &str, name: &str) -> Result<(), CliFailure> {
    let cannot = |error: &std::io::Error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot run {}", program.display()),
            error,
        )
    };
    let joined = command(program, dir)
        .map_err(|error| cannot(&error))?
        .arg("join")
        // An identity of another fleet is of no use here.
        .arg("--replace")
        .arg("--state-dir")
        .arg(state_dir(dir))
        .arg("--name")
        .arg(name)
        // Not as an argument, where every user of the host could read it.
        .env("FLOTILLA_JOIN_TOKEN", token)
        .status()
        .await
        .map_err(|error| cannot(&error))?;
    if joined.success() {
        return Ok(());
    }
    let log = std::fs::read_to_string(log_file(dir)).unwrap_or_default();
    let last: Vec<_> = log.lines().rev().take(3).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    Err(CliFailure::new(
        Exit::Unavailable,
        format!("{name} could not join ({joined}):\n  {}", last.join("\n  ")),
    )
    .advise(format!("look into {}", log_file(dir).display())))
}

fn read(dir: PathBuf, program: &Path) -> Result<Agent, CliFailure> {
    let path = identity_file(&dir);
    let damaged = |what: &dyn std::fmt::Display| {
        CliFailure::new(Exit::Store, format!("{}: {what}", path.display()))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| damaged(&error))?;
    let identity: Identity = toml::from_str(&text).map_err(|error| damaged(&error))?;
    let id: NodeId = identity.node.parse().map_err(|error| damaged(&error))?;
    Ok(Agent {
        id,
        name: identity.name.unwrap_or_else(|| id.to_string()),
        program: program.to_owned(),
        pid: Arc::default(),
        dir,
    })
}

/// Stops the agents that a killed quickstart left behind, before a controller
/// starts that they would connect to.
pub(super) async fn stop_leftovers(dir: &Path, program: &Path) {
    let nodes = std::fs::read_dir(dir.join("nodes"));
    for node in nodes.into_iter().flatten().flatten() {
        stop_leftover(&node.path(), program).await;
    }
}

/// Stops an agent that a killed quickstart left behind.
async fn stop_leftover(dir: &Path, program: &Path) {
    let Some(number) = std::fs::read_to_string(dir.join("pid"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
    else {
        return;
    };
    let Some(pid) = pid_of(number).filter(|_| is_agent_of(number, dir, program)) else {
        return;
    };
    tracing::info!(pid = number, "stopping an agent that was left behind");
    for signal in [Signal::TERM, Signal::KILL] {
        if kill_process(pid, signal).is_err() {
            return;
        }
        for _ in 0..u32::from(u8::MAX) {
            if !is_agent_of(number, dir, program) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether the process runs the agent's program on the node's state directory.
fn is_agent_of(pid: u32, dir: &Path, program: &Path) -> bool {
    let state = state_dir(dir);
    let named = program
        .file_name()
        .map(|name| name.as_encoded_bytes().to_vec());
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let mut parts = line.split(|byte| *byte == 0);
        let runs = parts.next().map(|first| {
            first
                .rsplit(|byte| *byte == b'/')
                .next()
                .map(<[u8]>::to_vec)
        });
        runs.flatten() == named && parts.any(|part| part == state.as_os_str().as_encoded_bytes())
    })
}
