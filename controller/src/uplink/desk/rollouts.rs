//! Rollouts as the desk carries them out.
//!
//! Steps each rollout's machine by what nodes report, by their links and by time.
//! What a machine decides is asked of the engine, and acted upon when its record
//! comes back; its rows and the orders to nodes are durable before anything is
//! sent.
//!
//! A deployment has up to two machines: of its last rollout, and of the last one
//! that completed, which goes on to serve nodes that join or come back. While the
//! last one runs, the other rests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::deployment::desired::{Cause, Commit, OnFailure};
use protocol::deployment::observed::{DeploymentResult, DeploymentState};
use protocol::id::{DeploymentId, NodeId, RolloutId};
use protocol::time::UnixMillis;

use super::{Desk, DeskEvent};
use crate::domain::audit::record::Record;
use crate::domain::rollout::course::Course;
use crate::domain::rollout::event::{Decision, Kind, RolloutStarted};
use crate::domain::rollout::machine::steer::Stand;
use crate::domain::rollout::machine::{Input, Output, Rollout};
use crate::domain::rollout::params::CommitMode;
use crate::domain::rollout::plan::{Plan, Planned};
use crate::domain::rollout::target::{Report, TargetState, Want};
use crate::uplink::board::RolloutStatus;
use crate::uplink::intake::{Batch, IntakeError, StoredRollout, StoredWant};
use crate::uplink::sink::FrameSink;

/// A rollout is stepped at least this often, whatever it says that it waits for.
const TICK_AT_LEAST: Duration = Duration::from_secs(5);

/// A rollout that is carried out.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) row: StoredRollout,
    pub(super) machine: Rollout,
    /// Whether a newer rollout of the deployment runs.
    rests: bool,
    due_at: UnixMillis,
}

impl<S: FrameSink> Desk<S> {
    /// Makes machines from what the store has.
    pub(super) fn load_rollouts(&mut self, now: UnixMillis) -> Result<(), IntakeError> {
        let stored: BTreeMap<RolloutId, StoredRollout> =
            self.intake.rollouts()?.into_iter().collect();
        let newest = |of: DeploymentId, completed: bool| {
            stored
                .iter()
                .filter(|(_, row)| row.deployment == of)
                .filter(|(_, row)| !completed || row.course.is_completed())
                .max_by_key(|(_, row)| row.seq)
                .map(|(id, _)| *id)
        };
        let mut needed = BTreeSet::new();
        for row in stored.values() {
            let known = self.fleet.deployments().get(row.deployment);
            if known.is_some_and(|known| known.removal.is_none()) {
                needed.extend(newest(row.deployment, false));
                needed.extend(newest(row.deployment, true));
            }
        }
        let waits = self.intake.rollout_waits()?;
        for id in needed {
            let Some(row) = stored.get(&id) else { continue };
            let rows = self.intake.rollout_targets_all(id)?.into_iter().collect();
            let rests = newest(row.deployment, false).is_some_and(|last| {
                last != id
                    && stored
                        .get(&last)
                        .is_some_and(|last| last.course.finished.is_none())
            });
            let waited = waits.get(&id).copied().unwrap_or_default();
            let machine = Rollout::resume(row.course.clone(), rows, &self.deployments.up, now)
                .having_waited(waited);
            let running = Running {
                row: row.clone(),
                machine,
                rests,
                due_at: now,
            };
            self.deployments.running.insert(id, running);
            self.deployments.changed.insert(id);
        }
        Ok(())
    }

    /// A rollout was started; `members` are its nodes in the order of its plan.
    pub(super) fn start_rollout(
        &mut self,
        record: &Record,
        event: &RolloutStarted,
        members: &[NodeId],
        now: UnixMillis,
    ) {
        if self.deployments.running.contains_key(&event.rollout) {
            return;
        }
        let mut left = members.iter();
        let waves = event.waves.iter().map(|size| {
            left.by_ref()
                .take(usize::try_from(*size).unwrap_or(usize::MAX))
                .map(|node| Planned {
                    node: *node,
                    group: self.fleet.node(*node).map_or_else(String::new, |record| {
                        event.params.budget.group(&record.labels)
                    }),
                })
                .collect()
        });
        let plan = Plan {
            waves: waves.collect(),
        };
        if plan.digest() != event.plan_digest {
            tracing::error!(
                rollout = %event.rollout,
                "the plan of a rollout is not the one that was recorded; it cannot be carried out"
            );
            return;
        }
        let rows = plan.rows(record.at);
        for (node, row) in &rows {
            self.work
                .batch
                .rollout_targets
                .insert((event.rollout, *node), row.clone());
        }
        let before = self
            .fleet
            .rollouts()
            .get(event.rollout)
            .and_then(|rollout| rollout.before);
        let course = Course::new(event, record.at);
        let row = StoredRollout {
            seq: record.seq,
            deployment: event.deployment,
            revision: event.revision,
            before,
            course: course.clone(),
        };
        self.work.batch.rollouts.insert(event.rollout, row.clone());
        let changed = &mut self.deployments.changed;
        self.deployments.running.retain(|id, running| {
            if running.row.deployment != event.deployment {
                return true;
            }
            changed.insert(*id);
            running.rests = true;
            running.row.course.is_completed()
        });
        let machine = Rollout::resume(course, rows, &self.deployments.up, now);
        let running = Running {
            row,
            machine,
            rests: false,
            due_at: now,
        };
        self.deployments.running.insert(event.rollout, running);
        self.withhold_all(event.rollout, now);
        self.tell_breakers();
        self.tell_rollouts(now);
        // Nodes that came or went since it was planned.
        self.relook_all(event.deployment, now);
        self.step(event.rollout, Input::Tick, now);
    }

