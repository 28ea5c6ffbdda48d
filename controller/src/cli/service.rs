//! `flotilla node cordon|uncordon|drain|decommission`.
//!
//! Draining goes on at the controller whether anybody waits or not: Ctrl-C stops the
//! waiting alone. What a drain waits for is said when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::id::NodeId;

use crate::cli::Session;
use crate::cli::args::{Aside, Patience};
use crate::cli::failure::CliFailure;
use crate::cli::node::word;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::node::{
    CordonNodes, DecommissionNodes, DrainNodes, NodeDetail, NodeList, NodeView,
};
use crate::serve::signal::Signals;

/// How often nodes are looked at while they are drained.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Nodes leave with what they run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Force;

pub(super) async fn cordon(session: &mut Session, aside: Aside) -> Result<Exit, CliFailure> {
    let body = asked(aside);
    let list: NodeList = session.client.post("/service/cordon", &body).await?;
    session.print.show(&list, lines)?;
    Ok(Exit::Ok)
}

pub(super) async fn uncordon(session: &mut Session, aside: Aside) -> Result<Exit, CliFailure> {
    let body = asked(aside);
    let list: NodeList = session.client.post("/service/uncordon", &body).await?;
    session.print.show(&list, lines)?;
    Ok(Exit::Ok)
}

pub(super) async fn drain(
    session: &mut Session,
    aside: Aside,
    patience: Patience,
) -> Result<Exit, CliFailure> {
    let CordonNodes { nodes, reason } = asked(aside);
    let body = DrainNodes {
        nodes,
        reason,
        timeout_s: Some(patience.timeout.as_secs()),
    };
    let list: NodeList = session.client.post("/service/drain", &body).await?;
    wait(session, list, &patience).await
}

pub(super) async fn decommission(
    session: &mut Session,
    aside: Aside,
    patience: Patience,
    force: Option<Force>,
) -> Result<Exit, CliFailure> {
    let CordonNodes { nodes, reason } = asked(aside);
    let body = DecommissionNodes {
        nodes,
        reason,
        timeout_s: force.is_none().then_some(patience.timeout.as_secs()),
        force: force.is_some(),
    };
    let list: NodeList = session.client.post("/service/decommission", &body).await?;
    wait(session, list, &patience).await
}

fn asked(aside: Aside) -> CordonNodes {
    CordonNodes {
        nodes: aside.nodes.or(aside.on).unwrap_or_default(),
        reason: aside.reason,
    }
}

/// Waits until no node is being drained any more, or for Ctrl-C.
async fn wait(
    session: &mut Session,
    begun: NodeList,
    patience: &Patience,
) -> Result<Exit, CliFailure> {
    if patience.detach {
        session.print.show(&begun, lines)?;
        return Ok(Exit::Ok);
    }
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = drained(session, begun) => Some(ended?),
        () = signals.next() => None,
    };
    let Some(list) = ended else {
        super::note("It goes on. Look at it: flotilla node list");
        return Ok(Exit::Interrupted);
    };
    session.print.show(&list, lines)?;
    let done = list.nodes.iter().all(|node| {
        node.state == "revoked"
            || node
                .cordon
                .as_ref()
                .is_some_and(|cordon| cordon.state == "drained")
    });
    Ok(if done { Exit::Ok } else { Exit::Failed })
}

async fn drained(session: &Session, mut list: NodeList) -> Result<NodeList, CliFailure> {
    let mut told: BTreeMap<NodeId, BTreeMap<String, String>> = BTreeMap::new();
    loop {
        let draining: BTreeSet<NodeId> = list
            .nodes
            .iter()
            .filter(|node| is_draining(node))
            .map(|node| node.id)
            .collect();
        if draining.is_empty() {
            return Ok(list);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        for node in list
            .nodes
            .iter_mut()
            .filter(|node| draining.contains(&node.id))
        {
            let path = format!("/nodes/{}", node.id);
            let detail: NodeDetail = session.client.get(&path).await?;
            *node = detail.node;
            let left = node.cordon.as_ref().map(|cordon| &cordon.left);
            let Some(left) = left.filter(|left| !left.is_empty()) else {
                continue;
            };
            if told.get(&node.id) != Some(left) {
                for (deployment, waits_for) in left {
                    super::note(&format!("{}: {deployment}: {waits_for}", node.name));
                }
                told.insert(node.id, left.clone());
            }
        }
    }
}

fn is_draining(node: &NodeView) -> bool {
    node.state != "revoked"
        && node
            .cordon
            .as_ref()
            .is_some_and(|cordon| cordon.until.is_some())
}

/// Each node and how far it is out of service.
fn lines(print: &mut Printer, list: &NodeList) -> Result<(), CliFailure> {
    for node in &list.nodes {
        let (state, tone) = match &node.cordon {
            _ if node.state == "revoked" => ("decommissioned".to_owned(), Tone::Plain),
            Some(cordon) => (word(cordon), Tone::Warn),
            None => ("in service".to_owned(), Tone::Good),
        };
        let state = print.tint(&state, tone);
        print.line(format!("{} ({}) is {state}.", node.name, node.id))?;
    }
    Ok(())
}
