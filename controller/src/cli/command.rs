//! Commands to nodes: `ping`, `run`, `service`, `logs`, `node reload`, and
//! `flotilla command …`.
//!
//! By default a command is waited for. Ctrl-C while waiting leaves it running
//! and says how to come back to it; while following a log it cancels it, because
//! nobody reads on. A broken stream is taken up again: receipts are kept by the
//! controller, so nothing is lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::Session;
use crate::cli::args::{CommandNoun, Logs, Ping, Run, Service, To, Unit};
use crate::cli::failure::CliFailure;
use crate::cli::follow::Follow;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::command::{
    ActionView, CommandList, CommandView, FollowLine, IssueCommand, ListCommands, ListTargets,
    SourceView, TargetPage, TargetView, VerbView,
};
use crate::serve::signal::Signals;

/// How long a log is followed when no --timeout is given.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

/// The agent's own unit: the log that every node has.
const AGENT_UNIT: &str = "flotilla-agent";

/// How long a broken stream is tried again before giving up.
const RETRIES_MAX: u32 = 30;

/// What is printed of a command with `--output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command.
    pub command: CommandView,
    /// Its targets, as far as they were waited for.
    pub targets: Vec<TargetView>,
}

/// What to show of targets that end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// One row a target: state and time.
    Rows,
    /// Each target's output when it ends; a single one's as it comes.
    Output,
    /// Output as it comes, and Ctrl-C cancels.
    Follow,
}

pub(super) async fn ping(session: &mut Session, ping: Ping) -> Result<Exit, CliFailure> {
    let issue = order(session, &ping.to, ActionView::Ping {}).await?;
    issue_and_wait(session, issue, &ping.to, Style::Rows).await
}

pub(super) async fn run(session: &mut Session, run: Run) -> Result<Exit, CliFailure> {
    let mut issue = order(session, &run.to, ActionView::Run { argv: run.argv }).await?;
    issue.output_bytes_max = run.output_max;
    issue_and_wait(session, issue, &run.to, Style::Output).await
}

pub(super) async fn service(session: &mut Session, service: Service) -> Result<Exit, CliFailure> {
    let (verb, Unit { unit, to }) = match service {
        Service::Status(unit) => (VerbView::Status, unit),
        Service::Start(unit) => (VerbView::Start, unit),
        Service::Stop(unit) => (VerbView::Stop, unit),
        Service::Restart(unit) => (VerbView::Restart, unit),
    };
    let issue = order(session, &to, ActionView::Service { unit, verb }).await?;
    issue_and_wait(session, issue, &to, Style::Output).await
}

pub(super) async fn reload(session: &mut Session, to: To) -> Result<Exit, CliFailure> {
    let issue = order(session, &to, ActionView::Reload {}).await?;
    issue_and_wait(session, issue, &to, Style::Rows).await
}

pub(super) async fn logs(session: &mut Session, logs: Logs) -> Result<Exit, CliFailure> {
    let source = match (logs.unit, logs.file, logs.container) {
        (Some(unit), _, _) => SourceView::Unit(unit),
        (_, Some(file), _) => SourceView::File(file),
        (_, _, Some(container)) => SourceView::Container(container),
        (None, None, None) => SourceView::Unit(AGENT_UNIT.to_owned()),
    };
    let action = ActionView::Logs {
        source,
        lines: logs.lines,
        since_ms: logs.since.map_or(0, protocol::time::millis),
        follow: logs.follow,
    };
    let mut issue = order(session, &logs.to, action).await?;
    let style = if logs.follow {
        issue
            .run_timeout_ms
            .get_or_insert_with(|| protocol::time::millis(FOLLOW_MAX));
        Style::Follow
    } else {
        Style::Output
    };
    issue_and_wait(session, issue, &logs.to, style).await
}

async fn order(session: &Session, to: &To, action: ActionView) -> Result<IssueCommand, CliFailure> {
    let nodes = match &to.nodes {
        _ if to.all => "*".to_owned(),
        Some(nodes) => nodes.clone(),
        None => super::node::only(session).await?,
    };
    Ok(IssueCommand {
        nodes,
        action,
        start_by_s: Some(to.how.start_by.as_secs()),
        run_timeout_ms: to.how.timeout.map(protocol::time::millis),
        output_bytes_max: None,
        concurrency: to.how.concurrency,
        rate_per_minute: to.how.rate,
        allow_empty: to.how.allow_empty,
        now: to.how.now,
    })
}

