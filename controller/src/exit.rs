//! Exit codes of `flotilla`, for scripts and for systemd.
//!
//! Invariant: a code keeps its meaning for ever. systemd must not restart on
//! [`Exit::Usage`] and [`Exit::Config`]: trying again cannot help there.
//! The numbers follow sysexits(3) where it has a fitting one.

use std::process::ExitCode;

/// How a run of `flotilla` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Ok,
    /// The request was carried out, and at least one target did not succeed.
    Failed,
    /// The command line was wrong, or the controller refused the request as malformed.
    Usage,
    /// Data that was to be verified is wrong (`audit verify` found a bad record).
    Data,
    /// The thing named does not exist, or a selector matched nothing.
    NotFound,
    /// The other side cannot be reached: controller, broker.
    Unavailable,
    /// A bug in Flotilla. Please report it with the support bundle.
    Bug,
    /// Something needed cannot be made: a directory in use, a file that is in the way.
    CannotCreate,
    /// A store on disk cannot be opened, read or written.
    Store,
    /// Not now: too many requests, or the wait ended before the work did.
    Later,
    /// No key, a wrong key, or a permission that is missing.
    Denied,
    /// The configuration or the operator's profile is wrong.
    Config,
    /// Stopped by Ctrl-C before the end.
    Interrupted,
}

impl Exit {
    /// The number given to the shell.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::CannotCreate => 73,
            Self::Store => 74,
            Self::Later => 75,
            Self::Denied => 77,
            Self::Config => 78,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The table shown by `flotilla help` and kept in README.
pub const HELP: &str = "\
Exit codes:
    0  done
    1  carried out, and at least one target did not succeed
   64  usage, or a request that the controller refused as malformed
   65  audit data that does not verify
   66  no such thing, or a selector that matches nothing
   69  the controller or broker cannot be reached
   70  a bug in Flotilla
   73  something needed cannot be made (a directory in use)
   74  a store on disk cannot be read or written
   75  not now: too many requests, or still running when the wait ended
   77  no key, a wrong key, or a missing permission
   78  wrong configuration or profile
  130  interrupted";
