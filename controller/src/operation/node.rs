//! Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::id::NodeId;
use protocol::label::Labels;
use protocol::state::StateValue;

use super::rollout::caller_name;
use super::view::node::{
    BudgetsView, CordonNodes, CordonView, DecommissionNodes, DrainNodes, FactsView, ListNodes,
    NodeDetail, NodeList, NodeView, ProblemView, RelabelNode, RenameNode, ReplaceNode, Resolution,
    ResolveNode, RevokeNode,
};
use super::{Operations, Who, find_node, find_selector};
use crate::domain::command::issue::Aim;
use crate::domain::fleet::Fleet;
use crate::domain::fleet::admit::ApproveNode;
use crate::domain::fleet::cordon::{self, Leaving};
use crate::domain::fleet::manage;
use crate::domain::fleet::node::Node;
use crate::domain::operation::Operation;
use crate::operation::failure::Failure;
use crate::uplink::Link;

/// How long a drain is tried, unless the caller says otherwise.
const DRAIN_WITHIN: Duration = Duration::from_secs(900);

impl Operations {
    /// Nodes that a selector matches and that the caller may see, by name.
    ///
    /// # Errors
    /// When it is denied, or the selector is wrong.
    pub fn list_nodes(&self, who: &Who, asked: &ListNodes) -> Result<NodeList, Failure> {
        let fleet = self.engine.fleet();
        let reach = self.reach(who, &fleet, ("node", "read"))?;
        let selector = match asked.selector.as_deref() {
            Some(text) => Some(find_selector(text)?),
            None => None,
        };
        let mut nodes: Vec<_> = fleet
            .nodes()
            .filter(|node| reach.covers(node))
            .filter(|node| match &selector {
                Some(selector) => selector.matches(node.subject()),
                None => !node.has_left(),
            })
            .map(|node| self.node_view(&fleet, node))
            .collect();
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(NodeList { nodes })
    }

