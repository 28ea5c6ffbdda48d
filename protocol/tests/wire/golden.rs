//! The bytes of every message, frozen.
//!
//! `protocol/golden/v1` holds each message as it was first released, with a JSON
//! rendering beside it. Today's code must still read every file and write the
//! same bytes. A message that changes gets a new version and a new file; a file is
//! never rewritten. `FLOTILLA_BLESS=1` writes files that are missing, and only
//! those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use protocol::breaker::BreakerState;
use protocol::command::{
    Action, Command, LogSource, Outcome, OutputStream, Progress, ProgressStep, Receipt, ServiceVerb,
};
use protocol::condition::{Crossing, Rule};
use protocol::deployment::desired::{Cause, Commit, Desired, HealthRule, OnFailure, Target, Want};
use protocol::deployment::observed::{
    ChangeOutcome, DeploymentResult, DeploymentState, Phase, Workload, WorkloadState,
};
use protocol::deployment::spec::{
    Condition, Device, File, FileKind, FileMount, HealthTest, Healthcheck, Image, Logging, Mount,
    MountSource, Network, NetworkMode, Port, PortProtocol, Resources, Restart, Service, Spec,
    Volume,
};
use protocol::down::{Down, DownBody};
use protocol::envelope::{self, Seal};
use protocol::fetch::{FetchArchive, FetchFile, FetchRelease};
use protocol::id::{CommandId, DeploymentId, FleetId, NodeId, RolloutId, StoreId};
use protocol::join::Renew;
use protocol::key::SigningKey;
use protocol::label::Labels;
use protocol::message::{self, DecodeError, Kind, Message};
use protocol::policy::{Gate, Gated, Override, Policy, Scope};
use protocol::release::{self, Release, Update};
use protocol::session::{
    Acks, Announce, BootId, Heartbeat, Hello, LiveSamples, Nonce, Reject, StreamOffer, Welcome,
};
use protocol::state::{Budgets, Facts, Health, Lifecycle, Problem, StateItem, StateValue};
use protocol::stream::{Entry, EntryKind, Stream, StreamAck, Upload};
use protocol::time::UnixMillis;
use protocol::trust::{SignedTrust, TrustSet};
use serde::Serialize;
use serde::de::DeserializeOwned;

const NOW: UnixMillis = UnixMillis(1_790_000_000_123);

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
}

/// Reads the golden file and compares; this is the only place that touches it.
#[track_caller]
fn check<T>(name: &str, value: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = message::encode(value);
    let json = serde_json::to_string_pretty(value).unwrap() + "\n";
    let file = golden().join(format!("{name}.postcard"));
    let beside = golden().join(format!("{name}.json"));
    if std::env::var_os("FLOTILLA_BLESS").is_some() && !file.exists() {
        fs::create_dir_all(golden()).unwrap();
        fs::write(&file, &bytes).unwrap();
        fs::write(&beside, &json).unwrap();
    }
    let frozen = fs::read(&file).unwrap_or_else(|e| panic!("{name} has no golden file: {e}"));
    let read: T = message::decode_exactly(&frozen)
        .unwrap_or_else(|e| panic!("{name}: released bytes are not read any more: {e}"));
    assert_eq!(
        &read, value,
        "{name}: released bytes mean something else now"
    );
    assert_eq!(bytes, frozen, "{name}: the bytes on the wire changed");
    let rendered = fs::read_to_string(&beside).unwrap();
    assert_eq!(json, rendered, "{name}: its JSON rendering changed");
}

fn nonce() -> Nonce {
    Nonce(*b"a nonce, 16 long")
}

