//! Deployments and rollouts at the desk, with nodes that obey or fail as they are
//! told, and an engine that records whatever the desk decides.

use std::collections::BTreeMap;

use protocol::deployment::desired::{Cause, Commit, Desired, Want};
use protocol::deployment::observed::{ChangeOutcome, DeploymentResult, DeploymentState, Phase};
use protocol::deployment::spec::{Image, Service, Spec};
use protocol::id::{DeploymentId, RolloutId};
use protocol::selector::Selector;

use super::*;
use crate::domain::deployment::apply::candidates;
use crate::domain::deployment::event::{ApplyCause, DeploymentApplied, DeploymentRemoved};
use crate::domain::deployment::spec_digest;
use crate::domain::fleet::cordon;
use crate::domain::rollout::event::{
    AfterAbort, Kind as RolloutKind, Outcome as End, RolloutAborted, RolloutStarted,
};
use crate::domain::rollout::params::{Approve, CommitMode, OnHalt, OnInconclusive, Params};
use crate::domain::rollout::plan::{Candidate, Plan};
use crate::uplink::intake::StoredWant;

pub(super) const WEB: DeploymentId = DeploymentId::from_bytes([0xde; 10]);

/// A node that keeps what a real one keeps of its orders.
pub(super) struct Host {
    pub(super) node: Node,
    /// What it is to run, by deployment; none is nothing.
    pub(super) level: BTreeMap<DeploymentId, Option<u32>>,
    /// Every order that it took, in the order in which they came.
    pub(super) orders: Vec<Desired>,
    seq: u64,
    seen: u64,
    /// Whether changes to this revision fail on it.
    pub(super) fails: Option<u32>,
    pub(super) away: bool,
}

/// Nodes, and the engine around the desk.
pub(super) struct Fleetlet {
    pub(super) world: World,
    pub(super) hosts: Vec<Host>,
}

fn spec(tag: u32) -> Spec {
    let service = Service {
        image: Image {
            reference: format!("docker.io/library/web:{tag}"),
            ..Image::default()
        },
        ..Service::default()
    };
    Spec {
        services: [("web".to_owned(), service)].into(),
        ..Spec::default()
    }
}

/// Waves without a soak, so that tests take seconds of played time.
pub(super) fn quick() -> Params {
    let mut params = Params::default();
    for wave in &mut params.waves {
        wave.soak_ms = 2_000;
    }
    params
}

impl Fleetlet {
    pub(super) fn new(count: u8) -> Self {
        let mut world = World::new();
        let hosts = (1..=count).map(|number| Host {
            node: world.join(number),
            level: BTreeMap::new(),
            orders: Vec::new(),
            seq: 0,
            seen: 0,
            fails: None,
            away: false,
        });
        let mut hosts: Vec<Host> = hosts.collect();
        for host in &mut hosts {
            world.connect(&mut host.node);
        }
        Self { world, hosts }
    }

    pub(super) fn apply(&mut self, revision: u32, selector: &str, params: Params) -> RolloutId {
        self.start(revision, selector, params, RolloutKind::Forward)
    }

    /// Applies what passes for an earlier revision.
    pub(super) fn roll_back(&mut self, revision: u32, params: Params) -> RolloutId {
        self.start(revision, "*", params, RolloutKind::Rollback)
    }

    fn start(
        &mut self,
        revision: u32,
        selector: &str,
        params: Params,
        kind: RolloutKind,
    ) -> RolloutId {
        let selector: Selector = selector.parse().unwrap();
        let rollout = RolloutId::from_bytes([u8::try_from(revision).unwrap(); 10]);
        self.world
            .record(Event::DeploymentApplied(DeploymentApplied {
                deployment: WEB,
                number: 1,
                name: "web".to_owned(),
                revision,
                selector: selector.clone(),
                within: Vec::new(),
                digest: spec_digest(&spec(revision)),
                spec: Box::new(spec(revision)),
                cause: ApplyCause::Apply,
            }));
        let fleet = self.world.fleet.clone();
        let candidates: Vec<Candidate<'_>> = candidates(&fleet, &selector, kind)
            .map(|node| Candidate {
                node: node.id,
                labels: &node.labels,
                present: true,
            })
            .collect();
        let plan = Plan::new(rollout.as_bytes(), &params, &candidates);
        let targets = plan.waves.iter().flatten().map(|member| member.node);
        self.world.record_for(
            Event::RolloutStarted(RolloutStarted {
                rollout,
                deployment: WEB,
                revision,
                kind,
                params,
                waves: plan.sizes(),
                plan_digest: plan.digest(),
            }),
            targets.collect(),
        );
        rollout
    }

