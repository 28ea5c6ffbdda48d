//! A Compose project in normal form.
//!
//! The controller reads Compose files and makes this; nodes never see YAML. What
//! is in the file and has no place here is refused by name at the controller, so
//! nothing is ignored silently.
//!
//! Lists that are sets are sorted and without duplicates, times are milliseconds,
//! sizes are bytes. [`Spec::check`] is what both sides of the wire hold to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::{
    FILES_COUNT_MAX, LIST_COUNT_MAX, NAME_BYTES_MAX, RESOURCES_COUNT_MAX, SERVICES_COUNT_MAX,
    SPEC_BYTES_MAX, TEXT_BYTES_MAX,
};
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

    fn new(subject: impl Into<String>, problem: impl Into<String>) -> Self {
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

    /// Checks names, sizes, references between parts, and that what services
    /// depend on has no circle.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it is.
    pub fn check(&self) -> Result<(), SpecError> {
        bounded("services", self.services.len(), SERVICES_COUNT_MAX)?;
        bounded("networks", self.networks.len(), RESOURCES_COUNT_MAX)?;
        bounded("volumes", self.volumes.len(), RESOURCES_COUNT_MAX)?;
        bounded("files", self.files.len(), FILES_COUNT_MAX)?;
        if self.services.is_empty() {
            return Err(SpecError::new("services", "are none; give at least one"));
        }
        let parts: [(&str, Vec<&String>); 3] = [
            ("networks", self.networks.keys().collect()),
            ("volumes", self.volumes.keys().collect()),
            ("services", self.services.keys().collect()),
        ];
        for (kind, names) in parts {
            for name in names {
                if !is_name(name) {
                    return Err(not_a_name(kind, name));
                }
            }
        }
        for (name, service) in &self.services {
            self.check_service(&format!("services.{name}"), service)?;
        }
        self.starting_order()?;
        let bytes = self.encode().len();
        if bytes > SPEC_BYTES_MAX {
            return Err(SpecError::new(
                "the project",
                format!("has {bytes} bytes in normal form; at most {SPEC_BYTES_MAX}"),
            ));
        }
        Ok(())
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

    fn check_service(&self, at: &str, service: &Service) -> Result<(), SpecError> {
        if service.image.reference.is_empty() {
            return Err(SpecError::new(format!("{at}.image"), "is empty"));
        }
        let counts = [
            ("environment", service.environment.len()),
            ("ports", service.ports.len()),
            ("volumes", service.mounts.len()),
            ("labels", service.labels.len()),
            ("cap_add", service.cap_add.len()),
            ("cap_drop", service.cap_drop.len()),
            ("security_opt", service.security_opt.len()),
            ("ulimits", service.ulimits.len()),
            ("extra_hosts", service.extra_hosts.len()),
            ("command", service.command.as_ref().map_or(0, Vec::len)),
            (
                "entrypoint",
                service.entrypoint.as_ref().map_or(0, Vec::len),
            ),
        ];
        for (field, count) in counts {
            bounded(&format!("{at}.{field}"), count, LIST_COUNT_MAX)?;
        }
        let long = service
            .environment
            .iter()
            .chain(&service.labels)
            .flat_map(|(key, value)| [key, value])
            .chain(service.command.iter().flatten())
            .chain(service.entrypoint.iter().flatten())
            .find(|text| text.len() > TEXT_BYTES_MAX || text.contains('\0'));
        if let Some(text) = long {
            return Err(SpecError::new(
                at,
                format!(
                    "has a text of {} bytes or with a NUL; at most {TEXT_BYTES_MAX} bytes",
                    text.len()
                ),
            ));
        }
        self.check_references(at, service)
    }

    fn check_references(&self, at: &str, service: &Service) -> Result<(), SpecError> {
        for (target, mount) in &service.mounts {
            let place = format!("{at}.volumes");
            if !is_plain_absolute(target) {
                return Err(SpecError::new(
                    place,
                    format!("target {target:?} is not an absolute path without `..`"),
                ));
            }
            match &mount.source {
                MountSource::Volume(name) if !self.volumes.contains_key(name) => {
                    return Err(SpecError::new(
                        place,
                        format!("name {name:?}, which is no volume"),
                    ));
                }
                MountSource::Bind(path) if !is_plain_absolute(path) => {
                    return Err(SpecError::new(
                        place,
                        format!("source {path:?} is not an absolute path without `..`"),
                    ));
                }
                MountSource::Bind(_)
                | MountSource::Volume(_)
                | MountSource::Anonymous
                | MountSource::Tmpfs { .. } => {}
            }
        }
        if let NetworkMode::Networks(networks) = &service.network
            && let Some(name) = networks
                .keys()
                .find(|name| !self.networks.contains_key(*name))
        {
            return Err(SpecError::new(
                format!("{at}.networks"),
                format!("name {name:?}, which is no network"),
            ));
        }
        for (target, mount) in &service.files {
            if !self.files.contains_key(&mount.file) || !is_plain_absolute(target) {
                return Err(SpecError::new(
                    format!("{at}.files"),
                    format!(
                        "mount {:?} at {target:?}: no such file, or no absolute path",
                        mount.file
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn bounded(subject: &str, count: usize, most: usize) -> Result<(), SpecError> {
    if count > most {
        return Err(SpecError::new(
            subject,
            format!("are {count}; at most {most}"),
        ));
    }
    Ok(())
}

fn not_a_name(kind: &str, name: &str) -> SpecError {
    let shown: String = name.chars().take(2 * NAME_BYTES_MAX).collect();
    SpecError::new(
        kind,
        format!(
            "have {shown:?}: a name is 1 to {NAME_BYTES_MAX} of a-z 0-9 - _ that starts and ends with a letter or digit"
        ),
    )
}

/// Whether a path is absolute and has no part that climbs.
#[must_use]
pub fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= TEXT_BYTES_MAX
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(needs: &[&str]) -> Service {
        Service {
            image: Image {
                reference: "docker.io/library/busybox:latest".to_owned(),
                ..Image::default()
            },
            depends_on: needs
                .iter()
                .map(|name| ((*name).to_owned(), Condition::Started))
                .collect(),
            ..Service::default()
        }
    }

    fn spec(services: &[(&str, &[&str])]) -> Spec {
        Spec {
            services: services
                .iter()
                .map(|(name, needs)| ((*name).to_owned(), service(needs)))
                .collect(),
            ..Spec::default()
        }
    }

    #[test]
    fn services_start_after_what_they_depend_on() {
        let spec = spec(&[("a", &["c"]), ("b", &["a"]), ("c", &[])]);
        assert_eq!(spec.starting_order().unwrap(), ["c", "a", "b"]);
        spec.check().unwrap();
    }

    #[test]
    fn a_circle_and_an_unknown_name_are_refused_by_name() {
        let circle = spec(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]);
        assert!(circle.check().unwrap_err().to_string().contains("a, b"));
        let unknown = spec(&[("a", &["db"])]);
        assert!(unknown.check().unwrap_err().to_string().contains("\"db\""));
    }

    #[test]
    fn references_and_paths_are_checked() {
        let mut bad = spec(&[("a", &[])]);
        let mount = |source| Mount {
            source,
            read_only: false,
        };
        let a = |spec: &mut Spec, target: &str, source| {
            let service = spec.services.get_mut("a").unwrap();
            service.mounts = BTreeMap::from([(target.to_owned(), mount(source))]);
        };
        a(&mut bad, "/data", MountSource::Volume("nope".to_owned()));
        assert!(bad.check().unwrap_err().to_string().contains("nope"));
        a(
            &mut bad,
            "/data",
            MountSource::Bind("/srv/../etc".to_owned()),
        );
        assert!(bad.check().unwrap_err().to_string().contains("/srv/../etc"));
        a(&mut bad, "data", MountSource::Anonymous);
        assert!(bad.check().unwrap_err().to_string().contains("target"));
        a(&mut bad, "/data", MountSource::Bind("/srv".to_owned()));
        bad.check().unwrap();
    }

    #[test]
    fn names_are_checked() {
        for (name, good) in [
            ("web", true),
            ("web-1_a", true),
            ("", false),
            ("-web", false),
            ("Web", false),
            ("a b", false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
        assert!(!is_name(&"a".repeat(NAME_BYTES_MAX + 1)));
    }
}
