//! `flotilla breaker …`

use std::time::Duration;

use clap::{Args, Subcommand};

/// `flotilla breaker …`
#[derive(Debug, Subcommand)]
pub enum Breaker {
    /// List breakers, overrides, and the policy's number
    #[command(visible_alias = "ls")]
    List,
    /// Show one breaker: what it watches and stops, where it stands, when it tries again
    #[command(after_help = "Example:\n  flotilla breaker show fleet")]
    Show {
        /// Name
        breaker: String,
    },
    /// Show the last moves of a breaker, with their evidence
    History {
        /// Name
        breaker: String,
    },
    /// Define a breaker, or change one; what is not given stays, or is as in `fleet`
    #[command(
        after_help = "Examples:\n  flotilla breaker define sites --span label:site --watch deploy --watch silence --consecutive 3\n  \
        flotilla breaker define disks --watch condition:disk-full --count 5 --gate deploy --gate run\n  \
        flotilla breaker define fleet --percent 10 --cool-down 30m"
    )]
    Define(Define),
    /// Remove a breaker that is closed
    Remove {
        /// Name
        breaker: String,
    },
    /// Open a breaker; after its cool-down probes may try
    #[command(after_help = "Example:\n  flotilla breaker trip fleet --reason 'odd latency'")]
    Trip(Move),
    /// Open a breaker until someone resets it
    Isolate(Move),
    /// Close a breaker
    #[command(after_help = "Example:\n  flotilla breaker reset fleet --reason 'registry is back'")]
    Reset(Move),
    /// Let some nodes pass a breaker for a while, or end that (break-glass)
    #[command(
        after_help = "Examples:\n  flotilla breaker override fleet --on web-1 --for 30m --reason 'the fix itself'\n  \
        flotilla breaker override --end 3"
    )]
    Override(Override),
    /// For how long nodes go on without a word from the controller
    #[command(subcommand)]
    Lease(Lease),
}

/// `flotilla breaker lease …`
#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Show it
    Show,
    /// Change it: from 10m to 30d
    #[command(after_help = "Example:\n  flotilla breaker lease set 24h")]
    Set {
        /// How long
        #[arg(value_name = "DURATION", value_parser = humantime::parse_duration)]
        lease: Duration,
    },
}

/// Moves a breaker.
#[derive(Debug, Args)]
pub struct Move {
    /// Name
    pub breaker: String,
    /// A label's value or a deployment's id [default: the whole fleet; for a reset, all]
    #[arg(long)]
    pub group: Option<String>,
    /// Kept in the audit trail, and told to nodes
    #[arg(long)]
    pub reason: String,
}

/// Gives or ends an override.
#[derive(Debug, Args)]
pub struct Override {
    /// Name
    #[arg(required_unless_present = "end", conflicts_with = "end")]
    pub breaker: Option<String>,
    /// Which nodes may pass: an id, a name, a selector, or '*'
    #[arg(long, value_name = "NODES", required_unless_present = "end")]
    pub on: Option<String>,
    /// For how long, at most a day
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub lifetime: Duration,
    /// Kept in the audit trail, and told to nodes
    #[arg(long, required_unless_present = "end")]
    pub reason: Option<String>,
    /// End the override of this number
    #[arg(long, value_name = "NUMBER")]
    pub end: Option<u64>,
}

/// What a breaker is to be.
#[derive(Debug, Args)]
pub struct Define {
    /// Name
    pub breaker: String,
    /// The nodes whose signals it watches
    #[arg(long, value_name = "SELECTOR")]
    pub on: Option<String>,
    /// What it watches: deploy, silence, unhealthy, `crash_loop`, command, condition:NAME
    #[arg(long = "watch", value_name = "SIGNAL")]
    pub watches: Vec<String>,
    /// What it stops: deploy, update, run, service, reload
    #[arg(long = "gate", value_name = "WHAT")]
    pub gates: Vec<String>,
    /// For what it trips: fleet, deployment, or label:KEY for each value of a label
    #[arg(long)]
    pub span: Option<String>,
    /// What becomes of rollouts: hold, halt or revert
    #[arg(long, value_name = "ACTION")]
    pub rollouts: Option<String>,
    /// Whether its moves are told to the sinks: true or false
    #[arg(long, value_name = "BOOL")]
    pub notify: Option<bool>,
    /// Failures in a row that trip it; 0 is never
    #[arg(long, value_name = "N")]
    pub consecutive: Option<u32>,
    /// Failures within the window that trip it; 0 is never
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    /// Percent of failures within the window that trip it; 0 is never
    #[arg(long, value_name = "N")]
    pub percent: Option<u8>,
    /// Samples before percents are judged
    #[arg(long, value_name = "N")]
    pub min_samples: Option<u32>,
    /// How sure the percents must be: plain, p80, p90, p95, p99
    #[arg(long)]
    pub confidence: Option<String>,
    /// The window
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub window: Option<Duration>,
    /// How long it is open before probes may try; 0s is until someone resets it
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub cool_down: Option<Duration>,
    /// What the cool-down grows to
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub cool_down_max: Option<Duration>,
    /// Nodes that may try in one round
    #[arg(long, value_name = "N")]
    pub probes: Option<u32>,
    /// How many of them must succeed
    #[arg(long, value_name = "N")]
    pub successes: Option<u32>,
    /// How long they have; 0s is for ever
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub probe_limit: Option<Duration>,
}
