//! Every event, under its stored name and version.
//!
//! An event's name and its fields are stored for ever. Fields are added with
//! `#[serde(default)]`; a change of meaning raises the version here and adds a
//! step to [`crate::domain::audit::record`], which reads older ones. The files in
//! `golden/` hold one record of each event and version, and a test reads them.

use serde::{Deserialize, Serialize};

use crate::domain::access::event::{
    AdminRecovered, GrantCreated, GrantRevoked, KeyCreated, KeyRevoked, KeyRotated,
    PrincipalCreated, PrincipalDisabled, PrincipalEnabled, RoleCreated, RoleDeleted, RoleUpdated,
};
use crate::domain::alert::event::{
    AlertRuleDefined, AlertRuleRemoved, SilenceCreated, SilenceEnded,
};
use crate::domain::audit::backup::BackupMade;
use crate::domain::audit::event::{DenialsCounted, RequestDenied, RequestRejected};
use crate::domain::breaker::event::{
    BreakerDefined, BreakerMoved, BreakerOverridden, BreakerRemoved, LeaseSet, OverrideEnded,
    PolicyPublished,
};
use crate::domain::command::event::{CommandCancelRequested, CommandConcluded, CommandIssued};
use crate::domain::deployment::content::{
    ArchivePushed, ArchiveRemoved, ContentRemoved, ContentSet,
};
use crate::domain::deployment::event::{DeploymentApplied, DeploymentForgotten, DeploymentRemoved};
use crate::domain::fleet::event::{
    DrainEnded, DrainStarted, IdentityResolved, IdentitySuspected, IncarnationRaised, NodeApproved,
    NodeCertified, NodeJoined, NodeRelabelled, NodeRenamed, NodeReplaced, NodeRevoked,
    NodesCordoned, NodesUncordoned, TokenCreated, TokenRevoked, TrustPublished,
};
use crate::domain::notice::sink::{SinkRemoved, SinkSet};
use crate::domain::release::event::{ReleaseAdded, ReleaseRemoved, ReleaseRevoked, UpdateApplied};
use crate::domain::rollout::event::{
    Decision, RolloutAborted, RolloutCommitted, RolloutFinished, RolloutHalted, RolloutPaused,
    RolloutResumed, RolloutStarted, WaveApproved, WaveStarted,
};
use crate::domain::window::event::{WindowOpened, WindowRemoved, WindowSet, WindowShut};

