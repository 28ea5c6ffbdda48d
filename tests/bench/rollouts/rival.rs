//! Other ways to judge a rollout, over the same waves at the same pace.
//!
//! Each tells nodes in the order, in the waves, with the soak and at the rate of
//! Flotilla's defaults; what differs is when it stops, and that a stop reaches
//! only those who were not told yet.

use std::time::Duration;

use controller::domain::rollout::pace::{Pace, rate_after};
use controller::domain::rollout::params::Params;
use protocol::id::NodeId;
use protocol::time::UnixMillis;

use crate::fleet::{Agenda, Case, End, Fleet, START};

/// The way of an order and of a report.
const ONE_WAY: Duration = Duration::from_millis(100);

/// A way to judge.
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    judged: Judged,
}

/// When it stops.
enum Judged {
    /// After every result, once so many have ended: at so many percent failures.
    AfterTen { failed_percent: u32 },
    /// When a batch has ended: below so many percent successes in it.
    AtBatchEnd { succeeded_percent: u32 },
}

/// AWS IoT Jobs has no default threshold: ten percent is what flightctl's default
/// comes to, and five and twenty show what the choice does.
pub(crate) const ALL: [Rival; 4] = [
    Rival {
        name: "AWS-style, 10 % of at least 10",
        judged: Judged::AfterTen { failed_percent: 10 },
    },
    Rival {
        name: "AWS-style, 5 % of at least 10",
        judged: Judged::AfterTen { failed_percent: 5 },
    },
    Rival {
        name: "AWS-style, 20 % of at least 10",
        judged: Judged::AfterTen { failed_percent: 20 },
    },
    Rival {
        name: "flightctl-style, 90 % at batch end",
        judged: Judged::AtBatchEnd {
            succeeded_percent: 90,
        },
    },
];

/// Executions that must have ended before a percentage is judged.
const EXECUTED_MIN: u32 = 10;

#[derive(Clone, Copy, Default)]
struct Results {
    ended: u32,
    failed: u32,
}

impl Rival {
    pub(crate) fn run(&self, case: &Case) -> End {
        let params = Params::default();
        let fleet = Fleet::new(case, &params);
        let mut run = Run {
            agenda: Agenda::new(),
            pace: Pace::default(),
            end: End::default(),
            all: Results::default(),
            now: START,
            first_failure_at: None,
        };
        for (index, wave) in fleet.plan.waves.iter().enumerate() {
            let mut batch = Results::default();
            let mut members = wave.iter();
            let mut next = members.next();
            while next.is_some() || run.agenda.next_at().is_some() {
                let rate = rate_after(&params.rate, run.all.ended - run.all.failed);
                let tell = run.pace.next_at(rate).max(run.now);
                let result_first = run.agenda.next_at().is_some_and(|at| at <= tell);
                match next {
                    Some(planned) if !run.end.halted && !result_first => {
                        run.now = tell;
                        run.tell(&fleet, planned.node);
                        next = members.next();
                    }
                    _ if run.agenda.next_at().is_some() => {
                        run.hear(&mut batch);
                        if self.stops_after(run.all) {
                            run.end.halted = true;
                        }
                    }
                    Some(_) | None => break,
                }
            }
            if self.stops_at_end(batch) {
                run.end.halted = true;
            }
            if run.end.halted {
                break;
            }
            let soak_ms = params.waves.get(index).map_or(0, |wave| wave.soak_ms);
            run.now = run.now.after(Duration::from_millis(soak_ms));
        }
        run.end.took = run.now.since(START);
        run.end.first_failure_to_quiet = run.first_failure_at.map(|first| run.now.since(first));
        run.end
    }

    fn stops_after(&self, all: Results) -> bool {
        match self.judged {
            Judged::AfterTen { failed_percent } => {
                all.ended >= EXECUTED_MIN && all.failed * 100 >= failed_percent * all.ended
            }
            Judged::AtBatchEnd { .. } => false,
        }
    }

    fn stops_at_end(&self, batch: Results) -> bool {
        match self.judged {
            Judged::AfterTen { .. } => false,
            Judged::AtBatchEnd { succeeded_percent } => {
                (batch.ended - batch.failed) * 100 < succeeded_percent * batch.ended
            }
        }
    }
}

struct Run {
    agenda: Agenda<(NodeId, bool)>,
    pace: Pace,
    end: End,
    all: Results,
    now: UnixMillis,
    first_failure_at: Option<UnixMillis>,
}

impl Run {
    fn tell(&mut self, fleet: &Fleet, node: NodeId) {
        let fate = fleet.fate(node);
        self.pace.put(node, self.now);
        self.end.told += 1;
        self.end.bad += u32::from(fate.fails);
        let at = self.now.after(ONE_WAY).after(fate.after).after(ONE_WAY);
        self.agenda.put(at, (node, fate.fails));
    }

    fn hear(&mut self, batch: &mut Results) {
        let Some((at, (_, fails))) = self.agenda.pop() else {
            return;
        };
        self.now = at;
        for results in [&mut self.all, batch] {
            results.ended += 1;
            results.failed += u32::from(fails);
        }
        if fails {
            self.first_failure_at.get_or_insert(at);
        }
    }
}
