//! The fleet's state, made from events alone.
//!
//! Owns nodes, join tokens, the controller's incarnation and the trust set in
//! force, and holds the access, command, deployment, rollout, breaker, window, sink and
//! alert parts beside them. Large tables sit behind an [`Arc`], so that a copy of the whole
//! fleet costs a few reference counts and the engine can publish one after every
//! batch.
//!
//! **Invariant:** [`Fleet::apply`] is total: it never fails, reads no clock, and
//! leaves what an event does not fit untouched, so replay of any journal that
//! was written ends, and ends the same.

pub mod admit;
pub mod cordon;
pub mod event;
pub mod manage;
pub mod node;
pub mod token;
pub mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::id::{DeploymentId, FleetId, NodeId, TokenId};
use protocol::time::UnixMillis;
use serde::{Deserialize, Serialize};

use event::{IdentitySuspected, NodeJoined, NodeRenamed, NodeReplaced, TokenCreated};
use node::{Node, NodeState, Suspicion};
use token::{Approval, TOKENS_COUNT_MAX, Token};
use trust::TrustState;

use crate::domain::access::Access;
use crate::domain::alert::Alerts;
use crate::domain::audit::record::Record;
use crate::domain::breaker::Breakers;
use crate::domain::command::Commands;
use crate::domain::deployment::Deployments;
use crate::domain::deployment::rollouts::Rollouts;
use crate::domain::event::Event;
use crate::domain::notice::sink::Sinks;
use crate::domain::rejection::Rejection;
use crate::domain::release::Releases;
use crate::domain::window::{Windows, Work};

/// The whole event-sourced state of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    id: FleetId,
    seq: u64,
    incarnation: u64,
    trust: Arc<TrustState>,
    nodes: Arc<BTreeMap<NodeId, Arc<Node>>>,
    /// Names of the nodes that have not left.
    names: Arc<BTreeMap<String, NodeId>>,
    tokens: Arc<BTreeMap<TokenId, Arc<Token>>>,
    access: Arc<Access>,
    commands: Arc<Commands>,
    deployments: Arc<Deployments>,
    rollouts: Arc<Rollouts>,
    breakers: Arc<Breakers>,
    windows: Arc<Windows>,
    sinks: Arc<Sinks>,
    alerts: Arc<Alerts>,
    releases: Arc<Releases>,
}

impl Fleet {
    /// A fleet to which nothing has happened.
    #[must_use]
    pub fn new(id: FleetId) -> Self {
        Self {
            id,
            seq: 0,
            incarnation: 1,
            trust: Arc::default(),
            nodes: Arc::default(),
            names: Arc::default(),
            tokens: Arc::default(),
            access: Arc::default(),
            commands: Arc::default(),
            deployments: Arc::default(),
            rollouts: Arc::default(),
            breakers: Arc::default(),
            windows: Arc::default(),
            sinks: Arc::default(),
            alerts: Arc::default(),
            releases: Arc::default(),
        }
    }

    /// The fleet's id.
    #[must_use]
    pub fn id(&self) -> FleetId {
        self.id
    }

    /// The number of the last record that was applied; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The controller's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The trust set in force.
    #[must_use]
    pub fn trust(&self) -> &TrustState {
        &self.trust
    }

