//! The command line of `flotilla`: every subcommand, flag and help text.
//!
//! Only definitions and parsing of single values; what a subcommand does is in
//! the file of its noun. Help texts carry examples, because operators read them
//! at three in the morning.

pub mod access;
pub mod alert;
pub mod backup;
pub mod breaker;
pub mod deploy;
pub mod release;
pub mod sink;
pub mod trust;
pub mod window;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;

/// Runs a fleet of hosts from one place.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = exit::HELP,
    after_long_help = format!("{EXAMPLES}\n{}", exit::HELP),
)]
pub struct Cli {
    /// How to reach the controller and how to print.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  flotilla quickstart                        a controller and one node, here, now
  flotilla node list                         the fleet
  flotilla run site=lyon -- uptime           one command to every node of a site
  flotilla deploy apply -f compose.yaml --name web --on site=lyon
                                             a Compose project, in stages
  flotilla metrics web-1 cpu.busy            the last hour as a sparkline
";

/// Flags of every operator's subcommand.
#[derive(Debug, Args)]
pub struct Global {
    /// Base URL of the controller, such as `https://fleet.example.net:8443`
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_API",
        value_name = "URL",
        help_heading = "Connection"
    )]
    pub api: Option<String>,
    /// PEM file with the CA that the controller's certificate must come from
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_CA",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub ca: Option<PathBuf>,
    /// Profile file with api, ca_file and key [default: ~/.config/flotilla/profile.toml]
    #[arg(
        long,
        global = true,
        env = "FLOTILLA_PROFILE",
        value_name = "FILE",
        help_heading = "Connection"
    )]
    pub profile: Option<PathBuf>,
    /// How to print
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub output: Format,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned tables and summaries, for people.
    Table,
    /// JSON as the API gave it, for programs.
    Json,
}

/// Every subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Nodes: list, show, rename, relabel, approve, cordon, drain, decommission, revoke, replace
    #[command(subcommand)]
    Node(Node),
    /// Join tokens: create, list, revoke
    #[command(subcommand)]
    Token(Token),
    /// Ask nodes whether they answer, and how fast
    #[command(after_help = "Examples:\n  flotilla ping --all\n  flotilla ping site=lyon,role!=db")]
    Ping(Ping),
    /// Run a program on nodes, without a shell
    #[command(
        after_help = "What a node runs is said by its own configuration: off, an allow-list (the default), or any.\n\n\
        Examples:\n  flotilla run web-1 -- uptime\n  flotilla run site=lyon --timeout 30s -- df -h\n  \
        flotilla run --all --rate 60 --concurrency 10 --detach -- systemctl --failed"
    )]
    Run(Run),
    /// systemd units on nodes
    #[command(subcommand)]
    Service(Service),
    /// Read logs of nodes: a unit's journal, a file, a container; without any, the agent's own
    #[command(after_help = "Examples:\n  flotilla logs web-1 --unit nginx -n 50\n  \
        flotilla logs web-1 --unit nginx --follow\n  \
        flotilla logs site=lyon --file /var/log/syslog --since 10m\n  flotilla logs web-1 --container shop")]
    Logs(Logs),
    /// Fleet commands: list, show, cancel
    #[command(subcommand)]
    Command(CommandNoun),
    /// Deployments: apply a Compose file, diff, show, roll back, remove, status
    #[command(subcommand)]
    Deploy(deploy::Deploy),
    /// Rollouts: watch, pause, resume, approve, abort
    #[command(subcommand)]
    Rollout(deploy::Rollout),
    /// Breakers: list, show, trip, isolate, reset, override, history
    #[command(subcommand)]
    Breaker(breaker::Breaker),
    /// Maintenance windows: set, list, show, next, remove, open
    #[command(subcommand)]
    Window(window::Window),
    /// Sinks, where notices go: list, show, set, remove, test
    #[command(subcommand)]
    Sink(sink::Sink),
    /// Notices: what someone was told of, or would have been
    #[command(subcommand)]
    Notice(sink::Notice),
    /// Alerts: what fires, its history, rules and silences
    #[command(subcommand)]
    Alert(alert::Alert),
    /// Secrets and configs that Compose files refer to as external
    #[command(subcommand)]
    Secret(deploy::Secret),
    /// Releases of the agent: key, sign, add, list, revoke, remove
    #[command(subcommand)]
    Release(release::Release),
    /// Give nodes another version of the agent, in stages
    #[command(subcommand)]
    Update(release::Update),
    /// Image archives, for fleets with no registry
    #[command(subcommand)]
    Image(deploy::Image),
    /// Metrics of one node, or the top of the fleet
    #[command(after_help = "Without SERIES: the last values of the node.\n\n\
        Examples:\n  flotilla metrics web-1\n  flotilla metrics web-1 cpu.busy --since 6h\n  \
        flotilla metrics web-1 --live\n  flotilla metrics --all --top mem.used")]
    Metrics(Metrics),
    /// Who may do what: roles, principals, grants, keys
    #[command(subcommand)]
    Access(access::Access),
    /// Whom nodes believe: keys and CAs, and their rotation
    #[command(subcommand)]
    Trust(trust::Trust),
    /// The audit trail: tail, export, verify
    #[command(subcommand)]
    Audit(Audit),
    /// Backups of the controller: key, create, verify, restore
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Write a support bundle: versions, configuration without secrets, statistics, logs
    #[command(after_help = "Example:\n  flotilla support --to flotilla-support.tar.gz")]
    Support(Support),
    /// Check the controller's configuration
    #[command(subcommand)]
    Config(Config),
    /// Print shell completions
    #[command(
        after_help = "Example:\n  flotilla completion bash > /etc/bash_completion.d/flotilla"
    )]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Recover on the controller's own host: a lost admin key, a restored backup
    #[command(subcommand)]
    Recover(Recover),
    /// Run the controller
    #[command(after_help = "Example:\n  flotilla serve --config /etc/flotilla/controller.toml")]
    Serve(Serve),
    /// Run a controller and local nodes, to try Flotilla
    #[command(
        after_help = "Example:\n  flotilla quickstart --nodes 3\n\nThe operator profile is written to ~/.config/flotilla/profile.toml unless a profile of\n\
        another fleet is there already; then it is only written below the directory, and the\nexact --profile to use is printed."
    )]
    Quickstart(Quickstart),
}