    /// Lets time pass: nodes obey, the engine records.
    pub(super) fn play(&mut self, seconds: u64) {
        for second in 0..seconds {
            self.world.wait(1);
            self.record_decisions();
            for index in 0..self.hosts.len() {
                self.obey(index, second % 15 == 0);
            }
            self.record_decisions();
        }
    }

    fn record_decisions(&mut self) {
        for event in std::mem::take(&mut self.world.events) {
            if let DeskEvent::DrainOver(end) = &event {
                let ended = cordon::end_drain(&self.world.fleet, end);
                for event in ended.unwrap_or_default() {
                    self.world.record(event);
                }
                continue;
            }
            let DeskEvent::Decided(decision) = event else {
                self.world.events.push(event);
                continue;
            };
            let known = self.world.fleet.rollouts().get(decision.rollout());
            if known.is_some_and(|known| known.course.check(&decision).is_ok()) {
                self.world.record((*decision).into());
            }
        }
    }

    fn obey(&mut self, index: usize, beats: bool) {
        let Some(host) = self.hosts.get_mut(index) else {
            return;
        };
        let told = self.world.told(&host.node);
        if host.away {
            return;
        }
        let mut entries = Vec::new();
        for heard in told {
            let Heard::Down(down) = heard else { continue };
            host.seen = host.seen.max(down.number);
            let DownBody::Desired(desired) = down.body else {
                continue;
            };
            assert!(
                desired.generation > host.node.generation || host.orders.contains(&desired),
                "two orders have one generation"
            );
            if desired.generation <= host.node.generation {
                continue;
            }
            host.node.generation = desired.generation;
            host.seq += 1;
            entries.push(host.result(&desired));
            host.orders.push(*desired);
        }
        let now = self.world.now;
        let mut deliveries = Vec::new();
        if !entries.is_empty() {
            let after = host.seq - entries.len() as u64;
            deliveries.push(host.node.upload(Stream::Control, after, entries, now));
        }
        if beats {
            deliveries.push(host.node.heartbeat(host.seen, now));
        }
        if !deliveries.is_empty() {
            self.world.deliver(deliveries);
        }
    }

    pub(super) fn back(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.away = false;
        host.seen = 0;
        // What was sent to nobody is gone.
        self.world.told(&host.node);
        host.node.acked = host.node.last;
        let hello = host.node.hello(self.world.now);
        self.world.deliver(vec![hello]);
    }

    /// The revision that each node is to run.
    pub(super) fn levels(&self) -> Vec<Option<u32>> {
        self.hosts
            .iter()
            .map(|host| host.level.get(&WEB).copied().flatten())
            .collect()
    }

    pub(super) fn end_of(&self, rollout: RolloutId) -> Option<End> {
        let known = self.world.fleet.rollouts().get(rollout)?;
        known.course.finished.as_ref().map(|end| end.outcome)
    }
}

impl Host {
    /// Carries an order out, and says how it ended.
    fn result(&mut self, desired: &Desired) -> Entry {
        let revision = match &desired.want {
            Want::Run(target) => Some(target.revision),
            Want::Remove | Want::Update(_) => None,
        };
        let fails = revision.is_some() && revision == self.fails;
        let rollout = match &desired.want {
            Want::Run(target) => target.rollout,
            Want::Remove | Want::Update(_) => None,
        };
        let had = self.level.get(&desired.deployment).copied().flatten();
        let outcome = match (fails, had) {
            (false, _) => {
                self.level.insert(desired.deployment, revision);
                ChangeOutcome::Succeeded
            }
            (true, Some(_)) => ChangeOutcome::Reverted,
            (true, None) => ChangeOutcome::Failed,
        };
        let result = DeploymentResult {
            deployment: desired.deployment,
            generation: desired.generation,
            revision,
            rollout,
            outcome,
            code: fails.then(|| "workload.exited".to_owned()),
            policy_epoch: 0,
            detail: String::new(),
            at: START,
        };
        entry(self.seq, EntryKind::DEPLOYMENT_RESULT, &result)
    }
}

