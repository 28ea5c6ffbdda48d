//! One service of a Compose file.

use core::net::IpAddr;
use std::collections::BTreeMap;

use protocol::deployment::limit::HEALTH_TIME_MAX;
use protocol::deployment::spec::{
    Condition, Device, FileKind, FileMount, HealthTest, Healthcheck, Image, Logging, NetworkMode,
    Restart, Service,
};

use super::env_file::{self, Format};
use super::problem::{Place, Problem, ProblemKind, shown};
use super::project::{BRIDGE, DEFAULT, Declared};
use super::reader::{Item, Reader, Table};
use super::{Purpose, image, key, mount, port, quantity, resource, words};

/// How long a container has to stop when nothing is said, as in Compose.
const STOP_GRACE_MS: u64 = 10_000;

/// Where configs and secrets without a target are mounted, and with which mode.
const SECRETS_FOLDER: &str = "/run/secrets";
const FILE_MODE: u32 = 0o444;

/// Reads a service. What is wrong with it is with the reader; what is returned
/// then means nothing.
pub(super) fn read(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    declared: &Declared,
) -> Option<Service> {
    let mut table = reader.table(item)?;
    let t = &mut table;
    let image = image(reader, t);
    let resources = resource::resources(reader, t);
    let ports = t.take("ports").map(|item| port::ports(reader, &item));
    let service = Service {
        image,
        command: command(reader, t, "command"),
        entrypoint: command(reader, t, "entrypoint"),
        environment: environment(reader, t),
        working_dir: reader.take_parsed(t, "working_dir", mount::absolute),
        user: reader.take_text(t, "user"),
        group_add: reader.take_set(t, "group_add"),
        hostname: reader.take_parsed(t, "hostname", hostname),
        ports: ports.unwrap_or_default(),
        mounts: mounts(reader, t, declared),
        network: network(reader, t, declared),
        depends_on: depends_on(reader, t),
        healthcheck: healthcheck(reader, t),
        restart: reader
            .take_parsed(t, "restart", restart)
            .unwrap_or_default(),
        labels: reader.take_map(t, "labels"),
        cap_add: capabilities(reader, t, "cap_add"),
        cap_drop: capabilities(reader, t, "cap_drop"),
        privileged: reader.take_flag(t, "privileged"),
        read_only: reader.take_flag(t, "read_only"),
        init: reader.take_flag(t, "init"),
        security_opt: security(reader, t),
        resources,
        logging: logging(reader, t),
        ulimits: t
            .take("ulimits")
            .map(|item| resource::ulimits(reader, &item))
            .unwrap_or_default(),
        extra_hosts: extra_hosts(reader, t),
        dns: dns(reader, t),
        sysctls: reader.take_map(t, "sysctls"),
        devices: devices(reader, t),
        files: files(reader, t, declared),
        stop_signal: reader.take_text(t, "stop_signal"),
        stop_grace_ms: time(reader, t, "stop_grace_period").unwrap_or(STOP_GRACE_MS),
    };
    let publishes = !service.ports.is_empty();
    if publishes && !matches!(service.network, NetworkMode::Networks(_)) {
        reader.invalid(item, "publishes `ports`, which its `network_mode` cannot");
    }
    reader.finish(table, key::SERVICE);
    Some(service)
}

fn image(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Image {
    reader
        .require(table, "image")
        .and_then(|item| reader.parsed(&item, image::normalise))
        .unwrap_or_default()
}

fn command(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    key: &'static str,
) -> Option<Vec<String>> {
    let item = table.take(key)?;
    if item.is_scalar() {
        reader.parsed(&item, words::split)
    } else {
        Some(reader.texts(&item))
    }
}

/// The files of variables in their order, then what the service says itself.
fn environment(reader: &mut Reader<'_>, table: &mut Table<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Some(item) = table.take("env_file") {
        let items = if item.is_scalar() {
            vec![item]
        } else {
            reader.list(&item)
        };
        for item in items {
            env_file(reader, &item, &mut found);
        }
    }
    if let Some(item) = table.take("environment") {
        for pair in reader.pairs(&item) {
            if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
                reader.invalid(&pair.item, "is no name of a variable");
                continue;
            }
            let value = pair.value.or_else(|| reader.variable(&pair.key));
            match value {
                Some(value) => found.insert(pair.key, value),
                // It is passed on when it is there; so it is not there.
                None => found.remove(&pair.key),
            };
        }
    }
    found
}

