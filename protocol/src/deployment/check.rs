//! What a spec must hold to, whichever side of the wire reads it.
//!
//! The controller checks before it makes a revision, and a node before it acts: a
//! spec that no engine could run, or that says two things at once, is refused with
//! the place of its first fault, as a path in the Compose file's own words, rather
//! than failing half-way on a thousand nodes.
//!
//! What a node's own policy forbids (privileges, paths, registries) is not checked
//! here: it differs from node to node.

use core::net::IpAddr;
use std::collections::BTreeMap;

use super::limit::{
    FILE_BYTES_MAX, FILES_COUNT_MAX, HEALTH_TIME_MAX, HOSTNAME_BYTES_MAX, HOSTNAME_PART_BYTES_MAX,
    LIST_COUNT_MAX, MEMORY_BYTES_MIN, NAME_BYTES_MAX, RESOURCES_COUNT_MAX, SERVICES_COUNT_MAX,
    SPEC_BYTES_MAX, TEXT_BYTES_MAX,
};
use super::spec::{
    Condition, File, HealthTest, Healthcheck, MountSource, NetworkMode, Port, PortProtocol,
    Resources, Restart, Service, Spec, SpecError, is_name, is_plain_absolute,
};
use crate::time;

/// The highest mode bits: permissions with set-user, set-group and sticky.
const MODE_MAX: u32 = 0o7777;

/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

impl Spec {
    /// Checks names, sizes, forms, references between parts, that lists are in
    /// normal form, that no two services want the same port of the node, and that
    /// what services depend on has no circle and can come true.
    ///
    /// # Errors
    /// The first thing that is wrong, with where it is.
    pub fn check(&self) -> Result<(), SpecError> {
        bounded("services", self.services.len(), SERVICES_COUNT_MAX)?;
        bounded("networks", self.networks.len(), RESOURCES_COUNT_MAX)?;
        bounded("volumes", self.volumes.len(), RESOURCES_COUNT_MAX)?;
        bounded("files", self.files.len(), FILES_COUNT_MAX)?;
        require(!self.services.is_empty(), "services", || {
            "are none; give at least one".to_owned()
        })?;
        names("networks", &self.networks)?;
        names("volumes", &self.volumes)?;
        names("files", &self.files)?;
        names("services", &self.services)?;
        self.check_resources()?;
        for (name, service) in &self.services {
            let at = format!("services.{name}");
            check_sizes(&at, service)?;
            check_normal(&at, service)?;
            check_forms(&at, service)?;
            check_connections(&at, service)?;
            check_times(&at, service)?;
            check_limits(&at, &service.resources)?;
            self.check_paths(&at, service)?;
            self.check_network(&at, service)?;
        }
        self.check_ports()?;
        self.starting_order()?;
        self.check_conditions()?;
        let bytes = self.encode().len();
        require(bytes <= SPEC_BYTES_MAX, "the project", || {
            format!("has {bytes} bytes in normal form; at most {SPEC_BYTES_MAX}")
        })
    }

    /// Networks, volumes and files.
    fn check_resources(&self) -> Result<(), SpecError> {
        let networks = self.networks.iter().map(|(name, network)| {
            let own = (&network.driver, &network.external);
            (
                format!("networks.{name}"),
                own,
                &network.options,
                &network.labels,
            )
        });
        let volumes = self.volumes.iter().map(|(name, volume)| {
            let own = (&volume.driver, &volume.external);
            (
                format!("volumes.{name}"),
                own,
                &volume.options,
                &volume.labels,
            )
        });
        for (at, (driver, external), options, labels) in networks.chain(volumes) {
            bounded(&format!("{at}.driver_opts"), options.len(), LIST_COUNT_MAX)?;
            bounded(&format!("{at}.labels"), labels.len(), LIST_COUNT_MAX)?;
            texts(&at, pairs(options).chain(pairs(labels)))?;
            texts(&at, driver.iter().chain(external).map(String::as_str))?;
            let set = [driver, external].into_iter().flatten();
            require(set.clone().all(|text| !text.is_empty()), &at, || {
                "has a driver or a name that is empty".to_owned()
            })?;
        }
        for (name, file) in &self.files {
            check_file(&format!("files.{name}"), file)?;
        }
        Ok(())
    }

