//! Flotilla's own machine over the simulated fleet.

use std::collections::BTreeSet;
use std::time::Duration;

use controller::domain::rollout::course::{Course, Stop};
use controller::domain::rollout::event::{Kind, RolloutStarted};
use controller::domain::rollout::machine::{Input, Output, Rollout};
use controller::domain::rollout::params::Params;
use controller::domain::rollout::target::{FailureClass, Left, Report, Want};
use protocol::id::{DeploymentId, NodeId};
use protocol::time::UnixMillis;

use crate::fleet::{Agenda, Case, End, Fleet, START};

/// How long a node takes to go back.
const GOING_BACK: Duration = Duration::from_secs(10);

/// The way of an order or a report, and of a decision to the disk.
const ONE_WAY: Duration = Duration::from_millis(100);

struct Run {
    machine: Rollout,
    fleet: Fleet,
    agenda: Agenda<(NodeId, u32, Said)>,
    end: End,
    first_failure_at: Option<UnixMillis>,
    told: BTreeSet<NodeId>,
    quiet_at: UnixMillis,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Succeeded,
    Failed,
    WentBack,
}

/// Runs the defaults until the rollout has ended or waits for someone.
pub(crate) fn run(case: &Case) -> End {
    let params = Params::default();
    let fleet = Fleet::new(case, &params);
    let started = RolloutStarted {
        rollout: fleet.rollout,
        deployment: DeploymentId::from_bytes([1; 10]),
        revision: 2,
        kind: Kind::Forward,
        params,
        waves: fleet.plan.sizes(),
        plan_digest: fleet.plan.digest(),
    };
    let rows = fleet.plan.rows(START);
    let up = rows.keys().copied().collect();
    let mut run = Run {
        machine: Rollout::resume(Course::new(&started, START), rows, &up, START),
        fleet,
        agenda: Agenda::new(),
        end: End::default(),
        first_failure_at: None,
        told: BTreeSet::new(),
        quiet_at: START,
    };
    run.go()
}

impl Run {
    fn go(&mut self) -> End {
        let mut now = START;
        self.step(Input::Tick, now);
        loop {
            let halted = matches!(self.machine.course().stop, Some(Stop::Halted { .. }));
            let idle = self.agenda.next_at().is_none();
            if self.machine.course().finished.is_some() || (halted && idle) {
                self.end.halted = halted;
                break;
            }
            let wake = self.machine.wakes_at(now).map(|(at, _)| at);
            match (self.agenda.next_at(), wake) {
                (Some(at), wake) if wake.is_none_or(|wake| at <= wake) => {
                    let Some((at, (node, order, said))) = self.agenda.pop() else {
                        break;
                    };
                    now = at;
                    self.hear(node, order, said, now);
                }
                (_, Some(at)) => {
                    now = at;
                    self.step(Input::Tick, now);
                }
                (_, None) => break,
            }
        }
        self.end.took = now.since(START);
        self.end.first_failure_to_quiet = self
            .first_failure_at
            .map(|first| self.quiet_at.max(first).since(first));
        self.end
    }

    fn hear(&mut self, node: NodeId, order: u32, said: Said, now: UnixMillis) {
        let newest = self.machine.row(node).is_some_and(|row| row.order == order);
        if !newest {
            return;
        }
        self.quiet_at = now;
        let report = match said {
            Said::Succeeded | Said::WentBack => Report::Succeeded,
            Said::Failed => {
                self.first_failure_at.get_or_insert(now);
                Report::Failed {
                    class: FailureClass::Failed,
                    left: Left::Restored,
                }
            }
        };
        let input = Input::Reported {
            node,
            order,
            report,
        };
        self.step(input, now);
    }

    fn step(&mut self, input: Input, now: UnixMillis) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.machine.step(input, now) {
                match output {
                    Output::Record(decision) => {
                        inputs.push(Input::Recorded { decision, at: now });
                    }
                    Output::Save { .. } | Output::Waited(_) => {}
                    Output::Send { node, order, want } => self.send(node, order, want, now),
                }
            }
        }
    }

    fn send(&mut self, node: NodeId, order: u32, want: Want, now: UnixMillis) {
        let fate = self.fleet.fate(node);
        let (after, said) = match want {
            Want::Run => {
                if self.told.insert(node) {
                    self.end.told += 1;
                    self.end.bad += u32::from(fate.fails);
                }
                let said = if fate.fails {
                    Said::Failed
                } else {
                    Said::Succeeded
                };
                (fate.after, said)
            }
            Want::Recall | Want::Revert => (GOING_BACK, Said::WentBack),
            Want::Commit => (Duration::ZERO, Said::Succeeded),
        };
        let at = now.after(ONE_WAY).after(after).after(ONE_WAY);
        self.agenda.put(at, (node, order, said));
    }
}
