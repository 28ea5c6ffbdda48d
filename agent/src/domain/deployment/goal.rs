//! What a revision means on a node: which containers, from which images, on which
//! networks, and when two containers are the same.
//!
//! A service's hash covers everything that its container is made from. Empty
//! values are left out of it, so a field that a later version adds at its default
//! changes no hash, and an update of the agent restarts nothing.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use protocol::deployment::desired::Target;
use protocol::deployment::spec::{
    FileMount, HealthTest, Image, MountSource, Network, NetworkMode, Port, Service, Spec,
};
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::{Value, json};

use super::observed::{FileCopy, Settings};

/// Characters of a hash that tell two definitions apart.
const HASH_CHARS: usize = 16;

/// Characters of a hash in a network's name.
const NETWORK_HASH_CHARS: usize = 8;

/// The repository under which images from archives are tagged.
const ARCHIVE_REPOSITORY: &str = "flotilla-archive";

/// A revision as it is to be on a node.
#[derive(Clone, Debug)]
pub struct Goal<'a> {
    /// What the engine's names of its objects begin with.
    pub stem: &'a str,
    /// The revision.
    pub target: &'a Target,
    /// Each service's container.
    pub services: BTreeMap<&'a str, Wanted<'a>>,
    /// The order in which services are started.
    pub order: Vec<&'a str>,
}

/// The container of a service.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// What it is made from.
    pub service: &'a Service,
    /// The digest of that.
    pub hash: String,
    /// The image, as the engine is asked for it.
    pub image: String,
}

impl<'a> Goal<'a> {
    /// What `target` means, for objects whose names begin with `stem`.
    #[must_use]
    pub fn new(stem: &'a str, target: &'a Target) -> Self {
        let spec = &target.spec;
        let services = spec
            .services
            .iter()
            .map(|(service_name, service)| {
                let wanted = Wanted {
                    service,
                    hash: service_hash(stem, spec, service),
                    image: image_handle(&service.image),
                };
                (service_name.as_str(), wanted)
            })
            .collect();
        // A spec whose services depend on each other in a circle is refused before
        // anything is planned.
        let order = spec
            .starting_order()
            .unwrap_or_else(|_| spec.services.keys().map(String::as_str).collect());
        Self {
            stem,
            target,
            services,
            order,
        }
    }

    /// The name of a service's container.
    #[must_use]
    pub fn container_name(&self, service: &str) -> String {
        container_name(self.stem, service, self.target.revision)
    }

    /// The networks that the services use: the engine's name, the definition, and
    /// whether it is the deployment's own.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<String, &'a Network> {
        let spec = &self.target.spec;
        self.services
            .values()
            .filter_map(|wanted| match &wanted.service.network {
                NetworkMode::Networks(networks) => Some(networks.keys()),
                NetworkMode::None | NetworkMode::Host => None,
            })
            .flatten()
            .filter_map(|name| Some((name, spec.networks.get(name)?)))
            .map(|(name, network)| (network_name(self.stem, name, network), network))
            .collect()
    }

    /// The named volumes that the services use, by the engine's name.
    #[must_use]
    pub fn volumes(&self) -> BTreeMap<String, &'a protocol::deployment::spec::Volume> {
        let spec = &self.target.spec;
        self.services
            .values()
            .flat_map(|wanted| wanted.service.mounts.values())
            .filter_map(|mount| match &mount.source {
                MountSource::Volume(name) => Some((name, spec.volumes.get(name)?)),
                MountSource::Bind(_) | MountSource::Anonymous | MountSource::Tmpfs { .. } => None,
            })
            .map(|(name, volume)| (volume_name(self.stem, name, volume), volume))
            .collect()
    }

    /// The copies of files that the services mount.
    #[must_use]
    pub fn files(&self) -> BTreeMap<FileCopy, &'a str> {
        self.services
            .values()
            .flat_map(|wanted| wanted.service.files.values())
            .filter_map(|mount| Some((file_copy(&self.target.spec, mount)?, mount.file.as_str())))
            .collect()
    }

    /// What a service's container is set to, as far as a hand can change it.
    #[must_use]
    pub fn settings(&self, service: &str, wanted: &Wanted<'_>, revision: u32) -> Settings {
        let resources = wanted.service.resources;
        Settings {
            name: container_name(self.stem, service, revision),
            memory_bytes: resources.memory_bytes.unwrap_or(0),
            memory_reservation_bytes: resources.memory_reservation_bytes.unwrap_or(0),
            nano_cpus: resources.nano_cpus.unwrap_or(0),
            pids: resources.pids.unwrap_or(0),
            restart: wanted.service.restart,
            networks: self.networks_of(wanted.service),
        }
    }

    /// The engine's names of the networks that a service is on.
    #[must_use]
    pub fn networks_of(&self, service: &Service) -> BTreeSet<String> {
        match &service.network {
            NetworkMode::Networks(networks) => networks
                .keys()
                .filter_map(|name| {
                    let network = self.target.spec.networks.get(name)?;
                    Some(network_name(self.stem, name, network))
                })
                .collect(),
            NetworkMode::None | NetworkMode::Host => BTreeSet::new(),
        }
    }

    /// Services that others wait to see completed: they run once.
    #[must_use]
    pub fn runs_once(&self, service: &str) -> bool {
        self.services.values().any(|wanted| {
            wanted.service.depends_on.get(service)
                == Some(&protocol::deployment::spec::Condition::Completed)
        })
    }
}

