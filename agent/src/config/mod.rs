//! Configuration: where it comes from, and its checked form.
//!
//! A value comes from the configuration file (TOML), then from the environment
//! (`FLOTILLA_AGENT_<SECTION>_<KEY>`), then from flags; the later one wins. Each
//! subsystem gets its own section by value.
//!
//! **Invariant:** a [`Config`] holds checked values only, and a key that nobody
//! reads is an error. All problems are reported at once, each with its path.

mod command;
mod deploy;
mod raw;
mod sampling;
mod update;

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::ErrorCode;

pub use raw::{Problem, Problems, Section};
pub use sampling::Sampling;
pub use update::Update;

use crate::command::Settings;
use raw::Raw;

/// Where the configuration is, when no flag says otherwise.
pub const DEFAULT_FILE: &str = "/etc/flotilla/agent.toml";

const DEFAULT_STATE_DIR: &str = "/var/lib/flotilla-agent";
const DEFAULT_RUNTIME_DIR: &str = "/run/flotilla-agent";

/// Where the break-glass file is, when the configuration does not say otherwise.
const DEFAULT_BREAK_GLASS_FILE: &str = "/etc/flotilla/break-glass.toml";

/// Everything that the agent can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the agent keeps its files.
    pub dirs: Dirs,
    /// How the node joins a fleet.
    pub join: Join,
    /// How the controller is reached.
    pub uplink: Uplink,
    /// What the store may hold.
    pub store: Store,
    /// What is measured, and how often.
    pub sampling: Sampling,
    /// Which commands are obeyed, and within which bounds.
    pub command: Settings,
    /// What is allowed of deployments.
    pub deploy: crate::deploy::Settings,
    /// Updates of the agent itself.
    pub update: Update,
    /// What lets pass what the fleet's policy gates.
    pub gate: Gate,
    /// The Docker engine.
    pub docker: Docker,
    /// What is logged, and where to.
    pub log: Log,
}

/// The agent's directories and its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Identity and store; kept over reboots.
    pub state: PathBuf,
    /// Samples that are not acknowledged, and the status socket: a tmpfs that is
    /// kept over restarts of the agent.
    pub runtime: PathBuf,
    /// The file that the configuration was read from; it need not exist.
    pub config: PathBuf,
}

impl Dirs {
    /// Keys, certificates and what is known of the controller.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// The embedded database.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.state.join("agent.redb")
    }

    /// Configs, secrets and unfinished archives of deployments.
    #[must_use]
    pub fn deploy(&self) -> PathBuf {
        self.state.join("deploy")
    }

    /// Samples and frames that the controller has not acknowledged.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.runtime.join("spool")
    }

    /// The socket on which a version that is watched notifies its guard.
    #[must_use]
    pub fn guard_socket(&self) -> PathBuf {
        self.runtime.join("guard.sock")
    }

    /// The socket on which a running agent tells its status.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("agent.sock")
    }
}

/// How the node joins a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// A file that holds a join token, used when the node has no identity.
    pub token_file: Option<PathBuf>,
    /// The name that the node asks for; its host name when not given.
    pub name: Option<String>,
    /// How long to wait for an operator's approval; zero waits for ever.
    pub approval_timeout: Duration,
}

/// How the controller is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Brokers, tried in turn; those of the identity when empty.
    pub brokers: Vec<Broker>,
    /// The controller's HTTPS as `host:port`, tried in turn; those of the identity
    /// when empty.
    pub controllers: Vec<String>,
    /// An HTTP proxy.
    pub proxy: Option<Proxy>,
    /// Longest wait between two attempts to connect.
    pub retry_max: Duration,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// MQTT in TLS in TCP: `mqtts://host:port`.
    Tls {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// MQTT in a WebSocket in TLS, for networks that let nothing else pass:
    /// `wss://host:port/path`.
    WebSocket {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// The path, with its slash.
        path: String,
    },
}

/// A text that names no broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not mqtts://host:port or wss://host:port/path")]
pub struct ParseBrokerError {
    text: String,
}

impl Broker {
    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        let (Self::Tls { host, port } | Self::WebSocket { host, port, .. }) = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

impl std::str::FromStr for Broker {
    type Err = ParseBrokerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            if let Some(rest) = text.strip_prefix("mqtts://") {
                let (host, port) = split_host_and_port(rest.trim_end_matches('/'))?;
                return Some(Self::Tls { host, port });
            }
            let rest = text.strip_prefix("wss://")?;
            let (authority, path) = rest.split_once('/').unwrap_or((rest, "mqtt"));
            let (host, port) = split_host_and_port(authority)?;
            let path = format!("/{path}");
            Some(Self::WebSocket { host, port, path })
        };
        read().ok_or_else(|| ParseBrokerError {
            text: text.chars().take(128).collect(),
        })
    }
}

impl std::fmt::Display for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tls { .. } => write!(f, "mqtts://{}", self.address()),
            Self::WebSocket { path, .. } => write!(f, "wss://{}{path}", self.address()),
        }
    }
}