fn env_file(reader: &mut Reader<'_>, item: &Item<'_>, found: &mut BTreeMap<String, String>) {
    let (mut path, mut required, mut format) = (None, true, Format::Compose);
    if item.is_map() {
        let Some(mut table) = reader.table(item) else {
            return;
        };
        path = reader
            .require(&mut table, "path")
            .and_then(|item| reader.text(&item));
        if let Some(item) = table.take("required") {
            required = reader.flag(&item).unwrap_or(true);
        }
        let said = reader.take_parsed(&mut table, "format", |format| match format {
            "raw" => Ok(Format::Raw),
            other => Err(format!("{} is no format; there is `raw`", shown(other))),
        });
        format = said.unwrap_or(format);
        reader.finish(table, &[]);
    } else if let Some(text) = reader.text(item) {
        path = Some(text);
    }
    let Some(path) = path else {
        return;
    };
    let Some(content) = reader.file(item, &path, Purpose::Environment, !required) else {
        return;
    };
    let Ok(text) = String::from_utf8(content) else {
        reader.invalid(item, format!("names {}, which is not UTF-8", shown(&path)));
        return;
    };
    let read = env_file::read(&text, format, &mut |text, earlier| {
        let expanded = super::interpolate::expand(text, &mut |name| {
            reader.variable(name).or_else(|| earlier.get(name).cloned())
        });
        let expanded = expanded.map(std::borrow::Cow::into_owned)?;
        reader.grew(expanded.len())?;
        Ok(expanded)
    });
    match read {
        Ok(variables) => {
            for variable in variables {
                let value = variable.value.or_else(|| reader.variable(&variable.key));
                if let Some(value) = value {
                    found.insert(variable.key, value);
                }
            }
        }
        Err(wrong) => reader.add(Problem {
            kind: ProblemKind::Invalid,
            file: Some(path),
            place: Place {
                line: wrong.line,
                column: 1,
            },
            path: String::new(),
            text: wrong.text,
        }),
    }
}

fn hostname(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 63 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is no host name", shown(text)))
    }
}

fn mounts(reader: &mut Reader<'_>, table: &mut Table<'_>, declared: &Declared) -> mount::Mounts {
    let mut mounts = mount::Mounts::new();
    if let Some(item) = table.take("volumes") {
        mount::volumes(reader, &item, declared, &mut mounts);
    }
    if let Some(item) = table.take("tmpfs") {
        mount::tmpfs(reader, &item, &mut mounts);
    }
    mounts
}

fn network(reader: &mut Reader<'_>, table: &mut Table<'_>, declared: &Declared) -> NetworkMode {
    let joined =
        |name: &str| NetworkMode::Networks(BTreeMap::from([(name.to_owned(), Vec::new())]));
    let mode = table.take("network_mode");
    let networks = table.take("networks");
    if let (Some(mode), Some(_)) = (&mode, &networks) {
        reader.invalid(mode, "excludes `networks`; give one of them");
    }
    if let Some(item) = mode {
        return match reader.text(&item).as_deref() {
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            Some("bridge") => joined(BRIDGE),
            Some(_) => {
                reader.unsupported(&item, "there are none, host and bridge; use `networks`");
                NetworkMode::default()
            }
            None => NetworkMode::default(),
        };
    }
    let Some(item) = networks else {
        return joined(DEFAULT);
    };
    let mut found = BTreeMap::new();
    if item.is_map() {
        for (name, item) in reader.entries(&item) {
            let aliases = aliases(reader, &item);
            join(reader, &item, declared, &mut found, name, aliases);
        }
    } else {
        for item in reader.list(&item) {
            if let Some(name) = reader.text(&item) {
                join(reader, &item, declared, &mut found, name, Vec::new());
            }
        }
    }
    NetworkMode::Networks(found)
}