    /// A decision about a rollout is recorded.
    pub(super) fn decided(&mut self, decision: Decision, at: UnixMillis, now: UnixMillis) {
        let id = decision.rollout();
        let finished = matches!(decision, Decision::Finished(_));
        self.step(id, Input::Recorded { decision, at }, now);
        // What it waits for may be another thing from here on.
        self.deployments.changed.insert(id);
        let Some(running) = self.deployments.running.get_mut(&id) else {
            return;
        };
        running.row.course = running.machine.course().clone();
        let row = running.row.clone();
        self.work.batch.rollouts.insert(id, row.clone());
        if finished {
            self.count_end(&row);
            self.ended(id, &row, now);
        }
    }

    fn count_end(&mut self, row: &StoredRollout) {
        if let Some(end) = &row.course.finished {
            let ended = self.stats.rollouts_ended.entry(end.outcome.name());
            let (count, took) = ended.or_default();
            *count += 1;
            *took += end.at.since(row.course.started_at);
        }
    }

    fn ended(&mut self, id: RolloutId, row: &StoredRollout, now: UnixMillis) {
        let others: Vec<RolloutId> = self
            .deployments
            .running
            .iter()
            .filter(|(other, running)| **other != id && running.row.deployment == row.deployment)
            .map(|(other, _)| *other)
            .collect();
        if row.course.is_completed() {
            for other in &others {
                self.deployments.running.remove(other);
                self.deployments.changed.insert(*other);
            }
        } else {
            self.wake(id, &others, now);
        }
        self.relook_all(row.deployment, now);
        self.review(row.deployment);
        self.forget_rollouts();
    }

    /// The rollout that had completed before serves again, but for the nodes that
    /// the one that ended has changed: what they have was decided by that one.
    fn wake(&mut self, ended: RolloutId, others: &[RolloutId], now: UnixMillis) {
        let governed: Vec<NodeId> = self
            .deployments
            .running
            .get(&ended)
            .map(|running| {
                running
                    .machine
                    .rows()
                    .filter(|(_, row)| row.order > 0)
                    .map(|(node, _)| node)
                    .collect()
            })
            .unwrap_or_default();
        for other in others {
            if let Some(running) = self.deployments.running.get_mut(other) {
                running.rests = false;
                running.due_at = now;
            }
            for node in &governed {
                self.step(*other, Input::Left(*node), now);
            }
            self.catch_up_with_links(*other, now);
        }
    }

    /// Tells a rollout that rested how the links of its nodes are.
    fn catch_up_with_links(&mut self, id: RolloutId, now: UnixMillis) {
        let nodes: Vec<NodeId> = match self.deployments.running.get(&id) {
            Some(running) => running.machine.rows().map(|(node, _)| node).collect(),
            None => return,
        };
        for node in nodes {
            let input = if self.deployments.up.contains(&node) {
                Input::Up(node)
            } else {
                Input::Down(node)
            };
            self.step(id, input, now);
        }
    }

    /// What puts rollouts where a journal that is older than the store has them.
    pub(super) fn rollouts_as_recorded(&self, journal_head: u64) -> Result<Batch, IntakeError> {
        let mut batch = Batch::default();
        for (id, mut row) in self.intake.rollouts()? {
            match self.fleet.rollouts().get(id) {
                Some(known) => {
                    row.course = known.course.clone();
                    batch.rollouts.insert(id, row);
                }
                None if row.seq > journal_head => batch.rollouts_forgotten.push(id),
                None => {}
            }
        }
        Ok(batch)
    }

    /// Rows of rollouts that the fleet remembers no more are not needed.
    fn forget_rollouts(&mut self) {
        let Ok(stored) = self.intake.rollouts() else {
            // They are forgotten when the next one ends.
            return;
        };
        for (id, _) in stored {
            let is_known = self.fleet.rollouts().get(id).is_some();
            if !is_known && !self.deployments.running.contains_key(&id) {
                self.work.batch.rollouts_forgotten.push(id);
            }
        }
    }