/// An HTTP proxy that is asked to `CONNECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address of the proxy.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and the file with the password.
    pub login: Option<(String, PathBuf)>,
}

/// What the store may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Bytes of frames in memory (and on the tmpfs).
    pub telemetry_bytes_max: u64,
    /// Bytes of frames on disk, made while the link was down.
    pub backfill_bytes_max: u64,
    /// Bytes of receipts and other control entries. When full, new commands are
    /// refused.
    pub control_bytes_max: u64,
    /// Free bytes that the state directory's filesystem must keep.
    pub free_bytes_min: u64,
}

/// What lets pass what the fleet's policy gates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The break-glass file. Only root may be able to write it.
    pub break_glass_file: PathBuf,
}

/// The Docker engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Docker {
    /// Its socket. Nothing about containers is measured or logged without it.
    pub socket: PathBuf,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal when systemd started the agent, text otherwise.
    Auto,
    /// The journal.
    Journald,
    /// Lines on the standard error.
    Text,
    /// JSON lines on the standard error.
    Json,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A filter as in `info,flotilla_agent::uplink=debug`.
    pub level: String,
    /// Where it goes.
    pub format: LogFormat,
    /// The file that gets the standard error, where whoever starts the agent sends
    /// it to one: `flotilla logs` then reads the agent's own log from it.
    pub file: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is there (or was named by a flag) and cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        reason: String,
    },
    /// Values that cannot be used, all of them.
    #[error("the configuration has {} problem(s):\n{}", problems.len(), list(problems))]
    Check {
        /// Each problem with its path.
        problems: Vec<Problem>,
    },
}

impl LoadError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::ConfigInvalid
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("  {problem}"))
        .collect();
    lines.join("\n")
}

/// Where a configuration is read from. Kept for reloads.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Whether a flag named the file, so that it must exist.
    pub file_required: bool,
    /// Variables of the environment; names outside `FLOTILLA_AGENT_` are ignored,
    /// except `RUNTIME_DIRECTORY` and `STATE_DIRECTORY` as systemd sets them.
    pub environment: Vec<(String, String)>,
    /// What flags said: path such as `state.dir`, and value.
    pub flags: Vec<(&'static str, String)>,
}

impl Source {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or holds values that cannot be
    /// used; in the last case with all problems.
    pub fn load(&self) -> Result<Config, LoadError> {
        let text = match std::fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.file_required => {
                String::new()
            }
            Err(source) => {
                return Err(LoadError::Read {
                    path: self.file.clone(),
                    source,
                });
            }
        };
        self.check(&text)
    }

    /// The directories, however little else of the configuration can be used: for
    /// who examines it, and for the launcher, to which a newer version's keys are
    /// unknown.
    #[must_use]
    pub fn dirs(&self) -> Dirs {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let Ok(mut raw) = Raw::parse(&text).or_else(|_| Raw::parse("")) else {
            return self.default_dirs();
        };
        raw.overlay_environment(&self.environment);
        raw.overlay_flags(&self.flags);
        dirs(&mut raw, &self.file, &self.environment)
    }

    fn default_dirs(&self) -> Dirs {
        Dirs {
            state: PathBuf::from(DEFAULT_STATE_DIR),
            runtime: PathBuf::from(DEFAULT_RUNTIME_DIR),
            config: self.file.clone(),
        }
    }

    /// Checks a file's text together with the environment and the flags.
    ///
    /// # Errors
    /// As [`Source::load`], but for reading.
    pub fn check(&self, text: &str) -> Result<Config, LoadError> {
        let mut raw = Raw::parse(text).map_err(|reason| LoadError::Parse {
            path: self.file.clone(),
            reason,
        })?;
        raw.overlay_environment(&self.environment);
        raw.overlay_flags(&self.flags);
        let config = read(&mut raw, &self.file, &self.environment);
        let problems = raw.finish();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(LoadError::Check { problems })
        }
    }
}

/// The directory that systemd made, when there is exactly one.
fn from_systemd(environment: &[(String, String)], variable: &str) -> Option<PathBuf> {
    environment
        .iter()
        .find(|(name, value)| name == variable && !value.is_empty() && !value.contains(':'))
        .map(|(_, value)| PathBuf::from(value))
}

fn dirs(raw: &mut Raw, file: &Path, environment: &[(String, String)]) -> Dirs {
    let mut dir = |name: &'static str, variable: &str, default: &str| {
        raw.section(name, |section| {
            let default =
                from_systemd(environment, variable).unwrap_or_else(|| PathBuf::from(default));
            section.absolute_path("dir", default)
        })
    };
    Dirs {
        state: dir("state", "STATE_DIRECTORY", DEFAULT_STATE_DIR),
        runtime: dir("runtime", "RUNTIME_DIRECTORY", DEFAULT_RUNTIME_DIR),
        config: file.to_owned(),
    }
}

