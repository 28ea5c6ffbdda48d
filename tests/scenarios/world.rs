//! Nodes, a journal that never fails, and the controller's machine; what happens
//! is told line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controller::domain::rollout::course::Course;
use controller::domain::rollout::event::{
    AfterAbort, Decision, Kind, PauseReason, RolloutAborted, RolloutPaused, RolloutResumed,
    RolloutStarted, WaveApproved,
};
use controller::domain::rollout::machine::{BreakerAction, Input, Output, Rollout};
use controller::domain::rollout::params::Params;
use controller::domain::rollout::plan::{Candidate, Plan};
use controller::domain::rollout::target::{FailureClass, Left, Report, TargetState, Want};
use protocol::id::{DeploymentId, ID_BYTES, NodeId, RolloutId};
use protocol::label::Labels;
use protocol::time::UnixMillis;

const START: UnixMillis = UnixMillis(1_800_000_000_000);
const ROLLOUT: RolloutId = RolloutId::from_bytes([7; ID_BYTES]);

/// From being told to working, to the end of a change, and to the end of going back.
const WORKS_AFTER: Duration = Duration::from_secs(5);
const ENDS_AFTER: Duration = Duration::from_secs(30);
const GOES_BACK_AFTER: Duration = Duration::from_secs(10);

const BREAKER: &str = "fleet";

/// Who asked for the rollout.
const ASKED_BY: &str = "ann";

pub(crate) struct World {
    pub(crate) told: String,
    pub(crate) quiet: bool,
    machine: Rollout,
    plan: Plan,
    now: UnixMillis,
    /// What nodes will say, in the order of time.
    agenda: BTreeMap<(UnixMillis, u32), (NodeId, u32, Report)>,
    count: u32,
    bad: BTreeMap<NodeId, FailureClass>,
    mute: BTreeSet<NodeId>,
    away: BTreeSet<NodeId>,
    /// Orders that wait for the link.
    waiting: BTreeMap<NodeId, (u32, Want)>,
}