    /// Someone asked to remove a deployment: nothing of it is rolled out any more.
    pub(super) fn remove_deployment(&mut self, deployment: DeploymentId) {
        let changed = &mut self.deployments.changed;
        self.deployments.running.retain(|id, running| {
            let stays = running.row.deployment != deployment;
            if !stays {
                changed.insert(*id);
            }
            stays
        });
        if self.fleet.deployments().get(deployment).is_some() {
            self.begin_removal(deployment);
        }
    }

    /// Looks anew at whether a node takes part in the rollouts of a deployment.
    pub(super) fn relook(&mut self, node: NodeId, now: UnixMillis) {
        self.set_aside(&BTreeSet::from([node]), now);
        // Its labels say which breakers it passes.
        self.tell_breakers();
        let deployments: BTreeSet<DeploymentId> = self
            .deployments
            .running
            .values()
            .map(|running| running.row.deployment)
            .collect();
        for deployment in deployments {
            self.relook_on(deployment, node, now);
            self.review_on(deployment, node);
        }
    }

    fn relook_all(&mut self, deployment: DeploymentId, now: UnixMillis) {
        let fleet = std::sync::Arc::clone(&self.fleet);
        for node in fleet.nodes() {
            self.relook_on(deployment, node.id, now);
        }
    }

    fn relook_on(&mut self, deployment: DeploymentId, node: NodeId, now: UnixMillis) {
        let fleet = std::sync::Arc::clone(&self.fleet);
        let Some(known) = fleet.deployments().get(deployment) else {
            return;
        };
        let Some(record) = fleet.node(node) else {
            return;
        };
        let Some((id, running)) = self
            .deployments
            .running
            .iter()
            .filter(|(_, running)| running.row.deployment == deployment)
            .filter(|(_, running)| !running.rests)
            .filter(|(_, running)| {
                running.row.course.finished.is_none() || running.row.course.is_completed()
            })
            .max_by_key(|(_, running)| running.row.seq)
        else {
            return;
        };
        let (id, revision) = (*id, running.row.revision);
        let matches = record.is_active()
            && known
                .revisions
                .get(&revision)
                .is_some_and(|revision| revision.is_for(record.subject()));
        let takes_part = running
            .machine
            .row(node)
            .is_some_and(|row| row.state != TargetState::Skipped);
        if matches && !takes_part {
            // What another rollout gave it stays until someone decides anew.
            let elsewhere = self.deployments.item(deployment, node).is_some_and(|item| {
                item.want.rollout().is_some_and(|rollout| rollout != id)
                    && running.row.course.finished.is_some()
            });
            if record.suspicion.is_none() && !elsewhere {
                let up = self.deployments.up.contains(&node);
                let labels = record.labels.clone();
                let withheld = self.withheld(id, node, now);
                let input = Input::Joined {
                    node,
                    labels,
                    up,
                    withheld,
                };
                self.step(id, input, now);
            }
        } else if !matches && takes_part {
            self.step(id, Input::Left(node), now);
        }
    }

