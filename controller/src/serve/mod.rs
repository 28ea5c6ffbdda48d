//! `flotilla serve`: the controller, put together.
//!
//! Owns the order in which parts are opened and started, and what each is given.
//! **Invariant:** this is the only place where parts meet; each gets the handles
//! that it needs and nothing else. Start-up is recovery: whatever a crash left
//! is taken up by the parts as they open.

pub mod broker;
pub(crate) mod content;
mod migrate;
pub mod signal;
pub mod store;

pub(crate) mod first;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::api::health::{Health, Probe, TICK, Unwell};
use crate::api::{self, Face, ServeApiError};
use crate::backup::{self, Backups};
use crate::broker::Pipe;
use crate::cli::args::Serve;
use crate::cli::failure::CliFailure;
use crate::clock;
use crate::config::Config;
use crate::domain::access::caller::Caller;
use crate::domain::fleet::trust::{PublishTrust, Retire, signed_text};
use crate::domain::operation::Operation;
use crate::durable;
use crate::engine::Engine;
use crate::exit::Exit;
use crate::fetch::Fetches;
use crate::host::{self, HostSocket};
use crate::layout;
use crate::notify::task::NotifyTask;
use crate::operation::{About, Notify, Operations, Stores};
use crate::pki::enrolment::{Addresses, Enrolment};
use crate::pki::{Pki, fingerprints};
use crate::series::Series;
use crate::supervisor::{Ended, Stage, Supervisor};
use crate::telemetry::Metrics;
use crate::telemetry::log::{self, RecentLog};
use crate::uplink::desk::Watch;
use crate::uplink::intake::Intake;
use crate::uplink::{self, Ordered, Uplink};
use signal::Signals;
use store::{coded, hostname, open, write_whole};

/// What `--ready-file` gets, as one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Base URL of the API.
    pub api: String,
    /// PEM file with the fleet's CA.
    pub ca_file: PathBuf,
    /// Profile with an admin key, if there is one.
    pub profile: Option<PathBuf>,
    /// Broker addresses told to nodes.
    pub broker: Vec<String>,
    /// Local nodes; none but with `flotilla quickstart`.
    pub nodes: Vec<ReadyNode>,
}

/// A local node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyNode {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its runtime directory.
    pub runtime_dir: PathBuf,
    /// Process id of its agent.
    pub pid: u32,
}

/// A controller whose parts have started.
pub struct Controller {
    /// Joins the parts' tasks.
    pub supervisor: Supervisor,
    /// What faces ask.
    pub operations: Arc<Operations>,
    /// Changes the fleet.
    pub engine: Engine,
    /// Presence of nodes.
    pub uplink: Uplink,
    /// Where the API listens.
    pub api_address: SocketAddr,
    /// Where the embedded broker listens for MQTT.
    pub broker_address: Option<SocketAddr>,
    /// What to tell whoever waits for the start.
    pub ready: Ready,
}

/// Runs the subcommand.
///
/// # Errors
/// What to print, and the code to exit with.
pub fn run(asked: Serve) -> Result<Exit, CliFailure> {
    let config = crate::cli::config::load(&asked.source)?;
    let recent = log::start(&config.log)
        .map_err(|error| CliFailure::because(Exit::Config, "cannot log", &error))?;
    runtime()?.block_on(serve(config, recent, asked))
}

/// The runtime of everything but the API.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliFailure> {
    raise_descriptor_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliFailure::because(Exit::Bug, "cannot start a runtime", &error))
}

/// Each node takes three descriptors on the embedded broker; many shells give
/// 1024 and allow far more.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

