//! Carries out one step of a plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::deployment::desired::Target;
use protocol::deployment::spec::{MountSource, Spec};
use protocol::id::{DeploymentId, NodeId};
use tokio::sync::watch;

use super::fetch::{self, Fetcher};
use super::files::{Files, resolve};
use super::{ContainerRuntime, Make, Note, Query, Settings};
use crate::dependency::{Dependencies, Dependency};
use crate::domain::deployment::goal::{Goal, file_copy, registry, stem};
use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::observed::{FileCopy, Observed, Owner};
use crate::domain::deployment::plan::Step;
use crate::domain::deployment::record::Record;
use crate::domain::deployment::rules::{self, Resolved};

/// How long a container gets to end that belongs to no revision that is known.
const GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// The places where an engine's socket may be, besides the configured one.
const SOCKETS: [&str; 4] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
];

/// What steps are carried out with.
pub(super) struct Hands<R, F> {
    pub(super) node: NodeId,
    /// What the engine's names begin with; it stays while the agent runs.
    pub(super) prefix: String,
    pub(super) runtime: R,
    pub(super) fetcher: F,
    pub(super) files: Files,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) dependencies: Dependencies,
}

impl<R: ContainerRuntime, F: Fetcher> Hands<R, F> {
    /// What the node has against the order.
    pub(super) fn refusals(&self, spec: &Spec) -> Vec<String> {
        let settings = Arc::clone(&self.settings.borrow());
        let resolved: Resolved = rules::paths(spec)
            .into_iter()
            .map(|path| {
                let real = resolve(Path::new(path)).map_err(|error| error.to_string());
                (path.to_owned(), real)
            })
            .collect();
        let sockets = sockets(&settings);
        rules::refusals(&roots_resolved(&settings), spec, &resolved, &sockets)
    }

    /// What there is of a deployment.
    pub(super) async fn observe(&self, record: &Record) -> Result<Observed, StepError> {
        let deployment = record.desired.deployment;
        let stem = self.stem(record);
        let mut query = Query::default();
        for target in record
            .wanted()
            .into_iter()
            .chain(record.committed.as_deref())
        {
            let goal = Goal::new(&stem, target);
            query
                .images
                .extend(goal.services.values().map(|wanted| wanted.image.clone()));
            query.networks.extend(
                goal.networks()
                    .into_iter()
                    .filter(|(_, network)| network.external.is_some())
                    .map(|(name, _)| name),
            );
            query.volumes.extend(goal.volumes().into_keys());
        }
        let look = self.runtime.observe(deployment, &query);
        let mut observed = self.guarded(&Dependency::Engine, look).await?;
        observed.files = self.files.copies(deployment);
        Ok(observed)
    }

    fn stem(&self, record: &Record) -> String {
        stem(&self.prefix, &record.desired.name)
    }

    /// Carries a step out.
    pub(super) async fn carry_out(
        &self,
        record: &Record,
        step: &Step,
        note: Note<'_>,
    ) -> Result<(), StepError> {
        let work = self.step(record, step, note);
        match step {
            // An archive takes as long as the controller does.
            Step::FetchImage { .. } | Step::FetchFile { .. } | Step::RemoveFiles { .. } => {
                work.await
            }
            Step::CreateNetwork { .. }
            | Step::CreateVolume { .. }
            | Step::Create { .. }
            | Step::Start { .. }
            | Step::Unpause { .. }
            | Step::Stop { .. }
            | Step::Remove { .. }
            | Step::RemoveNetwork { .. } => self.guarded(&Dependency::Engine, work).await,
        }
    }

    /// Uses a dependency, unless its breaker is open.
    async fn guarded<T>(
        &self,
        dependency: &Dependency,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        let failing = match dependency {
            Dependency::Engine => Class::Engine,
            Dependency::Controller | Dependency::Registry(_) => Class::Passing,
        };
        let permit = self
            .dependencies
            .admit(dependency)
            .map_err(|left_alone| StepError {
                code: match dependency {
                    Dependency::Engine => ErrorCode::ContainerEngine,
                    Dependency::Controller | Dependency::Registry(_) => ErrorCode::ImageUnavailable,
                },
                class: failing,
                detail: left_alone.to_string(),
            })?;
        let result = work.await;
        let failed = result.as_ref().is_err_and(|error| error.class == failing);
        self.dependencies.done(dependency, permit, !failed);
        result
    }

    async fn step(&self, record: &Record, step: &Step, note: Note<'_>) -> Result<(), StepError> {
        let deployment = record.desired.deployment;
        let stem = self.stem(record);
        match step {
            Step::FetchImage { revision, service } => {
                let target = target(record, *revision)?;
                self.fetch_image(target, service, note).await
            }
            Step::FetchFile {
                revision,
                file,
                copy,
            } => {
                let target = target(record, *revision)?;
                self.fetch_file(deployment, target, file, copy).await
            }
            Step::CreateNetwork { revision, name } => {
                let goal = Goal::new(&stem, target(record, *revision)?);
                let networks = goal.networks();
                let network = networks.get(name).ok_or_else(|| unknown(name))?;
                self.runtime.create_network(deployment, name, network).await
            }
            Step::CreateVolume { revision, name } => {
                let goal = Goal::new(&stem, target(record, *revision)?);
                let volumes = goal.volumes();
                let volume = volumes.get(name).ok_or_else(|| unknown(name))?;
                self.runtime.create_volume(deployment, name, volume).await
            }
            Step::Create { revision, service } => {
                let goal = Goal::new(&stem, target(record, *revision)?);
                self.create(deployment, &goal, service).await
            }
            Step::Start { id, .. } => self.runtime.start(id).await,
            Step::Unpause { id, .. } => self.runtime.unpause(id).await,
            Step::Stop { id, service } => self.runtime.stop(id, grace(record, service)).await,
            Step::Remove { id, service } => self.runtime.remove(id, grace(record, service)).await,
            Step::RemoveNetwork { name } => self.runtime.remove_network(name).await,
            Step::RemoveFiles { keep } => self
                .files
                .keep(deployment, keep)
                .map_err(|error| disk("a file cannot be removed", &error)),
        }
    }

