//! `flotilla breaker …`.

use crate::cli::Session;
use crate::cli::args::breaker::{Breaker, Define, Lease, Move, Override};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, span};
use crate::exit::Exit;
use crate::operation::view::breaker::{
    BreakerDefinition, BreakerList, BreakerView, LeaseView, MoveBreaker, OverrideBreaker,
};

pub(super) async fn run(session: &mut Session, command: Breaker) -> Result<Exit, CliFailure> {
    match command {
        Breaker::List => {
            let list: BreakerList = session.client.get("/breakers").await?;
            session.print.show(&list, table)?;
        }
        Breaker::Show { breaker } => {
            let view: BreakerView = session.client.get(&format!("/breakers/{breaker}")).await?;
            session.print.show(&view, show)?;
        }
        Breaker::History { breaker } => {
            let view: BreakerView = session.client.get(&format!("/breakers/{breaker}")).await?;
            session
                .print
                .show(&view.history, |print, _| history(print, &view))?;
        }
        Breaker::Define(asked) => {
            let path = format!("/breakers/{}", asked.breaker);
            let list: BreakerList = session.client.get("/breakers").await?;
            let known = list
                .breakers
                .into_iter()
                .find(|it| it.name == asked.breaker);
            let body = changed(known.map(|it| it.definition).unwrap_or_default(), asked);
            let view: BreakerView = session.client.put(&path, &body).await?;
            session.print.show(&view, show)?;
        }
        Breaker::Remove { breaker } => {
            let path = format!("/breakers/{breaker}/remove");
            let view: BreakerView = session.client.post(&path, &serde_json::json!({})).await?;
            session.print.show(&view, |print, view| {
                print.line(format!("Breaker {} is removed.", view.name))
            })?;
        }
        Breaker::Trip(asked) => by_hand(session, "trip", asked).await?,
        Breaker::Isolate(asked) => by_hand(session, "isolate", asked).await?,
        Breaker::Reset(asked) => by_hand(session, "reset", asked).await?,
        Breaker::Override(asked) => pass(session, asked).await?,
        Breaker::Lease(asked) => lease(session, asked).await?,
    }
    Ok(Exit::Ok)
}

async fn by_hand(session: &mut Session, verb: &str, asked: Move) -> Result<(), CliFailure> {
    let path = format!("/breakers/{}/{verb}", asked.breaker);
    let body = MoveBreaker {
        group: asked.group,
        reason: asked.reason,
    };
    let view: BreakerView = session.client.post(&path, &body).await?;
    session.print.show(&view, show)
}

async fn pass(session: &mut Session, asked: Override) -> Result<(), CliFailure> {
    let view: BreakerView = match asked.end {
        Some(number) => {
            let path = format!("/overrides/{number}/end");
            session.client.post(&path, &serde_json::json!({})).await?
        }
        None => {
            let path = format!("/breakers/{}/override", asked.breaker.unwrap_or_default());
            let body = OverrideBreaker {
                nodes: asked.on.unwrap_or_default(),
                for_s: asked.lifetime.as_secs(),
                reason: asked.reason.unwrap_or_default(),
            };
            session.client.post(&path, &body).await?
        }
    };
    session.print.show(&view, show)
}

async fn lease(session: &mut Session, asked: Lease) -> Result<(), CliFailure> {
    let view: LeaseView = match asked {
        Lease::Show => session.client.get("/lease").await?,
        Lease::Set { lease } => {
            let lease_s = lease.as_secs();
            let body = LeaseView { lease_s };
            session.client.put("/lease", &body).await?
        }
    };
    session.print.show(&view, |print, view| {
        print.line(format!(
            "Nodes that hear nothing for {} refuse what can be gated.",
            span(view.lease_s)
        ))
    })
}

/// The definition with what was given in place of what was there.
fn changed(mut known: BreakerDefinition, asked: Define) -> BreakerDefinition {
    fn put<T>(field: &mut T, given: Option<T>) {
        if let Some(given) = given {
            *field = given;
        }
    }
    let list = |given: Vec<String>| (!given.is_empty()).then_some(given);
    let seconds = |given: Option<std::time::Duration>| given.map(|it| it.as_secs());
    put(&mut known.nodes, asked.on);
    put(&mut known.watches, list(asked.watches));
    put(&mut known.gates, list(asked.gates));
    put(&mut known.span, asked.span);
    put(&mut known.rollouts, asked.rollouts);
    put(&mut known.notify, asked.notify);
    put(&mut known.consecutive, asked.consecutive);
    put(&mut known.count, asked.count);
    put(&mut known.percent, asked.percent);
    put(&mut known.min_samples, asked.min_samples);
    put(&mut known.confidence, asked.confidence);
    put(&mut known.window_s, seconds(asked.window));
    put(&mut known.cool_down_s, seconds(asked.cool_down));
    put(&mut known.cool_down_s_max, seconds(asked.cool_down_max));
    put(&mut known.probes, asked.probes);
    put(&mut known.successes, asked.successes);
    put(&mut known.probe_limit_s, seconds(asked.probe_limit));
    known
}

