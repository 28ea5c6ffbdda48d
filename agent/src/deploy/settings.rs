//! What the node's configuration says about deployments.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::deployment::rules::Rules;

/// What the engine's names begin with where the node says nothing.
const NAME_PREFIX: &str = "flotilla";

/// Who logs in at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The registry, as it stands in references.
    pub registry: String,
    /// The user.
    pub user: String,
    /// The file with the password, read at each pull.
    pub password_file: PathBuf,
}

/// The `deploy` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is allowed.
    pub rules: Rules,
    /// What the engine's names of containers, networks and volumes begin with. It is
    /// read when the agent starts.
    pub name_prefix: String,
    /// A Docker `config.json` with logins at registries.
    pub registry_config: Option<PathBuf>,
    /// Further logins, which win.
    pub logins: Vec<Login>,
    /// A pull or a download that shows no progress for as long is broken off and
    /// taken up again.
    pub stall_timeout: Duration,
    /// The engine's socket.
    pub docker_socket: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            name_prefix: NAME_PREFIX.to_owned(),
            registry_config: None,
            logins: Vec::new(),
            stall_timeout: Duration::from_secs(60),
            docker_socket: PathBuf::from("/var/run/docker.sock"),
        }
    }
}