    async fn fetch_image(
        &self,
        target: &Target,
        service: &str,
        note: Note<'_>,
    ) -> Result<(), StepError> {
        let service = target
            .spec
            .services
            .get(service)
            .ok_or_else(|| unknown(service))?;
        let image = &service.image;
        let Some(archive) = &image.archive else {
            let registry = Dependency::Registry(registry(&image.reference).to_owned());
            return self
                .guarded(&registry, self.runtime.pull(image, note))
                .await;
        };
        let stall = self.settings.borrow().stall_timeout;
        let path = self.files.archive(archive);
        let download = fetch::archive(&self.fetcher, archive, &path, stall, note);
        self.guarded(&Dependency::Controller, download).await?;
        let loaded = self.runtime.load(&path, image, note).await;
        let engine_gone = loaded
            .as_ref()
            .is_err_and(|error| error.class == Class::Engine);
        if !engine_gone {
            drop(tokio::fs::remove_file(&path).await);
        }
        loaded
    }

    async fn fetch_file(
        &self,
        deployment: DeploymentId,
        target: &Target,
        name: &str,
        copy: &FileCopy,
    ) -> Result<(), StepError> {
        let content = match self.files.content(deployment, &copy.digest) {
            Some(content) => content,
            None => {
                let wanted = target.spec.files.get(name).ok_or_else(|| unknown(name))?;
                let stall = self.settings.borrow().stall_timeout;
                let download = fetch::file(&self.fetcher, wanted, stall);
                self.guarded(&Dependency::Controller, download).await?
            }
        };
        self.files
            .put(deployment, copy, &content)
            .map_err(|error| disk("a file cannot be kept on disk", &error))
    }

    async fn create(
        &self,
        deployment: DeploymentId,
        goal: &Goal<'_>,
        service: &str,
    ) -> Result<(), StepError> {
        let wanted = goal.services.get(service).ok_or_else(|| unknown(service))?;
        // What was allowed when the order came may lead elsewhere by now.
        let mut only = Spec {
            volumes: goal.target.spec.volumes.clone(),
            ..Spec::default()
        };
        only.services
            .insert(service.to_owned(), wanted.service.clone());
        let refusals = self.refusals(&only);
        if !refusals.is_empty() {
            return Err(StepError {
                code: ErrorCode::DeploymentForbidden,
                class: Class::Final,
                detail: refusals.join("; "),
            });
        }
        let mut binds = BTreeMap::new();
        for mount in wanted.service.mounts.values() {
            if let MountSource::Bind(path) = &mount.source {
                let real = resolve(Path::new(path))
                    .map_err(|error| disk("a path cannot be resolved", &error))?;
                binds.insert(path.clone(), real);
            }
        }
        let files = wanted
            .service
            .files
            .iter()
            .filter_map(|(at, mount)| {
                let copy = file_copy(&goal.target.spec, mount)?;
                Some((at.clone(), self.files.path(deployment, &copy)))
            })
            .collect();
        let owner = Owner {
            deployment,
            service: service.to_owned(),
            revision: goal.target.revision,
            hash: wanted.hash.clone(),
        };
        let make = Make {
            goal,
            service,
            labels: owner.labels(self.node),
            binds,
            files,
        };
        self.runtime.create(&make).await
    }
}

/// The rules with their roots as they really lie.
fn roots_resolved(settings: &Settings) -> rules::Rules {
    let mut rules = settings.rules.clone();
    rules.host_paths = rules
        .host_paths
        .iter()
        .filter_map(|root| resolve(root).ok())
        .collect();
    rules
}

fn sockets(settings: &Settings) -> Vec<PathBuf> {
    SOCKETS
        .iter()
        .map(Path::new)
        .chain([settings.docker_socket.as_path()])
        .filter_map(|path| resolve(path).ok())
        .collect()
}

fn grace(record: &Record, service: &str) -> Duration {
    record
        .wanted()
        .into_iter()
        .chain(record.committed.as_deref())
        .filter_map(|target| target.spec.services.get(service))
        .map(|service| Duration::from_millis(service.stop_grace_ms))
        .max()
        .unwrap_or(GRACE_DEFAULT)
}

fn target(record: &Record, revision: u32) -> Result<&Target, StepError> {
    record
        .target(revision)
        .ok_or_else(|| unknown(&format!("revision {revision}")))
}

/// The plan was made from the same record, so this is not met.
fn unknown(what: &str) -> StepError {
    StepError {
        code: ErrorCode::Internal,
        class: Class::Final,
        detail: format!("the record does not know {what}"),
    }
}

fn disk(what: &str, error: &std::io::Error) -> StepError {
    StepError {
        code: ErrorCode::WorkloadStart,
        class: Class::Final,
        detail: format!("{what}: {error}"),
    }
}
