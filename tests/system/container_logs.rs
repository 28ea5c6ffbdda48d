//! A container's log through the agent's executor, from a real Docker engine:
//! its two streams, the last lines, age, following, and what is not there.

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use agent::clock::Clock;
use agent::command::{Clocks, CommandEvent, Executor, Settings};
use harness::servers;
use protocol::command::{Action, Command, LogSource, Outcome, OutputStream, Receipt};
use protocol::id::CommandId;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

fn docker(socket: &Path, script: &str) {
    let ran = Process::new("sh")
        .args(["-ec", script])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{script}: {ran:?}");
}

/// A container that has said some lines. Removed when dropped.
struct Container<'a> {
    socket: &'a Path,
    name: String,
}

impl<'a> Container<'a> {
    fn run(socket: &'a Path, topic: &str, script: &str) -> Self {
        let name = format!("flotilla-log-{topic}-{}", std::process::id());
        docker(
            socket,
            &format!(
                "tar -C /bin -cf - busybox | docker import - {name} >/dev/null\n\
                 docker run -d --network none --name {name} {name} /busybox sh -c '{script}'"
            ),
        );
        Self { socket, name }
    }

    fn wait(&self) {
        docker(self.socket, &format!("docker wait {}", self.name));
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let name = &self.name;
        docker(
            self.socket,
            &format!("docker rm -f {name} >/dev/null; docker rmi {name} >/dev/null || true"),
        );
    }
}

struct Asked {
    receipt: Receipt,
    progress: Vec<(OutputStream, Vec<u8>)>,
}

fn ask(socket: &Path, name: &str, lines: u32, since_ms: u64, follow_ms: Option<u64>) -> Asked {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path().join("work"));
    socket.clone_into(&mut settings.docker_socket);
    let clock = Clock::default();
    let (reload, _reloads) = mpsc::channel(1);
    let wall = clock.clone();
    let clocks = Clocks {
        controller: Arc::new(move || clock.controller_now()),
        wall: Arc::new(move || wall.wall()),
    };
    let now = clocks.controller.clone()();
    let command = Command {
        id: CommandId::from_bytes([7; 10]),
        issued_at: now,
        start_by: now.after(PATIENCE),
        run_timeout_ms: follow_ms.unwrap_or(10_000),
        output_bytes_max: 4096,
        issued_by: "ana".to_owned(),
        action: Action::Logs {
            source: LogSource::Container(name.to_owned()),
            lines,
            since_ms,
            follow: follow_ms.is_some(),
        },
    };
    runtime.block_on(async {
        let mut executor = Executor::new(settings, clocks, reload, Arc::new(|_| Ok(())));
        executor.start(command);
        let mut progress = Vec::new();
        loop {
            let event = tokio::time::timeout(PATIENCE, executor.next()).await;
            match event.expect("the command did not end") {
                CommandEvent::Finished(receipt) => return Asked { receipt, progress },
                CommandEvent::Output { stream, bytes, .. } => progress.push((stream, bytes)),
                CommandEvent::Started { .. } => {}
            }
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn both_streams_and_the_last_lines_are_read() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let script = "for n in 1 2 3; do echo out $n; done; echo problem >&2";
    let container = Container::run(&socket, "lines", script);
    container.wait();
    let whole = ask(&socket, &container.name, 100, 0, None).receipt;
    assert_eq!(whole.outcome, Outcome::Succeeded, "{}", whole.detail);
    assert_eq!(text(&whole.stdout), "out 1\nout 2\nout 3\n");
    assert_eq!(text(&whole.stderr), "problem\n");
    let last = ask(&socket, &container.name, 2, 0, None).receipt;
    let shown = text(&last.stdout) + &text(&last.stderr);
    assert_eq!(shown.lines().count(), 2, "{shown}");
}

#[test]
fn only_young_lines_are_read_when_an_age_is_given() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let script = "echo old; /busybox sleep 4; echo young";
    let container = Container::run(&socket, "age", script);
    container.wait();
    let young = ask(&socket, &container.name, 100, 2_500, None).receipt;
    assert_eq!(text(&young.stdout), "young\n");
}

#[test]
fn follower_sees_new_lines_and_ends_at_its_deadline() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let script = "while true; do echo tick; /busybox sleep 0.5; done";
    let container = Container::run(&socket, "follow", script);
    let followed = ask(&socket, &container.name, 1, 0, Some(3_000));
    let receipt = followed.receipt;
    assert_eq!(receipt.outcome, Outcome::Succeeded, "{}", receipt.detail);
    assert!(text(&receipt.stdout).matches("tick\n").count() >= 3);
    assert!(followed.progress.len() >= 2, "{:?}", followed.progress);
}

#[test]
fn much_output_is_cut_and_marked() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let script = "/busybox seq 1 5000";
    let container = Container::run(&socket, "much", script);
    container.wait();
    let receipt = ask(&socket, &container.name, 10_000, 0, None).receipt;
    assert!(receipt.stdout.len() <= 4096 && receipt.cut_bytes > 10_000);
    assert!(text(&receipt.stdout).ends_with("\n5000\n"));
}

#[test]
fn container_that_is_not_there_is_a_failure_with_a_code() {
    let Some(socket) = servers::docker() else {
        return;
    };
    let receipt = ask(&socket, "flotilla-no-such-container", 5, 0, None).receipt;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: None });
    assert_eq!(receipt.code.as_deref(), Some("log.unavailable"));
    assert!(
        receipt.detail.contains("flotilla-no-such-container"),
        "{}",
        receipt.detail
    );
}
