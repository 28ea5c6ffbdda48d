//! What the node's own configuration allows of a deployment. It wins over whatever
//! the controller sends.
//!
//! The verdict names every reason, so that one look is enough to correct them all.
//! Paths of the node were resolved before, links and all: a link that leads out of
//! an allowed root is judged by where it leads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::deployment::spec::{Image, MountSource, NetworkMode, Service, Spec};

use super::goal::registry;

/// What stands for archives among the registries.
pub const ARCHIVES: &str = "archive";

/// Docker's own set: taking one of these away and giving it back is no gain.
pub const CAP_ADD_DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Kernel parameters that belong to a container's own network.
pub const SYSCTLS_DEFAULT: [&str; 3] = ["net.ipv4.*", "net.ipv6.*", "net.core.somaxconn"];

/// Options that take rights away.
pub const SECURITY_OPT_DEFAULT: [&str; 3] = [
    "no-new-privileges",
    "no-new-privileges:true",
    "no-new-privileges=true",
];

/// The network drivers that stay inside the node.
const DRIVERS_INSIDE: [&str; 2] = ["bridge", "default"];

/// Kinds of filesystems that a volume may mount from elsewhere.
const VOLUME_TYPES: [&str; 4] = ["nfs", "nfs4", "cifs", "tmpfs"];

/// What the node allows. In patterns `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether deployments are taken at all.
    pub enabled: bool,
    /// Registries from which images may come; `archive` for archives.
    pub registries: Vec<String>,
    /// Images, by reference.
    pub images: Vec<String>,
    /// Whether containers may be privileged.
    pub privileged: bool,
    /// Directories below which paths of the node may be mounted.
    pub host_paths: Vec<PathBuf>,
    /// Whether containers may use the node's network, or one that reaches it.
    pub host_network: bool,
    /// Whether the engine's socket may be mounted.
    pub docker_socket: bool,
    /// Devices of the node.
    pub devices: Vec<String>,
    /// Capabilities that may be added.
    pub cap_add: Vec<String>,
    /// Security options.
    pub security_opt: Vec<String>,
    /// Kernel parameters of a container.
    pub sysctls: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self {
            enabled: true,
            registries: owned(&["*"]),
            images: owned(&["*"]),
            privileged: false,
            host_paths: Vec::new(),
            host_network: false,
            docker_socket: false,
            devices: Vec::new(),
            cap_add: owned(&CAP_ADD_DEFAULT),
            security_opt: owned(&SECURITY_OPT_DEFAULT),
            sysctls: owned(&SYSCTLS_DEFAULT),
        }
    }
}

/// Paths of the node as they really are: where each lies that a spec names, or
/// why that cannot be told.
pub type Resolved = BTreeMap<String, Result<PathBuf, String>>;

/// The paths of the node that a spec names: by bind mounts, and by volumes that are
/// bind mounts in disguise.
#[must_use]
pub fn paths(spec: &Spec) -> Vec<&str> {
    let binds = spec
        .services
        .values()
        .flat_map(|service| service.mounts.values())
        .filter_map(|mount| match &mount.source {
            MountSource::Bind(path) => Some(path.as_str()),
            MountSource::Volume(_) | MountSource::Anonymous | MountSource::Tmpfs { .. } => None,
        });
    let volumes = spec.volumes.values().filter_map(|volume| {
        let device = volume.options.get("device")?;
        device.starts_with('/').then_some(device.as_str())
    });
    binds.chain(volumes).collect()
}

/// What the rules have against a spec; nothing when they allow it. `sockets` are
/// the places of the engine's socket, resolved.
#[must_use]
pub fn refusals(
    rules: &Rules,
    spec: &Spec,
    resolved: &Resolved,
    sockets: &[PathBuf],
) -> Vec<String> {
    if !rules.enabled {
        return vec!["deployments are switched off on this node".to_owned()];
    }
    let mut found = Vec::new();
    for (name, service) in &spec.services {
        let mut judged = Judged {
            at: format!("services.{name}"),
            rules,
            found: &mut found,
        };
        judged.image(&service.image);
        judged.privileges(service);
        for mount in service.mounts.values() {
            if let MountSource::Bind(path) = &mount.source {
                judged.path(path, resolved, sockets);
            }
        }
        if service.network == NetworkMode::Host && !rules.host_network {
            judged.refuse("the node's network");
        }
    }
    for (name, network) in &spec.networks {
        let mut judged = Judged {
            at: format!("networks.{name}"),
            rules,
            found: &mut found,
        };
        let driver = network.driver.as_deref().unwrap_or("bridge");
        let host = network.external.as_deref() == Some("host");
        if (host || !DRIVERS_INSIDE.contains(&driver)) && !rules.host_network {
            judged.refuse(&format!(
                "the network driver {:?}, which reaches the node's network",
                if host { "host" } else { driver }
            ));
        }
    }
    for (name, volume) in &spec.volumes {
        let mut judged = Judged {
            at: format!("volumes.{name}"),
            rules,
            found: &mut found,
        };
        judged.volume(volume, resolved, sockets);
    }
    found
}

