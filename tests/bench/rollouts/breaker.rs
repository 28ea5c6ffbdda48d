//! The fleet's own breaker over the simulated fleet: how long from the first failed
//! change to the last node that refuses.
//!
//! Something that every change needs is broken, so that changes of any deployment
//! fail on a part of the nodes. They go on at a steady pace until the breaker
//! trips; what rollouts would have stopped by their own criteria is left out, so
//! this is what is below them. The watchman, the rules of the engine and the policy
//! are the controller's own.

use std::time::Duration;

use anyhow::Context as _;
use controller::domain::access::caller::Caller;
use controller::domain::audit::record::Record;
use controller::domain::breaker::watchman::{Field, Watchman};
use controller::domain::decide::decide;
use controller::domain::event::Event;
use controller::domain::fleet::Fleet;
use controller::domain::fleet::event::NodeJoined;
use controller::domain::fleet::node::AdmissionFacts;
use controller::domain::fleet::token::Approval;
use controller::domain::moment::Moment;
use controller::domain::operation::Operation;
use harness::sim::chance::Chance;
use protocol::deployment::observed::{ChangeOutcome, DeploymentResult};
use protocol::id::{DeploymentId, FleetId, NodeId, TokenId};
use protocol::key::SigningKey;
use protocol::label::Labels;
use protocol::policy::{Attempt, Standing};
use protocol::time::UnixMillis;

use crate::fleet::{Agenda, START};

/// In this time the whole fleet would be changed.
const ALL_CHANGED: Duration = Duration::from_secs(30 * 60);

/// Of a thousand changes, how many fail.
const FAIL_PERMILLE: u32 = 400;

/// From the watchman's word to the record, and to the broker.
const RECORDED_AFTER: Duration = Duration::from_millis(100);

/// The longest time between two heartbeats, jitter included.
const HEARTBEAT_MAX: Duration = Duration::from_millis(16_500);

/// The deployment that changes.
const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 10]);

/// How one run came out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// From the first failure to the trip's record.
    pub(crate) to_trip: Duration,
    /// From there to the last node that refuses.
    pub(crate) to_refusal: Duration,
    /// Nodes that were told to change before the trip.
    pub(crate) told: u32,
}

/// A fleet of so many nodes, to be used for many runs.
pub(crate) fn fleet(nodes: u16) -> anyhow::Result<Fleet> {
    let mut chance = Chance::new(u64::from(nodes));
    let mut fleet = Fleet::new(FleetId::from_bytes([7; 10]));
    let key = SigningKey::from_seed(&[1; 32]).context("a seed makes a key")?;
    for number in 0..nodes {
        let event = Event::NodeJoined(NodeJoined {
            node: NodeId::from_bytes(chance.bytes()),
            name: format!("node-{number}"),
            labels: Labels::new(),
            signing_key: key.public(),
            token: TokenId::from_bytes([1; 10]),
            approval: Approval::Automatic,
            facts: AdmissionFacts::default(),
        });
        apply(&mut fleet, event, START);
    }
    Ok(fleet)
}

fn apply(fleet: &mut Fleet, event: Event, at: UnixMillis) {
    let record = Record {
        seq: fleet.seq() + 1,
        at,
        by: Caller::System,
        request: None,
        operation: "bench".to_owned(),
        version: event.version(),
        event,
    };
    fleet.apply(&record);
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Told(NodeId),
    Ended(NodeId, bool),
    Recorded,
}

/// Runs until the breaker has tripped; of a thousand broadcasts, `lost_permille`
/// do not reach their node, which hears of it at its next heartbeat.
pub(crate) fn run(base: &Fleet, lost_permille: u32, seed: u64) -> anyhow::Result<Stop> {
    let mut fleet = base.clone();
    let mut chance = Chance::new(seed);
    let mut watchman = Watchman::default();
    watchman.follow(fleet.breakers());
    let mut nodes: Vec<NodeId> = fleet.nodes().map(|node| node.id).collect();
    nodes.sort_by_cached_key(|_| chance.bytes::<8>());
    let mut agenda = Agenda::new();
    let count = u32::try_from(nodes.len())?;
    for (number, node) in (0..).zip(&nodes) {
        agenda.put(START.after(ALL_CHANGED / count * number), Due::Told(*node));
    }
    let (mut told, mut first_failure, mut asked) = (0, None, Vec::new());
    while let Some((now, due)) = agenda.pop() {
        match due {
            Due::Told(node) => {
                told += 1;
                let fails = chance.permille(FAIL_PERMILLE);
                let after = chance.time(Duration::from_secs(10), Duration::from_secs(90));
                agenda.put(now.after(after), Due::Ended(node, fails));
            }
            Due::Ended(node, fails) => {
                if fails {
                    first_failure.get_or_insert(now);
                }
                watchman.result(&fleet, node, &result(fails, now), now);
                let up = std::collections::BTreeSet::new();
                let field = Field {
                    up: &up,
                    wanted: &[],
                };
                watchman.tick(&fleet, field, now);
                asked.extend(watchman.asks(now));
                if asked.len() == 1 {
                    agenda.put(now.after(RECORDED_AFTER), Due::Recorded);
                }
            }
            Due::Recorded => {
                for ask in asked.drain(..) {
                    let at = Moment::new(now, [1; 32]);
                    let operation = Operation::RecordBreaker(ask);
                    let decided = decide(&fleet, &Caller::System, &operation, &at)
                        .map_err(|rejection| anyhow::anyhow!("{rejection}"))?;
                    for event in decided.events {
                        apply(&mut fleet, event, now);
                    }
                }
                let first = first_failure.context("it trips by failures")?;
                return Ok(Stop {
                    to_trip: now.since(first),
                    to_refusal: last_refusal(&fleet, lost_permille, &mut chance, now)?,
                    told,
                });
            }
        }
    }
    anyhow::bail!("the breaker did not trip")
}

/// When the last node has the policy, by which it refuses.
fn last_refusal(
    fleet: &Fleet,
    lost_permille: u32,
    chance: &mut Chance,
    now: UnixMillis,
) -> anyhow::Result<Duration> {
    let policy = fleet.breakers().policy(fleet.id());
    let standing = Standing {
        now,
        heard_at: Some(now),
    };
    let mut last = Duration::ZERO;
    for node in fleet.nodes() {
        let attempt = Attempt::Deploy(DEPLOYMENT);
        let refuses = policy.admit(node.subject(), attempt, standing).is_err();
        anyhow::ensure!(refuses, "{} goes on", node.id);
        let way = chance.time(Duration::from_millis(20), Duration::from_millis(200));
        let waits = if chance.permille(lost_permille) {
            chance.time(Duration::ZERO, HEARTBEAT_MAX)
        } else {
            Duration::ZERO
        };
        last = last.max(waits + way);
    }
    Ok(last)
}

fn result(fails: bool, at: UnixMillis) -> DeploymentResult {
    DeploymentResult {
        deployment: DEPLOYMENT,
        generation: 1,
        revision: Some(2),
        rollout: None,
        outcome: if fails {
            ChangeOutcome::Failed
        } else {
            ChangeOutcome::Succeeded
        },
        code: None,
        policy_epoch: 0,
        detail: String::new(),
        at,
    }
}
