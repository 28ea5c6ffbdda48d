//! The wiring of a running agent: which tasks there are, and what connects them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::session::BootId;
use protocol::time::UnixMillis;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ClientConfig;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::reload::PasswordError;
use super::watchdog::tell;
use super::{SHUTDOWN_MAX, Stage, Supervisor, bridge, reload, report, watchdog};
use crate::break_glass;
use crate::clock::Clock;
use crate::command;
use crate::config::{Broker, Config, Source};
use crate::dependency::Dependencies;
use crate::deploy;
use crate::deploy::files::Files;
use crate::domain::gate::{Admit, Named};
use crate::durable;
use crate::enrol::{self, IdentityError, Loaded, Summary};
use crate::exit::Exit;
use crate::node::Setup;
use crate::node::task::{self, Ends, StartError, StoreHandle};
use crate::program;
use crate::sampling;
use crate::status::{self, AgentStatus};
use crate::store::spool::FileSpool;
use crate::store::{Limits, RedbDisk};
use crate::tls::{self, ClientIdentity, TlsError};
use crate::update;
use crate::update::launcher::Launched;
use crate::update::layout::Layout;
use crate::update::prepare::Preparation;
use crate::uplink::{self, Target};

/// Orders and events between bridge and executor: a slot's worth each. When full,
/// the sender waits.
const COMMANDS_MAX: usize = 32;

/// How long the uplink gets to send the last receipts before it says goodbye.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The node has no usable identity.
    #[error("cannot use the node's identity")]
    Identity(#[source] IdentityError),
    /// A broker's address that the controller gave is none.
    #[error("the identity names no usable broker")]
    NoBroker,
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] TlsError),
    /// The proxy's password cannot be read.
    #[error("cannot use the proxy")]
    Proxy(#[source] PasswordError),
    /// The core did not start.
    #[error("cannot start the node's core")]
    Core(#[source] StartError),
    /// The status socket cannot be made.
    #[error("cannot serve the status")]
    Status(#[source] status::BindStatusError),
    /// The system gives no random bytes or signals.
    #[error("the system gives no {what}")]
    System {
        /// What was asked for.
        what: &'static str,
    },
    /// A task ended unasked.
    #[error("the task {task} ended: {reason}")]
    Task {
        /// Which.
        task: &'static str,
        /// Why.
        reason: String,
        /// The code for the process.
        exit: Exit,
    },
}

impl RunError {
    /// The process's exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Directory { .. } | Self::Status(_) => Exit::CannotCreate,
            Self::Identity(IdentityError::Missing { .. }) | Self::NoBroker | Self::Proxy(_) => {
                Exit::Config
            }
            Self::Identity(_) | Self::Tls(_) | Self::Core(_) => Exit::Store,
            Self::System { .. } => Exit::Bug,
            Self::Task { exit, .. } => *exit,
        }
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Identity(error) => error.code(),
            Self::NoBroker => ErrorCode::IdentityInvalid,
            Self::Tls(error) => error.code(),
            Self::Core(error) => error.code(),
            Self::Proxy(_) => ErrorCode::ConfigInvalid,
            Self::Directory { .. } | Self::Status(_) | Self::System { .. } | Self::Task { .. } => {
                ErrorCode::Internal
            }
        }
    }
}

/// The brokers that the configuration names, or those of the identity.
pub(super) fn target_brokers(config: &Config, identity: &[Broker]) -> Vec<Broker> {
    if config.uplink.brokers.is_empty() {
        identity.to_vec()
    } else {
        config.uplink.brokers.clone()
    }
}

/// How the process was started, as far as updates need to know.
#[derive(Debug)]
pub struct Start {
    /// By which launcher.
    pub launched: Launched,
    /// Arguments of another version's self-test.
    pub self_test: Vec<OsString>,
}

/// Why an agent stopped in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// So that another version is started.
    ForUpdate,
}

