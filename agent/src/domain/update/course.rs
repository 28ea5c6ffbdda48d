//! What the running version does for an order.
//!
//! An order and the record of the last update are levels: from both, and from what
//! is known of the node now, [`next`] says the one thing that is to be done next.
//! Nothing is remembered between two askings that a restart would lose.

use core::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::Cause;
use protocol::deployment::observed::ChangeOutcome;
use protocol::release::{Archive, Release, ReleaseError, Update};
use protocol::time::UnixMillis;

use super::record::{Phase, UpdateRecord};
use crate::domain::deployment::record::{Failure, Stage};

/// How long a proven version must go on, with its link up, to have lasted.
pub const LASTS_AFTER: Duration = Duration::from_secs(10 * 60);

/// How long an update waits for commands to end before it gives up.
pub const BUSY_MAX: Duration = Duration::from_secs(3600);

/// Times that one order is prepared; the power may go while the symlink is swapped.
pub const TRIES_MAX: u32 = 3;

/// What is known of the node.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The version that runs.
    pub running: &'a str,
    /// The target that it was built for.
    pub target: &'a str,
    /// Whether the node's configuration allows updates, and it was started so that it
    /// can go back.
    pub able: Result<(), &'a str>,
    /// Controller time; none before it was proven since the agent started.
    pub controller: Option<UnixMillis>,
    /// Whether the version lies on this node and ran here before.
    pub kept: bool,
    /// Whether the version is laid beside the running one, and passed its self-test.
    pub ready: bool,
    /// For how long the link has been up without a break; none while it is down.
    pub up: Option<Duration>,
    /// Whether the controller acknowledged what this version said when it started.
    pub heard: bool,
    /// Commands that are open.
    pub open_commands: usize,
    /// For how long the update waits for them.
    pub waited: Duration,
    /// Times that this order was prepared since the agent started.
    pub tries: u32,
}

/// The one thing to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: say this, and look again when something changed.
    Wait(Wait),
    /// Ask the gate, where the cause is a change; then begin.
    Begin,
    /// It is not begun.
    Refuse(ErrorCode, String),
    /// Fetch, unpack and test.
    Prepare(Box<Archive>),
    /// Select the new version, and let the launcher start it.
    Swap,
    /// Write down that this version is proven.
    Confirm,
    /// This version is to be given up: go back, for this reason.
    GoBack(String),
    /// Tell that the order ended.
    End(ChangeOutcome, Option<Failure>),
    /// Write down that this version lasted, and forget older ones.
    Settle,
}

/// Why nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The controller's time is not proven yet, and an expiry is judged by it.
    Time,
    /// Commands run.
    Commands(usize),
    /// The new version must confirm itself.
    Confirmation,
    /// The version that was ordered runs; whether it has lasted is not known yet.
    Probation,
    /// Another update is in its trial.
    Trial,
    /// All is done.
    Done,
}

/// An order, as far as it is of an update.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Its generation.
    pub generation: u64,
    /// What is wanted.
    pub update: &'a Update,
    /// Its release, as the release keys of the trust set know it.
    pub release: &'a Result<Release, ReleaseError>,
    /// How far it came.
    pub stage: &'a Stage,
}

/// What is next for the newest order. Without one, a version that is on trial or on
/// probation still is.
#[must_use]
pub fn next(order: Option<Order<'_>>, record: Option<&UpdateRecord>, seen: Seen<'_>) -> Next {
    let Some(order) = order else {
        return own_trial(record, seen).unwrap_or(Next::Wait(Wait::Done));
    };
    match order.stage {
        Stage::New => begin(order, record, seen),
        Stage::Changing | Stage::AwaitingCommit | Stage::Reverting(_) => {
            change(order, record, seen)
        }
        Stage::Settled(..) => own_trial(record, seen).unwrap_or(Next::Wait(Wait::Done)),
    }
}

/// A version that is on trial confirms itself whatever has been ordered since; one on
/// probation comes to its end.
fn own_trial(record: Option<&UpdateRecord>, seen: Seen<'_>) -> Option<Next> {
    let record = record.filter(|record| record.version == seen.running)?;
    match record.phase {
        Phase::Trial if is_confirmed(record, seen) => Some(Next::Confirm),
        Phase::Trial => Some(Next::Wait(Wait::Confirmation)),
        Phase::Proven if seen.up.is_some_and(|up| up >= LASTS_AFTER) => Some(Next::Settle),
        Phase::Proven => Some(Next::Wait(Wait::Probation)),
        Phase::Settled | Phase::Reverted { .. } | Phase::Abandoned => None,
    }
}

