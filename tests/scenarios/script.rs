//! Reads a script and has the world do what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use controller::domain::rollout::ask::{Experts, RolloutAsk};
use controller::domain::rollout::event::AfterAbort;
use controller::domain::rollout::machine::BreakerAction;
use controller::domain::rollout::params::Params;
use controller::domain::rollout::target::FailureClass;
use protocol::label::Labels;

use super::world::World;

/// The story of a script.
pub(crate) fn tell(script: &str) -> String {
    let mut params = Params::default();
    let mut nodes: BTreeMap<u16, Labels> = BTreeMap::new();
    let mut lines = script.lines();
    let mut world: Option<World> = None;
    while let Some(line) = lines.next() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), &mut world) {
            ([], _) => {}
            (["nodes", count, rest @ ..], None) => {
                for number in 1..=parsed::<u16>(count) {
                    nodes.insert(number, labels(rest, usize::from(number) - 1));
                }
            }
            (["rollout"], None) => {
                let table: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != "end").collect();
                params = read_params(&table.join("\n"));
            }
            (["start"], None) => world = Some(World::start(&params, &nodes)),
            (_, None) => panic!("{line:?} comes before the start"),
            (words, Some(world)) => act(world, words, &nodes),
        }
    }
    world.expect("the script starts the rollout").told
}

fn act(world: &mut World, words: &[&str], nodes: &BTreeMap<u16, Labels>) {
    if !matches!(words, ["pass" | "quiet" | "plan" | "show", ..]) {
        world.say(&format!("> {}", words.join(" ")));
    }
    match words {
        ["plan"] => world.plan(),
        ["show"] => world.show(),
        ["quiet"] => world.quiet = true,
        ["pass", time] => world.pass(duration(time)),
        ["bad", share] if share.ends_with('%') => {
            let percent: u16 = parsed(share.trim_end_matches('%'));
            let all = u16::try_from(nodes.len()).unwrap();
            for number in (1..=all).filter(|n| (n * percent) % 100 < percent) {
                world.fails(number, FailureClass::Failed);
            }
        }
        ["bad", rest @ ..] => {
            let named = |word: &str| FailureClass::ALL.iter().find(|(_, name)| *name == word);
            let class = rest.last().and_then(|word| named(word));
            let named_count = rest.len() - usize::from(class.is_some());
            for number in numbers(&rest[..named_count]) {
                world.fails(
                    number,
                    class.map_or(FailureClass::Failed, |(class, _)| *class),
                );
            }
        }
        ["good", rest @ ..] => numbers(rest).for_each(|n| world.succeeds(n)),
        ["mute", rest @ ..] => numbers(rest).for_each(|n| world.mute(n)),
        ["away", rest @ ..] => numbers(rest).for_each(|n| world.link(n, false)),
        ["back", rest @ ..] => numbers(rest).for_each(|n| world.link(n, true)),
        ["degrade", rest @ ..] => numbers(rest).for_each(|n| world.degrade(n)),
        ["join", node, rest @ ..] => world.join(number(node), labels(rest, 0)),
        ["leave", node] => world.leave(number(node)),
        ["approve", "by", who] => world.approve(who),
        ["pause"] => world.pause(),
        ["resume"] => world.resume(),
        ["abort", "keep"] => world.abort(AfterAbort::Keep),
        ["abort", "revert"] => world.abort(AfterAbort::Revert),
        ["trip", "halt"] => world.trip(BreakerAction::Halt, &[]),
        ["trip", "hold"] => world.trip(BreakerAction::Hold, &[]),
        ["half_open", nodes @ ..] => {
            let probes: Vec<u16> = numbers(nodes).collect();
            world.trip(BreakerAction::Hold, &probes);
        }
        ["reset"] => world.reset(),
        other => panic!("{other:?} is nothing that can happen"),
    }
}

fn read_params(table: &str) -> Params {
    let ask: RolloutAsk = toml::from_str(table).expect("the table is TOML");
    ask.check(Experts::Absent).expect("the parameters are good")
}

/// `site=lyon,paris`: the values take turns.
fn labels(words: &[&str], turn: usize) -> Labels {
    let pairs = words.iter().map(|word| {
        let (key, values) = word.split_once('=').expect("key=value");
        let values: Vec<&str> = values.split(',').collect();
        (key.to_owned(), values[turn % values.len()].to_owned())
    });
    Labels::from_pairs(pairs).expect("labels are good")
}

fn numbers<'a>(words: &'a [&'a str]) -> impl Iterator<Item = u16> + 'a {
    words.iter().map(|word| number(word))
}

fn number(word: &str) -> u16 {
    parsed(word.strip_prefix('n').expect("a node is n and a number"))
}

fn parsed<T: std::str::FromStr>(word: &str) -> T {
    word.parse()
        .unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn duration(word: &str) -> Duration {
    let (number, unit) = word.split_at(word.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("{word:?} is no time"),
    };
    Duration::from_secs(parsed::<u64>(number) * seconds)
}
