//! The owner of the executor: reloads, shutdown, and an owner that reads nothing.

use super::*;

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

/// The owner's ends of what the subsystem runs with.
struct Owner {
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<CommandEvent>,
    _settings: watch::Sender<Settings>,
    _reloads: mpsc::Receiver<ReloadRequest>,
}

/// A subsystem to be run, and its owner, over channels that hold so many.
fn owned(dir: &Path, room: usize) -> (Context, Owner) {
    let (settings_in, settings) = watch::channel(settings(dir));
    let (orders_in, orders) = mpsc::channel(room);
    let (events, events_out) = mpsc::channel(room);
    let (reload, reloads) = mpsc::channel(1);
    let context = Context {
        settings,
        clocks: clocks(&Arc::new(AtomicU64::new(1_000_000))),
        orders,
        events,
        reload,
        admit: Arc::new(|_| Ok(())),
        stop: CancellationToken::new(),
    };
    let owner = Owner {
        orders: orders_in,
        events: events_out,
        _settings: settings_in,
        _reloads: reloads,
    };
    (context, owner)
}

#[tokio::test]
async fn subsystem_takes_orders_and_reports_interruption_when_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (context, mut owner) = owned(dir.path(), 8);
    let stop = context.stop.clone();
    let task = run(context);
    let drive = async {
        owner
            .orders
            .send(Order::Start(sh(1, "sleep 300")))
            .await
            .unwrap();
        owner
            .orders
            .send(Order::Start(command(2, Action::Ping)))
            .await
            .unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            match owner.events.recv().await.unwrap() {
                CommandEvent::Finished(receipt) => seen.push((receipt.command, receipt.outcome)),
                CommandEvent::Started { command, .. } => seen.push((command, Outcome::Succeeded)),
                CommandEvent::Output { .. } => {}
            }
        }
        assert!(seen.contains(&(id(1), Outcome::Succeeded)), "started");
        assert!(seen.contains(&(id(2), Outcome::Succeeded)), "pong");
        stop.cancel();
        while let Some(event) = owner.events.recv().await {
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
    let (context, mut owner) = owned(dir.path(), 1);
    let stop = context.stop.clone();
    let task = run(context);
    let drive = async {
        // Nobody takes events, and yet every order is accepted.
        for number in 1..=100 {
            let order = Order::Start(command(number, Action::Ping));
            owner.orders.send(order).await.unwrap();
        }
        for number in 1..=100 {
            match owner.events.recv().await.unwrap() {
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
