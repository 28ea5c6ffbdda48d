//! What must hold, whatever happened.

use std::collections::BTreeSet;

use controller::uplink::intake::{Ended, TargetState};
use protocol::id::{CommandId, NodeId};
use protocol::session::Acks;
use protocol::stream::Stream;

use super::node::FRAME_EVERY_MS;
use super::world::{Acknowledged, World, place};

/// A power cut costs at most what was not spilled: a quarter of an hour, and the
/// frame and retry around it.
const LOST_BEFORE_POWER_CUT_MS: u64 = 15 * 60_000 + 2 * FRAME_EVERY_MS;

/// What was seen.
#[derive(Default)]
pub(crate) struct History {
    /// Commands that the engine accepted.
    pub(crate) issued: Vec<CommandId>,
    /// Revisions that the engine accepted.
    pub(crate) applied: BTreeSet<u32>,
    acknowledged: Acknowledged,
}

impl History {
    /// A node heard an acknowledgement.
    pub(crate) fn acknowledged(&mut self, node: NodeId, acks: &Acks) {
        for ack in &acks.acks {
            let known = self
                .acknowledged
                .entry((node, place(ack.stream)))
                .or_insert(0);
            *known = (*known).max(ack.acked);
        }
    }

    /// The controller was restored: what it said before is not in its disks.
    pub(crate) fn forget(&mut self) {
        self.acknowledged.clear();
    }

    /// What was acknowledged to a node is on the controller's disk after a crash.
    pub(crate) fn invariant_what_was_acknowledged_is_durable(
        &self,
        node: NodeId,
        contiguous: [u64; 4],
    ) {
        for stream in Stream::ALL {
            let told = self.acknowledged.get(&(node, place(stream)));
            let told = told.copied().unwrap_or(0);
            let durable = contiguous.get(place(stream)).copied().unwrap_or(0);
            assert!(
                durable >= told,
                "{node} was told {} {told}, and {durable} is durable",
                stream.name()
            );
        }
    }
}

/// All invariants, once everything was repaired and has had time to settle. The
/// controller's machine is off.
pub(crate) fn check(world: &World) {
    let targets = world.machine.targets();
    invariant_every_rollout_ends(world);
    invariant_hosts_hold_what_they_are_to_have(world);
    invariant_every_command_ends(world, &targets);
    invariant_no_command_takes_effect_twice(world);
    invariant_final_states_tell_the_truth(world, &targets);
    invariant_receipts_of_what_ran_are_kept(world, &targets);
    invariant_frames_are_lost_in_power_cuts_alone_and_within_the_bound(world);
    invariant_an_honest_node_is_not_suspected(world);
    for host in &world.hosts {
        let contiguous = world.machine.contiguous(host.id());
        world
            .history
            .invariant_what_was_acknowledged_is_durable(host.id(), contiguous);
        assert_eq!(
            host.waiting(world.now),
            0,
            "{} keeps what it sent",
            host.id()
        );
    }
    assert_eq!(world.machine.quarantined(), 0, "nothing is misunderstood");
    assert_eq!(world.machine.lost, 0, "no controller was restored here");
    world.machine.verify(world.now);
}

type Targets = std::collections::BTreeMap<(CommandId, NodeId), TargetState>;

fn invariant_every_rollout_ends(world: &World) {
    let fleet = world.machine.live.as_ref().unwrap();
    let open: Vec<_> = fleet.rollouts().open().map(|it| it.id).collect();
    assert!(open.is_empty(), "rollouts did not end: {open:?}");
    for revision in &world.history.applied {
        let ended = fleet.rollouts().iter().any(|it| it.revision == *revision);
        assert!(
            ended,
            "revision {revision} was accepted and never rolled out"
        );
    }
}

