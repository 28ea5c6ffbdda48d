//! What to do now, from what is meant and what is observed.
//!
//! A plan is made anew after every round, so it holds only what can be done at
//! once: what waits for something is named in [`Plan::waits`].
//!
//! **Invariant:** only containers with an owner are in a plan. Of one service one
//! container is chosen to stay; what the spare revision needs is stopped where it
//! stands in the way, and never removed.

use std::collections::{BTreeMap, BTreeSet};

use protocol::deployment::spec::{Condition, Restart};

use super::goal::{Goal, Wanted, checks_health, conflicts};
use super::observed::{Container, FileCopy, Health, Observed, Run, Settings};

/// One call to the engine, or one thing to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Get the image that a service of a revision needs.
    FetchImage {
        /// The revision.
        revision: u32,
        /// The service.
        service: String,
    },
    /// Get a config or secret, and make this copy of it.
    FetchFile {
        /// The revision.
        revision: u32,
        /// Its name in the spec.
        file: String,
        /// The copy.
        copy: FileCopy,
    },
    /// Make a network.
    CreateNetwork {
        /// The revision that defines it.
        revision: u32,
        /// The engine's name.
        name: String,
    },
    /// Make a volume.
    CreateVolume {
        /// The revision that defines it.
        revision: u32,
        /// The engine's name.
        name: String,
    },
    /// Make a service's container.
    Create {
        /// The revision.
        revision: u32,
        /// The service.
        service: String,
    },
    /// Start a container.
    Start {
        /// Its id.
        id: String,
        /// The service.
        service: String,
    },
    /// Let a paused container go on.
    Unpause {
        /// Its id.
        id: String,
        /// The service.
        service: String,
    },
    /// Stop a container and keep it.
    Stop {
        /// Its id.
        id: String,
        /// The service.
        service: String,
    },
    /// Stop a container and remove it.
    Remove {
        /// Its id.
        id: String,
        /// The service.
        service: String,
    },
    /// Remove a network that nobody uses.
    RemoveNetwork {
        /// The engine's name.
        name: String,
    },
    /// Remove the copies of files that no revision mounts.
    RemoveFiles {
        /// The copies that stay.
        keep: BTreeSet<FileCopy>,
    },
}

impl Step {
    /// The service that it is for.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::FetchImage { service, .. }
            | Self::Create { service, .. }
            | Self::Start { service, .. }
            | Self::Unpause { service, .. }
            | Self::Stop { service, .. }
            | Self::Remove { service, .. } => Some(service),
            Self::FetchFile { .. }
            | Self::CreateNetwork { .. }
            | Self::CreateVolume { .. }
            | Self::RemoveNetwork { .. }
            | Self::RemoveFiles { .. } => None,
        }
    }

    /// Whether it gets something from elsewhere.
    #[must_use]
    pub fn is_fetch(&self) -> bool {
        matches!(self, Self::FetchImage { .. } | Self::FetchFile { .. })
    }
}

/// What is meant.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// What shall run; none is nothing.
    pub goal: Option<&'a Goal<'a>>,
    /// What shall be kept besides until the goal is healthy.
    pub spare: Option<&'a Goal<'a>>,
}

/// What is known beyond the observation.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// Containers whose end is to be undone whatever their exit code: the engine
    /// or an earlier step stopped them.
    pub revive: &'a BTreeSet<String>,
    /// Services whose differences from the spec the engine does not let go away.
    pub tolerate: &'a BTreeSet<String>,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order; the first that fails ends the round.
    pub steps: Vec<Step>,
    /// What services wait for.
    pub waits: BTreeMap<String, String>,
    /// What differs from the goal by someone else's hand.
    pub drift: BTreeMap<String, String>,
    /// Services of which a container goes because it is set otherwise.
    pub changed: BTreeSet<String>,
}

/// How a container that has ended is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did what it had to do.
    Complete,
    /// It failed, and is not started again.
    Failed,
    /// Someone or something stopped it: it is started again.
    Stopped,
}

/// Codes of processes that were ended by SIGTERM or SIGKILL, and the one that
/// engines give when they do not know: the end came from outside.
const ENDED_FROM_OUTSIDE: [i32; 3] = [143, 137, 255];

