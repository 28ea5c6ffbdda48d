//! Exit codes of `flotilla-agent`, for scripts and for systemd.
//!
//! **Invariant:** a code keeps its meaning for ever. systemd does not restart the
//! agent on [`Exit::Usage`] and [`Exit::Config`]: trying again cannot help there.
//! The numbers follow sysexits(3) where it has a fitting one.

use std::process::ExitCode;

/// How a run of `flotilla-agent` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Ok,
    /// A check found problems (`doctor`).
    Failed,
    /// The command line was wrong.
    Usage,
    /// A join token, or an answer to it, that cannot be used.
    Data,
    /// The controller, or the running agent, cannot be reached.
    Unavailable,
    /// A bug in Flotilla. Please report it with the support bundle.
    Bug,
    /// Something needed cannot be made: a directory, a socket, an output file.
    CannotCreate,
    /// The store or the identity cannot be opened, read or written.
    Store,
    /// Not now: an operator has not approved the node yet.
    Later,
    /// Another version of the agent is to be started; only ever said to its guard.
    Relaunch,
    /// The controller refused: a token that is wrong, expired, used up or revoked.
    Denied,
    /// The configuration is wrong, or the node has no identity.
    Config,
}

impl Exit {
    /// The number given to the shell.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::CannotCreate => 73,
            Self::Store => 74,
            Self::Later => 75,
            Self::Relaunch => 76,
            Self::Denied => 77,
            Self::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table that `--help` shows and README keeps.
pub const HELP: &str = "\
Exit codes:
    0  done
    1  a check found problems (doctor)
   64  usage
   65  a join token, or the answer to it, that cannot be used
   69  the controller or the running agent cannot be reached
   70  a bug in Flotilla
   73  something needed cannot be made (a directory, a file)
   74  the store or the identity cannot be opened, read or written
   75  not now: the node waits for an operator's approval
   76  another version is to be started (said to the guard alone)
   77  refused: the join token is wrong, expired, used up or revoked
   78  wrong configuration, or a node that never joined";
