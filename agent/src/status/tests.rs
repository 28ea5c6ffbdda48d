//! The status over its socket, and as a person reads it.

use super::table::{bytes, span};
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::time::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fn example() -> AgentStatus {
    AgentStatus {
        at: NOW,
        process: ProcessStatus {
            version: "0.1.0".to_owned(),
            pid: 7,
            started_at: NOW.before(Duration::from_secs(90_000)),
        },
        update: Some(UpdateStatus {
            story: "version 0.1.0 again, since 0.2.0 was given up: it hung".to_owned(),
            ..UpdateStatus::default()
        }),
        node: NodeStatus {
            id: Some("abcdefghijklmnop".to_owned()),
            fleet: Some("qrstuvwxyz234567".to_owned()),
            name: "web-1".to_owned(),
            labels: [("site".to_owned(), "lyon".to_owned())].into(),
            controllers: vec!["controller:8443".to_owned()],
        },
        link: LinkStatus {
            state: LinkState::Up,
            proven_at: Some(NOW.before(Duration::from_secs(4))),
            broker: Some("controller:8883".to_owned()),
            problem: None,
            connects: 3,
        },
        streams: vec![
            StreamStatus {
                stream: "control".to_owned(),
                entries: 0,
                bytes: 0,
            },
            StreamStatus {
                stream: "telemetry".to_owned(),
                entries: 3,
                bytes: 4096,
            },
        ],
        commands: vec![CommandStatus {
            id: "aaaaaaaaaaaaaaaa".to_owned(),
            action: "run".to_owned(),
            outcome: "refused".to_owned(),
            code: Some("command.not_allowed".to_owned()),
            detail: "program \"rm\" is not on this node's allow-list".to_owned(),
            at: Some(NOW.before(Duration::from_secs(61))),
        }],
        certificate: Some(CertificateStatus {
            not_before: NOW.before(Duration::from_secs(86_400)),
            expires_at: NOW.after(Duration::from_secs(30 * 86_400)),
        }),
        refused: [("envelope.malformed".to_owned(), 2)].into(),
        clock: ClockStatus {
            offset_ms: Some(-12),
            error_ms: 5,
        },
        ..AgentStatus::default()
    }
}

/// Serves `status` and runs `ask` on a thread beside it.
async fn served<T: Send + 'static>(
    status: AgentStatus,
    ask: impl FnOnce(&Path) -> T + Send + 'static,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let (_sender, receiver) = watch::channel(Arc::new(status));
    let server = Server::bind(&socket, &dir.path().join("agent.redb"), receiver).unwrap();
    let stop = CancellationToken::new();
    let asked = async {
        let path = socket.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&path))
            .await
            .unwrap();
        stop.cancel();
        answer
    };
    let ((), answer) = tokio::join!(server.run(stop.clone()), asked);
    assert!(!socket.exists(), "the socket was left behind");
    answer
}

fn shown(socket: &Path, output: Output) -> Result<String, FetchStatusError> {
    let mut text = Vec::new();
    show(socket, output, NOW, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn running_agent_tells_its_status_as_a_table() {
    let text = served(example(), |socket| shown(socket, Output::Table))
        .await
        .unwrap();
    for expected in [
        "web-1 (abcdefghijklmnop), fleet qrstuvwxyz234567 site=lyon",
        "up, proven 4 s ago, broker controller:8883",
        "12 ms against the controller's (within 5 ms)",
        "in 30 d 0 h",
        "control 0, telemetry 3 (4.0 KiB)",
        "up 1 d 1 h",
        "refused      1 min 1 s ago  command.not_allowed  program",
        "refused     messages not taken: 2 envelope.malformed",
        "problems    none",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
}

#[tokio::test]
async fn running_agent_tells_its_status_as_json() {
    let text = served(example(), |socket| shown(socket, Output::Json))
        .await
        .unwrap();
    let told: AgentStatus = serde_json::from_str(&text).unwrap();
    assert_eq!(told.node, example().node);
    assert_eq!(told.process.pid, std::process::id());
    assert!(told.budgets.memory_bytes > 0);
    assert!(told.disk.free_bytes > 0);
}

#[tokio::test]
async fn socket_is_for_its_owner_only() {
    let mode = served(example(), |socket| {
        std::fs::metadata(socket).unwrap().permissions().mode()
    })
    .await;
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn socket_of_an_earlier_run_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let (_sender, receiver) = watch::channel(Arc::new(example()));
    let server = Server::bind(&socket, &dir.path().join("agent.redb"), receiver);
    assert!(server.is_ok(), "{server:?}");
}

#[tokio::test]
async fn clients_that_do_not_read_hold_nobody_up() {
    let mut status = example();
    // More than a socket's buffer takes.
    let command = status.commands.first().cloned().unwrap_or_default();
    status.commands = vec![command; 5_000];
    served(status, |socket| {
        let idle: Vec<_> = (0..10)
            .map(|_| std::os::unix::net::UnixStream::connect(socket).unwrap())
            .collect();
        let text = shown(socket, Output::Json);
        drop(idle);
        // The idle ones are given up after two seconds, and this one answered.
        assert!(text.is_ok(), "{:?}", text.err());
    })
    .await;
}

#[test]
fn agent_that_does_not_run_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("agent.sock");
    let left = dir.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    for socket in [missing, left] {
        let error = shown(&socket, Output::Table).unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(
            error.to_string().starts_with("the agent is not running"),
            "{error}"
        );
    }
}

#[test]
fn something_else_behind_the_socket_is_not_a_status() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n").unwrap();
        });
        let error = shown(&socket, Output::Table).unwrap_err();
        assert!(matches!(error, FetchStatusError::Garbled { .. }), "{error}");
    });
}

