//! The command line of `flotilla-agent`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use protocol::ErrorCode;

use crate::clock::Clock;
use crate::config::{self, Broker, Config, LoadError, Source};
use crate::doctor::{self, Subject};
use crate::domain::backoff::Backoff;
use crate::domain::update::record::UpdateRecord;
use crate::enrol::{self, Existing, IdentityError, JoinError, JoinOptions, Summary, TokenText};
use crate::exit::{self, Exit};
use crate::program;
use crate::store::SCHEMA;
use crate::supervisor;
use crate::supervisor::Stopped;
use crate::tls::{self, ClientIdentity};
use crate::update::launcher::{self, Launched, Launcher, Launching};
use crate::update::layout::{Layout, LayoutError};
use crate::update::prepare::SelfTest;
use crate::{status, support, telemetry};

/// Measures this host, obeys its fleet's controller, keeps what must not be lost.
#[derive(Debug, Parser)]
#[command(name = "flotilla-agent", version = program::version(), after_help = exit::HELP, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Places {
    /// The configuration file; must exist when named
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_AGENT_CONFIG",
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    /// Where keys, certificates and the store are kept
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Where unacknowledged samples and the status socket are kept (a tmpfs)
    #[arg(long, global = true, value_name = "DIR")]
    runtime_dir: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent, joining first where a token is configured
    Run(RunArgs),
    /// Join a fleet: make keys, and have the controller certify them
    #[command(
        after_help = "Examples:\n  flotilla-agent join flj1_…\n  flotilla-agent join --token-file /run/secrets/join --name web-1 --wait 10m"
    )]
    Join(JoinArgs),
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show how the running agent is
    Status {
        /// table or json
        #[arg(long, short, default_value = "table")]
        output: status::Output,
    },
    /// Examine this node and say what to do about what is wrong
    Doctor {
        /// table or json
        #[arg(long, short, default_value = "table")]
        output: status::Output,
    },
    /// Go back to the version that ran before the last update
    #[command(
        after_help = "The update that is given up is not tried again until another one is ordered.\n\nExamples:\n  flotilla-agent rollback"
    )]
    Rollback,
    /// Say what this program is, for the version that is about to start it
    #[command(hide = true)]
    SelfTest,
    /// Put what helps to find a fault into one archive, without secrets
    Support(SupportArgs),
}

/// What a launcher says to the version that it starts; see `update::launcher`.
#[derive(Args, Debug)]
struct RunArgs {
    /// The launcher's program
    #[arg(long, hide = true, value_name = "FILE", requires = "launcher_version")]
    launcher: Option<PathBuf>,
    /// The launcher's version
    #[arg(long, hide = true, value_name = "VERSION", requires = "launcher")]
    launcher_version: Option<String>,
    /// The launcher watches
    #[arg(long, hide = true, requires = "launcher")]
    guarded: bool,
}

#[derive(Args, Debug)]
struct SupportArgs {
    /// The archive to make; it must not be there
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct JoinArgs {
    /// The token that `flotilla token create` printed
    #[arg(env = "FLOTILLA_JOIN_TOKEN", hide_env_values = true)]
    token: Option<TokenText>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The name to ask for; the host's name when not given
    #[arg(long)]
    name: Option<String>,
    /// Give up an identity that is there, and join as a new node
    #[arg(long)]
    replace: bool,
    /// How long to wait for an operator's approval, such as 10m; for ever when not given
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the file, the environment and the flags; say all problems at once
    Check,
}

/// What the environment holds, so that nothing else reads it. It may hold a join
/// token, so there is no `Debug`.
#[derive(Clone, Default)]
pub struct Environment {
    /// All variables.
    pub variables: Vec<(String, String)>,
    /// This program's file.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
}

impl Environment {
    /// What the configuration may be made from, and no secret.
    fn settings(&self) -> Vec<(String, String)> {
        let wanted = |name: &str| {
            name.starts_with("FLOTILLA_AGENT_")
                || matches!(name, "RUNTIME_DIRECTORY" | "STATE_DIRECTORY")
        };
        let variables = self.variables.iter();
        variables
            .filter(|(name, _)| wanted(name))
            .cloned()
            .collect()
    }

