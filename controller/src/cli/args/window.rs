//! `flotilla window …`

use std::time::Duration;

use clap::{Args, Subcommand};

/// `flotilla window …`
#[derive(Debug, Subcommand)]
pub enum Window {
    /// List windows, and whether they are open
    #[command(visible_alias = "ls")]
    List,
    /// Show one window: what waits for it, where, and when it is open
    #[command(after_help = "Example:\n  flotilla window show nights")]
    Show {
        /// Name
        window: String,
    },
    /// Show when windows open next
    #[command(after_help = "Examples:\n  flotilla window next\n  flotilla window next nights")]
    Next {
        /// Name; all without it
        window: Option<String>,
    },
    /// Define a window, or change one; what is not given stays
    #[command(
        after_help = "A node that windows match for a kind of work is changed by it only while one of them is open.\n\n\
        Examples:\n  flotilla window set nights --on role=db --days mon-fri --from 22:00 --for 4h --tz Europe/Paris\n  \
        flotilla window set nights --gate deploy --gate run --gate service"
    )]
    Set(Set),
    /// Remove a window: what waits for it waits no more
    Remove {
        /// Name
        window: String,
    },
    /// Open a window against its schedule for a while (break-glass)
    #[command(
        after_help = "Example:\n  flotilla window open nights --for 1h --reason 'security fix'"
    )]
    Open {
        /// Name
        window: String,
        /// For how long, at most a day
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lifetime: Duration,
        /// Kept in the audit trail
        #[arg(long)]
        reason: String,
    },
    /// Shut a window that was opened against its schedule
    Shut {
        /// Name
        window: String,
    },
}

/// What a window is to be.
#[derive(Debug, Args)]
pub struct Set {
    /// Name
    pub window: String,
    /// The nodes that it is for [default: every node]
    #[arg(long, value_name = "SELECTOR")]
    pub on: Option<String>,
    /// What waits for it: deploy, update, run, service, reload [default: deploy, update]
    #[arg(long = "gate", value_name = "WHAT")]
    pub gates: Vec<String>,
    /// On which days it opens: mon-fri, sat,sun or daily [default: daily]
    #[arg(long)]
    pub days: Option<String>,
    /// At which local time: 22:00
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub length: Option<Duration>,
    /// Time zone of the IANA database: Europe/Paris [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub tz: Option<String>,
}
