//! What becomes of a request: who may ask, and what then happens.
//!
//! Both functions are pure. The engine calls [`admit`] and then [`decide`] on the
//! same state, so nothing can change between the two.

use protocol::ErrorCode;
use protocol::id::{CommandId, ID_BYTES, NodeId, RolloutId};

use crate::domain::access::authorize::{Decision, Denial, authorize, check_key, reach};
use crate::domain::access::caller::Caller;
use crate::domain::access::manage;
use crate::domain::access::permission::Permission;
use crate::domain::alert;
use crate::domain::audit::backup;
use crate::domain::breaker::manage as breaker;
use crate::domain::command::{Hours, issue};
use crate::domain::deployment;
use crate::domain::event::Event;
use crate::domain::fleet::{self, Fleet};
use crate::domain::moment::Moment;
use crate::domain::notice::sink;
use crate::domain::operation::{Authority, Operation};
use crate::domain::rejection::Rejection;
use crate::domain::release;
use crate::domain::window::manage as window;

/// What a request leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// What happened, in order. None when all is as asked already.
    pub events: Vec<Event>,
    /// The nodes of a command that was issued, or of a rollout that was started.
    /// Stored with the events.
    pub targets: Option<Targets>,
}

/// The nodes that something goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// What.
    pub of: TargetsOf,
    /// Its nodes: a command's by id, a rollout's in the order of its plan.
    pub nodes: Vec<NodeId>,
}

/// What goes to some nodes. Both kinds of ids are random, so they never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetsOf {
    /// A command.
    Command(CommandId),
    /// A rollout.
    Rollout(RolloutId),
}

impl TargetsOf {
    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        match self {
            Self::Command(id) => id.as_bytes(),
            Self::Rollout(id) => id.as_bytes(),
        }
    }
}

impl From<CommandId> for TargetsOf {
    fn from(id: CommandId) -> Self {
        Self::Command(id)
    }
}

impl From<RolloutId> for TargetsOf {
    fn from(id: RolloutId) -> Self {
        Self::Rollout(id)
    }
}

/// Why a request is turned down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller may not.
    #[error(transparent)]
    Denied(Denial),
    /// The rules of the fleet do not allow it.
    #[error(transparent)]
    Rejected(Rejection),
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Denied(denial) => denial.code,
            Self::Rejected(rejection) => rejection.code,
        }
    }
}

/// Whether the caller may ask for the operation.
///
/// # Errors
/// The denial; or the rejection when the request names what does not exist, to
/// a caller who may look at nodes. To others that is a denial too, so that ids
/// cannot be probed.
pub fn admit(fleet: &Fleet, caller: &Caller, operation: &Operation) -> Result<(), Refusal> {
    let authority = match operation.authority(fleet, caller) {
        Ok(authority) => authority,
        Err(rejection) => {
            let looks = Permission::of("node", "read");
            return match reach(fleet.access(), caller, &looks) {
                Ok(_) => Err(Refusal::Rejected(rejection)),
                Err(denial) => Err(Refusal::Denied(denial)),
            };
        }
    };
    match authority {
        Authority::Permission(permission, on) => {
            permitted(fleet, caller, &permission, &on)?;
            keeps_hours(fleet, caller, operation, &on)?;
            stays_in_reach(fleet, caller, &permission, operation)
        }
        Authority::PermissionOrOwn(permission) => own(fleet, caller, &permission),
        Authority::System => only(*caller == Caller::System, operation),
        Authority::SystemOrNode(node) => only(
            matches!(caller, Caller::System) || *caller == Caller::Node(node),
            operation,
        ),
        Authority::SystemOrPermission(permission) => match caller {
            Caller::System => Ok(()),
            Caller::Principal { .. } | Caller::Host | Caller::Node(_) | Caller::Anonymous => {
                permitted(fleet, caller, &permission, &[])
            }
        },
        Authority::Host => only(*caller == Caller::Host, operation),
        Authority::JoinToken => only(*caller == Caller::Anonymous, operation),
    }
}