    /// The arguments that the launcher was given: it appends its own.
    fn arguments_of_launcher(&self) -> Vec<OsString> {
        let own = self.arguments.iter().position(|word| word == "--launcher");
        let end = own.unwrap_or(self.arguments.len());
        self.arguments.iter().take(end).cloned().collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

impl Places {
    fn source(&self, environment: &Environment) -> Source {
        let mut flags = Vec::new();
        if let Some(dir) = &self.state_dir {
            flags.push(("state.dir", absolute(dir)));
        }
        if let Some(dir) = &self.runtime_dir {
            flags.push(("runtime.dir", absolute(dir)));
        }
        Source {
            file_required: self.config.is_some(),
            file: self
                .config
                .clone()
                .unwrap_or_else(|| PathBuf::from(config::DEFAULT_FILE)),
            environment: environment.settings(),
            flags,
        }
    }
}

impl Places {
    /// The flags that lead another version to the same places.
    fn flags(&self) -> Vec<OsString> {
        let dirs = [
            ("--state-dir", &self.state_dir),
            ("--runtime-dir", &self.runtime_dir),
        ];
        let config = self.config.iter().flat_map(|file| {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            [OsString::from("--config"), file.into()]
        });
        let dirs = dirs.into_iter().flat_map(|(flag, dir)| {
            let dir = dir.as_ref().map(|dir| absolute(dir));
            dir.into_iter()
                .flat_map(move |dir| [OsString::from(flag), dir.into()])
        });
        config.chain(dirs).collect()
    }
}

/// Flags are typed by people, for whom a relative path is from where they stand.
fn absolute(dir: &str) -> String {
    std::path::absolute(dir).map_or_else(|_| dir.to_owned(), |path| path.display().to_string())
}

/// A command that did not do what it was asked to.
struct Failure {
    exit: Exit,
    code: ErrorCode,
    text: String,
}

impl Failure {
    fn new(exit: Exit, code: ErrorCode, error: &dyn std::error::Error) -> Self {
        Self {
            exit,
            code,
            text: crate::chain(error),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(Exit::Config, error.code(), &error)
    }
}

/// The exit code of a failed join.
fn join_exit(error: &JoinError) -> Exit {
    match error {
        JoinError::Token(_) | JoinError::Answer { .. } | JoinError::Trust(_) => Exit::Data,
        JoinError::Fingerprint { .. } => Exit::Denied,
        JoinError::Already { .. } => Exit::CannotCreate,
        JoinError::NotApproved { .. } => Exit::Later,
        JoinError::Keys { .. } => Exit::Bug,
        JoinError::Files(_) => Exit::Store,
        JoinError::Request(error) => match error {
            enrol::RequestError::Unreachable { .. } => Exit::Unavailable,
            enrol::RequestError::Refused { .. } if error.is_passing() => Exit::Unavailable,
            enrol::RequestError::Refused { .. } => Exit::Denied,
            enrol::RequestError::Malformed { .. } => Exit::Data,
            enrol::RequestError::Tls(_) | enrol::RequestError::Client(_) => Exit::Bug,
        },
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::new(join_exit(&error), error.code(), &error)
    }
}

/// The program: reads the command line and the environment, and hands over.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version were asked for; anything else is wrong usage.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            // Without a place to write to there is nobody to tell.
            drop(error.print());
            return exit.into();
        }
    };
    let environment = Environment {
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        program: std::env::current_exe().unwrap_or_default(),
        arguments: std::env::args_os().skip(1).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build();
    let Ok(runtime) = runtime else {
        return Exit::Bug.into();
    };
    let exit = runtime.block_on(run(
        cli,
        environment,
        &mut std::io::stdout(),
        &mut std::io::stderr(),
    ));
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit.into()
}

/// Carries a command line out.
pub async fn run(
    cli: Cli,
    environment: Environment,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> Exit {
    match dispatch(cli, &environment, out).await {
        Ok(exit) => exit,
        Err(failure) => {
            let Failure { exit, code, text } = failure;
            let action = code.info().action;
            // Without a place to write to there is nobody to tell.
            drop(writeln!(err, "flotilla-agent: {text} ({code})\n  {action}"));
            exit
        }
    }
}

async fn dispatch(
    cli: Cli,
    environment: &Environment,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let source = cli.places.source(environment);
    let places = cli.places.flags();
    match cli.command {
        Command::Run(args) => start(&source, environment, places, args).await,
        Command::Rollback => roll_back(&source, out),
        Command::SelfTest => self_test(&source, out),
        Command::Join(args) => join(&source, args, out).await,
        Command::Config {
            command: ConfigCommand::Check,
        } => {
            source.load()?;
            said(writeln!(out, "{} is fine", source.file.display()))
        }
        Command::Doctor { output } => {
            let subject = subject(&source);
            match doctor::show(&subject, output, out) {
                Ok(exit) => Ok(exit),
                Err(error) => said(Err(error)),
            }
        }
        Command::Support(args) => {
            let subject = subject(&source);
            let to = args
                .to
                .unwrap_or_else(|| support::default_output(subject.now));
            match support::write(&subject, &to) {
                Ok(()) => said(writeln!(out, "{}", to.display())),
                Err(error) => Err(Failure::new(error.exit(), ErrorCode::Internal, &error)),
            }
        }
        Command::Status { output } => {
            let config = source.load()?;
            let now = Clock::default().wall();
            match status::show(&config.dirs.socket(), output, now, out) {
                Ok(()) => Ok(Exit::Ok),
                Err(error) => Err(Failure::new(
                    status_exit(error.exit_code()),
                    ErrorCode::PeerUnreachable,
                    &error,
                )),
            }
        }
    }
}

/// Says what this program is, once it has read the configuration as it would to run.
fn self_test(source: &Source, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    source.load()?;
    let about = SelfTest {
        version: program::version().to_owned(),
        target: program::target().to_owned(),
        store_format: u64::from(SCHEMA),
    };
    match serde_json::to_string(&about) {
        Ok(text) => said(writeln!(out, "{text}")),
        Err(error) => Err(Failure::new(Exit::Bug, ErrorCode::Internal, &error)),
    }
}

/// Goes back by hand, and has the service started again where systemd runs it.
fn roll_back(source: &Source, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let layout = Layout::below(&source.dirs().state);
    let on_disk = |error: LayoutError| Failure::new(Exit::Store, error.code(), &error);
    let record = layout.record().map_err(on_disk)?;
    let Some(record) = record.filter(UpdateRecord::is_selected) else {
        return Err(Failure {
            exit: Exit::Failed,
            code: ErrorCode::UpdateNothing,
            text: "there is no version to go back to".to_owned(),
        });
    };
    let reason = "an operator went back at the node";
    layout.enact(&record.reverted(reason)).map_err(on_disk)?;
    let text = format!(
        "version {} is selected again, in place of {}",
        record.from_version, record.version
    );
    let restarted = std::path::Path::new("/run/systemd/system").exists()
        && std::process::Command::new("systemctl")
            .args(["try-restart", "flotilla-agent"])
            .status()
            .is_ok_and(|status| status.success());
    let then = if restarted {
        "the service was started again"
    } else {
        "start the agent again for it"
    };
    said(writeln!(out, "{text}; {then}"))
}

/// What there is to examine, however little of it is in order.
fn subject(source: &Source) -> Subject {
    let clock = Clock::default();
    let config = source.load().map_err(|error| crate::chain(&error));
    let dirs = match &config {
        Ok(config) => config.dirs.clone(),
        Err(_) => source.dirs(),
    };
    let loaded = enrol::load(&dirs.identity());
    let (mut brokers, mut controllers) = match &loaded {
        Ok(loaded) => (
            loaded
                .brokers
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            loaded.controllers.clone(),
        ),
        Err(_) => (Vec::new(), Vec::new()),
    };
    if let Ok(config) = &config {
        if !config.uplink.brokers.is_empty() {
            brokers.clone_from(&config.uplink.brokers);
        }
        if !config.uplink.controllers.is_empty() {
            controllers.clone_from(&config.uplink.controllers);
        }
    }
    let tls = loaded
        .map_err(|error| crate::chain(&error))
        .and_then(|loaded| {
            clock.learn(None, Some(loaded.known_at));
            let identity = ClientIdentity {
                certificate: &loaded.certificate,
                key: &loaded.key,
            };
            tls::pinned(&loaded.identity.trust.authorities, Some(&identity), &clock)
                .map(Arc::new)
                .map_err(|error| crate::chain(&error))
        });
    Subject {
        dirs,
        config,
        now: clock.wall(),
        brokers: brokers.iter().map(Broker::address).collect(),
        controllers,
        tls,
    }
}

fn status_exit(code: u8) -> Exit {
    [Exit::Unavailable, Exit::Denied, Exit::Store]
        .into_iter()
        .find(|exit| exit.code() == code)
        .unwrap_or(Exit::Failed)
}

/// A reader that went away, as in `| head`, is no failure of ours.
fn said(result: std::io::Result<()>) -> Result<Exit, Failure> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::CannotCreate,
            ErrorCode::Internal,
            &error,
        )),
        Ok(()) | Err(_) => Ok(Exit::Ok),
    }
}

