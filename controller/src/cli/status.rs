//! `flotilla deploy status`: how a deployment is on its nodes, as they say.

use crate::cli::Session;
use crate::cli::args::Format;
use crate::cli::args::deploy::WATCH_EVERY;
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::deployment::{ListStatus, NodeStatus, StatusPage, WorkloadView};
use crate::serve::signal::Signals;

pub(super) async fn run(
    session: &mut Session,
    deployment: &str,
    watch: bool,
) -> Result<Exit, CliFailure> {
    let mut shown: Option<StatusPage> = None;
    let mut signals = Signals::listen()?;
    let mut screen = super::rollout::Screen::new(&session.print);
    loop {
        let page = whole_status(session, deployment).await?;
        if shown.as_ref() != Some(&page) {
            match (session.print.format, watch) {
                (Format::Json, true) => session.print.json_line(&page)?,
                (Format::Json, false) => session.print.json(&page)?,
                (Format::Table, _) => {
                    let lines = status_lines(&session.print, &page);
                    screen.draw(&mut session.print, &lines)?;
                }
            }
        }
        shown = Some(page);
        if !watch {
            return Ok(Exit::Ok);
        }
        tokio::select! {
            () = signals.next() => return Ok(Exit::Ok),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

async fn whole_status(session: &Session, deployment: &str) -> Result<StatusPage, CliFailure> {
    let path = format!("/deployments/{deployment}/status");
    let mut whole = StatusPage {
        nodes: Vec::new(),
        next: None,
        waits_for: String::new(),
    };
    let mut query = ListStatus {
        after: None,
        limit: Some(1000),
    };
    loop {
        let page: StatusPage = session.client.query(&path, &query).await?;
        whole.nodes.extend(page.nodes);
        whole.waits_for = page.waits_for;
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    whole
        .nodes
        .sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
    Ok(whole)
}

/// The tone of a phase.
fn phase_tone(phase: &str) -> Tone {
    match phase {
        "running" | "removed" => Tone::Good,
        "degraded" | "reverted" | "awaiting_commit" => Tone::Warn,
        "failed" | "refused" | "reverting" => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// One node on one line, and below it the workloads that are not well with their
/// last words.
fn status_lines(print: &Printer, page: &StatusPage) -> Vec<String> {
    let mut lines = Vec::new();
    if page.nodes.is_empty() {
        lines.push("No node was told anything of it yet.".to_owned());
    }
    if !page.waits_for.is_empty() {
        let text = format!("Its rollout: {}", page.waits_for);
        lines.push(print.tint(&text, Tone::Warn));
    }
    let width = page.nodes.iter().map(|node| node.name.len()).max();
    let width = width.unwrap_or(0).min(30);
    for node in &page.nodes {
        lines.push(node_line(print, node, width));
        if !node.waits_for.is_empty() {
            let text = format!("    held back: {}", node.waits_for);
            lines.push(print.tint(&text, Tone::Warn));
        }
        for workload in &node.workloads {
            if is_well(&workload.state) {
                continue;
            }
            lines.push(workload_line(print, workload));
            for line in &workload.log_tail {
                lines.push(print.tint(&format!("      | {line}"), Tone::Faint));
            }
        }
        for drift in &node.drift {
            lines.push(print.tint(&format!("    put back: {drift}"), Tone::Warn));
        }
    }
    lines
}

fn node_line(print: &Printer, node: &NodeStatus, width: usize) -> String {
    let revision = match (node.current, node.wanted) {
        (Some(current), Some(wanted)) if current != wanted => format!("{current} → {wanted}"),
        (_, Some(wanted)) => wanted.to_string(),
        (_, None) => "none".to_owned(),
    };
    let phase = print.tint(
        &format!("{:<15}", node.phase.replace('_', " ")),
        phase_tone(&node.phase),
    );
    let running = node
        .workloads
        .iter()
        .filter(|workload| is_well(&workload.state))
        .count();
    let mut text = format!(
        "{:<width$}  {:<5} {phase} rev {revision:<8} {running}/{} well",
        node.name,
        node.link,
        node.workloads.len(),
    );
    if let Some(heard) = node.heard_at {
        text.push_str(&format!(", heard {}", print.ago(heard)));
    }
    if let Some(code) = &node.code {
        text.push_str(&print.tint(&format!(" [{code}]"), Tone::Bad));
    }
    if !node.detail.is_empty() {
        text.push_str(&format!(": {}", node.detail));
    }
    text
}

fn workload_line(print: &Printer, workload: &WorkloadView) -> String {
    let mut parts = vec![print.tint(&workload.state, Tone::Bad)];
    if let Some(exit) = workload.exit_code {
        parts.push(format!("exit {exit}"));
    }
    if workload.oom_killed {
        parts.push("out of memory".to_owned());
    }
    if workload.restarts > 0 {
        parts.push(format!("{} restarts", workload.restarts));
    }
    if !workload.detail.is_empty() {
        parts.push(workload.detail.clone());
    }
    format!("    {}: {}", workload.service, parts.join(", "))
}

fn is_well(state: &str) -> bool {
    matches!(state, "running" | "healthy" | "completed")
}
