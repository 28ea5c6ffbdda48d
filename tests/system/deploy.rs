//! Deployments by the agent's own subsystem, store and executor against a real
//! Docker engine, with images that are made here. Orders are put into the store as
//! the core does when the controller sends them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::clock::Clock;
use agent::dependency::Dependencies;
use agent::deploy::docker::Engine as Docker;
use agent::deploy::fetch::{Chunks, Content, FetchError, Fetcher};
use agent::deploy::files::Files;
use agent::deploy::task::{self, States};
use agent::deploy::{Clocks, Core, Settings};
use agent::domain::deployment::record::Transition;
use agent::domain::session::Want as Wanted;
use agent::node::task::CoreGone;
use agent::store::spool::MemorySpool;
use agent::store::{Deployments, Limits, RedbDisk, Store};
use harness::disk::SmallDisk;
use harness::engine::Engine;
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::observed::{
    ChangeOutcome, DeploymentResult, DeploymentState, Phase, WorkloadState,
};
use protocol::deployment::spec::{
    HealthTest, Healthcheck, Image, Mount, MountSource, Network, NetworkMode, Port, PortProtocol,
    Restart, Service, Spec, Volume,
};
use protocol::id::{DeploymentId, NodeId, StoreId};
use protocol::message;
use protocol::session::BootId;
use protocol::state::{Lifecycle, StateItem};
use protocol::stream::{EntryKind, Stream};
use protocol::time::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const WEB: DeploymentId = DeploymentId::from_bytes([1; 10]);
const PATIENCE: Duration = Duration::from_secs(60);

/// The node's store, as its core keeps it, and an agent over it that can be killed.
#[derive(Clone)]
struct Node {
    store: Arc<Mutex<Option<Store>>>,
    deployments: Arc<watch::Sender<Arc<Deployments>>>,
    states: Arc<watch::Sender<Arc<States>>>,
    settings: Arc<watch::Sender<Arc<Settings>>>,
    clock: Clock,
    folder: Arc<tempfile::TempDir>,
}

struct NoContents;
struct NoChunks;

impl Chunks for NoChunks {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        Ok(None)
    }

    fn sha256(&self) -> Option<String> {
        None
    }
}

impl Fetcher for NoContents {
    type Chunks = NoChunks;

    async fn open(&self, content: &Content, _offset: u64) -> Result<NoChunks, FetchError> {
        Err(FetchError::NotFound(format!("{content:?}")))
    }
}

impl Core for Node {
    async fn keep(&self, transition: Transition) -> Result<(), CoreGone> {
        self.change(|store| store.keep_deployment(transition));
        Ok(())
    }

    async fn put_state(&self, _item: StateItem) -> Result<(), CoreGone> {
        Ok(())
    }
}

impl Node {
    fn new(socket: &Path) -> Self {
        let settings = Settings {
            docker_socket: socket.to_owned(),
            stall_timeout: Duration::from_secs(5),
            ..Settings::default()
        };
        let node = Self {
            store: Arc::default(),
            deployments: Arc::new(watch::channel(Arc::default()).0),
            states: Arc::new(watch::channel(Arc::default()).0),
            settings: Arc::new(watch::channel(Arc::new(settings)).0),
            clock: Clock::default(),
            folder: Arc::new(tempfile::tempdir().unwrap()),
        };
        node.open();
        node
    }

    fn open(&self) {
        // The old one holds the file's lock.
        *self.store.lock().unwrap() = None;
        let started = |clean| Lifecycle::Started {
            boot: BootId([0; 16]),
            at: UnixMillis(0),
            agent_version: String::new(),
            clean,
        };
        let (store, _) = Store::open(
            Box::new(RedbDisk::file(&self.folder.path().join("agent.redb"))),
            Box::new(MemorySpool::default()),
            Limits::default(),
            StoreId::from_bytes([5; 10]),
            started,
            self.clock.wall(),
        )
        .unwrap();
        self.deployments
            .send_replace(Arc::clone(store.deployments()));
        *self.store.lock().unwrap() = Some(store);
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        let mut held = self.store.lock().unwrap();
        let store = held.as_mut().unwrap();
        change(store);
        let now = self.clock.moment();
        store.settle(true, now.wall, now.tick);
        assert!(store.is_written());
        self.deployments
            .send_replace(Arc::clone(store.deployments()));
    }