fn join(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    declared: &Declared,
    found: &mut BTreeMap<String, Vec<String>>,
    name: String,
    aliases: Vec<String>,
) {
    if !declared.networks.contains(&name) {
        let text = format!(
            "names {}, which is none of the top-level `networks`",
            shown(&name)
        );
        reader.invalid(item, text);
    } else if found.insert(name, aliases).is_some() {
        reader.invalid(item, "is joined twice");
    }
}

fn aliases(reader: &mut Reader<'_>, item: &Item<'_>) -> Vec<String> {
    if item.is_null() {
        return Vec::new();
    }
    let Some(mut table) = reader.table(item) else {
        return Vec::new();
    };
    let aliases = reader.take_set(&mut table, "aliases");
    reader.finish(table, key::NETWORK_OF_SERVICE);
    aliases
}

fn depends_on(reader: &mut Reader<'_>, table: &mut Table<'_>) -> BTreeMap<String, Condition> {
    let mut found = BTreeMap::new();
    let Some(item) = table.take("depends_on") else {
        return found;
    };
    if !item.is_map() {
        for name in reader.set(&item) {
            found.insert(name, Condition::Started);
        }
        return found;
    }
    for (name, item) in reader.entries(&item) {
        let Some(mut table) = reader.table(&item) else {
            continue;
        };
        let condition = reader.take_parsed(&mut table, "condition", |text| match text {
            "service_started" => Ok(Condition::Started),
            "service_healthy" => Ok(Condition::Healthy),
            "service_completed_successfully" => Ok(Condition::Completed),
            other => Err(format!("{} is no condition", shown(other))),
        });
        for (key, only, why) in [
            (
                "required",
                true,
                "what a service depends on is always there",
            ),
            ("restart", false, "a service starts again on its own"),
        ] {
            if let Some(item) = table.take(key)
                && reader.flag(&item).is_some_and(|said| said != only)
            {
                reader.unsupported(&item, why);
            }
        }
        reader.finish(table, &[]);
        found.insert(name, condition.unwrap_or(Condition::Started));
    }
    found
}

fn healthcheck(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Healthcheck> {
    let item = table.take("healthcheck")?;
    let mut table = reader.table(&item)?;
    let disabled = reader.take_flag(&mut table, "disable");
    let test = table.take("test");
    let test = test.and_then(|item| health_test(reader, &item));
    let retries = table.take("retries");
    let check = Healthcheck {
        test: if disabled {
            HealthTest::Disabled
        } else {
            test.unwrap_or(HealthTest::Inherit)
        },
        interval_ms: time(reader, &mut table, "interval"),
        timeout_ms: time(reader, &mut table, "timeout"),
        retries: retries.and_then(|item| reader.number(&item)),
        start_period_ms: time(reader, &mut table, "start_period"),
    };
    reader.finish(table, key::HEALTHCHECK);
    Some(check)
}

fn health_test(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<HealthTest> {
    if item.is_scalar() {
        return reader.text(item).map(HealthTest::Shell);
    }
    let mut words = reader.texts(item).into_iter();
    let kind = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    match (kind.as_str(), rest.as_slice()) {
        ("NONE", []) => Some(HealthTest::Disabled),
        ("CMD", [_, ..]) => Some(HealthTest::Command(rest)),
        ("CMD-SHELL", [line]) => Some(HealthTest::Shell(line.clone())),
        _ => {
            reader.invalid(
                item,
                "is neither [\"CMD\", program, …], [\"CMD-SHELL\", line] nor [\"NONE\"]",
            );
            None
        }
    }
}

fn time(reader: &mut Reader<'_>, table: &mut Table<'_>, key: &'static str) -> Option<u64> {
    reader.take_parsed(table, key, |text| {
        let time_ms = quantity::milliseconds(text)?;
        if u128::from(time_ms) > HEALTH_TIME_MAX.as_millis() {
            let hours = HEALTH_TIME_MAX.as_secs() / 3600;
            return Err(format!("{} is more than {hours} h", shown(text)));
        }
        Ok(time_ms)
    })
}

fn restart(text: &str) -> Result<Restart, String> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("no", "") => Ok(Restart::No),
        ("always", "") => Ok(Restart::Always),
        ("unless-stopped", "") => Ok(Restart::UnlessStopped),
        ("on-failure", "") => Ok(Restart::OnFailure(0)),
        ("on-failure", times) => times
            .parse()
            .map(Restart::OnFailure)
            .map_err(|_| format!("{} is no number of times", shown(times))),
        _ => Err(format!(
            "{} is none of no, always, on-failure, on-failure:N and unless-stopped",
            shown(text)
        )),
    }
}

