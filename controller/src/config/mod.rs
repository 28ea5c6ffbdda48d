//! The controller's configuration: TOML file, then environment, then flags.
//!
//! Each subsystem takes its own section by value; nothing reads configuration
//! from anywhere else. Unknown keys and variables are errors, and all problems
//! are reported at once. Secrets are never in the file: keys end in `_file`.

mod check;
mod raw;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backup::key::Recipient;
use crate::outbound::address::Network;
pub use check::keys;
pub use raw::{Layers, Origin, Problem, variable};

/// Where the configuration is looked for when no `--config` names it.
pub const DEFAULT_FILE: &str = "/etc/flotilla/controller.toml";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Everything that the controller keeps lies below this.
    pub state_dir: PathBuf,
    /// The HTTPS face.
    pub api: ApiConfig,
    /// The MQTT pipe.
    pub broker: BrokerConfig,
    /// Certificates and keys.
    pub pki: PkiConfig,
    /// The event store.
    pub journal: JournalConfig,
    /// Sessions with nodes.
    pub session: SessionConfig,
    /// Notices.
    pub notify: NotifyConfig,
    /// Stored metrics.
    pub series: SeriesConfig,
    /// What the controller calls by itself.
    pub outbound: OutboundConfig,
    /// Backups.
    pub backup: BackupConfig,
    /// Logs.
    pub log: LogConfig,
}

/// The HTTPS face.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names and addresses in the server's certificate, besides the loopback
    /// ones and the host's own name.
    pub names: Vec<String>,
    /// `host:port` under which nodes and operators reach the API; join tokens carry it.
    pub advertise: Option<String>,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for a request's head, and for an idle connection's next request.
    pub header_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Largest request body, in bytes.
    pub body_bytes_max: u64,
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// Connections open at once from one address; more are closed.
    pub connections_per_address_max: usize,
    /// Requests a minute for one API key.
    pub key_requests_per_minute: u32,
    /// Requests a minute for one address.
    pub address_requests_per_minute: u32,
    /// Whether `/metrics` answers without a key.
    pub metrics_anonymous: bool,
}

/// The MQTT pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Ours or yours.
    pub mode: BrokerMode,
    /// Where the embedded broker listens for MQTT over TLS.
    pub listen: SocketAddr,
    /// Where the embedded broker listens for MQTT over WebSocket over TLS.
    pub websocket_listen: Option<SocketAddr>,
    /// Broker addresses told to nodes (`mqtts://…`, `wss://…`); derived from
    /// `api.advertise` and the listeners when empty.
    pub advertise: Vec<String>,
    /// Nodes connected at once to the embedded broker.
    pub connections_max: usize,
}

/// Which broker carries the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerMode {
    /// rmqtt in this process.
    Embedded,
    /// Any MQTT 5 broker.
    External(ExternalBroker),
}

/// How to reach an external broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalBroker {
    /// `mqtts://host:port` or `wss://host:port/path`.
    pub url: String,
    /// CA of the broker's certificate; the fleet's own when absent.
    pub ca_file: Option<PathBuf>,
    /// Client certificate of the controller, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// User name, where the broker wants one.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
}

/// Certificates and keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PkiConfig {
    /// Where CA, keys and trust set lie, files 0600.
    pub dir: PathBuf,
    /// Life of a node's certificate; it renews at two thirds.
    pub node_certificate_life: Duration,
    /// Life of the controller's server certificate; it renews at two thirds.
    pub server_certificate_life: Duration,
    /// How long the next signing key or CA is announced before it takes over.
    pub rotation_overlap: Duration,
}

/// The event store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Records between two signed checkpoints.
    pub checkpoint_every: u64,
    /// Records between two snapshots.
    pub snapshot_every: u64,
}

/// Sessions with nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Interval of nodes' heartbeats.
    pub heartbeat: Duration,
    /// A node whose clock is off by more is flagged.
    pub clock_error_max: Duration,
}

/// When someone is told of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyConfig {
    /// How long nothing must have been heard of a node before it is told of.
    pub silent_after: Duration,
}

/// Stored metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesConfig {
    /// How long frames are kept as they came.
    pub retention: Duration,
    /// How long rollups are kept.
    pub retention_rollup: Duration,
    /// Largest size on disk; the oldest partitions go first. Bytes.
    pub bytes_max: u64,
    /// Where to forward samples, if anywhere.
    pub remote_write: Option<RemoteWrite>,
}

/// A Prometheus-compatible store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteWrite {
    /// Its remote-write URL.
    pub url: String,
    /// File that holds a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    /// CA of its certificate.
    pub ca_file: Option<PathBuf>,
}

/// What the controller calls by itself: image registries, and receivers of notices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundConfig {
    /// Networks that it may reach besides the public internet.
    pub allow: Vec<Network>,
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// Whose keys open them: the public halves. None are made without one.
    pub recipients: Vec<Recipient>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines are written.
    pub format: LogFormat,
    /// Filter in `tracing`'s syntax, such as `info` or `warn,controller::uplink=debug`.
    pub filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// journald when systemd connected it, else text.
    Auto,
    /// journald, with fields.
    Journald,
    /// Text on standard error.
    Text,
    /// One JSON object a line on standard error.
    Json,
}

/// The configuration of a state directory that no file says anything of: to look into
/// what was unpacked there.
///
/// # Errors
/// When the path is none that a configuration takes.
pub(crate) fn of(state_dir: &Path) -> Result<Config, Vec<Problem>> {
    let mut layers = Layers::default();
    layers.add_flag("state_dir", &state_dir.display().to_string());
    check::check(&layers)
}

/// Reads all layers and checks them.
///
/// `file` is the one asked for; without it the default file is read if it exists.
/// `flags` are `key=value` pairs.
///
/// # Errors
/// Every problem found.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Config, Vec<Problem>> {
    let mut layers = Layers::default();
    let mut problems = Vec::new();
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if let Err(problem) = layers.add_file(&path.display().to_string(), &text) {
                problems.push(problem);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {}
        Err(error) => problems.push(Problem {
            key: String::new(),
            detail: format!("cannot read {}: {error}", path.display()),
        }),
    }
    problems.extend(layers.add_env(environment, &keys()));
    for (key, value) in flags {
        layers.add_flag(key, value);
    }
    match check::check(&layers) {
        Ok(config) if problems.is_empty() => Ok(config),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}
