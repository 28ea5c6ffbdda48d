//! The executor with real processes: what they may do to it, and what comes of
//! every command.

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

#[tokio::test]
async fn program_runs_and_its_output_is_in_the_receipt() {
    let mut bench = bench();
    let receipt = bench.one(sh(1, "echo out; echo err >&2")).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert_eq!(text(&receipt.stdout), "out\n");
    assert_eq!(text(&receipt.stderr), "err\n");
    assert_eq!(receipt.cut_bytes, 0);
    assert_eq!(receipt.code, None);
    assert_eq!(receipt.started_at, Some(UnixMillis(1_000_000)));
}

#[tokio::test]
async fn exit_code_and_signal_are_told_apart() {
    let mut bench = bench();
    let receipt = bench.one(sh(1, "exit 3")).await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: Some(3) });
    assert_eq!(receipt.detail, "exit code 3");
    let receipt = bench.one(sh(2, "kill -9 $$")).await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: None });
    assert_eq!(receipt.detail, "ended by signal 9");
}

#[tokio::test]
async fn child_has_a_bare_environment_a_folder_and_no_input() {
    let mut bench = bench();
    let receipt = bench.one(sh(1, "env | sort; pwd; cat; echo end")).await;
    let shown = text(&receipt.stdout);
    let names: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let allowed = [
        "FLOTILLA_COMMAND",
        "HOME",
        "LANG",
        "PAGER",
        "PATH",
        "PWD",
        "SYSTEMD_COLORS",
        "SYSTEMD_PAGER",
        "SYSTEMD_PAGERSECURE",
        "TERM",
        "OLDPWD",
        "SHLVL",
        "_",
    ];
    assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
    assert!(shown.contains(&format!("PATH={}\n", process::SEARCH_PATH)));
    let folder = bench.file("work").join(id(1).to_string());
    assert!(
        shown.contains(&format!("\n{}\n", folder.display())),
        "{shown}"
    );
    assert!(shown.ends_with("end\n"));
    assert!(!folder.exists(), "the folder was left behind");
}

#[tokio::test]
async fn missing_program_is_a_failure_with_a_code() {
    let mut bench = bench();
    let argv = vec!["no-such-program-here".to_owned()];
    let receipt = bench.one(command(1, Action::Run { argv })).await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: None });
    assert_eq!(receipt.code.as_deref(), Some("command.start_failed"));
    assert!(receipt.detail.contains("no-such-program-here"));
}

#[tokio::test]
async fn what_the_node_does_not_allow_is_refused_before_it_starts() {
    let mut bench = bench_with(|settings| settings.run = RunMode::AllowList);
    let touched = bench.file("touched");
    let receipt = bench
        .one(sh(1, &format!("touch {}", touched.display())))
        .await;
    assert_eq!(receipt.outcome, Outcome::Refused);
    assert_eq!(receipt.code.as_deref(), Some("command.not_allowed"));
    assert_eq!(receipt.started_at, None);
    assert!(!touched.exists());
    let argv = vec!["uptime".to_owned()];
    let receipt = bench.one(command(2, Action::Run { argv })).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded, "{}", receipt.detail);
    bench.executor.apply(Settings {
        run: RunMode::Off,
        ..settings(bench.dir.path())
    });
    let argv = vec!["uptime".to_owned()];
    let receipt = bench.one(command(3, Action::Run { argv })).await;
    assert_eq!(receipt.outcome, Outcome::Refused);
}