/// How the end of a container is to be taken by its restart policy.
#[must_use]
pub fn end_of(container: &Container, restart: Restart) -> End {
    let code = container.exit_code.unwrap_or(0);
    let outside = ENDED_FROM_OUTSIDE.contains(&code) && !container.oom_killed;
    match restart {
        Restart::Always | Restart::UnlessStopped => End::Stopped,
        Restart::No | Restart::OnFailure(_) if code == 0 => End::Complete,
        Restart::No if outside => End::Stopped,
        Restart::No => End::Failed,
        Restart::OnFailure(most) if most > 0 && container.restarts >= most => End::Failed,
        Restart::OnFailure(_) => End::Stopped,
    }
}

/// The container of each service that is to stay, by the goal. One that a hand
/// changed is none of them, but for the services that are to be tolerated.
#[must_use]
pub fn choose<'a, 'o>(
    goal: &Goal<'a>,
    observed: &'o Observed,
    tolerate: &BTreeSet<String>,
) -> BTreeMap<&'a str, &'o Container> {
    choose_by(goal, observed, |service, wanted, container| {
        tolerate.contains(service) || difference(goal, service, wanted, container).is_none()
    })
}

fn choose_by<'a, 'o>(
    goal: &Goal<'a>,
    observed: &'o Observed,
    good: impl Fn(&str, &Wanted<'_>, &Container) -> bool,
) -> BTreeMap<&'a str, &'o Container> {
    let mut chosen: BTreeMap<&'a str, &'o Container> = BTreeMap::new();
    for container in &observed.containers {
        let Some((service, wanted)) = wanted_of(goal, container) else {
            continue;
        };
        if container.run == Run::Dead || !good(service, wanted, container) {
            continue;
        }
        let rank = |one: &Container| (!one.is_up(), one.run == Run::Created, one.id.clone());
        let better = chosen
            .get(service)
            .is_none_or(|other| rank(container) < rank(other));
        if better {
            chosen.insert(service, container);
        }
    }
    chosen
}

fn wanted_of<'g, 'a>(
    goal: &'g Goal<'a>,
    container: &Container,
) -> Option<(&'a str, &'g Wanted<'a>)> {
    let owner = container.owner.as_ref()?;
    let (service, wanted) = goal.services.get_key_value(owner.service.as_str())?;
    (wanted.hash == owner.hash).then_some((*service, wanted))
}

/// The service of a container that the goal wants, and how it is set otherwise than
/// it was to be made.
#[must_use]
pub fn differs<'a>(goal: &Goal<'a>, container: &Container) -> Option<(&'a str, Vec<&'static str>)> {
    let (service, wanted) = wanted_of(goal, container)?;
    Some((service, differences(goal, service, wanted, container)))
}

/// Differences that an engine may make by itself, where it knows no such limit.
pub const ENGINES_OWN: [&str; 5] = [
    "memory",
    "memory reservation",
    "cpus",
    "pids",
    "restart policy",
];

fn difference(
    goal: &Goal<'_>,
    service: &str,
    wanted: &Wanted<'_>,
    container: &Container,
) -> Option<String> {
    let found = differences(goal, service, wanted, container);
    (!found.is_empty()).then(|| found.join(", "))
}

fn differences(
    goal: &Goal<'_>,
    service: &str,
    wanted: &Wanted<'_>,
    container: &Container,
) -> Vec<&'static str> {
    let Some(owner) = &container.owner else {
        return Vec::new();
    };
    let revision = owner.revision;
    let meant = goal.settings(service, wanted, revision);
    let found = &container.settings;
    let Settings {
        name,
        memory_bytes,
        memory_reservation_bytes,
        nano_cpus,
        pids,
        restart,
        networks,
    } = meant;
    let changes = [
        ("name", name != found.name),
        ("memory", memory_bytes != found.memory_bytes),
        (
            "memory reservation",
            memory_reservation_bytes != found.memory_reservation_bytes,
        ),
        ("cpus", nano_cpus != found.nano_cpus),
        // An engine may have a bound of its own where none is asked for.
        ("pids", pids != 0 && pids != found.pids),
        ("restart policy", restart != found.restart),
        ("networks", networks != found.networks),
    ];
    changes
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(what, _)| what)
        .collect()
}

