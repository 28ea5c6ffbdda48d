//! What the node allows of deployments, and how it logs in at registries: the
//! node's own word, which nothing that the controller sends can widen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::deployment::limit::NAME_BYTES_MAX;

use super::raw::Section;
use crate::deploy::Settings;
use crate::deploy::settings::Login;
use crate::domain::deployment::rules::Rules;

/// Entries of a list; each is compared with what a deployment asks for.
const LIST_COUNT_MAX: usize = 256;

/// `socket` is the engine's.
pub(super) fn check(section: &mut Section<'_>, socket: &Path) -> Settings {
    let default = Settings::default();
    let rules = Rules {
        enabled: section.boolean("enabled", default.rules.enabled),
        registries: list(section, "registries", default.rules.registries),
        images: list(section, "images", default.rules.images),
        privileged: section.boolean("privileged", default.rules.privileged),
        host_paths: roots(section),
        host_network: section.boolean("host_network", default.rules.host_network),
        docker_socket: section.boolean("docker_socket", default.rules.docker_socket),
        devices: list(section, "devices", default.rules.devices),
        cap_add: list(section, "cap_add", default.rules.cap_add)
            .iter()
            .map(|capability| {
                let upper = capability.to_ascii_uppercase();
                upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
            })
            .collect(),
        security_opt: list(section, "security_opt", default.rules.security_opt),
        sysctls: list(section, "sysctls", default.rules.sysctls),
    };
    Settings {
        rules,
        name_prefix: name_prefix(section, &default.name_prefix),
        registry_config: section.optional_absolute_path("registry_config"),
        logins: logins(section),
        stall_timeout: section.duration(
            "stall_timeout",
            default.stall_timeout,
            Duration::from_secs(5)..=Duration::from_secs(3600),
        ),
        docker_socket: socket.to_owned(),
    }
}

fn list(section: &mut Section<'_>, key: &str, default: Vec<String>) -> Vec<String> {
    section
        .optional_texts(key, LIST_COUNT_MAX)
        .unwrap_or(default)
}

fn roots(section: &mut Section<'_>) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for text in section.texts("host_paths", LIST_COUNT_MAX) {
        let path = PathBuf::from(&text);
        if path.is_absolute() {
            roots.push(path);
        } else {
            section.problem("host_paths", &text, "an absolute path");
        }
    }
    roots
}

fn name_prefix(section: &mut Section<'_>, default: &str) -> String {
    let prefix = section.text("name_prefix", default, 1..=NAME_BYTES_MAX);
    let begins_well = prefix.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if begins_well && prefix.bytes().all(is_plain) {
        return prefix;
    }
    let expected = "a letter or digit, then letters, digits and _ . -";
    section.problem("name_prefix", &prefix, expected);
    default.to_owned()
}

/// Each is `registry user /path/of/the/password`.
fn logins(section: &mut Section<'_>) -> Vec<Login> {
    let mut logins = Vec::new();
    for text in section.texts("logins", LIST_COUNT_MAX) {
        let mut words = text.split_whitespace();
        let (registry, user, file) = (words.next(), words.next(), words.next());
        match (registry, user, file.map(PathBuf::from), words.next()) {
            (Some(registry), Some(user), Some(file), None) if file.is_absolute() => {
                logins.push(Login {
                    registry: registry.to_owned(),
                    user: user.to_owned(),
                    password_file: file,
                });
            }
            _ => section.problem(
                "logins",
                &text,
                "a registry, a user and the absolute path of a file with the password",
            ),
        }
    }
    logins
}
