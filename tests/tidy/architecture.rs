//! The rules of the architecture: what is pure stays pure, and every third-party
//! system has one owner.

use super::source::{Source, none, rust};

/// What the pure parts must not name. Time and ids come in as arguments.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "SystemTime",
    "Instant::now",
    "jiff::Timestamp::now",
    "tracing::",
    "redb::",
    "rumqttc::",
    "rmqtt::",
    "bollard::",
    "reqwest::",
    "axum::",
    "SystemRandom",
    "HashMap",
];

fn is_pure(path: &str) -> bool {
    path.starts_with("agent/src/domain/")
        || path.starts_with("controller/src/domain/")
        || path.starts_with("protocol/src/")
}

#[test]
fn pure_modules_name_no_io_no_clock_and_no_randomness() {
    let mut broken = Vec::new();
    for source in rust().iter().filter(|s| is_pure(&s.path) && !s.is_test()) {
        for (number, line) in source.code() {
            for word in IMPURE {
                if names(&line, word) && !excepted(&source.path, word) {
                    broken.push(format!("{}:{number}: {word}", source.path));
                }
            }
        }
    }
    none(
        "pure modules take time and ids as arguments and do no IO",
        &broken,
    );
}

/// Purity's exceptions, each with its reason.
fn excepted(path: &str, word: &str) -> bool {
    match word {
        // zstd's streaming interface is written against the std traits; the bytes
        // are in memory.
        "std::io" => path.starts_with("protocol/src/telemetry/"),
        _ => false,
    }
}

/// A crate and the folders or files that may name it.
struct Owned {
    name: &'static str,
    owners: &'static [&'static str],
}

const OWNED: &[Owned] = &[
    Owned {
        name: "redb::",
        owners: &[
            "agent/src/store",
            "controller/src/journal",
            "controller/src/uplink",
            "controller/src/series",
            "controller/src/rows.rs",
        ],
    },
    Owned {
        name: "rumqttc::",
        owners: &["agent/src/uplink", "controller/src/broker"],
    },
    Owned {
        name: "rmqtt::",
        owners: &["controller/src/broker"],
    },
    Owned {
        name: "bollard::",
        owners: &[
            "agent/src/deploy/docker",
            "agent/src/sampling",
            "agent/src/command",
        ],
    },
    Owned {
        name: "axum::",
        owners: &["controller/src/api", "controller/src/pki"],
    },
    Owned {
        name: "granit_parser::",
        owners: &["controller/src/domain/deployment/compose/yaml.rs"],
    },
    Owned {
        name: "procfs::",
        owners: &["agent/src/sampling"],
    },
    Owned {
        name: "sysinfo::",
        owners: &["agent/src/sampling"],
    },
    Owned {
        name: "clap::",
        owners: &["agent/src/cli", "agent/src/main.rs", "controller/src/cli"],
    },
    Owned {
        name: "comfy_table::",
        owners: &["controller/src/cli"],
    },
    Owned {
        name: "indicatif::",
        owners: &["controller/src/cli"],
    },
    Owned {
        name: "utoipa::",
        owners: &["controller/src/api", "controller/src/operation/view"],
    },
    Owned {
        name: "zstd::",
        owners: &["protocol/src/telemetry", "controller/src/backup"],
    },
    Owned {
        name: "age::",
        owners: &["controller/src/backup"],
    },
];

#[test]
fn each_third_party_system_has_one_owner() {
    let mut broken = Vec::new();
    for source in product() {
        for (number, line) in source.code() {
            for owned in OWNED {
                let own = owned.owners.iter().any(|o| source.path.starts_with(o));
                if !own && names(&line, owned.name) {
                    broken.push(format!(
                        "{}:{number}: {} belongs to {}",
                        source.path,
                        owned.name,
                        owned.owners.join(", ")
                    ));
                }
            }
        }
    }
    none("one third-party system, one owner module", &broken);
}

#[test]
fn dependencies_point_inward() {
    let mut broken = Vec::new();
    let rules: &[(&str, &[&str])] = &[
        (
            "protocol/src/",
            &[
                "agent::",
                "controller::",
                "flotilla_agent::",
                "flotilla_controller::",
            ],
        ),
        ("agent/src/", &["controller::", "flotilla_controller::"]),
        ("controller/src/", &["agent::", "flotilla_agent::"]),
        ("controller/src/api/", &["crate::journal"]),
        (
            "controller/src/domain/",
            &[
                "crate::journal",
                "crate::engine",
                "crate::uplink",
                "crate::api",
                "crate::broker",
                "crate::series",
                "crate::operation",
                "crate::effect",
            ],
        ),
        (
            "agent/src/domain/",
            &[
                "crate::store",
                "crate::uplink",
                "crate::sampling",
                "crate::command",
                "crate::enrol",
            ],
        ),
    ];
    for source in product() {
        for (number, line) in source.code() {
            for (below, banned) in rules
                .iter()
                .filter(|(below, _)| source.path.starts_with(below))
            {
                for word in banned.iter().filter(|word| names(&line, word)) {
                    broken.push(format!(
                        "{}:{number}: {word} is not for {below}",
                        source.path
                    ));
                }
            }
        }
    }
    none("dependencies point inward", &broken);
}

#[test]
fn tasks_start_only_through_the_supervisor_and_queues_have_bounds() {
    let mut broken = Vec::new();
    for source in product() {
        for (number, line) in source.code() {
            let spawns = names(&line, "tokio::spawn") || names(&line, "tokio::task::spawn(");
            if spawns && !source.path.contains("/supervisor") {
                broken.push(format!(
                    "{}:{number}: a task outside the supervisor",
                    source.path
                ));
            }
            if line.contains("unbounded_channel") {
                broken.push(format!("{}:{number}: an unbounded queue", source.path));
            }
        }
    }
    none("every task is joined and every queue bounded", &broken);
}

fn product() -> Vec<Source> {
    rust()
        .into_iter()
        .filter(|s| {
            ["agent/", "controller/", "protocol/"]
                .iter()
                .any(|p| s.path.starts_with(p))
                && !s.is_test()
        })
        .collect()
}

/// Whether the line holds the word, not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        line.get(..at)
            .and_then(|before| before.chars().next_back())
            .is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
    })
}