/// The newest order of each node is the one that it holds, and what runs there is
/// what was ordered, or what was there before where that failed.
fn invariant_hosts_hold_what_they_are_to_have(world: &World) {
    let fleet = world.machine.live.as_ref().unwrap();
    for deployment in fleet.deployments().iter() {
        for (node, order) in world.machine.orders(deployment.id) {
            let host = world.hosts.iter().find(|host| host.id() == node).unwrap();
            let (generation, runs) = host.holds(deployment.id, world.now);
            assert!(
                generation >= order.generation,
                "{node} holds generation {generation}, and {} was ordered",
                order.generation
            );
            let wanted = order.want.revision();
            let fails = wanted.is_some_and(|revision| host.fails.contains(&revision));
            assert!(
                fails || runs == wanted,
                "{node} runs {runs:?}, and {wanted:?} is wanted"
            );
            assert!(
                runs.is_none_or(|runs| !host.fails.contains(&runs)),
                "{node} runs {runs:?}, which fails there"
            );
        }
    }
}

fn invariant_every_command_ends(world: &World, targets: &Targets) {
    for command in &world.history.issued {
        let of: Vec<_> = targets.iter().filter(|((c, _), _)| c == command).collect();
        assert!(!of.is_empty(), "{command} was accepted and is not known");
        for ((_, node), state) in of {
            assert!(
                matches!(state, TargetState::Final(_)),
                "{command} on {node} stands at {state:?}"
            );
        }
    }
    let fleet = world.machine.live.as_ref().unwrap();
    assert_eq!(
        fleet.commands().open().count(),
        0,
        "every command is concluded"
    );
}

fn invariant_no_command_takes_effect_twice(world: &World) {
    for host in &world.hosts {
        for (command, count) in &host.effects {
            assert!(
                *count <= 1,
                "{command} took effect {count} times on {}",
                host.id()
            );
            assert!(
                world.history.issued.contains(command) || world.machine.unsure_ever,
                "{command} took effect and was never accepted"
            );
        }
    }
}

fn invariant_final_states_tell_the_truth(world: &World, targets: &Targets) {
    for host in &world.hosts {
        for ((command, _), state) in targets.iter().filter(|((_, n), _)| *n == host.id()) {
            let TargetState::Final(state) = state else {
                continue;
            };
            let count = host.effects.get(command).copied().unwrap_or(0);
            match state.ended {
                Ended::Succeeded | Ended::Failed { .. } | Ended::TimedOut => {
                    assert_eq!(count, 1, "{command} is said to have run on {}", host.id());
                }
                Ended::Expired | Ended::Refused => {
                    assert_eq!(
                        count,
                        0,
                        "{command} is said not to have run on {}",
                        host.id()
                    );
                }
                Ended::Cancelled | Ended::Interrupted | Ended::Unreachable => {}
            }
        }
    }
}

fn invariant_receipts_of_what_ran_are_kept(world: &World, targets: &Targets) {
    let ran: BTreeSet<(CommandId, NodeId)> = world
        .hosts
        .iter()
        .flat_map(|host| host.effects.keys().map(|command| (*command, host.id())))
        .filter(|key| targets.contains_key(key))
        .collect();
    let kept = world.machine.has_receipts(&ran);
    let missing: Vec<_> = ran.difference(&kept).collect();
    assert!(
        missing.is_empty(),
        "receipts of what ran are missing: {missing:?}"
    );
}

fn invariant_frames_are_lost_in_power_cuts_alone_and_within_the_bound(world: &World) {
    let kept = world.machine.frames.lock().unwrap();
    for host in &world.hosts {
        for frame in &host.measured {
            let excused = host
                .power_cuts
                .iter()
                .any(|cut| frame.at <= *cut && cut - frame.at <= LOST_BEFORE_POWER_CUT_MS);
            assert!(
                excused || kept.contains_key(&frame.marker),
                "{} lost the frame of {} ms; power cuts at {:?}",
                host.id(),
                frame.at,
                host.power_cuts
            );
        }
    }
}

fn invariant_an_honest_node_is_not_suspected(world: &World) {
    assert!(
        world.machine.suspected.is_empty(),
        "suspected: {:?}",
        world.machine.suspected
    );
}
