//! How many nodes a bad revision reaches before a rollout stops, and how often a
//! good one is stopped without reason.
//!
//! The controller's own machine runs with its default parameters over simulated
//! nodes in simulated time. Beside it, over the same nodes, seeds, waves and
//! pace, run two other ways of judging ([`rival`]): an abort by a percentage once
//! ten nodes have ended, as AWS IoT Jobs has it, and gates at the end of a batch,
//! as flightctl has them.
//!
//! ```sh
//! cargo run --release -p system-tests --bin bench-rollouts
//! ```
//!
//! After them comes the fleet's own breaker ([`breaker`]), below the rollouts.
//!
//! A node takes 20 to 90 seconds from being told to its result. One on which the
//! revision is bad fails, after 10 to 90 seconds; every hundredth node fails
//! whatever it is given. The same seed gives a node the same fate under each way.

mod breaker;
mod fleet;
mod flotilla;
mod report;
mod rival;

use anyhow::Context as _;

use crate::fleet::Case;
use crate::report::{Row, stops, table};

/// The share of nodes, in a thousand, that fail whatever they are given.
const BACKGROUND_PERMILLE: u32 = 10;

/// Shares of nodes, in a thousand, on which a bad revision fails.
const BAD_PERMILLE: [u32; 3] = [50, 200, 600];

const NODES: [u16; 2] = [1000, 10_000];

const USAGE: &str = "usage: bench-rollouts [--seeds N] [--good-seeds N] [--only rollouts|breaker]";

fn main() -> anyhow::Result<()> {
    let mut seeds = 100;
    let mut good_seeds = 1000;
    let (mut rollouts, mut breaker) = (true, true);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        let number = value.parse().context(USAGE);
        match (argument.as_str(), value.as_str()) {
            ("--seeds", _) => seeds = number?,
            ("--good-seeds", _) => good_seeds = number?,
            ("--only", "rollouts") => breaker = false,
            ("--only", "breaker") => rollouts = false,
            _ => anyhow::bail!(USAGE),
        }
    }
    if rollouts {
        print(&rollout_tables(seeds, good_seeds))?;
    }
    if breaker {
        print(&stops(&breaker_stops(seeds)?))?;
    }
    Ok(())
}

/// Bad and good revisions under each way of judging.
fn rollout_tables(seeds: u64, good_seeds: u64) -> String {
    let mut rows = Vec::new();
    for nodes in NODES {
        for bad_permille in BAD_PERMILLE {
            rows.extend(measure(nodes, bad_permille, seeds));
        }
        rows.extend(measure(nodes, 0, good_seeds));
    }
    table(&rows)
}

/// Of a thousand broadcasts of a policy, how many do not reach their node.
const LOST_PERMILLE: [u32; 3] = [0, 10, 1000];

/// The fleet's breaker over the same seeds, by nodes and by what is lost.
fn breaker_stops(seeds: u64) -> anyhow::Result<Vec<(u16, u32, Vec<breaker::Stop>)>> {
    let mut rows = Vec::new();
    for nodes in NODES {
        let fleet = breaker::fleet(nodes)?;
        for lost in LOST_PERMILLE {
            let runs = (0..seeds).map(|seed| breaker::run(&fleet, lost, seed));
            rows.push((nodes, lost, runs.collect::<Result<_, _>>()?));
        }
    }
    Ok(rows)
}

/// Every way over the same seeds.
fn measure(nodes: u16, bad_permille: u32, seeds: u64) -> Vec<Row> {
    let cases: Vec<Case> = (0..seeds)
        .map(|seed| Case {
            nodes,
            bad_permille,
            background_permille: BACKGROUND_PERMILLE,
            seed,
        })
        .collect();
    let mut rows = vec![Row::new(
        "Flotilla, defaults",
        &cases,
        cases.iter().map(flotilla::run).collect(),
    )];
    for rival in rival::ALL {
        let ends = cases.iter().map(|case| rival.run(case)).collect();
        rows.push(Row::new(rival.name, &cases, ends));
    }
    rows
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