/// What the operation leads to.
///
/// # Errors
/// The rejection when the rules of the fleet do not allow it.
pub fn decide(
    fleet: &Fleet,
    caller: &Caller,
    operation: &Operation,
    at: &Moment,
) -> Result<Decided, Rejection> {
    let access = fleet.access();
    let events = match operation {
        Operation::CreateToken(asked) => fleet::token::create(fleet, asked, at),
        Operation::RevokeToken(asked) => fleet::token::revoke(fleet, asked),
        Operation::AdmitNode(asked) => fleet::admit::admit(fleet, asked, at),
        Operation::ApproveNode(asked) => fleet::admit::approve(fleet, asked),
        Operation::RenameNode(asked) => fleet::manage::rename(fleet, asked),
        Operation::RelabelNode(asked) => fleet::manage::relabel(fleet, asked),
        Operation::RevokeNode(asked) => fleet::manage::revoke(fleet, asked),
        Operation::ReplaceNode(asked) => fleet::manage::replace(fleet, asked),
        Operation::CordonNodes(asked) => fleet::cordon::cordon(fleet, asked),
        Operation::UncordonNodes(asked) => fleet::cordon::uncordon(fleet, asked),
        Operation::DrainNodes(asked) => fleet::cordon::drain(fleet, asked, at),
        Operation::DecommissionNodes(asked) => fleet::cordon::decommission(fleet, asked, at),
        Operation::EndDrain(asked) => fleet::cordon::end_drain(fleet, asked),
        Operation::CertifyNode(asked) => fleet::manage::certify(fleet, asked),
        Operation::SuspectIdentity(asked) => fleet::manage::suspect(fleet, asked),
        Operation::ResolveIdentity(asked) => fleet::manage::resolve(fleet, asked),
        Operation::RaiseIncarnation(asked) => {
            fleet::trust::raise(fleet, asked).map(|events| breaker::leap(fleet, events))
        }
        Operation::PublishTrust(asked) => fleet::trust::publish(fleet, asked, at.now),
        Operation::CreatePrincipal(asked) => manage::create_principal(access, asked, at),
        Operation::DisablePrincipal(asked) => manage::disable_principal(access, asked, at),
        Operation::EnablePrincipal(asked) => manage::enable_principal(access, asked),
        Operation::CreateRole(asked) => manage::create_role(access, caller, asked),
        Operation::UpdateRole(asked) => manage::update_role(access, caller, asked),
        Operation::DeleteRole(asked) => manage::delete_role(access, asked),
        Operation::CreateGrant(asked) => manage::create_grant(access, caller, asked, at),
        Operation::RevokeGrant(asked) => manage::revoke_grant(access, asked, at),
        Operation::CreateKey(asked) => manage::create_key(access, caller, asked, at),
        Operation::RotateKey(asked) => manage::rotate_key(access, caller, asked, at),
        Operation::RevokeKey(asked) => manage::revoke_key(access, asked, at),
        Operation::RecoverAdmin(asked) => manage::recover_admin(access, asked, at),
        Operation::CancelCommand(asked) => issue::cancel(fleet, asked),
        Operation::ConcludeCommand(asked) => issue::conclude(fleet, asked),
        Operation::RemoveDeployment(asked) => deployment::apply::remove(fleet, asked),
        Operation::ForgetDeployment(asked) => deployment::apply::forget(fleet, asked),
        Operation::SetContent(asked) => deployment::content::set(asked),
        Operation::RemoveContent(asked) => deployment::content::remove(asked),
        Operation::PushArchive(asked) => Ok(deployment::content::push(asked)),
        Operation::RemoveArchive(asked) => Ok(deployment::content::drop_archive(asked)),
        Operation::AddRelease(asked) => release::add(fleet, asked),
        Operation::RevokeRelease(asked) => release::revoke(fleet, asked),
        Operation::RemoveRelease(asked) => release::remove(fleet, asked),
        Operation::PauseRollout(asked) => deployment::steer::pause(fleet, asked),
        Operation::ResumeRollout(asked) => deployment::steer::resume(fleet, asked, at),
        Operation::ApproveRollout(asked) => deployment::steer::approve(fleet, caller, asked, at),
        Operation::AbortRollout(asked) => deployment::steer::abort(fleet, asked),
        Operation::RecordRollout(asked) => deployment::steer::record(fleet, asked),
        Operation::DefineBreaker(asked) => breaker::define(fleet, asked, at),
        Operation::RemoveBreaker(asked) => breaker::remove(fleet, asked, at),
        Operation::SetLease(asked) => breaker::set_lease(fleet, asked, at),
        Operation::MoveBreaker(asked) => breaker::by_hand(fleet, caller, asked, at),
        Operation::RecordBreaker(asked) => breaker::record(fleet, asked, at),
        Operation::OverrideBreaker(asked) => breaker::give(fleet, caller, asked, at),
        Operation::EndOverride(asked) => breaker::end(fleet, caller, asked, at),
        Operation::RaisePolicy(asked) => breaker::raise(fleet, asked),
        Operation::SetWindow(asked) => window::set(fleet, asked),
        Operation::RemoveWindow(asked) => window::remove(fleet, asked),
        Operation::OpenWindow(asked) => window::open(fleet, asked, at),
        Operation::ShutWindow(asked) => window::shut(fleet, asked),
        Operation::SetSink(asked) => sink::set(fleet, asked),
        Operation::RemoveSink(asked) => sink::remove(fleet, asked),
        Operation::DefineAlertRule(asked) => alert::manage::define(fleet, asked, at),
        Operation::RemoveAlertRule(asked) => alert::manage::remove(fleet, asked, at),
        Operation::CreateSilence(asked) => alert::manage::silence(fleet, caller, asked, at),
        Operation::EndSilence(asked) => alert::manage::end(fleet, asked, at),
        Operation::MakeBackup(asked) => backup::make(asked),
        Operation::IssueCommand(asked) => {
            let (events, targets) = issue::issue(fleet, asked, at)?;
            return Ok(Decided {
                events,
                targets: Some(targets),
            });
        }
        Operation::ApplyDeployment(asked) => {
            return deployment::apply::apply(fleet, caller, asked, at);
        }
        Operation::ApplyUpdate(asked) => {
            return release::update::apply(fleet, caller, asked, at);
        }
        Operation::RollBackDeployment(asked) => {
            return deployment::apply::roll_back(fleet, caller, asked, at);
        }
    }?;
    Ok(Decided {
        events,
        targets: None,
    })
}

