//! Everything that can be asked for and would change the fleet.

use protocol::id::{ApiKeyId, NodeId, RolloutId};
use protocol::selector::Selector;

use crate::domain::access::caller::Caller;
use crate::domain::access::manage::{
    CreateGrant, CreateKey, CreatePrincipal, CreateRole, DeleteRole, DisablePrincipal,
    EnablePrincipal, RecoverAdmin, RevokeGrant, RevokeKey, RotateKey, UpdateRole,
};
use crate::domain::access::permission::Permission;
use crate::domain::alert::manage::{
    CreateSilence, DefineAlertRule, EndSilence, RemoveAlertRule, silenced, unsilenced,
};
use crate::domain::audit::backup::MakeBackup;
use crate::domain::breaker::manage::{
    DefineBreaker, EndOverride, MoveBreaker, OverrideBreaker, RaisePolicy, RecordBreaker,
    RemoveBreaker, SetLease, overridden,
};
use crate::domain::command::issue::{Aim, CancelCommand, ConcludeCommand, IssueCommand, resolve};
use crate::domain::deployment::apply::{
    ApplyDeployment, ForgetDeployment, RemoveDeployment, RollBackDeployment, touched,
};
use crate::domain::deployment::content::{PushArchive, RemoveArchive, RemoveContent, SetContent};
use crate::domain::deployment::steer::{
    AbortRollout, ApproveRollout, PauseRollout, RecordRollout, ResumeRollout,
};
use crate::domain::fleet::Fleet;
use crate::domain::fleet::admit::{AdmitNode, ApproveNode};
use crate::domain::fleet::cordon::{
    CordonNodes, DecommissionNodes, DrainNodes, EndDrain, UncordonNodes, meant,
};
use crate::domain::fleet::manage::{
    CertifyNode, RelabelNode, RenameNode, ReplaceNode, ResolveIdentity, RevokeNode, SuspectIdentity,
};
use crate::domain::fleet::token::{CreateToken, RevokeToken};
use crate::domain::fleet::trust::{PublishTrust, RaiseIncarnation};
use crate::domain::notice::sink::{RemoveSink, SetSink};
use crate::domain::rejection::Rejection;
use crate::domain::release::update::ApplyUpdate;
use crate::domain::release::{AddRelease, RemoveRelease, RevokeRelease};
use crate::domain::window::manage::{OpenWindow, RemoveWindow, SetWindow, ShutWindow};

/// A request that would change the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's type says what it asks for")]
pub enum Operation {
    CreateToken(CreateToken),
    RevokeToken(RevokeToken),
    AdmitNode(AdmitNode),
    ApproveNode(ApproveNode),
    RenameNode(RenameNode),
    RelabelNode(RelabelNode),
    RevokeNode(RevokeNode),
    ReplaceNode(ReplaceNode),
    CordonNodes(CordonNodes),
    UncordonNodes(UncordonNodes),
    DrainNodes(DrainNodes),
    DecommissionNodes(DecommissionNodes),
    EndDrain(EndDrain),
    CertifyNode(CertifyNode),
    SuspectIdentity(SuspectIdentity),
    ResolveIdentity(ResolveIdentity),
    RaiseIncarnation(RaiseIncarnation),
    PublishTrust(PublishTrust),
    CreatePrincipal(CreatePrincipal),
    DisablePrincipal(DisablePrincipal),
    EnablePrincipal(EnablePrincipal),
    CreateRole(CreateRole),
    UpdateRole(UpdateRole),
    DeleteRole(DeleteRole),
    CreateGrant(CreateGrant),
    RevokeGrant(RevokeGrant),
    CreateKey(CreateKey),
    RotateKey(RotateKey),
    RevokeKey(RevokeKey),
    RecoverAdmin(RecoverAdmin),
    IssueCommand(IssueCommand),
    CancelCommand(CancelCommand),
    ConcludeCommand(ConcludeCommand),
    ApplyDeployment(ApplyDeployment),
    RollBackDeployment(RollBackDeployment),
    RemoveDeployment(RemoveDeployment),
    ForgetDeployment(ForgetDeployment),
    PauseRollout(PauseRollout),
    ResumeRollout(ResumeRollout),
    ApproveRollout(ApproveRollout),
    AbortRollout(AbortRollout),
    RecordRollout(RecordRollout),
    SetContent(SetContent),
    RemoveContent(RemoveContent),
    PushArchive(PushArchive),
    RemoveArchive(RemoveArchive),
    AddRelease(AddRelease),
    RevokeRelease(RevokeRelease),
    RemoveRelease(RemoveRelease),
    ApplyUpdate(ApplyUpdate),
    DefineBreaker(DefineBreaker),
    RemoveBreaker(RemoveBreaker),
    SetLease(SetLease),
    MoveBreaker(MoveBreaker),
    RecordBreaker(RecordBreaker),
    OverrideBreaker(OverrideBreaker),
    EndOverride(EndOverride),
    RaisePolicy(RaisePolicy),
    SetWindow(SetWindow),
    RemoveWindow(RemoveWindow),
    OpenWindow(OpenWindow),
    ShutWindow(ShutWindow),
    SetSink(SetSink),
    RemoveSink(RemoveSink),
    DefineAlertRule(DefineAlertRule),
    RemoveAlertRule(RemoveAlertRule),
    CreateSilence(CreateSilence),
    EndSilence(EndSilence),
    MakeBackup(MakeBackup),
}

