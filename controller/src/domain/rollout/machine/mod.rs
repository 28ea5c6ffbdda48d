//! The machine that carries out a rollout: what nodes report, what was recorded
//! and the time go in; what is to be recorded, kept and sent comes out.
//!
//! The caller keeps this contract, and the machine rests on it:
//! - A [`Output::Record`] is only asked for. Once the event is durable it comes
//!   back as [`Input::Recorded`], and what follows from it follows then. A request
//!   that got lost is made again; [`Course::check`] refuses the second of two.
//! - The rows of all [`Output::Save`] of one step, and the orders of all its
//!   [`Output::Send`], are committed together before anything is sent. Orders are
//!   levels: they are delivered by the node's generation, now or when it returns.
//! - A controller that starts makes the machine again by [`Rollout::resume`] from
//!   the course and the rows, and tells it which nodes are up.
//!
//! The parts: this file keeps the targets and what is counted of them, `report`
//! takes in what nodes say, `steer` finds the next decision, `start` and `undo`
//! give orders.
//!
//! **Invariants.** No order of a target is given twice. Nothing is started while
//! the course has stopped or a stop has been asked for, on a node that does not
//! pass every breaker, against the budget or faster than the rate. A rollout whose
//! clock is moved on ends: what is recalled at its deadline is silent, at the
//! latest, when its time to make progress and the silent deadline have passed; and
//! a way back on which nothing moves for as long as the deadline is given up.

mod report;
mod start;
pub mod steer;
mod undo;

pub use steer::Stand;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::id::NodeId;
use protocol::label::Labels;
use protocol::time::UnixMillis;

use crate::domain::digest::Digest;
use crate::domain::rollout::budget::Groups;
use crate::domain::rollout::course::Course;
use crate::domain::rollout::event::{Decision, Kind};
use crate::domain::rollout::pace::Pace;
use crate::domain::rollout::params::{HaltOn, LateJoiners};
use crate::domain::rollout::tally::Tally;
use crate::domain::rollout::target::{Report, TargetRow, TargetState, Verdict, Want};

/// A decision that was asked for and has not been recorded is asked for again
/// after this time: long enough for a slow disk, short next to a soak.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What happens to a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A decision is durable.
    Recorded {
        /// Which.
        decision: Decision,
        /// When it was recorded.
        at: UnixMillis,
    },
    /// A node's link came up.
    Up(NodeId),
    /// A node's link is not proven any more.
    Down(NodeId),
    /// A node said something of one of its orders.
    Reported {
        /// The node.
        node: NodeId,
        /// The order: the number in [`Output::Send`].
        order: u32,
        /// What it said.
        report: Report,
    },
    /// A condition began to hold on a node.
    Crossed {
        /// The node.
        node: NodeId,
        /// The condition's name.
        condition: String,
    },
    /// A breaker that covers this rollout is not closed, or lets others pass than
    /// before.
    BreakerTripped {
        /// Its name.
        breaker: String,
        /// What it wants of rollouts.
        action: BreakerAction,
        /// When it moved.
        at: UnixMillis,
        /// Nodes that pass in spite of it: its probes while it is half-open, and
        /// those with an override.
        passing: BTreeSet<NodeId>,
    },
    /// A breaker that covers this rollout closed.
    BreakerReset {
        /// Its name.
        breaker: String,
    },
    /// A node came to match.
    Joined {
        /// The node.
        node: NodeId,
        /// Its labels.
        labels: Labels,
        /// Whether its link is up.
        up: bool,
    },
    /// A node left the fleet, or no longer matches.
    Left(NodeId),
}

/// What a breaker that is not closed wants of the rollouts that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerAction {
    /// Nothing is started until it closes, but on nodes that pass.
    Hold,
    /// Those that ran when it tripped halt; the others are held.
    Halt,
}

/// A breaker that is not closed, as the rollout knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    action: BreakerAction,
    at: UnixMillis,
    passing: BTreeSet<NodeId>,
}

/// What a step leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Have this decision recorded.
    Record(Decision),
    /// Keep this row.
    Save {
        /// Of which node.
        node: NodeId,
        /// The row.
        row: Box<TargetRow>,
    },
    /// Give a node an order.
    Send {
        /// The node.
        node: NodeId,
        /// The order's number: one above the node's last one in this rollout.
        order: u32,
        /// What it wants.
        want: Want,
    },
}

/// A target, with what a restart forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    row: TargetRow,
    up: bool,
    /// Since when the link is up or down.
    link_at: UnixMillis,
}