    /// One node with all that is known of it.
    ///
    /// # Errors
    /// When it is denied, or there is no such node.
    pub fn show_node(&self, who: &Who, node: &str) -> Result<NodeDetail, Failure> {
        let fleet = self.engine.fleet();
        let node = self.visible_node(who, &fleet, node, ("node", "read"))?;
        let mut detail = NodeDetail {
            node: self.node_view(&fleet, node),
            facts: None,
            budgets: None,
            suspicion: node
                .suspicion
                .as_ref()
                .map(|suspicion| format!("{}: {}", suspicion.doubt.name(), suspicion.detail)),
        };
        for item in self.states(node.id)? {
            match item.value {
                StateValue::Facts(facts) => {
                    detail.facts = Some(FactsView {
                        at: item.at.into(),
                        hostname: facts.hostname,
                        os: facts.os,
                        kernel: facts.kernel,
                        arch: facts.arch,
                        cpus: facts.cpus,
                        memory_bytes: facts.memory_bytes,
                        virtualisation: facts.virtualisation,
                        docker: facts.docker,
                        booted_at: facts.booted_at.into(),
                        certificate_expires_at: facts.certificate_expires_at.into(),
                    });
                }
                StateValue::Budgets(budgets) => {
                    detail.budgets = Some(BudgetsView {
                        at: item.at.into(),
                        memory_bytes: budgets.memory_bytes,
                        flash_bytes: budgets.flash_bytes,
                        sent_bytes: budgets.sent_bytes,
                        received_bytes: budgets.received_bytes,
                        outbox_entries: budgets.outbox_entries,
                        outbox_bytes: budgets.outbox_bytes,
                        shed_samples: budgets.shed_samples,
                    });
                }
                StateValue::Health(_) | StateValue::Deployment(_) => {}
            }
        }
        Ok(detail)
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// When it is denied, or the name is taken or malformed.
    pub async fn rename_node(
        &self,
        who: &Who,
        node: &str,
        asked: RenameNode,
    ) -> Result<NodeView, Failure> {
        let node = self.node_id(who, node)?;
        let name = asked.name;
        let operation = Operation::RenameNode(manage::RenameNode { node, name });
        self.change_node(who, node, operation).await
    }

    /// Sets and removes labels.
    ///
    /// # Errors
    /// When it is denied, or a label is malformed.
    pub async fn relabel_node(
        &self,
        who: &Who,
        node: &str,
        asked: RelabelNode,
    ) -> Result<NodeView, Failure> {
        let node = self.node_id(who, node)?;
        let set = Labels::from_pairs(asked.set)
            .map_err(|error| Failure::new(error.code(), error.to_string()))?;
        let remove: BTreeSet<String> = asked.remove.into_iter().collect();
        let operation = Operation::RelabelNode(manage::RelabelNode { node, set, remove });
        self.change_node(who, node, operation).await
    }

    /// Lets a node in that waits.
    ///
    /// # Errors
    /// When it is denied, or the node does not wait.
    pub async fn approve_node(&self, who: &Who, node: &str) -> Result<NodeView, Failure> {
        let node = self.node_id(who, node)?;
        let operation = Operation::ApproveNode(ApproveNode { node });
        self.change_node(who, node, operation).await
    }

    /// Cuts a node off for ever.
    ///
    /// # Errors
    /// When it is denied, or the node has left already.
    pub async fn revoke_node(
        &self,
        who: &Who,
        node: &str,
        asked: RevokeNode,
    ) -> Result<NodeView, Failure> {
        let node = self.node_id(who, node)?;
        let reason = asked.reason;
        let operation = Operation::RevokeNode(manage::RevokeNode { node, reason });
        self.change_node(who, node, operation).await
    }

    /// Lets another node take over this one's name, labels and duties.
    ///
    /// # Errors
    /// When it is denied, or the other is not active.
    pub async fn replace_node(
        &self,
        who: &Who,
        node: &str,
        asked: ReplaceNode,
    ) -> Result<NodeView, Failure> {
        let old = self.node_id(who, node)?;
        let new = self.node_id(who, &asked.with)?;
        let operation = Operation::ReplaceNode(manage::ReplaceNode { old, new });
        self.change_node(who, new, operation).await
    }

    /// Decides about an identity that was seen twice.
    ///
    /// # Errors
    /// When it is denied, or the identity is not in doubt.
    pub async fn resolve_node(
        &self,
        who: &Who,
        node: &str,
        asked: ResolveNode,
    ) -> Result<NodeView, Failure> {
        let node = self.node_id(who, node)?;
        let operation = match asked.decision {
            Resolution::Keep => Operation::ResolveIdentity(manage::ResolveIdentity {
                node,
                note: "kept by an operator".to_owned(),
            }),
            Resolution::Revoke => Operation::RevokeNode(manage::RevokeNode {
                node,
                reason: "identity seen twice".to_owned(),
            }),
        };
        self.change_node(who, node, operation).await
    }

    /// Takes nodes out of service: they get nothing that they do not have.
    ///
    /// # Errors
    /// When it is denied on any of them, or none is meant.
    pub async fn cordon_nodes(&self, who: &Who, asked: CordonNodes) -> Result<NodeList, Failure> {
        let nodes = self.aim(who, &asked.nodes)?;
        let (aim, reason) = (nodes.clone(), asked.reason);
        let operation = Operation::CordonNodes(cordon::CordonNodes { nodes, reason });
        self.change_nodes(who, &aim, operation).await
    }

    /// Puts nodes into service again.
    ///
    /// # Errors
    /// When it is denied on any of them, or none is meant.
    pub async fn uncordon_nodes(&self, who: &Who, asked: CordonNodes) -> Result<NodeList, Failure> {
        let nodes = self.aim(who, &asked.nodes)?;
        let (aim, reason) = (nodes.clone(), asked.reason);
        let operation = Operation::UncordonNodes(cordon::UncordonNodes { nodes, reason });
        self.change_nodes(who, &aim, operation).await
    }

    /// Takes the workloads of nodes away. Returns when that has begun.
    ///
    /// # Errors
    /// When it is denied on any of them, none is meant, or the time is out of bounds.
    pub async fn drain_nodes(&self, who: &Who, asked: DrainNodes) -> Result<NodeList, Failure> {
        let nodes = self.aim(who, &asked.nodes)?;
        let aim = nodes.clone();
        let operation = Operation::DrainNodes(cordon::DrainNodes {
            nodes,
            reason: asked.reason,
            within: asked.timeout_s.map_or(DRAIN_WITHIN, Duration::from_secs),
        });
        self.change_nodes(who, &aim, operation).await
    }

    /// Lets nodes leave the fleet, once they are drained or at once.
    ///
    /// # Errors
    /// When it is denied on any of them, none is meant, or the time is out of bounds.
    pub async fn decommission_nodes(
        &self,
        who: &Who,
        asked: DecommissionNodes,
    ) -> Result<NodeList, Failure> {
        let nodes = self.aim(who, &asked.nodes)?;
        let aim = nodes.clone();
        let within = asked.timeout_s.map_or(DRAIN_WITHIN, Duration::from_secs);
        let operation = Operation::DecommissionNodes(cordon::DecommissionNodes {
            nodes,
            reason: asked.reason,
            how: if asked.force {
                Leaving::AtOnce
            } else {
                Leaving::Drained(within)
            },
        });
        self.change_nodes(who, &aim, operation).await
    }

    /// Changes nodes and shows them as they are after it.
    async fn change_nodes(
        &self,
        who: &Who,
        aim: &Aim,
        operation: Operation,
    ) -> Result<NodeList, Failure> {
        let meant = cordon::meant(&self.engine.fleet(), aim);
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        let nodes = meant?.into_iter().filter_map(|node| fleet.node(node));
        Ok(NodeList {
            nodes: nodes.map(|node| self.node_view(&fleet, node)).collect(),
        })
    }

    async fn change_node(
        &self,
        who: &Who,
        node: NodeId,
        operation: Operation,
    ) -> Result<NodeView, Failure> {
        self.submit(who, operation).await?;
        let fleet = self.engine.fleet();
        Ok(self.node_view(&fleet, find_node(&fleet, &node.to_string())?))
    }

    /// The id that a text means. Whoever may see no node learns nothing of names.
    pub(super) fn node_id(&self, who: &Who, text: &str) -> Result<NodeId, Failure> {
        let fleet = self.engine.fleet();
        match find_node(&fleet, text) {
            Ok(node) => Ok(node.id),
            Err(missing) => {
                self.reach(who, &fleet, ("node", "read"))?;
                Err(missing)
            }
        }
    }

    /// A node by id or name, if the caller holds a permission on it.
    pub(super) fn visible_node<'a>(
        &self,
        who: &Who,
        fleet: &'a crate::domain::fleet::Fleet,
        text: &str,
        permission: (&'static str, &'static str),
    ) -> Result<&'a Node, Failure> {
        match find_node(fleet, text) {
            Ok(node) => {
                self.may(who, fleet, permission, &[node.id])?;
                Ok(node)
            }
            Err(missing) => {
                self.reach(who, fleet, permission)?;
                Err(missing)
            }
        }
    }

    fn states(&self, node: NodeId) -> Result<Vec<protocol::state::StateItem>, Failure> {
        self.uplink.states(node).map_err(|error| {
            Failure::fault(
                ErrorCode::StoreFailed,
                "the node's states cannot be read",
                &error,
            )
        })
    }

    fn cordon_view(&self, fleet: &Fleet, node: &Node) -> Option<CordonView> {
        let cordon = node.cordon.as_ref()?;
        let drain = cordon.draining();
        let left = drain.and_then(|_| self.uplink.drain(node.id));
        Some(CordonView {
            state: cordon.name().to_owned(),
            since: cordon.since.into(),
            by: caller_name(fleet, cordon.by),
            reason: cordon.reason.clone(),
            until: drain.map(|drain| drain.until.into()),
            left: left.unwrap_or_default().left,
        })
    }

    fn node_view(&self, fleet: &Fleet, node: &Node) -> NodeView {
        let presence = self.uplink.presence(node.id);
        let health = presence.health.iter().flat_map(|health| &health.problems);
        let problems = health
            .map(|problem| ProblemView {
                code: problem.code.clone(),
                detail: problem.detail.clone(),
            })
            .collect();
        let state = match node.suspicion {
            Some(_) if node.is_active() => "suspect",
            Some(_) | None => node.state.name(),
        };
        // A session that was cut still counts as proven for a minute.
        let link = if node.has_left() {
            Link::Down
        } else {
            presence.link
        };
        NodeView {
            id: node.id,
            name: node.name.clone(),
            labels: pairs(&node.labels),
            state: state.to_owned(),
            link: link.name().to_owned(),
            proven_at: presence.proven_at.map(Into::into),
            session_since: presence.since.map(Into::into),
            agent_version: presence
                .agent_version
                .or_else(|| Some(node.facts.agent_version.clone()))
                .filter(|version| !version.is_empty()),
            clock_offset_ms: presence.clock_offset_ms,
            joined_at: node.joined_at.into(),
            cordon: self.cordon_view(fleet, node),
            problems,
        }
    }
}

/// Labels as a map.
pub(super) fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