    fn order(&self, desired: Desired) {
        self.change(|store| store.take_desired(desired, self.clock.wall()));
    }

    fn results(&self) -> Vec<DeploymentResult> {
        let want = Wanted {
            stream: Stream::Control,
            after: 0,
            bytes_max: usize::MAX,
        };
        let mut held = self.store.lock().unwrap();
        let entries = held.as_mut().unwrap().read(want, self.clock.tick());
        entries
            .unwrap()
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::DEPLOYMENT_RESULT)
            .map(|entry| message::decode_exactly(&entry.body).unwrap())
            .collect()
    }

    fn state(&self) -> Option<DeploymentState> {
        self.states.borrow().get(&WEB).cloned()
    }

    /// Lives until the script ends, and is killed then.
    async fn live<T>(&self, script: impl Future<Output = T>) -> T {
        let (moment, controller) = (self.clock.clone(), self.clock.clone());
        let node = NodeId::from_bytes([9; 10]);
        let context = task::Context {
            node,
            runtime: Docker::new(node, self.settings.subscribe()),
            fetcher: NoContents,
            core: self.clone(),
            files: Files::below(self.folder.path().join("deploy")),
            settings: self.settings.subscribe(),
            dependencies: {
                let wall = self.clock.clone();
                Dependencies::new(Arc::new(move || wall.wall()))
            },
            deployments: self.deployments.subscribe(),
            states: (*self.states).clone(),
            admit: Arc::new(|_| Ok(())),
            clocks: Clocks {
                moment: Arc::new(move || moment.moment()),
                controller: Arc::new(move || controller.controller_now()),
            },
            seed: 3,
            stop: CancellationToken::new(),
        };
        tokio::select! {
            _ = task::run(context) => panic!("nobody stops the subsystem"),
            answer = script => answer,
        }
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&DeploymentState) -> bool) {
        let mut states = self.states.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.state().is_some_and(|state| holds(&state)) {
                states.changed().await.unwrap();
            }
        });
        let ended = waited.await;
        assert!(
            ended.is_ok(),
            "waited in vain for {what}: {:#?}",
            self.state()
        );
    }

    /// Waits for the result of a generation.
    async fn result(&self, generation: u64) -> DeploymentResult {
        let mut records = self.deployments.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = self
                    .results()
                    .into_iter()
                    .find(|r| r.generation == generation);
                if let Some(found) = found {
                    return found;
                }
                records.changed().await.unwrap();
            }
        });
        match waited.await {
            Ok(result) => result,
            Err(_) => panic!("no result of {generation}: {:#?}", self.state()),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn service(image: &str) -> Service {
    Service {
        image: Image {
            reference: image.to_owned(),
            ..Image::default()
        },
        network: NetworkMode::Networks([("default".to_owned(), Vec::new())].into()),
        restart: Restart::No,
        stop_grace_ms: 1_000,
        ..Service::default()
    }
}

fn order(generation: u64, revision: u32, service: Service) -> Desired {
    let spec = Spec {
        services: [("web".to_owned(), service)].into(),
        networks: [("default".to_owned(), Network::default())].into(),
        ..Spec::default()
    };
    let target = Target {
        revision,
        spec,
        rollout: None,
        cause: Cause::Change,
        health: HealthRule {
            initial_delay_ms: 0,
            min_healthy_ms: 3_000,
            healthy_deadline_ms: 15_000,
            progress_deadline_ms: 20_000,
        },
        on_failure: OnFailure::Revert,
        commit: Commit::WhenHealthy,
    };
    Desired {
        deployment: WEB,
        number: 1,
        name: "web".to_owned(),
        generation,
        // Not one that the node is late with.
        at: UnixMillis(u64::MAX),
        want: Want::Run(Box::new(target)),
    }
}

const GOOD: &str = "while :; do /busybox sleep 1; done";

/// What runs of the deployment, by container name.
fn running(engine: &Engine) -> Vec<String> {
    let filter = format!("label=flotilla.deployment={WEB}");
    let names = engine.docker(&["ps", "--filter", &filter, "--format", "{{.Names}}"]);
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn all(engine: &Engine) -> usize {
    let filter = format!("label=flotilla.deployment={WEB}");
    engine
        .docker(&["ps", "-aq", "--filter", &filter])
        .lines()
        .count()
}

/// An engine with images of every kind, a foreign container, and a node on which
/// revision 1 runs.
fn prepared() -> Option<(Engine, Node)> {
    Some(prepared_on(Engine::start()?))
}

fn prepared_on(engine: Engine) -> (Engine, Node) {
    engine.image("docker.io/library/good:1", GOOD);
    engine.image("docker.io/library/good:2", GOOD);
    engine.image("docker.io/library/ends:1", "echo no such option; exit 3");
    engine.image(
        "docker.io/library/late:1",
        "/busybox sleep 5; echo gave up; exit 1",
    );
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "foreign",
        "--network",
        "none",
        "good:1",
    ]);
    let node = Node::new(&engine.socket());
    (engine, node)
}