#[test]
fn a_rollout_goes_wave_by_wave_and_settles() {
    let mut fleet = Fleetlet::new(6);
    let rollout = fleet.apply(1, "*", quick());
    fleet.play(2);
    let told = fleet.hosts.iter().filter(|host| !host.orders.is_empty());
    assert_eq!(told.count(), 1, "a canary alone");
    fleet.play(240);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1); 6]);
    let deployment = fleet.world.fleet.deployments().get(WEB).unwrap();
    assert_eq!(deployment.settled, Some(1));
    let order = &fleet.hosts[0].orders[0];
    let Want::Run(target) = &order.want else {
        panic!("{order:?}");
    };
    assert_eq!(target.spec, spec(1));
    assert_eq!(
        (target.cause, target.commit),
        (Cause::Change, Commit::WhenHealthy)
    );
    assert_eq!(
        (order.generation, order.number, order.name.as_str()),
        (1, 1, "web")
    );
    let status = fleet.world.desk.board().rollout(rollout).unwrap();
    let succeeded = status.waves.iter().flat_map(|wave| wave.get("succeeded"));
    assert_eq!(succeeded.sum::<u32>(), 6);
    let ended = &fleet.world.desk.stats().rollouts_ended;
    let (count, took) = ended["completed"];
    assert_eq!(count, 1);
    assert!(took >= Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_bad_revision_stops_at_the_canary_and_goes_back() {
    let mut fleet = Fleetlet::new(6);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    for host in &mut fleet.hosts {
        host.fails = Some(2);
    }
    let params = Params {
        on_halt: OnHalt::Revert,
        ..quick()
    };
    let rollout = fleet.apply(2, "*", params);
    fleet.play(120);
    assert_eq!(fleet.end_of(rollout), Some(End::Reverted));
    assert_eq!(fleet.levels(), [Some(1); 6]);
    let tried = |host: &&Host| {
        host.orders.iter().any(|order| match &order.want {
            Want::Run(target) => target.revision == 2,
            Want::Remove | Want::Update(_) => false,
        })
    };
    assert_eq!(fleet.hosts.iter().filter(tried).count(), 1);
    // What the canary is to have is what it has: its store may be lost.
    let canary = fleet.hosts.iter().find(tried).unwrap().node.id;
    let item = fleet.world.desk.intake.desired_on(WEB, canary).unwrap();
    assert_eq!(item.unwrap().want.revision(), Some(1));
    // And why it failed is still known.
    let why = fleet.world.desk.intake.result(rollout, canary).unwrap();
    assert_eq!(why.unwrap().result.code.as_deref(), Some("workload.exited"));
    let deployment = fleet.world.fleet.deployments().get(WEB).unwrap();
    assert_eq!(deployment.settled, Some(1));
}

#[test]
fn a_first_revision_that_fails_is_taken_away_again() {
    let mut fleet = Fleetlet::new(3);
    for host in &mut fleet.hosts {
        host.fails = Some(1);
    }
    let params = Params {
        on_halt: OnHalt::Revert,
        ..quick()
    };
    let rollout = fleet.apply(1, "*", params);
    fleet.play(120);
    assert_eq!(fleet.end_of(rollout), Some(End::Reverted));
    assert_eq!(fleet.levels(), [None; 3]);
    let orders = fleet.hosts.iter().flat_map(|host| &host.orders);
    let last = orders.last().unwrap();
    assert_eq!(last.want, Want::Remove);
}

#[test]
fn a_controller_that_restarts_in_mid_wave_goes_on() {
    let mut fleet = Fleetlet::new(6);
    let rollout = fleet.apply(1, "*", quick());
    for _ in 0..12 {
        fleet.play(7);
        fleet.world.restart();
        for index in 0..fleet.hosts.len() {
            fleet.back(index);
        }
    }
    fleet.play(240);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1); 6]);
    for host in &fleet.hosts {
        assert_eq!(host.orders.len(), 1, "nobody was told twice");
    }
}