#[tokio::test]
async fn endless_output_is_cut_marked_and_counted() {
    let mut bench = bench();
    let receipt = bench.one(short(sh(1, "yes flotilla"), 1_000)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert_eq!(receipt.code.as_deref(), Some("command.timed_out"));
    assert!(receipt.stdout.len() <= 4096);
    assert!(receipt.cut_bytes > 10_000);
    let shown = text(&receipt.stdout);
    assert!(shown.contains(&format!("[... {} bytes cut ...]", receipt.cut_bytes)));
    assert!(shown.starts_with("flotilla\n"));
}

#[tokio::test]
async fn progress_is_shown_while_it_runs_and_bounded() {
    let mut bench = bench();
    let script = "echo first; sleep 0.8; echo second; sleep 0.8";
    let receipt = bench.one(sh(1, script)).await;
    assert_eq!(text(&receipt.stdout), "first\nsecond\n");
    let mut shown = Vec::new();
    for (stream, offset, bytes) in &bench.outputs[&id(1)] {
        assert_eq!(
            (*stream, *offset),
            (OutputStream::Stdout, shown.len() as u64)
        );
        shown.extend_from_slice(bytes);
    }
    assert_eq!(text(&shown), "first\nsecond\n");
    bench.one(short(sh(2, "yes"), 1_500)).await;
    let flood: usize = bench.outputs[&id(2)]
        .iter()
        .map(|chunk| chunk.2.len())
        .sum();
    assert!(flood <= 8 * 8192, "{flood} bytes of progress in 1.5 s");
}

#[tokio::test]
async fn timeout_ends_the_whole_group() {
    let mut bench = bench();
    let file = bench.file("pid");
    let script = format!("sleep 300 & echo $! > {}; wait", file.display());
    let before = Instant::now();
    let receipt = bench.one(short(sh(1, &script), 500)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert!(before.elapsed() < Duration::from_secs(5));
    let pid = pid_in(&file).unwrap();
    bench.work_until(|| !alive(pid)).await;
}

#[tokio::test]
async fn child_that_ignores_term_is_killed_after_the_grace() {
    let mut bench = bench();
    let script = "trap '' TERM; echo ready; while true; do sleep 1; done";
    let before = Instant::now();
    let receipt = bench.one(short(sh(1, script), 500)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert_eq!(text(&receipt.stdout), "ready\n");
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(700), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn child_that_heeds_term_keeps_its_last_words() {
    let mut bench = bench_with(|settings| settings.kill_grace = Duration::from_secs(5));
    let script = "trap 'echo bye; exit 0' TERM; echo ready; sleep 300 & wait";
    let receipt = bench.one(short(sh(1, script), 400)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert_eq!(text(&receipt.stdout), "ready\nbye\n");
}

#[tokio::test]
async fn background_child_with_the_pipe_cannot_hold_the_slot() {
    let mut bench = bench();
    let file = bench.file("pid");
    let script = format!("sleep 300 & echo $! > {}; echo done", file.display());
    let before = Instant::now();
    let receipt = bench.one(sh(1, &script)).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert_eq!(text(&receipt.stdout), "done\n");
    assert!(before.elapsed() < Duration::from_secs(3));
    let pid = pid_in(&file).unwrap();
    bench.work_until(|| !alive(pid)).await;
}

#[tokio::test]
async fn descendant_that_left_the_group_cannot_hold_the_slot() {
    let mut bench = bench();
    let file = bench.file("pid");
    // Its own session, with the pipe, and writing to it for ever.
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; while sleep 0.1; do echo x; done' & \
         while ! test -s {0}; do sleep 0.05; done; echo done",
        file.display()
    );
    let before = Instant::now();
    let receipt = bench.one(sh(1, &script)).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(bench.executor.load(), Load::default());
    assert!(!alive(pid_in(&file).unwrap()));
}

/// A daemon: a session of its own, its parents gone, nothing of the pipes.
fn daemon(prefix: &str, file: &Path) -> String {
    format!(
        "({prefix} setsid sh -c 'sleep 300 >/dev/null 2>&1 & echo $! > {0}' &); \
         while ! test -s {0}; do sleep 0.05; done",
        file.display()
    )
}

#[tokio::test]
async fn what_a_command_leaves_running_ends_with_it_and_is_said() {
    let mut bench = bench();
    let file = bench.file("pid");
    let receipt = bench.one(sh(1, &daemon("", &file))).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert_eq!(receipt.detail, "1 process that it left running was ended");
    let pid = pid_in(&file).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "not reaped");
    let receipt = bench.one(sh(2, "true")).await;
    assert_eq!(receipt.detail, "");
}

#[tokio::test]
async fn timeout_ends_what_had_left_the_group() {
    let mut bench = bench();
    let file = bench.file("pid");
    let script = format!("{}; sleep 300", daemon("", &file));
    let receipt = bench.one(short(sh(1, &script), 1_000)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert!(!alive(pid_in(&file).unwrap()));
}

#[tokio::test]
async fn daemon_without_the_mark_is_ended_when_it_can_be_of_nobody_else() {
    let mut bench = bench();
    let file = bench.file("pid");
    bench.one(sh(1, &daemon("env -i", &file))).await;
    assert!(!alive(pid_in(&file).unwrap()));
}

#[tokio::test]
async fn what_another_command_started_is_left_alone() {
    let mut bench = bench();
    let [marked, unmarked] = ["marked", "unmarked"].map(|name| bench.file(name));
    let script = [daemon("", &marked), daemon("env -i", &unmarked)].join("; ");
    bench.executor.start(sh(1, &format!("{script}; sleep 300")));
    bench
        .work_until(|| pid_in(&marked).is_some() && pid_in(&unmarked).is_some())
        .await;
    let receipt = bench.one(sh(2, "true")).await;
    assert_eq!((receipt.command, receipt.detail.as_str()), (id(2), ""));
    let pids = [marked, unmarked].map(|file| pid_in(&file).unwrap());
    assert!(pids.into_iter().all(alive));
    bench.executor.cancel(id(1));
    assert_eq!(bench.receipt().await.outcome, Outcome::Cancelled);
    assert!(!pids.into_iter().any(alive));
}

#[tokio::test]
async fn storm_of_daemons_is_ended_in_bounded_time() {
    let mut bench = bench();
    let file = bench.file("pids");
    // At most 400: each is a session of its own, begun by one that is as well.
    let script = format!(
        "setsid sh -c 'i=0; while test $i -lt 400; do i=$((i+1)); \
         setsid sh -c \"echo \\$\\$ >> {0}; exec sleep 300\" & done; wait' & \
         while ! test -s {0}; do sleep 0.02; done",
        file.display()
    );
    let before = Instant::now();
    let receipt = bench.one(sh(1, &script)).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert!(!receipt.detail.contains("in time"), "{}", receipt.detail);
    assert!(before.elapsed() < Duration::from_secs(8));
    let pids = std::fs::read_to_string(&file).unwrap();
    let pids: Vec<i32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert!(!pids.is_empty() && !pids.into_iter().any(alive));
}

#[tokio::test]
async fn orphans_that_end_by_themselves_are_reaped_while_the_command_runs() {
    let mut bench = bench();
    let file = bench.file("pid");
    let script = format!("(sh -c 'echo $$ > {}' &); sleep 300", file.display());
    bench.executor.start(sh(1, &script));
    bench.work_until(|| pid_in(&file).is_some()).await;
    let entry = PathBuf::from(format!("/proc/{}", pid_in(&file).unwrap()));
    bench.work_until(|| !entry.exists()).await;
    bench.executor.cancel(id(1));
    bench.receipt().await;
}

#[tokio::test]
async fn child_that_closes_its_output_is_still_waited_for() {
    let mut bench = bench();
    let receipt = bench
        .one(sh(1, "echo a; exec >&- 2>&-; sleep 0.5; exit 7"))
        .await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: Some(7) });
    assert_eq!(text(&receipt.stdout), "a\n");
}

#[tokio::test]
async fn stopped_child_is_ended_at_its_timeout() {
    let mut bench = bench();
    let receipt = bench.one(short(sh(1, "kill -STOP $$; echo no"), 400)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    assert_eq!(text(&receipt.stdout), "");
}

#[tokio::test]
async fn running_command_is_cancelled() {
    let mut bench = bench();
    bench.executor.start(sh(1, "echo begun; sleep 300"));
    assert_eq!(bench.started().await, id(1));
    let folder = bench.file("work").join(id(1).to_string());
    bench.work_until(|| folder.exists()).await;
    assert!(bench.executor.cancel(id(1)));
    let receipt = bench.receipt().await;
    assert_eq!(receipt.outcome, Outcome::Cancelled);
    assert_eq!(receipt.code.as_deref(), Some("command.cancelled"));
    assert!(!bench.executor.cancel(id(1)));
}

#[tokio::test]
async fn cancelled_before_the_process_exists_is_cancelled() {
    let mut bench = bench();
    bench.executor.start(sh(1, "sleep 300"));
    assert!(bench.executor.cancel(id(1)));
    assert_eq!(bench.receipt().await.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn cancel_that_loses_the_race_does_not_rewrite_the_end() {
    let mut bench = bench();
    bench.executor.start(sh(1, "exit 5"));
    assert_eq!(bench.started().await, id(1));
    // The process ends while nobody asks the executor.
    tokio::time::sleep(Duration::from_millis(700)).await;
    bench.executor.cancel(id(1));
    let receipt = bench.receipt().await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: Some(5) });
}

#[tokio::test]
async fn waiting_command_is_cancelled_without_starting() {
    let mut bench = bench();
    let touched = bench.file("touched");
    bench.executor.start(sh(1, "sleep 300"));
    bench.executor.start(sh(2, "sleep 300"));
    bench
        .executor
        .start(sh(3, &format!("touch {}", touched.display())));
    assert_eq!(
        bench.executor.load(),
        Load {
            running: 2,
            waiting: 1
        }
    );
    assert!(bench.executor.cancel(id(3)));
    let receipt = bench.receipt().await;
    assert_eq!(receipt.command, id(3));
    assert_eq!(receipt.outcome, Outcome::Cancelled);
    assert_eq!(receipt.started_at, None);
    bench.executor.cancel(id(1));
    bench.executor.cancel(id(2));
    bench.receipt().await;
    bench.receipt().await;
    assert!(!touched.exists());
}

#[tokio::test]
async fn stuck_commands_delay_neither_ping_nor_questions() {
    let mut bench = bench();
    for number in 1..=4 {
        bench.executor.start(sh(number, "trap '' TERM; sleep 300"));
    }
    bench.executor.start(command(10, Action::Ping));
    let before = Instant::now();
    let pong = bench.receipt().await;
    assert_eq!((pong.command, pong.outcome), (id(10), Outcome::Succeeded));
    let root = bench.dir.path().canonicalize().unwrap();
    std::fs::write(root.join("app.log"), "hello\n").unwrap();
    let mut changed = settings(bench.dir.path());
    changed.log_roots = vec![root.display().to_string().parse().unwrap()];
    bench.executor.apply(changed);
    let source = LogSource::File(root.join("app.log").display().to_string());
    let logs = bench
        .one(command(
            11,
            Action::Logs {
                source,
                lines: 5,
                since_ms: 0,
                follow: false,
            },
        ))
        .await;
    assert_eq!(text(&logs.stdout), "hello\n");
    assert!(before.elapsed() < Duration::from_secs(2));
    for number in 1..=4 {
        bench.executor.cancel(id(number));
    }
    for _ in 1..=4 {
        assert_eq!(bench.receipt().await.outcome, Outcome::Cancelled);
    }
    assert_eq!(bench.executor.load(), Load::default());
}

#[tokio::test]
async fn slot_is_given_back_to_the_next_in_line() {
    let mut bench = bench_with(|settings| settings.slots = 1);
    for number in 1..=3 {
        bench.executor.start(short(sh(number, "sleep 300"), 200));
    }
    for number in 1..=3 {
        let receipt = bench.receipt().await;
        assert_eq!(
            (receipt.command, receipt.outcome),
            (id(number), Outcome::TimedOut)
        );
    }
}

#[tokio::test]
async fn command_that_waited_too_long_for_a_slot_expires() {
    let mut bench = bench_with(|settings| settings.slots = 1);
    let touched = bench.file("touched");
    bench.executor.start(sh(1, "sleep 300"));
    bench
        .executor
        .start(sh(2, &format!("touch {}", touched.display())));
    bench.now.store(2_000_001, Ordering::SeqCst);
    let receipt = bench.receipt().await;
    assert_eq!(receipt.command, id(2));
    assert_eq!(receipt.outcome, Outcome::Expired);
    assert_eq!(receipt.code.as_deref(), Some("command.expired"));
    assert_eq!(receipt.started_at, None);
    bench.executor.cancel(id(1));
    bench.receipt().await;
    assert!(!touched.exists());
}

#[tokio::test]
async fn command_that_waited_while_a_breaker_opened_is_refused() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = Arc::clone(&open);
    let mut bench = bench_admitting(Arc::new(move |attempt| {
        let gated = attempt == Attempt::Command("run") && asked.load(Ordering::Relaxed);
        if gated { Err(breaker_open()) } else { Ok(()) }
    }));
    for number in 1..=3 {
        bench.executor.start(sh(number, "sleep 0.2"));
    }
    open.store(true, Ordering::Relaxed);
    let stop = Action::Service {
        unit: "a.service".to_owned(),
        verb: ServiceVerb::Stop,
    };
    bench.executor.start(command(4, stop));
    for _ in 0..4 {
        let receipt = bench.receipt().await;
        let code = receipt.code.as_deref();
        match receipt.command {
            // Running when the breaker opened.
            one if one == id(1) || one == id(2) => assert_eq!(receipt.outcome, Outcome::Succeeded),
            one if one == id(3) => {
                assert_eq!(receipt.outcome, Outcome::Refused);
                assert_eq!(code, Some("breaker.open"));
                assert!(receipt.detail.contains("epoch 7"), "{}", receipt.detail);
            }
            // Refused by the node's own rules, not by the breaker.
            _ => assert_eq!(code, Some("command.not_allowed")),
        }
    }
}

fn breaker_open() -> Refusal {
    Refusal::Breaker {
        breaker: "default".to_owned(),
        state: "open",
        epoch: 7,
        reason: "3 failures in a row".to_owned(),
    }
}

#[tokio::test]
async fn too_many_waiting_commands_are_refused_with_a_code() {
    let mut bench = bench_with(|settings| settings.slots = 1);
    let argv = |number: u8| {
        let mut command = sh(0, "sleep 300");
        command.id = id(number);
        command
    };
    let most = u8::try_from(executor::WAITING_MAX).unwrap() + 1;
    for number in 1..=most {
        bench.executor.start(argv(number));
    }
    let receipt = bench.one(argv(200)).await;
    assert_eq!(receipt.outcome, Outcome::Refused);
    assert_eq!(receipt.code.as_deref(), Some("command.no_slot"));
    let pong = bench.one(command(201, Action::Ping)).await;
    assert_eq!(pong.outcome, Outcome::Succeeded);
    let owed = bench.executor.shutdown().await;
    assert_eq!(owed.len(), usize::from(most));
}

#[tokio::test]
async fn malformed_and_oversized_commands_are_refused_and_delay_nothing() {
    let mut bench = bench();
    let run = |argv: Vec<String>| Action::Run { argv };
    let logs = |source: LogSource, lines: u32| Action::Logs {
        source,
        lines,
        since_ms: 0,
        follow: false,
    };
    let bad = [
        run(vec![]),
        run(vec![String::new()]),
        run(vec!["x".repeat(100_000)]),
        run(vec!["a".to_owned(); 10_000]),
        run(vec!["a\0b".to_owned()]),
        logs(LogSource::Unit("-x".to_owned()), 5),
        logs(LogSource::Unit("a b".to_owned()), 5),
        logs(LogSource::File("etc/passwd".to_owned()), 5),
        logs(LogSource::Container("../x".to_owned()), 5),
        logs(LogSource::Unit("ssh".to_owned()), 0),
        logs(LogSource::Unit("ssh".to_owned()), u32::MAX),
        Action::Service {
            unit: "--now".to_owned(),
            verb: ServiceVerb::Status,
        },
        Action::Service {
            unit: "x/../y".to_owned(),
            verb: ServiceVerb::Restart,
        },
    ];
    for action in bad {
        let shown = format!("{action:?}").chars().take(80).collect::<String>();
        let receipt = bench.one(command(1, action)).await;
        assert_eq!(receipt.outcome, Outcome::Refused, "{shown}");
        assert_eq!(receipt.code.as_deref(), Some("command.invalid"), "{shown}");
        assert!(receipt.detail.len() <= protocol::limits::DETAIL_BYTES_MAX);
    }
    let receipt = bench.one(short(sh(2, "true"), u64::MAX)).await;
    assert_eq!(receipt.outcome, Outcome::Refused);
    let receipt = bench.one(sh(3, "echo fine")).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn second_start_of_a_running_command_is_ignored() {
    let mut bench = bench();
    let file = bench.file("count");
    let script = format!("echo x >> {}; sleep 0.5", file.display());
    bench.executor.start(sh(1, &script));
    bench.executor.start(sh(1, &script));
    let receipt = bench.receipt().await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    let silence = Duration::from_millis(500);
    let more = tokio::time::timeout(silence, bench.executor.next()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "x\n");
}

#[tokio::test]
async fn unit_that_is_not_listed_is_not_changed() {
    let mut bench = bench();
    let receipt = bench
        .one(command(
            1,
            Action::Service {
                unit: "ssh".to_owned(),
                verb: ServiceVerb::Restart,
            },
        ))
        .await;
    assert_eq!(receipt.outcome, Outcome::Refused);
    assert_eq!(receipt.code.as_deref(), Some("command.not_allowed"));
    assert!(receipt.detail.contains("command.units"));
}

#[tokio::test]
async fn files_outside_the_roots_are_refused_with_a_code() {
    let mut bench = bench();
    for path in [
        "/etc/shadow",
        "/proc/self/environ",
        "/var/log/../../etc/shadow",
    ] {
        let receipt = bench
            .one(command(
                1,
                Action::Logs {
                    source: LogSource::File(path.to_owned()),
                    lines: 5,
                    since_ms: 0,
                    follow: false,
                },
            ))
            .await;
        assert_eq!(receipt.outcome, Outcome::Refused, "{path}");
        assert_eq!(receipt.code.as_deref(), Some("path.forbidden"), "{path}");
    }
}

#[tokio::test]
async fn followed_file_shows_new_lines_and_ends_at_its_deadline_as_a_success() {
    let mut bench = bench();
    let root = bench.dir.path().canonicalize().unwrap();
    let path = root.join("app.log");
    std::fs::write(&path, "one\n").unwrap();
    let mut changed = settings(bench.dir.path());
    changed.log_roots = vec![root.display().to_string().parse().unwrap()];
    bench.executor.apply(changed);
    let action = Action::Logs {
        source: LogSource::File(path.display().to_string()),
        lines: 5,
        since_ms: 0,
        follow: true,
    };
    bench.executor.start(short(command(1, action), 2_000));
    bench.started().await;
    let first = tokio::time::timeout(PATIENCE, bench.executor.next())
        .await
        .unwrap();
    assert!(
        matches!(first, CommandEvent::Output { offset: 0, ref bytes, .. } if bytes == b"one\n")
    );
    std::fs::write(&path, "one\ntwo\n").unwrap();
    let second = tokio::time::timeout(PATIENCE, bench.executor.next())
        .await
        .unwrap();
    assert!(
        matches!(second, CommandEvent::Output { offset: 4, ref bytes, .. } if bytes == b"two\n")
    );
    let receipt = bench.receipt().await;
    assert_eq!(receipt.outcome, Outcome::Succeeded);
    assert_eq!(text(&receipt.stdout), "one\ntwo\n");
    assert!(receipt.detail.contains("followed"));
}

#[tokio::test]
async fn own_log_file_stands_in_for_the_agents_journal() {
    let mut bench = bench();
    let log = bench.file("agent.log");
    std::fs::write(&log, "own line\n").unwrap();
    let mut changed = settings(bench.dir.path());
    changed.own_log = Some(log);
    bench.executor.apply(changed);
    let action = Action::Logs {
        source: LogSource::Unit("flotilla-agent".to_owned()),
        lines: 5,
        since_ms: 0,
        follow: false,
    };
    let receipt = bench.one(command(1, action)).await;
    assert_eq!(receipt.outcome, Outcome::Succeeded, "{}", receipt.detail);
    assert_eq!(text(&receipt.stdout), "own line\n");
}

#[tokio::test]
async fn engine_that_is_not_there_is_a_failure_with_a_code() {
    let mut bench = bench_with(|settings| {
        settings.docker_socket = PathBuf::from("/nonexistent/docker.sock");
    });
    let action = Action::Logs {
        source: LogSource::Container("web".to_owned()),
        lines: 5,
        since_ms: 0,
        follow: false,
    };
    let receipt = bench.one(command(1, action)).await;
    assert_eq!(receipt.outcome, Outcome::Failed { exit: None });
    assert_eq!(receipt.code.as_deref(), Some("container.unavailable"));
}

#[tokio::test]
async fn engine_that_never_answers_costs_its_slot_until_the_timeout() {
    let mut bench = bench();
    let socket = bench.file("docker.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let mut changed = settings(bench.dir.path());
    changed.docker_socket = socket;
    bench.executor.apply(changed);
    let action = Action::Logs {
        source: LogSource::Container("web".to_owned()),
        lines: 5,
        since_ms: 0,
        follow: false,
    };
    let receipt = bench.one(short(command(1, action), 300)).await;
    assert_eq!(receipt.outcome, Outcome::TimedOut);
    drop(listener);
}

#[tokio::test]
async fn reload_is_asked_of_the_owner_of_the_configuration() {
    let mut bench = bench();
    for (answer, outcome) in [
        (Ok("two settings changed".to_owned()), Outcome::Succeeded),
        (
            Err("command.slots: 99 is not 1 to 32".to_owned()),
            Outcome::Failed { exit: None },
        ),
    ] {
        bench.executor.start(command(1, Action::Reload));
        bench.started().await;
        let said = match &answer {
            Ok(said) | Err(said) => said.clone(),
        };
        let mut answer = Some(answer);
        let receipt = loop {
            tokio::select! {
                Some(request) = bench.reloads.recv() => request.send(answer.take().unwrap()).unwrap(),
                event = bench.executor.next() => if let CommandEvent::Finished(receipt) = event {
                    break receipt;
                },
            }
        };
        assert_eq!((receipt.outcome, receipt.detail), (outcome, said));
    }
}

#[tokio::test]
async fn shutdown_ends_everything_and_owes_a_receipt_for_each() {
    let mut bench = bench_with(|settings| settings.slots = 1);
    let file = bench.file("pid");
    let script = format!("trap '' TERM; echo $$ > {}; sleep 300", file.display());
    bench.executor.start(sh(1, &script));
    bench.executor.start(sh(2, "echo never"));
    bench.work_until(|| pid_in(&file).is_some()).await;
    let receipts = bench.executor.shutdown().await;
    let ends: Vec<_> = receipts
        .iter()
        .map(|receipt| {
            (
                receipt.command,
                receipt.outcome,
                receipt.started_at.is_some(),
            )
        })
        .collect();
    assert_eq!(
        ends,
        [
            (id(2), Outcome::Interrupted, false),
            (id(1), Outcome::Interrupted, true),
        ]
    );
    let pid = pid_in(&file).unwrap();
    bench.work_until(|| !alive(pid)).await;
}

#[tokio::test]
async fn dropped_executor_leaves_no_process() {
    let mut bench = bench();
    let file = bench.file("pid");
    let script = format!("sleep 300 & echo $! > {}; wait", file.display());
    bench.executor.start(sh(1, &script));
    bench.work_until(|| pid_in(&file).is_some()).await;
    let pid = pid_in(&file).unwrap();
    let Bench { executor, dir, .. } = bench;
    drop(executor);
    let deadline = Instant::now() + PATIENCE;
    while alive(pid) {
        assert!(Instant::now() < deadline, "a process outlived the executor");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(dir);
}

#[tokio::test]
async fn idle_executor_waits() {
    let mut bench = bench();
    let silence = Duration::from_millis(50);
    assert!(
        tokio::time::timeout(silence, bench.executor.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn subsystem_takes_orders_and_reports_interruption_when_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_000_000));
    let (_settings, settings) = watch::channel(settings(dir.path()));
    let (orders, order_receiver) = mpsc::channel(8);
    let (event_sender, mut events) = mpsc::channel(8);
    let (reload, _reloads) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let task = run(Context {
        settings,
        clocks: clocks(&now),
        orders: order_receiver,
        events: event_sender,
        reload,
        admit: Arc::new(|_| Ok(())),
        stop: stop.clone(),
    });
    let drive = async {
        orders.send(Order::Start(sh(1, "sleep 300"))).await.unwrap();
        orders
            .send(Order::Start(command(2, Action::Ping)))
            .await
            .unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match events.recv().await.unwrap() {
                CommandEvent::Finished(receipt) => seen.push((receipt.command, receipt.outcome)),
                CommandEvent::Started { command, .. } => seen.push((command, Outcome::Succeeded)),
                CommandEvent::Output { .. } => {}
            }
        }
        assert!(seen.contains(&(id(1), Outcome::Succeeded)), "started");
        assert!(seen.contains(&(id(2), Outcome::Succeeded)), "pong");
        stop.cancel();
        while let Some(event) = events.recv().await {
            if let CommandEvent::Finished(receipt) = event {
                assert_eq!(receipt.command, id(1));
                assert_eq!(receipt.outcome, Outcome::Interrupted);
                return;
            }
        }
        panic!("no receipt for the interrupted command");
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(task, drive) })
        .await
        .unwrap();
}

#[tokio::test]
async fn owner_that_reads_nothing_blocks_nothing_until_much_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_000_000));
    let (_settings, settings) = watch::channel(settings(dir.path()));
    let (orders, order_receiver) = mpsc::channel(1);
    let (event_sender, mut events) = mpsc::channel(1);
    let (reload, _reloads) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let task = run(Context {
        settings,
        clocks: clocks(&now),
        orders: order_receiver,
        events: event_sender,
        reload,
        admit: Arc::new(|_| Ok(())),
        stop: stop.clone(),
    });
    let drive = async {
        // Nobody takes events, and yet every order is accepted.
        for number in 1..=100 {
            let order = Order::Start(command(number, Action::Ping));
            orders.send(order).await.unwrap();
        }
        for number in 1..=100 {
            match events.recv().await.unwrap() {
                CommandEvent::Finished(receipt) => assert_eq!(receipt.command, id(number)),
                other @ (CommandEvent::Started { .. } | CommandEvent::Output { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
        stop.cancel();
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(task, drive) })
        .await
        .unwrap();
}