    /// Where things are mounted, and what.
    fn check_paths(&self, at: &str, service: &Service) -> Result<(), SpecError> {
        let place = format!("{at}.volumes");
        let absolute = |place: &str, what: &str, path: &str| {
            require(is_plain_absolute(path), place, || {
                format!("{what} {path:?} is not an absolute path without `..`")
            })
        };
        for (target, mount) in &service.mounts {
            absolute(&place, "target", target)?;
            match &mount.source {
                MountSource::Volume(name) => {
                    require(self.volumes.contains_key(name), &place, || {
                        format!("name {name:?}, which is no volume")
                    })?;
                }
                MountSource::Bind(path) => absolute(&place, "source", path)?,
                MountSource::Anonymous => {}
                MountSource::Tmpfs { size_bytes, mode } => {
                    require(*size_bytes != Some(0), &place, || {
                        format!("give the tmpfs at {target:?} no bytes")
                    })?;
                    check_mode(&place, target, mode.unwrap_or_default())?;
                }
            }
        }
        for (target, mount) in &service.files {
            let place = format!("{at}.files");
            absolute(&place, "target", target)?;
            require(self.files.contains_key(&mount.file), &place, || {
                format!("name {:?}, which is no config or secret", mount.file)
            })?;
            check_mode(&place, target, mount.mode)?;
        }
        let mut taken: BTreeMap<Vec<&str>, &str> = BTreeMap::new();
        for target in service.mounts.keys().chain(service.files.keys()) {
            let parts = target.split('/').filter(|part| !matches!(*part, "" | "."));
            let parts: Vec<&str> = parts.collect();
            require(!parts.is_empty(), &place, || {
                format!("target {target:?} is the root")
            })?;
            if let Some(other) = taken.insert(parts, target) {
                let problem = format!("mount two things at one path, {other:?} and {target:?}");
                return Err(SpecError::new(place, problem));
            }
        }
        Ok(())
    }

    fn check_network(&self, at: &str, service: &Service) -> Result<(), SpecError> {
        let NetworkMode::Networks(networks) = &service.network else {
            return require(service.ports.is_empty(), &format!("{at}.ports"), || {
                "are published, and the service has no network of its own".to_owned()
            });
        };
        let place = format!("{at}.networks");
        bounded(&place, networks.len(), RESOURCES_COUNT_MAX)?;
        for (name, aliases) in networks {
            require(self.networks.contains_key(name), &place, || {
                format!("name {name:?}, which is no network")
            })?;
            bounded(
                &format!("{place}.{name}.aliases"),
                aliases.len(),
                LIST_COUNT_MAX,
            )?;
            for alias in aliases {
                require(is_hostname(alias), &place, || {
                    format!("give the alias {alias:?}, which is no host name")
                })?;
            }
        }
        Ok(())
    }

    /// No two services, nor one twice, want the same port of the node.
    fn check_ports(&self) -> Result<(), SpecError> {
        let mut taken: BTreeMap<(u16, PortProtocol), Vec<(&Port, &str)>> = BTreeMap::new();
        for (name, service) in &self.services {
            for port in &service.ports {
                let Some(published) = port.published else {
                    continue;
                };
                let others = taken.entry((published, port.protocol)).or_default();
                if let Some((_, other)) = others.iter().find(|(other, _)| overlap(other, port)) {
                    return Err(SpecError::new(
                        format!("services.{name}.ports"),
                        format!("publish {published}, as services.{other} does"),
                    ));
                }
                others.push((port, name));
            }
        }
        Ok(())
    }

