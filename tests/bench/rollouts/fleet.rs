//! The simulated nodes: what each does with the revision, by the seed alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use controller::domain::rollout::params::Params;
use controller::domain::rollout::plan::{Candidate, Plan};
use harness::sim::chance::Chance;
use protocol::id::{NodeId, RolloutId};
use protocol::label::Labels;
use protocol::time::UnixMillis;

/// When every simulation begins.
pub(crate) const START: UnixMillis = UnixMillis(1_800_000_000_000);

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) nodes: u16,
    /// Of a thousand nodes, on how many the revision is bad; 0 for a good one.
    pub(crate) bad_permille: u32,
    /// Of a thousand nodes, how many fail whatever they are given.
    pub(crate) background_permille: u32,
    pub(crate) seed: u64,
}

/// How a run came out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End {
    /// Whether it was stopped.
    pub(crate) halted: bool,
    /// Nodes that were given the revision.
    pub(crate) told: u32,
    /// Of these, those on which it failed, or would have had it not been recalled.
    pub(crate) bad: u32,
    /// From the first failure to when the last node had ended or gone back.
    pub(crate) first_failure_to_quiet: Option<Duration>,
    /// From the start to the end of the rollout.
    pub(crate) took: Duration,
}

/// What a node does with the revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) fails: bool,
    pub(crate) after: Duration,
}

/// A fleet under a seed.
pub(crate) struct Fleet {
    pub(crate) plan: Plan,
    pub(crate) rollout: RolloutId,
    fates: BTreeMap<NodeId, Fate>,
}

impl Fleet {
    pub(crate) fn new(case: &Case, params: &Params) -> Self {
        let mut chance = Chance::new(
            case.seed
                .wrapping_mul(0x9e37_79b9)
                .wrapping_add(u64::from(case.nodes)),
        );
        let rollout = RolloutId::from_bytes(chance.bytes());
        let mut fates = BTreeMap::new();
        for _ in 0..case.nodes {
            let background = chance.permille(case.background_permille);
            let hit = chance.permille(case.bad_permille);
            let good_after = chance.time(Duration::from_secs(20), Duration::from_secs(90));
            let bad_after = chance.time(Duration::from_secs(10), Duration::from_secs(90));
            let fails = background || hit;
            let after = if fails { bad_after } else { good_after };
            fates.insert(NodeId::from_bytes(chance.bytes()), Fate { fails, after });
        }
        let none = Labels::new();
        let candidates: Vec<Candidate<'_>> = fates
            .keys()
            .map(|node| Candidate {
                node: *node,
                labels: &none,
                present: true,
            })
            .collect();
        let plan = Plan::new(rollout.as_bytes(), params, &candidates);
        Self {
            plan,
            rollout,
            fates,
        }
    }

    pub(crate) fn fate(&self, node: NodeId) -> Fate {
        self.fates[&node]
    }
}

/// What happens when.
pub(crate) struct Agenda<T> {
    queue: BinaryHeap<Reverse<(UnixMillis, u64, T)>>,
    count: u64,
}

impl<T: Ord> Agenda<T> {
    pub(crate) fn new() -> Self {
        Self {
            queue: BinaryHeap::new(),
            count: 0,
        }
    }

    pub(crate) fn put(&mut self, at: UnixMillis, what: T) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count, what)));
    }

    pub(crate) fn next_at(&self) -> Option<UnixMillis> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<(UnixMillis, T)> {
        self.queue.pop().map(|Reverse((at, _, what))| (at, what))
    }
}
