//! What the engine is asked to make.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, Mount as EngineMount, MountTmpfsOptions, MountType, NetworkConnectRequest,
    NetworkCreateRequest, NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum, VolumeCreateRequest,
};
use protocol::ErrorCode;
use protocol::deployment::spec::{
    HealthTest, Healthcheck, MountSource, Network, NetworkMode, PortProtocol, Restart, Service,
    Volume,
};

use crate::deploy::Make;
use crate::domain::deployment::goal::{network_name, volume_name};
use crate::domain::deployment::machine::{Class, StepError};

/// The further networks that a container is to be connected to once it has an id.
type Further = Box<dyn Fn(&str) -> Vec<(String, NetworkConnectRequest)> + Send>;

pub(super) fn network(
    name: &str,
    network: &Network,
    mut labels: BTreeMap<String, String>,
) -> NetworkCreateRequest {
    labels.extend(theirs(&network.labels));
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: network.driver.clone(),
        internal: Some(network.internal),
        options: some_map(&network.options),
        labels: Some(labels.into_iter().collect()),
        ..NetworkCreateRequest::default()
    }
}

pub(super) fn volume(
    name: &str,
    volume: &Volume,
    mut labels: BTreeMap<String, String>,
) -> VolumeCreateRequest {
    labels.extend(theirs(&volume.labels));
    VolumeCreateRequest {
        name: Some(name.to_owned()),
        driver: volume.driver.clone(),
        driver_opts: some_map(&volume.options),
        labels: Some(labels.into_iter().collect()),
        ..VolumeCreateRequest::default()
    }
}