/// What happened. Stored under the name beside each variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A join token was made.
    #[serde(rename = "token.created")]
    TokenCreated(TokenCreated),
    /// A join token was revoked.
    #[serde(rename = "token.revoked")]
    TokenRevoked(TokenRevoked),
    /// A node joined.
    #[serde(rename = "node.joined")]
    NodeJoined(NodeJoined),
    /// A waiting node was let in.
    #[serde(rename = "node.approved")]
    NodeApproved(NodeApproved),
    /// A node got another name.
    #[serde(rename = "node.renamed")]
    NodeRenamed(NodeRenamed),
    /// A node's labels changed.
    #[serde(rename = "node.relabelled")]
    NodeRelabelled(NodeRelabelled),
    /// A node was put out.
    #[serde(rename = "node.revoked")]
    NodeRevoked(NodeRevoked),
    /// A node took another's place.
    #[serde(rename = "node.replaced")]
    NodeReplaced(NodeReplaced),
    /// Nodes were taken out of service.
    #[serde(rename = "node.cordoned")]
    NodesCordoned(NodesCordoned),
    /// Nodes were put into service again.
    #[serde(rename = "node.uncordoned")]
    NodesUncordoned(NodesUncordoned),
    /// The workloads of nodes are to be taken away.
    #[serde(rename = "node.drain_started")]
    DrainStarted(DrainStarted),
    /// A drain ended.
    #[serde(rename = "node.drain_ended")]
    DrainEnded(DrainEnded),
    /// A node got a certificate.
    #[serde(rename = "node.certified")]
    NodeCertified(NodeCertified),
    /// A node's identity came into doubt.
    #[serde(rename = "node.suspected")]
    IdentitySuspected(IdentitySuspected),
    /// A node's identity was found sound.
    #[serde(rename = "node.resolved")]
    IdentityResolved(IdentityResolved),
    /// The controller's incarnation rose.
    #[serde(rename = "fleet.incarnation_raised")]
    IncarnationRaised(IncarnationRaised),
    /// A trust set came into force.
    #[serde(rename = "fleet.trust_published")]
    TrustPublished(TrustPublished),
    /// A principal was made known.
    #[serde(rename = "principal.created")]
    PrincipalCreated(PrincipalCreated),
    /// A principal was disabled.
    #[serde(rename = "principal.disabled")]
    PrincipalDisabled(PrincipalDisabled),
    /// A principal was enabled again.
    #[serde(rename = "principal.enabled")]
    PrincipalEnabled(PrincipalEnabled),
    /// A role was made.
    #[serde(rename = "role.created")]
    RoleCreated(RoleCreated),
    /// A role got new contents.
    #[serde(rename = "role.updated")]
    RoleUpdated(RoleUpdated),
    /// A role was deleted.
    #[serde(rename = "role.deleted")]
    RoleDeleted(RoleDeleted),
    /// A role was given to a principal.
    #[serde(rename = "grant.created")]
    GrantCreated(GrantCreated),
    /// A grant was taken back.
    #[serde(rename = "grant.revoked")]
    GrantRevoked(GrantRevoked),
    /// A principal got an API key.
    #[serde(rename = "key.created")]
    KeyCreated(KeyCreated),
    /// An API key got a successor.
    #[serde(rename = "key.rotated")]
    KeyRotated(KeyRotated),
    /// An API key was revoked.
    #[serde(rename = "key.revoked")]
    KeyRevoked(KeyRevoked),
    /// An admin was recovered on the controller's host.
    #[serde(rename = "admin.recovered")]
    AdminRecovered(AdminRecovered),
    /// A command was issued.
    #[serde(rename = "command.issued")]
    CommandIssued(CommandIssued),
    /// Someone asked to cancel a command.
    #[serde(rename = "command.cancel_requested")]
    CommandCancelRequested(CommandCancelRequested),
    /// Every target of a command is final.
    #[serde(rename = "command.concluded")]
    CommandConcluded(CommandConcluded),
    /// A deployment got a revision.
    #[serde(rename = "deployment.applied")]
    DeploymentApplied(DeploymentApplied),
    /// A deployment is to be taken from every node.
    #[serde(rename = "deployment.removed")]
    DeploymentRemoved(DeploymentRemoved),
    /// A removed deployment is known no more.
    #[serde(rename = "deployment.forgotten")]
    DeploymentForgotten(DeploymentForgotten),
    /// A rollout was made.
    #[serde(rename = "rollout.started")]
    RolloutStarted(RolloutStarted),
    /// A wave of a rollout began.
    #[serde(rename = "rollout.wave_started")]
    WaveStarted(WaveStarted),
    /// The gate before a wave was opened.
    #[serde(rename = "rollout.wave_approved")]
    WaveApproved(WaveApproved),
    /// A rollout halted.
    #[serde(rename = "rollout.halted")]
    RolloutHalted(RolloutHalted),
    /// A rollout paused.
    #[serde(rename = "rollout.paused")]
    RolloutPaused(RolloutPaused),
    /// A rollout goes on.
    #[serde(rename = "rollout.resumed")]
    RolloutResumed(RolloutResumed),
    /// A rollout was aborted.
    #[serde(rename = "rollout.aborted")]
    RolloutAborted(RolloutAborted),
    /// The nodes of a rollout commit.
    #[serde(rename = "rollout.committed")]
    RolloutCommitted(RolloutCommitted),
    /// A rollout ended.
    #[serde(rename = "rollout.finished")]
    RolloutFinished(RolloutFinished),
    /// A config or secret got a content.
    #[serde(rename = "content.set")]
    ContentSet(ContentSet),
    /// A config or secret was taken away.
    #[serde(rename = "content.removed")]
    ContentRemoved(ContentRemoved),
    /// An image archive is uploaded.
    #[serde(rename = "archive.pushed")]
    ArchivePushed(ArchivePushed),
    /// An image archive was taken away.
    #[serde(rename = "archive.removed")]
    ArchiveRemoved(ArchiveRemoved),
    /// A release was added.
    #[serde(rename = "release.added")]
    ReleaseAdded(ReleaseAdded),
    /// A release was revoked.
    #[serde(rename = "release.revoked")]
    ReleaseRevoked(ReleaseRevoked),
    /// A release is kept no longer.
    #[serde(rename = "release.removed")]
    ReleaseRemoved(ReleaseRemoved),
    /// A deployment got a revision that is a version of the agent.
    #[serde(rename = "update.applied")]
    UpdateApplied(UpdateApplied),
    /// A breaker was defined, or defined anew.
    #[serde(rename = "breaker.defined")]
    BreakerDefined(BreakerDefined),
    /// A breaker was removed.
    #[serde(rename = "breaker.removed")]
    BreakerRemoved(BreakerRemoved),
    /// A breaker moved from one state to another.
    #[serde(rename = "breaker.moved")]
    BreakerMoved(BreakerMoved),
    /// Some nodes may pass a breaker for a while.
    #[serde(rename = "breaker.overridden")]
    BreakerOverridden(BreakerOverridden),
    /// An override is over.
    #[serde(rename = "breaker.override_ended")]
    OverrideEnded(OverrideEnded),
    /// For how long nodes go on without a word from the controller was changed.
    #[serde(rename = "policy.lease_set")]
    LeaseSet(LeaseSet),
    /// The policy that nodes obey got a new number.
    #[serde(rename = "policy.published")]
    PolicyPublished(PolicyPublished),
    /// A maintenance window was defined, or defined anew.
    #[serde(rename = "window.set")]
    WindowSet(WindowSet),
    /// A maintenance window was removed.
    #[serde(rename = "window.removed")]
    WindowRemoved(WindowRemoved),
    /// A maintenance window was opened against its schedule.
    #[serde(rename = "window.opened")]
    WindowOpened(WindowOpened),
    /// A maintenance window that was opened so was shut again.
    #[serde(rename = "window.shut")]
    WindowShut(WindowShut),
    /// A sink was made or changed.
    #[serde(rename = "sink.set")]
    SinkSet(SinkSet),
    /// A sink was removed.
    #[serde(rename = "sink.removed")]
    SinkRemoved(SinkRemoved),
    /// An alert rule was defined, or defined anew.
    #[serde(rename = "alert_rule.defined")]
    AlertRuleDefined(AlertRuleDefined),
    /// An alert rule was removed.
    #[serde(rename = "alert_rule.removed")]
    AlertRuleRemoved(AlertRuleRemoved),
    /// Alerts of some nodes are not told for a while.
    #[serde(rename = "silence.created")]
    SilenceCreated(SilenceCreated),
    /// A silence was ended before its time.
    #[serde(rename = "silence.ended")]
    SilenceEnded(SilenceEnded),
    /// A backup of the controller was made.
    #[serde(rename = "backup.made")]
    BackupMade(BackupMade),
    /// A caller was not allowed something.
    #[serde(rename = "request.denied")]
    RequestDenied(RequestDenied),
    /// The rules did not allow a request.
    #[serde(rename = "request.rejected")]
    RequestRejected(RequestRejected),
    /// Refusals that were counted only.
    #[serde(rename = "request.denials_counted")]
    DenialsCounted(DenialsCounted),
}