async fn serve(config: Config, recent: RecentLog, asked: Serve) -> Result<Exit, CliFailure> {
    let signals = Signals::listen()?;
    let state_dir = config.state_dir.clone();
    let controller = start(config, recent).await?;
    if let Some(reason) = restored(&state_dir, asked.restored)? {
        host::raise_incarnation(&controller.engine, reason)
            .await
            .map_err(|failure| CliFailure::new(Exit::Store, failure.detail))?;
        let marker = state_dir.join(layout::RESTORED_FILE);
        durable::remove(&marker).map_err(|error| store::cannot("remove", &marker, &error))?;
    }
    let mut ready = controller.ready;
    ready.profile = first::admin_profile(&controller.engine, &state_dir, &ready).await?;
    if let Some(file) = &asked.ready_file {
        write_ready(file, &ready)?;
    }
    tracing::info!(api = ready.api, broker = ?ready.broker, "the controller is ready");
    tell_systemd(&[sd_notify::NotifyState::Ready]);
    let asked = async {
        signals.asked_to_stop().await;
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
    };
    let ended = controller.supervisor.run(asked).await;
    conclude(&ended)
}

/// Why the incarnation is to be raised, if it is: because it was asked for, or because
/// `flotilla backup restore` left word.
fn restored(state_dir: &Path, asked: bool) -> Result<Option<String>, CliFailure> {
    let marker = state_dir.join(layout::RESTORED_FILE);
    match std::fs::read_to_string(&marker) {
        Ok(reason) => Ok(Some(reason)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(asked.then(|| "restored from a backup (serve --restored)".to_owned()))
        }
        Err(error) => Err(store::cannot("read", &marker, &error)),
    }
}

/// What the end of the supervisor means for the process.
pub(crate) fn conclude(ended: &Ended) -> Result<Exit, CliFailure> {
    match &ended.failure {
        Some((task, reason)) => Err(CliFailure::new(ended.exit, format!("{task}: {reason}"))),
        None if ended.abandoned.is_empty() => {
            tracing::info!("stopped cleanly");
            Ok(Exit::Ok)
        }
        None => {
            tracing::warn!(tasks = ?ended.abandoned, "stopped by force");
            Ok(Exit::Ok)
        }
    }
}

/// Writes the ready file in one step.
pub(crate) fn write_ready(file: &Path, ready: &Ready) -> Result<(), CliFailure> {
    serde_json::to_string(ready)
        .map_err(std::io::Error::other)
        .and_then(|text| write_whole(file, &format!("{text}\n")))
        .map_err(|error| {
            CliFailure::because(
                Exit::CannotCreate,
                format_args!("cannot write the ready file {}", file.display()),
                &error,
            )
        })
}

