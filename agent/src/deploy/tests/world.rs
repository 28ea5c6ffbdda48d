//! A node in memory: a container engine, a controller's contents, the node's store,
//! and crashes and faults at any call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::observed::{DeploymentResult, DeploymentState};
use protocol::deployment::spec::{
    HealthTest, Healthcheck, Image, Network, NetworkMode, Restart, Service, Spec, Volume,
};
use protocol::id::{DeploymentId, NodeId, StoreId};
use protocol::message;
use protocol::session::BootId;
use protocol::state::{Lifecycle, StateItem, StateValue};
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dependency::Dependencies;
use crate::deploy::fetch::{Chunks, Content, FetchError, Fetcher};
use crate::deploy::files::Files;
use crate::deploy::task::{self, States};
use crate::deploy::{Clocks, ContainerRuntime, Core, Make, Note, Query, Settings};
use crate::domain::deployment::goal::image_handle;
use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::observed::{
    Container, Health, Observed, Owner, Run, Settings as ContainerSettings,
};
use crate::domain::deployment::record::Transition;
use crate::domain::session::Want as Wanted;
use crate::domain::time::{Moment, Tick};
use crate::node::task::CoreGone;
use crate::store::disk::MemoryDisk;
use crate::store::spool::MemorySpool;
use crate::store::{Deployments, Limits, Store};

pub(super) const NODE: NodeId = NodeId::from_bytes([9; 10]);
pub(super) const WEB: DeploymentId = DeploymentId::from_bytes([1; 10]);

/// How containers of an image behave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behaviour {
    Runs,
    /// Ends at once, with this code.
    Ends(i32),
    /// Ends with this code after a while.
    EndsAfter(u64, i32),
    /// Its health check never passes.
    NeverHealthy,
    /// The engine starts it again every second.
    Restarts,
}

/// When a crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

#[derive(Clone, Debug)]
pub(super) struct FakeContainer {
    pub(super) id: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) settings: ContainerSettings,
    pub(super) image: String,
    started: Option<(Instant, UnixMillis)>,
    stopped: Option<i32>,
    pub(super) paused: bool,
    checked: bool,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) containers: Vec<FakeContainer>,
    pub(super) images: BTreeSet<String>,
    pub(super) registry: BTreeSet<String>,
    pub(super) networks: BTreeMap<String, DeploymentId>,
    pub(super) volumes: BTreeSet<String>,
    pub(super) behaviour: BTreeMap<String, Behaviour>,
    pub(super) contents: BTreeMap<String, Vec<u8>>,
    made: u32,
    pub(super) calls: usize,
    pub(super) crash_at: Option<(usize, When)>,
    pub(super) engine_away: bool,
    /// The engine drops limits on memory, as on some kernels.
    pub(super) drops_memory: bool,
    pub(super) fail_next: Vec<(&'static str, StepError)>,
    pub(super) log: Vec<String>,
}

/// What survives a crash of the agent.
#[derive(Clone)]
pub(super) struct World {
    pub(super) inner: Arc<Mutex<Inner>>,
    crashed: Arc<Notify>,
    store: Arc<Mutex<Option<Store>>>,
    disk: MemoryDisk,
    spool: MemorySpool,
    deployments: Arc<watch::Sender<Arc<Deployments>>>,
    pub(super) states: Arc<watch::Sender<Arc<States>>>,
    pub(super) told: Arc<Mutex<Vec<DeploymentState>>>,
    pub(super) settings: Arc<watch::Sender<Arc<Settings>>>,
    folder: Arc<tempfile::TempDir>,
    start: Instant,
    pub(super) refuse: Arc<Mutex<Option<protocol::policy::Refusal>>>,
}

impl World {
    pub(super) fn new() -> Self {
        let world = Self {
            inner: Arc::default(),
            crashed: Arc::new(Notify::new()),
            store: Arc::default(),
            disk: MemoryDisk::default(),
            spool: MemorySpool::default(),
            deployments: Arc::new(watch::channel(Arc::default()).0),
            states: Arc::new(watch::channel(Arc::default()).0),
            told: Arc::default(),
            settings: Arc::new(watch::channel(Arc::new(Settings::default())).0),
            folder: Arc::new(tempfile::tempdir().unwrap()),
            start: Instant::now(),
            refuse: Arc::default(),
        };
        world.open_store();
        world
    }

