//! What the engine says there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, HealthStatusEnum,
    NetworkInspect, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, LogsOptionsBuilder,
};
use futures_util::StreamExt as _;
use protocol::deployment::limit::{LOG_TAIL_LINE_BYTES_MAX, LOG_TAIL_LINES_MAX};
use protocol::deployment::spec::Restart;
use protocol::id::{DeploymentId, NodeId};
use protocol::time::UnixMillis;

use super::{CALL, DIGESTS_COUNT_MAX, Engine, checked, lock};
use crate::deploy::Query;
use crate::domain::deployment::machine::StepError;
use crate::domain::deployment::observed::{Container, Health, Observed, Owner, Run, Settings};

/// How long the last lines of a container may take. They are a help and no need.
const LOG_WITHIN: Duration = Duration::from_secs(5);

/// Networks that engines have by themselves.
const BUILT_IN: [&str; 5] = ["bridge", "default", "host", "none", "podman"];

impl Engine {
    pub(super) async fn look(
        &self,
        docker: &Docker,
        deployment: DeploymentId,
        query: &Query,
    ) -> Result<Observed, StepError> {
        let filters = self.label_filters(Some(deployment));
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filters)
            .build();
        let call = docker.list_containers(Some(options));
        let listed = self.within(CALL, "list containers", call).await?;
        let mut containers = Vec::with_capacity(listed.len());
        for id in listed.into_iter().filter_map(|summary| summary.id) {
            if let Some(container) = self.inspect(docker, &id).await? {
                containers.push(container);
            }
        }
        Ok(Observed {
            containers,
            images: self.images(docker, &query.images).await?,
            networks: self.networks(docker, deployment, &query.networks).await?,
            volumes: self.volumes(docker, &query.volumes).await?,
            files: BTreeSet::new(),
        })
    }

    /// One that went meanwhile is none.
    async fn inspect(&self, docker: &Docker, id: &str) -> Result<Option<Container>, StepError> {
        let call = async {
            there(
                docker
                    .inspect_container(
                        id,
                        None::<bollard::query_parameters::InspectContainerOptions>,
                    )
                    .await,
            )
        };
        let Some(found) = self.within(CALL, "inspect a container", call).await? else {
            return Ok(None);
        };
        let digest = match &found.image {
            Some(image) => self.digest(docker, image).await?,
            None => None,
        };
        let Some(mut container) = read(&found, self.node) else {
            return Ok(None);
        };
        container.image_digest = digest;
        if container.is_unwell() {
            container.log_tail = tail(docker, id).await;
        }
        Ok(Some(container))
    }

    async fn digest(&self, docker: &Docker, image: &str) -> Result<Option<String>, StepError> {
        if let Some(known) = lock(&self.digests).get(image) {
            return Ok(known.clone());
        }
        let Ok(name) = checked(image) else {
            return Ok(None);
        };
        let call = async { there(docker.inspect_image(name).await) };
        let digest = self
            .within(CALL, "inspect an image", call)
            .await?
            .and_then(|found| found.repo_digests)
            .and_then(|digests| Some(digests.first()?.split_once('@')?.1.to_owned()));
        let mut known = lock(&self.digests);
        if known.len() >= DIGESTS_COUNT_MAX {
            known.clear();
        }
        known.insert(image.to_owned(), digest.clone());
        Ok(digest)
    }

    async fn images(
        &self,
        docker: &Docker,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, StepError> {
        let mut found = BTreeSet::new();
        for handle in wanted {
            let name = checked(handle)?;
            let call = async { there(docker.inspect_image(name).await) };
            if self.within(CALL, "inspect an image", call).await?.is_some() {
                found.insert(handle.clone());
            }
        }
        Ok(found)
    }

    async fn networks(
        &self,
        docker: &Docker,
        deployment: DeploymentId,
        external: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, bool>, StepError> {
        let filters = self.label_filters(Some(deployment));
        let options = ListNetworksOptionsBuilder::default()
            .filters(&filters)
            .build();
        let call = docker.list_networks(Some(options));
        let own = self.within(CALL, "list networks", call).await?;
        let own = own
            .into_iter()
            .filter_map(|network| Some((network.name?, true)));
        Ok(external
            .iter()
            .map(|name| (name.clone(), false))
            .chain(own)
            .collect())
    }

    /// The network of a name.
    pub(super) async fn network(
        &self,
        docker: &Docker,
        name: &str,
    ) -> Result<Option<NetworkInspect>, StepError> {
        let name = checked(name)?;
        let call = async {
            there(
                docker
                    .inspect_network(
                        name,
                        None::<bollard::query_parameters::InspectNetworkOptions>,
                    )
                    .await,
            )
        };
        self.within(CALL, "inspect a network", call).await
    }

    async fn volumes(
        &self,
        docker: &Docker,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, StepError> {
        let mut found = BTreeSet::new();
        for name in wanted {
            let checked = checked(name)?;
            let call = async { there(docker.inspect_volume(checked).await) };
            let there = self.within(CALL, "inspect a volume", call).await?;
            // Another agent's is not there for us; one made by hand is meant for us.
            if there.is_some_and(|volume| self.is_ours(&volume.labels) != Some(false)) {
                found.insert(name.clone());
            }
        }
        Ok(found)
    }
}

/// Nothing, where the engine says that there is none.
fn there<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(found: &ContainerInspectResponse, node: NodeId) -> Option<Container> {
    let label = |key: &str| found.config.as_ref()?.labels.as_ref()?.get(key).cloned();
    let empty = ContainerState::default();
    let state = found.state.as_ref().unwrap_or(&empty);
    let run = match state.status? {
        ContainerStateStatusEnum::RUNNING => Run::Running,
        ContainerStateStatusEnum::PAUSED => Run::Paused,
        ContainerStateStatusEnum::RESTARTING => Run::Restarting,
        ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::STOPPING => Run::Exited,
        ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING => Run::Dead,
        ContainerStateStatusEnum::EMPTY | ContainerStateStatusEnum::CREATED => Run::Created,
    };
    let health = state
        .health
        .as_ref()
        .and_then(|health| match health.status? {
            HealthStatusEnum::STARTING => Some(Health::Starting),
            HealthStatusEnum::HEALTHY => Some(Health::Healthy),
            HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
            HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
        });
    Some(Container {
        id: found.id.clone()?,
        owner: Owner::read(node, label),
        run,
        health,
        exit_code: state
            .exit_code
            .filter(|_| run == Run::Exited || run == Run::Restarting)
            .and_then(|code| i32::try_from(code).ok()),
        oom_killed: state.oom_killed.unwrap_or(false),
        error: state.error.clone().unwrap_or_default(),
        restarts: found
            .restart_count
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        started_at: state.started_at.as_deref().and_then(time),
        image_digest: None,
        settings: settings(found),
        log_tail: Vec::new(),
    })
}

fn settings(found: &ContainerInspectResponse) -> Settings {
    let name = found.name.as_deref().unwrap_or_default();
    let mut settings = Settings {
        name: name.trim_start_matches('/').to_owned(),
        ..Settings::default()
    };
    if let Some(host) = &found.host_config {
        let count = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
        settings.memory_bytes = count(host.memory);
        settings.memory_reservation_bytes = count(host.memory_reservation);
        settings.nano_cpus = count(host.nano_cpus);
        settings.pids = count(host.pids_limit);
        settings.restart = host
            .restart_policy
            .as_ref()
            .and_then(|policy| {
                let most = u32::try_from(policy.maximum_retry_count.unwrap_or(0)).ok()?;
                Some(match policy.name? {
                    RestartPolicyNameEnum::ALWAYS => Restart::Always,
                    RestartPolicyNameEnum::UNLESS_STOPPED => Restart::UnlessStopped,
                    RestartPolicyNameEnum::ON_FAILURE => Restart::OnFailure(most),
                    RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY => Restart::No,
                })
            })
            .unwrap_or_default();
    }
    let networks = found
        .network_settings
        .as_ref()
        .and_then(|settings| settings.networks.clone())
        .unwrap_or_default();
    settings.networks = networks
        .into_keys()
        .filter(|name| !BUILT_IN.contains(&name.as_str()))
        .collect();
    settings
}

/// The last lines that a container wrote, on either output.
async fn tail(docker: &Docker, id: &str) -> Vec<String> {
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(&LOG_TAIL_LINES_MAX.to_string())
        .build();
    let mut text: Vec<u8> = Vec::new();
    let read = async {
        let mut log = std::pin::pin!(docker.logs(id, Some(options)));
        while let Some(Ok(output)) = log.next().await {
            text.extend_from_slice(&output.into_bytes());
            if text.len() > LOG_TAIL_LINES_MAX * LOG_TAIL_LINE_BYTES_MAX * 4 {
                break;
            }
        }
    };
    // What came until then is shown.
    drop(tokio::time::timeout(LOG_WITHIN, read).await);
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// A time as engines write it: `2026-11-25T22:10:47.5+01:00`. The year 1 stands for
/// never.
fn time(text: &str) -> Option<UnixMillis> {
    let seconds_end = text.find(['.', 'Z', '+']).or_else(|| {
        // A minus after the date's own two.
        text.match_indices('-').nth(2).map(|(at, _)| at)
    })?;
    let (plain, rest) = text.split_at_checked(seconds_end)?;
    let (fraction, offset) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at_checked(rest.find(['Z', '+', '-'])?)?,
        None => ("", rest),
    };
    let base = humantime::parse_rfc3339(&format!("{plain}Z")).ok()?;
    let base = base.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
    let millis: u64 = format!("{fraction:0<3}")
        .get(..3)
        .and_then(|digits| digits.parse().ok())?;
    let shift = |text: &str| -> Option<i64> {
        let (hours, minutes) = text.split_once(':')?;
        let minutes: i64 = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
        Some(minutes * 60_000)
    };
    let shift = match offset.split_at_checked(1)? {
        ("+", rest) => shift(rest)?,
        ("-", rest) => -shift(rest)?,
        _ => 0,
    };
    let at = i64::try_from(base).ok()? + i64::try_from(millis).ok()? - shift;
    u64::try_from(at).ok().filter(|at| *at > 0).map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_docker_and_podman_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1_000)),
            ("1970-01-01T00:00:01.25Z", Some(1_250)),
            ("1970-01-01T01:00:01.123456789+01:00", Some(1_123)),
            ("1970-01-01T00:00:02.5-01:00", Some(3_602_500)),
            ("0001-01-01T00:00:00Z", None),
            ("", None),
            ("rubbish", None),
        ] {
            assert_eq!(time(text), expected.map(UnixMillis), "{text}");
        }
    }
}