/// Tells systemd something, where there is one.
fn tell_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Opens and starts everything.
///
/// # Errors
/// The first part that cannot start, with what to do.
pub async fn start(config: Config, recent: RecentLog) -> Result<Controller, CliFailure> {
    let started_at = clock::now();
    let store::Store { pki, engine, task } = open(&config)?;
    let mut supervisor = Supervisor::default();
    supervisor.start(
        "engine",
        Stage::Store,
        Exit::Store,
        task.run(supervisor.stop(Stage::Store)),
    );
    let host_socket = HostSocket::bind(&config.state_dir)
        .map_err(|error| CliFailure::because(Exit::CannotCreate, "no host socket", &error))?;
    supervisor.start(
        "host socket",
        Stage::Intake,
        Exit::Store,
        host_socket.run(engine.clone(), supervisor.stop(Stage::Intake)),
    );
    publish_trust(&engine, &pki).await?;
    write_ca(&ca_file(&config), &pki)?;
    run_pki(&mut supervisor, &config, &pki, &engine);
    let series = open_series(&mut supervisor, &config, &engine, started_at).await?;
    let broker = broker::start(&mut supervisor, &config, &pki, &engine).await?;
    let (broker_address, pipe) = (broker.address, Arc::clone(&broker.pipe));
    let bound = api::bind(config.api.listen).map_err(cannot_serve)?;
    let api_address = bound.address;
    let address = advertised(&config, api_address);
    let brokers = broker.advertised(&config, &address);
    let intake = open_intake(&config)?;
    let uplink = open_uplink(
        &mut supervisor,
        &config,
        &engine,
        &pki,
        broker,
        &series,
        intake.clone(),
    )?;
    let addresses = Addresses {
        brokers: brokers.clone(),
        controllers: vec![address.clone()],
    };
    let enrolment = Enrolment::new(engine.clone(), pki.clone(), addresses, Arc::new(clock::now));
    let health = Arc::new(Health::new(probes(&engine, &uplink, &series, pipe)));
    let about = About {
        address: address.clone(),
        pki: pki.clone(),
        configuration: format!("{config:#?}"),
        started_at,
        log: recent,
    };
    let (stores, notify) = content::open(&config, &pki)?;
    let backups = open_backups(&config, &engine, &pki, &intake)?;
    run_notify(&mut supervisor, &engine, intake, &notify);
    let fetches = run_contents(&mut supervisor, &engine, &uplink, &stores);
    let operations = Arc::new(Operations::new(
        engine.clone(),
        uplink.clone(),
        series,
        stores,
        notify,
        backups,
        about,
    ));
    let stop = supervisor.stop(Stage::Intake);
    let face = Arc::new(Face::new(
        Arc::clone(&operations),
        Arc::new(Metrics::new()),
        Arc::clone(&health),
        &config.api,
        stop.clone(),
    ));
    let nodes = api::node::routes(enrolment).merge(api::node::fetch_routes(fetches));
    let router = api::router(&face, nodes);
    let (tls, api_config) = (pki.api_tls(), config.api.clone());
    supervisor.start("api", Stage::Intake, Exit::Unavailable, async move {
        api::serve(bound, tls, router, &api_config, stop).await
    });
    run_pulse(&mut supervisor, health);
    let ready = Ready {
        api: format!("https://{address}"),
        ca_file: ca_file(&config),
        profile: None,
        broker: brokers,
        nodes: Vec::new(),
    };
    Ok(Controller {
        supervisor,
        operations,
        engine,
        uplink,
        api_address,
        broker_address,
        ready,
    })
}

fn cannot_serve(error: ServeApiError) -> CliFailure {
    CliFailure::because(Exit::Unavailable, "cannot serve the API", &error)
        .advise("choose another address with api.listen, or stop what listens there")
}

/// Where operators, and brokers of their own, find the CAs of the trust set: the
/// files beside the keys are private with them.
fn ca_file(config: &Config) -> PathBuf {
    config.state_dir.join("ca.pem")
}

/// Writes the CAs of the trust set in force.
fn write_ca(path: &Path, pki: &Pki) -> Result<(), CliFailure> {
    write_whole(path, &pki.authorities_pem()).map_err(|error| {
        CliFailure::because(
            Exit::CannotCreate,
            format_args!("cannot write {}", path.display()),
            &error,
        )
    })
}

/// `host:port` under which others reach the API.
fn advertised(config: &Config, bound: SocketAddr) -> String {
    if let Some(address) = &config.api.advertise {
        return address.clone();
    }
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let host = config.api.names.first().cloned().unwrap_or_else(hostname);
    format!("{host}:{}", bound.port())
}

/// Records the trust set in force, so that sessions push it to nodes.
async fn publish_trust(engine: &Engine, pki: &Pki) -> Result<(), CliFailure> {
    let trust = Arc::clone(&pki.trust().borrow());
    if engine.fleet().trust().version >= trust.version {
        return Ok(());
    }
    let facts = pki
        .trust_facts()
        .map_err(|error| coded(Exit::Store, error.code(), "the keys cannot be used", &error))?;
    let operation = Operation::PublishTrust(PublishTrust {
        version: trust.version,
        digest: trust.digest(),
        controller_keys: facts.set.controller_keys.iter().copied().collect(),
        authorities: fingerprints(&facts.set).into_iter().collect(),
        signed: signed_text(&trust.signed),
        // It is in force already; this only says so.
        retire: Retire::Forced,
    });
    engine
        .submit(Caller::System, None, operation)
        .await
        .map(|_| ())
        .map_err(|error| {
            coded(
                Exit::Store,
                error.code(),
                "the trust set cannot be recorded",
                &error,
            )
        })
}