    fn open_store(&self) {
        let started = |clean| Lifecycle::Started {
            boot: BootId([0; 16]),
            at: UnixMillis(0),
            agent_version: String::new(),
            clean,
        };
        let (store, _) = Store::open(
            Box::new(self.disk.clone()),
            Box::new(self.spool.clone()),
            Limits::default(),
            StoreId::from_bytes([5; 10]),
            started,
            UnixMillis(0),
        )
        .unwrap();
        self.deployments
            .send_replace(Arc::clone(store.deployments()));
        *self.store.lock().unwrap() = Some(store);
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap())
    }

    pub(super) fn now(&self) -> Moment {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        Moment {
            tick: Tick(1_000 + millis),
            wall: UnixMillis(1_000_000 + millis),
        }
    }

    /// The controller sends an order.
    pub(super) fn order(&self, desired: Desired) {
        let mut held = self.store.lock().unwrap();
        let store = held.as_mut().unwrap();
        store.take_desired(desired, self.now().wall);
        store.settle(true, self.now().wall, self.now().tick);
        self.deployments
            .send_replace(Arc::clone(store.deployments()));
    }

    pub(super) fn generation(&self) -> u64 {
        self.store
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .generation_kept()
    }

    /// The results in the control stream.
    pub(super) fn results(&self) -> Vec<DeploymentResult> {
        let mut held = self.store.lock().unwrap();
        let want = Wanted {
            stream: Stream::Control,
            after: 0,
            bytes_max: usize::MAX,
        };
        let entries = held.as_mut().unwrap().read(want, Tick(0)).unwrap();
        entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::DEPLOYMENT_RESULT)
            .map(|entry| message::decode_exactly(&entry.body).unwrap())
            .collect()
    }

    pub(super) fn state(&self) -> DeploymentState {
        self.states.borrow().get(&WEB).cloned().unwrap()
    }

    pub(super) fn stage(&self) -> crate::domain::deployment::record::Stage {
        self.deployments.borrow()[&WEB].stage.clone()
    }

    /// Runs an agent until `stop`, or until it crashes. True when it crashed.
    async fn live(&self, stop: CancellationToken) -> bool {
        let context = task::Context {
            node: NODE,
            runtime: self.clone(),
            fetcher: self.clone(),
            core: self.clone(),
            files: Files::below(self.folder.path().join("deploy")),
            settings: self.settings.subscribe(),
            dependencies: {
                let world = self.clone();
                Dependencies::new(Arc::new(move || world.now().wall))
            },
            deployments: self.deployments.subscribe(),
            states: (*self.states).clone(),
            admit: {
                let refuse = Arc::clone(&self.refuse);
                Arc::new(move |_| match refuse.lock().unwrap().clone() {
                    Some(refusal) => Err(refusal),
                    None => Ok(()),
                })
            },
            clocks: Clocks {
                moment: {
                    let world = self.clone();
                    Arc::new(move || world.now())
                },
                controller: {
                    let world = self.clone();
                    Arc::new(move || world.now().wall)
                },
            },
            seed: 7,
            stop,
        };
        tokio::select! {
            ended = task::run(context) => {
                ended.unwrap();
                false
            }
            () = self.crashed.notified() => true,
        }
    }

    /// Lets time pass with an agent that is started again whenever it crashes.
    pub(super) async fn run_for(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let stop = CancellationToken::new();
            let crashed = tokio::select! {
                crashed = self.live(stop.clone()) => crashed,
                () = tokio::time::sleep_until(end) => false,
            };
            if crashed {
                // What was not committed is gone.
                self.open_store();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Lets an agent live until the script ends.
    pub(super) async fn run_while<T>(&self, script: impl Future<Output = T>) -> T {
        tokio::select! {
            _ = self.live(CancellationToken::new()) => unreachable!("nobody stops it"),
            answer = script => answer,
        }
    }

    /// Counts a call, and crashes where it is to crash.
    async fn call<T>(&self, name: &str, effect: impl FnOnce(&mut Inner) -> T) -> T {
        // Every real call gives others a turn.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let crash = self.with(|inner| {
            inner.calls += 1;
            inner.log.push(name.to_owned());
            let crash = inner.crash_at.filter(|(at, _)| *at == inner.calls);
            crash.map(|(_, when)| when)
        });
        if crash == Some(When::Before) {
            return self.crash().await;
        }
        let answer = self.with(effect);
        if crash == Some(When::After) {
            return self.crash().await;
        }
        answer
    }

    async fn crash<T>(&self) -> T {
        self.crashed.notify_one();
        std::future::pending().await
    }

    async fn engine<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut Inner) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        self.call(name, |inner| {
            if inner.engine_away {
                return Err(StepError {
                    code: ErrorCode::ContainerEngine,
                    class: Class::Engine,
                    detail: "the engine is away".to_owned(),
                });
            }
            let fault = inner.fail_next.iter().position(|(of, _)| *of == name);
            if let Some(at) = fault {
                return Err(inner.fail_next.remove(at).1);
            }
            effect(inner)
        })
        .await
    }

    /// The revisions of the containers of a service that run.
    pub(super) fn running(&self, service: &str) -> Vec<String> {
        self.with(|inner| {
            let behaviour = inner.behaviour.clone();
            inner
                .containers
                .iter()
                .filter(|c| {
                    c.labels
                        .get("flotilla.service")
                        .is_some_and(|s| s == service)
                })
                .filter(|c| c.observe(&behaviour).run == Run::Running)
                .map(|c| c.labels["flotilla.revision"].clone())
                .collect()
        })
    }

    /// The engine stops and is started again later; what ran has ended.
    pub(super) fn engine_stops(&self, code: i32) {
        self.with(|inner| {
            inner.engine_away = true;
            for container in &mut inner.containers {
                if container.started.is_some() && container.stopped.is_none() {
                    container.stopped = Some(code);
                }
            }
        });
    }
}

