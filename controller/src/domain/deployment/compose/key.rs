//! The keys that Compose has and Flotilla has not, with what to do about each.

pub(super) const PROJECT: &[(&str, &str)] = &[
    ("include", "put everything into one file"),
    ("models", "run the model as a service"),
];

pub(super) const SERVICE: &[(&str, &str)] = &[
    ("annotations", "use `labels`"),
    ("attach", "nodes are not attached to; remove it"),
    ("blkio_config", ""),
    (
        "build",
        "nodes do not build; build the image elsewhere and name it by `image`",
    ),
    ("cgroup", ""),
    ("cgroup_parent", ""),
    (
        "container_name",
        "containers are named after deployment and service; remove it",
    ),
    ("cpu_count", "use `cpus`"),
    ("cpu_percent", "use `cpus`"),
    ("cpu_period", "use `cpus`"),
    ("cpu_quota", "use `cpus`"),
    ("cpu_rt_period", ""),
    ("cpu_rt_runtime", ""),
    ("cpu_shares", "use `cpus`"),
    ("cpuset", "use `cpus`"),
    ("credential_spec", ""),
    ("develop", "it is for a developer's machine; remove it"),
    ("device_cgroup_rules", "use `devices`"),
    ("dns_opt", ""),
    ("dns_search", ""),
    ("domainname", "use `hostname`"),
    (
        "expose",
        "it has no effect: services of one network reach all ports; remove it",
    ),
    ("extends", "write the service out, or use an anchor"),
    ("external_links", "connect both by an external network"),
    ("gpus", "use `devices`"),
    ("ipc", ""),
    ("isolation", ""),
    ("label_file", "use `labels`"),
    (
        "links",
        "services of one network reach each other by name; remove it",
    ),
    ("mac_address", ""),
    ("mem_swappiness", ""),
    ("memswap_limit", ""),
    ("models", "run the model as a service"),
    ("oom_kill_disable", ""),
    ("oom_score_adj", ""),
    ("pid", ""),
    (
        "platform",
        "give the image by the digest of its platform, or leave it to the node",
    ),
    ("post_start", "put it into the image's entry point"),
    ("pre_stop", "handle the stop signal in the image"),
    (
        "profiles",
        "apply a deployment of its own, with its own selector",
    ),
    ("provider", ""),
    (
        "pull_policy",
        "an image is pulled when the node has not the one that is meant; remove it",
    ),
    ("runtime", ""),
    (
        "scale",
        "a node runs one container of a service; name further services",
    ),
    ("stdin_open", "nobody is at the terminal; remove it"),
    ("storage_opt", ""),
    ("tty", "nobody is at the terminal; remove it"),
    ("use_api_socket", ""),
    ("userns_mode", ""),
    ("uts", ""),
    ("volumes_from", "name the volumes in both services"),
];

pub(super) const DEPLOY: &[(&str, &str)] = &[
    ("endpoint_mode", ""),
    ("labels", "use the service's `labels`"),
    ("placement", "the deployment's selector says which nodes"),
    ("restart_policy", "use the service's `restart`"),
    ("rollback_config", "the rollout's settings say so"),
    ("update_config", "the rollout's settings say so"),
];

pub(super) const RESOURCES: &[(&str, &str)] = &[
    ("devices", "use the service's `devices`"),
    ("generic_resources", ""),
];

pub(super) const HEALTHCHECK: &[(&str, &str)] =
    &[("start_interval", "not every engine has it; use `interval`")];

pub(super) const NETWORK: &[(&str, &str)] = &[
    ("attachable", ""),
    ("enable_ipv4", ""),
    ("enable_ipv6", ""),
    ("ipam", "addresses are the engine's"),
    (
        "name",
        "it is named after the deployment; a name is for one that is there already, with `external: true`",
    ),
];

pub(super) const NETWORK_OF_SERVICE: &[(&str, &str)] = &[
    ("driver_opts", ""),
    ("gw_priority", ""),
    ("interface_name", ""),
    ("ipv4_address", "addresses are the engine's"),
    ("ipv6_address", "addresses are the engine's"),
    ("link_local_ips", "addresses are the engine's"),
    ("mac_address", ""),
    ("priority", ""),
];

pub(super) const VOLUME: &[(&str, &str)] = &[(
    "name",
    "it is named after the deployment; a name is for one that is there already, with `external: true`",
)];

pub(super) const FILE: &[(&str, &str)] = &[
    ("driver", ""),
    ("driver_opts", ""),
    ("labels", "they have no effect; remove them"),
    (
        "name",
        "a name is for one of Flotilla's own, with `external: true`",
    ),
    ("template_driver", ""),
    (
        "content",
        "a secret is not written into the file; give `file`, `environment` or `external`",
    ),
];

pub(super) const PORT: &[(&str, &str)] = &[
    ("app_protocol", "it has no effect; remove it"),
    ("name", "it has no effect; remove it"),
];

pub(super) const MOUNT: &[(&str, &str)] = &[
    ("cluster", ""),
    ("consistency", "it has no effect; remove it"),
    ("image", ""),
];

pub(super) const BIND: &[(&str, &str)] = &[
    ("create_host_path", ""),
    ("propagation", ""),
    ("recursive", ""),
    ("selinux", ""),
];

pub(super) const VOLUME_OF_MOUNT: &[(&str, &str)] = &[
    ("labels", "use the volume's own"),
    ("nocopy", ""),
    ("subpath", ""),
];