async fn issue_and_wait(
    session: &mut Session,
    issue: IssueCommand,
    to: &To,
    style: Style,
) -> Result<Exit, CliFailure> {
    let command: CommandView = session.client.post("/commands", &issue).await?;
    if command.withheld > 0 {
        super::note(&format!(
            "{} node{} left out: identity in doubt (flotilla node resolve)",
            command.withheld,
            if command.withheld == 1 {
                " is"
            } else {
                "s are"
            },
        ));
    }
    if !command.waits_for.is_empty() {
        super::note(&command.waits_for);
    }
    if to.how.detach {
        let outcome = Outcome {
            command,
            targets: Vec::new(),
        };
        session.print.show(&outcome, |print, outcome| {
            let id = outcome.command.id;
            print.line(format!(
                "Command {id} is on its way to {} nodes.",
                outcome.command.targets
            ))?;
            super::note(&format!("Come back to it: flotilla command wait {id}"));
            Ok(())
        })?;
        return Ok(Exit::Ok);
    }
    wait(session, command, style).await
}

/// Follows a command to its end, or until Ctrl-C.
async fn wait(
    session: &mut Session,
    command: CommandView,
    style: Style,
) -> Result<Exit, CliFailure> {
    let id = command.id;
    let mut follow = Follow::new(command, style, &session.print);
    let mut signals = Signals::listen()?;
    let ended = tokio::select! {
        ended = stream(session, &mut follow) => Some(ended?),
        () = signals.next() => None,
    };
    follow.clear();
    if ended.is_some() {
        return follow.finish(&mut session.print);
    }
    if style == Style::Follow {
        let path = format!("/commands/{id}/cancel");
        let _: CommandView = session.client.post(&path, &serde_json::json!({})).await?;
        super::note("Cancelled.");
    } else {
        super::note(&format!(
            "Still running. Come back to it: flotilla command wait {id}"
        ));
    }
    Ok(Exit::Interrupted)
}

async fn stream(session: &mut Session, follow: &mut Follow) -> Result<(), CliFailure> {
    let path = format!("/commands/{}/follow", follow.command().id);
    let mut retries = 0;
    loop {
        match stream_once(session, follow, &path).await {
            Ok(()) if follow.is_done() => return Ok(()),
            Err(failure) if failure.exit != Exit::Unavailable || retries >= RETRIES_MAX => {
                return Err(failure);
            }
            Ok(()) | Err(_) => {}
        }
        if retries >= RETRIES_MAX {
            let id = follow.command().id;
            return Err(CliFailure::new(
                Exit::Later,
                "the controller stops the stream again and again",
            )
            .advise(format!("come back later: flotilla command wait {id}")));
        }
        retries += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn stream_once(
    session: &mut Session,
    follow: &mut Follow,
    path: &str,
) -> Result<(), CliFailure> {
    let mut lines = session.client.lines(path).await?;
    while let Some(line) = lines.next::<FollowLine>().await? {
        follow.take(line, &mut session.print)?;
        if follow.is_done() {
            return Ok(());
        }
    }
    Ok(())
}

pub(super) async fn noun(session: &mut Session, command: CommandNoun) -> Result<Exit, CliFailure> {
    match command {
        CommandNoun::List { limit } => {
            let query = ListCommands { limit: Some(limit) };
            let list: CommandList = session.client.query("/commands", &query).await?;
            session.print.show(&list, table)?;
        }
        CommandNoun::Show {
            command,
            node: None,
        } => {
            let outcome = whole(session, &command).await?;
            session.print.show(&outcome, show)?;
        }
        CommandNoun::Show {
            command,
            node: Some(node),
        } => {
            let path = format!("/commands/{command}/targets/{node}");
            let target: TargetView = session.client.get(&path).await?;
            session.print.show(&target, |print, target| {
                print.line(row_text(print, target))?;
                match &target.receipt {
                    Some(receipt) => {
                        print.raw(&receipt.stdout)?;
                        print.raw(&receipt.stderr)
                    }
                    None => Ok(()),
                }
            })?;
        }
        CommandNoun::Wait { command } => {
            let command: CommandView = session.client.get(&format!("/commands/{command}")).await?;
            return wait(session, command, Style::Output).await;
        }
        CommandNoun::Cancel { command } => {
            let path = format!("/commands/{command}/cancel");
            let command: CommandView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&command, |print, command| {
                print.line(format!("Command {} is being cancelled.", command.id))
            })?;
        }
    }
    Ok(Exit::Ok)
}

async fn whole(session: &Session, command: &str) -> Result<Outcome, CliFailure> {
    let path = format!("/commands/{command}");
    let command: CommandView = session.client.get(&path).await?;
    let mut targets = Vec::new();
    let mut query = ListTargets {
        after: None,
        limit: Some(1000),
    };
    loop {
        let page: TargetPage = session
            .client
            .query(&format!("{path}/targets"), &query)
            .await?;
        targets.extend(page.targets);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(Outcome { command, targets }),
        }
    }
}

