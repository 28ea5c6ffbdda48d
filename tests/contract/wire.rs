//! The bytes of every message, frozen.
//!
//! `protocol/golden/v1` holds each message as it was first released, with a JSON
//! rendering beside it. Today's code must still read every file and write the
//! same bytes. A message that changes gets a new version and a new file; a file is
//! never rewritten. `FLOTILLA_BLESS=1` writes files that are missing, and only
//! those.

use std::fs;
use std::path::PathBuf;

use protocol::command::{
    Action, Command, LogSource, Outcome, OutputStream, Progress, ProgressStep, Receipt, ServiceVerb,
};
use protocol::down::{Down, DownBody};
use protocol::envelope::{self, Seal};
use protocol::fetch::{FetchArchive, FetchFile};
use protocol::id::{CommandId, FleetId, NodeId, StoreId};
use protocol::join::Renew;
use protocol::key::SigningKey;
use protocol::label::Labels;
use protocol::message::{self, DecodeError, Kind, Message};
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
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/golden/v1")
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
        check(
            name,
            &Down {
                nonce: nonce(),
                number: 9,
                body,
            },
        );
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
}

#[test]
fn the_trust_set_keeps_its_bytes_and_its_signature() {
    check("trust", &signed_trust());
    let set = signed_trust()
        .verify(&key().public(), FleetId::from_bytes([1; 10]), 2)
        .unwrap();
    check("trust_set", &set);
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
    let this =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("contract/wire.rs"))
            .unwrap();
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
