//! How two specs differ, line by line.
//!
//! **Invariant:** every field of a spec is in it. The structs are taken apart
//! whole, so a field that is added does not compile until it is shown. Of a secret
//! only that it changed is said.

use core::fmt;
use std::collections::BTreeMap;

use protocol::deployment::spec::{
    Device, File, FileKind, FileMount, HealthTest, Healthcheck, Image, Logging, Mount, MountSource,
    Network, NetworkMode, Port, PortProtocol, Resources, Restart, Service, Spec, Volume,
};

/// Characters of a value that a line shows.
const SHOWN_CHARS_MAX: usize = 120;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What differs, as a path: `services.web.environment.MODE`.
    pub path: String,
    /// What it was; none when it is added.
    pub old: Option<String>,
    /// What it is to be; none when it is removed.
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, old, new } = self;
        match (old, new) {
            (Some(old), Some(new)) if old == new => write!(f, "~ {path}: changed"),
            (Some(old), Some(new)) => write!(f, "~ {path}: {} → {}", cut(old), cut(new)),
            (Some(old), None) => write!(f, "- {path}: {}", cut(old)),
            (None, Some(new)) => write!(f, "+ {path}: {}", cut(new)),
            (None, None) => write!(f, "  {path}"),
        }
    }
}

/// A value on one line.
fn cut(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// What a field is: as it is compared, and as it is shown.
#[derive(PartialEq, Eq)]
struct Line {
    compared: String,
    shown: String,
}

type Lines = BTreeMap<String, Line>;

/// The differences from one spec to another, by path. None means that both are
/// the same.
#[must_use]
pub fn diff(old: &Spec, new: &Spec) -> Vec<Change> {
    let (old, mut new) = (lines(old), lines(new));
    let mut changes = Vec::new();
    for (path, was) in old {
        let is = new.remove(&path);
        if is.as_ref().is_some_and(|is| is.compared == was.compared) {
            continue;
        }
        changes.push(Change {
            path,
            old: Some(was.shown),
            new: is.map(|is| is.shown),
        });
    }
    changes.extend(new.into_iter().map(|(path, is)| Change {
        path,
        old: None,
        new: Some(is.shown),
    }));
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

struct Out(Lines);

impl Out {
    fn put(&mut self, path: String, value: impl fmt::Display) {
        let shown = value.to_string();
        let compared = shown.clone();
        self.0.insert(path, Line { compared, shown });
    }

    fn some(&mut self, path: String, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.put(path, value);
        }
    }

    fn flag(&mut self, path: String, set: bool) {
        self.some(path, set.then_some("true"));
    }

    /// A set: each member is a line of its own.
    fn set<T: fmt::Display>(&mut self, path: &str, members: impl IntoIterator<Item = T>) {
        for member in members {
            self.put(format!("{path}[{member}]"), "");
        }
    }

    fn map<V: fmt::Display>(&mut self, path: &str, entries: &BTreeMap<String, V>) {
        for (key, value) in entries {
            self.put(format!("{path}.{key}"), value);
        }
    }

    /// What networks and volumes have in common.
    fn object(
        &mut self,
        at: &str,
        driver: Option<&String>,
        options: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
        external: Option<&String>,
    ) {
        self.put(at.to_owned(), "");
        self.some(format!("{at}.driver"), driver);
        self.map(&format!("{at}.driver_opts"), options);
        self.map(&format!("{at}.labels"), labels);
        self.some(format!("{at}.external"), external);
    }
}

fn lines(spec: &Spec) -> Lines {
    let mut out = Out(Lines::new());
    let Spec {
        services,
        networks,
        volumes,
        files,
    } = spec;
    for (name, value) in services {
        service(&mut out, &format!("services.{name}"), value);
    }
    for (name, value) in networks {
        let at = format!("networks.{name}");
        let Network {
            driver,
            options,
            internal,
            labels,
            external,
        } = value;
        out.object(&at, driver.as_ref(), options, labels, external.as_ref());
        out.flag(format!("{at}.internal"), *internal);
    }
    for (name, value) in volumes {
        let at = format!("volumes.{name}");
        let Volume {
            driver,
            options,
            labels,
            external,
        } = value;
        out.object(&at, driver.as_ref(), options, labels, external.as_ref());
    }
    for (name, value) in files {
        file(&mut out, name, value);
    }
    out.0
}

fn file(out: &mut Out, name: &str, file: &File) {
    let File {
        kind,
        digest,
        size_bytes,
    } = file;
    let (path, shown) = match kind {
        FileKind::Config => {
            let head: String = digest.chars().take(12).collect();
            (
                format!("configs.{name}"),
                format!("{head}, {size_bytes} bytes"),
            )
        }
        FileKind::Secret => (format!("secrets.{name}"), "(secret)".to_owned()),
    };
    let compared = format!("{digest} {size_bytes}");
    out.0.insert(path, Line { compared, shown });
}

fn service(out: &mut Out, at: &str, service: &Service) {
    let Service {
        image,
        command,
        entrypoint,
        environment,
        working_dir,
        user,
        group_add,
        hostname,
        ports,
        mounts,
        network,
        depends_on,
        healthcheck,
        restart,
        labels,
        cap_add,
        cap_drop,
        privileged,
        read_only,
        init,
        security_opt,
        resources,
        logging,
        ulimits,
        extra_hosts,
        dns,
        sysctls,
        devices,
        files,
        stop_signal,
        stop_grace_ms,
    } = service;
    let path = |field: &str| format!("{at}.{field}");
    image_lines(out, at, image);
    out.some(path("command"), command.as_deref().map(words));
    out.some(path("entrypoint"), entrypoint.as_deref().map(words));
    out.map(&path("environment"), environment);
    out.some(path("working_dir"), working_dir.as_ref());
    out.some(path("user"), user.as_ref());
    out.set(&path("group_add"), group_add);
    out.some(path("hostname"), hostname.as_ref());
    out.set(&path("ports"), ports.iter().map(port));
    for (target, mount) in mounts {
        out.put(format!("{at}.volumes[{target}]"), mount_text(mount));
    }
    network_lines(out, at, network);
    for (name, condition) in depends_on {
        let condition = format!("{condition:?}").to_lowercase();
        out.put(format!("{at}.depends_on.{name}"), condition);
    }
    if let Some(check) = healthcheck {
        health_lines(out, &path("healthcheck"), check);
    }
    out.put(path("restart"), restart_text(*restart));
    out.map(&path("labels"), labels);
    out.set(&path("cap_add"), cap_add);
    out.set(&path("cap_drop"), cap_drop);
    out.flag(path("privileged"), *privileged);
    out.flag(path("read_only"), *read_only);
    out.flag(path("init"), *init);
    out.set(&path("security_opt"), security_opt);
    resource_lines(out, at, resources);
    if let Some(Logging { driver, options }) = logging {
        out.put(path("logging.driver"), driver);
        out.map(&path("logging.options"), options);
    }
    for (name, (soft, hard)) in ulimits {
        out.put(format!("{at}.ulimits.{name}"), format!("{soft}:{hard}"));
    }
    out.map(&path("extra_hosts"), extra_hosts);
    out.some(path("dns"), (!dns.is_empty()).then(|| words(dns)));
    out.map(&path("sysctls"), sysctls);
    for device in devices {
        let Device {
            source,
            target,
            permissions,
        } = device;
        out.set(
            &path("devices"),
            [format!("{source}:{target}:{permissions}")],
        );
    }
    for (target, mount) in files {
        let FileMount { file, mode, owner } = mount;
        let owner = owner.map_or(String::new(), |(uid, gid)| format!(", owner {uid}:{gid}"));
        let text = format!("{file}, mode {mode:04o}{owner}");
        out.put(format!("{at}.files[{target}]"), text);
    }
    out.some(path("stop_signal"), stop_signal.as_ref());
    out.put(path("stop_grace_period"), format!("{stop_grace_ms} ms"));
}

fn image_lines(out: &mut Out, at: &str, image: &Image) {
    let Image {
        reference,
        digest,
        archive,
    } = image;
    out.put(format!("{at}.image"), reference);
    out.some(format!("{at}.image.digest"), digest.as_ref());
    out.some(format!("{at}.image.archive"), archive.as_ref());
}

fn network_lines(out: &mut Out, at: &str, network: &NetworkMode) {
    match network {
        NetworkMode::None => out.put(format!("{at}.network_mode"), "none"),
        NetworkMode::Host => out.put(format!("{at}.network_mode"), "host"),
        NetworkMode::Networks(networks) => {
            for (name, aliases) in networks {
                out.put(format!("{at}.networks.{name}"), aliases.join(", "));
            }
        }
    }
}

fn health_lines(out: &mut Out, at: &str, check: &Healthcheck) {
    let Healthcheck {
        test,
        interval_ms,
        timeout_ms,
        retries,
        start_period_ms,
    } = check;
    let test = match test {
        HealthTest::Inherit => "the image's own".to_owned(),
        HealthTest::Disabled => "none".to_owned(),
        HealthTest::Command(program) => words(program),
        HealthTest::Shell(line) => line.clone(),
    };
    out.put(format!("{at}.test"), test);
    out.some(format!("{at}.interval"), interval_ms.map(time));
    out.some(format!("{at}.timeout"), timeout_ms.map(time));
    out.some(format!("{at}.retries"), *retries);
    out.some(format!("{at}.start_period"), start_period_ms.map(time));
}

fn resource_lines(out: &mut Out, at: &str, resources: &Resources) {
    let Resources {
        memory_bytes,
        memory_reservation_bytes,
        nano_cpus,
        pids,
        shm_bytes,
    } = resources;
    let bytes = |bytes: u64| format!("{bytes} bytes");
    let at = format!("{at}.resources");
    out.some(format!("{at}.memory"), memory_bytes.map(bytes));
    out.some(
        format!("{at}.memory_reservation"),
        memory_reservation_bytes.map(bytes),
    );
    let cpus = |nano: u64| format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    let cpus = nano_cpus.map(|nano| {
        cpus(nano)
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    });
    out.some(format!("{at}.cpus"), cpus);
    out.some(format!("{at}.pids"), *pids);
    out.some(format!("{at}.shm_size"), shm_bytes.map(bytes));
}

fn time(time_ms: u64) -> String {
    format!("{time_ms} ms")
}

fn words(words: &[String]) -> String {
    format!("{words:?}")
}

fn port(port: &Port) -> String {
    let Port {
        published,
        target,
        protocol,
        host_ip,
    } = port;
    let protocol = match protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    };
    let ip = host_ip
        .as_ref()
        .map_or(String::new(), |ip| format!("{ip}:"));
    let published = published.map_or("any".to_owned(), |port| port.to_string());
    format!("{ip}{published}:{target}/{protocol}")
}