#[test]
fn document_of_another_version_is_read() {
    let old: AgentStatus = serde_json::from_str("{\"link\":{\"state\":\"up\"}}").unwrap();
    assert_eq!(old.link.state, LinkState::Up);
    let newer: AgentStatus =
        serde_json::from_str("{\"node\":{\"id\":\"x\",\"later\":1},\"more\":[]}").unwrap();
    assert_eq!(newer.node.id.as_deref(), Some("x"));
}

#[test]
fn what_is_wrong_stands_out() {
    let mut status = example();
    status.link.state = LinkState::Down;
    status.link.problem = Some("connection refused".to_owned());
    status.clock.offset_ms = Some(31_000_000);
    status.certificate = Some(CertificateStatus::default());
    status.disk.failing = Some("store.full".to_owned());
    status.shed_samples = 9;
    status.problems = vec![ProblemStatus {
        code: "store.full".to_owned(),
        detail: "no space left".to_owned(),
    }];
    let text = super::table::render(&status, NOW);
    for expected in [
        "update      version 0.1.0 again, since 0.2.0 was given up: it hung",
        "DOWN, proven 4 s ago, broker controller:8883: connection refused",
        "WRONG: -31000000 ms",
        "EXPIRED",
        "FAILING (store.full)",
        "9 samples given up",
        "problems    store.full: no space left",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
    let fresh = super::table::render(&AgentStatus::default(), NOW);
    assert!(fresh.contains("has not joined a fleet"), "{fresh}");
}

#[test]
fn what_the_policy_stops_here_is_said() {
    let mut status = example();
    let shown = |status: &AgentStatus| super::table::render(status, NOW);
    assert!(shown(&status).contains("gate        open: no breaker stops anything here"));
    status.gate = GateStatus {
        stops: vec![StopStatus {
            breaker: "default".to_owned(),
            state: "isolated".to_owned(),
            since: NOW,
            what: "changes of deployments, commands (run)".to_owned(),
            reason: "isolated by ops: fire".to_owned(),
        }],
        lease: Some(LeaseStatus {
            ends_at: NOW.after(Duration::from_secs(7_200)),
            length_s: 86_400,
            is_over: false,
        }),
        break_glass: Some(BreakGlassStatus {
            reason: "dead controller".to_owned(),
            until: NOW,
        }),
        break_glass_problem: Some("/x has mode 666".to_owned()),
    };
    status.dependencies = [("engine", "closed"), ("registry docker.io", "open")]
        .map(|(name, state)| DependencyStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            reason: "5 failures in a row, 5 trip it".to_owned(),
            tries_at: (state == "open").then(|| NOW.after(Duration::from_secs(7))),
        })
        .into();
    let text = shown(&status);
    for expected in [
        "depends on  engine ok, registry docker.io OPEN (5 failures in a row, 5 trip it; tried again in 7 s)",
        "breaker default is ISOLATED since ",
        ", stops changes of deployments, commands (run): isolated by ops: fire",
        "lease until ",
        ", in 2 h 0 min",
        "GLASS BROKEN until ",
        "everything passes (dead controller)",
        "the break-glass file does not count: /x has mode 666",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
    status.gate.lease = Some(LeaseStatus {
        is_over: true,
        ..LeaseStatus::default()
    });
    assert!(shown(&status).contains("lease is OVER since "));
}

#[test]
fn spans_and_bytes_are_short() {
    for (millis, text) in [
        (0, "0 ms"),
        (999, "999 ms"),
        (59_999, "59 s"),
        (61_000, "1 min 1 s"),
        (3_661_000, "1 h 1 min"),
        (90_000_000, "1 d 1 h"),
    ] {
        assert_eq!(span(millis), text);
    }
    for (count, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (6 * 1024 * 1024, "6.0 MiB"),
        (u64::MAX, "16777215.9 TiB"),
    ] {
        assert_eq!(bytes(count), text);
    }
}