/// Runs the agent of a node that has joined, until it is asked to stop.
///
/// # Errors
/// [`RunError`] when it cannot start, or a task ended unasked.
pub async fn run(
    source: Source,
    config: Config,
    clock: Clock,
    start: Start,
) -> Result<Stopped, RunError> {
    for dir in [&config.dirs.state, &config.dirs.runtime] {
        make_private(dir)?;
    }
    let started = clock.wall();
    let identity_dir = config.dirs.identity();
    let loaded = enrol::load(&identity_dir).map_err(RunError::Identity)?;
    let summary = Summary::read(&identity_dir).map_err(RunError::Identity)?;
    clock.learn(None, Some(loaded.known_at));
    let brokers: Vec<Broker> = loaded
        .brokers
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let target = Target {
        brokers: target_brokers(&config, &brokers),
        proxy: match config.uplink.proxy.clone() {
            Some(proxy) => Some((proxy, reload::password(&config).map_err(RunError::Proxy)?)),
            None => None,
        },
        retry_max: config.uplink.retry_max,
    };
    if target.brokers.is_empty() {
        return Err(RunError::NoBroker);
    }
    let tls = client_tls(&loaded, &clock)?;
    let (core, ends) = task::start(loaded.identity.clone(), setup(&config)?, clock.clone())
        .map_err(RunError::Core)?;
    let wall = clock.clone();
    let dependencies = Dependencies::new(Arc::new(move || wall.wall()));
    let relaunch = Arc::new(AtomicBool::new(false));
    let parts = Parts {
        source,
        config,
        clock,
        started,
        loaded,
        summary,
        brokers,
        target,
        tls,
        core: core.clone(),
        dependencies,
        start,
        relaunch: Arc::clone(&relaunch),
    };
    let (supervisor, asked) = parts.start(ends)?;
    tell(&[NotifyState::Ready]);
    tracing::info!(version = program::version(), "the agent runs");
    let (last, relaunches) = (core.clone(), Arc::clone(&relaunch));
    let ended = supervisor
        .run(
            async move {
                asked.cancelled().await;
                // The service goes on when another version takes the process over:
                // systemd would kill what it was told to be stopping.
                if !relaunches.load(Ordering::Relaxed) {
                    tell(&[NotifyState::Stopping]);
                }
            },
            async move || {
                // An answer means that every result before it is with the core.
                drop(last.status().await);
                tokio::time::sleep(LAST_WORDS).await;
            },
        )
        .await;
    match core.close().await {
        Ok(Ok(())) => tracing::info!("the agent stopped"),
        Ok(Err(error)) => tracing::error!(error = crate::chain(&error), "the store was not closed"),
        Err(error) => tracing::error!(%error, "the store was not closed"),
    }
    if !ended.abandoned.is_empty() {
        tracing::warn!(tasks = ?ended.abandoned, "tasks were abandoned");
    }
    match ended.failure {
        None if relaunch.load(Ordering::Relaxed) => Ok(Stopped::ForUpdate),
        None => Ok(Stopped::Asked),
        Some((task, reason)) => Err(RunError::Task {
            task,
            reason,
            exit: ended.exit,
        }),
    }
}

fn make_private(dir: &Path) -> Result<(), RunError> {
    durable::make_private(dir).map_err(|source| RunError::Directory {
        path: dir.to_owned(),
        source,
    })
}

fn client_tls(loaded: &Loaded, clock: &Clock) -> Result<Arc<ClientConfig>, RunError> {
    let identity = ClientIdentity {
        certificate: &loaded.certificate,
        key: &loaded.key,
    };
    tls::pinned(&loaded.identity.trust.authorities, Some(&identity), clock)
        .map(Arc::new)
        .map_err(RunError::Tls)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

fn seed() -> Result<u64, RunError> {
    random()
        .map(u64::from_le_bytes)
        .ok_or(RunError::System { what: "randomness" })
}

/// What the core needs. It is put together on the core's own thread.
fn setup(config: &Config) -> Result<impl FnOnce() -> Setup + Send + 'static, RunError> {
    let (disk, spool) = (config.dirs.store(), config.dirs.spool());
    let store = config.store.clone();
    let seed = seed()?;
    Ok(move || Setup {
        disk: Box::new(RedbDisk::file(&disk)),
        spool: Box::new(FileSpool::new(&spool)),
        limits: Limits {
            telemetry_bytes_max: store.telemetry_bytes_max,
            backfill_bytes_max: store.backfill_bytes_max,
            control_bytes_max: store.control_bytes_max,
            free_bytes_min: store.free_bytes_min,
        },
        boot: boot_id(),
        agent_version: program::version().to_owned(),
        // The kernel's source does not fail once it worked, and it worked for the
        // seed; a nonce of zeroes would only make one session easier to replay.
        draw: Box::new(|| random().unwrap_or_default()),
        seed,
    })
}

/// The kernel's id of this boot; zeroes where it gives none.
fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
    BootId(
        bytes
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or_default(),
    )
}

/// What the identity's keeper changes, and what moves it.
struct Keep {
    target: watch::Sender<Arc<Target>>,
    tls: watch::Sender<Arc<ClientConfig>>,
    expires: watch::Sender<UnixMillis>,
    trusted: watch::Receiver<Option<Arc<task::Trusted>>>,
    nudges: Arc<task::Nudges>,
}

