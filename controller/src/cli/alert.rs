//! `flotilla alert …`.

use crate::cli::Session;
use crate::cli::args::alert::{Alert, CreateSilence as AskSilence, Rule, Set, Silence};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, span};
use crate::exit::Exit;
use crate::operation::view::alert::{
    AlertHistory, AlertList, AlertRuleDefinition, AlertRuleList, AlertRuleView, CreateSilence,
    ListAlerts, ReadAlertHistory, SilenceList, SilenceView,
};

pub(super) async fn run(session: &mut Session, command: Alert) -> Result<Exit, CliFailure> {
    match command {
        Alert::List(asked) => {
            let query = ListAlerts {
                on: asked.on,
                rule: asked.rule,
                all: asked.all,
            };
            let list: AlertList = session.client.query("/alerts", &query).await?;
            session.print.show(&list, alerts)?;
        }
        Alert::History(asked) => {
            let query = ReadAlertHistory {
                on: asked.on,
                rule: asked.rule,
                limit: Some(asked.limit),
            };
            let turns: AlertHistory = session.client.query("/alerts/history", &query).await?;
            session.print.show(&turns, history)?;
        }
        Alert::Rule(asked) => rule(session, asked).await?,
        Alert::Silence(asked) => silence(session, asked).await?,
    }
    Ok(Exit::Ok)
}

async fn rule(session: &mut Session, command: Rule) -> Result<(), CliFailure> {
    match command {
        Rule::List => {
            let list: AlertRuleList = session.client.get("/alert-rules").await?;
            session.print.show(&list, rules)
        }
        Rule::Show { rule } => {
            let path = format!("/alert-rules/{rule}");
            let view: AlertRuleView = session.client.get(&path).await?;
            session.print.show(&view, show)
        }
        Rule::Set(asked) => {
            let path = format!("/alert-rules/{}", asked.rule);
            let list: AlertRuleList = session.client.get("/alert-rules").await?;
            let known = list.rules.into_iter().find(|it| it.name == asked.rule);
            let body = changed(known.map(|it| it.definition), asked)?;
            let view: AlertRuleView = session.client.put(&path, &body).await?;
            session.print.show(&view, show)
        }
        Rule::Remove { rule } => {
            let path = format!("/alert-rules/{rule}/remove");
            let view: AlertRuleView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, |print, view| {
                print.line(format!(
                    "Alert rule {} is removed, and its alerts are resolved.",
                    view.name
                ))
            })
        }
    }
}

/// The definition with what was given in place of what was there.
fn changed(
    known: Option<AlertRuleDefinition>,
    asked: Set,
) -> Result<AlertRuleDefinition, CliFailure> {
    let known = known.as_ref();
    let when = asked.when.or_else(|| known.map(|it| it.when.clone()));
    let Some(when) = when else {
        return Err(CliFailure::new(
            Exit::Usage,
            format!("there is no alert rule {} yet", asked.rule),
        )
        .advise("say what it watches, as in --when 'fs.used > 90% for 5m'"));
    };
    let or = |given: Option<String>, field: fn(&AlertRuleDefinition) -> &String, new: &str| {
        given
            .or_else(|| known.map(|it| field(it).clone()))
            .unwrap_or_else(|| new.to_owned())
    };
    Ok(AlertRuleDefinition {
        when,
        nodes: or(asked.on, |it| &it.nodes, "*"),
        severity: or(asked.severity, |it| &it.severity, "warning"),
        resolve_after_s: asked
            .resolve_after
            .map(|it| it.as_secs())
            .or_else(|| known.map(|it| it.resolve_after_s))
            .unwrap_or_default(),
    })
}

async fn silence(session: &mut Session, command: Silence) -> Result<(), CliFailure> {
    match command {
        Silence::List => {
            let list: SilenceList = session.client.get("/silences").await?;
            session.print.show(&list, silences)
        }
        Silence::Create(AskSilence {
            on,
            rule,
            lifetime,
            reason,
        }) => {
            let body = CreateSilence {
                nodes: on,
                rule,
                for_s: lifetime.as_secs(),
                reason,
            };
            let view: SilenceView = session.client.post("/silences", &body).await?;
            session.print.show(&view, |print, view| {
                let text = format!("Silence {} ends {}.", view.number, print.ago(view.until));
                print.line(text)
            })
        }
        Silence::End { number } => {
            let path = format!("/silences/{number}/end");
            let view: SilenceView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("Silence {} is ended.", view.number))
            })
        }
    }
}

fn severity_tone(severity: &str) -> Tone {
    match severity {
        "critical" => Tone::Bad,
        "warning" => Tone::Warn,
        _ => Tone::Plain,
    }
}

