//! Starts, names and joins every task of the agent.
//!
//! **Invariant:** no task is detached. A task runs until it is told to stop; one
//! that ends earlier, by error, panic or simply returning, stops the whole process
//! with a code, and systemd starts it again: start-up is recovery. Shutdown goes
//! stage by stage, all under one deadline.

mod agent;
mod bridge;
mod reload;
mod report;
mod watchdog;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use agent::{RunError, Start, Stopped, run};
pub use reload::{PasswordError, password as proxy_password};

use crate::exit::Exit;

/// How long an ordered shutdown may take before what is left is abandoned: running
/// commands get 6 s to end, the rest is quick. systemd's default is 90 s.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Starts a task that its caller joins. The one place that calls `tokio::spawn`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts tasks; callers keep the handle"
)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tracing::trace!(task = name, "task starts");
    tokio::spawn(future)
}

/// The order in which tasks are asked to stop: what makes work first, what makes
/// it known last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Sampling, and carrying out commands.
    Work,
    /// What takes the results of work to the core.
    Results,
    /// The uplink, the status, the identity's keeper.
    Link,
}

const STAGES: [Stage; 3] = [Stage::Work, Stage::Results, Stage::Link];

/// Why the supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    /// Code for the process.
    exit: Exit,
    /// The task that ended first, with its reason.
    failure: Option<(&'static str, String)>,
    /// Tasks still running when the deadline passed.
    abandoned: Vec<&'static str>,
}

struct Done {
    name: &'static str,
    failure: Option<(Exit, String)>,
}

/// Owns the tasks.
struct Supervisor {
    tasks: JoinSet<Done>,
    names: Vec<(tokio::task::Id, &'static str, Stage)>,
    stops: [CancellationToken; 3],
    deadline: Duration,
}

impl Supervisor {
    /// A supervisor whose shutdown takes at most `deadline`.
    fn new(deadline: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: Vec::new(),
            stops: STAGES.map(|_| CancellationToken::new()),
            deadline,
        }
    }

    /// The token that tells tasks of `stage` to end.
    fn stop(&self, stage: Stage) -> CancellationToken {
        self.stops[stage as usize].clone()
    }

    /// Starts a task. `exit` is the process's code should it fail.
    fn start<F, E>(&mut self, name: &'static str, stage: Stage, exit: Exit, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let handle = self.tasks.spawn(async move {
            let failure = future.await.err().map(|error| (exit, error.to_string()));
            Done { name, failure }
        });
        self.names.push((handle.id(), name, stage));
    }

    /// Runs until `asked` resolves or a task ends by itself, then shuts down;
    /// `before_link` runs when all results are with the core.
    async fn run(
        mut self,
        asked: impl Future<Output = ()>,
        before_link: impl AsyncFnOnce(),
    ) -> Ended {
        let failure = tokio::select! {
            () = asked => None,
            ended = self.next() => ended.map(|done| match done.failure {
                Some((exit, reason)) => (done.name, exit, reason),
                None => (done.name, Exit::Bug, "ended without being asked".to_owned()),
            }),
        };
        if let Some((name, _, reason)) = &failure {
            tracing::error!(task = name, reason, "a task ended, the agent stops");
        }
        let abandoned = self.shut_down(before_link).await;
        Ended {
            exit: failure.as_ref().map_or(Exit::Ok, |(_, exit, _)| *exit),
            failure: failure.map(|(name, _, reason)| (name, reason)),
            abandoned,
        }
    }

    async fn shut_down(&mut self, before_link: impl AsyncFnOnce()) -> Vec<&'static str> {
        let deadline = Instant::now() + self.deadline;
        let mut before_link = Some(before_link);
        for stage in STAGES {
            if stage == Stage::Link
                && let Some(before_link) = before_link.take()
                && tokio::time::timeout_at(deadline, before_link())
                    .await
                    .is_err()
            {
                tracing::warn!("the core did not take the last results in time");
            }
            self.stops[stage as usize].cancel();
            let drain = async {
                while self.names.iter().any(|(_, _, of)| *of == stage) {
                    let Some(done) = self.next().await else { break };
                    if let Some((_, reason)) = done.failure {
                        tracing::warn!(task = done.name, reason, "a task failed while stopping");
                    }
                }
            };
            if tokio::time::timeout_at(deadline, drain).await.is_err() {
                tracing::warn!(?stage, "tasks did not stop in time");
            }
        }
        let abandoned: Vec<_> = self.names.iter().map(|(_, name, _)| *name).collect();
        self.tasks.abort_all();
        abandoned
    }

    /// The next task to end, or none when none is left.
    async fn next(&mut self) -> Option<Done> {
        let (id, done) = match self.tasks.join_next_with_id().await? {
            Ok((id, done)) => (id, done),
            Err(error) => {
                let id = error.id();
                let name = self
                    .names
                    .iter()
                    .find(|(of, _, _)| *of == id)
                    .map_or("unnamed", |(_, name, _)| *name);
                let failure = Some((Exit::Bug, "panicked".to_owned()));
                (id, Done { name, failure })
            }
        };
        self.names.retain(|(of, _, _)| *of != id);
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_unasked_stops_the_process_with_its_code() {
        let mut supervisor = Supervisor::new(SHUTDOWN_MAX);
        supervisor.start("core", Stage::Link, Exit::Store, async {
            Err("disk is full")
        });
        let ended = supervisor.run(std::future::pending(), async || {}).await;
        assert_eq!(ended.exit, Exit::Store);
        assert_eq!(ended.failure, Some(("core", "disk is full".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_bug_and_names_its_task() {
        let mut supervisor = Supervisor::new(SHUTDOWN_MAX);
        supervisor.start("uplink", Stage::Link, Exit::Store, async {
            if std::hint::black_box(true) {
                panic!("boom");
            }
            Ok::<(), Infallible>(())
        });
        let ended = supervisor.run(std::future::pending(), async || {}).await;
        assert_eq!(ended.exit, Exit::Bug);
        assert_eq!(ended.failure.map(|(name, _)| name), Some("uplink"));
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_order_and_a_stuck_task_is_named() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new(Duration::from_secs(3));
        for (name, stage) in [
            ("uplink", Stage::Link),
            ("sampling", Stage::Work),
            ("bridge", Stage::Results),
        ] {
            let stop = supervisor.stop(stage);
            let order = Arc::clone(&order);
            supervisor.start(name, stage, Exit::Bug, async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
                Ok::<(), Infallible>(())
            });
        }
        supervisor.start("stuck", Stage::Link, Exit::Bug, async {
            std::future::pending::<()>().await;
            Ok::<(), Infallible>(())
        });
        let known = Arc::clone(&order);
        let ended = supervisor
            .run(async {}, async move || known.lock().unwrap().push("known"))
            .await;
        assert_eq!(ended.exit, Exit::Ok);
        assert_eq!(
            *order.lock().unwrap(),
            ["sampling", "bridge", "known", "uplink"]
        );
        assert_eq!(ended.abandoned, ["stuck"]);
    }
}