/// The name and newest version of each event.
pub const CATALOGUE: &[(&str, u16)] = &[
    ("token.created", 1),
    ("token.revoked", 1),
    ("node.joined", 1),
    ("node.approved", 1),
    ("node.renamed", 1),
    ("node.relabelled", 1),
    ("node.revoked", 1),
    ("node.replaced", 1),
    ("node.cordoned", 1),
    ("node.uncordoned", 1),
    ("node.drain_started", 1),
    ("node.drain_ended", 1),
    ("node.certified", 1),
    ("node.suspected", 1),
    ("node.resolved", 1),
    ("fleet.incarnation_raised", 1),
    ("fleet.trust_published", 1),
    ("principal.created", 1),
    ("principal.disabled", 1),
    ("principal.enabled", 1),
    ("role.created", 1),
    ("role.updated", 1),
    ("role.deleted", 1),
    ("grant.created", 1),
    ("grant.revoked", 1),
    ("key.created", 1),
    ("key.rotated", 1),
    ("key.revoked", 1),
    ("admin.recovered", 1),
    ("command.issued", 1),
    ("command.cancel_requested", 1),
    ("command.concluded", 1),
    ("deployment.applied", 1),
    ("deployment.removed", 1),
    ("deployment.forgotten", 1),
    ("rollout.started", 1),
    ("rollout.wave_started", 1),
    ("rollout.wave_approved", 1),
    ("rollout.halted", 1),
    ("rollout.paused", 1),
    ("rollout.resumed", 1),
    ("rollout.aborted", 1),
    ("rollout.committed", 1),
    ("rollout.finished", 1),
    ("content.set", 1),
    ("content.removed", 1),
    ("archive.pushed", 1),
    ("archive.removed", 1),
    ("breaker.defined", 1),
    ("breaker.removed", 1),
    ("breaker.moved", 1),
    ("breaker.overridden", 1),
    ("breaker.override_ended", 1),
    ("policy.lease_set", 1),
    ("policy.published", 1),
    ("window.set", 1),
    ("window.removed", 1),
    ("window.opened", 1),
    ("window.shut", 1),
    ("sink.set", 1),
    ("sink.removed", 1),
    ("alert_rule.defined", 1),
    ("alert_rule.removed", 1),
    ("silence.created", 1),
    ("silence.ended", 1),
    ("backup.made", 1),
    ("request.denied", 1),
    ("request.rejected", 1),
    ("request.denials_counted", 1),
];