#[test]
fn who_was_away_gets_the_level_in_the_order_of_generations() {
    let mut fleet = Fleetlet::new(4);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.hosts[3].away = true;
    // Its link is down before the next revision.
    fleet.play(90);
    // A wave of nothing but the one that is away proves nothing.
    let params = Params {
        on_inconclusive: OnInconclusive::Continue,
        ..quick()
    };
    let rollout = fleet.apply(2, "*", params);
    fleet.play(900);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(2), Some(2), Some(2), Some(1)]);
    fleet.back(3);
    fleet.play(60);
    assert_eq!(fleet.levels(), [Some(2); 4]);
    let generations: Vec<u64> = fleet.hosts[3]
        .orders
        .iter()
        .map(|order| order.generation)
        .collect();
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");

    // A node that holds the newest generation is told nothing.
    let before = fleet.hosts[3].orders.len();
    fleet.back(3);
    fleet.play(20);
    assert_eq!(fleet.hosts[3].orders.len(), before);

    // A node whose store is new is told everything.
    fleet.hosts[3].node.generation = 0;
    fleet.hosts[3].level.clear();
    fleet.hosts[3].node.store = StoreId::from_bytes([0x77; 10]);
    fleet.hosts[3].node.last = [0; 4];
    fleet.hosts[3].node.acked = [0; 4];
    fleet.hosts[3].seq = 0;
    fleet.hosts[3].orders.clear();
    fleet.back(3);
    fleet.play(20);
    assert_eq!(fleet.levels(), [Some(2); 4]);
}

#[test]
fn a_node_that_joins_or_is_relabelled_later_gets_what_it_should() {
    let mut fleet = Fleetlet::new(3);
    let relabel = |fleet: &mut Fleetlet, index: usize, site: &str| {
        let node = fleet.hosts[index].node.id;
        let labels = Labels::from_pairs([("site".to_owned(), site.to_owned())]).unwrap();
        fleet
            .world
            .record(Event::NodeRelabelled(NodeRelabelled { node, labels }));
    };
    relabel(&mut fleet, 0, "lyon");
    relabel(&mut fleet, 1, "lyon");
    relabel(&mut fleet, 2, "paris");
    let rollout = fleet.apply(1, "site=lyon", quick());
    fleet.play(240);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1), Some(1), None]);
    relabel(&mut fleet, 2, "lyon");
    fleet.play(60);
    assert_eq!(fleet.levels(), [Some(1); 3]);
    relabel(&mut fleet, 0, "paris");
    fleet.play(60);
    assert_eq!(fleet.levels(), [None, Some(1), Some(1)]);
    assert_eq!(fleet.hosts[0].orders.last().unwrap().want, Want::Remove);
    relabel(&mut fleet, 0, "lyon");
    fleet.play(60);
    assert_eq!(fleet.levels(), [Some(1); 3]);

    let number = 9;
    let node = fleet.world.join(number);
    fleet.hosts.push(Host {
        node,
        level: BTreeMap::new(),
        orders: Vec::new(),
        seq: 0,
        seen: 0,
        fails: None,
        away: false,
    });
    relabel(&mut fleet, 3, "lyon");
    fleet.back(3);
    fleet.play(60);
    assert_eq!(fleet.levels(), [Some(1); 4]);
}

#[test]
fn who_comes_back_during_a_rollout_that_is_aborted_gets_what_was_before() {
    let mut fleet = Fleetlet::new(3);
    fleet.hosts[2].away = true;
    fleet.play(90);
    let params = Params {
        on_inconclusive: OnInconclusive::Continue,
        ..quick()
    };
    let first = fleet.apply(1, "*", params);
    fleet.play(900);
    assert_eq!(fleet.end_of(first), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1), Some(1), None]);
    // The next one waits for a person before it begins, and is given up.
    let mut params = quick();
    params.waves[0].approve = Approve::Human;
    let second = fleet.apply(2, "*", params);
    fleet.play(5);
    fleet.back(2);
    fleet.play(20);
    assert_eq!(fleet.levels(), [Some(1), Some(1), None]);
    let step = fleet
        .world
        .fleet
        .rollouts()
        .get(second)
        .unwrap()
        .course
        .step;
    fleet.world.record(Event::RolloutAborted(RolloutAborted {
        rollout: second,
        step,
        reason: String::new(),
        then: AfterAbort::Keep,
    }));
    fleet.play(60);
    assert_eq!(fleet.end_of(second), Some(End::Aborted));
    assert_eq!(fleet.levels(), [Some(1); 3]);
}

