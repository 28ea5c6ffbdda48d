//! The Docker engine, or one that speaks its interface, as Podman does.
//!
//! Only what every such engine gives is used. The client is made when it is needed
//! and dropped when the engine does not answer, so that one that was started again
//! is found again.
//!
//! **Invariant:** every call has a deadline. What goes into a path of the engine's
//! interface is an id that it gave out, or a name that was checked.

mod look;
mod make;
mod pull;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use protocol::ErrorCode;
use protocol::deployment::spec::{Image, Network, Volume};
use protocol::id::{DeploymentId, NodeId};
use tokio::sync::watch;

use super::{ContainerRuntime, Make, Note, Query, Settings};
use crate::domain::deployment::machine::{Class, StepError};
use crate::domain::deployment::observed::{LABEL_DEPLOYMENT, LABEL_NODE, Observed};

/// How long the engine may take for a call that waits for nothing.
const CALL: Duration = Duration::from_secs(30);

/// How long making or starting a container may take: on an SD card, with a large
/// image, this is most of a minute.
const START: Duration = Duration::from_secs(120);

/// The engine's client breaks off a request that is not answered for as long; our
/// own deadlines are the ones that are met.
const CLIENT_TIMEOUT_S: u64 = 600;

/// Image digests that are remembered: those of all containers of a busy node.
const DIGESTS_COUNT_MAX: usize = 256;

/// What to do about names that are taken.
const ADVICE: &str = "give agents that share an engine a [deploy] name_prefix each";

/// The engine.
pub struct Engine {
    node: NodeId,
    settings: watch::Receiver<Arc<Settings>>,
    client: Mutex<Option<(PathBuf, Docker)>>,
    /// The digest of each image id that was seen.
    digests: Mutex<BTreeMap<String, Option<String>>>,
}

/// A client of the engine at `socket`. It is connected when it is used.
///
/// # Errors
/// When the socket is not there.
pub fn client(socket: &Path, timeout_s: u64) -> Result<Docker, Error> {
    let socket = socket.display().to_string();
    Docker::connect_with_unix(&socket, timeout_s.max(1), bollard::API_DEFAULT_VERSION)
}

impl Engine {
    /// The engine whose socket the settings name. It is not called yet.
    #[must_use]
    pub fn new(node: NodeId, settings: watch::Receiver<Arc<Settings>>) -> Self {
        Self {
            node,
            settings,
            client: Mutex::new(None),
            digests: Mutex::new(BTreeMap::new()),
        }
    }

    async fn docker(&self) -> Result<Docker, StepError> {
        let socket = self.settings.borrow().docker_socket.clone();
        if let Some((at, docker)) = &*lock(&self.client)
            && *at == socket
        {
            return Ok(docker.clone());
        }
        let made = async { client(&socket, CLIENT_TIMEOUT_S)?.negotiate_version().await };
        let docker = self.within(CALL, "be reached", made).await?;
        *lock(&self.client) = Some((socket, docker.clone()));
        Ok(docker)
    }

    /// Waits for a call, up to its deadline.
    async fn within<T>(
        &self,
        most: Duration,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StepError> {
        match tokio::time::timeout(most, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(what, &error)),
            Err(_) => {
                self.forget_client();
                Err(away(&format!(
                    "the container engine did not {what} within {} s",
                    most.as_secs()
                )))
            }
        }
    }

    fn forget_client(&self) {
        *lock(&self.client) = None;
    }

    fn failed(&self, what: &str, error: &Error) -> StepError {
        if let Error::DockerResponseServerError {
            status_code,
            message,
        } = error
        {
            let class = judge(*status_code, message);
            return StepError {
                code: match class {
                    Class::Engine => ErrorCode::ContainerEngine,
                    Class::Passing | Class::Final => ErrorCode::WorkloadStart,
                },
                class,
                detail: format!("the container engine did not {what}: {}", message.trim()),
            };
        }
        self.forget_client();
        away(&format!(
            "the container engine did not {what}: {}",
            crate::chain(error)
        ))
    }

