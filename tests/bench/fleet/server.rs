//! The real controller: started with `flotilla quickstart`, watched through
//! `/proc`, asked through its API, killed and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use harness::machine;
use harness::process::Process;
use harness::servers::{Mosquitto, TlsFiles};
use harness::{clock, programs, wait};
use protocol::id::CommandId;
use serde_json::{Value, json};

/// From the start of the program to its ready file.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// The controller.
pub(crate) struct Server {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    api: String,
    ca_file: PathBuf,
    profile: PathBuf,
    http: reqwest::blocking::Client,
    key: String,
}

/// What the controller costs at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// When it was looked at.
    pub(crate) at: Instant,
    /// Processor time since its start.
    pub(crate) cpu: Duration,
    /// Proportional set size, KiB.
    pub(crate) pss_kib: u64,
    /// Resident set size, KiB.
    pub(crate) rss_kib: u64,
    /// Bytes that it caused to be written to storage.
    pub(crate) written: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
}

impl Server {
    /// Starts a controller on an empty folder.
    pub(crate) fn start(folder: &Path, settings: &[(&str, String)]) -> anyhow::Result<Self> {
        let environment = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let mut server = Self {
            folder: folder.to_owned(),
            environment,
            process: None,
            api: String::new(),
            ca_file: PathBuf::new(),
            profile: PathBuf::new(),
            http: reqwest::blocking::Client::new(),
            key: String::new(),
        };
        server.begin()?;
        server.ready()?;
        Ok(server)
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.join("ready.json")
    }