const SELECTORS: &str = "\
Selectors, wherever nodes are meant:
  web-1                      the node of that name or id
  site=lyon                  the label has the value
  role!=db                   it has another value, or is not there
  site in (lyon,paris)       it has one of the values
  site notin (lyon,paris)    it has none of them
  !gpu                       the label is not there
  site=lyon,role!=db         all of the terms
  *                          every node

Examples:
  flotilla node list
  flotilla node list site=lyon,role!=db";

/// `flotilla node …`
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List nodes
    #[command(visible_alias = "ls", after_help = SELECTORS)]
    List {
        /// Which nodes: `site=lyon,role!=db`; all without it
        selector: Option<String>,
    },
    /// Show one node with facts, budgets and health
    #[command(after_help = "Example:\n  flotilla node show web-1")]
    Show {
        /// Id or name
        node: String,
    },
    /// Give a node another name
    #[command(after_help = "Example:\n  flotilla node rename web-1 web-lyon-1")]
    Rename {
        /// Id or name
        node: String,
        /// The new name
        name: String,
    },
    /// Set and remove labels
    #[command(after_help = "Example:\n  flotilla node relabel web-1 site=lyon role=web old-")]
    Relabel {
        /// Id or name
        node: String,
        /// `key=value` sets, `key-` removes
        #[arg(required = true, value_name = "CHANGE")]
        changes: Vec<String>,
    },
    /// Let a node in that waits for approval
    #[command(after_help = "Example:\n  flotilla node approve web-1")]
    Approve {
        /// Id or name
        node: String,
    },
    /// Take nodes out of service: what runs goes on, and nothing new comes
    #[command(after_help = "Example:\n  flotilla node cordon web-1 --reason 'disk is failing'")]
    Cordon(Aside),
    /// Put nodes into service again; what they should have comes in stages
    #[command(after_help = "Example:\n  flotilla node uncordon web-1 --reason 'disk replaced'")]
    Uncordon(Aside),
    /// Take the workloads of nodes away, and wait for it
    #[command(
        after_help = "Disruption budgets hold: a node that would break one waits until another is back in service.\n\n\
        Examples:\n  flotilla node drain web-1 --reason 'new kernel' --timeout 10m\n  \
        flotilla node drain --on rack=7 --reason 'rack moves' --detach"
    )]
    Drain {
        /// Which nodes and why
        #[command(flatten)]
        aside: Aside,
        /// How it is waited for
        #[command(flatten)]
        patience: Patience,
    },
    /// Drain nodes, then let them leave the fleet for ever
    #[command(
        after_help = "Its records stay in the audit trail; its name is free.\n\n\
        Examples:\n  flotilla node decommission web-1 --reason 'end of lease'\n  \
        flotilla node decommission web-1 --force --reason 'it burnt'"
    )]
    Decommission {
        /// Which nodes and why
        #[command(flatten)]
        aside: Aside,
        /// How it is waited for
        #[command(flatten)]
        patience: Patience,
        /// Leave at once: what it runs is left to itself
        #[arg(long, conflicts_with_all = ["timeout", "detach"])]
        force: bool,
    },
    /// Cut a node off for ever
    #[command(after_help = "Example:\n  flotilla node revoke web-1 --reason 'disk stolen'")]
    Revoke {
        /// Id or name
        node: String,
        /// Kept in the audit trail
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let new hardware take over a node's name, labels and duties
    #[command(
        after_help = "Join the new host first, then:\n  flotilla node replace web-1 --with ydsxqx5ujfqp4qs3"
    )]
    Replace {
        /// The node that goes: id or name
        node: String,
        /// The node that takes over: id or name
        #[arg(long, value_name = "NODE")]
        with: String,
    },
    /// Have nodes read their configuration again
    #[command(after_help = "Example:\n  flotilla node reload site=lyon")]
    Reload {
        /// Which nodes and how
        #[command(flatten)]
        to: To,
    },
    /// Decide about a node whose identity was seen twice (a clone, or a disk put back)
    #[command(after_help = "Example:\n  flotilla node resolve web-1 --keep")]
    Resolve {
        /// Id or name
        node: String,
        /// Trust the identity as it is used from here on
        #[arg(long, required_unless_present = "revoke")]
        keep: bool,
        /// Revoke the identity; the host joins again
        #[arg(long, conflicts_with = "keep")]
        revoke: bool,
    },
}