fn run_pki(supervisor: &mut Supervisor, config: &Config, pki: &Pki, engine: &Engine) {
    let stop = supervisor.stop(Stage::Work);
    let running = pki.clone();
    supervisor.start("certificates", Stage::Work, Exit::Store, async move {
        running.run(clock::now, stop).await;
        Ok::<(), std::convert::Infallible>(())
    });
    let stop = supervisor.stop(Stage::Work);
    let (mut signing, mut trust) = (pki.signing(), pki.trust());
    let (journal, ca_file, pki) = (engine.journal().clone(), ca_file(config), pki.clone());
    supervisor.start("keys in use", Stage::Work, Exit::Store, async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                Ok(()) = signing.changed() => {
                    journal.set_key(Arc::clone(&signing.borrow_and_update()));
                }
                Ok(()) = trust.changed() => {
                    if let Err(failure) = write_ca(&ca_file, &pki) {
                        tracing::error!(%failure, "the copy of the CAs for operators is old");
                    }
                }
            }
        }
    });
}

async fn open_series(
    supervisor: &mut Supervisor,
    config: &Config,
    engine: &Engine,
    now: UnixMillis,
) -> Result<Series, CliFailure> {
    let fleet = engine.watch();
    let settings = crate::series::Settings {
        dir: config.state_dir.join(layout::SERIES),
        retention: config.series.retention,
        retention_rollup: config.series.retention_rollup,
        bytes_max: config.series.bytes_max,
        remote_write: config.series.remote_write.as_ref().map(|remote| {
            crate::series::remote::Settings {
                url: remote.url.clone(),
                bearer_token_file: remote.bearer_token_file.clone(),
                ca_file: remote.ca_file.clone(),
                allow: config.outbound.allow.clone(),
            }
        }),
        tags: Arc::new(move |id| {
            let fleet = fleet.borrow();
            let node = fleet.node(id)?;
            Some((node.name.clone(), node.labels.clone()))
        }),
    };
    let opened = tokio::task::spawn_blocking(move || Series::open(settings, now))
        .await
        .map_err(|error| CliFailure::because(Exit::Bug, "opening the series failed", &error))?;
    let (series, upkeep) = opened.map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the stored metrics cannot be used",
            &error,
        )
    })?;
    let stop = supervisor.stop(Stage::Store);
    supervisor.start("series", Stage::Store, Exit::Store, upkeep.run(stop));
    Ok(series)
}

fn open_intake(config: &Config) -> Result<Intake, CliFailure> {
    Intake::open(&config.state_dir.join(layout::INTAKE_FILE)).map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "the intake store cannot be used",
            &error,
        )
    })
}

fn open_backups(
    config: &Config,
    engine: &Engine,
    pki: &Pki,
    intake: &Intake,
) -> Result<Backups, CliFailure> {
    backup::sweep(&config.state_dir).map_err(|error| {
        coded(
            Exit::Store,
            error.code(),
            "what a backup left behind cannot be removed",
            &error,
        )
    })?;
    Ok(Backups::new(
        config.state_dir.clone(),
        engine.journal().clone(),
        intake.clone(),
        pki.clone(),
        config.backup.recipients.clone(),
    ))
}