    /// A node by id, whatever its state.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// A node that has not left, by name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(self.names.get(name)?)
    }

    /// Every node by id, those that left included.
    #[must_use]
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<Node>> + Clone {
        self.nodes.values()
    }

    /// A join token by serial.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<&Arc<Token>> {
        self.tokens.get(&id)
    }

    /// Every join token that is remembered, by serial.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    /// Who may do what.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Open and recent commands.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// What should run where.
    #[must_use]
    pub fn deployments(&self) -> &Deployments {
        &self.deployments
    }

    /// Open and recent rollouts.
    #[must_use]
    pub fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// The breakers, and the policy that nodes obey.
    #[must_use]
    pub fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// When nodes may be changed.
    #[must_use]
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Where notices go.
    #[must_use]
    pub fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    /// What a change of a deployment is to maintenance windows.
    #[must_use]
    pub fn work_of(&self, deployment: DeploymentId) -> Work<'static> {
        let known = self.deployments.get(deployment);
        if known.is_some_and(|known| known.is_of_updates()) {
            Work::Update
        } else {
            Work::Deploy
        }
    }

    /// Releases of the agent.
    #[must_use]
    pub fn releases(&self) -> &Releases {
        &self.releases
    }

    /// Alert rules and silences.
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// A node by id.
    ///
    /// # Errors
    /// The rejection that names it when there is none.
    pub(crate) fn existing(&self, id: NodeId) -> Result<&Node, Rejection> {
        self.nodes.get(&id).map(AsRef::as_ref).ok_or_else(|| {
            Rejection::new(ErrorCode::NodeNotFound, format!("there is no node {id}"))
        })
    }

    /// Takes a record into the state.
    pub fn apply(&mut self, record: &Record) {
        let at = record.at;
        self.seq = record.seq;
        match &record.event {
            Event::TokenCreated(event) => self.create_token(event, at),
            Event::TokenRevoked(event) => self.change_token(event.token, |token| {
                token.revoked_at = Some(at);
            }),
            Event::NodeJoined(event) => self.join(event, at),
            Event::NodeApproved(event) => self.change_node(event.node, |node| {
                node.state = NodeState::Active;
            }),
            Event::NodeRenamed(event) => self.rename(event),
            Event::NodeRelabelled(event) => self.change_node(event.node, |node| {
                node.labels = event.labels.clone();
            }),
            Event::NodeRevoked(event) => self.let_go(
                event.node,
                NodeState::Revoked {
                    at,
                    reason: event.reason.clone(),
                },
            ),
            Event::NodeReplaced(event) => self.replace(event, at),
            Event::NodesCordoned(_)
            | Event::NodesUncordoned(_)
            | Event::DrainStarted(_)
            | Event::DrainEnded(_) => cordon::applied(self, &record.event, record.by, at),
            Event::NodeCertified(event) => self.change_node(event.node, |node| {
                node.certificate = Some(event.certificate.clone());
                node.authority = event.authority;
            }),
            Event::IdentitySuspected(event) => self.suspect(event, at),
            Event::IdentityResolved(event) => self.change_node(event.node, |node| {
                node.suspicion = None;
            }),
            Event::IncarnationRaised(event) => self.incarnation = event.incarnation,
            Event::TrustPublished(event) => {
                self.trust = Arc::new(TrustState {
                    version: event.version,
                    digest: Some(event.digest),
                    controller_keys: event.controller_keys.clone(),
                    authorities: event.authorities.clone(),
                });
            }
            Event::PrincipalCreated(_)
            | Event::PrincipalDisabled(_)
            | Event::PrincipalEnabled(_)
            | Event::RoleCreated(_)
            | Event::RoleUpdated(_)
            | Event::RoleDeleted(_)
            | Event::GrantCreated(_)
            | Event::GrantRevoked(_)
            | Event::KeyCreated(_)
            | Event::KeyRotated(_)
            | Event::KeyRevoked(_) => Arc::make_mut(&mut self.access).apply(record),
            Event::CommandIssued(_)
            | Event::CommandCancelRequested(_)
            | Event::CommandConcluded(_) => Arc::make_mut(&mut self.commands).apply(record),
            Event::DeploymentApplied(_)
            | Event::UpdateApplied(_)
            | Event::DeploymentRemoved(_)
            | Event::DeploymentForgotten(_)
            | Event::RolloutStarted(_) => self.deploy(record),
            Event::WaveStarted(_)
            | Event::WaveApproved(_)
            | Event::RolloutHalted(_)
            | Event::RolloutPaused(_)
            | Event::RolloutResumed(_)
            | Event::RolloutAborted(_)
            | Event::RolloutCommitted(_)
            | Event::RolloutFinished(_) => self.steer(record),
            Event::BreakerDefined(_)
            | Event::BreakerRemoved(_)
            | Event::BreakerMoved(_)
            | Event::BreakerOverridden(_)
            | Event::LeaseSet(_)
            | Event::OverrideEnded(_)
            | Event::PolicyPublished(_) => Arc::make_mut(&mut self.breakers).apply(record),
            Event::WindowSet(_)
            | Event::WindowRemoved(_)
            | Event::WindowOpened(_)
            | Event::WindowShut(_) => Arc::make_mut(&mut self.windows).apply(record),
            Event::SinkSet(_) | Event::SinkRemoved(_) => {
                Arc::make_mut(&mut self.sinks).apply(&record.event);
            }
            Event::AlertRuleDefined(_) | Event::AlertRuleRemoved(_) => {
                Arc::make_mut(&mut self.alerts).apply(record);
                // The policy tells nodes what to watch.
                Arc::make_mut(&mut self.breakers).apply(record);
            }
            Event::ReleaseAdded(_) | Event::ReleaseRevoked(_) | Event::ReleaseRemoved(_) => {
                Arc::make_mut(&mut self.releases).apply(record);
            }
            Event::SilenceCreated(_) | Event::SilenceEnded(_) => {
                Arc::make_mut(&mut self.alerts).apply(record);
            }
            // What these say is in the audit trail, and nowhere else. A recovery
            // comes with the events of its grant and key.
            Event::AdminRecovered(_)
            | Event::ContentSet(_)
            | Event::ContentRemoved(_)
            | Event::ArchivePushed(_)
            | Event::ArchiveRemoved(_)
            | Event::BackupMade(_)
            | Event::RequestDenied(_)
            | Event::RequestRejected(_)
            | Event::DenialsCounted(_) => {}
        }
    }

    fn suspect(&mut self, event: &IdentitySuspected, at: UnixMillis) {
        self.change_node(event.node, |node| {
            node.suspicion = Some(Suspicion {
                since: at,
                doubt: event.doubt,
                detail: event.detail.clone(),
            });
        });
    }

    fn create_token(&mut self, event: &TokenCreated, at: UnixMillis) {
        let token = Token {
            id: event.token,
            secret: event.secret,
            labels: event.labels.clone(),
            created_at: at,
            expires_at: event.expires_at,
            uses_max: event.uses_max,
            uses: 0,
            approval: event.approval,
            replaces: event.replaces,
            revoked_at: None,
        };
        let tokens = Arc::make_mut(&mut self.tokens);
        tokens.insert(event.token, Arc::new(token));
        forget_spent(tokens, at);
    }

    fn rename(&mut self, event: &NodeRenamed) {
        let names = Arc::make_mut(&mut self.names);
        if let Some(node) = self.nodes.get(&event.node) {
            names.remove(&node.name);
            names.insert(event.name.clone(), event.node);
        }
        self.change_node(event.node, |node| node.name.clone_from(&event.name));
    }

    fn deploy(&mut self, record: &Record) {
        let deployments = Arc::make_mut(&mut self.deployments);
        if let Event::DeploymentApplied(event) = &record.event {
            deployments.applied(event, None, record);
        } else if let Event::UpdateApplied(event) = &record.event {
            deployments.applied(&event.applied, Some(event.version.clone()), record);
        } else if let Event::DeploymentRemoved(event) = &record.event {
            deployments.removed(event.deployment, record);
        } else if let Event::DeploymentForgotten(event) = &record.event {
            deployments.forgotten(event.deployment);
        } else if let Event::RolloutStarted(event) = &record.event {
            let (name, before) = deployments.rollout_started(event);
            Arc::make_mut(&mut self.rollouts).started(event, name, before, record);
        }
    }

    fn steer(&mut self, record: &Record) {
        let Some(decision) = record.event.decision() else {
            return;
        };
        if let Some(ended) = Arc::make_mut(&mut self.rollouts).decided(&decision, record) {
            Arc::make_mut(&mut self.deployments).rollout_ended(&ended);
        }
    }

    fn join(&mut self, event: &NodeJoined, at: UnixMillis) {
        let node = Node {
            id: event.node,
            name: event.name.clone(),
            labels: event.labels.clone(),
            state: match event.approval {
                Approval::Automatic => NodeState::Active,
                Approval::Required => NodeState::Pending,
            },
            signing_key: event.signing_key,
            certificate: None,
            authority: None,
            suspicion: None,
            cordon: None,
            token: event.token,
            joined_at: at,
            facts: event.facts.clone(),
            replaces: None,
        };
        Arc::make_mut(&mut self.names).insert(event.name.clone(), event.node);
        Arc::make_mut(&mut self.nodes).insert(event.node, Arc::new(node));
        self.change_token(event.token, |token| {
            token.uses = token.uses.saturating_add(1);
        });
    }

    fn replace(&mut self, event: &NodeReplaced, at: UnixMillis) {
        let Some(old) = self.nodes.get(&event.old).cloned() else {
            return;
        };
        self.let_go(event.old, NodeState::Replaced { at, by: event.new });
        let names = Arc::make_mut(&mut self.names);
        if let Some(new) = self.nodes.get(&event.new) {
            names.remove(&new.name);
            names.insert(old.name.clone(), event.new);
        }
        self.change_node(event.new, |new| {
            new.name.clone_from(&old.name);
            new.labels = admit::inherited(&new.labels, &old.labels);
            new.replaces = Some(old.id);
        });
    }

    fn let_go(&mut self, id: NodeId, state: NodeState) {
        let names = Arc::make_mut(&mut self.names);
        if let Some(node) = self.nodes.get(&id)
            && names.get(&node.name) == Some(&id)
        {
            names.remove(&node.name);
        }
        self.change_node(id, |node| node.state = state);
    }

    fn change_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        if let Some(node) = Arc::make_mut(&mut self.nodes).get_mut(&id) {
            change(Arc::make_mut(node));
        }
    }

    fn change_token(&mut self, id: TokenId, change: impl FnOnce(&mut Token)) {
        if let Some(token) = Arc::make_mut(&mut self.tokens).get_mut(&id) {
            change(Arc::make_mut(token));
        }
    }
}

/// Keeps the table within its bound by forgetting the oldest token that lets
/// nobody in any more. Open ones are bounded by themselves.
fn forget_spent(tokens: &mut BTreeMap<TokenId, Arc<Token>>, now: UnixMillis) {
    while tokens.len() > TOKENS_COUNT_MAX {
        let oldest = tokens
            .values()
            .filter(|token| !token.is_open(now))
            .min_by_key(|token| (token.created_at, token.id))
            .map(|token| token.id);
        match oldest {
            Some(id) => tokens.remove(&id),
            None => return,
        };
    }
}

#[cfg(test)]
mod tests;