fn permitted(
    fleet: &Fleet,
    caller: &Caller,
    permission: &Permission,
    on: &[NodeId],
) -> Result<(), Refusal> {
    match authorize(fleet, caller, permission, on) {
        Decision::Allowed { .. } => Ok(()),
        Decision::Denied(denial) => Err(Refusal::Denied(denial)),
    }
}

/// A command that does not wait for maintenance windows takes a permission of its own.
fn keeps_hours(
    fleet: &Fleet,
    caller: &Caller,
    operation: &Operation,
    on: &[NodeId],
) -> Result<(), Refusal> {
    if let Operation::IssueCommand(asked) = operation
        && asked.hours == Hours::Any
    {
        return permitted(fleet, caller, &Permission::of("window", "bypass"), on);
    }
    Ok(())
}

/// What is the caller's own needs no grant, but the key's scope still counts.
fn own(fleet: &Fleet, caller: &Caller, permission: &Permission) -> Result<(), Refusal> {
    match caller {
        Caller::Principal { id, key } => {
            check_key(fleet.access(), *id, *key, permission).map_err(Refusal::Denied)
        }
        Caller::Host | Caller::Node(_) | Caller::System | Caller::Anonymous => {
            permitted(fleet, caller, permission, &[])
        }
    }
}

fn only(is_it: bool, operation: &Operation) -> Result<(), Refusal> {
    if is_it {
        return Ok(());
    }
    Err(Refusal::Denied(Denial::new(
        ErrorCode::AccessDenied,
        format!("{} is not for this kind of caller", operation.name()),
    )))
}

/// Whoever has a permission on some nodes alone must not move a node out of
/// them, or into the reach of somebody else's grant: after a change of name or
/// labels the node must still be one of theirs.
fn stays_in_reach(
    fleet: &Fleet,
    caller: &Caller,
    permission: &Permission,
    operation: &Operation,
) -> Result<(), Refusal> {
    let changed = if let Operation::RenameNode(asked) = operation {
        fleet.node(asked.node).map(|node| {
            let mut node = node.as_ref().clone();
            node.name.clone_from(&asked.name);
            node
        })
    } else if let Operation::RelabelNode(asked) = operation
        && let Some(node) = fleet.node(asked.node)
    {
        let mut node = node.as_ref().clone();
        node.labels = fleet::manage::relabelled(&node, asked).map_err(Refusal::Rejected)?;
        Some(node)
    } else {
        None
    };
    let Some(changed) = changed else {
        return Ok(());
    };
    let reach = reach(fleet.access(), caller, permission).map_err(Refusal::Denied)?;
    if reach.covers(&changed) {
        return Ok(());
    }
    Err(Refusal::Denied(Denial::new(
        ErrorCode::AccessDenied,
        format!(
            "node {} would be outside the nodes on which {permission} is granted",
            changed.id
        ),
    )))
}

#[cfg(test)]
mod tests;