/// The user's labels, but for those that say whose something is.
fn theirs(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels
        .iter()
        .filter(|(key, _)| !key.starts_with("flotilla."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

pub(super) fn container(make: &Make<'_>) -> Result<(ContainerCreateBody, Further), StepError> {
    let wanted = make
        .goal
        .services
        .get(make.service)
        .ok_or_else(|| invalid(format!("there is no service {:?}", make.service)))?;
    let service = wanted.service;
    let mut labels = theirs(&service.labels);
    labels.extend(make.labels.clone());
    let endpoints = endpoints(make, service);
    let first = endpoints.iter().next();
    let host = host_config(make, service, first.map(|(name, _)| name.as_str()))?;
    let networking_config = first.map(|(name, endpoint)| NetworkingConfig {
        endpoints_config: Some(HashMap::from([(name.clone(), endpoint.clone())])),
    });
    let body = ContainerCreateBody {
        image: Some(wanted.image.clone()),
        cmd: service.command.clone(),
        entrypoint: service.entrypoint.clone(),
        env: Some(
            service
                .environment
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        ),
        working_dir: service.working_dir.clone(),
        user: service.user.clone(),
        hostname: service.hostname.clone(),
        exposed_ports: Some(service.ports.iter().map(port_key).collect()),
        healthcheck: service.healthcheck.as_ref().map(health),
        labels: Some(labels.into_iter().collect()),
        stop_signal: service.stop_signal.clone(),
        stop_timeout: i64::try_from(service.stop_grace_ms.div_ceil(1000)).ok(),
        host_config: Some(host),
        networking_config,
        ..ContainerCreateBody::default()
    };
    let rest: Vec<(String, EndpointSettings)> = endpoints.into_iter().skip(1).collect();
    let further = move |id: &str| {
        rest.iter()
            .map(|(name, endpoint)| {
                let request = NetworkConnectRequest {
                    container: id.to_owned(),
                    endpoint_config: Some(endpoint.clone()),
                };
                (name.clone(), request)
            })
            .collect()
    };
    Ok((body, Box::new(further)))
}

fn invalid(detail: String) -> StepError {
    StepError {
        code: ErrorCode::DeploymentInvalid,
        class: Class::Final,
        detail,
    }
}

/// The networks that a service is on. Each knows it by its name and its aliases.
fn endpoints(make: &Make<'_>, service: &Service) -> BTreeMap<String, EndpointSettings> {
    let NetworkMode::Networks(networks) = &service.network else {
        return BTreeMap::new();
    };
    let spec = &make.goal.target.spec;
    networks
        .iter()
        .filter_map(|(name, aliases)| {
            let network = spec.networks.get(name)?;
            let mut names = vec![make.service.to_owned()];
            names.extend(aliases.iter().cloned());
            let endpoint = EndpointSettings {
                aliases: Some(names),
                ..EndpointSettings::default()
            };
            Some((network_name(make.goal.stem, name, network), endpoint))
        })
        .collect()
}

fn host_config(
    make: &Make<'_>,
    service: &Service,
    network: Option<&str>,
) -> Result<HostConfig, StepError> {
    let resources = service.resources;
    let network_mode = match (&service.network, network) {
        (NetworkMode::Host, _) => "host",
        (NetworkMode::None, _) | (NetworkMode::Networks(_), None) => "none",
        (NetworkMode::Networks(_), Some(name)) => name,
    };
    Ok(HostConfig {
        memory: bytes(resources.memory_bytes),
        memory_reservation: bytes(resources.memory_reservation_bytes),
        nano_cpus: bytes(resources.nano_cpus),
        pids_limit: bytes(resources.pids),
        shm_size: bytes(resources.shm_bytes),
        mounts: Some(mounts(make, service)?),
        network_mode: Some(network_mode.to_owned()),
        port_bindings: Some(ports(service)),
        restart_policy: Some(restart(service.restart)),
        cap_add: some(&service.cap_add),
        cap_drop: some(&service.cap_drop),
        privileged: Some(service.privileged),
        readonly_rootfs: Some(service.read_only),
        init: service.init.then_some(true),
        security_opt: some(&service.security_opt),
        group_add: some(&service.group_add),
        log_config: service.logging.as_ref().map(|logging| HostConfigLogConfig {
            typ: Some(logging.driver.clone()),
            config: some_map(&logging.options),
        }),
        ulimits: Some(
            service
                .ulimits
                .iter()
                .map(|(name, (soft, hard))| ResourcesUlimits {
                    name: Some(name.clone()),
                    soft: Some(*soft),
                    hard: Some(*hard),
                })
                .collect(),
        ),
        extra_hosts: some(
            &service
                .extra_hosts
                .iter()
                .map(|(name, address)| format!("{name}:{address}"))
                .collect::<Vec<_>>(),
        ),
        dns: some(&service.dns),
        sysctls: some_map(&service.sysctls),
        devices: Some(
            service
                .devices
                .iter()
                .map(|device| DeviceMapping {
                    path_on_host: Some(device.source.clone()),
                    path_in_container: Some(device.target.clone()),
                    cgroup_permissions: Some(device.permissions.clone()),
                })
                .collect(),
        ),
        ..HostConfig::default()
    })
}

fn mounts(make: &Make<'_>, service: &Service) -> Result<Vec<EngineMount>, StepError> {
    let spec = &make.goal.target.spec;
    let mut mounts = Vec::with_capacity(service.mounts.len() + make.files.len());
    for (target, mount) in &service.mounts {
        let mut made = EngineMount {
            target: Some(target.clone()),
            read_only: Some(mount.read_only),
            ..EngineMount::default()
        };
        match &mount.source {
            MountSource::Bind(path) => {
                let real = make
                    .binds
                    .get(path)
                    .ok_or_else(|| invalid(format!("the path {path:?} was not resolved")))?;
                made.typ = Some(MountType::BIND);
                made.source = Some(real.display().to_string());
            }
            MountSource::Volume(name) => {
                let volume = spec
                    .volumes
                    .get(name)
                    .ok_or_else(|| invalid(format!("there is no volume {name:?}")))?;
                made.typ = Some(MountType::VOLUME);
                made.source = Some(volume_name(make.goal.stem, name, volume));
            }
            MountSource::Anonymous => made.typ = Some(MountType::VOLUME),
            MountSource::Tmpfs { size_bytes, mode } => {
                made.typ = Some(MountType::TMPFS);
                made.tmpfs_options = Some(MountTmpfsOptions {
                    size_bytes: bytes(*size_bytes),
                    mode: mode.map(i64::from),
                    ..MountTmpfsOptions::default()
                });
            }
        }
        mounts.push(made);
    }
    mounts.extend(make.files.iter().map(|(target, path)| EngineMount {
        target: Some(target.clone()),
        source: Some(path.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..EngineMount::default()
    }));
    Ok(mounts)
}

fn ports(service: &Service) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &service.ports {
        let binding = PortBinding {
            host_ip: port.host_ip.clone(),
            host_port: port.published.map(|published| published.to_string()),
        };
        bindings
            .entry(port_key(port))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    bindings
}

fn port_key(port: &protocol::deployment::spec::Port) -> String {
    let protocol = match port.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.target)
}

fn restart(restart: Restart) -> RestartPolicy {
    let (name, count) = match restart {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::OnFailure(count) => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(count))),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
    };
    RestartPolicy {
        name: Some(name),
        maximum_retry_count: count,
    }
}

fn health(check: &Healthcheck) -> HealthConfig {
    let test = match &check.test {
        HealthTest::Inherit => None,
        HealthTest::Disabled => Some(vec!["NONE".to_owned()]),
        HealthTest::Command(words) => {
            let mut test = vec!["CMD".to_owned()];
            test.extend(words.iter().cloned());
            Some(test)
        }
        HealthTest::Shell(line) => Some(vec!["CMD-SHELL".to_owned(), line.clone()]),
    };
    let nanos =
        |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms.saturating_mul(1_000_000)).ok());
    HealthConfig {
        test,
        interval: nanos(check.interval_ms),
        timeout: nanos(check.timeout_ms),
        retries: check.retries.map(i64::from),
        start_period: nanos(check.start_period_ms),
        ..HealthConfig::default()
    }
}

fn bytes(count: Option<u64>) -> Option<i64> {
    count.map(|count| i64::try_from(count).unwrap_or(i64::MAX))
}

fn some(texts: &[String]) -> Option<Vec<String>> {
    (!texts.is_empty()).then(|| texts.to_vec())
}

fn some_map(map: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!map.is_empty()).then(|| map.clone().into_iter().collect())
}
