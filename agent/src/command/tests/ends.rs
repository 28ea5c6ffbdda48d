//! What a program's output, exit, deadline and descendants come to.

use super::*;

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