/// Nodes that are taken out of service, or put into it.
#[derive(Debug, Args)]
#[group(id = "aside", skip)]
pub struct Aside {
    /// Which nodes: an id, a name, or a selector
    #[arg(
        value_name = "NODES",
        required_unless_present = "on",
        conflicts_with = "on"
    )]
    pub nodes: Option<String>,
    /// The same
    #[arg(long, value_name = "SELECTOR")]
    pub on: Option<String>,
    /// Kept in the audit trail
    #[arg(long)]
    pub reason: String,
}

/// How a drain is waited for.
#[derive(Debug, Args)]
#[group(id = "patience", skip)]
pub struct Patience {
    /// How long it is tried
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Return at once instead of waiting for the end
    #[arg(long)]
    pub detach: bool,
}

/// `flotilla token …`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token with which nodes join
    #[command(
        after_help = "Examples:\n  flotilla token create --label site=lyon --expires 1h --uses 10\n  \
        flotilla token create --approve          nodes wait for `flotilla node approve`"
    )]
    Create {
        /// Labels that its nodes get
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// How long it works
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        expires: Duration,
        /// How many nodes may join with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// Nodes that join with it wait for approval
        #[arg(long)]
        approve: bool,
        /// Its node takes over this node's name, labels and duties
        #[arg(long, value_name = "NODE")]
        replaces: Option<String>,
    },
    /// List tokens
    #[command(visible_alias = "ls")]
    List,
    /// Make a token useless
    #[command(after_help = "Example:\n  flotilla token revoke 5jfqp4qs3ydsxqxu")]
    Revoke {
        /// Serial, as listed
        token: String,
    },
}

/// Where a command goes and under which limits.
#[derive(Debug, Clone, Args)]
pub struct To {
    /// Which nodes: an id, a name, or a selector such as `site=lyon,role!=db`;
    /// may be left out while the fleet has one node
    #[arg(value_name = "NODES")]
    pub nodes: Option<String>,
    /// Every node
    #[arg(long, conflicts_with = "nodes")]
    pub all: bool,
    /// How it is carried out
    #[command(flatten)]
    pub how: How,
}

