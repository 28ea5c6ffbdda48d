//! What the node's own configuration lets commands do.
//!
//! Every value here was checked when it was parsed. The node's word is final:
//! nothing that the controller sends can widen it.

use std::path::PathBuf;
use std::time::Duration;

use super::allow::{AllowedArgv, RunMode};
use super::confine::LogRoot;
use super::service::UnitPattern;

/// Commands of one kind that run at once unless configured otherwise: enough
/// for several operators, few enough that an edge device keeps its memory
/// (each holds at most twice its output limit).
pub const SLOTS_DEFAULT: usize = 4;

/// Most slots that may be configured.
pub const SLOTS_MAX: usize = 32;

/// Time between TERM and KILL unless configured otherwise.
pub const KILL_GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// What commands may do on this node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which programs run.
    pub run: RunMode,
    /// Argument lists allowed beside the built-in ones.
    pub allow: Vec<AllowedArgv>,
    /// Units that may be started, stopped and restarted. Every unit's status
    /// may be read.
    pub units: Vec<UnitPattern>,
    /// Directories below which log files may be read.
    pub log_roots: Vec<LogRoot>,
    /// The file that gets the agent's own log lines where no journal does; read
    /// in place of its unit's journal.
    pub own_log: Option<PathBuf>,
    /// The container engine's socket.
    pub docker_socket: PathBuf,
    /// Where commands run, each in a folder of its own that is removed when it
    /// ends.
    pub work_dir: PathBuf,
    /// Commands of one kind that run at once, 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// Time between TERM and KILL.
    pub kill_grace: Duration,
}

impl Settings {
    /// Read-only diagnostics, the status of units, and logs below `/var/log`.
    pub fn new(work_dir: PathBuf) -> Self {
        Self {
            run: RunMode::AllowList,
            allow: Vec::new(),
            units: Vec::new(),
            log_roots: "/var/log".parse().into_iter().collect(),
            own_log: None,
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            work_dir,
            slots: SLOTS_DEFAULT,
            kill_grace: KILL_GRACE_DEFAULT,
        }
    }
}