impl FakeContainer {
    pub(super) fn foreign(name: &str) -> Self {
        Self {
            id: format!("foreign-{name}"),
            labels: BTreeMap::new(),
            settings: ContainerSettings {
                name: name.to_owned(),
                ..ContainerSettings::default()
            },
            image: "other".to_owned(),
            started: None,
            stopped: None,
            paused: false,
            checked: false,
        }
    }

    pub(super) fn stop_by_hand(&mut self, code: i32) {
        self.stopped = Some(code);
    }

    fn observe(&self, behaviour: &BTreeMap<String, Behaviour>) -> Container {
        let behaviour = behaviour
            .get(&self.image)
            .copied()
            .unwrap_or(Behaviour::Runs);
        let ended = self.started.and_then(|(at, _)| match behaviour {
            Behaviour::Ends(code) => Some(code),
            Behaviour::EndsAfter(ms, code) => {
                (at.elapsed() >= Duration::from_millis(ms)).then_some(code)
            }
            Behaviour::Runs | Behaviour::NeverHealthy | Behaviour::Restarts => None,
        });
        let exit_code = self.stopped.or(ended);
        let run = match (self.started, exit_code) {
            (None, _) => Run::Created,
            (Some(_), Some(_)) => Run::Exited,
            (Some(_), None) if self.paused => Run::Paused,
            (Some(_), None) if matches!(behaviour, Behaviour::Restarts) => Run::Restarting,
            (Some(_), None) => Run::Running,
        };
        let restarts = match (behaviour, self.started) {
            (Behaviour::Restarts, Some((at, _))) => at.elapsed().as_secs(),
            _ => 0,
        };
        let health = match behaviour {
            Behaviour::NeverHealthy if run == Run::Running => Some(Health::Unhealthy),
            Behaviour::NeverHealthy
            | Behaviour::Runs
            | Behaviour::Restarts
            | Behaviour::Ends(_)
            | Behaviour::EndsAfter(..) => {
                (self.checked && run == Run::Running).then_some(Health::Healthy)
            }
        };
        Container {
            id: self.id.clone(),
            owner: Owner::read(NODE, |key| self.labels.get(key).cloned()),
            run,
            health,
            exit_code: exit_code.filter(|_| run == Run::Exited),
            oom_killed: false,
            error: String::new(),
            restarts: u32::try_from(restarts).unwrap(),
            started_at: self.started.map(|(_, at)| at),
            image_digest: None,
            settings: self.settings.clone(),
            log_tail: match run {
                Run::Exited | Run::Restarting => vec!["last words".to_owned()],
                Run::Created | Run::Running | Run::Paused | Run::Dead => Vec::new(),
            },
        }
    }
}