/// Under which limits a command runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct How {
    /// Return at once instead of waiting for the receipts
    #[arg(long, overrides_with = "wait")]
    pub detach: bool,
    /// Wait for the receipts (the default)
    #[arg(long)]
    pub wait: bool,
    /// A node that has not started by then never starts it
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub start_by: Duration,
    /// Longest run on a node, from its start
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// Nodes at work at once [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: Option<u32>,
    /// Nodes started per minute [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// A selector that matches nothing is no error
    #[arg(long)]
    pub allow_empty: bool,
    /// Do not wait for maintenance windows (needs `window:bypass`)
    #[arg(long)]
    pub now: bool,
}

/// `flotilla ping …`
#[derive(Debug, Args)]
pub struct Ping {
    /// Which nodes and how
    #[command(flatten)]
    pub to: To,
}

/// `flotilla run …`
#[derive(Debug, Args)]
pub struct Run {
    /// Which nodes and how
    #[command(flatten)]
    pub to: To,
    /// Most output kept of each node, in bytes; more is cut and marked
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub output_max: Option<u32>,
    /// Program and arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub argv: Vec<String>,
}

/// `flotilla service …`
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Show a unit's state
    #[command(after_help = "Example:\n  flotilla service status nginx site=lyon")]
    Status(Unit),
    /// Start a unit
    #[command(after_help = "Example:\n  flotilla service start nginx web-1")]
    Start(Unit),
    /// Stop a unit
    #[command(after_help = "Example:\n  flotilla service stop nginx web-1")]
    Stop(Unit),
    /// Restart a unit
    #[command(after_help = "Example:\n  flotilla service restart nginx site=lyon --concurrency 1")]
    Restart(Unit),
}

/// A unit on nodes.
#[derive(Debug, Args)]
pub struct Unit {
    /// Unit, such as `nginx` or `nginx.service`
    pub unit: String,
    /// Which nodes and how
    #[command(flatten)]
    pub to: To,
}

/// `flotilla logs …`
#[derive(Debug, Args)]
pub struct Logs {
    /// Which nodes and how
    #[command(flatten)]
    pub to: To,
    /// systemd unit whose journal to read
    #[arg(long, group = "source", value_name = "UNIT")]
    pub unit: Option<String>,
    /// File below a root that the node allows
    #[arg(long, group = "source", value_name = "PATH")]
    pub file: Option<String>,
    /// Docker container, by name or id
    #[arg(long, group = "source", value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Newest lines to show
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub lines: u32,
    /// Only what is newer than this
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Go on showing what is written
    #[arg(short, long)]
    pub follow: bool,
}

/// `flotilla command …`
#[derive(Debug, Subcommand)]
pub enum CommandNoun {
    /// List fleet commands, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Most to show
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one command and where each of its targets stands
    #[command(
        after_help = "Examples:\n  flotilla command show 5jfqp4qs3ydsxqxu\n  flotilla command show 5jfqp4qs3ydsxqxu --node web-1"
    )]
    Show {
        /// Id, as printed when it was issued
        command: String,
        /// Show this node's receipt with its output
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Wait for a command that was detached
    Wait {
        /// Id, as printed when it was issued
        command: String,
    },
    /// Cancel a command on every node that has not finished it
    Cancel {
        /// Id, as printed when it was issued
        command: String,
    },
}

/// `flotilla metrics …`
#[derive(Debug, Args)]
pub struct Metrics {
    /// Id or name; may be left out while the fleet has one node
    pub node: Option<String>,
    /// Series to show over time, such as `cpu.busy`
    pub series: Option<String>,
    /// The fleet instead of one node; needs --top
    #[arg(long, conflicts_with_all = ["node", "series", "live"], requires = "top")]
    pub all: bool,
    /// Nodes with the highest last value of this series
    #[arg(long, value_name = "SERIES", requires = "all")]
    pub top: Option<String>,
    /// Most rows with --top
    #[arg(short = 'n', long, default_value_t = 10)]
    pub limit: u32,
    /// From when
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Duration,
    /// Distance of two points [default: fits the width]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub step: Option<Duration>,
    /// New values every second, until Ctrl-C
    #[arg(long)]
    pub live: bool,
    /// List every series that exists
    #[arg(long, conflicts_with_all = ["node", "all"])]
    pub list: bool,
}