/// Plans a round.
#[must_use]
pub fn plan(aim: Aim<'_>, observed: &Observed, hints: Hints<'_>) -> Plan {
    let chosen = aim
        .goal
        .map(|goal| choose(goal, observed, hints.tolerate))
        .unwrap_or_default();
    // What both revisions have alike is the goal's; the rest of the spare one is
    // kept as it is.
    let alike = |service: &str, hash: &str| {
        aim.goal
            .and_then(|goal| goal.services.get(service))
            .is_some_and(|wanted| wanted.hash == hash)
    };
    let spare = aim
        .spare
        .map(|spare| {
            choose_by(spare, observed, |service, wanted, _| {
                !alike(service, &wanted.hash)
            })
        })
        .unwrap_or_default();
    let stays: BTreeSet<&str> = chosen
        .values()
        .chain(spare.values())
        .map(|container| container.id.as_str())
        .collect();
    let mut plan = Plan::default();
    for container in &observed.containers {
        let Some(owner) = &container.owner else {
            continue;
        };
        if stays.contains(container.id.as_str()) {
            continue;
        }
        if let Some(goal) = aim.goal
            && let Some((service, wanted)) = wanted_of(goal, container)
            && let Some(what) = difference(goal, service, wanted, container)
        {
            plan.drift
                .insert(service.to_owned(), format!("{what} changed by hand"));
            plan.changed.insert(service.to_owned());
        }
        plan.steps.push(Step::Remove {
            id: container.id.clone(),
            service: owner.service.clone(),
        });
    }
    if let Some(goal) = aim.goal {
        let round = Round {
            goal,
            observed,
            chosen: &chosen,
            spare_goal: aim.spare,
            spare: &spare,
            hints,
        };
        if round.fetch(&mut plan) {
            return plan;
        }
        round.create(&mut plan);
        round.start(&mut plan);
    }
    tidy(aim, observed, &mut plan);
    plan
}

/// Networks and file copies that neither revision uses. Volumes stay.
fn tidy(aim: Aim<'_>, observed: &Observed, plan: &mut Plan) {
    let goals = || aim.goal.into_iter().chain(aim.spare);
    let networks: BTreeSet<String> = goals()
        .flat_map(|goal| goal.networks().into_keys())
        .collect();
    for (name, own) in &observed.networks {
        if *own && !networks.contains(name) {
            plan.steps.push(Step::RemoveNetwork { name: name.clone() });
        }
    }
    let keep: BTreeSet<FileCopy> = goals().flat_map(|goal| goal.files().into_keys()).collect();
    if observed.files.iter().any(|copy| !keep.contains(copy)) {
        plan.steps.push(Step::RemoveFiles { keep });
    }
}

struct Round<'a, 'o> {
    goal: &'a Goal<'a>,
    observed: &'o Observed,
    chosen: &'a BTreeMap<&'a str, &'o Container>,
    spare_goal: Option<&'a Goal<'a>>,
    spare: &'a BTreeMap<&'a str, &'o Container>,
    hints: Hints<'a>,
}

impl Round<'_, '_> {
    /// Fetches what is missing. True when something is.
    fn fetch(&self, plan: &mut Plan) -> bool {
        let before = plan.steps.len();
        let revision = self.goal.target.revision;
        let mut asked = BTreeSet::new();
        for (service, wanted) in &self.goal.services {
            let there = self.observed.images.contains(&wanted.image);
            if !self.chosen.contains_key(service) && !there && asked.insert(&wanted.image) {
                plan.steps.push(Step::FetchImage {
                    revision,
                    service: (*service).to_owned(),
                });
            }
        }
        for (copy, file) in self.goal.files() {
            if !self.observed.files.contains(&copy) {
                plan.steps.push(Step::FetchFile {
                    revision,
                    file: file.to_owned(),
                    copy,
                });
            }
        }
        plan.steps.len() > before
    }

