//! The top level of a Compose file.

use std::collections::{BTreeMap, BTreeSet};

use protocol::deployment::limit::{NAME_BYTES_MAX, SERVICES_COUNT_MAX};
use protocol::deployment::spec::{
    Condition, File, FileKind, HealthTest, MountSource, Network, NetworkMode, Service, Spec,
    Volume, is_name,
};

use super::problem::shown;
use super::reader::{Item, Reader, Table};
use super::yaml::Node;
use super::{Content, Project, Purpose, key, port, service};

/// The network that services join when they say nothing.
pub(super) const DEFAULT: &str = "default";

/// The engine's own bridge, by which it is external.
pub(super) const BRIDGE: &str = "bridge";

/// What the top level declares, for services to name.
#[derive(Default)]
pub(super) struct Declared {
    pub(super) networks: BTreeSet<String>,
    pub(super) volumes: BTreeSet<String>,
    pub(super) files: BTreeMap<String, FileKind>,
}

/// Reads the file. What is wrong with it is with the reader; what is returned then
/// means nothing.
pub(super) fn read(reader: &mut Reader<'_>, root: &Node) -> Option<Project> {
    let root = Item::root(root);
    let mut table = reader.table(&root)?;
    // It says which version of Compose's format this is. There is one now.
    let _obsolete = table.take("version");
    let name = reader.take_parsed(&mut table, "name", |name| {
        if is_name(name) {
            Ok(name.to_owned())
        } else {
            Err(not_a_name(name))
        }
    });
    let mut networks = networks(reader, &mut table);
    let volumes = volumes(reader, &mut table);
    let (files, contents) = files(reader, &mut table);
    let mut declared = Declared {
        networks: networks.keys().cloned().collect(),
        volumes: volumes.keys().cloned().collect(),
        files: files.iter().map(|(n, f)| (n.clone(), f.kind)).collect(),
    };
    declared.networks.insert(DEFAULT.to_owned());
    networks.entry(DEFAULT.to_owned()).or_default();

    let entries = services(reader, &mut table);
    let mut services = BTreeMap::new();
    for (name, item) in &entries {
        if let Some(service) = service::read(reader, item, &declared) {
            services.insert(name.clone(), service);
        }
    }
    bridge(reader, &root, &services, &mut networks);
    reader.finish(table, key::PROJECT);
    together(reader, &entries, &services);

    let mut spec = used(Spec {
        services,
        networks,
        volumes,
        files,
    });
    spec.normalise();
    // What holds of a spec whoever made it; the rules above should leave nothing.
    if reader.is_sound()
        && let Err(error) = spec.check()
    {
        let item = entries
            .iter()
            .map(|(_, item)| item)
            .find(|item| error.subject.starts_with(&item.path))
            .unwrap_or(&root);
        reader.invalid(item, format!("cannot be run: {error}"));
    }
    let digests: BTreeSet<&String> = spec.files.values().map(|file| &file.digest).collect();
    let contents = contents
        .into_iter()
        .filter(|(digest, _)| digests.contains(digest))
        .collect();
    Some(Project {
        name,
        spec,
        contents,
    })
}

fn not_a_name(name: &str) -> String {
    format!(
        "{} is no name: 1 to {NAME_BYTES_MAX} of a-z 0-9 - _, with a letter or digit at both ends",
        shown(name)
    )
}

/// The entries of a top-level map whose names are checked.
fn named<'n>(reader: &mut Reader<'_>, item: &Item<'n>) -> Vec<(String, Item<'n>)> {
    let mut entries = reader.entries(item);
    entries.retain(|(name, item)| {
        let good = is_name(name);
        if !good {
            reader.invalid(item, not_a_name(name));
        }
        good
    });
    entries
}

fn services<'n>(reader: &mut Reader<'_>, table: &mut Table<'n>) -> Vec<(String, Item<'n>)> {
    let Some(item) = reader.require(table, "services") else {
        return Vec::new();
    };
    let mut entries = named(reader, &item);
    if entries.is_empty() {
        reader.invalid(&item, "are none; give at least one");
    }
    if entries.len() > SERVICES_COUNT_MAX {
        let count = entries.len();
        reader.invalid(&item, format!("are {count}; at most {SERVICES_COUNT_MAX}"));
        entries.clear();
    }
    entries
}

fn networks(reader: &mut Reader<'_>, table: &mut Table<'_>) -> BTreeMap<String, Network> {
    let mut found = BTreeMap::new();
    let Some(item) = table.take("networks") else {
        return found;
    };
    for (name, item) in named(reader, &item) {
        let network = network(reader, &item, &name).unwrap_or_default();
        found.insert(name, network);
    }
    found
}

