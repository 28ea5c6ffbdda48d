//! Opening what the controller keeps: its keys, its journal, its engine.
//!
//! Owns the layout of the state directory. On the first start everything is
//! made, in an order in which a crash leaves nothing that a second start would
//! trip over: the fleet's id, then the keys, then the journal.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::{FleetId, ID_BYTES};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::failure::CliFailure;
use crate::clock;
use crate::config::Config;
use crate::domain::moment::Moment;
use crate::engine::Engine;
use crate::engine::task::{EngineError, EngineTask, Moments, Options};
use crate::exit::Exit;
use crate::journal::Journal;
use crate::pki::{Pki, PkiConfig};
use crate::supervisor;

/// How long an old and a new signing key overlap in a rotation.
const ROTATION_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// File with the fleet's id.
const FLEET_FILE: &str = "fleet";

/// File with the journal.
const JOURNAL_FILE: &str = "journal.redb";

/// What is opened first.
pub struct Store {
    /// The keys.
    pub pki: Pki,
    /// A handle to the engine.
    pub engine: Engine,
    /// The engine's task, to be run.
    pub task: EngineTask,
}

/// Opens keys, journal and engine; makes them on the first start.
///
/// # Errors
/// What is wrong, with the file's path and what to do.
pub fn open(config: &Config) -> Result<Store, CliFailure> {
    make_directory(&config.state_dir)?;
    let fleet = fleet_id(&config.state_dir)?;
    let now = clock::now();
    let pki = Pki::open(pki_config(config, fleet), now)
        .map_err(|error| coded(Exit::Store, error.code(), "the keys cannot be used", &error))?;
    let key = Arc::clone(&pki.signing().borrow());
    let path = config.state_dir.join(JOURNAL_FILE);
    let journal = if path.exists() {
        Journal::open(&path, key)
    } else {
        Journal::create(&path, fleet, key, now)
    }
    .map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the journal cannot be used",
            &error,
        )
    })?
    .with_checkpoint_every(config.journal.checkpoint_every);
    let options = Options {
        snapshot_every: config.journal.snapshot_every,
    };
    let (engine, task) =
        crate::engine::task::open(journal, moments(), options).map_err(|error| {
            coded(
                Exit::Store,
                error.code(),
                "the journal cannot be read",
                &error,
            )
        })?;
    Ok(Store { pki, engine, task })
}

/// An engine that runs for one request, while no controller does.
pub struct Alone {
    stop: CancellationToken,
    running: JoinHandle<Result<(), EngineError>>,
}

impl Alone {
    /// Ends the engine; what was asked is on disk already.
    pub async fn close(self) {
        self.stop.cancel();
        match self.running.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the engine ended with an error"),
            Err(error) => tracing::warn!(%error, "the engine's task failed"),
        }
    }
}

/// Opens an existing state directory and runs its engine, for `flotilla recover`.
///
/// # Errors
/// When there is none, or another process has it open.
pub fn open_alone(config: &Config) -> Result<(Engine, Alone), CliFailure> {
    let journal = config.state_dir.join(JOURNAL_FILE);
    if !journal.exists() {
        return Err(CliFailure::new(
            Exit::Config,
            format!(
                "there is no controller's state in {}",
                config.state_dir.display()
            ),
        )
        .advise("give --state-dir or --config as the controller has it"));
    }
    let store = open(config)?;
    let stop = CancellationToken::new();
    let running = supervisor::spawn("engine", store.task.run(stop.clone()));
    Ok((store.engine, Alone { stop, running }))
}

/// A failure with a code and what to do about it.
pub(crate) fn coded(
    exit: Exit,
    code: ErrorCode,
    what: impl std::fmt::Display,
    cause: &dyn std::error::Error,
) -> CliFailure {
    let mut failure = CliFailure::because(exit, what, cause).advise(code.info().action);
    failure.code = Some(code.text().to_owned());
    failure
}

fn pki_config(config: &Config, fleet: FleetId) -> PkiConfig {
    let mut hosts = config.api.names.clone();
    let advertised = config.api.advertise.as_deref().and_then(host_of);
    for host in advertised
        .map(str::to_owned)
        .into_iter()
        .chain([hostname()])
    {
        if !host.is_empty() && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    PkiConfig {
        directory: config.pki.dir.clone(),
        fleet,
        hosts,
        server_life: config.pki.server_certificate_life,
        node_life: config.pki.node_certificate_life,
        rotation_overlap: ROTATION_OVERLAP,
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> Option<&str> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

/// This host's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn make_directory(dir: &Path) -> Result<(), CliFailure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| {
            CliFailure::because(
                Exit::CannotCreate,
                format_args!("cannot make the state directory {}", dir.display()),
                &error,
            )
        })
}

fn fleet_id(dir: &Path) -> Result<FleetId, CliFailure> {
    let path = dir.join(FLEET_FILE);
    let failed = |step: &str, error: &std::io::Error| {
        CliFailure::because(
            Exit::Store,
            format_args!("cannot {step} {}", path.display()),
            error,
        )
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|error| {
            coded(
                Exit::Store,
                ErrorCode::StoreCorrupt,
                format_args!("{} is damaged", path.display()),
                &error,
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if dir.join(JOURNAL_FILE).exists() {
                return Err(CliFailure::new(
                    Exit::Store,
                    format!("{} is missing beside a journal", path.display()),
                )
                .advise("restore the whole state directory from a backup"));
            }
            let fleet = new_fleet_id()?;
            write_whole(&path, &format!("{fleet}\n")).map_err(|error| failed("write", &error))?;
            Ok(fleet)
        }
        Err(error) => Err(failed("read", &error)),
    }
}

fn new_fleet_id() -> Result<FleetId, CliFailure> {
    let mut bytes = [0; ID_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| CliFailure::new(Exit::Bug, "no random source"))?;
    Ok(FleetId::from_bytes(bytes))
}

/// Writes a file in one step: whole, or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let new: PathBuf = path.with_added_extension("new");
    let file = std::fs::File::create(&new)?;
    std::io::Write::write_all(&mut &file, text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// Time from the clock and ids from the kernel's random source. A kernel that
/// has run for a moment always has randomness; were it to fail, ids repeat and
/// the decision that would reuse one is refused by the domain's own checks.
fn moments() -> Moments {
    let random = SystemRandom::new();
    let mut last = [0; 32];
    Box::new(move || {
        let mut seed = [0; 32];
        if random.fill(&mut seed).is_err() {
            tracing::error!("no random source");
            seed = crate::domain::digest::Digest::of("flotilla seed", &[&last]).0;
        }
        last = seed;
        Moment::new(clock::now(), seed)
    })
}