fn read(raw: &mut Raw, file: &Path, environment: &[(String, String)]) -> Config {
    let dirs = dirs(raw, file, environment);
    let docker = raw.section("docker", |section| Docker {
        socket: section.absolute_path("socket", PathBuf::from("/var/run/docker.sock")),
    });
    let log = raw.section("log", log);
    let command = raw.section("command", |section| Settings {
        docker_socket: docker.socket.clone(),
        own_log: log.file.clone(),
        ..command::check(section, &dirs.runtime)
    });
    let deploy = raw.section("deploy", |section| deploy::check(section, &docker.socket));
    Config {
        dirs,
        join: raw.section("join", join),
        uplink: raw.section("uplink", uplink),
        store: raw.section("store", store),
        sampling: raw.section("sampling", sampling::check),
        command,
        deploy,
        update: raw.section("update", update::check),
        gate: raw.section("gate", |section| Gate {
            break_glass_file: section
                .absolute_path("break_glass_file", PathBuf::from(DEFAULT_BREAK_GLASS_FILE)),
        }),
        docker,
        log,
    }
}

fn join(section: &mut Section<'_>) -> Join {
    Join {
        token_file: section.optional_absolute_path("token_file"),
        name: section.optional_text("name", 1..=protocol::limits::NODE_NAME_BYTES_MAX),
        approval_timeout: section.duration(
            "approval_timeout",
            Duration::ZERO,
            Duration::ZERO..=Duration::from_secs(30 * 24 * 3600),
        ),
    }
}

/// Addresses tried in turn; more would only make a failed round longer.
const ADDRESSES_COUNT_MAX: usize = 8;

fn uplink(section: &mut Section<'_>) -> Uplink {
    let mut brokers = Vec::new();
    for text in section.texts("brokers", ADDRESSES_COUNT_MAX) {
        match text.parse() {
            Ok(broker) => brokers.push(broker),
            Err(_) => {
                section.problem(
                    "brokers",
                    &text,
                    "mqtts://host:port or wss://host:port/path",
                );
            }
        }
    }
    let controllers = section.texts("controllers", ADDRESSES_COUNT_MAX);
    for address in &controllers {
        if !is_host_and_port(address) {
            section.problem(
                "controllers",
                address,
                "host:port with a port of 1 to 65535",
            );
        }
    }
    let proxy = section.optional_text("proxy", 1..=256);
    let user = section.optional_text("proxy_user", 1..=256);
    let password_file = section.optional_absolute_path("proxy_password_file");
    let login = match (user, password_file) {
        (Some(user), Some(file)) => Some((user, file)),
        (None, None) => None,
        (Some(_), None) => {
            section.problem(
                "proxy_password_file",
                "nothing",
                "a file, as proxy_user is set",
            );
            None
        }
        (None, Some(_)) => {
            section.problem(
                "proxy_user",
                "nothing",
                "a name, as proxy_password_file is set",
            );
            None
        }
    };
    let proxy = proxy.and_then(|text| match split_host_and_port(&text) {
        Some((host, port)) => Some(Proxy { host, port, login }),
        None => {
            section.problem("proxy", &text, "host:port with a port of 1 to 65535");
            None
        }
    });
    Uplink {
        brokers,
        controllers,
        proxy,
        retry_max: section.duration(
            "retry_max",
            Duration::from_secs(30),
            Duration::from_secs(1)..=Duration::from_secs(3600),
        ),
    }
}

const MEBIBYTE: u64 = 1024 * 1024;

fn store(section: &mut Section<'_>) -> Store {
    Store {
        telemetry_bytes_max: section.integer(
            "telemetry_bytes_max",
            MEBIBYTE,
            64 * 1024..=64 * MEBIBYTE,
        ),
        backfill_bytes_max: section.integer(
            "backfill_bytes_max",
            64 * MEBIBYTE,
            MEBIBYTE..=16 * 1024 * MEBIBYTE,
        ),
        control_bytes_max: section.integer(
            "control_bytes_max",
            8 * MEBIBYTE,
            MEBIBYTE..=1024 * MEBIBYTE,
        ),
        free_bytes_min: section.integer(
            "free_bytes_min",
            16 * MEBIBYTE,
            0..=1024 * 1024 * MEBIBYTE,
        ),
    }
}

fn log(section: &mut Section<'_>) -> Log {
    let level = section.text("level", "info", 1..=256);
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level) {
        section.problem("level", &level, &format!("a log filter ({error})"));
    }
    Log {
        level,
        format: section.choice(
            "format",
            LogFormat::Auto,
            &[
                ("auto", LogFormat::Auto),
                ("journald", LogFormat::Journald),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
            ],
        ),
        file: section.optional_absolute_path("file"),
    }
}

/// Splits `host:port`; a literal IPv6 host stands in brackets.
#[must_use]
pub fn split_host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = !host.is_empty() && !host.contains(['/', '@', ' ', '[', ']']);
    plain.then(|| (host.to_owned(), port))
}

fn is_host_and_port(text: &str) -> bool {
    split_host_and_port(text).is_some()
}

#[cfg(test)]
mod tests;