fn mount_text(mount: &Mount) -> String {
    let Mount { source, read_only } = mount;
    let source = match source {
        MountSource::Bind(path) => path.clone(),
        MountSource::Volume(name) => format!("volume {name}"),
        MountSource::Anonymous => "a volume of its own".to_owned(),
        MountSource::Tmpfs { size_bytes, mode } => {
            let size = size_bytes.map_or(String::new(), |size| format!(", {size} bytes"));
            let mode = mode.map_or(String::new(), |mode| format!(", mode {mode:04o}"));
            format!("tmpfs{size}{mode}")
        }
    };
    let read_only = if *read_only { ", read-only" } else { "" };
    format!("{source}{read_only}")
}

fn restart_text(restart: Restart) -> String {
    match restart {
        Restart::No => "no".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::OnFailure(0) => "on-failure".to_owned(),
        Restart::OnFailure(times) => format!("on-failure:{times}"),
        Restart::UnlessStopped => "unless-stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Spec {
        let service = Service {
            image: Image {
                reference: "docker.io/library/nginx:1".to_owned(),
                ..Image::default()
            },
            environment: BTreeMap::from([("MODE".to_owned(), "a".to_owned())]),
            ports: vec![Port {
                published: Some(80),
                target: 80,
                protocol: PortProtocol::Tcp,
                host_ip: None,
            }],
            ..Service::default()
        };
        let secret = |digest: &str| File {
            kind: FileKind::Secret,
            digest: digest.repeat(64),
            size_bytes: 8,
        };
        Spec {
            services: BTreeMap::from([("web".to_owned(), service)]),
            files: BTreeMap::from([("key".to_owned(), secret("a"))]),
            ..Spec::default()
        }
    }

    fn check(change: impl FnOnce(&mut Spec)) -> Vec<String> {
        let old = base();
        let mut new = base();
        change(&mut new);
        diff(&old, &new).iter().map(ToString::to_string).collect()
    }

    fn web(spec: &mut Spec) -> &mut Service {
        spec.services.get_mut("web").unwrap()
    }

    #[test]
    fn equal_specs_do_not_differ() {
        assert!(check(|_| {}).is_empty());
    }

    #[test]
    fn each_change_is_a_line_with_its_path() {
        let lines = check(|spec| {
            let service = web(spec);
            service.image.reference.push('2');
            service
                .environment
                .insert("MODE".to_owned(), "b\nc".to_owned());
            service
                .environment
                .insert("NEW".to_owned(), "x".repeat(500));
            service.ports.clear();
            service.read_only = true;
            service.resources.nano_cpus = Some(1_500_000_000);
        });
        let long = format!(
            "+ services.web.environment.NEW: {}…",
            "x".repeat(SHOWN_CHARS_MAX)
        );
        let expected = [
            "~ services.web.environment.MODE: a → b c",
            long.as_str(),
            "~ services.web.image: docker.io/library/nginx:1 → docker.io/library/nginx:12",
            "- services.web.ports[80:80/tcp]: ",
            "+ services.web.read_only: true",
            "+ services.web.resources.cpus: 1.5",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn of_a_secret_only_that_it_changed_is_said() {
        let lines = check(|spec| {
            spec.files.get_mut("key").unwrap().digest = "b".repeat(64);
        });
        assert_eq!(lines, ["~ secrets.key: changed"]);
    }
}