async fn with_revision_1(node: &Node, service: Service) {
    node.order(order(1, 1, service));
    let first = node.result(1).await;
    assert_eq!(first.outcome, ChangeOutcome::Succeeded, "{first:?}");
}

fn foreign_runs(engine: &Engine) {
    let running = engine.docker(&[
        "inspect",
        "-f",
        "{{.State.Running}} {{.RestartCount}}",
        "foreign",
    ]);
    assert_eq!(running, "true 0");
}

#[test]
fn deploy_updates_and_goes_back_on_docker() {
    if let Some((engine, node)) = prepared() {
        updates_and_goes_back(&engine, &node);
    }
}

#[test]
fn deploy_updates_and_goes_back_on_docker_with_cgroup_v2() {
    if let Some(engine) = Engine::start_on_cgroup2() {
        let (engine, node) = prepared_on(engine);
        assert_eq!(engine.docker(&["info", "-f", "{{.CgroupVersion}}"]), "2");
        updates_and_goes_back(&engine, &node);
    }
}

/// Where no systemd runs the health checks of a Podman, one that never passes is one
/// that never says anything, which comes to the same.
#[test]
fn deploy_updates_and_goes_back_on_podman() {
    if let Some(engine) = Engine::podman() {
        let (engine, node) = prepared_on(engine);
        updates_and_goes_back(&engine, &node);
    }
}

fn updates_and_goes_back(engine: &Engine, node: &Node) {
    runtime().block_on(node.live(async {
        with_revision_1(node, service("docker.io/library/good:1")).await;
        assert_eq!(running(engine), ["flotilla-web-web-1"]);
        node.order(order(2, 2, service("docker.io/library/good:2")));
        node.until("both run", |_| running(engine).len() == 2).await;
        let second = node.result(2).await;
        assert_eq!(second.outcome, ChangeOutcome::Succeeded, "{second:?}");
        assert_eq!(running(engine), ["flotilla-web-web-2"]);
        node.until("it is told", |state| state.phase == Phase::Running)
            .await;

        let mut sick = service("docker.io/library/good:1");
        sick.healthcheck = Some(Healthcheck {
            test: HealthTest::Command(vec!["/busybox".to_owned(), "false".to_owned()]),
            interval_ms: Some(500),
            timeout_ms: Some(1_000),
            retries: Some(2),
            start_period_ms: None,
        });
        for (generation, new, code) in [
            (3, service("docker.io/library/ends:1"), "workload.exited"),
            (4, sick, "workload.unhealthy"),
        ] {
            node.order(order(generation, u32::try_from(generation).unwrap(), new));
            let result = node.result(generation).await;
            assert_eq!(result.outcome, ChangeOutcome::Reverted, "{result:?}");
            assert_eq!(result.code.as_deref(), Some(code), "{result:?}");
            assert_eq!(running(engine), ["flotilla-web-web-2"]);
            assert_eq!(all(engine), 1);
            node.until("it is told", |state| state.phase == Phase::Reverted)
                .await;
            let state = node.state().unwrap();
            if code == "workload.exited" {
                let failed = state.workloads.iter().find(|w| w.revision == 3).unwrap();
                // A Podman on a busy host was seen to give the line twice.
                let said = &failed.log_tail;
                assert!(!said.is_empty() && said.iter().all(|line| line == "no such option"));
                assert_eq!(failed.exit_code, Some(3));
            }
        }
        foreign_runs(engine);
        // Nothing but volumes is left after a removal.
        let mut away = order(5, 1, Service::default());
        away.want = Want::Remove;
        node.order(away);
        assert_eq!(node.result(5).await.outcome, ChangeOutcome::Succeeded);
        assert_eq!(all(engine), 0);
        let networks = engine.docker(&["network", "ls", "-q", "--filter", "label=flotilla.node"]);
        assert_eq!(networks, "");
    }));
    foreign_runs(engine);
}

