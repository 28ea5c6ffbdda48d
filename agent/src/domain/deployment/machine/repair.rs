//! Putting back what someone else's hand, or an earlier step, changed: how often,
//! and what is left as it is.
//!
//! **Invariant:** what has to be put back again and again is put back later and
//! later, and what the engine makes otherwise to begin with is never made anew for
//! it.

use std::collections::BTreeSet;

use super::{DRIFT_COUNT_MAX, Machine, RETRY_FIRST, RETRY_MAX};
use crate::domain::deployment::goal::Goal;
use crate::domain::deployment::observed::{Observed, Run};
use crate::domain::deployment::plan::{ENGINES_OWN, Plan, choose, differs};
use crate::domain::time::Moment;

impl Machine {
    pub(super) fn tolerated(&self) -> BTreeSet<String> {
        self.tolerated.keys().cloned().collect()
    }

    /// Tells what a hand changed from what the engine made otherwise to begin with:
    /// making that anew would change nothing.
    pub(super) fn note_differences(&mut self, goal: &Goal<'_>, observed: &Observed) {
        let there = |id: &String| observed.containers.iter().any(|c| c.id == *id);
        self.clean.retain(there);
        for container in &observed.containers {
            let Some((service, what)) = differs(goal, container) else {
                continue;
            };
            if what.is_empty() {
                self.clean.insert(container.id.clone());
            } else if container.run == Run::Created
                && !self.clean.contains(&container.id)
                && what.iter().all(|one| ENGINES_OWN.contains(one))
            {
                self.tolerated.insert(service.to_owned(), what.join(", "));
            }
        }
    }

    /// Takes out of the plan what was put back too often to be put back already,
    /// and gives the services of `these` that are put back now.
    pub(super) fn pace(
        &mut self,
        planned: &mut Plan,
        these: impl IntoIterator<Item = String>,
        now: Moment,
    ) -> Vec<String> {
        let mut paced = Vec::new();
        if self.retry_at.is_some_and(|at| now.tick < at) {
            return paced;
        }
        for service in these {
            let repairs = self.repairs.entry(service.clone()).or_default();
            if now.tick < repairs.not_before {
                planned
                    .steps
                    .retain(|step| step.service() != Some(service.as_str()));
                continue;
            }
            repairs.count += 1;
            repairs.at = now.tick;
            let doubled = 2_u32.saturating_pow(repairs.count);
            let pause = RETRY_FIRST.saturating_mul(doubled).min(RETRY_MAX);
            repairs.not_before = now.tick.after(pause);
            paced.push(service);
        }
        paced
    }

    /// Notes what is put back now.
    pub(super) fn repair(&mut self, planned: &mut Plan, now: Moment) {
        let drift = planned.drift.clone();
        for service in self.pace(planned, drift.keys().cloned(), now) {
            let what = drift.get(&service).map_or("", String::as_str);
            let note = format!("{service}: {what}");
            if self.drift.last() != Some(&note) {
                self.drift.push(note);
            }
        }
        let surplus = self.drift.len().saturating_sub(DRIFT_COUNT_MAX);
        self.drift.drain(..surplus);
    }

    /// Containers that a change stopped and that are to run: one that ended with
    /// code 0 looks complete. Each is started once more at most, unless others
    /// wait for its completion.
    pub(super) fn revive_stopped(&mut self, goal: &Goal<'_>, observed: &Observed) {
        for (service, container) in choose(goal, observed, &BTreeSet::new()) {
            if container.run == Run::Exited
                && !self.course.revived.contains(&container.id)
                && !goal.runs_once(service)
            {
                self.revive.insert(container.id.clone());
            }
        }
    }
}