    /// Whether something is ours by its labels; none when it is no agent's.
    fn is_ours(&self, labels: &HashMap<String, String>) -> Option<bool> {
        let owner = labels.get(LABEL_NODE)?;
        Some(*owner == self.node.to_string())
    }

    /// Takes a network or volume that has one of our names and is ours.
    fn own(
        &self,
        kind: &str,
        name: &str,
        labels: &HashMap<String, String>,
    ) -> Result<(), StepError> {
        let whose = match self.is_ours(labels) {
            Some(true) => return Ok(()),
            Some(false) => "another agent made it",
            None => "no agent made it",
        };
        Err(StepError {
            code: ErrorCode::WorkloadStart,
            class: Class::Final,
            detail: format!(
                "the {kind} {name} is there, and {whose}; name it as external, or {ADVICE}"
            ),
        })
    }

    fn label_filters(&self, deployment: Option<DeploymentId>) -> HashMap<String, Vec<String>> {
        let mut labels = vec![format!("{LABEL_NODE}={}", self.node)];
        labels.extend(deployment.map(|id| format!("{LABEL_DEPLOYMENT}={id}")));
        HashMap::from([("label".to_owned(), labels)])
    }

    fn labels(&self, deployment: DeploymentId) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_NODE.to_owned(), self.node.to_string()),
            (LABEL_DEPLOYMENT.to_owned(), deployment.to_string()),
        ])
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn away(detail: &str) -> StepError {
    StepError {
        code: ErrorCode::ContainerEngine,
        class: Class::Engine,
        detail: detail.to_owned(),
    }
}

/// What an error that the engine answered says about trying again.
fn judge(status: u16, message: &str) -> Class {
    match status {
        // An engine that is about to stop answers, and carries nothing out.
        503 => Class::Engine,
        _ if message.contains("shutting down") => Class::Engine,
        500.. => Class::Passing,
        // Someone else removes it: it is gone soon.
        409 if message.contains("already in progress") => Class::Passing,
        _ => Class::Final,
    }
}

/// Takes a call as carried out whose object is gone already.
fn or_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(()),
        other => other,
    }
}

/// Says what to do about a container's name that someone else has.
fn or_taken(error: StepError) -> StepError {
    if !error.detail.contains("already in use by") {
        return error;
    }
    StepError {
        detail: format!("{}; {ADVICE}", error.detail),
        ..error
    }
}

/// A name of a network, volume or image that cannot lead elsewhere in the engine's
/// interface.
fn checked(name: &str) -> Result<&str, StepError> {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-:/@[]".contains(&b));
    if plain && !name.is_empty() && !name.split('/').any(|part| part == ".." || part.is_empty()) {
        return Ok(name);
    }
    Err(StepError {
        code: ErrorCode::DeploymentInvalid,
        class: Class::Final,
        detail: format!("{name:?} is no name of a network, volume or image"),
    })
}

impl ContainerRuntime for Engine {
    async fn observe(
        &self,
        deployment: DeploymentId,
        query: &Query,
    ) -> Result<Observed, StepError> {
        let docker = self.docker().await?;
        self.look(&docker, deployment, query).await
    }

    async fn pull(&self, image: &Image, note: Note<'_>) -> Result<(), StepError> {
        let docker = self.docker().await?;
        self.pull_image(&docker, image, note).await
    }

    async fn load(&self, archive: &Path, image: &Image, note: Note<'_>) -> Result<(), StepError> {
        let docker = self.docker().await?;
        self.load_archive(&docker, archive, image, note).await
    }