#[test]
fn deploy_takes_no_network_or_volume_that_is_another_agents() {
    let Some((engine, node)) = prepared() else {
        return;
    };
    let with_volume = |generation, name: &str| {
        let mut service = service("docker.io/library/good:1");
        let mount = Mount {
            source: MountSource::Volume(name.to_owned()),
            read_only: false,
        };
        service.mounts = [("/kept".to_owned(), mount)].into();
        let mut desired = order(generation, 1, service);
        if let Want::Run(target) = &mut desired.want {
            target.spec.volumes = [(name.to_owned(), Volume::default())].into();
        }
        desired
    };
    let another = "--label=flotilla.node=aaaaaaaaaaaaaaaa";
    engine.docker(&["volume", "create", another, "flotilla-web-theirs"]);
    engine.docker(&["volume", "create", "flotilla-web-by-hand"]);
    runtime().block_on(node.live(async {
        node.order(with_volume(1, "theirs"));
        let result = node.result(1).await;
        assert_eq!(
            result.code.as_deref(),
            Some("workload.start_failed"),
            "{result:?}"
        );
        assert!(result.detail.contains("another agent"), "{result:?}");
        assert_eq!(all(&engine), 0);
        // One that a hand filled before is taken.
        node.order(with_volume(2, "by-hand"));
        let result = node.result(2).await;
        assert_eq!(result.outcome, ChangeOutcome::Succeeded, "{result:?}");

        // The network's name has a hash in it, so it is learnt from the engine.
        let named = ["network", "ls", "--format", "{{.Name}}", "--filter"];
        let list = [&named[..], &["label=flotilla.node"]].concat();
        let network = engine.docker(&list);
        let mut away = order(3, 1, Service::default());
        away.want = Want::Remove;
        node.order(away);
        assert_eq!(node.result(3).await.outcome, ChangeOutcome::Succeeded);
        engine.docker(&["network", "create", another, &network]);
        node.order(with_volume(4, "by-hand"));
        let result = node.result(4).await;
        assert!(result.detail.contains(&network), "{result:?}");
        assert!(result.detail.contains("name_prefix"), "{result:?}");
        assert_eq!(all(&engine), 0);
    }));
}

#[test]
fn deploy_that_dies_late_on_a_taken_port_brings_the_old_one_back() {
    let Some((engine, node)) = prepared() else {
        return;
    };
    let published = |image: &str| {
        let mut service = service(image);
        service.ports = vec![Port {
            published: Some(8080),
            target: 80,
            protocol: PortProtocol::Tcp,
            host_ip: Some("127.0.0.1".to_owned()),
        }];
        service
    };
    runtime().block_on(node.live(async {
        with_revision_1(&node, published("docker.io/library/good:1")).await;
        let mut late = order(2, 2, published("docker.io/library/late:1"));
        if let Want::Run(target) = &mut late.want {
            target.health.min_healthy_ms = 10_000;
        }
        node.order(late);
        node.until("the new one runs alone", |_| {
            running(&engine) == ["flotilla-web-web-2"]
        })
        .await;
        let result = node.result(2).await;
        assert_eq!(result.outcome, ChangeOutcome::Reverted, "{result:?}");
        assert_eq!(result.code.as_deref(), Some("workload.exited"));
        assert_eq!(running(&engine), ["flotilla-web-web-1"]);
        assert_eq!(all(&engine), 1);
    }));
    foreign_runs(&engine);
}