fn network(reader: &mut Reader<'_>, item: &Item<'_>, name: &str) -> Option<Network> {
    if item.is_null() {
        return Some(Network::default());
    }
    let mut table = reader.table(item)?;
    let external = external(reader, &mut table, name);
    let network = Network {
        driver: reader.take_text(&mut table, "driver"),
        options: reader.take_map(&mut table, "driver_opts"),
        internal: reader.take_flag(&mut table, "internal"),
        labels: reader.take_map(&mut table, "labels"),
        external,
    };
    let own = Network {
        external: None,
        ..network.clone()
    };
    if network.external.is_some() && own != Network::default() {
        reader.invalid(
            item,
            "is external: nothing else can be said of it but `name`",
        );
    }
    reader.finish(table, key::NETWORK);
    Some(network)
}

fn volumes(reader: &mut Reader<'_>, table: &mut Table<'_>) -> BTreeMap<String, Volume> {
    let mut found = BTreeMap::new();
    let Some(item) = table.take("volumes") else {
        return found;
    };
    for (name, item) in named(reader, &item) {
        let volume = volume(reader, &item, &name).unwrap_or_default();
        found.insert(name, volume);
    }
    found
}

fn volume(reader: &mut Reader<'_>, item: &Item<'_>, name: &str) -> Option<Volume> {
    if item.is_null() {
        return Some(Volume::default());
    }
    let mut table = reader.table(item)?;
    let external = external(reader, &mut table, name);
    let volume = Volume {
        driver: reader.take_text(&mut table, "driver"),
        options: reader.take_map(&mut table, "driver_opts"),
        labels: reader.take_map(&mut table, "labels"),
        external,
    };
    let own = Volume {
        external: None,
        ..volume.clone()
    };
    if volume.external.is_some() && own != Volume::default() {
        reader.invalid(
            item,
            "is external: nothing else can be said of it but `name`",
        );
    }
    reader.finish(table, key::VOLUME);
    Some(volume)
}

/// The name of something that is there already: `external: true`, with the key's
/// name or with `name`; or in the old way, `external: {name: …}`.
fn external(reader: &mut Reader<'_>, table: &mut Table<'_>, name: &str) -> Option<String> {
    let item = table.take("external")?;
    if item.is_map() {
        let mut inner = reader.table(&item)?;
        let said = reader.take_text(&mut inner, "name");
        reader.finish(inner, &[]);
        return Some(said.unwrap_or_else(|| name.to_owned()));
    }
    if !reader.flag(&item)? {
        return None;
    }
    let said = reader.take_text(table, "name");
    Some(said.unwrap_or_else(|| name.to_owned()))
}

type Files = BTreeMap<String, File>;
type ContentsByDigest = BTreeMap<String, Content>;

fn files(reader: &mut Reader<'_>, table: &mut Table<'_>) -> (Files, ContentsByDigest) {
    let mut files = Files::new();
    let mut contents = ContentsByDigest::new();
    for (key, kind) in [("configs", FileKind::Config), ("secrets", FileKind::Secret)] {
        let Some(item) = table.take(key) else {
            continue;
        };
        for (name, item) in reader.entries(&item) {
            if !is_file_name(&name) {
                let text = format!(
                    "{} is no name: 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . - _, with a letter or digit in front",
                    shown(&name)
                );
                reader.invalid(&item, text);
                continue;
            }
            let file = file(reader, &item, &name, kind, &mut contents);
            // With something wrong it is still declared, so that services may
            // name it.
            let file = file.unwrap_or(File {
                kind,
                digest: String::new(),
                size_bytes: 0,
            });
            if files.insert(name, file).is_some() {
                reader.invalid(
                    &item,
                    "has the name of a config; a node has one name for both",
                );
            }
        }
    }
    (files, contents)
}

fn is_file_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

fn file(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    name: &str,
    kind: FileKind,
    contents: &mut ContentsByDigest,
) -> Option<File> {
    let mut table = reader.table(item)?;
    let (path, variable) = (table.take("file"), table.take("environment"));
    let inline = match kind {
        FileKind::Config => table.take("content"),
        FileKind::Secret => None,
    };
    let own = external(reader, &mut table, name);
    let sources = [
        path.is_some(),
        variable.is_some(),
        inline.is_some(),
        own.is_some(),
    ];
    if sources.into_iter().filter(|given| *given).count() != 1 {
        let text = "comes from exactly one of `file`, `environment` and `external`";
        reader.invalid(item, text);
    }
    reader.finish(table, key::FILE);
    if let Some(own) = own {
        return stored(reader, item, kind, &own);
    }
    let bytes = if let Some(item) = path {
        let purpose = match kind {
            FileKind::Config => Purpose::Config,
            FileKind::Secret => Purpose::Secret,
        };
        let path = reader.text(&item)?;
        reader.file(&item, &path, purpose, false)?
    } else if let Some(item) = variable {
        let name = reader.text(&item)?;
        let Some(value) = reader.variable(&name) else {
            reader.invalid(
                &item,
                format!("names the variable {}, which is not given", shown(&name)),
            );
            return None;
        };
        reader.bounded_content(&item, value.into_bytes().into())?
    } else {
        let item = inline?;
        let text = reader.text(&item)?;
        reader.bounded_content(&item, text.into_bytes().into())?
    };
    let digest = reader.contents.digest(kind, &bytes);
    let size_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    contents.insert(digest.clone(), Content { kind, bytes });
    Some(File {
        kind,
        digest,
        size_bytes,
    })
}

