//! A Compose project in normal form.
//!
//! The controller reads Compose files and makes this; nodes never see YAML. What
//! is in the file and has no place here is refused by name at the controller, so
//! nothing is ignored silently.
//!
//! Lists that are sets are sorted and without duplicates ([`Spec::normalise`]),
//! times are milliseconds, sizes are bytes. [`Spec::check`] is what both sides of
//! the wire hold to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use crate::ErrorCode;
use crate::message;

/// What should run on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    /// The networks by name.
    pub networks: BTreeMap<String, Network>,
    /// The volumes by name.
    pub volumes: BTreeMap<String, Volume>,
    /// Configs and secrets by name. Their content travels apart, by digest.
    pub files: BTreeMap<String, File>,
}

/// One service: on a node it is one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The image, and by which digest where it is pinned.
    pub image: Image,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The user, as in `1000:1000`.
    pub user: Option<String>,
    /// Further groups.
    pub group_add: Vec<String>,
    /// The host name inside.
    pub hostname: Option<String>,
    /// Published ports.
    pub ports: Vec<Port>,
    /// Volumes, bind mounts and tmpfs by where they are mounted.
    pub mounts: BTreeMap<String, Mount>,
    /// How it is connected.
    pub network: NetworkMode,
    /// Other services that must be there first.
    pub depends_on: BTreeMap<String, Condition>,
    /// How its health is found out; none is what the image says.
    pub healthcheck: Option<Healthcheck>,
    /// When the engine starts it again.
    pub restart: Restart,
    /// The user's own labels.
    pub labels: BTreeMap<String, String>,
    /// Capabilities beyond the engine's default.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices. Nodes refuse it unless their policy allows it.
    pub privileged: bool,
    /// Whether the root filesystem is read-only.
    pub read_only: bool,
    /// Whether an init process reaps inside.
    pub init: bool,
    /// Security options as the engine takes them.
    pub security_opt: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// Where its output goes; none is the engine's default.
    pub logging: Option<Logging>,
    /// Process limits by name: soft and hard.
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// Further host names inside: name to address.
    pub extra_hosts: BTreeMap<String, String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Devices: host path to container path and permissions.
    pub devices: Vec<Device>,
    /// Configs and secrets that are mounted, by where.
    pub files: BTreeMap<String, FileMount>,
    /// The signal that stops it; none is the image's.
    pub stop_signal: Option<String>,
    /// Milliseconds between that signal and the end.
    pub stop_grace_ms: u64,
}

/// Which image.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Image {
    /// The reference as it was written, with registry and tag spelled out:
    /// `docker.io/library/nginx:1.27`.
    pub reference: String,
    /// The manifest's digest, `sha256:…`, when it was resolved or written.
    pub digest: Option<String>,
    /// The SHA-256 of an archive that the controller holds and that contains it,
    /// in lowercase hexadecimal; for fleets with no registry.
    pub archive: Option<String>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The port on the node; none when the engine chooses.
    pub published: Option<u16>,
    /// The port inside.
    pub target: u16,
    /// The protocol.
    pub protocol: PortProtocol,
    /// The node's address to listen on; none is all.
    pub host_ip: Option<String>,
}

/// A port's protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What is mounted at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A path of the node, absolute. Nodes allow it below listed roots alone.
    Bind(String),
    /// A volume of [`Spec::volumes`].
    Volume(String),
    /// A volume of its own, without a name.
    Anonymous,
    /// Memory.
    Tmpfs {
        /// Bytes; none is the engine's default.
        size_bytes: Option<u64>,
        /// Mode bits; none is the engine's default.
        mode: Option<u32>,
    },
}

/// How a service is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// To these networks of [`Spec::networks`], with these further names.
    Networks(BTreeMap<String, Vec<String>>),
    /// To none.
    None,
    /// The node's own. Nodes refuse it unless their policy allows it.
    Host,
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Networks(BTreeMap::new())
    }
}

/// What must hold of a service that another one depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was started.
    Started,
    /// Its health check passes.
    Healthy,
    /// It ended with exit code 0.
    Completed,
}

/// How health is found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// The test.
    pub test: HealthTest,
    /// Milliseconds between tests; none is the engine's default, as below.
    pub interval_ms: Option<u64>,
    /// Milliseconds that a test may take.
    pub timeout_ms: Option<u64>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// Milliseconds at the start in which failures do not count.
    pub start_period_ms: Option<u64>,
}

/// A health test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// The image's own test, with other times.
    Inherit,
    /// None, whatever the image says.
    Disabled,
    /// A program.
    Command(Vec<String>),
    /// A line for the container's shell.
    Shell(String),
}