/// A rollout. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Rollout {
    course: Course,
    targets: BTreeMap<NodeId, Target>,
    breakers: BTreeMap<String, Hold>,
    asked: Option<(Decision, UnixMillis)>,
    tally: Tally,
    groups: Groups,
    pace: Pace,
    /// Targets that can be told: pending, and their link is up.
    ready: BTreeSet<(u32, u32, NodeId)>,
    /// When silence or a delay of a target ends.
    due: BTreeSet<(UnixMillis, NodeId)>,
    /// Rows that this step changed.
    dirty: BTreeSet<NodeId>,
    orders: Vec<(NodeId, u32, Want)>,
    records: Vec<Decision>,
}

impl Rollout {
    /// A rollout as its decisions and rows left it. `up` are the nodes whose link
    /// is up; silence of the others counts from `now` on, since nobody listened
    /// before.
    #[must_use]
    pub fn resume(
        course: Course,
        rows: BTreeMap<NodeId, TargetRow>,
        up: &BTreeSet<NodeId>,
        now: UnixMillis,
    ) -> Self {
        let targets = rows
            .into_iter()
            .map(|(node, row)| {
                let up = up.contains(&node);
                let link_at = now;
                (node, Target { row, up, link_at })
            })
            .collect();
        let mut rollout = Self {
            course,
            targets,
            breakers: BTreeMap::new(),
            asked: None,
            tally: Tally::default(),
            groups: Groups::default(),
            pace: Pace::default(),
            ready: BTreeSet::new(),
            due: BTreeSet::new(),
            dirty: BTreeSet::new(),
            orders: Vec::new(),
            records: Vec::new(),
        };
        rollout.index_all();
        rollout
    }

    /// What was decided so far.
    #[must_use]
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// The rows, by node id.
    pub fn rows(&self) -> impl Iterator<Item = (NodeId, &TargetRow)> {
        self.targets
            .iter()
            .map(|(node, target)| (*node, &target.row))
    }

    /// One row.
    #[must_use]
    pub fn row(&self, node: NodeId) -> Option<&TargetRow> {
        self.targets.get(&node).map(|target| &target.row)
    }

    /// What is counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The breakers that hold it back.
    pub fn breakers(&self) -> impl Iterator<Item = &str> {
        self.breakers.keys().map(String::as_str)
    }

    /// Nodes of a group, and how many of them are unavailable.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Takes one thing in and does what is due.
    #[must_use]
    pub fn step(&mut self, input: Input, now: UnixMillis) -> Vec<Output> {
        self.take(input, now);
        self.expire(now);
        self.readmit(now);
        self.steer(now);
        self.act(now);
        let mut outputs: Vec<Output> = self.records.drain(..).map(Output::Record).collect();
        for node in std::mem::take(&mut self.dirty) {
            if let Some(target) = self.targets.get(&node) {
                let row = Box::new(target.row.clone());
                outputs.push(Output::Save { node, row });
            }
        }
        let orders = self.orders.drain(..);
        outputs.extend(orders.map(|(node, order, want)| Output::Send { node, order, want }));
        outputs
    }

    fn take(&mut self, input: Input, now: UnixMillis) {
        match input {
            Input::Tick => {}
            Input::Recorded { decision, at } => self.recorded(&decision, at),
            Input::Up(node) => self.link(node, true, now),
            Input::Down(node) => self.link(node, false, now),
            Input::Reported {
                node,
                order,
                report,
            } => self.reported(node, order, report, now),
            Input::Crossed { node, condition } => self.crossed(node, &condition, now),
            Input::BreakerTripped {
                breaker,
                action,
                at,
                passing,
            } => {
                let hold = Hold {
                    action,
                    at,
                    passing,
                };
                self.breakers.insert(breaker, hold);
            }
            Input::BreakerReset { breaker } => {
                self.breakers.remove(&breaker);
            }
            Input::Joined { node, labels, up } => self.joined(node, &labels, up, now),
            Input::Left(node) => self.left(node, now),
        }
    }

    fn recorded(&mut self, decision: &Decision, at: UnixMillis) {
        if decision.step() != self.course.step {
            return;
        }
        self.course.apply(decision, at);
        self.asked = None;
        // What counts depends on what was acknowledged, and what is waited for on
        // whether it has ended.
        if matches!(decision, Decision::Resumed(_) | Decision::Finished(_)) {
            self.index_all();
        }
    }

    /// Lets targets take part that the course no longer keeps out: what was
    /// recalled before someone resumed, since it had not failed, and late joiners
    /// that were to wait for the end. By level, not by the decision's arrival, so
    /// that a crash right after it changes nothing.
    fn readmit(&mut self, now: UnixMillis) {
        let total = self.tally.total();
        if self.course.is_running() && total.of(TargetState::Recalled) > 0 {
            self.move_all(TargetState::Recalled, TargetState::Pending, now);
        }
        if self.course.is_completed() && total.of(TargetState::Held) > 0 {
            self.move_all(TargetState::Held, TargetState::Pending, now);
        }
    }