struct Judged<'a> {
    at: String,
    rules: &'a Rules,
    found: &'a mut Vec<String>,
}

impl Judged<'_> {
    fn refuse(&mut self, what: &str) {
        self.found
            .push(format!("{} asks for {what}: not allowed", self.at));
    }

    fn image(&mut self, image: &Image) {
        let source = match &image.archive {
            Some(_) => ARCHIVES,
            None => registry(&image.reference),
        };
        if !any(&self.rules.registries, source) {
            self.refuse(&format!("an image from the registry {source:?}"));
        }
        if !any(&self.rules.images, &image.reference) {
            self.refuse(&format!("the image {:?}", image.reference));
        }
    }

    fn privileges(&mut self, service: &Service) {
        if service.privileged && !self.rules.privileged {
            self.refuse("privileged mode");
        }
        for capability in &service.cap_add {
            let plain = capability.to_ascii_uppercase();
            let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
            if !self.rules.cap_add.iter().any(|allowed| allowed == plain) {
                self.refuse(&format!("the capability {plain}"));
            }
        }
        for option in &service.security_opt {
            if !any(&self.rules.security_opt, option) {
                self.refuse(&format!("the security option {option:?}"));
            }
        }
        for name in service.sysctls.keys() {
            if !any(&self.rules.sysctls, name) {
                self.refuse(&format!("the kernel parameter {name:?}"));
            }
        }
        for device in &service.devices {
            let climbs = !protocol::deployment::spec::is_plain_absolute(&device.source);
            if climbs || !any(&self.rules.devices, &device.source) {
                self.refuse(&format!("the device {:?}", device.source));
            }
        }
    }

    fn path(&mut self, path: &str, resolved: &Resolved, sockets: &[PathBuf]) {
        let real = match resolved.get(path) {
            Some(Ok(real)) => real,
            Some(Err(reason)) => {
                self.refuse(&format!(
                    "the path {path:?}, which cannot be resolved ({reason})"
                ));
                return;
            }
            None => {
                self.refuse(&format!("the path {path:?}, which was not resolved"));
                return;
            }
        };
        if sockets.iter().any(|socket| socket.starts_with(real)) {
            let exactly = sockets.iter().any(|socket| socket == real);
            if exactly && self.rules.docker_socket {
                return;
            }
            if !self.rules.docker_socket {
                self.refuse(&format!("the container engine's socket, by {path:?}"));
                return;
            }
        }
        if !is_below(real, &self.rules.host_paths) {
            let leads = if real == Path::new(path) {
                String::new()
            } else {
                format!(", which leads to {:?}", real.display().to_string())
            };
            self.refuse(&format!("the path {path:?}{leads}"));
        }
    }

    fn volume(
        &mut self,
        volume: &protocol::deployment::spec::Volume,
        resolved: &Resolved,
        sockets: &[PathBuf],
    ) {
        let Some(device) = volume.options.get("device") else {
            return;
        };
        let kind = volume.options.get("type").map_or("", String::as_str);
        let bind = volume.options.get("o").is_some_and(|options| {
            options
                .split(',')
                .any(|option| option.trim().ends_with("bind"))
        });
        if bind || kind == "none" || kind.is_empty() {
            self.path(device, resolved, sockets);
        } else if !VOLUME_TYPES.contains(&kind) {
            self.refuse(&format!("a volume of type {kind:?} on {device:?}"));
        }
    }
}

/// Whether a resolved path is one of the roots or lies below one.
#[must_use]
pub fn is_below(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| path.starts_with(root))
}

fn any(patterns: &[String], text: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, text))
}

/// Whether a text is the pattern's, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}
