//! `flotilla window …`.

use crate::cli::Session;
use crate::cli::args::window::{Set, Window};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, span};
use crate::exit::Exit;
use crate::operation::view::window::{OpenWindow, WindowDefinition, WindowList, WindowView};

pub(super) async fn run(session: &mut Session, command: Window) -> Result<Exit, CliFailure> {
    match command {
        Window::List => {
            let list: WindowList = session.client.get("/windows").await?;
            session.print.show(&list, table)?;
        }
        Window::Show { window } => {
            let view: WindowView = session.client.get(&format!("/windows/{window}")).await?;
            session.print.show(&view, show)?;
        }
        Window::Next { window } => {
            let mut list: WindowList = session.client.get("/windows").await?;
            if let Some(name) = window {
                let view: WindowView = session.client.get(&format!("/windows/{name}")).await?;
                list.windows = vec![view];
            }
            session.print.show(&list, next)?;
        }
        Window::Set(asked) => {
            let path = format!("/windows/{}", asked.window);
            let list: WindowList = session.client.get("/windows").await?;
            let known = list.windows.into_iter().find(|it| it.name == asked.window);
            let body = changed(known.map(|it| it.definition), asked)?;
            let view: WindowView = session.client.put(&path, &body).await?;
            session.print.show(&view, show)?;
        }
        Window::Remove { window } => {
            let path = format!("/windows/{window}/remove");
            let view: WindowView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("Window {} is removed.", view.name))
            })?;
        }
        Window::Open {
            window,
            lifetime,
            reason,
        } => {
            let path = format!("/windows/{window}/open");
            let for_s = lifetime.as_secs();
            let body = OpenWindow { for_s, reason };
            let view: WindowView = session.client.post(&path, &body).await?;
            session.print.show(&view, show)?;
        }
        Window::Shut { window } => {
            let path = format!("/windows/{window}/shut");
            let view: WindowView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, show)?;
        }
    }
    Ok(Exit::Ok)
}

/// The definition with what was given in place of what was there.
fn changed(known: Option<WindowDefinition>, asked: Set) -> Result<WindowDefinition, CliFailure> {
    let missing = |flag: &str| {
        CliFailure::new(
            Exit::Usage,
            format!("window {:?} is new, and {flag} is not given", asked.window),
        )
    };
    let given = asked.length.map(|length| length.as_secs());
    Ok(match known {
        Some(known) => WindowDefinition {
            nodes: asked.on.unwrap_or(known.nodes),
            gates: if asked.gates.is_empty() {
                known.gates
            } else {
                asked.gates
            },
            days: asked.days.unwrap_or(known.days),
            from: asked.from.unwrap_or(known.from),
            length_s: given.unwrap_or(known.length_s),
            zone: asked.tz.unwrap_or(known.zone),
        },
        None => WindowDefinition {
            from: asked.from.clone().ok_or_else(|| missing("--from"))?,
            length_s: given.ok_or_else(|| missing("--for"))?,
            nodes: asked.on.unwrap_or_else(|| "*".to_owned()),
            gates: if asked.gates.is_empty() {
                vec!["deploy".to_owned(), "update".to_owned()]
            } else {
                asked.gates
            },
            days: asked.days.unwrap_or_else(|| "daily".to_owned()),
            zone: asked.tz.unwrap_or_else(|| "UTC".to_owned()),
        },
    })
}

fn when(it: &WindowDefinition) -> String {
    format!(
        "{} {} for {}, {}",
        it.days,
        it.from,
        span(it.length_s),
        it.zone
    )
}

fn state(print: &Printer, view: &WindowView) -> (String, Tone) {
    match view.open_until {
        Some(until) => (format!("open, shuts {}", print.ago(until)), Tone::Good),
        None => ("shut".to_owned(), Tone::Plain),
    }
}

fn table(print: &mut Printer, list: &WindowList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "STATE", "WHEN", "GATES", "NODES", "MATCHING"]);
    for view in &list.windows {
        let (text, tone) = state(print, view);
        table.add_row(vec![
            print.cell(&view.name, Tone::Plain),
            print.cell(text, tone),
            print.cell(when(&view.definition), Tone::Plain),
            print.cell(view.definition.gates.join(","), Tone::Plain),
            print.cell(&view.definition.nodes, Tone::Plain),
            print.cell(view.matching, Tone::Plain),
        ]);
    }
    print.print(
        table,
        "No windows: nodes may be changed at any time. Make one: flotilla window set",
    )
}

fn show(print: &mut Printer, view: &WindowView) -> Result<(), CliFailure> {
    let it = &view.definition;
    let (text, tone) = state(print, view);
    let text = print.tint(&text, tone);
    print.line(format!("Window {} is {text}.", view.name))?;
    print.line(format!("  opens     {}", when(it)))?;
    print.line(format!(
        "  for       {} ({} nodes)",
        it.nodes, view.matching
    ))?;
    print.line(format!("  gates     {}", it.gates.join(", ")))?;
    if let Some(opened) = &view.opened {
        let text = format!(
            "  opened by {} against its schedule, shuts {}: {}",
            opened.by,
            print.ago(opened.until),
            opened.reason
        );
        let text = print.tint(&text, Tone::Warn);
        print.line(text)?;
    }
    for times in &view.next {
        print.line(format!("  next      {} ({})", times.local, times.from))?;
    }
    Ok(())
}

fn next(print: &mut Printer, list: &WindowList) -> Result<(), CliFailure> {
    let mut table = print.table(&["WINDOW", "OPENS", "LOCAL TIME", "SHUTS"]);
    let mut rows: Vec<_> = list
        .windows
        .iter()
        .flat_map(|view| view.next.iter().map(move |times| (times.from, view, times)))
        .collect();
    rows.sort_by_key(|(from, view, _)| (*from, view.name.clone()));
    for (from, view, times) in rows {
        table.add_row(vec![
            print.cell(&view.name, Tone::Plain),
            print.cell(print.ago(from), Tone::Plain),
            print.cell(&times.local, Tone::Plain),
            print.cell(print.ago(times.until), Tone::Plain),
        ]);
    }
    print.print(table, "No windows: nodes may be changed at any time.")
}