    /// Does what the course allows.
    fn act(&mut self, now: UnixMillis) {
        if self.course.committed_at.is_some() && self.course.finished.is_none() {
            self.commit(now);
        } else if self.course.stop.is_some() {
            self.undo(now);
        } else if !self.stop_is_asked() {
            self.start(now);
        }
    }

    /// Whether a halt or a pause was asked for that is not recorded yet.
    fn stop_is_asked(&self) -> bool {
        matches!(
            self.asked,
            Some((Decision::Halted(_) | Decision::Paused(_), _))
        )
    }

    /// The breakers that stand against what moves forward.
    fn holds(&self) -> impl Iterator<Item = &Hold> {
        let forward = self.course.kind == Kind::Forward;
        self.breakers.values().filter(move |_| forward)
    }

    /// Whether the node passes every breaker.
    fn passes(&self, node: NodeId) -> bool {
        self.holds().all(|hold| hold.passing.contains(&node))
    }

    /// Whether breakers stand against every node of a wave.
    fn is_held(&self, wave: u32) -> bool {
        self.holds().next().is_some()
            && !self
                .targets
                .iter()
                .any(|(node, target)| target.row.wave == wave && self.passes(*node))
    }

    fn link(&mut self, node: NodeId, up: bool, now: UnixMillis) {
        let Some(target) = self.targets.get(&node) else {
            return;
        };
        if target.up == up {
            return;
        }
        let heals = up
            && target.row.state.has_revision()
            && matches!(target.row.verdict, Some((_, Verdict::WentSilent)));
        self.change(node, heals, |target| {
            target.up = up;
            target.link_at = now;
            if heals {
                target.row.verdict = Some((now, Verdict::Good));
            }
        });
    }

    fn crossed(&mut self, node: NodeId, condition: &str, now: UnixMillis) {
        let rules = self.course.params.halt.iter().enumerate();
        let bits = rules
            .filter(|(_, rule)| matches!(&rule.on, HaltOn::Metric(name) if name == condition))
            .fold(0_u32, |bits, (index, _)| bits | 1 << index);
        let Some(target) = self.targets.get(&node) else {
            return;
        };
        let row = &target.row;
        let changed = row.state.has_revision() || row.state == TargetState::Working;
        if !changed || row.crossed | bits == row.crossed {
            return;
        }
        self.change(node, true, |target| {
            let row = &mut target.row;
            row.crossed |= bits;
            let verdict = row.verdict.map_or(Verdict::Good, |(_, verdict)| verdict);
            row.verdict = Some((now, verdict));
        });
    }

    fn joined(&mut self, node: NodeId, labels: &Labels, up: bool, now: UnixMillis) {
        if let Some(target) = self.targets.get(&node) {
            if target.row.state == TargetState::Skipped {
                self.change(node, true, |target| {
                    target.row.state = TargetState::Pending;
                    target.row.since = now;
                });
            }
            self.link(node, up, now);
            return;
        }
        let last = self.course.wave_count.saturating_sub(1);
        let completed = self.course.is_completed();
        let (wave, state) = match self.course.params.late_joiners {
            LateJoiners::Staged => (last, TargetState::Pending),
            LateJoiners::Hold if completed => (last, TargetState::Pending),
            LateJoiners::Hold => (last, TargetState::Held),
            LateJoiners::Immediate => {
                let current = self.course.wave.map_or(0, |(wave, _)| wave);
                (current, TargetState::Pending)
            }
        };
        let rank = self.targets.values().map(|target| target.row.rank).max();
        let group = self.course.params.budget.group(labels);
        let mut row = TargetRow::new(wave, rank.map_or(0, |rank| rank + 1), group, now);
        row.state = state;
        let target = Target {
            row,
            up,
            link_at: now,
        };
        self.index(node, &target);
        self.targets.insert(node, target);
        self.dirty.insert(node);
    }

    fn left(&mut self, node: NodeId, now: UnixMillis) {
        let gone = self
            .targets
            .get(&node)
            .is_none_or(|target| target.row.state == TargetState::Skipped);
        if !gone {
            self.change(node, true, |target| {
                let row = &mut target.row;
                row.state = TargetState::Skipped;
                row.since = now;
                row.verdict = None;
                row.retry_at = None;
                row.degraded = false;
            });
        }
    }

    fn move_all(&mut self, from: TargetState, to: TargetState, now: UnixMillis) {
        let nodes: Vec<NodeId> = self.in_state(from).collect();
        for node in nodes {
            self.change(node, true, |target| {
                target.row.state = to;
                target.row.since = now;
                target.row.verdict = None;
            });
        }
    }

    fn in_state(&self, state: TargetState) -> impl Iterator<Item = NodeId> {
        self.targets
            .iter()
            .filter(move |(_, target)| target.row.state == state)
            .map(|(node, _)| *node)
    }