/// What updates are made from.
struct Updates {
    deployments: watch::Receiver<Arc<crate::store::Deployments>>,
    node: watch::Receiver<Arc<crate::node::NodeStatus>>,
    trusted: watch::Receiver<Option<Arc<task::Trusted>>>,
    states: watch::Sender<Arc<deploy::task::States>>,
    downloads: enrol::Downloads,
    admit: Admit,
    end: CancellationToken,
}

/// What the status is put together from.
struct Seen {
    node: watch::Receiver<Arc<crate::node::NodeStatus>>,
    uplink: watch::Receiver<uplink::State>,
    named: watch::Receiver<Named>,
    expires: watch::Receiver<UnixMillis>,
    deployments: watch::Receiver<Arc<deploy::task::States>>,
    glass: watch::Receiver<Option<String>>,
}

/// Everything that the tasks are made from.
struct Parts {
    source: Source,
    config: Config,
    clock: Clock,
    started: UnixMillis,
    loaded: Loaded,
    summary: Summary,
    brokers: Vec<Broker>,
    target: Target,
    tls: Arc<ClientConfig>,
    core: StoreHandle,
    dependencies: Dependencies,
    start: Start,
    relaunch: Arc<AtomicBool>,
}

impl Parts {
    /// Starts every task. The token is cancelled when the agent is asked to stop.
    fn start(self, ends: Ends) -> Result<(Supervisor, CancellationToken), RunError> {
        let mut supervisor = Supervisor::new(SHUTDOWN_MAX);
        let (config, config_rx) = watch::channel(Arc::new(self.config.clone()));
        let (settings, settings_rx) = watch::channel(self.config.command.clone());
        let (deploy, deploy_rx) = watch::channel(Arc::new(self.config.deploy.clone()));
        let (states, states_rx) = watch::channel(Arc::default());
        let (target, target_rx) = watch::channel(Arc::new(self.target.clone()));
        let (tls, tls_rx) = watch::channel(Arc::clone(&self.tls));
        let (expires, expires_rx) = watch::channel(self.summary.certificate_not_after);
        let (uplink_state, uplink_rx) = watch::channel(uplink::State::default());
        let (reload_tx, reload_rx) = mpsc::channel(4);
        let asked = self.signals(&mut supervisor)?;
        let admit = self.admit(ends.status.clone());
        self.start_commands(
            &mut supervisor,
            settings_rx,
            reload_tx,
            ends.orders,
            Arc::clone(&admit),
        );
        let downloads = || self.downloads(tls_rx.clone(), target_rx.clone());
        let updates = Updates {
            deployments: ends.deployments.clone(),
            node: ends.status.clone(),
            trusted: ends.trusted.clone(),
            states: states.clone(),
            downloads: downloads(),
            admit: Arc::clone(&admit),
            end: asked.clone(),
        };
        self.start_updates(&mut supervisor, updates)?;
        self.start_deployments(
            &mut supervisor,
            deploy_rx,
            ends.deployments,
            states,
            downloads(),
            admit,
        )?;
        supervisor.start(
            "sampling",
            Stage::Work,
            Exit::Bug,
            sampling::run(sampling::Context {
                config: config_rx.clone(),
                clock: self.clock.clone(),
                store: self.core.clone(),
                kept: ends.samples,
                holding: ends.holding,
                live: ends.live,
                link: ends.status.clone(),
                dependencies: self.dependencies.clone(),
                certificate_expires_at: expires_rx.clone(),
                stop: supervisor.stop(Stage::Work),
            }),
        );
        let glass = self.start_break_glass(&mut supervisor, config_rx.clone());
        supervisor.start(
            "reload",
            Stage::Link,
            Exit::Bug,
            reload::run(reload::Context {
                source: self.source.clone(),
                config,
                settings,
                deploy,
                target: target.clone(),
                brokers: self.brokers.clone(),
                requests: reload_rx,
                stop: supervisor.stop(Stage::Link),
            }),
        );
        let seen = Seen {
            node: ends.status,
            uplink: uplink_rx,
            named: ends.named,
            expires: expires_rx,
            deployments: states_rx,
            glass,
        };
        self.start_status(&mut supervisor, seen)?;
        self.start_watchdog(&mut supervisor, config_rx);
        supervisor.start(
            "uplink",
            Stage::Link,
            Exit::Bug,
            uplink::run(uplink::Context {
                fleet: self.summary.fleet,
                node: self.summary.node,
                target: target_rx,
                tls: tls_rx,
                core: self.core.clone(),
                wire: ends.wire,
                nudges: Arc::clone(&ends.nudges),
                clock: self.clock.clone(),
                seed: seed()?,
                state: uplink_state,
                stop: supervisor.stop(Stage::Link),
            }),
        );
        let keep = Keep {
            target,
            tls,
            expires,
            trusted: ends.trusted,
            nudges: ends.nudges,
        };
        self.start_identity(&mut supervisor, keep)?;
        Ok((supervisor, asked))
    }