fn tone(state: &str) -> Tone {
    match state {
        "closed" => Tone::Good,
        "half_open" => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn table(print: &mut Printer, list: &BreakerList) -> Result<(), CliFailure> {
    let mut table = print.table(&["NAME", "STATE", "GROUPS", "SINCE", "TRIES", "REASON"]);
    for breaker in &list.breakers {
        let newest = breaker.groups.iter().max_by_key(|group| group.since);
        let groups: Vec<&str> = breaker.groups.iter().map(|it| it.group.as_str()).collect();
        table.add_row(vec![
            print.cell(&breaker.name, Tone::Plain),
            print.cell(&breaker.state, tone(&breaker.state)),
            print.cell(groups.join(","), Tone::Plain),
            print.cell(print.ago_or_dash(newest.map(|it| it.since)), Tone::Plain),
            print.cell(
                print.ago_or_dash(newest.and_then(|it| it.tries_at)),
                Tone::Plain,
            ),
            print.cell(newest.map_or("", |it| it.reason.as_str()), Tone::Faint),
        ]);
    }
    print.print(table, "No breakers. Make one: flotilla breaker define")?;
    for pass in &list.overrides {
        let text = format!(
            "Override {}: {} may pass {}, ends {}, by {}: {}",
            pass.number,
            pass.nodes,
            pass.breaker,
            print.ago(pass.until),
            pass.by,
            pass.reason
        );
        let text = print.tint(&text, Tone::Warn);
        print.line(text)?;
    }
    print.line(format!(
        "Policy epoch {}, published {}; nodes that hear nothing for {} refuse what can be gated.",
        list.policy_epoch,
        print.ago_or_dash(list.published_at),
        span(list.lease_s)
    ))
}

fn show(print: &mut Printer, view: &BreakerView) -> Result<(), CliFailure> {
    let it = &view.definition;
    let state = print.tint(&view.state, tone(&view.state));
    print.line(format!("Breaker {} is {state}.", view.name))?;
    print.line(format!(
        "  watches   {} on {}",
        it.watches.join(", "),
        it.nodes
    ))?;
    print.line(format!(
        "  stops     {} for {}; rollouts: {}",
        it.gates.join(", "),
        it.span,
        it.rollouts
    ))?;
    print.line(format!("  trips     {}", trips(it)))?;
    if !it.notify {
        print.line("  told      to nobody: --notify false")?;
    }
    let tries = if it.cool_down_s == 0 {
        "when someone resets it".to_owned()
    } else {
        format!(
            "after {} (up to {}): {} of {} nodes must succeed within {}",
            span(it.cool_down_s),
            span(it.cool_down_s_max),
            it.successes,
            it.probes,
            span(it.probe_limit_s)
        )
    };
    print.line(format!("  recovers  {tries}"))?;
    for group in &view.groups {
        let state = print.tint(&group.state, tone(&group.state));
        print.line(format!(
            "  {}: {state} since {}: {}",
            group.group,
            print.ago(group.since),
            group.reason
        ))?;
        if let Some(at) = group.tries_at {
            print.line(format!("    tries again {}", print.ago(at)))?;
        }
        if !group.probes.is_empty() {
            let probes: Vec<String> = group.probes.iter().map(ToString::to_string).collect();
            print.line(format!("    may try: {}", probes.join(", ")))?;
        }
    }
    Ok(())
}

fn trips(it: &BreakerDefinition) -> String {
    let mut ways = Vec::new();
    if it.consecutive > 0 {
        ways.push(format!("{} failures in a row", it.consecutive));
    }
    if it.count > 0 {
        ways.push(format!("{} failures", it.count));
    }
    if it.percent > 0 {
        ways.push(format!(
            "{} % of at least {} ({})",
            it.percent, it.min_samples, it.confidence
        ));
    }
    if ways.is_empty() {
        return "by hand alone".to_owned();
    }
    format!("by {} within {}", ways.join(", or "), span(it.window_s))
}

fn history(print: &mut Printer, view: &BreakerView) -> Result<(), CliFailure> {
    let mut table = print.table(&["WHEN", "GROUP", "FROM", "TO", "BY", "REASON"]);
    for moved in &view.history {
        table.add_row(vec![
            print.cell(print.ago(moved.at), Tone::Plain),
            print.cell(&moved.group, Tone::Plain),
            print.cell(&moved.from, tone(&moved.from)),
            print.cell(&moved.to, tone(&moved.to)),
            print.cell(&moved.by, Tone::Plain),
            print.cell(&moved.reason, Tone::Faint),
        ]);
    }
    print.print(table, "It never moved.")
}
