//! The executor with real processes: what they may do to it, and what comes of
//! every command.

mod ends;
mod owner;
mod reads;
mod slots;

use super::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::command::{Action, Command, LogSource, Outcome, OutputStream, Receipt, ServiceVerb};
use protocol::id::CommandId;
use protocol::policy::{Attempt, Refusal};
use protocol::time::UnixMillis;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::gate::Admit;

/// Longer than any command here takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    executor: Executor,
    now: Arc<AtomicU64>,
    reloads: mpsc::Receiver<ReloadRequest>,
    outputs: BTreeMap<CommandId, Vec<(OutputStream, u64, Vec<u8>)>>,
}

fn clocks(now: &Arc<AtomicU64>) -> Clocks {
    let read = Arc::clone(now);
    let read: ReadTime = Arc::new(move || UnixMillis(read.load(Ordering::SeqCst)));
    Clocks {
        controller: Arc::clone(&read),
        wall: read,
    }
}

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir.join("work"));
    settings.run = RunMode::Any;
    settings.slots = 2;
    settings.kill_grace = Duration::from_millis(200);
    settings
}

fn bench_with(change: impl FnOnce(&mut Settings)) -> Bench {
    bench_of(change, Arc::new(|_| Ok(())))
}

fn bench_admitting(admit: Admit) -> Bench {
    bench_of(|_| {}, admit)
}

fn bench_of(change: impl FnOnce(&mut Settings), admit: Admit) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    change(&mut settings);
    let now = Arc::new(AtomicU64::new(1_000_000));
    let (reload, reloads) = mpsc::channel(1);
    let executor = Executor::new(settings, clocks(&now), reload, admit);
    Bench {
        dir,
        executor,
        now,
        reloads,
        outputs: BTreeMap::new(),
    }
}

fn bench() -> Bench {
    bench_with(|_| {})
}

fn id(number: u8) -> CommandId {
    CommandId::from_bytes([number; 10])
}

fn command(number: u8, action: Action) -> Command {
    Command {
        id: id(number),
        issued_at: UnixMillis(1_000_000),
        start_by: UnixMillis(2_000_000),
        run_timeout_ms: 10_000,
        output_bytes_max: 4096,
        issued_by: "ana".to_owned(),
        action,
    }
}

fn sh(number: u8, script: &str) -> Command {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    command(number, Action::Run { argv })
}

fn short(mut command: Command, millis: u64) -> Command {
    command.run_timeout_ms = millis;
    command
}

impl Bench {
    async fn receipt(&mut self) -> Receipt {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = tokio::time::timeout_at(deadline, self.executor.next()).await;
            match event.expect("no receipt in time") {
                CommandEvent::Finished(receipt) => return receipt,
                CommandEvent::Output {
                    command,
                    stream,
                    offset,
                    bytes,
                } => self
                    .outputs
                    .entry(command)
                    .or_default()
                    .push((stream, offset, bytes)),
                CommandEvent::Started { .. } => {}
            }
        }
    }

    async fn started(&mut self) -> CommandId {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.executor.next()).await;
            if let CommandEvent::Started { command, .. } = event.expect("nothing started") {
                return command;
            }
        }
    }

    async fn one(&mut self, command: Command) -> Receipt {
        let id = command.id;
        self.executor.start(command);
        let receipt = self.receipt().await;
        assert_eq!(receipt.command, id);
        receipt
    }

    /// Lets the executor work until `done` is true.
    async fn work_until(&mut self, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "did not happen in time");
            let pause = Duration::from_millis(10);
            let _event = tokio::time::timeout(pause, self.executor.next()).await;
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn alive(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // A zombie that its new parent has not reaped is not alive.
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    state.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

fn pid_in(file: &Path) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