    /// Starts what tells systemd that work goes on.
    fn start_watchdog(&self, supervisor: &mut Supervisor, config: watch::Receiver<Arc<Config>>) {
        supervisor.start(
            "watchdog",
            Stage::Link,
            Exit::Bug,
            watchdog::run(
                config,
                self.core.clone(),
                self.clock.clone(),
                supervisor.stop(Stage::Link),
            ),
        );
    }

    /// How contents and archives come from the controller.
    fn downloads(
        &self,
        tls: watch::Receiver<Arc<ClientConfig>>,
        target: watch::Receiver<Arc<Target>>,
    ) -> enrol::Downloads {
        let fixed = &self.config.uplink.controllers;
        enrol::Downloads {
            controllers: if fixed.is_empty() {
                self.loaded.controllers.clone()
            } else {
                fixed.clone()
            },
            tls,
            target,
            core: self.core.clone(),
        }
    }

    /// Starts what reads the break-glass file; yields what is wrong with it.
    fn start_break_glass(
        &self,
        supervisor: &mut Supervisor,
        config: watch::Receiver<Arc<Config>>,
    ) -> watch::Receiver<Option<String>> {
        let (problem, seen) = watch::channel(None);
        supervisor.start(
            "break-glass",
            Stage::Link,
            Exit::Bug,
            break_glass::run(break_glass::Context {
                config,
                core: self.core.clone(),
                clock: self.clock.clone(),
                problem,
                stop: supervisor.stop(Stage::Link),
            }),
        );
        seen
    }

    /// Starts what keeps the identity fresh; it takes the identity over.
    fn start_identity(self, supervisor: &mut Supervisor, ends: Keep) -> Result<(), RunError> {
        let controllers_fixed = !self.config.uplink.controllers.is_empty();
        let keep = enrol::Context {
            dir: self.config.dirs.identity(),
            node: self.summary.node,
            key: self.loaded.key,
            certificate: self.loaded.certificate,
            trust: self.loaded.identity.trust,
            controllers: if controllers_fixed {
                self.config.uplink.controllers.clone()
            } else {
                self.loaded.controllers
            },
            controllers_fixed,
            target: ends.target,
            brokers_fixed: !self.config.uplink.brokers.is_empty(),
            tls: ends.tls,
            expires: ends.expires,
            trusted: ends.trusted,
            core: self.core,
            dependencies: self.dependencies,
            nudges: ends.nudges,
            clock: self.clock,
            seed: seed()?,
            stop: supervisor.stop(Stage::Link),
        };
        supervisor.start("identity", Stage::Link, Exit::Bug, enrol::run(keep));
        Ok(())
    }

    /// The gate as the core last put it, at the time that it is asked.
    fn admit(&self, node: watch::Receiver<Arc<crate::node::NodeStatus>>) -> Admit {
        let clock = self.clock.clone();
        Arc::new(move |attempt| node.borrow().gate.admit(attempt, clock.moment()))
    }

    fn start_commands(
        &self,
        supervisor: &mut Supervisor,
        settings: watch::Receiver<command::Settings>,
        reload: mpsc::Sender<command::ReloadRequest>,
        orders: mpsc::Receiver<task::Order>,
        admit: Admit,
    ) {
        let (executor, executor_orders) = mpsc::channel(COMMANDS_MAX);
        let (events, events_rx) = mpsc::channel(COMMANDS_MAX);
        let (controller, wall) = (self.clock.clone(), self.clock.clone());
        let context = command::Context {
            settings,
            clocks: command::Clocks {
                controller: Arc::new(move || controller.controller_now()),
                wall: Arc::new(move || wall.wall()),
            },
            orders: executor_orders,
            events,
            reload,
            admit,
            stop: supervisor.stop(Stage::Work),
        };
        supervisor.start("command", Stage::Work, Exit::Bug, async {
            command::run(context).await;
            Ok::<(), std::convert::Infallible>(())
        });
        supervisor.start(
            "bridge",
            Stage::Results,
            Exit::Bug,
            bridge::run(
                orders,
                executor,
                events_rx,
                self.core.clone(),
                self.clock.clone(),
                supervisor.stop(Stage::Results),
            ),
        );
    }

