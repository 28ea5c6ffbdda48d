//! What holds for any text and any spec.

use proptest::prelude::*;
use protocol::deployment::spec::{
    Condition, HealthTest, Healthcheck, Mount, MountSource, NetworkMode, PortProtocol, Restart,
    Service,
};
use serde_json::{Value, json};

use super::*;

/// Pieces that Compose files are made of, and that parsers trip over.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("services:".to_owned()),
        Just("image: busybox".to_owned()),
        Just("ports: [\"80:80\"]".to_owned()),
        Just("volumes:".to_owned()),
        Just("environment:".to_owned()),
        Just("deploy: {resources: {limits: {memory: 1g}}}".to_owned()),
        Just("<<: *a".to_owned()),
        Just("&a".to_owned()),
        Just("*a".to_owned()),
        Just("${A:-${B".to_owned()),
        Just("!!str".to_owned()),
        Just("|-".to_owned()),
        Just("---".to_owned()),
        Just("? ".to_owned()),
        "[a-z:{}\\[\\],&*!|>'\"%@`#?~ $-]{0,12}",
        "\\PC{0,8}",
    ]
}

fn yaml_like() -> impl Strategy<Value = String> {
    prop::collection::vec((0_usize..5, piece()), 0..30).prop_map(|lines| {
        let lines = lines.iter();
        lines
            .map(|(indent, piece)| format!("{}{piece}\n", "  ".repeat(*indent)))
            .collect()
    })
}

proptest! {
    #[test]
    fn invariant_any_text_is_taken_or_refused(text in "[\\x00-\\x7f\\u{80}-\\u{2fff}]{0,300}") {
        let _outcome = check(&text);
        let _references = references(&text, &Beside::default());
    }

    #[test]
    fn invariant_any_yaml_is_taken_or_refused(text in yaml_like()) {
        if let Err(problems) = check(&text) {
            prop_assert!(!problems.list().is_empty());
            let lines = text.lines().count() + 1;
            for problem in problems.list() {
                prop_assert!((1..=lines).contains(&problem.place.line), "{problem}");
            }
        }
    }

    #[test]
    fn invariant_any_value_of_any_key_is_taken_or_refused(
        key in prop::sample::select(KEYS.to_vec()), value in yaml_like(), flow in "\\PC{0,40}",
    ) {
        let mut text = service(&format!("{key}:"));
        for line in value.lines() {
            text.push_str(&format!("      {line}\n"));
        }
        let _outcome = check(&text);
        let _outcome = check(&service(&format!("{key}: {flow}")));
    }

    #[test]
    fn invariant_the_normal_form_reads_back(spec in spec()) {
        let text = compose(&spec).to_string();
        let once = match check(&text) {
            Ok(project) => project.spec,
            Err(problems) => return Err(TestCaseError::fail(format!("{problems}\n{text}"))),
        };
        prop_assert_eq!(&once, &spec);
        prop_assert!(once.check().is_ok());
    }
}

const KEYS: [&str; 20] = [
    "image",
    "command",
    "environment",
    "env_file",
    "ports",
    "volumes",
    "tmpfs",
    "networks",
    "depends_on",
    "healthcheck",
    "deploy",
    "logging",
    "ulimits",
    "extra_hosts",
    "devices",
    "secrets",
    "configs",
    "labels",
    "restart",
    "stop_grace_period",
];

/// Values that a text may have; a dollar sign must come back too.
fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 $:/=#'\"{}-]{0,12}"
}