/// The newest version of the event that is stored under `name`; none when it is
/// not known here.
#[must_use]
pub fn version_of(name: &str) -> Option<u16> {
    CATALOGUE
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, version)| *version)
}

impl Event {
    /// The name under which it is stored.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::TokenCreated(_) => "token.created",
            Self::TokenRevoked(_) => "token.revoked",
            Self::NodeJoined(_) => "node.joined",
            Self::NodeApproved(_) => "node.approved",
            Self::NodeRenamed(_) => "node.renamed",
            Self::NodeRelabelled(_) => "node.relabelled",
            Self::NodeRevoked(_) => "node.revoked",
            Self::NodeReplaced(_) => "node.replaced",
            Self::NodesCordoned(_) => "node.cordoned",
            Self::NodesUncordoned(_) => "node.uncordoned",
            Self::DrainStarted(_) => "node.drain_started",
            Self::DrainEnded(_) => "node.drain_ended",
            Self::NodeCertified(_) => "node.certified",
            Self::IdentitySuspected(_) => "node.suspected",
            Self::IdentityResolved(_) => "node.resolved",
            Self::IncarnationRaised(_) => "fleet.incarnation_raised",
            Self::TrustPublished(_) => "fleet.trust_published",
            Self::PrincipalCreated(_) => "principal.created",
            Self::PrincipalDisabled(_) => "principal.disabled",
            Self::PrincipalEnabled(_) => "principal.enabled",
            Self::RoleCreated(_) => "role.created",
            Self::RoleUpdated(_) => "role.updated",
            Self::RoleDeleted(_) => "role.deleted",
            Self::GrantCreated(_) => "grant.created",
            Self::GrantRevoked(_) => "grant.revoked",
            Self::KeyCreated(_) => "key.created",
            Self::KeyRotated(_) => "key.rotated",
            Self::KeyRevoked(_) => "key.revoked",
            Self::AdminRecovered(_) => "admin.recovered",
            Self::CommandIssued(_) => "command.issued",
            Self::CommandCancelRequested(_) => "command.cancel_requested",
            Self::CommandConcluded(_) => "command.concluded",
            Self::DeploymentApplied(_) => "deployment.applied",
            Self::DeploymentRemoved(_) => "deployment.removed",
            Self::DeploymentForgotten(_) => "deployment.forgotten",
            Self::RolloutStarted(_) => "rollout.started",
            Self::WaveStarted(_) => "rollout.wave_started",
            Self::WaveApproved(_) => "rollout.wave_approved",
            Self::RolloutHalted(_) => "rollout.halted",
            Self::RolloutPaused(_) => "rollout.paused",
            Self::RolloutResumed(_) => "rollout.resumed",
            Self::RolloutAborted(_) => "rollout.aborted",
            Self::RolloutCommitted(_) => "rollout.committed",
            Self::RolloutFinished(_) => "rollout.finished",
            Self::ContentSet(_) => "content.set",
            Self::ContentRemoved(_) => "content.removed",
            Self::ArchivePushed(_) => "archive.pushed",
            Self::ArchiveRemoved(_) => "archive.removed",
            Self::ReleaseAdded(_) => "release.added",
            Self::ReleaseRevoked(_) => "release.revoked",
            Self::ReleaseRemoved(_) => "release.removed",
            Self::UpdateApplied(_) => "update.applied",
            Self::BreakerDefined(_) => "breaker.defined",
            Self::BreakerRemoved(_) => "breaker.removed",
            Self::BreakerMoved(_) => "breaker.moved",
            Self::BreakerOverridden(_) => "breaker.overridden",
            Self::LeaseSet(_) => "policy.lease_set",
            Self::OverrideEnded(_) => "breaker.override_ended",
            Self::PolicyPublished(_) => "policy.published",
            Self::WindowSet(_) => "window.set",
            Self::WindowRemoved(_) => "window.removed",
            Self::WindowOpened(_) => "window.opened",
            Self::WindowShut(_) => "window.shut",
            Self::SinkSet(_) => "sink.set",
            Self::SinkRemoved(_) => "sink.removed",
            Self::AlertRuleDefined(_) => "alert_rule.defined",
            Self::AlertRuleRemoved(_) => "alert_rule.removed",
            Self::SilenceCreated(_) => "silence.created",
            Self::SilenceEnded(_) => "silence.ended",
            Self::BackupMade(_) => "backup.made",
            Self::RequestDenied(_) => "request.denied",
            Self::RequestRejected(_) => "request.rejected",
            Self::DenialsCounted(_) => "request.denials_counted",
        }
    }

    /// The decision about a rollout that it is, if it is one.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        let decision = if let Self::WaveStarted(event) = self {
            Decision::WaveStarted(event.clone())
        } else if let Self::WaveApproved(event) = self {
            Decision::WaveApproved(event.clone())
        } else if let Self::RolloutHalted(event) = self {
            Decision::Halted(event.clone())
        } else if let Self::RolloutPaused(event) = self {
            Decision::Paused(event.clone())
        } else if let Self::RolloutResumed(event) = self {
            Decision::Resumed(event.clone())
        } else if let Self::RolloutAborted(event) = self {
            Decision::Aborted(event.clone())
        } else if let Self::RolloutCommitted(event) = self {
            Decision::Committed(event.clone())
        } else if let Self::RolloutFinished(event) = self {
            Decision::Finished(event.clone())
        } else {
            return None;
        };
        Some(decision)
    }

    /// The version that it is written with.
    #[must_use]
    pub fn version(&self) -> u16 {
        version_of(self.name()).unwrap_or(1)
    }
}

impl From<Decision> for Event {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::WaveStarted(event) => Self::WaveStarted(event),
            Decision::WaveApproved(event) => Self::WaveApproved(event),
            Decision::Halted(event) => Self::RolloutHalted(event),
            Decision::Paused(event) => Self::RolloutPaused(event),
            Decision::Resumed(event) => Self::RolloutResumed(event),
            Decision::Aborted(event) => Self::RolloutAborted(event),
            Decision::Committed(event) => Self::RolloutCommitted(event),
            Decision::Finished(event) => Self::RolloutFinished(event),
        }
    }
}