    fn start_deployments(
        &self,
        supervisor: &mut Supervisor,
        settings: watch::Receiver<Arc<deploy::Settings>>,
        deployments: watch::Receiver<Arc<crate::store::Deployments>>,
        states: watch::Sender<Arc<deploy::task::States>>,
        downloads: enrol::Downloads,
        admit: Admit,
    ) -> Result<(), RunError> {
        let (moment, controller) = (self.clock.clone(), self.clock.clone());
        let node = self.summary.node;
        let context = deploy::task::Context {
            node,
            runtime: deploy::docker::Engine::new(node, settings.clone()),
            fetcher: downloads,
            core: self.core.clone(),
            files: Files::below(self.config.dirs.deploy()),
            settings,
            dependencies: self.dependencies.clone(),
            deployments,
            states,
            admit,
            clocks: deploy::Clocks {
                moment: Arc::new(move || moment.moment()),
                controller: Arc::new(move || controller.controller_now()),
            },
            seed: seed()?,
            stop: supervisor.stop(Stage::Work),
        };
        supervisor.start("deploy", Stage::Work, Exit::Bug, deploy::task::run(context));
        Ok(())
    }

    fn start_updates(&self, supervisor: &mut Supervisor, ends: Updates) -> Result<(), RunError> {
        let (moment, controller) = (self.clock.clone(), self.clock.clone());
        let context = update::task::Context {
            core: self.core.clone(),
            preparation: Preparation {
                fetcher: ends.downloads,
                layout: Layout::below(&self.config.dirs.state),
                bytes_per_s_max: self.config.update.bytes_per_s_max,
                self_test: self.start.self_test.clone(),
            },
            launched: self.start.launched.clone(),
            enabled: self.config.update.enabled,
            deployments: ends.deployments,
            node: ends.node,
            keys: self.loaded.identity.trust.release_keys.clone(),
            trusted: ends.trusted,
            states: ends.states,
            admit: ends.admit,
            clocks: deploy::Clocks {
                moment: Arc::new(move || moment.moment()),
                controller: Arc::new(move || controller.controller_now()),
            },
            seed: seed()?,
            end: ends.end,
            relaunch: Arc::clone(&self.relaunch),
            stop: supervisor.stop(Stage::Work),
        };
        supervisor.start("update", Stage::Work, Exit::Bug, update::task::run(context));
        Ok(())
    }

    fn start_status(&self, supervisor: &mut Supervisor, seen: Seen) -> Result<(), RunError> {
        let (out, document) = watch::channel(Arc::new(AgentStatus::default()));
        let dirs = &self.config.dirs;
        let server = status::Server::bind(&dirs.socket(), &dirs.store(), document)
            .map_err(RunError::Status)?;
        let stop = supervisor.stop(Stage::Link);
        supervisor.start("status", Stage::Link, Exit::Bug, async {
            server.run(stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
        supervisor.start(
            "report",
            Stage::Link,
            Exit::Bug,
            report::run(report::Context {
                summary: self.summary.clone(),
                node: seen.node,
                uplink: seen.uplink,
                named: seen.named,
                expires: seen.expires,
                deployments: seen.deployments,
                glass: seen.glass,
                dependencies: self.dependencies.clone(),
                out,
                core: self.core.clone(),
                layout: Layout::below(&self.config.dirs.state),
                base: self.start.launched.base.clone(),
                clock: self.clock.clone(),
                started: self.started,
                stop: supervisor.stop(Stage::Link),
            }),
        );
        Ok(())
    }

    /// SIGTERM and SIGINT ask the agent to stop; the second one ends it at once.
    fn signals(&self, supervisor: &mut Supervisor) -> Result<CancellationToken, RunError> {
        let no_signals = |_| RunError::System { what: "signals" };
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let asked = CancellationToken::new();
        let (told, stop) = (asked.clone(), supervisor.stop(Stage::Link));
        supervisor.start("signals", Stage::Link, Exit::Bug, async move {
            for round in 0.. {
                tokio::select! {
                    () = stop.cancelled() => break,
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if round > 0 {
                    tracing::warn!("asked to stop twice, the agent ends at once");
                    end_at_once();
                }
                told.cancel();
            }
            Ok::<(), std::convert::Infallible>(())
        });
        Ok(asked)
    }
}

#[expect(
    clippy::exit,
    reason = "the second signal means at once; what is durable is safe by design"
)]
fn end_at_once() {
    std::process::exit(i32::from(Exit::Failed.code()));
}