#[test]
fn deploy_puts_back_what_a_hand_changed() {
    let Some((engine, node)) = prepared() else {
        return;
    };
    let name = "flotilla-web-web-1";
    let mut always = service("docker.io/library/good:1");
    always.restart = Restart::Always;
    let well = |state: &DeploymentState, what: &str| {
        state.phase == Phase::Running
            && state.drift.last().is_some_and(|last| last.contains(what))
            && state
                .workloads
                .iter()
                .all(|w| w.state == WorkloadState::Running)
            && running(&engine) == [name]
    };
    runtime().block_on(node.live(async {
        with_revision_1(&node, always).await;
        engine.docker(&["rm", "-f", name]);
        node.until("it is there again", |state| well(state, "was not there"))
            .await;
        engine.docker(&["stop", "-t", "1", name]);
        node.until("it runs again", |state| well(state, "stopped from outside"))
            .await;
        engine.docker(&["update", "--restart=no", name]);
        // No event tells of it: it is seen at the next look, which a pause brings.
        engine.docker(&["pause", name]);
        node.until("it is as it was", |state| well(state, "by hand"))
            .await;
        node.until("all is put back", |_| {
            let policy = "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}}";
            engine
                .try_docker(&["inspect", "-f", policy, name])
                .as_deref()
                == Some("always running")
        })
        .await;
    }));
    foreign_runs(&engine);
    assert_eq!(node.results().len(), 1);
}

#[test]
fn deploy_waits_for_an_engine_that_stops_in_mid_update() {
    let Some((mut engine, node)) = prepared() else {
        return;
    };
    runtime().block_on(node.live(async {
        with_revision_1(&node, service("docker.io/library/good:1")).await;
        let mut slow = order(2, 2, service("docker.io/library/good:2"));
        if let Want::Run(target) = &mut slow.want {
            target.health.min_healthy_ms = 8_000;
        }
        node.order(slow);
        node.until("both run", |_| running(&engine).len() == 2)
            .await;
        engine.stop();
        let away = |state: &DeploymentState| state.code.as_deref() == Some("container.unavailable");
        node.until("it is seen that the engine is away", away).await;
        assert_eq!(node.results().len(), 1, "nothing is claimed meanwhile");
        engine.run();
        let result = node.result(2).await;
        assert_eq!(result.outcome, ChangeOutcome::Succeeded, "{result:?}");
        assert_eq!(running(&engine), ["flotilla-web-web-2"]);
        assert_eq!(all(&engine), 1);
    }));
}

#[test]
fn deploy_survives_kills_of_the_agent_at_any_time() {
    let Some((engine, node)) = prepared() else {
        return;
    };
    let runtime = runtime();
    runtime.block_on(node.live(with_revision_1(&node, service("docker.io/library/good:1"))));
    for (generation, image, outcome) in [
        (2, "docker.io/library/good:2", ChangeOutcome::Succeeded),
        (3, "docker.io/library/ends:1", ChangeOutcome::Reverted),
    ] {
        node.order(order(
            generation,
            u32::try_from(generation).unwrap(),
            service(image),
        ));
        // Killed after 0.05, 0.1, 0.15 … s of life, and started again each time.
        for round in 1..=12 {
            let life = Duration::from_millis(50 * round);
            runtime.block_on(node.live(async { tokio::time::sleep(life).await }));
            node.open();
        }
        let result = runtime.block_on(node.live(node.result(generation)));
        assert_eq!(result.outcome, outcome, "{result:?}");
        assert_eq!(running(&engine), ["flotilla-web-web-2"]);
        assert_eq!(all(&engine), 1);
    }
    let generations: Vec<u64> = node.results().iter().map(|r| r.generation).collect();
    assert_eq!(generations, [1, 2, 3]);
    foreign_runs(&engine);
}

