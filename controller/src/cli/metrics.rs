//! `flotilla metrics`.

use std::io::IsTerminal as _;
use std::time::Duration;

use protocol::time::millis;
use tokio::time::Instant;

use crate::cli::Session;
use crate::cli::args::{Format, Metrics};
use crate::cli::failure::CliFailure;
use crate::cli::print::{Printer, Tone, quantity, sparkline};
use crate::exit::Exit;
use crate::operation::view::Stamp;
use crate::operation::view::series::{
    Catalogue, LastValues, QuerySeries, SeriesAnswer, TopAnswer, TopSeries,
};
use crate::serve::signal::Signals;

/// Points that a sparkline has at most.
const WIDTH_MAX: u64 = 60;

/// How long a person waits for the values of a node that has just joined: it
/// measures every ten seconds, and sends its first samples at once.
const FIRST_VALUES_MAX: Duration = Duration::from_secs(15);

/// Between two looks for them.
const FIRST_VALUES_PAUSE: Duration = Duration::from_secs(1);

/// The finest step that a query asks for: nodes sample every ten seconds.
const STEP_MIN: Duration = Duration::from_secs(10);

pub(super) async fn run(session: &mut Session, asked: Metrics) -> Result<Exit, CliFailure> {
    if asked.list {
        let catalogue: Catalogue = session.client.get("/series").await?;
        session.print.show(&catalogue, |print, catalogue| {
            let mut table = print.table(&["SERIES", "UNIT", "KIND", "ABOUT"]);
            for series in &catalogue.series {
                table.add_row(vec![&series.name, &series.unit, &series.kind, &series.help]);
            }
            print.print(table, "No series.")
        })?;
        return Ok(Exit::Ok);
    }
    if let Some(series) = asked.top {
        let query = TopSeries {
            series,
            limit: Some(asked.limit),
        };
        let answer: TopAnswer = session.client.query("/series/top", &query).await?;
        session.print.show(&answer, top)?;
        return Ok(Exit::Ok);
    }
    let node = match asked.node {
        Some(node) => node,
        None => super::node::only(session).await?,
    };
    match asked.series {
        _ if asked.live => live(session, &node).await,
        Some(series) => {
            let now = session.print.now();
            let step = asked.step.unwrap_or_else(|| {
                let points = u32::try_from(WIDTH_MAX).unwrap_or(u32::MAX);
                (asked.since / points).max(STEP_MIN)
            });
            let query = QuerySeries {
                series,
                from: Some(Stamp(now.before(asked.since))),
                to: Some(Stamp(now)),
                step_ms: Some(millis(step)),
            };
            let path = format!("/nodes/{node}/series");
            let answer: SeriesAnswer = session.client.query(&path, &query).await?;
            session.print.show(&answer, over_time)?;
            Ok(Exit::Ok)
        }
        None => {
            let path = format!("/nodes/{node}/series/last");
            let Session { client, print } = session;
            let ask = async || client.get::<LastValues>(&path).await;
            let values = if print.format == Format::Table && print.is_terminal() {
                first_values(ask).await?
            } else {
                ask().await?
            };
            session.print.show(&values, last)?;
            Ok(Exit::Ok)
        }
    }
}

/// Asks until there are values, or it has waited long enough.
async fn first_values(
    ask: impl AsyncFn() -> Result<LastValues, CliFailure>,
) -> Result<LastValues, CliFailure> {
    let deadline = Instant::now() + FIRST_VALUES_MAX;
    let mut values = ask().await?;
    if values.values.is_empty() {
        super::note("No values yet; waiting for the first ones. Ctrl-C ends it.");
    }
    while values.values.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(FIRST_VALUES_PAUSE).await;
        values = ask().await?;
    }
    Ok(values)
}

async fn live(session: &mut Session, node: &str) -> Result<Exit, CliFailure> {
    // Listens from here on: a signal between two values must not be missed.
    let mut signals = Signals::listen()?;
    let mut lines = session.client.lines(&format!("/nodes/{node}/live")).await?;
    super::note("Ctrl-C ends it.");
    loop {
        let next = tokio::select! {
            next = lines.next::<LastValues>() => next?,
            () = signals.next() => return Ok(Exit::Ok),
        };
        let Some(values) = next else {
            super::note("Live values ended.");
            return Ok(Exit::Ok);
        };
        match session.print.format {
            Format::Json => session.print.json_line(&values)?,
            Format::Table => {
                if session.print.is_terminal() && std::io::stdout().is_terminal() {
                    session.print.raw("\u{1b}[2J\u{1b}[H")?;
                }
                last(&mut session.print, &values)?;
            }
        }
    }
}