    fn create(&self, plan: &mut Plan) {
        let revision = self.goal.target.revision;
        let all_there = self.chosen.len() == self.goal.services.len();
        if all_there {
            return;
        }
        for (name, network) in self.goal.networks() {
            if network.external.is_none() && !self.observed.networks.contains_key(&name) {
                plan.steps.push(Step::CreateNetwork { revision, name });
            }
        }
        for (name, volume) in self.goal.volumes() {
            if volume.external.is_none() && !self.observed.volumes.contains(&name) {
                plan.steps.push(Step::CreateVolume { revision, name });
            }
        }
        for service in &self.goal.order {
            if !self.chosen.contains_key(service) {
                plan.steps.push(Step::Create {
                    revision,
                    service: (*service).to_owned(),
                });
                if !plan.drift.contains_key(*service) {
                    let what = "was not there".to_owned();
                    plan.drift.insert((*service).to_owned(), what);
                }
            }
        }
    }

    fn start(&self, plan: &mut Plan) {
        let mut starting: BTreeSet<&str> = BTreeSet::new();
        for service in &self.goal.order {
            let (Some(container), Some(wanted)) =
                (self.chosen.get(service), self.goal.services.get(service))
            else {
                continue;
            };
            let id = container.id.clone();
            let service_name = (*service).to_owned();
            match container.run {
                Run::Running | Run::Restarting | Run::Dead => continue,
                Run::Paused => {
                    plan.drift
                        .insert(service_name.clone(), "paused by hand".to_owned());
                    plan.steps.push(Step::Unpause {
                        id,
                        service: service_name,
                    });
                    continue;
                }
                Run::Exited => {
                    let revived = self.hints.revive.contains(&container.id);
                    if !revived && end_of(container, wanted.service.restart) != End::Stopped {
                        continue;
                    }
                    plan.drift
                        .insert(service_name.clone(), "stopped from outside".to_owned());
                }
                Run::Created => {}
            }
            if let Some(wait) = self.waits_for(wanted, &starting) {
                plan.waits.insert(service_name, wait);
                continue;
            }
            for (old, spare) in self.in_the_way(wanted) {
                let stop = Step::Stop {
                    id: spare.id.clone(),
                    service: old.to_owned(),
                };
                if !plan.steps.contains(&stop) {
                    plan.steps.push(stop);
                }
            }
            starting.insert(service);
            plan.steps.push(Step::Start {
                id,
                service: service_name,
            });
        }
    }

    /// Running containers of the spare revision beside which the service cannot
    /// run.
    fn in_the_way(&self, wanted: &Wanted<'_>) -> Vec<(&str, &Container)> {
        let Some(spare_goal) = self.spare_goal else {
            return Vec::new();
        };
        self.spare
            .iter()
            .filter(|(service, container)| {
                let conflict = spare_goal
                    .services
                    .get(*service)
                    .is_some_and(|old| conflicts(old.service, wanted.service));
                conflict && container.is_up()
            })
            .map(|(service, container)| (*service, *container))
            .collect()
    }

    fn waits_for(&self, wanted: &Wanted<'_>, starting: &BTreeSet<&str>) -> Option<String> {
        wanted
            .service
            .depends_on
            .iter()
            .find_map(|(needed, condition)| {
                let container = self.chosen.get(needed.as_str());
                let met =
                    match condition {
                        Condition::Started => {
                            starting.contains(needed.as_str())
                                || container.is_some_and(|c| c.was_started())
                        }
                        Condition::Healthy => container
                            .is_some_and(|c| c.is_up() && c.health == Some(Health::Healthy)),
                        Condition::Completed => container
                            .is_some_and(|c| c.run == Run::Exited && c.exit_code == Some(0)),
                    };
                (!met).then(|| self.wait_text(needed, *condition))
            })
    }

    fn wait_text(&self, needed: &str, condition: Condition) -> String {
        match condition {
            Condition::Started => format!("waits for {needed} to be started"),
            Condition::Completed => format!("waits for {needed} to be completed"),
            Condition::Healthy => {
                let checked = self
                    .goal
                    .services
                    .get(needed)
                    .is_some_and(|wanted| checks_health(wanted.service));
                let hint = if checked {
                    ""
                } else {
                    " (the project gives it no health check)"
                };
                format!("waits for {needed} to be healthy{hint}")
            }
        }
    }
}