    /// Silence that lasted too long, and delays that are over.
    fn expire(&mut self, now: UnixMillis) {
        while let Some(&(at, node)) = self.due.first() {
            if at > now {
                return;
            }
            self.change(node, true, |target| {
                let row = &mut target.row;
                if row.state == TargetState::Delayed {
                    row.state = TargetState::Pending;
                    row.retry_at = None;
                    row.since = now;
                } else {
                    row.verdict = Some((now, Verdict::WentSilent));
                    if row.state.is_in_flight() {
                        row.state = TargetState::Silent;
                        row.since = now;
                    }
                }
            });
        }
    }

    /// When a target is due; none when nothing of it is waited for.
    fn due_at(&self, target: &Target) -> Option<UnixMillis> {
        let row = &target.row;
        let params = &self.course.params;
        let silent = Duration::from_millis(params.silent_deadline_ms);
        if row.state == TargetState::Delayed {
            return row.retry_at;
        }
        if row.state.is_in_flight() {
            let heard = row.heard_at.max(row.since);
            // A node that is there ends a change by itself when there is no
            // progress; its word gets one silent deadline more.
            let patience = Duration::from_millis(
                params
                    .health
                    .progress_deadline_ms
                    .saturating_add(params.health.initial_delay_ms),
            );
            return Some(if target.up {
                heard.after(patience).after(silent)
            } else {
                heard.max(target.link_at).after(silent)
            });
        }
        let doubted = row.verdict.is_some_and(|(_, verdict)| verdict.is_bad());
        let watched = row.state.has_revision() && self.course.finished.is_none();
        (watched && !target.up && !doubted).then(|| target.link_at.after(silent))
    }

    /// Changes a target and everything that is counted of it.
    fn change(&mut self, node: NodeId, durable: bool, edit: impl FnOnce(&mut Target)) {
        let Some(mut target) = self.targets.remove(&node) else {
            return;
        };
        self.unindex(node, &target);
        edit(&mut target);
        self.index(node, &target);
        self.targets.insert(node, target);
        if durable {
            self.dirty.insert(node);
        }
    }

    fn index(&mut self, node: NodeId, target: &Target) {
        let row = &target.row;
        self.tally.put(node, row, &self.course.params.halt);
        if row.state != TargetState::Skipped {
            self.groups.put(&row.group, is_disrupted(target));
        }
        if let Some(at) = row.paced_at {
            self.pace.put(node, at);
        }
        if row.state == TargetState::Pending && target.up {
            self.ready.insert((row.wave, row.rank, node));
        }
        if let Some(at) = self.due_at(target) {
            self.due.insert((at, node));
        }
    }

    fn unindex(&mut self, node: NodeId, target: &Target) {
        let row = &target.row;
        self.tally.take(node, row);
        if row.state != TargetState::Skipped {
            self.groups.take(&row.group, is_disrupted(target));
        }
        if let Some(at) = row.paced_at {
            self.pace.take(node, at);
        }
        self.ready.remove(&(row.wave, row.rank, node));
        if let Some(at) = self.due_at(target) {
            self.due.remove(&(at, node));
        }
    }

    /// Counts everything anew.
    fn index_all(&mut self) {
        self.tally.reset(self.course.acknowledged_at);
        self.groups = Groups::default();
        self.pace = Pace::default();
        self.ready.clear();
        self.due.clear();
        let targets = std::mem::take(&mut self.targets);
        for (node, target) in &targets {
            self.index(*node, target);
        }
        self.targets = targets;
    }

    /// Gives a target an order.
    fn order(&mut self, node: NodeId, want: Want, state: TargetState, now: UnixMillis) {
        let paced = matches!(want, Want::Run | Want::Revert);
        self.change(node, true, |target| {
            let row = &mut target.row;
            row.order += 1;
            row.want = Some(want);
            row.state = state;
            row.since = now;
            row.heard_at = now;
            row.retry_at = None;
            row.degraded = false;
            if paced {
                row.paced_at = Some(now);
            }
            if want == Want::Run {
                row.verdict = None;
                row.class = None;
            }
        });
        if let Some(target) = self.targets.get(&node) {
            self.orders.push((node, target.row.order, want));
        }
    }

    /// A number by chance below `bound` that is the same whenever it is drawn.
    fn chance(&self, node: NodeId, order: u32, bound: u64) -> u64 {
        let digest = Digest::of(
            "flotilla rollout chance",
            &[
                self.course.rollout.as_bytes(),
                node.as_bytes(),
                &order.to_be_bytes(),
            ],
        );
        let mut first = [0; 8];
        first.copy_from_slice(&digest.0[..8]);
        u64::from_be_bytes(first) % bound.max(1)
    }
}

fn is_disrupted(target: &Target) -> bool {
    !target.up || target.row.is_disrupted()
}
