//! What makes a spec, case by case: each change of a good one, and what is said
//! about it.

use std::collections::BTreeMap;

use super::desired::HealthRule;
use super::limit::{
    FILE_BYTES_MAX, FILES_COUNT_MAX, LIST_COUNT_MAX, NAME_BYTES_MAX, RESOURCES_COUNT_MAX,
    SERVICES_COUNT_MAX, TEXT_BYTES_MAX,
};
use super::observed::{DeploymentState, Phase, Workload, WorkloadState};
use super::spec::{
    Condition, Device, File, FileKind, FileMount, HealthTest, Healthcheck, Image, Logging, Mount,
    MountSource, Network, NetworkMode, Port, PortProtocol, Restart, Service, Spec, Volume, is_name,
};
use crate::ErrorCode;
use crate::id::DeploymentId;
use crate::limits::{DETAIL_BYTES_MAX, ENTRY_BYTES_MAX};
use crate::message;
use crate::state::{StateItem, StateValue};
use crate::time::UnixMillis;

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

fn file() -> File {
    File {
        kind: FileKind::Config,
        digest: "0a".repeat(32),
        size_bytes: 5,
    }
}

/// Two services, `a` and `b`, of which `b` waits for `a`, and one of everything
/// else.
fn whole() -> Spec {
    let mut spec = spec(&[("a", &[]), ("b", &["a"])]);
    spec.networks.insert("front".to_owned(), Network::default());
    spec.volumes.insert("data".to_owned(), Volume::default());
    spec.files.insert("conf".to_owned(), file());
    spec
}

fn port(published: u16, host_ip: Option<&str>) -> Port {
    Port {
        published: Some(published),
        target: 80,
        protocol: PortProtocol::Tcp,
        host_ip: host_ip.map(str::to_owned),
    }
}