fn read_token(path: &std::path::Path) -> Result<TokenText, Failure> {
    std::fs::read_to_string(path)
        .map(TokenText::new)
        .map_err(|error| Failure {
            exit: Exit::Config,
            code: ErrorCode::ConfigInvalid,
            text: format!(
                "cannot read the join token from {}: {error}",
                path.display()
            ),
        })
}

fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    name.chars()
        .take(protocol::limits::NODE_NAME_BYTES_MAX)
        .collect()
}

fn join_options(config: &Config, token: TokenText) -> Result<JoinOptions, Failure> {
    let password = supervisor::proxy_password(config)
        .map_err(|error| Failure::new(Exit::Config, ErrorCode::ConfigInvalid, &error))?;
    Ok(JoinOptions {
        token,
        name: config.join.name.clone().unwrap_or_else(host_name),
        existing: Existing::Keep,
        approval_timeout: Some(config.join.approval_timeout).filter(|most| !most.is_zero()),
        proxy: config.uplink.proxy.clone().map(|proxy| (proxy, password)),
    })
}

async fn join(
    source: &Source,
    args: JoinArgs,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let config = source.load()?;
    let token = match (args.token, &args.token_file, &config.join.token_file) {
        (Some(token), _, _) => token,
        (None, Some(file), _) | (None, None, Some(file)) => read_token(file)?,
        (None, None, None) => {
            return Err(Failure {
                exit: Exit::Usage,
                code: ErrorCode::TokenMalformed,
                text: "no token: give it as an argument, by --token-file, or in \
                       FLOTILLA_JOIN_TOKEN"
                    .to_owned(),
            });
        }
    };
    // Who waits for an approval wants to know. A log that is set up already serves
    // as well.
    drop(telemetry::start_log(&config.log, false));
    let mut options = join_options(&config, token)?;
    if let Some(name) = args.name {
        options.name = name;
    }
    if args.replace {
        options.existing = Existing::Replace;
    }
    if args.wait.is_some() {
        options.approval_timeout = args.wait;
    }
    let summary = enrol::join(&config.dirs, &options, &Clock::default()).await?;
    said(report_joined(&summary, out))
}

