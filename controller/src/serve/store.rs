//! Opening what the controller keeps: its keys, its journal, its engine.
//!
//! On the first start everything is
//! made, in an order in which a crash leaves nothing that a second start would
//! trip over: the fleet's id under a name of its own, the keys, the journal, and
//! at last the id's final name.
//!
//! **Invariant:** a journal is begun once, while its fleet is being founded. From
//! then on one that is missing is damage, as keys and the fleet's id are, and
//! nothing is made in its place: a new journal would be an audit trail without a
//! past, and commands that ran could run again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{FleetId, ID_BYTES};
use protocol::key::SigningKey;
use protocol::time::UnixMillis;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::failure::CliFailure;
use crate::clock;
use crate::config::Config;
use crate::domain::moment::Moment;
use crate::durable;
use crate::engine::Engine;
use crate::engine::task::{EngineError, EngineTask, Moments, Options};
use crate::exit::Exit;
use crate::journal::Journal;
use crate::layout;
use crate::pki::{Pki, PkiConfig};
use crate::serve::migrate::{migrate, refuse_newer};
use crate::supervisor;

/// The certificate of the fleet's CA, in the directory of the keys.
const AUTHORITY_FILE: &str = "ca.pem";

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
    refuse_newer(&config.state_dir)?;
    let standing = standing(config)?;
    let fleet = standing.fleet();
    let now = clock::now();
    let pki = Pki::open(pki_config(config, fleet), now)
        .map_err(|error| coded(Exit::Store, error.code(), "the keys cannot be used", &error))?;
    let key = Arc::clone(&pki.signing().borrow());
    let journal = open_journal(&config.state_dir, standing, key, now)?
        .with_checkpoint_every(config.journal.checkpoint_every);
    // The journal's lock says that nobody else has any of it open.
    migrate(config, &journal.reader(), &pki)?;
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
    // A crash may have come between the journal's record of a trust set and the
    // set itself.
    pki.settle(engine.fleet().trust().digest)
        .map_err(|error| coded(Exit::Store, error.code(), "the keys cannot be used", &error))?;
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
    let dir = &config.state_dir;
    if !dir.join(layout::FLEET_FILE).exists() && !dir.join(layout::JOURNAL_FILE).exists() {
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
    CliFailure::because(exit, what, cause)
        .advise(code.info().action)
        .coded(code)
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
        rotation_overlap: config.pki.rotation_overlap,
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
    durable::make_private(dir).map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot make the state directory {}", dir.display()),
            &error,
        )
    })
}

/// How far the fleet of a state directory has come.
#[derive(Clone, Copy)]
enum Standing {
    /// Its first start has not ended: what is missing is made.
    Founding(FleetId),
    /// Everything was made: what is missing was lost.
    Founded(FleetId),
}

impl Standing {
    fn fleet(self) -> FleetId {
        match self {
            Self::Founding(fleet) | Self::Founded(fleet) => fleet,
        }
    }
}

/// Finds the fleet's id, or draws it in a directory that holds nothing of a fleet.
fn standing(config: &Config) -> Result<Standing, CliFailure> {
    let dir = &config.state_dir;
    let (fleet, journal) = (dir.join(layout::FLEET_FILE), dir.join(layout::JOURNAL_FILE));
    let authority = config.pki.dir.join(AUTHORITY_FILE);
    if let Some(id) = read_fleet(&fleet)? {
        return match [&journal, &authority]
            .into_iter()
            .find(|path| !path.exists())
        {
            Some(lost) => Err(missing(lost, &fleet)),
            None => Ok(Standing::Founded(id)),
        };
    }
    let founding = dir.join(layout::FOUNDING_FILE);
    if let Some(id) = read_fleet(&founding)? {
        return Ok(Standing::Founding(id));
    }
    let restoring = dir.join(layout::RESTORING);
    if restoring.exists() {
        return Err(CliFailure::new(
            Exit::Store,
            format!(
                "{} is there: a backup was not restored to its end",
                restoring.display()
            ),
        )
        .advise("run `flotilla backup restore` again"));
    }
    let rest = [journal, dir.join(layout::INTAKE_FILE), authority];
    if let Some(rest) = rest.iter().find(|path| path.exists()) {
        return Err(missing(&fleet, rest));
    }
    let id = new_fleet_id()?;
    layout::write_format(dir, layout::FORMAT)
        .and_then(|()| write_whole(&founding, &format!("{id}\n")))
        .and_then(|()| sync_folder(dir))
        .map_err(|error| cannot("write", &founding, &error))?;
    Ok(Standing::Founding(id))
}

/// The fleet's id in a file; none when there is no such file.
fn read_fleet(path: &Path) -> Result<Option<FleetId>, CliFailure> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|error| {
            coded(
                Exit::Store,
                ErrorCode::StoreCorrupt,
                format_args!("{} is damaged", path.display()),
                &error,
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// Opens the journal, and begins it where the fleet is being founded.
fn open_journal(
    dir: &Path,
    standing: Standing,
    key: Arc<SigningKey>,
    now: UnixMillis,
) -> Result<Journal, CliFailure> {
    let path = dir.join(layout::JOURNAL_FILE);
    let opened = match standing {
        Standing::Founding(fleet) if !path.exists() => Journal::create(&path, fleet, key, now),
        Standing::Founding(_) | Standing::Founded(_) => Journal::open(&path, key),
    };
    let journal = opened.map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the journal cannot be used",
            &error,
        )
    })?;
    if let Standing::Founding(_) = standing {
        let (from, to) = (
            dir.join(layout::FOUNDING_FILE),
            dir.join(layout::FLEET_FILE),
        );
        std::fs::rename(&from, &to)
            .and_then(|()| sync_folder(dir))
            .map_err(|error| cannot("put in place", &to, &error))?;
    }
    Ok(journal)
}

/// A file is gone that was made together with another one.
fn missing(lost: &Path, beside: &Path) -> CliFailure {
    CliFailure::new(
        Exit::Store,
        format!(
            "{} is missing, and {} is there: nothing was made in its place",
            lost.display(),
            beside.display()
        ),
    )
    .advise(
        "restore the whole state directory from a backup and start with \
         `flotilla serve --restored`; for a new fleet, give an empty state_dir",
    )
    .coded(ErrorCode::StoreCorrupt)
}

pub(super) fn cannot(step: &str, path: &Path, error: &std::io::Error) -> CliFailure {
    CliFailure::because(
        Exit::Store,
        format_args!("cannot {step} {}", path.display()),
        error,
    )
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

/// Makes the names in a folder outlive a power cut.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
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

#[cfg(test)]
mod tests;
