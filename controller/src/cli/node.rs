//! `flotilla node …`, except `reload`, which is a command to nodes.

use std::collections::BTreeMap;

use crate::cli::Session;
use crate::cli::args::Node;
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, bytes};
use crate::exit::Exit;
use crate::operation::view::node::{
    CordonView, ListNodes, NodeDetail, NodeList, NodeView, RelabelNode, RenameNode, ReplaceNode,
    Resolution, ResolveNode, RevokeNode,
};

pub(super) async fn run(session: &mut Session, command: Node) -> Result<Exit, CliFailure> {
    match command {
        Node::List { selector } => {
            let query = ListNodes { selector };
            let list: NodeList = session.client.query("/nodes", &query).await?;
            session.print.show(&list, table)?;
        }
        Node::Show { node } => {
            let detail: NodeDetail = session.client.get(&format!("/nodes/{node}")).await?;
            session.print.show(&detail, show)?;
        }
        Node::Rename { node, name } => {
            change(session, &node, "rename", &RenameNode { name }, "renamed").await?;
        }
        Node::Relabel { node, changes } => {
            change(session, &node, "relabel", &labels(changes)?, "relabelled").await?;
        }
        Node::Approve { node } => {
            change(
                session,
                &node,
                "approve",
                &serde_json::json!({}),
                "approved",
            )
            .await?;
        }
        Node::Revoke { node, reason } => {
            change(session, &node, "revoke", &RevokeNode { reason }, "revoked").await?;
        }
        Node::Cordon(aside) => return super::service::cordon(session, aside).await,
        Node::Uncordon(aside) => return super::service::uncordon(session, aside).await,
        Node::Drain { aside, patience } => {
            return super::service::drain(session, aside, patience).await;
        }
        Node::Decommission {
            aside,
            patience,
            force,
        } => {
            let force = force.then_some(super::service::Force);
            return super::service::decommission(session, aside, patience, force).await;
        }
        Node::Replace { node, with } => {
            let body = ReplaceNode { with };
            change(session, &node, "replace", &body, "took over").await?;
        }
        Node::Resolve { node, revoke, .. } => {
            let decision = if revoke {
                Resolution::Revoke
            } else {
                Resolution::Keep
            };
            change(
                session,
                &node,
                "resolve",
                &ResolveNode { decision },
                "resolved",
            )
            .await?;
        }
        Node::Reload { to } => {
            return super::command::reload(session, to).await;
        }
    }
    Ok(Exit::Ok)
}

/// The id of the fleet's only node, for commands that name none.
pub(super) async fn only(session: &Session) -> Result<String, CliFailure> {
    let list: NodeList = session
        .client
        .query("/nodes", &ListNodes::default())
        .await?;
    let mut active = list
        .nodes
        .iter()
        .filter(|node| matches!(node.state.as_str(), "active" | "suspect"));
    match (active.next(), active.next()) {
        (Some(node), None) => Ok(node.id.to_string()),
        (None, _) => Err(CliFailure::new(Exit::NotFound, "the fleet has no node yet")
            .advise("let one join: flotilla token create, then flotilla-agent join TOKEN")),
        (Some(_), Some(_)) => Err(CliFailure::new(
            Exit::Usage,
            "the fleet has several nodes, and none is named",
        )
        .advise("name a node, give a selector such as site=lyon, or --all")),
    }
}

async fn change<B: serde::Serialize>(
    session: &mut Session,
    node: &str,
    verb: &str,
    body: &B,
    done: &str,
) -> Result<(), CliFailure> {
    let path = format!("/nodes/{node}/{verb}");
    let node: NodeView = session.client.post(&path, body).await?;
    session.print.show(&node, |print, node| {
        let labels = labels_text(&node.labels);
        print.line(format!("{} ({}) {done}. {labels}", node.name, node.id).trim_end())
    })
}

fn labels(changes: Vec<String>) -> Result<RelabelNode, CliFailure> {
    let mut relabel = RelabelNode::default();
    for change in changes {
        if let Some((key, value)) = change.split_once('=') {
            relabel.set.insert(key.to_owned(), value.to_owned());
        } else if let Some(key) = change.strip_suffix('-') {
            relabel.remove.push(key.to_owned());
        } else {
            return Err(CliFailure::new(
                Exit::Usage,
                format!("{change:?} is neither KEY=VALUE nor KEY-"),
            ));
        }
    }
    Ok(relabel)
}

/// Labels on one line.
pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Whether it is there, and in service.
fn status(node: &NodeView) -> (String, Tone) {
    let (text, tone) = presence(node);
    match &node.cordon {
        Some(cordon) if tone == Tone::Good => (format!("{text}, {}", word(cordon)), Tone::Warn),
        Some(cordon) => (format!("{text}, {}", word(cordon)), tone),
        None => (text, tone),
    }
}

/// How far it is out of service.
pub(super) fn word(cordon: &CordonView) -> String {
    cordon.state.replace('_', " ")
}