    /// The rollouts that have a node as a target, of those that are wanted.
    pub(super) fn rollouts_of(
        &self,
        node: NodeId,
        wanted: impl Fn(&Running) -> bool,
    ) -> Vec<RolloutId> {
        self.deployments
            .running
            .iter()
            .filter(|(_, running)| wanted(running) && running.machine.row(node).is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// A node's link came up or is not proven any more.
    pub(super) fn link_changed(&mut self, node: NodeId, is_up: bool, now: UnixMillis) {
        for id in self.rollouts_of(node, |running| !running.rests) {
            let input = if is_up {
                Input::Up(node)
            } else {
                Input::Down(node)
            };
            self.step(id, input, now);
        }
    }

    /// A condition began to hold on a node.
    pub(super) fn condition_crossed(&mut self, node: NodeId, condition: &str, now: UnixMillis) {
        for id in self.rollouts_of(node, |running| !running.rests) {
            let condition = condition.to_owned();
            self.step(id, Input::Crossed { node, condition }, now);
        }
    }

    pub(super) fn report_result(
        &mut self,
        node: NodeId,
        result: &DeploymentResult,
        now: UnixMillis,
    ) {
        let report = Report::of_result(result);
        self.report(result.deployment, node, result.generation, report, now);
    }

    pub(super) fn report_state(&mut self, node: NodeId, state: &DeploymentState, now: UnixMillis) {
        let report = Report::of_state(state);
        self.report(state.deployment, node, state.generation, report, now);
    }

    /// Tells the rollout that gave the order of that generation. Of an older one
    /// nothing counts any more.
    fn report(
        &mut self,
        deployment: DeploymentId,
        node: NodeId,
        generation: u64,
        report: Option<Report>,
        now: UnixMillis,
    ) {
        let order = self
            .deployments
            .item(deployment, node)
            .filter(|item| item.generation == generation)
            .and_then(|item| Some((item.want.rollout()?, item.order)));
        if let (Some((rollout, order)), Some(report)) = (order, report) {
            let input = Input::Reported {
                node,
                order,
                report,
            };
            self.step(rollout, input, now);
        }
    }

    pub(super) fn tick_rollouts(&mut self, now: UnixMillis) {
        let due: Vec<RolloutId> = self
            .deployments
            .running
            .iter()
            .filter(|(_, running)| !running.rests && running.due_at <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.step(id, Input::Tick, now);
        }
    }

    /// Steps a rollout's machine and does what it says.
    pub(super) fn step(&mut self, id: RolloutId, input: Input, now: UnixMillis) {
        let Some(running) = self.deployments.running.get_mut(&id) else {
            return;
        };
        let outputs = running.machine.step(input, now);
        let at_least = now.after(TICK_AT_LEAST);
        running.due_at = running
            .machine
            .wakes_at(now)
            .map_or(at_least, |(at, _)| at.min(at_least));
        if !outputs.is_empty() {
            self.deployments.changed.insert(id);
        }
        for output in outputs {
            match output {
                Output::Record(decision) => self
                    .work
                    .events
                    .push(DeskEvent::Decided(Box::new(decision))),
                Output::Waited(waited) => {
                    self.work.batch.rollout_waits.insert(id, waited);
                }
                Output::Save { node, row } => {
                    self.work.batch.rollout_targets.insert((id, node), *row);
                }
                Output::Send { node, order, want } => self.send(id, node, order, want, now),
            }
        }
    }

    /// Turns what a rollout wants of a node into an order.
    fn send(&mut self, id: RolloutId, node: NodeId, order: u32, want: Want, now: UnixMillis) {
        let Some(running) = self.deployments.running.get(&id) else {
            return;
        };
        let row = &running.row;
        let params = &row.course.params;
        let (deployment, rollout) = (row.deployment, Some(id));
        let run = |revision, cause, commit| StoredWant::Run {
            revision,
            rollout,
            cause,
            health: params.health,
            on_failure: OnFailure::Revert,
            commit,
        };
        let forward = match row.course.kind {
            Kind::Forward => Cause::Change,
            Kind::Rollback => Cause::Rollback,
        };
        let wanted = match want {
            Want::Run => {
                let open = row.course.finished.is_none();
                let commit = match params.commit {
                    CommitMode::Barrier if open => Commit::Barrier,
                    CommitMode::Barrier | CommitMode::PerTarget => Commit::WhenHealthy,
                };
                run(row.revision, forward, commit)
            }
            Want::Commit => run(row.revision, forward, Commit::WhenHealthy),
            Want::Recall | Want::Revert => match row.before {
                Some(before) => run(before, Cause::Rollback, Commit::WhenHealthy),
                None => StoredWant::Remove { rollout },
            },
        };
        self.want(deployment, node, wanted, order, now);
    }

    /// How far the rollouts that changed since the last call have come.
    pub(super) fn rollout_statuses(
        &mut self,
        now: UnixMillis,
    ) -> Vec<(RolloutId, Option<RolloutStatus>)> {
        let changed = std::mem::take(&mut self.deployments.changed);
        changed
            .into_iter()
            .map(|id| {
                let running = self.deployments.running.get(&id);
                (id, running.map(|running| self.status(running, now)))
            })
            .collect()
    }
}

impl<S: FrameSink> Desk<S> {
    fn status(&self, running: &Running, now: UnixMillis) -> RolloutStatus {
        let machine = &running.machine;
        let course = machine.course();
        let waves = (0..course.wave_count)
            .map(|wave| {
                let tally = machine.tally().wave(wave);
                TargetState::ALL
                    .into_iter()
                    .map(|state| (state.name(), tally.of(state)))
                    .filter(|(_, count)| *count > 0)
                    .collect()
            })
            .collect();
        let waits_for = if course.is_running() && course.wave.is_some() {
            match machine.stand(now) {
                Stand::Busy | Stand::Done => String::new(),
                Stand::Soaking { until } => format!("watching the wave until {until}"),
                Stand::Awaiting { until } => format!("nodes that are away, until {until}"),
                Stand::Closed => self.first_window(running, now),
                Stand::Inconclusive(why) => why.to_string(),
            }
        } else {
            String::new()
        };
        RolloutStatus {
            waves,
            rate_per_min: machine.rate_per_min(),
            breakers: machine.breakers().map(str::to_owned).collect(),
            waits_for,
        }
    }
}