/// A config or secret of Flotilla's own.
fn stored(reader: &mut Reader<'_>, item: &Item<'_>, kind: FileKind, name: &str) -> Option<File> {
    let Some(named) = reader.contents.named(kind, name) else {
        let what = match kind {
            FileKind::Config => "config",
            FileKind::Secret => "secret",
        };
        reader.invalid(
            item,
            format!("names {}, and Flotilla has no such {what}", shown(name)),
        );
        return None;
    };
    Some(File {
        kind,
        digest: named.digest,
        size_bytes: named.size_bytes,
    })
}

/// Declares the engine's own bridge when a service joins it.
fn bridge(
    reader: &mut Reader<'_>,
    root: &Item<'_>,
    services: &BTreeMap<String, Service>,
    networks: &mut BTreeMap<String, Network>,
) {
    let joins = |service: &Service| match &service.network {
        NetworkMode::Networks(networks) => networks.contains_key(BRIDGE),
        NetworkMode::None | NetworkMode::Host => false,
    };
    let engines = Network {
        external: Some(BRIDGE.to_owned()),
        ..Network::default()
    };
    if !services.values().any(joins) {
        return;
    }
    if let Some(declared) = networks.get(BRIDGE)
        && *declared != engines
    {
        reader.invalid(
            root,
            "declares a network `bridge`, which is the name of the engine's own; name it otherwise",
        );
    }
    networks.insert(BRIDGE.to_owned(), engines);
}

/// What holds of services together: dependencies and published ports.
fn together(
    reader: &mut Reader<'_>,
    entries: &[(String, Item<'_>)],
    services: &BTreeMap<String, Service>,
) {
    let mut taken = port::Taken::default();
    for (name, item) in entries {
        let Some(service) = services.get(name) else {
            continue;
        };
        for (needed, condition) in &service.depends_on {
            let Some(other) = services.get(needed) else {
                let known = entries.iter().any(|(name, _)| name == needed);
                if !known {
                    let text = format!("depends on {}, which is no service", shown(needed));
                    reader.invalid(item, text);
                }
                continue;
            };
            let untested = other
                .healthcheck
                .as_ref()
                .is_some_and(|check| check.test == HealthTest::Disabled);
            if *condition == Condition::Healthy && untested {
                let text =
                    format!("waits until {needed} is healthy, whose health check is disabled");
                reader.invalid(item, text);
            }
        }
        let other = service
            .ports
            .iter()
            .find_map(|port| Some((port.published?, taken.take(port, name)?)));
        if let Some((port, other)) = other {
            let text = format!("publishes port {port}, which {other} publishes too");
            reader.invalid(item, text);
        }
    }
    if let Some(circle) = circle(services)
        && let Some((_, item)) = entries
            .iter()
            .find(|(name, _)| circle.first() == Some(name))
    {
        let mut names = circle.clone();
        names.extend(circle.first().cloned());
        let text = format!("depends on itself: {}", names.join(" → "));
        reader.invalid(item, text);
    }
}

/// Services that depend on each other in a circle, in that order; none when there
/// is no circle.
fn circle(services: &BTreeMap<String, Service>) -> Option<Vec<String>> {
    // What depends only on what is out of the question is so itself; what is left
    // in the end leads into a circle.
    let mut left: BTreeSet<&String> = services.keys().collect();
    let leads = |left: &BTreeSet<&String>, name: &String| {
        services.get(name).and_then(|service| {
            service
                .depends_on
                .keys()
                .find(|n| left.contains(n))
                .cloned()
        })
    };
    loop {
        let before = left.len();
        let still: BTreeSet<&String> = left
            .iter()
            .copied()
            .filter(|name| leads(&left, name).is_some())
            .collect();
        left = still;
        if left.len() == before {
            break;
        }
    }
    let mut way: Vec<String> = vec![(*left.first()?).clone()];
    loop {
        let next = leads(&left, way.last()?)?;
        if let Some(start) = way.iter().position(|name| *name == next) {
            return way.get(start..).map(<[String]>::to_vec);
        }
        way.push(next);
    }
}

/// Without networks, volumes and files that no service uses, as Compose makes
/// none of those.
fn used(mut spec: Spec) -> Spec {
    let mut networks = BTreeSet::new();
    let mut volumes = BTreeSet::new();
    let mut files = BTreeSet::new();
    for service in spec.services.values() {
        if let NetworkMode::Networks(joined) = &service.network {
            networks.extend(joined.keys());
        }
        for mount in service.mounts.values() {
            if let MountSource::Volume(name) = &mount.source {
                volumes.insert(name);
            }
        }
        files.extend(service.files.values().map(|mount| &mount.file));
    }
    spec.networks.retain(|name, _| networks.contains(name));
    spec.volumes.retain(|name, _| volumes.contains(name));
    spec.files.retain(|name, _| files.contains(name));
    spec
}