fn state_tone(state: &str) -> Tone {
    match state {
        "clear" => Tone::Good,
        "flapping" => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn alerts(print: &mut Printer, list: &AlertList) -> Result<(), CliFailure> {
    let mut table = print.table(&[
        "RULE", "NODE", "LABEL", "SEVERITY", "STATE", "SINCE", "VALUE", "NOTE",
    ]);
    for alert in &list.alerts {
        let mut notes = Vec::new();
        notes.extend(alert.silence.map(|number| format!("silence {number}")));
        notes.extend(alert.stale.then(|| "not heard".to_owned()));
        notes.extend(alert.ceased.then(|| "ceased".to_owned()));
        table.add_row(vec![
            print.cell(&alert.rule, Tone::Plain),
            print.cell(&alert.node_name, Tone::Plain),
            print.cell(&alert.label, Tone::Plain),
            print.cell(&alert.severity, severity_tone(&alert.severity)),
            print.cell(&alert.state, state_tone(&alert.state)),
            print.cell(print.ago(alert.since), Tone::Plain),
            print.cell(&alert.value, Tone::Plain),
            print.cell(notes.join(", "), Tone::Faint),
        ]);
    }
    print.print(table, "Nothing fires.")?;
    if list.more > 0 {
        print.line(format!("{} more are not shown.", list.more))?;
    }
    if list.shed > 0 {
        let text = format!(
            "{} alerts were not taken up since the controller's start: there were too many.",
            list.shed
        );
        let text = print.tint(&text, Tone::Warn);
        print.line(text)?;
    }
    Ok(())
}

fn history(print: &mut Printer, turns: &AlertHistory) -> Result<(), CliFailure> {
    let mut table = print.table(&[
        "WHEN", "RULE", "NODE", "LABEL", "FROM", "TO", "VALUE", "WHY",
    ]);
    for turn in &turns.turns {
        let silence = turn.silence.map(|number| format!(", silence {number}"));
        table.add_row(vec![
            print.cell(print.ago(turn.at), Tone::Plain),
            print.cell(&turn.rule, Tone::Plain),
            print.cell(&turn.node_name, Tone::Plain),
            print.cell(&turn.label, Tone::Plain),
            print.cell(&turn.from, state_tone(&turn.from)),
            print.cell(&turn.to, state_tone(&turn.to)),
            print.cell(&turn.value, Tone::Plain),
            print.cell(
                format!("{}{}", turn.why, silence.unwrap_or_default()),
                Tone::Faint,
            ),
        ]);
    }
    print.print(table, "No alert ever turned.")
}

fn rules(print: &mut Printer, list: &AlertRuleList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "WHEN", "ON", "SEVERITY", "FIRING", "BREAKERS"]);
    for rule in &list.rules {
        let it = &rule.definition;
        let tone = if rule.firing > 0 {
            Tone::Bad
        } else {
            Tone::Plain
        };
        table.add_row(vec![
            print.cell(&rule.name, Tone::Plain),
            print.cell(&it.when, Tone::Plain),
            print.cell(&it.nodes, Tone::Plain),
            print.cell(&it.severity, severity_tone(&it.severity)),
            print.cell(rule.firing, tone),
            print.cell(rule.breakers.join(", "), Tone::Faint),
        ]);
    }
    print.print(table, "No alert rules. Make one: flotilla alert rule set")
}

fn show(print: &mut Printer, rule: &AlertRuleView) -> Result<(), CliFailure> {
    let it = &rule.definition;
    let severity = print.tint(&it.severity, severity_tone(&it.severity));
    print.line(format!("Alert rule {} ({severity})", rule.name))?;
    print.line(format!("  when      {}", it.when))?;
    print.line(format!("  on        {}", it.nodes))?;
    let resolved = if it.resolve_after_s == 0 {
        "once the condition ceases".to_owned()
    } else {
        format!(
            "once the condition has ceased for {}",
            span(it.resolve_after_s)
        )
    };
    print.line(format!("  resolved  {resolved}"))?;
    print.line(format!("  firing    {}", rule.firing))?;
    if !rule.breakers.is_empty() {
        print.line(format!(
            "  watched   by breaker {}",
            rule.breakers.join(", ")
        ))?;
    }
    print.line(format!("  defined   {}", print.ago(rule.since)))
}

fn silences(print: &mut Printer, list: &SilenceList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NUMBER", "ON", "RULE", "ENDS", "BY", "REASON"]);
    for silence in &list.silences {
        table.add_row(vec![
            print.cell(silence.number, Tone::Plain),
            print.cell(&silence.nodes, Tone::Plain),
            print.cell(silence.rule.as_deref().unwrap_or("*"), Tone::Plain),
            print.cell(print.ago(silence.until), Tone::Plain),
            print.cell(&silence.by, Tone::Plain),
            print.cell(&silence.reason, Tone::Faint),
        ]);
    }
    print.print(table, "No silences.")
}
