//! The table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::breaker::Stop;
use crate::fleet::{Case, End};

/// One way over the seeds of one case.
pub(crate) struct Row {
    way: &'static str,
    nodes: u16,
    bad_permille: u32,
    ends: Vec<End>,
}

impl Row {
    pub(crate) fn new(way: &'static str, cases: &[Case], ends: Vec<End>) -> Self {
        let case = cases.first();
        Self {
            way,
            nodes: case.map_or(0, |case| case.nodes),
            bad_permille: case.map_or(0, |case| case.bad_permille),
            ends,
        }
    }
}

/// The rows as Markdown: one table of bad revisions, one of good ones.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| nodes | fails on | judged by | stopped | nodes that got it: median (p10 to p90), mean | of these it failed on, mean | first failure to the last node at rest: median (p10 to p90) |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.bad_permille > 0) {
        let told: Vec<u32> = row.ends.iter().map(|end| end.told).collect();
        let bad: Vec<u32> = row.ends.iter().map(|end| end.bad).collect();
        let quiet: Vec<u32> = row
            .ends
            .iter()
            .filter_map(|end| end.first_failure_to_quiet)
            .map(seconds)
            .collect();
        line(
            &mut text,
            &[
                row.nodes.to_string(),
                format!("{} %", row.bad_permille / 10),
                row.way.to_owned(),
                share(&row.ends),
                format!("{}, {:.0}", spread(told.clone()), mean(&told)),
                format!("{:.1}", mean(&bad)),
                format!("{} s", spread(quiet)),
            ],
        );
    }
    text.push_str(
        "\n| nodes | a good revision, judged by | stopped without reason | a whole rollout takes: median |\n\
         |---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.bad_permille == 0) {
        let mut took: Vec<u32> = row
            .ends
            .iter()
            .filter(|end| !end.halted)
            .map(|end| seconds(end.took))
            .collect();
        took.sort_unstable();
        let median = f64::from(at(&took, 50)) / 60.0;
        line(
            &mut text,
            &[
                row.nodes.to_string(),
                row.way.to_owned(),
                format!("{} of {}", halted(&row.ends), row.ends.len()),
                format!("{median:.1} min"),
            ],
        );
    }
    text
}

/// The stops by the fleet's breaker as Markdown, by nodes and by what is lost of
/// broadcasts, in a thousand.
pub(crate) fn stops(rows: &[(u16, u32, Vec<Stop>)]) -> String {
    let mut text = String::from(
        "\n| nodes | broadcasts lost | nodes changed before the trip: median (p10 to p90) | first failure to trip | trip to last refusal | first failure to last refusal |\n\
         |---|---|---|---|---|---|\n",
    );
    for (nodes, lost, stops) in rows {
        let of = |pick: fn(&Stop) -> Duration| {
            let tenths = |time: Duration| u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX);
            let mut values: Vec<u32> = stops.iter().map(|stop| tenths(pick(stop))).collect();
            values.sort_unstable();
            let figure = |percent| f64::from(at(&values, percent)) / 10.0;
            format!(
                "{:.1} ({:.1} to {:.1}) s",
                figure(50),
                figure(10),
                figure(90)
            )
        };
        line(
            &mut text,
            &[
                nodes.to_string(),
                format!("{} %", lost / 10),
                spread(stops.iter().map(|stop| stop.told).collect()),
                of(|stop| stop.to_trip),
                of(|stop| stop.to_refusal),
                of(|stop| stop.to_trip + stop.to_refusal),
            ],
        );
    }
    text
}

fn line(text: &mut String, cells: &[String]) {
    // Writing into a string cannot fail.
    let _written = writeln!(text, "| {} |", cells.join(" | "));
}

fn halted(ends: &[End]) -> usize {
    ends.iter().filter(|end| end.halted).count()
}

fn share(ends: &[End]) -> String {
    format!("{} of {}", halted(ends), ends.len())
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn mean(values: &[u32]) -> f64 {
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let count = u32::try_from(values.len().max(1)).unwrap_or(u32::MAX);
    sum / f64::from(count)
}

fn spread(mut values: Vec<u32>) -> String {
    values.sort_unstable();
    format!(
        "{} ({} to {})",
        at(&values, 50),
        at(&values, 10),
        at(&values, 90)
    )
}

/// The value below which so many percent lie; the values are sorted.
fn at(values: &[u32], percent: usize) -> u32 {
    let index = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(0)
}