#[test]
fn a_deployment_that_is_being_removed_comes_to_nobody_after_a_restart() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet
        .world
        .record(Event::DeploymentRemoved(DeploymentRemoved {
            deployment: WEB,
        }));
    fleet.world.restart();
    let node = fleet.world.join(7);
    fleet.hosts.push(Host {
        node,
        level: BTreeMap::new(),
        orders: Vec::new(),
        seq: 0,
        seen: 0,
        fails: None,
        away: false,
    });
    for index in 0..3 {
        fleet.back(index);
    }
    fleet.play(60);
    assert_eq!(fleet.levels(), [None; 3]);
    assert!(fleet.hosts[2].orders.is_empty());
}

#[test]
fn nodes_that_a_new_selector_leaves_out_lose_the_deployment_in_the_end() {
    let mut fleet = Fleetlet::new(3);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    let rollout = fleet.apply(2, "name=node-1", quick());
    fleet.play(120);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(2), None, None]);
}

#[test]
fn a_removal_goes_in_waves() {
    let mut fleet = Fleetlet::new(12);
    fleet.apply(1, "*", quick());
    fleet.play(400);
    assert_eq!(fleet.levels(), [Some(1); 12]);
    let removed = DeploymentRemoved { deployment: WEB };
    fleet.world.record(Event::DeploymentRemoved(removed));
    let mut gone = Vec::new();
    for _ in 0..60 {
        fleet.play(1);
        let count = fleet.levels().iter().filter(|it| it.is_none()).count();
        if gone.last() != Some(&count) {
            gone.push(count);
        }
    }
    // The canary, a tenth and more, 30 %, and the rest.
    assert_eq!(gone, [2, 4, 8, 12]);
}

#[test]
fn a_removed_deployment_goes_from_every_node_and_is_gone() {
    let mut fleet = Fleetlet::new(4);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    fleet.hosts[3].away = true;
    fleet.play(90);
    fleet
        .world
        .record(Event::DeploymentRemoved(DeploymentRemoved {
            deployment: WEB,
        }));
    fleet.play(60);
    assert_eq!(fleet.levels(), [None, None, None, Some(1)]);
    assert!(fleet.world.events.contains(&DeskEvent::Gone(WEB)));
    let kept = fleet.world.desk.intake.desired_of(WEB, None, 10).unwrap();
    let kept: Vec<_> = kept.into_iter().map(|(node, it)| (node, it.want)).collect();
    let away = fleet.hosts[3].node.id;
    assert_eq!(kept, [(away, StoredWant::Remove { rollout: None })]);

    // It is forgotten, the controller starts again, and the node comes back.
    fleet.world.record(Event::DeploymentForgotten(
        crate::domain::deployment::event::DeploymentForgotten { deployment: WEB },
    ));
    fleet.world.restart();
    for index in 0..4 {
        fleet.back(index);
    }
    fleet.play(30);
    assert_eq!(fleet.levels(), [None; 4]);
    assert!(
        fleet
            .world
            .desk
            .intake
            .desired_of(WEB, None, 10)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_controller_that_was_restored_goes_above_what_nodes_have_obeyed() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    // The node has obeyed more than this controller remembers.
    fleet.hosts[0].node.generation = 40;
    fleet.hosts[0].level.insert(WEB, Some(7));
    fleet.back(0);
    fleet.play(30);
    assert_eq!(fleet.levels(), [Some(1); 2]);
    let last = fleet.hosts[0].orders.last().unwrap();
    assert_eq!(last.generation, 41);
    // And stays above it over a restart.
    fleet.world.restart();
    fleet.back(0);
    fleet.back(1);
    let rollout = fleet.apply(2, "*", quick());
    fleet.play(240);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.hosts[0].orders.last().unwrap().generation, 42);
}

#[test]
fn many_that_come_back_at_once_are_served_at_a_bounded_rate() {
    let mut fleet = Fleetlet::new(200);
    let mut params = quick();
    params.rate.base_per_min = 10_000;
    params.rate.max_per_min = 10_000;
    fleet.apply(1, "*", params);
    fleet.play(300);
    assert_eq!(fleet.levels(), vec![Some(1); 200]);
    for host in &mut fleet.hosts {
        host.node.generation = 0;
        host.orders.clear();
    }
    let hellos: Vec<Delivery> = fleet
        .hosts
        .iter_mut()
        .map(|host| {
            host.node.acked = host.node.last;
            host.node.hello(fleet.world.now)
        })
        .collect();
    fleet.world.heard.clear();
    fleet.world.deliver(hellos);
    let told = |fleet: &Fleetlet| {
        let orders = fleet.world.heard.iter();
        orders
            .filter(|(_, heard)| matches!(heard, Heard::Down(down) if matches!(down.body, DownBody::Desired(_))))
            .count()
    };
    assert!(told(&fleet) <= 50, "{}", told(&fleet));
    fleet.world.wait(1);
    assert!(told(&fleet) <= 100, "{}", told(&fleet));
    for _ in 0..4 {
        fleet.world.wait(1);
    }
    assert_eq!(told(&fleet), 200);
}

