//! Slots, cancelling and waiting: no command holds up another.

use super::*;

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