/// `3 of 4 succeeded, 1 failed`.
pub(super) fn summary(command: &CommandView) -> String {
    let succeeded = command.counts.get("succeeded").copied().unwrap_or_default();
    let mut text = format!("{succeeded} of {} succeeded", command.targets);
    for (state, count) in &command.counts {
        if state != "succeeded" && *count > 0 {
            text.push_str(&format!(", {count} {}", state.replace('_', " ")));
        }
    }
    text
}

/// The tone of a target's state.
pub(super) fn tone(state: &str) -> Tone {
    match state {
        "succeeded" => Tone::Good,
        "waiting" | "sent" | "running" => Tone::Plain,
        "cancelled" | "expired" => Tone::Warn,
        _ => Tone::Bad,
    }
}

/// One target on one line.
pub(super) fn row_text(print: &Printer, target: &TargetView) -> String {
    let state = print.tint(&target.state.replace('_', " "), tone(&target.state));
    let mut text = format!("{}: {state}", target.name);
    let exit = target.receipt.as_ref().and_then(|receipt| receipt.exit);
    if let Some(exit) = exit.filter(|exit| *exit != 0) {
        text.push_str(&format!(", exit {exit}"));
    }
    if let Some(code) = &target.code {
        text.push_str(&format!(" [{code}]"));
    }
    if !target.detail.is_empty() {
        text.push_str(&format!(": {}", target.detail));
    }
    if target.receipt.as_ref().is_some_and(|receipt| receipt.late) {
        text.push_str(" (receipt came later)");
    }
    text
}

fn table(print: &mut Printer, list: &CommandList) -> Result<(), CliFailure> {
    let mut table = print.table(&["ID", "WHAT", "NODES", "BY", "ISSUED", "STATE"]);
    for command in &list.commands {
        let (state, tone) = if !command.done {
            (format!("running: {}", summary(command)), Tone::Plain)
        } else if command.counts.get("succeeded") == Some(&command.targets) {
            (summary(command), Tone::Good)
        } else {
            (summary(command), Tone::Warn)
        };
        table.add_row(vec![
            print.cell(command.id, Tone::Plain),
            print.cell(&command.what, Tone::Plain),
            print.cell(&command.nodes, Tone::Plain),
            print.cell(&command.issued_by, Tone::Plain),
            print.cell(print.ago(command.issued_at), Tone::Plain),
            print.cell(state, tone),
        ]);
    }
    print.print(table, "No commands yet. Try: flotilla ping --all")
}

fn show(print: &mut Printer, outcome: &Outcome) -> Result<(), CliFailure> {
    let command = &outcome.command;
    for (name, value) in [
        ("id", command.id.to_string()),
        ("what", command.what.clone()),
        ("nodes", command.nodes.clone()),
        (
            "issued",
            format!("{} by {}", print.ago(command.issued_at), command.issued_by),
        ),
        ("start by", print.ago(command.start_by)),
        ("state", summary(command)),
        ("waits", command.waits_for.clone()),
    ] {
        if !value.is_empty() {
            print.line(format!("{name:<10} {value}"))?;
        }
    }
    let mut table = print.table(&["NODE", "STATE", "EXIT", "ENDED", "REASON"]);
    for target in &outcome.targets {
        let receipt = target.receipt.as_ref();
        let exit = receipt.and_then(|receipt| receipt.exit);
        table.add_row(vec![
            print.cell(&target.name, Tone::Plain),
            print.cell(target.state.replace('_', " "), tone(&target.state)),
            print.cell(
                exit.map_or_else(|| "-".to_owned(), |exit| exit.to_string()),
                Tone::Plain,
            ),
            print.cell(
                print.ago_or_dash(receipt.map(|receipt| receipt.ended_at)),
                Tone::Plain,
            ),
            print.cell(&target.detail, Tone::Plain),
        ]);
    }
    print.line("")?;
    print.print(table, "It has no targets.")
}
