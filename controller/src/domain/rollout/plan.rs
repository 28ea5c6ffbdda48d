//! Who is in which wave.
//!
//! Nodes are ordered by a digest of a seed and their own id: as good as a shuffle,
//! the same whenever it is computed, so that a dry run tells the truth. Each
//! revision has a seed of its own, so that it is not always the same nodes that go
//! first. Where the budget groups
//! nodes by labels, every wave gets its share of each group, and the first wave
//! takes one node of each group in turn, so that a canary is not all one site.
//! The first wave prefers nodes that are there: a canary that is away proves
//! nothing.
//!
//! **Invariant:** every candidate is in exactly one wave; equal input gives equal
//! plans, in whatever order the candidates come.

use std::collections::BTreeMap;

use protocol::id::NodeId;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use crate::domain::digest::Digest;
use crate::domain::rollout::params::Params;
use crate::domain::rollout::target::TargetRow;

/// A node that the deployment's selector matches.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The node.
    pub node: NodeId,
    /// Its labels.
    pub labels: &'a Labels,
    /// Whether its link is up.
    pub present: bool,
}

/// Who is in which wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The nodes of each wave, in the order of sending. No wave is empty, so there
    /// can be fewer than the parameters have.
    pub waves: Vec<Vec<Planned>>,
}

/// A node in its wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The node.
    pub node: NodeId,
    /// The group in which the budget counts it.
    pub group: String,
}

impl Plan {
    /// Plans a rollout to some nodes.
    #[must_use]
    pub fn new(seed: &[u8], params: &Params, candidates: &[Candidate<'_>]) -> Self {
        let mut order = spread(seed, params, candidates);
        let total = u32::try_from(order.len()).unwrap_or(u32::MAX);
        let mut waves = Vec::new();
        for wave in &params.waves {
            let left = u32::try_from(order.len()).unwrap_or(u32::MAX);
            if left == 0 {
                break;
            }
            let size = wave.size(total, left) as usize;
            let members = if waves.is_empty() {
                canaries(&mut order, size)
            } else {
                order.drain(..size).collect()
            };
            let planned = |place: Place| Planned {
                node: place.node,
                group: place.group,
            };
            waves.push(members.into_iter().map(planned).collect());
        }
        Self { waves }
    }

    /// How many nodes each wave has.
    #[must_use]
    pub fn sizes(&self) -> Vec<u32> {
        let size = |wave: &Vec<Planned>| u32::try_from(wave.len()).unwrap_or(u32::MAX);
        self.waves.iter().map(size).collect()
    }

    /// The digest over nodes and waves, which the journal keeps.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for wave in &self.waves {
            bytes.extend_from_slice(&(wave.len() as u64).to_be_bytes());
            for planned in wave {
                bytes.extend_from_slice(planned.node.as_bytes());
            }
        }
        Digest::of("flotilla rollout plan", &[&bytes])
    }

    /// The rows with which the rollout begins.
    #[must_use]
    pub fn rows(&self, at: UnixMillis) -> BTreeMap<NodeId, TargetRow> {
        let waves = (0..).zip(&self.waves);
        let members = waves.flat_map(|(wave, members)| members.iter().map(move |m| (wave, m)));
        (0..)
            .zip(members)
            .map(|(rank, (wave, member))| {
                let row = TargetRow::new(wave, rank, member.group.clone(), at);
                (member.node, row)
            })
            .collect()
    }
}

struct Place {
    /// Where in its group it is, as a share of 2³².
    share: u64,
    chance: Digest,
    node: NodeId,
    group: String,
    present: bool,
}

