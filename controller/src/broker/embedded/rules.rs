//! What a session may do: rmqtt's hooks, and the place where publishes leave the
//! broker for the uplink.
//!
//! **Invariant:** a publish reaches the uplink only after the topic was checked
//! against the session's own node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::id::{FleetId, NodeId};
use protocol::topic::Topic;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::hook::{Handler, HookResult, Parameter, Register, ReturnType, Type};
use rmqtt::types::{
    AuthResult, ConnectInfo, Publish, PublishAclResult, QoS, Subscribe, SubscribeAclResult,
};

use super::seats::Seats;
use crate::broker::{Counters, DELIVERY_WAIT_MAX, Delivery, Intake};

/// What the hooks know.
pub(super) struct Rules {
    pub(super) fleet: FleetId,
    pub(super) seats: Arc<Seats>,
    pub(super) counters: Arc<Counters>,
    pub(super) deliveries: Intake,
}

/// Registers the rules with a broker and switches them on.
pub(super) async fn install(context: &ServerContext, rules: Rules) -> Box<dyn Register> {
    let rules = Arc::new(rules);
    let register = context.extends.hook_mgr().register();
    for kind in [
        Type::ClientAuthenticate,
        Type::ClientSubscribeCheckAcl,
        Type::MessagePublishCheckAcl,
    ] {
        register
            .add(kind, Box::new(Shared(Arc::clone(&rules))))
            .await;
    }
    register.start().await;
    register
}

struct Shared(Arc<Rules>);

#[expect(
    elided_lifetimes_in_paths,
    reason = "naming it makes async_trait's signature differ from rmqtt's"
)]
#[async_trait::async_trait]
impl Handler for Shared {
    async fn hook(&self, parameter: &Parameter, so_far: Option<HookResult>) -> ReturnType {
        // rmqtt has some thirty kinds; only the three registered ones arrive.
        if let Parameter::ClientAuthenticate(connect) = parameter {
            (
                false,
                Some(HookResult::AuthResult(self.0.authenticate(connect))),
            )
        } else if let Parameter::ClientSubscribeCheckAcl(session, subscribe) = parameter {
            let result = self.0.subscribe(&session.id.client_id, subscribe);
            (false, Some(HookResult::SubscribeAclResult(result)))
        } else if let Parameter::MessagePublishCheckAcl(session, publish) = parameter {
            let result = self.0.publish(&session.id.client_id, publish).await;
            (false, Some(HookResult::PublishAclResult(result)))
        } else {
            (true, so_far)
        }
    }
}

impl Rules {
    /// A session is its certificate's node, speaks MQTT 5, starts clean, and
    /// leaves no will (rmqtt publishes wills past the access rules).
    fn authenticate(&self, connect: &ConnectInfo) -> AuthResult {
        let id = connect.id();
        let node = id.remote_addr.and_then(|source| self.seats.node_at(source));
        let allowed = match (node, connect) {
            (Some(node), ConnectInfo::V5(..)) => {
                id.client_id.parse() == Ok(node)
                    && self.seats.admits(node)
                    && connect.clean_start()
                    && connect.last_will().is_none()
            }
            (_, ConnectInfo::V3(..)) | (None, ConnectInfo::V5(..)) => false,
        };
        if allowed {
            AuthResult::Allow(false, None)
        } else {
            self.refused();
            tracing::debug!(client = %id.client_id, node = ?node, "refused an MQTT connect");
            AuthResult::NotAuthorized
        }
    }

    fn subscribe(&self, client: &str, subscribe: &Subscribe) -> SubscribeAclResult {
        let own = client.parse().is_ok_and(|node: NodeId| {
            matches!(
                Topic::parse(&subscribe.topic_filter),
                Ok((fleet, topic)) if fleet == self.fleet
                    && (topic == Topic::Down(node) || topic == Topic::All)
            )
        });
        if own {
            SubscribeAclResult::new_success(QoS::AtLeastOnce, None)
        } else {
            self.refused();
            tracing::debug!(client, filter = %subscribe.topic_filter, "refused a subscription");
            SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
        }
    }

    async fn publish(&self, client: &str, publish: &Publish) -> PublishAclResult {
        let Some((node, topic)) = self.own_topic(client, publish) else {
            self.refused();
            tracing::debug!(client, topic = %publish.topic, "refused a publish");
            return PublishAclResult::rejected(false, None);
        };
        let delivery = Delivery {
            topic,
            payload: publish.payload.to_vec(),
            sender: Some(node),
        };
        match tokio::time::timeout(DELIVERY_WAIT_MAX, self.deliveries.send(delivery)).await {
            Ok(Ok(())) => self.counters.delivered.fetch_add(1, Ordering::Relaxed),
            // Shed: the PubAck says nothing about it, and the node sends again
            // what the controller does not acknowledge.
            Ok(Err(_)) | Err(_) => self.counters.shed.fetch_add(1, Ordering::Relaxed),
        };
        PublishAclResult::allow()
    }

    /// The sender and topic of a publish, if it is the sender's to make.
    fn own_topic(&self, client: &str, publish: &Publish) -> Option<(NodeId, Topic)> {
        let node: NodeId = client.parse().ok()?;
        let (fleet, topic) = Topic::parse(&publish.topic).ok()?;
        let own = match topic {
            Topic::Session(of) | Topic::Up(of, _) => of == node,
            Topic::Down(_) | Topic::All => false,
        };
        (own && fleet == self.fleet && !publish.retain).then_some((node, topic))
    }

    fn refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }
}
