//! Starts, names and joins every task of the controller.
//!
//! Invariant: no task is detached. A top-level task runs until it is told to
//! stop; one that ends earlier, by error, panic or simply returning, stops the
//! whole process with a code, and systemd starts it again: start-up is recovery.
//! Shutdown goes stage by stage in the order given, all under one deadline.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;

/// How long an ordered shutdown may take before what is left is abandoned.
/// systemd's default is 90 s; ours is far below, so that it is we who say
/// which task did not end.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

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

/// The order in which tasks are asked to stop: what takes work in goes first,
/// what makes it durable goes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Listeners and faces.
    Intake,
    /// What acts on the journal: effects, uplink, broker.
    Work,
    /// The engine and the stores.
    Store,
}

const STAGES: [Stage; 3] = [Stage::Intake, Stage::Work, Stage::Store];

/// Why the supervisor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Code for the process.
    pub exit: Exit,
    /// The task that failed first, with its reason.
    pub failure: Option<(&'static str, String)>,
    /// Tasks still running when the deadline passed.
    pub abandoned: Vec<&'static str>,
}

struct Done {
    name: &'static str,
    failure: Option<(Exit, String)>,
}

/// Owns the top-level tasks.
pub struct Supervisor {
    tasks: JoinSet<Done>,
    names: Vec<(tokio::task::Id, &'static str, Stage)>,
    stops: [CancellationToken; 3],
    deadline: Duration,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new(SHUTDOWN_MAX)
    }
}

impl Supervisor {
    /// A supervisor whose shutdown takes at most `deadline`.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: Vec::new(),
            stops: [
                CancellationToken::new(),
                CancellationToken::new(),
                CancellationToken::new(),
            ],
            deadline,
        }
    }

    /// The token that tells tasks of `stage` to end.
    #[must_use]
    pub fn stop(&self, stage: Stage) -> CancellationToken {
        self.stops[stage as usize].clone()
    }

    /// Starts a top-level task. `exit` is the process's code should it fail.
    pub fn start<F, E>(&mut self, name: &'static str, stage: Stage, exit: Exit, future: F)
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

    /// Runs until `asked` resolves or a task ends by itself, then shuts down.
    pub async fn run(mut self, asked: impl Future<Output = ()>) -> Ended {
        let failure = tokio::select! {
            () = asked => None,
            ended = self.next() => ended.map(|done| match done.failure {
                Some((exit, reason)) => (done.name, exit, reason),
                None => (done.name, Exit::Bug, "ended without being asked".to_owned()),
            }),
        };
        if let Some((name, _, reason)) = &failure {
            tracing::error!(task = name, reason, "a task ended, stopping the controller");
        }
        let abandoned = self.shut_down().await;
        Ended {
            exit: failure.as_ref().map_or(Exit::Ok, |(_, exit, _)| *exit),
            failure: failure.map(|(name, _, reason)| (name, reason)),
            abandoned,
        }
    }

    async fn shut_down(&mut self) -> Vec<&'static str> {
        let deadline = Instant::now() + self.deadline;
        for stage in STAGES {
            self.stops[stage as usize].cancel();
            let drain = async {
                while self.names.iter().any(|(_, _, of)| *of == stage) {
                    let Some(done) = self.next().await else { break };
                    if let Some((_, reason)) = done.failure {
                        tracing::warn!(task = done.name, reason, "task failed while stopping");
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

    /// The next task to end, or `None` when none is left.
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
        let mut supervisor = Supervisor::default();
        supervisor.start("journal", Stage::Store, Exit::Store, async {
            Err("disk is full")
        });
        let ended = supervisor.run(std::future::pending()).await;
        assert_eq!(ended.exit, Exit::Store);
        assert_eq!(ended.failure, Some(("journal", "disk is full".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_bug_and_names_its_task() {
        let mut supervisor = Supervisor::default();
        supervisor.start("uplink", Stage::Work, Exit::Store, async {
            if std::hint::black_box(true) {
                panic!("boom");
            }
            Ok::<(), Infallible>(())
        });
        let ended = supervisor.run(std::future::pending()).await;
        assert_eq!(ended.exit, Exit::Bug);
        assert_eq!(ended.failure.map(|(name, _)| name), Some("uplink"));
    }

    #[tokio::test(start_paused = true)]
    async fn stages_stop_in_order_and_a_stuck_task_is_named() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut supervisor = Supervisor::new(Duration::from_secs(3));
        for (name, stage) in [
            ("engine", Stage::Store),
            ("api", Stage::Intake),
            ("uplink", Stage::Work),
        ] {
            let stop = supervisor.stop(stage);
            let order = Arc::clone(&order);
            supervisor.start(name, stage, Exit::Bug, async move {
                stop.cancelled().await;
                order.lock().unwrap().push(name);
                Ok::<(), Infallible>(())
            });
        }
        supervisor.start("stuck", Stage::Store, Exit::Bug, async {
            std::future::pending::<()>().await;
            Ok::<(), Infallible>(())
        });
        let ended = supervisor.run(async {}).await;
        assert_eq!(ended.exit, Exit::Ok);
        assert_eq!(*order.lock().unwrap(), ["api", "uplink", "engine"]);
        assert_eq!(ended.abandoned, ["stuck"]);
    }
}