    /// Starts the program on the folder, new or not.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        let ready = self.ready_file();
        if ready.exists() {
            std::fs::remove_file(&ready).context("the old ready file")?;
        }
        let mut command = Command::new(programs::flotilla());
        command
            .arg("quickstart")
            .arg("--dir")
            .arg(self.folder.join("state"))
            .args(["--nodes", "0", "--ready-file"])
            .arg(&ready)
            // Where the tests find their programs is no setting of a controller's.
            .env_remove("FLOTILLA_BIN_DIR")
            // The profile of whoever runs the benchmark is none of its business.
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .envs(self.environment.iter().cloned());
        let log = self.folder.join("controller.log");
        self.process = Some(Process::start("flotilla", &mut command, &log));
        Ok(())
    }

    /// Waits for the ready file, and takes addresses and key from it.
    pub(crate) fn ready(&mut self) -> anyhow::Result<()> {
        let file = self.ready_file();
        let said = wait::within(READY_LIMIT, || {
            if !self.process.as_mut().is_some_and(Process::runs) {
                return Some(Value::Null);
            }
            serde_json::from_str::<Value>(&std::fs::read_to_string(&file).ok()?).ok()
        });
        let Some(said) = said.filter(|said| !said.is_null()) else {
            let tail = self.process.as_ref().map(Process::tail);
            bail!("the controller is not ready\n{}", tail.unwrap_or_default());
        };
        let word = |key: &str| {
            let text = said.get(key).and_then(Value::as_str);
            text.map(str::to_owned)
                .with_context(|| format!("no {key} in {said}"))
        };
        self.api = word("api")?.trim_end_matches('/').to_owned();
        self.ca_file = word("ca_file")?.into();
        self.profile = word("profile")?.into();
        let profile: toml::Table = std::fs::read_to_string(&self.profile)?.parse()?;
        let key = profile.get("key").and_then(toml::Value::as_str);
        self.key = key.context("the profile holds no key")?.to_owned();
        self.http = harness::controller::client(&self.ca_file);
        Ok(())
    }

    /// Starts a mosquitto with the fleet's certificates, and the controller again
    /// so that it and its nodes meet there.
    pub(crate) fn move_to_mosquitto(&mut self) -> anyhow::Result<Mosquitto> {
        let keys = key_folder(&self.folder).context("the fleet's keys")?;
        let tls = TlsFiles {
            ca: &keys.join("ca.pem"),
            certificate: &keys.join("server.pem"),
            key: &keys.join("server.key"),
        };
        let mosquitto =
            Mosquitto::start(&tls, "controller").context("mosquitto is not installed")?;
        let address = mosquitto.address();
        let settings = [
            ("FLOTILLA_BROKER_MODE", "external".to_owned()),
            ("FLOTILLA_BROKER_EXTERNAL_URL", format!("mqtts://{address}")),
            (
                "FLOTILLA_BROKER_ADVERTISE",
                format!("[\"mqtts://{address}\"]"),
            ),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        self.environment.extend(settings);
        self.kill();
        self.begin()?;
        self.ready()?;
        Ok(mosquitto)
    }

    /// The fleet's CA.
    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The process id.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        let process = self.process.as_ref().context("the controller is stopped")?;
        Ok(process.id())
    }

    /// What it costs.
    pub(crate) fn cost(&self) -> anyhow::Result<Cost> {
        let id = self.id()?;
        let gone = || "the controller is gone; see controller.log in its folder";
        Ok(Cost {
            at: clock::now(),
            cpu: machine::cpu(id).with_context(gone)?,
            pss_kib: machine::pss_kib(id).with_context(gone)?,
            rss_kib: machine::rss_kib(id).with_context(gone)?,
            written: machine::written_bytes(id).with_context(gone)?,
            descriptors: machine::descriptors(id).with_context(gone)?,
        })
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The last lines that it logged.
    pub(crate) fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }

    /// A token for so many nodes.
    pub(crate) fn token(&self, uses: usize) -> anyhow::Result<String> {
        let uses = uses.to_string();
        let cli = harness::cli::Cli::new(&self.profile);
        let arguments = ["token", "create", "--expires", "2h", "--uses", &uses];
        let made = cli.json(&arguments);
        let text = made["text"].as_str();
        Ok(text
            .with_context(|| format!("no text in {made}"))?
            .to_owned())
    }

    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.api);
        let answer = self.http.get(url).bearer_auth(&self.key).send()?;
        let status = answer.status();
        let text = answer.text()?;
        if !status.is_success() {
            bail!("GET {path}: {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Issues a ping to every node; says which command it became.
    pub(crate) fn ping_all(&self) -> anyhow::Result<CommandId> {
        let body = json!({
            "nodes": "*", "action": { "ping": {} }, "start_by_s": 120, "run_timeout_ms": 60_000,
        });
        let url = format!("{}/api/v1/commands", self.api);
        let request = self.http.post(url).bearer_auth(&self.key).json(&body);
        let answer = request.send()?;
        let status = answer.status();
        let text = answer.text()?;
        if !status.is_success() {
            bail!("POST /api/v1/commands: {status}: {text}");
        }
        let made: Value = serde_json::from_str(&text)?;
        let id = made["id"].as_str().context("the command has no id")?;
        Ok(id.parse()?)
    }

    /// Opens the fleet's breaker by hand, or closes it.
    pub(crate) fn move_breaker(&self, verb: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/breakers/fleet/{verb}");
        let url = format!("{}{path}", self.api);
        let body = json!({ "reason": "a measurement" });
        let request = self.http.post(url).bearer_auth(&self.key).json(&body);
        let answer = request.send()?;
        let status = answer.status();
        if !status.is_success() {
            bail!("POST {path}: {status}: {}", answer.text()?);
        }
        Ok(())
    }

    /// A command's targets, how many of them succeeded, and whether it is done.
    pub(crate) fn command(&self, id: CommandId) -> anyhow::Result<(u64, u64, bool)> {
        let shown = self.get(&format!("/api/v1/commands/{id}"))?;
        let targets = shown["targets"].as_u64().context("no targets")?;
        let succeeded = shown["counts"]["succeeded"].as_u64().unwrap_or_default();
        let done = shown["done"].as_bool().unwrap_or_default();
        Ok((targets, succeeded, done))
    }

    /// The controller's own counters, summed over their labels.
    pub(crate) fn metrics(&self) -> anyhow::Result<Vec<(String, f64)>> {
        let url = format!("{}/metrics", self.api);
        let answer = self.http.get(url).bearer_auth(&self.key).send()?;
        let text = answer.error_for_status()?.text()?;
        let mut sums: Vec<(String, f64)> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = name.split('{').next().unwrap_or(name);
            let value: f64 = value.parse().unwrap_or_default();
            match sums.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => sums.push((name.to_owned(), value)),
            }
        }
        Ok(sums)
    }
}

/// The folder below this one that holds the fleet CA's key.
fn key_folder(below: &Path) -> Option<PathBuf> {
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        if folder.join("ca.key").is_file() {
            return Some(folder);
        }
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.map(|e| e.path()).filter(|path| path.is_dir()));
    }
    None
}