fn report_joined(summary: &Summary, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    writeln!(
        out,
        "joined fleet {} as {} ({}); certificate valid until {}",
        summary.fleet, summary.name, summary.node, summary.certificate_not_after
    )
}

/// Pauses between attempts to join at a first boot.
const JOIN_RETRY_FIRST: Duration = Duration::from_secs(2);
const JOIN_RETRY_MAX: Duration = Duration::from_secs(300);

/// Starts the version that is selected: another one, or this.
async fn start(
    source: &Source,
    environment: &Environment,
    places: Vec<OsString>,
    args: RunArgs,
) -> Result<Exit, Failure> {
    if args.guarded {
        // A version that nobody watches any more must not go on beside the next one.
        let killed = Some(rustix::process::Signal::KILL);
        let _old_kernel = rustix::process::set_parent_process_death_signal(killed);
    }
    let launched = match (args.launcher, args.launcher_version) {
        (Some(launcher), Some(base)) => Launched {
            launcher,
            guarded: args.guarded,
            is_base: base == program::version(),
            base,
            arguments: environment.arguments_of_launcher(),
        },
        _ => {
            let dirs = source.dirs();
            let launcher = Launcher {
                program: environment.program.clone(),
                arguments: environment.arguments.clone(),
                dirs: &dirs,
                notify: environment.get("NOTIFY_SOCKET"),
                alive_within: sd_notify::watchdog_enabled(),
            };
            match launcher.launch().await {
                Launching::Here(launched) => launched,
                Launching::End(exit) => return Ok(exit),
            }
        }
    };
    let running = run_agent(source.clone(), environment, launched.clone(), places);
    match running.await? {
        Stopped::Asked => Ok(Exit::Ok),
        Stopped::ForUpdate => Ok(launcher::relaunch(&launched)),
    }
}