fn presence(node: &NodeView) -> (String, Tone) {
    match (node.state.as_str(), node.link.as_str()) {
        ("active", "up") if node.problems.is_empty() => ("up".to_owned(), Tone::Good),
        ("active", "up") => ("up, with problems".to_owned(), Tone::Warn),
        ("active", "never") => ("joined, not seen yet".to_owned(), Tone::Warn),
        ("active", link) => (link.to_owned(), Tone::Bad),
        ("pending", _) => ("waits for approval".to_owned(), Tone::Warn),
        ("suspect", _) => ("identity in doubt".to_owned(), Tone::Bad),
        (state, _) => (state.to_owned(), Tone::Faint),
    }
}

fn table(print: &mut Printer, list: &NodeList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "ID", "STATUS", "PROVEN", "VERSION", "LABELS"]);
    for node in &list.nodes {
        let (text, tone) = status(node);
        table.add_row(vec![
            print.cell(&node.name, Tone::Plain),
            print.cell(node.id, Tone::Faint),
            print.cell(text, tone),
            print.cell(print.ago_or_dash(node.proven_at), Tone::Plain),
            print.cell(node.agent_version.as_deref().unwrap_or("-"), Tone::Plain),
            print.cell(labels_text(&node.labels), Tone::Plain),
        ]);
    }
    print.print(
        table,
        "No nodes. Let one join: flotilla token create, then flotilla-agent join TOKEN on the host.",
    )?;
    let present = || {
        list.nodes
            .iter()
            .filter(|node| matches!(node.state.as_str(), "active" | "suspect"))
    };
    let up = present().filter(|node| node.link == "up").count();
    if list.nodes.len() > 1 {
        print.line(format!("\n{up} of {} up", present().count()))?;
    }
    Ok(())
}

fn show(print: &mut Printer, detail: &NodeDetail) -> Result<(), CliFailure> {
    let node = &detail.node;
    let (text, tone) = status(node);
    let mut lines = vec![
        ("name", node.name.clone()),
        ("id", node.id.to_string()),
        ("status", print.tint(&text, tone)),
        ("labels", labels_text(&node.labels)),
        ("joined", print.ago(node.joined_at)),
        ("proven", print.ago_or_dash(node.proven_at)),
        ("session", print.ago_or_dash(node.session_since)),
        ("agent", node.agent_version.clone().unwrap_or_default()),
    ];
    if let Some(cordon) = &node.cordon {
        lines.push((
            "service",
            format!(
                "{} {} by {}: {}",
                word(cordon),
                print.ago(cordon.since),
                cordon.by,
                cordon.reason
            ),
        ));
        if let Some(until) = cordon.until {
            lines.push(("drain ends", print.ago(until)));
        }
        for (deployment, waits_for) in &cordon.left {
            lines.push(("left", format!("{deployment}: {waits_for}")));
        }
    }
    if let Some(offset) = node.clock_offset_ms {
        lines.push(("clock", format!("{offset:+} ms")));
    }
    if let Some(suspicion) = &detail.suspicion {
        lines.push(("doubt", print.tint(suspicion, Tone::Bad)));
    }
    if let Some(facts) = &detail.facts {
        lines.extend([
            ("host", facts.hostname.clone()),
            ("system", format!("{}, {}", facts.os, facts.kernel)),
            (
                "hardware",
                format!(
                    "{}, {} CPUs, {}",
                    facts.arch,
                    facts.cpus,
                    bytes_of(facts.memory_bytes)
                ),
            ),
            ("inside", facts.virtualisation.clone()),
            (
                "docker",
                facts.docker.clone().unwrap_or_else(|| "-".to_owned()),
            ),
            ("booted", print.ago(facts.booted_at)),
            (
                "certificate",
                format!("expires {}", print.ago(facts.certificate_expires_at)),
            ),
        ]);
    }
    if let Some(budgets) = &detail.budgets {
        lines.extend([
            ("memory", bytes_of(budgets.memory_bytes)),
            (
                "flash",
                format!("{} written", bytes_of(budgets.flash_bytes)),
            ),
            (
                "link",
                format!(
                    "{} sent, {} received",
                    bytes_of(budgets.sent_bytes),
                    bytes_of(budgets.received_bytes)
                ),
            ),
            (
                "outbox",
                format!(
                    "{} entries, {}",
                    budgets.outbox_entries,
                    bytes_of(budgets.outbox_bytes)
                ),
            ),
        ]);
        if budgets.shed_samples > 0 {
            lines.push(("shed", format!("{} samples", budgets.shed_samples)));
        }
    }
    for (name, value) in lines {
        if !value.is_empty() {
            print.line(format!("{name:<12} {value}"))?;
        }
    }
    for problem in &node.problems {
        let text = format!("{:<12} {} ({})", "problem", problem.detail, problem.code);
        let text = print.tint(&text, Tone::Warn);
        print.line(text)?;
    }
    Ok(())
}

/// An integer of bytes, readable. Precision beyond 2^53 does not matter here.
#[expect(clippy::cast_precision_loss, reason = "rounded to one decimal anyway")]
fn bytes_of(count: u64) -> String {
    bytes(count as f64)
}