/// What a caller must be, or hold, for an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A permission on these nodes; on the fleet as such when there are none.
    Permission(Permission, Vec<NodeId>),
    /// As above; or the key is the caller's own.
    PermissionOrOwn(Permission),
    /// To be the controller itself.
    System,
    /// As above, or to be the node.
    SystemOrNode(NodeId),
    /// To be the controller itself, or to hold a permission on the fleet.
    SystemOrPermission(Permission),
    /// To be on the controller's own host.
    Host,
    /// A join token, which the decision checks.
    JoinToken,
}

impl Operation {
    /// The operation's name, as it is recorded.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateToken(_) => "token.create",
            Self::RevokeToken(_) => "token.revoke",
            Self::AdmitNode(_) => "node.admit",
            Self::ApproveNode(_) => "node.approve",
            Self::RenameNode(_) => "node.rename",
            Self::RelabelNode(_) => "node.relabel",
            Self::RevokeNode(_) => "node.revoke",
            Self::ReplaceNode(_) => "node.replace",
            Self::CordonNodes(_) => "node.cordon",
            Self::UncordonNodes(_) => "node.uncordon",
            Self::DrainNodes(_) => "node.drain",
            Self::DecommissionNodes(_) => "node.decommission",
            Self::EndDrain(_) => "node.end_drain",
            Self::CertifyNode(_) => "node.certify",
            Self::SuspectIdentity(_) => "node.suspect",
            Self::ResolveIdentity(_) => "node.resolve",
            Self::RaiseIncarnation(_) => "fleet.raise_incarnation",
            Self::PublishTrust(_) => "fleet.publish_trust",
            Self::CreatePrincipal(_) => "principal.create",
            Self::DisablePrincipal(_) => "principal.disable",
            Self::EnablePrincipal(_) => "principal.enable",
            Self::CreateRole(_) => "role.create",
            Self::UpdateRole(_) => "role.update",
            Self::DeleteRole(_) => "role.delete",
            Self::CreateGrant(_) => "grant.create",
            Self::RevokeGrant(_) => "grant.revoke",
            Self::CreateKey(_) => "key.create",
            Self::RotateKey(_) => "key.rotate",
            Self::RevokeKey(_) => "key.revoke",
            Self::RecoverAdmin(_) => "admin.recover",
            Self::IssueCommand(_) => "command.issue",
            Self::CancelCommand(_) => "command.cancel",
            Self::ConcludeCommand(_) => "command.conclude",
            Self::ApplyDeployment(_) => "deployment.apply",
            Self::RollBackDeployment(_) => "deployment.roll_back",
            Self::RemoveDeployment(_) => "deployment.remove",
            Self::ForgetDeployment(_) => "deployment.forget",
            Self::PauseRollout(_) => "rollout.pause",
            Self::ResumeRollout(_) => "rollout.resume",
            Self::ApproveRollout(_) => "rollout.approve",
            Self::AbortRollout(_) => "rollout.abort",
            Self::RecordRollout(_) => "rollout.record",
            Self::SetContent(_) => "content.set",
            Self::RemoveContent(_) => "content.remove",
            Self::PushArchive(_) => "archive.push",
            Self::RemoveArchive(_) => "archive.remove",
            Self::AddRelease(_) => "release.add",
            Self::RevokeRelease(_) => "release.revoke",
            Self::RemoveRelease(_) => "release.remove",
            Self::ApplyUpdate(_) => "update.apply",
            Self::DefineBreaker(_) => "breaker.define",
            Self::RemoveBreaker(_) => "breaker.remove",
            Self::SetLease(_) => "policy.set_lease",
            Self::MoveBreaker(asked) => asked.to.operation(),
            Self::RecordBreaker(_) => "breaker.record",
            Self::OverrideBreaker(_) => "breaker.override",
            Self::EndOverride(_) => "breaker.end_override",
            Self::RaisePolicy(_) => "policy.raise",
            Self::SetWindow(_) => "window.set",
            Self::RemoveWindow(_) => "window.remove",
            Self::OpenWindow(_) => "window.open",
            Self::ShutWindow(_) => "window.shut",
            Self::SetSink(_) => "sink.set",
            Self::RemoveSink(_) => "sink.remove",
            Self::DefineAlertRule(_) => "alert_rule.define",
            Self::RemoveAlertRule(_) => "alert_rule.remove",
            Self::CreateSilence(_) => "silence.create",
            Self::EndSilence(_) => "silence.end",
            Self::MakeBackup(_) => "backup.make",
        }
    }

    /// What the caller must be or hold.
    ///
    /// # Errors
    /// The rejection when that cannot be said, because a node is named that does
    /// not exist.
    pub fn authority(&self, fleet: &Fleet, caller: &Caller) -> Result<Authority, Rejection> {
        let whole =
            |resource, action| Authority::Permission(Permission::of(resource, action), vec![]);
        let on = |action, nodes: &[NodeId]| {
            Authority::Permission(Permission::of("node", action), nodes.to_vec())
        };
        Ok(match self {
            Self::CreateToken(_) => whole("token", "create"),
            Self::RevokeToken(_) => whole("token", "revoke"),
            Self::AdmitNode(_) => Authority::JoinToken,
            Self::ApproveNode(asked) => on("approve", &[asked.node]),
            Self::RenameNode(asked) => on("rename", &[asked.node]),
            Self::RelabelNode(asked) => on("relabel", &[asked.node]),
            Self::RevokeNode(asked) => on("revoke", &[asked.node]),
            Self::ReplaceNode(asked) => on("replace", &[asked.old, asked.new]),
            Self::CordonNodes(asked) => out_of_service(fleet, &asked.nodes, "cordon")?,
            Self::UncordonNodes(asked) => out_of_service(fleet, &asked.nodes, "cordon")?,
            Self::DrainNodes(asked) => out_of_service(fleet, &asked.nodes, "drain")?,
            Self::DecommissionNodes(asked) => out_of_service(fleet, &asked.nodes, "decommission")?,
            Self::CertifyNode(asked) => Authority::SystemOrNode(asked.node),
            Self::ResolveIdentity(asked) => on("resolve", &[asked.node]),
            Self::SuspectIdentity(_)
            | Self::EndDrain(_)
            | Self::RaiseIncarnation(_)
            | Self::ConcludeCommand(_)
            | Self::ForgetDeployment(_)
            | Self::RecordRollout(_)
            | Self::RecordBreaker(_)
            | Self::RaisePolicy(_) => Authority::System,
            Self::PublishTrust(_) => {
                Authority::SystemOrPermission(Permission::of("trust", "rotate"))
            }
            Self::CreatePrincipal(_) => whole("principal", "create"),
            Self::DisablePrincipal(_) => whole("principal", "disable"),
            Self::EnablePrincipal(_) => whole("principal", "enable"),
            Self::CreateRole(_) => whole("role", "create"),
            Self::UpdateRole(_) => whole("role", "update"),
            Self::DeleteRole(_) => whole("role", "delete"),
            Self::CreateGrant(_) => whole("grant", "create"),
            Self::RevokeGrant(_) => whole("grant", "revoke"),
            Self::CreateKey(_) => whole("key", "create"),
            Self::RotateKey(asked) => key_authority(fleet, caller, asked.key, "rotate"),
            Self::RevokeKey(asked) => key_authority(fleet, caller, asked.key, "revoke"),
            Self::RecoverAdmin(_) => Authority::Host,
            Self::IssueCommand(asked) => Authority::Permission(
                Permission::of("command", asked.action.name()),
                resolve(fleet, &asked.on, &asked.action)?.nodes,
            ),
            Self::CancelCommand(asked) => cancel_authority(fleet, caller, asked),
            Self::ApplyDeployment(asked) => applying(fleet, &asked.name, &asked.selector),
            Self::RollBackDeployment(asked) => {
                let deployment = fleet.deployments().existing(asked.deployment)?;
                let to = asked.to.and_then(|to| deployment.revisions.get(&to));
                Authority::Permission(
                    Permission::of("deployment", "apply"),
                    touched(fleet, Some(deployment), to.map(|to| &to.selector)),
                )
            }
            Self::RemoveDeployment(asked) => {
                let deployment = fleet.deployments().existing(asked.deployment)?;
                Authority::Permission(
                    Permission::of("deployment", "remove"),
                    touched(fleet, Some(deployment), None),
                )
            }
            Self::SetContent(_) => whole("secret", "set"),
            Self::RemoveContent(_) => whole("secret", "remove"),
            Self::PushArchive(_) => whole("image", "push"),
            Self::RemoveArchive(_) => whole("image", "remove"),
            Self::AddRelease(_) => whole("release", "add"),
            Self::RevokeRelease(_) => whole("release", "revoke"),
            Self::RemoveRelease(_) => whole("release", "remove"),
            Self::ApplyUpdate(asked) => applying(fleet, &asked.name, &asked.selector),
            Self::SetSink(_) => whole("sink", "set"),
            Self::RemoveSink(_) => whole("sink", "remove"),
            Self::DefineBreaker(_) | Self::RemoveBreaker(_) | Self::SetLease(_) => {
                whole("breaker", "manage")
            }
            Self::MoveBreaker(asked) => whole("breaker", asked.to.permission()),
            Self::OverrideBreaker(asked) => Authority::Permission(
                Permission::of("breaker", "override"),
                overridden(fleet, asked),
            ),
            Self::EndOverride(_) => {
                Authority::SystemOrPermission(Permission::of("breaker", "override"))
            }
            Self::SetWindow(_) | Self::RemoveWindow(_) => whole("window", "manage"),
            Self::OpenWindow(_) | Self::ShutWindow(_) => whole("window", "override"),
            Self::DefineAlertRule(_) | Self::RemoveAlertRule(_) => whole("alert", "manage"),
            Self::CreateSilence(asked) => Authority::Permission(
                Permission::of("alert", "silence"),
                silenced(fleet, &asked.nodes),
            ),
            Self::EndSilence(asked) => {
                Authority::Permission(Permission::of("alert", "silence"), unsilenced(fleet, asked))
            }
            Self::MakeBackup(_) => whole("backup", "create"),
            Self::PauseRollout(asked) => steering(fleet, asked.rollout, "pause")?,
            Self::ResumeRollout(asked) => steering(fleet, asked.rollout, "resume")?,
            Self::ApproveRollout(asked) => steering(fleet, asked.rollout, "approve")?,
            Self::AbortRollout(asked) => steering(fleet, asked.rollout, "abort")?,
        })
    }
}

