//! `flotilla alert …`

use std::time::Duration;

use clap::{Args, Subcommand};

/// `flotilla alert …`
#[derive(Debug, Subcommand)]
pub enum Alert {
    /// List what fires: the rule, the node, since when, the value
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  flotilla alert list\n  flotilla alert list --on site=lyon --all"
    )]
    List(List),
    /// Show how alerts turned, the newest first
    History(History),
    /// Alert rules: set, list, show, remove
    #[command(subcommand)]
    Rule(Rule),
    /// Silences: create, list, end
    #[command(subcommand)]
    Silence(Silence),
}

/// Which alerts to list.
#[derive(Debug, Args)]
pub struct List {
    /// On these nodes alone: an id, a name or a selector
    #[arg(long, value_name = "NODES")]
    pub on: Option<String>,
    /// Of this rule alone
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Also those that fired within the last half hour and are clear
    #[arg(long)]
    pub all: bool,
}

/// Which turns to show.
#[derive(Debug, Args)]
pub struct History {
    /// On these nodes alone: an id, a name or a selector
    #[arg(long, value_name = "NODES")]
    pub on: Option<String>,
    /// Of this rule alone
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
    /// How many
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 30)]
    pub limit: usize,
}

/// `flotilla alert rule …`
#[derive(Debug, Subcommand)]
pub enum Rule {
    /// Define a rule, or change one; what is not given stays
    #[command(after_help = "Examples:\n  \
        flotilla alert rule set disk-full --when 'fs.used > 90% for 5m' --severity critical\n  \
        flotilla alert rule set hot --when 'cpu.busy > 90% for 10m' --on site=lyon --resolve-after 15m\n  \
        flotilla alert rule set disk-full --severity warning")]
    Set(Set),
    /// List the rules
    #[command(visible_alias = "ls")]
    List,
    /// Show one rule, and what watches it
    Show {
        /// Name
        rule: String,
    },
    /// Remove a rule; its alerts are resolved
    #[command(visible_alias = "rm")]
    Remove {
        /// Name
        rule: String,
    },
}

/// What a rule is to be.
#[derive(Debug, Args)]
pub struct Set {
    /// Name
    pub rule: String,
    /// The condition that nodes watch; a new rule needs one
    #[arg(long, value_name = "EXPRESSION")]
    pub when: Option<String>,
    /// The nodes that watch it: an id, a name, a selector, or '*' [default: '*']
    #[arg(long, value_name = "NODES")]
    pub on: Option<String>,
    /// How bad it is: info, warning or critical [default: warning]
    #[arg(long)]
    pub severity: Option<String>,
    /// For how long the condition must have ceased before an alert is resolved [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub resolve_after: Option<Duration>,
}

/// `flotilla alert silence …`
#[derive(Debug, Subcommand)]
pub enum Silence {
    /// Keep alerts of some nodes from being told for a while; they are still listed
    #[command(after_help = "Example:\n  \
        flotilla alert silence create --on site=lyon --rule disk-full --for 2h --reason 'disks are swapped'")]
    Create(CreateSilence),
    /// List silences that have not ended
    #[command(visible_alias = "ls")]
    List,
    /// End a silence before its time
    End {
        /// Number
        number: u64,
    },
}

/// A silence to be made.
#[derive(Debug, Args)]
pub struct CreateSilence {
    /// The nodes: an id, a name, a selector, or '*'
    #[arg(long, value_name = "NODES")]
    pub on: String,
    /// Alerts of this rule alone
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
    /// For how long, at most thirty days
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub lifetime: Duration,
    /// Kept in the audit trail
    #[arg(long)]
    pub reason: String,
}