    async fn create_network(
        &self,
        deployment: DeploymentId,
        name: &str,
        network: &Network,
    ) -> Result<(), StepError> {
        let docker = self.docker().await?;
        // Old engines make a second one of a name that is taken.
        if let Some(taken) = self.network(&docker, name).await? {
            return self.own("network", name, &taken.labels.unwrap_or_default());
        }
        let request = make::network(name, network, self.labels(deployment));
        let call = docker.create_network(request);
        self.within(CALL, "make a network", call).await?;
        Ok(())
    }

    async fn create_volume(
        &self,
        deployment: DeploymentId,
        name: &str,
        volume: &Volume,
    ) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let request = make::volume(name, volume, self.labels(deployment));
        let call = docker.create_volume(request);
        // One that is there already is given back as it is.
        let made = self.within(CALL, "make a volume", call).await?;
        self.own("volume", name, &made.labels)
    }

    async fn create(&self, make: &Make<'_>) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let name = make.goal.container_name(make.service);
        let (body, further) = make::container(make)?;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let call = docker.create_container(Some(options), body);
        let made = self.within(START, "make a container", call).await;
        let made = made.map_err(or_taken)?;
        for request in further(&made.id) {
            let (network, request) = request;
            let call = docker.connect_network(checked(&network)?, request);
            self.within(CALL, "connect a container", call).await?;
        }
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let call =
            docker.start_container(id, None::<bollard::query_parameters::StartContainerOptions>);
        self.within(START, "start a container", call).await
    }

    async fn unpause(&self, id: &str) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let call = docker.unpause_container(id);
        self.within(CALL, "let a container go on", call).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let call = async { or_gone(docker.stop_container(id, Some(options)).await) };
        self.within(grace.saturating_add(CALL), "stop a container", call)
            .await
    }

    async fn remove(&self, id: &str, grace: Duration) -> Result<(), StepError> {
        self.stop(id, grace).await?;
        let docker = self.docker().await?;
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let call = async { or_gone(docker.remove_container(id, Some(options)).await) };
        self.within(START, "remove a container", call).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), StepError> {
        let docker = self.docker().await?;
        let call = async { or_gone(docker.remove_network(checked_or_none(name)).await) };
        self.within(CALL, "remove a network", call).await
    }

    async fn watch(&self, wake: &(dyn Fn(DeploymentId) + Send + Sync)) {
        let Ok(docker) = self.docker().await else {
            return;
        };
        let mut filters = self.label_filters(None);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        while let Some(Ok(event)) = events.next().await {
            // Health checks run a program each time, which is no news.
            let news = event
                .action
                .is_some_and(|action| !action.starts_with("exec_"));
            let deployment = event
                .actor
                .and_then(|actor| actor.attributes)
                .and_then(|labels| labels.get(LABEL_DEPLOYMENT)?.parse().ok());
            if let Some(deployment) = deployment
                && news
            {
                wake(deployment);
            }
        }
    }
}

/// A network's name as the engine listed it: nothing that it did not give out.
fn checked_or_none(name: &str) -> &str {
    checked(name).unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages are those of engines 20.10 to 28.
    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let removal = "removal of container 4f1 is already in progress";
        for (status, message, class) in [
            (409, removal, Class::Passing),
            (
                409,
                "the container name \"/web\" is already in use",
                Class::Final,
            ),
            (500, "dial unix: connection refused", Class::Passing),
            (500, "the daemon is shutting down", Class::Engine),
            (503, "", Class::Engine),
            (404, "no such image", Class::Final),
        ] {
            assert_eq!(judge(status, message), class, "{status} {message}");
        }
    }

    #[test]
    fn names_cannot_reach_elsewhere_in_the_engine() {
        for name in [
            "web_default",
            "docker.io/library/nginx:1.27",
            "registry:5000/a@sha256:00",
        ] {
            assert!(checked(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "../containers",
            "a/../b",
            "a?b",
            "a b",
            "a//b",
            "a#b",
            "a%2fb",
        ] {
            assert!(checked(name).is_err(), "{name}");
        }
    }
}