fn last(print: &mut Printer, values: &LastValues) -> Result<(), CliFailure> {
    let mut table = print.table(&["SERIES", "OF", "VALUE", "AT"]);
    for value in &values.values {
        table.add_row(vec![
            print.cell(&value.series, Tone::Plain),
            print.cell(&value.of, Tone::Faint),
            print
                .cell(quantity(value.value, &value.unit), Tone::Plain)
                .set_alignment(comfy_table::CellAlignment::Right),
            print.cell(print.ago(value.at), Tone::Faint),
        ]);
    }
    print.print(
        table,
        "No values yet: a node sends its first within ten seconds of its start.",
    )
}

fn top(print: &mut Printer, answer: &TopAnswer) -> Result<(), CliFailure> {
    let mut table = print.table(&["NODE", "OF", &answer.series.to_uppercase(), "AT"]);
    for row in &answer.rows {
        table.add_row(vec![
            print.cell(&row.name, Tone::Plain),
            print.cell(&row.of, Tone::Faint),
            print
                .cell(quantity(row.value, &answer.unit), Tone::Plain)
                .set_alignment(comfy_table::CellAlignment::Right),
            print.cell(print.ago(row.at), Tone::Faint),
        ]);
    }
    print.print(table, "No node has a value of this series.")
}

fn over_time(print: &mut Printer, answer: &SeriesAnswer) -> Result<(), CliFailure> {
    let mut table = print.table(&["OF", "MIN", "MEAN", "MAX", "LAST", "OVER TIME"]);
    let mut gaps = 0;
    for line in &answer.lines {
        let points: Vec<Option<f64>> = line.points.iter().map(|point| point.value).collect();
        gaps += points.iter().filter(|point| point.is_none()).count();
        let known: Vec<f64> = points.iter().flatten().copied().collect();
        let shown = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| quantity(value, &answer.unit))
        };
        let count = u32::try_from(known.len()).unwrap_or(u32::MAX);
        let mean = (count > 0).then(|| known.iter().sum::<f64>() / f64::from(count));
        table.add_row(vec![
            print.cell(
                if line.of.is_empty() { "host" } else { &line.of },
                Tone::Plain,
            ),
            print.cell(shown(known.iter().copied().reduce(f64::min)), Tone::Plain),
            print.cell(shown(mean), Tone::Plain),
            print.cell(shown(known.iter().copied().reduce(f64::max)), Tone::Plain),
            print.cell(shown(known.last().copied()), Tone::Plain),
            print.cell(sparkline(&points), Tone::Good),
        ]);
    }
    print.line(format!(
        "{} of {}, one point every {}",
        answer.series,
        answer.name,
        humantime::format_duration(Duration::from_millis(answer.step_ms))
    ))?;
    print.print(table, "Nothing was measured in this time.")?;
    if gaps > 0 {
        print.line(format!(
            "· is a gap: nothing was measured there ({gaps} points)"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use protocol::id::NodeId;

    use super::*;
    use crate::operation::view::series::ValueView;

    /// Asks a node that has values from the `empty`th answer on, and says how
    /// many came and after how long.
    async fn ask(empty: usize) -> (usize, Duration) {
        let asked = Cell::new(0);
        let answer = async || {
            asked.set(asked.get() + 1);
            let value = ValueView {
                series: "load.1m".to_owned(),
                of: String::new(),
                unit: String::new(),
                value: 1.0,
                at: Stamp(protocol::time::UnixMillis(0)),
            };
            Ok(LastValues {
                node: NodeId::NIL,
                name: "web-1".to_owned(),
                values: vec![value; usize::from(asked.get() > empty)],
            })
        };
        let before = Instant::now();
        let values = first_values(answer).await.unwrap();
        (values.values.len(), before.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn first_values_are_waited_for_and_not_for_ever() {
        assert_eq!(ask(0).await, (1, Duration::ZERO));
        assert_eq!(ask(4).await, (1, FIRST_VALUES_PAUSE * 4));
        assert_eq!(ask(usize::MAX).await, (0, FIRST_VALUES_MAX));
    }
}
