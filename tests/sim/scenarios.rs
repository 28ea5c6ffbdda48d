//! Runs of the simulation: many seeds with everything going wrong, and a few
//! stories with one thing going wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use controller::domain::rollout::params::{Params, Rate, Wave};
use harness::sim::net::Weather;
use harness::{clock, say};
use protocol::deployment::desired::Want;

use super::faults::Faults;
use super::history;
use super::world::World;

const MINUTE: u64 = 60_000;

/// Simulated time with faults, and after them.
const TROUBLE: u64 = 12 * MINUTE;
const CALM: u64 = 8 * MINUTE;

/// Real time that the seeds may take together.
const BUDGET: Duration = Duration::from_secs(40);

/// Prints the seed when the run that it made fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("run it again with FLOTILLA_SEED={}", self.0));
        }
    }
}

/// Trouble, repair, calm, and then every invariant.
fn live_through(seed: u64) -> World {
    let _named = Seed(seed);
    let mut world = World::new(seed, 3);
    let mean = Duration::from_secs(4 + seed % 12);
    let mut faults = Faults::every(mean, world.chance.fork());
    world.run(TROUBLE, &mut faults);
    faults.end(&mut world);
    world.run(TROUBLE + CALM, &mut Faults::none());
    world.settle();
    history::check(&world);
    world
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_invariant_holds_for_every_seed() {
    if let Some(seed) = number("FLOTILLA_SEED") {
        live_through(seed);
        return;
    }
    let began = clock::now();
    let most = number("FLOTILLA_SEEDS").unwrap_or(200);
    let budget = if number("FLOTILLA_SEEDS").is_some() {
        Duration::MAX
    } else {
        BUDGET
    };
    let mut commands = 0;
    let mut done = 0;
    for seed in 1..=most {
        let world = live_through(seed);
        commands += world.history.issued.len();
        done += 1;
        if began.elapsed() > budget {
            break;
        }
    }
    say(&format!(
        "{done} seeds, {commands} commands, {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    assert!(commands > done, "the runs did too little");
}

#[test]
fn a_seed_makes_the_same_run() {
    assert_eq!(live_through(11).digest(), live_through(11).digest());
}

#[test]
fn a_message_dropped_in_a_live_session_is_repaired_within_a_heartbeat() {
    let mut world = World::new(5, 1);
    world.run(MINUTE, &mut Faults::none());
    assert!(world.hosts[0].link_up);
    let mut weather = Weather::FAIR;
    weather.lost = 1000;
    world.net.set(weather);
    world.issue(Some(0));
    world.run(MINUTE + 1_000, &mut Faults::none());
    assert!(world.hosts[0].effects.is_empty(), "the command was dropped");
    world.net.set(Weather::FAIR);
    // A heartbeat is every 15 s with a quarter of jitter.
    world.run(MINUTE + 22_000, &mut Faults::none());
    assert_eq!(world.hosts[0].effects.len(), 1, "the gap was repaired");
}

#[test]
fn an_hour_without_a_broker_costs_no_frame_and_no_command() {
    let mut world = World::new(6, 2);
    world.run(2 * MINUTE, &mut Faults::none());
    for index in 0..2 {
        world.cut(index);
    }
    world.run(62 * MINUTE, &mut Faults::none());
    assert!(!world.hosts[0].link_up);
    assert!(
        world.hosts[0].waiting(world.now) > 50,
        "an hour of frames waits"
    );
    for index in 0..2 {
        world.heal(index);
    }
    world.run(75 * MINUTE, &mut Faults::none());
    world.settle();
    history::check(&world);
}

#[test]
fn a_controller_restored_from_an_hour_ago_is_obeyed_and_says_what_it_lost() {
    let mut world = World::new(7, 2);
    let faults = &mut Faults::none();
    world.run(2 * MINUTE, faults);
    world.issue(None);
    world.run(4 * MINUTE, faults);
    let (journal, intake) = (world.machine.journal.copy(), world.machine.intake.copy());
    world.run(30 * MINUTE, faults);
    world.issue(None);
    world.run(64 * MINUTE, faults);
    let forgotten = world.history.issued.pop().expect("it was issued");
    let ran = world
        .hosts
        .iter()
        .filter(|h| h.effects.contains_key(&forgotten));
    assert_eq!(ran.count(), 2);

    world.restore(journal, intake);
    world.run(70 * MINUTE, faults);
    assert!(world.machine.lost > 0, "the hour is counted as lost");
    world.issue(None);
    world.run(80 * MINUTE, faults);
    for host in &world.hosts {
        assert!(host.link_up, "{} obeys the restored controller", host.id());
        let last = world.history.issued.last().expect("it was issued");
        assert_eq!(host.effects.get(last), Some(&1));
        assert_eq!(host.effects.get(&forgotten), Some(&1), "not again");
    }
    assert!(world.machine.suspected.is_empty());
}

#[test]
fn a_node_that_was_offline_through_a_whole_rollout_converges_when_it_is_back() {
    let mut world = World::new(9, 3);
    let faults = &mut Faults::none();
    world.run(MINUTE, faults);
    world.apply(None);
    world.run(12 * MINUTE, faults);
    world.cut(2);
    world.run(15 * MINUTE, faults);
    world.apply(None);
    world.run(27 * MINUTE, faults);
    let deployment = {
        let fleet = world.machine.live.as_ref().unwrap();
        assert_eq!(
            fleet.rollouts().open().count(),
            0,
            "it ended without the node"
        );
        fleet.deployments().named("app").unwrap().id
    };
    assert_eq!(world.hosts[2].holds(deployment, world.now).1, Some(1));
    world.heal(2);
    world.run(35 * MINUTE, faults);
    for host in &world.hosts {
        assert_eq!(
            host.holds(deployment, world.now).1,
            Some(2),
            "{}",
            host.id()
        );
    }
    world.settle();
    history::check(&world);
}

#[test]
fn a_bad_revision_halts_and_every_node_runs_the_one_before() {
    let mut world = World::new(10, 3);
    let faults = &mut Faults::none();
    world.run(MINUTE, faults);
    world.apply(None);
    world.run(12 * MINUTE, faults);
    world.apply(Some(0));
    world.run(24 * MINUTE, faults);
    let fleet = world.machine.live.as_ref().unwrap();
    let deployment = fleet.deployments().named("app").unwrap().id;
    assert_eq!(fleet.deployments().named("app").unwrap().settled, Some(1));
    let tried = world.hosts.iter().filter(|host| {
        host.ordered
            .values()
            .any(|order| matches!(&order.want, Want::Run(target) if target.revision == 2))
    });
    assert_eq!(tried.count(), 1, "the canary alone");
    for host in &world.hosts {
        assert_eq!(
            host.holds(deployment, world.now).1,
            Some(1),
            "{}",
            host.id()
        );
    }
    world.settle();
    history::check(&world);
}

#[test]
fn a_disk_that_was_put_back_is_noticed() {
    let mut world = World::new(8, 1);
    let faults = &mut Faults::none();
    world.run(2 * MINUTE, faults);
    let old = world.hosts[0].disk.copy();
    for _ in 0..20 {
        let (now, host) = (world.now, &mut world.hosts[0]);
        host.cut_power(now);
        world.break_connection(0);
        world.run(now + MINUTE, faults);
    }
    let now = world.now;
    world.hosts[0].cut_power(now);
    world.break_connection(0);
    world.hosts[0].disk = old;
    world.run(now + 5 * MINUTE, faults);
    assert!(
        !world.machine.suspected.is_empty(),
        "the old disk is noticed"
    );
}

/// The most of a list of moments that fall into one second.
fn peak(moments: impl Iterator<Item = u64>) -> usize {
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for moment in moments {
        *seconds.entry(moment / 1000).or_default() += 1;
    }
    seconds.into_values().max().unwrap_or(0)
}

/// A thousand nodes miss an order and come back at once: the controller hands it out
/// at a bounded rate, and what the nodes fetch is spread over more than that.
#[test]
fn a_thousand_nodes_that_come_back_behind_converge_without_a_stampede() {
    const HOSTS: usize = 1000;
    /// Fifty a second, and what was saved up in the second before.
    const HANDED_OUT_PER_S_MAX: usize = 100;
    /// A thousand over a minute are 17 a second; chance makes it more.
    const BEGUN_PER_S_MAX: usize = 50;
    let mut world = World::new(7, HOSTS);
    world.grain = 250;
    world.run(MINUTE, &mut Faults::none());
    assert!(world.hosts.iter().all(|host| host.link_up));
    for host in 0..HOSTS {
        world.cut(host);
    }
    let at_once = Params {
        waves: vec![Wave::default()],
        rate: Rate {
            base_per_min: 100_000,
            max_per_min: 100_000,
            ..Rate::default()
        },
        halt: Vec::new(),
        silent_deadline_ms: 60 * MINUTE,
        deadline_ms: 24 * 60 * MINUTE,
        ..Params::default()
    };
    // It would call a fleet back that falls silent after a change.
    world.machine.without_breaker(world.now);
    let revision = world.machine.apply_with(at_once, world.now);
    assert_eq!(revision, Some(1));
    world.run(5 * MINUTE, &mut Faults::none());
    assert!(world.hosts.iter().all(|host| host.begun.is_empty()));
    for host in 0..HOSTS {
        world.heal(host);
    }
    world.run(9 * MINUTE, &mut Faults::none());
    let begun = || world.hosts.iter().flat_map(|host| host.begun.values());
    let handed_out = peak(begun().map(|(taken, _)| *taken));
    let began = peak(begun().map(|(_, began)| *began));
    say(&format!(
        "{} orders were taken by up to {handed_out} nodes a second, and begun by up to {began}",
        begun().count()
    ));
    assert!(
        handed_out <= HANDED_OUT_PER_S_MAX,
        "{handed_out} in a second"
    );
    assert!(began <= BEGUN_PER_S_MAX, "{began} in a second");
    let late = world.hosts.iter().filter(|host| {
        let mut records = host.deployments();
        !records.any(|record| record.committed.as_ref().is_some_and(|it| it.revision == 1))
    });
    assert_eq!(late.count(), 0, "nodes that have not converged");
}
