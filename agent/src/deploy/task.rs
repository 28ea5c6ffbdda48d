//! The subsystem: one drive for each deployment, in one task.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use protocol::deployment::observed::DeploymentState;
use protocol::id::{DeploymentId, NodeId};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::drive::{Drive, Shared};
use super::fetch::Fetcher;
use super::files::Files;
use super::hands::Hands;
use super::{Clocks, ContainerRuntime, Core, Settings};
use crate::dependency::Dependencies;
use crate::domain::deployment::record::Record;
use crate::domain::gate::Admit;
use crate::node::task::CoreGone;
use crate::store::Deployments;

/// Pause before the engine's events are asked for again. Nothing depends on them
/// but how soon something is seen.
const WATCH_AGAIN: Duration = Duration::from_secs(5);

/// The states by deployment, for the status.
pub type States = BTreeMap<DeploymentId, DeploymentState>;

/// What the subsystem needs.
pub struct Context<R, F, C> {
    /// The node, whose id is in the labels of its containers.
    pub node: NodeId,
    /// The engine.
    pub runtime: R,
    /// Gets archives and files.
    pub fetcher: F,
    /// The core.
    pub core: C,
    /// Where files are kept.
    pub files: Files,
    /// What the node's configuration says.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The breakers of what is depended on.
    pub dependencies: Dependencies,
    /// What is kept of each deployment.
    pub deployments: watch::Receiver<Arc<Deployments>>,
    /// The states, for the status.
    pub states: watch::Sender<Arc<States>>,
    /// Asked right before a change begins, and not for rollbacks, removals and
    /// repairs.
    pub admit: Admit,
    /// The clocks.
    pub clocks: Clocks,
    /// Fixes the jitter.
    pub seed: u64,
    /// Ends it.
    pub stop: CancellationToken,
}

struct Driven {
    records: watch::Sender<Arc<Record>>,
    nudge: Arc<Notify>,
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<(), CoreGone>> + Send + 'a>>;

/// Drives deployments until it is stopped. Stopping may come between any two
/// calls: the next start goes on from what is there.
///
/// # Errors
/// When the core has stopped.
pub async fn run<R, F, C>(context: Context<R, F, C>) -> Result<(), CoreGone>
where
    R: ContainerRuntime,
    F: Fetcher,
    C: Core,
{
    let Context {
        node,
        runtime,
        fetcher,
        core,
        files,
        settings,
        dependencies,
        mut deployments,
        states,
        admit,
        clocks,
        seed,
        stop,
    } = context;
    let prefix = settings.borrow().name_prefix.clone();
    let shared = Arc::new(Shared {
        hands: Hands {
            node,
            prefix,
            runtime,
            fetcher,
            files,
            settings,
            dependencies,
        },
        core,
        clocks,
        admit,
        told: Arc::new(move |state: &DeploymentState| {
            states.send_modify(|states| {
                Arc::make_mut(states).insert(state.deployment, state.clone());
            });
        }),
    });
    let driven: Arc<Mutex<BTreeMap<DeploymentId, Driven>>> = Arc::default();
    let mut running: FuturesUnordered<Running<'_>> = FuturesUnordered::new();
    loop {
        let records = Arc::clone(&deployments.borrow_and_update());
        {
            let mut driven = lock(&driven);
            driven.retain(|deployment, _| records.contains_key(deployment));
            let projects = records
                .iter()
                .filter(|(_, record)| record.update().is_none());
            for (deployment, record) in projects {
                if let Some(one) = driven.get(deployment) {
                    one.records.send_if_modified(|held| {
                        let changed = !Arc::ptr_eq(held, record);
                        *held = Arc::clone(record);
                        changed
                    });
                    continue;
                }
                let (sender, receiver) = watch::channel(Arc::clone(record));
                let nudge = Arc::new(Notify::new());
                let seed = seed ^ u64::from(record.desired.number);
                let drive = Drive::new(Arc::clone(&shared), receiver, Arc::clone(&nudge), seed);
                running.push(Box::pin(drive.run()));
                let one = Driven {
                    records: sender,
                    nudge,
                };
                driven.insert(*deployment, one);
            }
        }
        let wanted = records
            .values()
            .any(|record| !record.is_gone() && record.update().is_none());
        let watching = watch_engine(&shared.hands.runtime, &driven, wanted);
        let mut watching = std::pin::pin!(watching);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = deployments.changed() => {
                    if changed.is_err() {
                        return Err(CoreGone);
                    }
                    break;
                }
                ended = running.next(), if !running.is_empty() => {
                    if let Some(Err(gone)) = ended {
                        // While the agent stops, the core may go first.
                        return if stop.is_cancelled() { Ok(()) } else { Err(gone) };
                    }
                }
                () = &mut watching => {}
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes drives by the engine's events, for ever. Without deployments the engine
/// is left alone.
async fn watch_engine<R: ContainerRuntime>(
    runtime: &R,
    driven: &Mutex<BTreeMap<DeploymentId, Driven>>,
    wanted: bool,
) {
    if !wanted {
        return std::future::pending().await;
    }
    let wake = |deployment: DeploymentId| {
        if let Some(one) = lock(driven).get(&deployment) {
            one.nudge.notify_one();
        }
    };
    loop {
        runtime.watch(&wake).await;
        tokio::time::sleep(WATCH_AGAIN).await;
        // What happened meanwhile was not heard.
        for one in lock(driven).values() {
            one.nudge.notify_one();
        }
    }
}
