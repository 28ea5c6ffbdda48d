//! Containers: how many, and each one's CPU time and memory.
//!
//! A task of its own asks the Docker engine which containers there are, under
//! its own deadline: an engine that hangs never delays a sample. The numbers are
//! read from the containers' cgroups, which costs a file each, where the
//! engine's own statistics take it a second.
//!
//! **Invariant:** without a socket, nothing of the client is even built.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use protocol::telemetry::catalogue::SeriesId;
use protocol::telemetry::limit::CONTAINERS_MAX;
use protocol::telemetry::{Label, SampleSet};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::source::Source;
use crate::config::Config;
use crate::deploy::docker;

/// How long the engine may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Pause between two questions. Containers come and go by the minute; their
/// numbers are read at every sample.
const ASK_EVERY: Duration = Duration::from_secs(15);

/// What the engine said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Engine {
    pub(super) version: Option<String>,
    pub(super) total: usize,
    pub(super) running: Vec<Container>,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    id: String,
    label: Label,
}

/// What the sampler sees of the engine: `None` while it does not answer.
pub(super) type Seen = Option<Arc<Engine>>;

/// Asks the engine until told to stop, where the configuration wants it.
pub(super) async fn watch_engine(
    config: watch::Receiver<Arc<Config>>,
    seen: watch::Sender<Seen>,
    stop: CancellationToken,
) {
    let mut client: Option<Docker> = None;
    loop {
        let (wanted, socket) = {
            let config = config.borrow();
            (config.sampling.containers, config.docker.socket.clone())
        };
        let answer = if wanted && socket.exists() {
            ask(&socket, &mut client).await
        } else {
            None
        };
        if answer.is_none() {
            client = None;
        }
        seen.send_if_modified(|before| {
            let changed = before.as_deref() != answer.as_ref();
            if changed {
                *before = answer.map(Arc::new);
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

async fn ask(socket: &Path, client: &mut Option<Docker>) -> Option<Engine> {
    let question = async {
        if client.is_none() {
            let made = docker::client(socket, ANSWER_MAX.as_secs());
            *client = Some(made.ok()?.negotiate_version().await.ok()?);
        }
        let docker = client.as_ref()?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = docker.list_containers(Some(options)).await.ok()?;
        let version = docker.version().await.ok()?.version;
        Some((listed, version))
    };
    let (listed, version) = tokio::time::timeout(ANSWER_MAX, question)
        .await
        .ok()
        .flatten()?;
    let total = listed.len();
    let mut running: Vec<Container> = listed
        .into_iter()
        .filter(|container| {
            container
                .state
                .is_some_and(|state| state.to_string() == "running")
        })
        .filter_map(|container| {
            let id = container.id?;
            let name = container.names?.into_iter().next()?;
            Some(Container {
                label: Label::fit(name.trim_start_matches('/')),
                id,
            })
        })
        .filter(|container| {
            container.id.len() == 64 && container.id.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
        .collect();
    running.sort_by(|a, b| a.label.cmp(&b.label));
    Some(Engine {
        version,
        total,
        running,
    })
}

/// Collects what the last answer allows, and says how many containers were
/// beyond the bound.
pub(super) fn collect(source: &mut Source, engine: &Engine, out: &mut SampleSet) -> usize {
    out.push_u64(
        SeriesId::CONTAINERS_TOTAL,
        &Label::NONE,
        engine.total as u64,
    );
    out.push_u64(
        SeriesId::CONTAINERS_RUNNING,
        &Label::NONE,
        engine.running.len() as u64,
    );
    for container in engine.running.iter().take(CONTAINERS_MAX) {
        if let Some(centiseconds) = cpu_centiseconds(source, &container.id) {
            out.push_u64(SeriesId::CONTAINER_CPU, &container.label, centiseconds);
        }
        if let Some(bytes) = memory_bytes(source, &container.id) {
            out.push_u64(SeriesId::CONTAINER_MEM, &container.label, bytes / 65_536);
        }
    }
    engine.running.len().saturating_sub(CONTAINERS_MAX)
}

/// The places of a container's cgroup below a hierarchy: by the systemd driver
/// and by the cgroupfs driver.
fn places(hierarchy: &str, id: &str) -> [String; 2] {
    [
        format!("fs/cgroup/{hierarchy}system.slice/docker-{id}.scope"),
        format!("fs/cgroup/{hierarchy}docker/{id}"),
    ]
}

fn cpu_centiseconds(source: &mut Source, id: &str) -> Option<u64> {
    let unified = places("", id).into_iter().find_map(|place| {
        let file = source.sys(&format!("{place}/cpu.stat")).ok().flatten()?;
        file.number_after("usage_usec ").map(|us| us / 10_000)
    });
    unified.or_else(|| {
        places("cpuacct/", id)
            .into_iter()
            .find_map(|place| source.sys_number(&format!("{place}/cpuacct.usage")))
            .map(|ns| ns / 10_000_000)
    })
}

fn memory_bytes(source: &mut Source, id: &str) -> Option<u64> {
    let unified = places("", id)
        .into_iter()
        .find_map(|place| working_set(source, &place, "memory.current", "inactive_file "));
    unified.or_else(|| {
        places("memory/", id).into_iter().find_map(|place| {
            working_set(
                source,
                &place,
                "memory.usage_in_bytes",
                "total_inactive_file ",
            )
        })
    })
}

fn working_set(source: &mut Source, place: &str, usage: &str, inactive: &str) -> Option<u64> {
    let usage = source.sys_number(&format!("{place}/{usage}"))?;
    let file = source.sys(&format!("{place}/memory.stat")).ok().flatten()?;
    Some(usage.saturating_sub(file.number_after(inactive).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    //! The engine's answers against a socket of a few lines, and the cgroups of
    //! its containers.

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Answers what bollard asks at one connection, request by request.
    async fn serve(mut peer: UnixStream) {
        let mut request = vec![0; 8_192];
        loop {
            let count = peer.read(&mut request).await.unwrap_or_default();
            if count == 0 {
                return;
            }
            let head = String::from_utf8_lossy(&request[..count]).to_string();
            let body = if head.contains("/containers/json") {
                assert!(head.contains("all=true"), "{head}");
                format!(
                    "[{{\"Id\":\"{ID}\",\"Names\":[\"/web\"],\"State\":\"running\"}},\
                      {{\"Id\":\"../../etc\",\"Names\":[\"/evil\"],\"State\":\"running\"}},\
                      {{\"Id\":\"{ID}\",\"Names\":[\"/old\"],\"State\":\"exited\"}}]"
                )
            } else {
                "{\"Version\":\"20.10.24\",\"ApiVersion\":\"1.41\"}".to_owned()
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            if peer.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn an_engine_names_its_containers_and_their_cgroups_their_use() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = async {
            loop {
                let (peer, _) = listener.accept().await.unwrap();
                serve(peer).await;
            }
        };
        let mut client = None;
        let engine = tokio::select! {
            () = server => unreachable!("the server never ends"),
            engine = ask(&socket, &mut client) => engine.unwrap(),
        };
        assert_eq!(engine.version.as_deref(), Some("20.10.24"));
        assert_eq!(engine.total, 3);
        let names: Vec<&str> = engine
            .running
            .iter()
            .map(|one| one.label.as_str())
            .collect();
        assert_eq!(names, ["web"], "an id that is none leads to no file");

        for (place, text) in [
            ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("memory.current", "10485760\n"),
            ("memory.stat", "anon 5\ninactive_file 4194304\n"),
        ] {
            let path = dir.path().join(format!(
                "sys/fs/cgroup/system.slice/docker-{ID}.scope/{place}"
            ));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut samples = SampleSet::new();
        collect(&mut Source::at(dir.path()), &engine, &mut samples);
        assert_eq!(samples.get(SeriesId::CONTAINERS_TOTAL, ""), Some(3));
        assert_eq!(samples.get(SeriesId::CONTAINERS_RUNNING, ""), Some(1));
        assert_eq!(samples.get(SeriesId::CONTAINER_CPU, "web"), Some(250));
        assert_eq!(samples.get(SeriesId::CONTAINER_MEM, "web"), Some(96));
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(ask(&socket, &mut None).await, None);
    }

    #[test]
    fn cgroup_v1_counts_containers_too() {
        let dir = tempfile::tempdir().unwrap();
        for (place, text) in [
            ("cpuacct", ("cpuacct.usage", "1230000000\n")),
            ("memory", ("memory.usage_in_bytes", "131072\n")),
            ("memory", ("memory.stat", "total_inactive_file 65536\n")),
        ] {
            let folder = dir
                .path()
                .join(format!("sys/fs/cgroup/{place}/docker/{ID}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(text.0), text.1).unwrap();
        }
        let mut source = Source::at(dir.path());
        assert_eq!(cpu_centiseconds(&mut source, ID), Some(123));
        assert_eq!(memory_bytes(&mut source, ID), Some(65_536));
    }
}
