//! The command line of `flotilla access`.

use std::time::Duration;

use clap::Subcommand;

/// `flotilla access …`
#[derive(Debug, Subcommand)]
pub enum Access {
    /// Roles: named sets of permissions
    #[command(subcommand)]
    Role(Role),
    /// Principals: people and service accounts
    #[command(subcommand)]
    Principal(Principal),
    /// Grants: a role for a principal, perhaps on some nodes only
    #[command(subcommand)]
    Grant(Grant),
    /// API keys
    #[command(subcommand)]
    Key(Key),
    /// Say which grant decides, and why
    #[command(after_help = "Example:\n  flotilla access explain alice command:run web-1")]
    Explain {
        /// Id or name of the principal
        principal: String,
        /// `resource:action`
        permission: String,
        /// Id or name of a node
        node: Option<String>,
    },
    /// Who this key belongs to and what it may do
    Whoami,
}

/// `flotilla access role …`
#[derive(Debug, Subcommand)]
pub enum Role {
    /// List roles
    #[command(visible_alias = "ls")]
    List,
    /// Make or change a role
    #[command(
        after_help = "Example:\n  flotilla access role set restarter --permission command:service --inherit viewer"
    )]
    Set {
        /// Name
        role: String,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
        /// `resource:action`, with `*` on either side
        #[arg(long = "permission", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// Roles whose permissions it has too
        #[arg(long = "inherit", value_name = "ROLE")]
        inherits: Vec<String>,
    },
    /// Remove a role that nobody has
    Remove {
        /// Name
        role: String,
    },
}

/// `flotilla access principal …`
#[derive(Debug, Subcommand)]
pub enum Principal {
    /// List principals
    #[command(visible_alias = "ls")]
    List,
    /// Add a person or a service account
    #[command(after_help = "Example:\n  flotilla access principal add alice --role viewer --key")]
    Add {
        /// Name
        name: String,
        /// A service account, not a person
        #[arg(long)]
        service: bool,
        /// Grant this role at once, on every node
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Make an API key at once and print it
        #[arg(long)]
        key: bool,
    },
    /// Take every permission from a principal, at once
    Disable {
        /// Id or name
        principal: String,
    },
    /// Give a disabled principal its permissions back
    Enable {
        /// Id or name
        principal: String,
    },
}

/// `flotilla access grant …`
#[derive(Debug, Subcommand)]
pub enum Grant {
    /// List grants
    #[command(visible_alias = "ls")]
    List,
    /// Grant a role
    #[command(after_help = "Example:\n  flotilla access grant add alice operator --on site=lyon")]
    Add {
        /// Id or name of the principal
        principal: String,
        /// Role
        role: String,
        /// Only on nodes that this selector matches
        #[arg(long, value_name = "SELECTOR")]
        on: Option<String>,
    },
    /// Take a grant back
    Remove {
        /// Id, as listed
        grant: String,
    },
}

/// `flotilla access key …`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List keys, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Make a key and print it, once
    #[command(
        after_help = "Examples:\n  flotilla access key create alice --expires 90d\n  \
        flotilla access key create ci --permission node:read --permission command:ping"
    )]
    Create {
        /// Id or name of the principal
        principal: String,
        /// How long it works
        #[arg(long, value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// Only these permissions, out of what the principal has
        #[arg(long = "permission", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Replace a key; the old one works for the overlap
    #[command(after_help = "Example:\n  flotilla access key rotate 5jfqp4qs3ydsxqxu --overlap 24h")]
    Rotate {
        /// Serial, as listed
        key: String,
        /// How long the old key still works
        #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Make a key useless at once
    Revoke {
        /// Serial, as listed
        key: String,
    },
}