#[test]
fn a_node_in_doubt_gets_no_change_until_it_is_resolved() {
    let mut fleet = Fleetlet::new(2);
    fleet.apply(1, "*", quick());
    fleet.play(240);
    let node = fleet.hosts[1].node.id;
    fleet
        .world
        .record(Event::IdentitySuspected(IdentitySuspected {
            node,
            doubt: Doubt::CounterReused,
            detail: String::new(),
        }));
    fleet.hosts[1].node.generation = 0;
    fleet.hosts[1].orders.clear();
    fleet.back(1);
    fleet.play(30);
    assert!(fleet.hosts[1].orders.is_empty());
    fleet
        .world
        .record(Event::IdentityResolved(IdentityResolved {
            node,
            note: String::new(),
        }));
    fleet.play(5);
    assert_eq!(fleet.hosts[1].orders.len(), 1);
}

#[test]
fn nothing_is_sent_while_the_store_cannot_be_written() {
    let mut fleet = Fleetlet::new(3);
    fleet.world.disk.full.store(true, Ordering::Relaxed);
    let rollout = RolloutId::from_bytes([1; 10]);
    fleet.apply(1, "*", quick());
    fleet.play(10);
    assert!(fleet.hosts.iter().all(|host| host.orders.is_empty()));
    assert!(fleet.world.desk.intake.rollouts().is_err() || fleet.end_of(rollout).is_none());
    fleet.world.disk.full.store(false, Ordering::Relaxed);
    // The records come again, as the task reads them again.
    let records = fleet.world.missed();
    for (record, targets) in records {
        let output = fleet
            .world
            .desk
            .record(vec![Recorded { record, targets }], fleet.world.now);
        fleet.world.hear(output);
    }
    for index in 0..3 {
        fleet.back(index);
    }
    fleet.play(240);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    assert_eq!(fleet.levels(), [Some(1); 3]);
}

#[test]
fn at_a_barrier_nodes_commit_together() {
    let mut fleet = Fleetlet::new(3);
    let params = Params {
        commit: CommitMode::Barrier,
        ..quick()
    };
    let rollout = fleet.apply(1, "*", params);
    fleet.play(300);
    assert_eq!(fleet.end_of(rollout), Some(End::Completed));
    for host in &fleet.hosts {
        let commits: Vec<Commit> = host
            .orders
            .iter()
            .filter_map(|order| match &order.want {
                Want::Run(target) => Some(target.commit),
                Want::Remove | Want::Update(_) => None,
            })
            .collect();
        assert_eq!(commits, [Commit::Barrier, Commit::WhenHealthy]);
    }
}

#[test]
fn a_report_of_an_older_order_counts_no_more() {
    let mut fleet = Fleetlet::new(1);
    fleet.apply(1, "*", quick());
    fleet.play(120);
    let rollout = fleet.apply(2, "*", quick());
    fleet.world.wait(1);
    fleet.record_decisions();
    fleet.world.wait(1);
    let state = DeploymentState {
        deployment: WEB,
        number: 1,
        generation: 1,
        wanted: Some(1),
        current: Some(1),
        phase: Phase::Running,
        since: START,
        code: None,
        detail: String::new(),
        workloads: Vec::new(),
        drift: Vec::new(),
    };
    let item = StateItem {
        at: START,
        value: StateValue::Deployment(Box::new(state)),
    };
    let host = &mut fleet.hosts[0];
    let old = host.node.upload(
        Stream::State,
        0,
        vec![entry(1, EntryKind::STATE, &item)],
        fleet.world.now,
    );
    fleet.world.deliver(vec![old]);
    let rows = fleet.world.desk.intake.rollout_targets_all(rollout);
    let rows: BTreeMap<NodeId, _> = rows.unwrap().into_iter().collect();
    assert_eq!(rows[&fleet.hosts[0].node.id].state.name(), "sent");
}