#[test]
fn deploy_names_a_full_disk_and_works_once_there_is_space() {
    let Some(disk) = SmallDisk::new(128) else {
        return;
    };
    let Some(engine) = Engine::start_on(&disk) else {
        return;
    };
    let (engine, node) = prepared_on(engine);
    let Some(_registry) = engine.registry(5000) else {
        return;
    };
    let image = "127.0.0.1:5000/large:1";
    engine.image_with(image, GOOD, 24);
    engine.docker(&["push", image]);
    engine.docker(&["rmi", image]);
    runtime().block_on(node.live(async {
        with_revision_1(&node, service("docker.io/library/good:1")).await;
        let spare = disk.path().join("spare");
        std::fs::write(&spare, vec![0; 8 << 20]).unwrap();
        disk.fill();
        std::fs::remove_file(&spare).unwrap();
        node.order(order(2, 2, service(image)));
        let result = node.result(2).await;
        assert_eq!(result.outcome, ChangeOutcome::Reverted, "{result:?}");
        assert_eq!(result.code.as_deref(), Some("image.unavailable"));
        assert!(result.detail.contains("no space left"), "{result:?}");
        assert_eq!(running(&engine), ["flotilla-web-web-1"]);
        disk.relieve();
        node.order(order(3, 3, service(image)));
        let result = node.result(3).await;
        assert_eq!(result.outcome, ChangeOutcome::Succeeded, "{result:?}");
        assert_eq!(running(&engine), ["flotilla-web-web-3"]);
    }));
    foreign_runs(&engine);
}

#[test]
fn deploy_pulls_from_a_registry_that_may_be_away_or_answer_garbage() {
    let Some((engine, node)) = prepared() else {
        return;
    };
    let Some(mut registry) = engine.registry(5000) else {
        return;
    };
    engine.docker(&["tag", "good:2", "127.0.0.1:5000/good:2"]);
    engine.docker(&["push", "127.0.0.1:5000/good:2"]);
    let digest = engine.docker(&[
        "inspect",
        "-f",
        "{{index .RepoDigests 0}}",
        "127.0.0.1:5000/good:2",
    ]);
    let digest = digest.split_once('@').unwrap().1.to_owned();
    engine.docker(&["rmi", "127.0.0.1:5000/good:2", "good:2"]);
    let mut pinned = service("127.0.0.1:5000/good:2");
    pinned.image.digest = Some(digest.clone());
    runtime().block_on(node.live(async {
        with_revision_1(&node, service("docker.io/library/good:1")).await;
        // Away at first, and back in time.
        registry.kill();
        node.order(order(2, 2, pinned));
        node.until("the pull failed once", |state| {
            state.phase == Phase::Fetching && state.code.as_deref() == Some("image.unavailable")
        })
        .await;
        registry = engine.registry(5000).unwrap();
        let result = node.result(2).await;
        assert_eq!(result.outcome, ChangeOutcome::Succeeded, "{result:?}");
        node.until("its digest is told", |state| {
            let told = state.workloads.first().and_then(|w| w.image_digest.clone());
            told.as_deref() == Some(digest.as_str())
        })
        .await;
        // An image that is not there is final at once.
        node.order(order(3, 3, service("127.0.0.1:5000/missing:1")));
        let result = node.result(3).await;
        assert_eq!(
            result.code.as_deref(),
            Some("image.unavailable"),
            "{result:?}"
        );
        // Garbage, and silence, for as long as there may be no progress.
        for (generation, port, answer) in [(4, 5001, "echo rubbish"), (5, 5002, "sleep 600")] {
            let mut command = engine.inside("/bin/busybox");
            let address = port.to_string();
            command.args([
                "nc",
                "-lk",
                "-s",
                "127.0.0.1",
                "-p",
                &address,
                "-e",
                "/bin/busybox",
            ]);
            command.args(answer.split(' '));
            let log = engine.folder().join(format!("{port}.log"));
            let _bad = harness::process::Process::start("bad registry", &mut command, &log);
            let image = format!("127.0.0.1:{port}/good:1");
            let revision = u32::try_from(generation).unwrap();
            node.order(order(generation, revision, service(&image)));
            let result = node.result(generation).await;
            assert_eq!(result.outcome, ChangeOutcome::Reverted, "{result:?}");
            assert_eq!(
                result.code.as_deref(),
                Some("image.unavailable"),
                "{result:?}"
            );
            assert_eq!(running(&engine), ["flotilla-web-web-2"]);
        }
    }));
    foreign_runs(&engine);
}