/// When the engine starts a container again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Never. A service that ends with 0 is complete.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends with another code than 0; at most so often, 0 is no bound.
    OnFailure(u32),
    /// Whenever it ends, unless someone stopped it.
    UnlessStopped,
}

/// Limits of a service; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory that are kept for it.
    pub memory_reservation_bytes: Option<u64>,
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: Option<u64>,
}

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// The engine's driver.
    pub driver: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// The path on the node.
    pub source: String,
    /// The path inside.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// A network of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The engine's driver; none is its default.
    pub driver: Option<String>,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// Whether it has no way out.
    pub internal: bool,
    /// The user's own labels.
    pub labels: BTreeMap<String, String>,
    /// The name of a network that is there already and stays; none is one of the
    /// deployment's own.
    pub external: Option<String>,
}

/// A volume of a deployment. It outlives revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The engine's driver; none is its default.
    pub driver: Option<String>,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// The user's own labels.
    pub labels: BTreeMap<String, String>,
    /// The name of a volume that is there already and stays; none is one of the
    /// deployment's own.
    pub external: Option<String>,
}

/// A config or secret: what it is called, and which content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Which of the two.
    pub kind: FileKind,
    /// SHA-256 of the content, lowercase hexadecimal. Nodes fetch by it and check
    /// it. For a secret it is keyed (HMAC-SHA-256 with a key of the controller),
    /// so that a short secret cannot be guessed from it.
    pub digest: String,
    /// Bytes of the content.
    pub size_bytes: u32,
}

/// Config or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// May be shown.
    Config,
    /// Stored encrypted, never shown.
    Secret,
}

/// A file as it is mounted into a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMount {
    /// Its name in [`Spec::files`].
    pub file: String,
    /// Mode bits.
    pub mode: u32,
    /// Numeric owner and group; none is root.
    pub owner: Option<(u32, u32)>,
}

/// A spec that no node could run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject} {problem}")]
pub struct SpecError {
    /// What is wrong, as a path: `services.web.ports`.
    pub subject: String,
    /// How.
    pub problem: String,
}

impl SpecError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::DeploymentInvalid
    }

    pub(super) fn new(subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            problem: problem.into(),
        }
    }
}

/// Whether a text can name a deployment or a part of one: lowercase letters,
/// digits, `-` and `_`, starting and ending with a letter or digit.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(|c| ends(c) || c == '-' || c == '_')
        && text.starts_with(ends)
        && text.ends_with(ends)
}

impl Spec {
    /// The bytes of which the digest is made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        message::encode(self)
    }

    /// Sorts the lists that are sets and takes their duplicates out: ports,
    /// capabilities, security options, further groups and devices. The order of
    /// name servers means something and stays.
    pub fn normalise(&mut self) {
        fn set<T: Ord>(list: &mut Vec<T>) {
            list.sort();
            list.dedup();
        }
        for service in self.services.values_mut() {
            set(&mut service.ports);
            set(&mut service.devices);
            for list in [
                &mut service.group_add,
                &mut service.cap_add,
                &mut service.cap_drop,
                &mut service.security_opt,
            ] {
                set(list);
            }
        }
    }

    /// The services in an order in which each comes after those that it depends
    /// on; by name where the order is free.
    ///
    /// # Errors
    /// When they depend on each other in a circle, with its members, or on a
    /// service that does not exist.
    pub fn starting_order(&self) -> Result<Vec<&str>, SpecError> {
        let mut order: Vec<&str> = Vec::with_capacity(self.services.len());
        let mut left: Vec<(&str, &Service)> = self
            .services
            .iter()
            .map(|(name, service)| (name.as_str(), service))
            .collect();
        for (name, service) in &left {
            for needed in service.depends_on.keys() {
                if !self.services.contains_key(needed) {
                    return Err(SpecError::new(
                        format!("services.{name}.depends_on"),
                        format!("names {needed:?}, which is no service"),
                    ));
                }
            }
        }
        while !left.is_empty() {
            let before = order.len();
            left.retain(|(name, service)| {
                let ready = service
                    .depends_on
                    .keys()
                    .all(|needed| order.contains(&needed.as_str()));
                if ready {
                    order.push(name);
                }
                !ready
            });
            if order.len() == before {
                let members: Vec<&str> = left.iter().map(|(name, _)| *name).collect();
                return Err(SpecError::new(
                    "depends_on",
                    format!("goes in a circle among {}", members.join(", ")),
                ));
            }
        }
        Ok(order)
    }
}

/// Whether a path is absolute and has no part that climbs.
#[must_use]
pub fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= TEXT_BYTES_MAX
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..")
}