fn mount(source: MountSource) -> Mount {
    Mount {
        source,
        read_only: false,
    }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn map(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// What a change makes of a good spec.
#[track_caller]
fn check(change: impl FnOnce(&mut Spec), fault: Option<&str>) {
    let mut spec = whole();
    spec.check().unwrap();
    change(&mut spec);
    match (spec.check(), fault) {
        (Ok(()), None) => {}
        (Err(error), Some(fault)) => {
            assert_eq!(error.to_string(), fault);
            assert_eq!(error.code(), ErrorCode::DeploymentInvalid);
        }
        (found, _) => panic!("{found:?}, not {fault:?}"),
    }
}

/// What a change makes of service `a`.
#[track_caller]
fn check_a(change: impl FnOnce(&mut Service), fault: Option<&str>) {
    check(|spec| change(spec.services.get_mut("a").unwrap()), fault);
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
    let rule = "a name is 1 to 40 of a-z 0-9 - _ that starts and ends with a letter or digit";
    check(
        |spec| drop(spec.files.insert("../x".to_owned(), file())),
        Some(&format!("files have \"../x\": {rule}")),
    );
    check(
        |spec| drop(spec.volumes.insert("A".to_owned(), Volume::default())),
        Some(&format!("volumes have \"A\": {rule}")),
    );
    check(
        |spec| drop(spec.networks.insert(String::new(), Network::default())),
        Some(&format!("networks have \"\": {rule}")),
    );
    check(
        |spec| drop(spec.services.insert("a.b".to_owned(), service(&[]))),
        Some(&format!("services have \"a.b\": {rule}")),
    );
}

#[test]
fn everything_is_counted() {
    fn many<T: Clone>(count: usize, part: &T) -> BTreeMap<String, T> {
        (0..count)
            .map(|i| (format!("n{i}"), part.clone()))
            .collect()
    }
    check(
        |spec| spec.services.clear(),
        Some("services are none; give at least one"),
    );
    check(
        |spec| spec.services = many(SERVICES_COUNT_MAX + 1, &service(&[])),
        Some("services are 65; at most 64"),
    );
    check(
        |spec| spec.networks = many(RESOURCES_COUNT_MAX + 1, &Network::default()),
        Some("networks are 65; at most 64"),
    );
    check(
        |spec| spec.volumes = many(RESOURCES_COUNT_MAX + 1, &Volume::default()),
        Some("volumes are 65; at most 64"),
    );
    check(
        |spec| spec.files = many(FILES_COUNT_MAX + 1, &file()),
        Some("files are 129; at most 128"),
    );
    check(
        |spec| {
            spec.volumes.get_mut("data").unwrap().labels = many(LIST_COUNT_MAX + 1, &String::new())
        },
        Some("volumes.data.labels are 513; at most 512"),
    );
    check_a(
        |a| a.sysctls = many(LIST_COUNT_MAX + 1, &String::new()),
        Some("services.a.sysctls are 513; at most 512"),
    );
    check_a(
        |a| a.dns = vec!["::1".to_owned(); LIST_COUNT_MAX + 1],
        Some("services.a.dns are 513; at most 512"),
    );
    check_a(
        |a| a.command = Some(vec![String::new(); LIST_COUNT_MAX + 1]),
        Some("services.a.command are 513; at most 512"),
    );
}

#[test]
fn texts_are_bounded_wherever_they_are() {
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let fault = Some("services.a has a text of 16385 bytes or with a NUL; at most 16384 bytes");
    check_a(|a| a.environment = map("k", &long), fault);
    check_a(|a| a.command = Some(vec![long.clone()]), fault);
    check_a(|a| a.user = Some(long.clone()), fault);
    check_a(|a| a.image.reference = long.clone(), fault);
    check_a(|a| a.security_opt = vec![long.clone()], fault);
    let nul = Some("services.a has a text of 1 bytes or with a NUL; at most 16384 bytes");
    check_a(|a| a.entrypoint = Some(texts(&["\0"])), nul);
    let test = |test| {
        Some(Healthcheck {
            test,
            interval_ms: None,
            timeout_ms: None,
            retries: None,
            start_period_ms: None,
        })
    };
    check_a(
        |a| a.healthcheck = test(HealthTest::Shell("\0".to_owned())),
        nul,
    );
    check(
        |spec| spec.networks.get_mut("front").unwrap().external = Some(long.clone()),
        Some("networks.front has a text of 16385 bytes or with a NUL; at most 16384 bytes"),
    );
    check(
        |spec| {
            for i in 0..7 {
                let value = "x".repeat(TEXT_BYTES_MAX);
                let a = spec.services.get_mut("a").unwrap();
                a.environment.insert(format!("k{i}"), value);
            }
        },
        Some("the project has 114973 bytes in normal form; at most 98304"),
    );
}

#[test]
fn mounts_are_of_what_is_there_and_one_at_a_path() {
    let at = |target: &str, source| BTreeMap::from([(target.to_owned(), mount(source))]);
    let volume = |name: &str| MountSource::Volume(name.to_owned());
    let bind = |path: &str| MountSource::Bind(path.to_owned());
    check_a(|a| a.mounts = at("/data", volume("data")), None);
    check_a(|a| a.mounts = at("/data", bind("/srv")), None);
    check_a(
        |a| a.mounts = at("/data", volume("nope")),
        Some("services.a.volumes name \"nope\", which is no volume"),
    );
    check_a(
        |a| a.mounts = at("/data", bind("/srv/../etc")),
        Some("services.a.volumes source \"/srv/../etc\" is not an absolute path without `..`"),
    );
    check_a(
        |a| a.mounts = at("data", MountSource::Anonymous),
        Some("services.a.volumes target \"data\" is not an absolute path without `..`"),
    );
    check_a(
        |a| a.mounts = at("//", MountSource::Anonymous),
        Some("services.a.volumes target \"//\" is the root"),
    );
    let tmpfs = |size_bytes, mode| MountSource::Tmpfs { size_bytes, mode };
    check_a(
        |a| a.mounts = at("/tmp", tmpfs(Some(1), Some(0o1777))),
        None,
    );
    check_a(
        |a| a.mounts = at("/tmp", tmpfs(Some(0), None)),
        Some("services.a.volumes give the tmpfs at \"/tmp\" no bytes"),
    );
    check_a(
        |a| a.mounts = at("/tmp", tmpfs(None, Some(0o10000))),
        Some("services.a.volumes give \"/tmp\" the mode 10000; at most 7777"),
    );
    let conf = |name: &str, mode| FileMount {
        file: name.to_owned(),
        mode,
        owner: None,
    };
    let files = |target: &str, mount| BTreeMap::from([(target.to_owned(), mount)]);
    check_a(|a| a.files = files("/etc/conf", conf("conf", 0o444)), None);
    check_a(
        |a| a.files = files("/etc/conf", conf("cert", 0o444)),
        Some("services.a.files name \"cert\", which is no config or secret"),
    );
    check_a(
        |a| a.files = files("etc", conf("conf", 0o444)),
        Some("services.a.files target \"etc\" is not an absolute path without `..`"),
    );
    check_a(
        |a| a.files = files("/etc/conf", conf("conf", 0o10000)),
        Some("services.a.files give \"/etc/conf\" the mode 10000; at most 7777"),
    );
    check_a(
        |a| {
            a.mounts = at("/etc/conf/", bind("/srv"));
            a.files = files("/etc/./conf", conf("conf", 0o444));
        },
        Some("services.a.volumes mount two things at one path, \"/etc/conf/\" and \"/etc/./conf\""),
    );
}

#[test]
fn a_port_of_the_node_is_published_once() {
    let both = |a: Vec<Port>, b: Vec<Port>| {
        move |spec: &mut Spec| {
            spec.services.get_mut("a").unwrap().ports = a;
            spec.services.get_mut("b").unwrap().ports = b;
        }
    };
    let taken = Some("services.b.ports publish 80, as services.a does");
    check(both(vec![port(80, None)], vec![port(81, None)]), None);
    check(both(vec![port(80, None)], vec![port(80, None)]), taken);
    check(
        both(vec![port(80, None)], vec![port(80, Some("127.0.0.1"))]),
        taken,
    );
    check(
        both(
            vec![port(80, Some("0.0.0.0"))],
            vec![port(80, Some("127.0.0.1"))],
        ),
        taken,
    );
    check(
        both(
            vec![port(80, Some("127.0.0.2"))],
            vec![port(80, Some("127.0.0.1"))],
        ),
        None,
    );
    let udp = Port {
        protocol: PortProtocol::Udp,
        ..port(80, None)
    };
    check(both(vec![port(80, None)], vec![udp]), None);
    let any = Port {
        published: None,
        ..port(80, None)
    };
    check(both(vec![any.clone()], vec![any]), None);
    let other = Port {
        target: 81,
        ..port(80, None)
    };
    check(
        both(vec![port(80, None), other], Vec::new()),
        Some("services.a.ports publish 80, as services.a does"),
    );
    check_a(
        |a| a.ports = vec![port(0, None)],
        Some("services.a.ports has \"0\", which is not a port"),
    );
    check_a(
        |a| a.ports = vec![port(80, Some("eth0"))],
        Some("services.a.ports has \"eth0\", which is not an address"),
    );
    for mode in [NetworkMode::Host, NetworkMode::None] {
        check_a(
            |a| {
                a.ports = vec![port(80, None)];
                a.network = mode;
            },
            Some("services.a.ports are published, and the service has no network of its own"),
        );
    }
}

#[test]
fn networks_are_those_that_are_there() {
    let on = |name: &str, aliases: &[&str]| {
        NetworkMode::Networks(BTreeMap::from([(name.to_owned(), texts(aliases))]))
    };
    check_a(|a| a.network = on("front", &["web.example"]), None);
    check_a(
        |a| a.network = on("back", &[]),
        Some("services.a.networks name \"back\", which is no network"),
    );
    check_a(
        |a| a.network = on("front", &["a b"]),
        Some("services.a.networks give the alias \"a b\", which is no host name"),
    );
    check(
        |spec| spec.networks.get_mut("front").unwrap().driver = Some(String::new()),
        Some("networks.front has a driver or a name that is empty"),
    );
}

#[test]
fn texts_have_the_form_that_the_engine_takes() {
    let not = |field: &str, text: &str, wanted: &str| {
        format!("services.a.{field} has {text:?}, which is not {wanted}")
    };
    type Change = fn(&mut Service);
    let cases: [(Change, String); 18] = [
        (
            |a| a.image.reference.clear(),
            not("image", "", "an image's name"),
        ),
        (
            |a| a.image.reference = "a b".to_owned(),
            not("image", "a b", "an image's name"),
        ),
        (
            |a| a.image.digest = Some("sha256:1".to_owned()),
            not(
                "image",
                "sha256:1",
                "a digest, sha256: and 64 hexadecimal digits",
            ),
        ),
        (
            |a| a.image.archive = Some("X".to_owned()),
            not("image", "X", "an archive's SHA-256"),
        ),
        (
            |a| a.working_dir = Some("srv".to_owned()),
            not("working_dir", "srv", "an absolute path"),
        ),
        (
            |a| a.hostname = Some("-x".to_owned()),
            not("hostname", "-x", "a host name"),
        ),
        (
            |a| a.environment = map("A=B", ""),
            not("environment", "A=B", "a name without `=`"),
        ),
        (
            |a| a.labels = map("", ""),
            not("labels", "", "a name without `=`"),
        ),
        (
            |a| a.sysctls = map("", ""),
            not("sysctls", "", "a name without `=`"),
        ),
        (
            |a| a.cap_add = texts(&["net_admin"]),
            not("cap_add", "net_admin", "a capability in capitals"),
        ),
        (
            |a| a.extra_hosts = map("db", "db.example"),
            not("extra_hosts", "db.example", "an address or host-gateway"),
        ),
        (
            |a| a.extra_hosts = map("d b", "::1"),
            not("extra_hosts", "d b", "a host name"),
        ),
        (|a| a.dns = texts(&["dns"]), not("dns", "dns", "an address")),
        (
            |a| a.devices = vec![device("/dev/x", "rwx")],
            not("devices", "rwx", "of r, w and m"),
        ),
        (
            |a| a.devices = vec![device("dev", "r")],
            not("devices", "dev", "an absolute path"),
        ),
        (
            |a| a.ulimits = BTreeMap::from([("nofile".to_owned(), (-1, 5))]),
            not(
                "ulimits",
                "nofile: -1, 5",
                "a soft limit at or below a hard one",
            ),
        ),
        (
            |a| a.stop_signal = Some("SIG TERM".to_owned()),
            not("stop_signal", "SIG TERM", "a signal"),
        ),
        (
            |a| {
                a.logging = Some(Logging {
                    driver: String::new(),
                    options: BTreeMap::new(),
                });
            },
            not("logging", "", "a driver"),
        ),
    ];
    for (change, fault) in cases {
        check_a(change, Some(&fault));
    }
    let digest = "0f".repeat(32);
    check_a(
        |a| {
            a.image.digest = Some(format!("sha256:{digest}"));
            a.image.archive = Some(digest.clone());
            a.working_dir = Some("/srv".to_owned());
            a.hostname = Some("web-1.lyon".to_owned());
            a.cap_add = texts(&["NET_ADMIN"]);
            a.extra_hosts = map("db", "host-gateway");
            a.dns = texts(&["9.9.9.9", "1.1.1.1"]);
            a.devices = vec![device("/dev/x", "rwm")];
            a.ulimits = BTreeMap::from([
                ("core".to_owned(), (0, -1)),
                ("nofile".to_owned(), (-1, -1)),
            ]);
            a.stop_signal = Some("SIGRTMIN+3".to_owned());
        },
        None,
    );
}

fn device(path: &str, permissions: &str) -> Device {
    Device {
        source: path.to_owned(),
        target: "/dev/x".to_owned(),
        permissions: permissions.to_owned(),
    }
}

#[test]
fn limits_that_an_engine_refuses_are_refused_here() {
    check_a(
        |a| a.resources.memory_bytes = Some(1),
        Some("services.a.mem_limit is 1; at least 6291456"),
    );
    check_a(
        |a| a.resources.pids = Some(0),
        Some("services.a.pids is 0; at least 1"),
    );
    check_a(
        |a| a.resources.nano_cpus = Some(0),
        Some("services.a.cpus is 0; at least 1"),
    );
    check_a(
        |a| a.resources.shm_bytes = Some(0),
        Some("services.a.shm_size is 0; at least 1"),
    );
    check_a(
        |a| {
            a.resources.memory_bytes = Some(1 << 25);
            a.resources.memory_reservation_bytes = Some(1 << 26);
        },
        Some("services.a.mem_reservation is above mem_limit"),
    );
    check_a(
        |a| a.stop_grace_ms = 86_400_001,
        Some("services.a has a time of 86400001 ms; at most 86400000"),
    );
    let health = |test, interval_ms| {
        Some(Healthcheck {
            test,
            interval_ms,
            timeout_ms: None,
            retries: None,
            start_period_ms: None,
        })
    };
    check_a(
        |a| a.healthcheck = health(HealthTest::Inherit, Some(u64::MAX)),
        Some("services.a has a time of 18446744073709551615 ms; at most 86400000"),
    );
    for test in [
        HealthTest::Command(Vec::new()),
        HealthTest::Shell(String::new()),
    ] {
        check_a(
            |a| a.healthcheck = health(test, None),
            Some("services.a.healthcheck has an empty test"),
        );
    }
}

#[test]
fn files_are_named_by_digest_and_bounded() {
    check(
        |spec| spec.files.get_mut("conf").unwrap().digest = "0A".repeat(32),
        Some(&format!(
            "files.conf has the digest {:?}, which is no SHA-256",
            "0A".repeat(32)
        )),
    );
    let large = u32::try_from(FILE_BYTES_MAX).unwrap() + 1;
    check(
        |spec| spec.files.get_mut("conf").unwrap().size_bytes = large,
        Some("files.conf has 512001 bytes; at most 512000"),
    );
}

#[test]
fn what_is_waited_for_can_come_true() {
    let waits = |condition, restart, test: Option<HealthTest>| {
        move |spec: &mut Spec| {
            let needs = BTreeMap::from([("a".to_owned(), condition)]);
            spec.services.get_mut("b").unwrap().depends_on = needs;
            let a = spec.services.get_mut("a").unwrap();
            a.restart = restart;
            a.healthcheck = test.map(|test| Healthcheck {
                test,
                interval_ms: None,
                timeout_ms: None,
                retries: None,
                start_period_ms: None,
            });
        }
    };
    check(waits(Condition::Healthy, Restart::Always, None), None);
    check(
        waits(Condition::Completed, Restart::OnFailure(3), None),
        None,
    );
    check(
        waits(
            Condition::Started,
            Restart::Always,
            Some(HealthTest::Disabled),
        ),
        None,
    );
    check(
        waits(Condition::Healthy, Restart::No, Some(HealthTest::Disabled)),
        Some(
            "services.b.depends_on waits for \"a\", which can never be healthy: its check is disabled",
        ),
    );
    for restart in [Restart::Always, Restart::UnlessStopped] {
        check(
            waits(Condition::Completed, restart, None),
            Some(
                "services.b.depends_on waits for \"a\", which can never complete: it is always restarted",
            ),
        );
    }
}

#[test]
fn equal_projects_have_equal_bytes_once_normal() {
    let lists = |ports: &[u16], capabilities: &[&str]| {
        let mut spec = whole();
        let a = spec.services.get_mut("a").unwrap();
        a.ports = ports
            .iter()
            .map(|published| port(*published, None))
            .collect();
        a.cap_drop = texts(capabilities);
        spec
    };
    let mut mixed = lists(&[443, 80, 443], &["SYS_TIME", "ALL", "ALL"]);
    let fault = mixed.check().unwrap_err().to_string();
    assert_eq!(
        fault,
        "services.a.ports are not sorted and without duplicates"
    );
    mixed.normalise();
    mixed.check().unwrap();
    assert_eq!(
        mixed.encode(),
        lists(&[80, 443], &["ALL", "SYS_TIME"]).encode()
    );
}

#[test]
fn a_health_rule_can_be_met() {
    fn check(change: impl FnOnce(&mut HealthRule), fault: Option<&str>) {
        let mut rule = HealthRule::default();
        change(&mut rule);
        let found = rule.check().map_err(|error| error.to_string());
        assert_eq!(found.err().as_deref(), fault);
    }
    check(|_| {}, None);
    check(
        |rule| rule.min_healthy_ms = 300_001,
        Some(
            "health.min_healthy is 300001 ms with an initial_delay of 0 ms, longer than the healthy_deadline of 300000 ms",
        ),
    );
    check(
        |rule| rule.initial_delay_ms = 295_000,
        Some(
            "health.min_healthy is 10000 ms with an initial_delay of 295000 ms, longer than the healthy_deadline of 300000 ms",
        ),
    );
    check(
        |rule| rule.progress_deadline_ms = 0,
        Some("health.progress_deadline is 0 ms; from 1 to 86400000"),
    );
    check(
        |rule| rule.healthy_deadline_ms = u64::MAX,
        Some("health.healthy_deadline is 18446744073709551615 ms; from 1 to 86400000"),
    );
}

/// A state with this many workloads, each with as much to say as it may, or more.
fn loud(workloads: usize, lines: usize, bytes: usize) -> DeploymentState {
    let workload = Workload {
        service: "s".repeat(NAME_BYTES_MAX),
        revision: u32::MAX,
        container: Some("0123456789ab".to_owned()),
        state: WorkloadState::Exited,
        image_digest: Some(format!("sha256:{}", "0a".repeat(32))),
        restarts: u32::MAX,
        exit_code: Some(i32::MIN),
        oom_killed: true,
        started_at: Some(UnixMillis(u64::MAX)),
        observed_at: UnixMillis(u64::MAX),
        detail: "ä".repeat(bytes),
        log_tail: (0..lines)
            .map(|i| format!("{i}{}", "ä".repeat(bytes)))
            .collect(),
    };
    DeploymentState {
        deployment: DeploymentId::from_bytes([8; 10]),
        number: u16::MAX,
        generation: u64::MAX,
        wanted: Some(u32::MAX),
        current: Some(u32::MAX),
        phase: Phase::Failed,
        since: UnixMillis(u64::MAX),
        code: Some("deployment.deadline".to_owned()),
        detail: "ä".repeat(bytes),
        workloads: vec![workload; workloads],
        drift: vec!["ä".repeat(bytes); lines],
    }
}

#[test]
fn a_state_is_made_to_fit_an_entry() {
    for (workloads, lines, bytes) in [
        (1, 20, 100),
        (3, 100, 5_000),
        (64, 20, 512),
        (200, 40, 5_000),
    ] {
        let mut state = loud(workloads, lines, bytes);
        state.fit();
        let item = StateItem {
            at: UnixMillis(u64::MAX),
            value: StateValue::Deployment(Box::new(state.clone())),
        };
        assert!(message::encode(&item).len() <= ENTRY_BYTES_MAX);
        assert!(state.detail.len() <= DETAIL_BYTES_MAX);
        assert!(!state.detail.is_empty());
        let again = state.clone();
        state.fit();
        assert_eq!(state, again);
    }
}

#[test]
fn what_fits_is_not_cut_and_the_newest_lines_are_kept() {
    let mut small = loud(2, 3, 20);
    small.fit();
    assert_eq!(small, loud(2, 3, 20));
    let mut long = loud(1, 100, 5);
    long.fit();
    let tail = &long.workloads[0].log_tail;
    assert_eq!((tail.len(), tail[0].as_str()), (20, "80äääää"));
}