/// Sweeps contents from here on, and gives what nodes fetch them by.
fn run_contents(
    supervisor: &mut Supervisor,
    engine: &Engine,
    uplink: &Uplink,
    stores: &Stores,
) -> Fetches {
    let (vault, archives) = (stores.vault.clone(), stores.archives.clone());
    let releases = stores.releases.clone();
    supervisor.start(
        "contents",
        Stage::Work,
        Exit::Store,
        content::sweep(
            engine.clone(),
            vault.clone(),
            [archives.clone(), releases.clone()],
            supervisor.stop(Stage::Work),
        ),
    );
    Fetches::new(
        engine.clone(),
        vault,
        archives,
        releases,
        Arc::new(Ordered::new(engine.watch(), uplink.clone())),
        Arc::new(clock::now),
    )
}

fn run_notify(supervisor: &mut Supervisor, engine: &Engine, intake: Intake, notify: &Notify) {
    let task = NotifyTask::new(crate::notify::task::Parts {
        intake,
        fleet: engine.watch(),
        courier: notify.courier.clone(),
        board: notify.board.clone(),
        clock: clock::now,
    });
    let stop = supervisor.stop(Stage::Work);
    supervisor.start("notices", Stage::Work, Exit::Store, task.run(stop));
}

fn open_uplink(
    supervisor: &mut Supervisor,
    config: &Config,
    engine: &Engine,
    pki: &Pki,
    broker: broker::Broker,
    series: &Series,
    intake: Intake,
) -> Result<Uplink, CliFailure> {
    let (uplink, task) = uplink::task::open(uplink::task::Parts {
        heartbeat: config.session.heartbeat,
        watch: Watch {
            silent_after: config.notify.silent_after,
            certificate_life: config.pki.node_certificate_life,
        },
        engine: engine.clone(),
        pki: pki.clone(),
        intake,
        pipe: broker.pipe,
        deliveries: broker.deliveries,
        sink: series.clone(),
        clock: Arc::new(clock::now),
    })
    .map_err(|error| coded(Exit::Store, error.code(), "the uplink cannot start", &error))?;
    let stop = supervisor.stop(Stage::Work);
    supervisor.start("uplink", Stage::Work, Exit::Store, task.run(stop));
    Ok(uplink)
}

fn probes(
    engine: &Engine,
    uplink: &Uplink,
    series: &Series,
    pipe: Arc<dyn Pipe>,
) -> Vec<(&'static str, Probe)> {
    let journal = engine.clone();
    let intake = uplink.clone();
    let series = series.clone();
    let well = |ok: bool, code: ErrorCode, detail: String| {
        if ok {
            Ok(())
        } else {
            Err(Unwell { code, detail })
        }
    };
    vec![
        (
            "journal",
            Box::new(move || {
                let health = journal.health();
                well(health.ok, ErrorCode::JournalUnavailable, health.detail)
            }),
        ),
        (
            "intake",
            Box::new(move || {
                let health = intake.health();
                health.code.map_or(Ok(()), |code| {
                    Err(Unwell {
                        code,
                        detail: health.detail,
                    })
                })
            }),
        ),
        (
            "series",
            Box::new(move || {
                let health = series.health();
                well(health.ok, ErrorCode::SeriesUnavailable, health.detail)
            }),
        ),
        (
            "broker",
            Box::new(move || match pipe.state() {
                crate::broker::PipeState::Up => Ok(()),
                crate::broker::PipeState::Down => Err(Unwell {
                    code: ErrorCode::BrokerUnavailable,
                    detail: "there is no link to the broker".to_owned(),
                }),
            }),
        ),
    ]
}

/// Proves every second that the main runtime moves, to `/healthz` and to
/// systemd's watchdog.
fn run_pulse(supervisor: &mut Supervisor, health: Arc<Health>) {
    let stop = supervisor.stop(Stage::Store);
    let watched = sd_notify::watchdog_enabled().is_some();
    supervisor.start("pulse", Stage::Store, Exit::Bug, async move {
        loop {
            health.tick();
            if watched {
                tell_systemd(&[sd_notify::NotifyState::Watchdog]);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok::<(), std::convert::Infallible>(()),
                () = tokio::time::sleep(TICK) => {}
            }
        }
    });
}