fn gone() -> StepError {
    StepError {
        code: ErrorCode::WorkloadStart,
        class: Class::Final,
        detail: "no such container".to_owned(),
    }
}

impl Inner {
    fn find(&mut self, id: &str) -> Result<&mut FakeContainer, StepError> {
        self.containers
            .iter_mut()
            .find(|container| container.id == id)
            .ok_or_else(gone)
    }
}

impl ContainerRuntime for World {
    async fn observe(
        &self,
        deployment: DeploymentId,
        query: &Query,
    ) -> Result<Observed, StepError> {
        self.engine("observe", |inner| {
            Ok(Observed {
                // A filter that fails must not make foreign containers ours.
                containers: inner
                    .containers
                    .iter()
                    .map(|container| container.observe(&inner.behaviour))
                    .collect(),
                images: query.images.intersection(&inner.images).cloned().collect(),
                networks: inner
                    .networks
                    .iter()
                    .filter(|(_, of)| **of == deployment)
                    .map(|(name, _)| (name.clone(), true))
                    .collect(),
                volumes: query
                    .volumes
                    .intersection(&inner.volumes)
                    .cloned()
                    .collect(),
                files: BTreeSet::new(),
            })
        })
        .await
    }

    async fn pull(&self, image: &Image, note: Note<'_>) -> Result<(), StepError> {
        note("pulling".to_owned());
        self.engine("pull", |inner| {
            let handle = image_handle(image);
            if !inner.registry.contains(&handle) {
                return Err(StepError {
                    code: ErrorCode::ImageUnavailable,
                    class: Class::Final,
                    detail: format!("{handle}: manifest unknown"),
                });
            }
            inner.images.insert(handle);
            Ok(())
        })
        .await
    }

    async fn load(
        &self,
        archive: &std::path::Path,
        image: &Image,
        _note: Note<'_>,
    ) -> Result<(), StepError> {
        assert!(archive.exists());
        self.engine("load", |inner| {
            inner.images.insert(image_handle(image));
            Ok(())
        })
        .await
    }

    async fn create_network(
        &self,
        deployment: DeploymentId,
        name: &str,
        _network: &Network,
    ) -> Result<(), StepError> {
        self.engine("create_network", |inner| {
            inner.networks.insert(name.to_owned(), deployment);
            Ok(())
        })
        .await
    }

    async fn create_volume(
        &self,
        _deployment: DeploymentId,
        name: &str,
        _volume: &Volume,
    ) -> Result<(), StepError> {
        self.engine("create_volume", |inner| {
            inner.volumes.insert(name.to_owned());
            Ok(())
        })
        .await
    }

    async fn create(&self, make: &Make<'_>) -> Result<(), StepError> {
        self.engine("create", |inner| {
            let wanted = &make.goal.services[make.service];
            let revision = make.goal.target.revision;
            let mut settings = make.goal.settings(make.service, wanted, revision);
            if inner.drops_memory {
                settings.memory_bytes = 0;
            }
            let taken = inner
                .containers
                .iter()
                .any(|c| c.settings.name == settings.name);
            if taken || !inner.images.contains(&wanted.image) {
                return Err(StepError {
                    code: ErrorCode::WorkloadStart,
                    class: Class::Final,
                    detail: format!("conflict: {}", settings.name),
                });
            }
            inner.made += 1;
            let id = format!("{:012x}{:052x}", inner.made, 0);
            inner.containers.push(FakeContainer {
                id,
                labels: make.labels.clone(),
                settings,
                image: wanted.image.clone(),
                started: None,
                stopped: None,
                paused: false,
                checked: wanted.service.healthcheck.is_some(),
            });
            Ok(())
        })
        .await
    }

    async fn start(&self, id: &str) -> Result<(), StepError> {
        let at = self.now().wall;
        self.engine("start", |inner| {
            let container = inner.find(id)?;
            container.started = Some((Instant::now(), at));
            container.stopped = None;
            Ok(())
        })
        .await
    }