/// The candidates so that every stretch of the order has its share of each group.
fn spread(seed: &[u8], params: &Params, candidates: &[Candidate<'_>]) -> Vec<Place> {
    let mut groups: BTreeMap<String, Vec<(Digest, &Candidate<'_>)>> = BTreeMap::new();
    for candidate in candidates {
        let chance = Digest::of("flotilla rollout order", &[seed, candidate.node.as_bytes()]);
        groups
            .entry(params.budget.group(candidate.labels))
            .or_default()
            .push((chance, candidate));
    }
    let mut places: Vec<Place> = Vec::with_capacity(candidates.len());
    for (group, mut members) in groups {
        members.sort_unstable_by_key(|(chance, _)| *chance);
        let count = members.len() as u64;
        for (index, (chance, candidate)) in (0_u64..).zip(members) {
            places.push(Place {
                share: (index << 32) / count,
                chance,
                node: candidate.node,
                group: group.clone(),
                present: candidate.present,
            });
        }
    }
    places.sort_unstable_by_key(|place| (place.share, place.chance));
    places
}

/// Takes the first wave out of the order: one of each group in turn, those that
/// are there first.
fn canaries(order: &mut Vec<Place>, size: usize) -> Vec<Place> {
    let mut turns: BTreeMap<(bool, &str), u32> = BTreeMap::new();
    let mut ranked: Vec<(bool, u32, usize)> = Vec::with_capacity(order.len());
    for (index, place) in order.iter().enumerate() {
        let turn = turns.entry((place.present, &place.group)).or_default();
        ranked.push((!place.present, *turn, index));
        *turn += 1;
    }
    ranked.sort_unstable();
    let mut chosen: Vec<usize> = ranked.iter().take(size).map(|(_, _, at)| *at).collect();
    chosen.sort_unstable();
    let mut taken = Vec::with_capacity(size);
    for index in chosen.into_iter().rev() {
        taken.push(order.remove(index));
    }
    taken.reverse();
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::given::node_id;

    const SEED: &[u8] = &[9; 10];

    fn labels(site: &str) -> Labels {
        Labels::from_pairs([("site".to_owned(), site.to_owned())]).unwrap()
    }

    fn by_site() -> Params {
        let mut params = Params::default();
        params.budget.group_by = vec!["site".to_owned()];
        params
    }

    fn sizes(count: u16) -> Vec<u32> {
        let none = Labels::new();
        let candidates: Vec<Candidate<'_>> = (0..count)
            .map(|n| Candidate {
                node: node_id(n),
                labels: &none,
                present: true,
            })
            .collect();
        Plan::new(SEED, &Params::default(), &candidates).sizes()
    }

    #[test]
    fn waves_grow_with_the_fleet() {
        for (count, expected) in [
            (0, vec![]),
            (1, vec![1]),
            (2, vec![1, 1]),
            (5, vec![1, 1, 2, 1]),
            (20, vec![2, 2, 6, 10]),
            (1000, vec![3, 100, 300, 597]),
        ] {
            assert_eq!(sizes(count), expected, "{count} nodes");
        }
    }

    #[test]
    fn a_canary_wave_is_not_all_one_site_and_prefers_who_is_there() {
        let (lyon, paris, nice) = (labels("lyon"), labels("paris"), labels("nice"));
        let candidates: Vec<Candidate<'_>> = (0..100)
            .map(|n| Candidate {
                node: node_id(n),
                labels: match n {
                    0..90 => &lyon,
                    90..95 => &paris,
                    _ => &nice,
                },
                present: n % 5 != 0,
            })
            .collect();
        let plan = Plan::new(SEED, &by_site(), &candidates);
        let sites: BTreeSet<&str> = plan.waves[0].iter().map(|p| p.group.as_str()).collect();
        assert_eq!(sites.len(), 3, "{:?}", plan.waves[0]);
        let away: Vec<NodeId> = (0..100).step_by(5).map(node_id).collect();
        assert!(plan.waves[0].iter().all(|p| !away.contains(&p.node)));
        // Every later wave has its share of the large site.
        for wave in &plan.waves[1..] {
            let lyon = wave.iter().filter(|p| p.group == "lyon").count();
            assert!(lyon * 100 / wave.len() >= 80, "{lyon} of {}", wave.len());
        }
    }

    proptest! {
        #[test]
        fn invariant_everyone_is_in_one_wave_and_the_order_of_candidates_does_not_matter(
            sites in prop::collection::vec((0..4_u8, any::<bool>()), 0..120),
            seed in any::<[u8; 10]>(),
        ) {
            let names: Vec<Labels> = (0..4).map(|n| labels(&format!("s{n}"))).collect();
            let mut candidates: Vec<Candidate<'_>> = (0..)
                .zip(&sites)
                .map(|(n, (site, present))| Candidate {
                    node: node_id(n),
                    labels: &names[usize::from(*site)],
                    present: *present,
                })
                .collect();
            let plan = Plan::new(&seed, &by_site(), &candidates);
            candidates.reverse();
            prop_assert_eq!(&Plan::new(&seed, &by_site(), &candidates), &plan);
            let members: Vec<NodeId> = plan.waves.iter().flatten().map(|p| p.node).collect();
            let distinct: BTreeSet<NodeId> = members.iter().copied().collect();
            prop_assert_eq!(members.len(), sites.len());
            prop_assert_eq!(distinct.len(), sites.len());
            prop_assert!(plan.waves.iter().all(|wave| !wave.is_empty()));
        }
    }
}