    /// What a service waits for must be able to come true.
    fn check_conditions(&self) -> Result<(), SpecError> {
        for (name, service) in &self.services {
            for (needed, condition) in &service.depends_on {
                let Some(other) = self.services.get(needed) else {
                    continue;
                };
                let unchecked = other
                    .healthcheck
                    .as_ref()
                    .is_some_and(|check| check.test == HealthTest::Disabled);
                let endless = matches!(other.restart, Restart::Always | Restart::UnlessStopped);
                let never = match condition {
                    Condition::Started => None,
                    Condition::Healthy => unchecked.then_some("be healthy: its check is disabled"),
                    Condition::Completed => endless.then_some("complete: it is always restarted"),
                };
                if let Some(never) = never {
                    return Err(SpecError::new(
                        format!("services.{name}.depends_on"),
                        format!("waits for {needed:?}, which can never {never}"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Counts of lists, and bytes of texts.
fn check_sizes(at: &str, service: &Service) -> Result<(), SpecError> {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let test: &[String] = match service.healthcheck.as_ref().map(|check| &check.test) {
        Some(HealthTest::Command(command)) => command,
        Some(HealthTest::Shell(line)) => core::slice::from_ref(line),
        Some(HealthTest::Inherit | HealthTest::Disabled) | None => &[],
    };
    let no_options = BTreeMap::new();
    let logging = service.logging.as_ref();
    let options = logging.map_or(&no_options, |logging| &logging.options);
    for (field, count) in [
        ("environment", service.environment.len()),
        ("ports", service.ports.len()),
        ("volumes", service.mounts.len()),
        ("files", service.files.len()),
        ("labels", service.labels.len()),
        ("group_add", service.group_add.len()),
        ("cap_add", service.cap_add.len()),
        ("cap_drop", service.cap_drop.len()),
        ("security_opt", service.security_opt.len()),
        ("ulimits", service.ulimits.len()),
        ("extra_hosts", service.extra_hosts.len()),
        ("dns", service.dns.len()),
        ("sysctls", service.sysctls.len()),
        ("devices", service.devices.len()),
        ("logging.options", options.len()),
        ("command", count(&service.command)),
        ("entrypoint", count(&service.entrypoint)),
        ("healthcheck.test", test.len()),
    ] {
        bounded(&format!("{at}.{field}"), count, LIST_COUNT_MAX)?;
    }
    let maps = [
        &service.environment,
        &service.labels,
        &service.sysctls,
        options,
    ];
    texts(at, maps.into_iter().flat_map(pairs))?;
    let lists = [
        service.command.as_deref().unwrap_or_default(),
        service.entrypoint.as_deref().unwrap_or_default(),
        &service.group_add,
        &service.cap_add,
        &service.cap_drop,
        &service.security_opt,
        test,
    ];
    texts(at, lists.into_iter().flatten().map(String::as_str))?;
    let single = [&service.user, &service.working_dir, &service.stop_signal];
    texts(at, single.into_iter().flatten().map(String::as_str))?;
    texts(at, service.ulimits.keys().map(String::as_str))?;
    texts(at, logging.iter().map(|logging| logging.driver.as_str()))?;
    texts(at, [service.image.reference.as_str()])
}

/// Sets are sorted and without duplicates.
fn check_normal(at: &str, service: &Service) -> Result<(), SpecError> {
    for (field, normal) in [
        ("ports", ascends(&service.ports)),
        ("devices", ascends(&service.devices)),
        ("group_add", ascends(&service.group_add)),
        ("cap_add", ascends(&service.cap_add)),
        ("cap_drop", ascends(&service.cap_drop)),
        ("security_opt", ascends(&service.security_opt)),
    ] {
        require(normal, &format!("{at}.{field}"), || {
            "are not sorted and without duplicates".to_owned()
        })?;
    }
    Ok(())
}

/// Texts that must have a form for the engine to take them.
fn check_forms(at: &str, service: &Service) -> Result<(), SpecError> {
    let form = |field, good, text: &str, wanted| form(at, field, good, text, wanted);
    let image = &service.image;
    let reference = &image.reference;
    let plain = !reference.is_empty() && reference.chars().all(|c| c.is_ascii_graphic());
    form("image", plain, reference, "an image's name")?;
    if let Some(digest) = &image.digest {
        let good = digest.strip_prefix("sha256:").is_some_and(is_sha256);
        form(
            "image",
            good,
            digest,
            "a digest, sha256: and 64 hexadecimal digits",
        )?;
    }
    if let Some(archive) = &image.archive {
        form("image", is_sha256(archive), archive, "an archive's SHA-256")?;
    }
    if let Some(path) = &service.working_dir {
        form(
            "working_dir",
            path.starts_with('/'),
            path,
            "an absolute path",
        )?;
    }
    if let Some(name) = &service.hostname {
        form("hostname", is_hostname(name), name, "a host name")?;
    }
    for (field, map) in [
        ("environment", &service.environment),
        ("labels", &service.labels),
        ("sysctls", &service.sysctls),
    ] {
        for key in map.keys() {
            let good = !key.is_empty() && !key.contains('=');
            form(field, good, key, "a name without `=`")?;
        }
    }
    for capability in service.cap_add.iter().chain(&service.cap_drop) {
        let inside = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let good = !capability.is_empty() && capability.chars().all(inside);
        form("cap_add", good, capability, "a capability in capitals")?;
    }
    if let Some(signal) = &service.stop_signal {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '-';
        let good = !signal.is_empty() && signal.chars().all(inside);
        form("stop_signal", good, signal, "a signal")?;
    }
    if let Some(logging) = &service.logging {
        form("logging", !logging.driver.is_empty(), "", "a driver")?;
    }
    Ok(())
}

/// Names, addresses, ports, devices and limits, likewise.
fn check_connections(at: &str, service: &Service) -> Result<(), SpecError> {
    let form = |field, good, text: &str, wanted| form(at, field, good, text, wanted);
    for (name, address) in &service.extra_hosts {
        form("extra_hosts", is_hostname(name), name, "a host name")?;
        let good = address == "host-gateway" || is_address(address);
        form("extra_hosts", good, address, "an address or host-gateway")?;
    }
    for address in &service.dns {
        form("dns", is_address(address), address, "an address")?;
    }
    for port in &service.ports {
        let good = port.target != 0 && port.published != Some(0);
        form("ports", good, "0", "a port")?;
        if let Some(address) = &port.host_ip {
            form("ports", is_address(address), address, "an address")?;
        }
    }
    for device in &service.devices {
        for path in [&device.source, &device.target] {
            form("devices", is_plain_absolute(path), path, "an absolute path")?;
        }
        let permissions = &device.permissions;
        let good = !permissions.is_empty() && permissions.chars().all(|c| "rwm".contains(c));
        form("devices", good, permissions, "of r, w and m")?;
    }
    for (name, (soft, hard)) in &service.ulimits {
        let below = *hard == -1 || (*soft != -1 && soft <= hard);
        let good = !name.is_empty() && *soft >= -1 && *hard >= -1 && below;
        let text = format!("{name}: {soft}, {hard}");
        form(
            "ulimits",
            good,
            &text,
            "a soft limit at or below a hard one",
        )?;
    }
    Ok(())
}

fn form(at: &str, field: &str, good: bool, text: &str, wanted: &str) -> Result<(), SpecError> {
    require(good, &format!("{at}.{field}"), || {
        format!("has {:?}, which is not {wanted}", shown(text))
    })
}

fn check_times(at: &str, service: &Service) -> Result<(), SpecError> {
    let no_times = [None, None, None];
    let times = service.healthcheck.as_ref().map_or(
        no_times,
        |Healthcheck {
             test: _,
             interval_ms,
             timeout_ms,
             retries: _,
             start_period_ms,
         }| [*interval_ms, *timeout_ms, *start_period_ms],
    );
    let most = time::millis(HEALTH_TIME_MAX);
    for ms in times.into_iter().flatten().chain([service.stop_grace_ms]) {
        require(ms <= most, at, || {
            format!("has a time of {ms} ms; at most {most}")
        })?;
    }
    let empty = match service.healthcheck.as_ref().map(|check| &check.test) {
        Some(HealthTest::Command(command)) => command.first().is_none_or(String::is_empty),
        Some(HealthTest::Shell(line)) => line.is_empty(),
        Some(HealthTest::Inherit | HealthTest::Disabled) | None => false,
    };
    require(!empty, &format!("{at}.healthcheck"), || {
        "has an empty test".to_owned()
    })
}

fn check_limits(at: &str, resources: &Resources) -> Result<(), SpecError> {
    let Resources {
        memory_bytes,
        memory_reservation_bytes,
        nano_cpus,
        pids,
        shm_bytes,
    } = *resources;
    let least = |field: &str, value: Option<u64>, least: u64| {
        require(
            value.is_none_or(|value| value >= least),
            &format!("{at}.{field}"),
            || format!("is {}; at least {least}", value.unwrap_or_default()),
        )
    };
    least("mem_limit", memory_bytes, MEMORY_BYTES_MIN)?;
    least(
        "mem_reservation",
        memory_reservation_bytes,
        MEMORY_BYTES_MIN,
    )?;
    least("cpus", nano_cpus, 1)?;
    least("pids", pids, 1)?;
    least("shm_size", shm_bytes, 1)?;
    let kept = memory_reservation_bytes.zip(memory_bytes);
    require(
        kept.is_none_or(|(kept, limit)| kept <= limit),
        &format!("{at}.mem_reservation"),
        || "is above mem_limit".to_owned(),
    )
}

fn check_file(at: &str, file: &File) -> Result<(), SpecError> {
    require(is_sha256(&file.digest), at, || {
        format!(
            "has the digest {:?}, which is no SHA-256",
            shown(&file.digest)
        )
    })?;
    let bytes = usize::try_from(file.size_bytes).unwrap_or(usize::MAX);
    require(bytes <= FILE_BYTES_MAX, at, || {
        format!("has {bytes} bytes; at most {FILE_BYTES_MAX}")
    })
}

fn check_mode(place: &str, target: &str, mode: u32) -> Result<(), SpecError> {
    require(mode <= MODE_MAX, place, || {
        format!("give {target:?} the mode {mode:o}; at most {MODE_MAX:o}")
    })
}

/// Whether two ports of the same number and protocol listen on a common address.
fn overlap(one: &Port, other: &Port) -> bool {
    let address = |port: &Port| {
        let address = port.host_ip.as_ref()?.parse::<IpAddr>().ok()?;
        (!address.is_unspecified()).then_some(address)
    };
    match (address(one), address(other)) {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    }
}

fn ascends<T: Ord>(list: &[T]) -> bool {
    list.windows(2).all(|pair| matches!(pair, [a, b] if a < b))
}

fn is_sha256(text: &str) -> bool {
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    text.len() == SHA256_DIGITS && text.chars().all(digit)
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Parts of letters, digits, `-` and `_` that start and end with a letter or digit,
/// joined by points. `_` is beyond RFC 1123; service names have it.
fn is_hostname(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    text.len() <= HOSTNAME_BYTES_MAX
        && text.split('.').all(|part| {
            part.len() <= HOSTNAME_PART_BYTES_MAX
                && part.starts_with(end)
                && part.ends_with(end)
                && part.chars().all(|c| end(c) || c == '-' || c == '_')
        })
}

fn pairs(map: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    map.iter().flat_map(|(key, value)| [key.as_str(), value])
}

fn texts<'a>(at: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<(), SpecError> {
    texts.into_iter().try_for_each(|text| {
        require(
            text.len() <= TEXT_BYTES_MAX && !text.contains('\0'),
            at,
            || {
                format!(
                    "has a text of {} bytes or with a NUL; at most {TEXT_BYTES_MAX} bytes",
                    text.len()
                )
            },
        )
    })
}

fn bounded(subject: &str, count: usize, most: usize) -> Result<(), SpecError> {
    require(count <= most, subject, || {
        format!("are {count}; at most {most}")
    })
}

fn names<T>(kind: &str, parts: &BTreeMap<String, T>) -> Result<(), SpecError> {
    parts.keys().try_for_each(|name| {
        require(is_name(name), kind, || {
            format!(
                "have {:?}: a name is 1 to {NAME_BYTES_MAX} of a-z 0-9 - _ that starts and ends with a letter or digit",
                shown(name)
            )
        })
    })
}

fn require(holds: bool, subject: &str, problem: impl FnOnce() -> String) -> Result<(), SpecError> {
    holds
        .then_some(())
        .ok_or_else(|| SpecError::new(subject, problem()))
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> String {
    text.chars().take(2 * NAME_BYTES_MAX).collect()
}