/// To give a deployment a revision, on every node that it touches.
fn applying(fleet: &Fleet, name: &str, selector: &Selector) -> Authority {
    let known = fleet.deployments().named(name).map(AsRef::as_ref);
    Authority::Permission(
        Permission::of("deployment", "apply"),
        touched(fleet, known, Some(selector)),
    )
}

/// The permission to change an API key; whoever it belongs to may without.
fn key_authority(fleet: &Fleet, caller: &Caller, key: ApiKeyId, action: &'static str) -> Authority {
    let permission = Permission::of("key", action);
    let owner = fleet.access().key(key).map(|key| key.principal);
    match owner {
        Some(owner) if caller.principal() == Some(owner) => Authority::PermissionOrOwn(permission),
        Some(_) | None => Authority::Permission(permission, vec![]),
    }
}

/// The permission to take nodes out of service, on every node that is meant.
fn out_of_service(fleet: &Fleet, aim: &Aim, action: &'static str) -> Result<Authority, Rejection> {
    let nodes = meant(fleet, aim)?.into_iter().collect();
    Ok(Authority::Permission(Permission::of("node", action), nodes))
}

/// The permission to steer a rollout, on every node that it touches.
fn steering(
    fleet: &Fleet,
    rollout: RolloutId,
    action: &'static str,
) -> Result<Authority, Rejection> {
    let rollout = fleet.rollouts().existing(rollout)?;
    let deployment = fleet.deployments().get(rollout.deployment);
    Ok(Authority::Permission(
        Permission::of("rollout", action),
        touched(fleet, deployment.map(AsRef::as_ref), None),
    ))
}

/// Whoever issued a command may cancel it wherever their grants have got to since;
/// anybody else needs the permission over the whole fleet, because a command's
/// targets are no longer at hand one by one.
fn cancel_authority(fleet: &Fleet, caller: &Caller, asked: &CancelCommand) -> Authority {
    let permission = Permission::of("command", "cancel");
    let issuer = fleet
        .commands()
        .get(asked.command)
        .and_then(|command| command.by.principal());
    match issuer {
        Some(issuer) if caller.principal() == Some(issuer) => {
            Authority::PermissionOrOwn(permission)
        }
        Some(_) | None => Authority::Permission(permission, vec![]),
    }
}