/// What the engine's names of a deployment's containers, networks and volumes begin
/// with. The prefix is the agent's own, so that several agents can share an engine.
#[must_use]
pub fn stem(prefix: &str, deployment: &str) -> String {
    format!("{prefix}-{deployment}")
}

/// The name of a service's container in a revision.
#[must_use]
pub fn container_name(stem: &str, service: &str, revision: u32) -> String {
    format!("{stem}-{service}-{revision}")
}

/// The engine's name of a network. It changes with the definition, since an
/// engine cannot change a network that is in use.
#[must_use]
pub fn network_name(stem: &str, name: &str, network: &Network) -> String {
    match &network.external {
        Some(external) => external.clone(),
        None => {
            let hash: String = hash(network).chars().take(NETWORK_HASH_CHARS).collect();
            format!("{stem}-{name}-{hash}")
        }
    }
}

/// The engine's name of a volume, the same in every revision.
#[must_use]
pub fn volume_name(stem: &str, name: &str, volume: &protocol::deployment::spec::Volume) -> String {
    volume
        .external
        .clone()
        .unwrap_or_else(|| format!("{stem}-{name}"))
}

/// The copy of a file that a mount needs.
#[must_use]
pub fn file_copy(spec: &Spec, mount: &FileMount) -> Option<FileCopy> {
    let file = spec.files.get(&mount.file)?;
    Some(FileCopy {
        digest: file.digest.clone(),
        mode: mount.mode,
        owner: mount.owner.unwrap_or((0, 0)),
    })
}

/// How the engine is asked for an image: by its digest where it is pinned, by a tag
/// of our own where it came from an archive.
#[must_use]
pub fn image_handle(image: &Image) -> String {
    if let Some(archive) = &image.archive {
        let named = format!("{archive}\0{}", image.reference);
        let tag = HEXLOWER.encode(digest(&SHA256, named.as_bytes()).as_ref());
        return format!("{ARCHIVE_REPOSITORY}:{tag}");
    }
    match &image.digest {
        Some(digest) => format!("{}@{digest}", repository(&image.reference)),
        None => image.reference.clone(),
    }
}

/// A reference without tag and digest.
#[must_use]
pub fn repository(reference: &str) -> &str {
    let plain = reference
        .split_once('@')
        .map_or(reference, |(before, _)| before);
    match plain.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        Some(_) | None => plain,
    }
}

/// The registry of a reference that has it spelled out.
#[must_use]
pub fn registry(reference: &str) -> &str {
    reference.split_once('/').map_or("", |(first, _)| first)
}

fn service_hash(stem: &str, spec: &Spec, service: &Service) -> String {
    let networks: BTreeMap<&String, String> = match &service.network {
        NetworkMode::Networks(names) => names
            .keys()
            .filter_map(|name| {
                let network = spec.networks.get(name)?;
                Some((name, network_name(stem, name, network)))
            })
            .collect(),
        NetworkMode::None | NetworkMode::Host => BTreeMap::new(),
    };
    let files: Vec<&str> = service
        .files
        .values()
        .filter_map(|mount| Some(spec.files.get(&mount.file)?.digest.as_str()))
        .collect();
    hash(&json!({ "service": service, "networks": networks, "files": files }))
}

/// The digest of a definition, without what is empty in it.
fn hash(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap_or(Value::Null);
    prune(&mut value);
    let digest = digest(&SHA256, value.to_string().as_bytes());
    HEXLOWER
        .encode(digest.as_ref())
        .chars()
        .take(HASH_CHARS)
        .collect()
}

fn prune(value: &mut Value) {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether two services cannot run at the same time: they publish the same port,
/// share the node's network or a device, or write to the same place.
#[must_use]
pub fn conflicts(old: &Service, new: &Service) -> bool {
    let both_host = old.network == NetworkMode::Host && new.network == NetworkMode::Host;
    both_host || share_a_port(&old.ports, &new.ports) || share_a_device(old, new) || {
        old.mounts.values().any(|a| {
            !a.read_only
                && new
                    .mounts
                    .values()
                    .any(|b| !b.read_only && is_same_place(&a.source, &b.source))
        })
    }
}

fn share_a_port(old: &[Port], new: &[Port]) -> bool {
    old.iter().any(|a| {
        new.iter().any(|b| {
            let address = match (&a.host_ip, &b.host_ip) {
                (Some(a), Some(b)) => a == b || is_any(a) || is_any(b),
                (None, _) | (_, None) => true,
            };
            a.published.is_some()
                && a.published == b.published
                && a.protocol == b.protocol
                && address
        })
    })
}

fn is_any(address: &str) -> bool {
    matches!(address, "" | "0.0.0.0" | "::" | "[::]")
}

fn share_a_device(old: &Service, new: &Service) -> bool {
    old.devices
        .iter()
        .any(|a| new.devices.iter().any(|b| a.source == b.source))
}

fn is_same_place(a: &MountSource, b: &MountSource) -> bool {
    match (a, b) {
        (MountSource::Volume(a), MountSource::Volume(b))
        | (MountSource::Bind(a), MountSource::Bind(b)) => a == b,
        (
            MountSource::Volume(_)
            | MountSource::Bind(_)
            | MountSource::Anonymous
            | MountSource::Tmpfs { .. },
            _,
        ) => false,
    }
}

/// Whether a service's health is checked, as far as the spec says.
#[must_use]
pub fn checks_health(service: &Service) -> bool {
    service
        .healthcheck
        .as_ref()
        .is_some_and(|check| check.test != HealthTest::Disabled)
}
