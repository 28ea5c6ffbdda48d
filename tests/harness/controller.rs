//! A real controller in a folder of its own, started with `flotilla quickstart`, or
//! with `flotilla serve` as a service manager would.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::copy;
use crate::cli::Cli;
use crate::process::{Process, children_named, signal};
use crate::servers::free_port;
use crate::{programs, wait};

/// From the start of the program to its ready file, nodes enrolled.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How a controller is to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    kind: Kind,
    environment: Vec<(String, String)>,
    folder: Option<PathBuf>,
}

/// Which of the two subcommands runs it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `flotilla quickstart` with so many local agents.
    Quickstart(u32),
    /// `flotilla serve` with fixed ports, which nodes keep over its restarts.
    Serve { api: u16, broker: u16 },
}

impl Plan {
    /// A controller with so many local agents.
    pub fn nodes(nodes: u32) -> Plan {
        Plan::of(Kind::Quickstart(nodes))
    }

    /// A controller as a service: `flotilla serve`.
    pub fn service() -> Plan {
        Plan::of(Kind::Serve {
            api: free_port(),
            broker: free_port(),
        })
    }

    fn of(kind: Kind) -> Plan {
        Plan {
            kind,
            environment: Vec::new(),
            folder: None,
        }
    }

    /// Sets a variable of the controller's, and of its agents'.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Plan {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the state in this folder, and not in a temporary one.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Plan {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it is not ready within a minute.
    #[track_caller]
    pub fn start(self) -> Controller {
        let mut controller = self.prepare();
        controller.start();
        controller
    }

    /// A controller that is not started yet.
    ///
    /// # Panics
    /// When the temporary folder is not writable.
    pub fn prepare(self) -> Controller {
        let scratch = TempDir::new().expect("the temporary folder is writable");
        let folder = self
            .folder
            .clone()
            .unwrap_or_else(|| scratch.path().join("state"));
        Controller {
            plan: self,
            folder,
            scratch,
            process: None,
            ready: Value::Null,
        }
    }
}

/// A controller that was started at least once.
pub struct Controller {
    plan: Plan,
    folder: PathBuf,
    scratch: TempDir,
    process: Option<Process>,
    ready: Value,
}

impl Controller {
    /// Starts it again on the same folder and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already, or is not ready within a minute.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with further arguments and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already, or is not ready within a minute.
    #[track_caller]
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.begin_with(arguments);
        let ready_file = self.ready_file();
        let found = wait::within(READY_LIMIT, || {
            if !self.process.as_mut().is_some_and(Process::runs) {
                return Some(None);
            }
            let text = fs::read_to_string(&ready_file).ok()?;
            serde_json::from_str(&text).ok().map(Some)
        });
        match found.flatten() {
            Some(ready) => self.ready = ready,
            None => panic!("the controller is not ready\n{}", self.process().tail()),
        }
    }

    /// Starts it without waiting for it to be ready.
    ///
    /// # Panics
    /// When it runs already.
    #[track_caller]
    pub fn begin(&mut self) {
        self.begin_with(&[]);
    }

    fn begin_with(&mut self, arguments: &[&str]) {
        assert!(self.process.is_none(), "the controller runs already");
        let ready_file = self.ready_file();
        let _not_there_at_first = fs::remove_file(&ready_file);
        let mut command = programs::command(programs::flotilla());
        let name = match self.plan.kind {
            Kind::Quickstart(nodes) => {
                command
                    .arg("quickstart")
                    .arg("--dir")
                    .arg(&self.folder)
                    .args(["--nodes", &nodes.to_string()]);
                "flotilla quickstart"
            }
            Kind::Serve { api, broker } => {
                command.arg("serve");
                for pair in [
                    format!("state_dir={}", self.folder.display()),
                    format!("api.listen=127.0.0.1:{api}"),
                    format!("broker.listen=127.0.0.1:{broker}"),
                ] {
                    command.args(["--set", &pair]);
                }
                "flotilla serve"
            }
        };
        command
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments)
            .env("HOME", self.scratch.path())
            .env_remove("XDG_CONFIG_HOME")
            .envs(self.plan.environment.iter().cloned());
        let log = self.scratch.path().join("controller.log");
        self.process = Some(Process::start(name, &mut command, &log));
    }

    /// Sets a variable from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.plan.environment.retain(|(known, _)| known != name);
        self.plan
            .environment
            .push((name.to_owned(), value.to_owned()));
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// When it does not end cleanly.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the controller runs");
        let status = process.terminate();
        assert!(status.success(), "{status}\n{}", process.tail());
    }

    /// Ends the controller and its local agents with SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the controller runs");
        let agents = children_named(process.id(), "flotilla-agent");
        process.kill();
        for agent in agents {
            signal(agent, Signal::KILL);
        }
    }

    /// Keeps a copy of the state, to be put back later.
    ///
    /// # Panics
    /// When it runs, or the state cannot be copied.
    pub fn back_up(&self) -> TempDir {
        assert!(
            self.process.is_none(),
            "a backup is of a stopped controller"
        );
        let backup = TempDir::new().expect("the temporary folder is writable");
        copy(&self.folder, &backup.path().join("state"));
        backup
    }

    /// Puts a copy of the state back.
    ///
    /// # Panics
    /// When it runs, or the state cannot be written.
    pub fn put_back(&self, backup: &TempDir) {
        assert!(self.process.is_none(), "a stopped controller is restored");
        fs::remove_dir_all(&self.folder).expect("the state can be removed");
        copy(&backup.path().join("state"), &self.folder);
    }

    /// The process.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the controller runs")
    }

    /// The process ids of the local agents, oldest first.
    pub fn agents(&mut self) -> Vec<u32> {
        let mut agents = children_named(self.process().id(), "flotilla-agent");
        agents.sort_unstable();
        agents
    }

    /// The administrator's command line.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.profile())
    }

    /// The administrator's profile.
    pub fn profile(&self) -> PathBuf {
        PathBuf::from(self.said("profile"))
    }

    /// The API's address as `https://host:port`.
    pub fn api(&self) -> &str {
        self.said("api")
    }

    /// The socket address of the API.
    ///
    /// # Panics
    /// When the ready file tells none.
    pub fn api_address(&self) -> SocketAddr {
        self.api()
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .parse()
            .expect("the ready file tells an address and a port")
    }

    /// The file that holds the fleet's CA.
    pub fn ca_file(&self) -> PathBuf {
        PathBuf::from(self.said("ca_file"))
    }

    /// Where it keeps its state.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the test may keep files of its own.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// What the ready file says.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// A client of the API that trusts the fleet's CA and nothing else.
    ///
    /// # Panics
    /// When the CA file cannot be read.
    pub fn http(&self) -> reqwest::blocking::Client {
        client(&self.ca_file())
    }

    fn ready_file(&self) -> PathBuf {
        self.scratch.path().join("ready.json")
    }

    fn said(&self, key: &str) -> &str {
        self.ready
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("the ready file tells no {key}: {}", self.ready))
    }
}

/// A blocking HTTPS client that trusts one CA file.
///
/// # Panics
/// When the file cannot be read or holds no certificate.
pub fn client(ca_file: &Path) -> reqwest::blocking::Client {
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    let pem = fs::read(ca_file).expect("the CA file is readable");
    let ca = reqwest::Certificate::from_pem_bundle(&pem).expect("the CA file holds certificates");
    reqwest::blocking::Client::builder()
        .tls_certs_only(ca)
        .timeout(Duration::from_secs(30))
        .build()
        .expect("a client can be made")
}
