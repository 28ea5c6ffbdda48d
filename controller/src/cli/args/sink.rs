//! `flotilla sink …` and `flotilla notice …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `flotilla sink …`
#[derive(Debug, Subcommand)]
pub enum Sink {
    /// List sinks, and how their deliveries go
    #[command(visible_alias = "ls")]
    List,
    /// Show one sink
    #[command(after_help = "Example:\n  flotilla sink show chat")]
    Show {
        /// Name
        sink: String,
    },
    /// Make a sink, or change one; what is not given stays
    #[command(
        after_help = "The signing secret of a new sink is made by the controller and shown once, unless --secret-file gives one.\n\n\
        Examples:\n  flotilla sink set chat --url https://hooks.example.net/flotilla\n  \
        flotilla sink set chat --kind breaker,rollout --severity warning --on site=lyon\n  \
        flotilla sink set chat --new-secret"
    )]
    Set(Set),
    /// Remove a sink; what waits for it is not delivered
    Remove {
        /// Name
        sink: String,
    },
    /// Send a sink a notice of its own, and say what the receiver answered
    #[command(after_help = "Example:\n  flotilla sink test chat")]
    Test {
        /// Name
        sink: String,
    },
}

/// What a sink is to be.
#[derive(Debug, Args)]
pub struct Set {
    /// Name
    pub sink: String,
    /// Where notices are posted to
    #[arg(long)]
    pub url: Option<String>,
    /// The kinds that it gets: breaker, rollout, node, certificate, alert, heartbeat; '*' is all but heartbeat
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// The mildest severity that it gets: info, warning, critical
    #[arg(long)]
    pub severity: Option<String>,
    /// Of notices about one node, those about these; '*' is all
    #[arg(long, value_name = "SELECTOR")]
    pub on: Option<String>,
    /// File with the signing secret: `whsec_` and base64
    #[arg(long, value_name = "FILE", conflicts_with = "new_secret")]
    pub secret_file: Option<PathBuf>,
    /// Make a new signing secret, and show it once
    #[arg(long)]
    pub new_secret: bool,
}

/// `flotilla notice …`
#[derive(Debug, Subcommand)]
pub enum Notice {
    /// List the newest notices, whether a sink gets them or not
    #[command(visible_alias = "ls")]
    List {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20, value_name = "COUNT")]
        limit: u32,
    },
}
