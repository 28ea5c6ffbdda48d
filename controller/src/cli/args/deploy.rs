//! `flotilla deploy`, `rollout`, `secret` and `image`: flags and help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// `flotilla deploy …`
#[derive(Debug, Subcommand)]
pub enum Deploy {
    /// Apply a Compose file to nodes, in stages
    #[command(
        after_help = "Without flags the rollout begins with a canary wave, goes on in growing waves, halts when\n\
        changes fail, and recalls what is in progress then. Nodes go back by themselves when a\n\
        change fails on them.\n\nExamples:\n  \
        flotilla deploy apply -f compose.yaml --name web --on site=lyon\n  \
        flotilla deploy apply -f compose.yaml --name web --dry-run      who would be in which wave\n  \
        flotilla deploy apply -f compose.yaml --name web --wave 1:soak=10m --wave 20% --wave rest --wait\n  \
        flotilla deploy apply -f compose.yaml --name web --rollout careful.toml --yes"
    )]
    Apply(Apply),
    /// Show what applying a Compose file would change
    #[command(after_help = "Example:\n  flotilla deploy diff -f compose.yaml --name web")]
    Diff(Project),
    /// List deployments
    #[command(visible_alias = "ls")]
    List,
    /// Show a deployment: its newest revision, or another one
    #[command(
        after_help = "Examples:\n  flotilla deploy show web\n  flotilla deploy show web --revision 3 -o json"
    )]
    Show {
        /// Name or id
        deployment: String,
        /// This revision
        #[arg(long, value_name = "N")]
        revision: Option<u32>,
    },
    /// List the revisions of a deployment, newest first
    History {
        /// Name or id
        deployment: String,
    },
    /// Go back to an earlier revision, in stages like any other rollout
    #[command(
        after_help = "Without --to: the last revision that was rolled out whole. Rollbacks pass open breakers.\n\n\
        Examples:\n  flotilla deploy rollback web\n  flotilla deploy rollback web --to 3 --wait"
    )]
    Rollback {
        /// Name or id
        deployment: String,
        /// The revision to go back to
        #[arg(long, value_name = "N")]
        to: Option<u32>,
        /// How it is rolled out
        #[command(flatten)]
        staged: Staged,
        /// Whether to ask, and to wait
        #[command(flatten)]
        manner: Manner,
    },
    /// Take a deployment from every node; its volumes stay
    #[command(after_help = "Example:\n  flotilla deploy remove web --yes")]
    Remove {
        /// Name or id
        deployment: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show how a deployment is on every node: what was ordered, what runs, and why not
    #[command(
        after_help = "Examples:\n  flotilla deploy status web\n  flotilla deploy status web --watch"
    )]
    Status {
        /// Name or id
        deployment: String,
        /// Go on showing it; Ctrl-C ends that and nothing else
        #[arg(long, short)]
        watch: bool,
    },
}

/// Which Compose file, for which deployment.
#[derive(Debug, Clone, Args)]
pub struct Project {
    /// Compose file; - reads standard input
    #[arg(long, short, value_name = "FILE", default_value = "compose.yaml")]
    pub file: PathBuf,
    /// Name of the deployment [default: the file's own `name:`]
    #[arg(long)]
    pub name: Option<String>,
    /// Which nodes: a selector, or * for every node [default: as in the revision before]
    #[arg(long, value_name = "NODES")]
    pub on: Option<String>,
    /// How it is rolled out
    #[command(flatten)]
    pub staged: Staged,
}

/// `flotilla deploy apply`
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// The project
    #[command(flatten)]
    pub project: Project,
    /// A selector that matches nothing is no error
    #[arg(long)]
    pub allow_empty: bool,
    /// Whether to ask, and to wait
    #[command(flatten)]
    pub manner: Manner,
}