fn labels() -> Labels {
    let pairs = [("role", "db"), ("site", "lyon")];
    Labels::from_pairs(pairs.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap()
}

fn acks() -> Vec<StreamAck> {
    Stream::ALL
        .map(|stream| StreamAck {
            stream,
            acked: 7 + stream.index() as u64,
            credit_bytes: 262_144,
        })
        .to_vec()
}

fn command(action: Action) -> Command {
    Command {
        id: CommandId::from_bytes([3; 10]),
        issued_at: NOW,
        start_by: UnixMillis(NOW.0 + 60_000),
        run_timeout_ms: 30_000,
        output_bytes_max: 32_768,
        issued_by: "ada".to_owned(),
        action,
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[42; 32]).unwrap()
}

fn signed_trust() -> SignedTrust {
    TrustSet {
        fleet: FleetId::from_bytes([1; 10]),
        version: 3,
        issued_at: NOW,
        controller_keys: vec![key().public()],
        authorities: vec!["-----BEGIN CERTIFICATE-----\n".to_owned()],
        release_keys: Vec::new(),
    }
    .sign(&key())
}

#[test]
fn messages_of_a_session_keep_their_bytes() {
    check(
        "hello",
        &Hello {
            nonce: nonce(),
            store: StoreId::from_bytes([4; 10]),
            connect_counter: 12,
            boot: BootId([5; 16]),
            agent_version: "0.1.0".to_owned(),
            now: NOW,
            incarnation: 1,
            generation: 0,
            policy_epoch: 0,
            trust_version: 1,
            streams: Stream::ALL
                .map(|stream| StreamOffer {
                    stream,
                    acked: 5,
                    last: 300,
                })
                .to_vec(),
        },
    );
    check(
        "welcome",
        &Welcome {
            nonce: nonce(),
            now: NOW,
            echo: UnixMillis(NOW.0 - 20),
            incarnation: 2,
            heartbeat_ms: 15_000,
            name: "lyon-1".to_owned(),
            labels: labels(),
            trust_version: 1,
            acks: acks(),
        },
    );
    check(
        "heartbeat",
        &Heartbeat {
            nonce: nonce(),
            down_seen: 4,
            now: NOW,
            uptime_ms: 86_400_000,
            outbox_entries: 17,
        },
    );
    check(
        "acks",
        &Acks {
            nonce: nonce(),
            now: NOW,
            echo: UnixMillis(0),
            down_last: 4,
            acks: acks(),
        },
    );
    check(
        "announce",
        &Announce {
            incarnation: 2,
            now: NOW,
        },
    );
    check(
        "reject",
        &Reject {
            kind: 99,
            version: 1,
            counter: 8,
            code: "message.unknown_kind".to_owned(),
            detail: "kind 99 is not known here".to_owned(),
        },
    );
    check(
        "live_samples",
        &LiveSamples {
            nonce: nonce(),
            frame: vec![1, 2, 3],
        },
    );
    check(
        "renew",
        &Renew {
            csr: "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned(),
            trust_version: 1,
        },
    );
}

#[test]
fn requests_for_bytes_keep_their_bytes() {
    check(
        "fetch_file",
        &FetchFile {
            digest: "0a".repeat(32),
            now: NOW,
        },
    );
    check(
        "fetch_archive",
        &FetchArchive {
            digest: "0b".repeat(32),
            offset: 65_536,
            now: NOW,
        },
    );
    check(
        "fetch_release",
        &FetchRelease {
            sha256: "0d".repeat(32),
            offset: 65_536,
            now: NOW,
        },
    );
}

#[test]
fn what_goes_down_keeps_its_bytes() {
    let bodies = [
        ("down_ping", DownBody::Command(command(Action::Ping))),
        (
            "down_run",
            DownBody::Command(command(Action::Run {
                argv: vec!["uptime".to_owned(), "-p".to_owned()],
            })),
        ),
        (
            "down_service",
            DownBody::Command(command(Action::Service {
                unit: "nginx.service".to_owned(),
                verb: ServiceVerb::Restart,
            })),
        ),
        (
            "down_logs",
            DownBody::Command(command(Action::Logs {
                source: LogSource::File("/var/log/syslog".to_owned()),
                lines: 100,
                since_ms: 60_000,
                follow: true,
            })),
        ),
        ("down_reload", DownBody::Command(command(Action::Reload))),
        (
            "down_cancel",
            DownBody::Cancel {
                command: CommandId::from_bytes([3; 10]),
            },
        ),
        (
            "down_live",
            DownBody::Live {
                until: NOW,
                interval_ms: 1000,
            },
        ),
        ("down_end_live", DownBody::EndLive),
        (
            "down_labels",
            DownBody::Labels {
                name: "lyon-1".to_owned(),
                labels: labels(),
            },
        ),
        ("down_trust", DownBody::Trust(signed_trust())),
        ("down_renew", DownBody::RenewNow),
    ];
    for (name, body) in bodies {
        check(name, &down(body));
    }
}

#[test]
fn what_goes_up_keeps_its_bytes() {
    let receipt = |outcome| Receipt {
        command: CommandId::from_bytes([3; 10]),
        outcome,
        code: None,
        detail: "done".to_owned(),
        started_at: Some(NOW),
        ended_at: UnixMillis(NOW.0 + 15),
        stdout: b"up 3 days\n".to_vec(),
        stderr: Vec::new(),
        cut_bytes: 5,
    };
    check("receipt_succeeded", &receipt(Outcome::Succeeded));
    check(
        "receipt_failed",
        &receipt(Outcome::Failed { exit: Some(2) }),
    );
    check("receipt_interrupted", &receipt(Outcome::Interrupted));
    check(
        "upload",
        &Upload {
            store: StoreId::from_bytes([4; 10]),
            stream: Stream::Control,
            after: 41,
            entries: vec![Entry {
                seq: 45,
                kind: EntryKind::RECEIPT,
                version: Receipt::VERSION,
                body: message::encode(&receipt(Outcome::TimedOut)),
            }],
        },
    );
    check(
        "progress_output",
        &Progress {
            nonce: nonce(),
            command: CommandId::from_bytes([3; 10]),
            at: NOW,
            step: ProgressStep::Output {
                stream: OutputStream::Stderr,
                offset: 10,
                bytes: b"half".to_vec(),
            },
        },
    );
    let states = [
        (
            "state_facts",
            StateValue::Facts(Facts {
                hostname: "lyon-1".to_owned(),
                os: "Debian GNU/Linux 12".to_owned(),
                kernel: "6.1.0".to_owned(),
                arch: "aarch64".to_owned(),
                agent_version: "0.1.0".to_owned(),
                cpus: 4,
                memory_bytes: 4 << 30,
                virtualisation: "none".to_owned(),
                docker: Some("20.10.24".to_owned()),
                booted_at: UnixMillis(NOW.0 - 86_400_000),
                certificate_expires_at: UnixMillis(NOW.0 + 86_400_000),
            }),
        ),
        ("state_budgets", StateValue::Budgets(Budgets::default())),
        (
            "state_health",
            StateValue::Health(Health {
                problems: vec![Problem {
                    code: "store.full".to_owned(),
                    detail: "the disk is full".to_owned(),
                }],
            }),
        ),
    ];
    for (name, value) in states {
        check(name, &StateItem { at: NOW, value });
    }
    check(
        "lifecycle_started",
        &Lifecycle::Started {
            boot: BootId([5; 16]),
            at: NOW,
            agent_version: "0.1.0".to_owned(),
            clean: false,
        },
    );
    check("lifecycle_stopped", &Lifecycle::Stopped { at: NOW });
    check(
        "lifecycle_break_glass",
        &Lifecycle::BreakGlass {
            at: NOW,
            until: NOW.after(Duration::from_secs(3600)),
            reason: "the controller's host burnt".to_owned(),
        },
    );
    check(
        "lifecycle_break_glass_ended",
        &Lifecycle::BreakGlassEnded { at: NOW },
    );
}

#[test]
fn the_trust_set_keeps_its_bytes_and_its_signature() {
    check("trust", &signed_trust());
    let set = signed_trust()
        .verify(&key().public(), FleetId::from_bytes([1; 10]), 2)
        .unwrap();
    check("trust_set", &set);
}

fn policy() -> Policy {
    let gate = |breaker: &str, state, scope| Gate {
        breaker: breaker.to_owned(),
        state,
        since: NOW,
        scope,
        gated: Gated {
            deploy: true,
            update: true,
            commands: BTreeSet::from(["run".to_owned()]),
        },
        probes: BTreeSet::from([NodeId::from_bytes([2; 10])]),
        reason: "3 failures in a row, 3 trip it".to_owned(),
    };
    let lyon = || "site=lyon".parse().unwrap();
    let web = DeploymentId::from_bytes([8; 10]);
    Policy {
        fleet: FleetId::from_bytes([1; 10]),
        epoch: 12,
        issued_at: NOW,
        lease_ms: 86_400_000,
        gates: vec![
            gate("fleet", BreakerState::HalfOpen, Scope::Fleet),
            gate("sites", BreakerState::Open, Scope::Nodes(lyon())),
            gate("web", BreakerState::Isolated, Scope::Deployment(web)),
        ],
        overrides: vec![Override {
            breaker: "fleet".to_owned(),
            nodes: lyon(),
            until: UnixMillis(NOW.0 + 3_600_000),
            by: "ada".to_owned(),
            reason: "the fix itself".to_owned(),
        }],
        rules: vec![Rule {
            name: "disk".to_owned(),
            nodes: lyon(),
            expression: "fs.used > 90% for 5m".to_owned(),
        }],
    }
}

#[test]
fn the_policy_keeps_its_bytes_and_its_signature() {
    check("policy", &policy());
    check("policy_signed", &policy().sign(&key()));
    let fleet = FleetId::from_bytes([1; 10]);
    let read = policy().sign(&key()).verify(&[key().public()], fleet, 11);
    assert_eq!(read, Ok(policy()));
    check(
        "down_policy",
        &down(DownBody::Policy(policy().sign(&key()))),
    );
}

fn down(body: DownBody) -> Down {
    Down {
        nonce: nonce(),
        number: 9,
        body,
    }
}

/// A spec that has something in every field.
fn spec() -> Spec {
    let text = str::to_owned;
    let map = |key: &str, value: &str| BTreeMap::from([(text(key), text(value))]);
    let mount = |source| Mount {
        source,
        read_only: true,
    };
    let tmpfs = MountSource::Tmpfs {
        size_bytes: Some(1 << 20),
        mode: Some(0o1777),
    };
    let web = Service {
        image: Image {
            reference: text("docker.io/library/nginx:1.27"),
            digest: Some(format!("sha256:{}", "0a".repeat(32))),
            archive: Some("0b".repeat(32)),
        },
        command: Some(vec![text("nginx"), text("-g")]),
        entrypoint: Some(vec![text("/entry")]),
        environment: map("TZ", "UTC"),
        working_dir: Some(text("/srv")),
        user: Some(text("1000:1000")),
        group_add: vec![text("video")],
        hostname: Some(text("web")),
        ports: vec![Port {
            published: Some(80),
            target: 8080,
            protocol: PortProtocol::Tcp,
            host_ip: Some(text("127.0.0.1")),
        }],
        mounts: BTreeMap::from([
            (text("/anonymous"), mount(MountSource::Anonymous)),
            (text("/bind"), mount(MountSource::Bind(text("/srv/web")))),
            (text("/data"), mount(MountSource::Volume(text("data")))),
            (text("/tmp"), mount(tmpfs)),
        ]),
        network: NetworkMode::Networks(BTreeMap::from([(text("front"), vec![text("www")])])),
        depends_on: BTreeMap::from([
            (text("db"), Condition::Healthy),
            (text("migrate"), Condition::Completed),
        ]),
        healthcheck: Some(Healthcheck {
            test: HealthTest::Command(vec![text("/check")]),
            interval_ms: Some(5_000),
            timeout_ms: Some(1_000),
            retries: Some(3),
            start_period_ms: Some(10_000),
        }),
        restart: Restart::UnlessStopped,
        labels: map("team", "web"),
        cap_add: vec![text("NET_BIND_SERVICE")],
        cap_drop: vec![text("ALL")],
        privileged: false,
        read_only: true,
        init: true,
        security_opt: vec![text("no-new-privileges")],
        resources: Resources {
            memory_bytes: Some(64 << 20),
            memory_reservation_bytes: Some(32 << 20),
            nano_cpus: Some(500_000_000),
            pids: Some(100),
            shm_bytes: Some(1 << 20),
        },
        logging: Some(Logging {
            driver: text("json-file"),
            options: map("max-size", "1m"),
        }),
        ulimits: BTreeMap::from([(text("nofile"), (1024, -1))]),
        extra_hosts: map("gateway", "host-gateway"),
        dns: vec![text("9.9.9.9")],
        sysctls: map("net.core.somaxconn", "1024"),
        devices: vec![Device {
            source: text("/dev/video0"),
            target: text("/dev/video0"),
            permissions: text("rw"),
        }],
        files: BTreeMap::from([(
            text("/run/secrets/key"),
            FileMount {
                file: text("key"),
                mode: 0o400,
                owner: Some((1000, 1000)),
            },
        )]),
        stop_signal: Some(text("SIGQUIT")),
        stop_grace_ms: 10_000,
    };
    let db = Service {
        image: web.image.clone(),
        network: NetworkMode::Host,
        restart: Restart::OnFailure(5),
        healthcheck: Some(Healthcheck {
            test: HealthTest::Shell(text("pg_isready")),
            interval_ms: None,
            timeout_ms: None,
            retries: None,
            start_period_ms: None,
        }),
        ..Service::default()
    };
    let migrate = Service {
        image: web.image.clone(),
        network: NetworkMode::None,
        ..Service::default()
    };
    let file = |kind| File {
        kind,
        digest: "0c".repeat(32),
        size_bytes: 12,
    };
    Spec {
        services: BTreeMap::from([
            (text("db"), db),
            (text("migrate"), migrate),
            (text("web"), web),
        ]),
        networks: BTreeMap::from([(
            text("front"),
            Network {
                driver: Some(text("bridge")),
                options: map("mtu", "1400"),
                internal: true,
                labels: map("team", "web"),
                external: None,
            },
        )]),
        volumes: BTreeMap::from([(
            text("data"),
            Volume {
                driver: None,
                options: map("type", "nfs"),
                labels: map("team", "web"),
                external: Some(text("shared")),
            },
        )]),
        files: BTreeMap::from([
            (text("conf"), file(FileKind::Config)),
            (text("key"), file(FileKind::Secret)),
        ]),
    }
}

fn release() -> Release {
    let archive = |target: &str| release::Archive {
        target: target.to_owned(),
        name: release::archive_name("0.2.0", target),
        bytes: 3_456_789,
        sha256: "0e".repeat(32),
        unpacked_bytes: 7_654_321,
    };
    Release {
        version: "0.2.0".to_owned(),
        issued_at: NOW,
        expires_at: NOW.after(release::LIFETIME_DEFAULT),
        from_min: "0.1.0".to_owned(),
        from_max: "0.2.0".to_owned(),
        archives: vec![
            archive("aarch64-unknown-linux-gnu"),
            archive("x86_64-unknown-linux-gnu"),
        ],
    }
}

#[test]
fn deployments_keep_their_bytes() {
    let desired = |want| Desired {
        deployment: DeploymentId::from_bytes([8; 10]),
        number: 3,
        name: "web".to_owned(),
        generation: 41,
        at: NOW,
        want,
    };
    let run = desired(Want::Run(Box::new(Target {
        revision: 2,
        spec: spec(),
        rollout: Some(RolloutId::from_bytes([9; 10])),
        cause: Cause::Rollback,
        health: HealthRule::default(),
        on_failure: OnFailure::Keep,
        commit: Commit::Barrier,
    })));
    let release = release();
    let key = SigningKey::from_seed(&[5; 32]).unwrap();
    let signed = release.sign(&key);
    assert_eq!(signed.verify(&[key.public()]), Ok(release.clone()));
    check("release", &release);
    let update = desired(Want::Update(Box::new(Update {
        revision: 3,
        release: signed,
        revoked: vec!["0.1.7".to_owned()],
        rollout: Some(RolloutId::from_bytes([9; 10])),
        cause: Cause::Change,
        health: HealthRule::default(),
    })));
    check("desired_update", &update);
    spec().check().unwrap();
    check("spec", &spec());
    check("desired_run", &run);
    check("desired_remove", &desired(Want::Remove));
    check("down_desired", &down(DownBody::Desired(Box::new(run))));
    let state = DeploymentState {
        deployment: DeploymentId::from_bytes([8; 10]),
        number: 3,
        generation: 41,
        wanted: Some(2),
        current: Some(1),
        phase: Phase::Reverting,
        since: NOW,
        code: Some("deployment.deadline".to_owned()),
        detail: "web exited with 1".to_owned(),
        workloads: vec![Workload {
            service: "web".to_owned(),
            revision: 2,
            container: Some("0123456789ab".to_owned()),
            state: WorkloadState::Exited,
            image_digest: Some(format!("sha256:{}", "0a".repeat(32))),
            restarts: 4,
            exit_code: Some(1),
            oom_killed: true,
            started_at: Some(NOW),
            observed_at: UnixMillis(NOW.0 + 5),
            detail: "exited".to_owned(),
            log_tail: vec!["no such file".to_owned()],
        }],
        drift: vec!["web was stopped by hand".to_owned()],
    };
    let value = StateValue::Deployment(Box::new(state));
    check("state_deployment", &StateItem { at: NOW, value });
    check(
        "deployment_result",
        &DeploymentResult {
            deployment: DeploymentId::from_bytes([8; 10]),
            generation: 41,
            revision: Some(2),
            rollout: Some(RolloutId::from_bytes([9; 10])),
            outcome: ChangeOutcome::Reverted,
            code: Some("deployment.deadline".to_owned()),
            policy_epoch: 12,
            detail: "web exited with 1".to_owned(),
            at: NOW,
        },
    );
    check(
        "crossing",
        &Crossing {
            rule: "disk".to_owned(),
            epoch: 12,
            holds: true,
            label: "/var".to_owned(),
            value: "91.0%".to_owned(),
            at: NOW,
        },
    );
}

/// Enums are append-only: their numbers on the wire, in order, by name.
#[test]
fn states_and_phases_keep_their_numbers() {
    check(
        "breaker_states",
        &vec![
            BreakerState::Closed,
            BreakerState::Open,
            BreakerState::HalfOpen,
            BreakerState::Isolated,
        ],
    );
    check(
        "phases",
        &vec![
            Phase::Waiting,
            Phase::Fetching,
            Phase::Starting,
            Phase::Verifying,
            Phase::AwaitingCommit,
            Phase::Running,
            Phase::Degraded,
            Phase::Reverting,
            Phase::Reverted,
            Phase::Failed,
            Phase::Refused,
            Phase::Removing,
            Phase::Removed,
        ],
    );
    check(
        "workload_states",
        &vec![
            WorkloadState::Pending,
            WorkloadState::Fetching,
            WorkloadState::Created,
            WorkloadState::Starting,
            WorkloadState::Running,
            WorkloadState::Healthy,
            WorkloadState::Unhealthy,
            WorkloadState::Restarting,
            WorkloadState::Paused,
            WorkloadState::Completed,
            WorkloadState::Exited,
            WorkloadState::Dead,
            WorkloadState::Missing,
        ],
    );
    check(
        "change_outcomes",
        &vec![
            ChangeOutcome::Succeeded,
            ChangeOutcome::Reverted,
            ChangeOutcome::Failed,
            ChangeOutcome::Refused,
            ChangeOutcome::Superseded,
        ],
    );
}

#[test]
fn the_envelope_keeps_its_bytes() {
    let key = key();
    let seal = Seal {
        fleet: FleetId::from_bytes([1; 10]),
        sender: NodeId::from_bytes([2; 10]),
        key: &key,
    };
    let announce = Announce {
        incarnation: 2,
        now: NOW,
    };
    let bytes = seal.seal(77, NOW, &announce);
    let file = golden().join("envelope.bin");
    if std::env::var_os("FLOTILLA_BLESS").is_some() && !file.exists() {
        fs::write(&file, &bytes).unwrap();
    }
    assert_eq!(
        bytes,
        fs::read(&file).unwrap(),
        "the envelope's bytes changed"
    );
    let opened = envelope::open(&bytes, seal.fleet, |_, _| Some(key.public())).unwrap();
    assert_eq!(opened.decode::<Announce>().unwrap(), announce);
}

#[test]
fn an_old_reader_names_what_is_new_to_it() {
    let key = key();
    let seal = Seal {
        fleet: FleetId::from_bytes([1; 10]),
        sender: NodeId::from_bytes([2; 10]),
        key: &key,
    };
    let future = seal.seal_payload(Kind::HELLO, 2, 1, NOW, b"a layout of tomorrow");
    let opened = envelope::open(&future, seal.fleet, |_, _| Some(key.public())).unwrap();
    assert_eq!(
        opened.decode::<Hello>(),
        Err(DecodeError::Version {
            kind: 1,
            found: 2,
            known: 1
        })
    );
    let unknown = seal.seal_payload(Kind(999), 1, 2, NOW, b"");
    assert_eq!(
        envelope::peek(&unknown).unwrap().kind,
        Kind(999),
        "the header is read without knowing the kind"
    );
    // A variant appended to an enum by a newer writer fails as malformed, and only
    // that message does.
    let mut appended = message::encode(&Down {
        nonce: nonce(),
        number: 1,
        body: DownBody::EndLive,
    });
    *appended.last_mut().unwrap() = 120;
    assert!(matches!(
        message::decode::<Down>(Down::KIND, Down::VERSION, &appended),
        Err(DecodeError::Malformed { .. })
    ));
}

#[test]
fn every_golden_file_is_checked_by_a_test() {
    let this = include_str!("golden.rs");
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "postcard") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            this.contains(&format!("\"{name}\"")),
            "{name} is released, and no test reads it"
        );
    }
}