prop_compose! {
    fn any_service()(
        command in prop::option::of(prop::collection::vec(word(), 0..3)),
        environment in prop::collection::btree_map("[A-Z_]{1,6}", word(), 0..4),
        labels in prop::collection::btree_map("[a-z.]{1,6}", word(), 0..3),
        ports in prop::collection::btree_set((1_u16..60_000, any::<bool>()), 0..3),
        mounts in prop::collection::btree_map("/[a-z]{1,8}", (0_u8..4, any::<bool>()), 0..4),
        check in prop::option::of(("[a-z$][a-zA-Z0-9 $:/=#'\"{}-]{0,12}", prop::option::of(1_u64..10_000))),
        restart in prop::sample::select(vec![
            Restart::No, Restart::Always, Restart::OnFailure(0), Restart::OnFailure(3), Restart::UnlessStopped,
        ]),
        memory in prop::option::of(1_u64..1 << 40),
        nano_cpus in prop::option::of(1_u64..1 << 40),
        read_only in any::<bool>(),
        stop_grace_ms in 0_u64..100_000,
    ) -> Service {
        let source = |kind| match kind {
            0 => MountSource::Bind("/srv/x".to_owned()),
            1 => MountSource::Volume("data".to_owned()),
            2 => MountSource::Anonymous,
            _ => MountSource::Tmpfs { size_bytes: Some(4096), mode: Some(0o1777) },
        };
        Service {
            image: super::super::normalise_image("busybox").unwrap(),
            command,
            environment,
            labels,
            ports: ports.into_iter().map(|(target, udp)| protocol::deployment::spec::Port {
                published: None,
                target,
                protocol: if udp { PortProtocol::Udp } else { PortProtocol::Tcp },
                host_ip: None,
            }).collect(),
            mounts: mounts.into_iter().map(|(at, (kind, read_only))| {
                (at, Mount { source: source(kind), read_only })
            }).collect(),
            healthcheck: check.map(|(line, interval_ms)| Healthcheck {
                test: HealthTest::Shell(line),
                interval_ms,
                timeout_ms: None,
                retries: Some(2),
                start_period_ms: None,
            }),
            restart,
            resources: protocol::deployment::spec::Resources {
                memory_bytes: memory,
                nano_cpus,
                ..Default::default()
            },
            read_only,
            stop_grace_ms,
            network: NetworkMode::Networks(BTreeMap::from([("default".to_owned(), Vec::new())])),
            ..Service::default()
        }
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    prop::collection::btree_map("[a-z]{1,5}", any_service(), 1..4).prop_map(|mut services| {
        // A chain, which has no circle.
        let mut before: Option<String> = None;
        for (name, service) in &mut services {
            if let Some(before) = before.replace(name.clone()) {
                service.depends_on.insert(before, Condition::Started);
            }
        }
        let mut spec = Spec {
            services,
            ..Spec::default()
        };
        spec.networks
            .insert("default".to_owned(), Default::default());
        let uses_data = spec.services.values().any(|service| {
            let volume = MountSource::Volume("data".to_owned());
            service.mounts.values().any(|mount| mount.source == volume)
        });
        if uses_data {
            spec.volumes.insert("data".to_owned(), Default::default());
        }
        spec
    })
}

/// A spec of the strategy above as a Compose file. JSON is YAML.
fn compose(spec: &Spec) -> Value {
    let services: BTreeMap<&String, Value> = spec
        .services
        .iter()
        .map(|(name, service)| (name, compose_service(service)))
        .collect();
    let volumes: BTreeMap<&String, Value> =
        spec.volumes.keys().map(|name| (name, json!({}))).collect();
    json!({ "services": services, "volumes": volumes })
}

fn escaped(text: &str) -> String {
    text.replace('$', "$$")
}

fn compose_service(service: &Service) -> Value {
    let escaped_map = |map: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        map.iter().map(|(k, v)| (k.clone(), escaped(v))).collect()
    };
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| json!({"target": port.target, "protocol": port.protocol}))
        .collect();
    let volumes: Vec<Value> = service
        .mounts
        .iter()
        .map(|(at, mount)| {
            let mut value = match &mount.source {
                MountSource::Bind(path) => json!({"type": "bind", "source": path}),
                MountSource::Volume(name) => json!({"type": "volume", "source": name}),
                MountSource::Anonymous => json!({"type": "volume"}),
                MountSource::Tmpfs { size_bytes, mode } => json!({
                    "type": "tmpfs",
                    "tmpfs": {"size": size_bytes.unwrap(), "mode": format!("{:o}", mode.unwrap())},
                }),
            };
            value["target"] = json!(at);
            value["read_only"] = json!(mount.read_only);
            value
        })
        .collect();
    let restart = match service.restart {
        Restart::No => "no".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::OnFailure(times) => format!("on-failure:{times}"),
        Restart::UnlessStopped => "unless-stopped".to_owned(),
    };
    let mut value = json!({
        "image": service.image.reference,
        "environment": escaped_map(&service.environment),
        "labels": escaped_map(&service.labels),
        "ports": ports,
        "volumes": volumes,
        "restart": restart,
        "read_only": service.read_only,
        "depends_on": service.depends_on.keys().collect::<Vec<_>>(),
        "stop_grace_period": format!("{}ms", service.stop_grace_ms),
    });
    if let Some(command) = &service.command {
        value["command"] = json!(command.iter().map(|word| escaped(word)).collect::<Vec<_>>());
    }
    if let Some(check) = &service.healthcheck
        && let HealthTest::Shell(line) = &check.test
    {
        value["healthcheck"] = json!({"test": escaped(line), "retries": check.retries});
        if let Some(interval) = check.interval_ms {
            value["healthcheck"]["interval"] = json!(format!("{interval}ms"));
        }
    }
    if let Some(bytes) = service.resources.memory_bytes {
        value["mem_limit"] = json!(bytes);
    }
    if let Some(nano) = service.resources.nano_cpus {
        value["cpus"] = json!(format!(
            "{}.{:09}",
            nano / 1_000_000_000,
            nano % 1_000_000_000
        ));
    }
    value
}