/// Whether to ask, and to wait.
#[derive(Debug, Clone, Args)]
pub struct Manner {
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until the rollout has ended; fails unless it completed
    #[arg(long)]
    pub wait: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// How a change is rolled out.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Rollout")]
pub struct Staged {
    /// TOML file with a `rollout` table; flags win over it
    #[arg(long = "rollout", value_name = "FILE")]
    pub rollout_file: Option<PathBuf>,
    /// A wave: 3, 10% or rest, then :soak=5m, :rate=60, :approve as wished; repeat it
    #[arg(long = "wave", value_name = "WAVE")]
    pub waves: Vec<String>,
    /// What follows a halt: pause, keep or revert
    #[arg(long, value_name = "WHAT")]
    pub on_halt: Option<String>,
    /// When nodes give up the revision before: per_target, or barrier (all together)
    #[arg(long, value_name = "WHEN")]
    pub commit: Option<String>,
    /// How long every service must be well before a node counts [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub min_healthy: Option<String>,
    /// By when that must be reached [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub healthy_deadline: Option<String>,
    /// How long a node may say nothing while it changes [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub silent_deadline: Option<String>,
    /// Nodes that may be unavailable at once: 2 or 20%
    #[arg(long, value_name = "AMOUNT")]
    pub max_unavailable: Option<String>,
    /// Labels by which that is counted
    #[arg(long, value_name = "LABEL", requires = "max_unavailable")]
    pub group_by: Vec<String>,
    /// When the rollout ends at the latest [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub deadline: Option<String>,
}

/// `flotilla rollout …`
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// List rollouts, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this deployment
        #[arg(long, value_name = "NAME")]
        deployment: Option<String>,
        /// Most to show
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one rollout: waves, targets, what was decided
    #[command(
        after_help = "Examples:\n  flotilla rollout show web\n  flotilla rollout show 5jfqp4qs3ydsxqxu --targets"
    )]
    Show {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
        /// Every target
        #[arg(long)]
        targets: bool,
    },
    /// Watch a rollout live; Ctrl-C stops watching and nothing else
    ///
    /// Ends with 0 when the rollout has completed, and with 1 when it ended
    /// otherwise. Away from a terminal it ends with 75 when the rollout waits for a
    /// person: nobody sees that there.
    #[command(
        after_help = "Examples:\n  flotilla rollout watch web\n  flotilla rollout watch web --to-the-end\n  flotilla rollout watch web -o json      one object a line"
    )]
    Watch {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
        /// Go on watching while the rollout waits for a person
        #[arg(long)]
        to_the_end: bool,
    },
    /// Start nothing more; what is in progress goes on
    #[command(after_help = "Example:\n  flotilla rollout pause web --reason 'looks odd'")]
    Pause {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
        /// Kept in the audit trail
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Go on after a pause or a halt; failures so far count no more
    Resume {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
    },
    /// Open the gate before the next wave
    #[command(after_help = "Example:\n  flotilla rollout approve web --wave 2")]
    Approve {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
        /// Only if this is the next wave, from 1
        #[arg(long, value_name = "N")]
        wave: Option<u32>,
    },
    /// End a rollout: what is in progress is recalled
    #[command(
        after_help = "Examples:\n  flotilla rollout abort web --reason 'wrong image'\n  flotilla rollout abort web --revert      nodes that succeeded go back, too"
    )]
    Abort {
        /// Id, or a deployment's name for its newest rollout
        rollout: String,
        /// Kept in the audit trail
        #[arg(long, default_value = "")]
        reason: String,
        /// Nodes that succeeded go back, too
        #[arg(long)]
        revert: bool,
    },
}

/// `flotilla secret …`
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Set a secret, from standard input or a file: never from the command line
    #[command(
        after_help = "A Compose file refers to it as an external secret. Deployments get a new content when they\n\
        are applied again.\n\nExamples:\n  \
        flotilla secret set db-password < password.txt\n  \
        flotilla secret set tls-key --from key.pem\n  \
        flotilla secret set site --config --from site.conf"
    )]
    Set {
        /// Its name
        name: String,
        /// Read this file instead of standard input
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// It is a config, not a secret
        #[arg(long)]
        config: bool,
    },
    /// List secrets and configs; never their contents
    #[command(visible_alias = "ls")]
    List,
    /// Remove a secret; deployments that are there keep its content
    Remove {
        /// Its name
        name: String,
        /// It is a config, not a secret
        #[arg(long)]
        config: bool,
    },
}

/// `flotilla image …`
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Upload an image archive for fleets with no registry; resumes where it stopped
    #[command(
        after_help = "Compose files go on to name the image; nodes fetch the archive from the controller.\n\n\
        Example:\n  docker save shop:1.4 -o shop.tar && flotilla image push shop.tar"
    )]
    Push {
        /// What `docker save` wrote
        archive: PathBuf,
    },
    /// List image archives
    #[command(visible_alias = "ls")]
    List,
    /// Remove an image archive
    Remove {
        /// Its digest, as listed
        digest: String,
    },
}

/// How often a status that is watched is asked for.
pub const WATCH_EVERY: Duration = Duration::from_secs(2);