/// `flotilla audit …`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Show the newest records
    #[command(
        after_help = "Examples:\n  flotilla audit tail -n 50\n  flotilla audit tail --follow"
    )]
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u32,
        /// Go on showing what is written
        #[arg(short, long)]
        follow: bool,
    },
    /// Write the whole trail to a file that `verify` checks
    #[command(after_help = "Example:\n  flotilla audit export --to trail.flj")]
    Export {
        /// File to write
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Check an export with one public key alone, offline
    #[command(
        after_help = "Example:\n  flotilla audit verify trail.flj --key controller.pub\n\nWithout --key the key that `export` wrote beside the file is used."
    )]
    Verify {
        /// The export
        file: PathBuf,
        /// A public key of the controller's or of the fleet's root: 64 hex digits, or a file that holds them
        #[arg(long)]
        key: Option<String>,
    },
}

/// `flotilla support`
#[derive(Debug, Args)]
pub struct Support {
    /// File to write [default: flotilla-support-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// On the controller's host: its configuration
    #[command(flatten)]
    pub source: ConfigSource,
}

/// `flotilla config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check it and print every problem
    #[command(
        after_help = "Example:\n  flotilla config check --config /etc/flotilla/controller.toml"
    )]
    Check(ConfigSource),
    /// Print every key that exists, with its environment variable
    Keys,
}

/// Where the controller's configuration comes from.
#[derive(Debug, Clone, Args)]
pub struct ConfigSource {
    /// Configuration file [default: /etc/flotilla/controller.toml if it exists]
    #[arg(long, value_name = "FILE", env = "FLOTILLA_CONFIG")]
    pub config: Option<PathBuf>,
    /// One key, over file and environment: --set api.listen=127.0.0.1:8443
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Same as --set state_dir=DIR
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
}

/// `flotilla recover …`
#[derive(Debug, Subcommand)]
pub enum Recover {
    /// Make a new admin key when every key is lost
    #[command(
        after_help = "Works while the controller runs (through a socket in its state directory that only its
\
        owner can open) and while it does not. It is written to the audit trail.

\
        Example:
  flotilla recover key --name alice"
    )]
    Key {
        /// The controller's configuration, for its state directory
        #[command(flatten)]
        source: ConfigSource,
        /// Principal that gets the key; made if it does not exist
        #[arg(long, default_value = "admin")]
        name: String,
    },
    /// Say that the state directory was restored from a backup
    #[command(
        after_help = "For a state directory that was put back as a copy, made while the controller was stopped:
\
        nodes then obey the restored controller, and send again what it does not know.
\
        `flotilla serve --restored` does the same, and `flotilla backup restore` sees to it by itself.

\
        Example:
  flotilla recover incarnation --reason 'disk replaced'"
    )]
    Incarnation {
        /// The controller's configuration, for its state directory
        #[command(flatten)]
        source: ConfigSource,
        /// Kept in the audit trail
        #[arg(long, default_value = "restored from a backup")]
        reason: String,
    },
}

/// `flotilla serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration
    #[command(flatten)]
    pub source: ConfigSource,
    /// Write one JSON object here once everything is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// The state directory was restored from a backup: raise the incarnation first
    #[arg(long)]
    pub restored: bool,
}

/// `flotilla quickstart`
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Keeps all state; running again on it resumes [default: ~/.local/share/flotilla/quickstart]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Local nodes to run; 0 for the controller alone
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=200))]
    pub nodes: u16,
    /// Write one JSON object (api, ca_file, profile, nodes) here once everything is ready
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Where the API listens [default: a free loopback port, kept in DIR]
    #[arg(long, value_name = "ADDRESS")]
    pub api_listen: Option<SocketAddr>,
    /// Where the broker listens [default: a free loopback port, kept in DIR]
    #[arg(long, value_name = "ADDRESS")]
    pub broker_listen: Option<SocketAddr>,
    /// One key of the controller's configuration
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .ok_or_else(|| "must be KEY=VALUE".to_owned())
}
