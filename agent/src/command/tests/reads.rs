//! Files, logs, the engine and units: what the node allows, and nothing beside it.

use super::*;

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
