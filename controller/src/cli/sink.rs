//! `flotilla sink …` and `flotilla notice …`.

use std::path::Path;

use crate::cli::Session;
use crate::cli::args::sink::{Notice, Set, Sink};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone};
use crate::exit::Exit;
use crate::operation::view::sink::{NoticeList, SetSink, SinkList, SinkMade, SinkTried, SinkView};

pub(super) async fn run(session: &mut Session, command: Sink) -> Result<Exit, CliFailure> {
    match command {
        Sink::List => {
            let list: SinkList = session.client.get("/sinks").await?;
            session.print.show(&list, table)?;
        }
        Sink::Show { sink } => {
            let view: SinkView = session.client.get(&format!("/sinks/{sink}")).await?;
            session.print.show(&view, show)?;
        }
        Sink::Set(asked) => {
            let path = format!("/sinks/{}", asked.sink);
            let made: SinkMade = session.client.put(&path, &body(asked)?).await?;
            session.print.show(&made, |print, made| {
                show(print, &made.sink)?;
                match &made.secret {
                    Some(secret) => print.line(format!(
                        "  secret    {secret}  (give it to the receiver; it is not shown again)"
                    )),
                    None => Ok(()),
                }
            })?;
        }
        Sink::Remove { sink } => {
            let path = format!("/sinks/{sink}/remove");
            let view: SinkView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("Sink {} is removed.", view.name))
            })?;
        }
        Sink::Test { sink } => {
            let path = format!("/sinks/{sink}/test");
            let tried: SinkTried = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&tried, |print, tried| {
                if tried.delivered {
                    let status = tried.status.unwrap_or_default();
                    print.line(format!("The receiver took it: it answered {status}."))
                } else {
                    print.line(format!("Not delivered: {}", tried.reason))
                }
            })?;
            if !tried.delivered {
                return Ok(Exit::Failed);
            }
        }
    }
    Ok(Exit::Ok)
}

pub(super) async fn notice(session: &mut Session, command: Notice) -> Result<Exit, CliFailure> {
    let Notice::List { limit } = command;
    let path = format!("/notices?limit={limit}");
    let list: NoticeList = session.client.get(&path).await?;
    session.print.show(&list, notices)?;
    Ok(Exit::Ok)
}

fn body(asked: Set) -> Result<SetSink, CliFailure> {
    let kinds = match asked.kinds.as_slice() {
        [] => None,
        [all] if all == "*" => Some(Vec::new()),
        _ => Some(asked.kinds),
    };
    Ok(SetSink {
        url: asked.url,
        kinds,
        severity: asked.severity,
        nodes: asked.on,
        secret: asked.secret_file.as_deref().map(secret).transpose()?,
        renew_secret: asked.new_secret,
    })
}

fn secret(path: &Path) -> Result<String, CliFailure> {
    std::fs::read_to_string(path).map_err(|error| {
        CliFailure::because(
            Exit::NotFound,
            format_args!("cannot read {}", path.display()),
            &error,
        )
    })
}

fn tone(state: &str) -> Tone {
    match state {
        "ok" => Tone::Good,
        "failing" => Tone::Bad,
        _ => Tone::Plain,
    }
}

fn kinds(view: &SinkView) -> String {
    if view.kinds.is_empty() {
        "all".to_owned()
    } else {
        view.kinds.join(",")
    }
}

fn table(print: &mut Printer, list: &SinkList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "STATE", "LAST", "PENDING", "KINDS", "URL", "WHY"]);
    for sink in &list.sinks {
        let why = sink.failing_reason.as_deref().unwrap_or_default();
        table.add_row(vec![
            print.cell(&sink.name, Tone::Plain),
            print.cell(&sink.state, tone(&sink.state)),
            print.cell(print.ago_or_dash(sink.delivered_at), Tone::Plain),
            print.cell(sink.pending, Tone::Plain),
            print.cell(kinds(sink), Tone::Plain),
            print.cell(&sink.url, Tone::Plain),
            print.cell(why, Tone::Faint),
        ]);
    }
    print.print(
        table,
        "No sinks. Make one: flotilla sink set NAME --url https://...",
    )
}

fn show(print: &mut Printer, view: &SinkView) -> Result<(), CliFailure> {
    let state = print.tint(&view.state, tone(&view.state));
    print.line(format!("Sink {} is {state}.", view.name))?;
    print.line(format!("  url       {}", view.url))?;
    print.line(format!(
        "  gets      {}, from {} on; of nodes {}",
        kinds(view),
        view.severity,
        view.nodes
    ))?;
    print.line(format!(
        "  delivered {}, last {}",
        view.delivered,
        print.ago_or_dash(view.delivered_at)
    ))?;
    print.line(format!(
        "  pending   {}, oldest {}",
        view.pending,
        print.ago_or_dash(view.pending_since)
    ))?;
    if let (Some(since), Some(reason)) = (view.failing_since, &view.failing_reason) {
        print.line(format!("  failing   since {}: {reason}", print.ago(since)))?;
    }
    if let (Some(at), Some(given_up)) = (view.given_up_at, &view.given_up) {
        print.line(format!(
            "  gave up   {}, last {}: {given_up}",
            view.failed,
            print.ago(at)
        ))?;
    }
    if view.lost > 0 {
        print.line(format!("  lost      {}", view.lost))?;
    }
    if view.breaker != "closed" {
        print.line(format!("  breaker   {}", view.breaker))?;
    }
    Ok(())
}

fn notices(print: &mut Printer, list: &NoticeList) -> Result<(), CliFailure> {
    let mut table = print.table(&["WHEN", "SEVERITY", "STATE", "WHAT", "MORE"]);
    for notice in &list.notices {
        let tone = match (notice.state.as_str(), notice.severity.as_str()) {
            ("resolved", _) => Tone::Good,
            (_, "critical") => Tone::Bad,
            (_, "warning") => Tone::Warn,
            _ => Tone::Plain,
        };
        table.add_row(vec![
            print.cell(print.ago(notice.at), Tone::Plain),
            print.cell(&notice.severity, tone),
            print.cell(&notice.state, Tone::Plain),
            print.cell(&notice.title, Tone::Plain),
            print.cell(&notice.detail, Tone::Faint),
        ]);
    }
    print.print(table, "No notices.")
}