fn is_confirmed(record: &UpdateRecord, seen: Seen<'_>) -> bool {
    let steady = Duration::from_millis(record.steady_ms);
    seen.heard && seen.up.is_some_and(|up| up >= steady)
}

fn begin(order: Order<'_>, record: Option<&UpdateRecord>, seen: Seen<'_>) -> Next {
    let release = match order.release {
        Ok(release) => release,
        Err(error) => return refuse(error),
    };
    let on_trial =
        record.is_some_and(|record| record.phase == Phase::Trial && record.version == seen.running);
    if on_trial && release.version != seen.running {
        let recalled = record.is_some_and(|record| record.from_version == release.version);
        if recalled {
            return Next::GoBack(format!(
                "generation {} recalled it before it had confirmed itself",
                order.generation
            ));
        }
        return own_trial(record, seen).unwrap_or(Next::Wait(Wait::Trial));
    }
    if release.version == seen.running {
        return Next::Begin;
    }
    if let Err(why) = seen.able {
        return Next::Refuse(ErrorCode::UpdateUnsupported, why.to_owned());
    }
    let Some(now) = seen.controller else {
        return Next::Wait(Wait::Time);
    };
    match admit(order.update, release, seen, now) {
        Ok(_) => Next::Begin,
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &ReleaseError) -> Next {
    Next::Refuse(error.code(), error.to_string())
}

fn admit<'a>(
    update: &Update,
    release: &'a Release,
    seen: Seen<'_>,
    now: UnixMillis,
) -> Result<&'a Archive, ReleaseError> {
    let kept = seen.kept && update.cause == Cause::Rollback;
    release.admit(seen.running, kept, &update.revoked, now)?;
    release.archive(seen.target)
}

fn change(order: Order<'_>, record: Option<&UpdateRecord>, seen: Seen<'_>) -> Next {
    let of_this = record.filter(|record| record.generation == order.generation);
    if let Some(record) = of_this {
        match &record.phase {
            Phase::Trial if record.version == seen.running => {
                return own_trial(Some(record), seen).unwrap_or(Next::Wait(Wait::Trial));
            }
            Phase::Proven | Phase::Settled if record.version == seen.running => {
                return Next::End(ChangeOutcome::Succeeded, None);
            }
            Phase::Reverted { reason, .. } => {
                let failure = Failure::new(ErrorCode::UpdateReverted, reason.clone());
                return Next::End(ChangeOutcome::Reverted, Some(failure));
            }
            Phase::Trial | Phase::Proven | Phase::Settled | Phase::Abandoned => {}
        }
    }
    let release = match order.release {
        Ok(release) => release,
        Err(error) => return failed(error.code(), error),
    };
    if release.version == seen.running {
        return own_trial(record, seen)
            .filter(|next| *next != Next::Wait(Wait::Probation) && *next != Next::Settle)
            .unwrap_or(Next::End(ChangeOutcome::Succeeded, None));
    }
    // It waited: what could change meanwhile is judged again.
    let Some(now) = seen.controller else {
        return Next::Wait(Wait::Time);
    };
    let archive = match admit(order.update, release, seen, now) {
        Ok(archive) => archive,
        Err(error) => return failed(error.code(), &error),
    };
    if !seen.ready {
        if seen.tries >= TRIES_MAX {
            let detail = format!("it was prepared {TRIES_MAX} times, and not selected");
            return failed(ErrorCode::UpdateFailed, &detail);
        }
        return Next::Prepare(Box::new(archive.clone()));
    }
    if seen.open_commands > 0 {
        if seen.waited >= BUSY_MAX {
            let detail = format!(
                "{} commands ran for longer than {} s",
                seen.open_commands,
                BUSY_MAX.as_secs()
            );
            return failed(ErrorCode::UpdateBusy, &detail);
        }
        return Next::Wait(Wait::Commands(seen.open_commands));
    }
    Next::Swap
}

/// It failed before anything was swapped: the version before runs, as it did.
fn failed(code: ErrorCode, detail: &dyn core::fmt::Display) -> Next {
    let failure = Failure::new(code, detail.to_string());
    Next::End(ChangeOutcome::Reverted, Some(failure))
}