/// Capabilities in one spelling: `NET_ADMIN`.
fn capabilities(reader: &mut Reader<'_>, table: &mut Table<'_>, key: &'static str) -> Vec<String> {
    let Some(item) = table.take(key) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in reader.list(&item) {
        found.extend(reader.parsed(&item, |text| {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let fits = |b: u8| b.is_ascii_uppercase() || b == b'_';
            if !name.is_empty() && name.bytes().all(fits) {
                Ok(name.to_owned())
            } else {
                Err(format!("{} is no capability", shown(text)))
            }
        }));
    }
    found.sort();
    found.dedup();
    found
}

fn security(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Vec<String> {
    let Some(item) = table.take("security_opt") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in reader.list(&item) {
        let Some(text) = reader.text(&item) else {
            continue;
        };
        // A profile's file would have to be on the node; engines take its content.
        let profile = text
            .strip_prefix("seccomp=")
            .or_else(|| text.strip_prefix("seccomp:"));
        if profile.is_some_and(|profile| !matches!(profile, "unconfined" | "builtin")) {
            reader.unsupported(
                &item,
                "a profile of your own; there are `unconfined` and `builtin`",
            );
        }
        found.push(text);
    }
    found.sort();
    found.dedup();
    found
}

fn logging(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Logging> {
    let item = table.take("logging")?;
    let mut table = reader.table(&item)?;
    let driver = reader.require(&mut table, "driver");
    let driver = driver.and_then(|item| reader.text(&item));
    let options = reader.take_map(&mut table, "options");
    reader.finish(table, &[]);
    Some(Logging {
        driver: driver?,
        options,
    })
}

fn extra_hosts(reader: &mut Reader<'_>, table: &mut Table<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some(item) = table.take("extra_hosts") else {
        return found;
    };
    let mut add = |reader: &mut Reader<'_>, item: &Item<'_>, name: String, address: &str| {
        let address = reader.checked(item, host_address(address));
        if let Some(address) = address
            && found.insert(name, address).is_some()
        {
            reader.invalid(item, "gives a host a second address");
        }
    };
    if item.is_map() {
        for (name, item) in reader.entries(&item) {
            if let Some(address) = reader.text(&item) {
                add(reader, &item, name, &address);
            }
        }
    } else {
        for item in reader.list(&item) {
            let Some(text) = reader.text(&item) else {
                continue;
            };
            match text.split_once(['=', ':']) {
                Some((name, address)) if !name.is_empty() => {
                    add(reader, &item, name.to_owned(), address);
                }
                Some(_) | None => reader.invalid(&item, "is no `name=address`"),
            }
        }
    }
    found
}

fn host_address(text: &str) -> Result<String, String> {
    if text == "host-gateway" {
        return Ok(text.to_owned());
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    ip(bare.unwrap_or(text))
}

fn ip(text: &str) -> Result<String, String> {
    text.parse::<IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| format!("{} is no IP address", shown(text)))
}

/// Name servers; their order means something.
fn dns(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Vec<String> {
    let Some(item) = table.take("dns") else {
        return Vec::new();
    };
    let texts = reader.one_or_more(&item);
    texts
        .iter()
        .filter_map(|text| reader.checked(&item, ip(text)))
        .collect()
}

fn devices(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Vec<Device> {
    let Some(item) = table.take("devices") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in reader.list(&item) {
        if item.is_map() {
            found.extend(long_device(reader, &item));
        } else {
            found.extend(reader.parsed(&item, |text| {
                let parts: Vec<&str> = text.split(':').collect();
                match *parts.as_slice() {
                    [both] => device(both, both, "rwm"),
                    [source, target] => device(source, target, "rwm"),
                    [source, target, permissions] => device(source, target, permissions),
                    _ => Err(format!("{} has too many colons", shown(text))),
                }
            }));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn long_device(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Device> {
    let mut table = reader.table(item)?;
    let source = reader.require(&mut table, "source");
    let source = source.and_then(|item| reader.text(&item));
    let target = reader.take_text(&mut table, "target");
    let permissions = reader.take_text(&mut table, "permissions");
    reader.finish(table, &[]);
    let source = source?;
    let made = device(
        &source,
        target.as_deref().unwrap_or(&source),
        permissions.as_deref().unwrap_or("rwm"),
    );
    reader.checked(item, made)
}

fn device(source: &str, target: &str, permissions: &str) -> Result<Device, String> {
    let permission = |wanted: char| permissions.contains(wanted).then_some(wanted);
    if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(format!("{} are not of r, w and m", shown(permissions)));
    }
    Ok(Device {
        source: mount::absolute(source)?,
        target: mount::absolute(target)?,
        permissions: ['r', 'w', 'm'].into_iter().filter_map(permission).collect(),
    })
}

fn files(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    declared: &Declared,
) -> BTreeMap<String, FileMount> {
    let mut found = BTreeMap::new();
    for (key, kind) in [("configs", FileKind::Config), ("secrets", FileKind::Secret)] {
        let Some(item) = table.take(key) else {
            continue;
        };
        for item in reader.list(&item) {
            let Some((at, mount)) = file(reader, &item, kind) else {
                continue;
            };
            if declared.files.get(&mount.file) != Some(&kind) {
                let text = format!(
                    "names {}, which is none of the top-level `{key}`",
                    shown(&mount.file)
                );
                reader.invalid(&item, text);
            } else if found.insert(at, mount).is_some() {
                reader.invalid(&item, "is mounted where another one is");
            }
        }
    }
    found
}

fn file(reader: &mut Reader<'_>, item: &Item<'_>, kind: FileKind) -> Option<(String, FileMount)> {
    let folder = match kind {
        FileKind::Config => "",
        FileKind::Secret => SECRETS_FOLDER,
    };
    if item.is_scalar() {
        let name = reader.text(item)?;
        let mount = FileMount {
            file: name.clone(),
            mode: FILE_MODE,
            owner: None,
        };
        return Some((format!("{folder}/{name}"), mount));
    }
    let mut table = reader.table(item)?;
    let name = reader.require(&mut table, "source");
    let name = name.and_then(|item| reader.text(&item));
    let target = reader.take_text(&mut table, "target");
    let uid = table.take("uid").and_then(|item| reader.number(&item));
    let gid = table.take("gid").and_then(|item| reader.number(&item));
    let mode = reader.take_parsed(&mut table, "mode", mount::mode_bits);
    reader.finish(table, &[]);
    let name = name?;
    let target = target.unwrap_or_else(|| name.clone());
    let at = if target.starts_with('/') {
        target
    } else {
        format!("{folder}/{target}")
    };
    let at = reader.checked(item, mount::target(&at))?;
    let owner = match (uid, gid) {
        (None, None) => None,
        (uid, gid) => Some((uid.unwrap_or(0), gid.unwrap_or(0))),
    };
    let mount = FileMount {
        file: name,
        mode: mode.unwrap_or(FILE_MODE),
        owner,
    };
    Some((at, mount))
}