async fn run_agent(
    source: Source,
    environment: &Environment,
    launched: Launched,
    self_test: Vec<OsString>,
) -> Result<Stopped, Failure> {
    let config = source.load()?;
    let under_systemd = environment.get("JOURNAL_STREAM").is_some();
    telemetry::start_log(&config.log, under_systemd)
        .map_err(|error| Failure::new(Exit::Config, ErrorCode::ConfigInvalid, &error))?;
    let clock = Clock::default();
    join_first(&config, environment, &clock).await?;
    let start = supervisor::Start {
        self_test,
        launched,
    };
    supervisor::run(source, config, clock, start)
        .await
        .map_err(|error| {
            tracing::error!(
                error = crate::chain(&error),
                code = error.code().text(),
                "stopped"
            );
            Failure::new(error.exit(), error.code(), &error)
        })
}

/// A golden image joins at its first boot: the token comes in a file or in the
/// environment, the network may come later, and so may an operator's approval.
async fn join_first(
    config: &Config,
    environment: &Environment,
    clock: &Clock,
) -> Result<(), Failure> {
    let dir = config.dirs.identity();
    if !matches!(enrol::load(&dir), Err(IdentityError::Missing { .. })) {
        return Ok(());
    }
    let token = match (
        environment.get("FLOTILLA_JOIN_TOKEN"),
        &config.join.token_file,
    ) {
        (Some(token), _) => TokenText::new(token.to_owned()),
        (None, Some(file)) => read_token(file)?,
        (None, None) => return Ok(()),
    };
    let options = join_options(config, token)?;
    let mut backoff = Backoff::new(JOIN_RETRY_FIRST, JOIN_RETRY_MAX, clock.tick().0);
    loop {
        match enrol::join(&config.dirs, &options, clock).await {
            Ok(summary) => {
                tracing::info!(node = %summary.node, name = summary.name, "joined a fleet");
                return Ok(());
            }
            Err(JoinError::Request(error)) if error.is_passing() => {
                let pause = backoff.fail();
                tracing::warn!(error = crate::chain(&error), ?pause, "cannot join yet");
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