    async fn unpause(&self, id: &str) -> Result<(), StepError> {
        self.engine("unpause", |inner| {
            inner.find(id)?.paused = false;
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: &str, _grace: Duration) -> Result<(), StepError> {
        self.engine("stop", |inner| {
            // A program that heeds SIGTERM ends with 0, as a job that is done.
            inner.find(id)?.stopped = Some(0);
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: &str, _grace: Duration) -> Result<(), StepError> {
        self.engine("remove", |inner| {
            assert!(!id.starts_with("foreign"), "a foreign container is removed");
            inner.containers.retain(|container| container.id != id);
            Ok(())
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> Result<(), StepError> {
        self.engine("remove_network", |inner| {
            inner.networks.remove(name);
            Ok(())
        })
        .await
    }

    async fn watch(&self, _wake: &(dyn Fn(DeploymentId) + Send + Sync)) {
        std::future::pending::<()>().await;
    }
}

/// A content in parts.
pub(super) struct Parts(Vec<u8>, String);

impl Chunks for Parts {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        let rest = self.0.split_off(self.0.len().min(3));
        let part = std::mem::replace(&mut self.0, rest);
        Ok((!part.is_empty()).then_some(part))
    }

    fn sha256(&self) -> Option<String> {
        Some(self.1.clone())
    }
}

impl Fetcher for World {
    type Chunks = Parts;

    async fn open(&self, content: &Content, offset: u64) -> Result<Parts, FetchError> {
        let (Content::Archive(digest) | Content::File(digest) | Content::Release(digest)) = content;
        let found = self
            .call("fetch", |inner| inner.contents.get(digest).cloned())
            .await;
        let mut found = found.ok_or_else(|| FetchError::NotFound(digest.clone()))?;
        let offset = usize::try_from(offset).unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA256, &found);
        let hash = data_encoding::HEXLOWER.encode(hash.as_ref());
        Ok(Parts(found.split_off(offset.min(found.len())), hash))
    }
}

impl Core for World {
    async fn keep(&self, transition: Transition) -> Result<(), CoreGone> {
        let world = self.clone();
        self.call("keep", |_| {
            let mut held = world.store.lock().unwrap();
            let store = held.as_mut().unwrap();
            store.keep_deployment(transition);
            store.settle(true, world.now().wall, world.now().tick);
            assert!(store.is_written());
            world
                .deployments
                .send_replace(Arc::clone(store.deployments()));
        })
        .await;
        Ok(())
    }

    async fn put_state(&self, item: StateItem) -> Result<(), CoreGone> {
        if let StateValue::Deployment(state) = item.value {
            self.told.lock().unwrap().push(*state);
        }
        Ok(())
    }
}

/// A service of an image that the registry has or has not.
pub(super) fn service(image: &str) -> Service {
    Service {
        image: Image {
            reference: format!("r.example/{image}"),
            ..Image::default()
        },
        network: NetworkMode::None,
        restart: Restart::No,
        stop_grace_ms: 1_000,
        ..Service::default()
    }
}

pub(super) fn checked(mut service: Service) -> Service {
    service.healthcheck = Some(Healthcheck {
        test: HealthTest::Shell("true".to_owned()),
        interval_ms: None,
        timeout_ms: None,
        retries: None,
        start_period_ms: None,
    });
    service
}

pub(super) fn spec(services: &[(&str, Service)]) -> Spec {
    Spec {
        services: services
            .iter()
            .map(|(name, service)| ((*name).to_owned(), service.clone()))
            .collect(),
        ..Spec::default()
    }
}

pub(super) fn target(revision: u32, spec: Spec) -> Target {
    Target {
        revision,
        spec,
        rollout: None,
        cause: Cause::Change,
        health: HealthRule {
            initial_delay_ms: 0,
            min_healthy_ms: 10_000,
            healthy_deadline_ms: 60_000,
            progress_deadline_ms: 120_000,
        },
        on_failure: OnFailure::Revert,
        commit: Commit::WhenHealthy,
    }
}

pub(super) fn run(generation: u64, target: Target) -> Desired {
    desired(generation, Want::Run(Box::new(target)))
}

pub(super) fn desired(generation: u64, want: Want) -> Desired {
    Desired {
        deployment: WEB,
        number: 1,
        name: "web".to_owned(),
        generation,
        // Not one that the node is late with.
        at: UnixMillis(u64::MAX),
        want,
    }
}