fn node_id(number: u16) -> NodeId {
    let mut bytes = [0; ID_BYTES];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn name(node: NodeId) -> String {
    let bytes = node.as_bytes();
    format!("n{}", u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl World {
    pub(crate) fn start(params: &Params, nodes: &BTreeMap<u16, Labels>) -> Self {
        let candidates: Vec<Candidate<'_>> = nodes
            .iter()
            .map(|(number, labels)| Candidate {
                node: node_id(*number),
                labels,
                present: true,
            })
            .collect();
        let plan = Plan::new(ROLLOUT.as_bytes(), params, &candidates);
        let started = RolloutStarted {
            rollout: ROLLOUT,
            deployment: DeploymentId::from_bytes([1; ID_BYTES]),
            revision: 2,
            kind: Kind::Forward,
            params: params.clone(),
            waves: plan.sizes(),
            plan_digest: plan.digest(),
        };
        let rows = plan.rows(START);
        let up = rows.keys().copied().collect();
        let mut world = Self {
            told: String::new(),
            quiet: false,
            machine: Rollout::resume(Course::new(&started, START), rows, &up, START),
            plan,
            now: START,
            agenda: BTreeMap::new(),
            count: 0,
            bad: BTreeMap::new(),
            mute: BTreeSet::new(),
            away: BTreeSet::new(),
            waiting: BTreeMap::new(),
        };
        let sizes: Vec<String> = world.plan.sizes().iter().map(u32::to_string).collect();
        world.say(&format!(
            "{} nodes in waves of {}",
            nodes.len(),
            sizes.join(", ")
        ));
        world
    }

    pub(crate) fn say(&mut self, what: &str) {
        let seconds = self.now.since(START).as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let line = format!("{hours:02}:{minutes:02}:{:02} {what}\n", seconds % 60);
        self.told.push_str(&line);
    }

    fn say_of(&mut self, node: NodeId, what: &str) {
        if !self.quiet {
            self.say(&format!("{}: {what}", name(node)));
        }
    }

    pub(crate) fn plan(&mut self) {
        for (index, wave) in self.plan.waves.clone().iter().enumerate() {
            let members: Vec<String> = wave
                .iter()
                .map(|planned| match planned.group.as_str() {
                    "" => name(planned.node),
                    group => format!("{} ({group})", name(planned.node)),
                })
                .collect();
            self.say(&format!("wave {}: {}", index + 1, members.join(" ")));
        }
    }

    pub(crate) fn show(&mut self) {
        let mut by_state: BTreeMap<TargetState, u32> = BTreeMap::new();
        for (_, row) in self.machine.rows() {
            *by_state.entry(row.state).or_default() += 1;
        }
        let counts: Vec<String> = by_state
            .iter()
            .map(|(state, count)| format!("{count} {}", state.name()))
            .collect();
        self.say(&format!("= {}", counts.join(", ")));
    }

    pub(crate) fn fails(&mut self, number: u16, class: FailureClass) {
        self.bad.insert(node_id(number), class);
    }

    pub(crate) fn succeeds(&mut self, number: u16) {
        self.bad.remove(&node_id(number));
    }

    pub(crate) fn mute(&mut self, number: u16) {
        self.mute.insert(node_id(number));
        self.link(number, false);
    }

    pub(crate) fn link(&mut self, number: u16, up: bool) {
        let node = node_id(number);
        if up {
            self.away.remove(&node);
            self.mute.remove(&node);
            self.step(Input::Up(node));
            if let Some((order, want)) = self.waiting.remove(&node) {
                self.deliver(node, order, want);
            }
        } else {
            self.away.insert(node);
            self.step(Input::Down(node));
        }
    }

    pub(crate) fn degrade(&mut self, number: u16) {
        let node = node_id(number);
        let order = self.machine.row(node).map_or(0, |row| row.order);
        let report = Report::Degraded;
        self.step(Input::Reported {
            node,
            order,
            report,
        });
    }

    pub(crate) fn join(&mut self, number: u16, labels: Labels) {
        let node = node_id(number);
        let up = true;
        self.step(Input::Joined {
            node,
            labels,
            up,
            withheld: None,
        });
    }

    pub(crate) fn leave(&mut self, number: u16) {
        self.step(Input::Left(node_id(number)));
    }

    /// A breaker is not closed; these nodes pass in spite of it.
    pub(crate) fn trip(&mut self, action: BreakerAction, passing: &[u16]) {
        let at = self.now;
        let breaker = BREAKER.to_owned();
        let passing = passing.iter().map(|number| node_id(*number)).collect();
        self.step(Input::BreakerTripped {
            breaker,
            action,
            at,
            passing,
        });
    }

    pub(crate) fn reset(&mut self) {
        let breaker = BREAKER.to_owned();
        self.step(Input::BreakerReset { breaker });
    }

    pub(crate) fn approve(&mut self, who: &str) {
        let course = self.machine.course();
        if let Err(refused) = course.check_approver(&ASKED_BY, &who) {
            return self.say(&format!("refused: {} {refused}", refused.code.text()));
        }
        let approved = WaveApproved {
            rollout: ROLLOUT,
            step: course.step,
            wave: course.next_wave(),
        };
        self.decide(Decision::WaveApproved(approved));
    }

    pub(crate) fn pause(&mut self) {
        let reason = "asked by an operator".to_owned();
        let paused = RolloutPaused {
            rollout: ROLLOUT,
            step: self.machine.course().step,
            why: PauseReason::Asked { reason },
        };
        self.decide(Decision::Paused(paused));
    }

    pub(crate) fn resume(&mut self) {
        let resumed = RolloutResumed {
            rollout: ROLLOUT,
            step: self.machine.course().step,
            acknowledged_at: self.now,
        };
        self.decide(Decision::Resumed(resumed));
    }

    pub(crate) fn abort(&mut self, then: AfterAbort) {
        let aborted = RolloutAborted {
            rollout: ROLLOUT,
            step: self.machine.course().step,
            reason: "asked by an operator".to_owned(),
            then,
        };
        self.decide(Decision::Aborted(aborted));
    }

    fn decide(&mut self, decision: Decision) {
        match self.machine.course().check(&decision) {
            Err(refused) => self.say(&format!("refused: {} {refused}", refused.code.text())),
            Ok(()) => {
                let at = self.now;
                self.step(Input::Recorded { decision, at });
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        self.step(Input::Tick);
        loop {
            let said = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let wake = self.machine.wakes_at(self.now).map(|(at, _)| at);
            let Some(next) = [said, wake]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= end)
            else {
                break;
            };
            self.now = next;
            if said == Some(next) {
                self.hear();
            } else {
                self.step(Input::Tick);
            }
        }
        self.now = end;
    }

    fn hear(&mut self) {
        let Some((_, (node, order, report))) = self.agenda.pop_first() else {
            return;
        };
        let newest = self.machine.row(node).is_some_and(|row| row.order == order);
        if self.mute.contains(&node) || !newest {
            return;
        }
        if self.away.contains(&node) {
            // Results are kept on the node until they are heard.
            let later = self.now.after(Duration::from_secs(60));
            self.say_later(later, node, order, report);
            return;
        }
        let want = self.machine.row(node).and_then(|row| row.want);
        match report {
            Report::Working => {}
            Report::Succeeded => self.say_of(
                node,
                match want {
                    Some(Want::Recall | Want::Revert) => "went back",
                    Some(Want::Commit) => "has committed",
                    Some(Want::Run) | None => "succeeded",
                },
            ),
            Report::AwaitingCommit => self.say_of(node, "is healthy and awaits the commit"),
            Report::Degraded => self.say_of(node, "is not well"),
            Report::Failed { class, .. } => {
                let named = FailureClass::ALL.iter().find(|(known, _)| *known == class);
                let class = named.map_or("", |(_, name)| *name);
                self.say_of(node, &format!("did not succeed ({class})"));
            }
        }
        self.step(Input::Reported {
            node,
            order,
            report,
        });
    }

    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let before: BTreeMap<NodeId, TargetState> = self
                .machine
                .rows()
                .map(|(node, row)| (node, row.state))
                .collect();
            for output in self.machine.step(input, self.now) {
                match output {
                    Output::Record(decision) => {
                        self.say(&format!("* {decision}"));
                        let at = self.now;
                        inputs.push(Input::Recorded { decision, at });
                    }
                    Output::Save { node, row } => {
                        let fell_silent = row.state == TargetState::Silent
                            && before.get(&node) != Some(&TargetState::Silent);
                        if fell_silent {
                            self.say_of(node, "is silent");
                        }
                    }
                    Output::Waited(_) => {}
                    Output::Send { node, order, want } => self.send(node, order, want),
                }
            }
        }
    }

    fn send(&mut self, node: NodeId, order: u32, want: Want) {
        let what = match want {
            Want::Run => "is told to run it",
            Want::Recall => "is recalled",
            Want::Commit => "is told to commit",
            Want::Revert => "is told to go back",
        };
        self.say_of(node, what);
        if self.away.contains(&node) {
            self.waiting.insert(node, (order, want));
        } else {
            self.deliver(node, order, want);
        }
    }

    fn deliver(&mut self, node: NodeId, order: u32, want: Want) {
        let (after, end) = match want {
            Want::Run => {
                self.say_later(self.now.after(WORKS_AFTER), node, order, Report::Working);
                let end = self.bad.get(&node).map_or(Report::Succeeded, |class| {
                    let left = match class {
                        FailureClass::Refused | FailureClass::Gated => Left::Untouched,
                        FailureClass::Failed
                        | FailureClass::Fetch
                        | FailureClass::TimedOut
                        | FailureClass::Unhealthy => Left::Restored,
                    };
                    Report::Failed {
                        class: *class,
                        left,
                    }
                });
                (ENDS_AFTER, end)
            }
            Want::Recall | Want::Revert => (GOES_BACK_AFTER, Report::Succeeded),
            Want::Commit => (Duration::from_secs(1), Report::Succeeded),
        };
        self.say_later(self.now.after(after), node, order, end);
    }

    fn say_later(&mut self, at: UnixMillis, node: NodeId, order: u32, report: Report) {
        self.count += 1;
        self.agenda.insert((at, self.count), (node, order, report));
    }
}
